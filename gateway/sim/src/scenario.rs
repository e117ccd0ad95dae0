//! What is drawn from the seed before anything runs: the system's shape and settings, and the load.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use gateway::settings::Settings;
use kvs::session::{Account, Accounts};
use kvs_proto::auth::Secret;
use loadgen::content::{GeneratorConfig, SizeMix};
use loadgen::smtp::{Pace, SmtpConfig};
use tcpstack::{SimOptions, SimPath, SimWire};

use crate::gateways::SMTP;
use crate::sabotage::Sabotage;
use crate::transport::Links;

/// What a run is asked to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Mails that the senders offer, all together.
    pub mails: u64,
    /// What goes wrong.
    pub faults: FaultLevel,
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// What links run over.
    pub links: Links,
}

impl Options {
    /// A run of that seed without sabotage, with links over streams.
    pub fn new(seed: u64, mails: u64, faults: FaultLevel) -> Options {
        Options { seed, mails, faults, sabotage: None, links: Links::Streams }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultLevel {
    /// Nothing.
    None,
    /// The gateway and a server crash and return.
    Crashes,
    /// Only paths between the gateway and the servers fail, on one network segment at a time. There
    /// are two.
    Paths,
    /// Processes are stopped for a while, and another gateway of the same name takes the queues over.
    TakeOvers,
    /// The gateway and a server crash, and connections, paths and the next hop fail, beside all that the
    /// other levels have.
    All,
}

impl FaultLevel {
    /// Whether another gateway may take the queues over.
    pub fn has_take_overs(self) -> bool {
        matches!(self, FaultLevel::TakeOvers | FaultLevel::All)
    }

    /// As the command line says it.
    pub fn name(self) -> &'static str {
        match self {
            FaultLevel::None => "none",
            FaultLevel::Crashes => "crashes",
            FaultLevel::Paths => "paths",
            FaultLevel::TakeOvers => "take-overs",
            FaultLevel::All => "all",
        }
    }
}

/// The system's shape and settings, and the load.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The gateway's configuration.
    pub settings: Settings,
    /// How the network behaves.
    pub network: SimOptions,
    /// The senders.
    pub senders: Vec<SmtpConfig>,
    /// How many of [`SERVERS`] there are.
    pub servers: usize,
    /// How long the senders take to offer their mail.
    pub load_time: Duration,
    /// Mails reach the next hop over one connection for each queue.
    pub one_connection: bool,
    /// The servers are reached by two network segments.
    pub has_standby: bool,
    /// What each server may hold.
    pub server: ServerRoom,
    /// The longest that one turn of a process takes.
    pub turn_cost_max: Duration,
    /// Connections to the servers and the next hop, and what a server may hold, in words.
    pub summary: String,
}

impl Scenario {
    /// Draws one.
    pub fn draw(options: &Options, rng: &mut Rng) -> Scenario {
        let queues = rng.u32(1..=4);
        let one_connection = options.sabotage.is_some() || rng.bool();
        let mut of_reports = Rng::with_seed(!options.seed);
        // Sabotage of copies is of a pair.
        let spare = options.sabotage.is_none() && Rng::with_seed(options.seed ^ SPARES).bool();
        let mut of_paths = Rng::with_seed(options.seed ^ PATHS);
        let mut of_commits = Rng::with_seed(options.seed ^ COMMITS);
        let mut of_leases = Rng::with_seed(options.seed ^ LEASES);
        let has_standby = of_paths.bool() && options.sabotage.is_none();
        let has_standby = has_standby || options.faults == FaultLevel::Paths;
        let shape = Shape {
            servers: if spare { 3 } else { 2 },
            queues,
            connections: if one_connection { 1 } else { rng.u32(2..=4) },
            min_sync: rng.u32(1..=2),
            // Sabotage happens between workers, so there must be two.
            split: if options.sabotage.is_some() { 1 } else { rng.u32(0..=2) },
            pipeline: rng.bool(),
            prefetch: *rng.choice([4, 16, 64].iter()).expect("not empty"),
            reports_apart: of_reports.bool(),
            warn_after_ms: *of_reports.choice([0, 700, 3000].iter()).expect("not empty"),
            expiry_s: *of_reports.choice([5, 10_000, 10_000].iter()).expect("not empty"),
            has_standby,
            path_deadline_ms: *of_paths.choice([150, 300].iter()).expect("not empty"),
            lease_ms: match options.sabotage {
                Some(Sabotage::EternalLease) => 1_000_000,
                // The bounds on pauses are for the usual one.
                _ if options.faults == FaultLevel::Paths => 1000,
                _ => *of_leases.choice([400, 1000, 2000].iter()).expect("not empty"),
            },
            hedge_after_ms: *of_paths.choice([0, 2, 10, 30].iter()).expect("not empty"),
            commit_ms: *of_commits.choice([200, 1000, 5000].iter()).expect("not empty"),
            memory_mib: 16,
            messages_max: 20_000,
        };
        // Sometimes small enough for the load to be refused for want of room.
        let mut of_room = Rng::with_seed(options.seed ^ ROOM);
        let is_tight = options.sabotage.is_none()
            && options.faults == FaultLevel::All
            && of_room.u8(0..3) == 0;
        let server = ServerRoom {
            memory_bytes: if is_tight { 12 << 20 } else { 64 << 20 },
            messages_max: if is_tight { 2000 } else { 200_000 },
        };
        let shape = Shape {
            memory_mib: if is_tight { of_room.u32(2..=4) } else { 16 },
            messages_max: if is_tight { of_room.u32(2..=40) } else { 20_000 },
            ..shape
        };
        let text = configuration(&shape);
        let settings = Settings::parse(Path::new("sim.toml"), &text)
            .unwrap_or_else(|mistakes| panic!("the simulator's configuration: {mistakes}"));
        let load_time = Duration::from_millis(rng.u64(8_000..=16_000));
        let senders = senders(options, queues, load_time, rng);
        let sessions = senders.iter().map(|it| it.sessions).collect::<Vec<_>>();
        let summary = format!("{shape:?} sessions={sessions:?} load_time={load_time:?}");
        let delay = Duration::from_micros(rng.u64(10..=300));
        let network = SimOptions {
            path: SimPath { delay, jitter: Duration::from_micros(rng.u64(1..=400)) },
            window_bytes: *rng.choice([16 << 10, 64 << 10, 256 << 10].iter()).expect("not empty"),
            connect_timeout: Duration::from_secs(2),
            user_timeout: Some(Duration::from_secs(10)),
            wire: wire(options.seed),
            ..SimOptions::default()
        };
        let turn_cost_max = Duration::from_micros(rng.u64(20..=200));
        let servers = shape.servers;
        Scenario {
            settings,
            network,
            senders,
            servers,
            load_time,
            one_connection,
            has_standby,
            server,
            turn_cost_max,
            summary,
        }
    }

    /// The queue, by place, that an address's mail goes to.
    pub fn queue_of(&self, address: &str) -> Option<usize> {
        let (_, domain) = address.rsplit_once('@')?;
        let named = |name: &str| self.settings.queues.iter().position(|it| *it.name == *name);
        let reports = (domain == REPORTS_DOMAIN).then(|| named(REPORTS_QUEUE).unwrap_or(0));
        named(domain).or(reports)
    }

    /// What the queues are called at the servers, by place.
    pub fn copy_names(&self) -> Vec<String> {
        self.settings.queues.iter().map(|queue| format!("gw/{}", queue.name)).collect()
    }

    /// Who may connect to the servers.
    pub fn accounts() -> Accounts {
        let secret = Secret::new(SECRET.as_bytes());
        Accounts::new(vec![Account { name: "gw".into(), secret, queues: "gw/".into() }])
    }
}

/// What a server may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerRoom {
    /// Bytes for messages.
    pub memory_bytes: usize,
    /// Messages.
    pub messages_max: usize,
}

/// What of the configuration varies.
#[derive(Debug)]
struct Shape {
    /// Backup queue servers; the third is a spare.
    servers: usize,
    queues: u32,
    connections: u32,
    min_sync: u32,
    /// Threads for queues and links beside the one for SMTP; 0: all on one thread.
    split: u32,
    pipeline: bool,
    prefetch: u32,
    /// Reports to senders have a queue of their own; else they share the first one.
    reports_apart: bool,
    /// After so long a sender is told that its mail is delayed; 0: never.
    warn_after_ms: u64,
    /// Mail is given up after so long, if its reports have a queue of their own.
    expiry_s: u64,
    has_standby: bool,
    path_deadline_ms: u64,
    hedge_after_ms: u64,
    /// How long a client waits for its mail to be committed, before that is withdrawn.
    commit_ms: u64,
    /// How long a server's answer lets the gateway act.
    lease_ms: u64,
    /// The gateway's budget.
    memory_mib: u32,
    /// Of each queue.
    messages_max: u32,
}

/// What becomes of packets: in each run something else, from nothing to more than a link of ours ever bears.
fn wire(seed: u64) -> SimWire {
    let mut rng = Rng::with_seed(seed ^ WIRES);
    let mut chance =
        |most: u32| *rng.choice([0, most / 100, most / 10, most].iter()).expect("some");
    let (loss_ppm, duplicate_ppm) = (chance(20_000), chance(50_000));
    let (reorder_ppm, corrupt_ppm) = (chance(50_000), chance(20_000));
    let packet_bytes_max = *rng.choice([600, 1500, 1500, 9000].iter()).expect("some");
    let ring_packets = *rng.choice([64, 256, 1024].iter()).expect("some");
    SimWire { packet_bytes_max, ring_packets, loss_ppm, duplicate_ppm, reorder_ppm, corrupt_ppm }
}

fn senders(options: &Options, queues: u32, load_time: Duration, rng: &mut Rng) -> Vec<SmtpConfig> {
    let domains: Vec<Arc<str>> = (0..queues).map(|it| format!("d{it}.example").into()).collect();
    let count = rng.u32(1..=3);
    // What travels in parts goes by one path, however slow that is: the bounds on pauses that hold
    // while only paths fail are for the rest.
    let has_large = rng.u8(0..3) == 0 && options.faults != FaultLevel::Paths;
    let mix = if has_large { "64:1k,33:8k,2:90k,1:300k" } else { "70:1k,30:8k" };
    let mut senders = Vec::new();
    for run in 1..=count {
        let mails = share(options.mails, u64::from(run - 1), u64::from(count));
        let seconds = load_time.as_secs_f64();
        let rate = f64::from(u32::try_from(mails).unwrap_or(u32::MAX).max(1)) / seconds;
        let pipelining = rng.bool();
        senders.push(SmtpConfig {
            // Where nobody is, the next one is asked.
            to: if options.faults.has_take_overs() { SMTP.to_vec() } else { vec![GATEWAY_SMTP] },
            mail: GeneratorConfig {
                run,
                seed: rng.u64(..),
                sizes: SizeMix::from_str(mix).expect("a mix"),
                domains: domains.clone(),
                // Sabotage picks mails that have one queue, so that one fault makes one problem.
                recipients_per_mail: if options.sabotage.is_some() { 1 } else { rng.u16(1..=3) },
                ..GeneratorConfig::default()
            },
            pace: Pace { rate: Some(rate), total: Some(mails), duration: None },
            sessions: rng.usize(1..=24),
            mails_per_session: rng.bool().then(|| rng.u32(1..=50)),
            pipelining,
            ahead: pipelining && rng.bool(),
            answer_timeout: Duration::from_secs(30),
            backoff: (Duration::from_millis(50), Duration::from_secs(1)),
            give_up: Duration::from_secs(100_000),
            unix_origin_us: UNIX_ORIGIN_MS * 1000,
            ..SmtpConfig::default()
        });
    }
    senders
}

/// Part `place` of `total`, in `count` parts that differ by at most one.
fn share(total: u64, place: u64, count: u64) -> u64 {
    total / count + u64::from(place < total % count)
}

fn configuration(shape: &Shape) -> String {
    let Shape { queues, connections, min_sync, split, pipeline, prefetch, .. } = *shape;
    let Shape { servers, reports_apart, warn_after_ms, expiry_s, .. } = *shape;
    let names = (0..servers).map(|place| format!("{:?}", server_name(place)));
    let names = names.collect::<Vec<_>>().join(", ");
    let Shape { has_standby, path_deadline_ms, hedge_after_ms, memory_mib, messages_max, .. } =
        *shape;
    let (lease_ms, commit_ms) = (shape.lease_ms, shape.commit_ms);
    let drivers = match split {
        0 => "drivers = \"merged\"\nworkers = 1".to_owned(),
        links => format!("drivers = \"split\"\nlink_workers = {links}\nsmtp_workers = 1"),
    };
    let mut text = format!(
        r#"
name = "gw"
hostname = "gw.example"
listen = ["{GATEWAY_SMTP}"]
register = "register"
account = "gw"
secret = "{SECRET}"
memory = "{memory_mib} MiB"
message_size_max = "1 MiB"
min_sync = {min_sync}

[relay]
networks = ["10.0.0.0/8"]

[threads]
{drivers}

[times]
heart_beat = "200 ms"
lease = "{lease_ms} ms"
link_deadline = "1 s"
path_deadline = "{path_deadline_ms} ms"
hedge_after = "{hedge_after_ms} ms"
isolate_after = "500 ms"
recovery_wait = "3 s"
command = "60 s"
commit = "{commit_ms} ms"
delivery_greeting = "5 s"
delivery_reply = "5 s"
delivery_data_start = "5 s"
delivery_data_block = "5 s"
delivery_data_end = "5 s"
delivery_idle = "5 s"
backoff_min = "100 ms"
backoff_max = "2 s"

[[group]]
name = "pair"
kvs = [{names}]
"#
    );
    for (place, address) in SERVERS.iter().enumerate().take(servers) {
        text.push_str(&format!("\n[[kvs]]\nname = \"kvs{place}\"\naddress = \"{address}\"\n"));
        if has_standby {
            let (standby, local) = (STANDBYS[place], GATEWAY_STANDBY);
            text.push_str(&format!(
                "standby_address = \"{standby}\"\nstandby_local = \"{local}\"\n"
            ));
        }
    }
    for queue in 0..queues + u32::from(reports_apart) {
        // Mail comes from senders of one domain, and reports go there.
        let (name, domains) = match queue {
            0 if !reports_apart => {
                ("d0.example".into(), format!("\"d0.example\", \"{REPORTS_DOMAIN}\""))
            }
            queue if queue == queues => (REPORTS_QUEUE.into(), format!("\"{REPORTS_DOMAIN}\"")),
            queue => (format!("d{queue}.example"), format!("\"d{queue}.example\"")),
        };
        let expiry_s = if reports_apart && queue < queues { expiry_s } else { 10_000 };
        text.push_str(&format!(
            "\n[[queue]]\nname = \"{name}\"\ndomains = [{domains}]\ngroup = \"pair\"\n\
             next_hops = [\"{SINK}\"]\nwarn_after = \"{warn_after_ms} ms\"\n\
             expiry = \"{expiry_s} s\"\n\
             messages_max = {messages_max}\nbytes_max = \"16 MiB\"\nconnections_max = {connections}\n\
             pipeline = {pipeline}\nprefetch = {prefetch}\nretry_first = \"500 ms\"\n\
             retry_max = \"2 s\"\n",
        ));
    }
    text
}

/// Where mail comes from, and reports go.
const REPORTS_DOMAIN: &str = "sender.example";

/// The queue for reports, if they have one of their own.
const REPORTS_QUEUE: &str = "reports";

/// Makes the draw of spare servers differ from the others of its seed.
const SPARES: u64 = 0x5eed_5a3e_0000_0001;

/// That of how long commits are waited for.
const COMMITS: u64 = 0x5eed_c033_1700_0004;

/// That of leases.
const LEASES: u64 = 0x5eed_0e25_1025_0000;

/// That of what becomes of packets.
const WIRES: u64 = 0x5eed_31e5_0000_0003;

/// And that of how much room there is.
const ROOM: u64 = 0x5eed_0400_3000_0000;

/// Where the gateway receives mail.
pub const GATEWAY_SMTP: SocketAddr = address([10, 0, 0, 1], 25);

/// Where the backup queue servers listen.
pub const SERVERS: [SocketAddr; SERVERS_MAX] =
    [address([10, 0, 1, 1], 7400), address([10, 0, 1, 2], 7400), address([10, 0, 1, 3], 7400)];

/// Most backup queue servers of a system.
pub const SERVERS_MAX: usize = 3;

/// Where they listen on the second network segment.
pub const STANDBYS: [SocketAddr; SERVERS_MAX] =
    [address([10, 1, 1, 1], 7400), address([10, 1, 1, 2], 7400), address([10, 1, 1, 3], 7400)];

/// The gateway's address on the second network segment.
pub const GATEWAY_STANDBY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));

/// The gateway's and a server's address on a network segment.
pub fn ends(segment: usize, server: usize) -> [IpAddr; 2] {
    match segment {
        0 => [GATEWAY_SMTP.ip(), SERVERS[server].ip()],
        _ => [GATEWAY_STANDBY, STANDBYS[server].ip()],
    }
}

/// Where the next hop listens.
pub const SINK: SocketAddr = address([10, 0, 2, 1], 25);

/// The name of a server in the gateway's configuration.
pub fn server_name(place: usize) -> String {
    SERVER_NAMES[place].to_owned()
}

/// The names of the servers in the gateway's configuration.
pub const SERVER_NAMES: [&str; SERVERS_MAX] = ["kvs0", "kvs1", "kvs2"];

/// The host of a sender, by its place.
pub fn sender_host(place: usize) -> IpAddr {
    let last = u8::try_from(place + 1).expect("few senders");
    IpAddr::V4(Ipv4Addr::new(10, 0, 3, last))
}

const fn address(octets: [u8; 4], port: u16) -> SocketAddr {
    let [a, b, c, d] = octets;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
}

/// The time of day at the world's beginning, in milliseconds since 1970.
pub const UNIX_ORIGIN_MS: u64 = 1_700_000_000_000;

/// Makes the draws of paths differ from the others of their seed.
pub const PATHS: u64 = 0x5eed_0f2e_4a74_0000;

const SECRET: &str = "a secret that only the simulation knows";

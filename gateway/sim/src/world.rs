//! The world: hosts, the network between them, and time.
//!
//! Time moves from one thing that happens to the next. A process takes a turn when something came
//! in for it or a deadline of its has passed; a turn takes a drawn time, in which things gather.
//! Processes that are due at the same instant take turns in a drawn order.

mod hosts;
mod inflict;
mod servers;
mod step;
mod take_over;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use gateway::settings::Settings;
use kvs::worker::Worker;
use kvs_proto::Incarnation;
use loadgen::ledger::{Bounces, Ledger, Policy};
use loadgen::sink::{Fault as SinkFault, Phase, Sink, SinkConfig};
use loadgen::smtp::SmtpLoad;
use tcpstack::{Instant, SimNetwork, SimTransport};

use self::servers::Operator;
use crate::chronicle::Chronicle;
use crate::gateway_host::GatewayHost;
use crate::gateways::{self, PLACES, Running, SMTP, Sighting};
use crate::plan::{Node, Plan};
use crate::register::SimRegister;
use crate::report::PathCounts;
use crate::sabotage::{Sabotage, Saboteur};
use crate::scenario::{
    FaultLevel, Options, SERVERS, SINK, STANDBYS, Scenario, UNIX_ORIGIN_MS, sender_host,
};
use crate::transport::{HostTransport, LinkOptions};
use crate::watch::PathWatch;

/// All hosts, what connects them, and what goes wrong.
pub struct World {
    /// Its settings are those in force.
    scenario: Scenario,
    /// The settings at the beginning.
    original: Settings,
    rng: Rng,
    network: SimNetwork,
    links: LinkOptions,
    register: SimRegister,
    /// By place.
    gateways: [Option<Running>; PLACES],
    /// By how much the wall clock of each place has been set, in milliseconds.
    clock_steps_ms: [i64; PLACES],
    /// Where the gateway that ended last ran.
    last_place: usize,
    /// What was seen of gateways since that was last asked for.
    sightings: Vec<Sighting>,
    /// What the queues are called at the servers.
    copy_names: Vec<String>,
    /// The queues whose bounds were others for a while.
    reloaded: BTreeSet<usize>,
    operator: Operator,
    /// While the gateway is down.
    saboteur: Option<Saboteur>,
    servers: Vec<Option<Server>>,
    sink: Sink<SimTransport>,
    senders: Vec<SmtpLoad<SimTransport>>,
    ledger: Rc<RefCell<Ledger>>,
    plan: Plan,
    /// How long after a gateway's death the next hop may still get what it had sent.
    in_flight_time_max: Duration,
    /// The gateway and a server are to die when a server is about to be dropped from a record.
    ambush: bool,
    /// The turn that a process is in takes until then.
    busy: BTreeMap<Process, Instant>,
    /// Nodes that are slow: how long a turn takes at most, and until when.
    slow_nodes: Vec<(Node, Duration, Instant)>,
    /// Nodes whose process is stopped, and until when.
    paused_nodes: Vec<(Node, Instant)>,
    fault_counts: BTreeMap<&'static str, u64>,
    chronicle: Chronicle,
    fatal: Option<String>,
    turns: u64,
    faults: FaultLevel,
    paths: PathWatch,
}

/// A running backup queue server.
pub struct Server {
    /// Its one worker.
    pub worker: Worker<HostTransport>,
    /// Which life it is.
    pub incarnation: Incarnation,
}

/// Something that takes turns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Process {
    /// By place, a worker.
    Gateway(usize, usize),
    Server(usize),
    Sink,
    Sender(usize),
}

impl World {
    /// A world in which everything has just been started.
    ///
    /// # Panics
    /// If the scenario's addresses collide.
    pub fn new(options: &Options, chronicle: Chronicle) -> World {
        let mut rng = Rng::with_seed(options.seed);
        let scenario = Scenario::draw(options, &mut rng);
        let network = SimNetwork::new(rng.u64(..), scenario.network.clone());
        let links = LinkOptions { links: options.links, network: scenario.network.clone() };
        network.advance(BEGIN);
        chronicle.set_now(BEGIN);
        chronicle.note(&scenario.summary);
        let plan = Plan::draw(options, BEGIN, &scenario, &mut rng);
        if scenario.has_standby {
            for (address, standby) in SERVERS.iter().zip(STANDBYS).take(scenario.servers) {
                network.host_with(&[address.ip(), standby.ip()]);
            }
        }
        for (place, smtp) in SMTP.iter().enumerate() {
            network.host_with(&gateways::addresses(place, scenario.has_standby));
            network.tap(smtp.ip(), smtp.port());
        }
        let ledger = Rc::new(RefCell::new(Ledger::new(policy(options, &scenario))));
        let config = SinkConfig {
            listen: vec![SINK],
            seed: rng.u64(..),
            faults: plan.sink,
            unix_origin_us: UNIX_ORIGIN_MS * 1000,
            ..SinkConfig::default()
        };
        let sink = Sink::open(network.host(SINK.ip()), config, BEGIN, Box::new(ledger.clone()));
        let senders = scenario.senders.iter().enumerate().map(|(place, config)| {
            let transport = network.host(sender_host(place));
            SmtpLoad::new(transport, config.clone(), BEGIN, Box::new(ledger.clone()))
        });
        let sabotage = options.sabotage.filter(|it| it.is_of_parcels());
        let countdown = u32::try_from(options.mails / 3).unwrap_or(u32::MAX);
        let mut world = World {
            senders: senders.collect(),
            saboteur: sabotage.map(|it| Saboteur::new(it, countdown)),
            sink: sink.expect("the sink's address is its own"),
            // By draws of its own, so that other faults stay what they are.
            register: SimRegister::new(options.seed ^ FATES),
            gateways: [None, None],
            clock_steps_ms: [0; PLACES],
            last_place: 0,
            sightings: Vec::new(),
            copy_names: scenario.copy_names(),
            reloaded: BTreeSet::new(),
            operator: Operator::default(),
            servers: std::iter::repeat_with(|| None).take(scenario.servers).collect(),
            busy: BTreeMap::new(),
            // Only then are there paths that are slow for a while.
            in_flight_time_max: match options.faults {
                FaultLevel::All => LATE,
                FaultLevel::None
                | FaultLevel::Crashes
                | FaultLevel::Paths
                | FaultLevel::TakeOvers => Duration::ZERO,
            },
            ambush: false,
            slow_nodes: Vec::new(),
            paused_nodes: Vec::new(),
            fault_counts: BTreeMap::new(),
            fatal: None,
            turns: 0,
            faults: options.faults,
            paths: PathWatch::default(),
            original: scenario.settings.clone(),
            scenario,
            rng,
            network,
            links,
            ledger,
            plan,
            chronicle,
        };
        for server in 0..world.servers.len() {
            world.start_server(server);
        }
        if options.sabotage == Some(Sabotage::EternalLease) {
            world.register.belittle_leases(1000);
        }
        world.start_gateway(0);
        world
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.network.now()
    }

    /// The scenario.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The faults to come.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What a queue, by its place, is called at the servers.
    pub fn copy_name(&self, queue: usize) -> &str {
        &self.copy_names[queue]
    }

    /// Whether a queue, by its place, ever had other bounds than at the beginning.
    pub fn was_reloaded(&self, queue: usize) -> bool {
        self.reloaded.contains(&queue)
    }

    /// The gateway, if one is up: of two the one that was started last.
    pub fn gateway(&self) -> Option<&GatewayHost> {
        self.newest().map(|it| &it.host)
    }

    /// The gateway that was started last of those that are up.
    fn newest(&self) -> Option<&Running> {
        self.gateways.iter().flatten().max_by_key(|it| it.life)
    }

    /// The gateways that are up.
    pub fn gateways(&self) -> impl Iterator<Item = &Running> {
        self.gateways.iter().flatten()
    }

    /// The gateway at a place, if it is up.
    pub fn gateway_at(&self, place: usize) -> Option<&Running> {
        self.gateways[place].as_ref()
    }

    /// Whether a node's process takes turns.
    pub fn is_awake(&self, node: Node) -> bool {
        self.paused_until(node).is_none()
    }

    /// The time of day at a place, in milliseconds since 1970.
    fn unix_ms_at(&self, place: usize) -> u64 {
        unix_ms(self.now()).saturating_add_signed(self.clock_steps_ms[place])
    }

    /// What was seen on the SMTP connections of gateways since this was last asked.
    pub fn take_sightings(&mut self) -> Vec<Sighting> {
        std::mem::take(&mut self.sightings)
    }

    /// A server, if it is up.
    pub fn server(&self, server: usize) -> Option<&Server> {
        self.servers.get(server)?.as_ref()
    }

    /// The register.
    pub fn register(&self) -> &SimRegister {
        &self.register
    }

    /// The network.
    pub fn network(&self) -> &SimNetwork {
        &self.network
    }

    /// Both ends' accounts.
    pub fn ledger(&self) -> &Rc<RefCell<Ledger>> {
        &self.ledger
    }

    /// Faults that were inflicted, by kind.
    pub fn fault_counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.fault_counts
    }

    /// What the next hop did wrong, by step of the transaction.
    pub fn next_hop_faults(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let wrong = self.sink.done_wrong();
        Phase::ALL.into_iter().map(|phase| {
            let count = SinkFault::ALL.into_iter().map(|fault| wrong.of(phase, fault)).sum();
            (name_of_phase(phase), count)
        })
    }

    /// Turns taken by all processes.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// What goes wrong.
    pub fn faults(&self) -> FaultLevel {
        self.faults
    }

    /// What the links with two paths did so far.
    pub fn path_counts(&self) -> PathCounts {
        let present = self.gateways().filter(|it| !it.is_counted).map(|it| &it.host);
        self.paths.counts(present)
    }

    /// When a server was isolated although a path reached it, if that happened.
    pub fn unjustified_isolation(&self) -> Option<Instant> {
        self.paths.unjustified_isolation().filter(|_| self.scenario.has_standby)
    }

    /// Looks what the gateway does about paths.
    pub fn watch_paths(&mut self) {
        let newest = self.gateways.iter().flatten().max_by_key(|it| it.life);
        if let Some(gateway) = newest.filter(|it| !it.is_counted) {
            let queues = self.scenario.settings.queues.len();
            self.paths.watch(self.network.now(), &gateway.host, queues);
        }
    }

    /// Why the gateway stopped by itself, if it did: it has no reason to.
    pub fn fatal(&self) -> Option<&str> {
        self.fatal.as_deref()
    }

    /// Whether every sender has settled all of its mail.
    pub fn is_load_done(&self) -> bool {
        self.senders.iter().all(|sender| sender.is_done(self.now()))
    }

    /// Ends the senders' accounts; mails that they never settled.
    pub fn finish_load(&mut self) -> u64 {
        let now = self.now();
        let senders = std::mem::take(&mut self.senders);
        senders.into_iter().map(|sender| sender.finish(now).unresolved).sum()
    }
}

/// What the ledger allows in such a world.
fn policy(options: &Options, scenario: &Scenario) -> Policy {
    // A former gateway's connections are there beside those of its successor.
    let is_strict = scenario.one_connection && !options.faults.has_take_overs();
    Policy {
        displacement_max: is_strict.then_some(0),
        // A fault on a path can keep the deletes of what was delivered from the copies for as long
        // as it lasts.
        bounces: Bounces::Required,
        giving_up_allowed: true,
        restart_window_us: if options.faults.has_take_overs() { 10_000_000 } else { 500_000 },
        ..Policy::default()
    }
}

/// The time of day at `now`, in milliseconds since 1970.
pub fn unix_ms(now: Instant) -> u64 {
    UNIX_ORIGIN_MS + now.as_nanos() / 1_000_000
}

fn name_of_phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Greeting => "next hop fails at greeting",
        Phase::Ehlo => "next hop fails at EHLO",
        Phase::Mail => "next hop fails at MAIL",
        Phase::Rcpt => "next hop fails at RCPT",
        Phase::Data => "next hop fails at DATA",
        Phase::Content => "next hop fails in content",
        Phase::Dot => "next hop fails at final dot",
        Phase::Quit => "next hop fails at QUIT",
    }
}

/// The world begins then: a time before it is never a deadline.
const BEGIN: Instant = Instant::from_nanos(1_000_000_000);

/// Makes the draws of what becomes of the register's calls differ from the others of their seed.
const FATES: u64 = 0x5eed_0ffa_7e50_0000;

/// What was on its way during a fault can arrive so much later.
const LATE: Duration = Duration::from_secs(1);

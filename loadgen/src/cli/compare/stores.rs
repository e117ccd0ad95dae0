//! The contest of the stores.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use loadgen::compare::{Contender, Family, Role};

use super::super::Failure;
use super::client::{Outcome, figure, own_program, run as run_client};
use super::server::{Server, free_address};
use super::{Bench, Measured, Scale, missing, run_of};

/// What is run: each of these stores under each of these conditions.
pub(super) struct Plan {
    stores: Vec<Store>,
    sizes: &'static [&'static str],
    depths: &'static [usize],
    seconds: f64,
}

/// One store.
struct Store {
    name: &'static str,
    kind: Kind,
}

enum Kind {
    /// Our KVS, with the time for which it spins when it sleeps otherwise.
    Ours {
        spin: &'static str,
    },
    /// Our null server.
    Null,
    /// Somebody else's.
    Memcached {
        program: PathBuf,
        dialect: &'static str,
    },
    Redis {
        program: PathBuf,
        dialect: &'static str,
        replicas: usize,
    },
}

/// Whether processes sleep when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Sleeping,
    Awake,
}

/// What a run takes besides its time: programs that start and end.
const OVERHEAD_S: f64 = 0.3;
/// What replicas take to be in step.
const REPLICAS_S: f64 = 2.0;

/// The KVS' default on a core of its own, never, and long enough never to sleep.
const SPIN_DEFAULT: &str = "50 us";
const SPIN_NEVER: &str = "0 us";
const SPIN_ALWAYS: &str = "1 h";

const OURS_SETUP: &str = "one worker; sleeping: 50 µs after its last work (its default on a core of its own); awake: spins";

pub(super) fn plan(bench: &mut Bench<'_>) -> Plan {
    let stores = stores(bench);
    let (sizes, depths, seconds): (&[&str], &[usize], f64) = match bench.options.scale {
        Scale::Smallest => (&["1k"], &[1, 16], 0.2),
        Scale::Quick => (&["400", "1k", "4k", "10k"], &[1, 128, 1024], 0.4),
        Scale::Whole => (&["400", "1k", "2k", "4k", "10k", "20k"], &[1, 16, 128, 1024], 1.0),
    };
    let plan = Plan { stores, sizes, depths, seconds };
    for waiting in [Waiting::Sleeping, Waiting::Awake] {
        for (store, _, _) in plan.contests(waiting) {
            let replicas = if store.replicas() > 0 { REPLICAS_S } else { 0.0 };
            bench.estimate_s += f64::from(bench.rounds) * (seconds + OVERHEAD_S + replicas);
        }
    }
    plan
}

/// Those that are there; the others are named.
fn stores(bench: &mut Bench<'_>) -> Vec<Store> {
    let memcached = bench.program("memcached", "memcached");
    let redis = bench.program("redis", "redis-server");
    let ours = bench.our_program("kvs").ok().filter(|path| path.is_file());
    let mut found = Vec::new();
    let mut take = |name, role, setup: &str, kind: Result<(Kind, String), &str>| {
        if !bench.options.store.is_empty()
            && !bench.options.store.iter().any(|wanted| wanted == name)
        {
            return;
        }
        match kind {
            Ok((kind, version)) => {
                found.push(Store { name, kind });
                bench.comparison.contenders.push(Contender {
                    family: Family::Kvs,
                    name: name.into(),
                    role,
                    version,
                    setup: setup.into(),
                    missing: None,
                });
            }
            Err(why) => {
                let contender = missing(Family::Kvs, name, role, why.into());
                bench.comparison.contenders.push(contender);
            }
        }
    };
    let our = |spin| {
        let path = ours.as_ref().ok_or("the program kvs is not there")?;
        Ok((Kind::Ours { spin }, version(path, "--version")))
    };
    take("Hikyaku KVS", Role::Ours, OURS_SETUP, our(SPIN_DEFAULT));
    take("Hikyaku KVS, never spins", Role::Aside, "one worker; it sleeps at once", our(SPIN_NEVER));
    for (name, dialect, setup) in [
        ("memcached", "memcached", "-t 1 -R 10000; ms and md, each answered"),
        (
            "memcached, quiet",
            "memcached-quiet",
            "-t 1 -R 10000; ms and md quiet, one mn behind a quarter of the depth",
        ),
    ] {
        let kind = memcached.clone().ok_or("memcached is not installed").map(|program| {
            let version = version(&program, "-V");
            (Kind::Memcached { program, dialect }, version)
        });
        take(name, Role::Peer, setup, kind);
    }
    for (name, role, dialect, replicas, setup) in [
        ("Redis", Role::Peer, "redis", 0, "no snapshots, no log; SET and DEL, each answered"),
        (
            "Redis, list",
            Role::Aside,
            "redis-list",
            0,
            "RPUSH of many and LTRIM: one answer for a quarter of the depth",
        ),
        (
            "Redis, three copies",
            Role::Aside,
            "redis-replicated",
            2,
            "two replicas on the same core; SET, and WAIT 2 behind a quarter of the depth; DEL",
        ),
    ] {
        let kind = redis.clone().ok_or("redis-server is not installed").map(|program| {
            let version = version(&program, "--version");
            (Kind::Redis { program, dialect, replicas }, version)
        });
        take(name, role, setup, kind);
    }
    let null = own_program().map_err(|_| "this program cannot be found");
    let null = null.map(|path| (Kind::Null, version(&path, "--version")));
    take("null server", Role::Ceiling, "acknowledges and forgets; waits as ours", null);
    found
}

/// What a program says of its version, in one line.
pub(super) fn version(program: &Path, option: &str) -> String {
    let said = Command::new(program).arg(option).output().map(|output| output.stdout);
    let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
    let line = said.lines().next().unwrap_or_default();
    // Redis tells more than anybody wants to know.
    line.split(" sha=").next().unwrap_or_default().trim().into()
}

impl Plan {
    /// Who runs under which conditions, in their order: the contenders take turns.
    fn contests(&self, waiting: Waiting) -> Vec<(&Store, &'static str, usize)> {
        let mut contests = Vec::new();
        for &size in self.sizes {
            for &depth in self.depths {
                let fits = |store: &&Store| store.fits(waiting, depth, self.depths);
                contests.extend(self.stores.iter().filter(fits).map(|store| (store, size, depth)));
            }
        }
        contests
    }
}

impl Store {
    /// Some are shown only where it matters.
    fn fits(&self, waiting: Waiting, depth: usize, depths: &[usize]) -> bool {
        match self.kind {
            Kind::Ours { spin } => spin != SPIN_NEVER || waiting == Waiting::Sleeping,
            // Three copies: at the greatest depth it does best, and each run takes long to begin.
            Kind::Redis { replicas: 1.., .. } => {
                waiting == Waiting::Sleeping && depths.last() == Some(&depth)
            }
            _ => true,
        }
    }

    fn replicas(&self) -> usize {
        if let Kind::Redis { replicas, .. } = self.kind { replicas } else { 0 }
    }
}

pub(super) fn run(bench: &mut Bench<'_>, plan: &Plan) {
    for round in 1..=bench.rounds {
        for waiting in [Waiting::Sleeping, Waiting::Awake] {
            for (store, size, depth) in plan.contests(waiting) {
                if bench.is_stopped() {
                    return;
                }
                bench.make_runs(|bench| {
                    let measured = measure(bench, store, waiting, size, depth, plan.seconds);
                    let conditions = conditions(waiting, size, depth);
                    vec![run_of(Family::Kvs, store.name, conditions, round, measured)]
                });
            }
        }
    }
}

fn conditions(waiting: Waiting, size: &str, depth: usize) -> BTreeMap<String, String> {
    let waiting = if waiting == Waiting::Awake { "awake" } else { "sleeping" };
    let depth = depth.to_string();
    let conditions = [("waiting", waiting), ("size", size), ("depth", &depth)];
    conditions.map(|(name, value)| (name.into(), value.into())).into()
}

fn measure(
    bench: &Bench<'_>,
    store: &Store,
    waiting: Waiting,
    size: &str,
    depth: usize,
    seconds: f64,
) -> Result<Measured, Failure> {
    let core = bench.options.cores.1.to_string();
    let awake = waiting == Waiting::Awake;
    let (servers, address) = start(bench, store, awake, MEMORY)?;
    let spins = matches!(store.kind, Kind::Ours { .. } | Kind::Null);
    let _keeper = (awake && !spins).then(|| keep_awake(bench, &core)).transpose()?;
    let (section, mut words) = match store.kind {
        Kind::Ours { .. } => ("kvs", vec!["kvs".to_string(), "--secret".into(), SECRET.into()]),
        Kind::Null => ("kvs", vec!["kvs".to_string(), "--secret".into(), SECRET.into()]),
        Kind::Memcached { dialect, .. } | Kind::Redis { dialect, .. } => {
            let grouped = !matches!(dialect, "memcached" | "redis");
            let batch = if grouped { (depth / 4).max(1) } else { 1 };
            let batch = ["--batch".into(), batch.to_string()];
            let mut words = vec!["store".to_string(), "--dialect".into(), dialect.into()];
            words.extend(batch);
            ("store", words)
        }
    };
    let (to, depth) = (address.to_string(), depth.to_string());
    let (seconds_word, cpu) = (seconds.to_string(), format!("server={}", servers[0].pid()));
    let options = [
        "--to",
        &to,
        "--size",
        size,
        "--depth",
        &depth,
        "--duration",
        &seconds_word,
        "--cpu-of",
        &cpu,
    ];
    words.extend(options.map(String::from));
    words.extend(awake.then(|| "--spin".to_string()));
    let client_core = bench.options.cores.0.to_string();
    let limit = seconds * 3.0 + 20.0;
    let Outcome { report, command } =
        run_client(&words, &client_core, &bench.scratch, limit, &bench.stop)?;
    let figures = [
        ("rate", &[section, "rate"][..]),
        ("store_mean_us", &[section, "store", "mean_us"]),
        ("store_p50_us", &[section, "store", "p50_us"]),
        ("store_p99_us", &[section, "store", "p99_us"]),
        ("store_p999_us", &[section, "store", "p999_us"]),
        ("cpu_server_us", &["cpu", "server_us_per_message"]),
        ("cpu_client_us", &["cpu", "loadgen_us_per_message"]),
    ];
    let figures = figures.map(|(name, path)| Ok((name.to_string(), figure(&report, path)?)));
    Ok((figures.into_iter().collect::<Result<_, Failure>>()?, command))
}

/// Of our KVS, and of memcached in MiB: far more than is ever held.
const MEMORY: &str = "512";
pub(super) const SECRET: &str = "only-for-this-measurement-1";

/// Starts the store, until it serves.
fn start(
    bench: &Bench<'_>,
    store: &Store,
    awake: bool,
    memory_mib: &str,
) -> Result<(Vec<Server>, SocketAddr), Failure> {
    let core = bench.options.cores.1.to_string();
    match &store.kind {
        Kind::Ours { spin } => {
            let spin = if awake { SPIN_ALWAYS } else { spin };
            let (server, address) = start_kvs(bench, spin, memory_mib)?;
            Ok((vec![server], address))
        }
        Kind::Null => {
            let address = free_address()?;
            let mut command =
                words(&own_program()?, &["null-server", "--secret", SECRET, "--listen"]);
            command.push(address.to_string());
            command.extend(awake.then(|| "--spin".to_string()));
            let mut server = Server::start(&command, &core, bench.scratch.join("null.log"))?;
            server.await_port(address, &bench.stop)?;
            Ok((vec![server], address))
        }
        Kind::Memcached { program, .. } => {
            let address = free_address()?;
            let port = address.port().to_string();
            let options =
                ["-l", "127.0.0.1", "-U", "0", "-t", "1", "-R", "10000", "-c", "64", "-p"];
            let mut command = words(program, &options);
            command.extend([port, "-m".into(), memory_mib.into()]);
            // It does not run as root unless it is told to.
            command.extend(["-u".into(), "root".into()]);
            let mut server = Server::start(&command, &core, bench.scratch.join("memcached.log"))?;
            server.await_port(address, &bench.stop)?;
            Ok((vec![server], address))
        }
        Kind::Redis { program, replicas, .. } => start_redis(bench, program, *replicas),
    }
}

/// Our KVS on the server's core.
pub(super) fn start_kvs(
    bench: &Bench<'_>,
    spin: &str,
    memory_mib: &str,
) -> Result<(Server, SocketAddr), Failure> {
    let (address, core) = (free_address()?, bench.options.cores.1);
    let configuration = bench.scratch.join("kvs.toml");
    let text = format!(
        "name = \"a\"\nlisten = [\"{address}\"]\ncores = \"{core}\"\nspin = \"{spin}\"\nmemory = \"{memory_mib} MiB\"\n\
         [[account]]\nname = \"loadgen\"\nsecret = \"{SECRET}\"\nqueues = \"\"\n"
    );
    std::fs::write(&configuration, text)?;
    let mut command = words(&bench.our_program("kvs")?, &["--config"]);
    command.push(configuration.display().to_string());
    let mut server = Server::start(&command, &core.to_string(), bench.scratch.join("kvs.log"))?;
    server.await_port(address, &bench.stop)?;
    Ok((server, address))
}

/// Redis, with so many replicas that are in step; the first is the one to speak to.
pub(super) fn start_redis(
    bench: &Bench<'_>,
    program: &Path,
    replicas: usize,
) -> Result<(Vec<Server>, SocketAddr), Failure> {
    let core = bench.options.cores.1.to_string();
    let mut servers = Vec::new();
    let mut first: Option<SocketAddr> = None;
    for number in 0..=replicas {
        let address = free_address()?;
        let options = [
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let mut command = words(program, &options);
        command.extend(["--port".into(), address.port().to_string()]);
        command.extend(["--dir".into(), bench.scratch.display().to_string()]);
        if let Some(first) = first {
            command.extend(["--replicaof".into(), "127.0.0.1".into(), first.port().to_string()]);
        }
        let log = bench.scratch.join(format!("redis-{number}.log"));
        let mut server = Server::start(&command, &core, log.clone())?;
        server.await_port(address, &bench.stop)?;
        if first.is_some() {
            server.await_what(&bench.stop, "does not get in step with its master", || {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                IN_STEP.iter().any(|words| log.contains(words))
            })?;
        }
        first = first.or(Some(address));
        servers.push(server);
    }
    Ok((servers, first.expect("there is one at least")))
}

/// What a replica says once it has what its master has.
const IN_STEP: [&str; 2] = ["Finished with success", "accepted a Partial Resynchronization"];

/// Keeps a core from halting: it runs only where nobody else wants to.
fn keep_awake(bench: &Bench<'_>, core: &str) -> Result<Server, Failure> {
    let command = ["chrt", "--idle", "0", "sh", "-c", "while :; do :; done"].map(String::from);
    Server::start(&command, core, bench.scratch.join("awake.log"))
}

fn words(program: &Path, options: &[&str]) -> Vec<String> {
    let program = program.display().to_string();
    std::iter::once(program).chain(options.iter().map(|word| (*word).to_string())).collect()
}

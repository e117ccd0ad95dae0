//! The contest of the gateways.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use loadgen::compare::{Contender, Family, Role, Run};
use loadgen::cpu_tree::{cpu_by_program, difference};
use serde_json::Value;

use super::super::Failure;
use super::client::{figure, own_program, run as run_client};
use super::server::{Server, free_address};
use super::{Bench, Measured, Scale, missing, run_of};

/// What is run: each of these relays under each of these workloads, then at these rates.
pub(super) struct Plan {
    relays: Vec<Relay>,
    workloads: Vec<Workload>,
    rates: &'static [u32],
    seconds: f64,
}

/// A relay, or none: the client sends to the sink.
struct Relay {
    name: String,
    command: Option<PathBuf>,
}

#[derive(Clone, Copy)]
struct Workload {
    mix: &'static str,
    sessions: u16,
    /// A connection for each message.
    single: bool,
}

const CEILING: &str = "client to sink";
/// The mix of the latencies, and of the first sight.
const MAIN_MIX: &str = "70:1k,30:10k";
/// Sessions of the open loop.
const OPEN_SESSIONS: u16 = 20;
/// Who accepts, or relays, less than this share of what is offered does not keep up.
const KEPT_UP: f64 = 0.95;
/// Mails before each run, which do not count: processes start, connections are made.
const WARM_UP: u64 = 200;
/// What a run takes besides its time: starting, draining, ending.
const OVERHEAD_S: f64 = 7.0;
/// How long a relay may deliver nothing while mail is left.
const DRAIN_STALL: Duration = Duration::from_secs(30);
/// How long it may take in all.
const DRAIN_MAX: Duration = Duration::from_secs(300);

pub(super) fn plan(bench: &mut Bench<'_>) -> Plan {
    let relays = relays(bench);
    let workload = |mix, sessions, single| Workload { mix, sessions, single };
    let (workloads, rates, seconds): (Vec<Workload>, &[u32], f64) = match bench.options.scale {
        Scale::Smallest => (vec![workload(MAIN_MIX, 10, false)], &[100], 1.0),
        Scale::Quick => {
            let mut workloads: Vec<_> = [1, 10, 100].map(|n| workload(MAIN_MIX, n, false)).into();
            workloads.push(workload(MAIN_MIX, 10, true));
            (workloads, &[300, 3600], 4.0)
        }
        Scale::Whole => {
            let mut workloads = Vec::new();
            for mix in [MAIN_MIX, "100:4k", "100:100k"] {
                workloads.extend([1, 10, 100].map(|sessions| workload(mix, sessions, false)));
            }
            workloads.extend([1, 10, 100].map(|sessions| workload(MAIN_MIX, sessions, true)));
            (workloads, &[100, 300, 600, 1200, 2400, 3600, 5000, 8000], 8.0)
        }
    };
    let runs = (workloads.len() + rates.len() + 1) * relays.len();
    let run_s = seconds + OVERHEAD_S;
    bench.estimate_s += f64::from(bench.rounds) * loadgen::report::f64_of(runs as u64) * run_s;
    Plan { relays, workloads, rates, seconds }
}

/// Those that are there; the others are named.
fn relays(bench: &mut Bench<'_>) -> Vec<Relay> {
    let mut found = Vec::new();
    for (name, command) in bench.options.relays.clone() {
        let role = if name.starts_with("Hikyaku") { Role::Ours } else { Role::Peer };
        match describe(&command) {
            Ok((version, setup)) => {
                bench.comparison.contenders.push(Contender {
                    family: Family::Gateway,
                    name: name.clone(),
                    role,
                    version,
                    setup,
                    missing: None,
                });
                found.push(Relay { name, command: Some(command) });
            }
            Err(why) => {
                let contender = missing(Family::Gateway, &name, role, why.to_string());
                bench.comparison.contenders.push(contender);
            }
        }
    }
    bench.comparison.contenders.push(Contender {
        family: Family::Gateway,
        name: CEILING.into(),
        role: Role::Ceiling,
        version: String::new(),
        setup: "nothing between".into(),
        missing: None,
    });
    found.push(Relay { name: CEILING.into(), command: None });
    found
}

/// Version and setting-up as the relay's command tells them, in two lines; or why it is not there.
fn describe(command: &Path) -> Result<(String, String), Failure> {
    let said = Command::new(command).arg("--describe").output();
    let said = said.map_err(|e| format!("{}: {e}", command.display()))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let mut lines = text.lines().map(|line| line.trim().to_string());
    let version = lines.next().unwrap_or_default();
    if !said.status.success() {
        let why = String::from_utf8_lossy(&said.stderr).into_owned();
        let why = why.lines().next_back().unwrap_or("it does not say why").to_string();
        return Err(why.into());
    }
    Ok((version, lines.next().unwrap_or_default()))
}

pub(super) fn run(bench: &mut Bench<'_>, plan: &Plan) {
    for round in 1..=bench.rounds {
        for workload in &plan.workloads {
            for relay in &plan.relays {
                if bench.is_stopped() {
                    return;
                }
                attempt(bench, relay, round, workload, None, "", plan.seconds);
            }
        }
    }
    let main = Workload { mix: MAIN_MIX, sessions: OPEN_SESSIONS, single: false };
    for round in 1..=bench.rounds {
        // Who does not keep up with a rate is not asked for a higher one.
        let mut keeping_up: Vec<&Relay> = plan.relays.iter().collect();
        for rate in plan.rates {
            let mut next = Vec::new();
            for relay in keeping_up {
                if bench.is_stopped() {
                    return;
                }
                let rate = (f64::from(*rate), rate.to_string());
                if attempt(bench, relay, round, &main, Some(rate.0), &rate.1, plan.seconds) {
                    next.push(relay);
                }
            }
            keeping_up = next;
        }
        for relay in &plan.relays {
            if let (Some(highest), false) = (highest_rate(bench, relay), bench.is_stopped()) {
                let half = Some((highest / 2.0).max(1.0));
                attempt(bench, relay, round, &main, half, "half its highest", plan.seconds);
            }
        }
    }
}

/// The most that it relayed of the main mix, in any number of sessions: the median of its rounds.
fn highest_rate(bench: &Bench<'_>, relay: &Relay) -> Option<f64> {
    let sessions = bench.comparison.values(Family::Gateway, "sessions");
    let medians = sessions.iter().filter_map(|sessions| {
        let conditions = [
            ("loop", "closed"),
            ("mix", MAIN_MIX),
            ("sessions", sessions),
            ("connections", REUSED),
        ];
        bench.comparison.spread(Family::Gateway, &relay.name, &conditions, "relayed_per_s")
    });
    medians.map(|spread| spread.median).reduce(f64::max)
}

/// A run; answers whether the relay keeps up.
fn attempt(
    bench: &mut Bench<'_>,
    relay: &Relay,
    round: u32,
    workload: &Workload,
    rate: Option<f64>,
    rate_name: &str,
    seconds: f64,
) -> bool {
    let runs = bench.make_runs(|bench| {
        let measured = measure(bench, relay, workload, rate, seconds);
        let conditions = conditions(workload, rate.map(|_| rate_name));
        let mut run = run_of(Family::Gateway, &relay.name, conditions, round, measured);
        if rate.is_some() && !keeps_up(&run, rate) {
            // Latencies of a queue that only grows say nothing but how long the run was.
            run.figures.retain(|name, _| !name.starts_with("dot_"));
        }
        vec![run]
    });
    runs.last().is_some_and(|run| keeps_up(run, rate))
}

fn keeps_up(run: &Run, rate: Option<f64>) -> bool {
    let of = |name: &str| run.figures.get(name).copied().unwrap_or(0.0);
    let relayed = of("accepted_per_s").min(of("relayed_per_s"));
    run.failure.is_none() && rate.is_none_or(|rate| relayed >= rate * KEPT_UP)
}

/// What only runs under the same conditions are compared by.
fn conditions(workload: &Workload, rate_name: Option<&str>) -> BTreeMap<String, String> {
    let sessions = workload.sessions.to_string();
    let mut conditions = vec![
        ("loop", if rate_name.is_some() { "open" } else { "closed" }),
        ("mix", workload.mix),
        ("sessions", &sessions),
        ("connections", if workload.single { "one message each" } else { REUSED }),
    ];
    conditions.extend(rate_name.map(|name| ("rate", name)));
    conditions.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// A connection for many messages.
const REUSED: &str = "reused";

fn measure(
    bench: &Bench<'_>,
    relay: &Relay,
    workload: &Workload,
    rate: Option<f64>,
    seconds: f64,
) -> Result<Measured, Failure> {
    let cores = bench.both_cores();
    let directory = Fresh::make(bench.scratch.join("relay"))?;
    let sink_address = free_address()?;
    let mut sink = Sink::start(bench, &cores, sink_address)?;
    let mut server = None;
    let mut to = sink_address;
    if let Some(program) = &relay.command {
        to = free_address()?;
        let words = [program.display().to_string(), to.to_string(), sink_address.to_string()];
        let mut command = words.to_vec();
        command.push(directory.0.display().to_string());
        let mut started = Server::start(&command, &cores, bench.scratch.join("relay.log"))?;
        started.await_port(to, &bench.stop)?;
        server = Some(started);
    }
    let pids = || server.as_ref().map(Server::pid);
    let warm = ["--messages".into(), WARM_UP.to_string()];
    run_client(&smtp(to, workload, &warm), &cores, &bench.scratch, CLIENT_MAX_S, &bench.stop)?;
    sink.await_mails(bench, WARM_UP)?;
    let cpu_before = pids().map(cpu_by_program).unwrap_or_default();
    let sink_before = cpu_of(&sink.server);
    let mut pace = vec!["--duration".to_string(), seconds.to_string()];
    pace.extend(rate.into_iter().flat_map(|rate| ["--rate".to_string(), rate.to_string()]));
    let words = smtp(to, workload, &pace);
    let outcome = run_client(&words, &cores, &bench.scratch, CLIENT_MAX_S, &bench.stop)?;
    let report = outcome.report;
    let accepted = figure(&report, &["smtp", "accepted"])?;
    sink.await_mails(bench, WARM_UP + count_of(&report))?;
    let cpu = difference(&cpu_before, &pids().map(cpu_by_program).unwrap_or_default());
    let sink_cpu = cpu_of(&sink.server).saturating_sub(sink_before);
    let last = sink.finish()?;
    let span = last - figure(&report, &["clock", "begin_s"])?;
    let us = |time: Duration| time.as_secs_f64() * 1e6 / accepted;
    let mut figures = BTreeMap::new();
    let mut put = |name: &str, value: f64| figures.insert(name.to_string(), value);
    put("accepted_per_s", figure(&report, &["smtp", "rate"])?);
    put("relayed_per_s", accepted / span);
    for (name, key) in [
        ("dot_mean_us", "mean_us"),
        ("dot_p50_us", "p50_us"),
        ("dot_p99_us", "p99_us"),
        ("dot_p999_us", "p999_us"),
    ] {
        put(name, figure(&report, &["smtp", "dot_to_250", key])?);
    }
    let client_us = figure(&report, &["cpu", "loadgen_us_per_message"])?;
    let relay_us = us(cpu.values().sum());
    put("cpu_client_us", client_us);
    put("cpu_sink_us", us(sink_cpu));
    put("cpu_total_us", client_us + us(sink_cpu) + relay_us);
    if relay.command.is_some() {
        put("cpu_relay_us", relay_us);
    }
    for (program, time) in &cpu {
        put(&format!("cpu_of_{program}_us"), us(*time));
    }
    Ok((figures, outcome.command))
}

/// The client does not take longer than that, draining of an overloaded open loop included.
const CLIENT_MAX_S: f64 = 240.0;

fn smtp(to: SocketAddr, workload: &Workload, pace: &[String]) -> Vec<String> {
    let (to, sessions) = (to.to_string(), workload.sessions.to_string());
    let single = if workload.single { "1" } else { "0" };
    let words = [
        "smtp",
        "--to",
        &to,
        "--mix",
        workload.mix,
        "--sessions",
        &sessions,
        "--domain",
        "example.net",
        "--messages-per-session",
        single,
    ];
    words.iter().map(|word| (*word).to_string()).chain(pace.iter().cloned()).collect()
}

fn count_of(report: &Value) -> u64 {
    report["smtp"]["accepted"].as_u64().unwrap_or(0)
}

fn cpu_of(server: &Server) -> Duration {
    cpu_by_program(server.pid()).values().sum()
}

/// A directory that is empty at first, and goes in the end.
struct Fresh(PathBuf);

impl Fresh {
    fn make(path: PathBuf) -> Result<Fresh, Failure> {
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir_all(&path)?;
        Ok(Fresh(path))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // The scratch directory goes in the end anyway.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The next hop.
struct Sink {
    server: Server,
    status: PathBuf,
    json: PathBuf,
}

impl Sink {
    fn start(bench: &Bench<'_>, cores: &str, at: SocketAddr) -> Result<Sink, Failure> {
        let (status, json) = (bench.scratch.join("sink.status"), bench.scratch.join("sink.json"));
        let own = own_program()?.display().to_string();
        let files = [status.display().to_string(), json.display().to_string()];
        let at_word = at.to_string();
        let words =
            [&own, "sink", "--listen", &at_word, "--status", &files[0], "--json", &files[1]];
        let words: Vec<String> = words.iter().map(|word| (*word).to_string()).collect();
        let mut server = Server::start(&words, cores, bench.scratch.join("sink.log"))?;
        server.await_port(at, &bench.stop)?;
        Ok(Sink { server, status, json })
    }

    /// Until so many different mails have arrived.
    fn await_mails(&self, bench: &Bench<'_>, wanted: u64) -> Result<(), Failure> {
        let (began, mut best, mut progress) = (Instant::now(), 0, Instant::now());
        loop {
            let arrived = self.arrived();
            if arrived >= wanted {
                return Ok(());
            }
            if arrived > best {
                (best, progress) = (arrived, Instant::now());
            }
            if bench.is_stopped() {
                return Err("stopped by a signal".into());
            }
            let stall =
                if bench.options.scale == Scale::Smallest { DRAIN_STALL / 6 } else { DRAIN_STALL };
            if progress.elapsed() > stall || began.elapsed() > DRAIN_MAX {
                return Err(
                    format!("{} of {wanted} mails have not arrived", wanted - arrived).into()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn arrived(&self) -> u64 {
        let text = std::fs::read_to_string(&self.status).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("distinct = "));
        count.and_then(|digits| digits.trim().parse().ok()).unwrap_or(0)
    }

    /// Ends it, and tells when the last mail arrived. What it received must be as it was sent.
    fn finish(&mut self) -> Result<f64, Failure> {
        self.server.end();
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&self.json)?)?;
        for count in ["altered", "misdelivered", "foreign", "repeated"] {
            let found = figure(&report, &["sink", count])?;
            if found > 0.0 {
                return Err(format!("the sink counts {found} mails as {count}").into());
            }
        }
        figure(&report, &["clock", "last_new_mail_s"])
    }
}

//! The contest of recovery.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use loadgen::compare::{Contender, Family, Role, Run};
use serde_json::Value;

use super::super::Failure;
use super::client::{Outcome, figure, run as run_client};
use super::stores::{SECRET, start_kvs, start_redis, version};
use super::{Bench, Scale, missing, run_of};

/// What is run.
pub(super) struct Plan {
    redis: Option<PathBuf>,
    messages: u64,
    /// Blocks of one size that are read at most.
    rounds: u64,
}

const OURS: &str = "Hikyaku KVS";
const NULL: &str = "null server";
const REDIS: &str = "Redis";
const BLOCKS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
/// Room for all messages and what they need besides.
const MEMORY_MIB: &str = "1024";

pub(super) fn plan(bench: &mut Bench<'_>) -> Plan {
    let (messages, rounds, seconds) = match bench.options.scale {
        Scale::Smallest => (2_000, 200, 2.0),
        Scale::Quick => (500_000, 3_000, 15.0),
        Scale::Whole => (500_000, 20_000, 40.0),
    };
    let redis = bench.program("redis", "redis-server");
    let contender = |name: &str, role, version, setup: &str| Contender {
        family: Family::Recovery,
        name: name.into(),
        role,
        version,
        setup: setup.into(),
        missing: None,
    };
    let ours = bench.our_program("kvs").map(|path| version(&path, "--version")).unwrap_or_default();
    let loadgen =
        bench.our_program("loadgen").map(|path| version(&path, "--version")).unwrap_or_default();
    let redis_contender = match &redis {
        Some(path) => {
            contender(REDIS, Role::Peer, version(path, "--version"), "a list, read by LRANGE")
        }
        None => {
            missing(Family::Recovery, REDIS, Role::Peer, "redis-server is not installed".into())
        }
    };
    bench.comparison.contenders.extend([
        contender(OURS, Role::Ours, ours, "one worker, one queue"),
        redis_contender,
        contender(NULL, Role::Ceiling, loadgen, "makes its messages up; nothing is compared"),
    ]);
    bench.estimate_s += f64::from(bench.rounds) * seconds;
    Plan { redis, messages, rounds }
}

pub(super) fn run(bench: &mut Bench<'_>, plan: &Plan) {
    for round in 1..=bench.rounds {
        for peer in [false, true] {
            if bench.is_stopped() {
                return;
            }
            if !peer || plan.redis.is_some() {
                bench.make_runs(|bench| measure(bench, plan, round, peer));
            }
        }
    }
}

fn measure(bench: &Bench<'_>, plan: &Plan, round: u32, peer: bool) -> Vec<Run> {
    let (result, sections): (_, &[_]) = match &plan.redis {
        Some(program) if peer => (measure_redis(bench, plan, program), &[(REDIS, "recovery")]),
        _ => (measure_ours(bench, plan), &[(OURS, "recovery"), (NULL, "null")]),
    };
    match result {
        Err(why) => vec![failed(sections[0].0, round, why)],
        Ok(Outcome { report, command }) => {
            let blocks = sections.iter().flat_map(|(contender, section)| {
                blocks(plan, round, contender, &report[*section], &command)
            });
            blocks.collect()
        }
    }
}

fn failed(contender: &str, round: u32, why: Failure) -> Run {
    run_of(Family::Recovery, contender, BTreeMap::new(), round, Err(why))
}

/// A run for each block size.
fn blocks(plan: &Plan, round: u32, contender: &str, section: &Value, command: &str) -> Vec<Run> {
    let run = |block: u32| {
        let of = |what: &str| figure(section, &[&format!("block_{block}_{what}")]);
        let (rate, read) = match of("rate").and_then(|rate| Ok((rate, of("messages")?))) {
            Ok(figures) => figures,
            Err(why) => return failed(contender, round, why),
        };
        let whole_s = loadgen::report::f64_of(plan.messages) / rate;
        let figures = [("whole_s", whole_s), ("rate", rate), ("messages_read", read)];
        let conditions = [("messages", plan.messages.to_string()), ("block", block.to_string())];
        let conditions = conditions.map(|(name, value)| (name.into(), value)).into();
        let figures = figures.map(|(name, value)| (name.into(), value)).into();
        let measured = Ok((figures, command.into()));
        run_of(Family::Recovery, contender, conditions, round, measured)
    };
    BLOCKS.map(run).into()
}

fn measure_ours(bench: &Bench<'_>, plan: &Plan) -> Result<Outcome, Failure> {
    let (_server, address) = start_kvs(bench, "50 us", MEMORY_MIB)?;
    let null_core = bench.options.cores.1.to_string();
    let mut words = options(plan, "recovery", &address.to_string());
    words.extend(["--secret", SECRET, "--null", "--null-core", &null_core].map(String::from));
    // The null server is a thread of the client, on the server's core.
    words.extend(["--core".into(), bench.options.cores.0.to_string()]);
    run_client(&words, &bench.both_cores(), &bench.scratch, LIMIT_S, &bench.stop)
}

fn measure_redis(bench: &Bench<'_>, plan: &Plan, program: &Path) -> Result<Outcome, Failure> {
    let (_servers, address) = start_redis(bench, program, 0)?;
    let words = options(plan, "list-recovery", &address.to_string());
    let core = bench.options.cores.0.to_string();
    run_client(&words, &core, &bench.scratch, LIMIT_S, &bench.stop)
}

/// A run that takes longer is stuck.
const LIMIT_S: f64 = 600.0;

fn options(plan: &Plan, command: &str, to: &str) -> Vec<String> {
    let blocks = BLOCKS.map(|block| block.to_string()).join(",");
    let (messages, rounds) = (plan.messages.to_string(), plan.rounds.to_string());
    let words =
        [command, "--to", to, "--messages", &messages, "--rounds", &rounds, "--block", &blocks];
    words.map(String::from).to_vec()
}

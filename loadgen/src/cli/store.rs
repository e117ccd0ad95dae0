//! `loadgen store` and `loadgen list-recovery`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use loadgen::content::parse_size;
use loadgen::host::{CpuMeter, WatchedProcess, host_section};
use loadgen::report::Report;
use loadgen::store::{Dialect, ListRecovery, ListRecoveryConfig, StoreConfig, StoreLoad};
use tcpstack::{Clock, Idle, Instant, KernelOptions, KernelTransport, pin_current_thread};

use super::kvs::{GLANCE_INTERVAL, parse_message_size, parse_positive, spin_time};
use super::{Failure, Stop, conclude};

/// Whom to measure, and how to wait. Shared by `store` and `list-recovery`.
#[derive(Args)]
struct Common {
    /// The server.
    #[arg(long, value_name = "ADDR")]
    to: SocketAddr,
    /// Spin instead of sleeping.
    #[arg(long)]
    spin: bool,
    /// Run on this core.
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,
    /// Report the CPU time of this process too; repeatable.
    #[arg(long = "cpu-of", value_name = "NAME=PID")]
    cpu_of: Vec<WatchedProcess>,
    /// Write the report to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Store and delete over one connection, as `kvs` does it, on a store of others.
#[derive(Args)]
pub(crate) struct StoreOptions {
    #[command(flatten)]
    common: Common,
    /// How it is spoken to: memcached, memcached-quiet (one answer a batch), redis, redis-list (RPUSH of
    /// many and LTRIM), redis-replicated (WAIT for two replicas behind each batch).
    #[arg(long, value_parser = parse_dialect)]
    dialect: Dialect,
    /// Bytes of a message; k is 1024.
    #[arg(long, default_value = "1k", value_parser = parse_size)]
    size: usize,
    /// Requests in flight.
    #[arg(long, default_value_t = 1024, value_parser = parse_positive)]
    depth: usize,
    /// Messages in a batch, where one answer covers it; else gather so many requests for one send,
    /// while others are in flight.
    #[arg(long, default_value_t = 1, value_parser = parse_positive)]
    batch: usize,
    /// Messages to store and delete. Default: as many as 5 seconds take.
    #[arg(long, value_name = "N")]
    messages: Option<u64>,
    /// Go on for so many seconds.
    #[arg(long, value_name = "S")]
    duration: Option<f64>,
    /// Decides the content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Fill a list of Redis, come back by another connection, fetch all by LRANGE in blocks, and compare what came
/// with what was stored: as `recovery`.
#[derive(Args)]
pub(crate) struct ListRecoveryOptions {
    #[command(flatten)]
    common: Common,
    /// Messages to store.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Bytes of each, at least 8; k is 1024.
    #[arg(long, default_value = "1024", value_parser = parse_message_size)]
    size: usize,
    /// Messages in a block; several with commas between, read one after the other.
    #[arg(long, default_value = "1,10,100,1000,10000", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..))]
    block: Vec<u32>,
    /// Read at most so many blocks of each size: small blocks then read only the beginning.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
}

fn parse_dialect(text: &str) -> Result<Dialect, String> {
    let found = Dialect::NAMES.iter().find(|(name, _)| *name == text);
    found.map(|(_, dialect)| *dialect).ok_or_else(|| {
        let names = Dialect::NAMES.map(|(name, _)| name);
        format!("not one of {}", names.join(", "))
    })
}

pub(crate) fn run(options: &StoreOptions) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    let limited = options.messages.is_some() || options.duration.is_some();
    let seconds = options.duration.or((!limited).then_some(5.0));
    let config = StoreConfig {
        to: options.common.to,
        dialect: options.dialect,
        prefix: fresh_name(),
        size_bytes: options.size,
        depth: options.depth,
        batch: options.batch,
        total: options.messages,
        duration: seconds.map(Duration::try_from_secs_f64).transpose()?,
        seed: options.seed,
    };
    let (clock, transport) = prepare(&options.common)?;
    let cpu = CpuMeter::begin(options.common.cpu_of.clone());
    let mut load = StoreLoad::open(transport, clock.now(), config)?;
    drive(&clock, options.common.spin, &stop, |now, sleeps| {
        if let Some(until) = sleeps {
            load.wait(now, Some(until));
            return (false, false);
        }
        (load.turn(now), load.is_done())
    });
    if let Some(why) = load.failure() {
        return Err(why.into());
    }
    let measured = load.measured();
    let mut report = Report::new("store");
    let section = measured.section("store", "store and delete");
    let section = section.count("depth", "requests in flight", options.depth as u64);
    report.add(section.count("size_bytes", "bytes of a message", options.size as u64));
    report.add(cpu.section(measured.messages));
    report.add(host_section());
    conclude(&report, options.common.json.as_deref(), true)
}

pub(crate) fn run_recovery(options: &ListRecoveryOptions) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    let config = ListRecoveryConfig {
        to: options.common.to,
        list: fresh_name(),
        messages: options.messages,
        size_bytes: options.size,
        blocks: options.block.clone(),
        rounds_max: options.rounds,
    };
    let (clock, transport) = prepare(&options.common)?;
    let mut recovery = ListRecovery::open(transport, clock.now(), config)?;
    drive(&clock, options.common.spin, &stop, |now, sleeps| {
        if let Some(until) = sleeps {
            recovery.wait(now, Some(until));
            return (false, false);
        }
        (recovery.turn(now), recovery.is_done())
    });
    if !recovery.is_done() {
        return Err("stopped by a signal".into());
    }
    if let Some(why) = recovery.failure() {
        eprintln!("loadgen: {why}");
    }
    let mut report = Report::new("list-recovery");
    report.add(recovery.section("recovery", "fetched and compared"));
    report.add(host_section());
    conclude(&report, options.common.json.as_deref(), recovery.failure().is_none())
}

fn prepare(common: &Common) -> Result<(Clock, KernelTransport), Failure> {
    if let Some(core) = common.core {
        pin_current_thread(core)?;
    }
    Ok((Clock::new(), KernelTransport::new(KernelOptions::default())?))
}

/// Turns until it is done. `turn` is given a time until which it may sleep, or takes its turn and answers
/// whether there was anything to do, and whether it is done.
fn drive(
    clock: &Clock,
    spin: bool,
    stop: &Stop,
    mut turn: impl FnMut(Instant, Option<Instant>) -> (bool, bool),
) {
    let mut idle = Idle::new(spin_time(spin));
    while !stop.is_raised() {
        let now = clock.now();
        let (worked, done) = turn(now, None);
        if done {
            return;
        }
        if worked {
            idle.handle_work(now);
        } else if idle.should_sleep(now) {
            turn(now, Some(now + GLANCE_INTERVAL));
        }
    }
}

/// What no earlier run has used.
fn fresh_name() -> String {
    format!("loadgen-{:016x}-", fastrand::u64(..))
}

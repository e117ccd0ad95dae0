//! `loadgen kvs`, `loadgen recovery` and `loadgen null-server`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Args;
use kvs_proto::PART_SIZE_BYTES_MAX;
use kvs_proto::auth::Secret;
use loadgen::content::parse_size;
use loadgen::host::{CpuMeter, WatchedProcess, host_section};
use loadgen::kvs::{
    KvsConfig, KvsLoad, KvsMeasured, NullConfig, NullServer, Recovery, RecoveryConfig, Target,
};
use loadgen::report::{Report, Section};
use tcpstack::{Clock, Idle, KernelOptions, KernelTransport, Transport, pin_current_thread};

use super::bypass::{self, BypassOptions};
use super::{Failure, Stop, conclude};

/// Whom to measure, and how to wait. Shared by `kvs` and `recovery`.
#[derive(Args)]
struct Common {
    /// The server's worker. Without it only the null server is measured (see `--null`). `kvs` takes two: then there is a
    /// connection to each, and all figures are of both together.
    #[arg(long, value_name = "ADDR", required_unless_present = "null")]
    to: Vec<SocketAddr>,
    /// The account's name.
    #[arg(long, default_value = "loadgen")]
    account: String,
    /// The account's secret.
    #[arg(long, default_value = "loadgen")]
    secret: String,
    /// Put before the queue's name, for an account whose queues must begin so.
    #[arg(long, default_value = "", value_name = "PREFIX")]
    queue_prefix: String,
    /// Measure a null server too (on a thread of this process), and compare.
    #[arg(long)]
    null: bool,
    /// Spin instead of sleeping, the null server too.
    #[arg(long)]
    spin: bool,
    /// Spin for so long behind the last work, then sleep; the client alone.
    #[arg(long, value_name = "MICROS", conflicts_with = "spin")]
    spin_us: Option<u64>,
    /// Run the client on this core.
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,
    /// Run the null server on this core.
    #[arg(long, value_name = "CORE")]
    null_core: Option<usize>,
    /// Report the CPU time of this process too; repeatable.
    #[arg(long = "cpu-of", value_name = "NAME=PID")]
    cpu_of: Vec<WatchedProcess>,
    /// Write the report to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Store and delete over one connection, each request acknowledged.
#[derive(Args)]
pub(crate) struct KvsOptions {
    #[command(flatten)]
    common: Common,
    /// Bytes of a message; k is 1024.
    #[arg(long, default_value = "1k", value_parser = parse_size)]
    size: usize,
    /// Requests in flight.
    #[arg(long, default_value_t = 1024, value_parser = parse_positive)]
    depth: usize,
    /// Queues, to which messages go in turn.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    queues: u32,
    /// Store so many messages before, which stay: what is deleted is the oldest of its queue. Their memory is
    /// reported, by the server's own counters.
    #[arg(long, default_value_t = 0, value_name = "N", conflicts_with = "null")]
    held: u64,
    /// Of these, so many per cent are not deleted when they are the oldest, but stay for good.
    #[arg(long, default_value_t = 0, value_name = "PERCENT", requires = "held",
          value_parser = clap::value_parser!(u64).range(..=90))]
    stuck: u64,
    /// Gather so many requests for one send, while others are in flight.
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
    #[command(flatten)]
    bypass: BypassOptions,
}

/// Fill a queue, drop the client, come back with a higher epoch, fetch all in blocks, and compare what
/// came with what was stored.
#[derive(Args)]
pub(crate) struct RecoveryOptions {
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
    /// Stores in flight while filling.
    #[arg(long, default_value_t = 1024, value_parser = parse_positive)]
    depth: usize,
}

/// A server that acknowledges and forgets: the floor of transport, frames and checksums.
#[derive(Args)]
pub(crate) struct NullOptions {
    /// Where to listen.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// The secret of every account.
    #[arg(long, default_value = "loadgen")]
    secret: String,
    /// Bytes of the messages that it makes up for `recovery`.
    #[arg(long, default_value = "1024", value_parser = parse_size)]
    item_size: usize,
    /// Spin instead of sleeping.
    #[arg(long)]
    spin: bool,
    /// Run on this core.
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,
}

pub(super) fn parse_positive(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| "not a number above zero".into())
}

pub(super) fn parse_message_size(text: &str) -> Result<usize, String> {
    parse_size(text).and_then(|size| match size {
        0..8 => Err("a message begins with its id, 8 bytes".into()),
        _ => Ok(size),
    })
}

/// A KVS spins for so long behind its last work unless its configuration says otherwise; so does the
/// null server, to be compared with it.
const SERVER_SPIN: Duration = Duration::from_micros(50);

/// How soon a thread that sleeps looks whether it is to end.
pub(super) const GLANCE_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn run(options: &KvsOptions) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    let mut report = Report::new("kvs");
    // Of the server's run, if there is one: the null server runs on a thread of ours.
    let mut cpu = None;
    let mut measure = |to: &[_], key: &str, title: &str| -> Result<KvsMeasured, Failure> {
        let (measured, spent, depth, paths) = measure_kvs(options, to, &stop)?;
        paths.into_iter().for_each(|path| report.add(path));
        cpu = cpu.take().or(spent);
        let section = measured.section(key, title);
        let section = section.count("depth", "requests in flight", depth as u64);
        let section = section.count("queues", "queues", u64::from(options.queues));
        report.add(section.count("size_bytes", "bytes of a message", options.size as u64));
        if options.held > 0 {
            let title = "messages that stay, by the server's counters";
            report.add(measured.held.section("held", title));
            report.add(measured.left.section("left", "what was there at the end"));
        }
        Ok(measured)
    };
    let mut null = prepare(&options.common, 0)?;
    let to = &options.common.to;
    let is_asked = (!to.is_empty()).then_some(to);
    let server = is_asked.map(|to| measure(to, "kvs", "store and delete")).transpose()?;
    let null = null.as_mut().map(|null| {
        null.serve();
        measure(&[null.address], "null", "the null server")
    });
    let null = null.transpose()?;
    if let (Some(server), Some(null)) = (server, null) {
        report.add(
            Section::new("comparison", "beside the null server")
                .number("ratio", "of its rate", server.rate() / null.rate(), "")
                .text("waiting", "both ends wait by", waiting(options.common.spin)),
        );
    }
    if let Some(cpu) = cpu {
        report.add(cpu);
    }
    report.add(host_section());
    conclude(&report, options.common.json.as_deref(), true)
}

fn measure_kvs(
    options: &KvsOptions,
    to: &[SocketAddr],
    stop: &Stop,
) -> Result<(KvsMeasured, Option<Section>, usize, Vec<Section>), Failure> {
    if to.len() > CONNECTIONS_MAX {
        return Err("--to can be given twice at most".into());
    }
    if let Some(opened) = options.bypass.open(to)? {
        let (transports, taken): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
        let (loads, cpu) = measure_over(transports, options, to, stop)?;
        let passed = taken.iter().zip(&loads);
        let passed = passed.map(|(taken, load)| bypass::section(taken, load.transport()));
        let (measured, depth) = sum(&loads);
        return Ok((measured, cpu, depth, passed.collect()));
    }
    let new = |_: &SocketAddr| KernelTransport::new(KernelOptions::default());
    let transports = to.iter().map(new).collect::<Result<_, _>>()?;
    let (loads, cpu) = measure_over(transports, options, to, stop)?;
    let (measured, depth) = sum(&loads);
    Ok((measured, cpu, depth, Vec::new()))
}

/// Connections at once: as many as a thread can wait for.
const CONNECTIONS_MAX: usize = 2;

/// What was measured on all of them together, and how many requests were in flight.
fn sum<T: Transport>(loads: &[KvsLoad<T>]) -> (KvsMeasured, usize) {
    let mut all = KvsMeasured::default();
    loads.iter().for_each(|load| all.add(load.measured()));
    (all, loads.iter().map(KvsLoad::depth).sum())
}

/// The loads when all is over, and the CPU time of what was measured.
fn measure_over<T: Transport>(
    transports: Vec<T>,
    options: &KvsOptions,
    to: &[SocketAddr],
    stop: &Stop,
) -> Result<(Vec<KvsLoad<T>>, Option<Section>), Failure> {
    let limited = options.messages.is_some() || options.duration.is_some();
    let seconds = options.duration.or((!limited).then_some(5.0));
    let duration = seconds.map(Duration::try_from_secs_f64).transpose()?;
    let clock = Clock::new();
    let open = |(transport, to): (T, &SocketAddr)| {
        let config = KvsConfig {
            target: target(&options.common, *to),
            queue: queue_name(&options.common.queue_prefix),
            queues: options.queues,
            held: options.held,
            stuck_percent: options.stuck,
            size_bytes: options.size,
            depth: options.depth,
            batch: options.batch,
            total: options.messages,
            duration,
            seed: options.seed,
        };
        KvsLoad::open(transport, clock.now(), config)
    };
    let mut loads = transports.into_iter().zip(to).map(open).collect::<Result<Vec<_>, _>>()?;
    let spin = options.common.spin_us.map(Duration::from_micros);
    let mut idle = Idle::new(spin.unwrap_or(spin_time(options.common.spin)));
    let (mut meter, mut cpu) = (None, None);
    while !loads.iter().all(KvsLoad::is_done) && !stop.is_raised() {
        let now = clock.now();
        let mut worked = false;
        for load in &mut loads {
            worked |= load.turn(now);
        }
        if meter.is_none() && loads.iter().all(KvsLoad::has_begun) {
            meter = Some(CpuMeter::begin(options.common.cpu_of.clone()));
        }
        if cpu.is_none() && loads.iter().all(KvsLoad::has_measured) {
            let messages = loads.iter().map(|load| load.measured().messages).sum();
            cpu = meter.as_ref().map(|meter| meter.section(messages));
        }
        if worked {
            idle.handle_work(now);
        } else if idle.should_sleep(now) {
            let until = Some(now + GLANCE_INTERVAL);
            match &mut loads[..] {
                [one] => one.wait(now, until),
                [one, other] => one.wait_beside(other, now, until),
                _ => unreachable!("there are two at most"),
            }
        }
    }
    match loads.iter().find_map(KvsLoad::failure) {
        Some(why) => Err(why.into()),
        None => Ok((loads, cpu)),
    }
}

pub(crate) fn run_recovery(options: &RecoveryOptions) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    let mut report = Report::new("recovery");
    let mut clean = true;
    let mut measure = |to, key: &str, title: &str, verify| -> Result<(), Failure> {
        let recovery = measure_recovery(options, to, verify, &stop)?;
        if let Some(why) = recovery.failure() {
            eprintln!("loadgen: {title}: {why}");
            clean = false;
        }
        report.add(recovery.section(key, title));
        Ok(())
    };
    if options.common.null && options.size > PART_SIZE_BYTES_MAX {
        return Err("the null server makes up messages of at most 64k".into());
    }
    let null = prepare(&options.common, options.size)?;
    match options.common.to[..] {
        [] => {}
        [to] => measure(to, "recovery", "fetched and compared", true)?,
        _ => return Err("a queue is on one server: --to can be given once".into()),
    }
    if let Some(mut null) = null {
        null.serve();
        measure(null.address, "null", "the null server (not compared)", false)?;
    }
    report.add(host_section());
    conclude(&report, options.common.json.as_deref(), clean)
}

fn measure_recovery(
    options: &RecoveryOptions,
    to: SocketAddr,
    verify: bool,
    stop: &Stop,
) -> Result<Recovery<KernelTransport>, Failure> {
    let config = RecoveryConfig {
        target: target(&options.common, to),
        queue: queue_name(&options.common.queue_prefix),
        messages: options.messages,
        size_bytes: options.size,
        blocks: options.block.clone(),
        rounds_max: options.rounds,
        depth: options.depth,
        verify,
    };
    let clock = Clock::new();
    let transport = KernelTransport::new(KernelOptions::default())?;
    let mut recovery = Recovery::open(transport, clock.now(), config)?;
    let mut idle = Idle::new(spin_time(options.common.spin));
    while !recovery.is_done() && !stop.is_raised() {
        let now = clock.now();
        if recovery.turn(now) {
            idle.handle_work(now);
        } else if idle.should_sleep(now) {
            recovery.wait(now, Some(now + GLANCE_INTERVAL));
        }
    }
    if recovery.is_done() { Ok(recovery) } else { Err("stopped by a signal".into()) }
}

pub(crate) fn run_null(options: &NullOptions) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    if options.item_size > PART_SIZE_BYTES_MAX {
        return Err("messages are made up to 64k".into());
    }
    if let Some(core) = options.core {
        pin_current_thread(core)?;
    }
    let mut server = open_null(options.listen, &options.secret, options.item_size)?;
    if let Some(address) = server.address() {
        println!("listening at {address}");
    }
    serve_null(&mut server, options.spin, || stop.is_raised());
    Ok(ExitCode::SUCCESS)
}

/// A null server on a thread of its own, until dropped. It serves from [`NullThread::serve`] on, so that
/// it takes no CPU time from what is measured before.
struct NullThread {
    address: SocketAddr,
    begin: Option<Sender<()>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NullThread {
    /// Called before this thread is bound to a core: a thread inherits that.
    fn prepare(common: &Common, item_size: usize) -> Result<NullThread, Failure> {
        let mut server = open_null(([127, 0, 0, 1], 0).into(), &common.secret, item_size)?;
        let address = server.address().expect("it listens");
        let stop = Arc::new(AtomicBool::new(false));
        let (begin, begun) = std::sync::mpsc::channel();
        let (flag, spin, core) = (Arc::clone(&stop), common.spin, common.null_core);
        let thread = std::thread::Builder::new().name("null-server".into()).spawn(move || {
            if let Some(Err(error)) = core.map(pin_current_thread) {
                eprintln!("loadgen: the null server {error}");
            }
            if begun.recv().is_ok() {
                serve_null(&mut server, spin, || flag.load(Ordering::Relaxed));
            }
        })?;
        Ok(NullThread { address, begin: Some(begin), stop, thread: Some(thread) })
    }

    fn serve(&mut self) {
        if let Some(begin) = self.begin.take() {
            begin.send(()).expect("the thread waits for it");
        }
    }
}

impl Drop for NullThread {
    fn drop(&mut self) {
        self.begin = None;
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the null server does not panic");
        }
    }
}

/// The null server if it is wanted, and this thread on its core.
fn prepare(common: &Common, item_size: usize) -> Result<Option<NullThread>, Failure> {
    let null = common.null.then(|| NullThread::prepare(common, item_size)).transpose()?;
    if let Some(core) = common.core {
        pin_current_thread(core)?;
    }
    Ok(null)
}

fn open_null(
    listen: SocketAddr,
    secret: &str,
    item_size_bytes: usize,
) -> Result<NullServer<KernelTransport>, Failure> {
    let config = NullConfig {
        listen,
        secret: Secret::new(secret.as_bytes()),
        seed: fastrand::u64(..),
        in_flight_max: 65_536,
        item_size_bytes,
    };
    Ok(NullServer::open(KernelTransport::new(KernelOptions::default())?, config)?)
}

fn serve_null(server: &mut NullServer<KernelTransport>, spin: bool, stop: impl Fn() -> bool) {
    let clock = Clock::new();
    let mut idle = Idle::new(if spin { Duration::MAX } else { SERVER_SPIN });
    while !stop() {
        let now = clock.now();
        if server.turn(now) {
            idle.handle_work(now);
        } else if idle.should_sleep(now) {
            server.wait(now, Some(now + GLANCE_INTERVAL));
        }
    }
}

fn target(common: &Common, to: SocketAddr) -> Target {
    Target {
        to,
        account: common.account.clone(),
        secret: Secret::new(common.secret.as_bytes()),
        nonce: fastrand::u128(..).to_le_bytes(),
    }
}

/// A name that no earlier run has used.
fn queue_name(prefix: &str) -> String {
    format!("{prefix}loadgen-{:016x}", fastrand::u64(..))
}

pub(super) const fn spin_time(spin: bool) -> Duration {
    if spin { Duration::MAX } else { Duration::ZERO }
}

const fn waiting(spin: bool) -> &'static str {
    if spin { "spinning" } else { "sleeping" }
}

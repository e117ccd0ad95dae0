//! `loadgen sink`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use loadgen::host::{CpuMeter, host_section, unix_origin_us};
use loadgen::report::{Report, Section};
use loadgen::sink::{Fault, Faults, Misbehaviour, Offer, Phase, Sink, SinkConfig, SinkCounts};
use tcpstack::{Clock, Idle, Instant, KernelOptions, KernelTransport};

use super::{Failure, Stop, clock_section, conclude, probability, recorder, write_status};

/// Receive mail, check it, misbehave on demand. Ends on SIGTERM or SIGINT with a report; exit status
/// 0 only if nothing was altered, sent astray, out of order or left out of it. SIGUSR1 prints a line
/// of counts.
#[derive(Args)]
pub(crate) struct Options {
    /// Where to listen; several with commas between.
    #[arg(long, required = true, value_delimiter = ',', value_name = "ADDR")]
    listen: Vec<SocketAddr>,
    /// Count first attempts out of the order of their numbers: only `strict` is possible here.
    #[arg(long, value_parser = ["strict"], conflicts_with = "displacement")]
    order: Option<String>,
    /// Count first attempts displaced by more than so many numbers.
    #[arg(long, value_name = "N")]
    displacement: Option<u64>,
    /// Do something wrong: in the PHASE greeting, ehlo, mail, rcpt, data, content, dot or quit, one of
    /// 4xx, 5xx, 421, drop, reset, hang, garbage, early, trickle, with that probability (1 if left
    /// out). Repeatable; faults of one phase exclude each other.
    #[arg(long, value_name = "PHASE=FAULT:P")]
    misbehave: Vec<Misbehaviour>,
    /// Short for --misbehave rcpt=4xx:P.
    #[arg(long, default_value_t = 0.0, value_parser = probability, value_name = "P")]
    fail_rcpt_4xx: f64,
    /// Short for --misbehave rcpt=5xx:P.
    #[arg(long, default_value_t = 0.0, value_parser = probability, value_name = "P")]
    fail_5xx: f64,
    /// Short for --misbehave dot=4xx:P.
    #[arg(long, default_value_t = 0.0, value_parser = probability, value_name = "P")]
    fail_data_4xx: f64,
    /// Short for --misbehave dot=5xx:P.
    #[arg(long, default_value_t = 0.0, value_parser = probability, value_name = "P")]
    fail_data_5xx: f64,
    /// Short for --misbehave rcpt=421:P.
    #[arg(long, default_value_t = 0.0, value_parser = probability, value_name = "P")]
    drop_421: f64,
    /// Short for --misbehave dot=hang:P.
    #[arg(long, default_value_t = 0.0, value_parser = probability, value_name = "P")]
    hang: f64,
    /// Short for --misbehave dot=drop:P.
    #[arg(long, default_value_t = 0.0, value_parser = probability, value_name = "P")]
    close_after_dot: f64,
    /// Do not offer these: ehlo, pipelining, 8bitmime, size, enhancedstatuscodes.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    without: Vec<String>,
    /// Offer these too: smtputf8, dsn, chunking, mt-priority, limits=MAILMAX:RCPTMAX.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    with: Vec<String>,
    /// Speak LMTP instead of SMTP.
    #[arg(long)]
    lmtp: bool,
    /// Answer 452 to recipients of one mail beyond so many, without announcing it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    recipients_max: Option<u32>,
    /// Decides what goes wrong when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// This sink's number in ledgers.
    #[arg(long, default_value_t = 0)]
    number: u32,
    /// Largest mail taken.
    #[arg(long, default_value = "64m", value_parser = loadgen::content::parse_size)]
    size_max: usize,
    /// Log each delivery to this file.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Write each accepted mail into this directory: N.eml as received, N.envelope.
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Keep the counts in this file, as `name = count`, rewritten every second (and once it listens,
    /// with `listen = ADDR` lines).
    #[arg(long, value_name = "FILE")]
    status: Option<PathBuf>,
    /// Spin for so long behind the last work before sleeping.
    #[arg(long, default_value_t = 0, value_name = "US")]
    spin_us: u64,
    /// Write the report to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How often the status file is written, and the longest sleep.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How soon a signal is seen by a sink without mail.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn run(options: &Options) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    let wanted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&wanted))?;
    let clock = Clock::new();
    let cpu = CpuMeter::begin(Vec::new());
    let mut sink = open(options, clock.now())?;
    let addresses = sink.addresses();
    for address in &addresses {
        println!("listening at {address}");
    }
    let mut idle = Idle::new(Duration::from_micros(options.spin_us));
    let mut next_status = Instant::ZERO;
    let mut last_new = Instant::ZERO;
    while !stop.is_raised() {
        let now = clock.now();
        if wanted.swap(false, Ordering::Relaxed) {
            println!("{}", status_line(sink.counts()));
        }
        if now >= next_status {
            next_status = now + STATUS_INTERVAL;
            if let Some(path) = &options.status {
                write_status(path, status_lines(&addresses, sink.counts()))?;
            }
        }
        let before = sink.counts().distinct;
        if sink.turn(now) {
            idle.handle_work(now);
            if sink.counts().distinct > before {
                last_new = now;
            }
        } else if idle.should_sleep(now) {
            let until = next_status.min(now + SIGNAL_INTERVAL);
            let until = sink.next_deadline().map_or(until, |deadline| deadline.min(until));
            sink.wait(now, Some(until));
        }
    }
    let (examples, done_wrong) = (sink.examples().to_vec(), *sink.done_wrong());
    let counts = sink.finish().map_err(|error| format!("a mail could not be dumped: {error}"))?;
    if let Some(path) = &options.status {
        write_status(path, status_lines(&addresses, &counts))?;
    }
    let mut report = Report::new("sink");
    let for_example = |section: Section, (place, what): (usize, &String)| {
        section.text(&format!("example_{place}"), "for example", what.as_str())
    };
    report.add(examples.iter().enumerate().fold(counts.section(), for_example));
    report.add(done_wrong.section());
    report.add(clock_section("last_new_mail_s", "last new mail", last_new));
    report.add(cpu.section(counts.mails));
    report.add(host_section());
    conclude(&report, options.json.as_deref(), counts.is_clean())
}

fn open(options: &Options, now: Instant) -> Result<Sink<KernelTransport>, Failure> {
    if let Some(directory) = &options.dump {
        std::fs::create_dir_all(directory)?;
    }
    let mut offer = Offer::default();
    options.with.iter().try_for_each(|name| offer.with(name))?;
    options.without.iter().try_for_each(|name| offer.without(name))?;
    let strict = options.order.as_ref().map(|_| 0);
    let config = SinkConfig {
        listen: options.listen.clone(),
        sink: options.number,
        seed: options.seed,
        faults: faults(options)?,
        offer,
        lmtp: options.lmtp,
        recipients_max: options.recipients_max,
        displacement_max: strict.or(options.displacement),
        size_bytes_max: options.size_max,
        dump: options.dump.clone(),
        unix_origin_us: unix_origin_us(),
    };
    let transport = KernelTransport::new(KernelOptions::default())?;
    Ok(Sink::open(transport, config, now, recorder(options.ledger.as_deref())?)?)
}

fn faults(options: &Options) -> Result<Faults, String> {
    let short = [
        (Phase::Rcpt, Fault::Transient, options.fail_rcpt_4xx),
        (Phase::Rcpt, Fault::Permanent, options.fail_5xx),
        (Phase::Dot, Fault::Transient, options.fail_data_4xx),
        (Phase::Dot, Fault::Permanent, options.fail_data_5xx),
        (Phase::Rcpt, Fault::Closing, options.drop_421),
        (Phase::Dot, Fault::Hang, options.hang),
        (Phase::Dot, Fault::Drop, options.close_after_dot),
    ];
    let short = short.map(|(phase, fault, probability)| Misbehaviour { phase, fault, probability });
    Faults::default().with_all(&short)?.with_all(&options.misbehave)
}

fn status_line(counts: &SinkCounts) -> String {
    let words = counts.named().map(|(name, count)| format!("{name} = {count}"));
    words.join(", ")
}

fn status_lines(listen: &[SocketAddr], counts: &SinkCounts) -> Vec<(String, String)> {
    let listen = listen.iter().map(|address| ("listen".into(), address.to_string()));
    let counts = counts.named().map(|(name, count)| (name.into(), count.to_string()));
    listen.chain(counts).collect()
}

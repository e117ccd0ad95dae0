//! `loadgen smtp`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use loadgen::content::{GeneratorConfig, SizeMix};
use loadgen::host::{CpuMeter, WatchedProcess, host_section, unix_origin_us};
use loadgen::report::{Report, Section};
use loadgen::smtp::{Pace, SmtpConfig, SmtpLoad, SmtpStatistics};
use tcpstack::{Clock, Idle, Instant, KernelOptions, KernelTransport};

use super::{Failure, Stop, clock_section, conclude, recorder};

/// Send mail. Exit status 0 only if all of it was accepted.
#[derive(Args)]
pub(crate) struct Options {
    /// Where to connect to; several with commas between, sessions take turns.
    #[arg(long, required = true, value_delimiter = ',', value_name = "ADDR")]
    to: Vec<SocketAddr>,
    /// Sessions at once.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    sessions: u16,
    /// One session, strictly one mail after the other.
    #[arg(long, conflicts_with_all = ["sessions", "ahead"])]
    one_connection: bool,
    /// End a session after so many mails and begin a new one; 0: never.
    #[arg(long, default_value_t = 0, value_name = "N")]
    messages_per_session: u32,
    /// Mails to send. Default: 1000, unless there is a duration.
    #[arg(long, value_name = "N")]
    messages: Option<u64>,
    /// Send for so many seconds.
    #[arg(long, value_name = "S")]
    duration: Option<f64>,
    /// Open loop: so many mails a second, due whether or not earlier ones were answered; latency
    /// counts from when a mail was due.
    #[arg(long, value_name = "PER_S", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Sizes with weights; k is 1024 bytes.
    #[arg(long, default_value = "70:1k,30:10k", value_name = "WEIGHT:SIZE,…")]
    mix: SizeMix,
    /// A recipients' domain; repeatable.
    #[arg(long = "domain", value_name = "NAME", conflicts_with = "domains")]
    domain: Vec<String>,
    /// So many numbered domains: d0.example, d1.example…
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    domains: u32,
    /// Recipients of each mail; what one transaction does not take goes in the next.
    #[arg(long, alias = "rcpts", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=20_000))]
    recipients: u16,
    /// A senders' domain; repeatable, mails take turns. DSNs go there.
    #[arg(long = "from-domain", value_name = "NAME", default_value = "sender.example")]
    from_domain: Vec<String>,
    /// Share of mails with the null reverse-path, from 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = super::probability, value_name = "P")]
    null_senders: f64,
    /// No mail with 8-bit lines.
    #[arg(long)]
    seven_bit: bool,
    /// Send MAIL, RCPT and DATA together, where the server offers PIPELINING.
    #[arg(long)]
    pipeline: bool,
    /// Pipeline, and send the next mail's envelope behind the data too.
    #[arg(long)]
    ahead: bool,
    /// Send content by BDAT where the server offers CHUNKING.
    #[arg(long)]
    bdat: bool,
    /// The bytes of one BDAT.
    #[arg(long, default_value = "64k", value_parser = loadgen::content::parse_size, value_name = "SIZE")]
    chunk_size: usize,
    /// Parameters behind each MAIL, as they are, such as "RET=HDRS MT-PRIORITY=3".
    #[arg(long, default_value = "", value_name = "TEXT")]
    mail_parameters: String,
    /// Parameters behind each RCPT, such as NOTIFY=NEVER.
    #[arg(long, default_value = "", value_name = "TEXT")]
    rcpt_parameters: String,
    /// Decides the content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// This run's name in identities, 8 hexadecimal digits. Default: made from the time.
    #[arg(long, value_parser = parse_run)]
    run: Option<u32>,
    /// Log each intent and each answer to this file.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// How long to wait for an answer, in seconds.
    #[arg(long, default_value_t = 60.0, value_name = "S")]
    answer_timeout: f64,
    /// Give up when nothing was accepted for so many seconds.
    #[arg(long, default_value_t = 60.0, value_name = "S")]
    give_up: f64,
    /// Report the CPU time of this process too; repeatable.
    #[arg(long = "cpu-of", value_name = "NAME=PID")]
    cpu_of: Vec<WatchedProcess>,
    /// Spin for so long behind the last work before sleeping.
    #[arg(long, default_value_t = 0, value_name = "US")]
    spin_us: u64,
    /// Write the report to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn parse_run(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 16).map_err(|_| "not a number of up to 8 hexadecimal digits".into())
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "not a rate above zero".into())
}

/// How often the bar is drawn and signals are looked for.
const GLANCE_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn run(options: Options) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    let config = config(&options)?;
    let clock = Clock::new();
    let transport = KernelTransport::new(KernelOptions::default())?;
    let recorder = recorder(options.ledger.as_deref())?;
    let cpu = CpuMeter::begin(options.cpu_of.clone());
    let mut load = SmtpLoad::new(transport, config.clone(), clock.now(), recorder);
    let bar = progress_bar(&config.pace);
    let mut idle = Idle::new(Duration::from_micros(options.spin_us));
    let mut next_glance = Instant::ZERO;
    loop {
        let now = clock.now();
        if load.turn(now) {
            idle.handle_work(now);
        } else if idle.should_sleep(now) {
            let until = load.next_deadline(now).map_or(next_glance, |d| d.min(next_glance));
            load.wait(now, Some(until));
        }
        if now >= next_glance {
            next_glance = now + GLANCE_INTERVAL;
            show(&bar, load.statistics());
            if stop.is_raised() {
                break;
            }
        }
        if load.is_done(now) {
            break;
        }
    }
    bar.finish_and_clear();
    let statistics = load.finish(clock.now());
    let mut report = Report::new("smtp");
    report.add(settings(&config));
    report.add(statistics.section());
    report.add(cpu.section(statistics.accepted));
    let begin = statistics.begin.unwrap_or_default();
    report.add(clock_section("begin_s", "first mail's beginning", begin));
    report.add(host_section());
    conclude(&report, options.json.as_deref(), statistics.is_complete())
}

fn config(options: &Options) -> Result<SmtpConfig, Failure> {
    let seconds =
        |s: f64| Duration::try_from_secs_f64(s).map_err(|_| format!("{s} seconds are no duration"));
    let domains = if options.domain.is_empty() {
        (0..options.domains).map(|number| format!("d{number}.example").into()).collect()
    } else {
        options.domain.iter().map(|name| name.as_str().into()).collect()
    };
    let unix_origin_us = unix_origin_us();
    let from_time = || {
        // Two runs within one microsecond would share a name.
        let us = unix_origin_us + Clock::new().now().as_nanos() / 1000;
        u32::try_from(us & u64::from(u32::MAX)).expect("it was cut to 32 bits")
    };
    let total = options.messages.or(options.duration.is_none().then_some(1000));
    Ok(SmtpConfig {
        to: options.to.clone(),
        mail: GeneratorConfig {
            run: options.run.unwrap_or_else(from_time),
            seed: options.seed,
            sizes: options.mix.clone(),
            domains,
            recipients_per_mail: options.recipients,
            eight_bit: !options.seven_bit,
            sender_domains: options.from_domain.iter().map(|name| name.as_str().into()).collect(),
            null_senders: options.null_senders,
        },
        pace: Pace {
            rate: options.rate,
            total,
            duration: options.duration.map(seconds).transpose()?,
        },
        sessions: if options.one_connection { 1 } else { usize::from(options.sessions) },
        mails_per_session: Some(options.messages_per_session).filter(|&most| most > 0),
        pipelining: options.pipeline || options.ahead,
        ahead: options.ahead,
        chunk_size_bytes: options.bdat.then_some(options.chunk_size.max(1)),
        mail_parameters: options.mail_parameters.as_str().into(),
        recipient_parameters: options.rcpt_parameters.as_str().into(),
        answer_timeout: seconds(options.answer_timeout)?,
        give_up: seconds(options.give_up)?,
        unix_origin_us,
        ..SmtpConfig::default()
    })
}

fn settings(config: &SmtpConfig) -> Section {
    let loop_kind =
        config.pace.rate.map_or("closed loop".into(), |rate| format!("open loop, {rate} mails/s"));
    let pipelining = match (config.pipelining, config.ahead) {
        (false, _) => "none",
        (true, false) => "within a mail",
        (true, true) => "across mails",
    };
    Section::new("settings", "settings")
        .text("loop", "loop", loop_kind)
        .count("sessions", "sessions", config.sessions as u64)
        .text("mix", "sizes", config.mail.sizes.to_string())
        .count("domains", "domains", config.mail.domains.len() as u64)
        .count("recipients", "recipients a mail", u64::from(config.mail.recipients_per_mail))
        .text("pipelining", "pipelining", pipelining)
        .text("run", "run", format!("{:08x}", config.mail.run))
        .count("seed", "seed", config.mail.seed)
}

/// Drawn only on a terminal.
fn progress_bar(pace: &Pace) -> ProgressBar {
    match pace.total {
        Some(total) => ProgressBar::new(total).with_style(
            ProgressStyle::with_template("{bar:40} {pos}/{len} mails, {msg}")
                .expect("the template is right"),
        ),
        None => ProgressBar::new_spinner().with_style(
            ProgressStyle::with_template("{spinner} {elapsed} {pos} mails, {msg}")
                .expect("the template is right"),
        ),
    }
}

fn show(bar: &ProgressBar, statistics: &SmtpStatistics) {
    let p99 = statistics.dot_to_250.percentiles().p99_us / 1000.0;
    bar.set_message(format!("{:.0}/s, p99 {p99:.1} ms", bar.per_sec()));
    bar.set_position(statistics.accepted);
}

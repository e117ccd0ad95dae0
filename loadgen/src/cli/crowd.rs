//! `loadgen crowd`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use loadgen::crowd::{Crowd, CrowdConfig, CrowdCounts, Kind};
use loadgen::host::{CpuMeter, WatchedProcess, host_section};
use loadgen::report::Report;
use tcpstack::{Clock, Instant, KernelOptions, KernelTransport, raise_descriptor_limit};

use super::{Failure, Stop, conclude, write_status};

/// Hold many sessions that do nothing or next to nothing, and count how they are thrown out. Exit
/// status 0 only if as many as asked for (--held-min) were in at the end.
#[derive(Args)]
pub(crate) struct Options {
    /// Where to connect to; several with commas between, sessions take turns.
    #[arg(long, required = true, value_delimiter = ',', value_name = "ADDR")]
    to: Vec<SocketAddr>,
    /// Sessions that say hello and nothing more.
    #[arg(long, default_value_t = 0, value_name = "N")]
    idle: usize,
    /// Sessions that say a byte at a time.
    #[arg(long, default_value_t = 0, value_name = "N")]
    slow: usize,
    /// What the slow ones say: a command, a mail's content, or half of them either.
    #[arg(long, value_enum, default_value_t = SlowIn::Both)]
    slow_in: SlowIn,
    /// Between two bytes of a slow one, in seconds.
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    interval: f64,
    /// For so many seconds, or until SIGTERM.
    #[arg(long, default_value_t = 60.0, value_name = "S")]
    seconds: f64,
    /// Where to connect from: addresses and ranges (127.0.0.2-127.0.0.200), with commas between;
    /// sessions take turns.
    #[arg(long, value_delimiter = ',', value_parser = parse_range, value_name = "FROM-TO")]
    local: Vec<Range>,
    /// New connections a second, all together.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..), value_name = "PER_S")]
    connect_rate: u32,
    /// From when one is thrown out until it comes back, in seconds.
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    pause: f64,
    /// To whom the slow mail pretends to go.
    #[arg(long, default_value = "slow@example.net", value_name = "ADDRESS")]
    recipient: String,
    /// How many must be in at the end.
    #[arg(long, default_value_t = 0, value_name = "N")]
    held_min: u64,
    /// Report the CPU time of this process too; repeatable.
    #[arg(long = "cpu-of", value_name = "NAME=PID")]
    cpu_of: Vec<WatchedProcess>,
    /// Keep the counts in this file, as `name = count`, rewritten every second.
    #[arg(long, value_name = "FILE")]
    status: Option<PathBuf>,
    /// Write the report to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SlowIn {
    Command,
    Data,
    Both,
}

#[derive(Clone)]
struct Range(Vec<IpAddr>);

/// Most addresses of one range.
const RANGE_MAX: u32 = 65_536;

fn parse_range(text: &str) -> Result<Range, String> {
    let Some((from, to)) = text.split_once('-') else {
        let address = text.parse().map_err(|_| format!("{text:?} is not an address"))?;
        return Ok(Range(vec![address]));
    };
    let number = |text: &str| text.parse::<Ipv4Addr>().map(u32::from).ok();
    let (Some(from), Some(to)) = (number(from), number(to)) else {
        return Err(format!("{text:?} is not a range of IPv4 addresses"));
    };
    if to < from || to - from >= RANGE_MAX {
        return Err(format!("{text:?} has no addresses, or more than {RANGE_MAX}"));
    }
    Ok(Range((from..=to).map(|number| Ipv4Addr::from(number).into()).collect()))
}

/// How often the status file is written.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How soon a signal is seen.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);
/// Descriptors for everything but connections.
const OTHER_DESCRIPTORS: usize = 64;

pub(crate) fn run(options: &Options) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    let duration = seconds(options.seconds)?;
    let config = config(options)?;
    let count = config.members.len();
    let limit = raise_descriptor_limit()?;
    if limit < (count + OTHER_DESCRIPTORS) as u64 {
        return Err(format!("{count} sessions need more than the {limit} descriptors that a process may have (ulimit -Hn)").into());
    }
    let cpu = CpuMeter::begin(options.cpu_of.clone());
    let kernel = KernelOptions {
        connections_max: count.max(1),
        // Members in pain come back at once; those before them need not linger.
        lingering_max: OTHER_DESCRIPTORS / 2,
        ..KernelOptions::default()
    };
    let clock = Clock::new();
    let begin = clock.now();
    let mut crowd = Crowd::new(KernelTransport::new(kernel)?, config, begin);
    let mut next_status = Instant::ZERO;
    loop {
        let now = clock.now();
        if stop.is_raised() || now.saturating_since(begin) >= duration {
            break;
        }
        if now >= next_status {
            next_status = now + STATUS_INTERVAL;
            if let Some(path) = &options.status {
                write_status(path, status_lines(crowd.counts()))?;
            }
        }
        if !crowd.turn(now) {
            let until = next_status.min(now + SIGNAL_INTERVAL).min(begin + duration);
            crowd.wait(now, Some(crowd.next_deadline().map_or(until, |due| due.min(until))));
        }
    }
    let counts = crowd.counts();
    if let Some(path) = &options.status {
        write_status(path, status_lines(counts))?;
    }
    let mut report = Report::new("crowd");
    report.add(counts.section());
    report.add(cpu.section(counts.connections));
    report.add(host_section());
    let held = counts.idle_held + counts.slow_held;
    conclude(&report, options.json.as_deref(), held >= options.held_min)
}

fn seconds(s: f64) -> Result<Duration, Failure> {
    Ok(Duration::try_from_secs_f64(s).map_err(|_| format!("{s} seconds are no duration"))?)
}

fn config(options: &Options) -> Result<CrowdConfig, Failure> {
    let idle = std::iter::repeat_n(Kind::Idle, options.idle);
    let slow = (0..options.slow).map(|place| match options.slow_in {
        SlowIn::Command => Kind::SlowCommand,
        SlowIn::Data => Kind::SlowData,
        SlowIn::Both if place % 2 == 0 => Kind::SlowCommand,
        SlowIn::Both => Kind::SlowData,
    });
    Ok(CrowdConfig {
        to: options.to.clone(),
        locals: options.local.iter().flat_map(|range| range.0.clone()).collect(),
        members: idle.chain(slow).collect(),
        interval: seconds(options.interval)?,
        connects_per_s: options.connect_rate,
        pause: seconds(options.pause)?,
        recipient: options.recipient.clone(),
    })
}

fn status_lines(counts: &CrowdCounts) -> Vec<(String, String)> {
    let counts = counts.named().map(|(name, count)| (name.into(), count.to_string()));
    counts.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_refused() {
        let count = |text| parse_range(text).map(|range| range.0.len()).ok();
        assert_eq!(count("127.0.0.2-127.0.1.1"), Some(256));
        assert_eq!((count("127.0.0.1"), count("::1")), (Some(1), Some(1)));
        for text in ["", "127.0.0.2-", "127.0.0.2-127.0.0.1", "::1-::2", "0.0.0.0-1.0.0.0"] {
            assert_eq!(count(text), None, "{text}");
        }
    }
}

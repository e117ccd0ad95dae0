//! Facts about the machine and the processes that a measurement ran with.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tcpstack::{Clock, Instant};

use crate::report::{Section, f64_of};

/// The machine, as a report's section: figures mean little without it.
pub fn host_section() -> Section {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    // The machine's, not those that this process was pinned to.
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count() as u64;
    let load = read("/proc/loadavg");
    Section::new("host", "host")
        .text("kernel", "kernel", read("/proc/sys/kernel/osrelease").trim())
        .text("cpu", "CPU", model)
        .count("cores", "cores", cores)
        .text("load", "load when it ended", load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// Microseconds since 1970 (UTC) at [`Instant::ZERO`] of this machine's [`Clock`], for logs whose times
/// other processes understand.
pub fn unix_origin_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    unix_us.saturating_sub(Clock::new().now().as_nanos() / 1000)
}

/// `now` in microseconds since 1970, from the origin that [`unix_origin_us`] gives.
pub fn unix_us(origin_us: u64, now: Instant) -> u64 {
    origin_us.saturating_add(now.as_nanos() / 1000)
}

/// A process whose CPU time is of interest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchedProcess {
    /// What to call it.
    pub name: String,
    /// Its number.
    pub pid: u32,
}

impl std::str::FromStr for WatchedProcess {
    type Err = String;

    /// `NAME=PID`.
    fn from_str(text: &str) -> Result<WatchedProcess, String> {
        let (name, pid) = text.split_once('=').ok_or("not of the form NAME=PID")?;
        let pid = pid.parse().map_err(|_| format!("{pid:?} is not the number of a process"))?;
        Ok(WatchedProcess { name: name.into(), pid })
    }
}

/// CPU time of processes between two points in time.
#[derive(Debug)]
pub struct CpuMeter {
    processes: Vec<(WatchedProcess, Option<Duration>)>,
}

impl CpuMeter {
    /// Begins to measure the processes, and this one as `loadgen`.
    pub fn begin(mut processes: Vec<WatchedProcess>) -> CpuMeter {
        processes.push(WatchedProcess { name: "loadgen".into(), pid: std::process::id() });
        let begin = |process: WatchedProcess| {
            let at = cpu_time(process.pid);
            (process, at)
        };
        CpuMeter { processes: processes.into_iter().map(begin).collect() }
    }

    /// The CPU time since then, each by process and by message.
    pub fn section(&self, messages: u64) -> Section {
        let mut section = Section::new("cpu", "CPU time, user and system");
        for (process, begin) in &self.processes {
            let spent = begin.zip(cpu_time(process.pid)).map(|(b, end)| end.saturating_sub(b));
            let (name, label) = (&process.name, format!("{}, a message", process.name));
            section = match spent {
                None => section.text(name, name, "ended meanwhile"),
                Some(spent) => {
                    section.number(&format!("{name}_s"), name, spent.as_secs_f64(), "s").number(
                        &format!("{name}_us_per_message"),
                        &label,
                        spent.as_secs_f64() * 1e6 / f64_of(messages.max(1)),
                        "µs",
                    )
                }
            };
        }
        section
    }
}

/// User and system time of a process so far, from proc_pid_stat(5): fields 14 and 15, in ticks of 10
/// milliseconds (USER_HZ is 100 on every Linux that we run on).
fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    parse_stat(&stat)
}

fn parse_stat(stat: &str) -> Option<Duration> {
    // The second field is the program's name, in parentheses, with any characters.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_fields() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 99";
        assert_eq!(parse_stat(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn our_own_time_can_be_read() {
        assert!(cpu_time(std::process::id()).is_some());
    }
}

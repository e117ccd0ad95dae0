//! Whether processes under a steady load grow: their memory and their descriptors over time.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::host::WatchedProcess;
use crate::report::{Section, f64_of};

/// What one process held at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Since the watch began.
    pub at: Duration,
    /// Memory in use (VmRSS of proc_pid_status(5)).
    pub memory_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

impl Sample {
    /// Reads what a process holds now.
    ///
    /// # Errors
    /// If there is no such process, or it may not be looked at.
    pub fn take(pid: u32, at: Duration) -> io::Result<Sample> {
        let directory = PathBuf::from("/proc").join(pid.to_string());
        let status = fs::read_to_string(directory.join("status"))?;
        let memory_bytes = resident_bytes(&status)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the process has ended"))?;
        let descriptors = fs::read_dir(directory.join("fd"))?.count() as u64;
        Ok(Sample { at, memory_bytes, descriptors })
    }
}

/// The samples of one process.
#[derive(Debug)]
pub struct Track {
    process: WatchedProcess,
    samples: Vec<Sample>,
    has_ended: bool,
}

/// How a process's memory and descriptors developed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Trend {
    /// Median memory of the first third behind the warm-up.
    pub memory_before_bytes: u64,
    /// Median memory of the last third.
    pub memory_after_bytes: u64,
    /// The most that was seen.
    pub memory_max_bytes: u64,
    /// Median descriptors of the first third behind the warm-up.
    pub descriptors_before: u64,
    /// Median descriptors of the last third.
    pub descriptors_after: u64,
}

impl Track {
    /// No samples yet.
    pub fn new(process: WatchedProcess) -> Track {
        Track { process, samples: Vec::new(), has_ended: false }
    }

    /// Takes a sample. A process that is gone is not flat.
    pub fn sample(&mut self, at: Duration) {
        match Sample::take(self.process.pid, at) {
            Ok(sample) => self.samples.push(sample),
            Err(_) => self.has_ended = true,
        }
    }

    /// How it developed; none with too few samples to tell.
    pub fn trend(&self) -> Option<Trend> {
        trend(&self.samples)
    }

    /// Whether the process lives and has not grown.
    pub fn is_flat(&self) -> bool {
        !self.has_ended && self.trend().is_some_and(|trend| trend.is_flat())
    }

    /// The samples as lines of comma-separated values: name, seconds, bytes, descriptors.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.samples.iter().map(|sample| {
            let Sample { at, memory_bytes, descriptors } = sample;
            format!("{},{:.1},{memory_bytes},{descriptors}", self.process.name, at.as_secs_f64())
        })
    }

    /// The trend as a report's section.
    pub fn section(&self) -> Section {
        let name = &self.process.name;
        let section = Section::new(name, name).flag("flat", "flat", self.is_flat());
        let Some(trend) = self.trend() else {
            return section.text("trend", "trend", "too few samples");
        };
        let mib = |bytes: u64| f64_of(bytes) / f64_of(MIB);
        section
            .number("memory_before_mib", "memory at first", mib(trend.memory_before_bytes), "MiB")
            .number("memory_after_mib", "memory at last", mib(trend.memory_after_bytes), "MiB")
            .number("memory_max_mib", "memory at most", mib(trend.memory_max_bytes), "MiB")
            .count("descriptors_before", "descriptors at first", trend.descriptors_before)
            .count("descriptors_after", "descriptors at last", trend.descriptors_after)
            .count("samples", "samples", self.samples.len() as u64)
    }
}

impl Trend {
    /// Whether the last third is not above the first by more than a twentieth and 4 MiB, nor by more
    /// than a twentieth and 8 descriptors. The medians leave single peaks out.
    pub fn is_flat(&self) -> bool {
        let memory_max = self.memory_before_bytes + self.memory_before_bytes / 20 + 4 * MIB;
        let descriptors_max = self.descriptors_before + self.descriptors_before / 20 + 8;
        self.memory_after_bytes <= memory_max && self.descriptors_after <= descriptors_max
    }
}

fn trend(samples: &[Sample]) -> Option<Trend> {
    // The first tenth is warm-up: tables, pools and queues reach their size.
    let samples = &samples[samples.len() / 10..];
    let third = samples.len() / 3;
    if third == 0 {
        return None;
    }
    let (first, last) = (&samples[..third], &samples[samples.len() - third..]);
    let memory = |samples: &[Sample]| median(samples.iter().map(|it| it.memory_bytes));
    let descriptors = |samples: &[Sample]| median(samples.iter().map(|it| it.descriptors));
    Some(Trend {
        memory_before_bytes: memory(first),
        memory_after_bytes: memory(last),
        memory_max_bytes: samples.iter().map(|it| it.memory_bytes).max().unwrap_or(0),
        descriptors_before: descriptors(first),
        descriptors_after: descriptors(last),
    })
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// VmRSS; a zombie has none.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

const MIB: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(memory: impl Fn(u64) -> u64, descriptors: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample = |n| Sample {
            at: Duration::from_secs(n),
            memory_bytes: memory(n),
            descriptors: descriptors(n),
        };
        (0..100).map(sample).collect()
    }

    #[test]
    fn steady_use_with_single_peaks_and_a_warm_up_is_flat() {
        let memory = |n| match n {
            0..10 => n * 10 * MIB,
            80 => 500 * MIB,
            _ => 100 * MIB + n % 7 * MIB / 8,
        };
        let trend = trend(&samples(memory, |n| 20 + n % 3)).unwrap();
        assert!(trend.is_flat(), "{trend:?}");
        assert_eq!(trend.memory_max_bytes, 500 * MIB);
    }

    #[test]
    fn memory_that_grows_slowly_is_not_flat() {
        let trend = trend(&samples(|n| 100 * MIB + n * MIB / 4, |_| 20)).unwrap();
        assert!(!trend.is_flat(), "{trend:?}");
    }

    #[test]
    fn descriptors_that_leak_are_not_flat() {
        let trend = trend(&samples(|_| 100 * MIB, |n| 20 + n / 4)).unwrap();
        assert!(!trend.is_flat(), "{trend:?}");
    }

    #[test]
    fn too_few_samples_and_a_process_that_is_gone_are_not_flat() {
        assert_eq!(trend(&samples(|_| 1, |_| 1)[..2]), None);
        let process = WatchedProcess { name: "none".into(), pid: u32::MAX };
        let mut track = Track::new(process);
        track.sample(Duration::ZERO);
        track.samples = samples(|_| MIB, |_| 20);
        assert!(!track.is_flat());
    }

    #[test]
    fn our_own_process_can_be_looked_at() {
        let sample = Sample::take(std::process::id(), Duration::ZERO).unwrap();
        assert!(sample.memory_bytes > 0 && sample.descriptors >= 3);
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    12 kB\n"), Some(12 * 1024));
        assert_eq!(resident_bytes("State:\tZ (zombie)\n"), None);
    }
}

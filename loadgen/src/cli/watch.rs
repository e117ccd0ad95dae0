//! `loadgen watch`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use loadgen::host::{WatchedProcess, host_section};
use loadgen::report::Report;
use loadgen::watch::Track;

use super::{Failure, Stop, conclude};

/// Watch the memory and the descriptors of processes under a steady load. Exit status 0 only if all of
/// them live to the end and none has grown.
#[derive(Args)]
pub(crate) struct Options {
    /// A process; repeatable.
    #[arg(long = "of", required = true, value_name = "NAME=PID")]
    of: Vec<WatchedProcess>,
    /// For so many seconds, or until SIGTERM.
    #[arg(long, value_name = "S")]
    duration: u64,
    /// Look every so many seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..), value_name = "S")]
    interval: u64,
    /// Write every sample to this file: name, seconds, bytes, descriptors.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the report to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How soon a signal is seen.
const GLANCE_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn run(options: &Options) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    let begun = Instant::now();
    let mut tracks: Vec<Track> = options.of.iter().cloned().map(Track::new).collect();
    let mut next = Duration::ZERO;
    while next <= Duration::from_secs(options.duration) && !stop.is_raised() {
        let at = begun.elapsed();
        if at < next {
            std::thread::sleep(GLANCE_INTERVAL.min(next - at));
            continue;
        }
        tracks.iter_mut().for_each(|track| track.sample(at));
        next += Duration::from_secs(options.interval);
    }
    if let Some(path) = &options.csv {
        let mut file = std::fs::File::create(path)?;
        for line in tracks.iter().flat_map(Track::lines) {
            writeln!(file, "{line}")?;
        }
    }
    let mut report = Report::new("watch");
    tracks.iter().for_each(|track| report.add(track.section()));
    report.add(host_section());
    conclude(&report, options.json.as_deref(), tracks.iter().all(Track::is_flat))
}

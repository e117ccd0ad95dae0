//! The command line.

pub(crate) mod bypass;
pub(crate) mod compare;
pub(crate) mod cores;
pub(crate) mod crowd;
pub(crate) mod kvs;
pub(crate) mod ledger;
pub(crate) mod sink;
pub(crate) mod smtp;
pub(crate) mod store;
pub(crate) mod watch;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use loadgen::ledger::{LogFile, NoRecord, Recorder};
use loadgen::report::{Report, Section, f64_of};
use tcpstack::Instant;

/// A failure of the command itself, in a sentence.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// A flag that SIGTERM and SIGINT raise, so that a run ends with its report.
#[derive(Clone)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn on_signals() -> Result<Stop, Failure> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            // A second signal ends the process at once.
            signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&flag))?;
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Stop(flag))
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reads an option that is a probability.
pub(crate) fn probability(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| "not a probability between 0 and 1".into())
}

/// Reads an option that names two cores.
pub(crate) fn parse_cores(text: &str) -> Result<(usize, usize), String> {
    let cores = text.split_once(',').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    cores.filter(|(a, b)| a != b).ok_or_else(|| "not two different cores, such as 0,1".into())
}

/// A log at that path, or none.
pub(crate) fn recorder(path: Option<&Path>) -> Result<Box<dyn Recorder>, Failure> {
    match path {
        None => Ok(Box::new(NoRecord)),
        Some(path) => {
            let log = LogFile::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
            Ok(Box::new(log))
        }
    }
}

/// Replaces a status file at once, so that a reader never sees half of it: a line `name = value` for each.
pub(crate) fn write_status(
    path: &Path,
    lines: impl IntoIterator<Item = (String, String)>,
) -> Result<(), Failure> {
    let text: String =
        lines.into_iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text)?;
    std::fs::rename(&partial, path)?;
    Ok(())
}

/// A point in time on the clock that all processes of the machine share, to put their reports together.
pub(crate) fn clock_section(key: &str, label: &str, at: Instant) -> Section {
    Section::new("clock", "on the machine's clock").number(
        key,
        label,
        f64_of(at.as_nanos()) / 1e9,
        "s",
    )
}

/// Prints the report, writes its JSON, and turns the verdict into an exit status.
pub(crate) fn conclude(
    report: &Report,
    json: Option<&Path>,
    clean: bool,
) -> Result<ExitCode, Failure> {
    std::io::stdout().write_all(report.to_string().as_bytes())?;
    if let Some(path) = json {
        report.write_json(path).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

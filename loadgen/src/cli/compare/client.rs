//! Runs of the client: this program by its other commands, so that whoever reads a report can repeat them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::super::{Failure, Stop};
use super::server::last_line;

/// What a run of the client said, and how it was called.
pub(super) struct Outcome {
    pub(super) report: Value,
    pub(super) command: String,
}

/// Runs `loadgen` with these words on those cores, and reads its report. A run that takes longer than so many seconds is
/// ended; so is one when this process is.
pub(super) fn run(
    words: &[String],
    cores: &str,
    scratch: &Path,
    seconds_max: f64,
    stop: &Stop,
) -> Result<Outcome, Failure> {
    let (json, log) = (scratch.join("client.json"), scratch.join("client.log"));
    let _ = std::fs::remove_file(&json);
    let output = File::create(&log)?;
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "taskset", "-c", cores])
        .arg(own_program()?)
        .args(words)
        .arg("--json")
        .arg(&json)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs_f64(seconds_max);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if stop.is_raised() || std::time::Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            let why = if stop.is_raised() { "stopped by a signal" } else { "it does not end" };
            return Err(why.into());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    if !status.success() {
        return Err(format!("the client ended with {status}: {}", last_line(&log)).into());
    }
    let report = serde_json::from_str(&std::fs::read_to_string(&json)?)?;
    Ok(Outcome { report, command: format!("loadgen {}", words.join(" ")) })
}

pub(super) fn own_program() -> Result<PathBuf, Failure> {
    Ok(std::env::current_exe()?)
}

/// A figure of a report, by its path.
pub(super) fn figure(report: &Value, path: &[&str]) -> Result<f64, Failure> {
    let found = path.iter().try_fold(report, |value, key| value.get(key));
    let number = found.and_then(Value::as_f64);
    number.ok_or_else(|| format!("the report has no figure {}", path.join(".")).into())
}

//! `gateway status`: asks a running gateway, and shows its answer.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Snapshot;
use super::table;

/// How long a gateway may take for its whole answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most bytes of an answer: more is not from a gateway.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// What is shown, and whether all is well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The text.
    pub text: String,
    /// Whether every queue is in service with all of its copies, as far as they are shown.
    pub is_well: bool,
}

/// Asks the gateway at that socket and makes a text of its answer: for people, or as JSON; all queues or
/// one.
///
/// # Errors
/// Why there is no answer, or no such queue.
pub fn show(socket: &Path, json: bool, queue: Option<&str>) -> Result<Shown, String> {
    let mut snapshot = ask(socket, PATIENCE)?;
    if let Some(name) = queue {
        snapshot.queues.retain(|it| it.queue == name);
        if snapshot.queues.is_empty() {
            return Err(format!("the gateway tells of no queue named {name:?}"));
        }
    }
    let is_well = snapshot.is_well();
    let text = match json {
        true => serde_json::to_string(&snapshot).map_err(|error| error.to_string())? + "\n",
        false => table::text(&snapshot),
    };
    Ok(Shown { text, is_well })
}

fn ask(socket: &Path, patience: Duration) -> Result<Snapshot, String> {
    let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", socket.display());
    let deadline = Instant::now() + patience;
    let mut stream = UnixStream::connect(socket)
        .map_err(|error| failed(&format!("no gateway can be asked there: {error}")))?;
    let mut answer = Vec::new();
    let mut block = [0; 1 << 16];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(failed(&format!("no whole answer within {patience:?}")));
        }
        stream.set_read_timeout(Some(left)).map_err(|error| failed(&error))?;
        match stream.read(&mut block) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&block[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(&error)),
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            return Err(failed(&"the answer is too long for a gateway's"));
        }
    }
    if let Ok(Refusal { error }) = serde_json::from_slice(&answer) {
        return Err(failed(&error));
    }
    serde_json::from_slice(&answer)
        .map_err(|error| failed(&format!("the answer is not a gateway's: {error}")))
}

/// What is sent instead of a snapshot.
#[derive(serde::Deserialize)]
struct Refusal {
    error: String,
}

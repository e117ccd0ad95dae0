//! `gateway status` and `gateway move`: ask a running gateway, and show its answer.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Snapshot;
use super::orders::{Order, Outcome};
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

/// Has the gateway at that socket follow an order; returns what it says that it does.
///
/// # Errors
/// Why it does not, or that it is not known whether it does.
pub fn give(socket: &Path, order: &Order) -> Result<String, String> {
    let line = serde_json::to_string(order).map_err(|error| error.to_string())? + "\n";
    let answer = exchange(socket, &line, PATIENCE)?;
    match serde_json::from_slice(&answer) {
        Ok(Outcome::Done(done)) => Ok(done),
        Ok(Outcome::Error(why)) => Err(why),
        Err(_) => Err(format!("{}: the answer is none to an order: try again", socket.display())),
    }
}

fn ask(socket: &Path, patience: Duration) -> Result<Snapshot, String> {
    let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", socket.display());
    let answer = exchange(socket, "", patience)?;
    if let Ok(Outcome::Error(why)) = serde_json::from_slice(&answer) {
        return Err(failed(&why));
    }
    serde_json::from_slice(&answer)
        .map_err(|error| failed(&format!("the answer is not a gateway's: {error}")))
}

/// Says that, and nothing more, and reads the whole answer.
fn exchange(socket: &Path, request: &str, patience: Duration) -> Result<Vec<u8>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", socket.display());
    let deadline = Instant::now() + patience;
    let mut stream = UnixStream::connect(socket)
        .map_err(|error| failed(&format!("no gateway can be asked there: {error}")))?;
    // One that has sent us away already has closed its end: its answer says why.
    let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
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
            // It was not interested in what we said.
            Err(error)
                if error.kind() == std::io::ErrorKind::ConnectionReset && !answer.is_empty() =>
            {
                break;
            }
            Err(error) => return Err(failed(&error)),
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            return Err(failed(&"the answer is too long for a gateway's"));
        }
    }
    Ok(answer)
}

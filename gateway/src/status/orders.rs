//! What the operator asks of a running gateway beyond its status, over the same socket: one line of JSON, answered
//! by one.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// Copies are to go from one server to another.
    Move {
        /// Of which queues.
        of: Of,
        /// The server that has them.
        from: String,
        /// The server that gets them.
        to: String,
    },
    /// Copies that are being moved are to stay where they are.
    CancelMove {
        /// Of which queues.
        of: Of,
    },
    /// Queues of which nobody can say whose they are have not been taken over: what is in them is to be delivered.
    Resume,
}

/// Queues. Those that share a record in the register move together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// The queue of that name, and those that share its record.
    Queue(String),
    /// All queues of the group.
    Group(String),
}

/// What became of an order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is being done: what, in words.
    Done(String),
    /// It is not: why.
    Error(String),
}

/// How long whoever says nothing and does not say that it will say nothing is waited for, before it gets a
/// snapshot. An order that comes later than that is not read, and its sender sees that it gets something else.
const SILENCE: Duration = Duration::from_millis(100);

/// How long a line may take that has begun.
const LINE_PATIENCE: Duration = Duration::from_secs(1);

/// Most bytes of a line. One that is longer is not an order.
const LINE_BYTES_MAX: usize = 4096;

/// Reads what somebody asks for: nothing, an order, or what is none.
pub(super) fn read(mut stream: &UnixStream) -> Option<Result<Order, String>> {
    let mut line = Vec::new();
    let mut deadline = Instant::now() + SILENCE;
    let mut block = [0; 512];
    while !line.contains(&b'\n') && line.len() <= LINE_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            break;
        }
        match stream.read(&mut block) {
            Ok(0) => break,
            Ok(length) => {
                if line.is_empty() {
                    deadline = Instant::now() + LINE_PATIENCE;
                }
                line.extend_from_slice(&block[..length]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if line.is_empty() {
        return None;
    }
    Some(serde_json::from_slice(&line).map_err(|error| format!("this is no order: {error}")))
}

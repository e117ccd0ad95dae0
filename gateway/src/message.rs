//! A queued message: envelope, content, and the small record of how far delivery has come.

use std::sync::Arc;

use bytes::Bytes;

/// A queue of this gateway: its place in the configuration's list. Handles on the links are the
/// same number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueIndex(pub u32);

/// Who a message is from and to, within one queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The reverse-path without its brackets; empty is the null reverse-path.
    pub reverse_path: Box<str>,
    /// The forward-paths of this queue without brackets, in the client's order; not empty, at most
    /// [`RECIPIENTS_MAX`].
    pub recipients: Vec<Box<str>>,
    /// The client declared BODY=8BITMIME.
    pub eight_bit: bool,
    /// Some line of the content begins with a dot, so that sending needs dot-stuffing.
    pub leading_dot: bool,
    /// When it was accepted, in milliseconds since 1970 (UTC).
    pub accepted_unix_ms: u64,
}

/// Most recipients of one message in one queue; RCPT beyond it is answered 452 (RFC 5321
/// §4.5.3.1.10 asks for at least 100). Bounded so that a [`DeliveryState`] fits a state record.
pub const RECIPIENTS_MAX: usize = 1000;

/// One message as it stands in one queue.
#[derive(Debug)]
pub struct Message {
    /// From and to.
    pub envelope: Envelope,
    /// The content: our Received line and what the client sent, canonical (lines end with CRLF, not
    /// dot-stuffed, end of data not included). Shared between the queues of one mail.
    pub content: Bytes,
    /// CRC32C of `content`, computed once.
    pub content_checksum: u32,
}

/// A shared message.
pub type MessageRef = Arc<Message>;

/// How far delivery has come: backed up by `replace`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeliveryState {
    /// Attempts that ended with a transient failure.
    pub attempts: u16,
    /// When the next attempt is due, in milliseconds since 1970 (UTC); 0: at once.
    pub due_unix_ms: u64,
    /// One bit per recipient, by its place in the envelope: set when nothing is left to do for it
    /// (delivered, or failed for good). Empty means none.
    pub settled: Vec<u8>,
}

impl DeliveryState {
    /// Whether recipient number `place` needs nothing more.
    pub fn is_settled(&self, place: usize) -> bool {
        self.settled.get(place / 8).is_some_and(|byte| byte & (1 << (place % 8)) != 0)
    }

    /// Notes that recipient number `place` needs nothing more.
    pub fn settle(&mut self, place: usize) {
        if self.settled.len() <= place / 8 {
            self.settled.resize(place / 8 + 1, 0);
        }
        self.settled[place / 8] |= 1 << (place % 8);
    }
}

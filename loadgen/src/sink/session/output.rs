//! Replies on their way out, some of them a byte at a time.

use std::time::Duration;

use tcpstack::Instant;

/// Gathers replies and says how much of them may go now.
#[derive(Debug, Default)]
pub(in super::super) struct Output {
    bytes: Vec<u8>,
    sent: usize,
    /// From here on one byte goes at a time.
    trickle_from: Option<usize>,
    /// When the next such byte may go.
    due: Instant,
}

/// The time between two bytes that trickle.
const TRICKLE_INTERVAL: Duration = Duration::from_secs(1);

impl Output {
    /// Adds to what is to be sent.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What is added from now on trickles, until all has been sent.
    pub(super) fn trickle(&mut self) {
        self.trickle_from.get_or_insert(self.bytes.len());
    }

    /// Whether all has been sent.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether something of it trickles.
    pub(super) fn is_trickling(&self) -> bool {
        self.trickle_from.is_some()
    }

    /// What may be sent now.
    pub(in super::super) fn sendable(&self, now: Instant) -> &[u8] {
        let end = match self.trickle_from {
            None => self.bytes.len(),
            Some(from) if self.sent < from => from,
            Some(_) if now >= self.due => self.bytes.len().min(self.sent + 1),
            Some(_) => self.sent,
        };
        &self.bytes[self.sent..end]
    }

    /// So many bytes have been sent.
    pub(in super::super) fn note_sent(&mut self, count: usize, now: Instant) {
        self.sent += count;
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
            self.trickle_from = None;
        } else if count > 0 && self.trickle_from.is_some_and(|from| self.sent >= from) {
            self.due = now + TRICKLE_INTERVAL;
        }
    }

    /// When more may be sent, if that is only a matter of time.
    pub(in super::super) fn next_due(&self) -> Option<Instant> {
        self.trickle_from.filter(|&from| self.sent >= from).map(|_| self.due)
    }

    /// All that has not been sent.
    #[cfg(test)]
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_trickles_goes_byte_by_byte_and_what_was_before_it_at_once() {
        let mut output = Output::default();
        let start = Instant::ZERO + Duration::from_secs(5);
        output.push(b"now");
        output.trickle();
        output.push(b"ab");
        assert_eq!(output.sendable(start), b"now");
        output.note_sent(3, start);
        assert_eq!(
            (output.sendable(start), output.next_due()),
            (&b""[..], Some(start + TRICKLE_INTERVAL))
        );
        let later = start + TRICKLE_INTERVAL;
        assert_eq!(output.sendable(later), b"a");
        output.note_sent(1, later);
        assert_eq!(output.sendable(later), b"");
        assert_eq!(output.sendable(later + TRICKLE_INTERVAL), b"b");
        output.note_sent(1, later + TRICKLE_INTERVAL);
        assert!(output.is_empty() && output.next_due().is_none());
        output.push(b"again");
        assert_eq!(output.sendable(later), b"again");
    }
}

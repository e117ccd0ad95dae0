//! A message on its way: waiting, or in a transaction.

use kvs_proto::MessageId;

use super::share::Share;
use crate::api::Outcome;
use crate::message::{DeliveryState, MessageRef, Recipient, RecipientStatus};

/// A message that the queue wants delivered. Its recipients may take several transactions, one
/// after the other.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: MessageId,
    pub(super) message: MessageRef,
    /// With what came of the transactions so far.
    pub(super) state: DeliveryState,
    /// Recipients that had no transaction yet, by their places in the envelope, ascending.
    pub(super) left: Vec<usize>,
    /// A transaction was judged, so that the state is news.
    pub(super) is_begun: bool,
}

impl Attempt {
    /// An attempt for all recipients that are open. Without any it is over before it begins.
    pub(super) fn new(id: MessageId, message: MessageRef, state: DeliveryState) -> Attempt {
        let places = 0..message.envelope.recipients.len();
        let is_open = |it: &usize| state.status(*it) == RecipientStatus::Open;
        let left: Vec<usize> = places.filter(is_open).collect();
        let is_begun = left.is_empty();
        Attempt { id, message, state, left, is_begun }
    }

    /// The outcome when nothing more is tried now.
    pub(super) fn end(self) -> Outcome {
        let recipients = self.message.envelope.recipients.len();
        if !self.is_begun {
            Outcome::NotAttempted
        } else if self.state.has_open(recipients) || self.state.is_report_due(recipients) {
            Outcome::Deferred { state: self.state }
        } else {
            Outcome::Settled
        }
    }
}

/// A transaction on a connection.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) attempt: Attempt,
    pub(super) share: Share,
    pub(super) started_unix_ms: u64,
}

impl InFlight {
    /// The recipients that are offered, in order.
    pub(super) fn recipients(&self) -> impl ExactSizeIterator<Item = &Recipient> + Clone {
        let recipients = &self.attempt.message.envelope.recipients;
        self.share.places.iter().map(|place| &recipients[*place])
    }

    /// As if this transaction had not been.
    pub(super) fn undo(self) -> Attempt {
        let mut attempt = self.attempt;
        attempt.left.extend(self.share.places);
        attempt.left.sort_unstable();
        attempt
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use smtp::Reply;

    use super::*;
    use crate::message::{Envelope, Message};

    fn attempt(settled: &[usize]) -> Attempt {
        let recipients = ["0@a", "1@a", "2@a"].map(Recipient::new).into();
        let envelope = Envelope::new("s@x", recipients);
        let mut state = DeliveryState::default();
        settled.iter().for_each(|it| state.set_status(*it, RecipientStatus::Settled));
        let message = Message { envelope, content: bytes::Bytes::new() };
        Attempt::new(MessageId(1), Arc::new(message), state)
    }

    #[test]
    fn only_open_recipients_are_left_and_an_undone_transaction_leaves_them_so() {
        let mut attempt = attempt(&[1]);
        assert_eq!(attempt.left, [0, 2]);
        let share = Share { places: vec![attempt.left.remove(0)], is_silent: false };
        let in_flight = InFlight { attempt, share, started_unix_ms: 0 };
        assert_eq!(in_flight.recipients().next().map(|it| &*it.address), Some("0@a"));
        assert_eq!(in_flight.undo().left, [0, 2]);
    }

    #[test]
    fn the_outcome_says_whether_anything_is_left_or_has_to_be_told() {
        assert!(matches!(attempt(&[]).end(), Outcome::NotAttempted));
        assert!(matches!(attempt(&[0, 1, 2]).end(), Outcome::Settled));
        let begun = |settled| Attempt { is_begun: true, ..attempt(settled) };
        assert!(matches!(begun(&[0, 1, 2]).end(), Outcome::Settled));
        assert!(matches!(begun(&[0, 2]).end(), Outcome::Deferred { .. }));
        let mut failed = begun(&[0, 1]);
        failed.state.explain(2, &Reply::local(550, (5, 1, 1), "unknown"), "");
        failed.state.set_status(2, RecipientStatus::Failed);
        assert!(matches!(failed.end(), Outcome::Deferred { .. }));
    }
}

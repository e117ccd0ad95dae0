//! From the results of a transaction to the outcome of an attempt, and its records.

use std::fmt;
use std::net::SocketAddr;

use smtp::{Finished, RecipientResult, Reply, Results};

use super::lane::Attempt;
use crate::api::Outcome;
use crate::front::counters::DeliveryCounters;
use crate::front::record::Attempted;
use crate::message::{Recipient, RecipientStatus};

/// An attempt on a connection.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) attempt: Attempt,
    /// The recipients that were offered, by their places in the envelope: those not settled.
    pub(super) places: Vec<usize>,
    pub(super) started_unix_ms: u64,
}

impl InFlight {
    /// Prepares an attempt.
    pub(super) fn new(attempt: Attempt, unix_ms: u64) -> InFlight {
        let recipients = attempt.message.envelope.recipients.len();
        let places = (0..recipients)
            .filter(|place| attempt.state.status(*place) == RecipientStatus::Open)
            .collect();
        InFlight { attempt, places, started_unix_ms: unix_ms }
    }

    /// The recipients that are offered, in order.
    pub(super) fn recipients(&self) -> impl ExactSizeIterator<Item = &Recipient> + Clone {
        let recipients = &self.attempt.message.envelope.recipients;
        self.places.iter().map(|place| &recipients[*place])
    }
}

/// What the shard is told about a finished attempt. Counts and records it.
pub(super) fn settle(
    in_flight: InFlight,
    finished: Finished,
    queue_name: &str,
    next_hop: SocketAddr,
    unix_ms: u64,
    counters: &mut DeliveryCounters,
) -> Outcome {
    let Results::Recipients(results) = finished.results else {
        counters.not_attempted += 1;
        return Outcome::NotAttempted;
    };
    assert!(results.len() == in_flight.places.len(), "one result for each recipient");
    let envelope = &in_flight.attempt.message.envelope;
    let attempted = Attempted {
        queue: queue_name,
        id: in_flight.attempt.id,
        from: &envelope.reverse_path,
        next_hop,
        age_ms: unix_ms.saturating_sub(envelope.accepted_unix_ms),
        took_ms: unix_ms.saturating_sub(in_flight.started_unix_ms),
    };
    for kind in [Kind::Delivered, Kind::Deferred, Kind::Failed] {
        let of_kind = results.iter().zip(in_flight.recipients());
        let of_kind = of_kind.filter(|(result, _)| Kind::of(result) == kind);
        if let Some((first, _)) = of_kind.clone().next() {
            let reply = reply_of(first, finished.reply.as_ref());
            attempted.ended(kind.name(), of_kind.map(|(_, recipient)| &*recipient.address), reply);
        }
    }
    let mut is_settled = true;
    let mut state = in_flight.attempt.state;
    for (result, place) in results.iter().zip(&in_flight.places) {
        match Kind::of(result) {
            Kind::Delivered => counters.delivered += 1,
            Kind::Failed => counters.failed += 1,
            Kind::Deferred => {
                counters.deferred += 1;
                counters.unknown += u64::from(*result == RecipientResult::Unknown);
                is_settled = false;
                continue;
            }
        }
        state.set_status(*place, RecipientStatus::Settled);
    }
    if is_settled { Outcome::Settled } else { Outcome::Deferred { state } }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Delivered,
    Deferred,
    Failed,
}

impl Kind {
    fn of(result: &RecipientResult) -> Kind {
        match result {
            RecipientResult::Delivered => Kind::Delivered,
            RecipientResult::Transient(_) | RecipientResult::Unknown => Kind::Deferred,
            RecipientResult::Permanent(_) => Kind::Failed,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Delivered => "delivered",
            Kind::Deferred => "deferred",
            Kind::Failed => "failed",
        }
    }
}

/// The reply that decided a result.
fn reply_of<'a>(result: &'a RecipientResult, to_data: Option<&'a Reply>) -> ShownReply<'a> {
    ShownReply(match result {
        RecipientResult::Delivered => to_data,
        RecipientResult::Transient(reply) | RecipientResult::Permanent(reply) => Some(reply),
        RecipientResult::Unknown => None,
    })
}

struct ShownReply<'a>(Option<&'a Reply>);

impl fmt::Display for ShownReply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(reply) => reply.fmt(f),
            None => f.write_str("no answer to the end of data"),
        }
    }
}

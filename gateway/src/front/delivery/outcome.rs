//! From the results of a transaction to the state of its message, and its records.

use std::borrow::Cow;
use std::net::SocketAddr;

use smtp::{RecipientResult, Reply};

use super::attempt::InFlight;
use crate::front::counters::DeliveryCounters;
use crate::front::record::Attempted;
use crate::message::{Envelope, RecipientEvent, RecipientStatus};

/// What a transaction was part of, and what its end says.
#[derive(Debug)]
pub(super) struct Ended<'a> {
    pub(super) queue_name: &'a str,
    pub(super) next_hop: SocketAddr,
    pub(super) unix_ms: u64,
    /// One for each recipient of the transaction.
    pub(super) results: &'a [RecipientResult],
    /// The reply to the end of data.
    pub(super) reply: Option<&'a Reply>,
    /// The next hop reports success itself.
    pub(super) dsn_passed_on: bool,
}

impl Ended<'_> {
    /// Notes in the message's state what became of the recipients, counts and records it.
    pub(super) fn settle(&self, in_flight: &mut InFlight, counters: &mut DeliveryCounters) {
        assert!(self.results.len() == in_flight.share.places.len(), "one result for each");
        self.record(in_flight);
        let next_hop = std::cell::LazyCell::new(|| self.next_hop.to_string());
        let attempt = &mut in_flight.attempt;
        attempt.is_begun = true;
        let envelope = &attempt.message.envelope;
        for (result, place) in self.results.iter().zip(&in_flight.share.places) {
            let kind = Kind::of(result);
            match kind {
                Kind::Delivered => counters.delivered += 1,
                Kind::Failed => counters.failed += 1,
                Kind::Deferred => {
                    counters.deferred += 1;
                    counters.unknown += u64::from(*result == RecipientResult::Unknown);
                }
            }
            let status = self.status(kind, envelope, *place);
            if status != RecipientStatus::Settled {
                let reply = self.reply_of(result);
                let who = if reply.is_ours { "" } else { next_hop.as_str() };
                attempt.state.explain(*place, &reply, who);
            }
            attempt.state.set_status(*place, status);
        }
    }

    fn status(&self, kind: Kind, envelope: &Envelope, place: usize) -> RecipientStatus {
        let is_told = |event| envelope.wants_report(place, event);
        match kind {
            Kind::Deferred => RecipientStatus::Open,
            Kind::Failed if is_told(RecipientEvent::Failed) => RecipientStatus::Failed,
            Kind::Delivered if !self.dsn_passed_on && is_told(RecipientEvent::Delivered) => {
                RecipientStatus::Delivered
            }
            Kind::Failed | Kind::Delivered => RecipientStatus::Settled,
        }
    }

    fn record(&self, in_flight: &InFlight) {
        let envelope = &in_flight.attempt.message.envelope;
        let attempted = Attempted {
            queue: self.queue_name,
            id: in_flight.attempt.id,
            from: &envelope.reverse_path,
            next_hop: self.next_hop,
            age_ms: self.unix_ms.saturating_sub(envelope.accepted_unix_ms),
            took_ms: self.unix_ms.saturating_sub(in_flight.started_unix_ms),
        };
        for kind in [Kind::Delivered, Kind::Deferred, Kind::Failed] {
            let of_kind = self.results.iter().zip(in_flight.recipients());
            let of_kind = of_kind.filter(|(result, _)| Kind::of(result) == kind);
            if let Some((first, _)) = of_kind.clone().next() {
                let to = of_kind.map(|(_, recipient)| &*recipient.address);
                attempted.ended(kind.name(), to, self.reply_of(first));
            }
        }
    }

    /// The reply that decided a result.
    fn reply_of<'a>(&'a self, result: &'a RecipientResult) -> Cow<'a, Reply> {
        let reply = match result {
            RecipientResult::Delivered => self.reply,
            RecipientResult::Transient(reply) | RecipientResult::Permanent(reply) => Some(reply),
            RecipientResult::Unknown => None,
        };
        reply.map(Cow::Borrowed).unwrap_or_else(|| {
            Cow::Owned(Reply::local(451, (4, 4, 2), "No answer to the end of data"))
        })
    }
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

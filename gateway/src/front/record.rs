//! One line for each outcome of a mail, as a record: events of tracing with the target `record`.
//!
//! Addresses in them were checked when they came in, and replies when they were read, so nothing
//! in a record can break a line.

use std::fmt;
use std::net::SocketAddr;

use kvs_proto::MessageId;
use tracing::info;

use crate::message::Envelope;

/// The target of all records.
pub const TARGET: &str = "record";

/// A mail is committed in one of its queues.
pub(super) fn accepted(
    queue: &str,
    id: MessageId,
    mail_id: impl fmt::Display,
    envelope: &Envelope,
    size_bytes: usize,
) {
    info!(
        target: TARGET,
        outcome = "accepted",
        queue,
        id = id.0,
        mail = %mail_id,
        from = %envelope.reverse_path,
        to = %List(envelope.recipients.iter().map(|recipient| &*recipient.address)),
        size_bytes,
    );
}

/// What the record of a report says.
pub(super) struct Reported<'a> {
    /// The queue and id of the message that it tells of.
    pub(super) queue: &'a str,
    pub(super) id: MessageId,
    /// Its Message-ID without brackets.
    pub(super) report: &'a str,
    pub(super) to: &'a str,
    /// So many recipients it tells of.
    pub(super) recipients: usize,
    /// Where it was stored, and its id there.
    pub(super) report_queue: &'a str,
    pub(super) report_id: MessageId,
    pub(super) size_bytes: usize,
}

/// A report to a sender is committed.
pub(super) fn reported(it: &Reported<'_>) {
    info!(
        target: TARGET,
        outcome = "reported",
        queue = it.queue,
        id = it.id.0,
        report = it.report,
        to = it.to,
        recipients = it.recipients,
        report_queue = it.report_queue,
        report_id = it.report_id.0,
        size_bytes = it.size_bytes,
    );
}

/// A sender cannot be told what became of a message: nothing is routed there.
pub(super) fn report_dropped(queue: &str, id: MessageId, to: &str) {
    info!(target: TARGET, outcome = "report_dropped", queue, id = id.0, to);
}

/// What all records of one delivery attempt say.
pub(super) struct Attempted<'a> {
    pub(super) queue: &'a str,
    pub(super) id: MessageId,
    pub(super) from: &'a str,
    pub(super) next_hop: SocketAddr,
    /// From acceptance to now.
    pub(super) age_ms: u64,
    /// From MAIL to now.
    pub(super) took_ms: u64,
}

impl Attempted<'_> {
    /// Some recipients of the attempt have this outcome.
    pub(super) fn ended<'a>(
        &self,
        outcome: &'static str,
        to: impl Iterator<Item = &'a str> + Clone,
        reply: impl fmt::Display,
    ) {
        info!(
            target: TARGET,
            outcome,
            queue = self.queue,
            id = self.id.0,
            from = self.from,
            to = %List(to),
            next_hop = %self.next_hop,
            %reply,
            age_ms = self.age_ms,
            took_ms = self.took_ms,
        );
    }
}

/// Addresses with a comma between.
struct List<I>(I);

impl<'a, I: Iterator<Item = &'a str> + Clone> fmt::Display for List<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, item) in self.0.clone().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            f.write_str(item)?;
        }
        Ok(())
    }
}

//! What an SMTP load measured.

use std::time::Duration;

use tcpstack::Instant;

use crate::report::{Latency, Section, f64_of, rate};

/// What an [`SmtpLoad`](super::SmtpLoad) counted and measured so far.
#[derive(Clone, Debug, Default)]
pub struct SmtpStatistics {
    /// Mails begun.
    pub issued: u64,
    /// Mails done, at least one recipient accepted.
    pub accepted: u64,
    /// Mails done, no recipient accepted.
    pub failed: u64,
    /// Mails neither done nor given up when it ended.
    pub unresolved: u64,
    /// Recipients answered 250 together with their mail.
    pub recipients_accepted: u64,
    /// Bytes of content answered 250.
    pub bytes: u64,
    /// Attempts answered 4xx, before or behind the data.
    pub refused_4xx: u64,
    /// Attempts and recipients answered 451.
    pub deferred_451: u64,
    /// Attempts and recipients answered 452: no room, or too many recipients.
    pub deferred_452: u64,
    /// Attempts, or recipients, answered 5xx.
    pub refused_5xx: u64,
    /// Attempts whose final dot was not answered.
    pub unknown: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections that could not be made.
    pub connections_failed: u64,
    /// Connections that ended while a mail was under way.
    pub connections_lost: u64,
    /// Final dot to 250.
    pub dot_to_250: Latency,
    /// From MAIL (closed loop: from when the session took it up; open loop: from when it was due) to
    /// 250, all attempts together.
    pub transaction: Latency,
    /// When the first mail was begun.
    pub begin: Option<Instant>,
    /// When the last 250 came.
    pub last_accepted: Option<Instant>,
}

impl SmtpStatistics {
    /// From the first mail's beginning to the last 250.
    pub fn elapsed(&self) -> Duration {
        match (self.begin, self.last_accepted) {
            (Some(begin), Some(last)) => last.saturating_since(begin),
            _ => Duration::ZERO,
        }
    }

    /// Whether there was mail, and all of it was accepted.
    pub fn is_complete(&self) -> bool {
        self.issued > 0 && self.accepted == self.issued
    }

    /// The measurements as a report's section.
    pub fn section(&self) -> Section {
        let elapsed = self.elapsed();
        Section::new("smtp", "mail sent")
            .count("issued", "mails begun", self.issued)
            .count("accepted", "accepted", self.accepted)
            .count("failed", "refused for good", self.failed)
            .count("unresolved", "unresolved at the end", self.unresolved)
            .count("recipients_accepted", "recipients accepted", self.recipients_accepted)
            .number("elapsed_s", "time", elapsed.as_secs_f64(), "s")
            .number("rate", "accepted a second", rate(self.accepted, elapsed), "mails/s")
            .number("mib_per_s", "content", rate(self.bytes, elapsed) / f64_of(1 << 20), "MiB/s")
            .latency("dot_to_250", "final dot to 250", &self.dot_to_250)
            .latency("transaction", "whole transaction", &self.transaction)
            .count("refused_4xx", "answered 4xx", self.refused_4xx)
            .count("deferred_451", "of these and of recipients 451", self.deferred_451)
            .count("deferred_452", "of these and of recipients 452", self.deferred_452)
            .count("refused_5xx", "answered 5xx", self.refused_5xx)
            .count("unknown", "final dot not answered", self.unknown)
            .count("connections", "connections", self.connections)
            .count("connections_failed", "connections failed", self.connections_failed)
            .count("connections_lost", "connections lost", self.connections_lost)
    }
}

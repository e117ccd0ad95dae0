//! What a ledger finds.

use std::fmt;

use crate::identity::MailId;
use crate::report::Section;

/// What the ledger found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What was counted.
    pub counts: Counts,
    /// The first faults of each kind, at most 10 of each.
    pub examples: Vec<Problem>,
}

impl Verdict {
    /// Whether there is no fault at all, and something was there to be judged.
    pub fn is_clean(&self) -> bool {
        self.counts.faults.iter().all(|&count| count == 0) && self.counts.accepted > 0
    }

    /// The faults as a report's section.
    pub fn section(&self) -> Section {
        let mut section = Section::new("verdict", "verdict");
        for kind in ProblemKind::ALL {
            section = section.count(kind.name(), kind.name(), self.counts.faults[kind as usize]);
        }
        for (place, problem) in self.examples.iter().enumerate() {
            section = section.text(&format!("example_{place}"), "for example", problem.to_string());
        }
        section.flag("clean", "clean", self.is_clean())
    }
}

/// What a ledger counted. Recipients are counted each for itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Mails that a sender was about to send.
    pub mails: u64,
    /// Recipients for which a sender got 250.
    pub accepted: u64,
    /// Recipients never answered 250.
    pub not_accepted: u64,
    /// Attempts of senders without an answer to the final dot.
    pub unknown_attempts: u64,
    /// Deliveries that a sink answered 250.
    pub delivered: u64,
    /// Accepted recipients that a sink refused for good.
    pub bounced: u64,
    /// Of the lost, those that a sink refused for a while or left unanswered: perhaps only judged
    /// before they were tried again.
    pub lost_deferred: u64,
    /// Deliveries that a sink refused for a while.
    pub transient: u64,
    /// Deliveries that a sink took and did not answer.
    pub unanswered: u64,
    /// Second and further copies that the rules allow.
    pub duplicates_allowed: u64,
    /// Copies of mail never answered 250 that the rules allow.
    pub unacknowledged_allowed: u64,
    /// Deliveries beyond the end of a log without an end: not judged.
    pub beyond_log: u64,
    /// Deliveries with none of our identities.
    pub foreign: u64,
    /// Lines of logs that are no events.
    pub unreadable: u64,
    /// Recipients that a DSN reported as failed.
    pub reported_failed: u64,
    /// Recipients that a DSN reported as delayed.
    pub reported_delayed: u64,
    /// Recipients that a DSN reported as delivered, relayed or expanded.
    pub reported_delivered: u64,
    /// Of the failed, those that no sink had refused for good, where that is allowed.
    pub given_up: u64,
    /// Recipients refused for good without a DSN, because a sink refused that as well.
    pub unreported_allowed: u64,
    /// Senders' logs without an end.
    pub sender_logs_open: u64,
    /// Sinks' logs without an end.
    pub sink_logs_open: u64,
    /// Mails whose order was compared, each in each of its queues.
    pub order_compared: u64,
    /// Mails whose order says nothing: sent more than once, or never attempted.
    pub order_skipped: u64,
    /// By how many mails one was overtaken at most.
    pub displacement_most: u64,
    /// Faults, by [`ProblemKind`] as an index.
    pub faults: [u64; ProblemKind::ALL.len()],
}

impl Counts {
    /// The counts, without the faults, as a report's section.
    pub fn section(&self) -> Section {
        Section::new("ledger", "accounts of both ends")
            .count("mails", "mails", self.mails)
            .count("accepted", "recipients accepted", self.accepted)
            .count("not_accepted", "recipients never accepted", self.not_accepted)
            .count("unknown_attempts", "attempts not answered", self.unknown_attempts)
            .count("delivered", "deliveries answered 250", self.delivered)
            .count("bounced", "refused for good by a sink", self.bounced)
            .count("lost_deferred", "lost, deferred by a sink before", self.lost_deferred)
            .count("transient", "refused for a while by a sink", self.transient)
            .count("unanswered", "deliveries not answered", self.unanswered)
            .count("duplicates_allowed", "allowed duplicates", self.duplicates_allowed)
            .count("unacknowledged_allowed", "allowed without 250", self.unacknowledged_allowed)
            .count("reported_failed", "reported as failed", self.reported_failed)
            .count("reported_delayed", "reported as delayed", self.reported_delayed)
            .count("reported_delivered", "reported as delivered", self.reported_delivered)
            .count("given_up", "given up without a refusal", self.given_up)
            .count("unreported_allowed", "DSN refused by a sink", self.unreported_allowed)
            .count("order_compared", "compared for order", self.order_compared)
            .count("order_skipped", "not compared for order", self.order_skipped)
            .count("displacement_most", "overtaken by at most", self.displacement_most)
            .count("foreign", "foreign deliveries", self.foreign)
            .count("beyond_log", "beyond the end of a log", self.beyond_log)
            .count("sender_logs_open", "sender logs without an end", self.sender_logs_open)
            .count("sink_logs_open", "sink logs without an end", self.sink_logs_open)
    }
}

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProblemKind {
    /// Answered 250 and delivered nowhere.
    Lost,
    /// Content that is not what was sent.
    Altered,
    /// More copies than allowed.
    Duplicated,
    /// A mail for a recipient who was not among its own.
    Misdelivered,
    /// A delivery of something that nobody sent.
    Invented,
    /// Mail delivered although the sender was told that it would not be.
    Unacknowledged,
    /// First attempts out of order by more than allowed.
    Reordered,
    /// A log's line that is no event.
    Unreadable,
    /// Refused for good by a sink, and no DSN says so.
    Unreported,
    /// A DSN that should not be: about what was delivered, about what nobody sent, about a mail with
    /// the null reverse-path, or without sense.
    Misreported,
}

impl ProblemKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [ProblemKind; 10] = [
        ProblemKind::Lost,
        ProblemKind::Altered,
        ProblemKind::Duplicated,
        ProblemKind::Misdelivered,
        ProblemKind::Invented,
        ProblemKind::Unacknowledged,
        ProblemKind::Reordered,
        ProblemKind::Unreadable,
        ProblemKind::Unreported,
        ProblemKind::Misreported,
    ];

    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            ProblemKind::Lost => "lost",
            ProblemKind::Altered => "altered",
            ProblemKind::Duplicated => "duplicated",
            ProblemKind::Misdelivered => "misdelivered",
            ProblemKind::Invented => "invented",
            ProblemKind::Unacknowledged => "unacknowledged",
            ProblemKind::Reordered => "reordered",
            ProblemKind::Unreadable => "unreadable",
            ProblemKind::Unreported => "unreported",
            ProblemKind::Misreported => "misreported",
        }
    }
}

/// One fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What kind.
    pub kind: ProblemKind,
    /// Which mail, where known.
    pub mail: Option<MailId>,
    /// What happened, in a few words.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind.name())?;
        if let Some(mail) = self.mail {
            write!(f, "mail {mail} ")?;
        }
        f.write_str(&self.what)
    }
}

//! All that passes between the SMTP side (reception and delivery) and the queues.
//!
//! Both sides are state machines; a worker's loop carries [`Command`]s to the shard that owns the
//! queue and [`Notice`]s back, by a local queue when both are on one thread and by a bounded ring
//! when not.
//!
//! A mail's way, as seen here: reception reserves room on the [`Board`](crate::board::Board),
//! sends one `Store` per queue, gets `Committed` or `Refused` for each. When all are committed it
//! sends `Release` for each, and the session gets its 250. When one was refused, or too much time
//! has passed, it sends `Withdraw` for each that was not refused, and the session gets 451: so a
//! mail that its client was refused is never delivered. Delivery keeps the
//! shard informed how many attempts it can take (`Slots`), gets `Attempt`s in order and answers
//! each with exactly one `Outcome`.
//!
//! Where the sender of a mail has to be told something, the shard hands out a `Report`; the front
//! makes a mail of it (a DSN), stores that like any other, and answers with exactly one
//! `ReportOutcome` when it is committed. Only then the shard lets go of what it tells of.

use kvs_proto::{MessageId, StateVersion};

use crate::message::{DeliveryState, MessageRef, QueueIndex};

/// Names one mail that reception waits for: which front, and its ticket there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket {
    /// The front (SMTP side) that sent it, by number.
    pub front: u16,
    /// Never used twice by that front.
    pub serial: u64,
}

/// From the SMTP side to the shard that owns the queue.
#[derive(Debug)]
pub enum Command {
    /// Append and replicate; not ready for delivery before `Release`. Room was reserved before (see
    /// `Board::reserve`), and goes over to the shard with this.
    Store {
        /// Where.
        queue: QueueIndex,
        /// Who asks.
        ticket: Ticket,
        /// What.
        message: MessageRef,
    },
    /// All queues of the mail have committed: ready.
    Release {
        /// Where.
        queue: QueueIndex,
        /// Which.
        id: MessageId,
    },
    /// The client did not get its 250: remove it everywhere, committed or not.
    Withdraw {
        /// Where.
        queue: QueueIndex,
        /// Which mail.
        ticket: Ticket,
    },
    /// Delivery for this queue can take so many more attempts than it has been given and has
    /// not answered. The latest word counts, not the sum.
    Slots {
        /// Which queue.
        queue: QueueIndex,
        /// Attempts that may be outstanding at a time.
        window: u32,
    },
    /// How an attempt ended. Exactly one for each `Attempt`.
    Outcome {
        /// Where.
        queue: QueueIndex,
        /// Which.
        id: MessageId,
        /// How.
        outcome: Outcome,
    },
    /// How the making of a report ended. Exactly one for each `Report`.
    ReportOutcome {
        /// Where.
        queue: QueueIndex,
        /// Which message it was about.
        id: MessageId,
        /// How.
        outcome: ReportOutcome,
    },
}

impl Command {
    /// The queue that it is for.
    pub fn queue(&self) -> QueueIndex {
        match self {
            Command::Store { queue, .. }
            | Command::Release { queue, .. }
            | Command::Withdraw { queue, .. }
            | Command::Slots { queue, .. }
            | Command::Outcome { queue, .. }
            | Command::ReportOutcome { queue, .. } => *queue,
        }
    }
}

/// How one delivery attempt ended.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing is left to do: each recipient delivered or failed for good. Delete.
    Settled,
    /// Some recipients are left after a transient failure, or the sender has to be told about some.
    /// The state says which; attempts and due time are filled in by the shard's retry schedule.
    Deferred {
        /// With what became of each recipient, and why.
        state: DeliveryState,
    },
    /// Not tried: the destination is down or paused, or we are stopping. The message goes back to its
    /// place, and its attempts do not count.
    NotAttempted,
}

/// How the making of a report ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportOutcome {
    /// It is committed, or nobody can ever get it: what it tells of is done.
    Done {
        /// Of the recipients that it should be about it covers so many, the first in the
        /// envelope's order. The others need another report.
        covered: usize,
    },
    /// There is no room for it now, or it could not be committed. It was withdrawn; the message
    /// stays, *bounce pending*, and it is tried again.
    Postponed,
}

/// Something that a sender has to be told about a message.
#[derive(Debug)]
pub struct Report {
    /// Of what.
    pub kind: ReportKind,
    /// The message.
    pub message: MessageRef,
    /// What became of its recipients. Every copy that counts has it, so it is the same after a
    /// crash.
    pub state: DeliveryState,
    /// The state's version: with queue, id and kind it names the report.
    pub version: StateVersion,
    /// When what it tells happened, in milliseconds since 1970 (UTC).
    pub at_unix_ms: u64,
    /// Until when the message is tried, likewise.
    pub retry_until_unix_ms: u64,
}

/// What a report is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ReportKind {
    /// Recipients that have failed, or were delivered to.
    Final,
    /// Recipients that are still being tried after an unusual time.
    Delay,
}

/// From a shard to the SMTP side.
#[derive(Debug)]
pub enum Notice {
    /// Queues have begun or ceased to accept mail, as the board says: the front may have ports to
    /// open or to close, and may be asleep.
    AcceptanceChanged,
    /// The policy is met: every copy that counts has it.
    Committed {
        /// Who asked.
        ticket: Ticket,
        /// Where.
        queue: QueueIndex,
        /// The id that it got there.
        id: MessageId,
    },
    /// It could not be committed, and is not in the queue (any more).
    Refused {
        /// Who asked.
        ticket: Ticket,
        /// Where.
        queue: QueueIndex,
    },
    /// Deliver this now. In queue order for first attempts.
    Attempt {
        /// Where from.
        queue: QueueIndex,
        /// Which.
        id: MessageId,
        /// What.
        message: MessageRef,
        /// What earlier attempts achieved.
        state: DeliveryState,
    },
    /// Tell the sender of this message something. Not held back by the destination's state.
    Report {
        /// Where the message is.
        queue: QueueIndex,
        /// Which.
        id: MessageId,
        /// What.
        report: Box<Report>,
    },
}

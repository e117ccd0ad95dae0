//! What a front has counted.

use serde::{Deserialize, Serialize};

/// Counts since the start, except where a field says now. Written by one thread, copied when read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct FrontCounters {
    /// Reception.
    pub reception: ReceptionCounters,
    /// Delivery.
    pub delivery: DeliveryCounters,
    /// Reports to senders.
    pub reports: ReportCounters,
}

/// Counts of reception.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ReceptionCounters {
    /// Sessions now.
    pub sessions: u64,
    /// Sessions begun.
    pub sessions_begun: u64,
    /// Connections turned away with 421: too many in all or of one client, or stopping.
    pub sessions_refused: u64,
    /// Sessions, transactions and recipients beyond what their client may have.
    pub clients_limited: u64,
    /// Clients that spoke before our greeting.
    pub early_talkers: u64,
    /// Replies held back from clients that make mistakes.
    pub replies_held: u64,
    /// Idle sessions that had to make room for newcomers.
    pub sessions_displaced: u64,
    /// Sessions ended because the client was silent, too slow, or did not read.
    pub sessions_timed_out: u64,
    /// Messages whose end of data came.
    pub received: u64,
    /// Messages committed, whether or not the client was still there for its 250.
    pub accepted: u64,
    /// Octets of those, trace header included.
    pub accepted_bytes: u64,
    /// Messages answered 554: they run in a circle.
    pub loops: u64,
    /// Messages answered 451 because they could not be committed.
    pub refused: u64,
    /// Of those, how many because the time-out passed.
    pub commit_timeouts: u64,
    /// DATA or content answered 452 or 451 for shortage.
    pub shortages: u64,
    /// MAIL answered 550: the sender, or the name that the client gave itself.
    pub senders_refused: u64,
    /// Recipients answered 550: not to be relayed to for this client, or not for anybody.
    pub recipients_refused: u64,
    /// Recipients answered 550: their queue knows its recipients, and them not.
    pub recipients_unknown: u64,
    /// Recipients answered 550: no route.
    pub recipients_unrouted: u64,
    /// Recipients answered 451: their queue lacks the copies to accept anything.
    pub recipients_unreplicated: u64,
    /// Recipients answered 450: the operator has suspended their queue's receipt.
    pub recipients_suspended: u64,
    /// Recipients named twice in one transaction, and stored once.
    pub recipients_repeated: u64,
    /// Messages that wait for their commit now.
    pub waiting: u64,
    /// Notices for mails that nobody waits for any more: they crossed a withdrawal.
    pub late_notices: u64,
    /// How often all ports were closed because no queue accepted.
    pub ports_closed: u64,
}

/// Counts of delivery. Recipients unless a field says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DeliveryCounters {
    /// Connections now, those in the making included.
    pub connections: u64,
    /// Connections begun.
    pub connections_begun: u64,
    /// Connections that failed, or ended before their time.
    pub connections_lost: u64,
    /// Attempts taken from the queues (messages).
    pub attempts: u64,
    /// Attempts given back untried (messages).
    pub not_attempted: u64,
    /// The next hop has taken responsibility.
    pub delivered: u64,
    /// To be tried again.
    pub deferred: u64,
    /// Of those, how many may have been delivered: the end of data was sent and not answered.
    pub unknown: u64,
    /// Failed for good.
    pub failed: u64,
    /// Connections that could not be made for a reason of our own: addresses, ports, descriptors.
    pub local_faults: u64,
    /// Pauses of destinations.
    pub pauses: u64,
}

/// Counts of reports to senders (DSN).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportCounters {
    /// Reports that wait for their commit now.
    pub waiting: u64,
    /// Reports committed.
    pub reported: u64,
    /// Reports that had no room or could not be committed, each time: they are tried again.
    pub postponed: u64,
    /// Reports to senders whose domain has no route, and no queue is configured for those.
    pub dropped: u64,
    /// Notices for reports that were withdrawn meanwhile.
    pub late_notices: u64,
}

//! What a backup queue is asked for and what it answers, as data: the link turns it into frames.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvs_proto::{
    ChainHash, ContentDigest, Credit, Epoch, Message as Body, MessageId, Op, Sequence,
    StateVersion, Status, Transaction,
};
use tcpstack::Instant;

use crate::message::QueueIndex;

/// A request for one queue at one server.
#[derive(Clone, Debug)]
pub struct Request {
    /// The queue.
    pub queue: QueueIndex,
    /// Our epoch.
    pub epoch: Epoch,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Make the queue and attach to it.
    Create {
        /// Its name at the server.
        name: Arc<str>,
    },
    /// Take it over or resume.
    Attach {
        /// Its name at the server.
        name: Arc<str>,
    },
    /// Remove it.
    Drop,
    /// A change, in sequence.
    Change {
        /// Its place in the sequence.
        sequence: Sequence,
        /// Everything below may be forgotten by the server.
        floor: Sequence,
        /// What.
        change: Changing,
    },
    /// Read messages in order.
    BlockGet {
        /// After this one.
        after: MessageId,
    },
    /// Say that you are there.
    IsAlive,
    /// Read the last operations.
    OpsGet {
        /// After this one.
        after: Transaction,
    },
}

/// A change that a copy is asked for.
#[derive(Clone, Debug)]
pub enum Changing {
    /// Append.
    Store(MessageId, Body),
    /// Append to what is older than all that was stored otherwise.
    Backfill(MessageId, Body),
    /// Remove.
    Delete(MessageId),
    /// Set the state record.
    Replace(MessageId, StateVersion, Bytes),
    /// Declare equal.
    Baseline(Baseline),
}

/// The numbers of a copy that is declared equal to its peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Baseline {
    /// Changes since the queue was created.
    pub transaction: Transaction,
    /// The hash chain after them.
    pub hash: ChainHash,
    /// Digest of what lives.
    pub content: ContentDigest,
    /// How many messages live.
    pub messages: u64,
}

/// How a copy stands, as told when attaching.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The last sequence number applied in our epoch.
    pub sequence: Sequence,
    /// The copy's numbers.
    pub numbers: Baseline,
    /// The highest id ever stored.
    pub last_id: MessageId,
    /// For how long the owner that it was taken from had been silent, if it was and that is known.
    pub owner_idle: Option<Duration>,
}

/// An answer for one queue.
#[derive(Debug)]
pub struct Reply {
    /// The queue.
    pub queue: QueueIndex,
    /// What is answered.
    pub answer: Answer,
}

/// What is answered.
#[derive(Debug)]
pub enum Answer {
    /// To `Create` and `Attach`.
    Attached {
        /// How the copy stands.
        standing: Standing,
        /// Room there.
        credit: Credit,
    },
    /// To `Drop`.
    Dropped,
    /// All changes up to `sequence` are applied.
    Acknowledged {
        /// The last one.
        sequence: Sequence,
        /// The copy's transaction number after it.
        transaction: Transaction,
        /// Room there.
        credit: Credit,
    },
    /// To `IsAlive`.
    Alive,
    /// The same, by the standby path, to requests that went there too.
    AcknowledgedByStandby {
        /// The last one.
        sequence: Sequence,
        /// The copy's transaction number by then, or later.
        transaction: Transaction,
        /// Room there.
        credit: Credit,
    },
    /// There is other room than before, although nothing was asked.
    Granted {
        /// The last number that was used up by then, whichever path it came by.
        sequence: Sequence,
        /// Room there.
        credit: Credit,
    },
    /// A request was refused.
    Refused {
        /// What was asked.
        op: Op,
        /// Why.
        status: Status,
        /// The queue's epoch there.
        epoch: Epoch,
    },
    /// One message of a `BlockGet`.
    Item {
        /// Which.
        id: MessageId,
        /// Version of its state record; 0: none.
        state_version: StateVersion,
        /// Its state record.
        state: Bytes,
        /// Its body, checksum verified.
        body: Bytes,
    },
    /// The end of a `BlockGet`.
    BlockEnd {
        /// Nothing follows after this block.
        finished: bool,
    },
    /// To `OpsGet`, in order.
    Operations {
        /// The operations, without gaps.
        operations: Vec<Operation>,
        /// The copy's last; if it is not among the operations, ask again for what follows.
        head: Transaction,
    },
}

/// One of a copy's last operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Its number.
    pub transaction: Transaction,
    /// `Store`, `Delete` or `Replace`.
    pub op: Op,
    /// The message.
    pub id: MessageId,
    /// What went into the chain for it.
    pub digest: u64,
    /// The chain after it.
    pub hash: ChainHash,
}

/// Where requests to one server go.
pub trait Outlet {
    /// Whether another request is taken now. Requests are bounded by the link's buffer, which may
    /// be exceeded by one message.
    fn has_room(&self) -> bool;

    /// Whether the server takes messages out of order, as back-fill.
    fn can_backfill(&self) -> bool {
        false
    }

    /// Queues a request for sending. On a link that is down it is dropped: whoever asked hears
    /// that the link went down.
    fn send(&mut self, request: Request);

    /// Whether the queue's answers are late, and there is another path that a change which waits
    /// for its answer may take too.
    fn can_hedge(&self, _queue: QueueIndex) -> bool {
        false
    }

    /// Sends a change that was sent before, by the other path. It may come in twice, or before
    /// those that were sent before it.
    fn hedge(&mut self, _request: Request) {}

    /// The other path was the first to answer.
    fn note_hedge_first(&mut self) {}

    /// When the newest request was made of which it is known, for each of the server's workers, that it
    /// was answered by the path that carries the requests. `None` while there is no such path.
    fn answered_since(&self) -> Option<Instant>;
}

impl<O: Outlet> Outlet for &mut O {
    fn has_room(&self) -> bool {
        (**self).has_room()
    }

    fn can_backfill(&self) -> bool {
        (**self).can_backfill()
    }

    fn send(&mut self, request: Request) {
        (**self).send(request);
    }

    fn can_hedge(&self, queue: QueueIndex) -> bool {
        (**self).can_hedge(queue)
    }

    fn hedge(&mut self, request: Request) {
        (**self).hedge(request);
    }

    fn note_hedge_first(&mut self) {
        (**self).note_hedge_first();
    }

    fn answered_since(&self) -> Option<Instant> {
        (**self).answered_since()
    }
}

/// The outlets to the servers of a cohort, one for each member.
pub trait Outlets {
    /// Each of them.
    type Outlet: Outlet;

    /// The one to that member.
    fn of(&mut self, member: usize) -> &mut Self::Outlet;
}

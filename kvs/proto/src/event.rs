//! What the client's end of a link has to tell.

use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::body::{Attached, BodyError, Counter, Limits, OpEntry, QueueEntry};
use crate::{
    Credit, DecodeError, Epoch, Incarnation, MessageId, Op, QueueHandle, Sequence, StateVersion,
    Status, Tag, Transaction, Version,
};

/// What a server said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Both ends have proved themselves; queues can be attached.
    Welcome {
        /// What both speak.
        version: Version,
        /// Which life of the server this is.
        incarnation: Incarnation,
        /// The server's bounds.
        limits: Limits,
    },
    /// A `create` or `attach` succeeded.
    Attached {
        /// The queue.
        queue: QueueHandle,
        /// From the request.
        tag: Tag,
        /// The queue's epoch: the request's.
        epoch: Epoch,
        /// Changes applied.
        transaction: Transaction,
        /// What it still takes.
        credit: Credit,
        /// The rest.
        attached: Attached,
    },
    /// A `drop_queue` succeeded; the handle is free.
    Dropped {
        /// The queue.
        queue: QueueHandle,
        /// From the request.
        tag: Tag,
    },
    /// `count` changes, up to and with `sequence`, are applied. Or, with 0, only the credit is new.
    Ack {
        /// The queue.
        queue: QueueHandle,
        /// The queue's epoch.
        epoch: Epoch,
        /// The last of them; with `count` 0, the last that was used up.
        sequence: Sequence,
        /// How many.
        count: u64,
        /// Changes applied, after the last of them (or, for repeated requests, by now).
        transaction: Transaction,
        /// What it still takes.
        credit: Credit,
    },
    /// One request was refused.
    Refused(Refusal),
    /// One message of a `block_get`.
    Item(Item),
    /// The end of a `block_get`.
    BlockEnd {
        /// The queue.
        queue: QueueHandle,
        /// From the request.
        tag: Tag,
        /// Where to go on: the last id read, or the request's cursor if none was.
        cursor: MessageId,
        /// How many items came.
        count: u64,
        /// Whether the end of the queue was reached.
        finished: bool,
    },
    /// Answer to `ops_get`.
    Ops {
        /// The queue.
        queue: QueueHandle,
        /// From the request.
        tag: Tag,
        /// Changes in ascending order, without gaps. If the last is below `transaction`, ask again
        /// from there.
        entries: Vec<OpEntry>,
        /// Changes applied by now.
        transaction: Transaction,
    },
    /// Answer to `heart_beat`.
    HeartBeatReply {
        /// From the request.
        tag: Tag,
    },
    /// Answer to `queue_list`, in ascending order of names.
    Queues {
        /// From the request.
        tag: Tag,
        /// The queues.
        queues: Vec<QueueSummary>,
        /// Whether none follow.
        finished: bool,
    },
    /// Answer to `statistics`.
    Counters {
        /// From the request.
        tag: Tag,
        /// Those that this build knows.
        counters: Vec<(Counter, u64)>,
    },
    /// Answer to `owner_get`.
    Owner {
        /// From the request.
        tag: Tag,
        /// The owner's epoch.
        epoch: Epoch,
        /// For how many milliseconds nothing has come over the connections by which it is, or was,
        /// attached; `None`: nobody was.
        idle_ms: Option<u32>,
    },
    /// The server broke the protocol. The connection is to be closed.
    ProtocolError(ProtocolError),
}

/// A refused request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What was asked for.
    pub op: Op,
    /// The queue, where the request had one.
    pub queue: QueueHandle,
    /// Changes: the sequence number; of a `SequenceGap` the last one applied. Other requests: the
    /// tag's number.
    pub sequence: Sequence,
    /// Why.
    pub status: Status,
    /// The queue's epoch, where there is a queue.
    pub epoch: Epoch,
    /// Changes applied, where there is a queue.
    pub transaction: Transaction,
    /// What the queue still takes.
    pub credit: Credit,
    /// With `WrongWorker`: the port of the right one; else 0.
    pub port: u16,
}

/// A message read from a queue; its checksums were right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The queue.
    pub queue: QueueHandle,
    /// From the request.
    pub tag: Tag,
    /// Which message.
    pub id: MessageId,
    /// Version of its state record; 0 if it has none.
    pub state_version: StateVersion,
    /// Its state record; empty if it has none.
    pub state: Bytes,
    /// The message.
    pub body: Bytes,
}

/// One line of [`Event::Queues`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueSummary {
    /// The queue's name.
    pub name: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// Changes applied.
    pub transaction: Transaction,
    /// Living messages.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// TCP port of the worker that has it.
    pub port: u16,
}

/// How a server broke the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtocolError {
    /// The stream is broken.
    Decode(DecodeError),
    /// The body of such a reply is not what it should be.
    Body(Op, BodyError),
    /// Such a frame makes no sense here.
    Unexpected(Op),
    /// A field of such a reply has a value that it may not have.
    Field(Op),
    /// The server does not know the secret.
    ServerProof,
    /// A frame in another version than was agreed on, or a version that we have not offered.
    Version(Version),
}

impl From<&QueueEntry<'_>> for QueueSummary {
    fn from(entry: &QueueEntry<'_>) -> QueueSummary {
        QueueSummary {
            name: entry.name.as_str().into(),
            epoch: entry.epoch,
            transaction: entry.transaction,
            messages: entry.messages,
            bytes: entry.bytes,
            port: entry.port,
        }
    }
}

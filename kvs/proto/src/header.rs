//! The frame's header: 64 bytes, little-endian, with a checksum of its own, so that a length is
//! trusted before the body is read.
//!
//! | bytes | field | |
//! | --- | --- | --- |
//! | 0..4 | header checksum | CRC32C of bytes 4..64 |
//! | 4..8 | body checksum | CRC32C of the body; 0 without one |
//! | 8 | version | [`Version`] |
//! | 9 | op | [`Op`] |
//! | 10..12 | flags | [`flags`]; the rest zero |
//! | 12..16 | body length | bytes after this header, at most [`PART_SIZE_BYTES_MAX`] |
//! | 16..20 | queue handle | |
//! | 20..24 | connection generation | requests; status in replies |
//! | 24..32 | owner epoch | |
//! | 32..40 | sequence number | |
//! | 40..48 | aux | see [`Header::aux`] |
//! | 48..56 | message id | |
//! | 56..64 | floor | see [`Header::floor`] |

use crate::{Epoch, MessageId, QueueHandle, Sequence, checksum};

/// Size of every header.
pub const HEADER_SIZE_BYTES: usize = 64;

/// Most bytes of body that one frame carries. A longer message travels in parts, so that it holds
/// up neither heart-beats nor other queues for long.
pub const PART_SIZE_BYTES_MAX: usize = 64 * 1024;

/// Most messages that one Delete removes.
pub const DELETES_PER_FRAME_MAX: u64 = 1024;

/// Bits of [`Header::flags`].
pub mod flags {
    /// More parts of the same body follow.
    pub const MORE: u16 = 1 << 0;
    /// `Item`: the message was removed while its parts were being sent; they are void.
    pub const WITHDRAWN: u16 = 1 << 1;
    /// `Store`: the message is older than what the copy takes as it comes, and goes ahead of it.
    pub const BACKFILL: u16 = 1 << 2;
    /// All bits that have a meaning in some version.
    pub const KNOWN: u16 = MORE | WITHDRAWN | BACKFILL;

    /// The bits that have a meaning in that version; a frame with another one is refused.
    pub const fn known_in(version: super::Version) -> u16 {
        match version {
            super::Version::V1 => MORE | WITHDRAWN,
            super::Version::V2 | super::Version::V3 => KNOWN,
        }
    }
}

/// The wire's versions; the docs of the variants are its change log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Version {
    /// The first. Sent without knowing of leases: a server of this version leaves the connections of a
    /// former owner open, and does not say when it last heard from it.
    V1 = 1,
    /// [`Attached`](crate::body::Attached) tells how long ago the server last heard from the owner that
    /// the attachment takes the queue from, in four of its bytes that were zero. A Store may have the flag
    /// [`BACKFILL`](flags::BACKFILL). There is [`OwnerGet`](Op::OwnerGet).
    V2 = 2,
    /// Acknowledgements of several queues come as one frame, [`Acks`](Op::Acks). One [`Delete`](Op::Delete) may remove
    /// several messages.
    V3 = 3,
}

impl Version {
    /// What this build speaks best.
    pub const CURRENT: Version = Version::V3;
    /// The oldest that this build still speaks.
    pub const OLDEST: Version = Version::V1;

    /// The version of that number, if this build speaks it.
    pub const fn from_u8(number: u8) -> Option<Version> {
        match number {
            1 => Some(Version::V1),
            2 => Some(Version::V2),
            3 => Some(Version::V3),
            _ => None,
        }
    }

    /// The highest version up to `own_max` that is in a peer's range of numbers, if there is one.
    pub fn common(own_max: Version, peer_min: u8, peer_max: u8) -> Option<Version> {
        let number = peer_max.min(own_max as u8);
        let version = Version::from_u8(number)?;
        (number >= peer_min && version >= Version::OLDEST).then_some(version)
    }
}

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a frame asks for or answers. Requests are below 128, replies above.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Op {
            $($(#[$doc])* $name = $number,)*
        }

        impl Op {
            /// The op of that number, if there is one.
            pub const fn from_u8(number: u8) -> Option<Op> {
                match number {
                    $($number => Some(Op::$name),)*
                    _ => None,
                }
            }
        }
    };
}

ops! {
    /// First frame of a connection: versions, account and the client's nonce.
    Hello = 1,
    /// The client's proof that it knows the account's secret.
    Authenticate = 2,
    /// Makes a queue, which must not exist, and attaches to it.
    Create = 3,
    /// Takes an existing queue over (higher epoch) or resumes (same epoch, higher generation). Never
    /// creates. From then on lower epochs are refused: this is the seal.
    Attach = 4,
    /// Removes a queue that this connection is attached to, with everything in it.
    Drop = 5,
    /// Appends a message. In parts if long.
    Store = 6,
    /// Removes a message; from version 3 on also `aux` more, those with the next ids, by the next sequence numbers.
    Delete = 7,
    /// Sets a message's state record.
    Replace = 8,
    /// Declares the copy equal to its peers: sets transaction number and hash after a fill.
    Baseline = 9,
    /// Reads messages in order.
    BlockGet = 10,
    /// Reads the ring of last operations.
    OpsGet = 11,
    /// Asks whether the server is there.
    HeartBeat = 12,
    /// Lists the account's queues.
    QueueList = 13,
    /// Reads the server's counters.
    Statistics = 14,
    /// Asks for how long a queue's owner has been silent, and takes nothing from it. From version 2 on.
    OwnerGet = 15,

    /// Answer to `Hello`.
    Challenge = 129,
    /// Answer to `Authenticate`: proof that the server knows the secret too.
    Welcome = 130,
    /// Answer to `Create` and `Attach`.
    Attached = 131,
    /// Acknowledges changes of one queue, up to and with `sequence`.
    Ack = 132,
    /// Refuses one request; the status says why.
    Refused = 133,
    /// One message of a `BlockGet`, in parts if long.
    Item = 134,
    /// The end of a `BlockGet`.
    BlockEnd = 135,
    /// Answer to `OpsGet`.
    Ops = 136,
    /// Answer to `HeartBeat`.
    HeartBeatReply = 137,
    /// Answer to `QueueList`.
    Queues = 138,
    /// Answer to `Statistics`.
    Counters = 139,
    /// Answer to `Drop`.
    Dropped = 140,
    /// Answer to `OwnerGet`.
    Owner = 141,
    /// What several `Ack` would say, an [`AckEntry`](crate::body::AckEntry) for each. From version 3 on.
    Acks = 142,
}

impl Op {
    /// Whether it has a meaning in that version; a frame with another one is refused.
    pub const fn is_known_in(self, version: Version) -> bool {
        match self {
            Op::OwnerGet | Op::Owner => version as u8 >= Version::V2 as u8,
            Op::Acks => version as u8 >= Version::V3 as u8,
            _ => true,
        }
    }

    /// Whether a client sends it.
    pub const fn is_request(self) -> bool {
        (self as u8) < 128
    }

    /// Whether it changes a queue, and so takes a sequence number.
    pub const fn is_change(self) -> bool {
        matches!(self, Op::Store | Op::Delete | Op::Replace | Op::Baseline)
    }
}

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Why a request was refused.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum Status {
            $($(#[$doc])* $name = $number,)*
        }

        impl Status {
            /// The status of that number, if there is one.
            pub const fn from_u32(number: u32) -> Option<Status> {
                match number {
                    $($number => Some(Status::$name),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    /// Not refused.
    Ok = 0,
    /// The queue has a higher epoch, or the same with a newer connection: the sender is not its
    /// owner any more. `epoch` in the reply is the queue's.
    Fenced = 1,
    /// No such queue in this life of the server. Never means: an empty queue.
    UnknownQueue = 2,
    /// `Create` of a queue that exists.
    Exists = 3,
    /// The queue's own bound on messages or bytes. The sequence number is consumed.
    QueueFull = 4,
    /// The server's memory for messages is full. The sequence number is consumed.
    ArenaFull = 5,
    /// The server's bound on queues, or the connection's on handles.
    TooManyQueues = 6,
    /// Not the next sequence number (`sequence` in the reply is the last one applied); nothing was
    /// consumed.
    SequenceGap = 7,
    /// `Store` of an id that is not above all earlier ones. The sequence number is consumed.
    IdNotGrowing = 8,
    /// `Delete` or `Replace` of a message that is not there. The sequence number is consumed.
    NotFound = 9,
    /// A body, state record or block above its bound. The sequence number, if any, is consumed.
    TooLarge = 10,
    /// Anything before a successful `Authenticate`; or the proof was wrong. The connection ends.
    NotAuthenticated = 11,
    /// The account may not use that queue.
    NotYours = 12,
    /// A frame that makes no sense where it came. The connection ends.
    BadRequest = 13,
    /// `Replace` with a state version that is not above the present one. The sequence number is
    /// consumed.
    StaleState = 14,
    /// `Baseline` whose digest of the content is not the copy's. The sequence number is consumed.
    ContentDiffers = 15,
    /// None of the client's versions is spoken here. The connection ends.
    NoCommonVersion = 16,
    /// The server's bound on connections. The connection ends.
    TooManyConnections = 17,
    /// The handle is not attached on this connection.
    NotAttached = 18,
    /// The ring of last operations does not reach back that far.
    OpsTrimmed = 19,
    /// The queue lives (or, for `Create`, is to live) on another worker of this server, whose port
    /// is in `aux` of the reply. Nothing was changed.
    WrongWorker = 20,
}

/// A frame's header, decoded and checked, or to be encoded.
///
/// Fields that an op has no use for are zero, both ways; [`Header::decode`] checks what it can know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The version that the frame is written in.
    pub version: Version,
    /// What it asks or answers.
    pub op: Op,
    /// See [`flags`].
    pub flags: u16,
    /// CRC32C of the body.
    pub body_checksum: u32,
    /// Bytes of body, `<= PART_SIZE_BYTES_MAX`.
    pub body_length: u32,
    /// The queue, by the name that this connection gave it.
    pub queue: QueueHandle,
    /// Requests: the connection generation. Replies: the [`Status`].
    pub generation_or_status: u32,
    /// Requests: the sender's epoch. Replies: the queue's.
    pub epoch: Epoch,
    /// Changes and their replies: the sequence number. Other requests: a tag of the client's choice,
    /// returned in the reply.
    pub sequence: Sequence,
    /// `Store`, `Item`: `offset << 32 | total`, both in bytes of the whole body. `Replace`: the state
    /// version, which fits in 32 bits. `Delete`: how many more messages it removes. `BlockGet`:
    /// `count_max << 32 | bytes_max`. `OpsGet`: the transaction number after which to read. `HeartBeat`
    /// and its reply: the client's echo. `Attached`, `Ack`, `Ops` and `Refused`: the queue's transaction
    /// number, save `Refused` with `WrongWorker`: the right port. `BlockEnd`, `Queues`: how many items or
    /// queues came. `Owner`: milliseconds of silence.
    pub aux: u64,
    /// The message. `BlockGet`: the last id already read. `BlockEnd`: the last id read now. `Ack`:
    /// how many requests it acknowledges. `Refused`: the op of the request, as a number.
    pub message: MessageId,
    /// Changes: the oldest sequence number that some copy has not answered yet (everything below
    /// may be forgotten). `Ack`, `Refused`, `Attached`: [`Credit`](crate::Credit). `Item`: `state
    /// version << 32 | state length`. `BlockEnd`, `Queues`: 1 if nothing follows, else 0.
    pub floor: u64,
}

/// What a frame further on in the bytes that were received seems to be about. Nothing of it was checked, so it is good
/// for having memory fetched ahead of time, and for nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glimpse {
    /// The queue that it names.
    pub queue: QueueHandle,
    /// The message.
    pub message: MessageId,
    /// Bytes of header and body.
    pub frame_size_bytes: usize,
}

impl Glimpse {
    /// Of the frame that begins where `bytes` do, if its header is there as a whole.
    #[inline]
    pub fn of(bytes: &[u8]) -> Option<Glimpse> {
        let bytes = bytes.first_chunk::<HEADER_SIZE_BYTES>()?;
        Some(Glimpse {
            queue: QueueHandle(u32_at(bytes, 16)),
            message: MessageId(u64_at(bytes, 48)),
            frame_size_bytes: HEADER_SIZE_BYTES + u32_at(bytes, 12) as usize,
        })
    }
}

/// Why 64 bytes are not a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// The checksum is wrong: a broken link, or not our protocol.
    Checksum,
    /// A version that this build does not speak.
    Version(u8),
    /// No such op.
    Op(u8),
    /// Flags without a meaning.
    Flags(u16),
    /// A body above the bound.
    BodyLength(u32),
}

impl Header {
    /// How many messages a `Delete` removes; `None` if it is more than one may, or its numbers run out.
    pub fn delete_count(&self) -> Option<u64> {
        let last_sequence = self.sequence.0.checked_add(self.aux);
        let last_message = self.message.0.checked_add(self.aux);
        last_sequence.and(last_message)?;
        (self.aux < DELETES_PER_FRAME_MAX).then_some(self.aux + 1)
    }

    /// The `Delete` of one message: that which is `at` behind the first. `at` is below
    /// [`delete_count`](Self::delete_count).
    pub const fn delete_at(&self, at: u64) -> Header {
        let sequence = Sequence(self.sequence.0 + at);
        let message = MessageId(self.message.0 + at);
        Header { sequence, message, aux: 0, ..*self }
    }

    /// A header of that op with everything else zero, in the oldest version: whoever sends it puts the one
    /// in that both ends agreed on.
    pub const fn new(op: Op) -> Header {
        Header {
            version: Version::OLDEST,
            op,
            flags: 0,
            body_checksum: 0,
            body_length: 0,
            queue: QueueHandle(0),
            generation_or_status: 0,
            epoch: Epoch(0),
            sequence: Sequence(0),
            aux: 0,
            message: MessageId(0),
            floor: 0,
        }
    }

    /// The 64 bytes.
    pub fn encode(&self) -> [u8; HEADER_SIZE_BYTES] {
        let mut bytes = [0; HEADER_SIZE_BYTES];
        bytes[4..8].copy_from_slice(&self.body_checksum.to_le_bytes());
        bytes[8] = self.version as u8;
        bytes[9] = self.op as u8;
        bytes[10..12].copy_from_slice(&self.flags.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.body_length.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.queue.0.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.generation_or_status.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.sequence.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.aux.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.message.0.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.floor.to_le_bytes());
        let sum = checksum(&bytes[4..]);
        bytes[0..4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Checks and decodes 64 bytes.
    ///
    /// # Errors
    /// [`HeaderError`]; the stream cannot be followed any further then.
    pub fn decode(bytes: &[u8; HEADER_SIZE_BYTES]) -> Result<Header, HeaderError> {
        let u32_at = |at| u32_at(bytes, at);
        let u64_at = |at| u64_at(bytes, at);
        if checksum(&bytes[4..]) != u32_at(0) {
            return Err(HeaderError::Checksum);
        }
        let version = Version::from_u8(bytes[8]).ok_or(HeaderError::Version(bytes[8]))?;
        let op = Op::from_u8(bytes[9]).filter(|op| op.is_known_in(version));
        let op = op.ok_or(HeaderError::Op(bytes[9]))?;
        let flags = u16::from_le_bytes([bytes[10], bytes[11]]);
        if flags & !flags::known_in(version) != 0 {
            return Err(HeaderError::Flags(flags));
        }
        let body_length = u32_at(12);
        if body_length as usize > PART_SIZE_BYTES_MAX {
            return Err(HeaderError::BodyLength(body_length));
        }
        Ok(Header {
            version,
            op,
            flags,
            body_checksum: u32_at(4),
            body_length,
            queue: QueueHandle(u32_at(16)),
            generation_or_status: u32_at(20),
            epoch: Epoch(u64_at(24)),
            sequence: Sequence(u64_at(32)),
            aux: u64_at(40),
            message: MessageId(u64_at(48)),
            floor: u64_at(56),
        })
    }
}

#[inline]
fn u32_at(bytes: &[u8; HEADER_SIZE_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
fn u64_at(bytes: &[u8; HEADER_SIZE_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_a_version_does_not_know_is_refused_in_it() {
        let header = |version| Header { version, flags: flags::BACKFILL, ..Header::new(Op::Store) };
        let old = Header::decode(&header(Version::V1).encode());
        assert_eq!(old, Err(HeaderError::Flags(flags::BACKFILL)));
        let new = header(Version::V2);
        assert_eq!(Header::decode(&new.encode()), Ok(new));
    }

    #[test]
    fn an_op_that_a_version_does_not_know_is_refused_in_it() {
        for (op, without, with) in [
            (Op::OwnerGet, Version::V1, Version::V2),
            (Op::Owner, Version::V1, Version::V2),
            (Op::Acks, Version::V2, Version::V3),
        ] {
            let header = |version| Header { version, ..Header::new(op) };
            let old = Header::decode(&header(without).encode());
            assert_eq!(old, Err(HeaderError::Op(op as u8)));
            assert_eq!(Header::decode(&header(with).encode()), Ok(header(with)));
        }
    }

    #[test]
    fn a_glimpse_is_of_what_a_whole_header_says_and_of_nothing_less() {
        let header = Header {
            body_length: 400,
            queue: QueueHandle(7),
            message: MessageId(1 << 40),
            ..Header::new(Op::Delete)
        };
        let bytes = header.encode();
        let glimpse = Glimpse {
            queue: header.queue,
            message: header.message,
            frame_size_bytes: HEADER_SIZE_BYTES + 400,
        };
        assert_eq!(Glimpse::of(&bytes), Some(glimpse));
        assert_eq!(Glimpse::of(&bytes[1..]), None);
    }

    #[test]
    fn versions_meet_at_the_highest_that_both_speak() {
        let table = [
            ((Version::V2, 1, 2), Some(Version::V2)),
            ((Version::V2, 1, 1), Some(Version::V1)),
            ((Version::V1, 1, 2), Some(Version::V1)),
            ((Version::V2, 2, 3), Some(Version::V2)),
            ((Version::V1, 2, 3), None),
            ((Version::V2, 3, 9), None),
            ((Version::V2, 0, 0), None),
        ];
        for ((own_max, peer_min, peer_max), common) in table {
            assert_eq!(Version::common(own_max, peer_min, peer_max), common);
        }
    }
}

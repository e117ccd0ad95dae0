//! The bodies of the ops that have one, besides messages. All integers are little-endian; each
//! type's docs have its byte table. Decoding checks every bound, and that nothing is left over.

use alloc::vec::Vec;

use crate::auth::{NONCE_SIZE_BYTES, PROOF_SIZE_BYTES};
use crate::{
    ChainHash, ContentDigest, Credit, Epoch, Header, Incarnation, MessageId, Op,
    PART_SIZE_BYTES_MAX, QueueHandle, Sequence, Transaction, Version,
};

/// Most bytes of an account's name.
pub const ACCOUNT_SIZE_BYTES_MAX: usize = 64;
/// Most bytes of a queue's name.
pub const QUEUE_NAME_SIZE_BYTES_MAX: usize = 255;
/// Most entries of one `Ops` reply; whoever wants more asks again.
pub const OPS_PER_REPLY_MAX: usize = 1024;
/// Most entries of one [`Op::Acks`].
pub const ACKS_PER_REPLY_MAX: usize = 1024;
/// Most queues of one `Queues` reply; whoever wants more asks again from the last name.
pub const QUEUES_PER_REPLY_MAX: usize = 200;

/// Why bytes are not the body they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyError {
    /// It ends before the last field.
    TooShort,
    /// Bytes follow the last field.
    TooLong,
    /// A field has a value that it may not have.
    Value,
}

/// A queue's name: 1 to [`QUEUE_NAME_SIZE_BYTES_MAX`] bytes of printable ASCII (0x21 to 0x7e).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueName<'a>(&'a str);

impl<'a> QueueName<'a> {
    /// Checks a name.
    pub fn parse(bytes: &'a [u8]) -> Option<QueueName<'a>> {
        let allowed = (1..=QUEUE_NAME_SIZE_BYTES_MAX).contains(&bytes.len())
            && bytes.iter().all(u8::is_ascii_graphic);
        core::str::from_utf8(bytes).ok().filter(|_| allowed).map(QueueName)
    }

    /// The name as text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

/// Body of [`Op::Hello`].
///
/// | bytes | field |
/// | --- | --- |
/// | 1 | lowest version the client speaks |
/// | 1 | highest |
/// | 16 | client's nonce |
/// | 1 to 64 | account, to the end |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello<'a> {
    /// Lowest version number that the client speaks.
    pub version_min: u8,
    /// Highest, `>= version_min`.
    pub version_max: u8,
    /// Random bytes for this connection.
    pub nonce: [u8; NONCE_SIZE_BYTES],
    /// Who it claims to be, 1 to [`ACCOUNT_SIZE_BYTES_MAX`] bytes.
    pub account: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.version_min, self.version_max]);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(self.account);
    }

    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &'a [u8]) -> Result<Hello<'a>, BodyError> {
        let mut reader = Reader(body);
        let [version_min, version_max] = reader.array()?;
        let nonce = reader.array()?;
        let account = reader.rest();
        let account_fits = (1..=ACCOUNT_SIZE_BYTES_MAX).contains(&account.len());
        check(version_min <= version_max && account_fits)?;
        Ok(Hello { version_min, version_max, nonce, account })
    }
}

/// The server's bounds, which the client keeps to.
///
/// | bytes | field |
/// | --- | --- |
/// | 4 | message bytes, at most |
/// | 4 | state record bytes, at most |
/// | 4 | changes in flight per queue, at most |
/// | 4 | handles per connection, at most |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most bytes of a message; a longer one is refused with `TooLarge`.
    pub message_size_bytes_max: u32,
    /// Most bytes of a state record; a longer one is refused with `TooLarge`.
    pub state_size_bytes_max: u32,
    /// Most changes of a queue between the floor and the newest: for so many the server remembers
    /// results. Beyond it a repeated request may be refused with `SequenceGap`.
    pub in_flight_max: u32,
    /// Handles are below this number; one above is refused with `TooManyQueues`.
    pub handles_max: u32,
}

/// Body of [`Op::Challenge`].
///
/// | bytes | field |
/// | --- | --- |
/// | 1 | version that the server chose |
/// | 7 | zero |
/// | 8 | incarnation |
/// | 16 | server's nonce |
/// | 16 | [`Limits`] |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// What both speak from here on.
    pub version: Version,
    /// Which life of the server this is.
    pub incarnation: Incarnation,
    /// Random bytes for this connection.
    pub nonce: [u8; NONCE_SIZE_BYTES],
    /// The server's bounds.
    pub limits: Limits,
}

impl Challenge {
    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.version as u8, 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.incarnation.0.to_le_bytes());
        out.extend_from_slice(&self.nonce);
        let Limits { message_size_bytes_max, state_size_bytes_max, in_flight_max, handles_max } =
            self.limits;
        for limit in [message_size_bytes_max, state_size_bytes_max, in_flight_max, handles_max] {
            out.extend_from_slice(&limit.to_le_bytes());
        }
    }

    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &[u8]) -> Result<Challenge, BodyError> {
        let mut reader = Reader(body);
        let [version, zeros @ ..]: [u8; 8] = reader.array()?;
        let challenge = Challenge {
            version: Version::from_u8(version).ok_or(BodyError::Value)?,
            incarnation: Incarnation(reader.u64()?),
            nonce: reader.array()?,
            limits: Limits {
                message_size_bytes_max: reader.u32()?,
                state_size_bytes_max: reader.u32()?,
                in_flight_max: reader.u32()?,
                handles_max: reader.u32()?,
            },
        };
        check(zeros == [0; 7] && challenge.incarnation != Incarnation(0))?;
        reader.finish(challenge)
    }
}

/// Body of [`Op::Authenticate`] and [`Op::Welcome`]: the sender's proof, 32 bytes.
///
/// # Errors
/// [`BodyError`] if it is not that long.
pub fn decode_proof(body: &[u8]) -> Result<[u8; PROOF_SIZE_BYTES], BodyError> {
    let mut reader = Reader(body);
    let proof = reader.array()?;
    reader.finish(proof)
}

/// Body of [`Op::Create`]; that of [`Op::Attach`] is the name alone.
///
/// | bytes | field |
/// | --- | --- |
/// | 8 | messages, at most |
/// | 8 | bytes of messages, at most |
/// | 1 to 255 | name, to the end |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Create<'a> {
    /// Messages that the queue may hold; at it `QueueFull`.
    pub messages_max: u64,
    /// Bytes of messages that the queue may hold; at it `QueueFull`.
    pub bytes_max: u64,
    /// The queue's name.
    pub name: QueueName<'a>,
}

impl<'a> Create<'a> {
    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.messages_max.to_le_bytes());
        out.extend_from_slice(&self.bytes_max.to_le_bytes());
        out.extend_from_slice(self.name.0.as_bytes());
    }

    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &'a [u8]) -> Result<Create<'a>, BodyError> {
        let mut reader = Reader(body);
        Ok(Create {
            messages_max: reader.u64()?,
            bytes_max: reader.u64()?,
            name: QueueName::parse(reader.rest()).ok_or(BodyError::Value)?,
        })
    }
}

/// Body of [`Op::Attached`]. Epoch, transaction number and credit are in the header.
///
/// | bytes | field |
/// | --- | --- |
/// | 8 | last sequence number applied in this epoch |
/// | 8 | chain hash |
/// | 8 | content digest |
/// | 8 | messages |
/// | 8 | bytes |
/// | 8 | first id |
/// | 8 | last id |
/// | 2 | port of the worker |
/// | 4 | how long ago the former owner was last heard from, in ms, rounded down; 2^32 - 1: unknown. Zero in V1 |
/// | 2 | zero |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attached {
    /// The last sequence number that was used up in this epoch; 0 at its start.
    pub last_sequence: Sequence,
    /// Running hash over the changes.
    pub chain: ChainHash,
    /// Sum over the living messages.
    pub content: ContentDigest,
    /// Living messages.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// The first living message; 0 if there is none.
    pub first_id: MessageId,
    /// The last id that was ever stored, living or not; 0 if none was.
    pub last_id: MessageId,
    /// TCP port of the worker that has the queue.
    pub port: u16,
    /// How long before this attachment the last bytes came from the owner that it takes the queue from, over
    /// any connection that was attached to the queue. At most that: the server may have been slow to
    /// look. `None`: unknown, as always in V1, and where the attachment takes the queue from nobody.
    pub owner_idle_ms: Option<u32>,
}

impl Attached {
    /// Appends the bytes of that version to `out`.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let idle_ms = match version {
            Version::V1 => 0,
            Version::V2 | Version::V3 => self.owner_idle_ms.unwrap_or(OWNER_IDLE_UNKNOWN),
        };
        for number in [
            self.last_sequence.0,
            self.chain.0,
            self.content.0,
            self.messages,
            self.bytes,
            self.first_id.0,
            self.last_id.0,
            u64::from(self.port) | u64::from(idle_ms) << 16,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// The bytes of that version.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(version: Version, body: &[u8]) -> Result<Attached, BodyError> {
        let mut reader = Reader(body);
        let mut attached = Attached {
            last_sequence: Sequence(reader.u64()?),
            chain: ChainHash(reader.u64()?),
            content: ContentDigest(reader.u64()?),
            messages: reader.u64()?,
            bytes: reader.u64()?,
            first_id: MessageId(reader.u64()?),
            last_id: MessageId(reader.u64()?),
            port: 0,
            owner_idle_ms: None,
        };
        let [port_low, port_high, idle @ .., zero_low, zero_high]: [u8; 8] = reader.array()?;
        attached.port = u16::from_le_bytes([port_low, port_high]);
        let idle_ms = u32::from_le_bytes(idle);
        match version {
            Version::V1 => check(idle_ms == 0)?,
            Version::V2 | Version::V3 => {
                attached.owner_idle_ms = (idle_ms != OWNER_IDLE_UNKNOWN).then_some(idle_ms);
            }
        }
        check([zero_low, zero_high] == [0; 2])?;
        reader.finish(attached)
    }
}

/// What stands for an unknown [`Attached::owner_idle_ms`].
const OWNER_IDLE_UNKNOWN: u32 = u32::MAX;

/// Body of [`Op::Baseline`]: what a filled copy is to be from now on, and what it must hold.
///
/// | bytes | field |
/// | --- | --- |
/// | 8 | transaction number |
/// | 8 | chain hash |
/// | 8 | content digest |
/// | 8 | messages |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Baseline {
    /// The transaction number to go on from; never below the copy's own.
    pub transaction: Transaction,
    /// The chain to go on from.
    pub chain: ChainHash,
    /// The content that the copy must have, else `ContentDiffers`.
    pub content: ContentDigest,
    /// The number of messages that the copy must have, else `ContentDiffers`.
    pub messages: u64,
}

impl Baseline {
    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.transaction.0, self.chain.0, self.content.0, self.messages] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &[u8]) -> Result<Baseline, BodyError> {
        let mut reader = Reader(body);
        let baseline = Baseline {
            transaction: Transaction(reader.u64()?),
            chain: ChainHash(reader.u64()?),
            content: ContentDigest(reader.u64()?),
            messages: reader.u64()?,
        };
        reader.finish(baseline)
    }
}

/// One entry of an [`Op::Ops`] body: a change that was applied.
///
/// | bytes | field |
/// | --- | --- |
/// | 8 | transaction number |
/// | 8 | message id |
/// | 8 | digest: of body (`Store`) or state (`Replace`), or 0 (`Delete`) |
/// | 8 | chain hash after it |
/// | 1 | op |
/// | 7 | zero |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpEntry {
    /// Its number.
    pub transaction: Transaction,
    /// Which message.
    pub message: MessageId,
    /// What was folded into the chain for it.
    pub digest: u64,
    /// The chain after it.
    pub chain: ChainHash,
    /// `Store`, `Delete` or `Replace`.
    pub op: Op,
}

impl OpEntry {
    const SIZE_BYTES: usize = 40;

    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.transaction.0, self.message.0, self.digest, self.chain.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&[self.op as u8, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// All entries of a body.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode_all(body: &[u8]) -> Result<Vec<OpEntry>, BodyError> {
        check(body.len() <= OPS_PER_REPLY_MAX * OpEntry::SIZE_BYTES)?;
        let mut reader = Reader(body);
        let mut entries = Vec::with_capacity(body.len() / OpEntry::SIZE_BYTES);
        while !reader.0.is_empty() {
            let transaction = Transaction(reader.u64()?);
            let message = MessageId(reader.u64()?);
            let digest = reader.u64()?;
            let chain = ChainHash(reader.u64()?);
            let [op, zeros @ ..]: [u8; 8] = reader.array()?;
            let op = Op::from_u8(op).ok_or(BodyError::Value)?;
            check(op.is_change() && op != Op::Baseline && zeros == [0; 7])?;
            entries.push(OpEntry { transaction, message, digest, chain, op });
        }
        Ok(entries)
    }
}

/// One entry of an [`Op::Acks`] body: what an [`Op::Ack`] says of one queue.
///
/// | bytes | field |
/// | --- | --- |
/// | 4 | queue handle |
/// | 4 | how many changes it acknowledges |
/// | 8 | owner epoch |
/// | 8 | sequence number of the last |
/// | 8 | transaction number |
/// | 8 | credit |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AckEntry {
    /// Of which queue.
    pub queue: QueueHandle,
    /// How many changes.
    pub count: u32,
    /// The queue's.
    pub epoch: Epoch,
    /// The last of them.
    pub sequence: Sequence,
    /// The queue's by then.
    pub transaction: Transaction,
    /// What the queue still takes.
    pub credit: Credit,
}

impl AckEntry {
    const SIZE_BYTES: usize = 40;

    /// Appends the bytes to `out`.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; AckEntry::SIZE_BYTES];
        bytes[0..4].copy_from_slice(&self.queue.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.count.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.transaction.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.credit.to_bits().to_le_bytes());
        out.extend_from_slice(&bytes);
    }

    /// The entries of a body, of which there is at least one.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn all(body: &[u8]) -> Result<impl Iterator<Item = AckEntry>, BodyError> {
        let (entries, rest) = body.as_chunks::<{ AckEntry::SIZE_BYTES }>();
        check(rest.is_empty() && (1..=ACKS_PER_REPLY_MAX).contains(&entries.len()))?;
        Ok(entries.iter().map(AckEntry::decode))
    }

    #[inline]
    fn decode(bytes: &[u8; AckEntry::SIZE_BYTES]) -> AckEntry {
        let (words, _) = bytes.as_chunks::<8>();
        let [first, numbers @ ..] = [0, 1, 2, 3, 4].map(|at| u64::from_le_bytes(words[at]));
        let [epoch, sequence, transaction, credit] = numbers;
        AckEntry {
            queue: QueueHandle(low_half(first)),
            count: low_half(first >> 32),
            epoch: Epoch(epoch),
            sequence: Sequence(sequence),
            transaction: Transaction(transaction),
            credit: Credit::from_bits(credit),
        }
    }

    /// The header of an [`Op::Ack`] that says the same.
    #[inline]
    pub const fn header(&self) -> Header {
        Header {
            queue: self.queue,
            epoch: self.epoch,
            sequence: self.sequence,
            aux: self.transaction.0,
            message: MessageId(self.count as u64),
            floor: self.credit.to_bits(),
            ..Header::new(Op::Ack)
        }
    }
}

fn low_half(bits: u64) -> u32 {
    u32::try_from(bits & 0xffff_ffff).expect("half of 64 bits")
}

/// One entry of an [`Op::Queues`] body. The body of [`Op::QueueList`] is the name after which to
/// list, or nothing to begin; names come in ascending order.
///
/// | bytes | field |
/// | --- | --- |
/// | 8 | owner epoch |
/// | 8 | transaction number |
/// | 8 | messages |
/// | 8 | bytes |
/// | 2 | port of the worker |
/// | 1 | length of the name |
/// | 1 to 255 | name |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueEntry<'a> {
    /// The queue's name.
    pub name: QueueName<'a>,
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

impl<'a> QueueEntry<'a> {
    /// Bytes of the longest entry.
    pub const SIZE_BYTES_MAX: usize = 35 + QUEUE_NAME_SIZE_BYTES_MAX;

    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.epoch.0, self.transaction.0, self.messages, self.bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.port.to_le_bytes());
        out.push(u8::try_from(self.name.0.len()).expect("checked when it was parsed"));
        out.extend_from_slice(self.name.0.as_bytes());
    }

    /// All entries of a body.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode_all(body: &'a [u8]) -> Result<Vec<QueueEntry<'a>>, BodyError> {
        let mut reader = Reader(body);
        let mut entries = Vec::new();
        while !reader.0.is_empty() {
            check(entries.len() < QUEUES_PER_REPLY_MAX)?;
            let epoch = Epoch(reader.u64()?);
            let transaction = Transaction(reader.u64()?);
            let messages = reader.u64()?;
            let bytes = reader.u64()?;
            let port = u16::from_le_bytes(reader.array()?);
            let [length] = reader.array()?;
            let name = QueueName::parse(reader.take(usize::from(length))?);
            let name = name.ok_or(BodyError::Value)?;
            entries.push(QueueEntry { name, epoch, transaction, messages, bytes, port });
        }
        Ok(entries)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $number:literal => $text:literal,)*) => {
        /// What a server counts, since it started. New ones may be added; a reader skips keys that
        /// it does not know.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum Counter {
            $($(#[$doc])* $name = $number,)*
        }

        impl Counter {
            /// The counter of that number, if this build knows it.
            pub const fn from_u16(number: u16) -> Option<Counter> {
                match number {
                    $($number => Some(Counter::$name),)*
                    _ => None,
                }
            }

            /// A name for people and machines.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Counter::$name => $text,)*
                }
            }
        }
    };
}

counters! {
    /// Connections accepted.
    Connections = 1 => "connections",
    /// Connections open now.
    ConnectionsOpen = 2 => "connections_open",
    /// Connections ended because the peer broke the protocol.
    ProtocolErrors = 3 => "protocol_errors",
    /// Connections ended because the proof was wrong.
    AuthenticationFailures = 4 => "authentication_failures",
    /// Frames received.
    Frames = 5 => "frames",
    /// Bytes received.
    BytesReceived = 6 => "bytes_received",
    /// Bytes sent.
    BytesSent = 7 => "bytes_sent",
    /// Messages stored.
    Stores = 8 => "stores",
    /// Messages deleted.
    Deletes = 9 => "deletes",
    /// State records set.
    Replaces = 10 => "replaces",
    /// Requests that were applied before and answered again.
    Repeats = 11 => "repeats",
    /// Requests refused.
    Refusals = 12 => "refusals",
    /// Requests refused because the sender is not the owner any more.
    Fenced = 13 => "fenced",
    /// Messages sent in answer to block gets.
    Items = 14 => "items",
    /// Queues now.
    Queues = 15 => "queues",
    /// Messages now.
    Messages = 16 => "messages",
    /// Bytes of messages now.
    MessageBytes = 17 => "message_bytes",
    /// Bytes of the arena.
    ArenaBytes = 18 => "arena_bytes",
    /// Bytes of the arena that belong to no queue.
    ArenaBytesFree = 19 => "arena_bytes_free",
    /// Bytes moved to give memory of deleted messages back.
    BytesMoved = 20 => "bytes_moved",
    /// Answer frames sent; against `Frames` it shows how many answers went together.
    Answers = 21 => "answers",
    /// Turns of the loop that did something.
    Turns = 22 => "turns",
    /// Filled copies that took their peers' numbers.
    Baselines = 23 => "baselines",
}

/// Appends one entry of an [`Op::Counters`] body (2 bytes key, 8 bytes value) to `out`.
pub fn encode_counter(key: Counter, value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&(key as u16).to_le_bytes());
    out.extend_from_slice(&value.to_le_bytes());
}

/// All known counters of a body.
///
/// # Errors
/// [`BodyError`].
pub fn decode_counters(body: &[u8]) -> Result<Vec<(Counter, u64)>, BodyError> {
    let mut reader = Reader(body);
    let mut counters = Vec::new();
    while !reader.0.is_empty() {
        let key = u16::from_le_bytes(reader.array()?);
        let value = reader.u64()?;
        counters.extend(Counter::from_u16(key).map(|key| (key, value)));
    }
    Ok(counters)
}

fn check(holds: bool) -> Result<(), BodyError> {
    if holds { Ok(()) } else { Err(BodyError::Value) }
}

/// Takes fields from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], BodyError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(BodyError::TooShort)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BodyError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(BodyError::TooShort)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, BodyError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, BodyError> {
        self.array().map(u64::from_le_bytes)
    }

    fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }

    fn finish<T>(self, value: T) -> Result<T, BodyError> {
        if self.0.is_empty() { Ok(value) } else { Err(BodyError::TooLong) }
    }
}

// Every reply fits one frame.
const _: () = assert!(OPS_PER_REPLY_MAX * OpEntry::SIZE_BYTES <= PART_SIZE_BYTES_MAX);
const _: () = assert!(ACKS_PER_REPLY_MAX * AckEntry::SIZE_BYTES <= PART_SIZE_BYTES_MAX);
const _: () = assert!(QUEUES_PER_REPLY_MAX * QueueEntry::SIZE_BYTES_MAX <= PART_SIZE_BYTES_MAX);

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out);
        out
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let hello = Hello { version_min: 1, version_max: 2, nonce: [3; 16], account: b"gw-1" };
        assert_eq!(Hello::decode(&encoded(|out| hello.encode(out))), Ok(hello));
        let limits = Limits {
            message_size_bytes_max: 1,
            state_size_bytes_max: 2,
            in_flight_max: 3,
            handles_max: 4,
        };
        let nonce = [9; 16];
        let challenge =
            Challenge { version: Version::V1, incarnation: Incarnation(5), nonce, limits };
        assert_eq!(Challenge::decode(&encoded(|out| challenge.encode(out))), Ok(challenge));
        let name = QueueName::parse(b"example.org").expect("a name");
        let create = Create { messages_max: 7, bytes_max: u64::MAX, name };
        assert_eq!(Create::decode(&encoded(|out| create.encode(out))), Ok(create));
        let attached = Attached {
            last_sequence: Sequence(1),
            chain: ChainHash(2),
            content: ContentDigest(3),
            messages: 4,
            bytes: 5,
            first_id: MessageId(6),
            last_id: MessageId(7),
            port: 8,
            owner_idle_ms: Some(9),
        };
        for (version, owner_idle_ms) in [
            (Version::V1, None),
            (Version::V2, Some(9)),
            (Version::V2, Some(u32::MAX - 1)),
            (Version::V2, None),
            (Version::V3, Some(9)),
        ] {
            let attached = Attached { owner_idle_ms, ..attached };
            let body = encoded(|out| attached.encode(version, out));
            assert_eq!(Attached::decode(version, &body), Ok(attached));
        }
        let body = encoded(|out| attached.encode(Version::V1, out));
        let known = Attached { owner_idle_ms: None, ..attached };
        assert_eq!(Attached::decode(Version::V1, &body), Ok(known), "V1 has no field for it");
        let baseline = Baseline {
            transaction: Transaction(1),
            chain: ChainHash(2),
            content: ContentDigest(3),
            messages: 4,
        };
        assert_eq!(Baseline::decode(&encoded(|out| baseline.encode(out))), Ok(baseline));
    }

    #[test]
    fn lists_are_decoded_whole() {
        let entry = |number| OpEntry {
            transaction: Transaction(number),
            message: MessageId(9),
            digest: 8,
            chain: ChainHash(7),
            op: Op::Delete,
        };
        let entries = vec![entry(1), entry(2)];
        let body = encoded(|out| entries.iter().for_each(|entry| entry.encode(out)));
        assert_eq!(OpEntry::decode_all(&body), Ok(entries));
        assert_eq!(OpEntry::decode_all(&body[1..]), Err(BodyError::Value));

        let ack = |number| AckEntry {
            queue: QueueHandle(number),
            count: 2,
            epoch: Epoch(3),
            sequence: Sequence(4),
            transaction: Transaction(5),
            credit: Credit::new(6, 7 * 1024),
        };
        let body = encoded(|out| (1..=3).for_each(|number| ack(number).encode(out)));
        let acks: Vec<_> = AckEntry::all(&body).expect("whole entries").collect();
        assert_eq!(acks, [1, 2, 3].map(ack));
        for spoilt in [&body[1..], &body[..80 - 1], &[], &[0; 40 * (ACKS_PER_REPLY_MAX + 1)]] {
            assert_eq!(AckEntry::all(spoilt).map(Iterator::count), Err(BodyError::Value));
        }

        let name = QueueName::parse(b"q").expect("a name");
        let (epoch, transaction) = (Epoch(1), Transaction(2));
        let queue = QueueEntry { name, epoch, transaction, messages: 3, bytes: 4, port: 5 };
        let body = encoded(|out| (0..3).for_each(|_| queue.encode(out)));
        assert_eq!(QueueEntry::decode_all(&body), Ok(vec![queue; 3]));
        assert_eq!(QueueEntry::decode_all(&body[..50]), Err(BodyError::TooShort));
    }

    #[test]
    fn counters_of_a_newer_server_are_skipped() {
        let mut body = encoded(|out| encode_counter(Counter::Stores, 7, out));
        body.extend_from_slice(&[0xff; 10]);
        encode_counter(Counter::Deletes, 8, &mut body);
        let counters = vec![(Counter::Stores, 7), (Counter::Deletes, 8)];
        assert_eq!(decode_counters(&body), Ok(counters));
    }

    #[test]
    fn bounds_are_checked() {
        assert_eq!(QueueName::parse(b""), None);
        assert_eq!(QueueName::parse(&[b'a'; 256]), None);
        assert_eq!(QueueName::parse(b"a b"), None);
        assert_eq!(QueueName::parse("caf\u{e9}".as_bytes()), None);
        assert!(QueueName::parse(&[b'a'; 255]).is_some());
        assert_eq!(Hello::decode(&[1, 1]), Err(BodyError::TooShort));
        assert_eq!(Hello::decode(&[1; 18]), Err(BodyError::Value));
        assert_eq!(Hello::decode(&[1; 18 + 65]), Err(BodyError::Value));
        assert_eq!(
            Hello::decode(&[2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 97]),
            Err(BodyError::Value)
        );
        assert_eq!(Baseline::decode(&[0; 33]), Err(BodyError::TooLong));
        assert_eq!(decode_proof(&[0; 31]), Err(BodyError::TooShort));
    }

    proptest! {
        #[test]
        fn random_bodies_harm_nothing(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Hello::decode(&body);
            let _ = Challenge::decode(&body);
            let _ = Create::decode(&body);
            let _ = Attached::decode(Version::V1, &body);
            let _ = Attached::decode(Version::V2, &body);
            let _ = Baseline::decode(&body);
            let _ = OpEntry::decode_all(&body);
            let _ = AckEntry::all(&body).map(Iterator::count);
            let _ = QueueEntry::decode_all(&body);
            let _ = decode_counters(&body);
        }
    }
}

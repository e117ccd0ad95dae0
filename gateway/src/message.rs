//! A queued message: envelope, content, and the small record of how far delivery has come.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kvs_proto::Message as Body;

/// A queue of this gateway: its place in the configuration's list. Handles on the links are the
/// same number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueIndex(pub u32);

/// Who a message is from and to, within one queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The reverse-path without its brackets; empty is the null reverse-path.
    pub reverse_path: Box<str>,
    /// The forward-paths of this queue without brackets, in the client's order; not empty, at most
    /// [`RECIPIENTS_MAX`].
    pub recipients: Vec<Box<str>>,
    /// The client declared BODY=8BITMIME.
    pub eight_bit: bool,
    /// Some line of the content begins with a dot, so that sending needs dot-stuffing.
    pub leading_dot: bool,
    /// When it was accepted, in milliseconds since 1970 (UTC).
    pub accepted_unix_ms: u64,
}

/// Most recipients of one message in one queue; RCPT beyond it is answered 452 (RFC 5321
/// §4.5.3.1.10 asks for at least 100). Bounded so that a [`DeliveryState`] fits a state record.
pub const RECIPIENTS_MAX: usize = 1000;

/// One message as it stands in one queue.
#[derive(Debug)]
pub struct Message {
    /// From and to.
    pub envelope: Envelope,
    /// The content: our Received line and what the client sent, canonical (lines end with CRLF, not
    /// dot-stuffed, end of data not included). Shared between the queues of one mail.
    pub content: Bytes,
}

/// A shared message.
pub type MessageRef = Arc<Message>;

/// How far delivery has come: backed up by `replace`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeliveryState {
    /// Attempts that ended with a transient failure.
    pub attempts: u16,
    /// When the next attempt is due, in milliseconds since 1970 (UTC); 0: at once.
    pub due_unix_ms: u64,
    /// One bit per recipient, by its place in the envelope: set when nothing is left to do for it
    /// (delivered, or failed for good). Empty means none.
    pub settled: Vec<u8>,
}

/// A message as the backups keep it: a head with the envelope, then the content.
///
/// | bytes | |
/// | --- | --- |
/// | 0 | layout, 1 |
/// | 1 | bit 0: 8-bit content, bit 1: some line begins with a dot |
/// | 2..4 | number of recipients |
/// | 4..12 | accepted, ms since 1970 |
/// | 12..14 | length of the reverse-path, which follows |
/// | … | each recipient: 2 bytes of length, then the forward-path |
/// | … | the content, to the end |
#[derive(Clone, Debug)]
pub struct StoredMessage {
    /// The message itself.
    pub message: MessageRef,
    /// Its encoded envelope and its content, as the links carry them.
    pub body: Body,
}

/// Why bytes from a backup are not a message: the copy is damaged or of a later version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadMessage;

const LAYOUT: u8 = 1;
const FLAG_EIGHT_BIT: u8 = 1;
const FLAG_LEADING_DOT: u8 = 2;

impl StoredMessage {
    /// Encodes the envelope and computes the checksums, once for all copies.
    ///
    /// # Panics
    /// If the envelope breaks its bounds (more than [`RECIPIENTS_MAX`] recipients, or a path above
    /// 65,535 bytes), which reception rules out.
    pub fn new(message: MessageRef) -> StoredMessage {
        let body = Body::new(encode_head(&message.envelope), message.content.clone());
        StoredMessage { message, body }
    }

    /// Decodes what a backup returned.
    ///
    /// # Errors
    /// [`BadMessage`].
    pub fn decode(body: Bytes) -> Result<StoredMessage, BadMessage> {
        let mut reader = Reader { rest: &body };
        if reader.u8()? != LAYOUT {
            return Err(BadMessage);
        }
        let flags = reader.u8()?;
        let recipient_count = usize::from(reader.u16()?);
        if recipient_count == 0 || recipient_count > RECIPIENTS_MAX {
            return Err(BadMessage);
        }
        let accepted_unix_ms = reader.u64()?;
        let reverse_path = reader.path()?;
        let recipients =
            (0..recipient_count).map(|_| reader.path()).collect::<Result<Vec<_>, _>>()?;
        let head_size = body.len() - reader.rest.len();
        let content = body.slice(head_size..);
        let envelope = Envelope {
            reverse_path,
            recipients,
            eight_bit: flags & FLAG_EIGHT_BIT != 0,
            leading_dot: flags & FLAG_LEADING_DOT != 0,
            accepted_unix_ms,
        };
        let body = Body::new(body.slice(..head_size), content.clone());
        let message = Arc::new(Message { envelope, content });
        Ok(StoredMessage { message, body })
    }
}

impl DeliveryState {
    /// Whether recipient number `place` needs nothing more.
    pub fn is_settled(&self, place: usize) -> bool {
        self.settled.get(place / 8).is_some_and(|byte| byte & (1 << (place % 8)) != 0)
    }

    /// Notes that recipient number `place` needs nothing more.
    pub fn settle(&mut self, place: usize) {
        if self.settled.len() <= place / 8 {
            self.settled.resize(place / 8 + 1, 0);
        }
        self.settled[place / 8] |= 1 << (place % 8);
    }

    /// The state record: attempts (2 bytes), due time (8), settled recipients (up to 125).
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(10 + self.settled.len());
        bytes.put_u16_le(self.attempts);
        bytes.put_u64_le(self.due_unix_ms);
        bytes.put_slice(&self.settled);
        bytes.freeze()
    }

    /// Decodes a state record; an empty one is a message that was never deferred.
    ///
    /// # Errors
    /// [`BadMessage`].
    pub fn decode(record: &[u8]) -> Result<DeliveryState, BadMessage> {
        if record.is_empty() {
            return Ok(DeliveryState::default());
        }
        let mut reader = Reader { rest: record };
        let attempts = reader.u16()?;
        let due_unix_ms = reader.u64()?;
        if reader.rest.len() > RECIPIENTS_MAX.div_ceil(8) {
            return Err(BadMessage);
        }
        Ok(DeliveryState { attempts, due_unix_ms, settled: reader.rest.to_vec() })
    }
}

fn encode_head(envelope: &Envelope) -> Bytes {
    assert!(!envelope.recipients.is_empty() && envelope.recipients.len() <= RECIPIENTS_MAX);
    let paths = envelope.recipients.iter().map(|path| path.len() + 2).sum::<usize>();
    let mut head = BytesMut::with_capacity(14 + envelope.reverse_path.len() + paths);
    head.put_u8(LAYOUT);
    let eight_bit = if envelope.eight_bit { FLAG_EIGHT_BIT } else { 0 };
    let leading_dot = if envelope.leading_dot { FLAG_LEADING_DOT } else { 0 };
    head.put_u8(eight_bit | leading_dot);
    head.put_u16_le(length_u16(envelope.recipients.len()));
    head.put_u64_le(envelope.accepted_unix_ms);
    for path in std::iter::once(&envelope.reverse_path).chain(&envelope.recipients) {
        head.put_u16_le(length_u16(path.len()));
        head.put_slice(path.as_bytes());
    }
    head.freeze()
}

fn length_u16(length: usize) -> u16 {
    u16::try_from(length).expect("paths are bounded by the length of a command line")
}

/// Reads fields off the front of a slice.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], BadMessage> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(BadMessage)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadMessage> {
        self.take(N)?.try_into().map_err(|_| BadMessage)
    }

    fn u8(&mut self) -> Result<u8, BadMessage> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, BadMessage> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, BadMessage> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn path(&mut self) -> Result<Box<str>, BadMessage> {
        let length = usize::from(self.u16()?);
        let path = str::from_utf8(self.take(length)?).map_err(|_| BadMessage)?;
        Ok(path.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(envelope: Envelope, content: Vec<u8>) -> MessageRef {
        let content = Bytes::from(content);
        Arc::new(Message { envelope, content })
    }

    prop_compose! {
        fn envelopes()(
            reverse_path in "[a-z@.]{0,40}",
            recipients in prop::collection::vec("[a-z@.]{1,40}", 1..20),
            eight_bit: bool,
            leading_dot: bool,
            accepted_unix_ms: u64,
        ) -> Envelope {
            let recipients = recipients.into_iter().map(String::into_boxed_str).collect();
            let reverse_path = reverse_path.into();
            Envelope { reverse_path, recipients, eight_bit, leading_dot, accepted_unix_ms }
        }
    }

    proptest! {
        #[test]
        fn what_a_backup_returns_is_what_was_stored(
            envelope in envelopes(),
            content in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let stored = StoredMessage::new(message(envelope, content));
            let head = encode_head(&stored.message.envelope);
            let body = Bytes::from([&head[..], &stored.message.content].concat());
            let again = StoredMessage::decode(body).unwrap();
            prop_assert_eq!(&again.message.envelope, &stored.message.envelope);
            prop_assert_eq!(&again.message.content, &stored.message.content);
            prop_assert_eq!(again.body.digest(), stored.body.digest());
        }

        #[test]
        fn random_bytes_are_refused_or_decoded_but_never_panic(
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = DeliveryState::decode(&body);
            let _ = StoredMessage::decode(Bytes::from(body));
        }

        #[test]
        fn a_state_record_round_trips(
            attempts: u16,
            due_unix_ms: u64,
            places in prop::collection::vec(0..RECIPIENTS_MAX, 0..50),
        ) {
            let mut state = DeliveryState { attempts, due_unix_ms, settled: Vec::new() };
            for place in &places {
                state.settle(*place);
            }
            let again = DeliveryState::decode(&state.encode()).unwrap();
            for place in 0..RECIPIENTS_MAX {
                prop_assert_eq!(again.is_settled(place), places.contains(&place));
            }
            prop_assert_eq!(again, state);
        }
    }
}

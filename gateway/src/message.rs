//! A queued message: envelope, content, and the small record of how far delivery has come.

mod state;

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kvs_proto::Message as Body;
use smtp::{Notify, Return};

pub use state::{DeliveryState, Explanation, RecipientStatus};

/// A queue of this gateway: its place in the configuration's list. Handles on the links are the
/// same number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueIndex(pub u32);

/// Who a message is from and to, within one queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The reverse-path without its brackets; empty is the null reverse-path.
    pub reverse_path: Box<str>,
    /// The recipients of this queue in the client's order; not empty, at most [`RECIPIENTS_MAX`].
    pub recipients: Vec<Recipient>,
    /// The client declared BODY=8BITMIME.
    pub eight_bit: bool,
    /// The client declared SMTPUTF8 (RFC 6531).
    pub utf8: bool,
    /// Some line of the content begins with a dot, so that sending needs dot-stuffing.
    pub leading_dot: bool,
    /// How much of the message a failure DSN returns, if the client said (RFC 3461 §4.3).
    pub ret: Option<Return>,
    /// ENVID as the client gave it, in `xtext` (RFC 3461 §4.4).
    pub envelope_id: Option<Box<str>>,
    /// MT-PRIORITY as the client gave it and we allowed it, -9 to 9 (RFC 6710).
    pub priority: Option<i8>,
    /// When it was accepted, in milliseconds since 1970 (UTC).
    pub accepted_unix_ms: u64,
}

/// One recipient of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipient {
    /// The forward-path without its brackets.
    pub address: Box<str>,
    /// When the sender wants to be told, if the client said (RFC 3461 §4.1).
    pub notify: Option<Notify>,
    /// ORCPT as the client gave it (RFC 3461 §4.2).
    pub original: Option<Box<str>>,
}

impl Recipient {
    /// A recipient of whom the client said nothing but the address.
    pub fn new(address: impl Into<Box<str>>) -> Recipient {
        Recipient { address: address.into(), notify: None, original: None }
    }

    /// Memory that it takes in an envelope.
    pub fn memory_bytes(&self) -> usize {
        let original = self.original.as_ref().map_or(0, |original| original.len());
        RECIPIENT_OVERHEAD_BYTES + TEXT_COPIES * (self.address.len() + original)
    }
}

impl Envelope {
    /// Memory that an envelope takes beyond what every message is counted with
    /// ([`MESSAGE_OVERHEAD_BYTES`](crate::board::MESSAGE_OVERHEAD_BYTES)): nothing for a usual
    /// one. `recipients` is the sum of their [`Recipient::memory_bytes`].
    pub fn surplus_bytes(
        reverse_path: &str,
        envelope_id: Option<&str>,
        recipients: impl Iterator<Item = usize>,
    ) -> usize {
        let texts = reverse_path.len() + envelope_id.map_or(0, str::len);
        let bytes = TEXT_COPIES * texts + recipients.sum::<usize>();
        bytes.saturating_sub(ENVELOPE_INCLUDED_BYTES)
    }

    /// An envelope without anything that extensions add.
    pub fn new(reverse_path: impl Into<Box<str>>, recipients: Vec<Recipient>) -> Envelope {
        Envelope {
            reverse_path: reverse_path.into(),
            recipients,
            eight_bit: false,
            utf8: false,
            leading_dot: false,
            ret: None,
            envelope_id: None,
            priority: None,
            accepted_unix_ms: 0,
        }
    }

    /// Whether the sender has to be told when that happens to recipient number `place`: the one
    /// place where that is decided. Nobody is told about mail with the null reverse-path (RFC 5321
    /// §4.5.5), so there is never a report of a report. Without NOTIFY the sender hears of
    /// failures and delays (RFC 3461 §4.1).
    pub fn wants_report(&self, place: usize, event: RecipientEvent) -> bool {
        if self.reverse_path.is_empty() {
            return false;
        }
        match (self.recipients[place].notify, event) {
            (None, event) => event != RecipientEvent::Delivered,
            (Some(notify), RecipientEvent::Failed) => notify.failure,
            (Some(notify), RecipientEvent::Delayed) => notify.delay,
            (Some(notify), RecipientEvent::Delivered) => notify.success,
        }
    }
}

/// What a sender may have to be told about a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecipientEvent {
    /// Failed for good.
    Failed,
    /// Neither delivered nor failed after an unusual time.
    Delayed,
    /// Delivered, or relayed to where no report can be expected from.
    Delivered,
}

/// Most recipients of one message in one queue; RCPT beyond it is answered 452 (RFC 5321
/// §4.5.3.1.10 asks for at least 100). Bounded so that a [`DeliveryState`] fits a state record.
pub const RECIPIENTS_MAX: usize = 1000;

/// Of the overhead that is counted for every message, what is there for its envelope: two
/// recipients with addresses of a usual length, and their sender.
const ENVELOPE_INCLUDED_BYTES: usize = 384;
/// What a recipient takes beside its texts: its place in the envelope, and the allocator's part.
const RECIPIENT_OVERHEAD_BYTES: usize = 96;
/// Each text of an envelope is in memory twice: by itself, and encoded for the copies.
const TEXT_COPIES: usize = 2;

/// One message as it stands in one queue.
#[derive(Debug)]
pub struct Message {
    /// From and to.
    pub envelope: Envelope,
    /// The content: our Received line and what the client sent, canonical (lines end with CRLF, not
    /// dot-stuffed, end of data not included). Shared between the queues of one mail.
    pub content: Bytes,
}

impl Message {
    /// What budgets count it with, beside what every message is counted with: its content, and
    /// what its envelope has beyond a usual one.
    pub fn counted_bytes(&self) -> usize {
        let Envelope { reverse_path, envelope_id, recipients, .. } = &self.envelope;
        let recipients = recipients.iter().map(Recipient::memory_bytes);
        let surplus = Envelope::surplus_bytes(reverse_path, envelope_id.as_deref(), recipients);
        self.content.len() + surplus
    }
}

/// A shared message.
pub type MessageRef = Arc<Message>;

/// A message as the backups keep it: a head with the envelope, then the content.
///
/// | bytes | |
/// | --- | --- |
/// | 0 | layout, 2 |
/// | 1 | bit 0: 8-bit content, 1: some line begins with a dot, 2: SMTPUTF8, 3: RET=FULL, 4: RET=HDRS, 5: an ENVID follows, 6: a priority is given |
/// | 2 | priority, signed |
/// | 3..5 | number of recipients |
/// | 5..13 | accepted, ms since 1970 |
/// | 13..15 | length of the reverse-path, which follows |
/// | … | if there is an ENVID: 2 bytes of length, then itself |
/// | … | each recipient: 1 byte of flags (bits 0 to 2: NOTIFY has SUCCESS, FAILURE, DELAY; 3: NOTIFY was given; 4: an ORCPT follows), 2 bytes of length, the forward-path, and the ORCPT in the same way |
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

const LAYOUT: u8 = 2;
const EIGHT_BIT: u8 = 1;
const LEADING_DOT: u8 = 1 << 1;
const UTF8: u8 = 1 << 2;
const RET_FULL: u8 = 1 << 3;
const RET_HEADERS: u8 = 1 << 4;
const HAS_ENVELOPE_ID: u8 = 1 << 5;
const HAS_PRIORITY: u8 = 1 << 6;

const NOTIFY_SUCCESS: u8 = 1;
const NOTIFY_FAILURE: u8 = 1 << 1;
const NOTIFY_DELAY: u8 = 1 << 2;
const HAS_NOTIFY: u8 = 1 << 3;
const HAS_ORIGINAL: u8 = 1 << 4;

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
        let envelope = reader.envelope()?;
        let head_size = body.len() - reader.rest.len();
        let content = body.slice(head_size..);
        let body = Body::new(body.slice(..head_size), content.clone());
        let message = Arc::new(Message { envelope, content });
        Ok(StoredMessage { message, body })
    }
}

fn encode_head(envelope: &Envelope) -> Bytes {
    assert!(!envelope.recipients.is_empty() && envelope.recipients.len() <= RECIPIENTS_MAX);
    let mut head = BytesMut::with_capacity(HEAD_SIZE_TYPICAL);
    head.put_u8(LAYOUT);
    head.put_u8(envelope_flags(envelope));
    head.put_i8(envelope.priority.unwrap_or(0));
    head.put_u16_le(length_u16(envelope.recipients.len()));
    head.put_u64_le(envelope.accepted_unix_ms);
    put_text(&mut head, &envelope.reverse_path);
    if let Some(envelope_id) = &envelope.envelope_id {
        put_text(&mut head, envelope_id);
    }
    for recipient in &envelope.recipients {
        head.put_u8(recipient_flags(recipient));
        put_text(&mut head, &recipient.address);
        if let Some(original) = &recipient.original {
            put_text(&mut head, original);
        }
    }
    head.freeze()
}

fn envelope_flags(envelope: &Envelope) -> u8 {
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    flag(envelope.eight_bit, EIGHT_BIT)
        | flag(envelope.leading_dot, LEADING_DOT)
        | flag(envelope.utf8, UTF8)
        | flag(envelope.ret == Some(Return::Full), RET_FULL)
        | flag(envelope.ret == Some(Return::Headers), RET_HEADERS)
        | flag(envelope.envelope_id.is_some(), HAS_ENVELOPE_ID)
        | flag(envelope.priority.is_some(), HAS_PRIORITY)
}

fn recipient_flags(recipient: &Recipient) -> u8 {
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let notify = recipient.notify.map_or(0, |notify| {
        HAS_NOTIFY
            | flag(notify.success, NOTIFY_SUCCESS)
            | flag(notify.failure, NOTIFY_FAILURE)
            | flag(notify.delay, NOTIFY_DELAY)
    });
    notify | flag(recipient.original.is_some(), HAS_ORIGINAL)
}

fn put_text(head: &mut BytesMut, text: &str) {
    head.put_u16_le(length_u16(text.len()));
    head.put_slice(text.as_bytes());
}

/// Room for the head of a usual message: a reverse-path and a few recipients.
const HEAD_SIZE_TYPICAL: usize = 128;

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

    fn text(&mut self) -> Result<Box<str>, BadMessage> {
        let length = usize::from(self.u16()?);
        let text = str::from_utf8(self.take(length)?).map_err(|_| BadMessage)?;
        Ok(text.into())
    }

    fn short_text(&mut self) -> Result<Box<str>, BadMessage> {
        let length = usize::from(self.u8()?);
        let text = str::from_utf8(self.take(length)?).map_err(|_| BadMessage)?;
        Ok(text.into())
    }

    fn envelope(&mut self) -> Result<Envelope, BadMessage> {
        if self.u8()? != LAYOUT {
            return Err(BadMessage);
        }
        let flags = self.u8()?;
        let priority = i8::from_le_bytes(self.array()?);
        let recipient_count = usize::from(self.u16()?);
        if recipient_count == 0 || recipient_count > RECIPIENTS_MAX {
            return Err(BadMessage);
        }
        let accepted_unix_ms = self.u64()?;
        let reverse_path = self.text()?;
        let has_id = flags & HAS_ENVELOPE_ID != 0;
        let envelope_id = if has_id { Some(self.text()?) } else { None };
        let recipients =
            (0..recipient_count).map(|_| self.recipient()).collect::<Result<_, _>>()?;
        let ret = match flags & (RET_FULL | RET_HEADERS) {
            0 => None,
            RET_FULL => Some(Return::Full),
            RET_HEADERS => Some(Return::Headers),
            _ => return Err(BadMessage),
        };
        Ok(Envelope {
            reverse_path,
            recipients,
            eight_bit: flags & EIGHT_BIT != 0,
            utf8: flags & UTF8 != 0,
            leading_dot: flags & LEADING_DOT != 0,
            ret,
            envelope_id,
            priority: (flags & HAS_PRIORITY != 0).then_some(priority),
            accepted_unix_ms,
        })
    }

    fn recipient(&mut self) -> Result<Recipient, BadMessage> {
        let flags = self.u8()?;
        let notify = Notify {
            success: flags & NOTIFY_SUCCESS != 0,
            failure: flags & NOTIFY_FAILURE != 0,
            delay: flags & NOTIFY_DELAY != 0,
        };
        let address = self.text()?;
        let original = if flags & HAS_ORIGINAL != 0 { Some(self.text()?) } else { None };
        let notify = (flags & HAS_NOTIFY != 0).then_some(notify);
        Ok(Recipient { address, notify, original })
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

    fn notify() -> impl Strategy<Value = Option<Notify>> {
        let flags = (any::<bool>(), any::<bool>(), any::<bool>());
        let notify = |(success, failure, delay)| Notify { success, failure, delay };
        prop::option::of(flags.prop_map(notify))
    }

    prop_compose! {
        fn recipient()(
            address in "[a-zé@.]{1,40}",
            notify in notify(),
            original in prop::option::of("rfc822;[a-z@.]{1,40}"),
        ) -> Recipient {
            let original = original.map(String::into_boxed_str);
            Recipient { address: address.into(), notify, original }
        }
    }

    prop_compose! {
        fn envelopes()(
            reverse_path in "[a-z@.]{0,40}",
            recipients in prop::collection::vec(recipient(), 1..20),
            flags: [bool; 3],
            ret in prop::sample::select(vec![None, Some(Return::Full), Some(Return::Headers)]),
            envelope_id in prop::option::of("[a-z0-9]{1,100}"),
            priority in prop::option::of(-9_i8..=9),
            accepted_unix_ms: u64,
        ) -> Envelope {
            Envelope {
                reverse_path: reverse_path.into(),
                recipients,
                eight_bit: flags[0],
                utf8: flags[1],
                leading_dot: flags[2],
                ret,
                envelope_id: envelope_id.map(String::into_boxed_str),
                priority,
                accepted_unix_ms,
            }
        }
    }

    #[test]
    fn the_sender_hears_what_notify_says_and_nothing_with_the_null_reverse_path() {
        use RecipientEvent::{Delayed, Delivered, Failed};
        let told = |envelope: &Envelope| {
            [Failed, Delayed, Delivered].map(|event| envelope.wants_report(0, event))
        };
        let mut envelope = Envelope::new("a@b", vec![Recipient::new("c@d")]);
        assert_eq!(told(&envelope), [true, true, false]);
        envelope.recipients[0].notify = Some(Notify { success: true, ..Notify::NEVER });
        assert_eq!(told(&envelope), [false, false, true]);
        envelope.recipients[0].notify = Some(Notify { failure: true, ..Notify::NEVER });
        assert_eq!(told(&envelope), [true, false, false]);
        envelope.recipients[0].notify = Some(Notify { delay: true, ..Notify::NEVER });
        assert_eq!(told(&envelope), [false, true, false]);
        envelope.recipients[0].notify = Some(Notify { success: true, failure: true, delay: true });
        envelope.reverse_path = "".into();
        assert_eq!(told(&envelope), [false, false, false]);
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
            let _ = StoredMessage::decode(Bytes::from(body));
        }
    }
}

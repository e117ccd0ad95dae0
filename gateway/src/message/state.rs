//! How far delivery of a message has come: backed up by `replace`.

use bytes::{BufMut, Bytes, BytesMut};
use kvs_proto::STATE_SIZE_BYTES_MAX;
use smtp::{EnhancedCode, Reply};

use super::{BadMessage, Envelope, RECIPIENTS_MAX, Reader, RecipientEvent};

/// How far delivery has come: what became of each recipient, and why.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeliveryState {
    /// Attempts that left something to do: recipients to be tried again, or a report to the sender.
    pub attempts: u16,
    /// When the next attempt is due, in milliseconds since 1970 (UTC); 0: at once.
    pub due_unix_ms: u64,
    /// When the last attempt ended, or the message expired, in milliseconds since 1970 (UTC); 0:
    /// nothing of that has happened.
    pub noted_unix_ms: u64,
    /// The sender has been told of the delay.
    pub warned: bool,
    /// Two bits for each recipient, by its place in the envelope; those beyond the end are open.
    statuses: Vec<u8>,
    /// Why recipients are as they are; each place at most once, settled ones never.
    explanations: Vec<Explanation>,
}

/// What became of one recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecipientStatus {
    /// To be tried, for the first time or again.
    Open,
    /// Nothing is left to do.
    Settled,
    /// Failed for good, and the sender has to be told.
    Failed,
    /// Delivered or relayed, and the sender wants to be told (NOTIFY=SUCCESS).
    Delivered,
}

impl RecipientStatus {
    /// Whether the sender has to be told.
    pub fn is_report_due(self) -> bool {
        matches!(self, RecipientStatus::Failed | RecipientStatus::Delivered)
    }
}

/// Why some recipients are as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The reply of the next hop, or one of our own.
    pub reply: Reply,
    /// The next hop that gave it, as an address with its port; empty when it is our own.
    pub next_hop: Box<str>,
    /// Places of the recipients in the envelope, ascending.
    pub places: Vec<u16>,
}

impl DeliveryState {
    /// The state after so many failed attempts, with all recipients open.
    pub fn deferred(attempts: u16, due_unix_ms: u64) -> DeliveryState {
        DeliveryState { attempts, due_unix_ms, ..DeliveryState::default() }
    }

    /// What became of recipient number `place`.
    pub fn status(&self, place: usize) -> RecipientStatus {
        let byte = self.statuses.get(place / 4).copied().unwrap_or(0);
        match byte >> (place % 4 * 2) & 3 {
            0 => RecipientStatus::Open,
            1 => RecipientStatus::Settled,
            2 => RecipientStatus::Failed,
            _ => RecipientStatus::Delivered,
        }
    }

    /// Notes what became of recipient number `place`.
    pub fn set_status(&mut self, place: usize, status: RecipientStatus) {
        assert!(place < RECIPIENTS_MAX, "places are those of an envelope");
        if self.statuses.len() <= place / 4 {
            self.statuses.resize(place / 4 + 1, 0);
        }
        let bits = match status {
            RecipientStatus::Open => 0,
            RecipientStatus::Settled => 1,
            RecipientStatus::Failed => 2,
            RecipientStatus::Delivered => 3,
        };
        let byte = &mut self.statuses[place / 4];
        *byte = *byte & !(3 << (place % 4 * 2)) | bits << (place % 4 * 2);
        if status == RecipientStatus::Settled {
            self.forget_explanation(place);
        }
    }

    /// Gives up the recipients that are still open: the message has expired. The last reply known
    /// stays as the explanation of those of whom the sender is told.
    pub fn expire(&mut self, envelope: &Envelope) {
        for place in 0..envelope.recipients.len() {
            if self.status(place) != RecipientStatus::Open {
                continue;
            }
            if !envelope.wants_report(place, RecipientEvent::Failed) {
                self.set_status(place, RecipientStatus::Settled);
                continue;
            }
            if self.explanation(place).is_none() {
                self.explain(place, &Reply::local(451, (4, 4, 7), "delivery time expired"), "");
            }
            self.set_status(place, RecipientStatus::Failed);
        }
    }

    /// Settles the first `count` recipients of whom a report was due: the sender has been told.
    pub fn settle_reported(&mut self, recipients: usize, count: usize) {
        let due = (0..recipients).filter(|place| self.status(*place).is_report_due());
        for place in due.take(count).collect::<Vec<_>>() {
            self.set_status(place, RecipientStatus::Settled);
        }
    }

    /// Notes why a recipient is as it is; replaces what was noted before.
    pub fn explain(&mut self, place: usize, reply: &Reply, next_hop: &str) {
        self.forget_explanation(place);
        let place = u16::try_from(place).expect("places are below RECIPIENTS_MAX");
        let reply = Reply { is_ours: next_hop.is_empty(), ..reply.clone() };
        let is_same = |it: &&mut Explanation| it.reply == reply && *it.next_hop == *next_hop;
        match self.explanations.iter_mut().find(is_same) {
            Some(explanation) => {
                let at = explanation.places.partition_point(|other| *other < place);
                explanation.places.insert(at, place);
            }
            None => self.explanations.push(Explanation {
                reply,
                next_hop: next_hop.into(),
                places: vec![place],
            }),
        }
    }

    /// Why a recipient is as it is, as far as that is known.
    pub fn explanation(&self, place: usize) -> Option<&Explanation> {
        let place = u16::try_from(place).ok()?;
        self.explanations.iter().find(|it| it.places.binary_search(&place).is_ok())
    }

    /// Whether the sender has to be told about one of the first `count` recipients.
    pub fn is_report_due(&self, count: usize) -> bool {
        !self.statuses.is_empty() && (0..count).any(|place| self.status(place).is_report_due())
    }

    /// Whether one of the first `count` recipients is still to be tried.
    pub fn has_open(&self, count: usize) -> bool {
        (0..count).any(|place| self.status(place) == RecipientStatus::Open)
    }

    /// The state record.
    ///
    /// | bytes | |
    /// | --- | --- |
    /// | 0 | bit 0: the sender was told of the delay |
    /// | 1..3 | attempts |
    /// | 3..11 | due time |
    /// | 11..19 | when the last attempt ended |
    /// | 19 | length of the statuses (at most 250), which follow: two bits for each recipient |
    /// | … | explanations, as many as there is room for: code (2 bytes), enhanced code (1, 2 and 2 bytes; zero: none), text and next hop (1 byte of length each, then the text), number of places (2 bytes), each place (2 bytes) |
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(64);
        bytes.put_u8(u8::from(self.warned));
        bytes.put_u16_le(self.attempts);
        bytes.put_u64_le(self.due_unix_ms);
        bytes.put_u64_le(self.noted_unix_ms);
        bytes.put_u8(u8::try_from(self.statuses.len()).expect("bounded by RECIPIENTS_MAX"));
        bytes.put_slice(&self.statuses);
        for explanation in &self.explanations {
            explanation.encode(&mut bytes);
        }
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
        let warned = reader.u8()? != 0;
        let attempts = reader.u16()?;
        let due_unix_ms = reader.u64()?;
        let noted_unix_ms = reader.u64()?;
        let status_size = usize::from(reader.u8()?);
        if status_size > RECIPIENTS_MAX.div_ceil(4) {
            return Err(BadMessage);
        }
        let statuses = reader.take(status_size)?.to_vec();
        let mut explanations = Vec::new();
        while !reader.rest.is_empty() {
            explanations.push(Explanation::decode(&mut reader)?);
        }
        let state = DeliveryState { attempts, due_unix_ms, noted_unix_ms, ..Default::default() };
        Ok(DeliveryState { warned, statuses, explanations, ..state })
    }

    fn forget_explanation(&mut self, place: usize) {
        let Ok(place) = u16::try_from(place) else { return };
        for explanation in &mut self.explanations {
            explanation.places.retain(|other| *other != place);
        }
        self.explanations.retain(|explanation| !explanation.places.is_empty());
    }
}

impl Explanation {
    /// Appends what there is room for: long texts are cut, places beyond the room are left out,
    /// and without room for one place there is nothing.
    fn encode(&self, bytes: &mut BytesMut) {
        let text = cut(&self.reply.text, TEXT_SIZE_BYTES_MAX);
        let next_hop = cut(&self.next_hop, NEXT_HOP_SIZE_BYTES_MAX);
        let fixed = EXPLANATION_SIZE_BYTES_MIN + text.len() + next_hop.len();
        let room = STATE_SIZE_BYTES_MAX.saturating_sub(bytes.len() + fixed) / 2;
        let places = &self.places[..self.places.len().min(room)];
        if places.is_empty() {
            return;
        }
        let enhanced = self.reply.enhanced.unwrap_or(EnhancedCode(0, 0, 0));
        bytes.put_u16_le(self.reply.code);
        bytes.put_u8(enhanced.0);
        bytes.put_u16_le(enhanced.1);
        bytes.put_u16_le(enhanced.2);
        for text in [text, next_hop] {
            bytes.put_u8(u8::try_from(text.len()).expect("just cut"));
            bytes.put_slice(text.as_bytes());
        }
        bytes.put_u16_le(u16::try_from(places.len()).expect("bounded by RECIPIENTS_MAX"));
        for place in places {
            bytes.put_u16_le(*place);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Explanation, BadMessage> {
        let code = reader.u16()?;
        let enhanced = match EnhancedCode(reader.u8()?, reader.u16()?, reader.u16()?) {
            EnhancedCode(0, _, _) => None,
            enhanced => Some(enhanced),
        };
        let text = reader.short_text()?;
        let next_hop = reader.short_text()?;
        let count = usize::from(reader.u16()?);
        if count > RECIPIENTS_MAX {
            return Err(BadMessage);
        }
        let places = (0..count).map(|_| reader.u16()).collect::<Result<Vec<_>, _>>()?;
        if !places.is_sorted() || places.iter().any(|it| usize::from(*it) >= RECIPIENTS_MAX) {
            return Err(BadMessage);
        }
        let reply = Reply { code, enhanced, text, is_ours: next_hop.is_empty() };
        Ok(Explanation { reply, next_hop, places })
    }
}

/// The start of a text, at most `size_max` bytes.
fn cut(text: &str, size_max: usize) -> &str {
    let mut end = text.len().min(size_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Of a reply's text a record keeps so much.
const TEXT_SIZE_BYTES_MAX: usize = 120;
/// Longer than any address with its port.
const NEXT_HOP_SIZE_BYTES_MAX: usize = 60;
/// An explanation without texts and places.
const EXPLANATION_SIZE_BYTES_MIN: usize = 11;
const _: () = assert!(20 + RECIPIENTS_MAX / 4 <= STATE_SIZE_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Recipient;
    use proptest::prelude::*;
    use smtp::Notify;

    const STATUSES: [RecipientStatus; 4] = [
        RecipientStatus::Open,
        RecipientStatus::Settled,
        RecipientStatus::Failed,
        RecipientStatus::Delivered,
    ];

    #[test]
    fn an_explanation_goes_with_its_recipients_until_they_are_settled() {
        let mut state = DeliveryState::default();
        let busy = Reply::local(450, (4, 2, 0), "busy");
        state.explain(3, &busy, "192.0.2.1:25");
        state.explain(1, &busy, "192.0.2.1:25");
        assert_eq!(state.explanation(1).unwrap().places, [1, 3]);
        state.explain(3, &Reply::local(550, (5, 1, 1), "unknown"), "192.0.2.1:25");
        state.set_status(3, RecipientStatus::Failed);
        assert_eq!(state.explanation(3).unwrap().reply.code, 550);
        assert!(state.is_report_due(4) && !state.is_report_due(3));
        state.set_status(3, RecipientStatus::Settled);
        assert!(state.explanation(3).is_none() && !state.is_report_due(4));
        assert_eq!(state.explanation(1).unwrap().places, [1]);
    }

    #[test]
    fn expiry_gives_up_what_is_open_and_keeps_the_last_reply() {
        let names = ["a@x", "b@x", "c@x", "d@x"];
        let mut recipients: Vec<Recipient> = names.map(Recipient::new).into();
        recipients[3].notify = Some(Notify::NEVER);
        let envelope = Envelope::new("s@x", recipients);
        let mut state = DeliveryState::default();
        let busy = Reply::local(450, (4, 2, 0), "busy");
        state.set_status(0, RecipientStatus::Settled);
        state.explain(1, &busy, "192.0.2.1:25");
        state.expire(&envelope);
        let statuses = [0, 1, 2, 3].map(|place| state.status(place));
        let [_, settled, failed, _] = STATUSES;
        assert_eq!(statuses, [settled, failed, failed, settled]);
        assert_eq!(state.explanation(1).unwrap().reply, Reply { is_ours: false, ..busy });
        assert_eq!(state.explanation(2).unwrap().reply.code, 451);
        state.settle_reported(4, 1);
        assert_eq!(state.status(2), failed, "one at a time if they do not fit a report");
        state.settle_reported(4, 9);
        assert!(!state.is_report_due(4) && !state.has_open(4));
        let mut unwanted = DeliveryState::default();
        unwanted.expire(&Envelope { reverse_path: "".into(), ..envelope });
        assert_eq!([0, 1, 2, 3].map(|place| unwanted.status(place)), [settled; 4]);
    }

    #[test]
    fn a_record_has_room_for_the_statuses_of_all_recipients() {
        let mut state = DeliveryState::default();
        for place in 0..RECIPIENTS_MAX {
            state.set_status(place, RecipientStatus::Failed);
            let reply = Reply::local(550, (5, 1, 1), &format!("no such user {place}"));
            state.explain(place, &reply, "[2001:db8::1]:25");
        }
        let record = state.encode();
        assert!(record.len() <= STATE_SIZE_BYTES_MAX);
        let again = DeliveryState::decode(&record).unwrap();
        assert!((0..RECIPIENTS_MAX).all(|it| again.status(it) == RecipientStatus::Failed));
        assert_eq!(again.explanation(0), state.explanation(0));
        assert_eq!(again.explanation(RECIPIENTS_MAX - 1), None);
    }

    proptest! {
        #[test]
        fn a_state_record_round_trips(
            attempts: u16,
            due_unix_ms: u64,
            noted_unix_ms: u64,
            warned: bool,
            marks in prop::collection::vec((0..RECIPIENTS_MAX, 0..4_usize), 0..50),
        ) {
            let mut state = DeliveryState::deferred(attempts, due_unix_ms);
            (state.noted_unix_ms, state.warned) = (noted_unix_ms, warned);
            let mut expected = vec![RecipientStatus::Open; RECIPIENTS_MAX];
            for (place, status) in marks {
                state.explain(place, &Reply::local(451, (4, 0, 0), "later"), "");
                state.set_status(place, STATUSES[status]);
                expected[place] = STATUSES[status];
            }
            let again = DeliveryState::decode(&state.encode()).unwrap();
            prop_assert_eq!(&again, &state);
            for (place, status) in expected.into_iter().enumerate() {
                prop_assert_eq!(again.status(place), status);
            }
        }

        #[test]
        fn random_bytes_are_refused_or_decoded_but_never_panic(
            record in prop::collection::vec(any::<u8>(), 0..500),
        ) {
            if let Ok(state) = DeliveryState::decode(&record) {
                prop_assert!(DeliveryState::decode(&state.encode()).is_ok());
            }
        }
    }
}

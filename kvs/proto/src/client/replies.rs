//! What the server answers.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::BytesMut;

use super::{Assembly, Client, Open, Queue, State};
use crate::auth::{Handshake, Role};
use crate::body::{
    AckEntry, Attached, BodyError, Challenge, OpEntry, QueueEntry, decode_counters, decode_proof,
};
use crate::event::{Event, Item, ProtocolError, QueueSummary, Refusal};
use crate::{
    Credit, Header, Instant, MESSAGE_SIZE_BYTES_MAX, Op, Piece, STATE_SIZE_BYTES_MAX, StateVersion,
    Status, Tag, Transaction, flags,
};

impl Client {
    pub(super) fn handle_piece(
        &mut self,
        now: Instant,
        piece: Piece<'_>,
    ) -> Result<(), ProtocolError> {
        match piece {
            Piece::Frame(header, body) => {
                if header.op == Op::Item {
                    self.begin_item(&header)?;
                    self.extend_item(&header, body);
                    return self.end_item(&header);
                }
                self.handle_frame(now, &header, body)
            }
            Piece::Start(header) => {
                if header.op == Op::Item {
                    self.begin_item(&header)?;
                }
                self.open = Some(Open { header, body: Vec::new() });
                Ok(())
            }
            Piece::Body(body) => {
                let open = self.open.as_mut().expect("a body follows its start");
                let header = open.header;
                if header.op == Op::Item {
                    self.extend_item(&header, body);
                } else {
                    open.body.extend_from_slice(body);
                }
                Ok(())
            }
            Piece::End => {
                let open = self.open.take().expect("an end follows its start");
                if open.header.op == Op::Item {
                    return self.end_item(&open.header);
                }
                self.handle_frame(now, &open.header, &open.body)
            }
        }
    }

    /// A whole reply, other than an item.
    fn handle_frame(
        &mut self,
        now: Instant,
        header: &Header,
        body: &[u8],
    ) -> Result<(), ProtocolError> {
        // Before the challenge the server does not know what we speak.
        if self.state != State::Hello && header.version != self.outbox.version() {
            return Err(ProtocolError::Version(header.version));
        }
        match (self.state, header.op) {
            (State::Ready(_), Op::Ack) if body.is_empty() => self.handle_ack(header),
            (State::Ready(_), Op::Ack) => Err(ProtocolError::Field(Op::Ack)),
            (State::Ready(_), Op::Acks) => {
                let mut entries = AckEntry::all(body).map_err(in_body_of(header))?;
                entries.try_for_each(|entry| self.handle_ack(&entry.header()))
            }
            (_, Op::Refused) => self.handle_refused(header),
            (State::Hello, Op::Challenge) => self.handle_challenge(now, header, body),
            (State::Authenticating(challenge), Op::Welcome) => {
                self.handle_welcome(&challenge, header, body)
            }
            (State::Ready(_), _) => self.handle_reply(header, body),
            (_, op) => Err(ProtocolError::Unexpected(op)),
        }
    }

    #[inline]
    fn handle_ack(&mut self, header: &Header) -> Result<(), ProtocolError> {
        let count = header.message.0;
        self.queue(header)?;
        self.note_answers(Op::Ack, count)?;
        self.events.push_back(Event::Ack {
            queue: header.queue,
            epoch: header.epoch,
            sequence: header.sequence,
            count,
            transaction: Transaction(header.aux),
            credit: Credit::from_bits(header.floor),
        });
        Ok(())
    }

    fn handle_refused(&mut self, header: &Header) -> Result<(), ProtocolError> {
        let field = ProtocolError::Field(Op::Refused);
        let status = Status::from_u32(header.generation_or_status).ok_or(field)?;
        let op = u8::try_from(header.message.0).ok().and_then(Op::from_u8).ok_or(field)?;
        let ends = matches!(
            status,
            Status::NotAuthenticated
                | Status::BadRequest
                | Status::NoCommonVersion
                | Status::TooManyConnections
        );
        if status == Status::Ok || !op.is_request() || (self.is_shaking_hands() && !ends) {
            return Err(field);
        }
        if ends {
            // It may answer what the server could not even make sense of.
            self.die();
        } else {
            self.note_answers(op, 1)?;
        }
        if op == Op::BlockGet
            && let Ok(queue) = self.queue(header)
        {
            // It may end a read in the middle of a message.
            queue.item = None;
        }
        let wrong_worker = status == Status::WrongWorker;
        let port = if wrong_worker { u16::try_from(header.aux).map_err(|_| field)? } else { 0 };
        self.events.push_back(Event::Refused(Refusal {
            op,
            queue: header.queue,
            sequence: header.sequence,
            status,
            epoch: header.epoch,
            transaction: Transaction(if wrong_worker { 0 } else { header.aux }),
            credit: Credit::from_bits(header.floor),
            port,
        }));
        Ok(())
    }

    fn handle_challenge(
        &mut self,
        now: Instant,
        header: &Header,
        body: &[u8],
    ) -> Result<(), ProtocolError> {
        let challenge = Challenge::decode(body).map_err(in_body_of(header))?;
        if challenge.version > self.config.version_max || header.version != challenge.version {
            return Err(ProtocolError::Version(challenge.version));
        }
        self.outbox.set_version(challenge.version);
        self.note_answers(Op::Challenge, 1)?;
        let proof = self.handshake(&challenge).proof(Role::Client, &self.config.secret);
        self.state = State::Authenticating(challenge);
        self.push_control(now, Header::new(Op::Authenticate), &proof);
        Ok(())
    }

    fn handle_welcome(
        &mut self,
        challenge: &Challenge,
        header: &Header,
        body: &[u8],
    ) -> Result<(), ProtocolError> {
        let proof = decode_proof(body).map_err(in_body_of(header))?;
        if !self.handshake(challenge).verify(Role::Server, &self.config.secret, &proof) {
            return Err(ProtocolError::ServerProof);
        }
        self.note_answers(Op::Welcome, 1)?;
        let Challenge { version, incarnation, limits, .. } = *challenge;
        self.state = State::Ready(limits);
        self.events.push_back(Event::Welcome { version, incarnation, limits });
        Ok(())
    }

    fn handshake(&self, challenge: &Challenge) -> Handshake<'_> {
        Handshake {
            version: challenge.version,
            incarnation: challenge.incarnation,
            client_nonce: self.config.nonce,
            server_nonce: challenge.nonce,
            account: self.config.account.as_bytes(),
        }
    }

    fn handle_reply(&mut self, header: &Header, body: &[u8]) -> Result<(), ProtocolError> {
        let event = self.decode_reply(header, body)?;
        self.note_answers(header.op, 1)?;
        self.events.push_back(event);
        Ok(())
    }

    fn decode_reply(&mut self, header: &Header, body: &[u8]) -> Result<Event, ProtocolError> {
        let queue = header.queue;
        let tag = Tag(header.sequence.0);
        let finished = header.floor == 1;
        Ok(match header.op {
            Op::Attached => {
                self.queue(header)?;
                Event::Attached {
                    queue,
                    tag,
                    epoch: header.epoch,
                    transaction: Transaction(header.aux),
                    credit: Credit::from_bits(header.floor),
                    attached: Attached::decode(header.version, body).map_err(in_body_of(header))?,
                }
            }
            Op::Dropped => {
                // It may have been asked for again before it was gone.
                if self.queue(header)?.is_dropped {
                    self.queues[queue.0 as usize] = None;
                }
                Event::Dropped { queue, tag }
            }
            Op::BlockEnd => {
                if self.queue(header)?.item.is_some() {
                    return Err(ProtocolError::Unexpected(Op::BlockEnd));
                }
                let cursor = header.message;
                Event::BlockEnd { queue, tag, cursor, count: header.aux, finished }
            }
            Op::Ops => {
                let entries = OpEntry::decode_all(body).map_err(in_body_of(header))?;
                Event::Ops { queue, tag, entries, transaction: Transaction(header.aux) }
            }
            Op::HeartBeatReply => {
                // A server that echoes something else tells nothing.
                let made_at = Some(Instant::from_nanos(header.aux));
                if made_at <= self.heart_beat_at {
                    self.answered = self.answered.max(made_at);
                }
                Event::HeartBeatReply { tag }
            }
            Op::Queues => {
                let entries = QueueEntry::decode_all(body).map_err(in_body_of(header))?;
                let queues = entries.iter().map(QueueSummary::from).collect();
                Event::Queues { tag, queues, finished }
            }
            Op::Counters => {
                let counters = decode_counters(body).map_err(in_body_of(header))?;
                Event::Counters { tag, counters }
            }
            Op::Owner => {
                let field = ProtocolError::Field(Op::Owner);
                if !body.is_empty() {
                    return Err(field);
                }
                let idle_ms = u32::try_from(header.aux).map_err(|_| field)?;
                let idle_ms = (idle_ms != u32::MAX).then_some(idle_ms);
                Event::Owner { tag, epoch: header.epoch, idle_ms }
            }
            op => return Err(ProtocolError::Unexpected(op)),
        })
    }

    /// The queue that a reply is about, which must be in use.
    #[inline]
    fn queue(&mut self, header: &Header) -> Result<&mut Queue, ProtocolError> {
        let queue = self.queues.get_mut(header.queue.0 as usize).and_then(Option::as_mut);
        queue.ok_or(ProtocolError::Field(header.op))
    }

    /// The header of an item, or of a part of one.
    fn begin_item(&mut self, header: &Header) -> Result<(), ProtocolError> {
        let field = ProtocolError::Field(Op::Item);
        let (offset, total) = halves(header.aux);
        let (_, state_length) = halves(header.floor);
        let queue = self.queue(header)?;
        if header.flags & flags::WITHDRAWN != 0 {
            let void = queue.item.take().is_some() && header.flags == flags::WITHDRAWN;
            return if void && header.body_length == 0 { Ok(()) } else { Err(field) };
        }
        let more = header.flags & flags::MORE != 0;
        let sound = total <= MESSAGE_SIZE_BYTES_MAX + STATE_SIZE_BYTES_MAX
            && state_length <= total.min(STATE_SIZE_BYTES_MAX)
            && more == (offset + header.body_length as usize != total);
        if !sound {
            return Err(field);
        }
        match &queue.item {
            None if offset == 0 => {
                let bytes = BytesMut::with_capacity(total);
                queue.item = Some(Box::new(Assembly { header: *header, bytes }));
                Ok(())
            }
            Some(item) if offset == item.bytes.len() && offset > 0 => {
                let first = &item.header;
                let same = first.message == header.message
                    && first.floor == header.floor
                    && first.sequence == header.sequence
                    && halves(first.aux).1 == total;
                if same && header.body_length > 0 { Ok(()) } else { Err(field) }
            }
            _ => Err(field),
        }
    }

    fn extend_item(&mut self, header: &Header, body: &[u8]) {
        if body.is_empty() {
            // As that of a withdrawal, which has no item to extend.
            return;
        }
        let queue = self.queues[header.queue.0 as usize].as_mut().expect("checked at the start");
        queue.item.as_mut().expect("begun before").bytes.extend_from_slice(body);
    }

    fn end_item(&mut self, header: &Header) -> Result<(), ProtocolError> {
        if header.flags != 0 {
            return Ok(());
        }
        let item = self.queue(header)?.item.take().expect("begun before");
        let (version, state_length) = halves(header.floor);
        let version = u32::try_from(version).expect("half of 64 bits");
        let mut body = item.bytes.freeze();
        let state = body.split_to(state_length);
        self.events.push_back(Event::Item(Item {
            queue: header.queue,
            tag: Tag(header.sequence.0),
            id: header.message,
            state_version: StateVersion(version),
            state,
            body,
        }));
        Ok(())
    }
}

fn in_body_of(header: &Header) -> impl Fn(BodyError) -> ProtocolError {
    let op = header.op;
    move |error| ProtocolError::Body(op, error)
}

/// Upper and lower 32 bits.
fn halves(bits: u64) -> (usize, usize) {
    let credit = Credit::from_bits(bits);
    (credit.messages as usize, credit.kib as usize)
}

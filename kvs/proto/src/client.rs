//! The client's end of one link to a backup queue server.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::{Bytes, BytesMut};

use crate::auth::{Handshake, NONCE_SIZE_BYTES, Role, Secret};
use crate::body::{
    Attached, Baseline, BodyError, Challenge, Create, Hello, Limits, OpEntry, QueueEntry,
    QueueName, decode_counters, decode_proof,
};
use crate::event::{Event, Item, ProtocolError, QueueSummary, Refusal};
use crate::outbox::Outbox;
use crate::{
    Credit, Decoder, Epoch, Generation, Header, Instant, MESSAGE_SIZE_BYTES_MAX, Message,
    MessageId, Op, Piece, QueueHandle, STATE_SIZE_BYTES_MAX, Sequence, StateVersion, Status, Tag,
    Transaction, Version, flags,
};

/// The client's end of one connection, from its first byte to its last. A new connection takes a
/// new `Client`.
///
/// The order of calls:
///
/// 1. [`Client::new`] when the connection is established; it has a frame to send at once.
/// 2. [`Client::handle_bytes`] with what was received, then [`Client::poll_event`] until `None`.
/// 3. After [`Event::Welcome`]: [`Client::create`] or [`Client::attach`], and from then on (not
///    waiting for the answer, if the caller knows it) the other commands.
/// 4. [`Client::peek_output`], and [`Client::advance_output`] by what the transport took, until
///    there is no output.
///
/// It never sends anything again by itself, and knows no deadlines: the queue's owner judges by
/// [`Client::oldest_unanswered_since`] and [`Client::last_received`].
///
/// After [`Event::ProtocolError`], or `Refused` with a status that ends the connection, it is dead:
/// it takes no more input, has no output, and commands do nothing.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    state: State,
    decoder: Decoder,
    /// The frame whose body is arriving in pieces.
    open: Option<Open>,
    /// By handle. At most `limits.handles_max` entries.
    queues: Vec<Option<Queue>>,
    outbox: Outbox,
    events: VecDeque<Event>,
    /// How many requests were made when, oldest first; those of one instant share an entry. The
    /// server answers in order, save that a message in parts may be overtaken.
    unanswered: VecDeque<(Instant, u64)>,
    unanswered_count: u64,
    last_received: Instant,
    /// When the newest request was made that is known to be answered.
    answered: Option<Instant>,
    /// When the newest heart-beat was made.
    heart_beat_at: Option<Instant>,
}

/// What a [`Client`] needs to know.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Name of the account, 1 to 64 bytes.
    pub account: String,
    /// Its secret.
    pub secret: Secret,
    /// Random bytes, fresh for each connection.
    pub nonce: [u8; NONCE_SIZE_BYTES],
    /// The highest version that it offers.
    pub version_max: Version,
    /// Bytes that may wait for sending. Commands are taken beyond it; callers that would append
    /// look at [`Client::room`] first.
    pub output_bytes_max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// `Hello` was sent.
    Hello,
    /// `Authenticate` was sent.
    Authenticating(Challenge),
    /// Welcomed.
    Ready(Limits),
    /// It is over.
    Dead,
}

/// A frame whose body is arriving.
#[derive(Debug)]
struct Open {
    header: Header,
    /// Bytes so far, at most one part. Not used for items, which are assembled at the queue.
    body: Vec<u8>,
}

/// A handle in use.
#[derive(Debug)]
struct Queue {
    epoch: Epoch,
    generation: Generation,
    /// The item that is arriving in parts.
    item: Option<Assembly>,
    /// It was asked to go, and not asked for since.
    is_dropped: bool,
}

#[derive(Debug)]
struct Assembly {
    header: Header,
    /// State record and message.
    bytes: BytesMut,
}

impl Client {
    /// Begins the handshake.
    ///
    /// Stops the process if the account's name is empty or longer than 64 bytes.
    pub fn new(now: Instant, config: ClientConfig) -> Client {
        let account = config.account.as_bytes();
        assert!((1..=crate::body::ACCOUNT_SIZE_BYTES_MAX).contains(&account.len()));
        let mut body = Vec::new();
        Hello {
            version_min: Version::OLDEST as u8,
            version_max: config.version_max as u8,
            nonce: config.nonce,
            account,
        }
        .encode(&mut body);
        let mut client = Client {
            config,
            state: State::Hello,
            decoder: Decoder::new(),
            open: None,
            queues: Vec::new(),
            // So that every server that speaks one of the versions can read it.
            outbox: Outbox::new(Version::OLDEST),
            events: VecDeque::new(),
            unanswered: VecDeque::new(),
            unanswered_count: 0,
            last_received: now,
            answered: None,
            heart_beat_at: None,
        };
        client.push_control(now, Header::new(Op::Hello), &body);
        client
    }

    /// Takes received bytes; all of them are used. Events wait for [`Client::poll_event`]: at most
    /// one for each 64 bytes.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.last_received = now;
        }
        let mut rest = bytes;
        while self.state != State::Dead {
            match self.decoder.handle_bytes(rest) {
                Ok((_, None)) => return,
                Ok((used, Some(piece))) => {
                    rest = &rest[used..];
                    let result = self.handle_piece(now, piece);
                    self.die_on_error(result);
                }
                Err(error) => self.die_on_error(Err(ProtocolError::Decode(error))),
            }
        }
    }

    /// What the server said, in its order.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Fills `slices` with the next bytes to send, in order, and says how many it filled; 0 when
    /// there is nothing to send.
    pub fn peek_output<'a>(&'a mut self, slices: &mut [&'a [u8]]) -> usize {
        self.outbox.peek(slices)
    }

    /// The first `count` bytes of the output were sent.
    ///
    /// Stops the process if that is more than [`Client::peek_output`] showed.
    pub fn advance_output(&mut self, count: usize) {
        self.outbox.advance(count);
    }

    /// Whether there is something to send.
    pub fn has_output(&self) -> bool {
        self.outbox.bytes() > 0
    }

    /// Bytes of output that are still welcome; 0 when `output_bytes_max` or more are waiting.
    pub fn room(&self) -> usize {
        self.config.output_bytes_max.saturating_sub(self.outbox.bytes())
    }

    /// Whether commands are possible: after `Welcome`, and while the connection is sound.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// When the oldest request that has no answer was made. Approximate where a message in parts
    /// was overtaken by shorter requests: then it may be that of a later one.
    pub fn oldest_unanswered_since(&self) -> Option<Instant> {
        self.unanswered.front().map(|(since, _)| *since)
    }

    /// Requests without an answer.
    pub fn unanswered(&self) -> u64 {
        self.unanswered_count
    }

    /// When bytes last came from the server (at first: when the client was made). A long message
    /// on its way has no answer for long; heart-beats between its parts show here.
    pub fn last_received(&self) -> Instant {
        self.last_received
    }

    /// What the server and we speak; the oldest version, before it has said so.
    pub fn version(&self) -> Version {
        self.outbox.version()
    }

    /// When the newest request was made that is known to be answered, if any is: the server was there, and
    /// took what this connection asked for, at some time after that. An answer counts for the oldest
    /// request that it may be to; that to a heart-beat counts for that heart-beat.
    pub fn answered_since(&self) -> Option<Instant> {
        self.answered
    }

    /// When the newest heart-beat was made, if any was.
    pub fn heart_beat_at(&self) -> Option<Instant> {
        self.heart_beat_at
    }

    /// Makes a queue and attaches to it.
    #[expect(clippy::too_many_arguments, reason = "the fields of one request")]
    pub fn create(
        &mut self,
        now: Instant,
        queue: QueueHandle,
        tag: Tag,
        epoch: Epoch,
        generation: Generation,
        name: QueueName<'_>,
        messages_max: u64,
        bytes_max: u64,
    ) {
        let mut body = Vec::new();
        Create { messages_max, bytes_max, name }.encode(&mut body);
        self.open_handle(queue, epoch, generation);
        self.request(now, Op::Create, queue, tag, |_| (), &Message::new(Bytes::new(), body.into()));
    }

    /// Takes a queue over, or resumes.
    pub fn attach(
        &mut self,
        now: Instant,
        queue: QueueHandle,
        tag: Tag,
        epoch: Epoch,
        generation: Generation,
        name: QueueName<'_>,
    ) {
        let name = Bytes::copy_from_slice(name.as_str().as_bytes());
        self.open_handle(queue, epoch, generation);
        self.request(now, Op::Attach, queue, tag, |_| (), &Message::new(Bytes::new(), name));
    }

    /// Removes an attached queue with everything in it.
    pub fn drop_queue(&mut self, now: Instant, queue: QueueHandle, tag: Tag) {
        self.request(now, Op::Drop, queue, tag, |_| (), &empty());
        if let Some(Some(queue)) = self.queues.get_mut(queue.0 as usize) {
            queue.is_dropped = true;
        }
    }

    /// Appends a message. `floor` is the oldest sequence number that some copy has not answered.
    #[inline]
    pub fn store(
        &mut self,
        now: Instant,
        queue: QueueHandle,
        sequence: Sequence,
        id: MessageId,
        floor: Sequence,
        message: &Message,
    ) {
        let total = u64::from(message.total());
        self.change(now, Op::Store, 0, queue, sequence, id, floor, total, message);
    }

    /// Appends a message to the back-fill list, ahead of all that was stored live.
    ///
    /// # Panics
    /// If the server speaks no [`Version::V2`].
    #[inline]
    pub fn backfill(
        &mut self,
        now: Instant,
        queue: QueueHandle,
        sequence: Sequence,
        id: MessageId,
        floor: Sequence,
        message: &Message,
    ) {
        let total = u64::from(message.total());
        assert!(self.version() >= Version::V2, "the server knows no back-fill");
        let flags = flags::BACKFILL;
        self.change(now, Op::Store, flags, queue, sequence, id, floor, total, message);
    }

    /// Removes a message.
    #[inline]
    pub fn delete(
        &mut self,
        now: Instant,
        queue: QueueHandle,
        sequence: Sequence,
        id: MessageId,
        floor: Sequence,
    ) {
        self.change(now, Op::Delete, 0, queue, sequence, id, floor, 0, &empty());
    }

    /// Sets a message's state record. `version` must be above the present one.
    ///
    /// Stops the process if the state is longer than [`STATE_SIZE_BYTES_MAX`].
    #[expect(clippy::too_many_arguments, reason = "the fields of one request")]
    pub fn replace(
        &mut self,
        now: Instant,
        queue: QueueHandle,
        sequence: Sequence,
        id: MessageId,
        floor: Sequence,
        version: StateVersion,
        state: Bytes,
    ) {
        assert!(state.len() <= STATE_SIZE_BYTES_MAX);
        let state = Message::new(Bytes::new(), state);
        let version = u64::from(version.0);
        self.change(now, Op::Replace, 0, queue, sequence, id, floor, version, &state);
    }

    /// Declares a filled copy equal to its peers.
    pub fn baseline(
        &mut self,
        now: Instant,
        queue: QueueHandle,
        sequence: Sequence,
        floor: Sequence,
        baseline: &Baseline,
    ) {
        let mut body = Vec::new();
        baseline.encode(&mut body);
        let body = Message::new(Bytes::new(), body.into());
        self.change(now, Op::Baseline, 0, queue, sequence, MessageId(0), floor, 0, &body);
    }

    /// Reads messages above `cursor`: at most `count_max`, and only as many as have `bytes_max`
    /// bytes of body together (but at least one, if there is one).
    pub fn block_get(
        &mut self,
        now: Instant,
        queue: QueueHandle,
        tag: Tag,
        cursor: MessageId,
        count_max: u32,
        bytes_max: u32,
    ) {
        let set = |header: &mut Header| {
            header.message = cursor;
            header.aux = u64::from(count_max) << 32 | u64::from(bytes_max);
        };
        self.request(now, Op::BlockGet, queue, tag, set, &empty());
    }

    /// Reads the last operations, those after transaction number `after`.
    pub fn ops_get(&mut self, now: Instant, queue: QueueHandle, tag: Tag, after: Transaction) {
        self.request(now, Op::OpsGet, queue, tag, |header| header.aux = after.0, &empty());
    }

    /// Asks whether the server is there. Goes before everything that is cut in parts.
    pub fn heart_beat(&mut self, now: Instant, tag: Tag) {
        let header = Header { aux: now.as_nanos(), ..tagged(Op::HeartBeat, tag) };
        self.control(now, header, &[]);
        self.heart_beat_at = Some(now);
    }

    /// Lists the account's queues, those after the name `after`.
    pub fn queue_list(&mut self, now: Instant, tag: Tag, after: Option<QueueName<'_>>) {
        let after = after.map_or("", QueueName::as_str);
        self.control(now, tagged(Op::QueueList, tag), after.as_bytes());
    }

    /// Reads the server's counters.
    pub fn statistics(&mut self, now: Instant, tag: Tag) {
        self.control(now, tagged(Op::Statistics, tag), &[]);
    }

    /// Asks for how long the owner of a queue has been silent. Takes nothing from it.
    ///
    /// # Panics
    /// If the server speaks no [`Version::V2`].
    pub fn owner_get(&mut self, now: Instant, tag: Tag, name: QueueName<'_>) {
        assert!(self.version() >= Version::V2, "the server does not tell of owners");
        self.control(now, tagged(Op::OwnerGet, tag), name.as_str().as_bytes());
    }

    #[inline]
    #[expect(clippy::too_many_arguments, reason = "the fields of one request")]
    fn change(
        &mut self,
        now: Instant,
        op: Op,
        flags: u16,
        queue: QueueHandle,
        sequence: Sequence,
        id: MessageId,
        floor: Sequence,
        aux: u64,
        body: &Message,
    ) {
        let set = |header: &mut Header| {
            header.flags = flags;
            header.sequence = sequence;
            header.message = id;
            header.floor = floor.0;
            header.aux = aux;
        };
        self.request(now, op, queue, Tag(0), set, body);
    }

    /// Queues a request of an attached queue.
    #[inline]
    fn request(
        &mut self,
        now: Instant,
        op: Op,
        queue: QueueHandle,
        tag: Tag,
        set: impl FnOnce(&mut Header),
        body: &Message,
    ) {
        if !self.takes_commands() {
            return;
        }
        let handle = self.queues.get(queue.0 as usize).and_then(Option::as_ref);
        let handle = handle.expect("create or attach comes first");
        let mut header = tagged(op, tag);
        header.queue = queue;
        header.epoch = handle.epoch;
        header.generation_or_status = handle.generation.0;
        set(&mut header);
        self.outbox.push(header, body);
        self.note_request(now);
    }

    /// Queues a request that belongs to no queue.
    fn control(&mut self, now: Instant, header: Header, body: &[u8]) {
        if self.takes_commands() {
            self.push_control(now, header, body);
        }
    }

    fn push_control(&mut self, now: Instant, header: Header, body: &[u8]) {
        self.outbox.push_control(header, body);
        self.note_request(now);
    }

    /// False when dead. Stops the process before `Welcome`.
    fn takes_commands(&self) -> bool {
        assert!(!self.is_shaking_hands(), "commands come after Event::Welcome");
        self.state != State::Dead
    }

    fn is_shaking_hands(&self) -> bool {
        matches!(self.state, State::Hello | State::Authenticating(_))
    }

    /// Notes who speaks for a queue. Stops the process at a handle beyond the server's bound: the
    /// caller has read it in `Welcome`.
    fn open_handle(&mut self, queue: QueueHandle, epoch: Epoch, generation: Generation) {
        let State::Ready(limits) = self.state else { return };
        assert!(queue.0 < limits.handles_max, "handles are below limits.handles_max");
        let place = queue.0 as usize;
        if self.queues.len() <= place {
            self.queues.resize_with(place + 1, || None);
        }
        // An item may be arriving in parts for an earlier attachment by the same handle.
        let item = self.queues[place].take().and_then(|queue| queue.item);
        self.queues[place] = Some(Queue { epoch, generation, item, is_dropped: false });
    }

    #[inline]
    fn note_request(&mut self, now: Instant) {
        self.unanswered_count += 1;
        match self.unanswered.back_mut() {
            Some((since, count)) if *since == now => *count += 1,
            _ => self.unanswered.push_back((now, 1)),
        }
    }

    /// `count` requests were answered; more than were made is an error of the server's.
    #[inline]
    fn note_answers(&mut self, op: Op, mut count: u64) -> Result<(), ProtocolError> {
        self.unanswered_count =
            self.unanswered_count.checked_sub(count).ok_or(ProtocolError::Unexpected(op))?;
        while count > 0 {
            let (since, waiting) = self.unanswered.front_mut().expect("the count is their sum");
            let answered = count.min(*waiting);
            *waiting -= answered;
            count -= answered;
            self.answered = self.answered.max(Some(*since));
            if *waiting == 0 {
                self.unanswered.pop_front();
            }
        }
        Ok(())
    }

    fn die_on_error(&mut self, result: Result<(), ProtocolError>) {
        if let Err(error) = result {
            self.die();
            self.events.push_back(Event::ProtocolError(error));
        }
    }

    fn die(&mut self) {
        self.state = State::Dead;
        self.outbox.clear();
        self.open = None;
        self.queues.clear();
    }

    fn handle_piece(&mut self, now: Instant, piece: Piece<'_>) -> Result<(), ProtocolError> {
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
            (State::Ready(_), Op::Ack) => self.handle_ack(header, body),
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
    fn handle_ack(&mut self, header: &Header, body: &[u8]) -> Result<(), ProtocolError> {
        let count = header.message.0;
        if !body.is_empty() {
            return Err(ProtocolError::Field(Op::Ack));
        }
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
                queue.item = Some(Assembly { header: *header, bytes });
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

fn tagged(op: Op, tag: Tag) -> Header {
    Header { sequence: Sequence(tag.0), ..Header::new(op) }
}

fn empty() -> Message {
    Message::new(Bytes::new(), Bytes::new())
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

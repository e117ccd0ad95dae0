//! What the client asks for.

use alloc::vec::Vec;

use bytes::Bytes;

use super::{Client, Queue, State};
use crate::body::{Baseline, Create, QueueName};
use crate::message::EMPTY;
use crate::{
    Epoch, Generation, Header, Instant, Message, MessageId, Op, QueueHandle, STATE_SIZE_BYTES_MAX,
    Sequence, StateVersion, Tag, Transaction, Version, flags,
};

impl Client {
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
        self.request(now, Op::Drop, queue, tag, |_| (), &EMPTY);
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
        self.change(now, Op::Delete, 0, queue, sequence, id, floor, 0, &EMPTY);
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
        self.request(now, Op::BlockGet, queue, tag, set, &EMPTY);
    }

    /// Reads the last operations, those after transaction number `after`.
    pub fn ops_get(&mut self, now: Instant, queue: QueueHandle, tag: Tag, after: Transaction) {
        self.request(now, Op::OpsGet, queue, tag, |header| header.aux = after.0, &EMPTY);
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

    pub(super) fn push_control(&mut self, now: Instant, header: Header, body: &[u8]) {
        self.outbox.push_control(header, body);
        self.note_request(now);
    }

    /// False when dead. Stops the process before `Welcome`.
    fn takes_commands(&self) -> bool {
        assert!(!self.is_shaking_hands(), "commands come after Event::Welcome");
        self.state != State::Dead
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
}

fn tagged(op: Op, tag: Tag) -> Header {
    Header { sequence: Sequence(tag.0), ..Header::new(op) }
}

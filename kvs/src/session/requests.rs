//! Requests other than the handshake, and their answers.

use kvs_proto::body::{
    ACKS_PER_REPLY_MAX, AckEntry, Attached, Baseline, Counter, Create, OPS_PER_REPLY_MAX,
    QUEUES_PER_REPLY_MAX, QueueEntry, QueueName, encode_counter,
};
use kvs_proto::{
    Epoch, Generation, Header, MessageId, Op, QueueHandle, StateVersion, Status, Transaction,
    Version, flags,
};

use super::parts::halves;
use super::{Handle, Run, Session, Shared};
use crate::queue::Admission;
use crate::table::{Missing, QueueRef};

impl Session {
    /// A change with all of its body.
    #[inline]
    pub(super) fn handle_change(&mut self, shared: &mut Shared, header: &Header, body: &[u8]) {
        if header.op == Op::Delete && header.aux > 0 {
            return self.handle_deletes(shared, header, body);
        }
        let Some(Some(handle)) = self.handles.get(header.queue.0 as usize) else {
            return self.refuse(shared, header, Status::NotAttached);
        };
        if header.flags & flags::BACKFILL != 0 && header.op != Op::Store {
            return self.break_off(shared, header.op);
        }
        let flags = header.flags & !flags::BACKFILL;
        let part = header.aux != body.len() as u64 || flags != 0;
        if header.op == Op::Store && part {
            return self.handle_part(shared, header, body);
        }
        let Some((queue, arena)) = shared.table.get(handle.queue) else {
            return self.refuse(shared, header, Status::UnknownQueue);
        };
        match queue.admit(header) {
            Admission::Next => {}
            Admission::Settled(status) => {
                shared.counters.count(Counter::Repeats);
                return match status {
                    Status::Ok => self.acknowledge(shared, header, 1),
                    status => self.refuse(shared, header, status),
                };
            }
            Admission::Refused(status) => return self.refuse(shared, header, status),
        }
        let result = match header.op {
            Op::Store if body.len() > shared.limits.message_size_bytes_max as usize => {
                Err(Status::TooLarge)
            }
            Op::Store => queue.store(arena, header, body),
            Op::Delete if body.is_empty() => queue.delete(arena, header),
            Op::Replace if header.aux <= u64::from(u32::MAX) => {
                let version = u32::try_from(header.aux).expect("just compared");
                queue.replace(arena, header, StateVersion(version), body)
            }
            Op::Baseline => match Baseline::decode(body) {
                Ok(baseline) => queue.baseline(&baseline),
                Err(_) => return self.break_off(shared, header.op),
            },
            _ => return self.break_off(shared, header.op),
        };
        queue.settle(header, result);
        if let Err(status) = result {
            return self.refuse(shared, header, status);
        }
        shared.counters.count(match header.op {
            Op::Store => Counter::Stores,
            Op::Delete => Counter::Deletes,
            Op::Replace => Counter::Replaces,
            _ => Counter::Baselines,
        });
        self.acknowledge(shared, header, 1);
    }

    /// Deletes of consecutive messages by consecutive numbers, which are answered as if each had come by itself.
    fn handle_deletes(&mut self, shared: &mut Shared, header: &Header, body: &[u8]) {
        let count = header.delete_count().filter(|_| header.flags == 0 && body.is_empty());
        let Some(count) = count.filter(|_| self.output.version() >= Version::V3) else {
            return self.break_off(shared, header.op);
        };
        let done = self.delete_run(shared, header, count);
        for at in done..count {
            self.handle_change(shared, &header.delete_at(at), &[]);
        }
    }

    /// As many of these deletes as can be applied one after the other.
    fn delete_run(&mut self, shared: &mut Shared, first: &Header, count: u64) -> u64 {
        let handle = self.handles.get(first.queue.0 as usize).and_then(Option::as_ref);
        let found = handle.and_then(|handle| shared.table.get(handle.queue));
        let done = found.map_or(0, |(queue, arena)| queue.delete_run(arena, first, count));
        shared.counters.add(Counter::Deletes, done);
        if done > 0 {
            self.acknowledge(shared, &first.delete_at(done - 1), done);
        }
        done
    }

    /// A part of a message, with all of its own body.
    fn handle_part(&mut self, shared: &mut Shared, header: &Header, body: &[u8]) {
        if !self.begin_part(shared, header) {
            return self.break_off(shared, header.op);
        }
        self.fill_incoming(shared, header.queue, body);
        self.end_part(shared, header);
    }

    /// Everything that is no change.
    pub(super) fn handle_request(
        &mut self,
        shared: &mut Shared,
        account: usize,
        header: &Header,
        body: &[u8],
    ) {
        if header.flags & (flags::MORE | flags::BACKFILL) != 0 {
            return self.break_off(shared, header.op);
        }
        match header.op {
            Op::Create => self.handle_create(shared, account, header, body),
            Op::Attach => self.handle_attach(shared, account, header, body),
            Op::Drop => self.handle_drop(shared, header),
            Op::BlockGet => self.handle_block_get(shared, header),
            Op::OpsGet => self.handle_ops_get(shared, header),
            Op::HeartBeat => {
                let reply = Header { aux: header.aux, ..reply_to(header, Op::HeartBeatReply) };
                self.answer(shared, reply, &[]);
            }
            Op::QueueList => self.handle_queue_list(shared, account, header, body),
            Op::Statistics => self.handle_statistics(shared, header),
            Op::OwnerGet => self.handle_owner_get(shared, account, header, body),
            op => self.break_off(shared, op),
        }
    }

    fn handle_create(&mut self, shared: &mut Shared, account: usize, header: &Header, body: &[u8]) {
        let Ok(Create { messages_max, bytes_max, name }) = Create::decode(body) else {
            return self.break_off(shared, header.op);
        };
        if let Err(status) = self.check_handle(shared, account, header, name) {
            return self.refuse(shared, header, status);
        }
        let generation = Generation(header.generation_or_status);
        match shared.table.create(name, header.epoch, generation, messages_max, bytes_max) {
            Ok(queue) => self.answer_attached(shared, header, queue, None),
            Err(missing) => self.answer_missing(shared, header, missing),
        }
    }

    fn handle_attach(&mut self, shared: &mut Shared, account: usize, header: &Header, body: &[u8]) {
        let Some(name) = QueueName::parse(body) else {
            return self.break_off(shared, header.op);
        };
        if let Err(status) = self.check_handle(shared, account, header, name) {
            return self.refuse(shared, header, status);
        }
        let queue = match shared.table.find(name) {
            Ok(queue) => queue,
            Err(missing) => return self.answer_missing(shared, header, missing),
        };
        let (found, _) = shared.table.get(queue).expect("just found");
        let Ok(former) = found.attach(header.epoch, Generation(header.generation_or_status)) else {
            let epoch = found.epoch();
            return self.answer_refused(shared, header, Status::Fenced, epoch);
        };
        let owner_idle_ms = former.map(|former| shared.presence.take_over(self.id, former));
        self.answer_attached(shared, header, queue, owner_idle_ms);
    }

    /// Whether the account may call that queue by that handle.
    fn check_handle(
        &self,
        shared: &Shared,
        account: usize,
        header: &Header,
        name: QueueName<'_>,
    ) -> Result<(), Status> {
        if header.queue.0 >= shared.limits.handles_max {
            return Err(Status::TooManyQueues);
        }
        let prefix = &shared.accounts.get(account).queues;
        if !name.as_str().starts_with(prefix.as_str()) {
            return Err(Status::NotYours);
        }
        Ok(())
    }

    fn answer_attached(
        &mut self,
        shared: &mut Shared,
        header: &Header,
        queue: QueueRef,
        owner_idle_ms: Option<u32>,
    ) {
        self.flush_runs(shared);
        let place = header.queue.0 as usize;
        self.abort_incoming(shared, place);
        if self.handles.len() <= place {
            self.handles.resize_with(place + 1, || None);
        }
        let before = self.handles[place].replace(Handle::new(queue, header));
        self.forget_queue(shared, before.map(|before| before.queue));
        let port = shared.table.port();
        let credit = self.grant(shared, header.queue);
        let (found, arena) = shared.table.get(queue).expect("just found");
        found.note_attached(self.id);
        let mut body = Vec::new();
        let attached = Attached { owner_idle_ms, ..found.attached(arena, port) };
        attached.encode(self.output.version(), &mut body);
        let reply = Header {
            epoch: found.epoch(),
            aux: found.transaction().0,
            floor: credit.to_bits(),
            ..reply_to(header, Op::Attached)
        };
        self.answer(shared, reply, &body);
    }

    /// A handle does not mean that queue any more; another one of this session still may.
    fn forget_queue(&mut self, shared: &mut Shared, queue: Option<QueueRef>) {
        let Some(queue) = queue else { return };
        if !self.handles.iter().flatten().any(|handle| handle.queue == queue) {
            shared.presence.detach(self.id, queue, &mut shared.table);
        }
    }

    fn answer_missing(&mut self, shared: &mut Shared, header: &Header, missing: Missing) {
        match missing {
            Missing::Refused(status) => self.answer_refused(shared, header, status, Epoch(0)),
            Missing::Elsewhere(port) => {
                let reply = Header {
                    generation_or_status: Status::WrongWorker as u32,
                    aux: u64::from(port),
                    message: MessageId(header.op as u64),
                    ..reply_to(header, Op::Refused)
                };
                self.answer(shared, reply, &[]);
            }
        }
    }

    fn handle_drop(&mut self, shared: &mut Shared, header: &Header) {
        let Some(queue) = self.owned(shared, header) else { return };
        // Replies to what was asked before come first.
        self.flush_runs(shared);
        shared.table.remove(queue);
        self.handles[header.queue.0 as usize] = None;
        self.answer(shared, Header { epoch: header.epoch, ..reply_to(header, Op::Dropped) }, &[]);
    }

    fn handle_ops_get(&mut self, shared: &mut Shared, header: &Header) {
        let Some(queue) = self.owned(shared, header) else { return };
        let (found, _) = shared.table.get(queue).expect("just found");
        let Some(entries) = found.operations_after(Transaction(header.aux)) else {
            return self.refuse(shared, header, Status::OpsTrimmed);
        };
        let mut body = Vec::new();
        entries.take(OPS_PER_REPLY_MAX).for_each(|entry| entry.encode(&mut body));
        let (epoch, aux) = (found.epoch(), found.transaction().0);
        self.answer(shared, Header { epoch, aux, ..reply_to(header, Op::Ops) }, &body);
    }

    fn handle_block_get(&mut self, shared: &mut Shared, header: &Header) {
        let Some(queue) = self.owned(shared, header) else { return };
        let (count_max, bytes_max) = halves(header.aux);
        if !self.reads.begin(header, queue, count_max, bytes_max) {
            self.refuse(shared, header, Status::TooLarge);
        }
    }

    fn handle_queue_list(
        &mut self,
        shared: &mut Shared,
        account: usize,
        header: &Header,
        body: &[u8],
    ) {
        let after = QueueName::parse(body);
        if after.is_none() && !body.is_empty() {
            return self.break_off(shared, header.op);
        }
        let port = shared.table.port();
        let mut listed = shared.table.list(&shared.accounts.get(account).queues, after);
        let mut body = Vec::new();
        let mut count = 0;
        for (name, queue) in listed.by_ref().take(QUEUES_PER_REPLY_MAX) {
            let (epoch, transaction) = (queue.epoch(), queue.transaction());
            let (messages, bytes) = (queue.messages(), queue.bytes());
            QueueEntry { name, epoch, transaction, messages, bytes, port }.encode(&mut body);
            count += 1;
        }
        let floor = u64::from(listed.next().is_none());
        drop(listed);
        self.answer(shared, Header { aux: count, floor, ..reply_to(header, Op::Queues) }, &body);
    }

    fn handle_statistics(&mut self, shared: &mut Shared, header: &Header) {
        shared.refresh_counters();
        let mut body = Vec::new();
        for (counter, value) in shared.counters.all() {
            encode_counter(counter, value, &mut body);
        }
        self.answer(shared, reply_to(header, Op::Counters), &body);
    }

    fn handle_owner_get(
        &mut self,
        shared: &mut Shared,
        account: usize,
        header: &Header,
        body: &[u8],
    ) {
        let Some(name) = QueueName::parse(body) else {
            return self.break_off(shared, header.op);
        };
        if !name.as_str().starts_with(shared.accounts.get(account).queues.as_str()) {
            return self.refuse(shared, header, Status::NotYours);
        }
        let queue = match shared.table.find(name) {
            Ok(queue) => queue,
            Err(missing) => return self.answer_missing(shared, header, missing),
        };
        let (found, _) = shared.table.get(queue).expect("just found");
        let idle_ms = shared.presence.idle_ms(found).unwrap_or(u32::MAX);
        let (epoch, aux) = (found.epoch(), u64::from(idle_ms));
        self.answer(shared, Header { epoch, aux, ..reply_to(header, Op::Owner) }, &[]);
    }

    /// The queue of a request that only its owner may make; refused otherwise.
    fn owned(&mut self, shared: &mut Shared, header: &Header) -> Option<QueueRef> {
        let handle = self.handles.get(header.queue.0 as usize).and_then(Option::as_ref);
        let status = match handle.map(|handle| handle.queue) {
            None => Status::NotAttached,
            Some(queue) => match shared.table.get(queue) {
                None => Status::UnknownQueue,
                Some((found, _)) => match found.check_owner(header) {
                    Ok(()) => return Some(queue),
                    Err(status) => status,
                },
            },
        };
        self.refuse(shared, header, status);
        None
    }

    /// Acknowledges changes, `count` of them up to this one: as part of a run, where they continue one.
    #[inline]
    pub(super) fn acknowledge(&mut self, shared: &mut Shared, last: &Header, count: u64) {
        let Some(Some(handle)) = self.handles.get_mut(last.queue.0 as usize) else { return };
        let Some((queue, _)) = shared.table.get(handle.queue) else { return };
        let run = &mut handle.run;
        let (epoch, transaction) = (queue.epoch(), queue.transaction());
        if run.count > 0 && run.last.0 + count == last.sequence.0 && run.epoch == epoch {
            run.count += count;
            run.last = last.sequence;
            run.transaction = transaction;
            return;
        }
        let fresh = Run { count, last: last.sequence, transaction, epoch };
        if run.count > 0 {
            self.flush_runs(shared);
        }
        if let Some(Some(handle)) = self.handles.get_mut(last.queue.0 as usize) {
            handle.run = fresh;
            self.runs.push(last.queue);
        }
    }

    /// Turns the runs into frames: several into one, if the client knows that.
    pub(super) fn flush_runs(&mut self, shared: &mut Shared) {
        if self.runs.is_empty() {
            return;
        }
        let room = shared.table.arena().room();
        let Session { runs, handles, output, .. } = self;
        let mut entry = |place: QueueHandle| {
            let handle = handles[place.0 as usize].as_mut().expect("it goes behind its answers");
            let Run { count, last, transaction, epoch } = std::mem::take(&mut handle.run);
            let count = u32::try_from(count).expect("fewer than were received in a turn");
            let credit = handle.grant_of(room, &mut shared.table);
            AckEntry { queue: place, count, epoch, sequence: last, transaction, credit }
        };
        let most = if output.version() < Version::V3 { 1 } else { ACKS_PER_REPLY_MAX };
        while !runs.is_empty() {
            shared.counters.count(Counter::Answers);
            match runs.len().min(most) {
                1 => output.push(entry(runs.pop().expect("one at least")).header(), &[]),
                count => output.push_with(Header::new(Op::Acks), None, |bytes| {
                    let some = runs.drain(runs.len() - count..);
                    some.for_each(|place| entry(place).encode(bytes));
                }),
            }
        }
    }

    /// Refuses a request, with what the queue, if there is one, has to say beside.
    #[cold]
    pub(super) fn refuse(&mut self, shared: &mut Shared, header: &Header, status: Status) {
        self.answer_refused(shared, header, status, Epoch(0));
    }

    fn answer_refused(
        &mut self,
        shared: &mut Shared,
        header: &Header,
        status: Status,
        epoch: Epoch,
    ) {
        shared.counters.count(Counter::Refusals);
        if status == Status::Fenced {
            shared.counters.count(Counter::Fenced);
        }
        let mut reply = Header {
            generation_or_status: status as u32,
            epoch,
            message: MessageId(header.op as u64),
            ..reply_to(header, Op::Refused)
        };
        let handle = self.handles.get_mut(header.queue.0 as usize).and_then(Option::as_mut);
        let opens = matches!(header.op, Op::Create | Op::Attach);
        if let Some(handle) = handle.filter(|_| !opens) {
            reply.floor = handle.grant(shared).to_bits();
            if let Some((queue, _)) = shared.table.get(handle.queue) {
                reply.epoch = queue.epoch();
                reply.aux = queue.transaction().0;
                if status == Status::SequenceGap {
                    reply.sequence = queue.last_sequence();
                }
            }
        }
        self.answer(shared, reply, &[]);
    }

    /// Adds a reply behind the acknowledgements of what was asked before.
    pub(super) fn answer(&mut self, shared: &mut Shared, header: Header, body: &[u8]) {
        self.flush_runs(shared);
        shared.counters.count(Counter::Answers);
        self.output.push(header, body);
    }
}

/// The header of a reply: same queue, same tag or sequence number.
pub(super) fn reply_to(header: &Header, op: Op) -> Header {
    let Header { queue, sequence, .. } = *header;
    Header { queue, sequence, ..Header::new(op) }
}

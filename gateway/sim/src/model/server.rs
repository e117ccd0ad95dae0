//! A backup queue server of the model: the production queue and arena behind requests as data.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use gateway::replication::request::{
    Answer, Ask, Baseline, Changing, Operation, Request, Standing,
};
use kvs::arena::{Arena, Cursor, QueueUid};
use kvs::queue::{Admission, Queue};
use kvs_proto::body::Baseline as WireBaseline;
use kvs_proto::{Credit, Epoch, Generation, Header, MessageId, Op, Status, checksum, flags};

use super::Flaw;

/// One server with at most one backup queue.
#[derive(Debug)]
pub(super) struct Server {
    /// Which life; what it had is lost with it.
    pub(super) life: u64,
    pub(super) stored: Option<(Arena, Queue)>,
    uids: u32,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.drop_queue();
    }
}

thread_local! {
    /// Empty arenas. As many as servers of states that are held at the same time.
    static SPARE_ARENAS: RefCell<Vec<Arena>> = const { RefCell::new(Vec::new()) };
}

/// Items of one answer to a `BlockGet`, so that reading takes several.
const BLOCK_ITEMS: usize = 2;

/// More than the model ever needs.
const ARENA_BYTES: usize = 2 << 16;
const MESSAGES_MAX: usize = 64;

impl Server {
    /// In its first life, without a queue.
    pub(super) fn new() -> Server {
        Server { life: 1, stored: None, uids: 0 }
    }

    /// Handles one request. `owner_idle` is what it would say about a former owner.
    pub(super) fn handle(
        &mut self,
        request: &Request,
        generation: Generation,
        owner_idle: Option<Duration>,
        flaw: Option<Flaw>,
    ) -> Vec<Answer> {
        let mut header = Header {
            epoch: request.epoch,
            generation_or_status: generation.0,
            ..Header::new(Op::Attach)
        };
        match &request.ask {
            Ask::IsAlive => vec![Answer::Alive],
            Ask::Create { .. } => {
                if self.stored.is_some() {
                    return refuse(Op::Create, Status::Exists, Epoch(0));
                }
                self.create(request.epoch, generation);
                self.attached(None)
            }
            Ask::Attach { .. } => self.attach(&header, owner_idle),
            Ask::Drop => match self.owned(&header, Op::Drop) {
                Err(refused) => refused,
                Ok(_) => {
                    self.drop_queue();
                    vec![Answer::Dropped]
                }
            },
            Ask::Change { sequence, floor, change } => {
                (header.sequence, header.floor) = (*sequence, floor.0);
                self.change(header, change, flaw)
            }
            Ask::BlockGet { after } => match self.owned(&header, Op::BlockGet) {
                Err(refused) => refused,
                Ok((arena, queue)) => block(arena, queue, *after),
            },
            Ask::OpsGet { after } => match self.owned(&header, Op::OpsGet) {
                Err(refused) => refused,
                Ok((_, queue)) => {
                    let Some(entries) = queue.operations_after(*after) else {
                        return refuse(Op::OpsGet, Status::OpsTrimmed, queue.epoch());
                    };
                    let operations = entries.map(|entry| Operation {
                        transaction: entry.transaction,
                        op: entry.op,
                        id: entry.message,
                        digest: entry.digest,
                        hash: entry.chain,
                    });
                    let (operations, head) = (operations.collect(), queue.transaction());
                    vec![Answer::Operations { operations, head }]
                }
            },
        }
    }

    /// Everything is lost; it starts again.
    pub(super) fn restart(&mut self, flaw: Option<Flaw>) {
        self.life += u64::from(flaw != Some(Flaw::LifeKept));
        self.drop_queue();
    }

    /// The epoch of its queue.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.stored.as_ref().map(|(_, queue)| queue.epoch())
    }

    /// Whether it has that message.
    pub(super) fn has(&self, id: MessageId) -> bool {
        self.stored.as_ref().is_some_and(|(arena, queue)| queue.find(arena, id).is_some())
    }

    fn create(&mut self, epoch: Epoch, generation: Generation) {
        // A queue takes two.
        self.uids += 2;
        let fresh =
            || Arena::on_demand(ARENA_BYTES, MESSAGES_MAX).expect("there is that much memory");
        let arena = SPARE_ARENAS.with_borrow_mut(Vec::pop).unwrap_or_else(fresh);
        let uid = QueueUid(self.uids);
        let queue = Queue::new(uid, epoch, generation, u64::MAX, u64::MAX);
        self.stored = Some((arena, queue));
    }

    /// The arena is kept for the next: to take new memory is most of what a step would cost.
    fn drop_queue(&mut self) {
        let Some((mut arena, queue)) = self.stored.take() else { return };
        for log in queue.into_logs() {
            arena.release(log);
        }
        while arena.has_work() {
            arena.work(MESSAGES_MAX);
        }
        SPARE_ARENAS.with_borrow_mut(|spare| spare.push(arena));
    }

    fn attach(&mut self, header: &Header, owner_idle: Option<Duration>) -> Vec<Answer> {
        let generation = Generation(header.generation_or_status);
        let Some((_, queue)) = &mut self.stored else {
            return refuse(Op::Attach, Status::UnknownQueue, Epoch(0));
        };
        match queue.attach(header.epoch, generation) {
            Err(status) => refuse(Op::Attach, status, queue.epoch()),
            Ok(former) => self.attached(former.and(owner_idle)),
        }
    }

    fn attached(&self, owner_idle: Option<Duration>) -> Vec<Answer> {
        let (arena, queue) = self.stored.as_ref().expect("the caller has it");
        let attached = queue.attached(arena, 0);
        let numbers = Baseline {
            transaction: queue.transaction(),
            hash: attached.chain,
            content: attached.content,
            messages: attached.messages,
        };
        let (sequence, last_id) = (attached.last_sequence, attached.last_id);
        let standing = Standing { sequence, numbers, last_id, owner_idle };
        vec![Answer::Attached { standing, credit: CREDIT }]
    }

    fn owned(&self, header: &Header, op: Op) -> Result<(&Arena, &Queue), Vec<Answer>> {
        let Some((arena, queue)) = &self.stored else {
            return Err(refuse(op, Status::UnknownQueue, Epoch(0)));
        };
        queue.check_owner(header).map_err(|status| refuse(op, status, queue.epoch()))?;
        Ok((arena, queue))
    }

    fn change(&mut self, header: Header, change: &Changing, flaw: Option<Flaw>) -> Vec<Answer> {
        let op = match change {
            Changing::Store(..) | Changing::Backfill(..) => Op::Store,
            Changing::Delete(_) => Op::Delete,
            Changing::Replace(..) => Op::Replace,
            Changing::Baseline(_) => Op::Baseline,
        };
        let mut header = Header { op, ..header };
        let alters = flaw == Some(Flaw::FillAltered) && self.life > 1;
        let Some((arena, queue)) = &mut self.stored else {
            return refuse(op, Status::UnknownQueue, Epoch(0));
        };
        let acknowledged = |queue: &Queue| {
            let (sequence, transaction) = (header.sequence, queue.transaction());
            vec![Answer::Acknowledged { sequence, transaction, credit: CREDIT }]
        };
        let fenced = Admission::Refused(Status::Fenced);
        match queue.admit(&header) {
            Admission::Next => {}
            // The number is not looked at: what a former owner asks for is applied.
            admission if admission == fenced && flaw == Some(Flaw::FenceIgnored) => {}
            Admission::Settled(Status::Ok) => return acknowledged(queue),
            Admission::Settled(status) | Admission::Refused(status) => {
                return refuse(op, status, queue.epoch());
            }
        }
        let result = match change {
            Changing::Store(id, body) | Changing::Backfill(id, body) => {
                if matches!(change, Changing::Backfill(..)) {
                    header.flags = flags::BACKFILL;
                }
                let (head, content) = body.whole();
                let mut body = [&head[..], &content[..]].concat();
                if alters {
                    body.reverse();
                }
                (header.message, header.body_checksum) = (*id, checksum(&body));
                queue.store(arena, &header, &body)
            }
            Changing::Delete(id) => {
                header.message = *id;
                queue.delete(arena, &header)
            }
            Changing::Replace(id, version, state) => {
                header.message = *id;
                queue.replace(arena, &header, *version, state)
            }
            Changing::Baseline(it) => {
                let own = queue.attached(arena, 0);
                let Baseline { transaction, hash: chain, content, messages } = *it;
                let (content, messages) =
                    if alters { (own.content, own.messages) } else { (content, messages) };
                queue.baseline(&WireBaseline { transaction, chain, content, messages })
            }
        };
        if flaw != Some(Flaw::NumberNotUsedUp) {
            queue.settle(&header, result);
        }
        match result {
            Ok(()) => acknowledged(queue),
            Err(status) => refuse(op, status, queue.epoch()),
        }
    }
}

fn block(arena: &Arena, queue: &Queue, after: MessageId) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut cursor = Cursor::behind(after);
    for _ in 0..BLOCK_ITEMS {
        let Some(place) = queue.next(arena, &cursor) else { break };
        let record = arena.record(place);
        let mut body = Vec::new();
        arena.read(place, 0, record.length as usize, &mut body);
        let (state_version, state) = arena.state(place).unwrap_or_default();
        let state = Bytes::copy_from_slice(state);
        answers.push(Answer::Item { id: record.id, state_version, state, body: body.into() });
        cursor = arena.cursor(place);
    }
    let finished = queue.next(arena, &cursor).is_none();
    answers.push(Answer::BlockEnd { finished });
    answers
}

fn refuse(op: Op, status: Status, epoch: Epoch) -> Vec<Answer> {
    vec![Answer::Refused { op, status, epoch }]
}

const CREDIT: Credit = Credit { messages: 100_000, kib: 1_000_000 };

//! Servers of the tests' own making: written from `docs/protocol.md`, not from the server's code.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kvs_proto::{
    ChainHash, ContentDigest, Credit, Epoch, Message as Body, MessageId, Op, Sequence, StateDigest,
    StateVersion, Status, Transaction, chain, content_term, state_digest,
};
use tcpstack::Instant;

use crate::message::QueueIndex;
use crate::replication::request::{
    Answer, Ask, Baseline, Changing, Operation, Outlet, Outlets, Request, Standing,
};

/// A server with its queues, by name.
#[derive(Default)]
pub(super) struct Server {
    pub(super) life: u64,
    pub(super) queues: BTreeMap<String, ServerQueue>,
    /// What the link calls them.
    pub(super) handles: BTreeMap<u32, String>,
    /// Requests on their way; dropped with the link.
    pub(super) link: VecDeque<Request>,
    pub(super) is_up: bool,
    /// Stores are refused with this.
    pub(super) refusing: Option<Status>,
    /// Answers at most so many more requests.
    pub(super) patience: usize,
    /// The newest request that it has answered was made then.
    pub(super) answered_since: Option<Instant>,
    /// What it says of a former owner, if anything else than that it was silent for long.
    pub(super) owner_idle: Option<Option<Duration>>,
    /// There is another path, and this went there.
    pub(super) hedges: Option<Vec<Request>>,
    /// It speaks the first version of the protocol, which has no back-fill.
    pub(super) is_old: bool,
    /// Queues that it was asked to drop.
    pub(super) drops: usize,
}

#[derive(Default)]
pub(super) struct ServerQueue {
    pub(super) epoch: Epoch,
    pub(super) sequence: Sequence,
    pub(super) transaction: Transaction,
    pub(super) hash: ChainHash,
    pub(super) last_id: MessageId,
    pub(super) messages: BTreeMap<MessageId, (Body, StateVersion, Bytes)>,
    pub(super) operations: Vec<Operation>,
    /// The first that was stored otherwise than as back-fill, and the last that came as that.
    first_live: Option<MessageId>,
    last_backfilled: MessageId,
    /// A baseline has ended its filling.
    is_filled: bool,
}

impl Outlet for Server {
    fn has_room(&self) -> bool {
        self.is_up && self.link.len() < 50
    }

    fn can_backfill(&self) -> bool {
        !self.is_old
    }

    fn send(&mut self, request: Request) {
        if self.is_up {
            self.link.push_back(request);
        }
    }

    fn can_hedge(&self, _queue: QueueIndex) -> bool {
        self.hedges.is_some()
    }

    fn hedge(&mut self, request: Request) {
        self.hedges.as_mut().expect("there is another path").push(request);
    }

    fn answered_since(&self) -> Option<Instant> {
        self.answered_since.filter(|_| self.is_up)
    }
}

impl Outlets for Vec<Server> {
    type Outlet = Server;

    fn of(&mut self, member: usize) -> &mut Server {
        &mut self[member]
    }
}

impl ServerQueue {
    pub(super) fn content(&self) -> ContentDigest {
        self.messages.iter().fold(ContentDigest(0), |sum, (id, (body, version, state))| {
            let state = match version {
                StateVersion(0) => StateDigest(0),
                version => state_digest(*version, state),
            };
            sum.with(content_term(*id, state, body.digest()))
        })
    }

    pub(super) fn numbers(&self) -> Baseline {
        Baseline {
            transaction: self.transaction,
            hash: self.hash,
            content: self.content(),
            messages: self.messages.len() as u64,
        }
    }

    pub(super) fn attached(&self, owner_idle: Option<Duration>) -> Answer {
        let standing = Standing {
            sequence: self.sequence,
            numbers: self.numbers(),
            last_id: self.last_id,
            owner_idle,
        };
        Answer::Attached { standing, credit: CREDIT }
    }

    pub(super) fn apply(&mut self, change: Changing) -> Result<(), Status> {
        let (op, id, digest) = match change {
            Changing::Baseline(numbers) => {
                if numbers.content != self.content()
                    || numbers.messages != self.messages.len() as u64
                {
                    return Err(Status::ContentDiffers);
                }
                self.transaction = numbers.transaction;
                self.hash = numbers.hash;
                self.operations.clear();
                self.is_filled = true;
                return Ok(());
            }
            Changing::Store(id, body) => {
                if id <= self.last_id {
                    return Err(Status::IdNotGrowing);
                }
                self.last_id = id;
                self.first_live.get_or_insert(id);
                let digest = body.digest().0;
                self.messages.insert(id, (body, StateVersion(0), Bytes::new()));
                (Op::Store, id, digest)
            }
            Changing::Backfill(id, body) => {
                let is_ahead = self.first_live.is_none_or(|first| id < first);
                if self.is_filled || id <= self.last_backfilled || !is_ahead {
                    return Err(Status::IdNotGrowing);
                }
                self.last_backfilled = id;
                self.last_id = self.last_id.max(id);
                let digest = body.digest().0;
                self.messages.insert(id, (body, StateVersion(0), Bytes::new()));
                (Op::Store, id, digest)
            }
            Changing::Delete(id) => {
                self.messages.remove(&id).ok_or(Status::NotFound)?;
                (Op::Delete, id, 0)
            }
            Changing::Replace(id, version, state) => {
                let message = self.messages.get_mut(&id).ok_or(Status::NotFound)?;
                if version <= message.1 {
                    return Err(Status::StaleState);
                }
                let digest = state_digest(version, &state).0;
                (message.1, message.2) = (version, state);
                (Op::Replace, id, digest)
            }
        };
        self.transaction = self.transaction.next();
        self.hash = chain(self.hash, op, id, digest);
        let (transaction, hash) = (self.transaction, self.hash);
        self.operations.push(Operation { transaction, op, id, digest, hash });
        Ok(())
    }
}

pub(super) const CREDIT: Credit = Credit { messages: 100_000, kib: 1_000_000 };

impl Server {
    pub(super) fn answer(&mut self, request: Request) -> Vec<Answer> {
        if matches!(request.ask, Ask::IsAlive) {
            return vec![Answer::Alive];
        }
        let refuse = |op, status, epoch| vec![Answer::Refused { op, status, epoch }];
        if let Ask::Create { name, .. } | Ask::Attach { name } = &request.ask {
            self.handles.insert(request.queue.0, name.to_string());
        }
        let name = self.handles[&request.queue.0].clone();
        if let Ask::Create { .. } = &request.ask {
            if self.queues.contains_key(&name) {
                return refuse(Op::Create, Status::Exists, Epoch(0));
            }
            let queue = ServerQueue { epoch: request.epoch, ..ServerQueue::default() };
            let answer = queue.attached(None);
            self.queues.insert(name, queue);
            return vec![answer];
        }
        let Some(queue) = self.queues.get_mut(&name) else {
            return refuse(Op::Attach, Status::UnknownQueue, Epoch(0));
        };
        if request.epoch < queue.epoch {
            return refuse(Op::Attach, Status::Fenced, queue.epoch);
        }
        match request.ask {
            Ask::Create { .. } | Ask::IsAlive => unreachable!("above"),
            Ask::Attach { .. } => {
                let mut idle = None;
                if request.epoch > queue.epoch {
                    queue.epoch = request.epoch;
                    queue.sequence = Sequence(0);
                    idle = self.owner_idle.unwrap_or(Some(Duration::from_secs(3600)));
                }
                vec![queue.attached(idle)]
            }
            Ask::Drop => {
                self.drops += 1;
                self.queues.remove(&name);
                vec![Answer::Dropped]
            }
            Ask::Change { sequence, change, .. } => {
                assert_eq!(sequence, queue.sequence.next(), "requests come in sequence");
                queue.sequence = sequence;
                let is_store = matches!(change, Changing::Store(..) | Changing::Backfill(..));
                let refused = self.refusing.filter(|_| is_store);
                match refused.map_or_else(|| queue.apply(change), Err) {
                    Ok(()) => vec![Answer::Acknowledged {
                        sequence,
                        transaction: queue.transaction,
                        credit: CREDIT,
                    }],
                    Err(status) => refuse(Op::Store, status, queue.epoch),
                }
            }
            Ask::BlockGet { after } => queue.block(after, 2),
            Ask::OpsGet { after } => {
                let operations =
                    queue.operations.iter().filter(|it| it.transaction > after).copied();
                let operations = operations.take(3).collect();
                vec![Answer::Operations { operations, head: queue.transaction }]
            }
        }
    }

    pub(super) fn restart(&mut self) {
        self.life += 1;
        self.queues.clear();
        self.refusing = None;
    }
}

impl ServerQueue {
    pub(super) fn block(&self, after: MessageId, count: usize) -> Vec<Answer> {
        let items = self.messages.range(after.next()..).take(count).map(|(id, it)| {
            let (head, content) = it.0.whole();
            let mut body = BytesMut::from(&head[..]);
            body.extend_from_slice(content);
            let (state_version, state) = (it.1, it.2.clone());
            Answer::Item { id: *id, state_version, state, body: body.freeze() }
        });
        let mut answers = items.collect::<Vec<_>>();
        let finished = self.messages.range(after.next()..).count() <= count;
        answers.push(Answer::BlockEnd { finished });
        answers
    }
}

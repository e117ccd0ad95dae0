//! A gateway's shard with one queue or many, whose copies are at two servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway::api::{Command, Notice, Outcome, Ticket};
use gateway::board::Board;
use gateway::link::LinkSettings;
use gateway::message::{Envelope, Message, MessageRef, QueueIndex, Recipient};
use gateway::queue::{QueuePolicy, RetryPolicy};
use gateway::replication::cohort::{Policy, UnitSettings};
use gateway::replication::placement::Placement;
use gateway::replication::record::{Record, RegisterAnswer, RegisterCall};
use gateway::shard::{CohortSettings, Shard, ShardSettings};
use kvs::worker::Worker;
use kvs_proto::Version;
use kvs_proto::auth::Secret;
use tcpstack::Instant;

use crate::kvs_part::{ACCOUNT, SECRET, address, server};
use crate::pipe::{Net, Pipe};
use crate::{BLOCK, Gauge, NoGauge, Part};

const BEGAN_UNIX_MS: u64 = 1_700_000_000_000;
const SERVERS: [u8; 2] = [1, 2];
/// Queues of a group are in so many cohorts at most.
const COHORTS_MAX: u32 = 16;
/// Attempts that delivery takes at a time: more than there ever are.
const WINDOW: u32 = 1000;
/// Most turns until the queue has its copies.
const TURNS_MAX: usize = 10_000;

/// What a shard does for messages that are stored, committed, released, attempted and settled.
#[derive(Debug)]
pub struct Replication {
    shard: Shard<Pipe>,
    servers: Vec<Worker<Pipe>>,
    board: Arc<Board>,
    records: Vec<Option<Record>>,
    now: Instant,
    message: MessageRef,
    queues: u32,
    serial: u64,
    /// What the shard is told in its next turn.
    commands: Vec<Command>,
    committed: u64,
    attempted: u64,
}

impl Replication {
    /// For messages of so many bytes, which go to so many queues in turn.
    ///
    /// # Panics
    /// If a queue does not get its copies.
    pub fn new(size_bytes: usize, queues: u32) -> Replication {
        let net = Net::default();
        let servers = SERVERS.iter().map(|number| server(net.host(), *number)).collect();
        let board = Arc::new(Board::new((0..queues).map(|_| (1 << 20, 1 << 30)), 1 << 30));
        let shard = Shard::new(net.host(), settings(queues), board.clone());
        let recipient = Recipient::new("recipient@example.net");
        let mut envelope = Envelope::new("sender@example.org", vec![recipient]);
        envelope.accepted_unix_ms = BEGAN_UNIX_MS;
        let message = Message { envelope, content: Bytes::from(vec![b'x'; size_bytes]) };
        let mut part = Replication {
            shard,
            servers,
            board,
            records: vec![None; COHORTS_MAX as usize],
            now: Instant::from_nanos(1),
            message: message.into(),
            queues,
            serial: 0,
            commands: indexes(queues)
                .map(|queue| Command::Slots { queue, window: WINDOW })
                .collect(),
            committed: 0,
            attempted: 0,
        };
        let mut turns = 0;
        while !indexes(queues).all(|queue| part.board.is_accepting(queue)) {
            turns += 1;
            assert!(turns < TURNS_MAX, "the queue does not get its copies");
            part.turn(&mut NoGauge);
        }
        part
    }

    /// A turn of the shard, and one of each server.
    fn turn(&mut self, gauge: &mut dyn Gauge) {
        self.now += Duration::from_micros(20);
        gauge.begin();
        shard_turn(&mut self.shard, self.now, &mut self.commands);
        gauge.end();
        while let Some(errand) = self.shard.poll_register() {
            let answer = match errand.call {
                RegisterCall::Read => RegisterAnswer::Read(self.records[errand.cohort].clone()),
                RegisterCall::Swap(record) => {
                    self.records[errand.cohort] = Some(record);
                    RegisterAnswer::Swapped
                }
            };
            self.shard.handle_register(self.now, errand.cohort, answer);
        }
        while let Some((_, notice)) = self.shard.poll_notice() {
            self.handle_notice(notice);
        }
        assert_eq!(self.shard.poll_fatal(), None);
        for server in &mut self.servers {
            server.turn(self.now);
            server.end_turn(self.now);
        }
    }

    fn handle_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Committed { queue, id, .. } => {
                self.committed += 1;
                self.commands.push(Command::Release { queue, id });
            }
            Notice::Attempt { queue, id, .. } => {
                self.attempted += 1;
                self.commands.push(Command::Outcome { queue, id, outcome: Outcome::Settled });
            }
            Notice::AcceptanceChanged => {}
            other => panic!("{other:?}"),
        }
    }
}

impl Part for Replication {
    fn handle_block(&mut self, gauge: &mut dyn Gauge) {
        for _ in 0..BLOCK {
            self.serial += 1;
            let ticket = Ticket { front: 0, serial: self.serial };
            let message = self.message.clone();
            let place = self.serial % u64::from(self.queues);
            let queue = QueueIndex(u32::try_from(place).expect("below their number"));
            self.board.reserve(queue, message.counted_bytes()).expect("there is room");
            self.commands.push(Command::Store { queue, ticket, message });
        }
        // Stored; committed; released and attempted; settled and deleted.
        (0..4).for_each(|_| self.turn(gauge));
        assert_eq!((self.committed, self.attempted), (self.serial, self.serial));
    }
}

/// What counts for replication, by this name.
#[inline(never)]
fn shard_turn(shard: &mut Shard<Pipe>, now: Instant, commands: &mut Vec<Command>) {
    let unix_ms = BEGAN_UNIX_MS + now.as_nanos() / 1_000_000;
    shard.receive(now);
    for command in commands.drain(..) {
        shard.handle_command(unix_ms, command);
    }
    shard.advance(now, unix_ms);
    shard.flush(now);
}

fn indexes(queues: u32) -> impl Iterator<Item = QueueIndex> {
    (0..queues).map(QueueIndex)
}

fn settings(queues: u32) -> ShardSettings {
    ShardSettings {
        links: SERVERS.iter().map(|number| link(*number, address(*number))).collect(),
        cohorts: (0..queues.min(COHORTS_MAX)).map(|number| cohort(number, queues)).collect(),
        policy: Policy {
            min_sync: 2,
            isolate_after: Duration::from_secs(1),
            recovery_wait: Duration::from_millis(1),
            lease: Duration::from_secs(2),
            accept_loss: false,
            placement: Placement::default(),
        },
        fronts: 1,
        seed: 1,
    }
}

fn cohort(number: u32, queues: u32) -> CohortSettings {
    let policy = QueuePolicy { retry: RetryPolicy::default(), strict: false };
    let is_in = |queue: &QueueIndex| queue.0 % COHORTS_MAX == number;
    CohortSettings {
        key: format!("gw/pair/{number}"),
        members: vec![0, 1],
        placements: vec![Placement::default(); 2],
        drained: vec![false; 2],
        order: None,
        resume: 0,
        queues: indexes(queues).filter(is_in).map(|queue| (unit(queue), policy)).collect(),
    }
}

fn unit(queue: QueueIndex) -> UnitSettings {
    UnitSettings {
        queue,
        name: format!("q{}", queue.0),
        server_name: format!("gw/q{}", queue.0).into(),
        headroom_bytes: 1 << 10,
    }
}

fn link(number: u8, address: SocketAddr) -> LinkSettings {
    LinkSettings {
        server: format!("kvs{number}"),
        address,
        local: None,
        standby: None,
        account: ACCOUNT.into(),
        secret: Secret::new(SECRET),
        version_max: Version::CURRENT,
        message_size_max: 10 << 20,
        heart_beat: Duration::from_millis(500),
        lease: Duration::from_secs(2),
        deadline: Duration::from_secs(1),
        path_deadline: Duration::from_millis(300),
        hedge_after: Duration::from_millis(10),
    }
}

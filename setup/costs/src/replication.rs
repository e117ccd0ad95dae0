//! A gateway's shard with one queue, whose copies are at two servers.

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

const QUEUE: QueueIndex = QueueIndex(0);
const BEGAN_UNIX_MS: u64 = 1_700_000_000_000;
const SERVERS: [u8; 2] = [1, 2];
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
    record: Option<Record>,
    now: Instant,
    message: MessageRef,
    serial: u64,
    /// What the shard is told in its next turn.
    commands: Vec<Command>,
    committed: u64,
    attempted: u64,
}

impl Replication {
    /// For messages of so many bytes.
    ///
    /// # Panics
    /// If the queue does not get its copies.
    pub fn new(size_bytes: usize) -> Replication {
        let net = Net::default();
        let servers = SERVERS.iter().map(|number| server(net.host(), *number)).collect();
        let board = Arc::new(Board::new([(1 << 20, 1 << 30)], 1 << 30));
        let shard = Shard::new(net.host(), settings(), board.clone());
        let recipient = Recipient::new("recipient@example.net");
        let mut envelope = Envelope::new("sender@example.org", vec![recipient]);
        envelope.accepted_unix_ms = BEGAN_UNIX_MS;
        let message = Message { envelope, content: Bytes::from(vec![b'x'; size_bytes]) };
        let mut part = Replication {
            shard,
            servers,
            board,
            record: None,
            now: Instant::from_nanos(1),
            message: message.into(),
            serial: 0,
            commands: vec![Command::Slots { queue: QUEUE, window: WINDOW }],
            committed: 0,
            attempted: 0,
        };
        let mut turns = 0;
        while !part.board.is_accepting(QUEUE) {
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
                RegisterCall::Read => RegisterAnswer::Read(self.record.clone()),
                RegisterCall::Swap(record) => {
                    self.record = Some(record);
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
            self.board.reserve(QUEUE, message.counted_bytes()).expect("there is room");
            self.commands.push(Command::Store { queue: QUEUE, ticket, message });
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

fn settings() -> ShardSettings {
    let unit = UnitSettings {
        queue: QUEUE,
        name: "q".into(),
        server_name: "gw/q".into(),
        headroom_bytes: 1 << 20,
    };
    let policy = QueuePolicy { retry: RetryPolicy::default(), strict: false };
    let cohort = CohortSettings {
        key: "gw/pair".into(),
        members: vec![0, 1],
        placements: vec![Placement::default(); 2],
        drained: vec![false; 2],
        order: None,
        resume: 0,
        queues: vec![(unit, policy)],
    };
    ShardSettings {
        links: SERVERS.iter().map(|number| link(*number, address(*number))).collect(),
        cohorts: vec![cohort],
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

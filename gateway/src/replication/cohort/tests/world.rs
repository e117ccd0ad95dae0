//! A cohort and what it stands on: servers, a register, a board.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvs_proto::{Incarnation, MessageId};
use tcpstack::Instant;

use super::server::Server;
use crate::api::Ticket;
use crate::board::Board;
use crate::message::{DeliveryState, Envelope, Message, QueueIndex, Recipient};
use crate::replication::cohort::{Cohort, CohortEvent, MemberSettings, Policy, UnitSettings};
use crate::replication::placement::Placement;
use crate::replication::record::{Record, RegisterAnswer, RegisterCall};
use crate::replication::request::Reply;

/// A gateway's cohort with one or two queues, and what it stands on.
pub(super) struct World {
    pub(super) cohort: Cohort,
    pub(super) servers: Vec<Server>,
    pub(super) record: Option<Record>,
    pub(super) board: Arc<Board>,
    pub(super) now: Instant,
    pub(super) min_sync: usize,
    pub(super) committed: Vec<(u32, MessageId)>,
    pub(super) fatal: Option<String>,
    pub(super) serial: u64,
    /// The register cannot be used.
    pub(super) register_fails: bool,
}

pub(super) const SERVER_NAMES: [&str; 4] = ["a", "b", "c", "d"];

pub(super) const ISOLATE_AFTER: Duration = Duration::from_secs(1);
pub(super) const LEASE: Duration = Duration::from_secs(1);
pub(super) const RECOVERY_WAIT: Duration = Duration::from_secs(10);

pub(super) fn board() -> Arc<Board> {
    Arc::new(Board::new([(1000, 1 << 30); 2], 1 << 30))
}

pub(super) fn cohort(min_sync: usize, accept_loss: bool) -> Cohort {
    cohort_of(2, min_sync, accept_loss)
}

/// A cohort with so many servers: `a`, `b`, and so on.
pub(super) fn cohort_of(servers: usize, min_sync: usize, accept_loss: bool) -> Cohort {
    cohort_at(&vec![Placement::default(); servers + 1], min_sync, accept_loss)
}

/// Placements written as `node:rack`: the gateway's, then the servers'.
pub(super) fn labelled(labels: &[&str]) -> Vec<Placement> {
    let placement = |label: &&str| {
        let (node, rack) = label.split_once(':').expect("both");
        Placement { node: Some(node.into()), rack: Some(rack.into()), power: None }
    };
    labels.iter().map(placement).collect()
}

/// A cohort whose gateway and servers stand there.
fn cohort_at(placements: &[Placement], min_sync: usize, accept_loss: bool) -> Cohort {
    let policy = Policy {
        min_sync,
        isolate_after: ISOLATE_AFTER,
        recovery_wait: RECOVERY_WAIT,
        lease: LEASE,
        accept_loss,
        placement: placements[0].clone(),
    };
    let unit = |index| UnitSettings {
        queue: QueueIndex(index),
        name: format!("q{index}"),
        server_name: format!("gw/q{index}").into(),
        headroom_bytes: 1000,
    };
    let servers = SERVER_NAMES.iter().zip(&placements[1..]).map(|(name, placement)| {
        MemberSettings { server: (*name).into(), placement: placement.clone(), is_drained: false }
    });
    let servers = servers.collect();
    Cohort::new("gw/g/0".into(), policy, servers, vec![unit(0), unit(1)])
}

impl World {
    pub(super) fn new(min_sync: usize) -> World {
        World::of(2, min_sync)
    }

    /// With so many servers, of which two have copies.
    pub(super) fn of(servers: usize, min_sync: usize) -> World {
        World::with(min_sync, &vec![Placement::default(); servers + 1])
    }

    /// The gateway stands at the first of these places, the servers at the others.
    pub(super) fn with(min_sync: usize, placements: &[Placement]) -> World {
        let servers = placements.len() - 1;
        let server = || Server { life: 1, patience: usize::MAX, ..Server::default() };
        let mut world = World {
            cohort: cohort_at(placements, min_sync, false),
            servers: std::iter::repeat_with(server).take(servers).collect(),
            record: None,
            board: board(),
            now: Instant::from_nanos(1),
            min_sync,
            committed: Vec::new(),
            fatal: None,
            serial: 0,
            register_fails: false,
        };
        (0..servers).for_each(|member| world.link_up(member));
        world.settle();
        world
    }

    /// The gateway dies and another process begins, with links up.
    pub(super) fn restart_gateway(&mut self, accept_loss: bool) {
        self.cohort = cohort_of(self.servers.len(), self.min_sync, accept_loss);
        self.board = board();
        self.committed.clear();
        for member in 0..self.servers.len() {
            self.servers[member].link.clear();
            if std::mem::take(&mut self.servers[member].is_up) {
                self.link_up(member);
            }
        }
        self.settle();
    }

    pub(super) fn link_up(&mut self, member: usize) {
        self.servers[member].is_up = true;
        self.servers[member].patience = usize::MAX;
        let incarnation = Incarnation(self.servers[member].life);
        self.cohort.handle_link_up(self.now, member, incarnation, &mut self.servers);
    }

    pub(super) fn link_down(&mut self, member: usize) {
        self.link_down_after(member, Duration::ZERO);
    }

    /// The link goes down, after so long a silence.
    pub(super) fn link_down_after(&mut self, member: usize, silence: Duration) {
        self.servers[member].is_up = false;
        self.servers[member].link.clear();
        let since = Instant::ZERO + (self.now - Instant::ZERO).saturating_sub(silence);
        self.cohort.handle_link_down(self.now, member, since, &self.board);
    }

    pub(super) fn pass(&mut self, time: Duration) {
        // A longer time without a turn would look like a stall of the gateway's.
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(ISOLATE_AFTER);
            self.now += step;
            left -= step;
            self.settle();
        }
    }

    /// Lets everybody go on until nothing happens any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the cohort does not come to rest");
    }

    pub(super) fn step(&mut self) -> bool {
        let mut any = false;
        self.beat();
        self.cohort.maintain(self.now, &mut self.servers, &self.board);
        while let Some(call) = self.cohort.poll_register() {
            any = true;
            let answer = self.register(call);
            self.cohort.handle_register(self.now, answer, &mut self.servers);
        }
        for member in 0..self.servers.len() {
            any |= self.serve(member);
        }
        while let Some(event) = self.cohort.poll_event() {
            any = true;
            match event {
                CohortEvent::Committed { queue, id, .. } => {
                    self.cohort.unit_mut(queue.0 as usize).queue.release(id);
                    self.committed.push((queue.0, id));
                }
                CohortEvent::Opened(_) => {}
                CohortEvent::Fatal(why) => self.fatal = Some(why),
            }
        }
        any
    }

    /// Heart-beats are answered.
    pub(super) fn beat(&mut self) {
        for server in self.servers.iter_mut().filter(|server| server.is_up) {
            if server.patience > 0 {
                server.answered_since = Some(self.now);
            }
        }
    }

    pub(super) fn register(&mut self, call: RegisterCall) -> RegisterAnswer {
        match call {
            _ if self.register_fails => RegisterAnswer::Failed("it is away".into()),
            RegisterCall::Read => RegisterAnswer::Read(self.record.clone()),
            RegisterCall::Swap(record) => {
                let version = self.record.as_ref().map_or(0, |record| record.version);
                if record.version != version + 1 {
                    return RegisterAnswer::Conflict;
                }
                self.record = Some(record);
                RegisterAnswer::Swapped
            }
        }
    }

    /// Lets a server answer one request.
    pub(super) fn serve(&mut self, member: usize) -> bool {
        let server = &mut self.servers[member];
        if server.patience == 0 {
            return false;
        }
        let Some(request) = server.link.pop_front() else { return false };
        server.patience -= 1;
        let queue = request.queue;
        for answer in server.answer(request) {
            let place = queue.0 as usize;
            let reply = Reply { queue, answer };
            self.cohort.handle_reply(
                self.now,
                member,
                place,
                reply,
                &mut self.servers,
                &self.board,
            );
        }
        true
    }

    pub(super) fn store(&mut self, place: usize) -> MessageId {
        self.serial += 1;
        let ticket = Ticket { front: 0, serial: self.serial };
        let id = self.cohort.unit_mut(place).queue.store(ticket, message(self.serial));
        self.cohort.touch(place);
        id
    }

    pub(super) fn deliver(&mut self, place: usize) -> Option<MessageId> {
        let queue = &mut self.cohort.unit_mut(place).queue;
        let id = queue.next_attempt(0)?.id;
        queue.settle(id);
        self.cohort.touch(place);
        Some(id)
    }

    pub(super) fn defer(&mut self, place: usize) {
        let queue = &mut self.cohort.unit_mut(place).queue;
        let id = queue.next_attempt(0).expect("there is one").id;
        queue.defer(id, DeliveryState::deferred(1, 99));
        self.cohort.touch(place);
    }

    pub(super) fn at_server(&self, member: usize, place: usize) -> Vec<MessageId> {
        let name = format!("gw/q{place}");
        self.servers[member].queues[&name].messages.keys().copied().collect()
    }

    pub(super) fn recorded(&self) -> Vec<&str> {
        let record = self.record.as_ref().expect("there is a record");
        record.members.iter().map(|member| member.server.as_str()).collect()
    }

    /// Two copies count, and both are what the queue is, in content, number and history.
    pub(super) fn assert_in_step(&self) {
        for unit in &self.cohort.units {
            assert_eq!(unit.queue.log().len(), 0, "what all copies have takes no memory");
        }
        let recorded = self.recorded();
        assert_eq!(recorded.len(), 2, "{recorded:?}");
        let counts = |name: &str| recorded.contains(&name);
        let counting = || self.servers.iter().zip(SERVER_NAMES).filter(|(_, name)| counts(name));
        for place in 0..2 {
            let queue = &self.cohort.unit(place).queue;
            for (server, _) in counting() {
                let numbers = server.queues[&format!("gw/q{place}")].numbers();
                assert_eq!(numbers.content, queue.content_digest());
                assert_eq!(numbers.transaction, queue.log().head());
                assert_eq!(numbers.hash, queue.log().head_hash());
            }
        }
    }

    pub(super) fn is_accepting(&self) -> bool {
        self.board.any_accepting()
    }
}

pub(super) fn message(serial: u64) -> crate::message::MessageRef {
    let mut envelope = Envelope::new("", vec![Recipient::new("b@example.net")]);
    envelope.accepted_unix_ms = serial;
    Arc::new(Message { envelope, content: Bytes::from(format!("message {serial}")) })
}

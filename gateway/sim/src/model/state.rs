//! One state of the model, and what can happen in it.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway::api::Ticket;
use gateway::board::Board;
use gateway::message::{DeliveryState, Envelope, Message, QueueIndex, Recipient};
use gateway::register::{Judgement, Stored, WriterId};
use gateway::replication::cohort::{Cohort, CohortEvent, MemberSettings, Policy, UnitSettings};
use gateway::replication::placement::Placement;
use gateway::replication::record::{RegisterAnswer, RegisterCall};
use gateway::replication::request::{Answer, Outlet, Outlets, Reply, Request};
use kvs_proto::{Generation, Incarnation, MessageId};
use tcpstack::Instant;

use super::server::Server;
use super::{Bounds, Flaw, Start};

/// One thing that happens. Owners are by place: 0 is the latest, 1 the one before, if it still runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A server takes the next request of an owner.
    Serve(usize, usize),
    /// An owner takes the answers of a server.
    Deliver(usize, usize),
    /// The register carries an owner's call out, and answers.
    Answer(usize),
    /// It carries the call out, and fails to say so.
    AnswerLost(usize),
    /// An owner accepts a mail.
    Store(usize),
    /// It delivers one.
    Delete(usize),
    /// It defers one.
    Replace(usize),
    /// A connection breaks, with all that is on its way.
    LinkDown(usize, usize),
    /// It is made anew.
    LinkUp(usize, usize),
    /// A server restarts, empty.
    CrashServer(usize),
    /// The owner dies, and the next one starts.
    CrashOwner,
    /// The next one starts, and the owner lives on.
    Successor,
    /// Time passes: as long as a lease, and as it takes to isolate.
    Pass,
}

/// An owner: a gateway's cohort with one queue.
pub(super) struct Owner {
    pub(super) cohort: Cohort,
    board: Board,
    links: Links,
    asked: Option<RegisterCall>,
    writer: WriterId,
    pub(super) stopped: bool,
    attempted: u64,
}

/// An owner's connections to the servers.
struct Links(Vec<Link>);

struct Link {
    is_up: bool,
    /// The server has closed it: a later owner has attached. The owner has not heard of it yet.
    cut_at: Option<Instant>,
    generation: Generation,
    requests: VecDeque<Request>,
    replies: VecDeque<Answer>,
    now: Instant,
}

/// All there is.
pub(super) struct State {
    pub(super) owners: VecDeque<Owner>,
    pub(super) servers: Vec<Server>,
    pub(super) register: Option<Stored>,
    pub(super) now: Instant,
    /// Committed and not deleted.
    pub(super) owed: BTreeSet<MessageId>,
    /// An owner committed, or began an attempt, in the last step; by its writer's number.
    pub(super) acted: Vec<u64>,
    /// When a server last heard from an owner that is gone.
    left_at: Vec<Instant>,
    flaw: Option<Flaw>,
    left: Bounds,
    serials: u64,
    writers: u64,
}

pub(super) const SERVERS: [&str; 2] = ["a", "b"];
const QUEUE: QueueIndex = QueueIndex(0);
const LEASE: Duration = Duration::from_secs(1);

impl State {
    /// Everything has come up, one mail is committed, and it is as it is to be at the start.
    pub(super) fn begin(start: Start, bounds: Bounds, flaw: Option<Flaw>) -> State {
        let mut state = State {
            owners: VecDeque::new(),
            servers: SERVERS.iter().map(|_| Server::new()).collect(),
            register: None,
            now: Instant::from_nanos(1_000_000_000),
            owed: BTreeSet::new(),
            acted: Vec::new(),
            left_at: vec![Instant::ZERO; SERVERS.len()],
            flaw: None,
            left: Bounds { operations: 1, faults: 1, ..bounds },
            serials: 0,
            writers: 0,
        };
        state.start_owner();
        state.settle();
        state.apply(Action::Store(0));
        state.settle();
        if start == Start::Joining {
            state.begin_to_join();
        }
        (state.left, state.flaw) = (bounds, flaw);
        assert_eq!(state.owed.len(), 1, "the model does not come up");
        state
    }

    fn settle(&mut self) {
        while self.go_on() {}
    }

    /// The next of what happens by itself, if there is anything.
    fn go_on(&mut self) -> bool {
        let quiet = |action: &Action| {
            matches!(action, Action::Serve(..) | Action::Deliver(..) | Action::Answer(_))
        };
        let next = self.actions().into_iter().find(quiet);
        next.inspect(|action| self.apply(*action)).is_some()
    }

    /// The last server restarts empty, and the record says that it does not count any more.
    fn begin_to_join(&mut self) {
        let server = SERVERS.len() - 1;
        self.apply(Action::CrashServer(server));
        self.apply(Action::LinkDown(0, server));
        self.apply(Action::LinkUp(0, server));
        let counting =
            |state: &State| state.register.as_ref().map_or(0, |stored| stored.record.members.len());
        while counting(self) == SERVERS.len() {
            assert!(self.go_on(), "the record does not change");
        }
    }

    /// What can happen.
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let faults = self.left.faults > 0;
        for (place, owner) in self.owners.iter().enumerate() {
            if owner.stopped {
                continue;
            }
            for (server, link) in owner.links.0.iter().enumerate() {
                if link.is_up && link.cut_at.is_none() && !link.requests.is_empty() {
                    actions.push(Action::Serve(place, server));
                }
                if link.is_up && !link.replies.is_empty() {
                    actions.push(Action::Deliver(place, server));
                }
                match (link.is_up, link.cut_at) {
                    (true, Some(_)) => actions.push(Action::LinkDown(place, server)),
                    (true, None) if faults => actions.push(Action::LinkDown(place, server)),
                    (true, None) => {}
                    (false, _) => actions.push(Action::LinkUp(place, server)),
                }
            }
            if owner.asked.is_some() {
                actions.push(Action::Answer(place));
                if faults {
                    actions.push(Action::AnswerLost(place));
                }
            }
            if self.left.operations > 0 && owner.cohort.unit(0).is_open() {
                let queue = &owner.cohort.unit(0).queue;
                // One that is not committed at a time.
                if owner.board.is_accepting(QUEUE) && queue.pending_bytes() == 0 {
                    actions.push(Action::Store(place));
                }
                if self.may_attempt(owner) && queue.next_due_unix_ms().is_some() {
                    actions.push(Action::Delete(place));
                    actions.push(Action::Replace(place));
                }
            }
        }
        if faults {
            let crashes = (0..self.servers.len()).filter(|it| self.may_crash(*it));
            actions.extend(crashes.map(Action::CrashServer));
            if (0..self.servers.len()).any(|it| self.counts(it)) {
                actions.push(Action::CrashOwner);
                if self.owners.len() < 2 {
                    actions.push(Action::Successor);
                }
            }
        }
        if self.left.passes > 0 {
            actions.push(Action::Pass);
        }
        actions
    }

    /// Lets it happen; then each owner takes a turn.
    pub(super) fn apply(&mut self, action: Action) {
        self.acted.clear();
        match action {
            Action::Serve(owner, server) => self.serve(owner, server),
            Action::Deliver(owner, server) => self.deliver(owner, server),
            Action::Answer(owner) => self.answer(owner, true),
            Action::AnswerLost(owner) => {
                self.left.faults -= 1;
                self.answer(owner, false);
            }
            Action::Store(owner) => self.store(owner),
            Action::Delete(owner) => self.attempt(owner, None),
            Action::Replace(owner) => self.attempt(owner, Some(99)),
            Action::LinkDown(owner, server) => self.link_down(owner, server),
            Action::LinkUp(owner, server) => self.link_up(owner, server),
            Action::CrashServer(server) => {
                self.left.faults -= 1;
                self.servers[server].restart(self.flaw);
                for owner in &mut self.owners {
                    let link = &mut owner.links.0[server];
                    if link.is_up {
                        link.cut_at.get_or_insert(self.now);
                    }
                }
            }
            Action::CrashOwner => {
                self.left.faults -= 1;
                let gone = self.owners.pop_front().expect("there is always one");
                for (server, link) in gone.links.0.iter().enumerate() {
                    let is_heard = link.is_up && link.cut_at.is_none();
                    let heard_at = if is_heard { self.now } else { Instant::ZERO };
                    self.left_at[server] = self.left_at[server].max(heard_at);
                }
                self.start_owner();
            }
            Action::Successor => {
                self.left.faults -= 1;
                self.start_owner();
            }
            Action::Pass => {
                self.left.passes -= 1;
                self.now += LEASE + LEASE / 64;
            }
        }
        for owner in 0..self.owners.len() {
            self.take_turn(owner);
        }
    }

    /// A number that is equal for equal states, and else another one.
    pub(super) fn digest(&self) -> u64 {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        let State { left, owed, register, now, left_at, .. } = self;
        let _ = write!(hash, "{left:?}{owed:?}{register:?}{now:?}{left_at:?}");
        for Owner { cohort, links, asked, stopped, .. } in &self.owners {
            let _ = write!(hash, "|{cohort:?}{asked:?}{stopped}");
            for Link { is_up, cut_at, generation, requests, replies, .. } in &links.0 {
                let _ = write!(hash, "{is_up}{cut_at:?}{generation:?}{requests:?}{replies:?}");
            }
        }
        for Server { life, stored, .. } in &self.servers {
            let _ = write!(hash, "|{life}");
            if let Some((arena, queue)) = stored {
                let (attached, epoch) = (queue.attached(arena, 0), queue.epoch());
                let (transaction, known) = (queue.transaction(), queue.operations_known_after());
                let generation = queue.generation();
                let _ = write!(hash, "{attached:?}{epoch:?}{transaction:?}{known:?}{generation:?}");
            }
        }
        hash.0
    }

    /// Whether the record names this life of the server.
    pub(super) fn counts(&self, server: usize) -> bool {
        let life = Incarnation(self.servers[server].life);
        let record = self.register.as_ref().map(|stored| &stored.record);
        record.is_some_and(|it| it.incarnation_of(SERVERS[server]) == Some(life))
    }

    /// A crash must leave the mail somewhere: at another server that counts.
    fn may_crash(&self, server: usize) -> bool {
        (0..self.servers.len()).any(|other| other != server && self.counts(other))
    }

    fn may_attempt(&self, owner: &Owner) -> bool {
        self.now < owner.board.lease_until(QUEUE)
    }

    fn start_owner(&mut self) {
        self.writers += 1;
        let board = Board::new([(1000, 1 << 30)], 1 << 30);
        let link = |_| Link {
            is_up: false,
            cut_at: None,
            generation: Generation(0),
            requests: VecDeque::new(),
            replies: VecDeque::new(),
            now: self.now,
        };
        let links = Links(SERVERS.iter().map(link).collect());
        let writer = WriterId(self.writers);
        let (cohort, asked) = (cohort(), None);
        let owner = Owner { cohort, board, links, asked, writer, stopped: false, attempted: 0 };
        self.owners.push_front(owner);
        for server in 0..SERVERS.len() {
            self.link_up(0, server);
        }
        self.take_turn(0);
    }

    fn serve(&mut self, place: usize, server: usize) {
        let owner = &mut self.owners[place];
        let link = &mut owner.links.0[server];
        let Some(request) = link.requests.pop_front() else { return };
        let generation = link.generation;
        let before = self.servers[server].epoch();
        let idle = self.idle_at(place, server);
        let answers = self.servers[server].handle(&request, generation, idle, self.flaw);
        self.owners[place].links.0[server].replies.extend(answers);
        // Who takes the queue over ends the connections of those before.
        if before.is_some() && before < self.servers[server].epoch() {
            for (other, owner) in self.owners.iter_mut().enumerate() {
                let link = &mut owner.links.0[server];
                if other != place && link.is_up && self.flaw != Some(Flaw::FenceIgnored) {
                    link.cut_at.get_or_insert(self.now);
                }
            }
        }
    }

    /// For how long a server has not heard from others than that owner.
    fn idle_at(&self, place: usize, server: usize) -> Option<Duration> {
        if self.flaw == Some(Flaw::SealNotAwaited) {
            return Some(LEASE * 1000);
        }
        let others = self.owners.iter().enumerate().filter(|(other, _)| *other != place);
        let heard = others.map(|(_, owner)| match &owner.links.0[server] {
            Link { is_up: true, cut_at: None, .. } => self.now,
            Link { cut_at: Some(at), .. } => *at,
            _ => self.left_at[server],
        });
        let heard = heard.max().unwrap_or(Instant::ZERO).max(self.left_at[server]);
        Some(self.now.saturating_since(heard))
    }

    fn deliver(&mut self, place: usize, server: usize) {
        let owner = &mut self.owners[place];
        for answer in std::mem::take(&mut owner.links.0[server].replies) {
            let reply = Reply { queue: QUEUE, answer };
            let Owner { cohort, links, board, .. } = owner;
            cohort.handle_reply(self.now, server, 0, reply, links, board);
        }
    }

    fn answer(&mut self, place: usize, is_told: bool) {
        let owner = &mut self.owners[place];
        let Some(call) = owner.asked.take() else { return };
        let answer = match call {
            RegisterCall::Read => {
                RegisterAnswer::Read(self.register.as_ref().map(|it| it.record.clone()))
            }
            RegisterCall::Swap(record) => {
                let wanted = Stored { writer: owner.writer, record };
                let judgement = match wanted.judge(self.register.as_ref()) {
                    Judgement::Conflicts if self.flaw == Some(Flaw::VersionsIgnored) => {
                        Judgement::Replaces
                    }
                    judgement => judgement,
                };
                match judgement {
                    Judgement::Replaces => {
                        self.register = Some(wanted);
                        RegisterAnswer::Swapped
                    }
                    Judgement::IsMade => RegisterAnswer::Swapped,
                    Judgement::Conflicts => RegisterAnswer::Conflict,
                }
            }
        };
        let answer = if is_told { answer } else { RegisterAnswer::Failed("no answer".into()) };
        owner.cohort.handle_register(self.now, answer, &mut owner.links);
    }

    fn store(&mut self, place: usize) {
        self.left.operations -= 1;
        self.serials += 1;
        let mut envelope = Envelope::new("", vec![Recipient::new("b@example.net")]);
        envelope.accepted_unix_ms = self.serials;
        let content = Bytes::from(format!("message {}", self.serials));
        let message = Arc::new(Message { envelope, content });
        let owner = &mut self.owners[place];
        owner.board.reserve(QUEUE, message.counted_bytes()).expect("there is room");
        let ticket = Ticket { front: 0, serial: self.serials };
        owner.cohort.unit_mut(0).queue.store(ticket, message);
        owner.cohort.touch(0);
    }

    /// One mail is delivered, or deferred.
    fn attempt(&mut self, place: usize, deferred_until: Option<u64>) {
        self.left.operations -= 1;
        let owner = &mut self.owners[place];
        let queue = &mut owner.cohort.unit_mut(0).queue;
        let Some(attempt) = queue.next_attempt(1000) else { return };
        match deferred_until {
            Some(due) => queue.defer(attempt.id, DeliveryState::deferred(1, due)),
            None => {
                queue.settle(attempt.id);
                self.owed.remove(&attempt.id);
            }
        }
        owner.attempted += 1;
        owner.cohort.touch(0);
        self.acted.push(owner.writer.0);
    }

    fn link_down(&mut self, place: usize, server: usize) {
        let owner = &mut self.owners[place];
        let link = &mut owner.links.0[server];
        match link.cut_at.take() {
            Some(at) => self.left_at[server] = self.left_at[server].max(at),
            None => {
                self.left.faults -= 1;
                self.left_at[server] = self.now;
            }
        }
        link.is_up = false;
        link.requests.clear();
        link.replies.clear();
        owner.cohort.handle_link_down(self.now, server, self.now, &owner.board);
    }

    fn link_up(&mut self, place: usize, server: usize) {
        let life = Incarnation(self.servers[server].life);
        let owner = &mut self.owners[place];
        let link = &mut owner.links.0[server];
        link.is_up = true;
        link.generation.0 += 1;
        link.now = self.now;
        owner.cohort.handle_link_up(self.now, server, life, &mut owner.links);
    }

    /// What a shard does each turn.
    fn take_turn(&mut self, place: usize) {
        let owner = &mut self.owners[place];
        if owner.stopped {
            return;
        }
        for link in owner.links.0.iter_mut().filter(|link| link.cut_at.is_none()) {
            link.now = self.now;
        }
        // What a turn makes possible is done in the next.
        for _ in 0..3 {
            let Owner { cohort, links, board, .. } = owner;
            cohort.maintain(self.now, links, board);
            if owner.asked.is_none() {
                owner.asked = owner.cohort.poll_register();
            }
            while let Some(event) = owner.cohort.poll_event() {
                match event {
                    CohortEvent::Committed { id, .. } => {
                        owner.cohort.unit_mut(0).queue.release(id);
                        self.owed.insert(id);
                        self.acted.push(owner.writer.0);
                    }
                    CohortEvent::Opened(_) => {}
                    CohortEvent::Fatal(_) => owner.stopped = true,
                }
            }
        }
    }
}

impl Owner {
    /// Which of all that ever started.
    pub(super) fn number(&self) -> u64 {
        self.writer.0
    }
}

impl Outlet for Link {
    fn has_room(&self) -> bool {
        self.is_up
    }

    fn send(&mut self, request: Request) {
        if self.is_up && self.cut_at.is_none() {
            self.requests.push_back(request);
        }
    }

    fn answered_since(&self) -> Option<Instant> {
        self.is_up.then_some(self.now)
    }
}

impl Outlets for Links {
    type Outlet = Link;

    fn of(&mut self, member: usize) -> &mut Link {
        &mut self.0[member]
    }
}

fn cohort() -> Cohort {
    let policy = Policy {
        min_sync: 1,
        isolate_after: LEASE,
        recovery_wait: LEASE * 2,
        lease: LEASE,
        accept_loss: false,
        placement: Placement::default(),
    };
    let unit = UnitSettings {
        queue: QUEUE,
        name: "q".into(),
        server_name: "gw/q".into(),
        headroom_bytes: 1000,
    };
    let server = |name: &&str| MemberSettings {
        server: (*name).into(),
        placement: Placement::default(),
        is_drained: false,
    };
    Cohort::new("gw/g/0".into(), policy, SERVERS.iter().map(server).collect(), vec![unit])
}

/// A hash that is the same everywhere (FNV-1a, folded once more).
struct Fnv(u64);

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.0 ^= self.0.rotate_left(29);
        Ok(())
    }
}

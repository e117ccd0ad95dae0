//! Every order of a few events: a queue, its owner, two servers, a register, and a second gateway of the same
//! name that starts at any moment, whatever the first one does. All orders up to a depth are gone through, each
//! state once; what must hold is looked at in every state.
//!
//! The cohorts, copies and queues are those of the product; the servers are the tests' own.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use kvs_proto::{ChainHash, Epoch, Transaction};

use super::server::Server;
use super::*;
use crate::replication::request::{Ask, Outlet, Outlets, Reply, Request};
use tcpstack::Instant;

/// One thing that happens. Gateway 0 owns the queues at the beginning, gateway 1 comes later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Action {
    /// A client's mail is stored by a gateway.
    Store(usize),
    /// A gateway hands a message to a next hop, which takes it.
    Deliver(usize),
    /// A gateway takes a turn, after time has passed.
    Turn(usize),
    /// A server answers all that a gateway has asked it, and its heart-beat.
    Answer(usize, usize),
    /// The register answers a gateway.
    Register(usize),
    /// The register carries out what a gateway asks, and the answer is lost.
    Lose(usize),
    /// The connection of a gateway to a server ends.
    Cut(usize, usize),
    /// It is there again.
    Mend(usize, usize),
    /// A server dies, and is there again, empty.
    Restart(usize),
    /// The first gateway dies.
    Crash,
    /// The second one starts.
    Start,
    /// Time passes.
    Pass,
}

/// How often each may happen in one order of events.
#[derive(Clone, Debug, Hash)]
struct Budget {
    stores: u32,
    deliveries: u32,
    losses: u32,
    cuts: u32,
    restarts: u32,
    crashes: u32,
    starts: u32,
    passes: u32,
}

const SERVERS: usize = 2;
const QUEUE: QueueIndex = QueueIndex(0);

/// Two of them are more than a lease and less than what counts as a stall.
const STEP: Duration = Duration::from_millis(600);

/// A gateway's end of a link.
#[derive(Default, Debug)]
struct Port {
    is_up: bool,
    requests: VecDeque<Request>,
    /// When the heart-beat was sent that is under way.
    asked_at: Instant,
    answered_since: Option<Instant>,
}

impl Outlet for Port {
    fn has_room(&self) -> bool {
        self.is_up && self.requests.len() < 50
    }

    fn send(&mut self, request: Request) {
        if self.is_up {
            self.requests.push_back(request);
        }
    }

    fn answered_since(&self) -> Option<Instant> {
        self.answered_since.filter(|_| self.is_up)
    }
}

impl Outlets for Vec<Port> {
    type Outlet = Port;

    fn of(&mut self, member: usize) -> &mut Port {
        &mut self[member]
    }
}

/// A gateway process.
#[derive(Debug)]
struct Gateway {
    cohort: Cohort,
    board: Arc<Board>,
    ports: Vec<Port>,
    asked: Option<RegisterCall>,
    turn_at: Instant,
    /// Its messages that are not committed, by id: what is in them.
    stored: BTreeMap<MessageId, u64>,
}

/// The world after some actions.
struct State {
    gateways: [Option<Gateway>; 2],
    servers: Vec<Server>,
    /// By server: the epoch of the owner that it last heard, and when.
    heard: Vec<(Epoch, Instant)>,
    record: Option<Record>,
    now: Instant,
    left: Budget,
    serial: u64,
    /// Committed and not delivered: what is in them.
    owed: BTreeSet<u64>,
    /// Taken by the next hop.
    delivered: BTreeMap<u64, u32>,
    /// Contents whose delete was committed: they are never seen again.
    gone: BTreeSet<u64>,
    /// By server: the numbers that must only grow, in its present life.
    numbers: Vec<(u64, Epoch, Transaction)>,
    version: u64,
    /// Weakens the world, to show that a check can fail.
    defect: Defect,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Defect {
    None,
    /// The register takes any version.
    Versions,
    /// A gateway delivers without looking at its lease.
    Lease,
    /// A server forgets what it has acknowledged.
    Forget,
}

impl State {
    fn new(left: Budget, defect: Defect) -> State {
        let server = || Server { life: 1, patience: usize::MAX, ..Server::default() };
        let mut state = State {
            gateways: [None, None],
            servers: std::iter::repeat_with(server).take(SERVERS).collect(),
            heard: vec![(Epoch(0), Instant::from_nanos(1)); SERVERS],
            record: None,
            now: Instant::from_nanos(1),
            left,
            serial: 0,
            owed: BTreeSet::new(),
            delivered: BTreeMap::new(),
            gone: BTreeSet::new(),
            numbers: vec![(1, Epoch(0), Transaction(0)); SERVERS],
            version: 0,
            defect,
        };
        state.start(0);
        state.settle();
        state
    }

    fn start(&mut self, place: usize) {
        let port = || Port { is_up: true, asked_at: self.now, ..Port::default() };
        let ports = std::iter::repeat_with(port).take(SERVERS).collect();
        let cohort = cohort_of(SERVERS, 2, false);
        let (board, stored) = (board(), BTreeMap::new());
        let gateway = Gateway { cohort, board, ports, asked: None, turn_at: self.now, stored };
        self.gateways[place] = Some(gateway);
        for member in 0..SERVERS {
            self.link_up(place, member);
        }
        self.turn(place);
    }

    /// Until the first gateway serves.
    fn settle(&mut self) {
        for _ in 0..100 {
            let is_quiet = |it: &Gateway| {
                it.asked.is_none() && it.ports.iter().all(|port| port.requests.is_empty())
            };
            if self.gateway(0).cohort.is_accepting(0) && is_quiet(self.gateway(0)) {
                return;
            }
            self.perform(Action::Register(0));
            (0..SERVERS).for_each(|member| self.perform(Action::Answer(0, member)));
        }
        panic!("it does not come into service");
    }

    fn gateway(&self, place: usize) -> &Gateway {
        self.gateways[place].as_ref().expect("it runs")
    }

    fn link_up(&mut self, place: usize, member: usize) {
        let life = self.servers[member].life;
        let now = self.now;
        let Some(Gateway { cohort, ports, .. }) = &mut self.gateways[place] else { return };
        ports[member] = Port { is_up: true, asked_at: now, ..Port::default() };
        cohort.handle_link_up(now, member, Incarnation(life), ports);
    }

    fn link_down(&mut self, place: usize, member: usize) {
        let now = self.now;
        let Some(Gateway { cohort, ports, board, .. }) = &mut self.gateways[place] else { return };
        if std::mem::take(&mut ports[member].is_up) {
            ports[member].requests.clear();
            cohort.handle_link_down(now, member, board);
        }
    }

    /// What may happen now.
    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (place, gateway) in self.gateways.iter().enumerate() {
            let Some(gateway) = gateway else { continue };
            let left = &self.left;
            if left.stores > 0 && gateway.cohort.is_accepting(0) {
                actions.push(Action::Store(place));
            }
            if left.deliveries > 0 && self.may_deliver(gateway) {
                actions.push(Action::Deliver(place));
            }
            if gateway.turn_at < self.now {
                actions.push(Action::Turn(place));
            }
            if gateway.asked.is_some() {
                actions.push(Action::Register(place));
                if left.losses > 0 {
                    actions.push(Action::Lose(place));
                }
            }
            for (member, port) in gateway.ports.iter().enumerate() {
                let renews = port.answered_since < Some(port.asked_at);
                if port.is_up && (renews || !port.requests.is_empty()) {
                    actions.push(Action::Answer(place, member));
                }
                match port.is_up {
                    true if left.cuts > 0 => actions.push(Action::Cut(place, member)),
                    true => {}
                    false => actions.push(Action::Mend(place, member)),
                }
            }
        }
        self.add_faults(&mut actions);
        actions
    }

    fn add_faults(&self, actions: &mut Vec<Action>) {
        let is_whole = |member: &usize| self.is_whole(*member);
        for member in (0..SERVERS).filter(|_| self.left.restarts > 0) {
            // The last one that has everything does not fail as well.
            if (0..SERVERS).filter(is_whole).any(|other| other != member) {
                actions.push(Action::Restart(member));
            }
        }
        if self.left.crashes > 0 && self.gateways[0].is_some() {
            actions.push(Action::Crash);
        }
        if self.left.starts > 0 {
            actions.push(Action::Start);
        }
        if self.left.passes > 0 {
            actions.push(Action::Pass);
        }
    }

    fn may_deliver(&self, gateway: &Gateway) -> bool {
        let unit = gateway.cohort.unit(0);
        let has_lease = self.defect == Defect::Lease || self.now < gateway.board.lease_until(QUEUE);
        unit.is_open() && !unit.queue.is_empty() && has_lease
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Store(place) => self.store(place),
            Action::Deliver(place) => self.deliver(place),
            Action::Turn(_) => {}
            Action::Answer(place, member) => self.answer(place, member),
            Action::Register(place) => self.ask_register(place, false),
            Action::Lose(place) => self.ask_register(place, true),
            Action::Cut(place, member) => {
                self.left.cuts -= 1;
                self.link_down(place, member);
            }
            Action::Mend(place, member) => self.link_up(place, member),
            Action::Restart(member) => self.restart(member),
            Action::Crash => {
                self.left.crashes -= 1;
                self.gateways[0] = None;
            }
            Action::Start => {
                self.left.starts -= 1;
                self.start(1);
            }
            Action::Pass => {
                self.left.passes -= 1;
                self.now += STEP;
            }
        }
        match action {
            Action::Store(place)
            | Action::Deliver(place)
            | Action::Turn(place)
            | Action::Answer(place, _)
            | Action::Register(place)
            | Action::Lose(place)
            | Action::Cut(place, _)
            | Action::Mend(place, _) => self.turn(place),
            Action::Restart(_) | Action::Crash | Action::Start | Action::Pass => {}
        }
    }

    fn store(&mut self, place: usize) {
        self.left.stores -= 1;
        self.serial += 1;
        let serial = self.serial;
        let Some(Gateway { cohort, stored, .. }) = &mut self.gateways[place] else { return };
        let ticket = Ticket { front: 0, serial };
        let id = cohort.unit_mut(0).queue.store(ticket, message(serial));
        cohort.touch(0);
        stored.insert(id, serial);
    }

    fn deliver(&mut self, place: usize) {
        let Some(Gateway { cohort, .. }) = &mut self.gateways[place] else { return };
        let queue = &mut cohort.unit_mut(0).queue;
        let Some(attempt) = queue.next_attempt(0) else { return };
        self.left.deliveries -= 1;
        queue.settle(attempt.id);
        cohort.touch(0);
        let serial = serial_of(&attempt.message.content);
        self.expect_owner(place, "delivers");
        assert!(!self.gone.contains(&serial), "I4: a mail that was deleted came back");
        self.owed.remove(&serial);
        *self.delivered.entry(serial).or_default() += 1;
    }

    fn answer(&mut self, place: usize, member: usize) {
        let now = self.now;
        let count = match &mut self.gateways[place] {
            Some(gateway) => gateway.ports[member].requests.len(),
            None => return,
        };
        for _ in 0..count {
            let Some(Gateway { ports, .. }) = &mut self.gateways[place] else { return };
            let Some(request) = ports[member].requests.pop_front() else { break };
            self.serve(place, member, request);
        }
        let Some(Gateway { ports, .. }) = &mut self.gateways[place] else { return };
        let port = &mut ports[member];
        port.answered_since = port.answered_since.max(Some(port.asked_at));
        port.asked_at = now;
    }

    fn serve(&mut self, place: usize, member: usize, request: Request) {
        let (epoch, before) = self.heard[member];
        let server = &mut self.servers[member];
        server.owner_idle = Some(Some(self.now.saturating_since(before)));
        let seals = matches!(request.ask, Ask::Attach { .. }) && request.epoch > epoch;
        if request.epoch >= epoch {
            self.heard[member] = (request.epoch, self.now);
        }
        let queue = request.queue;
        let answers = server.answer(request);
        if self.defect == Defect::Forget {
            server.queues.values_mut().for_each(|queue| queue.messages.clear());
        }
        if seals {
            // The server ends the connections of whom it has just fenced.
            self.link_down(1 - place, member);
        }
        for answer in answers {
            self.note_stored(member);
            let Some(Gateway { cohort, ports, board, .. }) = &mut self.gateways[place] else {
                return;
            };
            if ports[member].is_up {
                let reply = Reply { queue, answer };
                cohort.handle_reply(self.now, member, queue.0 as usize, reply, ports, board);
            }
        }
    }

    /// I3: what only grows.
    fn note_stored(&mut self, member: usize) {
        let server = &self.servers[member];
        let Some(queue) = server.queues.get("gw/q0") else { return };
        let now = (server.life, queue.epoch, queue.transaction);
        let before = std::mem::replace(&mut self.numbers[member], now);
        let is_filled_anew = queue.transaction == Transaction(0) || queue.epoch > before.1;
        assert!(before <= now || is_filled_anew, "I3: {before:?} became {now:?}");
    }

    fn ask_register(&mut self, place: usize, is_lost: bool) {
        let Some(gateway) = &mut self.gateways[place] else { return };
        let Some(call) = gateway.asked.take() else { return };
        let answer = match call {
            RegisterCall::Read => RegisterAnswer::Read(self.record.clone()),
            RegisterCall::Swap(record) => self.swap(record),
        };
        if is_lost {
            self.left.losses -= 1;
        }
        let answer = if is_lost { RegisterAnswer::Failed("lost".into()) } else { answer };
        let now = self.now;
        let Some(Gateway { cohort, ports, .. }) = &mut self.gateways[place] else { return };
        cohort.handle_register(now, answer, ports);
    }

    fn swap(&mut self, record: Record) -> RegisterAnswer {
        if self.record.as_ref() == Some(&record) {
            return RegisterAnswer::Swapped;
        }
        let version = self.record.as_ref().map_or(0, |record| record.version);
        if record.version != version + 1 && self.defect != Defect::Versions {
            return RegisterAnswer::Conflict;
        }
        let epoch = self.record.as_ref().map_or(Epoch(0), |record| record.epoch);
        assert!(epoch <= record.epoch, "I3: the epoch went back");
        self.version = record.version;
        self.record = Some(record);
        RegisterAnswer::Swapped
    }

    fn restart(&mut self, member: usize) {
        self.left.restarts -= 1;
        self.servers[member].restart();
        self.heard[member] = (Epoch(0), self.now);
        self.numbers[member] = (self.servers[member].life, Epoch(0), Transaction(0));
        (0..2).for_each(|place| self.link_down(place, member));
    }

    fn turn(&mut self, place: usize) {
        let now = self.now;
        let Some(gateway) = &mut self.gateways[place] else { return };
        gateway.turn_at = now;
        let Gateway { cohort, ports, board, .. } = gateway;
        cohort.maintain(now, ports, board);
        if gateway.asked.is_none() {
            gateway.asked = gateway.cohort.poll_register();
        }
        self.take_events(place);
    }

    fn take_events(&mut self, place: usize) {
        loop {
            let Some(gateway) = &mut self.gateways[place] else { return };
            match gateway.cohort.poll_event() {
                None => break,
                Some(CohortEvent::Opened(_)) => {}
                Some(CohortEvent::Committed { id, .. }) => {
                    gateway.cohort.unit_mut(0).queue.release(id);
                    let serial = gateway.stored.remove(&id).expect("committed once");
                    self.owed.insert(serial);
                    self.expect_owner(place, "commits");
                }
                Some(CohortEvent::Fatal(why)) => {
                    let expected = ["another gateway", "has an owner of epoch"];
                    let is_expected = expected.iter().any(|text| why.contains(text));
                    assert!(is_expected || self.defect != Defect::None, "{why}");
                    self.gateways[place] = None;
                }
            }
        }
    }

    /// I2: whoever acts is the owner, or has a lease that its successor waits for.
    fn expect_owner(&self, place: usize, acts: &str) {
        let other = self.gateways[1 - place].as_ref();
        let serves = other.is_some_and(|it| it.cohort.phase == Phase::Serving);
        let epoch = |place: usize| self.gateway(place).cohort.epoch;
        if serves && epoch(1 - place) > epoch(place) {
            panic!("I2: gateway {place} {acts} although the other one serves");
        }
    }

    fn is_whole(&self, member: usize) -> bool {
        let life = Incarnation(self.servers[member].life);
        let record = self.record.as_ref();
        record.is_some_and(|it| it.incarnation_of(SERVER_NAMES[member]) == Some(life))
    }

    /// What must hold in every state.
    fn check(&self) {
        for member in (0..SERVERS).filter(|member| self.is_whole(*member)) {
            for serial in &self.owed {
                assert!(
                    self.contents(member).contains(serial),
                    "I1: mail {serial} is not at {member}"
                );
            }
        }
        self.check_histories();
        for gateway in self.gateways.iter().flatten() {
            let accepts = gateway.cohort.is_accepting(0);
            let counting = gateway.cohort.in_set().count();
            assert!(!accepts || counting > 0, "I7: a queue accepts that no copy counts for");
        }
    }

    /// I3: equal numbers mean equal histories.
    fn check_histories(&self) {
        let history = |member: usize| {
            let queue = self.servers[member].queues.get("gw/q0")?;
            Some((queue.epoch, queue.transaction, queue.hash, queue.content()))
        };
        let whole = (0..SERVERS).filter(|member| self.is_whole(*member)).filter_map(history);
        let mut seen: BTreeMap<(Epoch, Transaction), (ChainHash, _)> = BTreeMap::new();
        for (epoch, transaction, hash, content) in whole {
            let there = *seen.entry((epoch, transaction)).or_insert((hash, content));
            assert_eq!(there, (hash, content), "I3: two histories at {transaction:?}");
        }
    }

    fn contents(&self, member: usize) -> BTreeSet<u64> {
        let queue = self.servers[member].queues.get("gw/q0");
        let messages = queue.into_iter().flat_map(|queue| queue.messages.values());
        messages.map(|(body, _, _)| serial_of(body.whole().1)).collect()
    }

    /// Equal for states in which the same can happen.
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let State { gateways, record, now, left, serial, owed, gone, .. } = self;
        format!("{gateways:?} {record:?} {now:?} {serial} {owed:?} {gone:?}").hash(&mut hasher);
        left.hash(&mut hasher);
        for (member, server) in self.servers.iter().enumerate() {
            (server.life, format!("{:?}", self.heard[member])).hash(&mut hasher);
            for (name, queue) in &server.queues {
                let numbers =
                    format!("{:?} {:?} {:?}", queue.epoch, queue.sequence, queue.numbers());
                (name, numbers, queue.last_id.0).hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

fn serial_of(content: &[u8]) -> u64 {
    let text = std::str::from_utf8(content).expect("our own");
    text.strip_prefix("message ").expect("our own").parse().expect("our own")
}

/// Names the actions that led to a failure.
struct Trail<'a>(&'a [Action]);

impl Drop for Trail<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {:?}", self.0);
        }
    }
}

/// Goes through all orders of so many actions behind those; returns how many states there are.
fn explore(begin: &[Action], budget: &Budget, depth: usize, defect: Defect) -> usize {
    let mut seen = HashSet::new();
    let first = replay(begin, budget, defect).actions();
    let mut level = vec![(begin.to_vec(), first)];
    for _ in 0..depth {
        let mut next = Vec::new();
        for (path, actions) in level {
            for action in actions {
                let longer = path.iter().copied().chain([action]).collect::<Vec<_>>();
                let state = replay(&longer, budget, defect);
                if seen.insert(state.digest()) {
                    next.push((longer, state.actions()));
                }
            }
        }
        level = next;
    }
    seen.len()
}

fn replay(path: &[Action], budget: &Budget, defect: Defect) -> State {
    let trail = Trail(path);
    let mut state = State::new(budget.clone(), defect);
    for action in path {
        state.perform(*action);
        state.check();
    }
    drop(trail);
    state
}

/// Nothing but a mail that is stored and delivered.
const WORK: Budget = Budget {
    stores: 1,
    deliveries: 1,
    losses: 0,
    cuts: 0,
    restarts: 0,
    crashes: 0,
    starts: 0,
    passes: 0,
};

/// A second gateway starts while the first one goes on, or stands still.
const TAKE_OVER: Budget = Budget { starts: 1, passes: 2, ..WORK };
/// The first one dies, and so may a server.
const SUCCESSION: Budget = Budget { crashes: 1, starts: 1, restarts: 1, ..WORK };
/// Links end, calls are lost, a server dies.
const FAULTS: Budget = Budget { stores: 2, losses: 1, cuts: 1, restarts: 1, passes: 2, ..WORK };

/// A mail is committed, and the second gateway has announced that it takes the queues.
const ANNOUNCED: [Action; 6] = [
    Action::Store(0),
    Action::Answer(0, 0),
    Action::Answer(0, 1),
    Action::Start,
    Action::Register(1),
    Action::Register(1),
];

/// What it begins with, and how many actions it goes from there; more of them by `MODEL_MORE`.
const PLACES: [(&str, &[Action], Budget, usize); 4] = [
    ("take-over", &[], TAKE_OVER, 9),
    ("take-over, once announced", &ANNOUNCED, TAKE_OVER, 9),
    ("succession", &[], SUCCESSION, 10),
    ("faults", &[], FAULTS, 7),
];

#[test]
fn in_every_order_of_events_what_is_committed_is_kept_and_one_owner_acts() {
    let more = std::env::var("MODEL_MORE").ok().and_then(|it| it.parse::<usize>().ok());
    for (name, begin, budget, depth) in PLACES {
        let depth = depth + more.unwrap_or(0);
        let began = std::time::Instant::now();
        let states = explore(begin, &budget, depth, Defect::None);
        eprintln!("{name}: {states} states, {depth} actions deep, {:?}", began.elapsed());
        assert!(states > 1000, "{name}: {states}");
    }
}

#[test]
#[should_panic = "I2: gateway 0 delivers although the other one serves"]
fn a_gateway_that_does_not_look_at_its_lease_is_found() {
    explore(&ANNOUNCED, &TAKE_OVER, 9, Defect::Lease);
}

#[test]
#[should_panic = "I3: the epoch went back"]
fn a_register_that_ignores_versions_is_found() {
    let begin = [&ANNOUNCED[..], &[Action::Restart(1), Action::Mend(0, 1)]].concat();
    explore(&begin, &Budget { restarts: 1, ..TAKE_OVER }, 4, Defect::Versions);
}

#[test]
#[should_panic = "I1: mail 1 is not at 0"]
fn a_server_that_forgets_what_it_has_acknowledged_is_found() {
    explore(&[], &WORK, 4, Defect::Forget);
}

//! What happens in the simulated network, in the order of time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::connection::{Connection, End, EndState, Item, Side, Way};
use super::ethernet::Ethernet;
use super::options::{SimAttempts, SimOptions, SimPath, SimStatistics, SimTapped};
use super::trace::Trace;
use crate::table::Table;
use crate::time::Instant;
use crate::transport::{CloseReason, ConnectionId, Event, ListenerId};

/// The whole network: hosts, transports, connections and the coming events.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) now: Instant,
    pub(super) rng: fastrand::Rng,
    pub(super) options: SimOptions,
    pub(super) trace: Trace,
    pub(super) statistics: SimStatistics,
    /// Ordered by time, then by the order in which they were scheduled.
    coming: BinaryHeap<Reverse<(Instant, u64, Due)>>,
    scheduled: u64,
    pub(super) hosts: Vec<Host>,
    pub(super) host_of: BTreeMap<IpAddr, usize>,
    pub(super) transports: Vec<TransportState>,
    pub(super) connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// Ways (from, to) on which nothing arrives.
    pub(super) blocked: BTreeSet<(IpAddr, IpAddr)>,
    /// Ways that are slower or faster than the rest.
    pub(super) paths: BTreeMap<(IpAddr, IpAddr), SimPath>,
    /// What becomes of attempts to connect that begin now.
    pub(super) attempts: SimAttempts,
    /// Hosts that are listened to, each at the connections from and to a port.
    pub(super) taps: BTreeSet<(usize, u16)>,
    /// What they have sent and taken since that was last asked for.
    pub(super) tapped: Vec<SimTapped>,
    pub(super) ethernet: Ethernet,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) up: bool,
    /// Suspended: its kernel takes nothing in.
    pub(super) frozen: bool,
    /// The next port for `connect` and for port 0.
    pub(super) next_port: u16,
}

/// What a host keeps for one transport.
#[derive(Debug)]
pub(super) struct TransportState {
    pub(super) host: usize,
    /// Neither dropped nor crashed.
    pub(super) alive: bool,
    pub(super) connections: Table<Place>,
    pub(super) listeners: Table<SocketAddr>,
    pub(super) events: VecDeque<Event>,
    /// Connections that may have input.
    pub(super) ready: BTreeSet<ConnectionId>,
}

/// What a name stands for.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) connection: u64,
    pub(super) side: Side,
    /// It is over; the `Closed` event was not yet handed out.
    pub(super) dead: bool,
    /// A `Readable` is among the events.
    pub(super) announced: bool,
}

/// Something that will happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Due {
    /// The first item of a way may arrive.
    Way { connection: u64, from: Side },
    /// A time-out may be over.
    Timer { connection: u64, side: Side },
    /// There is room again after a short send that the seed asked for.
    Room { connection: u64, side: Side },
    /// A packet arrives.
    Packet { flight: u64 },
}

impl Engine {
    pub(super) fn new(seed: u64, options: SimOptions) -> Engine {
        assert!(options.window_bytes > 0 && options.piece_bytes_max > 0);
        Engine {
            now: Instant::ZERO,
            rng: fastrand::Rng::with_seed(seed),
            options,
            trace: Trace::new(seed),
            statistics: SimStatistics::default(),
            coming: BinaryHeap::new(),
            scheduled: 0,
            hosts: Vec::new(),
            host_of: BTreeMap::new(),
            transports: Vec::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            blocked: BTreeSet::new(),
            paths: BTreeMap::new(),
            attempts: SimAttempts::default(),
            taps: BTreeSet::new(),
            tapped: Vec::new(),
            ethernet: Ethernet::default(),
        }
    }

    pub(super) fn next_event_at(&self) -> Option<Instant> {
        self.coming.peek().map(|Reverse((at, _, _))| *at)
    }

    pub(super) fn advance(&mut self, to: Instant) {
        assert!(to >= self.now, "time does not go back");
        while let Some(&Reverse((at, _, due))) = self.coming.peek() {
            if at > to {
                break;
            }
            self.coming.pop();
            self.now = at;
            let id = match due {
                Due::Way { connection, from } => {
                    self.run_way(connection, from);
                    connection
                }
                Due::Timer { connection, side } => {
                    self.check_timer(connection, side);
                    connection
                }
                Due::Room { connection, side } => {
                    self.give_room(connection, side);
                    connection
                }
                Due::Packet { flight } => {
                    self.land(flight);
                    continue;
                }
            };
            self.forget_if_over(id);
        }
        self.now = to;
    }

    /// A new connection, with its attempt on the way.
    pub(super) fn connect(&mut self, addresses: [SocketAddr; 2], client: EndState) -> u64 {
        let id = self.next_connection;
        self.next_connection += 1;
        let ends = [End::new(client), End::new(EndState::Absent)];
        let ways = [Way::default(), Way::default()];
        let lost = self.chance(self.attempts.lost_ppm);
        self.statistics.lost += u64::from(lost);
        self.connections.insert(id, Connection { addresses, ends, ways, lost });
        let late = self.draw_lateness();
        self.push_after(id, 0, Item::Syn, late);
        self.connections.get_mut(&id).expect("just made").ends[0].progress_at = self.now;
        self.arm_timer(id, 0, self.now + self.options.connect_timeout);
        id
    }

    /// By how much an attempt to connect, or the answer to one, comes late.
    pub(super) fn draw_lateness(&mut self) -> Duration {
        if !self.chance(self.attempts.late_ppm) {
            return Duration::ZERO;
        }
        self.statistics.late += 1;
        draw(&mut self.rng, self.attempts.late_max)
    }

    /// Sends something on its way.
    pub(super) fn push(&mut self, id: u64, from: Side, item: Item) {
        self.push_after(id, from, item, Duration::ZERO);
    }

    /// Sends something on its way, which takes so much longer than usual.
    fn push_after(&mut self, id: u64, from: Side, item: Item, late: Duration) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let route = (connection.addresses[from].ip(), connection.addresses[1 - from].ip());
        let path = self.paths.get(&route).copied().unwrap_or(self.options.path);
        let delay = path.delay + draw(&mut self.rng, path.jitter) + TICK + late;
        let way = &mut connection.ways[from];
        let due = way.last_due.max(self.now + delay);
        way.last_due = due;
        way.items.push_back((due, item));
        self.schedule(due, Due::Way { connection: id, from });
    }

    /// Notes what a program sends or takes, if somebody listens.
    pub(super) fn note_tapped(&mut self, id: u64, side: Side, is_sent: bool, bytes: &[u8]) {
        if self.taps.is_empty() || bytes.is_empty() {
            return;
        }
        let Some(connection) = self.connections.get(&id) else { return };
        let (local, remote) = (connection.addresses[side], connection.addresses[1 - side]);
        let host = self.host_of[&local.ip()];
        if [local, remote].iter().any(|it| self.taps.contains(&(host, it.port()))) {
            let bytes = bytes.to_vec();
            self.tapped.push(SimTapped { at: self.now, local, remote, is_sent, bytes });
        }
    }

    /// Sends bytes, cut at drawn places.
    pub(super) fn push_bytes(&mut self, id: u64, from: Side, mut bytes: Vec<u8>) {
        self.note_tapped(id, from, true, &bytes);
        self.expect_acknowledgement(id, from, bytes.len());
        while !bytes.is_empty() {
            let mut length = bytes.len().min(self.options.piece_bytes_max);
            if length > 1 && self.chance(self.options.split_ppm) {
                length = self.rng.usize(1..length);
            }
            let rest = bytes.split_off(length);
            self.push(id, from, Item::Piece(bytes));
            bytes = rest;
        }
    }

    /// Sends the end of the stream.
    pub(super) fn push_end(&mut self, id: u64, from: Side) {
        self.expect_acknowledgement(id, from, 1);
        self.push(id, from, Item::End);
    }

    /// After a drawn short send: room again, soon.
    pub(super) fn schedule_room(&mut self, id: u64, side: Side) {
        let at = self.now + TICK + draw(&mut self.rng, self.options.path.delay);
        self.schedule(at, Due::Room { connection: id, side });
    }

    pub(super) fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.rng.u32(0..1_000_000) < ppm
    }

    /// The connection is over for the program at this end, not by a call of its own.
    pub(super) fn bury(&mut self, id: u64, side: Side, reason: CloseReason) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let state = connection.ends[side].state;
        connection.ends[side] = End::new(EndState::Vanished);
        // Nobody repeats what was on its way; what has left already arrives.
        if connection.ways[side].stalled {
            connection.ways[side] = Way::default();
        }
        if let EndState::Named { transport, name } = state {
            let transport = &mut self.transports[transport];
            if let Some(place) = transport.connections.get_mut(name.into()) {
                place.dead = true;
                transport.events.push_back(Event::Closed { connection: name, reason });
            }
        }
        match reason {
            CloseReason::Reset => self.statistics.resets += 1,
            CloseReason::TimedOut => self.statistics.timeouts += 1,
            CloseReason::Refused => self.statistics.refused += 1,
            CloseReason::LocalError => {}
        }
    }

    /// Removes a connection of which nothing is left.
    pub(super) fn forget_if_over(&mut self, id: u64) {
        if self.connections.get(&id).is_some_and(Connection::is_over) {
            self.connections.remove(&id);
        }
    }

    /// After the end of a fault: what could not arrive is sent again, after a while.
    pub(super) fn resume_stalled(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            for from in [0, 1] {
                let addresses = self.connections[&id].addresses;
                let route = (addresses[from].ip(), addresses[1 - from].ip());
                if !self.connections[&id].ways[from].stalled || self.is_blocked(route) {
                    continue;
                }
                let again = self.now + TICK + draw(&mut self.rng, self.options.retransmit_max);
                let connection = self.connections.get_mut(&id).expect("its key was listed");
                let way = &mut connection.ways[from];
                way.stalled = false;
                way.last_due = way.last_due.max(again);
                for (due, _) in &mut way.items {
                    *due = again.max(*due);
                }
                self.schedule(again, Due::Way { connection: id, from });
            }
        }
    }

    pub(super) fn schedule(&mut self, at: Instant, due: Due) {
        self.coming.push(Reverse((at, self.scheduled, due)));
        self.scheduled += 1;
    }

    pub(super) fn is_blocked(&self, route: (IpAddr, IpAddr)) -> bool {
        let up = self.host_of.get(&route.1).is_some_and(|&host| {
            let Host { up, frozen, .. } = self.hosts[host];
            up && !frozen
        });
        !up || self.blocked.contains(&route)
    }

    /// Lets arrive what is due on one way.
    fn run_way(&mut self, id: u64, from: Side) {
        while let Some(connection) = self.connections.get_mut(&id) {
            let route = (connection.addresses[from].ip(), connection.addresses[1 - from].ip());
            if connection.lost {
                connection.ways[from].items.clear();
                return;
            }
            let way = &connection.ways[from];
            let due = way.items.front().is_some_and(|&(due, _)| due <= self.now);
            if way.stalled || !due {
                return;
            }
            if self.is_blocked(route) {
                self.stall(id, from);
                return;
            }
            let connection = self.connections.get_mut(&id).expect("found above");
            let (_, item) = connection.ways[from].items.pop_front().expect("one is due");
            self.arrive(id, from, item);
        }
    }

    fn stall(&mut self, id: u64, from: Side) {
        self.statistics.stalls += 1;
        let connection = self.connections.get_mut(&id).expect("the caller has it");
        if connection.ends[from].state == EndState::Vanished {
            connection.ways[from] = Way::default();
        } else {
            connection.ways[from].stalled = true;
        }
    }

    fn arrive(&mut self, id: u64, from: Side, item: Item) {
        let to = 1 - from;
        self.record(id, from, &item);
        match self.connections[&id].ends[to].state {
            EndState::Absent => self.arrive_first(id, item),
            EndState::Vanished => {
                if !matches!(item, Item::Reset | Item::Refuse) {
                    self.push(id, to, Item::Reset);
                }
            }
            EndState::Orphan { since } => self.arrive_at_orphan(id, to, since, item),
            EndState::Named { transport, name } => {
                self.arrive_at_named(id, to, transport, name, item);
            }
        }
    }

    /// The attempt to connect comes to a host that is up.
    fn arrive_first(&mut self, id: u64, item: Item) {
        if !matches!(item, Item::Syn) {
            // The attempt never came through, and the reset of a client that gave it up did.
            assert!(matches!(item, Item::Reset), "nothing else overtakes the attempt to connect");
            return;
        }
        let [peer, local] = self.connections[&id].addresses;
        let Some((index, listener)) = self.listener_at(local) else {
            let connection = self.connections.get_mut(&id).expect("the caller has it");
            connection.ends[1].state = EndState::Vanished;
            self.push(id, 1, Item::Refuse);
            return;
        };
        let transport = &mut self.transports[index];
        let place = Place { connection: id, side: 1, dead: false, announced: false };
        let Some(key) = transport.connections.insert(place) else {
            // No room: the attempt is repeated, as it would be against a full backlog.
            let again = self.now + self.options.retransmit_max + TICK;
            let connection = self.connections.get_mut(&id).expect("the caller has it");
            connection.ways[0].items.push_front((again, Item::Syn));
            connection.ways[0].last_due = connection.ways[0].last_due.max(again);
            self.schedule(again, Due::Way { connection: id, from: 0 });
            return;
        };
        let name = ConnectionId::from(key);
        transport.events.push_back(Event::Accepted { listener, connection: name, peer });
        self.statistics.accepted += 1;
        let connection = self.connections.get_mut(&id).expect("the caller has it");
        connection.ends[1] = End::new(EndState::Named { transport: index, name });
        connection.ends[1].connecting = false;
        let late = self.draw_lateness();
        self.push_after(id, 1, Item::SynAck, late);
    }

    fn arrive_at_orphan(&mut self, id: u64, side: Side, since: Instant, item: Item) {
        match item {
            Item::Piece(_) if self.now > since + self.options.linger_time => {
                self.bury(id, side, CloseReason::Reset);
                self.push(id, side, Item::Reset);
            }
            Item::Piece(bytes) => {
                self.acknowledge(id, side, bytes.len());
                self.push(id, side, Item::Window(bytes.len()));
            }
            Item::End => self.acknowledge(id, side, 1),
            Item::Ack(count) => self.handle_ack(id, side, count),
            Item::Reset => self.bury(id, side, CloseReason::Reset),
            Item::Refuse => self.bury(id, side, CloseReason::Refused),
            Item::SynAck => {
                self.connections.get_mut(&id).expect("the caller has it").ends[side].connecting =
                    false;
            }
            Item::Syn | Item::Window(_) => {}
        }
    }

    fn arrive_at_named(
        &mut self,
        id: u64,
        side: Side,
        transport: usize,
        name: ConnectionId,
        item: Item,
    ) {
        if matches!(item, Item::Piece(_)) && self.chance(self.options.reset_ppm) {
            self.bury(id, side, CloseReason::Reset);
            self.push(id, side, Item::Reset);
            return;
        }
        let join = matches!(item, Item::Piece(_)) && self.chance(self.options.join_ppm);
        let connection = self.connections.get_mut(&id).expect("the caller has it");
        let end = &mut connection.ends[side];
        match item {
            Item::SynAck => {
                end.connecting = false;
                let events = &mut self.transports[transport].events;
                events.push_back(Event::Connected(name));
                self.give_room(id, side);
            }
            Item::Piece(bytes) => {
                let count = bytes.len();
                end.store(bytes, join);
                self.transports[transport].ready.insert(name);
                self.acknowledge(id, side, count);
            }
            Item::End => {
                end.end_received = true;
                self.transports[transport].ready.insert(name);
                self.acknowledge(id, side, 1);
            }
            Item::Ack(count) => self.handle_ack(id, side, count),
            Item::Window(count) => {
                end.outstanding -= count;
                if end.outstanding <= self.options.window_bytes / 3 * 2 {
                    self.give_room(id, side);
                }
            }
            Item::Reset => self.bury(id, side, CloseReason::Reset),
            Item::Refuse => self.bury(id, side, CloseReason::Refused),
            Item::Syn => unreachable!("an attempt comes first"),
        }
    }

    /// `Writable`, if the program awaits it and may send.
    fn give_room(&mut self, id: u64, side: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let end = &mut connection.ends[side];
        let has_room = !end.connecting && end.outstanding < self.options.window_bytes;
        if let EndState::Named { transport, name } = end.state
            && end.awaits_room
            && has_room
        {
            end.awaits_room = false;
            self.transports[transport].events.push_back(Event::Writable(name));
        }
    }

    /// Without a user time-out nobody asks what has arrived.
    fn acknowledge(&mut self, id: u64, side: Side, count: usize) {
        if self.options.user_timeout.is_some() {
            self.push(id, side, Item::Ack(count));
        }
    }

    fn expect_acknowledgement(&mut self, id: u64, side: Side, count: usize) {
        let Some(timeout) = self.options.user_timeout else { return };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let end = &mut connection.ends[side];
        if end.unacknowledged == 0 {
            end.progress_at = self.now;
        }
        end.unacknowledged += count;
        self.arm_timer(id, side, self.now + timeout);
    }

    fn handle_ack(&mut self, id: u64, side: Side, count: usize) {
        let connection = self.connections.get_mut(&id).expect("the caller has it");
        let end = &mut connection.ends[side];
        end.unacknowledged -= count;
        end.progress_at = self.now;
    }

    fn arm_timer(&mut self, id: u64, side: Side, at: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let end = &mut connection.ends[side];
        if end.timer_at.is_none_or(|armed| at < armed) {
            end.timer_at = Some(at);
            self.schedule(at, Due::Timer { connection: id, side });
        }
    }

    fn check_timer(&mut self, id: u64, side: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let end = &mut connection.ends[side];
        if end.timer_at != Some(self.now) {
            return;
        }
        end.timer_at = None;
        let limit = if end.connecting && side == 0 {
            self.options.connect_timeout
        } else if end.unacknowledged > 0
            && let Some(timeout) = self.options.user_timeout
        {
            timeout
        } else {
            return;
        };
        let over = end.progress_at + limit;
        if over > self.now {
            self.arm_timer(id, side, over);
        } else {
            self.trace.record(TIMEOUT_CODE);
            self.bury(id, side, CloseReason::TimedOut);
        }
    }

    fn listener_at(&self, address: SocketAddr) -> Option<(usize, ListenerId)> {
        let host = *self.host_of.get(&address.ip())?;
        self.transports.iter().enumerate().find_map(|(index, transport)| {
            if transport.host != host || !transport.alive {
                return None;
            }
            let found = transport.listeners.entries().find(|(_, at)| overlap(**at, address))?;
            Some((index, found.0.into()))
        })
    }

    fn record(&mut self, id: u64, from: Side, item: &Item) {
        self.trace.record(self.now.as_nanos());
        self.trace.record(id << 1 | u64::from(from == 1));
        self.trace.record(item.code());
        if let Item::Piece(bytes) = item {
            self.trace.record_bytes(bytes);
            self.statistics.pieces += 1;
            self.statistics.bytes += u64::try_from(bytes.len()).expect("64 bits");
        }
    }
}

/// Whether two listeners at these addresses would be in each other's way, or a connection to one
/// reaches the other.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && (a.ip() == b.ip() || (any && a.is_ipv4() == b.is_ipv4()))
}

pub(super) fn draw(rng: &mut fastrand::Rng, up_to: Duration) -> Duration {
    let nanos = u64::try_from(up_to.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.u64(0..=nanos))
}

/// Nothing happens in no time.
pub(super) const TICK: Duration = Duration::from_nanos(1);

/// A time-out, in the trace.
const TIMEOUT_CODE: u64 = 9;

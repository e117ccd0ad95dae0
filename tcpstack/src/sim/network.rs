//! The handle of the simulated network, and the faults that a simulator orders.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::rc::Rc;

use super::connection::{Connection, EndState, Item, Way};
use super::engine::{Engine, Host, TransportState};
use super::options::{SimAttempts, SimOptions, SimPath, SimStatistics, SimTapped};
use super::port::SimPort;
use super::transport::SimTransport;
use crate::table::Table;
use crate::time::Instant;
use crate::transport::CloseReason;

/// A network between simulated hosts. Clones are handles of the same network.
#[derive(Clone, Debug)]
pub struct SimNetwork {
    engine: Rc<RefCell<Engine>>,
}

impl SimNetwork {
    /// A network without hosts, at the time [`Instant::ZERO`].
    pub fn new(seed: u64, options: SimOptions) -> SimNetwork {
        SimNetwork { engine: Rc::new(RefCell::new(Engine::new(seed, options))) }
    }

    /// A transport on the host with this address, which is made if there is none.
    pub fn host(&self, address: IpAddr) -> SimTransport {
        self.host_with(&[address])
    }

    /// A transport on the host with these addresses. Several transports on one host share its
    /// addresses and ports, and its fate.
    ///
    /// Dropping the transport is what SIGKILL is to a process: the host's kernel closes its
    /// connections, and the peers see the end of the stream, or a reset where received bytes were
    /// never taken.
    ///
    /// # Panics
    /// If the addresses belong to different hosts, or the host is down.
    pub fn host_with(&self, addresses: &[IpAddr]) -> SimTransport {
        let mut engine = self.engine.borrow_mut();
        let host = engine.host_at(addresses);
        let index = engine.transports.len();
        let connections = Table::new(engine.options.connections_max);
        engine.transports.push(TransportState {
            host,
            alive: true,
            connections,
            listeners: Table::new(LISTENERS_MAX),
            events: VecDeque::new(),
            ready: BTreeSet::new(),
        });
        SimTransport::new(Rc::clone(&self.engine), index)
    }

    /// A port on the host with this address, which is made if there is none: packets for the address and these TCP
    /// ports come there. Where such ports overlap, the one that was attached first has them.
    ///
    /// Dropping the port is what SIGKILL is to a process with a userspace stack: nobody answers any more.
    ///
    /// # Panics
    /// If the host is down, or the address is not of IP version 4.
    pub fn attach(&self, address: IpAddr, tcp_ports: RangeInclusive<u16>) -> SimPort {
        let mut engine = self.engine.borrow_mut();
        let IpAddr::V4(_) = address else { panic!("packets are of IP version 4") };
        engine.host_at(&[address]);
        let number = engine.ethernet.attach(address, tcp_ports);
        SimPort::new(Rc::clone(&self.engine), number)
    }

    /// The time of the network.
    pub fn now(&self) -> Instant {
        self.engine.borrow().now
    }

    /// When something will happen in the network; `None`: nothing, unless a program does something.
    pub fn next_event_at(&self) -> Option<Instant> {
        self.engine.borrow().next_event_at()
    }

    /// Moves time, and lets happen what is due until then.
    ///
    /// # Panics
    /// If `to` is in the past.
    pub fn advance(&self, to: Instant) {
        self.engine.borrow_mut().advance(to);
    }

    /// The hash of everything that has arrived so far (time, connection, direction, kind, length,
    /// content), of time-outs and of ordered faults, in order.
    pub fn trace_hash(&self) -> u64 {
        self.engine.borrow().trace.hash()
    }

    /// From now on what the programs of the host with this address send and take is noted, on connections
    /// from and to that port. Whoever asks for this takes it soon: it grows without a bound.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn tap(&self, address: IpAddr, port: u16) {
        let mut engine = self.engine.borrow_mut();
        let host = engine.host_of[&address];
        engine.taps.insert((host, port));
    }

    /// What the hosts that are listened to have sent and taken since this was last asked, in order.
    pub fn take_tapped(&self) -> Vec<SimTapped> {
        std::mem::take(&mut self.engine.borrow_mut().tapped)
    }

    /// What has happened so far.
    pub fn statistics(&self) -> SimStatistics {
        self.engine.borrow().statistics
    }

    /// How many connections the network still knows, half-open ones and closed ones with bytes on
    /// the way included.
    pub fn connection_count(&self) -> usize {
        self.engine.borrow().connections.len()
    }

    /// From now on nothing gets from `from` to `to`. What is sent is repeated until the end of the
    /// partition, if the user time-out is not earlier.
    pub fn partition_one_way(&self, from: IpAddr, to: IpAddr) {
        let mut engine = self.engine.borrow_mut();
        engine.trace.record(FAULT_CODE);
        engine.blocked.insert((from, to));
    }

    /// From now on nothing gets from one to the other, both ways.
    pub fn partition(&self, a: IpAddr, b: IpAddr) {
        self.partition_one_way(a, b);
        self.partition_one_way(b, a);
    }

    /// Ends a partition between two addresses, both ways.
    pub fn heal(&self, a: IpAddr, b: IpAddr) {
        let mut engine = self.engine.borrow_mut();
        engine.trace.record(FAULT_CODE);
        engine.blocked.remove(&(a, b));
        engine.blocked.remove(&(b, a));
        engine.resume_stalled();
    }

    /// Ends all partitions.
    pub fn heal_all(&self) {
        let mut engine = self.engine.borrow_mut();
        engine.trace.record(FAULT_CODE);
        engine.blocked.clear();
        engine.resume_stalled();
    }

    /// Makes one direction between two addresses as slow or fast as `path` says; `None`: as the
    /// options say. Holds for what is sent from now on.
    pub fn set_path(&self, from: IpAddr, to: IpAddr, path: Option<SimPath>) {
        let mut engine = self.engine.borrow_mut();
        engine.trace.record(FAULT_CODE);
        match path {
            Some(path) => engine.paths.insert((from, to), path),
            None => engine.paths.remove(&(from, to)),
        };
    }

    /// Resets all connections between two addresses, at both ends and at once; how many there
    /// were. Connections over packets get forged resets.
    pub fn reset_connections(&self, a: IpAddr, b: IpAddr) -> usize {
        let mut engine = self.engine.borrow_mut();
        engine.trace.record(FAULT_CODE);
        let between = |connection: &Connection| {
            let [first, second] = connection.addresses.map(|address| address.ip());
            (first, second) == (a, b) || (second, first) == (a, b)
        };
        let ids: Vec<u64> = engine
            .connections
            .iter()
            .filter(|(_, connection)| between(connection))
            .map(|(&id, _)| id)
            .collect();
        for &id in &ids {
            for side in [0, 1] {
                engine.bury(id, side, CloseReason::Reset);
            }
            engine.connections.remove(&id);
        }
        ids.len() + engine.reset_flows(a, b)
    }

    /// Loses all connections between two addresses without notice: nothing arrives any more, and each end
    /// finds out when it has sent something for long enough, or never; how many there were.
    pub fn lose_connections(&self, a: IpAddr, b: IpAddr) -> usize {
        let mut engine = self.engine.borrow_mut();
        let engine = &mut *engine;
        engine.trace.record(FAULT_CODE);
        let mut count = 0;
        for connection in engine.connections.values_mut().filter(|it| !it.lost) {
            let [first, second] = connection.addresses.map(|address| address.ip());
            if (first, second) == (a, b) || (second, first) == (a, b) {
                connection.lost = true;
                connection.ways = [Way::default(), Way::default()];
                count += 1;
            }
        }
        engine.connections.retain(|_, connection| !connection.is_over());
        count += engine.ethernet.lose_flows(a, b);
        engine.statistics.lost += u64::try_from(count).expect("64 bits");
        count
    }

    /// From now on this becomes of attempts to connect.
    pub fn set_attempts(&self, attempts: SimAttempts) {
        let mut engine = self.engine.borrow_mut();
        engine.trace.record(FAULT_CODE);
        engine.attempts = attempts;
    }

    /// The host with this address is suspended, or wakes up: in between its kernel takes nothing in. (Its
    /// programs take no turns either, which is the simulator's business.)
    ///
    /// # Panics
    /// If there is no such host.
    pub fn set_frozen(&self, address: IpAddr, frozen: bool) {
        let mut engine = self.engine.borrow_mut();
        engine.trace.record(FAULT_CODE);
        let host = engine.host_of[&address];
        engine.hosts[host].frozen = frozen;
        engine.resume_stalled();
    }

    /// The host with this address stops without a word: its transports are dead (all names gone, no
    /// events, nothing can be opened), and what is sent to it gets nowhere. Its peers notice by
    /// their user time-out, or by a reset if they send after [`SimNetwork::restart_host`].
    ///
    /// # Panics
    /// If there is no such host.
    pub fn crash_host(&self, address: IpAddr) {
        let mut engine = self.engine.borrow_mut();
        let engine = &mut *engine;
        engine.trace.record(FAULT_CODE);
        let host = engine.host_of[&address];
        engine.hosts[host].up = false;
        for transport in engine.transports.iter_mut().filter(|transport| transport.host == host) {
            transport.kill();
        }
        for connection in engine.connections.values_mut() {
            for side in [0, 1] {
                let here = engine.hosts[host].addresses.contains(&connection.addresses[side].ip());
                if here && connection.ends[side].state != EndState::Absent {
                    connection.ends[side] = super::connection::End::new(EndState::Vanished);
                    if connection.ways[side].stalled {
                        connection.ways[side] = Way::default();
                    }
                }
            }
        }
        engine.connections.retain(|_, connection| !connection.is_over());
        engine.ethernet.crash(&engine.hosts[host].addresses);
    }

    /// The host is up again, with no memory of its connections; ask [`SimNetwork::host`] for a new
    /// transport.
    ///
    /// # Panics
    /// If there is no such host, or it is up.
    pub fn restart_host(&self, address: IpAddr) {
        let mut engine = self.engine.borrow_mut();
        engine.trace.record(FAULT_CODE);
        let host = engine.host_of[&address];
        assert!(!engine.hosts[host].up, "the host is up");
        engine.hosts[host].up = true;
        engine.hosts[host].frozen = false;
        engine.resume_stalled();
    }

    /// Whether the host with this address is up.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn is_up(&self, address: IpAddr) -> bool {
        let engine = self.engine.borrow();
        engine.hosts[engine.host_of[&address]].up
    }
}

impl TransportState {
    /// Forgets everything.
    pub(super) fn kill(&mut self) {
        self.alive = false;
        self.connections = Table::new(0);
        self.listeners = Table::new(0);
        self.events.clear();
        self.ready.clear();
    }
}

impl Engine {
    /// The host with these addresses, perhaps a new one.
    fn host_at(&mut self, addresses: &[IpAddr]) -> usize {
        let known: BTreeSet<usize> =
            addresses.iter().filter_map(|ip| self.host_of.get(ip)).copied().collect();
        assert!(known.len() <= 1, "the addresses belong to different hosts");
        let host = known.first().copied().unwrap_or(self.hosts.len());
        if host == self.hosts.len() {
            self.hosts.push(Host {
                addresses: Vec::new(),
                up: true,
                frozen: false,
                next_port: FIRST_PORT,
            });
        }
        assert!(self.hosts[host].up, "the host is down");
        for &address in addresses {
            if self.host_of.insert(address, host).is_none() {
                self.hosts[host].addresses.push(address);
            }
        }
        host
    }

    /// The process behind a transport ends; its host's kernel closes what it had.
    pub(super) fn end_process(&mut self, transport: usize) {
        let state = &mut self.transports[transport];
        let places: Vec<(u64, usize)> = state
            .connections
            .entries()
            .filter(|(_, place)| !place.dead)
            .map(|(_, place)| (place.connection, place.side))
            .collect();
        state.kill();
        for (id, side) in places {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let end = &mut connection.ends[side];
            if end.received.is_empty() {
                let finishing = end.finishing;
                end.state = EndState::Orphan { since: self.now };
                if !finishing {
                    end.finishing = true;
                    self.push_end(id, side);
                }
            } else {
                *end = super::connection::End::new(EndState::Vanished);
                self.push(id, side, Item::Reset);
            }
            self.forget_if_over(id);
        }
    }
}

/// The first of the ports that are given out (RFC 6335 section 6: dynamic ports).
pub(super) const FIRST_PORT: u16 = 49_152;

/// Listeners per transport. At the bound `listen` answers `TableFull`.
const LISTENERS_MAX: usize = 64;

/// A fault that was ordered, in the trace.
const FAULT_CODE: u64 = 10;

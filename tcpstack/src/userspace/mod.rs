//! TCP in this process: smoltcp over a [`Port`], which is a queue of a network card (AF_XDP) or a wire in
//! memory.
//!
//! Each peer has an interface and sockets of its own; packets are told apart by their source before smoltcp sees
//! them. Below it lost segments are found and sent again ([`recovery`]), and beside it those who have gone ([`knock`]).

mod connection;
mod device;
mod flows;
mod knock;
mod newcomers;
mod options;
mod orphan;
mod peer;
mod recovery;
mod segment;

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::time::Duration;

use dataplane::Port;
use smoltcp::phy::{Checksum, DeviceCapabilities, Medium, RxToken};
use smoltcp::socket::tcp::Socket;

use self::connection::{Connection, Finding};
use self::knock::Knock;
use self::orphan::Orphan;
use self::peer::Peer;
use self::segment::Segment;
use crate::kernel::sleep_until_readable;
use crate::table::{Key, Table};
use crate::time::Instant;
use crate::transport::{
    ConnectionId, Event, ListenerId, OpenError, RecvError, SendError, Transport,
};

pub use self::options::{UserspaceOptions, UserspaceStatistics};

/// A [`Transport`] over a [`Port`]. See the module.
pub struct UserspaceTransport<P> {
    port: P,
    /// What smoltcp is told of the port. Packets that come are verified before it sees them.
    capabilities: DeviceCapabilities,
    /// Whether that is asked for.
    verifies: bool,
    options: UserspaceOptions,
    /// Places stay; at most `peers_max`.
    peers: Vec<Peer>,
    connections: Table<Connection>,
    listeners: Table<SocketAddr>,
    /// Sockets that the caller has let go of. They end on their own, or at a time.
    orphans: Vec<Orphan>,
    /// At silent peers.
    knocks: Vec<Knock>,
    /// What `next_event` has to tell. At most three for each connection: a caller takes all of them in each turn.
    events: VecDeque<Event>,
    now: Instant,
    next_port: u16,
    /// The last flush could not send everything, for want of room below: another is due, soon.
    is_blocked: bool,
    /// When something was sent last, and how many packets had been sent by then.
    sent_at: Instant,
    sent: u64,
    /// Packets that have come since.
    gathered: usize,
    /// A program has said something since.
    has_said: bool,
    /// What is to be sent waits until then, at most.
    held_until: Option<Instant>,
    random: fastrand::Rng,
    statistics: UserspaceStatistics,
}

impl<P: Port> UserspaceTransport<P> {
    /// TCP over that port.
    ///
    /// # Panics
    /// If the port's packets do not begin with IP.
    pub fn new(port: P, options: UserspaceOptions) -> UserspaceTransport<P> {
        let mut random = fastrand::Rng::with_seed(options.seed);
        let next_port = random.u16(options.ports.clone());
        let mut capabilities = port.capabilities();
        assert_eq!(capabilities.medium, Medium::Ip, "the port sees to what is below IP");
        let tcp = &mut capabilities.checksum.tcp;
        let verifies = tcp.rx();
        *tcp = if tcp.tx() { Checksum::Tx } else { Checksum::None };
        UserspaceTransport {
            port,
            capabilities,
            verifies,
            peers: Vec::new(),
            connections: Table::new(options.connections_max),
            listeners: Table::new(options.listeners_max),
            orphans: Vec::new(),
            knocks: Vec::new(),
            events: VecDeque::new(),
            now: Instant::ZERO,
            next_port,
            is_blocked: false,
            sent_at: Instant::ZERO,
            sent: 0,
            gathered: 0,
            has_said: false,
            held_until: None,
            random,
            statistics: UserspaceStatistics::default(),
            options,
        }
    }

    /// The port below.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// What was counted so far.
    pub fn statistics(&self) -> UserspaceStatistics {
        let sent_again = self.peers.iter().map(Peer::sent_again).sum();
        UserspaceStatistics { sent_again, ..self.statistics }
    }

    /// Receives packets, a bounded number.
    fn receive(&mut self) {
        for _ in 0..self.options.packets_per_poll {
            let now = self.now;
            let Self { port, capabilities, peers, statistics, .. } = self;
            let verifies = self.verifies;
            let Some((packet, answer)) = port.receive(to_smoltcp(now)) else { break };
            statistics.received += 1;
            self.gathered += 1;
            let newcomer = packet.consume(|packet| {
                let Some(segment) = Segment::read(packet, verifies) else {
                    statistics.foreign += 1;
                    return None;
                };
                let Some(peer) = peers.iter_mut().find(|it| it.address == segment.source) else {
                    return Some((segment.source, packet.to_vec()));
                };
                if peer.is_backlog_full(&segment) {
                    statistics.backlog_full += 1;
                } else {
                    peer.handle_packet(now, packet, &segment, answer, capabilities);
                }
                None
            });
            if let Some((address, packet)) = newcomer {
                self.meet(address, &packet);
            }
        }
    }

    /// Notes which connections the stack has ended since the last turn: by its time-out, as nothing has been
    /// received since.
    fn note_time_outs(&mut self) {
        let Self { connections, peers, .. } = self;
        for (_, connection) in connections.entries_mut().filter(|(_, it)| !it.is_dead) {
            connection.note_time_out(peers[connection.peer].socket(connection.handle));
        }
    }

    /// Looks at every connection.
    fn inspect(&mut self) {
        let Self { connections, peers, events, orphans, now, .. } = self;
        for (key, connection) in connections.entries_mut() {
            if connection.is_dead {
                continue;
            }
            let id = ConnectionId::from(key);
            let peer = &mut peers[connection.peer];
            let socket = peer.socket(connection.handle);
            match connection.inspect(*now, id, socket) {
                Finding::Events(found) => events.extend(found.into_iter().flatten()),
                Finding::Over(reason) => {
                    socket.abort();
                    connection.is_dead = true;
                    orphans.push(Orphan::of(connection, *now));
                    events.push_back(Event::Closed { connection: id, reason });
                }
            }
        }
    }

    fn find(&mut self, id: ConnectionId) -> Option<(&mut Connection, &mut Socket<'static>)> {
        let connection = self.connections.get_mut(id.into()).filter(|it| !it.is_dead)?;
        let socket = self.peers[connection.peer].socket(connection.handle);
        Some((connection, socket))
    }

    /// Whether a connection has something for its program that was not taken.
    fn has_ready(&self) -> bool {
        self.connections.entries().any(|(_, connection)| {
            let socket = self.peers[connection.peer].sockets.get::<Socket>(connection.handle);
            !connection.is_dead && connection.is_ready(socket)
        })
    }

    /// Until when what is to be sent waits, if there is anything and it does, so that more of it leaves by one system call:
    /// acknowledgements alone; where there is more to receive already, so that the answer to that can go with it; and
    /// where we only ask, as long as something is asked. What was lost does not wait, nor do those who tell of that, nor
    /// whoever is let go of, as there may be no next turn.
    fn hold(&mut self) -> Option<Instant> {
        let (now, until) = (self.now, self.sent_at + GATHERED_FOR);
        let only_asks = || self.listeners.entries().next().is_none();
        let is_asking = || only_asks() && self.peers.iter().any(Peer::is_waiting);
        let may_wait = now < until
            && self.gathered < GATHERED_MAX
            && !self.is_blocked
            && self.orphans.is_empty()
            && (!self.has_said || self.port.has_received() || is_asking());
        // Packets that were sent in answer to others: these came out of order.
        let has_answered = || self.peers_sent() != self.sent;
        if !may_wait || has_answered() || self.peers.iter().any(|it| it.misses_something(now)) {
            return None;
        }
        let is_due = |peer: &mut Peer| peer.stack_due(now).is_some_and(|due| due <= now);
        (self.has_said || self.peers.iter_mut().any(is_due)).then_some(until)
    }

    /// Packets that were sent.
    fn peers_sent(&self) -> u64 {
        self.peers.iter().map(Peer::sent).sum()
    }

    /// Has everything leave that there is room for below.
    fn send_all(&mut self) {
        let now = self.now;
        // Answers to a poll's packets are sent by the stack without asking.
        let reserve = self.options.packets_per_poll;
        for peer in &mut self.peers {
            peer.send(now, &mut self.port, &self.capabilities, reserve);
        }
        self.port.flush();
        self.has_said = false;
        let sent = self.peers_sent();
        if sent != self.sent {
            (self.sent, self.sent_at, self.gathered) = (sent, now, 0);
        }
        let is_due = |peer: &Peer| peer.due.is_some_and(|due| due <= now);
        self.is_blocked = self.port.has_unsent()
            || (self.port.room() < reserve.saturating_mul(2) && self.peers.iter().any(is_due));
    }

    /// A port that no connection to that end uses.
    fn free_port(&mut self, remote: SocketAddr) -> Option<u16> {
        let ports = self.options.ports.clone();
        for _ in ports.clone() {
            let port = self.next_port;
            self.next_port = if port == *ports.end() { *ports.start() } else { port + 1 };
            let used = (port, remote.port());
            let is_theirs = |peer: usize| self.peers[peer].address == remote.ip();
            let mut open = self.connections.entries().map(|(_, it)| (it.peer, it.ports));
            let mut closing = self.orphans.iter().map(|it| (it.peer, it.ports.unwrap_or((0, 0))));
            let is_used = |(peer, ports): (usize, _)| ports == used && is_theirs(peer);
            let mut knocks = self.knocks.iter().map(|it| (it.peer, it.ports));
            if !open.any(is_used) && !closing.any(is_used) && !knocks.any(is_used) {
                return Some(port);
            }
        }
        None
    }

    fn next_stack_deadline(&self) -> Option<Instant> {
        let connecting = self.connections.entries().filter_map(|(_, it)| it.deadline()).min();
        let closing = self.orphans.iter().map(|it| it.expires_at).min();
        let knocks = self.knock_deadline();
        let peers = self.peers.iter().filter_map(|peer| peer.due).min();
        if self.held_until.is_some() {
            return [connecting, closing, knocks, self.held_until].into_iter().flatten().min();
        }
        if self.is_blocked {
            // Sooner would be in vain: what is below has to get rid of something first.
            let again = self.now + BLOCKED_PAUSE;
            return [connecting, closing, knocks, Some(again)].into_iter().flatten().min();
        }
        [connecting, closing, knocks, peers].into_iter().flatten().min()
    }
}

impl<P: Port> Transport for UserspaceTransport<P> {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, OpenError> {
        let is_taken = |port| self.listeners.entries().any(|(_, it)| it.port() == port);
        let mut address = address;
        if !address.ip().is_unspecified() && address.ip() != self.options.address {
            return Err(OpenError::Address(ErrorKind::AddrNotAvailable.into()));
        }
        if address.port() == 0 {
            let free = self.options.ports.clone().find(|port| !is_taken(*port));
            address.set_port(free.ok_or(OpenError::TableFull)?);
        } else if is_taken(address.port()) {
            return Err(OpenError::Address(ErrorKind::AddrInUse.into()));
        }
        address.set_ip(self.options.address);
        let key = self.listeners.insert(address).ok_or(OpenError::TableFull)?;
        for peer in &mut self.peers {
            peer.wait_for(self.options.backlog, key, address, &self.options);
        }
        Ok(key.into())
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        self.listeners.get(listener.into()).copied()
    }

    fn unlisten(&mut self, listener: ListenerId) {
        let key = Key::from(listener);
        if self.listeners.remove(key).is_none() {
            return;
        }
        for (place, peer) in self.peers.iter_mut().enumerate() {
            let (theirs, others) = peer.backlog.drain(..).partition(|it| it.listener == key);
            peer.backlog = others;
            let theirs: Vec<_> = theirs;
            for waiting in theirs {
                peer.socket(waiting.handle).abort();
                peer.connections += 1;
                let (handle, expires_at) = (waiting.handle, self.now);
                self.orphans.push(Orphan { peer: place, handle, ports: None, expires_at });
            }
        }
    }

    fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local: Option<IpAddr>,
    ) -> Result<ConnectionId, OpenError> {
        if self.connections.is_full() {
            return Err(OpenError::TableFull);
        }
        let address = self.options.address;
        let is_ours = local.is_none_or(|local| local == address || local.is_unspecified());
        if !is_ours || remote.is_ipv4() != address.is_ipv4() {
            return Err(OpenError::Address(ErrorKind::AddrNotAvailable.into()));
        }
        self.now = now;
        let place = self.peer_at(remote.ip()).ok_or(OpenError::TableFull)?;
        let port = self.free_port(remote).ok_or(OpenError::TableFull)?;
        let peer = &mut self.peers[place];
        let handle = peer
            .connect(remote.port(), (address, port), &self.options)
            .ok_or_else(|| OpenError::Address(ErrorKind::InvalidInput.into()))?;
        peer.connections += 1;
        self.has_said = true;
        let deadline = now + self.options.connect_timeout;
        let connection = Connection::new(place, handle, (port, remote.port()), Some(deadline));
        Ok(self.connections.insert(connection).expect("it is not full").into())
    }

    fn poll(&mut self, now: Instant) {
        self.now = now;
        self.note_time_outs();
        self.note_unanswered();
        self.receive();
        self.accept();
        self.inspect();
        self.knock();
        self.finish_orphans();
    }

    fn next_event(&mut self) -> Option<Event> {
        while let Some(event) = self.events.pop_front() {
            let is_news = match event {
                Event::Closed { connection, .. } => {
                    self.connections.remove(connection.into()).is_some()
                }
                Event::Readable(id) => {
                    self.find(id).is_some_and(|(it, socket)| it.is_ready(socket))
                }
                Event::Accepted { connection: id, .. }
                | Event::Connected(id)
                | Event::Writable(id) => self.find(id).is_some(),
            };
            if is_news {
                return Some(event);
            }
        }
        None
    }

    fn recv<R>(
        &mut self,
        id: ConnectionId,
        consume: impl FnOnce(&[u8]) -> (usize, R),
    ) -> Result<R, RecvError> {
        let (connection, socket) = self.find(id).ok_or(RecvError::Gone)?;
        connection.recv(socket, consume)
    }

    fn recv_into(&mut self, id: ConnectionId, into: &mut [u8]) -> Result<usize, RecvError> {
        self.recv(id, |bytes| {
            let count = bytes.len().min(into.len());
            into[..count].copy_from_slice(&bytes[..count]);
            (count, count)
        })
    }

    fn set_receiving(&mut self, id: ConnectionId, receiving: bool) {
        if let Some((connection, _)) = self.find(id) {
            connection.receiving = receiving;
        }
    }

    fn send(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> Result<usize, SendError> {
        let (connection, socket) = self.find(id).ok_or(SendError::Gone)?;
        let mut taken = 0;
        for slice in slices {
            let sent = connection.send(socket, slice).ok_or(SendError::Gone)?;
            taken += sent;
            if sent < slice.len() {
                break;
            }
        }
        self.has_said |= taken > 0;
        Ok(taken)
    }

    fn finish(&mut self, id: ConnectionId) {
        if let Some((connection, socket)) = self.find(id) {
            connection.finish(socket);
            self.has_said = true;
        }
    }

    fn close(&mut self, id: ConnectionId) {
        self.let_go(id, self.now + self.options.linger_time, Socket::close);
    }

    fn abort(&mut self, id: ConnectionId) {
        self.let_go(id, self.now, Socket::abort);
    }

    fn flush(&mut self, now: Instant) {
        self.now = now;
        self.held_until = self.hold();
        if self.held_until.is_none() {
            self.send_all();
        }
    }

    fn release(&mut self, now: Instant) {
        if self.held_until.take().is_some() {
            self.now = now;
            self.send_all();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        if !self.events.is_empty() || self.port.has_received() || self.has_ready() {
            return Some(Instant::ZERO);
        }
        self.next_stack_deadline()
    }

    fn wait(&mut self, now: Instant, until: Option<Instant>) {
        self.release(now);
        let deadline = [self.next_deadline(), until].into_iter().flatten().min();
        let Some(descriptor) = self.port.descriptor() else { return };
        if deadline.is_none_or(|deadline| deadline > now) {
            sleep_until_readable(&[descriptor], deadline.map(|deadline| deadline - now));
        }
    }

    fn add_wait_descriptors(&self, descriptors: &mut Vec<RawFd>) -> bool {
        let descriptor = self.port.descriptor();
        descriptors.extend(descriptor);
        descriptor.is_some()
    }
}

/// In this time an interface sends some packets. Who sleeps for so long does not keep the processor from those that
/// they are for.
const BLOCKED_PAUSE: Duration = Duration::from_micros(50);

/// The time from one system call that sends to the next, at the least, where what is sent may wait; and not for more
/// packets that come than this.
const GATHERED_FOR: Duration = Duration::from_micros(12);
const GATHERED_MAX: usize = 16;

fn to_smoltcp(now: Instant) -> smoltcp::time::Instant {
    let micros = i64::try_from(now.as_nanos() / 1_000).expect("a u64 of nanoseconds fits");
    smoltcp::time::Instant::from_micros(micros)
}

//! `Transport` over smoltcp. What it lacks for production (probes against the long retransmission
//! time-out, links shared between many sockets) the interface does not show.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::time::Duration;

use dataplane::WireEnd;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpCidr};
use tcpstack::{
    CloseReason, ConnectionId, Event, Instant, ListenerId, OpenError, RecvError, SendError,
    Transport,
};

pub(crate) struct UserspaceTransport {
    interface: Interface,
    device: WireEnd,
    sockets: SocketSet<'static>,
    ip: IpAddr,
    connections: Vec<Place>,
    connections_max: usize,
    listeners: Vec<Option<Listener>>,
    /// Closed by the caller; they finish on their own, until a time.
    orphans: Vec<(SocketHandle, Instant)>,
    events: VecDeque<Event>,
    now: Instant,
    next_port: u16,
}

struct Place {
    generation: u32,
    connection: Option<Connection>,
}

struct Connection {
    handle: SocketHandle,
    /// Until when `connect` may take, while it does.
    connect_deadline: Option<Instant>,
    receiving: bool,
    /// Left by the consumer, at the front of the socket's buffer.
    left: usize,
    awaits_room: bool,
    finishing: bool,
    /// The peer's end of stream has come.
    end_received: bool,
    /// `Finished` was answered.
    finished: bool,
    dead: bool,
}

struct Listener {
    address: SocketAddr,
    /// smoltcp has no backlog: a listening socket for each attempt that may be pending.
    backlog: Vec<SocketHandle>,
}

impl UserspaceTransport {
    pub(crate) fn new(
        mut device: WireEnd,
        ip: IpAddr,
        connections_max: usize,
        seed: u64,
    ) -> UserspaceTransport {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        let prefix = if ip.is_ipv4() { 24 } else { 64 };
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(ip.into(), prefix)).expect("room for one address");
        });
        UserspaceTransport {
            interface,
            device,
            sockets: SocketSet::new(Vec::new()),
            ip,
            connections: Vec::new(),
            connections_max,
            listeners: Vec::new(),
            orphans: Vec::new(),
            events: VecDeque::new(),
            now: Instant::ZERO,
            next_port: 49_152,
        }
    }

    pub(crate) fn has_packets(&self) -> bool {
        self.device.waiting() > 0
    }

    fn new_socket(&mut self) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; SOCKET_BUFFER_BYTES]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(smoltcp::time::Duration::from_micros(500)));
        self.sockets.add(socket)
    }

    fn listening_socket(&mut self, address: SocketAddr) -> SocketHandle {
        let handle = self.new_socket();
        let socket = self.sockets.get_mut::<Socket>(handle);
        socket.listen((address.ip(), address.port())).expect("a new socket with a port");
        handle
    }

    fn insert(&mut self, handle: SocketHandle, connect_deadline: Option<Instant>) -> ConnectionId {
        let connection = Connection {
            handle,
            connect_deadline,
            receiving: true,
            left: 0,
            awaits_room: false,
            finishing: false,
            end_received: false,
            finished: false,
            dead: false,
        };
        let index = self.free_place().expect("the caller has looked");
        if index == self.connections.len() {
            self.connections.push(Place { generation: 0, connection: None });
        }
        let place = &mut self.connections[index];
        place.connection = Some(connection);
        ConnectionId { index: u32::try_from(index).unwrap(), generation: place.generation }
    }

    fn free_place(&self) -> Option<usize> {
        let free = self.connections.iter().position(|place| place.connection.is_none());
        let index = free.unwrap_or(self.connections.len());
        (index < self.connections_max).then_some(index)
    }

    fn find(&mut self, id: ConnectionId) -> Option<(&mut Connection, &mut Socket<'static>)> {
        let place = self.connections.get_mut(usize::try_from(id.index).unwrap())?;
        let connection = place.connection.as_mut().filter(|connection| !connection.dead)?;
        let socket = self.sockets.get_mut::<Socket>(connection.handle);
        (place.generation == id.generation).then_some((connection, socket))
    }

    fn release(&mut self, id: ConnectionId) -> Option<Connection> {
        let place = self.connections.get_mut(usize::try_from(id.index).unwrap())?;
        if place.generation != id.generation {
            return None;
        }
        let connection = place.connection.take()?;
        place.generation += 1;
        Some(connection)
    }

    fn exchange_packets(&mut self) {
        let now = to_smoltcp(self.now);
        for _ in 0..PACKETS_PER_POLL {
            let Self { interface, device, sockets, .. } = self;
            if interface.poll_ingress_single(now, device, sockets) == PollIngressSingleResult::None
            {
                break;
            }
        }
        self.interface.poll_egress(now, &mut self.device, &mut self.sockets);
    }

    fn accept(&mut self) {
        for index in 0..self.listeners.len() {
            let Some(mut listener) = self.listeners[index].take() else { continue };
            for place in 0..listener.backlog.len() {
                let handle = listener.backlog[place];
                let socket = self.sockets.get_mut::<Socket>(handle);
                match socket.state() {
                    State::Listen | State::SynReceived => continue,
                    State::Closed => {
                        listener.backlog[place] = self.listening_socket(listener.address);
                        self.sockets.remove(handle);
                        continue;
                    }
                    _ => {}
                }
                if self.free_place().is_none() {
                    break;
                }
                let peer = self.sockets.get::<Socket>(handle).remote_endpoint().unwrap();
                let connection = self.insert(handle, None);
                let id = ListenerId { index: u32::try_from(index).unwrap(), generation: 0 };
                let peer = SocketAddr::new(peer.addr.into(), peer.port);
                self.events.push_back(Event::Accepted { listener: id, connection, peer });
                listener.backlog[place] = self.listening_socket(listener.address);
            }
            self.listeners[index] = Some(listener);
        }
    }

    fn inspect(&mut self, id: ConnectionId) {
        let now = self.now;
        let Some((connection, socket)) = self.find(id) else { return };
        if let Some(deadline) = connection.connect_deadline {
            if socket.may_send() {
                connection.connect_deadline = None;
                self.events.push_back(Event::Connected(id));
                return self.inspect(id);
            }
            let refused = socket.state() == State::Closed;
            if refused || now >= deadline {
                socket.abort();
                let reason = if refused { CloseReason::Refused } else { CloseReason::TimedOut };
                self.bury(id, reason);
            }
            return;
        }
        use State::{CloseWait, Closed, Closing, LastAck, TimeWait};
        let state = socket.state();
        connection.end_received |= matches!(state, CloseWait | LastAck | Closing | TimeWait);
        if state == Closed && !(connection.end_received && connection.finishing) {
            return self.bury(id, CloseReason::Reset);
        }
        let mut events = [None; 2];
        let room = socket.send_capacity() - socket.send_queue();
        if connection.awaits_room && socket.may_send() && room >= SOCKET_BUFFER_BYTES / 3 {
            connection.awaits_room = false;
            events[0] = Some(Event::Writable(id));
        }
        if is_ready(connection, socket) {
            events[1] = Some(Event::Readable(id));
        }
        self.events.extend(events.into_iter().flatten());
    }

    fn bury(&mut self, id: ConnectionId, reason: CloseReason) {
        let Some((connection, _)) = self.find(id) else { return };
        connection.dead = true;
        let handle = connection.handle;
        self.orphans.push((handle, self.now));
        self.events.push_back(Event::Closed { connection: id, reason });
    }

    /// Discards what comes for closed connections, and drops those that are done.
    fn finish_orphans(&mut self) {
        let Self { orphans, sockets, now, .. } = self;
        let mut done = Vec::new();
        orphans.retain(|&(handle, expiry)| {
            let socket = sockets.get_mut::<Socket>(handle);
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), ())).expect("it can");
            }
            if socket.state() == State::Closed && socket.remote_endpoint().is_none() {
                done.push(handle);
                return false;
            }
            if *now >= expiry {
                socket.abort();
            }
            true
        });
        for handle in done {
            self.sockets.remove(handle);
        }
    }

    fn names(&self) -> Vec<ConnectionId> {
        let places = self.connections.iter().enumerate();
        places
            .filter(|(_, place)| place.connection.is_some())
            .map(|(index, place)| ConnectionId {
                index: u32::try_from(index).unwrap(),
                generation: place.generation,
            })
            .collect()
    }
}

fn is_ready(connection: &Connection, socket: &Socket<'_>) -> bool {
    let end = connection.end_received && !connection.finished;
    connection.receiving && (socket.can_recv() || end)
}

fn to_smoltcp(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_nanos() / 1_000).unwrap())
}

impl Transport for UserspaceTransport {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, OpenError> {
        let taken = |listener: &Listener| listener.address.port() == address.port();
        if self.listeners.iter().flatten().any(taken) {
            return Err(OpenError::Address(ErrorKind::AddrInUse.into()));
        }
        let backlog = (0..BACKLOG).map(|_| self.listening_socket(address)).collect();
        let index = u32::try_from(self.listeners.len()).unwrap();
        self.listeners.push(Some(Listener { address, backlog }));
        Ok(ListenerId { index, generation: 0 })
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        let listener = self.listeners[usize::try_from(listener.index).unwrap()].as_ref();
        listener.map(|listener| listener.address)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        let place = &mut self.listeners[usize::try_from(listener.index).unwrap()];
        for handle in place.take().map_or(Vec::new(), |listener| listener.backlog) {
            self.sockets.get_mut::<Socket>(handle).abort();
            self.orphans.push((handle, self.now));
        }
    }

    fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        _local: Option<IpAddr>,
    ) -> Result<ConnectionId, OpenError> {
        if self.free_place().is_none() {
            return Err(OpenError::TableFull);
        }
        let handle = self.new_socket();
        let local = (self.ip, self.next_port);
        self.next_port = self.next_port.checked_add(1).unwrap_or(49_152);
        let Self { sockets, interface, .. } = self;
        let socket = sockets.get_mut::<Socket>(handle);
        socket
            .connect(interface.context(), remote, local)
            .map_err(|_| OpenError::Address(ErrorKind::InvalidInput.into()))?;
        Ok(self.insert(handle, Some(now + CONNECT_TIMEOUT)))
    }

    fn poll(&mut self, now: Instant) {
        self.now = now;
        self.exchange_packets();
        self.accept();
        for id in self.names() {
            self.inspect(id);
        }
        self.finish_orphans();
    }

    fn next_event(&mut self) -> Option<Event> {
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::Closed { connection, .. } => {
                    if self.release(connection).is_some() {
                        return Some(event);
                    }
                }
                Event::Readable(id) => {
                    if self
                        .find(id)
                        .is_some_and(|(connection, socket)| is_ready(connection, socket))
                    {
                        return Some(event);
                    }
                }
                Event::Accepted { connection: id, .. }
                | Event::Connected(id)
                | Event::Writable(id) => {
                    if self.find(id).is_some() {
                        return Some(event);
                    }
                }
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
        if !socket.can_recv() {
            connection.finished |= connection.end_received;
            let finished = connection.finished;
            return Err(if finished { RecvError::Finished } else { RecvError::WouldBlock });
        }
        let received = socket.recv(|bytes| {
            let offered = if connection.left > 0 { connection.left } else { bytes.len() };
            let (taken, result) = consume(&bytes[..offered]);
            assert!(taken <= offered);
            connection.left = offered - taken;
            (taken, result)
        });
        Ok(received.expect("there is something to receive"))
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
            let sent = if connection.connect_deadline.is_some() {
                0
            } else {
                socket.send_slice(slice).map_err(|_| SendError::Gone)?
            };
            taken += sent;
            if sent < slice.len() {
                connection.awaits_room = true;
                break;
            }
        }
        Ok(taken)
    }

    fn finish(&mut self, id: ConnectionId) {
        if let Some((connection, socket)) = self.find(id) {
            connection.finishing = true;
            socket.close();
        }
    }

    fn close(&mut self, id: ConnectionId) {
        let expiry = self.now + LINGER_TIME;
        if let Some(connection) = self.release(id)
            && !connection.dead
        {
            self.sockets.get_mut::<Socket>(connection.handle).close();
            self.orphans.push((connection.handle, expiry));
        }
    }

    fn abort(&mut self, id: ConnectionId) {
        if let Some(connection) = self.release(id)
            && !connection.dead
        {
            self.sockets.get_mut::<Socket>(connection.handle).abort();
            self.orphans.push((connection.handle, self.now));
        }
    }

    fn flush(&mut self, now: Instant) {
        self.interface.poll_egress(to_smoltcp(now), &mut self.device, &mut self.sockets);
    }

    fn next_deadline(&self) -> Option<Instant> {
        (!self.events.is_empty() || self.has_packets()).then_some(Instant::ZERO)
    }

    fn wait(&mut self, _now: Instant, _until: Option<Instant>) {}

    fn wait_descriptor(&self) -> Option<RawFd> {
        None
    }
}

const SOCKET_BUFFER_BYTES: usize = 16 * 1024;

/// At the bound the stack answers an attempt with a reset: there is nothing that could hold it.
const BACKLOG: usize = 128;

/// The ring of the wire.
const PACKETS_PER_POLL: usize = 256;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const LINGER_TIME: Duration = Duration::from_secs(30);

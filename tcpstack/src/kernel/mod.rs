//! TCP by the kernel: non-blocking sockets under epoll.
//!
//! epoll is used edge-triggered, through mio: registered once per connection, no system call to
//! arm it again. What edges have said is remembered in flags per connection and in a *ready list*,
//! from which each poll announces `Readable` until a read meets the bottom; that gives the
//! level-triggered meaning of [`Transport`] for the price of one `epoll_wait` a turn. Connections
//! take turns in the list, so a busy one does not starve the others.

mod clock;
mod connection;
mod linger;
mod open;
mod options;
mod sys;
#[cfg(feature = "userspace")]
pub(crate) use self::sys::sleep_until_readable;
mod wait;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

pub use self::clock::Clock;
pub use self::options::{KernelOptions, KernelStatistics};
pub use self::sys::{raise_descriptor_limit, return_large_blocks};
pub use self::wait::{Waker, wait_on_both};

use self::connection::{Connection, Phase, Stop, close_reason};
use self::linger::Lingering;
use self::open::Attempt;
use crate::table::{Key, Table};
use crate::time::Instant;
use crate::transport::{
    CloseReason, ConnectionId, Event, ListenerId, OpenError, RecvError, SendError, Transport,
};

/// [`Transport`] over non-blocking kernel sockets.
///
/// SIGPIPE cannot hit: all sending is by sendmsg(2) with MSG_NOSIGNAL. Linux only.
pub struct KernelTransport {
    options: KernelOptions,
    poll: Poll,
    kernel_events: Events,
    waker: Waker,
    listeners: Table<Listener>,
    /// Listeners at which somebody may wait. May hold names that are dead.
    acceptable: VecDeque<ListenerId>,
    connections: Table<Connection>,
    /// Connections that may have input, each at most once (its flag `listed`). May hold names that
    /// are dead, paused or drained: they are dropped when met.
    ready: VecDeque<ConnectionId>,
    /// Deadlines of `connect`, in order, for all have the same time. May hold names that are dead
    /// or long connected.
    connect_deadlines: VecDeque<(Instant, ConnectionId)>,
    lingering: Lingering,
    events: VecDeque<Event>,
    scratch: Box<[u8]>,
    /// The time of the last poll.
    now: Instant,
    statistics: KernelStatistics,
}

struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    /// It is in the list `acceptable`.
    listed: bool,
    /// Accepting pauses until then, because descriptors ran out.
    paused_until: Instant,
}

impl KernelTransport {
    /// A transport without listeners or connections.
    ///
    /// # Errors
    /// When the epoll instance or the eventfd of the [`Waker`] cannot be made.
    ///
    /// # Panics
    /// If an option is out of its range: a bound of zero where nothing would work.
    pub fn new(options: KernelOptions) -> io::Result<KernelTransport> {
        assert!(options.receive_buffer_bytes > 0 && options.events_per_poll > 0);
        assert!(options.accepts_per_poll > 0);
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), Owner::Waker.token())?;
        Ok(KernelTransport {
            kernel_events: Events::with_capacity(options.events_per_poll),
            waker,
            listeners: Table::new(options.listeners_max),
            acceptable: VecDeque::new(),
            connections: Table::new(options.connections_max),
            ready: VecDeque::new(),
            connect_deadlines: VecDeque::new(),
            lingering: Lingering::new(options.lingering_max),
            events: VecDeque::new(),
            scratch: vec![0; options.receive_buffer_bytes].into_boxed_slice(),
            now: Instant::ZERO,
            statistics: KernelStatistics::default(),
            poll,
            options,
        })
    }

    /// Something with which other threads end the sleep of this transport.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// What was counted so far.
    pub fn statistics(&self) -> KernelStatistics {
        KernelStatistics {
            lingering: self.lingering.len(),
            lingering_cut: self.lingering.cut_short(),
            ..self.statistics
        }
    }

    /// How many connections there are, those in the making included.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Whether there are events to be told.
    #[cfg(feature = "userspace")]
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    fn collect_kernel_events(&mut self) {
        match self.poll.poll(&mut self.kernel_events, Some(Duration::ZERO)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(error) => panic!("epoll_wait: {error}"),
        }
        let kernel_events = std::mem::replace(&mut self.kernel_events, Events::with_capacity(0));
        for event in &kernel_events {
            match Owner::of(event.token()) {
                Owner::Waker => {}
                Owner::Listener(listener) => self.handle_listener(listener),
                Owner::Connection(connection) => self.handle_connection(connection, event),
                Owner::Lingering(key) => self.lingering.handle_readiness(key),
            }
        }
        self.kernel_events = kernel_events;
    }

    fn handle_listener(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(id.into())
            && !listener.listed
        {
            listener.listed = true;
            self.acceptable.push_back(id);
        }
    }

    fn handle_connection(&mut self, id: ConnectionId, event: &mio::event::Event) {
        let Some(connection) = self.connections.get_mut(id.into()) else { return };
        match connection.phase {
            Phase::Dead => return,
            Phase::Connecting(_) => {
                if !self.try_establish(id) {
                    return;
                }
            }
            Phase::Open(_) => {}
        }
        let Some(connection) = self.connections.get_mut(id.into()) else { return };
        connection.hung_up |= event.is_read_closed() || event.is_error();
        connection.urgent |= event.is_priority();
        if event.is_error() && (!connection.receiving || connection.finished) {
            // Nobody will read, so nobody would find the error.
            if let Phase::Open(stream) = &connection.phase
                && let Ok(Some(error)) = stream.take_error()
            {
                self.bury(id, close_reason(&error));
            }
            return;
        }
        if event.is_writable() && connection.awaits_room {
            connection.awaits_room = false;
            self.events.push_back(Event::Writable(id));
        }
        if (event.is_readable() || event.is_error()) && !connection.finished {
            connection.readable = true;
            self.handle_readable(id);
        }
    }

    /// Bytes came, or their end: the connection goes into the ready list. If it is paused, the
    /// kernel is told not to report more.
    fn handle_readable(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.into()) else { return };
        if connection.receiving {
            if !connection.listed {
                connection.listed = true;
                self.ready.push_back(id);
            }
        } else if connection.read_interest
            && let Phase::Open(stream) = &mut connection.phase
        {
            let token = Owner::Connection(id).token();
            if self.poll.registry().reregister(stream, token, Interest::WRITABLE).is_ok() {
                connection.read_interest = false;
            }
        }
    }

    /// Looks how `connect` has gone; whether it is established now.
    fn try_establish(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(id.into()) else { return false };
        let Phase::Connecting(stream) = &connection.phase else { return false };
        let (local, remote) = match (stream.take_error(), stream.local_addr(), stream.peer_addr()) {
            (Ok(Some(error)) | Err(error), _, _) => {
                self.bury(id, close_reason(&error));
                return false;
            }
            (Ok(None), Ok(local), Ok(remote)) => (local, remote),
            // Not yet (ENOTCONN): the edge was a spurious one.
            _ => return false,
        };
        if local == remote {
            // Nobody listens there, the kernel happened to choose that port as ours, and TCP's
            // simultaneous open (RFC 9293 section 3.5) connected the socket with itself.
            self.bury(id, CloseReason::Refused);
            return false;
        }
        let Phase::Connecting(stream) = std::mem::replace(&mut connection.phase, Phase::Dead)
        else {
            return false;
        };
        connection.phase = Phase::Open(stream);
        if connection.finishing {
            connection.finish();
        }
        self.events.push_back(Event::Connected(id));
        true
    }

    fn accept(&mut self) {
        for _ in 0..self.acceptable.len() {
            if self.connections.is_full() {
                return;
            }
            let Some(id) = self.acceptable.pop_front() else { return };
            if self.accept_at(id) {
                self.acceptable.push_back(id);
            } else if let Some(listener) = self.listeners.get_mut(id.into()) {
                listener.listed = false;
            }
        }
    }

    /// Accepts what the bounds allow; whether more may wait.
    fn accept_at(&mut self, id: ListenerId) -> bool {
        let Some(listener) = self.listeners.get_mut(id.into()) else { return false };
        if listener.paused_until > self.now {
            return true;
        }
        for _ in 0..self.options.accepts_per_poll {
            let Some(key) = self.connections.next_key() else { return true };
            match listener.socket.accept() {
                Ok((mut stream, peer)) => {
                    let connection = ConnectionId::from(key);
                    let token = Owner::Connection(connection).token();
                    if self.poll.registry().register(&mut stream, token, ALL).is_err() {
                        self.statistics.accepts_failed += 1;
                        continue;
                    }
                    self.connections.insert(Connection::new(Phase::Open(stream)));
                    self.statistics.accepted += 1;
                    self.events.push_back(Event::Accepted { listener: id, connection, peer });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if open::is_exhaustion(&error) => {
                    self.statistics.accept_pauses += 1;
                    listener.paused_until = self.now + self.options.accept_pause;
                    return true;
                }
                // accept(2) also reports what happened to the newcomer meanwhile.
                Err(_) => self.statistics.accepts_failed += 1,
            }
        }
        true
    }

    /// Announces the connections that have input, each once.
    fn announce_ready(&mut self) {
        let mut left = self.options.events_per_poll;
        for _ in 0..self.ready.len() {
            if left == 0 {
                return;
            }
            let Some(id) = self.ready.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(id.into()) else { continue };
            if !connection.is_ready() || matches!(connection.phase, Phase::Dead) {
                connection.listed = false;
                continue;
            }
            self.ready.push_back(id);
            left -= 1;
            if !connection.announced {
                connection.announced = true;
                self.events.push_back(Event::Readable(id));
            }
        }
    }

    fn expire_connects(&mut self) {
        while let Some(&(deadline, id)) = self.connect_deadlines.front() {
            let pending = self.is_connecting(id);
            if pending && deadline > self.now {
                return;
            }
            self.connect_deadlines.pop_front();
            if pending {
                self.bury(id, CloseReason::TimedOut);
            }
        }
    }

    fn is_connecting(&self, id: ConnectionId) -> bool {
        let connection = self.connections.get(id.into());
        connection.is_some_and(|connection| matches!(connection.phase, Phase::Connecting(_)))
    }

    /// The connection is over, not by a call of ours: its socket is closed now, its place is free
    /// once the event has been handed out.
    fn bury(&mut self, id: ConnectionId, reason: CloseReason) {
        if let Some(connection) = self.connections.get_mut(id.into()) {
            *connection = Connection::new(Phase::Dead);
            self.events.push_back(Event::Closed { connection: id, reason });
        }
    }

    /// Turns what a connection found out into what the caller sees.
    fn stopped(&mut self, id: ConnectionId, stop: Stop) -> RecvError {
        match stop {
            Stop::WouldBlock => RecvError::WouldBlock,
            Stop::Finished => RecvError::Finished,
            Stop::Gone => RecvError::Gone,
            Stop::Died(reason) => {
                self.bury(id, reason);
                RecvError::Gone
            }
        }
    }

    /// Whether an event that was collected may still be handed out, and what follows from that.
    fn admit(&mut self, event: &Event) -> bool {
        let (Event::Accepted { connection: id, .. }
        | Event::Connected(id)
        | Event::Readable(id)
        | Event::Writable(id)
        | Event::Closed { connection: id, .. }) = *event;
        let Some(connection) = self.connections.get_mut(id.into()) else { return false };
        match event {
            Event::Accepted { .. } | Event::Connected(_) => true,
            Event::Readable(_) => {
                connection.announced = false;
                connection.is_ready() && !matches!(connection.phase, Phase::Dead)
            }
            Event::Writable(_) => !matches!(connection.phase, Phase::Dead),
            Event::Closed { .. } => {
                self.connections.remove(id.into());
                true
            }
        }
    }

    fn has_ready(&self) -> bool {
        let is_ready = |&id: &ConnectionId| {
            self.connections.get(id.into()).is_some_and(|connection| connection.is_ready())
        };
        self.ready.iter().any(is_ready)
    }

    /// When accepting goes on: `None` if nobody waits or no place is free.
    fn next_accept(&self) -> Option<Instant> {
        if self.connections.is_full() {
            return None;
        }
        let listeners = self.acceptable.iter().filter_map(|&id| self.listeners.get(id.into()));
        listeners.map(|listener| listener.paused_until).min()
    }
}

impl Transport for KernelTransport {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, OpenError> {
        let key = self.listeners.next_key().ok_or(OpenError::TableFull)?;
        let id = ListenerId::from(key);
        let mut socket = open::listener(address, &self.options)?;
        let address = socket.local_addr().map_err(OpenError::Address)?;
        let token = Owner::Listener(id).token();
        self.poll
            .registry()
            .register(&mut socket, token, Interest::READABLE)
            .map_err(OpenError::Address)?;
        let paused_until = Instant::ZERO;
        self.listeners.insert(Listener { socket, address, listed: false, paused_until });
        Ok(id)
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        self.listeners.get(listener.into()).map(|listener| listener.address)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.listeners.remove(listener.into());
    }

    fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local: Option<IpAddr>,
    ) -> Result<ConnectionId, OpenError> {
        let key = self.connections.next_key().ok_or(OpenError::TableFull)?;
        let id = ConnectionId::from(key);
        match open::connection(remote, local, &self.options)? {
            Attempt::UnderWay(mut stream) => {
                let token = Owner::Connection(id).token();
                self.poll
                    .registry()
                    .register(&mut stream, token, ALL)
                    .map_err(OpenError::Address)?;
                self.connections.insert(Connection::new(Phase::Connecting(stream)));
                if self.connect_deadlines.len() > 2 * self.connections.len() + 64 {
                    let mut deadlines = std::mem::take(&mut self.connect_deadlines);
                    deadlines.retain(|&(_, id)| self.is_connecting(id));
                    self.connect_deadlines = deadlines;
                }
                self.connect_deadlines.push_back((now + self.options.connect_timeout, id));
            }
            Attempt::Failed(reason) => {
                self.connections.insert(Connection::new(Phase::Dead));
                self.events.push_back(Event::Closed { connection: id, reason });
            }
        }
        Ok(id)
    }

    fn poll(&mut self, now: Instant) {
        self.now = now;
        self.collect_kernel_events();
        self.accept();
        self.expire_connects();
        self.lingering.poll(now, &mut self.scratch);
        self.announce_ready();
    }

    fn next_event(&mut self) -> Option<Event> {
        while let Some(event) = self.events.pop_front() {
            if self.admit(&event) {
                return Some(event);
            }
        }
        None
    }

    fn recv<R>(
        &mut self,
        connection: ConnectionId,
        consume: impl FnOnce(&[u8]) -> (usize, R),
    ) -> Result<R, RecvError> {
        let found = self.connections.get_mut(connection.into()).ok_or(RecvError::Gone)?;
        let received = found.recv(&mut self.scratch, consume);
        received.map_err(|stop| self.stopped(connection, stop))
    }

    fn recv_into(&mut self, connection: ConnectionId, into: &mut [u8]) -> Result<usize, RecvError> {
        let found = self.connections.get_mut(connection.into()).ok_or(RecvError::Gone)?;
        let received = found.recv_into(into);
        received.map_err(|stop| self.stopped(connection, stop))
    }

    fn set_receiving(&mut self, id: ConnectionId, receiving: bool) {
        let Some(connection) = self.connections.get_mut(id.into()) else { return };
        if connection.receiving == receiving {
            return;
        }
        connection.receiving = receiving;
        if !receiving {
            if let Some(reason) = connection.broken {
                self.bury(id, reason);
            }
            return;
        }
        if !connection.read_interest
            && let Phase::Open(stream) = &mut connection.phase
        {
            // Registering again reports what came in meanwhile as an edge.
            let token = Owner::Connection(id).token();
            match self.poll.registry().reregister(stream, token, ALL) {
                Ok(()) => connection.read_interest = true,
                Err(_) => return self.bury(id, CloseReason::LocalError),
            }
        }
        if connection.is_ready() && !connection.listed {
            connection.listed = true;
            self.ready.push_back(id);
        }
    }

    fn send(
        &mut self,
        connection: ConnectionId,
        slices: &[IoSlice<'_>],
    ) -> Result<usize, SendError> {
        let found = self.connections.get_mut(connection.into()).ok_or(SendError::Gone)?;
        let sent = found.send(slices);
        if found.broken.is_some() {
            self.handle_readable(connection);
        }
        sent.map_err(|stop| {
            self.stopped(connection, stop);
            SendError::Gone
        })
    }

    fn finish(&mut self, connection: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(connection.into()) {
            connection.finish();
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        let Some(closed) = self.connections.remove(connection.into()) else { return };
        let may_have_unread = closed.may_have_unread();
        if let Phase::Open(stream) = closed.phase
            && may_have_unread
        {
            let expiry = self.now + self.options.linger_time;
            let token = |key| Owner::Lingering(key).token();
            self.lingering.add(stream, self.poll.registry(), token, expiry);
        }
    }

    fn abort(&mut self, connection: ConnectionId) {
        if let Some(aborted) = self.connections.remove(connection.into()) {
            aborted.reset();
        }
    }

    fn flush(&mut self, _now: Instant) {
        // `send` hands everything to the kernel at once.
    }

    fn next_deadline(&self) -> Option<Instant> {
        if !self.events.is_empty() || self.has_ready() || self.lingering.has_ready() {
            return Some(Instant::ZERO);
        }
        let connect = self.connect_deadlines.front().map(|&(deadline, _)| deadline);
        let linger = self.lingering.next_deadline();
        [connect, linger, self.next_accept()].into_iter().flatten().min()
    }

    fn wait(&mut self, now: Instant, until: Option<Instant>) {
        let earliest = [self.next_deadline(), until].into_iter().flatten().min();
        if earliest.is_some_and(|deadline| deadline <= now) {
            return;
        }
        let timeout = earliest.map(|deadline| deadline - now);
        sys::sleep_until_readable(&[self.poll.as_raw_fd()], timeout);
    }

    fn add_wait_descriptors(&self, descriptors: &mut Vec<RawFd>) -> bool {
        descriptors.push(self.poll.as_raw_fd());
        true
    }
}

/// Whose registration an event of the kernel belongs to.
enum Owner {
    Waker,
    Listener(ListenerId),
    Connection(ConnectionId),
    Lingering(Key),
}

impl Owner {
    /// Kind in 2 bits, generation in 32, index in 30. The generation guards against an event of a
    /// socket that a forked child still holds open after we closed it.
    fn token(&self) -> Token {
        let (kind, key) = match *self {
            Owner::Waker => (0, Key { index: 0, generation: 0 }),
            Owner::Listener(id) => (1, id.into()),
            Owner::Connection(id) => (2, id.into()),
            Owner::Lingering(key) => (3, key),
        };
        assert!(key.index < 1 << 30, "tables are smaller");
        let bits = kind << 62 | u64::from(key.generation) << 30 | u64::from(key.index);
        Token(usize::try_from(bits).expect("pointers have 64 bits"))
    }

    fn of(token: Token) -> Owner {
        let bits = u64::try_from(token.0).expect("pointers have at most 64 bits");
        let index = u32::try_from(bits & ((1 << 30) - 1)).expect("30 bits");
        let generation = u32::try_from(bits >> 30 & u64::from(u32::MAX)).expect("32 bits");
        let key = Key { index, generation };
        match bits >> 62 {
            0 => Owner::Waker,
            1 => Owner::Listener(key.into()),
            2 => Owner::Connection(key.into()),
            _ => Owner::Lingering(key),
        }
    }
}

/// All that is reported about a connection. Priority: see `Connection::urgent`.
const ALL: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);

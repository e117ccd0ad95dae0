//! The loop of one worker, over any transport.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

use kvs_proto::auth::{self, Secret};
use kvs_proto::body::{Counter, Limits};
use kvs_proto::{Incarnation, Version};
use tcpstack::{
    ConnectionId, Event, Instant, ListenerId, OpenError, RecvError, SendError, Transport,
};

use crate::arena::RoomLevel;
use crate::counters::Counters;
use crate::session::{Accounts, Presence, Session, SessionId, Shared};
use crate::table::QueueTable;

/// One worker: a transport, the connections on it, and the queues.
///
/// [`Worker::turn`] does what there is to do and never blocks; [`Worker::wait`] sleeps. One thread
/// owns it.
#[derive(Debug)]
pub struct Worker<T> {
    transport: T,
    shared: Shared,
    listeners: Vec<ListenerId>,
    /// By the connection's index.
    connections: Vec<Option<Connection>>,
    connection_count: usize,
    connections_max: usize,
    /// Connections that may have something to send in this turn, and already in the next.
    touched: Vec<ConnectionId>,
    touched_next: Vec<ConnectionId>,
    /// When to look whether a connection has authenticated, in order.
    deadlines: VecDeque<(Instant, ConnectionId)>,
    nonce_key: Secret,
    nonces: u64,
    /// The room at the end of the last turn.
    level: RoomLevel,
}

/// What a [`Worker`] needs to know.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Which life of the server this is; the same for all workers.
    pub incarnation: Incarnation,
    /// Random bytes, of which the nonces are made; other ones for each worker.
    pub nonce_key: Secret,
    /// Who may connect.
    pub accounts: Accounts,
    /// What clients are told.
    pub limits: Limits,
    /// The highest version of the link protocol that is spoken.
    pub version_max: Version,
    /// Connections. One more takes the place of the oldest whose client has not proved itself; if all
    /// have, it is told so and closed.
    pub connections_max: usize,
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    session: Session,
    /// Receiving is paused, as the client does not read.
    paused: bool,
    /// The transport has no room: it will say when it has.
    full: bool,
    /// It is in `touched`.
    touched: bool,
}

impl<T: Transport> Worker<T> {
    /// A worker without connections.
    pub fn new(transport: T, table: QueueTable, options: WorkerOptions) -> Worker<T> {
        let WorkerOptions { nonce_key, connections_max, .. } = options;
        let shared = Shared {
            table,
            counters: Counters::default(),
            accounts: options.accounts,
            incarnation: options.incarnation,
            limits: options.limits,
            presence: Presence::default(),
            version_max: options.version_max,
        };
        Worker {
            transport,
            shared,
            listeners: Vec::new(),
            connections: Vec::new(),
            connection_count: 0,
            connections_max,
            touched: Vec::new(),
            touched_next: Vec::new(),
            deadlines: VecDeque::new(),
            nonce_key,
            nonces: 0,
            level: RoomLevel::default(),
        }
    }

    /// Accepts connections at `address`; returns the address with its real port.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn listen(&mut self, address: SocketAddr) -> Result<SocketAddr, OpenError> {
        let listener = self.transport.listen(address)?;
        self.listeners.push(listener);
        Ok(self.transport.local_address(listener).expect("it was just opened"))
    }

    /// The queues.
    pub fn table(&self) -> &QueueTable {
        &self.shared.table
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The transport.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// One turn: takes what has come, applies it, answers, and does a slice of what is left to do
    /// in the background. Returns whether there was anything. [`Worker::end_turn`] follows.
    pub fn turn(&mut self, now: Instant) -> bool {
        self.shared.presence.begin_turn(now);
        self.transport.poll(now);
        let mut worked = false;
        while let Some(event) = self.transport.next_event() {
            worked = true;
            self.handle_event(now, event);
        }
        worked |= !self.touched.is_empty();
        self.send_answers();
        worked |= self.shared.table.arena_mut().work(CHUNKS_PER_TURN) > 0;
        self.watch_room();
        self.expire(now);
        self.transport.flush(now);
        if worked {
            self.shared.counters.count(Counter::Turns);
        }
        worked
    }

    /// A turn is over, at a time read after it: when owners were last heard from counts by that. Without it
    /// they count as just heard from, and whoever takes their queues waits for longer.
    pub fn end_turn(&mut self, now: Instant) {
        self.shared.presence.end_turn(now, &mut self.shared.table);
    }

    /// Sleeps until something may have happened, but not past `until`.
    pub fn wait(&mut self, now: Instant, until: Option<Instant>) {
        if !self.touched.is_empty() || self.shared.table.arena().has_work() {
            return;
        }
        let own = self.next_deadline();
        let until = [own, until].into_iter().flatten().min();
        self.transport.wait(now, until);
    }

    /// When [`Worker::turn`] has something to do without anything having happened, if ever.
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.touched.is_empty() || self.shared.table.arena().has_work() {
            return Some(Instant::ZERO);
        }
        let deadline = self.deadlines.front().map(|(deadline, _)| *deadline);
        [deadline, self.transport.next_deadline()].into_iter().flatten().min()
    }

    /// Ends the service: listens no more, sends the answers that there are, closes.
    pub fn close(&mut self, now: Instant) {
        for listener in self.listeners.drain(..) {
            self.transport.unlisten(listener);
        }
        self.send_answers();
        for place in 0..self.connections.len() {
            self.remove(place, true);
        }
        self.transport.flush(now);
    }

    fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Accepted { connection, .. } => self.accept(now, connection),
            Event::Readable(id) => self.receive(id),
            Event::Writable(id) => {
                if let Some(connection) = find(&mut self.connections, id) {
                    connection.full = false;
                    touch(&mut self.touched, connection);
                }
            }
            Event::Closed { connection, .. } => {
                if find(&mut self.connections, connection).is_some() {
                    self.remove(connection.index as usize, false);
                }
            }
            // A server connects to nobody.
            Event::Connected(_) => {}
        }
    }

    fn accept(&mut self, now: Instant, id: ConnectionId) {
        let place = id.index as usize;
        if self.connections.len() <= place {
            self.connections.resize_with(place + 1, || None);
        }
        self.shared.counters.count(Counter::Connections);
        if self.connection_count >= self.connections_max {
            self.make_room();
        }
        let session = if self.connection_count < self.connections_max {
            self.nonces += 1;
            self.deadlines.push_back((now + AUTHENTICATION_TIME_OUT, id));
            Session::new(SessionId(id.index), auth::nonce(&self.nonce_key, self.nonces))
        } else {
            Session::refused(SessionId(id.index))
        };
        self.connection_count += 1;
        let connection = Connection { id, session, paused: false, full: false, touched: false };
        let connection = self.connections[place].insert(connection);
        touch(&mut self.touched, connection);
        self.count_connections();
    }

    /// Ends the oldest connection whose client has not proved itself, if there is one: whoever holds
    /// places in silence must not keep those out who have something to say.
    fn make_room(&mut self) {
        while let Some((_, id)) = self.deadlines.pop_front() {
            let Some(connection) = find(&mut self.connections, id) else { continue };
            if !connection.session.is_authenticated() && !connection.session.is_over() {
                self.shared.counters.count(Counter::AuthenticationFailures);
                self.remove(id.index as usize, true);
                return;
            }
        }
    }

    /// Takes what has come on a connection, and applies it.
    fn receive(&mut self, id: ConnectionId) {
        let Some(connection) = find(&mut self.connections, id) else { return };
        touch(&mut self.touched, connection);
        let (session, shared) = (&mut connection.session, &mut self.shared);
        for _ in 0..RECEIVES_PER_TURN {
            if session.is_over() || session.is_blocked() {
                break;
            }
            let received = if let Some(room) = session.body_room(shared) {
                let received = self.transport.recv_into(id, room);
                if let Ok(count) = received {
                    session.handle_placed(shared, count);
                }
                received
            } else {
                self.transport.recv(id, |bytes| {
                    let taken = session.handle_bytes(shared, bytes);
                    (taken, taken)
                })
            };
            match received {
                Ok(count) => shared.counters.add(Counter::BytesReceived, count as u64),
                Err(RecvError::WouldBlock) => break,
                // A client that is done sending is done.
                Err(RecvError::Finished) => session.end(shared),
                // A Closed event follows.
                Err(RecvError::Gone) => break,
            }
        }
        self.end_former_owners();
    }

    /// Ends the connections of those who owned a queue that somebody else has just taken over, before
    /// anything else that has come on them is read.
    fn end_former_owners(&mut self) {
        while let Some(session) = self.shared.presence.poll_former() {
            let place = self.connections.get_mut(session.0 as usize);
            let Some(connection) = place.and_then(Option::as_mut) else { continue };
            connection.session.retire(&mut self.shared);
            touch(&mut self.touched, connection);
        }
    }

    /// Sends what the touched connections have to say.
    fn send_answers(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            let Some(connection) = find(&mut self.connections, id) else { continue };
            connection.touched = false;
            let sent = send(&mut self.transport, &mut self.shared, connection);
            if sent.is_err() {
                self.remove(id.index as usize, false);
                continue;
            }
            if connection.session.is_over() && !connection.session.has_output() {
                self.remove(id.index as usize, true);
                continue;
            }
            let receiving = !connection.session.is_blocked() && !connection.session.is_over();
            if receiving == connection.paused {
                connection.paused = !receiving;
                self.transport.set_receiving(id, receiving);
            }
            if !connection.full && connection.session.has_output() {
                touch(&mut self.touched_next, connection);
            }
        }
        self.touched = std::mem::replace(&mut self.touched_next, touched);
    }

    /// When there is more room than before, clients that were told of a shortage hear of it in the
    /// next turn, also those that have nothing to ask: they may be waiting for just that.
    fn watch_room(&mut self) {
        let level = self.shared.table.arena().room().level();
        if level.is_above(self.level) {
            for connection in self.connections.iter_mut().flatten() {
                touch(&mut self.touched, connection);
            }
        }
        self.level = level;
    }

    /// Closes connections whose client has not proved itself in time.
    fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.deadlines.front()
            && deadline <= now
        {
            self.deadlines.pop_front();
            if let Some(connection) = find(&mut self.connections, id)
                && !connection.session.is_authenticated()
            {
                self.shared.counters.count(Counter::AuthenticationFailures);
                self.remove(id.index as usize, true);
            }
        }
    }

    /// Forgets a connection, and closes it if it is not gone already.
    fn remove(&mut self, place: usize, close: bool) {
        let Some(mut connection) = self.connections[place].take() else { return };
        connection.session.end(&mut self.shared);
        if close {
            self.transport.close(connection.id);
        }
        self.connection_count -= 1;
        self.count_connections();
    }

    fn count_connections(&mut self) {
        self.shared.counters.set(Counter::ConnectionsOpen, self.connection_count as u64);
    }
}

/// Sends what a connection has to say, as far as there is room and others do not wait too long.
fn send<T: Transport>(
    transport: &mut T,
    shared: &mut Shared,
    connection: &mut Connection,
) -> Result<(), SendError> {
    for _ in 0..SENDS_PER_TURN {
        if connection.full {
            return Ok(());
        }
        let output = connection.session.poll_output(shared);
        if output.is_empty() {
            return Ok(());
        }
        let offered = output.len();
        let taken = transport.send(connection.id, &[IoSlice::new(output)])?;
        connection.session.advance_output(taken);
        connection.full = taken < offered;
        shared.counters.add(Counter::BytesSent, taken as u64);
        if !connection.session.has_output() {
            return Ok(());
        }
    }
    Ok(())
}

fn find(connections: &mut [Option<Connection>], id: ConnectionId) -> Option<&mut Connection> {
    connections.get_mut(id.index as usize)?.as_mut().filter(|connection| connection.id == id)
}

fn touch(touched: &mut Vec<ConnectionId>, connection: &mut Connection) {
    if !connection.touched {
        connection.touched = true;
        touched.push(connection.id);
    }
}

/// Who has not proved itself after this time is closed.
const AUTHENTICATION_TIME_OUT: Duration = Duration::from_secs(10);

/// Receive calls on one connection before others have their turn.
const RECEIVES_PER_TURN: usize = 4;

/// Send calls on one connection before others have their turn.
const SENDS_PER_TURN: usize = 4;

/// Chunks of dropped queues that are cleared in one turn: some tens of microseconds.
const CHUNKS_PER_TURN: usize = 512;

//! TCP as it would be if it cost nothing: what one end sends is at the other one at once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::rc::Rc;

use tcpstack::{
    CloseReason, ConnectionId, Event, Instant, ListenerId, OpenError, RecvError, SendError,
    Transport,
};

/// Bytes that an end may have sent and the other one has not received.
const ROOM_BYTES: usize = 4 << 20;

/// What connects [`Pipe`]s.
#[derive(Clone, Debug, Default)]
pub struct Net(Rc<RefCell<Vec<End>>>);

/// One host's transport.
#[derive(Debug)]
pub struct Pipe {
    net: Net,
    host: usize,
}

#[derive(Debug, Default)]
struct End {
    listening: Option<SocketAddr>,
    connections: Vec<Connection>,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Connection {
    /// The other end: host and place there. None once it is gone.
    peer: Option<(usize, usize)>,
    received: Vec<u8>,
    taken: usize,
    is_receiving: bool,
    /// A `send` found no room.
    is_full: bool,
}

const LISTENER: ListenerId = ListenerId { index: 0, generation: 0 };

fn id(place: usize) -> ConnectionId {
    ConnectionId { index: u32::try_from(place).expect("a few connections"), generation: 0 }
}

impl Net {
    /// A host's transport.
    pub fn host(&self) -> Pipe {
        let mut ends = self.0.borrow_mut();
        ends.push(End::default());
        Pipe { net: self.clone(), host: ends.len() - 1 }
    }
}

impl Pipe {
    fn with<R>(&self, connection: ConnectionId, act: impl FnOnce(&mut Connection) -> R) -> R {
        act(&mut self.net.0.borrow_mut()[self.host].connections[connection.index as usize])
    }

    /// Takes bytes of what was received; whoever found no room before hears of it.
    fn take<R>(
        &self,
        connection: ConnectionId,
        consume: impl FnOnce(&[u8]) -> (usize, R),
    ) -> Result<R, RecvError> {
        let (result, peer) = self.with(connection, |it| {
            if it.taken == it.received.len() {
                let gone = if it.peer.is_none() { RecvError::Gone } else { RecvError::WouldBlock };
                return Err(gone);
            }
            let (count, result) = consume(&it.received[it.taken..]);
            it.taken += count;
            if it.taken == it.received.len() {
                it.received.clear();
                it.taken = 0;
            }
            Ok((result, it.peer))
        })?;
        if let Some((host, place)) = peer {
            let end = &mut self.net.0.borrow_mut()[host];
            if std::mem::take(&mut end.connections[place].is_full) {
                end.events.push_back(Event::Writable(id(place)));
            }
        }
        Ok(result)
    }
}

impl Transport for Pipe {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, OpenError> {
        self.net.0.borrow_mut()[self.host].listening = Some(address);
        Ok(LISTENER)
    }

    fn local_address(&self, _: ListenerId) -> Option<SocketAddr> {
        self.net.0.borrow()[self.host].listening
    }

    fn unlisten(&mut self, _: ListenerId) {
        self.net.0.borrow_mut()[self.host].listening = None;
    }

    fn connect(
        &mut self,
        _: Instant,
        remote: SocketAddr,
        _: Option<IpAddr>,
    ) -> Result<ConnectionId, OpenError> {
        let mut ends = self.net.0.borrow_mut();
        let there = ends.iter().position(|end| end.listening == Some(remote));
        let there = there.expect("somebody listens there");
        let places = (ends[self.host].connections.len(), ends[there].connections.len());
        let connection = |peer| Connection {
            peer: Some(peer),
            received: Vec::new(),
            taken: 0,
            is_receiving: true,
            is_full: false,
        };
        ends[self.host].connections.push(connection((there, places.1)));
        ends[there].connections.push(connection((self.host, places.0)));
        let accepted =
            Event::Accepted { listener: LISTENER, connection: id(places.1), peer: remote };
        ends[there].events.push_back(accepted);
        ends[self.host].events.push_back(Event::Connected(id(places.0)));
        Ok(id(places.0))
    }

    fn poll(&mut self, _: Instant) {
        let end = &mut self.net.0.borrow_mut()[self.host];
        for (place, connection) in end.connections.iter().enumerate() {
            if connection.is_receiving && connection.taken < connection.received.len() {
                end.events.push_back(Event::Readable(id(place)));
            }
        }
    }

    fn next_event(&mut self) -> Option<Event> {
        self.net.0.borrow_mut()[self.host].events.pop_front()
    }

    fn recv<R>(
        &mut self,
        connection: ConnectionId,
        consume: impl FnOnce(&[u8]) -> (usize, R),
    ) -> Result<R, RecvError> {
        self.take(connection, consume)
    }

    fn recv_into(&mut self, connection: ConnectionId, into: &mut [u8]) -> Result<usize, RecvError> {
        self.take(connection, |bytes| {
            let count = bytes.len().min(into.len());
            into[..count].copy_from_slice(&bytes[..count]);
            (count, count)
        })
    }

    fn set_receiving(&mut self, connection: ConnectionId, receiving: bool) {
        self.with(connection, |it| it.is_receiving = receiving);
    }

    fn send(
        &mut self,
        connection: ConnectionId,
        slices: &[IoSlice<'_>],
    ) -> Result<usize, SendError> {
        let Some((host, place)) = self.with(connection, |it| it.peer) else {
            return Err(SendError::Gone);
        };
        let mut ends = self.net.0.borrow_mut();
        let there = &mut ends[host].connections[place];
        let mut sent = 0;
        for slice in slices {
            let room = ROOM_BYTES - (there.received.len() - there.taken);
            let count = slice.len().min(room);
            there.received.extend_from_slice(&slice[..count]);
            sent += count;
            if count < slice.len() {
                ends[self.host].connections[connection.index as usize].is_full = true;
                break;
            }
        }
        Ok(sent)
    }

    fn finish(&mut self, connection: ConnectionId) {
        self.abort(connection);
    }

    fn close(&mut self, connection: ConnectionId) {
        self.abort(connection);
    }

    fn abort(&mut self, connection: ConnectionId) {
        let Some((host, place)) = self.with(connection, |it| it.peer.take()) else { return };
        let end = &mut self.net.0.borrow_mut()[host];
        end.connections[place].peer = None;
        let reason = CloseReason::Reset;
        end.events.push_back(Event::Closed { connection: id(place), reason });
    }

    fn flush(&mut self, _: Instant) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn wait(&mut self, _: Instant, _: Option<Instant>) {}

    fn add_wait_descriptors(&self, _: &mut Vec<RawFd>) -> bool {
        false
    }
}

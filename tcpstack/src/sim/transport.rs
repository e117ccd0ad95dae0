//! One program's view of the simulated network.

use std::cell::{RefCell, RefMut};
use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::rc::Rc;

use super::connection::{End, EndState, Item, Side, Way};
use super::engine::{Engine, Place, overlap};
use super::network::FIRST_PORT;
use crate::time::Instant;
use crate::transport::{
    ConnectionId, Event, ListenerId, OpenError, RecvError, SendError, Transport,
};

/// [`Transport`] over a [`SimNetwork`](super::SimNetwork).
///
/// The times that it is given are not used: the network has its own, so that a program's clock may
/// run fast, slow or in jumps. `wait` returns at once; the simulator moves time.
#[derive(Debug)]
pub struct SimTransport {
    engine: Rc<RefCell<Engine>>,
    index: usize,
}

impl SimTransport {
    pub(super) fn new(engine: Rc<RefCell<Engine>>, index: usize) -> SimTransport {
        SimTransport { engine, index }
    }

    /// The network's state, and where the name leads: `None` if it is dead.
    fn find(&self, name: ConnectionId) -> Option<(RefMut<'_, Engine>, u64, Side)> {
        let engine = self.engine.borrow_mut();
        let place = engine.transports[self.index].connections.get(name.into())?;
        if place.dead {
            return None;
        }
        let (id, side) = (place.connection, place.side);
        Some((engine, id, side))
    }

    /// What `recv` answers when there are no bytes.
    fn nothing(end: &mut End) -> RecvError {
        if end.end_received {
            end.finished = true;
            RecvError::Finished
        } else {
            RecvError::WouldBlock
        }
    }

    fn release(&mut self, name: ConnectionId) -> Option<(RefMut<'_, Engine>, u64, Side)> {
        let mut engine = self.engine.borrow_mut();
        let transport = &mut engine.transports[self.index];
        let place = transport.connections.remove(name.into())?;
        transport.ready.remove(&name);
        if place.dead { None } else { Some((engine, place.connection, place.side)) }
    }
}

impl Transport for SimTransport {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, OpenError> {
        let mut engine = self.engine.borrow_mut();
        let engine = &mut *engine;
        let transport = &engine.transports[self.index];
        let host = transport.host;
        if !transport.alive {
            return Err(OpenError::Address(ErrorKind::NetworkDown.into()));
        }
        let addresses = &engine.hosts[host].addresses;
        if !address.ip().is_unspecified() && !addresses.contains(&address.ip()) {
            return Err(OpenError::Address(ErrorKind::AddrNotAvailable.into()));
        }
        let address = match address.port() {
            0 => SocketAddr::new(address.ip(), engine.take_port(host)),
            _ => address,
        };
        let mut others = engine.transports.iter().filter(|other| other.host == host);
        if others.any(|other| other.listeners.entries().any(|(_, at)| overlap(*at, address))) {
            return Err(OpenError::Address(ErrorKind::AddrInUse.into()));
        }
        let key = engine.transports[self.index].listeners.insert(address);
        key.map(ListenerId::from).ok_or(OpenError::TableFull)
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        self.engine.borrow().transports[self.index].listeners.get(listener.into()).copied()
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.engine.borrow_mut().transports[self.index].listeners.remove(listener.into());
    }

    fn connect(
        &mut self,
        _now: Instant,
        remote: SocketAddr,
        local: Option<IpAddr>,
    ) -> Result<ConnectionId, OpenError> {
        let mut engine = self.engine.borrow_mut();
        let engine = &mut *engine;
        let transport = &engine.transports[self.index];
        if !transport.alive {
            return Err(OpenError::Address(ErrorKind::NetworkDown.into()));
        }
        let host = transport.host;
        let mut addresses = engine.hosts[host].addresses.iter().copied();
        let found = match local {
            Some(local) => addresses.find(|&ip| ip == local),
            None => addresses.find(|ip| ip.is_ipv4() == remote.is_ipv4()),
        };
        let Some(ip) = found.filter(|ip| ip.is_ipv4() == remote.is_ipv4()) else {
            return Err(OpenError::Address(ErrorKind::AddrNotAvailable.into()));
        };
        let key = transport.connections.next_key().ok_or(OpenError::TableFull)?;
        let name = ConnectionId::from(key);
        let client = SocketAddr::new(ip, engine.take_port(host));
        let state = EndState::Named { transport: self.index, name };
        let connection = engine.connect([client, remote], state);
        let place = Place { connection, side: 0, dead: false, announced: false };
        engine.transports[self.index].connections.insert(place);
        Ok(name)
    }

    fn poll(&mut self, _now: Instant) {
        let mut engine = self.engine.borrow_mut();
        let engine = &mut *engine;
        let transport = &mut engine.transports[self.index];
        let mut names: Vec<ConnectionId> = transport.ready.iter().copied().collect();
        // No program may depend on the order between connections.
        engine.rng.shuffle(&mut names);
        for name in names {
            let Some(place) = transport.connections.get_mut(name.into()) else {
                transport.ready.remove(&name);
                continue;
            };
            let ready =
                !place.dead && engine.connections[&place.connection].ends[place.side].is_ready();
            if !ready {
                transport.ready.remove(&name);
            } else if !place.announced {
                place.announced = true;
                transport.events.push_back(Event::Readable(name));
            }
        }
    }

    fn next_event(&mut self) -> Option<Event> {
        let mut engine = self.engine.borrow_mut();
        while let Some(event) = engine.transports[self.index].events.pop_front() {
            if engine.admit(self.index, &event) {
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
        let (piece, start) = {
            let (mut engine, id, side) = self.find(connection).ok_or(RecvError::Gone)?;
            let end = engine.end(id, side);
            end.take_first().ok_or_else(|| Self::nothing(end))?
        };
        // The network is not borrowed here: the consumer may use other transports.
        let (taken, result) = consume(&piece[start..]);
        let (mut engine, id, side) = self.find(connection).expect("this borrows the transport");
        engine.note_tapped(id, side, false, &piece[start..start + taken]);
        engine.end(id, side).put_back(piece, start + taken);
        if taken > 0 {
            engine.push(id, side, Item::Window(taken));
        }
        Ok(result)
    }

    fn recv_into(&mut self, connection: ConnectionId, into: &mut [u8]) -> Result<usize, RecvError> {
        assert!(!into.is_empty(), "nowhere to receive to");
        let (mut engine, id, side) = self.find(connection).ok_or(RecvError::Gone)?;
        let end = engine.end(id, side);
        let mut filled = 0;
        while filled < into.len()
            && let Some((piece, start)) = end.take_first()
        {
            let count = (piece.len() - start).min(into.len() - filled);
            into[filled..filled + count].copy_from_slice(&piece[start..start + count]);
            filled += count;
            end.put_back(piece, start + count);
        }
        if filled == 0 {
            return Err(Self::nothing(end));
        }
        engine.note_tapped(id, side, false, &into[..filled]);
        engine.push(id, side, Item::Window(filled));
        Ok(filled)
    }

    fn set_receiving(&mut self, connection: ConnectionId, receiving: bool) {
        if let Some((mut engine, id, side)) = self.find(connection) {
            engine.end(id, side).receiving = receiving;
            if engine.end(id, side).is_ready() {
                engine.transports[self.index].ready.insert(connection);
            }
        }
    }

    fn send(
        &mut self,
        connection: ConnectionId,
        slices: &[IoSlice<'_>],
    ) -> Result<usize, SendError> {
        let (mut engine, id, side) = self.find(connection).ok_or(SendError::Gone)?;
        let window = engine.options.window_bytes;
        let short_send_ppm = engine.options.short_send_ppm;
        let end = engine.end(id, side);
        assert!(!end.finishing, "nothing may be sent after finish");
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let room = if end.connecting { 0 } else { window - end.outstanding };
        let mut taken = offered.min(room);
        if taken > 0 && engine.chance(short_send_ppm) {
            taken = engine.rng.usize(0..taken);
            engine.schedule_room(id, side);
        }
        let end = engine.end(id, side);
        end.awaits_room |= taken < offered;
        end.outstanding += taken;
        let mut bytes = Vec::with_capacity(taken);
        for slice in slices {
            let count = slice.len().min(taken - bytes.len());
            bytes.extend_from_slice(&slice[..count]);
        }
        engine.push_bytes(id, side, bytes);
        Ok(taken)
    }

    fn finish(&mut self, connection: ConnectionId) {
        if let Some((mut engine, id, side)) = self.find(connection)
            && !engine.end(id, side).finishing
        {
            engine.end(id, side).finishing = true;
            engine.push_end(id, side);
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        if let Some((mut engine, id, side)) = self.release(connection) {
            let since = engine.now;
            let end = engine.end(id, side);
            end.state = EndState::Orphan { since };
            let unread: usize = end.received.iter().map(Vec::len).sum::<usize>() - end.taken;
            end.received.clear();
            let finishing = std::mem::replace(&mut end.finishing, true);
            if unread > 0 {
                engine.push(id, side, Item::Window(unread));
            }
            if !finishing {
                engine.push_end(id, side);
            }
            engine.forget_if_over(id);
        }
    }

    fn abort(&mut self, connection: ConnectionId) {
        if let Some((mut engine, id, side)) = self.release(connection) {
            *engine.end(id, side) = End::new(EndState::Vanished);
            let found = engine.connections.get_mut(&id).expect("the name led to it");
            if found.ways[side].stalled {
                found.ways[side] = Way::default();
            }
            engine.push(id, side, Item::Reset);
        }
    }

    fn flush(&mut self, _now: Instant) {
        // `send` has put everything on its way.
    }

    fn next_deadline(&self) -> Option<Instant> {
        let engine = self.engine.borrow();
        let transport = &engine.transports[self.index];
        let is_ready = |name: &ConnectionId| {
            transport.connections.get((*name).into()).is_some_and(|place| {
                !place.dead && engine.connections[&place.connection].ends[place.side].is_ready()
            })
        };
        let waiting = !transport.events.is_empty() || transport.ready.iter().any(is_ready);
        waiting.then_some(Instant::ZERO)
    }

    fn wait(&mut self, _now: Instant, _until: Option<Instant>) {}

    fn add_wait_descriptors(&self, _descriptors: &mut Vec<RawFd>) -> bool {
        false
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        // While a panic unwinds the network may be borrowed; nobody will use it then.
        if let Ok(mut engine) = self.engine.try_borrow_mut() {
            engine.end_process(self.index);
        }
    }
}

impl Engine {
    /// An end that a live name led to.
    fn end(&mut self, id: u64, side: Side) -> &mut End {
        &mut self.connections.get_mut(&id).expect("a live name leads to a connection").ends[side]
    }

    /// Whether an event may still be handed out, and what follows from that.
    fn admit(&mut self, transport: usize, event: &Event) -> bool {
        let (Event::Accepted { connection: name, .. }
        | Event::Connected(name)
        | Event::Readable(name)
        | Event::Writable(name)
        | Event::Closed { connection: name, .. }) = *event;
        let state = &mut self.transports[transport];
        let Some(place) = state.connections.get_mut(name.into()) else { return false };
        match event {
            Event::Accepted { .. } | Event::Connected(_) => true,
            Event::Writable(_) => !place.dead,
            Event::Readable(_) => {
                place.announced = false;
                !place.dead && self.connections[&place.connection].ends[place.side].is_ready()
            }
            Event::Closed { .. } => {
                state.ready.remove(&name);
                state.connections.remove(name.into());
                true
            }
        }
    }

    /// A port of the host that nobody uses, from the dynamic range, in turn.
    fn take_port(&mut self, host: usize) -> u16 {
        let port = self.hosts[host].next_port;
        self.hosts[host].next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
        port
    }
}

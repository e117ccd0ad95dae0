//! Two transports joined by a network, and turns of a loop that drives both.

use std::io::IoSlice;
use std::net::SocketAddr;

use tcpstack::{ConnectionId, Event, Instant, ListenerId, RecvError, Transport};

/// Which of the two transports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Client,
    Server,
}

/// What a test asks of its network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// The bound of each transport's table.
    pub(crate) connections_max: usize,
    pub(crate) ipv6: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { connections_max: 256, ipv6: false }
    }
}

/// Two transports joined by a network.
pub(crate) trait Harness {
    type Transport: Transport;

    /// How many tables of connections it has, each with the bound of the setup.
    const PARTS: u32 = 1;

    fn new(setup: Setup) -> Self;

    fn transport(&mut self, end: End) -> &mut Self::Transport;

    /// Where the server may listen; port 0 or any other.
    fn server_address(&self) -> SocketAddr;

    fn now(&self) -> Instant;

    /// Lets the network work after a turn, and time pass when nothing else is to be done. Panics
    /// when so much time has passed that the test has failed.
    fn pass_time(&mut self);
}

/// A harness, and what a test does with it.
pub(crate) struct World<H: Harness> {
    pub(crate) harness: H,
    /// All events so far.
    pub(crate) log: Vec<(End, Event)>,
}

impl<H: Harness> World<H> {
    pub(crate) fn new() -> World<H> {
        World::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup) -> World<H> {
        World { harness: H::new(setup), log: Vec::new() }
    }

    pub(crate) fn at(&mut self, end: End) -> &mut H::Transport {
        self.harness.transport(end)
    }

    pub(crate) fn listen(&mut self) -> (ListenerId, SocketAddr) {
        let address = self.harness.server_address();
        let server = self.at(End::Server);
        let listener = server.listen(address).unwrap();
        (listener, server.local_address(listener).unwrap())
    }

    pub(crate) fn connect(&mut self, remote: SocketAddr) -> ConnectionId {
        let now = self.harness.now();
        self.at(End::Client).connect(now, remote, None).unwrap()
    }

    /// A connection, by its name at the client and at the server.
    pub(crate) fn pair(&mut self) -> (ConnectionId, ConnectionId) {
        let (_, address) = self.listen();
        self.pair_at(address)
    }

    pub(crate) fn pair_at(&mut self, address: SocketAddr) -> (ConnectionId, ConnectionId) {
        let client = self.connect(address);
        let (mut connected, mut accepted) = (false, None);
        while !connected || accepted.is_none() {
            for (end, event) in self.turn() {
                match event {
                    Event::Connected(name) if end == End::Client => connected |= name == client,
                    Event::Accepted { connection, .. } => accepted = Some(connection),
                    Event::Readable(_) | Event::Writable(_) => {}
                    other => panic!("{other:?} while connecting"),
                }
            }
        }
        (client, accepted.unwrap())
    }

    /// One turn of both loops; what it brought.
    pub(crate) fn turn(&mut self) -> Vec<(End, Event)> {
        let mut events = Vec::new();
        let now = self.harness.now();
        for end in [End::Client, End::Server] {
            let transport = self.harness.transport(end);
            transport.poll(now);
            while let Some(event) = transport.next_event() {
                events.push((end, event));
            }
            transport.flush(now);
        }
        self.log.extend_from_slice(&events);
        self.harness.pass_time();
        events
    }

    /// Turns until an event comes that `wanted` accepts.
    pub(crate) fn until(&mut self, wanted: impl Fn(End, Event) -> bool) -> Event {
        loop {
            let events = self.turn();
            if let Some(&(_, event)) = events.iter().find(|&&(end, event)| wanted(end, event)) {
                return event;
            }
        }
    }

    pub(crate) fn until_readable(&mut self, end: End, connection: ConnectionId) {
        self.until(|at, event| at == end && event == Event::Readable(connection));
    }

    /// Sends all, in as many turns as it takes.
    pub(crate) fn send_all(&mut self, end: End, connection: ConnectionId, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let sent = self.at(end).send(connection, &[IoSlice::new(bytes)]).unwrap();
            bytes = &bytes[sent..];
            if !bytes.is_empty() {
                self.until(|at, event| at == end && event == Event::Writable(connection));
            }
        }
    }

    /// Receives so many bytes, in as many turns as it takes.
    pub(crate) fn receive(&mut self, end: End, connection: ConnectionId, count: usize) -> Vec<u8> {
        let mut received = Vec::new();
        while received.len() < count {
            self.until_readable(end, connection);
            let missing = count - received.len();
            let piece = self.at(end).recv(connection, |bytes| {
                let taken = bytes.len().min(missing);
                (taken, bytes[..taken].to_vec())
            });
            match piece {
                Ok(piece) => received.extend_from_slice(&piece),
                Err(RecvError::WouldBlock) => {}
                Err(error) => panic!("{error:?} after {} bytes", received.len()),
            }
        }
        received
    }

    /// Receives until the peer has finished.
    pub(crate) fn receive_rest(&mut self, end: End, connection: ConnectionId) -> Vec<u8> {
        let mut received = Vec::new();
        loop {
            self.until_readable(end, connection);
            let piece = self.at(end).recv(connection, |bytes| (bytes.len(), bytes.to_vec()));
            match piece {
                Ok(piece) => received.extend_from_slice(&piece),
                Err(RecvError::WouldBlock) => {}
                Err(RecvError::Finished) => return received,
                Err(RecvError::Gone) => panic!("it ended after {} bytes", received.len()),
            }
        }
    }

    /// Turns until both ends have been quiet for so long that what could happen has.
    pub(crate) fn settle(&mut self) {
        let start = self.harness.now();
        while self.harness.now() - start < SETTLED {
            self.turn();
        }
    }
}

/// Longer than a round trip in every harness, shorter than any time-out.
const SETTLED: std::time::Duration = std::time::Duration::from_millis(20);

//! The links of one shard: a connection to each backup queue server, over which all queues of the
//! shard go.
//!
//! A link is up once both ends have proved that they know the account's secret. It goes down when
//! the connection ends, or when the server owes answers and has sent nothing for too long. Then it
//! connects again, with backoff.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kvs_proto::auth::{NONCE_SIZE_BYTES, Secret};
use kvs_proto::body::{Baseline as BaselineBody, QueueName};
use kvs_proto::{
    Client, ClientConfig, Event as ClientEvent, Generation, Incarnation, QueueHandle, Sequence,
    Status, Tag,
};
use tcpstack::{ConnectionId, Event, Instant, RecvError, Transport};
use tracing::{debug, info, warn};

use crate::message::QueueIndex;
use crate::replication::request::{
    Answer, Ask, Baseline, Changing, Operation, Outlet, Reply, Request, Standing,
};

/// Bytes of requests that wait for one server. At the bound the copies' pumps pause.
const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// Messages and bytes that one block of recovery has at most.
const BLOCK_COUNT_MAX: u32 = 1000;
const BLOCK_BYTES_MAX: u32 = 8 << 20;

/// Delay before the second attempt to connect; it doubles up to the maximum.
const RECONNECT_FIRST: Duration = Duration::from_millis(20);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// Most receive calls on one link in one turn, so that no server starves the others.
const RECEIVES_PER_TURN: usize = 16;

/// Slices handed to the transport at once.
const SLICES_MAX: usize = 64;

/// Where a server is and how it is talked to.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// The server's name in the configuration.
    pub server: String,
    /// Its address.
    pub address: SocketAddr,
    /// Our address towards it, if it matters.
    pub local: Option<IpAddr>,
    /// Our account there.
    pub account: String,
    /// Its secret.
    pub secret: Secret,
    /// After this long without a word from the server we ask whether it is there.
    pub heart_beat: Duration,
    /// After this long without a word, although it owes answers, the link is down.
    pub deadline: Duration,
}

/// What happened on a link.
#[derive(Debug)]
pub enum LinkEvent {
    /// It is up, and the server is in that life.
    Up(usize, Incarnation),
    /// It is down. What was asked and not answered will not be answered.
    Down(usize),
    /// An answer.
    Reply(usize, Reply),
}

/// One link. Requests go in through [`Outlet`].
#[derive(Debug)]
pub struct Link {
    settings: LinkSettings,
    state: LinkState,
    /// How often we have connected: the generation that the server knows the connection by.
    generation: Generation,
    failures: u32,
    now: Instant,
}

#[derive(Debug)]
enum LinkState {
    Waiting {
        until: Instant,
    },
    Connecting(ConnectionId),
    /// Connected; welcomed once `up`.
    Connected {
        connection: ConnectionId,
        client: Box<Client>,
        up: bool,
        blocked: bool,
    },
}

/// All links of a shard, and the transport that they run on.
///
/// Each turn: [`turn`](Self::turn), which calls back with events; later [`flush`](Self::flush).
#[derive(Debug)]
pub struct Links<T> {
    transport: T,
    links: Vec<Link>,
    random: fastrand::Rng,
}

impl<T: Transport> Links<T> {
    /// Links to these servers. The seed is for nonces, and must not be guessable.
    pub fn new(transport: T, settings: Vec<LinkSettings>, seed: u64) -> Links<T> {
        let links = settings.into_iter().map(Link::new).collect();
        Links { transport, links, random: fastrand::Rng::with_seed(seed) }
    }

    /// The transport, for waiting.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// The links, in the order of their settings.
    pub fn links_mut(&mut self) -> &mut [Link] {
        &mut self.links
    }

    /// Receives, connects, watches; calls `handle` for each event. Returns whether there was
    /// anything to do.
    pub fn turn(&mut self, now: Instant, mut handle: impl FnMut(&mut [Link], LinkEvent)) -> bool {
        let mut worked = false;
        for link in &mut self.links {
            link.now = now;
        }
        self.transport.poll(now);
        while let Some(event) = self.transport.next_event() {
            worked = true;
            self.handle_transport(now, event, &mut handle);
        }
        for place in 0..self.links.len() {
            worked |= self.maintain(now, place, &mut handle);
        }
        worked
    }

    /// Sends what is queued.
    pub fn flush(&mut self, now: Instant) {
        for link in &mut self.links {
            link.send_output(&mut self.transport);
        }
        self.transport.flush(now);
    }

    /// When `turn` has something to do although nothing happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        let own = self.links.iter().map(Link::next_deadline).min();
        own.into_iter().chain(self.transport.next_deadline()).min()
    }

    /// Closes every connection.
    pub fn close(&mut self) {
        for link in &mut self.links {
            if let LinkState::Connected { connection, .. } | LinkState::Connecting(connection) =
                link.state
            {
                self.transport.close(connection);
            }
        }
    }

    fn handle_transport(
        &mut self,
        now: Instant,
        event: Event,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) {
        match event {
            Event::Connected(connection) => {
                let Some(place) = self.place_of(connection) else { return };
                let mut nonce = [0; NONCE_SIZE_BYTES];
                self.random.fill(&mut nonce);
                self.links[place].begin(now, connection, nonce);
            }
            Event::Readable(connection) => {
                let Some(place) = self.place_of(connection) else { return };
                self.receive(now, place, connection, handle);
            }
            Event::Writable(connection) => {
                if let Some(place) = self.place_of(connection)
                    && let LinkState::Connected { blocked, .. } = &mut self.links[place].state
                {
                    *blocked = false;
                }
            }
            Event::Closed { connection, reason } => {
                let Some(place) = self.place_of(connection) else { return };
                debug!(server = %self.links[place].settings.server, ?reason, "connection ended");
                self.go_down(now, place, handle);
            }
            Event::Accepted { .. } => unreachable!("links do not listen"),
        }
    }

    fn place_of(&self, connection: ConnectionId) -> Option<usize> {
        self.links.iter().position(|link| link.connection() == Some(connection))
    }

    fn receive(
        &mut self,
        now: Instant,
        place: usize,
        connection: ConnectionId,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) {
        for _ in 0..RECEIVES_PER_TURN {
            let LinkState::Connected { client, .. } = &mut self.links[place].state else { return };
            let received = self.transport.recv(connection, |bytes| {
                client.handle_bytes(wire(now), bytes);
                (bytes.len(), ())
            });
            match received {
                Ok(()) => {}
                Err(RecvError::WouldBlock) => return,
                Err(RecvError::Finished | RecvError::Gone) => {
                    self.transport.close(connection);
                    self.go_down(now, place, handle);
                    return;
                }
            }
            if !self.drain_events(place, handle) {
                self.transport.abort(connection);
                self.go_down(now, place, handle);
                return;
            }
        }
    }

    /// Passes on what the client has to tell; returns false if the connection must end.
    fn drain_events(
        &mut self,
        place: usize,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) -> bool {
        loop {
            let link = &mut self.links[place];
            let LinkState::Connected { client, up, .. } = &mut link.state else { return true };
            let Some(event) = client.poll_event() else { return true };
            match event {
                ClientEvent::Welcome { incarnation, .. } => {
                    *up = true;
                    link.failures = 0;
                    info!(server = %link.settings.server, %incarnation, "link up");
                    handle(&mut self.links, LinkEvent::Up(place, incarnation));
                }
                ClientEvent::ProtocolError(error) => {
                    warn!(server = %link.settings.server, ?error, "the server broke the protocol");
                    return false;
                }
                ClientEvent::Refused(refusal) if ends_connection(refusal.status) => {
                    let status = refusal.status;
                    warn!(server = %link.settings.server, ?status, "the server refuses us");
                    return false;
                }
                event => {
                    if let Some(reply) = translate(event) {
                        handle(&mut self.links, LinkEvent::Reply(place, reply));
                    }
                }
            }
        }
    }

    fn maintain(
        &mut self,
        now: Instant,
        place: usize,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) -> bool {
        let link = &mut self.links[place];
        match &mut link.state {
            LinkState::Waiting { until } if now >= *until => {
                link.connect(&mut self.transport);
                true
            }
            LinkState::Connected { connection, client, up, .. } => {
                let silent = now.saturating_since(from_wire(client.last_received()));
                if silent >= link.settings.deadline && client.unanswered() > 0 {
                    warn!(server = %link.settings.server, ?silent, "the server does not answer");
                    let connection = *connection;
                    self.transport.abort(connection);
                    self.go_down(now, place, handle);
                    return true;
                }
                if *up && silent >= link.settings.heart_beat && client.unanswered() == 0 {
                    client.heart_beat(wire(now), Tag(0), 0);
                }
                false
            }
            _ => false,
        }
    }

    fn go_down(
        &mut self,
        now: Instant,
        place: usize,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) {
        let link = &mut self.links[place];
        let was_up = matches!(link.state, LinkState::Connected { up: true, .. });
        link.wait(now);
        if was_up {
            warn!(server = %link.settings.server, "link down");
            handle(&mut self.links, LinkEvent::Down(place));
        }
    }
}

impl Link {
    fn new(settings: LinkSettings) -> Link {
        let state = LinkState::Waiting { until: Instant::ZERO };
        Link { settings, state, generation: Generation(0), failures: 0, now: Instant::ZERO }
    }

    fn connection(&self) -> Option<ConnectionId> {
        match &self.state {
            LinkState::Waiting { .. } => None,
            LinkState::Connecting(connection) => Some(*connection),
            LinkState::Connected { connection, .. } => Some(*connection),
        }
    }

    fn connect(&mut self, transport: &mut impl Transport) {
        match transport.connect(self.now, self.settings.address, self.settings.local) {
            Ok(connection) => self.state = LinkState::Connecting(connection),
            Err(error) => {
                warn!(server = %self.settings.server, %error, "cannot connect");
                self.wait(self.now);
            }
        }
    }

    fn begin(&mut self, now: Instant, connection: ConnectionId, nonce: [u8; NONCE_SIZE_BYTES]) {
        let config = ClientConfig {
            account: self.settings.account.clone(),
            secret: self.settings.secret.clone(),
            nonce,
            output_bytes_max: OUTPUT_BYTES_MAX,
        };
        self.generation = self.generation.next();
        let client = Box::new(Client::new(wire(now), config));
        self.state = LinkState::Connected { connection, client, up: false, blocked: false };
    }

    /// Waits before connecting again, longer after each failure in a row.
    fn wait(&mut self, now: Instant) {
        let delay = RECONNECT_FIRST.saturating_mul(1 << self.failures.min(16)).min(RECONNECT_MAX);
        self.failures = self.failures.saturating_add(1);
        self.state = LinkState::Waiting { until: now + delay };
    }

    fn send_output(&mut self, transport: &mut impl Transport) {
        let LinkState::Connected { connection, client, blocked, .. } = &mut self.state else {
            return;
        };
        while client.has_output() && !*blocked {
            let mut bytes: [&[u8]; SLICES_MAX] = [&[]; SLICES_MAX];
            let count = client.peek_output(&mut bytes);
            let offered = bytes[..count].iter().map(|slice| slice.len()).sum::<usize>();
            let slices: [IoSlice<'_>; SLICES_MAX] = bytes.map(IoSlice::new);
            // If the connection is gone, its event says so.
            let Ok(sent) = transport.send(*connection, &slices[..count]) else { return };
            client.advance_output(sent);
            *blocked = sent < offered;
        }
    }

    fn next_deadline(&self) -> Instant {
        match &self.state {
            LinkState::Waiting { until } => *until,
            LinkState::Connecting(_) => Instant::MAX,
            LinkState::Connected { client, .. } if client.unanswered() > 0 => {
                from_wire(client.last_received()) + self.settings.deadline
            }
            LinkState::Connected { client, .. } => {
                from_wire(client.last_received()) + self.settings.heart_beat
            }
        }
    }

    fn encode(&mut self, request: Request) {
        let generation = self.generation;
        let now = wire(self.now);
        let LinkState::Connected { client, up: true, .. } = &mut self.state else { return };
        let queue = QueueHandle(request.queue.0);
        let (tag, epoch) = (Tag(0), request.epoch);
        match request.ask {
            Ask::Create { name, messages_max, bytes_max } => {
                let name = queue_name(&name);
                client.create(now, queue, tag, epoch, generation, name, messages_max, bytes_max);
            }
            Ask::Attach { name } => {
                client.attach(now, queue, tag, epoch, generation, queue_name(&name));
            }
            Ask::Drop => client.drop_queue(now, queue, tag),
            Ask::BlockGet { after } => {
                client.block_get(now, queue, tag, after, BLOCK_COUNT_MAX, BLOCK_BYTES_MAX);
            }
            Ask::OpsGet { after } => client.ops_get(now, queue, tag, after),
            Ask::Change { sequence, floor, change } => {
                self.encode_change(queue, sequence, floor, change);
            }
        }
    }

    fn encode_change(
        &mut self,
        queue: QueueHandle,
        sequence: Sequence,
        floor: Sequence,
        change: Changing,
    ) {
        let now = wire(self.now);
        let LinkState::Connected { client, .. } = &mut self.state else { return };
        match change {
            Changing::Store(id, body) => client.store(now, queue, sequence, id, floor, &body),
            Changing::Delete(id) => client.delete(now, queue, sequence, id, floor),
            Changing::Replace(id, version, state) => {
                client.replace(now, queue, sequence, id, floor, version, state);
            }
            Changing::Baseline(Baseline { transaction, hash, content, messages }) => {
                let body = BaselineBody { transaction, chain: hash, content, messages };
                client.baseline(now, queue, sequence, floor, &body);
            }
        }
    }
}

impl Outlet for Link {
    fn has_room(&self) -> bool {
        match &self.state {
            LinkState::Connected { client, up: true, .. } => client.room() > 0,
            _ => false,
        }
    }

    fn send(&mut self, request: Request) {
        self.encode(request);
    }
}

fn queue_name(name: &str) -> QueueName<'_> {
    QueueName::parse(name.as_bytes()).expect("names are checked with the configuration")
}

fn ends_connection(status: Status) -> bool {
    matches!(
        status,
        Status::NotAuthenticated
            | Status::BadRequest
            | Status::NoCommonVersion
            | Status::TooManyConnections
    )
}

/// The same time on the link's own scale; both count from one origin.
fn wire(now: Instant) -> kvs_proto::Instant {
    kvs_proto::Instant::from_nanos(now.as_nanos())
}

fn from_wire(time: kvs_proto::Instant) -> Instant {
    Instant::from_nanos(time.as_nanos())
}

/// What the client says, as replication sees it. `None` for what has no meaning there.
fn translate(event: ClientEvent) -> Option<Reply> {
    let (queue, answer) = match event {
        ClientEvent::Attached { queue, transaction, credit, attached, .. } => {
            let numbers = Baseline {
                transaction,
                hash: attached.chain,
                content: attached.content,
                messages: attached.messages,
            };
            let standing =
                Standing { sequence: attached.last_sequence, numbers, last_id: attached.last_id };
            (queue, Answer::Attached { standing, credit })
        }
        ClientEvent::Dropped { queue, .. } => (queue, Answer::Dropped),
        ClientEvent::Ack { queue, sequence, transaction, credit, .. } => {
            (queue, Answer::Acknowledged { sequence, transaction, credit })
        }
        ClientEvent::Refused(refusal) => {
            let (op, status, epoch) = (refusal.op, refusal.status, refusal.epoch);
            (refusal.queue, Answer::Refused { op, status, epoch })
        }
        ClientEvent::Item(item) => {
            let (id, state_version) = (item.id, item.state_version);
            (item.queue, Answer::Item { id, state_version, state: item.state, body: item.body })
        }
        ClientEvent::BlockEnd { queue, finished, .. } => (queue, Answer::BlockEnd { finished }),
        ClientEvent::Ops { queue, entries, transaction, .. } => {
            let operations = entries.iter().map(|entry| Operation {
                transaction: entry.transaction,
                op: entry.op,
                id: entry.message,
                digest: entry.digest,
                hash: entry.chain,
            });
            (queue, Answer::Operations { operations: operations.collect(), head: transaction })
        }
        ClientEvent::Welcome { .. }
        | ClientEvent::HeartBeatReply { .. }
        | ClientEvent::Queues { .. }
        | ClientEvent::Counters { .. }
        | ClientEvent::ProtocolError(_) => return None,
    };
    Some(Reply { queue: QueueIndex(queue.0), answer })
}

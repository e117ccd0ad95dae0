//! A backup queue server of the tests' own making, reduced to what links need: written from
//! `docs/protocol.md`.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::SocketAddr;

use kvs_proto::auth::{Handshake, Role, Secret};
use kvs_proto::body::{Attached, Challenge, Hello, Limits};
use kvs_proto::{
    ChainHash, ContentDigest, Decoder, Epoch, Header, Incarnation, MessageId, Op, Piece, Sequence,
    Status, Version,
};
use tcpstack::{ConnectionId, Event, ListenerId, SimTransport, Transport};

pub(crate) struct Server {
    transport: SimTransport,
    listeners: BTreeMap<ListenerId, SocketAddr>,
    connections: BTreeMap<ConnectionId, Connection>,
    queues: BTreeMap<String, Queue>,
    /// Its life, as each of its addresses tells it.
    pub(super) lives: BTreeMap<SocketAddr, u64>,
    /// Where each queue lives that does not live at the first port.
    pub(crate) ports: BTreeMap<String, u16>,
    /// How often it answered that.
    pub(crate) wrong_workers: usize,
    /// It does nothing, as if it were stopped.
    pub(crate) is_stopped: bool,
    /// For how long the owners of the queues that it knows have been silent.
    pub(crate) idle_ms: BTreeMap<String, u64>,
    /// The version that it speaks.
    pub(crate) version_max: Version,
}

#[derive(Default)]
struct Queue {
    owner: (Epoch, u32),
    last: Sequence,
}

struct Connection {
    at: SocketAddr,
    decoder: Decoder,
    /// The frame that is arriving in pieces.
    open: Option<(Header, Vec<u8>)>,
    hello: Option<([u8; 16], Vec<u8>)>,
    handles: BTreeMap<u32, String>,
}

const NONCE: [u8; 16] = [7; 16];

impl Server {
    pub(crate) fn new(mut transport: SimTransport, addresses: &[SocketAddr]) -> Server {
        let mut listeners = BTreeMap::new();
        for address in addresses {
            listeners.insert(transport.listen(*address).unwrap(), *address);
        }
        Server {
            transport,
            listeners,
            connections: BTreeMap::new(),
            queues: BTreeMap::new(),
            lives: addresses.iter().map(|address| (*address, 1)).collect(),
            ports: BTreeMap::new(),
            wrong_workers: 0,
            is_stopped: false,
            idle_ms: BTreeMap::new(),
            version_max: Version::CURRENT,
        }
    }

    /// The queue's last sequence number, and its owner's generation.
    pub(super) fn queue(&self, name: &str) -> (u64, u32) {
        let queue = &self.queues[name];
        (queue.last.0, queue.owner.1)
    }

    /// Where clients are connected, in order.
    pub(super) fn connected(&self) -> Vec<SocketAddr> {
        let mut at = self.connections.values().map(|it| it.at).collect::<Vec<_>>();
        at.sort();
        at
    }

    /// Its process ends, and its host's kernel says so to whoever asks.
    pub(super) fn end(&mut self) {
        for listener in std::mem::take(&mut self.listeners).into_keys() {
            self.transport.unlisten(listener);
        }
        for connection in std::mem::take(&mut self.connections).into_keys() {
            self.transport.abort(connection);
        }
    }

    pub(crate) fn turn(&mut self, now: tcpstack::Instant) {
        if self.is_stopped {
            return;
        }
        self.transport.poll(now);
        while let Some(event) = self.transport.next_event() {
            match event {
                Event::Accepted { listener, connection, .. } => {
                    let (at, decoder) = (self.listeners[&listener], Decoder::new());
                    let (open, hello, handles) = (None, None, BTreeMap::new());
                    let it = Connection { at, decoder, open, hello, handles };
                    self.connections.insert(connection, it);
                }
                Event::Readable(id) => self.receive(id),
                Event::Closed { connection, .. } => _ = self.connections.remove(&connection),
                Event::Connected(_) | Event::Writable(_) => {}
            }
        }
        self.transport.flush(now);
    }

    fn receive(&mut self, id: ConnectionId) {
        loop {
            let received = self.transport.recv(id, |bytes| (bytes.len(), bytes.to_vec()));
            let Ok(bytes) = received else {
                if received != Err(tcpstack::RecvError::WouldBlock) {
                    self.connections.remove(&id);
                    self.transport.close(id);
                }
                return;
            };
            let mut frames = Vec::new();
            let Connection { decoder, open, .. } = self.connections.get_mut(&id).unwrap();
            let mut rest = &bytes[..];
            while let (used, Some(piece)) = decoder.handle_bytes(rest).unwrap() {
                rest = &rest[used..];
                match piece {
                    Piece::Frame(header, body) => frames.push((header, body.to_vec())),
                    Piece::Start(header) => *open = Some((header, Vec::new())),
                    Piece::Body(bytes) => open.as_mut().unwrap().1.extend(bytes),
                    Piece::End => frames.extend(open.take()),
                }
            }
            let mut answers = Vec::new();
            for (header, body) in frames {
                let (reply, body) = self.answer(id, &header, &body);
                let checksum = if body.is_empty() { 0 } else { kvs_proto::checksum(&body) };
                let length = u32::try_from(body.len()).unwrap();
                let reply = Header {
                    version: self.version_max,
                    body_length: length,
                    body_checksum: checksum,
                    ..reply
                };
                answers.extend(reply.encode());
                answers.extend(body);
            }
            self.transport.send(id, &[IoSlice::new(&answers)]).unwrap();
        }
    }

    fn answer(&mut self, id: ConnectionId, header: &Header, body: &[u8]) -> (Header, Vec<u8>) {
        let connection = self.connections.get_mut(&id).unwrap();
        let (version, incarnation) = (self.version_max, Incarnation(self.lives[&connection.at]));
        let reply = |op| Header {
            queue: header.queue,
            sequence: header.sequence,
            epoch: header.epoch,
            ..Header::new(op)
        };
        let refused = |status: Status, aux| Header {
            generation_or_status: status as u32,
            message: MessageId(header.op as u64),
            aux,
            ..reply(Op::Refused)
        };
        let sender = (header.epoch, header.generation_or_status);
        match header.op {
            Op::Hello => {
                let hello = Hello::decode(body).unwrap();
                connection.hello = Some((hello.nonce, hello.account.to_vec()));
                let limits = Limits {
                    message_size_bytes_max: 64 << 20,
                    state_size_bytes_max: 496,
                    in_flight_max: 100,
                    handles_max: 100,
                };
                let mut body = Vec::new();
                Challenge { version, incarnation, nonce: NONCE, limits }.encode(&mut body);
                (Header::new(Op::Challenge), body)
            }
            Op::Authenticate => {
                let (client_nonce, account) = connection.hello.clone().unwrap();
                let (server_nonce, account) = (NONCE, &account[..]);
                let handshake =
                    Handshake { version, incarnation, client_nonce, server_nonce, account };
                let proof = handshake.proof(Role::Server, &Secret::new(b"secret"));
                (Header::new(Op::Welcome), proof.to_vec())
            }
            Op::HeartBeat => (reply(Op::HeartBeatReply), Vec::new()),
            Op::Attach | Op::OwnerGet => {
                let name = String::from_utf8(body.to_vec()).unwrap();
                let first = self.listeners.values().map(SocketAddr::port).min().unwrap();
                let port = self.ports.get(&name).copied().unwrap_or(first);
                if port != connection.at.port() {
                    self.wrong_workers += 1;
                    return (refused(Status::WrongWorker, port.into()), Vec::new());
                }
                if header.op == Op::OwnerGet {
                    return match self.idle_ms.get(&name) {
                        Some(idle_ms) => (Header { aux: *idle_ms, ..reply(Op::Owner) }, Vec::new()),
                        None => (refused(Status::UnknownQueue, 0), Vec::new()),
                    };
                }
                let queue = self.queues.entry(name.clone()).or_default();
                if sender < queue.owner {
                    return (refused(Status::Fenced, 0), Vec::new());
                }
                queue.owner = sender;
                connection.handles.insert(header.queue.0, name);
                let mut body = Vec::new();
                Attached {
                    last_sequence: queue.last,
                    chain: ChainHash(0),
                    content: ContentDigest(0),
                    messages: queue.last.0,
                    bytes: 0,
                    first_id: MessageId(0),
                    last_id: MessageId(queue.last.0),
                    port,
                    owner_idle_ms: None,
                }
                .encode(version, &mut body);
                (Header { aux: queue.last.0, ..reply(Op::Attached) }, body)
            }
            Op::Store => {
                let queue = self.queues.get_mut(&connection.handles[&header.queue.0]).unwrap();
                if sender != queue.owner {
                    return (refused(Status::Fenced, 0), Vec::new());
                }
                if header.sequence > queue.last.next() {
                    return (refused(Status::SequenceGap, 0), Vec::new());
                }
                queue.last = queue.last.max(header.sequence);
                let ack = Header { aux: queue.last.0, message: MessageId(1), ..reply(Op::Ack) };
                (ack, Vec::new())
            }
            op => panic!("{op:?} is not expected"),
        }
    }
}

//! The null server: what a backup queue server costs before it does anything.
//!
//! Transport, frames, handshake and checksums are real; each block of requests is acknowledged as a
//! run; bodies are discarded. What a server keeps less fast than this one, it spends on queues.

use std::io::IoSlice;
use std::net::SocketAddr;

use fastrand::Rng;
use kvs_proto::auth::{Handshake, NONCE_SIZE_BYTES, Role, Secret};
use kvs_proto::body::{Attached, Challenge, Counter, Hello, Limits, decode_proof, encode_counter};
use kvs_proto::{
    ChainHash, ContentDigest, Credit, Decoder, HEADER_SIZE_BYTES, Header, Incarnation, MessageId,
    Op, PART_SIZE_BYTES_MAX, Piece, QueueHandle, Sequence, Status, Version, checksum, flags,
};
use tcpstack::{
    ConnectionId, Event as TcpEvent, Instant, ListenerId, OpenError, RecvError, Transport,
};

/// How a [`NullServer`] behaves.
#[derive(Clone, Debug)]
pub struct NullConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The secret of every account.
    pub secret: Secret,
    /// Seed of its nonces and its incarnation.
    pub seed: u64,
    /// Changes in flight that it promises to remember, though it remembers none.
    pub in_flight_max: u32,
    /// Bytes of the messages that it makes up when asked for a block, at most 64 KiB.
    pub item_size_bytes: usize,
}

/// The server. The loop around it calls [`NullServer::turn`], and [`NullServer::wait`] when there was
/// nothing to do. Connections are bounded by the transport.
pub struct NullServer<T: Transport> {
    transport: T,
    listener: ListenerId,
    sessions: Vec<Option<(ConnectionId, Session)>>,
    desk: Desk,
}

/// What sessions share.
struct Desk {
    config: NullConfig,
    rng: Rng,
    incarnation: Incarnation,
    item: Vec<u8>,
    item_checksum: u32,
}

#[derive(Debug)]
struct Session {
    decoder: Decoder,
    /// The header of a frame whose body is arriving, and what came of it where it matters.
    open: Option<(Header, Vec<u8>)>,
    hello: Option<(Vec<u8>, [u8; NONCE_SIZE_BYTES], [u8; NONCE_SIZE_BYTES])>,
    authenticated: bool,
    /// Changes not yet acknowledged: of which queue, the last one, and how many.
    run: Option<(Header, u64)>,
    /// Stored and not deleted, if it were so.
    messages: u64,
    out: Vec<u8>,
    sent: usize,
    broken: bool,
    version: Version,
}

impl<T: Transport> NullServer<T> {
    /// Begins to listen.
    ///
    /// # Errors
    /// What the transport says.
    pub fn open(mut transport: T, config: NullConfig) -> Result<NullServer<T>, OpenError> {
        assert!(config.item_size_bytes <= PART_SIZE_BYTES_MAX, "items travel in one part");
        let listener = transport.listen(config.listen)?;
        let mut rng = Rng::with_seed(config.seed);
        let item = vec![b'n'; config.item_size_bytes];
        let desk = Desk {
            incarnation: Incarnation(rng.u64(1..)),
            item_checksum: if item.is_empty() { 0 } else { checksum(&item) },
            item,
            rng,
            config,
        };
        Ok(NullServer { transport, listener, sessions: Vec::new(), desk })
    }

    /// Where it listens, with its real port.
    pub fn address(&self) -> Option<SocketAddr> {
        self.transport.local_address(self.listener)
    }

    /// Sleeps until something happens, or until then.
    pub fn wait(&mut self, now: Instant, until: Option<Instant>) {
        self.transport.wait(now, until);
    }

    /// When it wants its next turn, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.transport.next_deadline()
    }

    /// Does what there is to do, and answers whether there was anything.
    pub fn turn(&mut self, now: Instant) -> bool {
        self.transport.poll(now);
        let mut worked = false;
        while let Some(event) = self.transport.next_event() {
            worked = true;
            match event {
                TcpEvent::Accepted { connection, .. } => self.handle_accepted(connection),
                TcpEvent::Readable(connection) => self.handle_readable(connection),
                TcpEvent::Writable(connection) => self.send(connection),
                TcpEvent::Closed { connection, .. } => self.forget(connection),
                TcpEvent::Connected(_) => unreachable!("a server connects to nobody"),
            }
        }
        self.transport.flush(now);
        worked
    }

    fn handle_accepted(&mut self, connection: ConnectionId) {
        let index = connection.index as usize;
        if self.sessions.len() <= index {
            self.sessions.resize_with(index + 1, || None);
        }
        self.sessions[index] = Some((connection, Session::new()));
    }

    fn handle_readable(&mut self, connection: ConnectionId) {
        let Some(Some((of, session))) = self.sessions.get_mut(connection.index as usize) else {
            return;
        };
        if *of != connection {
            return;
        }
        let desk = &mut self.desk;
        let received = self.transport.recv(connection, |bytes| {
            session.handle_block(bytes, desk);
            (bytes.len(), ())
        });
        match received {
            Ok(()) if !session.broken => self.send(connection),
            Err(RecvError::WouldBlock) => {}
            Ok(()) | Err(RecvError::Finished | RecvError::Gone) => {
                self.transport.close(connection);
                self.forget(connection);
            }
        }
    }

    /// Sends what there is; while the peer does not take it nothing more is received.
    fn send(&mut self, connection: ConnectionId) {
        let Some(Some((_, session))) = self.sessions.get_mut(connection.index as usize) else {
            return;
        };
        let rest = &session.out[session.sent..];
        if !rest.is_empty() {
            let Ok(sent) = self.transport.send(connection, &[IoSlice::new(rest)]) else { return };
            session.sent += sent;
        }
        let all_sent = session.sent == session.out.len();
        if all_sent {
            session.out.clear();
            session.sent = 0;
        }
        self.transport.set_receiving(connection, all_sent);
    }

    fn forget(&mut self, connection: ConnectionId) {
        if let Some(place) = self.sessions.get_mut(connection.index as usize) {
            *place = None;
        }
    }
}

impl Session {
    fn new() -> Session {
        Session {
            decoder: Decoder::new(),
            open: None,
            hello: None,
            authenticated: false,
            run: None,
            messages: 0,
            out: Vec::new(),
            sent: 0,
            broken: false,
            version: Version::OLDEST,
        }
    }

    /// Takes a block of requests and answers it.
    fn handle_block(&mut self, mut bytes: &[u8], desk: &mut Desk) {
        while !self.broken {
            match self.decoder.handle_bytes(bytes) {
                Ok((_, None)) => break,
                Ok((used, Some(piece))) => {
                    bytes = &bytes[used..];
                    self.handle_piece(piece, desk);
                }
                Err(_) => self.broken = true,
            }
        }
        self.acknowledge();
    }

    fn handle_piece(&mut self, piece: Piece<'_>, desk: &mut Desk) {
        match piece {
            Piece::Frame(header, body) => self.handle_frame(&header, body, desk),
            Piece::Start(header) => self.open = Some((header, Vec::new())),
            Piece::Body(bytes) => {
                // Bodies of changes are discarded: their checksum was the decoder's work.
                let (header, body) = self.open.as_mut().expect("a body follows its start");
                if !header.op.is_change() {
                    body.extend_from_slice(bytes);
                }
            }
            Piece::End => {
                let (header, body) = self.open.take().expect("an end follows its start");
                self.handle_frame(&header, &body, desk);
            }
        }
    }

    fn handle_frame(&mut self, header: &Header, body: &[u8], desk: &mut Desk) {
        match header.op {
            op if op.is_change() && self.authenticated => self.handle_change(header),
            Op::Hello if self.hello.is_none() => self.handle_hello(body, desk),
            Op::Authenticate => self.handle_proof(body, desk),
            _ if !self.authenticated => self.broken = true,
            Op::Create | Op::Attach => self.handle_attach(header),
            Op::BlockGet => self.handle_block_get(header, desk),
            Op::HeartBeat => self.reply(&Header { op: Op::HeartBeatReply, ..*header }, &[]),
            Op::Statistics => self.handle_statistics(header),
            Op::Drop => self.reply(&Header { op: Op::Dropped, ..reply_to(header) }, &[]),
            _ => {
                let refused = Header {
                    op: Op::Refused,
                    generation_or_status: Status::BadRequest as u32,
                    message: MessageId(header.op as u64),
                    ..reply_to(header)
                };
                self.reply(&refused, &[]);
            }
        }
    }

    fn handle_change(&mut self, header: &Header) {
        if header.flags & flags::MORE != 0 {
            return;
        }
        let mut last = *header;
        let mut count = 1;
        match header.op {
            Op::Store => self.messages += 1,
            Op::Delete => {
                let Some(deletes) = header.delete_count() else {
                    self.broken = true;
                    return;
                };
                last = header.delete_at(deletes - 1);
                count = deletes;
                self.messages = self.messages.saturating_sub(count);
            }
            _ => {}
        }
        match &mut self.run {
            Some((before, already)) if before.queue == last.queue => {
                *before = last;
                *already += count;
            }
            _ => {
                self.acknowledge();
                self.run = Some((last, count));
            }
        }
    }

    fn acknowledge(&mut self) {
        let Some((last, count)) = self.run.take() else { return };
        let ack = Header {
            op: Op::Ack,
            sequence: last.sequence,
            aux: last.sequence.0,
            message: MessageId(count),
            floor: plenty().to_bits(),
            ..reply_to(&last)
        };
        self.reply(&ack, &[]);
    }

    fn handle_hello(&mut self, body: &[u8], desk: &mut Desk) {
        let Ok(hello) = Hello::decode(body) else {
            self.broken = true;
            return;
        };
        let version = Version::common(Version::CURRENT, hello.version_min, hello.version_max);
        let Some(version) = version else {
            self.broken = true;
            return;
        };
        self.version = version;
        let nonce = desk.rng.u128(..).to_le_bytes();
        let challenge = Challenge {
            version,
            incarnation: desk.incarnation,
            nonce,
            limits: Limits {
                message_size_bytes_max: 64 << 20,
                state_size_bytes_max: 240,
                in_flight_max: desk.config.in_flight_max,
                handles_max: 1024,
            },
        };
        let mut body = Vec::new();
        challenge.encode(&mut body);
        self.hello = Some((hello.account.to_vec(), hello.nonce, nonce));
        self.reply(&Header::new(Op::Challenge), &body);
    }

    fn handle_proof(&mut self, body: &[u8], desk: &Desk) {
        let proof = decode_proof(body);
        let (Some((account, client_nonce, server_nonce)), Ok(proof)) = (&self.hello, proof) else {
            self.broken = true;
            return;
        };
        let handshake = Handshake {
            version: self.version,
            incarnation: desk.incarnation,
            client_nonce: *client_nonce,
            server_nonce: *server_nonce,
            account,
        };
        let secret = &desk.config.secret;
        if !handshake.verify(Role::Client, secret, &proof) {
            self.broken = true;
            return;
        }
        let own = handshake.proof(Role::Server, secret);
        self.authenticated = true;
        self.reply(&Header::new(Op::Welcome), &own);
    }

    fn handle_attach(&mut self, header: &Header) {
        let attached = Attached {
            last_sequence: Sequence(0),
            chain: ChainHash(0),
            content: ContentDigest(0),
            messages: 0,
            bytes: 0,
            first_id: MessageId(0),
            last_id: MessageId(0),
            port: 0,
            owner_idle_ms: None,
        };
        let mut body = Vec::new();
        attached.encode(self.version, &mut body);
        let header = Header { op: Op::Attached, floor: plenty().to_bits(), ..reply_to(header) };
        self.reply(&header, &body);
    }

    /// Of all counters it has one: what this connection has stored and not deleted.
    fn handle_statistics(&mut self, header: &Header) {
        let mut body = Vec::new();
        encode_counter(Counter::Messages, self.messages, &mut body);
        self.reply(&Header { op: Op::Counters, ..reply_to(header) }, &body);
    }

    /// Makes up messages of the configured size, their ids behind the cursor: as many as asked for.
    /// It knows no end of the queue; whoever asks knows what it stored.
    fn handle_block_get(&mut self, header: &Header, desk: &Desk) {
        let count_max = header.aux >> 32;
        let bytes_max = header.aux & u64::from(u32::MAX);
        let size = desk.item.len() as u64;
        let fitting = bytes_max.checked_div(size).map_or(count_max, |fitting| fitting.max(1));
        let count = count_max.min(fitting);
        let mut id = header.message;
        for _ in 0..count {
            id = id.next();
            let item = Header {
                op: Op::Item,
                body_checksum: desk.item_checksum,
                body_length: u32::try_from(size).expect("at most one part"),
                aux: size,
                message: id,
                version: self.version,
                ..reply_to(header)
            };
            self.out.extend_from_slice(&item.encode());
            self.out.extend_from_slice(&desk.item);
        }
        let end = Header { op: Op::BlockEnd, aux: count, message: id, ..reply_to(header) };
        self.reply(&end, &[]);
    }

    fn reply(&mut self, header: &Header, body: &[u8]) {
        let mut header = *header;
        header.version = self.version;
        header.body_length = u32::try_from(body.len()).expect("replies are short");
        header.body_checksum = if body.is_empty() { 0 } else { checksum(body) };
        self.out.reserve(HEADER_SIZE_BYTES + body.len());
        self.out.extend_from_slice(&header.encode());
        self.out.extend_from_slice(body);
    }
}

/// A header that answers `request`: same queue, epoch and tag, the rest zero.
const fn reply_to(request: &Header) -> Header {
    let mut header = Header::new(request.op);
    header.queue = QueueHandle(request.queue.0);
    header.epoch = request.epoch;
    header.sequence = request.sequence;
    header
}

const fn plenty() -> Credit {
    Credit { messages: u32::MAX, kib: u32::MAX }
}

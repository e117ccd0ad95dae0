//! The server's end of one connection.
//!
//! Requests are applied in the order in which they come, while the block that they came in is being
//! decoded; the answers gather in one block, in which consecutive acknowledgements of a queue are
//! one frame.

mod ahead;
mod grants;
mod output;
mod parts;
mod presence;
mod reads;
mod requests;
mod shared;

use kvs_proto::auth::{Handshake, NONCE_SIZE_BYTES, Role};
use kvs_proto::body::{Challenge, Counter, Hello, decode_proof};
use kvs_proto::{
    Decoder, Epoch, Generation, Header, MessageId, Op, Piece, QueueHandle, Sequence, Status,
    Transaction, Version,
};

use crate::arena::RoomLevel;
use crate::table::QueueRef;

use output::Output;
use parts::Incoming;
use reads::Reads;

pub use presence::{Presence, SessionId};
pub use shared::{Account, Accounts, Shared};

/// The server's end of one connection, as a state machine.
///
/// The order of calls: [`Session::handle_bytes`] with what was received; once a turn
/// [`Session::poll_output`] for what there is to send, then [`Session::advance_output`] by how much
/// was; [`Session::end`] when the connection is gone. While [`Session::is_blocked`], the client
/// does not read its answers, and nothing more is to be received from it. When
/// [`Session::is_over`], the connection is to be closed after what there is to send.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    phase: Phase,
    decoder: Decoder,
    /// Where the body that is arriving in pieces goes.
    open: Option<Open>,
    /// By the client's handle; at most `limits.handles_max`.
    handles: Vec<Option<Handle>>,
    /// Handles with an unsent acknowledgement.
    runs: Vec<QueueHandle>,
    reads: Reads,
    output: Output,
    /// The room that there was when grants were last looked at.
    level: RoomLevel,
}

#[derive(Debug)]
enum Phase {
    /// Nothing was said yet.
    New { nonce: [u8; NONCE_SIZE_BYTES] },
    /// The challenge was sent.
    Challenged(Box<Challenged>),
    /// The client has proved itself; the place of its account.
    Ready(usize),
    /// The connection is to be closed.
    Over,
}

#[derive(Debug)]
struct Challenged {
    /// `None`: no such account, which the client learns no sooner than a wrong secret.
    account: Option<usize>,
    name: Box<[u8]>,
    client_nonce: [u8; NONCE_SIZE_BYTES],
    server_nonce: [u8; NONCE_SIZE_BYTES],
}

/// A queue by the name that the connection gave it.
#[derive(Debug)]
struct Handle {
    queue: QueueRef,
    /// As whom the connection has attached.
    owner: (Epoch, Generation),
    run: Run,
    /// A message that is arriving in pieces.
    incoming: Option<Incoming>,
    /// The room when the last credit was granted, if that was less than the queue's own bounds
    /// allow.
    short_at: Option<RoomLevel>,
}

/// Acknowledgements that will be one frame; none if `count` is 0.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    count: u64,
    last: Sequence,
    transaction: Transaction,
    epoch: Epoch,
}

#[derive(Debug)]
enum Open {
    /// Into memory: a part of a message.
    Part(Header),
    /// All others, at most `PART_SIZE_BYTES_MAX`.
    Small(Header, Vec<u8>),
}

impl Session {
    /// A session of which the client has said nothing. `nonce` is random, for this connection only; `id` is
    /// no other's until [`Session::end`].
    pub fn new(id: SessionId, nonce: [u8; NONCE_SIZE_BYTES]) -> Session {
        Session {
            id,
            phase: Phase::New { nonce },
            decoder: Decoder::new(),
            open: None,
            handles: Vec::new(),
            runs: Vec::new(),
            reads: Reads::default(),
            output: Output::new(Version::OLDEST),
            level: RoomLevel::default(),
        }
    }

    /// A session that only tells the client that there are too many, and is over.
    pub fn refused(id: SessionId) -> Session {
        let mut session = Session::new(id, [0; NONCE_SIZE_BYTES]);
        session.end_with(Op::Hello, Status::TooManyConnections);
        session
    }

    /// Takes received bytes, applies the requests in them, and says how many it took: all, unless
    /// it became blocked or is over.
    pub fn handle_bytes(&mut self, shared: &mut Shared, bytes: &[u8]) -> usize {
        shared.presence.note_heard(self.id);
        let mut taken = 0;
        while !self.is_over() && (self.open.is_some() || !self.is_blocked()) {
            match self.decoder.handle_bytes(&bytes[taken..]) {
                Ok((_, None)) => return bytes.len(),
                Ok((used, Some(piece))) => {
                    taken += used;
                    if let Piece::Frame(..) = piece {
                        self.look_ahead(shared, &bytes[taken..]);
                    }
                    self.handle_piece(shared, piece);
                }
                Err(_) => {
                    // What cannot be framed cannot be answered either.
                    shared.counters.count(Counter::ProtocolErrors);
                    self.phase = Phase::Over;
                }
            }
        }
        taken
    }

    /// Room in memory where the next body bytes from the network may be put directly, if many are
    /// expected. Hand them to [`Session::handle_placed`] after that.
    pub fn body_room<'a>(&mut self, shared: &'a mut Shared) -> Option<&'a mut [u8]> {
        let Some(Open::Part(header)) = self.open else { return None };
        let left = self.decoder.body_left();
        if left < DIRECT_SIZE_BYTES_MIN {
            return None;
        }
        let room = self.incoming_room(shared, header.queue)?;
        let length = room.len().min(left);
        (length >= DIRECT_SIZE_BYTES_MIN).then(|| &mut room[..length])
    }

    /// The first `count` bytes of [`Session::body_room`] were received.
    pub fn handle_placed(&mut self, shared: &mut Shared, count: usize) {
        shared.presence.note_heard(self.id);
        let Some(Open::Part(header)) = self.open else { return };
        let Some(room) = self.incoming_room(shared, header.queue) else { return };
        let mut sound = self.decoder.handle_bytes(&room[..count]).is_ok();
        self.advance_incoming(shared, header.queue, count);
        if sound && self.decoder.body_left() == 0 {
            match self.decoder.handle_bytes(&[]) {
                Ok((_, Some(piece))) => self.handle_piece(shared, piece),
                result => sound = result.is_ok(),
            }
        }
        if !sound {
            shared.counters.count(Counter::ProtocolErrors);
            self.phase = Phase::Over;
        }
    }

    /// What there is to send: the answers to what was handled, and the next messages of the reads
    /// under way.
    pub fn poll_output(&mut self, shared: &mut Shared) -> &[u8] {
        self.flush_runs(shared);
        if !self.is_over() {
            self.renew_grants(shared);
            self.pump_reads(shared);
        }
        self.output.pending()
    }

    /// The first `count` bytes of the output were sent.
    pub fn advance_output(&mut self, count: usize) {
        self.output.advance(count);
    }

    /// Whether it has something to send, or will without anything being received.
    pub fn has_output(&self) -> bool {
        !self.output.pending().is_empty()
            || !self.runs.is_empty()
            || (!self.is_over() && !self.reads.is_empty())
    }

    /// Whether so much waits to be sent that nothing more is to be received.
    pub fn is_blocked(&self) -> bool {
        self.output.pending().len() >= OUTPUT_SIZE_BYTES_HIGH
    }

    /// Whether the connection is to be closed once its output is sent.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Whether the client has proved itself.
    pub fn is_authenticated(&self) -> bool {
        matches!(self.phase, Phase::Ready(_))
    }

    /// Gives back what the session holds, as the connection is gone.
    pub fn end(&mut self, shared: &mut Shared) {
        self.phase = Phase::Over;
        for place in 0..self.handles.len() {
            self.abort_incoming(shared, place);
            if let Some(handle) = &self.handles[place] {
                shared.presence.detach(self.id, handle.queue, &mut shared.table);
            }
        }
    }

    /// Somebody else owns a queue that this session was attached to: its connection is to end. What was
    /// asked before that is answered still, but for reads, and nothing that comes now is read.
    pub fn retire(&mut self, shared: &mut Shared) {
        self.flush_runs(shared);
        self.phase = Phase::Over;
    }

    #[inline]
    fn handle_piece(&mut self, shared: &mut Shared, piece: Piece<'_>) {
        match piece {
            Piece::Frame(header, body) => {
                shared.counters.count(Counter::Frames);
                self.handle_frame(shared, &header, body);
            }
            Piece::Start(header) => {
                shared.counters.count(Counter::Frames);
                let is_sound = self.is_authenticated() && header.version == self.output.version();
                self.open =
                    if is_sound && header.op == Op::Store && self.begin_part(shared, &header) {
                        Some(Open::Part(header))
                    } else {
                        Some(Open::Small(header, Vec::new()))
                    };
            }
            Piece::Body(bytes) => match &mut self.open {
                Some(Open::Part(header)) => {
                    let queue = header.queue;
                    self.fill_incoming(shared, queue, bytes);
                }
                Some(Open::Small(_, body)) => body.extend_from_slice(bytes),
                None => unreachable!("a body follows its start"),
            },
            Piece::End => match self.open.take() {
                Some(Open::Part(header)) => self.end_part(shared, &header),
                Some(Open::Small(header, body)) => self.handle_frame(shared, &header, &body),
                None => unreachable!("an end follows its start"),
            },
        }
    }

    #[inline]
    fn handle_frame(&mut self, shared: &mut Shared, header: &Header, body: &[u8]) {
        // Hello comes in the oldest version that the client speaks.
        if header.op != Op::Hello && header.version != self.output.version() {
            return self.break_off(shared, header.op);
        }
        match (&self.phase, header.op) {
            (Phase::Ready(_), op) if op.is_change() => self.handle_change(shared, header, body),
            (Phase::Ready(account), _) => {
                let account = *account;
                self.handle_request(shared, account, header, body);
            }
            (Phase::New { nonce }, Op::Hello) => {
                let nonce = *nonce;
                self.handle_hello(shared, nonce, body);
            }
            (Phase::Challenged(_), Op::Authenticate) => self.handle_authenticate(shared, body),
            (Phase::Over, _) => {}
            (_, op) => self.end_with(op, Status::NotAuthenticated),
        }
    }

    fn handle_hello(&mut self, shared: &mut Shared, nonce: [u8; NONCE_SIZE_BYTES], body: &[u8]) {
        let Ok(hello) = Hello::decode(body) else {
            return self.break_off(shared, Op::Hello);
        };
        let Hello { version_min, version_max, .. } = hello;
        let Some(version) = Version::common(shared.version_max, version_min, version_max) else {
            return self.end_with(Op::Hello, Status::NoCommonVersion);
        };
        let incarnation = shared.incarnation;
        let limits = shared.limits;
        let mut challenge = Vec::new();
        Challenge { version, incarnation, nonce, limits }.encode(&mut challenge);
        self.output.set_version(version);
        self.output.push(Header::new(Op::Challenge), &challenge);
        self.phase = Phase::Challenged(Box::new(Challenged {
            account: shared.accounts.find(hello.account),
            name: hello.account.into(),
            client_nonce: hello.nonce,
            server_nonce: nonce,
        }));
    }

    fn handle_authenticate(&mut self, shared: &mut Shared, body: &[u8]) {
        let Phase::Challenged(challenged) = &self.phase else { return };
        let Ok(proof) = decode_proof(body) else {
            return self.break_off(shared, Op::Authenticate);
        };
        let handshake = Handshake {
            version: self.output.version(),
            incarnation: shared.incarnation,
            client_nonce: challenged.client_nonce,
            server_nonce: challenged.server_nonce,
            account: &challenged.name,
        };
        let account = challenged.account.filter(|account| {
            handshake.verify(Role::Client, &shared.accounts.get(*account).secret, &proof)
        });
        let Some(account) = account else {
            shared.counters.count(Counter::AuthenticationFailures);
            return self.end_with(Op::Authenticate, Status::NotAuthenticated);
        };
        let proof = handshake.proof(Role::Server, &shared.accounts.get(account).secret);
        self.output.push(Header::new(Op::Welcome), &proof);
        self.phase = Phase::Ready(account);
    }

    /// Ends the connection because the peer broke the protocol.
    fn break_off(&mut self, shared: &mut Shared, op: Op) {
        shared.counters.count(Counter::ProtocolErrors);
        self.flush_runs(shared);
        self.end_with(op, Status::BadRequest);
    }

    /// Ends the connection with a word why.
    fn end_with(&mut self, op: Op, status: Status) {
        let header = Header {
            generation_or_status: status as u32,
            message: MessageId(op as u64),
            ..Header::new(Op::Refused)
        };
        self.output.push(header, &[]);
        self.phase = Phase::Over;
    }
}

/// So many unsent bytes stop the receiving. Replies made in one turn can go beyond it by those to one request: one, or
/// for a Delete as many as it removes messages.
const OUTPUT_SIZE_BYTES_HIGH: usize = 1 << 20;

/// A body of which fewer bytes than this are expected is not worth a receive call of its own.
const DIRECT_SIZE_BYTES_MIN: usize = 16 * 1024;

#[cfg(test)]
mod tests;

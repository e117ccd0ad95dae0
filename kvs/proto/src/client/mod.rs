//! The client's end of one link to a backup queue server.

mod replies;
mod requests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::BytesMut;

use crate::auth::{NONCE_SIZE_BYTES, Secret};
use crate::body::{Challenge, Hello, Limits};
use crate::event::{Event, ProtocolError};
use crate::outbox::Outbox;
use crate::{Decoder, Epoch, Generation, Header, Instant, Op, Version};

/// The client's end of one connection, from its first byte to its last. A new connection takes a
/// new `Client`.
///
/// The order of calls:
///
/// 1. [`Client::new`] when the connection is established; it has a frame to send at once.
/// 2. [`Client::handle_bytes`] with what was received, then [`Client::poll_event`] until `None`.
/// 3. After [`Event::Welcome`]: [`Client::create`] or [`Client::attach`], and from then on (not
///    waiting for the answer, if the caller knows it) the other commands.
/// 4. [`Client::peek_output`], and [`Client::advance_output`] by what the transport took, until
///    there is no output.
///
/// It never sends anything again by itself, and knows no deadlines: the queue's owner judges by
/// [`Client::oldest_unanswered_since`] and [`Client::last_received`].
///
/// After [`Event::ProtocolError`], or `Refused` with a status that ends the connection, it is dead:
/// it takes no more input, has no output, and commands do nothing.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    state: State,
    decoder: Decoder,
    /// The frame whose body is arriving in pieces.
    open: Option<Open>,
    /// By handle. At most `limits.handles_max` entries.
    queues: Vec<Option<Queue>>,
    outbox: Outbox,
    events: VecDeque<Event>,
    /// How many requests were made when, oldest first; those of one instant share an entry. The
    /// server answers in order, save that a message in parts may be overtaken.
    unanswered: VecDeque<(Instant, u64)>,
    unanswered_count: u64,
    last_received: Instant,
    /// When the newest request was made that is known to be answered.
    answered: Option<Instant>,
    /// When the newest heart-beat was made.
    heart_beat_at: Option<Instant>,
}

/// What a [`Client`] needs to know.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Name of the account, 1 to 64 bytes.
    pub account: String,
    /// Its secret.
    pub secret: Secret,
    /// Random bytes, fresh for each connection.
    pub nonce: [u8; NONCE_SIZE_BYTES],
    /// The highest version that it offers.
    pub version_max: Version,
    /// Bytes that may wait for sending. Commands are taken beyond it; callers that would append
    /// look at [`Client::room`] first.
    pub output_bytes_max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// `Hello` was sent.
    Hello,
    /// `Authenticate` was sent.
    Authenticating(Challenge),
    /// Welcomed.
    Ready(Limits),
    /// It is over.
    Dead,
}

/// A frame whose body is arriving.
#[derive(Debug)]
struct Open {
    header: Header,
    /// Bytes so far, at most one part. Not used for items, which are assembled at the queue.
    body: Vec<u8>,
}

/// A handle in use.
#[derive(Debug)]
struct Queue {
    epoch: Epoch,
    generation: Generation,
    /// The item that is arriving, of which there is none but in recovery: a thousand queues without one fit a cache.
    item: Option<Box<Assembly>>,
    /// It was asked to go, and not asked for since.
    is_dropped: bool,
}

#[derive(Debug)]
struct Assembly {
    header: Header,
    /// State record and message.
    bytes: BytesMut,
}

impl Client {
    /// Begins the handshake.
    ///
    /// Stops the process if the account's name is empty or longer than 64 bytes.
    pub fn new(now: Instant, config: ClientConfig) -> Client {
        let account = config.account.as_bytes();
        assert!((1..=crate::body::ACCOUNT_SIZE_BYTES_MAX).contains(&account.len()));
        let mut body = Vec::new();
        Hello {
            version_min: Version::OLDEST as u8,
            version_max: config.version_max as u8,
            nonce: config.nonce,
            account,
        }
        .encode(&mut body);
        let mut client = Client {
            config,
            state: State::Hello,
            decoder: Decoder::new(),
            open: None,
            queues: Vec::new(),
            // So that every server that speaks one of the versions can read it.
            outbox: Outbox::new(Version::OLDEST),
            events: VecDeque::new(),
            unanswered: VecDeque::new(),
            unanswered_count: 0,
            last_received: now,
            answered: None,
            heart_beat_at: None,
        };
        client.push_control(now, Header::new(Op::Hello), &body);
        client
    }

    /// Takes received bytes; all of them are used. Events wait for [`Client::poll_event`]: at most
    /// one for each 40 bytes.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.last_received = now;
        }
        let mut rest = bytes;
        while self.state != State::Dead {
            match self.decoder.handle_bytes(rest) {
                Ok((_, None)) => return,
                Ok((used, Some(piece))) => {
                    rest = &rest[used..];
                    let result = self.handle_piece(now, piece);
                    self.die_on_error(result);
                }
                Err(error) => self.die_on_error(Err(ProtocolError::Decode(error))),
            }
        }
    }

    /// What the server said, in its order.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Fills `slices` with the next bytes to send, in order, and says how many it filled; 0 when
    /// there is nothing to send.
    pub fn peek_output<'a>(&'a mut self, slices: &mut [&'a [u8]]) -> usize {
        self.outbox.peek(slices)
    }

    /// The first `count` bytes of the output were sent.
    ///
    /// Stops the process if that is more than [`Client::peek_output`] showed.
    pub fn advance_output(&mut self, count: usize) {
        self.outbox.advance(count);
    }

    /// Whether there is something to send.
    pub fn has_output(&self) -> bool {
        self.outbox.bytes() > 0
    }

    /// Bytes of output that are still welcome; 0 when `output_bytes_max` or more are waiting.
    pub fn room(&self) -> usize {
        self.config.output_bytes_max.saturating_sub(self.outbox.bytes())
    }

    /// Whether commands are possible: after `Welcome`, and while the connection is sound.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// When the oldest request that has no answer was made. Approximate where a message in parts
    /// was overtaken by shorter requests: then it may be that of a later one.
    pub fn oldest_unanswered_since(&self) -> Option<Instant> {
        self.unanswered.front().map(|(since, _)| *since)
    }

    /// Requests without an answer.
    pub fn unanswered(&self) -> u64 {
        self.unanswered_count
    }

    /// When bytes last came from the server (at first: when the client was made). A long message
    /// on its way has no answer for long; heart-beats between its parts show here.
    pub fn last_received(&self) -> Instant {
        self.last_received
    }

    /// What the server and we speak; the oldest version, before it has said so.
    pub fn version(&self) -> Version {
        self.outbox.version()
    }

    /// When the newest request was made that is known to be answered, if any is: the server was there, and
    /// took what this connection asked for, at some time after that. An answer counts for the oldest
    /// request that it may be to; that to a heart-beat counts for that heart-beat.
    pub fn answered_since(&self) -> Option<Instant> {
        self.answered
    }

    /// When the newest heart-beat was made, if any was.
    pub fn heart_beat_at(&self) -> Option<Instant> {
        self.heart_beat_at
    }

    fn is_shaking_hands(&self) -> bool {
        matches!(self.state, State::Hello | State::Authenticating(_))
    }

    #[inline]
    fn note_request(&mut self, now: Instant) {
        self.unanswered_count += 1;
        match self.unanswered.back_mut() {
            Some((since, count)) if *since == now => *count += 1,
            _ => self.unanswered.push_back((now, 1)),
        }
    }

    /// `count` requests were answered; more than were made is an error of the server's.
    #[inline]
    fn note_answers(&mut self, op: Op, mut count: u64) -> Result<(), ProtocolError> {
        self.unanswered_count =
            self.unanswered_count.checked_sub(count).ok_or(ProtocolError::Unexpected(op))?;
        while count > 0 {
            let (since, waiting) = self.unanswered.front_mut().expect("the count is their sum");
            let answered = count.min(*waiting);
            *waiting -= answered;
            count -= answered;
            self.answered = self.answered.max(Some(*since));
            if *waiting == 0 {
                self.unanswered.pop_front();
            }
        }
        Ok(())
    }

    fn die_on_error(&mut self, result: Result<(), ProtocolError>) {
        if let Err(error) = result {
            self.die();
            self.events.push_back(Event::ProtocolError(error));
        }
    }

    fn die(&mut self) {
        self.state = State::Dead;
        self.outbox.clear();
        self.open = None;
        self.queues.clear();
    }
}

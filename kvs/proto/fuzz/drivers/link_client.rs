//! The client's end of a link, and a server that does what it likes.
//!
//! The input is a script of what the server sends, sound or not, and what the client is asked for.
//! Rules:
//!
//! * Any split of what the server sends gives the same events and output.
//! * Only what was asked for is sent, whole and in order for each queue.
//! * Requests and answers are counted right.
//! * At most one event for 64 bytes; items are within their bounds.
//! * A dead client is silent for ever.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use fuzzing::{Cuts, Script, same_in_all_cuts};
use kvs_proto::auth::{Handshake, PROOF_SIZE_BYTES, Role, Secret};
use kvs_proto::body::{Baseline, Challenge, Limits, QueueName};
use kvs_proto::{
    ChainHash, Client, ClientConfig, ContentDigest, Decoder, Epoch, Event, Generation,
    HEADER_SIZE_BYTES, Header, Incarnation, Instant, MESSAGE_SIZE_BYTES_MAX, Message, MessageId,
    Op, Piece, QueueHandle, STATE_SIZE_BYTES_MAX, Sequence, StateVersion, Status, Tag, Transaction,
    Version, checksum, flags,
};

/// Runs the link that `input` describes, in several splits.
pub fn run(input: &[u8]) {
    same_in_all_cuts(input, |cuts| {
        let mut script = Script::new(input);
        let mut owner = Owner::new(script.byte());
        let mut steps = 0;
        while !script.is_over() && steps < STEPS_MAX {
            owner.step(&mut script, cuts);
            steps += 1;
        }
        owner.finish()
    });
}

/// Who holds a client, and plays its server.
struct Owner {
    client: Client,
    now: u64,
    /// What the server says of itself.
    challenge: Challenge,
    /// Handles in use.
    open: [bool; HANDLES],
    /// Requests that wait for their answers.
    unanswered: u64,
    received: u64,
    last_received: u64,
    is_dead: bool,
    log: Log,
}

/// What came of a link. None of it depends on the split.
#[derive(PartialEq, Eq, Default, Debug)]
struct Log {
    events: Vec<Event>,
    sent: Vec<u8>,
    /// What was asked for: for each queue, and for the link itself.
    asked: BTreeMap<Option<u32>, VecDeque<Asked>>,
}

/// A request: its op, its number or tag, its message and its body.
type Asked = (Op, u64, u64, Vec<u8>);

impl Owner {
    fn new(choice: u8) -> Owner {
        let account = "gateway";
        let client = Client::new(
            Instant::from_nanos(0),
            ClientConfig {
                account: account.into(),
                secret: secret(),
                nonce: [7; 16],
                version_max: Version::CURRENT,
                output_bytes_max: OUTPUT_BYTES_MAX,
            },
        );
        let limits = Limits {
            message_size_bytes_max: 1 << 20,
            state_size_bytes_max: 240,
            in_flight_max: 1024,
            handles_max: u32::from(choice),
        };
        let challenge = Challenge {
            version: Version::CURRENT,
            incarnation: Incarnation(5),
            nonce: [9; 16],
            limits,
        };
        let mut owner = Owner {
            client,
            now: 0,
            challenge,
            open: [false; HANDLES],
            unanswered: 1,
            received: 0,
            last_received: 0,
            is_dead: false,
            log: Log::default(),
        };
        let body =
            [&[Version::OLDEST as u8, Version::CURRENT as u8][..], &[7; 16], account.as_bytes()]
                .concat();
        owner.log.asked.entry(None).or_default().push_back((Op::Hello, 0, 0, body));
        owner
    }

    fn step(&mut self, script: &mut Script<'_>, cuts: Cuts) {
        match script.byte() % 8 {
            0 => self.shake_hands(script.byte(), cuts),
            1 | 2 => {
                let reply = reply(script);
                self.receive(&reply, cuts);
            }
            3 => {
                let item = item(script);
                self.receive(&item, cuts);
            }
            4 | 5 => self.ask(script),
            6 => {
                let length = usize::from(script.byte());
                self.send(length * length + 1);
            }
            _ => {
                self.now += u64::from(script.byte() & 0x0f);
                let length = usize::from(script.byte() & 0x7f);
                let raw = script.bytes(length);
                self.receive(raw, cuts);
            }
        }
        self.check();
    }

    /// Both steps of the server's in the handshake, with the proof of one who knows the secret or
    /// does not.
    fn shake_hands(&mut self, choice: u8, cuts: Cuts) {
        let mut body = Vec::new();
        self.challenge.encode(&mut body);
        let mut stream = frame(of_server(Op::Challenge), &body);
        let handshake = Handshake {
            version: Version::CURRENT,
            incarnation: self.challenge.incarnation,
            client_nonce: [7; 16],
            server_nonce: self.challenge.nonce,
            account: b"gateway",
        };
        let secret = if choice % 16 == 15 { Secret::new(b"guessed") } else { secret() };
        let proof = handshake.proof(Role::Server, &secret);
        stream.extend(frame(of_server(Op::Welcome), &proof));
        self.receive(&stream, cuts);
    }

    fn receive(&mut self, stream: &[u8], cuts: Cuts) {
        self.received += u64::try_from(stream.len()).expect("64 bits");
        if !stream.is_empty() {
            self.last_received = self.now;
        }
        for piece in cuts.pieces(stream) {
            self.client.handle_bytes(Instant::from_nanos(self.now), piece);
            while let Some(event) = self.client.poll_event() {
                self.take(event);
            }
        }
    }

    fn take(&mut self, event: Event) {
        assert!(!self.is_dead, "nothing happens after the end: {event:?}");
        let answered = match &event {
            Event::Ack { count, .. } => *count,
            Event::Welcome { limits, .. } => {
                assert_eq!(*limits, self.challenge.limits);
                // `Hello` is answered, and so is `Authenticate`, which was not counted here.
                1
            }
            Event::Item(item) => {
                assert!(item.state.len() <= STATE_SIZE_BYTES_MAX);
                assert!(item.body.len() <= MESSAGE_SIZE_BYTES_MAX);
                0
            }
            Event::Dropped { queue, .. } => {
                self.open[place(*queue)] = false;
                1
            }
            Event::Refused(refusal) => {
                self.is_dead = matches!(
                    refusal.status,
                    Status::NotAuthenticated
                        | Status::BadRequest
                        | Status::NoCommonVersion
                        | Status::TooManyConnections
                );
                u64::from(!self.is_dead)
            }
            Event::ProtocolError(_) => {
                self.is_dead = true;
                0
            }
            _ => 1,
        };
        if !self.is_dead {
            self.unanswered = self.unanswered.checked_sub(answered).expect("answers to requests");
        }
        self.log.events.push(event);
    }

    /// Asks the client for something, as its caller may.
    fn ask(&mut self, script: &mut Script<'_>) {
        let (what, number) = (script.byte(), u64::from(script.byte()));
        if !self.client.is_ready() || self.client.room() == 0 || self.log.sent.len() > SENT_MAX {
            return;
        }
        let now = Instant::from_nanos(self.now);
        let queue = QueueHandle(u32::from(what >> 4) % HANDLES_U32);
        let (tag, id) = (Tag(number), MessageId(number + 1));
        let (sequence, floor) = (Sequence(number), Sequence(1));
        if !self.open[place(queue)] && what % 16 < 9 {
            return self.attach(queue, tag, what % 2 == 0);
        }
        let client = &mut self.client;
        let (op, aux_id, body) = match what % 16 {
            0..=2 => {
                let message = message(script);
                client.store(now, queue, sequence, id, floor, &message);
                let (head, content) = message.whole();
                (Op::Store, id.0, [&head[..], content].concat())
            }
            3 => {
                client.delete(now, queue, sequence, id, floor);
                (Op::Delete, id.0, Vec::new())
            }
            4 => {
                let state = vec![2; usize::from(script.byte()) % (STATE_SIZE_BYTES_MAX + 1)];
                let version = StateVersion(7);
                client.replace(now, queue, sequence, id, floor, version, state.clone().into());
                (Op::Replace, id.0, state)
            }
            5 => {
                let baseline = Baseline {
                    transaction: Transaction(number),
                    chain: ChainHash(2),
                    content: ContentDigest(3),
                    messages: 4,
                };
                client.baseline(now, queue, sequence, floor, &baseline);
                let mut body = Vec::new();
                baseline.encode(&mut body);
                (Op::Baseline, 0, body)
            }
            6 => {
                client.block_get(now, queue, tag, id, 100, 1 << 20);
                (Op::BlockGet, id.0, Vec::new())
            }
            7 => {
                client.ops_get(now, queue, tag, Transaction(number));
                (Op::OpsGet, 0, Vec::new())
            }
            8 => {
                client.drop_queue(now, queue, tag);
                (Op::Drop, 0, Vec::new())
            }
            9..=11 => return self.ask_link(now, Op::HeartBeat, tag),
            12 | 13 => return self.ask_link(now, Op::QueueList, tag),
            14 => return self.ask_link(now, Op::Statistics, tag),
            _ => return self.attach(queue, tag, false),
        };
        self.note(Some(queue.0), (op, number, aux_id, body));
    }

    fn ask_link(&mut self, now: Instant, op: Op, tag: Tag) {
        let mut body = Vec::new();
        match op {
            Op::HeartBeat => self.client.heart_beat(now, tag),
            Op::QueueList => {
                self.client.queue_list(now, tag, QueueName::parse(NAME));
                body = NAME.to_vec();
            }
            _ => self.client.statistics(now, tag),
        }
        self.note(None, (op, tag.0, 0, body));
    }

    fn attach(&mut self, queue: QueueHandle, tag: Tag, creates: bool) {
        if queue.0 >= self.challenge.limits.handles_max {
            return;
        }
        let now = Instant::from_nanos(self.now);
        let name = QueueName::parse(NAME).expect("a name");
        let (epoch, generation) = (Epoch(1), Generation(4));
        self.open[place(queue)] = true;
        if creates {
            self.client.create(now, queue, tag, epoch, generation, name, 7, 8);
            let bounds = [7u64.to_le_bytes(), 8u64.to_le_bytes()].concat();
            self.note(Some(queue.0), (Op::Create, tag.0, 0, [&bounds, NAME].concat()));
        } else {
            self.client.attach(now, queue, tag, epoch, generation, name);
            self.note(Some(queue.0), (Op::Attach, tag.0, 0, NAME.to_vec()));
        }
    }

    fn note(&mut self, lane: Option<u32>, asked: Asked) {
        self.unanswered += 1;
        self.log.asked.entry(lane).or_default().push_back(asked);
    }

    /// Takes output, at most `count` bytes.
    fn send(&mut self, count: usize) {
        let mut slices = [&[][..]; 3];
        let filled = self.client.peek_output(&mut slices);
        let before = self.log.sent.len();
        for slice in &slices[..filled] {
            assert!(!slice.is_empty());
            let left = count - (self.log.sent.len() - before);
            self.log.sent.extend_from_slice(&slice[..slice.len().min(left)]);
        }
        let taken = self.log.sent.len() - before;
        self.client.advance_output(taken);
    }

    fn check(&mut self) {
        let client = &self.client;
        assert_eq!(client.last_received().as_nanos(), self.last_received);
        let events = u64::try_from(self.log.events.len()).expect("64 bits");
        assert!(events <= self.received / 40, "at most one event for 40 bytes");
        if self.is_dead {
            assert!(!client.is_ready() && !client.has_output());
            return;
        }
        assert!(client.room() <= OUTPUT_BYTES_MAX);
        if client.is_ready() {
            assert_eq!(client.unanswered(), self.unanswered);
            let since = client.oldest_unanswered_since();
            assert_eq!(since.is_some(), self.unanswered > 0);
            assert!(since.is_none_or(|since| since.as_nanos() <= self.now));
        }
    }

    fn finish(mut self) -> Log {
        let was_dead = self.is_dead;
        while self.client.has_output() {
            self.send(100_000);
        }
        check_sent(&self.log, was_dead);
        if was_dead {
            self.client.heart_beat(Instant::from_nanos(self.now), Tag(1));
            self.client.handle_bytes(
                Instant::from_nanos(self.now),
                &frame(of_server(Op::HeartBeatReply), &[]),
            );
            assert_eq!(self.client.poll_event(), None);
            assert!(!self.client.has_output());
        }
        self.log
    }
}

/// Checks that what was sent is what was asked for: all of it, or the beginning of it if the client
/// died.
fn check_sent(log: &Log, was_cut: bool) {
    let mut asked = log.asked.clone();
    let mut parts: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut decoder = Decoder::new();
    let mut rest = &log.sent[..];
    while let (used, Some(piece)) = decoder.handle_bytes(rest).expect("sound frames") {
        rest = &rest[used..];
        let Piece::Frame(header, body) = piece else {
            assert!(was_cut, "the last frame is whole");
            return;
        };
        if header.op == Op::Authenticate {
            // The answer to any challenge; nobody asked for it.
            assert_eq!(body.len(), PROOF_SIZE_BYTES);
            continue;
        }
        let is_of_queue = header.op.is_change()
            || matches!(header.op, Op::Create | Op::Attach | Op::Drop | Op::BlockGet | Op::OpsGet);
        let lane = is_of_queue.then_some(header.queue.0);
        let begun = if is_of_queue { parts.remove(&header.queue.0) } else { None };
        let mut whole = begun.unwrap_or_default();
        if header.op == Op::Store {
            let offset = u64::try_from(whole.len()).expect("64 bits");
            assert_eq!(header.aux >> 32, offset, "parts come in order");
        } else {
            assert!(whole.is_empty(), "nothing of the queue comes between parts");
        }
        whole.extend_from_slice(body);
        if header.flags & flags::MORE != 0 {
            parts.insert(header.queue.0, whole);
            continue;
        }
        let deletes = if header.op == Op::Delete { header.delete_count() } else { Some(1) };
        for at in 0..deletes.expect("as many as one may remove") {
            let (op, number, id, expected) = asked
                .get_mut(&lane)
                .and_then(VecDeque::pop_front)
                .expect("only what was asked for");
            let (sequence, message) = (header.sequence.0 + at, header.message.0 + at);
            assert_eq!((header.op, sequence, message), (op, number, id));
            assert_eq!(whole, expected, "the body that was asked for");
        }
    }
    if !was_cut {
        assert!(rest.len() < HEADER_SIZE_BYTES && parts.is_empty());
        let left = asked.values().map(VecDeque::len).sum::<usize>();
        assert_eq!(left, 0, "all that was asked for");
    }
}

/// A frame from the server.
fn of_server(op: Op) -> Header {
    Header { version: Version::CURRENT, ..Header::new(op) }
}

/// A reply, more or less sound.
fn reply(script: &mut Script<'_>) -> Vec<u8> {
    let (which, fields) = (script.byte(), script.byte());
    let op = REPLIES[usize::from(which) % REPLIES.len()];
    let number = |script: &mut Script<'_>, bit: u8| {
        if fields & 1 << bit == 0 { 0 } else { script.number() }
    };
    let mut header = of_server(op);
    header.queue = QueueHandle(u32::from(script.byte()) % (HANDLES_U32 + 1));
    header.generation_or_status = u32::from(script.byte()) % 24;
    header.epoch = Epoch(number(script, 0));
    header.sequence = Sequence(number(script, 1));
    header.aux = number(script, 2);
    header.message = MessageId(number(script, 3));
    header.floor = number(script, 4);
    header.flags = u16::from(fields >> 6) & flags::known_in(header.version);
    let length = match op {
        Op::Attached => 64,
        Op::Ops | Op::Acks => 40 * usize::from(which >> 6),
        Op::Counters => 10 * usize::from(which >> 6),
        Op::Queues => 36 * usize::from(which >> 7),
        Op::Challenge => 48,
        _ => 0,
    };
    let length = if fields & 0x20 != 0 { usize::from(script.byte()) } else { length };
    let mut body = script.bytes(length).to_vec();
    body.resize(length, 0);
    frame(header, &body)
}

/// An item in parts, some of which may be missing or come as a withdrawal.
fn item(script: &mut Script<'_>) -> Vec<u8> {
    let queue = QueueHandle(u32::from(script.byte()) % HANDLES_U32);
    let (state, length) = (usize::from(script.byte()), usize::from(script.u16()) % 20_000);
    let part = 1 + usize::from(script.u16());
    let (odd, odd_place) = (script.byte(), usize::from(script.byte()));
    let total = state + length;
    let mut stream = Vec::new();
    for (place, offset) in (0..total.max(1)).step_by(part).take(PARTS_MAX).enumerate() {
        let end = total.min(offset + part);
        let more = if end < total { flags::MORE } else { 0 };
        let mut header = Header {
            flags: more,
            queue,
            sequence: Sequence(77),
            message: MessageId(12),
            aux: halves(offset, total),
            floor: halves(5, state),
            ..of_server(Op::Item)
        };
        let body = vec![u8::from(offset >= state); end - offset];
        match odd % 8 {
            1 if place == odd_place => continue,
            2 if place == odd_place => {
                header.flags = flags::WITHDRAWN;
                stream.extend(frame(header, &[]));
                break;
            }
            3 if place == odd_place => header.floor += 1,
            4 if place == odd_place => header.aux += 1,
            5 if place == odd_place => header.message = MessageId(13),
            6 if place == odd_place => break,
            _ => {}
        }
        stream.extend(frame(header, &body));
    }
    stream
}

fn halves(upper: usize, lower: usize) -> u64 {
    let half = |half: usize| u64::try_from(half).expect("64 bits");
    half(upper) << 32 | half(lower)
}

/// A message that is short, or one of several parts.
fn message(script: &mut Script<'_>) -> Message {
    let (head, content) = (script.byte(), script.byte());
    let unit = if head & 0x80 != 0 { 1000 } else { 1 };
    let bytes = |length: usize| Bytes::from(vec![3; length]);
    Message::new(bytes(usize::from(head)), bytes(usize::from(content) * unit))
}

fn frame(mut header: Header, body: &[u8]) -> Vec<u8> {
    header.body_length = u32::try_from(body.len()).expect("short");
    header.body_checksum = checksum(body);
    [&header.encode()[..], body].concat()
}

fn secret() -> Secret {
    Secret::new(b"sixteen or more bytes")
}

fn place(queue: QueueHandle) -> usize {
    usize::try_from(queue.0).expect("a handle")
}

const HANDLES: usize = 4;
const HANDLES_U32: u32 = 4;
const NAME: &[u8] = b"example.org";
const OUTPUT_BYTES_MAX: usize = 300_000;
/// Nothing more is asked for when so many bytes were sent.
const SENT_MAX: usize = 500_000;
/// More steps say nothing new and take time.
const STEPS_MAX: usize = 300;
const PARTS_MAX: usize = 50;

const REPLIES: [Op; 14] = [
    Op::Ack,
    Op::Acks,
    Op::Attached,
    Op::Refused,
    Op::BlockEnd,
    Op::Ops,
    Op::HeartBeatReply,
    Op::Queues,
    Op::Counters,
    Op::Dropped,
    Op::Item,
    Op::Challenge,
    Op::Welcome,
    Op::Store,
];

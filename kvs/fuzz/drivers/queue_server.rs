//! The server's end of links over one memory, and clients that send what they like.
//!
//! The input is a script of frames, sound and odd, by two clients who know the secret, or by some
//! who do not. Rules:
//!
//! * Any split of what a client sends gives the same answers, wherever bodies are placed directly.
//! * Answers are sound frames.
//! * At the end each queue holds what its digest, counts and bounds say.
//! * When all queues are dropped, all memory is free again, and can be used.

use std::sync::Arc;

use fuzzing::{Cuts, Script, same_in_all_cuts};
use kvs::arena::Arena;
use kvs::counters::Counters;
use kvs::directory::Directory;
use kvs::session::{Account, Accounts, Presence, Session, SessionId, Shared};
use kvs::table::{QueueBounds, QueueTable};
use kvs_proto::auth::Secret;
use kvs_proto::body::{Attached, Baseline, Create, Limits, QueueName};
use kvs_proto::{
    ChainHash, Client, ClientConfig, ContentDigest, DELETES_PER_FRAME_MAX, Decoder, Epoch, Event,
    Generation, Header, Incarnation, Instant, Message, MessageId, Op, Piece, QueueHandle, Sequence,
    Tag, Transaction, Version, body_digest, checksum, content_term, flags, state_digest,
};

/// Runs the links that `input` describes, in several splits.
pub fn run(input: &[u8]) {
    same_in_all_cuts(input, |cuts| {
        let mut script = Script::new(input);
        let mut server = Server::new(script.byte());
        let mut steps = 0;
        while !script.is_over() && steps < STEPS_MAX {
            server.step(&mut script, cuts);
            steps += 1;
        }
        server.finish()
    });
}

/// The state of one worker, with its connections.
struct Server {
    shared: Shared,
    links: [Link; 2],
    /// Of memory, when there was no queue.
    free_bytes: usize,
}

/// One connection, as its client sees it.
struct Link {
    session: Session,
    /// By handle: the last sequence number.
    sequences: [u64; 8],
    id: u64,
    old_id: u64,
    answers: Vec<u8>,
}

impl Server {
    fn new(choice: u8) -> Server {
        let arena = Arena::new(ARENA_BYTES, MESSAGES_MAX).expect("memory");
        let free_bytes = arena.free_bytes();
        let bounds = QueueBounds { messages_max: 50, bytes_max: 1 << 20 };
        let account = Account { name: NAME.into(), secret: secret(), queues: "q".into() };
        let mut shared = Shared {
            table: QueueTable::new(arena, Arc::new(Directory::new(1, 4)), 0, bounds),
            counters: Counters::default(),
            accounts: Accounts::new(vec![account]),
            incarnation: Incarnation(3),
            limits: Limits {
                message_size_bytes_max: 200_000,
                state_size_bytes_max: 496,
                in_flight_max: 100,
                handles_max: 5,
            },
            presence: Presence::default(),
            version_max: Version::CURRENT,
        };
        let links = [(0, choice & 1), (1, choice & 2)]
            .map(|(id, stranger)| Link::new(&mut shared, SessionId(id), stranger != 0));
        Server { shared, links, free_bytes }
    }

    fn step(&mut self, script: &mut Script<'_>, cuts: Cuts) {
        let control = script.byte();
        let link = &mut self.links[usize::from(control >> 7)];
        let stream = match control & 7 {
            0 => link.open(script),
            1..=3 => link.change(script),
            4 => link.read(script),
            5 => odd_frame(script),
            6 => {
                self.shared.table.arena_mut().work(usize::from(control >> 3 & 15));
                let length = usize::from(script.byte());
                script.bytes(length).to_vec()
            }
            _ => {
                link.session.end(&mut self.shared);
                let answers = std::mem::take(&mut link.answers);
                let id = SessionId(u32::from(control >> 7));
                *link = Link { answers, ..Link::new(&mut self.shared, id, false) };
                return;
            }
        };
        link.send(&mut self.shared, &stream, cuts);
        // As the worker does: whoever owned a queue that has a new owner is sent away.
        while let Some(SessionId(former)) = self.shared.presence.poll_former() {
            let Link { session, answers, .. } = &mut self.links[former as usize];
            session.retire(&mut self.shared);
            answers.extend(drain(session, &mut self.shared));
        }
    }

    /// Looks at what there is, drops it, and gives the answers back.
    fn finish(mut self) -> [Vec<u8>; 2] {
        for link in &mut self.links {
            link.session.end(&mut self.shared);
            check_answers(&link.answers);
        }
        let mut auditor = Auditor::new(&mut self.shared, SessionId(2));
        auditor.client.queue_list(NOW, Tag(0), None);
        let listed = auditor.exchange(&mut self.shared);
        let Some(Event::Queues { queues, finished: true, .. }) = listed.into_iter().next() else {
            panic!("a list of queues");
        };
        assert_eq!(queues.len(), self.shared.table.len());
        for queue in &queues {
            assert!(queue.name.starts_with('q'), "only the account's own queues");
            auditor.check_and_drop(&mut self.shared, &queue.name);
        }
        assert!(self.shared.table.is_empty());
        let arena = self.shared.table.arena_mut();
        arena.work(usize::MAX);
        assert!(!arena.has_work());
        assert_eq!((arena.live(), arena.free_bytes()), ((0, 0), self.free_bytes), "all is free");
        auditor.fill(&mut self.shared);
        self.links.map(|link| link.answers)
    }
}

impl Link {
    fn new(shared: &mut Shared, id: SessionId, is_stranger: bool) -> Link {
        let session =
            if is_stranger { Session::new(id, [2; 16]) } else { Auditor::new(shared, id).session };
        Link { session, sequences: [0; 8], id: 0, old_id: 0, answers: Vec::new() }
    }

    /// Create or Attach.
    fn open(&mut self, script: &mut Script<'_>) -> Vec<u8> {
        let (what, place) = (script.byte(), script.byte() & 7);
        let name = QUEUES[usize::from(what & 3)];
        let mut header = self.header(Op::Attach, place, script.byte());
        self.sequences[usize::from(place)] = u64::from(script.byte());
        if what & 4 == 0 {
            return frame(header, name.as_bytes());
        }
        header.op = Op::Create;
        let mut body = Vec::new();
        let name = QueueName::parse(name.as_bytes()).expect("a name");
        Create { messages_max: u64::from(what >> 3), bytes_max: 1 << 18, name }.encode(&mut body);
        frame(header, &body)
    }

    /// A change, mostly with the number that is due.
    fn change(&mut self, script: &mut Script<'_>) -> Vec<u8> {
        let (what, place, number) = (script.byte(), script.byte() & 7, script.byte());
        let due = &mut self.sequences[usize::from(place)];
        *due += u64::from(what & 0x30 == 0);
        let sequence = Sequence(due.saturating_sub(u64::from(what >> 4 & 3)));
        let op = [Op::Store, Op::Delete, Op::Replace, Op::Baseline, Op::Store, Op::Store];
        let op = op[usize::from(what & 0x0f) % 6];
        let mut header = self.header(op, place, script.byte());
        header.sequence = sequence;
        header.floor = u64::from(number >> 4);
        header.message = MessageId(u64::from(number) & 0x0f);
        match op {
            Op::Store => {
                self.id += u64::from(number & 0x0f);
                header.message = MessageId(FIRST_ID + self.id);
                if what & 0x80 != 0 {
                    self.old_id += u64::from(number & 0x03);
                    header.message = MessageId(self.old_id);
                    header.flags = flags::BACKFILL;
                }
                let (length, cut) = (script.byte(), script.byte());
                parts(header, usize::from(length) * if what & 0x40 == 0 { 3 } else { 700 }, cut)
            }
            Op::Replace => {
                header.aux = u64::from(script.byte());
                frame(header, &vec![7; 2 * usize::from(script.byte())])
            }
            Op::Baseline => {
                let baseline = Baseline {
                    transaction: Transaction(script.number()),
                    chain: ChainHash(script.number()),
                    content: ContentDigest(script.number()),
                    messages: u64::from(script.byte()),
                };
                let mut body = Vec::new();
                baseline.encode(&mut body);
                frame(header, &body)
            }
            _ => {
                // Several in three of four cases, as many as may be or one more in a few.
                header.aux = match script.byte() {
                    255 => DELETES_PER_FRAME_MAX,
                    254 => DELETES_PER_FRAME_MAX - 1,
                    more => u64::from(more & 3),
                };
                if what & 0x30 == 0 {
                    self.sequences[usize::from(place)] += header.aux;
                }
                frame(header, &[])
            }
        }
    }

    /// What changes nothing, and Drop.
    fn read(&mut self, script: &mut Script<'_>) -> Vec<u8> {
        let (what, place) = (script.byte(), script.byte() & 7);
        let ops =
            [Op::BlockGet, Op::OpsGet, Op::Drop, Op::HeartBeat, Op::QueueList, Op::Statistics];
        let op = match usize::from(what & 0x0f) {
            15 => Op::OwnerGet,
            number => ops[number % ops.len()],
        };
        let mut header = self.header(op, place, script.byte());
        header.sequence = Sequence(77);
        header.message = MessageId(u64::from(what >> 4));
        header.aux = match op {
            Op::BlockGet => u64::from(script.byte()) << 32 | u64::from(script.u16()),
            _ => script.number(),
        };
        match op {
            Op::OwnerGet => frame(header, QUEUES[usize::from(place & 3)].as_bytes()),
            _ => frame(header, &[]),
        }
    }

    fn header(&self, op: Op, place: u8, owner: u8) -> Header {
        Header {
            queue: QueueHandle(u32::from(place)),
            epoch: Epoch(1 + u64::from(owner & 3)),
            generation_or_status: 1 + u32::from(owner >> 2 & 3),
            ..Header::new(op)
        }
    }

    fn send(&mut self, shared: &mut Shared, stream: &[u8], cuts: Cuts) {
        for piece in cuts.pieces(stream) {
            let mut rest = piece;
            while !rest.is_empty() && !self.session.is_over() {
                let placed = match self.session.body_room(shared) {
                    Some(room) if cuts != Cuts::Whole => {
                        let count = room.len().min(rest.len());
                        room[..count].copy_from_slice(&rest[..count]);
                        Some(count)
                    }
                    _ => None,
                };
                if let Some(count) = placed {
                    self.session.handle_placed(shared, count);
                    rest = &rest[count..];
                    continue;
                }
                let used = self.session.handle_bytes(shared, rest);
                rest = &rest[used..];
                assert!(rest.is_empty() || self.session.is_over() || self.session.is_blocked());
                if self.session.is_blocked() {
                    self.answers.extend(drain(&mut self.session, shared));
                }
            }
        }
        self.answers.extend(drain(&mut self.session, shared));
    }
}

/// One who knows the secret, and looks at what there is.
struct Auditor {
    client: Client,
    session: Session,
}

impl Auditor {
    fn new(shared: &mut Shared, id: SessionId) -> Auditor {
        let config = ClientConfig {
            account: NAME.into(),
            secret: secret(),
            nonce: [1; 16],
            version_max: Version::CURRENT,
            output_bytes_max: 1000,
        };
        let (client, session) = (Client::new(NOW, config), Session::new(id, [2; 16]));
        let mut auditor = Auditor { client, session };
        let events = auditor.exchange(shared);
        assert!(matches!(events[..], [Event::Welcome { .. }]), "{events:?}");
        auditor
    }

    /// Carries bytes both ways until nothing moves.
    fn exchange(&mut self, shared: &mut Shared) -> Vec<Event> {
        while self.client.has_output() {
            let mut slices = [&[][..]; 1];
            self.client.peek_output(&mut slices);
            let sent = slices[0].to_vec();
            self.client.advance_output(sent.len());
            assert_eq!(self.session.handle_bytes(shared, &sent), sent.len());
            self.client.handle_bytes(NOW, &drain(&mut self.session, shared));
        }
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    /// Reads a queue as its next owner, and drops it.
    fn check_and_drop(&mut self, shared: &mut Shared, name: &str) {
        let queue = QueueHandle(0);
        let name = QueueName::parse(name.as_bytes()).expect("a name");
        self.client.attach(NOW, queue, Tag(1), Epoch(u64::MAX), Generation(1), name);
        self.client.block_get(NOW, queue, Tag(2), MessageId(0), u32::MAX, u32::MAX);
        let mut events = self.exchange(shared).into_iter();
        let Some(Event::Attached { attached, .. }) = events.next() else { panic!("attached") };
        let (mut content, mut messages, mut bytes, mut last) = (0_u64, 0, 0, MessageId(0));
        for event in events {
            match event {
                Event::Item(item) => {
                    assert!(item.id > last, "items come in order");
                    let length = u32::try_from(item.body.len()).expect("short");
                    let body = body_digest(length, checksum(&item.body));
                    let state = match item.state_version.0 {
                        0 => Default::default(),
                        _ => state_digest(item.state_version, &item.state),
                    };
                    content = content.wrapping_add(content_term(item.id, state, body));
                    (messages, bytes, last) = (messages + 1, bytes + u64::from(length), item.id);
                }
                Event::BlockEnd { count, finished, .. } => {
                    assert_eq!((count, finished), (messages, true));
                }
                event => panic!("{event:?}"),
            }
        }
        check_queue(&attached, content, messages, bytes, last);
        self.client.drop_queue(NOW, queue, Tag(3));
        let dropped = self.exchange(shared);
        assert!(matches!(dropped[..], [Event::Dropped { .. }]), "{dropped:?}");
    }

    /// Stores as many messages as there may be.
    fn fill(&mut self, shared: &mut Shared) {
        let queue = QueueHandle(0);
        let name = QueueName::parse(QUEUES[0].as_bytes()).expect("a name");
        let (epoch, generation) = (Epoch(1), Generation(1));
        self.client.create(NOW, queue, Tag(1), epoch, generation, name, 50, 1 << 20);
        for number in 1..=50 {
            let (sequence, id) = (Sequence(number), MessageId(number));
            let message = Message::new(Default::default(), vec![1; 100].into());
            self.client.store(NOW, queue, sequence, id, Sequence(1), &message);
        }
        let stored = |event: &Event| if let Event::Ack { count, .. } = event { *count } else { 0 };
        let events = self.exchange(shared);
        assert_eq!(events.iter().map(stored).sum::<u64>(), 50, "{events:?}");
    }
}

/// Holds what a queue says of itself against what was read.
fn check_queue(attached: &Attached, content: u64, messages: u64, bytes: u64, last: MessageId) {
    assert_eq!(attached.content.0, content, "the digest is that of the content");
    assert_eq!((attached.messages, attached.bytes), (messages, bytes));
    assert!(attached.last_id >= last && attached.first_id <= last);
    assert!(messages <= 50 && bytes <= 1 << 20, "bounds hold");
}

fn drain(session: &mut Session, shared: &mut Shared) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let output = session.poll_output(shared).to_vec();
        if output.is_empty() {
            return all;
        }
        session.advance_output(output.len());
        all.extend(output);
    }
}

/// Checks that answers are sound frames. Each connection's are whole, so they may follow each other.
fn check_answers(mut answers: &[u8]) {
    let mut decoder = Decoder::new();
    while let (used, Some(piece)) = decoder.handle_bytes(answers).expect("sound frames") {
        let Piece::Frame(header, _) = piece else { panic!("whole frames") };
        assert!(!header.op.is_request());
        answers = &answers[used..];
    }
    assert!(answers.is_empty());
}

/// A frame that makes no sense, or little.
fn odd_frame(script: &mut Script<'_>) -> Vec<u8> {
    let op = Op::from_u8(script.byte()).unwrap_or(Op::Hello);
    let mut header = Header::new(op);
    header.flags = u16::from(script.byte()) & flags::KNOWN;
    header.queue = QueueHandle(u32::from(script.byte()));
    header.generation_or_status = u32::from(script.byte());
    header.epoch = Epoch(script.number());
    header.sequence = Sequence(script.number());
    header.aux = script.number();
    header.message = MessageId(script.number());
    header.floor = script.number();
    let length = usize::from(script.byte());
    frame(header, script.bytes(length))
}

/// A message, as one frame or in parts. `cut` says how long they are, and what is odd about them.
fn parts(header: Header, length: usize, cut: u8) -> Vec<u8> {
    let body: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
    let part = if cut & 0x0f == 0 { 65_536 } else { 4000 * usize::from(cut & 0x0f) };
    let mut stream = Vec::new();
    for (place, offset) in (0..length.max(1)).step_by(part).enumerate() {
        let end = length.min(offset + part);
        let more = if end < length { flags::MORE } else { 0 };
        let wrong = u64::from(cut & 0x80 != 0 && place == usize::from(cut >> 4 & 7));
        let numbers = [offset, length].map(|number| u64::try_from(number).expect("64 bits"));
        let aux = numbers[0] << 32 | (numbers[1] + wrong);
        let flags = header.flags | more;
        stream.extend(frame(Header { flags, aux, ..header }, &body[offset..end]));
    }
    stream
}

fn frame(mut header: Header, body: &[u8]) -> Vec<u8> {
    header.version = Version::CURRENT;
    header.body_length = u32::try_from(body.len()).expect("short");
    header.body_checksum = checksum(body);
    [&header.encode()[..], body].concat()
}

fn secret() -> Secret {
    Secret::new(b"sixteen or more bytes")
}

const NOW: Instant = Instant::from_nanos(1);
const NAME: &str = "gw";
const QUEUES: [&str; 4] = ["q", "q1", "q2", "other"];
const ARENA_BYTES: usize = 4 << 20;
const MESSAGES_MAX: usize = 50;
/// Of what is stored otherwise than as back-fill: about as many come as that.
const FIRST_ID: u64 = 15;
/// More steps say nothing new and take time.
const STEPS_MAX: usize = 100;

//! The session fed with frames: any cut of the stream, and frames that make no sense.

use std::sync::Arc;

use kvs_proto::auth::Secret;
use kvs_proto::body::{Attached, Create, Limits, QueueName};
use kvs_proto::{Client, ClientConfig, Event, Incarnation, Instant, MessageId, checksum, flags};
use proptest::prelude::*;

use super::*;
use crate::arena::Arena;
use crate::counters::Counters;
use crate::directory::Directory;
use crate::table::{QueueBounds, QueueTable};

fn shared() -> Shared {
    let arena = Arena::new(4 << 20, 200).unwrap();
    let bounds = QueueBounds { messages_max: 100, bytes_max: 1 << 20 };
    let name = "gw".to_owned();
    let secret = Secret::new(b"the secret");
    Shared {
        table: QueueTable::new(arena, Arc::new(Directory::new(1, 4)), 0, bounds),
        counters: Counters::default(),
        accounts: Accounts::new(vec![Account { name, secret, queues: "q".into() }]),
        incarnation: Incarnation(3),
        limits: Limits {
            message_size_bytes_max: 200_000,
            state_size_bytes_max: 496,
            in_flight_max: 100,
            handles_max: 5,
        },
        presence: Presence::default(),
        version_max: Version::CURRENT,
    }
}

/// Carries bytes both ways until nothing moves.
fn ready_session(shared: &mut Shared) -> Session {
    let now = Instant::from_nanos(1);
    let config = ClientConfig {
        account: "gw".into(),
        secret: Secret::new(b"the secret"),
        nonce: [1; 16],
        version_max: Version::V1,
        output_bytes_max: 1000,
    };
    let mut client = Client::new(now, config);
    let mut session = Session::new(SessionId(0), [2; 16]);
    while client.has_output() {
        let mut slices = [&[][..]; 1];
        client.peek_output(&mut slices);
        let sent = slices[0].to_vec();
        client.advance_output(sent.len());
        assert_eq!(session.handle_bytes(shared, &sent), sent.len());
        client.handle_bytes(now, &drain(&mut session, shared));
    }
    assert!(matches!(client.poll_event(), Some(Event::Welcome { .. })));
    assert!(session.is_authenticated());
    session
}

/// All that the session has to say now.
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

fn frame(mut header: Header, body: &[u8]) -> Vec<u8> {
    header.body_length = u32::try_from(body.len()).unwrap();
    header.body_checksum = if body.is_empty() { 0 } else { checksum(body) };
    [&header.encode()[..], body].concat()
}

fn replies(mut stream: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut decoder = Decoder::new();
    let mut replies = Vec::new();
    while let (used, Some(piece)) = decoder.handle_bytes(stream).expect("sound frames") {
        let Piece::Frame(header, body) = piece else { panic!("whole frames") };
        assert!(!header.op.is_request());
        replies.push((header, body.to_vec()));
        stream = &stream[used..];
    }
    replies
}

fn request(op: Op, queue: u32, number: u64) -> Header {
    Header {
        queue: QueueHandle(queue),
        generation_or_status: 1,
        epoch: Epoch(1),
        sequence: Sequence(number),
        message: MessageId(number),
        floor: 1,
        ..Header::new(op)
    }
}

fn create(queue: u32, name: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let name = QueueName::parse(name.as_bytes()).unwrap();
    Create { messages_max: 90, bytes_max: 1 << 20, name }.encode(&mut body);
    frame(request(Op::Create, queue, 0), &body)
}

/// A message as one frame, or in parts of `part` bytes.
fn store(queue: u32, number: u64, length: usize, part: usize) -> Vec<u8> {
    let body: Vec<u8> = (0..length).map(|at| (at * 3).to_le_bytes()[0]).collect();
    let mut stream = Vec::new();
    let mut offset = 0;
    loop {
        let end = length.min(offset + part);
        let more = end < length;
        let header = Header {
            aux: (offset as u64) << 32 | length as u64,
            flags: if more { flags::MORE } else { 0 },
            ..request(Op::Store, queue, number)
        };
        stream.extend(frame(header, &body[offset..end]));
        offset = end;
        if !more {
            return stream;
        }
    }
}

fn check(shared: &Shared) {
    let logs: Vec<_> = shared.table.list("", None).flat_map(|(_, queue)| queue.logs()).collect();
    shared.table.arena().check(logs);
}

/// What the queue `q0` is, by attaching to it.
fn numbers(session: &mut Session, shared: &mut Shared) -> (u64, Attached) {
    let header = Header { generation_or_status: 99, ..request(Op::Attach, 0, 0) };
    session.handle_bytes(shared, &frame(header, b"q0"));
    let (header, body) = replies(&drain(session, shared)).pop().unwrap();
    assert_eq!(header.op, Op::Attached);
    (header.aux, Attached::decode(Version::V1, &body).unwrap())
}

proptest! {
    #[test]
    fn any_cut_of_the_stream_gives_the_same_queue_and_as_many_answers(
        lengths in proptest::collection::vec((0usize..3_000, 100usize..900), 1..20),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..30),
    ) {
        let mut stream = create(0, "q0");
        for (place, (length, part)) in lengths.iter().enumerate() {
            stream.extend(store(0, place as u64 + 1, *length, *part));
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut shared = shared();
        let mut session = ready_session(&mut shared);
        let mut acknowledged = 0;
        for pair in cuts.windows(2) {
            let piece = &stream[pair[0]..pair[1]];
            prop_assert_eq!(session.handle_bytes(&mut shared, piece), piece.len());
            for (header, _) in replies(&drain(&mut session, &mut shared)) {
                match header.op {
                    Op::Ack => acknowledged += header.message.0,
                    op => prop_assert_eq!(op, Op::Attached),
                }
            }
        }
        prop_assert_eq!(acknowledged, lengths.len() as u64);
        check(&shared);
        let (transaction, attached) = numbers(&mut session, &mut shared);
        prop_assert_eq!(transaction, lengths.len() as u64);

        let mut whole = super::tests::shared();
        let mut session = ready_session(&mut whole);
        session.handle_bytes(&mut whole, &stream);
        drain(&mut session, &mut whole);
        prop_assert_eq!(numbers(&mut session, &mut whole), (transaction, attached));
    }

    /// Sound frames with random contents, as an authenticated but mad client might send.
    #[test]
    fn random_frames_never_panic_and_lose_no_memory(
        frames in proptest::collection::vec(
            (
                3u8..15,
                any::<(u16, u8)>(),
                0u32..6,
                (0u32..3, 0u64..3, 0u64..20, 0u64..20, 0u64..20),
                (0u64..4, 0u64..4),
                0usize..300,
            ),
            1..120,
        ),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut shared = shared();
        let mut session = ready_session(&mut shared);
        let mut stream = create(0, "q0");
        stream.extend(create(1, "q1"));
        for (op, (flag, kind), queue, numbers, (offset, total), length) in frames {
            let Some(op) = Op::from_u8(op) else { continue };
            let (generation, epoch, sequence, message, floor) = numbers;
            let header = Header {
                flags: if kind < 240 { 0 } else { flag & flags::KNOWN },
                queue: QueueHandle(queue % 3),
                generation_or_status: generation,
                epoch: Epoch(epoch),
                sequence: Sequence(sequence),
                message: MessageId(message),
                floor,
                aux: if kind < 220 { length as u64 } else { (offset * 100) << 32 | (total * 100) },
                ..Header::new(op)
            };
            let names: [&[u8]; 3] = [b"q0", b"q1", b"other"];
            let body = match op {
                Op::Attach | Op::QueueList => names[usize::from(kind) % 3].to_vec(),
                Op::Create => create(queue, "q2")[64..].to_vec(),
                Op::Store => vec![7; length],
                Op::Replace => vec![7; length % 250],
                Op::Baseline => vec![0; 32],
                _ => vec![7; usize::from(kind / 250)],
            };
            stream.extend(frame(header, &body));
        }
        let (first, second) = stream.split_at(cut.index(stream.len()));
        for piece in [first, second] {
            session.handle_bytes(&mut shared, piece);
            replies(&drain(&mut session, &mut shared));
            check(&shared);
        }
        session.end(&mut shared);
        check(&shared);
        while shared.table.arena().has_work() {
            shared.table.arena_mut().work(1000);
        }
        check(&shared);
    }

    #[test]
    fn random_bytes_end_the_session(bytes in proptest::collection::vec(any::<u8>(), 64..300)) {
        let mut shared = shared();
        let mut session = ready_session(&mut shared);
        session.handle_bytes(&mut shared, &bytes);
        prop_assert!(session.is_over());
        prop_assert!(drain(&mut session, &mut shared).is_empty());
    }
}

#[test]
fn consecutive_acknowledgements_are_one_frame() {
    let mut shared = shared();
    let mut session = ready_session(&mut shared);
    let mut stream = [create(0, "q0"), create(1, "q1")].concat();
    for number in 1..=10 {
        stream.extend(store(0, number, 100, 1000));
        stream.extend(store(1, number, 100, 1000));
    }
    session.handle_bytes(&mut shared, &stream);
    let replies = replies(&drain(&mut session, &mut shared));
    let acks: Vec<_> = replies
        .iter()
        .filter(|(header, _)| header.op == Op::Ack)
        .map(|(header, _)| (header.sequence.0, header.message.0, header.aux))
        .collect();
    assert_eq!(acks, [(10, 10, 10), (10, 10, 10)]);
}

#[test]
fn a_part_out_of_place_ends_the_session_and_gives_its_room_back() {
    let mut shared = shared();
    let mut session = ready_session(&mut shared);
    session.handle_bytes(&mut shared, &create(0, "q0"));
    let free = shared.table.arena().free_bytes();
    let parts = store(0, 1, 200_000, 50_000);
    session.handle_bytes(&mut shared, &parts[..50_064]);
    assert!(shared.table.arena().free_bytes() < free);
    session.handle_bytes(&mut shared, &parts[100_128..]);
    assert!(session.is_over());
    session.end(&mut shared);
    assert_eq!(shared.table.arena().free_bytes(), free);
    check(&shared);
}

/// Otherwise a message that lies before others in memory would be committed behind them.
#[test]
fn the_parts_of_a_message_are_of_one_owner() {
    let mut shared = shared();
    let mut session = ready_session(&mut shared);
    session.handle_bytes(&mut shared, &create(0, "q0"));
    let parts = store(0, 1, 100_000, 50_000);
    session.handle_bytes(&mut shared, &parts[..50_064]);
    let mut other = ready_session(&mut shared);
    let resume = Header { generation_or_status: 2, ..request(Op::Attach, 0, 0) };
    other.handle_bytes(&mut shared, &frame(resume, b"q0"));
    let mut header = Header::decode(parts[50_064..50_128].try_into().unwrap()).unwrap();
    header.generation_or_status = 2;
    session.handle_bytes(&mut shared, &frame(header, &parts[50_128..]));
    let (refusal, _) = replies(&drain(&mut session, &mut shared)).pop().unwrap();
    assert_eq!(refusal.generation_or_status, Status::BadRequest as u32);
    session.end(&mut shared);
    check(&shared);
    assert_eq!(shared.table.arena().messages(), 0);
}

#[test]
fn a_blocked_session_takes_no_more_requests() {
    let mut shared = shared();
    let mut session = ready_session(&mut shared);
    session.handle_bytes(&mut shared, &create(0, "q0"));
    let list = frame(request(Op::Statistics, 0, 0), &[]);
    let stream = list.repeat(10_000);
    let taken = session.handle_bytes(&mut shared, &stream);
    assert!(session.is_blocked() && taken < stream.len());
    assert_eq!(session.handle_bytes(&mut shared, &stream[taken..]), 0);
    let answered = replies(&drain(&mut session, &mut shared)).len();
    assert_eq!(answered, taken / list.len() + 1);
    assert!(!session.is_blocked());
}

#[test]
fn a_resume_leaves_the_old_generation_behind() {
    let mut shared = shared();
    let mut old = ready_session(&mut shared);
    old.handle_bytes(&mut shared, &create(0, "q0"));
    let mut new = ready_session(&mut shared);
    let resume = Header { generation_or_status: 2, ..request(Op::Attach, 0, 0) };
    new.handle_bytes(&mut shared, &frame(resume, b"q0"));
    old.handle_bytes(&mut shared, &store(0, 1, 10, 100));
    let (header, _) = replies(&drain(&mut old, &mut shared)).pop().unwrap();
    assert_eq!(header.op, Op::Refused);
    assert_eq!(header.generation_or_status, Status::Fenced as u32);
}

#[test]
fn a_hedge_takes_nothing_from_the_other_connection_and_each_number_is_applied_once() {
    let mut shared = shared();
    let mut active = ready_session(&mut shared);
    active.handle_bytes(&mut shared, &create(0, "q0"));
    let mut standby = ready_session(&mut shared);
    standby.handle_bytes(&mut shared, &frame(request(Op::Attach, 0, 0), b"q0"));
    drain(&mut active, &mut shared);
    drain(&mut standby, &mut shared);
    // The first is cut in the middle when the hedge comes, the second comes by the hedge alone.
    let first = store(0, 1, 100, 1000);
    let (begun, rest) = first.split_at(70);
    active.handle_bytes(&mut shared, begun);
    standby.handle_bytes(&mut shared, &first);
    standby.handle_bytes(&mut shared, &store(0, 2, 10, 100));
    active.handle_bytes(&mut shared, rest);
    active.handle_bytes(&mut shared, &store(0, 2, 10, 100));
    active.handle_bytes(&mut shared, &store(0, 3, 10, 100));
    for (session, last) in [(&mut standby, 2), (&mut active, 3)] {
        let (header, _) = replies(&drain(session, &mut shared)).pop().unwrap();
        assert_eq!((header.op, header.sequence, header.message.0), (Op::Ack, Sequence(last), last));
    }
    let (transaction, attached) = numbers(&mut active, &mut shared);
    assert_eq!((transaction, attached.messages, attached.bytes), (3, 3, 120));
    check(&shared);
}

#[test]
fn a_resume_by_the_standby_connection_ends_the_rights_of_the_active_one() {
    let mut shared = shared();
    let mut active = ready_session(&mut shared);
    active.handle_bytes(&mut shared, &create(0, "q0"));
    let mut standby = ready_session(&mut shared);
    standby.handle_bytes(&mut shared, &frame(request(Op::Attach, 0, 0), b"q0"));
    standby.handle_bytes(&mut shared, &store(0, 1, 10, 100));
    drain(&mut standby, &mut shared);
    let resume = Header { generation_or_status: 2, ..request(Op::Attach, 0, 0) };
    standby.handle_bytes(&mut shared, &frame(resume, b"q0"));
    let (_, body) = replies(&drain(&mut standby, &mut shared)).pop().unwrap();
    assert_eq!(Attached::decode(Version::V1, &body).unwrap().last_sequence, Sequence(1));
    drain(&mut active, &mut shared);
    active.handle_bytes(&mut shared, &store(0, 2, 10, 100));
    let (header, _) = replies(&drain(&mut active, &mut shared)).pop().unwrap();
    assert_eq!(header.generation_or_status, Status::Fenced as u32, "what it still carries is void");
}

//! The session fed with frames: any cut of the stream, and frames that make no sense.

use std::sync::Arc;

use kvs_proto::auth::Secret;
use kvs_proto::body::{AckEntry, Attached, Create, Limits, QueueName};
use kvs_proto::{
    Client, ClientConfig, DELETES_PER_FRAME_MAX, Event, Incarnation, Instant, MessageId, Sequence,
    checksum, flags,
};
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

fn ready_session(shared: &mut Shared) -> Session {
    session_in(Version::V1, shared)
}

/// Carries bytes both ways until nothing moves.
fn session_in(version: Version, shared: &mut Shared) -> Session {
    let now = Instant::from_nanos(1);
    let config = ClientConfig {
        account: "gw".into(),
        secret: Secret::new(b"the secret"),
        nonce: [1; 16],
        version_max: version,
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

fn replies(stream: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let replies = frames(stream);
    assert!(replies.iter().all(|(header, _)| !header.op.is_request()));
    replies
}

fn frames(mut stream: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    while let (used, Some(piece)) = decoder.handle_bytes(stream).expect("sound frames") {
        let Piece::Frame(header, body) = piece else { panic!("whole frames") };
        frames.push((header, body.to_vec()));
        stream = &stream[used..];
    }
    frames
}

/// The same frames in another version.
fn in_version(version: Version, stream: &[u8]) -> Vec<u8> {
    let again = |(header, body): (Header, Vec<u8>)| frame(Header { version, ..header }, &body);
    frames(stream).into_iter().flat_map(again).collect()
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
fn acknowledgements_of_several_queues_are_one_frame_for_who_knows_that() {
    let mut stream = [create(0, "q0"), create(1, "q1"), create(2, "q2")].concat();
    for number in 1..=3 {
        stream.extend(store(0, number, 100, 1000));
        stream.extend(store(1, number, 100, 1000));
    }
    let alone = store(2, 1, 100, 1000);
    let mut told = Vec::new();
    for (version, ops) in [(Version::V2, vec![Op::Ack, Op::Ack]), (Version::V3, vec![Op::Acks])] {
        let mut shared = shared();
        let mut session = session_in(version, &mut shared);
        session.handle_bytes(&mut shared, &in_version(version, &stream));
        let replies = replies(&drain(&mut session, &mut shared));
        let acks = &replies[3..];
        assert_eq!(acks.iter().map(|(header, _)| header.op).collect::<Vec<_>>(), ops);
        let mut numbers: Vec<_> =
            acks.iter().flat_map(|(header, body)| acknowledged(header, body)).collect();
        numbers.sort_unstable();
        told.push(numbers);
        session.handle_bytes(&mut shared, &in_version(version, &alone));
        let replies = super::tests::replies(&drain(&mut session, &mut shared));
        assert_eq!((replies.len(), replies[0].0.op), (1, Op::Ack), "one of one queue");
    }
    assert_eq!(told[0], told[1], "whichever way");
    assert_eq!(told[0].iter().map(|it| (it.0, it.1)).collect::<Vec<_>>(), [(0, 3), (1, 3)]);
}

/// What a frame acknowledges, by queue: how many changes, up to which, and all else that it tells.
fn acknowledged(header: &Header, body: &[u8]) -> Vec<(u32, u64, u64, u64, u64, u64)> {
    let say = |it: Header| (it.queue.0, it.message.0, it.sequence.0, it.epoch.0, it.aux, it.floor);
    match header.op {
        Op::Acks => AckEntry::all(body).unwrap().map(|entry| say(entry.header())).collect(),
        _ => vec![say(*header)],
    }
}

/// A queue with six messages, of which the third was deleted; the session speaks that version.
fn six_but_one(version: Version, shared: &mut Shared) -> Session {
    let mut session = session_in(version, shared);
    let mut stream = create(0, "q0");
    (1..=6).for_each(|number| stream.extend(store(0, number, 100, 1000)));
    stream.extend(frame(Header { message: MessageId(3), ..request(Op::Delete, 0, 7) }, &[]));
    session.handle_bytes(shared, &in_version(version, &stream));
    drain(&mut session, shared);
    session
}

/// The Delete of six messages by the numbers from 8 on.
fn delete_of_six() -> Header {
    let (version, message, aux) = (Version::V3, MessageId(1), 5);
    Header { version, message, aux, ..request(Op::Delete, 0, 8) }
}

/// What is answered: op, last number, how many or the op that is refused, and status.
fn answers(session: &mut Session, shared: &mut Shared) -> Vec<(Op, u64, u64, u32)> {
    let replies = replies(&drain(session, shared));
    let say =
        |(it, _): &(Header, Vec<u8>)| (it.op, it.sequence.0, it.message.0, it.generation_or_status);
    replies.iter().map(say).collect()
}

#[test]
fn one_delete_removes_several_messages_as_if_each_had_been_asked_for_by_itself() {
    let (delete, not_found) = (Op::Delete as u64, Status::NotFound as u32);
    let expected = [(Op::Ack, 9, 2, 0), (Op::Refused, 10, delete, not_found), (Op::Ack, 13, 3, 0)];
    let mut states = Vec::new();
    for singly in [true, false] {
        let mut shared = shared();
        let mut session = six_but_one(Version::V3, &mut shared);
        let six = delete_of_six();
        let stream: Vec<u8> = match singly {
            true => (0..6).flat_map(|at| frame(six.delete_at(at), &[])).collect(),
            false => frame(six, &[]),
        };
        session.handle_bytes(&mut shared, &stream);
        assert_eq!(answers(&mut session, &mut shared), expected);
        check(&shared);
        let state = |shared: &Shared| {
            let (_, queue) = shared.table.list("", None).next().unwrap();
            (queue.transaction(), queue.attached(shared.table.arena(), 0))
        };
        states.push(state(&shared));
        assert_eq!(shared.counters.get(Counter::Deletes), 6);
        session.handle_bytes(&mut shared, &stream);
        assert_eq!(answers(&mut session, &mut shared), expected, "again, as the first time");
        assert_eq!(state(&shared), states[0], "and nothing is applied");
    }
    assert_eq!(states[0], states[1]);
}

#[test]
fn each_delete_of_one_that_owns_the_queue_no_more_is_refused() {
    let mut shared = shared();
    let mut session = six_but_one(Version::V3, &mut shared);
    let two = Header { generation_or_status: 0, aux: 1, ..delete_of_six() };
    session.handle_bytes(&mut shared, &frame(two, &[]));
    let refused = |number| (Op::Refused, number, Op::Delete as u64, Status::Fenced as u32);
    assert_eq!(answers(&mut session, &mut shared), [refused(8), refused(9)]);
    let two = Header { queue: QueueHandle(4), aux: 1, ..delete_of_six() };
    session.handle_bytes(&mut shared, &frame(two, &[]));
    let refused = |number| (Op::Refused, number, Op::Delete as u64, Status::NotAttached as u32);
    assert_eq!(answers(&mut session, &mut shared), [refused(8), refused(9)]);
}

#[test]
fn a_delete_of_several_that_makes_no_sense_ends_the_session() {
    let six = delete_of_six();
    for (version, header, body) in [
        (Version::V2, six, &b""[..]),
        (Version::V3, six, b"body"),
        (Version::V3, Header { aux: DELETES_PER_FRAME_MAX, ..six }, b""),
        (Version::V3, Header { sequence: Sequence(u64::MAX - 4), ..six }, b""),
        (Version::V3, Header { message: MessageId(u64::MAX - 4), ..six }, b""),
        (Version::V3, Header { flags: flags::MORE, ..six }, b""),
        (Version::V3, Header { flags: flags::BACKFILL, ..six }, b""),
    ] {
        let mut shared = shared();
        let mut session = six_but_one(version, &mut shared);
        session.handle_bytes(&mut shared, &in_version(version, &frame(header, body)));
        let refused = (Op::Refused, 0, Op::Delete as u64, Status::BadRequest as u32);
        assert_eq!(answers(&mut session, &mut shared), [refused], "{header:?}");
        assert!(session.is_over());
        assert_eq!(shared.table.arena().messages(), 5, "nothing is deleted");
    }
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

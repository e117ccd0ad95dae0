//! The client against a scripted server: bytes in, events out, and what must not get past it.

use bytes::Bytes;
use kvs_proto::auth::{Handshake, Role, Secret};
use kvs_proto::body::{AckEntry, Attached, BodyError, Challenge, Hello, Limits, QueueName};
use kvs_proto::{
    ChainHash, Client, ClientConfig, ContentDigest, Credit, DELETES_PER_FRAME_MAX, Decoder, Epoch,
    Event, Generation, HEADER_SIZE_BYTES, Header, Incarnation, Instant, Message, MessageId, Op,
    PART_SIZE_BYTES_MAX, Piece, ProtocolError, QueueHandle, Sequence, Status, Tag, Transaction,
    Version, checksum, flags,
};
use proptest::prelude::*;

const NOW: Instant = Instant::from_nanos(1_000);
const QUEUE: QueueHandle = QueueHandle(3);
const OTHER: QueueHandle = QueueHandle(2);
const LIMITS: Limits = Limits {
    message_size_bytes_max: 1 << 20,
    state_size_bytes_max: 240,
    in_flight_max: 1024,
    handles_max: 16,
};

fn secret() -> Secret {
    Secret::new(b"sixteen or more bytes")
}

fn client() -> Client {
    let config = ClientConfig {
        account: "gateway".into(),
        secret: secret(),
        nonce: [7; 16],
        version_max: Version::CURRENT,
        output_bytes_max: 1 << 20,
    };
    Client::new(NOW, config)
}

/// Everything that the client says that it has to send, at most `step` bytes at a time, as frames.
fn sent(client: &mut Client, step: usize) -> Vec<(Header, Vec<u8>)> {
    let mut stream = Vec::new();
    while client.has_output() {
        let mut slices = [&[][..]; 8];
        let filled = client.peek_output(&mut slices);
        let mut taken = 0;
        for slice in &slices[..filled] {
            let take = slice.len().min(step - taken);
            stream.extend_from_slice(&slice[..take]);
            taken += take;
        }
        assert!(taken > 0, "there is what it says");
        client.advance_output(taken);
    }
    assert_eq!(client.peek_output(&mut [&[][..]; 3]), 0, "there is no more than it says");
    frames(&stream)
}

fn frames(mut stream: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    while let (used, Some(piece)) = decoder.handle_bytes(stream).expect("sound frames") {
        let Piece::Frame(header, body) = piece else { panic!("whole frames") };
        frames.push((header, body.to_vec()));
        stream = &stream[used..];
    }
    assert!(stream.is_empty());
    frames
}

fn frame(mut header: Header, body: &[u8]) -> Vec<u8> {
    header.body_length = u32::try_from(body.len()).expect("short");
    header.body_checksum = if body.is_empty() { 0 } else { checksum(body) };
    [&header.encode()[..], body].concat()
}

fn reply(op: Op) -> Header {
    Header { queue: QUEUE, epoch: Epoch(1), ..Header::new(op) }
}

fn challenge() -> Challenge {
    let (version, incarnation) = (Version::V1, Incarnation(5));
    Challenge { version, incarnation, nonce: [9; 16], limits: LIMITS }
}

/// Answers the handshake as a server with that secret.
fn shake_hands(client: &mut Client, secret: &Secret) {
    let hello = sent(client, 1000);
    assert_eq!(hello.len(), 1);
    let hello = Hello::decode(&hello[0].1).expect("a hello");
    assert_eq!((hello.account, hello.nonce), (&b"gateway"[..], [7; 16]));
    let mut body = Vec::new();
    challenge().encode(&mut body);
    client.handle_bytes(NOW, &frame(Header::new(Op::Challenge), &body));
    let authenticate = sent(client, 1000);
    let handshake = Handshake {
        version: Version::V1,
        incarnation: Incarnation(5),
        client_nonce: [7; 16],
        server_nonce: [9; 16],
        account: b"gateway",
    };
    assert_eq!(authenticate[0].1, handshake.proof(Role::Client, &self::secret()));
    let proof = handshake.proof(Role::Server, secret);
    client.handle_bytes(NOW, &frame(Header::new(Op::Welcome), &proof));
}

fn ready() -> Client {
    let mut client = client();
    shake_hands(&mut client, &secret());
    let welcome =
        Event::Welcome { version: Version::V1, incarnation: Incarnation(5), limits: LIMITS };
    assert_eq!(client.poll_event(), Some(welcome));
    assert_eq!(client.unanswered(), 0);
    client
}

/// A client with [`QUEUE`] and the handle below it attached, answers outstanding.
fn attached() -> Client {
    attach_both(ready())
}

fn attach_both(mut client: Client) -> Client {
    for queue in [QUEUE, OTHER] {
        let name = QueueName::parse(b"example.org").expect("a name");
        client.attach(NOW, queue, Tag(1), Epoch(1), Generation(4), name);
    }
    let frames = sent(&mut client, 50);
    assert_eq!((frames[0].0.epoch, frames[0].0.generation_or_status), (Epoch(1), 4));
    assert_eq!(frames[0].1, b"example.org");
    client
}

fn message(length: usize) -> Message {
    let content: Vec<u8> = (0..length).map(|n| n.to_le_bytes()[0]).collect();
    Message::new(Bytes::new(), content.into())
}

fn store(client: &mut Client, queue: QueueHandle, number: u64, length: usize) {
    let (sequence, id) = (Sequence(number), MessageId(number));
    client.store(NOW, queue, sequence, id, Sequence(1), &message(length));
}

/// A store of so many bytes, or a delete.
fn request() -> impl Strategy<Value = Option<usize>> {
    let part = PART_SIZE_BYTES_MAX;
    let lengths = prop::sample::select(vec![0, 10, 5_000, part, part + 1, 2 * part, 3 * part]);
    proptest::option::of(lengths)
}

fn died_of(client: &mut Client, error: ProtocolError) {
    assert_eq!(client.poll_event(), Some(Event::ProtocolError(error)));
    client.heart_beat(NOW, Tag(1));
    assert!(!client.is_ready() && !client.has_output());
}

#[test]
fn a_server_without_the_secret_is_left() {
    let mut client = client();
    shake_hands(&mut client, &Secret::new(b"guessed"));
    died_of(&mut client, ProtocolError::ServerProof);
}

#[test]
fn a_refused_proof_ends_the_connection() {
    let mut client = client();
    let header = Header {
        generation_or_status: Status::NotAuthenticated as u32,
        message: MessageId(Op::Hello as u64),
        ..Header::new(Op::Refused)
    };
    client.handle_bytes(NOW, &frame(header, &[]));
    let Some(Event::Refused(refusal)) = client.poll_event() else { panic!("a refusal") };
    assert_eq!((refusal.op, refusal.status), (Op::Hello, Status::NotAuthenticated));
    assert!(!client.is_ready() && !client.has_output());
}

/// A client of that highest version, welcomed by a server of the other, if they have one in common.
fn welcomed(ours: Version, theirs: Version) -> Client {
    let config = ClientConfig {
        account: "gateway".into(),
        secret: secret(),
        nonce: [7; 16],
        version_max: ours,
        output_bytes_max: 1 << 20,
    };
    let mut client = Client::new(NOW, config);
    let hello = &sent(&mut client, 1000)[0];
    assert_eq!(hello.0.version, Version::OLDEST, "whoever speaks any version can read it");
    let hello = Hello::decode(&hello.1).expect("a hello");
    let version = Version::common(theirs, hello.version_min, hello.version_max).expect("one");
    let in_version = |op| Header { version, ..Header::new(op) };
    let mut body = Vec::new();
    Challenge { version, ..challenge() }.encode(&mut body);
    client.handle_bytes(NOW, &frame(in_version(Op::Challenge), &body));
    assert_eq!(sent(&mut client, 1000)[0].0.version, version);
    let (client_nonce, server_nonce, incarnation) = ([7; 16], [9; 16], Incarnation(5));
    let account = b"gateway";
    let handshake = Handshake { version, incarnation, client_nonce, server_nonce, account };
    let proof = handshake.proof(Role::Server, &secret());
    client.handle_bytes(NOW, &frame(in_version(Op::Welcome), &proof));
    let welcome = Event::Welcome { version, incarnation: Incarnation(5), limits: LIMITS };
    assert_eq!(client.poll_event(), Some(welcome));
    client
}

#[test]
fn two_ends_speak_the_highest_version_that_both_know_and_no_other() {
    let all = [Version::V1, Version::V2, Version::V3];
    for (ours, theirs) in all.iter().flat_map(|ours| all.map(|theirs| (*ours, theirs))) {
        let mut client = welcomed(ours, theirs);
        let version = ours.min(theirs);
        let name = QueueName::parse(b"example.org").expect("a name");
        client.attach(NOW, QUEUE, Tag(1), Epoch(1), Generation(4), name);
        store(&mut client, QUEUE, 1, 100_000);
        assert!(sent(&mut client, 1000).iter().all(|(header, _)| header.version == version));
        let attached = Attached {
            last_sequence: Sequence(1),
            chain: ChainHash(2),
            content: ContentDigest(3),
            messages: 4,
            bytes: 5,
            first_id: MessageId(6),
            last_id: MessageId(7),
            port: 8,
            owner_idle_ms: (version >= Version::V2).then_some(1234),
        };
        let mut body = Vec::new();
        attached.encode(version, &mut body);
        let header = Header { version, sequence: Sequence(1), ..reply(Op::Attached) };
        client.handle_bytes(NOW, &frame(header, &body));
        let Some(Event::Attached { attached: got, .. }) = client.poll_event() else { panic!() };
        assert_eq!(got, attached);
        let other = if version == Version::V1 { Version::V2 } else { Version::V1 };
        let header = Header { version: other, ..header };
        client.handle_bytes(NOW, &frame(header, &body));
        died_of(&mut client, ProtocolError::Version(other));
    }
}

#[test]
fn a_version_that_was_not_offered_is_not_spoken() {
    let mut client = Client::new(
        NOW,
        ClientConfig {
            account: "gateway".into(),
            secret: secret(),
            nonce: [7; 16],
            version_max: Version::V1,
            output_bytes_max: 1,
        },
    );
    let mut body = Vec::new();
    Challenge { version: Version::V2, ..challenge() }.encode(&mut body);
    let header = Header { version: Version::V2, ..Header::new(Op::Challenge) };
    client.handle_bytes(NOW, &frame(header, &body));
    died_of(&mut client, ProtocolError::Version(Version::V2));
}

#[test]
fn what_is_answered_tells_since_when_the_server_was_there() {
    let mut client = attached();
    let at = Instant::from_nanos;
    let answered = client.answered_since();
    assert_eq!(answered, Some(NOW), "the handshake");
    store(&mut client, QUEUE, 1, 300_000);
    client.heart_beat(at(3_000), Tag(5));
    client.heart_beat(at(4_000), Tag(5));
    assert_eq!(client.heart_beat_at(), Some(at(4_000)));
    let alive = |echo| Header { aux: echo, ..Header::new(Op::HeartBeatReply) };
    client.handle_bytes(at(5_000), &frame(alive(3_000), &[]));
    assert_eq!(client.answered_since(), Some(at(3_000)), "the message is still on its way");
    client.handle_bytes(at(5_000), &frame(alive(4_001), &[]));
    assert_eq!(client.answered_since(), Some(at(3_000)), "no heart-beat of ours");
}

#[test]
fn an_attached_reply_is_an_event() {
    let mut client = attached();
    let expected = Attached {
        last_sequence: Sequence(1),
        chain: ChainHash(2),
        content: ContentDigest(3),
        messages: 4,
        bytes: 5,
        first_id: MessageId(6),
        last_id: MessageId(7),
        port: 8,
        owner_idle_ms: None,
    };
    let mut body = Vec::new();
    expected.encode(Version::V1, &mut body);
    let credit = Credit::new(10, 20 * 1024);
    let header =
        Header { sequence: Sequence(1), floor: credit.to_bits(), aux: 9, ..reply(Op::Attached) };
    client.handle_bytes(NOW, &frame(header, &body));
    match client.poll_event() {
        Some(Event::Attached { queue: QUEUE, tag: Tag(1), attached, credit: got, .. }) => {
            assert_eq!((attached, got), (expected, credit));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_ack_answers_a_run_and_deadlines_follow_the_oldest() {
    let mut client = attached();
    let at = Instant::from_nanos;
    client.delete(at(2_000), QUEUE, Sequence(1), MessageId(1), Sequence(1));
    client.delete(at(3_000), QUEUE, Sequence(2), MessageId(2), Sequence(1));
    client.delete(at(3_000), QUEUE, Sequence(3), MessageId(3), Sequence(1));
    assert_eq!((client.unanswered(), client.oldest_unanswered_since()), (5, Some(NOW)));
    let ack = Header { sequence: Sequence(2), message: MessageId(4), ..reply(Op::Ack) };
    client.handle_bytes(at(4_000), &frame(ack, &[]));
    assert_eq!(client.oldest_unanswered_since(), Some(at(3_000)));
    assert_eq!((client.unanswered(), client.last_received()), (1, at(4_000)));
    // More answers than there were requests.
    client.handle_bytes(at(5_000), &frame(ack, &[]));
    assert!(matches!(client.poll_event(), Some(Event::Ack { count: 4, .. })));
    died_of(&mut client, ProtocolError::Unexpected(Op::Ack));
}

#[test]
fn one_frame_acknowledges_several_queues() {
    let mut client = attach_both(welcomed(Version::V3, Version::V3));
    for (sequence, queue) in [(1, QUEUE), (2, QUEUE), (1, OTHER)] {
        client.delete(NOW, queue, Sequence(sequence), MessageId(sequence), Sequence(1));
    }
    let before = client.unanswered();
    let credit = Credit::new(10, 20 * 1024);
    let entry = |queue, count| AckEntry {
        queue,
        count,
        epoch: Epoch(1),
        sequence: Sequence(u64::from(count)),
        transaction: Transaction(7),
        credit,
    };
    let mut body = Vec::new();
    [entry(OTHER, 1), entry(QUEUE, 2)].iter().for_each(|entry| entry.encode(&mut body));
    let header = Header { version: Version::V3, ..Header::new(Op::Acks) };
    client.handle_bytes(NOW, &frame(header, &body));
    let ack = |queue, count| Event::Ack {
        queue,
        epoch: Epoch(1),
        sequence: Sequence(count),
        count,
        transaction: Transaction(7),
        credit,
    };
    let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).collect();
    assert_eq!(events, [ack(OTHER, 1), ack(QUEUE, 2)]);
    assert_eq!(client.unanswered(), before - 3);

    let mut body = Vec::new();
    entry(QueueHandle(9), 1).encode(&mut body);
    client.handle_bytes(NOW, &frame(header, &body));
    died_of(&mut client, ProtocolError::Field(Op::Ack));
}

#[test]
fn an_acknowledgement_of_no_queue_is_an_error() {
    let mut client = attach_both(welcomed(Version::V3, Version::V3));
    let header = Header { version: Version::V3, ..Header::new(Op::Acks) };
    client.handle_bytes(NOW, &frame(header, &[]));
    died_of(&mut client, ProtocolError::Body(Op::Acks, BodyError::Value));
}

/// What the client has to send, as each frame's number, message and how many more it deletes.
fn deletes(client: &mut Client) -> Vec<(u64, u64, u64)> {
    let frames = sent(client, 1 << 20);
    let deletes = frames.iter().filter(|(header, _)| header.op == Op::Delete);
    deletes.map(|(it, _)| (it.sequence.0, it.message.0, it.aux)).collect()
}

fn delete(client: &mut Client, queue: QueueHandle, number: u64, id: u64) {
    client.delete(NOW, queue, Sequence(number), MessageId(id), Sequence(number));
}

#[test]
fn deletes_that_continue_one_another_go_as_one_to_a_server_that_knows_that() {
    for (version, expected) in
        [(Version::V3, vec![(1, 11, 2)]), (Version::V2, vec![(1, 11, 0), (2, 12, 0), (3, 13, 0)])]
    {
        let mut client = attach_both(welcomed(version, version));
        let before = (client.unanswered(), client.room());
        (1..=3).for_each(|number| delete(&mut client, QUEUE, number, number + 10));
        assert_eq!(client.unanswered(), before.0 + 3, "each is answered");
        assert_eq!(client.room(), before.1 - HEADER_SIZE_BYTES * expected.len());
        assert!(client.has_output());
        let [first, ..] = &sent(&mut client, 1 << 20)[..] else { panic!("frames") };
        assert_eq!(first.0.floor, 1, "what the first needs is remembered");
        (4..=6).for_each(|number| delete(&mut client, QUEUE, number, number + 7));
        let later = deletes(&mut client);
        let shifted = expected.iter().map(|(number, id, more)| (number + 3, *id, *more));
        assert_eq!(later, shifted.collect::<Vec<_>>(), "what was sent takes no more");
    }
}

#[test]
fn a_delete_continues_no_other_across_a_gap_a_queue_a_change_or_the_bound() {
    let mut client = attach_both(welcomed(Version::V3, Version::V3));
    delete(&mut client, QUEUE, 1, 11);
    delete(&mut client, QUEUE, 2, 13);
    delete(&mut client, QUEUE, 4, 14);
    delete(&mut client, OTHER, 5, 15);
    delete(&mut client, QUEUE, 5, 15);
    store(&mut client, QUEUE, 6, 10);
    delete(&mut client, QUEUE, 7, 16);
    delete(&mut client, QUEUE, 8, 17);
    client.heart_beat(NOW, Tag(1));
    delete(&mut client, QUEUE, 9, 18);
    let each = [(1, 11, 0), (2, 13, 0), (4, 14, 0), (5, 15, 0), (5, 15, 0), (7, 16, 1), (9, 18, 0)];
    assert_eq!(deletes(&mut client), each);
    let count = DELETES_PER_FRAME_MAX + 2;
    (1..=count).for_each(|number| delete(&mut client, QUEUE, number, number));
    let most = DELETES_PER_FRAME_MAX;
    assert_eq!(deletes(&mut client), [(1, 1, most - 1), (most + 1, most + 1, 1)]);
    for number in [u64::MAX - 1, u64::MAX] {
        delete(&mut client, QUEUE, number, number);
    }
    assert_eq!(deletes(&mut client), [(u64::MAX - 1, u64::MAX - 1, 1)]);
}

#[test]
fn deletes_keep_their_place_among_what_the_queue_asks_for() {
    let mut client = attach_both(welcomed(Version::V3, Version::V3));
    delete(&mut client, QUEUE, 1, 1);
    store(&mut client, QUEUE, 2, 200_000);
    delete(&mut client, QUEUE, 3, 2);
    delete(&mut client, OTHER, 1, 1);
    let frames = sent(&mut client, 1 << 20);
    let of_queue = frames.iter().filter(|(header, _)| header.queue == QUEUE);
    let numbers: Vec<_> = of_queue.map(|(header, _)| header.sequence.0).collect();
    assert_eq!(numbers, [1, 2, 2, 2, 2, 3]);
    assert_eq!(frames.len(), 7);
    assert!(!client.has_output());
}

#[test]
fn a_delete_that_is_all_that_waits_behind_a_long_message_is_output() {
    let mut client = attached();
    // Two whole parts are made ready at a time, and the delete is left alone behind them.
    store(&mut client, QUEUE, 1, 2 * PART_SIZE_BYTES_MAX);
    delete(&mut client, QUEUE, 2, 1);
    let frames = sent(&mut client, usize::MAX);
    assert_eq!(
        frames.iter().map(|(it, _)| it.op).collect::<Vec<_>>(),
        [Op::Store, Op::Store, Op::Delete]
    );
}

#[test]
fn long_messages_go_in_parts_in_turn_and_hold_up_nothing_else() {
    let mut client = attached();
    store(&mut client, QUEUE, 1, 300_000);
    store(&mut client, OTHER, 1, 200_000);
    store(&mut client, QUEUE, 2, 10);
    client.heart_beat(NOW, Tag(5));
    let frames = sent(&mut client, 10_000);
    let order: Vec<(Op, u32, u64)> =
        frames.iter().map(|(header, _)| (header.op, header.queue.0, header.aux >> 32)).collect();
    let part = 65_536;
    let expected = [
        (Op::HeartBeat, 0, 0),
        (Op::Store, 3, 0),
        (Op::Store, 2, 0),
        (Op::Store, 3, part),
        (Op::Store, 2, part),
        (Op::Store, 3, 2 * part),
        (Op::Store, 2, 2 * part),
        (Op::Store, 3, 3 * part),
        (Op::Store, 2, 3 * part),
        (Op::Store, 3, 4 * part),
        (Op::Store, 3, 0),
    ];
    assert_eq!(order, expected);
    let body: Vec<u8> = frames
        .iter()
        .filter(|(header, _)| header.queue == QUEUE && header.sequence == Sequence(1))
        .flat_map(|(_, body)| body.clone())
        .collect();
    assert_eq!(u64::from(checksum(&body)), message(300_000).digest().0 & 0xffff_ffff);
    let more: Vec<bool> = frames
        .iter()
        .filter(|(header, _)| header.queue == OTHER)
        .map(|(header, _)| header.flags & flags::MORE != 0)
        .collect();
    assert_eq!(more, [true, true, true, false]);
}

#[test]
fn room_shrinks_with_what_waits_and_comes_back() {
    let mut client = attached();
    let whole = client.room();
    store(&mut client, QUEUE, 1, 300_000);
    store(&mut client, QUEUE, 2, 5_000);
    assert!(client.room() <= whole - 305_000);
    store(&mut client, QUEUE, 3, 1 << 20);
    assert_eq!(client.room(), 0);
    sent(&mut client, 7_777);
    assert_eq!(client.room(), whole);
}

/// The frames of one item of which the body is `state` and `body`, cut every `part` bytes.
fn item(state: &[u8], body: &[u8], part: usize) -> Vec<u8> {
    let whole = [state, body].concat();
    let mut stream = Vec::new();
    let mut offset = 0;
    loop {
        let end = whole.len().min(offset + part);
        let more = end < whole.len();
        let header = Header {
            flags: if more { flags::MORE } else { 0 },
            sequence: Sequence(77),
            message: MessageId(12),
            aux: (offset as u64) << 32 | whole.len() as u64,
            floor: 5 << 32 | state.len() as u64,
            ..reply(Op::Item)
        };
        stream.extend(frame(header, &whole[offset..end]));
        offset = end;
        if !more {
            return stream;
        }
    }
}

proptest! {
    #[test]
    fn items_are_assembled_whatever_the_parts_and_splits(
        state in 0usize..200,
        length in 0usize..2_000,
        part in 100usize..900,
        split in any::<proptest::sample::Index>(),
    ) {
        let mut client = attached();
        let (state, body) = (vec![1; state], vec![2; length]);
        let stream = item(&state, &body, part);
        let (first, second) = stream.split_at(split.index(stream.len()));
        client.handle_bytes(NOW, first);
        client.handle_bytes(NOW, second);
        let Some(Event::Item(item)) = client.poll_event() else { panic!("an item") };
        prop_assert_eq!((item.id, item.tag, item.state_version.0), (MessageId(12), Tag(77), 5));
        prop_assert_eq!((&item.state[..], &item.body[..]), (&state[..], &body[..]));
        prop_assert_eq!(client.poll_event(), None);
    }

    #[test]
    fn all_that_is_asked_for_goes_out_in_the_order_of_its_queue(
        requests in proptest::collection::vec((any::<bool>(), request(), 0..4_u8), 1..12),
        step in prop_oneof![Just(usize::MAX), 1_000..300_000_usize],
    ) {
        let mut client = attach_both(welcomed(Version::V3, Version::V3));
        let mut numbers = [0, 0];
        let mut frames = Vec::new();
        for (is_other, length, pause) in requests {
            let queue = if is_other { OTHER } else { QUEUE };
            let number = &mut numbers[usize::from(is_other)];
            *number += 1;
            match length {
                Some(length) => store(&mut client, queue, *number, length),
                None => delete(&mut client, queue, *number, *number),
            }
            if pause == 0 {
                frames.extend(sent(&mut client, step));
            }
        }
        frames.extend(sent(&mut client, step));
        for (queue, last) in [(QUEUE, numbers[0]), (OTHER, numbers[1])] {
            let of_queue = frames.iter().filter(|(it, _)| it.queue == queue);
            let is_end = |it: &Header| it.flags & flags::MORE == 0;
            let whole = of_queue.filter(|(it, _)| is_end(it));
            let asked = whole.flat_map(|(it, _)| {
                let more = if it.op == Op::Delete { it.aux } else { 0 };
                it.sequence.0..=it.sequence.0 + more
            });
            prop_assert!(asked.eq(1..=last));
        }
    }

    #[test]
    fn random_bytes_kill_the_link_and_nothing_else(bytes in proptest::collection::vec(any::<u8>(), 64..200)) {
        let mut client = ready();
        client.handle_bytes(NOW, &bytes);
        prop_assert!(matches!(client.poll_event(), Some(Event::ProtocolError(_))));
    }

    /// Sound frames with random contents, as an authenticated but mad server might send.
    #[test]
    fn random_frames_never_panic(
        frames in proptest::collection::vec(
            (128u8..142, any::<u16>(), 0u32..6, any::<[u64; 5]>(), proptest::collection::vec(any::<u8>(), 0..100)),
            1..8,
        )
    ) {
        let mut client = attached();
        for (op, flag, queue, [a, b, c, d, e], body) in frames {
            let Some(op) = Op::from_u8(op) else { continue };
            let header = Header {
                op,
                flags: flag & flags::KNOWN,
                queue: QueueHandle(queue),
                generation_or_status: u32::try_from(a % 25).expect("small"),
                sequence: Sequence(b),
                aux: c % (1 << 34),
                message: MessageId(d % 16),
                floor: e % (1 << 34),
                ..Header::new(op)
            };
            client.handle_bytes(NOW, &frame(header, &body));
        }
        while client.poll_event().is_some() {}
    }
}

#[test]
fn a_part_out_of_place_is_an_error() {
    let stream = item(b"", &[1; 300], 100);
    let mut client = attached();
    client.handle_bytes(NOW, &stream[..164]);
    client.handle_bytes(NOW, &stream[328..]);
    died_of(&mut client, ProtocolError::Field(Op::Item));
}

#[test]
fn a_message_cut_off_by_withdrawal_or_refusal_does_not_disturb_the_next() {
    let mut client = attached();
    let stream = item(b"", &[1; 300], 100);
    let withdrawn = Header {
        flags: flags::WITHDRAWN,
        message: MessageId(12),
        aux: 100 << 32 | 300,
        ..reply(Op::Item)
    };
    let refused = Header {
        generation_or_status: Status::Fenced as u32,
        message: MessageId(Op::BlockGet as u64),
        ..reply(Op::Refused)
    };
    for end in [withdrawn, refused] {
        client.handle_bytes(NOW, &stream[..164]);
        client.handle_bytes(NOW, &frame(end, &[]));
        client.handle_bytes(NOW, &stream);
        let mut items = 0;
        while let Some(event) = client.poll_event() {
            match event {
                Event::Item(item) => items += item.body.len(),
                Event::Refused(refusal) => assert_eq!(refusal.op, Op::BlockGet),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(items, 300);
    }
}

#[test]
#[should_panic(expected = "Event::Welcome")]
fn commands_before_the_welcome_are_the_callers_mistake() {
    client().heart_beat(NOW, Tag(1));
}

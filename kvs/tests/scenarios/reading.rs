//! Block gets, large bodies, and a client that does not read.

use kvs_proto::{Event, MessageId, Sequence, StateVersion, Tag};

use crate::link::{Link, QUEUE, now, server, small_server};

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7).to_le_bytes()[0]).collect()
}

#[test]
fn blocks_of_any_size_give_everything_in_order() {
    let server = server("memory = \"64 MiB\"");
    let mut link = Link::with_queue(&server);
    for _ in 0..20_000 {
        link.store(&content(1000));
    }
    link.acknowledged(20_000);
    for id in (3..20_000).step_by(3) {
        link.delete(id);
    }
    link.acknowledged((3..20_000).step_by(3).count() as u64);
    let expected: Vec<u64> = (1..=20_000).filter(|id| id % 3 != 0).collect();
    for count_max in [100, 1_000, 10_000, u32::MAX] {
        assert_eq!(link.read_all(count_max), expected);
    }
    server.stop();
}

#[test]
fn large_bodies_go_in_parts_and_heart_beats_go_between() {
    let server = server("memory = \"64 MiB\"");
    let mut link = Link::with_queue(&server);
    let large = content(10_000_000);
    link.store(&large);
    link.client.heart_beat(now(), Tag(1));
    link.store(b"behind it");
    assert_eq!(link.event(), Event::HeartBeatReply { tag: Tag(1) }, "overtakes");
    link.acknowledged(2);
    let (sequence, id) = (Sequence(link.next), MessageId(1));
    let (floor, version) = (Sequence(1), StateVersion(4));
    let state = bytes::Bytes::from_static(b"tried once");
    link.client.replace(now(), QUEUE, sequence, id, floor, version, state.clone());
    link.acknowledged(1);
    link.client.block_get(now(), QUEUE, Tag(2), MessageId(0), 10, u32::MAX);
    let Event::Item(item) = link.event() else { panic!("an item") };
    assert_eq!((item.id, item.state_version, &item.state), (id, version, &state));
    assert!(item.body == large, "every byte is back");
    let Event::Item(item) = link.event() else { panic!("an item") };
    assert_eq!((&item.body[..], item.state_version.0), (&b"behind it"[..], 0));
    let end = link.event();
    assert!(matches!(end, Event::BlockEnd { count: 2, finished: true, .. }), "{end:?}");
    server.stop();
}

#[test]
fn a_large_body_begins_again_on_a_new_connection() {
    let server = server("memory = \"16 MiB\"");
    let mut first = Link::with_queue(&server);
    first.store(&content(8_000_000));
    let mut slices = [&[][..]; 4];
    let filled = first.client.peek_output(&mut slices);
    for slice in &slices[..filled] {
        std::io::Write::write_all(&mut first.stream, slice).unwrap();
    }
    drop(first);
    // There is room for one such message only, so the first one's must have come back.
    let mut second = Link::new(&server);
    let attached = second.attach("queue", 1, 2).unwrap();
    assert_eq!((attached.messages, attached.last_sequence), (0, Sequence(0)));
    second.store(&content(12_000_000));
    match second.event() {
        Event::Ack { .. } => {}
        // The end of the first connection may come in a later turn than the new request.
        Event::Refused(_) => {
            second.store(&content(12_000_000));
            second.acknowledged(1);
        }
        other => panic!("{other:?}"),
    }
    server.stop();
}

#[test]
fn a_message_removed_while_its_parts_are_sent_is_withdrawn() {
    let server = server("memory = \"64 MiB\"");
    let mut link = Link::with_queue(&server);
    link.store(&content(20_000_000));
    link.store(b"next");
    link.acknowledged(2);
    link.client.block_get(now(), QUEUE, Tag(2), MessageId(0), 10, u32::MAX);
    link.delete(1);
    let mut ids = Vec::new();
    let count = loop {
        match link.event() {
            Event::Item(item) => ids.push(item.id.0),
            Event::BlockEnd { count, .. } => break count,
            Event::Ack { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    // Either it was all sent before the delete came, or it was withdrawn.
    assert_eq!(ids.len() as u64, count);
    assert!(ids == [2] || ids == [1, 2], "{ids:?}");
    server.stop();
}

#[test]
fn a_client_that_does_not_read_is_not_read_from_and_holds_nobody_up() {
    let server = server("memory = \"64 MiB\"");
    let mut link = Link::with_queue(&server);
    for _ in 0..100 {
        link.store(&content(100_000));
    }
    link.acknowledged(100);
    // Twenty times ten megabytes asked for, and nothing read.
    for _ in 0..20 {
        link.client.block_get(now(), QUEUE, Tag(2), MessageId(0), 100, u32::MAX);
    }
    link.flush();
    let mut other = Link::new(&server);
    other.create("another", 1_000, 1 << 20).unwrap();
    for _ in 0..1_000 {
        other.store(b"mail");
    }
    other.acknowledged(1_000);
    let mut items = 0;
    let mut ends = 0;
    while ends < 20 {
        match link.event() {
            Event::Item(_) => items += 1,
            Event::BlockEnd { .. } => ends += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(items, 2_000);
    server.stop();
}

#[test]
fn a_read_of_an_empty_queue_ends_at_once() {
    let server = small_server();
    let mut link = Link::with_queue(&server);
    assert_eq!(link.read_all(10), []);
    server.stop();
}

//! A copy that takes new messages while older ones come.

use bytes::Bytes;
use kvs_proto::body::Baseline;
use kvs_proto::{ChainHash, Event, Message, MessageId, Sequence, Status, Tag, Transaction};

use crate::link::{Link, QUEUE, now, server};

/// Longer than a part, every ninth.
fn content(id: u64) -> Vec<u8> {
    let length = if id.is_multiple_of(9) { 150_000 } else { 500 };
    (0..length).map(|at: u64| (at + id).to_le_bytes()[0]).collect()
}

fn store(link: &mut Link, id: u64, is_old: bool) {
    let (sequence, id) = (Sequence(link.next), MessageId(id));
    link.next += 1;
    let message = Message::new(Bytes::new(), content(id.0).into());
    let floor = Sequence(1);
    if is_old {
        link.client.backfill(now(), QUEUE, sequence, id, floor, &message);
    } else {
        link.client.store(now(), QUEUE, sequence, id, floor, &message);
    }
}

#[test]
fn old_messages_come_between_new_ones_and_all_are_read_in_order() {
    let server = server("memory = \"64 MiB\"");
    let mut link = Link::with_queue(&server);
    for number in 1..=100 {
        store(&mut link, 100 + number, false);
        store(&mut link, number, true);
    }
    link.acknowledged(200);
    for id in [9, 27, 100, 101, 117] {
        link.delete(id);
    }
    link.acknowledged(5);
    let gone = [9, 27, 100, 101, 117];
    let expected: Vec<u64> = (1..=200).filter(|id| !gone.contains(id)).collect();
    for count_max in [1, 64, u32::MAX] {
        assert_eq!(link.read_all(count_max), expected);
    }
    link.client.block_get(now(), QUEUE, Tag(2), MessageId(17), 1, u32::MAX);
    let Event::Item(item) = link.event() else { panic!("an item") };
    assert_eq!((item.id, &item.body[..]), (MessageId(18), &content(18)[..]));
    server.stop();
}

#[test]
fn a_baseline_closes_the_list_of_old_messages() {
    let server = server("memory = \"64 MiB\"");
    let mut link = Link::with_queue(&server);
    store(&mut link, 10, false);
    store(&mut link, 1, true);
    link.acknowledged(2);
    let attached = link.attach("queue", 1, 1).unwrap();
    let (sequence, floor) = (Sequence(link.next), Sequence(1));
    link.next += 1;
    let (transaction, chain) = (Transaction(50), ChainHash(5));
    let (content, messages) = (attached.content, attached.messages);
    let baseline = Baseline { transaction, chain, content, messages };
    link.client.baseline(now(), QUEUE, sequence, floor, &baseline);
    link.acknowledged(1);
    store(&mut link, 2, true);
    let Event::Refused(refusal) = link.event() else { panic!("it is complete") };
    assert_eq!(refusal.status, Status::IdNotGrowing);
    assert_eq!(link.read_all(10), [1, 10]);
    server.stop();
}

//! Two clients, resends and attachments.

use kvs_proto::{Event, Sequence, Status, Tag, Transaction};

use crate::link::{Link, QUEUE, now, small_server};

#[test]
fn a_new_owner_fences_the_old_one_between_two_requests() {
    let server = small_server();
    let mut old = Link::with_queue(&server);
    for _ in 0..10 {
        old.store(b"mail");
    }
    old.acknowledged(10);
    let mut new = Link::new(&server);
    let attached = new.attach("queue", 2, 0).unwrap();
    assert_eq!((attached.messages, attached.last_sequence), (10, Sequence(0)));
    old.store(b"too late");
    let refusal = old.refused();
    assert_eq!((refusal.status, refusal.epoch.0), (Status::Fenced, 2));
    old.client.block_get(now(), QUEUE, Tag(1), Default::default(), 10, 1000);
    assert_eq!(old.refused().status, Status::Fenced);
    assert_eq!(old.attach("queue", 1, 99), Err(Status::Fenced));
    assert_eq!(new.read_all(3), (1..=10).collect::<Vec<_>>());
    server.stop();
}

#[test]
fn what_was_sent_again_after_a_reconnect_is_applied_once() {
    let server = small_server();
    let mut first = Link::with_queue(&server);
    for _ in 0..100 {
        first.store(b"mail");
    }
    first.acknowledged(100);
    drop(first);
    let mut second = Link::new(&server);
    let attached = second.attach("queue", 1, 2).unwrap();
    assert_eq!(attached.last_sequence, Sequence(100));
    for number in 51..=150 {
        second.store_as(number, number, b"mail");
    }
    second.acknowledged(100);
    assert_eq!(second.read_all(1000), (1..=150).collect::<Vec<_>>());
    let attached = second.attach("queue", 1, 2).unwrap();
    assert_eq!(attached.messages, 150);
    server.stop();
}

#[test]
fn both_paths_of_an_owner_may_carry_the_same_requests() {
    let server = small_server();
    let mut active = Link::with_queue(&server);
    let mut standby = Link::new(&server);
    standby.attach("queue", 1, 1).unwrap();
    active.store_as(1, 1, b"one");
    active.acknowledged(1);
    for link in [&mut standby, &mut active] {
        link.store_as(1, 1, b"one");
        link.store_as(2, 2, b"two");
        link.acknowledged(2);
    }
    standby.store_as(4, 4, b"four");
    let refusal = standby.refused();
    assert_eq!((refusal.status, refusal.sequence), (Status::SequenceGap, Sequence(2)));
    assert_eq!(active.read_all(10), [1, 2]);
    server.stop();
}

#[test]
fn a_restarted_server_says_unknown_and_never_empty() {
    let server = small_server();
    let mut link = Link::new(&server);
    assert_eq!(link.attach("queue", 5, 1), Err(Status::UnknownQueue));
    link.create("queue", 10, 10).unwrap();
    assert_eq!(link.create("queue", 10, 10), Err(Status::Exists));
    server.stop();
}

#[test]
fn a_new_owner_learns_the_last_operations() {
    let server = small_server();
    let mut link = Link::with_queue(&server);
    link.store(b"one");
    link.store(b"two");
    link.delete(1);
    link.acknowledged(3);
    link.client.ops_get(now(), QUEUE, Tag(4), Transaction(1));
    let Event::Ops { entries, transaction, .. } = link.event() else { panic!("operations") };
    assert_eq!(transaction, Transaction(3));
    let ids: Vec<_> = entries.iter().map(|entry| (entry.op as u8, entry.message.0)).collect();
    assert_eq!(ids, [(6, 2), (7, 1)]);
    link.client.drop_queue(now(), QUEUE, Tag(5));
    assert_eq!(link.event(), Event::Dropped { queue: QUEUE, tag: Tag(5) });
    assert_eq!(link.attach("queue", 5, 1), Err(Status::UnknownQueue));
    server.stop();
}

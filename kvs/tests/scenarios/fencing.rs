//! Two clients, resends and attachments.

use std::time::{Duration, Instant};

use kvs_proto::body::Attached;
use kvs_proto::{Event, Sequence, Status, Tag, Transaction, Version};

use crate::link::{Link, QUEUE, now, server, small_server};

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
    assert!(attached.owner_idle_ms.is_some());
    assert!(old.is_ended(), "nothing of the former owner's is answered any more");
    let mut old = Link::new(&server);
    assert_eq!(old.attach("queue", 1, 99), Err(Status::Fenced));
    assert_eq!(new.read_all(3), (1..=10).collect::<Vec<_>>());
    server.stop();
}

#[test]
fn the_seal_tells_for_how_long_the_former_owner_has_been_silent() {
    let server = small_server();
    let mut old = Link::with_queue(&server);
    old.store(b"mail");
    old.acknowledged(1);
    let heard = Instant::now();
    drop(old);
    let mut new = Link::new(&server);
    let at_least = heard.elapsed();
    let idle =
        |attached: Attached| attached.owner_idle_ms.map(u64::from).map(Duration::from_millis);
    let second = idle(new.attach("queue", 2, 0).unwrap()).expect("the epoch was raised");
    assert!(second <= heard.elapsed() + Duration::from_millis(1), "{second:?} {at_least:?}");
    let heard = Instant::now();
    assert_eq!(new.attach("queue", 2, 1).unwrap().owner_idle_ms, None, "only resumed");
    let third = idle(new.attach("queue", 3, 0).unwrap()).expect("the epoch was raised");
    assert!(third <= heard.elapsed(), "it was we, and just now: {third:?}");
    server.stop();
}

#[test]
fn whoever_asks_hears_how_long_the_owner_has_been_silent_and_takes_nothing_from_it() {
    let server = small_server();
    let mut owner = Link::with_queue(&server);
    let asked = Instant::now();
    owner.store(b"mail");
    owner.acknowledged(1);
    let mut watcher = Link::new(&server);
    let at_most = |asked: Instant| asked.elapsed() + Duration::from_millis(1);
    assert!(watcher.owner_idle("queue").unwrap() <= at_most(asked));
    let asked = Instant::now();
    owner.store(b"more");
    owner.acknowledged(1);
    assert_eq!(watcher.owner_idle("other"), Err(Status::UnknownQueue));
    drop(owner);
    // Told to several, again and again, it stays the same silence.
    let mut least = Duration::ZERO;
    for _ in 0..3 {
        let idle = Link::new(&server).owner_idle("queue").unwrap();
        assert!(least <= idle && idle <= at_most(asked), "{idle:?}");
        least = idle;
    }
    let foreign = Link::open(server.addresses()[0], "other", "the secret of other").welcomed();
    assert_eq!({ foreign }.owner_idle("queue"), Err(Status::NotYours));
    server.stop();
}

#[test]
fn a_former_owner_is_sent_away_on_each_of_its_connections_and_nobody_else_is() {
    let server = small_server();
    let mut active = Link::with_queue(&server);
    let mut standby = Link::new(&server);
    standby.attach("queue", 1, 1).unwrap();
    let mut left = Link::new(&server);
    left.attach("queue", 1, 1).unwrap();
    left.create_as(QUEUE, "another", 9, 9).unwrap();
    let mut new = Link::new(&server);
    new.attach("queue", 2, 0).unwrap();
    assert!(active.is_ended() && standby.is_ended());
    left.store(b"mail");
    left.acknowledged(1);
    server.stop();
}

#[test]
fn versions_work_side_by_side() {
    let all = [Version::V1, Version::V2, Version::V3];
    for (ours, theirs) in all.iter().flat_map(|ours| all.map(|theirs| (*ours, theirs))) {
        let server = server(&format!("memory = \"16 MiB\"\nprotocol_max = {}", theirs as u8));
        let open = || Link::with_version(&server, ours);
        let (mut old, mut new) = (open(), open());
        old.create("queue", 100, 1 << 20).unwrap();
        // In one part, and in several.
        for length in [10, 100_000, 10] {
            old.store(&vec![b'x'; length]);
        }
        old.acknowledged(3);
        let attached = new.attach("queue", 2, 0).unwrap();
        let knows = ours.min(theirs) >= Version::V2;
        assert_eq!(attached.owner_idle_ms.is_some(), knows, "{ours:?} {theirs:?}");
        assert_eq!(new.read_all(2), [1, 2, 3]);
        server.stop();
    }
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

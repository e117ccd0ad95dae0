//! At each bound an answer, never a drop or a crash.

use kvs_proto::{Event, Op, QueueHandle, Status, Tag};

use crate::link::{Link, QUEUE, now, server, small_server};

#[test]
fn a_full_queue_is_refused_and_takes_again_after_a_delete() {
    let server = small_server();
    let mut link = Link::new(&server);
    link.create("queue", 3, 1 << 20).unwrap();
    for _ in 0..4 {
        link.store(b"mail");
    }
    let Event::Ack { count: 3, credit, .. } = link.event() else { panic!("three fit") };
    assert_eq!(credit.messages, 0);
    assert_eq!(link.refused().status, Status::QueueFull);
    link.delete(1);
    link.store(b"mail");
    link.acknowledged(2);
    server.stop();
}

#[test]
fn a_full_arena_is_refused_and_other_queues_give_it_back() {
    let server = server("memory = \"4 MiB\"");
    let mut link = Link::with_queue(&server);
    let body = vec![1; 100_000];
    let mut stored = 0;
    let status = loop {
        link.store(&body);
        match link.event() {
            Event::Ack { .. } => stored += 1,
            Event::Refused(refusal) => break refusal.status,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(status, Status::ArenaFull);
    assert!(stored >= 35, "{stored}");
    link.client.drop_queue(now(), QUEUE, Tag(1));
    assert!(matches!(link.event(), Event::Dropped { .. }));
    link.next = 1;
    link.create("queue", 100, 1 << 30).unwrap();
    link.store(b"small");
    // The memory comes back in the turns after the drop.
    while let Event::Refused(_) = link.event() {
        link.store(b"small");
    }
    server.stop();
}

#[test]
fn a_full_index_is_refused() {
    let server = server("memory = \"4 MiB\"\nmessages_max = 5");
    let mut link = Link::with_queue(&server);
    for _ in 0..6 {
        link.store(b"mail");
    }
    link.acknowledged(5);
    assert_eq!(link.refused().status, Status::ArenaFull);
    server.stop();
}

#[test]
fn queues_and_handles_are_bounded() {
    let server = server("memory = \"4 MiB\"\nqueues_max = 2");
    let mut link = Link::new(&server);
    link.create("a", 1, 1).unwrap();
    link.create_as(QueueHandle(1), "b", 1, 1).unwrap();
    assert_eq!(link.create("c", 1, 1), Err(Status::TooManyQueues));
    server.stop();
}

#[test]
fn connections_are_bounded() {
    let server = server("memory = \"4 MiB\"\nconnections_max = 2");
    let _links = [Link::new(&server), Link::new(&server)];
    let mut third = Link::open(server.addresses()[0], "gw", "the secret of gw");
    let refusal = third.refused();
    assert_eq!((refusal.op, refusal.status), (Op::Hello, Status::TooManyConnections));
    server.stop();
}

#[test]
fn a_message_above_the_bound_is_refused_and_the_link_goes_on() {
    let server = server("memory = \"4 MiB\"\nmessage_size_max = \"100 KiB\"");
    let mut link = Link::with_queue(&server);
    link.store(&vec![1; 300_000]);
    assert_eq!(link.refused().status, Status::TooLarge);
    link.store(&vec![1; 100 * 1024]);
    link.acknowledged(1);
    server.stop();
}

#[test]
fn queues_of_other_workers_are_named_by_their_port() {
    let server = server("memory = \"16 MiB\"\nworkers = 2");
    let ports = [server.addresses()[0].port(), server.addresses()[1].port()];
    let mut link = Link::new(&server);
    let mut homes = Vec::new();
    for number in 0..6 {
        let name = format!("queue{number}");
        match link.create(&name, 1, 1) {
            Ok(attached) => homes.push(attached.port),
            Err(Status::WrongWorker) => {
                let mut other = Link::open(server.addresses()[1], "gw", "the secret of gw");
                assert!(matches!(other.event(), Event::Welcome { .. }));
                homes.push(other.create(&name, 1, 1).unwrap().port);
                assert_eq!(link.attach(&name, 2, 0), Err(Status::WrongWorker));
            }
            Err(status) => panic!("{status:?}"),
        }
    }
    assert!(homes.contains(&ports[0]) && homes.contains(&ports[1]), "{homes:?}");
    server.stop();
}

#[test]
fn credit_runs_out_before_memory_does_and_its_return_is_told_to_those_who_ask_nothing() {
    let server = server("memory = \"4 MiB\"");
    let mut idle = Link::new(&server);
    idle.create("idle", 1_000, 1 << 30).unwrap();
    let mut busy = Link::with_queue(&server);
    let body = vec![1; 100_000];
    loop {
        busy.store(&body);
        match busy.event() {
            Event::Ack { credit, .. } if credit.kib == 0 => break,
            Event::Ack { .. } => {}
            other => panic!("credit ends before memory: {other:?}"),
        }
    }
    busy.store(&body);
    busy.acknowledged(1);
    idle.store(b"mail");
    let Event::Ack { count: 1, credit, .. } = idle.event() else { panic!("there is a reserve") };
    assert_eq!(credit.kib, 0);
    busy.client.drop_queue(now(), QUEUE, Tag(1));
    assert!(matches!(busy.event(), Event::Dropped { .. }));
    let renewed = loop {
        match idle.event() {
            Event::Ack { count: 0, sequence, credit, .. } if credit.kib >= 3 << 10 => {
                break sequence;
            }
            Event::Ack { count: 0, .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(renewed.0, 1);
    idle.store(b"mail");
    idle.acknowledged(1);
    server.stop();
}

#[test]
fn a_fenced_connection_hears_of_no_credit() {
    let server = server("memory = \"4 MiB\"");
    let mut old = Link::with_queue(&server);
    let body = vec![1; 100_000];
    for _ in 0..37 {
        old.store(&body);
    }
    old.acknowledged(37);
    let mut new = Link::new(&server);
    new.attach("queue", 1, 2).unwrap();
    new.client.drop_queue(now(), QUEUE, Tag(1));
    assert!(matches!(new.event(), Event::Dropped { .. }));
    old.client.heart_beat(now(), Tag(1));
    let event = old.event();
    assert!(matches!(event, Event::HeartBeatReply { tag: Tag(1) }), "{event:?}");
    server.stop();
}

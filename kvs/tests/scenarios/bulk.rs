//! A worker turned by hand: dropping a long queue must not stall the others (counted in work, not
//! in time), and silence is not waited for for ever.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kvs::arena::Arena;
use kvs::directory::Directory;
use kvs::session::{Account, Accounts};
use kvs::table::{QueueBounds, QueueTable};
use kvs::worker::{Worker, WorkerOptions};
use kvs_proto::auth::Secret;
use kvs_proto::body::{Counter, Limits};
use kvs_proto::{Epoch, Event, Generation, Incarnation, QueueHandle, Tag, Version};
use tcpstack::{Clock, KernelOptions, KernelTransport};

use crate::link::{Link, QUEUE, now};

const MESSAGES: u64 = 1_000_000;

struct World {
    worker: Worker<KernelTransport>,
    address: SocketAddr,
}

impl World {
    fn new() -> World {
        let arena = Arena::new(80 << 20, 1_100_000).unwrap();
        let bounds = QueueBounds { messages_max: u64::MAX, bytes_max: u64::MAX };
        let table = QueueTable::new(arena, Arc::new(Directory::new(1, 10)), 0, bounds);
        let options = WorkerOptions {
            incarnation: Incarnation(1),
            nonce_key: Secret::new(b"a key"),
            accounts: Accounts::new(vec![Account {
                name: "gw".into(),
                secret: Secret::new(b"the secret of gw"),
                queues: String::new(),
            }]),
            limits: Limits {
                message_size_bytes_max: 1 << 20,
                state_size_bytes_max: 496,
                in_flight_max: 1024,
                handles_max: 10,
            },
            version_max: Version::CURRENT,
            connections_max: 10,
        };
        let transport = KernelTransport::new(KernelOptions::default()).unwrap();
        let mut worker = Worker::new(transport, table, options);
        let address = worker.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        World { worker, address }
    }

    fn link(&mut self) -> Link {
        let mut link = Link::open(self.address, "gw", "the secret of gw");
        link.stream.set_nonblocking(true).unwrap();
        assert!(matches!(self.event(&mut link), Event::Welcome { .. }));
        link
    }

    /// Takes turns until the link has an event.
    fn event(&mut self, link: &mut Link) -> Event {
        use std::io::Read;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if let Some(event) = link.client.poll_event() {
                return event;
            }
            flush(link);
            self.worker.turn(Clock::new().now());
            match link.stream.read(&mut buffer) {
                Ok(count) => link.client.handle_bytes(now(), &buffer[..count]),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    }

    fn acknowledged(&mut self, link: &mut Link, mut count: u64) {
        while count > 0 {
            match self.event(link) {
                Event::Ack { count: more, .. } => count -= more,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn flush(link: &mut Link) {
    use std::io::Write;
    loop {
        let mut slices = [&[][..]; 1];
        if link.client.peek_output(&mut slices) == 0 {
            return;
        }
        match link.stream.write(slices[0]) {
            Ok(count) => link.client.advance_output(count),
            Err(_) => return,
        }
    }
}

#[test]
fn a_connection_that_stays_silent_is_closed_after_ten_seconds() {
    use std::io::Read;
    let mut world = World::new();
    let mut silent = std::net::TcpStream::connect(world.address).unwrap();
    let start = Clock::new().now();
    while world.worker.counters().get(Counter::ConnectionsOpen) == 0 {
        world.worker.turn(start);
    }
    world.worker.turn(start + Duration::from_millis(9_999));
    assert_eq!(world.worker.counters().get(Counter::ConnectionsOpen), 1);
    world.worker.turn(start + Duration::from_secs(10));
    assert_eq!(world.worker.counters().get(Counter::ConnectionsOpen), 0);
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn dropping_a_million_messages_takes_bounded_turns_between_which_others_store() {
    let mut world = World::new();
    let mut link = world.link();
    link.client.create(
        now(),
        QUEUE,
        Tag(1),
        Epoch(1),
        Generation(1),
        kvs_proto::body::QueueName::parse(b"long").unwrap(),
        u64::MAX,
        u64::MAX,
    );
    assert!(matches!(world.event(&mut link), Event::Attached { .. }));
    for _ in 0..MESSAGES / 1_000 {
        for _ in 0..1_000 {
            link.store(b"mail");
        }
        world.acknowledged(&mut link, 1_000);
    }
    assert_eq!(world.worker.table().arena().messages() as u64, MESSAGES);
    link.client.drop_queue(now(), QUEUE, Tag(1));
    let other = QueueHandle(1);
    let name = kvs_proto::body::QueueName::parse(b"long").unwrap();
    let (epoch, generation) = (Epoch(1), Generation(1));
    link.client.create(now(), other, Tag(2), epoch, generation, name, u64::MAX, u64::MAX);
    assert!(matches!(world.event(&mut link), Event::Dropped { .. }));
    assert!(matches!(world.event(&mut link), Event::Attached { .. }), "the name is free at once");

    let mut left = world.worker.table().arena().messages();
    let mut turns = 0;
    while world.worker.table().arena().has_work() {
        world.worker.turn(Clock::new().now());
        let now_left = world.worker.table().arena().messages();
        assert!(left - now_left <= 512, "a turn forgot {} messages", left - now_left);
        left = now_left;
        turns += 1;
    }
    assert!(turns > 1_000, "it was still going on when the others were served");
    assert_eq!(world.worker.table().arena().messages(), 0);
    let arena = world.worker.table().arena();
    assert_eq!(arena.free_bytes(), arena.size_bytes());
    assert_eq!(world.worker.counters().get(Counter::Stores), MESSAGES);
}

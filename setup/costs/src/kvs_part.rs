//! A worker of a KVS, which stores and deletes for one client.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use kvs::IN_FLIGHT_MAX;
use kvs::arena::Arena;
use kvs::directory::Directory;
use kvs::session::{Account, Accounts};
use kvs::table::{QueueBounds, QueueTable};
use kvs::worker::{Worker, WorkerOptions};
use kvs_proto::auth::Secret;
use kvs_proto::body::{Limits, QueueName};
use kvs_proto::{
    Client, ClientConfig, Epoch, Event, Generation, Incarnation, Message, MessageId, QueueHandle,
    STATE_SIZE_BYTES_MAX, Sequence, Tag, Version,
};
use tcpstack::{ConnectionId, Instant, Transport};

use crate::pipe::{Net, Pipe};
use crate::{BLOCK, Gauge, Part};

pub(crate) const ACCOUNT: &str = "gw";
pub(crate) const SECRET: &[u8] = b"only for this measurement";
const MEMORY_BYTES: usize = 64 << 20;
const QUEUES_MAX: u32 = 1000;
const MESSAGES_MAX: usize = 100_000;

/// Where the server of that number listens.
pub(crate) fn address(number: u8) -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, number), 7000).into()
}

/// A server with one worker.
pub(crate) fn server(pipe: Pipe, number: u8) -> Worker<Pipe> {
    let arena = Arena::new(MEMORY_BYTES, MESSAGES_MAX).expect("the machine has that much memory");
    let bounds = QueueBounds { messages_max: u64::MAX, bytes_max: u64::MAX };
    let directory = Arc::new(Directory::new(1, QUEUES_MAX as usize));
    directory.set_port(0, address(number).port());
    let account =
        Account { name: ACCOUNT.into(), secret: Secret::new(SECRET), queues: String::new() };
    let options = WorkerOptions {
        incarnation: Incarnation(u64::from(number)),
        nonce_key: Secret::new(&[number; 32]),
        accounts: Accounts::new(vec![account]),
        limits: Limits {
            message_size_bytes_max: 64 << 20,
            state_size_bytes_max: u32::try_from(STATE_SIZE_BYTES_MAX).expect("small"),
            in_flight_max: u32::try_from(IN_FLIGHT_MAX).expect("small"),
            handles_max: QUEUES_MAX,
        },
        version_max: Version::CURRENT,
        connections_max: 4,
    };
    let mut worker = Worker::new(pipe, QueueTable::new(arena, directory, 0, bounds), options);
    worker.listen(address(number)).expect("nobody else listens there");
    worker
}

/// What a worker does for messages that are stored, acknowledged, deleted and acknowledged.
#[derive(Debug)]
pub struct Kvs {
    worker: Worker<Pipe>,
    pipe: Pipe,
    client: Client,
    connection: ConnectionId,
    message: Message,
    now: Instant,
    queues: Vec<Queue>,
    /// Messages that were stored: they go to the queues in turn, and are deleted in the same order.
    stored: usize,
    deleted: usize,
}

/// What the client knows of a queue.
#[derive(Clone, Debug, Default)]
struct Queue {
    sequence: u64,
    acknowledged: u64,
    last_id: u64,
    deleted_id: u64,
}

impl Kvs {
    /// For messages of so many bytes, which go to so many queues in turn, with so many held all the time.
    pub fn new(size_bytes: usize, queues: usize, held: usize) -> Kvs {
        let net = Net::default();
        let worker = server(net.host(), 1);
        let mut pipe = net.host();
        let now = Instant::from_nanos(1);
        let connection = pipe.connect(now, address(1), None).expect("the worker listens");
        let config = ClientConfig {
            account: ACCOUNT.into(),
            secret: Secret::new(SECRET),
            nonce: [1; 16],
            version_max: Version::CURRENT,
            output_bytes_max: 1 << 20,
        };
        let client = Client::new(wire(now), config);
        let message = Message::new(Bytes::new(), vec![b'x'; size_bytes].into());
        let (queues, stored, deleted) = (vec![Queue::default(); queues], 0, 0);
        let mut part =
            Kvs { worker, pipe, client, connection, message, now, queues, stored, deleted };
        part.open();
        while part.stored < held {
            part.store_block();
            part.exchange(&mut crate::NoGauge);
        }
        part
    }

    fn open(&mut self) {
        while !self.client.is_ready() {
            self.exchange(&mut crate::NoGauge);
        }
        for place in 0..self.queues.len() {
            let name = format!("q{place}");
            let name = QueueName::parse(name.as_bytes()).expect("a good name");
            let (tag, epoch, generation) = (Tag(1), Epoch(1), Generation(1));
            let (queue, most) = (handle(place), u64::MAX);
            self.client.create(wire(self.now), queue, tag, epoch, generation, name, most, most);
        }
        while self.client.unanswered() > 0 {
            self.exchange(&mut crate::NoGauge);
        }
    }

    /// What the client has goes there, and what the worker has comes back.
    fn exchange(&mut self, gauge: &mut dyn Gauge) {
        self.now = Instant::from_nanos(self.now.as_nanos() + 10_000);
        while self.client.has_output() {
            let mut slices = [&[][..]; 64];
            let count = self.client.peek_output(&mut slices);
            let slices = slices.map(IoSlice::new);
            let sent = self.pipe.send(self.connection, &slices[..count]).expect("it is open");
            self.client.advance_output(sent);
        }
        gauge.begin();
        kvs_turn(&mut self.worker, self.now);
        gauge.end();
        self.pipe.poll(self.now);
        while self.pipe.next_event().is_some() {}
        let (client, now) = (&mut self.client, self.now);
        _ = self.pipe.recv(self.connection, |bytes| {
            client.handle_bytes(wire(now), bytes);
            (bytes.len(), ())
        });
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Ack { queue, count, .. } => {
                    self.queues[queue.0 as usize].acknowledged += count;
                }
                Event::Welcome { .. } | Event::Attached { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn store_block(&mut self) {
        for _ in 0..BLOCK {
            let place = self.stored % self.queues.len();
            self.stored += 1;
            let queue = &mut self.queues[place];
            queue.last_id += 1;
            let (sequence, floor, id) = queue.next(queue.last_id);
            let now = wire(self.now);
            self.client.store(now, handle(place), sequence, id, floor, &self.message);
        }
    }

    fn delete_block(&mut self) {
        for _ in 0..BLOCK {
            let place = self.deleted % self.queues.len();
            self.deleted += 1;
            let queue = &mut self.queues[place];
            queue.deleted_id += 1;
            let (sequence, floor, id) = queue.next(queue.deleted_id);
            self.client.delete(wire(self.now), handle(place), sequence, id, floor);
        }
    }
}

impl Queue {
    /// The number of the next change and the lowest that has no answer, for the message of that id.
    fn next(&mut self, id: u64) -> (Sequence, Sequence, MessageId) {
        self.sequence += 1;
        (Sequence(self.sequence), Sequence(self.acknowledged + 1), MessageId(id))
    }
}

impl Part for Kvs {
    fn handle_block(&mut self, gauge: &mut dyn Gauge) {
        self.store_block();
        self.exchange(gauge);
        self.delete_block();
        self.exchange(gauge);
        let is_answered = |queue: &Queue| queue.acknowledged == queue.sequence;
        assert!(self.queues.iter().all(is_answered), "each request is acknowledged in its turn");
    }
}

fn handle(place: usize) -> QueueHandle {
    QueueHandle(u32::try_from(place).expect("a thousand at most"))
}

/// The time as the protocol's crate has it.
fn wire(now: Instant) -> kvs_proto::Instant {
    kvs_proto::Instant::from_nanos(now.as_nanos())
}

/// What counts for the worker, by this name.
#[inline(never)]
fn kvs_turn(worker: &mut Worker<Pipe>, now: Instant) {
    worker.turn(now);
    worker.end_turn(now);
}

//! A quick look at the speed of one worker: store and delete on one queue over one connection.
//!
//! `cargo run --release -p hikyaku-kvs --example pairs -- ADDRESS ACCOUNT SECRET [BYTES] [DEPTH]
//! [SECONDS]`, against a running server. It prints pairs per second; `loadgen kvs` measures properly.

use std::env;
use std::io::IoSlice;
use std::time::Duration;

use bytes::Bytes;
use kvs_proto::auth::Secret;
use kvs_proto::body::QueueName;
use kvs_proto::{
    Client, ClientConfig, Epoch, Event, Generation, Instant, Message, MessageId, QueueHandle,
    Sequence, Tag, Version,
};
use tcpstack::{Clock, ConnectionId, KernelOptions, KernelTransport, RecvError, Transport};

const QUEUE: QueueHandle = QueueHandle(0);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, account, secret, numbers @ ..] = &arguments[..] else {
        panic!("give address, account and secret");
    };
    let number = |place: usize, default: u64| {
        numbers.get(place).map_or(default, |text| text.parse().expect("a number"))
    };
    let bytes = usize::try_from(number(0, 400)).expect("a size");
    let (depth, seconds) = (number(1, 1024), number(2, 3));
    let mut transport = KernelTransport::new(KernelOptions::default()).expect("epoll");
    let clock = Clock::new();
    let remote = address.parse().expect("an address");
    let connection = transport.connect(clock.now(), remote, None).expect("a connection");
    let config = ClientConfig {
        account: account.clone(),
        secret: Secret::new(secret.as_bytes()),
        nonce: clock.now().as_nanos().to_le_bytes().repeat(2).try_into().expect("16 bytes"),
        version_max: Version::CURRENT,
        output_bytes_max: 64 << 20,
    };
    let mut load = Load {
        client: Client::new(Instant::from_nanos(0), config),
        message: Message::new(Bytes::new(), vec![b'x'; bytes].into()),
        next: Sequence(0),
        last_id: MessageId(0),
        stored: Vec::new(),
        expected: std::collections::VecDeque::new(),
        pairs: 0,
    };
    let mut began = None;
    loop {
        let now = clock.now();
        transport.poll(now);
        while transport.next_event().is_some() {}
        load.receive(&mut transport, connection, now.as_nanos());
        if load.client.is_ready() {
            let began = *began.get_or_insert(now);
            if now.saturating_since(began) >= Duration::from_secs(seconds) {
                let pairs = load.pairs / seconds;
                println!("{pairs} pairs/s of {bytes} bytes, {depth} in flight");
                return;
            }
            load.ask(depth, now.as_nanos());
        }
        load.send(&mut transport, connection);
        transport.flush(now);
    }
}

struct Load {
    client: Client,
    message: Message,
    next: Sequence,
    last_id: MessageId,
    /// Acknowledged and not deleted.
    stored: Vec<MessageId>,
    /// What each unanswered change stores, or 0 for a delete.
    expected: std::collections::VecDeque<MessageId>,
    pairs: u64,
}

impl Load {
    fn receive(&mut self, transport: &mut KernelTransport, connection: ConnectionId, now: u64) {
        let now = Instant::from_nanos(now);
        let received = transport.recv(connection, |bytes| {
            self.client.handle_bytes(now, bytes);
            (bytes.len(), ())
        });
        assert!(received.is_ok() || received == Err(RecvError::WouldBlock), "{received:?}");
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Welcome { incarnation, .. } => {
                    let name = format!("pairs-{}-{}", incarnation.0, now.as_nanos());
                    let name = QueueName::parse(name.as_bytes()).expect("a name");
                    let (epoch, generation) = (Epoch(1), Generation(1));
                    let (tag, max) = (Tag(1), u64::MAX);
                    self.client.create(now, QUEUE, tag, epoch, generation, name, max, max);
                }
                Event::Attached { .. } => {}
                Event::Ack { count, .. } => {
                    for _ in 0..count {
                        match self.expected.pop_front().expect("one per change") {
                            MessageId(0) => self.pairs += 1,
                            id => self.stored.push(id),
                        }
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn ask(&mut self, depth: u64, now: u64) {
        let now = Instant::from_nanos(now);
        while (self.expected.len() as u64) < depth {
            self.next = self.next.next();
            let floor = Sequence(self.next.0 - self.expected.len() as u64);
            if let Some(id) = self.stored.pop() {
                self.client.delete(now, QUEUE, self.next, id, floor);
                self.expected.push_back(MessageId(0));
            } else {
                self.last_id = self.last_id.next();
                let (id, message) = (self.last_id, &self.message);
                self.client.store(now, QUEUE, self.next, id, floor, message);
                self.expected.push_back(id);
            }
        }
    }

    fn send(&mut self, transport: &mut KernelTransport, connection: ConnectionId) {
        loop {
            let mut slices = [&[][..]; 64];
            let filled = self.client.peek_output(&mut slices);
            if filled == 0 {
                return;
            }
            let offered: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
            let mut io = [IoSlice::new(&[]); 64];
            for (io, slice) in io.iter_mut().zip(&slices[..filled]) {
                *io = IoSlice::new(slice);
            }
            let sent = transport.send(connection, &io[..filled]).expect("a connection");
            self.client.advance_output(sent);
            if sent < offered {
                return;
            }
        }
    }
}

//! A server to talk to, and a client that waits for what it expects.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant as StdInstant};

use bytes::Bytes;
use kvs::server::Server;
use kvs::settings::Settings;
use kvs_proto::auth::Secret;
use kvs_proto::body::{Attached, QueueName};
use kvs_proto::{
    Client, ClientConfig, Epoch, Event, Generation, Instant, Message, MessageId, QueueHandle,
    Refusal, Sequence, Status, Tag, Version,
};

/// No answer for so long fails a test.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const QUEUE: QueueHandle = QueueHandle(0);

/// A server with those lines in its configuration.
pub(crate) fn server(extra: &str) -> Server {
    let text = format!(
        "name = \"test\"\nlisten = [\"127.0.0.1:0\"]\n{extra}\n\
         [[account]]\nname = \"gw\"\nsecret = \"the secret of gw\"\n\
         [[account]]\nname = \"other\"\nsecret = \"the secret of other\"\nqueues = \"other/\"\n"
    );
    let settings = Settings::parse("test", &text, |_| Err("no files here".into()))
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let mut source = File::open("/dev/urandom").unwrap();
    Server::start(&settings, |bytes| source.read_exact(bytes)).unwrap()
}

pub(crate) fn small_server() -> Server {
    server("memory = \"16 MiB\"")
}

pub(crate) struct Link {
    pub(crate) stream: TcpStream,
    pub(crate) client: Client,
    /// The next change's number.
    pub(crate) next: u64,
}

impl Link {
    /// Connected and welcome.
    pub(crate) fn new(server: &Server) -> Link {
        let mut link = Link::open(server.addresses()[0], "gw", "the secret of gw");
        let event = link.event();
        assert!(matches!(event, Event::Welcome { .. }), "{event:?}");
        link
    }

    /// With [`QUEUE`] created.
    pub(crate) fn with_queue(server: &Server) -> Link {
        let mut link = Link::new(server);
        link.create("queue", u64::MAX, u64::MAX).unwrap();
        link
    }

    /// Connected and welcome, of a client that speaks no higher version.
    pub(crate) fn with_version(server: &Server, version_max: Version) -> Link {
        let (address, secret) = (server.addresses()[0], "the secret of gw");
        let mut link = Link::open_with(address, "gw", secret, version_max);
        let event = link.event();
        assert!(matches!(event, Event::Welcome { .. }), "{event:?}");
        link
    }

    /// Connected, handshake begun.
    pub(crate) fn open(address: SocketAddr, account: &str, secret: &str) -> Link {
        Link::open_with(address, account, secret, Version::CURRENT)
    }

    fn open_with(address: SocketAddr, account: &str, secret: &str, version_max: Version) -> Link {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let config = ClientConfig {
            account: account.into(),
            secret: Secret::new(secret.as_bytes()),
            nonce: [7; 16],
            version_max,
            output_bytes_max: 1 << 30,
        };
        Link { stream, client: Client::new(now(), config), next: 1 }
    }

    /// Sends everything.
    pub(crate) fn flush(&mut self) {
        loop {
            let mut slices = [&[][..]; 16];
            let filled = self.client.peek_output(&mut slices);
            if filled == 0 {
                return;
            }
            let mut sent = 0;
            for slice in &slices[..filled] {
                self.stream.write_all(slice).unwrap();
                sent += slice.len();
            }
            self.client.advance_output(sent);
        }
    }

    /// The next event; waits for it.
    pub(crate) fn event(&mut self) -> Event {
        self.try_event().expect("the server closed the connection")
    }

    /// The next event, or `None` if the server closes instead.
    pub(crate) fn try_event(&mut self) -> Option<Event> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            if let Some(event) = self.client.poll_event() {
                return Some(event);
            }
            self.flush();
            match self.stream.read(&mut buffer).unwrap() {
                0 => return None,
                count => self.client.handle_bytes(now(), &buffer[..count]),
            }
        }
    }

    /// Whether the server ends the connection without another word; waits for that.
    pub(crate) fn is_ended(&mut self) -> bool {
        self.try_event().is_none()
    }

    pub(crate) fn create(
        &mut self,
        name: &str,
        messages: u64,
        bytes: u64,
    ) -> Result<Attached, Status> {
        self.create_as(QUEUE, name, messages, bytes)
    }

    pub(crate) fn create_as(
        &mut self,
        queue: QueueHandle,
        name: &str,
        messages: u64,
        bytes: u64,
    ) -> Result<Attached, Status> {
        let (epoch, generation) = (Epoch(1), Generation(1));
        let name = QueueName::parse(name.as_bytes()).unwrap();
        self.client.create(now(), queue, Tag(9), epoch, generation, name, messages, bytes);
        self.attached()
    }

    pub(crate) fn attach(
        &mut self,
        name: &str,
        epoch: u64,
        generation: u32,
    ) -> Result<Attached, Status> {
        let name = QueueName::parse(name.as_bytes()).unwrap();
        let (epoch, generation) = (Epoch(epoch), Generation(generation));
        self.client.attach(now(), QUEUE, Tag(9), epoch, generation, name);
        self.attached()
    }

    /// Waits until it is welcome.
    pub(crate) fn welcomed(mut self) -> Link {
        let event = self.event();
        assert!(matches!(event, Event::Welcome { .. }), "{event:?}");
        self
    }

    /// For how long a queue's owner has been silent.
    pub(crate) fn owner_idle(&mut self, name: &str) -> Result<Duration, Status> {
        let name = QueueName::parse(name.as_bytes()).unwrap();
        self.client.owner_get(now(), Tag(4), name);
        match self.event() {
            Event::Owner { tag: Tag(4), epoch, idle_ms } => {
                assert_eq!(epoch, Epoch(1));
                Ok(Duration::from_millis(idle_ms.expect("somebody was attached").into()))
            }
            Event::Refused(Refusal { status, .. }) => Err(status),
            other => panic!("{other:?}"),
        }
    }

    fn attached(&mut self) -> Result<Attached, Status> {
        match self.event() {
            Event::Attached { attached, .. } => Ok(attached),
            Event::Refused(Refusal { status, .. }) => Err(status),
            other => panic!("{other:?}"),
        }
    }

    /// Asks for a store, with the next number; the id is the same.
    pub(crate) fn store(&mut self, content: &[u8]) {
        let number = self.next;
        self.next += 1;
        self.store_as(number, number, content);
    }

    pub(crate) fn store_as(&mut self, sequence: u64, id: u64, content: &[u8]) {
        let message = Message::new(Bytes::new(), Bytes::copy_from_slice(content));
        let (sequence, id) = (Sequence(sequence), MessageId(id));
        self.client.store(now(), QUEUE, sequence, id, Sequence(1), &message);
    }

    pub(crate) fn delete(&mut self, id: u64) {
        let sequence = Sequence(self.next);
        self.next += 1;
        self.client.delete(now(), QUEUE, sequence, MessageId(id), Sequence(1));
    }

    /// Waits until `count` changes are acknowledged.
    pub(crate) fn acknowledged(&mut self, mut count: u64) {
        while count > 0 {
            match self.event() {
                Event::Ack { count: more, .. } => count -= more,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits for a refusal.
    pub(crate) fn refused(&mut self) -> Refusal {
        match self.event() {
            Event::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// Reads the whole queue in blocks: the ids.
    pub(crate) fn read_all(&mut self, count_max: u32) -> Vec<u64> {
        let mut ids = Vec::new();
        let mut cursor = MessageId(0);
        loop {
            self.client.block_get(now(), QUEUE, Tag(3), cursor, count_max, u32::MAX);
            loop {
                match self.event() {
                    Event::Item(item) => ids.push(item.id.0),
                    Event::BlockEnd { finished: true, .. } => return ids,
                    Event::BlockEnd { cursor: next, .. } => {
                        cursor = next;
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

pub(crate) fn now() -> Instant {
    // Only the client's view of its deadlines depends on it.
    static START: std::sync::OnceLock<StdInstant> = std::sync::OnceLock::new();
    let since = START.get_or_init(StdInstant::now).elapsed();
    Instant::from_nanos(u64::try_from(since.as_nanos()).unwrap())
}

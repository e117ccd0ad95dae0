//! Recovery: fill a queue, lose the client, come back with a higher epoch, read everything in blocks.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use kvs_proto::body::QueueName;
use kvs_proto::{
    Client, Epoch, Event, Generation, Item, Message, MessageId, QueueHandle, Sequence, Tag,
};
use tcpstack::{Instant, OpenError, Transport};

use super::link::{Link, Target, proto_time};
use crate::digest::mix;
use crate::report::{Section, rate};

/// What a [`Recovery`] does.
#[derive(Clone, Debug)]
pub struct RecoveryConfig {
    /// Whom to ask.
    pub target: Target,
    /// The queue's name; it must not exist.
    pub queue: String,
    /// Messages to fill it with, at least 1.
    pub messages: u64,
    /// Bytes of each, at least 8.
    pub size_bytes: usize,
    /// Block sizes, each read through the queue from its beginning.
    pub blocks: Vec<u32>,
    /// Most blocks read of one size. Small blocks then read only the queue's beginning, and the rate
    /// is that of this part.
    pub rounds_max: u64,
    /// Stores in flight while filling.
    pub depth: usize,
    /// Whether contents are compared. (The null server makes them up.)
    pub verify: bool,
}

/// How reading by one block size went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockTime {
    /// Messages in a block.
    pub block: u32,
    /// Messages read.
    pub messages: u64,
    /// Blocks asked for.
    pub rounds: u64,
    /// From the attach request to the last message.
    pub time: Duration,
}

/// The measurement. The loop around it calls [`Recovery::turn`] until [`Recovery::is_done`], and
/// [`Recovery::wait`] when there was nothing to do.
pub struct Recovery<T: Transport> {
    /// `None` only while one connection gives its transport to the next.
    link: Option<Link<T>>,
    config: RecoveryConfig,
    phase: Phase,
    template: Vec<u8>,
    epoch: Epoch,
    stored: u64,
    acknowledged: u64,
    depth: usize,
    fill_begin: Instant,
    fill_time: Duration,
    blocks: VecDeque<u32>,
    reading: Reading,
    times: Vec<BlockTime>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    Creating,
    Filling,
    /// A new connection, with a higher epoch.
    Returning,
    Attaching,
    Reading,
    Dropping,
    Done,
    Failed(String),
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    block: u32,
    begin: Instant,
    /// The last id read.
    cursor: MessageId,
    rounds: u64,
}

const QUEUE: QueueHandle = QueueHandle(0);

/// Most bytes asked for in one block: above what the largest useful block has, below what would
/// take the server long.
const BLOCK_SIZE_BYTES_MAX: u32 = 64 << 20;

impl<T: Transport> Recovery<T> {
    /// Begins to connect.
    ///
    /// # Errors
    /// What the transport says.
    pub fn open(
        transport: T,
        now: Instant,
        config: RecoveryConfig,
    ) -> Result<Recovery<T>, OpenError> {
        assert!(config.messages > 0 && config.size_bytes >= ID_SIZE_BYTES && config.depth > 0);
        assert!(!config.blocks.contains(&0) && !config.blocks.is_empty());
        assert!(QueueName::parse(config.queue.as_bytes()).is_some());
        let words = (0..config.size_bytes.div_ceil(8) as u64).map(|place| mix(17, place));
        let mut template: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        template.truncate(config.size_bytes);
        Ok(Recovery {
            link: Some(Link::open(transport, now, &config.target)?),
            phase: Phase::Connecting,
            template,
            epoch: Epoch(1),
            stored: 0,
            acknowledged: 0,
            depth: config.depth,
            fill_begin: now,
            fill_time: Duration::ZERO,
            blocks: config.blocks.iter().copied().collect(),
            reading: Reading { block: 0, begin: now, cursor: MessageId(0), rounds: 0 },
            times: Vec::new(),
            config,
        })
    }

    /// How long each block size took.
    pub fn times(&self) -> &[BlockTime] {
        &self.times
    }

    /// Messages stored and acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether it is over.
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed(_))
    }

    /// Why it failed, if it did: also when a message was missing, out of order or altered.
    pub fn failure(&self) -> Option<&str> {
        match &self.phase {
            Phase::Failed(why) => Some(why),
            _ => None,
        }
    }

    /// Sleeps until something happens, or until then.
    pub fn wait(&mut self, now: Instant, until: Option<Instant>) {
        self.link().transport.wait(now, until);
    }

    /// The measurements as a report's section.
    pub fn section(&self, key: &str, title: &str) -> Section {
        let mut section = Section::new(key, title)
            .count("stored", "messages stored", self.acknowledged)
            .count("size_bytes", "bytes each", self.config.size_bytes as u64)
            .number("fill_s", "time to fill", self.fill_time.as_secs_f64(), "s");
        for BlockTime { block, messages, rounds, time } in &self.times {
            section = section
                .count(&format!("block_{block}_messages"), &format!("by {block}: read"), *messages)
                .count(&format!("block_{block}_rounds"), &format!("by {block}: blocks"), *rounds)
                .number(
                    &format!("block_{block}_s"),
                    &format!("by {block}: time"),
                    time.as_secs_f64(),
                    "s",
                )
                .number(
                    &format!("block_{block}_rate"),
                    &format!("by {block}: a second"),
                    rate(*messages, *time),
                    "messages/s",
                );
        }
        section.flag("complete", "complete and unaltered", self.failure().is_none())
    }

    /// Does what there is to do, and answers whether there was anything.
    pub fn turn(&mut self, now: Instant) -> bool {
        let worked = self.link().receive(now);
        while let Some(event) = self.link().client().and_then(Client::poll_event) {
            self.handle_event(event, now);
        }
        if self.phase == Phase::Filling {
            self.store_more(now);
        }
        if let (Some(over), false) = (self.link().over(), self.is_done()) {
            self.fail(format!("the connection ended: {over:?}"));
        }
        self.link().send(now);
        if self.phase == Phase::Returning {
            self.come_back(now);
        }
        worked
    }

    fn link(&mut self) -> &mut Link<T> {
        self.link.as_mut().expect("only missing while one becomes the next")
    }

    fn client(&mut self) -> &mut Client {
        self.link().client().expect("it spoke")
    }

    fn fail(&mut self, why: String) {
        self.phase = Phase::Failed(why);
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        let name = self.config.queue.clone();
        let name = QueueName::parse(name.as_bytes()).expect("checked when opened");
        let (at, epoch, generation) = (proto_time(now), self.epoch, Generation(1));
        match event {
            Event::Welcome { limits, .. } if self.epoch == Epoch(1) => {
                self.depth = self.depth.min(limits.in_flight_max as usize);
                self.phase = Phase::Creating;
                let all = u64::MAX;
                self.client().create(at, QUEUE, Tag(1), epoch, generation, name, all, all);
            }
            Event::Welcome { .. } => {
                self.phase = Phase::Attaching;
                self.reading.begin = now;
                self.client().attach(at, QUEUE, Tag(1), epoch, generation, name);
            }
            Event::Attached { .. } if self.phase == Phase::Creating => {
                self.phase = Phase::Filling;
                self.fill_begin = now;
            }
            Event::Attached { .. } => {
                self.phase = Phase::Reading;
                self.begin_block_size(now);
            }
            Event::Ack { count, .. } => self.acknowledged += count,
            Event::Item(item) => self.handle_item(&item),
            Event::BlockEnd { cursor, finished, .. } => {
                self.handle_block_end(cursor, finished, now)
            }
            Event::Dropped { .. } => self.phase = Phase::Done,
            Event::Refused(refusal) => self.fail(format!(
                "{:?} was refused: {:?} (port {})",
                refusal.op, refusal.status, refusal.port
            )),
            other => self.fail(format!("the server said {other:?}")),
        }
    }

    fn store_more(&mut self, now: Instant) {
        if self.acknowledged == self.config.messages {
            self.fill_time = now.saturating_since(self.fill_begin);
            self.phase = Phase::Returning;
            return;
        }
        while self.stored < self.config.messages
            && self.stored - self.acknowledged < self.depth as u64
        {
            let id = self.stored + 1;
            self.template[..ID_SIZE_BYTES].copy_from_slice(&id.to_le_bytes());
            let message = Message::new(Bytes::new(), Bytes::copy_from_slice(&self.template));
            let floor = Sequence(self.acknowledged + 1);
            let client = self.client();
            if client.room() == 0 {
                return;
            }
            client.store(proto_time(now), QUEUE, Sequence(id), MessageId(id), floor, &message);
            self.stored = id;
        }
    }

    /// As a gateway that lost everything: a new connection, a higher epoch.
    fn come_back(&mut self, now: Instant) {
        let link = self.link.take().expect("it was there a line ago");
        let transport = link.close(now);
        self.epoch = self.epoch.next();
        self.config.target.nonce = mix_nonce(&self.config.target.nonce);
        self.phase = Phase::Connecting;
        match Link::open(transport, now, &self.config.target) {
            Ok(link) => self.link = Some(link),
            Err(error) => panic!("a transport with one connection has room for one: {error}"),
        }
    }

    fn begin_block_size(&mut self, now: Instant) {
        let Some(block) = self.blocks.pop_front() else {
            self.phase = Phase::Dropping;
            return self.client().drop_queue(proto_time(now), QUEUE, Tag(3));
        };
        // The first includes the attach: that is what a gateway waits for.
        let begin = if self.times.is_empty() { self.reading.begin } else { now };
        self.reading = Reading { block, begin, cursor: MessageId(0), rounds: 0 };
        self.ask(now);
    }

    fn ask(&mut self, now: Instant) {
        let Reading { block, cursor, .. } = self.reading;
        self.reading.rounds += 1;
        self.client().block_get(
            proto_time(now),
            QUEUE,
            Tag(2),
            cursor,
            block,
            BLOCK_SIZE_BYTES_MAX,
        );
    }

    fn handle_item(&mut self, item: &Item) {
        let id = self.reading.cursor.next();
        if item.id != id {
            return self.fail(format!("{} came where {id} was to come", item.id));
        }
        self.reading.cursor = id;
        if !self.config.verify {
            return;
        }
        let whole = item.body.len() == self.config.size_bytes
            && item.body[..ID_SIZE_BYTES] == id.0.to_le_bytes()
            && item.body[ID_SIZE_BYTES..] == self.template[ID_SIZE_BYTES..];
        if !whole {
            self.fail(format!("message {id} is not what was stored"));
        }
    }

    fn handle_block_end(&mut self, cursor: MessageId, finished: bool, now: Instant) {
        if self.is_done() {
            return;
        }
        let Reading { cursor: read, rounds, block, begin } = self.reading;
        if cursor != read {
            return self.fail(format!("the block ended at {cursor} and not at {read}"));
        }
        let all = read.0 >= self.config.messages;
        if finished && !all {
            return self.fail(format!("the queue ended at {read}"));
        }
        if all || rounds >= self.config.rounds_max {
            let time = now.saturating_since(begin);
            self.times.push(BlockTime { block, messages: read.0, rounds, time });
            self.begin_block_size(now);
        } else {
            self.ask(now);
        }
    }
}

/// The id at the beginning of each message.
const ID_SIZE_BYTES: usize = 8;

/// A nonce for the next connection; random enough for a measurement, whose secret guards nothing.
fn mix_nonce(nonce: &[u8; 16]) -> [u8; 16] {
    let number = u128::from_le_bytes(*nonce);
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).rotate_left(64).to_le_bytes()
}

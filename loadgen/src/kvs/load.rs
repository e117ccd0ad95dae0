//! Store and delete on one queue over one connection.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use kvs_proto::body::QueueName;
use kvs_proto::{
    Client, Epoch, Event, Generation, Message, MessageId, Op, QueueHandle, Sequence, Tag,
};
use tcpstack::{Instant, OpenError, Transport, wait_on_both};

use super::link::{Link, Target, proto_time};
use crate::report::{Latency, Section, rate};

/// What a [`KvsLoad`] asks for.
#[derive(Clone, Debug)]
pub struct KvsConfig {
    /// Whom.
    pub target: Target,
    /// The queue's name; it must not exist.
    pub queue: String,
    /// Bytes of each message.
    pub size_bytes: usize,
    /// Requests in flight, at least 1; cut to what the server allows.
    pub depth: usize,
    /// Requests are gathered until so many can be sent at once, unless nothing else is in flight;
    /// 1: each is sent in the turn in which it is made.
    pub batch: usize,
    /// Messages to store and delete.
    pub total: Option<u64>,
    /// Go on for so long; counted from the first request.
    pub duration: Option<Duration>,
    /// Decides the content.
    pub seed: u64,
}

/// Stores messages and deletes each when its store is acknowledged, so that every request is a change
/// with an answer of its own. The loop around it calls [`KvsLoad::turn`] until [`KvsLoad::is_done`],
/// and [`KvsLoad::wait`] when there was nothing to do.
pub struct KvsLoad<T: Transport> {
    link: Link<T>,
    config: KvsConfig,
    phase: Phase,
    messages: Vec<Message>,
    depth: usize,
    next_sequence: Sequence,
    next_id: MessageId,
    /// In the order in which they went out, which is the order of the answers.
    in_flight: VecDeque<Request>,
    /// Requests made since the last send.
    unsent: usize,
    /// Stored and acknowledged, to be deleted.
    deletable: VecDeque<MessageId>,
    measured: KvsMeasured,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    op: Op,
    id: MessageId,
    at: Instant,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    Creating,
    Running,
    Dropping,
    Done,
    Failed(String),
}

/// What a [`KvsLoad`] measured.
#[derive(Clone, Debug, Default)]
pub struct KvsMeasured {
    /// Messages stored and deleted, both acknowledged.
    pub messages: u64,
    /// When the first request was made.
    pub begin: Option<Instant>,
    /// When the last acknowledgement came.
    pub end: Option<Instant>,
    /// Store to its acknowledgement.
    pub store: Latency,
    /// Delete to its acknowledgement.
    pub delete: Latency,
    /// Frames of acknowledgement; each may acknowledge many requests.
    pub acks: u64,
}

impl KvsMeasured {
    /// From the first request to the last acknowledgement.
    pub fn elapsed(&self) -> Duration {
        match (self.begin, self.end) {
            (Some(begin), Some(end)) => end.saturating_since(begin),
            _ => Duration::ZERO,
        }
    }

    /// Counts in what another one has measured at the same time.
    pub fn add(&mut self, other: &KvsMeasured) {
        self.messages += other.messages;
        self.begin = [self.begin, other.begin].into_iter().flatten().min();
        self.end = self.end.max(other.end);
        self.store.add(&other.store);
        self.delete.add(&other.delete);
        self.acks += other.acks;
    }

    /// Messages stored and deleted a second.
    pub fn rate(&self) -> f64 {
        rate(self.messages, self.elapsed())
    }

    /// The measurements as a report's section.
    pub fn section(&self, key: &str, title: &str) -> Section {
        Section::new(key, title)
            .count("messages", "stored and deleted", self.messages)
            .number("elapsed_s", "time", self.elapsed().as_secs_f64(), "s")
            .number("rate", "a second", self.rate(), "store+delete/s")
            .latency("store", "store to its acknowledgement", &self.store)
            .latency("delete", "delete to its acknowledgement", &self.delete)
            .count("acks", "frames of acknowledgement", self.acks)
    }
}

/// Different contents, so that no cache holds only one; few, so that making them costs nothing.
const CONTENTS: usize = 64;
const QUEUE: QueueHandle = QueueHandle(0);

impl<T: Transport> KvsLoad<T> {
    /// Begins to connect.
    ///
    /// # Errors
    /// What the transport says.
    pub fn open(transport: T, now: Instant, config: KvsConfig) -> Result<KvsLoad<T>, OpenError> {
        assert!(config.depth > 0 && QueueName::parse(config.queue.as_bytes()).is_some());
        let mut rng = Rng::with_seed(config.seed);
        let mut content = || -> Bytes { (0..config.size_bytes).map(|_| rng.u8(..)).collect() };
        Ok(KvsLoad {
            link: Link::open(transport, now, &config.target)?,
            messages: (0..CONTENTS).map(|_| Message::new(Bytes::new(), content())).collect(),
            phase: Phase::Connecting,
            depth: config.depth,
            next_sequence: Sequence(1),
            next_id: MessageId(1),
            in_flight: VecDeque::new(),
            unsent: 0,
            deletable: VecDeque::new(),
            measured: KvsMeasured::default(),
            config,
        })
    }

    /// What was measured so far.
    pub fn measured(&self) -> &KvsMeasured {
        &self.measured
    }

    /// Requests in flight at most, after the server's own bound is known.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// What it goes by.
    pub fn transport(&self) -> &T {
        &self.link.transport
    }

    /// Whether it is over.
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed(_))
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        match &self.phase {
            Phase::Failed(why) => Some(why),
            _ => None,
        }
    }

    /// Sleeps until something happens, or until then.
    pub fn wait(&mut self, now: Instant, until: Option<Instant>) {
        self.link.transport.wait(now, until);
    }

    /// Sleeps until something happens here or there, or until then.
    pub fn wait_beside(&mut self, other: &mut KvsLoad<T>, now: Instant, until: Option<Instant>) {
        wait_on_both(&mut self.link.transport, &mut other.link.transport, now, until);
    }

    /// When it wants its next turn, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.link.transport.next_deadline()
    }

    /// Does what there is to do, and answers whether there was anything.
    pub fn turn(&mut self, now: Instant) -> bool {
        let worked = self.link.receive(now);
        while let Some(event) = self.link.client().and_then(Client::poll_event) {
            self.handle_event(event, now);
        }
        if self.phase == Phase::Running {
            self.make_requests(now);
        }
        if let (Some(over), false) = (self.link.over(), self.is_done()) {
            self.phase = Phase::Failed(format!("the connection ended: {over:?}"));
        }
        if self.is_time_to_send() {
            self.link.send(now);
        }
        worked
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Welcome { limits, .. } => {
                self.depth = self.depth.min(limits.in_flight_max as usize);
                self.phase = Phase::Creating;
                let name = self.config.queue.clone();
                let name = QueueName::parse(name.as_bytes()).expect("checked when opened");
                let (epoch, generation) = (Epoch(1), Generation(1));
                let client = self.link.client().expect("it spoke");
                let all = u64::MAX;
                client.create(proto_time(now), QUEUE, Tag(1), epoch, generation, name, all, all);
            }
            Event::Attached { .. } => {
                self.phase = Phase::Running;
                self.measured.begin = Some(now);
            }
            Event::Ack { count, .. } => self.handle_ack(count, now),
            Event::Dropped { .. } => self.phase = Phase::Done,
            Event::Refused(refusal) => {
                self.phase = Phase::Failed(format!(
                    "{:?} was refused: {:?} (port {})",
                    refusal.op, refusal.status, refusal.port
                ));
            }
            other => self.phase = Phase::Failed(format!("the server said {other:?}")),
        }
    }

    fn handle_ack(&mut self, count: u64, now: Instant) {
        self.measured.acks += 1;
        self.measured.end = Some(now);
        for _ in 0..count {
            let Some(Request { op, id, at }) = self.in_flight.pop_front() else {
                self.phase = Phase::Failed("more was acknowledged than sent".into());
                return;
            };
            let took = now.saturating_since(at);
            if op == Op::Store {
                self.measured.store.record(took);
                self.deletable.push_back(id);
            } else {
                self.measured.delete.record(took);
                self.measured.messages += 1;
            }
        }
    }

    fn make_requests(&mut self, now: Instant) {
        let more = self.wants_more(now);
        let Some(client) = self.link.client() else { return };
        let at = proto_time(now);
        while self.in_flight.len() < self.depth && client.room() > 0 {
            let sequence = self.next_sequence;
            // The oldest without an answer: the server may forget what lies below.
            let floor = Sequence(sequence.0 - self.in_flight.len() as u64);
            let (op, id) = if let Some(id) = self.deletable.pop_front() {
                client.delete(at, QUEUE, sequence, id, floor);
                (Op::Delete, id)
            } else if more && self.config.total.is_none_or(|total| self.next_id.0 <= total) {
                let id = self.next_id;
                self.next_id = id.next();
                let place = usize::try_from(id.0 % CONTENTS as u64).expect("below 64");
                client.store(at, QUEUE, sequence, id, floor, &self.messages[place]);
                (Op::Store, id)
            } else {
                break;
            };
            self.next_sequence = sequence.next();
            self.unsent += 1;
            self.in_flight.push_back(Request { op, id, at: now });
        }
        if self.in_flight.is_empty() && self.deletable.is_empty() {
            client.drop_queue(at, QUEUE, Tag(2));
            self.phase = Phase::Dropping;
        }
    }

    fn wants_more(&self, now: Instant) -> bool {
        let begin = self.measured.begin.expect("it runs");
        self.config.duration.is_none_or(|duration| now.saturating_since(begin) < duration)
    }

    /// With batches: when one is there, or nothing is in flight whose answer could complete one.
    fn is_time_to_send(&mut self) -> bool {
        let gathered = self.unsent;
        let complete = gathered >= self.config.batch || gathered == self.in_flight.len();
        let now = gathered == 0 || complete || self.phase != Phase::Running;
        if now {
            self.unsent = 0;
        }
        now
    }
}

//! Store and delete over one connection, on one queue or on many in turn, which are empty or hold messages.

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
use super::measured::{Held, KvsMeasured};

/// What a [`KvsLoad`] asks for.
#[derive(Clone, Debug)]
pub struct KvsConfig {
    /// Whom.
    pub target: Target,
    /// The queue's name; it must not exist. With several queues a number comes behind it.
    pub queue: String,
    /// Queues, at least 1. Messages go to them in turn.
    pub queues: u32,
    /// Messages that are stored before, in all queues together, and stay: what is deleted is the oldest of its
    /// queue then. They are not measured but in [`KvsMeasured::held`].
    pub held: u64,
    /// Of the messages that stay, so many per cent are not the newest: some of those that are the oldest are passed
    /// over and never deleted, until they are so many.
    pub stuck_percent: u64,
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

/// Stores messages, and deletes the oldest of a queue when a store to it is acknowledged, so that every request is a
/// change with an answer of its own. The loop around it calls [`KvsLoad::turn`] until [`KvsLoad::is_done`],
/// and [`KvsLoad::wait`] when there was nothing to do.
pub struct KvsLoad<T: Transport> {
    link: Link<T>,
    config: KvsConfig,
    phase: Phase,
    messages: Vec<Message>,
    depth: usize,
    /// By handle.
    queues: Vec<Queue>,
    /// The next one to store to.
    turn: usize,
    /// Messages to store that were begun, those that are held among them.
    stores: u64,
    /// Requests without an answer, of all queues.
    in_flight: usize,
    /// Requests made since the last send.
    unsent: usize,
    /// Queues in which stores were acknowledged, and how many, so that as much is to be deleted.
    deletable: VecDeque<(usize, u64)>,
    /// Replies that are awaited before the next phase.
    awaited: u32,
    /// What the server held before.
    before: Held,
    measured: KvsMeasured,
}

/// What is known of one queue. Its ids are consecutive, and they are deleted in this order.
#[derive(Debug)]
struct Queue {
    next_sequence: Sequence,
    next_id: MessageId,
    oldest_id: MessageId,
    /// Messages that were passed over.
    stuck: u64,
    /// Requests without an answer.
    unanswered: u64,
    /// They, in the order in which they went out, which is the order of the answers.
    in_flight: VecDeque<Requests>,
}

impl Queue {
    fn new() -> Queue {
        Queue {
            next_sequence: Sequence(1),
            next_id: MessageId(1),
            oldest_id: MessageId(1),
            stuck: 0,
            unanswered: 0,
            in_flight: VecDeque::new(),
        }
    }
}

/// Requests that went out one after the other, of one kind and in one turn: a note of each would cost the client as much
/// as a server may take for it.
#[derive(Clone, Copy, Debug)]
struct Requests {
    op: Op,
    at: Instant,
    count: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    /// What the server holds already.
    Looking,
    Creating,
    Filling,
    /// What it holds with the messages that stay.
    Counting,
    Running,
    /// What it holds at the end.
    Weighing,
    Dropping,
    Done,
    Failed(String),
}

/// Different contents, so that no cache holds only one; few, so that making them costs nothing.
const CONTENTS: usize = 64;

/// Every so manieth message of a queue is one that may be passed over.
const STUCK_INTERVAL: u64 = 10;

impl<T: Transport> KvsLoad<T> {
    /// Begins to connect.
    ///
    /// # Errors
    /// What the transport says.
    pub fn open(transport: T, now: Instant, config: KvsConfig) -> Result<KvsLoad<T>, OpenError> {
        assert!(config.depth > 0 && config.queues > 0 && config.stuck_percent < 100);
        assert!(QueueName::parse(queue_name(&config, config.queues - 1).as_bytes()).is_some());
        let mut rng = Rng::with_seed(config.seed);
        let mut content = || -> Bytes { (0..config.size_bytes).map(|_| rng.u8(..)).collect() };
        Ok(KvsLoad {
            link: Link::open(transport, now, &config.target)?,
            messages: (0..CONTENTS).map(|_| Message::new(Bytes::new(), content())).collect(),
            phase: Phase::Connecting,
            depth: config.depth,
            queues: (0..config.queues).map(|_| Queue::new()).collect(),
            turn: 0,
            stores: 0,
            in_flight: 0,
            unsent: 0,
            deletable: VecDeque::new(),
            awaited: 0,
            before: Held::default(),
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

    /// Whether what is measured has begun: what is to stay is there.
    pub fn has_begun(&self) -> bool {
        self.measured.begin.is_some()
    }

    /// Whether all that is measured has been measured; the queues may still have to go.
    pub fn has_measured(&self) -> bool {
        matches!(self.phase, Phase::Weighing | Phase::Dropping) || self.is_done()
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
        match self.phase {
            Phase::Filling => self.fill(now),
            Phase::Running => self.make_requests(now),
            _ => {}
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
                if self.config.queues > limits.handles_max {
                    let most = limits.handles_max;
                    self.phase = Phase::Failed(format!("the server has {most} queues at most"));
                } else if self.config.held > 0 {
                    self.count(now, Phase::Looking);
                } else {
                    self.create(now);
                }
            }
            Event::Counters { counters, .. } => {
                self.handle_held(Held::of(&counters), now);
            }
            Event::Attached { .. } => {
                self.awaited -= 1;
                if self.awaited == 0 && self.config.held > 0 {
                    self.phase = Phase::Filling;
                } else if self.awaited == 0 {
                    self.begin(now);
                }
            }
            Event::Ack { queue, count, .. } => self.handle_ack(queue, count, now),
            Event::Dropped { .. } => {
                self.awaited -= 1;
                if self.awaited == 0 {
                    self.phase = Phase::Done;
                }
            }
            Event::Refused(refusal) => {
                self.phase = Phase::Failed(format!(
                    "{:?} was refused: {:?} (port {})",
                    refusal.op, refusal.status, refusal.port
                ));
            }
            other => self.phase = Phase::Failed(format!("the server said {other:?}")),
        }
    }

    fn count(&mut self, now: Instant, phase: Phase) {
        self.phase = phase;
        self.link.client().expect("it spoke").statistics(proto_time(now), Tag(3));
    }

    fn handle_held(&mut self, held: Held, now: Instant) {
        match self.phase {
            Phase::Looking => {
                self.before = held;
                self.create(now);
            }
            Phase::Counting => {
                self.measured.held = held.since(self.before);
                self.begin(now);
            }
            _ => {
                self.measured.left = held.since(self.before);
                self.drop_queues(now);
            }
        }
    }

    fn create(&mut self, now: Instant) {
        self.phase = Phase::Creating;
        self.awaited = self.config.queues;
        let (epoch, generation, all) = (Epoch(1), Generation(1), u64::MAX);
        let client = self.link.client().expect("it spoke");
        for number in 0..self.config.queues {
            let name = queue_name(&self.config, number);
            let name = QueueName::parse(name.as_bytes()).expect("checked when opened");
            let queue = QueueHandle(number);
            client.create(proto_time(now), queue, Tag(1), epoch, generation, name, all, all);
        }
    }

    /// From here on it is measured.
    fn begin(&mut self, now: Instant) {
        self.phase = Phase::Running;
        self.measured.begin = Some(now);
    }

    fn handle_ack(&mut self, queue: QueueHandle, count: u64, now: Instant) {
        let place = queue.0 as usize;
        let is_measured = self.phase == Phase::Running;
        if is_measured {
            self.measured.acks += 1;
            self.measured.end = Some(now);
        }
        let mut left = count;
        while left > 0 {
            let queue = &mut self.queues[place];
            let Some(front) = queue.in_flight.front_mut() else {
                self.phase = Phase::Failed("more was acknowledged than sent".into());
                return;
            };
            let Requests { op, at, .. } = *front;
            let some = front.count.min(left);
            front.count -= some;
            if front.count == 0 {
                queue.in_flight.pop_front();
            }
            left -= some;
            queue.unanswered -= some;
            self.in_flight -= usize::try_from(some).expect("at most `depth`");
            if is_measured {
                self.measure(place, op, now.saturating_since(at), some);
            }
        }
    }

    /// So many requests to a queue took as long.
    fn measure(&mut self, place: usize, op: Op, took: Duration, count: u64) {
        if op != Op::Store {
            self.measured.delete.record_many(took, count);
            self.measured.messages += count;
            return;
        }
        self.measured.store.record_many(took, count);
        match self.deletable.back_mut() {
            Some((last, more)) if *last == place => *more += count,
            _ => self.deletable.push_back((place, count)),
        }
    }

    /// Stores what is to stay.
    fn fill(&mut self, now: Instant) {
        while self.stores < self.config.held && self.may_ask() {
            self.store(now);
        }
        if self.stores == self.config.held && self.in_flight == 0 {
            self.count(now, Phase::Counting);
        }
    }

    fn make_requests(&mut self, now: Instant) {
        let more = self.wants_more(now);
        let most = self.config.total.map(|total| total.saturating_add(self.config.held));
        while self.may_ask() {
            if let Some((place, count)) = self.deletable.front_mut() {
                let place = *place;
                *count -= 1;
                if *count == 0 {
                    self.deletable.pop_front();
                }
                self.delete(place, now);
            } else if more && most.is_none_or(|most| self.stores < most) {
                self.store(now);
            } else {
                break;
            }
        }
        if self.in_flight == 0 && self.deletable.is_empty() {
            if self.config.held > 0 {
                self.count(now, Phase::Weighing);
            } else {
                self.drop_queues(now);
            }
        }
    }

    /// Whether one more request may be in flight.
    fn may_ask(&mut self) -> bool {
        self.in_flight < self.depth && self.link.client().is_some_and(|client| client.room() > 0)
    }

    /// Stores a message to the queue whose turn it is.
    fn store(&mut self, now: Instant) {
        let place = self.turn;
        self.turn = if place + 1 == self.queues.len() { 0 } else { place + 1 };
        let content = usize::try_from(self.stores % CONTENTS as u64).expect("below 64");
        self.stores += 1;
        let id = self.queues[place].next_id;
        self.queues[place].next_id = id.next();
        let (sequence, floor) = self.note_request(place, Op::Store, now);
        let (queue, message) = (handle(place), &self.messages[content]);
        let client = self.link.client().expect("it spoke");
        client.store(proto_time(now), queue, sequence, id, floor, message);
    }

    /// Deletes the oldest message of a queue that is not to stay for good.
    fn delete(&mut self, place: usize, now: Instant) {
        let KvsConfig { queues, held, stuck_percent, .. } = self.config;
        let stuck_max = held / u64::from(queues) * stuck_percent / 100;
        let queue = &mut self.queues[place];
        while queue.stuck < stuck_max && queue.oldest_id.0.is_multiple_of(STUCK_INTERVAL) {
            queue.stuck += 1;
            queue.oldest_id = queue.oldest_id.next();
        }
        let id = queue.oldest_id;
        queue.oldest_id = id.next();
        let (sequence, floor) = self.note_request(place, Op::Delete, now);
        let client = self.link.client().expect("it spoke");
        client.delete(proto_time(now), handle(place), sequence, id, floor);
    }

    /// The number of a queue's next request, and that of its oldest without an answer: the server may forget what
    /// lies below.
    fn note_request(&mut self, place: usize, op: Op, at: Instant) -> (Sequence, Sequence) {
        let queue = &mut self.queues[place];
        let sequence = queue.next_sequence;
        let floor = Sequence(sequence.0 - queue.unanswered);
        queue.next_sequence = sequence.next();
        queue.unanswered += 1;
        match queue.in_flight.back_mut() {
            Some(last) if (last.op, last.at) == (op, at) => last.count += 1,
            _ => queue.in_flight.push_back(Requests { op, at, count: 1 }),
        }
        self.in_flight += 1;
        self.unsent += 1;
        (sequence, floor)
    }

    fn drop_queues(&mut self, now: Instant) {
        self.phase = Phase::Dropping;
        self.awaited = self.config.queues;
        let client = self.link.client().expect("it spoke");
        for place in 0..self.queues.len() {
            client.drop_queue(proto_time(now), handle(place), Tag(2));
        }
    }

    fn wants_more(&self, now: Instant) -> bool {
        let begin = self.measured.begin.expect("it runs");
        self.config.duration.is_none_or(|duration| now.saturating_since(begin) < duration)
    }

    /// With batches: when one is there, or nothing is in flight whose answer could complete one.
    fn is_time_to_send(&mut self) -> bool {
        let gathered = self.unsent;
        let complete = gathered >= self.config.batch || gathered == self.in_flight;
        let now = gathered == 0 || complete || self.phase != Phase::Running;
        if now {
            self.unsent = 0;
        }
        now
    }
}

fn handle(place: usize) -> QueueHandle {
    QueueHandle(u32::try_from(place).expect("they are counted by a u32"))
}

fn queue_name(config: &KvsConfig, number: u32) -> String {
    if config.queues == 1 { config.queue.clone() } else { format!("{}-{number}", config.queue) }
}

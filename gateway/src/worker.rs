//! Threads: the loop around a worker's turns, and how workers pass parcels to each other.
//!
//! What is for another worker goes through a bounded ring. When a ring is full the parcel waits
//! here, and is no more than its sender's bounds allow: one for each mail that a session waits
//! for, one for each attempt that delivery has asked for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};
use tcpstack::{
    Clock, Idle, Instant, KernelTransport, LinkInterface, LinkSteering, LinkTransport, Transport,
    Waker, nic_queues, set_link_peers, wait_on_both,
};
use tracing::{info, warn};

use crate::bypass;
use crate::front::{Front, FrontCounters};
use crate::link::LinkCounters;
use crate::register::Asker;
use crate::replication::record::{RegisterAnswer, RegisterCall};
use crate::settings::Settings;
use crate::shard::{RegisterErrand, Shard, ShardCounters};
use crate::status::desk::{Desk, Part};
use crate::status::{NicQueueStatus, WorkerCounters};
use crate::turn::{Drivers, Fatal, PARCELS_PER_TURN, Parcel, Surroundings};

/// Parcels that a ring holds.
const RING_SIZE: usize = PARCELS_PER_TURN;

/// How long a stopping gateway waits for its copies to answer.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How long a stopping gateway waits for closed sockets to send their last replies.
const LINGER_GRACE: Duration = Duration::from_secs(2);

/// How long a stopping gateway waits for deliveries under way, and for transactions if those may
/// not take longer by the configuration.
const FRONT_GRACE: Duration = Duration::from_secs(30);

/// Longest sleep, so that a wake-up that is missed costs this much at most.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// How often counters are logged, if they have changed.
const COUNTERS_EVERY: Duration = Duration::from_secs(60);

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// Set once, to leave in good order.
    stopping: AtomicBool,
    /// How long deliveries under way may take then, in milliseconds, if that is not the usual.
    grace_ms: AtomicU64,
    /// Set once, to leave as things are: the queues are not ours, or a worker has panicked.
    aborting: AtomicBool,
    /// Fronts that have not stopped yet.
    fronts_left: AtomicUsize,
    /// The settings that the workers are to work by, once they have changed.
    settings: Mutex<Option<Arc<Settings>>>,
    /// What comes to us past the kernel.
    steering: LinkSteering,
    /// Who is reached that way, once it has changed.
    interfaces: Mutex<Option<Arc<[LinkInterface]>>>,
    /// How often those have changed. A worker compares it with what it has seen, once a turn.
    changes: AtomicU64,
    /// Where snapshots are asked for.
    desk: Desk,
    /// By worker.
    sleepers: Vec<Sleeper>,
}

#[derive(Debug)]
struct Sleeper {
    asleep: AtomicBool,
    waker: Waker,
}

impl Shared {
    /// For workers with these wakers, and so many fronts among them.
    pub fn new(wakers: Vec<Waker>, fronts: usize) -> Shared {
        let sleeper = |waker| Sleeper { asleep: AtomicBool::new(false), waker };
        Shared {
            stopping: AtomicBool::new(false),
            grace_ms: AtomicU64::new(u64::MAX),
            aborting: AtomicBool::new(false),
            fronts_left: AtomicUsize::new(fronts),
            settings: Mutex::new(None),
            steering: LinkSteering::default(),
            interfaces: Mutex::new(None),
            changes: AtomicU64::new(0),
            desk: Desk::new(wakers.len()),
            sleepers: wakers.into_iter().map(sleeper).collect(),
        }
    }

    /// The same, with links that go past the kernel as that says.
    #[must_use]
    pub fn with_steering(self, steering: LinkSteering) -> Shared {
        Shared { steering, ..self }
    }

    /// Begins to stop: no more sessions, transactions and deliveries under way are finished.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake_all();
    }

    /// The same, but deliveries under way get so much time at most.
    pub fn stop_within(&self, grace: Duration) {
        let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.grace_ms.store(grace, Ordering::SeqCst);
        self.stop();
    }

    /// Ends every worker before its next turn: nothing more is answered, stored or delivered.
    pub fn abort(&self) {
        self.aborting.store(true, Ordering::SeqCst);
        self.wake_all();
    }

    /// Has the servers of these settings reached past the kernel that are on an interface of ours, from the next
    /// [`reconfigure`](Shared::reconfigure) on.
    ///
    /// # Errors
    /// Why they are not; all is as it was then.
    pub fn set_interfaces(&self, settings: &Settings) -> Result<(), String> {
        if self.steering.is_bypass() {
            let interfaces = bypass::interfaces(settings);
            self.steering.set_peers(&interfaces)?;
            *self.interfaces.lock().expect("nobody panics while holding it") =
                Some(interfaces.into());
        }
        Ok(())
    }

    /// Has every worker work by these settings from its next turn on, and wakes it for that.
    pub fn reconfigure(&self, settings: Arc<Settings>) {
        let mut place = self.settings.lock().expect("nobody panics while holding it");
        *place = Some(settings);
        // Before the lock is left: who sees this finds those settings, or later ones.
        self.changes.fetch_add(1, Ordering::SeqCst);
        drop(place);
        self.wake_all();
    }

    /// How every worker is: nothing of those that do not answer within that time.
    pub fn ask_status(&self, patience: Duration) -> Vec<Option<Arc<Part>>> {
        self.desk.ask(patience, || self.wake_all())
    }

    /// What a worker looks at, for tests that play one: the settings, and where it leaves how it is.
    #[cfg(test)]
    pub(crate) fn seen_by_workers(&self) -> (Option<Arc<Settings>>, &Desk) {
        let settings = self.settings.lock().expect("nobody panics while holding it").clone();
        (settings, &self.desk)
    }

    fn wake_all(&self) {
        for worker in 0..self.sleepers.len() {
            self.wake(worker);
        }
    }

    /// Wakes a worker if it sleeps.
    pub fn wake(&self, worker: usize) {
        let sleeper = &self.sleepers[worker];
        if sleeper.asleep.load(Ordering::SeqCst) {
            sleeper.waker.wake();
        }
    }
}

/// The rings from one worker to each other one, and back.
#[derive(Debug)]
pub struct Rings {
    /// By worker; `None` for itself.
    outgoing: Vec<Option<Producer<Parcel>>>,
    incoming: Vec<Consumer<Parcel>>,
    /// Parcels that found their ring full, by worker.
    waiting: Vec<VecDeque<Parcel>>,
    /// Who has parcels in their ring since they were last woken.
    unnoticed: Vec<bool>,
}

impl Rings {
    /// Rings between `count` workers, for each of them.
    pub fn between(count: usize) -> Vec<Rings> {
        let mut all = Vec::new();
        for _ in 0..count {
            let waiting = std::iter::repeat_with(VecDeque::new).take(count).collect();
            let outgoing = std::iter::repeat_with(|| None).take(count).collect();
            let unnoticed = vec![false; count];
            all.push(Rings { outgoing, incoming: Vec::new(), waiting, unnoticed });
        }
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let (producer, consumer) = RingBuffer::new(RING_SIZE);
                all[from].outgoing[to] = Some(producer);
                all[to].incoming.push(consumer);
            }
        }
        all
    }

    /// Puts a parcel into its ring at once: what a front sends before it answers a client is there
    /// before that client can cause anything else. Only behind a full ring it waits.
    fn send(&mut self, to: usize, parcel: Parcel) {
        self.waiting[to].push_back(parcel);
        self.unnoticed[to] |= self.fill(to);
    }

    /// Moves what waits into the rings, and wakes those who have something new there; returns
    /// whether there was anything.
    fn flush(&mut self, shared: &Shared) -> bool {
        let mut any = false;
        for to in 0..self.waiting.len() {
            let filled = self.fill(to);
            if std::mem::take(&mut self.unnoticed[to]) | filled {
                shared.wake(to);
                any = true;
            }
        }
        any
    }

    /// Moves what waits for one worker into its ring, as far as there is room.
    fn fill(&mut self, to: usize) -> bool {
        let Some(ring) = &mut self.outgoing[to] else { return false };
        let mut filled = false;
        while !ring.is_full()
            && let Some(parcel) = self.waiting[to].pop_front()
        {
            ring.push(parcel).expect("just seen that there is room");
            filled = true;
        }
        filled
    }

    /// The next parcel from another worker.
    fn receive(&mut self) -> Option<Parcel> {
        self.incoming.iter_mut().find_map(|ring| ring.pop().ok())
    }

    fn has_incoming(&self) -> bool {
        self.incoming.iter().any(|ring| !ring.is_empty())
    }

    fn has_waiting(&self) -> bool {
        self.waiting.iter().any(|waiting| !waiting.is_empty())
    }
}

/// One thread's work.
pub struct Worker {
    /// What it runs.
    pub drivers: Drivers<KernelTransport, LinkTransport>,
    /// To and from the others.
    pub rings: Rings,
    /// What all share.
    pub shared: Arc<Shared>,
    /// To the register.
    pub register: Sender<(Asker, String, RegisterCall)>,
    /// From the register.
    pub register_answers: RegisterAnswers,
    /// How long to spin without work.
    pub spin: Duration,
    /// The changes of the settings that it has taken in; 0 at first.
    pub changes_seen: u64,
    /// How often it has told how it is; 0 at first.
    pub status_told: u64,
}

/// Answers of the register, each with the cohort that asked.
#[derive(Debug)]
pub struct RegisterAnswers {
    channel: Receiver<(usize, RegisterAnswer)>,
    /// Taken out of the channel to see whether there is one.
    first: Option<(usize, RegisterAnswer)>,
}

impl RegisterAnswers {
    /// Those that come through the channel.
    pub fn new(channel: Receiver<(usize, RegisterAnswer)>) -> RegisterAnswers {
        RegisterAnswers { channel, first: None }
    }

    fn poll(&mut self) -> Option<(usize, RegisterAnswer)> {
        self.first.take().or_else(|| self.channel.try_recv().ok())
    }

    fn is_empty(&mut self) -> bool {
        self.first = self.poll();
        self.first.is_none()
    }
}

/// What a worker's turn reaches outside of it.
struct Outside<'w> {
    number: usize,
    rings: &'w mut Rings,
    register: &'w Sender<(Asker, String, RegisterCall)>,
    register_answers: &'w mut RegisterAnswers,
}

impl Surroundings for Outside<'_> {
    fn send(&mut self, to: usize, parcel: Parcel) {
        self.rings.send(to, parcel);
    }

    fn receive(&mut self) -> Option<Parcel> {
        self.rings.receive()
    }

    fn ask_register(&mut self, errand: RegisterErrand) -> Result<(), Fatal> {
        let asker = Asker { worker: self.number, cohort: errand.cohort };
        let sent = self.register.send((asker, errand.key, errand.call));
        sent.map_err(|_| Fatal("the register's thread has died".into()))
    }

    fn poll_register(&mut self) -> Option<(usize, RegisterAnswer)> {
        self.register_answers.poll()
    }

    fn now(&self) -> Instant {
        Clock::new().now()
    }
}

impl Worker {
    /// Runs until the gateway stops.
    ///
    /// # Errors
    /// [`Fatal`]: the process must stop at once, as the queues are not ours.
    pub fn run(mut self) -> Result<(), Fatal> {
        let clock = Clock::new();
        let mut idle = Idle::new(self.spin);
        let mut stop = Stop::default();
        let mut pauses = Pauses::default();
        let mut counters_at = clock.now() + COUNTERS_EVERY;
        let mut logged = Logged::default();
        while !self.shared.aborting.load(Ordering::SeqCst) {
            self.take_settings();
            let (now, unix_ms) = (clock.now(), clock.unix_ms());
            let worked = self.turn(now, unix_ms)?;
            self.tell_status(now, unix_ms);
            if self.shared.stopping.load(Ordering::SeqCst) && self.stop(now, &mut stop) {
                self.log_counters(&mut logged);
                return Ok(());
            }
            if now >= counters_at {
                self.log_counters(&mut logged);
                counters_at = now + COUNTERS_EVERY;
            }
            self.warn_of_pauses(now, &mut pauses);
            if worked {
                idle.handle_work(now);
            } else if idle.should_sleep(now) {
                self.sleep(now, unix_ms);
            } else {
                std::hint::spin_loop();
            }
        }
        Ok(())
    }

    /// Works by the newest settings from now on.
    fn take_settings(&mut self) {
        let changes = self.shared.changes.load(Ordering::Relaxed);
        if changes == self.changes_seen {
            return;
        }
        self.changes_seen = changes;
        let settings = self.shared.settings.lock().expect("nobody panics while holding it").clone();
        let interfaces =
            self.shared.interfaces.lock().expect("nobody panics while holding it").clone();
        // Before it connects to servers that are new.
        if let (Some(interfaces), Some(shard)) = (interfaces, &mut self.drivers.shard) {
            set_link_peers(shard.transport_mut(), &interfaces);
        }
        if let Some(settings) = settings {
            self.drivers.reconfigure(Clock::new().now(), &settings);
        }
    }

    /// Leaves how it is at the desk, if somebody wants to know.
    fn tell_status(&mut self, now: Instant, unix_ms: u64) {
        let wanted = self.shared.desk.wanted();
        // Whoever asks after settings have changed is told of how it is by those: one turn later.
        let is_current = self.shared.changes.load(Ordering::SeqCst) == self.changes_seen;
        if wanted == self.status_told || !is_current {
            return;
        }
        self.status_told = wanted;
        let (shard, front) = (self.drivers.shard.as_ref(), self.drivers.front.as_ref());
        let counters = WorkerCounters {
            worker: self.drivers.number,
            shard: shard.map(Shard::counters),
            front: front.map(Front::counters),
            nic_queues: self.nic_queues(),
        };
        let queues = shard.map(|it| it.status(now, unix_ms)).unwrap_or_default();
        self.shared.desk.leave(self.drivers.number, wanted, Part { queues, counters });
    }

    fn nic_queues(&self) -> Vec<NicQueueStatus> {
        let of = |shard: &Shard<LinkTransport>| {
            nic_queues(shard.transport()).into_iter().map(Into::into).collect()
        };
        self.drivers.shard.as_ref().map(of).unwrap_or_default()
    }

    fn turn(&mut self, now: Instant, unix_ms: u64) -> Result<bool, Fatal> {
        let mut outside = Outside {
            number: self.drivers.number,
            rings: &mut self.rings,
            register: &self.register,
            register_answers: &mut self.register_answers,
        };
        let worked = self.drivers.turn(now, unix_ms, &mut outside)?;
        Ok(self.rings.flush(&self.shared) | worked)
    }

    /// Goes on stopping; returns whether this worker is done.
    fn stop(&mut self, now: Instant, stop: &mut Stop) -> bool {
        let since = *stop.since.get_or_insert(now);
        if let Some(front) = &mut self.drivers.front {
            front.stop();
            // A socket that is closed may still have its last reply to send.
            let lingering = front.transport_mut().statistics().lingering > 0;
            let patient = now.saturating_since(since) < LINGER_GRACE;
            // What it had to say must have reached the shards.
            let heard = !self.rings.has_waiting();
            let stopped = front.is_stopped() && heard && !(lingering && patient);
            let grace = Duration::from_millis(self.shared.grace_ms.load(Ordering::SeqCst));
            let overdue =
                now.saturating_since(since) >= FRONT_GRACE.max(front.drain_time()).min(grace);
            if !stop.front_done && (stopped || overdue) {
                stop.front_done = true;
                self.shared.fronts_left.fetch_sub(1, Ordering::SeqCst);
                self.shared.wake_all();
            }
        }
        if self.shared.fronts_left.load(Ordering::SeqCst) > 0 || self.rings.has_incoming() {
            return false;
        }
        let Some(shard) = &mut self.drivers.shard else { return !self.rings.has_waiting() };
        let quiet = shard.is_quiet();
        let fronts_done = *stop.fronts_done.get_or_insert(now);
        if !quiet && now.saturating_since(fronts_done) < STOP_GRACE {
            return false;
        }
        if !quiet {
            info!("leaving although not every copy has answered; the next start repairs it");
        }
        shard.close();
        shard.flush(now);
        true
    }

    fn sleep(&mut self, now: Instant, unix_ms: u64) {
        let deadline = self.drivers.next_deadline(now, unix_ms);
        let until = deadline.map_or(now + SLEEP_MAX, |it| it.min(now + SLEEP_MAX));
        let sleeper = &self.shared.sleepers[self.drivers.number];
        sleeper.asleep.store(true, Ordering::SeqCst);
        // Who sends after this sees that we sleep, and wakes us.
        let has_parcels = self.rings.has_incoming() || self.rings.has_waiting();
        let is_current = self.shared.changes.load(Ordering::SeqCst) == self.changes_seen
            && self.shared.desk.wanted() == self.status_told;
        if is_current && !has_parcels && self.register_answers.is_empty() {
            match (&mut self.drivers.front, &mut self.drivers.shard) {
                (Some(front), Some(shard)) => {
                    wait_on_both(front.transport_mut(), shard.transport_mut(), now, Some(until));
                }
                (Some(front), None) => front.transport_mut().wait(now, Some(until)),
                (None, Some(shard)) => shard.transport_mut().wait(now, Some(until)),
                (None, None) => unreachable!("a worker has something to do"),
            }
        }
        self.shared.sleepers[self.drivers.number].asleep.store(false, Ordering::SeqCst);
    }

    /// Says that descriptors ran out: when it begins, and once a minute while it goes on.
    fn warn_of_pauses(&mut self, now: Instant, pauses: &mut Pauses) {
        let Some(front) = &mut self.drivers.front else { return };
        let count = front.transport_mut().statistics().accept_pauses;
        if count != pauses.told && now >= pauses.next_at {
            *pauses = Pauses { told: count, next_at: now + COUNTERS_EVERY };
            warn!(pauses = count, "out of descriptors or memory: accepting pauses, newcomers wait");
        }
    }

    /// Logs the counters that are not as they were logged last.
    fn log_counters(&self, logged: &mut Logged) {
        let worker = self.drivers.number;
        let shard = self.drivers.shard.as_ref().map(Shard::counters);
        if logged.shard != shard
            && let Some(shard) = shard
        {
            info!(target: "counters", worker, ?shard);
        }
        let links = self.drivers.shard.as_ref().map(Shard::link_counters).unwrap_or_default();
        if logged.links != links {
            info!(target: "counters", worker, ?links);
        }
        let nic_queues = self.nic_queues();
        if logged.nic_queues != nic_queues {
            info!(target: "counters", worker, ?nic_queues);
        }
        let front = self.drivers.front.as_ref().map(Front::counters);
        if logged.front != front
            && let Some(front) = front
        {
            info!(target: "counters", worker, ?front);
        }
        *logged = Logged { shard, links, nic_queues, front };
    }
}

/// What a worker's counters were when they were logged last.
#[derive(Debug, Default)]
struct Logged {
    shard: Option<ShardCounters>,
    links: Vec<LinkCounters>,
    nic_queues: Vec<NicQueueStatus>,
    front: Option<FrontCounters>,
}

/// Which pauses of accepting were told of.
#[derive(Debug, Default)]
struct Pauses {
    told: u64,
    next_at: Instant,
}

/// How far a worker is with stopping.
#[derive(Debug, Default)]
struct Stop {
    since: Option<Instant>,
    /// Its own front has stopped.
    front_done: bool,
    /// When all fronts had stopped.
    fronts_done: Option<Instant>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Command;
    use crate::message::QueueIndex;
    use crate::turn::Places;
    use tcpstack::KernelOptions;

    fn slots(window: u32) -> Parcel {
        Parcel::Command(Command::Slots { queue: QueueIndex(0), window })
    }

    fn window(parcel: Parcel) -> u32 {
        match parcel {
            Parcel::Command(Command::Slots { window, .. }) => window,
            other => panic!("{other:?}"),
        }
    }

    fn shared(workers: usize) -> Shared {
        let waker = || KernelTransport::new(KernelOptions::default()).unwrap().waker();
        Shared::new((0..workers).map(|_| waker()).collect(), 1)
    }

    #[test]
    fn parcels_arrive_in_order_however_full_the_ring() {
        let shared = shared(2);
        let mut rings = Rings::between(2);
        let mut receiver = rings.pop().unwrap();
        let mut sender = rings.pop().unwrap();
        let count = u32::try_from(RING_SIZE * 3).unwrap();
        for number in 0..count {
            sender.send(1, slots(number));
        }
        let mut received = Vec::new();
        while received.len() < count as usize {
            let moved = sender.flush(&shared);
            assert!(moved || receiver.has_incoming(), "it goes on");
            assert!(sender.has_waiting() == (received.len() < RING_SIZE * 2));
            received.extend(std::iter::from_fn(|| receiver.receive()).map(window));
        }
        assert!(received.into_iter().eq(0..count));
        assert!(!sender.has_waiting() && !receiver.has_incoming());
    }

    #[test]
    fn a_parcel_is_in_its_ring_before_its_sender_does_anything_else() {
        let mut rings = Rings::between(2);
        rings[0].send(1, slots(7));
        assert_eq!(rings[1].receive().map(window), Some(7));
    }

    #[test]
    fn each_pair_of_workers_has_rings_of_its_own() {
        let shared = shared(3);
        let mut rings = Rings::between(3);
        rings[0].send(2, slots(1));
        rings[1].send(2, slots(2));
        rings[2].send(0, slots(3));
        assert!(rings.iter_mut().all(|it| it.flush(&shared)));
        let mut at_2 = [rings[2].receive(), rings[2].receive()].map(|it| window(it.unwrap()));
        at_2.sort_unstable();
        assert_eq!(at_2, [1, 2]);
        assert_eq!(rings[0].receive().map(window), Some(3));
        assert!(rings[1].receive().is_none());
    }

    #[test]
    fn a_sleeping_worker_is_woken_by_a_parcel() {
        let mut transport = KernelTransport::new(KernelOptions::default()).unwrap();
        let shared = Shared::new(vec![transport.waker(); 2], 1);
        let mut rings = Rings::between(2);
        shared.sleepers[1].asleep.store(true, Ordering::SeqCst);
        rings[0].send(1, slots(1));
        rings[0].flush(&shared);
        let clock = Clock::new();
        let before = clock.now();
        transport.wait(before, Some(before + Duration::from_secs(60)));
        assert!(clock.now().saturating_since(before) < Duration::from_secs(30));
    }

    #[test]
    fn an_answer_of_the_register_is_seen_before_sleep_and_not_lost() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut answers = RegisterAnswers::new(receiver);
        assert!(answers.is_empty());
        sender.send((3, RegisterAnswer::Swapped)).unwrap();
        sender.send((4, RegisterAnswer::Conflict)).unwrap();
        assert!(!answers.is_empty() && !answers.is_empty());
        assert_eq!(answers.poll(), Some((3, RegisterAnswer::Swapped)));
        assert_eq!(answers.poll(), Some((4, RegisterAnswer::Conflict)));
        assert!(answers.is_empty() && answers.poll().is_none());
    }

    #[test]
    fn a_worker_that_fails_takes_the_others_with_it() {
        let shared = Arc::new(shared(2));
        let (register, _calls) = std::sync::mpsc::channel();
        let (_answers, register_answers) = std::sync::mpsc::channel();
        let places = Places { shard_workers: [0].into(), front_workers: [0].into() };
        let worker = Worker {
            drivers: Drivers { number: 1, front: None, shard: None, places },
            rings: Rings::between(2).pop().unwrap(),
            shared: shared.clone(),
            register,
            register_answers: RegisterAnswers::new(register_answers),
            spin: Duration::MAX,
            changes_seen: 0,
            status_told: 0,
        };
        let other = std::thread::spawn(move || worker.run());
        shared.abort();
        assert_eq!(other.join().unwrap(), Ok(()), "although no front has stopped");
    }
}

//! Threads: what a worker runs, and how workers pass parcels to each other.
//!
//! A worker has a front (SMTP), a shard (queues and links), or both. One turn is
//!
//! 1. the shard receives answers and lets its cohorts go on: messages are committed;
//! 2. notices go to the fronts, and the front takes its turn: sessions get their 250, new mail
//!    becomes commands;
//! 3. commands go to the shards, which append and replicate them;
//! 4. the links are flushed, once.
//!
//! What is for another worker goes through a bounded ring. When a ring is full the parcel waits
//! here, and is no more than its sender's bounds allow: one for each mail that a session waits
//! for, one for each attempt that delivery has asked for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};
use tcpstack::{Clock, Idle, Instant, KernelTransport, Transport, Waker, wait_on_both};
use tracing::{error, info};

use crate::api::{Command, Notice};
use crate::board::Board;
use crate::front::Front;
use crate::register::Asker;
use crate::replication::record::{RegisterAnswer, RegisterCall};
use crate::shard::Shard;

/// Parcels that a ring holds.
const RING_SIZE: usize = 4096;

/// How long a stopping gateway waits for its copies to answer.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How long a stopping gateway waits for closed sockets to send their last replies.
const LINGER_GRACE: Duration = Duration::from_secs(2);

/// How long a stopping gateway waits for transactions and deliveries under way.
const FRONT_GRACE: Duration = Duration::from_secs(30);

/// Longest sleep, so that a wake-up that is missed costs this much at most.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// How often counters are logged, if they have changed.
const COUNTERS_EVERY: Duration = Duration::from_secs(60);

/// What passes between workers.
#[derive(Debug)]
enum Parcel {
    Command(Command),
    Notice(Notice),
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// Set once, to leave in good order.
    stopping: AtomicBool,
    /// Fronts that have not stopped yet.
    fronts_left: AtomicUsize,
    /// By worker.
    sleepers: Vec<Sleeper>,
    /// The worker that has each queue's shard, by queue.
    shard_workers: Vec<usize>,
    /// The worker that has each front.
    front_workers: Vec<usize>,
}

#[derive(Debug)]
struct Sleeper {
    asleep: AtomicBool,
    waker: Waker,
}

impl Shared {
    /// For workers with these wakers; the maps say which worker has the shard of a queue, and
    /// which has a front.
    pub fn new(wakers: Vec<Waker>, shard_workers: Vec<usize>, front_workers: Vec<usize>) -> Shared {
        let sleeper = |waker| Sleeper { asleep: AtomicBool::new(false), waker };
        Shared {
            stopping: AtomicBool::new(false),
            fronts_left: AtomicUsize::new(front_workers.len()),
            sleepers: wakers.into_iter().map(sleeper).collect(),
            shard_workers,
            front_workers,
        }
    }

    /// Begins to stop: no more sessions, transactions and deliveries under way are finished.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
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
}

impl Rings {
    /// Rings between `count` workers, for each of them.
    pub fn between(count: usize) -> Vec<Rings> {
        let mut all = Vec::new();
        for _ in 0..count {
            let waiting = std::iter::repeat_with(VecDeque::new).take(count).collect();
            let outgoing = std::iter::repeat_with(|| None).take(count).collect();
            all.push(Rings { outgoing, incoming: Vec::new(), waiting });
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

    fn send(&mut self, to: usize, parcel: Parcel) {
        self.waiting[to].push_back(parcel);
    }

    /// Moves what waits into the rings; returns whether anything moved.
    fn flush(&mut self, shared: &Shared) -> bool {
        let mut moved = false;
        for (to, waiting) in self.waiting.iter_mut().enumerate() {
            let Some(ring) = &mut self.outgoing[to] else { continue };
            let mut filled = false;
            while !waiting.is_empty() && !ring.is_full() {
                let parcel = waiting.pop_front().expect("just seen");
                ring.push(parcel).expect("just seen that there is room");
                filled = true;
            }
            if filled {
                shared.wake(to);
                moved = true;
            }
        }
        moved
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
    /// Its number.
    pub number: usize,
    /// SMTP, if it runs here.
    pub front: Option<Front<KernelTransport>>,
    /// Queues and links, if they run here.
    pub shard: Option<Shard<KernelTransport>>,
    /// To and from the others.
    pub rings: Rings,
    /// What all share.
    pub shared: Arc<Shared>,
    /// To the register.
    pub register: Sender<(Asker, String, RegisterCall)>,
    /// From the register: a cohort and its answer.
    pub register_answers: Receiver<(usize, RegisterAnswer)>,
    /// How long to spin without work.
    pub spin: Duration,
    /// Whose switches the fronts' ports depend on.
    pub board: Arc<Board>,
    /// The board's changes that the fronts have been woken for.
    pub changes_seen: u64,
}

/// Why a worker could not go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fatal(pub String);

impl Worker {
    /// Runs until the gateway stops.
    ///
    /// # Errors
    /// [`Fatal`]: the process must stop at once, as the queues are not ours.
    pub fn run(mut self) -> Result<(), Fatal> {
        let clock = Clock::new();
        let mut idle = Idle::new(self.spin);
        let mut stop = Stop::default();
        let mut counters_at = clock.now() + COUNTERS_EVERY;
        loop {
            let (now, unix_ms) = (clock.now(), clock.unix_ms());
            let worked = self.turn(now, unix_ms)?;
            if self.shared.stopping.load(Ordering::SeqCst) && self.stop(now, &mut stop) {
                self.log_counters();
                return Ok(());
            }
            if now >= counters_at {
                self.log_counters();
                counters_at = now + COUNTERS_EVERY;
            }
            if worked {
                idle.handle_work(now);
            } else if idle.should_sleep(now) {
                self.sleep(now, unix_ms);
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn turn(&mut self, now: Instant, unix_ms: u64) -> Result<bool, Fatal> {
        let mut worked = self.take_incoming(now, unix_ms);
        if let Some(shard) = &mut self.shard {
            worked |= shard.receive(now);
            shard.advance(now, unix_ms);
        }
        worked |= self.route_notices();
        // Before the front's turn, which sends the 250s: a mail is ready before its client knows.
        worked |= self.route_commands(unix_ms);
        if let Some(front) = &mut self.front {
            worked |= front.turn(now, unix_ms);
        }
        worked |= self.route_commands(unix_ms);
        if let Some(shard) = &mut self.shard {
            shard.advance(now, unix_ms);
            while let Some(errand) = shard.poll_register() {
                let asker = Asker { worker: self.number, cohort: errand.cohort };
                let sent = self.register.send((asker, errand.key, errand.call));
                sent.map_err(|_| Fatal("the register's thread has died".into()))?;
            }
            if let Some(why) = shard.poll_fatal() {
                error!(why, "stopping at once");
                return Err(Fatal(why));
            }
            shard.flush(now);
        }
        self.wake_fronts();
        worked |= self.route_notices();
        worked |= self.rings.flush(&self.shared);
        Ok(worked)
    }

    fn take_incoming(&mut self, now: Instant, unix_ms: u64) -> bool {
        let mut worked = false;
        // At most what the rings hold, so that a busy neighbour does not keep us here.
        for _ in 0..RING_SIZE {
            let Some(parcel) = self.rings.receive() else { break };
            worked = true;
            match parcel {
                Parcel::Command(command) => self.local_shard().handle_command(unix_ms, command),
                Parcel::Notice(notice) => self.local_front().handle_notice(notice),
            }
        }
        while let Ok((cohort, answer)) = self.register_answers.try_recv() {
            worked = true;
            self.local_shard().handle_register(now, cohort, answer);
        }
        worked
    }

    fn route_notices(&mut self) -> bool {
        let mut worked = false;
        while let Some((front, notice)) = self.shard.as_mut().and_then(Shard::poll_notice) {
            worked = true;
            let worker = self.shared.front_workers[usize::from(front)];
            if worker == self.number {
                self.local_front().handle_notice(notice);
            } else {
                self.rings.send(worker, Parcel::Notice(notice));
            }
        }
        worked
    }

    fn route_commands(&mut self, unix_ms: u64) -> bool {
        let mut worked = false;
        while let Some(command) = self.front.as_mut().and_then(Front::poll_command) {
            worked = true;
            let worker = self.shared.shard_workers[command.queue().0 as usize];
            if worker == self.number {
                self.local_shard().handle_command(unix_ms, command);
            } else {
                self.rings.send(worker, Parcel::Command(command));
            }
        }
        worked
    }

    /// Fronts that sleep must see when queues begin or cease to accept.
    fn wake_fronts(&mut self) {
        let changes = self.board.changes();
        if std::mem::replace(&mut self.changes_seen, changes) != changes {
            self.shared.front_workers.iter().for_each(|worker| self.shared.wake(*worker));
        }
    }

    fn local_front(&mut self) -> &mut Front<KernelTransport> {
        self.front.as_mut().expect("notices go to workers with a front")
    }

    fn local_shard(&mut self) -> &mut Shard<KernelTransport> {
        self.shard.as_mut().expect("commands go to workers with a shard")
    }

    /// Goes on stopping; returns whether this worker is done.
    fn stop(&mut self, now: Instant, stop: &mut Stop) -> bool {
        let since = *stop.since.get_or_insert(now);
        if let Some(front) = &mut self.front {
            front.stop();
            // A socket that is closed may still have its last reply to send.
            let lingering = front.transport_mut().statistics().lingering > 0;
            let patient = now.saturating_since(since) < LINGER_GRACE;
            let stopped = front.is_stopped() && !(lingering && patient);
            let overdue = now.saturating_since(since) >= FRONT_GRACE;
            if !stop.front_done && (stopped || overdue) {
                stop.front_done = true;
                self.shared.fronts_left.fetch_sub(1, Ordering::SeqCst);
                for worker in 0..self.shared.sleepers.len() {
                    self.shared.wake(worker);
                }
            }
        }
        if self.shared.fronts_left.load(Ordering::SeqCst) > 0 || self.rings.has_incoming() {
            return false;
        }
        let Some(shard) = &mut self.shard else { return !self.rings.has_waiting() };
        let quiet = shard.is_quiet();
        if !quiet && now.saturating_since(since) < STOP_GRACE {
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
        let mut until = now + SLEEP_MAX;
        if let Some(front) = &self.front {
            until = front.next_deadline().map_or(until, |deadline| deadline.min(until));
        }
        if let Some(shard) = &self.shard {
            let (deadline, due_unix_ms) = shard.next_deadline(now);
            let due =
                due_unix_ms.map(|due| now + Duration::from_millis(due.saturating_sub(unix_ms)));
            until = deadline.into_iter().chain(due).fold(until, Instant::min);
        }
        let sleeper = &self.shared.sleepers[self.number];
        sleeper.asleep.store(true, Ordering::SeqCst);
        // Who sends after this sees that we sleep, and wakes us.
        if !self.rings.has_incoming() && !self.rings.has_waiting() {
            match (&mut self.front, &mut self.shard) {
                (Some(front), Some(shard)) => {
                    wait_on_both(front.transport_mut(), shard.transport(), now, Some(until));
                }
                (Some(front), None) => front.transport_mut().wait(now, Some(until)),
                (None, Some(shard)) => shard.transport().wait(now, Some(until)),
                (None, None) => unreachable!("a worker has something to do"),
            }
        }
        self.shared.sleepers[self.number].asleep.store(false, Ordering::SeqCst);
    }

    fn log_counters(&self) {
        if let Some(shard) = &self.shard {
            let counters = shard.counters();
            info!(target: "counters", worker = self.number, shard = ?counters);
        }
        if let Some(front) = &self.front {
            let counters = front.counters();
            info!(target: "counters", worker = self.number, front = ?counters);
        }
    }
}

/// How far a worker is with stopping.
#[derive(Debug, Default)]
struct Stop {
    since: Option<Instant>,
    front_done: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::QueueIndex;
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
        Shared::new((0..workers).map(|_| waker()).collect(), vec![0], vec![0])
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
        let shared = Shared::new(vec![transport.waker(); 2], vec![0], vec![0]);
        let mut rings = Rings::between(2);
        shared.sleepers[1].asleep.store(true, Ordering::SeqCst);
        rings[0].send(1, slots(1));
        rings[0].flush(&shared);
        let clock = Clock::new();
        let before = clock.now();
        transport.wait(before, Some(before + Duration::from_secs(60)));
        assert!(clock.now().saturating_since(before) < Duration::from_secs(30));
    }
}

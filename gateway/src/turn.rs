//! One turn of a thread's work, without the thread.
//!
//! A worker has a front (SMTP), a shard (queues and links), or both. One turn is
//!
//! 1. the shard receives answers and lets its cohorts go on: messages are committed;
//! 2. notices go to the fronts, and the front takes its turn: sessions get their 250, new mail
//!    becomes commands;
//! 3. commands go to the shards, which append and replicate them;
//! 4. the links are flushed, once.

use std::sync::Arc;
use std::time::Duration;

use tcpstack::{Instant, Transport};
use tracing::error;

use crate::api::{Command, Notice};
use crate::front::Front;
use crate::replication::record::RegisterAnswer;
use crate::settings::Settings;
use crate::shard::{RegisterErrand, Shard};

/// What passes between workers.
#[derive(Debug)]
pub enum Parcel {
    /// To a shard.
    Command(Command),
    /// To a front.
    Notice(Notice),
}

/// Why a worker could not go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fatal(pub String);

impl Fatal {
    /// A thread has panicked: a broken invariant of ours.
    pub fn panic() -> Fatal {
        Fatal(PANIC.into())
    }

    /// Whether it is that.
    pub fn is_panic(&self) -> bool {
        self.0 == PANIC
    }
}

const PANIC: &str = "a thread panicked";

/// What a turn reaches outside of its worker: the other workers and the register.
pub trait Surroundings {
    /// Puts a parcel on its way to another worker.
    fn send(&mut self, to: usize, parcel: Parcel);

    /// The next parcel from another worker.
    fn receive(&mut self) -> Option<Parcel>;

    /// Asks the register; the answer comes by [`poll_register`](Self::poll_register), once.
    ///
    /// # Errors
    /// [`Fatal`] if there is no register any more.
    fn ask_register(&mut self, errand: RegisterErrand) -> Result<(), Fatal>;

    /// The time, read afresh: that of a turn is of its beginning.
    fn now(&self) -> Instant;

    /// The register's next answer: for which cohort, and what.
    fn poll_register(&mut self) -> Option<(usize, RegisterAnswer)>;
}

/// Which worker has what.
#[derive(Clone, Debug)]
pub struct Places {
    /// The worker that has each queue's shard, by queue.
    pub shard_workers: Arc<[usize]>,
    /// The worker that has each front.
    pub front_workers: Arc<[usize]>,
}

/// What runs on one thread: drivers that share a turn. SMTP runs over `F`, links over `L`.
#[derive(Debug)]
pub struct Drivers<F, L = F> {
    /// The worker's number.
    pub number: usize,
    /// SMTP, if it runs here.
    pub front: Option<Front<F>>,
    /// Queues and links, if they run here.
    pub shard: Option<Shard<L>>,
    /// Where everything else runs.
    pub places: Places,
}

impl<F: Transport, L: Transport> Drivers<F, L> {
    /// Does what there is to do, once. `unix_ms` is the time of day in milliseconds since 1970.
    /// Returns whether there was anything.
    ///
    /// # Errors
    /// [`Fatal`]: the process must stop at once, as the queues are not ours.
    pub fn turn(
        &mut self,
        now: Instant,
        unix_ms: u64,
        surroundings: &mut impl Surroundings,
    ) -> Result<bool, Fatal> {
        if let Some(front) = &mut self.front {
            front.begin_turn(now, unix_ms);
        }
        let mut worked = self.take_incoming(now, unix_ms, surroundings);
        if let Some(shard) = &mut self.shard {
            worked |= shard.receive(now);
            shard.advance(now, unix_ms);
        }
        worked |= self.route_notices(surroundings);
        // Before the front's turn, which sends the 250s: a mail is ready before its client knows.
        worked |= self.route_commands(unix_ms, surroundings);
        if let Some(front) = &mut self.front {
            worked |= front.turn(now, unix_ms, || surroundings.now());
        }
        worked |= self.route_commands(unix_ms, surroundings);
        if let Some(shard) = &mut self.shard {
            shard.advance(now, unix_ms);
            while let Some(errand) = shard.poll_register() {
                surroundings.ask_register(errand)?;
            }
            if let Some(why) = shard.poll_fatal() {
                error!(why, "stopping at once");
                return Err(Fatal(why));
            }
            shard.flush(now);
        }
        worked |= self.route_notices(surroundings);
        Ok(worked)
    }

    /// Works by other settings from now on, which differ from those before in nothing that only a
    /// start can change (see [`Settings::fixed_differences`]).
    pub fn reconfigure(&mut self, now: Instant, settings: &Settings) {
        if let Some(front) = &mut self.front {
            front.reconfigure(&settings.reception, &settings.delivery, &settings.reports);
        }
        if let Some(shard) = &mut self.shard {
            shard.reconfigure(settings.units());
            shard.reconfigure_servers(now, &settings.links, &settings.cohorts());
        }
    }

    /// When the next turn is due, if nothing comes in before. A time in the past: at once.
    pub fn next_deadline(&self, now: Instant, unix_ms: u64) -> Option<Instant> {
        let front = self.front.as_ref().and_then(Front::next_deadline);
        let mut shard = None;
        if let Some((deadline, due)) = self.shard.as_ref().map(|shard| shard.next_deadline(now)) {
            let after = |due: u64| now + Duration::from_millis(due.saturating_sub(unix_ms));
            shard = deadline.into_iter().chain(due.map(after)).min();
        }
        front.into_iter().chain(shard).min()
    }

    fn take_incoming(
        &mut self,
        now: Instant,
        unix_ms: u64,
        surroundings: &mut impl Surroundings,
    ) -> bool {
        let mut worked = false;
        for _ in 0..PARCELS_PER_TURN {
            let Some(parcel) = surroundings.receive() else { break };
            worked = true;
            match parcel {
                Parcel::Command(command) => self.local_shard().handle_command(unix_ms, command),
                Parcel::Notice(notice) => {
                    self.local_front().handle_notice(notice, surroundings.now());
                }
            }
        }
        while let Some((cohort, answer)) = surroundings.poll_register() {
            worked = true;
            self.local_shard().handle_register(now, cohort, answer);
        }
        worked
    }

    fn route_notices(&mut self, surroundings: &mut impl Surroundings) -> bool {
        let mut worked = false;
        while let Some((front, notice)) = self.shard.as_mut().and_then(Shard::poll_notice) {
            worked = true;
            let worker = self.places.front_workers[usize::from(front)];
            if worker == self.number {
                self.local_front().handle_notice(notice, surroundings.now());
            } else {
                surroundings.send(worker, Parcel::Notice(notice));
            }
        }
        worked
    }

    fn route_commands(&mut self, unix_ms: u64, surroundings: &mut impl Surroundings) -> bool {
        let mut worked = false;
        while let Some(command) = self.front.as_mut().and_then(Front::poll_command) {
            worked = true;
            let worker = self.places.shard_workers[command.queue().0 as usize];
            if worker == self.number {
                self.local_shard().handle_command(unix_ms, command);
            } else {
                surroundings.send(worker, Parcel::Command(command));
            }
        }
        worked
    }

    fn local_front(&mut self) -> &mut Front<F> {
        self.front.as_mut().expect("notices go to workers with a front")
    }

    fn local_shard(&mut self) -> &mut Shard<L> {
        self.shard.as_mut().expect("commands go to workers with a shard")
    }
}

/// Parcels that one turn takes in at most, so that a busy neighbour does not keep it. The rest waits for the
/// next turn.
pub const PARCELS_PER_TURN: usize = 4096;

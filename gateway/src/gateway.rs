//! A whole gateway: its threads, made from its settings.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use tcpstack::{
    KernelOptions, KernelTransport, LinkTransport, OpenLinks, pin_current_thread,
    raise_descriptor_limit, return_large_blocks,
};
use tracing::{info, warn};

use crate::board::Board;
use crate::front::Front;
use crate::register::{self, RegisterThread, WriterId};
use crate::replication::record::RegisterAnswer;
use crate::settings::{self, SESSIONS_MAX, Settings};
use crate::shard::Shard;
use crate::turn::{Drivers, Fatal, Places};
use crate::worker::{RegisterAnswers, Rings, Shared, Worker};

/// Connections that delivery may have beside the sessions.
const OTHER_CONNECTIONS_MAX: usize = 16_384;

/// Descriptors beside the sessions, as a gateway with a thousand queues needs them: two idle connections for each.
const OTHER_DESCRIPTORS: usize = 2560;

/// Contents of this size are given back to the system when they leave, so that memory stays within
/// its budget when mail of all sizes comes and goes.
const LARGE_BLOCK_BYTES: u32 = 1 << 20;

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    board: Arc<Board>,
    threads: Vec<JoinHandle<Result<(), Fatal>>>,
    /// Ends after the workers, which call it, and does not wait for a register that hangs.
    register: RegisterThread,
}

/// What runs on one thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Its front, by number.
    pub front: Option<u16>,
    /// Its shard, by number.
    pub shard: Option<usize>,
}

impl Gateway {
    /// Starts all threads, over links that were opened for these settings. The seed must not be guessable.
    ///
    /// # Errors
    /// If the register cannot be opened, or sockets or threads cannot be made.
    pub fn start(settings: &Settings, links: OpenLinks, seed: u64) -> io::Result<Gateway> {
        let mut random = fastrand::Rng::with_seed(seed);
        let register = register::open(&settings.register, WriterId(random.u64(..)))?;
        let board = Arc::new(settings.board());
        let plans = plan(settings.threads.drivers);
        let fronts = plans.iter().filter(|plan| plan.front.is_some()).count();
        let descriptors = raise_descriptors();
        let lingering_max = lingering_within(descriptors.unwrap_or(usize::MAX), fronts);
        let built = Built::new(settings, &plans, links, &board, lingering_max, &mut random)?;
        return_large_blocks(LARGE_BLOCK_BYTES);
        if let Some(limit) = descriptors {
            let sessions_max = sessions_within(limit, fronts);
            if sessions_max < settings.reception.sessions_max {
                let needed = settings.reception.sessions_max * fronts + OTHER_DESCRIPTORS;
                let advice = "too few descriptors for `sessions_max`: raise RLIMIT_NOFILE";
                warn!(limit, needed, sessions_max, "{advice}");
            }
            board.set_sessions_max(sessions_max);
        }
        let shared = Arc::new(built.shared);
        let answers = built.answers;
        let waking = shared.clone();
        let register = RegisterThread::start(register, move |asker, answer| {
            // A worker that has left does not need its answer.
            let _ = answers[asker.worker].send((asker.cohort, answer));
            waking.wake(asker.worker);
        })?;
        let mut threads = Vec::new();
        for (number, parts) in built.parts.into_iter().enumerate() {
            let (front, shard, places) = (parts.front, parts.shard, built.places.clone());
            let worker = Worker {
                drivers: Drivers { number, front, shard, places },
                rings: parts.rings,
                shared: shared.clone(),
                register: register.caller(),
                register_answers: RegisterAnswers::new(parts.register_answers),
                spin: settings.threads.spin,
                changes_seen: 0,
                status_told: 0,
            };
            let core = settings.threads.cores.get(number).copied();
            threads.push(spawn(worker, core, shared.clone())?);
        }
        info!(
            name = settings.name,
            threads = threads.len(),
            queues = settings.queues.len(),
            "the gateway has started"
        );
        Ok(Gateway { shared, board, threads, register })
    }

    /// Something that can make it stop, from any thread.
    pub fn stopper(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// What promises are made from, to move its bounds and switches.
    pub fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// Whether every thread has ended.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits until every thread has ended.
    ///
    /// # Errors
    /// The first thread's [`Fatal`] that there was.
    pub fn join(self) -> Result<(), Fatal> {
        let mut result = Ok(());
        for thread in self.threads {
            let ended = thread.join().unwrap_or_else(|_| Err(Fatal::panic()));
            result = result.and(ended);
        }
        drop(self.register);
        result
    }
}

/// All workers' parts, before their threads start.
struct Built {
    parts: Vec<Parts>,
    places: Places,
    shared: Shared,
    answers: Vec<Sender<(usize, RegisterAnswer)>>,
}

struct Parts {
    front: Option<Front<KernelTransport>>,
    shard: Option<Shard<LinkTransport>>,
    rings: Rings,
    register_answers: std::sync::mpsc::Receiver<(usize, RegisterAnswer)>,
}

impl Built {
    fn new(
        settings: &Settings,
        plans: &[Plan],
        links: OpenLinks,
        board: &Arc<Board>,
        lingering_max: usize,
        random: &mut fastrand::Rng,
    ) -> io::Result<Built> {
        let fronts = plans.iter().filter(|plan| plan.front.is_some()).count();
        let shards = plans.iter().filter(|plan| plan.shard.is_some()).count();
        let fronts_u16 = u16::try_from(fronts).expect("bounded by the configuration");
        let steering = links.steering;
        let mut links = links.transports.into_iter();
        let mut wakers = Vec::new();
        let mut answers = Vec::new();
        let mut parts = Vec::new();
        for (plan, rings) in plans.iter().zip(Rings::between(plans.len())) {
            let mut waker = None;
            let mut front = None;
            if let Some(number) = plan.front {
                let transport = smtp_transport(fronts > 1, lingering_max)?;
                waker = Some(transport.waker());
                let config = settings.front(number, fronts_u16, random.u64(..));
                front = Some(Front::new(&config, transport, board.clone()));
            }
            let mut shard = None;
            if let Some(number) = plan.shard {
                let transport = links.next().expect("one for each thread that has links");
                waker = waker.or_else(|| Some(transport.waker()));
                let config = settings.shard(number, shards, fronts_u16, random.u64(..));
                shard = Some(Shard::new(transport, config, board.clone()));
            }
            wakers.push(waker.expect("a worker has a front or a shard"));
            let (sender, register_answers) = channel();
            answers.push(sender);
            parts.push(Parts { front, shard, rings, register_answers });
        }
        let places = places(settings, plans);
        let shared = Shared::new(wakers, fronts).with_steering(steering);
        Ok(Built { parts, places, shared, answers })
    }
}

/// Which worker has what.
pub fn places(settings: &Settings, plans: &[Plan]) -> Places {
    let shards = plans.iter().filter_map(|plan| plan.shard).count();
    let fronts = plans.iter().filter_map(|plan| plan.front).count();
    let worker_of = |matches: &dyn Fn(&Plan) -> bool| {
        plans.iter().position(matches).expect("each front and shard has a worker")
    };
    let shard_of_queues = settings.shard_of_queues(shards);
    let shard_workers = shard_of_queues.iter().map(|it| worker_of(&|plan| plan.shard == Some(*it)));
    let front_workers =
        (0..fronts).map(|it| worker_of(&|plan| plan.front.map(usize::from) == Some(it)));
    Places { shard_workers: shard_workers.collect(), front_workers: front_workers.collect() }
}

/// What runs on each thread, by its number.
pub fn plan(drivers: settings::Drivers) -> Vec<Plan> {
    let front = |number: usize| Some(u16::try_from(number).expect("bounded by the configuration"));
    match drivers {
        settings::Drivers::Merged { workers } => {
            (0..workers).map(|it| Plan { front: front(it), shard: Some(it) }).collect()
        }
        settings::Drivers::Split { link_workers, smtp_workers } => {
            let shards = (0..link_workers).map(|it| Plan { front: None, shard: Some(it) });
            let fronts = (0..smtp_workers).map(|it| Plan { front: front(it), shard: None });
            shards.chain(fronts).collect()
        }
    }
}

/// Raises the bound of descriptors as far as the system lets us, and returns what it is then.
fn raise_descriptors() -> Option<usize> {
    raise_descriptor_limit()
        .inspect_err(|error| warn!(%error, "the bound of descriptors cannot be raised"))
        .ok()
        .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many sessions each front may have with so many descriptors, so that clients alone never
/// keep delivery and links from theirs: the others get what they may need, half of all at most.
fn sessions_within(descriptors: usize, fronts: usize) -> usize {
    let others = OTHER_DESCRIPTORS.min(descriptors / 2);
    ((descriptors - others) / fronts.max(1)).max(1)
}

/// How many connections of each front may linger when they are over, so that clients that come and are
/// sent away do not keep the others from their descriptors either.
fn lingering_within(descriptors: usize, fronts: usize) -> usize {
    (OTHER_DESCRIPTORS / 2).min(descriptors / 8) / fronts.max(1)
}

fn smtp_transport(reuse_port: bool, lingering_max: usize) -> io::Result<KernelTransport> {
    KernelTransport::new(KernelOptions {
        lingering_max,
        // Reception keeps its own bound, which may be raised while it runs.
        connections_max: SESSIONS_MAX + OTHER_CONNECTIONS_MAX,
        reuse_port,
        ..KernelOptions::default()
    })
}

fn spawn(
    worker: Worker,
    core: Option<usize>,
    shared: Arc<Shared>,
) -> io::Result<JoinHandle<Result<(), Fatal>>> {
    let number = worker.drivers.number;
    Builder::new().name(format!("worker-{number}")).spawn(move || {
        if let Some(core) = core
            && let Err(error) = pin_current_thread(core)
        {
            warn!(worker = number, core, %error, "the thread is not pinned");
        }
        let mut watch = Watch { shared, has_ended_well: false };
        let result = worker.run();
        watch.has_ended_well = result.is_ok();
        result
    })
}

/// A worker that ends by an error or a panic takes the others with it.
struct Watch {
    shared: Arc<Shared>,
    has_ended_well: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.has_ended_well {
            self.shared.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_leave_descriptors_for_the_others() {
        let enough = 10_000 + OTHER_DESCRIPTORS;
        let table = [
            ((enough, 1), 10_000),
            ((enough, 4), 2500),
            ((200, 1), 100),
            ((200, 0), 100),
            ((201, 2), 50),
            ((2, 4), 1),
            ((usize::MAX, 1), usize::MAX - OTHER_DESCRIPTORS),
        ];
        for ((descriptors, fronts), sessions) in table {
            assert_eq!(sessions_within(descriptors, fronts), sessions, "{descriptors} {fronts}");
            let used = fronts * (sessions + lingering_within(descriptors, fronts));
            let left = OTHER_DESCRIPTORS.min(descriptors / 2) / 2;
            assert!(
                descriptors < fronts * 2 || descriptors - used >= left,
                "{descriptors} {fronts}"
            );
        }
    }
}

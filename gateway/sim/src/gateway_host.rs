//! A gateway on its host: its workers take turns, and what they pass to each other lies here.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use fastrand::Rng;
use gateway::board::Board;
use gateway::front::Front;
use gateway::gateway::{places, plan};
use gateway::link::LinkCounters;
use gateway::message::QueueIndex;
use gateway::replication::cohort::{CohortCounters, Unit};
use gateway::replication::record::RegisterAnswer;
use gateway::settings::Settings;
use gateway::shard::{RegisterErrand, Shard};
use gateway::status::QueueStatus;
use gateway::turn::{Drivers, Fatal, Parcel, Surroundings};
use kvs_proto::Epoch;
use tcpstack::{Instant, SimNetwork, SimTransport};

use crate::sabotage::Saboteur;
use crate::scenario::SERVER_NAMES;
use crate::transport::{HostTransport, LinkOptions, ports_of_worker};

/// One life of a gateway.
#[derive(Debug)]
pub struct GatewayHost {
    workers: Vec<Drivers<SimTransport, HostTransport>>,
    post: Post,
    board: Arc<Board>,
    /// By worker: settings that it takes in at its next turn.
    settings: Vec<Option<Arc<Settings>>>,
}

/// What lies between the workers, and between them and the register.
#[derive(Debug, Default)]
struct Post {
    /// Parcels by the worker that they are for.
    parcels: Vec<VecDeque<Parcel>>,
    /// The register's answers, likewise: the cohort and what.
    answers: Vec<VecDeque<(usize, RegisterAnswer)>>,
    /// Calls for the register, with the worker that asks.
    errands: VecDeque<(usize, RegisterErrand)>,
    saboteur: Option<Saboteur>,
}

/// The post as one worker sees it.
struct Counter<'p> {
    worker: usize,
    /// A turn takes no time, only what follows it.
    now: Instant,
    post: &'p mut Post,
}

impl GatewayHost {
    /// Starts all workers on the host with these addresses: SMTP is at the first one.
    pub fn start(
        network: &SimNetwork,
        addresses: &[IpAddr],
        links: &LinkOptions,
        settings: &Settings,
        rng: &mut Rng,
        saboteur: Option<Saboteur>,
    ) -> GatewayHost {
        let board = Arc::new(settings.board());
        let plans = plan(settings.threads.drivers);
        let places = places(settings, &plans);
        let fronts = places.front_workers.len();
        let shards = plans.iter().filter(|plan| plan.shard.is_some()).count();
        let fronts = u16::try_from(fronts).expect("few fronts");
        let mut workers = Vec::new();
        for (number, plan) in plans.iter().enumerate() {
            let front = plan.front.map(|it| {
                let config = settings.front(it, fronts, rng.u64(..));
                Front::new(&config, network.host(addresses[0]), board.clone())
            });
            let shard = plan.shard.map(|it| {
                let config = settings.shard(it, shards, fronts, rng.u64(..));
                let ports = ports_of_worker(number);
                let transport = HostTransport::open(network, links, addresses, &ports, rng);
                Shard::new(transport, config, board.clone())
            });
            workers.push(Drivers { number, front, shard, places: places.clone() });
        }
        let count = workers.len();
        let post = Post {
            parcels: std::iter::repeat_with(VecDeque::new).take(count).collect(),
            answers: std::iter::repeat_with(VecDeque::new).take(count).collect(),
            errands: VecDeque::new(),
            saboteur,
        };
        GatewayHost { workers, post, board, settings: vec![None; count] }
    }

    /// Has the gateway work by other settings: each worker from its next turn on.
    ///
    /// # Panics
    /// If only a start could change what differs.
    pub fn reconfigure(&mut self, from: &Settings, to: &Settings) {
        assert!(to.fixed_differences(from).is_empty(), "a reload would refuse this");
        to.change_board(from, &self.board);
        self.settings.fill(Some(Arc::new(to.clone())));
    }

    /// How many workers there are.
    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// One turn of a worker.
    ///
    /// # Errors
    /// [`Fatal`]: the process stops.
    pub fn turn(&mut self, worker: usize, now: Instant, unix_ms: u64) -> Result<(), Fatal> {
        if let Some(settings) = self.settings[worker].take() {
            self.workers[worker].reconfigure(now, &settings);
        }
        let mut counter = Counter { worker, now, post: &mut self.post };
        self.workers[worker].turn(now, unix_ms, &mut counter).map(drop)
    }

    /// When a worker's next turn is due.
    pub fn next_deadline(&self, worker: usize, now: Instant, unix_ms: u64) -> Option<Instant> {
        let waiting =
            !self.post.parcels[worker].is_empty() || !self.post.answers[worker].is_empty();
        if waiting || self.settings[worker].is_some() {
            return Some(now);
        }
        self.workers[worker].next_deadline(now, unix_ms)
    }

    /// The next call for the register, and the worker that asks.
    pub fn poll_errand(&mut self) -> Option<(usize, RegisterErrand)> {
        self.post.errands.pop_front()
    }

    /// The register's answer to a worker's call.
    pub fn handle_answer(&mut self, worker: usize, cohort: usize, answer: RegisterAnswer) {
        self.post.answers[worker].push_back((cohort, answer));
    }

    /// A queue with its copies.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn unit(&self, queue: QueueIndex) -> &Unit {
        let shards = self.workers.iter().filter_map(|worker| worker.shard.as_ref());
        let mut units = shards.filter_map(|shard| shard.unit(queue));
        units.next().expect("each queue has a shard")
    }

    /// The epoch of the ownership of a queue.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn epoch(&self, queue: QueueIndex) -> Epoch {
        let mut shards = self.workers.iter().filter_map(|worker| worker.shard.as_ref());
        shards.find_map(|shard| shard.epoch(queue)).expect("each queue has a shard")
    }

    /// Whether the gateway can do without a server, as far as its workers know by the newest settings: no record
    /// names it, and it is not being filled.
    pub fn can_do_without(&self, server: &str, now: Instant, unix_ms: u64) -> bool {
        let shards = self.workers.iter().filter_map(|worker| worker.shard.as_ref());
        let mut queues = shards.flat_map(|shard| shard.status(now, unix_ms));
        let has_copy =
            |queue: &QueueStatus| queue.copies.iter().any(|it| it.kvs == server && it.is_in_use());
        self.settings.iter().all(Option::is_none)
            && queues.all(|queue| queue.knows_record() && !has_copy(&queue))
    }

    /// The server that is a member of the queue's cohort, by its place there.
    ///
    /// # Panics
    /// If there is no such queue or member.
    pub fn server_of(&self, queue: QueueIndex, member: usize) -> usize {
        let mut shards = self.workers.iter().filter_map(|worker| worker.shard.as_ref());
        let name = shards.find_map(|shard| shard.server_of(queue, member));
        let name = name.expect("a member of a queue's cohort");
        SERVER_NAMES.iter().position(|it| *it == name).expect("one of the servers")
    }

    /// Whether any front listens for mail.
    pub fn has_ports_open(&self) -> bool {
        let mut fronts = self.workers.iter().filter_map(|worker| worker.front.as_ref());
        fronts.any(|front| !front.local_addresses().is_empty())
    }

    /// What each shard's links with two paths have been through.
    pub fn link_counters(&self) -> impl Iterator<Item = LinkCounters> {
        self.workers.iter().filter_map(|it| it.shard.as_ref()).flat_map(Shard::link_counters)
    }

    /// How often a server's copies were isolated.
    pub fn isolations(&self) -> u64 {
        self.cohort_counters().isolations
    }

    /// What its cohorts did.
    pub fn cohort_counters(&self) -> CohortCounters {
        let shards = self.workers.iter().filter_map(|it| it.shard.as_ref());
        shards.fold(CohortCounters::default(), |sum, shard| {
            let CohortCounters { committed_degraded, isolations, fills, repairs, recovered } =
                shard.counters().cohorts;
            CohortCounters {
                committed_degraded: sum.committed_degraded + committed_degraded,
                isolations: sum.isolations + isolations,
                fills: sum.fills + fills,
                repairs: sum.repairs + repairs,
                recovered: sum.recovered + recovered,
            }
        })
    }

    /// The budgets.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Takes the saboteur out, who outlives the process.
    pub fn take_saboteur(&mut self) -> Option<Saboteur> {
        self.post.saboteur.take()
    }
}

impl Surroundings for Counter<'_> {
    fn send(&mut self, to: usize, parcel: Parcel) {
        match &mut self.post.saboteur {
            None => self.post.parcels[to].push_back(parcel),
            Some(saboteur) => {
                for (to, parcel) in saboteur.pass(self.worker, to, parcel) {
                    self.post.parcels[to].push_back(parcel);
                }
            }
        }
    }

    fn receive(&mut self) -> Option<Parcel> {
        self.post.parcels[self.worker].pop_front()
    }

    fn ask_register(&mut self, errand: RegisterErrand) -> Result<(), Fatal> {
        self.post.errands.push_back((self.worker, errand));
        Ok(())
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn poll_register(&mut self) -> Option<(usize, RegisterAnswer)> {
        self.post.answers[self.worker].pop_front()
    }
}

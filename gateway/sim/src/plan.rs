//! What goes wrong, and when: drawn from the seed before the run.

mod connections;
mod nodes;
mod servers;
mod take_overs;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;
use loadgen::sink::{Fault as SinkFault, Faults as SinkFaults, Phase};
use tcpstack::{Instant, SimAttempts, SimPath};

use crate::register::Outage;
use crate::sabotage::Sabotage;
use crate::scenario::{
    FaultLevel, GATEWAY_SMTP, Options, PATHS, SERVERS, SINK, Scenario, ends, sender_host,
};

pub use nodes::Node;
pub use servers::ServerWork;
pub use take_overs::Trouble;

/// One thing that happens to the world.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fault {
    /// The gateway dies, and returns after a while.
    GatewayCrash {
        /// How.
        how: Crash,
        /// How long it is gone.
        gone: Duration,
    },
    /// The gateway starts (again).
    GatewayReturn,
    /// A server dies, and returns empty after a while.
    ServerCrash {
        /// Which.
        server: usize,
        /// How.
        how: Crash,
        /// How long it is gone.
        gone: Duration,
    },
    /// A server starts (again), empty.
    ServerReturn {
        /// Which.
        server: usize,
    },
    /// A server dies and never returns. Only if there is a spare.
    ServerDeath {
        /// Which.
        server: usize,
        /// How.
        how: Crash,
    },
    /// A node's processor is busy with something else for a while: each turn of a process takes up to
    /// so long.
    SlowNode {
        /// Which.
        node: Node,
        /// How long a turn takes at most.
        turn: Duration,
        /// How long it lasts.
        lasts: Duration,
    },
    /// All connections between two hosts are reset.
    Reset(IpAddr, IpAddr),
    /// Nothing gets from one host to the other for a while; both ways, or only the first.
    Partition {
        /// From here,
        from: IpAddr,
        /// to there,
        to: IpAddr,
        /// and back.
        both_ways: bool,
        /// How long.
        lasts: Duration,
    },
    /// A partition ends.
    Heal(IpAddr, IpAddr),
    /// What goes from one host to another takes longer for a while.
    Slow {
        /// From here,
        from: IpAddr,
        /// to there.
        to: IpAddr,
        /// How long it takes.
        path: SimPath,
        /// How long it lasts.
        lasts: Duration,
    },
    /// A path is as it was.
    Quicken(IpAddr, IpAddr),
    /// The operator has the gateway take in another configuration of a queue for a while.
    Reload {
        /// Which queue, by its place modulo their number.
        queue: u32,
        /// What is other.
        change: QueueChange,
        /// How long.
        lasts: Duration,
    },
    /// A queue is configured as at the beginning again.
    Restore {
        /// Which queue, by its place modulo their number.
        queue: u32,
    },
    /// The operator works on servers.
    Servers(ServerWork),
    /// Something is wrong with the register for a while.
    Register {
        /// What.
        outage: Outage,
        /// How long.
        lasts: Duration,
    },
    /// A process is stopped for a while, as by SIGSTOP: its host's kernel goes on.
    Pause {
        /// Whose.
        node: Node,
        /// How long.
        lasts: Duration,
    },
    /// A host is suspended for a while: neither its process nor its kernel goes on, and its clocks do.
    Suspend {
        /// Which.
        node: Node,
        /// How long.
        lasts: Duration,
    },
    /// It wakes up.
    WakeUp(Node),
    /// All connections between two hosts are lost, and nobody is told.
    Lose(IpAddr, IpAddr),
    /// Attempts to connect, anywhere, are lost or late, or answered late, for a while.
    Attempts {
        /// What becomes of them.
        fate: SimAttempts,
        /// How long.
        lasts: Duration,
    },
    /// Attempts to connect are as they were.
    AttemptsEnd,
    /// Somebody sets the wall clock of the gateway's host at a place.
    ClockStep {
        /// Which.
        place: usize,
        /// By how many milliseconds, forwards or back.
        by_ms: i64,
    },
    /// The gateway is in trouble for a while, and another one of the same name is started on another host.
    TakeOver {
        /// What trouble.
        trouble: Trouble,
        /// How long it lasts.
        lasts: Duration,
        /// When the other one starts.
        after: Duration,
    },
    /// That other one starts.
    SuccessorStart,
    /// When the gateway next asks the register to drop a server, it dies before the answer comes,
    /// and the other server with it.
    Ambush,
}

/// What an operator changes about a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueChange {
    /// Receipt is suspended.
    Receipt,
    /// Sending is suspended.
    Sending,
    /// At most so many messages a second are sent.
    Rate(NonZeroU32),
    /// At most so many messages are held, and 100 KiB for each.
    Bounds(u64),
}

/// How a process dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// As by SIGKILL: its host's kernel closes the connections.
    Process,
    /// With its host: nobody says anything.
    Host,
}

/// The faults that are still to come.
#[derive(Debug, Default)]
pub struct Plan {
    coming: BTreeMap<(Instant, u64), Fault>,
    scheduled: u64,
    /// Faults are injected until then. What was begun before is ended after it.
    pub end: Instant,
    /// What the next hop does wrong until then.
    pub sink: SinkFaults,
}

impl Plan {
    /// Draws the faults of a run that begins then.
    pub fn draw(options: &Options, begin: Instant, scenario: &Scenario, rng: &mut Rng) -> Plan {
        let Scenario { load_time, servers, .. } = *scenario;
        let mut plan = Plan { end: begin + load_time, ..Plan::default() };
        match options.faults {
            FaultLevel::None => return plan,
            FaultLevel::Paths => {
                plan.add_path_faults_in_turn(begin, servers, options.seed);
                // What the operator does about servers keeps no mail waiting either.
                plan.add_server_work(begin, scenario, options.seed);
                return plan;
            }
            FaultLevel::TakeOvers => {
                plan.add_take_overs(begin, scenario, options);
                if options.sabotage.is_none() {
                    plan.add_pauses(begin, scenario, options.seed);
                }
                return plan;
            }
            FaultLevel::Crashes | FaultLevel::All => {}
        }
        // In the middle, so that something is under way at each of them.
        let within = |rng: &mut Rng, from: u64, to: u64| {
            begin + load_time * u32::try_from(rng.u64(from..=to)).expect("percent") / 100
        };
        let crash = gateway_crash(rng);
        plan.add(within(rng, 15, 45), crash);
        let crash = server_crash(options, servers, rng);
        plan.add(within(rng, 20, 70), crash);
        if options.faults == FaultLevel::All {
            for _ in 0..rng.u32(0..=2) {
                let crash = gateway_crash(rng);
                plan.add(within(rng, 10, 95), crash);
            }
            for _ in 0..rng.u32(0..=2) {
                let crash = server_crash(options, servers, rng);
                plan.add(within(rng, 10, 95), crash);
            }
            if rng.bool() {
                plan.add_double_crash(within(rng, 10, 90), options, servers, rng);
            }
            if rng.bool() {
                plan.add_ambush(within(rng, 10, 80), servers, rng);
            }
            for _ in 0..rng.u32(2..=12) {
                let fault = network_fault(servers, rng);
                plan.add(within(rng, 5, 95), fault);
            }
            plan.sink = sink_faults(rng);
            if options.sabotage.is_none() {
                plan.sink = nodes::sink_faults_everywhere(plan.sink, options.seed);
                plan.add_outages(begin, load_time, options.seed);
                plan.add_node_faults(begin, scenario, options.seed);
                plan.add_server_work(begin, scenario, options.seed);
                plan.add_pauses(begin, scenario, options.seed);
                plan.add_connection_faults(begin, scenario, options.seed);
                plan.add_clock_steps(begin, scenario, options.seed);
                plan.add_take_overs(begin, scenario, options);
            }
            if scenario.has_standby {
                plan.add_path_faults(begin, scenario, options.seed);
            }
        }
        if options.sabotage.is_none() {
            plan.add_reloads(begin, load_time, options.seed);
        }
        plan
    }

    /// The operator at work. By draws of its own, so that other faults stay what they are.
    fn add_reloads(&mut self, begin: Instant, load_time: Duration, seed: u64) {
        let mut rng = Rng::with_seed(seed ^ RELOADS);
        for _ in 0..rng.u32(0..=6) {
            let at = begin + load_time * rng.u32(5..=95) / 100;
            let change = match rng.u8(0..4) {
                0 => QueueChange::Receipt,
                1 => QueueChange::Sending,
                2 => QueueChange::Rate(NonZeroU32::MIN.saturating_add(rng.u32(0..=30))),
                _ => QueueChange::Bounds(rng.u64(1..=50)),
            };
            let lasts = Duration::from_millis(rng.u64(10..=3000));
            self.add(at, Fault::Reload { queue: rng.u32(..), change, lasts });
        }
    }

    /// The register fails, also just when a process dies and the record has to change. By draws of
    /// its own, so that other faults stay what they are.
    fn add_outages(&mut self, begin: Instant, load_time: Duration, seed: u64) {
        let mut rng = Rng::with_seed(seed ^ OUTAGES);
        let is_crash =
            |fault: &Fault| matches!(fault, Fault::GatewayCrash { .. } | Fault::ServerCrash { .. });
        let crashes = self.coming.iter().filter(|(_, fault)| is_crash(fault));
        let crashes = crashes.map(|(&(at, _), _)| at).collect::<Vec<_>>();
        for _ in 0..rng.u32(0..=4) {
            let at = match rng.choice(crashes.iter()) {
                Some(crash) if rng.bool() => *crash,
                _ => begin + load_time * rng.u32(5..=95) / 100,
            };
            let outage = match rng.u8(0..4) {
                0 => Outage::Unreachable,
                1 => Outage::AnswersLost,
                2 => Outage::Slow,
                _ => Outage::Mixed,
            };
            let lasts = Duration::from_millis(rng.u64(100..=4000));
            self.add(at, Fault::Register { outage, lasts });
        }
    }

    /// Faults of both segments beside all others. By draws of its own, like the operator's.
    fn add_path_faults(&mut self, begin: Instant, scenario: &Scenario, seed: u64) {
        let Scenario { load_time, servers, .. } = *scenario;
        let mut rng = Rng::with_seed(!seed ^ PATHS);
        for _ in 0..rng.u32(1..=8) {
            let at = begin + load_time * rng.u32(5..=95) / 100;
            let segment = rng.usize(0..2);
            self.add_path_fault(at, segment, servers, &mut rng);
        }
    }

    /// Faults of one segment, then of the other, and so on, with time between to come back.
    fn add_path_faults_in_turn(&mut self, begin: Instant, servers: usize, seed: u64) {
        let mut rng = Rng::with_seed(!seed ^ PATHS);
        let mut at = begin + Duration::from_millis(rng.u64(1000..=2000));
        let mut segment = rng.usize(0..2);
        while at < self.end {
            let mut over_at = at;
            for _ in 0..rng.u32(1..=3) {
                let again = at + Duration::from_millis(rng.u64(0..=1500));
                let lasts = self.add_path_fault(again, segment, servers, &mut rng);
                over_at = over_at.max(again + lasts);
            }
            at = over_at + Duration::from_millis(rng.u64(0..=500));
            if rng.bool() {
                segment = 1 - segment;
                at += PATH_RETURN_MAX;
            }
        }
        self.end = self.end.max(at);
    }

    /// Something happens to a segment, on the way to one server or to all; returns how long it
    /// lasts.
    fn add_path_fault(
        &mut self,
        at: Instant,
        segment: usize,
        servers: usize,
        rng: &mut Rng,
    ) -> Duration {
        let servers = match rng.usize(0..=servers) {
            all if all == servers => 0..servers,
            one => one..one + 1,
        };
        let kind = rng.u8(0..6);
        let turned = rng.bool();
        let lasts = Duration::from_millis(rng.u64(20..=3000));
        let delay = Duration::from_millis(rng.u64(1..=150));
        for server in servers {
            let [mut from, mut to] = ends(segment, server);
            if turned {
                (from, to) = (to, from);
            }
            let fault = match kind {
                0 => Fault::Reset(from, to),
                1 | 2 => Fault::Partition { from, to, both_ways: true, lasts },
                3 | 4 => Fault::Partition { from, to, both_ways: false, lasts },
                _ => Fault::Slow { from, to, path: SimPath { delay, jitter: delay }, lasts },
            };
            self.add(at, fault);
        }
        lasts
    }

    /// One server hears late of what is stored; meanwhile the gateway and the other server die
    /// together. What was promised must be at the late one.
    fn add_double_crash(&mut self, at: Instant, options: &Options, servers: usize, rng: &mut Rng) {
        let crash = server_crash(options, servers, rng);
        let Fault::ServerCrash { server, .. } = crash else { unreachable!("that is what it is") };
        let (from, to) = (GATEWAY_SMTP.ip(), SERVERS[(server + 1) % servers].ip());
        let delay = Duration::from_millis(rng.u64(50..=300));
        let path = SimPath { delay, jitter: Duration::from_millis(1) };
        self.add(at, Fault::Slow { from, to, path, lasts: Duration::from_secs(2) });
        let later = at + Duration::from_millis(rng.u64(300..=800));
        self.add(later, gateway_crash(rng));
        self.add(later, crash);
    }

    /// One server is out of reach until it is given up, and just then the others die.
    fn add_ambush(&mut self, at: Instant, servers: usize, rng: &mut Rng) {
        let (from, to) = (GATEWAY_SMTP.ip(), SERVERS[rng.usize(..servers)].ip());
        let lasts = Duration::from_secs(3);
        self.add(at, Fault::Ambush);
        self.add(at, Fault::Partition { from, to, both_ways: true, lasts });
    }

    /// Adds one.
    pub fn add(&mut self, at: Instant, fault: Fault) {
        self.scheduled += 1;
        self.coming.insert((at, self.scheduled), fault);
    }

    /// When the next is due.
    pub fn next_at(&self) -> Option<Instant> {
        self.coming.first_key_value().map(|(&(at, _), _)| at)
    }

    /// The next that is due.
    pub fn poll(&mut self, now: Instant) -> Option<Fault> {
        let entry = self.coming.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    /// Whether nothing is left to come.
    pub fn is_over(&self) -> bool {
        self.coming.is_empty()
    }
}

/// After so long at most a path is there again when nothing is wrong with its segment any more: what
/// was sent is repeated, or the connection is made anew.
const PATH_RETURN_MAX: Duration = Duration::from_secs(4);

/// Makes the draws of reloads differ from the others of their seed.
const RELOADS: u64 = 0x5eed_0f2e_10ad_0000;

/// And those of the register's outages.
const OUTAGES: u64 = 0x5eed_0f00_7a6e_0000;

fn crash(rng: &mut Rng) -> Crash {
    if rng.bool() { Crash::Process } else { Crash::Host }
}

fn gateway_crash(rng: &mut Rng) -> Fault {
    Fault::GatewayCrash { how: crash(rng), gone: Duration::from_millis(rng.u64(50..=2000)) }
}

fn server_crash(options: &Options, servers: usize, rng: &mut Rng) -> Fault {
    let gone = match options.sabotage {
        Some(Sabotage::KeepServerDown) => Duration::from_secs(1_000_000),
        _ => Duration::from_millis(rng.u64(50..=4000)),
    };
    Fault::ServerCrash { server: rng.usize(..servers), how: crash(rng), gone }
}

fn network_fault(servers: usize, rng: &mut Rng) -> Fault {
    let gateway = GATEWAY_SMTP.ip();
    let mut others = vec![SERVERS[0].ip(), SERVERS[1].ip(), SINK.ip(), sender_host(0)];
    others.extend(SERVERS[..servers].iter().skip(2).map(SocketAddr::ip));
    let other = *rng.choice(others.iter()).expect("not empty");
    let (from, to) = if rng.bool() { (gateway, other) } else { (other, gateway) };
    match rng.u8(0..3) {
        0 => Fault::Reset(from, to),
        1 => Fault::Partition {
            from,
            to,
            both_ways: rng.u8(0..3) > 0,
            lasts: Duration::from_millis(rng.u64(20..=3000)),
        },
        _ => {
            let delay = Duration::from_millis(rng.u64(1..=150));
            let path = SimPath { delay, jitter: delay };
            Fault::Slow { from, to, path, lasts: Duration::from_millis(rng.u64(100..=2000)) }
        }
    }
}

fn sink_faults(rng: &mut Rng) -> SinkFaults {
    let mut draw = |most: f64| if rng.bool() { rng.f64() * most } else { 0.0 };
    SinkFaults::default()
        .with(Phase::Rcpt, SinkFault::Transient, draw(0.05))
        .with(Phase::Rcpt, SinkFault::Permanent, draw(0.1))
        .with(Phase::Dot, SinkFault::Transient, draw(0.05))
        .with(Phase::Dot, SinkFault::Permanent, draw(0.1))
        .with(Phase::Rcpt, SinkFault::Closing, draw(0.02))
        .with(Phase::Dot, SinkFault::Hang, draw(0.001))
        .with(Phase::Dot, SinkFault::Drop, draw(0.01))
}

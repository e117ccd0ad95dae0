//! The world: hosts, the network between them, and time.
//!
//! Time moves from one thing that happens to the next. A process takes a turn when something came
//! in for it or a deadline of its has passed; a turn takes a drawn time, in which things gather.
//! Processes that are due at the same instant take turns in a drawn order.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use gateway::replication::record::{Record, RegisterAnswer};
use gateway::settings::Settings;
use kvs::worker::Worker;
use kvs_proto::Incarnation;
use loadgen::ledger::{Bounces, Ledger, Policy};
use loadgen::sink::{Fault as SinkFault, Faults as SinkFaults, Phase, Sink, SinkConfig};
use loadgen::smtp::SmtpLoad;
use tcpstack::{Instant, SimNetwork, SimTransport};

use crate::chronicle::Chronicle;
use crate::gateway_host::GatewayHost;
use crate::kvs_host;
use crate::plan::{Crash, Fault, Node, Plan, QueueChange};
use crate::register::{Outage, SimRegister};
use crate::report::PathCounts;
use crate::sabotage::{Sabotage, Saboteur};
use crate::scenario::{
    FaultLevel, GATEWAY_SMTP, GATEWAY_STANDBY, Options, SERVERS, SINK, STANDBYS, Scenario,
    UNIX_ORIGIN_MS, ends, sender_host, server_name,
};
use crate::watch::PathWatch;

/// All hosts, what connects them, and what goes wrong.
pub struct World {
    /// Its settings are those in force.
    scenario: Scenario,
    /// The settings at the beginning.
    original: Settings,
    rng: Rng,
    network: SimNetwork,
    register: SimRegister,
    gateway: Option<GatewayHost>,
    gateway_life: u64,
    /// What the queues are called at the servers.
    copy_names: Vec<String>,
    /// The queues whose bounds were others for a while.
    reloaded: BTreeSet<usize>,
    /// While the gateway is down.
    saboteur: Option<Saboteur>,
    servers: Vec<Option<Server>>,
    sink: Sink<SimTransport>,
    senders: Vec<SmtpLoad<SimTransport>>,
    ledger: Rc<RefCell<Ledger>>,
    plan: Plan,
    /// How long after a gateway's death the next hop may still get what it had sent.
    in_flight_time_max: Duration,
    /// The gateway and a server are to die when a server is about to be dropped from a record.
    ambush: bool,
    /// The turn that a process is in takes until then.
    busy: BTreeMap<Process, Instant>,
    /// Nodes that are slow: how long a turn takes at most, and until when.
    slow_nodes: Vec<(Node, Duration, Instant)>,
    fault_counts: BTreeMap<&'static str, u64>,
    chronicle: Chronicle,
    fatal: Option<String>,
    turns: u64,
    faults: FaultLevel,
    paths: PathWatch,
}

/// A running backup queue server.
pub struct Server {
    /// Its one worker.
    pub worker: Worker<SimTransport>,
    /// Which life it is.
    pub incarnation: Incarnation,
}

/// Something that takes turns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Process {
    Gateway(usize),
    Server(usize),
    Sink,
    Sender(usize),
}

impl World {
    /// A world in which everything has just been started.
    ///
    /// # Panics
    /// If the scenario's addresses collide.
    pub fn new(options: &Options, chronicle: Chronicle) -> World {
        let mut rng = Rng::with_seed(options.seed);
        let scenario = Scenario::draw(options, &mut rng);
        let network = SimNetwork::new(rng.u64(..), scenario.network.clone());
        network.advance(BEGIN);
        chronicle.set_now(BEGIN);
        chronicle.note(&scenario.summary);
        let plan = Plan::draw(options, BEGIN, &scenario, &mut rng);
        if scenario.has_standby {
            network.host_with(&[GATEWAY_SMTP.ip(), GATEWAY_STANDBY]);
            for (address, standby) in SERVERS.iter().zip(STANDBYS).take(scenario.servers) {
                network.host_with(&[address.ip(), standby.ip()]);
            }
        }
        let ledger = Rc::new(RefCell::new(Ledger::new(policy(options, &scenario))));
        let config = SinkConfig {
            listen: vec![SINK],
            seed: rng.u64(..),
            faults: plan.sink,
            unix_origin_us: UNIX_ORIGIN_MS * 1000,
            ..SinkConfig::default()
        };
        let sink = Sink::open(network.host(SINK.ip()), config, BEGIN, Box::new(ledger.clone()));
        let senders = scenario.senders.iter().enumerate().map(|(place, config)| {
            let transport = network.host(sender_host(place));
            SmtpLoad::new(transport, config.clone(), BEGIN, Box::new(ledger.clone()))
        });
        let sabotage = options.sabotage.filter(|it| *it != Sabotage::KeepServerDown);
        let countdown = u32::try_from(options.mails / 3).unwrap_or(u32::MAX);
        let mut world = World {
            senders: senders.collect(),
            saboteur: sabotage.map(|it| Saboteur::new(it, countdown)),
            sink: sink.expect("the sink's address is its own"),
            // By draws of its own, so that other faults stay what they are.
            register: SimRegister::new(options.seed ^ FATES),
            gateway: None,
            gateway_life: 0,
            copy_names: scenario.copy_names(),
            reloaded: BTreeSet::new(),
            servers: std::iter::repeat_with(|| None).take(scenario.servers).collect(),
            busy: BTreeMap::new(),
            // Only then are there paths that are slow for a while.
            in_flight_time_max: match options.faults {
                FaultLevel::All => LATE,
                FaultLevel::None | FaultLevel::Crashes | FaultLevel::Paths => Duration::ZERO,
            },
            ambush: false,
            slow_nodes: Vec::new(),
            fault_counts: BTreeMap::new(),
            fatal: None,
            turns: 0,
            faults: options.faults,
            paths: PathWatch::default(),
            original: scenario.settings.clone(),
            scenario,
            rng,
            network,
            ledger,
            plan,
            chronicle,
        };
        for server in 0..world.servers.len() {
            world.start_server(server);
        }
        world.start_gateway();
        world
    }

    /// Moves on: lets due processes take a turn, or time pass until something happens, but not
    /// beyond `limit`. Returns whether a process, the register or a fault did anything: what is only on its
    /// way has changed nothing.
    pub fn step(&mut self, limit: Instant) -> bool {
        let now = self.now();
        let mut due = Vec::new();
        let mut next = limit;
        for process in self.processes() {
            let Some(deadline) = self.deadline(process) else { continue };
            let at = deadline.max(self.busy.get(&process).copied().unwrap_or(now));
            if at <= now {
                due.push(process);
            } else {
                next = next.min(at);
            }
        }
        if !due.is_empty() {
            self.rng.shuffle(&mut due);
            for process in due {
                self.take_turn(process);
            }
            return true;
        }
        let others = [self.network.next_event_at(), self.plan.next_at(), self.register.next_at()];
        let next = others.into_iter().flatten().fold(next, Instant::min).max(now);
        self.network.advance(next);
        self.chronicle.set_now(next);
        let swaps = self.register.swaps();
        let mut changed = false;
        while let Some(fault) = self.plan.poll(next) {
            self.inflict(fault);
            changed = true;
        }
        while let Some((worker, cohort, answer)) = self.register.poll(next) {
            if matches!(answer, RegisterAnswer::Failed(_)) {
                *self.fault_counts.entry("register call failed").or_default() += 1;
            }
            let gateway = self.gateway.as_mut().expect("calls of the dead are abandoned");
            gateway.handle_answer(worker, cohort, answer);
        }
        changed || self.register.swaps() != swaps
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.network.now()
    }

    /// The scenario.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The faults to come.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Which life of the gateway the present one is, or the last one was.
    pub fn gateway_life(&self) -> u64 {
        self.gateway_life
    }

    /// What a queue, by its place, is called at the servers.
    pub fn copy_name(&self, queue: usize) -> &str {
        &self.copy_names[queue]
    }

    /// Whether a queue, by its place, ever had other bounds than at the beginning.
    pub fn was_reloaded(&self, queue: usize) -> bool {
        self.reloaded.contains(&queue)
    }

    /// The gateway, if it is up.
    pub fn gateway(&self) -> Option<&GatewayHost> {
        self.gateway.as_ref()
    }

    /// A server, if it is up.
    pub fn server(&self, server: usize) -> Option<&Server> {
        self.servers.get(server)?.as_ref()
    }

    /// The register.
    pub fn register(&self) -> &SimRegister {
        &self.register
    }

    /// The network.
    pub fn network(&self) -> &SimNetwork {
        &self.network
    }

    /// Both ends' accounts.
    pub fn ledger(&self) -> &Rc<RefCell<Ledger>> {
        &self.ledger
    }

    /// Faults that were inflicted, by kind.
    pub fn fault_counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.fault_counts
    }

    /// What the next hop did wrong, by step of the transaction.
    pub fn next_hop_faults(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let wrong = self.sink.done_wrong();
        Phase::ALL.into_iter().map(|phase| {
            let count = SinkFault::ALL.into_iter().map(|fault| wrong.of(phase, fault)).sum();
            (name_of_phase(phase), count)
        })
    }

    /// Turns taken by all processes.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// What goes wrong.
    pub fn faults(&self) -> FaultLevel {
        self.faults
    }

    /// What the links with two paths did so far.
    pub fn path_counts(&self) -> PathCounts {
        self.paths.counts(self.gateway.as_ref())
    }

    /// When a server was isolated although a path reached it, if that happened.
    pub fn unjustified_isolation(&self) -> Option<Instant> {
        self.paths.unjustified_isolation().filter(|_| self.scenario.has_standby)
    }

    /// Looks what the gateway does about paths.
    pub fn watch_paths(&mut self) {
        if let Some(gateway) = &self.gateway {
            let queues = self.scenario.settings.queues.len();
            self.paths.watch(self.network.now(), gateway, queues);
        }
    }

    /// Why the gateway stopped by itself, if it did: it has no reason to.
    pub fn fatal(&self) -> Option<&str> {
        self.fatal.as_deref()
    }

    /// Whether every sender has settled all of its mail.
    pub fn is_load_done(&self) -> bool {
        self.senders.iter().all(|sender| sender.is_done(self.now()))
    }

    /// Ends every fault of the network and of the next hop.
    pub fn end_faults(&mut self) {
        self.chronicle.note("faults end");
        self.network.heal_all();
        let gateway = GATEWAY_SMTP.ip();
        let servers = (0..self.servers.len()).flat_map(|it| [ends(0, it), ends(1, it)]);
        for [one, other] in servers.chain([[gateway, SINK.ip()], [gateway, sender_host(0)]]) {
            self.network.set_path(one, other, None);
            self.network.set_path(other, one, None);
        }
        self.sink.set_faults(SinkFaults::default());
        self.slow_nodes.clear();
        self.register.end_outage();
        for queue in (0..).take(self.original.queues.len()) {
            self.reload(queue, None);
        }
    }

    /// Ends the senders' accounts; mails that they never settled.
    pub fn finish_load(&mut self) -> u64 {
        let now = self.now();
        let senders = std::mem::take(&mut self.senders);
        senders.into_iter().map(|sender| sender.finish(now).unresolved).sum()
    }

    fn processes(&self) -> impl Iterator<Item = Process> + use<> {
        let workers = self.gateway.as_ref().map_or(0, GatewayHost::worker_count);
        let gateway = (0..workers).map(Process::Gateway);
        let up = self.servers.iter().map(Option::is_some).collect::<Vec<_>>();
        let servers = (0..up.len()).filter(move |it| up[*it]).map(Process::Server);
        let senders = (0..self.senders.len()).map(Process::Sender);
        gateway.chain(servers).chain([Process::Sink]).chain(senders)
    }

    fn deadline(&self, process: Process) -> Option<Instant> {
        let now = self.now();
        match process {
            Process::Gateway(worker) => {
                self.gateway.as_ref()?.next_deadline(worker, now, unix_ms(now))
            }
            Process::Server(server) => self.servers[server].as_ref()?.worker.next_deadline(),
            Process::Sink => self.sink.next_deadline(),
            Process::Sender(sender) => self.senders[sender].next_deadline(now),
        }
    }

    fn take_turn(&mut self, process: Process) {
        let now = self.now();
        self.turns += 1;
        let cost = u64::try_from(self.turn_cost_max(process).as_nanos()).expect("short");
        let cost = Duration::from_nanos(self.rng.u64(1000..=cost));
        self.busy.insert(process, now + cost);
        match process {
            Process::Gateway(worker) => self.take_gateway_turn(worker),
            Process::Server(server) => {
                if let Some(server) = &mut self.servers[server] {
                    server.worker.turn(now);
                    server.worker.end_turn(now);
                }
            }
            Process::Sink => _ = self.sink.turn(now),
            Process::Sender(sender) => _ = self.senders[sender].turn(now),
        }
    }

    /// The longest that a turn of the process takes now.
    fn turn_cost_max(&self, process: Process) -> Duration {
        let node = match process {
            Process::Gateway(_) => Node::Gateway,
            Process::Server(server) => Node::Server(server),
            Process::Sink => Node::Sink,
            Process::Sender(_) => return self.scenario.turn_cost_max,
        };
        let now = self.now();
        let slow = self.slow_nodes.iter().filter(|(of, _, until)| *of == node && now < *until);
        slow.map(|(_, turn, _)| *turn).fold(self.scenario.turn_cost_max, Duration::max)
    }

    fn take_gateway_turn(&mut self, worker: usize) {
        let now = self.now();
        let Some(gateway) = &mut self.gateway else { return };
        if let Err(fatal) = gateway.turn(worker, now, unix_ms(now)) {
            self.chronicle.note(&format!("the gateway stops: {}", fatal.0));
            self.fatal.get_or_insert(fatal.0);
            self.end_gateway();
            return;
        }
        while let Some((worker, errand)) = gateway.poll_errand() {
            if self.ambush
                && let Some(server) = self.register.last_member_after(&errand)
            {
                self.ambush = false;
                let at = now + Duration::from_micros(self.rng.u64(500..=10_000));
                let gone = Duration::from_secs(1);
                // The gateway first: its call is done or not before the server is gone.
                self.plan.add(at, Fault::GatewayCrash { how: Crash::Host, gone });
                self.plan.add(at, Fault::ServerCrash { server, how: Crash::Host, gone });
            }
            self.register.ask(now, worker, errand, self.rng.u64(..));
        }
    }

    fn inflict(&mut self, fault: Fault) {
        let now = self.now();
        if self.must_wait(fault) {
            if now < self.plan.end {
                self.plan.add(now + FAULT_PATIENCE, fault);
            }
            return;
        }
        self.chronicle.note(&format!("{fault:?}"));
        self.paths.note_fault(now, fault);
        *self.fault_counts.entry(name(fault)).or_default() += 1;
        match fault {
            Fault::GatewayCrash { how, gone } => {
                let late = self.in_flight_time_max;
                self.mark_duplicates(&[late]);
                self.crash(how, GATEWAY_SMTP.ip());
                self.end_gateway();
                self.plan.add(now + gone, Fault::GatewayReturn);
            }
            Fault::GatewayReturn => self.start_gateway(),
            Fault::ServerCrash { server, how, gone } => {
                self.crash(how, SERVERS[server].ip());
                self.servers[server] = None;
                self.plan.add(now + gone, Fault::ServerReturn { server });
            }
            Fault::ServerReturn { server } => self.start_server(server),
            Fault::ServerDeath { server, how } => {
                self.crash(how, SERVERS[server].ip());
                self.servers[server] = None;
            }
            Fault::SlowNode { node, turn, lasts } => {
                // What the next hop answers late may be given up.
                self.mark_duplicates(&[Duration::ZERO, lasts, lasts + LATE]);
                self.slow_nodes.retain(|(.., until)| now < *until);
                self.slow_nodes.push((node, turn, now + lasts));
            }
            Fault::Reset(a, b) => {
                self.mark_duplicates(&[Duration::ZERO, LATE]);
                self.network.reset_connections(a, b);
            }
            Fault::Partition { from, to, both_ways, lasts } => {
                self.mark_duplicates(&[Duration::ZERO, lasts, lasts + LATE]);
                self.network.partition_one_way(from, to);
                if both_ways {
                    self.network.partition_one_way(to, from);
                }
                self.plan.add(now + lasts, Fault::Heal(from, to));
            }
            Fault::Heal(a, b) => self.network.heal(a, b),
            Fault::Slow { from, to, path, lasts } => {
                self.network.set_path(from, to, Some(path));
                self.plan.add(now + lasts, Fault::Quicken(from, to));
            }
            Fault::Quicken(from, to) => self.network.set_path(from, to, None),
            Fault::Ambush => self.ambush = true,
            Fault::Register { outage, lasts } => self.register.begin_outage(outage, now + lasts),
            Fault::Reload { queue, change, lasts } => {
                self.reload(queue, Some(change));
                self.plan.add(now + lasts, Fault::Restore { queue });
            }
            Fault::Restore { queue } => self.reload(queue, None),
        }
    }

    /// The gateway works by another configuration of a queue from now on: as at the beginning, but
    /// for that change.
    fn reload(&mut self, queue: u32, change: Option<QueueChange>) {
        let before = self.scenario.settings.clone();
        let place = queue as usize % before.queues.len();
        let settings = &mut self.scenario.settings;
        settings.queues[place] = self.original.queues[place].clone();
        let destination = &mut settings.delivery.destinations[place];
        *destination = self.original.delivery.destinations[place].clone();
        match change {
            None => {}
            Some(QueueChange::Receipt) => settings.queues[place].is_suspended = true,
            Some(QueueChange::Sending) => destination.is_suspended = true,
            Some(QueueChange::Rate(rate)) => destination.rate_per_second = Some(rate),
            Some(QueueChange::Bounds(messages)) => {
                self.reloaded.insert(place);
                settings.queues[place].messages_max = messages;
                settings.queues[place].bytes_max = messages * (100 << 10);
            }
        }
        if let Some(gateway) = &mut self.gateway {
            gateway.reconfigure(&before, settings);
        }
    }

    /// Whether a crash would destroy the last copy of something, or there is nothing to crash. A
    /// record that is asked for may be written, so it counts too.
    fn must_wait(&self, fault: Fault) -> bool {
        let written = self.register.records().map(|(_, record)| record);
        let mut records = written.chain(self.register.asked_for());
        match fault {
            Fault::GatewayCrash { .. } => {
                let any_counts =
                    |record: &Record| (0..self.servers.len()).any(|it| self.counts(it, record));
                self.gateway.is_none() || !records.all(any_counts)
            }
            Fault::ServerCrash { server, .. } | Fault::ServerDeath { server, .. } => {
                let another_counts = |record: &Record| {
                    (0..self.servers.len()).any(|it| it != server && self.counts(it, record))
                };
                self.servers[server].is_none() || !records.all(another_counts)
            }
            _ => false,
        }
    }

    /// Whether a server is up, and its copies count by that record.
    fn counts(&self, server: usize, record: &Record) -> bool {
        let up = self.servers[server].as_ref();
        up.is_some_and(|it| record.incarnation_of(&server_name(server)) == Some(it.incarnation))
    }

    fn crash(&mut self, how: Crash, host: IpAddr) {
        if how == Crash::Host {
            self.network.crash_host(host);
        }
    }

    fn end_gateway(&mut self) {
        if let Some(mut gateway) = self.gateway.take() {
            self.paths.end(&gateway);
            self.saboteur = gateway.take_saboteur();
            self.register.abandon(self.rng.bool());
        }
    }

    fn start_gateway(&mut self) {
        let host = GATEWAY_SMTP.ip();
        self.raise(host);
        let saboteur = self.saboteur.take();
        let settings = &self.scenario.settings;
        let gateway = GatewayHost::start(&self.network, host, settings, &mut self.rng, saboteur);
        self.register.begin_life();
        self.gateway_life += 1;
        self.gateway = Some(gateway);
    }

    fn start_server(&mut self, server: usize) {
        let address = SERVERS[server];
        self.raise(address.ip());
        let transport = self.network.host(address.ip());
        let listen = [address, STANDBYS[server]];
        let listen = if self.scenario.has_standby { &listen[..] } else { &listen[..1] };
        let (worker, incarnation) =
            kvs_host::start(transport, listen, self.scenario.server, &mut self.rng);
        self.servers[server] = Some(Server { worker, incarnation });
    }

    /// Starts a host again if it is down.
    fn raise(&mut self, host: IpAddr) {
        // A host that was never there is made by its first transport.
        if self.turns > 0 && !self.network.is_up(host) {
            self.network.restart_host(host);
        }
    }

    /// From here the next hop may rightly get again what it answered shortly before these times.
    fn mark_duplicates(&mut self, after: &[Duration]) {
        for after in after {
            let at = self.now() + *after;
            self.ledger.borrow_mut().mark_restart(UNIX_ORIGIN_MS * 1000 + at.as_nanos() / 1000);
        }
    }
}

/// What the ledger allows in such a world.
fn policy(options: &Options, scenario: &Scenario) -> Policy {
    let is_strict = scenario.one_connection && options.faults != FaultLevel::All;
    Policy {
        displacement_max: is_strict.then_some(0),
        // A fault on a path can keep the deletes of what was delivered from the copies for as long
        // as it lasts.
        bounces: Bounces::Required,
        giving_up_allowed: true,
        restart_window_us: if options.faults == FaultLevel::All { 10_000_000 } else { 500_000 },
        ..Policy::default()
    }
}

/// The time of day at `now`, in milliseconds since 1970.
pub fn unix_ms(now: Instant) -> u64 {
    UNIX_ORIGIN_MS + now.as_nanos() / 1_000_000
}

fn name_of_phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Greeting => "next hop fails at greeting",
        Phase::Ehlo => "next hop fails at EHLO",
        Phase::Mail => "next hop fails at MAIL",
        Phase::Rcpt => "next hop fails at RCPT",
        Phase::Data => "next hop fails at DATA",
        Phase::Content => "next hop fails in content",
        Phase::Dot => "next hop fails at final dot",
        Phase::Quit => "next hop fails at QUIT",
    }
}

fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::GatewayCrash { .. } => "gateway crash",
        Fault::GatewayReturn => "gateway return",
        Fault::ServerCrash { .. } => "server crash",
        Fault::ServerReturn { .. } => "server return",
        Fault::ServerDeath { .. } => "server death without return",
        Fault::SlowNode { node: Node::Gateway, .. } => "slow gateway",
        Fault::SlowNode { node: Node::Server(_), .. } => "slow server",
        Fault::SlowNode { node: Node::Sink, .. } => "slow next hop",
        Fault::Reset(..) => "reset",
        Fault::Partition { .. } => "partition",
        Fault::Heal(..) => "heal",
        Fault::Slow { .. } => "slow path",
        Fault::Quicken(..) => "path restored",
        Fault::Ambush => "ambush",
        Fault::Register { outage: Outage::Unreachable, .. } => "register unreachable",
        Fault::Register { outage: Outage::AnswersLost, .. } => "register answers lost",
        Fault::Register { outage: Outage::Slow, .. } => "register slow",
        Fault::Register { outage: Outage::Mixed, .. } => "register mixed outage",
        Fault::Reload { .. } => "reload",
        Fault::Restore { .. } => "configuration restored",
    }
}

/// The world begins then: a time before it is never a deadline.
const BEGIN: Instant = Instant::from_nanos(1_000_000_000);

/// Makes the draws of what becomes of the register's calls differ from the others of their seed.
const FATES: u64 = 0x5eed_0ffa_7e50_0000;

/// A fault that cannot be inflicted now is tried again after this.
const FAULT_PATIENCE: Duration = Duration::from_millis(100);

/// What was on its way during a fault can arrive so much later.
const LATE: Duration = Duration::from_secs(1);

//! Faults, as they are inflicted.

use std::net::IpAddr;
use std::time::Duration;

use gateway::replication::record::Record;
use loadgen::sink::Faults as SinkFaults;
use tcpstack::SimAttempts;

use super::{LATE, World};
use crate::gateways::{PLACES, Running, SMTP, settings_at};
use crate::plan::{Crash, Fault, Node, QueueChange, ServerWork, Trouble};
use crate::register::Outage;
use crate::scenario::{
    GATEWAY_SMTP, SERVERS, SINK, UNIX_ORIGIN_MS, ends, sender_host, server_name,
};

impl World {
    pub(super) fn inflict(&mut self, fault: Fault) {
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
                let place = self.newest().expect("one is up, or it had to wait").place;
                self.crash(how, SMTP[place].ip());
                self.end_gateway(place);
                self.plan.add(now + gone, Fault::GatewayReturn);
            }
            Fault::GatewayReturn => self.start_gateway(self.last_place),
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
            Fault::Pause { node, lasts } => self.pause(node, lasts),
            Fault::Suspend { node, lasts } => {
                self.pause(node, lasts);
                self.network.set_frozen(address_of(node), true);
                self.plan.add(now + lasts, Fault::WakeUp(node));
            }
            Fault::WakeUp(node) => self.network.set_frozen(address_of(node), false),
            Fault::Lose(a, b) => {
                self.mark_duplicates(&[Duration::ZERO, LATE, LOSS_NOTICED]);
                self.network.lose_connections(a, b);
            }
            Fault::Attempts { fate, lasts } => {
                self.network.set_attempts(fate);
                self.plan.add(now + lasts, Fault::AttemptsEnd);
            }
            Fault::AttemptsEnd => self.network.set_attempts(SimAttempts::default()),
            Fault::ClockStep { place, by_ms } => self.clock_steps_ms[place] += by_ms,
            Fault::TakeOver { trouble, lasts, after } => {
                self.begin_take_over(trouble, lasts, after);
            }
            Fault::SuccessorStart => self.start_successor(),
            Fault::Register { outage, lasts } => self.register.begin_outage(outage, now + lasts),
            Fault::Reload { queue, change, lasts } => {
                self.reload(queue, Some(change));
                self.plan.add(now + lasts, Fault::Restore { queue });
            }
            Fault::Restore { queue } => self.reload(queue, None),
            Fault::Servers(work) => self.work_on_servers(work),
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
        for Running { host, place, .. } in self.gateways.iter_mut().flatten() {
            host.reconfigure(&settings_at(*place, &before), &settings_at(*place, settings));
        }
    }

    /// Whether a crash or a take-over would destroy the last copy of something, or there is nothing to crash. A
    /// record that is asked for may be written, so it counts too.
    fn must_wait(&self, fault: Fault) -> bool {
        let written = self.register.records().map(|(_, record)| record);
        let mut records = written.chain(self.register.asked_for());
        match fault {
            // A successor has no more than a gateway that returns.
            Fault::GatewayCrash { .. } | Fault::TakeOver { .. } => {
                let any_counts =
                    |record: &Record| (0..self.servers.len()).any(|it| self.counts(it, record));
                self.newest().is_none() || !records.all(any_counts)
            }
            Fault::ServerCrash { server, .. } | Fault::ServerDeath { server, .. } => {
                let another_counts = |record: &Record| {
                    (0..self.servers.len()).any(|it| it != server && self.counts(it, record))
                };
                self.servers[server].is_none() || !records.all(another_counts)
            }
            Fault::Servers(work) => self.server_work_waits(work),
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
        self.paused_nodes.clear();
        self.network.set_attempts(SimAttempts::default());
        let servers = (0..self.servers.len()).map(Node::Server);
        for node in servers.chain((0..PLACES).map(Node::Gateway)).chain([Node::Sink]) {
            self.network.set_frozen(address_of(node), false);
        }
        // No host is silent for ever: else each connection to the one that no gateway returned to takes
        // a client its whole patience.
        SMTP.into_iter().for_each(|place| self.raise(place.ip()));
        self.register.end_outage();
        for queue in (0..).take(self.original.queues.len()) {
            self.reload(queue, None);
        }
        self.end_server_work();
    }

    /// From here the next hop may rightly get again what it answered shortly before these times.
    pub(super) fn mark_duplicates(&mut self, after: &[Duration]) {
        for after in after {
            let at = self.now() + *after;
            self.ledger.borrow_mut().mark_restart(UNIX_ORIGIN_MS * 1000 + at.as_nanos() / 1000);
        }
    }
}

fn address_of(node: Node) -> IpAddr {
    match node {
        Node::Gateway(place) => SMTP[place].ip(),
        Node::Server(server) => SERVERS[server].ip(),
        Node::Sink => SINK.ip(),
    }
}

fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::GatewayCrash { .. } => "gateway crash",
        Fault::GatewayReturn => "gateway return",
        Fault::ServerCrash { .. } => "server crash",
        Fault::ServerReturn { .. } => "server return",
        Fault::ServerDeath { .. } => "server death without return",
        Fault::SlowNode { node: Node::Gateway(_), .. } => "slow gateway",
        Fault::SlowNode { node: Node::Server(_), .. } => "slow server",
        Fault::SlowNode { node: Node::Sink, .. } => "slow next hop",
        Fault::Reset(..) => "reset",
        Fault::Partition { .. } => "partition",
        Fault::Heal(..) => "heal",
        Fault::Slow { .. } => "slow path",
        Fault::Quicken(..) => "path restored",
        Fault::Ambush => "ambush",
        Fault::Suspend { node: Node::Gateway(_), .. } => "gateway's host suspended",
        Fault::Suspend { node: Node::Server(_), .. } => "server's host suspended",
        Fault::Suspend { node: Node::Sink, .. } => "next hop's host suspended",
        Fault::WakeUp(_) => "host woken up",
        Fault::Lose(..) => "connections lost without notice",
        Fault::Attempts { .. } => "attempts to connect lost or late",
        Fault::AttemptsEnd => "attempts to connect as before",
        Fault::ClockStep { by_ms: ..0, .. } => "wall clock set back",
        Fault::ClockStep { .. } => "wall clock set forwards",
        Fault::Pause { node: Node::Gateway(_), .. } => "gateway paused",
        Fault::Pause { node: Node::Server(_), .. } => "server paused",
        Fault::Pause { node: Node::Sink, .. } => "next hop paused",
        Fault::TakeOver { trouble: Trouble::None, .. } => "take-over of a live gateway",
        Fault::TakeOver { trouble: Trouble::Stopped, .. } => "take-over of a stopped gateway",
        Fault::TakeOver { trouble: Trouble::CutOff, .. } => "take-over of a gateway cut off",
        Fault::TakeOver { trouble: Trouble::Alone, .. } => "take-over of a gateway left alone",
        Fault::SuccessorStart => "successor start",
        Fault::Register { outage: Outage::Unreachable, .. } => "register unreachable",
        Fault::Register { outage: Outage::AnswersLost, .. } => "register answers lost",
        Fault::Register { outage: Outage::Slow, .. } => "register slow",
        Fault::Register { outage: Outage::Mixed, .. } => "register mixed outage",
        Fault::Reload { .. } => "reload",
        Fault::Restore { .. } => "configuration restored",
        Fault::Servers(ServerWork::Drain { .. }) => "server drained",
        Fault::Servers(ServerWork::DrainForGood { .. }) => "server drained for good",
        Fault::Servers(ServerWork::TakeAway { .. }) => "server drained to be taken away",
        Fault::Servers(ServerWork::Undrain { .. }) => "server drained no more",
        Fault::Servers(ServerWork::Remove { .. }) => "server taken away",
        Fault::Servers(ServerWork::Add { .. }) => "server added",
        Fault::Servers(ServerWork::Move { .. }) => "copies moved by order",
        Fault::Servers(ServerWork::CancelMoves) => "moves called off",
    }
}

/// A fault that cannot be inflicted now is tried again after this.
pub(super) const FAULT_PATIENCE: Duration = Duration::from_millis(100);

/// That a connection is lost is noticed by then where something was sent: by a reply that does not come.
const LOSS_NOTICED: Duration = Duration::from_secs(6);

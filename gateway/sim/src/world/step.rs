//! How time moves: which process is due, and what a turn of it costs.

use std::time::Duration;

use gateway::replication::record::RegisterAnswer;
use tcpstack::Instant;

use super::{Process, World};
use crate::plan::{Crash, Fault, Node};

impl World {
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
            let paused = process.node().and_then(|node| self.paused_until(node));
            let at = at.max(paused.unwrap_or(now));
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
        while let Some((life, worker, cohort, answer)) = self.register.poll(next) {
            if matches!(answer, RegisterAnswer::Failed(_)) {
                *self.fault_counts.entry("register call failed").or_default() += 1;
            }
            let mut gateways = self.gateways.iter_mut().flatten();
            let asked = gateways.find(|it| it.life == life);
            asked
                .expect("calls of the dead are abandoned")
                .host
                .handle_answer(worker, cohort, answer);
        }
        changed || self.register.swaps() != swaps
    }

    fn processes(&self) -> impl Iterator<Item = Process> + use<> {
        let workers = self.gateways().map(|it| (it.place, it.host.worker_count()));
        let workers = workers.collect::<Vec<_>>();
        let gateway = workers.into_iter().flat_map(|(place, count)| {
            (0..count).map(move |worker| Process::Gateway(place, worker))
        });
        let up = self.servers.iter().map(Option::is_some).collect::<Vec<_>>();
        let servers = (0..up.len()).filter(move |it| up[*it]).map(Process::Server);
        let senders = (0..self.senders.len()).map(Process::Sender);
        gateway.chain(servers).chain([Process::Sink]).chain(senders)
    }

    fn deadline(&self, process: Process) -> Option<Instant> {
        let now = self.now();
        match process {
            Process::Gateway(place, worker) => {
                let host = &self.gateways[place].as_ref()?.host;
                host.next_deadline(worker, now, self.unix_ms_at(place))
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
            Process::Gateway(place, worker) => self.take_gateway_turn(place, worker),
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
        let Some(node) = process.node() else { return self.scenario.turn_cost_max };
        let now = self.now();
        let slow = self.slow_nodes.iter().filter(|(of, _, until)| *of == node && now < *until);
        slow.map(|(_, turn, _)| *turn).fold(self.scenario.turn_cost_max, Duration::max)
    }

    fn take_gateway_turn(&mut self, place: usize, worker: usize) {
        let now = self.now();
        let unix_ms = self.unix_ms_at(place);
        let Some(gateway) = &mut self.gateways[place] else { return };
        let result = gateway.host.turn(worker, now, unix_ms);
        for tapped in self.network.take_tapped() {
            gateway.see(&tapped, &self.scenario, &mut self.sightings);
        }
        if let Err(fatal) = result {
            self.handle_stop(place, fatal.0);
            return;
        }
        while let Some((worker, errand)) = gateway.host.poll_errand() {
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
            self.register.ask(now, (gateway.life, worker), errand, self.rng.u64(..));
        }
    }

    /// Until when a node's process is stopped, if it is.
    pub(super) fn paused_until(&self, node: Node) -> Option<Instant> {
        let now = self.now();
        let paused = self.paused_nodes.iter().filter(|(of, until)| *of == node && now < *until);
        paused.map(|(_, until)| *until).max()
    }
}

impl Process {
    /// The node that it runs on. Senders have none: nothing happens to them.
    pub(super) fn node(self) -> Option<Node> {
        match self {
            Process::Gateway(place, _) => Some(Node::Gateway(place)),
            Process::Server(server) => Some(Node::Server(server)),
            Process::Sink => Some(Node::Sink),
            Process::Sender(_) => None,
        }
    }
}

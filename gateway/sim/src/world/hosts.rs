//! Processes that start and end.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gateway::message::QueueIndex;

use super::{Server, World};
use crate::gateway_host::GatewayHost;
use crate::gateways::{self, Running, SMTP, settings_at};
use crate::kvs_host;
use crate::plan::{Fault, Node};
use crate::scenario::{SERVERS, STANDBYS};
use crate::transport::HostTransport;

impl World {
    /// The process of a gateway ends.
    pub(super) fn end_gateway(&mut self, place: usize) {
        let Some(mut ended) = self.gateways[place].take() else { return };
        if !ended.is_counted {
            self.paths.end(&ended.host);
        }
        self.saboteur = ended.host.take_saboteur().or(self.saboteur.take());
        self.register.abandon(ended.life, self.rng.bool());
        self.last_place = place;
        self.forget_turns(Node::Gateway(place));
    }

    /// A gateway starts, unless one runs there. Another one that runs elsewhere does not know.
    pub(super) fn start_gateway(&mut self, place: usize) {
        if self.gateways[place].is_some() {
            return;
        }
        self.raise(SMTP[place].ip());
        let is_contested = self.gateways().next().is_some();
        for former in self.gateways.iter_mut().flatten() {
            former.is_contested = true;
            if !std::mem::replace(&mut former.is_counted, true) {
                self.paths.end(&former.host);
            }
        }
        let saboteur = self.saboteur.take();
        self.forget_orders();
        let settings = settings_at(place, &self.scenario.settings);
        let (network, rng) = (&self.network, &mut self.rng);
        let addresses = gateways::addresses(place, self.scenario.has_standby);
        let host = GatewayHost::start(network, &addresses, &self.links, &settings, rng, saboteur);
        let life = self.register.begin_life();
        self.gateways[place] = Some(Running::new(host, place, life, is_contested));
        if is_contested {
            self.mark_last_acts();
            *self.fault_counts.entry("second gateway").or_default() += 1;
        }
    }

    /// What a former gateway has delivered while it might, and could not tell, goes out again, or has expired by the
    /// clock of the one that starts.
    pub(super) fn mark_last_acts(&mut self) {
        let lease = self.scenario.settings.policy.lease.min(Duration::from_secs(5));
        let times = (0..=6).map(|seconds| lease + Duration::from_secs(seconds));
        let times = [Duration::ZERO].into_iter().chain(times).collect::<Vec<_>>();
        self.mark_duplicates(&times);
    }

    /// A gateway stops by itself: it may if another one has taken a record from it, and is restarted if no other
    /// one is left.
    pub(super) fn handle_stop(&mut self, place: usize, why: String) {
        self.chronicle.note(&format!("the gateway at place {place} stops: {why}"));
        let is_contested = self.gateways[place].as_ref().is_some_and(|it| it.is_contested);
        // Whatever it says: what it knows may be old.
        let is_superseded = self.is_superseded(place);
        self.end_gateway(place);
        let is_told = TAKEN_OVER.iter().any(|reason| why.contains(reason));
        if !is_contested || !(is_told || is_superseded) {
            self.fatal.get_or_insert(why);
            return;
        }
        *self.fault_counts.entry("gateway fenced").or_default() += 1;
        self.mark_duplicates(&[Duration::ZERO]);
        if self.gateways().next().is_none() {
            self.plan.add(self.now() + RESTART_AFTER, Fault::GatewayReturn);
        }
    }

    /// Whether the record of a queue has another epoch than the gateway there.
    fn is_superseded(&self, place: usize) -> bool {
        let Some(gateway) = &self.gateways[place] else { return false };
        let mut queues = (0..).zip(&self.scenario.settings.queues);
        queues.any(|(index, queue)| {
            let mut records = self.register.records().map(|(_, record)| record);
            let record = records.find(|record| record.has_queue(&queue.name));
            record.is_some_and(|record| record.epoch > gateway.host.epoch(QueueIndex(index)))
        })
    }

    fn forget_turns(&mut self, node: Node) {
        self.busy.retain(|process, _| process.node() != Some(node));
        self.paused_nodes.retain(|(paused, _)| *paused != node);
    }

    pub(super) fn start_server(&mut self, server: usize) {
        self.forget_turns(Node::Server(server));
        let address = SERVERS[server];
        self.raise(address.ip());
        let listen = [address, STANDBYS[server]];
        let listen = if self.scenario.has_standby { &listen[..] } else { &listen[..1] };
        let addresses = listen.iter().map(SocketAddr::ip).collect::<Vec<_>>();
        let ports = address.port()..=address.port();
        let (network, rng) = (&self.network, &mut self.rng);
        let transport = HostTransport::open(network, &self.links, &addresses, &ports, rng);
        let (worker, incarnation) =
            kvs_host::start(transport, listen, self.scenario.server, &mut self.rng);
        self.servers[server] = Some(Server { worker, incarnation });
    }

    /// Starts a host again if it is down.
    pub(super) fn raise(&mut self, host: IpAddr) {
        // A host that was never there is made by its first transport.
        if self.turns > 0 && !self.network.is_up(host) {
            self.network.restart_host(host);
        }
    }
}

/// What a gateway says when another one has taken its queues over.
const TAKEN_OVER: [&str; 2] = ["another gateway has changed the record", "has an owner of epoch"];

/// Whoever looks after the gateway starts it again after so long.
const RESTART_AFTER: Duration = Duration::from_secs(1);

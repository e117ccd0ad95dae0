//! Watches what becomes of links with two paths: whether a server is isolated although a path reaches
//! it, and how long queues stand still.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use gateway::message::QueueIndex;
use kvs_proto::Transaction;
use tcpstack::Instant;

use crate::gateway_host::GatewayHost;
use crate::plan::Fault;
use crate::report::PathCounts;
use crate::scenario::{SERVERS, ends};

/// See the module.
#[derive(Debug, Default)]
pub struct PathWatch {
    /// What the gateways before the present one did, and the longest pauses.
    counts: PathCounts,
    /// By server and network segment: until then what happened to it may be felt.
    paths_troubled_until: [[Instant; 2]; SERVERS.len()],
    /// Likewise, of the gateway and the servers themselves.
    nodes_troubled_until: Instant,
    isolations: u64,
    unjustified: Option<Instant>,
    queues: BTreeMap<usize, QueueWatch>,
}

#[derive(Clone, Copy, Debug)]
struct QueueWatch {
    committed: Transaction,
    /// When something was last committed, or nothing was to be.
    moved_at: Instant,
    /// When it last accepted.
    accepted_at: Instant,
}

impl PathWatch {
    /// A fault begins.
    pub fn note_fault(&mut self, now: Instant, fault: Fault) {
        match fault {
            Fault::GatewayCrash { gone, .. } | Fault::ServerCrash { gone, .. } => {
                self.trouble_nodes(now + gone);
            }
            // Its cohorts may be long in writing that down, if the register is away.
            Fault::ServerDeath { .. } => self.trouble_nodes(Instant::from_nanos(u64::MAX / 2)),
            Fault::SlowNode { lasts, .. } => self.trouble_nodes(now + lasts),
            Fault::GatewayReturn | Fault::ServerReturn { .. } => self.trouble_nodes(now),
            Fault::Pause { lasts, .. }
            | Fault::Suspend { lasts, .. }
            | Fault::Attempts { lasts, .. } => self.trouble_nodes(now + lasts),
            Fault::Lose(from, to) => self.trouble_path(from, to, now),
            // Each of two gateways takes the other's copies away.
            Fault::TakeOver { .. } | Fault::SuccessorStart => {
                self.nodes_troubled_until = Instant::MAX;
            }
            Fault::Reset(from, to) => self.trouble_path(from, to, now),
            Fault::Partition { from, to, lasts, .. } | Fault::Slow { from, to, lasts, .. } => {
                self.trouble_path(from, to, now + lasts);
            }
            _ => {}
        }
    }

    fn trouble_nodes(&mut self, until: Instant) {
        self.nodes_troubled_until = self.nodes_troubled_until.max(until + LATE);
    }

    fn trouble_path(&mut self, from: IpAddr, to: IpAddr, until: Instant) {
        for (server, paths) in self.paths_troubled_until.iter_mut().enumerate() {
            for (segment, path) in paths.iter_mut().enumerate() {
                let [gateway, other] = ends(segment, server);
                if (from, to) == (gateway, other) || (from, to) == (other, gateway) {
                    *path = (*path).max(until + LATE);
                }
            }
        }
    }

    /// Looks at the gateway.
    pub fn watch(&mut self, now: Instant, gateway: &GatewayHost, queues: usize) {
        let isolations = gateway.isolations();
        if isolations > self.isolations && !self.may_isolate(now) {
            self.unjustified.get_or_insert(now);
        }
        self.isolations = isolations;
        for queue in 0..queues {
            self.watch_queue(now, gateway, queue);
        }
    }

    /// Whether a node or both paths to a server are in trouble, or were not long ago.
    fn may_isolate(&self, now: Instant) -> bool {
        let both_troubled = |paths: &[Instant; 2]| paths.iter().all(|until| now <= *until);
        now <= self.nodes_troubled_until || self.paths_troubled_until.iter().any(both_troubled)
    }

    fn watch_queue(&mut self, now: Instant, gateway: &GatewayHost, queue: usize) {
        let index = QueueIndex(u32::try_from(queue).expect("few queues"));
        let unit = gateway.unit(index);
        let accepts = gateway.board().is_accepting(index);
        if !unit.is_open() || (!accepts && !self.queues.contains_key(&queue)) {
            return;
        }
        let committed = unit.committed();
        let fresh = QueueWatch { committed, moved_at: now, accepted_at: now };
        let watch = self.queues.entry(queue).or_insert(fresh);
        let is_filling = unit.live_answered().next().is_some();
        if is_filling {
            self.counts.fill_commits += committed.0.saturating_sub(watch.committed.0);
        }
        if committed != watch.committed || committed == unit.queue.log().head() {
            (watch.committed, watch.moved_at) = (committed, now);
        }
        if accepts {
            watch.accepted_at = now;
        }
        let counts = &mut self.counts;
        let still = now.saturating_since(watch.moved_at);
        counts.commit_pause_max = counts.commit_pause_max.max(still);
        let closed = now.saturating_since(watch.accepted_at);
        counts.acceptance_pause_max = counts.acceptance_pause_max.max(closed);
    }

    /// The gateway ends.
    pub fn end(&mut self, gateway: &GatewayHost) {
        self.counts = self.counts(Some(gateway));
        self.isolations = 0;
        self.queues.clear();
    }

    /// What was done so far, by the present gateways too.
    pub fn counts<'g>(&self, gateways: impl IntoIterator<Item = &'g GatewayHost>) -> PathCounts {
        let mut counts = self.counts;
        for gateway in gateways {
            for link in gateway.link_counters() {
                counts.switches += link.switches;
                counts.hedges += link.hedges;
                counts.hedges_first += link.hedges_first;
            }
            let cohorts = gateway.cohort_counters();
            counts.fills += cohorts.fills;
            counts.repairs += cohorts.repairs;
        }
        counts
    }

    /// When a server was isolated without either node or both paths having been in trouble.
    pub fn unjustified_isolation(&self) -> Option<Instant> {
        self.unjustified
    }
}

/// What happened to a path or a node may be felt for so long: deadlines, connections made anew, and
/// `isolate_after`.
const LATE: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(segment: usize, server: usize) -> Fault {
        let [gateway, other] = ends(segment, server);
        let lasts = Duration::from_secs(1);
        Fault::Partition { from: other, to: gateway, both_ways: false, lasts }
    }

    #[test]
    fn a_server_may_be_isolated_for_trouble_on_both_of_its_paths_and_not_on_one_of_each() {
        let now = Instant::from_nanos(1_000_000_000);
        let mut watch = PathWatch::default();
        watch.note_fault(now, partition(0, 0));
        watch.note_fault(now, partition(1, 1));
        assert!(!watch.may_isolate(now));
        watch.note_fault(now, partition(1, 0));
        let over = now + Duration::from_secs(1) + LATE;
        assert!(watch.may_isolate(now) && watch.may_isolate(over));
        assert!(!watch.may_isolate(over + Duration::from_nanos(1)));
    }

    #[test]
    fn a_server_may_be_isolated_when_a_node_crashes() {
        let now = Instant::from_nanos(1_000_000_000);
        let mut watch = PathWatch::default();
        watch.note_fault(now, Fault::ServerReturn { server: 0 });
        assert!(watch.may_isolate(now) && !watch.may_isolate(now + LATE + LATE));
    }
}

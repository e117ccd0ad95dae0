//! One way to a server: over one network segment, with a connection (a *lane*) to each of the
//! server's workers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kvs_proto::{Incarnation, Version};
use serde::{Deserialize, Serialize};
use tcpstack::{CloseReason, ConnectionId, Instant, Transport};

use super::LinkSettings;
use super::lane::Lane;

/// Delay before the second attempt to connect; it doubles up to the maximum.
const RECONNECT_FIRST: Duration = Duration::from_millis(20);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// How long a path that was lost must have been there again before requests move to it because the
/// other one is silent. It doubles with each loss up to the maximum; a path that was there for longer
/// than that begins anew. When the other path ends, none of this counts.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How a path is, in the words of the paper's Table I.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathState {
    /// It carries requests.
    Run,
    /// It stands by, and answers.
    Ready,
    /// It does not reach the server, or not for long enough yet.
    Ng,
}

/// A path. Down, then connecting with all its lanes, then up; down again when any of them ends.
#[derive(Debug)]
pub(super) struct Path {
    address: SocketAddr,
    local: Option<IpAddr>,
    /// One for each of the link's ports, in their order; none while the path is down.
    pub(super) lanes: Vec<Lane>,
    /// The server's life, once a lane is welcomed.
    pub(super) life: Option<Incarnation>,
    /// Attempts in a row that led to nothing.
    failures: u32,
    connect_at: Instant,
    up_since: Option<Instant>,
    /// How often it was lost, not long ago.
    losses: u32,
    /// Nobody listened there when it was tried last.
    is_refused: bool,
}

impl Path {
    pub(super) fn new(address: SocketAddr, local: Option<IpAddr>) -> Path {
        Path {
            address,
            local,
            lanes: Vec::new(),
            life: None,
            failures: 0,
            connect_at: Instant::ZERO,
            up_since: None,
            losses: 0,
            is_refused: false,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Goes to all these ports, if it is down and its time has come.
    pub(super) fn open(&mut self, now: Instant, ports: &[u16]) {
        if self.lanes.is_empty() && now >= self.connect_at {
            ports.iter().for_each(|port| self.add_lane(*port));
        }
    }

    /// Goes to another port, too.
    pub(super) fn add_lane(&mut self, port: u16) {
        self.lanes.push(Lane::new(SocketAddr::new(self.address.ip(), port)));
    }

    /// Begins to connect lanes that are new; returns false if that is impossible now.
    pub(super) fn connect(
        &mut self,
        now: Instant,
        settings: &LinkSettings,
        transport: &mut impl Transport,
    ) -> bool {
        let local = self.local;
        let mut new = self.lanes.iter_mut().filter(|lane| lane.is_new());
        new.all(|lane| lane.connect(now, settings, local, transport))
    }

    /// A lane is welcomed; returns false if its server is in another life than that of the others.
    pub(super) fn welcome(&mut self, now: Instant, lane: usize, life: Incarnation) -> bool {
        self.lanes[lane].set_up();
        self.failures = 0;
        self.is_refused = false;
        if *self.life.get_or_insert(life) != life {
            return false;
        }
        if self.is_up() {
            self.up_since.get_or_insert(now);
        }
        true
    }

    /// A connection ended for that reason.
    pub(super) fn note_end(&mut self, reason: CloseReason) {
        self.is_refused = reason == CloseReason::Refused;
    }

    /// Whether nobody listened there when it was tried last.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Whether every lane is welcomed.
    pub(super) fn is_up(&self) -> bool {
        !self.lanes.is_empty() && self.lanes.iter().all(Lane::is_up)
    }

    /// Whether it is up, and owes no answer for longer than `deadline`.
    pub(super) fn responds(&self, now: Instant, deadline: Duration, awake_since: Instant) -> bool {
        let is_quiet = |lane: &Lane| {
            let since = lane.quiet_since(awake_since);
            since.is_some_and(|since| now.saturating_since(since) >= deadline)
        };
        self.is_up() && !self.lanes.iter().any(is_quiet)
    }

    /// Whether it has been there for long enough since it was last lost.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        self.up_since.is_some_and(|since| now >= since + self.pause())
    }

    fn pause(&self) -> Duration {
        match self.losses {
            0 => Duration::ZERO,
            losses => PAUSE_FIRST.saturating_mul(1 << (losses - 1).min(16)).min(PAUSE_MAX),
        }
    }

    /// Ends all its lanes, to connect again after a while; returns whether it had been up.
    pub(super) fn end(&mut self, now: Instant, transport: &mut impl Transport) -> bool {
        for connection in self.lanes.drain(..).filter_map(|lane| lane.connection()) {
            transport.abort(connection);
        }
        self.life = None;
        let delay = RECONNECT_FIRST.saturating_mul(1 << self.failures.min(16)).min(RECONNECT_MAX);
        self.failures = self.failures.saturating_add(1);
        self.connect_at = now + delay;
        let Some(since) = self.up_since.take() else { return false };
        let lasted = now.saturating_since(since) > PAUSE_MAX;
        self.losses = if lasted { 1 } else { self.losses.saturating_add(1) };
        true
    }

    /// Ends the lanes to other ports than the first.
    pub(super) fn forget_ports(&mut self, transport: &mut impl Transport) {
        let others = self.lanes.drain(1.min(self.lanes.len())..);
        for connection in others.filter_map(|lane| lane.connection()) {
            transport.abort(connection);
        }
    }

    /// A lane's connection is over already, and must not be aborted.
    pub(super) fn remove_lane(&mut self, lane: usize) {
        self.lanes.remove(lane);
    }

    /// The version that is spoken with the server's first worker.
    pub(super) fn version(&self) -> Option<Version> {
        self.lanes.first()?.version()
    }

    /// The lane with that connection.
    pub(super) fn lane_of(&self, connection: ConnectionId) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.connection() == Some(connection))
    }

    /// When there is something to look at.
    pub(super) fn next_deadline(&self, now: Instant, settings: &LinkSettings) -> Instant {
        let lanes = self.lanes.iter().map(|lane| lane.next_deadline(now, settings)).min();
        lanes.unwrap_or(self.connect_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcpstack::SimNetwork;

    #[test]
    fn a_path_that_flaps_waits_longer_each_time_until_it_has_lasted() {
        let mut transport =
            SimNetwork::new(1, tcpstack::SimOptions::default()).host([10, 0, 0, 1].into());
        let mut path = Path::new(([10, 0, 0, 2], 1).into(), None);
        let mut now = Instant::from_nanos(1_000_000_000);
        path.up_since = Some(now);
        assert!(path.is_settled(now), "one that was never lost");
        for pause in [500, 1000, 2000, 4000, 8000, 16_000, 30_000].map(Duration::from_millis) {
            assert!(path.end(now, &mut transport));
            assert!(!path.is_settled(now));
            path.up_since = Some(now);
            assert!(!path.is_settled(now + (pause - Duration::from_millis(1))));
            assert!(path.is_settled(now + pause));
            now += Duration::from_secs(1);
        }
        now += PAUSE_MAX;
        path.end(now, &mut transport);
        path.up_since = Some(now);
        assert!(path.is_settled(now + PAUSE_FIRST));
    }
}

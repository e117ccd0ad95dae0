//! The way of one queue's messages to their next hop.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use kvs_proto::MessageId;
use tcpstack::{ConnectionId, Instant};

use super::rate::RateLimit;
use crate::front::config::Destination;
use crate::message::{DeliveryState, MessageRef};

/// A message that the queue wants delivered.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: MessageId,
    pub(super) message: MessageRef,
    pub(super) state: DeliveryState,
}

/// One queue's attempts, connections and pauses. Holds no socket; `Delivery` does what it says.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) destination: Destination,
    /// Not yet on a connection, in the queue's order. At most the window.
    pub(super) waiting: VecDeque<Attempt>,
    /// At most `destination.connections_max`.
    pub(super) connections: Vec<ConnectionId>,
    pub(super) rate: RateLimit,
    state: State,
    /// Since a message was last answered.
    failures: u32,
    /// No new connection before this.
    connect_at: Instant,
    /// The next hop to try, by its place, and how many were tried in vain since one answered.
    next_hop: usize,
    hops_failed: usize,
    /// What the shard was last told.
    window_told: u32,
    /// It is in the list of lanes to look at.
    pub(super) is_listed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    /// Nothing is tried before then.
    Paused {
        until: Instant,
    },
    /// After a pause: one message on one connection, until the next hop greets us.
    Probing,
    /// For good.
    Stopped,
}

impl Lane {
    pub(super) fn new(destination: Destination) -> Lane {
        assert!(!destination.next_hops.is_empty(), "a destination has a next hop");
        assert!(destination.connections_max > 0 && destination.messages_per_connection_max > 0);
        Lane {
            rate: RateLimit::new(destination.rate_per_second),
            destination,
            waiting: VecDeque::new(),
            connections: Vec::new(),
            state: State::Open,
            failures: 0,
            connect_at: Instant::ZERO,
            next_hop: 0,
            hops_failed: 0,
            window_told: 0,
            is_listed: false,
        }
    }

    /// Whether attempts are taken.
    pub(super) fn takes_attempts(&self) -> bool {
        matches!(self.state, State::Open | State::Probing) && !self.destination.is_suspended
    }

    /// Goes on by what is now said of its destination. With other addresses, and when sending is
    /// resumed, nothing that went wrong before counts, and a pause ends.
    pub(super) fn reconfigure(&mut self, destination: &Destination) {
        let before = std::mem::replace(&mut self.destination, destination.clone());
        if before.rate_per_second != destination.rate_per_second {
            self.rate = RateLimit::new(destination.rate_per_second);
        }
        let is_elsewhere = before.next_hops != destination.next_hops;
        if is_elsewhere || (before.is_suspended && !destination.is_suspended) {
            self.next_hop = 0;
            self.hops_failed = 0;
            self.failures = 0;
            self.connect_at = Instant::ZERO;
            if matches!(self.state, State::Paused { .. }) {
                self.state = State::Probing;
            }
        }
    }

    /// Whether a connection to that address, with so many others before it, has a place here.
    pub(super) fn keeps_connection(&self, next_hop: SocketAddr, others: usize) -> bool {
        let destination = &self.destination;
        !destination.is_suspended
            && destination.next_hops.contains(&next_hop)
            && others < destination.connections_max as usize
    }

    /// The window, if the shard must be told.
    pub(super) fn poll_window(&mut self) -> Option<u32> {
        let window = self.window();
        let is_news = window != self.window_told;
        self.window_told = window;
        is_news.then_some(window)
    }

    /// The address for one more connection, if there may be one.
    pub(super) fn next_hop(&self, now: Instant) -> Option<SocketAddr> {
        let most = match self.state {
            State::Open => self.destination.connections_max as usize,
            State::Probing => 1,
            State::Paused { .. } | State::Stopped => 0,
        };
        let most = if self.destination.is_suspended { 0 } else { most };
        let may_connect = self.connections.len() < most && self.connect_at <= now;
        may_connect.then(|| self.destination.next_hops[self.next_hop])
    }

    /// When the lane wants to be looked at, beside the rate limit.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Paused { until } => Some(until),
            State::Open | State::Probing if !self.waiting.is_empty() => Some(self.connect_at),
            _ => None,
        }
    }

    /// Lets time pass: the end of a pause.
    pub(super) fn handle_time(&mut self, now: Instant) {
        if let State::Paused { until } = self.state
            && until <= now
        {
            self.state = State::Probing;
        }
    }

    /// The next hop has greeted us.
    pub(super) fn handle_greeted(&mut self) {
        self.hops_failed = 0;
        if self.state == State::Probing {
            self.state = State::Open;
        }
    }

    /// A message was answered: the destination works.
    pub(super) fn handle_answered(&mut self) {
        self.failures = 0;
    }

    /// A connection failed, and was taken from `connections`. `delay` says how long to hold back
    /// after so many failures in a row.
    ///
    /// While other addresses are untried, the next is tried at once. While other connections
    /// work, only new ones are held back. Else the lane pauses. Returns whether it does.
    pub(super) fn handle_failure(
        &mut self,
        now: Instant,
        delay: impl FnOnce(u32) -> Duration,
    ) -> bool {
        self.hops_failed += 1;
        self.next_hop = (self.next_hop + 1) % self.destination.next_hops.len();
        if self.hops_failed < self.destination.next_hops.len() {
            return false;
        }
        // The round was in vain: the next one begins with the preferred address.
        self.hops_failed = 0;
        self.next_hop = 0;
        self.failures = self.failures.saturating_add(1);
        self.connect_at = now + delay(self.failures);
        self.pause_if_cut_off(now)
    }

    /// Pauses the lane when it has no connection and may not make one yet. Returns whether it
    /// paused.
    pub(super) fn pause_if_cut_off(&mut self, now: Instant) -> bool {
        if self.takes_attempts() && self.connections.is_empty() && self.connect_at > now {
            self.state = State::Paused { until: self.connect_at };
            return true;
        }
        false
    }

    /// Takes nothing any more.
    pub(super) fn stop(&mut self) {
        self.state = State::Stopped;
    }

    fn window(&self) -> u32 {
        let depth = if self.destination.pipeline_transactions { 2 } else { 1 };
        match self.state {
            _ if self.destination.is_suspended => 0,
            State::Open => self
                .destination
                .connections_max
                .saturating_mul(depth)
                .saturating_add(self.destination.prefetch),
            State::Probing => 1,
            State::Paused { .. } | State::Stopped => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn lane(hops: usize, connections_max: u32) -> Lane {
        Lane::new(Destination {
            queue_name: "q".into(),
            next_hops: (0..hops).map(|n| format!("192.0.2.{n}:25").parse().unwrap()).collect(),
            connections_max,
            rate_per_second: None,
            messages_per_connection_max: 10,
            pipeline_transactions: true,
            is_suspended: false,
            prefetch: 1,
        })
    }

    fn delay(failures: u32) -> Duration {
        Duration::from_secs(u64::from(failures))
    }

    fn connection() -> ConnectionId {
        ConnectionId { index: 0, generation: 0 }
    }

    #[test]
    fn a_pause_ends_in_a_probe_and_the_greeting_opens() {
        let mut lane = lane(1, 3);
        let mut now = Instant::ZERO;
        assert_eq!((lane.poll_window(), lane.poll_window()), (Some(7), None));
        assert!(lane.handle_failure(now, delay));
        assert_eq!((lane.poll_window(), lane.next_hop(now)), (Some(0), None));
        now = lane.next_deadline().unwrap();
        lane.handle_time(now);
        assert_eq!(lane.poll_window(), Some(1));
        assert!(lane.next_hop(now).is_some());
        lane.connections.push(connection());
        assert_eq!(lane.next_hop(now), None, "one probe at a time");
        lane.handle_greeted();
        assert_eq!(lane.poll_window(), Some(7));
    }

    #[test]
    fn each_failure_in_a_row_counts_until_a_message_is_answered() {
        let mut lane = lane(1, 1);
        let mut now = Instant::ZERO;
        for seconds in [1, 2, 3] {
            assert!(lane.handle_failure(now, delay));
            assert_eq!(lane.next_deadline(), Some(now + Duration::from_secs(seconds)));
            now = lane.next_deadline().unwrap();
            lane.handle_time(now);
            lane.handle_greeted();
        }
        lane.handle_answered();
        lane.handle_failure(now, delay);
        assert_eq!(lane.next_deadline(), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn addresses_are_tried_in_turn_before_a_pause() {
        let mut lane = lane(3, 1);
        let now = Instant::ZERO;
        let first = lane.next_hop(now);
        assert!(!lane.handle_failure(now, delay));
        assert_ne!(lane.next_hop(now), first);
        assert!(!lane.handle_failure(now, delay));
        assert!(lane.handle_failure(now, delay));
        let until = lane.next_deadline().unwrap();
        lane.handle_time(until);
        assert_eq!(lane.next_hop(until), first);
    }

    #[test]
    fn while_other_connections_work_only_new_ones_are_held_back() {
        let mut lane = lane(1, 2);
        let now = Instant::ZERO;
        lane.connections.push(connection());
        assert!(!lane.handle_failure(now, delay));
        assert!(lane.takes_attempts());
        assert_eq!(lane.next_hop(now), None);
        lane.connections.clear();
        assert!(lane.pause_if_cut_off(now));
    }
    fn changed(lane: &mut Lane, change: impl FnOnce(&mut Destination)) {
        let mut destination = lane.destination.clone();
        change(&mut destination);
        lane.reconfigure(&destination);
    }

    #[test]
    fn a_suspended_lane_takes_nothing_and_resumes_at_once_even_from_a_pause() {
        let mut lane = lane(1, 3);
        let now = Instant::ZERO;
        assert_eq!(lane.poll_window(), Some(7));
        changed(&mut lane, |it| it.is_suspended = true);
        assert_eq!((lane.poll_window(), lane.next_hop(now)), (Some(0), None));
        assert!(!lane.takes_attempts());
        // What was under way fails meanwhile.
        lane.handle_failure(now, delay);
        changed(&mut lane, |it| it.is_suspended = false);
        assert!(lane.takes_attempts() && lane.next_hop(now).is_some());
        assert!(lane.handle_failure(now, delay), "the lane pauses");
        changed(&mut lane, |it| it.is_suspended = true);
        changed(&mut lane, |it| it.is_suspended = false);
        assert_eq!(lane.poll_window(), Some(1), "it probes");
        assert!(lane.next_hop(now).is_some());
    }

    #[test]
    fn other_addresses_are_tried_at_once_and_the_same_ones_not() {
        let mut lane = lane(2, 1);
        let now = Instant::ZERO;
        assert!(!lane.handle_failure(now, delay));
        assert!(lane.handle_failure(now, delay), "the lane pauses");
        changed(&mut lane, |it| it.connections_max = 2);
        assert_eq!(lane.next_hop(now), None, "the pause goes on");
        let elsewhere = "198.51.100.1:25".parse().unwrap();
        changed(&mut lane, |it| it.next_hops = vec![elsewhere]);
        assert_eq!(lane.next_hop(now), Some(elsewhere));
        assert!(lane.keeps_connection(elsewhere, 1) && !lane.keeps_connection(elsewhere, 2));
        assert!(!lane.keeps_connection("192.0.2.0:25".parse().unwrap(), 0));
    }

    #[test]
    fn a_rate_that_stays_keeps_its_count() {
        let mut lane = lane(1, 1);
        let now = Instant::ZERO + Duration::from_secs(1);
        changed(&mut lane, |it| it.rate_per_second = NonZeroU32::new(1));
        assert!(lane.rate.take(now) && !lane.rate.take(now));
        changed(&mut lane, |it| it.connections_max = 2);
        assert!(!lane.rate.take(now));
        changed(&mut lane, |it| it.rate_per_second = None);
        assert!(lane.rate.take(now));
    }
}

//! The way of one queue's messages to their next hop.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use kvs_proto::MessageId;
use tcpstack::{ConnectionId, Instant};

use super::attempt::Attempt;
use super::concurrency::Concurrency;
use super::rate::RateLimit;
use crate::front::config::Destination;

/// One queue's attempts, connections and pauses. Holds no socket; `Delivery` does what it says.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) destination: Destination,
    /// Not on a connection, in the queue's order. At most the window.
    pub(super) waiting: VecDeque<Attempt>,
    /// Those that may carry something first: see [`connections_max`](Self::connections_max).
    pub(super) connections: Vec<ConnectionId>,
    /// Connections that have said QUIT, which nothing waits for but politeness. With
    /// [`LEAVING_MAX`] of them no new connection is made until one has ended.
    leaving: usize,
    pub(super) rate: RateLimit,
    concurrency: Concurrency,
    state: State,
    /// Since a message was last judged.
    failures: u32,
    /// No new connection before this: the destination has failed.
    connect_at: Instant,
    /// Nor before this: we could not make one ourselves.
    local_fault_until: Instant,
    /// The next hop to try, by its place, and how many were tried in vain since a message was
    /// judged.
    next_hop: usize,
    hops_failed: usize,
    /// When the preferred address was last given up.
    left_preferred_at: Instant,
    /// A probe that found no judgement.
    suspect: Option<MessageId>,
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
    /// After a pause: one message on one connection, until one is judged.
    Probing,
    /// For good.
    Stopped,
}

impl Lane {
    pub(super) fn new(destination: Destination) -> Lane {
        assert!(!destination.next_hops.is_empty(), "a destination has a next hop");
        assert!(destination.recipients_max > 0 && destination.messages_per_connection_max > 0);
        Lane {
            rate: RateLimit::new(destination.rate_per_second),
            concurrency: Concurrency::new(
                destination.connections_initial,
                destination.connections_max,
            ),
            destination,
            waiting: VecDeque::new(),
            connections: Vec::new(),
            leaving: 0,
            state: State::Open,
            failures: 0,
            connect_at: Instant::ZERO,
            local_fault_until: Instant::ZERO,
            next_hop: 0,
            hops_failed: 0,
            left_preferred_at: Instant::ZERO,
            suspect: None,
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
        self.concurrency.set_max(destination.connections_max);
        let is_elsewhere =
            before.next_hops != destination.next_hops || before.protocol != destination.protocol;
        if is_elsewhere || (before.is_suspended && !destination.is_suspended) {
            self.begin_round();
            self.failures = 0;
            self.connect_at = Instant::ZERO;
            if matches!(self.state, State::Paused { .. }) || self.concurrency.is_exhausted() {
                self.begin_probing();
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

    /// A connection carries another queue's messages from now on.
    pub(super) fn release(&mut self, id: ConnectionId) {
        self.connections.retain(|other| *other != id);
    }

    /// A connection says QUIT: others may take its place.
    pub(super) fn let_go(&mut self, id: ConnectionId) {
        self.release(id);
        self.leaving += 1;
    }

    /// A connection has ended.
    pub(super) fn forget_connection(&mut self, id: ConnectionId) {
        let known = self.connections.len();
        self.release(id);
        if self.connections.len() == known {
            self.leaving -= 1;
        }
    }

    /// How many connections may carry something, the first in the list. Those behind are let go
    /// when they have nothing to do.
    pub(super) fn connections_max(&self) -> usize {
        let most = match self.state {
            State::Open => self.concurrency.connections(),
            State::Probing => 1,
            State::Paused { .. } | State::Stopped => 0,
        };
        if self.destination.is_suspended { 0 } else { most as usize }
    }

    /// Whether it has no use for an idle connection, now.
    pub(super) fn lends(&self, now: Instant) -> bool {
        self.state == State::Open && self.waiting.is_empty() && self.held_back_until() <= now
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
        let may_connect = self.connections.len() < self.connections_max()
            && self.leaving < LEAVING_MAX
            && self.held_back_until() <= now;
        may_connect.then(|| self.destination.next_hops[self.next_hop])
    }

    /// No new connection before this.
    fn held_back_until(&self) -> Instant {
        self.connect_at.max(self.local_fault_until)
    }

    /// When the lane wants to be looked at, beside the rate limit.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Paused { until } => Some(until),
            State::Open | State::Probing if !self.waiting.is_empty() => {
                Some(self.held_back_until())
            }
            _ => None,
        }
    }

    /// Lets time pass: the end of a pause, and of the time for which another address does for the
    /// preferred one.
    pub(super) fn handle_time(&mut self, now: Instant) {
        if self.next_hop != 0 && self.left_preferred_at + PREFERRED_AGAIN <= now {
            self.begin_round();
        }
        if let State::Paused { until } = self.state
            && until <= now
        {
            self.begin_probing();
        }
    }

    /// The next hop has judged a message: the destination works. `is_taken`: for somebody it has
    /// taken it.
    pub(super) fn handle_judged(&mut self, is_taken: bool) {
        self.failures = 0;
        self.hops_failed = 0;
        self.suspect = None;
        if self.state == State::Probing {
            self.state = State::Open;
        }
        if is_taken && self.state == State::Open {
            self.concurrency.handle_success();
        }
    }

    /// A message met a refusal that says nothing about it. Returns whether it is to blame all the
    /// same: as a probe it met one twice, so that it might keep all the others for ever.
    pub(super) fn is_to_blame(&mut self, id: MessageId) -> bool {
        self.state == State::Probing && self.suspect.replace(id) == Some(id)
    }

    /// A connection to that address failed and was taken from `connections`, or has told us to keep
    /// away. `delay` says how long to hold back after so many failures in a row.
    ///
    /// While other addresses are untried, the next is tried at once. Else there may be half as many
    /// connections, and no new ones for the delay. With none left the lane pauses. Returns whether
    /// it does.
    ///
    /// Connections that fail together say one thing: an address that was given up already is not
    /// news, nor does the delay grow while one runs.
    pub(super) fn handle_failure(
        &mut self,
        now: Instant,
        next_hop: SocketAddr,
        delay: impl FnOnce(u32) -> Duration,
    ) -> bool {
        let is_given_up = next_hop != self.destination.next_hops[self.next_hop];
        if is_given_up || !self.ends_round(now) {
            return false;
        }
        if self.connect_at <= now {
            self.failures = self.failures.saturating_add(1);
            self.connect_at = now + delay(self.failures);
        }
        self.concurrency.handle_failure();
        self.pause_if_cut_off(now)
    }

    /// A connection could not be made by a fault of ours, which says nothing about the destination.
    /// Another address may be better; when none is, new connections wait, and nothing is given
    /// back.
    ///
    /// Returns whether the fault is news.
    pub(super) fn handle_local_fault(&mut self, now: Instant) -> bool {
        let is_round_over = self.ends_round(now);
        let is_news = is_round_over && self.local_fault_until + LOCAL_FAULT_PAUSE * 2 < now;
        if is_round_over {
            self.local_fault_until = now + LOCAL_FAULT_PAUSE;
        }
        is_news
    }

    /// Pauses the lane when it may have no connection, or has none and may not make one yet.
    /// Returns whether it paused.
    pub(super) fn pause_if_cut_off(&mut self, now: Instant) -> bool {
        let is_cut_off = self.connections.is_empty() && self.connect_at > now;
        if self.takes_attempts() && (is_cut_off || self.concurrency.is_exhausted()) {
            self.state = State::Paused { until: self.connect_at };
            return true;
        }
        false
    }

    /// Takes nothing any more.
    pub(super) fn stop(&mut self) {
        self.state = State::Stopped;
    }

    /// Goes on to the next address. Returns whether the round was in vain; the next one begins with
    /// the preferred address.
    fn ends_round(&mut self, now: Instant) -> bool {
        if self.next_hop == 0 {
            self.left_preferred_at = now;
        }
        self.hops_failed += 1;
        self.next_hop = (self.next_hop + 1) % self.destination.next_hops.len();
        let is_over = self.hops_failed >= self.destination.next_hops.len();
        if is_over {
            self.begin_round();
        }
        is_over
    }

    fn begin_round(&mut self) {
        self.next_hop = 0;
        self.hops_failed = 0;
    }

    fn begin_probing(&mut self) {
        if self.state != State::Stopped {
            self.state = State::Probing;
            self.concurrency.restart();
        }
    }

    fn window(&self) -> u32 {
        let depth = if self.destination.pipeline_transactions { 2 } else { 1 };
        let most = u32::try_from(self.connections_max()).expect("bounded by the concurrency");
        match self.state {
            State::Open if most > 0 => {
                most.saturating_mul(depth).saturating_add(self.destination.prefetch)
            }
            State::Probing => most,
            _ => 0,
        }
    }
}

/// How long new connections go to another address after the preferred one has failed.
const PREFERRED_AGAIN: Duration = Duration::from_secs(60);

/// How long no connection is tried after a fault of ours: of addresses, ports or descriptors.
const LOCAL_FAULT_PAUSE: Duration = Duration::from_secs(1);

/// Connections of a lane that may wait for the answer to QUIT at a time. A next hop that never
/// answers it can slow a lane down only as far as these pass their time-out.
const LEAVING_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn lane(hops: usize, connections_max: u32) -> Lane {
        Lane::new(Destination {
            connections_max,
            prefetch: 1,
            ..Destination::new(
                "q",
                (0..hops).map(|n| format!("192.0.2.{n}:25").parse().unwrap()).collect(),
            )
        })
    }

    fn delay(failures: u32) -> Duration {
        Duration::from_secs(u64::from(failures))
    }

    /// A connection to the address that is tried now fails.
    fn fail(lane: &mut Lane, now: Instant) -> bool {
        let next_hop = lane.destination.next_hops[lane.next_hop];
        lane.handle_failure(now, next_hop, delay)
    }

    fn connection() -> ConnectionId {
        ConnectionId { index: 0, generation: 0 }
    }

    #[test]
    fn a_pause_ends_in_a_probe_and_a_judged_message_opens() {
        let mut lane = lane(1, 3);
        let mut now = Instant::ZERO;
        assert_eq!((lane.poll_window(), lane.poll_window()), (Some(7), None));
        assert!(fail(&mut lane, now));
        assert_eq!((lane.poll_window(), lane.next_hop(now)), (Some(0), None));
        now = lane.next_deadline().unwrap();
        lane.handle_time(now);
        assert_eq!(lane.poll_window(), Some(1));
        assert!(lane.next_hop(now).is_some());
        lane.connections.push(connection());
        assert_eq!(lane.next_hop(now), None, "one probe at a time");
        lane.handle_judged(false);
        assert_eq!(lane.poll_window(), Some(3), "it begins with one connection");
        lane.handle_judged(true);
        assert_eq!(lane.poll_window(), Some(5));
    }

    #[test]
    fn each_failure_in_a_row_counts_until_a_message_is_answered() {
        let mut lane = lane(1, 1);
        let mut now = Instant::ZERO;
        for seconds in [1, 2, 3] {
            assert!(fail(&mut lane, now));
            assert_eq!(lane.next_deadline(), Some(now + Duration::from_secs(seconds)));
            now = lane.next_deadline().unwrap();
            lane.handle_time(now);
        }
        lane.handle_judged(true);
        fail(&mut lane, now);
        assert_eq!(lane.next_deadline(), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn addresses_are_tried_in_turn_before_a_pause() {
        let mut lane = lane(3, 1);
        let now = Instant::ZERO;
        let first = lane.next_hop(now);
        assert!(!fail(&mut lane, now));
        assert_ne!(lane.next_hop(now), first);
        assert!(!fail(&mut lane, now));
        assert!(fail(&mut lane, now));
        let until = lane.next_deadline().unwrap();
        lane.handle_time(until);
        assert_eq!(lane.next_hop(until), first);
    }

    #[test]
    fn connections_that_fail_together_lead_to_the_next_address() {
        let mut lane = lane(2, 4);
        let now = Instant::ZERO;
        let [first, second] = [0, 1].map(|place| lane.destination.next_hops[place]);
        for _ in 0..4 {
            assert!(!lane.handle_failure(now, first, delay));
            assert_eq!(lane.next_hop(now), Some(second), "it is untried");
        }
        assert_eq!(lane.connections_max(), 4);
        assert!(lane.handle_failure(now, second, delay), "both are down");
    }

    #[test]
    fn new_connections_go_to_the_preferred_address_again_after_a_while() {
        let mut lane = lane(2, 4);
        let now = Instant::ZERO;
        let [first, second] = [0, 1].map(|place| lane.destination.next_hops[place]);
        let later = now + PREFERRED_AGAIN;
        for (failed_at, again_at) in [(now, later), (later, later + PREFERRED_AGAIN)] {
            assert!(!lane.handle_failure(failed_at, first, delay));
            lane.handle_judged(true);
            let before = failed_at + (PREFERRED_AGAIN - Duration::from_millis(1));
            lane.handle_time(before);
            assert_eq!(lane.next_hop(before), Some(second));
            lane.handle_time(again_at);
            assert_eq!(lane.next_hop(again_at), Some(first));
        }
    }

    #[test]
    fn connections_that_fail_together_are_one_failure_in_a_row() {
        let mut lane = lane(1, 8);
        let now = Instant::ZERO;
        let paused = (0..8).filter(|_| fail(&mut lane, now)).count();
        assert_eq!((paused, lane.connections_max()), (1, 0));
        let later = now + Duration::from_secs(1);
        assert_eq!(lane.next_deadline(), Some(later));
        lane.handle_time(later);
        assert!(lane.next_hop(later).is_some(), "the probe need not wait any longer");
        assert!(fail(&mut lane, later));
        assert_eq!(lane.next_deadline(), Some(later + Duration::from_secs(2)));
    }

    #[test]
    fn while_other_connections_work_only_new_ones_are_held_back() {
        let mut lane = lane(1, 2);
        let now = Instant::ZERO;
        lane.connections.push(connection());
        assert!(!fail(&mut lane, now));
        assert!(lane.takes_attempts());
        assert_eq!(lane.next_hop(now), None);
        lane.connections.clear();
        assert!(lane.pause_if_cut_off(now));
    }

    #[test]
    fn failures_shrink_the_lane_and_the_last_one_pauses_it() {
        let mut lane = lane(1, 4);
        let now = Instant::ZERO;
        lane.connections = vec![connection(); 4];
        assert_eq!(lane.connections_max(), 4);
        assert!(!fail(&mut lane, now));
        assert_eq!(lane.connections_max(), 2);
        assert!(!fail(&mut lane, now));
        assert!(fail(&mut lane, now), "though connections are left");
        assert_eq!(lane.connections_max(), 0);
    }

    #[test]
    fn a_probe_that_meets_a_refusal_twice_is_to_blame() {
        let mut lane = lane(1, 1);
        let mut now = Instant::ZERO;
        assert!(!lane.is_to_blame(MessageId(1)) && !lane.is_to_blame(MessageId(1)), "not open");
        for is_to_blame in [false, true, false, true] {
            fail(&mut lane, now);
            now = lane.next_deadline().unwrap();
            lane.handle_time(now);
            assert_eq!(lane.is_to_blame(MessageId(1)), is_to_blame);
            if is_to_blame {
                assert!(!lane.is_to_blame(MessageId(2)), "another message");
            }
        }
    }

    #[test]
    fn a_fault_of_ours_holds_connections_back_and_pauses_nothing() {
        let mut lane = lane(2, 4);
        let now = Instant::ZERO + Duration::from_secs(60);
        assert!(!lane.handle_local_fault(now));
        assert!(lane.next_hop(now).is_some(), "the other address may be better");
        assert!(lane.handle_local_fault(now), "it is news");
        assert_eq!(lane.next_hop(now), None);
        assert!(lane.takes_attempts() && !lane.pause_if_cut_off(now));
        let later = now + LOCAL_FAULT_PAUSE;
        assert!(lane.next_hop(later).is_some());
        assert!(!lane.handle_local_fault(later) && !lane.handle_local_fault(later));
        assert_eq!(lane.connections_max(), 4);
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
        (0..9).for_each(|_| assert!(!fail(&mut lane, now)));
        changed(&mut lane, |it| it.is_suspended = false);
        assert!(lane.takes_attempts() && lane.next_hop(now).is_some());
        assert!(fail(&mut lane, now), "the lane pauses");
        changed(&mut lane, |it| it.is_suspended = true);
        changed(&mut lane, |it| it.is_suspended = false);
        assert_eq!(lane.poll_window(), Some(1), "it probes");
        assert!(lane.next_hop(now).is_some());
    }

    #[test]
    fn other_addresses_are_tried_at_once_and_the_same_ones_not() {
        let mut lane = lane(2, 1);
        let now = Instant::ZERO;
        assert!(!fail(&mut lane, now));
        assert!(fail(&mut lane, now), "the lane pauses");
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

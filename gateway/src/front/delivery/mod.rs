//! Delivery: lanes from queues to next hops.

mod connection;
mod lane;
mod outcome;
mod rate;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use kvs_proto::MessageId;
use smtp::{ClientEvent, ClientOptions, Finished, LossReason, Protocol};
use tcpstack::{ConnectionId, Instant, RecvError, Transport};

use self::connection::Connection;
use self::lane::{Attempt, Lane};
use super::config::{DeliveryConfig, FrontConfig};
use super::connections::Connections;
use super::counters::DeliveryCounters;
use super::timers::Timers;
use crate::api::{Command, Outcome};
use crate::message::{DeliveryState, MessageRef, QueueIndex};

/// The client's side of a front.
#[derive(Debug)]
pub(super) struct Delivery {
    config: DeliveryConfig,
    hostname: Box<str>,
    /// By queue; none for the queues of other fronts.
    lanes: Vec<Option<Lane>>,
    connections: Connections<Connection>,
    timers: Timers<Timer>,
    /// Lanes to look at, each at most once.
    to_serve: VecDeque<QueueIndex>,
    /// Connections that may have something to send, each at most once.
    to_flush: Vec<ConnectionId>,
    /// To the shards; drained by the worker each turn. At most one for each attempt outstanding
    /// and one for each lane.
    commands: VecDeque<Command>,
    counters: DeliveryCounters,
    jitter: fastrand::Rng,
    now: Instant,
    unix_ms: u64,
    is_stopping: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Timer {
    Connection(ConnectionId),
    Lane(QueueIndex),
}

impl Delivery {
    pub(super) fn new(config: &FrontConfig) -> Delivery {
        assert!(config.number < config.fronts, "fronts are numbered from 0");
        let is_ours = |queue: u32| queue % u32::from(config.fronts) == u32::from(config.number);
        let destinations = &config.delivery.destinations;
        let lanes: Vec<Option<Lane>> = (0..)
            .zip(destinations)
            .map(|(queue, to)| is_ours(queue).then(|| Lane::new(to.clone())))
            .collect();
        let mut delivery = Delivery {
            config: DeliveryConfig { destinations: Vec::new(), ..config.delivery.clone() },
            hostname: config.hostname.clone(),
            lanes,
            connections: Connections::new(),
            timers: Timers::new(),
            to_serve: VecDeque::new(),
            to_flush: Vec::new(),
            commands: VecDeque::new(),
            counters: DeliveryCounters::default(),
            jitter: fastrand::Rng::with_seed(config.seed),
            now: Instant::ZERO,
            unix_ms: 0,
            is_stopping: false,
        };
        // The first look at each lane tells its shard the window.
        delivery.list_all_lanes();
        delivery
    }

    pub(super) fn set_time(&mut self, now: Instant, unix_ms: u64) {
        self.now = now;
        self.unix_ms = unix_ms;
    }

    pub(super) fn handle_attempt(
        &mut self,
        queue: QueueIndex,
        id: MessageId,
        message: MessageRef,
        state: DeliveryState,
    ) {
        self.counters.attempts += 1;
        let lane = self.lane_mut(queue);
        if lane.takes_attempts() {
            lane.waiting.push_back(Attempt { id, message, state });
            self.list_lane(queue);
        } else {
            // It was on its way when the shard was told that the lane pauses.
            self.give_back(queue, id);
        }
    }

    pub(super) fn handle_connected(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.is_established = true;
        connection.renew_deadline(self.now, &self.config.timeouts);
        self.timers.arm(Timer::Connection(id), connection.deadline);
    }

    pub(super) fn handle_readable<T: Transport>(&mut self, transport: &mut T, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let received = transport.recv(id, |input| {
            connection.smtp.handle_bytes(input);
            (input.len(), ())
        });
        match received {
            Ok(()) => self.list_to_flush(id),
            Err(RecvError::Finished) => connection.smtp.handle_loss(LossReason::Closed),
            Err(RecvError::WouldBlock) => return,
            // The event that says why follows.
            Err(RecvError::Gone) => return,
        }
        self.apply_events(transport, id);
    }

    pub(super) fn handle_writable(&mut self, id: ConnectionId) {
        self.list_to_flush(id);
    }

    /// The connection is dead, or was never made.
    pub(super) fn handle_closed<T: Transport>(&mut self, transport: &mut T, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.smtp.handle_loss(LossReason::Closed);
            self.apply_events(transport, id);
        }
    }

    /// Deadlines, then work for the lanes that may have some.
    pub(super) fn maintain<T: Transport>(&mut self, transport: &mut T) {
        while let Some(timer) = self.timers.poll(self.now) {
            match timer {
                Timer::Lane(queue) => self.list_lane(queue),
                Timer::Connection(id) => self.handle_timer(transport, id),
            }
        }
        // A lane comes back into the list when a connection of it fails at once, so there are at
        // most as many rounds as next hops.
        while let Some(queue) = self.to_serve.pop_front() {
            self.serve_lane(transport, queue);
        }
    }

    /// Sends what there is to send, one call for each connection.
    pub(super) fn flush<T: Transport>(&mut self, transport: &mut T) {
        let mut listed = std::mem::take(&mut self.to_flush);
        for id in listed.drain(..) {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.is_listed = false;
            if !connection.is_established {
                continue;
            }
            // A connection that is gone has its event coming.
            if connection.send(transport, id).is_ok() {
                connection.renew_deadline(self.now, &self.config.timeouts);
                self.timers.arm(Timer::Connection(id), connection.deadline);
            }
        }
        self.to_flush = listed;
    }

    pub(super) fn stop<T: Transport>(&mut self, transport: &mut T) {
        self.is_stopping = true;
        for queue in 0..self.lanes.len() {
            if let Some(lane) = &mut self.lanes[queue] {
                lane.stop();
                self.give_back_waiting(index(queue));
            }
        }
        self.list_all_lanes();
        // Those that carry something end when it is finished. For the others nothing would come.
        let ids: Vec<ConnectionId> = self.connections.ids().collect();
        for id in ids {
            if self.connections.get(id).is_some_and(|connection| connection.is_greeted) {
                self.retire(id);
            } else {
                self.remove(transport, id, None);
            }
        }
    }

    /// Works by another configuration, with as many queues. What is on a connection is finished
    /// as it was begun; connections that have no place any more carry nothing else.
    pub(super) fn reconfigure<T: Transport>(&mut self, transport: &mut T, config: &DeliveryConfig) {
        assert_eq!(config.destinations.len(), self.lanes.len(), "queues come and go by a start");
        if self.is_stopping {
            return;
        }
        self.config = DeliveryConfig { destinations: Vec::new(), ..config.clone() };
        for (place, destination) in config.destinations.iter().enumerate() {
            let Some(lane) = &mut self.lanes[place] else { continue };
            lane.reconfigure(destination);
            let is_suspended = destination.is_suspended;
            let queue = index(place);
            if is_suspended {
                self.give_back_waiting(queue);
            }
            self.end_surplus_connections(transport, queue);
            self.list_lane(queue);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.len() == 0 && self.commands.is_empty()
    }

    pub(super) fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    pub(super) fn has_work(&self) -> bool {
        !self.to_flush.is_empty() || !self.to_serve.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(super) fn counters(&self) -> DeliveryCounters {
        let connections = u64::try_from(self.connections.len()).unwrap_or(u64::MAX);
        DeliveryCounters { connections, ..self.counters }
    }

    /// Gives a lane's waiting attempts to its connections, in order, and makes connections.
    fn serve_lane<T: Transport>(&mut self, transport: &mut T, queue: QueueIndex) {
        let now = self.now;
        let lane = self.lane_mut(queue);
        lane.is_listed = false;
        lane.handle_time(now);
        if lane.pause_if_cut_off(now) {
            self.pause(queue);
        }
        self.submit_waiting(queue);
        self.connect_as_needed(transport, queue);
        let lane = self.lane_mut(queue);
        let window = lane.poll_window();
        let deadline = lane.next_deadline().filter(|at| *at > now);
        if let Some(window) = window {
            self.commands.push_back(Command::Slots { queue, window });
        }
        if let Some(deadline) = deadline {
            self.timers.arm(Timer::Lane(queue), deadline);
        }
    }

    fn submit_waiting(&mut self, queue: QueueIndex) {
        let (now, unix_ms) = (self.now, self.unix_ms);
        loop {
            let lane = self.lanes[place(queue)].as_mut().expect("the lane is ours");
            if lane.waiting.is_empty() {
                return;
            }
            let Some(id) = free_connection(&self.connections, &lane.connections) else { return };
            if !lane.rate.take(now) {
                let at = lane.rate.next_at();
                return self.timers.arm(Timer::Lane(queue), at);
            }
            let Some(attempt) = lane.waiting.pop_front() else { return };
            let connection = self.connections.get_mut(id).expect("a lane knows its connections");
            connection.submit(attempt, unix_ms);
            self.list_to_flush(id);
            self.finish_attempts(id);
        }
    }

    /// Makes connections while more messages wait than connections are in the making.
    fn connect_as_needed<T: Transport>(&mut self, transport: &mut T, queue: QueueIndex) {
        loop {
            let lane = self.lanes[place(queue)].as_ref().expect("the lane is ours");
            let is_coming = |id: &&ConnectionId| {
                let connection = self.connections.get(**id).expect("a lane knows its connections");
                !connection.is_greeted
            };
            let coming = lane.connections.iter().filter(is_coming).count();
            // What the rate holds back needs no connections.
            let is_needed = lane.waiting.len() > coming && lane.rate.next_at() <= self.now;
            let Some(next_hop) = lane.next_hop(self.now).filter(|_| is_needed) else { return };
            self.connect(transport, queue, next_hop);
        }
    }

    fn connect<T: Transport>(&mut self, transport: &mut T, queue: QueueIndex, to: SocketAddr) {
        self.counters.connections_begun += 1;
        match transport.connect(self.now, to, None) {
            Ok(id) => {
                let hostname = self.hostname.clone();
                let lane = self.lane_mut(queue);
                lane.connections.push(id);
                let destination = &lane.destination;
                let pipeline_transactions = destination.pipeline_transactions;
                let protocol = Protocol::Smtp;
                let options = ClientOptions { hostname, protocol, pipeline_transactions };
                let messages = destination.messages_per_connection_max;
                self.connections.insert(id, Connection::new(queue, to, options, messages));
            }
            Err(failure) => {
                tracing::warn!(next_hop = %to, %failure, "cannot connect");
                self.handle_failure(queue);
            }
        }
    }

    fn apply_events<T: Transport>(&mut self, transport: &mut T, id: ConnectionId) {
        let mut loss = None;
        let mut is_over = false;
        while let Some(connection) = self.connections.get_mut(id)
            && let Some(event) = connection.smtp.poll_event()
        {
            let queue = connection.queue;
            match event {
                ClientEvent::Ready => {
                    connection.is_greeted = true;
                    self.lane_mut(queue).handle_greeted();
                }
                ClientEvent::Finished(finished) => self.finish_attempt(id, finished),
                ClientEvent::Lost(reason) => loss = Some(reason),
                ClientEvent::Over => is_over = true,
            }
        }
        if loss.is_some() || is_over {
            self.remove(transport, id, loss);
        } else if let Some(connection) = self.connections.get(id) {
            let (queue, is_used_up) = (connection.queue, connection.messages_left == 0);
            self.list_lane(queue);
            if self.is_stopping || is_used_up {
                self.retire(id);
            }
        }
    }

    /// Takes a connection out, and judges its end: see [`is_failure`].
    fn remove<T: Transport>(
        &mut self,
        transport: &mut T,
        id: ConnectionId,
        loss: Option<LossReason>,
    ) {
        let Some(connection) = self.connections.remove(id) else { return };
        assert!(connection.in_flight.is_empty(), "a lost session has finished its transactions");
        transport.close(id);
        self.timers.disarm(Timer::Connection(id));
        let queue = connection.queue;
        self.lane_mut(queue).connections.retain(|other| *other != id);
        self.list_lane(queue);
        if let Some(reason) = loss {
            self.counters.connections_lost += 1;
            if is_failure(&reason, &connection) {
                tracing::warn!(
                    queue = %self.lane_mut(queue).destination.queue_name,
                    next_hop = %connection.next_hop,
                    reason = %Shown(&reason),
                    "next hop failed"
                );
                self.handle_failure(queue);
            }
        }
    }

    fn handle_failure(&mut self, queue: QueueIndex) {
        let (now, least, most) = (self.now, self.config.backoff_min, self.config.backoff_max);
        let share = self.jitter.f64() / 2.0;
        let lane = self.lane_mut(queue);
        let delay = |failures| backoff(least, most, failures).mul_f64(1.0 - share);
        if lane.handle_failure(now, delay) {
            self.pause(queue);
        }
        self.list_lane(queue);
    }

    /// A lane has paused: the shard hears that first, then gets back what was not tried.
    fn pause(&mut self, queue: QueueIndex) {
        self.counters.pauses += 1;
        self.give_back_waiting(queue);
    }

    fn give_back_waiting(&mut self, queue: QueueIndex) {
        let lane = self.lane_mut(queue);
        let waiting = std::mem::take(&mut lane.waiting);
        if let Some(window) = lane.poll_window() {
            self.commands.push_back(Command::Slots { queue, window });
        }
        // The latest first: each goes to the head of the queue.
        for attempt in waiting.into_iter().rev() {
            self.give_back(queue, attempt.id);
        }
    }

    fn give_back(&mut self, queue: QueueIndex, id: MessageId) {
        self.counters.not_attempted += 1;
        self.commands.push_back(Command::Outcome { queue, id, outcome: Outcome::NotAttempted });
    }

    /// Lets connections go that a lane may not have any more. Those that carry something end when
    /// it is finished; for those in the making nothing would come.
    fn end_surplus_connections<T: Transport>(&mut self, transport: &mut T, queue: QueueIndex) {
        let lane = self.lane_mut(queue);
        let ids = lane.connections.clone();
        let mut kept = 0;
        for id in ids {
            let connection = self.connections.get_mut(id).expect("a lane knows its connections");
            let lane = self.lanes[place(queue)].as_ref().expect("the lane is ours");
            if lane.keeps_connection(connection.next_hop, kept) {
                kept += 1;
                continue;
            }
            connection.messages_left = 0;
            if connection.is_greeted {
                self.retire(id);
            } else {
                self.remove(transport, id, None);
            }
        }
    }

    /// Takes up what `submit` finished at once.
    fn finish_attempts(&mut self, id: ConnectionId) {
        while let Some(connection) = self.connections.get_mut(id)
            && let Some(event) = connection.smtp.poll_event()
        {
            match event {
                ClientEvent::Finished(finished) => self.finish_attempt(id, finished),
                other => unreachable!("submitting gave {other:?}"),
            }
        }
    }

    fn finish_attempt(&mut self, id: ConnectionId, finished: Finished) {
        let connection = self.connections.get_mut(id).expect("its session has finished");
        let place_in_line = connection
            .in_flight
            .iter()
            .position(|in_flight| in_flight.attempt.id.0 == finished.key)
            .expect("what finishes was submitted");
        let in_flight = connection.in_flight.remove(place_in_line).expect("just found");
        let has_served = connection.smtp.has_served();
        let (queue, next_hop) = (connection.queue, connection.next_hop);
        let message_id = in_flight.attempt.id;
        let lane = self.lanes[place(queue)].as_mut().expect("the lane is ours");
        if has_served {
            lane.handle_answered();
        }
        let queue_name = &lane.destination.queue_name;
        let counters = &mut self.counters;
        let outcome =
            outcome::settle(in_flight, finished, queue_name, next_hop, self.unix_ms, counters);
        self.commands.push_back(Command::Outcome { queue, id: message_id, outcome });
        self.list_lane(queue);
    }

    fn handle_timer<T: Transport>(&mut self, transport: &mut T, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.deadline > self.now {
            self.timers.arm(Timer::Connection(id), connection.deadline);
        } else if connection.smtp.is_idle() {
            self.retire(id);
        } else {
            connection.smtp.handle_loss(LossReason::TimedOut);
            self.apply_events(transport, id);
        }
    }

    /// Says good-bye on a connection that has nothing to do.
    fn retire(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.smtp.is_idle() {
            connection.smtp.quit();
            self.list_to_flush(id);
        }
    }

    fn lane_mut(&mut self, queue: QueueIndex) -> &mut Lane {
        let lane = self.lanes.get_mut(place(queue)).and_then(Option::as_mut);
        lane.expect("a queue's attempts go to the front that has its lane")
    }

    fn list_lane(&mut self, queue: QueueIndex) {
        let lane = self.lane_mut(queue);
        if !lane.is_listed {
            lane.is_listed = true;
            self.to_serve.push_back(queue);
        }
    }

    fn list_all_lanes(&mut self) {
        for queue in 0..self.lanes.len() {
            if self.lanes[queue].is_some() {
                self.list_lane(index(queue));
            }
        }
    }

    fn list_to_flush(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.is_listed
        {
            connection.is_listed = true;
            self.to_flush.push(id);
        }
    }
}

/// The connection for the next message: one without work before one that would overlap.
fn free_connection(
    connections: &Connections<Connection>,
    of_lane: &[ConnectionId],
) -> Option<ConnectionId> {
    let free = of_lane.iter().filter_map(|id| {
        let connection = connections.get(*id).expect("a lane knows its connections");
        connection.can_submit().then_some((connection.in_flight.len(), *id))
    });
    free.min_by_key(|(load, _)| *load).map(|(_, id)| id)
}

/// Whether the end of a connection speaks against the destination. One that was used and is
/// closed is not a failure: servers end idle connections, and those that carried many messages.
fn is_failure(reason: &LossReason, connection: &Connection) -> bool {
    match reason {
        LossReason::Closed => !connection.smtp.has_served(),
        LossReason::Interrupted => false,
        LossReason::ShutDown(_) | LossReason::Refused(_) => true,
        LossReason::TimedOut | LossReason::Malformed => true,
    }
}

/// The pause after so many failures in a row: twice as long each time, within the bounds.
fn backoff(least: Duration, most: Duration, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    least.saturating_mul(factor).min(most)
}

/// A loss in words, for the log.
struct Shown<'a>(&'a LossReason);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            LossReason::Refused(reply) | LossReason::ShutDown(reply) => reply.fmt(f),
            LossReason::Interrupted => f.write_str("content refused before its end"),
            LossReason::Closed => f.write_str("connection refused or closed"),
            LossReason::TimedOut => f.write_str("no answer in time"),
            LossReason::Malformed => f.write_str("not SMTP"),
        }
    }
}

fn place(queue: QueueIndex) -> usize {
    queue.0 as usize
}

fn index(place: usize) -> QueueIndex {
    QueueIndex(u32::try_from(place).expect("queues are numbered by 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_within_its_bounds() {
        let delay = |failures| backoff(Duration::from_secs(1), Duration::from_secs(60), failures);
        assert_eq!([1, 2, 3, 6].map(delay).map(|delay| delay.as_secs()), [1, 2, 4, 32]);
        assert_eq!([7, 40, u32::MAX].map(delay).map(|delay| delay.as_secs()), [60, 60, 60]);
    }
}

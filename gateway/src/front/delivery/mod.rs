//! Delivery: lanes from queues to next hops.

mod attempt;
mod concurrency;
mod connection;
mod events;
mod lane;
mod outcome;
mod pool;
mod rate;
mod serve;
mod share;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kvs_proto::MessageId;
use smtp::LossReason;
use tcpstack::{CloseReason, ConnectionId, Instant, RecvError, Transport};

use self::attempt::Attempt;
use self::connection::Connection;
use self::lane::Lane;
use self::pool::Pool;
use super::config::{DeliveryConfig, FrontConfig};
use super::connections::Connections;
use super::counters::DeliveryCounters;
use super::timers::Timers;
use crate::api::Command;
use crate::board::Board;
use crate::message::{DeliveryState, MessageRef, QueueIndex};

/// The client's side of a front.
#[derive(Debug)]
pub(super) struct Delivery {
    config: DeliveryConfig,
    hostname: Box<str>,
    /// By queue; none for the queues of other fronts.
    lanes: Vec<Option<Lane>>,
    connections: Connections<Connection>,
    /// Those without work.
    idle: Pool,
    timers: Timers<Timer>,
    /// Lanes to look at, each at most once.
    to_serve: VecDeque<QueueIndex>,
    /// Lanes whose connections do not do for what waits. Empty between turns.
    to_connect: Vec<QueueIndex>,
    /// Connections that may have something to send, each at most once.
    to_flush: Vec<ConnectionId>,
    /// Connections with something to send that waits for their queue's lease. Some may be gone.
    withheld: Vec<ConnectionId>,
    board: Arc<Board>,
    /// To the shards; drained by the worker each turn. At most one for each attempt outstanding
    /// and one for each lane.
    commands: VecDeque<Command>,
    /// Connections that have nothing to do.
    idle_count: usize,
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
    pub(super) fn new(config: &FrontConfig, board: Arc<Board>) -> Delivery {
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
            idle: Pool::default(),
            timers: Timers::new(),
            to_serve: VecDeque::new(),
            to_connect: Vec::new(),
            to_flush: Vec::new(),
            withheld: Vec::new(),
            board,
            commands: VecDeque::new(),
            idle_count: 0,
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
        let attempt = Attempt::new(id, message, state);
        let lane = self.lane_mut(queue);
        if lane.takes_attempts() && !attempt.left.is_empty() {
            lane.waiting.push_back(attempt);
            self.list_lane(queue);
        } else {
            // It was on its way when the shard was told that the lane pauses.
            self.give_back(queue, attempt);
        }
    }

    pub(super) fn handle_connected(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.is_established = true;
        connection.renew_deadline(self.now, &self.config.timeouts);
        self.timers.arm(Timer::Connection(id), connection.deadline());
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
    pub(super) fn handle_closed<T: Transport>(
        &mut self,
        transport: &mut T,
        id: ConnectionId,
        reason: CloseReason,
    ) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if reason == CloseReason::LocalError && !connection.is_established {
            let (queue, next_hop) = (connection.queue, connection.terms.next_hop);
            self.remove(transport, id, None);
            self.handle_local_fault(queue, next_hop, &"no way there from here");
        } else {
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
        loop {
            while let Some(queue) = self.to_serve.pop_front() {
                self.serve_lane(queue);
            }
            // Behind them all, as a lane's connections are its own while it has work for them.
            let Some(queue) = self.to_connect.pop() else { return };
            self.connect_as_needed(transport, queue);
        }
    }

    /// A queue has a lease again: what waited for one goes on.
    pub(super) fn handle_leases(&mut self) {
        for id in std::mem::take(&mut self.withheld) {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.is_withheld = false;
                self.list_to_flush(id);
            }
        }
        self.list_all_lanes();
    }

    /// Sends what there is to send, one call for each connection. Nothing of a message leaves, and its end of
    /// data above all, unless its queue has a lease at the time that `clock` reads before each call: the
    /// turn may have taken long, and the process may have been stopped in it. What is withheld waits for
    /// a little; if the queue is somebody else's by now, this process ends and nothing was lost.
    pub(super) fn flush<T: Transport>(&mut self, transport: &mut T, clock: impl Fn() -> Instant) {
        let mut listed = std::mem::take(&mut self.to_flush);
        for id in listed.drain(..) {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.is_listed = false;
            let queue = connection.queue;
            let may_send = || clock() < self.board.lease_until(queue);
            // A connection that is gone has its event coming.
            if connection.is_established && connection.send(transport, id, may_send).is_ok() {
                connection.renew_deadline(self.now, &self.config.timeouts);
                if connection.is_withheld {
                    self.withheld.push(id);
                    connection.limit_waiting(self.now + WITHHELD_TIMEOUT);
                }
                self.timers.arm(Timer::Connection(id), connection.deadline());
                self.count_idle(id);
            }
        }
        // Those that were listed meanwhile are flushed in the next turn.
        listed.append(&mut self.to_flush);
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
            if self.connections.get(id).is_some_and(Connection::is_greeted) {
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

/// How long the next hop is kept waiting in the middle of a message for a lease. Then the connection is
/// given up, and the message goes back as if it had not been tried.
const WITHHELD_TIMEOUT: Duration = Duration::from_secs(10);

fn place(queue: QueueIndex) -> usize {
    queue.0 as usize
}

fn index(place: usize) -> QueueIndex {
    QueueIndex(u32::try_from(place).expect("queues are numbered by 32 bits"))
}

//! Lanes at work: attempts go to connections, or back to the queue.

use std::fmt;
use std::net::SocketAddr;

use tcpstack::{ConnectionId, Transport};

use super::attempt::Attempt;
use super::connection::Connection;
use super::pool::Terms;
use super::{Delivery, Timer, place};
use crate::api::Command;
use crate::front::connections::Connections;
use crate::message::QueueIndex;

impl Delivery {
    /// Gives a lane's waiting attempts to its connections, in order, and lets connections go.
    pub(super) fn serve_lane(&mut self, queue: QueueIndex) {
        let now = self.now;
        let lane = self.lane_mut(queue);
        lane.is_listed = false;
        lane.handle_time(now);
        if lane.pause_if_cut_off(now) {
            self.pause(queue);
        }
        self.submit_waiting(queue);
        self.retire_surplus(queue);
        let lane = self.lane_mut(queue);
        let is_waiting = !lane.waiting.is_empty();
        let window = lane.poll_window();
        let deadline = lane.next_deadline().filter(|at| *at > now);
        if let Some(window) = window {
            self.commands.push_back(Command::Slots { queue, window });
        }
        if let Some(deadline) = deadline {
            self.timers.arm(Timer::Lane(queue), deadline);
        }
        if is_waiting {
            self.to_connect.push(queue);
        }
    }

    /// Returns whether anything went.
    fn submit_waiting(&mut self, queue: QueueIndex) -> bool {
        let (now, unix_ms) = (self.now, self.unix_ms);
        let mut has_gone = false;
        loop {
            let lane = self.lanes[place(queue)].as_mut().expect("the lane is ours");
            if lane.waiting.is_empty() || self.board.lease_until(queue) <= now {
                return has_gone;
            }
            let most = lane.connections_max().min(lane.connections.len());
            let usable = &lane.connections[..most];
            let Some(id) = free_connection(&self.connections, usable) else { return has_gone };
            let at = lane.rate.next_at();
            if at > now {
                self.timers.arm(Timer::Lane(queue), at);
                return has_gone;
            }
            let Some(attempt) = lane.waiting.pop_front() else { return has_gone };
            let connection = self.connections.get_mut(id).expect("a lane knows its connections");
            if let Err(attempt) = connection.submit(attempt, now, unix_ms) {
                // Its session has had as many domains as it may: another one can take it.
                lane.waiting.push_front(attempt);
                connection.transactions_left = 0;
                self.retire(id);
                continue;
            }
            has_gone = true;
            lane.rate.take(now);
            self.list_to_flush(id);
            self.finish_attempts(id);
        }
    }

    /// Says good-bye on connections without work that the lane may not use.
    fn retire_surplus(&mut self, queue: QueueIndex) {
        let lane = self.lane_mut(queue);
        let usable = lane.connections_max();
        let surplus: Vec<ConnectionId> = lane.connections.iter().skip(usable).copied().collect();
        for id in surplus {
            self.retire(id);
        }
    }

    /// While more messages wait than connections are in the making, takes over what is without work, or makes connections.
    pub(super) fn connect_as_needed<T: Transport>(&mut self, transport: &mut T, queue: QueueIndex) {
        while let Some(terms) = self.wanted_connection(queue) {
            if !self.take_over_idle(queue, terms) {
                self.connect(transport, queue, terms);
            } else if !self.submit_waiting(queue) {
                // Without a lease another one would not help, either.
                return;
            }
        }
    }

    /// Of one more connection, if more messages wait than connections are in the making.
    fn wanted_connection(&self, queue: QueueIndex) -> Option<Terms> {
        let lane = self.lanes[place(queue)].as_ref().expect("the lane is ours");
        let is_coming = |id: &&ConnectionId| {
            let connection = self.connections.get(**id).expect("a lane knows its connections");
            !connection.is_greeted()
        };
        let coming = lane.connections.iter().filter(is_coming).count();
        // What the rate holds back needs no connections.
        let is_needed = lane.waiting.len() > coming && lane.rate.next_at() <= self.now;
        let next_hop = lane.next_hop(self.now).filter(|_| is_needed)?;
        Some(Terms::new(&lane.destination, next_hop))
    }

    /// Goes on with a connection that no lane has work for.
    fn take_over_idle(&mut self, queue: QueueIndex, terms: Terms) -> bool {
        while let Some(id) = self.idle.take(terms) {
            let connection = self.connections.get_mut(id).expect("those that end are taken out");
            connection.is_pooled = false;
            let lender = self.lanes[place(connection.queue)].as_mut().expect("the lane is ours");
            if connection.can_change_queues() && lender.lends(self.now) {
                lender.release(id);
                connection.queue = queue;
                self.lane_mut(queue).connections.push(id);
                return true;
            }
        }
        false
    }

    fn connect<T: Transport>(&mut self, transport: &mut T, queue: QueueIndex, terms: Terms) {
        self.counters.connections_begun += 1;
        match transport.connect(self.now, terms.next_hop, None) {
            Ok(id) => {
                self.lane_mut(queue).connections.push(id);
                self.connections.insert(id, Connection::new(queue, terms, &self.hostname));
            }
            Err(failure) => self.handle_local_fault(queue, terms.next_hop, &failure),
        }
    }

    /// Lets other lanes have a connection, should it be without work.
    pub(super) fn pool(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.is_pooled
            && connection.can_change_queues()
        {
            connection.is_pooled = true;
            self.idle.put(connection.terms, id);
        }
    }

    /// A connection could not be made for a reason of our own.
    pub(super) fn handle_local_fault(
        &mut self,
        queue: QueueIndex,
        next_hop: SocketAddr,
        why: &dyn fmt::Display,
    ) {
        self.counters.local_faults += 1;
        let now = self.now;
        let lane = self.lane_mut(queue);
        if lane.handle_local_fault(now) {
            let queue = &lane.destination.queue_name;
            tracing::warn!(%queue, %next_hop, %why, "cannot connect");
        }
        self.list_lane(queue);
    }

    /// A lane has paused: the shard hears that first, then gets back what was not tried.
    pub(super) fn pause(&mut self, queue: QueueIndex) {
        self.counters.pauses += 1;
        self.give_back_waiting(queue);
    }

    pub(super) fn give_back_waiting(&mut self, queue: QueueIndex) {
        let lane = self.lane_mut(queue);
        let waiting = std::mem::take(&mut lane.waiting);
        if let Some(window) = lane.poll_window() {
            self.commands.push_back(Command::Slots { queue, window });
        }
        // The latest first: each goes to the head of the queue.
        for attempt in waiting.into_iter().rev() {
            self.give_back(queue, attempt);
        }
    }

    /// Ends an attempt with what has come of it.
    pub(super) fn give_back(&mut self, queue: QueueIndex, attempt: Attempt) {
        self.counters.not_attempted += u64::from(!attempt.is_begun);
        let (id, outcome) = (attempt.id, attempt.end());
        self.commands.push_back(Command::Outcome { queue, id, outcome });
    }

    /// Lets connections go that a lane may not have any more. Those that carry something end when
    /// it is finished; for those in the making nothing would come.
    pub(super) fn end_surplus_connections<T: Transport>(
        &mut self,
        transport: &mut T,
        queue: QueueIndex,
    ) {
        let ids = self.lane_mut(queue).connections.clone();
        let mut kept = 0;
        for id in ids {
            let connection = self.connections.get_mut(id).expect("a lane knows its connections");
            let lane = self.lanes[place(queue)].as_ref().expect("the lane is ours");
            let is_of_protocol = connection.terms.protocol == lane.destination.protocol;
            if is_of_protocol && lane.keeps_connection(connection.terms.next_hop, kept) {
                kept += 1;
                continue;
            }
            connection.transactions_left = 0;
            if connection.is_greeted() {
                self.retire(id);
            } else {
                self.remove(transport, id, None);
            }
        }
    }

    /// Says good-bye on a connection, if it has nothing to do.
    pub(super) fn retire(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.smtp.is_idle() {
            connection.smtp.quit();
            let queue = connection.queue;
            self.lane_mut(queue).let_go(id);
            self.list_lane(queue);
            self.list_to_flush(id);
        }
    }

    /// Keeps count of connections that have nothing to do; one too many says good-bye.
    pub(super) fn count_idle(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let is_idle = connection.smtp.is_idle();
        let was_idle = std::mem::replace(&mut connection.is_counted_idle, is_idle);
        match (was_idle, is_idle) {
            (false, true) => self.idle_count += 1,
            (true, false) => self.idle_count -= 1,
            _ => return,
        }
        if is_idle && self.idle_count > self.config.idle_connections_max {
            self.retire(id);
        }
    }
}

/// The connection for the next message: one without work before one that would overlap.
fn free_connection(
    connections: &Connections<Connection>,
    usable: &[ConnectionId],
) -> Option<ConnectionId> {
    let free = usable.iter().filter_map(|id| {
        let connection = connections.get(*id).expect("a lane knows its connections");
        connection.can_submit().then_some((connection.in_flight.len(), *id))
    });
    free.min_by_key(|(load, _)| *load).map(|(_, id)| id)
}

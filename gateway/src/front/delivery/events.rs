//! What sessions say: hand-shakes, results and ends, and what they mean for the lane.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use smtp::{ClientEvent, Finished, LossReason, RecipientResult, Reply, Results};
use tcpstack::{ConnectionId, Transport};

use super::attempt::InFlight;
use super::connection::Connection;
use super::outcome::Ended;
use super::{Delivery, Timer, place};
use crate::message::QueueIndex;

impl Delivery {
    pub(super) fn apply_events<T: Transport>(&mut self, transport: &mut T, id: ConnectionId) {
        let mut loss = None;
        let mut is_over = false;
        let mut is_refused = false;
        while let Some(connection) = self.connections.get_mut(id)
            && let Some(event) = connection.smtp.poll_event()
        {
            match event {
                ClientEvent::Ready => connection.handle_greeted(),
                ClientEvent::Finished(finished) => is_refused |= self.finish_attempt(id, finished),
                ClientEvent::Lost(reason) => loss = Some(reason),
                ClientEvent::Over => is_over = true,
            }
        }
        if loss.is_some() || is_over {
            return self.remove(transport, id, loss);
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let queue = connection.queue;
        if is_refused {
            // It keeps us away without having seen a message; another try begins anew.
            connection.transactions_left = 0;
            let next_hop = connection.terms.next_hop;
            self.handle_failure(queue, next_hop);
        }
        self.list_lane(queue);
        let is_used_up = self.connections.get(id).is_some_and(|it| it.transactions_left == 0);
        if self.is_stopping || is_used_up {
            self.retire(id);
        } else {
            self.pool(id);
        }
    }

    /// Takes a connection out, and judges its end: see [`is_failure`].
    pub(super) fn remove<T: Transport>(
        &mut self,
        transport: &mut T,
        id: ConnectionId,
        loss: Option<LossReason>,
    ) {
        let Some(connection) = self.connections.remove(id) else { return };
        assert!(connection.in_flight.is_empty(), "a lost session has finished its transactions");
        transport.close(id);
        self.timers.disarm(Timer::Connection(id));
        if connection.is_pooled {
            self.idle.forget(connection.terms, id);
        }
        self.idle_count -= usize::from(connection.is_counted_idle);
        let queue = connection.queue;
        self.lane_mut(queue).forget_connection(id);
        self.list_lane(queue);
        if let Some(reason) = loss {
            self.counters.connections_lost += 1;
            if is_failure(&reason, &connection) {
                tracing::warn!(
                    queue = %self.lane_mut(queue).destination.queue_name,
                    next_hop = %connection.terms.next_hop,
                    reason = %Shown(&reason),
                    "next hop failed"
                );
                self.handle_failure(queue, connection.terms.next_hop);
            }
        }
    }

    pub(super) fn handle_timer<T: Transport>(&mut self, transport: &mut T, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.deadline() > self.now {
            self.timers.arm(Timer::Connection(id), connection.deadline());
        } else if connection.smtp.is_idle() {
            self.retire(id);
        } else {
            let is_ours = connection.is_withheld;
            let reason = if is_ours { LossReason::Withheld } else { LossReason::TimedOut };
            connection.smtp.handle_loss(reason);
            self.apply_events(transport, id);
        }
    }

    /// Takes up what `submit` finished at once.
    pub(super) fn finish_attempts(&mut self, id: ConnectionId) {
        while let Some(connection) = self.connections.get_mut(id)
            && let Some(event) = connection.smtp.poll_event()
        {
            match event {
                ClientEvent::Finished(finished) => _ = self.finish_attempt(id, finished),
                other => unreachable!("submitting gave {other:?}"),
            }
        }
    }

    fn handle_failure(&mut self, queue: QueueIndex, next_hop: SocketAddr) {
        let (now, least, most) = (self.now, self.config.backoff_min, self.config.backoff_max);
        let share = self.jitter.f64() / 2.0;
        let lane = self.lane_mut(queue);
        let delay = |failures| backoff(least, most, failures).mul_f64(1.0 - share);
        if lane.handle_failure(now, next_hop, delay) {
            self.pause(queue);
        }
        self.list_lane(queue);
    }

    /// Ends a transaction, and its attempt if nothing is left of it. Returns whether the next hop
    /// refused it without judging it.
    fn finish_attempt(&mut self, id: ConnectionId, finished: Finished) -> bool {
        let connection = self.connections.get_mut(id).expect("its session has finished");
        let in_flight = connection.finish(finished.key, self.now);
        let (queue, is_over) = (connection.queue, connection.smtp.is_over());
        self.list_lane(queue);
        match finished.results {
            Results::NotTried { refusal } => self.undo_attempt(id, in_flight, refusal),
            Results::Recipients(results) => {
                let is_taken = results.contains(&RecipientResult::Delivered);
                if is_taken || !is_over {
                    self.lane_mut(queue).handle_judged(is_taken);
                }
                let reply = finished.reply.as_ref();
                self.settle(id, in_flight, &results, reply, finished.dsn_passed_on);
                false
            }
        }
    }

    /// A transaction of which the next hop has judged nothing.
    fn undo_attempt(
        &mut self,
        id: ConnectionId,
        in_flight: InFlight,
        refusal: Option<Reply>,
    ) -> bool {
        let queue = self.connections.get(id).expect("its session has finished").queue;
        let Some(reply) = refusal else {
            self.requeue(queue, in_flight);
            return false;
        };
        if self.lane_mut(queue).is_to_blame(in_flight.attempt.id) {
            let mut in_flight = in_flight;
            // The other recipients would meet the same.
            in_flight.share.places.append(&mut in_flight.attempt.left);
            let result = RecipientResult::Transient(reply);
            let results = vec![result; in_flight.share.places.len()];
            self.settle(id, in_flight, &results, None, false);
        } else {
            self.requeue(queue, in_flight);
        }
        true
    }

    /// What was not tried goes back to the queue, or, if other recipients of the message were tried
    /// before, to the next connection.
    fn requeue(&mut self, queue: QueueIndex, in_flight: InFlight) {
        let attempt = in_flight.undo();
        let lane = self.lane_mut(queue);
        if attempt.is_begun && lane.takes_attempts() {
            lane.waiting.push_front(attempt);
        } else {
            self.give_back(queue, attempt);
        }
    }

    fn settle(
        &mut self,
        id: ConnectionId,
        mut in_flight: InFlight,
        results: &[RecipientResult],
        reply: Option<&Reply>,
        dsn_passed_on: bool,
    ) {
        let connection = self.connections.get(id).expect("its session has finished");
        let (queue, next_hop) = (connection.queue, connection.terms.next_hop);
        let lane = self.lanes[place(queue)].as_mut().expect("the lane is ours");
        let ended = Ended {
            queue_name: &lane.destination.queue_name,
            next_hop,
            unix_ms: self.unix_ms,
            results,
            reply,
            dsn_passed_on,
        };
        ended.settle(&mut in_flight, &mut self.counters);
        let attempt = in_flight.attempt;
        if !attempt.left.is_empty() && lane.takes_attempts() {
            lane.waiting.push_front(attempt);
        } else {
            self.give_back(queue, attempt);
        }
    }
}

/// Whether the end of a connection speaks against the destination. One that was used and ends
/// between two messages is not a failure: servers end idle connections, and those that carried many
/// messages. Nor is one that ends because content was refused.
fn is_failure(reason: &LossReason, connection: &Connection) -> bool {
    match reason {
        LossReason::Interrupted | LossReason::Withheld => false,
        LossReason::Closed | LossReason::ShutDown(_) => {
            !connection.smtp.has_served() || connection.smtp.was_cut_short()
        }
        LossReason::Refused(_) | LossReason::TimedOut | LossReason::Malformed => true,
    }
}

/// The pause after so many failures in a row: twice as long each time, within the bounds.
fn backoff(least: Duration, most: Duration, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    least.saturating_mul(factor).min(most)
}

/// A loss in words, for the log.
struct Shown<'a>(&'a LossReason);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            LossReason::Refused(reply) | LossReason::ShutDown(reply) => reply.fmt(f),
            LossReason::Interrupted => f.write_str("content refused before its end"),
            LossReason::Closed => f.write_str("connection refused or closed"),
            LossReason::Withheld => f.write_str("we have no lease"),
            LossReason::TimedOut => f.write_str("no answer in time"),
            LossReason::Malformed => f.write_str("not SMTP"),
        }
    }
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

//! What the standby path is used for while the active one is silent: to ask again what waits for an
//! answer, and to tell a dead path from a dead server.

use std::collections::BTreeMap;

use kvs_proto::{Event as ClientEvent, Op, Status, Tag};
use tcpstack::Instant;
use tracing::warn;

use super::{Link, LinkCounters, LinkSettings, LinkState, PathState};
use crate::message::QueueIndex;
use crate::replication::request::{Ask, Request};

/// Hedges that may be unanswered on one lane, and bytes that may wait for it. At the bound copies
/// wait for the active path.
const HEDGES_MAX: u64 = 4096;
const HEDGE_BYTES_MAX: usize = 1 << 20;

/// The queues that are attached by the standby path too, with the generation of the active one.
///
/// A queue at the server may be dropped and made anew under the same name and handle, with sequence
/// numbers that begin again. So an answer counts only behind that to the last attachment, and each
/// attachment has a tag of its own, unlike that of any attachment by the active path.
#[derive(Default, Debug)]
pub(super) struct Attachments {
    queues: BTreeMap<QueueIndex, Attachment>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Attachment {
    Asked(Tag),
    Attached,
    Refused,
}

impl Attachments {
    /// Whether the queue is to be attached, which is done with that tag.
    fn begin(&mut self, queue: QueueIndex, tag: Tag) -> bool {
        if self.queues.contains_key(&queue) {
            return false;
        }
        self.queues.insert(queue, Attachment::Asked(tag));
        true
    }

    /// What the standby path still says about the queue means nothing.
    pub(super) fn forget(&mut self, queue: QueueIndex) {
        self.queues.remove(&queue);
    }

    /// The standby path is gone, or is none any more.
    pub(super) fn clear(&mut self) {
        self.queues.clear();
    }

    /// Takes what the standby path says; returns it if it means something for a copy.
    pub(super) fn take(&mut self, event: ClientEvent) -> Option<ClientEvent> {
        let queue = match &event {
            ClientEvent::Attached { queue, .. } | ClientEvent::Ack { queue, .. } => *queue,
            ClientEvent::Refused(refusal) => refusal.queue,
            _ => return None,
        };
        let attachment = self.queues.get_mut(&QueueIndex(queue.0))?;
        match (&event, *attachment) {
            (ClientEvent::Attached { tag, .. }, Attachment::Asked(asked)) if *tag == asked => {
                *attachment = Attachment::Attached;
                None
            }
            (ClientEvent::Refused(refusal), Attachment::Asked(asked))
                if refusal.op == Op::Attach && refusal.sequence.0 == asked.0 =>
            {
                *attachment = Attachment::Refused;
                None
            }
            // An acknowledgement of nothing tells of credit: the active path does, too.
            (ClientEvent::Ack { count, .. }, Attachment::Attached) if *count > 0 => Some(event),
            (ClientEvent::Refused(refusal), Attachment::Attached)
                if refusal.op.is_change() && is_final(refusal.status) =>
            {
                Some(event)
            }
            _ => None,
        }
    }
}

/// Whether a change that is refused so has used its number up. Otherwise the active path decides: a
/// hedge that comes after its number was forgotten, or after a resume, means nothing.
fn is_final(status: Status) -> bool {
    !matches!(
        status,
        Status::SequenceGap | Status::Fenced | Status::NotAttached | Status::UnknownQueue
    )
}

impl Link {
    /// The other path than the active one, while the link is up by one of two.
    fn standby(&self) -> Option<usize> {
        (self.paths.len() > 1 && self.incarnation.is_some()).then_some(1 - self.active)
    }

    /// Whether the active path is to be given up: it owes answers and is silent, while the other
    /// one answers or has met another life of the server. Asks both whether they are there before
    /// that. If neither answers it may be the server, which has until `deadline`; if the other
    /// one begins to answer, it may be that the server is back, and answers by both in a moment.
    ///
    /// Likewise if it is so slow that leases end by the age of what it answers, while the other one's answers are
    /// fresh: what hedges were answered would wait for a lease.
    pub(super) fn is_active_dead(&mut self, now: Instant) -> bool {
        let Some(standby) = self.standby() else { return false };
        let (deadline, awake_since) = (self.settings.path_deadline, self.awake.path_since);
        let is_ready = self.is_ready(now, standby);
        if is_ready && self.is_lagging(now, standby) {
            let (server, address) = (&self.settings.server, self.paths[self.active].address());
            warn!(%server, %address, "the active path is too slow");
            return true;
        }
        let stranger = self.stranger;
        let [first, second] = &mut self.paths[..] else { unreachable!("there is a standby path") };
        let (active, other) = if standby == 1 { (first, second) } else { (second, first) };
        for (place, lane) in active.lanes.iter_mut().enumerate() {
            let is_suspect = stranger.is_some_and(|(_, met_at)| lane.heard_at() <= met_at);
            if is_suspect {
                lane.probe(now);
            }
            let Some(since) = lane.quiet_since(awake_since) else { continue };
            let quiet = now.saturating_since(since);
            if quiet < deadline / 3 {
                continue;
            }
            lane.probe(now);
            let Some(other) = other.lanes.get_mut(place) else { continue };
            if other.heard_at() <= since {
                other.probe(now);
            }
            let mut answers = false;
            if other.heard_at() > since {
                let witness = self.witnesses.entry(place).or_insert((since, now));
                if witness.0 != since {
                    *witness = (since, now);
                }
                let (_, answered_at) = *witness;
                answers = now.saturating_since(answered_at) >= deadline / 3;
            }
            if quiet >= deadline && ((is_ready && answers) || is_suspect) {
                let (server, address) = (&self.settings.server, active.address());
                warn!(%server, %address, ?quiet, "the active path is silent");
                return true;
            }
        }
        false
    }

    /// Whether the newest answer of a worker by the active path is too old, and that by the other one is not.
    fn is_lagging(&self, now: Instant, standby: usize) -> bool {
        let (renew_after, deadline) = (self.settings.renew_after(), self.settings.path_deadline);
        let lanes = self.paths[self.active].lanes.iter().zip(&self.paths[standby].lanes);
        lanes.into_iter().any(|(lane, other)| {
            let Some((answered, fresh)) = lane.answered_since().zip(other.answered_since()) else {
                return false;
            };
            let known = answered.max(self.awake.path_since);
            now.saturating_since(known) >= renew_after * 2 + deadline
                && fresh >= known + renew_after + deadline
        })
    }

    /// Whether requests may move to that path although the other one has not ended.
    fn is_ready(&self, now: Instant, path: usize) -> bool {
        let path = &self.paths[path];
        let (deadline, awake_since) = (self.settings.path_deadline, self.awake.path_since);
        path.is_settled(now) && path.responds(now, deadline, awake_since)
    }

    /// Whether copies are to be told now that answers are late: once in `hedge_after`.
    pub(super) fn is_late(&mut self, now: Instant) -> bool {
        let Some(standby) = self.standby() else { return false };
        if now < self.late_at || !self.paths[standby].is_up() {
            return false;
        }
        let is_late = (0..self.ports.len()).any(|lane| self.is_late_at(lane));
        if is_late {
            self.late_at = now + self.settings.hedge_after;
        }
        is_late
    }

    /// Whether answers of that worker by the active path are late.
    pub(super) fn is_late_at(&self, lane: usize) -> bool {
        let after = self.settings.hedge_after;
        let lane = self.paths[self.active].lanes.get(lane);
        let since = lane.and_then(|lane| lane.quiet_since(self.awake.hedge_since));
        !after.is_zero() && since.is_some_and(|since| self.now.saturating_since(since) >= after)
    }

    /// Whether the standby path takes another hedge of that queue.
    pub(super) fn takes_hedge(&self, queue: QueueIndex) -> bool {
        let Some(standby) = self.standby() else { return false };
        let (deadline, awake_since) = (self.settings.path_deadline, self.awake.path_since);
        let path = &self.paths[standby];
        let Some(lane) = path.lanes.get(self.home_of(queue)) else { return false };
        let (unanswered, bytes) = lane.backlog();
        path.responds(self.now, deadline, awake_since)
            && unanswered < HEDGES_MAX
            && bytes < HEDGE_BYTES_MAX
            && self.asks.contains_key(&queue)
            && self.seconds.queues.get(&queue) != Some(&Attachment::Refused)
    }

    /// Sends a request over the standby path, too.
    pub(super) fn send_second(&mut self, request: Request) {
        let Some(standby) = self.standby() else { return };
        let home = self.home_of(request.queue);
        let Some(lane) = self.paths[standby].lanes.get_mut(home) else { return };
        let Some((newest, Ask::Create { name, .. } | Ask::Attach { name })) =
            self.asks.get(&request.queue).map(|(tag, it)| (*tag, &it.ask))
        else {
            return;
        };
        let tag = Tag(self.last_tag.0 + 1);
        if self.seconds.begin(request.queue, tag) {
            self.last_tag = tag;
            let (queue, epoch) = (request.queue, request.epoch);
            lane.attach_second(self.now, self.generation, queue, epoch, name, tag);
        }
        lane.encode(self.now, self.generation, newest, request);
        self.hedges += 1;
    }

    /// When to look whether answers are late, or the active path silent, if any are owed.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.standby()?;
        let LinkSettings { path_deadline, hedge_after, .. } = self.settings;
        let looks = self.paths.iter().enumerate().filter_map(|(place, path)| {
            let hedges = place == self.active && !hedge_after.is_zero();
            let after = if hedges { hedge_after } else { path_deadline / 3 };
            let lanes = path.lanes.iter();
            let since = lanes.filter_map(|lane| lane.quiet_since(Instant::ZERO)).min()?;
            // Half of it, so that a longer time without a turn tells that we were stalled.
            let next = self.now + after / 2;
            let due = since + after;
            Some(if due > self.now { due.min(next) } else { next })
        });
        looks.min()
    }

    /// How its path is, and the second one if there are two.
    fn path_states(&self) -> (PathState, Option<PathState>) {
        let state = |path: usize| match self.incarnation {
            Some(_) if path == self.active => PathState::Run,
            Some(_) if self.is_ready(self.now, path) => PathState::Ready,
            _ => PathState::Ng,
        };
        (state(0), (self.paths.len() > 1).then(|| state(1)))
    }

    pub(super) fn state(&self) -> LinkState {
        let (path, standby_path) = self.path_states();
        let version = self.incarnation.and_then(|_| self.paths[self.active].version());
        LinkState { path, standby_path, version }
    }

    /// How its paths are, and what they have been through; nothing for a link with one path.
    pub(super) fn counters(&self) -> Option<LinkCounters> {
        let (first, Some(second)) = self.path_states() else { return None };
        Some(LinkCounters {
            server: self.settings.server.clone(),
            paths: [first, second],
            switches: self.switches,
            hedges: self.hedges,
            hedges_first: self.hedges_first,
        })
    }
}

//! When the owners of queues were last heard from, and which connections are to end because their owner
//! is none any more.
//!
//! A former owner may act for as long as its lease lasts, which runs from the sending of the last
//! request that was answered. Whoever takes a queue over must know a time after which nothing can have
//! been answered to that owner any more. So a queue knows the connections that are attached to it, here
//! is noted when bytes last came on each, and with the attachment that raises the epoch all others end:
//! what comes on them from then on, a heart-beat above all, is not even read.
//!
//! Bytes may come at any time of a turn, and the turn's own time is that of its beginning. So what came
//! in a turn counts as having come at its end, and until that is known as just now.

use tcpstack::Instant;

use crate::queue::{FormerOwner, Queue};
use crate::table::{QueueRef, QueueTable};

/// Names a connection of a worker while it is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionId(pub u32);

/// What a worker knows of its connections' last signs of life. See the module.
#[derive(Debug, Default)]
pub struct Presence {
    /// When the present turn began.
    now: Instant,
    /// By session: the end of the turn in which bytes last came; `None`: they came in this turn.
    heard: Vec<Option<Instant>>,
    /// Sessions on which bytes came in this turn.
    fresh: Vec<SessionId>,
    /// Queues from which a session was detached on which bytes came in this turn.
    left: Vec<QueueRef>,
    /// Sessions that are to end: somebody else owns a queue that they were attached to.
    former: Vec<SessionId>,
}

impl Presence {
    /// A turn begins.
    pub fn begin_turn(&mut self, now: Instant) {
        self.now = now;
    }

    /// A turn is over: what came in it came no later than now.
    pub fn end_turn(&mut self, now: Instant, table: &mut QueueTable) {
        for session in self.fresh.drain(..) {
            self.heard[session.0 as usize] = Some(now);
        }
        for queue in self.left.drain(..) {
            if let Some((queue, _)) = table.get(queue) {
                queue.stamp_left(now);
            }
        }
    }

    /// Bytes came on a session's connection.
    #[inline]
    pub(super) fn note_heard(&mut self, session: SessionId) {
        let place = session.0 as usize;
        if self.heard.len() <= place {
            self.heard.resize(place + 1, Some(Instant::ZERO));
        }
        if self.heard[place].take().is_some() {
            self.fresh.push(session);
        }
    }

    /// A session is not attached to the queue any more.
    pub(super) fn detach(&mut self, session: SessionId, queue: QueueRef, table: &mut QueueTable) {
        let Some((found, _)) = table.get(queue) else { return };
        let heard = self.heard.get(session.0 as usize).copied().unwrap_or(Some(Instant::ZERO));
        if found.detach(session, heard) && heard.is_none() {
            self.left.push(queue);
        }
    }

    /// A queue was taken from its owner by `taker`: the other connections are to end. Says for how many
    /// milliseconds nothing has come from that owner.
    pub(super) fn take_over(&mut self, taker: SessionId, former: FormerOwner) -> u32 {
        let idle = self.silence(&former.sessions, former.left_at);
        for session in former.sessions {
            if session != taker && !self.former.contains(&session) {
                self.former.push(session);
            }
        }
        idle
    }

    /// For how many milliseconds nothing has come from the owner of a queue; `None`: it has had none.
    pub(super) fn idle_ms(&self, queue: &Queue) -> Option<u32> {
        let (sessions, left_at) = queue.presence();
        let is_known = !sessions.is_empty() || left_at != Some(Instant::ZERO);
        is_known.then(|| self.silence(sessions, left_at))
    }

    /// Milliseconds since these sessions, and those that had left before, were last heard from.
    fn silence(&self, sessions: &[SessionId], left_at: Option<Instant>) -> u32 {
        let mut last = left_at;
        for session in sessions {
            let heard = self.heard.get(session.0 as usize).copied().flatten();
            last = last.zip(heard).map(|(last, heard)| last.max(heard));
        }
        let idle = last.map_or(0, |last| self.now.saturating_since(last).as_millis());
        u32::try_from(idle).unwrap_or(u32::MAX - 1).min(u32::MAX - 1)
    }

    /// The next session that is to end.
    pub fn poll_former(&mut self) -> Option<SessionId> {
        self.former.pop()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OLD: SessionId = SessionId(0);
    const NEW: SessionId = SessionId(3);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// Bytes on both in a turn from 100 to 150 ms.
    fn presence(table: &mut QueueTable) -> Presence {
        let mut presence = Presence::default();
        presence.begin_turn(at(100));
        [OLD, NEW, OLD].into_iter().for_each(|session| presence.note_heard(session));
        presence.end_turn(at(150), table);
        presence
    }

    fn table() -> QueueTable {
        use crate::arena::Arena;
        use crate::directory::Directory;
        use crate::table::QueueBounds;
        let bounds = QueueBounds { messages_max: 1, bytes_max: 1 };
        let arena = Arena::new(4 << 20, 10).expect("memory");
        QueueTable::new(arena, std::sync::Arc::new(Directory::new(1, 9)), 0, bounds)
    }

    fn former(left_ms: Option<u64>) -> FormerOwner {
        FormerOwner { sessions: vec![OLD, NEW], left_at: left_ms.map(at) }
    }

    #[test]
    fn what_comes_in_a_turn_may_have_come_at_its_end() {
        let mut presence = presence(&mut table());
        presence.begin_turn(at(1000));
        assert_eq!(presence.take_over(NEW, former(Some(0))), 850);
        assert_eq!(presence.take_over(NEW, former(Some(170))), 830, "one that has left since");
        assert_eq!((presence.poll_former(), presence.poll_former()), (Some(OLD), None));
        presence.note_heard(OLD);
        assert_eq!(presence.take_over(NEW, former(Some(0))), 0, "who knows when in this turn");
        presence.begin_turn(at(1100));
        assert_eq!(presence.take_over(NEW, former(Some(0))), 0, "the last turn was not ended");
    }

    #[test]
    fn a_session_that_left_is_remembered_by_its_queue() {
        use kvs_proto::body::QueueName;
        use kvs_proto::{Epoch, Generation};
        let mut table = table();
        let name = QueueName::parse(b"q").expect("a name");
        let queue = table.create(name, Epoch(1), Generation(0), 1, 1).expect("room");
        let mut presence = presence(&mut table);
        let seal = |table: &mut QueueTable, epoch| {
            let (found, _) = table.get(queue).expect("it is there");
            let former = found.attach(Epoch(epoch), Generation(0)).expect("higher");
            found.note_attached(OLD);
            former.expect("higher")
        };
        seal(&mut table, 2);
        presence.detach(OLD, queue, &mut table);
        presence.detach(OLD, queue, &mut table);
        assert_eq!(seal(&mut table, 3).left_at, Some(at(150)));
        presence.begin_turn(at(200));
        presence.note_heard(OLD);
        presence.detach(OLD, queue, &mut table);
        presence.end_turn(at(230), &mut table);
        assert_eq!(seal(&mut table, 4).left_at, Some(at(230)));
        presence.begin_turn(at(300));
        presence.note_heard(OLD);
        presence.detach(OLD, queue, &mut table);
        assert_eq!(seal(&mut table, 5).left_at, None, "in this turn");
    }
}

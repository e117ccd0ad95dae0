//! Who is next: the messages of a queue that have recipients to be tried and are not being tried.

use std::collections::{BTreeMap, BTreeSet};

use kvs_proto::MessageId;

/// The line of a queue.
///
/// A *free* line lets deferred messages be passed, and takes higher priorities first (RFC 6710);
/// within one priority the lowest id goes first: one that was never tried, and of which a delay is being told
/// just now, is waited for. In a *strict* line the lowest id is the head, ready
/// or not, and nothing passes it: priorities mean nothing there.
#[derive(Debug)]
pub(super) enum Line {
    Free {
        ready: BTreeSet<Rank>,
        /// By due time.
        deferred: BTreeSet<(u64, Rank)>,
        /// Those that are waited for.
        blocked: BTreeSet<Rank>,
    },
    /// Each with its due time; [`BLOCKED`] where something else has to end first.
    Strict(BTreeMap<MessageId, u64>),
}

/// Where a message stands among the ready: its priority turned around in the upper 5 bits, so that
/// the highest comes first, and its id in the others. As small as the id alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Rank(u64);

const ID_BITS: u32 = 59;
/// RFC 6710 §5.1.
const PRIORITY_MAX: i8 = 9;
/// The due time of a head that waits for no time.
const BLOCKED: u64 = u64::MAX;

impl Default for Line {
    fn default() -> Line {
        Line::Free { ready: BTreeSet::new(), deferred: BTreeSet::new(), blocked: BTreeSet::new() }
    }
}

impl Line {
    /// An empty one.
    pub(super) fn new(strict: bool) -> Line {
        if strict { Line::Strict(BTreeMap::new()) } else { Line::default() }
    }

    pub(super) fn is_strict(&self) -> bool {
        matches!(self, Line::Strict(_))
    }

    /// Puts a message in; `due` is in milliseconds since 1970, 0 if it is ready now.
    pub(super) fn add(&mut self, id: MessageId, priority: i8, due: u64) {
        let rank = Rank::new(id, priority);
        match self {
            Line::Free { ready, .. } if due == 0 => _ = ready.insert(rank),
            Line::Free { deferred, .. } => _ = deferred.insert((due, rank)),
            Line::Strict(line) => _ = line.insert(id, due),
        }
    }

    /// Takes a message out that was put in with these.
    pub(super) fn remove(&mut self, id: MessageId, priority: i8, due: u64) {
        let rank = Rank::new(id, priority);
        match self {
            Line::Free { ready, deferred, .. } => {
                let removed = deferred.remove(&(due, rank)) || ready.remove(&rank);
                assert!(removed, "what is taken out is in the line");
            }
            Line::Strict(line) => _ = line.remove(&id),
        }
    }

    /// Keeps the place of a message that has recipients to be tried and cannot be tried yet: nothing passes
    /// it; in a free line only if it was never tried.
    pub(super) fn block(&mut self, id: MessageId, priority: i8, was_tried: bool) {
        match self {
            Line::Free { .. } if was_tried => {}
            Line::Free { blocked, .. } => _ = blocked.insert(Rank::new(id, priority)),
            Line::Strict(line) => _ = line.insert(id, BLOCKED),
        }
    }

    /// The place that was kept is given up.
    pub(super) fn unblock(&mut self, id: MessageId, priority: i8) {
        match self {
            Line::Free { blocked, .. } => _ = blocked.remove(&Rank::new(id, priority)),
            Line::Strict(line) => _ = line.remove(&id),
        }
    }

    /// Takes the next message out, if one can be tried.
    pub(super) fn pop(&mut self, unix_ms: u64) -> Option<MessageId> {
        self.ripen(unix_ms);
        match self {
            Line::Free { ready, blocked, .. } => {
                let is_held_up = blocked.first().is_some_and(|it| Some(it) < ready.first());
                if is_held_up { None } else { ready.pop_first().map(Rank::id) }
            }
            Line::Strict(line) => {
                let head = line.first_entry().filter(|head| *head.get() <= unix_ms)?;
                Some(head.remove_entry().0)
            }
        }
    }

    /// Deferred messages whose time has come are ready.
    pub(super) fn ripen(&mut self, unix_ms: u64) {
        let Line::Free { ready, deferred, .. } = self else { return };
        while let Some((due, rank)) = deferred.first().copied().filter(|it| it.0 <= unix_ms) {
            deferred.remove(&(due, rank));
            ready.insert(rank);
        }
    }

    /// When the next message is due that has to wait for its time, in milliseconds since 1970.
    pub(super) fn next_due_unix_ms(&self) -> Option<u64> {
        match self {
            Line::Free { deferred, .. } => deferred.first().map(|(due, _)| *due),
            Line::Strict(line) => {
                let head = line.first_key_value().map(|(_, due)| *due);
                head.filter(|due| *due > 0 && *due < BLOCKED)
            }
        }
    }
}

impl Rank {
    fn new(id: MessageId, priority: i8) -> Rank {
        assert!(id.0 < 1 << ID_BITS, "a thousand million ids a second last for 18 years");
        let turned = PRIORITY_MAX - priority.clamp(-PRIORITY_MAX, PRIORITY_MAX);
        Rank(u64::from(turned.unsigned_abs()) << ID_BITS | id.0)
    }

    fn id(self) -> MessageId {
        MessageId(self.0 & ((1 << ID_BITS) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(line: &mut Line, unix_ms: u64) -> Vec<u64> {
        std::iter::from_fn(|| line.pop(unix_ms)).map(|id| id.0).collect()
    }

    fn filled(strict: bool, messages: &[(u64, i8, u64)]) -> Line {
        let mut line = Line::new(strict);
        for (id, priority, due) in messages {
            line.add(MessageId(*id), *priority, *due);
        }
        line
    }

    const MESSAGES: [(u64, i8, u64); 6] =
        [(1, 0, 50), (2, -9, 0), (3, 0, 0), (4, 9, 0), (5, 0, 0), (6, 9, 50)];

    #[test]
    fn a_free_line_takes_urgent_mail_first_and_keeps_the_order_of_a_priority() {
        let mut line = filled(false, &MESSAGES);
        assert_eq!(line.next_due_unix_ms(), Some(50));
        assert_eq!(order(&mut line, 49), [4, 3, 5, 2]);
        assert_eq!(order(&mut line, 50), [6, 1]);
        assert_eq!(line.next_due_unix_ms(), None);
    }

    #[test]
    fn nothing_passes_the_head_of_a_strict_line() {
        let mut line = filled(true, &MESSAGES);
        assert!(order(&mut line, 49).is_empty());
        assert_eq!(line.next_due_unix_ms(), Some(50));
        assert_eq!(order(&mut line, 50), [1, 2, 3, 4, 5, 6]);
        let mut line = filled(true, &MESSAGES[1..]);
        line.block(MessageId(1), 0, true);
        assert!(order(&mut line, 99).is_empty() && line.next_due_unix_ms().is_none());
        line.unblock(MessageId(1), 0);
        assert_eq!(order(&mut line, 49), [2, 3, 4, 5]);
    }

    #[test]
    fn what_was_never_tried_is_passed_by_nothing_of_its_priority_while_it_is_told_of() {
        let mut line = filled(false, &[(2, 0, 0), (4, 0, 0), (5, 9, 0), (6, -9, 0)]);
        line.block(MessageId(3), 0, false);
        line.block(MessageId(1), 0, true);
        assert_eq!(order(&mut line, 0), [5, 2], "nor by what is less urgent");
        line.unblock(MessageId(3), 0);
        line.unblock(MessageId(1), 0);
        assert_eq!(order(&mut line, 0), [4, 6]);
    }

    #[test]
    fn what_is_taken_out_is_out() {
        for strict in [false, true] {
            let mut line = filled(strict, &MESSAGES);
            line.remove(MessageId(1), 0, 50);
            line.remove(MessageId(4), 9, 0);
            line.ripen(60);
            line.remove(MessageId(6), 9, 50);
            let mut left = order(&mut line, 60);
            left.sort_unstable();
            assert_eq!(left, [2, 3, 5]);
        }
    }
}

//! Deadlines, cheap to put off.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use tcpstack::Instant;

/// Wakes its owner no later than asked.
///
/// Most deadlines are put off before they pass. So a timer that goes off only says *look*: the
/// owner compares its real deadline and arms again. Putting a deadline off then costs one look-up.
/// At most one timer per key.
#[derive(Debug)]
pub(super) struct Timers<K> {
    armed: HashMap<K, Instant>,
    in_order: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Ord + Hash> Timers<K> {
    pub(super) fn new() -> Timers<K> {
        Timers { armed: HashMap::new(), in_order: BTreeSet::new() }
    }

    /// Makes sure that the key comes out of [`poll`](Self::poll) at `at` or before.
    pub(super) fn arm(&mut self, key: K, at: Instant) {
        match self.armed.get_mut(&key) {
            Some(armed) if *armed <= at => return,
            Some(armed) => {
                self.in_order.remove(&(*armed, key));
                *armed = at;
            }
            None => {
                self.armed.insert(key, at);
            }
        }
        self.in_order.insert((at, key));
    }

    /// Takes the timer of a key away.
    pub(super) fn disarm(&mut self, key: K) {
        if let Some(armed) = self.armed.remove(&key) {
            self.in_order.remove(&(armed, key));
        }
    }

    /// A key whose timer has gone off. It is disarmed.
    pub(super) fn poll(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.in_order.first()?;
        if at > now {
            return None;
        }
        self.disarm(key);
        Some(key)
    }

    /// When the next timer goes off.
    pub(super) fn next(&self) -> Option<Instant> {
        self.in_order.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn the_earliest_time_asked_for_counts() {
        let mut timers = Timers::new();
        timers.arm('a', at(50));
        timers.arm('b', at(40));
        timers.arm('a', at(30));
        timers.arm('a', at(90));
        assert_eq!(timers.next(), Some(at(30)));
        assert_eq!(timers.poll(at(29)), None);
        assert_eq!(timers.poll(at(60)), Some('a'));
        assert_eq!(timers.poll(at(60)), Some('b'));
        assert_eq!(timers.poll(at(60)), None);
    }

    #[test]
    fn a_disarmed_timer_does_not_go_off() {
        let mut timers = Timers::new();
        timers.arm('a', at(1));
        timers.disarm('a');
        assert_eq!((timers.poll(at(9)), timers.next()), (None, None));
    }
}

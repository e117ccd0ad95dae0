//! One bound: how much there may be, and what of it is left.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// A bound on messages or bytes. Whoever promises takes of it first; what goes is given back.
#[derive(Debug)]
pub(super) struct Bound {
    max: AtomicI64,
    /// Below zero when more is held than the bound allows.
    left: AtomicI64,
    /// What was left when more was held than the bound allows and it was not mail or reports that had
    /// taken it: a smaller bound was set, or that much was recovered. Zero once that is over.
    debt: AtomicI64,
}

/// Of a bound what lies beyond it for [`Bound::take_beyond`].
const BEYOND_SHARE: i64 = 16;

impl Bound {
    pub(super) fn new(max: i64) -> Bound {
        Bound { max: max.into(), left: max.into(), debt: 0.into() }
    }

    pub(super) fn max(&self) -> i64 {
        self.max.load(Relaxed)
    }

    pub(super) fn left(&self) -> i64 {
        self.left.load(Relaxed)
    }

    /// Takes `amount` if that much is left. Returns whether it did.
    pub(super) fn take(&self, amount: i64) -> bool {
        self.take_if(amount, |left| left >= amount)
    }

    /// Takes `amount` unless the bound is exceeded by a sixteenth already, and by all that exceeded
    /// it when [`move_by`](Self::move_by) or [`take_anyway`](Self::take_anyway) had been called.
    /// Returns whether it did.
    pub(super) fn take_beyond(&self, amount: i64) -> bool {
        let least = self.debt.load(Relaxed).min(-(self.max() / BEYOND_SHARE));
        self.take_if(amount, |left| left >= least)
    }

    fn take_if(&self, amount: i64, may: impl Fn(i64) -> bool) -> bool {
        self.left.fetch_update(Relaxed, Relaxed, |left| may(left).then(|| left - amount)).is_ok()
    }

    /// Takes `amount` whatever is left: it is there.
    pub(super) fn take_anyway(&self, amount: i64) {
        self.shift(-amount);
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, amount: i64) {
        let before = self.left.fetch_add(amount, Relaxed);
        if before < 0 && before + amount >= 0 {
            self.debt.store(0, Relaxed);
        }
    }

    /// Makes the bound larger or smaller. Where more is taken than it allows then, nothing is left
    /// until enough has gone.
    pub(super) fn move_by(&self, amount: i64) {
        self.max.fetch_add(amount, Relaxed);
        self.shift(amount);
    }

    /// Changes what is left, and the debt with it, but not by what was taken beyond the bound.
    fn shift(&self, amount: i64) {
        let left = self.left.fetch_add(amount, Relaxed);
        let owed = if left >= 0 { left } else { self.debt.load(Relaxed) };
        self.debt.store((owed + amount).min(0), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many times one more is taken beyond the bound.
    fn beyond(bound: &Bound) -> usize {
        (0..99).take_while(|_| bound.take_beyond(1)).count()
    }

    #[test]
    fn what_is_taken_beyond_stays_within_a_sixteenth_and_one() {
        let bound = Bound::new(32);
        assert!(bound.take(32) && !bound.take(1));
        assert_eq!((beyond(&bound), bound.left()), (3, -3));
        bound.give_back(2);
        assert_eq!((beyond(&bound), bound.left()), (2, -3));
    }

    #[test]
    fn under_a_bound_that_was_made_smaller_one_is_taken_for_each_that_goes() {
        let bound = Bound::new(32);
        assert!(bound.take(32));
        bound.move_by(-28);
        assert_eq!((beyond(&bound), bound.left()), (1, -29));
        for _ in 0..40 {
            bound.give_back(1);
            assert!(!bound.take(1), "mail is not taken beyond a bound");
            assert_eq!(beyond(&bound), 1);
        }
        bound.move_by(4);
        assert_eq!((bound.max(), beyond(&bound), bound.left()), (8, 0, -25));
    }

    #[test]
    fn what_was_taken_beyond_a_bound_is_no_reason_to_take_more_when_that_is_set_again() {
        let bound = Bound::new(9);
        assert!(bound.take(9));
        assert_eq!(beyond(&bound), 1);
        bound.move_by(0);
        assert_eq!(beyond(&bound), 0);
        bound.move_by(-2);
        assert_eq!((beyond(&bound), bound.left()), (0, -3));
        bound.move_by(3);
        assert_eq!((beyond(&bound), beyond(&bound), bound.left()), (1, 0, -1));
    }

    #[test]
    fn what_was_recovered_beyond_a_bound_may_be_replaced_one_by_one() {
        let bound = Bound::new(4);
        (0..9).for_each(|_| bound.take_anyway(1));
        assert_eq!((beyond(&bound), beyond(&bound)), (1, 0));
        bound.give_back(1);
        assert_eq!(beyond(&bound), 1);
    }

    #[test]
    fn once_all_that_was_too_much_has_gone_a_sixteenth_counts_again() {
        let bound = Bound::new(32);
        assert!(bound.take(32));
        bound.move_by(-16);
        bound.give_back(16);
        assert_eq!(bound.left(), 0);
        assert_eq!(beyond(&bound), 2, "of 16 one, and one");
    }
}

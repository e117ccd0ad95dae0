//! How many connections a destination gets, by what it makes of them.

/// Grows by its share of one with each success, so by one connection for as many successes as it
/// has connections; halves with each failure. Below one it is exhausted: the destination is to be
/// left alone, and then tried with one.
#[derive(Debug)]
pub(super) struct Concurrency {
    /// In thousandths of a connection; at most `max` connections.
    thousandths: u32,
    max: u32,
}

impl Concurrency {
    /// # Panics
    /// Unless `initial` is at least 1 and `max` from 1 to [`CONNECTIONS_MAX`].
    pub(super) fn new(initial: u32, max: u32) -> Concurrency {
        assert!(initial > 0 && max > 0 && max <= CONNECTIONS_MAX);
        Concurrency { thousandths: initial.min(max) * ONE, max }
    }

    /// How many connections there may be now.
    pub(super) fn connections(&self) -> u32 {
        self.thousandths / ONE
    }

    /// The next hop has taken a message.
    pub(super) fn handle_success(&mut self) {
        let share = ONE * ONE / self.thousandths.max(ONE);
        self.thousandths = (self.thousandths + share).min(self.max * ONE);
    }

    /// The next hop has failed, or has said that it is too much.
    pub(super) fn handle_failure(&mut self) {
        self.thousandths /= 2;
    }

    /// Whether there may be no connection.
    pub(super) fn is_exhausted(&self) -> bool {
        self.thousandths < ONE
    }

    /// Begins again with one.
    pub(super) fn restart(&mut self) {
        self.thousandths = ONE;
    }

    /// Another bound from now on. What was reached within it stays.
    pub(super) fn set_max(&mut self, max: u32) {
        assert!(max > 0 && max <= CONNECTIONS_MAX);
        self.max = max;
        self.thousandths = self.thousandths.min(max * ONE);
    }
}

/// Most connections of a destination.
pub(super) const CONNECTIONS_MAX: u32 = 100_000;
const ONE: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_by_one_for_each_round_of_successes_up_to_its_bound() {
        let mut concurrency = Concurrency::new(2, 4);
        let mut seen = vec![concurrency.connections()];
        for _ in 0..20 {
            concurrency.handle_success();
            seen.push(concurrency.connections());
        }
        assert_eq!(seen[..4], [2, 2, 2, 3]);
        assert_eq!(seen.last(), Some(&4));
        assert!(seen.is_sorted());
    }

    #[test]
    fn failures_halve_it_until_it_is_exhausted() {
        let mut concurrency = Concurrency::new(5, 100);
        let mut seen = Vec::new();
        while !concurrency.is_exhausted() {
            seen.push(concurrency.connections());
            concurrency.handle_failure();
        }
        assert_eq!(seen, [5, 2, 1]);
        assert_eq!(concurrency.connections(), 0);
        concurrency.restart();
        assert_eq!(concurrency.connections(), 1);
        concurrency.handle_success();
        assert_eq!(concurrency.connections(), 2);
    }

    #[test]
    fn the_initial_number_is_within_the_bound_and_a_new_bound_cuts_it() {
        let mut concurrency = Concurrency::new(5, 3);
        assert_eq!(concurrency.connections(), 3);
        concurrency.set_max(1);
        assert_eq!(concurrency.connections(), 1);
        concurrency.set_max(CONNECTIONS_MAX);
        (0..10).for_each(|_| concurrency.handle_success());
        assert!(concurrency.connections() > 3);
    }
}

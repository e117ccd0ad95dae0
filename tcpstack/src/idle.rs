//! When a worker loop that has nothing to do stops spinning and sleeps.

use core::time::Duration;

use crate::time::Instant;

/// Spin for a while after the last work, then sleep.
///
/// Waking a sleeping thread costs tens of microseconds; spinning costs a core. A loop calls
/// [`Idle::handle_work`] in each turn that did something, and sleeps (see
/// [`Transport::wait`](crate::Transport::wait)) in a turn that did nothing when
/// [`Idle::should_sleep`] says so.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    spin: Duration,
    last_work: Instant,
}

impl Idle {
    /// Spins for `spin` after the last work: zero never spins, [`Duration::MAX`] never sleeps.
    pub const fn new(spin: Duration) -> Idle {
        Idle { spin, last_work: Instant::ZERO }
    }

    /// Something was done in this turn.
    pub fn handle_work(&mut self, now: Instant) {
        self.last_work = now;
    }

    /// Whether a turn without work should end in sleep.
    pub fn should_sleep(&self, now: Instant) -> bool {
        self.spin.is_zero() || now.saturating_since(self.last_work) >= self.spin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_only_after_the_spin_time_without_work() {
        let mut idle = Idle::new(Duration::from_micros(50));
        let start = Instant::from_nanos(1_000_000_000);
        assert!(idle.should_sleep(start), "no work was ever done");
        idle.handle_work(start);
        assert!(!idle.should_sleep(start + Duration::from_micros(49)));
        assert!(idle.should_sleep(start + Duration::from_micros(50)));
    }

    #[test]
    fn zero_always_sleeps_and_the_maximum_never_does() {
        let mut never_spins = Idle::new(Duration::ZERO);
        never_spins.handle_work(Instant::from_nanos(5));
        assert!(never_spins.should_sleep(Instant::from_nanos(5)));
        let never_sleeps = Idle::new(Duration::MAX);
        assert!(!never_sleeps.should_sleep(Instant::MAX));
    }
}

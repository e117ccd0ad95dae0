//! The only place that reads clocks; only the outermost loops call it.

use std::time::{SystemTime, UNIX_EPOCH};

use super::sys;
use crate::time::Instant;

/// Reads the time.
///
/// The monotonic reading is CLOCK_BOOTTIME, so that leases run out while a machine is suspended.
/// All processes on one machine share its origin. A reading costs some 25 ns: no system call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// The clocks of this machine.
    pub const fn new() -> Clock {
        Clock
    }

    /// Nanoseconds since boot.
    pub fn now(&self) -> Instant {
        Instant::ZERO + sys::boot_time()
    }

    /// Milliseconds since 1970-01-01 00:00 UTC; zero if the clock is set before that. It may jump.
    pub fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let clock = Clock::new();
        let mut last = clock.now();
        assert!(last > Instant::ZERO);
        for _ in 0..1_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn the_wall_clock_is_past_2025() {
        assert!(Clock::new().unix_ms() > 1_735_689_600_000);
    }
}

//! Token buckets.

use std::num::NonZeroU32;
use std::time::Duration;

use tcpstack::Instant;

/// How much may pass in a time, and how much of it at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Between two things that pass.
    interval: Duration,
    /// How far a bucket's `full_at` may lie ahead and still let something through.
    tolerance: Duration,
}

impl Rate {
    /// So many a second; a tenth of a second's worth may pass at once, at least one.
    pub fn per_second(count: NonZeroU32) -> Rate {
        Rate::new(Duration::from_secs(1) / count.get(), Duration::from_millis(100))
    }

    /// So many a minute; a minute's worth may pass at once.
    pub fn per_minute(count: NonZeroU32) -> Rate {
        Rate::new(Duration::from_secs(60) / count.get(), Duration::from_secs(60))
    }

    fn new(interval: Duration, burst: Duration) -> Rate {
        Rate { interval, tolerance: burst.saturating_sub(interval) }
    }
}

/// A token bucket, kept as the time at which it would be full again (the generic cell rate
/// algorithm): no tokens to refill. It starts full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    full_at: Instant,
}

impl Default for Bucket {
    fn default() -> Bucket {
        Bucket { full_at: Instant::ZERO }
    }
}

impl Bucket {
    /// When the next thing may pass; a time that is past means now.
    pub fn next_at(&self, rate: Rate) -> Instant {
        let ahead = self.full_at.saturating_since(Instant::ZERO);
        Instant::ZERO + ahead.saturating_sub(rate.tolerance)
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        if self.next_at(rate) > now {
            return false;
        }
        self.full_at = self.full_at.max(now) + rate.interval;
        true
    }

    /// When it is full: nothing is forgotten with it then.
    pub fn full_at(&self) -> Instant {
        self.full_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_worth_may_pass_at_once_and_then_the_rate() {
        let rate = Rate::per_minute(NonZeroU32::new(6).unwrap());
        let mut bucket = Bucket::default();
        let start = Instant::ZERO + Duration::from_secs(100);
        assert_eq!((0..100).filter(|_| bucket.take(rate, start)).count(), 6);
        assert_eq!(bucket.full_at(), start + Duration::from_secs(60));
        let later =
            (1..=60).filter(|second| bucket.take(rate, start + Duration::from_secs(*second)));
        assert_eq!(later.count(), 6);
    }
}

//! How many messages a second a destination gets.

use std::num::NonZeroU32;
use std::time::Duration;

use tcpstack::Instant;

/// A token bucket, kept as the time at which it would be full again (the generic cell rate
/// algorithm): no tokens to refill.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// Between two messages; none without a limit.
    interval: Option<Duration>,
    /// How far `full_at` may lie ahead and still let a message through.
    tolerance: Duration,
    full_at: Instant,
}

impl RateLimit {
    pub(super) fn new(per_second: Option<NonZeroU32>) -> RateLimit {
        let interval = per_second.map(|rate| Duration::from_secs(1) / rate.get());
        let tolerance = interval.map_or(Duration::ZERO, |interval| BURST.saturating_sub(interval));
        RateLimit { interval, tolerance, full_at: Instant::ZERO }
    }

    /// When the next message may go; a time that is past means now.
    pub(super) fn next_at(&self) -> Instant {
        let ahead = self.full_at.saturating_since(Instant::ZERO);
        Instant::ZERO + ahead.saturating_sub(self.tolerance)
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let Some(interval) = self.interval else { return true };
        if self.next_at() > now {
            return false;
        }
        self.full_at = self.full_at.max(now) + interval;
        true
    }
}

/// So much time's worth of messages may go at once, at least one.
const BURST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut limit = RateLimit::new(NonZeroU32::new(100));
        let mut now = Instant::ZERO + Duration::from_secs(5);
        let burst = (0..1000).filter(|_| limit.take(now)).count();
        assert_eq!(burst, 10);
        let mut passed = 0;
        for _ in 0..2000 {
            now += Duration::from_millis(1);
            passed += u32::from(limit.take(now));
        }
        assert_eq!(passed, 200);
    }

    #[test]
    fn slow_rates_pass_one_at_a_time() {
        let mut limit = RateLimit::new(NonZeroU32::new(1));
        let now = Instant::ZERO + Duration::from_secs(5);
        assert!(limit.take(now) && !limit.take(now));
        assert_eq!(limit.next_at(), now + Duration::from_secs(1));
        assert!(limit.take(now + Duration::from_secs(1)));
    }

    #[test]
    fn no_limit_is_no_limit() {
        let mut limit = RateLimit::new(None);
        assert!((0..1000).all(|_| limit.take(Instant::ZERO)));
    }
}

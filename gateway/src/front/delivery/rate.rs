//! How many messages a second a destination gets.

use std::num::NonZeroU32;

use tcpstack::Instant;

use crate::rate::{Bucket, Rate};

/// The rate of a destination, if it has one, and what it has used of it.
#[derive(Debug)]
pub(super) struct RateLimit {
    rate: Option<Rate>,
    bucket: Bucket,
}

impl RateLimit {
    pub(super) fn new(per_second: Option<NonZeroU32>) -> RateLimit {
        RateLimit { rate: per_second.map(Rate::per_second), bucket: Bucket::default() }
    }

    /// When the next message may go; a time that is past means now.
    pub(super) fn next_at(&self) -> Instant {
        self.rate.map_or(Instant::ZERO, |rate| self.bucket.next_at(rate))
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.rate.is_none_or(|rate| self.bucket.take(rate, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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

//! When a deferred message is tried again.

use std::time::Duration;

/// The retry schedule of a queue: exponential backoff with jitter (RFC 5321 §4.5.4.1 asks for at
/// least 30 minutes in general and for less at first; operators of relays set their own).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// Delay after the first transient failure.
    pub first: Duration,
    /// Upper bound of the delay.
    pub max: Duration,
    /// How long after its acceptance a message is given up.
    pub expiry: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            first: Duration::from_secs(60),
            max: Duration::from_secs(3600),
            expiry: Duration::from_secs(5 * 24 * 3600),
        }
    }
}

impl RetryPolicy {
    /// The delay before the attempt after `attempts` failures (at least 1): doubles each time up to
    /// the bound, less up to a quarter by `chance`, so that messages deferred together do not
    /// return together.
    pub fn delay(&self, attempts: u16, chance: u64) -> Duration {
        let doublings = u32::from(attempts.saturating_sub(1)).min(30);
        let delay = self.first.saturating_mul(1 << doublings).min(self.max);
        let quarter_ms = u64::try_from(delay.as_millis() / 4).unwrap_or(u64::MAX);
        delay - Duration::from_millis(chance.checked_rem(quarter_ms).unwrap_or(0))
    }

    /// Whether a message accepted at `accepted_unix_ms` has expired.
    pub fn is_expired(&self, accepted_unix_ms: u64, unix_ms: u64) -> bool {
        u128::from(unix_ms.saturating_sub(accepted_unix_ms)) > self.expiry.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_vary_by_a_quarter() {
        let policy = RetryPolicy {
            first: Duration::from_secs(8),
            max: Duration::from_secs(60),
            expiry: Duration::from_secs(1000),
        };
        for (attempts, seconds) in [(1, 8), (2, 16), (3, 32), (4, 60), (40, 60), (u16::MAX, 60)] {
            let full = Duration::from_secs(seconds);
            assert_eq!(policy.delay(attempts, 0), full);
            for chance in [1, 999, u64::MAX] {
                let delay = policy.delay(attempts, chance);
                assert!(delay <= full && delay >= full * 3 / 4, "{delay:?}");
            }
        }
        assert_eq!(RetryPolicy { first: Duration::ZERO, ..policy }.delay(1, 7), Duration::ZERO);
    }

    #[test]
    fn expiry_counts_from_acceptance() {
        let policy = RetryPolicy { expiry: Duration::from_secs(10), ..RetryPolicy::default() };
        assert!(!policy.is_expired(5_000, 15_000));
        assert!(policy.is_expired(5_000, 15_001));
        assert!(!policy.is_expired(5_000, 1_000));
    }
}

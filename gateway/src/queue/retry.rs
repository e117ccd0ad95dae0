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
    /// How long after its acceptance the sender of a message is told once that it is delayed; zero:
    /// never.
    pub warn_after: Duration,
}

/// How a queue treats its messages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QueuePolicy {
    /// When deferred messages are tried again, and until when.
    pub retry: RetryPolicy,
    /// The head blocks: nothing is tried before what was accepted earlier is done.
    pub strict: bool,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            first: Duration::from_secs(60),
            max: Duration::from_secs(3600),
            expiry: Duration::from_secs(5 * 24 * 3600),
            warn_after: Duration::from_secs(4 * 3600),
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

    /// When a message accepted at `accepted_unix_ms` expires.
    pub fn expires_unix_ms(&self, accepted_unix_ms: u64) -> u64 {
        accepted_unix_ms.saturating_add(milliseconds(self.expiry))
    }

    /// When the sender of a message accepted at `accepted_unix_ms` is told that it is delayed; never
    /// is the end of time.
    pub fn warns_unix_ms(&self, accepted_unix_ms: u64) -> u64 {
        match self.warn_after {
            Duration::ZERO => u64::MAX,
            after => accepted_unix_ms.saturating_add(milliseconds(after)),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_vary_by_a_quarter() {
        let policy = RetryPolicy {
            first: Duration::from_secs(8),
            max: Duration::from_secs(60),
            ..RetryPolicy::default()
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
    fn expiry_and_warning_count_from_acceptance() {
        let day = Duration::from_secs(24 * 3600);
        let policy = RetryPolicy { expiry: 3 * day, warn_after: day, ..RetryPolicy::default() };
        assert_eq!(policy.expires_unix_ms(5), 5 + 3 * 86_400_000);
        assert_eq!(policy.warns_unix_ms(5), 5 + 86_400_000);
        let never = RetryPolicy { warn_after: Duration::ZERO, ..policy };
        assert_eq!(never.warns_unix_ms(5), u64::MAX);
        assert_eq!(policy.expires_unix_ms(u64::MAX), u64::MAX);
    }
}

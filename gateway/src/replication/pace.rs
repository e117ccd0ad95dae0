//! How fast copies are filled.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tcpstack::Instant;

/// Bytes per second of all fills of the process together. Shared by its workers.
#[derive(Debug, Default)]
pub struct Throttle {
    /// 0: as many as there are.
    bytes_per_second: AtomicU64,
    /// When what was taken is paid for, in nanoseconds.
    paid_at: AtomicU64,
}

/// As much as is due in this time may be taken at once: what a worker would take in its turns until then.
const BURST: Duration = Duration::from_millis(50);

impl Throttle {
    /// Changes the rate; `None`: no bound.
    pub fn set_rate(&self, bytes_per_second: Option<u64>) {
        self.bytes_per_second.store(bytes_per_second.unwrap_or(0), Relaxed);
    }

    /// Takes so many bytes, or says when to ask again.
    fn take(&self, now: Instant, bytes: usize) -> Result<(), Instant> {
        let rate = self.bytes_per_second.load(Relaxed);
        if rate == 0 {
            return Ok(());
        }
        let cost = u128::from(bytes as u64) * 1_000_000_000 / u128::from(rate);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let now_ns = now.as_nanos();
        let burst_ns = u64::try_from(BURST.as_nanos()).expect("short");
        let paid = |paid_at: u64| {
            let from = paid_at.max(now_ns);
            (from <= now_ns.saturating_add(burst_ns)).then(|| from.saturating_add(cost))
        };
        let taken = self.paid_at.fetch_update(Relaxed, Relaxed, paid);
        taken.map(drop).map_err(|paid_at| Instant::from_nanos(paid_at - burst_ns))
    }
}

/// What fills may take in one turn.
#[derive(Debug)]
pub struct Pace<'a> {
    now: Instant,
    throttle: &'a Throttle,
    /// When it is worth while to ask again, if something was denied.
    again_at: Option<Instant>,
}

impl<'a> Pace<'a> {
    /// Of a turn at that time.
    pub fn new(now: Instant, throttle: &'a Throttle) -> Pace<'a> {
        Pace { now, throttle, again_at: None }
    }

    /// Takes so many bytes, if they may be sent now.
    pub fn take(&mut self, bytes: usize) -> bool {
        match self.throttle.take(self.now, bytes) {
            Ok(()) => true,
            Err(again_at) => {
                self.again_at = Some(again_at);
                false
            }
        }
    }

    /// When it is worth while to ask again, if something was denied.
    pub fn again_at(&self) -> Option<Instant> {
        self.again_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken_in(throttle: &Throttle, from: Duration, time: Duration) -> usize {
        let start = Instant::ZERO + from;
        let turns = u32::try_from(time.as_millis()).unwrap();
        let mut taken = 0;
        for turn in 0..turns {
            let mut pace = Pace::new(start + Duration::from_millis(turn.into()), throttle);
            while taken < 100_000_000 && pace.take(1000) {
                taken += 1000;
            }
        }
        taken
    }

    #[test]
    fn fills_together_keep_to_the_rate_from_turn_to_turn() {
        let throttle = Throttle::default();
        throttle.set_rate(Some(1_000_000));
        let second = Duration::from_secs(1);
        let taken = taken_in(&throttle, Duration::ZERO, second);
        assert!((1_000_000..=1_060_000).contains(&taken), "{taken}");
        let after_a_pause = taken_in(&throttle, 100 * second, second);
        assert!((1_000_000..=1_060_000).contains(&after_a_pause), "{after_a_pause}");
    }

    #[test]
    fn who_is_denied_hears_when_to_ask_again() {
        let throttle = Throttle::default();
        throttle.set_rate(Some(1000));
        let mut pace = Pace::new(Instant::ZERO, &throttle);
        assert!(pace.take(1000), "also more than is due at once");
        assert!(!pace.take(1));
        let again_at = pace.again_at().unwrap();
        assert!(again_at > Instant::ZERO);
        assert!(Pace::new(again_at, &throttle).take(1));
    }

    #[test]
    fn without_a_rate_nothing_is_denied() {
        let throttle = Throttle::default();
        let mut pace = Pace::new(Instant::ZERO, &throttle);
        assert!((0..1000).all(|_| pace.take(1 << 30)));
        assert_eq!(pace.again_at(), None);
    }
}

//! When the next mail is due: at once in a closed loop, by the clock in an open one.

use std::time::Duration;

use tcpstack::Instant;

/// How fast mail is offered, and how much of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pace {
    /// Mails a second, offered whether or not earlier ones were answered (open loop); `None`: each
    /// session sends its next when it is free (closed loop).
    pub rate: Option<f64>,
    /// Offer so many.
    pub total: Option<u64>,
    /// Offer for so long.
    pub duration: Option<Duration>,
}

/// Gives out intended times. In an open loop they lie on a fixed grid, so that the wait for a free
/// session is part of the latency: a stall shows in every mail that was due meanwhile, not only in the one
/// that was under way (no coordinated omission).
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacer {
    pace: Pace,
    begin: Instant,
    issued: u64,
}

impl Pacer {
    pub(super) fn new(pace: Pace, begin: Instant) -> Pacer {
        Pacer { pace, begin, issued: 0 }
    }

    /// When the next mail is due; `None`: there is none. In a closed loop that is always now.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.pace.total.is_some_and(|total| self.issued >= total) {
            return None;
        }
        let due = match self.pace.rate {
            None => now,
            Some(rate) => {
                let after = crate::report::f64_of(self.issued) / rate;
                self.begin + Duration::try_from_secs_f64(after).unwrap_or(Duration::MAX)
            }
        };
        let over = |duration| due.saturating_since(self.begin) >= duration;
        (!self.pace.duration.is_some_and(over)).then_some(due)
    }

    /// Takes the next mail if it is due, and says when it was.
    pub(super) fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next_due(now).filter(|&due| due <= now)?;
        self.issued += 1;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Instant = Instant::from_nanos(5_000_000_000);

    #[test]
    fn an_open_loop_keeps_to_its_grid_however_late_it_is_asked() {
        let pace = Pace { rate: Some(100.0), total: Some(5), duration: None };
        let mut pacer = Pacer::new(pace, BEGIN);
        let late = BEGIN + Duration::from_secs(3);
        for place in 0..5_u32 {
            assert_eq!(pacer.take(late), Some(BEGIN + Duration::from_millis(10) * place));
        }
        assert_eq!(pacer.next_due(late), None);
    }

    #[test]
    fn nothing_is_due_before_its_time_or_after_the_end() {
        let pace =
            Pace { rate: Some(10.0), total: None, duration: Some(Duration::from_millis(250)) };
        let mut pacer = Pacer::new(pace, BEGIN);
        assert_eq!(pacer.take(BEGIN), Some(BEGIN));
        assert_eq!(pacer.take(BEGIN), None);
        let late = BEGIN + Duration::from_secs(9);
        assert!(pacer.take(late).is_some() && pacer.take(late).is_some());
        assert_eq!(pacer.take(late), None, "the fourth would be due at 300 ms");
    }

    #[test]
    fn a_closed_loop_is_always_due() {
        let pace = Pace { rate: None, total: Some(1), duration: None };
        let mut pacer = Pacer::new(pace, BEGIN);
        assert_eq!(pacer.take(BEGIN), Some(BEGIN));
        assert_eq!(pacer.take(BEGIN), None);
    }
}

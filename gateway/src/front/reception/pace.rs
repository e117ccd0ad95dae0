//! How fast a client has to go on.

use std::time::Duration;

use tcpstack::Instant;

use crate::front::config::Tempo;

/// What a client owes us, and since when.
///
/// A deadline is one for a whole thing, never put off by single octets: a complete command line, or
/// content at a rate. So a client that sends an octet a second is as late as one that sends
/// nothing.
#[derive(Debug)]
pub(super) struct Pace {
    owed: Owed,
    since: Instant,
    /// Of content, since then.
    octets: u64,
}

/// What a client owes us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owed {
    /// Nothing: it waits for us.
    Nothing,
    /// A complete command line.
    Command,
    /// Content of a message.
    Content,
    /// To read our replies.
    Reading,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace { owed: Owed::Nothing, since: now, octets: 0 }
    }

    /// Says what the client owes now. The time for it begins when it owed something else before,
    /// or when it has just been answered.
    pub(super) fn owe(&mut self, owed: Owed, was_answered: bool, now: Instant) {
        if owed != self.owed || was_answered {
            *self = Pace { owed, since: now, octets: 0 };
        }
    }

    /// Counts content.
    pub(super) fn handle_content(&mut self, octets: usize) {
        self.octets = self.octets.saturating_add(u64::try_from(octets).unwrap_or(u64::MAX));
    }

    /// For how long the client has kept us waiting for a command.
    pub(super) fn idle_time(&self, now: Instant) -> Duration {
        match self.owed {
            Owed::Command => now.saturating_since(self.since),
            Owed::Nothing | Owed::Content | Owed::Reading => Duration::ZERO,
        }
    }

    /// When to look again; none when the client is too slow.
    pub(super) fn judge(&mut self, now: Instant, tempo: Tempo) -> Option<Instant> {
        let taken = now.saturating_since(self.since);
        if self.owed == Owed::Nothing {
            return Some(now + tempo.command);
        }
        if taken < tempo.command {
            return Some(self.since + tempo.command);
        }
        let due = taken.as_secs().saturating_mul(u64::from(tempo.data_rate_min)).max(1);
        if self.owed != Owed::Content || self.octets < due {
            return None;
        }
        (self.since, self.octets) = (now, 0);
        Some(now + tempo.command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORMAL: Tempo = Tempo { command: Duration::from_secs(300), data_rate_min: 64 };
    const LOADED: Tempo = Tempo { command: Duration::from_secs(10), data_rate_min: 1024 };

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_command_has_its_time_from_the_last_answer() {
        let mut pace = Pace::new(at(0));
        pace.owe(Owed::Command, true, at(1));
        pace.owe(Owed::Command, false, at(200));
        assert_eq!(pace.judge(at(300), NORMAL), Some(at(301)));
        assert_eq!(pace.idle_time(at(300)), Duration::from_secs(299));
        assert_eq!(pace.judge(at(301), NORMAL), None);
        assert_eq!(pace.judge(at(11), LOADED), None);
        pace.owe(Owed::Command, true, at(301));
        assert_eq!(pace.judge(at(301), NORMAL), Some(at(601)));
    }

    #[test]
    fn content_has_to_come_at_a_rate() {
        let mut pace = Pace::new(at(0));
        pace.owe(Owed::Content, false, at(0));
        assert_eq!(pace.judge(at(299), NORMAL), Some(at(300)), "until then anything goes");
        pace.handle_content(300 * 64);
        assert_eq!(pace.judge(at(300), NORMAL), Some(at(600)));
        pace.handle_content(300 * 64 - 1);
        assert_eq!(pace.judge(at(600), NORMAL), None);
        pace.handle_content(10 * 1024);
        assert_eq!(pace.judge(at(310), LOADED), Some(at(320)));
    }

    #[test]
    fn without_a_least_rate_content_must_still_come() {
        let tempo = Tempo { data_rate_min: 0, ..LOADED };
        let mut pace = Pace::new(at(0));
        pace.owe(Owed::Content, false, at(0));
        pace.handle_content(1);
        assert_eq!(pace.judge(at(10), tempo), Some(at(20)));
        assert_eq!(pace.judge(at(20), tempo), None);
    }

    #[test]
    fn who_waits_for_us_is_never_late_and_who_does_not_read_is() {
        let mut pace = Pace::new(at(0));
        assert_eq!(pace.judge(at(1000), LOADED), Some(at(1010)));
        pace.owe(Owed::Reading, false, at(1000));
        assert_eq!(pace.judge(at(1009), LOADED), Some(at(1010)));
        assert_eq!(pace.judge(at(1010), LOADED), None);
        assert_eq!(pace.idle_time(at(1010)), Duration::ZERO);
    }
}

//! When a sender that stands by takes over: the judgement, without asking anybody.

use std::time::Duration;

use tcpstack::Instant;

use crate::replication::record::Record;

/// For how long the seat must not have changed: who has just sat down has not attached yet, and is not to be
/// disturbed.
const SEAT_QUIET: Duration = Duration::from_secs(3);

/// A sender that stands by for a gateway.
#[derive(Debug)]
pub struct Watch {
    /// The seat's version, and since when it has been that.
    seat: Option<(u64, Instant)>,
}

/// Whether to take over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nobody who knows has answered.
    Unknown,
    /// Not yet: look again after this.
    Wait(Duration),
    /// Now.
    Due,
}

impl Watch {
    /// Nothing was seen yet.
    pub fn new() -> Watch {
        Watch { seat: None }
    }

    /// Whether the seat had that version when it was last judged.
    pub fn has_seen(&self, seat_version: u64) -> bool {
        self.seat.is_some_and(|(version, _)| version == seat_version)
    }

    /// The seat has that version (0: nobody ever sat there), the owner has been silent for that long at each server
    /// that has answered, and we take over after `delay` of silence.
    pub fn judge(
        &mut self,
        now: Instant,
        seat_version: u64,
        idle: Option<Duration>,
        delay: Duration,
    ) -> Verdict {
        let seen = self.seat.filter(|(version, _)| *version == seat_version);
        let (_, since) = *self.seat.insert(seen.unwrap_or((seat_version, now)));
        let Some(idle) = idle else { return Verdict::Unknown };
        let quiet = SEAT_QUIET.min(delay).saturating_sub(now.saturating_since(since));
        match delay.saturating_sub(idle).max(quiet) {
            Duration::ZERO => Verdict::Due,
            left => Verdict::Wait(left),
        }
    }
}

impl Default for Watch {
    fn default() -> Watch {
        Watch::new()
    }
}

/// The servers in the order in which the senders beside them take over: those that count by the records, in the
/// order of these, then all others.
pub fn order<'n>(
    records: impl IntoIterator<Item = &'n Record>,
    servers: impl IntoIterator<Item = &'n str>,
) -> Vec<&'n str> {
    let recorded = records.into_iter().flat_map(|it| &it.members).map(|it| it.server.as_str());
    let mut order = Vec::new();
    for name in recorded.chain(servers) {
        if !order.contains(&name) {
            order.push(name);
        }
    }
    order
}

/// After how long without an owner the sender of that rank takes over.
pub fn delay(after: Duration, further: Duration, rank: usize) -> Duration {
    after.saturating_add(further.saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use kvs_proto::{Epoch, Incarnation};

    use super::*;
    use crate::replication::record::RecordedMember;

    const DELAY: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn record(members: &[&str]) -> Record {
        let member =
            |name: &&str| RecordedMember { server: (*name).into(), incarnation: Incarnation(1) };
        Record {
            version: 1,
            epoch: Epoch(1),
            members: members.iter().map(member).collect(),
            joining: vec![],
            queues: vec![],
            lease_ms: 1000,
        }
    }

    #[test]
    fn it_is_time_when_the_owner_was_silent_for_the_whole_delay() {
        let mut watch = Watch::new();
        assert_eq!(watch.judge(at(0), 4, Some(seconds(1)), DELAY), Verdict::Wait(seconds(59)));
        assert_eq!(watch.judge(at(30), 4, Some(seconds(31)), DELAY), Verdict::Wait(seconds(29)));
        assert_eq!(watch.judge(at(31), 4, Some(seconds(0)), DELAY), Verdict::Wait(DELAY));
        assert_eq!(watch.judge(at(91), 4, Some(seconds(60)), DELAY), Verdict::Due);
    }

    #[test]
    fn nobody_takes_over_by_what_nobody_has_said() {
        let mut watch = Watch::new();
        for time in 0..1000 {
            assert_eq!(watch.judge(at(time), 4, None, DELAY), Verdict::Unknown);
        }
    }

    #[test]
    fn who_has_just_sat_down_is_not_disturbed() {
        let mut watch = Watch::new();
        assert_eq!(watch.judge(at(0), 4, Some(seconds(600)), DELAY), Verdict::Wait(SEAT_QUIET));
        assert_eq!(watch.judge(at(2), 4, Some(seconds(602)), DELAY), Verdict::Wait(seconds(1)));
        assert_eq!(watch.judge(at(3), 4, Some(seconds(603)), DELAY), Verdict::Due);
        assert_eq!(watch.judge(at(3), 5, Some(seconds(603)), DELAY), Verdict::Wait(SEAT_QUIET));
        let short = seconds(1);
        assert_eq!(watch.judge(at(4), 5, Some(seconds(604)), short), Verdict::Due);
    }

    #[test]
    fn recorded_servers_come_first_and_each_has_its_turn() {
        let records = [record(&["b", "c"]), record(&["c", "a"])];
        let order = order(&records, ["a", "b", "c", "d"]);
        assert_eq!(order, ["b", "c", "a", "d"]);
        assert_eq!(delay(DELAY, seconds(30), 0), DELAY);
        assert_eq!(delay(DELAY, seconds(30), 3), seconds(150));
        assert_eq!(delay(DELAY, Duration::MAX, usize::MAX), Duration::MAX);
    }
}

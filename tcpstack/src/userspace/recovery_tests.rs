use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const LIMITS: RecoveryLimits = RecoveryLimits {
    segments_max: 100,
    ack_delay: Duration::from_micros(500),
    probe_min: Duration::from_millis(1),
    probe_max: Duration::from_millis(200),
};
const ROUND_TRIP: Duration = Duration::from_micros(40);
/// Numbers that wrap around soon.
const START: TcpSeqNumber = TcpSeqNumber(i32::MAX - 150);
const LENGTH: usize = 100;

fn at(micros: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 + micros * 1_000)
}

fn number(segment: usize) -> TcpSeqNumber {
    START + segment * LENGTH
}

/// A sender, and what it says of each segment by its number.
struct Sender(Recovery);

impl Sender {
    /// One that knows the round trip.
    fn new() -> Sender {
        let mut recovery = Recovery::new(LIMITS);
        recovery.handle_sent(at(0), START - 1, START, &[]);
        recovery.handle_ack(at(0) + ROUND_TRIP, START, [].into_iter());
        Sender(recovery)
    }

    fn send(&mut self, now: Instant, segments: std::ops::Range<usize>) {
        for segment in segments {
            let packet = u8::try_from(segment).unwrap();
            self.0.handle_sent(now, number(segment), number(segment + 1), &[packet]);
        }
    }

    fn ack(&mut self, now: Instant, upto: usize, ranges: &[(usize, usize)]) {
        let ranges = ranges.iter().map(|&(from, to)| (number(from), number(to)));
        self.0.handle_ack(now, number(upto), ranges);
    }

    fn lost(&mut self, now: Instant) -> Vec<usize> {
        std::iter::from_fn(|| self.0.next_lost(now).map(|packet| packet[0].into())).collect()
    }
}

#[test]
fn what_is_acknowledged_in_time_is_never_sent_again() {
    let mut sender = Sender::new();
    sender.send(at(100), 0..10);
    for segment in 0..10 {
        let now = at(140 + u64::try_from(segment).unwrap());
        sender.ack(now, segment + 1, &[]);
        assert_eq!(sender.lost(now), []);
    }
    assert!(!sender.0.is_waiting());
    assert_eq!(sender.0.deadline(), None);
}

#[test]
fn a_segment_that_others_have_passed_is_lost_a_little_after_a_round_trip() {
    let mut sender = Sender::new();
    sender.send(at(100), 0..10);
    sender.ack(at(140), 3, &[(4, 10)]);
    assert_eq!(sender.lost(at(140)), [], "it may have been overtaken");
    let due = sender.0.deadline().unwrap();
    assert_eq!(due, at(140) + REORDERING_MIN);
    assert_eq!(sender.lost(due), [3]);
    assert_eq!(sender.lost(due), [], "once is enough for now");
    sender.ack(due + ROUND_TRIP, 10, &[]);
    assert!(!sender.0.is_waiting());
}

#[test]
fn a_segment_that_was_only_overtaken_is_not_sent_again() {
    let mut sender = Sender::new();
    sender.send(at(100), 0..3);
    sender.ack(at(140), 1, &[(2, 3)]);
    sender.ack(at(150), 3, &[]);
    assert_eq!(sender.lost(at(10_000)), []);
}

#[test]
fn the_last_segments_are_probed_for_and_then_the_others_follow() {
    let mut sender = Sender::new();
    sender.send(at(100), 0..8);
    let due = sender.0.deadline().unwrap();
    assert_eq!(due, at(100) + LIMITS.probe_min);
    assert_eq!(sender.lost(due), [0], "the oldest alone");
    sender.ack(due + ROUND_TRIP, 1, &[]);
    let due = sender.0.deadline().unwrap();
    assert!(due <= at(100) + LIMITS.probe_min + 2 * ROUND_TRIP, "no further probe is waited for");
    assert_eq!(sender.lost(due), (1..8).collect::<Vec<_>>());
}

#[test]
fn a_probe_waits_for_a_late_acknowledgement_only_where_one_may_be_late() {
    let limits = RecoveryLimits { probe_min: Duration::ZERO, ..LIMITS };
    let sender = || {
        let mut sender = Sender::new();
        sender.0.limits = limits;
        sender
    };
    let mut one = sender();
    one.send(at(100), 0..1);
    let patience = one.0.deadline().unwrap() - at(100);
    assert!(patience >= LIMITS.ack_delay);
    let mut two = sender();
    two.send(at(100), 0..1);
    two.send(at(110), 1..2);
    assert!(two.0.deadline().unwrap() - at(110) < LIMITS.ack_delay, "two are acknowledged at once");
    let mut gap = sender();
    gap.send(at(100), 0..2);
    gap.ack(at(140), 0, &[(1, 2)]);
    let due = gap.0.deadline().unwrap();
    assert_eq!(gap.lost(due), [0]);
    assert!(gap.0.probe_at.unwrap() - due < LIMITS.ack_delay, "who has complained is not late");
}

#[test]
fn what_is_sent_does_not_put_a_probe_off() {
    let mut sender = Sender::new();
    sender.send(at(100), 0..1);
    let due = sender.0.deadline().unwrap();
    for segment in 1..5 {
        sender.send(at(100 + 50 * u64::try_from(segment).unwrap()), segment..segment + 1);
        assert!(sender.0.deadline().unwrap() <= due);
    }
}

#[test]
fn who_asks_again_what_was_answered_has_not_got_the_answer() {
    let mut sender = Sender::new();
    sender.send(at(100), 0..2);
    sender.0.handle_asked_again(at(110));
    assert_eq!(sender.lost(at(110)), [], "it was asked before the answer can have come");
    sender.0.handle_asked_again(at(200));
    assert_eq!(sender.lost(at(200)), [0]);
    sender.0.handle_asked_again(at(210));
    assert_eq!(sender.lost(at(210)), [], "it was just sent again");
    sender.ack(at(240), 2, &[]);
    sender.0.handle_asked_again(at(400));
    assert_eq!(sender.0.deadline(), None);
}

#[test]
fn a_segment_that_comes_back_quickly_was_lost_although_others_take_long() {
    let mut sender = Sender::new();
    // The peer is busy, and slow to answer. Then it is quick again.
    let mut now = at(1_000);
    for segment in 0..20 {
        sender.send(now, segment..segment + 1);
        now += ROUND_TRIP * 8;
        sender.ack(now, segment + 1, &[]);
    }
    sender.send(now, 20..24);
    sender.ack(now + ROUND_TRIP, 20, &[(21, 22), (23, 24)]);
    let due = sender.0.deadline().unwrap();
    assert_eq!(sender.lost(due), [20, 22]);
    sender.send(due, 24..25);
    // Both come to it, and of the second only the copy tells that the new one, sent after them, is missing.
    sender.ack(due + ROUND_TRIP, 24, &[]);
    assert_eq!(sender.0.newest_arrived.unwrap().0, due);
}

#[test]
fn what_was_there_for_long_tells_nothing_of_the_round_trip() {
    let mut sender = Sender::new();
    let before = sender.0.round_trip.unwrap();
    sender.send(at(100), 0..4);
    sender.ack(at(140), 0, &[(1, 2)]);
    let due = sender.0.deadline().unwrap();
    assert_eq!(sender.lost(due), [0]);
    // The peer has not said of the last two that they are there. Now it does, as the first one has come.
    sender.ack(at(5_000), 4, &[]);
    let after = sender.0.round_trip.unwrap();
    assert!(after.smoothed <= before.smoothed * 2, "{after:?}");
}

#[test]
fn who_is_sent_again_in_vain_is_waited_for_longer() {
    let mut sender = Sender::new();
    let mut now = at(1_000);
    let mut patience = Vec::new();
    for first in (0..40).step_by(2) {
        sender.send(now, first..first + 2);
        now += ROUND_TRIP;
        sender.ack(now, first, &[(first + 1, first + 2)]);
        let due = sender.0.deadline().unwrap();
        patience.push(due - now);
        assert_eq!(sender.lost(due), [first]);
        // It was overtaken, and comes right then.
        now = due + Duration::from_micros(1);
        sender.ack(now, first + 2, &[]);
    }
    assert_eq!(patience[0], REORDERING_MIN);
    assert!(patience.is_sorted() && patience[19] > patience[0], "{patience:?}");
    assert!(patience[19] <= ROUND_TRIP, "but not for ever");
    for first in (40..90).step_by(2) {
        sender.send(now, first..first + 2);
        now += ROUND_TRIP;
        sender.ack(now, first, &[(first + 1, first + 2)]);
        now = sender.0.deadline().unwrap();
        assert_eq!(sender.lost(now), [first]);
        now += ROUND_TRIP;
        sender.ack(now, first + 2, &[]);
    }
    assert_eq!(sender.0.reordering, 1, "it is forgotten when segments are lost again");
}

#[test]
fn probes_that_nothing_follows_become_rare() {
    let mut sender = Sender::new();
    sender.send(at(100), 0..1);
    let mut before = at(100);
    let mut pause = Duration::ZERO;
    for _ in 0..20 {
        let due = sender.0.deadline().unwrap();
        assert!(due - before >= pause && due - before <= LIMITS.probe_max);
        (pause, before) = (due - before, due);
        assert_eq!(sender.lost(due), [0]);
    }
    assert_eq!(pause, LIMITS.probe_max);
    sender.send(before, 1..2);
    sender.ack(before + ROUND_TRIP, 1, &[]);
    assert!(sender.0.deadline().unwrap() - before <= LIMITS.probe_max / 2, "it answers again");
}

#[test]
fn what_the_stack_sends_again_takes_the_place_of_what_was_sent() {
    let mut sender = Sender::new();
    sender.send(at(100), 0..4);
    sender.send(at(200), 0..2);
    // Cut elsewhere: one and a half, and the half that is left with another one.
    let middle = number(3) - LENGTH / 2;
    sender.0.handle_sent(at(300), number(1), middle, &[11]);
    sender.0.handle_sent(at(300), middle, number(4), &[12]);
    let kept: Vec<_> = sender.0.segments.iter().map(|sent| (sent.from, sent.packet[0])).collect();
    assert_eq!(kept, [(number(0), 0), (number(1), 11), (number(2), 2), (middle, 12)]);
    sender.ack(at(340), 4, &[]);
    assert!(!sender.0.is_waiting());
}

#[test]
fn at_the_bound_further_segments_are_left_to_the_stack() {
    let mut sender = Sender::new();
    sender.send(at(100), 0..150);
    assert_eq!(sender.0.segments.len(), LIMITS.segments_max);
    sender.ack(at(140), 150, &[]);
    assert!(!sender.0.is_waiting());
}

proptest! {
    /// A receiver that gets some of it, and says so, gets all in the end; and what it has said that it has
    /// is not sent again.
    #[test]
    fn all_arrives_over_a_link_that_loses(
        losses in prop::collection::vec(any::<bool>(), 0..60), count in 1_usize..60,
    ) {
        let mut sender = Sender::new();
        let mut losses = losses.into_iter();
        let mut now = at(100);
        let mut there = BTreeSet::new();
        let mut told = BTreeSet::new();
        sender.send(now, 0..count);
        let mut flying: Vec<_> = (0..count).collect();
        for _ in 0..1_000 {
            there.extend(flying.drain(..).filter(|_| !losses.next().unwrap_or(false)));
            now += ROUND_TRIP;
            let upto = (0..count).find(|it| !there.contains(it)).unwrap_or(count);
            // One range, as smoltcp tells it.
            let from = (upto..count).find(|it| there.contains(it));
            let range = from.map(|from| {
                (from, (from..count).find(|it| !there.contains(it)).unwrap_or(count))
            });
            if !losses.next().unwrap_or(false) {
                told.extend(0..upto);
                told.extend(range.into_iter().flat_map(|(from, to)| from..to));
                sender.ack(now, upto, range.as_slice());
            }
            if upto == count && told.len() == count {
                prop_assert!(!sender.0.is_waiting());
                return Ok(());
            }
            now = sender.0.deadline().expect("something is missing").max(now);
            flying = sender.lost(now);
            prop_assert!(flying.iter().all(|segment| !told.contains(segment)));
        }
        prop_assert!(false, "it does not end");
    }
}

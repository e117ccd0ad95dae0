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

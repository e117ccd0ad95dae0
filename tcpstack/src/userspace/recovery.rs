//! Recovery of lost segments below smoltcp, whose least retransmission time-out is a second.
//!
//! A copy of each segment is kept until the peer has acknowledged it. By what the peer says, in cumulative and
//! selective acknowledgements, and by the time that has passed, segments are found to be lost and sent again:
//! as RACK-TLP does it (RFC 8985), with the oldest segment instead of the newest as the probe. smoltcp hears of
//! none of this: it sees acknowledgements that come a little later.
//!
//! One flow, no IO: packets and times come in, packets to send again go out.

use std::collections::VecDeque;
use std::time::Duration;

use smoltcp::wire::TcpSeqNumber;

use crate::time::Instant;

/// The part of a flow that goes one way: what was sent and not acknowledged.
#[derive(Debug)]
pub(super) struct Recovery {
    limits: RecoveryLimits,
    /// In the order of their numbers, without overlaps but those that the stack made.
    segments: VecDeque<Sent>,
    /// Packets whose memory is used again.
    spare: Vec<Vec<u8>>,
    round_trip: Option<RoundTrip>,
    /// Of the segments that are known to have arrived, the one that was sent last.
    newest_arrived: Option<(Instant, TcpSeqNumber)>,
    /// How long the latest of them took.
    latest_round_trip: Duration,
    /// Something before this was lost, or seemed so: until it is acknowledged all segments are looked at.
    suspect_until: Option<TcpSeqNumber>,
    /// The most octets that one segment had: as much may be there without the peer saying so at once.
    longest: usize,
    /// How patient to be with those that others have passed, as a multiple of the usual.
    reordering: u32,
    /// Segments sent again since then, and rightly.
    rightly: u32,
    /// When the first of those that were passed counts as lost.
    judged_at: Option<Instant>,
    /// The probe is sent then, if nothing is acknowledged.
    probe_at: Option<Instant>,
    /// Probes in a row that nothing followed.
    probes: u32,
}

/// The bounds of a [`Recovery`].
#[derive(Clone, Copy, Debug)]
pub(super) struct RecoveryLimits {
    /// Segments that are kept. Those beyond are not kept, and if lost are sent again by the stack alone.
    pub(super) segments_max: usize,
    /// The peer may keep an acknowledgement of so little as one segment back for so long.
    pub(super) ack_delay: Duration,
    /// No probe sooner than this after the last progress.
    pub(super) probe_min: Duration,
    /// The longest time between two probes.
    pub(super) probe_max: Duration,
}

#[derive(Debug)]
struct Sent {
    from: TcpSeqNumber,
    to: TcpSeqNumber,
    packet: Vec<u8>,
    sent_at: Instant,
    sent_again: bool,
    has_arrived: bool,
}

#[derive(Clone, Copy, Debug)]
struct RoundTrip {
    smoothed: Duration,
    variation: Duration,
    /// The least of late.
    least: Duration,
}

/// A segment that is known to have arrived.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    sent_at: Instant,
    to: TcpSeqNumber,
    sent_again: bool,
}

/// Before the first round trip is known.
const PROBE_FIRST: Duration = Duration::from_millis(20);

/// How much longer than a round trip a segment may take that others have passed.
const REORDERING_MIN: Duration = Duration::from_micros(20);

/// Bound of the multiple of that. (It is never more than a round trip or so, either.)
const REORDERING_MAX: u32 = 16;

/// When so many were sent again rightly, less patience will do (RFC 8985, section 6.2, step 4).
const RIGHTLY_MAX: u32 = 16;

/// Memory of packets that is kept for use again.
const SPARE_MAX: usize = 64;

impl Recovery {
    pub(super) fn new(limits: RecoveryLimits) -> Recovery {
        Recovery {
            limits,
            segments: VecDeque::new(),
            spare: Vec::new(),
            round_trip: None,
            newest_arrived: None,
            latest_round_trip: Duration::ZERO,
            longest: 0,
            reordering: 1,
            rightly: 0,
            suspect_until: None,
            judged_at: None,
            probe_at: None,
            probes: 0,
        }
    }

    /// The stack has sent a segment with these numbers, not empty.
    pub(super) fn handle_sent(
        &mut self,
        now: Instant,
        from: TcpSeqNumber,
        to: TcpSeqNumber,
        packet: &[u8],
    ) {
        debug_assert!(from < to);
        self.longest = self.longest.max(to - from);
        // It sends again what it takes for lost, perhaps cut elsewhere.
        let first = self.segments.partition_point(|sent| sent.from < from);
        let covered = self.segments.range(first..).take_while(|sent| sent.to <= to).count();
        let mut sent_again = covered > 0;
        for sent in self.segments.drain(first..first + covered) {
            keep_spare(&mut self.spare, sent.packet);
        }
        if first > 0 && self.segments[first - 1].to >= to {
            // A part of one that is kept: that one will do.
            return;
        }
        sent_again |= first > 0 && self.segments[first - 1].to > from;
        if self.segments.len() < self.limits.segments_max {
            let mut kept = self.spare.pop().unwrap_or_default();
            kept.clear();
            kept.extend_from_slice(packet);
            let has_arrived = false;
            let sent = Sent { from, to, packet: kept, sent_at: now, sent_again, has_arrived };
            self.segments.insert(first, sent);
        }
        // Perhaps it is more now than the peer keeps back. What is sent never puts a probe off.
        let before = self.probe_at;
        self.arm(now);
        self.probe_at = [before, self.probe_at].into_iter().flatten().min();
    }

    /// The peer acknowledges everything before `upto`, and has these ranges beyond it.
    pub(super) fn handle_ack(
        &mut self,
        now: Instant,
        upto: TcpSeqNumber,
        ranges: impl Iterator<Item = (TcpSeqNumber, TcpSeqNumber)>,
    ) {
        // Of those that have arrived since the last one. It brought this about; others may have been there for long.
        let mut newest = None;
        while self.segments.front().is_some_and(|sent| sent.to <= upto) {
            let sent = self.segments.pop_front().expect("there is one");
            newest = later(newest, sent.arrival());
            keep_spare(&mut self.spare, sent.packet);
        }
        for (from, to) in ranges {
            let first = self.segments.partition_point(|sent| sent.from < from);
            let last = self.segments.back().map(|last| last.to);
            for sent in self.segments.range_mut(first..).take_while(|sent| sent.to <= to) {
                newest = later(newest, sent.arrival());
                sent.has_arrived = true;
                self.suspect_until = last;
            }
        }
        if let Some(newest) = newest {
            self.note_arrived(now, newest);
        }
        if self.suspect_until.is_some_and(|until| until <= upto) {
            self.suspect_until = None;
        }
        self.judge();
        if newest.is_some() {
            self.probes = 0;
            self.probe_at = None;
            self.arm(now);
        }
    }

    /// The peer has sent again what we have acknowledged, and acknowledges nothing new. If it does not have by now what we
    /// sent first then that is lost, and our acknowledgement with it: often they are one packet. Nobody else would
    /// send anything in a while.
    pub(super) fn handle_asked_again(&mut self, now: Instant) {
        let first = self.segments.iter().find(|sent| !sent.has_arrived);
        if first.is_some_and(|first| self.counts_as_lost_at(first) <= now) {
            self.probe_at = Some(now);
        }
    }

    /// Whether anything is not acknowledged.
    pub(super) fn is_waiting(&self) -> bool {
        !self.segments.is_empty()
    }

    /// Probes in a row that nothing followed.
    pub(super) fn probes(&self) -> u32 {
        self.probes
    }

    /// When [`next_lost`](Self::next_lost) will have something, if nothing is heard.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.judged_at, self.probe_at].into_iter().flatten().min()
    }

    /// The next packet that must be sent again now, as it was sent first.
    pub(super) fn next_lost(&mut self, now: Instant) -> Option<&[u8]> {
        if self.deadline().is_none_or(|at| at > now) {
            return None;
        }
        let is_lost = |sent: &Sent| self.was_passed(sent) && self.counts_as_lost_at(sent) <= now;
        let mut lost = self.segments.iter().position(is_lost);
        if self.probe_at.is_some_and(|at| at <= now) {
            self.probes += 1;
            self.suspect_until = self.segments.back().map(|last| last.to);
            self.arm(now);
            lost = lost.or_else(|| self.segments.iter().position(|sent| !sent.has_arrived));
        }
        if let Some(place) = lost {
            self.segments[place].sent_at = now;
            self.segments[place].sent_again = true;
        }
        self.judge();
        Some(&self.segments[lost?].packet)
    }

    /// Sees when the first of those that were passed counts as lost. Without a reason to suspect anything they are
    /// in the order in which they were sent, so that the first one tells.
    fn judge(&mut self) {
        let front_was_passed = self.segments.front().is_some_and(|sent| self.was_passed(sent));
        self.judged_at = if front_was_passed || self.suspect_until.is_some() {
            let passed = self.segments.iter().filter(|sent| self.was_passed(sent));
            passed.map(|sent| self.counts_as_lost_at(sent)).min()
        } else {
            None
        };
    }

    fn note_arrived(&mut self, now: Instant, arrival: Arrival) {
        let Arrival { sent_at, to, sent_again } = arrival;
        let took = now.saturating_since(sent_at);
        if sent_again {
            // Sooner than any answer comes: the first one has arrived, and not the one that was sent again (RFC 8985,
            // section 6.2, step 2). It was only overtaken.
            if self.round_trip.is_some_and(|it| took < it.least) {
                self.reordering = (self.reordering + 1).min(REORDERING_MAX);
                self.rightly = 0;
                return;
            }
            self.rightly += 1;
            if self.rightly >= RIGHTLY_MAX {
                (self.reordering, self.rightly) = (1, 0);
            }
        } else {
            let least = took;
            self.round_trip = Some(match self.round_trip {
                None => RoundTrip { smoothed: took, variation: took / 2, least },
                Some(before) => before.with(took),
            });
        }
        if self.newest_arrived.is_none_or(|newest| is_later((sent_at, to), newest)) {
            self.newest_arrived = Some((sent_at, to));
            self.latest_round_trip = took;
        }
    }

    /// Whether one that was sent later has arrived, and this one has not.
    fn was_passed(&self, sent: &Sent) -> bool {
        let passed = |newest| is_later(newest, (sent.sent_at, sent.to));
        !sent.has_arrived && self.newest_arrived.is_some_and(passed)
    }

    /// When one that was passed counts as lost.
    fn counts_as_lost_at(&self, sent: &Sent) -> Instant {
        let usual = (self.latest_round_trip / 4).max(REORDERING_MIN);
        let most = self.latest_round_trip.max(usual);
        sent.sent_at + self.latest_round_trip + (usual * self.reordering).min(most)
    }

    /// Whether the peer may have all that is under way, and nothing to complain of, so that it waits before it says so.
    fn may_be_kept_back(&self) -> bool {
        let (Some(first), Some(last)) = (self.segments.front(), self.segments.back()) else {
            return false;
        };
        self.suspect_until.is_none() && last.to - first.from <= self.longest
    }

    fn arm(&mut self, now: Instant) {
        let limits = &self.limits;
        let patience = match self.round_trip {
            None => PROBE_FIRST,
            Some(known) => {
                let usual = known.smoothed * 2 + known.variation * 4;
                let ack_delay =
                    if self.may_be_kept_back() { limits.ack_delay } else { Duration::ZERO };
                (usual + ack_delay).max(limits.probe_min)
            }
        };
        let patience = patience.saturating_mul(1 << self.probes.min(16)).min(limits.probe_max);
        self.probe_at = self.is_waiting().then(|| now + patience);
    }
}

impl RoundTrip {
    /// RFC 6298, section 2.
    fn with(self, took: Duration) -> RoundTrip {
        let off = took.abs_diff(self.smoothed);
        RoundTrip {
            smoothed: self.smoothed * 7 / 8 + took / 8,
            variation: self.variation * 3 / 4 + off / 4,
            // It is forgotten in time: ways change.
            least: took.min(self.least + self.least / 64),
        }
    }
}

impl Sent {
    /// That it has arrived, if that was not known.
    fn arrival(&self) -> Option<Arrival> {
        let Sent { sent_at, to, sent_again, .. } = *self;
        (!self.has_arrived).then_some(Arrival { sent_at, to, sent_again })
    }
}

/// The one of them that was sent later.
fn later(a: Option<Arrival>, b: Option<Arrival>) -> Option<Arrival> {
    let key = |it: Arrival| (it.sent_at, it.to);
    match (a, b) {
        (Some(a), Some(b)) => Some(if is_later(key(b), key(a)) { b } else { a }),
        (one, other) => one.or(other),
    }
}

/// Whether `a` was sent after `b`: by time, and within a turn by number.
fn is_later(a: (Instant, TcpSeqNumber), b: (Instant, TcpSeqNumber)) -> bool {
    a.0 > b.0 || (a.0 == b.0 && a.1 > b.1)
}

fn keep_spare(spare: &mut Vec<Vec<u8>>, packet: Vec<u8>) {
    if spare.len() < SPARE_MAX {
        spare.push(packet);
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;

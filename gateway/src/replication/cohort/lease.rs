//! The lease: until when this owner may act, that is commit stores and hand messages to next hops.
//!
//! An owner learns of its successor at the latest when a server that is recorded refuses it. Until then it
//! may act, and the successor must know how long that can be. So the owner acts only while *every*
//! recorded member has answered it within the lease, and a successor that has sealed *any* of them waits
//! until that member's last answer is too old.
//!
//! * The time runs from when a request was made, and not from when its answer came: an answer may have been
//!   on its way, or waited for us, for any time.
//! * An answer renews only while all recorded queues are attached there over the connections by which it
//!   came. Those are the connections that a seal ends; over others a server may answer for ever.
//! * What was renewed stays until its time is over, whatever becomes of the link. A record that names fewer
//!   members is written before anything goes on without the others.
//! * A record that may have been written, although we do not know, counts too: a successor may start from
//!   the members that it adds.

use std::time::Duration;

use kvs_proto::Incarnation;
use tcpstack::Instant;

use super::super::record::Record;
use super::super::request::{Outlet, Outlets};
use super::{Cohort, Phase, asked_of};
use crate::board::Board;

/// Of a lease, the part by which it must be renewed before that is noted: what follows from it is not
/// worked out in every turn. A lease is shorter by that at most.
const RENEWAL_SHARE: u32 = 16;

/// Of a lease, the part that a successor waits beyond it: for two clocks whose rates differ.
const DRIFT_SHARE: u32 = 128;

impl Cohort {
    /// Notes who has answered, and until when we may act by that.
    pub(super) fn maintain_lease(
        &mut self,
        now: Instant,
        outlets: &mut impl Outlets,
        board: &Board,
    ) {
        let until = match self.phase {
            Phase::Serving if self.is_resumed() => Instant::MAX,
            Phase::Serving => self.renew(outlets),
            _ => Instant::ZERO,
        };
        self.set_lease(now, until, board);
    }

    /// The lease lasts until then.
    pub(super) fn set_lease(&mut self, now: Instant, until: Instant, board: &Board) {
        if until == self.lease_until {
            return;
        }
        // What waits for the lease is committed now.
        self.refresh |= self.lease_until <= now;
        self.lease_until = until;
        for unit in &self.units {
            board.set_lease(unit.queue_index(), now, until);
        }
    }

    /// Whether we may act at that time.
    pub(super) fn has_lease(&self, now: Instant) -> bool {
        now < self.lease_until
    }

    /// The lease that we want recorded, in milliseconds.
    pub(super) fn lease_ms(&self) -> u64 {
        u64::try_from(self.policy.lease.as_millis()).unwrap_or(u64::MAX)
    }

    /// When a former owner that acts by that record, heard from at a member that is sealed that long before
    /// now, has stopped.
    pub(super) fn former_lease_end(
        record: &Record,
        now: Instant,
        idle: Option<Duration>,
    ) -> Instant {
        let lease = record.lease();
        let left = lease.saturating_sub(idle.unwrap_or_default());
        if left.is_zero() { now } else { now + left + lease / DRIFT_SHARE }
    }

    /// Brings the members' renewals up to date; until when all of them together let us act.
    fn renew(&mut self, outlets: &mut impl Outlets) -> Instant {
        let Some(record) = &self.record else { return Instant::ZERO };
        let asked = asked_of(&self.register);
        let lease = [Some(record), asked].into_iter().flatten().map(Record::lease);
        let lease = lease.min().unwrap_or_default().min(self.policy.lease);
        let mut earliest = None;
        for recorded in record.members.iter().chain(asked.into_iter().flat_map(|it| &it.members)) {
            let place = self.members.iter().position(|it| it.server == recorded.server);
            // One that is not configured any more never answers.
            let Some(place) = place else { return Instant::ZERO };
            let newest = outlets.of(place).answered_since();
            let before = self.members[place].renewed_at(recorded.incarnation);
            let is_news = newest.is_some_and(|newest| {
                before == Instant::ZERO || newest >= before + lease / RENEWAL_SHARE
            });
            let member = &self.members[place];
            let is_there = |recorded: Incarnation| {
                member.up == Some(recorded)
                    && self.units.iter().all(|unit| {
                        unit.copies[place].is_attached() || !record.has_queue(unit.name())
                    })
            };
            let renewed = match newest {
                Some(newest) if is_news && is_there(recorded.incarnation) => newest,
                _ => before,
            };
            self.members[place].renewed = Some((recorded.incarnation, renewed));
            earliest = Some(earliest.map_or(renewed, |it: Instant| it.min(renewed)));
        }
        match earliest {
            Some(renewed) if renewed > Instant::ZERO => renewed + lease,
            // Nobody is recorded: whoever comes may have copies, or nobody.
            _ => Instant::ZERO,
        }
    }
}

//! Going on without a lease, because the operator says so.
//!
//! When a recorded copy is away the lease ends, and the record must be changed before anything goes on. Where the
//! register is away too, or no copy is left, an owner cannot know whether somebody has taken its queues over; so it
//! keeps all that it has and does nothing with it. Only somebody who knows that no other program has the queues
//! can say that it may go on: then what is queued is delivered. Nothing is accepted by that, as there are no copies.
//!
//! It holds until the register answers or a recorded copy is there again: what those say counts, and a take-over
//! that has happened is found there.

use tcpstack::Instant;
use tracing::warn;

use super::super::record::RegisterCall;
use super::{Cohort, Phase, RegisterState};
use crate::board::Board;

/// How a cohort stands to its register, and to the operator's word.
#[derive(Default, Debug)]
pub(super) struct Resume {
    /// The last call failed, and no other has been answered since.
    register_fails: bool,
    /// The newest order that was looked at.
    number: u64,
    /// It goes on.
    is_on: bool,
}

impl Cohort {
    /// Goes on without a lease by the order of that number, if that is new, and neither the register nor a
    /// recorded copy can say whose the queues are.
    pub fn resume(&mut self, now: Instant, number: u64, board: &Board) {
        if number <= std::mem::replace(&mut self.resume.number, number) {
            return;
        }
        if self.must_be_told(now) {
            warn!(cohort = %self.key, epoch = self.epoch.0,
                  "the operator says that no take-over has happened: what is queued is delivered without a lease");
            self.resume.is_on = true;
            self.refresh = true;
            self.set_lease(now, Instant::MAX, board);
        }
    }

    /// Whether it has no lease, and can learn from nobody whether the queues are still its own.
    pub(super) fn must_be_told(&self, now: Instant) -> bool {
        let asks_in_vain = self.register_fails() || self.in_set_up().next().is_none();
        self.phase == Phase::Serving && !self.has_lease(now) && asks_in_vain
    }

    /// Whether it goes on without a lease.
    pub(super) fn is_resumed(&self) -> bool {
        self.resume.is_on
    }

    /// Whether the register is asked something, and failed when it last answered.
    pub(super) fn register_fails(&self) -> bool {
        self.resume.register_fails && !matches!(self.register, RegisterState::Idle)
    }

    /// The register has answered that call, or failed. That the record is ours still, where nobody is there who is
    /// recorded, is what the operator has said too.
    pub(super) fn note_register(&mut self, call: &RegisterCall, answers: bool) {
        self.resume.register_fails = !answers;
        let is_look = matches!(call, RegisterCall::Read) && self.phase == Phase::Serving;
        if answers && !is_look {
            self.end_resume("the register answers again");
        }
    }

    /// From now on the lease counts again.
    pub(super) fn end_resume(&mut self, why: &str) {
        if std::mem::take(&mut self.resume.is_on) {
            warn!(cohort = %self.key, why, "nothing goes on without a lease any more");
        }
    }
}

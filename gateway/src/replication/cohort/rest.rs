//! Turns in which there is nothing to look at but what the queues have to send.
//!
//! A gateway with many queues has up to sixteen cohorts for each pair of servers, and thousands of turns a second, in
//! each of which a message concerns one of them. So a cohort that is as it should be *rests*: it looks at its members,
//! its record and its lease again when something is said that concerns these ([`stir`](Cohort::stir)), when its next
//! deadline comes, or after a fraction of the lease. Answers to changes of queues concern none of them.

use tcpstack::Instant;

use super::{Cohort, Phase, Proof, RegisterState, Role};

/// Of a lease, the part for which a cohort may rest: its renewals are noted later by that, and so is what comes by the
/// clock and has no deadline.
const REST_SHARE: u32 = 64;

impl Cohort {
    /// Whether nothing but the queues has to be looked at.
    pub(super) fn rests(&self, now: Instant) -> bool {
        now < self.rests_until && !self.refresh
    }

    /// Something was said that the members, the record or the lease hang on. (What sets `refresh` says so by that.)
    pub(super) fn stir(&mut self) {
        self.rests_until = Instant::ZERO;
    }

    /// Everything was looked at: rests, if all is as it should be.
    pub(super) fn begin_rest(&mut self, now: Instant) {
        self.rests_until = Instant::ZERO;
        if self.is_settled(now) {
            let longest = now + self.policy.lease / REST_SHARE;
            let deadline = self.next_deadline(now);
            self.rests_until = deadline.map_or(longest, |deadline| deadline.min(longest));
        }
    }

    /// Whether the members that count are there, nobody joins or is given up, nothing is asked of the register, and we
    /// may act.
    fn is_settled(&self, now: Instant) -> bool {
        let is_well = |role: &Role, up, proof| match role {
            Role::InSet(life) => up == Some(*life) && proof == Proof::None,
            Role::Out { .. } => true,
            Role::Joining | Role::Expelled { .. } => false,
        };
        self.phase == Phase::Serving
            && self.all_open
            && matches!(self.register, RegisterState::Idle)
            && self.members.iter().all(|it| is_well(&it.role, it.up, it.proof))
            && self.in_set().next().is_some()
            && !self.wants_to_move()
            && self.fill_again_at.is_none()
            && self.lacking_since.is_none()
            && !self.is_patient
            && self.has_lease(now)
    }
}

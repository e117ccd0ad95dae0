//! The servers of a cohort: which count, which are given up, which are filled.

use kvs_proto::Incarnation;
use tcpstack::Instant;
use tracing::{info, warn};

use super::super::record::RecordedMember;
use super::super::request::{Outlet, Outlets};
use super::unit::{Service, Unit};
use super::{Cohort, is_asked_for};

#[derive(Debug)]
pub(super) struct Member {
    pub(super) server: String,
    /// The life of the server at the other end of the link, if it is up.
    pub(super) up: Option<Incarnation>,
    pub(super) down_since: Instant,
    pub(super) role: Role,
    /// Fills that failed since it last counted.
    pub(super) failures: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Recorded with this life: its answer counts.
    InSet(Incarnation),
    /// Recorded, but must go: nothing counts until the record is changed.
    Expelled,
    /// Not recorded, and not being filled before that time.
    Out { not_before: Instant },
    /// Being filled.
    Joining,
}

impl Cohort {
    /// A member is there while we serve: it resumes, or begins to join.
    pub(super) fn welcome(
        &mut self,
        now: Instant,
        member: usize,
        incarnation: Incarnation,
        outlets: &mut impl Outlets,
    ) {
        match self.members[member].role {
            Role::InSet(recorded) if recorded == incarnation => {
                for unit in &mut self.units {
                    let context = unit.context(self.epoch);
                    unit.attach_or_create(member, &context, outlets.of(member));
                }
            }
            Role::InSet(_) => {
                self.expel(member, "the server has restarted and lost what it had");
            }
            Role::Expelled => {}
            Role::Out { .. } | Role::Joining => {
                self.members[member].role = Role::Out { not_before: now };
            }
        }
    }

    /// Its copies count no more. The record says so before anything goes on.
    pub(super) fn expel(&mut self, member: usize, why: &str) {
        let it = &mut self.members[member];
        warn!(cohort = %self.key, server = %it.server, why, "the server's copies are isolated");
        it.role = Role::Expelled;
        self.refresh = true;
        self.counters.isolations += 1;
        for unit in &mut self.units {
            unit.copies[member].forget();
        }
    }

    /// Whether all copies of a joining member follow.
    pub(super) fn has_joined(&self, member: usize) -> bool {
        self.members[member].role == Role::Joining
            && self.units.iter().all(|unit| unit.copies[member].is_following())
    }

    /// Those that were away too long are given up, those that came are filled.
    pub(super) fn maintain_members(&mut self, now: Instant, outlets: &mut impl Outlets) {
        for member in 0..self.members.len() {
            match self.members[member].role {
                Role::InSet(_) if self.is_overdue(now, member) => {
                    self.expel(member, "the server has been away for too long");
                }
                Role::Out { not_before } if now >= not_before => {
                    self.begin_to_fill(member, outlets.of(member));
                }
                _ => {}
            }
        }
    }

    /// Whether the rest must go on without that member of the set.
    pub(super) fn is_overdue(&self, now: Instant, member: usize) -> bool {
        let it = &self.members[member];
        if it.up.is_some() {
            return false;
        }
        let away = now.saturating_since(it.down_since);
        let others_up =
            self.in_set().filter(|other| *other != member && self.members[*other].up.is_some());
        let others = others_up.count();
        let recovering = self.units.iter().any(|unit| !unit.is_open());
        others > 0
            && ((others >= self.policy.min_sync && away >= self.policy.isolate_after)
                || (recovering && away >= self.policy.recovery_wait))
    }

    pub(super) fn begin_to_fill(&mut self, member: usize, outlet: &mut impl Outlet) {
        let nobody_counts = self.in_set().next().is_none();
        // New queues wait for members that count. Where none does, filled copies are those.
        let is_ready =
            |unit: &Unit| unit.is_open() || (nobody_counts && unit.service == Service::Creating);
        let recovering = !self.units.iter().all(is_ready);
        let it = &mut self.members[member];
        // Nothing is emptied that the record may name.
        if it.up.is_none() || recovering || is_asked_for(&self.register, &it.server) {
            return;
        }
        info!(cohort = %self.key, server = %it.server, "filling the server's copies");
        it.role = Role::Joining;
        for place in 0..self.units.len() {
            let unit = &mut self.units[place];
            let context = unit.context(self.epoch);
            unit.copies[member].refill(&context, outlet);
            self.touch(place);
        }
    }

    pub(super) fn wanted_member(&self, member: &Member) -> Option<RecordedMember> {
        let place = self.members.iter().position(|it| it.server == member.server)?;
        let has_all = |unit: &Unit| unit.copies[place].acknowledged() >= Some(unit.committed);
        let incarnation = match member.role {
            Role::InSet(incarnation) => incarnation,
            // Not while it lacks what was committed before it counted.
            Role::Joining if self.has_joined(place) && self.units.iter().all(has_all) => {
                member.up?
            }
            _ => return None,
        };
        Some(RecordedMember { server: member.server.clone(), incarnation })
    }
}

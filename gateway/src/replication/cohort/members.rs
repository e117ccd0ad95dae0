//! The servers of a cohort: which count, which are given up, which are filled.
//!
//! Of the servers that may back the queues up, [`BACKUPS`] do; the others are *spares*. When one that counts is
//! away for too long, or its copies are no good, a spare is filled from our memory while service goes on, and
//! takes its place in the record.

use std::time::Duration;

use kvs_proto::Incarnation;
use tcpstack::Instant;
use tracing::warn;

use super::super::placement::{Placement, best};
use super::super::record::{Record, RecordedMember};
use super::super::request::{Ask, Outlet, Outlets, Request};
use super::moves::Leaving;
use super::unit::{Service, Unit};
use super::{Cohort, MemberSettings, is_asked_for};

/// Copies of each queue at servers, when all is well.
pub const BACKUPS: usize = 2;

/// Beyond `isolate_after`, how long a server may be away where nothing can be committed without it; and how long
/// queues go on accepting while a spare is made ready. Clients wait for their 250 meanwhile. A server that takes
/// back-fill is recorded as joining well within it. One that does not has to be filled, and where that takes longer
/// the queue is so long that clients are better told to come back.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Member {
    pub(super) server: String,
    pub(super) placement: Placement,
    /// Its place in the order of preference.
    pub(super) rank: usize,
    /// Whether its copies are to go elsewhere.
    pub(super) leaving: Leaving,
    /// The life of the server at the other end of the link, if it is up.
    pub(super) up: Option<Incarnation>,
    pub(super) down_since: Instant,
    /// It is down, and known not to come back in that life.
    pub(super) is_gone: bool,
    pub(super) role: Role,
    /// Fills that failed since it last counted.
    pub(super) failures: u32,
    pub(super) proof: Proof,
    /// When the newest request was made, of that life of the server, whose answer lets us act.
    pub(super) renewed: Option<(Incarnation, Instant)>,
    /// What it may still have of the queues, although it does not count, was dropped (or is about to be).
    pub(super) is_cleared: bool,
    /// The life of the server in which what it has of the queues may be good, although it does not count: it was only
    /// away, or its link was lost while it was being filled.
    pub(super) kept: Option<Incarnation>,
    /// Of one that joins: since when it has been no nearer than that.
    pub(super) progress: (Instant, u64),
    /// Of one that joins: the queues of which it is being sent the old messages now.
    pub(super) filling: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Recorded with this life: its answer counts.
    InSet(Incarnation),
    /// Recorded, but must go: nothing counts until the record is changed. Copies that are known to be lost go at
    /// once; others (away, out of step) only while another one that counts is alive, or the record could
    /// end up naming nobody who has the mail.
    Expelled { is_lost: bool },
    /// Not recorded, and not being filled before that time.
    Out { not_before: Instant },
    /// Being filled.
    Joining,
}

/// Whether a member has said that it is alive since another one was to be given up: a server that died a moment
/// ago still looks alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Proof {
    None,
    Asked,
    Given,
}

impl Member {
    pub(super) fn new(settings: MemberSettings) -> Member {
        Member {
            server: settings.server,
            placement: settings.placement,
            rank: 0,
            leaving: Leaving { is_drained: settings.is_drained, ..Leaving::default() },
            up: None,
            down_since: Instant::ZERO,
            is_gone: false,
            role: Role::Out { not_before: Instant::ZERO },
            failures: 0,
            proof: Proof::None,
            renewed: None,
            is_cleared: false,
            kept: None,
            progress: (Instant::ZERO, 0),
            filling: Vec::new(),
        }
    }

    /// When the newest request was made of that life of the server, whose answer lets us act; 0 if none.
    pub(super) fn renewed_at(&self, life: Incarnation) -> Instant {
        let renewed = self.renewed.filter(|(known, _)| *known == life);
        renewed.map_or(Instant::ZERO, |(_, at)| at)
    }

    pub(super) fn counts(&self) -> bool {
        matches!(self.role, Role::InSet(_))
    }
}

impl Cohort {
    /// Members whose answers count.
    pub(super) fn in_set(&self) -> impl Iterator<Item = usize> {
        let counts = |(place, member): (usize, &Member)| member.counts().then_some(place);
        self.members.iter().enumerate().filter_map(counts)
    }

    /// Members whose answers count and whose links are up.
    pub(super) fn in_set_up(&self) -> impl Iterator<Item = usize> {
        self.in_set().filter(|member| self.members[*member].up.is_some())
    }

    /// A member is there while we serve: it resumes, or begins to join.
    pub(super) fn welcome(
        &mut self,
        now: Instant,
        member: usize,
        incarnation: Incarnation,
        outlets: &mut impl Outlets,
    ) {
        self.members[member].is_cleared = false;
        match self.members[member].role {
            Role::InSet(recorded) if recorded == incarnation => {
                for unit in &mut self.units {
                    let context = unit.context(self.epoch);
                    unit.attach_or_create(member, &context, outlets.of(member));
                }
            }
            Role::InSet(_) => self.expel_lost(member),
            Role::Expelled { .. } => {
                let record = self.record.as_ref();
                let recorded =
                    record.and_then(|it| it.incarnation_of(&self.members[member].server));
                let is_lost = recorded != Some(incarnation);
                self.members[member].role = Role::Expelled { is_lost };
            }
            Role::Out { .. } | Role::Joining => {
                self.members[member].role = Role::Out { not_before: now };
            }
        }
    }

    /// The server began a new life: what it had is gone.
    pub(super) fn expel_lost(&mut self, member: usize) {
        self.expel(member, "the server has restarted and lost what it had");
        self.members[member].role = Role::Expelled { is_lost: true };
    }

    /// Its copies count no more. The record says so before anything goes on.
    pub(super) fn expel(&mut self, member: usize, why: &str) {
        self.isolate(member, why);
        self.members[member].kept = None;
        self.units.iter_mut().for_each(|unit| unit.forget_copy(member));
    }

    /// It was away for too long, and nothing else is wrong with it: it may come back and lack little.
    fn expel_absent(&mut self, member: usize) {
        let Role::InSet(incarnation) = self.members[member].role else { return };
        self.isolate(member, "the server has been away for too long");
        self.members[member].kept = Some(incarnation);
        self.units.iter_mut().for_each(|unit| unit.copies[member].set_aside());
    }

    fn isolate(&mut self, member: usize, why: &str) {
        let it = &mut self.members[member];
        warn!(cohort = %self.key, server = %it.server, why, "the server's copies are isolated");
        // One that was lost while it was being recorded has never counted.
        self.counters.isolations += u64::from(it.counts());
        it.role = Role::Expelled { is_lost: false };
        self.refresh = true;
    }

    /// Whether all copies of a joining member follow.
    pub(super) fn has_joined(&self, member: usize) -> bool {
        self.members[member].role == Role::Joining
            && self.units.iter().all(|unit| unit.copies[member].is_following())
    }

    /// A member says that it is alive.
    pub(super) fn handle_alive(&mut self, member: usize) {
        let it = &mut self.members[member];
        if it.proof == Proof::Asked {
            it.proof = Proof::Given;
        }
    }

    /// Those that were away too long are given up, and as many are filled as are missing.
    pub(super) fn maintain_members(&mut self, now: Instant, outlets: &mut impl Outlets) {
        self.maintain_moves(now);
        self.give_up_absent(now, outlets);
        self.let_go_of_surplus(now);
        while let Some(member) = self.next_to_fill(now) {
            self.begin_to_fill(now, member, outlets.of(member));
        }
        self.maintain_fills(now, outlets);
        self.clear_spares(outlets);
        self.note_patience(now);
    }

    /// Gives up who was away for too long, once another one that counts has said that it is alive.
    fn give_up_absent(&mut self, now: Instant, outlets: &mut impl Outlets) {
        let absent = (0..self.members.len()).find(|member| self.is_overdue(now, *member));
        let Some(absent) = absent else {
            self.forget_proofs();
            return;
        };
        let others = self.in_set_up().filter(|member| *member != absent).collect::<Vec<_>>();
        if others.iter().any(|other| self.members[*other].proof == Proof::Given) {
            self.expel_absent(absent);
            self.forget_proofs();
            return;
        }
        for other in others {
            if self.members[other].proof != Proof::None {
                continue;
            }
            self.members[other].proof = Proof::Asked;
            let queue = self.units[0].queue_index();
            outlets.of(other).send(Request { queue, epoch: self.epoch, ask: Ask::IsAlive });
        }
    }

    fn forget_proofs(&mut self) {
        self.members.iter_mut().for_each(|member| member.proof = Proof::None);
    }

    /// Whether the rest must go on without that member of the set: nothing that only it may have is to be
    /// read any more, and the others are enough, or a spare will make up for it. Where they are not enough,
    /// nothing is accepted without it in any case; but what is queued is delivered no more either, for want
    /// of its lease. So it is given a little longer to come back with what it has, and no more than that.
    fn is_overdue(&self, now: Instant, member: usize) -> bool {
        let it = &self.members[member];
        if !it.counts() || it.up.is_some() {
            return false;
        }
        let is_being_read =
            |unit: &Unit| matches!(unit.service, Service::Waiting | Service::Fetching { .. });
        let others = self.in_set_up().count();
        if others == 0 || self.units.iter().any(is_being_read) {
            return false;
        }
        let away = now.saturating_since(it.down_since);
        let recovering = self.units.iter().any(|unit| !unit.is_open());
        let allowed = others >= self.policy.min_sync || self.may_be_replaced(now);
        (recovering && away >= self.policy.recovery_wait)
            || (allowed && self.is_long_away(now, it))
            || (!recovering && away >= self.policy.isolate_after + PATIENCE)
    }

    /// Whether that member of the set was away so long that another is to take its place, or does not come back
    /// with what it had.
    fn is_long_away(&self, now: Instant, member: &Member) -> bool {
        let away = now.saturating_since(member.down_since);
        member.up.is_none() && (member.is_gone || away >= self.policy.isolate_after)
    }

    /// Members that back the queues up, or are about to, without those that make room for others now.
    fn kept(&self, now: Instant) -> impl Iterator<Item = &Member> {
        self.kept_but(now, self.moves.may_move())
    }

    /// The same, without those that leave, or with them.
    pub(super) fn kept_but(&self, now: Instant, may_move: bool) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| match member.role {
            Role::InSet(_) => {
                let leaves = may_move && self.leaves(member, now);
                !leaves && !self.is_long_away(now, member)
            }
            Role::Joining => true,
            Role::Expelled { .. } | Role::Out { .. } => false,
        })
    }

    /// The best of the spares for which `is_ready` holds.
    fn spare(&self, now: Instant, is_ready: impl Fn(usize, Instant) -> bool) -> Option<usize> {
        self.spare_beside(self.kept(now), is_ready)
    }

    /// The best of the spares beside these members.
    pub(super) fn spare_beside<'c>(
        &'c self,
        kept: impl Iterator<Item = &'c Member>,
        is_ready: impl Fn(usize, Instant) -> bool,
    ) -> Option<usize> {
        let spares = self.by_rank().filter(|(place, member)| {
            let Role::Out { not_before } = member.role else { return false };
            member.up.is_some() && !member.is_leaving() && is_ready(*place, not_before)
        });
        let own = &self.policy.placement;
        let kept = [own].into_iter().chain(kept.map(|member| &member.placement));
        let kept = kept.collect::<Vec<_>>();
        let spares = spares.map(|(place, member)| (place, &member.placement)).collect::<Vec<_>>();
        let ordered = self.ordered_spare(spares.iter().map(|(place, _)| *place));
        let ordered = spares.iter().copied().filter(|(place, _)| Some(*place) == ordered);
        best(ordered, &kept).or_else(|| best(spares.iter().copied(), &kept))
    }

    /// Whether a spare is being filled or could be.
    fn may_be_replaced(&self, now: Instant) -> bool {
        self.members.iter().any(|member| member.role == Role::Joining)
            || self.spare(now, |_, _| true).is_some()
    }

    /// More servers may be on their way than are needed, when one comes back that was about to be replaced, or a
    /// drain is called off.
    fn let_go_of_surplus(&mut self, now: Instant) {
        let joining = (0..self.members.len()).find(|member| {
            let it = &self.members[*member];
            it.role == Role::Joining && !is_asked_for(&self.register, &it.server)
        });
        let count = self.in_set().count();
        if count + usize::from(joining.is_some()) <= BACKUPS {
            return;
        }
        let Some(member) = joining else { return };
        let staying = self.in_set_up().filter(|place| {
            !self.goes(&self.members[*place], now)
                && self.units.iter().all(|unit| unit.copies[*place].is_following())
        });
        if staying.count() >= BACKUPS {
            self.cancel_fill(now, member);
        }
    }

    /// The server to be filled next, if one is missing.
    fn next_to_fill(&self, now: Instant) -> Option<usize> {
        if self.kept(now).count() >= BACKUPS {
            return None;
        }
        let nobody_counts = self.in_set().next().is_none();
        // New queues wait for members that count. Where none does, filled copies are those.
        let is_ready =
            |unit: &Unit| unit.is_open() || (nobody_counts && unit.service == Service::Creating);
        if !self.units.iter().all(is_ready) {
            return None;
        }
        self.spare(now, |member, not_before| self.is_fillable(member, not_before, now))
    }

    /// Whether a spare can be filled now: nothing is emptied that the record may name.
    pub(super) fn is_fillable(&self, member: usize, not_before: Instant, now: Instant) -> bool {
        now >= not_before
            && !is_asked_for(&self.register, &self.members[member].server)
            && self.units.iter().all(|unit| unit.copies[member].is_detached())
    }

    /// What a spare still has from when it counted takes memory there. It is dropped once the copies that count
    /// are complete: until then an operator might have to read it.
    fn clear_spares(&mut self, outlets: &mut impl Outlets) {
        let is_stale = |it: &Member| {
            let is_out = matches!(it.role, Role::Out { .. });
            is_out && it.up.is_some() && !it.is_cleared && !is_asked_for(&self.register, &it.server)
        };
        let Some(spare) = self.members.iter().position(is_stale) else { return };
        let is_open = self.units.iter().all(Unit::is_open);
        if !is_open || self.in_set_up().count() < BACKUPS {
            return;
        }
        self.members[spare].is_cleared = true;
        self.members[spare].kept = None;
        for unit in &mut self.units {
            let context = unit.context(self.epoch);
            unit.copies[spare].clear(&context, outlets.of(spare));
        }
    }

    /// While a spare is made ready, mail is accepted although it must wait for its 250 a little.
    fn note_patience(&mut self, now: Instant) {
        let lacks = self.count_of_takers() < self.policy.min_sync;
        self.lacking_since = lacks.then(|| self.lacking_since.unwrap_or(now));
        let lasts = self.patience_ends().is_some_and(|end| now < end);
        let is_patient = lasts && self.may_be_replaced(now);
        self.refresh |= is_patient != self.is_patient;
        self.is_patient = is_patient;
    }

    /// When the patience with missing copies ends.
    fn patience_ends(&self) -> Option<Instant> {
        Some(self.lacking_since? + self.policy.isolate_after + PATIENCE)
    }

    /// Whether the record is what it should be. Asked in each turn, so nothing is copied for it.
    pub(super) fn is_as_wanted(&self, record: &Record) -> bool {
        fn plain(member: &RecordedMember) -> (&str, Incarnation) {
            (&member.server, member.incarnation)
        }
        record.lease_ms == self.lease_ms()
            && self.wanted_members(record).eq(record.members.iter().map(plain))
            && self.all_wanted_joining(record).eq(record.joining.iter().map(plain))
            && (self.all_open || self.created(record).next().is_none())
    }

    pub(super) fn wanted_record(&self, record: &Record) -> Record {
        let recorded = |(server, incarnation): (&str, Incarnation)| RecordedMember {
            server: server.to_owned(),
            incarnation,
        };
        let mut wanted = record.clone();
        wanted.version += 1;
        wanted.lease_ms = self.lease_ms();
        wanted.members = self.wanted_members(record).map(recorded).collect();
        wanted.joining = self.all_wanted_joining(record).map(recorded).collect();
        wanted.queues.extend(self.created(record).map(|unit| unit.name().to_owned()));
        wanted
    }

    fn wanted_members(&self, record: &Record) -> impl Iterator<Item = (&str, Incarnation)> {
        let surplus = self.surplus();
        let places = (0..self.members.len()).filter(move |place| Some(*place) != surplus);
        places.filter_map(|place| self.wanted_member(place, record))
    }

    fn all_wanted_joining(&self, record: &Record) -> impl Iterator<Item = (&str, Incarnation)> {
        (0..self.members.len()).filter_map(|place| self.wanted_joining(place, record))
    }

    /// Queues that have been made at the servers and are not recorded.
    fn created(&self, record: &Record) -> impl Iterator<Item = &Unit> {
        let is_new = |unit: &&Unit| {
            unit.is_created(self.in_set()) && !record.queues.iter().any(|it| it == unit.name())
        };
        self.units.iter().filter(is_new)
    }

    pub(super) fn wanted_member(
        &self,
        place: usize,
        record: &Record,
    ) -> Option<(&str, Incarnation)> {
        let member = &self.members[place];
        let has_all = |unit: &Unit| unit.copies[place].acknowledged() >= Some(unit.committed);
        let incarnation = match member.role {
            Role::InSet(incarnation) => incarnation,
            Role::Expelled { is_lost: false } if !self.is_another_alive(place) => {
                record.incarnation_of(&member.server)?
            }
            // Not while it lacks what was committed before it counted.
            Role::Joining if self.has_joined(place) && self.units.iter().all(has_all) => {
                member.up?
            }
            _ => return None,
        };
        Some((&member.server, incarnation))
    }

    /// Whether another member that counts is there with all of its copies.
    fn is_another_alive(&self, member: usize) -> bool {
        self.in_set_up().any(|other| {
            let is_there = |unit: &Unit| {
                unit.copies[other].is_following() || unit.copies[other].standing().is_some()
            };
            other != member && self.units.iter().all(is_there)
        })
    }

    /// The servers to begin with: the best of all, or of those that are there.
    pub(super) fn first_set(&self, of_all: bool) -> Vec<usize> {
        let is_there = |member: &Member| of_all || member.up.is_some();
        let chosen = self.best_of(|member| is_there(member) && !member.is_leaving());
        if chosen.len() == BACKUPS {
            return chosen;
        }
        self.best_of(|member| is_there(member) && !member.leaving.is_removed)
    }

    /// Members in order of preference.
    fn by_rank(&self) -> impl Iterator<Item = (usize, &Member)> {
        let mut members = self.members.iter().enumerate().collect::<Vec<_>>();
        members.sort_by_key(|(_, member)| member.rank);
        members.into_iter()
    }

    /// The servers to have copies of all for which that holds, by order and placement.
    pub(super) fn best_of(&self, is_allowed: impl Fn(&Member) -> bool) -> Vec<usize> {
        let mut chosen = Vec::new();
        while chosen.len() < BACKUPS {
            let mut kept = vec![&self.policy.placement];
            kept.extend(chosen.iter().map(|place: &usize| &self.members[*place].placement));
            let others =
                self.by_rank().filter(|(place, it)| !chosen.contains(place) && is_allowed(it));
            match best(others.map(|(place, member)| (place, &member.placement)), &kept) {
                Some(place) => chosen.push(place),
                None => break,
            }
        }
        chosen
    }

    /// When a member of the set that is away is given up, or a spare that failed is tried again.
    pub(super) fn members_deadline(&self, now: Instant) -> Option<Instant> {
        let mut earliest = None;
        let mut consider = |at: Instant| {
            if at > now {
                earliest = Some(earliest.map_or(at, |before: Instant| before.min(at)));
            }
        };
        for member in &self.members {
            match member.role {
                Role::InSet(_) if member.up.is_none() => {
                    consider(member.down_since + self.policy.isolate_after);
                    consider(member.down_since + self.policy.isolate_after + PATIENCE);
                    consider(member.down_since + self.policy.recovery_wait);
                }
                Role::Out { not_before } => consider(not_before),
                _ => {}
            }
        }
        if let (true, Some(end)) = (self.is_patient, self.patience_ends()) {
            consider(end);
        }
        earliest
    }
}

//! Members that join: how their copies are brought up while service goes on.
//!
//! A server that takes back-fill has new messages from the first. It is recorded as *joining* before these count,
//! and is a member of the set when it has everything. One that was only away has copies that may be repaired with what
//! they lack, and one whose link was lost while it was being filled goes on from where it was.

use std::time::Duration;

use kvs_proto::{Incarnation, Transaction};
use tcpstack::Instant;
use tracing::info;

use super::super::pace::Pace;
use super::super::record::Record;
use super::super::request::{Operation, Outlet, Outlets};
use super::unit::{Return, Unit};
use super::{Cohort, Role, asked_of};
use crate::board::Board;
use crate::queue::Log;

/// Copies of a cohort that a member is sent old messages for at the same time. The others take new ones, and wait for
/// their turn with the old.
const FILLS_MAX: usize = 2;

/// A member that joins and does not come nearer for so long, although it owes answers, is given up for a while.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Changes for which the servers are asked to remember what a copy lacks that was set aside, and for how long. Beyond
/// either it is filled anew, unless it happens to be remembered all the same. A server remembers 16,384 changes of a
/// queue at most, in about 48 bytes each.
const HELD_CHANGES_MAX: u64 = 4096;
const HELD_TIME_MAX: Duration = Duration::from_secs(600);

impl Cohort {
    /// Whether the record says that the member joins, with the life that it is in, and will say so or that it
    /// counts if what is asked of the register has been carried out.
    pub(super) fn is_recorded_joining(&self, member: usize) -> bool {
        let it = &self.members[member];
        let Some(incarnation) = it.up.filter(|_| it.role == Role::Joining) else { return false };
        let joins = |record: &Record| record.joining_of(&it.server) == Some(incarnation);
        let counts = |record: &Record| record.incarnation_of(&it.server) == Some(incarnation);
        self.record.as_ref().is_some_and(joins)
            && asked_of(&self.register).is_none_or(|asked| joins(asked) || counts(asked))
    }

    /// How the member is to be recorded as joining, if it is: when it is needed for messages to be committed, and
    /// all its copies take them.
    pub(super) fn wanted_joining(
        &self,
        member: usize,
        record: &Record,
    ) -> Option<(&str, Incarnation)> {
        let it = &self.members[member];
        let incarnation = it.up.filter(|_| it.role == Role::Joining)?;
        if self.wanted_member(member, record).is_some() {
            return None;
        }
        let copies = || self.units.iter().map(|unit| &unit.copies[member]);
        let is_worth_it = self.in_set().count() < self.policy.min_sync
            && copies().all(|copy| copy.has_begun())
            && copies().any(|copy| copy.fills_live());
        (is_worth_it || self.is_recorded_joining(member))
            .then_some((it.server.as_str(), incarnation))
    }

    /// How far the members that join have a queue's changes, the furthest first.
    pub(super) fn joining_up_to(&self, unit: &Unit) -> Vec<Transaction> {
        let pending = unit.queue.first_pending();
        let base = pending.map_or(unit.queue.log().head(), |(number, _)| Transaction(number.0 - 1));
        let joining = (0..self.members.len()).filter(|member| self.is_recorded_joining(*member));
        let mut up_to = joining
            .filter_map(|member| unit.copies[member].has_live_up_to(base))
            .collect::<Vec<_>>();
        up_to.sort_unstable_by(|a, b| b.cmp(a));
        up_to
    }

    /// Members of the set and joining ones whose links are up: messages can be committed by those.
    pub(super) fn count_of_takers(&self) -> usize {
        let joining = (0..self.members.len()).filter(|member| self.is_recorded_joining(*member));
        self.in_set_up().count() + joining.count()
    }

    /// Brings a member up: from what it has, where that may be good, else from nothing.
    pub(super) fn begin_to_fill(&mut self, now: Instant, member: usize, outlet: &mut impl Outlet) {
        let it = &mut self.members[member];
        let returns = it.kept.is_some() && it.kept == it.up;
        info!(cohort = %self.key, server = %it.server, returns, "filling the server's copies");
        it.role = Role::Joining;
        it.is_cleared = false;
        it.kept = it.up;
        it.progress = (now, 0);
        it.filling.clear();
        for place in 0..self.units.len() {
            let unit = &mut self.units[place];
            let context = unit.context(self.epoch);
            if returns {
                unit.copies[member].attach(&context, outlet);
            } else {
                unit.copies[member].refill(&context, outlet);
            }
            self.touch(place);
        }
    }

    /// A member that joins is not wanted any more; what it has so far is dropped.
    pub(super) fn cancel_fill(&mut self, now: Instant, member: usize) {
        let it = &mut self.members[member];
        it.role = Role::Out { not_before: now };
        it.is_cleared = false;
        it.kept = None;
        self.refresh = true;
        self.units.iter_mut().for_each(|unit| unit.forget_copy(member));
    }

    /// A copy of a member that comes back stands: it goes on, is repaired, or is filled anew.
    pub(super) fn settle_returned(
        &mut self,
        member: usize,
        place: usize,
        outlets: &mut impl Outlets,
    ) {
        let unit = &mut self.units[place];
        if unit.copies[member].resume(&unit.queue) {
            info!(cohort = %self.key, queue = unit.name(), server = %self.members[member].server,
                  "the fill of a copy goes on");
            return self.touch(place);
        }
        if unit.copies[member].follow(&unit.queue).is_ok() {
            unit.copies[member].give_up_old();
            return self.handle_repaired(member, place);
        }
        let standing = *unit.copies[member].standing().expect("it stands until it follows");
        let sources = self.in_set_up().find(|source| {
            let copy = &self.units[place].copies[*source];
            *source != member && copy.is_following()
        });
        let unit = &mut self.units[place];
        let may_lack = standing.numbers.transaction < unit.queue.log().head();
        let (Some(source), true, None) = (sources, may_lack, &unit.returning) else {
            return self.refill(member, place, outlets);
        };
        let log_after = unit.copies[source].acknowledged().expect("a following copy");
        unit.returning = Some(Return { member, source, log_after, operations: Vec::new() });
        let context = unit.context(self.epoch);
        let after = standing.numbers.transaction;
        unit.copies[source].fetch_operations(&context, after, outlets.of(source));
    }

    /// A member that counts told what it was asked for last.
    pub(super) fn handle_operations(
        &mut self,
        place: usize,
        operations: Vec<Operation>,
        head: Transaction,
        outlets: &mut impl Outlets,
    ) {
        let context = self.units[place].context(self.epoch);
        let unit = &mut self.units[place];
        let Some(mut returning) = unit.returning.take() else { return };
        let is_forgotten = operations.is_empty();
        returning.operations.extend(operations);
        let last = returning.operations.last().map(|last| (last.transaction, last.hash));
        let log = unit.queue.log();
        // The log goes on from there: it is kept since the question was asked.
        let is_joined = last.is_some_and(|(last, hash)| log.hash_after(last) == Some(hash));
        if let (false, false, Some((last, _))) = (is_forgotten, is_joined, last)
            && last < head
        {
            unit.copies[returning.source].fetch_operations(
                &context,
                last,
                outlets.of(returning.source),
            );
            unit.returning = Some(returning);
            return;
        }
        let Return { member, mut operations, .. } = returning;
        if let (true, Some((last, _))) = (is_joined, last) {
            operations.extend(operations_after(log, last));
        }
        if !is_joined || unit.copies[member].standing().is_none() {
            return self.refill(member, place, outlets);
        }
        match unit.copies[member].repair(&operations, &unit.queue) {
            Ok(()) => {
                info!(cohort = %self.key, queue = unit.name(), operations = operations.len(),
                      server = %self.members[member].server, "repairing a copy");
                unit.copies[member].give_up_old();
                self.touch(place);
            }
            Err(_) => self.refill(member, place, outlets),
        }
    }

    /// What a copy has is of no use: it is filled from nothing.
    pub(super) fn refill(&mut self, member: usize, place: usize, outlets: &mut impl Outlets) {
        let unit = &mut self.units[place];
        if self.members[member].role != Role::Joining || self.members[member].up.is_none() {
            return;
        }
        let context = unit.context(self.epoch);
        unit.copies[member].refill(&context, outlets.of(member));
        self.touch(place);
    }

    /// Gives members that join their turns, and gives up those that do not come nearer.
    pub(super) fn maintain_fills(&mut self, now: Instant, outlets: &mut impl Outlets) {
        for member in 0..self.members.len() {
            if self.members[member].role != Role::Joining {
                continue;
            }
            self.abandon_lost_returns(member, outlets);
            self.choose_fills(member);
            if self.is_stalled(now, member) {
                self.handle_out_of_step(now, member, 0, "it makes no progress");
            }
        }
        if self.fill_again_at.is_some_and(|again_at| now >= again_at) {
            self.fill_again_at = None;
            for place in 0..self.units.len() {
                if self.units[place].copies.iter().any(|copy| copy.is_filling()) {
                    self.touch(place);
                }
            }
        }
    }

    /// Copies that wait for what a member was to tell that does not count or is away by now.
    fn abandon_lost_returns(&mut self, member: usize, outlets: &mut impl Outlets) {
        for place in 0..self.units.len() {
            let Some(returning) = &self.units[place].returning else { continue };
            let source = &self.members[returning.source];
            if returning.member == member && !(source.counts() && source.up.is_some()) {
                self.units[place].returning = None;
                self.refill(member, place, outlets);
            }
        }
    }

    fn choose_fills(&mut self, member: usize) {
        let Cohort { members, units, .. } = self;
        let filling = &mut members[member].filling;
        filling.retain(|place| units[*place].copies[member].is_filling());
        if filling.len() == FILLS_MAX {
            return;
        }
        let waits = |place: &usize| units[*place].copies[member].is_filling();
        let more = (0..units.len()).filter(|place| waits(place) && !filling.contains(place));
        let more = more.take(FILLS_MAX - filling.len()).collect::<Vec<_>>();
        filling.extend(&more);
        more.into_iter().for_each(|place| self.touch(place));
    }

    fn is_stalled(&mut self, now: Instant, member: usize) -> bool {
        let copies = || self.units.iter().map(|unit| &unit.copies[member]);
        let progress = copies().map(|copy| copy.progress()).sum();
        let is_owed = copies().any(|copy| copy.is_owed());
        let (since, before) = &mut self.members[member].progress;
        if progress != *before || !is_owed {
            (*since, *before) = (now, progress);
        }
        now.saturating_since(*since) >= STALL_MAX
    }

    /// When a member that joins has made no progress for too long, or may go on.
    pub(super) fn fills_deadline(&self) -> Option<Instant> {
        let joining = self.members.iter().filter(|member| member.role == Role::Joining);
        joining.map(|member| member.progress.0 + STALL_MAX).chain(self.fill_again_at).min()
    }

    /// The lowest change of a queue's log that some copy has not answered which is kept up, or which may come
    /// back and be repaired.
    pub(super) fn floor(&self, now: Instant, place: usize) -> Transaction {
        let unit = &self.units[place];
        let head = unit.queue.log().head();
        let needed = self.members.iter().zip(&unit.copies).filter_map(|(member, copy)| {
            if matches!(member.role, Role::InSet(_) | Role::Joining) {
                return copy.acknowledged();
            }
            let stood_at = copy.stood_at().filter(|_| member.kept.is_some())?;
            let is_held = head.0 - stood_at.0.min(head.0) <= HELD_CHANGES_MAX
                && now.saturating_since(member.down_since) <= HELD_TIME_MAX;
            is_held.then_some(stood_at)
        });
        needed.min().map_or(Transaction(1), Transaction::next)
    }

    /// Lets each copy send what it lacks. A unit whose copies could not send everything stays in
    /// line, behind the others.
    pub(super) fn pump(&mut self, now: Instant, outlets: &mut impl Outlets, board: &Board) {
        let mut pace = Pace::new(now, board.resync());
        for _ in 0..self.dirty.len() {
            let Some(place) = self.dirty.pop_front() else { break };
            self.units[place].dirty = false;
            self.give_up_laggard(now, place);
            self.trim(place, board);
            if self.units[place].has_more() {
                let floor = self.floor(now, place);
                let members = &self.members;
                let has_turn = |member: usize| members[member].filling.contains(&place);
                if self.units[place].pump(self.epoch, floor, has_turn, &mut pace, outlets) {
                    self.touch(place);
                }
            }
            self.post(place, board);
        }
        if let Some(again_at) = pace.again_at() {
            self.fill_again_at = Some(self.fill_again_at.map_or(again_at, |at| at.min(again_at)));
        }
    }

    /// A copy is complete and follows.
    pub(super) fn handle_filled(&mut self, member: usize, place: usize) {
        let unit = &self.units[place];
        self.counters.fills += 1;
        info!(cohort = %self.key, queue = unit.name(), server = %self.members[member].server,
              messages = unit.queue.len(), "a copy is filled");
        self.handle_advanced(place);
    }

    /// A copy has what it lacked, and follows.
    pub(super) fn handle_repaired(&mut self, member: usize, place: usize) {
        let unit = &self.units[place];
        self.counters.repairs += 1;
        info!(cohort = %self.key, queue = unit.name(), server = %self.members[member].server,
              messages = unit.queue.len(), "a copy is repaired");
        self.handle_advanced(place);
    }
}

/// The changes of a log after that one, as a copy tells its last operations.
fn operations_after(log: &Log, number: Transaction) -> impl Iterator<Item = Operation> {
    let numbers = (number.0 + 1..=log.head().0).map(Transaction);
    numbers.map(|transaction| {
        let entry = log.get(transaction).expect("the log goes on from there");
        let (op, digest) = (entry.change.op(), entry.change.digest());
        Operation { transaction, op, id: entry.id, digest, hash: entry.hash }
    })
}

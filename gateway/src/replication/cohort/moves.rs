//! Servers that come and go while the queues are in service: one is added, one is drained, one is taken away, and
//! copies are moved from one to another.
//!
//! A copy moves by the steps by which one that is lost is made up for, in an order that never leaves fewer: a server
//! that *leaves* is not counted among those that are kept, so another one is filled beside it; once that one is
//! recorded there are more copies than are wanted, and the record is written without the one that leaves. Until that
//! is answered its answers are waited for like those of the others, so nothing stops if the register does.
//!
//! Nothing moves back by itself: order and placement say which server is next when one is wanted, and no more.

use tracing::{info, warn};

use super::super::copy::Copy;
use super::members::{BACKUPS, Member, Role};
use super::{Cohort, Instant, MemberSettings, Phase, is_asked_for};
use crate::board::Board;

/// Copies that are to go from one server to another, as the operator asks for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MoveOrder {
    /// Grows with each order: one that was followed already is not followed again.
    pub number: u64,
    /// The server that has them.
    pub from: String,
    /// The server that gets them.
    pub to: String,
}

/// How far a cohort is with moving copies.
#[derive(Default, Debug)]
pub(super) struct Moves {
    /// What it follows, until the copies are there or the order is taken back.
    order: Option<MoveOrder>,
    /// The newest order that it has begun to follow.
    number: u64,
    /// It may go on with what it has to move: one cohort of a shard does at a time.
    may_move: bool,
    /// It cannot go on, and that was told.
    is_stuck: bool,
}

/// What is wanted of a server beyond its part in the cohort.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Leaving {
    /// The operator wants it to have no copies.
    pub(super) is_drained: bool,
    /// It is no server of the cohort's any more; its place waits for another one.
    pub(super) is_removed: bool,
}

impl Moves {
    pub(super) fn may_move(&self) -> bool {
        self.may_move
    }
}

impl Member {
    /// Whether it is never to be filled.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving != Leaving::default()
    }

    fn is_recorded(&self) -> bool {
        matches!(self.role, Role::InSet(_) | Role::Expelled { .. })
    }
}

impl Cohort {
    /// Has these servers from now on, in order of preference. Returns the place of each among the members: those
    /// that stay keep theirs.
    ///
    /// # Panics
    /// If one is not named any more that has copies which count, or are about to.
    pub fn set_servers(&mut self, servers: Vec<MemberSettings>, board: &Board) -> Vec<usize> {
        for place in 0..self.members.len() {
            let it = &self.members[place];
            if !it.leaving.is_removed && !servers.iter().any(|named| named.server == it.server) {
                self.let_go_of_server(place, board);
            }
        }
        let mut places = Vec::new();
        for (rank, settings) in servers.into_iter().enumerate() {
            let place = self.place_for(settings);
            self.members[place].rank = rank;
            places.push(place);
        }
        self.moves.is_stuck = false;
        self.refresh = true;
        places
    }

    /// Follows that order, or none, and gives up what it was doing by another one.
    pub fn set_move(&mut self, order: Option<MoveOrder>) {
        let cohort = &self.key;
        match order {
            Some(order) if order.number > self.moves.number => {
                info!(%cohort, from = order.from, to = order.to, "copies are to be moved");
                self.moves.number = order.number;
                self.moves.order = Some(order);
            }
            Some(_) => {}
            None => {
                if let Some(order) = self.moves.order.take() {
                    info!(%cohort, from = order.from, to = order.to, "copies are not moved any more");
                }
            }
        }
        self.refresh = true;
    }

    /// The server that has that place among the members.
    pub fn server_of(&self, place: usize) -> Option<&str> {
        Some(&self.members.get(place)?.server)
    }

    /// Whether the link to a member is up, as far as it was told.
    pub fn is_up(&self, place: usize) -> bool {
        self.members[place].up.is_some()
    }

    fn let_go_of_server(&mut self, place: usize, board: &Board) {
        let it = &self.members[place];
        assert!(
            matches!(it.role, Role::Out { .. }) && !is_asked_for(&self.register, &it.server),
            "a server with copies is not taken away"
        );
        self.handle_link_down(self.now, place, self.now, board);
        self.members[place].leaving.is_removed = true;
        self.members[place].kept = None;
        self.units.iter_mut().for_each(|unit| unit.forget_copy(place));
    }

    /// The place of a server that is known, or a free one, or a new one.
    fn place_for(&mut self, settings: MemberSettings) -> usize {
        let known = |it: &Member| it.server == settings.server && !it.leaving.is_removed;
        if let Some(place) = self.members.iter().position(known) {
            self.set_drained(place, settings.is_drained);
            return place;
        }
        let free = self.members.iter().position(|it| it.leaving.is_removed);
        let place = free.unwrap_or(self.members.len());
        if place == self.members.len() {
            self.members.push(Member::new(settings));
        } else {
            self.members[place] = Member::new(settings);
        }
        for unit in &mut self.units {
            unit.renew_member(place);
        }
        place
    }

    fn set_drained(&mut self, place: usize, is_drained: bool) {
        let it = &mut self.members[place];
        if std::mem::replace(&mut it.leaving.is_drained, is_drained) != is_drained {
            let (cohort, server) = (&self.key, &it.server);
            match is_drained {
                true => info!(%cohort, %server, "the server is drained"),
                false => info!(%cohort, %server, "the server is not drained any more"),
            }
        }
    }

    /// Whether copies are to go from a server to another one, or may have to: once it is known who has some, or once
    /// one counts that was begun before its server was to have none.
    pub fn wants_to_move(&self) -> bool {
        let knows_record = matches!(self.phase, Phase::Serving | Phase::Stopped);
        let has_part = |it: &Member| {
            !matches!(it.role, Role::Out { .. }) || is_asked_for(&self.register, &it.server)
        };
        self.moves.order.is_some()
            || self.members.iter().any(|it| it.is_leaving() && (has_part(it) || !knows_record))
    }

    /// Whether there are copies that are to go from a server to another one.
    fn has_to_move(&self) -> bool {
        let goes = |it: &Member| it.is_recorded() && (it.is_leaving() || self.is_moved_from(it));
        self.members.iter().any(goes)
    }

    /// Whether there is a server for them, or nothing but to let go.
    pub fn can_move(&self, now: Instant) -> bool {
        let is_being_moved = |member: &Member| self.leaves(member, now) && member.is_recorded();
        self.members.iter().any(is_being_moved)
            && (self.in_set().count() > BACKUPS
                || self.members.iter().any(|member| member.role == Role::Joining)
                || self.spare_for_move(now, |it, at| self.is_fillable(it, at, now)).is_some())
    }

    /// The spare that would take copies if this cohort might move them now.
    fn spare_for_move(
        &self,
        now: Instant,
        is_ready: impl Fn(usize, Instant) -> bool,
    ) -> Option<usize> {
        self.spare_beside(self.kept_but(now, true), is_ready)
    }

    /// Whether it may do so now.
    pub fn set_may_move(&mut self, may_move: bool) {
        self.refresh |= self.moves.may_move != may_move;
        self.moves.may_move = may_move;
    }

    /// Whether that member is to make room for another one. By an order it does when that other one is there: until
    /// then no third one takes its place.
    pub(super) fn leaves(&self, member: &Member, now: Instant) -> bool {
        let is_moved =
            self.moves.order.as_ref().is_some_and(|order| {
                order.from == member.server && self.takes_copies(&order.to, now)
            });
        is_moved || member.is_leaving()
    }

    fn takes_copies(&self, server: &str, now: Instant) -> bool {
        let is_it = |it: &Member| it.server == server && !it.is_leaving();
        let Some(place) = self.members.iter().position(is_it) else { return false };
        let it = &self.members[place];
        match it.role {
            Role::Joining | Role::InSet(_) => true,
            Role::Out { not_before } => it.up.is_some() && self.is_fillable(place, not_before, now),
            Role::Expelled { .. } => false,
        }
    }

    /// Whether an order or a drain takes copies of that member away now.
    pub(super) fn goes(&self, member: &Member, now: Instant) -> bool {
        self.moves.may_move && self.leaves(member, now)
    }

    /// Of these spares the one that an order names.
    pub(super) fn ordered_spare(&self, mut spares: impl Iterator<Item = usize>) -> Option<usize> {
        let order = self.moves.order.as_ref()?;
        spares.find(|place| self.members[*place].server == order.to)
    }

    /// Whether an order takes the member's copies away, now or later.
    pub(super) fn is_moved_from(&self, member: &Member) -> bool {
        self.moves.order.as_ref().is_some_and(|order| order.from == member.server)
    }

    /// The server that copies are moved to by an order.
    pub(super) fn moving_to(&self) -> Option<&str> {
        self.moves.order.as_ref().map(|order| order.to.as_str())
    }

    /// Whether copies are to move, and no server can take them.
    pub(super) fn is_stuck(&self) -> bool {
        self.moves.is_stuck
    }

    /// The member of the set whose copies are not wanted any more, since enough others are in step: one that leaves,
    /// else, when one came back that was about to be replaced, the last by preference.
    pub(super) fn surplus(&self) -> Option<usize> {
        if self.in_set().count() <= BACKUPS {
            return None;
        }
        let is_in_step = |place: usize| {
            self.members[place].up.is_some()
                && self.units.iter().all(|unit| unit.copies[place].is_following())
        };
        let leaves = |place: &usize| self.goes(&self.members[*place], self.now);
        let is_enough = |place: &usize| {
            self.in_set().filter(|it| it != place && is_in_step(*it)).count() >= BACKUPS
        };
        let leaving = self.in_set().filter(leaves).filter(is_enough);
        let by_rank = |place: &usize| self.members[*place].rank;
        leaving.max_by_key(by_rank).or_else(|| {
            let in_step = self.in_set().filter(|it| is_in_step(*it)).filter(is_enough);
            in_step.max_by_key(by_rank)
        })
    }

    /// The record names a member no more whose copies are not wanted any more.
    pub(super) fn release(&mut self, now: Instant, member: usize) {
        let it = &mut self.members[member];
        info!(cohort = %self.key, server = %it.server, "the server's copies are not wanted any more");
        it.role = Role::Out { not_before: now };
        it.is_cleared = false;
        it.kept = None;
        self.units.iter_mut().for_each(|unit| unit.forget_copy(member));
    }

    /// Ends an order that is carried out, and says when nobody can take what a server has.
    pub(super) fn maintain_moves(&mut self, now: Instant) {
        if let Some(order) = &self.moves.order {
            let mut members = self.members.iter().filter(|it| it.server == order.from);
            if !members.any(Member::is_recorded) {
                info!(cohort = %self.key, from = order.from, to = order.to, "the move is over");
                self.moves.order = None;
                self.refresh = true;
            }
        }
        let is_stuck = self.has_to_move() && !self.can_move(now) && !self.may_be_moved_later(now);
        if is_stuck && !self.moves.is_stuck {
            let leaving = self
                .members
                .iter()
                .filter(|it| it.is_recorded() && (it.is_leaving() || self.is_moved_from(it)));
            let servers = leaving.map(|it| it.server.as_str()).collect::<Vec<_>>();
            warn!(cohort = %self.key, ?servers,
                  "no server can take the copies that are to be moved: they stay until there is one");
        }
        self.moves.is_stuck = is_stuck;
    }

    /// Whether a server is there that only has to be left alone for a while first, or emptied.
    fn may_be_moved_later(&self, now: Instant) -> bool {
        let spare = self.spare_for_move(now, |_, _| true);
        let named = self.moves.order.as_ref().map(|order| order.to.as_str());
        spare.is_some_and(|it| named.is_none_or(|named| named == self.members[it].server))
    }
}

impl super::unit::Unit {
    /// Another server takes a member's place, or a new one.
    fn renew_member(&mut self, place: usize) {
        if place == self.copies.len() {
            self.copies.push(Copy::default());
            self.former_ends.push(None);
        } else {
            self.forget_copy(place);
            self.former_ends[place] = None;
        }
    }
}

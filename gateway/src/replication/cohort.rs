//! Queues that share a record in the register, and the servers that back them up.
//!
//! A cohort begins by reading its record. If there is one, it announces the next epoch in the
//! register, seals the recorded copies by attaching with it, claims the queues by recording the
//! sealed copies, and recovers each queue from the copy that is furthest. Then it serves: the copies
//! of the recorded members follow the queues' logs, and a change is committed when each of them has
//! answered it and they are as many as the policy asks for. A member that is lost is taken out of
//! the record before anything goes on without it; a server that comes (back) is filled and then
//! taken in.

mod fills;
mod lease;
mod members;
mod moves;
mod recovery;
mod rest;
mod resume;
mod status;
#[cfg(test)]
mod tests;
mod unit;

use std::collections::VecDeque;
use std::time::Duration;

use kvs_proto::{Epoch, Incarnation, MessageId, Transaction};
use serde::{Deserialize, Serialize};
use tcpstack::Instant;
use tracing::{error, info, warn};

use super::copy::Progress;
use super::placement::Placement;
use super::record::{Record, RegisterAnswer, RegisterCall};
use super::request::{Answer, Outlet, Outlets, Reply};
use crate::api::Ticket;
use crate::board::Board;
use crate::message::QueueIndex;

pub use members::BACKUPS;
use members::{Member, Proof, Role};
pub use moves::MoveOrder;
use moves::Moves;
use resume::Resume;
use unit::Service;
pub use unit::{Unit, UnitSettings};

/// Most changes in a queue's log before a copy that holds it up is given up. Acceptance stops at
/// [`LOG_HIGH`] already, so only deletes and replaces go on from there.
pub const LOG_MAX: usize = 4 * LOG_HIGH;

/// Changes in a queue's log at which the queue stops accepting: a copy is slow or away.
pub const LOG_HIGH: usize = 16 * 1024;

/// Why a gateway stops that the register knows as the owner no more.
const SUPERSEDED: &str = "another gateway has changed the record: it owns the queues now";

/// Queues of one cohort that are fetched at the same time.
const FETCHES_MAX: usize = 4;

/// How long a register that failed is left alone, and a server that could not be filled; the latter
/// doubles with each failure up to the maximum, as each fill sends all that lives.
const RETRY_DELAY: Duration = Duration::from_secs(1);
const FILL_DELAY_MAX: Duration = Duration::from_secs(60);

/// How a cohort behaves.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Recorded copies that must have answered before a message is committed; 1 to [`BACKUPS`].
    pub min_sync: usize,
    /// How long a recorded member may be away before the rest goes on without it (if `min_sync`
    /// allows that at all).
    pub isolate_after: Duration,
    /// How long a starting gateway waits for all recorded members before it starts with those
    /// that are there.
    pub recovery_wait: Duration,
    /// How long a member's answer lets us act as the owner.
    pub lease: Duration,
    /// Start anew when every recorded copy is lost, instead of standing still.
    pub accept_loss: bool,
    /// Where the gateway stands: its own memory is one of the copies.
    pub placement: Placement,
}

/// A server that may back the queues of a cohort up.
#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// Its name in the configuration and in the record.
    pub server: String,
    /// Where it stands.
    pub placement: Placement,
    /// The operator wants it to have no copies.
    pub is_drained: bool,
}

/// What a cohort tells its shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CohortEvent {
    /// A message is committed.
    Committed {
        /// Who waits.
        ticket: Ticket,
        /// Where.
        queue: QueueIndex,
        /// Which.
        id: MessageId,
    },
    /// A queue may deliver from now on.
    Opened(QueueIndex),
    /// The process must stop at once: the queues are not ours any more, or never were.
    Fatal(String),
}

/// Counters of a cohort.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct CohortCounters {
    /// Messages committed with fewer than two copies at the servers.
    pub committed_degraded: u64,
    /// Members taken out of the record.
    pub isolations: u64,
    /// Copies filled anew.
    pub fills: u64,
    /// Copies that were good but for a few changes, and were given those.
    pub repairs: u64,
    /// Messages recovered at the start.
    pub recovered: u64,
}

/// The queues and their members. See the module for its life.
///
/// Inputs: [`handle_link_up`](Self::handle_link_up), [`handle_link_down`](Self::handle_link_down),
/// [`handle_late`](Self::handle_late), [`handle_reply`](Self::handle_reply),
/// [`handle_register`](Self::handle_register),
/// [`maintain`](Self::maintain) once a turn. Outputs: [`poll_register`](Self::poll_register),
/// [`poll_event`](Self::poll_event), and requests through the outlets, one for each member in
/// order. The shard changes the queues through [`unit_mut`](Self::unit_mut) and says so with
/// [`touch`](Self::touch).
#[derive(Debug)]
pub struct Cohort {
    key: String,
    policy: Policy,
    members: Vec<Member>,
    units: Vec<Unit>,
    /// All of them were in service, which none leaves: nobody has to look at each in each turn.
    all_open: bool,
    phase: Phase,
    epoch: Epoch,
    record: Option<Record>,
    register: RegisterState,
    /// Units whose copies may have something to send.
    dirty: VecDeque<usize>,
    fetching: usize,
    /// Since when fewer copies than are needed could answer.
    lacking_since: Option<Instant>,
    /// The queues accept all the same: another copy is about to come.
    is_patient: bool,
    moves: Moves,
    /// Until when we may act; 0 without a lease.
    lease_until: Instant,
    resume: Resume,
    /// When the record was last read again for want of copies to seal.
    read_again_at: Instant,
    /// The latest time that we were told.
    now: Instant,
    /// When fills that were held back go on.
    fill_again_at: Option<Instant>,
    /// Something changed that may concern whether any queue accepts.
    refresh: bool,
    /// Until then only the queues are looked at.
    rests_until: Instant,
    events: VecDeque<CohortEvent>,
    counters: CohortCounters,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Reading,
    Announcing,
    Gathering { since: Option<Instant> },
    Claiming,
    Serving,
    Stopped,
}

#[derive(Debug)]
enum RegisterState {
    Idle,
    Wanted(RegisterCall),
    Waiting(RegisterCall),
    Failed { again_at: Option<Instant>, call: RegisterCall },
}

impl Cohort {
    /// A cohort of that key with the servers that may back it up, in order of preference, and its queues.
    pub fn new(
        key: String,
        policy: Policy,
        servers: Vec<MemberSettings>,
        units: Vec<UnitSettings>,
    ) -> Cohort {
        let count = servers.len();
        let member = |(rank, settings)| Member { rank, ..Member::new(settings) };
        Cohort {
            key,
            policy,
            members: servers.into_iter().enumerate().map(member).collect(),
            units: units.into_iter().map(|settings| Unit::new(settings, count)).collect(),
            phase: Phase::Reading,
            epoch: Epoch(0),
            record: None,
            register: RegisterState::Wanted(RegisterCall::Read),
            dirty: VecDeque::new(),
            fetching: 0,
            lacking_since: None,
            is_patient: false,
            moves: Moves::default(),
            lease_until: Instant::ZERO,
            resume: Resume::default(),
            read_again_at: Instant::ZERO,
            now: Instant::ZERO,
            fill_again_at: None,
            all_open: false,
            refresh: true,
            rests_until: Instant::ZERO,
            events: VecDeque::new(),
            counters: CohortCounters::default(),
        }
    }

    /// The register's key of its record.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The epoch of our ownership; 0 until one is announced.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Its counters.
    pub fn counters(&self) -> CohortCounters {
        self.counters
    }

    /// One of its queues, by place.
    pub fn unit(&self, place: usize) -> &Unit {
        &self.units[place]
    }

    /// One of its queues, by place. After changing its log call [`touch`](Self::touch).
    pub fn unit_mut(&mut self, place: usize) -> &mut Unit {
        &mut self.units[place]
    }

    /// Number of queues.
    pub fn unit_count(&self) -> usize {
        self.units.len()
    }

    /// The queue's copies have something to follow.
    pub fn touch(&mut self, place: usize) {
        if !std::mem::replace(&mut self.units[place].dirty, true) {
            self.dirty.push_back(place);
        }
    }

    /// The next call for the register, to be answered by `handle_register`.
    pub fn poll_register(&mut self) -> Option<RegisterCall> {
        if !matches!(self.register, RegisterState::Wanted(_)) {
            return None;
        }
        let RegisterState::Wanted(call) =
            std::mem::replace(&mut self.register, RegisterState::Idle)
        else {
            unreachable!("just matched")
        };
        self.register = RegisterState::Waiting(call.clone());
        Some(call)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<CohortEvent> {
        self.events.pop_front()
    }

    /// Whether mail for the queue can be committed as things are.
    pub fn is_accepting(&self, place: usize) -> bool {
        let unit = &self.units[place];
        let ready = self.in_set().filter(|member| unit.can_take_more(*member)).count();
        let takes_live =
            |member: &usize| self.is_recorded_joining(*member) && unit.can_take_more(*member);
        let joining = (0..self.members.len()).filter(takes_live).count();
        let needed = if self.is_patient { 1 } else { self.policy.min_sync.max(1) };
        self.phase == Phase::Serving
            && unit.is_open()
            && !self.is_held_up()
            && ready > 0
            && ready + joining >= needed
            && unit.queue.log().len() < LOG_HIGH
    }

    /// Whether nothing can be committed before the register can be written again.
    fn is_held_up(&self) -> bool {
        matches!(self.register, RegisterState::Failed { .. }) && self.has_expelled()
    }

    /// Whether the record has to be changed before anything goes on.
    fn has_expelled(&self) -> bool {
        self.members.iter().any(|member| matches!(member.role, Role::Expelled { .. }))
    }

    /// Whether every change has been answered by every member that counts.
    pub fn is_quiet(&self) -> bool {
        self.units.iter().all(|unit| unit.queue.log().is_empty())
    }

    /// The link to a member came up; the server is in that life.
    pub fn handle_link_up(
        &mut self,
        now: Instant,
        member: usize,
        incarnation: Incarnation,
        outlets: &mut impl Outlets,
    ) {
        self.now = now;
        self.members[member].up = Some(incarnation);
        self.members[member].is_gone = false;
        self.members[member].proof = Proof::None;
        self.refresh = true;
        if self.members[member].counts() {
            self.end_resume("a server is there again that has copies");
        }
        match self.phase {
            Phase::Gathering { .. } => self.seal(member, outlets.of(member)),
            Phase::Serving | Phase::Claiming => self.welcome(now, member, incarnation, outlets),
            Phase::Reading | Phase::Announcing | Phase::Stopped => {}
        }
    }

    /// The link to a member went down, of which nothing has been heard since then.
    pub fn handle_link_down(&mut self, now: Instant, member: usize, since: Instant, board: &Board) {
        self.refresh = true;
        let it = &mut self.members[member];
        if it.up.take().is_some() {
            it.down_since = since;
        }
        it.proof = Proof::None;
        if it.role == Role::Joining {
            // What it has so far may be good when it comes back.
            it.role = Role::Out { not_before: now };
        }
        for unit in &mut self.units {
            unit.copies[member].detach();
            unit.returning.take_if(|returning| returning.member == member);
            // What it was asked for others will not be answered: it is asked again.
            unit.wants_operations |=
                matches!(unit.service, Service::Settling { source } if source == member);
            if unit.abandon_fetch_from(member, board) {
                self.fetching -= 1;
            }
        }
    }

    /// The link to a member is down, and its server's process has ended: what it had is lost, and it is not
    /// waited for.
    pub fn handle_link_gone(&mut self, member: usize) {
        self.members[member].is_gone = true;
        self.stir();
    }

    /// Answers of a member are late: its copies ask again by the other path.
    pub fn handle_late(&mut self, member: usize, outlet: &mut impl Outlet) {
        for unit in &mut self.units {
            unit.hedge(self.epoch, member, outlet);
        }
    }

    /// A member answered.
    pub fn handle_reply(
        &mut self,
        now: Instant,
        member: usize,
        place: usize,
        reply: Reply,
        outlets: &mut impl Outlets,
        board: &Board,
    ) {
        self.now = now;
        if matches!(reply.answer, Answer::Alive) {
            self.stir();
            return self.handle_alive(member);
        }
        let context = self.units[place].context(self.epoch);
        let unit = &mut self.units[place];
        let outlet = outlets.of(member);
        let progress =
            unit.copies[member].handle_answer(reply.answer, &context, outlet, &unit.queue);
        if !matches!(progress, Progress::None | Progress::Advanced) {
            self.stir();
        }
        match progress {
            Progress::None => self.touch(place),
            Progress::Stands(standing) => {
                self.note_seal(now, member, place, standing.owner_idle);
                self.handle_stands(now, member, place, outlets);
            }
            Progress::Unknown => self.handle_unknown(now, member, place, outlet),
            Progress::Exists => self.units[place].copies[member].attach(&context, outlet),
            Progress::Advanced => self.handle_advanced(place),
            Progress::Filled => self.handle_filled(member, place),
            Progress::Repaired => self.handle_repaired(member, place),
            Progress::OutOfStep(why) => self.handle_out_of_step(now, member, place, why),
            Progress::NoRoom(why) => self.handle_no_room(now, member, place, why),
            Progress::Fenced(epoch) => self.handle_fenced(member, place, epoch),
            Progress::Recovered(answer) => {
                self.handle_recovered(now, member, place, answer, outlets, board);
            }
        }
    }

    /// The register answered.
    pub fn handle_register(
        &mut self,
        now: Instant,
        answer: RegisterAnswer,
        outlets: &mut impl Outlets,
    ) {
        self.now = now;
        self.stir();
        let RegisterState::Waiting(call) =
            std::mem::replace(&mut self.register, RegisterState::Idle)
        else {
            panic!("the register answers each call once")
        };
        self.note_register(&call, !matches!(answer, RegisterAnswer::Failed(_)));
        match (call, answer) {
            (_, RegisterAnswer::Read(record)) if self.phase == Phase::Reading => {
                self.handle_record(record);
            }
            (_, RegisterAnswer::Read(record)) => self.handle_record_again(record.as_ref()),
            (RegisterCall::Swap(record), RegisterAnswer::Swapped) => {
                self.record = Some(record);
                self.handle_recorded(now, outlets);
            }
            (_, RegisterAnswer::Conflict) => {
                self.stop(SUPERSEDED.into());
            }
            (call, RegisterAnswer::Failed(error)) => {
                warn!(cohort = %self.key, %error, "the register cannot be used; trying again");
                self.refresh = true;
                self.register = RegisterState::Failed { again_at: None, call };
            }
            (RegisterCall::Read, RegisterAnswer::Swapped) => {
                panic!("the register answers what it was asked")
            }
        }
    }

    /// Deadlines, and whatever has become possible. Once a turn.
    pub fn maintain(&mut self, now: Instant, outlets: &mut impl Outlets, board: &Board) {
        self.note_time(now);
        if self.rests(now) {
            self.pump(now, outlets, board);
            if self.rests(now) {
                return;
            }
        }
        self.maintain_register(now);
        self.maintain_lease(now, outlets, board);
        match self.phase {
            Phase::Gathering { .. } => self.maintain_gathering(now),
            Phase::Serving => {
                self.maintain_members(now, outlets);
                self.maintain_watch_for_successor(now);
                self.maintain_recovery(now, outlets, board);
                self.pump(now, outlets, board);
                if self.phase == Phase::Serving {
                    self.maintain_record();
                }
            }
            Phase::Reading | Phase::Announcing | Phase::Claiming | Phase::Stopped => {}
        }
        if std::mem::take(&mut self.refresh) {
            for place in 0..self.units.len() {
                if self.phase == Phase::Serving {
                    self.commit(place);
                    // Nothing may come after that for which the unit would have its turn.
                    self.trim(place, board);
                }
                self.post(place, board);
            }
        }
        self.begin_rest(now);
    }

    /// Nobody is judged by a time in which we were not awake to hear of it: while a member is away, turns come
    /// no later than when it would be given up.
    fn note_time(&mut self, now: Instant) {
        let before = std::mem::replace(&mut self.now, now);
        if now.saturating_since(before) <= self.policy.isolate_after * 3 / 2 {
            return;
        }
        for member in self.members.iter_mut().filter(|member| member.up.is_none()) {
            member.down_since = now;
        }
        self.lacking_since = self.lacking_since.map(|_| now);
    }

    /// Posts whether the queue accepts.
    fn post(&self, place: usize, board: &Board) {
        board.set_accepting(self.units[place].queue_index(), self.is_accepting(place));
    }

    /// When `maintain` has something to do although nothing happens, if ever.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let deadline = match (&self.register, &self.phase) {
            (RegisterState::Failed { again_at, .. }, _) => Some(again_at.unwrap_or(now)),
            (_, Phase::Gathering { since }) => self.gathering_deadline(now, *since),
            (RegisterState::Idle, Phase::Serving) => self.looks_for_successor_at(),
            _ => None,
        };
        let others = self.members_deadline(now).into_iter().chain(self.fills_deadline());
        deadline.into_iter().chain(others).min()
    }

    fn stop(&mut self, why: String) {
        error!(cohort = %self.key, why, "the cohort stops");
        self.phase = Phase::Stopped;
        self.refresh = true;
        self.events.push_back(CohortEvent::Fatal(format!("cohort {}: {why}", self.key)));
    }

    fn handle_advanced(&mut self, place: usize) {
        self.touch(place);
        self.commit(place);
    }

    /// Commits what every member that counts has, if they are enough together with those that join and have it
    /// too. One that was expelled counts until the record says that it does not, and one that
    /// joins has to have everything from when its copies follow: a successor would start from it.
    fn commit(&mut self, place: usize) {
        if self.has_expelled() || !self.has_lease(self.now) {
            return;
        }
        let joining = (0..self.members.len()).filter(|member| {
            self.has_joined(*member) || is_asked_for(&self.register, &self.members[*member].server)
        });
        let counting = self.in_set().chain(joining);
        let unit = &self.units[place];
        let acknowledged = counting.map(|member| unit.copies[member].acknowledged()).min();
        let Some(Some(mut number)) = acknowledged else { return };
        let mut copies = self.in_set().count();
        if let Some(lacking) = self.policy.min_sync.checked_sub(copies).filter(|it| *it > 0) {
            // Nobody may start from those that join, so they are never all that has a message.
            let joining = self.joining_up_to(unit);
            let Some(furthest) = joining.get(lacking - 1).filter(|_| copies > 0) else { return };
            number = number.min(*furthest);
            copies += lacking;
        }
        let unit = &mut self.units[place];
        unit.committed = unit.committed.max(number);
        let queue = unit.queue_index();
        let mut committed = 0;
        unit.queue.commit_up_to(number, |ticket, id| {
            committed += 1;
            self.events.push_back(CohortEvent::Committed { ticket, queue, id });
        });
        if copies < BACKUPS {
            self.counters.committed_degraded += committed;
        }
    }

    /// Forgets the log as far as every copy that is being kept up has it. The memory of deleted
    /// messages is free by that, and not before.
    fn trim(&mut self, place: usize, board: &Board) {
        let unit = &mut self.units[place];
        let kept_up = self
            .members
            .iter()
            .zip(&unit.copies)
            .filter(|(member, _)| matches!(member.role, Role::InSet(_) | Role::Joining));
        let needed = kept_up.filter_map(|(_, copy)| copy.log_needed_after());
        // A joining copy that has not begun needs nothing: it starts from what lives then.
        let mut number = needed.min().unwrap_or(unit.queue.log().head());
        if let Some(returning) = &unit.returning {
            number = number.min(returning.log_after);
        }
        // A member that joins begins with what waits for being committed. Without an end to the waiting it is
        // filled with that as with all else.
        if let Some((pending, _)) = unit.queue.first_pending()
            && unit.queue.log().len() <= LOG_HIGH
        {
            number = number.min(Transaction(pending.0 - 1));
        }
        let freed = unit.queue.trim_log(number);
        if freed.messages > 0 {
            board.release_all(unit.queue_index(), freed.messages, freed.counted_bytes);
        }
    }

    fn handle_out_of_step(&mut self, now: Instant, member: usize, place: usize, why: &'static str) {
        let queue = self.units[place].name();
        match self.members[member].role {
            Role::InSet(_) => {
                warn!(cohort = %self.key, queue, why, "a copy is out of step");
                self.expel(member, "one of its copies is out of step");
            }
            Role::Joining => {
                warn!(cohort = %self.key, queue, why, "a copy cannot be filled; trying again later");
                let it = &mut self.members[member];
                let delay =
                    RETRY_DELAY.saturating_mul(1 << it.failures.min(16)).min(FILL_DELAY_MAX);
                it.failures += 1;
                it.role = Role::Out { not_before: now + delay };
                it.kept = None;
                self.refresh = true;
                self.units.iter_mut().for_each(|unit| unit.forget_copy(member));
            }
            // What is left in the link of a member that was given up.
            Role::Expelled { .. } | Role::Out { .. } => {}
        }
    }

    /// A copy without room for one more change is filled anew when there is room, while another one
    /// is kept. The last one is not thrown away for that: it has everything that was committed.
    fn handle_no_room(&mut self, now: Instant, member: usize, place: usize, why: &'static str) {
        let is_up = |other: usize| self.members[other].up.is_some();
        let counts = matches!(self.members[member].role, Role::InSet(_));
        if counts && !self.in_set().any(|other| other != member && is_up(other)) {
            let server = &self.members[member].server;
            let why = format!(
                "the last copy that counts, at {server}, cannot take more: {why}. All that was \
                 answered 250 is there, and the next start goes on from it"
            );
            return self.stop(why);
        }
        self.handle_out_of_step(now, member, place, why);
    }

    fn handle_fenced(&mut self, member: usize, place: usize, epoch: Epoch) {
        let server = &self.members[member].server;
        let queue = self.units[place].name();
        let why = format!(
            "{server} says that queue {queue} has an owner of epoch {epoch}, ours is {}; either \
             another gateway took it over, or the register was lost while the servers were not",
            self.epoch
        );
        self.stop(why);
    }

    /// A copy that holds a queue's log beyond its bound is given up.
    fn give_up_laggard(&mut self, now: Instant, place: usize) {
        let unit = &self.units[place];
        if unit.queue.log().len() <= LOG_MAX {
            return;
        }
        let kept_up =
            |member: &usize| matches!(self.members[*member].role, Role::InSet(_) | Role::Joining);
        let needed = |member: usize| Some((unit.copies[member].log_needed_after()?, member));
        let needed = (0..self.members.len()).filter(kept_up).filter_map(needed);
        let Some((laggard_at, laggard)) = needed.min() else { return };
        // As long as nobody that counts is further, waiting is all there is to do.
        let further = |member: usize| unit.copies[member].acknowledged() > Some(laggard_at);
        if self.in_set().any(|member| member != laggard && further(member)) {
            self.handle_out_of_step(now, laggard, place, "it is too far behind");
        }
    }

    /// Tells that a queue is in service, and which servers are too small or too full for it.
    fn open(&mut self, place: usize) {
        let unit = &self.units[place];
        self.events.push_back(CohortEvent::Opened(unit.queue_index()));
        for member in self.in_set().filter(|member| unit.copies[*member].is_following()) {
            if !unit.can_take_more(member) {
                warn!(cohort = %self.key, queue = unit.name(), server = %self.members[member].server,
                      room_kib = unit.copies[member].credit().kib,
                      "the server has no room for another message of message_size_max: the queue \
                       accepts nothing until it has");
            }
        }
    }

    /// Writes the record when it is not what it should be.
    fn maintain_record(&mut self) {
        if !matches!(self.register, RegisterState::Idle) {
            return;
        }
        let record = self.record.as_ref().expect("a serving cohort has a record");
        if !self.is_as_wanted(record) {
            let wanted = self.wanted_record(record);
            self.register = RegisterState::Wanted(RegisterCall::Swap(wanted));
        }
    }

    /// The record is as we wanted it: act on it.
    fn handle_recorded(&mut self, now: Instant, outlets: &mut impl Outlets) {
        let record = self.record.clone().expect("it was just written");
        match self.phase {
            Phase::Announcing => return self.begin_to_gather(outlets),
            Phase::Claiming => return self.begin_to_serve(&record, outlets),
            _ => {}
        }
        self.refresh = true;
        for place in 0..self.members.len() {
            let has_joined = self.has_joined(place);
            let member = &mut self.members[place];
            let recorded = record.incarnation_of(&member.server);
            match (member.role, recorded) {
                (Role::Expelled { .. }, None) => member.role = Role::Out { not_before: now },
                (Role::InSet(_), None) => self.release(now, place),
                (Role::Joining, Some(incarnation)) if has_joined && member.up == recorded => {
                    info!(cohort = %self.key, server = %member.server, "the server's copies count");
                    member.role = Role::InSet(incarnation);
                    member.failures = 0;
                }
                // It went down while it was being recorded. What it has is complete as of then,
                // but what it lacks since is not kept: it must go again.
                (Role::Joining | Role::Out { .. }, Some(_)) => {
                    self.expel(place, "it was lost while it was being recorded");
                }
                _ => {}
            }
        }
        for place in 0..self.units.len() {
            if self.units[place].open_if_created(&record) {
                self.open(place);
            }
            self.commit(place);
            self.touch(place);
        }
    }
}

/// Whether a call that may have been carried out already records copies of that server.
fn is_asked_for(register: &RegisterState, server: &str) -> bool {
    asked_of(register).is_some_and(|record| record.incarnation_of(server).is_some())
}

/// The record that a call wants which may have been carried out already.
fn asked_of(register: &RegisterState) -> Option<&Record> {
    match register {
        RegisterState::Wanted(RegisterCall::Swap(record))
        | RegisterState::Waiting(RegisterCall::Swap(record))
        | RegisterState::Failed { call: RegisterCall::Swap(record), .. } => Some(record),
        _ => None,
    }
}

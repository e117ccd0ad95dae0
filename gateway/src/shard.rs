//! A shard: queues, their cohorts, and the links to the servers that back them up.
//!
//! Commands come in from the SMTP side, notices go out. Everything that happens to a queue happens
//! here, on one thread, so order needs no lock.

mod servers;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kvs_proto::{Epoch, MessageId};
use serde::{Deserialize, Serialize};
use tcpstack::{Instant, Transport};
use tracing::{info, warn};

use self::servers::servers_of;
use crate::api::{Command, Notice, Outcome, Report, ReportKind, ReportOutcome, Ticket};
use crate::board::Board;
use crate::link::{Link, LinkCounters, LinkEvent, LinkSettings, Links};
use crate::message::{DeliveryState, MessageRef, QueueIndex};
use crate::queue::{DueReport, Expired, MailQueue, PolledReport, QueuePolicy, RetryPolicy};
use crate::replication::cohort::{
    Cohort, CohortCounters, CohortEvent, LOG_HIGH, MoveOrder, Policy, Unit, UnitSettings,
};
use crate::replication::placement::Placement;
use crate::replication::record::{RegisterAnswer, RegisterCall};
use crate::replication::request::Outlets;
use crate::status::QueueStatus;

/// What a shard is made of.
#[derive(Debug)]
pub struct ShardSettings {
    /// Its links: every server that one of its cohorts uses.
    pub links: Vec<LinkSettings>,
    /// Its cohorts.
    pub cohorts: Vec<CohortSettings>,
    /// How cohorts behave.
    pub policy: Policy,
    /// Fronts of the gateway; a queue's attempts go to front `queue % fronts`.
    pub fronts: u16,
    /// Seed of nonces and of jitter.
    pub seed: u64,
}

/// A cohort of a shard.
#[derive(Debug)]
pub struct CohortSettings {
    /// The register's key of its record.
    pub key: String,
    /// The servers that may back it up, in order of preference: places in the shard's links.
    pub members: Vec<usize>,
    /// Where each of them stands.
    pub placements: Vec<Placement>,
    /// Which of them are to have no copies.
    pub drained: Vec<bool>,
    /// Copies that are to go from one of them to another.
    pub order: Option<MoveOrder>,
    /// The newest order to go on without a lease.
    pub resume: u64,
    /// Its queues.
    pub queues: Vec<(UnitSettings, QueuePolicy)>,
}

/// A register call of one of the shard's cohorts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisterErrand {
    /// The cohort, by place in the shard.
    pub cohort: usize,
    /// The record's key.
    pub key: String,
    /// What is asked.
    pub call: RegisterCall,
}

/// Messages by what became of them, and what the copies went through.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardCounters {
    /// Messages in the queues.
    pub queued: u64,
    /// Stores refused because the queue could not take them when they came.
    pub refused: u64,
    /// Messages withdrawn because the client did not get its 250.
    pub withdrawn: u64,
    /// Attempts that deferred their message.
    pub deferred: u64,
    /// Messages given up after their expiry.
    pub expired: u64,
    /// Messages in the queues whose sender has to be told something and was not yet: *bounce
    /// pending*, if nobody is left to be tried.
    pub reports_due: u64,
    /// Reports that are done with: committed, or for nobody.
    pub reports_done: u64,
    /// Reports that could not be made for want of room or copies, each time.
    pub reports_postponed: u64,
    /// The cohorts' counters, added up.
    pub cohorts: CohortCounters,
}

/// A shard. Inputs: [`handle_command`](Self::handle_command),
/// [`handle_register`](Self::handle_register). Each turn: [`receive`](Self::receive), commands,
/// [`advance`](Self::advance), then the outputs [`poll_notice`](Self::poll_notice),
/// [`poll_register`](Self::poll_register), [`poll_fatal`](Self::poll_fatal), and once at the end
/// [`flush`](Self::flush).
#[derive(Debug)]
pub struct Shard<T> {
    links: Links<T>,
    state: State,
}

/// Everything but the links, so that a link's event can be handled while the links are borrowed.
#[derive(Debug)]
struct State {
    cohorts: Vec<Team>,
    /// By queue: its cohort and its place there, if it is ours.
    homes: Vec<Option<Home>>,
    board: Arc<Board>,
    fronts: u16,
    random: fastrand::Rng,
    notices: VecDeque<(u16, Notice)>,
    /// The board's changes that the fronts have been told of.
    changes_told: u64,
    /// Queues that may hand out attempts now.
    deliverable: BTreeSet<QueueIndex>,
    /// When queues have something to do by the clock, in milliseconds since 1970; each at most once.
    due: BTreeSet<(u64, QueueIndex)>,
    /// Queues with a report that waits for the commit of what it tells.
    uncommitted: BTreeSet<QueueIndex>,
    fatal: Option<String>,
    /// Copies may have to move to other servers.
    may_have_to_move: bool,
    /// The cohort that moves copies now.
    moving: Option<usize>,
    counters: ShardCounters,
}

#[derive(Debug)]
struct Team {
    cohort: Cohort,
    /// Places of its members' links.
    members: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Home {
    cohort: usize,
    place: usize,
    policy: QueuePolicy,
    /// Attempts that delivery takes at a time.
    window: u32,
    /// When it stands in `due`; never is the end of time.
    armed_unix_ms: u64,
}

impl<T: Transport> Shard<T> {
    /// A shard of a gateway with as many queues as the board has.
    pub fn new(transport: T, settings: ShardSettings, board: Arc<Board>) -> Shard<T> {
        let mut homes = vec![None; board.queue_count()];
        let mut cohorts = Vec::new();
        for (cohort, team) in settings.cohorts.into_iter().enumerate() {
            for (place, (unit, policy)) in team.queues.iter().enumerate() {
                let (policy, armed_unix_ms) = (*policy, u64::MAX);
                let home = Home { cohort, place, policy, window: 0, armed_unix_ms };
                homes[unit.queue.0 as usize] = Some(home);
            }
            let servers = servers_of(&team, &settings.links);
            let units = team.queues.into_iter().map(|(unit, _)| unit).collect();
            let cohort = Cohort::new(team.key, settings.policy.clone(), servers, units);
            cohorts.push(Team { cohort, members: team.members });
        }
        let mut random = fastrand::Rng::with_seed(settings.seed);
        let links = Links::new(transport, settings.links, random.u64(..));
        let state = State {
            cohorts,
            homes,
            board,
            fronts: settings.fronts,
            random,
            notices: VecDeque::new(),
            changes_told: 0,
            deliverable: BTreeSet::new(),
            due: BTreeSet::new(),
            uncommitted: BTreeSet::new(),
            fatal: None,
            may_have_to_move: true,
            moving: None,
            counters: ShardCounters::default(),
        };
        Shard { links, state }
    }

    /// Takes a command for one of its queues.
    pub fn handle_command(&mut self, unix_ms: u64, command: Command) {
        let state = &mut self.state;
        match command {
            Command::Store { queue, ticket, message } => state.store(queue, ticket, message),
            Command::Release { queue, id } => {
                state.release(queue, id);
            }
            Command::Withdraw { queue, ticket } => state.withdraw(queue, ticket),
            Command::Slots { queue, window } => {
                state.home_mut(queue).window = window;
                state.deliverable.insert(queue);
            }
            Command::Outcome { queue, id, outcome } => {
                state.handle_outcome(unix_ms, queue, id, outcome);
            }
            Command::ReportOutcome { queue, id, outcome } => {
                state.handle_report_outcome(unix_ms, queue, id, outcome);
            }
        }
    }

    /// Works by other bounds and schedules from now on, for those of the queues that are its own.
    /// Times that are set already stay.
    pub fn reconfigure(&mut self, queues: impl IntoIterator<Item = (UnitSettings, QueuePolicy)>) {
        for (unit, policy) in queues {
            let Some(home) = &mut self.state.homes[unit.queue.0 as usize] else { continue };
            home.policy = policy;
            self.state.deliverable.insert(unit.queue);
            let cohort = &mut self.state.cohorts[home.cohort].cohort;
            cohort.unit_mut(home.place).reconfigure(unit);
            cohort.touch(home.place);
        }
    }

    /// The register's answer to an errand.
    pub fn handle_register(&mut self, now: Instant, cohort: usize, answer: RegisterAnswer) {
        let team = &mut self.state.cohorts[cohort];
        let mut outlets = MemberLinks { links: self.links.links_mut(), members: &team.members };
        team.cohort.handle_register(now, answer, &mut outlets);
    }

    /// Receives answers. Returns whether there was anything to do.
    pub fn receive(&mut self, now: Instant) -> bool {
        let Shard { links, state } = self;
        links.turn(now, |links, event| state.handle_link(now, links, event))
    }

    /// Lets the cohorts go on and hands out attempts: after answers came, and after commands.
    pub fn advance(&mut self, now: Instant, unix_ms: u64) {
        let Shard { links, state } = self;
        state.let_one_move(now);
        for team in &mut state.cohorts {
            let mut outlets = MemberLinks { links: links.links_mut(), members: &team.members };
            team.cohort.maintain(now, &mut outlets, &state.board);
        }
        state.take_events();
        state.tell_acceptance();
        state.hand_out(unix_ms);
    }

    /// Sends what is queued on the links. Once a turn, after commands.
    pub fn flush(&mut self, now: Instant) {
        self.links.flush(now);
    }

    /// The next notice and the front that it is for.
    pub fn poll_notice(&mut self) -> Option<(u16, Notice)> {
        self.state.notices.pop_front()
    }

    /// The next call for the register.
    pub fn poll_register(&mut self) -> Option<RegisterErrand> {
        self.state.cohorts.iter_mut().enumerate().find_map(|(cohort, team)| {
            let call = team.cohort.poll_register()?;
            Some(RegisterErrand { cohort, key: team.cohort.key().to_owned(), call })
        })
    }

    /// Why the process must stop at once, if so.
    pub fn poll_fatal(&mut self) -> Option<String> {
        self.state.fatal.take()
    }

    /// When a turn has something to do although nothing happens: a point of the clock, and a time
    /// of day in milliseconds since 1970.
    pub fn next_deadline(&self, now: Instant) -> (Option<Instant>, Option<u64>) {
        let cohorts = self.state.cohorts.iter().filter_map(|team| team.cohort.next_deadline(now));
        let instant = cohorts.chain(self.links.next_deadline()).min();
        (instant, self.state.due.first().map(|(due, _)| *due))
    }

    /// Whether every change has been answered by every copy that counts, so that nothing is lost
    /// by leaving but attempts under way.
    pub fn is_quiet(&self) -> bool {
        self.state.cohorts.iter().all(|team| team.cohort.is_quiet())
    }

    /// A queue with its copies, if the shard has it.
    pub fn unit(&self, queue: QueueIndex) -> Option<&Unit> {
        let home = (*self.state.homes.get(queue.0 as usize)?)?;
        Some(self.state.cohorts[home.cohort].cohort.unit(home.place))
    }

    /// The server that is a member of a queue's cohort, by its place there, if the shard has the queue.
    pub fn server_of(&self, queue: QueueIndex, member: usize) -> Option<&str> {
        let home = (*self.state.homes.get(queue.0 as usize)?)?;
        self.state.cohorts[home.cohort].cohort.server_of(member)
    }

    /// The epoch of our ownership of a queue, if the shard has it.
    pub fn epoch(&self, queue: QueueIndex) -> Option<Epoch> {
        let home = (*self.state.homes.get(queue.0 as usize)?)?;
        Some(self.state.cohorts[home.cohort].cohort.epoch())
    }

    /// What became of messages.
    pub fn counters(&self) -> ShardCounters {
        let mut counters = self.state.counters;
        for team in &self.state.cohorts {
            for place in 0..team.cohort.unit_count() {
                let queue = &team.cohort.unit(place).queue;
                counters.queued += queue.len() as u64;
                counters.reports_due += queue.reports_due() as u64;
            }
            let cohort = team.cohort.counters();
            counters.cohorts.committed_degraded += cohort.committed_degraded;
            counters.cohorts.isolations += cohort.isolations;
            counters.cohorts.fills += cohort.fills;
            counters.cohorts.repairs += cohort.repairs;
            counters.cohorts.recovered += cohort.recovered;
        }
        counters
    }

    /// How its queues and their copies are.
    pub fn status(&self, now: Instant, unix_ms: u64) -> Vec<QueueStatus> {
        let links = self.links.states();
        let mut queues = Vec::new();
        for team in &self.state.cohorts {
            let links = team.members.iter().map(|link| links[*link]).collect::<Vec<_>>();
            team.cohort.status(now, unix_ms, &links, &self.state.board, &mut queues);
        }
        queues
    }

    /// What the links with two paths have been through.
    pub fn link_counters(&self) -> Vec<LinkCounters> {
        self.links.counters().collect()
    }

    /// The links' transport.
    pub fn transport(&self) -> &T {
        self.links.transport()
    }

    /// The links' transport, for waiting.
    pub fn transport_mut(&mut self) -> &mut T {
        self.links.transport_mut()
    }

    /// Closes the links.
    pub fn close(&mut self) {
        self.links.close();
    }
}

impl State {
    fn handle_link(&mut self, now: Instant, links: &mut [Link], event: LinkEvent) {
        match event {
            LinkEvent::Up(link, incarnation) => {
                self.for_members(link, |team, member, _| {
                    let mut outlets = MemberLinks { links, members: &team.members };
                    team.cohort.handle_link_up(now, member, incarnation, &mut outlets);
                });
            }
            LinkEvent::Down(link, since) => {
                self.for_members(link, |team, member, board| {
                    team.cohort.handle_link_down(now, member, since, board);
                });
            }
            LinkEvent::Gone(link) => self.for_members(link, |team, member, _| {
                team.cohort.handle_link_gone(member);
            }),
            LinkEvent::Late(link) => self.for_members(link, |team, member, _| {
                team.cohort.handle_late(member, &mut links[link]);
            }),
            LinkEvent::Reply(link, reply) => {
                let Some(Some(home)) = self.homes.get(reply.queue.0 as usize).copied() else {
                    warn!(queue = reply.queue.0, "an answer for a queue that is not ours");
                    return;
                };
                let team = &mut self.cohorts[home.cohort];
                let Some(member) = team.members.iter().position(|it| *it == link) else { return };
                let mut outlets = MemberLinks { links, members: &team.members };
                let board = &self.board;
                team.cohort.handle_reply(now, member, home.place, reply, &mut outlets, board);
            }
        }
    }

    fn for_members(&mut self, link: usize, mut each: impl FnMut(&mut Team, usize, &Board)) {
        for team in &mut self.cohorts {
            if let Some(member) = team.members.iter().position(|it| *it == link) {
                each(team, member, &self.board);
            }
        }
    }

    fn store(&mut self, queue: QueueIndex, ticket: Ticket, message: MessageRef) {
        let home = *self.home_mut(queue);
        let cohort = &mut self.cohorts[home.cohort].cohort;
        if !cohort.is_accepting(home.place) {
            self.board.release(queue, message.counted_bytes());
            self.counters.refused += 1;
            self.notices.push_back((ticket.front, Notice::Refused { ticket, queue }));
            return;
        }
        cohort.unit_mut(home.place).queue.store(ticket, message);
        cohort.touch(home.place);
    }

    /// Lets a message go out. That changes nothing that copies follow.
    fn release(&mut self, queue: QueueIndex, id: MessageId) {
        let home = *self.home_mut(queue);
        self.cohorts[home.cohort].cohort.unit_mut(home.place).queue.release(id);
        self.deliverable.insert(queue);
    }

    fn withdraw(&mut self, queue: QueueIndex, ticket: Ticket) {
        // Not there any more if it was refused here first.
        if self.with_queue(queue, |it| it.withdraw(ticket)) {
            self.counters.withdrawn += 1;
        }
    }

    fn handle_outcome(&mut self, unix_ms: u64, queue: QueueIndex, id: MessageId, outcome: Outcome) {
        match outcome {
            Outcome::Settled => self.with_queue(queue, |it| it.settle(id)),
            Outcome::Deferred { state } => self.defer(unix_ms, queue, id, state),
            Outcome::NotAttempted => {
                self.with_queue(queue, |it| it.put_back(id));
                self.give_up_if_expired(unix_ms, queue, id);
            }
        }
        self.deliverable.insert(queue);
    }

    fn handle_report_outcome(
        &mut self,
        unix_ms: u64,
        queue: QueueIndex,
        id: MessageId,
        outcome: ReportOutcome,
    ) {
        match outcome {
            ReportOutcome::Done { covered } => {
                self.counters.reports_done += 1;
                self.with_queue(queue, |it| it.finish_report(id, covered));
            }
            ReportOutcome::Postponed => {
                self.counters.reports_postponed += 1;
                let chance = self.random.u64(..);
                self.with_queue(queue, |it| {
                    let tries = it.report_tries(id).saturating_add(1);
                    it.postpone_report(id, later(unix_ms, REPORT_RETRY.delay(tries, chance)));
                });
            }
        }
        self.give_up_if_expired(unix_ms, queue, id);
        self.deliverable.insert(queue);
    }

    /// An attempt left something to do: notes it, and when open recipients are tried again.
    fn defer(&mut self, unix_ms: u64, queue: QueueIndex, id: MessageId, mut state: DeliveryState) {
        let retry = self.home_mut(queue).policy.retry;
        let chance = self.random.u64(..);
        state.attempts = state.attempts.saturating_add(1);
        state.noted_unix_ms = unix_ms;
        state.due_unix_ms = later(unix_ms, retry.delay(state.attempts, chance));
        self.counters.deferred += 1;
        self.with_queue(queue, |it| it.defer(id, state));
        self.give_up_if_expired(unix_ms, queue, id);
    }

    /// A message that expired while something was done to it is given up after that.
    fn give_up_if_expired(&mut self, unix_ms: u64, queue: QueueIndex, id: MessageId) {
        let retry = self.home_mut(queue).policy.retry;
        let expired = self.with_queue(queue, |it| {
            let accepted = it.snapshot(id)?.stored.message.envelope.accepted_unix_ms;
            let is_expired = retry.expires_unix_ms(accepted) <= unix_ms;
            if is_expired { it.give_up(id, unix_ms) } else { None }
        });
        self.record_expired(queue, expired);
    }

    fn record_expired(&mut self, queue: QueueIndex, expired: impl IntoIterator<Item = Expired>) {
        let home = *self.home_mut(queue);
        let name = self.cohorts[home.cohort].cohort.unit(home.place).name();
        for Expired { id, attempts } in expired {
            self.counters.expired += 1;
            info!(target: "record", outcome = "expired", queue = name, id = id.0, attempts);
        }
    }

    /// Takes what the cohorts have to tell.
    fn take_events(&mut self) {
        for place in 0..self.cohorts.len() {
            while let Some(event) = self.cohorts[place].cohort.poll_event() {
                match event {
                    CohortEvent::Committed { ticket, queue, id } => {
                        let notice = Notice::Committed { ticket, queue, id };
                        self.notices.push_back((ticket.front, notice));
                    }
                    CohortEvent::Opened(queue) => _ = self.deliverable.insert(queue),
                    CohortEvent::Fatal(why) => _ = self.fatal.get_or_insert(why),
                }
            }
        }
    }

    /// Wakes the fronts, which have ports to open or to close, when queues begin or cease to accept.
    fn tell_acceptance(&mut self) {
        let changes = self.board.changes();
        if std::mem::replace(&mut self.changes_told, changes) != changes {
            self.notices.extend((0..self.fronts).map(|it| (it, Notice::AcceptanceChanged)));
        }
    }

    /// Hands out attempts and reports of queues in service, as many as delivery takes.
    fn hand_out(&mut self, unix_ms: u64) {
        while let Some((due, queue)) = self.due.first().copied().filter(|it| it.0 <= unix_ms) {
            self.due.remove(&(due, queue));
            self.home_mut(queue).armed_unix_ms = u64::MAX;
            self.deliverable.insert(queue);
        }
        self.deliverable.append(&mut self.uncommitted);
        while let Some(queue) = self.deliverable.pop_first() {
            let Home { cohort, place, policy, window, .. } = *self.home_mut(queue);
            let unit = self.cohorts[cohort].cohort.unit_mut(place);
            if !unit.is_open() {
                continue;
            }
            unit.queue.set_strict(policy.strict);
            let aged_at = self.age(unix_ms, queue);
            let reports_at = self.hand_out_reports(unix_ms, queue);
            let front = self.front_of(queue);
            let mail_queue = &mut self.cohorts[cohort].cohort.unit_mut(place).queue;
            while mail_queue.attempts_out() < window {
                let Some(attempt) = mail_queue.next_attempt(unix_ms) else { break };
                let (id, message, state) = (attempt.id, attempt.message, attempt.state);
                self.notices.push_back((front, Notice::Attempt { queue, id, message, state }));
            }
            // What is due waits among the ready, and not for a time that has passed.
            mail_queue.ripen(unix_ms);
            let due = mail_queue.next_due_unix_ms().filter(|due| *due > unix_ms);
            let next = [due, reports_at].into_iter().flatten().fold(aged_at, u64::min);
            self.arm(queue, next);
        }
    }

    /// Gives up what has expired, and lists delay warnings; says when to look again.
    fn age(&mut self, unix_ms: u64, queue: QueueIndex) -> u64 {
        let Home { cohort, place, policy, .. } = *self.home_mut(queue);
        let mail_queue = &self.cohorts[cohort].cohort.unit(place).queue;
        let next = mail_queue.next_age_unix_ms(&policy.retry);
        if next > unix_ms {
            return next;
        }
        if mail_queue.log().len() + AGED_PER_TURN > LOG_HIGH {
            return later(unix_ms, LOG_PATIENCE);
        }
        let expired = self.with_queue(queue, |it| it.age(unix_ms, &policy.retry, AGED_PER_TURN));
        self.record_expired(queue, expired);
        self.cohorts[cohort].cohort.unit(place).queue.next_age_unix_ms(&policy.retry)
    }

    /// Hands out reports that are due, within their window; says when the next is, if it waits for a
    /// time.
    fn hand_out_reports(&mut self, unix_ms: u64, queue: QueueIndex) -> Option<u64> {
        let Home { cohort, place, policy, .. } = *self.home_mut(queue);
        let front = self.front_of(queue);
        let cohort = &mut self.cohorts[cohort].cohort;
        let mail_queue = &mut cohort.unit_mut(place).queue;
        if mail_queue.reports_due() == 0 {
            return None;
        }
        while mail_queue.reports_out() < REPORTS_OUT_MAX {
            match mail_queue.next_report(unix_ms) {
                PolledReport::Due(due) => {
                    let (id, report) = (due.id, report_of(*due, &policy.retry));
                    let notice = Notice::Report { queue, id, report: Box::new(report) };
                    self.notices.push_back((front, notice));
                }
                PolledReport::Uncommitted => {
                    self.uncommitted.insert(queue);
                    break;
                }
                PolledReport::None => break,
            }
        }
        let next = mail_queue.next_report_due_unix_ms().filter(|due| *due > unix_ms);
        cohort.touch(place);
        next
    }

    /// Makes sure that the queue is looked at no later than then.
    fn arm(&mut self, queue: QueueIndex, at_unix_ms: u64) {
        let armed = self.home_mut(queue).armed_unix_ms;
        if at_unix_ms < armed {
            self.due.remove(&(armed, queue));
            self.due.insert((at_unix_ms, queue));
            self.home_mut(queue).armed_unix_ms = at_unix_ms;
        }
    }

    fn front_of(&self, queue: QueueIndex) -> u16 {
        u16::try_from(queue.0 % u32::from(self.fronts)).expect("below u16")
    }

    /// Changes a queue, and lets its copies follow.
    fn with_queue<R>(&mut self, queue: QueueIndex, change: impl FnOnce(&mut MailQueue) -> R) -> R {
        let home = *self.home_mut(queue);
        let cohort = &mut self.cohorts[home.cohort].cohort;
        let result = change(&mut cohort.unit_mut(home.place).queue);
        cohort.touch(home.place);
        result
    }

    fn home_mut(&mut self, queue: QueueIndex) -> &mut Home {
        self.homes[queue.0 as usize].as_mut().expect("commands go to the shard that has the queue")
    }
}

/// The links of a cohort's members.
struct MemberLinks<'l> {
    links: &'l mut [Link],
    members: &'l [usize],
}

impl Outlets for MemberLinks<'_> {
    type Outlet = Link;

    fn of(&mut self, member: usize) -> &mut Link {
        &mut self.links[self.members[member]]
    }
}

fn report_of(due: DueReport, retry: &RetryPolicy) -> Report {
    let DueReport { kind, message, state, version, .. } = due;
    let accepted = message.envelope.accepted_unix_ms;
    let at_unix_ms = match kind {
        ReportKind::Final => state.noted_unix_ms,
        // By the clock of the schedule and not by ours, so that it is the same when it is repeated.
        ReportKind::Delay => retry.warns_unix_ms(accepted),
    };
    let retry_until_unix_ms = retry.expires_unix_ms(accepted);
    Report { kind, message, state, version, at_unix_ms, retry_until_unix_ms }
}

fn later(unix_ms: u64, delay: Duration) -> u64 {
    unix_ms.saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
}

/// Reports of one queue that are being made at a time. Each holds up to its size of memory, and
/// waits for a commit.
const REPORTS_OUT_MAX: u32 = 16;

/// When a report that could not be made is tried again.
const REPORT_RETRY: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(1),
    max: Duration::from_secs(60),
    expiry: Duration::MAX,
    warn_after: Duration::ZERO,
};

/// Messages of a queue that are given up, or listed for a warning, in one turn, so that the end of an
/// outage of days does not stop everything else. The rest follows in the next turns.
const AGED_PER_TURN: usize = 256;

/// While a queue's log is full nothing is given up. It is looked at again after this.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

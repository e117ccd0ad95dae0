//! A cohort's way into service: announce, seal, claim, fetch, settle.

use super::super::record::{Record, RecordedMember, RegisterCall};
use super::super::request::{Answer, Outlet, Outlets};
use super::unit::{Service, Unit};
use super::{
    BACKUPS, Cohort, FETCHES_MAX, Instant, Member, Phase, RETRY_DELAY, RegisterState, Role,
    SUPERSEDED, error, info, warn,
};
use crate::board::Board;
use crate::message::StoredMessage;
use kvs_proto::{Epoch, MessageId};
use std::time::Duration;

impl Cohort {
    /// The register said how things are. The next epoch is announced there before any copy is
    /// sealed with it, so that no two lives ever seal with the same one: connection generations
    /// begin anew in each life, and a server would take the later life for the older connection.
    pub(super) fn handle_record(&mut self, record: Option<Record>) {
        let Some(mut record) = record else {
            self.epoch = Epoch(1);
            self.phase = Phase::Gathering { since: None };
            return;
        };
        let configured = |name: &String| self.units.iter().any(|unit| unit.name() == name);
        for name in record.queues.iter().filter(|name| !configured(name)) {
            warn!(cohort = %self.key, queue = %name, "a recorded queue is not configured (here) \
                  any more; its mail stays at the servers");
        }
        for server in self.unconfigured(&record) {
            warn!(cohort = %self.key, server, "a recorded server is not configured any more: the copies that \
                  it has do not count");
        }
        self.epoch = record.epoch.next();
        record.epoch = self.epoch;
        record.version += 1;
        self.register = RegisterState::Wanted(RegisterCall::Swap(record));
        self.phase = Phase::Announcing;
    }

    /// The epoch is ours: the copies are sealed with it.
    pub(super) fn begin_to_gather(&mut self, outlets: &mut impl Outlets) {
        self.phase = Phase::Gathering { since: None };
        for member in 0..self.members.len() {
            self.seal(member, outlets.of(member));
        }
    }

    /// Attaches to the copies of a recorded member, so that it refuses every earlier owner.
    pub(super) fn seal(&mut self, member: usize, outlet: &mut impl Outlet) {
        let Some(record) = &self.record else { return };
        let it = &self.members[member];
        let recorded = record.incarnation_of(&it.server);
        if recorded.is_none() || recorded != it.up {
            return;
        }
        for unit in &mut self.units {
            if record.queues.iter().any(|name| name == unit.name()) {
                let context = unit.context(self.epoch);
                unit.copies[member].attach(&context, outlet);
            }
        }
    }

    /// Claims the queues once the recorded members are sealed, or waited for long enough.
    pub(super) fn maintain_gathering(&mut self, now: Instant) {
        let Phase::Gathering { since } = &mut self.phase else { return };
        let since = *since.get_or_insert(now);
        if !matches!(self.register, RegisterState::Idle) {
            // It is asked whether the loss of all copies still concerns us.
            return;
        }
        let waited = now >= since + self.policy.recovery_wait;
        let Some(record) = self.record.clone() else {
            let first = self.first_set(true);
            let is_up = |place: &usize| self.members[*place].up.is_some();
            if first.len() == BACKUPS && first.iter().all(is_up) {
                return self.claim_first(&first);
            }
            let there = self.first_set(false);
            if waited && there.len() >= self.policy.min_sync.max(1) {
                self.claim_first(&there);
            }
            return;
        };
        let seals = self.seals(&record);
        let count = |seal| seals.iter().filter(|(_, it)| *it == seal).count();
        let (sealed, lost) = (count(Seal::Sealed), count(Seal::Lost));
        let mut ends = (0..self.members.len()).filter_map(|it| self.former_end(it, &record));
        let is_free = ends.any(|end| end <= now);
        drop(ends);
        if sealed > 0 && (waited || sealed + lost == seals.len()) {
            if !is_free {
                // The former owner may still act.
                return;
            }
            // Any sealed member is enough to stop an earlier owner, which needs the answers of all. One that
            // does not answer stays recorded until the queues have been read from the others.
            let kept = seals.iter().filter(|(_, seal)| *seal != Seal::Lost);
            let members = kept.map(|(member, _)| (*member).clone()).collect();
            self.claim(record.version + 1, record.queues.clone(), members);
        } else if lost == seals.len() {
            // Nobody can tell when it was last heard from, other than that it is not any more.
            let waits = !record.queues.is_empty() && self.policy.accept_loss;
            if !waits || now >= Cohort::former_lease_end(&record, since, None) {
                self.handle_all_lost(record);
            }
        } else if now >= since.max(self.read_again_at) + self.policy.recovery_wait {
            // Nobody answers who is recorded. Meanwhile another gateway may have recorded others.
            self.read_again_at = now;
            self.register = RegisterState::Wanted(RegisterCall::Read);
        }
    }

    /// The recorded copies, and how far each is with being sealed.
    fn seals<'r>(&self, record: &'r Record) -> Vec<(&'r RecordedMember, Seal)> {
        let seal = |server: &str| {
            let place = self.members.iter().position(|member| member.server == server);
            place.map_or(Seal::Lost, |place| self.seal_of(place, record))
        };
        record.members.iter().map(|it| (it, seal(&it.server))).collect()
    }

    /// A copy is attached: if that took it from an owner, notes when that owner has stopped.
    pub(super) fn note_seal(
        &mut self,
        now: Instant,
        member: usize,
        place: usize,
        owner_idle: Option<Duration>,
    ) {
        let (Phase::Gathering { .. }, Some(record)) = (&self.phase, &self.record) else { return };
        let end = Cohort::former_lease_end(record, now, owner_idle);
        // An attachment that is repeated takes it from ourselves.
        self.units[place].former_ends[member].get_or_insert(end);
    }

    /// When the former owner has stopped, by the lease that it had at that member, if it is sealed.
    fn former_end(&self, place: usize, record: &Record) -> Option<Instant> {
        if self.seal_of(place, record) != Seal::Sealed {
            return None;
        }
        let recorded = self.units.iter().filter(|unit| record.has_queue(unit.name()));
        Some(recorded.filter_map(|unit| unit.former_ends[place]).max().unwrap_or(Instant::ZERO))
    }

    /// When gathering has something to do although nothing happens.
    pub(super) fn gathering_deadline(
        &self,
        now: Instant,
        since: Option<Instant>,
    ) -> Option<Instant> {
        let Some(since) = since else { return Some(now) };
        let places = 0..self.members.len();
        let record = self.record.as_ref();
        let ends = places.filter_map(|place| self.former_end(place, record?));
        let lost = record.map(|record| Cohort::former_lease_end(record, since, None));
        let waited = [since, self.read_again_at].map(|it| it + self.policy.recovery_wait);
        let times = waited.into_iter().chain(lost).chain(ends);
        times.filter(|at| *at > now).min()
    }

    /// Claims queues that are not recorded yet.
    fn claim_first(&mut self, places: &[usize]) {
        let member = |place: &usize| {
            let Member { server, up, .. } = &self.members[*place];
            Some(RecordedMember { server: server.clone(), incarnation: (*up)? })
        };
        let members = places.iter().filter_map(member).collect();
        self.claim(1, Vec::new(), members);
    }

    /// No recorded copy is left. That is an alarm, never a new empty queue; but the record is as old as our
    /// start, and meanwhile another gateway may have recorded other copies. So it is read again before.
    fn handle_all_lost(&mut self, record: Record) {
        if record.queues.is_empty() || self.policy.accept_loss {
            warn!(cohort = %self.key, "no recorded copy is left; starting anew with empty queues");
            self.claim(record.version + 1, record.queues, Vec::new());
            return;
        }
        self.register = RegisterState::Wanted(RegisterCall::Read);
    }

    /// While nobody is there whose refusal would tell us, another gateway may have recorded others.
    pub(super) fn maintain_watch_for_successor(&mut self, now: Instant) {
        let is_due = self.looks_for_successor_at().is_some_and(|at| now >= at);
        if is_due && matches!(self.register, RegisterState::Idle) {
            self.read_again_at = now;
            self.register = RegisterState::Wanted(RegisterCall::Read);
        }
    }

    /// When to read the record again, if no member of the set is there.
    pub(super) fn looks_for_successor_at(&self) -> Option<Instant> {
        if self.phase != Phase::Serving || self.in_set_up().next().is_some() {
            return None;
        }
        let since = self.in_set().map(|member| self.members[member].down_since).max()?;
        Some(since.max(self.read_again_at) + self.policy.recovery_wait)
    }

    /// The register said how things are now that nobody is there who was recorded when it was last read.
    pub(super) fn handle_record_again(&mut self, record: Option<&Record>) {
        let identity = |it: &Record| (it.version, it.epoch);
        if record.map(identity) != self.record.as_ref().map(identity) {
            return self.stop(SUPERSEDED.into());
        }
        if self.phase == Phase::Serving {
            // It is ours, and whoever comes is told apart as ever.
            return;
        }
        if record.is_some_and(|it| self.seals(it).iter().any(|(_, seal)| *seal != Seal::Lost)) {
            return;
        }
        let recorded = record.map_or(0, |record| record.members.len());
        let gone = record.into_iter().flat_map(|it| self.unconfigured(it)).collect::<Vec<_>>();
        if !gone.is_empty() {
            let others = if gone.len() < recorded { ", and lost at the others" } else { "" };
            return self.stop(format!(
                "the recorded copies are at servers that are not configured any more ({}){others}. Put those into the \
                 configuration again, and drain them before they are taken out of it",
                gone.join(", ")
            ));
        }
        self.stop(
            "every recorded copy is lost: the servers have restarted, and their memory was the \
             last. Nothing is accepted, so that nobody takes empty queues for delivered mail. To \
             start anew with empty queues, start once with --accept-loss"
                .into(),
        );
    }

    /// Recorded servers that the configuration does not name.
    fn unconfigured<'r>(&self, record: &'r Record) -> impl Iterator<Item = &'r str> {
        let known = |it: &&str| self.members.iter().any(|member| member.server == *it);
        record.members.iter().map(|it| it.server.as_str()).filter(move |it| !known(it))
    }

    fn claim(&mut self, version: u64, queues: Vec<String>, members: Vec<RecordedMember>) {
        let (epoch, lease_ms, joining) = (self.epoch, self.lease_ms(), Vec::new());
        let record = Record { version, epoch, members, joining, queues, lease_ms };
        self.register = RegisterState::Wanted(RegisterCall::Swap(record));
        self.phase = Phase::Claiming;
    }

    fn seal_of(&self, place: usize, record: &Record) -> Seal {
        let member = &self.members[place];
        let recorded = record.incarnation_of(&member.server);
        if matches!(member.role, Role::Expelled { .. })
            || (member.up.is_some() && member.up != recorded)
        {
            return Seal::Lost;
        }
        let mut units =
            self.units.iter().filter(|unit| record.queues.iter().any(|name| name == unit.name()));
        let sealed =
            member.up.is_some() && units.all(|unit| unit.copies[place].standing().is_some());
        if sealed { Seal::Sealed } else { Seal::Open }
    }

    /// The queues are ours.
    pub(super) fn begin_to_serve(&mut self, record: &Record, outlets: &mut impl Outlets) {
        self.phase = Phase::Serving;
        self.refresh = true;
        let epoch = self.epoch;
        let members = record.members.iter().map(|it| it.server.as_str()).collect::<Vec<_>>();
        info!(cohort = %self.key, epoch = epoch.0, ?members, "queues claimed");
        for member in &mut self.members {
            member.role = match record.incarnation_of(&member.server) {
                Some(incarnation) => Role::InSet(incarnation),
                None => Role::Out { not_before: Instant::ZERO },
            };
        }
        let members = self.in_set().collect::<Vec<_>>();
        self.all_open = false;
        for place in 0..self.units.len() {
            let unit = &mut self.units[place];
            let recorded = record.queues.iter().any(|name| name == unit.name());
            unit.service = match (recorded, members.is_empty()) {
                (true, false) => Service::Waiting,
                (true, true) => Service::Open,
                (false, _) => Service::Creating,
            };
            if unit.is_open() {
                self.open(place);
            }
            let unit = &mut self.units[place];
            for member in &members {
                if self.members[*member].up.is_some() {
                    let context = unit.context(epoch);
                    unit.attach_or_create(*member, &context, outlets.of(*member));
                }
            }
            for member in (0..unit.copies.len()).filter(|member| !members.contains(member)) {
                unit.copies[member].forget();
            }
        }
        // One that restarted while the record was written is not what was recorded.
        for member in members {
            let it = &self.members[member];
            if it.up.is_some() && it.role != Role::InSet(it.up.expect("just checked")) {
                self.expel_lost(member);
            }
        }
    }

    /// A copy of a member is attached.
    pub(super) fn handle_stands(
        &mut self,
        now: Instant,
        member: usize,
        place: usize,
        outlets: &mut impl Outlets,
    ) {
        if self.phase == Phase::Serving && self.members[member].role == Role::Joining {
            return self.settle_returned(member, place, outlets);
        }
        if self.phase != Phase::Serving || !matches!(self.members[member].role, Role::InSet(_)) {
            return;
        }
        match self.units[place].service {
            Service::Waiting | Service::Fetching { .. } => {}
            Service::Creating => self.settle_created(now, member, place),
            Service::Settling { .. } | Service::Open => self.settle(now, member, place),
        }
    }

    /// A server in the recorded life does not know a recorded queue.
    pub(super) fn handle_unknown(
        &mut self,
        now: Instant,
        member: usize,
        place: usize,
        outlet: &mut impl Outlet,
    ) {
        let unit = &mut self.units[place];
        if unit.service == Service::Creating && self.phase == Phase::Serving {
            let context = unit.context(self.epoch);
            unit.copies[member].create(&context, outlet);
            return;
        }
        if self.members[member].role == Role::Joining {
            // It came back, and had not got that far.
            let context = unit.context(self.epoch);
            unit.copies[member].refill(&context, outlet);
            return;
        }
        error!(cohort = %self.key, queue = unit.name(), server = %self.members[member].server,
               "the server does not know a queue that is recorded there");
        match self.phase {
            Phase::Serving => self.handle_out_of_step(now, member, place, "it is not there"),
            _ => self.members[member].role = Role::Expelled { is_lost: true },
        }
    }

    /// A new queue was made (or found, made by an earlier start that did not get to record it).
    fn settle_created(&mut self, now: Instant, member: usize, place: usize) {
        let unit = &mut self.units[place];
        let standing = unit.copies[member].standing().expect("it has just said so");
        if standing.numbers.messages > 0 {
            let server = &self.members[member].server;
            let why = format!(
                "queue {} exists at {server} with {} messages, but the register knows nothing of \
                 it: the register was lost. Restore it; or remove the queue at the servers",
                unit.name(),
                standing.numbers.messages
            );
            self.stop(why);
            return;
        }
        match unit.copies[member].follow(&unit.queue) {
            Ok(()) => self.touch(place),
            Err(why) => self.handle_out_of_step(now, member, place, why),
        }
    }

    /// An attached copy is brought into step with the queue: it follows, or is repaired, or must
    /// be filled anew.
    fn settle(&mut self, now: Instant, member: usize, place: usize) {
        let unit = &mut self.units[place];
        let Err(why) = unit.copies[member].follow(&unit.queue) else {
            self.handle_advanced(place);
            return;
        };
        let standing = unit.copies[member].standing().expect("it stands until it follows");
        let behind = standing.numbers.transaction < unit.queue.log().head();
        match unit.service {
            Service::Settling { source } if behind && source != member => {
                self.units[place].wants_operations = true;
            }
            _ => self.handle_out_of_step(now, member, place, why),
        }
    }

    /// Begins to read queues, and opens those that are settled.
    pub(super) fn maintain_recovery(
        &mut self,
        now: Instant,
        outlets: &mut impl Outlets,
        board: &Board,
    ) {
        self.all_open = self.all_open || self.units.iter().all(Unit::is_open);
        if self.all_open {
            return;
        }
        let members = self.in_set().collect::<Vec<_>>();
        for place in 0..self.units.len() {
            self.abandon_lost_source(place, &members, board);
        }
        let waiting = self.units.iter().any(|unit| unit.service == Service::Waiting);
        if waiting && members.is_empty() {
            // Nor is that recorded: if it is one queue that is lost, the others are still there.
            return self.stop("the last recorded copy was lost while it was being read".into());
        }
        if self.has_expelled() {
            // Nothing goes on without it before the record says so: a successor might start
            // from it.
            return;
        }
        for place in 0..self.units.len() {
            match self.units[place].service {
                Service::Waiting => self.begin_to_fetch(now, place, &members, outlets),
                Service::Settling { source } => {
                    self.maintain_settling(place, source, &members, outlets);
                }
                Service::Fetching { .. } | Service::Creating | Service::Open => {}
            }
        }
    }

    /// What was read from a member that does not count any more is dropped while others count:
    /// the queue is read from them. They have everything that was ever committed, and only the
    /// lost one could have repaired them.
    fn abandon_lost_source(&mut self, place: usize, members: &[usize], board: &Board) {
        let unit = &mut self.units[place];
        match unit.service {
            Service::Fetching { source, .. } if !members.contains(&source) => {
                unit.abandon_read(board);
                self.fetching -= 1;
            }
            Service::Settling { source }
                if !members.contains(&source)
                    && members.iter().any(|member| unit.copies[*member].standing().is_some()) =>
            {
                unit.abandon_read(board);
            }
            _ => {}
        }
    }

    /// From the copy that is furthest of all that count; one that was away for too long is not waited for.
    /// Whatever was committed is at each of them.
    fn begin_to_fetch(
        &mut self,
        now: Instant,
        place: usize,
        members: &[usize],
        outlets: &mut impl Outlets,
    ) {
        let is_absent = |member: &Member| {
            let away = now.saturating_since(member.down_since);
            member.up.is_none() && away >= self.policy.recovery_wait
        };
        let expected = members.iter().filter(|member| !is_absent(&self.members[**member]));
        let unit = &mut self.units[place];
        let standings = expected.map(|member| Some((*member, *unit.copies[*member].standing()?)));
        let Some(standings) = standings.collect::<Option<Vec<_>>>() else { return };
        let furthest = standings.iter().rev().max_by_key(|(_, it)| it.numbers.transaction);
        let Some((source, mut standing)) = furthest.copied() else { return };
        // A copy that was filled has not seen the ids that were deleted before, and one that has
        // takes none of them again.
        standing.last_id =
            standings.iter().map(|(_, it)| it.last_id).max().expect("one is furthest");
        if self.fetching >= FETCHES_MAX {
            return;
        }
        self.fetching += 1;
        let context = unit.context(self.epoch);
        unit.copies[source].fetch(&context, MessageId(0), outlets.of(source));
        unit.service = Service::Fetching { source, standing, after: MessageId(0) };
    }

    fn maintain_settling(
        &mut self,
        place: usize,
        source: usize,
        members: &[usize],
        outlets: &mut impl Outlets,
    ) {
        let unit = &mut self.units[place];
        if members.iter().all(|member| unit.copies[*member].is_following()) {
            unit.service = Service::Open;
            self.refresh = true;
            info!(cohort = %self.key, queue = unit.name(), messages = unit.queue.len(),
                  "the queue is recovered");
            self.open(place);
            self.handle_advanced(place);
            return;
        }
        let behind = members.iter().filter_map(|member| unit.copies[*member].standing());
        let Some(behind) = behind.map(|it| it.numbers.transaction).min() else { return };
        // A source that is away comes back, or is given up.
        if unit.wants_operations && unit.copies[source].is_following() {
            unit.wants_operations = false;
            let context = unit.context(self.epoch);
            unit.operations.clear();
            unit.copies[source].fetch_operations(&context, behind, outlets.of(source));
        }
    }

    /// Part of a queue, or the operations that another copy lacks.
    pub(super) fn handle_recovered(
        &mut self,
        now: Instant,
        member: usize,
        place: usize,
        answer: Answer,
        outlets: &mut impl Outlets,
        board: &Board,
    ) {
        match (self.units[place].service, answer) {
            (Service::Fetching { source, .. }, Answer::Item { id, state_version, state, body })
                if source == member =>
            {
                let restored = StoredMessage::decode(body).and_then(|stored| {
                    let bytes = stored.message.counted_bytes();
                    self.units[place].queue.restore(id, stored, state_version, state)?;
                    Ok(bytes)
                });
                match restored {
                    Ok(bytes) => {
                        board.take_recovered(self.units[place].queue_index(), bytes);
                        self.counters.recovered += 1;
                        if let Service::Fetching { after, .. } = &mut self.units[place].service {
                            *after = id;
                        }
                    }
                    Err(_) => self.give_up_source(now, member, place, board),
                }
            }
            (Service::Fetching { source, after, .. }, Answer::BlockEnd { finished })
                if source == member =>
            {
                if finished {
                    self.finish_fetch(now, place, board);
                } else {
                    let unit = &self.units[place];
                    let context = unit.context(self.epoch);
                    unit.copies[source].fetch(&context, after, outlets.of(source));
                }
            }
            (Service::Settling { .. }, Answer::Operations { operations, head }) => {
                let unit = &mut self.units[place];
                if operations.is_empty() {
                    // They do not reach back that far: whoever lacks them is filled anew.
                    unit.operations.clear();
                }
                unit.operations.extend(operations);
                match unit.operations.last() {
                    Some(last) if last.transaction < head => {
                        let context = unit.context(self.epoch);
                        let after = last.transaction;
                        unit.copies[member].fetch_operations(&context, after, outlets.of(member));
                    }
                    _ => {
                        let operations = std::mem::take(&mut unit.operations);
                        self.repair_standing(now, place, &operations);
                    }
                }
            }
            (Service::Open, Answer::Operations { operations, head })
                if self.units[place].returning.as_ref().is_some_and(|it| it.source == member) =>
            {
                self.handle_operations(place, operations, head, outlets);
            }
            // An answer to something that was given up meanwhile.
            _ => {}
        }
    }

    fn finish_fetch(&mut self, now: Instant, place: usize, board: &Board) {
        let unit = &mut self.units[place];
        let Service::Fetching { source, standing, .. } = unit.service else { return };
        let numbers = standing.numbers;
        let equal = unit.queue.len() as u64 == numbers.messages
            && unit.queue.content_digest() == numbers.content;
        if !equal {
            self.give_up_source(now, source, place, board);
            return;
        }
        unit.queue.finish_restore(numbers.transaction, numbers.hash, standing.last_id);
        unit.service = Service::Settling { source };
        self.fetching -= 1;
        for member in self.in_set().collect::<Vec<_>>() {
            if self.units[place].copies[member].standing().is_some() {
                self.settle(now, member, place);
            }
        }
    }

    /// What a copy returned is not what it says it has.
    fn give_up_source(&mut self, now: Instant, member: usize, place: usize, board: &Board) {
        if self.units[place].abandon_fetch_from(member, board) {
            self.fetching -= 1;
        }
        self.handle_out_of_step(now, member, place, "what it returned is damaged");
    }

    /// Repairs the copies that stand behind with these operations of the one that is furthest.
    fn repair_standing(
        &mut self,
        now: Instant,
        place: usize,
        operations: &[super::super::request::Operation],
    ) {
        for member in self.in_set().collect::<Vec<_>>() {
            let unit = &mut self.units[place];
            if unit.copies[member].standing().is_none() {
                continue;
            }
            match unit.copies[member].repair(operations, &unit.queue) {
                Ok(()) => {
                    info!(cohort = %self.key, queue = unit.name(), operations = operations.len(),
                          server = %self.members[member].server, "repairing a copy");
                    self.touch(place);
                }
                Err(why) => self.handle_out_of_step(now, member, place, why),
            }
        }
    }

    /// A register that failed is tried again after a while.
    pub(super) fn maintain_register(&mut self, now: Instant) {
        let RegisterState::Failed { again_at, call } = &mut self.register else { return };
        let again_at = again_at.get_or_insert(now + RETRY_DELAY);
        if now < *again_at {
            return;
        }
        let call = call.clone();
        if self.may_ask_again(&call) {
            self.register = RegisterState::Wanted(call);
        } else {
            let again_at = Some(now + RETRY_DELAY);
            self.register = RegisterState::Failed { again_at, call };
        }
    }

    /// Whether a call that failed may be made again. Who is given up is left out of the record because another one that
    /// counts had said that it is alive; that is long ago by now. As long as nobody who would be left is there, the one
    /// who was given up may be the only one who still has the mail, but for us.
    fn may_ask_again(&self, call: &RegisterCall) -> bool {
        let RegisterCall::Swap(record) = call else { return true };
        if self.phase != Phase::Serving || !self.has_expelled() {
            return true;
        }
        let is_up = |recorded: &RecordedMember| {
            let mut members = self.members.iter();
            members.any(|it| it.server == recorded.server && it.up == Some(recorded.incarnation))
        };
        record.members.iter().any(is_up)
            || self.seals(record).iter().all(|(_, seal)| *seal == Seal::Lost)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seal {
    /// Not heard from, or not on all queues.
    Open,
    /// Every recorded queue is attached there with our epoch.
    Sealed,
    /// Its copies are gone.
    Lost,
}

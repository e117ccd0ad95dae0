//! One in-order queue of mail: its messages, their way from stored to deleted, and the log of
//! changes that its copies follow.
//!
//! A message is *pending* until every copy that counts has it, *held* until its session's answer is
//! certain (other queues of the same mail may not be that far), then *waiting* in the line, ready
//! or deferred; an *attempt* ends in deletion, or back in the line. Order is the order of ids: the
//! lowest ready id of the highest priority goes first.
//!
//! A message whose sender has to be told something is on the list of *reports* too. While a report
//! is made nothing else is done to the message. One that has nobody left to be tried is *closed*:
//! it stays, bounce pending, until its report is committed elsewhere.

mod ages;
mod line;
mod log;
mod reports;
mod retry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use kvs_proto::{
    ChainHash, ContentDigest, MessageId, StateDigest, StateVersion, Transaction, state_digest,
};

pub use log::{Change, Entry, Freed, Log};
pub use retry::{QueuePolicy, RetryPolicy};

use self::ages::Cursor;
use self::line::Line;
use self::reports::{Next, ReportList};
use crate::api::{ReportKind, Ticket};
use crate::message::{
    BadMessage, DeliveryState, Envelope, MessageRef, RecipientEvent, RecipientStatus, StoredMessage,
};

/// One queue.
///
/// Commands: [`store`](Self::store), [`withdraw`](Self::withdraw), [`release`](Self::release),
/// [`settle`](Self::settle), [`defer`](Self::defer), [`put_back`](Self::put_back). The owner tells
/// how far the copies are by [`commit_up_to`](Self::commit_up_to), takes attempts with
/// [`next_attempt`](Self::next_attempt) and reports with [`next_report`](Self::next_report), and
/// lets messages [`age`](Self::age). Recovery fills an empty queue by [`restore`](Self::restore)
/// and [`finish_restore`](Self::finish_restore).
#[derive(Debug, Default)]
pub struct MailQueue {
    messages: BTreeMap<MessageId, Slot>,
    /// The highest id ever given out.
    last_id: MessageId,
    log: Log,
    /// Sum of the digest terms of all messages, wrapping; equal on equal copies.
    content_digest: ContentDigest,
    /// Sum of what all messages have as body at the copies.
    stored_bytes: u64,
    /// Stores not committed yet, in log order.
    pending: VecDeque<(Transaction, MessageId)>,
    /// Mails whose session still waits: pending or held.
    tickets: HashMap<Ticket, MessageId>,
    /// Bytes of the stores not committed yet, as the copies count them.
    pending_bytes: u64,
    /// The changes up to this one are committed, as far as we were told.
    committed: Transaction,
    /// Messages that are waiting.
    line: Line,
    /// Messages with something to be told to their senders.
    reports: ReportList,
    expiry: Cursor,
    warning: Cursor,
    attempts_out: u32,
    reports_out: u32,
}

#[derive(Debug)]
struct Slot {
    stored: StoredMessage,
    state: DeliveryState,
    state_record: Bytes,
    state_version: StateVersion,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Pending {
        ticket: Ticket,
    },
    Held {
        ticket: Ticket,
    },
    /// In the line.
    Waiting,
    Attempting,
    /// Nobody is left to be tried, somebody to be told.
    Closed,
    Reporting {
        kind: ReportKind,
    },
}

/// A message to deliver.
#[derive(Debug)]
pub struct Attempt {
    /// Which.
    pub id: MessageId,
    /// What.
    pub message: MessageRef,
    /// What earlier attempts achieved.
    pub state: DeliveryState,
}

/// A message whose sender has to be told something.
#[derive(Debug)]
pub struct DueReport {
    /// Which.
    pub id: MessageId,
    /// Of what.
    pub kind: ReportKind,
    /// The message.
    pub message: MessageRef,
    /// What became of its recipients.
    pub state: DeliveryState,
    /// Which version of the state that is; with it a report is told from others of that message.
    pub version: StateVersion,
}

/// What [`MailQueue::next_report`] finds.
#[derive(Debug)]
pub enum PolledReport {
    /// Nothing is due now.
    None,
    /// What is due tells of a change that is not committed yet.
    Uncommitted,
    /// This is due, and handed out.
    Due(Box<DueReport>),
}

/// A message that was given up because of its age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expired {
    /// Which.
    pub id: MessageId,
    /// Attempts until then.
    pub attempts: u16,
}

/// A copy of a message as a filling backup needs it.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// Which.
    pub id: MessageId,
    /// What.
    pub stored: &'a StoredMessage,
    /// Version of the state record; 0: it has none.
    pub state_version: StateVersion,
    /// The state record.
    pub state_record: &'a Bytes,
}

impl MailQueue {
    /// Appends a message that is pending from now on; returns its id.
    pub fn store(&mut self, ticket: Ticket, message: MessageRef) -> MessageId {
        let stored = StoredMessage::new(message);
        let id = self.last_id.next();
        self.last_id = id;
        let number = self.log.push(id, Change::Store(stored.clone()));
        self.pending.push_back((number, id));
        self.pending_bytes += stored.body.len() as u64;
        self.tickets.insert(ticket, id);
        self.add(id, stored, StateVersion(0), Bytes::new(), Phase::Pending { ticket });
        id
    }

    /// Notes that every copy that counts has the changes up to `number`. Calls `committed` for each
    /// message that is committed by that, in order.
    pub fn commit_up_to(
        &mut self,
        number: Transaction,
        mut committed: impl FnMut(Ticket, MessageId),
    ) {
        self.committed = self.committed.max(number);
        while let Some((store, id)) = self.pending.front().copied() {
            if store > number {
                break;
            }
            self.pending.pop_front();
            // A withdrawn message is pending no more, but its entry here waits for its turn.
            let Some(slot) = self.messages.get_mut(&id) else { continue };
            let Phase::Pending { ticket } = slot.phase else { continue };
            self.pending_bytes -= slot.stored.body.len() as u64;
            slot.phase = Phase::Held { ticket };
            committed(ticket, id);
        }
    }

    /// A held message becomes ready. Does nothing for any other.
    pub fn release(&mut self, id: MessageId) {
        let Some(slot) = self.messages.get_mut(&id) else { return };
        if let Phase::Held { ticket } = slot.phase {
            slot.phase = Phase::Waiting;
            let envelope = slot.envelope();
            let (priority, accepted) = (envelope.priority, envelope.accepted_unix_ms);
            self.tickets.remove(&ticket);
            self.line.add(id, priority.unwrap_or(0), 0);
            self.expiry.handle_message(accepted);
            self.warning.handle_message(accepted);
        }
    }

    /// Removes the mail of that ticket if it is pending or held; returns whether it was.
    pub fn withdraw(&mut self, ticket: Ticket) -> bool {
        let Some(id) = self.tickets.remove(&ticket) else { return false };
        let slot = self.slot_mut(id);
        let accepted = slot.envelope().accepted_unix_ms;
        if matches!(slot.phase, Phase::Pending { .. }) {
            let bytes = slot.stored.body.len() as u64;
            self.pending_bytes -= bytes;
        }
        self.delete(id);
        // Those behind it were not looked at as long as it was in the way.
        self.expiry.handle_message(accepted);
        self.warning.handle_message(accepted);
        true
    }

    /// The next message to deliver now, if any: the lowest ready id of the highest priority.
    /// Deferred messages whose time has come count as ready. A strict queue gives the message that
    /// was accepted first, one at a time, or none.
    pub fn next_attempt(&mut self, unix_ms: u64) -> Option<Attempt> {
        if self.line.is_strict() && self.attempts_out > 0 {
            return None;
        }
        let id = self.line.pop(unix_ms)?;
        self.reports.hide(id);
        let slot = self.slot_mut(id);
        slot.phase = Phase::Attempting;
        let attempt =
            Attempt { id, message: slot.stored.message.clone(), state: slot.state.clone() };
        self.attempts_out += 1;
        Some(attempt)
    }

    /// An attempt settled every recipient: removes the message.
    pub fn settle(&mut self, id: MessageId) {
        self.end_attempt(id);
        self.delete(id);
    }

    /// An attempt ended with something left to do: notes the state. Recipients that are open wait
    /// until `state.due_unix_ms`; if a report is due, that is on its list.
    pub fn defer(&mut self, id: MessageId, state: DeliveryState) {
        self.end_attempt(id);
        self.set_state(id, state);
    }

    /// An attempt was not made: the message is back in its old place.
    pub fn put_back(&mut self, id: MessageId) {
        self.end_attempt(id);
        self.line_up(id);
    }

    /// The next report to make, if one is due and what it tells is committed. Each ends with
    /// [`finish_report`](Self::finish_report) or [`postpone_report`](Self::postpone_report);
    /// until then nothing else is done to the message.
    pub fn next_report(&mut self, unix_ms: u64) -> PolledReport {
        loop {
            let id = match self.reports.next(unix_ms, self.committed) {
                Next::None => return PolledReport::None,
                Next::Uncommitted => return PolledReport::Uncommitted,
                Next::Message(id) => id,
            };
            let is_delayed = self.reports.is_delayed(id);
            self.leave_line(id);
            let slot = self.slot_mut(id);
            match slot.report_kind(is_delayed) {
                Some(kind) => return PolledReport::Due(Box::new(self.begin_report(id, kind))),
                None if slot.has_open() => {
                    self.reports.remove(id);
                    self.line_up(id);
                }
                None => self.delete(id),
            }
        }
    }

    /// A report is committed, or nobody will ever get it: of the recipients that it was about the
    /// first `covered` are done. Without any left the message is removed.
    pub fn finish_report(&mut self, id: MessageId, covered: usize) {
        let kind = self.end_report(id);
        let is_delayed = self.reports.is_delayed(id);
        self.reports.remove(id);
        let slot = self.slot_mut(id);
        let mut state = slot.state.clone();
        match kind {
            ReportKind::Final => state.settle_reported(slot.recipient_count(), covered),
            ReportKind::Delay => state.warned = true,
        }
        if is_delayed && kind == ReportKind::Final {
            self.reports.add_delayed(id);
        }
        self.set_state(id, state);
    }

    /// A report could not be made: it is tried again at that time, and meanwhile the message is
    /// where it was.
    pub fn postpone_report(&mut self, id: MessageId, due_unix_ms: u64) {
        self.end_report(id);
        self.reports.postpone(id, due_unix_ms);
        self.line_up(id);
    }

    /// How often a message's report has been postponed.
    pub fn report_tries(&self, id: MessageId) -> u16 {
        self.reports.tries(id)
    }

    /// Looks at the messages that have become old since, at most `most`: gives up those that have
    /// expired, and returns them; lists delay warnings that are due.
    pub fn age(&mut self, unix_ms: u64, retry: &RetryPolicy, most: usize) -> Vec<Expired> {
        let mut expired = Vec::new();
        for _ in 0..most {
            let is_old = |accepted| retry.expires_unix_ms(accepted) <= unix_ms;
            let Some(id) = next_old(&self.messages, &mut self.expiry, is_old) else { break };
            // What is being done to a message ends first, and then its age is looked at.
            expired.extend(self.give_up(id, unix_ms));
        }
        for _ in 0..most {
            let is_old = |accepted| retry.warns_unix_ms(accepted) <= unix_ms;
            let Some(id) = next_old(&self.messages, &mut self.warning, is_old) else { break };
            let slot = self.slot_mut(id);
            let is_waiting = slot.phase == Phase::Waiting;
            if slot.wants_warning() {
                self.reports.add_delayed(id);
                if is_waiting {
                    self.reports.show(id);
                }
            }
        }
        expired
    }

    /// When to call [`age`](Self::age), in milliseconds since 1970.
    pub fn next_age_unix_ms(&self, retry: &RetryPolicy) -> u64 {
        let expiry = retry.expires_unix_ms(self.expiry.from_unix_ms);
        expiry.min(retry.warns_unix_ms(self.warning.from_unix_ms))
    }

    /// Gives a message up if it is waiting: its open recipients have failed.
    pub fn give_up(&mut self, id: MessageId, unix_ms: u64) -> Option<Expired> {
        let slot = self.messages.get(&id).filter(|slot| slot.phase == Phase::Waiting)?;
        let mut state = slot.state.clone();
        let expired = Expired { id, attempts: state.attempts };
        state.expire(slot.envelope());
        state.noted_unix_ms = unix_ms;
        self.leave_line(id);
        self.set_state(id, state);
        Some(expired)
    }

    /// Makes the queue strict, or not so.
    pub fn set_strict(&mut self, strict: bool) {
        if self.line.is_strict() == strict {
            return;
        }
        self.line = Line::new(strict);
        for (id, slot) in &self.messages {
            match slot.phase {
                Phase::Waiting => self.line.add(*id, slot.priority(), slot.state.due_unix_ms),
                Phase::Reporting { .. } if slot.has_open() => {
                    self.line.block(*id, slot.priority(), slot.was_tried());
                }
                _ => {}
            }
        }
    }

    /// Takes in a message that a backup returned; ids must grow. The queue must not be in service.
    ///
    /// # Errors
    /// [`BadMessage`] if the id does not grow or the state record is not one of ours.
    pub fn restore(
        &mut self,
        id: MessageId,
        stored: StoredMessage,
        state_version: StateVersion,
        state_record: Bytes,
    ) -> Result<(), BadMessage> {
        if self.messages.last_key_value().is_some_and(|(last, _)| *last >= id) {
            return Err(BadMessage);
        }
        let state = DeliveryState::decode(&state_record)?;
        let accepted = stored.message.envelope.accepted_unix_ms;
        self.add(id, stored, state_version, state_record, Phase::Waiting);
        let slot = self.slot_mut(id);
        slot.state = state;
        if slot.report_kind(false).is_some() || !slot.has_open() {
            self.reports.add(id, Transaction(0));
        }
        self.line_up(id);
        self.expiry.handle_message(accepted);
        self.warning.handle_message(accepted);
        Ok(())
    }

    /// Recovery is complete: the queue goes on after the given numbers.
    pub fn finish_restore(&mut self, number: Transaction, hash: ChainHash, last_id: MessageId) {
        self.log = Log::starting_after(number, hash);
        self.last_id = last_id.max(self.last_id);
        self.committed = number;
    }

    /// The messages after `id`, in order, as a filling copy needs them.
    pub fn snapshots_after(&self, id: MessageId) -> impl Iterator<Item = Snapshot<'_>> {
        self.messages
            .range((Bound::Excluded(id), Bound::Unbounded))
            .map(|(id, slot)| slot.snapshot(*id))
    }

    /// One message as a filling copy needs it.
    pub fn snapshot(&self, id: MessageId) -> Option<Snapshot<'_>> {
        self.messages.get(&id).map(|slot| slot.snapshot(id))
    }

    /// The log of changes.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Forgets changes that every copy that counts has answered; returns the deleted messages whose
    /// memory is free by that.
    pub fn trim_log(&mut self, number: Transaction) -> Freed {
        self.log.trim(number)
    }

    /// Digest of all messages with their states; equal on equal copies.
    pub fn content_digest(&self) -> ContentDigest {
        self.content_digest
    }

    /// Bytes of all messages, as the copies count them.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// The first store that is not committed yet: its change and its message. It may have been withdrawn.
    pub fn first_pending(&self) -> Option<(Transaction, MessageId)> {
        self.pending.front().copied()
    }

    /// The highest id ever given out.
    pub fn last_id(&self) -> MessageId {
        self.last_id
    }

    /// Bytes of the stores that are not committed yet.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Messages in the queue, whatever their phase.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// What each message is counted with, for giving the room back when a partial recovery is dropped.
    pub fn counted_sizes(&self) -> impl Iterator<Item = usize> {
        self.messages.values().map(|slot| slot.stored.message.counted_bytes())
    }

    /// Attempts handed out and not ended.
    pub fn attempts_out(&self) -> u32 {
        self.attempts_out
    }

    /// Reports handed out and not ended.
    pub fn reports_out(&self) -> u32 {
        self.reports_out
    }

    /// Messages with something to be told to their senders.
    pub fn reports_due(&self) -> usize {
        self.reports.len()
    }

    /// When the next deferred message is due, in milliseconds since 1970.
    pub fn next_due_unix_ms(&self) -> Option<u64> {
        self.line.next_due_unix_ms()
    }

    /// When the next report is due, in milliseconds since 1970.
    pub fn next_report_due_unix_ms(&self) -> Option<u64> {
        self.reports.next_due_unix_ms()
    }

    /// Deferred messages whose time has come are ready.
    pub fn ripen(&mut self, unix_ms: u64) {
        self.line.ripen(unix_ms);
    }

    fn add(
        &mut self,
        id: MessageId,
        stored: StoredMessage,
        state_version: StateVersion,
        state_record: Bytes,
        phase: Phase,
    ) {
        let state = DeliveryState::default();
        let slot = Slot { stored, state, state_record, state_version, phase };
        self.content_digest = self.content_digest.with(slot.digest_term(id));
        self.stored_bytes += slot.stored.body.len() as u64;
        let earlier = self.messages.insert(id, slot);
        assert!(earlier.is_none(), "ids are given out once");
    }

    fn delete(&mut self, id: MessageId) {
        let slot = self.messages.remove(&id).expect("only messages of the queue are deleted");
        self.reports.remove(id);
        self.content_digest = self.content_digest.without(slot.digest_term(id));
        self.stored_bytes -= slot.stored.body.len() as u64;
        let counted_bytes = slot.stored.message.counted_bytes();
        self.log.push(id, Change::Delete { counted_bytes });
    }

    /// Notes the state of a message that is in no list, and puts it where it belongs by that.
    fn set_state(&mut self, id: MessageId, state: DeliveryState) {
        let count = self.slot_mut(id).recipient_count();
        let is_report_due = state.is_report_due(count);
        if !is_report_due && !state.has_open(count) {
            return self.delete(id);
        }
        let record = state.encode();
        let slot = self.slot_mut(id);
        let before = slot.digest_term(id);
        // What does not fit a record is forgotten now, and not with the next restart: what is told
        // to a sender must be the same again after a crash.
        slot.state = DeliveryState::decode(&record).expect("just encoded");
        slot.state_record = record.clone();
        slot.state_version = slot.state_version.next();
        let version = slot.state_version;
        let after = slot.digest_term(id);
        self.content_digest = self.content_digest.without(before).with(after);
        let number = self.log.push(id, Change::Replace { version, record });
        if is_report_due {
            self.reports.add(id, number);
        }
        self.line_up(id);
    }

    /// Puts a message that is in no list where it belongs by its state.
    fn line_up(&mut self, id: MessageId) {
        let slot = self.slot_mut(id);
        let (priority, due) = (slot.priority(), slot.state.due_unix_ms);
        let is_open = slot.has_open();
        slot.phase = if is_open { Phase::Waiting } else { Phase::Closed };
        if is_open {
            self.line.add(id, priority, due);
        }
        self.reports.show(id);
    }

    /// Takes a message that is waiting or closed out of its lists.
    fn leave_line(&mut self, id: MessageId) {
        let slot = self.slot_mut(id);
        if slot.phase == Phase::Waiting {
            let (priority, due) = (slot.priority(), slot.state.due_unix_ms);
            self.line.remove(id, priority, due);
        }
        self.reports.hide(id);
    }

    fn begin_report(&mut self, id: MessageId, kind: ReportKind) -> DueReport {
        self.reports_out += 1;
        let slot = self.slot_mut(id);
        slot.phase = Phase::Reporting { kind };
        let (message, state) = (slot.stored.message.clone(), slot.state.clone());
        let version = slot.state_version;
        if slot.has_open() {
            let (priority, was_tried) = (slot.priority(), slot.was_tried());
            self.line.block(id, priority, was_tried);
        }
        DueReport { id, kind, message, state, version }
    }

    fn end_report(&mut self, id: MessageId) -> ReportKind {
        let slot = self.slot_mut(id);
        let Phase::Reporting { kind } = slot.phase else {
            panic!("one outcome for each report");
        };
        let priority = slot.priority();
        self.line.unblock(id, priority);
        self.reports_out -= 1;
        kind
    }

    fn end_attempt(&mut self, id: MessageId) {
        let slot = self.slot_mut(id);
        assert_eq!(slot.phase, Phase::Attempting, "one outcome for each attempt");
        self.attempts_out -= 1;
    }

    fn slot_mut(&mut self, id: MessageId) -> &mut Slot {
        self.messages.get_mut(&id).expect("the lists name messages of the queue")
    }
}

/// The next message that a cursor has not seen and that is old enough, if any. One that is not
/// released yet ends the search: it is looked at when it is.
fn next_old(
    messages: &BTreeMap<MessageId, Slot>,
    cursor: &mut Cursor,
    is_old: impl Fn(u64) -> bool,
) -> Option<MessageId> {
    if !is_old(cursor.from_unix_ms) {
        return None;
    }
    let next = messages.range((Bound::Excluded(cursor.seen), Bound::Unbounded)).next();
    let released = next.filter(|(_, slot)| !slot.is_with_reception());
    let Some((id, slot)) = released else {
        cursor.from_unix_ms = u64::MAX;
        return None;
    };
    let accepted = slot.envelope().accepted_unix_ms;
    if !is_old(accepted) {
        cursor.from_unix_ms = accepted;
        return None;
    }
    cursor.seen = *id;
    Some(*id)
}

impl Slot {
    fn envelope(&self) -> &Envelope {
        &self.stored.message.envelope
    }

    /// Whether a next hop was asked to take it, as far as is recorded.
    fn was_tried(&self) -> bool {
        self.state.attempts > 0
    }

    fn priority(&self) -> i8 {
        self.envelope().priority.unwrap_or(0)
    }

    fn recipient_count(&self) -> usize {
        self.envelope().recipients.len()
    }

    fn has_open(&self) -> bool {
        self.state.has_open(self.recipient_count())
    }

    fn is_with_reception(&self) -> bool {
        matches!(self.phase, Phase::Pending { .. } | Phase::Held { .. })
    }

    /// Whether the sender wants to be told once that recipients are delayed, and was not.
    fn wants_warning(&self) -> bool {
        let is_wanted = |place| {
            self.state.status(place) == RecipientStatus::Open
                && self.envelope().wants_report(place, RecipientEvent::Delayed)
        };
        !self.state.warned && (0..self.recipient_count()).any(is_wanted)
    }

    /// What there is to be told to the sender.
    fn report_kind(&self, is_delayed: bool) -> Option<ReportKind> {
        if self.state.is_report_due(self.recipient_count()) {
            return Some(ReportKind::Final);
        }
        (is_delayed && self.wants_warning()).then_some(ReportKind::Delay)
    }

    fn digest_term(&self, id: MessageId) -> u64 {
        let state = match self.state_version {
            StateVersion(0) => StateDigest(0),
            version => state_digest(version, &self.state_record),
        };
        kvs_proto::content_term(id, state, self.stored.body.digest())
    }

    fn snapshot(&self, id: MessageId) -> Snapshot<'_> {
        Snapshot {
            id,
            stored: &self.stored,
            state_version: self.state_version,
            state_record: &self.state_record,
        }
    }
}

//! One in-order queue of mail: its messages, their way from stored to deleted, and the log of
//! changes that its copies follow.
//!
//! A message is *pending* until every copy that counts has it, *held* until its session's answer is
//! certain (other queues of the same mail may not be that far), then *ready*; an *attempt* ends in
//! deletion, in the retry schedule (*deferred*), or back among the ready. Order is the order of
//! ids: the lowest ready id goes first.

mod log;
mod retry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use kvs_proto::{
    ChainHash, ContentDigest, MessageId, StateDigest, StateVersion, Transaction, state_digest,
};

pub use log::{Change, Entry, Freed, Log};
pub use retry::RetryPolicy;

use crate::api::Ticket;
use crate::message::{BadMessage, DeliveryState, MessageRef, StoredMessage};

/// One queue.
///
/// Commands: [`store`](Self::store), [`withdraw`](Self::withdraw), [`release`](Self::release),
/// [`settle`](Self::settle), [`defer`](Self::defer), [`put_back`](Self::put_back). The owner tells
/// how far the copies are by [`commit_up_to`](Self::commit_up_to) and takes attempts with
/// [`next_attempt`](Self::next_attempt). Recovery fills an empty queue by
/// [`restore`](Self::restore) and [`finish_restore`](Self::finish_restore).
#[derive(Debug, Default)]
pub struct MailQueue {
    messages: BTreeMap<MessageId, Slot>,
    /// The highest id ever given out.
    last_id: MessageId,
    log: Log,
    /// Sum of the digest terms of all messages, wrapping; equal on equal copies.
    content_digest: ContentDigest,
    /// Stores not committed yet, in log order.
    pending: VecDeque<(Transaction, MessageId)>,
    /// Mails whose session still waits: pending or held.
    tickets: HashMap<Ticket, MessageId>,
    /// Bytes of the stores not committed yet, as the copies count them.
    pending_bytes: u64,
    ready: BTreeSet<MessageId>,
    deferred: BTreeSet<(u64, MessageId)>,
    attempts_out: u32,
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
    Pending { ticket: Ticket },
    Held { ticket: Ticket },
    Ready,
    Deferred,
    Attempting,
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
            slot.phase = Phase::Ready;
            self.tickets.remove(&ticket);
            self.ready.insert(id);
        }
    }

    /// Removes the mail of that ticket if it is pending or held; returns whether it was.
    pub fn withdraw(&mut self, ticket: Ticket) -> bool {
        let Some(id) = self.tickets.remove(&ticket) else { return false };
        let slot = self.slot_mut(id);
        if matches!(slot.phase, Phase::Pending { .. }) {
            let bytes = slot.stored.body.len() as u64;
            self.pending_bytes -= bytes;
        }
        self.delete(id);
        true
    }

    /// The next message to deliver now, if any: the lowest ready id. Deferred messages whose time
    /// has come count as ready.
    pub fn next_attempt(&mut self, unix_ms: u64) -> Option<Attempt> {
        self.ripen(unix_ms);
        let id = self.ready.pop_first()?;
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

    /// An attempt ended with a transient failure: notes the state and waits until
    /// `state.due_unix_ms`.
    pub fn defer(&mut self, id: MessageId, state: DeliveryState) {
        self.end_attempt(id);
        let record = state.encode();
        let due = state.due_unix_ms;
        let slot = self.slot_mut(id);
        let before = slot.digest_term(id);
        slot.state = state;
        slot.state_record = record.clone();
        slot.state_version = slot.state_version.next();
        slot.phase = Phase::Deferred;
        let version = slot.state_version;
        let after = slot.digest_term(id);
        self.content_digest = self.content_digest.without(before).with(after);
        self.deferred.insert((due, id));
        self.log.push(id, Change::Replace { version, record });
    }

    /// An attempt was not made: the message is ready again, in its old place.
    pub fn put_back(&mut self, id: MessageId) {
        self.end_attempt(id);
        self.slot_mut(id).phase = Phase::Ready;
        self.ready.insert(id);
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
        let phase = if state.due_unix_ms > 0 { Phase::Deferred } else { Phase::Ready };
        match phase {
            Phase::Deferred => _ = self.deferred.insert((state.due_unix_ms, id)),
            _ => _ = self.ready.insert(id),
        }
        self.add(id, stored, state_version, state_record, phase);
        let slot = self.slot_mut(id);
        slot.state = state;
        Ok(())
    }

    /// Recovery is complete: the queue goes on after the given numbers.
    pub fn finish_restore(&mut self, number: Transaction, hash: ChainHash, last_id: MessageId) {
        self.log = Log::starting_after(number, hash);
        self.last_id = last_id.max(self.last_id);
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

    /// Sizes of all contents, for giving their room back when a partial recovery is dropped.
    pub fn content_sizes(&self) -> impl Iterator<Item = usize> {
        self.messages.values().map(|slot| slot.stored.message.content.len())
    }

    /// Attempts handed out and not ended.
    pub fn attempts_out(&self) -> u32 {
        self.attempts_out
    }

    /// Whether a message could be handed out now.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When the next deferred message is due, in milliseconds since 1970.
    pub fn next_due_unix_ms(&self) -> Option<u64> {
        self.deferred.first().map(|(due, _)| *due)
    }

    /// Deferred messages whose time has come are ready.
    pub fn ripen(&mut self, unix_ms: u64) {
        while let Some((due, id)) = self.deferred.first().copied() {
            if due > unix_ms {
                break;
            }
            self.deferred.pop_first();
            self.slot_mut(id).phase = Phase::Ready;
            self.ready.insert(id);
        }
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
        let earlier = self.messages.insert(id, slot);
        assert!(earlier.is_none(), "ids are given out once");
    }

    fn delete(&mut self, id: MessageId) {
        let slot = self.messages.remove(&id).expect("only messages of the queue are deleted");
        self.content_digest = self.content_digest.without(slot.digest_term(id));
        let content_bytes = slot.stored.message.content.len();
        self.log.push(id, Change::Delete { content_bytes });
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

impl Slot {
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

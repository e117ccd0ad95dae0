//! How a copy is brought up that has nothing yet, or lacks something.
//!
//! A copy that has nothing takes new messages *live* from the first, as the log has them. Those that are older come
//! as *back-fill*, in order of their ids, when there is nothing newer to be sent; changes to them are sent when they
//! have been, and before that they are part of what will be. Servers that know no back-fill get everything
//! in order of ids. A copy that lacks a few operations gets what those come to.

use std::collections::VecDeque;

use kvs_proto::{HEADER_SIZE_BYTES, MessageId, Sequence, StateVersion, Transaction};

use super::repair::{Repair, Repairs};
use super::{changing, replace};
use crate::queue::{MailQueue, Snapshot};
use crate::replication::request::{Changing, Operation, Standing};

/// Bytes of messages from before the fill, headers included, that a copy has been sent and has not answered. At the
/// bound the rest waits for answers, so that live changes wait behind no more than this; one message that is
/// longer goes alone.
const OLD_BYTES_MAX: usize = 256 << 10;

/// A fill or repair on its way. Its copy asks for the [`next_step`](Self::next_step), tells what
/// was [sent](Self::note_sent) under which number and what of that was [answered](Self::note_answered).
#[derive(Debug)]
pub(super) struct Fill {
    /// What comes before everything else; of a repair it is everything.
    repairs: Repairs,
    is_repair: bool,
    /// Messages up to this one are back-filled, those above are sent as they come. The highest id: there is no
    /// back-fill, and all messages are sent in order.
    old_end: MessageId,
    /// With back-fill: the changes after this one have been sent as they came.
    live_after: Option<Transaction>,
    at: Position,
    /// Where it was behind the last change that was answered.
    answered: Position,
    /// What was sent and not answered, in sequence.
    sent: VecDeque<Sent>,
    /// Sum of the bytes of old messages in `sent`.
    old_bytes: usize,
    /// Old messages and their bytes that were sent so far.
    filled: (u64, u64),
}

/// Where a fill is.
#[derive(Clone, Copy, Debug)]
struct Position {
    /// The old messages up to this one have been sent.
    cursor: MessageId,
    /// The log's changes up to this one are taken care of. The cursor moves only while this is the log's head, so
    /// what it sends is never older than what was taken care of.
    seen: Transaction,
    /// That message has been sent without its state record.
    owed: Option<MessageId>,
}

#[derive(Debug)]
struct Sent {
    sequence: Sequence,
    /// Where the fill is behind it.
    at: Position,
    old_bytes: usize,
}

/// What is to be sent next.
#[derive(Debug)]
pub(super) enum FillStep {
    /// A change of now.
    Change(Changing),
    /// A message from before the fill, and its bytes.
    Old(Changing, usize),
    /// Everything was sent.
    Complete,
}

impl Fill {
    /// Of a copy that has nothing, in order of ids.
    pub(super) fn in_order(queue: &MailQueue) -> Fill {
        Fill::new(Repairs::default(), queue.log().head(), MessageId(0), MessageId(u64::MAX))
    }

    /// Of a copy that has nothing: with what is not committed yet and all that follows as it comes, and what is
    /// older as back-fill.
    pub(super) fn live(queue: &MailQueue) -> Fill {
        let log = queue.log();
        let pending = queue.first_pending();
        let pending = pending.filter(|(number, _)| log.get(*number).is_some());
        let (after, old_end) = match pending {
            Some((number, id)) => (Transaction(number.0 - 1), MessageId(id.0 - 1)),
            None => (log.head(), queue.last_id()),
        };
        let fill = Fill::new(Repairs::default(), after, MessageId(0), old_end);
        Fill { live_after: Some(after), ..fill }
    }

    /// Of a copy that lacks these operations, the last of which is the log's head.
    ///
    /// # Errors
    /// Why that cannot be done.
    pub(super) fn repair(
        operations: &[Operation],
        queue: &MailQueue,
    ) -> Result<Fill, &'static str> {
        let repairs = Repairs::of(operations, queue)?;
        let everything = MessageId(u64::MAX);
        let fill = Fill::new(repairs, queue.log().head(), everything, everything);
        Ok(Fill { is_repair: true, ..fill })
    }

    fn new(repairs: Repairs, seen: Transaction, cursor: MessageId, old_end: MessageId) -> Fill {
        let at = Position { cursor, seen, owed: None };
        Fill {
            repairs,
            is_repair: false,
            old_end,
            live_after: None,
            at,
            answered: at,
            sent: VecDeque::new(),
            old_bytes: 0,
            filled: (0, 0),
        }
    }

    /// Whether it is a repair.
    pub(super) fn is_repair(&self) -> bool {
        self.is_repair
    }

    /// Whether new messages are sent as they come.
    pub(super) fn is_live(&self) -> bool {
        self.live_after.is_some()
    }

    /// The last change of the log that the copy has, if it takes them as they come and has all
    /// stores that come after `base`.
    pub(super) fn live_up_to(&self, base: Transaction) -> Option<Transaction> {
        let after = self.live_after.filter(|after| *after <= base)?;
        let has = if self.sent.is_empty() { self.at.seen } else { self.answered.seen };
        Some(has.max(after))
    }

    /// The changes of the log that were sent as they came and are answered: those after the first number, up to the
    /// second.
    pub(super) fn live_answered(&self) -> Option<(Transaction, Transaction)> {
        let after = self.live_after?;
        Some((after, self.live_up_to(after)?))
    }

    /// Messages of before the fill that are still to be sent, and their bytes; about so many, as some that were
    /// sent may be gone.
    pub(super) fn left(&self, queue: &MailQueue) -> (u64, u64) {
        let (messages, bytes) = self.filled;
        let left = queue.len() as u64;
        (left.saturating_sub(messages), queue.stored_bytes().saturating_sub(bytes))
    }

    /// The last change of the log that it needs no more, also when what was not answered is lost.
    pub(super) fn log_needed_after(&self) -> Transaction {
        self.answered.seen
    }

    /// What is to be sent next; `None`: nothing as long as `may_send_old` says no to the next message from
    /// before the fill, of so many bytes.
    pub(super) fn next_step(
        &mut self,
        queue: &MailQueue,
        may_send_old: impl FnOnce(usize) -> bool,
    ) -> Option<FillStep> {
        while self.at.seen < queue.log().head() {
            self.at.seen = self.at.seen.next();
            let entry = queue.log().get(self.at.seen).expect("kept from what a fill has seen");
            if self.is_repair {
                self.repairs.add(entry.change.op(), entry.id);
            } else if entry.id <= self.at.cursor || entry.id > self.old_end {
                // Whatever it is to the message with an owed state record, that is out of date.
                self.at.owed = self.at.owed.filter(|owed| *owed != entry.id);
                return Some(FillStep::Change(changing(entry)));
            }
        }
        while let Some(repair) = self.repairs.pop() {
            if let Some(change) = repair_of(repair, queue) {
                return Some(FillStep::Change(change));
            }
        }
        if let Some(snapshot) = self.at.owed.take().and_then(|owed| queue.snapshot(owed)) {
            return Some(FillStep::Change(state_of(&snapshot)));
        }
        let next = queue.snapshots_after(self.at.cursor).next();
        let Some(snapshot) = next.filter(|it| it.id <= self.old_end) else {
            return Some(FillStep::Complete);
        };
        let bytes = HEADER_SIZE_BYTES + snapshot.stored.body.len();
        let fits = self.old_bytes == 0 || self.old_bytes + bytes <= OLD_BYTES_MAX;
        if !fits || !may_send_old(bytes) {
            return None;
        }
        self.at.cursor = snapshot.id;
        self.at.owed = (snapshot.state_version > StateVersion(0)).then_some(snapshot.id);
        let body = snapshot.stored.body.clone();
        self.filled.0 += 1;
        self.filled.1 += body.len() as u64;
        let change = match self.live_after {
            Some(_) => Changing::Backfill(snapshot.id, body),
            None => Changing::Store(snapshot.id, body),
        };
        Some(FillStep::Old(change, bytes))
    }

    /// The last step's change was sent under that number.
    pub(super) fn note_sent(&mut self, sequence: Sequence, old_bytes: usize) {
        self.sent.push_back(Sent { sequence, at: self.at, old_bytes });
        self.old_bytes += old_bytes;
    }

    /// The changes up to that number were answered.
    pub(super) fn note_answered(&mut self, sequence: Sequence) {
        while let Some(sent) = self.sent.front()
            && sent.sequence <= sequence
        {
            self.answered = sent.at;
            self.old_bytes -= sent.old_bytes;
            self.sent.pop_front();
        }
    }

    /// Goes on behind what the server has applied, after the link was down; false if that cannot be known
    /// or done: a repair, or one of which the log has gone on too far.
    pub(super) fn resume(&mut self, standing: &Standing, queue: &MailQueue) -> bool {
        // The queue was made for this fill: nothing was refused, and nobody else has changed it.
        let is_ours = standing.numbers.transaction.0 == standing.sequence.0;
        self.note_answered(standing.sequence);
        self.sent.clear();
        self.old_bytes = 0;
        self.at = self.answered;
        is_ours && !self.is_repair && queue.log().hash_after(self.at.seen).is_some()
    }
}

/// The change that a repair is, as the queue is now.
fn repair_of(repair: Repair, queue: &MailQueue) -> Option<Changing> {
    match repair {
        Repair::Delete(id) => Some(Changing::Delete(id)),
        Repair::Store(id) => {
            queue.snapshot(id).map(|it| Changing::Store(id, it.stored.body.clone()))
        }
        Repair::Replace(id) => queue.snapshot(id).map(|it| state_of(&it)),
    }
}

fn state_of(snapshot: &Snapshot<'_>) -> Changing {
    replace(snapshot.id, snapshot.state_version, snapshot.state_record)
}

//! What a copy that is a little behind needs, from the last operations of one that is not.

use std::collections::BTreeMap;

use kvs_proto::{MessageId, Op};

use crate::queue::MailQueue;
use crate::replication::request::Operation;

/// A change that brings it nearer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Repair {
    Store(MessageId),
    Delete(MessageId),
    Replace(MessageId),
}

/// What operations come to, in their order: a message that came and went is left out, and of the
/// states of a message only the last is set. So a copy that needs all of them has the same
/// history afterwards, and any other has a lower transaction number until its baseline.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// By place in the order; as many as were added and neither taken nor left out.
    repairs: BTreeMap<u64, Repair>,
    /// The place of each.
    places: BTreeMap<Repair, u64>,
    added: u64,
}

impl Repairs {
    /// Of operations of which the last is the queue's last change.
    pub(super) fn of(operations: &[Operation], queue: &MailQueue) -> Result<Repairs, &'static str> {
        let mut repairs = Repairs::default();
        for Operation { op, id, .. } in operations {
            if !matches!(op, Op::Store | Op::Delete | Op::Replace) {
                return Err("an operation that is no change");
            }
            repairs.add(*op, *id);
        }
        let lives = |repair: &Repair| match repair {
            Repair::Store(id) | Repair::Replace(id) => queue.snapshot(*id).is_some(),
            Repair::Delete(_) => true,
        };
        if !repairs.repairs.values().all(lives) {
            return Err("the other copy lacks what its operations say");
        }
        Ok(repairs)
    }

    /// Another operation, behind all others.
    pub(super) fn add(&mut self, op: Op, id: MessageId) {
        match op {
            Op::Store => self.push(Repair::Store(id)),
            Op::Replace => {
                self.leave_out(Repair::Replace(id));
                self.push(Repair::Replace(id));
            }
            Op::Delete => {
                self.leave_out(Repair::Replace(id));
                if !self.leave_out(Repair::Store(id)) {
                    self.push(Repair::Delete(id));
                }
            }
            _ => {}
        }
    }

    /// The next one.
    pub(super) fn pop(&mut self) -> Option<Repair> {
        let (_, repair) = self.repairs.pop_first()?;
        self.places.remove(&repair);
        Some(repair)
    }

    fn push(&mut self, repair: Repair) {
        self.added += 1;
        self.repairs.insert(self.added, repair);
        self.places.insert(repair, self.added);
    }

    /// Returns whether it was there.
    fn leave_out(&mut self, repair: Repair) -> bool {
        let place = self.places.remove(&repair);
        place.is_some_and(|place| self.repairs.remove(&place).is_some())
    }
}

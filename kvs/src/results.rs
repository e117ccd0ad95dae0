//! What a queue remembers of its last changes: how they ended, and what they were.

use std::collections::VecDeque;

use kvs_proto::body::{OPS_PER_REPLY_MAX, OpEntry};
use kvs_proto::{ChainHash, MessageId, Op, Sequence, Status, Transaction};

/// Most changes that a queue remembers. Whoever lags further behind is filled as a whole instead of
/// repaired, and a request repeated from further back is refused as a gap.
pub const IN_FLIGHT_MAX: usize = 16 * 1024;

/// How the changes of the present epoch ended, for requests that come again.
///
/// Nearly all succeed, so only the others are kept: between `known_from` and the last sequence
/// number, whatever is not in `refused` was applied.
#[derive(Debug)]
pub(crate) struct Results {
    /// Ascending; at most [`IN_FLIGHT_MAX`].
    refused: VecDeque<(Sequence, Status)>,
    /// Of lower sequence numbers nothing is known any more.
    known_from: Sequence,
}

impl Default for Results {
    fn default() -> Results {
        Results { refused: VecDeque::new(), known_from: Sequence(1) }
    }
}

impl Results {
    /// Notes a refusal that used up its sequence number.
    pub(crate) fn note_refusal(&mut self, sequence: Sequence, status: Status) {
        if self.refused.len() == IN_FLIGHT_MAX {
            let (oldest, _) = self.refused.pop_front().expect("not empty");
            self.known_from = oldest.next();
        }
        self.refused.push_back((sequence, status));
    }

    /// Results below `floor` are not asked for any more.
    #[inline]
    pub(crate) fn trim(&mut self, floor: Sequence) {
        if floor > self.known_from {
            self.known_from = floor;
        }
        while self.refused.front().is_some_and(|(sequence, _)| *sequence < floor) {
            self.refused.pop_front();
        }
    }

    /// Whether there are refusals that the owner may not have heard of.
    pub(crate) fn has_refusals(&self) -> bool {
        !self.refused.is_empty()
    }

    /// How an earlier change ended; `None` if that is forgotten.
    pub(crate) fn get(&self, sequence: Sequence) -> Option<Status> {
        if sequence < self.known_from {
            return None;
        }
        let place = self.refused.binary_search_by_key(&sequence, |(sequence, _)| *sequence);
        Some(place.map_or(Status::Ok, |place| self.refused[place].1))
    }
}

/// The last changes that were applied, across epochs, from which a new owner repairs a copy that is
/// a little behind.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    /// Consecutive transaction numbers; the last is the queue's. At most [`IN_FLIGHT_MAX`].
    entries: VecDeque<Entry>,
    /// So many of them, at the front, belong to earlier epochs.
    earlier: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    message: MessageId,
    digest: u64,
    chain: ChainHash,
    /// In the epoch in which it was applied.
    sequence: Sequence,
    op: Op,
}

impl Operations {
    /// Notes a change.
    #[inline]
    pub(crate) fn push(
        &mut self,
        op: Op,
        message: MessageId,
        digest: u64,
        chain: ChainHash,
        sequence: Sequence,
    ) {
        if self.entries.len() == IN_FLIGHT_MAX {
            self.pop();
        }
        self.entries.push_back(Entry { message, digest, chain, sequence, op });
    }

    /// All copies have answered everything below `floor` of the present epoch.
    #[inline]
    pub(crate) fn trim(&mut self, floor: Sequence) {
        // The first changes of an epoch have nothing below them, and must not forget what the
        // epoch before left behind.
        if floor <= Sequence(1) {
            return;
        }
        while let Some(entry) = self.entries.front()
            && (self.earlier > 0 || entry.sequence < floor)
        {
            self.pop();
        }
        // Thousands of queues that were busy once must not keep what they needed then.
        if self.entries.capacity() > KEPT_ENTRIES
            && self.entries.len() < self.entries.capacity() / 8
        {
            self.entries.shrink_to(self.entries.capacity() / 2);
        }
    }

    /// How many are known.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Sequence numbers start again.
    pub(crate) fn begin_epoch(&mut self) {
        self.earlier = self.entries.len();
    }

    /// Forgets all: the transaction number is going to jump.
    pub(crate) fn clear(&mut self) {
        self.entries = VecDeque::new();
        self.earlier = 0;
    }

    /// Entries after the transaction number `after`, at most [`OPS_PER_REPLY_MAX`], given the
    /// queue's own. `None` if the first of them is forgotten.
    pub(crate) fn after(
        &self,
        after: Transaction,
        own: Transaction,
    ) -> Option<impl Iterator<Item = OpEntry>> {
        let wanted = usize::try_from(own.0.saturating_sub(after.0)).ok()?;
        let skip = self.entries.len().checked_sub(wanted)?;
        let entries = self.entries.iter().skip(skip).take(OPS_PER_REPLY_MAX);
        Some(entries.zip(after.0.saturating_add(1)..).map(|(entry, number)| OpEntry {
            transaction: Transaction(number),
            message: entry.message,
            digest: entry.digest,
            chain: entry.chain,
            op: entry.op,
        }))
    }

    #[inline]
    fn pop(&mut self) {
        self.entries.pop_front();
        self.earlier = self.earlier.saturating_sub(1);
    }
}

/// Room for so many operations is not given back: some 10 KB.
const KEPT_ENTRIES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_known_from_the_floor_on() {
        let mut results = Results::default();
        results.note_refusal(Sequence(3), Status::QueueFull);
        results.note_refusal(Sequence(5), Status::NotFound);
        assert_eq!(results.get(Sequence(4)), Some(Status::Ok));
        assert_eq!(results.get(Sequence(5)), Some(Status::NotFound));
        results.trim(Sequence(4));
        assert_eq!(results.get(Sequence(3)), None);
        assert_eq!(results.get(Sequence(5)), Some(Status::NotFound));
    }

    #[test]
    fn refusals_are_bounded_and_what_is_dropped_is_not_taken_for_success() {
        let mut results = Results::default();
        for number in 1..=IN_FLIGHT_MAX as u64 + 1 {
            results.note_refusal(Sequence(number), Status::QueueFull);
        }
        assert_eq!(results.get(Sequence(1)), None);
        assert_eq!(results.get(Sequence(2)), Some(Status::QueueFull));
    }

    fn pushed(count: u64) -> Operations {
        let mut operations = Operations::default();
        for number in 1..=count {
            let (id, chain) = (MessageId(number * 10), ChainHash(number));
            operations.push(Op::Store, id, 0, chain, Sequence(number));
        }
        operations
    }

    fn numbers(operations: &Operations, after: u64, own: u64) -> Option<Vec<u64>> {
        let entries = operations.after(Transaction(after), Transaction(own))?;
        Some(entries.map(|entry| entry.transaction.0).collect())
    }

    #[test]
    fn operations_are_numbered_and_trimmed() {
        let mut operations = pushed(5);
        assert_eq!(numbers(&operations, 2, 5), Some(vec![3, 4, 5]));
        assert_eq!(numbers(&operations, 5, 5), Some(vec![]));
        assert_eq!(numbers(&operations, u64::MAX, 5), Some(vec![]));
        operations.trim(Sequence(3));
        assert_eq!(numbers(&operations, 2, 5), Some(vec![3, 4, 5]));
        assert_eq!(numbers(&operations, 1, 5), None);
    }

    #[test]
    fn operations_of_an_earlier_epoch_outlive_the_first_change_of_the_next() {
        let mut operations = pushed(3);
        operations.begin_epoch();
        operations.trim(Sequence(1));
        operations.push(Op::Delete, MessageId(10), 0, ChainHash(4), Sequence(1));
        assert_eq!(numbers(&operations, 0, 4), Some(vec![1, 2, 3, 4]));
        operations.push(Op::Delete, MessageId(20), 0, ChainHash(5), Sequence(2));
        operations.trim(Sequence(2));
        assert_eq!(numbers(&operations, 4, 5), Some(vec![5]));
        assert_eq!(numbers(&operations, 3, 5), None);
    }

    #[test]
    fn the_memory_of_trimmed_operations_comes_back() {
        let mut operations = pushed(IN_FLIGHT_MAX as u64);
        for floor in 2..=IN_FLIGHT_MAX as u64 {
            operations.trim(Sequence(floor));
        }
        assert!(operations.entries.capacity() <= KEPT_ENTRIES * 2);
        let own = IN_FLIGHT_MAX as u64;
        assert_eq!(numbers(&operations, own - 1, own), Some(vec![own]));
    }

    #[test]
    fn operations_are_bounded() {
        let operations = pushed(IN_FLIGHT_MAX as u64 + 7);
        let own = IN_FLIGHT_MAX as u64 + 7;
        assert_eq!(numbers(&operations, 6, own), None);
        assert_eq!(numbers(&operations, 7, own).unwrap().len(), OPS_PER_REPLY_MAX);
    }
}

//! The changes of one queue, in the one order in which every copy applies them.
//!
//! Each change has a transaction number; a copy is described by how far in this log it has come.
//! Entries stay until every copy that counts has answered them, so that a resumed connection can
//! be served again. A stored message stays in memory with its entry.

use std::collections::VecDeque;

use bytes::Bytes;
use kvs_proto::{ChainHash, MessageId, Op, StateVersion, Transaction};

use crate::message::StoredMessage;

/// One change.
#[derive(Clone, Debug)]
pub enum Change {
    /// The message was appended.
    Store(StoredMessage),
    /// The message was removed.
    Delete {
        /// What it is counted with ([`Message::counted_bytes`](crate::message::Message::counted_bytes)): it is in memory until this entry is forgotten: its `Store` may
        /// be in the log still.
        counted_bytes: usize,
    },
    /// The message's state record was set.
    Replace {
        /// Grows with each replace of that message.
        version: StateVersion,
        /// The record.
        record: Bytes,
    },
}

impl Change {
    /// What goes into the hash chain for this change.
    pub fn digest(&self) -> u64 {
        match self {
            Change::Store(stored) => stored.body.digest().0,
            Change::Delete { .. } => 0,
            Change::Replace { version, record } => kvs_proto::state_digest(*version, record).0,
        }
    }

    /// The request that asks a copy for it.
    pub fn op(&self) -> Op {
        match self {
            Change::Store(_) => Op::Store,
            Change::Delete { .. } => Op::Delete,
            Change::Replace { .. } => Op::Replace,
        }
    }
}

/// One entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which message.
    pub id: MessageId,
    /// What was done to it.
    pub change: Change,
    /// The hash chain after it.
    pub hash: ChainHash,
    /// Bytes of all messages that were stored by the log's changes up to this one.
    stored_bytes: u64,
}

/// Messages that are in memory no more.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Freed {
    /// How many.
    pub messages: usize,
    /// Sum of what they were counted with.
    pub counted_bytes: usize,
}

/// The log. `base <= head`; entries are those of `base + 1 ..= head`.
#[derive(Debug, Default)]
pub struct Log {
    base: Transaction,
    base_hash: ChainHash,
    /// What [`Entry::stored_bytes`] was at the base.
    base_bytes: u64,
    entries: VecDeque<Entry>,
}

impl Log {
    /// An empty log that goes on after the given transaction number and hash.
    pub fn starting_after(base: Transaction, base_hash: ChainHash) -> Log {
        Log { base, base_hash, ..Log::default() }
    }

    /// Appends a change and returns its transaction number.
    pub fn push(&mut self, id: MessageId, change: Change) -> Transaction {
        let hash = kvs_proto::chain(self.head_hash(), change.op(), id, change.digest());
        let length = if let Change::Store(stored) = &change { stored.body.len() as u64 } else { 0 };
        let stored_bytes = self.stored_bytes_after(self.head()) + length;
        self.entries.push_back(Entry { id, change, hash, stored_bytes });
        self.head()
    }

    /// The number of the last change.
    pub fn head(&self) -> Transaction {
        Transaction(self.base.0 + self.entries.len() as u64)
    }

    /// The hash chain after the last change.
    pub fn head_hash(&self) -> ChainHash {
        self.entries.back().map_or(self.base_hash, |entry| entry.hash)
    }

    /// Entries kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no entry is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The change of that number, if it is kept.
    pub fn get(&self, number: Transaction) -> Option<&Entry> {
        let place = number.0.checked_sub(self.base.0 + 1)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    /// The hash chain after change `number`, if that is still known.
    pub fn hash_after(&self, number: Transaction) -> Option<ChainHash> {
        if number == self.base {
            return Some(self.base_hash);
        }
        self.get(number).map(|entry| entry.hash)
    }

    /// Bytes of the messages that were stored by the changes after `number`, as far as those are kept.
    pub fn bytes_after(&self, number: Transaction) -> u64 {
        self.stored_bytes_after(self.head()) - self.stored_bytes_after(number)
    }

    /// The first message that was stored after change `number`, if it is kept. Looks at few entries,
    /// however many there are.
    pub fn first_store_after(&self, number: Transaction) -> Option<&StoredMessage> {
        let bytes = self.stored_bytes_after(number);
        // No body is empty.
        let place = self.entries.partition_point(|entry| entry.stored_bytes <= bytes);
        match &self.entries.get(place)?.change {
            Change::Store(stored) => Some(stored),
            Change::Delete { .. } | Change::Replace { .. } => None,
        }
    }

    fn stored_bytes_after(&self, number: Transaction) -> u64 {
        let number = number.min(self.head());
        self.get(number).map_or(self.base_bytes, |entry| entry.stored_bytes)
    }

    /// Forgets the changes up to and with `number`; returns what was deleted by them.
    pub fn trim(&mut self, number: Transaction) -> Freed {
        let mut freed = Freed::default();
        while self.base < number {
            let Some(entry) = self.entries.pop_front() else { break };
            self.base = self.base.next();
            self.base_hash = entry.hash;
            self.base_bytes = entry.stored_bytes;
            if let Change::Delete { counted_bytes } = entry.change {
                freed.messages += 1;
                freed.counted_bytes += counted_bytes;
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::message;

    fn log_of(count: u64) -> Log {
        let mut log = Log::default();
        for id in 1..=count {
            log.push(MessageId(id), Change::Delete { counted_bytes: 1 });
        }
        log
    }

    #[test]
    fn numbers_are_consecutive_and_survive_trimming() {
        let mut log = log_of(10);
        assert_eq!(log.head(), Transaction(10));
        let hash_after_4 = log.hash_after(Transaction(4)).unwrap();
        let freed = log.trim(Transaction(4));
        assert_eq!(freed, Freed { messages: 4, counted_bytes: 4 });
        assert_eq!(log.head(), Transaction(10));
        assert_eq!(log.len(), 6);
        assert!(log.get(Transaction(4)).is_none());
        assert_eq!(log.get(Transaction(5)).unwrap().id, MessageId(5));
        assert_eq!(log.hash_after(Transaction(4)), Some(hash_after_4));
        assert_eq!(log.hash_after(Transaction(3)), None);
        assert!(log.get(Transaction(11)).is_none());
    }

    #[test]
    fn the_chain_depends_on_order_and_content() {
        let mut one = Log::default();
        one.push(MessageId(1), Change::Delete { counted_bytes: 1 });
        one.push(MessageId(2), Change::Delete { counted_bytes: 1 });
        let mut other = Log::default();
        other.push(MessageId(2), Change::Delete { counted_bytes: 1 });
        other.push(MessageId(1), Change::Delete { counted_bytes: 1 });
        assert_ne!(one.head_hash(), other.head_hash());
        let mut replaced = Log::default();
        replaced
            .push(MessageId(1), Change::Replace { version: StateVersion(1), record: Bytes::new() });
        let mut again = Log::default();
        again
            .push(MessageId(1), Change::Replace { version: StateVersion(2), record: Bytes::new() });
        assert_ne!(replaced.head_hash(), again.head_hash());
    }

    #[test]
    fn what_a_copy_lacks_is_told_in_bytes_with_the_oldest_message() {
        let stored = |content| StoredMessage::new(message(content));
        let mut log = Log::starting_after(Transaction(7), ChainHash(1));
        assert_eq!(log.bytes_after(Transaction(7)), 0);
        let bodies = [stored("one"), stored("and two")];
        let lengths = bodies.clone().map(|it| it.body.len() as u64);
        for (id, body) in (1..).zip(bodies.clone()) {
            log.push(MessageId(id), Change::Delete { counted_bytes: 1 });
            log.push(MessageId(id), Change::Store(body));
        }
        let first = |log: &Log, number| {
            log.first_store_after(Transaction(number)).map(|it| it.body.len() as u64)
        };
        for trimmed in 7..=9 {
            log.trim(Transaction(trimmed));
            assert_eq!(log.bytes_after(Transaction(9)), lengths[1]);
            assert_eq!(first(&log, 9), Some(lengths[1]));
            assert_eq!(log.bytes_after(Transaction(11)), 0);
            assert_eq!(first(&log, 11), None);
        }
        log.trim(Transaction(11));
        assert_eq!(log.bytes_after(Transaction(0)), 0);
        assert_eq!(log.bytes_after(Transaction(99)), 0);
    }

    #[test]
    fn trimming_everything_keeps_the_head() {
        let mut log = log_of(3);
        let hash = log.head_hash();
        log.trim(Transaction(9));
        assert!(log.is_empty());
        assert_eq!((log.head(), log.head_hash()), (Transaction(3), hash));
    }
}

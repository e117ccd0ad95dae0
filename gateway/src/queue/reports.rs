//! Which messages have something to be told to their senders, and when that is tried.

use std::collections::{BTreeMap, BTreeSet};

use kvs_proto::{MessageId, Transaction};

/// The messages of a queue with a report due: failures, deliveries, or a delay. At most all
/// messages of the queue; usually none.
#[derive(Debug, Default)]
pub(super) struct ReportList {
    entries: BTreeMap<MessageId, Entry>,
    /// Those that nothing else is being done to, by due time.
    available: BTreeSet<(u64, MessageId)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// In milliseconds since 1970; 0: at once.
    due_unix_ms: u64,
    /// Tries in vain.
    tries: u16,
    /// Its report tells of this change, so the copies must have it before. A sender is never told
    /// what a crash could take back.
    after: Transaction,
    /// It is old enough for a delay warning.
    is_delayed: bool,
}

impl ReportList {
    /// Notes that a message has something to be told, which the change `after` says. Handed out
    /// after [`show`](Self::show).
    pub(super) fn add(&mut self, id: MessageId, after: Transaction) {
        self.entries.entry(id).or_default().after = after;
    }

    /// Notes that a message is old enough for a delay warning. Handed out after
    /// [`show`](Self::show).
    pub(super) fn add_delayed(&mut self, id: MessageId) {
        self.entries.entry(id).or_default().is_delayed = true;
    }

    /// Whether a message is old enough for a delay warning.
    pub(super) fn is_delayed(&self, id: MessageId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.is_delayed)
    }

    /// Nothing else is being done to the message: its report may be handed out, if it has one.
    pub(super) fn show(&mut self, id: MessageId) {
        if let Some(entry) = self.entries.get(&id) {
            self.available.insert((entry.due_unix_ms, id));
        }
    }

    /// Undoes [`show`](Self::show).
    pub(super) fn hide(&mut self, id: MessageId) {
        if let Some(entry) = self.entries.get(&id) {
            self.available.remove(&(entry.due_unix_ms, id));
        }
    }

    /// The message has nothing to be told (any more).
    pub(super) fn remove(&mut self, id: MessageId) {
        self.hide(id);
        self.entries.remove(&id);
    }

    /// The next message whose report can be tried now. It stays available.
    pub(super) fn next(&self, unix_ms: u64, committed: Transaction) -> Next {
        let Some((due, id)) = self.available.first() else { return Next::None };
        if *due > unix_ms {
            Next::None
        } else if self.entries[id].after > committed {
            Next::Uncommitted
        } else {
            Next::Message(*id)
        }
    }

    /// A try was in vain: the message is not handed out before then. Hides it.
    pub(super) fn postpone(&mut self, id: MessageId, due_unix_ms: u64) {
        self.hide(id);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.due_unix_ms = due_unix_ms;
            entry.tries = entry.tries.saturating_add(1);
        }
    }

    /// How often the message's report was tried in vain.
    pub(super) fn tries(&self, id: MessageId) -> u16 {
        self.entries.get(&id).map_or(0, |entry| entry.tries)
    }

    /// When the next is due, in milliseconds since 1970.
    pub(super) fn next_due_unix_ms(&self) -> Option<u64> {
        self.available.first().map(|(due, _)| *due)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// What [`ReportList::next`] finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Nothing is due now.
    None,
    /// What is due is not yet with every copy.
    Uncommitted,
    /// This one.
    Message(MessageId),
}

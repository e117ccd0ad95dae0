//! What the sessions of one worker share.

use kvs_proto::auth::Secret;
use kvs_proto::body::Limits;
use kvs_proto::{Incarnation, Version};

use super::Presence;
use crate::counters::Counters;
use crate::table::QueueTable;

/// What the sessions of one worker share.
#[derive(Debug)]
pub struct Shared {
    /// The queues.
    pub table: QueueTable,
    /// What is counted.
    pub counters: Counters,
    /// Who may connect.
    pub accounts: Accounts,
    /// Which life of the server this is.
    pub incarnation: Incarnation,
    /// The bounds that clients are told.
    pub limits: Limits,
    /// When owners were last heard from.
    pub presence: Presence,
    /// The highest version that is spoken.
    pub version_max: Version,
}

/// Who may connect.
#[derive(Clone, Debug)]
pub struct Accounts(Vec<Account>);

/// One who may connect.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name, 1 to 64 bytes.
    pub name: String,
    /// What it proves to know.
    pub secret: Secret,
    /// It may use the queues whose names begin so; empty: all.
    pub queues: String,
}

impl Accounts {
    /// Those.
    pub fn new(accounts: Vec<Account>) -> Accounts {
        Accounts(accounts)
    }

    /// The place of the account with that name.
    pub(super) fn find(&self, name: &[u8]) -> Option<usize> {
        self.0.iter().position(|account| account.name.as_bytes() == name)
    }

    pub(super) fn get(&self, place: usize) -> &Account {
        &self.0[place]
    }
}

impl Shared {
    /// Brings the counters up to date that tell a state.
    pub(super) fn refresh_counters(&mut self) {
        use kvs_proto::body::Counter;
        let arena = self.table.arena();
        let (messages, bytes) = arena.live();
        let numbers = [
            (Counter::Queues, self.table.len() as u64),
            (Counter::Messages, messages),
            (Counter::MessageBytes, bytes),
            (Counter::ArenaBytes, arena.size_bytes() as u64),
            (Counter::ArenaBytesFree, arena.free_bytes() as u64),
            (Counter::BytesMoved, arena.bytes_moved()),
        ];
        for (counter, value) in numbers {
            self.counters.set(counter, value);
        }
    }
}

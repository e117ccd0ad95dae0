//! What all sessions of a front share.

use std::collections::VecDeque;
use std::sync::Arc;

use tcpstack::Instant;

use super::commits::Commits;
use super::trace::MailId;
use crate::api::Command;
use crate::board::Board;
use crate::front::config::ReceptionConfig;
use crate::front::counters::ReceptionCounters;

/// What a session needs beside itself to apply an event.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) config: ReceptionConfig,
    pub(super) hostname: Box<str>,
    /// By index, for records.
    pub(super) queue_names: Vec<Box<str>>,
    /// The front's number.
    pub(super) number: u16,
    pub(super) board: Arc<Board>,
    pub(super) commits: Commits,
    /// To the shards. Drained by the worker each turn; a session adds at most one per queue of its
    /// message, and then waits.
    pub(super) commands: VecDeque<Command>,
    pub(super) counters: ReceptionCounters,
    /// Time of this turn.
    pub(super) now: Instant,
    pub(super) unix_ms: u64,
    pub(super) next_serial: u64,
    pub(super) is_stopping: bool,
}

impl Desk {
    pub(super) fn next_mail_id(&mut self) -> MailId {
        let serial = self.next_serial;
        self.next_serial += 1;
        MailId { unix_ms: self.unix_ms, front: self.number, serial }
    }
}

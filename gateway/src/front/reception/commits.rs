//! Mails that are with the shards and not answered yet.

use std::collections::{HashMap, VecDeque};

use kvs_proto::MessageId;
use tcpstack::{ConnectionId, Instant};

use super::trace::MailId;
use crate::message::{MessageRef, QueueIndex};

/// A mail of which each queue must tell whether it is committed.
#[derive(Debug)]
pub(super) struct WaitingMail {
    /// Who waits for the answer; none when the client has gone.
    pub(super) session: Option<ConnectionId>,
    pub(super) id: MailId,
    /// One for each queue of the mail.
    pub(super) parts: Vec<Part>,
}

/// The mail in one of its queues.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) queue: QueueIndex,
    pub(super) message: MessageRef,
    /// Its id there once committed.
    pub(super) committed: Option<MessageId>,
}

/// All waiting mails, by serial number. Bounded by the number of sessions (each waits for one),
/// and by the commit time-out for those whose client has gone.
#[derive(Default, Debug)]
pub(super) struct Commits {
    waiting: HashMap<u64, WaitingMail>,
    /// Deadlines, in order, for all have the same time. May name mails that are answered.
    deadlines: VecDeque<(Instant, u64)>,
}

/// What a notice about a part means for the mail.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nobody waits for it.
    Unknown,
    /// Other parts are open.
    Open,
    /// This was the last part: the mail is safe.
    Safe(WaitingMail),
}

impl Commits {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn insert(&mut self, deadline: Instant, mail: WaitingMail) {
        let serial = mail.id.serial;
        self.deadlines.push_back((deadline, serial));
        let old = self.waiting.insert(serial, mail);
        assert!(old.is_none(), "a ticket was used twice");
    }

    /// Notes that the mail is committed in one queue.
    pub(super) fn commit(&mut self, serial: u64, queue: QueueIndex, id: MessageId) -> Progress {
        let Some(mail) = self.waiting.get_mut(&serial) else { return Progress::Unknown };
        let Some(part) = mail.parts.iter_mut().find(|part| part.queue == queue) else {
            return Progress::Unknown;
        };
        part.committed = Some(id);
        if mail.parts.iter().any(|part| part.committed.is_none()) {
            return Progress::Open;
        }
        self.waiting.remove(&serial).map_or(Progress::Unknown, Progress::Safe)
    }

    /// Takes a mail out: it was refused somewhere.
    pub(super) fn remove(&mut self, serial: u64) -> Option<WaitingMail> {
        self.waiting.remove(&serial)
    }

    /// The client of a mail has gone: it needs no answer.
    pub(super) fn forget_session(&mut self, serial: u64) {
        if let Some(mail) = self.waiting.get_mut(&serial) {
            mail.session = None;
        }
    }

    /// A mail whose time has passed.
    pub(super) fn poll_expired(&mut self, now: Instant) -> Option<WaitingMail> {
        while let Some((at, serial)) = self.deadlines.front() {
            if *at > now && self.waiting.contains_key(serial) {
                return None;
            }
            let mail = self.waiting.remove(serial);
            self.deadlines.pop_front();
            if mail.is_some() {
                return mail;
            }
        }
        None
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(at, _)| *at)
    }
}

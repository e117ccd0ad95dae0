//! Reports to senders (DSN): made here, and stored like any other mail.
//!
//! A report goes its way in one order. Its mail is stored in the queue of the sender's domain. When
//! that is committed, it is released there, and only then the shard that has the original hears that
//! the report is done. A crash in between repeats the same report, and loses none. What cannot be
//! committed in time is withdrawn, never to be delivered, and the original stays.

mod compose;
mod returned;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kvs_proto::MessageId;
use smtp::{Notify, Protocol};
use tcpstack::Instant;

pub use self::compose::REPORT_SIZE_BYTES_MAX;

use self::compose::{Dsn, Origin, compose};
use super::config::{DeliveryConfig, FrontConfig, ReceptionConfig, ReportConfig, Routes};
use super::counters::ReportCounters;
use super::domains::split_address;
use super::record;
use crate::api::{Command, Report, ReportKind, ReportOutcome, Ticket};
use crate::board::Board;
use crate::message::{Envelope, Message, MessageRef, QueueIndex, Recipient};

/// The maker of reports of a front.
///
/// Inputs: [`handle_report`](Self::handle_report), and [`handle_committed`](Self::handle_committed)
/// and [`handle_refused`](Self::handle_refused) for tickets that [`is_ours`]. Each report is
/// answered once, by the commands that [`poll_command`](Self::poll_command) gives.
#[derive(Debug)]
pub(super) struct Reports {
    config: ReportConfig,
    hostname: Box<str>,
    number: u16,
    /// By index.
    queues: Vec<Queue>,
    routes: Routes,
    commit_timeout: Duration,
    board: Arc<Board>,
    /// Stored and not committed, by serial number. At most as many as the shards hand out.
    waiting: HashMap<u64, Waiting>,
    /// In order, for all have the same time. May name reports that are answered.
    deadlines: VecDeque<(Instant, u64)>,
    /// To the shards; drained by the worker each turn.
    commands: VecDeque<Command>,
    counters: ReportCounters,
    now: Instant,
    unix_ms: u64,
    next_serial: u64,
    is_stopping: bool,
}

#[derive(Debug)]
struct Queue {
    name: Box<str>,
    /// Its next hops are mailbox servers.
    is_final_hop: bool,
    /// The last report that should have gone there was postponed: that is logged once.
    is_short: bool,
}

/// A report that waits for its commit.
#[derive(Debug)]
struct Waiting {
    /// Where the message is that it tells of.
    origin: (QueueIndex, MessageId),
    covered: usize,
    /// The queue that it was stored in.
    target: QueueIndex,
    name: String,
    mail: MessageRef,
}

/// Whether the ticket is that of a report. Mail that was received has tickets below.
pub(super) fn is_ours(ticket: Ticket) -> bool {
    ticket.serial >= SERIAL_FIRST
}

const SERIAL_FIRST: u64 = 1 << 63;

impl Reports {
    pub(super) fn new(config: &FrontConfig, board: Arc<Board>) -> Reports {
        let queue = |to: &super::config::Destination| Queue {
            name: to.queue_name.clone(),
            is_final_hop: to.protocol == Protocol::Lmtp,
            is_short: false,
        };
        Reports {
            config: config.reports.clone(),
            hostname: config.hostname.clone(),
            number: config.number,
            queues: config.delivery.destinations.iter().map(queue).collect(),
            routes: config.reception.routes.clone(),
            commit_timeout: config.reception.commit_timeout,
            board,
            waiting: HashMap::new(),
            deadlines: VecDeque::new(),
            commands: VecDeque::new(),
            counters: ReportCounters::default(),
            now: Instant::ZERO,
            unix_ms: 0,
            next_serial: SERIAL_FIRST,
            is_stopping: false,
        }
    }

    /// Works by another configuration from now on, of the same queues.
    pub(super) fn reconfigure(
        &mut self,
        reception: &ReceptionConfig,
        delivery: &DeliveryConfig,
        config: &ReportConfig,
    ) {
        assert_eq!(delivery.destinations.len(), self.queues.len(), "the queues stay");
        for (queue, to) in self.queues.iter_mut().zip(&delivery.destinations) {
            queue.is_final_hop = to.protocol == Protocol::Lmtp;
        }
        self.config = config.clone();
        self.routes = reception.routes.clone();
        self.commit_timeout = reception.commit_timeout;
    }

    pub(super) fn set_time(&mut self, now: Instant, unix_ms: u64) {
        self.now = now;
        self.unix_ms = unix_ms;
    }

    /// A report to make, about the message with that id in that queue.
    pub(super) fn handle_report(&mut self, queue: QueueIndex, id: MessageId, report: &Report) {
        let origin = (queue, id);
        if self.is_stopping {
            return self.postpone(origin);
        }
        let sender = &report.message.envelope.reverse_path;
        let Some(target) = self.target_of(sender) else {
            self.counters.dropped += 1;
            record::report_dropped(&self.queues[place(queue)].name, id, sender);
            return self.finish(origin, usize::MAX);
        };
        if !self.board.is_accepting(target) {
            return self.postpone_for(origin, target);
        }
        let dsn = compose(&self.origin(queue, id), report);
        let mail = self.mail(&dsn, &report.message.envelope);
        // With it the message goes, so it makes more room than it takes.
        let is_last = report.kind == ReportKind::Final
            && !report.state.has_open(report.message.envelope.recipients.len());
        let reserved = match is_last {
            true => self.board.reserve_last(target, mail.counted_bytes()),
            false => self.board.reserve(target, mail.counted_bytes()),
        };
        if reserved.is_err() {
            return self.postpone_for(origin, target);
        }
        if std::mem::take(&mut self.queues[place(target)].is_short) {
            let queue = &self.queues[place(target)].name;
            tracing::info!(queue, "reports to senders are taken again");
        }
        let Dsn { name, covered, .. } = dsn;
        self.store(Waiting { origin, covered, target, name, mail });
    }

    /// A report is safe: it may be delivered, and what it tells is done.
    pub(super) fn handle_committed(&mut self, ticket: Ticket, queue: QueueIndex, id: MessageId) {
        let Some(waiting) = self.waiting.remove(&ticket.serial) else {
            // It crossed its withdrawal.
            return self.counters.late_notices += 1;
        };
        self.commands.push_back(Command::Release { queue, id });
        self.counters.reported += 1;
        let Waiting { origin, covered, target, name, mail } = waiting;
        record::reported(&record::Reported {
            queue: &self.queues[place(origin.0)].name,
            id: origin.1,
            report: &name,
            to: &mail.envelope.recipients[0].address,
            recipients: covered,
            report_queue: &self.queues[place(target)].name,
            report_id: id,
            size_bytes: mail.content.len(),
        });
        self.finish(origin, covered);
    }

    /// A report was not taken, and is nowhere.
    pub(super) fn handle_refused(&mut self, ticket: Ticket) {
        match self.waiting.remove(&ticket.serial) {
            Some(waiting) => self.postpone_for(waiting.origin, waiting.target),
            None => self.counters.late_notices += 1,
        }
    }

    /// Withdraws what was not committed in time.
    pub(super) fn maintain(&mut self) {
        while let Some((at, serial)) = self.deadlines.front().copied() {
            if at > self.now && self.waiting.contains_key(&serial) {
                break;
            }
            self.deadlines.pop_front();
            if let Some(Waiting { origin, target, .. }) = self.waiting.remove(&serial) {
                let ticket = Ticket { front: self.number, serial };
                self.commands.push_back(Command::Withdraw { queue: target, ticket });
                self.postpone_for(origin, target);
            }
        }
    }

    /// No more reports are begun. Those under way are finished.
    pub(super) fn stop(&mut self) {
        self.is_stopping = true;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.commands.is_empty()
    }

    pub(super) fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(at, _)| *at)
    }

    pub(super) fn counters(&self) -> ReportCounters {
        let waiting = u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        ReportCounters { waiting, ..self.counters }
    }

    fn origin(&self, queue: QueueIndex, id: MessageId) -> Origin<'_> {
        let Queue { name, is_final_hop, .. } = &self.queues[place(queue)];
        Origin {
            hostname: &self.hostname,
            gateway: &self.config.gateway,
            queue: name,
            id,
            is_final_hop: *is_final_hop,
            content_max: self.config.content_max,
        }
    }

    /// The queue for mail to a sender: that of its domain, or the one that is configured for those
    /// that have no route.
    fn target_of(&self, reverse_path: &str) -> Option<QueueIndex> {
        self.routes.queue_for(domain_of(reverse_path)).or(self.config.queue)
    }

    /// A DSN as mail to the sender of the original.
    fn mail(&self, dsn: &Dsn, original: &Envelope) -> MessageRef {
        let Dsn { eight_bit, utf8, leading_dot, .. } = *dsn;
        let mut recipient = Recipient::new(original.reverse_path.clone());
        // Nothing is ever told about a DSN (RFC 3461 §6.1).
        recipient.notify = Some(Notify::NEVER);
        let envelope = Envelope {
            eight_bit,
            utf8,
            leading_dot,
            priority: original.priority,
            accepted_unix_ms: self.unix_ms,
            ..Envelope::new("", vec![recipient])
        };
        MessageRef::new(Message { envelope, content: dsn.content.clone() })
    }

    fn store(&mut self, waiting: Waiting) {
        let serial = self.next_serial;
        self.next_serial += 1;
        let ticket = Ticket { front: self.number, serial };
        let message = MessageRef::clone(&waiting.mail);
        self.commands.push_back(Command::Store { queue: waiting.target, ticket, message });
        self.deadlines.push_back((self.now + self.commit_timeout, serial));
        self.waiting.insert(serial, waiting);
    }

    fn finish(&mut self, (queue, id): (QueueIndex, MessageId), covered: usize) {
        let outcome = ReportOutcome::Done { covered };
        self.commands.push_back(Command::ReportOutcome { queue, id, outcome });
    }

    fn postpone_for(&mut self, origin: (QueueIndex, MessageId), target: QueueIndex) {
        let Queue { name, is_short, .. } = &mut self.queues[place(target)];
        if !std::mem::replace(is_short, true) {
            tracing::warn!(queue = name, "no room or copies for reports to senders: they wait");
        }
        self.postpone(origin);
    }

    fn postpone(&mut self, (queue, id): (QueueIndex, MessageId)) {
        self.counters.postponed += 1;
        let outcome = ReportOutcome::Postponed;
        self.commands.push_back(Command::ReportOutcome { queue, id, outcome });
    }
}

/// The domain, or address literal, of a path that was checked when it came in.
fn domain_of(path: &str) -> &str {
    split_address(path).map_or("", |(_, domain)| domain)
}

fn place(queue: QueueIndex) -> usize {
    queue.0 as usize
}

//! The SMTP side: reception, delivery, and reports to senders, on one transport.
//!
//! A [`Front`] owns an SMTP transport with its listeners, server sessions and delivery lanes. It
//! holds no queue: mail goes to the shards as [`Command`]s and comes back as [`Notice`]s.

mod addresses;
mod config;
mod connections;
mod counters;
mod date;
mod delivery;
mod domains;
mod networks;
mod policy;
mod reception;
mod record;
mod report;
#[cfg(test)]
mod tests;
mod timers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kvs_proto::MessageId;
use tcpstack::{Event, Instant, Transport};

pub use self::addresses::AddressSet;
pub use self::config::{
    DeliveryConfig, DeliveryTimeouts, Destination, FrontConfig, Patience, ReceptionConfig,
    ReportConfig, Routes, Tempo,
};
pub use self::counters::{DeliveryCounters, FrontCounters, ReceptionCounters, ReportCounters};
pub use self::networks::Networks;
pub use self::policy::{Checks, RelayPolicy};
pub use self::record::TARGET as RECORD_TARGET;
pub use self::report::REPORT_SIZE_BYTES_MAX;

use self::delivery::Delivery;
use self::reception::Reception;
use self::report::Reports;
use crate::api::{Command, Notice, Ticket};
use crate::board::Board;
use crate::message::QueueIndex;

/// One front. Its owner's loop calls
///
/// 1. [`turn`](Self::turn): poll → typed events → apply → maintain → flush;
/// 2. [`poll_command`](Self::poll_command) until `None`, and carries each to its shard;
/// 3. [`handle_notice`](Self::handle_notice) for what the shards answered; replies to those leave
///    with the next turn;
/// 4. when nothing was done anywhere, waits on [`transport_mut`](Self::transport_mut) until
///    [`next_deadline`](Self::next_deadline).
#[derive(Debug)]
pub struct Front<T> {
    transport: T,
    reception: Reception,
    delivery: Delivery,
    reports: Reports,
    board: Arc<Board>,
    /// Commits of queues whose lease had run out when they came: nobody is told before there is one again.
    /// At most one for each mail that a session waits for, and for each report.
    withheld: Vec<(Ticket, QueueIndex, MessageId)>,
    is_stopping: bool,
    /// The next turn has something to do, though nothing came to it.
    is_woken: bool,
}

impl<T: Transport> Front<T> {
    /// A front that listens as soon as a queue accepts.
    ///
    /// # Panics
    /// If the configuration breaks a bound that it documents.
    pub fn new(config: &FrontConfig, transport: T, board: Arc<Board>) -> Front<T> {
        Front {
            transport,
            reception: Reception::new(config, Arc::clone(&board)),
            delivery: Delivery::new(config, Arc::clone(&board)),
            reports: Reports::new(config, Arc::clone(&board)),
            board,
            withheld: Vec::new(),
            is_stopping: false,
            is_woken: false,
        }
    }

    /// Tells the time, before the notices of a turn: after a long sleep what comes with them would else count
    /// as having come when the sleep began.
    pub fn begin_turn(&mut self, now: Instant, unix_ms: u64) {
        self.reception.set_time(now, unix_ms);
        self.delivery.set_time(now, unix_ms);
        self.reports.set_time(now, unix_ms);
    }

    /// Does what there is to do, once. `unix_ms` is the time of day in milliseconds since 1970
    /// (UTC), for trace headers and records. `clock` reads the time afresh, for what must not happen
    /// later than it may however long the turn takes. Returns whether anything was done.
    pub fn turn(&mut self, now: Instant, unix_ms: u64, clock: impl Fn() -> Instant) -> bool {
        self.begin_turn(now, unix_ms);
        let mut has_worked = self.has_work();
        self.is_woken = false;
        self.transport.poll(now);
        while let Some(event) = self.transport.next_event() {
            has_worked = true;
            self.apply(event);
        }
        self.reception.maintain(&mut self.transport);
        self.delivery.maintain(&mut self.transport);
        self.reports.maintain();
        has_worked |= self.has_work();
        self.reception.flush(&mut self.transport);
        self.delivery.flush(&mut self.transport, clock);
        self.transport.flush(now);
        has_worked
    }

    /// Works by another configuration from now on: of the same queues, hostname and ports.
    /// Sessions that are there keep the limits that they began with.
    ///
    /// # Panics
    /// If the configuration breaks a bound that it documents, or has another number of queues.
    pub fn reconfigure(
        &mut self,
        reception: &ReceptionConfig,
        delivery: &DeliveryConfig,
        reports: &ReportConfig,
    ) {
        self.reception.reconfigure(reception);
        self.reports.reconfigure(reception, delivery, reports);
        self.delivery.reconfigure(&mut self.transport, delivery);
        self.is_woken = true;
    }

    /// Takes a notice of a shard; `now` is read afresh.
    pub fn handle_notice(&mut self, notice: Notice, now: Instant) {
        match notice {
            Notice::AcceptanceChanged => {
                self.is_woken = true;
                self.delivery.handle_leases();
                self.handle_withheld(now);
            }
            Notice::Committed { ticket, queue, id } => {
                // In their order: what was accepted first is ready first.
                if self.board.lease_until(queue) > now {
                    self.handle_withheld(now);
                }
                self.handle_committed(ticket, queue, id, now);
            }
            Notice::Refused { ticket, .. } if report::is_ours(ticket) => {
                self.reports.handle_refused(ticket);
            }
            Notice::Refused { ticket, queue } => self.reception.handle_refused(ticket, queue),
            Notice::Attempt { queue, id, message, state } => {
                self.delivery.handle_attempt(queue, id, message, state);
            }
            Notice::Report { queue, id, report } => self.reports.handle_report(queue, id, &report),
        }
    }

    fn handle_withheld(&mut self, now: Instant) {
        for (ticket, queue, id) in std::mem::take(&mut self.withheld) {
            self.handle_committed(ticket, queue, id, now);
        }
    }

    fn handle_committed(&mut self, ticket: Ticket, queue: QueueIndex, id: MessageId, now: Instant) {
        if self.board.lease_until(queue) <= now {
            self.withheld.push((ticket, queue, id));
        } else if report::is_ours(ticket) {
            self.reports.handle_committed(ticket, queue, id);
        } else {
            self.reception.handle_committed(ticket, queue, id);
        }
    }

    /// The next command for a shard.
    pub fn poll_command(&mut self) -> Option<Command> {
        let command = self.reception.poll_command().or_else(|| self.delivery.poll_command());
        command.or_else(|| self.reports.poll_command())
    }

    /// When the next turn is due, if nothing happens before. A time in the past: at once.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.has_work() {
            return Some(Instant::ZERO);
        }
        let deadlines = [
            self.reception.next_deadline(),
            self.delivery.next_deadline(),
            self.reports.next_deadline(),
            self.transport.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Begins to stop: ports close, idle sessions get 421, transactions and deliveries under way
    /// are finished, and no more are begun. Transactions that are not finished in
    /// [`ReceptionConfig::drain`] get 421 too.
    pub fn stop(&mut self) {
        if !self.is_stopping {
            self.is_stopping = true;
            self.reception.stop();
            self.delivery.stop(&mut self.transport);
            self.reports.stop();
        }
    }

    /// How long reception may take to stop: for transactions under way, and the commit of the last.
    pub fn drain_time(&self) -> Duration {
        self.reception.drain_time()
    }

    /// Whether all has come to its end after [`stop`](Self::stop).
    pub fn is_stopped(&self) -> bool {
        let is_empty = self.reception.is_empty() && self.delivery.is_empty();
        self.is_stopping && is_empty && self.reports.is_empty()
    }

    /// Where it listens now, with real port numbers. Empty while the ports are closed.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.reception.local_addresses().collect()
    }

    /// What was counted.
    pub fn counters(&self) -> FrontCounters {
        FrontCounters {
            reception: self.reception.counters(),
            delivery: self.delivery.counters(),
            reports: self.reports.counters(),
        }
    }

    /// The transport, to wait on.
    pub fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    fn apply(&mut self, event: Event) {
        let transport = &mut self.transport;
        match event {
            Event::Accepted { connection, peer, .. } => {
                self.reception.handle_accepted(transport, connection, peer);
            }
            Event::Connected(connection) => self.delivery.handle_connected(connection),
            Event::Readable(connection) if self.reception.owns(connection) => {
                self.reception.handle_readable(transport, connection);
            }
            Event::Readable(connection) => self.delivery.handle_readable(transport, connection),
            Event::Writable(connection) => {
                self.reception.handle_writable(connection);
                self.delivery.handle_writable(connection);
            }
            Event::Closed { connection, reason } => {
                self.reception.handle_closed(connection);
                self.delivery.handle_closed(transport, connection, reason);
            }
        }
    }

    fn has_work(&self) -> bool {
        self.is_woken || self.reception.has_work() || self.delivery.has_work()
    }
}

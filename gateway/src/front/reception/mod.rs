//! Reception: listeners and server sessions.

mod admission;
mod commits;
mod desk;
mod pace;
mod ports;
mod reservation;
mod session;
mod trace;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kvs_proto::MessageId;
use smtp::{Refusal, ServerLimits};
use tcpstack::{ConnectionId, Instant, RecvError, Transport};

use self::admission::Client;
use self::commits::{Commits, Progress, WaitingMail};
use self::desk::Desk;
use self::pace::Owed;
use self::ports::Ports;
use self::session::{STOPPING, Session};
use super::config::{FrontConfig, ReceptionConfig, Tempo};
use super::connections::Connections;
use super::counters::ReceptionCounters;
use super::record;
use super::timers::Timers;
use crate::api::{Command, Ticket};
use crate::board::Board;
use crate::message::{QueueIndex, RECIPIENTS_MAX};

/// The server's side of a front.
#[derive(Debug)]
pub(super) struct Reception {
    desk: Desk,
    limits: Arc<ServerLimits>,
    ports: Ports,
    /// In boxes, so that the table grows without moving them.
    sessions: Connections<Box<Session>>,
    timers: Timers<ConnectionId>,
    /// What slow clients are measured by in this turn.
    tempo: Tempo,
    /// After a stop: when transactions that are still under way are cut.
    drained_by: Option<Instant>,
    /// Where the next search for an idle session begins.
    hand: usize,
    /// Sessions that may have something to send or to resume, each at most once.
    to_flush: Vec<ConnectionId>,
}

impl Reception {
    pub(super) fn new(config: &FrontConfig, board: Arc<Board>) -> Reception {
        let reception = &config.reception;
        Reception {
            ports: Ports::new(&reception.listen),
            limits: Arc::new(limits(&config.hostname, reception)),
            sessions: Connections::new(),
            timers: Timers::new(),
            tempo: reception.patience.normal,
            drained_by: None,
            hand: 0,
            to_flush: Vec::new(),
            desk: Desk {
                config: reception.clone(),
                hostname: config.hostname.clone(),
                queue_names: config
                    .delivery
                    .destinations
                    .iter()
                    .map(|it| it.queue_name.clone())
                    .collect(),
                number: config.number,
                board,
                commits: Commits::default(),
                commands: VecDeque::new(),
                counters: ReceptionCounters::default(),
                now: Instant::ZERO,
                unix_ms: 0,
                next_serial: 1,
                is_stopping: false,
            },
        }
    }

    /// Works by another configuration: new sessions by its limits, new transactions by its
    /// routes and policy.
    pub(super) fn reconfigure(&mut self, config: &ReceptionConfig) {
        self.limits = Arc::new(limits(&self.desk.hostname, config));
        self.desk.config = config.clone();
        for session in self.sessions.values_mut() {
            session.client.reconsider(config);
        }
    }

    pub(super) fn set_time(&mut self, now: Instant, unix_ms: u64) {
        self.desk.now = now;
        self.desk.unix_ms = unix_ms;
    }

    pub(super) fn owns(&self, connection: ConnectionId) -> bool {
        self.sessions.contains(connection)
    }

    pub(super) fn handle_accepted<T: Transport>(
        &mut self,
        transport: &mut T,
        connection: ConnectionId,
        peer: SocketAddr,
    ) {
        let client = match self.admit(peer.ip()) {
            Ok(client) => client,
            Err(refusal) => {
                self.desk.counters.sessions_refused += 1;
                let line = format!("{refusal}\r\n");
                // Nothing follows: whether it could be sent makes no difference.
                let _ = transport.send(connection, &[IoSlice::new(line.as_bytes())]);
                return transport.close(connection);
            }
        };
        self.desk.counters.sessions_begun += 1;
        let session = Session::new(&self.limits, connection, client, &self.desk);
        let look_at = session.held_until.unwrap_or(self.desk.now + self.look_interval());
        self.sessions.insert(connection, Box::new(session));
        self.timers.arm(connection, look_at);
        self.list_to_flush(connection);
    }

    /// Lets a client in, if it has not too much already and there is a place for one more session:
    /// if need be, one that is idle makes room. Nobody makes room for a client that is sent away.
    fn admit(&mut self, address: IpAddr) -> Result<Client, &'static Refusal> {
        if self.desk.is_stopping {
            return Err(&STOPPING);
        }
        let client = Client::admit(address, &mut self.desk)?;
        if self.sessions.len() >= self.sessions_max() {
            let idle = self.longest_idle().ok_or(&TOO_MANY_SESSIONS)?;
            self.desk.counters.sessions_displaced += 1;
            self.give_up(idle, &DISPLACED);
        }
        Ok(client)
    }

    /// Where descriptors are fewer than sessions were to be, some are left for delivery and links.
    fn sessions_max(&self) -> usize {
        self.desk.config.sessions_max.min(self.desk.board.sessions_max())
    }

    /// The session that has been idle for longest, of those that are looked at.
    fn longest_idle(&mut self) -> Option<ConnectionId> {
        let now = self.desk.now;
        let sample = self.sessions.sample(self.hand, IDLE_SAMPLE);
        let idle = sample.filter(|(_, it)| it.smtp.is_idle() && !it.is_given_up);
        let longest = idle.map(|(id, it)| (it.pace.idle_time(now), id)).max();
        self.hand = self.hand.wrapping_add(IDLE_SAMPLE);
        longest.filter(|(idle_time, _)| *idle_time >= IDLE_MIN).map(|(_, connection)| connection)
    }

    pub(super) fn handle_readable<T: Transport>(
        &mut self,
        transport: &mut T,
        connection: ConnectionId,
    ) {
        let Some(session) = self.sessions.get_mut(connection) else { return };
        let desk = &mut self.desk;
        let received = transport.recv(connection, |input| {
            let used = session.receive(input, desk);
            (used, used < input.len())
        });
        match received {
            Ok(is_stuck) => {
                if is_stuck {
                    session.is_receiving = false;
                    transport.set_receiving(connection, false);
                }
            }
            Err(RecvError::Finished) => session.is_ended = true,
            Err(RecvError::WouldBlock) => return,
            // The event that says why follows.
            Err(RecvError::Gone) => return,
        }
        self.list_to_flush(connection);
    }

    pub(super) fn handle_writable(&mut self, connection: ConnectionId) {
        self.list_to_flush(connection);
    }

    /// The connection has died. A mail that is with the shards stays with them: its client cannot
    /// know whether it was taken, so losing it would be worse than a duplicate (RFC 1047).
    pub(super) fn handle_closed(&mut self, connection: ConnectionId) {
        self.forget(connection);
    }

    pub(super) fn handle_committed(&mut self, ticket: Ticket, queue: QueueIndex, id: MessageId) {
        match self.desk.commits.commit(ticket.serial, queue, id) {
            Progress::Unknown => self.desk.counters.late_notices += 1,
            Progress::Open => {}
            Progress::Safe(mail) => self.acknowledge(mail),
        }
    }

    pub(super) fn handle_refused(&mut self, ticket: Ticket, queue: QueueIndex) {
        match self.desk.commits.remove(ticket.serial) {
            Some(mail) => self.withdraw(mail, Some(queue)),
            None => self.desk.counters.late_notices += 1,
        }
    }

    /// Deadlines, and the ports.
    pub(super) fn maintain<T: Transport>(&mut self, transport: &mut T) {
        let now = self.desk.now;
        while let Some(mail) = self.desk.commits.poll_expired(now) {
            self.desk.counters.commit_timeouts += 1;
            self.withdraw(mail, None);
        }
        self.tempo = self.choose_tempo();
        while let Some(connection) = self.timers.poll(now) {
            self.handle_timer(connection);
        }
        if self.drained_by.is_some_and(|at| at <= now) {
            self.drained_by = None;
            self.cut_transactions();
        }
        if self.desk.is_stopping {
            self.ports.close(transport);
        } else if self.desk.board.any_accepting() {
            self.ports.open(now, transport);
        } else if self.ports.close(transport) {
            self.desk.counters.ports_closed += 1;
            tracing::warn!("no queue accepts mail: ports closed");
        }
    }

    /// Sends what there is to send, one call for each session, and lets go of those that are over.
    pub(super) fn flush<T: Transport>(&mut self, transport: &mut T) {
        let mut listed = std::mem::take(&mut self.to_flush);
        for connection in listed.drain(..) {
            self.flush_session(transport, connection);
        }
        self.to_flush = listed;
    }

    /// Idle sessions get 421 now, the others when their transaction is over or the time to drain is.
    pub(super) fn stop(&mut self) {
        self.desk.is_stopping = true;
        self.drained_by = Some(self.desk.now + self.desk.config.drain);
        let sessions: Vec<ConnectionId> = self.sessions.ids().collect();
        for connection in sessions {
            self.list_to_flush(connection);
        }
    }

    /// How long it may take from [`stop`](Self::stop) until nothing is left.
    pub(super) fn drain_time(&self) -> Duration {
        self.desk.config.drain + self.desk.config.commit_timeout + DRAIN_SLACK
    }

    /// Ends the transactions that are still under way, but for messages that wait for their commit.
    fn cut_transactions(&mut self) {
        let sessions: Vec<ConnectionId> = self.sessions.ids().collect();
        for connection in sessions {
            let session = self.sessions.get(connection).expect("just listed");
            if session.ticket.is_none() {
                self.give_up(connection, &STOPPING);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.len() == 0 && self.desk.commits.len() == 0 && self.desk.commands.is_empty()
    }

    pub(super) fn poll_command(&mut self) -> Option<Command> {
        self.desk.commands.pop_front()
    }

    pub(super) fn has_work(&self) -> bool {
        !self.to_flush.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let commits = self.desk.commits.next_deadline();
        let ports = self.ports.next_deadline();
        [self.timers.next(), commits, ports, self.drained_by].into_iter().flatten().min()
    }

    pub(super) fn counters(&self) -> ReceptionCounters {
        let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        ReceptionCounters {
            sessions: count(self.sessions.len()),
            waiting: count(self.desk.commits.len()),
            ..self.desk.counters
        }
    }

    pub(super) fn local_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.ports.addresses()
    }

    /// The mail is safe in all its queues: the only way to a 250 (RFC 5321 §6.1).
    fn acknowledge(&mut self, mail: WaitingMail) {
        self.desk.counters.accepted += 1;
        for (place, part) in mail.parts.iter().enumerate() {
            let id = part.committed.expect("a safe mail is committed in all its queues");
            self.desk.commands.push_back(Command::Release { queue: part.queue, id });
            let size = part.message.content.len();
            if place == 0 {
                self.desk.counters.accepted_bytes += u64::try_from(size).unwrap_or(u64::MAX);
            }
            let queue = &self.desk.queue_names[part.queue.0 as usize];
            record::accepted(queue, id, mail.id, &part.message.envelope, size);
        }
        self.answer(&mail, |session| session.commit(mail.id));
    }

    /// The mail will not be safe: takes it out of every queue but the one that refused it.
    fn withdraw(&mut self, mail: WaitingMail, refused_by: Option<QueueIndex>) {
        let ticket = Ticket { front: self.desk.number, serial: mail.id.serial };
        self.desk.counters.refused += 1;
        for part in mail.parts.iter().filter(|part| Some(part.queue) != refused_by) {
            self.desk.commands.push_back(Command::Withdraw { queue: part.queue, ticket });
        }
        self.answer(&mail, |session| session.smtp.refuse(&NOT_COMMITTED));
    }

    /// Answers the session of a mail, if it is still there.
    fn answer(&mut self, mail: &WaitingMail, verdict: impl FnOnce(&mut Session)) {
        let Some(connection) = mail.session else { return };
        let session = self.sessions.get_mut(connection).expect("a session that left is forgotten");
        session.ticket = None;
        verdict(session);
        self.list_to_flush(connection);
    }

    fn handle_timer(&mut self, connection: ConnectionId) {
        let now = self.desk.now;
        let look_at = now + self.look_interval();
        let Some(session) = self.sessions.get_mut(connection) else { return };
        if let Some(until) = session.held_until {
            if until > now {
                return self.timers.arm(connection, until);
            }
            session.held_until = None;
            session.pace.owe(Owed::Nothing, true, now);
            self.timers.arm(connection, look_at);
            return self.list_to_flush(connection);
        }
        // What came in this turn is in time: a session whose mail is with the shards by now is not
        // late any more, and must not be given up.
        session.pace.owe(session.owed(), false, now);
        match session.pace.judge(now, self.tempo) {
            Some(until) => self.timers.arm(connection, until.min(look_at)),
            None => {
                self.desk.counters.sessions_timed_out += 1;
                self.give_up(connection, &TIMED_OUT);
            }
        }
    }

    /// Sessions are looked at so often that a load that begins finds those that are too slow for
    /// it soon, with no work for all of them at once.
    fn look_interval(&self) -> Duration {
        self.desk.config.patience.loaded.command
    }

    fn choose_tempo(&self) -> Tempo {
        let config = &self.desk.config;
        let share = self.sessions.len().saturating_mul(100);
        let is_crowded = share >= self.sessions_max().saturating_mul(config.patience.load_percent);
        if is_crowded || self.desk.board.is_short() {
            config.patience.loaded
        } else {
            config.patience.normal
        }
    }

    /// Ends a session with a last word that it may not even get.
    fn give_up(&mut self, connection: ConnectionId, refusal: &Refusal) {
        let session = self.sessions.get_mut(connection).expect("only living ones are given up");
        assert!(session.ticket.is_none(), "its mail gets an answer");
        session.smtp.close(refusal);
        session.abandon();
        session.held_until = None;
        session.is_given_up = true;
        self.list_to_flush(connection);
    }

    fn flush_session<T: Transport>(&mut self, transport: &mut T, connection: ConnectionId) {
        let now = self.desk.now;
        let Some(session) = self.sessions.get_mut(connection) else { return };
        session.is_listed = false;
        if self.desk.is_stopping && session.smtp.is_idle() {
            session.smtp.close(&STOPPING);
        }
        if session.holds_back(&mut self.desk) {
            if let Some(until) = session.held_until {
                self.timers.arm(connection, until);
            }
            // Who has not been greeted is listened to: it must not speak.
            if session.is_greeted && session.is_receiving {
                session.is_receiving = false;
                transport.set_receiving(connection, false);
            }
            return;
        }
        let output = session.smtp.output();
        let was_answered = !output.is_empty();
        if was_answered {
            session.is_greeted = true;
            match transport.send(connection, &[IoSlice::new(output)]) {
                Ok(sent) => session.smtp.consume_output(sent),
                // The event that says why follows.
                Err(_) => return,
            }
        }
        let is_flushed = session.smtp.output().is_empty();
        session.pace.owe(session.owed(), was_answered && is_flushed, now);
        let awaits_verdict = session.smtp.awaits_verdict();
        let is_over = session.smtp.is_closed() || (session.is_ended && !awaits_verdict);
        if is_over && (is_flushed || session.is_given_up) {
            transport.close(connection);
            return self.forget(connection);
        }
        if is_flushed && !session.is_receiving && !awaits_verdict {
            session.is_receiving = true;
            transport.set_receiving(connection, true);
        }
    }

    fn forget(&mut self, connection: ConnectionId) {
        // Dropping the session gives its reservation back.
        let Some(session) = self.sessions.remove(connection) else { return };
        self.timers.disarm(connection);
        if let Some(serial) = session.ticket {
            self.desk.commits.forget_session(serial);
        }
    }

    fn list_to_flush(&mut self, connection: ConnectionId) {
        if let Some(session) = self.sessions.get_mut(connection)
            && !session.is_listed
        {
            session.is_listed = true;
            self.to_flush.push(connection);
        }
    }
}

/// What sessions announce and enforce.
fn limits(hostname: &str, config: &ReceptionConfig) -> ServerLimits {
    assert!(config.recipients_max <= RECIPIENTS_MAX, "more than a queue takes");
    ServerLimits {
        hostname: hostname.into(),
        message_size_max: config.message_size_max,
        recipients_max: config.recipients_max,
        text_line_max: config.text_line_max,
        errors_max: config.errors_max,
        mails_max: config.messages_per_session_max,
    }
}

const TOO_MANY_SESSIONS: Refusal = Refusal::new(421, (4, 3, 2), "Too many sessions, try later");
const TIMED_OUT: Refusal = Refusal::new(421, (4, 4, 2), "Too slow, or silent for too long");
const DISPLACED: Refusal =
    Refusal::new(421, (4, 3, 2), "Too many sessions, and yours was idle: connect again");
const NOT_COMMITTED: Refusal =
    Refusal::new(451, (4, 4, 0), "The message could not be kept safe, try later");
/// A session that has been idle for less makes no room for another.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// Places that are looked through for it, so that the search costs the same with any number of
/// sessions.
const IDLE_SAMPLE: usize = 64;
/// For the last replies of a drain to leave.
const DRAIN_SLACK: Duration = Duration::from_secs(1);

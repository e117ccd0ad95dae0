//! SMTP load: mail from a seed, over many sessions, in a closed or an open loop, repeated until it is
//! accepted or refused for good.

mod pace;
pub(crate) mod reply;
mod session;
mod stats;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tcpstack::{ConnectionId, Event as TcpEvent, Instant, RecvError, Transport};

pub use pace::Pace;
pub use stats::SmtpStatistics;

use crate::content::{Generator, GeneratorConfig};
use crate::host::unix_us;
use crate::ledger::{Answer, Event, Recipients, Recorder};
use pace::Pacer;
use session::{Ending, Recipient, Session, Settings, Work};

/// What an [`SmtpLoad`] sends, and how.
#[derive(Clone, Debug)]
pub struct SmtpConfig {
    /// To whom. Sessions take turns with the addresses; with each failure in a row one turns to the next.
    pub to: Vec<SocketAddr>,
    /// The mail.
    pub mail: GeneratorConfig,
    /// How fast and how much.
    pub pace: Pace,
    /// Sessions at once, at least 1. With one session (and no pipelining across mails) the mails go out
    /// in strict sequence: the next when the one before was accepted or refused for good.
    pub sessions: usize,
    /// A session is ended after so many mails, and a new one begun; `None`: never.
    pub mails_per_session: Option<u32>,
    /// Send MAIL, RCPT and DATA together, where the server offers it.
    pub pipelining: bool,
    /// With pipelining, send the next mail's envelope behind the data, before its answer.
    pub ahead: bool,
    /// Send content by BDAT in chunks of so many bytes, where the server offers CHUNKING.
    pub chunk_size_bytes: Option<usize>,
    /// Behind each MAIL, as it is: parameters that the server must offer. Empty: none.
    pub mail_parameters: Arc<str>,
    /// Behind each RCPT, likewise.
    pub recipient_parameters: Arc<str>,
    /// How long to wait for an answer before the connection is given up.
    pub answer_timeout: Duration,
    /// Pauses behind a failure, doubling from the first to the second.
    pub backoff: (Duration, Duration),
    /// Give up when nothing was accepted for so long.
    pub give_up: Duration,
    /// Microseconds since 1970 at [`Instant::ZERO`].
    pub unix_origin_us: u64,
}

impl Default for SmtpConfig {
    /// One mail of 1 KiB over one session, to nobody yet.
    fn default() -> SmtpConfig {
        SmtpConfig {
            to: Vec::new(),
            mail: GeneratorConfig::default(),
            pace: Pace { rate: None, total: Some(1), duration: None },
            sessions: 1,
            mails_per_session: None,
            pipelining: false,
            ahead: false,
            chunk_size_bytes: None,
            mail_parameters: "".into(),
            recipient_parameters: "".into(),
            answer_timeout: Duration::from_secs(60),
            backoff: (Duration::from_millis(50), Duration::from_secs(1)),
            give_up: Duration::from_secs(60),
            unix_origin_us: 0,
        }
    }
}

impl SmtpConfig {
    fn session_settings(&self) -> Settings {
        Settings {
            pipelining: self.pipelining,
            chunk: self.chunk_size_bytes,
            mail_parameters: Arc::clone(&self.mail_parameters),
            recipient_parameters: Arc::clone(&self.recipient_parameters),
        }
    }
}

/// The load: sessions on one transport. The loop around it calls [`SmtpLoad::turn`] until
/// [`SmtpLoad::is_done`], and [`SmtpLoad::wait`] when there was nothing to do; then
/// [`SmtpLoad::finish`].
///
/// Each session keeps its mail until it is settled, so mails under way are bounded by the number of
/// sessions (twice that when sending ahead).
pub struct SmtpLoad<T: Transport> {
    transport: T,
    config: SmtpConfig,
    generator: Generator,
    recorder: Box<dyn Recorder>,
    pacer: Option<Pacer>,
    lanes: Vec<Lane>,
    /// Lanes by the connection's index.
    by_connection: Vec<Option<usize>>,
    /// Lanes without a mail, the longest idle first.
    idle: VecDeque<usize>,
    /// When paused lanes go on.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    next_sweep: Instant,
    /// Buffers of mails that are done.
    spare: Vec<Vec<u8>>,
    last_progress: Instant,
    statistics: SmtpStatistics,
}

/// One session after another, with the mails that it has to settle.
struct Lane {
    connection: Option<ConnectionId>,
    session: Session,
    connected: bool,
    /// To be sent (again), in this order.
    held: VecDeque<Work>,
    paused_until: Instant,
    failures: u32,
    last_heard: Instant,
    idle: bool,
}

/// How often overdue answers are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

impl<T: Transport> SmtpLoad<T> {
    /// A load that begins with its first turn.
    pub fn new(
        transport: T,
        config: SmtpConfig,
        now: Instant,
        mut recorder: Box<dyn Recorder>,
    ) -> SmtpLoad<T> {
        assert!(config.sessions > 0 && !config.to.is_empty(), "a load needs a session and a goal");
        let at_us = unix_us(config.unix_origin_us, now);
        recorder.record(Event::SenderBegins { run: config.mail.run, at_us });
        let lane = |_| Lane {
            connection: None,
            session: Session::new(config.session_settings()),
            connected: false,
            held: VecDeque::new(),
            paused_until: Instant::ZERO,
            failures: 0,
            last_heard: now,
            idle: true,
        };
        SmtpLoad {
            generator: Generator::new(config.mail.clone()),
            lanes: (0..config.sessions).map(lane).collect(),
            idle: (0..config.sessions).collect(),
            transport,
            recorder,
            pacer: None,
            by_connection: Vec::new(),
            timers: BinaryHeap::new(),
            next_sweep: now,
            spare: Vec::new(),
            last_progress: now,
            statistics: SmtpStatistics::default(),
            config,
        }
    }

    /// What was counted and measured so far.
    pub fn statistics(&self) -> &SmtpStatistics {
        &self.statistics
    }

    /// Does what there is to do, and answers whether there was anything.
    pub fn turn(&mut self, now: Instant) -> bool {
        self.pacer.get_or_insert_with(|| Pacer::new(self.config.pace, now));
        self.transport.poll(now);
        let mut worked = false;
        while let Some(event) = self.transport.next_event() {
            worked = true;
            self.handle_event(event, now);
        }
        while self.timers.peek().is_some_and(|&Reverse((at, _))| at <= now) {
            let Some(Reverse((_, lane))) = self.timers.pop() else { break };
            worked = true;
            self.drive(lane, now);
        }
        if now >= self.next_sweep {
            self.sweep(now);
        }
        while !self.idle.is_empty() && self.is_due(now) {
            let Some(lane) = self.idle.pop_front() else { break };
            self.lanes[lane].idle = false;
            worked = true;
            self.drive(lane, now);
            if self.lanes[lane].idle {
                break;
            }
        }
        self.recorder.turn(now);
        self.transport.flush(now);
        worked
    }

    /// Whether all mail is settled, or nothing was accepted for too long.
    pub fn is_done(&self, now: Instant) -> bool {
        let Some(pacer) = &self.pacer else { return false };
        let resting = |lane: &Lane| lane.idle && lane.held.is_empty();
        let settled = pacer.next_due(now).is_none() && self.lanes.iter().all(resting);
        let waits_for_pace = self.lanes.iter().all(resting);
        let stuck = now.saturating_since(self.last_progress) > self.config.give_up;
        settled || (stuck && !waits_for_pace)
    }

    /// When it wants its next turn, if nothing happens before.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let timer = self.timers.peek().map(|&Reverse((at, _))| at);
        let pacer = self.pacer.as_ref().filter(|_| !self.idle.is_empty());
        let due = pacer.and_then(|pacer| pacer.next_due(now));
        let own = [timer, due, Some(self.next_sweep), self.transport.next_deadline()];
        own.into_iter().flatten().min()
    }

    /// Sleeps until something happens, or until then.
    pub fn wait(&mut self, now: Instant, until: Option<Instant>) {
        self.transport.wait(now, until);
    }

    /// Ends: unanswered mail is noted, the log gets its end, connections are cut.
    pub fn finish(mut self, now: Instant) -> SmtpStatistics {
        for lane in 0..self.lanes.len() {
            self.lose_session(lane, now);
            self.statistics.unresolved += self.lanes[lane].held.len() as u64;
        }
        let at_us = unix_us(self.config.unix_origin_us, now);
        self.recorder.record(Event::End { at_us });
        self.statistics
    }

    fn is_due(&self, now: Instant) -> bool {
        self.pacer.and_then(|pacer| pacer.next_due(now)).is_some_and(|due| due <= now)
    }

    fn handle_event(&mut self, event: TcpEvent, now: Instant) {
        let id = match event {
            TcpEvent::Connected(id) | TcpEvent::Readable(id) | TcpEvent::Writable(id) => id,
            TcpEvent::Closed { connection, .. } => connection,
            TcpEvent::Accepted { .. } => unreachable!("a load does not listen"),
        };
        let Some(lane) = self.by_connection.get(id.index as usize).copied().flatten() else {
            return;
        };
        if self.lanes[lane].connection != Some(id) {
            return;
        }
        match event {
            TcpEvent::Connected(_) => {
                self.statistics.connections += 1;
                self.lanes[lane].connected = true;
            }
            TcpEvent::Readable(_) => self.receive(lane, id, now),
            TcpEvent::Closed { .. } => self.lose_connection(lane, now),
            _ => {}
        }
        self.drive(lane, now);
    }

    fn receive(&mut self, lane: usize, id: ConnectionId, now: Instant) {
        let Lane { session, last_heard, .. } = &mut self.lanes[lane];
        *last_heard = now;
        let received = self.transport.recv(id, |bytes| {
            session.handle_bytes(bytes);
            (bytes.len(), ())
        });
        let (deferred_451, deferred_452) = std::mem::take(&mut session.deferred);
        self.statistics.deferred_451 += deferred_451;
        self.statistics.deferred_452 += deferred_452;
        while let Some((work, ending)) = self.lanes[lane].session.poll_ended() {
            self.handle_ended(lane, work, ending, now);
        }
        let ended = matches!(received, Err(RecvError::Finished | RecvError::Gone));
        if ended || self.lanes[lane].session.is_over() {
            self.transport.close(id);
            self.lose_connection(lane, now);
        }
    }

    /// Gives the lane what it can take, and sends what it has.
    fn drive(&mut self, lane: usize, now: Instant) {
        if now < self.lanes[lane].paused_until {
            return self.send(lane, now);
        }
        if self.lanes[lane].connection.is_none() {
            if self.lanes[lane].held.is_empty() && !self.is_due(now) {
                return self.rest(lane);
            }
            return self.connect(lane, now);
        }
        let limit = self.config.mails_per_session.unwrap_or(u32::MAX);
        if self.lanes[lane].session.is_free() {
            if self.lanes[lane].session.mails >= limit {
                self.lanes[lane].session.quit();
            } else if let Some(work) = self.next_work(lane, now) {
                self.lanes[lane].session.start(work);
            } else {
                self.rest(lane);
            }
        }
        let Lane { session, held, .. } = &self.lanes[lane];
        let last = session.mails.saturating_add(1) >= limit;
        if self.config.ahead && session.could_send_ahead() && held.is_empty() && !last {
            // Idle sessions come first: nothing is to wait behind another mail's data there.
            if let Some(work) = self.idle.is_empty().then(|| self.next_work(lane, now)).flatten() {
                self.lanes[lane].session.start(work);
            }
        }
        self.send(lane, now);
    }

    fn rest(&mut self, lane: usize) {
        if !self.lanes[lane].idle {
            self.lanes[lane].idle = true;
            self.idle.push_back(lane);
        }
    }

    /// The next mail for the lane: one that it holds, else a new one if one is due.
    fn next_work(&mut self, lane: usize, now: Instant) -> Option<Work> {
        if let Some(work) = self.lanes[lane].held.pop_front() {
            return Some(work);
        }
        let intended = self.pacer.as_mut()?.take(now)?;
        self.statistics.begin.get_or_insert(now);
        self.statistics.issued += 1;
        let plan = self.generator.plan();
        let mut content = self.spare.pop().unwrap_or_default();
        let digest = self.generator.write(&plan, &mut content);
        self.recorder.record(Event::Intent {
            mail: plan.id,
            at_us: unix_us(self.config.unix_origin_us, now),
            digest,
            size_bytes: content.len() as u64,
            null_sender: plan.null_sender,
            places: plan.places.clone(),
        });
        Some(Work::new(plan, content, intended))
    }

    fn connect(&mut self, lane: usize, now: Instant) {
        let to = &self.config.to;
        let remote = to[(lane + self.lanes[lane].failures as usize) % to.len()];
        let Ok(id) = self.transport.connect(now, remote, None) else {
            return self.pause(lane, now);
        };
        let index = id.index as usize;
        if self.by_connection.len() <= index {
            self.by_connection.resize(index + 1, None);
        }
        self.by_connection[index] = Some(lane);
        let Lane { connection, session, connected, last_heard, .. } = &mut self.lanes[lane];
        *connection = Some(id);
        *session = Session::new(self.config.session_settings());
        *connected = false;
        *last_heard = now;
    }

    fn send(&mut self, lane: usize, now: Instant) {
        let Lane { connection, session, last_heard, .. } = &mut self.lanes[lane];
        let Some(id) = *connection else { return };
        while session.sent < session.out.len() {
            let rest = &session.out[session.sent..];
            let offered = rest.len();
            let Ok(sent) = self.transport.send(id, &[IoSlice::new(rest)]) else { return };
            *last_heard = if sent > 0 { now } else { *last_heard };
            session.note_sent(sent, now);
            if sent < offered {
                return;
            }
        }
    }

    /// Behind a failure: the lane rests for a while that doubles with each.
    fn pause(&mut self, lane: usize, now: Instant) {
        let (least, most) = self.config.backoff;
        let failures = self.lanes[lane].failures.min(16);
        let pause = (least * 2_u32.pow(failures)).min(most);
        self.lanes[lane].failures += 1;
        self.lanes[lane].paused_until = now + pause;
        self.timers.push(Reverse((now + pause, lane)));
    }

    /// The connection is gone, by whomever.
    fn lose_connection(&mut self, lane: usize, now: Instant) {
        let was_connected = self.lanes[lane].connected;
        let quit = self.lanes[lane].session.has_quit();
        let lost = self.lose_session(lane, now);
        if !was_connected {
            self.statistics.connections_failed += 1;
        } else if lost {
            self.statistics.connections_lost += 1;
        }
        if lost || !quit {
            self.pause(lane, now);
        }
    }

    /// Takes the mails back from a session that is over; those whose final dot went out are unknown.
    fn lose_session(&mut self, lane: usize, now: Instant) -> bool {
        self.lanes[lane].connection = None;
        self.lanes[lane].connected = false;
        let works = self.lanes[lane].session.take_works();
        let lost = !works.is_empty();
        for mut work in works.into_iter().rev() {
            self.settle_refused_recipients(&mut work, now);
            if work.dot_sent.is_some() {
                self.statistics.unknown += 1;
                self.note(&mut work, Answer::Unknown, now, Recipient::Pending);
            }
            let pending = |of: &mut Recipient| *of = Recipient::Pending;
            work.recipients
                .iter_mut()
                .filter(|of| **of == Recipient::InTransaction)
                .for_each(pending);
            self.lanes[lane].held.push_front(work);
        }
        lost
    }

    fn handle_ended(&mut self, lane: usize, mut work: Work, ending: Ending, now: Instant) {
        self.settle_refused_recipients(&mut work, now);
        match ending {
            Ending::Answered(200..300) => {
                let dot = work.dot_sent.expect("an answered dot was sent");
                self.statistics.dot_to_250.record(now.saturating_since(dot));
                self.statistics.bytes += work.content.len() as u64;
                self.statistics.last_accepted = Some(now);
                self.last_progress = now;
                self.lanes[lane].failures = 0;
                work.accepted = true;
                self.note(&mut work, Answer::Accepted, now, Recipient::Settled);
            }
            Ending::Answered(code @ 500..) | Ending::Refused(code @ 500..) => {
                self.statistics.refused_5xx += 1;
                for recipient in &mut work.recipients {
                    // MAIL or DATA refused: for those not asked for too.
                    if *recipient == Recipient::Pending && matches!(ending, Ending::Refused(_)) {
                        *recipient = Recipient::InTransaction;
                    }
                }
                self.note(&mut work, Answer::Refused(code), now, Recipient::Settled);
            }
            Ending::Answered(code) | Ending::Refused(code) => {
                self.statistics.deferred_451 += u64::from(code == 451);
                self.statistics.deferred_452 += u64::from(code == 452);
                let settled = |of: &Recipient| *of == Recipient::Settled;
                self.statistics.refused_4xx += u64::from(!work.recipients.iter().all(settled));
                self.note(&mut work, Answer::Refused(code), now, Recipient::Pending);
            }
        }
        if work.recipients.contains(&Recipient::Pending) {
            if work.has_rest && matches!(ending, Ending::Answered(200..300)) {
                // Nobody refused them: they go in the next transaction.
                return self.lanes[lane].held.push_front(work);
            }
            self.lanes[lane].held.push_back(work);
            return self.pause(lane, now);
        }
        if work.accepted {
            self.statistics.accepted += 1;
            self.statistics.transaction.record(now.saturating_since(work.intended));
        } else {
            self.statistics.failed += 1;
            self.last_progress = now;
        }
        if work.content.capacity() <= SPARE_SIZE_BYTES_MAX {
            self.spare.push(work.content);
        }
    }

    /// Notes the answer for the recipients in this transaction, and what they are from then on.
    fn note(&mut self, work: &mut Work, answer: Answer, now: Instant, then: Recipient) {
        let mut places = Vec::new();
        for (place, recipient) in (0..).zip(&mut work.recipients) {
            if *recipient == Recipient::InTransaction {
                *recipient = then;
                places.push(place);
            }
        }
        if places.is_empty() {
            return;
        }
        if answer == Answer::Accepted {
            self.statistics.recipients_accepted += places.len() as u64;
        }
        let origin = self.config.unix_origin_us;
        let all = places.len() == work.recipients.len();
        self.recorder.record(Event::Answer {
            mail: work.plan.id,
            at_us: unix_us(origin, now),
            dot_us: work.dot_sent.map_or(0, |dot| unix_us(origin, dot)),
            answer,
            recipients: if all { Recipients::All } else { Recipients::Some(places) },
        });
    }

    fn settle_refused_recipients(&mut self, work: &mut Work, now: Instant) {
        for (place, recipient) in (0..).zip(&mut work.recipients) {
            let Recipient::JustRefused(code) = *recipient else { continue };
            *recipient = Recipient::Settled;
            self.statistics.refused_5xx += 1;
            self.recorder.record(Event::Answer {
                mail: work.plan.id,
                at_us: unix_us(self.config.unix_origin_us, now),
                dot_us: 0,
                answer: Answer::Refused(code),
                recipients: Recipients::Some(vec![place]),
            });
        }
    }

    /// Gives up connections whose server owes an answer for too long.
    fn sweep(&mut self, now: Instant) {
        self.next_sweep = now + SWEEP_INTERVAL;
        for lane in 0..self.lanes.len() {
            let Lane { connection, connected, session, last_heard, .. } = &self.lanes[lane];
            let overdue = now.saturating_since(*last_heard) > self.config.answer_timeout;
            if let Some(id) = connection.filter(|_| *connected && session.is_waiting() && overdue) {
                self.transport.abort(id);
                self.lose_connection(lane, now);
                self.drive(lane, now);
            }
        }
    }
}

/// Larger buffers are given back rather than kept for the next mail.
const SPARE_SIZE_BYTES_MAX: usize = 1 << 20;

//! The client's end of one SMTP session, as a state machine.

use std::collections::VecDeque;
use std::sync::Arc;

use tcpstack::Instant;

use super::reply::{Reply, ReplyReader};
use crate::content::Plan;
use crate::data;

/// A mail on its way, with what has become of it.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) plan: Plan,
    /// The recipients' addresses, by number.
    pub(super) addresses: Box<[String]>,
    pub(super) content: Vec<u8>,
    /// When it was to be sent: latency counts from here in an open loop.
    pub(super) intended: Instant,
    /// By the recipient's number.
    pub(super) recipients: Vec<Recipient>,
    /// This attempt's final dot went to the transport then.
    pub(super) dot_sent: Option<Instant>,
    /// MAIL of this attempt was refused with that code.
    pub(super) failure: Option<u16>,
    /// Some recipient was accepted, in this attempt or an earlier one.
    pub(super) accepted: bool,
    /// How many recipients one transaction may have, as far as the server has shown.
    pub(super) transaction_max: usize,
    /// How many of them this attempt has asked for, and how many were taken.
    pub(super) asked: usize,
    pub(super) taken: usize,
    /// This attempt left recipients for the next one, because one transaction cannot have them all.
    pub(super) has_rest: bool,
}

impl Work {
    /// A mail that nobody was asked to take yet.
    pub(super) fn new(plan: Plan, content: Vec<u8>, intended: Instant) -> Work {
        Work {
            addresses: plan.recipients().collect(),
            recipients: vec![Recipient::Pending; plan.recipients_count()],
            content,
            intended,
            dot_sent: None,
            failure: None,
            accepted: false,
            transaction_max: TRANSACTION_RECIPIENTS_MAX,
            asked: 0,
            taken: 0,
            has_rest: false,
            plan,
        }
    }
}

/// Most recipients of one transaction, unless the server announces or shows less.
const TRANSACTION_RECIPIENTS_MAX: usize = 1000;

/// What has become of one recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recipient {
    /// Not yet accepted.
    Pending,
    /// RCPT was accepted in this attempt.
    InTransaction,
    /// RCPT was refused for good in this attempt, with that code, and nobody was told.
    JustRefused(u16),
    /// Nothing is left to do.
    Settled,
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// That was the answer to the final dot.
    Answered(u16),
    /// Refused before the data, with that code.
    Refused(u16),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    Greeting,
    Hello,
    PlainHello,
    Mail,
    Recipient(usize),
    Data,
    /// A BDAT that is not the last.
    Chunk,
    Dot,
    /// The dot behind a 354 that nobody wanted: no recipient had been accepted.
    EmptyDot(u16),
    Reset(u16),
    Quit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Greeting and EHLO.
    Opening,
    Ready,
    /// QUIT is on its way: no more mail.
    Ending,
    /// To be closed.
    Over,
}

/// One session. Mails go in by [`Session::start`], bytes by [`Session::handle_bytes`]; commands gather in
/// `out`, ended attempts come from [`Session::poll_ended`].
#[derive(Debug)]
pub(super) struct Session {
    pub(super) out: Vec<u8>,
    pub(super) sent: usize,
    reader: ReplyReader,
    expected: VecDeque<Expect>,
    /// The first is under way; a second one's envelope was sent behind the first one's dot.
    works: VecDeque<Work>,
    /// What of the first work's content is not in `out` yet.
    body: Option<Body>,
    /// Where in `out` the first work's final dot ends.
    dot_end: Option<usize>,
    /// The first work's final dot has been written to `out` in this attempt.
    dot_written: bool,
    ended: VecDeque<(Work, Ending)>,
    phase: Phase,
    quit: bool,
    settings: Settings,
    pipelining: bool,
    /// Content goes by BDAT, so many bytes at a time.
    chunk: Option<usize>,
    /// RCPTMAX (RFC 9422).
    recipients_max: usize,
    eight_bit: bool,
    size: bool,
    /// Attempts that ended in this session.
    pub(super) mails: u32,
    /// Recipients answered 451, and 452.
    pub(super) deferred: (u64, u64),
}

/// What is wanted of all sessions, where the server offers it.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// Commands together.
    pub(super) pipelining: bool,
    /// BDAT in the place of DATA, in chunks of so many bytes.
    pub(super) chunk: Option<usize>,
    /// Behind each MAIL; sent whatever the server offers.
    pub(super) mail_parameters: Arc<str>,
    /// Behind each RCPT, likewise.
    pub(super) recipient_parameters: Arc<str>,
}

/// Content on its way into `out`.
#[derive(Clone, Copy, Debug)]
struct Body {
    /// How much of it is there.
    at: usize,
    /// The chunk before has to be answered first.
    waiting: bool,
}

impl Session {
    /// A session on a connection just made.
    pub(super) fn new(settings: Settings) -> Session {
        Session {
            out: Vec::new(),
            sent: 0,
            reader: ReplyReader::default(),
            expected: VecDeque::from([Expect::Greeting]),
            works: VecDeque::new(),
            body: None,
            dot_end: None,
            dot_written: false,
            ended: VecDeque::new(),
            phase: Phase::Opening,
            quit: false,
            settings,
            pipelining: false,
            chunk: None,
            recipients_max: usize::MAX,
            eight_bit: false,
            size: false,
            mails: 0,
            deferred: (0, 0),
        }
    }

    /// Whether it could take a mail and has none.
    pub(super) fn is_free(&self) -> bool {
        self.phase == Phase::Ready && self.works.is_empty() && self.expected.is_empty()
    }

    /// Whether a mail's envelope could go out behind the data under way.
    pub(super) fn could_send_ahead(&self) -> bool {
        self.phase == Phase::Ready && self.pipelining && self.works.len() == 1 && self.dot_written
    }

    /// Whether the connection is to be closed.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether it ended, or is ending, because we wanted it to.
    pub(super) fn has_quit(&self) -> bool {
        self.quit
    }

    /// Whether the server owes an answer.
    pub(super) fn is_waiting(&self) -> bool {
        !self.expected.is_empty()
    }

    /// Begins with a mail; the session is free or could send ahead.
    pub(super) fn start(&mut self, mut work: Work) {
        work.failure = None;
        work.dot_sent = None;
        (work.asked, work.taken, work.has_rest) = (0, 0, false);
        work.transaction_max = work.transaction_max.min(self.recipients_max).max(1);
        let declared = if work.plan.eight_bit && self.eight_bit { " BODY=8BITMIME" } else { "" };
        let size = if self.size { format!(" SIZE={}", work.content.len()) } else { String::new() };
        let more = Arc::clone(&self.settings.mail_parameters);
        let blank = if more.is_empty() { "" } else { " " };
        let sender = work.plan.sender();
        self.command(&format!("MAIL FROM:<{sender}>{size}{declared}{blank}{more}\r\n"));
        self.expected.push_back(Expect::Mail);
        self.works.push_back(work);
        if self.pipelining {
            let mut from = 0;
            while let Some(place) = self.next_pending(from) {
                self.send_recipient(place);
                from = place + 1;
            }
            if self.chunk.is_none() {
                self.send_data_command();
            }
        }
    }

    /// Ends the session politely; it is free.
    pub(super) fn quit(&mut self) {
        self.command("QUIT\r\n");
        self.expected.push_back(Expect::Quit);
        self.phase = Phase::Ending;
        self.quit = true;
    }

    /// Takes what the server sent.
    pub(super) fn handle_bytes(&mut self, mut bytes: &[u8]) {
        while self.phase != Phase::Over {
            match self.reader.next_reply(&mut bytes) {
                None => return,
                Some(Ok(reply)) => self.handle_reply(&reply),
                Some(Err(_)) => self.phase = Phase::Over,
            }
        }
    }

    /// `count` more bytes of `out` went to the transport, in a turn that began at `now`.
    pub(super) fn note_sent(&mut self, count: usize, now: Instant) {
        self.sent += count;
        if self.dot_end.is_some_and(|end| self.sent >= end) {
            self.dot_end = None;
            self.works.front_mut().expect("a dot belongs to a mail").dot_sent = Some(now);
        }
        if self.sent == self.out.len() {
            self.out.clear();
            self.out.shrink_to(OUT_KEPT_SIZE_BYTES_MAX);
            self.sent = 0;
        } else if self.sent >= OUT_KEPT_SIZE_BYTES_MAX {
            self.out.drain(..self.sent);
            self.dot_end = self.dot_end.map(|end| end - self.sent);
            self.sent = 0;
        }
        self.fill();
    }

    /// The next attempt that ended, with the mail.
    pub(super) fn poll_ended(&mut self) -> Option<(Work, Ending)> {
        self.ended.pop_front()
    }

    /// The mails under way, when the connection is gone: first those furthest.
    pub(super) fn take_works(&mut self) -> VecDeque<Work> {
        self.phase = Phase::Over;
        std::mem::take(&mut self.works)
    }

    fn handle_reply(&mut self, reply: &Reply) {
        let code = reply.code;
        let Some(expect) = self.expected.pop_front() else {
            // A 421 may come at any time (RFC 5321 §3.8); nothing else may.
            self.phase = Phase::Over;
            return;
        };
        match expect {
            Expect::Greeting if code == 220 => {
                self.command("EHLO client.example\r\n");
                self.expected.push_back(Expect::Hello);
            }
            Expect::Hello | Expect::PlainHello if code == 250 => self.open(&reply.text),
            // RFC 5321 §3.2: a server that does not know EHLO may know HELO.
            Expect::Hello if code >= 500 => {
                self.command("HELO client.example\r\n");
                self.expected.push_back(Expect::PlainHello);
            }
            Expect::Greeting | Expect::Hello | Expect::PlainHello | Expect::Quit => {
                self.phase = Phase::Over;
            }
            Expect::Mail => self.handle_mail_reply(code),
            Expect::Recipient(place) => self.handle_recipient_reply(place, code),
            Expect::Data => self.handle_data_reply(code),
            Expect::Chunk => self.handle_chunk_reply(code),
            Expect::Dot => self.handle_dot_reply(code),
            Expect::EmptyDot(code) | Expect::Reset(code) => self.end(Ending::Refused(code)),
        }
        if code == 421 {
            self.phase = Phase::Over;
        }
    }

    fn open(&mut self, text: &str) {
        let has = |keyword: &str| {
            let mut words = text.lines().skip(1).filter_map(|line| line.split(' ').next());
            words.any(|word| word.eq_ignore_ascii_case(keyword))
        };
        self.pipelining = self.settings.pipelining && has("PIPELINING");
        self.chunk = self.settings.chunk.filter(|_| has("CHUNKING"));
        let limits = text.lines().find_map(|line| line.strip_prefix("LIMITS "));
        let most =
            limits.and_then(|line| line.split(' ').find_map(|of| of.strip_prefix("RCPTMAX=")));
        self.recipients_max = most.and_then(|most| most.parse().ok()).unwrap_or(usize::MAX);
        self.eight_bit = has("8BITMIME");
        self.size = has("SIZE");
        self.phase = Phase::Ready;
    }

    fn handle_mail_reply(&mut self, code: u16) {
        if code != 250 {
            self.front().failure = Some(code);
            if !self.pipelining {
                self.end(Ending::Refused(code));
            }
        } else if !self.pipelining {
            self.send_next_recipient(0);
        }
    }

    fn handle_recipient_reply(&mut self, place: usize, code: u16) {
        self.deferred.0 += u64::from(code == 451);
        self.deferred.1 += u64::from(code == 452);
        let work = self.front();
        if work.failure.is_none() {
            match code {
                200..300 => {
                    work.recipients[place] = Recipient::InTransaction;
                    work.taken += 1;
                }
                500.. => work.recipients[place] = Recipient::JustRefused(code),
                // Enough for one transaction (RFC 5321 §4.5.3.1.10): the others in the next.
                452 if work.taken > 0 => {
                    work.transaction_max = work.transaction_max.min(work.taken);
                    work.has_rest = true;
                }
                _ => {}
            }
        }
        if !self.pipelining {
            self.send_next_recipient(place + 1);
        } else if self.chunk.is_some()
            && !matches!(self.expected.front(), Some(Expect::Recipient(_)))
        {
            self.begin_body();
        }
    }

    fn handle_chunk_reply(&mut self, code: u16) {
        if code != 250 {
            self.front().failure.get_or_insert(code);
            // What was written already is thrown away by the server.
            if self.body.take().is_some() {
                self.reset(code);
            }
        } else if let Some(body) = &mut self.body {
            body.waiting = false;
            self.fill();
        }
    }

    /// All recipients are answered: content, if somebody wants it.
    fn begin_body(&mut self) {
        let work = self.front();
        let wanted = work.failure.is_none() && work.recipients.contains(&Recipient::InTransaction);
        let failure = work.failure.unwrap_or(NO_RECIPIENTS);
        if wanted {
            self.body = Some(Body { at: 0, waiting: false });
            self.fill();
        } else {
            self.reset(failure);
        }
    }

    /// Moves content into `out`, a piece at a time, so that large mail is there once and not twice.
    fn fill(&mut self) {
        while let Some(body) = self.body.filter(|body| !body.waiting) {
            if self.out.len() - self.sent >= PIECE_SIZE_BYTES {
                return;
            }
            let work = self.works.front().expect("content belongs to a mail");
            let rest = &work.content[body.at..];
            let size = match self.chunk {
                Some(chunk) => rest.len().min(chunk),
                None => lines_within(rest, PIECE_SIZE_BYTES),
            };
            let is_last = size == rest.len();
            if self.chunk.is_some() {
                let mark = if is_last { " LAST" } else { "" };
                self.out.extend_from_slice(format!("BDAT {size}{mark}\r\n").as_bytes());
                self.out.extend_from_slice(&rest[..size]);
                self.expected.push_back(if is_last { Expect::Dot } else { Expect::Chunk });
            } else {
                data::stuff_lines(&rest[..size], &mut self.out);
                self.out.extend_from_slice(if is_last { data::END_OF_DATA } else { b"" });
            }
            let waiting = self.chunk.is_some() && !self.pipelining;
            self.body = (!is_last).then_some(Body { at: body.at + size, waiting });
            if is_last {
                self.dot_end = Some(self.out.len());
                self.dot_written = true;
            }
        }
    }

    fn handle_data_reply(&mut self, code: u16) {
        let work = self.front();
        let wanted = work.failure.is_none() && work.recipients.contains(&Recipient::InTransaction);
        let failure = work.failure.unwrap_or(NO_RECIPIENTS);
        match (code, wanted) {
            (354, true) => {
                self.expected.push_back(Expect::Dot);
                self.begin_body();
            }
            (354, false) => {
                self.command(".\r\n");
                self.expected.push_back(Expect::EmptyDot(failure));
            }
            (_, true) => self.reset(code),
            (_, false) => self.reset(failure),
        }
    }

    /// Gives the transaction up: the server may hold it open until told otherwise.
    fn reset(&mut self, code: u16) {
        self.command("RSET\r\n");
        self.expected.push_back(Expect::Reset(code));
    }

    fn handle_dot_reply(&mut self, code: u16) {
        if self.front().dot_sent.is_none() {
            // An answer before the end of the data: the rest would be taken for commands. An
            // acceptance of half a mail is none.
            self.phase = Phase::Over;
            if code < 400 {
                return;
            }
        }
        let code = self.front().failure.unwrap_or(code);
        self.end(Ending::Answered(code));
    }

    fn send_next_recipient(&mut self, from: usize) {
        if let Some(place) = self.next_pending(from) {
            self.send_recipient(place);
        } else if self.chunk.is_some() {
            self.begin_body();
        } else if self.front().recipients.contains(&Recipient::InTransaction) {
            self.send_data_command();
        } else {
            self.reset(NO_RECIPIENTS);
        }
    }

    /// The next recipient to ask for, of the mail that was started last.
    fn next_pending(&mut self, from: usize) -> Option<usize> {
        let work = self.works.back_mut().expect("a mail is under way");
        let pending = work.recipients[from..].iter().position(|&of| of == Recipient::Pending)?;
        if work.asked >= work.transaction_max {
            work.has_rest = true;
            return None;
        }
        Some(from + pending)
    }

    fn send_recipient(&mut self, place: usize) {
        let work = self.works.back_mut().expect("a mail is under way");
        work.asked += 1;
        let more = &self.settings.recipient_parameters;
        let blank = if more.is_empty() { "" } else { " " };
        for part in ["RCPT TO:<", &work.addresses[place], ">", blank, more, "\r\n"] {
            self.out.extend_from_slice(part.as_bytes());
        }
        self.expected.push_back(Expect::Recipient(place));
    }

    fn send_data_command(&mut self) {
        self.command("DATA\r\n");
        self.expected.push_back(Expect::Data);
    }

    fn end(&mut self, ending: Ending) {
        let work = self.works.pop_front().expect("a mail is under way");
        self.body = None;
        self.dot_written = false;
        self.dot_end = None;
        self.mails += 1;
        self.ended.push_back((work, ending));
    }

    fn front(&mut self) -> &mut Work {
        self.works.front_mut().expect("a mail is under way")
    }

    fn command(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }
}

/// Stands for: no recipient was accepted, though MAIL was. Transient; recipients refused for good
/// are settled and not asked for again.
pub(super) const NO_RECIPIENTS: u16 = 450;

/// A buffer larger than this is given back when it has been sent.
const OUT_KEPT_SIZE_BYTES_MAX: usize = 256 * 1024;

/// So much content is in `out` beyond what has been sent, and a chunk or a line more.
const PIECE_SIZE_BYTES: usize = 256 * 1024;

/// How many bytes of whole lines there are within the first `most`; all if that is more than there are.
fn lines_within(content: &[u8], most: usize) -> usize {
    if content.len() <= most {
        return content.len();
    }
    let end = memchr::memmem::rfind(&content[..most], b"\r\n");
    end.map_or(content.len(), |end| end + 2)
}

#[cfg(test)]
mod tests;

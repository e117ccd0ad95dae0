//! The client's side of a session (RFC 5321 §4, RFC 2033): transactions in, outcomes out.

mod capabilities;
mod exchange;
mod parameters;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

pub use self::capabilities::{Capabilities, Limits};

use self::exchange::Exchange;
use self::parameters::Declared;
use crate::esmtp::{Notify, Return};
use crate::output::{Mark, Outgoing};
use crate::reply::{EnhancedCode, Reply, ReplyLine, ReplyLines};

/// One session of delivery, without its connection.
///
/// The order of calls: [`handle_bytes`](Self::handle_bytes) with what was received (it takes
/// all), [`poll_event`](Self::poll_event) until `None`, [`submit`](Self::submit) while
/// [`can_submit`](Self::can_submit), then [`output`](Self::output) and
/// [`consume_output`](Self::consume_output). The caller holds the clock: [`waiting`](Self::waiting)
/// says for what, [`progress`](Self::progress) since when, and [`handle_loss`](Self::handle_loss)
/// ends it when that takes too long or the connection is over. Each transaction submitted gives
/// exactly one [`Finished`], whatever the peer does.
///
/// A reply counts only when what it answers has left: one that comes before ends the session as
/// [`LossReason::Malformed`]. Content is the exception: it may be refused before its end, which
/// stands as the answer and ends the session as [`LossReason::Interrupted`], but never be accepted.
#[derive(Debug)]
pub struct ClientSession {
    options: ClientOptions,
    stage: Stage,
    capabilities: Capabilities,
    replies: ReplyLines,
    outgoing: Outgoing,
    /// Replies that are due, in order, each with where the command that it answers ends.
    expected: VecDeque<(Expected, Mark)>,
    /// At most two, and the second only when transactions are pipelined: the first then waits for
    /// the answer to its end of data. A reply belongs to the first.
    exchanges: VecDeque<Exchange>,
    events: VecDeque<ClientEvent>,
    /// A transaction was judged in full on this connection.
    has_served: bool,
    /// Complete replies so far.
    replies_count: u64,
    /// See [`was_cut_short`](ClientSession::was_cut_short).
    is_cut_short: bool,
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Our name for EHLO or LHLO.
    pub hostname: Box<str>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Send the next MAIL right behind the end of data where the server offers PIPELINING
    /// (RFC 2920 §3.1): saves a round trip for each message. Not for strict order: when the first
    /// message fails, the second may be delivered already.
    pub pipeline_transactions: bool,
}

/// What a client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Protocol {
    /// RFC 5321, to a relay or a mailbox server.
    #[default]
    Smtp,
    /// RFC 2033, to a mailbox server: one answer for each recipient to the end of data.
    Lmtp,
}

/// A transaction to do.
#[derive(Debug)]
pub struct NewMail<'a, R> {
    /// The caller's name for it.
    pub key: u64,
    /// Without brackets; empty is the null reverse-path.
    pub reverse_path: &'a str,
    /// At least one.
    pub recipients: R,
    /// Canonical content (see [`Outgoing`]).
    pub content: Bytes,
    /// Some line of it begins with a dot.
    pub leading_dot: bool,
    /// It was declared BODY=8BITMIME.
    pub eight_bit: bool,
    /// It was declared SMTPUTF8.
    pub utf8: bool,
    /// RET.
    pub ret: Option<Return>,
    /// ENVID, in `xtext`.
    pub envelope_id: Option<&'a str>,
    /// MT-PRIORITY.
    pub priority: Option<i8>,
}

/// A recipient of a transaction to do.
#[derive(Clone, Copy, Debug)]
pub struct NewRecipient<'a> {
    /// Without brackets.
    pub address: &'a str,
    /// NOTIFY.
    pub notify: Option<Notify>,
    /// ORCPT, with its address type, encoded.
    pub original: Option<&'a str>,
}

/// What happened.
#[derive(PartialEq, Eq, Debug)]
pub enum ClientEvent {
    /// The hand-shake is done.
    Ready,
    /// A transaction is over.
    Finished(Finished),
    /// The session is over, not by our QUIT; each open transaction was `Finished` before.
    Lost(LossReason),
    /// The session is over after our QUIT, answered or not: close.
    Over,
}

/// How a transaction ended.
#[derive(PartialEq, Eq, Debug)]
pub struct Finished {
    /// The caller's name for it.
    pub key: u64,
    /// What became of the recipients.
    pub results: Results,
    /// The first positive reply to the end of data, else the last negative one, if there was one.
    pub reply: Option<Reply>,
    /// The server offers DSN, so what it accepted it also reports (RFC 3461 §5.2.1). Else a report
    /// of success is the caller's to send: "relayed" (§5.2.2), or by LMTP "delivered".
    pub dsn_passed_on: bool,
}

/// What became of the recipients of a transaction.
#[derive(PartialEq, Eq, Debug)]
pub enum Results {
    /// The server has judged no part of the message.
    NotTried {
        /// What became of its MAIL, if that had left: a transient refusal that is not about the
        /// sender's address, or the end of the session. It speaks against the server, but the
        /// message may be the reason: that which meets it again and again should not come first
        /// for ever.
        refusal: Option<Reply>,
    },
    /// One for each recipient, in order.
    Recipients(Vec<RecipientResult>),
}

/// What became of one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecipientResult {
    /// The next hop has taken responsibility.
    Delivered,
    /// To be tried again.
    Transient(Reply),
    /// Never.
    Permanent(Reply),
    /// The end of data was sent, and no answer came: delivered or not. To be tried again, at the
    /// risk of a duplicate (RFC 1047).
    Unknown,
}

/// Why a session is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LossReason {
    /// The greeting or the answer to our hello was negative.
    Refused(Reply),
    /// 421 (RFC 5321 §3.8).
    ShutDown(Reply),
    /// Content was refused before its end, so that there is no way on but to close.
    Interrupted,
    /// The connection ended.
    Closed,
    /// The caller waited too long.
    TimedOut,
    /// The caller may not go on. What had left entirely may have been taken; everything else was not tried,
    /// whatever the server has said of it so far.
    Withheld,
    /// The peer does not speak SMTP, or answered what was not asked.
    Malformed,
}

/// What the session waits for: RFC 5321 §4.5.3.2 has a time-out for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// §4.5.3.2.1.
    Greeting,
    /// An answer to EHLO, MAIL, RCPT (§4.5.3.2.2 and .3) or RSET.
    Reply,
    /// The answer to DATA (§4.5.3.2.4).
    DataStart,
    /// Room to send content (§4.5.3.2.5).
    ContentSent,
    /// The answer to the end of data (§4.5.3.2.6).
    DataEnd,
    /// The answer to QUIT, which decides nothing any more.
    Goodbye,
    /// Nothing: idle or over.
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    HandShake,
    Ready,
    Quitting,
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Greeting,
    ExtendedHello,
    Hello,
    Mail,
    Recipient(usize),
    Data,
    /// To the end of data: about all recipients.
    End,
    /// To the end of data: about one (RFC 2033 §4.2).
    RecipientEnd(usize),
    Reset,
    Quit,
}

impl ClientSession {
    /// A session on a new connection: waits for the greeting.
    pub fn new(options: ClientOptions) -> ClientSession {
        let outgoing = Outgoing::default();
        ClientSession {
            options,
            stage: Stage::HandShake,
            capabilities: Capabilities::default(),
            replies: ReplyLines::default(),
            expected: VecDeque::from([(Expected::Greeting, outgoing.mark())]),
            outgoing,
            exchanges: VecDeque::new(),
            events: VecDeque::new(),
            has_served: false,
            replies_count: 0,
            is_cut_short: false,
        }
    }

    /// Takes bytes from the server: all of them.
    pub fn handle_bytes(&mut self, input: &[u8]) {
        let mut rest = input;
        while !rest.is_empty() && self.stage != Stage::Over {
            let capabilities = match self.expected.front() {
                Some((Expected::ExtendedHello, _)) => Some(&mut self.capabilities),
                _ => None,
            };
            let on_line = |line: ReplyLine<'_>| {
                if let Some(capabilities) = capabilities {
                    capabilities.note(line.text);
                }
                line.complete
            };
            match self.replies.handle_bytes(rest, on_line) {
                Err(_) => return self.handle_loss(LossReason::Malformed),
                Ok((used, reply)) => {
                    rest = &rest[used..];
                    if let Some(reply) = reply.flatten() {
                        self.replies_count += 1;
                        self.handle_reply(reply);
                    }
                }
            }
        }
    }

    /// Ends the session: the connection is over, or the caller has waited too long. Transactions
    /// finish with what is known of them.
    pub fn handle_loss(&mut self, reason: LossReason) {
        if self.stage == Stage::Over {
            return;
        }
        let answer_due = self.expected.front().map(|(expected, _)| *expected);
        self.expected.clear();
        if core::mem::replace(&mut self.stage, Stage::Over) == Stage::Quitting {
            return self.events.push_back(ClientEvent::Over);
        }
        let reply = loss_reply(&reason);
        let dsn_passed_on = self.capabilities.dsn;
        for (place, exchange) in core::mem::take(&mut self.exchanges).into_iter().enumerate() {
            let has_left = |end: Option<Mark>| end.is_some_and(|end| self.outgoing.has_passed(end));
            self.is_cut_short |= place == 0 && (exchange.is_answered || has_left(exchange.end));
            let finished = if place > 0 {
                exchange.give_up(None)
            } else if has_left(exchange.end) {
                // 421 answers what it was the answer to, and nothing else.
                let answer = match (&reason, answer_due) {
                    (LossReason::ShutDown(reply), Some(expected)) => Some((expected, reply)),
                    _ => None,
                };
                exchange.lose_answer(answer, dsn_passed_on)
            } else if exchange.is_answered && reason != LossReason::Withheld {
                exchange.finish(&RecipientResult::Transient(reply.clone()), dsn_passed_on)
            } else {
                let is_theirs = reason != LossReason::Withheld;
                let refusal =
                    (is_theirs && has_left(Some(exchange.mail_end))).then(|| reply.clone());
                exchange.give_up(refusal)
            };
            self.events.push_back(ClientEvent::Finished(finished));
        }
        self.events.push_back(ClientEvent::Lost(reason));
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// What the session waits for now.
    pub fn waiting(&self) -> Waiting {
        match self.expected.front() {
            _ if self.stage == Stage::Over => Waiting::Nothing,
            None => Waiting::Nothing,
            Some((expected, end)) => match expected {
                Expected::Greeting => Waiting::Greeting,
                Expected::Data => Waiting::DataStart,
                Expected::End | Expected::RecipientEnd(_) => match self.outgoing.has_passed(*end) {
                    true => Waiting::DataEnd,
                    false => Waiting::ContentSent,
                },
                Expected::Quit => Waiting::Goodbye,
                _ => Waiting::Reply,
            },
        }
    }

    /// Grows with each complete reply and each octet sent, and with nothing else. A time-out runs
    /// from when this or [`waiting`](Self::waiting) last changed: a reply that trickles in has no
    /// more time than one that comes at once.
    pub fn progress(&self) -> u64 {
        self.replies_count + self.outgoing.sent()
    }

    /// Whether a transaction may be submitted now.
    pub fn can_submit(&self) -> bool {
        if self.stage != Stage::Ready {
            return false;
        }
        let may_overlap = self.options.pipeline_transactions && self.capabilities.pipelining;
        let is_about_end =
            |(it, _): &(Expected, Mark)| matches!(it, Expected::End | Expected::RecipientEnd(_));
        match self.exchanges.len() {
            0 => self.expected.is_empty(),
            1 => may_overlap && self.expected.iter().all(is_about_end),
            _ => false,
        }
    }

    /// Whether there is no transaction, and nothing is awaited.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Ready && self.exchanges.is_empty() && self.expected.is_empty()
    }

    /// Whether the session has ended.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether a transaction was judged in full on this connection, whatever the judgement.
    pub fn has_served(&self) -> bool {
        self.has_served
    }

    /// Whether the session ended in the middle of a transaction that the server had begun to judge.
    pub fn was_cut_short(&self) -> bool {
        self.is_cut_short
    }

    /// What the server offers; nothing before `Ready`.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Begins a transaction. For recipients that the server cannot be given it fails, and if there
    /// are no others it finishes at once.
    pub fn submit<'a, R>(&mut self, mail: NewMail<'a, R>)
    where
        R: ExactSizeIterator<Item = NewRecipient<'a>> + Clone,
    {
        assert!(self.can_submit(), "no transaction can begin now");
        assert!(mail.recipients.len() > 0, "a transaction has recipients");
        let refuse = |recipient: NewRecipient<'_>| {
            let reply = Declared::refusal_of(self.capabilities, recipient.address)?;
            Some(RecipientResult::Permanent(reply))
        };
        let results: Vec<_> = mail.recipients.clone().map(refuse).collect();
        let needs_utf8 = |(result, recipient): (&Option<_>, NewRecipient<'_>)| {
            result.is_none() && !recipient.address.is_ascii()
        };
        let recipients_need_utf8 = results.iter().zip(mail.recipients.clone()).any(needs_utf8);
        let mut exchange = Exchange::new(mail.key, results, mail.content.clone(), mail.leading_dot);
        match Declared::new(self.capabilities, &mail, recipients_need_utf8) {
            Ok(declared) if exchange.has_open() => {
                self.push_transaction(&mut exchange, declared, mail);
                self.exchanges.push_back(exchange);
            }
            refused => {
                if let Err(reply) = refused {
                    exchange.fill(&RecipientResult::Permanent(reply));
                }
                let finished = exchange.finish(&RecipientResult::Unknown, self.capabilities.dsn);
                self.events.push_back(ClientEvent::Finished(finished));
            }
        }
    }

    /// Says good-bye. Only when idle.
    pub fn quit(&mut self) {
        assert!(self.is_idle(), "a session quits when it is idle");
        self.stage = Stage::Quitting;
        self.push_command(Expected::Quit, "QUIT");
    }

    /// What to send.
    pub fn output(&self) -> &Outgoing {
        &self.outgoing
    }

    /// Says that the first `len` octets of the output were sent.
    pub fn consume_output(&mut self, len: usize) {
        self.outgoing.consume(len);
    }

    fn handle_reply(&mut self, reply: Reply) {
        let Some((expected, end)) = self.expected.front().copied() else {
            let reason = match reply.code {
                421 => LossReason::ShutDown(reply),
                _ => LossReason::Malformed,
            };
            return self.handle_loss(reason);
        };
        if reply.code == 421 && expected != Expected::Quit {
            // The answer to a command of the transaction, MAIL apart, is about the transaction too.
            let about_message = !matches!(expected, Expected::Mail | Expected::Reset);
            if let (true, Some(exchange)) = (about_message, self.exchanges.front_mut()) {
                exchange.is_answered = true;
            }
            return self.handle_loss(LossReason::ShutDown(reply));
        }
        if !self.outgoing.has_passed(end) {
            return self.handle_early_reply(expected, reply);
        }
        self.expected.pop_front();
        match expected {
            Expected::Greeting if reply.code == 220 => self.push_hello(),
            Expected::ExtendedHello | Expected::Hello if reply.is_positive() => {
                self.stage = Stage::Ready;
                self.events.push_back(ClientEvent::Ready);
            }
            Expected::ExtendedHello
                if reply.is_permanent() && self.options.protocol == Protocol::Smtp =>
            {
                self.capabilities = Capabilities::default();
                self.push_named("HELO", Expected::Hello);
            }
            Expected::Greeting | Expected::ExtendedHello | Expected::Hello => {
                self.handle_loss(LossReason::Refused(reply));
            }
            Expected::Quit => {
                self.stage = Stage::Over;
                self.events.push_back(ClientEvent::Over);
            }
            Expected::Reset if reply.is_positive() => {}
            Expected::Reset => self.handle_loss(LossReason::Malformed),
            Expected::Data if reply.code == 354 => self.push_content(),
            _ if reply.code / 100 == 3 => self.handle_no_answer(expected, end),
            Expected::Mail => self.handle_mail_reply(reply),
            Expected::Recipient(place) => self.handle_recipient_reply(place, reply),
            // 2xx to DATA is no SMTP: whether it now takes content for commands is unknown.
            Expected::Data if reply.is_positive() => self.handle_loss(LossReason::Malformed),
            Expected::Data => self.handle_data_refusal(reply),
            Expected::End => self.handle_end_reply(reply),
            Expected::RecipientEnd(place) => self.handle_recipient_end_reply(place, reply),
        }
    }

    /// A reply to what has not left yet.
    fn handle_early_reply(&mut self, expected: Expected, reply: Reply) {
        let is_about_content = matches!(expected, Expected::End | Expected::RecipientEnd(_));
        if !is_about_content || reply.code < 400 {
            return self.handle_loss(LossReason::Malformed);
        }
        let exchange = self.exchanges.front_mut().expect("content has its transaction");
        exchange.fill(&negative(reply.clone()));
        exchange.note_end_reply(reply);
        self.finish_front();
        self.handle_loss(LossReason::Interrupted);
    }

    /// 3xx where there is none: what was asked stays unanswered.
    fn handle_no_answer(&mut self, expected: Expected, end: Mark) {
        self.expected.push_front((expected, end));
        self.handle_loss(LossReason::Malformed);
    }

    fn handle_mail_reply(&mut self, reply: Reply) {
        let exchange = self.exchanges.front_mut().expect("a reply to MAIL has its transaction");
        if reply.is_positive() {
            exchange.is_answered = true;
            exchange.has_mail = true;
            return self.push_next();
        }
        exchange.refuse(reply);
        if !self.capabilities.pipelining {
            self.finish_front();
        }
    }

    fn handle_recipient_reply(&mut self, place: usize, reply: Reply) {
        let exchange = self.exchanges.front_mut().expect("a reply to RCPT has its transaction");
        exchange.is_answered = true;
        if reply.is_positive() {
            exchange.accept(place);
        } else {
            exchange.settle(place, negative(recipient_reply(reply)));
        }
        self.push_next();
    }

    fn handle_data_refusal(&mut self, reply: Reply) {
        let exchange = self.exchanges.front_mut().expect("a reply to DATA has its transaction");
        exchange.fill(&negative(reply));
        self.reset_and_finish_front();
    }

    fn handle_end_reply(&mut self, reply: Reply) {
        let exchange = self.exchanges.front_mut().expect("a reply to content has its transaction");
        exchange.fill(&judgement(reply.clone()));
        exchange.note_end_reply(reply);
        self.finish_front();
    }

    fn handle_recipient_end_reply(&mut self, place: usize, reply: Reply) {
        let exchange = self.exchanges.front_mut().expect("a reply to content has its transaction");
        exchange.settle(place, judgement(reply.clone()));
        exchange.note_end_reply(reply);
        if !exchange.has_open() {
            self.finish_front();
        }
    }

    fn push_transaction<'a, R>(
        &mut self,
        exchange: &mut Exchange,
        declared: Declared,
        mail: NewMail<'a, R>,
    ) where
        R: ExactSizeIterator<Item = NewRecipient<'a>>,
    {
        let _ = declared.write_mail(&mail, &mut self.outgoing);
        self.end_command(Expected::Mail);
        exchange.mail_end = self.outgoing.mark();
        for (place, recipient) in mail.recipients.enumerate() {
            if exchange.is_settled(place) {
                continue;
            }
            if self.capabilities.pipelining {
                let _ = declared.write_recipient(&recipient, &mut self.outgoing);
                self.end_command(Expected::Recipient(place));
            } else {
                let mut line = String::new();
                let _ = declared.write_recipient(&recipient, &mut line);
                exchange.unsent.push_back((place, line));
            }
        }
        if self.capabilities.pipelining {
            self.push_command(Expected::Data, "DATA");
        }
    }

    /// Without PIPELINING: the next command of the transaction.
    fn push_next(&mut self) {
        if self.capabilities.pipelining {
            return;
        }
        let exchange = self.exchanges.front_mut().expect("a transaction is under way");
        if let Some((place, line)) = exchange.unsent.pop_front() {
            self.push_command(Expected::Recipient(place), &line);
        } else if exchange.accepted() > 0 {
            self.push_command(Expected::Data, "DATA");
        } else {
            self.reset_and_finish_front();
        }
    }

    /// After 354. When no recipient was accepted, an empty message ends it (RFC 2920 §3.1); by LMTP
    /// there would be no answer to that, and 354 no way on (RFC 2033 §4.2).
    fn push_content(&mut self) {
        let exchange = self.exchanges.front_mut().expect("354 has its transaction");
        if exchange.accepted() > 0 {
            self.outgoing.push_content(&exchange.content, exchange.leading_dot);
        } else if self.options.protocol == Protocol::Smtp {
            self.outgoing.push_text(b".\r\n");
        } else {
            return self.handle_loss(LossReason::Malformed);
        }
        let end = self.outgoing.mark();
        exchange.end = Some(end);
        match self.options.protocol {
            Protocol::Smtp => self.expected.push_back((Expected::End, end)),
            Protocol::Lmtp => {
                let answers = exchange.accepted_places();
                self.expected.extend(answers.map(|place| (Expected::RecipientEnd(place), end)));
            }
        }
    }

    fn reset_and_finish_front(&mut self) {
        if self.exchanges[0].has_mail {
            self.push_command(Expected::Reset, "RSET");
        }
        self.finish_front();
    }

    fn finish_front(&mut self) {
        let exchange = self.exchanges.pop_front().expect("a transaction is under way");
        let finished = exchange.finish(&RecipientResult::Unknown, self.capabilities.dsn);
        self.has_served |= matches!(finished.results, Results::Recipients(_));
        self.events.push_back(ClientEvent::Finished(finished));
    }

    fn push_hello(&mut self) {
        let verb = match self.options.protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        };
        self.push_named(verb, Expected::ExtendedHello);
    }

    fn push_named(&mut self, verb: &str, expected: Expected) {
        self.outgoing.push_text(verb.as_bytes());
        self.outgoing.push_text(b" ");
        self.outgoing.push_text(self.options.hostname.as_bytes());
        self.end_command(expected);
    }

    fn push_command(&mut self, expected: Expected, line: &str) {
        self.outgoing.push_text(line.as_bytes());
        self.end_command(expected);
    }

    fn end_command(&mut self, expected: Expected) {
        self.outgoing.push_text(b"\r\n");
        self.expected.push_back((expected, self.outgoing.mark()));
    }
}

/// What stands for a reply that the end of the session took away.
fn loss_reply(reason: &LossReason) -> Reply {
    match reason {
        LossReason::Refused(reply) | LossReason::ShutDown(reply) => reply.clone(),
        LossReason::Closed | LossReason::Interrupted => {
            Reply::local(451, (4, 4, 2), "The next hop closed the connection")
        }
        LossReason::TimedOut => Reply::local(451, (4, 4, 2), "The next hop took too long"),
        LossReason::Withheld => Reply::local(451, (4, 4, 0), "Given up by us"),
        LossReason::Malformed => Reply::local(451, (4, 5, 0), "The next hop broke the protocol"),
    }
}

/// The answer to the end of data as a result.
fn judgement(reply: Reply) -> RecipientResult {
    if reply.is_positive() { RecipientResult::Delivered } else { negative(reply) }
}

/// 4xx and 5xx as results.
fn negative(reply: Reply) -> RecipientResult {
    if reply.is_permanent() {
        RecipientResult::Permanent(reply)
    } else {
        RecipientResult::Transient(reply)
    }
}

/// RFC 5321 §4.5.3.1.10: 552 to RCPT stands for 452 (too many recipients), unless the enhanced
/// code says that it is something else.
fn recipient_reply(mut reply: Reply) -> Reply {
    let is_other = reply.enhanced.is_some_and(|code| code != EnhancedCode(5, 5, 3));
    if reply.code == 552 && !is_other {
        reply.code = 452;
    }
    reply
}

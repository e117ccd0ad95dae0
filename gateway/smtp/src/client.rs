//! The client's side of a session (RFC 5321 §4): transactions in, outcomes out.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::esmtp::{Notify, Return};
use crate::output::{Mark, Outgoing};
use crate::reply::{EnhancedCode, Reply, ReplyLine, ReplyLines};

/// One session of delivery, without its connection.
///
/// The order of calls: [`handle_bytes`](Self::handle_bytes) with what was received (it takes
/// all), [`poll_event`](Self::poll_event) until `None`, [`submit`](Self::submit) while
/// [`can_submit`](Self::can_submit), then [`output`](Self::output) and
/// [`consume_output`](Self::consume_output). The caller holds the clock: [`waiting`](Self::waiting)
/// says for what, and [`handle_loss`](Self::handle_loss) ends it when that takes too long or the
/// connection is over. Each transaction submitted gives exactly one [`Finished`], whatever the
/// peer does.
#[derive(Debug)]
pub struct ClientSession {
    options: ClientOptions,
    stage: Stage,
    capabilities: Capabilities,
    replies: ReplyLines,
    outgoing: Outgoing,
    /// Replies that are due, in order.
    expected: VecDeque<Expected>,
    /// At most two, and the second only when transactions are pipelined: the first then waits for
    /// the answer to its end of data. A reply belongs to the first.
    exchanges: VecDeque<Exchange>,
    events: VecDeque<ClientEvent>,
    /// A transaction was answered in full on this connection.
    has_served: bool,
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Our name for EHLO.
    pub hostname: Box<str>,
    /// Send the next MAIL right behind the end of data where the server offers PIPELINING
    /// (RFC 2920 §3.1): saves a round trip for each message. Not for strict order: when the first
    /// message fails, the second may be delivered already.
    pub pipeline_transactions: bool,
}

/// What the server offers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Capabilities {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 1870: offered, with its largest message in octets (0: no fixed bound).
    pub size: Option<u64>,
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
    /// The reply to the end of data, if there was one.
    pub reply: Option<Reply>,
}

/// What became of the recipients of a transaction.
#[derive(PartialEq, Eq, Debug)]
pub enum Results {
    /// The session ended before the server had judged any part of it: says nothing about the
    /// message.
    NotTried,
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
    /// The connection ended.
    Closed,
    /// The caller waited too long.
    TimedOut,
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
    End,
    Reset,
    Quit,
}

/// A transaction under way.
#[derive(Debug)]
struct Exchange {
    key: u64,
    /// The lines of MAIL and RCPT that were not sent: all but MAIL, without PIPELINING.
    unsent: VecDeque<Vec<u8>>,
    content: Bytes,
    leading_dot: bool,
    /// None while open.
    results: Vec<Option<RecipientResult>>,
    accepted: usize,
    /// The server has accepted MAIL.
    has_mail: bool,
    /// The server has answered any part of it.
    is_answered: bool,
    /// Where its end of data ends, once that is queued.
    end: Option<Mark>,
}

impl ClientSession {
    /// A session on a new connection: waits for the greeting.
    pub fn new(options: ClientOptions) -> ClientSession {
        ClientSession {
            options,
            stage: Stage::HandShake,
            capabilities: Capabilities::default(),
            replies: ReplyLines::default(),
            outgoing: Outgoing::default(),
            expected: VecDeque::from([Expected::Greeting]),
            exchanges: VecDeque::new(),
            events: VecDeque::new(),
            has_served: false,
        }
    }

    /// Takes bytes from the server: all of them.
    pub fn handle_bytes(&mut self, input: &[u8]) {
        let mut rest = input;
        while !rest.is_empty() && self.stage != Stage::Over {
            let capabilities = match self.expected.front() {
                Some(Expected::ExtendedHello) => Some(&mut self.capabilities),
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
        self.expected.clear();
        if core::mem::replace(&mut self.stage, Stage::Over) == Stage::Quitting {
            return self.events.push_back(ClientEvent::Over);
        }
        let reply = match &reason {
            LossReason::Refused(reply) | LossReason::ShutDown(reply) => reply.clone(),
            LossReason::Closed => {
                Reply::local(451, (4, 4, 2), "The next hop closed the connection")
            }
            LossReason::TimedOut => Reply::local(451, (4, 4, 2), "The next hop took too long"),
            LossReason::Malformed => {
                Reply::local(451, (4, 5, 0), "The next hop broke the protocol")
            }
        };
        let is_answer = matches!(reason, LossReason::ShutDown(_));
        for (place, exchange) in core::mem::take(&mut self.exchanges).into_iter().enumerate() {
            let is_sent = exchange.end.is_some_and(|end| self.outgoing.has_passed(end));
            // A connection that dies at once at a message may die of that message: it must not
            // come first again for ever.
            let is_suspect = place == 0 && (exchange.is_answered || !self.has_served);
            let finished = if is_sent && place == 0 && !is_answer {
                exchange.finish(&RecipientResult::Unknown, None)
            } else if is_suspect || (is_sent && place == 0) {
                exchange.finish(&RecipientResult::Transient(reply.clone()), None)
            } else {
                Finished { key: exchange.key, results: Results::NotTried, reply: None }
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
            Some(Expected::Greeting) => Waiting::Greeting,
            Some(Expected::Data) => Waiting::DataStart,
            Some(Expected::End) if self.end_is_unsent() => Waiting::ContentSent,
            Some(Expected::End) => Waiting::DataEnd,
            Some(Expected::Quit) => Waiting::Goodbye,
            Some(_) => Waiting::Reply,
        }
    }

    /// Whether a transaction may be submitted now.
    pub fn can_submit(&self) -> bool {
        if self.stage != Stage::Ready {
            return false;
        }
        let may_overlap = self.options.pipeline_transactions && self.capabilities.pipelining;
        match self.exchanges.len() {
            0 => self.expected.is_empty(),
            1 => may_overlap && self.exchanges[0].end.is_some() && self.expected.len() == 1,
            _ => false,
        }
    }

    /// Whether there is no transaction, and nothing is awaited.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Ready && self.exchanges.is_empty() && self.expected.is_empty()
    }

    /// Whether a transaction was answered in full on this connection, whatever the answer.
    pub fn has_served(&self) -> bool {
        self.has_served
    }

    /// What the server offers; nothing before `Ready`.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Begins a transaction. What the server is known to refuse finishes at once.
    pub fn submit<'a, R>(&mut self, mail: NewMail<'a, R>)
    where
        R: ExactSizeIterator<Item = NewRecipient<'a>>,
    {
        assert!(self.can_submit(), "no transaction can begin now");
        assert!(mail.recipients.len() > 0, "a transaction has recipients");
        let (key, recipients) = (mail.key, mail.recipients.len());
        if let Some(reply) = self.refusal_in_advance(&mail.content) {
            let result = RecipientResult::Permanent(reply);
            let results = Results::Recipients(alloc::vec![result; recipients]);
            let finished = Finished { key, results, reply: None };
            return self.events.push_back(ClientEvent::Finished(finished));
        }
        let mut exchange = Exchange {
            key,
            unsent: VecDeque::new(),
            content: mail.content,
            leading_dot: mail.leading_dot,
            results: alloc::vec![None; recipients],
            accepted: 0,
            has_mail: false,
            is_answered: false,
            end: None,
        };
        self.push_mail(mail.reverse_path, exchange.content.len(), mail.eight_bit);
        for (place, recipient) in mail.recipients.enumerate() {
            if self.capabilities.pipelining {
                self.push_command(
                    Expected::Recipient(place),
                    &[b"RCPT TO:<", recipient.address.as_bytes(), b">"],
                );
            } else {
                exchange
                    .unsent
                    .push_back([b"RCPT TO:<", recipient.address.as_bytes(), b">"].concat());
            }
        }
        if self.capabilities.pipelining {
            self.push_command(Expected::Data, &[b"DATA"]);
        }
        self.exchanges.push_back(exchange);
    }

    /// Says good-bye. Only when idle.
    pub fn quit(&mut self) {
        assert!(self.is_idle(), "a session quits when it is idle");
        self.stage = Stage::Quitting;
        self.push_command(Expected::Quit, &[b"QUIT"]);
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
        if reply.code == 421 && self.expected.front() != Some(&Expected::Quit) {
            // The answer to a command of the transaction, MAIL apart, is about the transaction too.
            let in_transaction = matches!(
                self.expected.front(),
                Some(Expected::Recipient(_) | Expected::Data | Expected::End)
            );
            if let (true, Some(exchange)) = (in_transaction, self.exchanges.front_mut()) {
                exchange.is_answered = true;
            }
            return self.handle_loss(LossReason::ShutDown(reply));
        }
        match self.expected.pop_front() {
            None => self.handle_loss(LossReason::Malformed),
            Some(Expected::Greeting) if reply.code == 220 => self.push_hello(true),
            Some(Expected::ExtendedHello | Expected::Hello) if reply.is_positive() => {
                self.stage = Stage::Ready;
                self.events.push_back(ClientEvent::Ready);
            }
            Some(Expected::ExtendedHello) if reply.is_permanent() => {
                self.capabilities = Capabilities::default();
                self.push_hello(false);
            }
            Some(Expected::Greeting | Expected::ExtendedHello | Expected::Hello) => {
                self.handle_loss(LossReason::Refused(reply));
            }
            Some(Expected::Quit) => {
                self.stage = Stage::Over;
                self.events.push_back(ClientEvent::Over);
            }
            Some(Expected::Reset) if reply.is_positive() => {}
            Some(Expected::Reset) => self.handle_loss(LossReason::Malformed),
            Some(Expected::Data) if reply.code == 354 => self.push_content(),
            Some(_) if reply.code / 100 == 3 => self.handle_loss(LossReason::Malformed),
            Some(Expected::Mail) => self.handle_mail_reply(reply),
            Some(Expected::Recipient(place)) => self.handle_recipient_reply(place, reply),
            // 2xx to DATA is no SMTP: whether it now takes content for commands is unknown.
            Some(Expected::Data) if reply.is_positive() => self.handle_loss(LossReason::Malformed),
            Some(Expected::Data) => self.handle_data_refusal(reply),
            Some(Expected::End) => self.handle_end_reply(reply),
        }
    }

    fn handle_mail_reply(&mut self, reply: Reply) {
        let exchange = self.exchanges.front_mut().expect("a reply to MAIL has its transaction");
        exchange.is_answered = true;
        if reply.is_positive() {
            exchange.has_mail = true;
            self.push_next();
        } else {
            exchange.fill(&negative(reply));
            if !self.capabilities.pipelining {
                self.finish_front(None);
            }
        }
    }

    fn handle_recipient_reply(&mut self, place: usize, reply: Reply) {
        let exchange = self.exchanges.front_mut().expect("a reply to RCPT has its transaction");
        if reply.is_positive() {
            // Where MAIL was refused, RCPT cannot be accepted; the refusal stands.
            exchange.accepted += usize::from(exchange.results[place].is_none());
        } else if exchange.results[place].is_none() {
            exchange.results[place] = Some(negative(recipient_reply(reply)));
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
        if reply.is_positive() {
            exchange.fill(&RecipientResult::Delivered);
        } else {
            exchange.fill(&negative(reply.clone()));
        }
        self.finish_front(Some(reply));
    }

    /// Without PIPELINING: the next command of the transaction.
    fn push_next(&mut self) {
        if self.capabilities.pipelining {
            return;
        }
        let exchange = self.exchanges.front_mut().expect("a transaction is under way");
        if let Some(line) = exchange.unsent.pop_front() {
            let place = exchange.results.len() - exchange.unsent.len() - 1;
            self.push_command(Expected::Recipient(place), &[&line]);
        } else if exchange.accepted > 0 {
            self.push_command(Expected::Data, &[b"DATA"]);
        } else {
            self.reset_and_finish_front();
        }
    }

    /// After 354. When no recipient was accepted, an empty message ends it (RFC 2920 §3.1).
    fn push_content(&mut self) {
        let exchange = self.exchanges.front_mut().expect("354 has its transaction");
        if exchange.accepted > 0 {
            self.outgoing.push_content(&exchange.content, exchange.leading_dot);
        } else {
            self.outgoing.push_text(b".\r\n");
        }
        exchange.end = Some(self.outgoing.mark());
        self.expected.push_back(Expected::End);
    }

    fn reset_and_finish_front(&mut self) {
        if self.exchanges[0].has_mail {
            self.push_command(Expected::Reset, &[b"RSET"]);
        }
        self.finish_front(None);
    }

    fn finish_front(&mut self, reply: Option<Reply>) {
        let exchange = self.exchanges.pop_front().expect("a transaction is under way");
        self.has_served = true;
        let finished = exchange.finish(&RecipientResult::Unknown, reply);
        self.events.push_back(ClientEvent::Finished(finished));
    }

    fn end_is_unsent(&self) -> bool {
        let end = self.exchanges.front().and_then(|exchange| exchange.end);
        end.is_some_and(|end| !self.outgoing.has_passed(end))
    }

    /// What the capabilities of the server tell before MAIL: too large (RFC 1870 §6.1), or 8-bit
    /// content without 8BITMIME (RFC 6152 §3: nothing here converts).
    fn refusal_in_advance(&self, content: &Bytes) -> Option<Reply> {
        let size_max = self.capabilities.size.filter(|size| *size > 0);
        if size_max.is_some_and(|max| u64::try_from(content.len()).is_ok_and(|len| len > max)) {
            return Some(Reply::local(552, (5, 3, 4), "Larger than the next hop allows"));
        }
        if !self.capabilities.eight_bit_mime && !content.is_ascii() {
            return Some(Reply::local(554, (5, 6, 3), "The next hop does not offer 8BITMIME"));
        }
        None
    }

    fn push_hello(&mut self, extended: bool) {
        let hostname = self.options.hostname.clone();
        let (expected, verb) = match extended {
            true => (Expected::ExtendedHello, &b"EHLO "[..]),
            false => (Expected::Hello, &b"HELO "[..]),
        };
        self.push_command(expected, &[verb, hostname.as_bytes()]);
    }

    fn push_mail(&mut self, reverse_path: &str, size: usize, eight_bit: bool) {
        let mut digits = [0; 20];
        let size: &[&[u8]] = match self.capabilities.size {
            Some(_) => &[b" SIZE=", decimal(size, &mut digits)],
            None => &[],
        };
        self.outgoing.push_text(b"MAIL FROM:<");
        self.outgoing.push_text(reverse_path.as_bytes());
        self.outgoing.push_text(b">");
        for part in size {
            self.outgoing.push_text(part);
        }
        if eight_bit && self.capabilities.eight_bit_mime {
            self.outgoing.push_text(b" BODY=8BITMIME");
        }
        self.push_command(Expected::Mail, &[]);
    }

    fn push_command(&mut self, expected: Expected, parts: &[&[u8]]) {
        for part in parts {
            self.outgoing.push_text(part);
        }
        self.outgoing.push_text(b"\r\n");
        self.expected.push_back(expected);
    }
}

impl Capabilities {
    /// Notes one line of an EHLO reply (RFC 5321 §4.1.1.1). The first is the server's name, which
    /// could only by malice be one of these words.
    fn note(&mut self, line: &[u8]) {
        let mut words = line.split(|byte| *byte == b' ');
        let keyword = words.next().unwrap_or_default();
        if keyword.eq_ignore_ascii_case(b"PIPELINING") {
            self.pipelining = true;
        } else if keyword.eq_ignore_ascii_case(b"8BITMIME") {
            self.eight_bit_mime = true;
        } else if keyword.eq_ignore_ascii_case(b"SIZE") {
            let number = words.next().and_then(|word| core::str::from_utf8(word).ok());
            self.size = Some(number.and_then(|number| number.parse().ok()).unwrap_or(0));
        }
    }
}

impl Exchange {
    /// Gives the open recipients their result.
    fn fill(&mut self, result: &RecipientResult) {
        for open in self.results.iter_mut().filter(|result| result.is_none()) {
            *open = Some(result.clone());
        }
    }

    fn finish(mut self, open: &RecipientResult, reply: Option<Reply>) -> Finished {
        self.fill(open);
        let results = self.results.into_iter().flatten().collect();
        Finished { key: self.key, results: Results::Recipients(results), reply }
    }
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

fn decimal(number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    let mut left = number;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        if left == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests;

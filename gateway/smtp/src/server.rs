//! The server's side of a session (RFC 5321 §4).

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::command::{self, Command, Dialect};
use crate::content::{ContentErrors, ContentSummary, Decoder};
use crate::esmtp::{ENVELOPE_ID_LEN_MAX, MailParameters, ORIGINAL_LEN_MAX, RecipientParameters};
use crate::path::HelloName;
use crate::reply::Refusal;

/// One session, from greeting to QUIT, without its connection.
///
/// The order of calls:
///
/// 1. [`handle_bytes`](Self::handle_bytes) with what was received. It takes bytes up to the next
///    event; call it again with the rest while it takes any.
/// 2. [`poll_event`](Self::poll_event) after each call, until `None`.
/// 3. An event that asks for a verdict gets exactly one of its `accept_` method (or
///    [`commit`](Self::commit)) and [`refuse`](Self::refuse). Until then no bytes are taken, so a
///    pipelined group cannot overtake a verdict.
/// 4. [`output`](Self::output) and [`consume_output`](Self::consume_output) once all is taken, so
///    that the replies to a group leave in one write (RFC 2920 §3.2).
///
/// Memory is bounded by one command line and [`OUTPUT_LEN_MAX`] of replies; content goes straight
/// to the caller's buffer.
#[derive(Debug)]
pub struct ServerSession {
    limits: Arc<ServerLimits>,
    phase: Phase,
    event: Option<ServerEvent>,
    /// A command line that has begun; at most [`COMMAND_LINE_MAX`].
    line: Vec<u8>,
    /// The line was longer than that; the rest of it is skipped.
    line_too_long: bool,
    output: Vec<u8>,
    hello: Option<Hello>,
    decoder: Decoder,
    has_mail: bool,
    /// MAIL of this transaction, accepted or waiting, said SMTPUTF8.
    is_utf8: bool,
    /// Accepted in this transaction; at most `limits.recipients_max`.
    recipients: usize,
    /// Since the last message that was committed; at most `limits.errors_max`.
    errors: u32,
}

/// What a server announces and enforces; shared by its sessions.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Our name, for the greeting and the answer to EHLO.
    pub hostname: Box<str>,
    /// Most octets of a message, announced by SIZE; above it 552 5.3.4.
    pub message_size_max: u64,
    /// Most recipients of a transaction; RCPT beyond it gets 452 4.5.3.
    pub recipients_max: usize,
    /// Most octets of a text line without CRLF; a message with a longer one gets 554 5.6.0.
    /// RFC 5321 §4.5.3.1.6 asks for at least 998.
    pub text_line_max: usize,
    /// So many bad commands since the last good message end the session: 421 4.7.0.
    pub errors_max: u32,
}

/// What the client did.
#[derive(PartialEq, Eq, Debug)]
pub enum ServerEvent {
    /// MAIL. Verdict: [`ServerSession::accept_mail`] or `refuse`.
    Mail(MailParameters),
    /// RCPT. Verdict: [`ServerSession::accept_recipient`] or `refuse`.
    Recipient(RecipientParameters),
    /// DATA, with at least one recipient accepted. Reserve what the message needs before the
    /// verdict: [`ServerSession::accept_data`] or `refuse`.
    DataRequested,
    /// The whole content is in the caller's buffer. Verdict: [`ServerSession::commit`], once the
    /// message is safe, or `refuse`.
    EndOfData(ContentSummary),
    /// The transaction is over without a message (RSET, a new hello, content that was wrong): give
    /// everything back.
    Aborted,
    /// The session is over, and so is the transaction if one was under way: send what there is
    /// and close.
    Quit,
}

/// How the client introduced itself.
#[derive(Debug)]
struct Hello {
    name: HelloName,
    extended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Taking commands.
    Command,
    /// A verdict is due.
    Mail,
    Recipient,
    Data,
    EndOfData,
    /// Taking content.
    Content,
    /// Skipping content; this is what the client gets at its end, unless it was wrong itself.
    Skip(Option<Refusal>),
    /// Over. What the client still sends is ignored.
    Closed,
}

impl ServerSession {
    /// A session that begins with its greeting.
    pub fn new(limits: Arc<ServerLimits>) -> ServerSession {
        let mut session = ServerSession {
            decoder: Decoder::new(limits.text_line_max, limits.message_size_max),
            limits,
            phase: Phase::Command,
            event: None,
            line: Vec::new(),
            line_too_long: false,
            output: Vec::new(),
            hello: None,
            has_mail: false,
            is_utf8: false,
            recipients: 0,
            errors: 0,
        };
        let limits = Arc::clone(&session.limits);
        session.write(format_args!("220 {} ESMTP Hikyaku\r\n", limits.hostname));
        session
    }

    /// Takes bytes from the client, up to the next event, and appends content to `content`.
    /// Returns how many were taken: none while a verdict is due, an event was not polled, or
    /// [`OUTPUT_LEN_MAX`] of replies wait to be sent.
    pub fn handle_bytes(&mut self, input: &[u8], content: &mut Vec<u8>) -> usize {
        let mut used = 0;
        while used < input.len() && self.is_ready() {
            let rest = &input[used..];
            used += match self.phase {
                Phase::Content | Phase::Skip(_) => self.take_content(rest, content),
                Phase::Closed => rest.len(),
                _ => self.take_line(rest),
            };
        }
        used
    }

    /// What happened, if anything did.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.event.take()
    }

    /// Whether a verdict is due.
    pub fn awaits_verdict(&self) -> bool {
        matches!(self.phase, Phase::Mail | Phase::Recipient | Phase::Data | Phase::EndOfData)
    }

    /// Whether content is streaming in to the caller's buffer.
    pub fn is_receiving_content(&self) -> bool {
        self.phase == Phase::Content
    }

    /// Whether no transaction is under way.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Command && !self.has_mail
    }

    /// The client's name, and whether it said EHLO. None before.
    pub fn hello(&self) -> Option<(&str, bool)> {
        self.hello.as_ref().map(|hello| (hello.name.as_str(), hello.extended))
    }

    /// Replies to send.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// Says that the first `len` octets of the output were sent.
    pub fn consume_output(&mut self, len: usize) {
        self.output.drain(..len);
    }

    /// Accepts MAIL.
    pub fn accept_mail(&mut self) {
        assert!(self.phase == Phase::Mail, "no MAIL waits");
        self.has_mail = true;
        self.answer(Phase::Command, "250 2.1.0 Sender ok\r\n");
    }

    /// Accepts RCPT.
    pub fn accept_recipient(&mut self) {
        assert!(self.phase == Phase::Recipient, "no RCPT waits");
        self.recipients += 1;
        self.answer(Phase::Command, "250 2.1.5 Recipient ok\r\n");
    }

    /// Accepts DATA: content follows.
    pub fn accept_data(&mut self) {
        assert!(self.phase == Phase::Data, "no DATA waits");
        self.decoder = Decoder::new(self.limits.text_line_max, self.limits.message_size_max);
        self.answer(Phase::Content, "354 End data with <CR><LF>.<CR><LF>\r\n");
    }

    /// Takes responsibility for the message (RFC 5321 §4.2.5): the one place that writes the 250
    /// to the end of data. `id` is what we call it, printable.
    pub fn commit(&mut self, id: impl fmt::Display) {
        assert!(self.phase == Phase::EndOfData, "no message waits");
        self.end_transaction();
        self.errors = 0;
        self.phase = Phase::Command;
        self.write(format_args!("250 2.0.0 Ok: queued as {id}\r\n"));
    }

    /// Refuses what waits for a verdict. After `EndOfData` the transaction is over.
    pub fn refuse(&mut self, refusal: &Refusal) {
        assert!(self.awaits_verdict(), "nothing waits");
        if self.phase == Phase::EndOfData {
            self.end_transaction();
        }
        self.phase = Phase::Command;
        self.write_refusal(refusal);
    }

    /// Refuses the content that is streaming in: the rest is skipped, and its end gets the
    /// refusal. The transaction is over for the caller; no `Aborted` follows.
    pub fn refuse_content(&mut self, refusal: &Refusal) {
        assert!(self.phase == Phase::Content, "no content streams");
        self.end_transaction();
        self.decoder.discard();
        self.phase = Phase::Skip(Some(*refusal));
    }

    /// Ends the session from our side (RFC 5321 §3.8): writes a refusal, which should be a 421,
    /// unless the session is over already. A transaction under way is forgotten without an event.
    pub fn close(&mut self, refusal: &Refusal) {
        if self.phase != Phase::Closed {
            self.write_refusal(refusal);
            self.end_transaction();
            self.event = None;
            self.phase = Phase::Closed;
        }
    }

    /// Whether the session is over: close once the output is sent.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    fn is_ready(&self) -> bool {
        self.event.is_none() && !self.awaits_verdict() && self.output.len() < OUTPUT_LEN_MAX
    }

    fn take_content(&mut self, input: &[u8], content: &mut Vec<u8>) -> usize {
        let (used, ended) = self.decoder.decode(input, content);
        let errors = self.decoder.errors();
        if self.phase == Phase::Content && errors.any() {
            self.end_transaction();
            self.event = Some(ServerEvent::Aborted);
            self.phase = Phase::Skip(None);
        }
        if !ended {
            return used;
        }
        if let Phase::Skip(refusal) = self.phase {
            self.phase = Phase::Command;
            self.write_refusal(&refusal.unwrap_or_else(|| content_refusal(errors)));
        } else {
            self.phase = Phase::EndOfData;
            self.event = Some(ServerEvent::EndOfData(self.decoder.summary()));
        }
        used
    }

    fn take_line(&mut self, input: &[u8]) -> usize {
        let end = memchr::memchr(b'\n', input);
        let used = end.map_or(input.len(), |end| end + 1);
        let mut line = core::mem::take(&mut self.line);
        if line.len() + used > COMMAND_LINE_MAX {
            self.line_too_long = true;
            line.clear();
        }
        if end.is_none() {
            if !self.line_too_long {
                line.extend_from_slice(input);
            }
        } else if core::mem::take(&mut self.line_too_long) {
            self.refuse_command(&command::LINE_TOO_LONG);
        } else if line.is_empty() {
            // The usual case: the line lies whole in the input, and is parsed there.
            self.handle_line(&input[..used]);
        } else {
            line.extend_from_slice(&input[..used]);
            self.handle_line(&line);
            line.clear();
        }
        self.line = line;
        used
    }

    fn handle_line(&mut self, line: &[u8]) {
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return self.refuse_command(&command::BARE_NEWLINE);
        };
        let extended = self.hello.as_ref().is_some_and(|hello| hello.extended);
        let dialect = Dialect { extended, utf8: self.has_mail && self.is_utf8 };
        match Command::parse(line, dialect) {
            Ok(command) => self.handle_command(command),
            Err(refusal) => self.refuse_command(&refusal),
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Hello { name, extended } => {
                self.abort_transaction();
                self.hello = Some(Hello { name, extended });
                self.write_hello(extended);
            }
            Command::Mail(_) if self.hello.is_none() => self.refuse_command(&HELLO_FIRST),
            Command::Mail(_) if self.has_mail => self.refuse_command(&NESTED_MAIL),
            Command::Mail(mail) => self.handle_mail(mail),
            Command::Recipient(_) if !self.has_mail => self.refuse_command(&MAIL_FIRST),
            Command::Recipient(_) if self.recipients >= self.limits.recipients_max => {
                self.write_refusal(&TOO_MANY_RECIPIENTS);
            }
            Command::Recipient(parameters) => {
                self.phase = Phase::Recipient;
                self.event = Some(ServerEvent::Recipient(parameters));
            }
            Command::Data if !self.has_mail => self.refuse_command(&MAIL_FIRST),
            // RFC 5321 §3.3: 503 or 554 when no RCPT was accepted.
            Command::Data if self.recipients == 0 => self.write_refusal(&NO_RECIPIENTS),
            Command::Data => {
                self.phase = Phase::Data;
                self.event = Some(ServerEvent::DataRequested);
            }
            Command::Reset => {
                self.abort_transaction();
                self.write_str("250 2.0.0 Ok\r\n");
            }
            Command::Noop => self.write_str("250 2.0.0 Ok\r\n"),
            // RFC 5321 §3.5.3: 252 for what cannot be verified but will be tried.
            Command::Verify => self.write_str("252 2.0.0 Cannot verify, will try to deliver\r\n"),
            Command::Help => self.write_str("214 2.0.0 See RFC 5321\r\n"),
            Command::Quit => {
                self.write_str("221 2.0.0 Bye\r\n");
                self.end_transaction();
                self.phase = Phase::Closed;
                self.event = Some(ServerEvent::Quit);
            }
        }
    }

    fn handle_mail(&mut self, mail: MailParameters) {
        // RFC 1870 §6.1.
        if mail.size.is_some_and(|size| size > self.limits.message_size_max) {
            return self.write_refusal(&TOO_LARGE);
        }
        self.is_utf8 = mail.utf8;
        self.phase = Phase::Mail;
        self.event = Some(ServerEvent::Mail(mail));
    }

    fn abort_transaction(&mut self) {
        if self.has_mail {
            self.end_transaction();
            self.event = Some(ServerEvent::Aborted);
        }
    }

    fn end_transaction(&mut self) {
        self.has_mail = false;
        self.recipients = 0;
    }

    /// Answers a command that is wrong in itself, and counts it.
    fn refuse_command(&mut self, refusal: &Refusal) {
        self.write_refusal(refusal);
        self.errors += 1;
        if self.errors >= self.limits.errors_max {
            self.write_refusal(&TOO_MANY_ERRORS);
            self.end_transaction();
            self.phase = Phase::Closed;
            self.event = Some(ServerEvent::Quit);
        }
    }

    fn answer(&mut self, phase: Phase, reply: &str) {
        self.phase = phase;
        self.write_str(reply);
    }

    fn write_hello(&mut self, extended: bool) {
        let limits = Arc::clone(&self.limits);
        if extended {
            self.write(format_args!(
                "250-{}\r\n250-PIPELINING\r\n250-SIZE {}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
                 250-DSN\r\n250-MT-PRIORITY\r\n250 ENHANCEDSTATUSCODES\r\n",
                limits.hostname, limits.message_size_max
            ));
        } else {
            self.write(format_args!("250 {}\r\n", limits.hostname));
        }
    }

    fn write_refusal(&mut self, refusal: &Refusal) {
        let Refusal { code, enhanced, text } = *refusal;
        self.write(format_args!("{code} {enhanced} {text}\r\n"));
    }

    fn write_str(&mut self, reply: &str) {
        self.output.extend_from_slice(reply.as_bytes());
    }

    fn write(&mut self, reply: fmt::Arguments<'_>) {
        let result = Append(&mut self.output).write_fmt(reply);
        debug_assert!(result.is_ok(), "appending to a vector does not fail");
    }
}

/// Octets of a command line with its CRLF, for any command: what the longest one may need. A longer
/// one is skipped and gets 500.
pub const COMMAND_LINE_MAX: usize = {
    // RFC 5321 §4.5.3.1.4.
    let plain = 512;
    // SIZE (RFC 1870 §3), BODY (RFC 6152 §2), SMTPUTF8 (RFC 6531 §3.1), RET and ENVID (RFC 3461
    // §4.3 and §4.4), MT-PRIORITY (RFC 6710 §3).
    let mail =
        plain + 26 + 17 + 10 + " RET=HDRS".len() + " ENVID=".len() + ENVELOPE_ID_LEN_MAX + 15;
    // NOTIFY and ORCPT (RFC 3461 §4.1 and §4.2).
    let notify = " NOTIFY=SUCCESS,FAILURE,DELAY".len();
    let recipient = plain + notify + " ORCPT=".len() + ORIGINAL_LEN_MAX;
    if mail > recipient { mail } else { recipient }
};
/// While so many octets of replies wait to be sent, no more commands are taken: a client that
/// sends and does not read is slowed down.
pub const OUTPUT_LEN_MAX: usize = 16 * 1024;

const HELLO_FIRST: Refusal = Refusal::new(503, (5, 5, 1), "EHLO or HELO first");
const MAIL_FIRST: Refusal = Refusal::new(503, (5, 5, 1), "MAIL first");
const NESTED_MAIL: Refusal = Refusal::new(503, (5, 5, 1), "A transaction is under way");
const NO_RECIPIENTS: Refusal = Refusal::new(554, (5, 5, 1), "No valid recipients");
const TOO_MANY_RECIPIENTS: Refusal = Refusal::new(452, (4, 5, 3), "Too many recipients");
const TOO_MANY_ERRORS: Refusal = Refusal::new(421, (4, 7, 0), "Too many errors");
const TOO_LARGE: Refusal = Refusal::new(552, (5, 3, 4), "Message larger than allowed");
const BARE_NEWLINE: Refusal =
    Refusal::new(550, (5, 6, 11), "Lines of the message must end with CR LF");
const LONG_LINE: Refusal = Refusal::new(554, (5, 6, 0), "A line of the message is too long");

/// The reply to the end of content that was wrong itself.
fn content_refusal(errors: ContentErrors) -> Refusal {
    if errors.too_large {
        TOO_LARGE
    } else if errors.bare_newline {
        BARE_NEWLINE
    } else {
        LONG_LINE
    }
}

/// Formats straight into a byte buffer.
struct Append<'a>(&'a mut Vec<u8>);

impl Write for Append<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec;
    use proptest::prelude::*;

    /// A session whose events get the verdicts of a simple caller.
    struct Harness {
        session: ServerSession,
        content: Vec<u8>,
        replies: String,
        events: Vec<String>,
        messages: Vec<Vec<u8>>,
    }

    impl Harness {
        fn new() -> Harness {
            let limits = ServerLimits {
                hostname: "mx.example".into(),
                message_size_max: 2000,
                recipients_max: 2,
                text_line_max: 998,
                errors_max: 5,
            };
            Harness {
                session: ServerSession::new(Arc::new(limits)),
                content: Vec::new(),
                replies: String::new(),
                events: Vec::new(),
                messages: Vec::new(),
            }
        }

        fn send(&mut self, input: &[u8]) -> &mut Harness {
            let mut rest = input;
            loop {
                let used = self.session.handle_bytes(rest, &mut self.content);
                rest = &rest[used..];
                let event = self.session.poll_event();
                self.take_output();
                match event {
                    Some(event) => self.judge(event),
                    None if rest.is_empty() => return self,
                    None => assert!(used > 0, "stuck at {rest:?}"),
                }
            }
        }

        fn judge(&mut self, event: ServerEvent) {
            self.events.push(alloc::format!("{event:?}"));
            match event {
                ServerEvent::Mail(_) => self.session.accept_mail(),
                ServerEvent::Recipient(to) if to.path.as_str().starts_with("no") => {
                    self.session.refuse(&Refusal::new(550, (5, 1, 1), "Unknown"));
                }
                ServerEvent::Recipient(_) => self.session.accept_recipient(),
                ServerEvent::DataRequested => {
                    self.content.clear();
                    self.session.accept_data();
                }
                ServerEvent::EndOfData(_) => {
                    self.messages.push(core::mem::take(&mut self.content));
                    self.session.commit(self.messages.len());
                }
                ServerEvent::Aborted | ServerEvent::Quit => self.content.clear(),
            }
            self.take_output();
        }

        fn take_output(&mut self) {
            let output = self.session.output();
            self.replies.push_str(core::str::from_utf8(output).unwrap());
            let len = output.len();
            self.session.consume_output(len);
        }

        /// The codes of the replies so far, one for each reply.
        fn codes(&mut self) -> Vec<String> {
            let is_last = |line: &&str| line.as_bytes()[3] == b' ';
            let codes = self.replies.lines().filter(is_last).map(|line| line[..3].into()).collect();
            self.replies.clear();
            codes
        }
    }

    fn started() -> Harness {
        let mut harness = Harness::new();
        harness.send(b"EHLO client.example\r\n").codes();
        harness
    }

    #[test]
    fn a_pipelined_transaction() {
        let mut harness = Harness::new();
        harness.send(
            b"EHLO c.example\r\nMAIL FROM:<a@b> SIZE=8\r\nRCPT TO:<c@d>\r\nRCPT TO:<no@d>\r\nDATA\r\n\
              ..x\r\ny\r\n.\r\nQUIT\r\n",
        );
        assert_eq!(
            harness.replies,
            "220 mx.example ESMTP Hikyaku\r\n250-mx.example\r\n250-PIPELINING\r\n250-SIZE 2000\r\n\
             250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-MT-PRIORITY\r\n\
             250 ENHANCEDSTATUSCODES\r\n250 2.1.0 Sender ok\r\n\
             250 2.1.5 Recipient ok\r\n550 5.1.1 Unknown\r\n\
             354 End data with <CR><LF>.<CR><LF>\r\n250 2.0.0 Ok: queued as 1\r\n221 2.0.0 Bye\r\n"
        );
        assert_eq!(harness.messages, [b".x\r\ny\r\n"]);
        assert!(harness.session.is_closed());
    }

    #[test]
    fn nothing_behind_a_verdict_is_taken_before_it() {
        let mut harness = started();
        let group = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n";
        let used = harness.session.handle_bytes(group, &mut Vec::new());
        assert_eq!(used, 14);
        assert!(matches!(harness.session.poll_event(), Some(ServerEvent::Mail(_))));
        assert_eq!(harness.session.handle_bytes(&group[used..], &mut Vec::new()), 0);
        harness.session.accept_mail();
        assert_eq!(harness.session.handle_bytes(&group[used..], &mut Vec::new()), 15);
    }

    #[test]
    fn smtputf8_counts_for_its_transaction_only() {
        let mut harness = started();
        let utf8 = "RCPT TO:<ü@b>\r\n".as_bytes();
        harness.send(b"MAIL FROM:<a@b> SMTPUTF8\r\n").send(utf8).send(b"RSET\r\n");
        assert_eq!(harness.codes(), ["250", "250", "250"]);
        assert_eq!(harness.send(utf8).codes(), ["553"]);
        harness.send(b"MAIL FROM:<a@b>\r\n").send(utf8).send("VRFY ü SMTPUTF8\r\n".as_bytes());
        assert_eq!(harness.codes(), ["250", "553", "252"]);
    }

    #[test]
    fn a_command_out_of_sequence_gets_503() {
        // RFC 5321 §4.1.4 and §3.3.
        let table: [(&[u8], &[&str]); 6] = [
            (b"MAIL FROM:<>\r\n", &["220", "503"]),
            (b"EHLO c\r\nRCPT TO:<a@b>\r\n", &["220", "250", "503"]),
            (b"EHLO c\r\nDATA\r\n", &["220", "250", "503"]),
            (b"HELO c\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n", &["220", "250", "250", "503"]),
            (b"HELO c\r\nMAIL FROM:<>\r\nDATA\r\n", &["220", "250", "250", "554"]),
            (
                b"NOOP\r\nRSET\r\nVRFY a\r\nHELP\r\nQUIT\r\n",
                &["220", "250", "250", "252", "214", "221"],
            ),
        ];
        for (input, codes) in table {
            assert_eq!(Harness::new().send(input).codes(), codes, "{input:?}");
        }
    }

    #[test]
    fn size_is_refused_when_declared_and_when_counted() {
        let mut harness = started();
        assert_eq!(harness.send(b"MAIL FROM:<a@b> SIZE=2001\r\n").codes(), ["552"]);
        harness.send(b"MAIL FROM:<a@b> SIZE=1\r\nRCPT TO:<a@b>\r\nDATA\r\n").codes();
        harness.send(&b"0123456789\r\n".repeat(200)).send(b".\r\n");
        assert!(harness.replies.contains("552 5.3.4"), "{}", harness.replies);
        assert_eq!(harness.events.last().map(String::as_str), Some("Aborted"));
        harness.codes();
        assert_eq!(harness.send(b"DATA\r\n").codes(), ["503"]);
    }

    #[test]
    fn bare_newlines_in_content_are_refused_and_smuggle_nothing() {
        for bad in [&b"a\n.\nMAIL FROM:<x@y>"[..], b"a\n.\r\nb", b"a\r.\r\nb", b"a\r\n.\nb"] {
            let mut harness = started();
            harness.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n").codes();
            harness.send(bad).send(b"\r\n.\r\n");
            assert_eq!(harness.replies, "550 5.6.11 Lines of the message must end with CR LF\r\n");
            assert!(harness.messages.is_empty());
        }
    }

    #[test]
    fn lines_have_their_limits() {
        let mut harness = started();
        let long = [b"NOOP ".to_vec(), vec![b'x'; COMMAND_LINE_MAX - 6], b"\r\n".to_vec()].concat();
        assert_eq!(harness.send(&long).codes(), ["500"]);
        let fits = [b"NOOP ".to_vec(), vec![b'x'; COMMAND_LINE_MAX - 7], b"\r\n".to_vec()].concat();
        assert_eq!(harness.send(&fits).codes(), ["250"]);
        assert_eq!(harness.send(b"NOOP\n").codes(), ["500"]);
        harness.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n").codes();
        let text = [vec![b'x'; 999], b"\r\n.\r\n".to_vec()].concat();
        assert_eq!(harness.send(&text).codes(), ["554"]);
    }

    #[test]
    fn too_many_recipients_and_too_many_errors() {
        let mut harness = started();
        harness
            .send(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<no@b>\r\nRCPT TO:<c@b>\r\n")
            .codes();
        assert_eq!(harness.send(b"RCPT TO:<d@b>\r\n").codes(), ["452"]);
        assert_eq!(harness.send(b"x\r\nx\r\nx\r\nx\r\n").codes(), ["500"; 4]);
        assert_eq!(harness.send(b"x\r\nNOOP\r\n").codes(), ["500", "421"]);
        assert!(harness.session.is_closed());
    }

    #[test]
    fn a_new_hello_and_rset_abort_the_transaction() {
        let mut harness = started();
        harness.send(b"MAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\nEHLO d\r\nRSET\r\n");
        assert_eq!(harness.events.iter().filter(|event| *event == "Aborted").count(), 2);
        assert!(harness.session.is_idle());
    }

    #[test]
    fn content_refused_midway_is_skipped_to_its_end() {
        let mut harness = started();
        harness.send(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nfirst\r\n").codes();
        harness.session.refuse_content(&Refusal::new(452, (4, 3, 1), "Full"));
        let before = harness.content.len();
        assert_eq!(harness.send(b"more\r\n").codes(), [""; 0]);
        assert_eq!(harness.content.len(), before, "what is refused takes no memory");
        assert_eq!(harness.send(b"QUIT\r\n.\r\nNOOP\r\n").codes(), ["452", "250"]);
    }

    #[test]
    fn replies_that_nobody_reads_stop_the_commands() {
        let mut session = started().session;
        let flood = b"NOOP\r\n".repeat(5000);
        let used = session.handle_bytes(&flood, &mut Vec::new());
        assert!(used < flood.len() && session.output().len() < OUTPUT_LEN_MAX + 600);
        session.consume_output(session.output().len());
        assert!(session.handle_bytes(&flood[used..], &mut Vec::new()) > 0);
    }

    fn dialogue() -> impl Strategy<Value = Vec<u8>> {
        let token = prop::sample::select(vec![
            &b"EHLO c\r\n"[..],
            b"MAIL FROM:<a@b>\r\n",
            b"RCPT TO:<c@d>\r\n",
            b"DATA\r\n",
            b"DATA\r\n",
            b"text\r\n",
            b"..dot\r\n",
            b".\r\n",
            b"RSET\r\n",
            b"\n",
            b"\r",
            b"NOOP\r\n",
            b"QUIT\r\n",
            b"\0\xff\r\n",
        ]);
        prop::collection::vec(token, 0..30).prop_map(|tokens| {
            [b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", &*tokens.concat()].concat()
        })
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_dialogue(input in dialogue(), cuts in [0usize..300, 0usize..300]) {
            let low = cuts[0].min(cuts[1]).min(input.len());
            let high = cuts[0].max(cuts[1]).min(input.len());
            let mut whole = Harness::new();
            whole.send(&input);
            let mut split = Harness::new();
            split.send(&input[..low]).send(&input[low..high]).send(&input[high..]);
            prop_assert_eq!(whole.replies, split.replies);
            prop_assert_eq!(whole.events, split.events);
            prop_assert_eq!(whole.messages, split.messages);
        }

        #[test]
        fn random_bytes_do_no_harm(input in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut harness = Harness::new();
            harness.send(&input);
            prop_assert!(harness.session.line.capacity() <= 2 * COMMAND_LINE_MAX);
        }
    }
}

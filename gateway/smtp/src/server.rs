//! The server's side of a session (RFC 5321 §4).

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::command::{self, Command, Dialect};
use crate::content::{BareNewlines, ContentErrors, ContentSummary, Decoder, Framing};
use crate::esmtp::{ENVELOPE_ID_LEN_MAX, MailParameters, ORIGINAL_LEN_MAX, RecipientParameters};
use crate::path::HelloName;
use crate::reply::Refusal;

/// One session, from greeting to QUIT, without its connection.
///
/// The order of calls:
///
/// 1. [`handle_bytes`](Self::handle_bytes) with what was received. It takes bytes up to the next
///    event or to where content begins; call it again with the rest while it takes any.
/// 2. [`poll_event`](Self::poll_event) after each call, until `None`.
/// 3. An event that asks for a verdict gets exactly one of its `accept_` method (or
///    [`commit`](Self::commit)) and [`refuse`](Self::refuse). Until then no bytes are taken, so a
///    pipelined group cannot overtake a verdict.
/// 4. [`output`](Self::output) and [`consume_output`](Self::consume_output) once all is taken, so
///    that the replies to a group leave in one write (RFC 2920 §3.2).
///
/// Before each call while [`is_receiving_content`](Self::is_receiving_content), the caller makes
/// sure of room for [`content_len_max`](Self::content_len_max) of the input.
///
/// Content may come by DATA or in chunks by BDAT (RFC 3030). To the caller that is the same: the
/// first BDAT asks for the verdict that DATA asks for, and the last one ends the data. A chunk that
/// is refused is read and dropped before its refusal is written, and the transaction is over then;
/// chunks that the client has sent behind it are dropped too, each with a 503.
///
/// Memory is bounded by one command line and [`OUTPUT_LEN_MAX`] of replies; content goes straight
/// to the caller's buffer. A session between commands holds its client's name and at most
/// [`OUTPUT_KEPT`] octets.
#[derive(Debug)]
pub struct ServerSession {
    limits: Arc<ServerLimits>,
    rules: SessionRules,
    phase: Phase,
    event: Option<ServerEvent>,
    /// A command line that has begun; at most [`COMMAND_LINE_MAX`].
    line: Vec<u8>,
    /// The line was longer than that; the rest of it is skipped.
    line_too_long: bool,
    output: Vec<u8>,
    hello: Option<Hello>,
    decoder: Decoder,
    /// The chunk whose octets are coming in, or wait for the verdict. None while content comes by
    /// DATA.
    chunk: Option<Chunk>,
    /// A chunk of this transaction was taken: the rest of it comes in chunks too.
    is_chunked: bool,
    /// A transaction with chunks has failed, and no other has begun: chunks without a transaction
    /// are no mistake of the client, which may have sent them before it knew.
    has_failed_chunks: bool,
    has_mail: bool,
    /// MAIL of this transaction, accepted or waiting, said SMTPUTF8.
    is_utf8: bool,
    /// Accepted in this transaction; at most `limits.recipients_max`.
    recipients: usize,
    /// Since the last message that was committed; at most `limits.errors_max`.
    errors: u32,
    /// With so many errors at most, commands are taken before the replies to others have left. None:
    /// not even without an error.
    errors_in_groups_max: Option<u32>,
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
    /// Most transactions of a session, announced by LIMITS (RFC 9422) up to [`LIMIT_MAX`]. The
    /// caller counts them and closes the session.
    pub mails_max: u32,
}

/// How strict one session is; may differ from client to client.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SessionRules {
    /// Of content.
    pub bare_newlines: BareNewlines,
    /// Of commands.
    pub illegal_pipelining: IllegalPipelining,
}

/// What becomes of a client that does not wait where it must (RFC 2920 §3.1).
///
/// Judged are EHLO, HELO, DATA and VRFY, whose answers decide what the client may send next: what
/// was sent behind them was sent blindly, or is content that somebody has made to look like
/// commands. Behind NOOP and QUIT nothing can be won by it, so they may stand anywhere. Only what
/// lies behind the command in the same call of [`ServerSession::handle_bytes`] counts: what comes
/// in later may have been sent after our answer. So a client that waits is never suspected,
/// however its bytes were split or joined on the way.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum IllegalPipelining {
    /// 554 5.5.0, and the session is over.
    #[default]
    Refuse,
    /// The commands are answered in order.
    Allow,
}

/// What the client did.
#[derive(PartialEq, Eq, Debug)]
pub enum ServerEvent {
    /// MAIL. Verdict: [`ServerSession::accept_mail`] or `refuse`.
    Mail(MailParameters),
    /// RCPT. Verdict: [`ServerSession::accept_recipient`] or `refuse`.
    Recipient(RecipientParameters),
    /// DATA or the first BDAT, with at least one recipient accepted. Reserve what the message needs
    /// before the verdict, and [`ServerSession::content_len_max`] of nothing on top:
    /// [`ServerSession::accept_data`] or `refuse`.
    DataRequested,
    /// The whole content is in the caller's buffer. Verdict: [`ServerSession::commit`], once the
    /// message is safe, or `refuse`.
    EndOfData(ContentSummary),
    /// The transaction is over without a message (RSET, a new hello, content that was wrong, a
    /// first chunk that was refused): give everything back.
    Aborted,
    /// The session is over, and so is the transaction if one was under way: send what there is
    /// and close.
    Quit,
}

/// A part of a message that comes by BDAT.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    size: u64,
    /// Octets that have not come in; at most `size`.
    left: u64,
    is_last: bool,
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
    /// Skipping content; this is what the client gets at its end. None: what was wrong in it.
    Skip(Option<Refusal>),
    /// Over. What the client still sends is ignored.
    Closed,
}

impl ServerSession {
    /// A session that begins with its greeting.
    pub fn new(limits: Arc<ServerLimits>, rules: SessionRules) -> ServerSession {
        let mut session = ServerSession {
            decoder: Decoder::new(limits.text_line_max, limits.message_size_max),
            limits,
            rules,
            phase: Phase::Command,
            event: None,
            line: Vec::new(),
            line_too_long: false,
            output: Vec::new(),
            hello: None,
            chunk: None,
            is_chunked: false,
            has_failed_chunks: false,
            has_mail: false,
            is_utf8: false,
            recipients: 0,
            errors: 0,
            errors_in_groups_max: Some(u32::MAX),
        };
        let limits = Arc::clone(&session.limits);
        session.write(format_args!("220 {} ESMTP Hikyaku\r\n", limits.hostname));
        session
    }

    /// Takes bytes from the client, up to the next event or to where content begins, and appends
    /// content to `content`. Returns how many were taken: none while a verdict is due, an event was
    /// not polled, or [`OUTPUT_LEN_MAX`] of replies wait to be sent, or any after too many
    /// [errors](Self::set_errors_in_groups_max).
    pub fn handle_bytes(&mut self, input: &[u8], content: &mut Vec<u8>) -> usize {
        let mut used = 0;
        while used < input.len() && self.is_ready() {
            let rest = &input[used..];
            used += match self.phase {
                Phase::Content | Phase::Skip(_) => self.take_content(rest, content),
                Phase::Closed => rest.len(),
                _ => {
                    let taken = self.take_line(rest);
                    self.end_empty_chunk(content);
                    if self.phase == Phase::Content {
                        // The caller has to make room first.
                        return used + taken;
                    }
                    taken
                }
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

    /// Whether the client is sending content, wanted or not.
    pub fn is_taking_content(&self) -> bool {
        matches!(self.phase, Phase::Content | Phase::Skip(_))
    }

    /// The most octets of content that [`handle_bytes`](Self::handle_bytes) may append for an
    /// input of `input_len`. What it does not need of them is needed at the end of the message.
    pub fn content_len_max(&self, input_len: usize) -> usize {
        self.decoder.appended_max(input_len)
    }

    /// Bad commands since the last good message: to slow a client down before it reaches the limit.
    pub fn errors(&self) -> u32 {
        self.errors
    }

    /// With more [`errors`](Self::errors) than that nothing is taken while a reply waits to be sent:
    /// whoever is to be slowed down by holding replies back gets them one by one, and has no use of
    /// sending commands in groups. None: so it is without an error too.
    pub fn set_errors_in_groups_max(&mut self, errors_max: Option<u32>) {
        self.errors_in_groups_max = errors_max;
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
        if self.output.is_empty() && self.output.capacity() > OUTPUT_KEPT {
            self.output = Vec::new();
        }
    }

    /// Accepts MAIL.
    pub fn accept_mail(&mut self) {
        self.begin_transaction();
        self.write_str("250 2.1.0 Sender ok\r\n");
    }

    /// Accepts MAIL with another MT-PRIORITY than it asked for (RFC 6710 has X.3.6 for that, with
    /// the priority at the start of the text).
    pub fn accept_mail_with_priority(&mut self, priority: i8) {
        self.begin_transaction();
        self.write(format_args!("250 2.3.6 {priority} is the priority of this message\r\n"));
    }

    /// Accepts RCPT.
    pub fn accept_recipient(&mut self) {
        assert!(self.phase == Phase::Recipient, "no RCPT waits");
        self.recipients += 1;
        self.phase = Phase::Command;
        self.write_str("250 2.1.5 Recipient ok\r\n");
    }

    /// Accepts DATA or the first BDAT: content follows.
    pub fn accept_data(&mut self) {
        assert!(self.phase == Phase::Data, "no DATA waits");
        self.is_chunked = self.chunk.is_some();
        let framing = if self.is_chunked { Framing::Chunks } else { Framing::Dots };
        self.decoder = Decoder::new(self.limits.text_line_max, self.limits.message_size_max)
            .with_framing(framing)
            .with_bare_newlines(self.rules.bare_newlines);
        self.phase = Phase::Content;
        if !self.is_chunked {
            self.write_str("354 End data with <CR><LF>.<CR><LF>\r\n");
        }
        // Content without an octet ends without an octet: nothing is appended here.
        self.end_empty_chunk(&mut Vec::new());
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

    /// Refuses what waits for a verdict. After `EndOfData` the transaction is over; at a first
    /// chunk it is too, and `Aborted` follows.
    pub fn refuse(&mut self, refusal: &Refusal) {
        assert!(self.awaits_verdict(), "nothing waits");
        if self.chunk.is_some() {
            self.fail_chunks();
            self.event = Some(ServerEvent::Aborted);
            self.phase = Phase::Skip(Some(*refusal));
            return self.end_empty_chunk(&mut Vec::new());
        }
        if self.phase == Phase::EndOfData {
            self.end_transaction();
        }
        self.phase = Phase::Command;
        self.write_refusal(refusal);
    }

    /// Refuses the content that is streaming in: the rest is skipped, and its end, or that of the
    /// chunk, gets the refusal. The transaction is over for the caller; no `Aborted` follows.
    pub fn refuse_content(&mut self, refusal: &Refusal) {
        assert!(self.phase == Phase::Content, "no content streams");
        self.abandon_content();
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

    /// Ends a session whose client spoke before our greeting, instead of the greeting. Only while
    /// none of that was sent.
    pub fn refuse_early_talker(&mut self) {
        assert!(self.phase == Phase::Command && self.hello.is_none(), "the greeting is sent");
        self.output.clear();
        self.close(&EARLY_TALKER);
    }

    /// Whether the session is over: close once the output is sent.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    fn is_ready(&self) -> bool {
        let is_one_by_one = self.errors_in_groups_max.is_none_or(|max| self.errors > max);
        let output_len_max = if is_one_by_one { 1 } else { OUTPUT_LEN_MAX };
        self.event.is_none() && !self.awaits_verdict() && self.output.len() < output_len_max
    }

    fn take_content(&mut self, input: &[u8], content: &mut Vec<u8>) -> usize {
        let (used, ended) = match &mut self.chunk {
            None => self.decoder.decode(input, content),
            Some(chunk) => {
                let used = usize::try_from(chunk.left).unwrap_or(usize::MAX).min(input.len());
                chunk.left -= u64::try_from(used).expect("it is at most what is left");
                // A chunk that was refused is not even looked at.
                if !matches!(self.phase, Phase::Skip(Some(_))) {
                    self.decoder.decode(&input[..used], content);
                }
                (used, chunk.left == 0)
            }
        };
        if self.phase == Phase::Content && self.decoder.errors().any() {
            self.abandon_content();
            self.event = Some(ServerEvent::Aborted);
            self.phase = Phase::Skip(None);
        }
        if ended {
            self.end_content(content);
        }
        used
    }

    /// A chunk of no octets ends where it begins.
    fn end_empty_chunk(&mut self, content: &mut Vec<u8>) {
        let is_streaming = matches!(self.phase, Phase::Content | Phase::Skip(_));
        if is_streaming && self.chunk.is_some_and(|chunk| chunk.left == 0) {
            self.end_content(content);
        }
    }

    /// All the content has come in, or all of a chunk.
    fn end_content(&mut self, content: &mut Vec<u8>) {
        let chunk = self.chunk.take();
        match self.phase {
            Phase::Skip(refusal) => {
                self.phase = Phase::Command;
                let errors = self.decoder.errors();
                let refusal = refusal.unwrap_or_else(|| content_refusal(errors));
                if refusal == MAIL_FIRST && !self.has_failed_chunks {
                    return self.refuse_command(&refusal);
                }
                return self.write_refusal(&refusal);
            }
            _ => match chunk {
                Some(chunk) if !chunk.is_last => {
                    self.phase = Phase::Command;
                    return self.write(format_args!("250 2.0.0 {} octets taken\r\n", chunk.size));
                }
                Some(_) => self.decoder.finish(content),
                None => {}
            },
        }
        let errors = self.decoder.errors();
        if errors.any() {
            self.abandon_content();
            self.event = Some(ServerEvent::Aborted);
            self.phase = Phase::Command;
            return self.write_refusal(&content_refusal(errors));
        }
        self.phase = Phase::EndOfData;
        self.event = Some(ServerEvent::EndOfData(self.decoder.summary()));
    }

    /// The transaction ends while its content comes in.
    fn abandon_content(&mut self) {
        self.decoder.discard();
        if self.is_chunked {
            self.fail_chunks();
        } else {
            self.end_transaction();
        }
    }

    fn fail_chunks(&mut self) {
        self.end_transaction();
        self.has_failed_chunks = true;
    }

    fn take_line(&mut self, input: &[u8]) -> usize {
        let end = memchr::memchr(b'\n', input);
        let used = end.map_or(input.len(), |end| end + 1);
        let is_followed = used < input.len();
        // Of a line that came in parts, only the parts are kept, and nothing behind its end.
        let mut line = core::mem::take(&mut self.line);
        if line.len() + used > COMMAND_LINE_MAX && !self.line_too_long {
            self.line_too_long = true;
            let is_chunk = is_chunk_command(line.iter().chain(input));
            line = Vec::new();
            if is_chunk {
                self.end_session(&command::BAD_CHUNK);
                return input.len();
            }
        }
        if end.is_none() {
            if !self.line_too_long {
                line.extend_from_slice(input);
                self.line = line;
            }
        } else if core::mem::take(&mut self.line_too_long) {
            self.refuse_command(&command::LINE_TOO_LONG);
        } else if line.is_empty() {
            // The usual case: the line lies whole in the input, and is parsed there.
            self.handle_line(&input[..used], is_followed);
        } else {
            line.extend_from_slice(&input[..used]);
            self.handle_line(&line, is_followed);
        }
        used
    }

    /// `is_followed` says that there is input behind the line.
    fn handle_line(&mut self, line: &[u8], is_followed: bool) {
        let extended = self.hello.as_ref().is_some_and(|hello| hello.extended);
        let dialect = Dialect { extended, utf8: self.has_mail && self.is_utf8 };
        let command = match line.strip_suffix(b"\r\n") {
            Some(line) => Command::parse(line, dialect),
            None => Err(command::BARE_NEWLINE),
        };
        match command {
            Ok(command) if is_followed && self.forbids_more_behind(&command) => {
                self.end_session(&ILLEGAL_PIPELINING);
            }
            Ok(command) => self.handle_command(command),
            // What follows is content, and how much of it cannot be known.
            Err(_) if is_chunk_command(line.iter()) => self.end_session(&command::BAD_CHUNK),
            Err(refusal) => self.refuse_command(&refusal),
        }
    }

    fn forbids_more_behind(&self, command: &Command) -> bool {
        let must_be_last =
            matches!(command, Command::Hello { .. } | Command::Data | Command::Verify);
        must_be_last && self.rules.illegal_pipelining == IllegalPipelining::Refuse
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
            // What the message needs was reserved for the recipients before.
            Command::Recipient(_) if self.is_chunked => self.refuse_command(&CHUNKS_BEGUN),
            Command::Recipient(_) if self.recipients >= self.limits.recipients_max => {
                self.write_refusal(&TOO_MANY_RECIPIENTS);
            }
            Command::Recipient(parameters) => {
                self.phase = Phase::Recipient;
                self.event = Some(ServerEvent::Recipient(parameters));
            }
            Command::Data if !self.has_mail => self.refuse_command(&MAIL_FIRST),
            // RFC 3030 §2.
            Command::Data if self.is_chunked => self.refuse_command(&CHUNKS_BEGUN),
            // RFC 5321 §3.3: 503 or 554 when no RCPT was accepted.
            Command::Data if self.recipients == 0 => self.write_refusal(&NO_RECIPIENTS),
            Command::Data => {
                self.phase = Phase::Data;
                self.event = Some(ServerEvent::DataRequested);
            }
            Command::Chunk { size, is_last } => {
                self.handle_chunk(Chunk { size, left: size, is_last });
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

    /// RFC 3030 §2: whatever is wrong with it, its octets are taken before the answer.
    fn handle_chunk(&mut self, chunk: Chunk) {
        self.chunk = Some(chunk);
        let before = if self.is_chunked { self.decoder.summary().size } else { 0 };
        if !self.has_mail {
            self.phase = Phase::Skip(Some(MAIL_FIRST));
        } else if self.recipients == 0 {
            self.phase = Phase::Skip(Some(NO_RECIPIENTS));
        } else if before.saturating_add(chunk.size) > self.limits.message_size_max {
            self.fail_chunks();
            self.event = Some(ServerEvent::Aborted);
            self.phase = Phase::Skip(Some(TOO_LARGE));
        } else if self.is_chunked {
            self.phase = Phase::Content;
        } else {
            self.phase = Phase::Data;
            self.event = Some(ServerEvent::DataRequested);
        }
    }

    fn handle_mail(&mut self, mail: MailParameters) {
        // RFC 1870 §6.1.
        if mail.size.is_some_and(|size| size > self.limits.message_size_max) {
            return self.write_refusal(&TOO_LARGE);
        }
        self.is_utf8 = mail.utf8;
        self.has_failed_chunks = false;
        self.phase = Phase::Mail;
        self.event = Some(ServerEvent::Mail(mail));
    }

    fn begin_transaction(&mut self) {
        assert!(self.phase == Phase::Mail, "no MAIL waits");
        self.has_mail = true;
        self.phase = Phase::Command;
    }

    fn abort_transaction(&mut self) {
        self.has_failed_chunks = false;
        if self.has_mail {
            self.end_transaction();
            self.event = Some(ServerEvent::Aborted);
        }
    }

    fn end_transaction(&mut self) {
        self.has_mail = false;
        self.is_chunked = false;
        self.recipients = 0;
    }

    /// Answers a command that is wrong in itself, and counts it.
    fn refuse_command(&mut self, refusal: &Refusal) {
        self.write_refusal(refusal);
        self.errors += 1;
        if self.errors >= self.limits.errors_max {
            self.end_session(&TOO_MANY_ERRORS);
        }
    }

    /// Ends the session for something that the client did.
    fn end_session(&mut self, refusal: &Refusal) {
        self.write_refusal(refusal);
        self.end_transaction();
        self.phase = Phase::Closed;
        self.event = Some(ServerEvent::Quit);
    }

    fn write_hello(&mut self, extended: bool) {
        let limits = Arc::clone(&self.limits);
        if !extended {
            return self.write(format_args!("250 {}\r\n", limits.hostname));
        }
        self.write(format_args!(
            "250-{}\r\n250-PIPELINING\r\n250-SIZE {}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
             250-CHUNKING\r\n250-DSN\r\n250-MT-PRIORITY\r\n",
            limits.hostname, limits.message_size_max
        ));
        let recipients_max = u32::try_from(limits.recipients_max).unwrap_or(u32::MAX);
        let announced = [("MAILMAX", limits.mails_max), ("RCPTMAX", recipients_max)];
        let announced = announced.into_iter().filter(|(_, limit)| (1..=LIMIT_MAX).contains(limit));
        for (place, (name, limit)) in announced.clone().enumerate() {
            self.write_str(if place == 0 { "250-LIMITS" } else { "" });
            self.write(format_args!(" {name}={limit}"));
        }
        self.write_str(if announced.count() > 0 { "\r\n" } else { "" });
        self.write_str("250 ENHANCEDSTATUSCODES\r\n");
    }

    fn write_refusal(&mut self, refusal: &Refusal) {
        let Refusal { code, enhanced, text } = *refusal;
        self.write(format_args!("{code} {enhanced} {text}\r\n"));
    }

    fn write_str(&mut self, reply: &str) {
        self.make_room();
        self.output.extend_from_slice(reply.as_bytes());
    }

    fn write(&mut self, reply: fmt::Arguments<'_>) {
        self.make_room();
        let result = Append(&mut self.output).write_fmt(reply);
        debug_assert!(result.is_ok(), "appending to a vector does not fail");
    }

    /// One allocation for the usual replies, instead of one for each few octets.
    fn make_room(&mut self) {
        if self.output.capacity() == 0 {
            self.output.reserve_exact(OUTPUT_KEPT);
        }
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
/// Octets of memory for replies that a session keeps when all are sent; above it all is given
/// back. The replies to one group of commands are shorter, those to EHLO are not.
pub const OUTPUT_KEPT: usize = 192;
/// The largest number that LIMITS can announce: six digits (RFC 9422 §4). A higher limit is not
/// announced.
pub const LIMIT_MAX: u32 = 999_999;

const HELLO_FIRST: Refusal = Refusal::new(503, (5, 5, 1), "EHLO or HELO first");
const MAIL_FIRST: Refusal = Refusal::new(503, (5, 5, 1), "MAIL first");
const NESTED_MAIL: Refusal = Refusal::new(503, (5, 5, 1), "A transaction is under way");
const CHUNKS_BEGUN: Refusal = Refusal::new(503, (5, 5, 1), "The message has begun to come by BDAT");
const ILLEGAL_PIPELINING: Refusal =
    Refusal::new(554, (5, 5, 0), "Wait for the answer before sending more");
const EARLY_TALKER: Refusal = Refusal::new(554, (5, 5, 0), "Wait for the greeting");
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

fn is_chunk_command<'a>(line: impl Iterator<Item = &'a u8>) -> bool {
    line.take(4).map(u8::to_ascii_uppercase).eq(*b"BDAT")
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
mod tests;

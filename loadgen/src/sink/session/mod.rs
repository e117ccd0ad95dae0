//! One session of the sink: the least of RFC 5321 (or of LMTP, RFC 2033) that a relay needs, as a state
//! machine that also watches the client's manners.

mod answer;
mod content;
mod output;

use super::faults::{Fault, Phase};
use super::offer::Offer;
use super::parameters::{read_mail, read_path, read_rcpt};
use crate::data::DataDecoder;
use crate::ledger::Outcome;
use answer::Carried;
use output::Output;

/// What a session asks and tells about the mail that it takes in.
pub(super) trait Judge {
    /// What goes wrong in this phase, this time.
    fn draw(&mut self, phase: Phase) -> Option<Fault>;
    /// A number below `end` (which is not 0), for what a fault leaves open.
    fn draw_below(&mut self, end: u64) -> u64;
    /// The client did what it must not.
    fn handle_violation(&mut self, violation: Violation, what: &str);
    /// A mail was refused at MAIL: for a while or for good.
    fn handle_refused_mail(&mut self, reverse_path: &str, outcome: Outcome);
    /// A recipient of a mail with that reverse-path was refused at RCPT.
    fn handle_refused_recipient(&mut self, reverse_path: &str, address: &str, outcome: Outcome);
    /// A mail was taken or refused, with that outcome for each of its recipients. `None`: its content
    /// was not seen, or not all of it.
    fn handle_mail(&mut self, envelope: &Envelope, content: Option<&[u8]>, outcomes: &[Outcome]);
    /// The client may not have read or believed the answer for these recipients.
    fn handle_doubt(&mut self, envelope: &Envelope);
}

/// What a client of the sink did that it must not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Violation {
    /// A CR or LF alone.
    Bare,
    /// 8-bit content or addresses without the extension that allows them.
    EightBit,
    /// A parameter or command of an extension that was not offered, or with a wrong value.
    Parameter,
    /// More content than SIZE declared.
    Size,
    /// A command sent before it may be.
    Pipelined,
    /// More mails or recipients than LIMITS allows.
    Limits,
}

/// From and to.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    /// The reverse-path without brackets.
    pub(super) reverse_path: String,
    /// The parameters of MAIL, as they came, with a blank before them.
    pub(super) parameters: String,
    /// The accepted forward-paths without brackets.
    pub(super) recipients: Vec<Box<str>>,
    /// The parameters of each RCPT, likewise; empty ones take no memory.
    pub(super) recipient_parameters: Vec<Box<str>>,
}

impl Envelope {
    fn clear(&mut self) {
        self.reverse_path.clear();
        self.parameters.clear();
        self.recipients.clear();
        self.recipient_parameters.clear();
    }
}

/// What all sessions of a sink have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// Mail above that is refused with 552.
    pub(super) size_bytes_max: usize,
    /// What EHLO offers.
    pub(super) offer: Offer,
    /// LMTP instead of SMTP.
    pub(super) lmtp: bool,
    /// Recipients beyond that are answered 452, without a word in EHLO.
    pub(super) recipients_max: Option<u32>,
}

/// The server's end of one connection. Bytes go into [`Session::handle_bytes`]; replies gather in
/// `output`.
#[derive(Debug)]
pub(super) struct Session {
    /// Replies to be sent.
    pub(super) output: Output,
    /// Commands that were not understood or came in a wrong place.
    pub(super) bad_commands: u64,
    settings: Settings,
    mode: Mode,
    /// What the client may use: nothing before EHLO and behind HELO.
    offered: Offer,
    /// The beginning of a command whose end has not come.
    line: Vec<u8>,
    /// Refused in the greeting: nothing is done but QUIT.
    refusing: bool,
    /// Replies given before their commands came.
    ahead: usize,
    /// Something was just answered whose reply the client cannot have seen: `Some(true)` when more
    /// may be sent behind it all the same, if PIPELINING was offered.
    just_answered: Option<bool>,
    /// MAIL commands so far.
    mails: u32,
    in_transaction: bool,
    /// RCPT commands of this transaction.
    asked: u32,
    /// SMTPUTF8 was a parameter of MAIL.
    utf8: bool,
    declared_size: Option<u64>,
    envelope: Envelope,
    /// Recipients of the last mail that were answered for good; the client may not have read it yet.
    last_answered: Envelope,
    /// Recipients of this mail that were refused for good; until the mail is answered, the client may
    /// begin again as if they had not been.
    refused: Envelope,
    decoder: DataDecoder,
    content: Vec<u8>,
    /// Bytes of content, also of what was not kept.
    received: usize,
    overflow: bool,
    /// What goes wrong when so many bytes of content have come.
    content_fault: Option<(Fault, usize)>,
    /// A BDAT of this mail has come.
    chunking: bool,
    /// The rest of the mail is thrown away: it was refused before its end.
    discarding: bool,
    outcomes: Vec<Outcome>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Commands,
    Data,
    /// Within the content of a BDAT.
    Chunk {
        left: u64,
        last: bool,
    },
    /// Takes everything and answers nothing.
    Hung,
    /// Takes nothing.
    Stalled,
    /// Ends when what is in `output` has been sent.
    Ending,
    /// Likewise, with a reset.
    Resetting,
}

/// Longest command that is taken; a longer one ends the connection (RFC 5321 §4.5.3.1.4 asks for
/// 512, and extensions for more).
const LINE_SIZE_BYTES_MAX: usize = 4096;

impl Session {
    /// A session that greets.
    pub(super) fn new(settings: Settings, judge: &mut impl Judge) -> Session {
        let mut session = Session {
            output: Output::default(),
            bad_commands: 0,
            settings,
            mode: Mode::Commands,
            offered: Offer { status_codes: true, ..Offer::NOTHING },
            line: Vec::new(),
            refusing: false,
            ahead: 0,
            just_answered: None,
            mails: 0,
            in_transaction: false,
            asked: 0,
            utf8: false,
            declared_size: None,
            envelope: Envelope::default(),
            last_answered: Envelope::default(),
            refused: Envelope::default(),
            decoder: DataDecoder::default(),
            content: Vec::new(),
            received: 0,
            overflow: false,
            content_fault: None,
            chunking: false,
            discarding: false,
            outcomes: Vec::new(),
        };
        let greeting =
            if settings.lmtp { "220 sink.example LMTP\r\n" } else { "220 sink.example ESMTP\r\n" };
        let carried = session.answer(Phase::Greeting, greeting, judge);
        session.refusing = matches!(carried, Carried::Refused(_));
        session
    }

    /// The connection is gone, by whomever.
    pub(super) fn handle_end(&mut self, judge: &mut impl Judge) {
        if !self.refused.recipients.is_empty() {
            judge.handle_doubt(&self.refused);
            self.refused.clear();
        }
    }

    /// Whether the connection is to be closed once `output` has been sent.
    pub(super) fn is_ending(&self) -> bool {
        self.mode == Mode::Ending
    }

    /// Whether the connection is to be reset once `output` has been sent.
    pub(super) fn is_resetting(&self) -> bool {
        self.mode == Mode::Resetting
    }

    /// Whether nothing is to be received any more.
    pub(super) fn is_stalled(&self) -> bool {
        self.mode == Mode::Stalled
    }

    /// Takes bytes from the peer, all of them.
    pub(super) fn handle_bytes(&mut self, mut bytes: &[u8], judge: &mut impl Judge) {
        while !bytes.is_empty() {
            if matches!(self.mode, Mode::Hung | Mode::Stalled | Mode::Ending | Mode::Resetting) {
                return;
            }
            if let Some(may_follow) = self.just_answered.take() {
                self.check_pipelining(may_follow, bytes, judge);
            }
            let taken = match self.mode {
                Mode::Data => self.handle_data_bytes(bytes, judge),
                Mode::Chunk { left, last } => self.handle_chunk_bytes(bytes, left, last, judge),
                _ => self.handle_command_bytes(bytes, judge),
            };
            bytes = &bytes[taken..];
        }
        self.just_answered = None;
    }

    fn check_pipelining(&mut self, may_follow: bool, bytes: &[u8], judge: &mut impl Judge) {
        if !may_follow || !self.offered.pipelining {
            let next = String::from_utf8_lossy(&bytes[..bytes.len().min(20)]);
            judge.handle_violation(Violation::Pipelined, &format!("{next:?} came too early"));
        }
    }

    fn handle_command_bytes(&mut self, bytes: &[u8], judge: &mut impl Judge) -> usize {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.line.extend_from_slice(bytes);
            if self.line.len() > LINE_SIZE_BYTES_MAX {
                self.reply("500 5.5.6 line too long\r\n");
                self.mode = Mode::Ending;
            }
            return bytes.len();
        };
        if self.line.is_empty() {
            self.handle_line(&bytes[..end], judge);
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(&bytes[..end]);
            self.handle_line(&line, judge);
            line.clear();
            self.line = line;
        }
        end + 1
    }

    fn handle_line(&mut self, line: &[u8], judge: &mut impl Judge) {
        let body = line.strip_suffix(b"\r").unwrap_or(line);
        if body.len() == line.len() || body.contains(&b'\r') {
            judge.handle_violation(Violation::Bare, "a command with a CR or LF alone");
        }
        let line = body;
        let (word, rest) = line.split_at_checked(4).unwrap_or((line, b""));
        let mut verb = [b' '; 4];
        verb[..word.len()].copy_from_slice(word);
        verb.make_ascii_uppercase();
        let was_ahead = self.ahead > 0;
        let may_follow = match &verb {
            b"QUIT" => self.handle_quit(judge),
            _ if self.refusing => self.refuse("503 5.5.1 no service\r\n"),
            b"MAIL" => self.handle_mail(rest, judge),
            b"RCPT" => self.handle_rcpt(rest, judge),
            b"DATA" => self.handle_data(judge),
            b"BDAT" => self.handle_bdat(rest, judge),
            b"LHLO" if self.settings.lmtp => self.handle_ehlo(judge),
            b"EHLO" if !self.settings.lmtp => self.handle_ehlo(judge),
            b"HELO" if !self.settings.lmtp => self.handle_helo(),
            b"RSET" => {
                self.settle_refused(judge);
                self.reset();
                self.reply("250 2.0.0 ok\r\n");
                true
            }
            b"NOOP" => {
                self.reply("250 2.0.0 ok\r\n");
                false
            }
            _ => self.refuse("500 5.5.1 what?\r\n"),
        };
        // A client that has its reply already does not send too early; content behind BDAT never is.
        let is_chunk = matches!(self.mode, Mode::Chunk { .. });
        self.just_answered = (!was_ahead && !is_chunk).then_some(may_follow);
    }

    fn handle_ehlo(&mut self, judge: &mut impl Judge) -> bool {
        self.reset();
        if !self.settings.offer.ehlo && !self.settings.lmtp {
            return self.refuse("502 5.5.1 not here\r\n");
        }
        let text = self.settings.offer.reply(self.settings.size_bytes_max);
        let was_ahead = self.ahead > 0;
        if self.answer(Phase::Ehlo, &text, judge) == Carried::Yes && !was_ahead {
            self.offered = self.settings.offer;
        }
        false
    }

    fn handle_helo(&mut self) -> bool {
        self.reset();
        self.offered = Offer { status_codes: self.settings.offer.status_codes, ..Offer::NOTHING };
        self.reply("250 sink.example\r\n");
        false
    }

    fn handle_quit(&mut self, judge: &mut impl Judge) -> bool {
        self.settle_refused(judge);
        if self.answer(Phase::Quit, "221 2.0.0 bye\r\n", judge) == Carried::Yes {
            self.mode = Mode::Ending;
        }
        false
    }

    fn handle_mail(&mut self, rest: &[u8], judge: &mut impl Judge) -> bool {
        let Some((path, text)) = read_path(rest, b"FROM:") else {
            return self.refuse("501 5.5.4 that is no reverse-path\r\n");
        };
        if self.discarding {
            self.reset();
        }
        if self.in_transaction {
            return self.refuse("503 5.5.1 a transaction is open\r\n");
        }
        self.mails += 1;
        self.settle_refused(judge);
        if self.offered.limits.is_some_and(|limits| self.mails > limits.mails_max) {
            judge.handle_violation(Violation::Limits, "a mail more than MAILMAX");
            self.reply("421 4.7.0 too much mail\r\n");
            self.mode = Mode::Ending;
            return true;
        }
        let parameters = match read_mail(text, &self.offered) {
            Ok(parameters) => parameters,
            Err(fault) => {
                judge.handle_violation(Violation::Parameter, &fault);
                return self.refuse_mail(path, "555 5.5.4 no such parameter\r\n", judge);
            }
        };
        if !path.is_ascii() && !parameters.utf8 {
            judge.handle_violation(Violation::EightBit, "a reverse-path without SMTPUTF8");
            return self.refuse_mail(path, "553 5.6.7 not in ASCII\r\n", judge);
        }
        let size_max = self.settings.size_bytes_max as u64;
        if parameters.size.is_some_and(|size| size > size_max) {
            return self.refuse_mail(path, "552 5.3.4 too large\r\n", judge);
        }
        match self.answer(Phase::Mail, "250 2.1.0 ok\r\n", judge) {
            Carried::Yes => {
                path.clone_into(&mut self.envelope.reverse_path);
                text.clone_into(&mut self.envelope.parameters);
                self.in_transaction = true;
                self.utf8 = parameters.utf8;
                self.declared_size = parameters.size;
            }
            Carried::Refused(outcome) => judge.handle_refused_mail(path, outcome),
            Carried::No => {}
        }
        true
    }

    fn refuse_mail(&mut self, path: &str, text: &str, judge: &mut impl Judge) -> bool {
        judge.handle_refused_mail(path, Outcome::Permanent);
        self.reply(text);
        true
    }

    fn handle_rcpt(&mut self, rest: &[u8], judge: &mut impl Judge) -> bool {
        let Some((path, text)) = read_path(rest, b"TO:").filter(|(path, _)| !path.is_empty())
        else {
            return self.refuse("501 5.5.4 that is no forward-path\r\n");
        };
        if !self.in_transaction {
            return self.refuse("503 5.5.1 MAIL first\r\n");
        }
        self.asked += 1;
        let (outcome, reply) = if let Err(fault) = read_rcpt(text, &self.offered) {
            judge.handle_violation(Violation::Parameter, &fault);
            (Outcome::Permanent, "555 5.5.4 no such parameter\r\n")
        } else if !path.is_ascii() && !self.utf8 {
            judge.handle_violation(Violation::EightBit, "a forward-path without SMTPUTF8");
            (Outcome::Permanent, "553 5.6.7 not in ASCII\r\n")
        } else if self.offered.limits.is_some_and(|limits| self.asked > limits.recipients_max) {
            judge.handle_violation(Violation::Limits, "a recipient more than RCPTMAX");
            (Outcome::Transient, "452 4.5.3 too many recipients\r\n")
        } else if self.settings.recipients_max.is_some_and(|most| self.accepted() >= most) {
            (Outcome::Transient, "452 4.5.3 too many recipients\r\n")
        } else {
            match self.answer(Phase::Rcpt, "250 2.1.5 ok\r\n", judge) {
                Carried::Yes => {
                    self.envelope.recipients.push(path.into());
                    self.envelope.recipient_parameters.push(text.into());
                }
                Carried::Refused(outcome) => self.note_refused_recipient(path, outcome, judge),
                Carried::No => {}
            }
            return true;
        };
        self.note_refused_recipient(path, outcome, judge);
        self.reply(reply);
        true
    }

    fn note_refused_recipient(&mut self, path: &str, outcome: Outcome, judge: &mut impl Judge) {
        judge.handle_refused_recipient(&self.envelope.reverse_path, path, outcome);
        if outcome == Outcome::Permanent {
            self.refused.reverse_path.clone_from(&self.envelope.reverse_path);
            self.refused.recipients.push(path.into());
        }
    }

    /// The mail is answered, or given up by the client: it knows who was refused, unless the answers
    /// are still on their way.
    fn settle_refused(&mut self, judge: &mut impl Judge) {
        if self.output.is_trickling() {
            self.handle_end(judge);
        }
        self.refused.clear();
    }

    fn accepted(&self) -> u32 {
        u32::try_from(self.envelope.recipients.len()).unwrap_or(u32::MAX)
    }

    fn refuse(&mut self, text: &str) -> bool {
        self.bad_commands += 1;
        self.reply(text);
        true
    }

    fn reset(&mut self) {
        self.in_transaction = false;
        self.asked = 0;
        self.utf8 = false;
        self.declared_size = None;
        self.envelope.clear();
        self.reset_content();
    }
}

#[cfg(test)]
mod tests;

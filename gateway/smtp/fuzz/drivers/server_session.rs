//! The server's session and a client that sends what it likes.
//!
//! The input is a byte for the limits, one for the rules, and steps (see [`steps`](super::steps)). Rules:
//!
//! * Any split of what the client sends gives the same events, replies and content; unless illegal
//!   pipelining is refused, which is a matter of what came together.
//! * Events come in the order of a transaction; nothing is taken while a verdict is due.
//! * Each command and each content gets one reply, well formed, with an enhanced code of its class.
//! * A positive reply to the end of data comes from `commit` and from nowhere else.
//! * Content that is handed over is what the wire stands for, within the limits, with no bare CR or
//!   LF; paths and names are safe to print, and parse to themselves.
//! * Content never needs more room than was said, and replies that nobody reads stop the session at
//!   its bound.

use std::collections::VecDeque;
use std::sync::Arc;

use fuzzing::{Cuts, Script};
use smtp::{
    BareNewlines, ContentSummary, ForwardPath, IllegalPipelining, MailParameters, OUTPUT_LEN_MAX,
    OriginalRecipient, RecipientParameters, Refusal, ReversePath, ServerEvent, ServerLimits,
    ServerSession, SessionRules, decode_utf8_addr_xtext, decode_xtext, encode_utf8_addr_xtext,
    encode_xtext,
};

use super::rules::{self, Reply, Unit};
use super::steps::{self, Step};

/// Runs the session that `input` describes, in several splits.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let limits = Arc::new(limits(script.byte()));
    let rules = script.byte();
    let steps = steps::read(&mut script);
    let [whole, bytes, seeded] = Cuts::all(input).map(|cuts| {
        let mut host = Host::new(Arc::clone(&limits), session_rules(rules));
        if rules & 4 != 0 {
            host.refuse_early_talker();
        }
        steps.iter().for_each(|step| host.take(step, cuts));
        host.finish()
    });
    if session_rules(rules).illegal_pipelining == IllegalPipelining::Allow {
        assert_eq!(bytes, whole);
        assert_eq!(seeded, whole);
    }
}

fn session_rules(choice: u8) -> SessionRules {
    SessionRules {
        bare_newlines: match choice & 1 {
            0 => BareNewlines::Refuse,
            _ => BareNewlines::Normalise,
        },
        illegal_pipelining: match choice & 2 {
            0 => IllegalPipelining::Allow,
            _ => IllegalPipelining::Refuse,
        },
    }
}

fn limits(choice: u8) -> ServerLimits {
    let of = |shift: u8, values: [u16; 4]| values[usize::from(choice >> shift & 3)];
    ServerLimits {
        hostname: HOSTNAME.into(),
        message_size_max: of(0, [2000, 20, 200, 60_000]).into(),
        recipients_max: of(2, [2, 1, 3, 100]).into(),
        text_line_max: of(4, [998, 10, 100, 2000]).into(),
        errors_max: of(6, [5, 1, 3, 1000]).into(),
        mails_max: 100,
    }
}

/// Who holds a session: reads its events, gives verdicts, takes its replies.
struct Host {
    limits: Arc<ServerLimits>,
    rules: SessionRules,
    session: ServerSession,
    /// What the next events get; accepted when there is nothing.
    verdicts: VecDeque<Verdict>,
    content: Vec<u8>,
    /// Octets that `content` may have by what the session said.
    room: usize,
    stage: Stage,
    /// The client does not read replies.
    is_held: bool,
    log: Log,
    /// Where on the wire the session was over. Behind a BDAT too long to be read that depends on
    /// the split.
    over: Option<usize>,
    /// Where on the wire the present content began, DATA or BDAT.
    content_from: usize,
}

/// What came of a session. None of it depends on the split.
#[derive(PartialEq, Eq, Default, Debug)]
struct Log {
    events: Vec<String>,
    replies: Vec<u8>,
    messages: Vec<Vec<u8>>,
    /// What the session took.
    wire: Vec<u8>,
    /// Where in it content began that came by DATA.
    contents: Vec<usize>,
    /// Replies that nothing on the wire asked for; but for the first, they are the last.
    unasked: usize,
    hello: Option<(String, bool)>,
}

/// Where a transaction stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Idle,
    Envelope { recipients: usize, utf8: bool },
    Content,
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Accept,
    AcceptAs(i8),
    Refuse(&'static Refusal),
    Close,
}

impl Host {
    fn new(limits: Arc<ServerLimits>, rules: SessionRules) -> Host {
        Host {
            session: ServerSession::new(Arc::clone(&limits), rules),
            limits,
            rules,
            verdicts: VecDeque::new(),
            content: Vec::new(),
            room: 0,
            stage: Stage::Idle,
            is_held: false,
            log: Log { unasked: 1, ..Log::default() },
            over: None,
            content_from: 0,
        }
    }

    fn refuse_early_talker(&mut self) {
        self.session.refuse_early_talker();
        assert!(self.session.is_closed() && self.session.output().starts_with(b"554 5.5.0 "));
        self.end();
    }

    fn take(&mut self, step: &Step, cuts: Cuts) {
        match step {
            Step::Wire(wire) => cuts.pieces(wire).for_each(|piece| self.handle_piece(piece)),
            Step::Ours(0xf8, argument) => self.verdicts.push_back(match argument % 4 {
                0 if argument & 4 != 0 => Verdict::AcceptAs(-1),
                0 => Verdict::Accept,
                1 => Verdict::Refuse(&LATER),
                2 => Verdict::Refuse(&NEVER),
                _ => Verdict::Close,
            }),
            Step::Ours(0xf9, _) if self.session.is_receiving_content() => {
                self.session.refuse_content(&LATER);
                self.end_transaction();
            }
            Step::Ours(0xfa, _) if !self.session.is_closed() => {
                self.log.unasked += 1;
                self.close();
            }
            Step::Ours(0xfb, argument) => self.is_held = argument % 2 == 1,
            Step::Ours(..) => {}
        }
    }

    fn handle_piece(&mut self, piece: &[u8]) {
        let mut rest = piece;
        loop {
            let content = self.content.len();
            if self.session.is_receiving_content() {
                self.room = content + self.session.content_len_max(rest.len());
            }
            let used = self.session.handle_bytes(rest, &mut self.content);
            self.log.wire.extend_from_slice(&rest[..used]);
            rest = &rest[used..];
            assert!(self.stage == Stage::Content || self.content.len() == content);
            assert!(octets(&self.content) <= self.limits.message_size_max);
            assert!(self.content.len() <= self.room.max(content), "no more than was said");
            assert!(self.session.errors() <= self.limits.errors_max);
            let event = self.session.poll_event();
            let is_full = self.session.output().len() >= OUTPUT_LEN_MAX;
            match event {
                Some(event) => self.judge(event, rest),
                None if rest.is_empty() => return self.take_output(self.is_held),
                None => assert!(used > 0 || is_full, "stuck at {rest:?}"),
            }
            self.take_output(self.is_held && !is_full);
        }
    }

    fn judge(&mut self, event: ServerEvent, rest: &[u8]) {
        self.log.events.push(format!("{event:?}"));
        if self.session.awaits_verdict() {
            assert_eq!(self.session.handle_bytes(rest, &mut self.content), 0, "a verdict is due");
        }
        match (event, self.stage) {
            (ServerEvent::Mail(mail), Stage::Idle) => self.judge_mail(&mail),
            (ServerEvent::Recipient(to), Stage::Envelope { recipients, utf8 }) => {
                self.judge_recipient(&to, recipients, utf8);
            }
            (ServerEvent::DataRequested, Stage::Envelope { recipients: 1.., .. }) => {
                if self.decide() {
                    self.content.clear();
                    self.room = self.session.content_len_max(0);
                    self.content_from = self.log.wire.len();
                    self.stage = Stage::Content;
                    self.session.accept_data();
                    if self.session.output().ends_with(b"354 End data with <CR><LF>.<CR><LF>\r\n") {
                        self.log.contents.push(self.content_from);
                    }
                }
            }
            (ServerEvent::EndOfData(summary), Stage::Content) => self.judge_content(summary),
            (ServerEvent::Aborted, Stage::Envelope { .. } | Stage::Content) => {
                self.end_transaction();
            }
            (ServerEvent::Quit, stage) => {
                assert_ne!(stage, Stage::Over, "a session is over once");
                assert!(self.session.is_closed());
                // After too many errors, the last gets two replies.
                let output = self.session.output();
                self.log.unasked += usize::from(output.ends_with(b"421 4.7.0 Too many errors\r\n"));
                self.end();
            }
            (event, stage) => panic!("{event:?} at {stage:?}"),
        }
    }

    fn judge_mail(&mut self, mail: &MailParameters) {
        let path = mail.reverse_path.as_str();
        check_path(path, mail.utf8);
        let bracketed = format!("<{path}>");
        let again = ReversePath::parse(bracketed.as_bytes()).expect("a path that was taken");
        assert_eq!((again.0.as_str(), again.1), (path, &b""[..]));
        assert!(mail.size.is_none_or(|size| size <= self.limits.message_size_max));
        assert!(mail.priority.is_none_or(|priority| (-9..=9).contains(&priority)));
        if let Some(id) = &mail.envelope_id {
            let decoded = decode_xtext(id).expect("an ENVID that was taken is xtext");
            assert!(id.len() <= 100 && is_printable(&decoded, false));
            assert_eq!(decode_xtext(&encode_xtext(&decoded)), Some(decoded));
        }
        let priority = match self.verdicts.front() {
            Some(Verdict::AcceptAs(priority)) => Some(*priority),
            _ => None,
        };
        if self.decide() {
            match priority {
                Some(priority) => self.session.accept_mail_with_priority(priority),
                None => self.session.accept_mail(),
            }
            self.stage = Stage::Envelope { recipients: 0, utf8: mail.utf8 };
        }
    }

    fn judge_recipient(&mut self, to: &RecipientParameters, recipients: usize, utf8: bool) {
        assert!(recipients < self.limits.recipients_max);
        let path = &to.path;
        check_path(path.as_str(), utf8);
        let bracketed = format!("<{}>", path.as_str());
        let again = ForwardPath::parse(bracketed.as_bytes()).expect("a path that was taken");
        assert_eq!((&again.0, again.1), (path, &b""[..]));
        let domain = path.domain().is_none_or(|domain| path.as_str().ends_with(domain));
        assert!(domain, "the domain is the end of the path");
        if let Some(original) = &to.original {
            check_original(original, utf8);
        }
        if self.decide() {
            self.session.accept_recipient();
            self.stage = Stage::Envelope { recipients: recipients + 1, utf8 };
        }
    }

    fn judge_content(&mut self, summary: ContentSummary) {
        let wire = &self.log.wire;
        let is_refused = |data: &[u8]| {
            self.rules.bare_newlines == BareNewlines::Refuse && rules::has_bare_newline(data)
        };
        if self.log.contents.last() == Some(&self.content_from) {
            let data = &wire[self.content_from..];
            assert_eq!(rules::end_of_data(data), Some(data.len()), "the end, and the first");
            assert!(!is_refused(data));
            assert_eq!(self.content, rules::normalised(&rules::unstuffed(data)));
        } else {
            let data: Vec<u8> = rules::units(wire, &self.log.contents)
                .0
                .into_iter()
                .filter_map(|unit| match unit {
                    Unit::Chunk { octets, .. } if octets.start >= self.content_from => {
                        Some(&wire[octets])
                    }
                    _ => None,
                })
                .collect::<Vec<_>>()
                .concat();
            assert!(!is_refused(&data));
            assert_eq!(self.content, rules::with_last_newline(rules::normalised(&data)));
        }
        assert!(!rules::has_bare_newline(&self.content));
        assert!(rules::longest_line(&self.content) <= self.limits.text_line_max);
        assert_eq!(summary.size, octets(&self.content));
        assert_eq!(summary.leading_dot, rules::has_leading_dot(&self.content));
        self.stage = Stage::Idle;
        if self.decide() {
            self.log.messages.push(std::mem::take(&mut self.content));
            self.session.commit(format_args!("{ID}{}", self.log.messages.len()));
        }
        self.content.clear();
    }

    /// Gives the next verdict if it is negative; says whether it is positive.
    fn decide(&mut self) -> bool {
        match self.verdicts.pop_front().unwrap_or(Verdict::Accept) {
            Verdict::Accept | Verdict::AcceptAs(_) => return true,
            Verdict::Refuse(refusal) => self.session.refuse(refusal),
            Verdict::Close => {
                // The octets of a chunk may be missing: then it is not this that is answered.
                let (_, end) = rules::units(&self.log.wire, &self.log.contents);
                self.log.unasked += usize::from(end < self.log.wire.len());
                self.close();
            }
        }
        false
    }

    fn close(&mut self) {
        self.session.close(&SHUT_DOWN);
        assert!(self.session.is_closed() && self.session.poll_event().is_none());
        self.end();
    }

    fn end(&mut self) {
        self.end_transaction();
        self.stage = Stage::Over;
        self.over = Some(self.log.wire.len());
    }

    fn end_transaction(&mut self) {
        self.content.clear();
        self.stage = Stage::Idle;
    }

    fn take_output(&mut self, is_held: bool) {
        let output = self.session.output();
        assert!(output.len() < OUTPUT_LEN_MAX + REPLY_LEN_MAX, "output is bounded");
        if !is_held {
            self.log.replies.extend_from_slice(output);
            self.session.consume_output(output.len());
        }
    }

    fn finish(mut self) -> Log {
        self.take_output(false);
        assert_eq!(self.session.is_closed(), self.over.is_some());
        if self.session.is_idle() {
            assert_eq!(self.stage, Stage::Idle);
        }
        self.log.hello = self.session.hello().map(|(name, extended)| (name.into(), extended));
        self.log.check(self.over.unwrap_or(self.log.wire.len()));
        self.log
    }
}

impl Log {
    /// Holds the replies against what was sent before the session was over.
    fn check(&self, over: usize) {
        let replies = rules::replies(&self.replies);
        let (units, _) = rules::units(&self.wire[..over], &self.contents);
        assert_eq!(replies.len(), self.unasked + units.len(), "one reply for each command");
        let is_plain = |reply: &Reply| reply.code == 354 || reply.contains(HOSTNAME);
        replies.iter().filter(|it| !is_plain(it)).for_each(rules::check_enhanced_code);
        let mut commits = 0;
        for (unit, reply) in units.iter().zip(&replies[1..]) {
            let is_positive = reply.code < 400;
            match unit {
                Unit::Content | Unit::Chunk { is_last: true, .. } if is_positive => {
                    commits += 1;
                    assert!(reply.code == 250 && reply.contains(&format!("{ID}{commits}")));
                    continue;
                }
                Unit::Command { is_data: true } => assert!(!is_positive || reply.code == 354),
                Unit::BadChunk => assert!(!is_positive),
                _ => assert!(reply.code != 354),
            }
            assert!(!reply.contains(ID), "what was not committed is not accepted");
        }
        assert_eq!(commits, self.messages.len());
        if let Some((name, _)) = &self.hello {
            let is_safe = |byte: u8| byte.is_ascii_graphic() && !b"()<>;\"\\".contains(&byte);
            assert!(name.bytes().all(is_safe));
        }
    }
}

fn check_path(path: &str, utf8: bool) {
    assert!(path.len() <= 254, "a path has at most 256 octets with its brackets");
    assert!(is_printable(path, utf8), "a path is safe to print");
}

/// Checks what ORCPT said.
fn check_original(original: &str, utf8: bool) {
    assert!(original.len() <= 500 && is_printable(original, utf8) && !original.contains(' '));
    let decoded = OriginalRecipient::decode(original).expect("an ORCPT that was taken");
    let is_utf8 = &*decoded.address_type == "utf-8";
    assert!(is_printable(&decoded.address_type, false) && !decoded.address_type.contains(';'));
    assert!(is_printable(&decoded.address, is_utf8));
    let again = if is_utf8 {
        decode_utf8_addr_xtext(&encode_utf8_addr_xtext(&decoded.address))
    } else {
        decode_xtext(&encode_xtext(&decoded.address))
    };
    assert_eq!(again.as_deref(), Some(&*decoded.address));
}

/// Whether text has neither control characters nor, unless `utf8`, any beyond ASCII.
fn is_printable(text: &str, utf8: bool) -> bool {
    text.chars().all(|char| !char.is_control() && (utf8 || char.is_ascii()))
}

fn octets(content: &[u8]) -> u64 {
    u64::try_from(content.len()).expect("64 bits hold every length")
}

const HOSTNAME: &str = "mx.example";
/// Begins the names of messages; no other reply contains it.
const ID: &str = "fuzz-";
/// More than the longest reply, that to EHLO.
const REPLY_LEN_MAX: usize = 512;

const LATER: Refusal = Refusal::new(452, (4, 3, 1), "Later");
const NEVER: Refusal = Refusal::new(550, (5, 7, 1), "Never");
const SHUT_DOWN: Refusal = Refusal::new(421, (4, 3, 2), "Shutting down");

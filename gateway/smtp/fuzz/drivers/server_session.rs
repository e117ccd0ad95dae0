//! The server's session and a client that sends what it likes.
//!
//! The input is a byte for the limits, and steps (see [`steps`](super::steps)). Rules:
//!
//! * Any split of what the client sends gives the same events, replies and content.
//! * Events come in the order of a transaction; nothing is taken while a verdict is due.
//! * Each command and each content gets one reply, well formed, with an enhanced code of its class.
//! * A positive reply to the end of data comes from `commit` and from nowhere else.
//! * Content that is handed over is what the wire stands for, within the limits, with no bare CR or
//!   LF; paths and names are safe to print, and parse to themselves.
//! * Replies that nobody reads stop the session at its bound.

use std::collections::VecDeque;
use std::sync::Arc;

use fuzzing::{Cuts, Script};
use smtp::{
    ContentSummary, ForwardPath, MailParameters, OUTPUT_LEN_MAX, OriginalRecipient,
    RecipientParameters, Refusal, ReversePath, ServerEvent, ServerLimits, ServerSession,
    decode_utf8_addr_xtext, decode_xtext, encode_utf8_addr_xtext, encode_xtext,
};

use super::rules;
use super::steps::{self, Step};

/// Runs the session that `input` describes, in several splits.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let limits = Arc::new(limits(script.byte()));
    let steps = steps::read(&mut script);
    let [whole, bytes, seeded] = Cuts::all(input).map(|cuts| {
        let mut host = Host::new(Arc::clone(&limits));
        steps.iter().for_each(|step| host.take(step, cuts));
        host.finish()
    });
    assert_eq!(bytes, whole);
    assert_eq!(seeded, whole);
    whole.check();
}

fn limits(choice: u8) -> ServerLimits {
    let of = |shift: u8, values: [u16; 4]| values[usize::from(choice >> shift & 3)];
    ServerLimits {
        hostname: HOSTNAME.into(),
        message_size_max: of(0, [2000, 20, 200, 60_000]).into(),
        recipients_max: of(2, [2, 1, 3, 100]).into(),
        text_line_max: of(4, [998, 10, 100, 2000]).into(),
        errors_max: of(6, [5, 1, 3, 1000]).into(),
    }
}

/// Who holds a session: reads its events, gives verdicts, takes its replies.
struct Host {
    limits: Arc<ServerLimits>,
    session: ServerSession,
    /// What the next events get; accepted when there is nothing.
    verdicts: VecDeque<Verdict>,
    content: Vec<u8>,
    stage: Stage,
    /// The client does not read replies.
    is_held: bool,
    log: Log,
}

/// What came of a session. None of it depends on the split.
#[derive(PartialEq, Eq, Default, Debug)]
struct Log {
    events: Vec<String>,
    replies: Vec<u8>,
    messages: Vec<Vec<u8>>,
    /// What the session took.
    wire: Vec<u8>,
    /// Where in it content began.
    contents: Vec<usize>,
    /// Where in it the session was over.
    over: Option<usize>,
    /// Replies that nothing on the wire asked for.
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
    Refuse(&'static Refusal),
    Close,
}

impl Host {
    fn new(limits: Arc<ServerLimits>) -> Host {
        Host {
            session: ServerSession::new(Arc::clone(&limits)),
            limits,
            verdicts: VecDeque::new(),
            content: Vec::new(),
            stage: Stage::Idle,
            is_held: false,
            log: Log { unasked: 1, ..Log::default() },
        }
    }

    fn take(&mut self, step: &Step, cuts: Cuts) {
        match step {
            Step::Wire(wire) => cuts.pieces(wire).for_each(|piece| self.handle_piece(piece)),
            Step::Ours(0xf8, argument) => self.verdicts.push_back(match argument % 4 {
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
            let used = self.session.handle_bytes(rest, &mut self.content);
            self.log.wire.extend_from_slice(&rest[..used]);
            rest = &rest[used..];
            assert!(self.stage == Stage::Content || self.content.len() == content);
            assert!(octets(&self.content) <= self.limits.message_size_max);
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
                    self.session.accept_data();
                    self.log.contents.push(self.log.wire.len());
                    self.stage = Stage::Content;
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
                self.log.unasked += usize::from(!output.ends_with(b"221 2.0.0 Bye\r\n"));
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
        if self.decide() {
            self.session.accept_mail();
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
        let begin = *self.log.contents.last().expect("content began");
        let data = &self.log.wire[begin..];
        assert_eq!(rules::end_of_data(data), Some(data.len()), "the end of data, and the first");
        assert_eq!(self.content, rules::unstuffed(data));
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
            Verdict::Accept => return true,
            Verdict::Refuse(refusal) => self.session.refuse(refusal),
            Verdict::Close => self.close(),
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
        self.log.over = Some(self.log.wire.len());
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
        assert_eq!(self.session.is_closed(), self.log.over.is_some());
        if self.session.is_idle() {
            assert_eq!(self.stage, Stage::Idle);
        }
        self.log.hello = self.session.hello().map(|(name, extended)| (name.into(), extended));
        self.log
    }
}

impl Log {
    /// Holds the replies against what was sent.
    fn check(&self) {
        let replies = rules::replies(&self.replies);
        assert_eq!(replies.len(), self.unasked + self.units(), "one reply for each command");
        let mut commits = 0;
        for (place, reply) in replies.iter().enumerate() {
            if place > 0 && reply.code != 354 && !reply.contains(HOSTNAME) {
                rules::check_enhanced_code(reply);
            }
            let ends_data = place > 0 && replies[place - 1].code == 354;
            if ends_data && reply.code < 400 {
                commits += 1;
                assert!(reply.code == 250 && reply.contains(&format!("{ID}{commits}")));
            } else {
                assert!(!reply.contains(ID), "what was not committed is not accepted");
            }
        }
        assert_eq!(commits, self.messages.len());
        if let Some((name, _)) = &self.hello {
            assert!(
                name.bytes().all(|byte| byte.is_ascii_graphic() && !b"()<>;\"\\".contains(&byte))
            );
        }
    }

    /// Commands and contents that were sent to their end before the session was over.
    fn units(&self) -> usize {
        let wire = &self.wire[..self.over.unwrap_or(self.wire.len())];
        let lines = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count();
        let (mut at, mut units) = (0, 0);
        for &begin in &self.contents {
            units += lines(&wire[at..begin]);
            let length = rules::end_of_data(&wire[begin..]);
            units += usize::from(length.is_some());
            at = length.map_or(wire.len(), |length| begin + length);
        }
        units + lines(&wire[at..])
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

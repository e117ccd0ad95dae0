//! The client's session and a next hop that answers what it likes.
//!
//! The input is a byte for the options, and steps (see [`steps`](super::steps)). Rules:
//!
//! * Any split of what the next hop sends gives the same events and output.
//! * Each transaction gives exactly one `Finished`, with a result for each recipient.
//! * The session is over once, and silent from then on.
//! * What it sends, and what it concludes from the answers, is what [`Observer`] finds right.

use std::collections::BTreeSet;

use bytes::Bytes;
use fuzzing::{Cuts, Script, same_in_all_cuts};
use smtp::{
    ClientEvent, ClientOptions, ClientSession, LossReason, NewMail, NewRecipient, Notify, Protocol,
    REPLY_TEXT_MAX, RecipientResult, Reply, Results, Return, Waiting,
};

use super::observer::Observer;
use super::rules;
use super::steps::{self, Step};

/// Runs the session that `input` describes, in several splits.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let options = Options::new(script.byte());
    let steps = steps::read(&mut script);
    same_in_all_cuts(input, |cuts| {
        let mut host = Host::new(&options);
        steps.iter().for_each(|step| host.take(step, cuts));
        host.finish()
    });
}

/// How a client is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The client's option of that name.
    pub pipelines_transactions: bool,
    /// LMTP is spoken.
    pub is_lmtp: bool,
    /// Output is taken when a step says so, else whenever there is any at a line's end.
    is_slow: bool,
}

impl Options {
    /// Reads the options off a byte.
    pub fn new(choice: u8) -> Options {
        Options {
            pipelines_transactions: choice & 1 != 0,
            is_lmtp: choice & 4 != 0,
            is_slow: choice & 2 != 0,
        }
    }
}

/// A mail to send. Which of some depends on a byte.
#[derive(Debug)]
pub struct Mail {
    pub reverse_path: &'static str,
    pub recipients: Vec<NewRecipient<'static>>,
    pub content: &'static [u8],
    pub utf8: bool,
    /// It has RET, ENVID, NOTIFY, ORCPT and MT-PRIORITY.
    pub has_parameters: bool,
}

impl Mail {
    /// The mail that a byte stands for.
    pub fn new(choice: u8) -> Mail {
        let has_parameters = choice & 0x80 != 0;
        let utf8 = choice & 0x40 != 0;
        let recipients = RECIPIENTS[..1 + usize::from(choice & 3)].iter().map(|address| {
            let original = has_parameters.then_some("rfc822;c@d");
            NewRecipient { address, notify: has_parameters.then_some(Notify::NEVER), original }
        });
        let utf8_recipient = NewRecipient { address: "\u{fc}@d", notify: None, original: None };
        Mail {
            reverse_path: if choice & 4 != 0 { "" } else { "a@b" },
            recipients: recipients.chain(utf8.then_some(utf8_recipient)).collect(),
            content: CONTENTS[usize::from(choice >> 3 & 7)],
            utf8,
            has_parameters,
        }
    }

    /// What SIZE says: with the last line's end, and without the end of data (RFC 1870 §5).
    pub fn size(&self) -> usize {
        let is_whole = self.content.is_empty() || self.content.ends_with(b"\r\n");
        self.content.len() + if is_whole { 0 } else { 2 }
    }

    /// Whether the header section needs no SMTPUTF8.
    pub fn has_ascii_header(&self) -> bool {
        let framed = [b"\r\n", self.content].concat();
        let end = framed.windows(4).position(|window| window == b"\r\n\r\n");
        framed[..end.unwrap_or(framed.len())].is_ascii()
    }

    fn submit_to(&self, session: &mut ClientSession, key: u64) {
        session.submit(NewMail {
            key,
            reverse_path: self.reverse_path,
            recipients: self.recipients.iter().copied(),
            content: Bytes::from_static(self.content),
            leading_dot: rules::has_leading_dot(self.content),
            eight_bit: !self.content.is_ascii(),
            utf8: self.utf8,
            ret: self.has_parameters.then_some(Return::Headers),
            envelope_id: self.has_parameters.then_some("id+2B1"),
            priority: self.has_parameters.then_some(3),
        });
    }
}

/// Who holds a session: sends its output, submits mails, reads its events.
struct Host {
    options: Options,
    session: ClientSession,
    observer: Observer,
    open: BTreeSet<u64>,
    submitted: u64,
    is_over: bool,
    log: Log,
}

/// What came of a session. None of it depends on the split.
#[derive(PartialEq, Eq, Default, Debug)]
struct Log {
    events: Vec<String>,
    sent: Vec<u8>,
}

impl Host {
    fn new(options: &Options) -> Host {
        Host {
            options: *options,
            session: ClientSession::new(ClientOptions {
                hostname: "gw.example".into(),
                protocol: if options.is_lmtp { Protocol::Lmtp } else { Protocol::Smtp },
                pipeline_transactions: options.pipelines_transactions,
            }),
            observer: Observer::new(*options),
            open: BTreeSet::new(),
            submitted: 0,
            is_over: false,
            log: Log::default(),
        }
    }

    fn take(&mut self, step: &Step, cuts: Cuts) {
        match step {
            Step::Wire(wire) if self.options.is_slow => self.receive(wire, cuts),
            Step::Wire(wire) => {
                for line in wire.split_inclusive(|byte| *byte == b'\n') {
                    self.receive(line, cuts);
                    self.send(usize::MAX);
                }
            }
            Step::Ours(0xf8, choice) if self.session.can_submit() => self.submit(*choice),
            Step::Ours(0xf9, 0) => self.send(usize::MAX),
            Step::Ours(0xf9, count) => self.send(usize::from(*count)),
            Step::Ours(0xfa, _) if self.session.is_idle() => {
                self.session.quit();
                self.observer.note_quit();
            }
            Step::Ours(0xfb, argument) if !self.is_over => {
                let is_closed = argument % 2 == 0;
                self.lose(if is_closed { LossReason::Closed } else { LossReason::TimedOut });
            }
            Step::Ours(..) => {}
        }
        if !self.options.is_slow {
            self.send(usize::MAX);
        }
    }

    fn receive(&mut self, wire: &[u8], cuts: Cuts) {
        self.observer.receive(wire);
        for piece in cuts.pieces(wire) {
            self.session.handle_bytes(piece);
            self.take_events();
        }
        assert_eq!(self.observer.must_be_over(), self.is_over);
    }

    fn submit(&mut self, choice: u8) {
        assert!(!self.is_over);
        self.submitted += 1;
        let mail = Mail::new(choice);
        mail.submit_to(&mut self.session, self.submitted);
        self.observer.note_mail(self.submitted, mail);
        self.open.insert(self.submitted);
        self.take_events();
    }

    /// Takes output, at most `count` octets.
    fn send(&mut self, count: usize) {
        if self.is_over {
            return;
        }
        let output = self.session.output();
        assert!(output.slices().all(|slice| !slice.is_empty()));
        let sent: Vec<u8> = output.slices().flatten().copied().take(count).collect();
        self.session.consume_output(sent.len());
        assert!(count < usize::MAX || self.session.output().is_empty());
        self.observer.send(&sent);
        self.log.sent.extend_from_slice(&sent);
    }

    fn lose(&mut self, reason: LossReason) {
        self.observer.note_loss();
        self.session.handle_loss(reason);
        self.take_events();
        assert!(self.is_over, "after a loss the session is over");
    }

    fn take_events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            assert!(!self.is_over, "nothing happens after the end: {event:?}");
            self.log.events.push(format!("{event:?}"));
            match event {
                ClientEvent::Ready => self.observer.check_ready(self.session.capabilities()),
                ClientEvent::Finished(finished) => {
                    assert!(self.open.remove(&finished.key), "each finishes once");
                    if let Results::Recipients(results) = &finished.results {
                        results.iter().filter_map(reply_of).for_each(check_reply);
                    }
                    self.observer.check_finished(&finished);
                }
                ClientEvent::Lost(reason) => {
                    if let LossReason::Refused(reply) | LossReason::ShutDown(reply) = &reason {
                        check_reply(reply);
                    }
                    self.is_over = true;
                }
                ClientEvent::Over => self.is_over = true,
            }
        }
        if self.is_over {
            assert!(self.open.is_empty(), "each finishes before the end");
            assert_eq!(self.session.waiting(), Waiting::Nothing);
            assert!(!self.session.can_submit() && !self.session.is_idle());
        }
    }

    fn finish(mut self) -> Log {
        if !self.is_over {
            self.send(usize::MAX);
            self.lose(LossReason::Closed);
        }
        self.session.handle_loss(LossReason::TimedOut);
        self.session.handle_bytes(b"250 ok\r\n");
        self.take_events();
        self.log
    }
}

fn reply_of(result: &RecipientResult) -> Option<&Reply> {
    match result {
        RecipientResult::Transient(reply) | RecipientResult::Permanent(reply) => Some(reply),
        RecipientResult::Delivered | RecipientResult::Unknown => None,
    }
}

/// A reply goes into logs and DSNs.
fn check_reply(reply: &Reply) {
    assert!((200..600).contains(&reply.code) && reply.text.len() <= REPLY_TEXT_MAX);
    assert!(reply.text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
}

const RECIPIENTS: [&str; 4] = ["c@d", "e@f", "\"g h\"@i", "Postmaster"];

const CONTENTS: [&[u8]; 8] = [
    b"x\r\n",
    b"",
    b"no end",
    b".dot\r\n..dots\r\n.",
    b"\xc3\xa9\r\n",
    b"a\r\n.\r\nQUIT\r\n",
    b"\r\n\xc3\xa9",
    &[b'x'; 500],
];

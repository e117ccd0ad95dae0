//! Content: DATA and BDAT, what is checked in it, and the answers to it.

use super::answer::{Carried, EARLY};
use super::{Judge, Mode, Session, Violation};
use crate::ledger::Outcome;
use crate::sink::faults::{Fault, Phase};

/// A buffer larger than this is given back when its mail is done.
const CONTENT_KEPT_SIZE_BYTES_MAX: usize = 1 << 20;

impl Session {
    pub(super) fn handle_data(&mut self, judge: &mut impl Judge) -> bool {
        if self.envelope.recipients.is_empty() || self.chunking {
            self.refuse("503 5.5.1 not now\r\n");
            return false;
        }
        if self.ahead > 0 {
            // It was answered 250, which is no answer to DATA: nobody can go on from there.
            self.ahead -= 1;
            return false;
        }
        match self.answer(Phase::Data, "354 go on\r\n", judge) {
            Carried::Yes => {
                self.begin_content(judge);
                self.mode = Mode::Data;
            }
            Carried::Refused(outcome) => {
                self.note_refusal(outcome, judge);
                self.keep_answered(&vec![outcome; self.envelope.recipients.len()]);
                self.reset();
            }
            Carried::No => {}
        }
        false
    }

    /// BDAT (RFC 3030 §2). Its content is received whatever is thought of it.
    pub(super) fn handle_bdat(&mut self, rest: &[u8], judge: &mut impl Judge) -> bool {
        let text = std::str::from_utf8(rest).unwrap_or_default();
        let mut words = text.split_ascii_whitespace();
        let size = words.next().and_then(|word| word.parse().ok());
        let last = words.next().map(|word| word.eq_ignore_ascii_case("LAST"));
        let (Some(left), true) = (size, last != Some(false) && words.next().is_none()) else {
            return self.refuse("501 5.5.4 that is no chunk\r\n");
        };
        if !self.offered.chunking {
            judge.handle_violation(Violation::Parameter, "BDAT without CHUNKING");
        }
        if self.envelope.recipients.is_empty() {
            self.discarding = true;
        } else if !self.chunking {
            self.begin_content(judge);
        }
        self.chunking = true;
        self.mode = Mode::Chunk { left, last: last == Some(true) };
        if left == 0 {
            self.end_chunk(last == Some(true), judge);
        }
        true
    }

    fn begin_content(&mut self, judge: &mut impl Judge) {
        self.last_answered.clear();
        let size_max = self.settings.size_bytes_max as u64;
        let declared = self.declared_size.unwrap_or(1).clamp(1, size_max.max(1));
        let declared = usize::try_from(declared).expect("below a size in memory");
        self.content.reserve(declared);
        self.content_fault = judge.draw(Phase::Content).map(|fault| {
            let point = judge.draw_below(declared as u64);
            (fault, 1 + usize::try_from(point).expect("below a size in memory"))
        });
    }

    pub(super) fn handle_data_bytes(&mut self, bytes: &[u8], judge: &mut impl Judge) -> usize {
        let bytes = &bytes[..self.until_fault(bytes.len())];
        let before = self.content.len();
        let (taken, ended) = self.decoder.decode(bytes, &mut self.content);
        self.received += self.content.len() - before;
        self.keep_within_bounds();
        if ended {
            self.mode = Mode::Commands;
            let was_ahead = self.ahead > 0;
            self.end_content(judge);
            self.just_answered = (!was_ahead).then_some(true);
        } else {
            self.fail_in_content(judge);
        }
        taken
    }

    pub(super) fn handle_chunk_bytes(
        &mut self,
        bytes: &[u8],
        left: u64,
        last: bool,
        judge: &mut impl Judge,
    ) -> usize {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let taken = self.until_fault(most);
        if !self.discarding {
            self.content.extend_from_slice(&bytes[..taken]);
        }
        self.received += taken;
        self.keep_within_bounds();
        let left = left - taken as u64;
        self.mode = Mode::Chunk { left, last };
        if left == 0 {
            self.end_chunk(last, judge);
        } else {
            self.fail_in_content(judge);
        }
        taken
    }

    fn end_chunk(&mut self, last: bool, judge: &mut impl Judge) {
        self.mode = Mode::Commands;
        let was_ahead = self.ahead > 0;
        self.just_answered = (!was_ahead).then_some(true);
        if self.discarding {
            self.reply("503 5.5.1 that mail is given up\r\n");
            if last {
                self.reset();
            }
        } else if last {
            self.end_content(judge);
        } else if let Carried::Refused(outcome) =
            self.answer(Phase::Data, "250 2.0.0 go on\r\n", judge)
        {
            self.note_refusal(outcome, judge);
            self.discarding = true;
        }
    }

    /// How many of so many bytes come before the next fault.
    fn until_fault(&self, size: usize) -> usize {
        let before = self.content_fault.map(|(_, point)| point.saturating_sub(self.received));
        before.map_or(size, |before| size.min(before.max(1)))
    }

    fn keep_within_bounds(&mut self) {
        if self.content.len() > self.settings.size_bytes_max {
            self.overflow = true;
            self.content.clear();
        }
        if self.discarding {
            self.content.clear();
        }
    }

    /// Does what goes wrong within the content, when its time has come.
    fn fail_in_content(&mut self, judge: &mut impl Judge) {
        let Some((fault, _)) = self.content_fault.take_if(|(_, point)| *point <= self.received)
        else {
            return;
        };
        let is_last = !matches!(self.mode, Mode::Chunk { last: false, .. });
        let replies = if is_last { self.replies_to_content() } else { 1 };
        if fault == Fault::Early {
            for _ in 0..replies {
                self.reply(EARLY);
            }
            self.ahead = replies;
            return;
        }
        let carried = self.fail(Phase::Content, fault, judge);
        if let Carried::Refused(outcome) = carried {
            self.note_refusal(outcome, judge);
            if outcome == Outcome::Permanent {
                // Too early to be an answer to the mail: the client may take it for one or not.
                judge.handle_doubt(&self.envelope);
            }
            self.discarding = true;
            if self.mode != Mode::Ending {
                for _ in 1..replies {
                    self.fail(Phase::Content, fault, judge);
                }
                self.ahead = replies;
            }
        }
    }

    /// SMTP answers a mail, LMTP each of its recipients (RFC 2033 §4.2).
    fn replies_to_content(&self) -> usize {
        if self.settings.lmtp { self.envelope.recipients.len() } else { 1 }
    }

    /// All content is there: checks it, answers, and tells.
    fn end_content(&mut self, judge: &mut impl Judge) {
        if self.discarding {
            self.ahead = 0;
            return self.reset();
        }
        let answers = self.replies_to_content();
        if self.overflow {
            self.note_refusal(Outcome::Permanent, judge);
            for _ in 0..answers {
                self.reply("552 5.3.4 too large\r\n");
            }
            return self.reset();
        }
        self.check_content(judge);
        let mut outcomes = std::mem::take(&mut self.outcomes);
        let mut in_doubt = false;
        for _ in 0..answers {
            let outcome = if self.mode == Mode::Commands {
                in_doubt |= self.ahead > 0;
                let carried = self.answer(Phase::Dot, "250 2.0.0 ok\r\n", judge);
                in_doubt |= self.output.is_trickling();
                match carried {
                    Carried::Yes => Outcome::Accepted,
                    Carried::Refused(outcome) => outcome,
                    Carried::No => Outcome::Unknown,
                }
            } else {
                Outcome::Unknown
            };
            outcomes.push(outcome);
        }
        in_doubt |= self.mode == Mode::Resetting;
        if !self.settings.lmtp {
            outcomes.resize(self.envelope.recipients.len(), outcomes[0]);
        }
        judge.handle_mail(&self.envelope, Some(&self.content), &outcomes);
        if self.mode == Mode::Commands {
            self.settle_refused(judge);
        }
        self.keep_answered(&outcomes);
        if in_doubt && !self.last_answered.recipients.is_empty() {
            judge.handle_doubt(&self.last_answered);
        }
        outcomes.clear();
        self.outcomes = outcomes;
        self.reset();
    }

    /// Keeps the recipients that were answered for good.
    fn keep_answered(&mut self, outcomes: &[Outcome]) {
        let mut was_answered =
            outcomes.iter().map(|of| matches!(of, Outcome::Accepted | Outcome::Permanent));
        self.envelope.recipients.retain(|_| was_answered.next().unwrap_or(false));
        std::mem::swap(&mut self.envelope, &mut self.last_answered);
    }

    /// What nobody may send, whatever is in it.
    fn check_content(&self, judge: &mut impl Judge) {
        let content = &*self.content;
        let line_ends = memchr::memmem::find_iter(content, b"\r\n").count();
        let alone = |byte| memchr::memchr_iter(byte, content).count() != line_ends;
        if alone(b'\r') || alone(b'\n') {
            judge.handle_violation(Violation::Bare, "content with a CR or LF alone");
        }
        if !self.offered.eight_bit && !content.is_ascii() {
            judge.handle_violation(Violation::EightBit, "8-bit content without 8BITMIME");
        }
        if let Some(declared) = self.declared_size.filter(|&size| (self.received as u64) > size) {
            let what = format!("{} bytes of content, SIZE={declared}", self.received);
            judge.handle_violation(Violation::Size, &what);
        }
    }

    fn note_refusal(&mut self, outcome: Outcome, judge: &mut impl Judge) {
        self.outcomes.clear();
        self.outcomes.resize(self.envelope.recipients.len(), outcome);
        judge.handle_mail(&self.envelope, None, &self.outcomes);
        self.outcomes.clear();
        if outcome == Outcome::Permanent && self.output.is_trickling() {
            judge.handle_doubt(&self.envelope);
        }
        if self.mode == Mode::Commands {
            self.settle_refused(judge);
        }
    }

    pub(super) fn reset_content(&mut self) {
        self.received = 0;
        self.overflow = false;
        self.content_fault = None;
        self.chunking = false;
        self.discarding = false;
        self.content.clear();
        self.content.shrink_to(CONTENT_KEPT_SIZE_BYTES_MAX);
    }
}

//! One transaction of a client under way.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

use super::{Expected, Finished, RecipientResult, Results, negative};
use crate::output::Mark;
use crate::reply::{EnhancedCode, Reply};

/// A transaction from MAIL to its last reply.
#[derive(Debug)]
pub(super) struct Exchange {
    key: u64,
    /// RCPT lines that were not sent, with their recipients' places: all, without PIPELINING.
    pub(super) unsent: VecDeque<(usize, String)>,
    pub(super) content: Bytes,
    pub(super) leading_dot: bool,
    /// None while open.
    results: Vec<Option<RecipientResult>>,
    /// Places of the recipients that the server has accepted, in the order of RCPT.
    accepted: Vec<usize>,
    /// The server has accepted MAIL.
    pub(super) has_mail: bool,
    /// The server has judged some part of it.
    pub(super) is_answered: bool,
    /// A refusal of MAIL that says nothing about the message.
    throttled: Option<Reply>,
    /// Where MAIL ends.
    pub(super) mail_end: Mark,
    /// Where its end of data ends, once that is queued.
    pub(super) end: Option<Mark>,
    /// See [`Finished::reply`].
    end_reply: Option<Reply>,
}

impl Exchange {
    pub(super) fn new(
        key: u64,
        results: Vec<Option<RecipientResult>>,
        content: Bytes,
        leading_dot: bool,
    ) -> Exchange {
        Exchange {
            key,
            unsent: VecDeque::new(),
            content,
            leading_dot,
            results,
            accepted: Vec::new(),
            has_mail: false,
            is_answered: false,
            throttled: None,
            mail_end: Mark::default(),
            end: None,
            end_reply: None,
        }
    }

    /// Whether some recipient has no result yet.
    pub(super) fn has_open(&self) -> bool {
        self.results.iter().any(Option::is_none)
    }

    pub(super) fn is_settled(&self, place: usize) -> bool {
        self.results[place].is_some()
    }

    /// How many recipients the server has accepted.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.len()
    }

    pub(super) fn accepted_places(&self) -> impl Iterator<Item = usize> {
        self.accepted.iter().copied()
    }

    /// The server has accepted a recipient. Where MAIL was refused it cannot; the refusal stands.
    pub(super) fn accept(&mut self, place: usize) {
        if !self.is_settled(place) {
            self.accepted.push(place);
        }
    }

    /// Gives a recipient its result, if it has none.
    pub(super) fn settle(&mut self, place: usize, result: RecipientResult) {
        self.results[place].get_or_insert(result);
    }

    /// Gives the open recipients their result.
    pub(super) fn fill(&mut self, result: &RecipientResult) {
        for open in self.results.iter_mut().filter(|result| result.is_none()) {
            *open = Some(result.clone());
        }
    }

    /// MAIL was refused. A transient refusal is about the server (busy, full, too fast), unless the
    /// enhanced code says that it is about the address (RFC 3463 §3.2).
    pub(super) fn refuse(&mut self, reply: Reply) {
        let is_about_address = matches!(reply.enhanced, Some(EnhancedCode(_, 1, _)));
        self.fill(&negative(reply.clone()));
        if reply.is_permanent() || is_about_address {
            self.is_answered = true;
        } else {
            self.throttled = Some(reply);
        }
    }

    pub(super) fn note_end_reply(&mut self, reply: Reply) {
        if !self.end_reply.as_ref().is_some_and(Reply::is_positive) {
            self.end_reply = Some(reply);
        }
    }

    /// Finishes with what is known; recipients without a result get `open`.
    pub(super) fn finish(mut self, open: &RecipientResult, dsn_passed_on: bool) -> Finished {
        if self.throttled.is_some() {
            return self.give_up(None);
        }
        self.fill(open);
        let results = Results::Recipients(self.results.into_iter().flatten().collect());
        Finished { key: self.key, results, reply: self.end_reply, dsn_passed_on }
    }

    /// Finishes without all answers to the end of data, which has left. `answer`: 421, and which
    /// of them it was.
    pub(super) fn lose_answer(
        mut self,
        answer: Option<(Expected, &Reply)>,
        dsn_passed_on: bool,
    ) -> Finished {
        if let Some((expected, reply)) = answer {
            match expected {
                Expected::RecipientEnd(place) => self.settle(place, negative(reply.clone())),
                _ => self.fill(&negative(reply.clone())),
            }
            self.note_end_reply(reply.clone());
        }
        self.finish(&RecipientResult::Unknown, dsn_passed_on)
    }

    /// Finishes as not tried.
    pub(super) fn give_up(self, refusal: Option<Reply>) -> Finished {
        let refusal = self.throttled.or(refusal);
        let results = Results::NotTried { refusal };
        Finished { key: self.key, results, reply: None, dsn_passed_on: false }
    }
}

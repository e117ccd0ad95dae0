//! The judgement over a ledger.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::order::{Accepted, displacements};
use super::verdict::{Counts, Problem, ProblemKind, Verdict};
use super::{Answer, Bounces, Delivery, Ledger, Notice, Outcome, Recipients};
use crate::dsn::Action;
use crate::identity::MailId;

/// Most examples kept of one kind of fault; further ones are only counted.
const EXAMPLES_MAX: u64 = 10;

/// How far a delivery may seem to lie behind the restart that it overlapped, in microseconds: a sink
/// reads its clock once a turn.
const RESTART_SLACK_US: u64 = 200_000;

/// One recipient of one mail, with everything known of it.
#[derive(Debug, Default)]
struct Slot {
    accepted: Option<Accepted>,
    /// Attempts answered 250.
    accepted_times: u64,
    unknown: u64,
    /// Attempts refused shortly before a restart: the withdrawal may have been lost with it.
    refused_near_restart: u64,
    /// Attempts with a final dot.
    dots: u64,
    /// When the first of these was sent.
    first_dot_us: Option<u64>,
    /// Times that a sink refused the whole mail for good.
    mail_refused: u64,
    /// DSNs that a sink took and that say that it failed.
    failed: u64,
    /// Of these, those that may have come twice: shortly before a restart, or answered in doubt.
    failed_in_doubt: u64,
    /// When the last of them came.
    failed_last_us: u64,
    /// DSNs for it that a sink refused for good: they may be missing.
    notices_refused: u64,
    /// DSNs that say that it was delivered.
    succeeded: u64,
}

/// What became of one recipient at the sinks, and what its sender could not know.
#[derive(Clone, Copy, Debug)]
struct Ends {
    taken: u64,
    refused: u64,
    doubtful: u64,
    unasked: u64,
}

struct Judge<'l> {
    ledger: &'l Ledger,
    verdict: Verdict,
    by_mail: HashMap<MailId, usize>,
    /// The highest number of each run that its log names.
    last_numbers: HashMap<u32, u64>,
    /// Where each intent's recipients begin in `slots`.
    slots_at: Vec<usize>,
    slots: Vec<Slot>,
    /// Indices of judged deliveries with their slot, to be sorted.
    placed: Vec<(usize, usize)>,
    /// DSNs that were refused before anybody could see what they were about.
    notices_refused_unseen: u64,
}

pub(super) fn judge(ledger: &Ledger) -> Verdict {
    let counts = Counts {
        foreign: ledger.foreign,
        unreadable: ledger.unreadable,
        sender_logs_open: ledger.open_runs.len() as u64,
        sink_logs_open: ledger.sinks_open,
        ..Counts::default()
    };
    let mut judge = Judge {
        ledger,
        verdict: Verdict { counts, examples: Vec::new() },
        by_mail: HashMap::with_capacity(ledger.intents.len()),
        last_numbers: HashMap::new(),
        slots_at: Vec::with_capacity(ledger.intents.len()),
        slots: Vec::new(),
        placed: Vec::with_capacity(ledger.deliveries.len()),
        notices_refused_unseen: 0,
    };
    judge.lay_out_intents();
    judge.apply_attempts();
    judge.place_deliveries();
    judge.apply_refusals();
    judge.apply_notices();
    judge.judge_slots();
    judge.judge_order();
    judge.judge_strangers();
    judge.verdict
}

impl Judge<'_> {
    fn fault(&mut self, kind: ProblemKind, mail: Option<MailId>, what: impl FnOnce() -> String) {
        let count = &mut self.verdict.counts.faults[kind as usize];
        *count += 1;
        if *count <= EXAMPLES_MAX {
            self.verdict.examples.push(Problem { kind, mail, what: what() });
        }
    }

    fn lay_out_intents(&mut self) {
        for (index, intent) in self.ledger.intents.iter().enumerate() {
            self.slots_at.push(self.slots.len());
            let places = &self.ledger.places[intent.places_at..intent.places_at + intent.places];
            let recipients =
                places.iter().map(|place| usize::from(place.recipients)).sum::<usize>();
            self.slots.resize_with(self.slots.len() + recipients, Slot::default);
            let last = self.last_numbers.entry(intent.mail.run).or_default();
            *last = intent.mail.number.max(*last);
            if self.by_mail.insert(intent.mail, index).is_some() {
                self.fault(ProblemKind::Unreadable, Some(intent.mail), || {
                    "is named twice by its sender: two runs with one name?".into()
                });
            }
        }
        self.slots_at.push(self.slots.len());
        self.verdict.counts.mails = self.by_mail.len() as u64;
    }

    fn apply_attempts(&mut self) {
        for attempt in &self.ledger.attempts {
            self.verdict.counts.unknown_attempts += u64::from(attempt.answer == Answer::Unknown);
            let Some(&intent) = self.by_mail.get(&attempt.mail) else {
                self.fault(ProblemKind::Unreadable, Some(attempt.mail), || {
                    "was answered but never sent".into()
                });
                continue;
            };
            let near_restart = self.restarts_near(attempt.at_us) > 0;
            let slots = &mut self.slots[self.slots_at[intent]..self.slots_at[intent + 1]];
            let mut apply = |slot: &mut Slot| {
                slot.dots += u64::from(attempt.dot_us > 0);
                let dot_us = (attempt.dot_us > 0).then_some(attempt.dot_us);
                slot.first_dot_us = slot.first_dot_us.into_iter().chain(dot_us).min();
                match attempt.answer {
                    Answer::Accepted => {
                        let (dot_us, at_us) = (attempt.dot_us, attempt.at_us);
                        slot.accepted = Some(Accepted { dot_us, at_us });
                        slot.accepted_times += 1;
                    }
                    Answer::Refused(_) => slot.refused_near_restart += u64::from(near_restart),
                    Answer::Unknown => slot.unknown += 1,
                }
            };
            match &attempt.recipients {
                Recipients::All => slots.iter_mut().for_each(apply),
                Recipients::Some(places) => {
                    for &place in places {
                        slots.get_mut(usize::from(place)).map(&mut apply);
                    }
                }
            }
        }
    }

    /// Finds each delivery's slot and judges what can be judged alone.
    fn place_deliveries(&mut self) {
        for (index, delivery) in self.ledger.deliveries.iter().enumerate() {
            let counter = match delivery.outcome {
                Outcome::Accepted => &mut self.verdict.counts.delivered,
                Outcome::Transient => &mut self.verdict.counts.transient,
                Outcome::Unknown => &mut self.verdict.counts.unanswered,
                Outcome::Permanent | Outcome::Doubtful => &mut 0,
            };
            *counter += 1;
            if let Some(slot) = self.slot_of(delivery) {
                self.placed.push((slot, index));
            }
        }
        let deliveries = &self.ledger.deliveries;
        self.placed.sort_unstable_by_key(|&(slot, index)| {
            (slot, deliveries[index].at_us, deliveries[index].position)
        });
    }

    fn slot_of(&mut self, delivery: &Delivery) -> Option<usize> {
        let addressed = delivery.recipient.mail;
        let mail = delivery.mail.unwrap_or(addressed);
        let at = || format!("(sink's delivery {})", delivery.position);
        let Some(&intent) = self.by_mail.get(&mail) else {
            let open = self.ledger.open_runs.contains(&mail.run);
            if open && self.last_numbers.get(&mail.run).is_none_or(|&last| mail.number > last) {
                self.verdict.counts.beyond_log += 1;
            } else {
                self.fault(ProblemKind::Invented, Some(mail), || {
                    format!("was never sent {}", at())
                });
            }
            return None;
        };
        let intent = &self.ledger.intents[intent];
        let seen = matches!(delivery.outcome, Outcome::Accepted | Outcome::Unknown);
        if (seen || delivery.digest.is_some()) && delivery.digest != Some(intent.digest) {
            self.fault(ProblemKind::Altered, Some(mail), || {
                format!("arrived with digest {:016x?} {}", delivery.digest, at())
            });
        }
        let place = usize::from(delivery.recipient.place);
        if mail != addressed || self.queue_of(mail, place) != Some(delivery.queue) {
            self.fault(ProblemKind::Misdelivered, Some(mail), || {
                let domain = &self.ledger.queue_names[delivery.queue as usize];
                format!("went to {} {}", delivery.recipient.address(domain), at())
            });
            return None;
        }
        Some(self.slots_at[self.by_mail[&mail]] + place)
    }

    fn queue_of(&self, mail: MailId, place: usize) -> Option<u32> {
        let intent = &self.ledger.intents[self.by_mail[&mail]];
        let places = &self.ledger.places[intent.places_at..intent.places_at + intent.places];
        let mut end = 0;
        places.iter().find_map(|p| {
            end += usize::from(p.recipients);
            (place < end).then_some(p.queue)
        })
    }

    fn judge_slots(&mut self) {
        let placed = std::mem::take(&mut self.placed);
        let mut from = 0;
        for intent in 0..self.ledger.intents.len() {
            for slot in self.slots_at[intent]..self.slots_at[intent + 1] {
                let mut to = from;
                while to < placed.len() && placed[to].0 == slot {
                    to += 1;
                }
                self.judge_slot(intent, slot, &placed[from..to]);
                from = to;
            }
        }
        self.placed = placed;
    }

    fn judge_slot(&mut self, intent: usize, slot: usize, placed: &[(usize, usize)]) {
        let ledger = self.ledger;
        let mail = ledger.intents[intent].mail;
        let recipient = slot - self.slots_at[intent];
        let Slot { accepted_times, unknown, refused_near_restart, mail_refused, .. } =
            self.slots[slot];
        let with = |outcome| {
            placed
                .iter()
                .map(|&(_, index)| &ledger.deliveries[index])
                .filter(move |delivery: &&Delivery| delivery.outcome == outcome)
        };
        let taken = with(Outcome::Accepted).count() as u64;
        let refused = with(Outcome::Permanent).count() as u64;
        let doubtful = with(Outcome::Doubtful).count() as u64;
        let near = |&&restart: &&u64| {
            placed.iter().any(|&(_, index)| self.is_near(restart, ledger.deliveries[index].at_us))
        };
        let restarts = ledger.policy.restarts_us.iter().filter(near).count() as u64;
        let open = ledger.open_runs.contains(&mail.run);
        // Refused for good counts as a copy of what was accepted; of what was not, it is no delivery.
        let copies = if accepted_times > 0 { taken + refused } else { taken };
        let unasked = unknown + refused_near_restart + u64::from(open && accepted_times == 0);
        let counts = &mut self.verdict.counts;
        if accepted_times > 0 {
            counts.accepted += 1;
            counts.bounced += u64::from(taken == 0 && refused + mail_refused > 0);
            if copies + mail_refused == 0 {
                let seen = !placed.is_empty();
                self.judge_missing(mail, slot, recipient, seen);
            }
        } else {
            counts.not_accepted += 1;
            if copies > 0 && unasked == 0 {
                self.fault(ProblemKind::Unacknowledged, Some(mail), || {
                    format!("recipient {recipient} was refused and got it all the same")
                });
                return;
            }
            counts.unacknowledged_allowed += copies.min(unasked);
        }
        let allowed = accepted_times + unasked + restarts + doubtful;
        if copies > allowed {
            self.fault(ProblemKind::Duplicated, Some(mail), || {
                let at_us = placed.iter().map(|&(_, index)| ledger.deliveries[index].at_us);
                let at_us = at_us.collect::<Vec<_>>();
                format!(
                    "recipient {recipient} got {copies} copies, {allowed} allowed, at {at_us:?} us"
                )
            });
        } else {
            self.verdict.counts.duplicates_allowed += copies.saturating_sub(1);
        }
        let ends = Ends { taken, refused: refused + mail_refused, doubtful, unasked };
        self.judge_notices(mail, slot, recipient, ends);
    }

    /// Accepted, and neither taken nor refused for good by any sink.
    fn judge_missing(&mut self, mail: MailId, slot: usize, recipient: usize, seen: bool) {
        let Slot { failed, notices_refused, .. } = self.slots[slot];
        if failed + notices_refused == 0 {
            self.verdict.counts.lost_deferred += u64::from(seen);
            self.fault(ProblemKind::Lost, Some(mail), || {
                format!("recipient {recipient} was answered 250 and never got it")
            });
        } else if self.ledger.policy.giving_up_allowed {
            self.verdict.counts.given_up += 1;
        } else {
            self.fault(ProblemKind::Misreported, Some(mail), || {
                format!("recipient {recipient} was reported as failed, and no sink had refused it")
            });
        }
    }

    /// Holds what DSNs say of a recipient against what became of it.
    fn judge_notices(&mut self, mail: MailId, slot: usize, recipient: usize, ends: Ends) {
        let Slot { accepted_times, failed, failed_in_doubt, notices_refused, succeeded, .. } =
            self.slots[slot];
        let Ends { taken, refused, doubtful, unasked } = ends;
        let counts = &mut self.verdict.counts;
        counts.reported_failed += failed;
        counts.reported_delivered += succeeded;
        let policy = &self.ledger.policy;
        if succeeded > 0 && taken == 0 {
            self.fault(ProblemKind::Misreported, Some(mail), || {
                format!("recipient {recipient} was reported as delivered and never got it")
            });
        }
        if failed == 0 {
            let wanted =
                policy.bounces == Bounces::Required && accepted_times > 0 && !self.is_null(mail);
            if !wanted || taken > 0 || refused == 0 {
                return;
            }
            if notices_refused > 0 || self.notices_refused_unseen > 0 {
                self.notices_refused_unseen -= u64::from(notices_refused == 0);
                self.verdict.counts.unreported_allowed += 1;
            } else {
                self.fault(ProblemKind::Unreported, Some(mail), || {
                    format!("recipient {recipient} was refused, and no DSN says so")
                });
            }
            return;
        }
        if policy.bounces == Bounces::Forbidden {
            return self.fault(ProblemKind::Misreported, Some(mail), || {
                format!("recipient {recipient} was reported as failed, and nobody wanted to know")
            });
        }
        // What was delivered when a gateway crashed may come back with it, too old to be tried.
        let is_unsure = doubtful + self.restarts_before_report(slot) > 0;
        let unsure = is_unsure && policy.giving_up_allowed;
        if taken > 0 && refused == 0 && !unsure {
            self.fault(ProblemKind::Misreported, Some(mail), || {
                format!("recipient {recipient} got it and was reported as failed")
            });
        }
        if accepted_times + unasked == 0 {
            self.fault(ProblemKind::Misreported, Some(mail), || {
                format!("recipient {recipient} was never accepted and was reported as failed")
            });
        }
        // Each copy that may have been taken is given up for itself, and no sink has seen that.
        let given_up = if policy.giving_up_allowed { accepted_times + unasked } else { 1 };
        let causes = refused.max(given_up).max(1);
        let allowed = causes + failed_in_doubt + self.restarts_before_report(slot);
        if failed > allowed {
            self.fault(ProblemKind::Duplicated, Some(mail), || {
                format!(
                    "recipient {recipient} was reported as failed {failed} times, {allowed} allowed"
                )
            });
        }
    }

    /// Restarts between the time when a mail was first sent and the last DSN that says that a
    /// recipient failed: each may have come between a DSN and the deletion of what it is about, and
    /// made another. When the DSNs arrived says nothing about that.
    fn restarts_before_report(&self, slot: usize) -> u64 {
        let Slot { first_dot_us, failed_last_us, .. } = &self.slots[slot];
        let from = first_dot_us.unwrap_or(0);
        let restarts = &self.ledger.policy.restarts_us;
        let between = restarts.iter().filter(|at| (from..=*failed_last_us).contains(*at));
        between.count() as u64
    }

    fn is_null(&self, mail: MailId) -> bool {
        self.by_mail.get(&mail).is_some_and(|&intent| self.ledger.intents[intent].null_sender)
    }

    fn apply_refusals(&mut self) {
        for mail in &self.ledger.refusals {
            if let Some(&intent) = self.by_mail.get(mail) {
                let slots = self.slots_at[intent]..self.slots_at[intent + 1];
                self.slots[slots].iter_mut().for_each(|slot| slot.mail_refused += 1);
            }
        }
    }

    /// Finds out which recipient each DSN is about, and judges what can be judged alone.
    fn apply_notices(&mut self) {
        for notice in &self.ledger.notices {
            let Some(mail) = notice.mail.or(notice.recipient.map(|(id, _)| id.mail)) else {
                self.notices_refused_unseen += u64::from(notice.outcome == Outcome::Permanent);
                continue;
            };
            let at = || format!("(sink's delivery {})", notice.position);
            let Some(&intent) = self.by_mail.get(&mail) else {
                let open = self.ledger.open_runs.contains(&mail.run);
                if open && self.last_numbers.get(&mail.run).is_none_or(|&last| mail.number > last) {
                    self.verdict.counts.beyond_log += 1;
                } else {
                    self.fault(ProblemKind::Misreported, Some(mail), || {
                        format!("was never sent, and a DSN is about it {}", at())
                    });
                }
                continue;
            };
            if self.ledger.intents[intent].null_sender {
                self.fault(ProblemKind::Misreported, Some(mail), || {
                    format!("has the null reverse-path, and a DSN is about it {}", at())
                });
                continue;
            }
            self.apply_notice(mail, intent, notice);
        }
    }

    fn apply_notice(&mut self, mail: MailId, intent: usize, notice: &Notice) {
        let slots = self.slots_at[intent]..self.slots_at[intent + 1];
        let place = notice.recipient.map(|(id, _)| usize::from(id.place));
        let known = notice.recipient.zip(place).is_some_and(|((id, queue), place)| {
            id.mail == mail && self.queue_of(mail, place) == Some(queue)
        });
        if !known {
            if notice.recipient.is_none() && notice.outcome != Outcome::Accepted {
                // Not seen. It may have been about any of them: one that was refused, or that came and
                // comes again, as its answer may not have been read.
                let refused = u64::from(notice.outcome == Outcome::Permanent);
                let in_doubt = u64::from(notice.outcome == Outcome::Doubtful);
                for slot in &mut self.slots[slots] {
                    slot.notices_refused += refused;
                    slot.failed_in_doubt += in_doubt;
                }
                return;
            }
            return self.fault(ProblemKind::Misreported, Some(mail), || {
                let position = notice.position;
                format!("has no recipient that the DSN is about (sink's delivery {position})")
            });
        }
        let near_restart = self.restarts_near(notice.at_us) > 0;
        let slot = &mut self.slots[slots.start + place.unwrap_or_default()];
        match (notice.action, notice.outcome) {
            (_, Outcome::Transient | Outcome::Unknown) => {}
            (Some(Action::Failed), Outcome::Accepted) => {
                slot.failed += 1;
                slot.failed_last_us = slot.failed_last_us.max(notice.at_us);
                slot.failed_in_doubt += u64::from(near_restart);
            }
            (Some(Action::Failed), Outcome::Doubtful) => slot.failed_in_doubt += 1,
            (Some(Action::Failed), Outcome::Permanent) => slot.notices_refused += 1,
            (Some(Action::Delayed), Outcome::Accepted) => {
                self.verdict.counts.reported_delayed += 1;
            }
            (Some(_), Outcome::Accepted) => slot.succeeded += 1,
            (Some(_) | None, _) => {}
        }
    }

    /// Compares, queue by queue, the order of first attempts with the order of acceptance. Recipients of
    /// one mail that were accepted apart, the others having been deferred, stand for a mail each.
    fn judge_order(&mut self) {
        let mut queues: BTreeMap<u32, Vec<(u64, u64, MailId, Accepted)>> = BTreeMap::new();
        let mut from = 0;
        for (index, intent) in self.ledger.intents.iter().enumerate() {
            let mut slot = self.slots_at[index];
            for place in &self.ledger.places[intent.places_at..intent.places_at + intent.places] {
                let end = slot + usize::from(place.recipients);
                let to = from + self.placed[from..].partition_point(|&(slot, _)| slot < end);
                let queue = queues.entry(place.queue).or_default();
                for together in self.slots[slot..end].chunk_by(|a, b| a.accepted == b.accepted) {
                    let slots = slot..slot + together.len();
                    match self
                        .first_attempt(&self.placed[from..to], &slots)
                        .zip(accepted_once(together))
                    {
                        Some(((at_us, position), accepted)) => {
                            queue.push((at_us, position, intent.mail, accepted));
                        }
                        None => self.verdict.counts.order_skipped += 1,
                    }
                    slot = slots.end;
                }
                from = to;
            }
        }
        for (queue, mut mails) in queues {
            mails.sort_unstable_by_key(|&(at_us, position, ..)| (at_us, position));
            self.verdict.counts.order_compared += mails.len() as u64;
            let accepted: Vec<Accepted> = mails.iter().map(|mail| mail.3).collect();
            let displaced = displacements(&accepted, self.ledger.policy.clock_slack_us);
            for (&(.., mail, _), by) in mails.iter().zip(displaced) {
                let most = &mut self.verdict.counts.displacement_most;
                *most = by.max(*most);
                if self.ledger.policy.displacement_max.is_some_and(|max| by > max) {
                    let name = &self.ledger.queue_names[queue as usize];
                    self.fault(ProblemKind::Reordered, Some(mail), || {
                        format!("was overtaken by {by} later mails of {name}")
                    });
                }
            }
        }
    }

    /// When recipients that are in these slots were first tried, if they were.
    fn first_attempt(&self, placed: &[(usize, usize)], slots: &Range<usize>) -> Option<(u64, u64)> {
        let theirs = placed.iter().filter(|(slot, _)| slots.contains(slot));
        let deliveries = theirs.map(|&(_, index)| &self.ledger.deliveries[index]);
        deliveries.map(|delivery| (delivery.at_us, delivery.position)).min()
    }

    fn judge_strangers(&mut self) {
        if !self.ledger.policy.foreign_allowed {
            for _ in 0..self.ledger.foreign {
                self.fault(ProblemKind::Invented, None, || {
                    "a delivery to an address not of ours".into()
                });
            }
        }
        for _ in 0..self.ledger.unreadable {
            self.fault(ProblemKind::Unreadable, None, || "a line of a log is no event".into());
        }
    }

    fn is_near(&self, restart: u64, at_us: u64) -> bool {
        let from = restart.saturating_sub(self.ledger.policy.restart_window_us);
        (from..=restart + RESTART_SLACK_US).contains(&at_us)
    }

    fn restarts_near(&self, at_us: u64) -> usize {
        let restarts = &self.ledger.policy.restarts_us;
        restarts.iter().filter(|&&restart| self.is_near(restart, at_us)).count()
    }
}

/// When recipients of one transaction were accepted, if that was their only attempt.
fn accepted_once(slots: &[Slot]) -> Option<Accepted> {
    let is_plain = slots.iter().all(|slot| slot.dots == 1 && slot.accepted_times == 1);
    slots.first().filter(|_| is_plain)?.accepted
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;

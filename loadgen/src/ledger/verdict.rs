//! The judgement over a ledger.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::order::{Accepted, displacements};
use super::{Answer, Delivery, Ledger, Outcome, Recipients};
use crate::identity::MailId;
use crate::report::Section;

/// What the ledger found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What was counted.
    pub counts: Counts,
    /// The first faults of each kind, at most 10 of each.
    pub examples: Vec<Problem>,
}

impl Verdict {
    /// Whether there is no fault at all, and something was there to be judged.
    pub fn is_clean(&self) -> bool {
        self.counts.faults.iter().all(|&count| count == 0) && self.counts.accepted > 0
    }

    /// The faults as a report's section.
    pub fn section(&self) -> Section {
        let mut section = Section::new("verdict", "verdict");
        for kind in ProblemKind::ALL {
            section = section.count(kind.name(), kind.name(), self.counts.faults[kind as usize]);
        }
        for (place, problem) in self.examples.iter().enumerate() {
            section = section.text(&format!("example_{place}"), "for example", problem.to_string());
        }
        section.flag("clean", "clean", self.is_clean())
    }
}

/// What a ledger counted. Recipients are counted each for itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Mails that a sender was about to send.
    pub mails: u64,
    /// Recipients for which a sender got 250.
    pub accepted: u64,
    /// Recipients never answered 250.
    pub not_accepted: u64,
    /// Attempts of senders without an answer to the final dot.
    pub unknown_attempts: u64,
    /// Deliveries that a sink answered 250.
    pub delivered: u64,
    /// Accepted recipients that a sink refused for good.
    pub bounced: u64,
    /// Of the lost, those that a sink refused for a while or left unanswered: perhaps only judged
    /// before they were tried again.
    pub lost_deferred: u64,
    /// Deliveries that a sink refused for a while.
    pub transient: u64,
    /// Deliveries that a sink took and did not answer.
    pub unanswered: u64,
    /// Second and further copies that the rules allow.
    pub duplicates_allowed: u64,
    /// Copies of mail never answered 250 that the rules allow.
    pub unacknowledged_allowed: u64,
    /// Deliveries beyond the end of a log without an end: not judged.
    pub beyond_log: u64,
    /// Deliveries with none of our identities.
    pub foreign: u64,
    /// Lines of logs that are no events.
    pub unreadable: u64,
    /// Senders' logs without an end.
    pub sender_logs_open: u64,
    /// Sinks' logs without an end.
    pub sink_logs_open: u64,
    /// Mails whose order was compared, each in each of its queues.
    pub order_compared: u64,
    /// Mails whose order says nothing: sent more than once, or never attempted.
    pub order_skipped: u64,
    /// By how many mails one was overtaken at most.
    pub displacement_most: u64,
    /// Faults, by [`ProblemKind`] as an index.
    pub faults: [u64; ProblemKind::ALL.len()],
}

impl Counts {
    /// The counts, without the faults, as a report's section.
    pub fn section(&self) -> Section {
        Section::new("ledger", "accounts of both ends")
            .count("mails", "mails", self.mails)
            .count("accepted", "recipients accepted", self.accepted)
            .count("not_accepted", "recipients never accepted", self.not_accepted)
            .count("unknown_attempts", "attempts not answered", self.unknown_attempts)
            .count("delivered", "deliveries answered 250", self.delivered)
            .count("bounced", "refused for good by a sink", self.bounced)
            .count("lost_deferred", "lost, deferred by a sink before", self.lost_deferred)
            .count("transient", "refused for a while by a sink", self.transient)
            .count("unanswered", "deliveries not answered", self.unanswered)
            .count("duplicates_allowed", "allowed duplicates", self.duplicates_allowed)
            .count("unacknowledged_allowed", "allowed without 250", self.unacknowledged_allowed)
            .count("order_compared", "compared for order", self.order_compared)
            .count("order_skipped", "not compared for order", self.order_skipped)
            .count("displacement_most", "overtaken by at most", self.displacement_most)
            .count("foreign", "foreign deliveries", self.foreign)
            .count("beyond_log", "beyond the end of a log", self.beyond_log)
            .count("sender_logs_open", "sender logs without an end", self.sender_logs_open)
            .count("sink_logs_open", "sink logs without an end", self.sink_logs_open)
    }
}

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProblemKind {
    /// Answered 250 and delivered nowhere.
    Lost,
    /// Content that is not what was sent.
    Altered,
    /// More copies than allowed.
    Duplicated,
    /// A mail for a recipient who was not among its own.
    Misdelivered,
    /// A delivery of something that nobody sent.
    Invented,
    /// Mail delivered although the sender was told that it would not be.
    Unacknowledged,
    /// First attempts out of order by more than allowed.
    Reordered,
    /// A log's line that is no event.
    Unreadable,
}

impl ProblemKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [ProblemKind; 8] = [
        ProblemKind::Lost,
        ProblemKind::Altered,
        ProblemKind::Duplicated,
        ProblemKind::Misdelivered,
        ProblemKind::Invented,
        ProblemKind::Unacknowledged,
        ProblemKind::Reordered,
        ProblemKind::Unreadable,
    ];

    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            ProblemKind::Lost => "lost",
            ProblemKind::Altered => "altered",
            ProblemKind::Duplicated => "duplicated",
            ProblemKind::Misdelivered => "misdelivered",
            ProblemKind::Invented => "invented",
            ProblemKind::Unacknowledged => "unacknowledged",
            ProblemKind::Reordered => "reordered",
            ProblemKind::Unreadable => "unreadable",
        }
    }
}

/// One fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What kind.
    pub kind: ProblemKind,
    /// Which mail, where known.
    pub mail: Option<MailId>,
    /// What happened, in a few words.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind.name())?;
        if let Some(mail) = self.mail {
            write!(f, "mail {mail} ")?;
        }
        f.write_str(&self.what)
    }
}

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
    };
    judge.lay_out_intents();
    judge.apply_attempts();
    judge.place_deliveries();
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
                Outcome::Permanent => &mut 0,
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
        let Slot { accepted_times, unknown, refused_near_restart, .. } = self.slots[slot];
        let with = |outcome| {
            placed
                .iter()
                .map(|&(_, index)| &ledger.deliveries[index])
                .filter(move |delivery: &&Delivery| delivery.outcome == outcome)
        };
        let taken = with(Outcome::Accepted).count() as u64;
        let bounced = with(Outcome::Permanent).count() as u64;
        let restarts = ledger
            .policy
            .restarts_us
            .iter()
            .filter(|&&restart| {
                placed
                    .iter()
                    .any(|&(_, index)| self.is_near(restart, ledger.deliveries[index].at_us))
            })
            .count() as u64;
        let open = ledger.open_runs.contains(&mail.run);
        // Refused for good counts as a copy of what was accepted; of what was not, it is no delivery.
        let copies = if accepted_times > 0 { taken + bounced } else { taken };
        let unasked = unknown + refused_near_restart + u64::from(open && accepted_times == 0);
        let counts = &mut self.verdict.counts;
        if accepted_times > 0 {
            counts.accepted += 1;
            counts.bounced += u64::from(taken == 0 && bounced > 0);
            if copies == 0 {
                counts.lost_deferred += u64::from(!placed.is_empty());
                self.fault(ProblemKind::Lost, Some(mail), || {
                    format!("recipient {recipient} was answered 250 and never got it")
                });
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
        let allowed = accepted_times + unasked + restarts;
        if copies > allowed {
            self.fault(ProblemKind::Duplicated, Some(mail), || {
                format!("recipient {recipient} got {copies} copies, {allowed} allowed")
            });
        } else {
            self.verdict.counts.duplicates_allowed += copies.saturating_sub(1);
        }
    }

    /// Compares, queue by queue, the order of first attempts with the order of acceptance.
    fn judge_order(&mut self) {
        let mut queues: BTreeMap<u32, Vec<(u64, u64, MailId, Accepted)>> = BTreeMap::new();
        let mut from = 0;
        for (index, intent) in self.ledger.intents.iter().enumerate() {
            let mut slot = self.slots_at[index];
            for place in &self.ledger.places[intent.places_at..intent.places_at + intent.places] {
                let end = slot + usize::from(place.recipients);
                let to = from + self.placed[from..].partition_point(|&(slot, _)| slot < end);
                let first = self.placed[from..to]
                    .iter()
                    .map(|&(_, index)| &self.ledger.deliveries[index])
                    .map(|delivery| (delivery.at_us, delivery.position))
                    .min();
                let slots = &self.slots[slot..end];
                let accepted = slots
                    .first()
                    .filter(|_| slots.iter().all(|slot| slot.dots == 1 && slot.accepted_times == 1))
                    .and_then(|slot| slot.accepted);
                match first.zip(accepted) {
                    Some(((at_us, position), accepted)) => {
                        let queue = queues.entry(place.queue).or_default();
                        queue.push((at_us, position, intent.mail, accepted));
                    }
                    None => self.verdict.counts.order_skipped += 1,
                }
                (slot, from) = (end, to);
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

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;

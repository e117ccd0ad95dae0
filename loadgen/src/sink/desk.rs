//! What all sessions of a sink share: the checks, the counts, and the choice of faults.

use std::fmt::Write as _;
use std::io;

use fastrand::Rng;
use tcpstack::Instant;

use super::SinkConfig;
use super::counts::SinkCounts;
use super::faults::{Fault, FaultCounts, Phase};
use super::order::Order;
use super::session::{Envelope, Judge, Violation};
use crate::dsn::{Action, Dsn};
use crate::host::unix_us;
use crate::identity::{MailId, ReceivedIdentity, RecipientId, parse_sender};
use crate::ledger::{Event, Outcome, Recorder};

pub(super) struct Desk {
    pub(super) config: SinkConfig,
    pub(super) counts: SinkCounts,
    /// What went wrong on purpose.
    pub(super) done_wrong: FaultCounts,
    pub(super) recorder: Box<dyn Recorder>,
    /// The time of this turn.
    pub(super) now: Instant,
    /// Why the first mail that could not be dumped could not.
    pub(super) dump_error: Option<io::Error>,
    /// The first faults that were counted, in words; at most [`EXAMPLES_MAX`].
    pub(super) examples: Vec<String>,
    rng: Rng,
    order: Order,
    position: u64,
}

impl Desk {
    pub(super) fn new(config: SinkConfig, now: Instant, recorder: Box<dyn Recorder>) -> Desk {
        let mut desk = Desk {
            rng: Rng::with_seed(config.seed),
            counts: SinkCounts::default(),
            done_wrong: FaultCounts::default(),
            order: Order::default(),
            recorder,
            position: 0,
            now,
            dump_error: None,
            examples: Vec::new(),
            config,
        };
        let at_us = desk.unix_us();
        desk.recorder.record(Event::SinkBegins { sink: desk.config.sink, at_us });
        desk
    }

    pub(super) fn unix_us(&self) -> u64 {
        unix_us(self.config.unix_origin_us, self.now)
    }

    fn record(&mut self, address: &str, outcome: Outcome, identity: Option<&ReceivedIdentity>) {
        let at_us = self.unix_us();
        self.recorder.record(Event::Delivery {
            sink: self.config.sink,
            position: self.position,
            at_us,
            outcome,
            mail: identity.and_then(|identity| identity.mail),
            digest: identity.map(|identity| identity.digest_found),
            recipient: address.into(),
        });
        self.position += 1;
    }

    /// Records what became of a recipient whose mail was not seen, or is known.
    fn record_unseen(&mut self, reverse_path: &str, address: &str, outcome: Outcome) {
        match parse_sender(address).filter(|_| reverse_path.is_empty()) {
            Some(mail) => self.record_notice(outcome, None, Some(mail), None),
            None => self.record(address, outcome, None),
        }
    }

    fn count_refusal(&mut self, outcome: Outcome) {
        self.counts.refused_4xx += u64::from(outcome == Outcome::Transient);
        self.counts.refused_5xx += u64::from(outcome == Outcome::Permanent);
    }

    fn note_example(&mut self, what: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what());
        }
    }

    /// Records what is known of a DSN about our mail.
    fn record_notice(
        &mut self,
        outcome: Outcome,
        action: Option<Action>,
        mail: Option<MailId>,
        recipient: Option<Box<str>>,
    ) {
        let (sink, at_us, position) = (self.config.sink, self.unix_us(), self.position);
        self.recorder.record(Event::Notice {
            sink,
            position,
            at_us,
            outcome,
            action,
            mail,
            recipient,
        });
        self.position += 1;
    }

    /// Checks and records a DSN. Answers whether it was one about our mail.
    fn handle_dsn(&mut self, envelope: &Envelope, content: &[u8], outcomes: &[Outcome]) -> bool {
        let outcome = best(outcomes);
        if !envelope.reverse_path.is_empty() {
            return false;
        }
        let Some(dsn) = Dsn::parse(content) else { return false };
        let addressed = envelope.recipients.iter().find_map(|address| parse_sender(address));
        let named = || dsn.recipients.iter().find_map(|of| RecipientId::parse(&of.address));
        let Some(mail) = dsn.original.or_else(|| named().map(|(id, _)| id.mail)).or(addressed)
        else {
            return false;
        };
        for address in &envelope.recipients {
            if parse_sender(address) != Some(mail) {
                self.counts.misdelivered += 1;
                self.note_example(|| format!("a DSN about mail {mail} went to {address}"));
                self.record(address, outcome, None);
            }
        }
        if dsn.about_dsn {
            self.counts.bad_reports += 1;
            self.note_example(|| format!("a DSN about a DSN went to {:?}", envelope.recipients));
        }
        for fault in &dsn.faults {
            self.counts.bad_reports += 1;
            self.note_example(|| format!("a DSN about mail {mail} {fault}"));
        }
        if outcome == Outcome::Accepted {
            self.counts.reports += 1;
            let count = |action| dsn.recipients.iter().filter(|of| of.action == action).count();
            self.counts.reported_failed += count(Action::Failed) as u64;
            self.counts.reported_delayed += count(Action::Delayed) as u64;
        }
        if dsn.recipients.is_empty() {
            self.record_notice(outcome, None, Some(mail), None);
        }
        for of in dsn.recipients {
            self.record_notice(outcome, Some(of.action), Some(mail), Some(of.address));
        }
        true
    }

    /// Checks content, recipients and order.
    fn check(
        &mut self,
        envelope: &Envelope,
        content: &[u8],
        identity: Option<&ReceivedIdentity>,
        outcomes: &[Outcome],
    ) {
        let Some(identity) = identity else {
            self.counts.foreign += 1;
            return;
        };
        let unaltered = identity.digest_claimed == identity.digest_found;
        let Some(mail) = identity.mail.filter(|_| unaltered) else {
            self.counts.altered += 1;
            return;
        };
        let places = ReceivedIdentity::places(content);
        let mut last = None;
        for (address, outcome) in envelope.recipients.iter().zip(outcomes) {
            let recipient = RecipientId::parse(address).filter(|(id, _)| id.mail == mail);
            let place = recipient.and_then(|(_, domain)| places.iter().find(|p| p.0 == domain));
            let Some(&(queue, sequence)) = place else {
                self.counts.misdelivered += 1;
                continue;
            };
            // Recipients of one queue stand together; the mail counts once in it.
            if last.replace(queue) != Some(queue) {
                self.check_order(mail, queue, sequence, *outcome == Outcome::Accepted);
            }
        }
    }

    fn check_order(&mut self, mail: MailId, queue: &str, sequence: u64, accepted: bool) {
        let Some(arrival) = self.order.arrive(queue, mail.run, sequence, accepted) else { return };
        let counts = &mut self.counts;
        counts.displacement_most = counts.displacement_most.max(arrival.displacement);
        let limit = self.config.displacement_max;
        counts.out_of_order += u64::from(limit.is_some_and(|max| arrival.displacement > max));
        if limit == Some(0) {
            counts.missing = counts.missing.saturating_add_signed(arrival.missing);
        }
        counts.distinct += u64::from(accepted && !arrival.accepted_before);
        counts.repeated += u64::from(accepted && arrival.accepted_before);
    }

    fn dump(&self, envelope: &Envelope, content: &[u8]) -> io::Result<()> {
        let Some(directory) = &self.config.dump else { return Ok(()) };
        let number = self.counts.mails - 1;
        let Envelope { reverse_path, parameters, recipients, recipient_parameters } = envelope;
        let mut text = format!("MAIL FROM:<{reverse_path}>{parameters}\n");
        for (recipient, parameters) in recipients.iter().zip(recipient_parameters) {
            writeln!(text, "RCPT TO:<{recipient}>{parameters}").expect("memory takes every write");
        }
        std::fs::write(directory.join(format!("{number:08}.envelope")), text)?;
        // The content comes last and at once: when it is there the mail is complete.
        let partial = directory.join(format!("{number:08}.partial"));
        std::fs::write(&partial, content)?;
        std::fs::rename(partial, directory.join(format!("{number:08}.eml")))
    }
}

/// Most faults that are kept in words; further ones are only counted.
const EXAMPLES_MAX: usize = 10;

impl Judge for Desk {
    fn draw(&mut self, phase: Phase) -> Option<Fault> {
        let fault = self.config.faults.draw(phase, &mut self.rng)?;
        self.done_wrong.add(phase, fault);
        self.counts.dropped_421 += u64::from(fault == Fault::Closing);
        Some(fault)
    }

    fn draw_below(&mut self, end: u64) -> u64 {
        self.rng.u64(..end)
    }

    fn handle_violation(&mut self, violation: Violation, what: &str) {
        let counts = &mut self.counts;
        let count = match violation {
            Violation::Bare => &mut counts.bare_newlines,
            Violation::EightBit => &mut counts.eight_bit,
            Violation::Parameter => &mut counts.bad_parameters,
            Violation::Size => &mut counts.understated,
            Violation::Pipelined => &mut counts.pipelined,
            Violation::Limits => &mut counts.over_limits,
        };
        *count += 1;
        self.note_example(|| what.into());
    }

    fn handle_refused_mail(&mut self, reverse_path: &str, outcome: Outcome) {
        self.count_refusal(outcome);
        if outcome != Outcome::Permanent {
            return;
        }
        if let Some(mail) = parse_sender(reverse_path) {
            let (sink, at_us) = (self.config.sink, self.unix_us());
            self.recorder.record(Event::Refusal { sink, at_us, mail });
        } else if reverse_path.is_empty() {
            self.record_notice(outcome, None, None, None);
        }
    }

    fn handle_refused_recipient(&mut self, reverse_path: &str, address: &str, outcome: Outcome) {
        self.count_refusal(outcome);
        self.record_unseen(reverse_path, address, outcome);
    }

    fn handle_mail(&mut self, envelope: &Envelope, content: Option<&[u8]>, outcomes: &[Outcome]) {
        let recipients = envelope.recipients.iter().zip(outcomes);
        match content {
            None => recipients.for_each(|(address, &outcome)| {
                self.record_unseen(&envelope.reverse_path, address, outcome);
            }),
            Some(content) if self.handle_dsn(envelope, content, outcomes) => {}
            Some(content) => {
                let identity = ReceivedIdentity::find(content);
                self.check(envelope, content, identity.as_ref(), outcomes);
                recipients.for_each(|(address, &outcome)| {
                    self.record(address, outcome, identity.as_ref());
                });
            }
        }
        // SMTP answers for all recipients at once, LMTP for each.
        let answers = if self.config.lmtp { outcomes } else { &outcomes[..outcomes.len().min(1)] };
        for &outcome in answers {
            self.count_refusal(outcome);
            self.counts.unanswered += u64::from(outcome == Outcome::Unknown);
        }
        let delivered = outcomes.iter().filter(|of| **of == Outcome::Accepted).count() as u64;
        if delivered > 0 {
            let content = content.expect("what was accepted was seen");
            self.counts.mails += 1;
            self.counts.bytes += content.len() as u64;
            self.counts.delivered += delivered;
            if let Err(error) = self.dump(envelope, content) {
                self.dump_error.get_or_insert(error);
            }
        }
    }

    fn handle_doubt(&mut self, envelope: &Envelope) {
        for address in &envelope.recipients {
            self.record_unseen(&envelope.reverse_path, address, Outcome::Doubtful);
        }
    }
}

/// What a DSN's sender was told, at best.
fn best(outcomes: &[Outcome]) -> Outcome {
    let order = [Outcome::Accepted, Outcome::Permanent, Outcome::Unknown];
    order.into_iter().find(|of| outcomes.contains(of)).unwrap_or(Outcome::Transient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Generator, GeneratorConfig, Plan, SizeMix};
    use crate::dsn;
    use crate::ledger::NoRecord;

    fn desk(displacement_max: Option<u64>) -> Desk {
        let config = SinkConfig { displacement_max, ..SinkConfig::default() };
        Desk::new(config, Instant::ZERO, Box::new(NoRecord))
    }

    /// Mails in the order of their numbers, to one recipient in one queue each.
    fn mails(count: usize) -> Vec<(Plan, Vec<u8>)> {
        let mut generator = Generator::new(GeneratorConfig {
            run: 1,
            seed: 1,
            sizes: SizeMix::only(800),
            domains: vec!["a.example".into()],
            recipients_per_mail: 1,
            ..GeneratorConfig::default()
        });
        let make = |_| {
            let plan = generator.plan();
            let mut content = Vec::new();
            generator.write(&plan, &mut content);
            (plan, content)
        };
        (0..count).map(make).collect()
    }

    fn deliver(desk: &mut Desk, plan: &Plan, content: &[u8]) {
        let recipients = plan.recipients().map(Into::into).collect();
        let envelope = Envelope { recipients, ..Envelope::default() };
        desk.handle_mail(&envelope, Some(content), &[Outcome::Accepted]);
    }

    #[test]
    fn mail_in_order_behind_trace_fields_is_clean() {
        let mut desk = desk(Some(0));
        for (plan, content) in mails(5) {
            let traced = [b"Received: from a\r\n by b\r\n".as_slice(), &content].concat();
            deliver(&mut desk, &plan, &traced);
        }
        assert!(desk.counts.is_clean());
        assert_eq!((desk.counts.mails, desk.counts.distinct, desk.counts.foreign), (5, 5, 0));
    }

    #[test]
    fn an_altered_byte_is_found_wherever_it_is() {
        let (plan, content) = mails(1).remove(0);
        let covered = memchr::memmem::find(&content, b"\r\n").unwrap() + 2;
        for at in (covered..content.len()).step_by(7) {
            let mut desk = desk(None);
            let mut content = content.clone();
            content[at] ^= 1;
            deliver(&mut desk, &plan, &content);
            assert_eq!((desk.counts.altered, desk.counts.is_clean()), (1, false), "byte {at}");
        }
    }

    #[test]
    fn a_lost_end_and_an_added_line_are_found() {
        let (plan, content) = mails(1).remove(0);
        let mut desk = desk(None);
        deliver(&mut desk, &plan, &content[..content.len() - 2]);
        deliver(&mut desk, &plan, &[&content, b"more\r\n".as_slice()].concat());
        assert_eq!(desk.counts.altered, 2);
    }

    #[test]
    fn reordered_mail_is_found_beyond_what_is_allowed() {
        for (allowed, faults) in [(Some(0), 1), (Some(1), 1), (Some(2), 0), (None, 0)] {
            let mut desk = desk(allowed);
            let mails = mails(4);
            for place in [1, 2, 0, 3] {
                deliver(&mut desk, &mails[place].0, &mails[place].1);
            }
            assert_eq!(desk.counts.out_of_order, faults, "{allowed:?}");
            assert_eq!((desk.counts.displacement_most, desk.counts.altered), (2, 0));
        }
    }

    #[test]
    fn a_mail_lost_from_a_strict_queue_is_found() {
        let mut desk = desk(Some(0));
        let mails = mails(3);
        for place in [0, 2] {
            deliver(&mut desk, &mails[place].0, &mails[place].1);
        }
        assert_eq!((desk.counts.missing, desk.counts.is_clean()), (1, false));
    }

    #[test]
    fn a_repeated_mail_is_counted() {
        let mut desk = desk(Some(0));
        let mails = mails(2);
        for place in [0, 1, 0] {
            deliver(&mut desk, &mails[place].0, &mails[place].1);
        }
        assert_eq!((desk.counts.distinct, desk.counts.repeated), (2, 1));
        assert!(desk.counts.is_clean(), "whether it may be is for the ledger to say");
    }

    #[test]
    fn mail_under_another_mails_envelope_is_found() {
        let mut desk = desk(None);
        let mails = mails(2);
        deliver(&mut desk, &mails[0].0, &mails[1].1);
        assert_eq!((desk.counts.misdelivered, desk.counts.is_clean()), (1, false));
    }

    fn deliver_dsn(desk: &mut Desk, from: &str, to: &str, content: &str) {
        let (reverse_path, recipients) = (from.into(), vec![to.into()]);
        let envelope = Envelope { reverse_path, recipients, ..Envelope::default() };
        desk.handle_mail(&envelope, Some(content.as_bytes()), &[Outcome::Accepted]);
    }

    const SENDER: &str = "load-00000001-5@sender.example";

    fn dsn() -> String {
        let mail = MailId { run: 1, number: 5 };
        dsn::tests::sample(mail, &[("00000001-5-0@a.example", "failed")])
    }

    #[test]
    fn a_dsn_is_taken_for_what_it_is() {
        let mut desk = desk(Some(0));
        deliver_dsn(&mut desk, "", SENDER, &dsn());
        let counts = desk.counts;
        assert_eq!((counts.mails, counts.reports, counts.reported_failed), (1, 1, 1));
        assert!(counts.is_clean() && counts.foreign == 0 && desk.examples.is_empty());
        // With a sender it is a mail like any other, whose claims nobody believes.
        deliver_dsn(&mut desk, "a@b", SENDER, &dsn());
        assert_eq!((desk.counts.reports, desk.counts.is_clean()), (1, false));
    }

    #[test]
    fn a_dsn_to_somebody_else_or_without_form_or_about_a_dsn_is_found() {
        let mut astray = desk(None);
        deliver_dsn(&mut astray, "", "load-00000001-6@sender.example", &dsn());
        assert_eq!((astray.counts.misdelivered, astray.counts.is_clean()), (1, false));
        let report = "Content-Type: multipart/report; report-type=delivery-status\r\nSubject: x";
        for (from, to) in [("Reporting-MTA", "X"), ("Subject: x", report)] {
            let mut desk = desk(None);
            deliver_dsn(&mut desk, "", SENDER, &dsn().replace(from, to));
            assert_eq!((desk.counts.bad_reports, desk.counts.is_clean()), (1, false), "{to}");
            assert_eq!(desk.examples.len(), 1);
        }
    }

    #[test]
    fn other_peoples_mail_is_taken_and_counted() {
        let mut desk = desk(Some(0));
        let envelope = Envelope { recipients: vec!["someone@a".into()], ..Envelope::default() };
        desk.handle_mail(&envelope, Some(b"Subject: x\r\n\r\nhello\r\n"), &[Outcome::Accepted]);
        assert_eq!((desk.counts.foreign, desk.counts.is_clean()), (1, true));
    }
}

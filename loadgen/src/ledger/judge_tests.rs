//! Each fault that the ledger is there for, made on purpose.

use std::sync::Arc;

use super::ProblemKind::{
    Altered, Duplicated, Invented, Lost, Misdelivered, Misreported, Reordered, Unacknowledged,
    Unreadable, Unreported,
};
use super::*;
use crate::content::Place;
use crate::dsn::Action;
use crate::identity::RecipientId;
use crate::ledger::{Bounces, Event, Policy};

const RUN: u32 = 1;

/// A ledger told of one run, with as few words as its tests allow. Times are in microseconds.
struct Story {
    ledger: Ledger,
    position: u64,
}

fn story(policy: Policy) -> Story {
    Story { ledger: Ledger::new(policy), position: 0 }
}

fn mail(number: u64) -> MailId {
    MailId { run: RUN, number }
}

impl Story {
    /// The sender means to send mail `number` to one recipient at `a`.
    fn intends(&mut self, number: u64) -> &mut Story {
        self.intends_from(number, false)
    }

    fn intends_from(&mut self, number: u64, null_sender: bool) -> &mut Story {
        let places = vec![Place { queue: Arc::from("a"), sequence: number, recipients: 1 }];
        self.intends_to(number, null_sender, places)
    }

    fn intends_to(&mut self, number: u64, null_sender: bool, places: Vec<Place>) -> &mut Story {
        self.ledger.add(Event::Intent {
            mail: mail(number),
            at_us: 0,
            digest: number + 100,
            size_bytes: 1,
            null_sender,
            places,
        });
        self
    }

    fn answered(&mut self, number: u64, dot_us: u64, at_us: u64, answer: Answer) -> &mut Story {
        let recipients = Recipients::All;
        self.ledger.add(Event::Answer { mail: mail(number), at_us, dot_us, answer, recipients });
        self
    }

    /// The sender sends mail `number` between the times and gets 250.
    fn sends(&mut self, number: u64, dot_us: u64, at_us: u64) -> &mut Story {
        self.intends(number).answered(number, dot_us, at_us, Answer::Accepted)
    }

    fn delivers(&mut self, number: u64, at_us: u64, outcome: Outcome) -> &mut Story {
        let recipient = RecipientId { mail: mail(number), place: 0 }.address("a");
        self.arrives(Some(number), Some(number + 100), &recipient, at_us, outcome)
    }

    fn arrives(
        &mut self,
        number: Option<u64>,
        digest: Option<u64>,
        recipient: &str,
        at_us: u64,
        outcome: Outcome,
    ) -> &mut Story {
        self.position += 1;
        self.ledger.add(Event::Delivery {
            sink: 0,
            position: self.position,
            at_us,
            outcome,
            mail: number.map(mail),
            digest,
            recipient: recipient.into(),
        });
        self
    }

    /// A DSN about mail `number` says that of its recipient, and a sink answers so.
    fn reports(&mut self, number: u64, at_us: u64, action: Action, outcome: Outcome) -> &mut Story {
        let recipient = RecipientId { mail: mail(number), place: 0 }.address("a");
        self.reports_about(Some(number), Some(&recipient), at_us, Some(action), outcome)
    }

    fn reports_about(
        &mut self,
        number: Option<u64>,
        recipient: Option<&str>,
        at_us: u64,
        action: Option<Action>,
        outcome: Outcome,
    ) -> &mut Story {
        self.position += 1;
        self.ledger.add(Event::Notice {
            sink: 0,
            position: self.position,
            at_us,
            outcome,
            action,
            mail: number.map(mail),
            recipient: recipient.map(Box::from),
        });
        self
    }

    /// The verdict must name exactly these faults.
    fn must_find(&mut self, expected: &[(ProblemKind, u64)]) -> Counts {
        let verdict = self.ledger.verdict();
        let found: Vec<_> = ProblemKind::ALL
            .into_iter()
            .map(|kind| (kind, verdict.counts.faults[kind as usize]))
            .filter(|&(_, count)| count > 0)
            .collect();
        assert_eq!(found, expected, "{:?}", verdict.examples);
        assert_eq!(verdict.is_clean(), expected.is_empty());
        verdict.counts
    }
}

#[test]
fn what_was_accepted_and_delivered_once_is_clean() {
    let mut story = story(Policy { displacement_max: Some(0), ..Policy::default() });
    story.sends(0, 10, 11).sends(1, 12, 13);
    story.delivers(0, 20, Outcome::Accepted).delivers(1, 21, Outcome::Accepted);
    let counts = story.must_find(&[]);
    assert_eq!((counts.mails, counts.accepted, counts.delivered), (2, 2, 2));
    assert_eq!((counts.order_compared, counts.displacement_most), (2, 0));
}

#[test]
fn a_ledger_of_nothing_is_not_clean() {
    assert!(!Ledger::new(Policy::default()).verdict().is_clean());
}

#[test]
fn a_lost_mail_is_found() {
    story(Policy::default()).sends(0, 10, 11).must_find(&[(Lost, 1)]);
}

#[test]
fn a_mail_only_deferred_or_unanswered_is_lost() {
    let mut story = story(Policy::default());
    story.sends(0, 10, 11).delivers(0, 20, Outcome::Transient).delivers(0, 21, Outcome::Unknown);
    assert_eq!(story.must_find(&[(Lost, 1)]).lost_deferred, 1);
}

#[test]
fn a_mail_refused_for_good_is_not_lost() {
    let mut story = story(Policy::default());
    story.sends(0, 10, 11).delivers(0, 20, Outcome::Permanent);
    assert_eq!(story.must_find(&[]).bounced, 1);
}

#[test]
fn a_doubled_mail_is_found() {
    let mut story = story(Policy::default());
    story.sends(0, 10, 11).delivers(0, 20, Outcome::Accepted).delivers(0, 21, Outcome::Accepted);
    story.must_find(&[(Duplicated, 1)]);
}

#[test]
fn a_copy_behind_an_unanswered_hand_over_is_no_duplicate() {
    let mut story = story(Policy::default());
    story.sends(0, 10, 11).delivers(0, 20, Outcome::Unknown).delivers(0, 21, Outcome::Accepted);
    assert_eq!(story.must_find(&[]).unanswered, 1);
}

#[test]
fn an_unanswered_attempt_allows_one_more_copy_and_not_two() {
    let mut story = story(Policy::default());
    story.intends(0).answered(0, 10, 11, Answer::Unknown).answered(0, 12, 13, Answer::Accepted);
    story.delivers(0, 20, Outcome::Accepted).delivers(0, 21, Outcome::Accepted);
    assert_eq!(story.must_find(&[]).duplicates_allowed, 1);
    story.delivers(0, 22, Outcome::Accepted).must_find(&[(Duplicated, 1)]);
}

#[test]
fn a_restart_allows_the_repetition_of_what_was_delivered_just_before_it() {
    let policy =
        Policy { restarts_us: vec![10_000_000], restart_window_us: 1000, ..Policy::default() };
    let mut near = story(policy.clone());
    near.sends(0, 10, 11);
    near.delivers(0, 9_999_500, Outcome::Accepted).delivers(0, 11_000_000, Outcome::Accepted);
    assert_eq!(near.must_find(&[]).duplicates_allowed, 1);
    near.delivers(0, 11_000_001, Outcome::Accepted).must_find(&[(Duplicated, 1)]);

    let mut far = story(policy);
    far.sends(0, 10, 11);
    far.delivers(0, 9_000_000, Outcome::Accepted).delivers(0, 11_000_000, Outcome::Accepted);
    far.must_find(&[(Duplicated, 1)]);
}

#[test]
fn an_altered_mail_is_found() {
    let mut story = story(Policy::default());
    story.sends(0, 10, 11);
    story.arrives(Some(0), Some(999), "00000001-0-0@a", 20, Outcome::Accepted);
    story.must_find(&[(Altered, 1)]);
}

#[test]
fn a_mail_altered_beyond_recognition_is_found() {
    let mut story = story(Policy::default());
    story.sends(0, 10, 11);
    story.arrives(None, None, "00000001-0-0@a", 20, Outcome::Accepted);
    story.must_find(&[(Altered, 1)]);
}

#[test]
fn an_invented_mail_is_found() {
    let mut story = story(Policy::default());
    story.sends(0, 10, 11).delivers(0, 20, Outcome::Accepted).delivers(7, 21, Outcome::Accepted);
    story.arrives(None, None, "someone@a", 22, Outcome::Accepted);
    story.must_find(&[(Invented, 2)]);
}

#[test]
fn a_mail_at_the_wrong_recipient_is_found() {
    let mut story = story(Policy::default());
    story.sends(0, 10, 11).sends(1, 10, 11);
    // The content of one under the envelope of the other: the other is missing, too.
    story.delivers(0, 20, Outcome::Accepted);
    story.arrives(Some(0), Some(100), "00000001-1-0@a", 21, Outcome::Accepted);
    story.must_find(&[(Lost, 1), (Misdelivered, 1)]);
}

#[test]
fn a_recipient_in_a_wrong_domain_or_beyond_the_envelope_is_found() {
    let mut story = story(Policy::default());
    story.sends(0, 10, 11).delivers(0, 20, Outcome::Accepted);
    story.arrives(Some(0), Some(100), "00000001-0-0@b", 21, Outcome::Accepted);
    story.arrives(Some(0), Some(100), "00000001-0-1@a", 22, Outcome::Accepted);
    story.must_find(&[(Misdelivered, 2)]);
}

#[test]
fn refused_mail_may_not_be_delivered() {
    let mut story = story(Policy::default());
    story.sends(1, 10, 11).delivers(1, 20, Outcome::Accepted);
    story.intends(0).answered(0, 10, 11, Answer::Refused(451)).delivers(0, 20, Outcome::Accepted);
    story.must_find(&[(Unacknowledged, 1)]);
}

#[test]
fn mail_refused_at_both_ends_is_no_delivery() {
    let mut story = story(Policy::default());
    story.sends(1, 10, 11).delivers(1, 20, Outcome::Accepted);
    story.intends(0).answered(0, 10, 11, Answer::Refused(550)).delivers(0, 20, Outcome::Permanent);
    assert_eq!(story.must_find(&[]).not_accepted, 1);
}

#[test]
fn mail_of_an_unanswered_attempt_may_be_delivered_or_not() {
    let mut story = story(Policy::default());
    story.sends(2, 10, 11).delivers(2, 20, Outcome::Accepted);
    story.intends(0).answered(0, 10, 11, Answer::Unknown).delivers(0, 20, Outcome::Accepted);
    story.intends(1).answered(1, 10, 11, Answer::Unknown);
    let counts = story.must_find(&[]);
    assert_eq!((counts.not_accepted, counts.unacknowledged_allowed), (2, 1));
}

#[test]
fn a_refusal_whose_withdrawal_a_crash_lost_may_be_delivered() {
    let mut story = story(Policy { restarts_us: vec![1000], ..Policy::default() });
    story.intends(0).answered(0, 10, 900, Answer::Refused(451));
    story.answered(0, 5_000_000, 5_000_001, Answer::Accepted);
    story.delivers(0, 6_000_000, Outcome::Accepted).delivers(0, 6_000_001, Outcome::Accepted);
    assert_eq!(story.must_find(&[]).duplicates_allowed, 1);
}

#[test]
fn a_queue_out_of_order_is_found() {
    let mut story = story(Policy { displacement_max: Some(0), ..Policy::default() });
    story.sends(0, 10, 11).sends(1, 12, 13);
    story.delivers(1, 20, Outcome::Accepted).delivers(0, 21, Outcome::Accepted);
    assert_eq!(story.must_find(&[(Reordered, 1)]).displacement_most, 1);
}

#[test]
fn mails_accepted_at_the_same_time_have_no_order() {
    let mut story = story(Policy { displacement_max: Some(0), ..Policy::default() });
    story.sends(0, 10, 13).sends(1, 12, 14).sends(2, 14, 15);
    // The second's 250 did not come before the third's final dot: only the first is before the third.
    for (number, at_us) in [(1, 20), (0, 21), (2, 22)] {
        story.delivers(number, at_us, Outcome::Accepted);
    }
    assert_eq!(story.must_find(&[]).displacement_most, 0);
}

#[test]
fn recipients_of_a_mail_that_were_accepted_apart_are_ordered_apart() {
    for (delivered, must_find) in [([20, 40], &[][..]), ([20, 25], &[(Reordered, 1)])] {
        let mut story = story(Policy { displacement_max: Some(0), ..Policy::default() });
        let places = vec![Place { queue: Arc::from("a"), sequence: 0, recipients: 2 }];
        story.intends_to(0, false, places);
        for (place, at_us) in [(1, 11), (0, 15)] {
            let (dot_us, recipients) = (at_us - 1, Recipients::Some(vec![place]));
            let (mail, answer) = (mail(0), Answer::Accepted);
            story.ledger.add(Event::Answer { mail, at_us, dot_us, answer, recipients });
        }
        story.sends(1, 12, 13).delivers(1, 30, Outcome::Accepted);
        for (place, at_us) in [1, 0].into_iter().zip(delivered) {
            let recipient = RecipientId { mail: mail(0), place }.address("a");
            story.arrives(Some(0), Some(100), &recipient, at_us, Outcome::Accepted);
        }
        story.must_find(must_find);
    }
}

#[test]
fn only_first_attempts_are_ordered() {
    let mut story = story(Policy { displacement_max: Some(0), ..Policy::default() });
    story.sends(0, 10, 11).sends(1, 12, 13);
    story.delivers(0, 20, Outcome::Transient).delivers(1, 21, Outcome::Accepted);
    story.delivers(0, 30, Outcome::Accepted).must_find(&[]);
}

#[test]
fn several_connections_may_displace_a_few() {
    let mut story = story(Policy { displacement_max: Some(2), ..Policy::default() });
    for number in 0..4 {
        story.sends(number, 10 + 2 * number, 11 + 2 * number);
    }
    for (number, at_us) in [(1, 20), (2, 21), (0, 22), (3, 23)] {
        story.delivers(number, at_us, Outcome::Accepted);
    }
    assert_eq!(story.must_find(&[]).displacement_most, 2);
}

#[test]
fn a_log_without_an_end_may_lack_its_tail_and_nothing_else() {
    let mut story = story(Policy::default());
    story.ledger.begin_log();
    story.ledger.add(Event::SenderBegins { run: RUN, at_us: 0 });
    story.sends(3, 10, 11).delivers(3, 20, Outcome::Accepted);
    // Number 4 was sent after the last line that was written; 2 should be there.
    story.delivers(4, 21, Outcome::Accepted).delivers(2, 22, Outcome::Accepted);
    let counts = story.must_find(&[(Invented, 1)]);
    assert_eq!((counts.beyond_log, counts.sender_logs_open), (1, 1));
}

#[test]
fn an_answer_without_a_mail_is_found() {
    let mut story = story(Policy::default());
    story.sends(0, 10, 11).delivers(0, 20, Outcome::Accepted);
    story.answered(1, 10, 11, Answer::Accepted).must_find(&[(Unreadable, 1)]);
}

#[test]
fn recipients_are_judged_each_for_itself() {
    let mut story = story(Policy::default());
    let places = ["a", "b"].map(|queue| Place { queue: queue.into(), sequence: 0, recipients: 1 });
    story.ledger.add(Event::Intent {
        mail: mail(0),
        at_us: 0,
        digest: 100,
        size_bytes: 1,
        null_sender: false,
        places: places.to_vec(),
    });
    for (place, answer) in [(0, Answer::Accepted), (1, Answer::Refused(550))] {
        let recipients = Recipients::Some(vec![place]);
        story.ledger.add(Event::Answer { mail: mail(0), at_us: 2, dot_us: 1, answer, recipients });
    }
    story.arrives(Some(0), Some(100), "00000001-0-0@a", 20, Outcome::Accepted);
    let counts = story.must_find(&[]);
    assert_eq!((counts.accepted, counts.not_accepted), (1, 1));
    story.arrives(Some(0), Some(100), "00000001-0-1@b", 21, Outcome::Accepted);
    story.must_find(&[(Unacknowledged, 1)]);
}

/// Mail 0 was accepted, and refused by a sink for good.
fn refused(policy: Policy) -> Story {
    let mut story = story(policy);
    story.sends(0, 10, 11).delivers(0, 20, Outcome::Permanent);
    story
}

fn strict() -> Policy {
    Policy { bounces: Bounces::Required, ..Policy::default() }
}

#[test]
fn a_refused_mail_and_one_dsn_are_clean() {
    let mut story = refused(strict());
    story.reports(0, 30, Action::Failed, Outcome::Accepted);
    let counts = story.must_find(&[]);
    assert_eq!((counts.bounced, counts.reported_failed), (1, 1));
}

#[test]
fn a_missing_dsn_is_found_where_they_are_required() {
    refused(strict()).must_find(&[(Unreported, 1)]);
    refused(Policy::default()).must_find(&[]);
    let mut delayed = refused(strict());
    delayed.reports(0, 30, Action::Delayed, Outcome::Accepted);
    assert_eq!(delayed.must_find(&[(Unreported, 1)]).reported_delayed, 1);
    // Not taken: it must come again.
    for outcome in [Outcome::Transient, Outcome::Unknown] {
        let mut story = refused(strict());
        story.reports(0, 30, Action::Failed, outcome).must_find(&[(Unreported, 1)]);
    }
}

#[test]
fn a_second_dsn_is_a_duplicate_unless_a_restart_or_a_doubt_explains_it() {
    let mut story = refused(strict());
    story.reports(0, 30, Action::Failed, Outcome::Accepted);
    story.reports(0, 5_000_000, Action::Failed, Outcome::Accepted).must_find(&[(Duplicated, 1)]);

    let mut near = refused(Policy { restarts_us: vec![31], ..strict() });
    near.reports(0, 30, Action::Failed, Outcome::Accepted);
    near.reports(0, 5_000_000, Action::Failed, Outcome::Accepted).must_find(&[]);

    let mut waited = refused(Policy { restarts_us: vec![1_000_000], ..strict() });
    waited.reports(0, 5_000_000, Action::Failed, Outcome::Accepted);
    waited.reports(0, 6_000_000, Action::Failed, Outcome::Accepted).must_find(&[]);
    waited.reports(0, 7_000_000, Action::Failed, Outcome::Accepted).must_find(&[(Duplicated, 1)]);

    let mut doubtful = refused(strict());
    doubtful.reports(0, 30, Action::Failed, Outcome::Accepted);
    doubtful.reports(0, 30, Action::Failed, Outcome::Doubtful);
    doubtful.reports(0, 40, Action::Failed, Outcome::Accepted).must_find(&[]);
}

#[test]
fn a_delivered_mail_may_not_be_reported_as_failed() {
    let mut story = story(Policy { giving_up_allowed: true, ..strict() });
    story.sends(0, 10, 11).delivers(0, 20, Outcome::Accepted);
    story.reports(0, 30, Action::Failed, Outcome::Accepted).must_find(&[(Misreported, 1)]);
}

#[test]
fn what_no_sink_refused_is_given_up_only_where_that_is_allowed() {
    let tell = |policy| {
        let mut story = story(policy);
        story.sends(0, 10, 11).delivers(0, 20, Outcome::Transient);
        story.reports(0, 30, Action::Failed, Outcome::Accepted);
        story
    };
    tell(strict()).must_find(&[(Misreported, 1)]);
    let mut allowed = tell(Policy { giving_up_allowed: true, ..strict() });
    assert_eq!(allowed.must_find(&[]).given_up, 1);
    allowed.reports(0, 40, Action::Failed, Outcome::Accepted).must_find(&[(Duplicated, 1)]);
}

#[test]
fn a_dsn_whose_answer_may_not_have_been_read_may_come_again() {
    let twice = || {
        let mut story = refused(strict());
        story.reports(0, 30, Action::Failed, Outcome::Accepted);
        story.reports(0, 40, Action::Failed, Outcome::Accepted);
        story
    };
    twice().must_find(&[(Duplicated, 1)]);
    twice().reports_about(Some(0), None, 31, None, Outcome::Doubtful).must_find(&[]);
}

#[test]
fn each_copy_that_may_have_been_taken_may_be_given_up_for_itself() {
    let mut story = story(Policy { giving_up_allowed: true, ..strict() });
    story.answered(0, 5, 6, Answer::Unknown).sends(0, 10, 11);
    for at in [30, 40] {
        story.reports(0, at, Action::Failed, Outcome::Accepted);
    }
    story.must_find(&[]);
    story.reports(0, 50, Action::Failed, Outcome::Accepted).must_find(&[(Duplicated, 1)]);
}

#[test]
fn a_mail_with_the_null_reverse_path_is_never_reported() {
    let tell = || {
        let mut story = story(strict());
        story.intends_from(0, true).answered(0, 10, 11, Answer::Accepted);
        story.delivers(0, 20, Outcome::Permanent);
        story
    };
    tell().must_find(&[]);
    tell().reports(0, 30, Action::Failed, Outcome::Accepted).must_find(&[(Misreported, 1)]);
    tell().reports(0, 30, Action::Delayed, Outcome::Transient).must_find(&[(Misreported, 1)]);
}

#[test]
fn a_dsn_about_nothing_that_was_sent_is_found() {
    let mut story = refused(strict());
    story.reports(0, 30, Action::Failed, Outcome::Accepted);
    story.reports(7, 30, Action::Failed, Outcome::Accepted);
    let (failed, taken) = (Some(Action::Failed), Outcome::Accepted);
    // A domain, a place and a mail that are not those of its recipient; and nobody at all.
    story.reports_about(Some(0), Some("00000001-0-0@b"), 30, failed, taken);
    story.reports_about(Some(0), Some("00000001-0-1@a"), 30, failed, taken);
    story.reports_about(Some(0), Some("00000001-7-0@a"), 30, failed, taken);
    story.reports_about(Some(0), None, 30, None, taken);
    story.must_find(&[(Misreported, 5)]);
}

#[test]
fn a_dsn_that_a_sink_refused_need_not_arrive() {
    let mut seen = refused(strict());
    seen.reports(0, 30, Action::Failed, Outcome::Permanent);
    assert_eq!(seen.must_find(&[]).unreported_allowed, 1);
    let mut at_rcpt = refused(strict());
    at_rcpt.reports_about(Some(0), None, 30, None, Outcome::Permanent).must_find(&[]);
    // One that was refused at MAIL may have been about one mail, not about two.
    let mut at_mail = refused(strict());
    at_mail.reports_about(None, None, 30, None, Outcome::Permanent).must_find(&[]);
    at_mail.sends(1, 10, 11).delivers(1, 20, Outcome::Permanent);
    at_mail.must_find(&[(Unreported, 1)]);
}

#[test]
fn a_dsn_that_nobody_wants_is_found() {
    let forbidden = || Policy { bounces: Bounces::Forbidden, ..Policy::default() };
    refused(forbidden()).must_find(&[]);
    let mut told = refused(forbidden());
    told.reports(0, 30, Action::Failed, Outcome::Accepted).must_find(&[(Misreported, 1)]);
}

#[test]
fn a_success_must_be_true() {
    let mut story = story(strict());
    story.sends(0, 10, 11).delivers(0, 20, Outcome::Accepted);
    story.reports(0, 30, Action::Relayed, Outcome::Accepted).must_find(&[]);
    story.sends(1, 10, 11).delivers(1, 20, Outcome::Permanent);
    story.reports(1, 30, Action::Failed, Outcome::Accepted);
    story.reports(1, 30, Action::Delivered, Outcome::Accepted).must_find(&[(Misreported, 1)]);
}

#[test]
fn what_its_sender_was_refused_may_not_be_reported() {
    let mut story = story(strict());
    story.sends(1, 10, 11).delivers(1, 20, Outcome::Accepted);
    story.intends(0).answered(0, 10, 11, Answer::Refused(550));
    story.reports(0, 30, Action::Failed, Outcome::Accepted).must_find(&[(Misreported, 1)]);
}

#[test]
fn a_mail_refused_before_its_recipients_were_known_is_refused_for_all() {
    let mut story = story(strict());
    story.sends(0, 10, 11).ledger.add(Event::Refusal { sink: 0, at_us: 20, mail: mail(0) });
    assert_eq!(story.must_find(&[(Unreported, 1)]).bounced, 1);
    story.reports(0, 30, Action::Failed, Outcome::Accepted).must_find(&[]);
}

#[test]
fn a_doubtful_answer_allows_one_more_copy() {
    let mut story = story(Policy::default());
    story.sends(0, 10, 11);
    story.delivers(0, 20, Outcome::Accepted).delivers(0, 20, Outcome::Doubtful);
    story.delivers(0, 30, Outcome::Accepted).must_find(&[]);
    story.delivers(0, 40, Outcome::Accepted).must_find(&[(Duplicated, 1)]);
}

#[test]
fn a_doubt_alone_is_no_delivery() {
    let mut story = story(Policy::default());
    story.sends(0, 10, 11).delivers(0, 20, Outcome::Doubtful).must_find(&[(Lost, 1)]);
}

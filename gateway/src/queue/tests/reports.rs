//! What is told to senders, and when; messages that grow old; strict queues.

use super::*;

/// The first of so many recipients has failed, the others were delivered.
pub(super) fn failed(recipients: usize) -> DeliveryState {
    let mut state = DeliveryState::deferred(1, 0);
    state.set_status(0, RecipientStatus::Failed);
    for place in 1..recipients {
        state.set_status(place, RecipientStatus::Delivered);
    }
    state
}

fn due_report(queue: &mut MailQueue, unix_ms: u64) -> Option<(MessageId, ReportKind)> {
    match queue.next_report(unix_ms) {
        PolledReport::Due(due) => Some((due.id, due.kind)),
        _ => None,
    }
}

/// A queue with one message to two recipients, committed and released.
fn queue_of_one() -> (MailQueue, MessageId) {
    let mut queue = MailQueue::default();
    let recipients = ["b@example.net", "c@example.net"].map(Recipient::new);
    let mut envelope = Envelope::new("a@example.org", recipients.into());
    envelope.accepted_unix_ms = 1;
    let content = Bytes::from_static(b"text");
    let id = queue.store(ticket(1), Arc::new(Message { envelope, content }));
    commit(&mut queue);
    (queue, id)
}

fn commit_all(queue: &mut MailQueue) {
    queue.commit_up_to(queue.log().head(), |_, _| ());
}

#[test]
fn a_failure_is_told_when_the_copies_have_it_and_then_the_message_goes() {
    let (mut queue, id) = queue_of_one();
    queue.next_attempt(0).unwrap();
    queue.defer(id, failed(2));
    assert!(matches!(queue.next_report(0), PolledReport::Uncommitted));
    commit_all(&mut queue);
    let PolledReport::Due(due) = queue.next_report(0) else { panic!("it is due") };
    assert_eq!((due.id, due.kind, due.version), (id, ReportKind::Final, StateVersion(1)));
    assert!(matches!(queue.next_report(0), PolledReport::None), "once");
    queue.finish_report(id, 1);
    commit_all(&mut queue);
    let PolledReport::Due(due) = queue.next_report(0) else { panic!("not all were told") };
    assert_eq!(due.version, StateVersion(2), "so it has another name");
    assert_eq!(queue.len(), 1);
    queue.finish_report(id, 1);
    assert!(queue.is_empty() && queue.reports_due() == 0);
}

#[test]
fn a_postponed_report_does_not_keep_open_recipients_from_being_tried() {
    let (mut queue, id) = queue_of_one();
    queue.next_attempt(0).unwrap();
    let mut state = DeliveryState::deferred(1, 50);
    state.set_status(0, RecipientStatus::Failed);
    queue.defer(id, state);
    commit_all(&mut queue);
    assert_eq!(due_report(&mut queue, 0), Some((id, ReportKind::Final)));
    assert_eq!(attempts(&mut queue, 99), [], "not while its report is made");
    queue.postpone_report(id, 70);
    assert_eq!((queue.report_tries(id), queue.next_report_due_unix_ms()), (1, Some(70)));
    assert_eq!(attempts(&mut queue, 60), [id]);
    assert_eq!(due_report(&mut queue, 70), None, "not while it is tried");
    queue.put_back(id);
    assert_eq!(due_report(&mut queue, 69), None);
    assert_eq!(due_report(&mut queue, 70), Some((id, ReportKind::Final)));
    queue.finish_report(id, 1);
    assert_eq!(attempts(&mut queue, 60), [id], "the other recipient is still open");
}

#[test]
fn a_recovered_message_with_a_report_due_goes_straight_to_it() {
    let mut queue = MailQueue::default();
    let stored = StoredMessage::new(message("text"));
    let record = failed(1).encode();
    queue.restore(MessageId(4), stored, StateVersion(2), record).unwrap();
    queue.finish_restore(Transaction(20), ChainHash(5), MessageId(9));
    assert_eq!(attempts(&mut queue, 99), []);
    assert_eq!(due_report(&mut queue, 0), Some((MessageId(4), ReportKind::Final)));
    queue.finish_report(MessageId(4), 1);
    assert!(queue.is_empty());
}

#[test]
fn messages_that_were_never_tried_are_warned_about_once() {
    let mut queue = MailQueue::default();
    let ids = [1, 2, 3].map(|serial| queue.store(ticket(serial), message("m")));
    let retry = retry_after(40, 60);
    assert_eq!(queue.next_age_unix_ms(&retry), u64::MAX, "what is not released does not age");
    commit(&mut queue);
    assert_eq!(queue.next_age_unix_ms(&retry), 41);
    assert_eq!(queue.age(40, &retry, 9), []);
    assert_eq!(due_report(&mut queue, 40), None);
    queue.age(41, &retry, 2);
    queue.age(41, &retry, 2);
    assert_eq!(queue.next_attempt(41).unwrap().id, ids[0]);
    for id in &ids[1..] {
        assert_eq!(due_report(&mut queue, 41), Some((*id, ReportKind::Delay)));
        queue.finish_report(*id, 9);
    }
    queue.put_back(ids[0]);
    assert_eq!(due_report(&mut queue, 41), Some((ids[0], ReportKind::Delay)));
    queue.finish_report(ids[0], 9);
    assert_eq!(queue.age(60, &retry, 9), []);
    assert_eq!(due_report(&mut queue, 60), None);
    assert_eq!(queue.next_age_unix_ms(&retry), 61, "no more warnings");
    assert_eq!(attempts(&mut queue, 60), ids);
}

#[test]
fn a_warning_that_had_to_wait_for_a_failure_is_not_forgotten() {
    let (mut queue, id) = queue_of_one();
    queue.next_attempt(0).unwrap();
    let mut state = DeliveryState::deferred(1, 50);
    state.set_status(0, RecipientStatus::Failed);
    queue.defer(id, state);
    commit_all(&mut queue);
    queue.age(41, &retry_after(40, 60), 9);
    assert_eq!(due_report(&mut queue, 41), Some((id, ReportKind::Final)));
    queue.finish_report(id, 1);
    assert_eq!(due_report(&mut queue, 41), Some((id, ReportKind::Delay)));
}

#[test]
fn messages_that_were_never_tried_expire_and_those_being_tried_after_that() {
    let mut queue = MailQueue::default();
    let ids = [1, 2, 3].map(|serial| queue.store(ticket(serial), message("m")));
    commit(&mut queue);
    let retry = retry_after(0, 60);
    assert_eq!(attempts(&mut queue, 60), ids);
    queue.put_back(ids[0]);
    queue.put_back(ids[1]);
    let expired = queue.age(61, &retry, 9).iter().map(|it| it.id).collect::<Vec<_>>();
    assert_eq!(expired, ids[..2]);
    queue.put_back(ids[2]);
    assert!(queue.give_up(ids[2], 61).is_some());
    assert_eq!(queue.give_up(ids[2], 61), None, "once");
    assert_eq!(attempts(&mut queue, u64::MAX - 1), []);
    commit_all(&mut queue);
    for id in ids {
        assert_eq!(due_report(&mut queue, 61), Some((id, ReportKind::Final)));
        queue.finish_report(id, 1);
    }
    assert!(queue.is_empty());
}

#[test]
fn expired_mail_that_nobody_wants_to_hear_of_is_gone_at_once() {
    let mut queue = MailQueue::default();
    let envelope = Envelope::new("", vec![Recipient::new("b@example.net")]);
    let content = Bytes::from_static(b"a bounce");
    queue.store(ticket(1), Arc::new(Message { envelope, content }));
    commit(&mut queue);
    let retry = retry_after(40, 60);
    queue.age(50, &retry, 9);
    assert_eq!(queue.reports_due(), 0, "no warning of it");
    assert_eq!(queue.age(60, &retry, 9).len(), 1);
    assert!(queue.is_empty());
}

#[test]
fn a_held_message_does_not_keep_those_behind_it_from_growing_old_for_ever() {
    for withdraws in [false, true] {
        let mut queue = MailQueue::default();
        let held = queue.store(ticket(1), message("held"));
        let free = queue.store(ticket(2), message("free"));
        commit_all(&mut queue);
        queue.release(free);
        let retry = retry_after(0, 60);
        assert_eq!(queue.age(99, &retry, 9), []);
        assert_eq!(queue.next_age_unix_ms(&retry), u64::MAX, "no busy loop");
        if withdraws {
            queue.withdraw(ticket(1));
        } else {
            queue.release(held);
        }
        assert_eq!(queue.age(99, &retry, 9).len(), if withdraws { 1 } else { 2 });
    }
}

#[test]
fn a_strict_queue_tries_its_head_again_before_anything_else() {
    let mut queue = MailQueue::default();
    queue.set_strict(true);
    let ids = [1, 2, 3].map(|serial| queue.store(ticket(serial), message("m")));
    commit(&mut queue);
    assert_eq!(attempts(&mut queue, 0), ids[..1], "one at a time");
    queue.defer(ids[0], DeliveryState::deferred(1, 50));
    assert_eq!(attempts(&mut queue, 49), []);
    assert_eq!(queue.next_due_unix_ms(), Some(50));
    assert_eq!(attempts(&mut queue, 50), ids[..1]);
    queue.defer(ids[0], failed(1));
    assert_eq!(attempts(&mut queue, 50), ids[1..2], "a failure blocks nothing");
    queue.put_back(ids[1]);
    queue.set_strict(false);
    assert_eq!(attempts(&mut queue, 50), ids[1..]);
}

#[test]
fn nothing_passes_the_head_of_a_strict_queue_while_its_sender_is_told_of_a_part() {
    let (mut queue, id) = queue_of_one();
    queue.set_strict(true);
    let next = queue.store(ticket(2), message("next"));
    commit(&mut queue);
    queue.next_attempt(0).unwrap();
    let mut state = DeliveryState::deferred(1, 0);
    state.set_status(0, RecipientStatus::Failed);
    queue.defer(id, state);
    commit_all(&mut queue);
    assert_eq!(due_report(&mut queue, 0), Some((id, ReportKind::Final)));
    assert_eq!(attempts(&mut queue, 99), []);
    queue.finish_report(id, 1);
    assert_eq!(attempts(&mut queue, 99), [id]);
    queue.settle(id);
    assert_eq!(attempts(&mut queue, 99), [next]);
}

#[test]
fn urgent_mail_goes_first() {
    let mut queue = MailQueue::default();
    let mut ids = Vec::new();
    for (serial, priority) in [(1, None), (2, Some(3)), (3, Some(0)), (4, Some(-2)), (5, Some(3))] {
        let mut envelope = Envelope::new("a@b", vec![Recipient::new("c@d")]);
        envelope.priority = priority;
        let content = Bytes::from_static(b"m");
        ids.push(queue.store(ticket(serial), Arc::new(Message { envelope, content })));
    }
    commit(&mut queue);
    assert_eq!(attempts(&mut queue, 0), [ids[1], ids[4], ids[0], ids[2], ids[3]]);
}

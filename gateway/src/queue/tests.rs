mod reports;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use self::reports::failed;
use super::*;
use crate::message::{Envelope, Message, Recipient};

pub(super) fn message(text: &'static str) -> MessageRef {
    let mut envelope = Envelope::new("a@example.org", vec![Recipient::new("b@example.net")]);
    envelope.accepted_unix_ms = 1;
    Arc::new(Message { envelope, content: Bytes::from_static(text.as_bytes()) })
}

fn ticket(serial: u64) -> Ticket {
    Ticket { front: 0, serial }
}

/// Commits and releases everything, and returns the ids that this committed.
fn commit(queue: &mut MailQueue) -> Vec<MessageId> {
    let mut committed = Vec::new();
    queue.commit_up_to(queue.log().head(), |_, id| committed.push(id));
    committed.iter().for_each(|id| queue.release(*id));
    committed
}

fn attempts(queue: &mut MailQueue, unix_ms: u64) -> Vec<MessageId> {
    std::iter::from_fn(|| queue.next_attempt(unix_ms).map(|attempt| attempt.id)).collect()
}

#[test]
fn nothing_is_delivered_before_it_is_committed() {
    let mut queue = MailQueue::default();
    let one = queue.store(ticket(1), message("one"));
    let two = queue.store(ticket(2), message("two"));
    assert_eq!(attempts(&mut queue, 0), []);
    let mut committed = Vec::new();
    queue.release(one);
    assert_eq!(attempts(&mut queue, 0), [], "a release without a commit is nothing");
    queue.commit_up_to(Transaction(1), |_, id| committed.push(id));
    assert_eq!(committed, [one]);
    queue.release(one);
    assert_eq!(attempts(&mut queue, 0), [one]);
    assert_eq!(commit(&mut queue), [two]);
    assert_eq!(attempts(&mut queue, 0), [two]);
}

#[test]
fn a_committed_message_waits_for_its_release() {
    let mut queue = MailQueue::default();
    let held = queue.store(ticket(1), message("held"));
    let free = queue.store(ticket(2), message("free"));
    queue.commit_up_to(queue.log().head(), |_, _| ());
    queue.release(free);
    assert_eq!(attempts(&mut queue, 0), [free]);
    queue.release(held);
    assert_eq!(attempts(&mut queue, 0), [held]);
}

#[test]
fn a_withdrawn_message_is_deleted_everywhere_and_never_delivered() {
    for commits_first in [false, true] {
        let mut queue = MailQueue::default();
        let id = queue.store(ticket(1), message("text"));
        if commits_first {
            queue.commit_up_to(queue.log().head(), |_, _| ());
        }
        assert!(queue.withdraw(ticket(1)));
        assert!(!queue.withdraw(ticket(1)), "once");
        assert_eq!(commit(&mut queue), []);
        queue.release(id);
        assert_eq!(attempts(&mut queue, 0), []);
        assert_eq!(queue.pending_bytes(), 0);
        let last = queue.log().get(queue.log().head()).unwrap();
        assert!(last.id == id && matches!(last.change, Change::Delete { counted_bytes: 4 }));
    }
}

#[test]
fn a_message_in_delivery_cannot_be_withdrawn() {
    let mut queue = MailQueue::default();
    queue.store(ticket(1), message("text"));
    commit(&mut queue);
    assert!(!queue.withdraw(ticket(1)));
    assert_eq!(attempts(&mut queue, 0).len(), 1);
    assert!(!queue.withdraw(ticket(1)));
}

#[test]
fn a_deferred_message_waits_until_it_is_due_and_others_pass_it() {
    let mut queue = MailQueue::default();
    let one = queue.store(ticket(1), message("one"));
    let two = queue.store(ticket(2), message("two"));
    commit(&mut queue);
    assert_eq!(queue.next_attempt(0).unwrap().id, one);
    queue.defer(one, DeliveryState::deferred(1, 50));
    assert_eq!(queue.next_due_unix_ms(), Some(50));
    assert_eq!(attempts(&mut queue, 49), [two]);
    let again = queue.next_attempt(50).unwrap();
    assert_eq!((again.id, again.state.attempts), (one, 1));
}

#[test]
fn what_was_not_attempted_goes_first_again() {
    let mut queue = MailQueue::default();
    let ids = (1..=3).map(|serial| queue.store(ticket(serial), message("m")));
    let ids = ids.collect::<Vec<_>>();
    commit(&mut queue);
    assert_eq!(queue.next_attempt(0).unwrap().id, ids[0]);
    assert_eq!(queue.next_attempt(0).unwrap().id, ids[1]);
    queue.put_back(ids[1]);
    queue.put_back(ids[0]);
    assert_eq!(attempts(&mut queue, 0), ids);
}

#[test]
fn a_recovered_queue_goes_on_where_the_copy_stood() {
    let mut queue = MailQueue::default();
    let stored = StoredMessage::new(message("text"));
    let state = DeliveryState::deferred(2, 9);
    let ready = queue.restore(MessageId(4), stored.clone(), StateVersion(0), Bytes::new());
    assert_eq!(ready, Ok(()));
    queue.restore(MessageId(7), stored.clone(), StateVersion(2), state.encode()).unwrap();
    assert!(queue.restore(MessageId(7), stored, StateVersion(0), Bytes::new()).is_err());
    queue.finish_restore(Transaction(20), ChainHash(5), MessageId(9));
    assert_eq!(attempts(&mut queue, 0), [MessageId(4)]);
    assert_eq!(queue.next_attempt(9).unwrap().state, state);
    assert_eq!(queue.store(ticket(1), message("new")), MessageId(10));
    assert_eq!(queue.log().head(), Transaction(21));
}

#[test]
#[should_panic(expected = "one outcome for each attempt")]
fn a_second_outcome_of_one_attempt_stops_the_process() {
    let mut queue = MailQueue::default();
    let id = queue.store(ticket(1), message("m"));
    commit(&mut queue);
    queue.next_attempt(0);
    queue.put_back(id);
    queue.put_back(id);
}

fn retry_after(warn_after_ms: u64, expiry_ms: u64) -> RetryPolicy {
    RetryPolicy {
        warn_after: Duration::from_millis(warn_after_ms),
        expiry: Duration::from_millis(expiry_ms),
        ..RetryPolicy::default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store,
    Commit(u64),
    Withdraw(u64),
    Release(u64),
    Attempt,
    End { which: usize, how: u8 },
    Report,
    EndReport { which: usize, covered: Option<usize> },
    Age,
    Strict(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::Store),
        (0u64..4).prop_map(Step::Commit),
        (0u64..40).prop_map(Step::Withdraw),
        (0u64..40).prop_map(Step::Release),
        Just(Step::Attempt),
        (any::<usize>(), 0u8..5).prop_map(|(which, how)| Step::End { which, how }),
        Just(Step::Report),
        (any::<usize>(), prop::option::of(0_usize..2))
            .prop_map(|(which, covered)| Step::EndReport { which, covered }),
        Just(Step::Age),
        any::<bool>().prop_map(Step::Strict),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    /// Whatever happens, the log applied to nothing gives what lives, and each message is
    /// accounted for once.
    #[test]
    fn the_log_describes_the_queue(steps in steps()) {
        let mut queue = MailQueue::default();
        let mut out = Vec::new();
        let mut reports = Vec::new();
        let ages = retry_after(40, 60);
        let mut serial = 0;
        for (clock, step) in (0u64..).zip(steps) {
            match step {
                Step::Store => {
                    serial += 1;
                    queue.store(ticket(serial), message("body"));
                }
                Step::Commit(behind) => {
                    let number = Transaction(queue.log().head().0.saturating_sub(behind));
                    queue.commit_up_to(number, |_, _| ());
                }
                Step::Withdraw(serial) => _ = queue.withdraw(ticket(serial)),
                Step::Release(id) => queue.release(MessageId(id)),
                Step::Attempt => out.extend(queue.next_attempt(clock).map(|attempt| attempt.id)),
                Step::End { which, how } => {
                    if out.is_empty() {
                        continue;
                    }
                    let id = out.remove(which % out.len());
                    match how {
                        0 => queue.settle(id),
                        1 => queue.put_back(id),
                        2 => queue.defer(id, DeliveryState::deferred(1, clock + 5)),
                        3 => queue.defer(id, failed(1)),
                        _ => queue.defer(id, failed(2)),
                    }
                }
                Step::Report => {
                    if let PolledReport::Due(due) = queue.next_report(clock) {
                        prop_assert!(!out.contains(&due.id) && !reports.contains(&due.id));
                        reports.push(due.id);
                    }
                }
                Step::EndReport { which, covered } => {
                    if reports.is_empty() {
                        continue;
                    }
                    let id = reports.remove(which % reports.len());
                    match covered {
                        Some(covered) => queue.finish_report(id, covered),
                        None => queue.postpone_report(id, clock + 3),
                    }
                }
                Step::Age => _ = queue.age(clock, &ages, 2),
                Step::Strict(strict) => queue.set_strict(strict),
            }
            prop_assert_eq!(queue.attempts_out() as usize, out.len());
            prop_assert_eq!(queue.reports_out() as usize, reports.len());
        }
        check_log(&queue)?;
        let left = drain(&mut queue, out, reports);
        prop_assert_eq!(queue.len(), left, "what is left nobody released");
        check_log(&queue)?;
    }
}

/// Ends what is out and does all there is to do; returns how many messages reception still has.
fn drain(queue: &mut MailQueue, out: Vec<MessageId>, reports: Vec<MessageId>) -> usize {
    out.into_iter().for_each(|id| queue.settle(id));
    reports.into_iter().for_each(|id| queue.finish_report(id, 1));
    loop {
        queue.commit_up_to(queue.log().head(), |_, _| ());
        if let Some(attempt) = queue.next_attempt(u64::MAX - 1) {
            queue.settle(attempt.id);
        } else if let PolledReport::Due(due) = queue.next_report(u64::MAX - 1) {
            queue.finish_report(due.id, 9);
        } else {
            return queue.tickets.len();
        }
    }
}

fn check_log(queue: &MailQueue) -> Result<(), TestCaseError> {
    let mut live = BTreeMap::new();
    let mut hash = ChainHash(0);
    for number in 1..=queue.log().head().0 {
        let entry = queue.log().get(Transaction(number)).expect("nothing was trimmed");
        hash = kvs_proto::chain(hash, entry.change.op(), entry.id, entry.change.digest());
        prop_assert_eq!(hash, entry.hash);
        match &entry.change {
            Change::Store(stored) => {
                let body = stored.body.digest();
                live.insert(entry.id, (body, StateDigest(0)));
            }
            Change::Delete { .. } => prop_assert!(live.remove(&entry.id).is_some()),
            Change::Replace { version, record } => {
                live.get_mut(&entry.id).expect("it lives").1 = state_digest(*version, record);
            }
        }
    }
    let content = live.iter().fold(ContentDigest(0), |sum, (id, (body, state))| {
        sum.with(kvs_proto::content_term(*id, *state, *body))
    });
    prop_assert_eq!(content, queue.content_digest());
    let ids = queue.snapshots_after(MessageId(0)).map(|it| it.id).collect::<Vec<_>>();
    prop_assert_eq!(ids, live.keys().copied().collect::<Vec<_>>());
    Ok(())
}

#[test]
fn what_is_due_waits_among_the_ready_and_for_no_time() {
    let mut queue = MailQueue::default();
    let id = queue.store(ticket(1), message("one"));
    commit(&mut queue);
    assert_eq!(attempts(&mut queue, 0), [id]);
    queue.defer(id, DeliveryState::deferred(1, 50));
    queue.ripen(49);
    assert_eq!(queue.next_due_unix_ms(), Some(50));
    queue.ripen(50);
    assert_eq!(queue.next_due_unix_ms(), None);
    assert_eq!(attempts(&mut queue, 0), [id]);
}

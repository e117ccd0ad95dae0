//! A copy, asked and answered by hand.

use super::*;
use crate::api::Ticket;
use crate::message::{DeliveryState, Envelope, Message, Recipient};

fn store(queue: &mut MailQueue, serial: u64) -> MessageId {
    let mut envelope = Envelope::new("", vec![Recipient::new("b@example.net")]);
    envelope.accepted_unix_ms = serial;
    let message = Message { envelope, content: Bytes::from_static(b"x\r\n") };
    queue.store(Ticket { front: 0, serial }, message.into())
}

fn commit(queue: &mut MailQueue) {
    let mut ids = Vec::new();
    queue.commit_up_to(queue.log().head(), |_, id| ids.push(id));
    ids.into_iter().for_each(|id| queue.release(id));
}

/// The queue's operations after the first `known`.
fn operations(queue: &MailQueue, known: u64) -> Vec<Operation> {
    let operation = |number| {
        let entry = queue.log().get(number).expect("nothing was trimmed");
        let (op, digest) = (entry.change.op(), entry.change.digest());
        Operation { transaction: number, op, id: entry.id, digest, hash: entry.hash }
    };
    (known + 1..=queue.log().head().0).map(|number| operation(Transaction(number))).collect()
}

fn ops(repairs: &VecDeque<Repair>) -> Vec<(Op, u64)> {
    let op = |repair: &Repair| match repair {
        Repair::Store(id) => (Op::Store, id.0),
        Repair::Delete(id) => (Op::Delete, id.0),
        Repair::Replace(id) => (Op::Replace, id.0),
    };
    repairs.iter().map(op).collect()
}

#[test]
fn a_repair_that_needs_every_operation_repeats_them_in_their_order() {
    let mut queue = MailQueue::default();
    store(&mut queue, 1);
    store(&mut queue, 2);
    commit(&mut queue);
    let known = queue.log().head().0;
    store(&mut queue, 3);
    let first = queue.next_attempt(0).unwrap().id;
    queue.settle(first);
    store(&mut queue, 4);
    let second = queue.next_attempt(0).unwrap().id;
    queue.defer(second, DeliveryState::deferred(0, 9));
    let repairs = net_repairs(&operations(&queue, known), &queue).unwrap();
    let expected = [(Op::Store, 3), (Op::Delete, 1), (Op::Store, 4), (Op::Replace, 2)];
    assert_eq!(ops(&repairs), expected);
}

#[test]
fn what_came_and_went_and_states_that_were_replaced_are_left_out() {
    let mut queue = MailQueue::default();
    store(&mut queue, 1);
    commit(&mut queue);
    store(&mut queue, 2);
    store(&mut queue, 3);
    assert!(queue.withdraw(Ticket { front: 0, serial: 2 }));
    commit(&mut queue);
    for due_unix_ms in [5, 6] {
        let id = queue.next_attempt(due_unix_ms).unwrap().id;
        queue.defer(id, DeliveryState::deferred(0, due_unix_ms));
    }
    let repairs = net_repairs(&operations(&queue, 1), &queue).unwrap();
    assert!(repairs.len() < operations(&queue, 1).len(), "the number stays lower");
    assert!(!ops(&repairs).iter().any(|(_, id)| *id == 2));
    assert_eq!(ops(&repairs)[0], (Op::Store, 3));
}

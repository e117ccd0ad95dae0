//! A copy, asked and answered by hand.

use kvs_proto::{Op, Status};

use super::repair::{Repair, Repairs};
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

fn ops(mut repairs: Repairs) -> Vec<(Op, u64)> {
    let op = |repair: Repair| match repair {
        Repair::Store(id) => (Op::Store, id.0),
        Repair::Delete(id) => (Op::Delete, id.0),
        Repair::Replace(id) => (Op::Replace, id.0),
    };
    std::iter::from_fn(|| repairs.pop()).map(op).collect()
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
    let repairs = Repairs::of(&operations(&queue, known), &queue).unwrap();
    let expected = [(Op::Store, 3), (Op::Delete, 1), (Op::Store, 4), (Op::Replace, 2)];
    assert_eq!(ops(repairs), expected);
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
    let repairs = Repairs::of(&operations(&queue, 1), &queue).unwrap();
    let repairs = ops(repairs);
    assert!(repairs.len() < operations(&queue, 1).len(), "the number stays lower");
    assert!(!repairs.iter().any(|(_, id)| *id == 2));
    assert_eq!(repairs[0], (Op::Store, 3));
}

/// What a copy sends, each way.
#[derive(Default)]
struct Sent {
    requests: Vec<Request>,
    hedges: Vec<Request>,
    hedges_first: usize,
    /// There is no other path.
    is_alone: bool,
}

impl Outlet for Sent {
    fn has_room(&self) -> bool {
        true
    }

    fn send(&mut self, request: Request) {
        self.requests.push(request);
    }

    fn can_hedge(&self, _queue: QueueIndex) -> bool {
        !self.is_alone
    }

    fn hedge(&mut self, request: Request) {
        self.hedges.push(request);
    }

    fn note_hedge_first(&mut self) {
        self.hedges_first += 1;
    }

    fn answered_since(&self) -> Option<tcpstack::Instant> {
        None
    }
}

/// A queue with a copy that follows it.
struct Bench {
    queue: MailQueue,
    copy: Copy,
    sent: Sent,
    serial: u64,
}

const CREDIT: Credit = Credit { messages: 100, kib: 1000 };

fn context() -> QueueContext {
    QueueContext { queue: QueueIndex(0), name: "gw/q".into(), epoch: Epoch(1) }
}

impl Bench {
    fn new() -> Bench {
        let (queue, sent) = (MailQueue::default(), Sent::default());
        let mut bench = Bench { queue, copy: Copy::default(), sent, serial: 0 };
        bench.copy.create(&context(), &mut bench.sent);
        bench.answer(Answer::Attached { standing: Standing::EMPTY, credit: CREDIT });
        bench.copy.follow(&bench.queue).unwrap();
        bench
    }

    /// Stores messages, and lets the copy ask for them.
    fn store(&mut self, count: usize) {
        for _ in 0..count {
            self.serial += 1;
            store(&mut self.queue, self.serial);
        }
        self.pump();
    }

    fn store_large(&mut self, bytes: usize) {
        self.serial += 1;
        let envelope = Envelope::new("", vec![Recipient::new("b@example.net")]);
        let message = Message { envelope, content: vec![b'x'; bytes].into() };
        self.queue.store(Ticket { front: 0, serial: self.serial }, message.into());
        self.pump();
    }

    fn pump(&mut self) {
        let floor = Transaction(u64::MAX / 2);
        self.copy.pump(&context(), &self.queue, floor, None, &mut self.sent);
    }

    fn hedge(&mut self) {
        self.copy.hedge(&context(), &self.queue, &mut self.sent);
    }

    fn answer(&mut self, answer: Answer) -> Progress {
        self.copy.handle_answer(answer, &context(), &mut self.sent, &self.queue)
    }

    fn active(&mut self, sequence: u64, transaction: u64) -> Progress {
        let (sequence, transaction) = (Sequence(sequence), Transaction(transaction));
        self.answer(Answer::Acknowledged { sequence, transaction, credit: CREDIT })
    }

    fn standby(&mut self, sequence: u64, transaction: u64) -> Progress {
        let (sequence, transaction) = (Sequence(sequence), Transaction(transaction));
        self.answer(Answer::AcknowledgedByStandby { sequence, transaction, credit: CREDIT })
    }

    fn answered(&self) -> u64 {
        self.copy.acknowledged().unwrap().0
    }
}

/// Sequence number and floor of each change.
fn numbers(requests: &[Request]) -> Vec<(u64, u64)> {
    let number = |request: &Request| match &request.ask {
        Ask::Change { sequence, floor, .. } => Some((sequence.0, floor.0)),
        _ => None,
    };
    requests.iter().filter_map(number).collect()
}

#[test]
fn what_waits_goes_the_other_way_once_and_under_the_same_numbers() {
    let mut bench = Bench::new();
    bench.store(3);
    assert!(matches!(bench.active(1, 1), Progress::Advanced));
    bench.hedge();
    bench.hedge();
    assert_eq!(numbers(&bench.sent.hedges), [(2, 2), (3, 2)]);
    bench.store(1);
    bench.hedge();
    assert_eq!(numbers(&bench.sent.hedges), [(2, 2), (3, 2), (4, 2)]);
    let asks = |requests: &[Request]| requests.iter().map(|it| format!("{:?}", it.ask)).collect();
    let originals: Vec<String> = asks(&bench.sent.requests[2..4]);
    let hedges: Vec<String> = asks(&bench.sent.hedges[..2]);
    let change = |ask: &String| ask.split_once("change:").unwrap().1.to_owned();
    assert_eq!(
        hedges.iter().map(change).collect::<Vec<_>>(),
        originals.iter().map(change).collect::<Vec<_>>()
    );
}

#[test]
fn nothing_is_hedged_that_is_answered_or_has_no_other_way() {
    let mut bench = Bench::new();
    bench.store(1);
    assert!(bench.copy.waits());
    bench.sent.is_alone = true;
    bench.hedge();
    bench.sent.is_alone = false;
    bench.active(1, 1);
    assert!(!bench.copy.waits());
    bench.hedge();
    assert_eq!(numbers(&bench.sent.hedges), []);
}

#[test]
fn a_hedge_that_is_answered_first_counts_and_the_late_answer_changes_nothing() {
    let mut bench = Bench::new();
    bench.store(3);
    bench.hedge();
    assert!(matches!(bench.standby(2, 2), Progress::Advanced));
    assert_eq!((bench.answered(), bench.sent.hedges_first), (2, 1));
    // The server has all three by now, and says so to the first, which had come before.
    assert!(matches!(bench.active(1, 3), Progress::None));
    assert!(matches!(bench.active(2, 3), Progress::None));
    assert_eq!(bench.answered(), 2);
    assert!(matches!(bench.active(3, 3), Progress::Advanced));
    assert!(matches!(bench.standby(3, 3), Progress::None));
    assert_eq!((bench.answered(), bench.sent.hedges_first), (3, 1));
}

#[test]
fn what_the_active_path_has_not_answered_stays_remembered_at_the_server() {
    let mut bench = Bench::new();
    bench.store(2);
    bench.hedge();
    bench.standby(2, 2);
    bench.store(1);
    bench.active(1, 2);
    bench.store(1);
    bench.active(4, 4);
    bench.store(1);
    // The second of each pair is the floor: the first number that may still be on its way.
    let sent = numbers(&bench.sent.requests);
    assert_eq!(sent, [(1, 1), (2, 1), (3, 1), (4, 2), (5, 5)]);
}

#[test]
fn so_many_bytes_are_hedged_at_a_time_and_nothing_that_is_longer() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        bench.store_large(20_000);
    }
    bench.hedge();
    bench.hedge();
    assert_eq!(numbers(&bench.sent.hedges), [(1, 1), (2, 1), (3, 1)]);
    bench.standby(2, 2);
    bench.hedge();
    assert_eq!(numbers(&bench.sent.hedges)[3..], [(4, 1), (5, 1)]);
    bench.standby(5, 5);
    bench.store_large(HEDGED_BYTES_MAX);
    bench.store(1);
    bench.hedge();
    assert_eq!(bench.sent.hedges.len(), 5, "what is behind waits too: numbers have no gaps");
}

#[test]
fn what_was_never_asked_for_is_out_of_step_on_either_path() {
    let progress = |act: fn(&mut Bench) -> Progress| {
        let mut bench = Bench::new();
        bench.store(3);
        bench.active(1, 1);
        bench.hedge();
        bench.store(1);
        act(&mut bench)
    };
    let is_out = |act| matches!(progress(act), Progress::OutOfStep(_));
    assert!(is_out(|it| it.active(5, 5)), "not sent at all");
    assert!(is_out(|it| it.standby(4, 4)), "not sent that way");
    assert!(is_out(|it| it.active(0, 1)), "back on one path");
    assert!(is_out(|it| it.standby(3, 2)), "one of them was refused");
    assert!(is_out(|it| it.standby(3, 5)), "more than was sent");
    assert!(is_out(|it| it.active(4, 3)), "one of them was refused");
    assert!(!is_out(|it| it.standby(3, 4)), "the fourth has come by the other path");
    assert!(!is_out(|it| it.standby(1, 3)), "late");
}

#[test]
fn a_hedge_that_is_refused_is_the_copy_s_answer() {
    let mut bench = Bench::new();
    bench.store(1);
    bench.hedge();
    let refused = |status| Answer::Refused { op: Op::Store, status, epoch: Epoch(1) };
    assert!(matches!(bench.answer(refused(Status::ArenaFull)), Progress::NoRoom(_)));
    bench.copy.forget();
    assert!(matches!(bench.answer(refused(Status::ArenaFull)), Progress::None), "the other path");
}

#[test]
fn hedges_of_a_copy_that_was_given_up_mean_nothing() {
    let mut bench = Bench::new();
    bench.store(1);
    bench.hedge();
    bench.copy.refill(&context(), &mut bench.sent);
    assert!(matches!(bench.standby(1, 1), Progress::None));
    assert_eq!(bench.copy.acknowledged(), None);
}

#[test]
fn a_hedge_that_is_fenced_while_its_path_takes_over_means_nothing() {
    let mut bench = Bench::new();
    bench.store(1);
    bench.hedge();
    bench.copy.detach();
    bench.copy.attach(&context(), &mut bench.sent);
    let fenced = |op| Answer::Refused { op, status: Status::Fenced, epoch: Epoch(1) };
    assert!(matches!(bench.answer(fenced(Op::Store)), Progress::None), "a hedge from before");
    let ours = bench.answer(fenced(Op::Attach));
    assert!(matches!(ours, Progress::Fenced(Epoch(1))), "what it waits for is refused");
}

#[test]
fn a_resume_by_the_other_path_goes_on_from_what_the_server_has() {
    let mut bench = Bench::new();
    bench.store(4);
    bench.hedge();
    bench.standby(2, 2);
    bench.copy.detach();
    bench.copy.attach(&context(), &mut bench.sent);
    assert!(bench.copy.follows_or_resumes() && !bench.copy.is_following());
    assert!(matches!(bench.standby(3, 3), Progress::None), "what comes late waits for that");
    let entry = bench.queue.log().get(Transaction(3)).unwrap();
    let numbers_then = Baseline {
        transaction: Transaction(3),
        hash: entry.hash,
        content: kvs_proto::ContentDigest(0),
        messages: 3,
    };
    let standing = Standing {
        sequence: Sequence(3),
        numbers: numbers_then,
        last_id: MessageId(3),
        owner_idle: None,
    };
    bench.answer(Answer::Attached { standing, credit: CREDIT });
    bench.copy.follow(&bench.queue).unwrap();
    bench.sent.requests.clear();
    bench.pump();
    assert_eq!(numbers(&bench.sent.requests), [(4, 4)]);
    assert_eq!(bench.answered(), 3);
}

#[test]
fn room_that_hedges_have_taken_is_not_granted_again_by_what_comes_late() {
    let mut bench = Bench::new();
    bench.store(3);
    bench.hedge();
    let credit = |messages| Credit { messages, kib: 1000 };
    let [first, third] = [1, 3].map(Sequence);
    let transaction = Transaction(3);
    bench.answer(Answer::AcknowledgedByStandby { sequence: third, transaction, credit: credit(7) });
    assert_eq!(bench.copy.credit(), credit(7));
    let late = Transaction(1);
    bench.answer(Answer::Acknowledged { sequence: first, transaction: late, credit: credit(9) });
    bench.answer(Answer::Granted { sequence: first, credit: credit(9) });
    assert_eq!(bench.copy.credit(), credit(7));
    bench.answer(Answer::Granted { sequence: third, credit: credit(8) });
    assert_eq!(bench.copy.credit(), credit(8));
    bench.answer(Answer::Acknowledged { sequence: third, transaction, credit: credit(6) });
    assert_eq!(bench.copy.credit(), credit(6));
}

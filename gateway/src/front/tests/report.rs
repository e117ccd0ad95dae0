//! Reports on their way through a front: order, shortage, time-outs, stopping.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvs_proto::{MessageId, StateVersion};
use smtp::{Notify, Reply};
use tcpstack::{Instant, SimNetwork, SimOptions, SimTransport};

use super::shard::Mode;
use super::{Q0, Q1, World, config, ip, world, world_with};
use crate::api::{Command, Notice, Report, ReportKind, ReportOutcome};
use crate::board::Board;
use crate::front::Front;
use crate::message::{DeliveryState, Envelope, Message, QueueIndex, Recipient, RecipientStatus};
use crate::replication::record::RegisterAnswer;
use crate::shard::RegisterErrand;
use crate::turn::{Drivers, Fatal, Parcel, Places, Surroundings};

const ORIGINAL: MessageId = MessageId(77);
const DONE: ReportOutcome = ReportOutcome::Done { covered: 1 };

/// One recipient has failed; the sender is at b.example unless said otherwise.
fn report(sender: &str) -> Report {
    let envelope = Envelope::new(sender, vec![Recipient::new("r@a.example")]);
    let content = Bytes::from_static(b"Subject: x\r\n\r\nhello\r\n");
    let mut state = DeliveryState::default();
    state.explain(0, &Reply::local(550, (5, 1, 1), "unknown"), "192.0.2.1:25");
    state.set_status(0, RecipientStatus::Failed);
    Report {
        kind: ReportKind::Final,
        message: Arc::new(Message { envelope, content }),
        state,
        version: StateVersion(1),
        at_unix_ms: super::UNIX_MS,
        retry_until_unix_ms: super::UNIX_MS,
    }
}

fn outcomes(world: &mut World<SimTransport>) -> Vec<(MessageId, ReportOutcome)> {
    world.shard.queue(Q0).report_outcomes.clone()
}

fn hand_out(world: &mut World<SimTransport>, sender: &str) {
    world.shard.report(Q0, ORIGINAL, report(sender));
    world.run_for(Duration::from_millis(1));
}

#[test]
fn a_report_is_done_when_it_is_committed_and_delivered_after_that() {
    let mut world = world();
    world.shard.queue(Q1).mode = Mode::Wait;
    hand_out(&mut world, "s@b.example");
    assert_eq!(outcomes(&mut world), []);
    let stored = world.shard.queue(Q1).waiting[0].message.clone();
    assert_eq!(&*stored.envelope.reverse_path, "");
    assert_eq!(&*stored.envelope.recipients[0].address, "s@b.example");
    assert_eq!(stored.envelope.recipients[0].notify, Some(Notify::NEVER));
    assert_eq!(world.next_hop.messages.len(), 0);
    world.shard.commit(Q1);
    world.run_until("its delivery", |world| world.shard.queues[1].settled.len() == 1);
    assert_eq!(world.next_hop.messages.len(), 1);
    assert_eq!(outcomes(&mut world), [(ORIGINAL, DONE)]);
    assert_eq!(world.front.counters().reports.reported, 1);
    assert_eq!(world.front.counters().reception.accepted, 0, "nobody sent it");
    world.assert_board_is_whole();
}

#[test]
fn a_report_that_is_refused_or_has_no_room_is_postponed() {
    let mut world = world();
    world.board.set_accepting(Q1, false);
    hand_out(&mut world, "s@b.example");
    world.board.set_accepting(Q1, true);
    world.shard.queue(Q1).mode = Mode::Refuse;
    hand_out(&mut world, "s@b.example");
    let left = fill(&mut world, Q1);
    let open = vec![Recipient::new("r@a.example"), Recipient::new("open@a.example")];
    let envelope = Envelope::new("s@b.example", open);
    let message = Arc::new(Message { envelope, content: Bytes::new() });
    world.shard.report(Q0, ORIGINAL, Report { message, ..report("s@b.example") });
    world.run_for(Duration::from_millis(1));
    world.board.release(Q1, left);
    assert_eq!(outcomes(&mut world), [(ORIGINAL, ReportOutcome::Postponed); 3]);
    assert_eq!(world.front.counters().reports.postponed, 3);
    world.shard.queue(Q1).mode = Mode::Commit;
    hand_out(&mut world, "s@b.example");
    assert_eq!(outcomes(&mut world).last(), Some(&(ORIGINAL, DONE)));
    world.run_until("its delivery", |world| world.shard.queues[1].settled.len() == 1);
    world.assert_board_is_whole();
}

/// Takes all room of a queue but some for one small message; returns the size of what took it.
fn fill(world: &mut World<SimTransport>, queue: QueueIndex) -> usize {
    let size = usize::try_from(world.board.left(queue).1).unwrap() - 1000;
    world.board.reserve(queue, size).unwrap();
    size
}

#[test]
fn the_last_report_of_a_message_finds_room_in_a_full_queue() {
    let mut world = world();
    let size = fill(&mut world, Q1);
    hand_out(&mut world, "s@b.example");
    assert_eq!(outcomes(&mut world), [(ORIGINAL, DONE)]);
    world.run_until("its delivery", |world| world.shard.queues[1].settled.len() == 1);
    world.board.release(Q1, size);
    world.assert_board_is_whole();
}

#[test]
fn reports_are_taken_although_receipt_is_suspended() {
    let mut world = world();
    world.board.set_suspended(Q1, true);
    hand_out(&mut world, "s@b.example");
    assert_eq!(outcomes(&mut world), [(ORIGINAL, DONE)]);
}

#[test]
fn a_report_that_is_not_committed_in_time_is_withdrawn_and_never_delivered() {
    let mut world = world();
    world.shard.queue(Q1).mode = Mode::Wait;
    hand_out(&mut world, "s@b.example");
    let late = world.shard.queue(Q1).waiting[0].clone();
    world.run_for(Duration::from_secs(21));
    assert_eq!(outcomes(&mut world), [(ORIGINAL, ReportOutcome::Postponed)]);
    assert_eq!((world.shard.queue(Q1).withdrawn, world.next_hop.messages.len()), (1, 0));
    let notice = crate::api::Notice::Committed { ticket: late.ticket, queue: Q1, id: ORIGINAL };
    let now = world.now();
    world.front.handle_notice(notice, now);
    world.run_for(Duration::from_secs(1));
    assert_eq!(outcomes(&mut world).len(), 1, "a commit that crossed the withdrawal is nothing");
    assert_eq!(world.front.counters().reports.late_notices, 1);
    world.assert_board_is_whole();
}

#[test]
fn a_sender_without_a_route_is_told_by_the_queue_for_those_or_not_at_all() {
    let mut world = world();
    hand_out(&mut world, "s@nowhere.example");
    assert_eq!(world.front.counters().reports.dropped, 1);
    let [(ORIGINAL, ReportOutcome::Done { covered })] = outcomes(&mut world)[..] else {
        panic!("the original is let go")
    };
    assert_eq!(covered, usize::MAX);
    assert_eq!(world.next_hop.messages.len(), 0);
    let mut world = world_with(|config| config.reports.queue = Some(QueueIndex(2)));
    hand_out(&mut world, "s@nowhere.example");
    world.run_until("its delivery", |world| world.next_hop.messages.len() == 1);
    assert_eq!(world.shard.queue(QueueIndex(2)).settled.len(), 1);
}

#[test]
fn stopping_finishes_reports_under_way_and_begins_no_more() {
    let mut world = world();
    world.shard.queue(Q1).mode = Mode::Wait;
    hand_out(&mut world, "s@b.example");
    world.front.stop();
    hand_out(&mut world, "s@b.example");
    assert!(!world.front.is_stopped());
    world.shard.commit(Q1);
    world.run_until("the end", |world| world.front.is_stopped());
    assert_eq!(outcomes(&mut world), [(ORIGINAL, ReportOutcome::Postponed), (ORIGINAL, DONE)]);
}

/// What a worker that has a front alone reaches: notices come, and commands go.
struct Neighbour {
    now: Instant,
    notices: VecDeque<Notice>,
    commands: Vec<Command>,
}

impl Surroundings for Neighbour {
    fn send(&mut self, _: usize, parcel: Parcel) {
        let Parcel::Command(command) = parcel else { panic!("the other one has a shard") };
        self.commands.push(command);
    }

    fn receive(&mut self) -> Option<Parcel> {
        self.notices.pop_front().map(Parcel::Notice)
    }

    fn ask_register(&mut self, _: RegisterErrand) -> Result<(), Fatal> {
        panic!("a front has nothing to ask")
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn poll_register(&mut self) -> Option<(usize, RegisterAnswer)> {
        None
    }
}

#[test]
fn a_report_that_comes_after_a_long_rest_has_all_its_time_to_be_committed() {
    let network = SimNetwork::new(1, SimOptions::default());
    let config = config(SocketAddr::new(ip(1), 25), SocketAddr::new(ip(3), 25));
    let board = Arc::new(Board::new([(100, 100_000); 3], 200_000));
    board.set_accepting(Q1, true);
    let front = Front::new(&config, network.host(ip(1)), board);
    let places = Places { shard_workers: [1; 3].into(), front_workers: [0].into() };
    let mut drivers =
        Drivers { number: 0, front: Some(front), shard: None, places } as Drivers<SimTransport>;
    let mut neighbour = Neighbour { now: Instant::ZERO, notices: [].into(), commands: vec![] };
    drivers.turn(neighbour.now, super::UNIX_MS, &mut neighbour).unwrap();
    neighbour.now += config.reception.commit_timeout * 2;
    let report = Box::new(report("s@b.example"));
    neighbour.notices.push_back(Notice::Report { queue: Q0, id: ORIGINAL, report });
    drivers.turn(neighbour.now, super::UNIX_MS, &mut neighbour).unwrap();
    neighbour.commands.retain(|command| !matches!(command, Command::Slots { .. }));
    let [Command::Store { queue: Q1, .. }] = neighbour.commands[..] else {
        panic!("{:?}", neighbour.commands)
    };
}

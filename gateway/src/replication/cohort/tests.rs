//! A cohort against servers of its own making.

mod chaos;
mod corners;
mod joining;
mod leases;
mod moves;
mod rest;
mod resume;
mod server;
mod spares;
mod status;
mod world;

use kvs_proto::{Credit, Incarnation, Status};

use self::server::CREDIT;
use self::world::{
    ISOLATE_AFTER, LEASE, RECOVERY_WAIT, SERVER_NAMES, World, board, cohort, cohort_of, message,
};
use super::*;
use crate::message::DeliveryState;
use crate::replication::request::{Answer, Ask, Request};

#[test]
fn a_first_start_makes_the_queues_records_them_and_accepts() {
    let mut world = World::new(2);
    assert_eq!(world.recorded(), ["a", "b"]);
    assert_eq!(world.record.as_ref().unwrap().queues, ["q0", "q1"]);
    assert!(world.is_accepting());
    let id = world.store(0);
    world.settle();
    assert_eq!(world.committed, [(0, id)]);
    world.assert_in_step();
}

#[test]
fn a_queue_accepts_again_when_a_server_only_says_that_it_has_room() {
    let mut world = World::new(2);
    world.store(0);
    world.settle();
    for (credit, accepting) in [(Credit { messages: 100_000, kib: 0 }, false), (CREDIT, true)] {
        let sequence = world.servers[1].queues["gw/q0"].sequence;
        let answer = Answer::Granted { sequence, credit };
        let reply = Reply { queue: QueueIndex(0), answer };
        world.cohort.handle_reply(world.now, 1, 0, reply, &mut world.servers, &world.board);
        world.settle();
        assert_eq!(world.board.is_accepting(QueueIndex(0)), accepting);
    }
    assert_eq!(world.recorded(), ["a", "b"]);
    world.assert_in_step();
}

#[test]
fn nothing_is_committed_until_both_have_answered() {
    let mut world = World::new(2);
    world.servers[1].patience = 0;
    let id = world.store(0);
    world.settle();
    assert_eq!(world.at_server(0, 0), [id]);
    assert_eq!(world.committed, []);
    world.servers[1].patience = usize::MAX;
    world.settle();
    assert_eq!(world.committed, [(0, id)]);
    assert!(world.cohort.is_quiet(), "the log is forgotten once both have answered");
}

#[test]
fn with_one_server_lost_the_survivor_goes_on_only_if_the_policy_says_so() {
    for (min_sync, goes_on) in [(1, true), (2, false)] {
        let mut world = World::new(min_sync);
        world.link_down(1);
        let id = world.store(0);
        world.settle();
        assert_eq!(world.committed, [], "not before the record says so");
        assert_eq!(world.is_accepting(), goes_on);
        world.pass(ISOLATE_AFTER);
        assert_eq!(world.committed == [(0, id)], goes_on);
        assert_eq!(world.recorded() == ["a"], goes_on);
        assert_eq!(world.cohort.counters().committed_degraded, u64::from(goes_on));
        assert_eq!(world.is_accepting(), goes_on);
        world.pass(members::PATIENCE);
        assert_eq!(world.recorded(), ["a"], "what was committed is delivered at least");
        assert_eq!(world.committed == [(0, id)], goes_on);
        assert_eq!(world.is_accepting(), goes_on);
        assert!(world.board.lease_until(QueueIndex(0)) > world.now);
    }
}

#[test]
fn a_short_loss_of_a_link_is_resumed_without_a_fill() {
    let mut world = World::new(2);
    for _ in 0..5 {
        world.store(0);
    }
    world.servers[1].patience = 2;
    world.settle();
    world.link_down(1);
    let late = world.store(0);
    world.settle();
    assert!(!world.is_accepting());
    world.link_up(1);
    world.settle();
    assert_eq!(world.committed.len(), 6);
    assert!(world.committed.contains(&(0, late)));
    assert_eq!(world.cohort.counters().fills, 0);
    assert!(world.is_accepting());
    world.assert_in_step();
}

#[test]
fn a_switch_to_the_other_path_stops_neither_acceptance_nor_a_copy() {
    let mut world = World::new(2);
    for _ in 0..5 {
        world.store(0);
    }
    world.servers[1].patience = 2;
    world.settle();
    world.link_down(1);
    world.link_up(1);
    world.step();
    assert!(world.is_accepting(), "while it resumes, too");
    world.settle();
    assert_eq!(world.committed.len(), 5);
    let counters = world.cohort.counters();
    assert_eq!((counters.fills, counters.isolations), (0, 0));
    world.assert_in_step();
}

#[test]
fn late_answers_are_asked_for_by_the_other_path_and_the_first_commits() {
    let mut world = World::new(2);
    world.servers[1].patience = 0;
    let id = world.store(0);
    world.settle();
    world.servers[1].hedges = Some(Vec::new());
    world.cohort.handle_late(1, &mut world.servers[1]);
    world.cohort.handle_late(1, &mut world.servers[1]);
    let hedges = world.servers[1].hedges.take().unwrap();
    assert_eq!(hedges.len(), 1, "once");
    let Ask::Change { sequence, .. } = hedges[0].ask else { panic!("a change") };
    let transaction = kvs_proto::Transaction(1);
    let answer = Answer::AcknowledgedByStandby { sequence, transaction, credit: CREDIT };
    let reply = Reply { queue: QueueIndex(0), answer };
    world.cohort.handle_reply(world.now, 1, 0, reply, &mut world.servers, &world.board);
    world.step();
    assert_eq!(world.committed, [(0, id)]);
    // The first request comes in at last.
    world.servers[1].patience = usize::MAX;
    world.settle();
    assert_eq!(world.committed, [(0, id)]);
    world.assert_in_step();
}

#[test]
fn a_server_that_restarts_empty_is_taken_out_filled_and_taken_in() {
    for min_sync in [1, 2] {
        let mut world = World::new(min_sync);
        for _ in 0..200 {
            world.store(0);
            world.settle();
        }
        world.defer(0);
        world.deliver(0);
        world.link_down(1);
        world.servers[1].restart();
        let during = world.store(1);
        world.settle();
        world.link_up(1);
        world.settle();
        assert_eq!(world.recorded(), ["a", "b"]);
        let record = world.record.as_ref().unwrap();
        assert_eq!(record.incarnation_of("b"), Some(Incarnation(2)));
        assert!(world.committed.contains(&(1, during)));
        assert_eq!(world.at_server(1, 0).len(), 199);
        assert!(world.is_accepting());
        world.assert_in_step();
    }
}

#[test]
fn changes_during_a_fill_reach_the_copy_once() {
    let mut world = World::new(1);
    for _ in 0..100 {
        world.store(0);
        world.settle();
    }
    world.link_down(1);
    world.servers[1].restart();
    world.link_up(1);
    for turn in 0..400 {
        world.step();
        match turn % 4 {
            0 => _ = world.store(0),
            1 => _ = world.deliver(0),
            2 if turn < 200 => world.defer(0),
            _ => {}
        }
    }
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"]);
    world.assert_in_step();
}

#[test]
fn a_deleted_message_keeps_its_room_until_every_copy_has_heard() {
    let mut world = World::new(2);
    let queue = QueueIndex(0);
    world.board.reserve(queue, 9).unwrap();
    world.store(0);
    world.settle();
    let while_stored = world.board.bytes_left();
    world.servers[1].patience = 0;
    world.deliver(0);
    world.settle();
    assert_eq!(world.board.bytes_left(), while_stored, "its body is in the log still");
    world.servers[1].patience = usize::MAX;
    world.settle();
    assert_eq!(world.board.bytes_left(), board().bytes_left());
}

#[test]
fn both_servers_lost_while_the_gateway_lives_are_filled_from_its_memory() {
    let mut world = World::new(1);
    for _ in 0..10 {
        world.store(0);
    }
    world.settle();
    for member in 0..2 {
        world.link_down(member);
        world.servers[member].restart();
    }
    world.settle();
    assert!(!world.is_accepting());
    world.pass(RECOVERY_WAIT);
    world.link_up(0);
    world.link_up(1);
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"]);
    assert_eq!(world.at_server(0, 0).len(), 10);
    assert!(world.is_accepting());
    world.assert_in_step();
}

#[test]
fn a_restarted_gateway_recovers_what_both_copies_have() {
    let mut world = World::new(2);
    for _ in 0..7 {
        world.store(0);
    }
    world.settle();
    world.defer(0);
    world.deliver(0);
    world.settle();
    world.restart_gateway(false);
    assert_eq!(world.cohort.counters().recovered, 6);
    let ready = std::iter::from_fn(|| world.deliver(0)).collect::<Vec<_>>();
    assert_eq!(ready, [3, 4, 5, 6, 7].map(MessageId), "the first is deferred until later");
    world.settle();
    world.assert_in_step();
    let id = world.store(0);
    assert_eq!(id, MessageId(8), "ids go on");
    world.settle();
    assert_eq!(world.committed, [(0, id)]);
    assert_eq!(world.record.as_ref().unwrap().epoch, Epoch(2));
}

#[test]
fn copies_left_apart_by_a_crash_are_repaired_from_the_last_operations() {
    for (ahead, behind) in [(0, 1), (1, 0)] {
        let mut world = World::new(1);
        for _ in 0..5 {
            world.store(0);
        }
        world.settle();
        world.servers[behind].patience = 0;
        world.deliver(0);
        world.defer(0);
        for _ in 0..4 {
            world.store(0);
        }
        // One stored and withdrawn before the other copy heard of either.
        let ticket = Ticket { front: 0, serial: world.serial };
        assert!(world.cohort.unit_mut(0).queue.withdraw(ticket));
        world.settle();
        assert_ne!(world.at_server(ahead, 0), world.at_server(behind, 0));
        world.servers[behind].patience = usize::MAX;
        world.restart_gateway(false);
        assert_eq!(world.cohort.counters().isolations, 0);
        assert_eq!(world.recorded(), ["a", "b"]);
        assert_eq!(world.at_server(behind, 0), [2, 3, 4, 5, 6, 7, 8].map(MessageId));
        assert!(world.is_accepting());
        world.assert_in_step();
    }
}

#[test]
fn copies_whose_operations_do_not_reach_back_are_filled_anew() {
    let mut world = World::new(1);
    world.store(0);
    world.settle();
    world.servers[1].patience = 0;
    for _ in 0..5 {
        world.store(0);
    }
    world.settle();
    world.servers[0].queues.get_mut("gw/q0").unwrap().operations.drain(..3);
    world.servers[1].patience = usize::MAX;
    world.restart_gateway(false);
    assert_eq!(world.recorded(), ["a", "b"]);
    assert_eq!(world.cohort.counters().isolations, 1);
    world.assert_in_step();
}

#[test]
fn a_copy_outside_the_record_never_serves_recovery() {
    let mut world = World::new(1);
    let first = world.store(0);
    world.settle();
    world.link_down(1);
    world.pass(ISOLATE_AFTER);
    assert_eq!(world.recorded(), ["a"]);
    assert_eq!(world.deliver(0), Some(first));
    let second = world.store(0);
    world.settle();
    // The gateway dies; the survivor is away; the isolated one is there with what it had.
    world.servers[1].is_up = true;
    world.servers[0].is_up = false;
    world.restart_gateway(false);
    world.pass(RECOVERY_WAIT * 2);
    assert!(!world.is_accepting());
    assert_eq!(world.cohort.counters().recovered, 0);
    world.link_up(0);
    world.settle();
    assert_eq!(world.deliver(0), Some(second));
    assert_eq!(world.deliver(0), None, "what was delivered does not come back");
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"]);
    world.assert_in_step();
}

#[test]
fn a_starting_gateway_waits_for_all_recorded_copies_but_not_for_ever() {
    let mut world = World::new(1);
    let id = world.store(0);
    world.settle();
    world.servers[1].is_up = false;
    world.restart_gateway(false);
    assert_eq!(world.cohort.counters().recovered, 0);
    world.pass(RECOVERY_WAIT);
    assert_eq!(world.recorded(), ["a"]);
    assert_eq!(world.deliver(0), Some(id));
    assert!(world.is_accepting());
}

#[test]
fn all_copies_lost_is_an_alarm_and_never_an_empty_queue() {
    let mut world = World::new(2);
    world.store(0);
    world.settle();
    world.servers[0].restart();
    world.servers[1].restart();
    world.restart_gateway(false);
    assert!(world.fatal.as_ref().is_some_and(|why| why.contains("lost")), "{:?}", world.fatal);
    assert!(!world.is_accepting());
    world.fatal = None;
    world.restart_gateway(true);
    // Whoever had them may still act.
    world.pass(2 * LEASE);
    assert_eq!(world.fatal, None);
    world.store(0);
    world.settle();
    assert!(world.is_accepting());
    world.assert_in_step();
}

/// A gateway starts, and no server with copies is there.
fn start_without_servers() -> World {
    let mut world = World::new(2);
    world.store(0);
    world.settle();
    world.link_down(0);
    world.link_down(1);
    world.restart_gateway(false);
    world
}

/// Another gateway has recorded other copies.
fn be_replaced(world: &mut World) {
    let present = world.record.as_mut().expect("it was announced");
    (present.version, present.epoch) = (present.version + 1, present.epoch.next());
}

fn assert_was_replaced(world: &World) {
    let why = world.fatal.as_ref().expect("it is not the owner");
    assert!(why.contains("another gateway has changed the record"), "{why}");
}

/// Nobody is there to refuse it.
#[test]
fn an_owner_none_of_whose_servers_is_there_learns_that_another_gateway_has_the_queues() {
    let mut world = World::new(2);
    world.store(0);
    world.settle();
    world.link_down(0);
    world.link_down(1);
    world.pass(RECOVERY_WAIT * 3);
    assert_eq!(world.fatal, None, "the record is its own");
    be_replaced(&mut world);
    world.pass(RECOVERY_WAIT * 2);
    assert_was_replaced(&world);
}

#[test]
fn all_copies_lost_is_no_alarm_for_whom_another_gateway_has_replaced() {
    let mut world = start_without_servers();
    be_replaced(&mut world);
    world.servers.iter_mut().for_each(|server| server.restart());
    world.link_up(0);
    world.link_up(1);
    world.settle();
    assert_was_replaced(&world);
}

#[test]
fn a_start_that_waits_for_copies_learns_that_another_gateway_has_replaced_it() {
    let mut world = start_without_servers();
    world.pass(RECOVERY_WAIT * 2);
    assert!(world.fatal.is_none(), "nobody has: it goes on waiting");
    be_replaced(&mut world);
    world.pass(RECOVERY_WAIT);
    assert_was_replaced(&world);
}

#[test]
fn a_lost_register_beside_full_servers_is_an_alarm() {
    let mut world = World::new(2);
    world.store(0);
    world.settle();
    world.record = None;
    world.restart_gateway(false);
    assert!(world.fatal.as_ref().is_some_and(|why| why.contains("register was lost")));
    assert_eq!(world.at_server(0, 0).len(), 1, "and nothing is dropped");
}

#[test]
fn an_owner_that_was_replaced_stops() {
    let mut world = World::new(2);
    for server in &mut world.servers {
        server.queues.get_mut("gw/q0").unwrap().epoch = Epoch(9);
    }
    world.servers[0].queues.get_mut("gw/q0").unwrap().epoch = Epoch(9);
    world.store(0);
    world.settle();
    assert!(world.fatal.as_ref().is_some_and(|why| why.contains("epoch 9")), "{:?}", world.fatal);
    assert_eq!(world.committed, []);
}

#[test]
fn no_two_lives_seal_with_the_same_epoch() {
    let mut world = World::new(1);
    let mut epochs = vec![world.cohort.epoch];
    for _ in 0..3 {
        // It dies between sealing and claiming.
        world.cohort = cohort(1, false);
        world.link_up(0);
        world.link_up(1);
        while !matches!(world.cohort.phase, Phase::Gathering { .. }) {
            world.step();
        }
        epochs.push(world.cohort.epoch);
    }
    world.restart_gateway(false);
    epochs.push(world.cohort.epoch);
    assert!(epochs.is_sorted_by(|earlier, later| earlier < later), "{epochs:?}");
    assert_eq!(world.recorded(), ["a", "b"]);
    world.assert_in_step();
}

#[test]
fn of_two_gateways_that_claim_one_is_refused_by_the_register() {
    let mut world = World::new(2);
    world.cohort = cohort(2, false);
    world.link_up(0);
    world.link_up(1);
    // Its claim is on its way when another one's is recorded.
    for _ in 0..1000 {
        if world.cohort.phase == Phase::Claiming {
            break;
        }
        world.step();
        world.record.as_mut().unwrap().version = 40;
    }
    world.settle();
    assert!(world.fatal.as_ref().is_some_and(|why| why.contains("another gateway")));
}

#[test]
fn a_store_that_one_server_refuses_isolates_its_copy_and_is_kept_by_the_other() {
    let mut world = World::new(1);
    world.servers[1].refusing = Some(Status::ArenaFull);
    let id = world.store(0);
    for _ in 0..200 {
        world.step();
    }
    assert_eq!(world.committed, [(0, id)]);
    assert_eq!(world.recorded(), ["a"]);
    world.servers[1].refusing = None;
    world.pass(RETRY_DELAY);
    assert_eq!(world.recorded(), ["a", "b"]);
    world.assert_in_step();
}

#[test]
fn a_server_that_cannot_be_filled_is_tried_ever_more_seldom() {
    let mut world = World::new(1);
    world.servers[1].refusing = Some(Status::ArenaFull);
    world.store(0);
    for _ in 0..600 {
        world.pass(Duration::from_secs(1));
    }
    let failures = world.cohort.members[1].failures;
    assert!((10..=16).contains(&failures), "{failures} fills in ten minutes");
    world.servers[1].refusing = None;
    world.pass(FILL_DELAY_MAX);
    assert_eq!(world.recorded(), ["a", "b"]);
    assert_eq!(world.cohort.members[1].failures, 0);
}

#[test]
fn a_copy_that_falls_too_far_behind_is_given_up() {
    let mut world = World::new(2);
    world.servers[1].patience = 0;
    for round in 0..=LOG_MAX / 100 {
        for _ in 0..100 {
            world.store(0);
        }
        world.settle();
        let accepting = world.board.is_accepting(QueueIndex(0));
        let is_kept = world.recorded() == ["a", "b"];
        assert_eq!(accepting, (round + 1) * 100 < LOG_HIGH || !is_kept);
    }
    assert_eq!(world.recorded(), ["a"]);
    world.settle();
    assert!(world.cohort.unit(0).queue.log().len() < LOG_MAX, "the log is bounded");
}

#[test]
fn the_last_copy_is_not_given_up_for_being_slow() {
    let mut world = World::new(1);
    world.link_down(1);
    world.pass(ISOLATE_AFTER);
    world.servers[0].patience = 0;
    for _ in 0..=LOG_MAX {
        world.store(0);
    }
    world.settle();
    assert_eq!(world.recorded(), ["a"]);
    world.servers[0].patience = usize::MAX;
    world.settle();
    assert_eq!(world.committed.len(), LOG_MAX + 1);
}

#[test]
fn a_register_that_fails_is_tried_again_and_nothing_goes_on_without_it() {
    let mut world = World::new(1);
    world.link_down(1);
    world.store(0);
    world.now += ISOLATE_AFTER;
    world.cohort.maintain(world.now, &mut world.servers, &world.board);
    while world.serve(0) {}
    world.cohort.maintain(world.now, &mut world.servers, &world.board);
    for _ in 0..3 {
        assert!(matches!(world.cohort.poll_register(), Some(RegisterCall::Swap(_))));
        let failed = RegisterAnswer::Failed("disk full".into());
        world.cohort.handle_register(world.now, failed, &mut world.servers);
        world.step();
        assert_eq!(world.committed, []);
        world.now += RETRY_DELAY;
        world.cohort.maintain(world.now, &mut world.servers, &world.board);
    }
    world.settle();
    assert_eq!(world.committed.len(), 1);
}

#[test]
fn a_source_that_dies_during_recovery_is_replaced_and_its_room_given_back() {
    let mut world = World::new(1);
    for _ in 0..9 {
        world.store(0);
    }
    world.settle();
    world.servers[0].is_up = true;
    world.cohort = cohort(1, false);
    world.board = board();
    world.link_up(0);
    world.link_up(1);
    let mut steps = 0;
    while world.cohort.counters().recovered < 3 {
        world.step();
        steps += 1;
        assert!(steps < 1000, "recovery begins");
    }
    let source = usize::from(!world.servers[0].link.iter().any(is_fetch));
    world.link_down(source);
    world.pass(RECOVERY_WAIT);
    let delivered = std::iter::from_fn(|| world.deliver(0)).count();
    assert_eq!(delivered, 9);
    assert!(world.is_accepting());
}

fn is_fetch(request: &Request) -> bool {
    matches!(request.ask, Ask::BlockGet { .. })
}

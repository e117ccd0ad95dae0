//! Until when an owner acts, and from when its successor does.

use std::time::Duration;

use super::*;

const QUEUE: QueueIndex = QueueIndex(0);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Whether the owner may act now.
fn acts(world: &World) -> bool {
    world.board.lease_until(QUEUE) > world.now
}

/// A gateway has gone; what the servers say of how long it had been silent when the next one comes.
fn successor_of(idle: [Option<Duration>; 2]) -> World {
    let mut world = World::new(2);
    world.store(0);
    world.settle();
    for (server, idle) in world.servers.iter_mut().zip(idle) {
        server.owner_idle = Some(idle);
    }
    world.restart_gateway(false);
    world
}

#[test]
fn an_owner_acts_for_a_lease_after_what_the_slowest_member_has_answered() {
    let mut world = World::new(2);
    assert_eq!(world.board.lease_until(QUEUE), world.now + LEASE);
    world.servers[1].patience = 0;
    world.pass(LEASE / 2);
    world.pass(LEASE / 4);
    assert!(acts(&world));
    world.pass(LEASE / 4);
    assert!(!acts(&world), "one does not answer, though the other does");
    world.servers[1].patience = usize::MAX;
    world.settle();
    assert!(acts(&world));
}

#[test]
fn what_was_renewed_stays_when_the_link_goes_down_and_ends_in_its_time() {
    let mut world = World::new(1);
    let until = world.board.lease_until(QUEUE);
    world.link_down(1);
    world.pass(LEASE / 2);
    assert_eq!(world.board.lease_until(QUEUE), until);
    world.pass(LEASE / 2);
    assert_eq!(world.recorded(), ["a"], "isolated by now");
    assert!(acts(&world), "with those that are recorded since");
}

#[test]
fn an_owner_does_not_act_without_a_member_that_is_still_recorded() {
    let mut world = World::new(2);
    world.link_down(1);
    world.pass(2 * ISOLATE_AFTER);
    assert_eq!(world.recorded(), ["a", "b"], "the policy asks for two");
    assert!(!acts(&world));
    world.pass(2 * ISOLATE_AFTER);
    assert_eq!(world.recorded(), ["a"]);
    assert!(acts(&world));
}

#[test]
fn an_answer_renews_only_over_a_connection_by_which_every_queue_is_attached() {
    let mut world = World::new(2);
    let until = world.board.lease_until(QUEUE);
    world.link_down(1);
    world.link_up(1);
    assert!(world.serve(1), "one of the two queues");
    world.now += LEASE / 2;
    for server in &mut world.servers {
        server.answered_since = Some(world.now);
    }
    world.cohort.maintain(world.now, &mut world.servers, &world.board);
    assert_eq!(world.board.lease_until(QUEUE), until);
    world.settle();
    assert_eq!(world.board.lease_until(QUEUE), world.now + LEASE);
}

#[test]
fn without_a_lease_nothing_is_committed_though_everybody_has_it() {
    let mut world = World::new(2);
    let id = world.store(0);
    world.cohort.maintain(world.now, &mut world.servers, &world.board);
    // Stopped, and going on: the answers lay there.
    world.now += LEASE;
    while world.serve(0) || world.serve(1) {}
    assert_eq!(world.cohort.poll_event(), None);
    assert_eq!(world.committed, []);
    world.settle();
    assert_eq!(world.committed, [(0, id)], "as soon as they answer what is asked now");
}

#[test]
fn a_fenced_owner_has_no_lease_from_the_next_turn_on() {
    let mut world = World::new(2);
    assert!(acts(&world));
    world.servers[0].queues.get_mut("gw/q0").unwrap().epoch.0 += 1;
    world.store(0);
    world.settle();
    assert!(world.fatal.is_some());
    assert!(!acts(&world));
}

#[test]
fn a_successor_begins_when_the_former_owner_has_stopped() {
    for (idle, wait) in [(Some(ms(300)), ms(700)), (Some(ms(0)), ms(1000)), (None, ms(1000))] {
        let mut world = successor_of([idle; 2]);
        assert!(!world.is_accepting());
        world.pass(wait);
        assert!(!world.is_accepting(), "clocks differ");
        world.pass(LEASE / 100);
        assert!(world.is_accepting(), "{idle:?}");
        assert_eq!(world.at_server(0, 0).len(), 1);
        world.assert_in_step();
    }
}

#[test]
fn one_sealed_member_that_has_not_heard_of_the_former_owner_for_long_is_enough() {
    let world = successor_of([Some(LEASE), None]);
    assert!(world.is_accepting());
}

#[test]
fn a_successor_waits_for_the_lease_that_the_former_owner_has_recorded() {
    let mut world = World::new(2);
    assert_eq!(world.record.as_ref().unwrap().lease_ms, 1000);
    world.record.as_mut().unwrap().lease_ms = 5000;
    for server in &mut world.servers {
        server.owner_idle = Some(Some(ms(500)));
    }
    world.restart_gateway(false);
    world.pass(ms(4500));
    assert!(!world.is_accepting());
    world.pass(ms(50));
    assert!(world.is_accepting());
    assert_eq!(world.record.as_ref().unwrap().lease_ms, 1000, "ours from now on");
}

#[test]
fn a_successor_that_was_cut_off_while_it_sealed_does_not_count_itself_as_the_former_owner() {
    let mut world = successor_of([Some(ms(900)); 2]);
    world.link_down(0);
    world.link_up(0);
    world.link_down(1);
    world.link_up(1);
    world.settle();
    world.pass(ms(110));
    assert!(world.is_accepting());
}

#[test]
fn queues_are_begun_anew_only_when_whoever_had_the_lost_copies_has_stopped() {
    let mut world = World::new(2);
    world.servers.iter_mut().for_each(server::Server::restart);
    world.restart_gateway(true);
    assert!(!world.is_accepting());
    world.pass(LEASE + LEASE / 100);
    assert!(world.is_accepting());
}

#[test]
fn nobody_is_given_up_for_a_time_in_which_we_were_stopped() {
    let mut world = World::new(1);
    world.link_down(1);
    world.pass(ISOLATE_AFTER / 2);
    world.now += 10 * ISOLATE_AFTER;
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"]);
    world.pass(ISOLATE_AFTER);
    assert_eq!(world.recorded(), ["a"]);
}

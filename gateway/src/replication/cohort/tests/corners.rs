//! Faults at moments that the random runs found to matter.

use super::*;

#[test]
fn ids_of_deleted_messages_are_not_given_out_again_after_a_fill() {
    let mut world = World::new(2);
    world.store(0);
    let last = world.store(0);
    world.settle();
    world.deliver(0);
    world.deliver(0);
    world.settle();
    world.link_down(0);
    world.servers[0].restart();
    world.link_up(0);
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"]);
    world.restart_gateway(false);
    assert!(world.store(0) > last);
    world.settle();
    assert_eq!(world.cohort.counters().isolations, 0);
    world.assert_in_step();
}

#[test]
fn a_source_that_is_away_before_it_told_its_operations_is_asked_again() {
    let mut world = World::new(1);
    world.store(0);
    world.settle();
    world.servers[1].patience = 0;
    world.store(0);
    world.settle();
    world.servers.iter_mut().for_each(|server| server.link.clear());
    world.cohort = cohort(1, false);
    world.board = board();
    world.link_up(0);
    world.link_up(1);
    while !matches!(world.cohort.unit(0).service, Service::Settling { .. }) {
        assert!(world.step(), "the queue is read");
    }
    world.servers[0].patience = 0;
    world.step();
    let asks = |it: &Request| matches!(it.ask, Ask::OpsGet { .. });
    assert!(world.servers[0].link.iter().any(asks));
    world.link_down(0);
    world.settle();
    world.link_up(0);
    world.settle();
    assert_eq!(world.cohort.counters().isolations, 0);
    assert!(world.is_accepting());
    world.assert_in_step();
}

#[test]
fn a_copy_counts_only_when_it_has_what_was_committed_without_it() {
    let mut world = World::new(1);
    world.store(0);
    world.settle();
    world.link_down(1);
    world.servers[1].restart();
    world.link_up(1);
    let follows = |world: &World| (0..2).all(|it| world.cohort.unit(it).copies[1].is_following());
    while !follows(&world) {
        world.step();
        if world.recorded() == ["a"] && world.committed.len() < 20 {
            world.store(0);
        }
    }
    while world.recorded() == ["a"] {
        world.step();
    }
    for (_, id) in world.committed.iter().filter(|(queue, _)| *queue == 0) {
        assert!(world.at_server(1, 0).contains(id), "{id:?}");
    }
}

#[test]
fn the_last_copy_is_not_thrown_away_for_want_of_room() {
    let mut world = World::new(1);
    let id = world.store(0);
    world.settle();
    world.link_down(1);
    world.pass(ISOLATE_AFTER);
    world.servers[0].refusing = Some(Status::ArenaFull);
    world.store(0);
    world.settle();
    assert!(world.fatal.as_ref().is_some_and(|why| why.contains("take more")), "{:?}", world.fatal);
    assert_eq!(world.at_server(0, 0), [id]);
}

#[test]
fn a_queue_does_not_open_without_a_copy_that_is_still_recorded() {
    let mut world = World::new(1);
    for _ in 0..5 {
        world.store(0);
    }
    world.settle();
    world.servers[1].patience = 0;
    world.deliver(0);
    world.settle();
    world.servers[1].link.clear();
    world.cohort = cohort(1, false);
    world.board = board();
    world.link_up(0);
    world.link_up(1);
    while world.cohort.counters().recovered == 0 {
        world.step();
    }
    // The copy that is furthest is lost while it is read, and the register does not answer.
    world.link_down(0);
    for _ in 0..50 {
        world.now += RECOVERY_WAIT / 10;
        world.cohort.maintain(world.now, &mut world.servers, &world.board);
        world.serve(1);
        assert!(!world.cohort.unit(0).is_open());
    }
    world.settle();
    assert_eq!(world.recorded(), ["b"]);
    assert!(world.cohort.unit(0).is_open());
    assert_eq!(world.cohort.unit(0).queue.len(), 5, "it had not heard of the delivery");
}

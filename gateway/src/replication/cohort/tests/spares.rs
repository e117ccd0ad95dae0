//! More servers than copies: who takes whose place, and when.

use super::world::labelled;
use super::*;

/// Three servers, both copies in step.
fn with_spare() -> World {
    let mut world = World::of(3, 2);
    assert_eq!(world.recorded(), ["a", "b"]);
    world.store(0);
    world.settle();
    world
}

#[test]
fn a_spare_takes_the_place_of_a_lost_server_and_mail_is_accepted_all_the_while() {
    let mut world = with_spare();
    world.link_down(1);
    world.settle();
    let meanwhile = world.store(0);
    world.settle();
    assert!(world.is_accepting(), "another copy is about to come");
    assert!(!world.committed.contains(&(0, meanwhile)), "and until then nobody gets a 250");
    world.pass(ISOLATE_AFTER);
    assert_eq!(world.recorded(), ["a", "c"]);
    assert!(world.committed.contains(&(0, meanwhile)));
    assert!(world.is_accepting());
    world.assert_in_step();
}

#[test]
fn a_server_whose_process_has_ended_is_replaced_at_once() {
    let mut world = with_spare();
    world.link_down(1);
    let meanwhile = world.store(0);
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"], "it may come back");
    world.cohort.handle_link_gone(1);
    world.settle();
    assert_eq!(world.recorded(), ["a", "c"]);
    assert!(world.committed.contains(&(0, meanwhile)));
    world.servers[1].restart();
    world.link_up(1);
    world.link_down(1);
    world.pass(ISOLATE_AFTER / 2);
    assert_eq!(world.recorded(), ["a", "c"]);
    world.assert_in_step();
}

#[test]
fn the_silence_before_a_link_goes_down_counts() {
    let mut world = with_spare();
    world.pass(ISOLATE_AFTER);
    let meanwhile = world.store(0);
    world.link_down_after(1, ISOLATE_AFTER / 2);
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"], "it has half of its time left");
    world.pass(ISOLATE_AFTER / 2);
    assert_eq!(world.recorded(), ["a", "c"]);
    assert!(world.committed.contains(&(0, meanwhile)));
}

#[test]
fn a_server_that_was_replaced_becomes_the_spare_and_what_it_had_is_dropped() {
    let mut world = with_spare();
    world.link_down(1);
    world.settle();
    world.pass(ISOLATE_AFTER);
    assert_eq!(world.at_server(1, 0).len(), 1, "nobody could tell it");
    world.link_up(1);
    world.settle();
    assert_eq!(world.recorded(), ["a", "c"]);
    assert!(world.servers[1].queues.is_empty());
    world.link_down(0);
    world.settle();
    world.pass(ISOLATE_AFTER);
    assert_eq!(world.recorded(), ["b", "c"]);
    world.assert_in_step();
}

#[test]
fn a_short_absence_costs_no_fill() {
    let mut world = with_spare();
    world.link_down(1);
    world.pass(ISOLATE_AFTER / 2);
    world.store(0);
    world.link_up(1);
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"]);
    assert_eq!(world.cohort.counters().fills, 0);
    assert!(world.servers[2].queues.is_empty());
    world.assert_in_step();
}

#[test]
fn one_that_comes_back_while_its_place_is_being_taken_keeps_it() {
    let mut world = with_spare();
    world.servers[2].patience = 3;
    world.link_down(1);
    world.now += ISOLATE_AFTER;
    // The register does not answer: it is still recorded when it comes back.
    world.cohort.maintain(world.now, &mut world.servers, &world.board);
    while world.serve(2) {}
    assert_eq!(world.cohort.members[2].role, Role::Joining);
    world.link_up(1);
    while world.serve(1) {}
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"]);
    world.servers[2].patience = usize::MAX;
    world.settle();
    assert!(world.servers[2].queues.is_empty(), "what was filled so far is dropped");
    world.assert_in_step();
}

#[test]
fn nobody_is_given_up_while_no_other_says_that_it_is_alive() {
    let mut world = World::new(1);
    let id = world.store(0);
    world.settle();
    // The other one is dead too, and nobody has noticed yet.
    world.servers[0].patience = 0;
    world.link_down(1);
    world.settle();
    world.pass(ISOLATE_AFTER * 2);
    assert_eq!(world.recorded(), ["a", "b"]);
    world.link_down(0);
    world.servers[0].restart();
    world.restart_gateway(false);
    world.link_up(1);
    world.pass(RECOVERY_WAIT);
    assert_eq!(world.deliver(0), Some(id), "the next start finds it");
}

#[test]
fn a_spare_that_is_filled_speaks_for_itself() {
    let mut world = with_spare();
    world.servers[0].patience = 0;
    world.link_down(1);
    world.settle();
    world.pass(ISOLATE_AFTER);
    assert_eq!(world.recorded(), ["a", "c"], "it has everything, so the absent one may go");
}

#[test]
fn copies_of_uncertain_worth_stay_recorded_until_others_are_there() {
    let mut world = World::new(1);
    world.store(0);
    world.settle();
    // One restarts empty while the other is out of reach: only that one has the mail, beside us.
    world.link_down(0);
    world.link_down(1);
    world.servers[1].restart();
    world.pass(ISOLATE_AFTER * 3);
    world.link_up(1);
    while !world.recorded().contains(&"a") || world.recorded().contains(&"b") {
        assert!(world.step());
    }
    world.settle();
    world.pass(ISOLATE_AFTER);
    assert_eq!(world.recorded(), ["b"], "filled from our memory, and only then the other one goes");
    assert_eq!(world.at_server(1, 0).len(), 1);
}

#[test]
fn an_absent_copy_stays_recorded_until_the_queues_are_read_from_the_others() {
    let mut world = World::new(1);
    for _ in 0..5 {
        world.store(0);
    }
    world.settle();
    world.servers[0].is_up = false;
    world.cohort = cohort(1, false);
    world.board = board();
    world.link_up(1);
    world.now += RECOVERY_WAIT;
    let is_fetching =
        |world: &World| matches!(world.cohort.unit(0).service, Service::Fetching { .. });
    while !is_fetching(&world) {
        world.step();
        world.now += RECOVERY_WAIT / 10;
    }
    assert_eq!(world.recorded(), ["a", "b"]);
    // The one that is being read dies; the absent one comes.
    world.link_down(1);
    world.servers[1].restart();
    world.link_up(0);
    world.pass(RECOVERY_WAIT);
    let delivered = std::iter::from_fn(|| world.deliver(0)).count();
    assert_eq!(delivered, 5);
}

#[test]
fn patience_with_a_spare_that_does_not_get_ready_ends() {
    let mut world = with_spare();
    world.servers[2].patience = 1;
    world.link_down(1);
    world.pass(ISOLATE_AFTER);
    assert!(world.is_accepting());
    world.pass(Duration::from_secs(10));
    assert!(!world.is_accepting(), "clients are told to come back");
    assert!(world.cohort.next_deadline(world.now).is_none_or(|at| at > world.now));
    world.servers[2].patience = usize::MAX;
    world.settle();
    assert!(world.is_accepting());
    assert_eq!(world.recorded(), ["a", "c"]);
}

#[test]
fn no_two_copies_share_a_node_and_racks_only_if_they_must() {
    let nodes = ["gw:r1", "m1:r1", "m1:r2", "m3:r3"];
    let mut world = World::with(2, &labelled(&nodes));
    assert_eq!(
        world.recorded(),
        ["b", "c"],
        "the second stands apart from us, the third from both"
    );
    world.link_down(2);
    world.settle();
    world.pass(ISOLATE_AFTER);
    assert_eq!(
        world.recorded(),
        ["b", "c"],
        "the first is on the second's node: nobody to replace it"
    );
    assert!(!world.is_accepting());
}

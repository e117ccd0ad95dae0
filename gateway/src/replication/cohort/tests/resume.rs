//! Going on without a lease, by the operator's word.

use super::world::LEASE;
use super::*;

const QUEUE: QueueIndex = QueueIndex(0);

fn acts(world: &World) -> bool {
    world.board.lease_until(QUEUE) > world.now
}

fn resume(world: &mut World, number: u64) {
    let must_be_told = world.cohort.must_be_told(world.now);
    world.cohort.resume(world.now, number, &world.board);
    world.settle();
    assert_eq!(world.cohort.is_resumed(), must_be_told);
}

/// Every server with copies has gone, and the lease has ended.
fn all_gone() -> World {
    let mut world = World::new(2);
    world.link_down(0);
    world.link_down(1);
    world.pass(LEASE * 2);
    assert!(!acts(&world));
    world
}

#[test]
fn without_a_server_that_counts_it_goes_on_when_told_until_one_is_there_again() {
    let mut world = all_gone();
    resume(&mut world, 1);
    assert!(acts(&world));
    world.pass(LEASE * 10);
    assert!(
        acts(&world),
        "it does not run out, although the register is asked whose the queues are"
    );
    assert!(!world.cohort.is_accepting(0), "nothing more is taken");
    world.servers[0].patience = 0;
    world.link_up(0);
    world.servers[0].patience = 0;
    world.settle();
    assert!(!acts(&world), "that server may know of another owner");
    resume(&mut world, 1);
    assert!(!acts(&world), "an order is followed once");
    world.link_up(1);
    world.servers[0].patience = usize::MAX;
    world.settle();
    assert!(acts(&world), "with a lease again");
    assert!(world.cohort.is_accepting(0));
}

/// The one who was given up may be the only one who has the mail, should we die too.
#[test]
fn a_record_that_could_not_be_written_is_not_written_later_if_nobody_whom_it_names_is_there() {
    let mut world = World::new(1);
    world.register_fails = true;
    world.link_down(0);
    world.pass(ISOLATE_AFTER * 3);
    world.link_down(1);
    world.register_fails = false;
    world.pass(ISOLATE_AFTER * 3);
    assert_eq!(world.recorded(), ["a", "b"]);
    world.link_up(1);
    world.pass(ISOLATE_AFTER);
    assert_eq!(world.recorded(), ["b"]);
}

/// Nothing but the record's answer happens.
#[test]
fn what_waited_for_the_record_takes_no_memory_once_that_is_written() {
    let mut world = World::of(2, 1);
    world.register_fails = true;
    world.link_down(1);
    world.pass(ISOLATE_AFTER * 3);
    world.store(0);
    let ticket = Ticket { front: 0, serial: world.serial };
    world.settle();
    assert!(world.cohort.unit_mut(0).queue.withdraw(ticket));
    world.cohort.touch(0);
    world.settle();
    assert_eq!(world.cohort.unit(0).queue.log().len(), 2, "neither is committed");
    world.register_fails = false;
    world.pass(ISOLATE_AFTER);
    assert_eq!(world.recorded(), ["a"]);
    assert_eq!(world.cohort.unit(0).queue.log().len(), 0);
}

#[test]
fn without_the_register_it_goes_on_when_told_until_that_answers() {
    let mut world = World::new(1);
    world.register_fails = true;
    world.link_down(1);
    world.pass(ISOLATE_AFTER * 3);
    assert!(!acts(&world), "the smaller record is not written");
    resume(&mut world, 1);
    assert!(acts(&world));
    world.register_fails = false;
    world.pass(RECOVERY_WAIT);
    assert_eq!(world.recorded(), ["a"]);
    assert!(acts(&world) && !world.cohort.is_resumed());
}

#[test]
fn it_stops_when_the_register_tells_of_another_owner() {
    let mut world = World::new(1);
    world.register_fails = true;
    world.link_down(1);
    world.pass(ISOLATE_AFTER * 3);
    resume(&mut world, 1);
    assert!(acts(&world));
    world.record.as_mut().unwrap().version += 1;
    world.register_fails = false;
    world.pass(RECOVERY_WAIT);
    assert!(world.fatal.is_some() && !acts(&world));
}

#[test]
fn the_word_of_who_need_not_be_asked_changes_nothing() {
    let mut world = World::new(2);
    resume(&mut world, 1);
    world.link_down(0);
    world.link_down(1);
    world.pass(LEASE * 2);
    assert!(!acts(&world), "an order that came while there was a lease is over");
    resume(&mut world, 2);
    assert!(acts(&world));
}

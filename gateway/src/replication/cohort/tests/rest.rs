//! Turns in which only the queues are looked at.

use std::time::Duration;

use super::*;

/// Whether the cohort rests now.
fn rests(world: &World) -> bool {
    world.cohort.rests(world.now)
}

#[test]
fn messages_come_and_go_while_a_cohort_rests() {
    let mut world = World::new(2);
    let until = world.cohort.rests_until;
    assert!(rests(&world) && until <= world.now + LEASE / 8);
    let id = world.store(0);
    world.settle();
    assert_eq!(world.committed, [(0, id)]);
    assert_eq!(world.deliver(0), Some(id));
    world.settle();
    assert_eq!(
        (rests(&world), world.cohort.rests_until),
        (true, until),
        "nothing else was looked at"
    );
    world.assert_in_step();
}

#[test]
fn the_lease_goes_on_in_short_turns() {
    let mut world = World::new(2);
    for _ in 0..5000 {
        world.pass(Duration::from_millis(1));
        let left = world.board.lease_until(QueueIndex(0)).saturating_since(world.now);
        assert!(left >= LEASE * 7 / 8, "{left:?}");
    }
}

#[test]
fn whatever_is_said_of_members_ends_a_rest() {
    let mut world = World::of(3, 2);
    assert!(rests(&world));
    world.link_down(1);
    assert!(!rests(&world));
    world.settle();
    assert!(!rests(&world), "while one that counts is away");
    world.cohort.handle_link_gone(1);
    world.settle();
    assert_eq!(world.recorded(), ["a", "c"]);
    assert!(rests(&world));
    world.cohort.handle_link_gone(1);
    assert!(!rests(&world));
    world.settle();
    world.link_up(1);
    assert!(!rests(&world));
    world.settle();
    assert!(rests(&world), "as a spare");
}

#[test]
fn an_answer_that_is_wrong_ends_a_rest_in_the_same_turn() {
    let mut world = World::of(3, 2);
    world.store(0);
    let sequence = world.servers[1].queues["gw/q0"].sequence;
    let transaction = Transaction(99);
    let answer = Answer::Acknowledged { sequence, transaction, credit: CREDIT };
    let reply = Reply { queue: QueueIndex(0), answer };
    world.cohort.handle_reply(world.now, 1, 0, reply, &mut world.servers, &world.board);
    assert!(!rests(&world));
    world.settle();
    assert_eq!(world.recorded(), ["a", "c"]);
    assert!(rests(&world));
}

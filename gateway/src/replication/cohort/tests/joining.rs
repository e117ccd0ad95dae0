//! Members that join: when they count, and what they are spared.

use super::*;

/// Three servers of which two have a queue with old messages, and fills that do not come to an end.
fn with_a_slow_fill() -> World {
    let mut world = World::of(3, 2);
    (0..20).for_each(|_| _ = world.store(0));
    world.settle();
    world.board.resync().set_rate(Some(1));
    world
}

fn joining(world: &World) -> Vec<&str> {
    let record = world.record.as_ref().expect("there is a record");
    record.joining.iter().map(|member| member.server.as_str()).collect()
}

fn lose(world: &mut World, member: usize) {
    world.link_down(member);
    world.settle();
    world.pass(ISOLATE_AFTER);
}

fn end_the_fill(world: &mut World) {
    world.board.resync().set_rate(None);
    world.pass(Duration::from_secs(3600));
}

#[test]
fn new_mail_has_two_copies_again_long_before_the_fill_ends() {
    let mut world = with_a_slow_fill();
    lose(&mut world, 1);
    assert_eq!((world.recorded(), joining(&world)), (vec!["a"], vec!["c"]));
    assert!(world.is_accepting());
    let new = world.store(0);
    world.settle();
    assert!(world.committed.contains(&(0, new)));
    let there = world.at_server(2, 0);
    assert!(there.contains(&new) && there.len() < 20, "{there:?}");
    end_the_fill(&mut world);
    assert_eq!((world.recorded(), joining(&world)), (vec!["a", "c"], vec![]));
    world.assert_in_step();
}

#[test]
fn what_waits_for_its_second_copy_is_sent_first() {
    let mut world = with_a_slow_fill();
    world.link_down(1);
    world.settle();
    let waiting = world.store(0);
    world.settle();
    assert!(!world.committed.contains(&(0, waiting)));
    world.pass(ISOLATE_AFTER);
    assert_eq!(joining(&world), ["c"]);
    assert!(world.committed.contains(&(0, waiting)), "it was not committed when the fill began");
}

#[test]
fn a_member_that_joins_does_not_count_before_that_is_recorded() {
    let mut world = with_a_slow_fill();
    world.link_down(1);
    world.settle();
    world.now += ISOLATE_AFTER;
    let new = world.store(0);
    // The register says that the absent one is out, and nothing after that.
    let mut swaps = 0;
    for _ in 0..500 {
        world.cohort.maintain(world.now, &mut world.servers, &world.board);
        (0..3).for_each(|member| _ = world.serve(member));
        if swaps == 0
            && let Some(call) = world.cohort.poll_register()
        {
            swaps += 1;
            let answer = world.register(call);
            world.cohort.handle_register(world.now, answer, &mut world.servers);
        }
    }
    assert_eq!((world.recorded(), joining(&world)), (vec!["a"], vec![]));
    assert!(world.at_server(2, 0).contains(&new), "it has answered");
    assert!(world.cohort.poll_event().is_none(), "and that counts for nothing");
}

#[test]
fn no_owner_starts_from_a_member_that_joins() {
    let mut world = with_a_slow_fill();
    lose(&mut world, 1);
    let new = world.store(0);
    world.settle();
    assert!(world.committed.contains(&(0, new)));
    world.servers[0].restart();
    world.restart_gateway(false);
    world.pass(RECOVERY_WAIT);
    let why = world.fatal.take().expect("it has new mail only");
    assert!(why.contains("every recorded copy is lost"), "{why}");
}

#[test]
fn what_is_deleted_or_replaced_while_a_copy_is_filled_is_so_there_too() {
    let mut world = with_a_slow_fill();
    lose(&mut world, 1);
    for number in 0..8 {
        world.store(0);
        world.settle();
        match number % 2 {
            0 => assert!(world.deliver(0).is_some()),
            _ => world.defer(0),
        }
        world.settle();
        world.pass(Duration::from_secs(200));
    }
    assert!(world.at_server(2, 0).len() < world.cohort.unit(0).queue.len());
    end_the_fill(&mut world);
    world.assert_in_step();
}

#[test]
fn a_server_that_knows_no_back_fill_counts_when_it_has_everything() {
    let mut world = with_a_slow_fill();
    world.servers[2].is_old = true;
    lose(&mut world, 1);
    let new = world.store(0);
    world.settle();
    assert_eq!((world.recorded(), joining(&world)), (vec!["a"], vec![]));
    assert!(!world.committed.contains(&(0, new)));
    end_the_fill(&mut world);
    assert_eq!(world.recorded(), ["a", "c"]);
    assert!(world.committed.contains(&(0, new)));
    world.assert_in_step();
}

#[test]
fn a_fill_that_is_cut_goes_on_from_where_it_was() {
    let mut world = with_a_slow_fill();
    (0..3).for_each(|_| world.defer(0));
    world.settle();
    lose(&mut world, 1);
    for _ in 0..10 {
        world.store(0);
        // Some of what is asked for is answered, and some is lost.
        world.pass(Duration::from_secs(150));
        world.store(0);
        world.cohort.maintain(world.now, &mut world.servers, &world.board);
        world.serve(2);
        world.link_down(2);
        world.link_up(2);
        world.settle();
    }
    end_the_fill(&mut world);
    assert_eq!(world.recorded(), ["a", "c"]);
    assert_eq!(world.servers[2].drops, 0, "nothing was sent again from the beginning");
    world.assert_in_step();
}

#[test]
fn a_server_that_was_only_away_is_given_what_it_lacks() {
    let mut world = World::new(1);
    (0..20).for_each(|_| _ = world.store(0));
    world.settle();
    lose(&mut world, 1);
    assert_eq!(world.recorded(), ["a"]);
    for number in 0..9 {
        world.store(0);
        match number % 3 {
            0 => _ = world.deliver(0),
            1 => world.defer(0),
            _ => {}
        }
        world.settle();
    }
    world.link_up(1);
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"]);
    let counters = world.cohort.counters();
    assert_eq!((counters.repairs, counters.fills), (2, 0), "one for each queue");
    assert_eq!(world.servers[1].drops, 0);
    world.assert_in_step();
}

#[test]
fn mail_goes_on_while_a_copy_is_repaired() {
    let mut world = World::new(1);
    (0..5).for_each(|_| _ = world.store(0));
    world.settle();
    lose(&mut world, 1);
    (0..60).for_each(|_| _ = world.store(0));
    world.settle();
    world.link_up(1);
    for _ in 0..25 {
        world.step();
        world.store(0);
        world.defer(0);
        world.deliver(0);
    }
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"]);
    assert_eq!(world.servers[1].drops, 0);
    world.assert_in_step();
}

#[test]
fn what_a_returned_copy_has_is_dropped_where_it_cannot_be_proved_to_be_good() {
    let mut world = World::new(1);
    world.store(0);
    world.settle();
    lose(&mut world, 1);
    world.store(0);
    world.settle();
    world.servers[0].queues.get_mut("gw/q0").expect("it has it").operations.clear();
    world.link_up(1);
    world.settle();
    let counters = world.cohort.counters();
    assert_eq!((counters.repairs, counters.fills), (1, 1), "the other queue had no change");
    assert_eq!(world.recorded(), ["a", "b"]);
    world.assert_in_step();
    // Another history of the same length.
    lose(&mut world, 1);
    world.store(0);
    world.settle();
    world.servers[1].queues.get_mut("gw/q0").expect("it has it").hash.0 ^= 1;
    world.link_up(1);
    world.settle();
    assert_eq!(world.cohort.counters().fills, 2);
    world.assert_in_step();
}

#[test]
fn the_source_of_a_repair_may_be_lost() {
    let mut world = World::new(1);
    world.store(0);
    world.settle();
    lose(&mut world, 1);
    world.store(0);
    world.settle();
    world.link_up(1);
    // It is asked for what the other one lacks, and is gone before it answers.
    world.servers[0].patience = 0;
    world.settle();
    assert!(world.cohort.unit(0).returning.is_some());
    world.link_down(0);
    world.settle();
    world.link_up(0);
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"]);
    world.assert_in_step();
}

#[test]
fn the_servers_remember_what_an_absent_copy_lacks_within_bounds() {
    let mut world = World::new(1);
    world.store(0);
    world.settle();
    let stood_at = world.cohort.unit(0).queue.log().head();
    lose(&mut world, 1);
    (0..50).for_each(|_| _ = world.store(0));
    world.settle();
    assert_eq!(world.cohort.floor(world.now, 0), stood_at.next());
    assert!(world.cohort.unit(0).queue.log().is_empty(), "our own memory is not held for it");
    let later = world.now + Duration::from_secs(3600);
    assert!(world.cohort.floor(later, 0) > stood_at.next());
}

#[test]
fn a_member_that_comes_no_nearer_is_given_up_and_tried_again() {
    let mut world = with_a_slow_fill();
    world.board.resync().set_rate(None);
    world.servers[2].patience = 9;
    lose(&mut world, 1);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.cohort.members[2].role, Role::Joining);
    let is_given_up = |world: &mut World| {
        world.pass(Duration::from_secs(1));
        matches!(world.cohort.members[2].role, Role::Out { .. })
    };
    assert!((0..40).any(|_| is_given_up(&mut world)));
    world.servers[2].patience = usize::MAX;
    end_the_fill(&mut world);
    assert_eq!(world.recorded(), ["a", "c"]);
    world.assert_in_step();
}

#[test]
fn a_fill_that_is_held_back_by_the_rate_is_not_given_up() {
    let mut world = with_a_slow_fill();
    lose(&mut world, 1);
    for _ in 0..10 {
        let at = world.cohort.next_deadline(world.now).expect("it goes on then");
        world.now = world.now.max(at);
        world.pass(Duration::from_secs(20));
    }
    assert_eq!(world.cohort.members[2].role, Role::Joining);
    assert_eq!(world.servers[2].drops, 0);
}

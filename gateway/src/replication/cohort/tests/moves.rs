//! Servers that are added, drained, preferred and taken away.

use super::world::{RECOVERY_WAIT, World, cohort, cohort_of, labelled};
use super::*;
use crate::replication::placement::Placement;
use crate::replication::record::{RegisterAnswer, RegisterCall};
use crate::status::CopyState;

/// Servers by name, in order of preference; those behind `!` are drained.
fn servers(names: &[&str]) -> Vec<MemberSettings> {
    let server = |name: &&str| MemberSettings {
        server: name.trim_start_matches('!').into(),
        placement: Placement::default(),
        is_drained: name.starts_with('!'),
    };
    names.iter().map(server).collect()
}

impl World {
    /// The cohort has these servers from now on, and may move copies.
    fn set_servers(&mut self, names: &[&str]) -> Vec<usize> {
        let places = self.cohort.set_servers(servers(names), &self.board);
        self.cohort.set_may_move(true);
        places
    }

    /// The operator orders a move.
    fn order(&mut self, number: u64, from: &str, to: &str) {
        let order = MoveOrder { number, from: from.into(), to: to.into() };
        self.cohort.set_move(Some(order));
        self.cohort.set_may_move(true);
    }

    fn state_of(&self, server: &str) -> Option<CopyState> {
        let copies = &self.status()[0].copies;
        copies.iter().find(|it| it.kvs == server).map(|it| it.state)
    }
}

fn with_mail(count: usize) -> World {
    let mut world = World::of(3, 2);
    for _ in 0..3 {
        world.store(0);
    }
    world.settle();
    let places = world.set_servers(&["a", "b", "c"][..count]);
    assert_eq!(places, [0, 1, 2][..count]);
    world.settle();
    world
}

/// What a copy was to be made for is called off: the spare is one again, and empty when it answers.
fn assert_stays_where_it_was(world: &mut World) {
    world.settle();
    world.servers[2].patience = usize::MAX;
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"]);
    assert_eq!(world.state_of("c"), Some(CopyState::Spare));
    assert!(world.servers[2].queues.is_empty());
    world.assert_in_step();
}

#[test]
fn a_drained_server_is_replaced_before_it_leaves_the_record_and_then_emptied() {
    let mut world = with_mail(3);
    assert!(!world.cohort.wants_to_move());
    world.set_servers(&["a", "!b", "c"]);
    assert_eq!(world.state_of("b"), Some(CopyState::Draining));
    assert!(world.status()[0].is_well(), "it counts as before");
    let mut least = usize::MAX;
    let mut seen = Vec::new();
    while world.step() {
        let recorded = world.recorded().iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        least = least.min(recorded.len());
        assert!(world.is_accepting() || recorded.len() == 3, "{recorded:?}");
        if seen.last() != Some(&recorded) {
            seen.push(recorded);
        }
    }
    assert_eq!(seen, [vec!["a", "b"], vec!["a", "b", "c"], vec!["a", "c"]]);
    assert_eq!(least, 2, "never fewer copies than before");
    assert_eq!(world.state_of("b"), Some(CopyState::Drained));
    assert!(world.servers[1].queues.is_empty() && !world.cohort.wants_to_move());
    assert!(world.is_accepting() && world.status()[0].is_well());
    world.store(0);
    world.settle();
    world.assert_in_step();
}

#[test]
fn a_gateway_that_starts_drains_what_was_drained_when_it_stopped() {
    let mut world = with_mail(3);
    let mut cohort = cohort_of(3, 2, false);
    cohort.members[1].leaving.is_drained = true;
    assert!(cohort.wants_to_move(), "it may have copies: nobody knows yet");
    assert!(!cohort.can_move(world.now));
    world.cohort = cohort;
    (0..3).for_each(|member| world.link_up(member));
    world.pass(ISOLATE_AFTER * 2);
    assert_eq!(world.recorded(), ["a", "b"]);
    assert!(world.cohort.wants_to_move() && world.cohort.can_move(world.now));
    world.cohort.set_may_move(true);
    world.settle();
    assert_eq!(world.recorded(), ["a", "c"]);
    assert!(!world.cohort.wants_to_move());
    world.assert_in_step();
}

#[test]
fn a_drained_server_is_chosen_for_nothing_until_it_is_drained_no_more() {
    let mut world = with_mail(3);
    world.set_servers(&["a", "b", "!c"]);
    world.settle();
    assert_eq!(world.state_of("c"), Some(CopyState::Drained));
    world.link_down(1);
    world.pass(ISOLATE_AFTER * 2);
    assert_eq!(world.state_of("c"), Some(CopyState::Drained), "although a spare is wanted");
    world.set_servers(&["a", "b", "c"]);
    world.settle();
    world.pass(ISOLATE_AFTER);
    assert_eq!(world.recorded(), ["a", "c"]);
    world.link_up(1);
    world.settle();
    assert_eq!(world.recorded(), ["a", "c"], "nothing moves back by itself");
}

/// Who lets cohorts move in turn asks no more once none wants to: a copy that comes to count later has to be told.
#[test]
fn a_server_that_is_drained_while_it_joins_in_place_of_another_is_to_be_moved_all_along() {
    let mut world = with_mail(3);
    world.servers[2].patience = 2;
    world.link_down(1);
    world.pass(ISOLATE_AFTER * 2);
    assert_eq!(world.state_of("c"), Some(CopyState::Joining));
    world.set_servers(&["a", "b", "!c"]);
    world.pass(ISOLATE_AFTER);
    assert!(world.cohort.wants_to_move(), "it will count");
    world.servers[2].patience = usize::MAX;
    while world.step() {
        assert!(world.cohort.wants_to_move());
    }
    assert_eq!(world.recorded(), ["a", "c"], "better there than nowhere");
    world.link_up(1);
    world.settle();
    world.pass(ISOLATE_AFTER);
    assert_eq!(world.recorded(), ["a", "b"]);
    assert!(!world.cohort.wants_to_move());
    world.assert_in_step();
}

#[test]
fn without_a_server_to_move_to_the_copies_stay_and_move_when_there_is_one() {
    let mut world = with_mail(3);
    world.link_down(2);
    world.set_servers(&["a", "!b", "c"]);
    world.pass(ISOLATE_AFTER * 3);
    assert_eq!(world.recorded(), ["a", "b"]);
    assert!(world.is_accepting() && !world.cohort.can_move(world.now));
    assert_eq!(world.state_of("b"), Some(CopyState::Draining));
    world.link_up(2);
    assert!(world.cohort.can_move(world.now));
    world.settle();
    assert_eq!(world.recorded(), ["a", "c"]);
    world.assert_in_step();
}

#[test]
fn a_drain_that_may_not_begin_yet_or_is_called_off_moves_nothing() {
    let mut world = with_mail(3);
    world.set_servers(&["a", "!b", "c"]);
    world.cohort.set_may_move(false);
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"]);
    world.servers[2].patience = 2;
    world.cohort.set_may_move(true);
    world.settle();
    assert_eq!(world.state_of("c"), Some(CopyState::Joining));
    world.set_servers(&["a", "b", "c"]);
    assert_stays_where_it_was(&mut world);
}

#[test]
fn a_copy_is_moved_to_the_server_that_is_named_and_stays_there() {
    let mut world = World::of(4, 2);
    world.store(0);
    world.settle();
    world.order(1, "a", "d");
    assert_eq!(world.state_of("a"), Some(CopyState::Moving));
    assert_eq!(world.status()[0].moving_to.as_deref(), Some("d"));
    world.settle();
    assert_eq!(world.recorded(), ["b", "d"], "and not c, which comes before it");
    assert!(!world.cohort.wants_to_move() && world.is_accepting());
    assert_eq!(world.state_of("a"), Some(CopyState::Spare));
    assert_eq!(world.status()[0].moving_to, None);
    assert!(world.servers[0].queues.is_empty(), "what it had is dropped");
    world.order(2, "d", "a");
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"], "and back");
    world.order(1, "a", "d");
    world.settle();
    assert_eq!(world.recorded(), ["a", "b"], "an order is followed once");
    world.assert_in_step();
}

#[test]
fn a_move_waits_for_the_server_that_is_named_and_takes_no_other() {
    let mut world = World::of(4, 2);
    world.store(0);
    world.link_down(3);
    world.order(1, "a", "d");
    world.pass(ISOLATE_AFTER * 3);
    assert_eq!(world.recorded(), ["a", "b"]);
    assert!(world.status()[0].cannot_move && world.is_accepting());
    world.link_up(3);
    world.settle();
    assert_eq!(world.recorded(), ["b", "d"]);
    world.assert_in_step();
}

#[test]
fn a_move_that_is_called_off_leaves_the_copies_where_they_were() {
    let mut world = World::of(3, 2);
    world.store(0);
    world.settle();
    world.servers[2].patience = 2;
    world.order(1, "b", "c");
    world.settle();
    assert_eq!(world.state_of("c"), Some(CopyState::Joining));
    world.cohort.set_move(None);
    assert_stays_where_it_was(&mut world);
}

#[test]
fn a_copy_whose_server_dies_while_it_is_moved_is_made_up_for_by_the_one_that_is_named() {
    let mut world = World::of(4, 2);
    world.store(0);
    world.servers[3].patience = 1;
    world.order(1, "b", "d");
    world.settle();
    world.link_down(1);
    world.servers[3].patience = usize::MAX;
    world.pass(ISOLATE_AFTER * 2);
    assert_eq!(world.recorded(), ["a", "d"]);
    assert!(!world.cohort.wants_to_move());
    world.assert_in_step();
}

/// The copies are drained to the one spare that there is, on the node of the one that is drained.
#[test]
fn a_server_may_be_replaced_by_another_one_on_its_own_node() {
    let placements = labelled(&["gw:r", "n1:r", "n2:r", "n2:r"]);
    let mut world = World::with(2, &placements);
    assert_eq!(world.recorded(), ["a", "b"]);
    let settings = |(name, placement): (&&str, &Placement)| MemberSettings {
        server: (*name).into(),
        placement: placement.clone(),
        is_drained: *name == "b",
    };
    let servers = ["a", "b", "c"].iter().zip(&placements[1..]).map(settings).collect();
    world.cohort.set_servers(servers, &world.board);
    assert!(world.cohort.can_move(world.now));
    world.cohort.set_may_move(true);
    world.settle();
    assert_eq!(world.recorded(), ["a", "c"]);
    world.assert_in_step();
}

#[test]
fn with_the_register_out_while_a_copy_leaves_mail_is_accepted_all_the_same() {
    let mut world = with_mail(3);
    world.set_servers(&["a", "!b", "c"]);
    while world.recorded() != ["a", "b", "c"] {
        world.step();
    }
    // The record without it is asked for, and not answered.
    world.cohort.maintain(world.now, &mut world.servers, &world.board);
    let call = world.cohort.poll_register().expect("it is to go");
    world.cohort.handle_register(
        world.now,
        RegisterAnswer::Failed("no majority".into()),
        &mut world.servers,
    );
    world.store(0);
    for _ in 0..10 {
        world.beat();
        world.cohort.maintain(world.now, &mut world.servers, &world.board);
        (0..3).for_each(|member| while world.serve(member) {});
    }
    assert!(world.is_accepting(), "everybody answers");
    assert_eq!(world.cohort.unit(0).committed(), world.cohort.unit(0).queue.log().head());
    assert_eq!(
        world.at_server(1, 0).len(),
        4,
        "it counts until the register says that it does not"
    );
    world.pass(ISOLATE_AFTER);
    assert!(matches!(call, RegisterCall::Swap(_)));
    assert_eq!(world.recorded(), ["a", "c"]);
    world.assert_in_step();
}

#[test]
fn a_server_is_added_and_one_that_is_drained_taken_away_and_its_place_used_again() {
    let mut world = with_mail(2);
    assert_eq!(world.state_of("c"), None, "it was taken away");
    assert_eq!(world.set_servers(&["a", "b", "d"]), [0, 1, 2], "in the place that is free");
    world.link_up(2);
    world.settle();
    assert_eq!(world.state_of("d"), Some(CopyState::Spare));
    world.set_servers(&["a", "!b", "d"]);
    world.settle();
    assert_eq!(world.recorded(), ["a", "d"]);
    world.link_down(1);
    world.set_servers(&["a", "d"]);
    world.settle();
    assert_eq!(world.state_of("b"), None);
    world.store(0);
    world.settle();
    assert!(world.is_accepting());
    assert_eq!(world.at_server(2, 0).len(), 4);
    assert_eq!(world.set_servers(&["a", "d", "b", "e"]), [0, 2, 1, 3]);
    assert_eq!(world.cohort.members.len(), 4);
}

#[test]
fn a_drained_server_that_dies_before_it_is_replaced_is_replaced_as_any_other() {
    let mut world = with_mail(3);
    world.servers[2].patience = 1;
    world.set_servers(&["a", "!b", "c"]);
    world.settle();
    world.link_down(1);
    world.servers[2].patience = usize::MAX;
    world.pass(ISOLATE_AFTER * 2);
    assert_eq!(world.recorded(), ["a", "c"]);
    assert_eq!(world.state_of("b"), Some(CopyState::Drained));
    world.assert_in_step();
}

#[test]
fn a_first_start_prefers_servers_that_are_not_drained_and_makes_do_with_those_that_are() {
    let placements = labelled(&["gw:r", "n1:r", "n2:r", "n3:r"]);
    let world = World::with(2, &placements);
    let mut cohort = world.cohort;
    cohort.members[0].leaving.is_drained = true;
    assert_eq!(cohort.first_set(true), [1, 2]);
    cohort.members[1].leaving.is_drained = true;
    assert_eq!(cohort.first_set(true), [0, 1]);
}

/// The gateway starts with the servers of these places only, which stay in their places.
fn start_with(world: &mut World, names: &[&str]) -> Option<String> {
    let mut cohort = cohort(2, false);
    cohort.members.truncate(names.len());
    for (member, name) in cohort.members.iter_mut().zip(names) {
        (*name).clone_into(&mut member.server);
    }
    world.cohort = cohort;
    for member in 0..names.len() {
        world.link_up(member);
    }
    world.settle();
    world.pass(RECOVERY_WAIT);
    world.fatal.take()
}

#[test]
fn a_start_without_the_servers_that_have_the_mail_names_them_and_does_not_begin_anew() {
    let mut world = World::of(2, 2);
    world.store(0);
    world.settle();
    let why = start_with(&mut world, &["x", "y"]).expect("it stops");
    assert!(why.contains("not configured any more (a, b). Put those into"), "{why}");
    // What the other one has is enough.
    let mut world = World::of(2, 2);
    world.store(0);
    world.settle();
    assert_eq!(start_with(&mut world, &["a", "y"]), None);
    assert_eq!(world.cohort.unit(0).queue.len(), 1);
    assert_eq!(world.recorded(), ["a", "y"]);
}

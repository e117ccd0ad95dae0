//! Without a lease nothing of a message leaves, and nobody is told that one is safe.

use super::shard::Mode;
use super::*;

/// One mail in queue 0, while the next hop is not there.
fn world_with_a_mail() -> World<SimTransport> {
    let mut world = world();
    world.next_hop.set_listening(false);
    let session = world.session();
    world.mail(session, &["r@a.example"], "N: 0\r\n");
    world
}

fn set_lease(world: &World<SimTransport>, until: Instant) {
    world.board.set_lease(Q0, world.now(), until);
}

/// A lease again, and the front hears of it as from a shard.
fn renew(world: &mut World<SimTransport>) {
    let before = world.board.changes();
    set_lease(world, world.now());
    set_lease(world, Instant::MAX);
    assert_ne!(world.board.changes(), before, "the shards tell the fronts by that");
    let now = world.now();
    world.front.handle_notice(crate::api::Notice::AcceptanceChanged, now);
}

#[test]
fn a_delivery_does_not_begin_without_a_lease_and_begins_with_one() {
    let mut world = world_with_a_mail();
    set_lease(&world, world.now());
    world.next_hop.set_listening(true);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.next_hop.messages.len(), 0);
    renew(&mut world);
    world.run_until("delivered", |world| world.shard.queues[0].settled.len() == 1);
    assert_eq!(world.next_hop.messages.len(), 1);
}

#[test]
fn the_clock_that_counts_is_the_one_at_the_sending() {
    let mut world = world_with_a_mail();
    let lease = Duration::from_secs(3600);
    set_lease(&world, world.now() + lease);
    // Each turn takes that long, or the process is stopped in each.
    world.turn_takes = lease * 2;
    world.next_hop.set_listening(true);
    world.run_for(Duration::from_secs(5));
    let delivery = world.front.counters().delivery;
    assert!(delivery.connections > 0, "to a next hop that is kept waiting");
    assert_eq!(world.next_hop.messages.len(), 0);
    world.turn_takes = Duration::ZERO;
    renew(&mut world);
    world.run_until("delivered", |world| world.shard.queues[0].settled.len() == 1);
    assert_eq!(world.front.counters().delivery.connections_begun, delivery.connections_begun);
}

#[test]
fn a_next_hop_that_is_kept_waiting_is_left_and_the_message_was_not_tried() {
    let mut world = world_with_a_mail();
    world.next_hop.set_listening(true);
    world.next_hop.rules = vec![("DATA", "2")];
    world.run_until("asked for content", |world| world.next_hop.has_mail());
    let connection = world.next_hop.peer.accepted[0];
    set_lease(&world, world.now());
    world.next_hop.rules.clear();
    world.next_hop.peer.send(connection, "354 go on\r\n");
    world.run_for(Duration::from_secs(5));
    assert!(!world.next_hop.peer.is_over(connection));
    world.run_for(Duration::from_secs(10));
    assert!(world.next_hop.peer.is_over(connection));
    assert_eq!(world.next_hop.messages.len(), 0);
    let queue = &world.shard.queues[0];
    assert_eq!((queue.deferred.len(), queue.settled.len()), (0, 0));
    let delivery = world.front.counters().delivery;
    assert_eq!(
        (delivery.connections_lost, delivery.pauses),
        (1, 0),
        "the next hop is not to blame"
    );
    renew(&mut world);
    world.run_until("delivered", |world| world.shard.queues[0].settled.len() == 1);
}

#[test]
fn nobody_is_told_that_mail_is_safe_without_a_lease() {
    let mut world = world();
    world.shard.queue(Q0).mode = Mode::Wait;
    let session = world.session();
    world.envelope(session, &["r@a.example"]);
    world.client.send(session, "hello\r\n.\r\n");
    world.run_until("stored", |world| !world.shard.queues[0].waiting.is_empty());
    set_lease(&world, world.now());
    world.shard.commit(Q0);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.client.reply_codes(session), [""; 0]);
    renew(&mut world);
    world.converse(session, "", &["250"]);
}

#[test]
fn a_commit_that_waits_for_a_lease_is_not_passed_by_one_that_came_with_it() {
    let mut world = world();
    world.shard.queue(Q0).mode = Mode::Wait;
    let sessions = [world.session(), world.session()];
    for (session, stored) in sessions.into_iter().zip(1..) {
        world.envelope(session, &["r@a.example"]);
        world.client.send(session, "hello\r\n.\r\n");
        world.run_until("stored", |world| world.shard.queues[0].waiting.len() == stored);
    }
    set_lease(&world, world.now());
    world.shard.commit(Q0);
    world.run_for(Duration::from_secs(1));
    // The shard has a lease again, and commits the next before it tells of that.
    set_lease(&world, Instant::MAX);
    world.shard.commit(Q0);
    world.run_until("a reply", |world| !world.client.reply_codes(sessions[1]).is_empty());
    assert_eq!(world.client.reply_codes(sessions[0]), ["250"]);
}

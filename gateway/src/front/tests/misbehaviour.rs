//! A next hop that misbehaves in every phase, for a while: everything is delivered once, or failed
//! as it said, and twice only where it left us without an answer.

use super::delivery::put;
use super::*;
use crate::message::{Envelope, Recipient};

const PHASES: [&str; 6] = ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "."];

/// What it says instead of what it should.
const MISBEHAVIOURS: [&str; 9] = [
    "close",
    "2close",
    "hang",
    "421 4.3.2 going down",
    "451 4.3.0 later",
    "nonsense",
    "250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n250 ok",
    "354 go\r\n354 go",
    "250-for\r\n251 ever",
];

fn misbehave(phase: &'static str, reply: &'static str, pipelines: bool) -> World<SimTransport> {
    let mut world = world_with(|config| {
        config.delivery.destinations[0].connections_max = 2;
        config.delivery.destinations[0].pipeline_transactions = pipelines;
    });
    world.shard.retries = true;
    world.next_hop.rules = vec![(phase, reply)];
    for number in 0..4 {
        let recipients = ["one", "two"].map(|who| Recipient::new(format!("{who}{number}@a")));
        put(&mut world, Envelope::new("", recipients.into()));
    }
    // The small shard hands out again at once what was deferred.
    let is_deferred = reply.starts_with("451");
    world.run_for(Duration::from_millis(if is_deferred { 50 } else { 3_600_000 }));
    world.next_hop.rules.clear();
    world.run_until("all", |world| world.shard.queues[0].settled.len() == 4);
    world
}

fn times_taken(world: &World<SimTransport>) -> Vec<usize> {
    let taken = |recipient: String| {
        let messages = world.next_hop.messages.iter();
        messages.filter(|it| it.recipients.contains(&recipient)).count()
    };
    (0..4).flat_map(|number| ["one", "two"].map(|who| taken(format!("{who}{number}@a")))).collect()
}

#[test]
fn whatever_the_next_hop_does_nothing_is_lost_and_only_the_unanswered_goes_twice() {
    for phase in PHASES {
        for reply in MISBEHAVIOURS {
            for pipelines in [true, false] {
                let world = misbehave(phase, reply, pipelines);
                let case = format!("{phase} {reply:?} {pipelines}: {:?}", times_taken(&world));
                let counters = world.front.counters().delivery;
                let is_unanswered = counters.unknown > 0;
                // The FakeShard asserts that each attempt has one outcome.
                for times in times_taken(&world) {
                    assert!(times >= 1, "lost: {case}");
                    assert!(times == 1 || is_unanswered, "twice: {case}");
                }
                // Behind a second 354 the end of data may have left.
                let may_be_unanswered = phase == "." || reply.starts_with("354");
                assert!(may_be_unanswered || !is_unanswered, "nothing was unknown: {case}");
                assert_eq!(counters.failed, 0, "{case}");
            }
        }
    }
}

#[test]
fn what_is_refused_for_good_is_failed_and_what_speaks_against_the_next_hop_is_not() {
    for phase in PHASES {
        for pipelines in [true, false] {
            let world = misbehave(phase, "554 5.7.1 no", pipelines);
            let is_about_message = !["greeting", "EHLO"].contains(&phase);
            let counters = world.front.counters().delivery;
            assert_eq!(counters.failed, if is_about_message { 8 } else { 0 }, "{phase}");
            let times = if is_about_message { 0 } else { 1 };
            assert_eq!(times_taken(&world), [times; 8], "{phase}");
        }
    }
}

#[test]
fn throttling_leaves_messages_where_they_are() {
    for (phase, reply) in [
        ("greeting", "421 4.7.0 too many connections"),
        ("greeting", "450 4.7.0 not now"),
        ("MAIL", "421 4.7.0 too much mail"),
        ("MAIL", "452 4.3.1 no room"),
    ] {
        let mut world = world_with(|config| config.delivery.destinations[0].connections_max = 4);
        world.next_hop.rules = vec![(phase, reply)];
        for number in 0..20 {
            put(&mut world, Envelope::new("", vec![Recipient::new(format!("{number}@a"))]));
        }
        // Less than half of the least pause.
        world.run_for(Duration::from_secs(1));
        let queue = &world.shard.queues[0];
        assert_eq!((queue.deferred.len(), queue.outstanding.len()), (0, 0), "{phase} {reply}");
        assert_eq!(world.front.counters().delivery.pauses, 1);
        world.next_hop.rules.clear();
        world.run_until("all", |world| world.shard.queues[0].settled.len() == 20);
        assert!(world.shard.queues[0].deferred.is_empty());
        assert!(world.next_hop.messages.len() == 20);
    }
}

#[test]
fn one_message_that_is_refused_at_mail_does_not_hold_the_others_back_for_ever() {
    let mut world = world();
    world.next_hop.rules = vec![("MAIL FROM:<bad", "450 4.7.1 greylisted")];
    let bad = put(&mut world, Envelope::new("bad@x.example", vec![Recipient::new("r@a")]));
    for _ in 0..5 {
        put(&mut world, Envelope::new("s@x.example", vec![Recipient::new("r@a")]));
    }
    world.run_until("the others", |world| world.shard.queues[0].settled.len() == 5);
    assert_eq!(world.shard.queue(Q0).deferred[0].0, bad);
    assert!(world.front.counters().delivery.pauses <= 3);
}

#[test]
fn a_refusal_about_the_address_of_the_sender_is_about_that_message_only() {
    let mut world = world();
    world.next_hop.rules = vec![("MAIL FROM:<bad", "450 4.1.8 no such domain")];
    put(&mut world, Envelope::new("bad@x.example", vec![Recipient::new("r@a")]));
    put(&mut world, Envelope::new("s@x.example", vec![Recipient::new("r@a")]));
    world.run_until("both", |world| {
        world.shard.queues[0].settled.len() + world.shard.queues[0].deferred.len() == 2
    });
    assert_eq!(world.front.counters().delivery.pauses, 0);
}

#[test]
fn a_reply_that_trickles_in_has_no_more_time_than_another() {
    let mut world = world();
    world.next_hop.extensions.clear();
    world.next_hop.rules = vec![("MAIL", "")];
    put(&mut world, Envelope::new("", vec![Recipient::new("r@a")]));
    world.run_until("a connection", |world| !world.next_hop.peer.accepted.is_empty());
    world.run_for(Duration::from_secs(1));
    let connection = world.next_hop.peer.accepted[0];
    let before = world.now();
    for byte in "250-2.1.0 a very long reply".chars().cycle() {
        if world.front.counters().delivery.connections_lost > 0 {
            break;
        }
        world.next_hop.peer.send(connection, &byte.to_string());
        world.run_for(Duration::from_secs(20));
    }
    let took = world.now().saturating_since(before).as_secs();
    assert!((280..=320).contains(&took), "{took} s");
}

#[test]
fn a_transaction_has_its_time_however_it_gets_on() {
    let mut world = world_with(|config| {
        config.delivery.destinations[0].transfer_timeout = Duration::from_secs(900);
        config.delivery.destinations[0].pipeline_transactions = false;
    });
    world.next_hop.extensions.clear();
    world.next_hop.rules = vec![("RCPT", "")];
    let recipients = (0..50).map(|number| Recipient::new(format!("{number}@a"))).collect();
    put(&mut world, Envelope::new("", recipients));
    world.run_until("a connection", |world| !world.next_hop.peer.accepted.is_empty());
    let connection = world.next_hop.peer.accepted[0];
    let before = world.now();
    while world.front.counters().delivery.connections_lost == 0 {
        world.run_for(Duration::from_secs(100));
        world.next_hop.peer.send(connection, "250 2.1.5 ok\r\n");
    }
    let took = world.now().saturating_since(before).as_secs();
    assert!((900..=1100).contains(&took), "{took} s");
    assert_eq!(world.front.counters().delivery.deferred, 50);
}

//! Delivery: from the queue to the next hop, and what it makes of answers.

use bytes::Bytes;
use kvs_proto::MessageId;

use super::*;
use crate::front::tests::peer::Delivered;
use crate::message::{
    DeliveryState, Envelope, Message, MessageRef, Recipient, RecipientStatus as Status,
};

/// Puts so many mails into queue 0, numbered in their content.
fn fill<T: Transport>(world: &mut World<T>, count: usize) {
    let session = world.session();
    for number in 0..count {
        world.mail(session, &["r@a.example"], &format!("N: {number}\r\n"));
    }
}

fn numbers(messages: &[Delivered]) -> Vec<usize> {
    let number = |message: &Delivered| {
        let (_, number) = message.content.split_once("N: ").unwrap();
        number.trim_end().parse().unwrap()
    };
    messages.iter().map(number).collect()
}

#[test]
fn one_connection_keeps_the_order() {
    for pipeline_transactions in [true, false] {
        let mut world = world_with(|config| {
            config.delivery.destinations[0].pipeline_transactions = pipeline_transactions;
        });
        fill(&mut world, 50);
        world.run_until("all", |world| world.next_hop.messages.len() == 50);
        assert_eq!(numbers(&world.next_hop.messages), (0..50).collect::<Vec<_>>());
        assert_eq!(world.next_hop.peer.accepted.len(), 1, "the connection is reused");
    }
}

#[test]
fn connections_are_used_up_to_their_number_and_then_say_good_bye() {
    let mut world = world_with(|config| {
        config.delivery.destinations[0].connections_max = 4;
        config.delivery.destinations[0].messages_per_connection_max = 5;
    });
    world.next_hop.set_listening(false);
    fill(&mut world, 40);
    world.next_hop.set_listening(true);
    world.run_until("all", |world| world.shard.queues[0].settled.len() == 40);
    let mut per_connection = std::collections::BTreeMap::new();
    for message in &world.next_hop.messages {
        *per_connection.entry(message.connection).or_insert(0) += 1;
    }
    assert!(per_connection.len() >= 8 && per_connection.values().all(|count| *count <= 5));
    world.run_until("good-bye", |world| world.front.counters().delivery.connections == 0);
    world.assert_board_is_whole();
}

#[test]
fn a_next_hop_that_never_answers_quit_holds_nothing_up() {
    let mut world = world_with(|config| {
        config.delivery.destinations[0].connections_max = 1;
        config.delivery.destinations[0].messages_per_connection_max = 1;
    });
    world.next_hop.rules = vec![("QUIT", "hang")];
    let before = world.now();
    fill(&mut world, 5);
    world.run_until("all", |world| world.shard.queues[0].settled.len() == 5);
    assert!(world.now().saturating_since(before) < Duration::from_secs(2));
    assert_eq!(numbers(&world.next_hop.messages), (0..5).collect::<Vec<_>>());
    world.run_until("good-bye", |world| world.front.counters().delivery.connections == 0);
}

#[test]
fn connections_that_say_good_bye_are_not_more_than_their_bound() {
    let mut world = world_with(|config| {
        config.delivery.destinations[0].connections_max = 1;
        config.delivery.destinations[0].messages_per_connection_max = 1;
    });
    world.next_hop.rules = vec![("QUIT", "hang")];
    fill(&mut world, 60);
    world.run_for(Duration::from_secs(2));
    let delivered = world.next_hop.messages.len();
    assert!((16..=17).contains(&delivered), "{delivered}");
    world.run_until("all", |world| world.shard.queues[0].settled.len() == 60);
}

#[test]
fn each_recipient_has_its_own_result() {
    let mut world = world();
    world.next_hop.rules =
        vec![("RCPT TO:<no", "550 5.1.1 unknown"), ("RCPT TO:<later", "450 4.2.1 busy")];
    let session = world.session();
    let to = ["no@a.example", "yes@a.example", "later@a.example", "ok@a.example"];
    world.mail(session, &to, "x\r\n");
    world.run_until("an outcome", |world| !world.shard.queues[0].deferred.is_empty());
    let (id, state) = world.shard.queues[0].deferred[0].clone();
    let statuses = [0, 1, 2, 3].map(|place| state.status(place));
    let expected = [Status::Failed, Status::Settled, Status::Open, Status::Settled];
    assert_eq!(statuses, expected);
    let codes = [0, 2].map(|place| state.explanation(place).unwrap().reply.code);
    assert_eq!(codes, [550, 450]);
    assert_eq!(&*state.explanation(0).unwrap().next_hop, "10.0.0.3:25");
    assert_eq!(world.next_hop.messages[0].recipients, ["yes@a.example", "ok@a.example"]);
    let counters = world.front.counters().delivery;
    assert_eq!((counters.delivered, counters.deferred, counters.failed), (2, 1, 1));

    // The retry offers only who is left.
    world.next_hop.rules.clear();
    let again = retry(&mut world, id, state);
    world.run_until("the retry", |world| world.shard.queues[0].deferred.len() == 2);
    assert_eq!(world.next_hop.messages[1].recipients, ["later@a.example"]);
    let (id, state) = world.shard.queues[0].deferred[1].clone();
    assert_eq!((id, state.has_open(4), state.is_report_due(4)), (again, false, true));
}

#[test]
fn what_no_next_hop_has_said_is_not_said_of_it() {
    let mut world = world();
    world.next_hop.rules = vec![("RCPT TO:<close", "close")];
    let recipients = ["\u{fc}@a", "close@a"].map(Recipient::new).into();
    put(&mut world, Envelope::new("s@x.example", recipients));
    world.run_until("an outcome", |world| !world.shard.queues[0].deferred.is_empty());
    let (_, state) = &world.shard.queues[0].deferred[0];
    let told = [0, 1].map(|place| {
        let explanation = state.explanation(place).unwrap();
        (explanation.reply.code, &*explanation.next_hop)
    });
    assert_eq!(told, [(553, ""), (451, "")]);
}

/// Hands a mail of four recipients out again, as if its time had come.
fn retry<T: Transport>(world: &mut World<T>, id: MessageId, state: DeliveryState) -> MessageId {
    let recipients =
        ["no", "yes", "later", "ok"].map(|who| Recipient::new(format!("{who}@a.example")));
    let message = message(world, Envelope::new("s@x.example", recipients.into()));
    world.shard.queue(Q0).ready.insert(id, (message, state));
    id
}

/// Puts a mail with this envelope into queue 0.
pub(super) fn put<T: Transport>(world: &mut World<T>, envelope: Envelope) -> MessageId {
    let message = message(world, envelope);
    let queue = world.shard.queue(Q0);
    let known = queue.ready.keys().chain(queue.outstanding.keys()).chain(&queue.settled);
    let id = MessageId(known.map(|id| id.0).max().unwrap_or(1000) + 1);
    queue.ready.insert(id, (message, DeliveryState::default()));
    id
}

fn message<T: Transport>(world: &World<T>, mut envelope: Envelope) -> MessageRef {
    envelope.accepted_unix_ms = UNIX_MS;
    let content = Bytes::from_static(b"x\r\n");
    world.board.reserve(Q0, content.len()).unwrap();
    Arc::new(Message { envelope, content })
}

#[test]
fn what_failed_is_settled_when_nobody_is_to_be_told() {
    for (reply, from, status) in [
        ("554 5.6.0 no", "", None),
        ("554 5.6.0 no", "s@x.example", Some(Status::Failed)),
        ("451 4.3.0 later", "", Some(Status::Open)),
    ] {
        let mut world = world();
        world.next_hop.rules = vec![(".", reply)];
        let envelope = Envelope::new(from, vec![Recipient::new("r@a.example")]);
        let id = put(&mut world, envelope);
        world.run_until("an outcome", |world| {
            world.shard.queues[0].outstanding.is_empty() && world.shard.queues[0].ready.is_empty()
        });
        let queue = world.shard.queue(Q0);
        assert_eq!(queue.settled.contains(&id), status.is_none());
        assert_eq!(queue.deferred.first().map(|(_, state)| state.status(0)), status);
    }
}

#[test]
fn no_answer_to_the_dot_is_transient_and_counted_as_unknown() {
    let mut world = world();
    world.next_hop.rules = vec![(".", "close")];
    fill(&mut world, 1);
    world.run_until("an outcome", |world| !world.shard.queues[0].deferred.is_empty());
    assert_eq!(world.front.counters().delivery.unknown, 1);
    let mut world = super::world();
    world.next_hop.rules = vec![(".", "")];
    fill(&mut world, 1);
    let before = world.now();
    world.run_until("a time-out", |world| !world.shard.queues[0].deferred.is_empty());
    assert!(world.now().saturating_since(before) >= Duration::from_secs(600));
    assert_eq!(world.front.counters().delivery.unknown, 1);
}

#[test]
fn a_lane_pauses_gives_back_probes_and_resumes() {
    let mut world = world();
    world.next_hop.set_listening(false);
    fill(&mut world, 5);
    world.run_until("a pause", |world| world.shard.queues[0].window == 0);
    let paused_at = world.now();
    assert!(world.shard.queues[0].outstanding.is_empty(), "all is given back");
    let put_back = world.shard.queue(Q0).put_back.clone();
    assert!(!put_back.is_empty());
    world.run_until("a probe", |world| world.shard.queues[0].window == 1);
    let first = world.now().saturating_since(paused_at);
    assert!(Duration::from_millis(1900) <= first && first <= Duration::from_secs(4), "{first:?}");
    world.run_until("another pause", |world| world.shard.queues[0].window == 0);
    let paused_at = world.now();
    world.next_hop.set_listening(true);
    world.run_until("the rest", |world| world.shard.queues[0].settled.len() == 5);
    let second = world.now().saturating_since(paused_at);
    assert!(second >= Duration::from_secs(4), "it backs off longer: {second:?}");
    assert_eq!(numbers(&world.next_hop.messages), [0, 1, 2, 3, 4]);
    assert_eq!(world.shard.queue(Q0).window, 3);
    assert!(world.front.counters().delivery.pauses >= 2);
}

#[test]
fn what_is_given_back_comes_latest_first() {
    let mut world = world_with(|config| config.delivery.destinations[0].prefetch = 5);
    world.next_hop.rules = vec![("greeting", "")];
    fill(&mut world, 6);
    world.next_hop.rules = vec![("greeting", "421 4.3.2 busy")];
    world.run_until("a pause", |world| world.shard.queues[0].put_back.len() >= 6);
    let ids: Vec<u64> = world.shard.queue(Q0).put_back.iter().map(|id| id.0).collect();
    assert_eq!(ids[..6], [6, 5, 4, 3, 2, 1]);
}

#[test]
fn the_next_address_is_tried_when_one_is_down() {
    let dead = SocketAddr::new(ip(3), 26);
    let mut world = world_with(|config| config.delivery.destinations[0].next_hops.insert(0, dead));
    fill(&mut world, 3);
    world.run_until("all", |world| world.next_hop.messages.len() == 3);
    assert_eq!(world.front.counters().delivery.pauses, 0);
    assert!(world.shard.queue(Q0).put_back.is_empty());
}

#[test]
fn a_421_in_the_middle_defers_that_message_only() {
    let mut world = world();
    world.next_hop.rules = vec![("DATA", "421 4.3.2 going down")];
    fill(&mut world, 3);
    world.run_until("a pause", |world| world.shard.queues[0].window == 0);
    assert_eq!(world.shard.queue(Q0).deferred.len(), 1);
    world.next_hop.rules.clear();
    world.run_until("the others", |world| world.shard.queues[0].settled.len() == 2);
    assert_eq!(numbers(&world.next_hop.messages), [1, 2]);
}

#[test]
fn a_server_that_ends_idle_connections_is_no_failure() {
    let mut world = world();
    fill(&mut world, 1);
    world.run_until("the first", |world| world.shard.queues[0].settled.len() == 1);
    let connection = world.next_hop.messages[0].connection;
    world.next_hop.peer.close(connection);
    world.run_for(Duration::from_secs(1));
    fill(&mut world, 1);
    world.run_until("the second", |world| world.shard.queues[0].settled.len() == 2);
    assert_eq!(world.front.counters().delivery.pauses, 0);
}

#[test]
fn the_rate_is_kept() {
    let mut world = world_with(|config| {
        config.delivery.destinations[0].rate_per_second = NonZeroU32::new(5);
    });
    let before = world.now();
    fill(&mut world, 50);
    world.run_until("all", |world| world.shard.queues[0].settled.len() == 50);
    let took = world.now().saturating_since(before).as_millis();
    assert!((9_700..10_500).contains(&took), "50 at 5 a second took {took} ms");
}

#[test]
fn stopping_finishes_deliveries_in_flight_and_begins_no_more() {
    let mut world = world_with(|config| {
        config.delivery.destinations[0].prefetch = 10;
        config.delivery.destinations[0].pipeline_transactions = false;
    });
    world.next_hop.rules = vec![(".", "")];
    fill(&mut world, 5);
    world.run_until("the first content", |world| {
        world.front.counters().delivery.connections == 1
            && world.shard.queues[0].outstanding.len() == 5
    });
    world.run_for(Duration::from_secs(1));
    world.front.stop();
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.shard.queue(Q0).window, 0);
    assert!(world.shard.queue(Q0).put_back.len() == 4);
    assert!(!world.front.is_stopped());
    let connection = world.next_hop.peer.accepted[0];
    world.next_hop.rules.clear();
    world.next_hop.peer.send(connection, "250 taken\r\n");
    world.run_until("the end", |world| world.front.is_stopped());
    assert!(world.shard.queue(Q0).outstanding.is_empty());
}

#[test]
fn other_fronts_deliver_their_own_queues() {
    let mut world = world_with(|config| (config.number, config.fronts) = (1, 2));
    world.run_for(Duration::from_millis(1));
    let windows: Vec<u32> = world.shard.queues.iter().map(|queue| queue.window).collect();
    assert_eq!(windows, [0, 3, 0]);
}

#[test]
fn stopping_does_not_wait_for_next_hops_that_say_nothing() {
    // Of other terms, so that the second queue needs a connection of its own.
    let mut world = world_with(|config| config.delivery.destinations[0].recipients_max = 7);
    world.next_hop.rules = vec![("QUIT", "")];
    fill(&mut world, 1);
    world.run_until("delivery", |world| world.shard.queues[0].settled.len() == 1);
    world.next_hop.rules = vec![("greeting", "")];
    let session = world.session();
    world.mail(session, &["r@b.example"], "x\r\n");
    world.converse(session, "QUIT\r\n", &["221"]);
    world.run_until("a second connection", |world| world.next_hop.peer.accepted.len() == 2);
    let before = world.now();
    world.front.stop();
    world.run_until("the end", |world| world.front.is_stopped());
    assert!(world.now().saturating_since(before) < Duration::from_secs(10));
    assert_eq!(world.shard.queue(Q1).put_back.len(), 1);
}

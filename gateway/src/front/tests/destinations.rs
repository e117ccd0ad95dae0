//! What a destination is like decides how mail goes to it.

use smtp::{Notify, Protocol};

use super::delivery::put;
use super::*;
use crate::message::{Envelope, Recipient, RecipientStatus as Status};

fn recipients(count: usize) -> Vec<Recipient> {
    (0..count).map(|number| Recipient::new(format!("{number}@a"))).collect()
}

fn told(address: &str, notify: Notify) -> Recipient {
    Recipient { notify: Some(notify), ..Recipient::new(address) }
}

const SUCCESS: Notify = Notify { success: true, failure: false, delay: false };

#[test]
fn a_message_with_many_recipients_takes_several_transactions_in_order() {
    for (own, limits, expected) in [
        (3, "", vec![3, 3, 1]),
        (100, "LIMITS RCPTMAX=4", vec![4, 3]),
        (100, "LIMITS RCPTMAX=3 MAILMAX=2", vec![3, 3, 1]),
        (100, "LIMITS RCPTDOMAINMAX=1", vec![7]),
    ] {
        let mut world = world_with(|config| {
            config.delivery.destinations[0].recipients_max = own;
        });
        world.next_hop.extensions = vec!["PIPELINING", limits];
        put(&mut world, Envelope::new("s@x.example", recipients(7)));
        put(&mut world, Envelope::new("s@x.example", vec![Recipient::new("last@a")]));
        world.run_until("both", |world| world.shard.queues[0].settled.len() == 2);
        let messages = &world.next_hop.messages;
        let (last, parts) = messages.split_last().unwrap();
        let sizes: Vec<usize> = parts.iter().map(|it| it.recipients.len()).collect();
        assert_eq!(sizes, expected, "{limits}");
        let all: Vec<_> = parts.iter().flat_map(|it| it.recipients.clone()).collect();
        assert_eq!(all, (0..7).map(|number| format!("{number}@a")).collect::<Vec<_>>());
        assert_eq!(last.recipients, ["last@a"]);
        let connections = if limits.contains("MAILMAX") { 2 } else { 1 };
        assert_eq!(world.next_hop.peer.accepted.len(), connections, "{limits}");
    }
}

#[test]
fn a_connection_with_its_number_of_domains_makes_room_for_another() {
    let mut world = world();
    world.next_hop.extensions = vec!["PIPELINING", "LIMITS RCPTDOMAINMAX=1"];
    let to = ["1@a", "2@b", "3@a", "4@c"].map(Recipient::new).into();
    put(&mut world, Envelope::new("s@x.example", to));
    world.run_until("all", |world| world.shard.queues[0].settled.len() == 1);
    let parts: Vec<_> = world.next_hop.messages.iter().map(|it| it.recipients.clone()).collect();
    assert_eq!(parts, [vec!["1@a", "3@a"], vec!["2@b"], vec!["4@c"]]);
    assert_eq!(world.next_hop.peer.accepted.len(), 3);
}

#[test]
fn a_connection_that_can_carry_no_more_costs_nothing_of_the_rate() {
    let mut world = world_with(|config| {
        config.delivery.destinations[0].rate_per_second = NonZeroU32::new(1);
    });
    world.next_hop.extensions = vec!["PIPELINING", "LIMITS RCPTDOMAINMAX=1"];
    for number in 0..6 {
        let to = vec![Recipient::new(format!("r@{number}.example"))];
        put(&mut world, Envelope::new("s@x.example", to));
    }
    let start = world.now();
    world.run_until("all", |world| world.shard.queues[0].settled.len() == 6);
    let took = world.now().saturating_since(start).as_secs_f64();
    assert!((5.0..6.0).contains(&took), "{took}");
}

#[test]
fn what_a_part_achieved_is_kept_when_a_later_part_cannot_go() {
    let mut world = world_with(|config| config.delivery.destinations[0].recipients_max = 2);
    world.next_hop.rules = vec![("RCPT TO:<2", "close")];
    put(&mut world, Envelope::new("s@x.example", recipients(6)));
    world.run_until("an outcome", |world| !world.shard.queues[0].deferred.is_empty());
    let (_, state) = &world.shard.queues[0].deferred[0];
    let open: Vec<bool> = (0..6).map(|place| state.status(place) == Status::Open).collect();
    assert_eq!(open, [false, false, true, true, true, true]);
}

#[test]
fn mailbox_servers_answer_for_each_recipient_by_lmtp() {
    let mut world = world_with(|config| {
        config.delivery.destinations[0].protocol = Protocol::Lmtp;
    });
    world.next_hop.is_lmtp = true;
    world.next_hop.rules = vec![
        ("RCPT TO:<no", "550 5.1.1 unknown"),
        (".full", "452 4.2.2 full"),
        (".bad", "554 5.6.0 bad"),
    ];
    let to = ["no@a", "full@a", "ok@a", "bad@a"].map(Recipient::new).into_iter();
    let to = to.chain([told("told@a", SUCCESS)]).collect();
    put(&mut world, Envelope::new("s@x.example", to));
    world.run_until("an outcome", |world| !world.shard.queues[0].deferred.is_empty());
    let (_, state) = &world.shard.queues[0].deferred[0];
    let statuses: Vec<_> = (0..5).map(|place| state.status(place)).collect();
    let expected =
        [Status::Failed, Status::Open, Status::Settled, Status::Failed, Status::Delivered];
    assert_eq!(statuses, expected);
    assert_eq!(world.next_hop.messages[0].recipients, ["ok@a", "told@a"]);
    let codes = [1, 3, 4].map(|place| state.explanation(place).unwrap().reply.code);
    assert_eq!(codes, [452, 554, 250]);
}

#[test]
fn whoever_wants_to_hear_of_success_hears_it_from_who_can_tell() {
    for (extensions, status) in [(vec!["DSN"], None), (vec![], Some(Status::Delivered))] {
        let mut world = world();
        world.next_hop.extensions = extensions;
        put(&mut world, Envelope::new("s@x.example", vec![told("r@a", SUCCESS)]));
        world.run_until("an outcome", |world| {
            world.shard.queues[0].settled.len() + world.shard.queues[0].deferred.len() == 1
        });
        let deferred = world.shard.queues[0].deferred.first();
        assert_eq!(deferred.map(|(_, state)| state.status(0)), status);
    }
}

#[test]
fn who_shall_never_be_told_goes_with_the_null_reverse_path_where_dsn_is_not_known() {
    for (extensions, paths) in
        [(vec!["DSN"], vec!["s@x.example>"]), (vec![], vec!["s@x.example>", ">"])]
    {
        let mut world = world();
        world.next_hop.extensions = extensions;
        let to = vec![told("silent@a", Notify::NEVER), Recipient::new("r@a")];
        put(&mut world, Envelope::new("s@x.example", to));
        world.run_until("all", |world| world.shard.queues[0].settled.len() == 1);
        let mails: Vec<_> = world.next_hop.messages.iter().map(|it| &*it.mail).collect();
        assert_eq!(mails, paths);
    }
}

#[test]
fn idle_connections_beyond_their_bound_say_good_bye_at_once() {
    let mut world = world_with(|config| {
        config.delivery.idle_connections_max = 1;
        config.delivery.destinations[0].recipients_max = 7;
    });
    for (queue, number) in [(Q0, 1), (Q1, 1)] {
        let session = world.session();
        let to = if queue == Q0 { "r@a.example" } else { "r@b.example" };
        world.mail(session, &[to], "x\r\n");
        world.run_until("delivery", |world| {
            world.shard.queues[queue.0 as usize].settled.len() == number
        });
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.front.counters().delivery.connections, 1);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.front.counters().delivery.connections, 0);
}

#[test]
fn a_lane_begins_with_some_connections_and_grows_while_mail_is_taken() {
    let mut world = world_with(|config| {
        let destination = &mut config.delivery.destinations[0];
        (destination.connections_initial, destination.connections_max) = (2, 6);
        destination.messages_per_connection_max = 1;
    });
    for _ in 0..60 {
        put(&mut world, Envelope::new("", vec![Recipient::new("r@a")]));
    }
    world.run_for(Duration::from_micros(1));
    assert_eq!(world.front.counters().delivery.connections, 2);
    world.run_until("six", |world| world.front.counters().delivery.connections == 6);
    world.run_until("all", |world| world.shard.queues[0].settled.len() == 60);
}

/// One mail for each of some queues after the other; how many connections the next hop has seen then.
fn connections_for(
    queues: &[QueueIndex],
    extensions: &[&'static str],
    change: impl FnOnce(&mut [Destination]),
) -> usize {
    let mut world = world_with(|config| change(&mut config.delivery.destinations));
    world.next_hop.extensions = extensions.to_vec();
    let session = world.session();
    for (number, queue) in (1..).zip(queues) {
        let to = ["r@a.example", "r@b.example", "r@c.example"][queue.0 as usize];
        world.mail(session, &[to], "x\r\n");
        world.run_until("delivery", |world| world.next_hop.messages.len() == number);
        world.run_for(Duration::from_secs(1));
    }
    world.next_hop.peer.accepted.len()
}

#[test]
fn queues_with_one_next_hop_go_on_with_each_others_idle_connections() {
    let queues = [Q0, Q1, Q0, Q0, QueueIndex(2), Q1];
    assert_eq!(connections_for(&queues, &["PIPELINING"], |_| {}), 1);
    assert_eq!(connections_for(&queues, &[], |_| {}), 1);
}

#[test]
fn connections_of_other_terms_are_not_gone_on_with() {
    let queues = [Q0, Q1, Q0, Q1];
    let changes: [fn(&mut Destination); 4] = [
        |it| it.recipients_max = 7,
        |it| it.messages_per_connection_max = 7,
        |it| it.pipeline_transactions = !it.pipeline_transactions,
        |it| it.transfer_timeout = Duration::from_secs(7),
    ];
    for change in changes {
        assert_eq!(connections_for(&queues, &[], |all| change(&mut all[0])), 2);
    }
    let domains = ["LIMITS RCPTDOMAINMAX=1"];
    assert_eq!(connections_for(&queues, &domains, |_| {}), 2, "each would use up the others'");
}

#[test]
fn a_connection_carries_its_number_of_messages_whosever_they_are() {
    let most = |all: &mut [Destination]| {
        all.iter_mut().for_each(|it| it.messages_per_connection_max = 3);
    };
    assert_eq!(connections_for(&[Q0, Q1, Q0, Q1, Q0, Q1, Q0], &[], most), 3);
}

#[test]
fn an_idle_connection_of_a_queue_that_has_work_again_stays_with_it() {
    let mut world = world();
    let session = world.session();
    world.mail(session, &["r@a.example"], "first\r\n");
    world.run_until("delivery", |world| world.next_hop.messages.len() == 1);
    world.run_for(Duration::from_secs(1));
    world.mail(session, &["r@b.example", "r@a.example"], "both\r\n");
    world.run_until("all", |world| world.next_hop.messages.len() == 3);
    let first = world.next_hop.messages[0].connection;
    let to_a = world.next_hop.messages.iter().filter(|it| it.recipients == ["r@a.example"]);
    assert!(to_a.clone().count() == 2 && to_a.clone().all(|it| it.connection == first));
    assert_eq!(world.next_hop.peer.accepted.len(), 2);
}

#[test]
fn a_connection_that_ends_while_idle_is_gone_for_every_queue() {
    let mut world = world();
    let session = world.session();
    world.mail(session, &["r@a.example"], "x\r\n");
    world.run_until("delivery", |world| world.next_hop.messages.len() == 1);
    let id = world.next_hop.messages[0].connection;
    world.next_hop.peer.close(id);
    world.run_for(Duration::from_secs(1));
    world.mail(session, &["r@b.example"], "x\r\n");
    world.run_until("delivery", |world| world.next_hop.messages.len() == 2);
    assert_eq!(world.front.counters().delivery.pauses, 0);
}

//! A front that works by another configuration from one turn to the next.

use super::*;

/// Puts so many mails into queue 0.
fn fill(world: &mut World<SimTransport>, session: ConnectionId, count: usize) {
    for _ in 0..count {
        world.mail(session, &["r@a.example"], "x\r\n");
    }
}

fn reconfigure(world: &mut World<SimTransport>, change: impl FnOnce(&mut FrontConfig)) {
    let mut config = config(SocketAddr::new(ip(1), 25), SocketAddr::new(ip(3), 25));
    change(&mut config);
    world.front.reconfigure(&config.reception, &config.delivery, &config.reports);
}

#[test]
fn suspended_receipt_is_answered_450_and_what_has_begun_is_taken() {
    let mut world = world();
    let begun = world.session();
    world.envelope(begun, &["1@a.example"]);
    let addressed = world.session();
    world.converse(addressed, "MAIL FROM:<>\r\nRCPT TO:<2@a.example>\r\n", &["250", "250"]);
    world.board.set_suspended(Q0, true);
    let late = world.session();
    let group = "MAIL FROM:<>\r\nRCPT TO:<3@a.example>\r\nRCPT TO:<4@b.example>\r\n";
    world.converse(late, group, &["250", "450", "250"]);
    world.converse(begun, "x\r\n.\r\n", &["250"]);
    world.converse(addressed, "DATA\r\n", &["354"]);
    world.converse(addressed, "x\r\n.\r\n", &["250"]);
    assert!(!world.front.local_addresses().is_empty(), "the ports stay");
    assert_eq!(world.front.counters().reception.recipients_suspended, 1);
    world.board.set_suspended(Q0, false);
    world.converse(late, "RCPT TO:<3@a.example>\r\n", &["250"]);
}

#[test]
fn suspended_sending_finishes_what_is_under_way_and_resumes_in_order() {
    let mut world = world();
    let session = world.session();
    world.next_hop.set_listening(false);
    fill(&mut world, session, 20);
    world.next_hop.set_listening(true);
    world.run_until("some", |world| world.next_hop.messages.len() >= 3);
    reconfigure(&mut world, |config| config.delivery.destinations[0].is_suspended = true);
    world.run_for(Duration::from_secs(60));
    let sent = world.next_hop.messages.len();
    assert!(sent < 10, "the rest is held: {sent}");
    let queue = &world.shard.queues[0];
    assert!(queue.outstanding.is_empty(), "what is not under way is given back");
    assert_eq!((queue.window, queue.ready.len()), (0, 20 - sent));
    assert_eq!(world.front.counters().delivery.connections, 0, "the connection says good-bye");
    fill(&mut world, session, 5);
    assert_eq!(world.next_hop.messages.len(), sent);
    let resumed_at = world.now();
    reconfigure(&mut world, |_| {});
    world.run_until("all", |world| world.shard.queues[0].settled.len() == 25);
    assert!(world.now().saturating_since(resumed_at) < Duration::from_secs(1), "at once");
    assert!(world.shard.queues[0].settled.is_sorted());
    assert_eq!(world.next_hop.messages.len(), 25, "nothing goes twice");
    world.assert_board_is_whole();
}

#[test]
fn connections_beyond_a_new_bound_finish_and_say_good_bye() {
    let most = |most| {
        move |config: &mut FrontConfig| {
            config.delivery.destinations[0].connections_max = most;
        }
    };
    let mut world = world_with(most(4));
    let session = world.session();
    world.next_hop.set_listening(false);
    fill(&mut world, session, 40);
    world.next_hop.set_listening(true);
    world.run_until("four", |world| world.front.counters().delivery.connections == 4);
    reconfigure(&mut world, most(1));
    world.run_until("one", |world| world.front.counters().delivery.connections <= 1);
    world.run_until("all", |world| world.shard.queues[0].settled.len() == 40);
    assert_eq!(world.next_hop.messages.len(), 40, "nothing goes twice");
}

#[test]
fn mail_goes_to_another_next_hop_from_now_on() {
    let mut world = world();
    let elsewhere = SocketAddr::new(ip(3), 26);
    reconfigure(&mut world, |config| config.delivery.destinations[0].next_hops = vec![elsewhere]);
    let session = world.session();
    fill(&mut world, session, 3);
    world.run_for(Duration::from_secs(30));
    assert!(world.next_hop.messages.is_empty() && world.front.counters().delivery.pauses > 0);
    let back_at = world.now();
    reconfigure(&mut world, |_| {});
    world.run_until("all", |world| world.next_hop.messages.len() == 3);
    assert!(
        world.now().saturating_since(back_at) < Duration::from_secs(1),
        "no pause is waited for"
    );
}

#[test]
fn new_sessions_have_the_new_limits_and_new_transactions_the_new_routes() {
    let mut world = world();
    let old = world.session();
    reconfigure(&mut world, |config| {
        config.reception.recipients_max = 1;
        config.reception.routes = Routes::new(Some(Q1));
    });
    let group = "MAIL FROM:<>\r\nRCPT TO:<1@new.example>\r\nRCPT TO:<2@new.example>\r\n";
    world.converse(old, group, &["250", "250", "250"]);
    let new = world.session();
    world.converse(new, group, &["250", "250", "452"]);
}

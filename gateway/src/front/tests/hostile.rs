//! Clients that are slow, early, wrong or too many.

use smtp::IllegalPipelining;

use super::shard::Mode;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A world whose client may not relay, but to a.example.
fn strange(change: impl FnOnce(&mut ReceptionConfig)) -> World<SimTransport> {
    world_with(|config| {
        let reception = &mut config.reception;
        reception.relay.networks = Networks::loopback();
        reception.relay.domains.add("a.example").unwrap();
        change(reception);
    })
}

/// Sends one octet a second until the session is over or so many are sent.
fn trickle(world: &mut World<SimTransport>, session: ConnectionId, octets: usize) -> usize {
    for sent in 0..octets {
        if world.client.is_over(session) {
            return sent;
        }
        world.client.send(session, "x");
        world.run_for(SECOND);
    }
    octets
}

#[test]
fn an_octet_a_second_does_not_put_the_deadline_of_a_command_off() {
    let mut world = world();
    let session = world.session();
    let sent = trickle(&mut world, session, 1000);
    assert!((299..305).contains(&sent), "{sent}");
    assert_eq!(world.client.reply_codes(session), ["421"]);
    assert_eq!(world.front.counters().reception.sessions_timed_out, 1);
}

#[test]
fn content_that_comes_too_slowly_is_given_up_and_its_room_is_free() {
    let mut world = world();
    let session = world.session();
    world.envelope(session, &["r@a.example"]);
    let sent = trickle(&mut world, session, 1000);
    assert!((299..605).contains(&sent), "{sent}");
    assert_eq!(world.client.reply_codes(session), ["421"]);
    world.run_for(SECOND);
    world.assert_board_is_whole();
}

#[test]
fn content_at_the_least_rate_may_take_as_long_as_it_takes() {
    let mut world = world();
    let session = world.session();
    world.envelope(session, &["r@a.example"]);
    for _ in 0..200 {
        world.client.send(session, &"0123456789".repeat(65).replace("99", "9\r\n"));
        world.client.send(session, "\r\n");
        world.run_for(10 * SECOND);
    }
    world.converse(session, ".\r\n", &["552"]);
    let session = world.session();
    world.envelope(session, &["r@a.example"]);
    for _ in 0..60 {
        world.client.send(session, &format!("{}\r\n", "x".repeat(700)));
        world.run_for(10 * SECOND);
    }
    world.converse(session, ".\r\n", &["250"]);
}

#[test]
fn mail_that_comes_in_the_turn_in_which_its_time_is_over_is_taken() {
    let envelope = "MAIL FROM:<>\r\nRCPT TO:<r@a.example>\r\n";
    let steps = [
        (String::new(), 0, "BDAT 3 LAST\r\nx\r\n"),
        ("DATA\r\n".into(), 1, "x\r\n.\r\n"),
        (format!("BDAT 3\r\nx\r\n{}", "BDAT 9 LAST\r\n"), 1, "123456\r\n."),
    ];
    for (begun, replies, end) in steps {
        let mut world = world();
        let session = world.session();
        world.client.send(session, &format!("{envelope}{begun}"));
        world.run_until("the replies", |world| {
            world.client.reply_codes(session).len() == 2 + replies
        });
        world.client.forget_received(session);
        world.run_for(299 * SECOND);
        world.client.send(session, end);
        oversleep(&mut world, 2 * SECOND);
        world.converse(session, "", &["250"]);
        assert_eq!(world.front.counters().reception.sessions_timed_out, 0);
    }
}

/// Lets time pass in which the front has no turn, as if its thread had been busy.
fn oversleep(world: &mut World<SimTransport>, duration: Duration) {
    let now = world.now();
    world.client.turn(now);
    let Time::Simulated(network) = &world.time else { unreachable!("there is no other here") };
    network.advance(now + duration);
}

#[test]
fn replies_that_nobody_reads_are_not_waited_for_without_end() {
    let options = SimOptions { window_bytes: 512, ..SimOptions::default() };
    let mut world = world_on(SimNetwork::new(3, options), |_| {});
    let session = world.session();
    world.client.transport.set_receiving(session, false);
    for _ in 0..200 {
        world.client.send(session, "NOOP\r\n");
    }
    world.run_for(200 * SECOND);
    assert_eq!(world.front.counters().reception.sessions, 1);
    world.run_until("the end", |world| world.front.counters().reception.sessions == 0);
}

#[test]
fn under_load_the_slow_have_less_time_and_the_quick_do_not_notice() {
    for (load_percent, left) in [(50, 4), (20, 1)] {
        let mut world = world_with(|config| config.reception.patience.load_percent = load_percent);
        let quick = world.session();
        let slow = [world.session(), world.session(), world.session()];
        world.envelope(slow[0], &["r@a.example"]);
        world.client.send(slow[1], "NOO");
        for _ in 0..25 {
            world.mail(quick, &["r@a.example"], "x\r\n");
            world.client.send(slow[0], "x");
            world.run_for(SECOND);
        }
        assert_eq!(world.front.counters().reception.sessions, left);
        if left == 1 {
            assert!(slow.iter().all(|it| world.client.reply_codes(*it) == ["421"]));
        }
    }
}

#[test]
fn load_begins_with_short_memory_too() {
    let mut world = world_with(|config| config.reception.message_size_max = 100_000);
    let idle = world.session();
    world.shard.queue(Q0).mode = Mode::Wait;
    world.shard.queue(Q1).mode = Mode::Wait;
    for domain in ["a.example", "b.example"] {
        let session = world.session();
        world.converse(session, "MAIL FROM:<> SIZE=95000\r\n", &["250"]);
        world.converse(session, &format!("RCPT TO:<r@{domain}>\r\nDATA\r\n"), &["250", "354"]);
    }
    world.converse(idle, "", &["421"]);
    assert!(world.now().saturating_since(Instant::ZERO) < 12 * SECOND);
    world.run_until("the end", |world| world.front.counters().reception.sessions == 0);
    world.assert_board_is_whole();
}

#[test]
fn a_full_front_lets_the_longest_idle_make_room() {
    let mut world = world();
    let oldest = world.session();
    let mut others = Vec::new();
    for _ in 0..9 {
        world.run_for(SECOND);
        others.push(world.session());
    }
    world.converse(oldest, "NOOP\r\n", &["250"]);
    world.envelope(others[0], &["r@a.example"]);
    world.run_for(2 * SECOND);
    world.session();
    assert_eq!(world.client.reply_codes(others[1]), ["421"], "the first with no transaction");
    world.run_until("its end", |world| world.client.is_over(others[1]));
    let counters = world.front.counters().reception;
    assert_eq!((counters.sessions, counters.sessions_displaced), (10, 1));
}

#[test]
fn with_few_descriptors_a_front_is_full_early() {
    let mut world = world();
    world.board.set_sessions_max(2);
    let oldest = world.session();
    world.session();
    world.run_for(2 * SECOND);
    world.session();
    assert_eq!(world.client.reply_codes(oldest), ["421"]);
    world.run_until("its end", |world| world.client.is_over(oldest));
    assert_eq!(world.front.counters().reception.sessions, 2);
}

#[test]
fn a_full_front_of_busy_sessions_sends_newcomers_away() {
    let mut world = world();
    (0..10).for_each(|_| _ = world.session());
    let surplus = world.connect();
    world.converse(surplus, "", &["421"]);
    assert_eq!(world.front.counters().reception.sessions_displaced, 0);
}

#[test]
fn who_speaks_before_the_greeting_is_sent_away_unless_it_may_relay() {
    let pause = 5 * SECOND;
    let mut world = strange(|config| config.greet_pause = pause);
    let early = world.connect();
    world.run_for(SECOND);
    world.converse(early, "EHLO client.example\r\n", &["554"]);
    world.run_until("the end", |world| world.client.is_over(early));
    let before = world.now();
    let patient = world.session();
    assert!(world.now().saturating_since(before) >= pause);
    world.mail(patient, &["r@a.example"], "x\r\n");
    assert_eq!(world.front.counters().reception.early_talkers, 1);

    let mut world = world_with(|config| config.reception.greet_pause = pause);
    let session = world.connect();
    world.converse(session, "EHLO client.example\r\n", &["220", "250"]);
}

#[test]
fn rules_differ_by_network() {
    for is_trusted in [true, false] {
        let mut world = strange(|config| {
            config.trusted_rules.illegal_pipelining = IllegalPipelining::Allow;
            if is_trusted {
                config.relay.networks = Networks::parse_all(["10.0.0.2"]).unwrap();
            }
        });
        let session = world.session();
        let group = "MAIL FROM:<>\r\nRCPT TO:<r@a.example>\r\nDATA\r\nx\r\n.\r\n";
        let codes: &[_] =
            if is_trusted { &["250", "250", "354", "250"] } else { &["250", "250", "554"] };
        world.converse(session, group, codes);
    }
}

#[test]
fn many_mistakes_slow_a_client_down_and_nobody_else_and_more_end_its_session() {
    let mut world = strange(|config| {
        config.errors_soft = 2;
        config.error_delay = 3 * SECOND;
        config.errors_max = 6;
    });
    let wrong = world.session();
    let right = world.session();
    let group = "NONSENSE\r\nMAIL FROM:<s@x.example>\r\nRCPT TO:<r@elsewhere.example>\r\n";
    let before = world.now();
    world.converse(wrong, group, &["500", "250", "550"]);
    assert!(world.now().saturating_since(before) < SECOND);
    world.client.send(wrong, "RCPT TO:<s@elsewhere.example>\r\n");
    world.mail(right, &["r@a.example"], "x\r\n");
    world.converse(wrong, "", &["550"]);
    assert!(world.now().saturating_since(before) >= 3 * SECOND);
    let group = "RSET\r\nFOO\r\nFOO\r\nFOO\r\nRSET\r\n";
    world.converse(wrong, group, &["250", "500", "500", "500", "421"]);
    world.run_until("the end", |world| world.client.is_over(wrong));
    assert!(world.front.counters().reception.replies_held >= 1);
}

#[test]
fn replies_to_mistakes_in_one_group_are_held_back_each() {
    let groups = [
        ("FOO\r\n", "500", "RSET\r\n"),
        ("RCPT TO:<r@elsewhere.example>\r\n", "550", "MAIL FROM:<>\r\n"),
    ];
    for (wrong, code, before) in groups {
        let mut world = strange(|config| {
            config.errors_soft = 2;
            config.error_delay = 3 * SECOND;
            config.errors_max = 6;
        });
        let session = world.session();
        let start = world.now();
        let group = format!("{before}{}NOOP\r\n", wrong.repeat(5));
        world.converse(session, &group, &["250", code, code, code, code, code, "250"]);
        // The third mistake, the fourth, the fifth, and what is behind them.
        let taken = world.now().saturating_since(start);
        assert!((12 * SECOND..13 * SECOND).contains(&taken), "{taken:?}");
        assert_eq!(world.front.counters().reception.replies_held, 4);
    }
}

#[test]
fn refused_recipients_end_a_strangers_session_and_not_a_relay_clients() {
    for is_trusted in [true, false] {
        let mut world = strange(|config| {
            config.errors_max = 3;
            config.routes = Routes::new(None);
            if is_trusted {
                config.relay.networks = Networks::parse_all(["10.0.0.2"]).unwrap();
            }
        });
        let session = world.session();
        let group = format!("MAIL FROM:<>\r\n{}", "RCPT TO:<r@elsewhere.example>\r\n".repeat(3));
        let last = if is_trusted { "250" } else { "421" };
        world.converse(session, &format!("{group}NOOP\r\n"), &["250", "550", "550", "550", last]);
    }
}

#[test]
fn a_mail_that_runs_in_a_circle_is_refused_and_stored_nowhere() {
    let mut world = world_with(|config| config.reception.received_max = 3);
    let session = world.session();
    let field = "Received: from a by b;\r\n\tThu, 1 Jan 1970 00:00:00 +0000\r\n";
    world.mail(session, &["r@a.example"], &format!("{}\r\nx\r\n", field.repeat(3)));
    world.envelope(session, &["r@a.example"]);
    world.converse(session, &format!("{}\r\nx\r\n.\r\n", field.repeat(4)), &["554"]);
    assert_eq!(world.front.counters().reception.loops, 1);
    world.run_for(SECOND);
    world.assert_board_is_whole();
    world.mail(session, &["r@a.example"], "x\r\n");
}

#[test]
fn a_recipient_that_is_named_twice_gets_one_copy() {
    let mut world = world();
    let session = world.session();
    let recipients = ["r@a.example", "R@a.example", "r@A.Example", "r@b.example", "r@a.example"];
    world.mail(session, &recipients, "x\r\n");
    world.run_until("delivery", |world| world.next_hop.messages.len() == 2);
    let stored = world.next_hop.messages.iter().flat_map(|message| message.recipients.clone());
    let mut stored: Vec<String> = stored.collect();
    stored.sort();
    assert_eq!(stored, ["R@a.example", "r@a.example", "r@b.example"]);
    assert_eq!(world.front.counters().reception.recipients_repeated, 2);
}

#[test]
fn a_mail_larger_than_all_room_is_refused_at_mail_and_unknown_sizes_while_they_come() {
    let mut world = world_with(|config| config.reception.message_size_max = 1_000_000);
    let session = world.session();
    world.converse(session, "MAIL FROM:<> SIZE=200001\r\n", &["452"]);
    world.converse(session, "MAIL FROM:<> SIZE=90000\r\nRSET\r\n", &["250", "250"]);
    for lines in [10, 1500, 3000, 7000] {
        world.mail(session, &["r@a.example"], &"0123456789\r\n".repeat(lines));
        world.run_until("delivery", |world| world.next_hop.messages.len() == 1);
        let content = world.next_hop.messages.pop().unwrap().content;
        assert!(content.ends_with("9\r\n") && content.len() > lines * 12);
        world.run_for(SECOND);
        world.assert_board_is_whole();
    }
}

#[test]
fn a_stop_cuts_silent_transactions_after_a_while_and_not_what_waits_for_its_commit() {
    let mut world = world_with(|config| config.reception.drain = 10 * SECOND);
    let silent = world.session();
    world.envelope(silent, &["r@a.example"]);
    let waiting = world.session();
    world.shard.queue(Q1).mode = Mode::Wait;
    world.envelope(waiting, &["r@b.example"]);
    world.client.send(waiting, "x\r\n.\r\n");
    world.run_until("the store", |world| !world.shard.queues[1].waiting.is_empty());
    let before = world.now();
    world.front.stop();
    world.converse(silent, "", &["421"]);
    let taken = world.now().saturating_since(before);
    assert!((10 * SECOND..11 * SECOND).contains(&taken), "{taken:?}");
    assert!(!world.front.is_stopped());
    world.converse(waiting, "", &["451", "421"]);
    world.run_until("the end", |world| world.front.is_stopped());
    world.assert_board_is_whole();
}

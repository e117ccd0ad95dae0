//! Reception's policy: who may send what to whom, and how much.

use std::num::{NonZeroU32, NonZeroU64};

use super::*;

/// A world whose client may not relay; everybody may send to a.example and below b.example, and
/// what has no route of its own goes to queue 2.
fn guarded(change: impl FnOnce(&mut ReceptionConfig)) -> World<SimTransport> {
    world_with(|config| {
        let reception = &mut config.reception;
        let mut routes = Routes::new(Some(QueueIndex(2)));
        routes.add("a.example", Q0);
        routes.add("b.example", Q1);
        routes.add("gw.example", Q1);
        reception.routes = routes;
        reception.relay.networks = Networks::loopback();
        reception.relay.domains = set(&["a.example", ".b.example"]);
        change(reception);
    })
}

fn set(entries: &[&str]) -> AddressSet {
    let mut set = AddressSet::default();
    entries.iter().for_each(|entry| set.add(entry).unwrap());
    set
}

fn limit(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

#[test]
fn strangers_may_send_to_relay_domains_only() {
    let mut world = guarded(|_| {});
    let session = world.session();
    world.converse(session, "MAIL FROM:<s@x.example>\r\n", &["250"]);
    for (recipient, code) in [
        ("r@A.example", "250"),
        ("r@b.example", "550"),
        ("r@sub.b.example", "250"),
        ("r@elsewhere.example", "550"),
        ("Postmaster", "250"),
        ("elsewhere.example!r@a.example", "550"),
        ("r%elsewhere.example@a.example", "550"),
        ("\"r@elsewhere.example\"@a.example", "550"),
        ("@a.example:r@elsewhere.example", "550"),
        ("@elsewhere.example:r@a.example", "250"),
        ("r@[10.0.0.1]", "550"),
    ] {
        world.client.send(session, &format!("RCPT TO:<{recipient}>\r\n"));
        world.run_until("a reply", |world| !world.client.reply_codes(session).is_empty());
        assert_eq!(world.client.reply_codes(session), [code], "{recipient}");
        world.client.forget_received(session);
    }
    assert_eq!(world.front.counters().reception.recipients_refused, 7);
}

#[test]
fn relay_networks_may_send_to_whatever_has_a_route() {
    let mut world = guarded(|config| {
        config.relay.networks = Networks::parse_all(["10.0.0.2"]).unwrap();
    });
    let session = world.session();
    let group = "MAIL FROM:<s@x.example>\r\nRCPT TO:<r@elsewhere.example>\r\n\
                 RCPT TO:<r%x@b.example>\r\n";
    world.converse(session, group, &["250", "250", "250"]);
}

#[test]
fn senders_and_recipients_are_refused_by_list_and_by_form() {
    let mut world = guarded(|config| {
        config.checks = Checks {
            senders_refused: Arc::new(set(&["@bad.example", "one@mixed.example"])),
            recipients_refused: Arc::new(set(&["gone@a.example"])),
            sender_domain: true,
            hello_name: false,
            null_sender_one_recipient: true,
        };
        config.known_recipients = vec![Some(Arc::new(set(&["r@a.example", "gone@a.example"])))];
    });
    let session = world.session();
    let senders = "MAIL FROM:<s@Bad.example>\r\nMAIL FROM:<one@mixed.example>\r\n\
                   MAIL FROM:<\"o\\ne\"@mixed.example>\r\n\
                   MAIL FROM:<s@localhost>\r\nMAIL FROM:<s@[192.0.2.1]>\r\n";
    world.converse(session, senders, &["550"; 5]);
    let group = "MAIL FROM:<two@mixed.example>\r\nRCPT TO:<gone@a.example>\r\n\
                 RCPT TO:<\"gone\"@a.example>\r\nRCPT TO:<nobody@a.example>\r\nRCPT TO:<R@a.example>\r\n\
                 RCPT TO:<postmaster@a.example>\r\nRSET\r\n";
    world.converse(session, group, &["250", "550", "550", "550", "250", "250", "250"]);
    let group = "MAIL FROM:<>\r\nRCPT TO:<r@a.example>\r\nRCPT TO:<r@x.b.example>\r\n";
    world.converse(session, group, &["250", "250", "452"]);
    let counters = world.front.counters().reception;
    assert_eq!((counters.senders_refused, counters.recipients_unknown), (5, 1));
}

#[test]
fn a_client_without_a_full_name_is_refused_at_mail_unless_it_may_relay() {
    for (networks, code) in [("10.9.9.9", "550"), ("10.0.0.2", "250")] {
        let mut world = guarded(|config| {
            config.checks.hello_name = true;
            config.relay.networks = Networks::parse_all([networks]).unwrap();
        });
        let session = world.connect();
        world.converse(session, "EHLO localhost\r\n", &["220", "250"]);
        world.converse(session, "MAIL FROM:<a@x.example>\r\n", &[code]);
        world.converse(session, "EHLO [10.0.0.2]\r\n", &["250"]);
        world.converse(session, "MAIL FROM:<a@x.example>\r\n", &["250"]);
    }
}

#[test]
fn a_client_has_its_number_of_sessions_and_gets_one_back_when_one_ends() {
    let mut world = guarded(|config| config.client_limits.sessions_max = limit(2));
    let sessions = [world.session(), world.session()];
    let surplus = world.connect();
    world.converse(surplus, "", &["421"]);
    world.converse(sessions[0], "QUIT\r\n", &["221"]);
    world.run_until("the end", |world| world.front.counters().reception.sessions == 1);
    world.session();
    assert_eq!(world.front.counters().reception.clients_limited, 1);
}

#[test]
fn nobody_makes_room_for_a_client_that_has_its_number_of_sessions() {
    let mut world = guarded(|config| {
        config.client_limits.sessions_max = limit(2);
        config.sessions_max = 2;
    });
    let sessions = [world.session(), world.session()];
    world.run_for(Duration::from_secs(2));
    let surplus = world.connect();
    world.converse(surplus, "", &["421"]);
    for session in sessions {
        world.converse(session, "NOOP\r\n", &["250"]);
    }
    let counters = world.front.counters().reception;
    assert_eq!((counters.sessions_displaced, counters.clients_limited), (0, 1));
}

#[test]
fn sessions_transactions_and_recipients_a_minute_are_limited_unless_exempt() {
    for is_exempt in [false, true] {
        let mut world = guarded(|config| {
            config.client_limits = ClientLimits {
                sessions_max: None,
                sessions_per_minute: limit(2),
                transactions_per_minute: limit(2),
                recipients_per_minute: limit(3),
                content_max: None,
            };
            if is_exempt {
                config.exempt_networks = Networks::parse_all(["10.0.0.0/29"]).unwrap();
            }
        });
        let expect = |code| if is_exempt { "250" } else { code };
        let session = world.session();
        world.session();
        let surplus = world.connect();
        world.converse(surplus, "", &[if is_exempt { "220" } else { "421" }]);
        let group = "MAIL FROM:<>\r\nRCPT TO:<1@a.example>\r\nRCPT TO:<2@a.example>\r\n\
                     RCPT TO:<3@a.example>\r\nRCPT TO:<4@a.example>\r\nRSET\r\n";
        let codes = ["250", "250", "250", "250", expect("450"), "250"];
        world.converse(session, group, &codes);
        let group = "MAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\n";
        world.converse(session, group, &["250", "250", expect("450")]);
        world.run_for(Duration::from_secs(61));
        world.converse(session, "RSET\r\nMAIL FROM:<>\r\n", &["250", "250"]);
    }
}

#[test]
fn what_one_client_holds_keeps_it_from_more_and_nobody_else() {
    for is_exempt in [false, true] {
        let mut world = guarded(|config| {
            config.client_limits.content_max = NonZeroU64::new(1000);
            if is_exempt {
                config.exempt_networks = Networks::parse_all(["10.0.0.0/29"]).unwrap();
            }
        });
        let envelope = "MAIL FROM:<> SIZE=500\r\nRCPT TO:<1@a.example>\r\nDATA\r\n";
        let [one, two] = [world.session(), world.session()];
        world.converse(one, envelope, &["250", "250", "354"]);
        let expected = if is_exempt { "354" } else { "452" };
        world.converse(two, envelope, &["250", "250", expected]);
        if !is_exempt {
            world.converse(one, "x\r\n.\r\n", &["250"]);
            world.converse(two, "DATA\r\n", &["354"]);
        }
    }
}

#[test]
fn a_new_policy_counts_at_once_for_sessions_that_are_there() {
    let mut world = guarded(|_| {});
    let session = world.session();
    let group = "MAIL FROM:<>\r\nRCPT TO:<r@b.example>\r\n";
    world.converse(session, group, &["250", "550"]);
    let address = SocketAddr::new(ip(1), 25);
    let mut config = config(address, address);
    world.front.reconfigure(&config.reception, &config.delivery, &config.reports);
    world.converse(session, "RCPT TO:<r@b.example>\r\n", &["250"]);
    config.reception.relay.networks = Networks::default();
    world.front.reconfigure(&config.reception, &config.delivery, &config.reports);
    world.converse(session, "RCPT TO:<s@b.example>\r\n", &["550"]);
}

//! Reception: from a client's bytes to its 250.

use super::shard::Mode;
use super::*;

#[test]
fn a_mail_goes_to_its_queue_and_on_to_the_next_hop() {
    let mut world = world();
    let session = world.session();
    world.mail(session, &["r@A.example"], "Subject: x\r\n\r\n..dot\r\n");
    world.run_until("delivery", |world| world.next_hop.messages.len() == 1);
    let delivered = &world.next_hop.messages[0];
    assert_eq!(delivered.recipients, ["r@A.example"]);
    let (header, body) = delivered.content.split_at(delivered.content.find("Subject").unwrap());
    assert!(header.starts_with("Received: from client.example ([10.0.0.2])\r\n\tby gw.example"));
    assert_eq!(body, "Subject: x\r\n\r\n.dot\r\n");
    world.run_until("the outcome", |world| world.shard.queues[0].settled.len() == 1);
    let counters = world.front.counters();
    assert_eq!((counters.reception.accepted, counters.delivery.delivered), (1, 1));
    world.assert_board_is_whole();
}

#[test]
fn a_pipelined_group_is_answered_in_one_go() {
    let mut world = world();
    let session = world.session();
    let group = "MAIL FROM:<>\r\nRCPT TO:<a@a.example>\r\nRCPT TO:<b@other.example>\r\n\
                 RCPT TO:<c@a.example>\r\nDATA\r\n";
    world.converse(session, group, &["250", "250", "550", "250", "354"]);
    world.converse(session, "x\r\n.\r\nQUIT\r\n", &["250", "221"]);
    world.run_until("the end", |world| world.client.is_over(session));
    assert_eq!(world.front.counters().reception.recipients_unrouted, 1);
}

#[test]
fn content_does_not_go_on_with_our_trace_field() {
    for trace_header in [true, false] {
        let mut world = world_with(|config| config.reception.trace_header = trace_header);
        let session = world.session();
        let between = if trace_header { "+0000\r\n\r\n" } else { "" };
        for (place, blank) in ["\t", " "].into_iter().enumerate() {
            let content = format!("{blank}(forged)\r\nSubject: x\r\n");
            world.mail(session, &["r@a.example"], &content);
            world.run_until("delivery", |world| world.next_hop.messages.len() == place + 1);
            let delivered = &world.next_hop.messages[place].content;
            assert!(delivered.ends_with(&format!("{between}{content}")), "{delivered}");
        }
        // Two octets more than what is declared.
        let envelope = "MAIL FROM:<> SIZE=0\r\nRCPT TO:<1@a.example>\r\nRCPT TO:<2@b.example>\r\n";
        let group = format!("{envelope}BDAT 14 LAST\r\n 1234567890123");
        world.converse(session, &group, &["250"; 4]);
        world.run_until("delivery", |world| world.next_hop.messages.len() == 4);
        world.run_for(Duration::from_secs(1));
        world.assert_board_is_whole();
    }
}

#[test]
fn a_mail_for_several_queues_is_ready_when_all_have_it() {
    let mut world = world();
    let session = world.session();
    world.shard.queue(Q1).mode = Mode::Wait;
    world.envelope(session, &["1@a.example", "2@b.example", "3@a.example"]);
    world.client.send(session, "x\r\n.\r\n");
    world.run_until("the first commit", |world| world.shard.queues[0].held.len() == 1);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.client.received(session), "", "no 250 before the second queue");
    world.shard.commit(Q1);
    world.converse(session, "", &["250"]);
    world.run_until("both parts", |world| world.next_hop.messages.len() == 2);
    let mut recipients: Vec<Vec<String>> =
        world.next_hop.messages.iter().map(|message| message.recipients.clone()).collect();
    recipients.sort();
    assert_eq!(recipients, [vec!["1@a.example", "3@a.example"], vec!["2@b.example"]]);
    world.run_for(Duration::from_secs(1));
    world.assert_board_is_whole();
}

#[test]
fn a_mail_that_one_queue_refuses_is_withdrawn_from_the_others() {
    let mut world = world();
    let session = world.session();
    world.shard.queue(Q1).mode = Mode::Refuse;
    world.envelope(session, &["1@a.example", "2@b.example", "3@c.example"]);
    world.converse(session, "x\r\n.\r\n", &["451"]);
    world.run_for(Duration::from_secs(1));
    let withdrawn: Vec<usize> = world.shard.queues.iter().map(|queue| queue.withdrawn).collect();
    assert_eq!(withdrawn, [1, 0, 1]);
    assert!(world.next_hop.messages.is_empty());
    assert_eq!(world.front.counters().reception.refused, 1);
    world.assert_board_is_whole();
}

#[test]
fn a_commit_that_takes_too_long_is_answered_451_and_withdrawn() {
    let mut world = world();
    let session = world.session();
    world.shard.queue(Q0).mode = Mode::Wait;
    world.envelope(session, &["1@a.example"]);
    let before = world.now();
    world.converse(session, "x\r\n.\r\nNOOP\r\n", &["451", "250"]);
    assert!(world.now().saturating_since(before) >= Duration::from_secs(20));
    assert_eq!(world.shard.queue(Q0).withdrawn, 1);
    assert_eq!(world.front.counters().reception.commit_timeouts, 1);
    world.shard.queue(Q0).mode = Mode::Commit;
    world.mail(session, &["1@a.example"], "again\r\n");
}

#[test]
fn a_mail_in_chunks_is_one_mail_and_its_room_is_given_back() {
    let mut world = world();
    let session = world.session();
    let envelope = "MAIL FROM:<>\r\nRCPT TO:<1@a.example>\r\nRCPT TO:<2@b.example>\r\n";
    world.converse(session, envelope, &["250", "250", "250"]);
    world.converse(session, "BDAT 5\r\na\r\n.\rBDAT 2\r\n\nbBDAT 0 LAST\r\n", &["250"; 3]);
    world.run_until("delivery", |world| world.next_hop.messages.len() == 2);
    assert!(world.next_hop.messages[0].content.ends_with("+0000\r\na\r\n.\r\nb\r\n"));
    let too_large = format!("BDAT 60000\r\n{}NOOP\r\n", "\n".repeat(60_000));
    for (group, codes) in [
        ("BDAT 2\r\nx\nBDAT 2 LAST\r\ny\n", ["550", "503"]),
        (&*too_large, ["552", "250"]),
        ("BDAT 1\r\nxRSET\r\n", ["250", "250"]),
    ] {
        world.converse(session, envelope, &["250", "250", "250"]);
        world.converse(session, group, &codes);
        world.assert_board_is_whole();
    }
    world.mail(session, &["1@a.example"], "again\r\n");
}

#[test]
fn chunks_without_room_are_dropped() {
    let mut world = world_with(|config| config.reception.message_size_max = 1_000_000);
    let session = world.session();
    let envelope = "MAIL FROM:<>\r\nRCPT TO:<1@a.example>\r\n";
    let line = "0123456789\r\n";
    let chunk = format!("BDAT 60000\r\n{}", line.repeat(5_000));
    world.converse(
        session,
        &format!("{envelope}{chunk}{chunk}{chunk}"),
        &["250", "250", "250", "452", "503"],
    );
    world.assert_board_is_whole();
    assert_eq!(world.front.counters().reception.shortages, 1);
    world.mail(session, &["1@a.example"], line);
}

/// Recipients of a.example that take 1.6 KB of memory each.
fn long_recipients(count: usize) -> String {
    let recipient = |number| {
        let (local, original) = ("l".repeat(240), "o".repeat(480));
        format!("RCPT TO:<{number:02}{local}@a.example> ORCPT=rfc822;{original}\r\n")
    };
    (0..count).map(recipient).collect()
}

#[test]
fn a_long_envelope_counts_in_the_budgets_like_content() {
    let mut world = world();
    world.shard.queue(Q0).mode = Mode::Wait;
    let group = format!("MAIL FROM:<> SIZE=3\r\n{}DATA\r\n", long_recipients(10));
    let taken = (0..10).take_while(|_| {
        let session = world.session();
        world.client.send(session, &group);
        world.run_until("the replies", |world| world.client.reply_codes(session).len() == 12);
        let is_taken = world.client.reply_codes(session)[11] == "354";
        world.client.forget_received(session);
        if is_taken {
            world.client.send(session, ".\r\n");
            world.run_for(Duration::from_secs(1));
        } else {
            world.converse(session, "RSET\r\n", &["250"]);
        }
        is_taken
    });
    // By their content alone the queue would take a hundred of them.
    assert_eq!(taken.count(), 6);
    for _ in 0..6 {
        world.shard.commit(Q0);
    }
    world.run_until("delivery", |world| world.next_hop.messages.len() == 6);
    world.run_for(Duration::from_secs(1));
    world.assert_board_is_whole();
}

#[test]
fn recipients_without_room_are_refused_for_now_and_the_others_stay() {
    let mut world = world_with(|config| config.reception.recipients_max = 100);
    let [one, other] = [world.session(), world.session()];
    let group = format!("MAIL FROM:<>\r\n{}", long_recipients(100));
    world.converse(one, &group, &["250"; 101]);
    world.client.send(other, &group);
    world.run_until("the replies", |world| world.client.reply_codes(other).len() == 101);
    let refused = world.client.reply_codes(other).iter().filter(|code| *code == "452").count();
    assert!((1..100).contains(&refused), "{refused}");
    world.client.forget_received(other);
    world.converse(one, "RSET\r\n", &["250"]);
    let rest = format!("{}DATA\r\n", long_recipients(1).replace("<00", "<xx"));
    world.converse(other, &rest, &["250", "354"]);
    world.converse(other, ".\r\n", &["250"]);
    world.run_until("delivery", |world| world.next_hop.messages.len() == 1);
    assert_eq!(world.next_hop.messages[0].recipients.len(), 101 - refused);
    world.run_for(Duration::from_secs(1));
    world.assert_board_is_whole();
}

#[test]
fn bare_newlines_that_double_their_room_have_it() {
    let mut world = world_with(|config| {
        config.reception.trusted_rules.bare_newlines = smtp::BareNewlines::Normalise;
    });
    let session = world.session();
    world.envelope(session, &["1@a.example"]);
    let newlines = "\n".repeat(20_000);
    world.converse(session, &format!("{newlines}\r\n.\r\n"), &["250"]);
    let envelope = "MAIL FROM:<>\r\nRCPT TO:<1@a.example>\r\n";
    let group = format!("{envelope}BDAT 20000\r\n{newlines}BDAT 1 LAST\r\n.");
    world.converse(session, &group, &["250"; 4]);
    world.run_until("delivery", |world| world.next_hop.messages.len() == 2);
    let ending = format!("{}.\r\n", "\r\n".repeat(20_000));
    assert!(world.next_hop.messages[1].content.ends_with(&ending));
    world.run_for(Duration::from_secs(1));
    world.assert_board_is_whole();
}

#[test]
fn a_mail_with_utf_8_addresses_says_so_in_its_trace() {
    let mut world = world_with(|config| {
        config.reception.routes.add("bücher.example", Q1);
    });
    let session = world.session();
    world.converse(session, "RSET\r\nMAIL FROM:<ü@x.example>\r\n", &["250", "550"]);
    let group = "MAIL FROM:<ü@x.example> SMTPUTF8\r\nRCPT TO:<ä@BÜCHER.example>\r\n\
                 RCPT TO:<b@xn--bcher-kva.example>\r\nDATA\r\n";
    world.converse(session, group, &["250", "250", "250", "354"]);
    world.shard.queue(Q1).mode = Mode::Wait;
    world.client.send(session, "x\r\n.\r\n");
    world.run_until("the store", |world| !world.shard.queues[1].waiting.is_empty());
    let message = &world.shard.queues[1].waiting[0].message;
    assert_eq!(&*message.envelope.recipients[0].address, "ä@BÜCHER.example");
    assert!(message.envelope.utf8 && message.envelope.recipients.len() == 2);
    let content = String::from_utf8_lossy(&message.content);
    assert!(content.contains("by gw.example with UTF8SMTP id "), "{content}");
}

#[test]
fn who_does_not_wait_for_354_is_sent_away() {
    let mut world = world();
    let session = world.session();
    let group = "MAIL FROM:<>\r\nRCPT TO:<1@a.example>\r\nDATA\r\nx\r\n.\r\n";
    world.converse(session, group, &["250", "250", "554"]);
    world.run_until("the end", |world| world.client.is_over(session));
    world.assert_board_is_whole();
}

#[test]
fn a_client_that_leaves_before_the_end_of_data_leaves_nothing_behind() {
    let mut world = world();
    for text in ["", "half of a mess", "line\r\n", "line\r\n.", "line\r\n.\r"] {
        let session = world.session();
        world.envelope(session, &["1@a.example", "2@b.example"]);
        world.client.send(session, text);
        world.client.close(session);
        world.run_until("the end", |world| world.front.counters().reception.sessions == 0);
    }
    assert_eq!(world.front.counters().reception.received, 0);
    world.assert_board_is_whole();
}

#[test]
fn a_mail_whose_client_leaves_behind_the_dot_is_kept() {
    let mut world = world();
    let session = world.session();
    world.shard.queue(Q0).mode = Mode::Wait;
    world.envelope(session, &["1@a.example"]);
    world.client.send(session, "x\r\n.\r\n");
    world.run_until("the store", |world| !world.shard.queues[0].waiting.is_empty());
    world.client.transport.abort(session);
    world.run_until("the end", |world| world.front.counters().reception.sessions == 0);
    world.shard.commit(Q0);
    world.run_until("delivery", |world| world.next_hop.messages.len() == 1);
    assert_eq!(world.front.counters().reception.accepted, 1);
    world.run_for(Duration::from_secs(1));
    world.assert_board_is_whole();
}

#[test]
fn a_client_that_finishes_sending_still_gets_its_answer() {
    let mut world = world();
    let session = world.session();
    world.shard.queue(Q0).mode = Mode::Wait;
    world.envelope(session, &["1@a.example"]);
    world.client.send(session, "x\r\n.\r\n");
    world.client.transport.finish(session);
    world.run_until("the store", |world| !world.shard.queues[0].waiting.is_empty());
    world.run_for(Duration::from_secs(1));
    world.shard.commit(Q0);
    world.converse(session, "", &["250"]);
    world.run_until("the end", |world| world.client.is_over(session));
}

#[test]
fn room_is_reserved_before_354_and_while_content_comes() {
    let mut world = world_with(|config| config.reception.message_size_max = 1_000_000);
    let session = world.session();
    let group = "MAIL FROM:<> SIZE=200000\r\nRCPT TO:<1@a.example>\r\nDATA\r\n";
    world.converse(session, group, &["250", "250", "452"]);
    let group = "RSET\r\nMAIL FROM:<> SIZE=10\r\nRCPT TO:<1@a.example>\r\nDATA\r\n";
    world.converse(session, group, &["250", "250", "250", "354"]);
    let content = "0123456789\r\n".repeat(10_000);
    world.converse(session, &format!("{content}.\r\nNOOP\r\n"), &["452", "250"]);
    assert_eq!(world.front.counters().reception.shortages, 2);
    world.assert_board_is_whole();
    world.mail(session, &["1@a.example"], &content[..24_000]);
}

#[test]
fn what_is_wrong_in_the_content_frees_its_room_at_once() {
    let mut world = world();
    let session = world.session();
    world.envelope(session, &["1@a.example"]);
    world.client.send(session, "a\nb\r\n");
    world.run_for(Duration::from_secs(1));
    world.assert_board_is_whole();
    world.converse(session, ".\r\n", &["550"]);
}

#[test]
fn ports_follow_the_queues() {
    let mut world = world();
    let session = world.session();
    let address = world.front.local_addresses()[0];
    for queue in 0..3 {
        world.board.set_accepting(QueueIndex(queue), false);
    }
    world.run_for(Duration::from_millis(10));
    assert!(world.front.local_addresses().is_empty());
    let now = world.now();
    let refused = world.client.connect(now, address);
    world.run_until("a refused connection", |world| world.client.is_over(refused));
    world.converse(session, "MAIL FROM:<>\r\nRCPT TO:<1@a.example>\r\n", &["250", "451"]);
    world.board.set_accepting(Q1, true);
    world.run_for(Duration::from_millis(10));
    assert_eq!(world.front.local_addresses(), [address]);
    world.session();
    world.converse(session, "RCPT TO:<1@b.example>\r\n", &["250"]);
    assert_eq!(world.front.counters().reception.ports_closed, 1);
}

#[test]
fn stopping_finishes_what_is_under_way() {
    let mut world = world();
    let idle = world.session();
    let busy = world.session();
    world.shard.queue(Q0).mode = Mode::Wait;
    world.envelope(busy, &["1@a.example"]);
    world.front.stop();
    world.converse(idle, "", &["421"]);
    world.run_until("the idle session's end", |world| world.client.is_over(idle));
    assert!(world.front.local_addresses().is_empty());
    world.client.send(busy, "x\r\n.\r\n");
    world.run_until("the store", |world| !world.shard.queues[0].waiting.is_empty());
    assert!(!world.front.is_stopped());
    world.shard.commit(Q0);
    world.converse(busy, "", &["250", "421"]);
    world.run_until("the end", |world| world.front.is_stopped());
    assert_eq!(world.shard.queue(Q0).ready.len(), 1, "what was not delivered stays queued");
}

#[test]
fn silent_clients_and_too_many_clients_get_421() {
    let mut world = world();
    let sessions: Vec<_> = (0..10).map(|_| world.session()).collect();
    let surplus = world.connect();
    world.converse(surplus, "", &["421"]);
    world.converse(sessions[0], "", &["421"]);
    world.run_until("the end", |world| world.front.counters().reception.sessions == 0);
    assert_eq!(world.front.counters().reception.sessions_timed_out, 10);
}

#[test]
fn a_session_has_its_number_of_messages() {
    let mut world = world_with(|config| config.reception.messages_per_session_max = 2);
    let session = world.session();
    world.mail(session, &["1@a.example"], "1\r\n");
    world.mail(session, &["1@a.example"], "2\r\n");
    world.converse(session, "MAIL FROM:<>\r\n", &["421"]);
}

#[test]
fn a_mail_to_postmaster_goes_where_our_name_is_routed() {
    let mut world = world_with(|config| {
        config.reception.routes.add("gw.example", Q1);
    });
    let session = world.session();
    world.mail(session, &["Postmaster"], "x\r\n");
    world.run_until("delivery", |world| world.shard.queues[1].settled.len() == 1);
}

use super::*;
use alloc::string::String;
use alloc::vec;
use proptest::prelude::*;

const OFFER: &str = "250-mx\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n";
const OFFER_ALL: &str = "250-mx\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
     250-MT-PRIORITY\r\n250 DSN\r\n";

fn session(protocol: Protocol, pipeline_transactions: bool) -> ClientSession {
    let hostname = "gw.example".into();
    ClientSession::new(ClientOptions { hostname, protocol, pipeline_transactions })
}

fn ready(offer: &str, pipeline_transactions: bool) -> ClientSession {
    ready_for(Protocol::Smtp, offer, pipeline_transactions)
}

fn ready_for(protocol: Protocol, offer: &str, pipeline_transactions: bool) -> ClientSession {
    let mut session = session(protocol, pipeline_transactions);
    session.handle_bytes(b"220 mx\r\n");
    sent(&mut session);
    session.handle_bytes(offer.as_bytes());
    assert_eq!(session.poll_event(), Some(ClientEvent::Ready));
    session
}

/// Lets the session send all that it has before each line of replies.
fn answer(session: &mut ClientSession, replies: &str) {
    for reply in replies.split_inclusive('\n') {
        sent(session);
        session.handle_bytes(reply.as_bytes());
    }
}

fn submit(session: &mut ClientSession, key: u64, recipients: &[&str], content: &'static str) {
    let recipients: Vec<_> = recipients.iter().map(|address| recipient(address)).collect();
    session.submit(NewMail {
        content: Bytes::from_static(content.as_bytes()),
        leading_dot: content.contains("\n.") || content.starts_with('.'),
        eight_bit: !content.is_ascii(),
        ..plain(key, "a@b", &recipients)
    });
}

/// A mail of which the client said nothing.
fn plain<'a>(
    key: u64,
    reverse_path: &'a str,
    recipients: &'a [NewRecipient<'a>],
) -> NewMail<'a, impl ExactSizeIterator<Item = NewRecipient<'a>> + Clone> {
    NewMail {
        key,
        reverse_path,
        recipients: recipients.iter().copied(),
        content: Bytes::new(),
        leading_dot: false,
        eight_bit: false,
        utf8: false,
        ret: None,
        envelope_id: None,
        priority: None,
    }
}

fn recipient(address: &str) -> NewRecipient<'_> {
    NewRecipient { address, notify: None, original: None }
}

/// All that the session wants to send, as sent.
fn sent(session: &mut ClientSession) -> String {
    let wire: Vec<u8> = session.output().slices().flatten().copied().collect();
    session.consume_output(wire.len());
    String::from_utf8(wire).unwrap()
}

fn finished(session: &mut ClientSession) -> Finished {
    match session.poll_event() {
        Some(ClientEvent::Finished(finished)) => finished,
        other => panic!("{other:?}"),
    }
}

/// The results, one letter for each recipient; `-` when it was not tried, `?` when MAIL was.
fn letters(session: &mut ClientSession) -> String {
    let results = match finished(session).results {
        Results::Recipients(results) => results,
        Results::NotTried { refusal: None } => return "-".into(),
        Results::NotTried { refusal: Some(_) } => return "?".into(),
    };
    let letter = |result: RecipientResult| match result {
        RecipientResult::Delivered => 'D',
        RecipientResult::Transient(_) => 'T',
        RecipientResult::Permanent(_) => 'P',
        RecipientResult::Unknown => 'U',
    };
    results.into_iter().map(letter).collect()
}

#[test]
fn with_pipelining_a_group_goes_out_at_once() {
    let mut session = ready(OFFER, false);
    submit(&mut session, 7, &["c@d", "e@f"], "..\u{e9}\r\n");
    assert_eq!(
        sent(&mut session),
        "MAIL FROM:<a@b> SIZE=6 BODY=8BITMIME\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n"
    );
    session.handle_bytes(b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n354 go\r\n");
    assert_eq!(session.waiting(), Waiting::ContentSent);
    assert_eq!(sent(&mut session), "...\u{e9}\r\n.\r\n");
    assert_eq!(session.waiting(), Waiting::DataEnd);
    session.handle_bytes(b"250 2.0.0 taken\r\n");
    let finished = finished(&mut session);
    assert_eq!((finished.key, finished.reply.unwrap().code), (7, 250));
    let Results::Recipients(results) = finished.results else { panic!() };
    assert_eq!(results[0], RecipientResult::Delivered);
    assert!(matches!(&results[1], RecipientResult::Permanent(reply) if reply.code == 550));
    assert!(session.can_submit());
}

#[test]
fn without_pipelining_each_command_waits() {
    let mut session = session(Protocol::Smtp, true);
    session.handle_bytes(b"220 mx\r\n");
    assert_eq!(sent(&mut session), "EHLO gw.example\r\n");
    session.handle_bytes(b"500 what\r\n");
    assert_eq!(sent(&mut session), "HELO gw.example\r\n");
    session.handle_bytes(b"250 mx\r\n");
    assert_eq!(session.poll_event(), Some(ClientEvent::Ready));
    submit(&mut session, 1, &["c@d", "e@f"], "x\r\n");
    let steps = [
        ("MAIL FROM:<a@b>\r\n", "250 ok\r\n"),
        ("RCPT TO:<c@d>\r\n", "450 later\r\n"),
        ("RCPT TO:<e@f>\r\n", "251 ok\r\n"),
        ("DATA\r\n", "354 go\r\n"),
        ("x\r\n.\r\n", "250 ok\r\n"),
    ];
    for (command, reply) in steps {
        assert_eq!(sent(&mut session), command);
        assert!(!session.can_submit());
        session.handle_bytes(reply.as_bytes());
    }
    assert_eq!(letters(&mut session), "TD");
    session.quit();
    assert_eq!(sent(&mut session), "QUIT\r\n");
    session.handle_bytes(b"221 bye\r\n");
    assert_eq!(session.poll_event(), Some(ClientEvent::Over));
}

#[test]
fn replies_decide_for_each_recipient() {
    let table = [
        ("250\r\n250\r\n250\r\n354\r\n250\r\n", "DD"),
        ("250\r\n250\r\n250\r\n354\r\n452 4.3.1 full\r\n", "TT"),
        ("250\r\n550\r\n250\r\n354\r\n554\r\n", "PP"),
        ("250\r\n550\r\n450\r\n354\r\n250\r\n", "PT"),
        ("250\r\n552\r\n552 5.2.2 mailbox full\r\n554\r\n", "TP"),
        ("250\r\n250\r\n550\r\n451\r\n", "TP"),
        ("550\r\n503\r\n503\r\n503\r\n", "PP"),
        ("451\r\n250\r\n503\r\n503\r\n", "?"),
        ("451 4.1.8 who\r\n250\r\n503\r\n503\r\n", "TT"),
        ("421\r\n", "?"),
        ("250\r\n421 bye\r\n", "TT"),
        ("250\r\n550\r\n421 bye\r\n", "PT"),
        ("250\r\n250\r\n250\r\n354\r\n421\r\n", "TT"),
        ("250\r\n250\r\n250\r\n354\r\n354\r\n", "UU"),
        ("250\r\n250\r\n250\r\n354\r\nnonsense\r\n", "UU"),
        ("250\r\n250\r\n250\r\n250\r\n", "TT"),
        ("354\r\n", "?"),
    ];
    for (replies, expected) in table {
        let mut session = ready(OFFER, false);
        submit(&mut session, 1, &["c@d", "e@f"], "x\r\n");
        answer(&mut session, replies);
        assert_eq!(letters(&mut session), expected, "{replies:?}");
    }
}

#[test]
fn a_refused_transaction_is_reset_before_the_next() {
    let mut session = ready(OFFER, false);
    submit(&mut session, 1, &["c@d"], "x\r\n");
    sent(&mut session);
    session.handle_bytes(b"250\r\n550\r\n554 no valid recipients\r\n");
    assert_eq!(letters(&mut session), "P");
    assert!(!session.can_submit());
    assert_eq!(sent(&mut session), "RSET\r\n");
    session.handle_bytes(b"250\r\n");
    assert!(session.can_submit());
}

#[test]
fn a_354_for_nobody_is_ended_with_an_empty_message() {
    // RFC 2920 §3.1.
    let mut session = ready(OFFER, false);
    submit(&mut session, 1, &["c@d"], "secret\r\n");
    sent(&mut session);
    session.handle_bytes(b"250\r\n550\r\n354\r\n");
    assert_eq!(sent(&mut session), ".\r\n");
    session.handle_bytes(b"250\r\n");
    assert_eq!(letters(&mut session), "P");
    assert!(session.can_submit());
}

#[test]
fn the_next_transaction_follows_the_end_of_data() {
    let mut session = ready(OFFER, true);
    submit(&mut session, 1, &["c@d"], "x\r\n");
    assert!(!session.can_submit());
    sent(&mut session);
    session.handle_bytes(b"250\r\n250\r\n354\r\n");
    assert!(session.can_submit());
    submit(&mut session, 2, &["e@f"], "y\r\n");
    assert!(!session.can_submit());
    assert_eq!(sent(&mut session), "x\r\n.\r\nMAIL FROM:<a@b> SIZE=3\r\nRCPT TO:<e@f>\r\nDATA\r\n");
    session.handle_bytes(b"250\r\n250\r\n250\r\n354\r\n");
    assert_eq!(letters(&mut session), "D");
    assert_eq!(sent(&mut session), "y\r\n.\r\n");
    session.handle_bytes(b"250\r\n");
    assert_eq!(letters(&mut session), "D");
}

#[test]
fn a_loss_tells_what_is_known() {
    let mut overlapped = ready(OFFER, true);
    submit(&mut overlapped, 1, &["c@d"], "x\r\n");
    sent(&mut overlapped);
    overlapped.handle_bytes(b"250\r\n250\r\n354\r\n");
    submit(&mut overlapped, 2, &["e@f"], "y\r\n");
    sent(&mut overlapped);
    overlapped.handle_loss(LossReason::Closed);
    assert_eq!(letters(&mut overlapped), "U");
    assert_eq!(letters(&mut overlapped), "-");
    assert_eq!(overlapped.poll_event(), Some(ClientEvent::Lost(LossReason::Closed)));

    let mut unsent = ready(OFFER, false);
    submit(&mut unsent, 1, &["c@d"], "x\r\n");
    sent(&mut unsent);
    unsent.handle_bytes(b"250\r\n250\r\n354\r\n");
    unsent.consume_output(5);
    unsent.handle_loss(LossReason::TimedOut);
    assert_eq!(letters(&mut unsent), "T");
}

#[test]
fn a_reused_connection_that_dies_says_nothing_about_the_message() {
    let mut session = ready(OFFER, false);
    submit(&mut session, 1, &["c@d"], "x\r\n");
    sent(&mut session);
    answer(&mut session, "250\r\n250\r\n354\r\n250\r\n");
    assert_eq!(letters(&mut session), "D");
    assert!(session.has_served());
    submit(&mut session, 2, &["c@d"], "x\r\n");
    session.handle_bytes(b"421 idle for too long\r\n");
    assert_eq!(letters(&mut session), "-", "MAIL had not left");
    assert!(matches!(session.poll_event(), Some(ClientEvent::Lost(LossReason::ShutDown(_)))));
}

#[test]
fn the_hand_shake_may_fail() {
    let table = [
        "554 no\r\n",
        "450 no\r\n",
        "421 no\r\n",
        "220 a\r\n450 no\r\n",
        "220 a\r\n500 a\r\n550 b\r\n",
        "hi\r\n",
    ];
    for replies in table {
        let mut session = session(Protocol::Smtp, false);
        answer(&mut session, replies);
        assert!(matches!(session.poll_event(), Some(ClientEvent::Lost(_))), "{replies:?}");
        assert_eq!(session.waiting(), Waiting::Nothing);
    }
}

#[test]
fn what_the_server_cannot_take_fails_before_mail() {
    let mut session = ready("250-mx\r\n250 SIZE 5\r\n", false);
    submit(&mut session, 1, &["c@d", "e@f"], "123456\r\n");
    assert_eq!(letters(&mut session), "PP");
    submit(&mut session, 2, &["c@d"], "\u{e9}\r\n");
    let Results::Recipients(results) = finished(&mut session).results else { panic!() };
    let RecipientResult::Permanent(reply) = &results[0] else { panic!() };
    assert_eq!(reply.enhanced, Some(EnhancedCode(5, 6, 3)));
    assert_eq!(sent(&mut session), "");
    assert!(session.can_submit());
}

#[test]
fn after_quit_nothing_is_a_loss() {
    let endings: [fn(&mut ClientSession); 4] = [
        |session| session.handle_bytes(b"221 bye\r\n"),
        |session| session.handle_bytes(b"nonsense\r\n"),
        |session| session.handle_loss(LossReason::Closed),
        |session| session.handle_loss(LossReason::TimedOut),
    ];
    for end in endings {
        let mut session = ready(OFFER, false);
        session.quit();
        assert_eq!(session.waiting(), Waiting::Goodbye);
        end(&mut session);
        assert_eq!(session.poll_event(), Some(ClientEvent::Over));
        assert_eq!(session.poll_event(), None);
    }
}

#[test]
fn parameters_go_where_they_are_offered() {
    let told = NewRecipient {
        address: "c@d",
        notify: Some(Notify { success: true, failure: false, delay: true }),
        original: Some("utf-8;\u{e9}+2B@d"),
    };
    let untold = NewRecipient { address: "e@f", notify: Some(Notify::NEVER), original: None };
    let mail = || NewMail {
        key: 1,
        reverse_path: "a@b",
        recipients: [told, untold].into_iter(),
        content: Bytes::from_static(b"x\r\n\r\ny"),
        leading_dot: false,
        eight_bit: true,
        utf8: true,
        ret: Some(Return::Headers),
        envelope_id: Some("id+3D1"),
        priority: Some(-3),
    };
    let mut all = ready(OFFER_ALL, false);
    all.submit(mail());
    assert_eq!(
        sent(&mut all),
        "MAIL FROM:<a@b> SIZE=8 BODY=8BITMIME RET=HDRS ENVID=id+3D1 MT-PRIORITY=-3\r\n\
         RCPT TO:<c@d> NOTIFY=SUCCESS,DELAY ORCPT=utf-8;\\x{E9}+2B@d\r\n\
         RCPT TO:<e@f> NOTIFY=NEVER\r\nDATA\r\n",
        "a header in ASCII needs no SMTPUTF8, whatever the client said"
    );
    answer(&mut all, "250\r\n250\r\n250\r\n354\r\n250\r\n");
    assert!(finished(&mut all).dsn_passed_on);

    let mut none = ready("250 mx\r\n", false);
    none.submit(mail());
    assert_eq!(sent(&mut none), "MAIL FROM:<a@b>\r\n");
    none.handle_bytes(b"250\r\n");
    assert_eq!(sent(&mut none), "RCPT TO:<c@d>\r\n");
    answer(&mut none, "250\r\n250\r\n354\r\n250\r\n");
    assert!(!finished(&mut none).dsn_passed_on);
}

#[test]
fn what_is_8_bit_is_declared_though_the_client_did_not() {
    let mut session = ready(OFFER, false);
    let content = Bytes::from_static("S: \u{e9}\r\n\r\nx\r\n".as_bytes());
    session.submit(NewMail { content, ..plain(1, "a@b", &[recipient("c@d")]) });
    assert!(sent(&mut session).starts_with("MAIL FROM:<a@b> SIZE=12 BODY=8BITMIME\r\n"));
}

#[test]
fn utf8_goes_only_where_it_is_offered() {
    let (ascii, other) = ("S: x\r\n\r\nb\r\n", "S: \u{e9}\r\n\r\nb\r\n");
    let body_only = "S: x\r\n\r\n\u{e9}\r\n";
    // Whether SMTPUTF8 is said where it is offered, the results elsewhere, and their code.
    let table = [
        ("a@b", "c@d", ascii, false, "D", 0),
        ("a@b", "c@d", body_only, false, "D", 0),
        ("a@b", "c@d", other, true, "P", 9),
        ("\u{e9}@b", "c@d", ascii, true, "P", 7),
        ("a@b", "\u{e9}@d", ascii, true, "P", 7),
    ];
    for (from, to, content, is_needed, elsewhere, detail) in table {
        let content = Bytes::copy_from_slice(content.as_bytes());
        let recipients = [recipient(to)];
        let mail =
            || NewMail { content: content.clone(), utf8: true, ..plain(1, from, &recipients) };
        let mut session = ready(OFFER_ALL, false);
        session.submit(mail());
        assert_eq!(sent(&mut session).contains(" SMTPUTF8\r\n"), is_needed);
        let mut session = ready(OFFER, false);
        session.submit(mail());
        answer(&mut session, "250\r\n250\r\n354\r\n250\r\n");
        let Results::Recipients(results) = finished(&mut session).results else { panic!() };
        match &results[0] {
            RecipientResult::Delivered => assert_eq!(elsewhere, "D"),
            RecipientResult::Permanent(reply) => {
                assert_eq!((elsewhere, reply.enhanced), ("P", Some(EnhancedCode(5, 6, detail))));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_recipient_that_the_server_cannot_be_given_does_not_hold_the_others_back() {
    for offer in [OFFER, "250 mx\r\n"] {
        let mut session = ready(offer, false);
        submit(&mut session, 1, &["c@d", "\u{e9}@d", "e@f"], "x\r\n");
        answer(&mut session, "250\r\n250\r\n550\r\n354\r\n250\r\n");
        assert_eq!(letters(&mut session), "DPP");
    }
}

#[test]
fn lmtp_answers_for_each_accepted_recipient() {
    let table = [
        ("250\r\n250\r\n250\r\n354\r\n250\r\n250\r\n", "DD"),
        ("250\r\n250\r\n250\r\n354\r\n452 4.2.2 full\r\n250\r\n", "TD"),
        ("250\r\n550\r\n250\r\n354\r\n250\r\n", "PD"),
        ("250\r\n550\r\n550\r\n503\r\n", "PP"),
        ("250\r\n550\r\n550\r\n354\r\n", "PP"),
        // Too few answers.
        ("250\r\n250\r\n250\r\n354\r\n250\r\nx", "DU"),
        ("250\r\n250\r\n250\r\n354\r\n554\r\nx", "PU"),
        ("250\r\n250\r\n250\r\n354\r\n421\r\n", "TU"),
        ("250\r\n250\r\n250\r\n354\r\n250\r\n421\r\n", "DT"),
    ];
    for (replies, expected) in table {
        let mut session = ready_for(Protocol::Lmtp, OFFER, false);
        submit(&mut session, 1, &["c@d", "e@f"], "x\r\n");
        answer(&mut session, replies);
        session.handle_loss(LossReason::Closed);
        assert_eq!(letters(&mut session), expected, "{replies:?}");
    }
}

#[test]
fn lmtp_says_lhlo_and_knows_no_helo() {
    let mut session = session(Protocol::Lmtp, true);
    session.handle_bytes(b"220 mailbox\r\n");
    assert_eq!(sent(&mut session), "LHLO gw.example\r\n");
    session.handle_bytes(b"500 what\r\n");
    assert!(matches!(session.poll_event(), Some(ClientEvent::Lost(LossReason::Refused(_)))));
}

#[test]
fn lmtp_transactions_overlap_behind_the_end_of_data() {
    let mut session = ready_for(Protocol::Lmtp, OFFER, true);
    submit(&mut session, 1, &["c@d", "e@f"], "x\r\n");
    answer(&mut session, "250\r\n250\r\n250\r\n354\r\n");
    submit(&mut session, 2, &["g@h"], "y\r\n");
    answer(&mut session, "250\r\n450\r\n250\r\n250\r\n354\r\n250\r\n");
    assert_eq!(letters(&mut session), "DT");
    assert_eq!(letters(&mut session), "D");
    assert!(session.is_idle());
}

#[test]
fn an_answer_before_its_question_is_never_taken() {
    // All at once, before anything has left: what the transaction becomes.
    let table = [
        ("250\r\n", "-"),
        ("250\r\n250\r\n354\r\n250\r\n", "-"),
        ("550\r\n", "-"),
        ("421\r\n", "-"),
    ];
    for (replies, expected) in table {
        let mut session = ready(OFFER, false);
        submit(&mut session, 1, &["c@d"], "x\r\n");
        session.handle_bytes(replies.as_bytes());
        assert_eq!(letters(&mut session), expected, "{replies:?}");
        assert!(matches!(session.poll_event(), Some(ClientEvent::Lost(_))));
    }
    let mut idle = ready(OFFER, false);
    idle.handle_bytes(b"250 hello?\r\n");
    assert_eq!(idle.poll_event(), Some(ClientEvent::Lost(LossReason::Malformed)));
}

#[test]
fn content_may_be_refused_but_not_accepted_before_its_end() {
    let table = [
        ("250 taken\r\n", "T", LossReason::Malformed),
        ("354 go on\r\n", "T", LossReason::Malformed),
        ("552 5.3.4 too much\r\n", "P", LossReason::Interrupted),
        ("451 4.3.0 later\r\n", "T", LossReason::Interrupted),
    ];
    for protocol in [Protocol::Smtp, Protocol::Lmtp] {
        for (reply, expected, reason) in &table {
            let mut session = ready_for(protocol, OFFER, true);
            submit(&mut session, 1, &["c@d"], "a long content\r\n");
            answer(&mut session, "250\r\n250\r\n354\r\n");
            session.consume_output(5);
            submit(&mut session, 2, &["e@f"], "x\r\n");
            session.handle_bytes(reply.as_bytes());
            assert_eq!(letters(&mut session), *expected, "{reply:?}");
            assert_eq!(letters(&mut session), "-", "what waits behind is untouched");
            assert_eq!(session.poll_event(), Some(ClientEvent::Lost(reason.clone())));
        }
    }
}

#[test]
fn a_trickling_reply_is_no_progress() {
    let mut session = ready(OFFER, false);
    submit(&mut session, 1, &["c@d"], "x\r\n");
    sent(&mut session);
    let before = (session.progress(), session.waiting());
    session.handle_bytes(b"250-2.1.0 o\r\n250");
    assert_eq!((session.progress(), session.waiting()), before);
    session.handle_bytes(b" k\r\n");
    assert!(session.progress() > before.0);
}

#[test]
fn limits_are_told() {
    let session = ready("250-mx\r\n250 LIMITS RCPTMAX=7 MAILMAX=2\r\n", false);
    let limits = session.capabilities().limits;
    assert_eq!(limits.recipients_max.map(|max| max.get()), Some(7));
    assert_eq!(limits.transactions_max.map(|max| max.get()), Some(2));
}

/// Drives a session against any bytes; returns all that it said and sent.
fn drive(protocol: Protocol, pieces: &[&[u8]]) -> (Vec<String>, usize) {
    let mut session = session(protocol, true);
    let mut log = Vec::new();
    let (mut submitted, mut finished) = (0, 0);
    for piece in pieces {
        for byte in piece.iter() {
            session.handle_bytes(&[*byte]);
            while session.can_submit() && submitted < 3 {
                submitted += 1;
                submit(&mut session, submitted, &["c@d", "e@f"], "x\r\n");
            }
            sent(&mut session);
        }
    }
    session.handle_loss(LossReason::Closed);
    while let Some(event) = session.poll_event() {
        finished += usize::from(matches!(event, ClientEvent::Finished(_)));
        log.push(alloc::format!("{event:?}"));
    }
    assert_eq!(u64::try_from(finished).unwrap(), submitted, "each has exactly one outcome");
    (log, finished)
}

proptest! {
    #[test]
    fn every_transaction_finishes_once_whatever_the_server_says(
        replies in prop::collection::vec(
            prop::sample::select(vec!["250\r\n", "354\r\n", "450\r\n", "550\r\n", "421\r\n", "250-x\r\n", "?"]),
            0..20,
        ),
    ) {
        let replies = replies.concat();
        for protocol in [Protocol::Smtp, Protocol::Lmtp] {
            drive(protocol, &[b"220 mx\r\n", OFFER.as_bytes(), replies.as_bytes()]);
        }
    }

    #[test]
    fn random_bytes_do_no_harm(input in prop::collection::vec(any::<u8>(), 0..500)) {
        drive(Protocol::Smtp, &[&input]);
        drive(Protocol::Lmtp, &[b"220 mx\r\n", OFFER.as_bytes(), &input]);
    }

    #[test]
    fn any_split_of_replies_gives_the_same_outcome(at in 0usize..80) {
        let replies = b"250 2.1.0 ok\r\n250-2.1.5 a\r\n250 2.1.5 b\r\n550 5.1.1 no\r\n354 go\r\n";
        let at = at.min(replies.len());
        let outcome = |pieces: [&[u8]; 2]| {
            let mut session = ready(OFFER, false);
            submit(&mut session, 1, &["c@d", "e@f"], "x\r\n");
            sent(&mut session);
            for piece in pieces {
                session.handle_bytes(piece);
            }
            sent(&mut session);
            session.handle_bytes(b"250 2.0.0 taken\r\n");
            letters(&mut session)
        };
        prop_assert_eq!(outcome([replies, b""]), "DP");
        prop_assert_eq!(outcome([&replies[..at], &replies[at..]]), "DP");
    }
}

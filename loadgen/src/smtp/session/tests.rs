//! The client's end of a session against replies written by hand.

use super::*;
use crate::content::{Generator, GeneratorConfig, SizeMix};
use proptest::prelude::*;

const GREETING: &str = "220 hello\r\n250-here\r\n250-PIPELINING\r\n250-SIZE 1\r\n250 8BITMIME\r\n";

fn work(recipients: u16) -> Work {
    sized_work(recipients, 700)
}

fn sized_work(recipients: u16, size_bytes: usize) -> Work {
    let mut generator = Generator::new(GeneratorConfig {
        run: 1,
        seed: 2,
        sizes: SizeMix::only(size_bytes),
        domains: vec!["a.example".into()],
        recipients_per_mail: recipients,
        ..GeneratorConfig::default()
    });
    let plan = generator.plan();
    let mut content = Vec::new();
    generator.write(&plan, &mut content);
    Work::new(plan, content, Instant::ZERO)
}

/// The verbs of what was sent since the last call, all of it taken by the transport.
fn sent(session: &mut Session) -> String {
    let text = String::from_utf8_lossy(&session.out).into_owned();
    session.note_sent(session.out.len(), Instant::ZERO);
    let commands = ["EHLO", "MAIL", "RCPT", "DATA\r", "BDAT", "RSET", "QUIT"];
    let lines = text.split_inclusive("\r\n");
    let verb = |line: &str| match line {
        ".\r\n" => Some("dot".to_owned()),
        _ => commands.iter().find(|c| line.starts_with(**c)).map(|c| c.trim().to_owned()),
    };
    lines.filter_map(verb).collect::<Vec<_>>().join(" ")
}

fn opened(pipelining: bool) -> Session {
    greeted(Settings { pipelining, ..Settings::default() }, GREETING)
}

fn greeted(settings: Settings, greeting: &str) -> Session {
    let mut session = Session::new(settings);
    session.handle_bytes(greeting.as_bytes());
    assert_eq!(sent(&mut session), "EHLO");
    assert!(session.is_free());
    session
}

#[test]
fn commands_go_one_by_one_without_pipelining() {
    let mut session = opened(false);
    session.start(work(2));
    for (answer, then) in [
        ("", "MAIL"),
        ("250 ok\r\n", "RCPT"),
        ("250 ok\r\n", "RCPT"),
        ("250 ok\r\n", "DATA"),
        ("354 go\r\n", "dot"),
        ("250 ok\r\n", ""),
    ] {
        session.handle_bytes(answer.as_bytes());
        assert_eq!(sent(&mut session), then);
    }
    let (work, ending) = session.poll_ended().unwrap();
    assert_eq!(ending, Ending::Answered(250));
    assert_eq!(work.recipients, [Recipient::InTransaction; 2]);
    assert!(work.dot_sent.is_some() && session.is_free());
}

#[test]
fn parameters_go_behind_mail_and_rcpt() {
    let settings = Settings {
        pipelining: true,
        mail_parameters: "RET=HDRS".into(),
        recipient_parameters: "NOTIFY=NEVER".into(),
        ..Settings::default()
    };
    let mut session = greeted(settings, GREETING);
    session.start(work(1));
    let text = String::from_utf8_lossy(&session.out).into_owned();
    assert!(text.contains(" RET=HDRS\r\nRCPT TO:<") && text.contains("> NOTIFY=NEVER\r\n"));
}

#[test]
fn a_server_without_ehlo_is_greeted_by_helo() {
    let mut session = Session::new(Settings { pipelining: true, ..Settings::default() });
    session.handle_bytes(b"220 hello\r\n502 what?\r\n");
    assert!(session.out.ends_with(b"HELO client.example\r\n"));
    session.handle_bytes(b"250 hello\r\n");
    assert!(session.is_free());
    session.start(work(1));
    assert!(session.out.ends_with(b"@sender.example>\r\n"), "no extension, no parameter");
}

#[test]
fn a_second_envelope_goes_out_behind_the_data() {
    let mut session = opened(true);
    session.start(work(1));
    assert!(!session.could_send_ahead());
    assert_eq!(sent(&mut session), "MAIL RCPT DATA");
    session.handle_bytes(b"250 ok\r\n250 ok\r\n354 go\r\n");
    assert!(session.could_send_ahead());
    session.start(work(1));
    assert_eq!(sent(&mut session), "dot MAIL RCPT DATA");
    assert!(!session.could_send_ahead());
    session.handle_bytes(b"451 no\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    assert_eq!(session.poll_ended().unwrap().1, Ending::Answered(451));
    assert_eq!(sent(&mut session), "dot");
}

/// What the session sends, a little at a time, with the most that was ever waiting.
fn drain(session: &mut Session) -> (Vec<u8>, usize) {
    let (mut all, mut most) = (Vec::new(), 0);
    while session.sent < session.out.len() {
        most = most.max(session.out.len());
        let piece = (session.out.len() - session.sent).min(10_000);
        all.extend_from_slice(&session.out[session.sent..session.sent + piece]);
        session.note_sent(piece, Instant::ZERO);
    }
    (all, most)
}

#[test]
fn large_mail_is_never_there_twice() {
    let size = 8 << 20;
    for chunk in [None, Some(100_000)] {
        let greeting = GREETING.replace("250-here", "250-here\r\n250-CHUNKING");
        let mut session =
            greeted(Settings { pipelining: true, chunk, ..Settings::default() }, &greeting);
        session.start(sized_work(1, size));
        drain(&mut session);
        session.handle_bytes(b"250 ok\r\n250 ok\r\n");
        if chunk.is_none() {
            session.handle_bytes(b"354 go\r\n");
        }
        assert!(!session.could_send_ahead());
        let (wire, most) = drain(&mut session);
        assert!(most < 4 * PIECE_SIZE_BYTES, "{most}");
        assert!(session.works[0].dot_sent.is_some() && session.could_send_ahead());
        let content = session.works[0].content.clone();
        let mut expected = Vec::new();
        match chunk {
            None => data::stuff(&content, &mut expected),
            Some(chunk) => {
                for (place, piece) in (1..).zip(content.chunks(chunk)) {
                    let mark = if place * chunk >= size { " LAST" } else { "" };
                    expected
                        .extend_from_slice(format!("BDAT {}{mark}\r\n", piece.len()).as_bytes());
                    expected.extend_from_slice(piece);
                }
            }
        }
        assert!(wire == expected, "{chunk:?}");
    }
}

#[test]
fn chunks_are_answered_one_by_one_without_pipelining() {
    let greeting = GREETING.replace("250-here", "250-here\r\n250-CHUNKING");
    for (third, then) in [("250 ok\r\n", "BDAT"), ("451 no\r\n", "RSET")] {
        let mut session = greeted(Settings { chunk: Some(300), ..Settings::default() }, &greeting);
        session.start(work(1));
        for (answer, then) in
            [("", "MAIL"), ("250 ok\r\n", "RCPT"), ("250 ok\r\n", "BDAT"), (third, then)]
        {
            session.handle_bytes(answer.as_bytes());
            assert_eq!(sent(&mut session), then);
        }
        session.handle_bytes(b"250 ok\r\n");
        if then == "RSET" {
            assert_eq!(session.poll_ended().unwrap().1, Ending::Refused(451));
        } else {
            assert_eq!(sent(&mut session), "BDAT");
            session.handle_bytes(b"250 ok\r\n");
            assert_eq!(session.poll_ended().unwrap().1, Ending::Answered(250));
        }
    }
}

#[test]
fn recipients_beyond_the_limit_wait_for_the_next_transaction() {
    let limited = GREETING.replace("250-here", "250-here\r\n250-LIMITS MAILMAX=9 RCPTMAX=2");
    for pipelining in [false, true] {
        let mut session = greeted(Settings { pipelining, ..Settings::default() }, &limited);
        session.start(work(3));
        for answer in ["250 ok\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"] {
            session.handle_bytes(answer.as_bytes());
        }
        assert_eq!(sent(&mut session).matches("RCPT").count(), 2);
        session.handle_bytes(b"250 ok\r\n");
        let (work, ending) = session.poll_ended().unwrap();
        assert!(work.has_rest && ending == Ending::Answered(250));
        assert_eq!(work.recipients[2], Recipient::Pending);
    }
    // A server that says nothing beforehand shows its limit by 452.
    let mut session = opened(true);
    session.start(work(3));
    session.handle_bytes(b"250 ok\r\n250 ok\r\n250 ok\r\n452 4.5.3 enough\r\n354 go\r\n");
    sent(&mut session);
    session.handle_bytes(b"250 ok\r\n");
    let (work, _) = session.poll_ended().unwrap();
    assert_eq!((work.has_rest, work.transaction_max, session.deferred), (true, 2, (0, 1)));
}

#[test]
fn a_transaction_without_recipients_is_reset_or_ended_empty() {
    for (pipelining, answers, then) in [
        (false, "250 ok\r\n550 no\r\n", "MAIL RCPT RSET"),
        (true, "250 ok\r\n550 no\r\n503 no\r\n", "MAIL RCPT DATA RSET"),
        (true, "250 ok\r\n550 no\r\n354 go\r\n", "MAIL RCPT DATA dot"),
    ] {
        let mut session = opened(pipelining);
        session.start(work(1));
        let mut all = String::new();
        for answer in answers.split_inclusive('\n') {
            all = format!("{all} {}", sent(&mut session));
            session.handle_bytes(answer.as_bytes());
        }
        all = format!("{all} {}", sent(&mut session));
        assert_eq!(all.split_whitespace().collect::<Vec<_>>().join(" "), then);
        session.handle_bytes(b"250 ok\r\n");
        let (work, ending) = session.poll_ended().unwrap();
        assert_eq!(ending, Ending::Refused(NO_RECIPIENTS));
        assert_eq!(work.recipients, [Recipient::JustRefused(550)]);
    }
}

#[test]
fn a_refused_sender_is_not_a_refused_recipient() {
    let mut session = opened(true);
    session.start(work(1));
    session.handle_bytes(b"452 full\r\n503 no\r\n503 no\r\n250 reset\r\n");
    let (work, ending) = session.poll_ended().unwrap();
    assert_eq!((ending, work.recipients[0]), (Ending::Refused(452), Recipient::Pending));
}

#[test]
fn a_connection_lost_behind_the_dot_gives_the_mail_back() {
    let mut session = opened(false);
    session.start(work(1));
    session.handle_bytes(b"250 ok\r\n250 ok\r\n354 go\r\n");
    let half = session.out.len() / 2;
    session.note_sent(half, Instant::ZERO);
    assert!(session.works[0].dot_sent.is_none(), "half of the data is no dot");
    session.note_sent(session.out.len() - half, Instant::ZERO);
    assert!(session.take_works()[0].dot_sent.is_some() && session.is_over());
}

#[test]
fn an_answer_before_the_end_of_the_data_ends_the_session() {
    for (answer, ended) in [("250 ok\r\n", None), ("552 no\r\n", Some(Ending::Answered(552)))] {
        let mut session = opened(false);
        session.start(work(1));
        session.handle_bytes(b"250 ok\r\n250 ok\r\n354 go\r\n");
        session.handle_bytes(answer.as_bytes());
        assert!(session.is_over());
        assert_eq!(session.poll_ended().map(|(_, ending)| ending), ended);
    }
}

proptest! {
    #[test]
    fn no_answer_stops_the_process(
        codes in prop::collection::vec(
            prop_oneof![
                Just("250 ok"), Just("354 go"), Just("451 no"), Just("550 no"), Just("421 bye")
            ],
            0..40,
        ),
        pipelining: bool,
        slow: bool,
        chunk in prop::option::of(200_usize..1000),
    ) {
        let greeting = GREETING.replace("250-here", "250-here\r\n250-CHUNKING");
        let mut session = greeted(Settings { pipelining, chunk, ..Settings::default() }, &greeting);
        for code in codes {
            if session.is_free() || session.could_send_ahead() {
                session.start(work(2));
            }
            if slow {
                session.note_sent((session.out.len() - session.sent) / 2, Instant::ZERO);
            } else {
                sent(&mut session);
            }
            session.handle_bytes(format!("{code}\r\n").as_bytes());
            while session.poll_ended().is_some() {}
        }
    }
}

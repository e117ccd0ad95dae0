//! Dialogues with a session, good and bad ones.

use super::*;
use proptest::prelude::*;
use tcpstack::Instant;

/// Recipients, content if it was seen, and what was answered to whom.
type Mail = (Vec<Box<str>>, Option<Vec<u8>>, Vec<Outcome>);

/// Does the faults in its list, one in each phase, and notes what it is told.
#[derive(Default)]
struct Scripted {
    /// Done in this order, each when its phase comes.
    faults: Vec<(Phase, Fault)>,
    mails: Vec<Mail>,
    refused: Vec<(String, Outcome)>,
    doubts: Vec<Box<str>>,
    violations: Vec<Violation>,
}

impl Judge for Scripted {
    fn draw(&mut self, phase: Phase) -> Option<Fault> {
        let next = self.faults.first().is_some_and(|fault| fault.0 == phase);
        next.then(|| self.faults.remove(0).1)
    }
    fn draw_below(&mut self, _end: u64) -> u64 {
        0
    }
    fn handle_violation(&mut self, violation: Violation, _what: &str) {
        self.violations.push(violation);
    }
    fn handle_refused_mail(&mut self, reverse_path: &str, outcome: Outcome) {
        self.refused.push((reverse_path.into(), outcome));
    }
    fn handle_refused_recipient(&mut self, _reverse_path: &str, address: &str, outcome: Outcome) {
        self.refused.push((address.into(), outcome));
    }
    fn handle_mail(&mut self, envelope: &Envelope, content: Option<&[u8]>, outcomes: &[Outcome]) {
        let content = content.map(<[u8]>::to_vec);
        self.mails.push((envelope.recipients.clone(), content, outcomes.to_vec()));
    }
    fn handle_doubt(&mut self, envelope: &Envelope) {
        self.doubts.extend(envelope.recipients.clone());
    }
}

fn settings() -> Settings {
    Settings { size_bytes_max: 1000, offer: Offer::default(), lmtp: false, recipients_max: None }
}

fn offering(with: &[&str], without: &[&str]) -> Settings {
    let mut settings = settings();
    with.iter().for_each(|name| settings.offer.with(name).unwrap());
    without.iter().for_each(|name| settings.offer.without(name).unwrap());
    settings
}

fn codes(session: &Session) -> String {
    let text = String::from_utf8_lossy(session.output.unsent()).into_owned();
    let last_lines = text.lines().filter(|line| line.as_bytes().get(3) == Some(&b' '));
    last_lines.map(|line| &line[..3]).collect::<Vec<_>>().join(" ")
}

/// Sends piece by piece, and answers the codes of all replies.
fn talk(
    settings: Settings,
    faults: &[(Phase, Fault)],
    pieces: &[&str],
) -> (String, Scripted, Session) {
    let mut judge = Scripted { faults: faults.to_vec(), ..Scripted::default() };
    let mut session = Session::new(settings, &mut judge);
    for piece in pieces {
        session.handle_bytes(piece.as_bytes(), &mut judge);
    }
    (codes(&session), judge, session)
}

const ENVELOPE: [&str; 4] =
    ["EHLO me\r\n", "MAIL FROM:<a@b>\r\n", "RCPT TO:<c@d>\r\n", "RCPT TO:<e@f>\r\n"];

/// One mail to two recipients, each command for itself.
fn one_mail(settings: Settings, faults: &[(Phase, Fault)]) -> (String, Scripted, Session) {
    let pieces = [&ENVELOPE[..], &["DATA\r\n", "x\r\n", ".\r\n", "QUIT\r\n"]].concat();
    talk(settings, faults, &pieces)
}

const DIALOGUE: &[u8] = b"EHLO me\r\nMAIL FROM:<a@b> SIZE=9 BODY=8BITMIME\r\nRCPT TO:<c@d>\r\n\
    rcpt to:<e@f>\r\nDATA\r\n..x\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<g@h>\r\nBDAT 3\r\n.\r\nBDAT 2 LAST\r\n\r\n\
    QUIT\r\n";

proptest! {
    #[test]
    fn a_dialogue_is_understood_at_any_split(cuts in prop::collection::vec(0_usize..20, 0..99)) {
        let mut judge = Scripted::default();
        let mut session = Session::new(offering(&["chunking"], &[]), &mut judge);
        let (mut rest, mut cut) = (DIALOGUE, cuts.iter());
        while !rest.is_empty() {
            let size = (1 + cut.next().copied().unwrap_or(0)).min(rest.len());
            session.handle_bytes(&rest[..size], &mut judge);
            rest = &rest[size..];
        }
        prop_assert!(session.is_ending());
        prop_assert_eq!(codes(&session), "220 250 250 250 250 354 250 250 250 250 250 221");
        let accepted = |count| vec![Outcome::Accepted; count];
        let first = (vec!["c@d".into(), "e@f".into()], Some(b".x\r\n".to_vec()), accepted(2));
        prop_assert_eq!(&judge.mails[0], &first);
        prop_assert_eq!(&judge.mails[1], &(vec!["g@h".into()], Some(b".\r\n\r\n".to_vec()), accepted(1)));
        // Too early, if at all, was what came behind EHLO and DATA.
        prop_assert!(judge.violations.iter().all(|of| *of == Violation::Pipelined));
    }

    #[test]
    fn random_bytes_and_faults_harm_nothing(
        pieces in prop::collection::vec(prop_oneof![
            Just(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n".to_vec()),
            Just(b"EHLO a\r\n".to_vec()), Just(b"LHLO a\r\n".to_vec()), Just(b"DATA\r\n".to_vec()),
            Just(b"x\r\n.\r\n".to_vec()), Just(b"BDAT 4\r\nab\r\n".to_vec()),
            Just(b"BDAT 0 LAST\r\n".to_vec()), Just(b"RSET\r\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..50),
        ], 0..20),
        faults in prop::collection::vec(
            (prop::sample::select(&Phase::ALL[..]), prop::sample::select(&Fault::ALL[..])), 0..9,
        ),
        lmtp: bool,
    ) {
        let faults: Vec<_> =
            faults.into_iter().filter(|of| *of != (Phase::Content, Fault::Trickle)).collect();
        let mut judge = Scripted { faults, ..Scripted::default() };
        let settings = Settings { lmtp, ..offering(&["chunking"], &[]) };
        let mut session = Session::new(settings, &mut judge);
        for piece in pieces {
            session.handle_bytes(&piece, &mut judge);
        }
    }
}

#[test]
fn a_polite_client_breaks_no_rule() {
    let (codes, judge, session) = one_mail(settings(), &[]);
    assert_eq!(codes, "220 250 250 250 250 354 250 221");
    assert!(judge.violations.is_empty() && session.is_ending());
}

#[test]
fn what_may_not_be_sent_ahead_is_found() {
    for (settings, pieces, count) in [
        (settings(), &["EHLO me\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n"][..], 0),
        (settings(), &["EHLO me\r\nMAIL FROM:<>\r\n"], 1),
        (settings(), &["EHLO me\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\n"], 1),
        (settings(), &["HELO me\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n"], 1),
        (offering(&[], &["pipelining"]), &["EHLO me\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n"], 1),
        (
            offering(&[], &["pipelining"]),
            &["EHLO me\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<a@b>\r\n"],
            0,
        ),
    ] {
        let (_, judge, _) = talk(settings, &[], pieces);
        assert_eq!(judge.violations.len(), count, "{pieces:?}: {:?}", judge.violations);
    }
}

#[test]
fn bare_line_ends_are_found_wherever_they_are() {
    for pieces in [
        ["NOOP\n", ""],
        ["NO\rOP\r\n", ""],
        ["MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n", "a\nb\r\n.\r\n"],
        ["MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n", "a\rb\r\n.\r\n"],
        ["MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n", "a\n.\r\r\n.\r\n"],
        ["MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n", "BDAT 3 LAST\r\na\nb"],
        ["MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n", "BDAT 3\r\na\r\nBDAT 1 LAST\r\nb"],
    ] {
        let all = ["EHLO me\r\n", pieces[0], pieces[1]];
        let (_, judge, _) = talk(offering(&["chunking"], &[]), &[], &all);
        let expected = if pieces[1].starts_with("BDAT 3\r\na\r\nB") { 0 } else { 1 };
        let bare = judge.violations.iter().filter(|of| **of == Violation::Bare).count();
        assert_eq!(bare, expected, "{pieces:?}");
    }
    // A line's end that a cut between two chunks goes through is none alone.
    let cut = ["EHLO me\r\n", ENVELOPE[1], ENVELOPE[2], "BDAT 2\r\na\r", "BDAT 1 LAST\r\n\n"];
    assert!(talk(offering(&["chunking"], &[]), &[], &cut).1.violations.is_empty());
}

#[test]
fn what_was_not_offered_may_not_come() {
    let bare = offering(&[], &["8bitmime", "size"]);
    for (settings, piece, expected, code) in [
        (bare, "MAIL FROM:<> SIZE=1\r\n", Violation::Parameter, "555"),
        (bare, "MAIL FROM:<> BODY=8BITMIME\r\n", Violation::Parameter, "555"),
        (settings(), "MAIL FROM:<> RET=HDRS\r\n", Violation::Parameter, "555"),
        (settings(), "MAIL FROM:<\u{e9}@b>\r\n", Violation::EightBit, "553"),
        (offering(&["smtputf8"], &[]), "MAIL FROM:<\u{e9}@b>\r\n", Violation::EightBit, "553"),
        (settings(), "MAIL FROM:<>\r\nRCPT TO:<a@b> NOTIFY=NEVER\r\n", Violation::Parameter, "555"),
        (settings(), "MAIL FROM:<>\r\nRCPT TO:<\u{e9}@b>\r\n", Violation::EightBit, "553"),
        (settings(), "BDAT 0 LAST\r\n", Violation::Parameter, "503"),
    ] {
        let (codes, judge, _) = talk(settings, &[], &["EHLO me\r\n", piece]);
        assert_eq!(judge.violations, [expected], "{piece}");
        assert!(codes.ends_with(code), "{piece}: {codes}");
    }
    let all = offering(&["smtputf8", "dsn", "mt-priority"], &[]);
    let pieces = [
        "EHLO me\r\n",
        "MAIL FROM:<\u{e9}@b> SMTPUTF8 RET=FULL ENVID=x MT-PRIORITY=4 BODY=8BITMIME SIZE=5\r\n",
        "RCPT TO:<\u{e9}@c> NOTIFY=DELAY ORCPT=rfc822;a@b\r\n",
        "DATA\r\n",
        "\u{e9}\r\n.\r\n",
    ];
    let (codes, judge, _) = talk(all, &[], &pieces);
    assert_eq!((&*codes, judge.violations.len()), ("220 250 250 250 354 250", 0));
}

#[test]
fn content_beyond_what_was_agreed_is_found() {
    let pieces = [ENVELOPE[0], ENVELOPE[1], ENVELOPE[2], "DATA\r\n", "\u{e9}\r\n.\r\n"];
    let (_, judge, _) = talk(offering(&[], &["8bitmime"]), &[], &pieces);
    assert_eq!(judge.violations, [Violation::EightBit]);
    for (size, found) in [(4, 0), (3, 1)] {
        let mail = format!("MAIL FROM:<> SIZE={size}\r\n");
        let pieces = [ENVELOPE[0], &mail, ENVELOPE[2], "DATA\r\n", "..x\r\n.\r\n"];
        assert_eq!(talk(settings(), &[], &pieces).1.violations.len(), found, "SIZE={size}");
    }
}

#[test]
fn limits_are_watched() {
    let limited = offering(&["limits=1:1"], &[]);
    let (codes, judge, _) = talk(limited, &[], &ENVELOPE);
    assert_eq!((&*codes, &judge.violations[..]), ("220 250 250 250 452", &[Violation::Limits][..]));
    let (codes, judge, session) =
        talk(limited, &[], &["EHLO me\r\n", "MAIL FROM:<>\r\n", "RSET\r\n", "MAIL FROM:<>\r\n"]);
    assert_eq!((&*codes, &judge.violations[..]), ("220 250 250 250 421", &[Violation::Limits][..]));
    assert!(session.is_ending());
    // A limit that nobody was told of is no rule to break.
    let silent = Settings { recipients_max: Some(1), ..settings() };
    let (codes, judge, _) = talk(silent, &[], &ENVELOPE);
    assert_eq!((&*codes, judge.violations.len()), ("220 250 250 250 452", 0));
    assert_eq!(judge.refused, [("e@f".into(), Outcome::Transient)]);
}

#[test]
fn without_ehlo_there_is_helo() {
    let (codes, judge, _) = talk(offering(&[], &["ehlo"]), &[], &["EHLO me\r\n", "HELO me\r\n"]);
    assert_eq!((&*codes, judge.violations.len()), ("220 502 250", 0));
    let (codes, ..) =
        talk(settings(), &[(Phase::Ehlo, Fault::Permanent)], &["EHLO me\r\n", "HELO me\r\n"]);
    assert_eq!(codes, "220 502 250");
}

#[test]
fn status_codes_can_be_left_out() {
    let (_, _, session) =
        talk(offering(&[], &["enhancedstatuscodes"]), &[], &["EHLO me\r\n", "NOOP\r\n"]);
    assert!(session.output.unsent().ends_with(b"\r\n250 ok\r\n"));
}

#[test]
fn each_phase_can_be_refused() {
    use Outcome::{Permanent, Transient};
    for (phase, expected) in [
        (Phase::Greeting, "4 503 503 503 503 503 500 500 221"),
        (Phase::Mail, "220 250 4 503 503 503 500 500 221"),
        (Phase::Rcpt, "220 250 250 4 250 354 250 221"),
        (Phase::Data, "220 250 250 250 250 4 500 500 221"),
        (Phase::Content, "220 250 250 250 250 354 4 221"),
        (Phase::Dot, "220 250 250 250 250 354 4 221"),
        (Phase::Quit, "220 250 250 250 250 354 250 4"),
    ] {
        for (fault, digit, outcome) in
            [(Fault::Transient, '4', Transient), (Fault::Permanent, '5', Permanent)]
        {
            let (codes, judge, session) = one_mail(settings(), &[(phase, fault)]);
            let shown: Vec<String> = codes
                .split(' ')
                .zip(expected.split(' '))
                .map(
                    |(code, like)| {
                        if like == "4" { code[..1].replace(digit, "4") } else { code.into() }
                    },
                )
                .collect();
            let expected = if phase == Phase::Greeting {
                "4 503 503 503 503 503 503 503 221"
            } else {
                expected
            };
            assert_eq!(shown.join(" "), expected, "{phase:?} {fault:?}");
            assert_eq!(session.is_ending(), phase != Phase::Quit);
            match phase {
                Phase::Mail => assert_eq!(judge.refused, [("a@b".into(), outcome)]),
                Phase::Rcpt => assert_eq!(judge.refused, [("c@d".into(), outcome)]),
                Phase::Data | Phase::Content => {
                    assert_eq!((&judge.mails[0].1, &judge.mails[0].2), (&None, &vec![outcome; 2]));
                    assert_eq!(judge.mails.len(), 1);
                }
                Phase::Dot => assert_eq!(judge.mails[0].2, [outcome; 2]),
                _ => {}
            }
            let doubtful = phase == Phase::Content && outcome == Permanent;
            assert_eq!(judge.doubts.len(), if doubtful { 2 } else { 0 });
        }
    }
}

#[test]
fn each_phase_can_end_or_go_silent() {
    for phase in Phase::ALL {
        for fault in [Fault::Closing, Fault::Drop, Fault::Reset, Fault::Hang, Fault::Garbage] {
            let (codes, judge, session) = one_mail(settings(), &[(phase, fault)]);
            let told = codes.ends_with("421");
            assert_eq!(told, fault == Fault::Closing, "{phase:?} {fault:?}: {codes}");
            assert_eq!(session.is_ending(), matches!(fault, Fault::Closing | Fault::Drop));
            assert_eq!(session.is_resetting(), fault == Fault::Reset);
            assert_eq!(session.is_stalled(), (phase, fault) == (Phase::Content, Fault::Hang));
            if phase == Phase::Dot {
                let expected = if told { Outcome::Transient } else { Outcome::Unknown };
                assert_eq!(judge.mails[0].2, [expected; 2]);
            }
            // The answer to the mail may be lost with the connection, and only then.
            let doubtful = (phase, fault) == (Phase::Quit, Fault::Reset);
            assert_eq!(judge.doubts.len(), if doubtful { 2 } else { 0 }, "{phase:?} {fault:?}");
        }
    }
}

#[test]
fn an_early_answer_is_the_answer() {
    for (phase, expected) in [
        (Phase::Greeting, "220 250 250 250 250 354 250 221"),
        (Phase::Mail, "220 250 250 250 250 354 250 221"),
        (Phase::Rcpt, "220 250 250 250 250 354 250 221"),
        (Phase::Content, "220 250 250 250 250 354 250 221"),
        (Phase::Data, "220 250 250 250 250 354 250 221"),
        (Phase::Dot, "220 250 250 250 250 354 250 250"),
    ] {
        let (codes, judge, _) = one_mail(settings(), &[(phase, Fault::Early)]);
        assert_eq!(codes, expected, "{phase:?}");
        assert_eq!(judge.mails[0].2, [Outcome::Accepted; 2], "{phase:?}");
        let in_doubt = matches!(phase, Phase::Data | Phase::Content);
        assert_eq!(judge.doubts.len(), if in_doubt { 2 } else { 0 }, "{phase:?}");
        assert!(judge.violations.is_empty());
    }
    // DATA cannot be answered by 250.
    let (codes, judge, _) = talk(
        settings(),
        &[(Phase::Rcpt, Fault::Early)],
        &[ENVELOPE[0], ENVELOPE[1], ENVELOPE[2], "DATA\r\n", "RSET\r\n"],
    );
    assert_eq!((&*codes, judge.mails.len()), ("220 250 250 250 250 250", 0));
}

#[test]
fn a_reply_that_trickles_leaves_the_mail_in_doubt() {
    let (_, judge, session) = one_mail(settings(), &[(Phase::Dot, Fault::Trickle)]);
    assert_eq!((judge.mails[0].2.len(), judge.doubts.len()), (2, 2));
    let at_once = session.output.sendable(Instant::ZERO);
    assert!(at_once.ends_with(b"354 go on\r\n"), "{:?}", String::from_utf8_lossy(at_once));
}

#[test]
fn a_refused_recipient_is_in_doubt_until_the_mail_is_answered() {
    let refused = (Phase::Rcpt, Fault::Permanent);
    for (then, in_doubt) in [
        (None, 0),
        (Some((Phase::Rcpt, Fault::Drop)), 1),
        (Some((Phase::Data, Fault::Closing)), 1),
        (Some((Phase::Content, Fault::Reset)), 1),
        (Some((Phase::Dot, Fault::Garbage)), 1),
        (Some((Phase::Dot, Fault::Permanent)), 0),
        (Some((Phase::Rcpt, Fault::Trickle)), 2),
    ] {
        let faults: Vec<_> = [Some(refused), then].into_iter().flatten().collect();
        let (_, mut judge, mut session) = one_mail(settings(), &faults);
        session.handle_end(&mut judge);
        assert_eq!(judge.doubts.len(), in_doubt, "{then:?}: {:?}", judge.doubts);
    }
}

#[test]
fn lmtp_answers_each_recipient() {
    let lmtp = Settings { lmtp: true, ..settings() };
    let mail = [
        "LHLO me\r\n",
        ENVELOPE[1],
        ENVELOPE[2],
        ENVELOPE[3],
        "RCPT TO:<g@h>\r\n",
        "DATA\r\n",
        "x\r\n.\r\n",
    ];
    let (codes, judge, _) =
        talk(lmtp, &[(Phase::Dot, Fault::Transient), (Phase::Dot, Fault::Permanent)], &mail);
    assert_eq!(codes, "220 250 250 250 250 250 354 451 554 250");
    assert_eq!(judge.mails[0].2, [Outcome::Transient, Outcome::Permanent, Outcome::Accepted]);
    let (codes, judge, _) = talk(lmtp, &[(Phase::Dot, Fault::Drop)], &mail);
    assert_eq!(
        (&*codes, &judge.mails[0].2[..]),
        ("220 250 250 250 250 250 354", &[Outcome::Unknown; 3][..])
    );
    let refused = ["LHLO me\r\n", "EHLO me\r\n", "HELO me\r\n"];
    assert_eq!(talk(lmtp, &[], &refused).0, "220 250 500 500");
    assert_eq!(talk(settings(), &[], &["LHLO me\r\n"]).0, "220 500");
}

#[test]
fn lmtp_leaves_in_doubt_what_a_reset_may_have_hidden() {
    // The second recipient's reset comes behind the first one's 250.
    struct Second(Scripted, bool);
    impl Judge for Second {
        fn draw(&mut self, phase: Phase) -> Option<Fault> {
            let second = std::mem::replace(&mut self.1, phase == Phase::Dot);
            (second && phase == Phase::Dot).then_some(Fault::Reset)
        }
        fn draw_below(&mut self, _end: u64) -> u64 {
            0
        }
        fn handle_violation(&mut self, _: Violation, _: &str) {}
        fn handle_refused_mail(&mut self, _: &str, _: Outcome) {}
        fn handle_refused_recipient(&mut self, _: &str, _: &str, _: Outcome) {}
        fn handle_mail(
            &mut self,
            envelope: &Envelope,
            content: Option<&[u8]>,
            outcomes: &[Outcome],
        ) {
            self.0.handle_mail(envelope, content, outcomes);
        }
        fn handle_doubt(&mut self, envelope: &Envelope) {
            self.0.handle_doubt(envelope);
        }
    }
    let mut judge = Second(Scripted::default(), false);
    let mut session = Session::new(Settings { lmtp: true, ..settings() }, &mut judge);
    for piece in ["LHLO me\r\n", ENVELOPE[1], ENVELOPE[2], ENVELOPE[3], "DATA\r\n", "x\r\n.\r\n"] {
        session.handle_bytes(piece.as_bytes(), &mut judge);
    }
    assert!(session.is_resetting());
    assert_eq!(judge.0.mails[0].2, [Outcome::Accepted, Outcome::Unknown]);
    assert_eq!(judge.0.doubts, ["c@d".into()]);
}

#[test]
fn chunks_are_answered_each() {
    let chunked = offering(&["chunking"], &[]);
    let chunks = ["BDAT 2\r\nab", "BDAT 3\r\nc\r\n", "BDAT 0 LAST\r\n", "QUIT\r\n"];
    let pieces = [&ENVELOPE[..], &chunks].concat();
    let (codes, judge, _) = talk(chunked, &[], &pieces);
    assert_eq!(codes, "220 250 250 250 250 250 250 250 221");
    assert_eq!(judge.mails[0].1.as_deref(), Some(&b"abc\r\n"[..]));
    // Refused in the middle: the rest is received and thrown away.
    for fault in [(Phase::Data, Fault::Permanent), (Phase::Content, Fault::Permanent)] {
        let (codes, judge, _) = talk(chunked, &[fault], &pieces);
        assert_eq!(codes, "220 250 250 250 250 554 503 503 221", "{fault:?}");
        assert_eq!((judge.mails.len(), &judge.mails[0].1), (1, &None));
    }
    let nobody = ["EHLO me\r\n", "MAIL FROM:<>\r\n", "BDAT 3 LAST\r\nx\r\n", "MAIL FROM:<>\r\n"];
    assert_eq!(talk(chunked, &[], &nobody).0, "220 250 250 503 250");
}

#[test]
fn too_much_is_refused() {
    let small = Settings { size_bytes_max: 10, ..settings() };
    let pieces = [
        "HELO me\r\n",
        "MAIL FROM:<>\r\n",
        "RCPT TO:<a@b>\r\n",
        "DATA\r\n",
        "0123456789\r\n\r\n.\r\n",
    ];
    let (codes, judge, mut session) = talk(small, &[], &pieces);
    assert_eq!(codes, "220 250 250 250 354 552");
    assert_eq!((&judge.mails[0].1, judge.mails[0].2[0]), (&None, Outcome::Permanent));
    session.handle_bytes(&[b'x'; LINE_SIZE_BYTES_MAX + 1], &mut Scripted::default());
    assert!(session.is_ending());
    let (codes, judge, _) = talk(small, &[], &["EHLO me\r\n", "MAIL FROM:<a@b> SIZE=11\r\n"]);
    assert_eq!((&*codes, &judge.refused[0].0[..]), ("220 250 552", "a@b"));
}

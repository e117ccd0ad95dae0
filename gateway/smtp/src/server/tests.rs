use super::*;
use alloc::string::String;
use alloc::vec;
use proptest::prelude::*;

/// A session whose events get the verdicts of a simple caller.
struct Harness {
    session: ServerSession,
    content: Vec<u8>,
    replies: String,
    events: Vec<String>,
    messages: Vec<Vec<u8>>,
}

/// For tests that send everything at once.
const LENIENT: SessionRules = SessionRules {
    bare_newlines: BareNewlines::Refuse,
    illegal_pipelining: IllegalPipelining::Allow,
};

impl Harness {
    fn new() -> Harness {
        Harness::with_rules(LENIENT)
    }

    fn with_rules(rules: SessionRules) -> Harness {
        let limits = ServerLimits {
            hostname: "mx.example".into(),
            message_size_max: 2000,
            recipients_max: 2,
            text_line_max: 998,
            errors_max: 5,
            mails_max: 60,
        };
        Harness {
            session: ServerSession::new(Arc::new(limits), rules),
            content: Vec::new(),
            replies: String::new(),
            events: Vec::new(),
            messages: Vec::new(),
        }
    }

    fn send(&mut self, input: &[u8]) -> &mut Harness {
        let mut rest = input;
        loop {
            let used = self.session.handle_bytes(rest, &mut self.content);
            rest = &rest[used..];
            let event = self.session.poll_event();
            self.take_output();
            match event {
                Some(event) => self.judge(event),
                None if rest.is_empty() => return self,
                None => assert!(used > 0, "stuck at {rest:?}"),
            }
        }
    }

    fn judge(&mut self, event: ServerEvent) {
        self.events.push(alloc::format!("{event:?}"));
        match event {
            ServerEvent::Mail(_) => self.session.accept_mail(),
            ServerEvent::Recipient(to) if to.path.as_str().starts_with("no") => {
                self.session.refuse(&Refusal::new(550, (5, 1, 1), "Unknown"));
            }
            ServerEvent::Recipient(_) => self.session.accept_recipient(),
            ServerEvent::DataRequested => {
                self.content.clear();
                self.session.accept_data();
            }
            ServerEvent::EndOfData(_) => {
                self.messages.push(core::mem::take(&mut self.content));
                self.session.commit(self.messages.len());
            }
            ServerEvent::Aborted | ServerEvent::Quit => self.content.clear(),
        }
        self.take_output();
    }

    fn take_output(&mut self) {
        let output = self.session.output();
        self.replies.push_str(core::str::from_utf8(output).unwrap());
        let len = output.len();
        self.session.consume_output(len);
    }

    /// The codes of the replies so far, one for each reply.
    fn codes(&mut self) -> Vec<String> {
        let is_last = |line: &&str| line.as_bytes()[3] == b' ';
        let codes = self.replies.lines().filter(is_last).map(|line| line[..3].into()).collect();
        self.replies.clear();
        codes
    }
}

fn started() -> Harness {
    let mut harness = Harness::new();
    harness.send(b"EHLO client.example\r\n").codes();
    harness
}

#[test]
fn a_pipelined_transaction() {
    let mut harness = Harness::new();
    harness.send(
        b"EHLO c.example\r\nMAIL FROM:<a@b> SIZE=8\r\nRCPT TO:<c@d>\r\nRCPT TO:<no@d>\r\nDATA\r\n\
          ..x\r\ny\r\n.\r\nQUIT\r\n",
    );
    assert_eq!(
        harness.replies,
        "220 mx.example ESMTP Hikyaku\r\n250-mx.example\r\n250-PIPELINING\r\n250-SIZE 2000\r\n\
         250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250-DSN\r\n250-MT-PRIORITY\r\n\
         250-LIMITS MAILMAX=60 RCPTMAX=2\r\n\
         250 ENHANCEDSTATUSCODES\r\n250 2.1.0 Sender ok\r\n\
         250 2.1.5 Recipient ok\r\n550 5.1.1 Unknown\r\n\
         354 End data with <CR><LF>.<CR><LF>\r\n250 2.0.0 Ok: queued as 1\r\n221 2.0.0 Bye\r\n"
    );
    assert_eq!(harness.messages, [b".x\r\ny\r\n"]);
    assert!(harness.session.is_closed());
}

#[test]
fn nothing_behind_a_verdict_is_taken_before_it() {
    let mut harness = started();
    let group = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n";
    let used = harness.session.handle_bytes(group, &mut Vec::new());
    assert_eq!(used, 14);
    assert!(matches!(harness.session.poll_event(), Some(ServerEvent::Mail(_))));
    assert_eq!(harness.session.handle_bytes(&group[used..], &mut Vec::new()), 0);
    harness.session.accept_mail();
    assert_eq!(harness.session.handle_bytes(&group[used..], &mut Vec::new()), 15);
}

#[test]
fn smtputf8_counts_for_its_transaction_only() {
    let mut harness = started();
    let utf8 = "RCPT TO:<ü@b>\r\n".as_bytes();
    harness.send(b"MAIL FROM:<a@b> SMTPUTF8\r\n").send(utf8).send(b"RSET\r\n");
    assert_eq!(harness.codes(), ["250", "250", "250"]);
    assert_eq!(harness.send(utf8).codes(), ["553"]);
    harness.send(b"MAIL FROM:<a@b>\r\n").send(utf8).send("VRFY ü SMTPUTF8\r\n".as_bytes());
    assert_eq!(harness.codes(), ["250", "553", "252"]);
}

#[test]
fn behind_many_errors_commands_wait_until_the_reply_before_has_left() {
    let mut session = Harness::new().session;
    session.set_errors_in_groups_max(Some(1));
    session.consume_output(session.output().len());
    let input = b"FOO\r\nNOOP\r\nFOO\r\nNOOP\r\nNOOP\r\n";
    let mut used = session.handle_bytes(input, &mut Vec::new());
    assert_eq!(&input[used..], b"NOOP\r\nNOOP\r\n", "the second error is beyond it");
    for rest in [&b"NOOP\r\n"[..], b""] {
        assert_eq!(session.handle_bytes(&input[used..], &mut Vec::new()), 0);
        session.consume_output(session.output().len());
        used += session.handle_bytes(&input[used..], &mut Vec::new());
        assert_eq!(&input[used..], rest);
    }
    session.consume_output(session.output().len());
    session.set_errors_in_groups_max(None);
    assert_eq!(session.handle_bytes(&input[used - 12..], &mut Vec::new()), 6);
}

#[test]
fn a_command_out_of_sequence_gets_503() {
    // RFC 5321 §4.1.4 and §3.3.
    let table: [(&[u8], &[&str]); 6] = [
        (b"MAIL FROM:<>\r\n", &["220", "503"]),
        (b"EHLO c\r\nRCPT TO:<a@b>\r\n", &["220", "250", "503"]),
        (b"EHLO c\r\nDATA\r\n", &["220", "250", "503"]),
        (b"HELO c\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n", &["220", "250", "250", "503"]),
        (b"HELO c\r\nMAIL FROM:<>\r\nDATA\r\n", &["220", "250", "250", "554"]),
        (
            b"NOOP\r\nRSET\r\nVRFY a\r\nHELP\r\nQUIT\r\n",
            &["220", "250", "250", "252", "214", "221"],
        ),
    ];
    for (input, codes) in table {
        assert_eq!(Harness::new().send(input).codes(), codes, "{input:?}");
    }
}

#[test]
fn size_is_refused_when_declared_and_when_counted() {
    let mut harness = started();
    assert_eq!(harness.send(b"MAIL FROM:<a@b> SIZE=2001\r\n").codes(), ["552"]);
    harness.send(b"MAIL FROM:<a@b> SIZE=1\r\nRCPT TO:<a@b>\r\nDATA\r\n").codes();
    harness.send(&b"0123456789\r\n".repeat(200)).send(b".\r\n");
    assert!(harness.replies.contains("552 5.3.4"), "{}", harness.replies);
    assert_eq!(harness.events.last().map(String::as_str), Some("Aborted"));
    harness.codes();
    assert_eq!(harness.send(b"DATA\r\n").codes(), ["503"]);
}

#[test]
fn bare_newlines_in_content_are_refused_and_smuggle_nothing() {
    for bad in [&b"a\n.\nMAIL FROM:<x@y>"[..], b"a\n.\r\nb", b"a\r.\r\nb", b"a\r\n.\nb"] {
        let mut harness = started();
        harness.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n").codes();
        harness.send(bad).send(b"\r\n.\r\n");
        assert_eq!(harness.replies, "550 5.6.11 Lines of the message must end with CR LF\r\n");
        assert!(harness.messages.is_empty());
    }
}

#[test]
fn lines_have_their_limits() {
    let mut harness = started();
    let long = [b"NOOP ".to_vec(), vec![b'x'; COMMAND_LINE_MAX - 6], b"\r\n".to_vec()].concat();
    assert_eq!(harness.send(&long).codes(), ["500"]);
    let fits = [b"NOOP ".to_vec(), vec![b'x'; COMMAND_LINE_MAX - 7], b"\r\n".to_vec()].concat();
    assert_eq!(harness.send(&fits).codes(), ["250"]);
    assert_eq!(harness.send(b"NOOP\n").codes(), ["500"]);
    harness.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n").codes();
    let text = [vec![b'x'; 999], b"\r\n.\r\n".to_vec()].concat();
    assert_eq!(harness.send(&text).codes(), ["554"]);
}

#[test]
fn too_many_recipients_and_too_many_errors() {
    let mut harness = started();
    harness.send(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<no@b>\r\nRCPT TO:<c@b>\r\n").codes();
    assert_eq!(harness.send(b"RCPT TO:<d@b>\r\n").codes(), ["452"]);
    assert_eq!(harness.send(b"x\r\nx\r\nx\r\nx\r\n").codes(), ["500"; 4]);
    assert_eq!(harness.send(b"x\r\nNOOP\r\n").codes(), ["500", "421"]);
    assert!(harness.session.is_closed());
}

#[test]
fn a_new_hello_and_rset_abort_the_transaction() {
    let mut harness = started();
    harness.send(b"MAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\nEHLO d\r\nRSET\r\n");
    assert_eq!(harness.events.iter().filter(|event| *event == "Aborted").count(), 2);
    assert!(harness.session.is_idle());
}

#[test]
fn content_refused_midway_is_skipped_to_its_end() {
    let mut harness = started();
    harness.send(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nfirst\r\n").codes();
    harness.session.refuse_content(&Refusal::new(452, (4, 3, 1), "Full"));
    let before = harness.content.len();
    assert_eq!(harness.send(b"more\r\n").codes(), [""; 0]);
    assert_eq!(harness.content.len(), before, "what is refused takes no memory");
    assert_eq!(harness.send(b"QUIT\r\n.\r\nNOOP\r\n").codes(), ["452", "250"]);
}

#[test]
fn replies_that_nobody_reads_stop_the_commands() {
    let mut session = started().session;
    let flood = b"NOOP\r\n".repeat(5000);
    let used = session.handle_bytes(&flood, &mut Vec::new());
    assert!(used < flood.len() && session.output().len() < OUTPUT_LEN_MAX + 600);
    session.consume_output(session.output().len());
    assert!(session.handle_bytes(&flood[used..], &mut Vec::new()) > 0);
}

/// In a transaction with one recipient.
fn enveloped() -> Harness {
    let mut harness = started();
    harness.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n").codes();
    harness
}

#[test]
fn a_message_may_come_in_chunks() {
    let mut harness = enveloped();
    harness.send(b"BDAT 3\r\nab\rBDAT 6\r\n\n.\r\n..BDAT 0\r\nBDAT 3 LAST\r\n\r\nxNOOP\r\n");
    assert_eq!(
        harness.replies,
        "250 2.0.0 3 octets taken\r\n250 2.0.0 6 octets taken\r\n250 2.0.0 0 octets taken\r\n\
         250 2.0.0 Ok: queued as 1\r\n250 2.0.0 Ok\r\n"
    );
    assert_eq!(harness.messages, [b"ab\r\n.\r\n..\r\nx\r\n"]);
    let summary = "EndOfData(ContentSummary { size: 14, leading_dot: true })";
    assert!(harness.events.iter().any(|event| event == summary), "{:?}", harness.events);
}

#[test]
fn the_last_chunk_may_be_empty_and_so_may_the_message() {
    let table: [(&[u8], &[&str], &[u8]); 4] = [
        (b"BDAT 3\r\na\r\nBDAT 0 LAST\r\n", &["250", "250"], b"a\r\n"),
        (b"BDAT 1\r\naBDAT 0 LAST\r\n", &["250", "250"], b"a\r\n"),
        (b"BDAT 0 LAST\r\n", &["250"], b""),
        (b"BDAT 0\r\nBDAT 0\r\nBDAT 0 LAST\r\n", &["250", "250", "250"], b""),
    ];
    for (input, codes, message) in table {
        let mut harness = enveloped();
        assert_eq!(harness.send(input).codes(), codes, "{input:?}");
        assert_eq!(harness.messages, [message], "{input:?}");
        assert!(harness.session.is_idle());
    }
}

#[test]
fn chunks_are_dropped_in_full_before_they_are_refused() {
    // RFC 3030 §2: what is in the pipeline behind a failed chunk is dropped as well.
    let table: [(&[u8], &[&str]); 8] = [
        (b"RSET\r\nBDAT 6\r\nQUIT\r\nNOOP\r\n", &["250", "503", "250"]),
        (b"BDAT 6\r\nQUIT\r\nDATA\r\nNOOP\r\n", &["250", "503", "250"]),
        (b"BDAT 2\r\nabRCPT TO:<e@d>\r\nBDAT 0 LAST\r\n", &["250", "503", "250"]),
        (b"BDAT 2\r\nabRSET\r\nBDAT 6 LAST\r\nQUIT\r\n", &["250", "250", "503"]),
        (b"BDAT 2\r\na\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", &["550", "503", "250"]),
        (b"BDAT 2 LAST\r\na\rNOOP\r\n", &["550", "250"]),
        (b"BDAT 2001 LAST\r\n", &[]),
        (b"BDAT 1\r\nxBDAT 2000 LAST\r\n", &["250"]),
    ];
    for (input, codes) in table {
        let mut harness = enveloped();
        assert_eq!(harness.send(input).codes(), codes, "{input:?}");
        if codes.len() < 2 {
            // It is too large by its declaration already.
            assert_eq!(harness.events.last().map(String::as_str), Some("Aborted"));
            let size = if codes.is_empty() { 2001 } else { 2000 };
            assert_eq!(harness.send(&vec![b'\n'; size]).codes(), ["552"], "{input:?}");
            assert_eq!(harness.send(b"BDAT 1\r\n\nNOOP\r\n").codes(), ["503", "250"]);
        }
        assert!(!harness.session.is_closed());
    }
}

#[test]
fn the_size_limit_counts_over_all_chunks() {
    let mut harness = enveloped();
    let line = b"0123456789abcdefghijklmnop\r\n";
    let chunk = [&b"BDAT 28\r\n"[..], line].concat();
    let codes = harness.send(&chunk.repeat(72)).codes();
    assert_eq!(codes[..71], ["250"; 71]);
    assert_eq!(codes[71], "552");
}

#[test]
fn a_chunk_without_a_valid_recipient_is_dropped() {
    let mut harness = started();
    harness.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<no@d>\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\n");
    assert_eq!(harness.codes(), ["250", "550", "554", "554"]);
    assert_eq!(harness.send(b"RCPT TO:<c@d>\r\nBDAT 1 LAST\r\nx").codes(), ["250", "250"]);
}

#[test]
fn the_first_chunk_waits_for_room() {
    let mut session = enveloped().session;
    let input = b"BDAT 6\r\nQUIT\r\nBDAT 2 LAST\r\nxxNOOP\r\n";
    let mut content = Vec::new();
    let mut used = session.handle_bytes(input, &mut content);
    assert_eq!((used, session.poll_event()), (8, Some(ServerEvent::DataRequested)));
    assert_eq!(session.handle_bytes(&input[used..], &mut content), 0);
    session.refuse(&Refusal::new(452, (4, 3, 1), "Full"));
    assert_eq!(session.poll_event(), Some(ServerEvent::Aborted));
    while used < input.len() {
        used += session.handle_bytes(&input[used..], &mut content);
    }
    assert_eq!(
        core::str::from_utf8(session.output()),
        Ok("452 4.3.1 Full\r\n503 5.5.1 MAIL first\r\n250 2.0.0 Ok\r\n")
    );
    assert!(content.is_empty() && session.is_idle());
    assert_eq!(session.errors(), 0, "the client had sent the second before it knew");
}

#[test]
fn every_chunk_waits_for_the_caller_to_make_room() {
    let mut session = enveloped().session;
    let input = b"BDAT 2\r\nabBDAT 3 LAST\r\nc\r\n";
    let mut content = Vec::new();
    session.handle_bytes(input, &mut content);
    session.poll_event();
    session.accept_data();
    assert_eq!(session.handle_bytes(&input[8..], &mut content), 15);
    assert!(session.is_receiving_content() && content == b"ab");
    session.refuse_content(&Refusal::new(452, (4, 3, 1), "Full"));
    session.handle_bytes(&input[23..], &mut content);
    assert_eq!(session.output(), b"250 2.0.0 2 octets taken\r\n452 4.3.1 Full\r\n");
    assert!(content == b"ab" && session.is_idle() && session.poll_event().is_none());
}

#[test]
fn a_chunk_of_unknown_length_ends_the_session() {
    let long = [&b"BDAT 5"[..], &[b' '; COMMAND_LINE_MAX]].concat();
    let table: [&[u8]; 7] = [
        b"BDAT\r\n",
        b"BDAT x LAST\r\n",
        b"BDAT 5 FOO\r\n",
        b"bdat 99999999999999999999\r\n",
        b"BDAT 5\n",
        b"BDAT 5\0\r\n",
        &long,
    ];
    for input in table {
        let mut harness = enveloped();
        assert_eq!(harness.send(input).send(b"QUIT\r\n").codes(), ["501"], "{input:?}");
        assert!(harness.session.is_closed());
        assert_eq!(harness.events.last().map(String::as_str), Some("Quit"));
    }
}

#[test]
fn bare_newlines_may_be_normalised_by_either_way() {
    let rules = SessionRules { bare_newlines: BareNewlines::Normalise, ..LENIENT };
    let begin = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";
    let mut harness = Harness::with_rules(rules);
    harness.send(begin).codes();
    harness.send(b"DATA\r\na\n.\r\n.\rb\r.\r\n..\nQUIT\r\n.\r\nNOOP\r\n");
    assert_eq!(harness.codes(), ["354", "250", "250"]);
    assert_eq!(harness.messages, [b"a\r\n.\r\n\r\nb\r\n.\r\n.\r\nQUIT\r\n"]);
    let mut harness = Harness::with_rules(rules);
    harness.send(begin).codes();
    harness.send(b"BDAT 3\r\na\n\rBDAT 4 LAST\r\n.\r\n\rNOOP\r\n");
    assert_eq!(harness.codes(), ["250", "250", "250"]);
    assert_eq!(harness.messages, [b"a\r\n\r\n.\r\n\r\n"]);
}

#[test]
fn no_mixture_of_newlines_and_dots_smuggles_a_command() {
    // Each ends with the end of data, and what is behind it is one command and nothing else.
    let mut text = Vec::new();
    for number in 0..4usize.pow(6) {
        text.clear();
        text.extend((0..6).map(|place| b"\r\n.x"[number >> (2 * place) & 3]));
        let wire = [&b"\r\n"[..], &text, b"\r\n.\r\n"].concat();
        let ends_early = wire[..wire.len() - 3].windows(5).any(|window| window == b"\r\n.\r\n")
            || text.ends_with(b"\r\n.");
        for bare_newlines in [BareNewlines::Refuse, BareNewlines::Normalise] {
            let mut harness = Harness::with_rules(SessionRules { bare_newlines, ..LENIENT });
            harness.send(b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n").codes();
            let chunk = alloc::format!("BDAT {} LAST\r\n", wire.len());
            harness.send(chunk.as_bytes()).send(&wire).send(b"NOOP\r\n");
            let is_taken = harness.messages.len() == 1;
            assert_eq!(harness.codes(), [if is_taken { "250" } else { "550" }, "250"]);
            if ends_early {
                continue;
            }
            harness.send(b"RSET\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n").codes();
            harness.send(&wire).send(b"NOOP\r\n");
            let is_taken_again = harness.messages.len() == 1 + usize::from(is_taken);
            assert_eq!(harness.codes(), [if is_taken_again { "250" } else { "550" }, "250"]);
        }
    }
}

#[test]
fn who_does_not_wait_where_he_must_is_sent_away() {
    let strict = |pieces: &[&[u8]]| {
        let mut harness = Harness::with_rules(SessionRules::default());
        for piece in pieces {
            harness.send(piece);
        }
        (harness.codes().join(" "), harness.session.is_closed(), harness.messages.len())
    };
    let envelope: &[u8] = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";
    let data = [envelope, b"DATA\r\n"].concat();
    let blind = [&data[..], b"x\r\n"].concat();
    let chunks = [envelope, b"BDAT 2\r\nxxBDAT 0 LAST\r\nNOOP\r\nQUIT\r\nQUIT\r\n"].concat();
    let ehlo: &[u8] = b"EHLO c\r\n";
    let table: [(&[&[u8]], &str, bool, usize); 7] = [
        (&[b"EHLO c\r\nNOOP\r\n"], "220 554", true, 0),
        (&[b"HELO c\r\nMAIL"], "220 554", true, 0),
        (&[ehlo, &blind], "220 250 250 250 554", true, 0),
        (&[ehlo, b"VRFY a\r\nVRFY b\r\n"], "220 250 554", true, 0),
        (&[ehlo, b"NOOP\r\nRSET\r\nHELP\r\nNOOP\r\n"], "220 250 250 250 214 250", false, 0),
        (
            &[ehlo, &data, b"x\r\n.\r\nNOOP\r\nMAIL FROM:<>\r\nRSET\r\nQUIT\r\n\r\n"],
            "220 250 250 250 354 250 250 250 250 221",
            true,
            1,
        ),
        (&[ehlo, &chunks], "220 250 250 250 250 250 250 221", true, 1),
    ];
    for (pieces, codes, is_closed, messages) in table {
        assert_eq!(strict(pieces), (codes.into(), is_closed, messages), "{pieces:?}");
    }
}

#[test]
fn who_speaks_before_the_greeting_gets_none() {
    let limits = Harness::new().session.limits;
    let mut session = ServerSession::new(limits, SessionRules::default());
    session.refuse_early_talker();
    assert_eq!(session.output(), b"554 5.5.0 Wait for the greeting\r\n");
    assert!(session.is_closed());
}

#[test]
fn another_priority_is_named() {
    let mut session = started().session;
    session.handle_bytes(b"MAIL FROM:<a@b> MT-PRIORITY=9\r\n", &mut Vec::new());
    assert!(
        matches!(session.poll_event(), Some(ServerEvent::Mail(mail)) if mail.priority == Some(9))
    );
    session.accept_mail_with_priority(-2);
    assert!(session.output().starts_with(b"250 2.3.6 -2 "));
}

#[test]
fn limits_with_more_than_six_digits_are_not_announced() {
    let announce = |mails_max, recipients_max| {
        let limits = (*Harness::new().session.limits).clone();
        let limits = ServerLimits { mails_max, recipients_max, ..limits };
        let mut session = ServerSession::new(Arc::new(limits), SessionRules::default());
        session.handle_bytes(b"EHLO c\r\n", &mut Vec::new());
        let output = String::from_utf8(session.output().to_vec()).unwrap();
        output.lines().find(|line| line.contains("LIMITS")).map(String::from)
    };
    assert_eq!(announce(999_999, 1).as_deref(), Some("250-LIMITS MAILMAX=999999 RCPTMAX=1"));
    assert_eq!(announce(1_000_000, 100).as_deref(), Some("250-LIMITS RCPTMAX=100"));
    assert_eq!(announce(u32::MAX, usize::MAX), None);
}

#[test]
fn bad_commands_are_counted_for_the_caller() {
    let mut harness = enveloped();
    harness.send(b"X\r\nDATA x\r\n");
    assert_eq!(harness.session.errors(), 2);
    harness.send(b"DATA\r\n.\r\n");
    assert_eq!(harness.session.errors(), 0);
}

#[test]
fn an_idle_session_holds_little() {
    assert!(size_of::<ServerSession>() <= 360, "{}", size_of::<ServerSession>());
    let mut harness = started();
    let name = vec![b'n'; 255];
    harness.send(&[b"EHLO ", &name[..], b"\r\n"].concat());
    for _ in 0..3 {
        let long = [b"NOOP ".to_vec(), vec![b'x'; 2000], b"\r\n".to_vec()].concat();
        let rest = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\n";
        for byte in [&long[..], b"NOOP\r\n", &rest.repeat(20)].concat() {
            harness.send(&[byte]);
        }
        harness.send(&rest.repeat(20)).codes();
        assert!(harness.session.is_idle());
        let heap = harness.session.line.capacity() + harness.session.output.capacity() + name.len();
        assert!(heap <= 600, "{heap}");
    }
}

fn dialogue() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        &b"EHLO c\r\n"[..],
        b"MAIL FROM:<a@b>\r\n",
        b"RCPT TO:<c@d>\r\n",
        b"DATA\r\n",
        b"DATA\r\n",
        b"text\r\n",
        b"..dot\r\n",
        b".\r\n",
        b"RSET\r\n",
        b"\n",
        b"\r",
        b"NOOP\r\n",
        b"QUIT\r\n",
        b"\0\xff\r\n",
        b"BDAT 6\r\n",
        b"BDAT 6\r\n",
        b"BDAT 3 LAST\r\n",
        b"BDAT 0 LAST\r\n",
        b"BDAT 0\r\n",
        b"BDAT 2000\r\n",
        b"BDAT x\r\n",
        b".\n",
        b"x\r\n",
    ]);
    prop::collection::vec(token, 0..30).prop_map(|tokens| {
        [b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", &*tokens.concat()].concat()
    })
}

proptest! {
    #[test]
    fn any_split_gives_the_same_dialogue(
        input in dialogue(),
        cuts in [0usize..300, 0usize..300],
        normalises: bool,
    ) {
        let low = cuts[0].min(cuts[1]).min(input.len());
        let high = cuts[0].max(cuts[1]).min(input.len());
        let bare_newlines =
            if normalises { BareNewlines::Normalise } else { BareNewlines::Refuse };
        let rules = SessionRules { bare_newlines, ..LENIENT };
        let mut whole = Harness::with_rules(rules);
        whole.send(&input);
        let mut split = Harness::with_rules(rules);
        split.send(&input[..low]).send(&input[low..high]).send(&input[high..]);
        prop_assert_eq!(whole.replies, split.replies);
        prop_assert_eq!(whole.events, split.events);
        prop_assert_eq!(whole.messages, split.messages);
    }

    #[test]
    fn random_bytes_do_no_harm(input in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut harness = Harness::new();
        harness.send(&input);
        prop_assert!(harness.session.line.capacity() <= 2 * COMMAND_LINE_MAX);
    }
}

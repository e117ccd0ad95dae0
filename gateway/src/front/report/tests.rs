//! What a DSN is, byte by byte, and what it never is.

use std::sync::Arc;

use bytes::Bytes;
use kvs_proto::{MessageId, StateVersion};
use mail_parser::{MessageParser, MimeHeaders};
use proptest::prelude::*;
use smtp::{Notify, Reply, Return};

use super::compose::{Dsn, LINE_SIZE_MAX, Origin, REPORT_SIZE_BYTES_MAX, compose};
use super::domain_of;
use crate::api::{Report, ReportKind};
use crate::message::{DeliveryState, Envelope, Message, Recipient, RecipientStatus};

/// 1 October 2026, in milliseconds since 1970.
const ACCEPTED: u64 = 1_790_812_800_000;
const HOUR: u64 = 3_600_000;

const CONTENT: &str = "Received: from client.example ([192.0.2.7])\r\n\
    \tby gw.example with ESMTP id 1-0-1;\r\n\
    \tThu, 1 Oct 2026 00:00:00 +0000\r\n\
    From: Sender <sender@example.org>\r\n\
    Message-ID: <one@example.org>\r\n\
    Subject: a mail\r\n\
    \r\n\
    .its text\r\n";

const ORIGIN: Origin<'static> = Origin {
    hostname: "gw.example",
    gateway: "gw1",
    queue: "example.net",
    id: MessageId(0x2a),
    is_final_hop: false,
    content_max: 64 << 10,
};

fn envelope() -> Envelope {
    let recipients = ["user@example.net", "other@example.net", "third@example.net"];
    let mut envelope = Envelope::new("sender@example.org", recipients.map(Recipient::new).into());
    envelope.accepted_unix_ms = ACCEPTED;
    envelope
}

fn report(kind: ReportKind, envelope: Envelope, content: &str, state: DeliveryState) -> Report {
    let content = Bytes::copy_from_slice(content.as_bytes());
    Report {
        kind,
        message: Arc::new(Message { envelope, content }),
        state,
        version: StateVersion(3),
        at_unix_ms: ACCEPTED + HOUR,
        retry_until_unix_ms: ACCEPTED + 120 * HOUR,
    }
}

fn state() -> DeliveryState {
    let mut state = DeliveryState::deferred(2, ACCEPTED);
    state.noted_unix_ms = ACCEPTED + HOUR;
    state
}

/// Compares with a file that somebody has read; its lines end with LF.
fn assert_golden(dsn: &Dsn, name: &str, golden: &str) {
    let text = str::from_utf8(&dsn.content).unwrap().replace("\r\n", "\n");
    assert_eq!(text, golden, "{name} has changed");
    check(&dsn.content, dsn);
}

#[test]
fn a_failure_returns_the_whole_where_that_was_asked_for() {
    let mut envelope = envelope();
    envelope.ret = Some(Return::Full);
    envelope.envelope_id = Some("QQ+2B314159".into());
    envelope.recipients[0].original = Some("rfc822;alias+2Bx@example.org".into());
    let mut state = state();
    let unknown = Reply::local(550, (5, 1, 1), "No such user");
    state.explain(0, &unknown, "192.0.2.25:25");
    state.set_status(0, RecipientStatus::Failed);
    state.explain(1, &Reply::local(451, (4, 2, 1), "Mailbox busy"), "[2001:db8::25]:25");
    state.set_status(1, RecipientStatus::Failed);
    let dsn = compose(&ORIGIN, &report(ReportKind::Final, envelope, CONTENT, state));
    assert_eq!((dsn.covered, dsn.leading_dot, dsn.eight_bit, dsn.utf8), (2, true, false, false));
    assert_golden(&dsn, "failed.eml", include_str!("golden/failed.eml"));
}

#[test]
fn a_delay_warning_says_until_when_it_is_tried() {
    let mut envelope = envelope();
    envelope.recipients[1].notify = Some(Notify { failure: true, ..Notify::NEVER });
    let mut state = state();
    state.explain(0, &Reply::local(450, (4, 2, 0), "Greylisted"), "192.0.2.25:25");
    state.set_status(2, RecipientStatus::Settled);
    let dsn = compose(&ORIGIN, &report(ReportKind::Delay, envelope, CONTENT, state));
    assert_golden(&dsn, "delayed.eml", include_str!("golden/delayed.eml"));
}

#[test]
fn a_delivery_is_confirmed_as_far_as_it_is_known() {
    let mut state = DeliveryState::default();
    state.explain(0, &Reply::local(250, (2, 1, 5), "taken"), "192.0.2.25:25");
    state.set_status(0, RecipientStatus::Delivered);
    let report = report(ReportKind::Final, envelope(), CONTENT, state);
    let relayed = compose(&ORIGIN, &report);
    assert_golden(&relayed, "relayed.eml", include_str!("golden/relayed.eml"));
    let delivered = compose(&Origin { is_final_hop: true, ..ORIGIN }, &report);
    let text = String::from_utf8(delivered.content.to_vec()).unwrap();
    assert!(text.contains("\r\nAction: delivered\r\nStatus: 2.1.5\r\n"), "{text}");
}

#[test]
fn a_sender_with_a_utf8_address_gets_utf8() {
    let mut envelope = envelope();
    (envelope.utf8, envelope.ret) = (true, Some(Return::Full));
    envelope.reverse_path = "jürgen@example.org".into();
    envelope.recipients[0] = Recipient::new("用户@example.net");
    let mut state = state();
    state.explain(0, &Reply::local(550, (5, 6, 7), "no SMTPUTF8"), "");
    state.set_status(0, RecipientStatus::Failed);
    let content = CONTENT.replace("a mail", "eine Erklärung");
    let dsn = compose(&ORIGIN, &report(ReportKind::Final, envelope, &content, state));
    assert!(dsn.utf8 && dsn.eight_bit);
    assert_golden(&dsn, "utf8.eml", include_str!("golden/utf8.eml"));
}

#[test]
fn a_sender_with_an_ascii_address_gets_ascii_and_the_header_at_most_in_8_bit() {
    let mut envelope = envelope();
    envelope.utf8 = true;
    envelope.recipients[0] = Recipient::new("用户@example.net");
    envelope.recipients[0].original = Some("utf-8;\\x{7528}@example.net".into());
    let mut state = state();
    state.set_status(0, RecipientStatus::Failed);
    let content = CONTENT.replace("a mail", "eine Erklärung");
    let report = report(ReportKind::Final, envelope, &content, state);
    let dsn = compose(&ORIGIN, &report);
    assert!(!dsn.utf8 && dsn.eight_bit);
    let text = String::from_utf8(dsn.content.to_vec()).unwrap();
    assert!(text.contains("Original-Recipient: utf-8; \\x{7528}@example.net\r\n"), "{text}");
    assert!(text.contains("Final-Recipient: utf-8; \\x{7528}\\x{6237}@example.net\r\n"));
    assert!(text.contains("message/global-headers") && text.contains("Erklärung"));
    check(&dsn.content, &dsn);
}

#[test]
fn an_original_recipient_of_the_type_utf_8_is_encoded_in_ascii_also_when_it_is_ascii() {
    let mut envelope = envelope();
    envelope.recipients[0].original = Some("utf-8;a\\x{5C}b@example.net".into());
    let mut state = state();
    state.set_status(0, RecipientStatus::Failed);
    let dsn = compose(&ORIGIN, &report(ReportKind::Final, envelope, CONTENT, state));
    let text = String::from_utf8(dsn.content.to_vec()).unwrap();
    assert!(text.contains("Original-Recipient: utf-8; a\\x{5C}b@example.net\r\n"), "{text}");
}

#[test]
fn no_more_is_returned_than_does_its_work() {
    let whole = "\r\n\r\n.its text\r\n";
    let returned = |change: &dyn Fn(&mut Envelope), content: &str, content_max: usize| {
        let mut envelope = envelope();
        envelope.ret = Some(Return::Full);
        change(&mut envelope);
        let mut state = state();
        state.set_status(0, RecipientStatus::Failed);
        let origin = Origin { content_max, ..ORIGIN };
        let dsn = compose(&origin, &report(ReportKind::Final, envelope, content, state));
        check(&dsn.content, &dsn);
        String::from_utf8(dsn.content.to_vec()).unwrap()
    };
    assert!(returned(&|_| (), CONTENT, 1000).contains(whole));
    let headers = |text: String| {
        assert!(!text.contains("its text") && text.contains("text/rfc822-headers"), "{text}");
        text
    };
    headers(returned(&|it| it.ret = None, CONTENT, 1000));
    headers(returned(&|it| it.ret = Some(Return::Headers), CONTENT, 1000));
    let cut = headers(returned(&|_| (), CONTENT, 100));
    assert!(cut.contains("by gw.example with") && !cut.contains("Subject: a mail"), "{cut}");
    let eight_bit = CONTENT.replace("a mail", "é");
    assert!(headers(returned(&|_| (), &eight_bit, 1000)).contains("Subject: ??\r\n"));
    let long = format!("X: {}\r\n{CONTENT}", "x".repeat(2000));
    headers(returned(&|_| (), &long, 10_000));
    let bare = CONTENT.replace("Subject: a", "Subject: a\rb\0");
    assert!(headers(returned(&|_| (), &bare, 1000)).contains("Subject: a?b? mail\r\n"));
}

#[test]
fn what_does_not_fit_a_report_is_left_for_the_next() {
    let mut envelope = envelope();
    let long = format!("{}@{}.example", "u".repeat(60), "d".repeat(180));
    envelope.recipients = vec![Recipient::new(long.as_str()); 1000];
    let mut state = state();
    let text = "x".repeat(500);
    for place in 0..1000 {
        state.explain(place, &Reply::local(550, (5, 1, 1), &text), "192.0.2.25:25");
        state.set_status(place, RecipientStatus::Failed);
    }
    let mut told = 0;
    while state.is_report_due(1000) {
        let report = report(ReportKind::Final, envelope.clone(), CONTENT, state.clone());
        let dsn = compose(&ORIGIN, &report);
        assert!(dsn.covered > 100 && dsn.content.len() < REPORT_SIZE_BYTES_MAX, "{}", dsn.covered);
        check(&dsn.content, &dsn);
        told += dsn.covered;
        state.settle_reported(1000, dsn.covered);
    }
    assert_eq!(told, 1000);
}

#[test]
fn the_name_tells_reports_apart_and_a_repeat_is_the_same() {
    let mut state = state();
    state.set_status(0, RecipientStatus::Failed);
    let one = report(ReportKind::Final, envelope(), CONTENT, state.clone());
    let first = compose(&ORIGIN, &one);
    assert_eq!(compose(&ORIGIN, &one).content, first.content);
    let name = |origin: &Origin<'_>, change: &dyn Fn(&mut Report)| {
        let mut other = report(ReportKind::Final, envelope(), CONTENT, state.clone());
        change(&mut other);
        compose(origin, &other).name
    };
    let others = [
        name(&ORIGIN, &|it| it.version = StateVersion(4)),
        name(&ORIGIN, &|it| it.kind = ReportKind::Delay),
        name(&Origin { id: MessageId(1), ..ORIGIN }, &|_| ()),
        name(&Origin { queue: "other", ..ORIGIN }, &|_| ()),
        name(&Origin { gateway: "gw2", ..ORIGIN }, &|_| ()),
    ];
    for other in others {
        assert_ne!(other, first.name);
    }
}

#[test]
fn a_boundary_in_the_content_is_not_used() {
    let mut envelope = envelope();
    envelope.ret = Some(Return::Full);
    let mut state = state();
    state.set_status(0, RecipientStatus::Failed);
    let make = |content: &str| {
        let report = report(ReportKind::Final, envelope.clone(), content, state.clone());
        compose(&ORIGIN, &report).content
    };
    let used = |content: &[u8]| {
        let text = str::from_utf8(content).unwrap();
        let at = text.find("boundary=\"").unwrap() + 10;
        text[at..].split('"').next().unwrap().to_owned()
    };
    let first = used(&make(CONTENT));
    let hostile = format!("{CONTENT}--{first}--\r\nAction: delivered\r\n");
    let content = make(&hostile);
    assert_ne!(used(&content), first);
    let parsed = MessageParser::new().parse(&content[..]).unwrap();
    assert_eq!(parsed.root_part().sub_parts().map(<[u32]>::len), Some(3));
}

#[test]
fn the_domain_of_a_sender_is_behind_its_last_at() {
    let table = [
        ("a@b.example", "b.example"),
        ("\"a@b\"@c.example", "c.example"),
        ("a@[192.0.2.1]", "[192.0.2.1]"),
        ("a@[x-tag:a@b]", "[x-tag:a@b]"),
    ];
    for (path, domain) in table {
        assert_eq!(domain_of(path), domain);
    }
}

/// What holds for every DSN, as another parser sees it.
fn check(content: &[u8], dsn: &Dsn) {
    assert!(content.ends_with(b"\r\n"));
    let text = content.strip_suffix(b"\r\n").unwrap();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(line.len() <= LINE_SIZE_MAX && !line.contains(&b'\r') && !line.contains(&0));
    }
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), {
        text.windows(2).filter(|pair| *pair == b"\r\n").count()
    });
    assert_eq!(dsn.eight_bit, !content.is_ascii());
    let has_dot = content.starts_with(b".") || content.windows(2).any(|it| it == b"\n.");
    assert_eq!(dsn.leading_dot, has_dot);
    let header_end = content.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    assert_eq!(dsn.utf8, !content[..header_end].is_ascii());
    let parsed = MessageParser::new().parse(content).expect("a mail");
    assert_eq!(parsed.message_id(), Some(&*dsn.name));
    let kind = parsed.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
    let parts = parsed.root_part().sub_parts().expect("parts").to_vec();
    assert_eq!(parts.len(), 3);
    let status = parsed.part(parts[1]).unwrap();
    let subtype = status.content_type().unwrap().subtype().unwrap();
    assert!(subtype.ends_with("delivery-status"), "{subtype}");
    let fields = str::from_utf8(status.contents()).unwrap();
    // RFC 3464 §2.1: groups of fields, with an empty line before each recipient's.
    let groups: Vec<&str> = fields.trim_end().split("\r\n\r\n").collect();
    assert_eq!(groups.len(), 1 + dsn.covered, "{fields}");
    assert!(groups[0].starts_with("Reporting-MTA: dns; gw.example\r\n"), "{fields}");
    for group in &groups[1..] {
        for field in ["Final-Recipient: ", "Action: ", "Status: "] {
            let starts = group.lines().filter(|line| line.starts_with(field));
            assert_eq!(starts.count(), 1, "{field} in {group}");
        }
        let is_field =
            |line: &str| line.split_once(": ").is_some_and(|(name, _)| FIELDS.contains(&name));
        assert!(group.lines().all(is_field), "{group}");
    }
}

const FIELDS: [&str; 8] = [
    "Original-Recipient",
    "Final-Recipient",
    "Action",
    "Status",
    "Remote-MTA",
    "Diagnostic-Code",
    "Last-Attempt-Date",
    "Will-Retry-Until",
];

fn hostile() -> impl Strategy<Value = String> {
    let pieces =
        ["\r\n", "\n", "\r", "\0", "\r\n\r\n", "Action: delivered", "--=_report_", "é", "用"];
    let piece = prop_oneof![
        prop::sample::select(pieces.to_vec()).prop_map(str::to_owned),
        "[ -~]{0,12}",
        "\\PC{0,4}",
        Just("+0D+0A".to_owned()),
        Just("\\x{0D}".to_owned()),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

prop_compose! {
    fn reports()(
        reverse_path in hostile(),
        addresses in prop::collection::vec((hostile(), prop::option::of(hostile())), 1..5),
        envelope_id in prop::option::of(hostile()),
        flags: [bool; 3],
        ret in prop::sample::select(vec![None, Some(Return::Full), Some(Return::Headers)]),
        statuses in prop::collection::vec(0..3_usize, 5),
        reply in hostile(),
        next_hop in hostile(),
        header in hostile(),
        body in prop::collection::vec(any::<u8>(), 0..200),
        is_delay: bool,
    ) -> Report {
        let typed = |text: String| -> Box<str> { format!("rfc822;{text}").into() };
        let recipients = addresses.into_iter().map(|(address, original)| {
            let original = original.map(typed);
            Recipient { address: address.into(), notify: None, original }
        });
        let mut envelope = Envelope::new(format!("s{reverse_path}"), recipients.collect());
        (envelope.eight_bit, envelope.utf8) = (flags[0], flags[1]);
        envelope.ret = ret;
        envelope.envelope_id = envelope_id.map(String::into_boxed_str);
        let mut state = DeliveryState::deferred(u16::from(flags[2]), 0);
        for place in 0..envelope.recipients.len() {
            state.explain(place, &Reply::local(550, (5, 1, 1), &reply), &next_hop);
            let all = [RecipientStatus::Failed, RecipientStatus::Delivered, RecipientStatus::Open];
            state.set_status(place, all[if is_delay { 2 } else { statuses[place] }]);
        }
        let content = [format!("Subject: {header}\r\n\r\n").as_bytes(), &body].concat();
        let kind = if is_delay { ReportKind::Delay } else { ReportKind::Final };
        let mut made = report(kind, envelope, "", state);
        let content = Bytes::from(content);
        made.message = Arc::new(Message { envelope: made.message.envelope.clone(), content });
        made
    }
}

proptest! {
    #[test]
    fn whatever_others_wrote_a_dsn_is_well_formed(report in reports(), content_max in 0..400_usize) {
        let dsn = compose(&Origin { content_max, ..ORIGIN }, &report);
        check(&dsn.content, &dsn);
        let text = String::from_utf8_lossy(&dsn.content);
        let header = text.split("\r\n\r\n").next().unwrap();
        for field in ["From: ", "To: ", "Subject: ", "Auto-Submitted: "] {
            let count = header.lines().filter(|line| line.starts_with(field)).count();
            prop_assert_eq!(count, 1, "{} in {}", field, header);
        }
    }
}

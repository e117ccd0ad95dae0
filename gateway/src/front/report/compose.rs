//! Makes a DSN of a report: `multipart/report` by RFC 3464 and RFC 6522, with a text for people, the
//! status for programs, and something of the original.
//!
//! A pure function: the same report gives the same bytes, also after a restart, so that a repeat is
//! recognised by its Message-ID and is no other mail. What others wrote (replies, addresses, ENVID,
//! ORCPT) goes in as one printable piece of one line, or not at all.

use std::fmt::{Display, Write};

use bytes::Bytes;
use kvs_proto::MessageId;

use super::returned;
use super::status::{Action, Told};
use crate::api::{Report, ReportKind};
use crate::front::date::Date;
use crate::message::{Envelope, RecipientEvent, RecipientStatus};

/// Where a report comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    /// The gateway's name in SMTP.
    pub(super) hostname: &'a str,
    /// The gateway's name among its like.
    pub(super) gateway: &'a str,
    /// The queue that has the message.
    pub(super) queue: &'a str,
    /// The message's id there.
    pub(super) id: MessageId,
    /// The queue's next hops are mailbox servers, so what they took is delivered.
    pub(super) is_final_hop: bool,
    /// Most octets that are returned of the original.
    pub(super) content_max: usize,
}

/// A DSN, ready to be stored.
#[derive(Debug)]
pub(super) struct Dsn {
    /// Lines end with CRLF and have at most 998 octets without it.
    pub(super) content: Bytes,
    /// It has octets above 127.
    pub(super) eight_bit: bool,
    /// Its header has.
    pub(super) utf8: bool,
    /// Some line begins with a dot.
    pub(super) leading_dot: bool,
    /// Its Message-ID without brackets.
    pub(super) name: String,
    /// The recipients that it tells of: the first so many that there are to tell of.
    pub(super) covered: usize,
}

/// One part of the DSN. Its lines end with CRLF, the last one too.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) content_type: &'static str,
    pub(super) description: &'static str,
    pub(super) body: Vec<u8>,
}

/// Makes the DSN.
pub(super) fn compose(origin: &Origin<'_>, report: &Report) -> Dsn {
    let envelope = &report.message.envelope;
    let utf8 = !envelope.reverse_path.is_ascii();
    let status = Status::of(origin, report, utf8);
    let name = name(origin, report);
    let has_failed = status.actions.contains(&Action::Failed);
    let parts = [
        Part {
            content_type: if utf8 {
                "text/plain; charset=utf-8"
            } else {
                "text/plain; charset=us-ascii"
            },
            description: "Notification",
            body: notification(origin, report, &status).into(),
        },
        Part {
            content_type: if utf8 {
                "message/global-delivery-status"
            } else {
                "message/delivery-status"
            },
            description: "Delivery report",
            body: status.fields.into(),
        },
        returned::part(&report.message, has_failed, origin.content_max),
    ];
    let boundary = boundary(&name, &parts);
    let eight_bit = utf8 || parts.iter().any(|part| !part.body.is_ascii());
    let mut content = header(origin, report, &name, &status.actions, &boundary).into_bytes();
    if eight_bit {
        content.extend_from_slice(b"Content-Transfer-Encoding: 8bit\r\n");
    }
    for part in &parts {
        part.append_to(&mut content, &boundary);
    }
    content.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let leading_dot = content.starts_with(b".") || content.windows(2).any(|pair| pair == b"\n.");
    let (content, covered) = (Bytes::from(content), status.actions.len());
    Dsn { content, eight_bit, utf8, leading_dot, name, covered }
}

/// What is told of each recipient.
#[derive(Debug)]
struct Status {
    /// The body of the part for programs.
    fields: String,
    /// The list for people, one entry for each of the first recipients.
    list: String,
    /// By recipient.
    actions: Vec<Action>,
}

impl Status {
    fn of(origin: &Origin<'_>, report: &Report, utf8: bool) -> Status {
        let envelope = &report.message.envelope;
        let mut status = Status { fields: String::new(), list: String::new(), actions: Vec::new() };
        put(&mut status.fields, "Reporting-MTA", format_args!("dns; {}", origin.hostname));
        if let Some(id) = &envelope.envelope_id {
            // What is no xtext is not ours to explain (RFC 3464 §2.2.1).
            if let Some(id) = smtp::decode_xtext(id) {
                put(&mut status.fields, "Original-Envelope-Id", id);
            }
        }
        let accepted = Date { unix_ms: envelope.accepted_unix_ms };
        put(&mut status.fields, "Arrival-Date", accepted);
        for place in due_places(report) {
            let told = Told::new(report, place, origin.is_final_hop, utf8);
            let before = (status.fields.len(), status.list.len());
            status.fields.push_str("\r\n");
            told.append_fields(&mut status.fields);
            if status.actions.len() < LISTED_MAX {
                told.append_words(&mut status.list);
            }
            if status.fields.len() > FIELDS_SIZE_BYTES_MAX && !status.actions.is_empty() {
                status.fields.truncate(before.0);
                status.list.truncate(before.1);
                break;
            }
            status.actions.push(told.action);
        }
        status
    }
}

/// The recipients that there are to tell of.
fn due_places(report: &Report) -> impl Iterator<Item = usize> {
    let envelope: &Envelope = &report.message.envelope;
    (0..envelope.recipients.len()).filter(move |place| match report.kind {
        ReportKind::Final => report.state.status(*place).is_report_due(),
        ReportKind::Delay => {
            report.state.status(*place) == RecipientStatus::Open
                && envelope.wants_report(*place, RecipientEvent::Delayed)
        }
    })
}

/// The same for the same report in every life of the gateway, and for no other: the message's time
/// of acceptance and id, the version of the state, and a hash of the names. There is one delay
/// warning for a message, whatever its state.
fn name(origin: &Origin<'_>, report: &Report) -> String {
    let Origin { hostname, gateway, queue, id, .. } = origin;
    let accepted = report.message.envelope.accepted_unix_ms;
    let kind = match report.kind {
        ReportKind::Final => format!("{:x}", report.version.0),
        ReportKind::Delay => "delay".into(),
    };
    let place = fnv(gateway.bytes().chain([b'/']).chain(queue.bytes()));
    format!("{accepted:x}.{:x}.{kind}.{place:016x}@{hostname}", id.0)
}

fn header(
    origin: &Origin<'_>,
    report: &Report,
    name: &str,
    actions: &[Action],
    boundary: &str,
) -> String {
    let subject = if actions.contains(&Action::Failed) {
        "Your mail could not be delivered"
    } else if actions.contains(&Action::Delayed) {
        "Your mail is delayed"
    } else {
        "Your mail was delivered"
    };
    let envelope = &report.message.envelope;
    let mut text = String::new();
    put(&mut text, "Date", Date { unix_ms: report.at_unix_ms });
    let hostname = origin.hostname;
    put(&mut text, "From", format_args!("Mail Delivery System <MAILER-DAEMON@{hostname}>"));
    put(&mut text, "To", format_args!("<{}>", clean(&envelope.reverse_path)));
    put(&mut text, "Subject", subject);
    put(&mut text, "Message-ID", format_args!("<{name}>"));
    if let Some(original) = returned::message_id(&report.message.content) {
        put(&mut text, "In-Reply-To", original);
        put(&mut text, "References", original);
    }
    put(&mut text, "Auto-Submitted", "auto-replied");
    put(&mut text, "MIME-Version", "1.0");
    // RFC 6533 §6 keeps the name of the type of report.
    text.push_str("Content-Type: multipart/report; report-type=delivery-status;\r\n");
    text.push_str(&format!("\tboundary=\"{boundary}\"\r\n"));
    text
}

/// The text for people.
fn notification(origin: &Origin<'_>, report: &Report, status: &Status) -> String {
    let mut text = format!("This is the mail system at {}.\r\n\r\n", origin.hostname);
    let actions = &status.actions;
    if actions.contains(&Action::Failed) {
        text.push_str(
            "Your mail could not be delivered to one or more of its recipients. It will not\r\n\
             be tried again for those that are named as failed here.\r\n",
        );
    } else if actions.contains(&Action::Delayed) {
        let until = Date { unix_ms: report.retry_until_unix_ms };
        text.push_str(&format!(
            "Your mail could not be delivered yet. This is a warning only: you need not send\r\n\
             it again. It will be tried until\r\n{until}.\r\n"
        ));
    } else {
        text.push_str("Your mail has got as far as it is told here.\r\n");
    }
    text.push_str("\r\n");
    text.push_str(&status.list);
    if let Some(more) = actions.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
        text.push_str(&format!("and {more} more, which the attached report names.\r\n"));
    }
    text
}

/// A boundary that begins no line of the parts (RFC 2046 §5.1.1). Each try rules out what was
/// written for the tries before, so there are at most as many as the parts have lines.
fn boundary(name: &str, parts: &[Part]) -> String {
    let mut seed = fnv(name.bytes());
    loop {
        // RFC 2045 §6.7: what has `=_` in it is in no quoted-printable text.
        let boundary = format!("=_report_{seed:016x}");
        let is_free = |part: &Part| {
            let mut lines = part.body.split(|byte| *byte == b'\n');
            !lines.any(|line| {
                line.strip_prefix(b"--").is_some_and(|it| it.starts_with(boundary.as_bytes()))
            })
        };
        if parts.iter().all(is_free) {
            return boundary;
        }
        seed = seed.wrapping_add(1);
    }
}

impl Part {
    fn append_to(&self, content: &mut Vec<u8>, boundary: &str) {
        let Part { content_type, description, body } = self;
        let mut head = format!("\r\n--{boundary}\r\n");
        put(&mut head, "Content-Type", content_type);
        put(&mut head, "Content-Description", description);
        if !body.is_ascii() {
            put(&mut head, "Content-Transfer-Encoding", "8bit");
        }
        head.push_str("\r\n");
        content.extend_from_slice(head.as_bytes());
        content.extend_from_slice(body);
    }
}

/// Appends a header field on one line.
pub(super) fn put(text: &mut String, name: &str, value: impl Display) {
    put_line(text, format_args!("{name}: {value}"));
}

/// Appends a line. What is longer than a line may be is cut.
pub(super) fn put_line(text: &mut String, line: impl Display) {
    let start = text.len();
    let result = write!(text, "{line}");
    debug_assert!(result.is_ok(), "writing to a string does not fail");
    let mut end = text.len().min(start + LINE_SIZE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str("\r\n");
}

/// What others wrote, as a piece of one line: control characters, and what reorders text, have
/// become question marks.
pub(super) fn clean(text: &str) -> String {
    let is_harmless = |char: char| {
        !char.is_control() && !matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|char| if is_harmless(char) { char } else { '?' }).collect()
}

fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// RFC 5322 §2.1.1, without CRLF.
pub(super) const LINE_SIZE_MAX: usize = 998;

/// Recipients that the text for people lists; the others are in the part for programs only.
const LISTED_MAX: usize = 50;

/// Size of the part for programs. Recipients beyond it get another report.
const FIELDS_SIZE_BYTES_MAX: usize = 256 << 10;

/// Most octets of a DSN beside what it returns: the part for programs with a last recipient of four
/// full lines, the list for people with two lines for each, and headers.
pub const REPORT_SIZE_BYTES_MAX: usize =
    FIELDS_SIZE_BYTES_MAX + (LISTED_MAX * 2 + 32) * (LINE_SIZE_MAX + 2);

//! Delivery status notifications as a sink reads them (RFC 3461, RFC 3464, RFC 6522): which mail they
//! are about, what became of its recipients, and what is wrong with their form.
//!
//! Written apart from the gateway's, on purpose: a mistake in one must show in the other. What comes
//! in may be anything, so everything is bounded and nothing is taken for granted.

use std::borrow::Cow;

use crate::identity::{MailId, find_mail_field};

/// What a DSN says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dsn {
    /// The mail that it is about, from the identity in the returned header.
    pub original: Option<MailId>,
    /// What it is about is itself a DSN: nobody may ever send such a thing (RFC 5321 §6.1).
    pub about_dsn: bool,
    /// What became of whom; at most [`RECIPIENTS_MAX`], further ones are left out.
    pub recipients: Vec<DsnRecipient>,
    /// What is wrong with its form, each in a few words.
    pub faults: Vec<&'static str>,
}

/// What a DSN says about one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DsnRecipient {
    /// The final recipient without the address type.
    pub address: Box<str>,
    /// What became of it.
    pub action: Action,
}

/// What became of a recipient (RFC 3464 §2.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Given up.
    Failed,
    /// Not yet delivered; tried again.
    Delayed,
    /// Delivered.
    Delivered,
    /// Handed to a system that reports nothing.
    Relayed,
    /// Delivered and sent on to several.
    Expanded,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 5] =
        [Action::Failed, Action::Delayed, Action::Delivered, Action::Relayed, Action::Expanded];

    /// The word for it, in DSNs and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Delivered => "delivered",
            Action::Relayed => "relayed",
            Action::Expanded => "expanded",
        }
    }

    /// Reads the word, in any case.
    pub fn parse(word: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.name().eq_ignore_ascii_case(word))
    }
}

impl Dsn {
    /// Reads a mail's content. `None`: it is no multipart/report of the type delivery-status.
    pub fn parse(content: &[u8]) -> Option<Dsn> {
        let (header, body) = split_header(content);
        let kind = field(header, "content-type").filter(|kind| is_report(kind))?;
        let mut dsn = Dsn::default();
        let Some(boundary) = parameter(&kind, "boundary").filter(|text| !text.is_empty()) else {
            dsn.faults.push("without a boundary");
            return Some(dsn);
        };
        let mut parts = Parts { rest: body, boundary: format!("--{boundary}") };
        parts.next_part();
        let read: Vec<&[u8]> = std::iter::from_fn(|| parts.next_part()).take(PARTS_MAX).collect();
        if !parts.rest.is_empty() || !parts.boundary.is_empty() {
            dsn.faults.push("without its last boundary");
        }
        let [_, status, rest @ ..] = &*read else {
            dsn.faults.push("without a second part");
            return Some(dsn);
        };
        dsn.read_status(status);
        match rest {
            [] => dsn.faults.push("without the original's header"),
            [original, ..] => dsn.read_original(original),
        }
        Some(dsn)
    }

    /// Reads message/delivery-status (RFC 3464 §2.1): groups of fields with empty lines between.
    fn read_status(&mut self, part: &[u8]) {
        let (header, mut body) = split_header(part);
        let kind = field(header, "content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !matches!(&*kind, "message/delivery-status" | "message/global-delivery-status") {
            self.faults.push("whose second part is no delivery status");
            return;
        }
        let mut first = true;
        while !body.is_empty() {
            let (group, rest) = split_header(body);
            body = rest;
            if group.trim_ascii().is_empty() {
                continue;
            }
            if std::mem::take(&mut first) {
                if field(group, "reporting-mta").is_none() {
                    self.faults.push("without Reporting-MTA");
                }
                continue;
            }
            if self.recipients.len() < RECIPIENTS_MAX {
                self.read_recipient(group);
            }
        }
        if self.recipients.is_empty() {
            self.faults.push("that names no recipient");
        }
    }

    fn read_recipient(&mut self, group: &[u8]) {
        let typed = field(group, "final-recipient");
        let address = typed.as_deref().and_then(|text| text.split_once(';'));
        let action = field(group, "action").and_then(|word| Action::parse(word.trim()));
        if !field(group, "status").is_some_and(|status| is_status(status.trim())) {
            self.faults.push("without a Status for each recipient");
        }
        match (address, action) {
            (Some((_, address)), Some(action)) => {
                self.recipients.push(DsnRecipient { address: address.trim().into(), action });
            }
            (None, _) => self.faults.push("without a Final-Recipient"),
            (_, None) => self.faults.push("without an Action for each recipient"),
        }
    }

    /// Reads what was returned of the original: the whole (message/rfc822) or its header.
    fn read_original(&mut self, part: &[u8]) {
        let (header, body) = split_header(part);
        let kind = field(header, "content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let returned = matches!(
            &*kind,
            "message/rfc822" | "text/rfc822-headers" | "message/global" | "message/global-headers"
        );
        if !returned {
            self.faults.push("whose third part is no mail");
            return;
        }
        let (original, _) = split_header(body);
        self.original = find_mail_field(original);
        self.about_dsn = field(original, "content-type").is_some_and(|kind| is_report(&kind));
    }
}

/// Most recipients that are read from one DSN; as many as a mail of ours can have.
pub const RECIPIENTS_MAX: usize = 20_000;

/// Most parts that are looked at; a DSN has three.
const PARTS_MAX: usize = 8;

/// The longest header that is searched for fields; what lies behind is not found.
const HEADER_SIZE_BYTES_MAX: usize = 2 << 20;

fn is_report(kind: &str) -> bool {
    let media = kind.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("multipart/report")
        && parameter(kind, "report-type")
            .is_some_and(|of| of.eq_ignore_ascii_case("delivery-status"))
}

/// Whether that is a status code (RFC 3463 §2), with or without a comment behind it.
fn is_status(text: &str) -> bool {
    let code = text.split([' ', '\t', '(']).next().unwrap_or_default();
    let parts: Vec<&str> = code.split('.').collect();
    let digits =
        |part: &&str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    parts.len() == 3 && matches!(parts[0], "2" | "4" | "5") && parts.iter().all(digits)
}

/// What stands before the first empty line, and what behind it.
fn split_header(content: &[u8]) -> (&[u8], &[u8]) {
    if let Some(body) = content.strip_prefix(b"\r\n") {
        return (b"", body);
    }
    match memchr::memmem::find(content, b"\r\n\r\n") {
        Some(at) => (&content[..at + 2], &content[at + 4..]),
        None => (content, b""),
    }
}

/// The first field of that name (in small letters), unfolded, without the name.
fn field(header: &[u8], name: &str) -> Option<String> {
    let header = &header[..header.len().min(HEADER_SIZE_BYTES_MAX)];
    let mut value: Option<String> = None;
    for line in header.split(|&byte| byte == b'\n') {
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
        if line.starts_with([' ', '\t']) {
            if let Some(value) = &mut value {
                value.push_str(&line);
            }
            continue;
        }
        if value.is_some() {
            break;
        }
        let named = |(of, text): (&str, &str)| {
            of.trim_end().eq_ignore_ascii_case(name).then(|| text.trim_start().to_owned())
        };
        value = line.split_once(':').and_then(named);
    }
    value
}

/// A parameter of a Content-Type field (RFC 2045 §5.1), without its quotes.
fn parameter(kind: &str, name: &str) -> Option<String> {
    let mut rest = &kind[kind.find(';')? + 1..];
    while let Some((found, tail)) = rest.split_once('=') {
        let found = found.trim();
        let tail = tail.trim_start();
        let (value, behind): (Cow<'_, str>, &str) = if let Some(quoted) = tail.strip_prefix('"') {
            read_quoted(quoted)
        } else {
            let end = tail.find([';', ' ', '\t']).unwrap_or(tail.len());
            (tail[..end].into(), &tail[end..])
        };
        if found.eq_ignore_ascii_case(name) {
            return Some(value.into_owned());
        }
        rest = behind.split_once(';')?.1;
    }
    None
}

/// The string up to its closing quote, and what stands behind that.
fn read_quoted(text: &str) -> (Cow<'_, str>, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value.into(), &text[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            _ => value.push(letter),
        }
    }
    (value.into(), "")
}

/// Takes a multipart body apart (RFC 2046 §5.1.1); the first part is the preamble.
struct Parts<'c> {
    rest: &'c [u8],
    /// Two hyphens and the boundary; empty behind the last one.
    boundary: String,
}

impl<'c> Parts<'c> {
    /// What stands before the next boundary, without the line's end that belongs to that.
    fn next_part(&mut self) -> Option<&'c [u8]> {
        if self.boundary.is_empty() {
            return None;
        }
        let boundary = self.boundary.as_bytes();
        for at in memchr::memmem::find_iter(self.rest, boundary) {
            let begins_line = at == 0 || self.rest[..at].ends_with(b"\r\n");
            let behind = &self.rest[at + boundary.len()..];
            let end = memchr::memchr(b'\n', behind).map_or(behind.len(), |end| end + 1);
            let (line, tail) = behind.split_at(end);
            let is_last = line.starts_with(b"--");
            let line = if is_last { &line[2..] } else { line };
            if !begins_line || !line.trim_ascii().is_empty() {
                continue;
            }
            let part = self.rest[..at].strip_suffix(b"\r\n").unwrap_or(&self.rest[..at]);
            self.rest = if is_last { b"" } else { tail };
            if is_last {
                self.boundary.clear();
            }
            return Some(part);
        }
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A DSN about a mail of ours, as simple as it may be.
    pub(crate) fn sample(mail: MailId, recipients: &[(&str, &str)]) -> String {
        let groups: String = recipients
            .iter()
            .map(|(address, action)| {
                format!("\r\nFinal-Recipient: rfc822; {address}\r\nAction: {action}\r\nStatus: 5.1.1\r\n")
            })
            .collect();
        format!(
            "Received: from a\r\n by b\r\nFrom: <mailer-daemon@gw.example>\r\nSubject: failed\r\n\
             MIME-Version: 1.0\r\nContent-Type: multipart/report;\r\n\treport-type=delivery-status;\
             \r\n boundary=\"=_a b\"\r\n\r\n\
             A preamble.\r\n--=_a b\r\nContent-Type: text/plain\r\n\r\nIt failed.\r\n\
             \r\n--=_a b\r\nContent-Type: message/delivery-status\r\n\r\n\
             Reporting-MTA: dns; gw.example\r\n{groups}\r\n--=_a b\r\n\
             Content-Type: text/rfc822-headers\r\n\r\nReceived: x\r\nX-Load-Digest: 0123456789abcdef\
             \r\nX-Load-Mail: {:08x} {}\r\nSubject: x\r\n\r\n--=_a b--\r\n",
            mail.run, mail.number,
        )
    }

    const MAIL: MailId = MailId { run: 42, number: 17 };

    fn two() -> String {
        sample(
            MAIL,
            &[("0000002a-17-0@a.example", "failed"), ("0000002a-17-1@b.example", "Delayed")],
        )
    }

    #[test]
    fn a_dsn_names_its_mail_and_what_became_of_each_recipient() {
        let dsn = Dsn::parse(two().as_bytes()).unwrap();
        assert_eq!((dsn.original, dsn.about_dsn, &dsn.faults[..]), (Some(MAIL), false, &[][..]));
        let of = |place: usize| (&*dsn.recipients[place].address, dsn.recipients[place].action);
        assert_eq!(of(0), ("0000002a-17-0@a.example", Action::Failed));
        assert_eq!(of(1), ("0000002a-17-1@b.example", Action::Delayed));
    }

    #[test]
    fn the_whole_original_may_be_returned() {
        let content = two()
            .replace("text/rfc822-headers", "message/rfc822; charset=x")
            .replace("\r\n\r\n--=_a b--", "\r\n\r\nbody\r\n--=_a bc\r\n--=_a b--");
        let dsn = Dsn::parse(content.as_bytes()).unwrap();
        assert_eq!((dsn.original, dsn.faults.len()), (Some(MAIL), 0), "{:?}", dsn.faults);
    }

    #[test]
    fn other_mail_is_no_dsn() {
        for content in [
            "Subject: x\r\n\r\nContent-Type: multipart/report; report-type=delivery-status\r\n",
            "Content-Type: multipart/report; report-type=disposition-notification\r\n\r\n",
            "Content-Type: multipart/mixed; report-type=delivery-status\r\n\r\n",
            "",
        ] {
            assert_eq!(Dsn::parse(content.as_bytes()), None);
        }
    }

    #[test]
    fn what_a_dsn_lacks_is_named() {
        for (from, to, fault) in [
            ("Reporting-MTA", "Reported-MTA", "without Reporting-MTA"),
            ("Status: 5.1.1", "Status: 550", "without a Status for each recipient"),
            ("Action: failed", "Action: lost", "without an Action for each recipient"),
            ("Final-Recipient", "Last-Recipient", "without a Final-Recipient"),
            ("--=_a b--", "", "without its last boundary"),
            ("message/delivery-status", "text/plain", "whose second part is no delivery status"),
            ("text/rfc822-headers", "image/png", "whose third part is no mail"),
            ("boundary=", "bound=", "without a boundary"),
        ] {
            let content = two().replace(from, to);
            let dsn = Dsn::parse(content.as_bytes()).unwrap();
            assert!(dsn.faults.contains(&fault), "{fault}: {:?}", dsn.faults);
        }
        let headless = two();
        let at = headless.find("--=_a b\r\nContent-Type: text/rfc822").unwrap();
        let dsn = Dsn::parse(format!("{}--=_a b--\r\n", &headless[..at]).as_bytes()).unwrap();
        assert_eq!((&dsn.faults[..], dsn.original), (&["without the original's header"][..], None));
        assert_eq!(dsn.recipients.len(), 2);
        let nobody = Dsn::parse(sample(MAIL, &[]).as_bytes()).unwrap();
        assert_eq!(nobody.faults, ["that names no recipient"]);
    }

    #[test]
    fn a_dsn_about_a_dsn_is_told() {
        let inner =
            "X: y\r\nContent-Type: multipart/report; report-type=delivery-status\r\nSubject: x";
        let dsn = Dsn::parse(two().replace("Subject: x", inner).as_bytes()).unwrap();
        assert!(dsn.about_dsn);
    }

    proptest! {
        #[test]
        fn no_content_stops_the_process(
            cut in 0_usize..900, at in 0_usize..900, bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut content = two().into_bytes();
            content.splice(at.min(content.len() - 1)..at.min(content.len() - 1), bytes);
            content.truncate(cut.max(200));
            let _ = Dsn::parse(&content);
        }
    }
}

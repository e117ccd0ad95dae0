//! The trace header (RFC 5321 §4.4) and the name of a mail.

use std::fmt::{self, Write};
use std::net::IpAddr;

/// What we call a mail in its 250, its trace header and its records. Unique among the gateway's
/// mails: time, front, and a number that the front does not use again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MailId {
    pub(super) unix_ms: u64,
    pub(super) front: u16,
    pub(super) serial: u64,
}

impl fmt::Display for MailId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}-{:X}-{:X}", self.unix_ms, self.front, self.serial)
    }
}

/// What a Received line says. All names were checked to be safe in a header.
#[derive(Debug)]
pub(super) struct TraceHeader<'a> {
    pub(super) client_name: &'a str,
    pub(super) client_address: IpAddr,
    pub(super) hostname: &'a str,
    pub(super) extended: bool,
    /// MAIL said SMTPUTF8.
    pub(super) utf8: bool,
    /// MT-PRIORITY, where the client gave one.
    pub(super) priority: Option<i8>,
    pub(super) id: MailId,
}

impl fmt::Display for TraceHeader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // RFC 3848 and RFC 6531 §4.3.
        let protocol = match (self.extended, self.utf8) {
            (_, true) => "UTF8SMTP",
            (true, false) => "ESMTP",
            (false, false) => "SMTP",
        };
        let address = Literal(self.client_address.to_canonical());
        let TraceHeader { client_name, hostname, id, .. } = self;
        write!(f, "Received: from {client_name} ({address})\r\n")?;
        write!(f, "\tby {hostname} with {protocol} id {id}")?;
        // The additional clause of RFC 6710.
        if let Some(priority) = self.priority {
            write!(f, " PRIORITY {priority}")?;
        }
        write!(f, ";\r\n")?;
        write!(f, "\t{}\r\n", Date { unix_ms: self.id.unix_ms })
    }
}

/// Appends the header to content.
pub(super) fn append(content: &mut Vec<u8>, header: &TraceHeader<'_>) {
    let mut text = String::with_capacity(TRACE_LEN_TYPICAL);
    let result = write!(text, "{header}");
    debug_assert!(result.is_ok(), "writing to a string does not fail");
    content.extend_from_slice(text.as_bytes());
}

const TRACE_LEN_TYPICAL: usize = 192;

/// An address literal (RFC 5321 §4.1.3).
struct Literal(IpAddr);

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "[{address}]"),
            IpAddr::V6(address) => write!(f, "[IPv6:{address}]"),
        }
    }
}

/// `date-time` of RFC 5322 §3.3, in UTC.
struct Date {
    unix_ms: u64,
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.unix_ms / 1000;
        let days = seconds / 86_400;
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let (year, month, day) = civil_date(days);
        // 1 January 1970 was a Thursday.
        let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][index(days % 7)];
        let month = MONTHS[index(month)];
        write!(f, "{weekday}, {day} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
    }
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Year, month from 0, and day from 1, of a day counted from 1 January 1970.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    // In 400 years there are 146,097 days; within those, walk.
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

fn index(small: u64) -> usize {
    usize::try_from(small).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_by_rfc_5322() {
        let table = [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_782_400_000, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_000_000_000_999, "Sun, 9 Sep 2001 01:46:40 +0000"),
            (4_107_542_399_000, "Sun, 28 Feb 2100 23:59:59 +0000"),
            (4_107_542_400_000, "Mon, 1 Mar 2100 00:00:00 +0000"),
            (13_569_465_600_000, "Sat, 1 Jan 2400 00:00:00 +0000"),
        ];
        for (unix_ms, expected) in table {
            assert_eq!(Date { unix_ms }.to_string(), expected);
        }
    }

    #[test]
    fn the_header_is_folded_and_names_the_client() {
        let mut content = Vec::new();
        let header = TraceHeader {
            client_name: "client.example",
            client_address: "::ffff:192.0.2.1".parse().unwrap(),
            hostname: "gw.example",
            extended: true,
            utf8: false,
            priority: None,
            id: MailId { unix_ms: 0xabc, front: 1, serial: 0x2f },
        };
        append(&mut content, &header);
        assert_eq!(
            String::from_utf8(content).unwrap(),
            "Received: from client.example ([192.0.2.1])\r\n\tby gw.example with ESMTP id \
             ABC-1-2F;\r\n\tThu, 1 Jan 1970 00:00:02 +0000\r\n"
        );
        let v6 = TraceHeader { client_address: "2001:db8::1".parse().unwrap(), ..header };
        assert!(v6.to_string().contains("([IPv6:2001:db8::1])"));
        let utf8 = TraceHeader { utf8: true, priority: Some(-3), ..v6 };
        assert!(utf8.to_string().contains(" with UTF8SMTP id ABC-1-2F PRIORITY -3;\r\n"));
    }
}

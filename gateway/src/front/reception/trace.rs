//! The trace header (RFC 5321 §4.4) and the name of a mail.

use std::fmt::{self, Write};
use std::net::IpAddr;

use crate::front::date::Date;

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
    /// The only recipient, if it may be told.
    pub(super) recipient: Option<&'a str>,
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
        if let Some(recipient) = self.recipient {
            write!(f, "\r\n\tfor <{recipient}>")?;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
            recipient: None,
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
        let told = TraceHeader { recipient: Some("r@a.example"), ..utf8 };
        assert!(
            told.to_string().contains(" id ABC-1-2F\r\n\tfor <r@a.example> PRIORITY -3;\r\n\t")
        );
    }
}

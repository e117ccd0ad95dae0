//! Who a mail is: numbers in its addresses and in headers of its own, so that a sink can tell what it
//! received without knowing what was sent.
//!
//! Content of ours begins with three header fields; a relay puts its trace fields before them:
//!
//! ```text
//! X-Load-Digest: 0123456789abcdef            of every byte behind this line
//! X-Load-Mail: 0000002a 17                   run and number
//! X-Load-Queue: d1.example 5,                queue (recipient domain) and place in it,
//!  d2.example 9                              one line for each queue
//! ```
//!
//! Recipients are `RUN-NUMBER-K@domain`, K counting the mail's recipients from 0, so that a recipient
//! refused before its content was seen can be told too. The sender is `load-RUN-NUMBER@domain`, so that
//! a DSN that was refused before its content was seen can be told.

use std::fmt;

use memchr::memmem;

use crate::digest::digest;

/// Names one mail of one run of a sender.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailId {
    /// Which run of a sender; two runs that share a ledger need different ones.
    pub run: u32,
    /// Which mail of it, from 0.
    pub number: u64,
}

impl fmt::Display for MailId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}/{}", self.run, self.number)
    }
}

impl fmt::Debug for MailId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One recipient of a mail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecipientId {
    /// The mail.
    pub mail: MailId,
    /// Which of its recipients, from 0.
    pub place: u16,
}

impl RecipientId {
    /// The address without brackets.
    pub fn address(&self, domain: &str) -> String {
        format!("{:08x}-{}-{}@{domain}", self.mail.run, self.mail.number, self.place)
    }

    /// Reads such an address: the recipient and its domain. `None`: not one of ours.
    pub fn parse(address: &str) -> Option<(RecipientId, &str)> {
        let (local, domain) = address.rsplit_once('@')?;
        let mut parts = local.splitn(3, '-');
        let run = hex_u32(parts.next()?)?;
        let number = parts.next()?.parse().ok()?;
        let place = parts.next()?.parse().ok()?;
        Some((RecipientId { mail: MailId { run, number }, place }, domain))
    }
}

/// The envelope's sender of a mail, without brackets.
pub fn sender_address(mail: MailId, domain: &str) -> String {
    format!("load-{:08x}-{}@{domain}", mail.run, mail.number)
}

/// Reads such an address, in any domain. `None`: not one of ours.
pub fn parse_sender(address: &str) -> Option<MailId> {
    let (local, _) = address.rsplit_once('@')?;
    let (run, number) = local.strip_prefix("load-")?.split_once('-')?;
    Some(MailId { run: hex_u32(run)?, number: number.parse().ok()? })
}

/// The mail that a header of ours names, wherever in it. `None`: it names none.
pub fn find_mail_field(header: &[u8]) -> Option<MailId> {
    let begins_line = |&at: &usize| at == 0 || header[..at].ends_with(b"\n");
    let at = memmem::find_iter(header, MAIL_FIELD).find(begins_line)?;
    read_mail_line(&header[at..])
}

/// What received content says about itself, and what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceivedIdentity {
    /// The digest that it claims.
    pub digest_claimed: u64,
    /// The digest of what arrived.
    pub digest_found: u64,
    /// Which mail it is; `None` when that line cannot be read.
    pub mail: Option<MailId>,
}

impl ReceivedIdentity {
    /// Finds the identity in `content`, wherever trace fields put it. `None`: not one of our mails.
    pub fn find(content: &[u8]) -> Option<ReceivedIdentity> {
        let at = find_digest_line(content)?;
        let value_at = at + DIGEST_FIELD.len();
        let value = content.get(value_at..value_at + DIGEST_DIGITS)?;
        let digest_claimed = hex_u64(std::str::from_utf8(value).ok()?)?;
        let covered = content.get(value_at + DIGEST_DIGITS..)?.strip_prefix(b"\r\n")?;
        Some(ReceivedIdentity {
            digest_claimed,
            digest_found: digest(covered),
            mail: read_mail_line(covered),
        })
    }

    /// The places in queues that `content` claims, as (queue, sequence), in its order.
    pub fn places(content: &[u8]) -> Vec<(&str, u64)> {
        let Some(at) = memmem::find(content, QUEUE_FIELD) else { return Vec::new() };
        let mut places = Vec::new();
        for line in content[at + QUEUE_FIELD.len()..].split_inclusive(|&byte| byte == b'\n') {
            let Ok(text) = std::str::from_utf8(line) else { break };
            let text = text.trim();
            let more = text.ends_with(',');
            let Some((queue, sequence)) = text.trim_end_matches(',').split_once(' ') else { break };
            let Ok(sequence) = sequence.parse() else { break };
            places.push((queue, sequence));
            if !more || places.len() == PLACES_MAX {
                break;
            }
        }
        places
    }
}

/// The digest field's name and what stands before its value.
pub(crate) const DIGEST_FIELD: &[u8] = b"X-Load-Digest: ";
/// The mail field's, likewise.
pub(crate) const MAIL_FIELD: &[u8] = b"X-Load-Mail: ";
/// The queue field's, likewise.
pub(crate) const QUEUE_FIELD: &[u8] = b"X-Load-Queue: ";
/// Hexadecimal digits of a digest.
pub(crate) const DIGEST_DIGITS: usize = 16;
/// Most places that are read from one mail; a mail of ours has no more recipients than that.
pub(crate) const PLACES_MAX: usize = 20_000;

/// How far from its start content is searched for the digest field; trace fields of a hundred hops
/// fit. Content with the field later counts as foreign.
const SEARCH_SIZE_BYTES_MAX: usize = 64 * 1024;

fn find_digest_line(content: &[u8]) -> Option<usize> {
    let head = &content[..content.len().min(SEARCH_SIZE_BYTES_MAX)];
    memmem::find_iter(head, DIGEST_FIELD).find(|&at| at == 0 || head[..at].ends_with(b"\r\n"))
}

fn read_mail_line(covered: &[u8]) -> Option<MailId> {
    let line = covered.strip_prefix(MAIL_FIELD)?;
    let end = memchr::memchr(b'\r', line)?;
    let (run, number) = std::str::from_utf8(&line[..end]).ok()?.split_once(' ')?;
    Some(MailId { run: hex_u32(run)?, number: number.parse().ok()? })
}

fn hex_u32(text: &str) -> Option<u32> {
    (text.len() == 8).then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn hex_u64(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipient_addresses_are_read_back() {
        let id = RecipientId { mail: MailId { run: 42, number: 17 }, place: 3 };
        let address = id.address("d1.example");
        assert_eq!(address, "0000002a-17-3@d1.example");
        assert_eq!(RecipientId::parse(&address), Some((id, "d1.example")));
    }

    #[test]
    fn sender_addresses_are_read_back() {
        let mail = MailId { run: 42, number: 17 };
        assert_eq!(parse_sender(&sender_address(mail, "a.example")), Some(mail));
        for address in ["load-1-2@a", "load-0000002a@a", "load-0000002a-17", "postmaster@a", ""] {
            assert_eq!(parse_sender(address), None, "{address}");
        }
    }

    #[test]
    fn a_mail_field_is_found_at_the_start_of_a_line_only() {
        let mail = Some(MailId { run: 42, number: 17 });
        assert_eq!(find_mail_field(b"A: b\r\nX-Load-Mail: 0000002a 17\r\nC: d\r\n"), mail);
        assert_eq!(find_mail_field(b"Subject: X-Load-Mail: 0000002a 17\r\n"), None);
        assert_eq!(find_mail_field(b"X-Load-Mail: 0000002a 17"), None, "cut off");
    }

    #[test]
    fn foreign_addresses_are_none_of_ours() {
        for address in ["postmaster", "a@b", "1-2-3@c", "0000002a-x-1@c", "0000002a-1@c", "@", ""] {
            assert_eq!(RecipientId::parse(address), None, "{address}");
        }
    }

    #[test]
    fn the_digest_line_must_begin_a_line() {
        assert_eq!(find_digest_line(b"a X-Load-Digest: 1\r\nX-Load-Digest: 2\r\n"), Some(20));
        assert_eq!(ReceivedIdentity::find(b"Subject: X-Load-Digest: 00\r\n\r\n"), None);
    }
}

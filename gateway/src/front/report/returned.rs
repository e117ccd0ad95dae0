//! What a DSN returns of the original.
//!
//! A forged reverse-path makes a DSN a way to send mail to others, so as little goes back as does
//! its work: the header, and the whole only where the sender asked for it (RET=FULL), some recipient
//! has failed, and it is small.

use smtp::Return;

use super::compose::{LINE_SIZE_MAX, Part};
use crate::message::Message;

/// The last part of a DSN.
pub(super) fn part(message: &Message, has_failed: bool, content_max: usize) -> Part {
    let content = &message.content[..];
    let header = &content[..header_size(content)];
    // A header in UTF-8 has types of its own (RFC 6533 §5, RFC 6532 §3.7).
    let is_global = message.envelope.utf8 && !header.is_ascii() && str::from_utf8(header).is_ok();
    let wants_all = has_failed && message.envelope.ret == Some(Return::Full);
    let may_be_8_bit = message.envelope.eight_bit || message.envelope.utf8;
    if wants_all
        && content.len() <= content_max
        && is_canonical(content)
        && (may_be_8_bit || content.is_ascii())
    {
        let content_type = if is_global { "message/global" } else { "message/rfc822" };
        return Part { content_type, description: "Your mail", body: content.to_vec() };
    }
    let is_global = is_global && is_canonical(header);
    Part {
        content_type: if is_global { "message/global-headers" } else { "text/rfc822-headers" },
        description: "The header of your mail",
        body: lines(header, content_max, is_global),
    }
}

/// The original's Message-ID with its brackets, if it can go into another header as it is.
pub(super) fn message_id(content: &[u8]) -> Option<&str> {
    let header = &content[..header_size(content)];
    let mut lines = header.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(MESSAGE_ID.len())?;
        name.eq_ignore_ascii_case(MESSAGE_ID).then_some(value)
    })?;
    // Long ones often stand on a line of their own.
    let is_folded = value.trim_ascii().is_empty();
    let mut next = || lines.next().filter(|line| line.starts_with(b" ") || line.starts_with(b"\t"));
    let value = if is_folded { next()? } else { value };
    let id = str::from_utf8(value.trim_ascii()).ok()?;
    let inner = id.strip_prefix('<')?.strip_suffix('>')?;
    let is_sane = inner.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>".contains(&byte));
    let is_short = inner.len() <= MESSAGE_ID_SIZE_BYTES_MAX;
    (is_sane && is_short && inner.contains('@')).then_some(id)
}

/// Where the header ends: behind the CRLF of its last field. A header that does not end in the
/// first [`HEADER_SIZE_BYTES_MAX`] ends there.
fn header_size(content: &[u8]) -> usize {
    if content.starts_with(b"\r\n") {
        return 0;
    }
    let searched = &content[..content.len().min(HEADER_SIZE_BYTES_MAX)];
    searched.windows(4).position(|four| four == b"\r\n\r\n").map_or(searched.len(), |at| at + 2)
}

/// Whether all lines end with CRLF, are short enough, and have no control characters that may not
/// be sent on.
fn is_canonical(content: &[u8]) -> bool {
    let mut rest = content;
    while !rest.is_empty() {
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else { return false };
        let line = &rest[..end];
        if line.len() > LINE_SIZE_MAX || line.iter().any(|byte| b"\r\n\0".contains(byte)) {
            return false;
        }
        rest = &rest[end + 2..];
    }
    true
}

/// The lines of a header, as many as `size_max` has room for, cut where they are too long. Without
/// `keep_8_bit` octets above 127 become question marks, so that it can go everywhere.
fn lines(header: &[u8], size_max: usize, keep_8_bit: bool) -> Vec<u8> {
    let mut body = Vec::new();
    let text = header.strip_suffix(b"\r\n").unwrap_or(header);
    if text.is_empty() {
        return body;
    }
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = &line[..line.len().min(LINE_SIZE_MAX)];
        if body.len() + line.len() + 2 > size_max {
            break;
        }
        let is_kept = |byte: u8| match byte {
            b'\t' | b' '..=b'~' => true,
            128.. => keep_8_bit,
            _ => false,
        };
        body.extend(line.iter().map(|byte| if is_kept(*byte) { *byte } else { b'?' }));
        body.extend_from_slice(b"\r\n");
    }
    body
}

const MESSAGE_ID: &[u8] = b"Message-ID:";
const HEADER_SIZE_BYTES_MAX: usize = 1 << 20;
const MESSAGE_ID_SIZE_BYTES_MAX: usize = 250;

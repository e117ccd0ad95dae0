//! What a relay reads of a message's header.

/// How many Received fields a message has (RFC 5321 §6.3 finds loops by it). Reads up to the empty
/// line that ends the header, in one pass. Folded lines and what looks like a field in the body do
/// not count.
pub fn count_trace_fields(content: &[u8]) -> usize {
    let mut count = 0;
    let mut rest = content;
    while !rest.is_empty() && !rest.starts_with(b"\r\n") {
        count += usize::from(is_trace_field(rest));
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        rest = &rest[end..];
    }
    count
}

/// RFC 5322 §4.5 lets blanks stand before the colon of an old message.
fn is_trace_field(line: &[u8]) -> bool {
    let Some((name, rest)) = line.split_at_checked(TRACE_FIELD.len()) else { return false };
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    name.eq_ignore_ascii_case(TRACE_FIELD) && rest.get(blanks) == Some(&b':')
}

const TRACE_FIELD: &[u8] = b"Received";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_fields_are_counted_in_the_header_only() {
        let table: [(&[u8], usize); 9] = [
            (b"", 0),
            (b"\r\nReceived: x\r\n", 0),
            (b"Received: x\r\n", 1),
            (b"received:x\r\n\ty\r\nRECEIVED \t: z\r\nSubject: Received: q\r\n\r\nReceived: b", 2),
            (b"Subject: a\r\n Received: b\r\nReceived: c\r\n\r\n", 1),
            (b"Received-SPF: pass\r\nReceivedx: y\r\nX-Received: z\r\n\r\n", 0),
            (b"Received", 0),
            (b"Received:", 1),
            (b"Received \t", 0),
        ];
        for (content, count) in table {
            assert_eq!(count_trace_fields(content), count, "{content:?}");
        }
    }

    #[test]
    fn a_loop_of_any_length_is_counted() {
        let header = b"Received: from a by b;\r\n\tThu, 1 Jan 1970 00:00:00 +0000\r\n".repeat(101);
        assert_eq!(count_trace_fields(&header), 101);
    }
}

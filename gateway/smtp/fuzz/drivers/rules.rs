//! What holds of replies and mail data, read from RFC 5321 by code of its own.

use std::ops::Range;

use smtp::COMMAND_LINE_MAX;

/// A reply as the peer sees it.
#[derive(PartialEq, Eq, Debug)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// The text of each line.
    pub lines: Vec<String>,
}

impl Reply {
    /// Whether some line contains `text`.
    pub fn contains(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }
}

/// Reads all that a server sent (RFC 5321 §4.2). Panics where it is no sequence of whole replies,
/// has other characters than printable ASCII, or lines above 512 octets.
pub fn replies(transcript: &[u8]) -> Vec<Reply> {
    let mut replies: Vec<Reply> = Vec::new();
    let mut is_open = false;
    for line in transcript.split_inclusive(|byte| *byte == b'\n') {
        assert!(line.len() <= 512, "a reply line has at most 512 octets");
        let line = line.strip_suffix(b"\r\n").expect("a reply line ends with CRLF");
        assert!(line.iter().all(|byte| (b' '..=b'~').contains(byte)), "a reply is printable");
        let line = str::from_utf8(line).expect("printable");
        let (code, text) = line.split_at_checked(3).expect("a reply begins with its code");
        let code: u16 = code.parse().expect("a code is a number");
        assert!((200..600).contains(&code), "a code of a reply");
        match replies.last_mut().filter(|_| is_open) {
            Some(reply) => {
                assert_eq!(reply.code, code, "all lines of a reply have one code");
                reply.lines.push(text.into());
            }
            None => replies.push(Reply { code, lines: vec![text.into()] }),
        }
        is_open = text.starts_with('-');
        assert!(is_open || text.starts_with(' '), "a blank or a hyphen follows the code");
    }
    assert!(!is_open, "the last reply is whole");
    replies
}

/// Checks that a reply has an enhanced status code of its class (RFC 2034 §4). The greeting, 354 and
/// the answer to a hello have none.
pub fn check_enhanced_code(reply: &Reply) {
    for line in &reply.lines {
        let text = &line[1..];
        let mut parts = text.split(' ').next().unwrap_or_default().split('.');
        let class = parts.next().and_then(|class| class.parse::<u16>().ok());
        assert_eq!(class, Some(reply.code / 100), "the class is that of the code: {reply:?}");
        let is_number = |part: &str| (1..=3).contains(&part.len()) && part.parse::<u16>().is_ok();
        assert!(parts.clone().count() == 2 && parts.all(is_number), "{reply:?}");
    }
}

/// How many octets of mail data there are up to and with the end of data, if it is there (RFC 5321
/// §4.1.1.4).
pub fn end_of_data(wire: &[u8]) -> Option<usize> {
    if wire.starts_with(b".\r\n") {
        return Some(3);
    }
    wire.windows(5).position(|window| window == b"\r\n.\r\n").map(|at| at + 5)
}

/// Mail data, up to and with its end, without the dots of dot-stuffing (RFC 5321 §4.5.2).
pub fn unstuffed(data: &[u8]) -> Vec<u8> {
    let data = data.strip_suffix(b".\r\n").expect("mail data has its end");
    let mut content = Vec::with_capacity(data.len());
    for (at, byte) in data.iter().enumerate() {
        let is_start = at == 0 || data[..at].ends_with(b"\r\n");
        if !(is_start && *byte == b'.') {
            content.push(*byte);
        }
    }
    content
}

/// The same with CRLF for each CR without LF and LF without CR.
pub fn normalised(text: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(text.len());
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'\r' if text.get(at + 1) == Some(&b'\n') => {}
            b'\r' | b'\n' => lines.extend_from_slice(b"\r\n"),
            _ => lines.push(*byte),
        }
    }
    lines
}

/// The same with CRLF behind the last line.
pub fn with_last_newline(mut text: Vec<u8>) -> Vec<u8> {
    if !text.is_empty() && !text.ends_with(b"\r\n") {
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// Something that a client sends and that gets one reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unit {
    /// A command line, but no BDAT. Whether it is DATA.
    Command { is_data: bool },
    /// What follows a 354.
    Content,
    /// BDAT (RFC 3030 §2), and where its octets are.
    Chunk { is_last: bool, octets: Range<usize> },
    /// BDAT that cannot be read: nobody knows what follows.
    BadChunk,
}

/// What a client has sent to its end, and where that is. `contents`: where content begins behind a
/// 354, in order.
pub fn units(wire: &[u8], contents: &[usize]) -> (Vec<Unit>, usize) {
    let mut units = Vec::new();
    let mut contents = contents.iter().peekable();
    let mut at = 0;
    loop {
        if contents.next_if_eq(&&at).is_some() {
            let Some(length) = end_of_data(&wire[at..]) else { return (units, at) };
            units.push(Unit::Content);
            at += length;
            continue;
        }
        let rest = &wire[at..];
        let end = rest.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
        let is_chunk = rest.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT"));
        if is_chunk && end.unwrap_or(rest.len()) > COMMAND_LINE_MAX {
            units.push(Unit::BadChunk);
            return (units, wire.len());
        }
        let Some(end) = end else { return (units, at) };
        let line = &rest[..end];
        if !is_chunk {
            at += end;
            let is_data = line.trim_ascii_end().eq_ignore_ascii_case(b"DATA");
            units.push(Unit::Command { is_data });
            continue;
        }
        let Some((size, is_last)) = chunk(line) else {
            units.push(Unit::BadChunk);
            return (units, wire.len());
        };
        let begin = at + end;
        let end = usize::try_from(size).ok().and_then(|size| begin.checked_add(size));
        let Some(end) = end.filter(|end| *end <= wire.len()) else { return (units, at) };
        units.push(Unit::Chunk { is_last, octets: begin..end });
        at = end;
    }
}

/// Size of a BDAT, and whether it is the last (RFC 3030 §2). Blanks are taken where they do no harm.
fn chunk(line: &[u8]) -> Option<(u64, bool)> {
    let line = str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?;
    if line.contains(['\0', '\r']) {
        return None;
    }
    let arguments = line.get(4..)?.strip_prefix(' ')?.trim_ascii();
    let words: Vec<&str> = arguments.split(' ').filter(|word| !word.is_empty()).collect();
    let (size, is_last) = match words[..] {
        [size] => (size, false),
        [size, last] if last.eq_ignore_ascii_case("LAST") => (size, true),
        _ => return None,
    };
    let is_number = size.bytes().all(|byte| byte.is_ascii_digit());
    Some((size.parse().ok().filter(|_| is_number)?, is_last))
}

/// Whether there is a CR without LF or an LF without CR.
pub fn has_bare_newline(text: &[u8]) -> bool {
    (0..text.len()).any(|at| match text[at] {
        b'\r' => text.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || text[at - 1] != b'\r',
        _ => false,
    })
}

/// Octets of the longest line, CRLF not counted.
pub fn longest_line(text: &[u8]) -> usize {
    text.split(|byte| *byte == b'\n').map(|line| line.len() - ends_with_cr(line)).max().unwrap_or(0)
}

/// Whether a line begins with a dot.
pub fn has_leading_dot(text: &[u8]) -> bool {
    text.starts_with(b".") || text.windows(3).any(|window| window == b"\r\n.")
}

fn ends_with_cr(line: &[u8]) -> usize {
    usize::from(line.ends_with(b"\r"))
}

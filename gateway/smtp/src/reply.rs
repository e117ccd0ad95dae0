//! Replies: those that a server writes and those that a client reads (RFC 5321 §4.2).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// An enhanced status code (RFC 3463): class, subject, detail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EnhancedCode(pub u8, pub u16, pub u16);

impl EnhancedCode {
    /// Parses `class.subject.detail` at the start of a text; also returns what follows the blank
    /// behind it. Class is 2, 4 or 5; subject and detail have one to three digits (RFC 3463 §2).
    pub fn split_from(text: &str) -> Option<(EnhancedCode, &str)> {
        let (code, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parts = code.split('.');
        let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
        let number = |part: &str| {
            let is_number =
                (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            if is_number { part.parse::<u16>().ok() } else { None }
        };
        let class = match class {
            "2" => 2,
            "4" => 4,
            "5" => 5,
            _ => return None,
        };
        if parts.next().is_some() {
            return None;
        }
        Some((EnhancedCode(class, number(subject)?, number(detail)?), rest))
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A negative reply of a server, fixed at build time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Three digits, 4xx or 5xx.
    pub code: u16,
    /// Its enhanced status code.
    pub enhanced: EnhancedCode,
    /// Printable ASCII.
    pub text: &'static str,
}

impl Refusal {
    /// A refusal. The first digit of `code` and the class of the enhanced code should agree.
    pub const fn new(code: u16, enhanced: (u8, u16, u16), text: &'static str) -> Refusal {
        Refusal { code, enhanced: EnhancedCode(enhanced.0, enhanced.1, enhanced.2), text }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.code, self.enhanced, self.text)
    }
}

/// A reply that a client got, safe to print: control characters and octets above 127 have become
/// question marks, and the text ends at [`REPLY_TEXT_MAX`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Three digits, 200 to 599.
    pub code: u16,
    /// If the reply began with one of the same class.
    pub enhanced: Option<EnhancedCode>,
    /// The rest; several lines are joined by a blank.
    pub text: Box<str>,
    /// No server said it: it stands for what a server did, or would do.
    pub is_ours: bool,
}

impl Reply {
    /// A reply that we make up ourselves, for a failure that no server answered.
    pub fn local(code: u16, enhanced: (u8, u16, u16), text: &str) -> Reply {
        let enhanced = Some(EnhancedCode(enhanced.0, enhanced.1, enhanced.2));
        Reply { code, enhanced, text: text.into(), is_ours: true }
    }

    /// 2xx.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 4xx.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5xx.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.enhanced {
            Some(enhanced) => write!(f, "{} {enhanced} {}", self.code, self.text),
            None => write!(f, "{} {}", self.code, self.text),
        }
    }
}

/// The peer's answer is no SMTP reply, or beyond the bounds of [`ReplyLines`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MalformedReply;

/// One line of a reply.
#[derive(Debug)]
pub struct ReplyLine<'a> {
    /// The text behind the code.
    pub text: &'a [u8],
    /// The whole reply, when this is its last line.
    pub complete: Option<Reply>,
}

/// Puts replies together from bytes in any split.
///
/// Bounded: a line may have [`REPLY_LINE_MAX`] octets and a reply [`REPLY_LINES_MAX`] lines, else
/// it is malformed; of the text [`REPLY_TEXT_MAX`] octets are kept.
#[derive(Default, Debug)]
pub struct ReplyLines {
    partial: Vec<u8>,
    /// Of the reply begun: its code and lines so far.
    begun: Option<(u16, usize)>,
    text: String,
}

impl ReplyLines {
    /// Takes bytes up to the end of one line and hands that line to `on_line`; returns how many
    /// were taken. Without a line's end it takes all and keeps them.
    ///
    /// # Errors
    /// [`MalformedReply`]: nothing after that can be trusted, the connection should end.
    pub fn handle_bytes<R>(
        &mut self,
        input: &[u8],
        on_line: impl FnOnce(ReplyLine<'_>) -> R,
    ) -> Result<(usize, Option<R>), MalformedReply> {
        let Some(end) = memchr::memchr(b'\n', input) else {
            if self.partial.len() + input.len() > REPLY_LINE_MAX {
                return Err(MalformedReply);
            }
            self.partial.extend_from_slice(input);
            return Ok((input.len(), None));
        };
        if self.partial.len() + end >= REPLY_LINE_MAX {
            return Err(MalformedReply);
        }
        let result = if self.partial.is_empty() {
            self.handle_line(&input[..end], on_line)?
        } else {
            let mut line = core::mem::take(&mut self.partial);
            line.extend_from_slice(&input[..end]);
            let result = self.handle_line(&line, on_line)?;
            line.clear();
            self.partial = line;
            result
        };
        Ok((end + 1, Some(result)))
    }

    fn handle_line<R>(
        &mut self,
        line: &[u8],
        on_line: impl FnOnce(ReplyLine<'_>) -> R,
    ) -> Result<R, MalformedReply> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, is_last, text) = split_line(line)?;
        let lines = match self.begun {
            None => 1,
            Some((begun, lines)) if begun == code && lines < REPLY_LINES_MAX => lines + 1,
            Some(_) => return Err(MalformedReply),
        };
        self.keep_text(text);
        self.begun = Some((code, lines));
        let complete = if is_last { Some(self.finish(code)) } else { None };
        Ok(on_line(ReplyLine { text, complete }))
    }

    fn keep_text(&mut self, text: &[u8]) {
        if !self.text.is_empty() && self.text.len() < REPLY_TEXT_MAX {
            self.text.push(' ');
        }
        for &byte in text.iter().take(REPLY_TEXT_MAX.saturating_sub(self.text.len())) {
            self.text.push(if (32..127).contains(&byte) { char::from(byte) } else { '?' });
        }
    }

    fn finish(&mut self, code: u16) -> Reply {
        self.begun = None;
        let split = EnhancedCode::split_from(&self.text);
        let split = split.filter(|(enhanced, _)| u16::from(enhanced.0) == code / 100);
        let (enhanced, text) = match split {
            Some((enhanced, rest)) => (Some(enhanced), rest.into()),
            None => (None, self.text.as_str().into()),
        };
        self.text.clear();
        Reply { code, enhanced, text, is_ours: false }
    }
}

/// Octets of one reply line, its CRLF included. RFC 5321 §4.5.3.1.5 says 512; some send more.
pub const REPLY_LINE_MAX: usize = 2048;
/// Lines of one reply; an EHLO reply has some twenty.
pub const REPLY_LINES_MAX: usize = 128;
/// Octets of text that are kept of one reply; what is beyond is cut off.
pub const REPLY_TEXT_MAX: usize = 512;

/// Code, whether it is the last line, and the text (RFC 5321 §4.2, `Reply-line`).
fn split_line(line: &[u8]) -> Result<(u16, bool, &[u8]), MalformedReply> {
    let [first @ b'2'..=b'5', second @ b'0'..=b'9', third @ b'0'..=b'9', rest @ ..] = line else {
        return Err(MalformedReply);
    };
    let digit = |byte: &u8| u16::from(byte - b'0');
    let code = digit(first) * 100 + digit(second) * 10 + digit(third);
    match rest {
        [] => Ok((code, true, rest)),
        [b' ', text @ ..] => Ok((code, true, text)),
        [b'-', text @ ..] => Ok((code, false, text)),
        _ => Err(MalformedReply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn parse(pieces: &[&[u8]]) -> Result<Vec<Reply>, MalformedReply> {
        let mut lines = ReplyLines::default();
        let mut replies = Vec::new();
        for piece in pieces {
            let mut at = 0;
            while at < piece.len() {
                let (used, reply) = lines.handle_bytes(&piece[at..], |line| line.complete)?;
                replies.extend(reply.flatten());
                at += used;
            }
        }
        Ok(replies)
    }

    #[test]
    fn one_line_with_an_enhanced_code() {
        let replies = parse(&[b"250 2.1.5 Recipient ok\r\n"]).unwrap();
        let expected = Reply { is_ours: false, ..Reply::local(250, (2, 1, 5), "Recipient ok") };
        assert_eq!(replies, vec![expected]);
    }

    #[test]
    fn several_lines_are_one_reply() {
        let replies = parse(&[b"250-mx\r\n250-SIZE 10\r\n250 8BITMIME\r\n354\r\n"]).unwrap();
        assert_eq!(replies.len(), 2);
        assert_eq!(&*replies[0].text, "mx SIZE 10 8BITMIME");
        assert_eq!((replies[1].code, &*replies[1].text), (354, ""));
    }

    #[test]
    fn an_enhanced_code_of_another_class_is_text() {
        let replies = parse(&[b"550 2.1.5 odd\r\n"]).unwrap();
        assert_eq!((replies[0].enhanced, &*replies[0].text), (None, "2.1.5 odd"));
    }

    #[test]
    fn what_is_no_reply_is_malformed() {
        let long = [b'2'; REPLY_LINE_MAX + 1];
        let many = b"250-x\r\n".repeat(REPLY_LINES_MAX + 1);
        let table: [&[u8]; 8] = [
            b"hello\r\n",
            b"25\r\n",
            b"150 x\r\n",
            b"650 x\r\n",
            b"250x\r\n",
            b"250-a\r\n251 b\r\n",
            &long,
            &many,
        ];
        for input in table {
            assert_eq!(parse(&[input]), Err(MalformedReply));
        }
    }

    #[test]
    fn text_is_safe_to_print_and_bounded() {
        let mut line = b"550 a\x1b[2J\xff".to_vec();
        line.extend(vec![b'x'; 1000]);
        line.extend(b"\r\n");
        let replies = parse(&[&line]).unwrap();
        assert!(replies[0].text.starts_with("a?[2J?xx"));
        assert_eq!(replies[0].text.len(), REPLY_TEXT_MAX);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_replies(
            input in prop::collection::vec(prop::sample::select(b"2455 -\r\nax.1".to_vec()), 0..80),
            at in 0usize..80,
        ) {
            let at = at.min(input.len());
            let whole = parse(&[b"250 first\r\n", &input]);
            let split = parse(&[b"250 first\r\n", &input[..at], &input[at..]]);
            prop_assert_eq!(whole, split);
        }
    }
}

//! Mail data on the wire: dot-stuffing (RFC 5321 §4.5.2) and its undoing, one byte stream at a time.
//!
//! Written apart from the gateway's, on purpose: a mistake in one must show in the other.

use memchr::memmem;

/// Appends `content` as it goes over the wire: dots at the start of lines doubled, and the end of
/// data behind it. `content` is empty or ends with CRLF.
pub fn stuff(content: &[u8], wire: &mut Vec<u8>) {
    stuff_lines(content, wire);
    wire.extend_from_slice(END_OF_DATA);
}

/// What ends the data, behind content that is empty or ends with CRLF.
pub const END_OF_DATA: &[u8] = b".\r\n";

/// Likewise without the end of data: `content` is some lines of more.
pub fn stuff_lines(content: &[u8], wire: &mut Vec<u8>) {
    debug_assert!(content.is_empty() || content.ends_with(b"\r\n"));
    wire.reserve(content.len() + 64);
    if content.first() == Some(&b'.') {
        wire.push(b'.');
    }
    let mut rest = content;
    while let Some(at) = memmem::find(rest, b"\r\n.") {
        wire.extend_from_slice(&rest[..at + 2]);
        wire.push(b'.');
        rest = &rest[at + 2..];
    }
    wire.extend_from_slice(rest);
}

/// Takes the stream behind a 354 apart: content with the added dots removed, up to CRLF.CRLF, however
/// the bytes were split on their way.
#[derive(Debug)]
pub struct DataDecoder {
    state: State,
    finder: memmem::Finder<'static>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// At the first byte of a line (the data's first line too).
    LineStart,
    /// Within a line.
    Middle,
    /// Behind a CR that has been handed on.
    AfterCr,
    /// Behind a dot at a line's start, which has not been handed on.
    AfterDot,
    /// Behind such a dot and a CR; neither has been handed on.
    AfterDotCr,
}

impl Default for DataDecoder {
    fn default() -> Self {
        Self { state: State::LineStart, finder: memmem::Finder::new(b"\r\n.") }
    }
}

impl DataDecoder {
    /// Appends the content in `bytes` to `content`. Answers how many bytes belong to the data, and
    /// whether its end was among them; after an end the decoder is ready for the next data.
    pub fn decode(&mut self, bytes: &[u8], content: &mut Vec<u8>) -> (usize, bool) {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            self.state = match (self.state, rest[0]) {
                (State::LineStart, b'.') => {
                    at += 1;
                    State::AfterDot
                }
                (State::AfterDot, b'\r') => {
                    at += 1;
                    State::AfterDotCr
                }
                (State::AfterDotCr, b'\n') => {
                    self.state = State::LineStart;
                    return (at + 1, true);
                }
                (State::AfterDotCr, _) => {
                    content.push(b'\r');
                    State::AfterCr
                }
                (State::AfterCr, b'\n') => {
                    content.push(b'\n');
                    at += 1;
                    State::LineStart
                }
                (State::LineStart | State::Middle | State::AfterCr | State::AfterDot, _) => {
                    let (taken, state) = self.decode_run(rest, content);
                    at += taken;
                    state
                }
            };
        }
        (at, false)
    }

    /// Copies up to and with the next line's dot, or everything.
    fn decode_run(&self, rest: &[u8], content: &mut Vec<u8>) -> (usize, State) {
        if let Some(found) = self.finder.find(rest) {
            content.extend_from_slice(&rest[..found + 2]);
            return (found + 3, State::AfterDot);
        }
        content.extend_from_slice(rest);
        let state = if rest.ends_with(b"\r\n") {
            State::LineStart
        } else if rest.ends_with(b"\r") {
            State::AfterCr
        } else {
            State::Middle
        };
        (rest.len(), state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode_in_pieces(wire: &[u8], cuts: &[usize]) -> (Vec<u8>, usize, bool) {
        let mut decoder = DataDecoder::default();
        let mut content = Vec::new();
        let (mut at, mut cut) = (0, 0);
        while at < wire.len() {
            let end = (at + 1 + cuts.get(cut).copied().unwrap_or(0)).min(wire.len());
            cut += 1;
            let (taken, ended) = decoder.decode(&wire[at..end], &mut content);
            at += taken;
            if ended {
                return (content, at, true);
            }
        }
        (content, at, false)
    }

    #[test]
    fn a_single_dot_line_within_the_content_survives() {
        let content = b"a\r\n.\r\n..\r\n.b\r\n";
        let mut wire = Vec::new();
        stuff(content, &mut wire);
        assert_eq!(wire, b"a\r\n..\r\n...\r\n..b\r\n.\r\n");
        assert_eq!(decode_in_pieces(&wire, &[]), (content.to_vec(), wire.len(), true));
    }

    #[test]
    fn only_crlf_dot_crlf_ends_the_data() {
        for wire in [&b"a\n.\n"[..], b"a\r\n.\n", b"a\n.\r\n", b"a\r.\r", b"a\r\n.\r\r\n"] {
            assert!(!decode_in_pieces(wire, &[]).2, "{wire:?}");
            assert!(!decode_in_pieces(wire, &[100]).2, "{wire:?}");
        }
    }

    #[test]
    fn what_follows_the_end_is_left() {
        let (content, taken, ended) = decode_in_pieces(b".\r\nMAIL", &[100]);
        assert_eq!((content.len(), taken, ended), (0, 3, true));
    }

    proptest! {
        #[test]
        fn stuffed_content_comes_back_at_any_split(
            lines in prop::collection::vec("[.a\r]{0,4}", 0..30),
            cuts in prop::collection::vec(0_usize..6, 0..200),
        ) {
            let content: Vec<u8> =
                lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
            let mut wire = Vec::new();
            stuff(&content, &mut wire);
            let end = wire.len();
            wire.extend_from_slice(b"NOOP\r\n");
            prop_assert_eq!(decode_in_pieces(&wire, &cuts), (content, end, true));
        }
    }
}

//! Mail data as a server receives it (RFC 5321 §4.5.2), made canonical while it streams in.

use alloc::vec::Vec;

use memchr::memchr2;

/// Decodes mail data: removes the dots of dot-stuffing and finds the end of data.
///
/// The end is CRLF.CRLF and nothing else. A CR or LF alone is an error and never passed on: peers
/// that take it for a line's end see other mails than we do (SMTP smuggling). After an error
/// nothing more is appended, and decoding goes on to the real end of data, so that no content is
/// ever taken for commands. Errors are gathered to the end, so the result does not depend on how
/// the input was split.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Octets of the line so far, without CR LF and without a removed dot.
    line_len: usize,
    size: u64,
    leading_dot: bool,
    errors: ContentErrors,
    /// Nothing more is appended: only the end of data counts.
    is_discarding: bool,
    line_len_max: usize,
    size_max: u64,
}

/// What was wrong with the content.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ContentErrors {
    /// Larger than allowed.
    pub too_large: bool,
    /// A CR without LF or an LF without CR.
    pub bare_newline: bool,
    /// A line longer than allowed.
    pub long_line: bool,
}

/// What came in.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ContentSummary {
    /// Octets of the content, dots removed, end of data not counted.
    pub size: u64,
    /// Whether some line of the content begins with a dot.
    pub leading_dot: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Behind a CRLF, or at the very beginning.
    LineStart,
    /// A dot at a line's start was seen, and not appended.
    Dot,
    /// A CR behind such a dot, not appended either.
    DotCr,
    /// Inside a line.
    Text,
    /// Behind a CR inside a line.
    Cr,
}

impl Decoder {
    /// A decoder for one message. `line_len_max` counts without CRLF.
    pub fn new(line_len_max: usize, size_max: u64) -> Decoder {
        Decoder {
            state: State::LineStart,
            line_len: 0,
            size: 0,
            leading_dot: false,
            errors: ContentErrors::default(),
            is_discarding: false,
            line_len_max,
            size_max,
        }
    }

    /// Takes mail data and appends what it stands for to `content`. Returns how many octets were
    /// taken, and whether the last of them was the end of data; without it, all were taken.
    pub fn decode(&mut self, input: &[u8], content: &mut Vec<u8>) -> (usize, bool) {
        let mut at = 0;
        // Content is appended in runs as long as possible: `run` is where the current one begins.
        let mut run = 0;
        while at < input.len() {
            match self.state {
                State::LineStart if input[at] == b'.' => {
                    self.append(&input[run..at], content);
                    at += 1;
                    run = at;
                    self.state = State::Dot;
                }
                State::LineStart => self.state = State::Text,
                State::Dot => match input[at] {
                    b'\r' => {
                        at += 1;
                        run = at;
                        self.state = State::DotCr;
                    }
                    byte => {
                        self.leading_dot |= byte == b'.';
                        self.state = State::Text;
                    }
                },
                State::DotCr if input[at] == b'\n' => return (at + 1, true),
                State::DotCr => self.fail(|errors| errors.bare_newline = true),
                State::Text => at += self.pass_text(&input[at..]),
                State::Cr if input[at] == b'\n' => {
                    at += 1;
                    self.count(1);
                    self.line_len = 0;
                    self.state = State::LineStart;
                }
                State::Cr => self.fail(|errors| errors.bare_newline = true),
            }
        }
        self.append(&input[run..], content);
        (input.len(), false)
    }

    /// Appends nothing from here on; the end of data is still found.
    pub fn discard(&mut self) {
        self.is_discarding = true;
    }

    /// What was wrong so far.
    pub fn errors(&self) -> ContentErrors {
        self.errors
    }

    /// What came in so far.
    pub fn summary(&self) -> ContentSummary {
        ContentSummary { size: self.size, leading_dot: self.leading_dot }
    }

    /// Passes over the text of a line, up to and with its CR. Returns how many octets.
    fn pass_text(&mut self, input: &[u8]) -> usize {
        let (text, used) = match memchr2(b'\r', b'\n', input) {
            None => (input.len(), input.len()),
            Some(end) => (end, end + 1),
        };
        self.line_len += text;
        self.count(used);
        if self.line_len > self.line_len_max {
            self.errors.long_line = true;
        }
        if used > text {
            if input[text] == b'\r' {
                self.state = State::Cr;
            } else {
                self.fail(|errors| errors.bare_newline = true);
            }
        }
        used
    }

    fn count(&mut self, octets: usize) {
        self.size = self.size.saturating_add(u64::try_from(octets).unwrap_or(u64::MAX));
        if self.size > self.size_max {
            self.errors.too_large = true;
        }
    }

    /// Notes an error. The place counts as inside a line: only a whole CRLF begins the next.
    fn fail(&mut self, note: impl FnOnce(&mut ContentErrors)) {
        note(&mut self.errors);
        self.state = State::Text;
    }

    fn append(&mut self, run: &[u8], content: &mut Vec<u8>) {
        if !self.errors.any() && !self.is_discarding {
            content.extend_from_slice(run);
        }
    }
}

impl ContentErrors {
    /// Whether anything was wrong.
    pub fn any(self) -> bool {
        self.too_large || self.bare_newline || self.long_line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    struct Decoded {
        content: Vec<u8>,
        used: usize,
        ended: bool,
        decoder: Decoder,
    }

    fn decode(pieces: &[&[u8]]) -> Decoded {
        let mut decoder = Decoder::new(20, 100);
        let mut content = Vec::new();
        let (mut used, mut ended) = (0, false);
        for piece in pieces {
            if !ended {
                let (taken, end) = decoder.decode(piece, &mut content);
                assert!(end || taken == piece.len());
                used += taken;
                ended = end;
            }
        }
        Decoded { content, used, ended, decoder }
    }

    #[test]
    fn dots_are_removed_and_noted() {
        // RFC 5321 §4.5.2: a dot alone ends; a dot before other characters is deleted.
        let table: [(&[u8], &[u8], bool); 5] = [
            (b".\r\n", b"", false),
            (b"a\r\n.\r\n", b"a\r\n", false),
            (b"..\r\n.\r\n", b".\r\n", true),
            (b"..a\r\nb\r\n...\r\n.\r\n", b".a\r\nb\r\n..\r\n", true),
            (b".a\r\n.\r\n", b"a\r\n", false),
        ];
        for (wire, content, leading_dot) in table {
            let decoded = decode(&[wire]);
            assert!(decoded.ended && !decoded.decoder.errors().any(), "{wire:?}");
            assert_eq!(decoded.content, content, "{wire:?}");
            let size = u64::try_from(content.len()).unwrap();
            assert_eq!(decoded.decoder.summary(), ContentSummary { size, leading_dot });
        }
    }

    #[test]
    fn only_crlf_dot_crlf_is_the_end() {
        let table: [&[u8]; 9] = [
            b"a\n.\n",
            b"a\n.\r\n",
            b"a\r.\r",
            b"a\r\n.\n",
            b"a\r\n.\r",
            b"a\r.\r\n",
            b"a\r\n.\rx\n",
            b"a\r\n\n.\r\n",
            b"a\r\n.\r\r\n",
        ];
        for wire in table {
            assert!(!decode(&[wire]).ended, "{wire:?}");
        }
    }

    #[test]
    fn bare_newlines_are_errors_and_the_real_end_is_still_found() {
        let table: [&[u8]; 5] = [b"a\nb", b"a\rb", b"\n", b"a\r\r\nb", b".\rx"];
        for start in table {
            let mut wire = start.to_vec();
            wire.extend(b"\r\n.\r\nNOOP\r\n");
            let decoded = decode(&[&wire]);
            assert!(decoded.ended, "{wire:?}");
            assert_eq!(decoded.used, start.len() + 5);
            assert!(decoded.decoder.errors().bare_newline);
        }
    }

    #[test]
    fn long_lines_and_large_content_are_errors() {
        let line = [&[b'x'; 20][..], b"\r\n"].concat();
        let fits = [&b"."[..], &[b'.'; 20], b"\r\n.\r\n"].concat();
        assert!(!decode(&[&fits]).decoder.errors().any());
        let long = [&b"x"[..], &line, b".\r\n"].concat();
        assert!(decode(&[&long]).decoder.errors().long_line);
        let large = [line.repeat(5), b".\r\n".to_vec()].concat();
        let decoded = decode(&[&large]);
        assert!(decoded.decoder.errors().too_large && !decoded.decoder.errors().long_line);
    }

    /// The same by the book, one octet at a time, for content without errors.
    fn naive(wire: &[u8]) -> Option<(Vec<u8>, usize)> {
        let mut framed = b"\r\n".to_vec();
        framed.extend(wire);
        let end = framed.windows(5).position(|window| window == b"\r\n.\r\n")?;
        let mut content = Vec::new();
        for at in 2..end + 2 {
            let is_start = framed[at - 2..at] == *b"\r\n";
            if !(is_start && framed[at] == b'.') {
                content.push(framed[at]);
            }
        }
        Some((content, end + 3))
    }

    fn wire() -> impl Strategy<Value = Vec<u8>> {
        let token = prop::sample::select(vec![
            &b"\r\n"[..],
            b"\r\n",
            b".",
            b".\r\n",
            b"x",
            b"text of it",
            b"\r",
            b"\n",
            b"\x80",
        ]);
        prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_result(wire in wire(), cuts in [0usize..120, 0usize..120]) {
            let low = cuts[0].min(cuts[1]).min(wire.len());
            let high = cuts[0].max(cuts[1]).min(wire.len());
            let whole = decode(&[&wire]);
            let split = decode(&[&wire[..low], &wire[low..high], &wire[high..]]);
            prop_assert_eq!(whole.ended, split.ended);
            prop_assert_eq!(whole.used, split.used);
            prop_assert_eq!(whole.decoder.errors(), split.decoder.errors());
            prop_assert_eq!(whole.decoder.summary(), split.decoder.summary());
            if !whole.decoder.errors().any() {
                prop_assert_eq!(whole.content, split.content);
            }
        }

        #[test]
        fn it_agrees_with_the_rules_read_literally(wire in wire()) {
            let decoded = decode(&[&wire]);
            let expected = naive(&wire);
            prop_assert_eq!(decoded.ended, expected.is_some());
            if let Some((content, used)) = expected {
                prop_assert_eq!(decoded.used, used);
                if !decoded.decoder.errors().any() {
                    prop_assert_eq!(decoded.content, content);
                }
            }
        }
    }
}

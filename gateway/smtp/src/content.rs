//! Mail data as a server receives it (RFC 5321 §4.5.2, RFC 3030 §2), made canonical while it streams
//! in.

use alloc::vec::Vec;

use memchr::memchr2;

/// Decodes mail data: removes the dots of dot-stuffing and finds the end of data.
///
/// The end is CRLF.CRLF and nothing else, and only what stands behind a CRLF is the start of a
/// line. Peers that take a CR or LF alone for a line's end see other mails than we do (SMTP
/// smuggling), so it is never passed on: by [`BareNewlines`] it is an error or becomes CRLF. With
/// CRLF put in, a dot that was inside of a line may begin one. It stays, and is noted as
/// `leading_dot`, so that it is stuffed when the mail is sent on.
///
/// After an error nothing more is appended, and decoding goes on to the real end of data, so that
/// no content is ever taken for commands. Errors are gathered to the end, so the result does not
/// depend on how the input was split.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    framing: Framing,
    bare_newlines: BareNewlines,
    /// Octets of the line so far, without CR LF and without a removed dot.
    line_len: usize,
    size: u64,
    leading_dot: bool,
    errors: ContentErrors,
    /// Nothing is appended any more.
    is_discarding: bool,
    line_len_max: usize,
    size_max: u64,
}

/// How the client marks the end of the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// DATA: CRLF.CRLF, and dots are stuffed.
    Dots,
    /// BDAT: by counting. A dot is a dot.
    Chunks,
}

/// What becomes of a CR without LF and an LF without CR in content.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum BareNewlines {
    /// It is an error: the message is refused.
    #[default]
    Refuse,
    /// It becomes CRLF.
    Normalise,
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
    /// Behind a CRLF that we have made.
    BareLineStart,
    /// A dot at a line's start was seen, and not appended.
    Dot,
    /// A CR behind such a dot, not appended either.
    DotCr,
    /// Inside a line.
    Text,
    /// Behind a CR inside a line, which was appended.
    Cr,
}

impl Decoder {
    /// A decoder for one message that comes by DATA and may have no bare newlines. `line_len_max`
    /// counts without CRLF.
    pub fn new(line_len_max: usize, size_max: u64) -> Decoder {
        Decoder {
            state: State::LineStart,
            framing: Framing::Dots,
            bare_newlines: BareNewlines::Refuse,
            line_len: 0,
            size: 0,
            leading_dot: false,
            errors: ContentErrors::default(),
            is_discarding: false,
            line_len_max,
            size_max,
        }
    }

    /// The same for another framing.
    pub fn with_framing(self, framing: Framing) -> Decoder {
        Decoder { framing, ..self }
    }

    /// The same with another treatment of bare newlines.
    pub fn with_bare_newlines(self, bare_newlines: BareNewlines) -> Decoder {
        Decoder { bare_newlines, ..self }
    }

    /// Takes mail data and appends what it stands for to `content`, at most
    /// [`appended_max`](Self::appended_max). Returns how many octets were taken, and whether the
    /// last of them was the end of data; without it, all were taken. With chunks there is no end
    /// here: see [`finish`](Self::finish).
    pub fn decode(&mut self, input: &[u8], content: &mut Vec<u8>) -> (usize, bool) {
        let mut at = 0;
        // Content is appended in runs as long as possible: `run` is where the current one begins.
        let mut run = 0;
        while at < input.len() {
            match self.state {
                State::LineStart if input[at] == b'.' && self.framing == Framing::Dots => {
                    self.append(&input[run..at], content);
                    at += 1;
                    run = at;
                    self.state = State::Dot;
                }
                State::LineStart | State::BareLineStart => {
                    self.leading_dot |= input[at] == b'.';
                    self.state = State::Text;
                }
                State::Dot if input[at] == b'\r' => {
                    at += 1;
                    run = at;
                    self.state = State::DotCr;
                }
                State::Dot => {
                    self.leading_dot |= input[at] == b'.';
                    self.state = State::Text;
                }
                State::DotCr if input[at] == b'\n' => return (at + 1, true),
                State::DotCr => self.handle_bare(b"\r\n", content),
                State::Text => {
                    at += self.pass_text(&input[at..]);
                    if self.state == State::Text && input.get(at) == Some(&b'\n') {
                        self.append(&input[run..at], content);
                        at += 1;
                        run = at;
                        self.handle_bare(b"\r\n", content);
                    }
                }
                State::Cr if input[at] == b'\n' => {
                    at += 1;
                    self.count(1);
                    self.line_len = 0;
                    self.state = State::LineStart;
                }
                State::Cr => {
                    self.append(&input[run..at], content);
                    run = at;
                    self.handle_bare(b"\n", content);
                }
            }
        }
        self.append(&input[run..], content);
        (input.len(), false)
    }

    /// Ends content that came in chunks. A last line without CRLF gets one: the content is
    /// canonical then, and goes out by DATA as it is (RFC 3030 §2 asks the client for that form).
    /// May find an error.
    pub fn finish(&mut self, content: &mut Vec<u8>) {
        if self.state == State::Cr {
            self.handle_bare(b"\n", content);
        }
        if !matches!(self.state, State::LineStart | State::BareLineStart) {
            self.count(2);
            self.append(b"\r\n", content);
        }
    }

    /// Appends nothing from here on, and goes on looking for the end.
    pub fn discard(&mut self) {
        self.is_discarding = true;
    }

    /// The most octets that [`decode`](Self::decode) appends for an input of `input_len`, and
    /// [`finish`](Self::finish) behind it.
    pub fn appended_max(&self, input_len: usize) -> usize {
        let decoded = match self.bare_newlines {
            BareNewlines::Refuse => input_len,
            BareNewlines::Normalise => input_len.saturating_mul(2),
        };
        decoded.saturating_add(2)
    }

    /// What was wrong so far.
    pub fn errors(&self) -> ContentErrors {
        self.errors
    }

    /// What came in so far.
    pub fn summary(&self) -> ContentSummary {
        ContentSummary { size: self.size, leading_dot: self.leading_dot }
    }

    /// Passes over the text of a line, up to an LF or up to and with a CR. Returns how many octets.
    fn pass_text(&mut self, input: &[u8]) -> usize {
        let end = memchr2(b'\r', b'\n', input);
        let text = end.unwrap_or(input.len());
        let is_cr = end.is_some_and(|end| input[end] == b'\r');
        self.line_len += text;
        if self.line_len > self.line_len_max {
            self.errors.long_line = true;
        }
        if is_cr {
            self.state = State::Cr;
        }
        let used = text + usize::from(is_cr);
        self.count(used);
        used
    }

    /// A bare newline has ended; `missing` is what its CRLF lacks in the content. Where it is an
    /// error, the place counts as inside a line: only a whole CRLF begins the next.
    fn handle_bare(&mut self, missing: &[u8], content: &mut Vec<u8>) {
        self.count(missing.len());
        match self.bare_newlines {
            BareNewlines::Refuse => {
                self.errors.bare_newline = true;
                self.state = State::Text;
            }
            BareNewlines::Normalise => {
                self.append(missing, content);
                self.line_len = 0;
                self.state = State::BareLineStart;
            }
        }
    }

    fn count(&mut self, octets: usize) {
        self.size = self.size.saturating_add(u64::try_from(octets).unwrap_or(u64::MAX));
        if self.size > self.size_max {
            self.errors.too_large = true;
        }
    }

    fn append(&mut self, run: &[u8], content: &mut Vec<u8>) {
        if !self.is_discarding && !self.errors.any() {
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
mod tests;

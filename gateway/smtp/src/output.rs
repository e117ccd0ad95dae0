//! What a client sends: commands, and content that is never copied.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use bytes::{Buf, Bytes};

/// A queue of bytes to send: text of commands in between shared content.
///
/// Dots of dot-stuffing (RFC 5321 §4.5.2) are put in while sending, as slices of their own, and
/// only for content that is known to need it.
#[derive(Default, Debug)]
pub struct Outgoing {
    chunks: VecDeque<Chunk>,
    /// The text of all `Text` chunks, in order; the first `text_sent` octets are gone.
    text: Vec<u8>,
    text_sent: usize,
    /// Octets ever pushed, without the dots that stuffing adds.
    pushed: u64,
}

#[derive(Debug)]
enum Chunk {
    /// So many octets of the text.
    Text(usize),
    Content(Bytes),
    Stuffed(Stuffed),
}

/// Content with lines that begin with dots.
#[derive(Clone, Debug)]
struct Stuffed {
    rest: Bytes,
    /// `rest` begins a line, and if that begins with a dot, one more goes before it.
    at_line_start: bool,
}

impl Outgoing {
    /// Whether all is sent.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The next slices to send, none of them empty. May be cut short anywhere; what was sent is
    /// reported with [`consume`](Self::consume).
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut text_at = self.text_sent;
        self.chunks.iter().flat_map(move |chunk| {
            let (plain, stuffed) = match chunk {
                Chunk::Text(len) => {
                    text_at += len;
                    (Some(&self.text[text_at - len..text_at]), None)
                }
                Chunk::Content(content) => (Some(&**content), None),
                Chunk::Stuffed(stuffed) => (None, Some(stuffed.pieces())),
            };
            plain.into_iter().chain(stuffed.into_iter().flatten())
        })
    }

    /// Says that the first `len` octets of the slices were sent.
    pub fn consume(&mut self, mut len: usize) {
        while len > 0 {
            let chunk = self.chunks.front_mut().expect("no more is consumed than was pushed");
            let is_done = match chunk {
                Chunk::Text(left) => {
                    let taken = len.min(*left);
                    *left -= taken;
                    self.text_sent += taken;
                    len -= taken;
                    *left == 0
                }
                Chunk::Content(content) => {
                    let taken = len.min(content.len());
                    content.advance(taken);
                    len -= taken;
                    content.is_empty()
                }
                Chunk::Stuffed(stuffed) => {
                    stuffed.consume(&mut len);
                    stuffed.rest.is_empty()
                }
            };
            if is_done {
                self.chunks.pop_front();
            }
        }
        if self.text_sent == self.text.len() {
            self.text.clear();
            self.text_sent = 0;
        }
    }

    /// The place behind all that was pushed so far.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.pushed)
    }

    /// Whether all that was pushed before the mark is sent.
    pub(crate) fn has_passed(&self, mark: Mark) -> bool {
        self.sent() >= mark.0
    }

    /// Octets sent so far, without the dots that stuffing adds.
    pub(crate) fn sent(&self) -> u64 {
        let left: u64 = self.chunks.iter().map(Chunk::len).sum();
        self.pushed - left
    }

    pub(crate) fn push_text(&mut self, text: &[u8]) {
        self.pushed += octets(text.len());
        self.text.extend_from_slice(text);
        match self.chunks.back_mut() {
            Some(Chunk::Text(len)) => *len += text.len(),
            _ if text.is_empty() => {}
            _ => self.chunks.push_back(Chunk::Text(text.len())),
        }
    }

    /// Queues canonical content and the end of data. `leading_dot` says that some line begins
    /// with a dot.
    pub(crate) fn push_content(&mut self, content: &Bytes, leading_dot: bool) {
        self.pushed += octets(content.len());
        if !content.is_empty() {
            self.chunks.push_back(match leading_dot {
                false => Chunk::Content(content.clone()),
                true => Chunk::Stuffed(Stuffed { rest: content.clone(), at_line_start: true }),
            });
        }
        let is_whole = content.is_empty() || content.ends_with(b"\r\n");
        self.push_text(if is_whole { b".\r\n" } else { b"\r\n.\r\n" });
    }
}

/// Text of commands. Never fails.
impl fmt::Write for Outgoing {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_text(text.as_bytes());
        Ok(())
    }
}

/// A place in the stream of an [`Outgoing`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Mark(u64);

impl Chunk {
    /// Octets left, added dots not counted.
    fn len(&self) -> u64 {
        octets(match self {
            Chunk::Text(len) => *len,
            Chunk::Content(content) => content.len(),
            Chunk::Stuffed(stuffed) => stuffed.rest.len(),
        })
    }
}

impl Stuffed {
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.rest;
        let mut at_line_start = self.at_line_start;
        core::iter::from_fn(move || {
            let (piece, used) = next_piece(rest, at_line_start)?;
            at_line_start = used > 0 && piece.ends_with(b"\n");
            rest = &rest[used..];
            Some(piece)
        })
    }

    fn consume(&mut self, len: &mut usize) {
        while let Some((piece, used)) = next_piece(&self.rest, self.at_line_start) {
            if *len == 0 {
                return;
            }
            let taken = piece.len().min(*len);
            *len -= taken;
            self.at_line_start = used > 0 && piece[..taken].ends_with(b"\n");
            self.rest.advance(taken.min(used));
        }
    }
}

/// Longest piece of stuffed content in one slice. Without a bound, a long content would be
/// searched to its end again for each part of it that is sent.
const PIECE_LEN_MAX: usize = 64 * 1024;

/// The next octets to send and how many of the content they stand for: either an added dot (0), or
/// content up to the next line that begins with a dot.
fn next_piece(rest: &[u8], at_line_start: bool) -> Option<(&[u8], usize)> {
    if at_line_start && rest.first()? == &b'.' {
        return Some((b".", 0));
    }
    let window = &rest[..rest.len().min(PIECE_LEN_MAX)];
    let len = memchr::memmem::find(window, b"\n.").map_or(window.len(), |at| at + 1);
    if len == 0 { None } else { Some((&rest[..len], len)) }
}

fn octets(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Decoder;
    use proptest::prelude::*;

    /// Sends everything, `step` octets at a time.
    fn send(outgoing: &mut Outgoing, step: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        while !outgoing.is_empty() {
            let before = wire.len();
            for slice in outgoing.slices() {
                assert!(!slice.is_empty());
                let room = step - (wire.len() - before);
                wire.extend_from_slice(&slice[..slice.len().min(room)]);
            }
            outgoing.consume(wire.len() - before);
        }
        wire
    }

    #[test]
    fn text_and_content_leave_in_order() {
        let mut outgoing = Outgoing::default();
        outgoing.push_text(b"DATA\r\n");
        outgoing.push_content(&Bytes::from_static(b"a\r\n"), false);
        let mark = outgoing.mark();
        outgoing.push_text(b"MAIL\r\n");
        assert_eq!(outgoing.slices().count(), 3);
        outgoing.consume(11);
        assert!(!outgoing.has_passed(mark));
        outgoing.consume(1);
        assert!(outgoing.has_passed(mark));
        assert_eq!(send(&mut outgoing, 4), b"MAIL\r\n");
    }

    #[test]
    fn content_without_a_last_newline_gets_one() {
        let mut outgoing = Outgoing::default();
        outgoing.push_content(&Bytes::from_static(b"a"), false);
        outgoing.push_content(&Bytes::new(), false);
        assert_eq!(send(&mut outgoing, 100), b"a\r\n.\r\n.\r\n");
    }

    #[test]
    fn a_long_content_is_stuffed_across_its_pieces() {
        let mut content = alloc::vec![b'x'; PIECE_LEN_MAX - 2];
        content.extend(b"\r\n.y\r\n");
        let mut outgoing = Outgoing::default();
        outgoing.push_content(&Bytes::from(content.clone()), true);
        let wire = send(&mut outgoing, 1 << 20);
        assert_eq!(wire[PIECE_LEN_MAX..], *b"..y\r\n.\r\n");
    }

    proptest! {
        #[test]
        fn stuffing_and_decoding_give_the_content_back(
            lines in prop::collection::vec("[.a]{0,4}", 0..20),
            step in 1usize..40,
        ) {
            let content: Vec<u8> =
                lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
            let mut outgoing = Outgoing::default();
            outgoing.push_content(&Bytes::from(content.clone()), true);
            let mark = outgoing.mark();
            let wire = send(&mut outgoing, step);
            prop_assert!(outgoing.has_passed(mark));
            let mut decoder = Decoder::new(998, 1 << 20);
            let mut decoded = Vec::new();
            prop_assert_eq!(decoder.decode(&wire, &mut decoded), (wire.len(), true));
            prop_assert_eq!(decoded, content);
            let dots = lines.iter().any(|line| line.starts_with('.'));
            prop_assert_eq!(decoder.summary().leading_dot, dots);
        }
    }
}

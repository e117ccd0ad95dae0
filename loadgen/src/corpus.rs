//! Ready-made lines from which bodies are copied, so that making mail costs little more than moving
//! its bytes.

use fastrand::Rng;

/// Lines of one kind, each ending with CRLF, in one piece of memory.
#[derive(Debug)]
pub(crate) struct Corpus {
    text: Vec<u8>,
    /// Where each line begins, and at last where the text ends.
    starts: Vec<usize>,
}

/// What a corpus' lines look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LineKind {
    /// Words in ASCII, a line in thirty beginning with dots.
    Plain,
    /// Words in UTF-8, many beyond ASCII.
    EightBit,
    /// Lines of up to 998 bytes (RFC 5322 §2.1.1).
    Long,
    /// Nearly all begin with dots; many are only dots.
    Dotted,
}

impl Corpus {
    /// The same lines each time for one kind.
    pub(crate) fn new(kind: LineKind) -> Corpus {
        let mut rng = Rng::with_seed(kind as u64 + 1);
        let mut corpus = Corpus { text: Vec::new(), starts: vec![0] };
        while corpus.text.len() < CORPUS_SIZE_BYTES {
            corpus.push_line(kind, &mut rng);
            corpus.text.extend_from_slice(b"\r\n");
            corpus.starts.push(corpus.text.len());
        }
        corpus
    }

    /// Appends whole lines, exactly `size` bytes, beginning at a line of the generator's choice.
    /// `size` is not 1: a line has at least its CRLF.
    pub(crate) fn fill(&self, rng: &mut Rng, size: usize, out: &mut Vec<u8>) {
        assert_ne!(size, 1, "a line has at least its CRLF");
        let lines = self.starts.len() - 1;
        let mut left = size;
        let mut line = rng.usize(..lines);
        while left > FILLER_SIZE_BYTES_MAX {
            // At least the filler's two bytes are kept back, so that what is left is never 1.
            let begin = self.starts[line];
            let limit = begin + left - 2;
            let end_line = self.starts.partition_point(|&start| start <= limit) - 1;
            let end = self.starts[end_line.max(line)];
            if end == begin {
                break;
            }
            out.extend_from_slice(&self.text[begin..end]);
            left -= end - begin;
            line = if end_line == lines { 0 } else { end_line };
            if self.starts[line + 1] - self.starts[line] + 2 > left {
                break;
            }
        }
        fill_plainly(left, out);
    }

    fn push_line(&mut self, kind: LineKind, rng: &mut Rng) {
        let begin = self.text.len();
        let (words, width) = match kind {
            LineKind::EightBit => (&WORDS_UTF8[..], rng.usize(0..76)),
            LineKind::Long => (&WORDS[..], [998, 700, 990][rng.usize(..3)]),
            LineKind::Plain | LineKind::Dotted => (&WORDS[..], rng.usize(0..76)),
        };
        let dots = match kind {
            LineKind::Dotted => rng.usize(0..4),
            _ if rng.u8(0..30) == 0 => rng.usize(1..4),
            _ => 0,
        };
        self.text.extend(std::iter::repeat_n(b'.', dots));
        let only_dots = dots > 0 && rng.u8(0..3) == 0;
        while !only_dots && self.text.len() - begin < width {
            let word = words[rng.usize(..words.len())];
            if self.text.len() - begin + word.len() >= width.max(word.len() + 1) {
                break;
            }
            self.text.extend_from_slice(word.as_bytes());
            self.text.push(b' ');
        }
        // The longest allowed line must come up, not only nearly.
        while kind == LineKind::Long && !only_dots && self.text.len() - begin < width {
            self.text.push(b'-');
        }
    }
}

/// Appends lines of one repeated letter, exactly `size` bytes; `size` is not 1.
pub(crate) fn fill_plainly(size: usize, out: &mut Vec<u8>) {
    assert_ne!(size, 1, "a line has at least its CRLF");
    let mut left = size;
    while left > 0 {
        // Never leaves 1.
        let line = match left {
            0..=80 => left,
            81 => 79,
            _ => 80,
        };
        out.extend(std::iter::repeat_n(b'x', line - 2));
        out.extend_from_slice(b"\r\n");
        left -= line;
    }
}

/// Size of each corpus: larger than the first-level cache, so that copying costs what it does in life.
const CORPUS_SIZE_BYTES: usize = 128 * 1024;

/// Below this a body ends with filler rather than with lines of the corpus.
const FILLER_SIZE_BYTES_MAX: usize = 80;

const WORDS: [&str; 24] = [
    "relay", "courier", "station", "the", "of", "Edo", "Kyoto", "letter", "river", "crossing", "a",
    "to", "night", "three", "days", "horse", "bridge", "inn", "toll", "=3D", "--", "From", "1,024",
    "<tag>",
];

const WORDS_UTF8: [&str; 12] = [
    "飛脚",
    "東海道",
    "Grüße",
    "naïve",
    "plain",
    "čeština",
    "Ωμέγα",
    "письмо",
    "—",
    "é",
    "宿場",
    "a",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [LineKind; 4] =
        [LineKind::Plain, LineKind::EightBit, LineKind::Long, LineKind::Dotted];

    #[test]
    fn some_lines_are_only_a_dot() {
        for kind in [LineKind::Plain, LineKind::EightBit, LineKind::Dotted] {
            assert!(memchr::memmem::find(&Corpus::new(kind).text, b"\r\n.\r\n").is_some());
        }
    }

    #[test]
    fn every_kind_keeps_its_promise() {
        for kind in KINDS {
            let corpus = Corpus::new(kind);
            let text = std::str::from_utf8(&corpus.text).unwrap();
            let lengths = || text.split("\r\n").map(str::len);
            assert!(lengths().all(|length| length <= 998), "{kind:?}");
            assert!(text.contains("\r\n."), "{kind:?} has lines that begin with dots");
            assert_eq!(text.is_ascii(), kind != LineKind::EightBit);
            assert_eq!(lengths().any(|length| length == 998), kind == LineKind::Long);
        }
    }

    proptest! {
        #[test]
        fn bodies_have_exactly_the_size_asked_for(size in 0_usize..3000, seed: u64, kind in 0_usize..4) {
            prop_assume!(size != 1);
            let mut out = Vec::new();
            Corpus::new(KINDS[kind]).fill(&mut fastrand::Rng::with_seed(seed), size, &mut out);
            prop_assert_eq!(out.len(), size);
            prop_assert!(size == 0 || out.ends_with(b"\r\n"));
            prop_assert!(out.split(|&byte| byte == b'\n').all(|line| line.len() <= 999));
        }
    }
}

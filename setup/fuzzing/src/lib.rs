//! What the drivers of the fuzz targets have in common (`docs/testing.md` has the whole).
//!
//! * [`Script`] reads decisions off an input.
//! * [`Cuts`] cuts a stream into pieces in several ways.
//! * [`Corpus`] is the inputs that are kept of one target, as one file of text.
//! * [`replay`] runs a driver on every input of a corpus.

mod corpus;

use std::fmt;
use std::fs;
use std::path::Path;

pub use corpus::Corpus;

/// Any bytes, read as decisions from the front. Beyond its end all is zero.
#[derive(Debug)]
pub struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    /// At the start of `input`.
    pub fn new(input: &'a [u8]) -> Script<'a> {
        Script { rest: input }
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// At most `length` bytes: fewer at the end.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Two bytes as a number, the lower first.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Eight bytes as a number, the lowest first.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number that is small or near a power of two, as those break things; seldom any other.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=0xbf => u64::from(small),
            0xc0..=0xcf => u64::from(self.u16()),
            power @ 0xd0..=0xef => (1 << (power & 0x1f)) - 1 + u64::from(self.byte() & 3),
            _ => self.u64(),
        }
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }
}

/// How a stream is cut into the pieces in which it arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cuts {
    /// Not at all.
    Whole,
    /// Into single bytes; a stream above 4 KiB into pieces of 61.
    Bytes,
    /// At places that follow from this seed, which is not 0.
    Seeded(u64),
}

impl Cuts {
    /// The ways in which each stream is cut: seldom, often, and at places that depend on `input`.
    pub fn all(input: &[u8]) -> [Cuts; 3] {
        // FNV-1a: any hash does.
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let seed = input.iter().fold(0xcbf2_9ce4_8422_2325, hash);
        [Cuts::Whole, Cuts::Bytes, Cuts::Seeded(seed.max(1))]
    }

    /// The pieces of `stream`, none of them empty.
    pub fn pieces(self, stream: &[u8]) -> impl Iterator<Item = &[u8]> {
        let single = if stream.len() > 4096 { 61 } else { 1 };
        let mut rest = stream;
        let mut state = if let Cuts::Seeded(seed) = self { seed } else { 1 };
        std::iter::from_fn(move || {
            let length = match self {
                Cuts::Whole => rest.len(),
                Cuts::Bytes => single,
                Cuts::Seeded(_) => {
                    let scale = if xorshift(&mut state).is_multiple_of(8) { 70_000 } else { 130 };
                    1 + usize::try_from(xorshift(&mut state) % scale).unwrap_or(0)
                }
            };
            let (piece, left) = rest.split_at(length.min(rest.len()));
            rest = left;
            (!piece.is_empty()).then_some(piece)
        })
    }
}

/// What `run` gives, which must be the same however streams are cut.
///
/// # Panics
/// If it is not.
pub fn same_in_all_cuts<R: PartialEq + fmt::Debug>(input: &[u8], run: impl FnMut(Cuts) -> R) -> R {
    let [whole, bytes, seeded] = Cuts::all(input).map(run);
    assert_eq!(bytes, whole);
    assert_eq!(seeded, whole);
    whole
}

/// Runs a driver on every input of a corpus. The line of each goes to standard error before, so
/// that a failing test shows which it was.
///
/// # Panics
/// If the driver does; or if the file cannot be read or holds nothing, as then nothing would be
/// tested.
pub fn replay(corpus: impl AsRef<Path>, run: impl Fn(&[u8])) {
    let path = corpus.as_ref();
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let corpus = Corpus::parse(&text).unwrap_or_else(|line| panic!("{path:?}:{line}: an escape"));
    assert!(!corpus.inputs().is_empty(), "{path:?} is empty");
    for (place, input) in corpus.inputs().iter().enumerate() {
        eprintln!("{}:{}", path.display(), place + 1);
        run(input);
    }
}

/// The next of a row of numbers that look random (xorshift64, Marsaglia 2003).
fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "left == right")]
    fn what_depends_on_the_cuts_is_found() {
        same_in_all_cuts(b"abc", |cuts| cuts.pieces(b"abc").count());
    }

    #[test]
    fn all_ways_of_cutting_give_the_stream_back() {
        let stream: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        for length in [0, 1, 100, 4096, 4097, 10_000] {
            for cuts in Cuts::all(&stream[..length]) {
                let pieces: Vec<&[u8]> = cuts.pieces(&stream[..length]).collect();
                assert!(pieces.iter().all(|piece| !piece.is_empty()));
                assert_eq!(pieces.concat(), stream[..length], "{cuts:?}");
            }
        }
        assert!(Cuts::all(b"x")[2].pieces(&stream).count() > 10);
    }

    #[test]
    fn a_script_goes_on_with_zeros() {
        let mut script = Script::new(&[7, 1, 2, 0xd8, 2, 9]);
        assert_eq!((script.byte(), script.u16()), (7, 0x0201));
        assert_eq!(script.number(), (1 << 24) - 1 + 2);
        assert_eq!((script.bytes(5), script.is_over()), (&[9][..], true));
        assert_eq!((script.byte(), script.u64(), script.number()), (0, 0, 0));
    }

    #[test]
    #[should_panic(expected = "is empty")]
    fn a_corpus_of_nothing_is_a_mistake() {
        replay("/dev/null", |_| ());
    }
}

//! The running hash by which two runs are compared.

/// A 64-bit hash of everything that was recorded, in order. Not cryptographic: it tells two runs
/// apart, it withstands nobody.
#[derive(Clone, Debug)]
pub(super) struct Trace(u64);

impl Trace {
    pub(super) fn new(seed: u64) -> Trace {
        let mut trace = Trace(BASIS);
        trace.record(seed);
        trace
    }

    pub(super) fn record(&mut self, word: u64) {
        // The step of FNV-1a, eight bytes wide; the shift brings high bits back down.
        self.0 = (self.0 ^ word).wrapping_mul(PRIME);
        self.0 ^= self.0 >> 29;
    }

    pub(super) fn record_bytes(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.record(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        for &byte in words.remainder() {
            self.record(u64::from(byte));
        }
        self.record(u64::try_from(bytes.len()).expect("64 bits"));
    }

    pub(super) fn hash(&self) -> u64 {
        self.0
    }
}

/// The offset basis of FNV-1a.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
/// 2^64 divided by the golden ratio, made odd: every bit of a word moves many others.
const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_boundaries_count() {
        let of = |pieces: &[&[u8]]| {
            let mut trace = Trace::new(1);
            pieces.iter().for_each(|piece| trace.record_bytes(piece));
            trace.hash()
        };
        assert_eq!(of(&[b"ab", b"c"]), of(&[b"ab", b"c"]));
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"c", b"ab"]));
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"12345678"]), of(&[b"12345679"]));
    }
}

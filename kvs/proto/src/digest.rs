//! Checksums, and the numbers by which two copies of a queue are compared.
//!
//! The *chain* covers the history: each change is folded into it, so equal chains after equally
//! many changes mean the same changes in the same order. The *content digest* covers what lives:
//! a sum over the messages, so it does not depend on the order in which a copy was filled.
//! Neither defends against an adversary who holds the account's secret; they find faults.

use crc_fast::CrcAlgorithm::Crc32Iscsi;

use crate::{BodyDigest, ChainHash, ContentDigest, MessageId, Op, StateDigest, StateVersion};

/// CRC32C of `bytes`.
#[inline]
pub fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC32C of what gave `earlier`, followed by `bytes`.
#[inline]
pub fn checksum_append(earlier: u32, bytes: &[u8]) -> u32 {
    // A register of CRC32C holds the complement of what it gives in the end.
    let mut digest = crc_fast::Digest::new_with_init_state(Crc32Iscsi, u64::from(!earlier));
    digest.update(bytes);
    low_half(digest.finalize())
}

/// CRC32C of two runs of bytes of which the checksums are known; the second has `second_length`
/// bytes. Costs some microseconds whatever the length.
pub fn checksum_combine(first: u32, second: u32, second_length: usize) -> u32 {
    let length = second_length as u64;
    low_half(crc_fast::checksum_combine(Crc32Iscsi, first.into(), second.into(), length))
}

/// The library gives all its checksums in 64 bits.
fn low_half(sum: u64) -> u32 {
    u32::try_from(sum).expect("CRC32C has 32 bits")
}

/// What stands for a body of `length` bytes with that checksum.
pub const fn body_digest(length: u32, checksum: u32) -> BodyDigest {
    BodyDigest((length as u64) << 32 | checksum as u64)
}

/// What stands for a state record. A message without one has `StateDigest(0)`.
pub fn state_digest(version: StateVersion, state: &[u8]) -> StateDigest {
    StateDigest(u64::from(version.0) << 32 | u64::from(checksum(state)))
}

/// The chain after one more change. `digest` is the body's for `Store`, the state's for `Replace`,
/// and 0 for `Delete`.
#[must_use]
pub const fn chain(hash: ChainHash, op: Op, id: MessageId, digest: u64) -> ChainHash {
    let step = mix(hash.0 ^ (op as u64).wrapping_mul(SPREAD));
    ChainHash(mix(mix(step.wrapping_add(id.0)) ^ digest))
}

/// What one living message adds to the content digest.
pub const fn content_term(id: MessageId, state: StateDigest, body: BodyDigest) -> u64 {
    mix(mix(mix(id.0.wrapping_add(SPREAD)) ^ body.0).wrapping_add(state.0))
}

impl ContentDigest {
    /// With one message more.
    #[must_use]
    pub const fn with(self, term: u64) -> ContentDigest {
        ContentDigest(self.0.wrapping_add(term))
    }

    /// With one message fewer.
    #[must_use]
    pub const fn without(self, term: u64) -> ContentDigest {
        ContentDigest(self.0.wrapping_sub(term))
    }
}

/// A bijection of 64 bits in which every input bit reaches every output bit: two multiplications
/// between three folding shifts, the form of splitmix64's last step.
const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// An odd number without a pattern in its bits (2^64 divided by the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn chains_tell_order_op_id_and_digest_apart() {
        let step = |hash, op, id, digest| chain(hash, op, MessageId(id), digest);
        let start = ChainHash(0);
        let ab = step(step(start, Op::Store, 1, 7), Op::Store, 2, 8);
        let ba = step(step(start, Op::Store, 2, 8), Op::Store, 1, 7);
        assert_ne!(ab, ba);
        assert_ne!(step(start, Op::Store, 1, 7), step(start, Op::Replace, 1, 7));
        assert_ne!(step(start, Op::Store, 1, 7), step(start, Op::Store, 1, 8));
        assert_ne!(step(start, Op::Delete, 1, 0), step(start, Op::Delete, 2, 0));
    }

    #[test]
    fn content_does_not_depend_on_order_and_comes_back_to_zero() {
        let a = content_term(MessageId(1), StateDigest(0), body_digest(3, 9));
        let b = content_term(MessageId(2), StateDigest(5), body_digest(3, 9));
        let empty = ContentDigest(0);
        assert_eq!(empty.with(a).with(b), empty.with(b).with(a));
        assert_eq!(empty.with(a).with(b).without(a).without(b), empty);
        assert_ne!(a, content_term(MessageId(1), StateDigest(1), body_digest(3, 9)));
    }

    /// CRC32C bit by bit, as RFC 3720 defines it.
    fn by_definition(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |register, byte| {
            (0..8).fold(register ^ u32::from(*byte), |register, _| {
                (register >> 1) ^ (0x82f6_3b78 & (register & 1).wrapping_neg())
            })
        })
    }

    /// The library takes another way for each range of lengths and each kind of processor.
    #[test]
    fn checksums_are_those_of_the_definition_at_any_length_and_place() {
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
        let bytes: Vec<u8> =
            (0..6000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for length in (0..300).chain((300..5900).step_by(61)) {
            for start in [0, 1, 7, 33] {
                let run = &bytes[start..start + length];
                let (first, second) = run.split_at(length / 3);
                let expected = by_definition(run);
                assert_eq!(checksum(run), expected, "{length} bytes from {start}");
                assert_eq!(checksum_append(checksum(first), second), expected);
            }
        }
    }

    #[test]
    fn combined_checksums_equal_the_whole() {
        let whole = b"a body in two pieces";
        let (first, second) = whole.split_at(7);
        assert_eq!(
            checksum_combine(checksum(first), checksum(second), second.len()),
            checksum(whole)
        );
    }
}

//! The digest by which senders and sinks tell whether content arrived as it was sent.

/// A 64-bit digest of `bytes`.
///
/// Every step is a bijection of the state, so a change within one aligned word of 8 bytes is always
/// seen, and any other change is missed once in 2^64. It guards against faults, not against an
/// adversary, and shares nothing with the checksums of the system under test.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut state = START ^ bytes.len() as u64;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut whole = [0; 8];
        whole.copy_from_slice(word);
        state = step(state, u64::from_le_bytes(whole));
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let mut whole = [0; 8];
        whole[..rest.len()].copy_from_slice(rest);
        state = step(state, u64::from_le_bytes(whole));
    }
    step(state, 0)
}

/// One generator seed out of two numbers, so that neighbours have nothing in common.
pub fn mix(seed: u64, number: u64) -> u64 {
    step(step(seed ^ START, number), START)
}

fn step(state: u64, word: u64) -> u64 {
    let product = (state ^ word).wrapping_mul(FACTOR);
    product ^ (product >> 32)
}

/// Any odd number with well spread bits: odd, so that multiplying by it is a bijection.
const FACTOR: u64 = 0x9fb2_1c65_1e98_df25;
/// Any number; it keeps the state of leading zero words from staying zero.
const START: u64 = 0x51a2_7d14_60c3_88b9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_bit_counts() {
        let original = vec![0x5a; 67];
        let expected = digest(&original);
        for bit in 0..original.len() * 8 {
            let mut changed = original.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(digest(&changed), expected, "bit {bit}");
        }
    }

    #[test]
    fn length_and_order_count() {
        assert_ne!(digest(&[0; 8]), digest(&[0; 16]));
        assert_ne!(digest(&[0; 3]), digest(&[0; 4]));
        assert_ne!(digest(b"aaaaaaaabbbbbbbb"), digest(b"bbbbbbbbaaaaaaaa"));
    }
}

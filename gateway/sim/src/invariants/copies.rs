//! I3: copies that count and have come equally far are equal. One that refused a change (it is full) goes on with
//! those behind it until its owner hears of that and takes it out of the record: its numbers mean nothing.

use super::{Broken, CopySight, Invariant};

/// Compares all copies of each queue that count.
///
/// # Errors
/// Two that differ.
pub fn check(copies: &[CopySight]) -> Result<(), Broken> {
    for (place, one) in copies.iter().enumerate().filter(|(_, it)| it.counts) {
        // The copies of one queue are neighbours.
        for other in copies[place + 1..].iter().take_while(|it| it.queue == one.queue) {
            if other.counts && differ(one, other) {
                return Err(Invariant::I3.broken(format!("{one:?} and {other:?} differ")));
            }
        }
    }
    Ok(())
}

fn differ(one: &CopySight, other: &CopySight) -> bool {
    let what = |it: &CopySight| (it.numbers.chain, it.numbers.content, it.numbers.messages);
    !one.has_refused
        && !other.has_refused
        && one.numbers.transaction == other.numbers.transaction
        && what(one) != what(other)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::check::CopyNumbers;
    use kvs_proto::{ChainHash, ContentDigest, Epoch, Incarnation, Sequence, Transaction};

    /// A copy of the first queue that counts.
    pub(crate) fn sight(server: usize) -> CopySight {
        CopySight {
            queue: 0,
            server,
            life: Incarnation(7),
            uid: 1,
            counts: true,
            numbers: CopyNumbers {
                epoch: Epoch(3),
                transaction: Transaction(10),
                chain: ChainHash(5),
                content: ContentDigest(6),
                messages: 4,
            },
            last_sequence: Sequence(9),
            known_after: Transaction(2),
            has_refused: false,
        }
    }

    #[test]
    fn copies_that_differ_at_the_same_place_break_i3() {
        let (one, equal) = (sight(0), sight(1));
        assert_eq!(check(&[one, equal]), Ok(()));
        let mut other = sight(2);
        other.numbers.content = ContentDigest(99);
        let broken = check(&[one, equal, other]).unwrap_err();
        assert_eq!(broken.invariant, Invariant::I3);
        let full = CopySight { has_refused: true, ..other };
        assert_eq!(check(&[one, equal, full]), Ok(()));
        // Elsewhere, outside the record, or of another queue they may differ.
        other.numbers.transaction = Transaction(11);
        assert_eq!(check(&[one, other]), Ok(()));
        other.numbers.transaction = Transaction(10);
        assert_eq!(check(&[one, CopySight { counts: false, ..other }]), Ok(()));
        assert_eq!(check(&[one, CopySight { queue: 1, ..other }]), Ok(()));
    }
}

//! I3: numbers only grow. I5: each sequence number is applied at most once in an epoch.

use std::collections::BTreeMap;

use kvs_proto::Epoch;

use super::{Broken, CopySight, Invariant};

/// The copies and records as they were.
#[derive(Debug, Default)]
pub struct Growth {
    /// By queue and server.
    copies: BTreeMap<(usize, usize), CopySight>,
    /// By key: version and epoch.
    records: BTreeMap<String, (u64, Epoch)>,
}

impl Growth {
    /// Compares each copy with what it was.
    ///
    /// # Errors
    /// What went back, or was applied twice.
    pub fn check_copies(&mut self, copies: &[CopySight]) -> Result<(), Broken> {
        for copy in copies {
            let before = self.copies.insert((copy.queue, copy.server), *copy);
            let same = |it: &CopySight| (it.life, it.uid) == (copy.life, copy.uid);
            if let Some(before) = before.filter(same) {
                check_numbers(&before, copy)?;
                check_sequence(&before, copy)?;
            }
        }
        Ok(())
    }

    /// Compares a record with what it was.
    ///
    /// # Errors
    /// What went back.
    pub fn check_record(&mut self, key: &str, version: u64, epoch: Epoch) -> Result<(), Broken> {
        let Some(before) = self.records.get_mut(key) else {
            self.records.insert(key.to_owned(), (version, epoch));
            return Ok(());
        };
        let was = std::mem::replace(before, (version, epoch));
        if version < was.0 || epoch < was.1 {
            let what = format!("the record {key} went from {was:?} to {:?}", (version, epoch));
            return Err(Invariant::I3.broken(what));
        }
        Ok(())
    }
}

fn check_numbers(before: &CopySight, after: &CopySight) -> Result<(), Broken> {
    let numbers = |it: &CopySight| (it.numbers.epoch, it.numbers.transaction);
    let ((epoch, transaction), (epoch_now, transaction_now)) = (numbers(before), numbers(after));
    if epoch_now < epoch || transaction_now < transaction {
        return Err(Invariant::I3.broken(format!("{before:?} went back to {after:?}")));
    }
    Ok(())
}

/// Each change uses a number up. What has not used any up has changed nothing, and what has can have
/// changed no more. Only a baseline moves the transaction number further, and forgets what was before.
fn check_sequence(before: &CopySight, after: &CopySight) -> Result<(), Broken> {
    let is_new_epoch = before.numbers.epoch != after.numbers.epoch;
    let used = if is_new_epoch {
        // What the epoch before has used up since we looked is not known.
        return Ok(());
    } else if after.last_sequence < before.last_sequence {
        let what = format!("sequence numbers went back within an epoch: {before:?}, {after:?}");
        return Err(Invariant::I5.broken(what));
    } else {
        after.last_sequence.0 - before.last_sequence.0
    };
    let (was, is) = (&before.numbers, &after.numbers);
    let changed =
        (was.chain, was.content, was.transaction) != (is.chain, is.content, is.transaction);
    let messages = was.messages.abs_diff(is.messages);
    let changes = is.transaction.0 - was.transaction.0;
    let jumped = after.known_after > before.numbers.transaction;
    if (used == 0 && changed) || messages > used || (changes > used && !jumped) {
        let what = format!("{used} numbers were used up from {before:?} to {after:?}");
        return Err(Invariant::I5.broken(what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::copies::tests::sight;
    use super::*;
    use kvs_proto::{ChainHash, ContentDigest, Incarnation, Sequence, Transaction};

    /// What is broken when a copy changes like this.
    fn after(change: impl FnOnce(&mut CopySight)) -> Option<Invariant> {
        let mut growth = Growth::default();
        growth.check_copies(&[sight(0)]).unwrap();
        let mut copy = sight(0);
        change(&mut copy);
        growth.check_copies(&[copy]).err().map(|it| it.invariant)
    }

    #[test]
    fn numbers_that_go_back_break_i3() {
        assert_eq!(after(|it| it.numbers.transaction = Transaction(9)), Some(Invariant::I3));
        assert_eq!(after(|it| it.numbers.epoch = Epoch(2)), Some(Invariant::I3));
        // Another backup queue begins where it likes.
        let anew = |it: &mut CopySight| (it.uid, it.numbers.transaction) = (2, Transaction(0));
        assert_eq!(after(anew), None);
        let life = |it: &mut CopySight| (it.life, it.numbers.epoch) = (Incarnation(8), Epoch(0));
        assert_eq!(after(life), None);
    }

    #[test]
    fn records_that_go_back_break_i3() {
        let mut growth = Growth::default();
        growth.check_record("k", 5, Epoch(2)).unwrap();
        growth.check_record("k", 6, Epoch(2)).unwrap();
        growth.check_record("other", 1, Epoch(1)).unwrap();
        assert_eq!(growth.check_record("k", 5, Epoch(2)).unwrap_err().invariant, Invariant::I3);
        assert_eq!(growth.check_record("k", 7, Epoch(1)).unwrap_err().invariant, Invariant::I3);
    }

    #[test]
    fn more_changes_than_numbers_break_i5() {
        // One number and one change; a refusal; a baseline.
        let one = |it: &mut CopySight| {
            (it.last_sequence, it.numbers.transaction) = (Sequence(10), Transaction(11));
        };
        assert_eq!(after(one), None);
        assert_eq!(after(|it| it.last_sequence = Sequence(10)), None);
        let jump = |it: &mut CopySight| {
            (it.last_sequence, it.numbers.transaction) = (Sequence(10), Transaction(50));
            it.known_after = Transaction(50);
        };
        assert_eq!(after(jump), None);

        let twice = |it: &mut CopySight| {
            (it.last_sequence, it.numbers.transaction) = (Sequence(10), Transaction(12));
        };
        assert_eq!(after(twice), Some(Invariant::I5));
        let unnumbered = |it: &mut CopySight| it.numbers.chain = ChainHash(1);
        assert_eq!(after(unnumbered), Some(Invariant::I5));
        let content = |it: &mut CopySight| it.numbers.content = ContentDigest(1);
        assert_eq!(after(content), Some(Invariant::I5));
        assert_eq!(after(|it| it.last_sequence = Sequence(8)), Some(Invariant::I5));
        let two_gone = |it: &mut CopySight| {
            (it.last_sequence, it.numbers.messages) = (Sequence(10), 2);
        };
        assert_eq!(after(two_gone), Some(Invariant::I5));
    }
}

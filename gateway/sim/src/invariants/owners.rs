//! I2: when a copy that counts is sealed with an epoch, and the lease that was recorded then is over, no owner
//! of a lower epoch acts for that queue. It acts when it commits a change, answers 250 for a mail, or
//! sends a next hop the end of one.
//!
//! Seals are seen at the servers and leases in the register, and most of what owners do in what they send:
//! what an owner thinks of its lease is not asked.

use std::collections::BTreeMap;
use std::time::Duration;

use kvs_proto::{Epoch, Transaction};
use tcpstack::Instant;

use super::{Broken, CopySight, Invariant};

/// What is known of the owners of each queue, by its place.
#[derive(Debug, Default)]
pub(super) struct Owners {
    queues: Vec<Owned>,
    /// Acts of an owner that had been sealed, within its lease: had there been none, the check would have shown
    /// little.
    pub(super) acts_in_time: u64,
}

#[derive(Debug, Default)]
struct Owned {
    /// By epoch of a seal: when the owners before it have stopped.
    ends: BTreeMap<Epoch, Instant>,
    /// By life of a gateway: what it had committed.
    committed: BTreeMap<u64, Transaction>,
}

/// What an owner did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// It committed a change.
    Committed,
    /// It answered 250 for a mail.
    Answered,
    /// It sent a next hop the end of a mail.
    Delivered,
}

impl Owners {
    /// Notes the seals at copies that count; `lease` is what their records say, by queue.
    pub(super) fn note_seals(
        &mut self,
        now: Instant,
        copies: &[CopySight],
        lease: impl Fn(usize) -> Option<Duration>,
    ) {
        for copy in copies.iter().filter(|copy| copy.counts) {
            let Some(lease) = lease(copy.queue) else { continue };
            self.queue(copy.queue).ends.entry(copy.numbers.epoch).or_insert(now + lease);
        }
    }

    /// When an owner of that epoch has to have stopped, if a later one has sealed a copy.
    fn end(&self, queue: usize, epoch: Epoch) -> Option<Instant> {
        let later = self.queues.get(queue)?.ends.iter().filter(|(seal, _)| **seal > epoch);
        later.map(|(_, end)| *end).min()
    }

    /// An owner acts.
    ///
    /// # Errors
    /// It may not any more.
    pub(super) fn check(
        &mut self,
        now: Instant,
        queue: usize,
        epoch: Epoch,
        act: Act,
    ) -> Result<(), Broken> {
        match self.end(queue, epoch) {
            None => Ok(()),
            Some(end) if now <= end => {
                self.acts_in_time += 1;
                Ok(())
            }
            Some(end) => Err(Invariant::I2.broken(format!(
                "queue {queue}: at {now:?} the owner of {epoch:?} {}; a later one has sealed a copy, and the \
                 lease was over at {end:?}",
                match act {
                    Act::Committed => "committed a change",
                    Act::Answered => "answered 250 for a mail",
                    Act::Delivered => "sent the end of a mail",
                }
            ))),
        }
    }

    /// An owner has committed so much by now.
    ///
    /// # Errors
    /// It is more than before, and it may not any more.
    pub(super) fn check_committed(
        &mut self,
        now: Instant,
        queue: usize,
        (life, epoch): (u64, Epoch),
        committed: Transaction,
    ) -> Result<(), Broken> {
        let before = self.queue(queue).committed.insert(life, committed);
        if before.is_some_and(|before| committed > before) {
            return self.check(now, queue, epoch, Act::Committed);
        }
        Ok(())
    }

    fn queue(&mut self, queue: usize) -> &mut Owned {
        if self.queues.len() <= queue {
            self.queues.resize_with(queue + 1, Owned::default);
        }
        &mut self.queues[queue]
    }
}

#[cfg(test)]
mod tests {
    use super::super::sight_of_copy;
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// A copy of the first queue is sealed with epoch 4 at 100 ms; the lease is a second.
    fn sealed() -> Owners {
        let mut owners = Owners::default();
        let lease = |_| Some(Duration::from_secs(1));
        let mut copy = sight_of_copy(0);
        owners.note_seals(at(50), &[copy], lease);
        copy.numbers.epoch = Epoch(4);
        owners.note_seals(at(100), &[copy], lease);
        owners.note_seals(at(900), &[copy], lease);
        owners
    }

    #[test]
    fn an_owner_that_acts_after_the_lease_when_a_later_one_has_sealed_breaks_i2() {
        for act in [Act::Committed, Act::Answered, Act::Delivered] {
            let mut owners = sealed();
            assert_eq!(owners.check(at(1100), 0, Epoch(3), act), Ok(()));
            assert_eq!(owners.acts_in_time, 1);
            let broken = owners.check(at(1101), 0, Epoch(3), act).unwrap_err();
            assert_eq!(broken.invariant, Invariant::I2);
            assert_eq!(owners.check(at(5000), 0, Epoch(4), act), Ok(()), "it is the owner");
            assert_eq!(owners.check(at(5000), 1, Epoch(3), act), Ok(()), "another queue");
        }
    }

    #[test]
    fn a_seal_at_a_copy_that_does_not_count_stops_nobody() {
        let mut owners = Owners::default();
        let copy = CopySight { counts: false, ..sight_of_copy(0) };
        owners.note_seals(at(1), &[copy], |_| Some(Duration::ZERO));
        assert_eq!(owners.check(at(9), 0, Epoch(1), Act::Delivered), Ok(()));
    }

    #[test]
    fn only_what_is_committed_anew_is_an_act() {
        let mut owners = sealed();
        let mut commits = |millis, number| {
            owners.check_committed(at(millis), 0, (7, Epoch(3)), Transaction(number))
        };
        assert_eq!(commits(500, 5), Ok(()));
        assert_eq!(commits(5000, 5), Ok(()));
        assert!(commits(5000, 6).is_err());
    }
}

//! Where each message lies: one table for all queues of a worker, never resized.
//!
//! Open addressing with linear probing over 8-byte slots. Eight consecutive ids of a queue share a
//! home of eight slots, one cache line, so that in-order stores and deletes touch each line once
//! for eight messages; the homes themselves are spread by a hash. A slot holds its distance from
//! where it wanted to be, so that a removal can close the gap behind it (no tombstones) without
//! looking at the messages.

use std::io;

use kvs_proto::MessageId;

use super::mapping::{Mapping, Presence};
use super::{Place, QueueUid};

/// The table.
///
/// A slot is 0 when empty, else `place << 32 | 1 << 31 | tag << 12 | distance`.
#[derive(Debug)]
pub(super) struct Index {
    slots: Mapping,
    /// Groups of eight slots. `entries_max * SLOTS_PER_ENTRY <= groups * 8`.
    groups: u64,
    entries: usize,
    entries_max: usize,
}

/// Where an entry wants to be, and how it is told from others there.
#[derive(Clone, Copy)]
struct Home {
    position: usize,
    tag: u64,
}

impl Index {
    /// A table for `entries_max` messages: 24 bytes each.
    ///
    /// # Errors
    /// The system has not that much memory.
    pub(super) fn new(entries_max: usize, presence: Presence) -> io::Result<Index> {
        let groups = entries_max.saturating_mul(SLOTS_PER_ENTRY).div_ceil(GROUP).max(1);
        let slots = Mapping::new(groups.saturating_mul(GROUP * size_of::<u64>()), presence)?;
        Ok(Index { slots, groups: groups as u64, entries: 0, entries_max })
    }

    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    pub(super) fn entries_max(&self) -> usize {
        self.entries_max
    }

    /// Bytes of the table.
    pub(super) fn size_bytes(&self) -> usize {
        self.len() * size_of::<u64>()
    }

    /// The place of a message. `is_it` tells whether the record at a place is the one; it is asked
    /// for the right one and, once in some 100,000 times, for another.
    #[inline]
    pub(super) fn find(
        &self,
        queue: QueueUid,
        id: MessageId,
        is_it: impl Fn(Place) -> bool,
    ) -> Option<Place> {
        self.position(queue, id, is_it).map(|position| self.place_at(position))
    }

    /// Adds a message that is not there. False, and nothing changed, when the table has
    /// `entries_max` entries or is hopelessly crowded around that one's home (never seen).
    #[inline]
    pub(super) fn insert(&mut self, queue: QueueUid, id: MessageId, place: Place) -> bool {
        if self.entries == self.entries_max {
            return false;
        }
        if id.0.is_multiple_of(GROUP as u64) {
            self.prefetch_next(queue, id);
        }
        let Home { mut position, tag } = self.home(queue, id);
        let length = self.len();
        let slots = self.slots.words_mut();
        for distance in 0..DISTANCE_END {
            if slots[position] == 0 {
                slots[position] = u64::from(place.0) << 32 | tag | distance;
                self.entries += 1;
                return true;
            }
            position = after(position, length);
        }
        false
    }

    /// Ids mostly come in order, so those of the next home are next, and it is somewhere else in memory. The line
    /// behind it too: that is where a removal sees that nothing is to be moved.
    #[inline]
    fn prefetch_next(&self, queue: QueueUid, id: MessageId) {
        let next = self.home(queue, MessageId(id.0.wrapping_add(GROUP as u64)));
        self.slots.prefetch(next.position);
        self.slots.prefetch(next.position + GROUP);
    }

    /// Has the processor fetch the line where a message is, or would be put.
    #[inline]
    pub(super) fn prefetch(&self, queue: QueueUid, id: MessageId) {
        self.slots.prefetch(self.home(queue, id).position);
    }

    /// The place of a message if it is there; else none, or once in some 100,000 times that of another.
    #[inline]
    pub(super) fn guess(&self, queue: QueueUid, id: MessageId) -> Option<Place> {
        self.find(queue, id, |_| true)
    }

    /// Forgets the message at `place`. Stops the process if it is not there.
    pub(super) fn remove(&mut self, queue: QueueUid, id: MessageId, place: Place) {
        let position = self.position(queue, id, |candidate| candidate == place);
        self.remove_at(queue, id, position.expect("every record is indexed"));
    }

    /// Forgets the message whose slot [`position`](Self::position) has just found.
    #[inline]
    pub(super) fn remove_at(&mut self, queue: QueueUid, id: MessageId, position: usize) {
        // What is deleted next was mostly stored next. In a queue of millions that is long ago.
        if id.0.is_multiple_of(GROUP as u64) {
            self.prefetch_next(queue, id);
        }
        self.entries -= 1;
        let length = self.len();
        let slots = self.slots.words_mut();
        let mut steps = 0;
        let (mut gap, mut position) = (position, position);
        loop {
            position = after(position, length);
            steps += 1;
            let slot = slots[position];
            if slot == 0 {
                break;
            }
            // Whoever would be nearer to its home in the gap moves there.
            if slot & DISTANCE_MASK >= steps {
                slots[gap] = slot - steps;
                gap = position;
                steps = 0;
            }
        }
        slots[gap] = 0;
    }

    /// The message at `from` is at `to` now. Stops the process if it was not there.
    pub(super) fn relocate(&mut self, queue: QueueUid, id: MessageId, from: Place, to: Place) {
        let position = self
            .position(queue, id, |candidate| candidate == from)
            .expect("every record is indexed");
        let slot = &mut self.slots.words_mut()[position];
        *slot = u64::from(to.0) << 32 | (*slot & 0xffff_ffff);
    }

    /// The slot of a message, until the next change. `is_it` as for [`find`](Self::find).
    #[inline]
    pub(super) fn position(
        &self,
        queue: QueueUid,
        id: MessageId,
        is_it: impl Fn(Place) -> bool,
    ) -> Option<usize> {
        let Home { mut position, tag } = self.home(queue, id);
        let length = self.len();
        let slots = self.slots.words();
        for distance in 0..DISTANCE_END {
            let slot = slots[position];
            if slot == 0 {
                return None;
            }
            if slot & 0xffff_ffff == tag | distance && is_it(place_of(slot)) {
                return Some(position);
            }
            position = after(position, length);
        }
        None
    }

    /// Where the message of a slot lies.
    #[inline]
    pub(super) fn place_at(&self, position: usize) -> Place {
        place_of(self.slots.words()[position])
    }

    #[inline]
    fn home(&self, queue: QueueUid, id: MessageId) -> Home {
        let (group, member) = (id.0 / GROUP as u64, id.0 % GROUP as u64);
        let hash = spread(group ^ u64::from(queue.0).rotate_left(40));
        let group = (u128::from(hash) * u128::from(self.groups)) >> 64;
        let position = usize::try_from(group).expect("below `groups`") * GROUP;
        let member_place = usize::try_from(member).expect("below 8");
        let tag = 1 << 31 | (hash & 0xffff) << 15 | member << 12;
        Home { position: position + member_place, tag }
    }

    #[inline]
    fn len(&self) -> usize {
        usize::try_from(self.groups).expect("came from a usize") * GROUP
    }
}

#[inline]
fn place_of(slot: u64) -> Place {
    Place(u32::try_from(slot >> 32).expect("half of 64 bits"))
}

#[inline]
fn after(position: usize, length: usize) -> usize {
    if position + 1 == length { 0 } else { position + 1 }
}

/// Two rounds of multiply and fold, so that neighbouring groups of neighbouring queues land far
/// apart.
#[inline]
fn spread(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let bits = (bits ^ (bits >> 29)).wrapping_mul(0xa076_1d64_78bd_642f);
    bits ^ (bits >> 32)
}

/// Slots for each entry. A third of them in use keeps the runs short that a removal has to walk through: with two
/// thirds that is four lines on average, which nobody has used for long in a queue of millions.
const SLOTS_PER_ENTRY: usize = 3;
/// Slots of one home: a cache line.
const GROUP: usize = 8;
/// Entries are found within so many slots of their home, as the field has 12 bits.
const DISTANCE_END: u64 = 1 << 12;
const DISTANCE_MASK: u64 = DISTANCE_END - 1;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(index: &Index, model: &BTreeMap<(u32, u64), u32>) {
        assert_eq!(index.entries(), model.len());
        for (&(queue, id), &place) in model {
            let found = index.find(QueueUid(queue), MessageId(id), |found| found.0 == place);
            assert_eq!(found, Some(Place(place)));
        }
        let used = index.slots.words().iter().filter(|slot| **slot != 0).count();
        assert_eq!(used, model.len());
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(steps in proptest::collection::vec((0u32..4, 0u64..60, 0u8..4), 1..400)) {
            let mut index = Index::new(150, Presence::OnDemand).unwrap();
            let mut model = BTreeMap::new();
            let mut places = 1..;
            for (queue, id, action) in steps {
                let (uid, message) = (QueueUid(queue), MessageId(id));
                let known = model.get(&(queue, id)).copied();
                match (known, action) {
                    (Some(place), 0) => {
                        index.remove(uid, message, Place(place));
                        model.remove(&(queue, id));
                    }
                    (Some(place), 1) => {
                        let to = places.next().unwrap();
                        index.relocate(uid, message, Place(place), Place(to));
                        model.insert((queue, id), to);
                    }
                    (Some(_), _) => {}
                    (None, _) => {
                        prop_assert_eq!(index.find(uid, message, |_| false), None);
                        let place = places.next().unwrap();
                        let inserted = index.insert(uid, message, Place(place));
                        prop_assert_eq!(inserted, model.len() < 150);
                        if inserted {
                            model.insert((queue, id), place);
                        }
                    }
                }
            }
            check(&index, &model);
        }
    }

    #[test]
    fn a_guess_is_the_place_of_what_is_there_and_nothing_of_what_is_not() {
        let mut index = Index::new(100, Presence::OnDemand).unwrap();
        assert_eq!(index.guess(QueueUid(1), MessageId(9)), None);
        assert!(index.insert(QueueUid(1), MessageId(9), Place(5)));
        assert_eq!(index.guess(QueueUid(1), MessageId(9)), Some(Place(5)));
        assert_eq!(index.guess(QueueUid(1), MessageId(10)), None);
        index.remove(QueueUid(1), MessageId(9), Place(5));
        assert_eq!(index.guess(QueueUid(1), MessageId(9)), None);
    }

    #[test]
    fn a_full_table_of_many_queues_stays_short_of_the_distance_bound() {
        let max = 200_000;
        let mut index = Index::new(max, Presence::OnDemand).unwrap();
        for number in 0..u32::try_from(max).unwrap() {
            let (queue, id) = (number % 100, u64::from(number / 100));
            assert!(index.insert(QueueUid(queue), MessageId(id), Place(number + 1)));
        }
        assert!(!index.insert(QueueUid(101), MessageId(1), Place(1)));
        let distance = |slot: &u64| slot & DISTANCE_MASK;
        let longest = index.slots.words().iter().map(distance).max().unwrap();
        assert!(longest < 256, "{longest}");
    }
}

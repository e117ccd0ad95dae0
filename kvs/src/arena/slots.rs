//! Where the records of a segment are: a slot for each but the first, from the segment's end towards the records, as in a
//! slotted page.
//!
//! Slots are in the order of arrival and stay until the segment is compacted or free, so that a removal changes none. As ids
//! grow, a slot is found by a search in its segment; where no id was left out it lies where the id says. Stores and deletes
//! in order touch each line of slots once for eight messages, next to the one before it; and a queue of one message none.

use std::cmp::Ordering;

use kvs_proto::MessageId;

use super::mapping::LINE_SIZE_BYTES;
use super::segment::{CHUNK_ALIGNMENT_BYTES, SEGMENT_SIZE_BYTES, Segment, SegmentId};
use super::{Arena, Log, Place, id_in};

/// The low 52 bits of an id, and the offset of the record's head in units of 16 bytes.
#[derive(Clone, Copy)]
struct Slot(u64);

/// A record that was found, and its number among those of its segment.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) number: u16,
}

/// A record by its number.
struct Next {
    segment: SegmentId,
    number: u16,
}

impl Slot {
    fn new(id: MessageId, place: Place) -> Slot {
        Slot(id.0 << OFFSET_BITS | u64::from(place.units()))
    }

    /// What it has of the id.
    fn id(self) -> u64 {
        self.0 >> OFFSET_BITS
    }

    fn units(self) -> u16 {
        u16::try_from(self.0 & OFFSET_MASK).expect("12 bits")
    }
}

impl Arena {
    /// The record of an id, if it is there: a message.
    #[inline]
    pub(super) fn locate(&self, log: &Log, id: MessageId) -> Option<Found> {
        let next = self.next_of(log)?;
        if next.number < self.segment(next.segment).records {
            let found = self.found(next.segment, next.number);
            if self.is_record(found.place, id) {
                return Some(found);
            }
        }
        self.locate_near(log, next.segment, id)
    }

    /// The same where it is not the next.
    #[inline(never)]
    fn locate_near(&self, log: &Log, near: SegmentId, id: MessageId) -> Option<Found> {
        self.find_in(near, id)
            .or_else(|| self.find_in(self.segment(near).next, id))
            .or_else(|| self.search(log, id))
    }

    /// Where the record of an id lies if it is near the last removal; otherwise none, or the place of another.
    #[inline]
    pub(super) fn guess(&self, log: &Log, id: MessageId) -> Option<Place> {
        let next = self.next_of(log)?;
        let number = self.number_in(next.segment, id)?;
        Some(self.found(next.segment, number).place)
    }

    /// Where the record would be behind the one that was removed last; the first, if that one's segment is gone.
    #[inline]
    fn next_of(&self, log: &Log) -> Option<Next> {
        let is_ours = !log.near.is_none() && self.segment(log.near).owner == log.uid;
        let (segment, number) = if is_ours { (log.near, log.next_number) } else { (log.head, 0) };
        (!segment.is_none()).then_some(Next { segment, number })
    }

    /// The record of an id by the log's list of segments.
    #[cold]
    fn search(&self, log: &Log, id: MessageId) -> Option<Found> {
        // What was added for the record itself, or for its end, has its id.
        let before = log.places.range(..(id, SegmentId(0))).next_back();
        let segment = before.map_or(log.head, |(_, segment)| *segment);
        self.find_in(segment, id)
            .or_else(|| self.find_in(self.segment(segment).next, id))
            .or_else(|| self.walk_to(segment, id))
    }

    /// Where room was taken for a higher id and no message came of it, the record lies further on than the list says.
    fn walk_to(&self, segment: SegmentId, id: MessageId) -> Option<Found> {
        let mut place = self.first_head(segment);
        while let Some(here) = place
            && self.record(here).id < id
        {
            place = self.head_after(here);
        }
        self.find_in(place?.segment(), id)
    }

    fn find_in(&self, segment: SegmentId, id: MessageId) -> Option<Found> {
        if segment.is_none() {
            return None;
        }
        let found = self.found(segment, self.number_in(segment, id)?);
        self.is_record(found.place, id).then_some(found)
    }

    /// The number that the record of an id has in a segment, if it is there.
    fn number_in(&self, segment: SegmentId, id: MessageId) -> Option<u16> {
        let Segment { records, is_unordered, .. } = *self.segment(segment);
        if is_unordered {
            return self.number_in_disorder(segment, id);
        }
        let last = records.checked_sub(1)?;
        if last == 0 {
            return Some(0);
        }
        let first = id_in(self.head(self.found(segment, 0).place)).0 & ID_MASK;
        let steps = (id.0 & ID_MASK).checked_sub(first)?;
        let guess = u16::try_from(steps).map_or(last, |steps| steps.min(last));
        if guess == 0 {
            return Some(0);
        }
        match self.slot(segment, guess).id().cmp(&(id.0 & ID_MASK)) {
            Ordering::Equal => Some(guess),
            Ordering::Less => None,
            Ordering::Greater => self.search_slots(segment, id, guess),
        }
    }

    /// Searches the slots of the records 1 to `end`, which are in order.
    fn search_slots(&self, segment: SegmentId, id: MessageId, end: u16) -> Option<u16> {
        let word = |number| slot_word(segment, self.segment(segment), number);
        // The last comes first.
        let slots = &self.memory.words()[word(end - 1)..word(0)];
        let place = slots.binary_search_by(|slot| (id.0 & ID_MASK).cmp(&Slot(*slot).id())).ok()?;
        Some(end - 1 - u16::try_from(place).expect("below `end`"))
    }

    /// Where room was taken for an id and given back, an id may have several records, one of them a message at most.
    #[cold]
    fn number_in_disorder(&self, segment: SegmentId, id: MessageId) -> Option<u16> {
        let mut numbers = (0..self.segment(segment).records).rev();
        numbers.find(|&number| {
            let may_be = number == 0 || self.slot(segment, number).id() == id.0 & ID_MASK;
            may_be && self.is_record(self.found(segment, number).place, id)
        })
    }

    #[inline]
    fn found(&self, id: SegmentId, number: u16) -> Found {
        let segment = self.segment(id);
        let units = if number == 0 { segment.first } else { self.slot(id, number).units() };
        Found { place: Place::at(id, units), number }
    }

    /// Counts a record at the end of its log, which has the room.
    #[inline]
    pub(super) fn count_record(&mut self, log: &mut Log, id: MessageId, place: Place) {
        self.entries += 1;
        self.note_record(log.highest_id, id, place);
        log.highest_id = log.highest_id.max(id);
    }

    /// Notes the record at a place, behind those of its segment, which has the room. No record of the segment has a higher
    /// id than `highest`.
    #[inline]
    pub(super) fn note_record(&mut self, highest: MessageId, id: MessageId, place: Place) {
        let is_next = id > highest && (id.0 ^ highest.0) <= ID_MASK;
        let segment = self.segment_mut(place.segment());
        let number = segment.records;
        segment.records += 1;
        if number == 0 {
            segment.first = place.units();
            return;
        }
        segment.is_unordered |= !is_next;
        let word = slot_word(place.segment(), segment, number);
        self.memory.words_mut()[word] = Slot::new(id, place).0;
        if number.is_multiple_of(SLOTS_PER_LINE) {
            self.memory.prefetch(word - usize::from(SLOTS_PER_LINE));
        }
    }

    /// Has the processor fetch what the next removals need, if they go on in order.
    #[inline]
    pub(super) fn prefetch_behind(&self, found: Found) {
        let id = found.place.segment();
        let segment = self.segment(id);
        let number = found.number + AHEAD;
        if number < segment.records {
            let place = Place::at(id, self.slot(id, number).units());
            return self.prefetch_head(place);
        }
        let beyond = number - segment.records;
        if !segment.next.is_none() && beyond < self.segment(segment.next).records {
            self.prefetch_head(self.found(segment.next, beyond).place);
        }
    }

    /// Bytes that a record's first chunk may take in a segment; 0 without one.
    #[inline]
    pub(super) fn head_room(&self, segment: SegmentId) -> usize {
        self.room_with(segment, 1)
    }

    /// Bytes that another chunk may take in a segment; 0 without one.
    #[inline]
    pub(super) fn room_in(&self, segment: SegmentId) -> usize {
        self.room_with(segment, 0)
    }

    #[inline]
    fn room_with(&self, segment: SegmentId, more: u16) -> usize {
        if segment.is_none() {
            return 0;
        }
        let segment = self.segment(segment);
        let slots = slots_size(segment.records + more).next_multiple_of(CHUNK_ALIGNMENT_BYTES);
        SEGMENT_SIZE_BYTES
            .saturating_sub(segment.used as usize + usize::from(segment.begin) + slots)
    }

    #[inline]
    fn slot(&self, segment: SegmentId, number: u16) -> Slot {
        Slot(self.memory.words()[slot_word(segment, self.segment(segment), number)])
    }
}

/// As much as the records begin behind the segment's start, the slots end before its end.
#[inline]
fn slot_word(id: SegmentId, segment: &Segment, number: u16) -> usize {
    let end = (id.0 as usize + 1) * SEGMENT_SIZE_BYTES - usize::from(segment.begin);
    end / SLOT_SIZE_BYTES - usize::from(number)
}

/// Bytes of the slots of so many records.
#[inline]
pub(super) const fn slots_size(records: u16) -> usize {
    records.saturating_sub(1) as usize * SLOT_SIZE_BYTES
}

/// So many records ahead of what is removed, the next one is fetched: removing those takes as long as fetching it.
const AHEAD: u16 = 6;
const SLOT_SIZE_BYTES: usize = size_of::<u64>();
const SLOTS_PER_LINE: u16 = 8;
const OFFSET_BITS: u32 = 12;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
const ID_MASK: u64 = u64::MAX >> OFFSET_BITS;

const _: () = assert!(SLOTS_PER_LINE as usize * SLOT_SIZE_BYTES == LINE_SIZE_BYTES);
const _: () = assert!(SEGMENT_SIZE_BYTES / CHUNK_ALIGNMENT_BYTES <= 1 << OFFSET_BITS);

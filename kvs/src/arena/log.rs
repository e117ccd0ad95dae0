//! Logs: removal with compaction, and reading in order.

use kvs_proto::MessageId;

use super::segment::{
    ChunkWord, HEAD_SIZE_BYTES, SEGMENT_SIZE_BYTES, Segment, SegmentId, chunk_size,
};
use super::slots::slots_size;
use super::{Arena, Log, Place};

/// Where a scan is: behind one record. Good for ever, fast while nothing there was compacted.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    /// The last record read, living or not; 0 at the beginning.
    id: MessageId,
    /// Where it was, if known, and the segment's stamp then.
    place: Option<(Place, u32)>,
}

impl Cursor {
    /// Behind the message `id`, wherever that is or was; 0: at the beginning.
    pub fn behind(id: MessageId) -> Cursor {
        Cursor { id, place: None }
    }

    /// The message that it is behind.
    pub fn id(&self) -> MessageId {
        self.id
    }
}

impl Arena {
    /// Removes a message, once `look` has seen where it lies. False if it is not there.
    #[inline]
    pub fn remove(
        &mut self,
        log: &mut Log,
        id: MessageId,
        look: impl FnOnce(&Arena, Place),
    ) -> bool {
        let Some(found) = self.locate(log, id) else { return false };
        let place = found.place;
        log.near = place.segment();
        log.next_number = found.number + 1;
        self.prefetch_behind(found);
        look(self, place);
        self.entries -= 1;
        let record = self.record(place);
        if let Some(cell) = self.state_cell(place) {
            self.put_cell_back(cell);
        }
        log.messages -= 1;
        log.bytes -= u64::from(record.length);
        self.live_messages -= 1;
        self.live_bytes -= u64::from(record.length);
        self.bury(log, place);
        true
    }

    /// The first record.
    pub fn first(&self, log: &Log) -> Option<Place> {
        self.first_head(log.head)
    }

    /// The first record behind the cursor. Where the cursor's record has gone and its segment was
    /// compacted, the segment is looked up.
    pub fn next(&self, log: &Log, cursor: &Cursor) -> Option<Place> {
        if cursor.id == MessageId(0) {
            return self.first(log);
        }
        let remembered = cursor.place.filter(|(place, stamp)| {
            let segment = self.segment(place.segment());
            segment.stamp == *stamp && segment.owner == log.uid
        });
        match remembered.map(|(place, _)| place).or_else(|| self.find(log, cursor.id)) {
            Some(place) => self.head_after(place),
            None => self.seek(log, cursor.id),
        }
    }

    /// The cursor behind the record at `place`.
    pub fn cursor(&self, place: Place) -> Cursor {
        let stamp = self.segment(place.segment()).stamp;
        Cursor { id: self.record(place).id, place: Some((place, stamp)) }
    }

    /// Appends the bytes `from..from + count` of a record's body to `out`.
    pub fn read(&self, place: Place, from: usize, count: usize, out: &mut Vec<u8>) {
        let mut skip = from;
        let mut left = count;
        let mut chunk = place;
        while left > 0 {
            let word = self.word(chunk);
            let start = chunk.address() + word.header_size();
            let body = &self.memory.bytes()[start..start + word.length()];
            let body = &body[skip.min(body.len())..];
            skip -= skip.min(word.length());
            let taken = &body[..left.min(body.len())];
            out.extend_from_slice(taken);
            left -= taken.len();
            if left > 0 {
                chunk = self.chunk_after(chunk).expect("a body is as long as its head says");
            }
        }
    }

    /// Marks the chunks of a record dead and gives back what becomes free.
    #[inline]
    pub(super) fn bury(&mut self, log: &mut Log, head: Place) {
        let segment = head.segment();
        let word = self.word(head);
        if !word.has_more() {
            self.mark_dead(head, word);
            let live = self.segment(segment).live;
            // Most removals end here: others live in the segment, and more than fits elsewhere.
            if live > COMPACTED_SIZE_BYTES_MAX {
                return;
            }
            let around = self.segment(segment).previous;
            self.free_if_dead(log, segment);
            // Only the pairs that this segment is part of have become smaller.
            self.compact_from(log, around, if around.is_none() { 1 } else { 2 });
            return;
        }
        let around = self.segment(segment).previous;
        let mut next = Some(head);
        while let Some(place) = next {
            let word = self.word(place);
            next = if word.has_more() { self.chunk_after(place) } else { None };
            self.mark_dead(place, word);
            // Another chunk of the record may lie in the same segment, so look at the next first.
            if next.is_none_or(|next| next.segment() != place.segment()) {
                self.free_if_dead(log, place.segment());
            }
        }
        self.compact_from(log, around, 3);
    }

    #[inline]
    pub(super) fn mark_dead(&mut self, place: Place, word: ChunkWord) {
        self.set_word(place, word.dead());
        let size = u32::try_from(word.size()).expect("within a segment");
        self.segment_mut(place.segment()).live -= size;
    }

    /// Gives a segment back when nothing in it lives. The free list is a stack, so a queue that is
    /// mostly empty goes on in memory that is in the cache.
    #[inline]
    pub(super) fn free_if_dead(&mut self, log: &mut Log, id: SegmentId) {
        if self.segment(id).live == 0 {
            self.unlink(log, id);
            self.put_back(id);
        }
    }

    /// Compacts the pairs that the segment `id` is part of, where they have become small enough.
    pub(super) fn compact_around(&mut self, log: &mut Log, id: SegmentId) {
        let previous = self.segment(id).previous;
        self.compact_from(log, previous, 3);
    }

    /// Compacts so many pairs from `start` (NONE: from the log's first segment) where a removal may have
    /// made them small enough, and the pair that a compacted one is part of then; three at most in all.
    fn compact_from(&mut self, log: &mut Log, start: SegmentId, mut pairs: usize) {
        let mut first = if start.is_none() { log.head } else { start };
        for _ in 0..3 {
            if pairs == 0 {
                return;
            }
            if first.is_none() {
                return;
            }
            let second = self.segment(first).next;
            if second.is_none() || second == log.tail {
                return;
            }
            let (a, b) = (self.segment(first), self.segment(second));
            if a.live + b.live <= COMPACTED_SIZE_BYTES_MAX && a.pins == 0 && b.pins == 0 {
                self.compact(log, first, second);
            } else {
                first = second;
                pairs -= 1;
            }
        }
    }

    /// Moves what lives in two neighbours to the front of the first, and frees the second.
    fn compact(&mut self, log: &mut Log, first: SegmentId, second: SegmentId) {
        let mut end = 0;
        let mut highest = MessageId(0);
        let before = *self.segment(first);
        // The slots are made anew. No more of them than the first had are needed before its last record has moved.
        let segment = self.segment_mut(first);
        segment.begin = 0;
        segment.records = 0;
        segment.is_unordered = false;
        for (source, Segment { begin, used, .. }) in
            [(first, before), (second, *self.segment(second))]
        {
            let (mut offset, used) = (usize::from(begin), used as usize);
            while offset < used {
                let from = Place::new(source, offset);
                let word = self.word(from);
                let size = word.size();
                offset += size;
                if word.is_dead() {
                    continue;
                }
                let to = Place::new(first, end);
                end += size;
                if from != to {
                    let start = from.address();
                    self.memory.bytes_mut().copy_within(start..start + size, to.address());
                    self.bytes_moved += size as u64;
                }
                if word.is_head() {
                    let id = self.record(to).id;
                    self.note_record(highest, id, to);
                    highest = id;
                }
            }
        }
        let live = self.segment(first).live + self.segment(second).live;
        assert_eq!(end, live as usize, "the live chunks of a segment add up");
        self.unlink(log, second);
        self.put_back(second);
        let segment = self.segment_mut(first);
        segment.used = live;
        segment.live = live;
        segment.stamp = segment.stamp.wrapping_add(1);
    }

    /// Takes a segment out of its log.
    pub(super) fn unlink(&mut self, log: &mut Log, id: SegmentId) {
        let (previous, next) = (self.segment(id).previous, self.segment(id).next);
        let listed = if previous.is_none() { next } else { id };
        if !listed.is_none() {
            let was_listed = log.places.remove(&(self.segment(listed).first_id, listed));
            assert!(was_listed, "each segment of a log but the first is listed");
        }
        if previous.is_none() {
            log.head = next;
        } else {
            self.segment_mut(previous).next = next;
        }
        if next.is_none() {
            log.tail = previous;
        } else {
            self.segment_mut(next).previous = previous;
        }
    }

    /// The next chunk of a log that is not dead.
    pub(super) fn chunk_after(&self, place: Place) -> Option<Place> {
        let start = place.offset() + self.word(place).size();
        self.chunk_from(place.segment(), start, |word| !word.is_dead())
    }

    pub(super) fn head_after(&self, place: Place) -> Option<Place> {
        self.head_from(place.segment(), place.offset() + self.word(place).size())
    }

    /// The first record from the beginning of that segment on.
    pub(super) fn first_head(&self, segment: SegmentId) -> Option<Place> {
        if segment.is_none() {
            return None;
        }
        self.head_from(segment, usize::from(self.segment(segment).begin))
    }

    fn head_from(&self, segment: SegmentId, offset: usize) -> Option<Place> {
        self.chunk_from(segment, offset, ChunkWord::is_live_head)
    }

    /// The first chunk from there on that is wanted. Short, as long runs of dead chunks are
    /// compacted away; but it may walk over a long record, a step for each segment.
    fn chunk_from(
        &self,
        mut id: SegmentId,
        mut offset: usize,
        wanted: impl Fn(ChunkWord) -> bool,
    ) -> Option<Place> {
        loop {
            let segment = self.segment(id);
            while offset < segment.used as usize {
                let place = Place::new(id, offset);
                let word = self.word(place);
                if wanted(word) {
                    return Some(place);
                }
                offset += word.size();
            }
            id = segment.next;
            if id.is_none() {
                return None;
            }
            offset = usize::from(self.segment(id).begin);
        }
    }

    /// The first record with an id above `id`: looks up the last segment that may have it, and walks
    /// over what lies before it there.
    fn seek(&self, log: &Log, id: MessageId) -> Option<Place> {
        let before = log.places.range(..=(id, SegmentId::NONE)).next_back();
        let segment = before.map_or(log.head, |(_, segment)| *segment);
        let mut place = self.first_head(segment);
        while let Some(here) = place
            && self.record(here).id <= id
        {
            place = self.head_after(here);
        }
        place
    }
}

/// Two neighbours that hold no more than this together become one: three quarters of a segment, so
/// that a quarter of one must be removed before the result can be part of the next compaction.
const COMPACTED_SIZE_BYTES_MAX: u32 = 48 * 1024;

const _: () = assert!(COMPACTED_SIZE_BYTES_MAX as usize == SEGMENT_SIZE_BYTES * 3 / 4);
/// What is left of a segment has room for the slots of as many records, even of empty ones.
const COMPACTED_RECORDS_MAX: u16 = 1536;

const _: () = assert!(
    COMPACTED_RECORDS_MAX as usize * chunk_size(HEAD_SIZE_BYTES)
        >= COMPACTED_SIZE_BYTES_MAX as usize
        && slots_size(COMPACTED_RECORDS_MAX) <= SEGMENT_SIZE_BYTES / 4
);

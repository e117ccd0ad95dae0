//! What must hold between any two calls.

use kvs_proto::MessageId;

use super::segment::{SEGMENT_SIZE_BYTES, SegmentId};
use super::slots::slots_size;
use super::{Arena, Log, Place};

impl Arena {
    /// Checks everything, given all logs that were not released: lists, sums, neighbours small
    /// enough to be compacted, and that no segment is lost. For tests: it reads all of the arena.
    ///
    /// # Panics
    /// If something does not hold.
    pub fn check<'a>(&self, logs: impl IntoIterator<Item = &'a Log>) {
        let mut owned = 0;
        let mut entries = 0;
        let mut cells = 0;
        let mut live_all = (0, 0);
        for log in logs {
            let mut previous = SegmentId::NONE;
            let mut messages = 0;
            let mut bytes = 0;
            let mut id = log.head;
            let mut first_id = MessageId(0);
            let mut last_id = MessageId(0);
            let mut segments = 0;
            while !id.is_none() {
                let segment = self.segment(id);
                assert_eq!(segment.previous, previous);
                assert_eq!(segment.owner, log.uid);
                assert!(segment.live + u32::from(segment.begin) <= segment.used);
                let slots = slots_size(segment.records);
                let end = segment.used as usize + slots + usize::from(segment.begin);
                assert!(end <= SEGMENT_SIZE_BYTES, "records and slots overlap");
                assert!(segment.live > 0, "a dead segment was kept");
                assert!(first_id <= segment.first_id && last_id <= segment.first_id);
                let is_listed = log.places.contains(&(segment.first_id, id));
                assert_eq!(is_listed, !previous.is_none(), "all but the first are listed");
                first_id = segment.first_id;
                segments += 1;
                self.check_pair(log, previous, id);
                let mut live = 0;
                let mut heads = 0;
                let mut offset = usize::from(segment.begin);
                while offset < segment.used as usize {
                    let place = Place::new(id, offset);
                    let word = self.word(place);
                    offset += word.size();
                    live += if word.is_dead() { 0 } else { word.size() };
                    heads += usize::from(word.is_head());
                    entries += usize::from(word.is_head() && !word.is_dead());
                    if word.is_live_head() {
                        let record = self.record(place);
                        assert_eq!(self.find(log, record.id), Some(place));
                        assert!(last_id < record.id, "records are in order");
                        last_id = record.id;
                        messages += 1;
                        bytes += u64::from(record.length);
                        cells += usize::from(record.has_state);
                    }
                }
                assert_eq!(live, segment.live as usize);
                assert_eq!(heads, usize::from(segment.records), "each record has a number");
                owned += 1;
                previous = id;
                id = segment.next;
            }
            assert_eq!(log.tail, previous);
            assert_eq!(log.places.len(), usize::saturating_sub(segments, 1));
            assert_eq!((log.messages, log.bytes), (messages, bytes));
            live_all = (live_all.0 + messages, live_all.1 + bytes);
        }
        assert_eq!(self.live(), live_all);
        let releasing: usize =
            self.releasing.iter().map(|releasing| self.list_length(releasing.segment)).sum();
        assert_eq!(self.list_length(self.free), self.free_count);
        let total = self.free_count + owned + releasing + self.cells.segments();
        assert_eq!(total, self.segments.len(), "segments are neither lost nor shared");
        if releasing == 0 {
            assert_eq!(self.entries, entries);
            assert_eq!(self.cells.used(), cells);
        }
    }

    /// Neighbours hold more than a compaction would take, unless one is the tail or pinned.
    fn check_pair(&self, log: &Log, first: SegmentId, second: SegmentId) {
        if first.is_none() || second == log.tail {
            return;
        }
        let (a, b) = (self.segment(first), self.segment(second));
        let small = (a.live + b.live) as usize <= SEGMENT_SIZE_BYTES * 3 / 4;
        assert!(!small || a.pins + b.pins > 0, "small neighbours were not compacted");
    }

    fn list_length(&self, first: SegmentId) -> usize {
        let mut length = 0;
        let mut id = first;
        while !id.is_none() {
            length += 1;
            assert!(length <= self.segments.len(), "a list is a ring");
            id = self.segment(id).next;
        }
        length
    }
}

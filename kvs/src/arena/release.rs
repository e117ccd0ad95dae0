//! Giving back the memory of a dropped queue, a little at a time.

use std::collections::BTreeSet;

use kvs_proto::MessageId;

use super::segment::SegmentId;
use super::{Arena, Log, Place};

/// A log on its way out. Its segments are in no other list.
#[derive(Debug)]
pub(super) struct Releasing {
    /// The first segment that is left.
    pub(super) segment: SegmentId,
    /// How far into it the records are forgotten.
    offset: usize,
    /// The log's list, given back with the segments: as a whole it might take milliseconds.
    places: BTreeSet<(MessageId, SegmentId)>,
}

impl Arena {
    /// Takes a log out of use. Its memory comes back through [`Arena::work`]. Reservations in it are
    /// void: their owners drop them.
    pub fn release(&mut self, log: Log) {
        let Log { head: segment, messages, bytes, places, .. } = log;
        self.live_messages -= messages;
        self.live_bytes -= bytes;
        if !segment.is_none() {
            let offset = usize::from(self.segment(segment).begin);
            self.releasing.push_back(Releasing { segment, offset, places });
        }
    }

    /// Whether there is something for [`Arena::work`] to do.
    pub fn has_work(&self) -> bool {
        !self.releasing.is_empty()
    }

    /// Gives memory of released logs back: looks at `chunks_max` chunks, or at what there is.
    /// Returns how many it looked at.
    pub fn work(&mut self, chunks_max: usize) -> usize {
        let mut chunks = 0;
        while chunks < chunks_max
            && let Some(releasing) = self.releasing.front_mut()
        {
            let (segment, offset) = (releasing.segment, releasing.offset);
            if offset < self.segment(segment).used as usize {
                let size = self.forget_chunk(Place::new(segment, offset));
                self.releasing[0].offset += size;
                chunks += 1;
                continue;
            }
            let next = self.segment(segment).next;
            self.put_back(segment);
            self.releasing[0].places.pop_first();
            if next.is_none() {
                self.releasing.pop_front();
            } else {
                self.releasing[0].segment = next;
                self.releasing[0].offset = usize::from(self.segment(next).begin);
            }
        }
        chunks
    }

    /// Forgets the record that begins with a chunk, if one does, and returns the chunk's size.
    fn forget_chunk(&mut self, place: Place) -> usize {
        let word = self.word(place);
        if word.is_head() && !word.is_dead() {
            self.entries -= 1;
            if let Some(cell) = self.state_cell(place) {
                self.put_cell_back(cell);
            }
        }
        word.size()
    }
}

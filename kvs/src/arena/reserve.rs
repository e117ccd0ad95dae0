//! Appending: room first, then the bytes, then the commit, which cannot fail.

use kvs_proto::MessageId;

use super::mapping::LINE_SIZE_BYTES;
use super::segment::{
    CHUNK_ALIGNMENT_BYTES, CONTINUATION_SIZE_BYTES, ChunkWord, HEAD_SIZE_BYTES, SEGMENT_SIZE_BYTES,
    SegmentId, chunk_size,
};
use super::{Arena, Full, Log, Place, QueueUid};

/// Room for one record, at the end of its queue's log, not yet a message.
///
/// Give it to [`Arena::commit`] or [`Arena::abort`]. Only when its queue has been released may it
/// be dropped instead: the release took the room back.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    uid: QueueUid,
    head: Place,
    total: usize,
    /// Bytes written, `<= total`.
    written: usize,
    /// The chunk that is being written, and how much of its body has been.
    chunk: Place,
    chunk_written: usize,
}

impl Reservation {
    /// Whose log it is in.
    pub fn uid(&self) -> QueueUid {
        self.uid
    }

    /// Bytes that are still to be written.
    pub fn left(&self) -> usize {
        self.total - self.written
    }
}

impl Arena {
    /// Appends a record with all of its body.
    ///
    /// # Errors
    /// [`Full`]; nothing was changed.
    #[inline]
    pub fn append(
        &mut self,
        log: &mut Log,
        id: MessageId,
        body: &[u8],
        checksum: u32,
    ) -> Result<(), Full> {
        if self.entries == self.entries_max {
            return Err(Full);
        }
        let size = chunk_size(HEAD_SIZE_BYTES + body.len());
        let is_first = log.tail.is_none();
        if size > self.head_room(log.tail) {
            if !self.begins_a_segment(log.tail, body.len()) {
                let mut reservation = self.reserve(log, id, body.len())?;
                self.fill(&mut reservation, body);
                self.commit(log, reservation, checksum);
                return Ok(());
            }
            self.add_segment(log, id);
            if is_first {
                self.stagger(log.tail, size);
            }
        }
        let place = self.take_room(log.tail, size);
        self.count_record(log, id, place);
        let word = ChunkWord::new(body.len(), true, false, false);
        let at = place.address();
        let chunk = &mut self.memory.bytes_mut()[at..at + HEAD_SIZE_BYTES + body.len()];
        let (head, room) = chunk.split_at_mut(HEAD_SIZE_BYTES);
        head.copy_from_slice(&head_bytes(word, body.len(), id, checksum));
        room.copy_from_slice(body);
        self.count_in(log, body.len());
        let next = if is_first { self.first_place(size) } else { Some(at + size) };
        self.prefetch_room(next, size);
        Ok(())
    }

    /// Has the processor fetch the room of what is stored next, where nobody has been for long. It is mostly as long as what was
    /// stored last, and goes behind it; or where that was all there is of its queue, into a queue as empty.
    #[inline]
    fn prefetch_room(&self, at: Option<usize>, size: usize) {
        let Some(at) = at else { return };
        for line in (0..size.min(PREFETCHED_BYTES_MAX)).step_by(LINE_SIZE_BYTES) {
            self.prefetch(at + line);
        }
    }

    /// Where the first record of a queue would lie now.
    #[inline]
    fn first_place(&self, size: usize) -> Option<usize> {
        let segment = self.free;
        (!segment.is_none()).then(|| Place::new(segment, staggered(segment, size)).address())
    }

    /// Takes room for a body of `total` bytes.
    ///
    /// # Errors
    /// [`Full`]; nothing was changed.
    pub fn reserve(
        &mut self,
        log: &mut Log,
        id: MessageId,
        total: usize,
    ) -> Result<Reservation, Full> {
        if self.entries == self.entries_max {
            return Err(Full);
        }
        let fits = self.begins_in_tail(log.tail, total);
        let in_tail = if fits { self.head_room(log.tail) } else { 0 };
        if segments_needed(total, in_tail) > self.free_count {
            return Err(Full);
        }
        if !fits {
            self.add_segment(log, id);
        }
        // It has a number from now on, so that the commit cannot fail; nobody finds it before.
        let head = self.lay_chunks(log, id, total);
        let (uid, written) = (log.uid, 0);
        Ok(Reservation { uid, head, total, written, chunk: head, chunk_written: 0 })
    }

    /// The next room to write to: not empty while something is left.
    pub fn writable(&mut self, reservation: &Reservation) -> &mut [u8] {
        let word = self.word(reservation.chunk);
        let start = reservation.chunk.address() + word.header_size();
        &mut self.memory.bytes_mut()[start + reservation.chunk_written..start + word.length()]
    }

    /// `count` bytes of the writable room have been written.
    pub fn advance(&mut self, reservation: &mut Reservation, count: usize) {
        let word = self.word(reservation.chunk);
        reservation.chunk_written += count;
        reservation.written += count;
        assert!(reservation.chunk_written <= word.length(), "written beyond the reservation");
        if reservation.chunk_written == word.length() && word.has_more() {
            reservation.chunk = self.chunk_after(reservation.chunk).expect("more was promised");
            reservation.chunk_written = 0;
        }
    }

    /// Writes bytes, of which at most what is left.
    pub fn fill(&mut self, reservation: &mut Reservation, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.writable(reservation);
            let count = room.len().min(bytes.len());
            assert!(count > 0, "written beyond the reservation");
            room[..count].copy_from_slice(&bytes[..count]);
            self.advance(reservation, count);
            bytes = &bytes[count..];
        }
    }

    /// Makes a whole body a message. The queue must not have been released.
    pub fn commit(&mut self, log: &mut Log, reservation: Reservation, checksum: u32) {
        assert_eq!(reservation.uid, log.uid);
        assert_eq!(reservation.left(), 0, "a message without all of its body");
        let head = reservation.head;
        self.set_word(head, self.word(head).committed());
        let last = self.unpin(head);
        self.memory.bytes_mut()[head.address() + 16..head.address() + 20]
            .copy_from_slice(&checksum.to_le_bytes());
        self.count_in(log, reservation.total);
        // Removals nearby left these segments alone while they were pinned. The last first: the
        // first may move into its neighbour, but not away from it.
        self.compact_around(log, last);
        if last != head.segment() {
            self.compact_around(log, head.segment());
        }
    }

    /// Gives the room back. The queue must not have been released.
    pub fn abort(&mut self, log: &mut Log, reservation: Reservation) {
        assert_eq!(reservation.uid, log.uid);
        self.entries -= 1;
        self.unpin(reservation.head);
        self.bury(log, reservation.head);
    }

    /// Whether a record begins in the tail: when it fits as a whole, or is long enough to be worth
    /// two chunks and finds some room.
    fn begins_in_tail(&self, tail: SegmentId, total: usize) -> bool {
        let room = self.head_room(tail);
        chunk_size(HEAD_SIZE_BYTES + total) <= room
            || (total > WHOLE_SIZE_BYTES_MAX && room >= SPLIT_ROOM_BYTES_MIN)
    }

    /// Whether a record that does not fit into the tail lies at the beginning of a segment as a whole, and one is free.
    fn begins_a_segment(&self, tail: SegmentId, total: usize) -> bool {
        chunk_size(HEAD_SIZE_BYTES + total) <= SEGMENT_SIZE_BYTES
            && !self.begins_in_tail(tail, total)
            && self.free_count > 0
    }

    /// Has the first record of a queue begin somewhere in its segment, and not with its first byte: where a thousand queues
    /// have a message each, these would all want the same few lines of the processor's caches.
    fn stagger(&mut self, segment: SegmentId, size: usize) {
        let begin = staggered(segment, size);
        let segment = self.segment_mut(segment);
        segment.begin = u16::try_from(begin).expect("below a quarter of a segment");
        segment.used = u32::from(segment.begin);
    }

    /// Writes the chunks of a reserved record, from the tail's room on.
    fn lay_chunks(&mut self, log: &mut Log, id: MessageId, total: usize) -> Place {
        let mut first = None;
        let mut left = total;
        loop {
            let is_head = first.is_none();
            let header = if is_head { HEAD_SIZE_BYTES } else { CONTINUATION_SIZE_BYTES };
            let room = if is_head { self.head_room(log.tail) } else { self.room_in(log.tail) };
            let length = left.min(room - header);
            left -= length;
            let place = self.take_room(log.tail, chunk_size(header + length));
            self.segment_mut(log.tail).pins += 1;
            let word = ChunkWord::new(length, is_head, left > 0, is_head);
            if is_head {
                let bytes = head_bytes(word, total, id, 0);
                let at = place.address();
                self.memory.bytes_mut()[at..at + HEAD_SIZE_BYTES].copy_from_slice(&bytes);
                self.count_record(log, id, place);
            } else {
                self.set_word(place, word);
            }
            let head = *first.get_or_insert(place);
            if left == 0 {
                return head;
            }
            self.add_segment(log, id);
        }
    }

    #[inline]
    fn take_room(&mut self, id: SegmentId, size: usize) -> Place {
        let segment = self.segment_mut(id);
        let offset = segment.used as usize;
        let size = u32::try_from(size).expect("within a segment");
        segment.used += size;
        segment.live += size;
        Place::new(id, offset)
    }

    /// Appends a segment to a log; there must be a free one.
    fn add_segment(&mut self, log: &mut Log, id: MessageId) {
        let new = self.take_free().expect("counted before");
        let old = log.tail;
        let first_id = id.max(log.highest_id);
        let segment = self.segment_mut(new);
        segment.owner = log.uid;
        segment.previous = old;
        segment.first_id = first_id;
        log.tail = new;
        if old.is_none() {
            log.head = new;
            return;
        }
        log.places.insert((first_id, new));
        self.segment_mut(old).next = new;
        // It was left alone while it was the last.
        self.compact_around(log, old);
    }

    /// Lets the segments of a record be compacted again; returns the last of them.
    fn unpin(&mut self, head: Place) -> SegmentId {
        let mut place = head;
        loop {
            self.segment_mut(place.segment()).pins -= 1;
            if !self.word(place).has_more() {
                return place.segment();
            }
            place = self.chunk_after(place).expect("more was promised");
        }
    }
}

/// Where the first record of a queue begins in its segment.
fn staggered(segment: SegmentId, size: usize) -> usize {
    let begin = segment.0 as usize * STAGGER_STEPS % STAGGERS * LINE_SIZE_BYTES;
    // The slots begin as far from the end.
    if 2 * begin + size > SEGMENT_SIZE_BYTES { 0 } else { begin }
}

/// Segments to take for a body of `total` bytes when `in_tail` bytes are free where it begins.
fn segments_needed(total: usize, in_tail: usize) -> usize {
    let size = HEAD_SIZE_BYTES + total;
    let first = if in_tail == 0 { SEGMENT_SIZE_BYTES } else { in_tail };
    let own = usize::from(in_tail == 0);
    let rest = size.saturating_sub(first);
    own + rest.div_ceil(SEGMENT_SIZE_BYTES - CONTINUATION_SIZE_BYTES)
}

fn head_bytes(
    word: ChunkWord,
    length: usize,
    id: MessageId,
    checksum: u32,
) -> [u8; HEAD_SIZE_BYTES] {
    let length = u32::try_from(length).expect("messages are far below 4 GiB");
    let mut bytes = [0; HEAD_SIZE_BYTES];
    bytes[0..4].copy_from_slice(&word.0.to_le_bytes());
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..16].copy_from_slice(&id.0.to_le_bytes());
    bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A record up to this length is not cut in two at the end of a segment: there are so many in one
/// that what is left there costs each of them at most 40 bytes.
const WHOLE_SIZE_BYTES_MAX: usize = 1536;
/// A longer record begins in a segment only where so much room is left.
const SPLIT_ROOM_BYTES_MIN: usize = 128;

/// The first record of a queue begins at one of so many lines of its first segment,
const STAGGERS: usize = 256;
/// so many behind that of the segment before.
const STAGGER_STEPS: usize = 37;
/// Of what is likely to be stored next so much is fetched; the processor sees for itself how it goes on.
const PREFETCHED_BYTES_MAX: usize = 1024;

const _: () = assert!(STAGGERS * LINE_SIZE_BYTES <= SEGMENT_SIZE_BYTES / 4);
const _: () = assert!(LINE_SIZE_BYTES.is_multiple_of(CHUNK_ALIGNMENT_BYTES));
const _: () = assert!(SPLIT_ROOM_BYTES_MIN > HEAD_SIZE_BYTES + CHUNK_ALIGNMENT_BYTES);

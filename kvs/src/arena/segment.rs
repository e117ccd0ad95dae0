//! Segments: what the arena is cut into, and the chunks that a segment holds.

use super::{Place, QueueUid};
use kvs_proto::MessageId;

/// Bytes of a segment. Large enough that its bookkeeping costs nothing per message, small enough
/// that copying one is short and that a queue of one message wastes little.
pub const SEGMENT_SIZE_BYTES: usize = 64 * 1024;

/// Names a segment by its number in the arena.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SegmentId(pub(super) u32);

impl SegmentId {
    /// No segment: the end of a list.
    pub(super) const NONE: SegmentId = SegmentId(u32::MAX);

    /// Whether it is the end of a list.
    pub(super) fn is_none(self) -> bool {
        self == SegmentId::NONE
    }
}

/// What is known about a segment beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Neighbours: in its queue's log, in the list of cell segments, or (next only) in the free
    /// list.
    pub(super) previous: SegmentId,
    pub(super) next: SegmentId,
    /// Whose it is; meaningless when free.
    pub(super) owner: QueueUid,
    /// Where its first chunk begins: below a quarter of a segment.
    pub(super) begin: u16,
    /// Records that began here since it was taken or last compacted.
    pub(super) records: u16,
    /// Where the first of them begins, in units of 16 bytes.
    pub(super) first: u16,
    /// Their ids do not grow from one to the next.
    pub(super) is_unordered: bool,
    /// Where its last chunk ends; slots follow, up to `SEGMENT_SIZE_BYTES - begin`. For cells: how many were ever used.
    pub(super) used: u32,
    /// Bytes of chunks that are not dead, `<= used - begin`. For cells: how many are in use.
    pub(super) live: u32,
    /// Reservations with chunks here: such a segment is not compacted. For cells: the head of the
    /// list of cells that were given back.
    pub(super) pins: u32,
    /// Grows whenever chunks may have moved or gone, so that a remembered place can be trusted or
    /// not.
    pub(super) stamp: u32,
    /// The highest id for which room had been taken in the log when the segment was added. So no
    /// record in an earlier segment of the log has a higher id, and it never falls from segment to
    /// segment.
    pub(super) first_id: MessageId,
}

impl Segment {
    /// Free, and the last of its list.
    pub(super) const FREE: Segment = Segment {
        previous: SegmentId::NONE,
        next: SegmentId::NONE,
        owner: QueueUid(0),
        begin: 0,
        records: 0,
        first: 0,
        is_unordered: false,
        used: 0,
        live: 0,
        pins: 0,
        stamp: 0,
        first_id: MessageId(0),
    };
}

/// A chunk's first word.
///
/// | bits | |
/// | --- | --- |
/// | 0..17 | bytes of body in this chunk |
/// | 28 | head: the first chunk of a record |
/// | 29 | more: the record goes on in the next chunk that is not dead |
/// | 30 | reserved: a head that is not committed yet |
/// | 31 | dead |
///
/// A head is 24 bytes (word, body length u32, id u64, checksum u32, state cell u32) and a
/// continuation 8 (word, zero); the body follows. Chunks begin at multiples of 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChunkWord(pub(super) u32);

impl ChunkWord {
    const HEAD: u32 = 1 << 28;
    const MORE: u32 = 1 << 29;
    const RESERVED: u32 = 1 << 30;
    const DEAD: u32 = 1 << 31;
    const LENGTH: u32 = (1 << 17) - 1;

    pub(super) fn new(length: usize, head: bool, more: bool, reserved: bool) -> ChunkWord {
        let length = u32::try_from(length).expect("within a segment");
        let flag = |set, bit| if set { bit } else { 0 };
        ChunkWord(
            length
                | flag(head, ChunkWord::HEAD)
                | flag(more, ChunkWord::MORE)
                | flag(reserved, ChunkWord::RESERVED),
        )
    }

    /// Bytes of body here.
    pub(super) fn length(self) -> usize {
        (self.0 & ChunkWord::LENGTH) as usize
    }

    pub(super) fn is_head(self) -> bool {
        self.0 & ChunkWord::HEAD != 0
    }

    pub(super) fn has_more(self) -> bool {
        self.0 & ChunkWord::MORE != 0
    }

    pub(super) fn is_dead(self) -> bool {
        self.0 & ChunkWord::DEAD != 0
    }

    /// The head of a record that is committed and alive.
    pub(super) fn is_live_head(self) -> bool {
        self.0 & (ChunkWord::HEAD | ChunkWord::RESERVED | ChunkWord::DEAD) == ChunkWord::HEAD
    }

    pub(super) fn dead(self) -> ChunkWord {
        ChunkWord(self.0 | ChunkWord::DEAD)
    }

    pub(super) fn committed(self) -> ChunkWord {
        ChunkWord(self.0 & !ChunkWord::RESERVED)
    }

    /// Bytes before the body.
    pub(super) fn header_size(self) -> usize {
        if self.is_head() { HEAD_SIZE_BYTES } else { CONTINUATION_SIZE_BYTES }
    }

    /// Bytes from this chunk to the next.
    pub(super) fn size(self) -> usize {
        chunk_size(self.header_size() + self.length())
    }
}

/// Rounds up to where the next chunk may begin.
pub(super) const fn chunk_size(bytes: usize) -> usize {
    bytes.next_multiple_of(CHUNK_ALIGNMENT_BYTES)
}

impl Place {
    /// From a segment and a multiple of 16 bytes in it.
    pub(super) fn new(segment: SegmentId, offset: usize) -> Place {
        let units = u32::try_from(offset / CHUNK_ALIGNMENT_BYTES).expect("within a segment");
        Place(segment.0 * UNITS_PER_SEGMENT + units)
    }

    /// From a segment and units of 16 bytes in it.
    pub(super) fn at(segment: SegmentId, units: u16) -> Place {
        Place(segment.0 * UNITS_PER_SEGMENT + u32::from(units))
    }

    /// Units of 16 bytes from the segment's start.
    pub(super) fn units(self) -> u16 {
        u16::try_from(self.0 % UNITS_PER_SEGMENT).expect("below 4096")
    }

    pub(super) fn segment(self) -> SegmentId {
        SegmentId(self.0 / UNITS_PER_SEGMENT)
    }

    /// Bytes from the segment's start.
    pub(super) fn offset(self) -> usize {
        (self.0 % UNITS_PER_SEGMENT) as usize * CHUNK_ALIGNMENT_BYTES
    }

    /// Bytes from the arena's start.
    pub(super) fn address(self) -> usize {
        self.0 as usize * CHUNK_ALIGNMENT_BYTES
    }
}

pub(super) const CHUNK_ALIGNMENT_BYTES: usize = 16;
pub(super) const HEAD_SIZE_BYTES: usize = 24;
pub(super) const CONTINUATION_SIZE_BYTES: usize = 8;
/// Most segments of an arena: a place has 32 bits of 16 bytes each.
pub(super) const SEGMENTS_MAX: usize = 1 << 20;
const UNITS_PER_SEGMENT: u32 = 4096;

const _: () = assert!(UNITS_PER_SEGMENT as usize * CHUNK_ALIGNMENT_BYTES == SEGMENT_SIZE_BYTES);

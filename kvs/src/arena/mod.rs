//! All messages of a worker, physically in order, in memory taken once.
//!
//! The memory is cut into segments of 64 KiB. A queue's [`Log`] is a list of segments; records are
//! appended to the last one, as chunks (see `segment.rs`): a record that does not fit goes on in
//! the next segment, so that **the chunks of a record are neighbours among the chunks that are not
//! dead**. A removal marks its chunks dead; a segment with nothing alive is free at once, and two
//! neighbours that hold at most three quarters of a segment together are compacted into one. So
//! memory comes back also when old messages stay behind, for less than one copied byte per stored
//! byte: a compaction copies at most 48 KiB and frees a segment, and a segment is taken only when
//! 64 KiB have been appended.
//!
//! A message is found by its log's list of segments and, in its segment, by a slot (see `slots.rs`). State records, which
//! are rare, lie in cells of 512 bytes in segments of their own.
//!
//! Conservation: every segment is free, in one log, in the list of cells, or in a log that is being
//! released; [`Arena::check`] proves it in tests.

mod cells;
mod check;
mod log;
mod mapping;
mod release;
mod reserve;
mod room;
mod segment;
mod slots;

use std::collections::{BTreeSet, VecDeque};
use std::io;

use kvs_proto::{MessageId, StateVersion};

use cells::Cells;
use mapping::{Mapping, Presence};
use release::Releasing;
use segment::{ChunkWord, HEAD_SIZE_BYTES, SEGMENTS_MAX, Segment, SegmentId};

pub use log::Cursor;
pub use mapping::Pages;
pub(crate) use mapping::prefetch_value;
pub use reserve::Reservation;
pub(crate) use room::RESERVED_PART;
pub use room::{Room, RoomLevel};
pub use segment::SEGMENT_SIZE_BYTES;

/// Where a record lies, in units of 16 bytes from the arena's start. Good until the next removal
/// in its queue, as that may compact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place(pub(super) u32);

/// Names a queue in the arena. Never used twice, so that what is left of a dropped queue cannot be
/// taken for a new one's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct QueueUid(pub u32);

/// There is no room for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// Memory for messages. See the module.
#[derive(Debug)]
pub struct Arena {
    memory: Mapping,
    segments: Vec<Segment>,
    free: SegmentId,
    free_count: usize,
    /// Records of all logs, reserved ones, and those of released logs that are not yet cleared.
    entries: usize,
    entries_max: usize,
    cells: Cells,
    releasing: VecDeque<Releasing>,
    bytes_moved: u64,
    /// In all logs that were not released: messages, and bytes of their bodies.
    live_messages: u64,
    live_bytes: u64,
}

/// The records of one queue, in order.
#[derive(Debug)]
pub struct Log {
    uid: QueueUid,
    head: SegmentId,
    tail: SegmentId,
    messages: u64,
    bytes: u64,
    /// The highest id that room was ever taken for, a message or not in the end.
    highest_id: MessageId,
    /// The segment of what was removed last; it may be another's by now.
    near: SegmentId,
    /// The number in its segment of the record behind the one that was removed last.
    next_number: u16,
    /// Each segment but the first by its first id, to find the place of an id that is not there any more. A queue that is
    /// mostly empty has one, which comes and goes with each message.
    places: BTreeSet<(MessageId, SegmentId)>,
}

/// What the head of a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Which message.
    pub id: MessageId,
    /// Bytes of its body.
    pub length: u32,
    /// CRC32C of its body.
    pub checksum: u32,
    /// Whether it has a state record.
    pub has_state: bool,
}

impl Arena {
    /// Takes `memory_bytes` (rounded up to whole segments, at most 64 GiB) for at most `messages_max` messages.
    ///
    /// # Errors
    /// The system has not that much memory, or `memory_bytes` is above the bound.
    pub fn new(memory_bytes: usize, messages_max: usize) -> io::Result<Arena> {
        Arena::with(memory_bytes, messages_max, Presence::AtOnce)
    }

    /// The same, of memory that is taken from the system only as it is used: for simulations, which make thousands of
    /// arenas and fill few.
    ///
    /// # Errors
    /// As those of [`new`](Self::new); less memory than asked for is not noticed here.
    pub fn on_demand(memory_bytes: usize, messages_max: usize) -> io::Result<Arena> {
        Arena::with(memory_bytes, messages_max, Presence::OnDemand)
    }

    fn with(memory_bytes: usize, messages_max: usize, presence: Presence) -> io::Result<Arena> {
        let memory = Mapping::new(memory_bytes, presence)?;
        let count = memory.bytes().len() / SEGMENT_SIZE_BYTES;
        if count > SEGMENTS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut arena = Arena {
            memory,
            segments: vec![Segment::FREE; count],
            free: SegmentId::NONE,
            free_count: 0,
            entries: 0,
            entries_max: messages_max,
            cells: Cells::new(),
            releasing: VecDeque::new(),
            bytes_moved: 0,
            live_messages: 0,
            live_bytes: 0,
        };
        for number in (0..u32::try_from(count).expect("at most SEGMENTS_MAX")).rev() {
            arena.put_back(SegmentId(number));
        }
        Ok(arena)
    }

    /// What kind of pages the memory for messages has.
    pub fn pages(&self) -> Pages {
        self.memory.pages()
    }

    /// Bytes for messages.
    pub fn size_bytes(&self) -> usize {
        self.segments.len() * SEGMENT_SIZE_BYTES
    }

    /// Bytes of segments that nobody uses.
    pub fn free_bytes(&self) -> usize {
        self.free_count * SEGMENT_SIZE_BYTES
    }

    /// Bytes of all tables beside the memory for messages.
    pub fn table_bytes(&self) -> usize {
        self.segments.len() * size_of::<Segment>()
    }

    /// Bytes copied by compaction since the start.
    pub fn bytes_moved(&self) -> u64 {
        self.bytes_moved
    }

    /// Messages of all logs, reserved ones, and those of released logs that are not yet cleared.
    pub fn messages(&self) -> usize {
        self.entries
    }

    /// Committed messages of all logs that were not released, and the bytes of their bodies.
    pub fn live(&self) -> (u64, u64) {
        (self.live_messages, self.live_bytes)
    }

    /// Counts a record that was committed.
    #[inline]
    fn count_in(&mut self, log: &mut Log, length: usize) {
        log.messages += 1;
        log.bytes += length as u64;
        self.live_messages += 1;
        self.live_bytes += length as u64;
    }

    /// Where a message lies.
    #[inline]
    pub fn find(&self, log: &Log, id: MessageId) -> Option<Place> {
        self.locate(log, id).map(|found| found.place)
    }

    /// Has the processor fetch the head of that record of a log, if there is one, or else where it would be appended.
    #[inline]
    pub fn prefetch_records(&self, log: &Log, id: MessageId) {
        if log.tail.is_none() {
            return;
        }
        if id > log.highest_id {
            let end = Place::new(log.tail, self.segment(log.tail).used as usize);
            return self.prefetch(end.address());
        }
        if let Some(place) = self.guess(log, id) {
            self.prefetch_head(place);
        }
    }

    /// What lies at a place that `find` or a scan gave.
    #[inline]
    pub fn record(&self, place: Place) -> Record {
        let head = self.head(place);
        let u32_at =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        Record {
            id: id_in(head),
            length: u32_at(4),
            checksum: u32_at(16),
            has_state: u32_at(20) != 0,
        }
    }

    /// A record's state record: its version and bytes.
    pub fn state(&self, place: Place) -> Option<(StateVersion, &[u8])> {
        let cell = self.state_cell(place)?;
        Some(self.cells.read(&self.memory, cell))
    }

    /// Sets a record's state record.
    ///
    /// # Errors
    /// [`Full`] if it needs a new cell and there is none; the record is unchanged.
    pub fn set_state(
        &mut self,
        place: Place,
        version: StateVersion,
        state: &[u8],
    ) -> Result<(), Full> {
        let cell = match self.state_cell(place) {
            Some(cell) => cell,
            None => {
                let cell = self.take_cell()?;
                let at = place.address() + 20;
                self.memory.bytes_mut()[at..at + 4].copy_from_slice(&cell.0.to_le_bytes());
                cell
            }
        };
        self.cells.write(&mut self.memory, cell, version, state);
        Ok(())
    }

    fn state_cell(&self, place: Place) -> Option<Place> {
        let head = self.head(place);
        let cell = u32::from_le_bytes([head[20], head[21], head[22], head[23]]);
        (cell != 0).then_some(Place(cell))
    }

    /// Has the processor fetch the line of that byte.
    #[inline]
    fn prefetch(&self, address: usize) {
        self.memory.prefetch(address / size_of::<u64>());
    }

    /// Has the processor fetch the head of a record, which may lie in two lines.
    #[inline]
    fn prefetch_head(&self, place: Place) {
        self.prefetch(place.address());
        self.prefetch(place.address() + HEAD_SIZE_BYTES - 1);
    }

    #[inline]
    fn head(&self, place: Place) -> &[u8; HEAD_SIZE_BYTES] {
        let bytes = &self.memory.bytes()[place.address()..];
        bytes.first_chunk().expect("chunks end within their segment")
    }

    #[inline]
    fn is_record(&self, place: Place, id: MessageId) -> bool {
        // A slot has only most of the id, and stays when the record is gone.
        id_in(self.head(place)) == id && self.word(place).is_live_head()
    }

    #[inline]
    fn word(&self, place: Place) -> ChunkWord {
        let bytes = &self.memory.bytes()[place.address()..place.address() + 4];
        ChunkWord(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    #[inline]
    fn set_word(&mut self, place: Place, word: ChunkWord) {
        let at = place.address();
        self.memory.bytes_mut()[at..at + 4].copy_from_slice(&word.0.to_le_bytes());
    }

    #[inline]
    fn segment(&self, id: SegmentId) -> &Segment {
        &self.segments[id.0 as usize]
    }

    #[inline]
    fn segment_mut(&mut self, id: SegmentId) -> &mut Segment {
        &mut self.segments[id.0 as usize]
    }

    /// Takes a segment from the free list.
    fn take_free(&mut self) -> Option<SegmentId> {
        let id = self.free;
        if id.is_none() {
            return None;
        }
        let stamp = self.segment(id).stamp;
        self.free = self.segment(id).next;
        self.free_count -= 1;
        *self.segment_mut(id) = Segment { stamp, ..Segment::FREE };
        Some(id)
    }

    /// Gives a segment, which is in no list, to the free list.
    fn put_back(&mut self, id: SegmentId) {
        let next = self.free;
        let stamp = self.segment(id).stamp.wrapping_add(1);
        *self.segment_mut(id) = Segment { next, stamp, ..Segment::FREE };
        self.free = id;
        self.free_count += 1;
    }
}

impl Log {
    /// An empty log. It takes no memory before the first record.
    pub fn new(uid: QueueUid) -> Log {
        let none = SegmentId::NONE;
        let places = BTreeSet::new();
        let highest_id = MessageId(0);
        Log {
            uid,
            head: none,
            tail: none,
            messages: 0,
            bytes: 0,
            highest_id,
            near: none,
            next_number: 0,
            places,
        }
    }

    /// Whose it is.
    pub fn uid(&self) -> QueueUid {
        self.uid
    }

    /// Committed records.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Bytes of their bodies.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[inline]
fn id_in(head: &[u8; HEAD_SIZE_BYTES]) -> MessageId {
    let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, g, h, ..] = *head;
    MessageId(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}

#[cfg(test)]
mod tests;

//! State records: cells of one size in segments of their own.

use kvs_proto::{STATE_SIZE_BYTES_MAX, StateVersion};

use super::mapping::Mapping;
use super::segment::{SEGMENT_SIZE_BYTES, SegmentId};
use super::{Arena, Full, Place};

/// The segments that have cells to give, and how cells are read and written.
///
/// | bytes of a cell | field |
/// | --- | --- |
/// | 4 | version; of a cell given back: the next such cell, 0 for none |
/// | 4 | length |
/// | 496 | state record |
/// | 8 | zero |
///
/// A segment's first cell is not used, so that place 0 can mean: no cell.
#[derive(Debug)]
pub(super) struct Cells {
    /// Segments with cells in use and cells to give.
    partial: SegmentId,
    /// Segments with cells, and cells in use in all of them.
    segments: usize,
    used: usize,
}

impl Cells {
    pub(super) fn new() -> Cells {
        Cells { partial: SegmentId::NONE, segments: 0, used: 0 }
    }

    pub(super) fn segments(&self) -> usize {
        self.segments
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn read<'a>(&self, memory: &'a Mapping, cell: Place) -> (StateVersion, &'a [u8]) {
        let bytes = &memory.bytes()[cell.address()..cell.address() + CELL_SIZE_BYTES];
        let length = u32_at(bytes, 4) as usize;
        (StateVersion(u32_at(bytes, 0)), &bytes[8..8 + length])
    }

    pub(super) fn write(
        &self,
        memory: &mut Mapping,
        cell: Place,
        version: StateVersion,
        state: &[u8],
    ) {
        let length = u32::try_from(state.len()).expect("at most STATE_SIZE_BYTES_MAX");
        assert!(state.len() <= STATE_SIZE_BYTES_MAX);
        let bytes = &mut memory.bytes_mut()[cell.address()..cell.address() + CELL_SIZE_BYTES];
        bytes[..4].copy_from_slice(&version.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[8..8 + state.len()].copy_from_slice(state);
    }
}

impl Arena {
    /// A cell for a state record; its contents are old.
    pub(super) fn take_cell(&mut self) -> Result<Place, Full> {
        if self.cells.partial.is_none() {
            let id = self.take_free().ok_or(Full)?;
            // The first cell stays unused.
            self.segment_mut(id).used = 1;
            self.cells.segments += 1;
            self.link_partial(id);
        }
        let id = self.cells.partial;
        let given_back = self.segment(id).pins;
        let cell = if given_back == 0 {
            let number = self.segment(id).used;
            self.segment_mut(id).used += 1;
            Place::new(id, number as usize * CELL_SIZE_BYTES)
        } else {
            let cell = Place(given_back);
            let next = u32_at(&self.memory.bytes()[cell.address()..], 0);
            self.segment_mut(id).pins = next;
            cell
        };
        let segment = self.segment_mut(id);
        segment.live += 1;
        if segment.live == CELLS_PER_SEGMENT {
            self.unlink_partial(id);
        }
        self.cells.used += 1;
        Ok(cell)
    }

    /// Takes a cell back; its segment is free when that was the last.
    pub(super) fn put_cell_back(&mut self, cell: Place) {
        let id = cell.segment();
        self.cells.used -= 1;
        if self.segment(id).live == CELLS_PER_SEGMENT {
            self.link_partial(id);
        }
        let next = self.segment(id).pins;
        self.memory.bytes_mut()[cell.address()..cell.address() + 4]
            .copy_from_slice(&next.to_le_bytes());
        let segment = self.segment_mut(id);
        segment.pins = cell.0;
        segment.live -= 1;
        if segment.live == 0 {
            self.unlink_partial(id);
            self.cells.segments -= 1;
            self.put_back(id);
        }
    }

    fn link_partial(&mut self, id: SegmentId) {
        let next = self.cells.partial;
        self.segment_mut(id).next = next;
        self.segment_mut(id).previous = SegmentId::NONE;
        if !next.is_none() {
            self.segment_mut(next).previous = id;
        }
        self.cells.partial = id;
    }

    fn unlink_partial(&mut self, id: SegmentId) {
        let (previous, next) = (self.segment(id).previous, self.segment(id).next);
        if previous.is_none() {
            self.cells.partial = next;
        } else {
            self.segment_mut(previous).next = next;
        }
        if !next.is_none() {
            self.segment_mut(next).previous = previous;
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

const CELL_SIZE_BYTES: usize = 512;
/// The first one is not used.
pub(super) const CELLS_PER_SEGMENT: u32 = 127;

const _: () = assert!(8 + STATE_SIZE_BYTES_MAX <= CELL_SIZE_BYTES);
const _: () = assert!((CELLS_PER_SEGMENT as usize + 1) * CELL_SIZE_BYTES == SEGMENT_SIZE_BYTES);

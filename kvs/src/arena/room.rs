//! What the arena still takes, as clients are told.

use super::cells::CELLS_PER_SEGMENT;
use super::{Arena, SEGMENT_SIZE_BYTES};

/// Room for messages that nobody has announced yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Messages.
    pub messages: u64,
    /// Bytes of messages.
    pub bytes: u64,
}

/// How much room there is, in steps of a quarter: fine enough to tell that it has grown, coarse
/// enough not to say so all the time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RoomLevel {
    messages: u32,
    bytes: u32,
}

impl Arena {
    /// What may be granted: whole free segments and as many messages as the bound leaves, but for an eighth of
    /// all. That is kept for what is under way when a grant runs out, and for what lies beside the
    /// bodies; and half of it, with as much more as it takes, for a state record of each message:
    /// a next hop that defers all mail must not find the memory full.
    pub fn room(&self) -> Room {
        let (entries, entries_max) = (self.entries, self.entries_max);
        let messages = (entries_max - entries).saturating_sub(entries_max / RESERVED_PART);
        let reserved = self.segments.len() / RESERVED_PART;
        let states = (entries - self.cells.used()).div_ceil(CELLS_PER_SEGMENT as usize);
        let segments = self.free_count.saturating_sub(reserved.max(reserved / 2 + states));
        Room { messages: messages as u64, bytes: (segments * SEGMENT_SIZE_BYTES) as u64 }
    }
}

impl Room {
    /// Its level.
    pub fn level(self) -> RoomLevel {
        RoomLevel {
            messages: level(self.messages),
            bytes: level(self.bytes / SEGMENT_SIZE_BYTES as u64),
        }
    }
}

impl RoomLevel {
    /// Whether there is more room, of one kind at least, than at that level.
    pub fn is_above(self, other: RoomLevel) -> bool {
        self.messages > other.messages || self.bytes > other.bytes
    }
}

/// Grows by one whenever `amount` has grown by a quarter, or by one as long as it is below eight.
fn level(amount: u64) -> u32 {
    let shifted = amount.saturating_add(4);
    let exponent = shifted.ilog2();
    let quarter = u32::try_from((shifted >> (exponent - 2)) & 3).expect("two bits");
    exponent * 4 + quarter
}

/// One of so many parts is not granted.
pub(crate) const RESERVED_PART: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_grow_with_the_amount_and_tell_a_quarter_more() {
        assert!((0..10_000).all(|amount| level(amount) <= level(amount + 1)));
        for amount in [0, 1, 5, 16, 1_000, u64::MAX / 2] {
            assert!(level(amount) < level(amount + amount / 4 + 2), "{amount}");
        }
        level(u64::MAX);
    }

    #[test]
    fn one_kind_of_room_is_enough_to_be_above() {
        let room = |messages, bytes| Room { messages, bytes }.level();
        assert!(room(100, 0).is_above(room(10, 1 << 30)));
        assert!(room(10, 1 << 30).is_above(room(100, 0)));
        assert!(!room(10, 100).is_above(room(10, 100)));
    }
}

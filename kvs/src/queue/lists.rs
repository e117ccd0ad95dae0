//! The records of one queue in order of their ids: a back-fill list, and behind it a live list.
//!
//! A copy that is being filled takes new messages at once. Those are stored *live*, behind all others.
//! Older ones come as *back-fill*, into a list ahead of the live one. So the physical order is that of the ids at
//! any time, and no record is ever moved for that. Each list is a log of its own in the arena.

use kvs_proto::MessageId;

use crate::arena::{Arena, Cursor, Log, Place, QueueUid, Reservation};

/// Where a message is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum List {
    /// Ahead of all that was stored live.
    Backfill,
    /// Behind everything.
    Live,
}

/// Both lists. Ids in the back-fill list `<= last_backfilled < first_live <=` ids in the live list.
#[derive(Debug)]
pub(super) struct Lists {
    backfill: Log,
    live: Log,
    /// The last id ever stored as back-fill; 0 if none was.
    last_backfilled: MessageId,
    /// The first id ever stored live; none is as high as this one.
    first_live: MessageId,
    /// The last id ever stored, in either list; 0 if none was.
    last: MessageId,
    /// Back-fill is taken until a baseline says that the copy is complete.
    is_filling: bool,
}

impl Lists {
    /// Empty lists, to be filled. The live one has that uid, the other one the next.
    pub(super) fn new(uid: QueueUid) -> Lists {
        Lists {
            backfill: Log::new(QueueUid(uid.0 + 1)),
            live: Log::new(uid),
            last_backfilled: MessageId(0),
            first_live: MessageId(u64::MAX),
            last: MessageId(0),
            is_filling: true,
        }
    }

    /// The live list's, which stands for the queue.
    pub(super) fn uid(&self) -> QueueUid {
        self.live.uid()
    }

    pub(super) fn messages(&self) -> u64 {
        self.backfill.messages() + self.live.messages()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.backfill.bytes() + self.live.bytes()
    }

    /// The last id ever stored.
    pub(super) fn last_id(&self) -> MessageId {
        self.last
    }

    /// In physical order.
    pub(super) fn logs(&self) -> [&Log; 2] {
        [&self.backfill, &self.live]
    }

    pub(super) fn into_logs(self) -> [Log; 2] {
        [self.backfill, self.live]
    }

    /// Nothing more comes as back-fill.
    pub(super) fn end_filling(&mut self) {
        self.is_filling = false;
    }

    /// Whether a message of that id may be stored there.
    #[inline]
    pub(super) fn takes(&self, list: List, id: MessageId) -> bool {
        match list {
            List::Live => id > self.last,
            List::Backfill => self.is_filling && id > self.last_backfilled && id < self.first_live,
        }
    }

    /// A message was stored there.
    #[inline]
    pub(super) fn note_stored(&mut self, list: List, id: MessageId) {
        self.last = self.last.max(id);
        match list {
            List::Live => self.first_live = self.first_live.min(id),
            List::Backfill => self.last_backfilled = id,
        }
    }

    /// Where messages are appended.
    #[inline]
    pub(super) fn log_mut(&mut self, list: List) -> &mut Log {
        match list {
            List::Live => &mut self.live,
            List::Backfill => &mut self.backfill,
        }
    }

    /// The log in which room was reserved.
    pub(super) fn log_of(&mut self, reservation: &Reservation) -> &mut Log {
        let is_live = reservation.uid() == self.live.uid();
        self.log_mut(if is_live { List::Live } else { List::Backfill })
    }

    /// Has the processor fetch where a message is, or would be appended.
    #[inline]
    pub(super) fn prefetch(&self, arena: &Arena, id: MessageId) {
        arena.prefetch_records(self.log_with(id), id);
    }

    /// Where a message lies.
    #[inline]
    pub(super) fn find(&self, arena: &Arena, id: MessageId) -> Option<Place> {
        arena.find(self.log_with(id), id)
    }

    /// The log that a message of that id is in if it is there.
    #[inline]
    fn log_with(&self, id: MessageId) -> &Log {
        if id < self.first_live { &self.backfill } else { &self.live }
    }

    /// Removes a message, once `look` has seen where it lies. False if it is not there.
    #[inline]
    pub(super) fn remove(
        &mut self,
        arena: &mut Arena,
        id: MessageId,
        look: impl FnOnce(&Arena, Place),
    ) -> bool {
        let list = if id < self.first_live { List::Backfill } else { List::Live };
        arena.remove(self.log_mut(list), id, look)
    }

    /// The first record.
    pub(super) fn first(&self, arena: &Arena) -> Option<Place> {
        arena.first(&self.backfill).or_else(|| arena.first(&self.live))
    }

    /// The first record behind the cursor.
    pub(super) fn next(&self, arena: &Arena, cursor: &Cursor) -> Option<Place> {
        if cursor.id() < self.first_live {
            return arena.next(&self.backfill, cursor).or_else(|| arena.first(&self.live));
        }
        arena.next(&self.live, cursor)
    }
}

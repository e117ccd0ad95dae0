//! Credit: what a queue takes, as far as the memory that all queues share allows.

use kvs_proto::body::AckEntry;
use kvs_proto::{Credit, Header, QueueHandle};

use super::parts::owner_in;
use super::{Handle, Run, Session, Shared};
use crate::arena::Room;
use crate::table::{QueueRef, QueueTable};

impl Handle {
    /// For the queue to which a request has just attached.
    pub(super) fn new(queue: QueueRef, request: &Header) -> Handle {
        let owner = owner_in(request);
        Handle { queue, owner, run: Run::default(), incoming: None, short_at: None }
    }

    /// The credit to tell the client now.
    #[inline]
    pub(super) fn grant(&mut self, shared: &mut Shared) -> Credit {
        let room = shared.table.arena().room();
        self.grant_of(room, &mut shared.table)
    }

    /// The same, of so much room in memory.
    #[inline]
    pub(super) fn grant_of(&mut self, room: Room, table: &mut QueueTable) -> Credit {
        let Some((queue, _)) = table.get(self.queue) else { return Credit::default() };
        let own = queue.credit();
        let credit = own.min(Credit::new(room.messages, room.bytes));
        self.short_at = (credit != own).then(|| room.level());
        credit
    }
}

impl Session {
    /// The credit to tell the client now; none without such a queue.
    pub(super) fn grant(&mut self, shared: &mut Shared, handle: QueueHandle) -> Credit {
        let handle = self.handles.get_mut(handle.0 as usize).and_then(Option::as_mut);
        handle.map_or(Credit::default(), |handle| handle.grant(shared))
    }

    /// Tells the client of each queue whose credit was short for lack of memory that there is more
    /// now. It may have nothing to ask until then, so no answer would tell it.
    pub(super) fn renew_grants(&mut self, shared: &mut Shared) {
        let level = shared.table.arena().room().level();
        if !level.is_above(self.level) {
            self.level = level;
            return;
        }
        if self.is_blocked() {
            return;
        }
        self.level = level;
        for place in 0..self.handles.len() {
            self.renew_grant(shared, place);
        }
    }

    fn renew_grant(&mut self, shared: &mut Shared, place: usize) {
        let Some(Some(handle)) = self.handles.get_mut(place) else { return };
        let grew = handle.short_at.is_some_and(|level| self.level.is_above(level));
        if !grew {
            return;
        }
        let credit = handle.grant(shared);
        let owner = handle.owner;
        let Some((queue, _)) = shared.table.get(handle.queue) else { return };
        if owner != (queue.epoch(), queue.generation()) {
            // Whoever owns it now has a connection of its own.
            return;
        }
        let entry = AckEntry {
            queue: QueueHandle(u32::try_from(place).expect("below limits.handles_max")),
            count: 0,
            epoch: queue.epoch(),
            sequence: queue.last_sequence(),
            transaction: queue.transaction(),
            credit,
        };
        self.answer(shared, entry.header(), &[]);
    }
}

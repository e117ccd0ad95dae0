//! Memory that the next requests need, fetched while the present one is handled.
//!
//! The requests of one queue find what they need close to what those before them have used. Those of a thousand queues in
//! turn do not: each would wait for the lines of the queue itself, and then for those of its records. But they lie
//! behind one another in what was received.

use kvs_proto::{Glimpse, QueueHandle};

use super::{Session, Shared};
use crate::table::QueueRef;

impl Session {
    /// The frames in `bytes` are next. Of the one after the next the queue is fetched; by the time that it is the next,
    /// that tells where its records are.
    #[inline]
    pub(super) fn look_ahead(&self, shared: &Shared, bytes: &[u8]) {
        if self.handles.len() < 2 {
            return;
        }
        let Some(next) = Glimpse::of(bytes) else { return };
        if let Some(queue) = self.queue_of(next.queue) {
            shared.table.prefetch_records(queue, next.message);
        }
        let later = bytes.get(next.frame_size_bytes..).and_then(Glimpse::of);
        if let Some(later) = later
            && let Some(queue) = self.queue_of(later.queue)
        {
            shared.table.prefetch_queue(queue);
        }
    }

    #[inline]
    fn queue_of(&self, handle: QueueHandle) -> Option<QueueRef> {
        Some(self.handles.get(handle.0 as usize)?.as_ref()?.queue)
    }
}

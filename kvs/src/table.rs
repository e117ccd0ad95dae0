//! All queues of one worker.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use kvs_proto::body::QueueName;
use kvs_proto::{Epoch, Generation, MessageId, Status};

use crate::arena::{Arena, QueueUid, prefetch_value};
use crate::directory::{Directory, Placement};
use crate::queue::Queue;

/// The queues of one worker by name, and the memory that they share.
#[derive(Debug)]
pub struct QueueTable {
    arena: Arena,
    /// By slot. A slot's queue changes, its uid tells which life a reference means.
    queues: Vec<Option<Named>>,
    free_slots: Vec<usize>,
    names: BTreeMap<Box<str>, usize>,
    directory: Arc<Directory>,
    worker: usize,
    uids: u32,
    bounds: QueueBounds,
}

#[derive(Debug)]
struct Named {
    name: Box<str>,
    queue: Queue,
}

/// Bounds on each queue, whatever its creator asked for.
#[derive(Clone, Copy, Debug)]
pub struct QueueBounds {
    /// Messages; a larger wish is cut down to this, and the credit shows it.
    pub messages_max: u64,
    /// Bytes of messages; as above.
    pub bytes_max: u64,
}

/// Names a queue of a table; of a queue that was dropped since it names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueRef {
    slot: usize,
    uid: QueueUid,
}

/// Why a queue was not created or found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// For that reason.
    Refused(Status),
    /// It belongs to the worker with that port.
    Elsewhere(u16),
}

impl QueueTable {
    /// No queues; `worker` is this one's number in the directory.
    pub fn new(
        arena: Arena,
        directory: Arc<Directory>,
        worker: usize,
        bounds: QueueBounds,
    ) -> QueueTable {
        QueueTable {
            arena,
            queues: Vec::new(),
            free_slots: Vec::new(),
            names: BTreeMap::new(),
            directory,
            worker,
            uids: 0,
            bounds,
        }
    }

    /// The memory.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The memory.
    pub fn arena_mut(&mut self) -> &mut Arena {
        &mut self.arena
    }

    /// The port of this worker.
    pub fn port(&self) -> u16 {
        self.directory.port(self.worker)
    }

    /// How many queues there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// A queue and the memory that it lies in.
    #[inline]
    pub fn get(&mut self, queue: QueueRef) -> Option<(&mut Queue, &mut Arena)> {
        let found = &mut self.queues.get_mut(queue.slot)?.as_mut()?.queue;
        (found.uid() == queue.uid).then_some((found, &mut self.arena))
    }

    /// Has the processor fetch what a change of that queue begins with.
    #[inline]
    pub fn prefetch_queue(&self, queue: QueueRef) {
        if let Some(queue) = self.queues.get(queue.slot) {
            prefetch_value(queue);
        }
    }

    /// Has the processor fetch what a change of that message of a queue needs of the queue's records.
    #[inline]
    pub fn prefetch_records(&self, queue: QueueRef, id: MessageId) {
        if let Some(Some(named)) = self.queues.get(queue.slot) {
            named.queue.prefetch(&self.arena, id);
        }
    }

    /// Makes an empty queue.
    ///
    /// # Errors
    /// [`Missing`].
    pub fn create(
        &mut self,
        name: QueueName<'_>,
        epoch: Epoch,
        generation: Generation,
        messages_max: u64,
        bytes_max: u64,
    ) -> Result<QueueRef, Missing> {
        match self.directory.place(name.as_str(), self.worker) {
            Placement::Here => {}
            Placement::Elsewhere(port) => return Err(Missing::Elsewhere(port)),
            Placement::Exists => return Err(Missing::Refused(Status::Exists)),
            Placement::TooMany => return Err(Missing::Refused(Status::TooManyQueues)),
        }
        // A number used twice would mix queues up. A client may use them up, if it does nothing else
        // for hours; that must not stop the server.
        let Some(uids) = self.uids.checked_add(UIDS_PER_QUEUE) else {
            self.directory.remove(name.as_str());
            return Err(Missing::Refused(Status::TooManyQueues));
        };
        self.uids = uids;
        let uid = QueueUid(uids - UIDS_PER_QUEUE + 1);
        let messages_max = messages_max.min(self.bounds.messages_max);
        let bytes_max = bytes_max.min(self.bounds.bytes_max);
        let queue = Queue::new(uid, epoch, generation, messages_max, bytes_max);
        let queue = Some(Named { name: name.as_str().into(), queue });
        let slot = match self.free_slots.pop() {
            Some(slot) => {
                self.queues[slot] = queue;
                slot
            }
            None => {
                self.queues.push(queue);
                self.queues.len() - 1
            }
        };
        self.names.insert(name.as_str().into(), slot);
        Ok(QueueRef { slot, uid })
    }

    /// Finds a queue by name.
    ///
    /// # Errors
    /// [`Missing`].
    pub fn find(&self, name: QueueName<'_>) -> Result<QueueRef, Missing> {
        match self.names.get(name.as_str()) {
            Some(&slot) => Ok(self.queue_ref(slot)),
            None => Err(match self.directory.find(name.as_str()) {
                Some(port) => Missing::Elsewhere(port),
                None => Missing::Refused(Status::UnknownQueue),
            }),
        }
    }

    /// A queue of that name at this worker, to look at.
    pub fn peek(&self, name: QueueName<'_>) -> Option<&Queue> {
        self.names.get(name.as_str()).map(|slot| self.queue(*slot))
    }

    /// Removes a queue. Its name is free at once, its memory comes back as [`Arena::work`] is
    /// called.
    pub fn remove(&mut self, queue: QueueRef) {
        if self.get(queue).is_none() {
            return;
        }
        let Named { name, queue: removed } = self.queues[queue.slot].take().expect("just found");
        self.free_slots.push(queue.slot);
        self.names.remove(&name);
        self.directory.remove(&name);
        for log in removed.into_logs() {
            self.arena.release(log);
        }
    }

    /// The queues whose names begin with `prefix` and come after `after`, in order.
    pub fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<QueueName<'_>>,
    ) -> impl Iterator<Item = (QueueName<'a>, &'a Queue)> {
        let start = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        self.names
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(name, _)| name.starts_with(prefix))
            .map(|(name, slot)| {
                let name = QueueName::parse(name.as_bytes()).expect("checked when it was created");
                (name, self.queue(*slot))
            })
    }

    fn queue_ref(&self, slot: usize) -> QueueRef {
        QueueRef { slot, uid: self.queue(slot).uid() }
    }

    fn queue(&self, slot: usize) -> &Queue {
        &self.queues[slot].as_ref().expect("every name has a queue").queue
    }
}

/// A queue has a log for what is stored live, and one for what is back-filled.
const UIDS_PER_QUEUE: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> QueueTable {
        let arena = Arena::new(2 << 20, 100).unwrap();
        let bounds = QueueBounds { messages_max: 10, bytes_max: 1 << 20 };
        QueueTable::new(arena, Arc::new(Directory::new(1, 3)), 0, bounds)
    }

    fn name(text: &str) -> QueueName<'_> {
        QueueName::parse(text.as_bytes()).unwrap()
    }

    fn create(table: &mut QueueTable, text: &str) -> Result<QueueRef, Missing> {
        table.create(name(text), Epoch(1), Generation(1), u64::MAX, u64::MAX)
    }

    #[test]
    fn attaching_finds_what_was_created_and_nothing_else() {
        let mut table = table();
        let queue = create(&mut table, "a").unwrap();
        assert_eq!(table.find(name("a")), Ok(queue));
        assert_eq!(table.find(name("b")), Err(Missing::Refused(Status::UnknownQueue)));
        assert_eq!(create(&mut table, "a"), Err(Missing::Refused(Status::Exists)));
        assert_eq!(table.get(queue).unwrap().0.credit().messages, 9, "cut down to the bound");
    }

    #[test]
    fn a_reference_does_not_reach_the_next_queue_in_its_slot() {
        let mut table = table();
        let old = create(&mut table, "a").unwrap();
        table.remove(old);
        table.remove(old);
        let new = create(&mut table, "a").unwrap();
        assert!(table.get(old).is_none());
        assert!(table.get(new).is_some());
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn queues_are_bounded() {
        let mut table = table();
        for text in ["a", "b", "c"] {
            create(&mut table, text).unwrap();
        }
        assert_eq!(create(&mut table, "d"), Err(Missing::Refused(Status::TooManyQueues)));
    }

    #[test]
    fn queue_numbers_that_have_run_out_are_a_refusal() {
        let mut table = table();
        table.uids = u32::MAX - UIDS_PER_QUEUE;
        let last = create(&mut table, "a").unwrap();
        assert_eq!(create(&mut table, "b"), Err(Missing::Refused(Status::TooManyQueues)));
        assert_eq!(table.find(name("b")), Err(Missing::Refused(Status::UnknownQueue)));
        assert!(table.get(last).is_some());
    }

    #[test]
    fn lists_are_by_prefix_and_go_on_after_a_name() {
        let mut table = table();
        for text in ["x/b", "x/a", "y"] {
            create(&mut table, text).unwrap();
        }
        let names = |prefix: &str, after: Option<&str>| -> Vec<String> {
            let listed = table.list(prefix, after.map(name));
            listed.map(|(name, _)| name.as_str().to_owned()).collect()
        };
        assert_eq!(names("x/", None), ["x/a", "x/b"]);
        assert_eq!(names("x/", Some("x/a")), ["x/b"]);
        assert_eq!(names("x/", Some("a")), ["x/a", "x/b"]);
        assert_eq!(names("", Some("x/b")), ["y"]);
    }
}

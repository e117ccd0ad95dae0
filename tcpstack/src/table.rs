//! A bounded table whose places are named by index and generation.

use crate::transport::{ConnectionId, ListenerId};

/// Holds at most `capacity` values. A name that outlived its value finds nothing.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    capacity: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Index and generation, before they become a typed name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl From<Key> for ConnectionId {
    fn from(key: Key) -> ConnectionId {
        ConnectionId { index: key.index, generation: key.generation }
    }
}

impl From<ConnectionId> for Key {
    fn from(id: ConnectionId) -> Key {
        Key { index: id.index, generation: id.generation }
    }
}

impl From<Key> for ListenerId {
    fn from(key: Key) -> ListenerId {
        ListenerId { index: key.index, generation: key.generation }
    }
}

impl From<ListenerId> for Key {
    fn from(id: ListenerId) -> Key {
        Key { index: id.index, generation: id.generation }
    }
}

impl<T> Table<T> {
    pub(crate) fn new(capacity: usize) -> Table<T> {
        assert!(u32::try_from(capacity).is_ok(), "indices are 32 bits wide");
        Table { slots: Vec::new(), free: Vec::new(), capacity }
    }

    /// Whether the next `insert` would fail.
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= self.capacity
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The name that the next `insert` will give; `None` when full.
    pub(crate) fn next_key(&self) -> Option<Key> {
        if let Some(&index) = self.free.last() {
            return Some(Key { index, generation: self.slots[place(index)].generation });
        }
        if self.slots.len() >= self.capacity {
            return None;
        }
        let index = u32::try_from(self.slots.len()).expect("the capacity fits 32 bits");
        Some(Key { index, generation: 0 })
    }

    /// Puts a value into a free place; `None` when full.
    pub(crate) fn insert(&mut self, value: T) -> Option<Key> {
        let key = self.next_key()?;
        if place(key.index) == self.slots.len() {
            self.slots.push(Slot { generation: 0, value: Some(value) });
        } else {
            self.free.pop();
            self.slots[place(key.index)].value = Some(value);
        }
        Some(key)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(place(key.index))?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(place(key.index))?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    /// Takes the value out; its name is dead from here on.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(place(key.index))?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        // After 2^32 uses of one place a name repeats; nobody keeps one that long.
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    /// All names and values, in the order of their places.
    #[cfg(any(feature = "sim", feature = "userspace"))]
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let index = u32::try_from(index).expect("the capacity fits 32 bits");
            let value = slot.value.as_ref()?;
            Some((Key { index, generation: slot.generation }, value))
        })
    }

    /// All names and values, in the order of their places.
    #[cfg(feature = "userspace")]
    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| {
            let index = u32::try_from(index).expect("the capacity fits 32 bits");
            let generation = slot.generation;
            Some((Key { index, generation }, slot.value.as_mut()?))
        })
    }
}

fn place(index: u32) -> usize {
    usize::try_from(index).expect("a pointer has at least 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_name_does_not_reach_the_next_value_in_its_place() {
        let mut table = Table::new(2);
        let first = table.insert('a').unwrap();
        assert_eq!(table.remove(first), Some('a'));
        let second = table.insert('b').unwrap();
        assert_eq!(second.index, first.index);
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&'b'));
    }

    #[test]
    fn a_full_table_takes_no_more_until_one_leaves() {
        let mut table = Table::new(1);
        let only = table.insert(1).unwrap();
        assert!(table.is_full());
        assert_eq!(table.insert(2), None);
        table.remove(only);
        assert_eq!(table.len(), 0);
        assert!(table.insert(3).is_some());
    }

    #[test]
    fn the_next_key_is_the_one_that_insert_gives() {
        let mut table = Table::new(3);
        for round in 0..5 {
            let promised = table.next_key().unwrap();
            let given = table.insert(round).unwrap();
            assert_eq!(promised, given);
            if round % 2 == 0 {
                table.remove(given);
            }
        }
    }
}

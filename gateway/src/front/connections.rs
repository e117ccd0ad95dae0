//! What belongs to a connection, found by its name.

use tcpstack::ConnectionId;

/// A table by connection: the transport's index is ours, and the generation is compared, so that a
/// stale name finds nothing. As large as the transport's table at most.
#[derive(Debug)]
pub(super) struct Connections<V> {
    places: Vec<Option<(ConnectionId, V)>>,
    len: usize,
}

impl<V> Connections<V> {
    pub(super) fn new() -> Connections<V> {
        Connections { places: Vec::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, id: ConnectionId) -> bool {
        self.get(id).is_some()
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&V> {
        match self.places.get(place(id)) {
            Some(Some((name, value))) if *name == id => Some(value),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut V> {
        match self.places.get_mut(place(id)) {
            Some(Some((name, value))) if *name == id => Some(value),
            _ => None,
        }
    }

    /// Puts in a new connection's value. The place must be free: its last owner was told that its
    /// connection is over, or ended it.
    pub(super) fn insert(&mut self, id: ConnectionId, value: V) {
        if self.places.len() <= place(id) {
            self.places.resize_with(place(id) + 1, || None);
        }
        let old = self.places[place(id)].replace((id, value));
        assert!(old.is_none(), "two connections in one place");
        self.len += 1;
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<V> {
        self.get(id)?;
        self.len -= 1;
        self.places[place(id)].take().map(|(_, value)| value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.places.iter_mut().flatten().map(|(_, value)| value)
    }

    /// What is in the `count` places from `start` on, beginning anew behind the last.
    pub(super) fn sample(
        &self,
        start: usize,
        count: usize,
    ) -> impl Iterator<Item = (ConnectionId, &V)> {
        let len = self.places.len();
        let places = (0..count.min(len))
            .filter_map(move |step| self.places[(start % len + step) % len].as_ref());
        places.map(|(id, value)| (*id, value))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        self.places.iter().flatten().map(|(id, _)| *id)
    }
}

fn place(id: ConnectionId) -> usize {
    id.index as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_goes_round_and_skips_free_places() {
        let mut connections = Connections::new();
        for index in [0, 1, 3] {
            connections.insert(ConnectionId { index, generation: 0 }, index);
        }
        let sample = |start, count| -> Vec<u32> {
            connections.sample(start, count).map(|(_, value)| *value).collect()
        };
        assert_eq!(sample(1, 2), [1]);
        assert_eq!(sample(7, 100), [3, 0, 1]);
        assert!(Connections::<u32>::new().sample(5, 5).next().is_none());
    }

    #[test]
    fn a_stale_name_finds_nothing() {
        let mut connections = Connections::new();
        let old = ConnectionId { index: 2, generation: 1 };
        let new = ConnectionId { index: 2, generation: 2 };
        connections.insert(old, 'a');
        assert_eq!(connections.remove(old), Some('a'));
        connections.insert(new, 'b');
        assert_eq!((connections.get(old), connections.get(new)), (None, Some(&'b')));
        assert_eq!(connections.remove(old), None);
        assert_eq!((connections.len(), connections.ids().next()), (1, Some(new)));
    }
}

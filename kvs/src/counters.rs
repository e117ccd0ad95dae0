//! What a worker counts.

use kvs_proto::body::Counter;

/// One number for each [`Counter`], since the worker started.
#[derive(Clone, Debug, Default)]
pub struct Counters([u64; COUNTERS]);

impl Counters {
    /// One more.
    #[inline]
    pub fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// So many more.
    #[inline]
    pub fn add(&mut self, counter: Counter, amount: u64) {
        self.0[counter as usize] += amount;
    }

    /// Sets one that goes up and down.
    pub fn set(&mut self, counter: Counter, value: u64) {
        self.0[counter as usize] = value;
    }

    /// The number.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (Counter, u64)> {
        (0u16..).zip(&self.0).filter_map(|(key, value)| Some((Counter::from_u16(key)?, *value)))
    }
}

/// Above the last key.
const COUNTERS: usize = 32;

const _: () = assert!((Counter::Baselines as usize) < COUNTERS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_counter_is_listed_once() {
        let mut counters = Counters::default();
        counters.add(Counter::Turns, 5);
        counters.count(Counter::Turns);
        let all: Vec<_> = counters.all().collect();
        assert_eq!(all.len(), 23);
        assert!(all.contains(&(Counter::Turns, 6)));
    }
}

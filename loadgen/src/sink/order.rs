//! Which mails of which queue a sink has seen, and how far out of order.

use std::collections::HashMap;

/// Tracks every queue of every run by the sequence numbers in the mails' headers.
#[derive(Debug, Default)]
pub(super) struct Order {
    queues: HashMap<Box<str>, Vec<(u32, Track)>>,
}

/// What one mail's arrival in one queue means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Arrival {
    /// It had been attempted before.
    pub(super) attempted_before: bool,
    /// It had been accepted before.
    pub(super) accepted_before: bool,
    /// First attempts only: how far the highest sequence attempted before lies above this one.
    pub(super) displacement: u64,
    /// How many more mails are missing by this arrival: those that it leaped over, or minus one
    /// when it is one of them.
    pub(super) missing: i64,
}

#[derive(Debug, Default)]
struct Track {
    attempted: Bits,
    accepted: Bits,
    /// One above the highest sequence attempted.
    end: u64,
}

#[derive(Debug, Default)]
struct Bits(Vec<u64>);

/// Sequence numbers from here on are not tracked, so that a made-up one cannot take the memory: two
/// bit sets of 32 MB for each queue at most.
const SEQUENCES_MAX: u64 = 1 << 28;

impl Order {
    /// Notes an attempt. `None`: the sequence number is beyond the bound.
    pub(super) fn arrive(
        &mut self,
        queue: &str,
        run: u32,
        sequence: u64,
        accepted: bool,
    ) -> Option<Arrival> {
        if sequence >= SEQUENCES_MAX {
            return None;
        }
        let track = self.track(queue, run);
        let attempted_before = track.attempted.set(sequence);
        let highest = track.end.saturating_sub(1);
        let displacement = if attempted_before { 0 } else { highest.saturating_sub(sequence) };
        let end = track.end.max(sequence + 1);
        let leaped = i64::try_from(end - track.end).expect("below the bound");
        track.end = end;
        let accepted_before =
            if accepted { track.accepted.set(sequence) } else { track.accepted.get(sequence) };
        let missing = leaped - i64::from(accepted && !accepted_before);
        Some(Arrival { attempted_before, accepted_before, displacement, missing })
    }

    fn track(&mut self, queue: &str, run: u32) -> &mut Track {
        if !self.queues.contains_key(queue) {
            self.queues.insert(queue.into(), Vec::new());
        }
        let runs = self.queues.get_mut(queue).expect("it was just made sure of");
        let place = runs.iter().position(|&(of, _)| of == run).unwrap_or_else(|| {
            runs.push((run, Track::default()));
            runs.len() - 1
        });
        &mut runs[place].1
    }
}

impl Bits {
    fn get(&self, bit: u64) -> bool {
        let word = usize::try_from(bit / 64).expect("bits are below the bound");
        self.0.get(word).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }

    /// Sets it and answers what it was.
    fn set(&mut self, bit: u64) -> bool {
        let was = self.get(bit);
        let word = usize::try_from(bit / 64).expect("bits are below the bound");
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (bit % 64);
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displacement_counts_for_first_attempts_only() {
        let mut order = Order::default();
        let mut arrive = |sequence, accepted| order.arrive("a", 1, sequence, accepted).unwrap();
        assert_eq!(arrive(0, true).displacement, 0);
        assert_eq!(arrive(1, false).displacement, 0);
        assert_eq!(arrive(5, true).displacement, 0);
        assert_eq!(arrive(2, true).displacement, 3);
        let again = arrive(1, true);
        assert!(again.attempted_before && !again.accepted_before && again.displacement == 0);
        assert!(arrive(5, true).accepted_before);
    }

    #[test]
    fn what_never_came_is_missing_until_it_comes() {
        let mut order = Order::default();
        let mut missing = 0;
        let mut after = |sequence, accepted| {
            missing += order.arrive("a", 1, sequence, accepted).unwrap().missing;
            missing
        };
        assert_eq!([after(0, true), after(1, true)], [0, 0]);
        assert_eq!(after(4, true), 2, "two were leaped over");
        assert_eq!(after(2, false), 2, "refused is not there");
        assert_eq!([after(2, true), after(2, true), after(3, true)], [1, 1, 0]);
    }

    #[test]
    fn runs_and_queues_do_not_mix_and_wild_numbers_take_no_memory() {
        let mut order = Order::default();
        assert_eq!(order.arrive("a", 1, 9, true).unwrap().displacement, 0);
        assert_eq!(order.arrive("a", 2, 3, true).unwrap().displacement, 0);
        assert_eq!(order.arrive("b", 1, 3, true).unwrap().displacement, 0);
        assert_eq!(order.arrive("a", 1, u64::MAX, true), None);
    }
}

//! Which worker has which queue.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The queues of all workers by name, shared by them. Locked only when queues are created,
/// attached to the first time, or dropped.
#[derive(Debug)]
pub struct Directory(Mutex<Entries>);

#[derive(Debug)]
struct Entries {
    workers: HashMap<Box<str>, usize>,
    /// By worker.
    counts: Vec<usize>,
    ports: Vec<u16>,
    queues_max: usize,
}

/// What is to become of a new queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// It is yours, and noted as such.
    Here,
    /// That port's worker should have it.
    Elsewhere(u16),
    /// There is one of that name.
    Exists,
    /// There are as many as there may be.
    TooMany,
}

impl Directory {
    /// For so many workers, and so many queues of all of them together.
    pub fn new(workers: usize, queues_max: usize) -> Directory {
        Directory(Mutex::new(Entries {
            workers: HashMap::new(),
            counts: vec![0; workers],
            ports: vec![0; workers],
            queues_max,
        }))
    }

    /// Notes where a worker listens.
    pub fn set_port(&self, worker: usize, port: u16) {
        self.with(|entries| entries.ports[worker] = port);
    }

    /// Where a worker listens.
    pub fn port(&self, worker: usize) -> u16 {
        self.with(|entries| entries.ports[worker])
    }

    /// Places a new queue that was asked for at `worker`: there, unless another has at least two
    /// fewer. So a client that follows the port it is told is soon home, and queues spread.
    pub fn place(&self, name: &str, worker: usize) -> Placement {
        self.with(|entries| {
            if entries.workers.contains_key(name) {
                return Placement::Exists;
            }
            if entries.workers.len() >= entries.queues_max {
                return Placement::TooMany;
            }
            let least = (0..entries.counts.len()).min_by_key(|other| entries.counts[*other]);
            let least = least.expect("there are workers");
            if entries.counts[worker] > entries.counts[least] + 1 {
                return Placement::Elsewhere(entries.ports[least]);
            }
            entries.workers.insert(name.into(), worker);
            entries.counts[worker] += 1;
            Placement::Here
        })
    }

    /// The port of the worker that has the queue.
    pub fn find(&self, name: &str) -> Option<u16> {
        self.with(|entries| entries.workers.get(name).map(|worker| entries.ports[*worker]))
    }

    /// Forgets a queue.
    pub fn remove(&self, name: &str) {
        self.with(|entries| {
            let worker = entries.workers.remove(name).expect("placed before");
            entries.counts[worker] -= 1;
        });
    }

    fn with<R>(&self, act: impl FnOnce(&mut Entries) -> R) -> R {
        // A worker that panicked took the process with it; in tests the entries are still sound.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_spread_over_workers_and_a_redirected_client_is_taken() {
        let directory = Directory::new(2, 100);
        directory.set_port(0, 7000);
        directory.set_port(1, 7001);
        for number in 0..50 {
            let name = format!("q{number}");
            match directory.place(&name, 0) {
                Placement::Here => {}
                Placement::Elsewhere(7001) => {
                    assert_eq!(directory.place(&name, 1), Placement::Here);
                }
                other => panic!("{other:?}"),
            }
        }
        let at = |port| (0..50).filter(|n| directory.find(&format!("q{n}")) == Some(port)).count();
        assert!(at(7000).abs_diff(at(7001)) <= 2);
    }

    #[test]
    fn names_are_unique_bounded_and_reusable() {
        let directory = Directory::new(1, 2);
        assert_eq!(directory.place("a", 0), Placement::Here);
        assert_eq!(directory.place("a", 0), Placement::Exists);
        assert_eq!(directory.place("b", 0), Placement::Here);
        assert_eq!(directory.place("c", 0), Placement::TooMany);
        directory.remove("a");
        assert_eq!(directory.find("a"), None);
        assert_eq!(directory.place("c", 0), Placement::Here);
    }
}

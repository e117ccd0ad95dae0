//! Where the workers leave their part of a snapshot, when somebody wants one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::{QueueStatus, WorkerCounters};

/// A worker's part of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its queues.
    pub queues: Vec<QueueStatus>,
    /// What it has counted.
    pub counters: WorkerCounters,
}

/// The desk. Workers look at one number in each turn; whoever waits here waits for so long and no longer,
/// whatever the workers do.
#[derive(Debug)]
pub struct Desk {
    /// How often parts were wanted.
    wanted: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// By worker: its newest part, and which want it answers.
    parts: Vec<Option<(u64, Arc<Part>)>>,
    /// Who waits. The last one to leave takes the parts away.
    waiting: usize,
}

impl Desk {
    /// For so many workers.
    pub fn new(workers: usize) -> Desk {
        let parts = vec![None; workers];
        Desk {
            wanted: AtomicU64::new(0),
            state: Mutex::new(State { parts, waiting: 0 }),
            changed: Condvar::new(),
        }
    }

    /// How often parts were wanted: whoever sees another number than last time leaves its own.
    pub fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::SeqCst)
    }

    /// For a worker: leaves its part, for that want and all before.
    pub fn leave(&self, worker: usize, want: u64, part: Part) {
        let mut state = self.state.lock().expect("nobody panics while holding it");
        if state.waiting > 0 {
            state.parts[worker] = Some((want, Arc::new(part)));
            self.changed.notify_all();
        }
    }

    /// Wants all parts, has the workers woken by `wake`, and waits. By worker; nothing from those that have
    /// not answered in that time.
    pub fn ask(&self, patience: Duration, wake: impl FnOnce()) -> Vec<Option<Arc<Part>>> {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock().expect("nobody panics while holding it");
        state.waiting += 1;
        let want = self.wanted.fetch_add(1, Ordering::SeqCst) + 1;
        drop(state);
        wake();
        let mut state = self.state.lock().expect("nobody panics while holding it");
        let has_all = |state: &State| {
            state.parts.iter().all(|part| part.as_ref().is_some_and(|(of, _)| *of >= want))
        };
        while !has_all(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.expect("nobody panics while holding it").0;
        }
        let fresh = |part: &Option<(u64, Arc<Part>)>| {
            part.as_ref().filter(|(of, _)| *of >= want).map(|(_, part)| part.clone())
        };
        let parts = state.parts.iter().map(fresh).collect();
        state.waiting -= 1;
        if state.waiting == 0 {
            state.parts.iter_mut().for_each(|part| *part = None);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(worker: usize) -> Part {
        let counters = WorkerCounters { worker, shard: None, front: None, nic_queues: Vec::new() };
        Part { queues: Vec::new(), counters }
    }

    #[test]
    fn each_want_is_answered_by_parts_that_were_made_after_it() {
        let desk = Desk::new(2);
        desk.leave(0, 0, part(0));
        let parts = desk.ask(Duration::from_secs(60), || {
            (0..2).for_each(|worker| desk.leave(worker, desk.wanted(), part(worker)));
        });
        let workers = parts.into_iter().map(|it| it.unwrap().counters.worker).collect::<Vec<_>>();
        assert_eq!(workers, [0, 1]);
        assert!(desk.state.lock().unwrap().parts.iter().all(Option::is_none), "nothing is kept");
    }

    #[test]
    fn a_worker_that_does_not_answer_is_not_waited_for() {
        let desk = Desk::new(2);
        let parts = desk.ask(Duration::ZERO, || desk.leave(1, desk.wanted(), part(1)));
        assert!(parts[0].is_none() && parts[1].is_some());
    }

    #[test]
    fn several_may_ask_at_once_and_an_older_answer_does_not_do() {
        let desk = Desk::new(1);
        std::thread::scope(|scope| {
            let ask = || scope.spawn(|| desk.ask(Duration::from_secs(60), || ()));
            let askers = [ask(), ask(), ask()];
            while desk.wanted() < 3 {
                std::thread::yield_now();
            }
            desk.leave(0, 1, part(7));
            desk.leave(0, 3, part(8));
            for asker in askers {
                let parts = asker.join().unwrap();
                assert!(matches!(parts[0].as_ref().unwrap().counters.worker, 7 | 8));
            }
        });
    }
}

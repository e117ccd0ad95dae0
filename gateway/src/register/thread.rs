//! The register on a thread of its own, so that a slow engine never stops a worker.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;
use std::time::Duration;

use super::Engine;
use crate::replication::record::{RegisterAnswer, RegisterCall};

/// How long a process that ends waits for the call under way. What is not done then is as if the
/// process had died: done or not.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(1);

/// Who asked: a worker, and a cohort there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asker {
    /// The worker, by number.
    pub worker: usize,
    /// The cohort, by place in the worker's shard.
    pub cohort: usize,
}

/// The register on a thread of its own. Dropped, it does not wait for an engine that hangs.
#[derive(Debug)]
pub struct RegisterThread {
    calls: Option<Sender<(Asker, String, RegisterCall)>>,
    /// Says nothing, and is closed when the thread ends.
    end: Receiver<()>,
}

impl RegisterThread {
    /// Starts it. `deliver` is called on that thread with each answer.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        mut engine: Box<impl Engine + ?Sized + 'static>,
        mut deliver: impl FnMut(Asker, RegisterAnswer) + Send + 'static,
    ) -> io::Result<RegisterThread> {
        let (calls, incoming): (_, Receiver<(Asker, String, RegisterCall)>) = channel();
        let (alive, end) = channel();
        Builder::new().name("register".into()).spawn(move || {
            let _alive: Sender<()> = alive;
            for (asker, key, call) in incoming {
                let answer = engine.call(&key, &call);
                deliver(asker, answer);
            }
        })?;
        Ok(RegisterThread { calls: Some(calls), end })
    }

    /// Another end to put calls in. At most one call of each cohort is under way, which bounds the
    /// channel.
    pub fn caller(&self) -> Sender<(Asker, String, RegisterCall)> {
        self.calls.clone().expect("only taken when dropped")
    }
}

impl Drop for RegisterThread {
    fn drop(&mut self) {
        self.calls = None;
        let _ = self.end.recv_timeout(LEAVE_TIME_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const ASKER: Asker = Asker { worker: 2, cohort: 5 };

    /// An engine that waits for a word, or until nobody can give it, before it answers a call.
    struct Patient(Receiver<()>);

    impl Engine for Patient {
        fn call(&mut self, _: &str, _: &RegisterCall) -> RegisterAnswer {
            let _ = self.0.recv();
            RegisterAnswer::Read(None)
        }
    }

    fn start() -> (RegisterThread, Sender<()>, Receiver<(Asker, RegisterAnswer)>) {
        let (word, heard) = channel();
        let (answers, answered) = channel();
        let thread = RegisterThread::start(Box::new(Patient(heard)), move |asker, answer| {
            let _ = answers.send((asker, answer));
        });
        (thread.unwrap(), word, answered)
    }

    #[test]
    fn calls_are_answered_to_who_asked_and_the_last_ones_before_the_end() {
        let (thread, word, answered) = start();
        for _ in 0..3 {
            thread.caller().send((ASKER, "k".into(), RegisterCall::Read)).unwrap();
        }
        drop(word);
        drop(thread);
        let answers = answered.try_iter().collect::<Vec<_>>();
        assert_eq!(answers, vec![(ASKER, RegisterAnswer::Read(None)); 3]);
    }

    #[test]
    fn an_engine_that_hangs_does_not_hold_up_the_end() {
        let (thread, word, _answered) = start();
        thread.caller().send((ASKER, "k".into(), RegisterCall::Read)).unwrap();
        let began = Instant::now();
        drop(thread);
        assert!(began.elapsed() < 30 * LEAVE_TIME_MAX);
        drop(word);
    }
}

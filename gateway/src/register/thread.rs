//! The register on a thread of its own, so that a slow disk never stops a worker.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use super::FileRegister;
use crate::replication::record::{RegisterAnswer, RegisterCall};

/// Who asked: a worker, and a cohort there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asker {
    /// The worker, by number.
    pub worker: usize,
    /// The cohort, by place in the worker's shard.
    pub cohort: usize,
}

/// The register on a thread of its own, so that a slow disk never stops a worker.
#[derive(Debug)]
pub struct RegisterThread {
    calls: Option<Sender<(Asker, String, RegisterCall)>>,
    thread: Option<JoinHandle<()>>,
}

impl RegisterThread {
    /// Starts it. `deliver` is called on that thread with each answer.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        mut register: FileRegister,
        mut deliver: impl FnMut(Asker, RegisterAnswer) + Send + 'static,
    ) -> io::Result<RegisterThread> {
        let (calls, incoming): (_, Receiver<(Asker, String, RegisterCall)>) = channel();
        let thread = Builder::new().name("register".into()).spawn(move || {
            for (asker, key, call) in incoming {
                let answer = register.call(&key, &call);
                deliver(asker, answer);
            }
        })?;
        Ok(RegisterThread { calls: Some(calls), thread: Some(thread) })
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
        if let Some(thread) = self.thread.take() {
            // It has panicked only if `deliver` has, and then there is nobody to tell.
            let _ = thread.join();
        }
    }
}

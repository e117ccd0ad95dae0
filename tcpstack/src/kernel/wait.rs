//! Sleeping on two transports at once, and waking a sleeper from another thread.

use std::io;
use std::sync::Arc;

use super::sys;
use crate::time::Instant;
use crate::transport::Transport;

/// Sleeps until something may have happened on either transport, or until `until` or a deadline of
/// theirs. Does not sleep when either has events or ready connections waiting (its
/// [`Transport::next_deadline`] is past then), nor when either has no descriptors.
pub fn wait_on_both<A: Transport, B: Transport>(
    a: &mut A,
    b: &mut B,
    now: Instant,
    until: Option<Instant>,
) {
    a.release(now);
    b.release(now);
    let mut descriptors = Vec::new();
    if !a.add_wait_descriptors(&mut descriptors) || !b.add_wait_descriptors(&mut descriptors) {
        return;
    }
    let earliest = [a.next_deadline(), b.next_deadline(), until].into_iter().flatten().min();
    if earliest.is_some_and(|deadline| deadline <= now) {
        return;
    }
    sys::sleep_until_readable(&descriptors, earliest.map(|deadline| deadline - now));
}

/// Wakes a thread out of [`Transport::wait`] or [`wait_on_both`], from any thread.
///
/// A wake-up before the sleep is not lost: the next sleep ends at once. Each one is a system call,
/// so wake only a thread that sleeps, or is about to.
#[derive(Clone, Debug)]
pub struct Waker(Arc<mio::Waker>);

impl Waker {
    pub(super) fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Waker> {
        Ok(Waker(Arc::new(mio::Waker::new(registry, token)?)))
    }

    /// Ends the sleep, or the next one.
    pub fn wake(&self) {
        // eventfd(2): a write of 1 can only fail when the counter is full, and mio resets it then.
        self.0.wake().expect("the eventfd is open as long as this lives");
    }
}

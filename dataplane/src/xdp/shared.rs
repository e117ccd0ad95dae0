//! What the threads of an interface share: its ports, the thread that watches, and who asks how it is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::bpf::{Attached, Program};
use super::error::XdpError;
use super::filter::Filter;
use super::neighbours::Board;
use super::options::{LinkState, XdpMode, XdpOptions};
use super::rings::Opened;
use super::statistics::{Counters, XdpStatistics};
use super::sys;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: XdpOptions,
    /// The longest packet. It stays the same, as the stacks above were told once.
    pub(super) mtu: u32,
    pub(super) board: Board,
    pub(super) queues: Vec<SharedQueue>,
    pub(super) filtering: Mutex<Filtering>,
    pub(super) outcome: Mutex<Outcome>,
    link: AtomicU8,
    pub(super) is_over: AtomicBool,
    /// Wakes the thread that watches.
    pub(super) alarm: Alarm,
}

/// The filter, and the program that does what it says.
#[derive(Debug)]
pub(super) struct Filtering {
    pub(super) filter: Filter,
    pub(super) program: Program,
    /// `None` while the interface is gone.
    pub(super) attached: Option<Attached>,
}

/// What became of opening it.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) mode: XdpMode,
    pub(super) refused: Vec<(XdpMode, String)>,
    pub(super) huge_pages: bool,
    pub(super) trouble: Option<String>,
}

/// One NIC queue, beside its port.
#[derive(Debug)]
pub(super) struct SharedQueue {
    pub(super) queue: u32,
    pub(super) counters: Counters,
    /// Counts the sockets that were left in `next`.
    pub(super) generation: AtomicU64,
    /// A new socket, for the port to take.
    pub(super) next: Mutex<Option<Opened>>,
    /// Rings when there is one.
    pub(super) bell: Alarm,
    /// The present socket, for what the kernel counts of it.
    pub(super) socket: Mutex<Option<OwnedFd>>,
}

impl Shared {
    pub(super) fn new(
        options: XdpOptions,
        mtu: u32,
        filtering: Filtering,
        outcome: Outcome,
    ) -> io::Result<Shared> {
        let queues = options.filter.queues().into_iter().map(SharedQueue::new);
        Ok(Shared {
            queues: queues.collect::<io::Result<_>>()?,
            options,
            mtu,
            board: Board::default(),
            filtering: Mutex::new(filtering),
            outcome: Mutex::new(outcome),
            link: AtomicU8::new(0),
            is_over: AtomicBool::new(false),
            alarm: Alarm::new()?,
        })
    }

    pub(super) fn link(&self) -> LinkState {
        match self.link.load(Ordering::Acquire) {
            UP => LinkState::Up,
            DOWN => LinkState::Down,
            _ => LinkState::Gone,
        }
    }

    pub(super) fn set_link(&self, link: LinkState) {
        let link = match link {
            LinkState::Up => UP,
            LinkState::Down => DOWN,
            LinkState::Gone => GONE,
        };
        self.link.store(link, Ordering::Release);
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        lock(&self.outcome).trouble = trouble;
    }

    pub(super) fn statistics(&self, place: usize) -> XdpStatistics {
        let SharedQueue { queue, counters, socket, .. } = &self.queues[place];
        let kernel = lock(socket).as_ref().and_then(|it| sys::statistics(it.as_fd()).ok());
        // After its privileges are given up a process may still look things up.
        let astray = lock(&self.filtering).program.astray(*queue).unwrap_or_default();
        XdpStatistics { astray, ..counters.read(*queue, kernel) }
    }
}

const GONE: u8 = 0;
const DOWN: u8 = 1;
const UP: u8 = 2;

impl SharedQueue {
    fn new(queue: u32) -> io::Result<SharedQueue> {
        Ok(SharedQueue {
            queue,
            counters: Counters::default(),
            generation: AtomicU64::new(0),
            next: Mutex::new(None),
            bell: Alarm::new()?,
            socket: Mutex::new(None),
        })
    }

    /// That socket is the present one.
    pub(super) fn set_socket(&self, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        let copy = socket.try_clone_to_owned().map_err(XdpError::system("a descriptor"))?;
        *lock(&self.socket) = Some(copy);
        Ok(())
    }
}

/// Wakes a sleeper.
#[derive(Debug)]
pub(super) struct Alarm(OwnedFd);

impl Alarm {
    pub(super) fn new() -> io::Result<Alarm> {
        Ok(Alarm(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(super) fn ring(&self) {
        // It can fail only when it has rung very often, and then the sleeper wakes as well.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    pub(super) fn silence(&self) {
        // It can fail only when it has not rung.
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What others hold is whole even if one of them has panicked: each change is one assignment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

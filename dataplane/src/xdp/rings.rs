//! One AF_XDP socket: its memory and its four rings, so that none of it can be used wrongly.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};

use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::error::XdpError;
use super::options::{XdpMode, XdpOptions};
use super::sys;

/// The right to one frame of one socket's memory: who has it may read and write there, and nobody else, the kernel
/// included. It cannot be copied; giving it to a ring gives it to the kernel.
#[derive(Debug)]
pub(super) struct Slot(FrameDesc);

/// The memory of a socket.
#[derive(Debug)]
pub(super) struct Memory(Umem);

/// The rings of a socket. Slots go in and come out; all are of its own memory.
#[derive(Debug)]
pub(super) struct Rings {
    send: TxQueue,
    received: RxQueue,
    fill: FillQueue,
    done: CompQueue,
    scratch: Vec<FrameDesc>,
    send_slots: u32,
}

/// A socket that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) memory: Memory,
    pub(super) rings: Rings,
    pub(super) slots: Vec<Slot>,
    pub(super) huge_pages: bool,
}

/// The usual size of a huge page. Memory is given back in whole ones only.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

impl Opened {
    /// Makes memory and a socket, and binds it to a queue.
    pub(super) fn open(
        options: &XdpOptions,
        queue: u32,
        mode: XdpMode,
    ) -> Result<Opened, XdpError> {
        let (memory, slots, huge_pages) = make_memory(options)?;
        let rings = bind(options, &memory, queue, mode)?;
        let mut opened = Opened { memory: Memory(memory), rings, slots, huge_pages };
        opened.rings.scratch = vec![opened.slots[0].0; options.batch as usize];
        let socket = opened.rings.socket();
        if let Some(packets) = options.send_budget {
            sys::set_send_budget(socket, packets).map_err(XdpError::system("the send budget"))?;
        }
        if let Some(busy_poll) = options.busy_poll {
            sys::set_busy_poll(socket, busy_poll).map_err(XdpError::system("busy polling"))?;
        }
        Ok(opened)
    }
}

fn make_memory(options: &XdpOptions) -> Result<(Umem, Vec<Slot>, bool), XdpError> {
    let bytes = u64::from(options.frames) * u64::from(options.frame_bytes);
    let size = |count| QueueSize::new(count).expect("checked: a power of two");
    let frames = NonZeroU32::new(options.frames).expect("checked: not 0");
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(options.frame_bytes).expect("checked: 2048 or 4096"))
        .fill_queue_size(size(options.frames))
        .comp_queue_size(size(options.frames))
        .build()
        .expect("checked: a power of two, and more than the headroom");
    let (made, huge_pages) = match bytes.is_multiple_of(HUGE_PAGE_BYTES) {
        true => match Umem::new(config, frames, true) {
            Ok(made) => (Ok(made), true),
            Err(_) => (Umem::new(config, frames, false), false),
        },
        false => (Umem::new(config, frames, false), false),
    };
    let (memory, frames) = made.map_err(|error| {
        let error = cause_of(&error);
        match error.raw_os_error() {
            Some(libc::ENOBUFS) => XdpError::Memlock(bytes),
            _ => XdpError::system("memory for AF_XDP")(error),
        }
    })?;
    Ok((memory, frames.into_iter().map(Slot).collect(), huge_pages))
}

fn bind(options: &XdpOptions, memory: &Umem, queue: u32, mode: XdpMode) -> Result<Rings, XdpError> {
    let size = |count| QueueSize::new(count).expect("checked: a power of two");
    let copy = match mode {
        XdpMode::Generic | XdpMode::Copy => BindFlags::XDP_COPY,
        XdpMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
    };
    let config = SocketConfig::builder()
        .rx_queue_size(size(options.frames / 2))
        .tx_queue_size(size(options.frames / 2))
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(copy | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let name: Interface = options.interface.parse().expect("checked: no 0 in it");
    // SAFETY: the memory is new, so that no other socket is bound to it, and no program is loaded.
    let opened = unsafe { Socket::new(config, memory, &name, queue) };
    let (send, received, others) = opened.map_err(|error| {
        let interface = options.interface.clone();
        let error = cause_of(&error);
        match error.raw_os_error() {
            Some(libc::EBUSY) => XdpError::QueueInUse { interface, queue },
            Some(libc::EINVAL) => XdpError::NoQueue { interface, queue, there_are: None },
            Some(libc::ENODEV) => XdpError::NoInterface(interface),
            _ => XdpError::system("an AF_XDP socket")(error),
        }
    })?;
    let (fill, done) = others.expect("the memory is new, so its rings are");
    let send_slots = options.frames / 2;
    Ok(Rings { send, received, fill, done, scratch: Vec::new(), send_slots })
}

fn cause_of(error: &dyn Error) -> io::Error {
    let cause = error.source().and_then(|it| it.downcast_ref::<io::Error>());
    match cause.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}

impl Memory {
    /// The packet in a frame.
    pub(super) fn packet<'a>(&'a self, slot: &'a Slot) -> &'a [u8] {
        // SAFETY: the slot is of this memory (`Opened` gives both, and its owner keeps them together), and the right
        // to its frame is borrowed, so that nobody writes there.
        unsafe { self.0.data(&slot.0) }.contents()
    }

    /// Writes a packet of `length` bytes to a frame, whose content is arbitrary before.
    ///
    /// # Panics
    /// If the frame is shorter.
    pub(super) fn write_packet<R>(
        &self,
        slot: &mut Slot,
        length: usize,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        // SAFETY: as in `packet`, and the right is ours alone.
        let mut data = unsafe { self.0.data_mut(&mut slot.0) };
        let mut cursor = data.cursor();
        cursor.set_pos(length);
        assert_eq!(cursor.pos(), length, "a packet longer than its frame");
        write(data.contents_mut())
    }
}

impl Rings {
    /// What has come, at most a batch.
    pub(super) fn receive(&mut self, into: &mut VecDeque<Slot>) -> usize {
        // SAFETY: the kernel gives back what it does not touch any more.
        let count = unsafe { self.received.consume(&mut self.scratch) };
        into.extend(self.scratch[..count].iter().map(|it| Slot(*it)));
        count
    }

    /// Whether something has come.
    pub(super) fn has_received(&mut self) -> bool {
        self.received.nb_avail(1) > 0
    }

    /// What was sent, at most a batch.
    pub(super) fn reap(&mut self, into: &mut Vec<Slot>) -> usize {
        // SAFETY: as in `receive`.
        let count = unsafe { self.done.consume(&mut self.scratch) };
        into.extend(self.scratch[..count].iter().map(|it| Slot(*it)));
        count
    }

    /// Gives the kernel frames for what is to come, as many as there are and there is room for.
    pub(super) fn fill(&mut self, from: &mut Vec<Slot>) -> usize {
        let mut total = 0;
        while !from.is_empty() {
            let most = u32::try_from(from.len().min(self.scratch.len())).expect("a batch");
            // The ring takes all of what it is given, or nothing.
            let count = self.fill.nb_free(most).min(most) as usize;
            let taken = from.drain(from.len() - count..);
            self.scratch.iter_mut().zip(taken).for_each(|(to, slot)| *to = slot.0);
            // SAFETY: these frames are of this memory, and the rights to them end here.
            let filled = unsafe { self.fill.produce(&self.scratch[..count]) };
            assert_eq!(filled, count, "there was room for all");
            if count == 0 {
                break;
            }
            total += count;
        }
        total
    }

    /// Gives the kernel packets to send, as many as there are and there is room for.
    pub(super) fn send(&mut self, from: &mut VecDeque<Slot>) -> usize {
        let mut total = 0;
        while !from.is_empty() {
            let most = u32::try_from(from.len().min(self.scratch.len())).expect("a batch");
            let count = self.send.nb_free(most).min(most) as usize;
            self.scratch.iter_mut().zip(from.drain(..count)).for_each(|(to, slot)| *to = slot.0);
            // SAFETY: as in `fill`.
            let sent = unsafe { self.send.produce(&self.scratch[..count]) };
            assert_eq!(sent, count, "there was room for all");
            if count == 0 {
                break;
            }
            total += count;
        }
        total
    }

    /// How many packets the kernel has not begun to send.
    pub(super) fn unsent(&mut self) -> u32 {
        self.send_slots - self.send.nb_free_exact()
    }

    /// Whether it must be told that there are some.
    pub(super) fn must_kick(&self) -> bool {
        self.send.needs_wakeup()
    }

    /// Whether it must be told that there are frames for what is to come.
    pub(super) fn must_poke(&self) -> bool {
        self.fill.needs_wakeup()
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open as long as its rings are there, and they are borrowed.
        unsafe { BorrowedFd::borrow_raw(self.received.fd().as_raw_fd()) }
    }
}

//! What a NIC queue has counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a NIC queue has counted since its interface was opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct XdpStatistics {
    /// Which it is.
    pub queue: u32,
    /// Packets received.
    pub received: u64,
    /// Packets given to the kernel to be sent.
    pub sent: u64,
    /// Packets not sent because all frames were on their way.
    pub no_frame: u64,
    /// Packets not sent because the kernel does not know where their receiver is.
    pub no_neighbour: u64,
    /// Packets not sent because the link was down.
    pub link_down: u64,
    /// System calls to have the kernel send.
    pub send_wake_ups: u64,
    /// System calls to have the kernel take up frames for what is to come.
    pub receive_wake_ups: u64,
    /// System calls to have the kernel poll the interface.
    pub busy_polls: u64,
    /// Turns after which the kernel had not begun to send all.
    pub send_delays: u64,
    /// Packets that the kernel dropped because we had not taken those before.
    pub ring_full: u64,
    /// Packets that the kernel dropped because it had no frame for them.
    pub fill_empty: u64,
    /// Packets that the kernel dropped for another reason: they are longer than a frame.
    pub dropped: u64,
    /// Descriptors that the kernel would not have. There should be none.
    pub invalid: u64,
    /// Packets for this queue's ports that came by another NIC queue, and were dropped there.
    pub astray: u64,
    /// How often the socket was opened again.
    pub reopened: u64,
}

/// A count with one thread that adds, and any that read.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        // Nobody else writes, so this needs no atomic addition, which is dear.
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the thread of a NIC queue counts. Each is as in [`XdpStatistics`]; those of the kernel are of the sockets
/// before the present one.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) received: Counter,
    pub(super) sent: Counter,
    pub(super) no_frame: Counter,
    pub(super) no_neighbour: Counter,
    pub(super) link_down: Counter,
    pub(super) send_wake_ups: Counter,
    pub(super) receive_wake_ups: Counter,
    pub(super) busy_polls: Counter,
    pub(super) send_delays: Counter,
    pub(super) ring_full: Counter,
    pub(super) fill_empty: Counter,
    pub(super) dropped: Counter,
    pub(super) invalid: Counter,
    pub(super) reopened: Counter,
}

impl Counters {
    /// That socket is closed; what the kernel has counted of it remains.
    pub(super) fn keep(&self, kernel: &libc::xdp_statistics) {
        self.ring_full.add(kernel.rx_ring_full);
        self.fill_empty.add(kernel.rx_fill_ring_empty_descs);
        self.dropped.add(kernel.rx_dropped);
        self.invalid.add(kernel.rx_invalid_descs + kernel.tx_invalid_descs);
    }

    /// What was counted so far, and what the kernel counts of the present socket.
    pub(super) fn read(&self, queue: u32, kernel: Option<libc::xdp_statistics>) -> XdpStatistics {
        let of_kernel = |count: fn(&libc::xdp_statistics) -> u64| kernel.as_ref().map_or(0, count);
        XdpStatistics {
            queue,
            received: self.received.get(),
            sent: self.sent.get(),
            no_frame: self.no_frame.get(),
            no_neighbour: self.no_neighbour.get(),
            link_down: self.link_down.get(),
            send_wake_ups: self.send_wake_ups.get(),
            receive_wake_ups: self.receive_wake_ups.get(),
            busy_polls: self.busy_polls.get(),
            send_delays: self.send_delays.get(),
            ring_full: self.ring_full.get() + of_kernel(|it| it.rx_ring_full),
            fill_empty: self.fill_empty.get() + of_kernel(|it| it.rx_fill_ring_empty_descs),
            dropped: self.dropped.get() + of_kernel(|it| it.rx_dropped),
            invalid: self.invalid.get() + of_kernel(|it| it.rx_invalid_descs + it.tx_invalid_descs),
            astray: 0,
            reopened: self.reopened.get(),
        }
    }
}

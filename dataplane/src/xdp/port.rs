//! One NIC queue as a [`Port`]: what comes by it and goes out by it.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use super::error::XdpError;
use super::interface::Handle;
use super::ledger::Ledger;
use super::neighbours::Neighbours;
use super::options::{ETHERNET_BYTES, LinkState};
use super::rings::{Memory, Opened, Rings, Slot};
use super::shared::{Shared, SharedQueue, lock};
use super::statistics::{Counters, XdpStatistics};
use super::sys;
use crate::port::Port;

/// One NIC queue, with memory of its own. It belongs to one thread at a time.
///
/// When the interface is gone and made again, a new socket takes the place of the old one at a
/// [`flush`](Port::flush); what was on its way then is lost, as on any link.
#[derive(Debug)]
pub struct XdpPort {
    memory: Memory,
    state: RefCell<State>,
    handle: Arc<Handle>,
    /// Which of the shared queues is its.
    place: usize,
}

#[derive(Debug)]
struct State {
    rings: Rings,
    ledger: Ledger<Slot>,
    /// Which socket it is, by number.
    generation: u64,
    neighbours: Arc<Neighbours>,
    neighbours_version: u64,
    /// Since the last flush the kernel was asked to poll the interface.
    has_polled: bool,
}

const HEADER_BYTES: usize = ETHERNET_BYTES as usize;

/// System calls of one flush to have the kernel send. What it has not begun to send then waits for the next.
const KICKS_PER_FLUSH: usize = 16;

impl XdpPort {
    pub(super) fn new(
        handle: Arc<Handle>,
        place: usize,
        opened: Opened,
    ) -> Result<XdpPort, XdpError> {
        let Opened { memory, rings, slots, .. } = opened;
        handle.shared.queues[place].set_socket(rings.socket())?;
        let mut state = State {
            rings,
            ledger: Ledger::new(slots),
            generation: 0,
            neighbours: Arc::default(),
            neighbours_version: 0,
            has_polled: false,
        };
        state.refill(&handle.shared.queues[place].counters);
        Ok(XdpPort { memory, state: RefCell::new(state), handle, place })
    }

    /// Which NIC queue it is.
    pub fn queue(&self) -> u32 {
        self.shared_queue().queue
    }

    /// What was counted so far.
    pub fn statistics(&self) -> XdpStatistics {
        self.shared().statistics(self.place)
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    fn shared_queue(&self) -> &SharedQueue {
        &self.handle.shared.queues[self.place]
    }

    fn counters(&self) -> &Counters {
        &self.shared_queue().counters
    }

    /// Takes a new socket in the place of the old one, if there is one.
    fn follow(&mut self) {
        let queue = &self.handle.shared.queues[self.place];
        let generation = queue.generation.load(Ordering::Acquire);
        if generation == self.state.get_mut().generation {
            return;
        }
        let state = self.state.get_mut();
        state.generation = generation;
        queue.bell.silence();
        // If it was taken before, with one that had just been left.
        let Some(opened) = lock(&queue.next).take() else { return };
        let Opened { memory, rings, slots, .. } = opened;
        if let Ok(kernel) = sys::statistics(state.rings.socket()) {
            queue.counters.keep(&kernel);
        }
        // Without a copy of its descriptor nobody hears what the kernel counts; the rest works.
        let _ = queue.set_socket(rings.socket());
        queue.counters.reopened.add(1);
        state.rings = rings;
        state.ledger = Ledger::new(slots);
        self.memory = memory;
    }
}

impl Drop for XdpPort {
    fn drop(&mut self) {
        *lock(&self.shared_queue().socket) = None;
    }
}

impl State {
    /// Gives the kernel every frame that is kept for packets to come.
    fn refill(&mut self, counters: &Counters) {
        let ledger = &mut self.ledger;
        if !ledger.to_fill.is_empty() {
            ledger.filling += self.rings.fill(&mut ledger.to_fill);
        }
        if self.rings.must_poke() {
            counters.receive_wake_ups.add(1);
            // What is wrong with the link its news says.
            let _ = sys::poke(self.rings.socket());
        }
    }

    /// Takes what has come, a batch.
    fn receive(&mut self, counters: &Counters) {
        let count = self.rings.receive(&mut self.ledger.received);
        self.ledger.filling -= count;
        counters.received.add(count as u64);
    }

    /// Takes back what was sent.
    fn reap(&mut self) {
        // No more than there are frames.
        while self.ledger.sending > 0 {
            let count = self.rings.reap(&mut self.ledger.free);
            self.ledger.sending -= count;
            if count == 0 {
                return;
            }
        }
    }

    /// Gives the kernel what is to be sent, and has it begin.
    fn send(&mut self, counters: &Counters, link: LinkState) {
        let ledger = &mut self.ledger;
        if link != LinkState::Up {
            counters.link_down.add(ledger.to_send.len() as u64);
            ledger.free.extend(ledger.to_send.drain(..));
            return;
        }
        let sent = self.rings.send(&mut ledger.to_send);
        ledger.sending += sent;
        counters.sent.add(sent as u64);
        let mut unsent = if ledger.sending > 0 { self.rings.unsent() } else { 0 };
        for _ in 0..KICKS_PER_FLUSH {
            if unsent == 0 || !self.rings.must_kick() {
                return;
            }
            counters.send_wake_ups.add(1);
            // It sends a number of packets in each call, and fewer when the interface has no room.
            let _ = sys::kick(self.rings.socket());
            let left = self.rings.unsent();
            if left == unsent {
                break;
            }
            unsent = left;
        }
        counters.send_delays.add(u64::from(unsent > 0));
    }

    fn follow_neighbours(&mut self, shared: &Shared) {
        if let Some(neighbours) = shared.board.newer_than(&mut self.neighbours_version) {
            self.neighbours = neighbours;
        }
    }
}

impl Device for XdpPort {
    type RxToken<'a> = XdpRxToken<'a>;
    type TxToken<'a> = XdpTxToken<'a>;

    /// A packet that has come, if it could be answered: the tokens are given together, and a packet waits until there
    /// is a frame for what it brings about.
    fn receive(&mut self, _now: Instant) -> Option<(XdpRxToken<'_>, XdpTxToken<'_>)> {
        let counters = &self.handle.shared.queues[self.place].counters;
        let state = self.state.get_mut();
        if state.ledger.received.is_empty() {
            state.receive(counters);
        }
        let polls = self.handle.shared.options.busy_poll.is_some();
        if state.ledger.received.is_empty() && polls && !state.has_polled {
            state.has_polled = true;
            counters.busy_polls.add(1);
            let _ = sys::poke(state.rings.socket());
            state.receive(counters);
        }
        if state.ledger.free.is_empty() {
            state.reap();
        }
        let both = !state.ledger.received.is_empty() && !state.ledger.free.is_empty();
        both.then_some((XdpRxToken { port: self }, XdpTxToken { port: self }))
    }

    /// Always a token: a stack may wait for ever when it gets none. Who asks for [`room`](Port::room) before finds a
    /// frame; else the packet is lost and counted.
    fn transmit(&mut self, _now: Instant) -> Option<XdpTxToken<'_>> {
        Some(XdpTxToken { port: self })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.shared().mtu as usize;
        if !self.shared().options.verify {
            capabilities.checksum.tcp = phy::Checksum::Tx;
            capabilities.checksum.ipv4 = phy::Checksum::Tx;
        }
        capabilities
    }
}

impl Port for XdpPort {
    fn has_received(&self) -> bool {
        let mut state = self.state.borrow_mut();
        !state.ledger.received.is_empty() || state.rings.has_received()
    }

    fn room(&mut self) -> usize {
        let state = self.state.get_mut();
        // What was sent is taken back in a flush, and here when little is left.
        if state.ledger.free.len() < ROOM_AMPLE {
            state.reap();
        }
        state.ledger.free.len()
    }

    /// None that would leave: a link that is down keeps what it has.
    fn has_unsent(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let is_up = self.shared().link() == LinkState::Up;
        is_up && state.ledger.sending > 0 && state.rings.unsent() > 0
    }

    fn flush(&mut self) {
        self.follow();
        let shared = &*self.handle.shared;
        let counters = &shared.queues[self.place].counters;
        let state = self.state.get_mut();
        state.has_polled = false;
        state.reap();
        state.send(counters, shared.link());
        state.refill(counters);
        state.ledger.assert_conserved();
    }

    fn descriptor(&self) -> Option<RawFd> {
        let queue = self.shared_queue();
        // The socket of an interface that is gone is always ready, for an error.
        if self.shared().link() == LinkState::Gone {
            return Some(queue.bell.as_fd().as_raw_fd());
        }
        Some(self.state.borrow().rings.socket().as_raw_fd())
    }
}

/// As many as a stack sends in one turn.
const ROOM_AMPLE: usize = 512;

/// The right to read one packet. Its frame is taken at [`consume`](phy::RxToken::consume): a token that is dropped
/// leaves the packet where it was.
#[derive(Debug)]
pub struct XdpRxToken<'a> {
    port: &'a XdpPort,
}

impl phy::RxToken for XdpRxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let frame = self.port.state.borrow_mut().ledger.take_received();
        let frame = frame.expect("a token is given for a waiting packet");
        // Not borrowed here: the reader may send its answer before it returns.
        let packet = self.port.memory.packet(&frame);
        let result = read(packet.get(HEADER_BYTES..).unwrap_or_default());
        self.port.state.borrow_mut().ledger.give_back_received(frame);
        result
    }
}

/// The right to send one packet. Its frame is taken at [`consume`](phy::TxToken::consume).
#[derive(Debug)]
pub struct XdpTxToken<'a> {
    port: &'a XdpPort,
}

impl phy::TxToken for XdpTxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let port = self.port;
        let mut state = port.state.borrow_mut();
        if state.ledger.free.is_empty() {
            state.reap();
        }
        let Some(mut frame) = state.ledger.take_free() else {
            drop(state);
            port.counters().no_frame.add(1);
            return write(&mut vec![0; length]);
        };
        state.follow_neighbours(port.shared());
        drop(state);
        let (result, has_address) =
            port.memory.write_packet(&mut frame, HEADER_BYTES + length, |whole| {
                let (header, packet) = whole.split_at_mut(HEADER_BYTES);
                let result = write(packet);
                (result, port.state.borrow().neighbours.address(packet, header))
            });
        let mut state = port.state.borrow_mut();
        if has_address {
            state.ledger.give_to_send(frame);
        } else {
            state.ledger.give_back_free(frame);
            port.counters().no_neighbour.add(1);
        }
        result
    }
}

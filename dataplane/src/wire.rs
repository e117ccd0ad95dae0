//! A link in memory: two ends, a ring of frames in each direction, one pool for both.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::rc::Rc;

use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::pool::{Frame, FramePool};
use crate::port::Port;

/// How a wire behaves.
#[derive(Clone, Copy, Debug)]
pub struct WireOptions {
    /// Whether packets begin with an Ethernet header or with IP.
    pub medium: Medium,
    /// The longest packet, and the size of a frame.
    pub frame_bytes: usize,
    /// Frames that wait at each end. At the bound what is sent there is lost, as on a veth ring.
    pub ring_frames: usize,
    /// The chance, in parts per million, that a packet is lost on the way.
    pub loss_ppm: u32,
    /// Likewise, that it arrives twice, if there is room.
    pub duplicate_ppm: u32,
    /// Likewise, that it arrives before one that was sent earlier and still waits.
    pub reorder_ppm: u32,
    /// Likewise, that one of its bits is another.
    pub corrupt_ppm: u32,
    /// Seeds the draws of all these.
    pub seed: u64,
}

impl Default for WireOptions {
    /// Ethernet at its usual size, the ring of a veth, no loss.
    fn default() -> WireOptions {
        WireOptions {
            medium: Medium::Ethernet,
            frame_bytes: 1514,
            ring_frames: 256,
            loss_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            corrupt_ppm: 0,
            seed: 0,
        }
    }
}

/// Two ends of a new wire. They belong to one thread.
pub fn wire(options: WireOptions) -> (WireEnd, WireEnd) {
    assert!(options.ring_frames > 0 && options.frame_bytes > 0);
    // Both rings full, and at each end one frame being read and one being written: so there is
    // always one to write to. (smoltcp may stall for ever when refused one at a retransmission.)
    let total = 2 * options.ring_frames + 2 * FRAMES_LENT_PER_END_MAX;
    let shared = Rc::new(RefCell::new(Shared {
        pool: FramePool::new(total, options.frame_bytes),
        rings: [VecDeque::new(), VecDeque::new()],
        lent: 0,
        rng: fastrand::Rng::with_seed(options.seed),
        options,
        statistics: [WireStatistics::default(); 2],
    }));
    (WireEnd { shared: Rc::clone(&shared), side: 0 }, WireEnd { shared, side: 1 })
}

/// One end of a wire.
#[derive(Debug)]
pub struct WireEnd {
    shared: Rc<RefCell<Shared>>,
    side: usize,
}

/// What passed one end.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WireStatistics {
    /// Packets sent here, those lost included.
    pub sent: u64,
    /// Packets received here.
    pub received: u64,
    /// Packets sent here that were drawn to be lost.
    pub lost: u64,
    /// Packets sent here that found the other end's ring full.
    pub overrun: u64,
    /// Packets sent here that were drawn to arrive twice, or early, or altered.
    pub troubled: u64,
}

#[derive(Debug)]
struct Shared {
    pool: FramePool,
    /// `rings[side]` waits to be received at that side.
    rings: [VecDeque<Frame>; 2],
    /// Frames that tokens hold at this moment.
    lent: usize,
    rng: fastrand::Rng,
    options: WireOptions,
    statistics: [WireStatistics; 2],
}

impl WireEnd {
    /// What passed this end so far.
    pub fn statistics(&self) -> WireStatistics {
        self.shared.borrow().statistics[self.side]
    }

    /// How many packets wait to be received here.
    pub fn waiting(&self) -> usize {
        self.shared.borrow().rings[self.side].len()
    }

    /// From now on so many packets of a million are lost, in both directions.
    pub fn set_loss_ppm(&self, loss_ppm: u32) {
        self.shared.borrow_mut().options.loss_ppm = loss_ppm;
    }

    fn tx_token(&self) -> WireTxToken<'_> {
        WireTxToken { shared: &self.shared, side: self.side }
    }
}

impl Device for WireEnd {
    type RxToken<'a> = WireRxToken<'a>;
    type TxToken<'a> = WireTxToken<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(WireRxToken<'_>, WireTxToken<'_>)> {
        if self.waiting() == 0 {
            return None;
        }
        Some((WireRxToken { shared: &self.shared, side: self.side }, self.tx_token()))
    }

    fn transmit(&mut self, _now: Instant) -> Option<WireTxToken<'_>> {
        Some(self.tx_token())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let options = self.shared.borrow().options;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = options.medium;
        capabilities.max_transmission_unit = options.frame_bytes;
        capabilities
    }
}

impl Port for WireEnd {
    fn has_received(&self) -> bool {
        self.waiting() > 0
    }

    /// A full ring loses what comes; there is always a frame to write it to.
    fn room(&mut self) -> usize {
        usize::MAX
    }

    fn has_unsent(&self) -> bool {
        false
    }

    fn flush(&mut self) {}

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

/// The right to receive one packet. Its frame is taken at [`consume`](phy::RxToken::consume): a
/// token that is dropped leaves the packet where it was.
#[derive(Debug)]
pub struct WireRxToken<'a> {
    shared: &'a RefCell<Shared>,
    side: usize,
}

impl phy::RxToken for WireRxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let frame = self.shared.borrow_mut().begin_receive(self.side);
        // Not borrowed here: the reader may send its answer before it returns.
        let result = read(frame.packet());
        self.shared.borrow_mut().end_receive(self.side, frame);
        result
    }
}

/// The right to send one packet. Its frame is taken at [`consume`](phy::TxToken::consume).
#[derive(Debug)]
pub struct WireTxToken<'a> {
    shared: &'a RefCell<Shared>,
    side: usize,
}

impl phy::TxToken for WireTxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = self.shared.borrow_mut().begin_send();
        let result = write(frame.packet_mut(length));
        self.shared.borrow_mut().end_send(self.side, frame);
        result
    }
}

impl Shared {
    fn begin_receive(&mut self, side: usize) -> Frame {
        let frame = self.rings[side].pop_front().expect("a token is given for a waiting packet");
        self.lend();
        frame
    }

    fn end_receive(&mut self, side: usize, frame: Frame) {
        self.statistics[side].received += 1;
        self.lent -= 1;
        self.pool.give_back(frame);
        self.assert_conserved();
    }

    fn begin_send(&mut self) -> Frame {
        let frame = self.pool.take().expect("the pool holds full rings and all tokens");
        self.lend();
        frame
    }

    fn end_send(&mut self, side: usize, mut frame: Frame) {
        self.lent -= 1;
        let lost = self.draw(self.options.loss_ppm);
        if self.draw(self.options.corrupt_ppm) && !frame.packet().is_empty() {
            let at = self.rng.usize(..frame.packet().len());
            let length = frame.packet().len();
            frame.packet_mut(length)[at] ^= 1 << self.rng.u32(..8);
            self.statistics[side].troubled += 1;
        }
        let full = self.rings[1 - side].len() >= self.options.ring_frames;
        let statistics = &mut self.statistics[side];
        statistics.sent += 1;
        if lost {
            statistics.lost += 1;
            self.pool.give_back(frame);
        } else if full {
            statistics.overrun += 1;
            self.pool.give_back(frame);
        } else {
            self.arrive(side, frame);
        }
        self.assert_conserved();
    }

    /// A packet arrives at the other end, perhaps twice or before another one.
    fn arrive(&mut self, side: usize, frame: Frame) {
        let twice = self.draw(self.options.duplicate_ppm);
        let early = self.draw(self.options.reorder_ppm);
        let ring = &mut self.rings[1 - side];
        if twice && ring.len() + 1 < self.options.ring_frames {
            let mut copy = self.pool.take().expect("the pool holds full rings and all tokens");
            copy.packet_mut(frame.packet().len()).copy_from_slice(frame.packet());
            ring.push_back(copy);
            self.statistics[side].troubled += 1;
        }
        if early && !ring.is_empty() {
            ring.insert(self.rng.usize(..ring.len()), frame);
            self.statistics[side].troubled += 1;
        } else {
            ring.push_back(frame);
        }
    }

    fn draw(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.rng.u32(0..1_000_000) < ppm
    }

    fn lend(&mut self) {
        self.lent += 1;
        assert!(self.lent <= 2 * FRAMES_LENT_PER_END_MAX, "more tokens at once than there can be");
        self.assert_conserved();
    }

    fn assert_conserved(&self) {
        self.pool.assert_conserved(self.rings[0].len() + self.rings[1].len() + self.lent);
    }
}

/// A device hands out one receive and one send token at once.
const FRAMES_LENT_PER_END_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::phy::{RxToken, TxToken};

    const NOW: Instant = Instant::ZERO;

    #[test]
    fn packets_arrive_in_order_and_only_at_the_other_end() {
        let (mut a, mut b) = wire(WireOptions::default());
        send(&mut a, b"one");
        send(&mut a, b"two");
        assert!(a.receive(NOW).is_none());
        assert_eq!(receive(&mut b), Some(b"one".to_vec()));
        assert_eq!(receive(&mut b), Some(b"two".to_vec()));
        assert_eq!(receive(&mut b), None);
        assert_eq!(b.statistics().received, 2);
    }

    #[test]
    fn a_token_that_is_dropped_leaves_the_packet() {
        let (mut a, mut b) = wire(WireOptions::default());
        send(&mut a, b"still here");
        for _ in 0..1_000 {
            assert!(b.receive(NOW).is_some());
            assert!(a.transmit(NOW).is_some());
        }
        assert_eq!(receive(&mut b), Some(b"still here".to_vec()));
    }

    #[test]
    fn an_answer_can_be_sent_while_the_packet_is_read() {
        let (mut a, mut b) = wire(WireOptions::default());
        send(&mut a, b"ping");
        let (rx, tx) = b.receive(NOW).unwrap();
        rx.consume(|packet| tx.consume(packet.len(), |answer| answer.copy_from_slice(packet)));
        assert_eq!(receive(&mut a), Some(b"ping".to_vec()));
    }

    #[test]
    fn a_full_ring_loses_what_comes_and_counts_it() {
        let (mut a, mut b) = wire(WireOptions { ring_frames: 2, ..WireOptions::default() });
        for byte in 0..5_u8 {
            send(&mut a, &[byte]);
        }
        let statistics = a.statistics();
        assert_eq!((statistics.sent, statistics.overrun, b.waiting()), (5, 3, 2));
        // Both full, and there is still a frame to write to and to read from at once.
        send(&mut b, b"x");
        send(&mut b, b"y");
        let (rx, tx) = b.receive(NOW).unwrap();
        rx.consume(|_| tx.consume(1, |packet| packet[0] = 9));
        assert_eq!(receive(&mut b), Some(vec![1]));
    }

    #[test]
    fn the_same_seed_loses_the_same_packets() {
        let arrived = |seed| {
            let (mut a, mut b) =
                wire(WireOptions { loss_ppm: 500_000, seed, ..WireOptions::default() });
            (0..100_u8).for_each(|byte| send(&mut a, &[byte]));
            let lost = usize::try_from(a.statistics().lost).unwrap();
            let arrived: Vec<Vec<u8>> = std::iter::from_fn(|| receive(&mut b)).collect();
            assert_eq!(arrived.len() + lost, 100);
            arrived
        };
        let first = arrived(1);
        assert!(first.len() > 20 && first.len() < 80);
        assert_eq!(first, arrived(1));
        assert_ne!(first, arrived(2));
    }

    #[test]
    fn packets_may_come_twice_early_or_altered() {
        let troubled = |options: WireOptions| {
            let (mut a, mut b) = wire(options);
            (0..100_u8).for_each(|byte| send(&mut a, &[byte]));
            let arrived: Vec<u8> = std::iter::from_fn(|| receive(&mut b)).map(|it| it[0]).collect();
            (arrived, a.statistics().troubled)
        };
        let options = WireOptions::default();
        let (arrived, count) = troubled(WireOptions { duplicate_ppm: 300_000, ..options });
        assert!(count > 10 && arrived.len() > 110 && arrived.is_sorted());
        let (mut arrived, count) = troubled(WireOptions { reorder_ppm: 300_000, ..options });
        assert!(count > 10 && !arrived.is_sorted());
        arrived.sort_unstable();
        assert_eq!(arrived, (0..100).collect::<Vec<u8>>());
        let (arrived, count) = troubled(WireOptions { corrupt_ppm: 300_000, ..options });
        let altered = arrived.iter().zip(0..100).filter(|(byte, sent)| **byte != *sent).count();
        assert!(count > 10 && u64::try_from(altered).unwrap() == count);
    }

    fn send(end: &mut WireEnd, packet: &[u8]) {
        let token = end.transmit(NOW).unwrap();
        token.consume(packet.len(), |memory| memory.copy_from_slice(packet));
    }

    fn receive(end: &mut WireEnd) -> Option<Vec<u8>> {
        let (token, _) = end.receive(NOW)?;
        Some(token.consume(<[u8]>::to_vec))
    }
}

//! A network card's queue on a simulated host: what a userspace stack sends and receives packets by.

use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;

use dataplane::Port;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};

use super::engine::Engine;

/// A [`Port`] on the simulated Ethernet. [`SimNetwork::attach`](super::SimNetwork::attach) makes one.
#[derive(Debug)]
pub struct SimPort {
    engine: Rc<RefCell<Engine>>,
    number: usize,
}

/// The right to take the first packet of a port's ring. One that is dropped leaves it there.
#[derive(Debug)]
pub struct SimRxToken<'p>(&'p SimPort);

/// The right to send a packet.
#[derive(Debug)]
pub struct SimTxToken<'p>(&'p SimPort);

impl SimPort {
    pub(super) fn new(engine: Rc<RefCell<Engine>>, number: usize) -> SimPort {
        SimPort { engine, number }
    }
}

impl Device for SimPort {
    type RxToken<'p> = SimRxToken<'p>;
    type TxToken<'p> = SimTxToken<'p>;

    fn receive(
        &mut self,
        _now: smoltcp::time::Instant,
    ) -> Option<(SimRxToken<'_>, SimTxToken<'_>)> {
        self.has_received().then_some((SimRxToken(self), SimTxToken(self)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<SimTxToken<'_>> {
        Some(SimTxToken(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.engine.borrow().options.wire.packet_bytes_max;
        capabilities
    }
}

impl Port for SimPort {
    fn has_received(&self) -> bool {
        self.engine.borrow().ethernet.has_received(self.number)
    }

    /// What is sent is on its way at once: rings are only where packets are received.
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

impl RxToken for SimRxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let packet = self.0.engine.borrow_mut().ethernet.receive(self.0.number);
        // The network is not borrowed here: whoever reads may send an answer.
        read(&packet.expect("there was one when the token was given"))
    }
}

impl TxToken for SimTxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.engine.borrow_mut().send_packet(self.0.number, packet);
        result
    }
}

impl Drop for SimPort {
    fn drop(&mut self) {
        // While a panic unwinds the network may be borrowed; nobody will use it then.
        if let Ok(mut engine) = self.engine.try_borrow_mut() {
            engine.ethernet.detach(self.number);
        }
    }
}

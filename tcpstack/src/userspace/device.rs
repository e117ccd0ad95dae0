//! What smoltcp is given as its device: one packet that has come for one peer's interface, or the way out.
//! What goes out is noted in the peer's flows.

use std::cell::RefCell;

use smoltcp::phy::{Device, DeviceCapabilities, PacketMeta, RxToken, TxToken};

use super::flows::Flows;
use crate::time::Instant;

/// One packet that has come, and the right to answer it at once.
pub(super) struct Incoming<'p, T> {
    packet: Option<&'p [u8]>,
    answer: Option<T>,
    flows: &'p RefCell<Flows>,
    now: Instant,
    capabilities: &'p DeviceCapabilities,
}

impl<'p, T> Incoming<'p, T> {
    pub(super) fn new(
        packet: &'p [u8],
        answer: T,
        flows: &'p RefCell<Flows>,
        now: Instant,
        capabilities: &'p DeviceCapabilities,
    ) -> Incoming<'p, T> {
        Incoming { packet: Some(packet), answer: Some(answer), flows, now, capabilities }
    }
}

impl<'p, T: TxToken> Device for Incoming<'p, T> {
    type RxToken<'a>
        = Packet<'p>
    where
        Self: 'a;
    type TxToken<'a>
        = Noted<'p, T>
    where
        Self: 'a;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Packet<'p>, Noted<'p, T>)> {
        let packet = Packet(self.packet.take()?);
        let token = self.answer.take()?;
        Some((packet, Noted { token, flows: self.flows, now: self.now }))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Noted<'p, T>> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

/// The way out.
pub(super) struct Outgoing<'d, D> {
    pub(super) device: &'d mut D,
    pub(super) flows: &'d RefCell<Flows>,
    pub(super) now: Instant,
    pub(super) capabilities: &'d DeviceCapabilities,
}

impl<'d, D: Device> Device for Outgoing<'d, D> {
    type RxToken<'a>
        = Packet<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Noted<'a, D::TxToken<'a>>
    where
        Self: 'a;

    fn receive(
        &mut self,
        _now: smoltcp::time::Instant,
    ) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        None
    }

    fn transmit(&mut self, now: smoltcp::time::Instant) -> Option<Self::TxToken<'_>> {
        let token = self.device.transmit(now)?;
        Some(Noted { token, flows: self.flows, now: self.now })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

/// A packet that lies in a frame of the device.
pub(super) struct Packet<'p>(&'p [u8]);

impl RxToken for Packet<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// The right to send a packet, which is noted then.
pub(super) struct Noted<'p, T> {
    token: T,
    flows: &'p RefCell<Flows>,
    now: Instant,
}

impl<T: TxToken> TxToken for Noted<'_, T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        self.token.consume(length, |memory| {
            let result = write(memory);
            self.flows.borrow_mut().handle_sent(self.now, memory);
            result
        })
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.token.set_meta(meta);
    }
}

//! Frames between a link and memory: what stands below TCP.
//!
//! A *frame* is a slot of memory of fixed size, a *packet* is what lies in it. Frames come from a
//! [`FramePool`] and go back there; none is made or lost while the program runs.
//!
//! [`wire()`] joins two [`WireEnd`]s in memory. Each is a smoltcp
//! [`Device`](smoltcp::phy::Device), so that two userspace stacks can talk in one process, without
//! privileges and in virtual time. A [`Port`] is a device that can be waited for.
//!
//! `xdp` (cargo feature of that name) has the ports of real interfaces: NIC queues by AF_XDP.

#![deny(unsafe_code)]

mod pool;
mod port;
mod wire;
#[cfg(feature = "xdp")]
pub mod xdp;

pub use pool::{Frame, FramePool};
pub use port::Port;
pub use wire::{WireEnd, WireOptions, WireRxToken, WireStatistics, WireTxToken, wire};

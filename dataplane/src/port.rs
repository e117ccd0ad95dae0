//! What a userspace TCP stack needs of a link, besides packets.

use std::os::fd::RawFd;

use smoltcp::phy::Device;

/// A device whose packets begin with IP, and that can be waited for.
pub trait Port: Device {
    /// Whether a packet could be received now.
    fn has_received(&self) -> bool;

    /// How many packets can be sent now for which there is certainly a place. What is sent beyond is lost.
    fn room(&mut self) -> usize;

    /// Whether something that was flushed has not begun to leave, so that another flush is needed, soon.
    fn has_unsent(&self) -> bool;

    /// Sees to it that what was sent leaves, for links that gather.
    fn flush(&mut self);

    /// A descriptor that becomes readable when a packet has come. `None` where there is no such
    /// thing (a wire in memory). It may be another one after a `flush`.
    fn descriptor(&self) -> Option<RawFd>;
}

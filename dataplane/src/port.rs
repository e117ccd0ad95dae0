//! What a userspace TCP stack needs of a link, besides packets.

use std::os::fd::RawFd;

use smoltcp::phy::Device;

/// A device whose packets begin with IP, and that can be waited for.
pub trait Port: Device {
    /// Whether a packet could be received now.
    fn has_received(&self) -> bool;

    /// Sees to it that what was sent leaves, for links that gather.
    fn flush(&mut self);

    /// A descriptor that becomes readable when a packet has come. `None` where there is no such
    /// thing (a wire in memory).
    fn descriptor(&self) -> Option<RawFd>;
}

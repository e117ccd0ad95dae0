//! TCP of the links between gateways and backup queue servers: by the kernel, or by this process on NIC queues of
//! its own (AF_XDP), as the operator chooses and the machine allows.
//!
//! [`open_links`] makes a [`LinkTransport`] for each thread that has links. Where the bypass is built, that is a
//! [`SegmentTransport`], which has the kernel's TCP beside it: for addresses and peers that are on no segment of
//! ours, for everything when the bypass cannot be used, and for the thread's [`Waker`](crate::Waker).

mod open;
#[cfg(feature = "userspace")]
mod segments;
mod steering;

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

pub use self::open::{OpenLinks, keep_link_privileges, open_links, source_for};
#[cfg(feature = "userspace")]
pub use self::segments::{LinkPort, Segment, SegmentTransport};
pub use self::steering::{LinkSteering, set_link_peers};

/// TCP of a thread that has links.
#[cfg(feature = "xdp")]
pub type LinkTransport = SegmentTransport<dataplane::xdp::XdpPort>;

/// TCP of a thread that has links: the bypass is not built.
#[cfg(not(feature = "xdp"))]
pub type LinkTransport = crate::KernelTransport;

/// Network segments of one machine over which links may bypass the kernel: the active and the standby path.
pub const SEGMENTS_MAX: usize = 2;

/// Local ports of one NIC queue. A power of two, and each block begins at a multiple of it, so that a card tells the
/// blocks apart by a mask.
pub const PORT_BLOCK: u16 = 64;

/// Whether this program can bypass the kernel at all.
pub const IS_BYPASS_BUILT: bool = cfg!(feature = "xdp");

/// What is said where the bypass is wanted and not built.
pub const NOT_BUILT: &str = "this program was built without AF_XDP (cargo feature `afxdp`): links can only go by the kernel";

/// Which TCP links use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkChoice {
    /// The kernel's.
    Kernel,
    /// This process's, over AF_XDP; without that the program does not start.
    Afxdp,
    /// The same where it can be opened, else the kernel's.
    Auto,
}

impl LinkChoice {
    /// As settings call them, the default first.
    pub const NAMES: [(&str, LinkChoice); 3] =
        [("kernel", LinkChoice::Kernel), ("afxdp", LinkChoice::Afxdp), ("auto", LinkChoice::Auto)];
}

/// How packets get from a NIC queue to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkMode {
    /// The best that the driver can do.
    Auto,
    /// In the driver, without a copy.
    ZeroCopy,
    /// In the driver, with a copy.
    Copy,
    /// Behind the kernel's own receive path: with every driver.
    Generic,
}

impl LinkMode {
    /// As settings call them, the default first.
    pub const NAMES: [(&str, LinkMode); 4] = [
        ("auto", LinkMode::Auto),
        ("zero-copy", LinkMode::ZeroCopy),
        ("copy", LinkMode::Copy),
        ("generic", LinkMode::Generic),
    ];
}

/// What links are told about the way that they take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkOptions {
    /// Which TCP.
    pub choice: LinkChoice,
    /// How packets get to us.
    pub mode: LinkMode,
    /// Frames of each NIC queue, a power of two.
    pub frames: u32,
    /// Bytes of a frame: 2,048 or 4,096.
    pub frame_bytes: u32,
    /// How long the kernel polls a NIC queue for us when we ask (SO_BUSY_POLL); zero: not at all.
    pub busy_poll: Duration,
    /// Whether checksums of what comes are verified.
    pub verify_checksums: bool,
    /// What no setting changes.
    pub tuning: LinkTuning,
    /// The interfaces, one for each network segment: at most [`SEGMENTS_MAX`].
    pub interfaces: Vec<LinkInterface>,
}

/// How much a NIC queue does at a time: to be measured with, programs take the default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkTuning {
    /// How many packets the kernel sends in one system call when it copies. Kernels before 6.17 send 32.
    pub send_budget: u32,
    /// How many descriptors are taken from a ring at a time.
    pub batch: u32,
}

impl Default for LinkTuning {
    fn default() -> LinkTuning {
        LinkTuning { send_budget: 256, batch: 64 }
    }
}

/// An interface of which some NIC queues are ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkInterface {
    /// Its name.
    pub name: String,
    /// Our address there.
    pub address: Ipv4Addr,
    /// Who is talked to there; everybody else is served by the kernel.
    pub peers: Vec<Ipv4Addr>,
    /// A NIC queue for each thread.
    pub queues: Vec<LinkQueue>,
}

/// A NIC queue of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkQueue {
    /// Its number.
    pub number: u32,
    /// The local ports that come by it: those from which we connect, or the one where we listen.
    pub ports: RangeInclusive<u16>,
}

/// Which way the links take.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LinksTaken {
    /// Whether they bypass the kernel.
    pub is_bypass: bool,
    /// Why not, where the operator has asked for it.
    pub why_not: Option<String>,
    /// The interfaces, if so.
    pub interfaces: Vec<InterfaceTaken>,
}

/// How an interface is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceTaken {
    /// Its name.
    pub name: String,
    /// How packets get to us: `zero-copy`, `copy` or `generic`.
    pub mode: String,
    /// The longest packet, its IP header included.
    pub mtu: u32,
    /// Why none of the better ways is taken, if there is one.
    pub why_not_better: Option<String>,
}

impl LinksTaken {
    /// Links go by the kernel, as was asked for.
    pub fn kernel() -> LinksTaken {
        LinksTaken::default()
    }
}

/// What a NIC queue of ours has counted since the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NicQueueCounters {
    /// The interface.
    pub interface: String,
    /// The NIC queue.
    pub nic_queue: u32,
    /// By name.
    pub counters: Vec<(&'static str, u64)>,
}

/// What the NIC queues of a thread have counted.
#[cfg(feature = "xdp")]
pub fn nic_queues(transport: &LinkTransport) -> Vec<NicQueueCounters> {
    transport.nic_queues()
}

/// What the NIC queues of a thread have counted: there are none without the bypass.
#[cfg(not(feature = "xdp"))]
pub fn nic_queues(_transport: &LinkTransport) -> Vec<NicQueueCounters> {
    Vec::new()
}

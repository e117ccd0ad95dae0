//! How an interface is opened, and what became of it.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::error::XdpError;
use super::filter::Filter;

/// How an interface is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XdpOptions {
    /// Its name.
    pub interface: String,
    /// What comes to us, and not to the kernel. Each NIC queue of its blocks is opened.
    pub filter: Filter,
    /// How packets get from the interface to us; `None` takes the first of [`XdpMode::BEST_FIRST`] that works.
    pub mode: Option<XdpMode>,
    /// Frames of a NIC queue, a power of two. Half of them are for what comes, half for what is sent: when all of the
    /// first wait for us, the kernel drops what comes; when all of the second are on their way, what is sent waits.
    pub frames: u32,
    /// Bytes of a frame, 2,048 or 4,096: a packet, its Ethernet header, and 256 bytes that the kernel wants. The first
    /// holds an MTU of 1,500 (up to 1,778), the second one of up to 3,826. The kernel has none that are longer than a
    /// page of memory, huge or not.
    pub frame_bytes: u32,
    /// Whether checksums of what comes are verified. They need not be where the interface has done it, and cannot be
    /// where a kernel at the other end of a virtual link leaves them out. What is sent always has them.
    pub verify: bool,
    /// Have the kernel poll the interface in our system calls, and not by its interrupts.
    pub busy_poll: Option<BusyPoll>,
    /// How many packets the kernel sends in one system call when it copies; `None` leaves its 32. Kernels before 6.17
    /// know no other number, and keep theirs.
    pub send_budget: Option<u32>,
    /// How many descriptors are taken from a ring at a time.
    pub batch: u32,
}

/// How the kernel polls in our system calls (see the kernel's documentation of AF_XDP).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusyPoll {
    /// SO_BUSY_POLL: for how long a call may poll.
    pub micros: u32,
    /// SO_BUSY_POLL_BUDGET: how many packets it may take meanwhile.
    pub budget: u32,
}

/// How packets get from an interface to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpMode {
    /// The interface writes them into our memory.
    ZeroCopy,
    /// The driver copies them.
    Copy,
    /// The kernel copies them, behind its own receive path ("SKB mode"): works with every driver.
    Generic,
}

/// What is known of the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Packets can go both ways.
    Up,
    /// The interface is down, or has no carrier. What is sent meanwhile is lost.
    Down,
    /// There is no interface of that name, or it cannot be used. As soon as it can, it is opened again.
    Gone,
}

/// What became of an interface that was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XdpReport {
    /// Its name.
    pub interface: String,
    /// How packets get from there to us.
    pub mode: XdpMode,
    /// Why not in a better way.
    pub refused: Vec<(XdpMode, String)>,
    /// Whether frames lie in huge pages. They do if there are enough.
    pub huge_pages: bool,
    /// The longest packet, its IP header included.
    pub mtu: u32,
    /// The link as of now.
    pub link: LinkState,
    /// What keeps it from being opened again, if it is gone.
    pub trouble: Option<String>,
    /// Where the peers are, as far as the kernel knows.
    pub neighbours: Vec<(Ipv4Addr, [u8; 6])>,
}

/// What the kernel keeps of a frame, in front of the packet.
pub(super) const HEADROOM_BYTES: u32 = 256;
pub(super) const ETHERNET_BYTES: u32 = 14;

impl XdpOptions {
    /// What fits a link at the usual MTU.
    pub fn new(interface: &str, filter: Filter) -> XdpOptions {
        XdpOptions {
            interface: interface.to_owned(),
            filter,
            mode: None,
            frames: 8_192,
            frame_bytes: 2_048,
            verify: true,
            busy_poll: None,
            send_budget: Some(256),
            batch: 64,
        }
    }

    /// The longest packet that a frame holds, its IP header included.
    pub fn mtu_max(&self) -> u32 {
        self.frame_bytes.saturating_sub(HEADROOM_BYTES + ETHERNET_BYTES)
    }

    pub(super) fn check(&self) -> Result<(), XdpError> {
        let wrong = |what: &str| Err(XdpError::Options(what.to_owned()));
        // IFNAMSIZ, with its final 0.
        if self.interface.is_empty() || self.interface.len() > 15 {
            return wrong("the name of an interface has 1 to 15 bytes");
        }
        if self.interface.contains(|it: char| it == '/' || it == '\0' || it.is_whitespace()) {
            return wrong("that is no name of an interface");
        }
        if !self.frames.is_power_of_two() || !(FRAMES_MIN..=FRAMES_MAX).contains(&self.frames) {
            return wrong("frames of a NIC queue are a power of two from 1024 to 131072");
        }
        if ![2_048, 4_096].contains(&self.frame_bytes) {
            return wrong("a frame has 2048 or 4096 bytes");
        }
        if !(1..=self.frames / 4).contains(&self.batch) {
            return wrong("a batch is from 1 to a quarter of the frames");
        }
        if self.send_budget.is_some_and(|it| !(32..=self.frames / 2).contains(&it)) {
            return wrong("a send budget is from 32 to half of the frames");
        }
        if self.busy_poll.is_some_and(|it| it.micros == 0 || !(1..=65_535).contains(&it.budget)) {
            return wrong("busy polling takes some microseconds, and a budget of 1 to 65535");
        }
        self.filter.check()
    }
}

/// Bounds of the frames of a NIC queue: fewer leave no reserve for what must always be sent, more are refused.
const FRAMES_MIN: u32 = 1_024;
const FRAMES_MAX: u32 = 131_072;

impl XdpMode {
    /// The order in which they are tried.
    pub const BEST_FIRST: [XdpMode; 3] = [XdpMode::ZeroCopy, XdpMode::Copy, XdpMode::Generic];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            XdpMode::ZeroCopy => "zero-copy",
            XdpMode::Copy => "copy",
            XdpMode::Generic => "generic",
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for XdpMode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<XdpMode, UnknownMode> {
        XdpMode::BEST_FIRST.into_iter().find(|mode| mode.name() == name).ok_or(UnknownMode)
    }
}

/// That is no mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownMode;

impl fmt::Display for UnknownMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not a mode: zero-copy, copy or generic")
    }
}

impl std::error::Error for UnknownMode {}

impl fmt::Display for LinkState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            LinkState::Up => "up",
            LinkState::Down => "down",
            LinkState::Gone => "gone",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::filter::PortBlock;
    use super::*;

    fn options() -> XdpOptions {
        let blocks = vec![PortBlock { ports: 1..=1, queue: 0 }];
        XdpOptions::new("eth0", Filter { local: Ipv4Addr::LOCALHOST, peers: Vec::new(), blocks })
    }

    #[test]
    fn a_frame_holds_a_packet_and_what_the_kernel_wants() {
        assert_eq!(options().mtu_max(), 1_778);
        assert_eq!(XdpOptions { frame_bytes: 4_096, ..options() }.mtu_max(), 3_826);
    }

    #[test]
    fn options_out_of_bounds_are_refused() {
        assert!(options().check().is_ok());
        let refused = |change: fn(&mut XdpOptions)| {
            let mut options = options();
            change(&mut options);
            options.check().unwrap_err().to_string()
        };
        assert!(refused(|it| it.interface = String::new()).contains("1 to 15"));
        assert!(refused(|it| it.interface = "a/b".to_owned()).contains("no name"));
        assert!(refused(|it| it.frames = 512).contains("1024"));
        assert!(refused(|it| it.frames = 3_000).contains("power of two"));
        assert!(refused(|it| it.frame_bytes = 1_024).contains("2048"));
        assert!(refused(|it| it.batch = 0).contains("batch"));
        assert!(refused(|it| it.send_budget = Some(1)).contains("budget"));
        let never = Some(BusyPoll { micros: 0, budget: 1 });
        assert!(never.is_some() && refused(|it| it.filter.blocks.clear()).contains("no ports"));
        let options = XdpOptions { busy_poll: never, ..options() };
        assert!(options.check().unwrap_err().to_string().contains("busy polling"));
    }

    #[test]
    fn a_mode_is_read_as_it_is_written() {
        for mode in XdpMode::BEST_FIRST {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!("native".parse::<XdpMode>(), Err(UnknownMode));
    }
}

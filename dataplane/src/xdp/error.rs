//! Why an interface cannot be opened, in words that say what to do.

use std::fmt;
use std::io;

use super::options::XdpMode;

/// Why an interface cannot be opened.
#[derive(Debug)]
pub enum XdpError {
    /// The options make no sense.
    Options(String),
    /// There is no such interface here.
    NoInterface(String),
    /// It is no Ethernet.
    NotEthernet(String),
    /// It has no such NIC queue.
    NoQueue {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// How many it has, if it says so.
        there_are: Option<u32>,
    },
    /// Somebody has a socket on that NIC queue.
    QueueInUse {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// There is an XDP program on it already.
    HasProgram(String),
    /// The process may not do that.
    NotPermitted(&'static str),
    /// The kernel allows us no more locked memory.
    Memlock(u64),
    /// Neither way works: each with the reason.
    NoMode(Vec<(XdpMode, String)>),
    /// The kernel does not take the program. That is a mistake of ours, or a kernel that is too old.
    Filter(String),
    /// Another failure of the system.
    System {
        /// At what.
        what: &'static str,
        /// What it says.
        error: io::Error,
    },
}

impl XdpError {
    pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> XdpError {
        move |error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => XdpError::NotPermitted(what),
            _ => XdpError::System { what, error },
        }
    }

    /// Whether another mode might work where this is the reason against one.
    pub(super) fn is_of_the_mode(&self) -> bool {
        matches!(self, XdpError::System { .. } | XdpError::NoQueue { there_are: None, .. })
    }
}

impl fmt::Display for XdpError {
    fn fmt(&self, it: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            XdpError::Options(what) => write!(it, "{what}"),
            XdpError::NoInterface(name) => write!(it, "there is no interface {name}"),
            XdpError::NotEthernet(name) => write!(it, "{name} is no Ethernet interface"),
            XdpError::NoQueue { interface, queue, there_are: Some(count) } => write!(
                it,
                "{interface} has no NIC queue {queue}: there are {count}, counted from 0 (see ethtool -l)"
            ),
            XdpError::NoQueue { interface, queue, there_are: None } => {
                write!(it, "{interface} has no NIC queue {queue}, it seems")
            }
            XdpError::QueueInUse { interface, queue } => {
                write!(
                    it,
                    "NIC queue {queue} of {interface} is in use by another AF_XDP socket, perhaps of another process"
                )
            }
            XdpError::HasProgram(name) => write!(
                it,
                "{name} has an XDP program already, perhaps of another process of ours (see ip link show {name})"
            ),
            XdpError::NotPermitted(what) => write!(
                it,
                "not permitted: {what}. AF_XDP needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF"
            ),
            XdpError::Memlock(bytes) => write!(
                it,
                "the kernel locks no {bytes} bytes of memory for us: raise RLIMIT_MEMLOCK (LimitMEMLOCK= of systemd)"
            ),
            XdpError::NoMode(reasons) => {
                write!(it, "no mode works")?;
                reasons.iter().try_for_each(|(mode, why)| write!(it, "; {mode}: {why}"))
            }
            XdpError::Filter(log) => write!(it, "the kernel refuses the filter: {log}"),
            XdpError::System { what, error } => write!(it, "{what}: {error}"),
        }
    }
}

impl std::error::Error for XdpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            XdpError::System { error, .. } => Some(error),
            _ => None,
        }
    }
}

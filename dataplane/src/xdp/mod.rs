//! AF_XDP: queues of a network interface that bypass the kernel's network stack.
//!
//! [`XdpInterface::open`] opens sockets on NIC queues of one interface, and attaches a program to it that gives
//! them what is theirs ([`Filter`]) and the kernel all else. Each queue is an [`XdpPort`], which belongs to one
//! thread and has memory of its own. Program and sockets are gone with the process, however it ends.
//!
//! A thread of the interface watches the kernel's news: whether the link is up, whether the interface is gone or
//! there again (sockets and program are made anew then), and where the peers are (the kernel's neighbours).
//!
//! [`keep_privileges`] gives up what none of this needs.

mod bpf;
mod error;
mod filter;
mod instructions;
mod interface;
mod ledger;
mod neighbours;
mod netlink;
mod options;
mod port;
mod privileges;
mod rings;
mod shared;
mod statistics;
mod sys;
mod watch;

pub use error::XdpError;
pub use filter::{Filter, PortBlock, Verdict};
pub use interface::XdpInterface;
pub use options::{BusyPoll, LinkState, UnknownMode, XdpMode, XdpOptions, XdpReport};
pub use port::{XdpPort, XdpRxToken, XdpTxToken};
pub use privileges::{Privilege, PrivilegeError, keep_privileges};
pub use statistics::XdpStatistics;

//! The few system calls that no crate wraps.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::options::BusyPoll;

/// Of linux/if_xdp.h, since Linux 6.17.
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;

/// Has the kernel send so many packets in one call when it copies. Kernels that do not know of this are left alone.
pub(super) fn set_send_budget(socket: BorrowedFd<'_>, packets: u32) -> io::Result<()> {
    match set_option(socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, packets) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        result => result,
    }
}

/// Has the kernel poll the interface in our calls.
pub(super) fn set_busy_poll(socket: BorrowedFd<'_>, busy_poll: BusyPoll) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, 1)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_BUSY_POLL, busy_poll.micros)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, busy_poll.budget)
}

fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_uint) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<c_uint>()).expect("small");
    // SAFETY: the value has the length that is told, and lives across the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, ptr::from_ref(&value).cast(), length)
    };
    succeeded(result as isize)
}

/// Has the kernel begin to send what is in the ring.
pub(super) fn kick(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: there is no message, and no address.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0)
    };
    succeeded(sent)
}

/// Has the kernel poll the interface, or take up that there is room in the fill ring.
pub(super) fn poke(socket: BorrowedFd<'_>) -> io::Result<()> {
    let null = ptr::null_mut();
    // SAFETY: there is no buffer, and no address.
    let received = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            null,
            0,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
            null.cast(),
        )
    };
    succeeded(received)
}

/// What the kernel has counted of a socket.
pub(super) fn statistics(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    // SAFETY: all of its fields are numbers.
    let mut statistics: libc::xdp_statistics = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&statistics)).expect("small");
    // SAFETY: the length is that of what is written to, and both live across the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_STATISTICS,
            ptr::from_mut(&mut statistics).cast(),
            &mut length,
        )
    };
    succeeded(result as isize)?;
    Ok(statistics)
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    receive_most: u32,
    send_most: u32,
    other_most: u32,
    combined_most: u32,
    receive: u32,
    send: u32,
    other: u32,
    combined: u32,
}

/// Of linux/ethtool.h.
const ETHTOOL_GET_CHANNELS: u32 = 0x3c;

/// How many NIC queues an interface has, if its driver says so. `socket` is any.
pub(super) fn queues(socket: BorrowedFd<'_>, interface: &str) -> Option<u32> {
    let mut channels = Channels { command: ETHTOOL_GET_CHANNELS, ..Channels::default() };
    // SAFETY: a request of zeros is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = interface.as_bytes();
    if name.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = ptr::from_mut(&mut channels).cast();
    // SAFETY: the request names the interface in a string that ends with 0, and points to what the command reads and
    // writes; both live across the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &mut request) };
    (result == 0).then(|| channels.combined + channels.receive.max(channels.send))
}

fn succeeded(result: isize) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! The system calls that no dependency offers in safe form.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use crate::links::SEGMENTS_MAX;

/// Sleeps until one of the descriptors is readable, for `timeout` at most (`None`: no limit).
///
/// Does not sleep for less than the system can ([`SLEEP_MIN`]).
///
/// A signal, a readable descriptor and the end of the time all look the same: the caller looks
/// again. ppoll(2) is used, not epoll_wait(2), because it takes nanoseconds and several descriptors.
pub(crate) fn sleep_until_readable(descriptors: &[RawFd], timeout: Option<Duration>) {
    if timeout.is_some_and(|timeout| timeout < SLEEP_MIN) {
        return;
    }
    let mut entries = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; DESCRIPTORS_MAX];
    assert!(descriptors.len() <= entries.len());
    for (entry, &fd) in entries.iter_mut().zip(descriptors) {
        entry.fd = fd;
    }
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(
            i32::try_from(timeout.subsec_nanos()).expect("below a thousand million"),
        ),
    });
    let timeout_pointer = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let count = libc::nfds_t::try_from(descriptors.len()).expect("few");
    // SAFETY: `entries` is an array of `count` initialised entries (or more) that lives across the
    // call; `timeout_pointer` is null or points to `timeout`, which
    // lives across the call too; a null signal mask is allowed.
    let result =
        unsafe { libc::ppoll(entries.as_mut_ptr(), count, timeout_pointer, std::ptr::null()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        assert!(error.kind() == io::ErrorKind::Interrupted, "ppoll: {error}");
    }
}

/// Whoever sleeps for less than this is woken later than it is over: the system's timers are 50 us off as a rule (prctl(2),
/// PR_SET_TIMERSLACK), and waking up takes as long again.
const SLEEP_MIN: Duration = Duration::from_micros(20);

/// A thread's: of SMTP, of links by the kernel, and of a NIC queue of each network segment.
const DESCRIPTORS_MAX: usize = 2 + SEGMENTS_MAX;

/// Reads CLOCK_BOOTTIME, which goes on while the machine is suspended.
pub(super) fn boot_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for one timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    assert!(result == 0, "clock_gettime: {}", io::Error::last_os_error());
    let seconds = u64::try_from(time.tv_sec).expect("the machine was booted in the past");
    let nanos = u32::try_from(time.tv_nsec).expect("below a thousand million");
    Duration::new(seconds, nanos)
}

/// Raises the bound of this process's open descriptors (RLIMIT_NOFILE) to what the system allows it, and
/// answers the bound.
///
/// # Errors
/// What the system says.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for one rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is an initialised rlimit that lives across the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// Has the allocator take blocks of this size and above from the system each by itself, and give them
/// back at once, whatever was allocated before. glibc's own bound grows up to 32 MiB with what is
/// freed (mallopt(3), M_MMAP_THRESHOLD), and then large blocks leave holes that stay. Does nothing
/// with other allocators.
pub fn return_large_blocks(bytes: u32) {
    #[cfg(target_env = "gnu")]
    {
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        // SAFETY: mallopt(3) takes two integers, and may be called at any time by any thread. What
        // it refuses it leaves as it was.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, bytes) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = bytes;
}

/// Lets `bind` to an address leave the choice of the port to `connect`, which knows the remote end
/// too: else some 28,000 connections from one address would be all (ip(7),
/// IP_BIND_ADDRESS_NO_PORT). The option is of the level IP for both families.
pub(super) fn set_bind_address_no_port(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four");
    // SAFETY: the option's value is one int, `on` lives across the call and `length` is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_the_bound_of_descriptors_twice_changes_nothing_more() {
        let limit = raise_descriptor_limit().unwrap();
        assert!(limit > 0);
        assert_eq!(raise_descriptor_limit().unwrap(), limit);
    }
}

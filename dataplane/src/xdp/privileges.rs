//! What a process may do once it has what it needs.

use std::fmt;
use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use rustix::thread::{capabilities, clear_ambient_capability_set, set_capabilities};
use rustix::thread::{remove_capability_from_bounding_set, set_no_new_privs};

/// What a program may keep besides what AF_XDP needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// To listen at ports below 1024 (`CAP_NET_BIND_SERVICE`).
    BindService,
    /// To read and write files of others (`CAP_DAC_OVERRIDE`).
    FilesOfOthers,
}

/// Why privileges were not given up.
#[derive(Debug)]
pub enum PrivilegeError {
    /// The process lacks some of what it is to keep.
    Missing(String),
    /// It has several threads, and each has privileges of its own.
    Threads(usize),
    /// Another failure of the system.
    System(io::Error),
}

/// What opening an interface needs, at first and again. Linux has no name for `CAP_PERFMON` in the program's way: it
/// compares and follows only pointers into the packet.
const NEEDED: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::BPF, "CAP_BPF"),
];

/// Raises the limit of locked memory if it may, then keeps exactly what [`XdpInterface::open`](super::XdpInterface)
/// and its watching need (`CAP_NET_RAW`, `CAP_NET_ADMIN`, `CAP_BPF`; where memory cannot be locked without limit
/// `CAP_IPC_LOCK` as well), and what it has of `also`; for good, and for what it executes.
///
/// Threads have privileges of their own, and give them to those that they start: this must be called while there is
/// one. It may be before an interface is opened, as that needs no more than what is kept.
///
/// # Errors
/// [`PrivilegeError`]; nothing is given up then, unless the system failed in the middle of it.
pub fn keep_privileges(also: &[Privilege]) -> Result<(), PrivilegeError> {
    let threads = fs::read_dir("/proc/self/task").map_err(PrivilegeError::System)?.count();
    if threads != 1 {
        return Err(PrivilegeError::Threads(threads));
    }
    let has = capabilities(None)?.permitted;
    let is_missing = |it: &&(CapabilitySet, &str)| !has.contains(it.0);
    let missing: Vec<_> = NEEDED.iter().filter(is_missing).map(|it| it.1).collect();
    if !missing.is_empty() {
        return Err(PrivilegeError::Missing(missing.join(", ")));
    }
    let mut keep = NEEDED.iter().fold(CapabilitySet::empty(), |all, it| all | it.0);
    keep |= also.iter().fold(CapabilitySet::empty(), |all, it| all | it.capability()) & has;
    if !raise_memlock() {
        keep |= CapabilitySet::IPC_LOCK & has;
    }
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    if has.contains(CapabilitySet::SETPCAP) {
        for bit in 0..CAPABILITIES {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            // The kernel knows fewer of them.
            if !keep.contains(one) && remove_capability_from_bounding_set(one).is_err() {
                break;
            }
        }
    }
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: keep, permitted: keep, inheritable })?;
    Ok(())
}

/// Bits of a set.
const CAPABILITIES: u32 = 64;

/// As far as may be; whether that is without limit. If it is not enough, opening says so.
fn raise_memlock() -> bool {
    let unlimited = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, unlimited).is_ok() {
        return true;
    }
    let maximum = rustix::process::getrlimit(Resource::Memlock).maximum;
    let _ = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    maximum.is_none()
}

impl Privilege {
    fn capability(self) -> CapabilitySet {
        match self {
            Privilege::BindService => CapabilitySet::NET_BIND_SERVICE,
            Privilege::FilesOfOthers => CapabilitySet::DAC_OVERRIDE,
        }
    }
}

impl From<rustix::io::Errno> for PrivilegeError {
    fn from(error: rustix::io::Errno) -> PrivilegeError {
        PrivilegeError::System(error.into())
    }
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, it: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrivilegeError::Missing(names) => {
                write!(it, "AF_XDP needs {names}, which this process does not have")
            }
            PrivilegeError::Threads(count) => {
                write!(it, "privileges are given up by one thread, and there are {count}")
            }
            PrivilegeError::System(error) => write!(it, "cannot give up privileges: {error}"),
        }
    }
}

impl std::error::Error for PrivilegeError {}

//! The filter in the kernel, as long as this process lives.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use libbpf_sys as bpf;

use super::error::XdpError;
use super::filter::{Filter, QUEUES_MAX};
use super::instructions::{Instruction, Maps, program_of};
use super::options::XdpMode;

/// The program and its maps. All go when their descriptors are closed, which the kernel does when a process ends,
/// however it does.
#[derive(Debug)]
pub(super) struct Program {
    program: OwnedFd,
    sockets: OwnedFd,
    astray: OwnedFd,
}

/// A program on an interface. It comes off when this is dropped.
#[derive(Debug)]
pub(super) struct Attached {
    link: OwnedFd,
}

/// What the kernel says about a program that it refuses. More is cut.
const LOG_BYTES: usize = 64 << 10;

impl Program {
    /// Has the kernel take the program, with no socket yet.
    pub(super) fn load(filter: &Filter) -> Result<Program, XdpError> {
        let map = |kind, name: &CStr, value_bytes| {
            // SAFETY: the name is a string that ends with 0; there are no options.
            let map = unsafe {
                bpf::bpf_map_create(kind, name.as_ptr(), 4, value_bytes, QUEUES_MAX, ptr::null())
            };
            descriptor(map).map_err(XdpError::system("making a BPF map"))
        };
        let sockets = map(bpf::BPF_MAP_TYPE_XSKMAP, c"hikyaku_sockets", 4)?;
        let astray = map(bpf::BPF_MAP_TYPE_ARRAY, c"hikyaku_astray", 8)?;
        let program = load(filter, &sockets, &astray)?;
        Ok(Program { program, sockets, astray })
    }

    /// The same maps with another filter.
    pub(super) fn exchange(
        &mut self,
        filter: &Filter,
        attached: Option<&Attached>,
    ) -> Result<(), XdpError> {
        let program = load(filter, &self.sockets, &self.astray)?;
        if let Some(attached) = attached {
            // SAFETY: both are open descriptors; there are no options.
            succeeded(unsafe {
                bpf::bpf_link_update(attached.link.as_raw_fd(), program.as_raw_fd(), ptr::null())
            })
            .map_err(XdpError::system("exchanging the XDP program"))?;
        }
        self.program = program;
        Ok(())
    }

    /// From now on that queue's packets go to that socket, until it is closed.
    pub(super) fn insert(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        let socket = socket.as_raw_fd();
        // SAFETY: key and value are four bytes each, as the map's are, and live across the call.
        let inserted = unsafe {
            bpf::bpf_map_update_elem(
                self.sockets.as_raw_fd(),
                ptr::from_ref(&queue).cast(),
                ptr::from_ref(&socket).cast(),
                0,
            )
        };
        succeeded(inserted).map_err(XdpError::system("giving a socket to the XDP program"))?;
        Ok(())
    }

    /// How many packets for that queue's ports came by another.
    pub(super) fn astray(&self, queue: u32) -> io::Result<u64> {
        let mut count = 0_u64;
        // SAFETY: the key has four bytes and the value eight, as the map's have, and both live across the call.
        let found = unsafe {
            bpf::bpf_map_lookup_elem(
                self.astray.as_raw_fd(),
                ptr::from_ref(&queue).cast(),
                ptr::from_mut(&mut count).cast(),
            )
        };
        succeeded(found)?;
        Ok(count)
    }

    /// Puts it on an interface.
    pub(super) fn attach(
        &self,
        interface: &str,
        index: u32,
        mode: XdpMode,
    ) -> Result<Attached, XdpError> {
        let options = bpf::bpf_link_create_opts {
            sz: size_of::<bpf::bpf_link_create_opts>() as u64,
            flags: match mode {
                XdpMode::Generic => bpf::XDP_FLAGS_SKB_MODE,
                XdpMode::Copy | XdpMode::ZeroCopy => bpf::XDP_FLAGS_DRV_MODE,
            },
            ..Default::default()
        };
        let index = c_int::try_from(index).map_err(|_| XdpError::NoInterface(interface.into()))?;
        // SAFETY: the options are initialised, of the size that they tell, and live across the call.
        let link = unsafe {
            bpf::bpf_link_create(self.program.as_raw_fd(), index, bpf::BPF_XDP, &options)
        };
        let link = descriptor(link).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => XdpError::HasProgram(interface.to_owned()),
            Some(libc::ENODEV) => XdpError::NoInterface(interface.to_owned()),
            Some(libc::ERANGE) => XdpError::system(
                "putting the XDP program on the interface, whose MTU may be too large for this mode",
            )(error),
            _ => XdpError::system("putting the XDP program on the interface")(error),
        })?;
        Ok(Attached { link })
    }

    /// Has the kernel run it on a packet that came by a queue of an interface; the `enum xdp_action`.
    pub(super) fn run(&self, packet: &[u8], interface: u32, queue: u32) -> io::Result<u32> {
        let length = u32::try_from(packet.len()).map_err(io::Error::other)?;
        let context = bpf::xdp_md {
            data_end: length,
            ingress_ifindex: interface,
            rx_queue_index: queue,
            ..Default::default()
        };
        let mut options = bpf::bpf_test_run_opts {
            sz: size_of::<bpf::bpf_test_run_opts>() as u64,
            data_in: packet.as_ptr().cast(),
            data_size_in: length,
            ctx_in: ptr::from_ref(&context).cast(),
            ctx_size_in: u32::try_from(size_of::<bpf::xdp_md>()).expect("small"),
            repeat: 1,
            ..Default::default()
        };
        // SAFETY: the options tell the sizes of packet and context, which are only read and live across the call.
        let ran = unsafe { bpf::bpf_prog_test_run_opts(self.program.as_raw_fd(), &mut options) };
        succeeded(ran)?;
        Ok(options.retval)
    }
}

fn load(filter: &Filter, sockets: &OwnedFd, astray: &OwnedFd) -> Result<OwnedFd, XdpError> {
    let maps = Maps { sockets: sockets.as_raw_fd(), astray: astray.as_raw_fd() };
    let program: Vec<Instruction> = program_of(filter, maps);
    let mut log: Vec<c_char> = vec![0; LOG_BYTES];
    let mut options = bpf::bpf_prog_load_opts {
        sz: size_of::<bpf::bpf_prog_load_opts>() as u64,
        log_level: 1,
        log_size: u32::try_from(LOG_BYTES).expect("small"),
        log_buf: log.as_mut_ptr(),
        ..Default::default()
    };
    // SAFETY: an `Instruction` has the layout of the kernel's; the strings end with 0; options and log live
    // across the call, and the log has the size that is told.
    let loaded = unsafe {
        bpf::bpf_prog_load(
            bpf::BPF_PROG_TYPE_XDP,
            c"hikyaku_filter".as_ptr(),
            c"Dual MIT/GPL".as_ptr(),
            program.as_ptr().cast(),
            program.len() as u64,
            &mut options,
        )
    };
    descriptor(loaded).map_err(|error| {
        let said = log.iter().map(|it| it.to_ne_bytes()[0]).take_while(|it| *it != 0).collect();
        let said = String::from_utf8(said).unwrap_or_default();
        match error.raw_os_error() {
            Some(libc::EPERM) => XdpError::NotPermitted("loading the XDP program"),
            // The verifier says what it has against the program.
            _ if !said.is_empty() => XdpError::Filter(format!("{error}: {said}")),
            _ => XdpError::system("loading the XDP program")(error),
        }
    })
}

/// A descriptor, or the error that a negative one is.
fn descriptor(result: c_int) -> io::Result<OwnedFd> {
    let result = succeeded(result)?;
    // SAFETY: it was opened just now for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

fn succeeded(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

//! Opening what links run on: the bypass, or the kernel's TCP in its place.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use super::{LinkChoice, LinkOptions, LinkSteering, LinkTransport, LinksTaken};
use crate::{KernelOptions, KernelTransport};

/// A transport for each thread that has links, and which way they take.
pub struct OpenLinks {
    /// By thread.
    pub transports: Vec<LinkTransport>,
    /// Which way.
    pub taken: LinksTaken,
    /// To change who is reached past the kernel.
    pub steering: LinkSteering,
}

/// Opens a transport for each of `threads` threads. What `kernel` says of connections counts for both kinds of TCP.
///
/// # Errors
/// Why nothing can be opened: what the operator insists on cannot be had, or the kernel has no descriptor left.
pub fn open_links(
    options: &LinkOptions,
    kernel: &KernelOptions,
    threads: usize,
) -> Result<OpenLinks, String> {
    let why_not = match options.choice {
        LinkChoice::Kernel => None,
        LinkChoice::Auto | LinkChoice::Afxdp => match bypass::open(options, kernel, threads) {
            Ok(open) => return Ok(open),
            Err(why) if options.choice == LinkChoice::Afxdp => return Err(why),
            Err(why) => Some(why),
        },
    };
    let transports = kernel_transports(kernel, threads)?.into_iter().map(bypass::beside_nothing);
    let taken = LinksTaken { why_not, ..LinksTaken::kernel() };
    let steering = LinkSteering::default();
    Ok(OpenLinks { transports: transports.collect(), taken, steering })
}

fn kernel_transports(
    options: &KernelOptions,
    count: usize,
) -> Result<Vec<KernelTransport>, String> {
    let new = || KernelTransport::new(options.clone());
    let transports = std::iter::repeat_with(new).take(count).collect::<io::Result<_>>();
    transports.map_err(|error| format!("no sockets for the links: {error}"))
}

/// The address of ours from which the kernel would reach that one, if it knows a way.
pub fn source_for(remote: Ipv4Addr) -> Option<Ipv4Addr> {
    // Connecting a UDP socket looks up the way, and sends nothing.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((remote, 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(local) => Some(local),
        IpAddr::V6(_) => None,
    }
}

/// Gives up all privileges but those that the bypass needs to open its NIC queues and to open them again, if the
/// links may use it; `binds` keeps the one to listen at ports below 1024 as well. To be called before the process has
/// threads, and before [`open_links`].
///
/// # Errors
/// What the system says.
pub fn keep_link_privileges(choice: LinkChoice, binds: bool) -> Result<(), String> {
    match choice {
        LinkChoice::Kernel => Ok(()),
        LinkChoice::Auto => bypass::keep_privileges(binds, true),
        LinkChoice::Afxdp => bypass::keep_privileges(binds, false),
    }
}

#[cfg(feature = "xdp")]
mod bypass {
    //! Over AF_XDP.

    use dataplane::xdp::{
        BusyPoll, Filter, PortBlock, Privilege, PrivilegeError, XdpInterface, XdpMode, XdpOptions,
        XdpPort, keep_privileges as keep,
    };

    use super::super::steering::Steered;
    use super::super::{InterfaceTaken, LinkInterface, LinkMode, LinkPort, Segment};
    use super::*;
    use crate::{SegmentTransport, UserspaceOptions, UserspaceTransport};

    pub(super) fn beside_nothing(kernel: KernelTransport) -> LinkTransport {
        SegmentTransport::new(kernel, Vec::new())
    }

    /// `without`: where privileges are missing nothing is given up, and opening says what is missing.
    pub(super) fn keep_privileges(binds: bool, without: bool) -> Result<(), String> {
        let also: &[Privilege] = if binds { &[Privilege::BindService] } else { &[] };
        match keep(also) {
            Err(PrivilegeError::Missing(_)) if without => Ok(()),
            result => result.map_err(|error| format!("`transport` in [links]: {error}")),
        }
    }

    pub(super) fn open(
        options: &LinkOptions,
        kernel: &KernelOptions,
        threads: usize,
    ) -> Result<OpenLinks, String> {
        let mut segments: Vec<Vec<Segment<XdpPort>>> =
            std::iter::repeat_with(Vec::new).take(threads).collect();
        let mut interfaces = Vec::new();
        let mut steering = LinkSteering::default();
        for interface in &options.interfaces {
            assert_eq!(interface.queues.len(), threads, "the settings say so");
            let (taken, open, ports) = open_interface(options, interface)?;
            let (name, peers) = (interface.name.clone(), interface.peers.clone());
            steering.interfaces.push(Steered::new(name, open, peers));
            for port in ports {
                let place = |it: &super::super::LinkQueue| it.number == port.queue();
                let thread = interface.queues.iter().position(place);
                let thread = thread.expect("only queues of ours are opened");
                segments[thread].push(segment(interface, thread, port, kernel)?);
            }
            interfaces.push(taken);
        }
        let kernels = kernel_transports(kernel, threads)?;
        let both = kernels.into_iter().zip(segments);
        let transports = both.map(|(kernel, segments)| SegmentTransport::new(kernel, segments));
        let taken = LinksTaken { is_bypass: true, why_not: None, interfaces };
        Ok(OpenLinks { transports: transports.collect(), taken, steering })
    }

    fn open_interface(
        options: &LinkOptions,
        interface: &LinkInterface,
    ) -> Result<(InterfaceTaken, XdpInterface, Vec<XdpPort>), String> {
        let block =
            |it: &super::super::LinkQueue| PortBlock { ports: it.ports.clone(), queue: it.number };
        let filter = Filter {
            local: interface.address,
            peers: interface.peers.clone(),
            blocks: interface.queues.iter().map(block).collect(),
        };
        let mode = match options.mode {
            LinkMode::Auto => None,
            LinkMode::ZeroCopy => Some(XdpMode::ZeroCopy),
            LinkMode::Copy => Some(XdpMode::Copy),
            LinkMode::Generic => Some(XdpMode::Generic),
        };
        let micros = u32::try_from(options.busy_poll.as_micros()).unwrap_or(u32::MAX);
        let busy_poll = (micros > 0).then_some(BusyPoll { micros, budget: BUSY_POLL_BUDGET });
        let options = XdpOptions {
            mode,
            frames: options.frames,
            frame_bytes: options.frame_bytes,
            verify: options.verify_checksums,
            busy_poll,
            send_budget: Some(options.tuning.send_budget),
            batch: options.tuning.batch,
            ..XdpOptions::new(&interface.name, filter)
        };
        let (open, ports) = XdpInterface::open(&options)
            .map_err(|error| format!("interface {}: {error}", interface.name))?;
        let report = open.report();
        let why = report.refused.iter().map(|(mode, why)| format!("{mode}: {why}"));
        let why = why.collect::<Vec<_>>().join("; ");
        let taken = InterfaceTaken {
            name: interface.name.clone(),
            mode: report.mode.to_string(),
            mtu: report.mtu,
            why_not_better: (!why.is_empty()).then_some(why),
        };
        Ok((taken, open, ports))
    }

    fn segment(
        interface: &LinkInterface,
        thread: usize,
        port: XdpPort,
        kernel: &KernelOptions,
    ) -> Result<Segment<XdpPort>, String> {
        let address = IpAddr::V4(interface.address);
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| format!("no random numbers: {error}"))?;
        let options = UserspaceOptions {
            connections_max: kernel.connections_max,
            connect_timeout: kernel.connect_timeout,
            user_timeout: kernel.user_timeout,
            keep_alive: kernel.keep_alive,
            linger_time: kernel.linger_time,
            ports: interface.queues[thread].ports.clone(),
            ..UserspaceOptions::new(address, u64::from_le_bytes(seed))
        };
        Ok(Segment {
            interface: interface.name.clone(),
            nic_queue: port.queue(),
            address,
            peers: interface.peers.iter().copied().map(IpAddr::V4).collect(),
            stack: UserspaceTransport::new(port, options),
        })
    }

    /// Packets that the kernel takes from a NIC queue at most in one busy poll, as its own polling does.
    const BUSY_POLL_BUDGET: u32 = 64;

    impl LinkPort for XdpPort {
        fn counters(&self) -> Vec<(&'static str, u64)> {
            let it = self.statistics();
            vec![
                ("received", it.received),
                ("sent", it.sent),
                ("no_frame", it.no_frame),
                ("no_neighbour", it.no_neighbour),
                ("link_down", it.link_down),
                ("send_wake_ups", it.send_wake_ups),
                ("receive_wake_ups", it.receive_wake_ups),
                ("busy_polls", it.busy_polls),
                ("send_delays", it.send_delays),
                ("ring_full", it.ring_full),
                ("fill_empty", it.fill_empty),
                ("dropped", it.dropped),
                ("invalid", it.invalid),
                ("astray", it.astray),
                ("reopened", it.reopened),
            ]
        }
    }
}

#[cfg(not(feature = "xdp"))]
mod bypass {
    //! Not built.

    use super::*;

    pub(super) fn beside_nothing(kernel: KernelTransport) -> LinkTransport {
        kernel
    }

    pub(super) fn keep_privileges(_binds: bool, _without: bool) -> Result<(), String> {
        Ok(())
    }

    pub(super) fn open(
        _options: &LinkOptions,
        _kernel: &KernelOptions,
        _threads: usize,
    ) -> Result<OpenLinks, String> {
        Err(super::super::NOT_BUILT.into())
    }
}

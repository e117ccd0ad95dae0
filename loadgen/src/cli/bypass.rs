//! A connection past the kernel, for `loadgen kvs`.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;
use loadgen::content::parse_size;
use loadgen::report::Section;
use tcpstack::xdp::{Filter, PortBlock, XdpInterface, XdpMode, XdpOptions, XdpPort};
use tcpstack::{UserspaceOptions, UserspaceTransport};

use super::Failure;

/// By which NIC queue.
#[derive(Args)]
pub(crate) struct BypassOptions {
    /// Go past the kernel, by AF_XDP on this interface. Needs root.
    #[arg(long, value_name = "INTERFACE", requires = "local", conflicts_with = "null")]
    afxdp: Option<String>,
    /// Our address on that interface.
    #[arg(long, value_name = "ADDR")]
    local: Option<Ipv4Addr>,
    /// The NIC queue to which those ports are steered.
    #[arg(long, default_value_t = 1, value_name = "QUEUE")]
    nic_queue: u32,
    /// The first of 64 ports from which we connect.
    #[arg(long, default_value_t = 61_440, value_name = "PORT", value_parser = parse_ports)]
    ports: u16,
    /// `zero-copy`, `copy` or `generic`. Default: the best that works.
    #[arg(long)]
    mode: Option<XdpMode>,
    /// Bytes of a frame; k is 1024.
    #[arg(long, default_value = "2k", value_parser = parse_size)]
    frame_size: usize,
    /// Do not verify checksums of what comes.
    #[arg(long)]
    trust_checksums: bool,
}

/// Ports of a block.
const PORTS: u16 = 64;

fn parse_ports(text: &str) -> Result<u16, String> {
    let first = text.parse().ok().filter(|first: &u16| *first > 0 && first.is_multiple_of(PORTS));
    first.ok_or_else(|| "not a port that is a multiple of 64".into())
}

/// An interface that is open, and the transport over it.
pub(crate) struct Bypass {
    interface: XdpInterface,
    pub(crate) transport: UserspaceTransport<XdpPort>,
}

impl BypassOptions {
    /// Opens the interface, if one is asked for.
    pub(crate) fn open(&self, to: SocketAddr) -> Result<Option<Bypass>, Failure> {
        let (Some(name), Some(local)) = (&self.afxdp, self.local) else { return Ok(None) };
        let SocketAddr::V4(to) = to else { return Err("past the kernel only IPv4 goes".into()) };
        let ports = self.ports..=self.ports + (PORTS - 1);
        let blocks = vec![PortBlock { ports: ports.clone(), queue: self.nic_queue }];
        let filter = Filter { local, peers: vec![*to.ip()], blocks };
        let (interface, ports_open) = XdpInterface::open(&XdpOptions {
            mode: self.mode,
            frame_bytes: u32::try_from(self.frame_size)?,
            verify: !self.trust_checksums,
            ..XdpOptions::new(name, filter)
        })?;
        let port = ports_open.into_iter().next().expect("one for each block");
        let options =
            UserspaceOptions { ports, ..UserspaceOptions::new(local.into(), fastrand::u64(..)) };
        Ok(Some(Bypass { interface, transport: UserspaceTransport::new(port, options) }))
    }
}

/// What passed the interface, for the report.
pub(crate) struct Passed(XdpInterface);

impl Bypass {
    /// Separates the transport from what is asked at the end.
    pub(crate) fn split(self) -> (UserspaceTransport<XdpPort>, Passed) {
        (self.transport, Passed(self.interface))
    }
}

impl Passed {
    pub(crate) fn section(&self) -> Section {
        let report = self.0.report();
        let mut section = Section::new("bypass", "past the kernel")
            .text("interface", "interface", report.interface)
            .text("mode", "mode", report.mode.name())
            .count("mtu", "MTU", report.mtu.into());
        for queue in self.0.statistics() {
            section = section
                .count("received", "packets received", queue.received)
                .count("sent", "packets sent", queue.sent)
                .count("send_wake_ups", "system calls to send", queue.send_wake_ups)
                .count("receive_wake_ups", "system calls to receive", queue.receive_wake_ups)
                .count("dropped", "dropped, as the ring was full", queue.dropped)
                .count("no_frame", "not sent for want of a frame", queue.no_frame);
        }
        section
    }
}

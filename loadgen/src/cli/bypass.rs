//! A connection past the kernel, for `loadgen kvs`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use loadgen::content::parse_size;
use loadgen::report::Section;
use tcpstack::{
    KernelOptions, LinkChoice, LinkInterface, LinkMode, LinkOptions, LinkQueue, LinkTransport,
    LinksTaken, PORT_BLOCK, nic_queues, open_links,
};

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
    /// `zero-copy`, `copy` or `generic`; `auto` takes the best that works.
    #[arg(long, default_value = "auto", value_parser = parse_mode)]
    mode: LinkMode,
    /// Bytes of a frame; k is 1024.
    #[arg(long, default_value = "2k", value_parser = parse_size)]
    frame_size: usize,
    /// Do not verify checksums of what comes.
    #[arg(long)]
    trust_checksums: bool,
}

fn parse_ports(text: &str) -> Result<u16, String> {
    let is_first = |first: &u16| *first > 0 && first.is_multiple_of(PORT_BLOCK);
    let first = text.parse().ok().filter(is_first);
    first.ok_or_else(|| format!("not a port that is a multiple of {PORT_BLOCK}"))
}

fn parse_mode(text: &str) -> Result<LinkMode, String> {
    let found = LinkMode::NAMES.iter().find(|(name, _)| *name == text);
    found.map(|(_, mode)| *mode).ok_or_else(|| "no such mode".into())
}

/// Frames of the NIC queue.
const FRAMES: u32 = 8192;

impl BypassOptions {
    /// Opens the interface, if one is asked for: as programs do for their links.
    pub(crate) fn open(
        &self,
        to: SocketAddr,
    ) -> Result<Option<(LinkTransport, LinksTaken)>, Failure> {
        let (Some(name), Some(address)) = (&self.afxdp, self.local) else { return Ok(None) };
        let SocketAddr::V4(to) = to else { return Err("past the kernel only IPv4 goes".into()) };
        let ports = self.ports..=self.ports + (PORT_BLOCK - 1);
        let interface = LinkInterface {
            name: name.clone(),
            address,
            peers: vec![*to.ip()],
            queues: vec![LinkQueue { number: self.nic_queue, ports }],
        };
        let links = LinkOptions {
            choice: LinkChoice::Afxdp,
            mode: self.mode,
            frames: FRAMES,
            frame_bytes: u32::try_from(self.frame_size)?,
            busy_poll: Duration::ZERO,
            verify_checksums: !self.trust_checksums,
            interfaces: vec![interface],
        };
        let mut open = open_links(&links, &KernelOptions::default(), 1)?;
        let transport = open.transports.pop().expect("one for each thread");
        Ok(Some((transport, open.taken)))
    }
}

/// What passed the interface, for the report.
pub(crate) fn section(taken: &LinksTaken, transport: &LinkTransport) -> Section {
    let mut section = Section::new("bypass", "past the kernel");
    for interface in &taken.interfaces {
        section = section
            .text("interface", "interface", interface.name.clone())
            .text("mode", "mode", interface.mode.clone())
            .count("mtu", "MTU", interface.mtu.into());
    }
    for (name, count) in nic_queues(transport).into_iter().flat_map(|queue| queue.counters) {
        section = section.count(name, name, count);
    }
    section
}

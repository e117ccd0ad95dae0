//! A connection past the kernel, for `loadgen kvs`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use loadgen::content::parse_size;
use loadgen::report::Section;
use tcpstack::{
    KernelOptions, LinkChoice, LinkInterface, LinkMode, LinkOptions, LinkQueue, LinkTransport,
    LinkTuning, LinksTaken, PORT_BLOCK, nic_queues, open_links,
};

use super::Failure;

/// By which NIC queue.
#[derive(Args)]
pub(crate) struct BypassOptions {
    /// Go past the kernel, by AF_XDP on this interface. Needs root. One for each `--to`.
    #[arg(long, value_name = "INTERFACE", requires = "local", conflicts_with = "null")]
    afxdp: Vec<String>,
    /// Our address on that interface.
    #[arg(long, value_name = "ADDR")]
    local: Vec<Ipv4Addr>,
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
    /// Frames of the NIC queue, a power of two.
    #[arg(long, default_value_t = 8192, value_name = "N")]
    frames: u32,
    /// Have the kernel poll the interface for so long when we look for packets; 0: not at all.
    #[arg(long, default_value_t = 0, value_name = "MICROS")]
    busy_poll: u64,
    /// Packets that the kernel sends in one call when it copies (Linux 6.17 and later).
    #[arg(long, default_value_t = LinkTuning::default().send_budget, value_name = "N")]
    send_budget: u32,
    /// Descriptors taken from a ring at a time.
    #[arg(long, default_value_t = LinkTuning::default().batch, value_name = "N")]
    descriptors: u32,
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

impl BypassOptions {
    /// Opens an interface for each of these, if some are asked for: as programs do for their links.
    pub(crate) fn open(
        &self,
        to: &[SocketAddr],
    ) -> Result<Option<Vec<(LinkTransport, LinksTaken)>>, Failure> {
        if self.afxdp.is_empty() {
            return Ok(None);
        }
        if self.afxdp.len() != to.len() || self.local.len() != to.len() {
            return Err("for each --to there is one --afxdp, with its --local".into());
        }
        let ways = self.afxdp.iter().zip(&self.local).zip(to);
        let opened = ways.map(|((name, address), to)| self.open_one(name, *address, *to));
        opened.collect::<Result<_, _>>().map(Some)
    }

    fn open_one(
        &self,
        name: &str,
        address: Ipv4Addr,
        to: SocketAddr,
    ) -> Result<(LinkTransport, LinksTaken), Failure> {
        let SocketAddr::V4(to) = to else { return Err("past the kernel only IPv4 goes".into()) };
        let ports = self.ports..=self.ports + (PORT_BLOCK - 1);
        let interface = LinkInterface {
            name: name.to_owned(),
            address,
            peers: vec![*to.ip()],
            queues: vec![LinkQueue { number: self.nic_queue, ports }],
        };
        let links = LinkOptions {
            choice: LinkChoice::Afxdp,
            mode: self.mode,
            frames: self.frames,
            frame_bytes: u32::try_from(self.frame_size)?,
            busy_poll: Duration::from_micros(self.busy_poll),
            verify_checksums: !self.trust_checksums,
            tuning: LinkTuning { send_budget: self.send_budget, batch: self.descriptors },
            interfaces: vec![interface],
        };
        let mut open = open_links(&links, &KernelOptions::default(), 1)?;
        let transport = open.transports.pop().expect("one for each thread");
        Ok((transport, open.taken))
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

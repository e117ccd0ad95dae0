//! The way that links take: `[links]` and `[[interface]]`.

use config::{LinksKind, Table};
use tcpstack::{
    IS_BYPASS_BUILT, LinkChoice, LinkInterface, LinkMode, LinkOptions, LinkQueue, LinkTuning,
    NOT_BUILT, PORT_BLOCK, SEGMENTS_MAX,
};

/// The tables, of a gateway with so many threads that have links. Who the peers are is not known from them.
pub(super) fn read_segments(root: &Table<'_>, threads: usize) -> LinkOptions {
    let kind = LinksKind {
        transports: &LinkChoice::NAMES,
        modes: &LinkMode::NAMES,
        interfaces_max: SEGMENTS_MAX,
        threads,
    };
    let links = kind.read(root, first_port);
    if links.transport == LinkChoice::Afxdp && !IS_BYPASS_BUILT {
        root.table("links").mistake_at("transport", NOT_BUILT);
    }
    let interface = |it: config::Interface<u16>| LinkInterface {
        name: it.name,
        address: it.address,
        peers: Vec::new(),
        queues: (0..)
            .zip(it.nic_queues)
            .map(|(place, number)| LinkQueue { number, ports: block(it.extra, place) })
            .collect(),
    };
    LinkOptions {
        choice: links.transport,
        mode: links.mode,
        frames: links.frames,
        frame_bytes: links.frame_bytes,
        busy_poll: links.busy_poll,
        verify_checksums: links.verify_checksums,
        tuning: LinkTuning::default(),
        interfaces: links.interfaces.into_iter().map(interface).collect(),
    }
}

/// The first local port of an interface's first NIC queue: a card tells the blocks of ports apart by a mask.
fn first_port(table: &Table<'_>, queues: usize) -> u16 {
    let ports = u32::from(PORT_BLOCK) * u32::try_from(queues).unwrap_or(u32::MAX);
    let fits = |first: &u16| match first.is_multiple_of(PORT_BLOCK) {
        false => Err(format!("give a multiple of {PORT_BLOCK}")),
        true if u32::from(*first) + ports > 1 << 16 => {
            Err(format!("{queues} NIC queues take {ports} ports from there on; begin lower"))
        }
        true => Ok(()),
    };
    table.integer("ports").range(1024..=u16::MAX).check(fits).default(PORTS_DEFAULT)
}

/// The local ports of the NIC queue at that place.
fn block(first: u16, place: u16) -> std::ops::RangeInclusive<u16> {
    let first = first.saturating_add(place.saturating_mul(PORT_BLOCK));
    first..=first.saturating_add(PORT_BLOCK - 1)
}

/// Beyond the ports from which the kernel connects by itself (net.ipv4.ip_local_port_range), as it comes.
const PORTS_DEFAULT: u16 = 61_440;

/// No bypass: what a sender program has.
pub(super) fn kernel_only() -> LinkOptions {
    LinkOptions {
        choice: LinkChoice::Kernel,
        mode: LinkMode::Auto,
        frames: 4096,
        frame_bytes: 2048,
        busy_poll: std::time::Duration::ZERO,
        verify_checksums: true,
        tuning: LinkTuning::default(),
        interfaces: Vec::new(),
    }
}

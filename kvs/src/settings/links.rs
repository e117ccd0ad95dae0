//! The way that links take: `[links]` and `[[interface]]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use config::{LinksKind, Table};
use tcpstack::{
    IS_BYPASS_BUILT, LinkChoice, LinkInterface, LinkMode, LinkOptions, LinkQueue, LinkTuning,
    NOT_BUILT, SEGMENTS_MAX,
};

/// The tables, of a server that listens there with so many workers, each at a port of its own.
pub(super) fn read_links(root: &Table<'_>, listen: &[SocketAddr], workers: u16) -> LinkOptions {
    let kind = LinksKind {
        transports: &LinkChoice::NAMES,
        modes: &LinkMode::NAMES,
        interfaces_max: SEGMENTS_MAX,
        threads: usize::from(workers),
    };
    let links = kind.read(root, |table, _| read_peers(table, listen));
    let table = root.table("links");
    if links.transport == LinkChoice::Afxdp && !IS_BYPASS_BUILT {
        table.mistake_at("transport", NOT_BUILT);
    }
    let port = listen.first().map_or(0, SocketAddr::port);
    if links.transport != LinkChoice::Kernel && port == 0 {
        table.mistake_at("transport", "NIC queues are chosen by port: give one in `listen`, not 0");
    }
    let queue = |(number, place): (u32, u16)| {
        let port = port.saturating_add(place);
        LinkQueue { number, ports: port..=port }
    };
    let interface = |it: config::Interface<Vec<Ipv4Addr>>| LinkInterface {
        name: it.name,
        address: it.address,
        peers: it.extra,
        queues: it.nic_queues.into_iter().zip(0..).map(queue).collect(),
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

/// Who comes by that interface. Nobody can where the server does not listen.
fn read_peers(table: &Table<'_>, listen: &[SocketAddr]) -> Vec<Ipv4Addr> {
    let address = table.ipv4("address").optional();
    let is_heard = |address: Ipv4Addr| {
        listen.iter().any(|it| it.ip() == IpAddr::V4(address) || it.ip() == ANY)
    };
    if address.is_some_and(|address| !is_heard(address)) {
        table.mistake_at("address", "`listen` does not name it: nobody could come this way");
    }
    table.ipv4s("peers").not_empty().required()
}

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

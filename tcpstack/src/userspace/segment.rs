//! What a packet says that carries a TCP segment.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpVersion, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber,
};

/// The numbers of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) source: IpAddr,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) from: TcpSeqNumber,
    /// Behind the last octet, with SYN and FIN counted.
    pub(super) to: TcpSeqNumber,
    pub(super) ack: Option<TcpSeqNumber>,
    pub(super) window: u16,
    pub(super) is_syn: bool,
    pub(super) is_reset: bool,
    /// Selective acknowledgements.
    pub(super) ranges: [Option<(u32, u32)>; 3],
}

impl Segment {
    /// Reads a packet that begins with its IP header; `None` if it carries no whole TCP segment, or if that was
    /// altered on the way, as far as `verify` asks to see.
    pub(super) fn read(packet: &[u8], verify: bool) -> Option<Segment> {
        let (source, destination, tcp) = tcp_of(packet)?;
        let tcp = TcpPacket::new_checked(tcp).ok()?;
        if verify && !tcp.verify_checksum(&source, &destination) {
            return None;
        }
        let from = tcp.seq_number();
        Some(Segment {
            source: source.into(),
            source_port: tcp.src_port(),
            destination_port: tcp.dst_port(),
            from,
            to: from + tcp.segment_len(),
            ack: tcp.ack().then(|| tcp.ack_number()),
            window: tcp.window_len(),
            is_syn: tcp.syn(),
            is_reset: tcp.rst(),
            ranges: tcp.selective_ack_ranges().unwrap_or_default(),
        })
    }

    /// Whether it takes up numbers, so that the peer acknowledges it.
    pub(super) fn is_numbered(&self) -> bool {
        self.from < self.to
    }

    /// An attempt to connect.
    pub(super) fn is_attempt(&self) -> bool {
        self.is_syn && self.ack.is_none()
    }

    /// An acknowledgement of what is acknowledged already, with ranges: others arrived out of order.
    pub(super) fn tells_of_a_gap(&self) -> bool {
        !self.is_numbered() && !self.is_syn && !self.is_reset && self.ranges[0].is_some()
    }
}

/// Makes a packet acknowledge everything before `ack`. Its checksum is wrong then.
pub(super) fn acknowledge(packet: &mut [u8], ack: TcpSeqNumber) {
    let Some((_, _, tcp)) = tcp_of(packet) else { return };
    let offset = packet.len() - tcp.len();
    let mut tcp = TcpPacket::new_unchecked(&mut packet[offset..]);
    tcp.set_ack(true);
    tcp.set_ack_number(ack);
}

/// Brings a packet that is sent again up to date: what it acknowledges, and the window.
pub(super) fn renew(
    packet: &mut [u8],
    ack: TcpSeqNumber,
    window: u16,
    checksums: &ChecksumCapabilities,
) {
    let Some((source, destination, tcp)) = tcp_of(packet) else { return };
    let offset = packet.len() - tcp.len();
    let mut tcp = TcpPacket::new_unchecked(&mut packet[offset..]);
    if tcp.syn() || !tcp.ack() {
        return;
    }
    tcp.set_ack_number(ack);
    tcp.set_window_len(window);
    if checksums.tcp.tx() {
        tcp.fill_checksum(&source, &destination);
    }
}

fn tcp_of(packet: &[u8]) -> Option<(IpAddress, IpAddress, &[u8])> {
    match IpVersion::of_packet(packet).ok()? {
        IpVersion::Ipv4 => {
            let ip = Ipv4Packet::new_checked(packet).ok()?;
            let is_whole = !ip.more_frags() && ip.frag_offset() == 0;
            let is_tcp = ip.next_header() == IpProtocol::Tcp && is_whole;
            is_tcp.then(|| (ip.src_addr().into(), ip.dst_addr().into(), ip.payload()))
        }
        IpVersion::Ipv6 => {
            let ip = Ipv6Packet::new_checked(packet).ok()?;
            let is_tcp = ip.next_header() == IpProtocol::Tcp;
            is_tcp.then(|| (ip.src_addr().into(), ip.dst_addr().into(), ip.payload()))
        }
    }
}

//! What the simulated Ethernet reads of a packet, and the resets that it forges.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
pub(super) use smoltcp::wire::TcpSeqNumber;
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr};

/// What is read of a packet that a stack of ours has sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Headers {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) from: TcpSeqNumber,
    /// Behind the last octet, with SYN and FIN counted.
    pub(super) to: TcpSeqNumber,
    pub(super) is_syn: bool,
    pub(super) has_ack: bool,
}

impl Headers {
    /// Reads a packet; `None` if it is not TCP over IP version 4.
    pub(super) fn read(packet: &[u8]) -> Option<Headers> {
        let ip = Ipv4Packet::new_checked(packet).ok()?;
        if ip.next_header() != IpProtocol::Tcp {
            return None;
        }
        let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
        let from = tcp.seq_number();
        Some(Headers {
            source: SocketAddr::new(ip.src_addr().into(), tcp.src_port()),
            destination: SocketAddr::new(ip.dst_addr().into(), tcp.dst_port()),
            from,
            to: from + tcp.segment_len(),
            is_syn: tcp.syn(),
            has_ack: tcp.ack(),
        })
    }
}

/// The port that a packet is for, as a network card reads it, whatever else is in the packet.
pub(super) fn tcp_port_of(packet: &[u8]) -> Option<u16> {
    const TCP_PORT_AT: usize = 20 + 2;
    let octets = packet.get(TCP_PORT_AT..TCP_PORT_AT + 2)?;
    Some(u16::from_be_bytes([octets[0], octets[1]]))
}

/// A reset with that number, which acknowledges everything before `ack`.
pub(super) fn forge_reset(
    from: SocketAddr,
    to: SocketAddr,
    number: TcpSeqNumber,
    ack: TcpSeqNumber,
) -> Vec<u8> {
    let (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) = (from.ip(), to.ip()) else {
        panic!("packets are of IP version 4")
    };
    let tcp = TcpRepr {
        src_port: from.port(),
        dst_port: to.port(),
        control: TcpControl::Rst,
        seq_number: number,
        ack_number: Some(ack),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let payload_len = tcp.buffer_len();
    let next_header = IpProtocol::Tcp;
    let ip = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit: 64 };
    let mut packet = vec![0; ip.buffer_len() + payload_len];
    let checksums = ChecksumCapabilities::default();
    let (header, segment) = packet.split_at_mut(ip.buffer_len());
    ip.emit(&mut Ipv4Packet::new_unchecked(header), &checksums);
    let (source, destination) = (IpAddress::Ipv4(src_addr), IpAddress::Ipv4(dst_addr));
    let mut segment = TcpPacket::new_unchecked(segment);
    tcp.emit(&mut segment, &source, &destination, &checksums);
    packet
}

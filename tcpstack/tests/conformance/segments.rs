//! The transport of links: a segment that is a wire in memory, and the kernel beside it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dataplane::{WireEnd, WireOptions, wire};
use smoltcp::phy::Medium;
use tcpstack::{
    Clock, Instant, KernelOptions, KernelTransport, Segment, SegmentTransport, UserspaceOptions,
    UserspaceTransport,
};

use crate::harness::{End, Harness, Setup};

/// `ON_SEGMENT`: the ends are peers on the segment; else they reach each other by the kernel.
pub(crate) struct SegmentPair<const ON_SEGMENT: bool> {
    clock: Clock,
    transports: [SegmentTransport<WireEnd>; 2],
    address: SocketAddr,
    give_up: Instant,
}

impl<const ON_SEGMENT: bool> Harness for SegmentPair<ON_SEGMENT> {
    type Transport = SegmentTransport<WireEnd>;

    const PARTS: u32 = 2;

    fn new(setup: Setup) -> SegmentPair<ON_SEGMENT> {
        let wire_options =
            WireOptions { medium: Medium::Ip, frame_bytes: 1500, ..WireOptions::default() };
        let (client, server) = wire(wire_options);
        // The server's is an address that the kernel has too.
        let addresses = if setup.ipv6 { ["fd00::1", "::1"] } else { ["127.0.0.9", "127.0.0.1"] };
        let [client_ip, server_ip]: [IpAddr; 2] = addresses.map(|ip| ip.parse().unwrap());
        let make = |port, address, peer, seed| {
            let kernel = KernelOptions {
                connections_max: setup.connections_max,
                receive_buffer_bytes: 16 * 1024,
                socket_send_buffer_bytes: Some(32 * 1024),
                socket_receive_buffer_bytes: Some(32 * 1024),
                ..KernelOptions::default()
            };
            let options = UserspaceOptions {
                connections_max: setup.connections_max,
                send_buffer_bytes: 16 * 1024,
                receive_buffer_bytes: 16 * 1024,
                ..UserspaceOptions::new(address, seed)
            };
            let segment = Segment {
                interface: "wire".into(),
                nic_queue: 0,
                address,
                peers: if ON_SEGMENT { vec![peer] } else { Vec::new() },
                stack: UserspaceTransport::new(port, options),
            };
            SegmentTransport::new(KernelTransport::new(kernel).unwrap(), vec![segment])
        };
        let transports =
            [make(client, client_ip, server_ip, 1), make(server, server_ip, client_ip, 2)];
        let clock = Clock::new();
        SegmentPair {
            clock,
            transports,
            address: SocketAddr::new(server_ip, 0),
            give_up: clock.now() + Duration::from_secs(20),
        }
    }

    fn transport(&mut self, end: End) -> &mut SegmentTransport<WireEnd> {
        match end {
            End::Client => &mut self.transports[0],
            End::Server => &mut self.transports[1],
        }
    }

    fn server_address(&self) -> SocketAddr {
        self.address
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    /// A wire has no descriptor, so nobody sleeps.
    fn pass_time(&mut self) {
        assert!(self.clock.now() < self.give_up, "it did not happen in time");
        std::thread::yield_now();
    }
}

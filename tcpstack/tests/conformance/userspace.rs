//! The userspace transport over a wire in memory, in virtual time.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dataplane::{Port, WireEnd, WireOptions, wire};
use smoltcp::phy::Medium;
use tcpstack::{Instant, Transport, UserspaceOptions, UserspaceTransport};

use crate::harness::{End, Harness, Setup};

/// `LOSS_PPM` packets of a million are lost.
pub(crate) struct UserspacePair<const LOSS_PPM: u32> {
    now: Instant,
    transports: [UserspaceTransport<WireEnd>; 2],
    address: SocketAddr,
}

impl<const LOSS_PPM: u32> Harness for UserspacePair<LOSS_PPM> {
    type Transport = UserspaceTransport<WireEnd>;

    fn new(setup: Setup) -> UserspacePair<LOSS_PPM> {
        let options = WireOptions {
            medium: Medium::Ip,
            frame_bytes: 1500,
            loss_ppm: LOSS_PPM,
            ..WireOptions::default()
        };
        let (client, server) = wire(options);
        let addresses = if setup.ipv6 { ["fd00::1", "fd00::2"] } else { ["10.0.0.1", "10.0.0.2"] };
        let [client_ip, server_ip]: [IpAddr; 2] = addresses.map(|ip| ip.parse().unwrap());
        let options = |address, seed| UserspaceOptions {
            connections_max: setup.connections_max,
            backlog: 8,
            // Small enough that sends fall short soon.
            send_buffer_bytes: 16 * 1024,
            receive_buffer_bytes: 16 * 1024,
            ..UserspaceOptions::new(address, seed)
        };
        let transports = [
            UserspaceTransport::new(client, options(client_ip, 1)),
            UserspaceTransport::new(server, options(server_ip, 2)),
        ];
        let address = SocketAddr::new(server_ip, 25);
        UserspacePair { now: Instant::from_nanos(1_000_000_000), transports, address }
    }

    fn transport(&mut self, end: End) -> &mut UserspaceTransport<WireEnd> {
        match end {
            End::Client => &mut self.transports[0],
            End::Server => &mut self.transports[1],
        }
    }

    fn server_address(&self) -> SocketAddr {
        self.address
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn pass_time(&mut self) {
        assert!(self.now < Instant::ZERO + GIVE_UP, "it did not happen in time");
        let busy = self.transports.iter().any(|it| it.port().has_received());
        let next = self.transports.iter().filter_map(Transport::next_deadline).min();
        let most = if busy { BUSY_STEP } else { IDLE_STEP };
        let least = self.now + BUSY_STEP;
        self.now = next.map_or(self.now + most, |next| next.clamp(least, self.now + most));
    }
}

/// A turn takes at least so long.
const BUSY_STEP: Duration = Duration::from_micros(10);
const IDLE_STEP: Duration = Duration::from_millis(1);
/// Less than the least retransmission time-out of smoltcp, three times: lost packets come again much sooner.
const GIVE_UP: Duration = Duration::from_secs(3);

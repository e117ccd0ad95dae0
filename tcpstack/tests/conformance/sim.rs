//! The simulated network.

use std::net::SocketAddr;
use std::time::Duration;

use tcpstack::{Instant, SimNetwork, SimOptions, SimTransport};

use crate::harness::{End, Harness, Setup};

pub(crate) struct SimPair<const SEED: u64> {
    network: SimNetwork,
    transports: [SimTransport; 2],
    address: SocketAddr,
}

impl<const SEED: u64> Harness for SimPair<SEED> {
    type Transport = SimTransport;

    fn new(setup: Setup) -> SimPair<SEED> {
        let options = SimOptions {
            connections_max: setup.connections_max,
            window_bytes: 32 * 1024,
            piece_bytes_max: 4 * 1024,
            ..SimOptions::default()
        };
        let network = SimNetwork::new(SEED, options);
        let addresses = if setup.ipv6 { ["fd00::1", "fd00::2"] } else { ["10.0.0.1", "10.0.0.2"] };
        let [client, server] = addresses.map(|address| address.parse().unwrap());
        let transports = [network.host(client), network.host(server)];
        SimPair { network, transports, address: SocketAddr::new(server, 25) }
    }

    fn transport(&mut self, end: End) -> &mut SimTransport {
        match end {
            End::Client => &mut self.transports[0],
            End::Server => &mut self.transports[1],
        }
    }

    fn server_address(&self) -> SocketAddr {
        self.address
    }

    fn now(&self) -> Instant {
        self.network.now()
    }

    fn pass_time(&mut self) {
        let now = self.network.now();
        assert!(now < Instant::ZERO + Duration::from_secs(100), "it did not happen in time");
        let soon = now + Duration::from_millis(1);
        self.network.advance(self.network.next_event_at().map_or(soon, |at| at.min(soon)));
    }
}

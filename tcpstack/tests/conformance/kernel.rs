//! The kernel transport over loopback.

use std::net::SocketAddr;
use std::time::Duration;

use tcpstack::{Clock, Instant, KernelOptions, KernelTransport, wait_on_both};

use crate::harness::{End, Harness, Setup};

pub(crate) struct KernelPair {
    clock: Clock,
    transports: [KernelTransport; 2],
    address: SocketAddr,
    give_up: Instant,
}

impl Harness for KernelPair {
    type Transport = KernelTransport;

    fn new(setup: Setup) -> KernelPair {
        let options = KernelOptions {
            connections_max: setup.connections_max,
            receive_buffer_bytes: 16 * 1024,
            // Small enough that sends fall short soon.
            socket_send_buffer_bytes: Some(32 * 1024),
            socket_receive_buffer_bytes: Some(32 * 1024),
            ..KernelOptions::default()
        };
        let make = || KernelTransport::new(options.clone()).unwrap();
        let address = if setup.ipv6 { "[::1]:0" } else { "127.0.0.1:0" };
        let clock = Clock::new();
        KernelPair {
            clock,
            transports: [make(), make()],
            address: address.parse().unwrap(),
            give_up: clock.now() + Duration::from_secs(20),
        }
    }

    fn transport(&mut self, end: End) -> &mut KernelTransport {
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

    fn pass_time(&mut self) {
        let now = self.clock.now();
        assert!(now < self.give_up, "it did not happen in time");
        let [client, server] = &mut self.transports;
        wait_on_both(client, server, now, Some(now + Duration::from_millis(1)));
    }
}

//! The userspace transport over AF_XDP, between two network namespaces that the test makes. It needs root.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dataplane::xdp::{PortBlock, XdpMode, XdpOptions, XdpPort};
use tcpstack::{Clock, Instant, UserspaceOptions, UserspaceTransport, wait_on_both};

use crate::harness::{End, Harness, Setup};
use crate::network::{ADDRESSES, Link, options};

/// In the driver's mode, or behind the kernel's receive path.
pub(crate) struct XdpPair<const GENERIC: bool> {
    clock: Clock,
    transports: [UserspaceTransport<XdpPort>; 2],
    give_up: Instant,
    _link: Link,
}

impl<const GENERIC: bool> Harness for XdpPair<GENERIC> {
    type Transport = UserspaceTransport<XdpPort>;

    fn new(setup: Setup) -> XdpPair<GENERIC> {
        let link = Link::new(1);
        let mode = if GENERIC { XdpMode::Generic } else { XdpMode::Copy };
        let transports = [0, 1].map(|end| {
            let mut xdp: XdpOptions = options(end, mode);
            let block = |ports| PortBlock { ports, queue: 0 };
            xdp.filter.blocks = vec![block(25..=25), block(49_152..=u16::MAX)];
            let (_interface, mut ports) = link.open(end, &xdp);
            let options = UserspaceOptions {
                connections_max: setup.connections_max,
                backlog: 8,
                // Small enough that sends fall short soon.
                send_buffer_bytes: 16 * 1024,
                receive_buffer_bytes: 16 * 1024,
                ..UserspaceOptions::new(ADDRESSES[end].into(), 1)
            };
            UserspaceTransport::new(ports.remove(0), options)
        });
        let clock = Clock::new();
        XdpPair { clock, transports, give_up: clock.now() + Duration::from_secs(20), _link: link }
    }

    fn transport(&mut self, end: End) -> &mut UserspaceTransport<XdpPort> {
        match end {
            End::Client => &mut self.transports[0],
            End::Server => &mut self.transports[1],
        }
    }

    fn server_address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::from(ADDRESSES[1]), 25)
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

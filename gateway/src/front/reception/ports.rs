//! The listening ports: open exactly while there is a queue that accepts.

use std::net::SocketAddr;
use std::time::Duration;

use tcpstack::{Instant, ListenerId, Transport};
use tracing::{error, info};

/// Our listeners, by configured address.
#[derive(Debug)]
pub(super) struct Ports {
    ports: Vec<Port>,
    /// After a failure to listen: when to try again.
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct Port {
    /// With its real port once it was open, so that it comes back where clients look for it.
    address: SocketAddr,
    listener: Option<ListenerId>,
}

impl Ports {
    pub(super) fn new(addresses: &[SocketAddr]) -> Ports {
        let port = |address: &SocketAddr| Port { address: *address, listener: None };
        Ports { ports: addresses.iter().map(port).collect(), retry_at: None }
    }

    /// Opens what is closed. An address that cannot be listened at is tried again later: it may
    /// be held by a predecessor that is still leaving.
    pub(super) fn open<T: Transport>(&mut self, now: Instant, transport: &mut T) {
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        for port in self.ports.iter_mut().filter(|port| port.listener.is_none()) {
            match transport.listen(port.address) {
                Ok(listener) => {
                    port.address = transport.local_address(listener).unwrap_or(port.address);
                    port.listener = Some(listener);
                    info!(address = %port.address, "listening");
                }
                Err(failure) => {
                    error!(address = %port.address, %failure, "cannot listen, will try again");
                    self.retry_at = Some(now + LISTEN_RETRY);
                }
            }
        }
    }

    /// Closes what is open; returns whether anything was.
    pub(super) fn close<T: Transport>(&mut self, transport: &mut T) -> bool {
        let open = self.ports.iter_mut().filter_map(|port| port.listener.take());
        open.map(|listener| transport.unlisten(listener)).count() > 0
    }

    /// Where we listen now.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.ports.iter().filter(|port| port.listener.is_some()).map(|port| port.address)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.retry_at
    }
}

const LISTEN_RETRY: Duration = Duration::from_secs(1);

//! Processes that start and end.

use std::net::IpAddr;

use super::{Server, World};
use crate::gateway_host::GatewayHost;
use crate::kvs_host;
use crate::scenario::{GATEWAY_SMTP, SERVERS, STANDBYS};

impl World {
    pub(super) fn end_gateway(&mut self) {
        if let Some(mut gateway) = self.gateway.take() {
            self.paths.end(&gateway);
            self.saboteur = gateway.take_saboteur();
            self.register.abandon(self.rng.bool());
        }
    }

    pub(super) fn start_gateway(&mut self) {
        let host = GATEWAY_SMTP.ip();
        self.raise(host);
        let saboteur = self.saboteur.take();
        self.forget_orders();
        let settings = &self.scenario.settings;
        let gateway = GatewayHost::start(&self.network, host, settings, &mut self.rng, saboteur);
        self.register.begin_life();
        self.gateway_life += 1;
        self.gateway = Some(gateway);
    }

    pub(super) fn start_server(&mut self, server: usize) {
        let address = SERVERS[server];
        self.raise(address.ip());
        let transport = self.network.host(address.ip());
        let listen = [address, STANDBYS[server]];
        let listen = if self.scenario.has_standby { &listen[..] } else { &listen[..1] };
        let (worker, incarnation) =
            kvs_host::start(transport, listen, self.scenario.server, &mut self.rng);
        self.servers[server] = Some(Server { worker, incarnation });
    }

    /// Starts a host again if it is down.
    fn raise(&mut self, host: IpAddr) {
        // A host that was never there is made by its first transport.
        if self.turns > 0 && !self.network.is_up(host) {
            self.network.restart_host(host);
        }
    }
}

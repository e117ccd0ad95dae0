//! Those who are new: peers that have not been heard of, and connections that they make.

use std::net::{IpAddr, SocketAddr};

use dataplane::Port;
use smoltcp::socket::tcp::{Socket, State};

use super::connection::Connection;
use super::peer::Peer;
use super::segment::Segment;
use super::{UserspaceTransport, to_smoltcp};
use crate::transport::Event;

impl<P: Port> UserspaceTransport<P> {
    /// A packet has come from somebody new.
    pub(super) fn meet(&mut self, address: IpAddr, packet: &[u8]) {
        let Some(place) = self.peer_at(address) else {
            self.statistics.peers_full += 1;
            return;
        };
        let now = self.now;
        // It was verified before.
        let Some(segment) = Segment::read(packet, false) else { return };
        if let Some(answer) = self.port.transmit(to_smoltcp(now)) {
            self.peers[place].handle_packet(now, packet, &segment, answer, &self.capabilities);
        }
    }

    /// The peer with that address, perhaps a new one in the place of one that is not talked to.
    pub(super) fn peer_at(&mut self, address: IpAddr) -> Option<usize> {
        if let Some(place) = self.peers.iter().position(|it| it.address == address) {
            return Some(place);
        }
        let seed = self.random.u64(..);
        let Self { port, capabilities, options, .. } = self;
        let mut peer = Peer::new(address, self.now, port, capabilities, options, seed);
        for (key, listener) in self.listeners.entries() {
            peer.wait_for(options.backlog, key, *listener, options);
        }
        if self.peers.len() < self.options.peers_max {
            self.peers.push(peer);
            return Some(self.peers.len() - 1);
        }
        let is_idle = |peer: &Peer| {
            let waits = |handle| peer.sockets.get::<Socket>(handle).state() == State::Listen;
            peer.connections == 0 && peer.backlog.iter().all(|it| waits(it.handle))
        };
        let place = self.peers.iter().position(is_idle)?;
        self.peers[place] = peer;
        Some(place)
    }

    /// Takes in who has connected, while there is room.
    pub(super) fn accept(&mut self) {
        for place in 0..self.peers.len() {
            let mut number = 0;
            while number < self.peers[place].backlog.len() {
                if !self.accept_one(place, number) {
                    number += 1;
                }
            }
        }
    }

    /// Looks at one of the sockets that wait for a peer; returns whether another has taken its place.
    fn accept_one(&mut self, place: usize, number: usize) -> bool {
        let peer = &mut self.peers[place];
        let waiting = peer.backlog[number];
        let socket = peer.sockets.get::<Socket>(waiting.handle);
        let (state, remote) = (socket.state(), socket.remote_endpoint());
        match state {
            State::Listen | State::SynReceived => return false,
            State::Closed => {
                peer.remove_socket(waiting.handle, remote.map(|it| (waiting.port, it.port)));
            }
            _ if self.connections.is_full() => return false,
            _ => {
                let remote = remote.expect("it is connected");
                let ports = (waiting.port, remote.port);
                let connection = Connection::new(place, waiting.handle, ports, None);
                let key = self.connections.insert(connection).expect("it is not full");
                peer.connections += 1;
                let peer = SocketAddr::new(peer.address, remote.port);
                let (listener, connection) = (waiting.listener.into(), key.into());
                self.events.push_back(Event::Accepted { listener, connection, peer });
            }
        }
        let peer = &mut self.peers[place];
        peer.backlog.swap_remove(number);
        if let Some(address) = self.listeners.get(waiting.listener) {
            peer.wait_for(1, waiting.listener, *address, &self.options);
        }
        true
    }
}

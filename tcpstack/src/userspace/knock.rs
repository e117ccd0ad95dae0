//! Finding out that a peer's process has ended.
//!
//! Once a process and its XDP program are gone, its kernel gets what we send. It says nothing of connections that it does
//! not know: it is kept from that, as it would end those of a process whose program is only just being attached again.
//! But it refuses a new connection where nobody listens, and whoever lives listens in the kernel, too. So where a peer
//! that we have connected to falls silent we knock: we try to connect once more. A refusal says that what we have there
//! is over, anything else says nothing.

use std::net::SocketAddr;
use std::time::Duration;

use dataplane::Port;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use super::UserspaceTransport;
use super::orphan::Orphan;
use crate::time::Instant;
use crate::transport::{CloseReason, Event};

/// One attempt.
#[derive(Debug)]
pub(super) struct Knock {
    pub(super) peer: usize,
    handle: SocketHandle,
    pub(super) ports: (u16, u16),
    /// Nobody has answered then.
    until: Instant,
    /// The stack has given it up, and not because of anything that came.
    timed_out: bool,
}

/// How long an answer is waited for, and between two attempts.
const PATIENCE: Duration = Duration::from_millis(200);

/// Attempts under way. At the bound no further one is made before one of them is over.
const KNOCKS_MAX: usize = 16;

impl<P: Port> UserspaceTransport<P> {
    /// Notes which attempts the stack has given up, before anything that has come is looked at.
    pub(super) fn note_unanswered(&mut self) {
        for knock in &mut self.knocks {
            let state = self.peers[knock.peer].socket(knock.handle).state();
            knock.timed_out |= state == State::Closed;
        }
    }

    /// Hears what became of the attempts, and makes some where a peer is silent.
    pub(super) fn knock(&mut self) {
        let now = self.now;
        if !self.knocks.is_empty() {
            self.hear_knocks();
        }
        for place in 0..self.peers.len() {
            let peer = &mut self.peers[place];
            if !peer.is_silent() || peer.knock_at > now {
                continue;
            }
            peer.knock_at = now + PATIENCE;
            let peer = &self.peers[place];
            let silent = self.connections.entries().filter(|(_, it)| {
                it.peer == place && it.is_ours && !it.is_dead && peer.is_silent_at(it.ports)
            });
            let mut ports: Vec<u16> = silent.map(|(_, it)| it.ports.1).collect();
            ports.sort_unstable();
            ports.dedup();
            ports.into_iter().for_each(|port| self.knock_at(place, port));
        }
    }

    /// When [`knock`](Self::knock) has something to do, if nothing comes.
    pub(super) fn knock_deadline(&self) -> Option<Instant> {
        let answers = self.knocks.iter().map(|it| it.until).min();
        let silent = self.peers.iter().filter(|it| it.is_silent()).map(|it| it.knock_at).min();
        [answers, silent].into_iter().flatten().min()
    }

    fn knock_at(&mut self, place: usize, port: u16) {
        let is_there = |it: &Knock| it.peer == place && it.ports.1 == port;
        if self.knocks.len() >= KNOCKS_MAX || self.knocks.iter().any(is_there) {
            return;
        }
        let remote = SocketAddr::new(self.peers[place].address, port);
        let Some(local) = self.free_port(remote) else { return };
        let from = (self.options.address, local);
        let peer = &mut self.peers[place];
        let Some(handle) = peer.connect(port, from, &self.options) else { return };
        peer.connections += 1;
        let until = self.now + PATIENCE;
        let ports = (local, port);
        self.knocks.push(Knock { peer: place, handle, ports, until, timed_out: false });
        self.statistics.knocks += 1;
    }

    fn hear_knocks(&mut self) {
        for knock in std::mem::take(&mut self.knocks) {
            let socket = self.peers[knock.peer].socket(knock.handle);
            let state = socket.state();
            if state == State::SynSent && self.now < knock.until {
                self.knocks.push(knock);
                continue;
            }
            socket.abort();
            let Knock { peer, handle, ports, timed_out, .. } = knock;
            self.orphans.push(Orphan { peer, handle, ports: Some(ports), expires_at: self.now });
            if state == State::Closed && !timed_out {
                self.end_silent(peer, ports.1);
            }
        }
    }

    /// Nobody listens there any more.
    fn end_silent(&mut self, place: usize, port: u16) {
        let Self { connections, peers, orphans, events, now, .. } = self;
        let peer = &mut peers[place];
        for (key, connection) in connections.entries_mut() {
            let is_there = connection.peer == place && connection.ports.1 == port;
            let is_waiting = connection.is_ours && !connection.is_dead;
            if is_there && is_waiting && peer.is_silent_at(connection.ports) {
                peer.socket(connection.handle).abort();
                connection.is_dead = true;
                orphans.push(Orphan::of(connection, *now));
                let reason = CloseReason::Reset;
                events.push_back(Event::Closed { connection: key.into(), reason });
            }
        }
    }
}

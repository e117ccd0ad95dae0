//! Connections that their program has let go of: they go on until what was said has arrived, or a time is over.

use dataplane::Port;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};

use super::UserspaceTransport;
use super::connection::Connection;
use crate::table::Key;
use crate::time::Instant;
use crate::transport::ConnectionId;

#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) peer: usize,
    pub(super) handle: SocketHandle,
    pub(super) ports: Option<(u16, u16)>,
    pub(super) expires_at: Instant,
}

impl Orphan {
    pub(super) fn of(connection: &Connection, expires_at: Instant) -> Orphan {
        let Connection { peer, handle, ports, .. } = *connection;
        Orphan { peer, handle, ports: Some(ports), expires_at }
    }
}

impl<P: Port> UserspaceTransport<P> {
    /// Lets go of a connection; what is left of it ends by then.
    pub(super) fn let_go(
        &mut self,
        id: ConnectionId,
        expires_at: Instant,
        end: impl FnOnce(&mut Socket<'static>),
    ) {
        let Some(connection) = self.connections.remove(Key::from(id)) else { return };
        if !connection.is_dead {
            end(self.peers[connection.peer].socket(connection.handle));
            self.orphans.push(Orphan::of(&connection, expires_at));
        }
    }

    /// Discards what comes for connections that were let go of, and drops those that have ended.
    pub(super) fn finish_orphans(&mut self) {
        let Self { orphans, peers, now, .. } = self;
        orphans.retain(|orphan| {
            let peer = &mut peers[orphan.peer];
            let socket = peer.socket(orphan.handle);
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), ())).expect("it can");
            }
            // Closed, and the peer told so.
            if socket.state() == State::Closed && socket.remote_endpoint().is_none() {
                peer.remove_socket(orphan.handle, orphan.ports);
                peer.connections -= 1;
                return false;
            }
            if *now >= orphan.expires_at {
                socket.abort();
            }
            true
        });
    }
}

//! One connection of a userspace transport, between its socket and its events.

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};

use crate::time::Instant;
use crate::transport::{CloseReason, ConnectionId, Event, RecvError};

#[derive(Debug)]
pub(super) struct Connection {
    /// Its peer, by place.
    pub(super) peer: usize,
    pub(super) handle: SocketHandle,
    /// Our port and the peer's.
    pub(super) ports: (u16, u16),
    /// We have connected, and not the peer.
    pub(super) is_ours: bool,
    /// Until when `connect` may take, while it does.
    connect_deadline: Option<Instant>,
    pub(super) receiving: bool,
    /// Left by the consumer, at the front of the socket's buffer.
    left: usize,
    awaits_room: bool,
    finishing: bool,
    /// The peer's end of stream has come.
    end_received: bool,
    /// `Finished` was answered.
    finished: bool,
    /// The stack has ended it while it sent, and not because of anything that came.
    timed_out: bool,
    /// It is over, and its event waits to be told.
    pub(super) is_dead: bool,
}

/// What became of a connection.
pub(super) enum Finding {
    /// So much happened.
    Events([Option<Event>; 3]),
    /// It is over.
    Over(CloseReason),
}

impl Connection {
    pub(super) fn new(
        peer: usize,
        handle: SocketHandle,
        ports: (u16, u16),
        connect_deadline: Option<Instant>,
    ) -> Connection {
        Connection {
            peer,
            handle,
            ports,
            is_ours: connect_deadline.is_some(),
            connect_deadline,
            receiving: true,
            left: 0,
            awaits_room: false,
            finishing: false,
            end_received: false,
            finished: false,
            timed_out: false,
            is_dead: false,
        }
    }

    /// When connecting has taken too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.connect_deadline
    }

    /// Looks at the socket before anything that has come is looked at.
    pub(super) fn note_time_out(&mut self, socket: &Socket<'_>) {
        self.timed_out |= socket.state() == State::Closed;
    }

    /// Looks at the socket after packets were exchanged.
    pub(super) fn inspect(
        &mut self,
        now: Instant,
        id: ConnectionId,
        socket: &Socket<'_>,
    ) -> Finding {
        use State::{CloseWait, Closed, Closing, LastAck, TimeWait};
        let state = socket.state();
        let mut events = [None; 3];
        if let Some(deadline) = self.connect_deadline {
            if !socket.may_send() {
                return match state {
                    Closed if !self.timed_out => Finding::Over(CloseReason::Refused),
                    Closed => Finding::Over(CloseReason::TimedOut),
                    _ if now >= deadline => Finding::Over(CloseReason::TimedOut),
                    _ => Finding::Events(events),
                };
            }
            self.connect_deadline = None;
            events[0] = Some(Event::Connected(id));
        }
        self.end_received |= matches!(state, CloseWait | LastAck | Closing | TimeWait);
        if state == Closed && !(self.end_received && self.finishing) {
            let reason = if self.timed_out { CloseReason::TimedOut } else { CloseReason::Reset };
            return Finding::Over(reason);
        }
        let room = socket.send_capacity() - socket.send_queue();
        if self.awaits_room && socket.may_send() && room >= socket.send_capacity() / 3 {
            self.awaits_room = false;
            events[1] = Some(Event::Writable(id));
        }
        if self.is_ready(socket) {
            events[2] = Some(Event::Readable(id));
        }
        Finding::Events(events)
    }

    /// Whether there is something to receive.
    pub(super) fn is_ready(&self, socket: &Socket<'_>) -> bool {
        let end = self.end_received && !self.finished;
        self.receiving && (socket.can_recv() || end)
    }

    pub(super) fn recv<R>(
        &mut self,
        socket: &mut Socket<'_>,
        consume: impl FnOnce(&[u8]) -> (usize, R),
    ) -> Result<R, RecvError> {
        if !socket.can_recv() {
            self.finished |= self.end_received;
            return Err(if self.finished { RecvError::Finished } else { RecvError::WouldBlock });
        }
        let received = socket.recv(|bytes| {
            let offered = if self.left > 0 { self.left } else { bytes.len() };
            let (taken, result) = consume(&bytes[..offered]);
            assert!(taken <= offered, "no more is taken than is there");
            self.left = offered - taken;
            (taken, result)
        });
        Ok(received.expect("there is something to receive"))
    }

    /// Takes what there is room for; `None` if the connection is over.
    pub(super) fn send(&mut self, socket: &mut Socket<'_>, bytes: &[u8]) -> Option<usize> {
        assert!(!self.finishing, "nothing is said after the last word");
        let taken = match self.connect_deadline {
            Some(_) => 0,
            None => socket.send_slice(bytes).ok()?,
        };
        self.awaits_room |= taken < bytes.len();
        Some(taken)
    }

    pub(super) fn finish(&mut self, socket: &mut Socket<'_>) {
        self.finishing = true;
        socket.close();
    }
}

//! One simulated connection: two ends and what is on the way between them.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::time::Instant;
use crate::transport::ConnectionId;

/// Which end; 0 is the one that connected.
pub(super) type Side = usize;

/// A connection, from the first `connect` until neither end nor anything on the way is left.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) addresses: [SocketAddr; 2],
    pub(super) ends: [End; 2],
    /// `ways[side]` leads from that side to the other.
    pub(super) ways: [Way; 2],
    /// Nothing arrives any more, and nobody is told.
    pub(super) lost: bool,
}

/// What a host knows of a connection.
#[derive(Debug)]
pub(super) struct End {
    pub(super) state: EndState,
    /// The handshake is not done.
    pub(super) connecting: bool,
    /// Received and not yet taken.
    pub(super) received: VecDeque<Vec<u8>>,
    /// How much of the first piece was taken.
    pub(super) taken: usize,
    /// The first piece was offered, so nothing may be joined to it.
    pub(super) offered: bool,
    /// The peer's end of stream is behind `received`.
    pub(super) end_received: bool,
    /// `Finished` was answered.
    pub(super) finished: bool,
    /// Not paused.
    pub(super) receiving: bool,
    /// Bytes sent that the peer's program has not taken, as far as this end knows. At most the
    /// window.
    pub(super) outstanding: usize,
    /// A send was short.
    pub(super) awaits_room: bool,
    /// `finish` was called.
    pub(super) finishing: bool,
    /// Bytes (and the end of the stream as one) sent and not acknowledged.
    pub(super) unacknowledged: usize,
    /// When something was last acknowledged, or first sent.
    pub(super) progress_at: Instant,
    /// When the timer of this end goes off; earlier or later events of it are void.
    pub(super) timer_at: Option<Instant>,
}

/// Who stands behind an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EndState {
    /// The attempt to connect has not arrived yet.
    Absent,
    /// A program, which knows it by this name.
    Named {
        /// Which transport.
        transport: usize,
        /// Its name there.
        name: ConnectionId,
    },
    /// The program closed it; the stack finishes it.
    Orphan {
        /// When.
        since: Instant,
    },
    /// Nobody remembers it. Who sends here is answered with a reset.
    Vanished,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// When it is due, and what.
    pub(super) items: VecDeque<(Instant, Item)>,
    /// When the last one pushed is due: nothing overtakes it.
    pub(super) last_due: Instant,
    /// The first one was due and could not arrive.
    pub(super) stalled: bool,
}

/// What travels.
#[derive(Debug)]
pub(super) enum Item {
    Syn,
    SynAck,
    Refuse,
    Piece(Vec<u8>),
    End,
    /// So many bytes have arrived.
    Ack(usize),
    /// So many bytes have been taken.
    Window(usize),
    Reset,
}

impl Item {
    /// For the trace.
    pub(super) fn code(&self) -> u64 {
        match self {
            Item::Syn => 1,
            Item::SynAck => 2,
            Item::Refuse => 3,
            Item::Piece(_) => 4,
            Item::End => 5,
            Item::Ack(_) => 6,
            Item::Window(_) => 7,
            Item::Reset => 8,
        }
    }
}

impl End {
    pub(super) fn new(state: EndState) -> End {
        End {
            state,
            connecting: true,
            received: VecDeque::new(),
            taken: 0,
            offered: false,
            end_received: false,
            finished: false,
            receiving: true,
            outstanding: 0,
            awaits_room: false,
            finishing: false,
            unacknowledged: 0,
            progress_at: Instant::ZERO,
            timer_at: None,
        }
    }

    /// Whether `recv` would give something that the program wants.
    pub(super) fn is_ready(&self) -> bool {
        let something = !self.received.is_empty() || (self.end_received && !self.finished);
        self.receiving && something
    }

    /// Keeps a piece that came in; joined to the last one if `join` and that was not offered yet.
    pub(super) fn store(&mut self, piece: Vec<u8>, join: bool) {
        let untouched = self.received.len() > 1 || !self.offered;
        match self.received.back_mut() {
            Some(last) if join && untouched => last.extend_from_slice(&piece),
            _ => self.received.push_back(piece),
        }
    }

    /// Takes the first piece out, to be put back by [`End::put_back`].
    pub(super) fn take_first(&mut self) -> Option<(Vec<u8>, usize)> {
        self.received.pop_front().map(|piece| (piece, self.taken))
    }

    /// Puts the first piece back, of which `taken` bytes have been taken by now.
    pub(super) fn put_back(&mut self, piece: Vec<u8>, taken: usize) {
        assert!(taken <= piece.len(), "took more than was offered");
        if taken == piece.len() {
            self.taken = 0;
            self.offered = false;
        } else {
            self.taken = taken;
            self.offered = true;
            self.received.push_front(piece);
        }
    }
}

impl Connection {
    /// Whether nothing more can come of it.
    pub(super) fn is_over(&self) -> bool {
        let unnamed = |end: &End| matches!(end.state, EndState::Orphan { .. } | EndState::Vanished);
        let absent = |end: &End| end.state == EndState::Absent;
        let [client, server] = &self.ends;
        let idle = self.ways.iter().all(|way| way.items.is_empty());
        idle && unnamed(client) && (unnamed(server) || absent(server))
    }
}

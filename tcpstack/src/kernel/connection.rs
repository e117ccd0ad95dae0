//! One kernel socket that is, or becomes, a connection.

use std::io::{self, IoSlice, Read};
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;
use socket2::SockRef;

use crate::transport::CloseReason;

/// A place in the table of connections. The flags say what is known about the socket, so that no
/// system call is made to learn it again.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    /// The socket may have bytes, or its end: an edge was seen, and no read has met the bottom
    /// since.
    pub(super) readable: bool,
    /// The peer's end of the stream is at hand behind the bytes (EPOLLRDHUP, EPOLLHUP, EPOLLERR).
    pub(super) hung_up: bool,
    /// Urgent data is in the stream: a read stops short at its mark (tcp(7)), so that a short read
    /// says nothing.
    pub(super) urgent: bool,
    /// A send found it over, and what the peer said last may still be there to receive.
    pub(super) broken: Option<CloseReason>,
    /// `Finished` was answered.
    pub(super) finished: bool,
    /// Not paused by the caller.
    pub(super) receiving: bool,
    /// The socket is registered for reading. Taken off when an edge comes while paused.
    pub(super) read_interest: bool,
    /// A send took less than was offered: the caller awaits `Writable`.
    pub(super) awaits_room: bool,
    /// `finish` was called.
    pub(super) finishing: bool,
    /// It is in the ready list.
    pub(super) listed: bool,
    /// A `Readable` for it is in the list of events.
    pub(super) announced: bool,
    /// Bytes that the consumer left, from `left_start` on; empty or not longer than the scratch.
    left: Vec<u8>,
    left_start: usize,
}

/// How far a connection is.
#[derive(Debug)]
pub(super) enum Phase {
    /// `connect` is under way.
    Connecting(TcpStream),
    /// Established.
    Open(TcpStream),
    /// It is over; the socket is closed, the `Closed` event not yet handed out.
    Dead,
}

/// Why nothing was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    WouldBlock,
    Finished,
    /// Just found out: the caller of this module has to bury it.
    Died(CloseReason),
    /// It died before.
    Gone,
}

impl Connection {
    pub(super) fn new(phase: Phase) -> Connection {
        Connection {
            phase,
            readable: false,
            hung_up: false,
            urgent: false,
            broken: None,
            finished: false,
            receiving: true,
            read_interest: true,
            awaits_room: false,
            finishing: false,
            listed: false,
            announced: false,
            left: Vec::new(),
            left_start: 0,
        }
    }

    /// Whether a `recv` now might give something, and the caller wants it.
    pub(super) fn is_ready(&self) -> bool {
        self.receiving && (self.readable || !self.left.is_empty())
    }

    /// Whether the kernel may hold bytes that nobody received, which a plain close would answer
    /// with a reset.
    pub(super) fn may_have_unread(&self) -> bool {
        !self.finished
    }

    /// See [`crate::Transport::recv`].
    pub(super) fn recv<R>(
        &mut self,
        scratch: &mut [u8],
        consume: impl FnOnce(&[u8]) -> (usize, R),
    ) -> Result<R, Stop> {
        if !self.left.is_empty() {
            let offered = &self.left[self.left_start..];
            let (taken, result) = consume(offered);
            assert!(taken <= offered.len(), "took more than was offered");
            self.take_left(taken);
            return Ok(result);
        }
        let count = self.read(scratch)?;
        let offered = &scratch[..count];
        let (taken, result) = consume(offered);
        assert!(taken <= count, "took more than was offered");
        if taken < count {
            self.left.extend_from_slice(&offered[taken..]);
        }
        Ok(result)
    }

    /// See [`crate::Transport::recv_into`].
    pub(super) fn recv_into(&mut self, into: &mut [u8]) -> Result<usize, Stop> {
        assert!(!into.is_empty(), "nowhere to receive to");
        if self.left.is_empty() {
            return self.read(into);
        }
        let offered = &self.left[self.left_start..];
        let count = offered.len().min(into.len());
        into[..count].copy_from_slice(&offered[..count]);
        self.take_left(count);
        Ok(count)
    }

    fn take_left(&mut self, taken: usize) {
        self.left_start += taken;
        if self.left_start == self.left.len() {
            // The memory goes back: few connections leave bytes, and not often.
            self.left = Vec::new();
            self.left_start = 0;
        }
    }

    /// One read from the socket, without one when it is known to be empty.
    ///
    /// The registration is edge-triggered, so `readable` may be cleared only when the next byte is
    /// sure to bring a new edge. That is so after EAGAIN. It is also so after a read that returned
    /// less than it could hold, which spares the system call that returns EAGAIN: Linux returns
    /// short only when the receive queue and the backlog were empty under the socket's lock, and
    /// whatever is queued later calls `sk_data_ready`, hence a new edge. Two things can lie behind
    /// a short read without a new edge, because the last edge announced them already: the end of
    /// the stream or an error (`hung_up`), and bytes behind an urgent mark (`urgent`). With either
    /// flag set, reading goes on to the bottom.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Stop> {
        let Phase::Open(stream) = &mut self.phase else {
            let dead = matches!(self.phase, Phase::Dead);
            return Err(if dead { Stop::Gone } else { Stop::WouldBlock });
        };
        if self.finished {
            return Err(Stop::Finished);
        }
        if !self.readable {
            return Err(Stop::WouldBlock);
        }
        loop {
            match stream.read(into) {
                Ok(0) => {
                    self.readable = false;
                    self.finished = self.broken.is_none();
                    return Err(self.broken.map_or(Stop::Finished, Stop::Died));
                }
                Ok(count) => {
                    self.readable = count == into.len() || self.hung_up || self.urgent;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Err(self.broken.map_or(Stop::WouldBlock, Stop::Died));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Died(close_reason(&error))),
            }
        }
    }

    /// Hands bytes to the kernel; `Ok(less than offered)` means that it has no more room.
    ///
    /// MSG_NOSIGNAL: a peer that is gone must be an error here, never a SIGPIPE, whoever links us
    /// and whatever that program does with signals.
    ///
    /// A peer that refuses what we send says so, closes, and resets what still comes in; its words
    /// may lie unread when our send meets the reset. So the connection is only `broken` then, and
    /// is over when all has been received.
    pub(super) fn send(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, Stop> {
        assert!(!self.finishing, "nothing may be sent after finish");
        let stream = match &self.phase {
            Phase::Open(stream) => stream,
            Phase::Connecting(_) => {
                self.awaits_room = true;
                return Ok(0);
            }
            Phase::Dead => return Err(Stop::Gone),
        };
        if self.broken.is_some() {
            return Ok(0);
        }
        let socket = SockRef::from(stream);
        let mut taken = 0;
        for chunk in slices.chunks(SLICES_PER_CALL) {
            let offered: usize = chunk.iter().map(|slice| slice.len()).sum();
            if offered == 0 {
                continue;
            }
            let sent = loop {
                let sent = match chunk {
                    [one] => socket.send_with_flags(one, libc::MSG_NOSIGNAL),
                    many => socket.send_vectored_with_flags(many, libc::MSG_NOSIGNAL),
                };
                match sent {
                    Ok(sent) => break sent,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 0,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if self.receiving && !self.finished => {
                        self.broken = Some(close_reason(&error));
                        self.readable = true;
                        self.hung_up = true;
                        return Ok(taken);
                    }
                    Err(error) => return Err(Stop::Died(close_reason(&error))),
                }
            };
            taken += sent;
            if sent < offered {
                // The kernel has set SOCK_NOSPACE: an EPOLLOUT edge follows when a third is free.
                self.awaits_room = true;
                break;
            }
        }
        Ok(taken)
    }

    /// Ends our direction, at once or when the connection is established.
    pub(super) fn finish(&mut self) {
        self.finishing = true;
        if let Phase::Open(stream) = &self.phase {
            // It fails only when the connection is over already, which an event will tell.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// Closes the socket so that the peer sees a reset.
    pub(super) fn reset(self) {
        if let Phase::Open(stream) | Phase::Connecting(stream) = self.phase {
            // socket(7): a close with SO_LINGER of zero resets. If it cannot be set the
            // connection is over already.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// What an error of a socket means for the connection (tcp(7), ip(7)).
pub(super) fn close_reason(error: &io::Error) -> CloseReason {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => CloseReason::Refused,
        Some(libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED) => CloseReason::Reset,
        Some(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::EHOSTDOWN) => CloseReason::TimedOut,
        _ => CloseReason::LocalError,
    }
}

/// sendmsg(2) takes at most IOV_MAX slices; more go out in several calls.
const SLICES_PER_CALL: usize = 1024;

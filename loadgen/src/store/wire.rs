//! One connection to a store of others: a transport and what waits to be sent, joined.

use std::io::IoSlice;
use std::net::SocketAddr;

use memchr::memchr;
use tcpstack::{
    CloseReason, ConnectionId, Event as TcpEvent, Instant, OpenError, RecvError, Transport,
};

use super::outbox::Outbox;

/// A connection, with its requests on their way out.
pub(super) struct Wire<T: Transport> {
    pub(super) transport: T,
    connection: ConnectionId,
    pub(super) out: Outbox,
    connected: bool,
    over: Option<Over>,
}

/// Why a connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    /// It ended.
    Closed(CloseReason),
    /// The server finished it.
    Finished,
}

/// The most slices handed to one `send`: as our own client's.
const SLICES_PER_SEND: usize = 128;

impl<T: Transport> Wire<T> {
    pub(super) fn open(mut transport: T, now: Instant, to: SocketAddr) -> Result<Self, OpenError> {
        let connection = transport.connect(now, to, None)?;
        Ok(Wire { transport, connection, out: Outbox::default(), connected: false, over: None })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(super) fn over(&self) -> Option<Over> {
        self.over
    }

    /// Hands what came to `consume`. Answers whether there was anything.
    pub(super) fn receive(&mut self, now: Instant, mut consume: impl FnMut(&[u8])) -> bool {
        self.transport.poll(now);
        let mut worked = false;
        while let Some(event) = self.transport.next_event() {
            worked = true;
            match event {
                TcpEvent::Connected(_) => self.connected = true,
                TcpEvent::Readable(id) => {
                    let received = self.transport.recv(id, |bytes| {
                        consume(bytes);
                        (bytes.len(), ())
                    });
                    if received == Err(RecvError::Finished) {
                        self.over = Some(Over::Finished);
                    }
                }
                TcpEvent::Closed { reason, .. } => self.over = Some(Over::Closed(reason)),
                TcpEvent::Writable(_) => {}
                TcpEvent::Accepted { .. } => unreachable!("a client does not listen"),
            }
        }
        worked
    }

    /// Sends what there is, as far as the transport takes it.
    pub(super) fn send(&mut self, now: Instant) {
        while self.connected && !self.out.is_empty() {
            let mut pieces: [&[u8]; SLICES_PER_SEND] = [&[]; SLICES_PER_SEND];
            let filled = self.out.peek(&mut pieces);
            let slices: [IoSlice<'_>; SLICES_PER_SEND] = pieces.map(IoSlice::new);
            let offered: usize = pieces[..filled].iter().map(|piece| piece.len()).sum();
            let Ok(sent) = self.transport.send(self.connection, &slices[..filled]) else { break };
            self.out.advance(sent);
            if sent < offered {
                break;
            }
        }
        self.transport.flush(now);
    }

    /// Ends the connection and gives the transport back.
    pub(super) fn close(mut self, now: Instant) -> T {
        self.transport.close(self.connection);
        self.transport.flush(now);
        self.transport
    }
}

/// Lines out of pieces that are cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

/// Longer lines than that are nobody's answer.
const LINE_SIZE_BYTES_MAX: usize = 1024;

impl Lines {
    /// Calls `take` for each whole line, without its end, until that fails. What is behind the last
    /// line's end is kept.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        while let Some(end) = memchr(b'\n', bytes) {
            let line = &bytes[..end];
            bytes = &bytes[end + 1..];
            if self.begun.is_empty() {
                take(without_cr(line))?;
            } else {
                self.begun.extend_from_slice(line);
                take(without_cr(&self.begun))?;
                self.begun.clear();
            }
        }
        self.begun.extend_from_slice(bytes);
        if self.begun.len() > LINE_SIZE_BYTES_MAX {
            return Err("the server sends a line without end".into());
        }
        Ok(())
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let text = b"HD\r\n\r\nVA 5\r\nhello\r\nEN\r\n";
        for step in 1..text.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for piece in text.chunks(step) {
                let taken = lines.feed(piece, |line| {
                    seen.push(String::from_utf8(line.to_vec()).unwrap());
                    Ok(())
                });
                taken.unwrap();
            }
            assert_eq!(seen, ["HD", "", "VA 5", "hello", "EN"], "in pieces of {step}");
        }
    }

    #[test]
    fn a_line_without_end_is_an_error() {
        let mut lines = Lines::default();
        let fed = (0..3).map(|_| lines.feed(&[b'x'; 600], |_| Ok(()))).collect::<Vec<_>>();
        assert!(fed[0].is_ok() && fed[1].is_err(), "{fed:?}");
    }
}

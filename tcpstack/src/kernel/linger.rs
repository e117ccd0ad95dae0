//! Connections that the caller has closed and whose last bytes must still arrive.
//!
//! close(2) on a socket with unread bytes, and any byte that comes in after it, makes Linux send a
//! reset, upon which the peer's kernel discards what its program has not yet read: the final reply.
//! (RFC 1122 section 4.2.2.13; RFC 9112 section 9.6 has the same remedy.) So our direction is shut
//! down, and the peer's bytes are read and thrown away until it has closed too, for a while.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::Shutdown;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::table::{Key, Table};
use crate::time::Instant;

/// The lingering sockets of one transport.
#[derive(Debug)]
pub(super) struct Lingering {
    sockets: Table<Socket>,
    /// All have the same time to live, so the order of entry is the order of expiry. Holds names
    /// of sockets that are gone, too; they are weeded out when they outnumber the others.
    expiries: VecDeque<(Instant, Key)>,
    ready: VecDeque<Key>,
    /// Closed before the peer was done, by time or by number.
    cut_short: u64,
}

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    listed: bool,
}

impl Lingering {
    /// Room for `max` sockets.
    pub(super) fn new(max: usize) -> Lingering {
        Lingering {
            sockets: Table::new(max),
            expiries: VecDeque::new(),
            ready: VecDeque::new(),
            cut_short: 0,
        }
    }

    /// Takes over a socket that the caller has closed. When there are too many, the oldest is closed
    /// for good.
    pub(super) fn add(
        &mut self,
        mut stream: TcpStream,
        registry: &Registry,
        token: impl FnOnce(Key) -> Token,
        expiry: Instant,
    ) {
        if stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        while self.sockets.is_full() {
            let Some((_, oldest)) = self.expiries.pop_front() else {
                // No room at all is configured.
                self.cut_short += 1;
                return;
            };
            self.cut_short += u64::from(self.sockets.remove(oldest).is_some());
        }
        let key = self.sockets.next_key().expect("there is room");
        // Registering again reports the present state once more: no byte is overlooked.
        if registry.reregister(&mut stream, token(key), Interest::READABLE).is_err() {
            self.cut_short += 1;
            return;
        }
        self.sockets.insert(Socket { stream, listed: false });
        if self.expiries.len() > 2 * self.sockets.len() + 64 {
            let sockets = &self.sockets;
            self.expiries.retain(|&(_, key)| sockets.get(key).is_some());
        }
        self.expiries.push_back((expiry, key));
    }

    /// An edge came for this one.
    pub(super) fn handle_readiness(&mut self, key: Key) {
        if let Some(socket) = self.sockets.get_mut(key)
            && !socket.listed
        {
            socket.listed = true;
            self.ready.push_back(key);
        }
    }

    /// Discards what came in, a scratch for each of a few ready sockets, and closes those that are
    /// done or out of time.
    pub(super) fn poll(&mut self, now: Instant, scratch: &mut [u8]) {
        for _ in 0..self.ready.len().min(READS_PER_POLL) {
            let Some(key) = self.ready.pop_front() else { break };
            let Some(socket) = self.sockets.get_mut(key) else { continue };
            match socket.stream.read(scratch) {
                Ok(count) if count > 0 => self.ready.push_back(key),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.listed = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.ready.push_back(key);
                }
                Ok(_) | Err(_) => drop(self.sockets.remove(key)),
            }
        }
        while let Some(&(expiry, key)) = self.expiries.front() {
            let alive = self.sockets.get(key).is_some();
            if alive && expiry > now {
                break;
            }
            self.expiries.pop_front();
            self.cut_short += u64::from(self.sockets.remove(key).is_some());
        }
    }

    /// Whether a poll would read something.
    pub(super) fn has_ready(&self) -> bool {
        self.ready.iter().any(|&key| self.sockets.get(key).is_some())
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.expiries.front().map(|&(expiry, _)| expiry)
    }

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn cut_short(&self) -> u64 {
        self.cut_short
    }
}

/// How many sockets are read from in one poll. The others wait for the next: those who talk to a
/// closed connection must not delay the rest.
const READS_PER_POLL: usize = 16;

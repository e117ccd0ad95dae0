//! The one interface to TCP.
//!
//! A [`Transport`] is driven by one thread, which owns it. A turn of the loop is
//!
//! 1. [`Transport::poll`] moves what the network has into the transport and collects events;
//! 2. [`Transport::next_event`] until `None`, with `recv` and `send` as the events call for;
//! 3. [`Transport::flush`] once, so that stacks which batch (AF_XDP) go to the device once a turn;
//! 4. when there was nothing to do, [`Transport::wait`] until [`Transport::next_deadline`] or a
//!    deadline of the caller's.
//!
//! No method blocks but `wait`. The trait is used through generics, never through `dyn`.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

use crate::time::Instant;

/// Names a connection of one transport.
///
/// Index and generation: a name that outlived its connection names nothing, never a newer
/// connection in the same place. Calls with a dead name answer `Gone` or do nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Place in the transport's table; small, so callers may use it to index a table of their own.
    pub index: u32,
    /// How often that place has been used.
    pub generation: u32,
}

/// Names a listener of one transport; see [`ConnectionId`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ListenerId {
    /// Place in the transport's table.
    pub index: u32,
    /// How often that place has been used.
    pub generation: u32,
}

/// What happened to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A peer connected to one of our listeners. The name is valid from here on.
    Accepted {
        /// Where it came in.
        listener: ListenerId,
        /// Its name.
        connection: ConnectionId,
        /// Who it is.
        peer: SocketAddr,
    },
    /// A `connect` of ours is established; sending is possible.
    Connected(ConnectionId),
    /// There are bytes, or the end of the stream, to receive. Comes again at each `poll` until all
    /// has been taken, `recv` has answered `WouldBlock` or [`RecvError::Finished`], or receiving
    /// is paused. It may come in vain: `recv` answers `WouldBlock` then.
    Readable(ConnectionId),
    /// An earlier `send` took less than was offered (or came before `Connected`), and now there is
    /// room again. Comes once for each such `send`.
    Writable(ConnectionId),
    /// The connection is over, not by a call of ours. The name is dead from here on; bytes not yet
    /// received are lost. Never comes after `close` or `abort` by us.
    Closed {
        /// Its name, now dead.
        connection: ConnectionId,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The peer refused it: nobody listens there.
    Refused,
    /// Nobody answered: connecting, or sent bytes not acknowledged within the user time-out.
    TimedOut,
    /// The peer reset it.
    Reset,
    /// The local stack failed (out of memory, no route, device gone).
    LocalError,
}

/// Why there was nothing to receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecvError {
    /// Nothing now; a `Readable` will come.
    WouldBlock,
    /// The peer finished sending and all of it has been received. Sending may go on. `Readable`
    /// does not come again.
    Finished,
    /// The name is dead. If the connection just died, a `Closed` event says why.
    Gone,
}

/// Why bytes could not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The name is dead. If the connection just died, a `Closed` event says why.
    Gone,
}

/// Why `listen` or `connect` could not even begin.
#[derive(Debug)]
pub enum OpenError {
    /// The transport's table is full (its configured bound), or the process is out of descriptors.
    TableFull,
    /// The address is in use, not ours, or of a family that this transport does not carry.
    Address(std::io::Error),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::TableFull => f.write_str("the table of connections is full"),
            OpenError::Address(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// TCP: connections by name, events by polling. See the module for the order of calls.
pub trait Transport {
    /// Listens at `address`; port 0 takes a free one. Connections appear as [`Event::Accepted`].
    ///
    /// # Errors
    /// [`OpenError`]; nothing is listening then.
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, OpenError>;

    /// The address that a listener has, with its real port.
    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr>;

    /// Stops listening. Connections that came in stay; the port refuses new ones.
    fn unlisten(&mut self, listener: ListenerId);

    /// Begins to connect to `remote`, from `local` if given. `Connected` or `Closed` follows.
    /// The transport gives up after its own connect time-out.
    ///
    /// # Errors
    /// [`OpenError`]; no event follows then.
    fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local: Option<IpAddr>,
    ) -> Result<ConnectionId, OpenError>;

    /// Moves what the network has into the transport and collects events. Bounded work: what is
    /// left over shows in the next turn.
    fn poll(&mut self, now: Instant);

    /// The next event of this turn, in the order in which they happened on each connection.
    fn next_event(&mut self) -> Option<Event>;

    /// Hands the received bytes to `consume` in place: one contiguous piece, never empty. It
    /// returns how many bytes it took, and a result.
    ///
    /// **What it leaves is offered again, alone, before anything newer**: leave bytes only when not
    /// ready for them (then pause), never to wait for more; keep incomplete things on your side.
    ///
    /// # Errors
    /// [`RecvError`]; `consume` was not called then.
    fn recv<R>(
        &mut self,
        connection: ConnectionId,
        consume: impl FnOnce(&[u8]) -> (usize, R),
    ) -> Result<R, RecvError>;

    /// Receives straight into `into` (not empty) and returns how many bytes (at least 1). For
    /// large bodies whose place in memory is known: no buffer of the transport's lies between.
    ///
    /// # Errors
    /// [`RecvError`].
    fn recv_into(&mut self, connection: ConnectionId, into: &mut [u8]) -> Result<usize, RecvError>;

    /// Pauses (`false`) or resumes (`true`) receiving. While paused no `Readable` comes, and the
    /// peer is slowed down by its TCP window. A new connection is not paused.
    fn set_receiving(&mut self, connection: ConnectionId, receiving: bool);

    /// Sends bytes; returns how many were taken. Less than offered (also 0) means that there is no
    /// more room now, and `Writable` will come, or `Closed` (after `Readable`, if the peer had said
    /// something before it closed).
    ///
    /// # Errors
    /// [`SendError`].
    ///
    /// # Panics
    /// After [`finish`](Transport::finish): a caller that has said its last word says no more.
    fn send(
        &mut self,
        connection: ConnectionId,
        slices: &[IoSlice<'_>],
    ) -> Result<usize, SendError>;

    /// Finishes sending: the peer sees the end of the stream after what was sent. Receiving goes
    /// on. A connection that both ends have finished keeps its name until `close`.
    fn finish(&mut self, connection: ConnectionId);

    /// Lets go of the connection: what was sent still goes out, then the stack ends it on its own.
    /// The name is dead at once.
    fn close(&mut self, connection: ConnectionId);

    /// Resets the connection. The name is dead at once.
    fn abort(&mut self, connection: ConnectionId);

    /// Puts what `send` gathered onto the wire, for stacks that gather.
    fn flush(&mut self, now: Instant);

    /// Puts onto the wire what [`flush`](Transport::flush) has held back for a moment, so that more of it leaves at once: the
    /// thread is about to sleep, and would only wake up for that. [`wait`](Transport::wait) does so itself.
    fn release(&mut self, _now: Instant) {}

    /// When the transport itself wants the next `poll` (a retransmission, a connect time-out), if
    /// ever. `Some` of a time in the past: at once, events are waiting.
    fn next_deadline(&self) -> Option<Instant>;

    /// Sleeps until something may have happened, or until `until` (`None`: no limit of the
    /// caller's), whichever is first; early returns are allowed. Does not sleep when events or
    /// ready connections wait.
    fn wait(&mut self, now: Instant, until: Option<Instant>);

    /// Adds the descriptors of which one becomes readable when `wait` would return, so that a thread can
    /// sleep on two transports (see [`wait_on_both`](crate::wait_on_both)). `false` where there is no such
    /// thing (simulation).
    fn add_wait_descriptors(&self, descriptors: &mut Vec<RawFd>) -> bool;
}

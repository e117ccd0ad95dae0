//! What can be set on a [`KernelTransport`](super::KernelTransport), and what it counts.

use std::time::Duration;

/// The bounds and socket options of a [`KernelTransport`](super::KernelTransport).
///
/// TCP_NODELAY is not among them: it is always on.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    /// Connections at once, both ways. At the bound `connect` answers
    /// [`OpenError::TableFull`](crate::OpenError::TableFull), and accepting pauses: newcomers wait
    /// in the listener's backlog until a place is free. Indices of connections are below it.
    pub connections_max: usize,
    /// Listeners at once. At the bound `listen` answers `TableFull`.
    pub listeners_max: usize,
    /// How many established connections may wait to be accepted, per listener; the kernel cuts it
    /// to `net.core.somaxconn`. At the bound the kernel ignores further attempts, which the
    /// connecting side repeats after a second.
    pub backlog: u32,
    /// Let several transports (one per thread) listen at the same address, the kernel spreading
    /// the connections over them (SO_REUSEPORT).
    pub reuse_port: bool,
    /// How long `connect` may take. Then the connection is closed with
    /// [`CloseReason::TimedOut`](crate::CloseReason::TimedOut).
    pub connect_timeout: Duration,
    /// How long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT, RFC 5482). Then the
    /// connection is closed with `TimedOut`. `None`: the kernel's rule, some 15 minutes. A
    /// connection on which nothing is sent never times out, unless `keep_alive` is set.
    pub user_timeout: Option<Duration>,
    /// After so long without a word from the peer (whole seconds, at least 1) the kernel asks
    /// whether it is still there, and goes on asking every second (SO_KEEPALIVE, RFC 9293 section
    /// 3.8.4). A peer that does not answer within `user_timeout`, or ten times without one, is gone:
    /// `TimedOut`. `None`: it never asks, and a connection whose peer lost its power stays for
    /// ever.
    pub keep_alive: Option<Duration>,
    /// The buffer into which `recv` reads, one per transport: the longest piece that a consumer
    /// gets. What a consumer leaves of it is kept with the connection, so a caller that leaves
    /// bytes may hold up to this much for each connection that it pauses.
    pub receive_buffer_bytes: usize,
    /// The kernel's send buffer per connection (SO_SNDBUF, which the kernel doubles). When it is
    /// full `send` takes less. `None`: the kernel tunes it.
    pub socket_send_buffer_bytes: Option<usize>,
    /// The kernel's receive buffer per connection (SO_RCVBUF, which the kernel doubles). When it
    /// is full the peer's window closes. `None`: the kernel tunes it.
    pub socket_receive_buffer_bytes: Option<usize>,
    /// How many events of the kernel, and how many `Readable`, one `poll` takes. The others come
    /// in the next turns, in order of arrival.
    pub events_per_poll: usize,
    /// How many connections one `poll` accepts per listener. The others wait for the next turn.
    pub accepts_per_poll: usize,
    /// How long accepting pauses when the process or the machine is out of descriptors or memory.
    /// The newcomers wait in the backlog.
    pub accept_pause: Duration,
    /// How long a closed connection may go on to take in (and discard) what its peer still sends,
    /// so that the last reply is not destroyed by a reset. Then it is cut.
    pub linger_time: Duration,
    /// How many closed connections may be in that state, besides `connections_max`. At the bound
    /// the oldest is cut. Zero: none is kept.
    pub lingering_max: usize,
}

impl Default for KernelOptions {
    fn default() -> KernelOptions {
        KernelOptions {
            connections_max: 16_384,
            listeners_max: 64,
            backlog: 4_096,
            reuse_port: false,
            connect_timeout: Duration::from_secs(30),
            user_timeout: None,
            keep_alive: None,
            receive_buffer_bytes: 256 * 1024,
            socket_send_buffer_bytes: None,
            socket_receive_buffer_bytes: None,
            events_per_poll: 1_024,
            accepts_per_poll: 64,
            accept_pause: Duration::from_millis(100),
            linger_time: Duration::from_secs(2),
            lingering_max: 1_024,
        }
    }
}

/// What a [`KernelTransport`](super::KernelTransport) has counted since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KernelStatistics {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that broke between the handshake and accept(2).
    pub accepts_failed: u64,
    /// How often accepting paused for want of descriptors or memory.
    pub accept_pauses: u64,
    /// Closed connections that linger now.
    pub lingering: usize,
    /// Lingering connections that were cut before their peer was done, by time or by number.
    pub lingering_cut: u64,
}

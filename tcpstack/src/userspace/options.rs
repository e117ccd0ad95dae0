//! What can be set on a [`UserspaceTransport`](super::UserspaceTransport), and what it counts.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The bounds and times of a [`UserspaceTransport`](super::UserspaceTransport).
#[derive(Clone, Debug)]
pub struct UserspaceOptions {
    /// Our address on the link.
    pub address: IpAddr,
    /// Seeds initial sequence numbers. It must come from the operating system: who guesses it can send into our
    /// connections.
    pub seed: u64,
    /// Connections at once, both ways. At the bound `connect` answers
    /// [`OpenError::TableFull`](crate::OpenError::TableFull), and newcomers wait in the listener's backlog.
    pub connections_max: usize,
    /// Listeners at once. At the bound `listen` answers `TableFull`.
    pub listeners_max: usize,
    /// Addresses that are talked to at once. At the bound a peer with no connection makes place; if there is none,
    /// what a further peer sends is dropped.
    pub peers_max: usize,
    /// How many attempts may be under way, or established and not accepted, per listener and peer. At the bound
    /// further ones are not answered; the connecting side repeats them.
    pub backlog: usize,
    /// What a connection may send before the peer has acknowledged it.
    pub send_buffer_bytes: usize,
    /// What a peer may send before we have taken it.
    pub receive_buffer_bytes: usize,
    /// How long `connect` may take. Then the connection is closed with
    /// [`CloseReason::TimedOut`](crate::CloseReason::TimedOut).
    pub connect_timeout: Duration,
    /// How long sent bytes may stay unacknowledged. Then the connection is closed with `TimedOut`. `None`: for
    /// ever.
    pub user_timeout: Option<Duration>,
    /// After so long without a word from the peer it is asked whether it is there, and a connection whose peer
    /// does not answer within `user_timeout` is closed with `TimedOut`. Where there is a `user_timeout` the peer is
    /// asked when half of it is over at the latest: the stack counts silence of a connection at rest as well.
    pub keep_alive: Option<Duration>,
    /// How long a closed connection may go on to deliver what was sent, and to discard what its peer still
    /// sends. Then it is cut.
    pub linger_time: Duration,
    /// How long an acknowledgement may wait for something to ride on.
    pub ack_delay: Duration,
    /// The ports from which connections are made, beginning at a random one: what an earlier life of ours has left
    /// at a peer is seldom met.
    pub ports: RangeInclusive<u16>,
    /// Packets that one `poll` receives. The others wait for the next turn.
    pub packets_per_poll: usize,
}

impl UserspaceOptions {
    /// What fits a link between machines of one network.
    pub fn new(address: IpAddr, seed: u64) -> UserspaceOptions {
        UserspaceOptions {
            address,
            seed,
            connections_max: 256,
            listeners_max: 8,
            peers_max: 64,
            backlog: 8,
            send_buffer_bytes: 256 * 1024,
            receive_buffer_bytes: 256 * 1024,
            connect_timeout: Duration::from_secs(30),
            user_timeout: None,
            keep_alive: None,
            linger_time: Duration::from_secs(2),
            ack_delay: Duration::from_micros(200),
            ports: 49_152..=u16::MAX,
            packets_per_poll: 256,
        }
    }
}

/// What a [`UserspaceTransport`](super::UserspaceTransport) has counted since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct UserspaceStatistics {
    /// Packets received.
    pub received: u64,
    /// Of these, those that are no whole TCP segment, or were altered on the way.
    pub foreign: u64,
    /// Of these, attempts to connect that found the backlog full.
    pub backlog_full: u64,
    /// Of these, those of peers beyond the bound.
    pub peers_full: u64,
    /// How often we have tried to connect where a peer was silent, to hear whether its process has ended.
    pub knocks: u64,
    /// Packets that were lost on their way, or seemed so, and were sent again without the stack's
    /// time-out.
    pub sent_again: u64,
}

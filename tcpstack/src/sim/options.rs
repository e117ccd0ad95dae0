//! How the simulated network behaves, and what it counts.

use std::net::SocketAddr;
use std::time::Duration;

use crate::time::Instant;

/// The time that a piece takes from one address to another: `delay`, and up to `jitter` more,
/// drawn for each piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimPath {
    /// The least time.
    pub delay: Duration,
    /// The most that is added.
    pub jitter: Duration,
}

/// What becomes of attempts to connect. Chances are in parts per million.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SimAttempts {
    /// The chance that nothing of a connection ever arrives: neither end hears of that.
    pub lost_ppm: u32,
    /// The chance that the attempt comes late, and that its answer does.
    pub late_ppm: u32,
    /// By how much at most; drawn. With more than `connect_timeout` there are connections whose opener has
    /// given up.
    pub late_max: Duration,
}

/// What becomes of packets on the simulated Ethernet. Chances are in parts per million.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimWire {
    /// The longest packet, with its IP header.
    pub packet_bytes_max: usize,
    /// Packets that wait at each port to be received. At the bound what comes is lost, as on a ring of a network card.
    pub ring_packets: usize,
    /// The chance that a packet is lost.
    pub loss_ppm: u32,
    /// The chance that it comes twice.
    pub duplicate_ppm: u32,
    /// The chance that later ones overtake it. The others keep their order within a connection.
    pub reorder_ppm: u32,
    /// The chance that one of its bits is another.
    pub corrupt_ppm: u32,
}

impl Default for SimWire {
    /// A good Ethernet of the usual size.
    fn default() -> SimWire {
        SimWire {
            packet_bytes_max: 1500,
            ring_packets: 256,
            loss_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            corrupt_ppm: 0,
        }
    }
}

/// How the simulated network behaves. Chances are in parts per million.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// The time on the way, where [`SimNetwork::set_path`](crate::SimNetwork::set_path) says
    /// nothing else.
    pub path: SimPath,
    /// Bytes that one direction of a connection holds: on the way, and received but not yet taken.
    /// At the bound `send` takes less; `Writable` comes when a third is free.
    pub window_bytes: usize,
    /// The longest piece in which bytes travel.
    pub piece_bytes_max: usize,
    /// The chance that a piece is cut once more, at a drawn place; repeated for what is left.
    pub split_ppm: u32,
    /// The chance that a piece is joined to one that waits to be received.
    pub join_ppm: u32,
    /// The chance that a send takes less than there is room for.
    pub short_send_ppm: u32,
    /// The chance, per piece that arrives, that the connection is reset instead.
    pub reset_ppm: u32,
    /// How long after the end of a fault TCP takes to try again, at most; drawn.
    pub retransmit_max: Duration,
    /// How long `connect` may take. Then the connection is closed with `TimedOut`.
    pub connect_timeout: Duration,
    /// How long sent bytes may stay unacknowledged. Then the connection is closed with `TimedOut`.
    /// `None`: for ever.
    pub user_timeout: Option<Duration>,
    /// How long a closed connection goes on to take in what its peer still sends. Then it answers
    /// with a reset.
    pub linger_time: Duration,
    /// Connections at once, per transport. At the bound `connect` answers `TableFull` and
    /// newcomers wait.
    pub connections_max: usize,
    /// What becomes of packets.
    pub wire: SimWire,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions {
            path: SimPath { delay: Duration::from_micros(20), jitter: Duration::from_micros(60) },
            window_bytes: 256 * 1024,
            piece_bytes_max: 64 * 1024,
            split_ppm: 100_000,
            join_ppm: 300_000,
            short_send_ppm: 10_000,
            reset_ppm: 0,
            retransmit_max: Duration::from_millis(200),
            connect_timeout: Duration::from_secs(30),
            user_timeout: None,
            linger_time: Duration::from_secs(2),
            connections_max: 16_384,
            wire: SimWire::default(),
        }
    }
}

/// What happened in a simulated network so far, so that a run in which nothing happened can be
/// told from one that passed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SimStatistics {
    /// Connections that a listener took in.
    pub accepted: u64,
    /// Attempts to connect that were refused.
    pub refused: u64,
    /// Connections that one end or both saw reset.
    pub resets: u64,
    /// Connections that ended by time-out.
    pub timeouts: u64,
    /// Pieces that arrived.
    pub pieces: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// How often something could not go on its way, because of a partition or a dead host.
    pub stalls: u64,
    /// Attempts to connect, and connections, that were lost without notice.
    pub lost: u64,
    /// Attempts to connect, and answers to them, that came late because that was asked for.
    pub late: u64,
    /// What happened to packets.
    pub packets: SimPackets,
}

/// What happened on the simulated Ethernet so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SimPackets {
    /// Packets that ports have sent.
    pub sent: u64,
    /// Packets that came into a port's ring.
    pub received: u64,
    /// Packets that were drawn to be lost.
    pub lost: u64,
    /// Packets that were drawn to come twice.
    pub doubled: u64,
    /// Packets that were drawn to be overtaken.
    pub overtaken: u64,
    /// Packets of which a bit was altered.
    pub altered: u64,
    /// Packets that found a ring full.
    pub overrun: u64,
    /// Packets that came where nobody was: no port, a host that is down or stands still, a partition, or a
    /// connection that was lost without notice.
    pub cut: u64,
}

/// What the program of a host that is listened to has sent or taken, by one call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimTapped {
    /// When.
    pub at: Instant,
    /// The host's end of the connection.
    pub local: SocketAddr,
    /// The other one.
    pub remote: SocketAddr,
    /// It was sent; else it was taken.
    pub is_sent: bool,
    /// What.
    pub bytes: Vec<u8>,
}

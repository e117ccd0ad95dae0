//! TCP between simulated hosts, on one thread, in virtual time, from one seed.
//!
//! A [`SimNetwork`] carries bytes between hosts; [`SimNetwork::host`] gives a [`SimTransport`] for
//! a host, which programs drive like any other [`Transport`](crate::Transport). Nothing happens
//! by itself: the simulator lets every program whose transport has something (its
//! [`next_deadline`](crate::Transport::next_deadline) is past) take a turn, then asks
//! [`SimNetwork::next_event_at`] and moves time there by [`SimNetwork::advance`].
//!
//! What is modelled, and what not: bytes arrive in order on each connection, cut into odd pieces,
//! after a delay drawn per piece, so that connections overtake each other. Segments are never lost
//! for good, because TCP repeats them: a fault shows as delay, as the user time-out or as a reset.
//! The receive window is bounded. There is no bandwidth and no congestion.
//!
//! Below that is a simulated Ethernet for stacks that bring TCP themselves: [`SimNetwork::attach`] gives a
//! [`SimPort`], and packets between ports take the same paths, suffer the same faults, and are lost, doubled,
//! overtaken and altered besides, as [`SimWire`] says.
//!
//! Every draw comes from the seed and nothing depends on addresses in memory or on hashing, so two
//! runs of the same program with the same seed have the same [`SimNetwork::trace_hash`].

mod connection;
mod engine;
mod ethernet;
mod network;
mod options;
mod packet;
mod port;
mod trace;
mod transport;

pub use network::SimNetwork;
pub use options::{
    SimAttempts, SimOptions, SimPackets, SimPath, SimStatistics, SimTapped, SimWire,
};
pub use port::SimPort;
pub use transport::SimTransport;

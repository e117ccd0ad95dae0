//! A backup queue server on its host.

use std::net::SocketAddr;
use std::sync::Arc;

use fastrand::Rng;
use kvs::IN_FLIGHT_MAX;
use kvs::arena::Arena;
use kvs::directory::Directory;
use kvs::table::{QueueBounds, QueueTable};
use kvs::worker::{Worker, WorkerOptions};
use kvs_proto::auth::Secret;
use kvs_proto::body::Limits;
use kvs_proto::{Incarnation, STATE_SIZE_BYTES_MAX, Version};

use crate::scenario::{Scenario, ServerRoom};
use crate::transport::HostTransport;

/// Starts a server, empty: each start is a new life.
///
/// # Panics
/// If the machine that simulates has no memory left, or the port is taken.
pub fn start(
    transport: HostTransport,
    addresses: &[SocketAddr],
    room: ServerRoom,
    rng: &mut Rng,
) -> (Worker<HostTransport>, Incarnation) {
    let incarnation = Incarnation(rng.u64(1..));
    let arena = Arena::on_demand(room.memory_bytes, room.messages_max);
    let arena = arena.expect("the machine has that many addresses");
    let bounds = QueueBounds { messages_max: u64::MAX, bytes_max: u64::MAX };
    let directory = Arc::new(Directory::new(1, 100));
    directory.set_port(0, addresses[0].port());
    let table = QueueTable::new(arena, directory, 0, bounds);
    let mut nonce_key = [0; 32];
    rng.fill(&mut nonce_key);
    let options = WorkerOptions {
        incarnation,
        nonce_key: Secret::new(&nonce_key),
        accounts: Scenario::accounts(),
        limits: Limits {
            message_size_bytes_max: 64 << 20,
            state_size_bytes_max: u32::try_from(STATE_SIZE_BYTES_MAX).expect("small"),
            in_flight_max: u32::try_from(IN_FLIGHT_MAX).expect("small"),
            handles_max: 100,
        },
        version_max: Version::CURRENT,
        connections_max: 100,
    };
    let mut worker = Worker::new(transport, table, options);
    for address in addresses {
        worker.listen(*address).expect("nobody else listens on this host");
    }
    (worker, incarnation)
}

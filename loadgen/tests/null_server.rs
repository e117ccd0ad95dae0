//! The KVS load and the recovery measurement against the null server, in virtual time.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kvs_proto::auth::Secret;
use loadgen::kvs::{KvsConfig, KvsLoad, NullConfig, NullServer, Recovery, RecoveryConfig, Target};
use tcpstack::{Instant, SimNetwork, SimOptions, SimTransport};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

fn target(secret: &str) -> Target {
    Target {
        to: SocketAddr::new(SERVER, 7000),
        account: "load".into(),
        secret: Secret::new(secret.as_bytes()),
        nonce: [9; 16],
    }
}

fn load_config() -> KvsConfig {
    KvsConfig {
        target: target("secret"),
        queue: "q".into(),
        queues: 1,
        held: 0,
        stuck_percent: 0,
        size_bytes: 1000,
        depth: 64,
        batch: 1,
        total: Some(2000),
        duration: None,
        seed: 1,
    }
}

fn server(network: &SimNetwork, item_size_bytes: usize) -> NullServer<SimTransport> {
    let config = NullConfig {
        listen: SocketAddr::new(SERVER, 7000),
        secret: Secret::new(b"secret"),
        seed: 3,
        in_flight_max: 4096,
        item_size_bytes,
    };
    NullServer::open(network.host(SERVER), config).unwrap()
}

/// Turns both until the client's turn says that it is done.
fn run(
    network: &SimNetwork,
    server: &mut NullServer<SimTransport>,
    mut turn: impl FnMut(Instant) -> (bool, bool),
) {
    let limit = Instant::ZERO + Duration::from_secs(600);
    loop {
        let now = network.now();
        assert!(now < limit, "it does not end");
        let (worked, done) = turn(now);
        if done {
            return;
        }
        if !(server.turn(now) | worked) {
            let next = network.next_event_at().expect("somebody waits for something");
            network.advance(next);
        }
    }
}

fn run_load(config: KvsConfig) -> KvsLoad<SimTransport> {
    let network = SimNetwork::new(5, SimOptions::default());
    let mut server = server(&network, 0);
    let mut load = KvsLoad::open(network.host(CLIENT), network.now(), config).unwrap();
    run(&network, &mut server, |now| (load.turn(now), load.is_done()));
    load
}

#[test]
fn every_message_is_stored_and_deleted() {
    for (size_bytes, depth, batch) in [(0, 1, 1), (400, 64, 1), (1000, 64, 16), (200_000, 8, 1)] {
        let total = Some(if size_bytes > 100_000 { 50 } else { 2000 });
        let load = run_load(KvsConfig { size_bytes, depth, batch, total, ..load_config() });
        assert_eq!(load.failure(), None);
        let measured = load.measured();
        assert_eq!(Some(measured.messages), total);
        assert_eq!(Some(measured.store.count()), total);
        assert_eq!(Some(measured.delete.count()), total);
        assert!(measured.rate() > 0.0);
    }
}

#[test]
fn a_duration_ends_the_load_with_all_deleted() {
    let duration = Some(Duration::from_millis(200));
    let load = run_load(KvsConfig { total: None, duration, ..load_config() });
    let measured = load.measured();
    assert!(measured.messages > 100 && measured.messages == measured.store.count());
    assert!(measured.elapsed() >= Duration::from_millis(200));
}

#[test]
fn queues_have_their_turn_and_what_is_to_stay_stays() {
    for (queues, held, total) in [(1, 300, 1000), (7, 0, 1000), (7, 300, 1000), (1000, 2500, 400)] {
        let config = KvsConfig { queues, held, stuck_percent: 10, ..load_config() };
        let load = run_load(KvsConfig { total: Some(total), ..config });
        assert_eq!(load.failure(), None);
        let measured = load.measured();
        let stayed = (measured.held.messages, measured.left.messages);
        assert_eq!((measured.messages, stayed), (total, (held, held)), "{queues} queues");
        assert_eq!((measured.store.count(), measured.delete.count()), (total, total));
    }
}

#[test]
fn more_queues_than_the_server_takes_are_an_error() {
    let load = run_load(KvsConfig { queues: 1025, ..load_config() });
    assert!(load.failure().is_some_and(|why| why.contains("1024 queues at most")));
}

#[test]
fn the_depth_is_cut_to_the_servers_bound() {
    let load = run_load(KvsConfig { depth: 1_000_000, ..load_config() });
    assert_eq!((load.depth(), load.failure()), (4096, None));
}

#[test]
fn a_wrong_secret_is_refused() {
    let load = run_load(KvsConfig { target: target("wrong"), ..load_config() });
    assert!(load.failure().is_some());
    assert_eq!(load.measured().messages, 0);
}

fn run_recovery(config: RecoveryConfig, item_size_bytes: usize) -> Recovery<SimTransport> {
    let network = SimNetwork::new(6, SimOptions::default());
    let mut server = server(&network, item_size_bytes);
    let mut recovery = Recovery::open(network.host(CLIENT), network.now(), config).unwrap();
    run(&network, &mut server, |now| (recovery.turn(now), recovery.is_done()));
    recovery
}

fn recovery_config() -> RecoveryConfig {
    RecoveryConfig {
        target: target("secret"),
        queue: "q".into(),
        messages: 3000,
        size_bytes: 500,
        blocks: vec![1, 10, 1000],
        rounds_max: 100,
        depth: 128,
        verify: false,
    }
}

#[test]
fn every_block_size_reads_the_queue() {
    let recovery = run_recovery(recovery_config(), 500);
    assert_eq!(recovery.failure(), None);
    let read: Vec<_> = recovery.times().iter().map(|t| (t.block, t.messages, t.rounds)).collect();
    assert_eq!(read, [(1, 100, 100), (10, 1000, 100), (1000, 3000, 3)]);
}

#[test]
fn content_that_was_not_stored_is_found() {
    let recovery = run_recovery(RecoveryConfig { verify: true, ..recovery_config() }, 500);
    assert!(recovery.failure().is_some_and(|why| why.contains("not what was stored")));
}

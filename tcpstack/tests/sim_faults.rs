//! Many seeds, each a run of random calls under random faults: whatever happens, a stream that
//! arrives is a prefix of the stream that was sent, and the run can be repeated.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tcpstack::{
    ConnectionId, Event, RecvError, SimNetwork, SimOptions, SimStatistics, SimTransport, Transport,
};

#[test]
fn streams_are_prefixes_and_runs_repeat_under_random_faults() {
    let mut sum = SimStatistics::default();
    for seed in 0..SEEDS {
        let (hash, statistics) = run(seed);
        assert_eq!((hash, statistics), run(seed), "seed {seed}");
        sum.accepted += statistics.accepted;
        sum.refused += statistics.refused;
        sum.resets += statistics.resets;
        sum.timeouts += statistics.timeouts;
        sum.stalls += statistics.stalls;
        sum.bytes += statistics.bytes;
    }
    // Otherwise these runs say nothing.
    assert!(sum.accepted > 50 * SEEDS && sum.bytes > 10_000 * SEEDS, "{sum:?}");
    assert!(sum.refused > 0 && sum.resets > SEEDS && sum.timeouts > SEEDS / 2, "{sum:?}");
    assert!(sum.stalls > SEEDS, "{sum:?}");
}

fn run(seed: u64) -> (u64, SimStatistics) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    // Without faults, and with nobody left, nothing remains.
    world.network.heal_all();
    for host in 0..HOSTS {
        if !world.network.is_up(ip(host)) {
            world.network.restart_host(ip(host));
        }
        world.transports[host] = None;
    }
    while let Some(at) = world.network.next_event_at() {
        world.network.advance(at);
    }
    assert_eq!(world.network.connection_count(), 0, "seed {seed}");
    (world.network.trace_hash(), world.network.statistics())
}

struct World {
    network: SimNetwork,
    rng: fastrand::Rng,
    transports: [Option<SimTransport>; HOSTS],
    /// By host and name: how many bytes were sent and received. The k-th byte of a stream is
    /// known from k and the direction.
    streams: BTreeMap<(usize, ConnectionId), Stream>,
}

#[derive(Default)]
struct Stream {
    accepted: bool,
    sent: usize,
    received: usize,
    finished: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let options = SimOptions {
            window_bytes: 2_000,
            piece_bytes_max: 500,
            short_send_ppm: 100_000,
            reset_ppm: 1_000,
            connect_timeout: Duration::from_secs(3),
            user_timeout: (!seed.is_multiple_of(3)).then_some(Duration::from_secs(2)),
            connections_max: 8,
            ..SimOptions::default()
        };
        let network = SimNetwork::new(seed, options);
        let rng = fastrand::Rng::with_seed(seed);
        let transports = [const { None }; HOSTS];
        let mut world = World { network, rng, transports, streams: BTreeMap::new() };
        (0..HOSTS).for_each(|host| world.start(host));
        world
    }

    fn start(&mut self, host: usize) {
        let mut transport = self.network.host(ip(host));
        transport.listen(SocketAddr::new(ip(host), PORT)).unwrap();
        self.transports[host] = Some(transport);
        self.streams.retain(|(at, _), _| *at != host);
    }

    fn step(&mut self) {
        let host = self.rng.usize(0..HOSTS);
        let other = self.rng.usize(0..HOSTS);
        match self.rng.u32(0..1_000) {
            0..5 => self.network.partition(ip(host), ip(other)),
            5..10 => self.network.partition_one_way(ip(host), ip(other)),
            10..25 => self.network.heal_all(),
            25..28 if self.network.is_up(ip(host)) => {
                self.network.crash_host(ip(host));
                assert!(self.transports[host].as_mut().unwrap().next_event().is_none());
            }
            28..34 if !self.network.is_up(ip(host)) => {
                self.network.restart_host(ip(host));
                self.transports[host] = None;
                self.start(host);
            }
            34..37 if self.network.is_up(ip(host)) => {
                self.transports[host] = None;
                self.start(host);
            }
            37..39 => drop(self.network.reset_connections(ip(host), ip(other))),
            39..140 => {
                let remote = SocketAddr::new(ip(other), PORT + u16::from(self.rng.u8(..) < 10));
                let transport = self.transports[host].as_mut().unwrap();
                if let Ok(name) = transport.connect(self.network.now(), remote, None) {
                    self.streams.insert((host, name), Stream::default());
                }
            }
            140..600 => self.act(host),
            _ => {
                let jump = Duration::from_micros(1 << self.rng.u32(0..18));
                self.network.advance(self.network.now() + jump);
            }
        }
        self.turn(host);
    }

    /// Does something with one connection.
    fn act(&mut self, host: usize) {
        let names: Vec<ConnectionId> =
            self.streams.keys().filter(|(at, _)| *at == host).map(|&(_, name)| name).collect();
        let Some(&name) = self.rng.choice(&names) else { return };
        let transport = self.transports[host].as_mut().unwrap();
        let stream = self.streams.get_mut(&(host, name)).unwrap();
        match self.rng.u32(0..100) {
            0..75 if !stream.finished => {
                let length = self.rng.usize(0..900);
                let bytes: Vec<u8> =
                    (0..length).map(|k| byte_of(stream.accepted, stream.sent + k)).collect();
                stream.sent += transport.send(name, &[IoSlice::new(&bytes)]).unwrap_or(0);
            }
            75..80 => transport.set_receiving(name, false),
            80..90 => transport.set_receiving(name, true),
            90..93 => {
                transport.finish(name);
                stream.finished = true;
            }
            93..98 => {
                transport.close(name);
                self.streams.remove(&(host, name));
            }
            98..100 => {
                transport.abort(name);
                self.streams.remove(&(host, name));
            }
            _ => {}
        }
    }

    fn turn(&mut self, host: usize) {
        let transport = self.transports[host].as_mut().unwrap();
        transport.poll(self.network.now());
        while let Some(event) = transport.next_event() {
            match event {
                Event::Accepted { connection, .. } => {
                    let stream = Stream { accepted: true, ..Stream::default() };
                    assert!(self.streams.insert((host, connection), stream).is_none());
                }
                Event::Readable(name) => {
                    let stream = self.streams.get_mut(&(host, name)).expect("a live name");
                    let less = self.rng.usize(0..3);
                    let received = transport.recv(name, |bytes| {
                        let taken = bytes.len() - less.min(bytes.len() - 1);
                        for (k, &byte) in bytes[..taken].iter().enumerate() {
                            assert_eq!(byte, byte_of(!stream.accepted, stream.received + k));
                        }
                        (taken, taken)
                    });
                    assert_ne!(received, Err(RecvError::WouldBlock), "announced for nothing");
                    stream.received += received.unwrap_or(0);
                }
                Event::Connected(name) | Event::Writable(name) => {
                    assert!(self.streams.contains_key(&(host, name)), "{event:?}");
                }
                Event::Closed { connection, .. } => {
                    assert!(self.streams.remove(&(host, connection)).is_some(), "{event:?}");
                }
            }
        }
    }
}

fn ip(host: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(host + 1).unwrap()).into()
}

/// The k-th byte that an end sends.
fn byte_of(accepted: bool, k: usize) -> u8 {
    u8::try_from((k * 7 + k / 100 + usize::from(accepted) * 128) % 256).unwrap()
}

const HOSTS: usize = 3;
const PORT: u16 = 25;
const SEEDS: u64 = 60;
const STEPS: u32 = 2_000;

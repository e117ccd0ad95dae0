//! The simulated Ethernet, seen from two userspace stacks on it: a client that says things and a server that says
//! them back.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tcpstack::{
    CloseReason, ConnectionId, Event, Instant, SimAttempts, SimNetwork, SimOptions, SimPackets,
    SimPath, SimPort, SimWire, Transport, UserspaceOptions, UserspaceTransport,
};

#[test]
fn what_is_said_arrives_once_and_whole_however_bad_the_wire_is() {
    let mut world = World::new(1, BAD);
    world.connect();
    world.exchange(2_000_000);
    let SimPackets { lost, doubled, overtaken, altered, .. } = world.packets();
    assert!(lost > 10 && doubled > 10 && overtaken > 10 && altered > 10, "{:?}", world.packets());
}

#[test]
fn the_same_seed_makes_the_same_packets_arrive_at_the_same_time() {
    let run = |seed| {
        let mut world = World::new(seed, BAD);
        world.connect();
        world.exchange(100_000);
        (world.network.trace_hash(), world.packets(), world.network.now())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_good_wire_keeps_order_and_loses_nothing() {
    let mut world = World::new(1, SimWire::default());
    world.connect();
    world.exchange(100_000);
    world.run_for(Duration::from_millis(100));
    let SimPackets { sent, received, .. } = world.packets();
    assert_eq!(world.packets(), SimPackets { sent, received, ..SimPackets::default() });
    let again = world.client.statistics().sent_again;
    assert_eq!((sent, again), (received, 0));
}

#[test]
fn a_path_takes_as_long_as_it_is_told() {
    let mut world = World::new(1, SimWire::default());
    let slow = Duration::from_millis(50);
    let path = SimPath { delay: slow, jitter: Duration::ZERO };
    world.network.set_path(CLIENT, SERVER, Some(path));
    let begin = world.network.now();
    world.connect();
    let took = world.network.now() - begin;
    // The attempt, and what tells the server that its answer has come.
    assert!(took >= 2 * slow && took < 3 * slow, "{took:?}");
}

#[test]
fn a_partition_keeps_one_way_back_and_no_longer_than_it_lasts() {
    for (from, to) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
        let mut world = World::new(1, SimWire::default());
        world.connect();
        world.network.partition_one_way(from, to);
        world.say(b"held back");
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.echoed.len(), 0);
        assert!(world.packets().cut > 1, "it is sent again and again");
        world.network.heal(from, to);
        world.run_for(Duration::from_secs(3));
        assert_eq!(world.echoed, b"held back");
        assert_eq!(world.closed, []);
    }
}

#[test]
fn a_suspended_host_takes_nothing_in() {
    let mut world = World::new(1, SimWire::default());
    world.connect();
    world.network.set_frozen(SERVER, true);
    let received = world.packets().received;
    world.say(b"hello");
    world.run_client_for(Duration::from_secs(1));
    assert_eq!(world.packets().received, received);
    world.network.set_frozen(SERVER, false);
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.echoed, b"hello");
}

#[test]
fn a_ring_holds_so_much_and_what_comes_then_is_lost() {
    let mut world = World::new(1, SimWire { ring_packets: 4, ..SimWire::default() });
    world.connect();
    world.say(&[7; 50_000]);
    // The server does not look.
    world.run_client_for(Duration::from_millis(20));
    let before = world.packets();
    assert!(before.overrun > 20, "{before:?}");
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.echoed, [7; 50_000]);
}

#[test]
fn connections_that_are_reset_end_at_both_ends() {
    for talks in [false, true] {
        let mut world = World::new(1, SimWire::default());
        world.connect();
        world.exchange(10_000);
        if talks {
            world.say(&[7; 100_000]);
            world.turn_of_client();
        }
        assert_eq!(world.network.reset_connections(SERVER, CLIENT), 1);
        world.run_for(Duration::from_millis(1));
        assert_eq!(world.closed, [(CLIENT, CloseReason::Reset), (SERVER, CloseReason::Reset)]);
        world.connect();
        world.exchange(10_000);
    }
}

#[test]
fn connections_that_are_lost_are_missed_only_by_who_sends() {
    let mut world = World::new(1, SimWire::default());
    world.connect();
    world.exchange(10_000);
    assert_eq!(world.network.lose_connections(CLIENT, SERVER), 1);
    assert_eq!(world.network.lose_connections(CLIENT, SERVER), 0);
    world.say(b"hello");
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.closed, []);
    world.run_for(USER_TIMEOUT * 2);
    assert!(world.closed.iter().any(|(whose, _)| *whose == CLIENT), "{:?}", world.closed);
    // The next one is none of them.
    world.connect();
    world.exchange(10_000);
}

#[test]
fn attempts_are_lost_or_late_as_long_as_that_is_asked_for() {
    let mut world = World::new(1, SimWire::default());
    let lost_ppm = 1_000_000;
    world.network.set_attempts(SimAttempts { lost_ppm, ..SimAttempts::default() });
    world.begin_to_connect();
    world.run_for(CONNECT_TIMEOUT * 2);
    assert_eq!(world.closed, [(CLIENT, CloseReason::TimedOut)]);
    let late_max = Duration::from_secs(1);
    world.network.set_attempts(SimAttempts { lost_ppm: 0, late_ppm: 1_000_000, late_max });
    let begin = world.network.now();
    world.connect();
    let took = world.network.now() - begin;
    assert!(took > Duration::from_millis(10) && took < 3 * late_max, "{took:?}");
    assert_eq!(world.network.statistics().late, 2);
    world.network.set_attempts(SimAttempts::default());
    world.exchange(10_000);
}

#[test]
fn a_host_that_crashes_loses_its_ports_and_what_is_in_them() {
    let mut world = World::new(1, SimWire::default());
    world.connect();
    world.say(b"too late");
    world.run_client_for(Duration::from_millis(1));
    world.network.crash_host(SERVER);
    // The old process, if it went on, would have nothing to take and could send nothing.
    let sent = world.packets().sent;
    world.turn_of_server();
    assert_eq!((world.packets().sent, world.heard), (sent, 0));
    world.network.restart_host(SERVER);
    world.run_client_for(Duration::from_secs(1));
    assert_eq!(world.closed, [], "nobody is there who could answer");
    world.restart_server();
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.closed, [(CLIENT, CloseReason::Reset)], "the new one knows of nothing");
    world.connect();
    world.exchange(10_000);
}

#[test]
fn a_process_that_is_killed_leaves_a_host_that_answers_nothing() {
    let mut world = World::new(1, SimWire::default());
    world.connect();
    world.restart_server();
    // That one listens elsewhere.
    world.server = stack(&world.network, SERVER, 8..=8);
    world.say(b"hello");
    let cut = world.packets().cut;
    world.run_for(USER_TIMEOUT / 2);
    assert_eq!(world.closed, []);
    assert!(world.packets().cut > cut);
    world.run_for(USER_TIMEOUT * 2);
    assert_eq!(world.closed.len(), 1);
}

#[test]
fn a_client_that_returns_with_the_port_of_its_former_life_gets_through() {
    let mut world = World::new(1, SimWire::default());
    for _ in 0..3 {
        world.connect();
        world.exchange(10_000);
        // The server knows nothing of it. There is one port only.
        world.client = stack(&world.network, CLIENT, 50_000..=50_000);
    }
}

#[test]
fn bytes_that_were_left_make_the_next_turn_due() {
    let mut world = World::new(1, SimWire::default());
    world.connect();
    world.say(b"two words");
    world.run_client_for(Duration::from_millis(1));
    world.server.poll(world.network.now());
    while let Some(event) = world.server.next_event() {
        if let Event::Readable(name) = event {
            world.server.recv(name, |_| (4, ())).unwrap();
        }
    }
    world.server.flush(world.network.now());
    let due = world.server.next_deadline();
    assert!(due.is_some_and(|due| due <= world.network.now()), "{due:?}");
    let accepted = world.accepted.unwrap();
    world.server.set_receiving(accepted, false);
    let due = world.server.next_deadline();
    assert!(due.is_none_or(|due| due > world.network.now()), "{due:?}");
}

/// Everything that can happen to a packet does.
const BAD: SimWire = SimWire {
    packet_bytes_max: 1500,
    ring_packets: 256,
    loss_ppm: 20_000,
    duplicate_ppm: 50_000,
    reorder_ppm: 50_000,
    corrupt_ppm: 20_000,
};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const LISTENER: SocketAddr = SocketAddr::new(SERVER, 7);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const USER_TIMEOUT: Duration = Duration::from_secs(10);

struct World {
    network: SimNetwork,
    client: UserspaceTransport<SimPort>,
    server: UserspaceTransport<SimPort>,
    connection: Option<ConnectionId>,
    is_connected: bool,
    accepted: Option<ConnectionId>,
    /// What the client has yet to say.
    to_say: Vec<u8>,
    /// What the server has yet to say back.
    owed: Vec<u8>,
    /// Octets that the server heard.
    heard: usize,
    echoed: Vec<u8>,
    /// Whose ends of connections were closed for them, and why.
    closed: Vec<(IpAddr, CloseReason)>,
}

fn stack(
    network: &SimNetwork,
    address: IpAddr,
    ports: std::ops::RangeInclusive<u16>,
) -> UserspaceTransport<SimPort> {
    let options = UserspaceOptions {
        connect_timeout: CONNECT_TIMEOUT,
        user_timeout: Some(USER_TIMEOUT),
        ports: ports.clone(),
        // Another life has other numbers.
        ..UserspaceOptions::new(address, network.now().as_nanos())
    };
    UserspaceTransport::new(network.attach(address, ports), options)
}

impl World {
    fn new(seed: u64, wire: SimWire) -> World {
        let network = SimNetwork::new(seed, SimOptions { wire, ..SimOptions::default() });
        network.advance(Instant::from_nanos(1_000_000_000));
        let client = stack(&network, CLIENT, 50_000..=50_000);
        let mut server = stack(&network, SERVER, LISTENER.port()..=LISTENER.port());
        server.listen(LISTENER).unwrap();
        World {
            network,
            client,
            server,
            connection: None,
            is_connected: false,
            accepted: None,
            to_say: Vec::new(),
            owed: Vec::new(),
            heard: 0,
            echoed: Vec::new(),
            closed: Vec::new(),
        }
    }

    fn packets(&self) -> SimPackets {
        self.network.statistics().packets
    }

    fn restart_server(&mut self) {
        self.server = stack(&self.network, SERVER, LISTENER.port()..=LISTENER.port());
        self.server.listen(LISTENER).unwrap();
        self.accepted = None;
        self.owed.clear();
    }

    fn begin_to_connect(&mut self) {
        self.is_connected = false;
        self.connection = Some(self.client.connect(self.network.now(), LISTENER, None).unwrap());
        self.turn_of_client();
    }

    fn connect(&mut self) {
        self.to_say.clear();
        self.owed.clear();
        self.begin_to_connect();
        let bound = self.network.now() + Duration::from_secs(10);
        while !self.is_connected || self.accepted.is_none() {
            self.step(bound);
            assert!(self.network.now() < bound, "no connection");
        }
        self.echoed.clear();
        self.heard = 0;
    }

    fn say(&mut self, bytes: &[u8]) {
        self.to_say.extend_from_slice(bytes);
        self.turn_of_client();
    }

    /// Says so many octets, and hears them again.
    fn exchange(&mut self, octets: usize) {
        let said: Vec<u8> = (0..octets).map(|at| u8::try_from(at % 251).unwrap()).collect();
        self.echoed.clear();
        self.say(&said);
        let bound = self.network.now() + Duration::from_secs(100);
        while self.echoed.len() < octets {
            self.step(bound);
            assert!(self.network.now() < bound, "{} of {octets} octets", self.echoed.len());
        }
        assert!(self.echoed == said);
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.network.now() + time;
        while self.network.now() < until {
            self.step(until);
        }
    }

    /// The server takes no turns meanwhile.
    fn run_client_for(&mut self, time: Duration) {
        let until = self.network.now() + time;
        while self.network.now() < until {
            let due = self.client.next_deadline();
            self.wait(due, until);
            self.turn_of_client();
        }
    }

    fn step(&mut self, until: Instant) {
        let due = [self.client.next_deadline(), self.server.next_deadline()];
        self.wait(due.into_iter().flatten().min(), until);
        self.turn_of_client();
        self.turn_of_server();
    }

    /// Time passes until something is due.
    fn wait(&self, due: Option<Instant>, until: Instant) {
        let now = self.network.now();
        let next = [due, self.network.next_event_at()].into_iter().flatten().min();
        let next = next.unwrap_or(until).max(now + Duration::from_micros(1));
        self.network.advance(next.min(until));
    }

    fn turn_of_client(&mut self) {
        let now = self.network.now();
        self.client.poll(now);
        while let Some(event) = self.client.next_event() {
            match event {
                Event::Connected(_) => self.is_connected = true,
                Event::Readable(name) => {
                    let echoed = &mut self.echoed;
                    let _ = self.client.recv(name, |bytes| {
                        echoed.extend_from_slice(bytes);
                        (bytes.len(), ())
                    });
                }
                Event::Closed { reason, .. } => {
                    self.connection = None;
                    self.closed.push((CLIENT, reason));
                }
                _ => {}
            }
        }
        if let Some(name) = self.connection.filter(|_| self.is_connected) {
            let said = self.client.send(name, &[IoSlice::new(&self.to_say)]).unwrap_or(0);
            self.to_say.drain(..said);
        }
        self.client.flush(now);
    }

    fn turn_of_server(&mut self) {
        let now = self.network.now();
        self.server.poll(now);
        while let Some(event) = self.server.next_event() {
            match event {
                Event::Accepted { connection, .. } => self.accepted = Some(connection),
                Event::Readable(name) => {
                    let owed = &mut self.owed;
                    let heard = self.server.recv(name, |bytes| {
                        owed.extend_from_slice(bytes);
                        (bytes.len(), bytes.len())
                    });
                    self.heard += heard.unwrap_or(0);
                }
                Event::Closed { connection, reason } => {
                    self.accepted = self.accepted.filter(|it| *it != connection);
                    self.closed.push((SERVER, reason));
                }
                _ => {}
            }
        }
        if let Some(name) = self.accepted {
            let said = self.server.send(name, &[IoSlice::new(&self.owed)]).unwrap_or(0);
            self.owed.drain(..said);
        }
        self.server.flush(now);
    }
}

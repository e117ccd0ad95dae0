//! The userspace transport over AF_XDP under load, at every depth. It needs root, and makes network namespaces.
#![cfg(feature = "xdp")]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::xdp::{PortBlock, XdpMode, XdpOptions, XdpPort, XdpStatistics};
use tcpstack::{
    Clock, CloseReason, ConnectionId, Event, Idle, Instant, KernelOptions, LinkChoice,
    LinkInterface, LinkMode, LinkOptions, LinkQueue, LinkTransport, LinkTuning, Transport,
    UserspaceOptions, UserspaceTransport, open_links, set_link_peers,
};

#[allow(dead_code)]
#[path = "../../dataplane/tests/xdp/network.rs"]
mod network;

use network::{ADDRESSES, Link, is_root, options};

const SERVER_PORT: u16 = 7_001;

fn transport(link: &Link, end: usize, options: &XdpOptions) -> UserspaceTransport<XdpPort> {
    let (_interface, mut ports) = link.open(end, options);
    UserspaceTransport::new(ports.remove(0), UserspaceOptions::new(ADDRESSES[end].into(), 7))
}

fn xdp_options(end: usize, mode: XdpMode, frames: u32) -> XdpOptions {
    let mut options = XdpOptions { frames, ..options(end, mode) };
    let block = |ports| PortBlock { ports, queue: 0 };
    options.filter.blocks = vec![block(SERVER_PORT..=SERVER_PORT), block(49_152..=u16::MAX)];
    options
}

/// Says back what it hears, on all connections.
fn serve(mut server: UserspaceTransport<XdpPort>, is_over: &AtomicBool) -> XdpStatistics {
    let (clock, mut idle) = (Clock::new(), Idle::new(Duration::from_micros(50)));
    let address = SocketAddr::new(ADDRESSES[1].into(), SERVER_PORT);
    server.listen(address).unwrap();
    let mut owed: Vec<(ConnectionId, VecDeque<u8>)> = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let now = clock.now();
        server.poll(now);
        while let Some(event) = server.next_event() {
            idle.handle_work(now);
            match event {
                Event::Accepted { connection, .. } => owed.push((connection, VecDeque::new())),
                Event::Readable(connection) => {
                    let (_, owed) = owed.iter_mut().find(|it| it.0 == connection).unwrap();
                    let _ = server.recv(connection, |bytes| {
                        owed.extend(bytes);
                        (bytes.len(), ())
                    });
                }
                Event::Closed { connection, .. } => owed.retain(|it| it.0 != connection),
                _ => {}
            }
        }
        for (connection, owed) in &mut owed {
            let said = server.send(*connection, &[IoSlice::new(owed.make_contiguous())]);
            owed.drain(..said.unwrap_or(0));
        }
        server.flush(now);
        if idle.should_sleep(now) {
            server.wait(now, Some(now + Duration::from_millis(10)));
        }
    }
    server.port().statistics()
}

struct Client {
    transport: UserspaceTransport<XdpPort>,
    clock: Clock,
    idle: Idle,
    connection: ConnectionId,
    started: VecDeque<Instant>,
    longest: Duration,
}

impl Client {
    fn connect(mut transport: UserspaceTransport<XdpPort>) -> Client {
        let (clock, idle) = (Clock::new(), Idle::new(Duration::from_micros(50)));
        let address = SocketAddr::new(ADDRESSES[1].into(), SERVER_PORT);
        let connection = transport.connect(clock.now(), address, None).unwrap();
        let mut client = Client {
            transport,
            clock,
            idle,
            connection,
            started: VecDeque::new(),
            longest: Duration::ZERO,
        };
        while client.turn(&mut |_| {}) != Some(Event::Connected(connection)) {}
        client
    }

    /// One turn; the last event.
    fn turn(&mut self, hear: &mut impl FnMut(&[u8])) -> Option<Event> {
        let now = self.clock.now();
        let mut last = None;
        self.transport.poll(now);
        while let Some(event) = self.transport.next_event() {
            self.idle.handle_work(now);
            match event {
                Event::Readable(connection) => {
                    let _ = self.transport.recv(connection, |bytes| {
                        hear(bytes);
                        (bytes.len(), ())
                    });
                }
                Event::Closed { reason, .. } => panic!("{reason:?}"),
                _ => {}
            }
            last = Some(event);
        }
        self.transport.flush(now);
        if self.idle.should_sleep(now) {
            self.transport.wait(now, Some(now + Duration::from_millis(10)));
        }
        last
    }

    /// Sends messages and hears them again, so many at once; the longest that one took.
    fn run(&mut self, messages: usize, bytes: usize, depth: usize) -> Duration {
        let body: Vec<u8> = (0..bytes).map(|at| (at % 251).to_le_bytes()[0]).collect();
        let (mut said, mut heard) = (0, 0);
        self.longest = Duration::ZERO;
        let give_up = self.clock.now() + Duration::from_secs(60);
        while heard < messages * bytes {
            let now = self.clock.now();
            assert!(now < give_up, "{heard} bytes of {messages} messages at depth {depth}");
            while said < messages * bytes && said / bytes < heard / bytes + depth {
                if said % bytes == 0 && self.started.len() == said / bytes - heard / bytes {
                    self.started.push_back(now);
                }
                let rest = &body[said % bytes..];
                let taken = self.transport.send(self.connection, &[IoSlice::new(rest)]).unwrap();
                said += taken;
                if taken < rest.len() {
                    break;
                }
            }
            let before = heard;
            self.turn(&mut |piece| {
                for byte in piece {
                    assert_eq!(*byte, body[heard % bytes], "at {heard}");
                    heard += 1;
                }
            });
            for _ in before / bytes..heard / bytes {
                let started = self.started.pop_front().unwrap();
                self.longest = self.longest.max(self.clock.now() - started);
            }
        }
        self.longest
    }
}

/// smoltcp's least time-out: what takes so long has stalled.
const STALL: Duration = Duration::from_secs(1);

fn load(modes: [XdpMode; 2], frames: u32, cases: &[(usize, usize, usize)]) {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let [client, server] =
        [0, 1].map(|end| transport(&link, end, &xdp_options(end, modes[end], frames)));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(server, &is_over));
        let mut client = Client::connect(client);
        for &(messages, bytes, depth) in cases {
            let begun = client.clock.now();
            let longest = client.run(messages, bytes, depth);
            let took = client.clock.now() - begun;
            let (stack, port) = (client.transport.statistics(), client.transport.port());
            println!("{bytes} B, depth {depth}: {took:?}, longest {longest:?}, {stack:?}");
            assert!(longest < STALL, "{:?}", port.statistics());
            assert_eq!(port.statistics().no_frame, 0, "what is sent finds a frame");
        }
        let near = client.transport.port().statistics();
        is_over.store(true, Ordering::Relaxed);
        let far = server.join().unwrap();
        println!("{near:?}\n{far:?}");
        assert_eq!((near.invalid, far.invalid, far.no_frame), (0, 0, 0));
    });
}

const CASES: [(usize, usize, usize); 7] = [
    (2_000, 400, 1),
    (20_000, 400, 32),
    (20_000, 400, 256),
    (40_000, 400, 1_024),
    (10_000, 1_000, 1_024),
    (5_000, 10_000, 32),
    (5_000, 10_000, 1_024),
];

#[test]
fn no_depth_stalls_the_link_in_the_drivers_mode() {
    load([XdpMode::Copy; 2], 8_192, &CASES);
}

#[test]
fn no_depth_stalls_the_link_in_generic_mode() {
    load([XdpMode::Generic; 2], 8_192, &CASES);
}

#[test]
fn few_frames_slow_the_link_down_and_do_not_stall_it() {
    load([XdpMode::Copy; 2], 1_024, &CASES);
}

/// Turns of both ends until that one's event has come.
fn until_event(
    ends: (&mut LinkTransport, &mut UserspaceTransport<XdpPort>),
    mut is_it: impl FnMut(usize, Event) -> bool,
) {
    let (clock, (client, server)) = (Clock::new(), ends);
    let mut is_over = false;
    network::until("an event", || {
        let now = clock.now();
        client.poll(now);
        while let Some(event) = client.next_event() {
            is_over |= is_it(0, event);
        }
        client.flush(now);
        server.poll(now);
        while let Some(event) = server.next_event() {
            is_over |= is_it(1, event);
        }
        server.flush(now);
        is_over.then_some(())
    });
}

#[test]
fn who_is_no_peer_any_more_hears_that_its_connection_is_over() {
    if !is_root() {
        return;
    }
    let link = Link::new(1);
    let mut server = transport(&link, 1, &xdp_options(1, XdpMode::Copy, 1_024));
    server.listen(SocketAddr::new(ADDRESSES[1].into(), SERVER_PORT)).unwrap();
    let queues = vec![LinkQueue { number: 0, ports: 61_440..=61_503 }];
    let (name, peers) = (network::INTERFACE.to_owned(), vec![ADDRESSES[1]]);
    let interface = LinkInterface { name, address: ADDRESSES[0], peers, queues };
    let mut options = LinkOptions {
        choice: LinkChoice::Afxdp,
        mode: LinkMode::Copy,
        frames: 1_024,
        frame_bytes: 2_048,
        busy_poll: Duration::ZERO,
        verify_checksums: true,
        tuning: LinkTuning::default(),
        interfaces: vec![interface],
    };
    link.hosts[0].enter();
    let mut open = open_links(&options, &KernelOptions::default(), 1).unwrap();
    let mut client = open.transports.remove(0);
    let address = SocketAddr::new(ADDRESSES[1].into(), SERVER_PORT);
    let connection = client.connect(Clock::new().now(), address, None).unwrap();
    let mut accepted = None;
    until_event((&mut client, &mut server), |end, event| {
        if let Event::Accepted { connection, .. } = event {
            accepted = Some(connection);
        }
        end == 1 && accepted.is_some()
    });
    let accepted = accepted.unwrap();

    // It is heard still.
    options.interfaces[0].peers.clear();
    open.steering.set_peers(&options.interfaces).unwrap();
    set_link_peers(&mut client, &options.interfaces);
    server.send(accepted, &[IoSlice::new(b"are you there")]).unwrap();
    let heard = |end, event| (end, event) == (0, Event::Readable(connection));
    until_event((&mut client, &mut server), heard);
    client.abort(connection);
    until_event((&mut client, &mut server), |end, event| {
        let reason = CloseReason::Reset;
        (end, event) == (1, Event::Closed { connection: accepted, reason })
    });

    // And until the peers change again.
    options.interfaces[0].peers.push(std::net::Ipv4Addr::new(10, 77, 0, 3));
    open.steering.set_peers(&options.interfaces).unwrap();
    options.interfaces[0].peers.push(ADDRESSES[0]);
    assert!(open.steering.set_peers(&options.interfaces).is_err(), "that is ourselves");
    options.interfaces[0].peers = vec![ADDRESSES[1]];
    open.steering.set_peers(&options.interfaces).unwrap();
}

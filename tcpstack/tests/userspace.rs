//! The userspace transport on links that lose, double, reorder and alter packets, in virtual time.
#![cfg(feature = "userspace")]

use std::cell::Cell;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use dataplane::{Port, WireEnd, WireOptions, wire};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, TxToken};
use tcpstack::{
    ConnectionId, Event, Instant, Transport, UserspaceOptions, UserspaceStatistics,
    UserspaceTransport,
};

/// A client that says things, and a server that says them back.
struct Link {
    now: Instant,
    client: UserspaceTransport<WireEnd>,
    server: UserspaceTransport<WireEnd>,
    connection: ConnectionId,
    /// What the server has heard and not said back yet.
    owed: Vec<u8>,
    accepted: Option<ConnectionId>,
    heard: Vec<u8>,
}

impl Link {
    fn new(options: WireOptions) -> Link {
        Link::with(options, |_| ())
    }

    /// `change` makes the options of both ends other than they are by default.
    fn with(options: WireOptions, change: impl Fn(&mut UserspaceOptions)) -> Link {
        let frame_bytes = if options.frame_bytes == 1514 { 1500 } else { options.frame_bytes };
        let (a, b) = wire(WireOptions { medium: Medium::Ip, frame_bytes, ..options });
        let [near, far] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let changed = |address, seed| {
            let mut options = UserspaceOptions::new(address, seed);
            change(&mut options);
            options
        };
        let mut client = UserspaceTransport::new(a, changed(near, 1));
        let mut server = UserspaceTransport::new(b, changed(far, 2));
        let now = Instant::from_nanos(1_000_000_000);
        server.listen(SocketAddr::new(far, 7)).unwrap();
        let connection = client.connect(now, SocketAddr::new(far, 7), None).unwrap();
        let (owed, heard) = (Vec::new(), Vec::new());
        Link { now, client, server, connection, owed, accepted: None, heard }
    }

    /// One turn of both ends, and time passes until something is due.
    fn turn(&mut self) {
        self.client.poll(self.now);
        while let Some(event) = self.client.next_event() {
            match event {
                Event::Readable(name) => {
                    let heard = &mut self.heard;
                    let _ = self.client.recv(name, |bytes| {
                        heard.extend_from_slice(bytes);
                        (bytes.len(), ())
                    });
                }
                Event::Closed { reason, .. } => panic!("{reason:?}"),
                _ => {}
            }
        }
        self.client.flush(self.now);
        self.server.poll(self.now);
        while let Some(event) = self.server.next_event() {
            match event {
                Event::Accepted { connection, .. } => self.accepted = Some(connection),
                Event::Readable(name) => {
                    let owed = &mut self.owed;
                    let _ = self.server.recv(name, |bytes| {
                        owed.extend_from_slice(bytes);
                        (bytes.len(), ())
                    });
                }
                Event::Closed { reason, .. } => panic!("{reason:?}"),
                _ => {}
            }
        }
        if let Some(accepted) = self.accepted {
            let said = self.server.send(accepted, &[IoSlice::new(&self.owed)]).unwrap();
            self.owed.drain(..said);
        }
        self.server.flush(self.now);
        let busy = self.client.port().has_received() || self.server.port().has_received();
        let next = [self.client.next_deadline(), self.server.next_deadline()];
        let next = next.into_iter().flatten().min().unwrap_or(self.now + TURN);
        self.now = if busy { self.now + TURN } else { next.max(self.now + TURN) };
        assert!(self.now < Instant::from_nanos(1_000_000_000_000), "it goes on for ever");
    }

    /// Says so many bytes and hears them again; how long it took.
    fn round_trip(&mut self, bytes: &[u8]) -> Duration {
        let begin = self.now;
        let (mut said, expected) = (0, self.heard.len() + bytes.len());
        while self.heard.len() < expected {
            said += self.client.send(self.connection, &[IoSlice::new(&bytes[said..])]).unwrap();
            self.turn();
        }
        assert!(self.heard.ends_with(bytes));
        self.heard.clear();
        self.now - begin
    }

    /// What both ends counted, added up.
    fn sent_again(&self) -> u64 {
        let count = |statistics: UserspaceStatistics| statistics.sent_again;
        count(self.client.statistics()) + count(self.server.statistics())
    }

    fn lost(&self) -> u64 {
        [self.client.port(), self.server.port()].iter().map(|it| it.statistics().lost).sum()
    }
}

/// A turn of both ends takes so long, so a round trip is about two.
const TURN: Duration = Duration::from_micros(10);

#[test]
fn nothing_is_sent_again_on_a_good_link() {
    let mut link = Link::new(WireOptions::default());
    for _ in 0..1_000 {
        link.round_trip(&[7; 400]);
    }
    link.round_trip(&vec![8; 2_000_000]);
    assert_eq!(link.sent_again(), 0);
}

#[test]
fn a_lost_packet_costs_milliseconds_and_not_a_second() {
    for (loss_ppm, bytes) in [(1_000, 400), (1_000, 10_000), (10_000, 400), (10_000, 10_000)] {
        let mut link = Link::new(WireOptions { loss_ppm, ..WireOptions::default() });
        let mut times: Vec<_> = (0..10_000).map(|_| link.round_trip(&vec![7; bytes])).collect();
        times.sort_unstable();
        let (p99, most) = (times[times.len() * 99 / 100], times[times.len() - 1]);
        assert!(link.lost() > 10, "only {} were lost", link.lost());
        assert!(
            link.sent_again() <= link.lost() * 4,
            "{} again for {}",
            link.sent_again(),
            link.lost()
        );
        // Not what it takes here, but what a stalled link must never come near to.
        assert!(p99 < Duration::from_millis(5), "{loss_ppm} {bytes}: {p99:?}");
        assert!(most < Duration::from_millis(50), "{loss_ppm} {bytes}: {most:?}");
    }
}

#[test]
fn a_flight_that_is_lost_altogether_comes_again_at_once() {
    let mut link = Link::new(WireOptions::default());
    link.round_trip(&[7; 400]);
    for packets in [1, 2, 8, 40] {
        let bytes = vec![9; packets * 1_400];
        link.client.send(link.connection, &[IoSlice::new(&bytes)]).unwrap();
        link.client.port().set_loss_ppm(1_000_000);
        link.client.flush(link.now);
        link.client.port().set_loss_ppm(0);
        let begin = link.now;
        while link.heard.len() < bytes.len() {
            link.turn();
        }
        link.heard.clear();
        let took = link.now - begin;
        assert!(took < Duration::from_millis(10), "{packets} packets: {took:?}");
    }
}

#[test]
fn what_is_said_arrives_whole_over_links_that_do_everything() {
    for seed in 0..40 {
        let options = WireOptions {
            loss_ppm: 20_000,
            duplicate_ppm: 20_000,
            reorder_ppm: 50_000,
            corrupt_ppm: 10_000,
            ring_frames: 64,
            seed,
            ..WireOptions::default()
        };
        let mut link = Link::new(options);
        let bytes: Vec<u8> =
            (0..300_000_u32).map(|at| (at * 31 + at / 251).to_le_bytes()[0]).collect();
        for part in bytes.chunks(30_000) {
            link.round_trip(part);
        }
    }
}

#[test]
fn long_frames_carry_more_at_once() {
    let mut link = Link::new(WireOptions { frame_bytes: 9_000, ..WireOptions::default() });
    link.round_trip(&vec![7; 1_000_000]);
    let long = link.client.statistics().received;
    let mut link = Link::new(WireOptions::default());
    link.round_trip(&vec![7; 1_000_000]);
    assert!(link.client.statistics().received > long * 3);
}

#[test]
fn a_peer_beyond_the_bound_is_not_heard_and_one_without_connections_makes_place() {
    let mut link = Link::new(WireOptions::default());
    link.round_trip(&[7; 400]);
    let strangers =
        UserspaceOptions { peers_max: 1, ..UserspaceOptions::new("10.0.0.1".parse().unwrap(), 1) };
    let (a, _b) = wire(WireOptions { medium: Medium::Ip, ..WireOptions::default() });
    let mut client = UserspaceTransport::new(a, strangers);
    let at = |last| SocketAddr::new([10, 0, 0, last].into(), 7);
    let first = client.connect(link.now, at(2), None).unwrap();
    assert!(client.connect(link.now, at(3), None).is_err(), "there is a connection to the other");
    client.abort(first);
    client.flush(link.now);
    client.poll(link.now);
    assert!(client.connect(link.now, at(3), None).is_ok());
}

/// A wire that has little room, as a NIC queue whose frames are on their way.
struct Narrow {
    wire: WireEnd,
    room: usize,
    /// Packets for which there was none.
    refused: Rc<Cell<usize>>,
    /// The least that there was when all had been sent that there was to send.
    least: Rc<Cell<usize>>,
}

struct NarrowToken<'a> {
    token: <WireEnd as Device>::TxToken<'a>,
    room: &'a mut usize,
    refused: &'a Cell<usize>,
}

impl TxToken for NarrowToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        if *self.room == 0 {
            self.refused.set(self.refused.get() + 1);
            return write(&mut vec![0; length]);
        }
        *self.room -= 1;
        self.token.consume(length, write)
    }
}

impl Device for Narrow {
    type RxToken<'a> = <WireEnd as Device>::RxToken<'a>;
    type TxToken<'a> = NarrowToken<'a>;

    fn receive(
        &mut self,
        now: smoltcp::time::Instant,
    ) -> Option<(Self::RxToken<'_>, NarrowToken<'_>)> {
        if self.room == 0 {
            return None;
        }
        let Narrow { wire, room, refused, .. } = self;
        let (received, token) = wire.receive(now)?;
        Some((received, NarrowToken { token, room, refused }))
    }

    fn transmit(&mut self, now: smoltcp::time::Instant) -> Option<NarrowToken<'_>> {
        let Narrow { wire, room, refused, .. } = self;
        Some(NarrowToken { token: wire.transmit(now)?, room, refused })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.wire.capabilities()
    }
}

/// In a flush so many packets get out of the way.
const ROOM: usize = 40;

impl Port for Narrow {
    fn has_received(&self) -> bool {
        self.wire.has_received()
    }

    fn room(&mut self) -> usize {
        self.room
    }

    fn has_unsent(&self) -> bool {
        self.room < ROOM
    }

    fn flush(&mut self) {
        self.least.set(self.least.get().min(self.room));
        self.room = ROOM;
    }

    fn descriptor(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

#[test]
fn what_is_sent_finds_a_place_however_few_there_are() {
    let options = WireOptions { medium: Medium::Ip, frame_bytes: 1500, ..WireOptions::default() };
    let (a, b) = wire(WireOptions { loss_ppm: 10_000, ..options });
    let refused = Rc::new(Cell::new(0));
    let least = Rc::new(Cell::new(ROOM));
    let narrow = |wire| {
        let (refused, least) = (Rc::clone(&refused), Rc::clone(&least));
        Narrow { wire, room: ROOM, refused, least }
    };
    let [near, far] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let options = |address| UserspaceOptions {
        packets_per_poll: ROOM / 2,
        ..UserspaceOptions::new(address, 1)
    };
    let mut client = UserspaceTransport::new(narrow(a), options(near));
    let mut server = UserspaceTransport::new(narrow(b), options(far));
    let mut now = Instant::from_nanos(1_000_000_000);
    server.listen(SocketAddr::new(far, 7)).unwrap();
    let connection = client.connect(now, SocketAddr::new(far, 7), None).unwrap();
    let (mut said, mut heard) = (0, 0);
    while heard < 3_000_000 {
        client.poll(now);
        while client.next_event().is_some() {}
        let piece = vec![7; 100_000.min(3_000_000 - said)];
        said += client.send(connection, &[IoSlice::new(&piece)]).unwrap();
        client.flush(now);
        server.poll(now);
        while let Some(event) = server.next_event() {
            if let Event::Readable(name) = event {
                let count = server.recv(name, |bytes| (bytes.len(), bytes.len()));
                heard += count.unwrap_or(0);
            }
        }
        server.flush(now);
        now += TURN;
        assert!(now < Instant::from_nanos(20_000_000_000), "{heard} of {said}");
    }
    assert_eq!(refused.get(), 0);
    assert!(least.get() > 0, "new data took the places that what is lost needs");
}

#[test]
fn a_connection_at_rest_stays_and_one_whose_peer_is_gone_ends() {
    let timeout = Duration::from_secs(10);
    let change = |options: &mut UserspaceOptions| options.user_timeout = Some(timeout);
    let mut link = Link::with(WireOptions::default(), change);
    link.round_trip(&[7; 400]);
    let rest_until = link.now + timeout * 5;
    while link.now < rest_until {
        link.turn();
    }
    link.round_trip(&[8; 400]);
    link.client.port().set_loss_ppm(1_000_000);
    let gone_at = link.now;
    let connection = loop {
        link.now += Duration::from_millis(1);
        assert!(link.now - gone_at < timeout * 2, "it stays for ever");
        link.client.poll(link.now);
        link.server.poll(link.now);
        if let Some(Event::Closed { connection, reason }) = link.server.next_event() {
            assert_eq!(reason, tcpstack::CloseReason::TimedOut);
            break connection;
        }
        link.client.flush(link.now);
        link.server.flush(link.now);
    };
    assert_eq!(Some(connection), link.accepted);
}

#[test]
fn connections_begin_at_ports_that_a_peer_cannot_foretell() {
    let ports = |seed| {
        let (a, _b) = wire(WireOptions { medium: Medium::Ip, ..WireOptions::default() });
        let options = UserspaceOptions {
            ports: 61_440..=61_503,
            ..UserspaceOptions::new("10.0.0.1".parse().unwrap(), seed)
        };
        let mut client = UserspaceTransport::new(a, options);
        let at = SocketAddr::new([10, 0, 0, 2].into(), 7);
        let now = Instant::from_nanos(1);
        // As many as there are ports, and not one more.
        for _ in 0..64 {
            client.connect(now, at, None).unwrap();
        }
        client.connect(now, at, None).is_err()
    };
    assert!((0..10).all(ports));
}

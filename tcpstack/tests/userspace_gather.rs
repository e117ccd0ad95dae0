//! How the userspace transport gathers what leaves by one system call, in virtual time.
#![cfg(feature = "userspace")]

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::time::Duration;

use dataplane::{Port, WireEnd, WireOptions, wire};
use smoltcp::phy::{Device, DeviceCapabilities, Medium};
use tcpstack::{ConnectionId, Event, Instant, Transport, UserspaceOptions, UserspaceTransport};

/// A wire that counts how often it was flushed.
struct Counted {
    wire: WireEnd,
    flushes: u64,
}

impl Device for Counted {
    type RxToken<'a> = <WireEnd as Device>::RxToken<'a>;
    type TxToken<'a> = <WireEnd as Device>::TxToken<'a>;

    fn receive(
        &mut self,
        now: smoltcp::time::Instant,
    ) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        self.wire.receive(now)
    }

    fn transmit(&mut self, now: smoltcp::time::Instant) -> Option<Self::TxToken<'_>> {
        self.wire.transmit(now)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.wire.capabilities()
    }
}

impl Port for Counted {
    fn has_received(&self) -> bool {
        self.wire.has_received()
    }

    fn room(&mut self) -> usize {
        self.wire.room()
    }

    fn has_unsent(&self) -> bool {
        false
    }

    fn flush(&mut self) {
        self.flushes += 1;
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

/// A client and a server, connected, with nothing under way.
struct Pair {
    now: Instant,
    client: UserspaceTransport<Counted>,
    server: UserspaceTransport<Counted>,
    asking: ConnectionId,
    answering: ConnectionId,
}

const REQUEST: [u8; 400] = [7; 400];
/// Much longer than anything waits.
const LONG: Duration = Duration::from_millis(10);
/// Much shorter.
const SHORT: Duration = Duration::from_micros(1);

impl Pair {
    fn new() -> Pair {
        let options = WireOptions { frame_bytes: 1500, ..WireOptions::default() };
        let (a, b) = wire(WireOptions { medium: Medium::Ip, ..options });
        let [near, far] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let mut client = UserspaceTransport::new(
            Counted { wire: a, flushes: 0 },
            UserspaceOptions::new(near, 1),
        );
        let mut server =
            UserspaceTransport::new(Counted { wire: b, flushes: 0 }, UserspaceOptions::new(far, 2));
        let mut now = Instant::from_nanos(1_000_000_000);
        server.listen(SocketAddr::new(far, 7)).unwrap();
        let asking = client.connect(now, SocketAddr::new(far, 7), None).unwrap();
        let mut answering = None;
        while answering.is_none() {
            client.poll(now);
            client.flush(now);
            server.poll(now);
            while let Some(event) = server.next_event() {
                if let Event::Accepted { connection, .. } = event {
                    answering = Some(connection);
                }
            }
            server.flush(now);
            now += LONG;
        }
        let answering = answering.unwrap();
        let mut pair = Pair { now, client, server, asking, answering };
        pair.rest();
        pair
    }

    /// Lets everything arrive and be acknowledged.
    fn rest(&mut self) {
        for _ in 0..10 {
            self.now += LONG;
            turn(&mut self.client, self.now);
            turn(&mut self.server, self.now);
        }
        assert!(!self.client.port().has_received() && !self.server.port().has_received());
    }

    fn ask(&mut self) {
        assert_eq!(self.client.send(self.asking, &[IoSlice::new(&REQUEST)]).unwrap(), 400);
    }

    fn answer(&mut self) {
        assert_eq!(self.server.send(self.answering, &[IoSlice::new(b"yes")]).unwrap(), 3);
    }
}

/// One in which whatever has come is taken, and nothing is said.
fn turn(end: &mut UserspaceTransport<Counted>, now: Instant) {
    end.poll(now);
    while let Some(event) = end.next_event() {
        if let Event::Readable(name) = event {
            let _ = end.recv(name, |bytes| (bytes.len(), ()));
        }
    }
    end.flush(now);
}

fn sent(end: &UserspaceTransport<Counted>) -> u64 {
    end.port().wire.statistics().sent
}

#[test]
fn who_asks_while_something_is_asked_gathers_for_a_moment() {
    let mut pair = Pair::new();
    let before = sent(&pair.client);
    pair.ask();
    pair.client.flush(pair.now);
    assert_eq!(sent(&pair.client), before + 1, "the first one does not wait");
    for _ in 0..3 {
        pair.now += SHORT;
        pair.ask();
        pair.client.flush(pair.now);
    }
    assert_eq!(sent(&pair.client), before + 1);
    let due = pair.client.next_deadline().unwrap();
    assert!(due > pair.now && due < pair.now + LONG);
    turn(&mut pair.client, due);
    assert_eq!(sent(&pair.client), before + 2, "three in one packet");
    pair.now = due;
    turn(&mut pair.server, pair.now);
    assert_eq!(pair.server.statistics().received, 4, "with two of connecting");
}

#[test]
fn who_asks_when_nothing_is_asked_does_not_wait() {
    let mut pair = Pair::new();
    for _ in 0..5 {
        let before = sent(&pair.client);
        pair.ask();
        pair.client.flush(pair.now);
        assert_eq!(sent(&pair.client), before + 1);
        turn(&mut pair.server, pair.now);
        pair.answer();
        pair.server.flush(pair.now);
        pair.now += SHORT;
        turn(&mut pair.client, pair.now);
    }
}

#[test]
fn who_answers_waits_only_while_there_is_more_to_receive() {
    let mut pair = Pair::new();
    let before = sent(&pair.server);
    pair.answer();
    pair.server.flush(pair.now);
    pair.answer();
    pair.server.flush(pair.now + SHORT);
    assert_eq!(sent(&pair.server), before + 2, "nobody has said anything");
    pair.ask();
    pair.client.flush(pair.now + SHORT * 2);
    assert!(pair.server.port().has_received());
    pair.answer();
    pair.server.flush(pair.now + SHORT * 3);
    assert_eq!(sent(&pair.server), before + 2);
    turn(&mut pair.server, pair.now + SHORT * 4);
    assert_eq!(sent(&pair.server), before + 3);
}

#[test]
fn acknowledgements_alone_are_gathered() {
    let mut pair = Pair::new();
    // Not one who only asks: it sends at once.
    pair.client.listen(SocketAddr::new([10, 0, 0, 1].into(), 7)).unwrap();
    let before = sent(&pair.server);
    // Packets that come by and by, each in a turn of its own. Every second one would be acknowledged.
    for _ in 0..40 {
        pair.now += SHORT;
        pair.client.send(pair.asking, &[IoSlice::new(&[8; 1_400])]).unwrap();
        turn(&mut pair.client, pair.now);
        assert_eq!(pair.server.port().wire.waiting(), 1);
        turn(&mut pair.server, pair.now);
    }
    let acknowledgements = sent(&pair.server) - before;
    assert!((1..=8).contains(&acknowledgements), "{acknowledgements}");
    let due = pair.server.next_deadline();
    assert!(due.is_none_or(|due| due < pair.now + LONG));
}

#[test]
fn who_is_about_to_sleep_holds_nothing_back() {
    let mut pair = Pair::new();
    pair.ask();
    pair.client.flush(pair.now);
    let before = sent(&pair.client);
    pair.ask();
    pair.client.flush(pair.now);
    assert_eq!(sent(&pair.client), before);
    pair.client.wait(pair.now, None);
    assert_eq!(sent(&pair.client), before + 1);
    let due = pair.client.next_deadline().unwrap();
    assert!(due > pair.now + Duration::from_micros(100), "a probe, if nothing is heard");
}

#[test]
fn who_has_nothing_to_send_waits_for_nothing() {
    let mut pair = Pair::new();
    pair.ask();
    pair.client.flush(pair.now);
    turn(&mut pair.client, pair.now + SHORT);
    let due = pair.client.next_deadline().unwrap();
    assert!(due > pair.now + Duration::from_micros(100), "a probe, if nothing is heard");
}

#[test]
fn who_misses_something_says_so_at_once() {
    let mut pair = Pair::new();
    pair.server.port().wire.set_loss_ppm(1_000_000);
    pair.answer();
    pair.server.flush(pair.now);
    pair.server.port().wire.set_loss_ppm(0);
    pair.now += Duration::from_micros(50);
    pair.ask();
    pair.client.flush(pair.now);
    pair.answer();
    pair.server.flush(pair.now);
    pair.ask();
    let flushes = pair.client.port().flushes;
    turn(&mut pair.client, pair.now + SHORT);
    assert_eq!(pair.client.port().flushes, flushes + 1);
}

#[test]
fn who_is_let_go_of_is_told_at_once() {
    let mut pair = Pair::new();
    pair.ask();
    pair.client.flush(pair.now);
    let before = sent(&pair.client);
    pair.ask();
    pair.client.close(pair.asking);
    pair.client.flush(pair.now + SHORT);
    assert_eq!(sent(&pair.client), before + 1, "with the last word");
}

#[test]
fn nothing_waits_for_ever() {
    let mut pair = Pair::new();
    pair.ask();
    pair.client.flush(pair.now);
    let before = sent(&pair.client);
    // Whoever asks ever again is heard all the same.
    for turn in 0..100 {
        pair.ask();
        pair.client.flush(pair.now + SHORT * turn);
    }
    assert!(sent(&pair.client) >= before + 5);
}

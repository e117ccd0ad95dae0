//! How the userspace transport finds out that a peer's process has ended, whose kernel is silent about connections that it
//! does not know and refuses new ones.
#![cfg(feature = "userspace")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use dataplane::{Port, WireEnd, WireOptions, wire};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::wire::{IpProtocol, Ipv4Packet, TcpPacket};
use tcpstack::{
    CloseReason, ConnectionId, Event, Instant, Transport, UserspaceOptions, UserspaceTransport,
};

/// Who gets what a client sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FarEnd {
    Process,
    /// Its process has ended.
    Kernel,
    /// The cable is cut.
    Nobody,
}

/// A wire whose far end can change.
struct Cable {
    wire: WireEnd,
    far_end: Rc<Cell<FarEnd>>,
    /// What the far kernel has said.
    answers: RefCell<VecDeque<Vec<u8>>>,
}

struct CableTx<'a> {
    token: <WireEnd as Device>::TxToken<'a>,
    far_end: FarEnd,
    answers: &'a RefCell<VecDeque<Vec<u8>>>,
}

enum CableRx<'a> {
    Wire(<WireEnd as Device>::RxToken<'a>),
    Answer(Vec<u8>),
}

impl TxToken for CableTx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        if self.far_end == FarEnd::Process {
            return self.token.consume(length, write);
        }
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        if self.far_end == FarEnd::Kernel {
            self.answers.borrow_mut().extend(refusal(&packet));
        }
        result
    }
}

impl RxToken for CableRx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        match self {
            CableRx::Wire(token) => token.consume(read),
            CableRx::Answer(packet) => read(&packet),
        }
    }
}

/// What the kernel says to a packet: it refuses an attempt to connect (RST with ACK, RFC 9293, section 3.10.7.1), and is
/// kept from resetting anything else.
fn refusal(packet: &[u8]) -> Option<Vec<u8>> {
    let ip = Ipv4Packet::new_checked(packet).unwrap();
    let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
    if !tcp.syn() || tcp.ack() {
        return None;
    }
    let mut answer = vec![0; 40];
    let mut header = Ipv4Packet::new_unchecked(&mut answer);
    header.set_version(4);
    header.set_header_len(20);
    header.set_total_len(40);
    header.set_hop_limit(64);
    header.set_next_header(IpProtocol::Tcp);
    header.set_src_addr(ip.dst_addr());
    header.set_dst_addr(ip.src_addr());
    header.fill_checksum();
    let mut segment = TcpPacket::new_unchecked(header.payload_mut());
    segment.set_src_port(tcp.dst_port());
    segment.set_dst_port(tcp.src_port());
    segment.set_ack_number(tcp.seq_number() + 1);
    segment.set_header_len(20);
    segment.set_rst(true);
    segment.set_ack(true);
    segment.fill_checksum(&ip.dst_addr().into(), &ip.src_addr().into());
    Some(answer)
}

impl Device for Cable {
    type RxToken<'a> = CableRx<'a>;
    type TxToken<'a> = CableTx<'a>;

    fn receive(&mut self, now: smoltcp::time::Instant) -> Option<(CableRx<'_>, CableTx<'_>)> {
        let answer = self.answers.get_mut().pop_front();
        let Cable { wire, far_end, answers } = self;
        let far_end = far_end.get();
        if let Some(answer) = answer {
            let token = wire.transmit(now)?;
            return Some((CableRx::Answer(answer), CableTx { token, far_end, answers }));
        }
        let (received, token) = wire.receive(now)?;
        Some((CableRx::Wire(received), CableTx { token, far_end, answers }))
    }

    fn transmit(&mut self, now: smoltcp::time::Instant) -> Option<CableTx<'_>> {
        let Cable { wire, far_end, answers } = self;
        Some(CableTx { token: wire.transmit(now)?, far_end: far_end.get(), answers })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.wire.capabilities()
    }
}

impl Port for Cable {
    fn has_received(&self) -> bool {
        self.wire.has_received() || !self.answers.borrow().is_empty()
    }

    fn room(&mut self) -> usize {
        usize::MAX
    }

    fn has_unsent(&self) -> bool {
        false
    }

    fn flush(&mut self) {}

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

/// A client with a connection on which a server has heard something.
struct Pair {
    now: Instant,
    client: UserspaceTransport<Cable>,
    server: UserspaceTransport<WireEnd>,
    connection: ConnectionId,
    far_end: Rc<Cell<FarEnd>>,
    /// What the client was told last.
    closed: Option<CloseReason>,
    accepted: Vec<ConnectionId>,
    heard: usize,
}

impl Pair {
    fn new() -> Pair {
        let options =
            WireOptions { medium: Medium::Ip, frame_bytes: 1500, ..WireOptions::default() };
        let (a, b) = wire(options);
        let far_end = Rc::new(Cell::new(FarEnd::Process));
        let cable = Cable { wire: a, far_end: Rc::clone(&far_end), answers: RefCell::default() };
        let [near, far] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let mut client = UserspaceTransport::new(cable, UserspaceOptions::new(near, 1));
        let mut server = UserspaceTransport::new(b, UserspaceOptions::new(far, 2));
        let now = Instant::from_nanos(1_000_000_000);
        server.listen(SocketAddr::new(far, 7)).unwrap();
        let connection = client.connect(now, SocketAddr::new(far, 7), None).unwrap();
        let (accepted, heard) = (Vec::new(), 0);
        let mut pair =
            Pair { now, client, server, connection, far_end, closed: None, accepted, heard };
        pair.until(Duration::from_millis(1), true);
        pair.say();
        pair.until(Duration::from_millis(1), true);
        assert_eq!((pair.accepted.len(), pair.heard), (1, 4));
        pair
    }

    fn say(&mut self) {
        self.client.send(self.connection, &[IoSlice::new(b"mail")]).unwrap();
    }

    /// Lets time pass until the client's connection is closed, so long at most; `serves` while the server does anything.
    fn until(&mut self, most: Duration, serves: bool) -> Duration {
        let begin = self.now;
        while self.closed.is_none() && self.now - begin < most {
            self.client.poll(self.now);
            while let Some(event) = self.client.next_event() {
                if let Event::Closed { reason, .. } = event {
                    self.closed = Some(reason);
                }
            }
            self.client.flush(self.now);
            if serves {
                self.serve();
            }
            self.now += Duration::from_micros(20);
        }
        self.now - begin
    }

    fn serve(&mut self) {
        self.server.poll(self.now);
        while let Some(event) = self.server.next_event() {
            match event {
                Event::Accepted { connection, .. } => self.accepted.push(connection),
                Event::Readable(name) => {
                    let heard = self.server.recv(name, |bytes| (bytes.len(), bytes.len()));
                    self.heard += heard.unwrap_or(0);
                }
                _ => {}
            }
        }
        self.server.flush(self.now);
    }
}

#[test]
fn a_process_that_has_ended_is_found_out_by_a_refusal() {
    let mut pair = Pair::new();
    pair.far_end.set(FarEnd::Kernel);
    pair.say();
    let took = pair.until(Duration::from_secs(1), false);
    assert_eq!(pair.closed, Some(CloseReason::Reset));
    // Not what it takes, but what is no stall of a second.
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert_eq!(pair.client.statistics().knocks, 1);
}

#[test]
fn a_process_that_only_sleeps_keeps_its_connection() {
    let mut pair = Pair::new();
    pair.say();
    pair.until(Duration::from_secs(2), false);
    assert_eq!(pair.closed, None, "nobody has refused anything");
    assert!(pair.client.statistics().knocks > 1, "it is tried again");
    pair.until(Duration::from_secs(1), true);
    assert_eq!((pair.closed, pair.heard), (None, 8));
    // Whoever was knocked at serves as before, and those who knocked are gone.
    let knocks = pair.client.statistics().knocks;
    pair.say();
    pair.until(Duration::from_secs(1), true);
    assert_eq!((pair.heard, pair.client.statistics().knocks), (12, knocks));
}

#[test]
fn nothing_is_concluded_from_a_cable_that_is_cut() {
    let mut pair = Pair::new();
    pair.far_end.set(FarEnd::Nobody);
    pair.say();
    pair.until(Duration::from_secs(2), false);
    assert_eq!(pair.closed, None);
    let knocks = pair.client.statistics().knocks;
    assert!((2..=20).contains(&knocks), "{knocks}");
    pair.far_end.set(FarEnd::Process);
    pair.until(Duration::from_secs(1), true);
    assert_eq!((pair.closed, pair.heard), (None, 8));
}

#[test]
fn a_connection_at_rest_is_not_knocked_at() {
    let mut pair = Pair::new();
    pair.far_end.set(FarEnd::Kernel);
    pair.until(Duration::from_secs(2), false);
    assert_eq!((pair.closed, pair.client.statistics().knocks), (None, 0));
}

#[test]
fn who_was_connected_to_does_not_knock() {
    let mut pair = Pair::new();
    // At the port that a client has nobody listens: a refusal there would say nothing.
    pair.server.send(pair.accepted[0], &[IoSlice::new(b"answer")]).unwrap();
    let begin = pair.now;
    while pair.now - begin < Duration::from_secs(2) {
        pair.serve();
        pair.now += Duration::from_millis(1);
    }
    assert_eq!(pair.server.statistics().knocks, 0);
    pair.until(Duration::from_secs(1), true);
    assert_eq!(pair.closed, None);
}

//! Frames that come by an interface, through the filter and the stack to the socket.
//!
//! A client and a server talk over a link in memory, and somebody puts frames of the script onto it: raw ones, and copies of
//! what went by, altered. Rules:
//!
//! * No frame breaks the stack, and its tables keep their bounds.
//! * What arrives is what was said, as long as no frame that was put there looked like one of the peer's, checksum
//!   included.
//! * In the end nothing is left that waits for ever: the transport says when it wants to be called again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use dataplane::Port;
use dataplane::xdp::{Filter, PortBlock, Verdict};
use fuzzing::Script;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use tcpstack::{ConnectionId, Event, Instant, Transport, UserspaceOptions, UserspaceTransport};

const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
const SERVER_PORT: u16 = 7_001;
const CLIENT_PORTS: std::ops::RangeInclusive<u16> = 61_440..=61_503;
const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
const CONNECTIONS_MAX: usize = 4;
const PEERS_MAX: usize = 3;
const STEPS_MAX: usize = 200;
const TURN: Duration = Duration::from_micros(20);

/// Frames on their way to either end, from their Ethernet header on.
#[derive(Default)]
struct Wire {
    to: [VecDeque<Vec<u8>>; 2],
    /// What went by last, for copies.
    seen: VecDeque<Vec<u8>>,
}

/// Beyond this a frame is lost.
const WIRE_FRAMES_MAX: usize = 256;
const SEEN_MAX: usize = 16;

struct End {
    wire: Rc<RefCell<Wire>>,
    end: usize,
    filter: Filter,
}

struct Received(Vec<u8>);
struct Sent<'a>(&'a End);

impl End {
    fn new(wire: &Rc<RefCell<Wire>>, end: usize) -> End {
        let ports = if end == 0 { CLIENT_PORTS } else { SERVER_PORT..=SERVER_PORT };
        let blocks = vec![PortBlock { ports, queue: 0 }];
        let peers = vec![ADDRESSES[1 - end], Ipv4Addr::new(10, 0, 0, 77)];
        let filter = Filter { local: ADDRESSES[end], peers, blocks };
        End { wire: Rc::clone(wire), end, filter }
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0[ETHERNET.len()..])
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = ETHERNET.to_vec();
        frame.resize(ETHERNET.len() + length, 0);
        let result = write(&mut frame[ETHERNET.len()..]);
        let mut wire = self.0.wire.borrow_mut();
        wire.seen.push_front(frame.clone());
        wire.seen.truncate(SEEN_MAX);
        let ring = &mut wire.to[1 - self.0.end];
        if ring.len() < WIRE_FRAMES_MAX {
            ring.push_back(frame);
        }
        result
    }
}

impl Device for End {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Received, Sent<'_>)> {
        loop {
            let frame = self.wire.borrow_mut().to[self.end].pop_front()?;
            // All else the kernel gets.
            if self.filter.verdict(&frame, 0) == Verdict::Socket {
                return Some((Received(frame), Sent(self)));
            }
        }
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Sent<'_>> {
        Some(Sent(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1_500;
        capabilities
    }
}

impl Port for End {
    fn has_received(&self) -> bool {
        !self.wire.borrow().to[self.end].is_empty()
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

struct Talk {
    wire: Rc<RefCell<Wire>>,
    now: Instant,
    ends: [UserspaceTransport<End>; 2],
    connection: ConnectionId,
    said: Vec<u8>,
    /// By connection at the server: somebody else may have made one.
    heard: Vec<(ConnectionId, Vec<u8>)>,
    /// A frame was put there that could be the peer's own.
    is_trusted: bool,
    is_over: bool,
}

/// Runs the frames that `input` describes.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let mut talk = Talk::new();
    let mut steps = 0;
    while !script.is_over() && steps < STEPS_MAX {
        talk.step(&mut script);
        steps += 1;
    }
    talk.finish();
}

impl Talk {
    fn new() -> Talk {
        let wire = Rc::default();
        let options = |end: usize| UserspaceOptions {
            connections_max: CONNECTIONS_MAX,
            peers_max: PEERS_MAX,
            backlog: 2,
            ports: CLIENT_PORTS,
            send_buffer_bytes: 8 * 1024,
            receive_buffer_bytes: 8 * 1024,
            ..UserspaceOptions::new(ADDRESSES[end].into(), 7)
        };
        let [mut client, mut server] =
            [0, 1].map(|end| UserspaceTransport::new(End::new(&wire, end), options(end)));
        let now = Instant::from_nanos(1_000_000_000);
        let address = SocketAddr::new(IpAddr::V4(ADDRESSES[1]), SERVER_PORT);
        server.listen(address).expect("nobody listens there");
        let connection = client.connect(now, address, None).expect("there is room");
        let (said, heard) = (Vec::new(), Vec::new());
        let ends = [client, server];
        Talk { wire, now, ends, connection, said, heard, is_trusted: true, is_over: false }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 8 {
            0 | 1 => self.turn(),
            2 => self.say(usize::from(script.u16() % 4_096)),
            3 => self.now += Duration::from_micros(script.number().min(2_000_000)),
            4 => self.lose(usize::from(script.byte())),
            5 => {
                let (end, length) = (script.byte(), usize::from(script.byte()));
                let frame = script.bytes(length).to_vec();
                self.put(usize::from(end & 1), frame);
            }
            6 => self.put_altered(script, false),
            _ => self.put_altered(script, true),
        }
    }

    /// One turn of both ends.
    fn turn(&mut self) {
        for end in 0..2 {
            self.ends[end].poll(self.now);
            let mut events = 0;
            while let Some(event) = self.ends[end].next_event() {
                events += 1;
                assert!(events <= 3 * CONNECTIONS_MAX + 2, "as many as there are connections");
                self.handle(end, event);
            }
            self.ends[end].flush(self.now);
            let _ = self.ends[end].next_deadline();
        }
        self.now += TURN;
    }

    fn handle(&mut self, end: usize, event: Event) {
        match event {
            Event::Readable(connection) => {
                let taken = self.ends[end].recv(connection, |bytes| (bytes.len(), bytes.to_vec()));
                let heard = self.heard.iter_mut().find(|it| it.0 == connection);
                if let (Ok(bytes), 1, Some(heard)) = (taken, end, heard) {
                    heard.1.extend(bytes);
                }
            }
            Event::Accepted { connection, .. } if end == 1 => {
                assert!(self.heard.len() < 10_000);
                self.heard.push((connection, Vec::new()));
            }
            Event::Closed { connection, .. } => {
                self.is_over |= end == 0 && connection == self.connection;
                assert!(!(self.is_over && self.is_trusted), "nobody has closed it: {event:?}");
            }
            _ => {}
        }
    }

    fn say(&mut self, length: usize) {
        let bytes: Vec<u8> =
            (0..length).map(|at| (self.said.len() + at).to_le_bytes()[0]).collect();
        let taken = self.ends[0].send(self.connection, &[IoSlice::new(&bytes)]).unwrap_or(0);
        self.said.extend(&bytes[..taken]);
    }

    fn lose(&mut self, count: usize) {
        let mut wire = self.wire.borrow_mut();
        let ring = &mut wire.to[count & 1];
        let count = ((count >> 1) & 7).min(ring.len());
        ring.drain(..count);
    }

    /// Something that went by, with some bytes altered, and sums that are right for it or not.
    fn put_altered(&mut self, script: &mut Script<'_>, make_sound: bool) {
        let which = usize::from(script.byte());
        let Some(mut frame) = self.wire.borrow().seen.get(which % SEEN_MAX).cloned() else {
            return;
        };
        for _ in 0..script.byte() % 4 {
            let at = usize::from(script.u16()) % frame.len();
            frame[at] = script.byte();
        }
        frame.truncate(frame.len() - usize::from(script.byte() % 8).min(frame.len()));
        if make_sound {
            sum_up(&mut frame);
        }
        self.put(which >> 7, frame);
    }

    fn put(&mut self, end: usize, frame: Vec<u8>) {
        // What the other end has said itself may come twice; else, if it is sound it may be anything.
        let is_copy = self.wire.borrow().seen.contains(&frame);
        self.is_trusted &= is_copy || !is_sound(&frame);
        self.wire.borrow_mut().to[end].push_back(frame);
    }

    fn finish(&mut self) {
        for _ in 0..20_000 {
            self.turn();
            let all = self.heard.iter().any(|it| it.1.len() >= self.said.len());
            if self.is_over || (all && !self.is_trusted) || (all && self.is_quiet()) {
                break;
            }
            if self.is_quiet() {
                let next = self.ends.iter().filter_map(Transport::next_deadline).min();
                self.now = next.map_or(self.now, |next| next.max(self.now));
            }
        }
        if self.is_trusted {
            let whole = self.heard.iter().any(|it| it.1 == self.said);
            assert!(whole || self.said.is_empty(), "what was said has not arrived");
        }
    }

    fn is_quiet(&self) -> bool {
        self.wire.borrow().to.iter().all(VecDeque::is_empty)
    }
}

/// Whether the sums of a TCP segment over IPv4 are right, as far as it can be read.
fn is_sound(frame: &[u8]) -> bool {
    let mut summed = frame.to_vec();
    sum_up(&mut summed);
    frame.len() >= 54 && summed[50..52] == frame[50..52]
}

/// Makes them right.
fn sum_up(frame: &mut [u8]) {
    if frame.len() < 54 {
        return;
    }
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let end = (14 + total).clamp(54, frame.len());
    frame[24..26].fill(0);
    let ip = checksum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&ip.to_be_bytes());
    frame[50..52].fill(0);
    let length = u16::try_from(end - 34).unwrap_or(u16::MAX).to_be_bytes();
    let tcp = checksum(&[&frame[26..34], &[0, 6], &length, &frame[34..end]]);
    frame[50..52].copy_from_slice(&tcp.to_be_bytes());
}

/// RFC 1071. Each part but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 =
        words.map(|it| u32::from(it[0]) << 8 | u32::from(*it.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let [_, _, high, low] = ((folded & 0xffff) + (folded >> 16)).to_be_bytes();
    !u16::from_be_bytes([high, low])
}

//! Packets between the ports of simulated hosts.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use super::connection::Side;
use super::engine::{Due, Engine, TICK, draw};
use super::packet::{Headers, TcpSeqNumber, forge_reset, tcp_port_of};
use crate::time::Instant;

/// The ports, and what is between them.
#[derive(Debug, Default)]
pub(super) struct Ethernet {
    ports: Vec<PortState>,
    /// Packets on their way.
    flights: BTreeMap<u64, Flight>,
    next_flight: u64,
    /// By the ends, that which connected first. There are no more than ends that ever talked to one another.
    flows: BTreeMap<Ends, Flow>,
}

/// The end that connects, and the other one.
type Ends = [SocketAddr; 2];

#[derive(Debug)]
struct PortState {
    address: IpAddr,
    tcp_ports: RangeInclusive<u16>,
    /// Neither dropped nor crashed.
    is_alive: bool,
    /// What has come and was not received. At most `ring_packets`.
    ring: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct Flight {
    ends: Ends,
    from: Side,
    packet: Vec<u8>,
}

/// A TCP connection as a switch would see it.
#[derive(Clone, Debug, Default)]
struct Flow {
    /// The number with which the newest attempt to connect began.
    begins: Option<TcpSeqNumber>,
    /// Nothing arrives any more.
    is_lost: bool,
    /// The attempt was answered.
    is_answered: bool,
    /// Behind the last octet that each side has sent.
    sent_upto: [Option<TcpSeqNumber>; 2],
    /// When the last packet of each side arrives that keeps its place.
    last_due: [Instant; 2],
    /// Nothing of that side arrives earlier: an attempt to connect or its answer is late.
    held_until: [Instant; 2],
}

impl Ethernet {
    pub(super) fn attach(&mut self, address: IpAddr, tcp_ports: RangeInclusive<u16>) -> usize {
        let ring = VecDeque::new();
        self.ports.push(PortState { address, tcp_ports, is_alive: true, ring });
        self.ports.len() - 1
    }

    pub(super) fn detach(&mut self, number: usize) {
        let port = &mut self.ports[number];
        port.is_alive = false;
        port.ring = VecDeque::new();
    }

    /// The host with these addresses stops.
    pub(super) fn crash(&mut self, addresses: &[IpAddr]) {
        for number in 0..self.ports.len() {
            if addresses.contains(&self.ports[number].address) {
                self.detach(number);
            }
        }
    }

    pub(super) fn has_received(&self, number: usize) -> bool {
        !self.ports[number].ring.is_empty()
    }

    pub(super) fn receive(&mut self, number: usize) -> Option<Vec<u8>> {
        self.ports[number].ring.pop_front()
    }

    /// Loses all connections between two addresses; how many there were.
    pub(super) fn lose_flows(&mut self, a: IpAddr, b: IpAddr) -> usize {
        let mut count = 0;
        for (ends, flow) in &mut self.flows {
            if is_between(ends, a, b) && !flow.is_lost {
                flow.is_lost = true;
                count += 1;
            }
        }
        count
    }

    /// The ends of the connection that a packet belongs to, perhaps a new one, and which of them sends it.
    fn flow_of(&mut self, headers: &Headers) -> (Ends, Side) {
        let Headers { source, destination, .. } = *headers;
        let is_attempt = headers.is_syn && !headers.has_ack;
        if !is_attempt && self.flows.contains_key(&[destination, source]) {
            return ([destination, source], 1);
        }
        self.flows.entry([source, destination]).or_default();
        ([source, destination], 0)
    }
}

impl Engine {
    /// A stack sends a packet by that port.
    pub(super) fn send_packet(&mut self, number: usize, packet: Vec<u8>) {
        if !self.ethernet.ports[number].is_alive {
            return;
        }
        self.statistics.packets.sent += 1;
        let headers = Headers::read(&packet).expect("stacks send TCP over IP version 4");
        let (ends, from) = self.ethernet.flow_of(&headers);
        self.note_sent(ends, from, &headers);
        let wire = self.options.wire;
        if self.chance(wire.loss_ppm) {
            self.statistics.packets.lost += 1;
            return;
        }
        let packet = self.alter(packet);
        if self.chance(wire.duplicate_ppm) {
            self.statistics.packets.doubled += 1;
            self.launch(ends, from, packet.clone());
        }
        self.launch(ends, from, packet);
    }

    /// What a packet says about its connection. What becomes of an attempt to connect is drawn when it is new.
    fn note_sent(&mut self, ends: Ends, from: Side, headers: &Headers) {
        let mut flow = self.ethernet.flows[&ends].clone();
        let is_attempt = headers.is_syn && !headers.has_ack;
        if is_attempt && flow.begins != Some(headers.from) {
            let last_due = flow.last_due;
            flow = Flow { begins: Some(headers.from), last_due, ..Flow::default() };
            flow.is_lost = self.chance(self.attempts.lost_ppm);
            self.statistics.lost += u64::from(flow.is_lost);
            flow.held_until[0] = self.now + self.draw_lateness();
        } else if headers.is_syn && headers.has_ack && !flow.is_answered {
            flow.is_answered = true;
            flow.held_until[1] = self.now + self.draw_lateness();
        }
        let known = &mut flow.sent_upto[from];
        *known = Some(known.map_or(headers.to, |known| known.max(headers.to)));
        self.ethernet.flows.insert(ends, flow);
    }

    /// By chance, one of a packet's bits becomes another.
    fn alter(&mut self, mut packet: Vec<u8>) -> Vec<u8> {
        if self.chance(self.options.wire.corrupt_ppm) {
            let at = self.rng.usize(..packet.len());
            packet[at] ^= 1 << self.rng.u32(..8);
            self.statistics.packets.altered += 1;
        }
        packet
    }

    /// A packet sets out.
    fn launch(&mut self, ends: Ends, from: Side, packet: Vec<u8>) {
        let route = (ends[from].ip(), ends[1 - from].ip());
        let path = self.paths.get(&route).copied().unwrap_or(self.options.path);
        let takes = path.delay + draw(&mut self.rng, path.jitter) + TICK;
        let is_overtaken = self.chance(self.options.wire.reorder_ppm);
        let flow = self.ethernet.flows.get_mut(&ends).expect("it was noted");
        let mut due = (self.now + takes).max(flow.last_due[from]).max(flow.held_until[from]);
        if is_overtaken {
            self.statistics.packets.overtaken += 1;
            due += TICK + draw(&mut self.rng, (path.delay + path.jitter) * OVERTAKEN_BY);
        } else {
            flow.last_due[from] = due;
        }
        let flight = self.ethernet.next_flight;
        self.ethernet.next_flight += 1;
        self.ethernet.flights.insert(flight, Flight { ends, from, packet });
        self.schedule(due, Due::Packet { flight });
    }

    /// A packet comes to its host.
    pub(super) fn land(&mut self, flight: u64) {
        let flight = self.ethernet.flights.remove(&flight).expect("each lands once");
        let Flight { ends, from, packet } = flight;
        let route = (ends[from].ip(), ends[1 - from].ip());
        if self.is_blocked(route) || self.ethernet.flows[&ends].is_lost {
            self.statistics.packets.cut += 1;
            return;
        }
        self.deliver(ends[1 - from].ip(), packet);
    }

    /// Puts a packet into the ring of the port that it is for, as far as it still says which.
    fn deliver(&mut self, address: IpAddr, packet: Vec<u8>) {
        let tcp_port = tcp_port_of(&packet);
        let is_for = |port: &&mut PortState| {
            let is_there = tcp_port.is_some_and(|it| port.tcp_ports.contains(&it));
            port.is_alive && port.address == address && is_there
        };
        let packets = &mut self.statistics.packets;
        let Some(port) = self.ethernet.ports.iter_mut().find(is_for) else {
            packets.cut += 1;
            return;
        };
        if port.ring.len() >= self.options.wire.ring_packets {
            packets.overrun += 1;
            return;
        }
        packets.received += 1;
        self.trace.record(self.now.as_nanos());
        self.trace.record_bytes(&packet);
        port.ring.push_back(packet);
    }

    /// Both ends of all connections between two addresses get a reset that they have to believe; how many it were.
    pub(super) fn reset_flows(&mut self, a: IpAddr, b: IpAddr) -> usize {
        let between = self.ethernet.flows.iter().filter(|(ends, _)| is_between(ends, a, b));
        let between: Vec<_> = between.map(|(ends, flow)| (*ends, flow.sent_upto)).collect();
        for (ends, sent_upto) in &between {
            for side in [0, 1] {
                // Who has sent nothing has no connection there.
                let Some(ack) = sent_upto[side] else { continue };
                let number = sent_upto[1 - side].unwrap_or_default();
                let packet = forge_reset(ends[1 - side], ends[side], number, ack);
                self.deliver(ends[side].ip(), packet);
            }
        }
        between.len()
    }
}

fn is_between(ends: &Ends, a: IpAddr, b: IpAddr) -> bool {
    let [first, second] = ends.map(|end| end.ip());
    (first, second) == (a, b) || (second, first) == (a, b)
}

/// A packet that is overtaken takes longer by up to so many times what is usual.
const OVERTAKEN_BY: u32 = 4;

//! One peer: its own interface and sockets, as smoltcp's cost of a packet grows with the sockets of
//! an interface.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use dataplane::Port;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{DeviceCapabilities, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::device::{Incoming, Outgoing};
use super::flows::Flows;
use super::options::UserspaceOptions;
use super::segment::{Segment, acknowledge};
use super::to_smoltcp;
use crate::table::Key;
use crate::time::Instant;

pub(super) struct Peer {
    pub(super) address: IpAddr,
    interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    flows: RefCell<Flows>,
    /// Sockets that wait for the peer to connect: smoltcp has no backlog.
    pub(super) backlog: Vec<Waiting>,
    /// Connections, open and closing.
    pub(super) connections: usize,
    /// If it is silent, nobody knocks before.
    pub(super) knock_at: Instant,
    /// When there is something to send, if nothing happens; as of the last turn.
    pub(super) due: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) listener: Key,
    pub(super) port: u16,
    pub(super) handle: SocketHandle,
}

impl Peer {
    pub(super) fn new<D: Port>(
        address: IpAddr,
        now: Instant,
        device: &mut D,
        capabilities: &DeviceCapabilities,
        options: &UserspaceOptions,
        seed: u64,
    ) -> Peer {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let flows = Flows::new(options.ack_delay, segments_max(options));
        let flows = RefCell::new(flows);
        let mut outgoing = Outgoing { device, flows: &flows, now, capabilities };
        let mut interface = Interface::new(config, &mut outgoing, to_smoltcp(now));
        // Everybody is on the link: who is not ours never comes so far.
        interface.update_ip_addrs(|addresses| {
            let cidr = IpCidr::new(options.address.into(), 0);
            addresses.push(cidr).expect("room for one address");
        });
        let (sockets, backlog) = (SocketSet::new(Vec::new()), Vec::new());
        let knock_at = Instant::ZERO;
        Peer { address, interface, sockets, flows, backlog, connections: 0, knock_at, due: None }
    }

    pub(super) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut::<Socket>(handle)
    }

    pub(super) fn add_socket(&mut self, options: &UserspaceOptions) -> SocketHandle {
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let received = buffer(options.receive_buffer_bytes);
        let mut socket = Socket::new(received, buffer(options.send_buffer_bytes));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(options.ack_delay.into()));
        socket.set_timeout(options.user_timeout.map(Into::into));
        let at_latest = options.user_timeout.map(|timeout| timeout / 2);
        let keep_alive = [options.keep_alive, at_latest].into_iter().flatten().min();
        socket.set_keep_alive(keep_alive.map(Into::into));
        self.sockets.add(socket)
    }

    /// Takes a socket away that is closed.
    pub(super) fn remove_socket(&mut self, handle: SocketHandle, ports: Option<(u16, u16)>) {
        self.sockets.remove(handle);
        if let Some((local, remote)) = ports {
            self.flows.borrow_mut().forget(local, remote);
        }
    }

    /// Waits for so many more connections.
    pub(super) fn wait_for(
        &mut self,
        count: usize,
        listener: Key,
        address: SocketAddr,
        options: &UserspaceOptions,
    ) {
        let port = address.port();
        for _ in 0..count {
            let handle = self.add_socket(options);
            let socket = self.socket(handle);
            socket.listen((address.ip(), port)).expect("a new socket, and a port that is not 0");
            self.backlog.push(Waiting { listener, port, handle });
        }
    }

    /// Begins to connect.
    pub(super) fn connect(
        &mut self,
        remote_port: u16,
        local: (IpAddr, u16),
        options: &UserspaceOptions,
    ) -> Option<SocketHandle> {
        let handle = self.add_socket(options);
        let remote = (self.address, remote_port);
        let socket = self.sockets.get_mut::<Socket>(handle);
        if socket.connect(self.interface.context(), remote, local).is_err() {
            self.sockets.remove(handle);
            return None;
        }
        Some(handle)
    }

    /// Whether an attempt to connect finds a listener whose backlog is full.
    pub(super) fn is_backlog_full(&self, segment: &Segment) -> bool {
        let mut theirs = self.backlog.iter().filter(|it| it.port == segment.destination_port);
        let first = theirs.clone().next();
        segment.is_attempt()
            && first.is_some()
            && theirs.all(|it| {
                let socket = self.sockets.get::<Socket>(it.handle);
                let is_again =
                    socket.remote_endpoint().is_some_and(|it| it.port == segment.source_port);
                socket.state() != State::Listen && !is_again
            })
    }

    /// A packet has come from this peer.
    pub(super) fn handle_packet(
        &mut self,
        now: Instant,
        packet: &[u8],
        segment: &Segment,
        answer: impl TxToken,
        capabilities: &DeviceCapabilities,
    ) {
        if !self.flows.borrow_mut().handle_received(now, segment) {
            return;
        }
        let mut altered = Vec::new();
        let known = self.flows.borrow().acknowledged_before(segment);
        let packet = match known.filter(|_| segment.is_attempt()) {
            None => packet,
            // The peer has forgotten a connection that we have, and is to be told so by a challenge (RFC 9293, section
            // 3.10.7.4): its reset ends ours, and its next attempt succeeds. The stack would drop what acknowledges
            // nothing before it came to see that. It verifies no checksums.
            Some(ack) => {
                altered.extend_from_slice(packet);
                acknowledge(&mut altered, ack);
                &altered[..]
            }
        };
        let mut incoming = Incoming::new(packet, answer, &self.flows, now, capabilities);
        self.interface.poll_ingress_single(to_smoltcp(now), &mut incoming, &mut self.sockets);
    }

    /// Sends what there is to be sent, and there is room for. What was lost goes first, and new packets leave
    /// `reserve` places for that and for answers: so a retransmission always finds one.
    pub(super) fn send<D: Port>(
        &mut self,
        now: Instant,
        device: &mut D,
        capabilities: &DeviceCapabilities,
        reserve: usize,
    ) {
        let checksums = &capabilities.checksum;
        let most = SENT_AGAIN_PER_TURN.min(device.room());
        self.flows.borrow_mut().send_again(now, device, checksums, most);
        // One packet of each socket in a pass.
        let pass = self.sockets.iter().count();
        for _ in 0..PASSES_PER_TURN {
            if device.room() < reserve.saturating_add(pass) {
                break;
            }
            let mut outgoing = Outgoing { device, flows: &self.flows, now, capabilities };
            let sent =
                self.interface.poll_egress(to_smoltcp(now), &mut outgoing, &mut self.sockets);
            if sent == PollResult::None {
                break;
            }
        }
        let stack = self.stack_due(now);
        self.due = [stack, self.flows.borrow().deadline()].into_iter().flatten().min();
    }

    /// Whether anything that was sent to it has been asked for in vain for long.
    pub(super) fn is_silent(&self) -> bool {
        self.flows.borrow().is_silent()
    }

    /// The same of one connection, by our port and the peer's.
    pub(super) fn is_silent_at(&self, ports: (u16, u16)) -> bool {
        self.flows.borrow().is_silent_at(ports)
    }

    /// When the stack has something to send.
    pub(super) fn stack_due(&mut self, now: Instant) -> Option<Instant> {
        let delay = self.interface.poll_delay(to_smoltcp(now), &self.sockets);
        delay.map(|delay| now + delay.into())
    }

    /// Whether something has to be sent to it again.
    pub(super) fn misses_something(&self, now: Instant) -> bool {
        self.flows.borrow().deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Whether anything that was sent to it is not acknowledged.
    pub(super) fn is_waiting(&self) -> bool {
        self.flows.borrow().is_waiting()
    }

    /// Packets sent to it.
    pub(super) fn sent(&self) -> u64 {
        self.flows.borrow().sent
    }

    pub(super) fn sent_again(&self) -> u64 {
        self.flows.borrow().sent_again
    }
}

/// Segments of a full send buffer, if they are not very short.
fn segments_max(options: &UserspaceOptions) -> usize {
    (options.send_buffer_bytes / SEGMENT_BYTES_USUAL_LEAST).max(64)
}

const SEGMENT_BYTES_USUAL_LEAST: usize = 64;

/// Bounds of what one turn sends to one peer. The rest follows in the next.
const SENT_AGAIN_PER_TURN: usize = 64;
const PASSES_PER_TURN: usize = 256;

//! TCP of the processes: the simulated network's streams, or for links the TCP that the programs bring themselves,
//! over the simulated Ethernet.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::RawFd;

use fastrand::Rng;
use tcpstack::{
    ConnectionId, Event, Instant, ListenerId, OpenError, RecvError, SendError, SimNetwork,
    SimOptions, SimPort, SimTransport, Transport, UserspaceOptions, UserspaceTransport,
};

/// What a process's TCP runs over.
pub enum HostTransport {
    /// Streams that the network carries.
    Streams(SimTransport),
    /// A stack for each network segment.
    Segments(Segments),
}

/// Userspace TCP on one or two network segments.
pub struct Segments(Vec<Segment>);

struct Segment {
    address: IpAddr,
    stack: UserspaceTransport<SimPort>,
}

/// What links run over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Links {
    /// Streams, as everything else does: much faster.
    Streams,
    /// smoltcp, as the programs use it, over the simulated Ethernet.
    Smoltcp,
}

/// What links run over, and with which bounds and times.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// What.
    pub links: Links,
    /// Of the network: windows and time-outs.
    pub network: SimOptions,
}

impl Links {
    /// As the command line says it.
    pub fn name(self) -> &'static str {
        match self {
            Links::Streams => "streams",
            Links::Smoltcp => "smoltcp",
        }
    }
}

impl HostTransport {
    /// TCP for links at these addresses of one host: the host has to be up. What is for these TCP ports comes to this
    /// transport and no other one.
    pub fn open(
        network: &SimNetwork,
        options: &LinkOptions,
        addresses: &[IpAddr],
        tcp_ports: &RangeInclusive<u16>,
        rng: &mut Rng,
    ) -> HostTransport {
        match options.links {
            Links::Streams => HostTransport::Streams(network.host(addresses[0])),
            Links::Smoltcp => {
                let options = &options.network;
                let segments = Segments::open(network, options, addresses, tcp_ports, rng);
                HostTransport::Segments(segments)
            }
        }
    }
}

impl Segments {
    /// Stacks at these addresses, which get what is for these TCP ports.
    fn open(
        network: &SimNetwork,
        options: &SimOptions,
        addresses: &[IpAddr],
        tcp_ports: &RangeInclusive<u16>,
        rng: &mut Rng,
    ) -> Segments {
        let segments = addresses.iter().map(|address| {
            let port = network.attach(*address, tcp_ports.clone());
            let options = UserspaceOptions {
                connections_max: CONNECTIONS_MAX,
                send_buffer_bytes: options.window_bytes,
                receive_buffer_bytes: options.window_bytes,
                connect_timeout: options.connect_timeout,
                user_timeout: options.user_timeout,
                linger_time: options.linger_time,
                ports: tcp_ports.clone(),
                ..UserspaceOptions::new(*address, rng.u64(..))
            };
            Segment { address: *address, stack: UserspaceTransport::new(port, options) }
        });
        Segments(segments.collect())
    }

    fn outer(&self, segment: usize, name: ConnectionId) -> ConnectionId {
        let (count, segment) = (number(self.0.len()), number(segment));
        ConnectionId { index: name.index * count + segment, ..name }
    }

    fn outer_event(&self, segment: usize, event: Event) -> Event {
        let name = |name| self.outer(segment, name);
        match event {
            Event::Accepted { listener, connection, peer } => {
                let (count, segment) = (number(self.0.len()), number(segment));
                let index = listener.index * count + segment;
                let listener = ListenerId { index, ..listener };
                Event::Accepted { listener, connection: name(connection), peer }
            }
            Event::Connected(it) => Event::Connected(name(it)),
            Event::Readable(it) => Event::Readable(name(it)),
            Event::Writable(it) => Event::Writable(name(it)),
            Event::Closed { connection, reason } => {
                Event::Closed { connection: name(connection), reason }
            }
        }
    }

    fn inner(&mut self, name: ConnectionId) -> (&mut UserspaceTransport<SimPort>, ConnectionId) {
        let count = number(self.0.len());
        let inner = ConnectionId { index: name.index / count, ..name };
        (&mut self.0[place(name.index % count)].stack, inner)
    }

    fn inner_listener(&self, listener: ListenerId) -> (usize, ListenerId) {
        let count = number(self.0.len());
        let inner = ListenerId { index: listener.index / count, ..listener };
        (place(listener.index % count), inner)
    }

    /// The segment with that address of ours; else the one on which that remote address is.
    fn way_to(&self, remote: IpAddr, local: Option<IpAddr>) -> usize {
        let at = |is_it: &dyn Fn(IpAddr) -> bool| self.0.iter().position(|it| is_it(it.address));
        let given = local.map(|local| at(&|it| it == local).expect("an address of this host"));
        let place = given.or_else(|| at(&|it| segment_of(it) == segment_of(remote)));
        place.expect("links stay on their segments")
    }
}

/// Addresses of one network segment agree in it.
fn segment_of(address: IpAddr) -> u8 {
    let IpAddr::V4(address) = address else { panic!("addresses are of IP version 4") };
    address.octets()[1]
}

impl Transport for HostTransport {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, OpenError> {
        match self {
            HostTransport::Streams(transport) => transport.listen(address),
            HostTransport::Segments(segments) => {
                let place = segments.way_to(address.ip(), Some(address.ip()));
                let count = number(segments.0.len());
                let listener = segments.0[place].stack.listen(address)?;
                Ok(ListenerId { index: listener.index * count + number(place), ..listener })
            }
        }
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        match self {
            HostTransport::Streams(transport) => transport.local_address(listener),
            HostTransport::Segments(segments) => {
                let (place, listener) = segments.inner_listener(listener);
                segments.0[place].stack.local_address(listener)
            }
        }
    }

    fn unlisten(&mut self, listener: ListenerId) {
        match self {
            HostTransport::Streams(transport) => transport.unlisten(listener),
            HostTransport::Segments(segments) => {
                let (place, listener) = segments.inner_listener(listener);
                segments.0[place].stack.unlisten(listener);
            }
        }
    }

    fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local: Option<IpAddr>,
    ) -> Result<ConnectionId, OpenError> {
        match self {
            HostTransport::Streams(transport) => transport.connect(now, remote, local),
            HostTransport::Segments(segments) => {
                let place = segments.way_to(remote.ip(), local);
                let name = segments.0[place].stack.connect(now, remote, local)?;
                Ok(segments.outer(place, name))
            }
        }
    }

    fn poll(&mut self, now: Instant) {
        match self {
            HostTransport::Streams(transport) => transport.poll(now),
            HostTransport::Segments(segments) => {
                segments.0.iter_mut().for_each(|it| it.stack.poll(now));
            }
        }
    }

    fn next_event(&mut self) -> Option<Event> {
        match self {
            HostTransport::Streams(transport) => transport.next_event(),
            HostTransport::Segments(segments) => {
                let mut all = segments.0.iter_mut().enumerate();
                let found = all.find_map(|(at, it)| Some((at, it.stack.next_event()?)));
                found.map(|(at, event)| segments.outer_event(at, event))
            }
        }
    }

    fn recv<R>(
        &mut self,
        name: ConnectionId,
        consume: impl FnOnce(&[u8]) -> (usize, R),
    ) -> Result<R, RecvError> {
        match self {
            HostTransport::Streams(transport) => transport.recv(name, consume),
            HostTransport::Segments(segments) => {
                let (stack, name) = segments.inner(name);
                stack.recv(name, consume)
            }
        }
    }

    fn recv_into(&mut self, name: ConnectionId, into: &mut [u8]) -> Result<usize, RecvError> {
        match self {
            HostTransport::Streams(transport) => transport.recv_into(name, into),
            HostTransport::Segments(segments) => {
                let (stack, name) = segments.inner(name);
                stack.recv_into(name, into)
            }
        }
    }

    fn set_receiving(&mut self, name: ConnectionId, receiving: bool) {
        match self {
            HostTransport::Streams(transport) => transport.set_receiving(name, receiving),
            HostTransport::Segments(segments) => {
                let (stack, name) = segments.inner(name);
                stack.set_receiving(name, receiving);
            }
        }
    }

    fn send(&mut self, name: ConnectionId, slices: &[IoSlice<'_>]) -> Result<usize, SendError> {
        match self {
            HostTransport::Streams(transport) => transport.send(name, slices),
            HostTransport::Segments(segments) => {
                let (stack, name) = segments.inner(name);
                stack.send(name, slices)
            }
        }
    }

    fn finish(&mut self, name: ConnectionId) {
        match self {
            HostTransport::Streams(transport) => transport.finish(name),
            HostTransport::Segments(segments) => {
                let (stack, name) = segments.inner(name);
                stack.finish(name);
            }
        }
    }

    fn close(&mut self, name: ConnectionId) {
        match self {
            HostTransport::Streams(transport) => transport.close(name),
            HostTransport::Segments(segments) => {
                let (stack, name) = segments.inner(name);
                stack.close(name);
            }
        }
    }

    fn abort(&mut self, name: ConnectionId) {
        match self {
            HostTransport::Streams(transport) => transport.abort(name),
            HostTransport::Segments(segments) => {
                let (stack, name) = segments.inner(name);
                stack.abort(name);
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        match self {
            HostTransport::Streams(transport) => transport.flush(now),
            HostTransport::Segments(segments) => {
                segments.0.iter_mut().for_each(|it| it.stack.flush(now));
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self {
            HostTransport::Streams(transport) => transport.next_deadline(),
            HostTransport::Segments(segments) => {
                segments.0.iter().filter_map(|it| it.stack.next_deadline()).min()
            }
        }
    }

    fn wait(&mut self, _now: Instant, _until: Option<Instant>) {
        // The simulator moves time.
    }

    fn add_wait_descriptors(&self, _descriptors: &mut Vec<RawFd>) -> bool {
        false
    }
}

impl std::fmt::Debug for HostTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            HostTransport::Streams(_) => "streams",
            HostTransport::Segments(_) => "segments",
        })
    }
}

fn number(place: usize) -> u32 {
    u32::try_from(place).expect("few segments")
}

fn place(number: u32) -> usize {
    usize::try_from(number).expect("few segments")
}

/// As many as a server takes.
const CONNECTIONS_MAX: usize = 100;

/// The local ports of a gateway's worker: a block for each, as a network card's queues have them.
pub fn ports_of_worker(worker: usize) -> RangeInclusive<u16> {
    let worker = u16::try_from(worker).expect("few workers");
    let first = FIRST_PORT + worker * PORTS_PER_WORKER;
    first..=first + (PORTS_PER_WORKER - 1)
}

const FIRST_PORT: u16 = 61_440;
const PORTS_PER_WORKER: u16 = 64;

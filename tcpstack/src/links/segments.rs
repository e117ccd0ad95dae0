//! TCP of one thread on several network segments: by this process on its ports, by the kernel elsewhere.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::time::Duration;

use dataplane::Port;

use super::{NicQueueCounters, SEGMENTS_MAX};
use crate::kernel::sleep_until_readable;
use crate::table::Table;
use crate::time::Instant;
use crate::transport::{
    ConnectionId, Event, ListenerId, OpenError, RecvError, SendError, Transport,
};
use crate::{KernelTransport, UserspaceTransport, Waker};

/// A [`Port`] that tells what it has counted.
pub trait LinkPort: Port {
    /// By name. The names never change.
    fn counters(&self) -> Vec<(&'static str, u64)>;
}

/// A network segment on which TCP is ours.
pub struct Segment<P> {
    /// The interface.
    pub interface: String,
    /// Its queue that is ours.
    pub nic_queue: u32,
    /// Our address there.
    pub address: IpAddr,
    /// Who is reached that way: others at that address are the kernel's.
    pub peers: Vec<IpAddr>,
    /// TCP there.
    pub stack: UserspaceTransport<P>,
}

/// A [`Transport`] over the kernel and some segments.
///
/// A connection goes by the segment that has its remote end among the peers, and by the kernel if there is none.
/// Whoever listens at the address of a segment is heard there, and by the kernel as well: from those who are no
/// peers, and from this machine.
///
/// Connections are numbered in turns: the kernel's 0, 3, 6, …, those of the first segment 1, 4, 7, …, so that indices
/// are as small as the parts' own.
pub struct SegmentTransport<P> {
    kernel: KernelTransport,
    segments: Vec<Segment<P>>,
    listeners: Table<Listener>,
    /// The part whose events are told now: 0 is the kernel.
    telling: usize,
    /// When the kernel is asked for news again, at the latest.
    kernel_due: Instant,
    /// It had news when it was asked last.
    kernel_has_news: bool,
    /// How often it was asked.
    kernel_polls: u64,
}

/// Somebody who listens.
#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    /// What listens for it, in which part.
    parts: Vec<(usize, ListenerId)>,
}

/// While the kernel has no news it is asked this rarely: each time is a system call, and the other segments have most of
/// the traffic. Whoever sleeps hears of its news at once.
const KERNEL_PAUSE: Duration = Duration::from_micros(50);

/// The same while it has no connection of ours: all that can come are new ones.
const KERNEL_PAUSE_UNUSED: Duration = Duration::from_millis(1);

/// Listeners of one thread. At the bound `listen` answers [`OpenError::TableFull`].
const LISTENERS_MAX: usize = 64;

impl<P: Port> SegmentTransport<P> {
    /// Over these. Without segments it is the kernel's alone.
    ///
    /// # Panics
    /// If there are more than [`SEGMENTS_MAX`] segments.
    pub fn new(kernel: KernelTransport, segments: Vec<Segment<P>>) -> SegmentTransport<P> {
        assert!(segments.len() <= SEGMENTS_MAX, "a machine has no more");
        SegmentTransport {
            kernel,
            segments,
            listeners: Table::new(LISTENERS_MAX),
            telling: 0,
            kernel_due: Instant::ZERO,
            kernel_has_news: false,
            kernel_polls: 0,
        }
    }

    /// Something with which other threads end the sleep of this transport.
    pub fn waker(&self) -> Waker {
        self.kernel.waker()
    }

    /// How often the kernel was asked for news.
    pub fn kernel_polls(&self) -> u64 {
        self.kernel_polls
    }

    /// The segments.
    pub fn segments(&self) -> &[Segment<P>] {
        &self.segments
    }

    /// From now on these are reached by that interface, if it is one of ours. Connections that there are stay where they
    /// are.
    pub fn set_peers(&mut self, interface: &str, peers: Vec<IpAddr>) {
        if let Some(segment) = self.segments.iter_mut().find(|it| it.interface == interface) {
            segment.peers = peers;
        }
    }

    fn parts(&self) -> u32 {
        1 + u32::try_from(self.segments.len()).expect("few")
    }

    /// The name of a part's connection.
    fn outer(&self, part: usize, id: ConnectionId) -> ConnectionId {
        let part = u32::try_from(part).expect("few");
        ConnectionId { index: id.index * self.parts() + part, generation: id.generation }
    }

    /// The part that has a connection, and its name there.
    fn inner(&self, id: ConnectionId) -> (usize, ConnectionId) {
        let part = usize::try_from(id.index % self.parts()).expect("few");
        let id = ConnectionId { index: id.index / self.parts(), generation: id.generation };
        (part, id)
    }

    /// An event of a part in our names; nothing if it is about a listener that is gone.
    fn event(&self, part: usize, event: Event) -> Option<Event> {
        Some(match event {
            Event::Accepted { listener, connection, peer } => {
                let ours = |(_, it): &(_, &Listener)| it.parts.contains(&(part, listener));
                let (key, _) = self.listeners.entries().find(ours)?;
                let connection = self.outer(part, connection);
                Event::Accepted { listener: key.into(), connection, peer }
            }
            Event::Connected(id) => Event::Connected(self.outer(part, id)),
            Event::Readable(id) => Event::Readable(self.outer(part, id)),
            Event::Writable(id) => Event::Writable(self.outer(part, id)),
            Event::Closed { connection, reason } => {
                Event::Closed { connection: self.outer(part, connection), reason }
            }
        })
    }

    /// The segment by which that address is reached.
    fn way_to(&self, remote: IpAddr, local: Option<IpAddr>) -> Option<usize> {
        self.segments.iter().position(|segment| {
            let is_ours =
                local.is_none_or(|local| local == segment.address || local.is_unspecified());
            is_ours && segment.peers.contains(&remote)
        })
    }

    /// Listens in every part that has that address; what was opened stays open if one of them fails.
    fn listen_in_parts(
        &mut self,
        address: SocketAddr,
        parts: &mut Vec<(usize, ListenerId)>,
    ) -> Result<SocketAddr, OpenError> {
        let listener = self.kernel.listen(address)?;
        parts.push((0, listener));
        let address = self.kernel.local_address(listener).expect("it was just opened");
        for (part, segment) in (1..).zip(&mut self.segments) {
            let is_there = address.ip() == segment.address
                || address.ip().is_unspecified() && address.is_ipv4() == segment.address.is_ipv4();
            if is_there {
                parts.push((part, segment.stack.listen(address)?));
            }
        }
        Ok(address)
    }

    fn unlisten_in_parts(&mut self, parts: Vec<(usize, ListenerId)>) {
        for (part, listener) in parts {
            match part {
                0 => self.kernel.unlisten(listener),
                _ => self.segments[part - 1].stack.unlisten(listener),
            }
        }
    }

    fn poll_kernel(&mut self, now: Instant) {
        let has_work = self.kernel.next_deadline().is_some_and(|deadline| deadline <= now);
        if self.segments.is_empty() || self.kernel_has_news || has_work || now >= self.kernel_due {
            self.kernel.poll(now);
            self.kernel_has_news = self.kernel.has_events();
            let is_unused = self.kernel.connection_count() == 0;
            self.kernel_due = now + if is_unused { KERNEL_PAUSE_UNUSED } else { KERNEL_PAUSE };
            self.kernel_polls += 1;
        }
    }
}

impl<P: LinkPort> SegmentTransport<P> {
    /// What each segment has counted.
    pub fn nic_queues(&self) -> Vec<NicQueueCounters> {
        let of = |segment: &Segment<P>| {
            let stack = segment.stack.statistics();
            let mut counters = segment.stack.port().counters();
            counters.extend([
                ("foreign", stack.foreign),
                ("backlog_full", stack.backlog_full),
                ("peers_full", stack.peers_full),
                ("sent_again", stack.sent_again),
                ("knocks", stack.knocks),
                ("kernel_polls", self.kernel_polls),
            ]);
            let (interface, nic_queue) = (segment.interface.clone(), segment.nic_queue);
            NicQueueCounters { interface, nic_queue, counters }
        };
        self.segments.iter().map(of).collect()
    }
}

/// Does something with the part that has a connection, by its name there.
macro_rules! with_part {
    ($transport:ident, $id:ident, |$part:ident, $inner:ident| $do:expr) => {{
        let (place, $inner) = $transport.inner($id);
        match place {
            0 => {
                let $part = &mut $transport.kernel;
                $do
            }
            _ => {
                let $part = &mut $transport.segments[place - 1].stack;
                $do
            }
        }
    }};
}

impl<P: Port> Transport for SegmentTransport<P> {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, OpenError> {
        if self.listeners.is_full() {
            return Err(OpenError::TableFull);
        }
        let mut parts = Vec::new();
        match self.listen_in_parts(address, &mut parts) {
            Ok(address) => {
                let key = self.listeners.insert(Listener { address, parts });
                Ok(key.expect("it is not full").into())
            }
            Err(error) => {
                self.unlisten_in_parts(parts);
                Err(error)
            }
        }
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        self.listeners.get(listener.into()).map(|it| it.address)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        if let Some(listener) = self.listeners.remove(listener.into()) {
            self.unlisten_in_parts(listener.parts);
        }
    }

    fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local: Option<IpAddr>,
    ) -> Result<ConnectionId, OpenError> {
        let (part, id) = match self.way_to(remote.ip(), local) {
            Some(place) => (place + 1, self.segments[place].stack.connect(now, remote, local)?),
            None => {
                self.kernel_due = now;
                (0, self.kernel.connect(now, remote, local)?)
            }
        };
        Ok(self.outer(part, id))
    }

    fn poll(&mut self, now: Instant) {
        self.telling = 0;
        self.poll_kernel(now);
        for segment in &mut self.segments {
            segment.stack.poll(now);
        }
    }

    fn next_event(&mut self) -> Option<Event> {
        while self.telling <= self.segments.len() {
            let part = self.telling;
            let event = match part {
                0 => self.kernel.next_event(),
                _ => self.segments[part - 1].stack.next_event(),
            };
            match event {
                Some(event) => {
                    if let Some(event) = self.event(part, event) {
                        return Some(event);
                    }
                }
                None => self.telling += 1,
            }
        }
        // What a call has caused since is told in the next turn.
        None
    }

    fn recv<R>(
        &mut self,
        id: ConnectionId,
        consume: impl FnOnce(&[u8]) -> (usize, R),
    ) -> Result<R, RecvError> {
        with_part!(self, id, |part, id| part.recv(id, consume))
    }

    fn recv_into(&mut self, id: ConnectionId, into: &mut [u8]) -> Result<usize, RecvError> {
        with_part!(self, id, |part, id| part.recv_into(id, into))
    }

    fn set_receiving(&mut self, id: ConnectionId, receiving: bool) {
        with_part!(self, id, |part, id| part.set_receiving(id, receiving));
    }

    fn send(&mut self, id: ConnectionId, slices: &[IoSlice<'_>]) -> Result<usize, SendError> {
        with_part!(self, id, |part, id| part.send(id, slices))
    }

    fn finish(&mut self, id: ConnectionId) {
        with_part!(self, id, |part, id| part.finish(id));
    }

    fn close(&mut self, id: ConnectionId) {
        with_part!(self, id, |part, id| part.close(id));
    }

    fn abort(&mut self, id: ConnectionId) {
        with_part!(self, id, |part, id| part.abort(id));
    }

    fn flush(&mut self, now: Instant) {
        self.kernel.flush(now);
        for segment in &mut self.segments {
            segment.stack.flush(now);
        }
    }

    fn release(&mut self, now: Instant) {
        for segment in &mut self.segments {
            segment.stack.release(now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let segments = self.segments.iter().filter_map(|it| it.stack.next_deadline()).min();
        [self.kernel.next_deadline(), segments].into_iter().flatten().min()
    }

    fn wait(&mut self, now: Instant, until: Option<Instant>) {
        self.release(now);
        let deadline = [self.next_deadline(), until].into_iter().flatten().min();
        let mut descriptors = Vec::new();
        if !self.add_wait_descriptors(&mut descriptors) {
            return;
        }
        if deadline.is_none_or(|deadline| deadline > now) {
            sleep_until_readable(&descriptors, deadline.map(|deadline| deadline - now));
        }
    }

    fn add_wait_descriptors(&self, descriptors: &mut Vec<RawFd>) -> bool {
        self.kernel.add_wait_descriptors(descriptors)
            && self.segments.iter().all(|it| it.stack.add_wait_descriptors(descriptors))
    }
}

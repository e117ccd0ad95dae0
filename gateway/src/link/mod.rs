//! The links of one shard: connections to each backup queue server, over which all queues of the
//! shard go.
//!
//! A server may have several workers, each with a port of its own, and says at which of them a
//! queue lives. A link has a *lane* (a connection) to each worker that it was told of; the first,
//! to the configured port, is there always. The link is up once both ends of that lane have proved
//! that they know the account's secret. It goes down as a whole when any lane ends, or when the
//! server owes answers and has sent nothing for too long. Then it connects again, with backoff.

mod lane;
mod translate;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kvs_proto::auth::{NONCE_SIZE_BYTES, Secret};
use kvs_proto::{Event as ClientEvent, Generation, Incarnation, Op, Status};
use tcpstack::{ConnectionId, Event, Instant, RecvError, Transport};
use tracing::{debug, error, info, warn};

use self::lane::Lane;
use self::translate::translate;
use crate::message::QueueIndex;
use crate::replication::request::{Ask, Outlet, Reply, Request};

/// Delay before the second attempt to connect; it doubles up to the maximum.
const RECONNECT_FIRST: Duration = Duration::from_millis(20);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// Most receive calls on one lane in one turn, so that no server starves the others.
const RECEIVES_PER_TURN: usize = 16;

/// Most workers of one server. A server that names more is broken, and the link goes down.
const LANES_MAX: usize = 64;

/// Where a server is and how it is talked to.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// The server's name in the configuration.
    pub server: String,
    /// Its address.
    pub address: SocketAddr,
    /// Our address towards it, if it matters.
    pub local: Option<IpAddr>,
    /// Our account there.
    pub account: String,
    /// Its secret.
    pub secret: Secret,
    /// The largest content that it has to take. A server that takes less is not used: a mail
    /// that it refused would put its copy out of step again and again.
    pub message_size_max: u64,
    /// After this long without a word from the server we ask whether it is there.
    pub heart_beat: Duration,
    /// After this long without a word, although it owes answers, the link is down.
    pub deadline: Duration,
}

impl LinkSettings {
    /// The largest message with its envelope.
    fn body_size_max(&self) -> u64 {
        self.message_size_max.saturating_add(ENVELOPE_SIZE_MAX)
    }
}

/// Above what an envelope can be: a thousand recipients with all their parameters.
const ENVELOPE_SIZE_MAX: u64 = 1 << 20;

/// What happened on a link.
#[derive(Debug)]
pub enum LinkEvent {
    /// It is up, and the server is in that life.
    Up(usize, Incarnation),
    /// It is down. What was asked and not answered will not be answered.
    Down(usize),
    /// An answer.
    Reply(usize, Reply),
}

/// One link. Requests go in through [`Outlet`].
#[derive(Debug)]
pub struct Link {
    settings: LinkSettings,
    /// The first is to the configured port. At most [`LANES_MAX`].
    lanes: Vec<Lane>,
    /// The lane of each queue that does not live at the first.
    homes: BTreeMap<QueueIndex, usize>,
    /// The last `Create` or `Attach` of each queue, to be asked again at the right worker.
    asks: BTreeMap<QueueIndex, Request>,
    /// The server's life, while the link is up.
    incarnation: Option<Incarnation>,
    /// How often we have connected: the generation that the server knows the connections by.
    generation: Generation,
    failures: u32,
    connect_at: Instant,
    now: Instant,
    /// When we last came back from a stall of our own: silence counts from then.
    awake_since: Instant,
}

/// All links of a shard, and the transport that they run on.
///
/// Each turn: [`turn`](Self::turn), which calls back with events; later [`flush`](Self::flush).
#[derive(Debug)]
pub struct Links<T> {
    transport: T,
    links: Vec<Link>,
    random: fastrand::Rng,
}

impl<T: Transport> Links<T> {
    /// Links to these servers. The seed is for nonces, and must not be guessable.
    pub fn new(transport: T, settings: Vec<LinkSettings>, seed: u64) -> Links<T> {
        let links = settings.into_iter().map(Link::new).collect();
        Links { transport, links, random: fastrand::Rng::with_seed(seed) }
    }

    /// The transport, for waiting.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// The links, in the order of their settings.
    pub fn links_mut(&mut self) -> &mut [Link] {
        &mut self.links
    }

    /// Receives, connects, watches; calls `handle` for each event. Returns whether there was
    /// anything to do.
    pub fn turn(&mut self, now: Instant, mut handle: impl FnMut(&mut [Link], LinkEvent)) -> bool {
        let mut worked = false;
        for link in &mut self.links {
            link.note_time(now);
        }
        self.transport.poll(now);
        while let Some(event) = self.transport.next_event() {
            worked = true;
            self.handle_transport(now, event, &mut handle);
        }
        for place in 0..self.links.len() {
            worked |= self.maintain(now, place, &mut handle);
        }
        worked
    }

    /// Sends what is queued.
    pub fn flush(&mut self, now: Instant) {
        for link in &mut self.links {
            for lane in &mut link.lanes {
                lane.send_output(&mut self.transport);
            }
        }
        self.transport.flush(now);
    }

    /// When `turn` has something to do although nothing happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        let own = self.links.iter().map(Link::next_deadline).min();
        own.into_iter().chain(self.transport.next_deadline()).min()
    }

    /// Closes every connection.
    pub fn close(&mut self) {
        for link in &mut self.links {
            for connection in link.lanes.drain(..).filter_map(|lane| lane.connection()) {
                self.transport.close(connection);
            }
        }
    }

    fn handle_transport(
        &mut self,
        now: Instant,
        event: Event,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) {
        match event {
            Event::Connected(connection) => {
                let Some((place, lane)) = self.place_of(connection) else { return };
                let mut nonce = [0; NONCE_SIZE_BYTES];
                self.random.fill(&mut nonce);
                let link = &mut self.links[place];
                link.lanes[lane].begin(now, connection, &link.settings, nonce);
            }
            Event::Readable(connection) => {
                let Some((place, lane)) = self.place_of(connection) else { return };
                if !self.receive(now, place, lane, connection, handle) {
                    self.go_down(now, place, handle);
                }
            }
            Event::Writable(connection) => {
                if let Some((place, lane)) = self.place_of(connection) {
                    self.links[place].lanes[lane].unblock();
                }
            }
            Event::Closed { connection, reason } => {
                let Some((place, lane)) = self.place_of(connection) else { return };
                debug!(server = %self.links[place].settings.server, ?reason, "connection ended");
                self.links[place].lanes.remove(lane);
                self.go_down(now, place, handle);
            }
            Event::Accepted { .. } => unreachable!("links do not listen"),
        }
    }

    fn place_of(&self, connection: ConnectionId) -> Option<(usize, usize)> {
        self.links.iter().enumerate().find_map(|(place, link)| {
            let is_it = |lane: &Lane| lane.connection() == Some(connection);
            Some((place, link.lanes.iter().position(is_it)?))
        })
    }

    /// Receives on a lane; returns false if the link must go down.
    fn receive(
        &mut self,
        now: Instant,
        place: usize,
        lane: usize,
        connection: ConnectionId,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) -> bool {
        for _ in 0..RECEIVES_PER_TURN {
            let Some(client) = self.links[place].lanes[lane].client_mut() else { return true };
            let received = self.transport.recv(connection, |bytes| {
                client.handle_bytes(lane::wire(now), bytes);
                (bytes.len(), ())
            });
            match received {
                Ok(()) => {}
                Err(RecvError::WouldBlock) => return true,
                Err(RecvError::Finished | RecvError::Gone) => return false,
            }
            if !self.drain_events(place, lane, handle) {
                return false;
            }
        }
        true
    }

    /// Passes on what a lane's client has to tell; returns false if the link must go down.
    fn drain_events(
        &mut self,
        place: usize,
        lane: usize,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) -> bool {
        loop {
            let link = &mut self.links[place];
            let Some(event) = link.lanes[lane].client_mut().and_then(|it| it.poll_event()) else {
                return true;
            };
            match event {
                ClientEvent::Welcome { limits, .. }
                    if u64::from(limits.message_size_bytes_max) < link.settings.body_size_max() =>
                {
                    let takes = limits.message_size_bytes_max;
                    error!(server = %link.settings.server, takes, needed = link.settings.body_size_max(),
                           "the server's message_size_max is too small for ours");
                    return false;
                }
                ClientEvent::Welcome { incarnation, .. } => {
                    if !link.welcome(lane, incarnation) {
                        return false;
                    }
                    if lane == 0 {
                        handle(&mut self.links, LinkEvent::Up(place, incarnation));
                    }
                }
                ClientEvent::ProtocolError(error) => {
                    warn!(server = %link.settings.server, ?error, "the server broke the protocol");
                    return false;
                }
                ClientEvent::Refused(refusal) if ends_connection(refusal.status) => {
                    let status = refusal.status;
                    warn!(server = %link.settings.server, ?status, "the server refuses us");
                    return false;
                }
                ClientEvent::Refused(refusal)
                    if refusal.status == Status::WrongWorker
                        && matches!(refusal.op, Op::Create | Op::Attach) =>
                {
                    if !link.redirect(QueueIndex(refusal.queue.0), refusal.port) {
                        return false;
                    }
                }
                event => {
                    if let Some(reply) = translate(event) {
                        handle(&mut self.links, LinkEvent::Reply(place, reply));
                    }
                }
            }
        }
    }

    fn maintain(
        &mut self,
        now: Instant,
        place: usize,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) -> bool {
        let link = &mut self.links[place];
        if link.lanes.is_empty() {
            if now < link.connect_at {
                return false;
            }
            link.generation = link.generation.next();
            link.lanes.push(Lane::new(link.settings.address));
        }
        let settings = &link.settings;
        for lane in &mut link.lanes {
            if lane.is_new() && !lane.connect(now, settings, &mut self.transport) {
                self.go_down(now, place, handle);
                return true;
            }
        }
        if link.lanes.iter().any(|lane| lane.is_silent(now, settings, link.awake_since)) {
            warn!(server = %settings.server, "the server does not answer");
            self.go_down(now, place, handle);
            return true;
        }
        for lane in &mut link.lanes {
            lane.ask_whether_alive(now, settings.heart_beat);
        }
        false
    }

    /// Ends all lanes, to connect again after a while.
    fn go_down(
        &mut self,
        now: Instant,
        place: usize,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) {
        let link = &mut self.links[place];
        for connection in link.lanes.drain(..).filter_map(|lane| lane.connection()) {
            self.transport.abort(connection);
        }
        link.homes.clear();
        link.asks.clear();
        let delay = RECONNECT_FIRST.saturating_mul(1 << link.failures.min(16)).min(RECONNECT_MAX);
        link.failures = link.failures.saturating_add(1);
        link.connect_at = now + delay;
        if link.incarnation.take().is_some() {
            warn!(server = %link.settings.server, "link down");
            handle(&mut self.links, LinkEvent::Down(place));
        }
    }
}

impl Link {
    fn new(settings: LinkSettings) -> Link {
        Link {
            settings,
            lanes: Vec::new(),
            homes: BTreeMap::new(),
            asks: BTreeMap::new(),
            incarnation: None,
            generation: Generation(0),
            failures: 0,
            connect_at: Instant::ZERO,
            now: Instant::ZERO,
            awake_since: Instant::ZERO,
        }
    }

    /// The turns come at least once per heart-beat. If they did not, it was we who were stalled
    /// (stopped, or out of CPU), and the server is not judged by that time.
    fn note_time(&mut self, now: Instant) {
        let LinkSettings { heart_beat, deadline, .. } = self.settings;
        if now.saturating_since(self.now) > (heart_beat * 2).max(deadline / 2) {
            self.awake_since = now;
        }
        self.now = now;
    }

    /// A lane is welcomed; returns false if its server is not the one of the first lane.
    fn welcome(&mut self, lane: usize, incarnation: Incarnation) -> bool {
        self.lanes[lane].set_up();
        if lane == 0 {
            info!(server = %self.settings.server, %incarnation, "link up");
            self.failures = 0;
            self.incarnation = Some(incarnation);
            return true;
        }
        let homes = self.homes.iter().filter(|(_, home)| **home == lane).map(|(queue, _)| *queue);
        for queue in homes.collect::<Vec<_>>() {
            self.ask_again(queue);
        }
        self.incarnation == Some(incarnation)
    }

    /// A queue lives at another worker; returns false if the server makes no sense.
    fn redirect(&mut self, queue: QueueIndex, port: u16) -> bool {
        let address = SocketAddr::new(self.settings.address.ip(), port);
        let known = self.lanes.iter().position(|lane| lane.address() == address);
        let home = known.unwrap_or(self.lanes.len());
        if known.is_none() {
            if self.lanes.len() == LANES_MAX {
                warn!(server = %self.settings.server, "the server names too many workers");
                return false;
            }
            self.lanes.push(Lane::new(address));
        }
        self.homes.insert(queue, home);
        self.ask_again(queue);
        true
    }

    /// Asks for a queue at its worker, if that lane is up; else `welcome` does when it is.
    fn ask_again(&mut self, queue: QueueIndex) {
        if let Some(request) = self.asks.get(&queue) {
            let home = self.homes.get(&queue).copied().unwrap_or(0);
            self.lanes[home].encode(self.now, self.generation, request.clone());
        }
    }

    fn next_deadline(&self) -> Instant {
        let lanes =
            self.lanes.iter().map(|lane| lane.next_deadline(self.now, &self.settings)).min();
        lanes.unwrap_or(self.connect_at)
    }
}

impl Outlet for Link {
    fn has_room(&self) -> bool {
        self.incarnation.is_some() && self.lanes.iter().all(Lane::has_room)
    }

    fn send(&mut self, request: Request) {
        if self.incarnation.is_none() {
            return;
        }
        if matches!(request.ask, Ask::Create { .. } | Ask::Attach { .. }) {
            self.asks.insert(request.queue, request.clone());
        }
        let home = self.homes.get(&request.queue).copied().unwrap_or(0);
        self.lanes[home].encode(self.now, self.generation, request);
    }
}

fn ends_connection(status: Status) -> bool {
    matches!(
        status,
        Status::NotAuthenticated
            | Status::BadRequest
            | Status::NoCommonVersion
            | Status::TooManyConnections
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(heart_beat: Duration) -> LinkSettings {
        LinkSettings {
            message_size_max: 1000,
            server: "a".into(),
            address: ([127, 0, 0, 1], 1).into(),
            local: None,
            account: "gw".into(),
            secret: Secret::new(b"secret"),
            heart_beat,
            deadline: Duration::from_secs(2),
        }
    }

    #[test]
    fn a_dead_server_is_found_out_by_turns_that_come_only_when_they_are_due() {
        for heart_beat in [1, 10, 500, 1900].map(Duration::from_millis) {
            let mut link = Link::new(settings(heart_beat));
            let begin = Instant::from_nanos(1_000_000_000);
            link.note_time(begin);
            let mut lane = Lane::new(link.settings.address);
            let connection = ConnectionId { index: 0, generation: 0 };
            lane.begin(begin, connection, &link.settings, [0; NONCE_SIZE_BYTES]);
            link.lanes.push(lane);
            let mut now = begin;
            let is_silent =
                |link: &Link, now| link.lanes[0].is_silent(now, &link.settings, link.awake_since);
            while !is_silent(&link, now) {
                let due = link.next_deadline();
                assert!(due > now, "it does not spin");
                // The turn comes a little late.
                now = due + Duration::from_millis(3);
                link.note_time(now);
                assert!(now < begin + Duration::from_secs(5), "heart-beat {heart_beat:?}");
            }
            assert!(now >= begin + link.settings.deadline);
        }
    }

    #[test]
    fn a_long_time_without_a_turn_is_taken_for_a_stall_of_our_own() {
        let heart_beat = Duration::from_millis(500);
        let mut link = Link::new(settings(heart_beat));
        let begin = Instant::from_nanos(1);
        link.note_time(begin);
        link.note_time(begin + heart_beat * 2);
        assert_eq!(link.awake_since, Instant::ZERO);
        let back = begin + heart_beat * 9;
        link.note_time(back);
        assert_eq!(link.awake_since, back);
    }
}

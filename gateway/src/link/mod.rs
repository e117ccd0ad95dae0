//! The links of one shard: connections to each backup queue server, over which all queues of the
//! shard go.
//!
//! A server may have several workers, each with a port of its own, and says at which of them a
//! queue lives. A link goes to each worker that it was told of; the first, at the configured port,
//! is there always. It goes there by one *path*, or by two over different network segments. Each
//! path is connected, authenticated and heart-beaten all the time. One of them, the *active* one,
//! carries the requests, and the link is up while there is one; the other stands by.
//!
//! When the active path ends, or is silent although it owes answers while the other one answers, the
//! link goes down and up again at once by the other path, with a raised generation: copies resume.
//! When there is no other path it goes down. Before that, what waits for an answer for too long goes
//! over the standby path as well (a *hedge*), under the same numbers; see `docs/protocol.md`.

mod fleet;
mod lane;
mod path;
mod standby;
mod translate;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kvs_proto::auth::{NONCE_SIZE_BYTES, Secret};
use kvs_proto::{Event as ClientEvent, Generation, Incarnation, Op, Status, Tag, Version};
use tcpstack::{ConnectionId, Event, Instant, RecvError, Transport};
use tracing::{debug, error, info, warn};

use self::lane::Lane;
use self::path::Path;
use self::standby::Attachments;
use self::translate::{translate, translate_second};
use crate::message::QueueIndex;
use crate::replication::request::{Ask, Outlet, Reply, Request};

pub(crate) use self::lane::wire;
pub use self::path::PathState;

/// Most receive calls on one lane in one turn, so that no server starves the others.
const RECEIVES_PER_TURN: usize = 16;

/// Most workers of one server. A server that names more is broken, and the link goes down.
const LANES_MAX: usize = 64;

/// Where a server is on a network segment, and our address there, if it matters.
pub type Route = (SocketAddr, Option<IpAddr>);

/// Where a server is and how it is talked to.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// The server's name in the configuration.
    pub server: String,
    /// Its address.
    pub address: SocketAddr,
    /// Our address towards it, if it matters.
    pub local: Option<IpAddr>,
    /// Where it is on the second network segment, if there is one. The port is that of `address`.
    pub standby: Option<Route>,
    /// Our account there.
    pub account: String,
    /// Its secret.
    pub secret: Secret,
    /// The highest version of the link protocol that is offered to it.
    pub version_max: Version,
    /// The largest content that it has to take. A server that takes less is not used: a mail
    /// that it refused would put its copy out of step again and again.
    pub message_size_max: u64,
    /// After this long without a word from the server we ask whether it is there.
    pub heart_beat: Duration,
    /// How long its last answer lets us act as owner of our queues.
    pub lease: Duration,
    /// After this long without a word, although it owes answers, a path is given up.
    pub deadline: Duration,
    /// After this long without a word, although it owes answers, the active path is given up if
    /// the other one answers meanwhile. Shorter than `deadline`.
    pub path_deadline: Duration,
    /// After this long without a word, what waits for an answer goes over the other path too;
    /// zero: never.
    pub hedge_after: Duration,
}

impl LinkSettings {
    /// How old the newest request that was answered may become before the server is asked something: a
    /// lease must be renewed several times before it ends.
    fn renew_after(&self) -> Duration {
        self.heart_beat.min(self.lease / 4)
    }

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
    /// It is down, and the server has been silent, or gone, since then. What was asked and not answered will not be
    /// answered.
    Down(usize, Instant),
    /// It is down, and nobody listens there any more: the process has ended, and its memory with it.
    Gone(usize),
    /// Answers are late. The copies that wait may ask again by [`Outlet::hedge`].
    Late(usize),
    /// An answer.
    Reply(usize, Reply),
}

/// How a link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkState {
    /// Its path over `address`,
    pub path: PathState,
    /// and over `standby_address`, if it has one.
    pub standby_path: Option<PathState>,
    /// The version that is spoken, while it is up.
    pub version: Option<Version>,
}

/// What a link with two paths has been through, and how it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkCounters {
    /// The server's name.
    pub server: String,
    /// How the paths are: that of `address`, that of `standby_address`.
    pub paths: [PathState; 2],
    /// How often requests moved to the other path without the link having been gone.
    pub switches: u64,
    /// Requests that went over the standby path too.
    pub hedges: u64,
    /// Answers that came by the standby path first; each is to one request or several.
    pub hedges_first: u64,
}

/// One link. Requests go in through [`Outlet`].
#[derive(Debug)]
pub struct Link {
    settings: LinkSettings,
    /// It is closed for good.
    is_gone: bool,
    /// One or two.
    paths: Vec<Path>,
    /// The path that carries requests, while the link is up.
    active: usize,
    /// The server's workers. The first is the configured one. At most [`LANES_MAX`].
    ports: Vec<u16>,
    /// The worker of each queue that does not live at the first: its place in `ports`.
    homes: BTreeMap<QueueIndex, usize>,
    /// The last `Create` or `Attach` of each queue, to be asked again at the right worker, and its tag.
    asks: BTreeMap<QueueIndex, (Tag, Request)>,
    /// The newest tag of an attachment, by this path or by the other.
    last_tag: Tag,
    /// The queues that are attached by the standby path too.
    seconds: Attachments,
    /// The server's life, while the link is up.
    incarnation: Option<Incarnation>,
    /// Since when the path had been silent that carried requests, if it was ended for that.
    silent_since: Option<Instant>,
    /// How often the link came up: the generation that the server knows the connections by.
    generation: Generation,
    /// The other path has met this other life of the server than the active one did, and when.
    stranger: Option<(Incarnation, Instant)>,
    /// By worker: since when the active path has been silent, and when the other one was seen to
    /// answer since.
    witnesses: BTreeMap<usize, (Instant, Instant)>,
    now: Instant,
    awake: Awake,
    /// When late answers are to be told of again.
    late_at: Instant,
    switches: u64,
    hedges: u64,
    hedges_first: u64,
}

/// When we last came back from a stall of our own: silence counts from then. For each deadline there
/// is a length from which on a time without a turn counts as a stall.
#[derive(Clone, Copy, Default, Debug)]
struct Awake {
    link_since: Instant,
    path_since: Instant,
    hedge_since: Instant,
}

/// All links of a shard, and the transport that they run on.
///
/// Each turn: [`turn`](Self::turn), which calls back with events; later [`flush`](Self::flush).
#[derive(Debug)]
pub struct Links<T> {
    transport: T,
    links: Vec<Link>,
    random: fastrand::Rng,
    /// The highest generation of a link that was let go.
    generation_past: Generation,
}

impl<T: Transport> Links<T> {
    /// Links to these servers. The seed is for nonces, and must not be guessable.
    pub fn new(transport: T, settings: Vec<LinkSettings>, seed: u64) -> Links<T> {
        let links = settings.into_iter().map(Link::new).collect();
        let random = fastrand::Rng::with_seed(seed);
        Links { transport, links, random, generation_past: Generation(0) }
    }

    /// The transport.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// The transport, for waiting.
    pub fn transport_mut(&mut self) -> &mut T {
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
            if self.links[place].is_gone {
                continue;
            }
            worked |= self.maintain(now, place, &mut handle);
        }
        worked
    }

    /// What the links with two paths have been through, and how they are.
    pub fn counters(&self) -> impl Iterator<Item = LinkCounters> {
        self.links.iter().filter(|link| !link.is_gone).filter_map(Link::counters)
    }

    /// How each link is.
    pub fn states(&self) -> Vec<LinkState> {
        self.links.iter().map(Link::state).collect()
    }

    /// Sends what is queued.
    pub fn flush(&mut self, now: Instant) {
        for path in self.links.iter_mut().flat_map(|link| &mut link.paths) {
            for lane in &mut path.lanes {
                lane.send_output(&mut self.transport);
            }
        }
        self.transport.flush(now);
    }

    /// When `turn` has something to do although nothing happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        let there = self.links.iter().filter(|link| !link.is_gone);
        let own = there.map(Link::next_deadline).min();
        own.into_iter().chain(self.transport.next_deadline()).min()
    }

    /// Closes every connection.
    pub fn close(&mut self) {
        for path in self.links.iter_mut().flat_map(|link| &mut link.paths) {
            for connection in path.lanes.drain(..).filter_map(|lane| lane.connection()) {
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
                let Some(at) = self.place_of(connection) else { return };
                let mut nonce = [0; NONCE_SIZE_BYTES];
                self.random.fill(&mut nonce);
                let link = &mut self.links[at.link];
                let lane = &mut link.paths[at.path].lanes[at.lane];
                lane.begin(now, connection, &link.settings, nonce);
            }
            Event::Readable(connection) => {
                let Some(at) = self.place_of(connection) else { return };
                if !self.receive(now, at, connection, handle) {
                    self.end_path(now, at.link, at.path);
                }
            }
            Event::Writable(connection) => {
                if let Some(at) = self.place_of(connection) {
                    self.links[at.link].paths[at.path].lanes[at.lane].unblock(now);
                }
            }
            Event::Closed { connection, reason } => {
                let Some(at) = self.place_of(connection) else { return };
                let link = &mut self.links[at.link];
                debug!(server = %link.settings.server, ?reason, "connection ended");
                link.paths[at.path].remove_lane(at.lane);
                link.paths[at.path].note_end(reason);
                self.end_path(now, at.link, at.path);
                self.note_gone(at.link, handle);
            }
            Event::Accepted { .. } => unreachable!("links do not listen"),
        }
    }

    /// Tells when every path of a link that is down is refused.
    fn note_gone(&mut self, place: usize, handle: &mut impl FnMut(&mut [Link], LinkEvent)) {
        let link = &self.links[place];
        if link.incarnation.is_none() && link.paths.iter().all(Path::is_refused) {
            handle(&mut self.links, LinkEvent::Gone(place));
        }
    }

    fn place_of(&self, connection: ConnectionId) -> Option<At> {
        self.links.iter().enumerate().find_map(|(link, it)| {
            it.paths.iter().enumerate().find_map(|(path, it)| {
                let lane = it.lane_of(connection)?;
                Some(At { link, path, lane })
            })
        })
    }

    /// Receives on a lane; returns false if its path must end.
    fn receive(
        &mut self,
        now: Instant,
        at: At,
        connection: ConnectionId,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) -> bool {
        for _ in 0..RECEIVES_PER_TURN {
            let lane = &mut self.links[at.link].paths[at.path].lanes[at.lane];
            let Some(client) = lane.client_mut() else { return true };
            let received = self.transport.recv(connection, |bytes| {
                client.handle_bytes(lane::wire(now), bytes);
                (bytes.len(), ())
            });
            match received {
                Ok(()) => {}
                Err(RecvError::WouldBlock) => return true,
                Err(RecvError::Finished | RecvError::Gone) => return false,
            }
            if !self.drain_events(now, at, handle) {
                return false;
            }
        }
        true
    }

    /// Passes on what a lane's client has to tell; returns false if its path must end.
    fn drain_events(
        &mut self,
        now: Instant,
        at: At,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) -> bool {
        loop {
            let link = &mut self.links[at.link];
            let client = link.paths[at.path].lanes[at.lane].client_mut();
            let Some(event) = client.and_then(|it| it.poll_event()) else { return true };
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
                    if !link.welcome(now, at, incarnation) {
                        return false;
                    }
                    // A link without another path is up at once.
                    self.choose(now, at.link, handle);
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
                event if at.path != link.active => {
                    if let Some(event) = link.seconds.take(event)
                        && let Some(reply) = translate_second(event)
                    {
                        handle(&mut self.links, LinkEvent::Reply(at.link, reply));
                    }
                }
                // From when it stood by, or to what the copy has forgotten that it asked.
                event if link.is_outdated(&event) => {}
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
                        handle(&mut self.links, LinkEvent::Reply(at.link, reply));
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
        let mut worked = false;
        for path in 0..self.links[place].paths.len() {
            worked |= self.maintain_path(now, place, path);
        }
        if self.links[place].is_active_dead(now) {
            worked = true;
            self.end_path(now, place, self.links[place].active);
        }
        worked |= self.choose(now, place, handle);
        if self.links[place].is_late(now) {
            handle(&mut self.links, LinkEvent::Late(place));
        }
        worked
    }

    /// Connects a path, sees that it lives; returns whether it ended.
    fn maintain_path(&mut self, now: Instant, place: usize, number: usize) -> bool {
        let link = &mut self.links[place];
        let (settings, path) = (&link.settings, &mut link.paths[number]);
        path.open(now, &link.ports);
        if !path.connect(now, settings, &mut self.transport) {
            self.end_path(now, place, number);
            return true;
        }
        let awake_since = link.awake.link_since;
        let silent = path.lanes.iter().filter_map(|it| it.silent_since(now, settings, awake_since));
        if let Some(since) = silent.min() {
            let (server, address) = (&settings.server, path.address());
            warn!(%server, %address, "the server does not answer");
            if number == link.active {
                link.silent_since = Some(since);
            }
            self.end_path(now, place, number);
            return true;
        }
        for lane in &mut path.lanes {
            lane.ask_whether_alive(now, settings.renew_after());
        }
        false
    }

    /// Ends a path; `choose` sees to what becomes of the link.
    fn end_path(&mut self, now: Instant, place: usize, number: usize) {
        let link = &mut self.links[place];
        link.seconds.clear();
        let was_up = link.paths[number].end(now, &mut self.transport);
        if was_up && link.paths.len() > 1 {
            let (server, address) = (&link.settings.server, link.paths[number].address());
            warn!(%server, %address, "path lost");
        }
    }

    /// Sees to it that a path carries requests, if there is one. Returns whether anything changed.
    fn choose(
        &mut self,
        now: Instant,
        place: usize,
        handle: &mut impl FnMut(&mut [Link], LinkEvent),
    ) -> bool {
        let link = &mut self.links[place];
        let was_up = link.incarnation.is_some();
        if was_up && link.paths[link.active].life.is_some() {
            return false;
        }
        let next = link.usable_path(now);
        if !was_up && next.is_none() {
            return false;
        }
        if was_up {
            let switches = next.is_some_and(|it| link.paths[it].life == link.incarnation);
            link.go_down(switches, &mut self.transport);
            let since = link.silent_since.unwrap_or(now);
            handle(&mut self.links, LinkEvent::Down(place, since));
        }
        let link = &mut self.links[place];
        if let Some(next) = next
            && let Some(incarnation) = link.paths[next].life
        {
            link.come_up(next, incarnation);
            handle(&mut self.links, LinkEvent::Up(place, incarnation));
        }
        true
    }
}

/// Where a connection is.
#[derive(Clone, Copy)]
struct At {
    link: usize,
    path: usize,
    lane: usize,
}

impl Link {
    /// The server's life, while the link is up.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation
    }

    fn new(settings: LinkSettings) -> Link {
        let first = Path::new(settings.address, settings.local);
        let second = settings.standby.map(|(address, local)| Path::new(address, local));
        Link {
            paths: [first].into_iter().chain(second).collect(),
            active: 0,
            ports: vec![settings.address.port()],
            homes: BTreeMap::new(),
            asks: BTreeMap::new(),
            last_tag: Tag(0),
            seconds: Attachments::default(),
            incarnation: None,
            silent_since: None,
            generation: Generation(0),
            stranger: None,
            witnesses: BTreeMap::new(),
            now: Instant::ZERO,
            awake: Awake::default(),
            late_at: Instant::ZERO,
            switches: 0,
            hedges: 0,
            hedges_first: 0,
            is_gone: false,
            settings,
        }
    }

    /// The turns come at least once per heart-beat, and more often while answers are owed by one of
    /// two paths. If they did not, it was we who were stalled (stopped, or out of CPU), and the
    /// server is not judged by that time.
    fn note_time(&mut self, now: Instant) {
        let LinkSettings { heart_beat, deadline, path_deadline, hedge_after, .. } = self.settings;
        let gap = now.saturating_since(self.now);
        if gap > (heart_beat * 2).max(deadline / 2) {
            self.awake.link_since = now;
        }
        if gap > path_deadline / 2 {
            self.awake.path_since = now;
        }
        if gap > hedge_after {
            self.awake.hedge_since = now;
        }
        self.now = now;
    }

    /// A lane is welcomed; returns false if its server is not the one that the others of its path
    /// go to, or not the one that the active path goes to.
    fn welcome(&mut self, now: Instant, at: At, incarnation: Incarnation) -> bool {
        let is_active = at.path == self.active;
        let address = self.paths[at.path].address();
        if !is_active
            && let Some(life) = self.paths[self.active].life.filter(|life| *life != incarnation)
        {
            let known = self.stranger.replace((incarnation, now));
            if known.is_none_or(|(known, _)| known != incarnation) {
                warn!(server = %self.settings.server, %address, %incarnation, %life,
                      "the other path meets another life of the server, or another server");
            }
            return false;
        }
        if !self.paths[at.path].welcome(now, at.lane, incarnation) {
            return false;
        }
        if self.paths.len() > 1 && self.paths[at.path].is_up() {
            info!(server = %self.settings.server, %address, "path ready");
        }
        if is_active && self.incarnation.is_some() {
            let here = |(_, home): &(&QueueIndex, &usize)| **home == at.lane;
            let queues = self.homes.iter().filter(here).map(|(queue, _)| *queue);
            for queue in queues.collect::<Vec<_>>() {
                self.ask_again(queue);
            }
        }
        true
    }

    /// A path that could carry requests now.
    fn usable_path(&self, now: Instant) -> Option<usize> {
        let (deadline, awake_since) = (self.settings.path_deadline, self.awake.path_since);
        let responds = |path: &usize| self.paths[*path].responds(now, deadline, awake_since);
        (0..self.paths.len()).find(responds)
    }

    /// Nothing is carried any more. What is known of the server's workers is kept if another path
    /// to the same life takes over.
    fn go_down(&mut self, switches: bool, transport: &mut impl Transport) {
        let server = &self.settings.server;
        if switches {
            warn!(%server, "the active path is gone: the standby path takes over");
            self.switches += 1;
        } else {
            warn!(%server, "link down");
            self.homes.clear();
            self.ports.truncate(1);
            self.paths.iter_mut().for_each(|path| path.forget_ports(transport));
        }
        self.asks.clear();
        self.seconds.clear();
        self.incarnation = None;
    }

    fn come_up(&mut self, path: usize, incarnation: Incarnation) {
        let address = self.paths[path].address();
        let protocol = self.paths[path].version().map(|it| it as u8);
        info!(server = %self.settings.server, %address, %incarnation, protocol, "link up");
        self.active = path;
        self.generation = self.generation.next();
        self.incarnation = Some(incarnation);
        self.silent_since = None;
        self.stranger = None;
        self.witnesses.clear();
    }

    /// A queue lives at another worker; returns false if the server makes no sense.
    fn redirect(&mut self, queue: QueueIndex, port: u16) -> bool {
        let known = self.ports.iter().position(|it| *it == port);
        let home = known.unwrap_or(self.ports.len());
        if known.is_none() {
            if self.ports.len() == LANES_MAX {
                warn!(server = %self.settings.server, "the server names too many workers");
                return false;
            }
            self.ports.push(port);
            for path in self.paths.iter_mut().filter(|path| !path.lanes.is_empty()) {
                path.add_lane(port);
            }
        }
        self.homes.insert(queue, home);
        self.ask_again(queue);
        true
    }

    /// Asks for a queue at its worker, if that lane is up; else `welcome` does when it is.
    fn ask_again(&mut self, queue: QueueIndex) {
        if let Some((_, request)) = self.asks.get(&queue).cloned() {
            self.encode(request);
        }
    }

    fn encode(&mut self, request: Request) {
        let home = self.home_of(request.queue);
        if let Some(lane) = self.paths[self.active].lanes.get_mut(home) {
            // Changes have numbers and no tags, and with a thousand queues that is a search.
            let is_change = matches!(request.ask, Ask::Change { .. });
            let asked = if is_change { None } else { self.asks.get(&request.queue) };
            let tag = asked.map_or(Tag(0), |(tag, _)| *tag);
            lane.encode(self.now, self.generation, tag, request);
        }
    }

    /// Whether an answer is to an attachment, or the end of one, that was asked for before the newest. The copy
    /// is given up in between, so what it did not wait for must not look like what it waits for.
    fn is_outdated(&self, event: &ClientEvent) -> bool {
        let (queue, tag) = match event {
            ClientEvent::Attached { queue, tag, .. } | ClientEvent::Dropped { queue, tag } => {
                (*queue, *tag)
            }
            ClientEvent::Refused(refusal)
                if matches!(refusal.op, Op::Create | Op::Attach | Op::Drop) =>
            {
                (refusal.queue, Tag(refusal.sequence.0))
            }
            _ => return false,
        };
        self.asks.get(&QueueIndex(queue.0)).is_none_or(|(newest, _)| *newest != tag)
    }

    /// The place of the queue's worker.
    fn home_of(&self, queue: QueueIndex) -> usize {
        self.homes.get(&queue).copied().unwrap_or(0)
    }

    fn next_deadline(&self) -> Instant {
        let paths = self.paths.iter().map(|path| path.next_deadline(self.now, &self.settings));
        paths.chain(self.next_look()).min().expect("there is a path")
    }
}

impl Outlet for Link {
    fn has_room(&self) -> bool {
        self.incarnation.is_some() && self.paths[self.active].lanes.iter().all(Lane::has_room)
    }

    fn can_backfill(&self) -> bool {
        self.paths[self.active].lanes.iter().all(Lane::can_backfill)
    }

    fn send(&mut self, request: Request) {
        if self.incarnation.is_none() {
            return;
        }
        if matches!(request.ask, Ask::Create { .. } | Ask::Attach { .. }) {
            // Whatever the standby path still answers is about the queue as it was.
            self.seconds.forget(request.queue);
            self.last_tag.0 += 1;
            self.asks.insert(request.queue, (self.last_tag, request.clone()));
        }
        self.encode(request);
    }

    fn can_hedge(&self, queue: QueueIndex) -> bool {
        self.is_late_at(self.home_of(queue)) && self.takes_hedge(queue)
    }

    fn hedge(&mut self, request: Request) {
        self.send_second(request);
    }

    fn note_hedge_first(&mut self) {
        self.hedges_first += 1;
    }

    fn answered_since(&self) -> Option<Instant> {
        self.incarnation?;
        let lanes = self.paths[self.active].lanes.iter().filter(|lane| lane.is_up());
        lanes.map(Lane::answered_since).min().flatten()
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
pub(crate) mod tests;

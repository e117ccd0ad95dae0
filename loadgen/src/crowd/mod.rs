//! A crowd of hostile clients: thousands of sessions that do nothing, or a byte a second, and come back
//! when they are thrown out.

mod member;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tcpstack::{CloseReason, ConnectionId, Event, Instant, RecvError, Transport};

pub use member::Kind;

use crate::report::Section;
use member::{End, Member};

/// Who comes, and how.
#[derive(Clone, Debug)]
pub struct CrowdConfig {
    /// To whom; members take turns with the addresses. Not empty.
    pub to: Vec<SocketAddr>,
    /// Where they connect from, in turn; empty: the system chooses.
    pub locals: Vec<IpAddr>,
    /// Who they are.
    pub members: Vec<Kind>,
    /// Between two bytes of a slow one.
    pub interval: Duration,
    /// New connections a second, all together.
    pub connects_per_s: u32,
    /// From when one is thrown out until it comes back.
    pub pause: Duration,
    /// To whom slow content pretends to go.
    pub recipient: String,
}

/// What a [`Crowd`] counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CrowdCounts {
    /// Connections made.
    pub connections: u64,
    /// Idle sessions that are in now.
    pub idle_held: u64,
    /// Slow sessions that are in now.
    pub slow_held: u64,
    /// The most that were in at once.
    pub held_most: u64,
    /// Sessions ended by 421.
    pub closed_421: u64,
    /// Sessions refused by another code on their way in.
    pub refused: u64,
    /// Sessions that ended without a word, once they were in or before.
    pub closed_silently: u64,
    /// Connections that the peer reset.
    pub reset: u64,
    /// Connections that were not made: refused, or nobody answered.
    pub connects_failed: u64,
    /// Connections that this machine could not even begin: ports, addresses or descriptors are out.
    pub connects_impossible: u64,
    /// Bytes sent slowly.
    pub slow_bytes: u64,
    /// What the server said when it refused, each with how often. At most [`REASONS_MAX`] different
    /// ones; further ones are counted as `others`.
    pub reasons: BTreeMap<String, u64>,
}

/// Most different reasons that are kept.
pub const REASONS_MAX: usize = 20;

impl CrowdCounts {
    /// The counts by name, for reports and status files.
    pub fn named(&self) -> [(&'static str, u64); 11] {
        [
            ("connections", self.connections),
            ("idle_held", self.idle_held),
            ("slow_held", self.slow_held),
            ("held_most", self.held_most),
            ("closed_421", self.closed_421),
            ("refused", self.refused),
            ("closed_silently", self.closed_silently),
            ("reset", self.reset),
            ("connects_failed", self.connects_failed),
            ("connects_impossible", self.connects_impossible),
            ("slow_bytes", self.slow_bytes),
        ]
    }

    /// The counts as a report's section.
    pub fn section(&self) -> Section {
        let section = Section::new("crowd", "hostile clients");
        let add = |section: Section, (name, count): (&'static str, u64)| {
            section.count(name, &name.replace('_', " "), count)
        };
        let section = self.named().into_iter().fold(section, add);
        let because = |section: Section, (place, (text, count)): (usize, (&String, &u64))| {
            section.text(
                &format!("reason_{place}"),
                "because of",
                format!("{text} ({count} times)"),
            )
        };
        self.reasons.iter().enumerate().fold(section, because)
    }

    fn note_reason(&mut self, text: String) {
        let known = self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&text);
        let text = if known { text } else { "others".into() };
        *self.reasons.entry(text).or_default() += 1;
    }

    fn held(&mut self, kind: Kind) -> &mut u64 {
        if kind == Kind::Idle { &mut self.idle_held } else { &mut self.slow_held }
    }
}

/// The crowd on one transport, whose table must have room for all. The loop around it calls
/// [`Crowd::turn`], and [`Crowd::wait`] when there was nothing to do.
pub struct Crowd<T: Transport> {
    transport: T,
    config: CrowdConfig,
    places: Vec<Place>,
    /// Places by the connection's index.
    by_connection: Vec<Option<usize>>,
    /// Places whose member waits for its turn to connect.
    outside: VecDeque<usize>,
    /// When somebody says a byte or comes back.
    timers: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    /// Connections that may be begun, in a second's shares of `connects_per_s`.
    next_connect: Instant,
    counts: CrowdCounts,
}

/// One member after another, of one kind.
struct Place {
    kind: Kind,
    session: Option<(ConnectionId, Member)>,
    /// How many members there were: a timer of an earlier one means nothing.
    turn: u64,
}

impl<T: Transport> Crowd<T> {
    /// A crowd that begins to come with its first turn.
    pub fn new(transport: T, config: CrowdConfig, now: Instant) -> Crowd<T> {
        assert!(!config.to.is_empty() && config.connects_per_s > 0, "a crowd needs a goal");
        let place = |&kind: &Kind| Place { kind, session: None, turn: 0 };
        Crowd {
            transport,
            places: config.members.iter().map(place).collect(),
            by_connection: Vec::new(),
            outside: (0..config.members.len()).collect(),
            timers: BinaryHeap::new(),
            next_connect: now,
            counts: CrowdCounts::default(),
            config,
        }
    }

    /// What it has counted.
    pub fn counts(&self) -> &CrowdCounts {
        &self.counts
    }

    /// Does what there is to do, and answers whether there was anything.
    pub fn turn(&mut self, now: Instant) -> bool {
        self.transport.poll(now);
        let mut worked = false;
        while let Some(event) = self.transport.next_event() {
            worked = true;
            self.handle_event(event, now);
        }
        while self.timers.peek().is_some_and(|&Reverse((due, ..))| due <= now) {
            let Some(Reverse((_, place, turn))) = self.timers.pop() else { break };
            worked = true;
            self.handle_timer(place, turn, now);
        }
        worked |= self.connect_some(now);
        self.transport.flush(now);
        worked
    }

    /// When it wants its next turn, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|&Reverse((due, ..))| due);
        let connect = (!self.outside.is_empty()).then_some(self.next_connect);
        [timer, connect, self.transport.next_deadline()].into_iter().flatten().min()
    }

    /// Sleeps until something happens, or until then.
    pub fn wait(&mut self, now: Instant, until: Option<Instant>) {
        self.transport.wait(now, until);
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        let id = match event {
            Event::Connected(id) | Event::Readable(id) | Event::Writable(id) => id,
            Event::Closed { connection, .. } => connection,
            Event::Accepted { .. } => unreachable!("a crowd does not listen"),
        };
        let Some(place) = self.by_connection.get(id.index as usize).copied().flatten() else {
            return;
        };
        if self.places[place].session.as_ref().is_none_or(|(of, _)| *of != id) {
            return;
        }
        match event {
            Event::Connected(_) => self.counts.connections += 1,
            Event::Readable(_) => self.receive(place, id, now),
            Event::Closed { reason, .. } => {
                match reason {
                    CloseReason::Reset => self.counts.reset += 1,
                    CloseReason::LocalError => self.counts.connects_impossible += 1,
                    CloseReason::Refused | CloseReason::TimedOut => {
                        self.counts.connects_failed += 1
                    }
                }
                self.leave(place, now);
            }
            _ => {}
        }
        self.send(place);
    }

    fn receive(&mut self, place: usize, id: ConnectionId, now: Instant) {
        let Place { kind, session, turn } = &mut self.places[place];
        let Some((_, member)) = session else { return };
        let was_held = member.is_held();
        let recipient = &self.config.recipient;
        let received = self.transport.recv(id, |bytes| {
            let end = member.handle_bytes(bytes, recipient);
            (bytes.len(), end)
        });
        if member.is_held() && !was_held {
            *self.counts.held(*kind) += 1;
            let held = self.counts.idle_held + self.counts.slow_held;
            self.counts.held_most = held.max(self.counts.held_most);
            if *kind != Kind::Idle {
                self.timers.push(Reverse((now + self.config.interval, place, *turn)));
            }
        }
        match received {
            Ok(None) | Err(RecvError::WouldBlock) => return,
            Ok(Some(End::Closing(text))) => {
                self.counts.closed_421 += 1;
                self.counts.note_reason(text);
            }
            Ok(Some(End::Refused(text))) => {
                self.counts.refused += 1;
                self.counts.note_reason(text);
            }
            Ok(Some(End::NotSmtp)) => {
                self.counts.refused += 1;
                self.counts.note_reason("no SMTP".into());
            }
            Err(RecvError::Finished) => self.counts.closed_silently += 1,
            // The event that says why is on its way.
            Err(RecvError::Gone) => return,
        }
        self.transport.close(id);
        self.leave(place, now);
    }

    fn send(&mut self, place: usize) {
        let Some((id, member)) = &mut self.places[place].session else { return };
        if member.out.is_empty() {
            return;
        }
        if let Ok(sent) = self.transport.send(*id, &[IoSlice::new(&member.out)]) {
            member.out.drain(..sent);
        }
    }

    /// The member is out, and comes back later.
    fn leave(&mut self, place: usize, now: Instant) {
        let Place { kind, session, turn } = &mut self.places[place];
        if session.take().is_some_and(|(_, member)| member.is_held()) {
            *self.counts.held(*kind) -= 1;
        }
        *turn += 1;
        self.timers.push(Reverse((now + self.config.pause, place, *turn)));
    }

    fn handle_timer(&mut self, place: usize, turn: u64, now: Instant) {
        if self.places[place].turn != turn {
            return;
        }
        let Some((_, member)) = &mut self.places[place].session else {
            return self.outside.push_back(place);
        };
        member.handle_interval();
        self.counts.slow_bytes += 1;
        self.timers.push(Reverse((now + self.config.interval, place, turn)));
        self.send(place);
    }

    /// Lets those in whose turn it is.
    fn connect_some(&mut self, now: Instant) -> bool {
        let mut connected = false;
        let step = Duration::from_secs(1) / self.config.connects_per_s;
        while now >= self.next_connect {
            let Some(place) = self.outside.pop_front() else {
                self.next_connect = now;
                break;
            };
            self.next_connect += step;
            connected = true;
            self.connect(place, now);
        }
        connected
    }

    fn connect(&mut self, place: usize, now: Instant) {
        let remote = self.config.to[place % self.config.to.len()];
        let locals = &self.config.locals;
        let local = (!locals.is_empty()).then(|| locals[place % locals.len()]);
        let Ok(id) = self.transport.connect(now, remote, local) else {
            self.counts.connects_impossible += 1;
            return self.leave(place, now);
        };
        let index = id.index as usize;
        if self.by_connection.len() <= index {
            self.by_connection.resize(index + 1, None);
        }
        self.by_connection[index] = Some(place);
        let Place { kind, session, .. } = &mut self.places[place];
        *session = Some((id, Member::new(*kind)));
    }
}

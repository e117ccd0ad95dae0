//! A front between scripted clients, a scripted next hop and a small shard, over a simulated
//! network in virtual time (and once over kernel sockets).

mod chaos;
mod delivery;
mod destinations;
mod hostile;
mod kernel;
mod lease;
mod misbehaviour;
mod peer;
mod policy;
mod reception;
mod reconfigure;
mod report;
mod shard;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use smtp::SessionRules;
use tcpstack::{ConnectionId, Instant, SimNetwork, SimOptions, SimTransport, Transport};

use self::peer::{NextHop, Peer};
use self::shard::FakeShard;
use super::*;
use crate::board::{Board, MESSAGE_OVERHEAD_BYTES};
use crate::clients::ClientLimits;
use crate::message::QueueIndex;

const QUEUES: usize = 3;
const QUEUE_BYTES: i64 = 100_000;
const QUEUE_MESSAGES: i64 = 100;
const Q0: QueueIndex = QueueIndex(0);
const Q1: QueueIndex = QueueIndex(1);

/// What makes time pass when nobody has anything to do.
enum Time {
    Simulated(SimNetwork),
    Real(tcpstack::Clock),
}

struct World<T> {
    time: Time,
    front: Front<T>,
    shard: FakeShard,
    next_hop: NextHop<T>,
    client: Peer<T>,
    board: Arc<Board>,
    /// How much later it is at the end of a turn of the front's.
    turn_takes: Duration,
}

/// Domains a.example, b.example and c.example go to queues 0, 1 and 2; each has the next hop.
fn config(listen: SocketAddr, next_hop: SocketAddr) -> FrontConfig {
    let mut routes = Routes::new(None);
    let mut destinations = Vec::new();
    for (queue, domain) in (0..).zip(["a.example", "b.example", "c.example"]) {
        routes.add(domain, QueueIndex(queue));
        destinations.push(Destination {
            connections_max: 1,
            messages_per_connection_max: 1000,
            prefetch: 1,
            ..Destination::new(domain, vec![next_hop])
        });
    }
    FrontConfig {
        hostname: "gw.example".into(),
        number: 0,
        fronts: 1,
        seed: 7,
        reception: ReceptionConfig {
            listen: vec![listen],
            sessions_max: 10,
            messages_per_session_max: 60,
            message_size_max: 50_000,
            recipients_max: 10,
            text_line_max: 998,
            errors_max: 10,
            errors_soft: 10,
            error_delay: Duration::ZERO,
            rules: SessionRules::default(),
            trusted_rules: SessionRules::default(),
            greet_pause: Duration::ZERO,
            patience: Patience { load_percent: 101, ..Patience::default() },
            received_max: 100,
            drain: Duration::from_secs(20),
            commit_timeout: Duration::from_secs(20),
            trace_header: true,
            trace_recipient: false,
            routes,
            relay: RelayPolicy {
                networks: Networks::parse_all(["10.0.0.0/8", "127.0.0.0/8"]).unwrap(),
                ..RelayPolicy::default()
            },
            checks: Checks::default(),
            known_recipients: Vec::new(),
            client_limits: ClientLimits::default(),
            exempt_networks: Networks::default(),
        },
        delivery: DeliveryConfig {
            destinations,
            timeouts: DeliveryTimeouts::default(),
            backoff_min: Duration::from_secs(4),
            backoff_max: Duration::from_secs(60),
            idle_connections_max: 100,
        },
        reports: ReportConfig { gateway: "gw".into(), queue: None, content_max: 4096 },
    }
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

/// A world in which all queues accept.
fn world_with(change: impl FnOnce(&mut FrontConfig)) -> World<SimTransport> {
    world_on(SimNetwork::new(11, SimOptions::default()), change)
}

fn world_on(network: SimNetwork, change: impl FnOnce(&mut FrontConfig)) -> World<SimTransport> {
    let listen = SocketAddr::new(ip(1), 25);
    let mut config = config(listen, SocketAddr::new(ip(3), 25));
    change(&mut config);
    let transports = [1, 2, 3].map(|last| network.host(ip(last)));
    World::new(Time::Simulated(network), &config, transports, SocketAddr::new(ip(3), 25))
}

fn world() -> World<SimTransport> {
    world_with(|_| {})
}

impl<T: Transport> World<T> {
    fn new(time: Time, config: &FrontConfig, transports: [T; 3], hop: SocketAddr) -> World<T> {
        let bounds = [(QUEUE_MESSAGES, QUEUE_BYTES); QUEUES];
        let board = Arc::new(Board::new(bounds, QUEUE_BYTES * 2));
        for queue in 0..3 {
            board.set_accepting(QueueIndex(queue), true);
        }
        for queue in 0..3 {
            board.set_lease(QueueIndex(queue), Instant::ZERO, Instant::MAX);
        }
        let [front, client, next_hop] = transports;
        let mut world = World {
            front: Front::new(config, front, Arc::clone(&board)),
            shard: FakeShard::new(Arc::clone(&board), QUEUES),
            next_hop: NextHop::new(next_hop, hop),
            client: Peer::new(client),
            board,
            time,
            turn_takes: Duration::ZERO,
        };
        world.turn();
        world
    }

    fn now(&self) -> Instant {
        match &self.time {
            Time::Simulated(network) => network.now(),
            Time::Real(clock) => clock.now(),
        }
    }

    /// One turn of everybody; returns whether anybody did something.
    fn turn(&mut self) -> bool {
        let now = self.now();
        let later = now + self.turn_takes;
        let unix_ms = UNIX_MS + now.as_nanos() / 1_000_000;
        let mut has_worked = self.front.turn(now, unix_ms, || later);
        while let Some(command) = self.front.poll_command() {
            has_worked = true;
            self.shard.handle_command(command);
        }
        while let Some(notice) = self.shard.poll_notice() {
            has_worked = true;
            self.front.handle_notice(notice, now);
        }
        has_worked |= self.client.turn(now);
        has_worked |= self.next_hop.turn(now);
        has_worked
    }

    /// Runs until the condition holds.
    fn run_until(&mut self, what: &str, condition: impl Fn(&World<T>) -> bool) {
        let limit = self.now() + Duration::from_secs(3600);
        while !condition(self) {
            if !self.turn() {
                assert!(self.pass_time(limit), "never: {what}");
            }
        }
    }

    /// Runs for so long.
    fn run_for(&mut self, duration: Duration) {
        let end = self.now() + duration;
        while self.turn() || self.pass_time(end) {}
    }

    /// Sleeps to the next event, at most to `limit`; false when that is reached.
    fn pass_time(&mut self, limit: Instant) -> bool {
        let now = self.now();
        let deadline = self.front.next_deadline();
        match &self.time {
            Time::Simulated(network) => {
                let next = [network.next_event_at(), deadline].into_iter().flatten().min();
                let next = next.unwrap_or(limit).max(now + Duration::from_nanos(1));
                network.advance(next.min(limit));
                next < limit
            }
            Time::Real(_) => {
                let soon = now + Duration::from_millis(1);
                self.front.transport_mut().wait(now, Some(soon));
                now < limit
            }
        }
    }

    /// Opens a session and says EHLO.
    fn session(&mut self) -> ConnectionId {
        let id = self.connect();
        self.converse(id, "", &["220"]);
        self.converse(id, "EHLO client.example\r\n", &["250"]);
        id
    }

    fn connect(&mut self) -> ConnectionId {
        let address = self.front.local_addresses()[0];
        let now = self.now();
        self.client.connect(now, address)
    }

    /// Sends as a client and waits for replies with these codes.
    fn converse(&mut self, id: ConnectionId, text: &str, codes: &[&str]) {
        self.client.send(id, text);
        self.run_until(&format!("{codes:?} to {text:?}"), |world| {
            world.client.reply_codes(id).len() >= codes.len() || world.client.is_over(id)
        });
        assert_eq!(self.client.reply_codes(id), codes, "{text:?}: {}", self.client.received(id));
        self.client.forget_received(id);
    }

    /// Sends one mail and waits for its 250.
    fn mail(&mut self, id: ConnectionId, to: &[&str], content: &str) {
        self.envelope(id, to);
        self.converse(id, &format!("{content}.\r\n"), &["250"]);
    }

    /// From MAIL to 354.
    fn envelope(&mut self, id: ConnectionId, to: &[&str]) {
        self.converse(id, "MAIL FROM:<s@x.example>\r\n", &["250"]);
        for recipient in to {
            self.converse(id, &format!("RCPT TO:<{recipient}>\r\n"), &["250"]);
        }
        self.converse(id, "DATA\r\n", &["354"]);
    }

    /// Asserts that nothing is reserved or held: each queue and the whole have all their room.
    fn assert_board_is_whole(&self) {
        let whole = usize::try_from(QUEUE_BYTES - MESSAGE_OVERHEAD_BYTES).unwrap();
        for queue in [Q0, Q1] {
            self.board.set_accepting(queue, true);
            assert_eq!(self.board.reserve(queue, whole), Ok(()), "{queue:?} lacks room");
        }
        for queue in [Q0, Q1] {
            self.board.release(queue, whole);
            let taken = (0..QUEUE_MESSAGES).take_while(|_| self.board.reserve(queue, 0).is_ok());
            assert_eq!(i64::try_from(taken.count()).unwrap(), QUEUE_MESSAGES);
            (0..QUEUE_MESSAGES).for_each(|_| self.board.release(queue, 0));
        }
    }
}

/// 1 October 2026, in milliseconds since 1970.
const UNIX_MS: u64 = 1_790_812_800_000;

//! How long requests take that are asked for many at a time, on links that lose and reorder packets, in virtual time.
#![cfg(feature = "userspace")]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dataplane::{WireEnd, WireOptions, wire};
use smoltcp::phy::Medium;
use tcpstack::{ConnectionId, Event, Instant, Transport, UserspaceOptions, UserspaceTransport};

/// A client that always has so many requests under way, and a server that answers each.
struct Pipeline {
    now: Instant,
    client: UserspaceTransport<WireEnd>,
    server: UserspaceTransport<WireEnd>,
    connection: ConnectionId,
    accepted: Option<ConnectionId>,
    /// Of a request that has come in part, and of an answer.
    begun: [usize; 2],
    /// Bytes that found no room.
    unsaid: [usize; 2],
    /// When the requests under way were made.
    asked: VecDeque<Instant>,
    took: Vec<Duration>,
    random: fastrand::Rng,
}

const REQUEST_BYTES: usize = 1_060;
const ANSWER_BYTES: usize = 24;
const DEPTH: usize = 32;

/// The shortest turn of both ends, and some take up to eight times as long. A round trip is about one or two.
const TURN: Duration = Duration::from_micros(10);

impl Pipeline {
    fn new(options: WireOptions) -> Pipeline {
        let (a, b) = wire(WireOptions { medium: Medium::Ip, frame_bytes: 1500, ..options });
        let [near, far] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let mut client = UserspaceTransport::new(a, UserspaceOptions::new(near, 1));
        let mut server = UserspaceTransport::new(b, UserspaceOptions::new(far, 2));
        let now = Instant::from_nanos(1_000_000_000);
        server.listen(SocketAddr::new(far, 7)).unwrap();
        let connection = client.connect(now, SocketAddr::new(far, 7), None).unwrap();
        let (asked, took) = (VecDeque::new(), Vec::new());
        let (begun, unsaid, accepted) = ([0; 2], [0; 2], None);
        Pipeline {
            now,
            client,
            server,
            connection,
            accepted,
            begun,
            unsaid,
            asked,
            took,
            random: fastrand::Rng::with_seed(1),
        }
    }

    /// Times of so many requests, sorted.
    fn run(&mut self, count: usize) -> &[Duration] {
        while self.accepted.is_none() {
            self.turn();
        }
        self.took.clear();
        while self.took.len() < count {
            while self.asked.len() < DEPTH {
                self.asked.push_back(self.now);
                self.unsaid[0] += REQUEST_BYTES;
            }
            self.turn();
        }
        self.took.sort_unstable();
        &self.took
    }

    fn turn(&mut self) {
        self.client.poll(self.now);
        let heard = hear(&mut self.client, &mut None);
        for _ in 0..whole(&mut self.begun[1], heard, ANSWER_BYTES) {
            self.took.push(self.now - self.asked.pop_front().unwrap());
        }
        if self.accepted.is_some() {
            say(&mut self.client, self.connection, &mut self.unsaid[0]);
        }
        self.client.flush(self.now);
        self.server.poll(self.now);
        let heard = hear(&mut self.server, &mut self.accepted);
        self.unsaid[1] += whole(&mut self.begun[0], heard, REQUEST_BYTES) * ANSWER_BYTES;
        if let Some(accepted) = self.accepted {
            say(&mut self.server, accepted, &mut self.unsaid[1]);
        }
        self.server.flush(self.now);
        let next = [self.client.next_deadline(), self.server.next_deadline()];
        let next = next.into_iter().flatten().min().unwrap_or(self.now);
        self.now = next.max(self.now + TURN * self.random.u32(1..=8));
    }
}

/// How many bytes have come.
fn hear(end: &mut UserspaceTransport<WireEnd>, accepted: &mut Option<ConnectionId>) -> usize {
    let mut heard = 0;
    while let Some(event) = end.next_event() {
        match event {
            Event::Accepted { connection, .. } => *accepted = Some(connection),
            Event::Readable(name) => {
                heard += end.recv(name, |bytes| (bytes.len(), bytes.len())).unwrap_or(0);
            }
            Event::Closed { reason, .. } => panic!("{reason:?}"),
            _ => {}
        }
    }
    heard
}

fn say(end: &mut UserspaceTransport<WireEnd>, name: ConnectionId, unsaid: &mut usize) {
    *unsaid -= end.send(name, &[IoSlice::new(&vec![7; *unsaid])]).unwrap();
}

/// How many pieces of that size are whole with so many bytes more.
fn whole(begun: &mut usize, bytes: usize, size: usize) -> usize {
    let all = *begun + bytes;
    *begun = all % size;
    all / size
}

#[test]
fn requests_behind_a_lost_packet_take_some_round_trips_and_not_milliseconds() {
    // Lost packets of a million, and the bounds: of 99 % of the requests, of 99.9 %, of all.
    for (loss_ppm, bounds) in [
        (1_000, [300, 800, 2_000].map(Duration::from_micros)),
        (10_000, [400, 1_500, 3_000].map(Duration::from_micros)),
        (50_000, [1_500, 3_000, 10_000].map(Duration::from_micros)),
    ] {
        let mut pipeline = Pipeline::new(WireOptions { loss_ppm, ..WireOptions::default() });
        let took = pipeline.run(50_000);
        let reached = [990, 999, 1_000].map(|part| took[took.len() * part / 1_000 - 1]);
        let is_met = reached.iter().zip(&bounds).all(|(it, bound)| it < bound);
        assert!(is_met, "{loss_ppm}: {reached:?}");
        let ends = [&pipeline.client, &pipeline.server];
        let lost: u64 = ends.iter().map(|it| it.port().statistics().lost).sum();
        let again: u64 = ends.iter().map(|it| it.statistics().sent_again).sum();
        assert!(lost > 20 && again <= lost * 2, "{again} again for {lost}");
    }
}

#[test]
fn requests_on_a_good_link_take_a_round_trip_and_nothing_is_sent_again() {
    let mut pipeline = Pipeline::new(WireOptions::default());
    let took = pipeline.run(50_000);
    assert!(took[took.len() - 1] < TURN * 40, "{:?}", took[took.len() - 1]);
    let ends = [&pipeline.client, &pipeline.server];
    assert!(ends.iter().all(|it| it.statistics().sent_again == 0));
}

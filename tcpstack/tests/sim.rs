//! What only the simulated network does: faults, and runs that can be repeated.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tcpstack::{
    CloseReason, ConnectionId, Event, Instant, OpenError, RecvError, SendError, SimAttempts,
    SimNetwork, SimOptions, SimPath, SimTransport, Transport,
};

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const USER_TIMEOUT: Duration = Duration::from_secs(5);

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let first = echo_run(1);
    assert_eq!(first, echo_run(1));
    assert_ne!(first.0, echo_run(2).0);
}

#[test]
fn the_content_is_part_of_the_trace() {
    let hash = |content: &[u8]| {
        let mut pair = Pair::new(1, steady());
        pair.send(0, content);
        pair.settle();
        pair.network.trace_hash()
    };
    assert_eq!(hash(b"250 ok"), hash(b"250 ok"));
    assert_ne!(hash(b"250 ok"), hash(b"250 oK"));
}

#[test]
fn a_partition_holds_bytes_back_and_delivers_them_after_it_heals() {
    let mut pair = Pair::new(1, steady());
    pair.network.partition(A, B);
    pair.send(0, b"to b");
    pair.send(1, b"to a");
    pair.run_for(Duration::from_secs(3));
    assert_eq!((pair.receive(0), pair.receive(1)), (vec![], vec![]));
    pair.network.heal(A, B);
    pair.settle();
    assert_eq!((pair.receive(0), pair.receive(1)), (b"to a".to_vec(), b"to b".to_vec()));
    assert_eq!(pair.closed, []);
}

#[test]
fn a_one_way_partition_stops_one_direction() {
    let mut pair = Pair::new(1, SimOptions { user_timeout: None, ..steady() });
    pair.network.partition_one_way(A, B);
    pair.send(0, b"to b");
    pair.send(1, b"to a");
    pair.settle();
    assert_eq!((pair.receive(0), pair.receive(1)), (b"to a".to_vec(), vec![]));
    pair.network.heal_all();
    pair.settle();
    assert_eq!(pair.receive(1), b"to b");
}

#[test]
fn a_partition_beyond_the_user_time_out_ends_the_sender_and_then_the_peer() {
    let mut pair = Pair::new(1, steady());
    pair.network.partition(A, B);
    pair.send(0, b"lost");
    pair.run_for(USER_TIMEOUT - Duration::from_millis(1));
    assert_eq!(pair.closed, []);
    pair.run_for(Duration::from_millis(2));
    assert_eq!(pair.closed, [(0, CloseReason::TimedOut)]);
    pair.network.heal_all();
    pair.settle();
    // The peer has not sent anything, so it does not know.
    assert_eq!(pair.closed, [(0, CloseReason::TimedOut)]);
    assert_eq!(pair.receive(1), b"", "nobody repeats what the dead end had sent");
    pair.send(1, b"anyone?");
    pair.settle();
    assert_eq!(pair.closed[1..], [(1, CloseReason::Reset)]);
    assert_eq!(pair.network.connection_count(), 0);
}

#[test]
fn an_unacknowledged_send_times_out_although_it_arrived() {
    let mut pair = Pair::new(1, steady());
    pair.network.partition_one_way(B, A);
    pair.send(0, b"arrives");
    pair.run_for(USER_TIMEOUT * 2);
    assert_eq!(pair.receive(1), b"arrives");
    assert_eq!(pair.closed, [(0, CloseReason::TimedOut)]);
}

#[test]
fn a_crashed_host_is_silent_until_the_user_time_out() {
    let mut pair = Pair::new(1, steady());
    pair.network.crash_host(B);
    assert!(!pair.network.is_up(B));
    assert_eq!(pair.try_send(1, b"x"), Err(SendError::Gone));
    let listened = pair.ends[1].listen(SocketAddr::new(B, 26));
    assert!(matches!(listened, Err(OpenError::Address(_))));
    pair.run_for(USER_TIMEOUT * 10);
    assert_eq!(pair.closed, [], "half open: who says nothing learns nothing");
    pair.send(0, b"anyone?");
    pair.run_for(USER_TIMEOUT + Duration::from_millis(1));
    assert_eq!(pair.closed, [(0, CloseReason::TimedOut)]);
    assert_eq!(pair.network.connection_count(), 0);
}

#[test]
fn a_restarted_host_answers_old_connections_with_a_reset() {
    let mut pair = Pair::new(1, steady());
    pair.network.crash_host(B);
    pair.send(0, b"anyone?");
    pair.settle();
    assert_eq!(pair.closed, []);
    pair.network.restart_host(B);
    pair.settle();
    assert_eq!(pair.closed, [(0, CloseReason::Reset)]);
    // The new transport has the address, and room for new connections.
    pair.ends[1] = pair.network.host(B);
    pair.connect();
    pair.send(0, b"again");
    pair.settle();
    assert_eq!(pair.receive(1), b"again");
}

#[test]
fn a_connect_to_a_silent_host_times_out_and_to_a_live_one_is_refused() {
    let network = SimNetwork::new(1, steady());
    let mut a = network.host(A);
    let b = network.host(B);
    let refused = a.connect(network.now(), SocketAddr::new(B, 25), None).unwrap();
    let nowhere: IpAddr = Ipv4Addr::new(10, 9, 9, 9).into();
    let silent = a.connect(network.now(), SocketAddr::new(nowhere, 25), None).unwrap();
    network.advance(network.now() + Duration::from_secs(60));
    let expected = [
        Event::Closed { connection: refused, reason: CloseReason::Refused },
        Event::Closed { connection: silent, reason: CloseReason::TimedOut },
    ];
    assert_eq!(std::iter::from_fn(|| a.next_event()).collect::<Vec<_>>(), expected);
    assert_eq!(network.statistics().refused, 1);
    assert_eq!(network.next_event_at(), None);
    drop(b);
}

#[test]
fn a_process_that_dies_leaves_the_end_of_its_streams() {
    let mut pair = Pair::new(1, steady());
    pair.send(1, b"last words");
    pair.ends[1] = pair.network.host(B);
    pair.settle();
    assert_eq!(pair.receive(0), b"last words");
    let name = pair.names[0];
    assert_eq!(pair.ends[0].recv(name, |_| (0, ())), Err(RecvError::Finished));
}

#[test]
fn a_process_that_dies_with_unread_bytes_leaves_a_reset() {
    let mut pair = Pair::new(1, steady());
    pair.send(0, b"never read");
    pair.network.advance(pair.network.now() + Duration::from_millis(10));
    pair.ends[1] = pair.network.host(B);
    pair.settle();
    assert_eq!(pair.closed, [(0, CloseReason::Reset)]);
}

#[test]
fn an_ordered_reset_reaches_both_ends() {
    let mut pair = Pair::new(1, steady());
    assert_eq!(pair.network.reset_connections(B, A), 1);
    pair.settle();
    assert_eq!(pair.closed, [(0, CloseReason::Reset), (1, CloseReason::Reset)]);
    assert_eq!(pair.network.reset_connections(A, B), 0);
}

#[test]
fn drawn_resets_happen() {
    let mut pair = Pair::new(1, SimOptions { reset_ppm: 500_000, ..steady() });
    for _ in 0..20 {
        if pair.closed.is_empty() {
            pair.send(0, b"x");
            pair.settle();
        }
    }
    pair.settle();
    assert_eq!(pair.closed.len(), 2);
    assert_eq!(pair.network.statistics().resets, 2);
}

#[test]
fn connections_that_are_lost_end_by_time_out_where_something_is_sent_and_nowhere_else() {
    let mut pair = Pair::new(1, steady());
    pair.send(0, b"on its way");
    assert_eq!(pair.network.lose_connections(B, A), 1);
    pair.run_for(2 * USER_TIMEOUT);
    assert_eq!(pair.closed, [(0, CloseReason::TimedOut)]);
    assert_eq!(pair.receive(1), b"");
    pair.ends[1].abort(pair.names[1]);
    pair.settle();
    assert_eq!((pair.network.connection_count(), pair.network.statistics().lost), (0, 1));
}

#[test]
fn an_attempt_to_connect_is_lost_without_notice() {
    let mut pair = Pair::new(1, steady());
    let lost_ppm = 1_000_000;
    pair.network.set_attempts(SimAttempts { lost_ppm, ..SimAttempts::default() });
    let address = SocketAddr::new(B, 25);
    let name = pair.ends[0].connect(pair.network.now(), address, None).unwrap();
    pair.ends[0].close(name);
    pair.ends[0].connect(pair.network.now(), address, None).unwrap();
    pair.run_for(steady().connect_timeout);
    assert_eq!(pair.closed, [(0, CloseReason::TimedOut)]);
    assert_eq!(pair.network.statistics().accepted, 1, "that of the beginning");
}

#[test]
fn an_attempt_that_comes_late_succeeds_for_an_opener_that_may_have_given_up() {
    let late = SimAttempts { late_ppm: 1_000_000, late_max: Duration::from_secs(60), lost_ppm: 0 };
    let (mut timed_out, mut reset) = (0, 0);
    for seed in 0..20 {
        let mut pair = Pair::new(seed, steady());
        pair.network.set_attempts(late);
        pair.ends[0].connect(pair.network.now(), SocketAddr::new(B, 25), None).unwrap();
        pair.run_for(Duration::from_secs(200));
        timed_out += pair.closed.iter().filter(|it| **it == (0, CloseReason::TimedOut)).count();
        reset += pair.closed.iter().filter(|it| **it == (1, CloseReason::Reset)).count();
        assert_eq!(pair.network.statistics().accepted, 2);
    }
    assert!((5..20).contains(&timed_out), "{timed_out} openers gave up");
    assert_eq!(reset, timed_out, "the other end hears of each");
}

#[test]
fn a_suspended_host_takes_nothing_in_and_loses_nothing() {
    let mut pair = Pair::new(1, SimOptions { user_timeout: None, ..steady() });
    pair.network.set_frozen(B, true);
    pair.send(0, b"to b");
    pair.send(1, b"sent before");
    pair.settle();
    assert_eq!((pair.receive(0), pair.receive(1)), (b"sent before".to_vec(), vec![]));
    pair.network.set_frozen(B, false);
    pair.settle();
    assert_eq!(pair.receive(1), b"to b");
}

#[test]
fn what_a_program_sends_and_takes_is_noted_on_the_port_that_is_listened_to() {
    let mut pair = Pair::new(1, steady());
    pair.network.tap(A, 25);
    pair.send(0, b"EHLO");
    pair.send(1, b"250 ok");
    pair.settle();
    pair.receive(0);
    pair.receive(1);
    let tapped = pair.network.take_tapped();
    let seen = tapped.iter().map(|it| (it.is_sent, &it.bytes[..])).collect::<Vec<_>>();
    assert_eq!(seen, [(true, &b"EHLO"[..]), (false, b"250 ok")]);
    assert!(tapped.iter().all(|it| it.local.ip() == A && it.remote == SocketAddr::new(B, 25)));
    assert_eq!(pair.network.take_tapped(), []);
    pair.network.tap(B, 26);
    pair.send(1, b"250 again");
    assert_eq!(pair.network.take_tapped(), [], "another port");
}

#[test]
fn a_slow_path_delays_one_direction() {
    let mut pair = Pair::new(1, steady());
    let slow = SimPath { delay: Duration::from_secs(1), jitter: Duration::ZERO };
    pair.network.set_path(A, B, Some(slow));
    pair.send(0, b"slow");
    pair.run_for(Duration::from_millis(999));
    assert_eq!(pair.receive(1), b"");
    pair.run_for(Duration::from_millis(2));
    assert_eq!(pair.receive(1), b"slow");
    pair.network.set_path(A, B, None);
    pair.send(0, b"fast");
    pair.run_for(Duration::from_millis(1));
    assert_eq!(pair.receive(1), b"fast");
}

#[test]
fn connections_overtake_each_other_and_bytes_of_one_do_not() {
    let mut overtaken = false;
    for seed in 0..50 {
        let network = SimNetwork::new(seed, SimOptions::default());
        let (mut a, mut b) = (network.host(A), network.host(B));
        b.listen(SocketAddr::new(B, 25)).unwrap();
        let first = a.connect(network.now(), SocketAddr::new(B, 25), None).unwrap();
        let second = a.connect(network.now(), SocketAddr::new(B, 25), None).unwrap();
        network.advance(Instant::from_nanos(1_000_000));
        let order: Vec<Event> = std::iter::from_fn(|| a.next_event()).collect();
        assert!(order.len() == 2 && order.contains(&Event::Connected(first)));
        overtaken |= order[0] == Event::Connected(second);
    }
    assert!(overtaken);
}

#[test]
fn bytes_arrive_in_odd_pieces() {
    let options = SimOptions { split_ppm: 1_000_000, join_ppm: 100_000, ..steady() };
    let mut pair = Pair::new(3, options);
    pair.send(0, &[b'x'; 1000]);
    pair.settle();
    let mut lengths = Vec::new();
    let name = pair.names[1];
    while let Ok(length) = pair.ends[1].recv(name, |bytes| (bytes.len(), bytes.len())) {
        lengths.push(length);
    }
    assert_eq!(lengths.iter().sum::<usize>(), 1000);
    assert!(lengths.len() > 1, "{lengths:?}");
}

#[test]
fn transports_on_one_host_share_its_ports_and_its_fate() {
    let network = SimNetwork::new(1, steady());
    let second_segment: IpAddr = Ipv4Addr::new(10, 1, 0, 1).into();
    let mut links = network.host_with(&[A, second_segment]);
    let mut mail = network.host(A);
    links.listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 25)).unwrap();
    assert!(mail.listen(SocketAddr::new(A, 25)).is_err(), "the other one has the port");
    let elsewhere = mail.listen(SocketAddr::new(B, 25));
    assert!(elsewhere.is_err(), "that address is not ours");
    let to_itself = mail.connect(network.now(), SocketAddr::new(second_segment, 25), None).unwrap();
    network.advance(Instant::from_nanos(10_000_000));
    assert_eq!(mail.next_event(), Some(Event::Connected(to_itself)));
    assert!(matches!(links.next_event(), Some(Event::Accepted { .. })));
    network.crash_host(second_segment);
    assert_eq!(mail.send(to_itself, &[IoSlice::new(b"x")]), Err(SendError::Gone));
    assert_eq!(network.connection_count(), 0);
}

/// A run with some of everything; its hash and its counts.
fn echo_run(seed: u64) -> (u64, tcpstack::SimStatistics) {
    let mut pair = Pair::new(seed, SimOptions { user_timeout: None, ..SimOptions::default() });
    for round in 0..50 {
        pair.send(0, &vec![b'q'; 1 + round * 13]);
        pair.settle();
        let heard = pair.receive(1);
        pair.send(1, &heard);
        if round == 20 {
            pair.network.partition_one_way(A, B);
        }
        if round == 22 {
            pair.network.heal_all();
        }
        pair.settle();
        pair.receive(0);
    }
    let statistics = pair.network.statistics();
    assert!(statistics.bytes > 10_000 && statistics.stalls > 0, "{statistics:?}");
    (pair.network.trace_hash(), statistics)
}

/// No draws that a test would have to allow for.
fn steady() -> SimOptions {
    SimOptions { short_send_ppm: 0, user_timeout: Some(USER_TIMEOUT), ..SimOptions::default() }
}

/// A connection from A to B; 0 is the end at A.
struct Pair {
    network: SimNetwork,
    ends: [SimTransport; 2],
    names: [ConnectionId; 2],
    closed: Vec<(usize, CloseReason)>,
}

impl Pair {
    fn new(seed: u64, options: SimOptions) -> Pair {
        let network = SimNetwork::new(seed, options);
        let ends = [network.host(A), network.host(B)];
        let nobody = ConnectionId { index: 0, generation: 0 };
        let mut pair = Pair { network, ends, names: [nobody; 2], closed: Vec::new() };
        pair.connect();
        pair
    }

    fn connect(&mut self) {
        let address = SocketAddr::new(B, 25);
        self.ends[1].listen(address).unwrap();
        self.names[0] = self.ends[0].connect(self.network.now(), address, None).unwrap();
        self.network.advance(self.network.now() + Duration::from_millis(10));
        while let Some(event) = self.ends[1].next_event() {
            if let Event::Accepted { connection, .. } = event {
                self.names[1] = connection;
            }
        }
        self.settle();
    }

    fn try_send(&mut self, end: usize, bytes: &[u8]) -> Result<usize, SendError> {
        self.ends[end].send(self.names[end], &[IoSlice::new(bytes)])
    }

    fn send(&mut self, end: usize, bytes: &[u8]) {
        let mut sent = 0;
        while sent < bytes.len() {
            sent += self.try_send(end, &bytes[sent..]).unwrap();
        }
    }

    fn receive(&mut self, end: usize) -> Vec<u8> {
        let mut received = Vec::new();
        let name = self.names[end];
        while let Ok(piece) = self.ends[end].recv(name, |bytes| (bytes.len(), bytes.to_vec())) {
            received.extend_from_slice(&piece);
        }
        received
    }

    fn run_for(&mut self, duration: Duration) {
        self.network.advance(self.network.now() + duration);
        self.collect();
    }

    /// Long enough for everything but time-outs.
    fn settle(&mut self) {
        self.run_for(Duration::from_secs(1));
    }

    fn collect(&mut self) {
        for end in [0, 1] {
            self.ends[end].poll(self.network.now());
            while let Some(event) = self.ends[end].next_event() {
                if let Event::Closed { reason, .. } = event {
                    self.closed.push((end, reason));
                }
            }
        }
    }
}

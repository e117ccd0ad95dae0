//! Links over a simulated network, with a server that has two workers and two addresses.

pub(crate) mod server;

use std::collections::BTreeSet;

use bytes::Bytes;
use kvs_proto::{Epoch, Message, MessageId, Sequence};
use tcpstack::{SimNetwork, SimOptions, SimPath, SimTransport};

use self::server::Server;
use super::*;
use crate::replication::request::{Answer, Changing};

const PORT: u16 = 7000;
const QUEUE: QueueIndex = QueueIndex(3);

fn ours(segment: u8) -> IpAddr {
    [10, segment, 0, 1].into()
}

fn theirs(segment: u8) -> IpAddr {
    [10, segment, 1, 1].into()
}

pub(crate) fn settings() -> LinkSettings {
    LinkSettings {
        message_size_max: 1000,
        server: "a".into(),
        address: (theirs(0), PORT).into(),
        local: Some(ours(0)),
        standby: None,
        account: "gw".into(),
        secret: Secret::new(b"secret"),
        heart_beat: Duration::from_millis(500),
        version_max: Version::CURRENT,
        lease: Duration::from_secs(60),
        deadline: Duration::from_secs(2),
        path_deadline: Duration::from_millis(300),
        hedge_after: Duration::from_millis(10),
    }
}

/// What the link said, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Said {
    Up(u64),
    Down,
    Gone,
    Attached(u64),
    Acknowledged(u64),
    ByStandby(u64),
    Other(String),
}

struct Bench {
    network: SimNetwork,
    links: Links<SimTransport>,
    server: Server,
    now: Instant,
    said: Vec<(Instant, Said)>,
    /// What is late goes the other way as well.
    late: Option<Request>,
    /// When the link last went down, and since when it had been silent.
    down: (Instant, Instant),
}

impl Bench {
    /// A link with two paths, both up, the first active.
    fn new() -> Bench {
        let standby = Some((SocketAddr::from((theirs(1), PORT)), Some(ours(1))));
        let mut bench = Bench::with(LinkSettings { standby, ..settings() });
        bench.cut(1, Ways::Both);
        bench.run(Duration::from_millis(50));
        bench.network.heal(ours(1), theirs(1));
        bench.run(Duration::from_millis(250));
        assert_eq!(bench.take_said(), [Said::Up(1)]);
        assert_eq!(bench.paths(), [PathState::Run, PathState::Ready]);
        bench
    }

    fn with(settings: LinkSettings) -> Bench {
        let path = SimPath { delay: Duration::from_micros(50), jitter: Duration::from_micros(50) };
        let network =
            SimNetwork::new(5, SimOptions { path, short_send_ppm: 0, ..SimOptions::default() });
        let transport = network.host_with(&[ours(0), ours(1)]);
        let links = Links::new(transport, vec![settings], 1);
        let at = |segment, port| SocketAddr::from((theirs(segment), port));
        let addresses = [at(0, PORT), at(1, PORT), at(0, PORT + 1), at(1, PORT + 1)];
        let server = Server::new(network.host_with(&[theirs(0), theirs(1)]), &addresses);
        let now = Instant::from_nanos(1_000_000_000);
        network.advance(now);
        Bench { network, links, server, now, said: Vec::new(), late: None, down: (now, now) }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.turn();
            let next = [self.network.next_event_at(), self.links.next_deadline()];
            let next = next.into_iter().flatten().fold(until, Instant::min);
            // A turn takes a while.
            self.now = next.max(self.now + Duration::from_micros(20)).min(until);
            self.network.advance(self.now);
        }
    }

    fn turn(&mut self) {
        let (said, now) = (&mut self.said, self.now);
        let (late, down) = (&mut self.late, &mut self.down);
        self.links.turn(now, |links, event| {
            let it = match event {
                LinkEvent::Up(_, life) => Said::Up(life.0),
                LinkEvent::Down(_, since) => {
                    *down = (now, since);
                    Said::Down
                }
                LinkEvent::Gone(_) => Said::Gone,
                LinkEvent::Late(place) => {
                    let link = &mut links[place];
                    if link.can_hedge(QUEUE)
                        && let Some(request) = late.take()
                    {
                        link.hedge(request);
                    }
                    return;
                }
                LinkEvent::Reply(_, Reply { answer, .. }) => match answer {
                    Answer::Attached { standing, .. } => Said::Attached(standing.sequence.0),
                    Answer::Acknowledged { sequence, .. } => Said::Acknowledged(sequence.0),
                    Answer::AcknowledgedByStandby { sequence, .. } => Said::ByStandby(sequence.0),
                    other => Said::Other(format!("{other:?}")),
                },
            };
            said.push((now, it));
        });
        self.server.turn(now);
        self.links.flush(now);
    }

    fn take_said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said).into_iter().map(|(_, said)| said).collect()
    }

    fn paths(&self) -> [PathState; 2] {
        self.links.counters().next().unwrap().paths
    }

    fn counters(&self) -> (u64, u64) {
        let counters = self.links.counters().next().unwrap();
        (counters.switches, counters.hedges)
    }

    fn send(&mut self, ask: Ask) {
        self.turn();
        self.links.links_mut()[0].send(request(ask));
        self.links.flush(self.now);
    }

    fn attach(&mut self) {
        self.send(Ask::Attach { name: "gw/q".into() });
        self.run(Duration::from_millis(5));
        assert!(matches!(self.take_said()[..], [Said::Attached(_)]));
    }

    /// Cuts a segment, or a direction of it.
    fn cut(&mut self, segment: u8, ways: Ways) {
        if ways != Ways::Back {
            self.network.partition_one_way(ours(segment), theirs(segment));
        }
        if ways != Ways::There {
            self.network.partition_one_way(theirs(segment), ours(segment));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Ways {
    Both,
    There,
    Back,
}

fn request(ask: Ask) -> Request {
    Request { queue: QUEUE, epoch: Epoch(1), ask }
}

/// Of another queue.
fn other_request(ask: Ask) -> Request {
    Request { queue: QueueIndex(QUEUE.0 + 1), epoch: Epoch(1), ask }
}

fn store(sequence: u64) -> Ask {
    let body = Message::new(Bytes::new(), Bytes::from_static(b"mail"));
    let change = Changing::Store(MessageId(sequence), body);
    Ask::Change { sequence: Sequence(sequence), floor: Sequence(1), change }
}

#[test]
fn when_the_active_path_ends_the_other_takes_over_in_the_same_turn() {
    let mut bench = Bench::new();
    bench.attach();
    assert_eq!(bench.server.queue("gw/q").1, 1);
    bench.network.reset_connections(ours(0), theirs(0));
    bench.run(Duration::from_millis(1));
    let [(down_at, Said::Down), (up_at, Said::Up(1))] = bench.said[..] else {
        panic!("{:?}", bench.said)
    };
    assert_eq!(down_at, up_at);
    bench.take_said();
    assert_eq!(bench.paths(), [PathState::Ng, PathState::Run]);
    bench.attach();
    assert_eq!(bench.server.queue("gw/q").1, 2, "the old connection's rights are over");
    assert_eq!(bench.counters(), (1, 0));
}

#[test]
fn a_silent_path_is_left_after_its_deadline_whichever_direction_is_dead() {
    for ways in [Ways::Both, Ways::There, Ways::Back] {
        let mut bench = Bench::new();
        bench.attach();
        bench.cut(0, ways);
        bench.send(store(1));
        let cut_at = bench.now;
        bench.run(Duration::from_millis(400));
        let [(down_at, Said::Down), (_, Said::Up(1))] = bench.said[..] else {
            panic!("{ways:?}: {:?}", bench.said)
        };
        let took = down_at - cut_at;
        assert!(
            took >= Duration::from_millis(300) && took < Duration::from_millis(320),
            "{took:?}"
        );
    }
}

#[test]
fn a_path_that_dies_while_nothing_is_asked_is_found_by_heart_beats() {
    let mut bench = Bench::new();
    bench.cut(0, Ways::Both);
    bench.run(Duration::from_millis(850));
    assert_eq!(bench.take_said(), [Said::Down, Said::Up(1)]);
}

#[test]
fn a_standby_path_that_dies_is_no_event() {
    let mut bench = Bench::new();
    bench.cut(1, Ways::Both);
    bench.run(Duration::from_secs(1));
    assert_eq!(bench.paths(), [PathState::Run, PathState::Ng]);
    bench.network.heal(ours(1), theirs(1));
    bench.run(Duration::from_secs(5));
    assert_eq!(bench.paths(), [PathState::Run, PathState::Ready]);
    assert_eq!(bench.take_said(), []);
}

#[test]
fn a_server_that_answers_by_neither_path_has_until_the_link_s_deadline() {
    let mut bench = Bench::new();
    bench.attach();
    bench.server.is_stopped = true;
    bench.send(store(1));
    bench.run(Duration::from_millis(1900));
    assert_eq!(bench.take_said(), []);
    bench.server.is_stopped = false;
    bench.run(Duration::from_millis(50));
    assert_eq!(bench.take_said(), [Said::Acknowledged(1)]);
    bench.server.is_stopped = true;
    bench.send(store(2));
    bench.run(Duration::from_millis(2600));
    assert_eq!(bench.take_said(), [Said::Down], "both are silent");
    assert_eq!(bench.counters(), (0, 0));
}

#[test]
fn a_path_that_returns_stands_by_and_takes_nothing_over() {
    let mut bench = Bench::new();
    bench.network.reset_connections(ours(0), theirs(0));
    bench.run(Duration::from_millis(100));
    bench.take_said();
    assert_eq!(bench.paths(), [PathState::Ng, PathState::Run], "not for long enough yet");
    bench.run(Duration::from_secs(10));
    assert_eq!(bench.paths(), [PathState::Ready, PathState::Run]);
    assert_eq!(bench.take_said(), []);
}

#[test]
fn requests_do_not_move_to_a_path_that_has_just_returned_but_for_want_of_another() {
    let mut bench = Bench::new();
    bench.attach();
    for segment in [0, 1, 0] {
        bench.network.reset_connections(ours(segment), theirs(segment));
        bench.run(Duration::from_millis(100));
    }
    bench.take_said();
    bench.attach();
    bench.cut(1, Ways::Both);
    bench.send(store(1));
    bench.run(Duration::from_millis(800));
    assert_eq!(bench.take_said(), [], "the deadline of the path is over, the pause is not");
    bench.run(Duration::from_millis(400));
    assert_eq!(bench.take_said(), [Said::Down, Said::Up(1)]);
    assert_eq!(bench.counters().0, 4);
    // Again, and now the pause is longer; but a path that ends leaves no choice.
    bench.network.heal(ours(1), theirs(1));
    bench.run(Duration::from_millis(500));
    bench.network.reset_connections(ours(0), theirs(0));
    bench.run(Duration::from_millis(1));
    assert_eq!(bench.take_said(), [Said::Down, Said::Up(1)]);
}

#[test]
fn a_path_that_meets_another_life_does_not_stand_by_and_the_active_one_goes_on() {
    let mut bench = Bench::new();
    bench.attach();
    bench.server.lives.insert((theirs(1), PORT).into(), 2);
    bench.network.reset_connections(ours(1), theirs(1));
    bench.run(Duration::from_secs(5));
    assert_eq!(bench.take_said(), []);
    assert_eq!(bench.paths(), [PathState::Run, PathState::Ng]);
    // The server that the active path knew is gone without a word.
    bench.cut(0, Ways::Both);
    bench.run(Duration::from_millis(2600));
    assert_eq!(bench.take_said(), [Said::Down, Said::Up(2)]);
}

#[test]
fn what_is_late_is_answered_by_the_other_path_and_the_late_answer_comes_too() {
    let mut bench = Bench::new();
    bench.attach();
    bench.cut(0, Ways::Back);
    bench.send(store(1));
    bench.late = Some(request(store(1)));
    bench.run(Duration::from_millis(20));
    assert_eq!(bench.take_said(), [Said::ByStandby(1)]);
    assert_eq!(bench.server.queue("gw/q"), (1, 1), "once, and nobody lost a right");
    bench.network.heal(ours(0), theirs(0));
    bench.run(Duration::from_millis(250));
    assert_eq!(bench.take_said(), [Said::Acknowledged(1)]);
    assert_eq!(bench.counters(), (0, 1));
}

impl Bench {
    /// A segment becomes ever slower, so that it is never silent, while there is something to ask.
    fn slow_down(&mut self, segments: &[u8]) {
        self.attach();
        for sequence in 1..=60 {
            let delay = Duration::from_millis(sequence.min(40) * 20);
            for segment in segments {
                let path = Some(SimPath { delay, jitter: Duration::from_micros(1) });
                self.network.set_path(ours(*segment), theirs(*segment), path);
                self.network.set_path(theirs(*segment), ours(*segment), path);
            }
            self.turn();
            if self.counters().0 == 0 {
                self.send(store(sequence));
            }
            self.run(Duration::from_millis(50));
        }
    }
}

/// Its answers would renew no lease in time, however many hedges are answered.
#[test]
fn a_path_that_is_never_silent_but_too_slow_is_left_and_not_if_both_are() {
    let mut bench = Bench::new();
    bench.slow_down(&[0]);
    assert_eq!(bench.counters().0, 1);
    assert_eq!(bench.paths()[1], PathState::Run);
    let answered = bench.links.links_mut()[0].answered_since().unwrap();
    assert!(bench.now.saturating_since(answered) < Duration::from_millis(600));
    let mut bench = Bench::new();
    bench.slow_down(&[0, 1]);
    assert_eq!(bench.counters().0, 0);
    assert_eq!(bench.paths()[0], PathState::Run);
}

#[test]
fn nothing_is_late_that_is_answered_in_time() {
    let mut bench = Bench::new();
    bench.attach();
    bench.late = Some(request(store(1)));
    bench.send(store(1));
    bench.run(Duration::from_secs(3));
    assert_eq!(bench.take_said(), [Said::Acknowledged(1)]);
    assert_eq!(bench.counters(), (0, 0));
}

#[test]
fn answers_about_a_queue_that_was_attached_anew_since_do_not_count() {
    let mut bench = Bench::new();
    bench.attach();
    bench.cut(0, Ways::Both);
    let slow = SimPath { delay: Duration::from_millis(50), jitter: Duration::ZERO };
    bench.network.set_path(theirs(1), ours(1), Some(slow));
    bench.send(store(1));
    bench.late = Some(request(store(1)));
    bench.run(Duration::from_millis(30));
    assert_eq!(bench.counters(), (0, 1));
    bench.send(Ask::Attach { name: "gw/q".into() });
    bench.run(Duration::from_millis(100));
    assert_eq!(bench.take_said(), []);
}

#[test]
fn a_hedge_s_answers_count_as_the_active_path_s_once_that_is_what_it_is() {
    let mut bench = Bench::new();
    bench.attach();
    let slow = SimPath { delay: Duration::from_millis(50), jitter: Duration::ZERO };
    bench.network.set_path(theirs(1), ours(1), Some(slow));
    bench.cut(0, Ways::Both);
    bench.send(store(1));
    bench.late = Some(request(store(1)));
    bench.run(Duration::from_millis(30));
    bench.network.reset_connections(ours(0), theirs(0));
    bench.run(Duration::from_millis(1));
    bench.send(Ask::Attach { name: "gw/q".into() });
    bench.run(Duration::from_millis(200));
    // The answer to the hedge's attachment is none to this one.
    let expected = [Said::Down, Said::Up(1), Said::Acknowledged(1), Said::Attached(1)];
    assert_eq!(bench.take_said(), expected);
}

#[test]
fn both_paths_go_to_each_worker_and_a_switch_knows_where_queues_live() {
    let mut bench = Bench::new();
    bench.server.ports.insert("gw/q".into(), PORT + 1);
    bench.attach();
    bench.run(Duration::from_millis(20));
    let at = |segment, port| SocketAddr::from((theirs(segment), port));
    let all = [at(0, PORT), at(0, PORT + 1), at(1, PORT), at(1, PORT + 1)];
    assert_eq!(bench.server.connected(), all);
    assert_eq!(bench.paths(), [PathState::Run, PathState::Ready]);
    // A hedge goes there, too.
    bench.cut(0, Ways::Both);
    bench.send(store(1));
    bench.late = Some(request(store(1)));
    bench.run(Duration::from_millis(350));
    assert_eq!(bench.take_said(), [Said::ByStandby(1), Said::Down, Said::Up(1)]);
    bench.attach();
    assert_eq!(bench.server.wrong_workers, 1, "asked at the wrong one once");
}

#[test]
fn a_path_that_is_silent_at_several_workers_is_left_after_the_same_time() {
    let mut bench = Bench::new();
    bench.server.ports.insert("gw/q".into(), PORT + 1);
    bench.attach();
    bench.links.links_mut()[0].send(other_request(Ask::Attach { name: "gw/other".into() }));
    bench.run(Duration::from_millis(20));
    bench.take_said();
    bench.cut(0, Ways::Both);
    bench.send(store(1));
    bench.run(Duration::from_millis(40));
    bench.turn();
    bench.links.links_mut()[0].send(other_request(store(1)));
    bench.run(Duration::from_millis(280));
    assert_eq!(bench.take_said(), [Said::Down, Said::Up(1)]);
}

#[test]
fn a_stall_of_our_own_is_not_held_against_a_path() {
    let mut bench = Bench::new();
    bench.attach();
    bench.cut(0, Ways::Both);
    bench.send(store(1));
    bench.late = Some(request(store(1)));
    bench.now += Duration::from_millis(900);
    bench.network.heal(ours(0), theirs(0));
    bench.network.advance(bench.now);
    bench.run(Duration::from_millis(5));
    assert_eq!(bench.counters(), (0, 0), "neither left nor hedged at once");
    bench.late = None;
    bench.run(Duration::from_millis(295));
    assert_eq!(bench.take_said(), [Said::Acknowledged(1)]);
    assert_eq!(bench.counters(), (0, 0));
}

#[test]
fn a_link_with_one_path_has_none_to_count_and_is_up_and_down_with_it() {
    let mut bench = Bench::with(settings());
    bench.run(Duration::from_millis(50));
    assert_eq!(bench.take_said(), [Said::Up(1)]);
    bench.attach();
    assert!(bench.links.counters().next().is_none());
    bench.network.reset_connections(ours(0), theirs(0));
    bench.run(Duration::from_millis(50));
    assert_eq!(bench.take_said(), [Said::Down, Said::Up(1)]);
    bench.attach();
    assert_eq!(bench.server.queue("gw/q").1, 2);
}

#[test]
fn a_link_that_goes_down_for_silence_tells_since_when_it_was_silent() {
    let mut bench = Bench::with(settings());
    bench.run(Duration::from_millis(50));
    assert_eq!(bench.take_said(), [Said::Up(1)]);
    bench.attach();
    let cut_at = bench.now;
    bench.cut(0, Ways::Both);
    bench.run(Duration::from_secs(5));
    assert_eq!(bench.take_said(), [Said::Down]);
    let (at, since) = bench.down;
    assert!(since <= cut_at, "nothing was heard since");
    assert!(at >= since + settings().deadline, "it had its time");

    bench.network.heal(ours(0), theirs(0));
    bench.run(Duration::from_secs(5));
    assert_eq!(bench.take_said(), [Said::Up(1)]);
    bench.network.reset_connections(ours(0), theirs(0));
    bench.run(Duration::from_millis(50));
    assert_eq!(bench.take_said(), [Said::Down, Said::Up(1)]);
    assert_eq!(bench.down.0, bench.down.1, "it was not silent before it ended");
}

#[test]
fn only_the_answer_to_the_newest_attachment_is_one() {
    let mut bench = Bench::with(settings());
    bench.run(Duration::from_millis(50));
    assert_eq!(bench.take_said(), [Said::Up(1)]);
    for _ in 0..2 {
        bench.send(Ask::Attach { name: "gw/q".into() });
    }
    bench.run(Duration::from_millis(5));
    assert!(
        matches!(bench.take_said()[..], [Said::Attached(_)]),
        "two were asked for, one is waited for"
    );
}

#[test]
fn a_server_whose_process_has_ended_is_gone_once_no_path_finds_a_listener() {
    let mut bench = Bench::new();
    bench.attach();
    bench.cut(1, Ways::Both);
    bench.run(Duration::from_secs(5));
    assert_eq!(bench.take_said(), []);
    bench.server.end();
    bench.run(Duration::from_millis(200));
    assert_eq!(bench.take_said(), [Said::Down], "it may be there still for the other path");
    bench.network.heal(ours(1), theirs(1));
    bench.run(Duration::from_secs(5));
    let said = bench.take_said();
    assert!(!said.is_empty() && said.iter().all(|it| *it == Said::Gone), "{said:?}");
}

fn link(heart_beat: Duration) -> Link {
    Link::new(LinkSettings { heart_beat, ..settings() })
}

#[test]
fn a_dead_server_is_found_out_by_turns_that_come_only_when_they_are_due() {
    for heart_beat in [1, 10, 500, 1900].map(Duration::from_millis) {
        let mut link = link(heart_beat);
        let begin = Instant::from_nanos(1_000_000_000);
        link.note_time(begin);
        let mut lane = Lane::new(link.settings.address);
        let connection = ConnectionId { index: 0, generation: 0 };
        lane.begin(begin, connection, &link.settings, [0; NONCE_SIZE_BYTES]);
        link.paths[0].lanes.push(lane);
        let mut now = begin;
        let is_silent = |link: &Link, now| {
            link.paths[0].lanes[0]
                .silent_since(now, &link.settings, link.awake.link_since)
                .is_some()
        };
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
    let mut link = link(heart_beat);
    let begin = Instant::from_nanos(1);
    link.note_time(begin);
    link.note_time(begin + heart_beat * 2);
    assert_eq!(link.awake.link_since, Instant::ZERO);
    let back = begin + heart_beat * 9;
    link.note_time(back);
    assert_eq!(link.awake.link_since, back);
}

#[test]
fn a_server_that_is_taken_away_and_comes_back_knows_its_owner_again() {
    let mut bench = Bench::new();
    bench.attach();
    bench.cut(0, Ways::Both);
    bench.run(Duration::from_secs(2));
    bench.take_said();
    bench.attach();
    bench.network.heal(ours(0), theirs(0));
    bench.links.retain(|_| false);
    bench.run(Duration::from_secs(1));
    bench.links.add(settings(), &BTreeSet::new());
    bench.run(Duration::from_secs(1));
    assert!(matches!(bench.take_said()[..], [Said::Up(_)]));
    bench.attach();
}

#[test]
fn a_link_that_is_let_go_is_closed_and_its_place_is_another_one_s_when_nobody_uses_it() {
    let mut bench = Bench::new();
    bench.take_said();
    let other = LinkSettings { server: "b".into(), ..settings() };
    bench.links.add(other, &BTreeSet::new());
    assert_eq!(bench.links.place_of_server("b"), Some(1));
    bench.links.retain(|server| server == "b");
    assert_eq!(bench.links.place_of_server("a"), None);
    assert_eq!(bench.links.states()[0].path, PathState::Ng);
    bench.send(store(1));
    bench.run(Duration::from_secs(3));
    assert!(matches!(bench.take_said()[..], [Said::Up(_)]), "of b: nothing is heard of a any more");
    bench.links.add(settings(), &[0, 1].into());
    assert_eq!(bench.links.place_of_server("a"), Some(2), "a cohort still has a member there");
    bench.links.add(LinkSettings { server: "c".into(), ..settings() }, &[1, 2].into());
    assert_eq!(bench.links.place_of_server("c"), Some(0), "nobody has");
}

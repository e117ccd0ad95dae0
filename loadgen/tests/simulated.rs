//! The SMTP load and the sink over the simulated network, in virtual time.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use loadgen::content::{GeneratorConfig, SizeMix};
use loadgen::ledger::{Ledger, Policy, Verdict};
use loadgen::report::Percentiles;
use loadgen::sink::{Sink, SinkConfig, SinkCounts};
use loadgen::smtp::{Pace, SmtpConfig, SmtpLoad, SmtpStatistics};
use tcpstack::{Instant, SimNetwork, SimOptions};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

struct Outcome {
    sent: SmtpStatistics,
    received: SinkCounts,
    verdict: Verdict,
    trace: u64,
}

fn config(pace: Pace, sessions: usize) -> SmtpConfig {
    SmtpConfig {
        mail: GeneratorConfig {
            run: 1,
            seed: 4,
            sizes: SizeMix::only(1500),
            domains: vec!["a.example".into(), "b.example".into()],
            recipients_per_mail: 2,
            ..GeneratorConfig::default()
        },
        pace,
        sessions,
        pipelining: true,
        ahead: true,
        answer_timeout: Duration::from_secs(20),
        ..SmtpConfig::default()
    }
}

/// Runs to the end. The network is split from the first time to the second.
fn run(seed: u64, options: SimOptions, smtp: SmtpConfig, split: Option<(u64, u64)>) -> Outcome {
    let network = SimNetwork::new(seed, options);
    let ledger = Rc::new(RefCell::new(Ledger::new(Policy::default())));
    let listen = vec![(SERVER, 25).into()];
    let sink = SinkConfig { listen: listen.clone(), seed, ..SinkConfig::default() };
    let begin = network.now();
    let recorder = || Box::new(Rc::clone(&ledger));
    let mut sink = Sink::open(network.host(SERVER), sink, begin, recorder()).unwrap();
    let smtp = SmtpConfig { to: listen, ..smtp };
    let mut load = SmtpLoad::new(network.host(CLIENT), smtp, begin, recorder());
    let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
    let mut faults = split.map_or(vec![], |(from, to)| vec![(at(to), false), (at(from), true)]);
    loop {
        let now = network.now();
        if let Some((_, down)) = faults.pop_if(|&mut (when, _)| when <= now) {
            if down { network.partition(CLIENT, SERVER) } else { network.heal_all() }
        }
        let worked = load.turn(now) | sink.turn(now);
        if load.is_done(now) {
            break;
        }
        if !worked {
            let deadlines = [
                network.next_event_at(),
                load.next_deadline(now),
                sink.next_deadline(),
                faults.last().map(|&(when, _)| when),
            ];
            let next = deadlines.into_iter().flatten().min().expect("the load has deadlines");
            network.advance(next.max(now + Duration::from_nanos(1)));
        }
    }
    let sent = load.finish(network.now());
    let received = sink.finish().unwrap();
    let verdict = ledger.borrow_mut().verdict();
    Outcome { sent, received, verdict, trace: network.trace_hash() }
}

fn closed(total: u64) -> Pace {
    Pace { rate: None, total: Some(total), duration: None }
}

#[test]
fn a_run_is_repeated_bit_for_bit_from_its_seed() {
    let once = run(7, SimOptions::default(), config(closed(300), 5), None);
    let again = run(7, SimOptions::default(), config(closed(300), 5), None);
    let other = run(8, SimOptions::default(), config(closed(300), 5), None);
    assert!(once.sent.is_complete() && once.verdict.is_clean());
    assert_eq!(once.received.delivered, 600);
    assert_eq!(once.trace, again.trace);
    assert_eq!(once.sent.transaction.percentiles(), again.sent.transaction.percentiles());
    assert_ne!(once.trace, other.trace);
}

#[test]
fn resets_cost_repetitions_and_nothing_else() {
    let (mut lost, mut unknown) = (0, 0);
    for seed in 0..8 {
        let options = SimOptions { reset_ppm: 5_000, ..SimOptions::default() };
        let Outcome { sent, received, verdict, .. } =
            run(seed, options, config(closed(300), 4), None);
        assert!(sent.is_complete() && verdict.is_clean(), "{seed}: {:?}", verdict.examples);
        assert_eq!(received.altered + received.misdelivered, 0);
        lost += sent.connections_lost;
        unknown += sent.unknown;
    }
    assert!(lost > 8 && unknown > 0, "nothing happened: {lost} {unknown}");
}

#[test]
fn a_stalled_server_shows_in_the_percentiles_of_an_open_loop() {
    let rate = Some(100.0);
    let pace = Pace { rate, total: None, duration: Some(Duration::from_secs(10)) };
    let open = run(1, SimOptions::default(), config(pace, 4), Some((4, 6)));
    assert!(open.sent.is_complete() && open.verdict.is_clean());
    assert_eq!(open.sent.accepted, 1000);
    // Of the thousand, the two hundred due within the stall waited from when they were due: a tenth
    // of all for more than a second.
    let Percentiles { p50_us, p90_us, p99_us, max_us, .. } = open.sent.transaction.percentiles();
    assert!(p50_us < 10_000.0, "{p50_us}");
    assert!((900_000.0..1_400_000.0).contains(&p90_us), "{p90_us}");
    assert!(p99_us > 1_800_000.0 && max_us < 2_500_000.0, "{p99_us} {max_us}");

    // The same stall met by a closed loop of one session hits one mail: that is what it hides.
    let mut one = config(closed(20_000), 1);
    one.ahead = false;
    let hidden = run(1, SimOptions::default(), one, Some((1, 3)));
    let Percentiles { p99_us, max_us, .. } = hidden.sent.transaction.percentiles();
    assert!(p99_us < 10_000.0 && max_us > 1_900_000.0, "{p99_us} {max_us}");
}

#[test]
fn an_open_loop_over_too_few_sessions_counts_the_wait_for_one() {
    // Each mail takes some round trips of a millisecond; one session cannot keep up with 1000/s.
    let path = tcpstack::SimPath { delay: Duration::from_micros(500), jitter: Duration::ZERO };
    let options = SimOptions { path, ..SimOptions::default() };
    let pace = Pace { rate: Some(1000.0), total: Some(500), duration: None };
    let mut smtp = config(pace, 1);
    (smtp.pipelining, smtp.ahead) = (false, false);
    let sent = run(1, options, smtp, None).sent;
    let dot = sent.dot_to_250.percentiles();
    let whole = sent.transaction.percentiles();
    assert!(dot.p99_us < 10_000.0, "the server itself is fast: {}", dot.p99_us);
    assert!(whole.p99_us > 1_000_000.0, "the queue before it is long: {}", whole.p99_us);
}

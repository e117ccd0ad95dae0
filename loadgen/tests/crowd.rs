//! The crowd against a sink, and against one that throws it out.

use std::time::Duration;

use loadgen::crowd::{Crowd, CrowdConfig, CrowdCounts, Kind};
use loadgen::ledger::NoRecord;
use loadgen::sink::{Fault, Faults, Phase, Sink, SinkConfig};
use tcpstack::{Clock, KernelOptions, KernelTransport};

/// Runs both until the crowd has counted enough. The seed is for the sink's faults.
fn run(faults: Faults, seed: u64, is_enough: impl Fn(&CrowdCounts) -> bool) -> CrowdCounts {
    let transport = || KernelTransport::new(KernelOptions::default()).unwrap();
    let clock = Clock::new();
    let begin = clock.now();
    let sink = SinkConfig { faults, seed, ..SinkConfig::default() };
    let mut sink = Sink::open(transport(), sink, begin, Box::new(NoRecord)).unwrap();
    let kinds = [Kind::Idle, Kind::Idle, Kind::SlowCommand, Kind::SlowData];
    let config = CrowdConfig {
        to: sink.addresses(),
        locals: vec!["127.0.0.2".parse().unwrap(), "127.0.0.3".parse().unwrap()],
        members: (0..40).map(|place| kinds[place % 4]).collect(),
        interval: Duration::from_millis(5),
        connects_per_s: 10_000,
        pause: Duration::from_millis(5),
        recipient: "a@b.example".into(),
    };
    let mut crowd = Crowd::new(transport(), config, begin);
    while !is_enough(crowd.counts()) {
        let now = clock.now();
        assert!(now.saturating_since(begin) < Duration::from_secs(30), "{:?}", crowd.counts());
        if !(sink.turn(now) | crowd.turn(now)) {
            crowd.wait(now, Some(now + Duration::from_millis(1)));
        }
    }
    assert_eq!(sink.counts().bad_commands, 0);
    crowd.counts().clone()
}

#[test]
fn all_are_held_by_a_server_that_lets_them() {
    let counts = run(Faults::default(), 0, |counts| counts.slow_bytes > 500);
    assert_eq!((counts.idle_held, counts.slow_held, counts.held_most), (20, 20, 40));
    assert_eq!((counts.connections, counts.closed_421), (40, 0));
}

/// Once all are in, nobody is thrown out any more. Who is thrown out before depends on the order in which
/// connections arrive, so a crowd may get in without being refused at RCPT: about one in nine does.
#[test]
fn those_thrown_out_come_back_and_say_why() {
    const CROWDS_MAX: u64 = 30;
    let faults = Faults::default()
        .with(Phase::Ehlo, Fault::Closing, 0.2)
        .with(Phase::Greeting, Fault::Drop, 0.2)
        .with(Phase::Rcpt, Fault::Permanent, 0.2);
    let all_are_in = |counts: &CrowdCounts| counts.idle_held + counts.slow_held == 40;
    let was_thrown_out_by_all_means = |counts: &CrowdCounts| {
        assert_eq!(counts.reasons.get("421 4.3.2 going away").unwrap_or(&0), &counts.closed_421);
        assert_eq!(counts.reasons.get("550 5.1.1 nobody").unwrap_or(&0), &counts.refused);
        assert!(counts.connections >= 40 + counts.closed_421 + counts.refused);
        counts.closed_421 > 0 && counts.refused > 0 && counts.closed_silently > 0
    };
    let mut crowds = (0..CROWDS_MAX).map(|seed| run(faults, seed, all_are_in));
    assert!(crowds.any(|counts| was_thrown_out_by_all_means(&counts)), "{CROWDS_MAX} crowds");
}

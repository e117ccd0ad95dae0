//! The crowd against a sink, and against one that throws it out.

use std::time::Duration;

use loadgen::crowd::{Crowd, CrowdConfig, CrowdCounts, Kind};
use loadgen::ledger::NoRecord;
use loadgen::sink::{Fault, Faults, Phase, Sink, SinkConfig};
use tcpstack::{Clock, KernelOptions, KernelTransport};

/// Runs both until the crowd has counted enough.
fn run(faults: Faults, is_enough: impl Fn(&CrowdCounts) -> bool) -> CrowdCounts {
    let transport = || KernelTransport::new(KernelOptions::default()).unwrap();
    let clock = Clock::new();
    let begin = clock.now();
    let sink = SinkConfig { faults, ..SinkConfig::default() };
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
    let counts = run(Faults::default(), |counts| counts.slow_bytes > 500);
    assert_eq!((counts.idle_held, counts.slow_held, counts.held_most), (20, 20, 40));
    assert_eq!((counts.connections, counts.closed_421), (40, 0));
}

#[test]
fn those_thrown_out_come_back_and_say_why() {
    let faults = Faults::default()
        .with(Phase::Ehlo, Fault::Closing, 0.2)
        .with(Phase::Greeting, Fault::Drop, 0.2)
        .with(Phase::Rcpt, Fault::Permanent, 0.2);
    let is_enough = |counts: &CrowdCounts| {
        counts.idle_held + counts.slow_held == 40 && counts.closed_421 > 0 && counts.refused > 0
    };
    let counts = run(faults, is_enough);
    assert!(counts.closed_silently > 0 && counts.connections > 40);
    assert_eq!(counts.reasons["421 4.3.2 going away"], counts.closed_421);
    assert_eq!(counts.reasons["550 5.1.1 nobody"], counts.refused);
}

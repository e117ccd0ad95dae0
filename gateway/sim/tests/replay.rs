//! One seed, one run: bit for bit.

use sim::report::Report;
use sim::run::run;
use sim::scenario::{FaultLevel, Options};

/// What must be equal: all but the time that the runs took.
fn essence(report: &Report) -> impl PartialEq + std::fmt::Debug + use<> {
    let Report { trace_hash, turns, virtual_time, counts, faults, tail, .. } = report.clone();
    (trace_hash, turns, virtual_time, counts, faults, tail)
}

#[test]
fn the_same_seed_makes_the_same_run() {
    for level in [FaultLevel::Crashes, FaultLevel::All] {
        let once = run(Options::new(7, 500, level));
        let again = run(Options::new(7, 500, level));
        assert_eq!(essence(&once), essence(&again));
    }
}

#[test]
fn another_seed_makes_another_run() {
    let one = run(Options::new(7, 200, FaultLevel::None));
    let other = run(Options::new(8, 200, FaultLevel::None));
    assert_ne!(one.trace_hash, other.trace_hash);
}

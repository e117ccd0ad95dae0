//! A gateway is stopped, or cut off from the servers, or there is nothing wrong with it, and another one of the
//! same name takes its queues over.

use sim::invariants::Invariant;
use sim::report::{FailureKind, Verdict};
use sim::run::run;
use sim::sabotage::Sabotage;
use sim::scenario::{FaultLevel, Options};

#[test]
fn a_gateway_whose_queues_were_taken_over_does_nothing_any_more() {
    let (mut fenced, mut acts_in_time) = (0, 0);
    for seed in 1..=20 {
        let report = run(Options::new(seed, 200, FaultLevel::TakeOvers));
        assert_eq!(report.verdict(), Verdict::Passed, "{report}");
        fenced += report.faults.get("gateway fenced").copied().unwrap_or_default();
        acts_in_time += report.acts_in_time;
    }
    assert!(fenced >= 20, "{fenced} gateways found out");
    assert!(acts_in_time >= 5, "{acts_in_time} acts of former owners that had a lease");
}

/// The check sees what a gateway would do that did not look at its lease.
#[test]
fn a_gateway_whose_lease_never_ends_is_found() {
    for seed in 1..=5 {
        let sabotage = Some(Sabotage::EternalLease);
        let report = run(Options { sabotage, ..Options::new(seed, 400, FaultLevel::TakeOvers) });
        assert!(report.has(FailureKind::Broken(Invariant::I2)), "{report}");
    }
}

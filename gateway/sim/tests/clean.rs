//! Nothing goes wrong: everything arrives once, in order.

use sim::report::Verdict;
use sim::run::run;
use sim::scenario::{FaultLevel, Options};

#[test]
fn without_faults_everything_arrives_once() {
    for seed in 1..=5 {
        let report = run(Options::new(seed, 300, FaultLevel::None));
        assert_eq!(report.verdict(), Verdict::Passed, "{report}");
        assert_eq!(report.counts.accepted, report.counts.delivered, "{report}");
        assert_eq!(report.counts.duplicates_allowed, 0, "{report}");
    }
}

//! One network segment after the other fails, and nobody is isolated for that.

use sim::report::Verdict;
use sim::run::run;
use sim::scenario::{FaultLevel, Options};

#[test]
fn with_one_of_two_segments_in_trouble_no_server_is_isolated_and_mail_flows_on() {
    let (mut switches, mut hedges_first) = (0, 0);
    for seed in 1..=20 {
        let report = run(Options::new(seed, 200, FaultLevel::Paths));
        assert_eq!(report.verdict(), Verdict::Passed, "{report}");
        switches += report.paths.switches;
        hedges_first += report.paths.hedges_first;
    }
    assert!(switches >= 10, "{switches} switch-overs in twenty runs");
    assert!(hedges_first >= 10, "{hedges_first} hedges were answered first in twenty runs");
}

//! Ten thousand mails, and the gateway and a server crash and return.

use sim::report::Verdict;
use sim::run::run;
use sim::scenario::{FaultLevel, Options};

#[test]
fn ten_thousand_mails_survive_the_crash_and_return_of_the_gateway_and_a_server() {
    let report = run(Options::new(1, 10_000, FaultLevel::Crashes));
    assert_eq!(report.verdict(), Verdict::Passed, "{report}");
    assert_eq!(report.counts.mails, 10_000, "{report}");
    for kind in ["gateway crash", "gateway return", "server crash", "server return"] {
        assert_eq!(report.faults.get(kind), Some(&1), "{kind} in {report}");
    }
}

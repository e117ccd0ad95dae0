//! The system is broken on purpose: each time the right check must see it.

use loadgen::ledger::ProblemKind;
use sim::invariants::Invariant;
use sim::report::{FailureKind, Verdict};
use sim::run::run;
use sim::sabotage::Sabotage;
use sim::scenario::{FaultLevel, Options};

fn must_find(sabotage: Sabotage, faults: FaultLevel, kind: FailureKind) {
    for seed in 1..=3 {
        let options = Options { sabotage: Some(sabotage), ..Options::new(seed, 200, faults) };
        let report = run(options);
        assert_eq!(report.verdict(), Verdict::Failed, "{report}");
        assert!(report.has(kind), "{kind:?} is not among the failures of {report}");
        let others = report.failures.iter().filter(|it| it.kind != kind);
        // A mail that vanishes takes its room with it, and one too many brings some.
        let others = others
            .filter(|it| !matches!(it.kind, FailureKind::Difference | FailureKind::NotSettled));
        assert_eq!(others.count(), 0, "only {kind:?} was done: {report}");
    }
}

#[test]
fn a_lost_mail_is_found() {
    must_find(Sabotage::Lose, FaultLevel::None, FailureKind::Ledger(ProblemKind::Lost));
}

#[test]
fn a_doubled_mail_is_found() {
    for seed in 1..=3 {
        let sabotage = Some(Sabotage::Double);
        let report = run(Options { sabotage, ..Options::new(seed, 200, FaultLevel::None) });
        assert!(report.has(FailureKind::Broken(Invariant::I9)), "{report}");
    }
}

#[test]
fn a_delivery_that_is_forgotten_is_found_when_it_is_repeated() {
    for seed in 1..=3 {
        let sabotage = Some(Sabotage::Forget);
        let report = run(Options { sabotage, ..Options::new(seed, 200, FaultLevel::None) });
        assert!(report.has(FailureKind::Broken(Invariant::I9)), "{report}");
    }
}

#[test]
fn a_reordered_mail_is_found() {
    must_find(Sabotage::Reorder, FaultLevel::None, FailureKind::Ledger(ProblemKind::Reordered));
}

#[test]
fn an_altered_mail_is_found() {
    must_find(Sabotage::Alter, FaultLevel::None, FailureKind::Ledger(ProblemKind::Altered));
}

#[test]
fn a_server_that_never_returns_is_found() {
    must_find(Sabotage::KeepServerDown, FaultLevel::Crashes, FailureKind::NotSettled);
}

#[test]
fn a_run_without_mail_or_without_the_faults_asked_for_is_not_a_pass() {
    let without_mail = run(Options::new(1, 0, FaultLevel::None));
    assert_eq!(without_mail.verdict(), Verdict::Vacuous, "{without_mail}");
    let mut without_faults = run(Options::new(1, 50, FaultLevel::None));
    assert_eq!(without_faults.verdict(), Verdict::Passed, "{without_faults}");
    without_faults.options.faults = FaultLevel::Crashes;
    assert_eq!(without_faults.verdict(), Verdict::Vacuous, "{without_faults}");
}

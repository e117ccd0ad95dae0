//! The links run over the TCP of the bypass, and its packets are lost, doubled, overtaken and altered.

use sim::report::{Report, Verdict};
use sim::run::run;
use sim::scenario::{FaultLevel, Options};
use sim::transport::Links;

fn run_over_packets(seed: u64, faults: FaultLevel) -> Report {
    let report = run(Options { links: Links::Smoltcp, ..Options::new(seed, 200, faults) });
    assert_eq!(report.verdict(), Verdict::Passed, "{report}");
    report
}

#[test]
fn packets_in_trouble_trouble_no_mail() {
    let (mut lost, mut altered) = (0, 0);
    for seed in 1..=5 {
        let report = run_over_packets(seed, FaultLevel::None);
        assert_eq!(report.counts.accepted, report.counts.delivered, "{report}");
        assert_eq!(report.counts.duplicates_allowed, 0, "{report}");
        lost += report.packets.lost;
        altered += report.packets.altered;
    }
    assert!(lost > 100 && altered > 100, "{lost} packets lost, {altered} altered in five runs");
}

#[test]
fn a_few_seeds_pass_over_packets_with_every_kind_of_fault() {
    for faults in [FaultLevel::Paths, FaultLevel::Crashes, FaultLevel::TakeOvers] {
        (1..=2).for_each(|seed| _ = run_over_packets(seed, faults));
    }
    (1000..1006).for_each(|seed| _ = run_over_packets(seed, FaultLevel::All));
}

#[test]
fn the_same_seed_makes_the_same_run_over_packets() {
    let essence = |report: Report| {
        let Report { trace_hash, turns, virtual_time, counts, faults, packets, .. } = report;
        (trace_hash, turns, virtual_time, counts, faults, packets)
    };
    let once = essence(run_over_packets(7, FaultLevel::All));
    assert_eq!(once, essence(run_over_packets(7, FaultLevel::All)));
}

#[test]
fn a_run_over_packets_without_packets_is_not_a_pass() {
    let mut report = run_over_packets(1, FaultLevel::None);
    report.packets.received = 0;
    assert_eq!(report.verdict(), Verdict::Vacuous, "{report}");
}

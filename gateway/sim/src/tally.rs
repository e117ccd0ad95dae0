//! What many runs come to, in figures.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::report::{Report, Verdict, packet_counts};

/// The figures of runs. Memory does not grow with the runs that passed.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    seeds: u64,
    failed: Vec<u64>,
    vacuous: Vec<u64>,
    simulated: Duration,
    turns: u64,
    checks: u64,
    faults: BTreeMap<&'static str, u64>,
    accepted: u64,
    delivered: u64,
    refused: u64,
    duplicates: u64,
    acts_in_time: u64,
    packets: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        self.seeds += 1;
        match report.verdict() {
            Verdict::Passed => {}
            Verdict::Vacuous => self.vacuous.push(report.options.seed),
            Verdict::Failed => self.failed.push(report.options.seed),
        }
        self.simulated += report.virtual_time;
        self.turns += report.turns;
        self.checks += report.checks;
        for (kind, count) in &report.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (kind, count) in packet_counts(&report.packets).into_iter().filter(|it| it.1 > 0) {
            *self.packets.entry(kind).or_default() += count;
        }
        self.accepted += report.counts.accepted;
        self.delivered += report.counts.delivered;
        self.refused += report.counts.bounced;
        self.duplicates += report.counts.duplicates_allowed;
        self.acts_in_time += report.acts_in_time;
    }

    /// Whether no run failed, and next to none was vacuous.
    pub fn has_passed(&self) -> bool {
        let vacuous = self.vacuous.len() as u64;
        self.failed.is_empty() && (vacuous == 0 || vacuous * VACUOUS_ONE_OF < self.seeds)
    }

    /// The figures when the runs took so long all together, as one line of JSON.
    pub fn json(&self, wall_time: Duration) -> String {
        let [faults, packets] = [&self.faults, &self.packets].map(|counts| {
            let counts = counts.iter().map(|(kind, count)| format!("{kind:?}:{count}"));
            counts.collect::<Vec<_>>().join(",")
        });
        let Tally { seeds, turns, checks, accepted, delivered, refused, duplicates, .. } = self;
        let acts = self.acts_in_time;
        format!(
            "{{\"seeds\":{seeds},\"failed\":{:?},\"vacuous\":{:?},\"vacuous_percent\":{:.3},\
             \"simulated_hours\":{:.3},\"wall_s\":{:.1},\"simulated_hours_per_wall_s\":{:.5},\
             \"turns\":{turns},\"checks\":{checks},\"mails_acknowledged\":{accepted},\
             \"delivered\":{delivered},\"refused\":{refused},\"duplicates\":{duplicates},\
             \"acts_in_time\":{acts},\"faults\":{{{faults}}},\
             \"packets\":{{{packets}}}}}",
            self.failed,
            self.vacuous,
            self.vacuous_percent(),
            self.simulated_hours(),
            wall_time.as_secs_f64(),
            self.simulated_hours() / wall_time.as_secs_f64().max(1e-9),
        )
    }

    /// The figures when the runs took so long all together, for reading.
    pub fn text(&self, wall_time: Duration) -> impl fmt::Display {
        let hours = self.simulated_hours();
        let wall_s = wall_time.as_secs_f64();
        let mut text = format!(
            "{} seeds: {} failed, {} vacuous ({:.2} %)\n\
             {hours:.2} hours simulated in {wall_s:.1} s: {:.4} hours per second\n\
             {} turns of processes, {} checks of all invariants\n\
             {} mails acknowledged for a recipient: {} delivered, {} refused for good, \
             {} duplicates, each allowed\n\
             {} acts of former owners whose leases lasted\n",
            self.seeds,
            self.failed.len(),
            self.vacuous.len(),
            self.vacuous_percent(),
            hours / wall_s.max(1e-9),
            self.turns,
            self.checks,
            self.accepted,
            self.delivered,
            self.refused,
            self.duplicates,
            self.acts_in_time,
        );
        for (kind, count) in self.faults.iter().chain(&self.packets) {
            text.push_str(&format!("{count:>10} {kind}\n"));
        }
        for (what, seeds) in [("failed", &self.failed), ("vacuous", &self.vacuous)] {
            if !seeds.is_empty() {
                text.push_str(&format!("{what}: {seeds:?}\n"));
            }
        }
        text
    }

    fn simulated_hours(&self) -> f64 {
        self.simulated.as_secs_f64() / 3600.0
    }

    fn vacuous_percent(&self) -> f64 {
        let count = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        100.0 * count(self.vacuous.len() as u64) / count(self.seeds.max(1))
    }
}

/// Fewer than one of so many runs may have shown nothing.
const VACUOUS_ONE_OF: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Failure, FailureKind};
    use crate::scenario::{FaultLevel, Options};

    fn report(seed: u64) -> Report {
        let mut report = Report::new(Options::new(seed, 10, FaultLevel::None));
        report.counts.accepted = 10;
        report.counts.delivered = 9;
        report.virtual_time = Duration::from_secs(3600);
        report.faults.insert("reset", 2);
        report
    }

    #[test]
    fn runs_are_summed_up_and_those_that_did_not_pass_are_named() {
        let mut tally = Tally::default();
        for seed in 1..=99 {
            tally.add(&report(seed));
        }
        assert!(tally.has_passed());
        let mut vacuous = report(100);
        vacuous.counts.accepted = 0;
        tally.add(&vacuous);
        assert!(!tally.has_passed(), "one of a hundred");
        tally.add(&report(101));
        assert!(tally.has_passed());
        let mut failed = report(102);
        failed.failures.push(Failure { kind: FailureKind::Stopped, what: "x".into() });
        tally.add(&failed);
        assert!(!tally.has_passed());
        let text = tally.text(Duration::from_secs(100)).to_string();
        assert!(text.contains("102 seeds: 1 failed, 1 vacuous (0.98 %)"), "{text}");
        assert!(text.contains("102.00 hours simulated in 100.0 s: 1.0200 hours"), "{text}");
        assert!(text.contains("204 reset") && text.contains("failed: [102]"), "{text}");
        assert!(text.contains("1010 mails"), "{text}");
    }

    #[test]
    fn the_machine_s_line_is_json() {
        let mut tally = Tally::default();
        tally.add(&report(7));
        let json = tally.json(Duration::from_secs(1));
        let value = serde_json::from_str::<serde_json::Value>(&json).expect("it is JSON");
        assert_eq!(value["faults"]["reset"], 2, "{json}");
        assert_eq!(value["mails_acknowledged"], 10, "{json}");
        assert_eq!(value["failed"], serde_json::json!([]), "{json}");
    }
}

//! What is known after a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use loadgen::ledger::{Counts, ProblemKind};
use tcpstack::SimPackets;

use crate::invariants::Invariant;
use crate::scenario::{FaultLevel, Options};
use crate::transport::Links;

/// What one run showed.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// What was asked for.
    pub options: Options,
    /// What the system and the load were, in words.
    pub summary: String,
    /// What was wrong; empty is what we want.
    pub failures: Vec<Failure>,
    /// What the ledger counted.
    pub counts: Counts,
    /// Faults that were inflicted, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What the links with two paths did.
    pub paths: PathCounts,
    /// What happened to packets, if links were made of them.
    pub packets: SimPackets,
    /// What time it was in the world at the end, since its beginning.
    pub virtual_time: Duration,
    /// How long the run took.
    pub wall_time: Duration,
    /// Turns that processes took.
    pub turns: u64,
    /// How often all that must always hold was checked.
    pub checks: u64,
    /// What owners did whose copies a later one had sealed, while their leases lasted.
    pub acts_in_time: u64,
    /// The hash of everything that happened; equal for equal runs.
    pub trace_hash: u64,
    /// The last things that happened, oldest first.
    pub tail: Vec<String>,
}

/// What the links with two paths did, and what their mail felt of it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PathCounts {
    /// How often requests moved to the other path at once.
    pub switches: u64,
    /// Requests that went by both paths.
    pub hedges: u64,
    /// Answers that came by the standby path first.
    pub hedges_first: u64,
    /// The longest time for which a queue with something to commit committed nothing.
    pub commit_pause_max: Duration,
    /// The longest time for which a queue did not accept mail, once it had.
    pub acceptance_pause_max: Duration,
    /// Changes that were committed while a copy of their queue was being filled.
    pub fill_commits: u64,
    /// Copies that were filled, and that were repaired.
    pub fills: u64,
    /// See `fills`.
    pub repairs: u64,
}

/// One thing that was wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// What it was.
    pub what: String,
}

/// Who found something wrong, and what kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// The ledger.
    Ledger(ProblemKind),
    /// Something that must hold after every step did not.
    Broken(Invariant),
    /// A queue and its copies, or a budget and what it was, differ.
    Difference,
    /// After the faults, the world did not come to rest in time.
    NotSettled,
    /// The gateway stopped by itself.
    Stopped,
    /// A broken invariant stopped a process.
    Panicked,
}

/// What a run is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Everything was as it must be.
    Passed,
    /// Nothing was wrong, but nothing was put to the test: no mail, or not the faults or packets asked for.
    Vacuous,
    /// Something was wrong.
    Failed,
}

impl Report {
    /// Of a run that has not begun.
    pub fn new(options: Options) -> Report {
        Report {
            options,
            summary: String::new(),
            failures: Vec::new(),
            counts: Counts::default(),
            faults: BTreeMap::new(),
            paths: PathCounts::default(),
            packets: SimPackets::default(),
            virtual_time: Duration::ZERO,
            wall_time: Duration::ZERO,
            turns: 0,
            checks: 0,
            acts_in_time: 0,
            trace_hash: 0,
            tail: Vec::new(),
        }
    }

    /// What the run is worth.
    pub fn verdict(&self) -> Verdict {
        let happened = |kind| self.faults.get(kind).is_some_and(|count| *count > 0);
        let tested = match self.options.faults {
            FaultLevel::None => true,
            FaultLevel::TakeOvers => happened("second gateway"),
            FaultLevel::Paths => ["partition", "slow path", "reset"].into_iter().any(happened),
            FaultLevel::Crashes => happened("gateway crash") && happened("server crash"),
            // One of each failed, or stood still.
            FaultLevel::All => {
                let of_servers = [
                    "server crash",
                    "server death without return",
                    "server paused",
                    "server's host suspended",
                ];
                happened("gateway crash") && of_servers.into_iter().any(happened)
            }
        };
        let packets = self.options.links == Links::Streams || self.packets.received > 0;
        if !self.failures.is_empty() {
            Verdict::Failed
        } else if self.counts.accepted == 0 || !tested || !packets {
            Verdict::Vacuous
        } else {
            Verdict::Passed
        }
    }

    /// Whether a failure of that kind was found.
    pub fn has(&self, kind: FailureKind) -> bool {
        self.failures.iter().any(|failure| failure.kind == kind)
    }

    /// The command that repeats the run.
    pub fn replay(&self) -> String {
        let Options { seed, mails, faults, links, .. } = self.options;
        let (faults, links) = (faults.name(), links.name());
        format!(
            "cargo run --release -p hikyaku-sim --bin sim -- --seed {seed} --mails {mails} \
             --faults {faults} --links {links} --trace"
        )
    }
}

/// What happened to packets, by kind.
pub fn packet_counts(packets: &SimPackets) -> [(&'static str, u64); 8] {
    let SimPackets { sent, received, lost, doubled, overtaken, altered, overrun, cut } = *packets;
    [
        ("packets sent", sent),
        ("packets received", received),
        ("packets lost", lost),
        ("packets doubled", doubled),
        ("packets overtaken", overtaken),
        ("packets altered", altered),
        ("packets beyond a ring", overrun),
        ("packets for nobody", cut),
    ]
}

impl fmt::Display for Report {
    /// One line for a run that passed; everything for one that did not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { accepted, delivered, bounced, duplicates_allowed, .. } = self.counts;
        let (virtual_s, wall_s) = (self.virtual_time.as_secs_f64(), self.wall_time.as_secs_f64());
        let verdict = match self.verdict() {
            Verdict::Passed => "passed",
            Verdict::Vacuous => "VACUOUS",
            Verdict::Failed => "FAILED",
        };
        write!(
            f,
            "seed {} {verdict}: {accepted} accepted, {delivered} delivered, {bounced} refused for \
             good, {duplicates_allowed} allowed duplicates; {virtual_s:.1} s in {wall_s:.2} s \
             ({:.1} times), {} turns, trace {:016x}",
            self.options.seed,
            virtual_s / wall_s.max(1e-9),
            self.turns,
            self.trace_hash
        )?;
        for (kind, count) in &self.faults {
            write!(f, ", {kind}: {count}")?;
        }
        if self.paths.switches + self.paths.hedges > 0 {
            let PathCounts { switches, hedges, hedges_first, .. } = self.paths;
            write!(f, ", switch-overs: {switches}, hedges: {hedges}, first: {hedges_first}")?;
        }
        if self.paths.fills + self.paths.repairs > 0 {
            let PathCounts { fills, repairs, fill_commits, .. } = self.paths;
            write!(f, ", fills: {fills}, repairs: {repairs}, commits meanwhile: {fill_commits}")?;
        }
        for (kind, count) in packet_counts(&self.packets).into_iter().filter(|it| it.1 > 0) {
            write!(f, ", {kind}: {count}")?;
        }
        if self.options.faults == FaultLevel::Paths {
            let PathCounts { commit_pause_max, acceptance_pause_max, .. } = self.paths;
            write!(f, ", pauses: {commit_pause_max:?}, {acceptance_pause_max:?}")?;
        }
        if self.verdict() == Verdict::Passed {
            return Ok(());
        }
        writeln!(f, "\n  {}", self.summary)?;
        for failure in &self.failures {
            writeln!(f, "  {:?}: {}", failure.kind, failure.what)?;
        }
        writeln!(f, "  repeat it with: {}", self.replay())?;
        for line in &self.tail {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

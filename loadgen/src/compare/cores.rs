//! Which runs count, by how far their cores were apart.
//!
//! The host of a virtual machine moves virtual cores about, and while two of them share no cache all rates between them fall,
//! to half or less. A run made then is not compared with one made otherwise, whoever's it is.

use std::collections::{BTreeMap, BTreeSet};

use super::{Comparison, Cores, Run};

/// What was seen of the cores in a whole comparison.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CoresSeen {
    /// The least that a cache line took from one core to the other and back, in nanoseconds.
    pub least_ns: f64,
    /// The most.
    pub most_ns: f64,
    /// How many runs were made again.
    pub repeats: usize,
    /// How many cells there are: a contender under its conditions.
    pub cells: usize,
    /// How many of them have no run but with cores apart.
    pub marked: usize,
}

impl Run {
    /// Takes in how far the cores were apart before it and behind it, in nanoseconds, as far as that is known.
    pub fn note_cores(&mut self, looks: impl Iterator<Item = f64> + Clone) {
        let most = looks.clone().reduce(f64::max).map(|ns| (MOST_NS.into(), ns));
        let least = looks.reduce(f64::min).map(|ns| (LEAST_NS.into(), ns));
        self.figures.extend(most.into_iter().chain(least));
    }

    fn cores_are_apart(&self, least_ns: f64) -> bool {
        self.figures.get(MOST_NS).is_some_and(|&ns| is_apart(ns, least_ns))
    }
}

impl Comparison {
    /// Whether the cores were apart in that run, by all that was seen so far. Not if it says nothing of them.
    pub fn is_apart(&self, run: &Run) -> bool {
        run.cores_are_apart(self.cores_least_ns())
    }

    /// The same of cores that are so far apart now.
    pub fn are_apart(&self, cores_ns: f64) -> bool {
        is_apart(cores_ns, self.cores_least_ns())
    }

    /// Of runs under the same conditions those that count: without those in which the cores were apart, or all if there are no
    /// others.
    pub(super) fn counting<'a>(&self, runs: Vec<&'a Run>) -> (Vec<&'a Run>, Cores) {
        let least_ns = self.cores_least_ns();
        let near: Vec<&Run> =
            runs.iter().copied().filter(|run| !run.cores_are_apart(least_ns)).collect();
        if near.is_empty() { (runs, Cores::Apart) } else { (near, Cores::Near) }
    }

    /// What was seen of the cores, if anything was.
    pub fn cores_seen(&self) -> Option<CoresSeen> {
        let most = self.runs.iter().filter_map(|run| run.figures.get(MOST_NS).copied());
        let most_ns = most.reduce(f64::max)?;
        let mut cells: BTreeMap<_, Vec<&Run>> = BTreeMap::new();
        for run in self.runs.iter().filter(|run| run.failure.is_none()) {
            let cell = (run.family, &run.contender, &run.conditions);
            cells.entry(cell).or_default().push(run);
        }
        cells.retain(|_, runs| runs.iter().any(|run| run.figures.contains_key(MOST_NS)));
        let rounds = |runs: &Vec<&Run>| runs.iter().map(|run| run.round).collect::<BTreeSet<_>>();
        let is_marked = |runs: &&Vec<&Run>| self.counting((*runs).clone()).1 == Cores::Apart;
        Some(CoresSeen {
            least_ns: self.cores_least_ns(),
            most_ns,
            repeats: cells.values().map(|runs| runs.len() - rounds(runs).len()).sum(),
            cells: cells.len(),
            marked: cells.values().filter(is_marked).count(),
        })
    }

    /// Infinite if nothing was seen.
    fn cores_least_ns(&self) -> f64 {
        let least = self.runs.iter().filter_map(|run| run.figures.get(LEAST_NS).copied());
        least.fold(f64::INFINITY, f64::min)
    }
}

fn is_apart(ns: f64, least_ns: f64) -> bool {
    ns > APART_FACTOR * least_ns
}

/// Figures of a run: the greater of what was seen before it and behind it, and the lesser.
const MOST_NS: &str = "cores_ns";
const LEAST_NS: &str = "cores_least_ns";

/// Cores are apart from more than so many times the least on. That of cores that stay where they are varies by less than
/// half; without a cache in common it is several times as high.
const APART_FACTOR: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::super::tests::{run, stores};
    use super::super::{Document, Family, Spread, Standing};
    use super::*;

    const CONDITIONS: [(&str, &str); 3] = [("waiting", "sleeping"), ("size", "1k"), ("depth", "1")];

    /// A run of each rate with these looks at the cores, in rounds of their own.
    fn runs(contender: &str, runs: &[(f64, &[f64])]) -> Comparison {
        let mut comparison = Comparison::default();
        for (round, (rate, looks)) in (1..).zip(runs) {
            let figures = [("rate", *rate)];
            let mut made = run(Family::Kvs, contender, &CONDITIONS, round, &figures);
            made.note_cores(looks.iter().copied());
            comparison.runs.push(made);
        }
        comparison
    }

    fn rate(comparison: &Comparison, contender: &str) -> Spread {
        comparison.spread(Family::Kvs, contender, &CONDITIONS, "rate").unwrap()
    }

    fn spread(median: f64, low: f64, high: f64, cores: Cores) -> Spread {
        Spread { median, low, high, cores }
    }

    #[test]
    fn runs_with_cores_apart_do_not_count_where_there_are_others() {
        // Apart before, apart behind, and both.
        let comparison = runs(
            "us",
            &[
                (10.0, &[58.0, 60.0]),
                (5.0, &[350.0, 60.0]),
                (4.0, &[60.0, 350.0]),
                (12.0, &[70.0, 58.0]),
            ],
        );
        assert_eq!(rate(&comparison, "us"), spread(11.0, 10.0, 12.0, Cores::Near));
        let seen = comparison.cores_seen().unwrap();
        assert_eq!((seen.least_ns, seen.most_ns), (58.0, 350.0));
        assert_eq!((seen.repeats, seen.cells, seen.marked), (0, 1, 0));
    }

    #[test]
    fn where_there_are_no_others_they_count_and_are_marked() {
        let mut comparison = runs("us", &[(5.0, &[350.0, 340.0]), (4.0, &[130.0, 120.0])]);
        comparison.runs.extend(runs("them", &[(10.0, &[58.0, 60.0])]).runs);
        assert_eq!(rate(&comparison, "us"), spread(4.5, 4.0, 5.0, Cores::Apart));
        assert_eq!(rate(&comparison, "them"), spread(10.0, 10.0, 10.0, Cores::Near));
        let seen = comparison.cores_seen().unwrap();
        assert_eq!((seen.cells, seen.marked), (2, 1));
    }

    #[test]
    fn twice_the_least_is_not_apart() {
        let comparison = runs("us", &[(10.0, &[60.0, 60.0]), (6.0, &[60.0, 120.0])]);
        assert_eq!(rate(&comparison, "us"), spread(8.0, 6.0, 10.0, Cores::Near));
    }

    #[test]
    fn the_least_is_known_also_from_runs_that_do_not_count() {
        let comparison = runs("us", &[(5.0, &[58.0, 350.0]), (4.0, &[340.0, 350.0])]);
        assert_eq!(rate(&comparison, "us").cores, Cores::Apart);
        assert!(comparison.runs.iter().all(|run| comparison.is_apart(run)));
    }

    #[test]
    fn on_a_machine_that_does_not_change_all_runs_count() {
        for ns in [58.0, 350.0] {
            let comparison =
                runs("us", &[(9.0, &[ns, ns * 1.4]), (5.0, &[ns, ns]), (7.0, &[ns * 1.3, ns])]);
            assert_eq!(rate(&comparison, "us"), spread(7.0, 5.0, 9.0, Cores::Near));
            assert_eq!(comparison.cores_seen().unwrap().marked, 0);
        }
    }

    #[test]
    fn runs_that_say_nothing_of_the_cores_count() {
        let mut comparison = runs("us", &[(9.0, &[]), (5.0, &[]), (7.0, &[])]);
        assert_eq!(rate(&comparison, "us"), spread(7.0, 5.0, 9.0, Cores::Near));
        assert_eq!(comparison.cores_seen(), None);
        // Beside others, too.
        comparison.runs.extend(runs("us", &[(1.0, &[350.0, 350.0]), (8.0, &[58.0, 58.0])]).runs);
        assert_eq!(rate(&comparison, "us"), spread(7.5, 5.0, 9.0, Cores::Near));
    }

    #[test]
    fn runs_of_one_round_are_repeats() {
        let mut comparison = runs("us", &[(5.0, &[350.0, 340.0]), (10.0, &[58.0, 60.0])]);
        comparison.runs[1].round = 1;
        assert_eq!(comparison.cores_seen().unwrap().repeats, 1);
        let text = Document::of(&comparison).circumstances;
        assert!(text.contains("took 58 to 350 ns") && text.contains(": 1 repeats"), "{text}");
    }

    #[test]
    fn a_document_marks_cells_and_ratios_and_says_why() {
        let mut comparison = stores([3000.0, 3300.0], [1000.0, 1100.0]);
        assert!(!Document::of(&comparison).to_markdown().contains('†'));
        for run in &mut comparison.runs {
            let ns = if run.contender == "us" { 58.0 } else { 350.0 };
            run.note_cores([ns, ns].into_iter());
        }
        let document = Document::of(&comparison);
        assert_eq!(document.headlines[0].standing(), Standing::Unclear);
        let (markdown, html) = (document.to_markdown(), document.to_html());
        for text in [&markdown, &html] {
            assert!(text.contains("2 of 4 "), "{text}");
            assert!(text.contains("1,050 (1,000–1,100) †"), "{text}");
            assert!(text.contains("3.00× (2.73–3.30) ‡"), "{text}");
            assert!(text.contains("3,150 (3,000–3,300) a second"), "{text}");
        }
        // All in the same way: there is nothing to mark.
        for run in &mut comparison.runs {
            run.note_cores([350.0, 350.0].into_iter());
        }
        let document = Document::of(&comparison);
        assert_eq!(document.headlines[0].standing(), Standing::Ahead);
        assert!(!document.to_markdown().contains(" † |"), "{document:?}");
    }
}

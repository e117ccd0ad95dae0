//! What a person reads: who is ahead, then tables and charts.

use super::{Comparison, Cores, CoresSeen, Family, Spread, gateway, links, recovery, stores};

/// A comparison, ready to be written down.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it is.
    pub title: String,
    /// Where and when, in a sentence or two.
    pub circumstances: String,
    /// Who is ahead.
    pub headlines: Vec<Headline>,
    /// Contest by contest.
    pub parts: Vec<Part>,
}

/// Who is ahead under which conditions, and by how much.
#[derive(Clone, Debug)]
pub struct Headline {
    /// What was measured, and under which conditions.
    pub what: String,
    /// Ours, with its unit.
    pub ours: String,
    /// The best peer's, with its name.
    pub theirs: String,
    /// How many times theirs ours is; more than 1 is better.
    pub ratio: Spread,
}

/// How a ratio is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Better in every round than they in any.
    Ahead,
    /// The rounds overlap.
    Level,
    /// Worse in every round than they in any.
    Behind,
    /// The cores were not equally far apart.
    Unclear,
}

/// One contest.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Its name.
    pub title: String,
    /// Its conditions, in paragraphs.
    pub intro: Vec<String>,
    /// Its charts.
    pub charts: Vec<Chart>,
    /// Its tables.
    pub tables: Vec<Table>,
}

/// A table. The first column names the rows.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Its columns.
    pub head: Vec<String>,
    /// Its rows, each as long as the head.
    pub rows: Vec<Vec<String>>,
}

/// Lines over steps: sizes, depths, rates, blocks.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What the steps are.
    pub x: String,
    /// The values' unit.
    pub y: String,
    /// The steps, evenly spaced.
    pub steps: Vec<String>,
    /// A line for each contender, with a value at each step where there is one.
    pub lines: Vec<(String, Vec<Option<Spread>>)>,
    /// Whether equal distances are equal ratios.
    pub logarithmic: bool,
}

impl Headline {
    /// Who is ahead.
    pub fn standing(&self) -> Standing {
        match self.ratio {
            Spread { cores: Cores::Mixed, .. } => Standing::Unclear,
            Spread { low, .. } if low > 1.0 => Standing::Ahead,
            Spread { high, .. } if high < 1.0 => Standing::Behind,
            _ => Standing::Level,
        }
    }
}

impl Document {
    /// What a comparison says.
    pub fn of(comparison: &Comparison) -> Document {
        let mut headlines = Vec::new();
        let mut parts = Vec::new();
        for make in [stores::part, gateway::part, recovery::part, links::part] {
            parts.extend(make(comparison, &mut headlines));
        }
        parts.push(participants(comparison));
        parts.extend(failures(comparison));
        let machine = &comparison.machine;
        let mut circumstances = format!(
            "Begun {}, {:.0} minutes. {}, {} cores, of which {} were used, {:.0} GiB, Linux {}; \
             load before it began {:.2}. Everything in one go on one machine, the contenders taking turns; medians, \
             with the lowest and the highest round behind them.",
            comparison.began,
            comparison.took_s / 60.0,
            machine.cpu,
            machine.cores,
            machine.cores_used,
            crate::report::f64_of(machine.memory_bytes >> 20) / 1024.0,
            machine.kernel,
            machine.load_before,
        );
        circumstances.extend(comparison.cores_seen().map(of_cores));
        Document { title: "Hikyaku and its peers".into(), circumstances, headlines, parts }
    }
}

/// What was seen of the cores, and what became of runs while they were apart.
fn of_cores(seen: CoresSeen) -> String {
    let CoresSeen { least_ns, most_ns, repeats, cells, marked } = seen;
    format!(
        " Before and after each run a cache line took {least_ns:.0} to {most_ns:.0} ns from one core to the other and back. \
         Above twice the least the cores were apart, and the run was made again, whoever's it was: {repeats} repeats. Runs \
         with cores apart count only where a contender has no others under the same conditions: {marked} of {cells} cells, \
         marked †. What comes from figures of both kinds tells nothing, and is marked ‡."
    )
}

/// Who takes part, how set up, and who is missing.
fn participants(comparison: &Comparison) -> Part {
    let row = |c: &super::Contender| {
        let state = c.missing.as_ref().map_or_else(String::new, |why| format!("left out: {why}"));
        vec![c.name.clone(), family(c.family).into(), c.version.clone(), c.setup.clone(), state]
    };
    let head = ["who", "contest", "version", "set up", ""].map(String::from).to_vec();
    let rows = comparison.contenders.iter().map(row).collect();
    Part {
        title: "Who takes part".into(),
        tables: vec![Table { title: String::new(), head, rows }],
        ..Part::default()
    }
}

fn failures(comparison: &Comparison) -> Option<Part> {
    let row = |(run, why): (&super::Run, &str)| {
        let conditions: Vec<String> =
            run.conditions.iter().map(|(name, value)| format!("{name} {value}")).collect();
        vec![run.contender.clone(), conditions.join(", "), run.round.to_string(), why.into()]
    };
    let rows: Vec<_> = comparison.failures().map(row).collect();
    let head = ["who", "conditions", "round", "why"].map(String::from).to_vec();
    (!rows.is_empty()).then(|| Part {
        title: "Runs that failed, and count for nothing".into(),
        tables: vec![Table { title: String::new(), head, rows }],
        ..Part::default()
    })
}

fn family(family: Family) -> &'static str {
    match family {
        Family::Kvs => "stores",
        Family::Gateway => "gateways",
        Family::Recovery => "recovery",
        Family::Transports => "links",
    }
}

/// A figure and how far its rounds lie apart: `1,234 (1,200–1,250)`.
pub(super) fn figure(spread: Spread) -> String {
    let Spread { median, low, high, cores } = spread;
    if low.to_bits() == high.to_bits() {
        return number(median) + mark(cores);
    }
    format!("{} ({}–{}){}", number(median), number(low), number(high), mark(cores))
}

/// A figure, or a dash where nothing was measured.
pub(super) fn cell(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".into(), figure)
}

/// `3.2× (2.9–3.6)`.
pub(super) fn times(ratio: Spread) -> String {
    let Spread { median, low, high, cores } = ratio;
    format!("{median:.2}× ({low:.2}–{high:.2}){}", mark(cores))
}

/// Stands behind a figure for which the cores were not near each other.
pub(super) fn mark(cores: Cores) -> &'static str {
    match cores {
        Cores::Near => "",
        Cores::Apart => " †",
        Cores::Mixed => " ‡",
    }
}

/// Three significant digits, or all of a whole number, in groups of three.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => grouped(&format!("{value:.0}")),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        0.0 => "0".into(),
        _ => format!("{value:.3}"),
    }
}

fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

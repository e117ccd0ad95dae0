//! Us and our peers side by side: what was measured, and what a person reads of it.
//!
//! [`Comparison`] holds every run as it was. [`Document`] is made from it: who is ahead, tables and charts. It is written
//! as [HTML](Document::to_html) and as [Markdown](Document::to_markdown); the comparison itself is the JSON.

mod cores;
mod document;
mod gateway;
mod html;
mod links;
mod markdown;
mod recovery;
mod spread;
mod stores;
mod svg;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use cores::CoresSeen;
pub use document::{Chart, Document, Headline, Part, Standing, Table};
pub use spread::{Cores, Spread};

/// Everything that was measured in one go, on one machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Comparison {
    /// When it began, in words (UTC).
    pub began: String,
    /// How long it took.
    pub took_s: f64,
    /// Where.
    pub machine: Machine,
    /// Whoever takes part, and who is missing.
    pub contenders: Vec<Contender>,
    /// Each run, in the order in which they were made.
    pub runs: Vec<Run>,
}

/// The machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// As the kernel calls it.
    pub cpu: String,
    /// Those of the machine.
    pub cores: u64,
    /// Those that were used, for clients and servers together.
    pub cores_used: String,
    /// Bytes.
    pub memory_bytes: u64,
    /// Its release.
    pub kernel: String,
    /// Load of the last minute when it began: more than a little, and the figures are not worth much.
    pub load_before: f64,
}

/// What takes part in which contest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Backup queue servers and stores: store and delete.
    Kvs,
    /// Gateways: mail relayed.
    Gateway,
    /// Stores again: everything read back.
    Recovery,
    /// Ways of a link.
    Transports,
}

/// How a contender is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What we make.
    Ours,
    /// Somebody else's that does a comparable thing.
    Peer,
    /// Somebody else's under other terms, such as one answer for a whole batch: shown, and no peer.
    Aside,
    /// What nobody could exceed with this client.
    Ceiling,
}

/// One that takes part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Contender {
    /// Where.
    pub family: Family,
    /// What it is called, in runs too.
    pub name: String,
    /// As what.
    pub role: Role,
    /// As it says itself.
    pub version: String,
    /// How it was set up.
    pub setup: String,
    /// Why it does not take part, if so.
    pub missing: Option<String>,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// In which contest.
    pub family: Family,
    /// Whose.
    pub contender: String,
    /// Under which conditions: what only runs under the same ones are compared by.
    pub conditions: BTreeMap<String, String>,
    /// The how manieth of these, from 1 on.
    pub round: u32,
    /// What was measured, by name; units are part of the names.
    pub figures: BTreeMap<String, f64>,
    /// What the client was called with.
    pub command: String,
    /// Why it counts for nothing, if so.
    pub failure: Option<String>,
}

impl Comparison {
    /// Those of a family that take part, in their order.
    pub fn present(&self, family: Family) -> impl Iterator<Item = &Contender> {
        self.contenders.iter().filter(move |c| c.family == family && c.missing.is_none())
    }

    /// Runs of a family that did not fail.
    fn good_runs(&self, family: Family) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.family == family && run.failure.is_none())
    }

    /// The values that a condition has in a family, in the order in which they first came.
    pub fn values(&self, family: Family, condition: &str) -> Vec<String> {
        let mut values = Vec::new();
        let runs = self.runs.iter().filter(|run| run.family == family);
        for value in runs.filter_map(|run| run.conditions.get(condition)) {
            if !values.contains(value) {
                values.push(value.clone());
            }
        }
        values
    }

    /// A figure of a contender over all rounds under these conditions that count, if it was measured.
    pub fn spread(
        &self,
        family: Family,
        contender: &str,
        conditions: &[(&str, &str)],
        figure: &str,
    ) -> Option<Spread> {
        let fits = |run: &&Run| {
            run.contender == contender
                && conditions
                    .iter()
                    .all(|(name, value)| run.conditions.get(*name).is_some_and(|has| has == value))
        };
        let (runs, cores) = self.counting(self.good_runs(family).filter(fits).collect());
        let figures = runs.iter().filter_map(|run| run.figures.get(figure));
        Spread::of(figures.copied()).map(|spread| Spread { cores, ..spread })
    }

    /// Runs that count for nothing.
    pub fn failures(&self) -> impl Iterator<Item = (&Run, &str)> {
        self.runs.iter().filter_map(|run| run.failure.as_deref().map(|why| (run, why)))
    }
}

#[cfg(test)]
mod tests;

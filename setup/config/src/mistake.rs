//! One mistake with its place, and all mistakes of a file.

use std::{error::Error, fmt};

/// One mistake in a configuration file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong and what would be right, on one line.
    pub message: String,
}

/// Every mistake of one file in the order of their places; never empty.
///
/// Displayed as one line for each, `file:line:column: message`, each line ended by a line feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistakes {
    label: String,
    list: Vec<Mistake>,
    left_out: usize,
}

/// Most mistakes that are kept of one file. Further ones are counted and not named: who has made
/// so many gave the wrong file.
pub const MISTAKES_MAX: usize = 100;

impl Mistakes {
    /// Sorts `list` by place, drops doubles and keeps the first [`MISTAKES_MAX`]. `None` if it is
    /// empty.
    pub(crate) fn new(label: &str, mut list: Vec<Mistake>) -> Option<Mistakes> {
        if list.is_empty() {
            return None;
        }
        list.sort();
        list.dedup();
        let left_out = list.len().saturating_sub(MISTAKES_MAX);
        list.truncate(MISTAKES_MAX);
        Some(Mistakes { label: label.to_owned(), list, left_out })
    }

    /// The mistakes, first place first.
    pub fn list(&self) -> &[Mistake] {
        &self.list
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = &self.label;
        for Mistake { line, column, message } in &self.list {
            writeln!(f, "{label}:{line}:{column}: {message}")?;
        }
        if self.left_out > 0 {
            writeln!(f, "{label}: and {} more", self.left_out)?;
        }
        Ok(())
    }
}

impl Error for Mistakes {}

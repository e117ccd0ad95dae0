//! Threads, and what runs on them: `[threads]`.

use std::time::Duration;

use config::Table;

use super::{Drivers, Threads};

/// The table `[threads]`; without it one thread runs everything.
pub(crate) fn read_threads(root: &Table<'_>) -> Threads {
    let threads = root.table("threads");
    let split = threads.choice("drivers", &[("merged", false), ("split", true)]).default(false);
    let drivers = if split {
        Drivers::Split {
            link_workers: threads.integer("link_workers").range(1..=16).default(1),
            smtp_workers: threads.integer("smtp_workers").range(1..=256).default(1),
        }
    } else {
        Drivers::Merged { workers: threads.integer("workers").range(1..=16).default(1) }
    };
    let count = match drivers {
        Drivers::Merged { workers } => workers,
        Drivers::Split { link_workers, smtp_workers } => link_workers + smtp_workers,
    };
    let one_each = |cores: &Vec<usize>| match cores.len() == count {
        true => Ok(()),
        false => Err(format!("{} cores for {count} threads; give one for each", cores.len())),
    };
    let cores = threads.cores("cores").check(one_each).default(Vec::new());
    Threads { drivers, cores, spin: threads.duration("spin").default(Duration::ZERO) }
}

//! What a message costs each part of the system, where nothing else of the machine matters.
//!
//! A [`Part`] is production code with next to nothing around it: no kernel, no clock, no thread. It does the same for each message,
//! so that its instructions can be counted (`setup/instructions.sh`) and its allocations (`tests/allocations.rs`).
//! What it needs besides is made outside of what is counted.

mod kvs_part;
mod pipe;
mod replication;
mod smtp_part;

pub use self::kvs_part::Kvs;
pub use self::pipe::{Net, Pipe};
pub use self::replication::Replication;
pub use self::smtp_part::{Delivery, Reception};

/// Messages that are under way at a time.
pub const BLOCK: usize = 32;

/// Production code that handles messages, one block after another.
pub trait Part {
    /// Handles [`BLOCK`] messages. What belongs to the part itself runs between the gauge's two calls.
    fn handle_block(&mut self, gauge: &mut dyn Gauge);
}

/// Told when what is counted begins and ends.
pub trait Gauge {
    /// From here it counts.
    fn begin(&mut self);
    /// Up to here.
    fn end(&mut self);
}

/// For runs under a tool that finds the part's functions by their names.
#[derive(Clone, Copy, Debug)]
pub struct NoGauge;

impl Gauge for NoGauge {
    fn begin(&mut self) {}
    fn end(&mut self) {}
}

/// The parts' names, as the program takes them.
pub const NAMES: [&str; 8] = [
    "kvs",
    "kvs-10k",
    "kvs-queues",
    "kvs-held",
    "replication",
    "replication-1k",
    "reception",
    "delivery",
];

/// Makes the part of that name.
pub fn part(name: &str) -> Option<Box<dyn Part>> {
    Some(match name {
        "kvs" => Box::new(Kvs::new(400, 1, 0)),
        "kvs-10k" => Box::new(Kvs::new(10 << 10, 1, 0)),
        "kvs-queues" => Box::new(Kvs::new(400, 1000, 0)),
        "kvs-held" => Box::new(Kvs::new(400, 1, 50_000)),
        "replication" => Box::new(Replication::new(1 << 10, 1)),
        "replication-1k" => Box::new(Replication::new(1 << 10, 1000)),
        "reception" => Box::new(Reception::new(1 << 10)),
        "delivery" => Box::new(Delivery::new(1 << 10)),
        _ => return None,
    })
}

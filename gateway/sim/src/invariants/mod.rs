//! What must hold after every step of the world: I1 to I8. (I9, order and duplicates, is the ledger's,
//! and L1 is that the world comes to rest, see [`check_settled`](crate::check::check_settled).)
//!
//! Each look at the world makes *sights* of it, plain numbers, and hands them to the checks, each of
//! which remembers what it has to compare with. What is large is looked at when it is new: a message
//! once when it is committed, and all again when a copy begins to count, a gateway starts or dies, and
//! from time to time.

mod copies;
mod growth;
mod memory;
mod promises;
mod service;
mod sight;

use std::fmt;

use tcpstack::Instant;

use crate::world::World;

pub use self::copies::check as check_copies;
pub use self::growth::Growth;
use self::promises::Promises;
use self::service::ServiceWatch;
pub(crate) use self::sight::see_copy;
pub use self::sight::{CopySight, MemorySight, QueueSight};

/// A name of what must hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Invariant {
    /// Every message that is committed and not yet deleted is on every live copy that counts, and
    /// while no gateway has it, on one at least.
    I1,
    /// When a copy that counts is sealed, no owner of a lower epoch commits or attempts.
    I2,
    /// At equal transaction numbers copies that count are equal; transaction numbers, epochs and
    /// versions of records only grow.
    I3,
    /// Recovery returns everything but what was deleted, in order.
    I4,
    /// Each sequence number is applied at most once in an epoch.
    I5,
    /// A copy outside the record never serves recovery.
    I6,
    /// A queue that cannot be committed accepts nothing; when none can, the ports are closed.
    I7,
    /// Memory stays within its budget.
    I8,
}

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Which.
    pub invariant: Invariant,
    /// How.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is broken: {}", self.invariant, self.what)
    }
}

impl Invariant {
    /// It does not hold, and how.
    fn broken(self, what: impl Into<String>) -> Broken {
        Broken { invariant: self, what: what.into() }
    }
}

/// All checks, with what they remember.
#[derive(Debug, Default)]
pub struct Invariants {
    copies: Vec<CopySight>,
    queues: Vec<QueueSight>,
    promises: Promises,
    growth: Growth,
    service: ServiceWatch,
    /// How often was looked.
    looks: u64,
    /// Memory is not looked at.
    forgives_memory: bool,
}

impl Invariants {
    /// All checks but that of memory, for a gateway into which mail is smuggled past its budgets.
    pub fn without_memory() -> Invariants {
        Invariants { forgives_memory: true, ..Invariants::default() }
    }

    /// Looks at the world after a step.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn look(&mut self, world: &World) -> Result<(), Broken> {
        self.looks += 1;
        sight::see(world, &mut self.copies, &mut self.queues);
        copies::check(&self.copies)?;
        self.growth.check_copies(&self.copies)?;
        for (key, record) in world.register().records() {
            self.growth.check_record(key, record.version, record.epoch)?;
        }
        let now = world.now();
        let ports_open = world.gateway().map(super::gateway_host::GatewayHost::has_ports_open);
        self.service.check(now, ports_open, &self.queues)?;
        let thorough = self.looks.is_multiple_of(THOROUGH_EVERY);
        self.promises.look(world, &self.queues, &self.copies, thorough)?;
        if self.forgives_memory {
            return Ok(());
        }
        memory::check(&sight::memory(world))
    }

    /// How often was looked.
    pub fn looks(&self) -> u64 {
        self.looks
    }
}

/// Every so many looks everything is looked at, also what is not new.
const THOROUGH_EVERY: u64 = 512;

/// How long since `since`; `None`: not at all.
fn lasting(now: Instant, since: &mut Option<Instant>, holds: bool) -> Option<std::time::Duration> {
    if !holds {
        *since = None;
        return None;
    }
    Some(now.saturating_since(*since.get_or_insert(now)))
}

//! What must hold after every step of the world: I1 to I9. (Of I9 the order is the ledger's, and L1 is that the world comes to rest, see [`check_settled`](crate::check::check_settled).)
//!
//! Each look at the world makes *sights* of it, plain numbers, and hands them to the checks, each of
//! which remembers what it has to compare with. What is large is looked at when it is new: a message
//! once when it is committed, and all again when a copy begins to count, a gateway starts or dies, and
//! from time to time.

mod attempts;
mod copies;
mod growth;
mod memory;
mod owners;
mod promises;
mod service;
mod sight;

use std::fmt;

use gateway::message::QueueIndex;
use gateway::replication::record::Record;
use tcpstack::Instant;

use crate::dialogue::Seen;
use crate::gateways::{PLACES, Sighting};
use crate::world::World;

use self::attempts::Attempts;
pub use self::copies::check as check_copies;
#[cfg(test)]
pub(crate) use self::copies::tests::sight as sight_of_copy;
pub use self::growth::Growth;
use self::owners::{Act, Owners};
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
    /// When a copy that counts is sealed and the lease is over, no owner of a lower epoch commits or delivers.
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
    /// A message goes out again only if its owner cannot know that it was delivered.
    I9,
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
    /// By place of the gateway.
    queues: [Vec<QueueSight>; PLACES],
    promises: Promises,
    growth: Growth,
    owners: Owners,
    attempts: Attempts,
    /// By place of the gateway.
    service: [ServiceWatch; PLACES],
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
    pub fn look(&mut self, world: &mut World) -> Result<(), Broken> {
        self.looks += 1;
        let sightings = world.take_sightings();
        let world = &*world;
        sight::see(world, &mut self.copies, &mut self.queues);
        copies::check(&self.copies)?;
        self.growth.check_copies(&self.copies)?;
        for (key, record) in world.register().records() {
            self.growth.check_record(key, record.version, record.epoch)?;
        }
        self.look_at_owners(world, &sightings)?;
        self.look_at_attempts(world, &sightings)?;
        let now = world.now();
        for (place, (service, queues)) in self.service.iter_mut().zip(&self.queues).enumerate() {
            let ports_open = world.gateway_at(place).map(|it| it.host.has_ports_open());
            service.check(now, ports_open, queues)?;
        }
        let thorough = self.looks.is_multiple_of(THOROUGH_EVERY);
        self.promises.look(world, &self.queues, &self.copies, thorough)?;
        if self.forgives_memory {
            return Ok(());
        }
        memory::check(&sight::memory(world))
    }

    fn look_at_owners(&mut self, world: &World, sightings: &[Sighting]) -> Result<(), Broken> {
        let now = world.now();
        self.owners.note_seals(now, &self.copies, |queue| {
            let name = &*world.scenario().settings.queues[queue].name;
            let mut records = world.register().records().map(|(_, record)| record);
            records.find(|record| record.has_queue(name)).map(Record::lease)
        });
        for sights in &self.queues {
            for (queue, sight) in sights.iter().enumerate().filter(|(_, it)| it.is_open) {
                let Some(life) = sight.life else { continue };
                let owner = (life, sight.epoch);
                self.owners.check_committed(now, queue, owner, sight.committed)?;
            }
        }
        for Sighting { at, is_delivery, seen, queues, .. } in sightings {
            let act = match seen {
                Seen::EndOfData(_) if *is_delivery => Act::Delivered,
                Seen::Answered(_, 250) if !*is_delivery => Act::Answered,
                Seen::EndOfData(_) | Seen::Answered(..) => continue,
            };
            for (queue, epoch) in queues {
                self.owners.check(*at, *queue, *epoch, act)?;
            }
        }
        Ok(())
    }

    fn look_at_attempts(&mut self, world: &World, sightings: &[Sighting]) -> Result<(), Broken> {
        // An answer comes before what is noted of it, and both may be of one turn.
        sightings.iter().try_for_each(|sighting| self.attempts.see(sighting))?;
        for (place, sights) in self.queues.iter().enumerate() {
            for (queue, sight) in sights.iter().enumerate() {
                let unit = world.gateway_at(place).filter(|_| sight.is_open).map(|gateway| {
                    let index = QueueIndex(u32::try_from(queue).expect("few queues"));
                    gateway.host.unit(index)
                });
                self.attempts.follow((queue, place), sight, unit.map(|unit| &unit.queue));
            }
        }
        Ok(())
    }

    /// Acts of an owner that had been sealed, within its lease: that there were some shows that I2 was tested.
    pub fn acts_in_time(&self) -> u64 {
        self.owners.acts_in_time
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

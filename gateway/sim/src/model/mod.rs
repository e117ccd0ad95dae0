//! A small exhaustive check of one queue: every order of what can happen, up to a bound.
//!
//! The owner is the production cohort, each of two servers the production queue and arena, the register
//! judges by the production rule. A connection carries requests and answers as data; each that is taken,
//! lost or late is a step of its own. After each step I1 to I6 are looked at.
//!
//! States cannot be copied, as a server's memory cannot, so each is made anew by the actions that lead
//! to it; it is searched in breadth, and a state that was there before (by a digest of all there is) is
//! not gone on from. So the first counterexample is a shortest one.

mod server;
mod state;

use std::collections::HashSet;

use kvs_proto::{Incarnation, MessageId};

pub use state::Action;

use self::state::{SERVERS, State};
use crate::check::CopyNumbers;
use crate::invariants::{Broken, CopySight, Growth, Invariant, check_copies};

/// How far the search goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Stores, deletes and replaces.
    pub operations: u32,
    /// Crashes, losses of connections, lost answers of the register, and successors.
    pub faults: u32,
    /// How often time passes.
    pub passes: u32,
    /// Steps from the beginning.
    pub depth: usize,
    /// States. At the bound the search ends, and says so.
    pub states_max: usize,
}

impl Bounds {
    /// What is searched with each change: one fault, and what follows from it.
    pub const SMALL: Bounds =
        Bounds { operations: 1, faults: 1, passes: 1, depth: 13, states_max: 1_000_000 };

    /// As long as one likes.
    pub const LARGE: Bounds =
        Bounds { operations: 2, faults: 2, passes: 2, depth: 8, states_max: 50_000_000 };
}

/// Where the search begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Two copies count, and have a mail.
    InStep,
    /// The same, and then a server has restarted empty: it is about to be filled, and counts no more.
    Joining,
}

impl Start {
    /// All there are.
    pub const ALL: [Start; 2] = [Start::InStep, Start::Joining];
}

/// What is broken on purpose, to show that the search finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// The register takes every swap, whatever version it replaces.
    VersionsIgnored,
    /// A server applies what a former owner asks for.
    FenceIgnored,
    /// A server that restarts empty says that it is in the life before.
    LifeKept,
    /// A change does not use its sequence number up.
    NumberNotUsedUp,
    /// A server that has restarted alters what it is filled with, and says that its copy is complete.
    FillAltered,
    /// A successor does not hear how long ago the owner before was heard from.
    SealNotAwaited,
}

/// What a search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search {
    /// States, each counted once.
    pub states: usize,
    /// Steps that were looked at.
    pub steps: usize,
    /// The longest way to a state.
    pub depth: usize,
    /// It ended at `states_max`.
    pub is_cut_off: bool,
    /// What is broken, and what leads there.
    pub broken: Option<(Broken, Vec<Action>)>,
}

/// Looks at every state within the bounds.
pub fn search(start: Start, bounds: Bounds, flaw: Option<Flaw>) -> Search {
    let mut found = Search { states: 1, steps: 0, depth: 0, is_cut_off: false, broken: None };
    let first = State::begin(start, bounds, flaw);
    let mut seen = HashSet::from([first.digest()]);
    // Ways to the states of this depth, with what can happen there.
    let mut ways = vec![(Vec::new(), first.actions())];
    while found.depth < bounds.depth && !ways.is_empty() {
        found.depth += 1;
        let mut further = Vec::new();
        for (way, actions) in ways {
            for action in actions {
                let way = way.iter().copied().chain([action]).collect::<Vec<_>>();
                found.steps += 1;
                let state = match walk(start, bounds, flaw, &way) {
                    Ok(state) => state,
                    Err(broken) => {
                        found.broken = Some((broken, way));
                        return found;
                    }
                };
                if seen.insert(state.digest()) {
                    found.states += 1;
                    further.push((way, state.actions()));
                }
                if found.states >= bounds.states_max {
                    found.is_cut_off = true;
                    return found;
                }
            }
        }
        ways = further;
    }
    found
}

/// Goes a way from the beginning, and looks at all along it.
fn walk(start: Start, bounds: Bounds, flaw: Option<Flaw>, way: &[Action]) -> Result<State, Broken> {
    let mut state = State::begin(start, bounds, flaw);
    let mut watch = Watch::default();
    watch.look(&state)?;
    for action in way {
        state.apply(*action);
        watch.look(&state)?;
    }
    Ok(state)
}

/// What has to be remembered on a way.
#[derive(Default)]
struct Watch {
    growth: Growth,
    /// The last owner that had the queue in service.
    served: u64,
    /// By owner's number: whom it was reading from.
    sources: Vec<Option<usize>>,
}

impl Watch {
    fn look(&mut self, state: &State) -> Result<(), Broken> {
        let copies = (0..SERVERS.len()).filter_map(|server| sight(state, server));
        let copies = copies.collect::<Vec<_>>();
        check_copies(&copies)?;
        self.growth.check_copies(&copies)?;
        if let Some(stored) = &state.register {
            self.growth.check_record("q", stored.record.version, stored.record.epoch)?;
        }
        check_owed(state)?;
        // An owner acts and is not the last that served: the one after it had to wait.
        if let Some(former) = state.acted.iter().find(|number| **number < self.served) {
            let what = format!("owner {former} goes on, and owner {} serves", self.served);
            return Err(Broken { invariant: Invariant::I2, what });
        }
        for owner in &state.owners {
            self.look_at_owner(state, owner)?;
        }
        Ok(())
    }

    fn look_at_owner(&mut self, state: &State, owner: &state::Owner) -> Result<(), Broken> {
        let place = usize::try_from(owner.number()).expect("few owners");
        if self.sources.len() <= place {
            self.sources.resize(place + 1, None);
        }
        let unit = owner.cohort.unit(0);
        let source = unit.recovers_from();
        let before = std::mem::replace(&mut self.sources[place], source);
        let record = state.register.as_ref().map(|it| &it.record);
        if let Some(source) = source.filter(|source| before != Some(*source))
            && record.is_none_or(|it| it.incarnation_of(SERVERS[source]).is_none())
        {
            let what = format!("server {source} serves recovery and is not recorded");
            return Err(Broken { invariant: Invariant::I6, what });
        }
        if unit.is_open() && !owner.stopped && owner.number() > self.served {
            self.served = owner.number();
            let recovered = unit.queue.snapshots_after(MessageId(0)).map(|it| it.id);
            let recovered = recovered.collect::<Vec<_>>();
            if let Some(id) = state.owed.iter().find(|id| !recovered.contains(id)) {
                let what = format!("recovery lacks {id:?}");
                return Err(Broken { invariant: Invariant::I4, what });
            }
        }
        Ok(())
    }
}

/// What is committed and not deleted is on every copy that counts, and on one at least while no owner
/// has the queue.
fn check_owed(state: &State) -> Result<(), Broken> {
    let broken = |what| Err(Broken { invariant: Invariant::I1, what });
    let counting = (0..SERVERS.len()).filter(|server| state.counts(*server));
    let counting = counting.collect::<Vec<_>>();
    for server in &counting {
        if let Some(id) = state.owed.iter().find(|id| !state.servers[*server].has(**id)) {
            return broken(format!("server {server} counts and lacks {id:?}"));
        }
    }
    let is_served = state.owners.iter().any(|owner| owner.cohort.unit(0).is_open());
    if counting.is_empty() && !is_served && !state.owed.is_empty() {
        return broken(format!("{:?} are nowhere", state.owed));
    }
    Ok(())
}

fn sight(state: &State, server: usize) -> Option<CopySight> {
    let host = &state.servers[server];
    let (arena, queue) = host.stored.as_ref()?;
    let attached = queue.attached(arena, 0);
    Some(CopySight {
        queue: 0,
        server,
        life: Incarnation(host.life),
        uid: queue.uid().0,
        counts: state.counts(server),
        numbers: CopyNumbers {
            epoch: queue.epoch(),
            transaction: queue.transaction(),
            chain: attached.chain,
            content: attached.content,
            messages: attached.messages,
        },
        last_sequence: queue.last_sequence(),
        known_after: queue.operations_known_after(),
        has_refused: queue.has_refused(),
    })
}

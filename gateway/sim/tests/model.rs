//! One queue, two servers, a register and a successor in every order of events, up to a bound.

use sim::invariants::Invariant;
use sim::model::{Bounds, Flaw, search};

#[test]
fn every_order_of_events_keeps_the_invariants() {
    let found = search(Bounds::SMALL, None);
    assert_eq!(found.broken, None, "{found:?}");
    assert!(!found.is_cut_off, "{found:?}");
    println!("{found:?}");
    assert!(found.states > 1000, "{found:?}");
}

#[test]
fn no_successor_acts_before_the_lease_has_run_out() {
    // Time stands still, so a lease never does; and the search goes far enough to find one that does not wait.
    let bounds = deep(1, 0);
    let found = search(bounds, None);
    assert_eq!(found.broken, None, "{found:?}");
}

fn deep(faults: u32, passes: u32) -> Bounds {
    Bounds { operations: 1, faults, passes, depth: 18, states_max: 60_000 }
}

/// Of which the invariants tell, or the production code, which stops at what cannot be.
fn must_find(flaw: Flaw, faults: u32, passes: u32, invariants: &[Invariant]) {
    let found = search(deep(faults, passes), Some(flaw));
    println!("{flaw:?}: {found:?}");
    let (broken, _) = found.broken.expect("the flaw is found");
    assert!(invariants.contains(&broken.invariant), "{broken:?}");
}

#[test]
fn a_number_that_is_not_used_up_is_found() {
    must_find(Flaw::NumberNotUsedUp, 0, 0, &[Invariant::I5]);
}

#[test]
fn a_register_that_ignores_versions_is_found() {
    must_find(Flaw::VersionsIgnored, 2, 1, &[Invariant::I1, Invariant::I3, Invariant::I4]);
}

#[test]
fn a_server_without_a_fence_is_found() {
    must_find(Flaw::FenceIgnored, 1, 1, &[Invariant::I2, Invariant::I3, Invariant::I5]);
}

#[test]
fn a_server_that_restarts_in_the_same_life_is_found() {
    must_find(Flaw::LifeKept, 1, 0, &[Invariant::I1]);
}

#[test]
fn a_successor_that_does_not_wait_is_found() {
    must_find(Flaw::SealNotAwaited, 1, 0, &[Invariant::I2]);
}

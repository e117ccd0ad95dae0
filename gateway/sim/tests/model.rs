//! One queue, two servers, a register and a successor in every order of events, up to a bound.

use sim::invariants::Invariant;
use sim::model::{Bounds, Flaw, Start, search};

#[test]
fn every_order_of_events_keeps_the_invariants() {
    for start in Start::ALL {
        let found = search(start, Bounds::SMALL, None);
        assert_eq!(found.broken, None, "{start:?}: {found:?}");
        assert!(!found.is_cut_off, "{start:?}: {found:?}");
        println!("{start:?}: {found:?}");
        assert!(found.states > 1000, "{start:?}: {found:?}");
    }
}

#[test]
fn no_successor_acts_before_the_lease_has_run_out() {
    // Time stands still, so a lease never does; and the search goes far enough to find one that does not wait.
    let bounds = deep(1, 0);
    let found = search(Start::InStep, bounds, None);
    assert_eq!(found.broken, None, "{found:?}");
}

fn deep(faults: u32, passes: u32) -> Bounds {
    Bounds { operations: 1, faults, passes, depth: 18, states_max: 60_000 }
}

fn must_find(flaw: Flaw, faults: u32, passes: u32, invariants: &[Invariant]) {
    must_find_from(Start::InStep, flaw, deep(faults, passes), invariants);
}

/// Of which the invariants tell, or the production code, which stops at what cannot be.
fn must_find_from(start: Start, flaw: Flaw, bounds: Bounds, invariants: &[Invariant]) {
    let found = search(start, bounds, Some(flaw));
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
fn a_server_that_alters_what_it_is_filled_with_is_found() {
    must_find_from(Start::Joining, Flaw::FillAltered, deep(0, 0), &[Invariant::I3]);
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

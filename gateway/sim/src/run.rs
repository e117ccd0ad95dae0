//! One run, from its seed to its report.
//!
//! In the *safety phase* mail is offered and faults are inflicted; whatever must always hold is
//! checked again and again. Then the faults end. In the *liveness phase* everything must come to
//! rest within a bound: all mail delivered, both servers' copies complete and counting.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use loadgen::ledger::ProblemKind;
use tcpstack::Instant;

use crate::check::{check_always, check_paths, check_settled};
use crate::chronicle::Chronicle;
use crate::invariants::Invariants;
use crate::report::{Failure, FailureKind, Report};
use crate::scenario::Options;
use crate::world::World;

/// Runs a world, and tells what it showed.
pub fn run(options: Options) -> Report {
    run_with(options, &Chronicle::new(false))
}

/// Runs a world, and writes what happens into `chronicle`.
pub fn run_with(options: Options, chronicle: &Chronicle) -> Report {
    let began = std::time::Instant::now();
    let mut report = Report::new(options);
    let subscriber = chronicle.subscriber();
    let ended = tracing::subscriber::with_default(subscriber, || {
        catch_unwind(AssertUnwindSafe(|| {
            let mut world = World::new(&options, chronicle.clone());
            report.summary = world.scenario().summary.clone();
            let mut invariants = match options.sabotage {
                None => Invariants::default(),
                Some(_) => Invariants::without_memory(),
            };
            if let Err(failure) = live(&mut world, &mut invariants) {
                report.failures.push(failure);
            }
            report.checks = invariants.looks();
            report.acts_in_time = invariants.acts_in_time();
            judge(&mut world, &mut report);
        }))
    });
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
        let what = text.unwrap_or_else(|| "without a word".into());
        report.failures.push(Failure { kind: FailureKind::Panicked, what });
    }
    report.wall_time = began.elapsed();
    report.tail = chronicle.lines();
    report
}

/// Both phases.
fn live(world: &mut World, invariants: &mut Invariants) -> Result<(), Failure> {
    let end = world.plan().end;
    while world.now() < end || !world.plan().is_over() {
        if world.now() > end + RETURN_TIME_MAX {
            break;
        }
        advance(world, invariants, CHECK_INTERVAL)?;
    }
    world.end_faults();
    let bound = world.now() + SETTLING_TIME_MAX;
    loop {
        advance(world, invariants, CHECK_INTERVAL)?;
        match check_settled(world) {
            Ok(()) => return Ok(()),
            Err(difference) if world.now() >= bound => {
                let kind = FailureKind::NotSettled;
                return Err(Failure { kind, what: difference.to_string() });
            }
            Err(_) => {}
        }
    }
}

/// Lets some time pass, and checks: the invariants after each step.
fn advance(world: &mut World, invariants: &mut Invariants, time: Duration) -> Result<(), Failure> {
    let until: Instant = world.now() + time;
    while world.now() < until {
        let changed = world.step(until);
        if let Some(why) = world.fatal() {
            return Err(Failure { kind: FailureKind::Stopped, what: why.into() });
        }
        if !changed {
            continue;
        }
        invariants.look(world).map_err(|broken| Failure {
            kind: FailureKind::Broken(broken.invariant),
            what: broken.to_string(),
        })?;
    }
    world.watch_paths();
    check_always(world).and_then(|()| check_paths(world)).map_err(|difference| Failure {
        kind: FailureKind::Difference,
        what: difference.to_string(),
    })
}

fn judge(world: &mut World, report: &mut Report) {
    let unresolved = world.finish_load();
    let verdict = world.ledger().borrow_mut().verdict();
    for kind in ProblemKind::ALL {
        let count = verdict.counts.faults[kind as usize];
        let Some(example) = verdict.examples.iter().find(|it| it.kind == kind) else { continue };
        let what = format!("{count}, such as {example}");
        report.failures.push(Failure { kind: FailureKind::Ledger(kind), what });
    }
    let counted = format!("{:?} {unresolved}", verdict.counts);
    let counted = counted.bytes().map(u64::from);
    let also = [world.turns(), world.register().swaps()];
    report.trace_hash = counted.chain(also).fold(world.network().trace_hash(), |hash, word| {
        (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
    });
    report.counts = verdict.counts;
    report.faults = world.fault_counts().clone();
    for (kind, count) in world.next_hop_faults().filter(|(_, count)| *count > 0) {
        report.faults.insert(kind, count);
    }
    if world.register().repeats() > 0 {
        report.faults.insert("swap repeated", world.register().repeats());
    }
    report.paths = world.path_counts();
    report.packets = world.network().statistics().packets;
    report.virtual_time = world.now().saturating_since(Instant::ZERO);
    report.turns = world.turns();
}

/// How often what is looked at as a whole is checked, in the world's time.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The longest that a fault lasts beyond the time in which faults begin.
const RETURN_TIME_MAX: Duration = Duration::from_secs(10);

/// Within so much of the world's time after the last fault everything must be at rest. The longest
/// time-outs of the configuration, one after the other, stay below.
const SETTLING_TIME_MAX: Duration = Duration::from_secs(60);

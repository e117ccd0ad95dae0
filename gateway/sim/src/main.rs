//! The simulator's command line.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use sim::chronicle::Chronicle;
use sim::model::{Bounds, Start, search};
use sim::report::{Report, Verdict};
use sim::run::run_with;
use sim::scenario::{FaultLevel, Options};
use sim::tally::Tally;
use sim::transport::Links;

/// Runs the whole system on one thread in virtual time, with faults, from a seed.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Take the first seed from the operating system, and print it.
    #[arg(long, conflicts_with = "seed")]
    random: bool,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Mails that the senders offer.
    #[arg(long, default_value_t = 10_000)]
    mails: u64,
    /// What goes wrong.
    #[arg(long, value_enum, default_value_t = Faults::All)]
    faults: Faults,
    /// What the links between gateways and servers run over.
    #[arg(long, value_enum, default_value_t = LinkKind::Streams)]
    links: LinkKind,
    /// How many runs at the same time, each on a thread of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
    /// Look at every order of events of one queue instead, up to `--depth` of them.
    #[arg(long)]
    model: bool,
    /// How many events, one after the other, in the model.
    #[arg(long, default_value_t = 7)]
    depth: usize,
    /// Print what happens, as it happens.
    #[arg(long)]
    trace: bool,
    /// Print no line for a run that passed.
    #[arg(long)]
    quiet: bool,
    /// Print the figures at the end as one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Faults {
    /// Nothing.
    None,
    /// The gateway and a server crash and return.
    Crashes,
    /// Only paths to the servers fail, on one of two network segments at a time.
    Paths,
    /// Processes are stopped for a while, and another gateway takes the queues over.
    TakeOvers,
    /// The gateway and a server crash, and connections, paths and the next hop fail.
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum LinkKind {
    /// Streams of bytes, as all other connections: much faster.
    Streams,
    /// The TCP of the bypass, over an Ethernet that loses, doubles, reorders and alters packets.
    Smoltcp,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if arguments.random {
        arguments.seed = random_seed();
        let Arguments { seed, seeds, mails, faults, links, .. } = arguments;
        let (faults, links) = (FaultLevel::from(faults).name(), Links::from(links).name());
        println!(
            "base seed {seed}; once more with: cargo run --release -p hikyaku-sim --bin sim -- \
             --seed {seed} --seeds {seeds} --mails {mails} --faults {faults} --links {links}"
        );
    }
    let began = Instant::now();
    if arguments.model {
        return look_at_models(arguments.depth);
    }
    let mut tally = Tally::default();
    run_all(&arguments, |report| {
        tally.add(&report);
        if !arguments.quiet || report.verdict() != Verdict::Passed {
            println!("{report}");
        }
    });
    if arguments.json {
        println!("{}", tally.json(began.elapsed()));
    } else {
        print!("{}", tally.text(began.elapsed()));
    }
    if tally.has_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The exhaustive search, from each start.
fn look_at_models(depth: usize) -> ExitCode {
    let is_sound = |start: &Start| look_at_model(*start, depth);
    if Start::ALL.iter().all(is_sound) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether it finds nothing.
fn look_at_model(start: Start, depth: usize) -> bool {
    let began = Instant::now();
    let found = search(start, Bounds { depth, ..Bounds::LARGE }, None);
    let cut_off = if found.is_cut_off { ", cut off" } else { "" };
    println!(
        "{start:?}: {} states, {} steps, {} events deep{cut_off}, in {:.1} s",
        found.states,
        found.steps,
        found.depth,
        began.elapsed().as_secs_f64()
    );
    let Some((broken, way)) = found.broken else { return true };
    println!("{broken}");
    way.iter().for_each(|action| println!("    {action:?}"));
    false
}

/// Runs all seeds, and gives their reports as they come.
fn run_all(arguments: &Arguments, mut take: impl FnMut(Report)) {
    let Arguments { seed, seeds, mails, faults, links, jobs, trace, .. } = *arguments;
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // A thread waits when another report has not been taken yet. It belongs to this scope: if `take` panics, as
        // when nobody reads the output any more, the threads must learn that and end.
        let (reports, taken) = sync_channel(1);
        for _ in 0..jobs.min(seeds) {
            let (next, reports) = (&next, reports.clone());
            scope.spawn(move || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= seeds {
                        return;
                    }
                    let options = Options {
                        links: links.into(),
                        ..Options::new(seed.wrapping_add(place), mails, faults.into())
                    };
                    let report = run_with(options, &Chronicle::new(trace));
                    if reports.send(report).is_err() {
                        return;
                    }
                }
            });
        }
        drop(reports);
        taken.iter().for_each(&mut take);
    });
}

/// A seed that nobody knew before, short enough to be typed.
fn random_seed() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    u64::from_le_bytes(bytes) >> 24
}

impl From<LinkKind> for Links {
    fn from(links: LinkKind) -> Links {
        match links {
            LinkKind::Streams => Links::Streams,
            LinkKind::Smoltcp => Links::Smoltcp,
        }
    }
}

impl From<Faults> for FaultLevel {
    fn from(faults: Faults) -> FaultLevel {
        match faults {
            Faults::None => FaultLevel::None,
            Faults::Crashes => FaultLevel::Crashes,
            Faults::Paths => FaultLevel::Paths,
            Faults::TakeOvers => FaultLevel::TakeOvers,
            Faults::All => FaultLevel::All,
        }
    }
}

//! The simulator's command line.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use sim::chronicle::Chronicle;
use sim::report::Verdict;
use sim::run::run_with;
use sim::scenario::{FaultLevel, Options};

/// Runs the whole system on one thread in virtual time, with faults, from a seed.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Mails that the senders offer.
    #[arg(long, default_value_t = 10_000)]
    mails: u64,
    /// What goes wrong.
    #[arg(long, value_enum, default_value_t = Faults::All)]
    faults: Faults,
    /// Print what happens, as it happens.
    #[arg(long)]
    trace: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Faults {
    /// Nothing.
    None,
    /// The gateway and a server crash and return.
    Crashes,
    /// Only paths to the servers fail, on one of two network segments at a time.
    Paths,
    /// The gateway and a server crash, and connections, paths and the next hop fail.
    All,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let faults = match arguments.faults {
        Faults::None => FaultLevel::None,
        Faults::Crashes => FaultLevel::Crashes,
        Faults::Paths => FaultLevel::Paths,
        Faults::All => FaultLevel::All,
    };
    let began = Instant::now();
    let mut virtual_time = Duration::ZERO;
    let mut failed = Vec::new();
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let options = Options::new(seed, arguments.mails, faults);
        let report = run_with(options, &Chronicle::new(arguments.trace));
        virtual_time += report.virtual_time;
        println!("{report}");
        if report.verdict() != Verdict::Passed {
            failed.push(seed);
        }
    }
    let wall = began.elapsed().as_secs_f64();
    let (seeds, simulated) = (arguments.seeds, virtual_time.as_secs_f64());
    println!(
        "{seeds} seeds, {simulated:.0} s simulated in {wall:.1} s ({:.1} times)",
        simulated / wall
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("not passed: {failed:?}");
        ExitCode::FAILURE
    }
}

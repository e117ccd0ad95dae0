//! `loadgen compare`: contests between us and our peers.

mod client;
mod gateway;
mod links;
mod recovery;
mod server;
mod stores;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use loadgen::compare::{Comparison, Contender, Document, Family, Machine, Run};
use loadgen::cores::round_trip_ns;

use super::{Failure, Stop, parse_cores};

/// Measure us and our peers side by side, taking turns, by the same client, and write who is ahead. Peers that are not
/// there are named and left out. Exit status 0 only if every run counts.
#[derive(Args)]
pub(crate) struct Options {
    /// Which contests; several with commas between. Default: kvs, recovery, and gateway if there is a --relay.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Contest>,
    /// How much of each: `whole`; `quick` leaves sizes, depths and workloads out; `smallest` shows that it works.
    #[arg(long, value_enum, default_value_t = Scale::Whole)]
    scale: Scale,
    /// Rounds. Default: 3, with `smallest` 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: Option<u32>,
    /// Two cores: client and server each get one in the contests of stores; those of gateways use both.
    #[arg(long, default_value = "0,1", value_parser = parse_cores, value_name = "CORE,CORE")]
    cores: (usize, usize),
    /// Where peers are, each in DIR/NAME as its package unpacks. Else they are looked for as installed.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Where our own programs are. Default: where this one is.
    #[arg(long, value_name = "DIR")]
    ours: Option<PathBuf>,
    /// Only these stores, by the names that the report has; repeatable.
    #[arg(long, value_name = "NAME")]
    store: Vec<String>,
    /// A relay for the contest of gateways; repeatable. COMMAND LISTEN NEXT-HOP DIRECTORY runs it until SIGTERM;
    /// COMMAND --describe prints its version and how it is set up, or fails and says why it is not there. A name that begins with
    /// Hikyaku is ours.
    #[arg(long = "relay", value_name = "NAME=COMMAND", value_parser = parse_relay)]
    relays: Vec<(String, PathBuf)>,
    /// The figures of setup/links.sh, for the contest of transports.
    #[arg(long, value_name = "FILE")]
    links: Option<PathBuf>,
    /// For configurations, spools and logs while it runs.
    #[arg(long, value_name = "DIR")]
    scratch: PathBuf,
    /// Write the report as a page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write all figures.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Measure nothing: write page and tables from the JSON of an earlier comparison.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "relays", "links"])]
    again: Option<PathBuf>,
    /// Only say how long it will take.
    #[arg(long)]
    estimate: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Contest {
    Kvs,
    Recovery,
    Gateway,
    Transports,
}

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Scale {
    Smallest,
    Quick,
    Whole,
}

fn parse_relay(text: &str) -> Result<(String, PathBuf), String> {
    let parts =
        text.split_once('=').filter(|(name, command)| !name.is_empty() && !command.is_empty());
    parts
        .map(|(name, command)| (name.into(), command.into()))
        .ok_or("not of the form NAME=COMMAND".into())
}

/// What all contests have: how to run, and what was measured so far.
struct Bench<'a> {
    options: &'a Options,
    stop: Stop,
    scratch: PathBuf,
    rounds: u32,
    comparison: Comparison,
    began: Instant,
    estimate_s: f64,
    /// For how long it still waits for cores that are apart: in all as long as it takes by itself.
    patience: Duration,
}

/// How often a run is made again at most while the cores are apart.
const REPEATS_MAX: u32 = 3;
/// Between two looks at cores that are apart: hosts move them every few seconds.
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) fn run(options: &Options) -> Result<ExitCode, Failure> {
    if let Some(path) = &options.again {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let comparison: Comparison =
            serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        write(options, &comparison)?;
        return Ok(ExitCode::SUCCESS);
    }
    std::fs::create_dir_all(&options.scratch)?;
    let rounds = options.rounds.unwrap_or(if options.scale == Scale::Smallest { 1 } else { 3 });
    let mut bench = Bench {
        options,
        stop: Stop::on_signals()?,
        // Programs are started elsewhere.
        scratch: options.scratch.canonicalize()?,
        rounds,
        comparison: Comparison {
            began: date(),
            machine: machine(options),
            ..Comparison::default()
        },
        began: Instant::now(),
        estimate_s: 0.0,
        patience: Duration::ZERO,
    };
    let stores = bench.wants(Contest::Kvs).then(|| stores::plan(&mut bench));
    let recoveries = bench.wants(Contest::Recovery).then(|| recovery::plan(&mut bench));
    let gateways = bench.wants(Contest::Gateway).then(|| gateway::plan(&mut bench));
    if bench.wants(Contest::Transports) {
        links::take(&mut bench)?;
    }
    eprintln!("about {:.0} minutes", (bench.estimate_s / 60.0).ceil());
    for Contender { name, missing, .. } in &bench.comparison.contenders {
        if let Some(why) = missing {
            eprintln!("{name} is left out: {why}");
        }
    }
    if options.estimate {
        return Ok(ExitCode::SUCCESS);
    }
    bench.patience = Duration::from_secs_f64(bench.estimate_s);
    if let Some(plan) = stores {
        stores::run(&mut bench, &plan);
    }
    if let Some(plan) = recoveries {
        recovery::run(&mut bench, &plan);
    }
    if let Some(plan) = gateways {
        gateway::run(&mut bench, &plan);
    }
    bench.conclude()
}

/// Figures of a run, and the command that it was made by.
type Measured = (BTreeMap<String, f64>, String);

/// A run, or why there is none.
fn run_of(
    family: Family,
    contender: &str,
    conditions: BTreeMap<String, String>,
    round: u32,
    measured: Result<Measured, Failure>,
) -> Run {
    let (figures, command, failure) = match measured {
        Ok((figures, command)) => (figures, command, None),
        Err(why) => (BTreeMap::new(), String::new(), Some(why.to_string())),
    };
    Run { family, contender: contender.into(), conditions, round, figures, command, failure }
}

impl Bench<'_> {
    fn wants(&self, contest: Contest) -> bool {
        if !self.options.only.is_empty() {
            return self.options.only.contains(&contest);
        }
        match contest {
            Contest::Kvs | Contest::Recovery => true,
            Contest::Gateway => !self.options.relays.is_empty(),
            Contest::Transports => self.options.links.is_some(),
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_raised()
    }

    /// Both cores, for taskset.
    fn both_cores(&self) -> String {
        format!("{},{}", self.options.cores.0, self.options.cores.1)
    }

    /// One of our own programs.
    fn our_program(&self, name: &str) -> Result<PathBuf, Failure> {
        let own = client::own_program()?;
        let beside = || own.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(self.options.ours.clone().unwrap_or_else(beside).join(name))
    }

    /// A program of a peer: as unpacked, or as installed.
    fn program(&self, peer: &str, name: &str) -> Option<PathBuf> {
        let unpacked = self.options.programs.iter().flat_map(|dir| {
            ["usr/bin", "usr/sbin"].map(|place| dir.join(peer).join(place).join(name))
        });
        let installed =
            ["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(|place| Path::new(place).join(name));
        unpacked.chain(installed).find(|path| path.is_file())
    }

    /// Makes runs between two looks at the cores, and makes them again while these were apart, whoever's they are. `make` starts
    /// what it measures, and ends it. Those that were made last are returned.
    fn make_runs(&mut self, make: impl Fn(&Self) -> Vec<Run>) -> &[Run] {
        let mut first = self.comparison.runs.len();
        for _ in 0..=REPEATS_MAX {
            let before = self.await_near_cores();
            let mut runs = make(self);
            if self.is_stopped() {
                // They have not failed: a signal ended them.
                runs.retain(|run| run.failure.is_none());
            }
            let looks = [before, self.look_at_cores()];
            first = self.comparison.runs.len();
            for mut run in runs {
                run.note_cores(looks.into_iter().flatten());
                self.add(run);
            }
            if self.is_stopped() || !self.is_to_repeat(&self.comparison.runs[first..]) {
                break;
            }
        }
        &self.comparison.runs[first..]
    }

    /// Looks at the cores until they are near each other or patience has run out: what is measured meanwhile would be left out.
    fn await_near_cores(&mut self) -> Option<f64> {
        let mut is_told = false;
        loop {
            let seen = self.look_at_cores();
            let is_near = seen.is_none_or(|ns| !self.comparison.are_apart(ns));
            if is_near || self.patience.is_zero() || self.is_stopped() {
                return seen;
            }
            if !is_told {
                let left_s = self.patience.as_secs();
                eprintln!("the cores are apart: waiting for them to be near, {left_s} s at most");
                is_told = true;
            }
            let pause = PAUSE.min(self.patience);
            thread::sleep(pause);
            self.patience -= pause;
        }
    }

    /// How far they are apart, in nanoseconds. What is not known stands in nobody's way.
    fn look_at_cores(&self) -> Option<f64> {
        let seen = round_trip_ns(self.options.cores);
        seen.inspect_err(|why| eprintln!("how far the cores are apart is not known: {why}")).ok()
    }

    /// Not what failed: that counts for nothing, and may take its time.
    fn is_to_repeat(&self, runs: &[Run]) -> bool {
        let failed = runs.iter().any(|run| run.failure.is_some());
        !failed && runs.iter().any(|run| self.comparison.is_apart(run))
    }

    /// Takes a run in, or why there is none, and tells of it.
    fn add(&mut self, run: Run) {
        self.comparison.runs.push(run);
        let run = self.comparison.runs.last().expect("there is one now");
        let conditions: Vec<&str> = run.conditions.values().map(String::as_str).collect();
        let main = ["rate", "relayed_per_s", "whole_s"];
        let figure = main.iter().find_map(|name| Some((name, run.figures.get(*name)?)));
        let result = match (&run.failure, figure) {
            (Some(why), _) => format!("FAILED: {why}"),
            (None, Some((name, value))) => format!("{name} {value:.1}"),
            (None, None) => "done".into(),
        };
        let apart = if self.comparison.is_apart(run) { "  cores apart" } else { "" };
        let minutes = self.began.elapsed().as_secs_f64() / 60.0;
        let (contender, round) = (&run.contender, run.round);
        eprintln!(
            "{minutes:5.1} min  round {round}  {contender}  {}  {result}{apart}",
            conditions.join(" ")
        );
    }

    fn conclude(mut self) -> Result<ExitCode, Failure> {
        self.comparison.took_s = self.began.elapsed().as_secs_f64();
        write(self.options, &self.comparison)?;
        let failed = self.comparison.failures().count();
        if self.stop.is_raised() {
            return Err("stopped by a signal: the report has what was measured until then".into());
        }
        if failed > 0 {
            eprintln!("{failed} runs failed; the report names them");
        }
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn write(options: &Options, comparison: &Comparison) -> Result<(), Failure> {
    let document = Document::of(comparison);
    let put = |path: &Option<PathBuf>, text: &dyn Fn() -> Result<String, Failure>| {
        let Some(path) = path else { return Ok::<(), Failure>(()) };
        std::fs::write(path, text()?).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(())
    };
    put(&options.json, &|| Ok(serde_json::to_string_pretty(comparison)? + "\n"))?;
    put(&options.html, &|| Ok(document.to_html()))?;
    put(&options.markdown, &|| Ok(document.to_markdown()))?;
    for headline in &document.headlines {
        println!(
            "{:6} {:5.2}x ({:.2} to {:.2})  {}: {}; {}",
            format!("{:?}", headline.standing()).to_lowercase(),
            headline.ratio.median,
            headline.ratio.low,
            headline.ratio.high,
            headline.what,
            headline.ours,
            headline.theirs,
        );
    }
    Ok(())
}

fn machine(options: &Options) -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| -> Option<String> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().into())
    };
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let kib =
        value(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let load = read("/proc/loadavg").split(' ').next().and_then(|text| text.parse().ok());
    Machine {
        cpu: value(&cpu, "model name").unwrap_or_else(|| "unknown CPU".into()),
        cores: cpu.lines().filter(|line| line.starts_with("processor")).count() as u64,
        cores_used: format!("{} and {}", options.cores.0, options.cores.1),
        memory_bytes: kib.unwrap_or(0) * 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().into(),
        load_before: load.unwrap_or(0.0),
    }
}

/// Now, as a date and a time (UTC).
fn date() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (mut days, seconds) = (since / 86_400, since % 86_400);
    let mut year = 1970;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute) = (seconds / 3600, seconds / 60 % 60);
    format!("{year}-{:02}-{:02} {hour:02}:{minute:02} UTC", month + 1, days + 1)
}

/// Whoever is not there, and why.
fn missing(family: Family, name: &str, role: loadgen::compare::Role, why: String) -> Contender {
    let (version, setup) = (String::new(), String::new());
    Contender { family, name: name.into(), role, version, setup, missing: Some(why) }
}

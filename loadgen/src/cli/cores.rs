//! `loadgen cores`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use loadgen::cores::round_trip_ns;
use loadgen::host::host_section;
use loadgen::report::{Report, Section};

use super::{Failure, conclude, parse_cores};

/// Measure how far two cores are apart: what it takes for a cache line to pass from one to the other and back. On a virtual
/// machine that changes while it runs, and figures are comparable only where it was the same.
#[derive(Args)]
pub(crate) struct Options {
    /// Which two.
    #[arg(long, default_value = "0,1", value_parser = parse_cores, value_name = "CORE,CORE")]
    cores: (usize, usize),
    /// Write the report to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, Failure> {
    let (a, b) = options.cores;
    let label = format!("from core {a} to core {b} and back");
    let section = Section::new("cores", "a cache line");
    let mut report = Report::new("cores");
    report.add(section.number("round_trip_ns", &label, round_trip_ns(options.cores)?, "ns"));
    report.add(host_section());
    conclude(&report, options.json.as_deref(), true)
}

//! `loadgen ledger`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use loadgen::ledger::{Bounces, Ledger, Policy, read_log};
use loadgen::report::Report;

use super::{Failure, conclude};

/// Judge the logs of senders and sinks: exit status 0 only if nothing is lost, altered, invented,
/// sent astray, doubled or reordered beyond what is allowed.
#[derive(Args)]
pub(crate) struct Options {
    /// Logs written by `smtp --ledger` and `sink --ledger`.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Order within queues: `strict` (delivery over one connection), `report` (not judged), or by
    /// how many mails one may be overtaken.
    #[arg(long, default_value = "report", value_parser = parse_order)]
    order: Order,
    /// A gateway crashed or restarted then, in milliseconds since 1970; what was delivered shortly
    /// before may be delivered once more. Repeatable.
    #[arg(long = "restart-at", value_name = "UNIX_MS")]
    restarts_at: Vec<u64>,
    /// How shortly before a restart.
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    restart_window_ms: u64,
    /// How far clocks of several senders may be apart; counts for order only.
    #[arg(long, default_value_t = 0, value_name = "US")]
    clock_slack_us: u64,
    /// DSNs for what a sink refused for good. What they say is judged in any case.
    #[arg(long, value_enum, default_value_t = Expected::Ignored)]
    bounces: Expected,
    /// The gateway may give up what no sink refused for good, if it says so by a DSN (expiry, a next
    /// hop that lacks an extension).
    #[arg(long)]
    allow_giving_up: bool,
    /// Deliveries that bear none of our identities are no fault.
    #[arg(long)]
    allow_foreign: bool,
    /// Write the report to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Expected {
    /// They may be missing.
    Ignored,
    /// One for each recipient that a sink refused for good.
    Required,
    /// None: the load asked for none.
    Forbidden,
}

#[derive(Clone, Copy)]
struct Order(Option<u64>);

fn parse_order(text: &str) -> Result<Order, String> {
    match text {
        "strict" => Ok(Order(Some(0))),
        "report" => Ok(Order(None)),
        _ => text
            .parse()
            .map(|most| Order(Some(most)))
            .map_err(|_| "neither strict nor report nor a number".into()),
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, Failure> {
    let mut ledger = Ledger::new(Policy {
        displacement_max: options.order.0,
        restarts_us: options.restarts_at.iter().map(|ms| ms.saturating_mul(1000)).collect(),
        restart_window_us: options.restart_window_ms.saturating_mul(1000),
        clock_slack_us: options.clock_slack_us,
        foreign_allowed: options.allow_foreign,
        bounces: match options.bounces {
            Expected::Ignored => Bounces::Ignored,
            Expected::Required => Bounces::Required,
            Expected::Forbidden => Bounces::Forbidden,
        },
        giving_up_allowed: options.allow_giving_up,
    });
    for path in &options.files {
        read_log(path, &mut ledger).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let verdict = ledger.verdict();
    let mut report = Report::new("ledger");
    report.add(verdict.counts.section());
    report.add(verdict.section());
    conclude(&report, options.json.as_deref(), verdict.is_clean())
}

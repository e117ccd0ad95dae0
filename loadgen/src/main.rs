//! `loadgen`: load, sinks, measurements and the ledger.

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load, sinks, measurements and the ledger for Hikyaku and its peers.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Smtp(cli::smtp::Options),
    Sink(cli::sink::Options),
    Ledger(cli::ledger::Options),
    Crowd(cli::crowd::Options),
    Kvs(cli::kvs::KvsOptions),
    Recovery(cli::kvs::RecoveryOptions),
    NullServer(cli::kvs::NullOptions),
    Store(cli::store::StoreOptions),
    ListRecovery(cli::store::ListRecoveryOptions),
    Watch(cli::watch::Options),
    Cores(cli::cores::Options),
    Compare(cli::compare::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Smtp(options) => cli::smtp::run(options),
        Command::Sink(options) => cli::sink::run(&options),
        Command::Ledger(options) => cli::ledger::run(&options),
        Command::Crowd(options) => cli::crowd::run(&options),
        Command::Kvs(options) => cli::kvs::run(&options),
        Command::Recovery(options) => cli::kvs::run_recovery(&options),
        Command::NullServer(options) => cli::kvs::run_null(&options),
        Command::Store(options) => cli::store::run(&options),
        Command::ListRecovery(options) => cli::store::run_recovery(&options),
        Command::Watch(options) => cli::watch::run(&options),
        Command::Cores(options) => cli::cores::run(&options),
        Command::Compare(options) => cli::compare::run(&options),
    };
    result.unwrap_or_else(|error| {
        eprintln!("loadgen: {error}");
        ExitCode::from(2)
    })
}

//! The program `kvs`: a backup queue server.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kvs::server::Server;
use kvs::settings::{LogFormat, Settings};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

/// Backup queue server: keeps the queues of mail gateways in memory, in order.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and leave.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let label = arguments.config.display().to_string();
    let settings = config::read_file(&arguments.config).and_then(|text| {
        let parsed = Settings::parse(&label, &text, config::read_file);
        parsed.map_err(|mistakes| mistakes.to_string())
    });
    let settings = match settings {
        Ok(settings) => settings,
        Err(message) => {
            eprintln!("{}", message.trim_end());
            return ExitCode::from(2);
        }
    };
    if arguments.check {
        println!("{label}: no mistakes");
        return ExitCode::SUCCESS;
    }
    begin_logs(settings.log);
    match serve(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot serve");
            ExitCode::FAILURE
        }
    }
}

/// Serves until SIGTERM or SIGINT.
fn serve(settings: &Settings) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut source = File::open("/dev/urandom")?;
    // Before there are other threads.
    let server = Server::start(settings, |bytes| source.read_exact(bytes))?;
    let signal = signals.forever().next();
    tracing::info!(signal, "stopping");
    server.stop();
    Ok(())
}

/// Logs go to the standard error output; RUST_LOG chooses which, by default from `info` on.
fn begin_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
}

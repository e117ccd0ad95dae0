//! The gateway's program.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gateway::gateway::Gateway;
use gateway::reload::Reloader;
use gateway::settings::Settings;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// A mail gateway that answers 250 when a message is in the memory of three machines.
#[derive(Parser, Debug)]
#[command(version, about)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Checks the configuration and ends.
    #[arg(long)]
    check: bool,
    /// Starts with empty queues although the register names copies, when all of those are lost.
    #[arg(long)]
    accept_loss: bool,
}

/// What the shell is told: the configuration is wrong.
const EXIT_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let text = match config::read_file(&arguments.config) {
        Ok(text) => text,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    let mut settings = match Settings::parse(&arguments.config, &text) {
        Ok(settings) => settings,
        Err(mistakes) => {
            eprint!("{mistakes}");
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    if arguments.check {
        println!("{}: correct", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    settings.policy.accept_loss = arguments.accept_loss;
    begin_to_log(settings.log_json);
    match run(arguments.config, text, settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: PathBuf, text: String, settings: Settings) -> Result<(), String> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| format!("no random numbers: {error}"))?;
    // Before the start: a signal that comes meanwhile waits.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]);
    let mut signals = signals.map_err(|error| error.to_string())?;
    let handle = signals.handle();
    let gateway = Gateway::start(&settings, u64::from_le_bytes(seed));
    let gateway = gateway.map_err(|error| error.to_string())?;
    let stopper = gateway.stopper();
    let mut reloader = Reloader::new(path, text, settings, gateway.board(), gateway.stopper());
    let waiting = std::thread::spawn(move || {
        for signal in &mut signals {
            if signal == SIGHUP {
                reloader.reload();
                continue;
            }
            info!(signal, "stopping: no more mail is accepted, what is under way is finished");
            stopper.stop();
        }
    });
    let result = gateway.join();
    handle.close();
    let _ = waiting.join();
    info!("stopped");
    result.map_err(|fatal| fatal.0)
}

/// Records go to standard error. `RUST_LOG` chooses, the default is `info`.
fn begin_to_log(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if json {
        log.json().init();
    } else {
        log.init();
    }
}

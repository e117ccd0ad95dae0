//! The gateway's program.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use gateway::gateway::Gateway;
use gateway::reload::Reloader;
use gateway::settings::Settings;
use gateway::status::server::StatusSocket;
use gateway::status::{About, Snapshot, client};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tcpstack::Clock;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// A mail gateway that answers 250 when a message is in the memory of three machines.
#[derive(Parser, Debug)]
#[command(version, about, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration file.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Checks the configuration and ends.
    #[arg(long)]
    check: bool,
    /// Starts with empty queues although the register names copies, when all of those are lost.
    #[arg(long)]
    accept_loss: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Asks a running gateway how its queues and their copies are.
    ///
    /// Exit status: 0 if every queue is in service with all of its copies, 3 if one is not, 1 if the gateway
    /// cannot be asked or knows no such queue, 2 if the arguments or the configuration are wrong.
    Status(StatusArguments),
}

#[derive(clap::Args, Debug)]
struct StatusArguments {
    /// The gateway's configuration file, which names the socket.
    #[arg(long, value_name = "FILE", required_unless_present = "socket")]
    config: Option<PathBuf>,
    /// The socket.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Of this queue only.
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// As JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// What the shell is told: the configuration is wrong.
const EXIT_CONFIGURATION: u8 = 2;

/// What the shell is told: not every queue has all of its copies.
const EXIT_NOT_WELL: u8 = 3;

/// How long workers may take to tell how they are.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Status(arguments)) = arguments.command {
        return show_status(arguments);
    }
    let path = arguments.config.expect("required without a subcommand");
    let (text, mut settings) = match read_settings(&path) {
        Ok(read) => read,
        Err(failure) => return failure,
    };
    if arguments.check {
        println!("{}: correct", path.display());
        return ExitCode::SUCCESS;
    }
    settings.policy.accept_loss = arguments.accept_loss;
    begin_to_log(settings.log_json);
    match run(path, text, settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the configuration; tells its mistakes.
fn read_settings(path: &Path) -> Result<(String, Settings), ExitCode> {
    let text = config::read_file(path).map_err(|why| {
        eprintln!("{why}");
        ExitCode::from(EXIT_CONFIGURATION)
    })?;
    let settings = Settings::parse(path, &text).map_err(|mistakes| {
        eprint!("{mistakes}");
        ExitCode::from(EXIT_CONFIGURATION)
    })?;
    Ok((text, settings))
}

fn show_status(arguments: StatusArguments) -> ExitCode {
    let socket = match (arguments.socket, arguments.config) {
        (Some(socket), _) => socket,
        (None, Some(config)) => match read_settings(&config).map(|(_, it)| it.status_socket) {
            Ok(Some(socket)) => socket,
            Ok(None) => {
                eprintln!("{}: without `status_socket` nobody can be asked", config.display());
                return ExitCode::from(EXIT_CONFIGURATION);
            }
            Err(failure) => return failure,
        },
        (None, None) => unreachable!("one of them is required"),
    };
    match client::show(&socket, arguments.json, arguments.queue.as_deref()) {
        Ok(shown) => {
            // Whoever reads may have seen enough.
            let _ = std::io::stdout().write_all(shown.text.as_bytes());
            if shown.is_well { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NOT_WELL) }
        }
        Err(why) => {
            eprintln!("{why}");
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
    let socket = settings.status_socket.as_deref().map(StatusSocket::bind).transpose()?;
    let about = About {
        name: settings.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        process: std::process::id(),
        started_unix_ms: Clock::new().unix_ms(),
        register: settings.register.to_string(),
    };
    let gateway = Gateway::start(&settings, u64::from_le_bytes(seed));
    let gateway = gateway.map_err(|error| error.to_string())?;
    let stopper = gateway.stopper();
    let asked = gateway.stopper();
    let snapshot =
        move || Snapshot::of(&about, Clock::new().unix_ms(), &asked.ask_status(STATUS_PATIENCE));
    let serving = socket.map(|socket| socket.serve(snapshot)).transpose();
    let serving = serving.map_err(|error| error.to_string())?;
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
    drop(serving);
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

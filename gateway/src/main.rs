//! The gateway's program.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use clap::{Parser, Subcommand};
use gateway::bypass;
use gateway::gateway::Gateway;
use gateway::register::document::keep;
use gateway::register::{self, WriterId};
use gateway::reload::Reloader;
use gateway::settings::{Settings, kept};
use gateway::status::orders::{Of, Order};
use gateway::status::server::StatusSocket;
use gateway::status::{About, Snapshot, client};
use gateway::take_over::Ending;
use gateway::take_over::charge::{Keeper, take_charge};
use gateway::take_over::program::run_senders;
use gateway::take_over::seat::{Holder, Kind};
use gateway::take_over::sender::Start;
use gateway::take_over::settings::SenderSettings;
use gateway::worker::Shared;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tcpstack::{Clock, LinksTaken};
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
    /// Has a running gateway move copies of queues from one server to another, or keep those where they are that
    /// are being moved.
    ///
    /// Queues that share a record in the register move together. It returns at once: `gateway status` tells how far
    /// it is. Exit status: 0 if that is done, 1 if it is not, for the reason that is printed, 2 if the arguments or the
    /// configuration are wrong.
    Move(MoveArguments),
    /// Has a running gateway deliver from queues of which neither the register nor a server can say whose they are.
    ///
    /// Without a lease a gateway keeps its mail and delivers none: somebody may have taken its queues over. Where all
    /// servers with copies are gone, or the register is, nobody can tell it. Say that none has, and only if you know
    /// it: else mail is delivered twice. It holds until the register or such a server is back. Exit status: 0 if
    /// that is done, 1 if it is not, for the reason that is printed, 2 if the arguments or the configuration are wrong.
    Resume(ResumeArguments),
    /// Delivers what other gateways have left at their servers: the sender program, for the machine of a server.
    ///
    /// With --of alone the queues of that gateway are taken over at once, whoever has them, and the program ends
    /// when it has handed them back. Otherwise it stands by, and takes over when nobody has owned the queues for a
    /// while. Exit status: 0 if it was told to end or has handed the queues back, 1 if it could not take over or the
    /// queues were taken from it, 2 if the arguments or the configuration are wrong.
    TakeOver(TakeOverArguments),
    /// Has the register keep the settings of a gateway that does not run: a sender program that has its queues works
    /// by them within a second or two.
    ///
    /// A gateway that runs does that itself, at its start and when it takes a new configuration. Exit status: 0 if they
    /// are kept, 1 if the register cannot be used, 2 if the configuration is wrong.
    KeepSettings(KeepArguments),
}

#[derive(clap::Args, Debug)]
struct KeepArguments {
    /// The gateway's configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(clap::Args, Debug)]
struct TakeOverArguments {
    /// The sender program's configuration file.
    #[arg(long, value_name = "FILE", default_value = "sender.toml")]
    config: PathBuf,
    /// Of this gateway only.
    #[arg(long, value_name = "NAME")]
    of: Option<String>,
    /// Stand by for that gateway, with this delay ("60s") in the place of the configured one.
    #[arg(long, value_name = "TIME", requires = "of", value_parser = parse_time)]
    after: Option<Duration>,
    /// Checks the configuration and ends.
    #[arg(long)]
    check: bool,
}

/// Which gateway is meant.
#[derive(clap::Args, Debug)]
struct Whom {
    /// The gateway's configuration file, which names the socket.
    #[arg(long, value_name = "FILE", required_unless_present = "socket")]
    config: Option<PathBuf>,
    /// The socket.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
struct ResumeArguments {
    #[command(flatten)]
    whom: Whom,
    /// No other gateway and no sender program has taken the queues over since this one lost its lease.
    #[arg(long, required = true)]
    no_take_over_happened: bool,
}

#[derive(clap::Args, Debug)]
struct MoveArguments {
    #[command(flatten)]
    whom: Whom,
    /// This queue, and those that share its record.
    #[arg(long, value_name = "NAME", required_unless_present = "group")]
    queue: Option<String>,
    /// All queues of this group.
    #[arg(long, value_name = "NAME", conflicts_with = "queue")]
    group: Option<String>,
    /// The server that has the copies.
    #[arg(long, value_name = "KVS", required_unless_present = "cancel")]
    from: Option<String>,
    /// The server that gets them.
    #[arg(long, value_name = "KVS", required_unless_present = "cancel")]
    to: Option<String>,
    /// Copies that are being moved stay where they are.
    #[arg(long, conflicts_with_all = ["from", "to"])]
    cancel: bool,
}

#[derive(clap::Args, Debug)]
struct StatusArguments {
    #[command(flatten)]
    whom: Whom,
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
    match arguments.command {
        Some(Command::Status(arguments)) => return show_status(arguments),
        Some(Command::Move(arguments)) => return move_copies(arguments),
        Some(Command::Resume(arguments)) => return resume(arguments),
        Some(Command::TakeOver(arguments)) => return take_over(arguments),
        Some(Command::KeepSettings(arguments)) => return keep_settings(&arguments.config),
        None => {}
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

/// The socket of the gateway that is meant.
fn socket_of(whom: Whom) -> Result<PathBuf, ExitCode> {
    match (whom.socket, whom.config) {
        (Some(socket), _) => Ok(socket),
        (None, Some(config)) => read_settings(&config)?.1.status_socket.ok_or_else(|| {
            eprintln!("{}: without `status_socket` nobody can be asked", config.display());
            ExitCode::from(EXIT_CONFIGURATION)
        }),
        (None, None) => unreachable!("one of them is required"),
    }
}

fn move_copies(arguments: MoveArguments) -> ExitCode {
    let of = match (arguments.queue, arguments.group) {
        (Some(queue), _) => Of::Queue(queue),
        (None, Some(group)) => Of::Group(group),
        (None, None) => unreachable!("one of them is required"),
    };
    let order = match (arguments.from, arguments.to) {
        (Some(from), Some(to)) => Order::Move { of, from, to },
        _ => Order::CancelMove { of },
    };
    give_order(arguments.whom, &order)
}

fn resume(arguments: ResumeArguments) -> ExitCode {
    assert!(arguments.no_take_over_happened, "it is required");
    give_order(arguments.whom, &Order::Resume)
}

fn give_order(whom: Whom, order: &Order) -> ExitCode {
    let socket = match socket_of(whom) {
        Ok(socket) => socket,
        Err(failure) => return failure,
    };
    match client::give(&socket, order) {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn show_status(arguments: StatusArguments) -> ExitCode {
    let socket = match socket_of(arguments.whom) {
        Ok(socket) => socket,
        Err(failure) => return failure,
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

/// What signals and orders are for, once there is something.
#[derive(Default)]
struct Running {
    workers: Option<(Reloader, Arc<Shared>)>,
    /// SIGHUP came before.
    is_reload_asked: bool,
}

impl Running {
    fn snapshot(running: &Mutex<Running>, about: &About) -> Snapshot {
        let workers = locked(running).workers.as_ref().map(|(_, workers)| workers.clone());
        let parts = workers.as_ref().map(|it| it.ask_status(STATUS_PATIENCE)).unwrap_or_default();
        let snapshot = Snapshot::of(about, Clock::new().unix_ms(), &parts);
        Snapshot { is_starting: workers.is_none(), ..snapshot }
    }

    fn follow(&mut self, order: &Order) -> Result<String, String> {
        match &mut self.workers {
            Some((reloader, _)) => reloader.follow(order),
            None => Err("it is starting".into()),
        }
    }
}

fn locked(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().expect("nobody panics while holding it")
}

fn run(path: PathBuf, text: String, settings: Settings) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed()?);
    let text_of = |error: std::io::Error| error.to_string();
    // Before there are threads, which keep what they were started with.
    bypass::keep_privileges(&settings)?;
    let links = bypass::open(&settings).map_err(text_of)?;
    // Before the start: a signal that comes meanwhile waits.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(text_of)?;
    let handle = signals.handle();
    let socket = settings.status_socket.as_deref().map(StatusSocket::bind).transpose()?;
    let writer = WriterId(random.u64(..));
    let mut register = register::open(&settings.register, writer).map_err(text_of)?;
    let (ending, running) = (Arc::new(Ending::default()), Arc::new(Mutex::<Running>::default()));
    let (asked, ours) = (ending.clone(), running.clone());
    let waiting = std::thread::spawn(move || {
        signals.forever().for_each(|signal| handle_signal(signal, &asked, &mut locked(&ours)));
    });
    let (told, ordered, about) = (running.clone(), running.clone(), about(&settings, &links.taken));
    let snapshot = move || Running::snapshot(&told, &about);
    let follow = move |order: &Order| locked(&ordered).follow(order);
    let serving = socket.map(|socket| socket.serve(snapshot, follow)).transpose();
    let serving = serving.map_err(text_of)?;
    let name = settings.name.clone();
    let (kind, life, since_unix_ms) = (Kind::Gateway, random.u64(..), Clock::new().unix_ms());
    let me = Holder { kind, name: name.clone(), life, since_unix_ms };
    let begin = |register| {
        let gateway = Gateway::start(&settings, links, random.u64(..)).map_err(text_of)?;
        let keeper = Keeper::start(register, &name).map_err(text_of)?;
        let stopper = gateway.stopper();
        let reloader = Reloader::new(path, text, settings, gateway.board(), stopper.clone());
        let mut reloader = reloader.with_keeper(keeper);
        let mut running = locked(&running);
        if running.is_reload_asked {
            reloader.reload();
        }
        if ending.is_asked() {
            stopper.stop();
        }
        running.workers = Some((reloader, stopper));
        Ok(gateway)
    };
    let result = match take_charge(register.as_mut(), &me, &ending) {
        true => begin(register).and_then(|gateway| gateway.join().map_err(|fatal| fatal.0)),
        false => Ok(()),
    };
    drop(serving);
    handle.close();
    let _ = waiting.join();
    info!("stopped");
    result
}

fn handle_signal(signal: i32, ending: &Ending, running: &mut Running) {
    match (signal, &mut running.workers) {
        (SIGHUP, Some((reloader, _))) => reloader.reload(),
        (SIGHUP, None) => running.is_reload_asked = true,
        (_, workers) => {
            info!(signal, "stopping: no more mail is accepted, what is under way is finished");
            ending.ask();
            if let Some((_, stopper)) = workers {
                stopper.stop();
            }
        }
    }
}

fn about(settings: &Settings, links: &LinksTaken) -> About {
    About {
        name: settings.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        process: std::process::id(),
        started_unix_ms: Clock::new().unix_ms(),
        register: settings.register.to_string(),
        links: links.into(),
    }
}

fn seed() -> Result<u64, String> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| format!("no random numbers: {error}"))?;
    Ok(u64::from_le_bytes(seed))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = config::parse_duration(text).filter(|time| *time >= Duration::from_secs(1));
    time.ok_or_else(|| "give a time of one second or more, such as 60s".into())
}

fn keep_settings(path: &Path) -> ExitCode {
    let (text, settings) = match read_settings(path) {
        Ok(read) => read,
        Err(failure) => return failure,
    };
    let kept = seed().and_then(|seed| {
        let register = register::open(&settings.register, WriterId(seed));
        let mut register = register.map_err(|error| error.to_string())?;
        let kept = keep(register.as_mut(), &kept::key(&settings.name), &kept::kept(&text))?;
        kept.ok_or_else(|| "others change them all the time: try again".to_owned())
    });
    match kept {
        Ok(version) => {
            println!(
                "the settings of {} are kept in the register: version {version}",
                settings.name
            );
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// The sender program.
fn take_over(arguments: TakeOverArguments) -> ExitCode {
    let wrong = |why: &dyn std::fmt::Display| {
        eprintln!("{}", why.to_string().trim_end());
        ExitCode::from(EXIT_CONFIGURATION)
    };
    let path = &arguments.config;
    let text = match config::read_file(path) {
        Ok(text) => text,
        Err(why) => return wrong(&why),
    };
    let mut settings = match SenderSettings::parse(path, &text) {
        Ok(settings) => settings,
        Err(mistakes) => return wrong(&mistakes),
    };
    if let Some(of) = &arguments.of {
        settings.duties.retain(|duty| duty.of == *of);
        if settings.duties.is_empty() {
            return wrong(&format!("{}: there is no [[take_over]] of {of:?}", path.display()));
        }
    }
    if arguments.check {
        println!("{}: correct", path.display());
        return ExitCode::SUCCESS;
    }
    let start = match (&arguments.of, arguments.after) {
        (Some(_), None) => Start::AtOnce,
        _ => Start::StandBy,
    };
    for duty in &mut settings.duties {
        duty.after = arguments.after.unwrap_or(duty.after);
    }
    begin_to_log(settings.log_json);
    match seed().and_then(|seed| run_senders(settings, start, seed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("{why}");
            ExitCode::FAILURE
        }
    }
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

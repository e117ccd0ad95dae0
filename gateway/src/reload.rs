//! Another configuration for a running gateway: the file is read again and takes effect as a whole,
//! or not at all.

mod orders;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::{Difference, Mistakes, differences, read_file};
use tracing::{error, info, warn};

use crate::board::Board;
use crate::settings::Settings;
use crate::settings::kept::Local;
use crate::status::QueueStatus;
use crate::take_over::charge::Keeper;
use crate::worker::Shared;

/// Takes new configurations in. Belongs to the thread that waits for signals.
#[derive(Debug)]
pub struct Reloader {
    source: Source,
    /// What is in force: the file's text, and what it says.
    text: String,
    settings: Settings,
    /// How many configurations have been in force, this one included.
    number: u64,
    /// The newest order to move copies.
    orders: u64,
    board: Arc<Board>,
    shared: Arc<Shared>,
    /// Has the register keep what is in force, for a sender.
    keeper: Option<Keeper>,
}

/// Where configurations come from.
#[derive(Debug)]
enum Source {
    /// That file.
    File(PathBuf),
    /// The register, for a sender that has this of its own.
    Register(Box<Local>),
}

/// Why a new configuration is not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReloadError {
    /// The file cannot be read.
    Unreadable(String),
    /// It has mistakes.
    Mistakes(Mistakes),
    /// It says something else about what only a start can change.
    Fixed(Vec<&'static str>),
    /// It lacks servers that have copies, or may have: what they have.
    InUse(Vec<String>),
}

impl Reloader {
    /// For a gateway that was started with these settings, which the file at `path` had as its
    /// `text`.
    pub fn new(
        path: PathBuf,
        text: String,
        settings: Settings,
        board: Arc<Board>,
        shared: Arc<Shared>,
    ) -> Reloader {
        Reloader::from(Source::File(path), text, settings, board, shared)
    }

    /// For a sender that works by these settings, which the register had as that text.
    pub fn of_kept(
        local: Local,
        text: String,
        settings: Settings,
        board: Arc<Board>,
        shared: Arc<Shared>,
    ) -> Reloader {
        Reloader::from(Source::Register(Box::new(local)), text, settings, board, shared)
    }

    fn from(
        source: Source,
        text: String,
        settings: Settings,
        board: Arc<Board>,
        shared: Arc<Shared>,
    ) -> Reloader {
        settings.log_suspensions(None);
        Reloader { source, text, settings, number: 1, orders: 0, board, shared, keeper: None }
    }

    /// Has the register keep what is in force, now and after each change.
    #[must_use]
    pub fn with_keeper(mut self, keeper: Keeper) -> Reloader {
        keeper.keep(&self.text);
        self.keeper = Some(keeper);
        self
    }

    /// Reads the file again and has the gateway work by it, unless something is wrong with it. Logs
    /// what became of it.
    pub fn reload(&mut self) {
        let Source::File(path) = &self.source else { return };
        let read = read_file(path).map_err(ReloadError::Unreadable);
        let taken = read.and_then(|text| self.take(text));
        self.log(taken);
    }

    /// Works by that text, which the register has now, unless something is wrong with it. Logs what became of it.
    /// Returns whether we work by it.
    pub fn follow_register(&mut self, text: &str) -> bool {
        if self.text == text {
            return true;
        }
        let taken = self.take(text.to_owned());
        let is_taken = taken.is_ok();
        self.log(taken);
        is_taken
    }

    fn log(&self, taken: Result<Vec<Difference>, ReloadError>) {
        match taken {
            Ok(differences) => {
                for it in differences.iter().take(DIFFERENCES_LOGGED_MAX) {
                    let (before, after) = (shown(&it.before), shown(&it.after));
                    info!(key = it.key, before, after, "the configuration has changed");
                }
                if let Some(keeper) = &self.keeper {
                    keeper.keep(&self.text);
                }
                info!(
                    configuration = self.number,
                    changed = differences.len(),
                    "the configuration is in force"
                );
            }
            Err(why) => {
                for line in why.to_string().lines() {
                    error!("{line}");
                }
                error!(
                    configuration = self.number,
                    "the new configuration is refused as a whole, the old one stays in force"
                );
            }
        }
    }

    /// Makes sure that servers which are to be taken away have no copies that count, and get none.
    ///
    /// # Errors
    /// What they have; all is as it was then.
    fn let_go_of(&self, gone: &[(usize, &str)]) -> Result<(), ReloadError> {
        if gone.is_empty() {
            return Ok(());
        }
        self.find_unused(gone).map_err(ReloadError::InUse)?;
        // From here on none of them is chosen for anything. One may have been, since it was looked at.
        self.shared.reconfigure(Arc::new(self.settings.with_drained(gone)));
        self.find_unused(gone).map_err(|reasons| {
            self.shared.reconfigure(Arc::new(self.settings.clone()));
            ReloadError::InUse(reasons)
        })
    }

    /// # Errors
    /// What keeps each of these servers from being taken away.
    fn find_unused(&self, gone: &[(usize, &str)]) -> Result<(), Vec<String>> {
        let parts = self.shared.ask_status(STATUS_PATIENCE);
        if parts.iter().any(Option::is_none) {
            return Err(vec!["a worker does not say which servers have copies: try again".into()]);
        }
        let queues = || parts.iter().flatten().flat_map(|part| &part.queues);
        let group_of = |queue: &QueueStatus| self.settings.queues[queue.index as usize].group;
        let mut reasons = Vec::new();
        for (group, server) in gone {
            let in_group = || queues().filter(|queue| group_of(queue) == *group);
            let has_copy = |queue: &&QueueStatus| {
                queue.copies.iter().any(|it| it.kvs == *server && it.is_in_use())
            };
            let count = in_group().filter(has_copy).count();
            let group = &self.settings.groups[*group].name;
            if let Some(QueueStatus { queue, .. }) = in_group().find(has_copy) {
                reasons.push(format!(
                    "server {server:?} cannot be taken out of group {group:?}: it has copies of {count} queues, \
                     {queue:?} among them. Give it `drain = true` first, and take it out when the status says that \
                     it is drained"
                ));
            } else if let Some(queue) = in_group().find(|it| !it.knows_record()) {
                reasons.push(format!(
                    "server {server:?} cannot be taken out of group {group:?}: it may have copies of queue {:?}, \
                     which is not in service yet",
                    queue.queue
                ));
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// Takes a file's text in. Returns what differs from the one before.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed then.
    pub fn take(&mut self, text: String) -> Result<Vec<Difference>, ReloadError> {
        let settings = match &self.source {
            Source::File(path) => Settings::parse(path, &text),
            Source::Register(local) => Settings::parse_kept(&self.settings.name, &text, local),
        };
        let mut settings = settings.map_err(ReloadError::Mistakes)?;
        // This one comes from the command line.
        settings.policy.accept_loss = self.settings.policy.accept_loss;
        let fixed = settings.fixed_differences(&self.settings);
        if !fixed.is_empty() {
            return Err(ReloadError::Fixed(fixed));
        }
        settings.moves = self.settings.moves.clone();
        settings.resume = self.settings.resume;
        self.let_go_of(&settings.servers_gone(&self.settings))?;
        settings.change_board(&self.settings, &self.board);
        if let Err(why) = self.shared.set_interfaces(&settings) {
            warn!(
                why,
                "servers that are new are reached by the kernel, although the bypass is wanted"
            );
        }
        self.shared.reconfigure(Arc::new(settings.clone()));
        settings.log_suspensions(Some(&self.settings));
        let differences = differences(&self.text, &text);
        self.text = text;
        self.settings = settings;
        self.number += 1;
        Ok(differences)
    }
}

impl Settings {
    /// One line for each queue that is suspended, and is not by the settings before; and the other
    /// way round.
    fn log_suspensions(&self, before: Option<&Settings>) {
        let switches = |settings: &Settings, queue: usize| {
            let sending = settings.delivery.destinations[queue].is_suspended;
            (settings.queues[queue].is_suspended, sending)
        };
        for (place, queue) in self.queues.iter().enumerate() {
            let queue = &queue.name;
            let was = before.map_or((false, false), |it| switches(it, place));
            let is = switches(self, place);
            match (was.0, is.0) {
                (false, true) => warn!(queue, "receipt is suspended: RCPT is answered 450"),
                (true, false) => info!(queue, "receipt is resumed"),
                _ => {}
            }
            match (was.1, is.1) {
                (false, true) => warn!(queue, "sending is suspended"),
                (true, false) => info!(queue, "sending is resumed"),
                _ => {}
            }
        }
    }
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::Unreadable(why) => f.write_str(why),
            ReloadError::Mistakes(mistakes) => mistakes.fmt(f),
            ReloadError::Fixed(keys) => {
                let keys = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>();
                write!(f, "only a start can change {}", keys.join(", "))
            }
            ReloadError::InUse(reasons) => f.write_str(&reasons.join("\n")),
        }
    }
}

/// A value for the log, not longer than a line.
fn shown(value: &Option<String>) -> String {
    let Some(value) = value else { return "default".into() };
    match value.char_indices().nth(VALUE_LEN_MAX) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.clone(),
    }
}

/// How long workers may take to tell which servers have copies.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// Most keys that are logged one by one; the rest is only counted.
const DIFFERENCES_LOGGED_MAX: usize = 100;

/// Most characters of a value that are logged; the rest is left out.
const VALUE_LEN_MAX: usize = 120;

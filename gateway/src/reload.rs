//! Another configuration for a running gateway: the file is read again and takes effect as a whole,
//! or not at all.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use config::{Difference, Mistakes, differences, read_file};
use tracing::{error, info, warn};

use crate::board::Board;
use crate::settings::Settings;
use crate::worker::Shared;

/// Takes new configurations in. Belongs to the thread that waits for signals.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    /// What is in force: the file's text, and what it says.
    text: String,
    settings: Settings,
    /// How many configurations have been in force, this one included.
    number: u64,
    board: Arc<Board>,
    shared: Arc<Shared>,
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
        settings.log_suspensions(None);
        Reloader { path, text, settings, number: 1, board, shared }
    }

    /// Reads the file again and has the gateway work by it, unless something is wrong with it. Logs
    /// what became of it.
    pub fn reload(&mut self) {
        let read = read_file(&self.path).map_err(ReloadError::Unreadable);
        match read.and_then(|text| self.take(text)) {
            Ok(differences) => {
                for it in differences.iter().take(DIFFERENCES_LOGGED_MAX) {
                    let (before, after) = (shown(&it.before), shown(&it.after));
                    info!(key = it.key, before, after, "the configuration has changed");
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

    /// Takes a file's text in. Returns what differs from the one before.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed then.
    pub fn take(&mut self, text: String) -> Result<Vec<Difference>, ReloadError> {
        let mut settings = Settings::parse(&self.path, &text).map_err(ReloadError::Mistakes)?;
        // This one comes from the command line.
        settings.policy.accept_loss = self.settings.policy.accept_loss;
        let fixed = settings.fixed_differences(&self.settings);
        if !fixed.is_empty() {
            return Err(ReloadError::Fixed(fixed));
        }
        settings.change_board(&self.settings, &self.board);
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

/// Most keys that are logged one by one; the rest is only counted.
const DIFFERENCES_LOGGED_MAX: usize = 100;

/// Most characters of a value that are logged; the rest is left out.
const VALUE_LEN_MAX: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::QueueIndex;
    use crate::settings::tests::GOOD;

    fn reloader() -> Reloader {
        let path = PathBuf::from("/etc/hikyaku/gw1.toml");
        let settings = Settings::parse(&path, GOOD).unwrap();
        let board = Arc::new(settings.board());
        let shared = Arc::new(Shared::new(Vec::new(), 0));
        Reloader::new(path, GOOD.into(), settings, board, shared)
    }

    #[test]
    fn what_may_change_is_in_force_at_once_and_is_named() {
        let mut reloader = reloader();
        let text = GOOD
            .replace("rate_max = 7", "rate_max = 8\nreceive = \"suspended\"\nmessages_max = 10")
            .replace("hostname", "memory = \"32 MiB\"\nhostname");
        let before = reloader.board.bytes_left();
        let differences = reloader.take(text).unwrap();
        let keys = differences.iter().map(|it| it.key.as_str()).collect::<Vec<_>>();
        let queue = |key: &str| format!("queue[\"example.net\"].{key}");
        let expected =
            ["memory".into(), queue("messages_max"), queue("rate_max"), queue("receive")];
        assert_eq!(keys, expected);
        let board = &reloader.board;
        assert!(board.is_suspended(QueueIndex(0)) && !board.is_suspended(QueueIndex(1)));
        assert_eq!(board.left(QueueIndex(0)).0, 10);
        assert_eq!((before, board.bytes_left()), (1 << 30, 32 << 20));
        assert_eq!(reloader.settings.delivery.destinations[0].rate_per_second.unwrap().get(), 8);
        reloader.take(GOOD.into()).unwrap();
        assert!(!reloader.board.is_suspended(QueueIndex(0)));
        assert_eq!(reloader.board.left(QueueIndex(0)).0, 1_000_000);
        assert_eq!((reloader.board.bytes_left(), reloader.number), (1 << 30, 3));
    }

    #[test]
    fn the_same_configuration_again_changes_nothing() {
        let mut reloader = reloader();
        let left = reloader.board.left(QueueIndex(0));
        for _ in 0..100 {
            assert_eq!(reloader.take(GOOD.into()), Ok(Vec::new()));
        }
        assert_eq!(reloader.board.left(QueueIndex(0)), left);
    }

    #[test]
    fn a_file_with_mistakes_is_refused_as_a_whole_with_all_of_them() {
        let mut reloader = reloader();
        let text = GOOD.replace("rate_max = 7", "rate_max = -1\nreceive = \"of\"\nsend = \"on\"");
        let text = text.replace("domains = []", "domains = []\nreceive = \"suspended\"");
        let why = reloader.take(text).unwrap_err().to_string();
        assert!(why.contains("`rate_max` is -1") && why.contains("`receive` is \"of\""), "{why}");
        assert!(!reloader.board.is_suspended(QueueIndex(1)));
        assert_eq!((reloader.number, reloader.text.as_str()), (1, GOOD));
    }

    #[test]
    fn what_only_a_start_can_change_is_refused_as_a_whole_and_named() {
        let mut reloader = reloader();
        let text =
            GOOD.replace("workers = 3", "workers = 2").replace("name = \"gw1\"", "name = \"gw2\"");
        let text = text.replace("domains = []", "domains = []\nreceive = \"suspended\"");
        let why = reloader.take(text).unwrap_err();
        assert_eq!(why, ReloadError::Fixed(vec!["name", "threads"]));
        assert_eq!(why.to_string(), "only a start can change `name`, `threads`");
        assert!(!reloader.board.is_suspended(QueueIndex(1)));
        assert_eq!(reloader.number, 1);
    }

    #[test]
    fn values_in_the_log_end_after_a_line() {
        assert_eq!(shown(&None), "default");
        let long = "é".repeat(1000);
        assert_eq!(shown(&Some(long)).chars().count(), VALUE_LEN_MAX + 1);
    }
}

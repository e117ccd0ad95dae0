//! Where events go, and how a log file is read back.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tcpstack::Instant;

use super::{Event, Ledger};

/// Takes events as they happen.
pub trait Recorder {
    /// Takes one.
    fn record(&mut self, event: Event);

    /// Called once a turn: a recorder that gathers may hand on what it has.
    fn turn(&mut self, now: Instant) {
        let _ = now;
    }
}

/// Forgets everything.
#[derive(Debug, Default)]
pub struct NoRecord;

impl Recorder for NoRecord {
    fn record(&mut self, _event: Event) {}
}

impl Recorder for Ledger {
    fn record(&mut self, event: Event) {
        self.add(event);
    }
}

impl<R: Recorder> Recorder for Rc<RefCell<R>> {
    fn record(&mut self, event: Event) {
        self.borrow_mut().record(event);
    }

    fn turn(&mut self, now: Instant) {
        self.borrow_mut().turn(now);
    }
}

/// Appends events to a file, a line each.
///
/// Lines are gathered and written when [`GATHERED_SIZE_BYTES_MAX`] are there or
/// [`GATHERED_TIME_MAX`] has passed, so a kill -9 loses at most that much of the tail (a crash of
/// the machine loses more: nothing is synced). A log that ended on purpose has an `E` line.
/// A file that cannot be written stops the process: a ledger with holes proves nothing.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    lines: String,
    due: Option<Instant>,
}

/// Gathered lines are written at this size at the latest.
pub const GATHERED_SIZE_BYTES_MAX: usize = 64 * 1024;

/// Gathered lines are written after this time at the latest.
pub const GATHERED_TIME_MAX: Duration = Duration::from_millis(50);

impl LogFile {
    /// Makes the file anew.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(path: &Path) -> io::Result<LogFile> {
        Ok(LogFile { file: File::create(path)?, lines: String::new(), due: None })
    }

    fn write_out(&mut self) {
        self.file.write_all(self.lines.as_bytes()).expect("the ledger's log can be written");
        self.lines.clear();
        self.due = None;
    }
}

impl Recorder for LogFile {
    fn record(&mut self, event: Event) {
        event.write_line(&mut self.lines);
        if self.lines.len() >= GATHERED_SIZE_BYTES_MAX {
            self.write_out();
        }
    }

    fn turn(&mut self, now: Instant) {
        match self.due {
            Some(due) if now >= due => self.write_out(),
            None if !self.lines.is_empty() => self.due = Some(now + GATHERED_TIME_MAX),
            _ => {}
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.write_out();
    }
}

/// Adds a log's events to `ledger`. A torn last line is the lost tail of a killed process and is
/// left out; any other line that cannot be read is counted there as unreadable.
///
/// # Errors
/// What the system says.
pub fn read_log(path: &Path, ledger: &mut Ledger) -> io::Result<()> {
    ledger.begin_log();
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let Some(text) = line.strip_suffix(b"\n") else { return Ok(()) };
        match std::str::from_utf8(text).ok().and_then(Event::parse_line) {
            Some(event) => ledger.add(event),
            None => ledger.add_unreadable(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_writer_loses_at_most_what_was_gathered() {
        let path = std::env::temp_dir().join(format!("loadgen-log-{}", std::process::id()));
        let mut log = LogFile::create(&path).unwrap();
        let lines = || std::fs::read_to_string(&path).unwrap().lines().count();
        log.record(Event::End { at_us: 1 });
        log.turn(Instant::ZERO);
        assert_eq!(lines(), 0);
        log.turn(Instant::ZERO + GATHERED_TIME_MAX);
        assert_eq!(lines(), 1);
        for at_us in 0..100_000 {
            log.record(Event::End { at_us });
        }
        assert!(std::fs::metadata(&path).unwrap().len() > 100_000 * 4);
        drop(log);
        assert_eq!(lines(), 100_001);

        std::fs::write(&path, "E 5\nnonsense\nE 6\nE 7 torn").unwrap();
        let mut ledger = Ledger::new(super::super::Policy::default());
        read_log(&path, &mut ledger).unwrap();
        assert_eq!(ledger.verdict().counts.unreadable, 1);
        std::fs::remove_file(&path).unwrap();
    }
}

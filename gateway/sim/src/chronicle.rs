//! The last things that happened in a world, in words, for whoever has to find out why.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tcpstack::Instant;
use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;

/// Lines of the world itself and of the programs' logs, in order, with the world's time. At
/// [`LINES_MAX`] the oldest goes.
#[derive(Clone, Debug, Default)]
pub struct Chronicle(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    now: Instant,
    lines: VecDeque<String>,
    echo: bool,
}

/// Lines kept.
pub const LINES_MAX: usize = 300;

impl Chronicle {
    /// An empty one. With `echo` each line is also printed to standard error as it comes.
    pub fn new(echo: bool) -> Chronicle {
        Chronicle(Arc::new(Mutex::new(Lines { echo, ..Lines::default() })))
    }

    /// Sets the time of the lines that follow.
    pub fn set_now(&self, now: Instant) {
        self.lock().now = now;
    }

    /// Adds a line.
    pub fn note(&self, line: &str) {
        self.lock().push(line);
    }

    /// The lines, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.iter().cloned().collect()
    }

    /// Something that takes the programs' logs, for as long as it is the thread's subscriber.
    /// Records of single mails are left out.
    pub fn subscriber(&self) -> impl Subscriber + Send + Sync + use<> {
        tracing_subscriber::fmt()
            .with_env_filter("info,record=off,counters=off")
            .with_ansi(false)
            .without_time()
            .with_writer(self.clone())
            .finish()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // Whoever panicked did so with whole lines.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn push(&mut self, line: &str) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        let line = format!("{:?} {line}", self.now);
        if self.echo {
            eprintln!("{line}");
        }
        self.lines.push_back(line);
    }
}

impl<'w> MakeWriter<'w> for Chronicle {
    type Writer = Chronicle;

    fn make_writer(&'w self) -> Chronicle {
        self.clone()
    }
}

impl io::Write for Chronicle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The subscriber writes one event at a time.
        self.lock().push(String::from_utf8_lossy(bytes).trim());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_with_their_time() {
        let chronicle = Chronicle::new(false);
        for number in 0..LINES_MAX + 5 {
            chronicle.note(&number.to_string());
        }
        chronicle.set_now(Instant::from_nanos(1_500_000_000));
        tracing::subscriber::with_default(chronicle.subscriber(), || tracing::warn!("a fault"));
        let lines = chronicle.lines();
        assert_eq!(lines.len(), LINES_MAX);
        assert!(lines[0].ends_with(" 6"), "{}", lines[0]);
        let last = lines.last().unwrap();
        assert!(last.starts_with("1.500000000s") && last.contains("a fault"), "{last}");
    }
}

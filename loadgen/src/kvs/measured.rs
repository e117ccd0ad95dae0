//! What a load on a backup queue server measured.

use std::time::Duration;

use kvs_proto::body::Counter;
use tcpstack::Instant;

use crate::report::{Latency, Section, f64_of, rate};

/// What a [`KvsLoad`](super::KvsLoad) measured.
#[derive(Clone, Debug, Default)]
pub struct KvsMeasured {
    /// Messages stored and deleted, both acknowledged.
    pub messages: u64,
    /// When the first request was made.
    pub begin: Option<Instant>,
    /// When the last acknowledgement came.
    pub end: Option<Instant>,
    /// Store to its acknowledgement.
    pub store: Latency,
    /// Delete to its acknowledgement.
    pub delete: Latency,
    /// Frames of acknowledgement; each may acknowledge many requests.
    pub acks: u64,
    /// What the server took for the messages that stay.
    pub held: Held,
    /// What it had for those that were there at the end.
    pub left: Held,
}

/// What the server has of a load, by its own counters.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// Messages.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of the arena that belong to queues.
    pub arena_bytes: u64,
    /// Bytes of the arena that belong to none.
    pub free_bytes: u64,
}

impl Held {
    /// From the server's counters.
    pub(super) fn of(counters: &[(Counter, u64)]) -> Held {
        let value = |wanted| {
            counters.iter().find(|(counter, _)| *counter == wanted).map_or(0, |(_, value)| *value)
        };
        let free_bytes = value(Counter::ArenaBytesFree);
        Held {
            messages: value(Counter::Messages),
            bytes: value(Counter::MessageBytes),
            arena_bytes: value(Counter::ArenaBytes).saturating_sub(free_bytes),
            free_bytes,
        }
    }

    /// What has come since.
    pub(super) fn since(self, before: Held) -> Held {
        Held {
            messages: self.messages.saturating_sub(before.messages),
            bytes: self.bytes.saturating_sub(before.bytes),
            arena_bytes: self.arena_bytes.saturating_sub(before.arena_bytes),
            free_bytes: self.free_bytes,
        }
    }

    fn add(&mut self, other: Held) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.arena_bytes += other.arena_bytes;
        self.free_bytes += other.free_bytes;
    }

    /// As a report's section.
    pub fn section(&self, key: &str, title: &str) -> Section {
        let beside = self.arena_bytes.saturating_sub(self.bytes);
        let use_percent = 100.0 * f64_of(self.bytes) / f64_of(self.arena_bytes.max(1));
        Section::new(key, title)
            .count("messages", "messages", self.messages)
            .count("bytes", "bytes of them", self.bytes)
            .count("arena_bytes", "bytes of the arena that they take", self.arena_bytes)
            .count("free_bytes", "bytes of the arena that are free", self.free_bytes)
            .number("arena_use_percent", "of the arena's bytes are theirs", use_percent, "%")
            .number(
                "overhead_bytes",
                "of the arena beside each message",
                f64_of(beside) / f64_of(self.messages.max(1)),
                "bytes",
            )
    }
}

impl KvsMeasured {
    /// From the first request to the last acknowledgement.
    pub fn elapsed(&self) -> Duration {
        match (self.begin, self.end) {
            (Some(begin), Some(end)) => end.saturating_since(begin),
            _ => Duration::ZERO,
        }
    }

    /// Counts in what another one has measured at the same time.
    pub fn add(&mut self, other: &KvsMeasured) {
        self.messages += other.messages;
        self.begin = [self.begin, other.begin].into_iter().flatten().min();
        self.end = self.end.max(other.end);
        self.store.add(&other.store);
        self.delete.add(&other.delete);
        self.acks += other.acks;
        self.held.add(other.held);
        self.left.add(other.left);
    }

    /// Messages stored and deleted a second.
    pub fn rate(&self) -> f64 {
        rate(self.messages, self.elapsed())
    }

    /// The measurements as a report's section.
    pub fn section(&self, key: &str, title: &str) -> Section {
        Section::new(key, title)
            .count("messages", "stored and deleted", self.messages)
            .number("elapsed_s", "time", self.elapsed().as_secs_f64(), "s")
            .number("rate", "a second", self.rate(), "store+delete/s")
            .latency("store", "store to its acknowledgement", &self.store)
            .latency("delete", "delete to its acknowledgement", &self.delete)
            .count("acks", "frames of acknowledgement", self.acks)
    }
}

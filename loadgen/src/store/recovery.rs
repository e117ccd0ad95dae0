//! Recovery from a list of Redis: fill it, come back by another connection, read everything in blocks.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tcpstack::{Instant, OpenError, Transport};

use super::dialect::{command, redis_value};
use super::resp::{Arrays, Part};
use super::wire::{Lines, Wire};
use crate::kvs::BlockTime;
use crate::report::{Section, rate};

/// What a [`ListRecovery`] does; as a [`RecoveryConfig`](crate::kvs::RecoveryConfig).
#[derive(Clone, Debug)]
pub struct ListRecoveryConfig {
    /// Whom to ask.
    pub to: SocketAddr,
    /// The list's name; it must not exist.
    pub list: String,
    /// Messages to fill it with, at least 1.
    pub messages: u64,
    /// Bytes of each, at least 8.
    pub size_bytes: usize,
    /// Block sizes, each read through the list from its beginning.
    pub blocks: Vec<u32>,
    /// Most blocks read of one size. Small blocks then read only the list's beginning.
    pub rounds_max: u64,
}

/// The measurement. The loop around it calls [`ListRecovery::turn`] until [`ListRecovery::is_done`], and
/// [`ListRecovery::wait`] when there was nothing to do.
pub struct ListRecovery<T: Transport> {
    /// `None` only while one connection gives its transport to the next.
    wire: Option<Wire<T>>,
    lines: Lines,
    arrays: Arrays,
    work: Work,
}

struct Work {
    config: ListRecoveryConfig,
    phase: Phase,
    template: Vec<u8>,
    /// Messages asked to be stored, and of these acknowledged.
    stored: u64,
    acknowledged: u64,
    begin: Instant,
    fill_time: Duration,
    block: usize,
    rounds: u64,
    read: u64,
    /// Of the block that was asked for.
    block_begin: u64,
    times: Vec<BlockTime>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Filling,
    /// Connecting again.
    Returning,
    Reading,
    Dropping,
    Done,
    Failed(String),
}

/// Messages of one RPUSH, and of these in flight, while filling: it is not what is measured.
const FILL_BATCH: u64 = 256;
const FILL_IN_FLIGHT: u64 = 2;

impl<T: Transport> ListRecovery<T> {
    /// Begins to connect.
    ///
    /// # Errors
    /// What the transport says.
    pub fn open(
        transport: T,
        now: Instant,
        config: ListRecoveryConfig,
    ) -> Result<ListRecovery<T>, OpenError> {
        assert!(config.messages > 0 && config.size_bytes >= ID_SIZE_BYTES);
        assert!(!config.blocks.contains(&0) && !config.blocks.is_empty());
        let wire = Some(Wire::open(transport, now, config.to)?);
        let work = Work {
            phase: Phase::Filling,
            template: vec![b'm'; config.size_bytes],
            stored: 0,
            acknowledged: 0,
            begin: now,
            fill_time: Duration::ZERO,
            block: 0,
            rounds: 0,
            read: 0,
            block_begin: 0,
            times: Vec::new(),
            config,
        };
        Ok(ListRecovery { wire, lines: Lines::default(), arrays: Arrays::default(), work })
    }

    /// How long each block size took.
    pub fn times(&self) -> &[BlockTime] {
        &self.work.times
    }

    /// Whether it is over.
    pub fn is_done(&self) -> bool {
        matches!(self.work.phase, Phase::Done | Phase::Failed(_))
    }

    /// Why it failed, if it did: also when a message was missing, out of order or altered.
    pub fn failure(&self) -> Option<&str> {
        match &self.work.phase {
            Phase::Failed(why) => Some(why),
            _ => None,
        }
    }

    /// Sleeps until something happens, or until then.
    pub fn wait(&mut self, now: Instant, until: Option<Instant>) {
        self.wire().transport.wait(now, until);
    }

    /// When it wants its next turn, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.wire.as_ref().and_then(|wire| wire.transport.next_deadline())
    }

    /// The measurements as a report's section, as those of our own recovery.
    pub fn section(&self, key: &str, title: &str) -> Section {
        let mut section = Section::new(key, title)
            .count("stored", "messages stored", self.work.acknowledged)
            .count("size_bytes", "bytes each", self.work.config.size_bytes as u64)
            .number("fill_s", "time to fill", self.work.fill_time.as_secs_f64(), "s");
        for BlockTime { block, messages, rounds, time } in &self.work.times {
            let (key, label) = (format!("block_{block}"), format!("by {block}"));
            let per_second = rate(*messages, *time);
            section = section
                .count(&format!("{key}_messages"), &format!("{label}: read"), *messages)
                .count(&format!("{key}_rounds"), &format!("{label}: blocks"), *rounds)
                .number(&format!("{key}_s"), &format!("{label}: time"), time.as_secs_f64(), "s")
                .number(&format!("{key}_rate"), &format!("{label}: a second"), per_second, "/s");
        }
        section.flag("complete", "complete and unaltered", self.failure().is_none())
    }

    /// Does what there is to do, and answers whether there was anything.
    pub fn turn(&mut self, now: Instant) -> bool {
        let ListRecovery { wire, lines, arrays, work } = self;
        let wire = wire.as_mut().expect("only missing while one becomes the next");
        let mut fed = Ok(());
        let worked = wire.receive(now, |bytes| {
            if fed.is_err() {
                return;
            }
            fed = match work.phase {
                Phase::Filling | Phase::Dropping => {
                    lines.feed(bytes, |line| work.handle_line(line))
                }
                _ => arrays.feed(bytes, |part| work.handle_part(part)),
            };
        });
        if let Err(why) = fed {
            work.phase = Phase::Failed(why);
        }
        if let (Some(over), false) = (wire.over(), self.is_done()) {
            self.work.phase = Phase::Failed(format!("the connection ended: {over:?}"));
        }
        if self.work.is_filled() {
            self.come_back(now);
        }
        let wire = self.wire.as_mut().expect("come_back puts it there");
        if wire.is_connected() {
            self.work.ask(wire, now);
        }
        wire.send(now);
        worked
    }

    fn wire(&mut self) -> &mut Wire<T> {
        self.wire.as_mut().expect("only missing while one becomes the next")
    }

    /// As a gateway that lost everything: by a new connection.
    fn come_back(&mut self, now: Instant) {
        self.work.fill_time = now.saturating_since(self.work.begin);
        self.work.phase = Phase::Returning;
        let transport = self.wire.take().expect("it was there a line ago").close(now);
        match Wire::open(transport, now, self.work.config.to) {
            Ok(wire) => self.wire = Some(wire),
            Err(error) => panic!("a transport with one connection has room for one: {error}"),
        }
    }
}

impl Work {
    fn is_filled(&self) -> bool {
        self.phase == Phase::Filling && self.acknowledged == self.config.messages
    }

    fn handle_line(&mut self, line: &[u8]) -> Result<(), String> {
        let right = if self.phase == Phase::Dropping {
            self.phase = Phase::Done;
            ":1".into()
        } else {
            self.acknowledged += FILL_BATCH.min(self.config.messages - self.acknowledged);
            format!(":{}", self.acknowledged)
        };
        if line == right.as_bytes() {
            return Ok(());
        }
        Err(format!("the server answered \"{}\" where \"{right}\" is right", line.escape_ascii()))
    }

    fn ask<T: Transport>(&mut self, wire: &mut Wire<T>, now: Instant) {
        match self.phase {
            Phase::Filling => {
                while self.stored < self.config.messages
                    && self.stored - self.acknowledged < FILL_BATCH * FILL_IN_FLIGHT
                {
                    self.push(wire);
                }
            }
            Phase::Returning => {
                self.phase = Phase::Reading;
                self.begin = now;
                self.ask_block(wire);
            }
            Phase::Reading if self.is_block_read() => self.ask_next(wire, now),
            Phase::Reading | Phase::Dropping | Phase::Done | Phase::Failed(_) => {}
        }
    }

    fn push<T: Transport>(&mut self, wire: &mut Wire<T>) {
        let count = FILL_BATCH.min(self.config.messages - self.stored);
        let list = &self.config.list;
        let head = format!("*{}\r\n$5\r\nRPUSH\r\n${}\r\n{list}\r\n", count + 2, list.len());
        wire.out.push(head.as_bytes());
        for id in self.stored..self.stored + count {
            self.template[..ID_SIZE_BYTES].copy_from_slice(&id.to_le_bytes());
            redis_value(&mut wire.out, &Bytes::copy_from_slice(&self.template));
        }
        self.stored += count;
    }

    fn ask_block<T: Transport>(&mut self, wire: &mut Wire<T>) {
        self.rounds += 1;
        self.block_begin = self.read;
        let last = self.block_end() - 1;
        let (first, last) = (self.read.to_string(), last.to_string());
        wire.out.push(&command(&["LRANGE", &self.config.list, &first, &last]));
    }

    /// Behind the last message of the block that was asked for.
    fn block_end(&self) -> u64 {
        let block = u64::from(self.config.blocks[self.block]);
        (self.block_begin + block).min(self.config.messages)
    }

    fn is_block_read(&self) -> bool {
        self.read == self.block_end()
    }

    fn ask_next<T: Transport>(&mut self, wire: &mut Wire<T>, now: Instant) {
        if self.read < self.config.messages && self.rounds < self.config.rounds_max {
            return self.ask_block(wire);
        }
        let time = now.saturating_since(self.begin);
        let block = self.config.blocks[self.block];
        self.times.push(BlockTime { block, messages: self.read, rounds: self.rounds, time });
        (self.begin, self.read, self.rounds) = (now, 0, 0);
        self.block += 1;
        if self.block < self.config.blocks.len() {
            return self.ask_block(wire);
        }
        self.phase = Phase::Dropping;
        wire.out.push(&command(&["DEL", &self.config.list]));
    }

    fn handle_part(&mut self, part: Part<'_>) -> Result<(), String> {
        match part {
            Part::Text(text) => {
                let whole = text.len() == self.config.size_bytes
                    && text[..ID_SIZE_BYTES] == self.read.to_le_bytes()
                    && text[ID_SIZE_BYTES..] == self.template[ID_SIZE_BYTES..];
                if !whole {
                    return Err(format!("message {} is not what was stored", self.read));
                }
                self.read += 1;
                Ok(())
            }
            Part::End if self.is_block_read() => Ok(()),
            Part::End => {
                Err(format!("a block ended at {} and not at {}", self.read, self.block_end()))
            }
        }
    }
}

/// The id at the beginning of each message.
const ID_SIZE_BYTES: usize = 8;

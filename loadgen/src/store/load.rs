//! Store and delete over one connection, on a store of others.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use tcpstack::{Instant, OpenError, Transport};

use super::dialect::{Answers, Batch, Dialect, Op, Probe};
use super::wire::{Lines, Wire};
use crate::kvs::KvsMeasured;

/// What a [`StoreLoad`] asks for.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Whom.
    pub to: SocketAddr,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// What the keys begin with, or the list's name: nobody else may use such keys.
    pub prefix: String,
    /// Bytes of each message.
    pub size_bytes: usize,
    /// Requests in flight, at least 1.
    pub depth: usize,
    /// Where one answer covers a batch: messages in it. Else requests are gathered until so many can be sent
    /// at once, unless nothing else is in flight; 1: each is sent in the turn in which it is made.
    pub batch: usize,
    /// Messages to store and delete.
    pub total: Option<u64>,
    /// Go on for so long; counted from the first request.
    pub duration: Option<Duration>,
    /// Decides the content.
    pub seed: u64,
}

/// Stores messages and deletes each when its store is acknowledged, as [`KvsLoad`](crate::kvs::KvsLoad) does, at a
/// store of others. At its beginning it finds out whether what is stored can be had again, and in the end whether the last message is
/// gone. An answer that is not the right one ends the run. The loop around it calls
/// [`StoreLoad::turn`] until [`StoreLoad::is_done`], and [`StoreLoad::wait`] when there was nothing to do.
pub struct StoreLoad<T: Transport> {
    wire: Wire<T>,
    lines: Lines,
    work: Work,
}

/// All but the connection.
struct Work {
    config: StoreConfig,
    phase: Phase,
    contents: Vec<Bytes>,
    probes: VecDeque<Probe>,
    /// Lines that have to come for the probe that was sent.
    awaited: VecDeque<Vec<u8>>,
    /// In the order in which they went out, which is the order of the answers.
    in_flight: VecDeque<Pending>,
    requests: usize,
    /// Requests made since the last send.
    unsent: usize,
    /// Messages asked to be stored; their ids are those below, from 0 on.
    stored: u64,
    /// Of these acknowledged.
    acknowledged: u64,
    /// Of these asked to be deleted.
    deleted: u64,
    measured: KvsMeasured,
}

#[derive(Debug)]
struct Pending {
    batch: Batch,
    at: Instant,
    answers: Answers,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// Connecting too.
    Probing,
    Running,
    Leaving,
    Done,
    Failed(String),
}

/// Different contents, as many as our own load has.
const CONTENTS: usize = 64;

impl<T: Transport> StoreLoad<T> {
    /// Begins to connect.
    ///
    /// # Errors
    /// What the transport says.
    pub fn open(
        transport: T,
        now: Instant,
        config: StoreConfig,
    ) -> Result<StoreLoad<T>, OpenError> {
        assert!(config.depth > 0 && config.batch > 0);
        let mut rng = Rng::with_seed(config.seed);
        let mut content = || -> Bytes { (0..config.size_bytes).map(|_| rng.u8(..)).collect() };
        let work = Work {
            phase: Phase::Probing,
            contents: (0..CONTENTS).map(|_| content()).collect(),
            probes: config.dialect.probes(&config.prefix).into(),
            awaited: VecDeque::new(),
            in_flight: VecDeque::new(),
            requests: 0,
            unsent: 0,
            stored: 0,
            acknowledged: 0,
            deleted: 0,
            measured: KvsMeasured::default(),
            config,
        };
        let wire = Wire::open(transport, now, work.config.to)?;
        Ok(StoreLoad { wire, lines: Lines::default(), work })
    }

    /// What was measured so far. Acknowledgements are lines.
    pub fn measured(&self) -> &KvsMeasured {
        &self.work.measured
    }

    /// Whether it is over.
    pub fn is_done(&self) -> bool {
        matches!(self.work.phase, Phase::Done | Phase::Failed(_))
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        match &self.work.phase {
            Phase::Failed(why) => Some(why),
            _ => None,
        }
    }

    /// Sleeps until something happens, or until then.
    pub fn wait(&mut self, now: Instant, until: Option<Instant>) {
        self.wire.transport.wait(now, until);
    }

    /// When it wants its next turn, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.wire.transport.next_deadline()
    }

    /// Does what there is to do, and answers whether there was anything.
    pub fn turn(&mut self, now: Instant) -> bool {
        let StoreLoad { wire, lines, work } = self;
        let mut fed = Ok(());
        let worked = wire.receive(now, |bytes| {
            if fed.is_ok() {
                fed = lines.feed(bytes, |line| work.handle_line(line, now));
            }
        });
        if let Err(why) = fed {
            work.phase = Phase::Failed(why);
        }
        if wire.is_connected() {
            work.ask(wire, now);
        }
        if let (Some(over), false) = (wire.over(), self.is_done()) {
            self.work.phase = Phase::Failed(format!("the connection ended: {over:?}"));
        }
        if self.work.is_time_to_send() {
            self.wire.send(now);
        }
        worked
    }
}

impl Work {
    fn handle_line(&mut self, line: &[u8], now: Instant) -> Result<(), String> {
        if let Some(awaited) = self.awaited.pop_front() {
            return compare(line, &awaited);
        }
        let Some(pending) = self.in_flight.front_mut() else {
            return Err(format!("{:?} came for nothing", line.escape_ascii().to_string()));
        };
        let answers = &mut pending.answers;
        if answers.each.0 > 0 {
            answers.each.0 -= 1;
            compare(line, answers.each.1)?;
        } else {
            let last = answers.last.take().expect("a batch goes when its last answer came");
            compare(line, &last)?;
        }
        if answers.each.0 == 0 && answers.last.is_none() {
            let pending = self.in_flight.pop_front().expect("it is the front");
            self.acknowledge(&pending, now);
        }
        Ok(())
    }

    fn acknowledge(&mut self, pending: &Pending, now: Instant) {
        let Batch { op, count, .. } = pending.batch;
        let took = now.saturating_since(pending.at);
        let latency = match op {
            Op::Store => &mut self.measured.store,
            Op::Delete => &mut self.measured.delete,
        };
        (0..count).for_each(|_| latency.record(took));
        match op {
            Op::Store => self.acknowledged += count,
            Op::Delete => self.measured.messages += count,
        }
        self.requests -= usize::try_from(count).expect("a batch is no longer than the depth");
        self.measured.acks += 1;
        self.measured.end = Some(now);
    }

    fn ask<T: Transport>(&mut self, wire: &mut Wire<T>, now: Instant) {
        match self.phase {
            Phase::Probing | Phase::Leaving if !self.awaited.is_empty() => {}
            Phase::Probing | Phase::Leaving => match self.probes.pop_front() {
                Some(probe) => {
                    wire.out.push(&probe.request);
                    self.awaited = probe.answers.into();
                }
                None if self.phase == Phase::Leaving => self.phase = Phase::Done,
                None => {
                    self.phase = Phase::Running;
                    self.measured.begin = Some(now);
                    self.make_requests(wire, now);
                }
            },
            Phase::Running => self.make_requests(wire, now),
            Phase::Done | Phase::Failed(_) => {}
        }
    }

    fn make_requests<T: Transport>(&mut self, wire: &mut Wire<T>, now: Instant) {
        while let Some(batch) = self.next_batch(now) {
            let contents = &self.contents;
            let place = |id: u64| usize::try_from(id % CONTENTS as u64).expect("below 64");
            let StoreConfig { dialect, prefix, .. } = &self.config;
            let answers = dialect.ask(&mut wire.out, prefix, batch, |id| &contents[place(id)]);
            let count = usize::try_from(batch.count).expect("no longer than the depth");
            self.requests += count;
            self.unsent += count;
            self.in_flight.push_back(Pending { batch, at: now, answers });
        }
        if self.in_flight.is_empty() {
            self.phase = Phase::Leaving;
            let last = self.stored.saturating_sub(1);
            self.probes.push_back(self.config.dialect.last_probe(&self.config.prefix, last));
            self.ask(wire, now);
        }
    }

    /// What is to be asked next, if the depth allows it: deletes go first.
    fn next_batch(&mut self, now: Instant) -> Option<Batch> {
        let room = (self.config.depth - self.requests) as u64;
        let whole = if self.config.dialect.is_grouped() { self.config.batch as u64 } else { 1 };
        let whole = whole.min(self.config.depth as u64);
        let deletable = self.acknowledged - self.deleted;
        let left = self.config.total.map_or(u64::MAX, |total| total - self.stored);
        let storable = if self.wants_more(now) { left } else { 0 };
        let (op, first, available) = match deletable {
            0 => (Op::Store, self.stored, storable),
            _ => (Op::Delete, self.deleted, deletable),
        };
        let count = available.min(whole).min(room);
        // A batch that is not whole waits for the answers that make room, or bring more.
        let is_last = self.in_flight.is_empty() || (op == Op::Store && count == storable);
        if count == 0 || (count < whole && !is_last) {
            return None;
        }
        match op {
            Op::Store => self.stored += count,
            Op::Delete => self.deleted += count,
        }
        Some(Batch { op, first, count, held: self.stored - self.deleted })
    }

    fn wants_more(&self, now: Instant) -> bool {
        let begin = self.measured.begin.expect("it runs");
        self.config.duration.is_none_or(|duration| now.saturating_since(begin) < duration)
    }

    /// As our own load: when so many are there, or nothing is in flight whose answer could bring more.
    fn is_time_to_send(&mut self) -> bool {
        let complete = self.unsent >= self.config.batch || self.unsent == self.requests;
        let now = self.unsent == 0 || complete || self.phase != Phase::Running;
        if now {
            self.unsent = 0;
        }
        now
    }
}

fn compare(line: &[u8], right: &[u8]) -> Result<(), String> {
    if line == right {
        return Ok(());
    }
    let (line, right) = (line.escape_ascii(), right.escape_ascii());
    Err(format!("the server answered \"{line}\" where \"{right}\" is right"))
}

//! The register: records in memory that outlive every process, changed by compare and set.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use gateway::replication::record::{Record, RegisterAnswer, RegisterCall};
use gateway::shard::RegisterErrand;
use tcpstack::Instant;

use crate::scenario::{SERVERS_MAX, server_name};

/// A register as a process sees the embedded one: a call takes a while, and a process that dies
/// meanwhile leaves it done or not done, never half done and never done later.
#[derive(Debug, Default)]
pub struct SimRegister {
    records: BTreeMap<String, Record>,
    calls: VecDeque<Call>,
    swaps: u64,
}

#[derive(Debug)]
struct Call {
    due: Instant,
    worker: usize,
    errand: RegisterErrand,
}

/// The longest that a call takes.
const CALL_TIME_MAX: Duration = Duration::from_millis(20);

impl SimRegister {
    /// Takes a call of a worker of the gateway.
    pub fn ask(&mut self, now: Instant, worker: usize, errand: RegisterErrand, draw: u64) {
        let takes =
            Duration::from_nanos(draw % u64::try_from(CALL_TIME_MAX.as_nanos()).expect("short"));
        // One thread carries the calls out, in order.
        let after = self.calls.back().map_or(now, |call| call.due.max(now));
        self.calls.push_back(Call { due: after + takes, worker, errand });
    }

    /// When the next answer is due.
    pub fn next_at(&self) -> Option<Instant> {
        self.calls.front().map(|call| call.due)
    }

    /// The next answer that is due: for which worker, which of its cohorts, and what.
    ///
    /// # Panics
    /// If a record's epoch would go back.
    pub fn poll(&mut self, now: Instant) -> Option<(usize, usize, RegisterAnswer)> {
        self.calls.front().filter(|call| call.due <= now)?;
        let call = self.calls.pop_front()?;
        let answer = self.carry_out(&call.errand);
        Some((call.worker, call.errand.cohort, answer))
    }

    /// The process that asked is gone: the call under way is carried out if `done`, the others are
    /// not.
    pub fn abandon(&mut self, done: bool) {
        let under_way = self.calls.pop_front().filter(|_| done);
        self.calls.clear();
        if let Some(call) = under_way {
            self.carry_out(&call.errand);
        }
    }

    /// The records by key.
    pub fn records(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.records.iter().map(|(key, record)| (key.as_str(), record))
    }

    /// If the call drops a server from a record: the one that stays.
    pub fn last_member_after(&self, errand: &RegisterErrand) -> Option<usize> {
        let RegisterCall::Swap(record) = &errand.call else { return None };
        let present = self.records.get(&errand.key)?;
        let [stays] = &record.members[..] else { return None };
        let dropped = present.members.len() > 1;
        let place = (0..SERVERS_MAX).find(|place| server_name(*place) == stays.server);
        place.filter(|_| dropped)
    }

    /// Records written.
    pub fn swaps(&self) -> u64 {
        self.swaps
    }

    fn carry_out(&mut self, errand: &RegisterErrand) -> RegisterAnswer {
        let present = self.records.get(&errand.key);
        match &errand.call {
            RegisterCall::Read => RegisterAnswer::Read(present.cloned()),
            RegisterCall::Swap(record) => {
                let (version, epoch) = present.map_or((0, None), |it| (it.version, Some(it.epoch)));
                if record.version != version + 1 {
                    return RegisterAnswer::Conflict;
                }
                assert!(epoch <= Some(record.epoch), "an epoch went back");
                self.records.insert(errand.key.clone(), record.clone());
                self.swaps += 1;
                RegisterAnswer::Swapped
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvs_proto::Epoch;

    fn swap(version: u64) -> RegisterErrand {
        let record = Record { version, epoch: Epoch(1), members: vec![], queues: vec![] };
        RegisterErrand { cohort: 3, key: "k".into(), call: RegisterCall::Swap(record) }
    }

    #[test]
    fn the_first_of_two_that_replace_one_version_wins() {
        let mut register = SimRegister::default();
        register.ask(Instant::ZERO, 0, swap(1), 5);
        register.ask(Instant::ZERO, 1, swap(1), 5);
        assert_eq!(register.poll(Instant::ZERO), None);
        let late = Instant::ZERO + CALL_TIME_MAX * 2;
        assert_eq!(register.poll(late), Some((0, 3, RegisterAnswer::Swapped)));
        assert_eq!(register.poll(late), Some((1, 3, RegisterAnswer::Conflict)));
        assert_eq!(register.swaps(), 1);
    }

    #[test]
    fn a_call_of_a_dead_process_is_done_at_once_or_never() {
        for done in [true, false] {
            let mut register = SimRegister::default();
            register.ask(Instant::ZERO, 0, swap(1), 5);
            register.abandon(done);
            assert_eq!(register.swaps(), u64::from(done));
            assert_eq!(register.next_at(), None);
        }
    }
}

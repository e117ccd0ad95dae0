//! The register: records in memory that outlive every process, changed by compare and set.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use gateway::register::{Judgement, Stored, WriterId};
use gateway::replication::record::{Record, RegisterAnswer, RegisterCall};
use gateway::shard::RegisterErrand;
use tcpstack::Instant;

use crate::scenario::{SERVERS_MAX, server_name};

/// A register as a process sees one: a call takes a while, and is carried out at one instant of it
/// or not at all, whatever the answer says. A process that dies meanwhile leaves it done or not
/// done, never half done and never done later.
#[derive(Debug)]
pub struct SimRegister {
    records: BTreeMap<String, Stored>,
    calls: VecDeque<Call>,
    /// Until when it is not as it should be, and how.
    outage: Option<(Outage, Instant)>,
    /// The life of a gateway that it is out of reach for, and until when.
    cut_off: Option<(u64, Instant)>,
    /// What becomes of calls in an outage.
    rng: Rng,
    /// The last life of a gateway that has begun.
    last_life: u64,
    lease_told_ms: Option<u64>,
    swaps: u64,
    repeats: u64,
}

/// What is wrong with the register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outage {
    /// Calls are not carried out, and fail after a while.
    Unreachable,
    /// Calls are carried out, and fail after a while all the same.
    AnswersLost,
    /// Calls are answered late.
    Slow,
    /// Each call is one of these.
    Mixed,
}

#[derive(Debug)]
struct Call {
    life: u64,
    worker: usize,
    errand: RegisterErrand,
    /// When it is carried out, if at all and not done.
    carried_out_at: Option<Instant>,
    due: Instant,
    /// What is answered then.
    answer: RegisterAnswer,
    /// The answer fails even if it was carried out.
    is_lost: bool,
}

/// The longest that a call takes.
const CALL_TIME_MAX: Duration = Duration::from_millis(20);

/// The longest that it takes in an outage.
const OUTAGE_CALL_TIME_MAX: Duration = Duration::from_millis(1500);

impl SimRegister {
    /// An empty one. The seed decides what becomes of calls in outages.
    pub fn new(seed: u64) -> SimRegister {
        SimRegister {
            records: BTreeMap::new(),
            calls: VecDeque::new(),
            outage: None,
            cut_off: None,
            rng: Rng::with_seed(seed),
            last_life: 0,
            lease_told_ms: None,
            swaps: 0,
            repeats: 0,
        }
    }

    /// Another life of a gateway begins: the name that the register knows it by.
    pub fn begin_life(&mut self) -> u64 {
        self.last_life += 1;
        self.last_life
    }

    /// Sabotage: whoever reads a record is told that the lease is so short.
    pub fn belittle_leases(&mut self, lease_ms: u64) {
        self.lease_told_ms = Some(lease_ms);
    }

    /// Something is wrong with it until then.
    pub fn begin_outage(&mut self, outage: Outage, until: Instant) {
        self.outage = Some((outage, until));
    }

    /// Nothing is wrong with it any more, but for calls under way.
    pub fn end_outage(&mut self) {
        self.outage = None;
        self.cut_off = None;
    }

    /// It is out of reach for that life of the gateway until then.
    pub fn cut_off(&mut self, life: u64, until: Instant) {
        self.cut_off = Some((life, until));
    }

    /// Takes a call of a worker of that gateway.
    pub fn ask(
        &mut self,
        now: Instant,
        (life, worker): (u64, usize),
        errand: RegisterErrand,
        draw: u64,
    ) {
        // One thread carries the calls out, in order.
        let begins = self.calls.back().map_or(now, |call| call.due.max(now));
        let due = begins + part(CALL_TIME_MAX, draw);
        let answer = RegisterAnswer::Failed("the register does not answer".into());
        let mut call =
            Call { life, worker, errand, carried_out_at: Some(due), due, answer, is_lost: false };
        let is_cut_off = self.cut_off.is_some_and(|(of, until)| of == life && begins < until);
        let outage = self.outage.filter(|(_, until)| begins < *until).map(|(outage, _)| outage);
        if let Some(outage) = is_cut_off.then_some(Outage::Unreachable).or(outage) {
            self.spoil(outage, begins, &mut call);
        }
        self.calls.push_back(call);
    }

    /// When something happens to a call.
    pub fn next_at(&self) -> Option<Instant> {
        self.calls.front().map(|call| call.carried_out_at.unwrap_or(call.due))
    }

    /// The next answer that is due: for which gateway and worker, which of its cohorts, and what.
    ///
    /// # Panics
    /// If a record's epoch would go back.
    pub fn poll(&mut self, now: Instant) -> Option<(u64, usize, usize, RegisterAnswer)> {
        if self.calls.front()?.carried_out_at.is_some_and(|at| at <= now) {
            self.carry_out_first();
        }
        self.calls.front().filter(|call| call.due <= now)?;
        let call = self.calls.pop_front()?;
        Some((call.life, call.worker, call.errand.cohort, call.answer))
    }

    /// The process that asked is gone: its call under way is carried out if `done`, its others are not.
    pub fn abandon(&mut self, life: u64, done: bool) {
        let is_due = |call: &Call| call.life == life && call.carried_out_at.is_some();
        if done && self.calls.front().is_some_and(is_due) {
            self.carry_out_first();
        }
        self.calls.retain(|call| call.life != life);
    }

    /// The records by key.
    pub fn records(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.records.iter().map(|(key, stored)| (key.as_str(), &stored.record))
    }

    /// The records of calls under way: each may be written still.
    pub fn asked_for(&self) -> impl Iterator<Item = &Record> {
        self.calls.iter().filter_map(|call| match &call.errand.call {
            RegisterCall::Swap(record) => Some(record),
            RegisterCall::Read => None,
        })
    }

    /// If the call drops a server from a record: the one that stays.
    pub fn last_member_after(&self, errand: &RegisterErrand) -> Option<usize> {
        let RegisterCall::Swap(record) = &errand.call else { return None };
        let present = &self.records.get(&errand.key)?.record;
        let [stays] = &record.members[..] else { return None };
        let dropped = present.members.len() > 1;
        let place = (0..SERVERS_MAX).find(|place| server_name(*place) == stays.server);
        place.filter(|_| dropped)
    }

    /// Records written.
    pub fn swaps(&self) -> u64 {
        self.swaps
    }

    /// Swaps that had been carried out before, and failed.
    pub fn repeats(&self) -> u64 {
        self.repeats
    }

    /// Has an outage decide about a call.
    fn spoil(&mut self, outage: Outage, begins: Instant, call: &mut Call) {
        let outage = match (outage, self.rng.u8(0..3)) {
            (Outage::Mixed, 0) => Outage::Unreachable,
            (Outage::Mixed, 1) => Outage::AnswersLost,
            (Outage::Mixed, _) => Outage::Slow,
            (outage, _) => outage,
        };
        let takes = part(OUTAGE_CALL_TIME_MAX, self.rng.u64(..));
        let after = part(takes.max(Duration::from_nanos(1)), self.rng.u64(..));
        call.due = begins + takes;
        call.carried_out_at = (outage != Outage::Unreachable).then_some(begins + after);
        call.is_lost = outage == Outage::AnswersLost;
    }

    fn carry_out_first(&mut self) {
        let Some(mut call) = self.calls.pop_front() else { return };
        call.carried_out_at = None;
        let answer = self.carry_out(call.life, &call.errand);
        if !call.is_lost {
            call.answer = answer;
        }
        self.calls.push_front(call);
    }

    fn carry_out(&mut self, life: u64, errand: &RegisterErrand) -> RegisterAnswer {
        let present = self.records.get(&errand.key);
        let record = match &errand.call {
            RegisterCall::Read => {
                return RegisterAnswer::Read(present.map(|stored| stored.record.clone()));
            }
            RegisterCall::Swap(record) => record.clone(),
        };
        let record = Record { lease_ms: self.lease_told_ms.unwrap_or(record.lease_ms), ..record };
        let wanted = Stored { writer: WriterId(life), record };
        match wanted.judge(present) {
            Judgement::Conflicts => return RegisterAnswer::Conflict,
            Judgement::IsMade => self.repeats += 1,
            Judgement::Replaces => {
                let epoch = present.map(|stored| stored.record.epoch);
                assert!(epoch <= Some(wanted.record.epoch), "an epoch went back");
                self.records.insert(errand.key.clone(), wanted);
                self.swaps += 1;
            }
        }
        RegisterAnswer::Swapped
    }
}

/// A part of a time, less than the whole.
fn part(whole: Duration, draw: u64) -> Duration {
    Duration::from_nanos(draw % u64::try_from(whole.as_nanos()).expect("short"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvs_proto::Epoch;

    const ONE: u64 = 0;
    const LATE: Instant = Instant::from_nanos(60_000_000_000);

    fn swap(version: u64) -> RegisterErrand {
        let (members, joining, queues) = (vec![], vec![], vec![]);
        let epoch = Epoch(1);
        let record = Record { version, epoch, members, joining, queues, lease_ms: 1000 };
        RegisterErrand { cohort: 3, key: "k".into(), call: RegisterCall::Swap(record) }
    }

    #[test]
    fn the_first_of_two_that_replace_one_version_wins() {
        let mut register = SimRegister::new(1);
        register.ask(Instant::ZERO, (ONE, 0), swap(1), 5);
        assert_eq!(register.poll(Instant::ZERO), None);
        assert_eq!(register.poll(LATE), Some((ONE, 0, 3, RegisterAnswer::Swapped)));
        let other = register.begin_life();
        register.ask(Instant::ZERO, (other, 1), swap(1), 5);
        assert_eq!(register.poll(LATE), Some((other, 1, 3, RegisterAnswer::Conflict)));
        assert_eq!(register.swaps(), 1);
    }

    #[test]
    fn a_call_of_a_dead_process_is_done_at_once_or_never() {
        for done in [true, false] {
            let mut register = SimRegister::new(1);
            register.ask(Instant::ZERO, (ONE, 0), swap(1), 5);
            register.abandon(7, true);
            assert_eq!(register.swaps(), 0, "another one's");
            register.abandon(ONE, done);
            assert_eq!(register.swaps(), u64::from(done));
            assert_eq!(register.next_at(), None);
        }
    }

    #[test]
    fn in_an_outage_calls_fail_and_are_done_or_not_by_its_kind() {
        for (outage, done) in [(Outage::Unreachable, 0), (Outage::AnswersLost, 1)] {
            let mut register = SimRegister::new(1);
            register.begin_outage(outage, LATE);
            register.ask(Instant::ZERO, (ONE, 0), swap(1), 5);
            let Some((ONE, 0, 3, RegisterAnswer::Failed(_))) = register.poll(LATE) else {
                panic!("the call does not fail in {outage:?}");
            };
            assert_eq!(register.swaps(), done);
            // It is repeated when the outage is over.
            register.end_outage();
            register.ask(LATE, (ONE, 0), swap(1), 5);
            let answer = register.poll(LATE + CALL_TIME_MAX);
            assert_eq!(answer, Some((ONE, 0, 3, RegisterAnswer::Swapped)));
            assert_eq!((register.swaps(), register.repeats()), (1, done));
        }
    }

    #[test]
    fn it_is_out_of_reach_for_one_gateway_and_not_for_another() {
        let mut register = SimRegister::new(1);
        register.cut_off(ONE, LATE);
        register.ask(Instant::ZERO, (ONE, 0), swap(1), 5);
        assert!(matches!(register.poll(LATE), Some((ONE, 0, 3, RegisterAnswer::Failed(_)))));
        register.ask(Instant::ZERO, (9, 0), swap(1), 5);
        assert_eq!(register.poll(LATE), Some((9, 0, 3, RegisterAnswer::Swapped)));
    }

    #[test]
    fn a_slow_call_is_carried_out_before_it_is_answered() {
        let mut register = SimRegister::new(1);
        register.begin_outage(Outage::Slow, LATE);
        register.ask(Instant::ZERO, (ONE, 0), swap(1), 5);
        let carried_out_at = register.next_at().unwrap();
        assert_eq!((register.poll(carried_out_at), register.swaps()), (None, 1));
        let answered_at = register.next_at().unwrap();
        assert!(answered_at > carried_out_at);
        assert_eq!(register.poll(answered_at), Some((ONE, 0, 3, RegisterAnswer::Swapped)));
    }
}

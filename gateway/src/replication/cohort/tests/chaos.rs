//! A cohort, two or three servers and a register under faults at random steps, each run from one seed.
//!
//! After each step: what was committed and not delivered is at every recorded copy whose server is
//! in the recorded life. At the end, when the faults are over: two copies are in step, the queues
//! accept, and everything that was committed has been delivered, once and in order.

use std::collections::BTreeMap;

use super::*;

/// A run.
struct Chaos {
    world: World,
    random: fastrand::Rng,
    /// The register's call that is not answered yet.
    asked: Option<RegisterCall>,
    /// The last swap that was made while its caller was told that it failed.
    unsynced: Option<Record>,
    /// Committed and not delivered: what is in them.
    owed: BTreeMap<(usize, MessageId), u64>,
    /// Stored by this gateway: what is in them.
    stored: BTreeMap<(usize, MessageId), u64>,
    /// The last one delivered of each queue by this gateway.
    delivered: [MessageId; 2],
    /// The time of day for delivery: deferred messages are due at 99.
    unix_ms: u64,
    /// What happened, to tell runs in which nothing did.
    commits: usize,
    restarts: usize,
    repairs: u64,
}

const SEEDS: u64 = 300;
const STEPS: usize = 1500;

#[test]
fn whatever_fails_nothing_committed_is_lost_and_everything_heals() {
    let mut commits = 0;
    let mut restarts = 0;
    let mut repairs = 0;
    let only = std::env::var("CHAOS_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    for seed in only.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let watch = Watch(seed);
        let mut chaos = Chaos::new(seed);
        for _ in 0..STEPS {
            chaos.misbehave();
            chaos.check();
        }
        chaos.heal();
        commits += chaos.commits;
        restarts += chaos.restarts;
        repairs += chaos.repairs;
        std::mem::forget(watch);
    }
    let happened = commits > 5_000 && restarts > 500 && repairs > 50;
    assert!(only.is_some() || happened, "{commits} {restarts} {repairs}");
}

/// Names the seed of a run that failed.
struct Watch(u64);

impl Drop for Watch {
    fn drop(&mut self) {
        eprintln!("the seed was {}", self.0);
    }
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        let mut random = fastrand::Rng::with_seed(seed);
        let min_sync = random.usize(1..=2);
        let servers = random.usize(2..=3);
        let mut world = World::of(servers, min_sync);
        for server in &mut world.servers {
            server.is_old = random.u32(..4) == 0;
        }
        Chaos {
            world,
            random,
            asked: None,
            unsynced: None,
            owed: BTreeMap::new(),
            stored: BTreeMap::new(),
            delivered: [MessageId(0); 2],
            unix_ms: 0,
            commits: 0,
            restarts: 0,
            repairs: 0,
        }
    }

    /// One step: work most of the time, else a fault.
    fn misbehave(&mut self) {
        let member = self.random.usize(..self.world.servers.len());
        let place = self.random.usize(..2);
        match self.random.u32(..1000) {
            0..250 => self.maintain(),
            250..600 => _ = self.world.serve(member),
            600..750 => self.store(place),
            750..800 => self.deliver(place),
            800..820 => self.defer(place),
            820..830 => self.withdraw(place),
            830..880 => self.answer_register(true),
            880..920 => self.world.now += Duration::from_millis(self.random.u64(..500)),
            920..930 => self.world.now += ISOLATE_AFTER,
            930..932 => self.world.now += RECOVERY_WAIT,
            932..942 if self.world.servers[member].is_up => self.world.link_down(member),
            932..970 if !self.world.servers[member].is_up => self.world.link_up(member),
            970..973 => self.restart_server(member),
            976..978 => self.refuse(member),
            980..982 => _ = self.restart_gateway(),
            _ => {}
        }
        self.take_events();
    }

    fn members(&self) -> std::ops::Range<usize> {
        0..self.world.servers.len()
    }

    fn maintain(&mut self) {
        let world = &mut self.world;
        world.beat();
        world.cohort.maintain(world.now, &mut world.servers, &world.board);
        if let Some(call) = world.cohort.poll_register() {
            self.asked = Some(call);
        }
    }

    /// Answers the register's call: as it should, or by a failure before or after the change.
    fn answer_register(&mut self, may_fail: bool) {
        let Some(call) = self.asked.take() else { return };
        let failed = || RegisterAnswer::Failed("disk".into());
        let answer = match (self.random.u32(..6), &call) {
            (0, _) if may_fail => failed(),
            (1, RegisterCall::Swap(record)) if may_fail => {
                self.swap(record);
                self.unsynced = Some(record.clone());
                failed()
            }
            (_, RegisterCall::Swap(record)) => self.swap(record),
            (_, RegisterCall::Read) => self.world.register(call),
        };
        let world = &mut self.world;
        world.cohort.handle_register(world.now, answer, &mut world.servers);
    }

    fn swap(&mut self, record: &Record) -> RegisterAnswer {
        let is_made = self.unsynced.as_ref() == Some(record) && self.world.record == self.unsynced;
        if is_made {
            return RegisterAnswer::Swapped;
        }
        self.world.register(RegisterCall::Swap(record.clone()))
    }

    fn take_events(&mut self) {
        let mut must_restart = false;
        while let Some(event) = self.world.cohort.poll_event() {
            match event {
                CohortEvent::Committed { queue, id, .. } => {
                    let place = queue.0 as usize;
                    self.world.cohort.unit_mut(place).queue.release(id);
                    let serial = self.stored[&(place, id)];
                    self.owed.insert((place, id), serial);
                    self.commits += 1;
                    self.check_commit(place, id);
                }
                CohortEvent::Opened(_) => {}
                CohortEvent::Fatal(why) => {
                    assert!(why.contains("cannot take more"), "{why}");
                    must_restart = true;
                }
            }
        }
        if must_restart {
            self.world.servers.iter_mut().for_each(|server| server.refusing = None);
            assert!(self.restart_gateway(), "the last copy is kept");
        }
    }

    fn store(&mut self, place: usize) {
        if !self.world.cohort.is_accepting(place) {
            return;
        }
        let content = message(self.world.serial + 1).counted_bytes();
        let queue = QueueIndex(u32::try_from(place).unwrap());
        if self.world.board.reserve(queue, content).is_err() {
            return;
        }
        let id = self.world.store(place);
        self.stored.insert((place, id), self.world.serial);
    }

    fn attempt(&mut self, place: usize) -> Option<MessageId> {
        let unit = self.world.cohort.unit_mut(place);
        if !unit.is_open() {
            return None;
        }
        let id = unit.queue.next_attempt(self.unix_ms)?.id;
        assert!(id > self.delivered[place] || self.unix_ms > 0, "out of order");
        self.delivered[place] = id;
        Some(id)
    }

    fn deliver(&mut self, place: usize) {
        let Some(id) = self.attempt(place) else { return };
        self.world.cohort.unit_mut(place).queue.settle(id);
        self.world.cohort.touch(place);
        self.owed.remove(&(place, id));
    }

    fn defer(&mut self, place: usize) {
        let Some(id) = self.attempt(place) else { return };
        let state = DeliveryState::deferred(1, 99);
        self.world.cohort.unit_mut(place).queue.defer(id, state);
        self.world.cohort.touch(place);
    }

    /// The client of one of the last mails does not get its 250.
    fn withdraw(&mut self, place: usize) {
        let serial = self.world.serial.saturating_sub(self.random.u64(..3));
        let ticket = Ticket { front: 0, serial };
        if self.world.cohort.unit_mut(place).queue.withdraw(ticket) {
            self.world.cohort.touch(place);
        }
    }

    /// A server dies and comes back empty, unless that alone loses mail for good.
    fn restart_server(&mut self, member: usize) {
        let serves = self.world.cohort.phase == Phase::Serving;
        let all_read = (0..2).all(|place| self.world.cohort.unit(place).is_open());
        let keeps = |other: usize| {
            other != member && self.world.cohort.members[other].counts() && self.is_whole(other)
        };
        let is_kept = (0..self.world.servers.len()).any(keeps);
        if !serves || !(all_read || is_kept) {
            return;
        }
        self.world.link_down(member);
        self.world.servers[member].restart();
        self.restarts += 1;
    }

    fn refuse(&mut self, member: usize) {
        let server = &mut self.world.servers[member];
        server.refusing = match server.refusing {
            None => Some(Status::ArenaFull),
            Some(_) => None,
        };
    }

    /// The gateway dies, unless the mail is with nobody else.
    fn restart_gateway(&mut self) -> bool {
        if !self.members().any(|member| self.is_whole(member)) {
            return false;
        }
        let world = &mut self.world;
        let servers = world.servers.len();
        for server in &mut world.servers {
            let idle = Duration::from_millis(self.random.u64(..2000));
            server.owner_idle = Some(Some(idle).filter(|_| self.random.bool()));
        }
        world.cohort = cohort_of(servers, world.min_sync, false);
        world.board = board();
        for member in 0..servers {
            if std::mem::take(&mut world.servers[member].is_up) {
                world.servers[member].link.clear();
                world.link_up(member);
            }
        }
        self.asked = None;
        self.unsynced = None;
        self.stored.clear();
        self.delivered = [MessageId(0); 2];
        self.restarts += 1;
        true
    }

    /// Whether the member is recorded in the life that it is in.
    fn is_whole(&self, member: usize) -> bool {
        let server = SERVER_NAMES[member];
        let life = Incarnation(self.world.servers[member].life);
        self.world.record.as_ref().is_some_and(|it| it.incarnation_of(server) == Some(life))
    }

    fn check(&self) {
        for member in self.members().filter(|member| self.is_whole(*member)) {
            for ((place, id), serial) in &self.owed {
                let queue = self.world.servers[member].queues.get(&format!("gw/q{place}"));
                let body = queue.and_then(|queue| queue.messages.get(id)).map(|it| it.0.whole());
                let is_there = body.is_some_and(|(_, content)| message(*serial).content == content);
                assert!(is_there, "{id:?} of queue {place} is not at {member}");
            }
        }
    }

    /// So many copies as the policy asks for have what was just committed, where all that are recorded are there.
    fn check_commit(&self, place: usize, id: MessageId) {
        let record = self.world.record.as_ref().expect("there is a record");
        let recorded = |server: &str| record.incarnation_of(server).or(record.joining_of(server));
        let lives =
            self.members().filter_map(|member| Some((member, recorded(SERVER_NAMES[member])?)));
        let servers = lives.map(|(member, life)| (&self.world.servers[member], life));
        let servers = servers.collect::<Vec<_>>();
        if servers.iter().any(|(server, life)| !server.is_up || server.life != life.0) {
            return;
        }
        let has_it = |server: &super::server::Server| {
            let queue = server.queues.get(&format!("gw/q{place}"));
            queue.is_some_and(|queue| queue.messages.contains_key(&id))
        };
        let copies = servers.iter().filter(|(server, _)| has_it(server)).count();
        assert!(copies >= self.world.min_sync, "{id:?} of queue {place} has {copies} copies");
    }

    /// No more faults: it all comes to a good end.
    fn heal(&mut self) {
        for member in self.members() {
            self.world.servers[member].refusing = None;
            if !self.world.servers[member].is_up {
                self.world.link_up(member);
            }
        }
        for _ in 0..40 {
            while self.work() {}
            self.world.now += FILL_DELAY_MAX / 10;
        }
        for place in 0..2 {
            assert!(self.world.cohort.is_accepting(place), "{:#?}", self.world.cohort);
            self.store(place);
        }
        while self.work() {}
        self.world.assert_in_step();
        self.unix_ms = 100;
        for place in 0..2 {
            self.delivered[place] = MessageId(0);
            while !self.world.cohort.unit(place).queue.is_empty() {
                self.deliver(place);
            }
        }
        assert!(self.owed.is_empty(), "{:?}", self.owed);
        while self.work() {}
        assert!(self.world.cohort.is_quiet());
        self.repairs = self.world.cohort.counters().repairs;
        assert_eq!(self.world.board.bytes_left(), board().bytes_left(), "all room is given back");
    }

    /// Everybody's turn, without faults; returns whether there was anything to do.
    fn work(&mut self) -> bool {
        self.maintain();
        let mut any = self.asked.is_some();
        self.answer_register(false);
        for member in self.members() {
            any |= self.world.serve(member);
        }
        self.take_events();
        self.check();
        any
    }
}

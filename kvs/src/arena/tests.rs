//! The arena against a model: ordered maps.

use std::collections::{BTreeMap, VecDeque};

use kvs_proto::{MessageId, STATE_SIZE_BYTES_MAX, StateVersion, checksum};
use proptest::prelude::*;

use super::*;

/// What a log should hold.
#[derive(Default)]
struct Model {
    records: BTreeMap<u64, Expected>,
    last_id: u64,
}

#[derive(Clone)]
struct Expected {
    body: Vec<u8>,
    state: Option<(u32, Vec<u8>)>,
}

struct Pair {
    log: Log,
    model: Model,
    /// With the id, the body, and the last id when the room was taken.
    open: Vec<(Reservation, u64, Vec<u8>, u64)>,
}

struct World {
    arena: Arena,
    queues: Vec<Pair>,
    uids: u32,
}

#[derive(Clone, Debug)]
enum Step {
    Store { queue: usize, length: usize, skip: u64 },
    Reserve { queue: usize, length: usize, skip: u64 },
    Finish { queue: usize, which: usize, commit: bool },
    Delete { queue: usize, which: usize },
    DeleteRun { queue: usize, which: usize, count: usize, stride: usize },
    Replace { queue: usize, which: usize, length: usize },
    Scan { queue: usize, from: u64, remove_behind: bool },
    Drop { queue: usize },
    Work { chunks: usize },
}

fn body(id: u64, length: usize) -> Vec<u8> {
    let seed = id.wrapping_mul(0x9e37_79b9);
    (0..length).map(|at| (seed.wrapping_add(at as u64 * 7) >> 3).to_le_bytes()[0]).collect()
}

impl World {
    fn new(queues: usize, memory_bytes: usize, messages_max: usize) -> World {
        let arena = Arena::new(memory_bytes, messages_max).unwrap();
        let mut world = World { arena, queues: Vec::new(), uids: 0 };
        for _ in 0..queues {
            let log = world.new_log();
            world.queues.push(Pair { log, model: Model::default(), open: Vec::new() });
        }
        world
    }

    fn new_log(&mut self) -> Log {
        self.uids += 1;
        Log::new(QueueUid(self.uids))
    }

    fn store(&mut self, queue: usize, length: usize, skip: u64) -> Result<u64, Full> {
        let Pair { log, model, .. } = &mut self.queues[queue];
        let id = model.last_id + 1 + skip;
        let bytes = body(id, length);
        self.arena.append(log, MessageId(id), &bytes, checksum(&bytes))?;
        model.last_id = id;
        model.records.insert(id, Expected { body: bytes, state: None });
        Ok(id)
    }

    fn delete(&mut self, queue: usize, id: u64) {
        let Pair { log, model, .. } = &mut self.queues[queue];
        model.records.remove(&id).unwrap();
        assert!(self.arena.remove(log, MessageId(id), |_, _| {}));
    }

    fn nth(&self, queue: usize, which: usize) -> Option<u64> {
        let records = &self.queues[queue].model.records;
        records.keys().nth(which % records.len().max(1)).copied()
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Store { queue, length, skip } => drop(self.store(queue, length, skip)),
            Step::Reserve { queue, length, skip } => {
                let Pair { log, model, open } = &mut self.queues[queue];
                let id = model.last_id + 1 + skip;
                if let Ok(reservation) = self.arena.reserve(log, MessageId(id), length) {
                    open.push((reservation, id, body(id, length), model.last_id));
                }
            }
            Step::Finish { queue, which, commit } => self.finish(queue, which, commit),
            Step::Delete { queue, which } => {
                if let Some(id) = self.nth(queue, which) {
                    self.delete(queue, id);
                }
            }
            Step::DeleteRun { queue, which, count, stride } => {
                let keys = self.queues[queue].model.records.keys();
                let ids: Vec<u64> = keys.skip(which).step_by(stride).take(count).copied().collect();
                for id in ids {
                    self.delete(queue, id);
                }
            }
            Step::Replace { queue, which, length } => self.replace(queue, which, length),
            Step::Scan { queue, from, remove_behind } => self.scan(queue, from, remove_behind),
            Step::Drop { queue } => {
                let new = self.new_log();
                let pair = &mut self.queues[queue];
                self.arena.release(std::mem::replace(&mut pair.log, new));
                pair.model = Model::default();
                pair.open.clear();
            }
            Step::Work { chunks } => assert!(self.arena.work(chunks) <= chunks),
        }
    }

    /// Commits as the queue would: only if nothing was stored since the room was taken, so the order
    /// of ids stays that of the log.
    fn finish(&mut self, queue: usize, which: usize, commit: bool) {
        let Pair { log, model, open } = &mut self.queues[queue];
        if open.is_empty() {
            return;
        }
        let (mut reservation, id, bytes, last_id) = open.swap_remove(which % open.len());
        if !commit || last_id != model.last_id {
            let half = bytes.len() / 2;
            self.arena.fill(&mut reservation, &bytes[..half]);
            return self.arena.abort(log, reservation);
        }
        self.arena.fill(&mut reservation, &bytes);
        self.arena.commit(log, reservation, checksum(&bytes));
        model.last_id = id;
        model.records.insert(id, Expected { body: bytes, state: None });
    }

    fn replace(&mut self, queue: usize, which: usize, length: usize) {
        let Some(id) = self.nth(queue, which) else { return };
        let Pair { log, model, .. } = &mut self.queues[queue];
        let place = self.arena.find(log, MessageId(id)).unwrap();
        let expected = model.records.get_mut(&id).unwrap();
        let version = expected.state.as_ref().map_or(0, |(version, _)| *version) + 1;
        let state = body(id ^ 0xff, length);
        if self.arena.set_state(place, StateVersion(version), &state).is_ok() {
            expected.state = Some((version, state));
        }
    }

    fn scan(&mut self, queue: usize, from: u64, remove_behind: bool) {
        let mut cursor = Cursor::behind(MessageId(from));
        let mut previous = from;
        while let Some(place) = self.arena.next(&self.queues[queue].log, &cursor) {
            let id = self.arena.record(place).id.0;
            let expected = self.queues[queue].model.records.range(previous + 1..).next();
            assert_eq!(expected.map(|(id, _)| *id), Some(id), "the next one in order");
            cursor = self.arena.cursor(place);
            previous = id;
            if remove_behind {
                self.delete(queue, id);
            }
        }
        assert_eq!(
            self.queues[queue].model.records.range(previous + 1..).next().map(|r| r.0),
            None
        );
    }

    fn check(&self) {
        self.arena.check(self.queues.iter().map(|pair| &pair.log));
    }

    fn check_contents(&self) {
        for Pair { log, model, .. } in &self.queues {
            assert_eq!(log.messages(), model.records.len() as u64);
            for (&id, expected) in &model.records {
                let place = self.arena.find(log, MessageId(id)).unwrap();
                let record = self.arena.record(place);
                assert_eq!((record.id.0, record.checksum), (id, checksum(&expected.body)));
                let mut read = Vec::new();
                self.arena.read(place, 0, expected.body.len(), &mut read);
                assert_eq!(read, expected.body);
                let (from, count) = (expected.body.len() / 3, expected.body.len() / 2);
                read.clear();
                self.arena.read(place, from, count, &mut read);
                assert_eq!(read, expected.body[from..from + count]);
                let state = self.arena.state(place).map(|(v, state)| (v.0, state.to_vec()));
                assert_eq!(state, expected.state);
            }
        }
    }
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0usize..600,
        3 => 1_000usize..5_000,
        2 => 20_000usize..70_000,
        1 => 60_000usize..300_000,
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let queue = 0usize..3;
    let which = any::<usize>();
    prop_oneof![
        10 => (queue.clone(), lengths(), 0u64..3)
            .prop_map(|(queue, length, skip)| Step::Store { queue, length, skip }),
        2 => (queue.clone(), lengths(), 0u64..30)
            .prop_map(|(queue, length, skip)| Step::Reserve { queue, length, skip }),
        3 => (queue.clone(), which, any::<bool>())
            .prop_map(|(queue, which, commit)| Step::Finish { queue, which, commit }),
        4 => (queue.clone(), which).prop_map(|(queue, which)| Step::Delete { queue, which }),
        2 => (queue.clone(), 0usize..50, 1usize..80, 1usize..4).prop_map(
            |(queue, which, count, stride)| Step::DeleteRun { queue, which, count, stride }),
        3 => (queue.clone(), which, 0..STATE_SIZE_BYTES_MAX)
            .prop_map(|(queue, which, length)| Step::Replace { queue, which, length }),
        1 => (queue.clone(), 0u64..300, any::<bool>()).prop_map(|(queue, from, remove_behind)|
            Step::Scan { queue, from, remove_behind }),
        1 => queue.prop_map(|queue| Step::Drop { queue }),
        2 => (0usize..200).prop_map(|chunks| Step::Work { chunks }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_ordered_maps(
        steps in proptest::collection::vec(steps(), 1..250),
        bulk in 0usize..150,
    ) {
        let mut world = World::new(3, 4 << 20, 300);
        for _ in 0..bulk {
            world.apply(Step::Store { queue: 0, length: 3_000, skip: 0 });
        }
        for step in steps {
            world.apply(step);
            world.check();
        }
        world.check_contents();
        for queue in 0..3 {
            world.apply(Step::Drop { queue });
        }
        while world.arena.has_work() {
            world.apply(Step::Work { chunks: 100 });
        }
        world.check();
        prop_assert_eq!(world.arena.free_bytes(), world.arena.size_bytes());
        prop_assert_eq!(world.arena.messages(), 0);
    }
}

#[test]
fn memory_comes_back_when_old_messages_stay_behind() {
    let mut world = World::new(1, 8 << 20, 100_000);
    let mut stored = 0;
    for round in 0u64..40_000 {
        world.store(0, 1_000, 0).expect("one message of fifty stays: 800 KB of 8 MB in the end");
        stored += 1_000;
        if round % 50 != 0 {
            world.delete(0, round + 1);
        }
    }
    world.check();
    assert!(world.arena.bytes_moved() < stored);
    let used = world.arena.size_bytes() - world.arena.free_bytes();
    let live = usize::try_from(world.queues[0].log.bytes()).unwrap();
    assert!(used < live * 8 / 3, "{used} bytes for {live}");
}

#[test]
fn compaction_copies_less_than_was_stored_whatever_the_order_of_removal() {
    for stride in [2, 3, 7, 61, 62, 63, 130] {
        let mut world = World::new(1, 16 << 20, 20_000);
        let count = 12_000;
        for _ in 0..count {
            world.store(0, 1_000, 0).unwrap();
        }
        for start in 0..stride {
            for id in (1 + start..=count).step_by(usize::try_from(stride).unwrap()) {
                world.delete(0, id);
            }
            world.check();
        }
        assert!(world.arena.bytes_moved() < count * 1_000);
        assert_eq!(world.arena.free_bytes(), world.arena.size_bytes());
    }
}

#[test]
fn a_message_costs_at_most_96_bytes_with_everything_counted() {
    for length in [100, 400, 1_024, 1_536, 3_000, 4_302, 10_000] {
        let mut world = World::new(1, 16 << 20, usize::MAX);
        let mut stored = 0;
        while world.store(0, length, 0).is_ok() {
            stored += 1;
        }
        let all = world.arena.size_bytes() + world.arena.table_bytes();
        let overhead = all / stored - length;
        assert!(overhead <= 96, "{overhead} bytes for each of {stored} of {length}");
    }
}

#[test]
fn messages_are_found_behind_room_that_was_taken_for_a_higher_id_and_given_back() {
    let mut world = World::new(1, 4 << 20, 1_000);
    for _ in 0..5 {
        world.store(0, 400, 0).unwrap();
    }
    // Over several segments, of which the last one takes what comes meanwhile.
    world.apply(Step::Reserve { queue: 0, length: 300_000, skip: 100 });
    for _ in 0..5 {
        world.store(0, 400, 0).unwrap();
        world.check();
    }
    world.apply(Step::Finish { queue: 0, which: 0, commit: false });
    world.check();
    world.store(0, 400, 95).expect("the id that room was taken for");
    world.check();
    world.delete(0, 8);
    world.delete(0, 106);
    world.delete(0, 3);
    world.check();
    world.check_contents();
}

#[test]
fn ids_that_differ_only_beyond_what_a_slot_has_of_them_are_told_apart() {
    let mut world = World::new(1, 4 << 20, 1_000);
    let far = 1 << 52;
    for skip in [0, 0, far - 1, 0, far, far - 3] {
        world.store(0, 400, skip).unwrap();
        world.check();
    }
    for absent in [3, far + 1, far - 1, far + 4] {
        assert_eq!(world.arena.find(&world.queues[0].log, MessageId(absent)), None, "{absent}");
    }
    world.delete(0, far + 2);
    world.delete(0, 1);
    world.check();
    world.check_contents();
}

#[test]
fn a_full_arena_refuses_changes_nothing_and_recovers() {
    let mut world = World::new(2, 2 << 20, 10_000);
    while world.store(0, 30_000, 0).is_ok() {}
    world.check();
    let before = world.arena.free_bytes();
    assert_eq!(world.store(1, 200_000, 0), Err(Full));
    assert!(world.arena.reserve(&mut world.queues[1].log, MessageId(1), 200_000).is_err());
    assert_eq!(world.arena.free_bytes(), before);
    for id in 1..=10 {
        world.delete(0, id);
    }
    world.store(1, 200_000, 0).expect("300 KB came back");
    world.check();
    world.check_contents();
}

#[test]
fn what_was_stored_within_the_room_can_all_have_state_records() {
    for length in [100, 1_000, 10_000] {
        let mut world = World::new(1, 8 << 20, 100_000);
        while world.arena.room().bytes > 0 {
            world.store(0, length, 0).unwrap();
        }
        let ids: Vec<u64> = world.queues[0].model.records.keys().copied().collect();
        for id in ids {
            let place = world.arena.find(&world.queues[0].log, MessageId(id)).unwrap();
            world.arena.set_state(place, StateVersion(1), &[7; STATE_SIZE_BYTES_MAX]).unwrap();
        }
        world.store(0, length, 0).expect("there is still a reserve");
    }
}

#[test]
fn more_messages_than_may_be_are_refused() {
    let mut world = World::new(1, 2 << 20, 3);
    for _ in 0..3 {
        world.store(0, 10, 0).unwrap();
    }
    assert_eq!(world.store(0, 10, 0), Err(Full));
    world.delete(0, 2);
    world.store(0, 10, 0).unwrap();
    world.check();
}

#[test]
fn a_dropped_queue_goes_in_slices_and_its_numbers_never_come_back() {
    let mut world = World::new(2, 4 << 20, 10_000);
    for _ in 0..2_000 {
        world.store(0, 1_000, 0).unwrap();
    }
    world.apply(Step::Drop { queue: 0 });
    assert_eq!(world.arena.find(&world.queues[0].log, MessageId(1)), None);
    let mut slices = 0;
    while world.arena.has_work() {
        assert!(world.arena.work(100) <= 100);
        world.store(1, 10, 0).expect("others go on");
        world.check();
        slices += 1;
    }
    assert!(slices >= 20);
    assert_eq!(world.arena.messages(), slices);
}

/// Stores and deletes in order, as full as it gets all the time, until several times the arena's memory was stored. Every
/// tenth message stays, until so many of a hundred that are held have stayed; then the oldest of those go. Returns the least share of the
/// memory, in percent, that bodies had whenever there was no room.
fn least_use(percent_staying: usize) -> u64 {
    let mut world = World::new(1, 16 << 20, 100_000);
    let lengths = [400, 1_024, 3_000, 1_024, 10_000, 700, 1_024];
    let mut staying = VecDeque::new();
    let (mut stored, mut oldest, mut least) = (0, 1, 100);
    while stored < 60_000 {
        let length = lengths[usize::try_from(stored).unwrap() % lengths.len()];
        if world.store(0, length, 0).is_ok() {
            stored += 1;
            continue;
        }
        least = least.min(world.queues[0].log.bytes() * 100 / world.arena.size_bytes() as u64);
        for id in oldest..oldest + 50 {
            match id % 10 {
                0 if percent_staying > 0 => staying.push_back(id),
                _ => world.delete(0, id),
            }
        }
        oldest += 50;
        while staying.len() * 100 > world.queues[0].model.records.len() * percent_staying {
            let id = staying.pop_front().unwrap();
            world.delete(0, id);
        }
    }
    least
}

#[test]
fn an_arena_without_room_is_full_of_messages_also_where_a_tenth_of_them_stays_for_long() {
    let (in_order, with_a_tenth) = (least_use(0), least_use(10));
    assert!(in_order >= 85, "{in_order} % in order");
    assert!(with_a_tenth >= 75, "{with_a_tenth} % with a tenth that stays");
}

#[test]
fn queues_of_one_message_do_not_begin_at_the_same_line_of_their_segments() {
    const QUEUES: usize = 256;
    let mut world = World::new(QUEUES, QUEUES * SEGMENT_SIZE_BYTES, QUEUES);
    let mut offsets = std::collections::BTreeSet::new();
    for queue in 0..QUEUES {
        let id = world.store(queue, 400, 0).unwrap();
        let log = &world.queues[queue].log;
        let place = world.arena.find(log, MessageId(id)).unwrap();
        assert_eq!(world.arena.first(log), Some(place), "nothing is before it");
        offsets.insert(place.offset());
    }
    assert_eq!(offsets.len(), QUEUES);
    world.arena.check(world.queues.iter().map(|queue| &queue.log));
}

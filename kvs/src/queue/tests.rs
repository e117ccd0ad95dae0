//! Fencing, sequence numbers and the numbers by which copies are compared.

use kvs_proto::{Op, checksum};

use super::*;

struct World {
    arena: Arena,
    queue: Queue,
    next: u64,
}

const GENERATION: Generation = Generation(1);

impl World {
    fn new() -> World {
        let arena = Arena::new(4 << 20, 1_000).unwrap();
        let queue = Queue::new(QueueUid(1), Epoch(5), GENERATION, 100, 100_000);
        World { arena, queue, next: 1 }
    }

    fn header(&mut self, op: Op, id: u64) -> Header {
        let header = Header {
            epoch: self.queue.epoch,
            generation_or_status: self.queue.generation.0,
            sequence: Sequence(self.next),
            message: MessageId(id),
            floor: 1,
            ..Header::new(op)
        };
        self.next += 1;
        header
    }

    fn apply(
        &mut self,
        header: &Header,
        change: impl FnOnce(&mut Queue, &mut Arena) -> Result<(), Status>,
    ) -> Result<(), Status> {
        assert_eq!(self.queue.admit(header), Admission::Next);
        let result = change(&mut self.queue, &mut self.arena);
        self.queue.settle(header, result);
        result
    }

    fn store(&mut self, id: u64, body: &[u8]) -> Result<(), Status> {
        let header = Header { body_checksum: checksum(body), ..self.header(Op::Store, id) };
        self.apply(&header, |queue, arena| queue.store(arena, &header, body))
    }

    fn backfill(&mut self, id: u64, body: &[u8]) -> Result<(), Status> {
        let header = self.header(Op::Store, id);
        let body_checksum = checksum(body);
        let header = Header { body_checksum, flags: flags::BACKFILL, ..header };
        self.apply(&header, |queue, arena| queue.store(arena, &header, body))
    }

    fn baseline(&mut self, content: ContentDigest, messages: u64) -> Result<(), Status> {
        let header = self.header(Op::Baseline, 0);
        let (transaction, chain) = (Transaction(1000), ChainHash(7));
        let baseline = Baseline { transaction, chain, content, messages };
        self.apply(&header, |queue, _| queue.baseline(&baseline))
    }

    /// What lives, in physical order, read record by record from behind `after`.
    fn read(&self, after: u64) -> Vec<u64> {
        let mut cursor = Cursor::behind(MessageId(after));
        let mut ids = Vec::new();
        while let Some(place) = self.queue.next(&self.arena, &cursor) {
            ids.push(self.arena.record(place).id.0);
            cursor = self.arena.cursor(place);
        }
        ids
    }

    fn delete(&mut self, id: u64) -> Result<(), Status> {
        let header = self.header(Op::Delete, id);
        self.apply(&header, |queue, arena| queue.delete(arena, &header))
    }

    fn replace(&mut self, id: u64, version: u32, state: &[u8]) -> Result<(), Status> {
        let header = self.header(Op::Replace, id);
        let version = StateVersion(version);
        self.apply(&header, |queue, arena| queue.replace(arena, &header, version, state))
    }

    fn numbers(&self) -> (Transaction, ChainHash, ContentDigest) {
        (self.queue.transaction, self.queue.chain, self.queue.content)
    }
}

#[test]
fn lower_epochs_and_generations_are_fenced_from_the_seal_on() {
    let mut world = World::new();
    let old = world.header(Op::Delete, 1);
    let fenced = Admission::Refused(Status::Fenced);
    world.queue.attach(Epoch(5), Generation(2)).unwrap();
    assert_eq!(world.queue.admit(&old), fenced);
    world.queue.attach(Epoch(6), Generation(0)).unwrap();
    let resumed = Header { generation_or_status: 9, ..old };
    assert_eq!(world.queue.admit(&resumed), fenced);
    assert_eq!(world.queue.attach(Epoch(5), Generation(9)).map(drop), Err(Status::Fenced));
    assert_eq!(world.queue.attach(Epoch(6), Generation(0)).map(drop), Ok(()), "a second path");
}

#[test]
fn an_epoch_that_did_not_attach_is_refused() {
    let mut world = World::new();
    let header = Header { epoch: Epoch(6), ..world.header(Op::Delete, 1) };
    assert_eq!(world.queue.admit(&header), Admission::Refused(Status::NotAttached));
}

#[test]
fn each_sequence_number_is_applied_once_and_answered_again() {
    let mut world = World::new();
    world.store(1, b"one").unwrap();
    assert_eq!(world.store(1, b"again"), Err(Status::IdNotGrowing));
    world.next = 1;
    let first = world.header(Op::Store, 1);
    let second = world.header(Op::Store, 1);
    assert_eq!(world.queue.admit(&first), Admission::Settled(Status::Ok));
    assert_eq!(world.queue.admit(&second), Admission::Settled(Status::IdNotGrowing));
    world.header(Op::Store, 2);
    let ahead = world.header(Op::Store, 2);
    assert_eq!(world.queue.admit(&ahead), Admission::Refused(Status::SequenceGap));
    let zero = Header { sequence: Sequence(0), ..ahead };
    assert_eq!(world.queue.admit(&zero), Admission::Refused(Status::SequenceGap));
}

#[test]
fn a_new_epoch_numbers_from_one_and_goes_on_counting_transactions() {
    let mut world = World::new();
    world.store(1, b"one").unwrap();
    world.queue.attach(Epoch(6), Generation(0)).unwrap();
    world.next = 1;
    world.store(2, b"two").unwrap();
    assert_eq!(world.queue.transaction, Transaction(2));
    let entries: Vec<_> = world.queue.operations_after(Transaction(0)).unwrap().collect();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1].chain, world.queue.chain);
}

#[test]
fn a_floor_beyond_the_request_itself_is_not_believed() {
    let mut world = World::new();
    let header = Header { floor: u64::MAX, ..world.header(Op::Delete, 1) };
    assert_eq!(
        world.apply(&header, |queue, arena| queue.delete(arena, &header)),
        Err(Status::NotFound)
    );
    assert_eq!(world.queue.admit(&header), Admission::Settled(Status::NotFound));
}

#[test]
fn copies_with_the_same_changes_have_the_same_numbers() {
    let (mut a, mut b) = (World::new(), World::new());
    for world in [&mut a, &mut b] {
        world.store(1, b"one").unwrap();
        world.store(2, b"two").unwrap();
        world.replace(2, 1, b"tried once").unwrap();
        world.delete(1).unwrap();
    }
    assert_eq!(a.numbers(), b.numbers());
    b.replace(2, 2, b"tried twice").unwrap();
    a.replace(2, 2, b"tried thrice").unwrap();
    assert_eq!(a.queue.transaction, b.queue.transaction);
    assert_ne!(a.queue.chain, b.queue.chain);
    assert_ne!(a.queue.content, b.queue.content);
    a.delete(2).unwrap();
    assert_eq!(a.queue.content, ContentDigest(0));
}

#[test]
fn a_copy_filled_from_another_takes_its_numbers_only_with_the_same_content() {
    let (mut source, mut copy) = (World::new(), World::new());
    source.store(1, b"one").unwrap();
    source.store(2, b"two").unwrap();
    source.delete(1).unwrap();
    let (transaction, chain, content) = source.numbers();
    let baseline = Baseline { transaction, chain, content, messages: 1 };
    assert_eq!(copy.queue.baseline(&baseline), Err(Status::ContentDiffers));
    copy.store(2, b"two").unwrap();
    copy.queue.baseline(&baseline).unwrap();
    assert_eq!(copy.numbers(), source.numbers());
    for world in [&mut source, &mut copy] {
        world.store(3, b"three").unwrap();
    }
    assert_eq!(copy.numbers(), source.numbers());
    let back = Baseline { transaction: Transaction(1), ..baseline };
    assert_eq!(copy.queue.baseline(&back), Err(Status::ContentDiffers));
    let (_, chain, content) = copy.numbers();
    let beyond = Baseline { transaction: Transaction(u64::MAX), chain, content, messages: 2 };
    assert_eq!(copy.queue.baseline(&beyond), Err(Status::ContentDiffers));
}

#[test]
fn state_versions_grow() {
    let mut world = World::new();
    world.store(1, b"one").unwrap();
    assert_eq!(world.replace(1, 0, b""), Err(Status::StaleState));
    world.replace(1, 7, b"seven").unwrap();
    assert_eq!(world.replace(1, 7, b"other"), Err(Status::StaleState));
    assert_eq!(world.replace(2, 1, b""), Err(Status::NotFound));
    assert_eq!(
        world.replace(1, 8, &[0; kvs_proto::STATE_SIZE_BYTES_MAX + 1]),
        Err(Status::TooLarge)
    );
}

#[test]
fn bounds_on_messages_and_bytes_are_answered_and_credit_shows_them() {
    let mut world = World::new();
    for id in 1..=87 {
        world.store(id, b"x").unwrap();
    }
    assert_eq!(world.queue.credit().messages, 1);
    world.store(88, b"x").unwrap();
    assert_eq!(world.queue.credit().messages, 0, "and what is under way is taken");
    for id in 89..=100 {
        world.store(id, b"x").unwrap();
    }
    assert_eq!(world.store(101, b"x"), Err(Status::QueueFull));
    world.delete(50).unwrap();
    assert_eq!(world.store(101, &[0; 100_000]), Err(Status::QueueFull));
    world.store(102, &[0; 99_000]).unwrap();
    assert_eq!(world.queue.credit().kib, 0);
}

#[test]
fn what_is_back_filled_lies_ahead_of_what_is_stored_live() {
    let mut world = World::new();
    let live = [10, 12, 15].map(|id| world.store(id, b"new"));
    let old = [2, 3, 9].map(|id| world.backfill(id, b"old"));
    assert!(live.iter().chain(&old).all(Result::is_ok));
    assert_eq!(world.read(0), [2, 3, 9, 10, 12, 15]);
    world.store(20, b"newer").unwrap();
    assert_eq!(world.read(3), [9, 10, 12, 15, 20]);
    assert_eq!(world.read(11), [12, 15, 20]);
    assert!([9, 10].map(|id| world.delete(id)).iter().all(Result::is_ok));
    assert_eq!(world.read(9), [12, 15, 20]);
    world.replace(3, 1, b"state").unwrap();
    let attached = world.queue.attached(&world.arena, 1);
    assert_eq!((attached.first_id.0, attached.last_id.0, attached.messages), (2, 20, 5));
    world.arena.check(world.queue.logs());
}

#[test]
fn back_fill_comes_in_order_and_below_what_is_live() {
    let mut world = World::new();
    let wrong = Err(Status::IdNotGrowing);
    world.backfill(5, b"old").unwrap();
    assert_eq!(world.backfill(5, b"old"), wrong);
    assert_eq!(world.backfill(4, b"old"), wrong);
    assert_eq!(world.store(5, b"new"), wrong, "live messages are above all others");
    world.store(10, b"new").unwrap();
    assert_eq!(world.backfill(10, b"old"), wrong);
    assert_eq!(world.backfill(11, b"old"), wrong);
    world.delete(10).unwrap();
    assert_eq!(world.backfill(10, b"old"), wrong, "it was there");
    world.backfill(9, b"old").unwrap();
    assert_eq!(world.read(0), [5, 9]);
}

#[test]
fn a_baseline_ends_the_filling() {
    let mut world = World::new();
    world.store(10, b"new").unwrap();
    world.backfill(1, b"old").unwrap();
    assert_eq!(world.baseline(ContentDigest(1), 2), Err(Status::ContentDiffers));
    world.backfill(2, b"old").unwrap();
    world.baseline(world.queue.content, 3).unwrap();
    assert_eq!(world.backfill(3, b"old"), Err(Status::IdNotGrowing));
    world.store(11, b"new").unwrap();
    assert_eq!((world.read(0), world.queue.transaction), (vec![1, 2, 10, 11], Transaction(1001)));
}

#[test]
fn a_reservation_goes_back_to_the_list_that_it_was_made_in() {
    let mut world = World::new();
    world.store(10, b"new").unwrap();
    let header = Header { flags: flags::BACKFILL, ..world.header(Op::Store, 5) };
    let old = world.queue.reserve(&mut world.arena, &header, 90_000).unwrap();
    let header = world.header(Op::Store, 11);
    let new = world.queue.reserve(&mut world.arena, &header, 80_000).unwrap();
    world.queue.abort(&mut world.arena, old);
    world.queue.abort(&mut world.arena, new);
    world.arena.check(world.queue.logs());
    assert_eq!(world.read(0), [10]);
}

/// What may be asked of a queue that is being filled.
#[derive(Clone, Copy, Debug)]
enum Step {
    Store(u64),
    Backfill(u64),
    Delete(usize),
    Replace(usize, u32),
    Baseline(bool),
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    use proptest::prelude::*;
    let step = prop_oneof![
        4 => (0..4u64).prop_map(Step::Store),
        4 => (0..4u64).prop_map(Step::Backfill),
        3 => any::<usize>().prop_map(Step::Delete),
        2 => (any::<usize>(), 0..5u32).prop_map(|(place, version)| Step::Replace(place, version)),
        1 => (0..20u32).prop_map(|chance| Step::Baseline(chance == 0)),
    ];
    prop::collection::vec(step, 0..200)
}

proptest::proptest! {
    #[test]
    fn live_and_old_messages_in_any_order_are_what_a_sorted_map_is(steps in steps()) {
        check_against_a_map(&steps);
    }
}

/// The model: one map, and by when an id may still be stored.
fn check_against_a_map(steps: &[Step]) {
    let mut world = World::new();
    let mut model = std::collections::BTreeMap::<u64, (usize, u32)>::new();
    let (mut last, mut last_old, mut first_live, mut is_filling) = (0, 0, u64::MAX, true);
    for (number, step) in steps.iter().enumerate() {
        // From bytes to several segments.
        let body = vec![b'x'; if number % 17 == 0 { 3_000 } else { number }];
        let full = model.len() >= 100
            || model.values().map(|it| it.0).sum::<usize>() + body.len() > 100_000;
        match *step {
            Step::Store(above) => {
                // Back-fill has room below.
                let id = last.max(100) + above;
                let expected = match (id > last, full) {
                    (false, _) => Err(Status::IdNotGrowing),
                    (true, true) => Err(Status::QueueFull),
                    (true, false) => Ok(()),
                };
                assert_eq!(world.store(id, &body), expected);
                if expected.is_ok() {
                    model.insert(id, (body.len(), 0));
                    (last, first_live) = (id, first_live.min(id));
                }
            }
            Step::Backfill(above) => {
                let id = last_old + above;
                let fits = is_filling && above > 0 && id < first_live;
                let expected = match (fits, full) {
                    (false, _) => Err(Status::IdNotGrowing),
                    (true, true) => Err(Status::QueueFull),
                    (true, false) => Ok(()),
                };
                assert_eq!(world.backfill(id, &body), expected);
                if expected.is_ok() {
                    model.insert(id, (body.len(), 0));
                    (last_old, last) = (id, last.max(id));
                }
            }
            Step::Delete(place) => {
                let Some(id) = model.keys().nth(place % model.len().max(1)).copied() else {
                    continue;
                };
                model.remove(&id);
                assert_eq!(world.delete(id), Ok(()));
                assert_eq!(world.delete(id), Err(Status::NotFound));
            }
            Step::Replace(place, version) => {
                let Some((id, (_, present))) = model.iter_mut().nth(place % 100) else {
                    continue;
                };
                let expected = if version > *present { Ok(()) } else { Err(Status::StaleState) };
                assert_eq!(world.replace(*id, version, b"state"), expected);
                *present = version.max(*present);
            }
            Step::Baseline(is_right) => {
                let messages = model.len() as u64 + u64::from(!is_right);
                let result = world.baseline(world.queue.content, messages);
                let is_ahead = world.queue.transaction > Transaction(1000);
                assert_eq!(result.is_ok(), is_right && !is_ahead);
                is_filling &= result.is_err();
            }
        }
        let after = number as u64 % 200;
        let expected = model.range(after + 1..).map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(world.read(after), expected);
    }
    let bytes = model.values().map(|it| it.0 as u64).sum::<u64>();
    assert_eq!((world.queue.messages(), world.queue.bytes()), (model.len() as u64, bytes));
    world.arena.check(world.queue.logs());
    for log in world.queue.into_logs() {
        world.arena.release(log);
    }
    world.arena.work(usize::MAX);
    assert_eq!(world.arena.free_bytes(), world.arena.size_bytes(), "all memory is free again");
}

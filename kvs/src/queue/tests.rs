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
    for id in 1..=100 {
        world.store(id, b"x").unwrap();
    }
    assert_eq!(world.queue.credit().messages, 0);
    assert_eq!(world.store(101, b"x"), Err(Status::QueueFull));
    world.delete(50).unwrap();
    assert_eq!(world.store(101, &[0; 100_000]), Err(Status::QueueFull));
    world.store(102, &[0; 99_000]).unwrap();
    assert_eq!(world.queue.credit().kib, 0);
}

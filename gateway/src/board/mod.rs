//! What reception may promise: one shared board of budgets and switches.
//!
//! The shards write whether a queue accepts, the operator whether its receipt is suspended;
//! reception reads both and takes room from the budgets before it promises anything (354). Numbers are relaxed atomics: each stands for itself, nothing is
//! ordered by them.

mod bound;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crossbeam_utils::CachePadded;
use tcpstack::Instant;

use self::bound::Bound;
use crate::clients::Clients;
use crate::message::QueueIndex;
use crate::replication::pace::Throttle;

/// Budgets and switches of all queues and of the gateway.
#[derive(Debug)]
pub struct Board {
    queues: Vec<CachePadded<QueueBoard>>,
    /// Bytes of all queues together.
    bytes: CachePadded<Bound>,
    /// How often a switch has changed.
    changes: CachePadded<AtomicU64>,
    clients: Arc<Clients>,
    /// Most sessions of each front, by the descriptors that the process may have.
    sessions_max: AtomicUsize,
    resync: Throttle,
}

#[derive(Debug)]
struct QueueBoard {
    accepting: AtomicBool,
    /// Until when the gateway may act as the queue's owner: an [`Instant`] as a number.
    lease_until: AtomicU64,
    suspended: AtomicBool,
    messages: Bound,
    bytes: Bound,
}

/// Why nothing can be promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// The queue has too few copies for its policy: 451 4.4.0.
    NotReplicated,
    /// The queue's bound on messages or bytes: 452 4.3.1.
    QueueFull,
    /// The gateway's memory budget: 452 4.3.1.
    MemoryFull,
    /// What one client may hold of it: 452 4.3.1.
    ClientFull,
}

/// What each message costs beside its content, in bytes: a usual envelope, tables and allocator.
/// What an envelope has beyond a usual one is counted like content.
pub const MESSAGE_OVERHEAD_BYTES: i64 = 512;

impl Board {
    /// A board for queues with the given bounds (messages, bytes) and a budget for all together.
    /// No queue accepts yet.
    pub fn new(queues: impl IntoIterator<Item = (i64, i64)>, bytes_max: i64) -> Board {
        let queue = |(messages, bytes)| {
            CachePadded::new(QueueBoard {
                accepting: AtomicBool::new(false),
                lease_until: AtomicU64::new(0),
                suspended: AtomicBool::new(false),
                messages: Bound::new(messages),
                bytes: Bound::new(bytes),
            })
        };
        Board {
            queues: queues.into_iter().map(queue).collect(),
            bytes: CachePadded::new(Bound::new(bytes_max)),
            changes: CachePadded::new(AtomicU64::new(0)),
            clients: Arc::default(),
            sessions_max: AtomicUsize::new(usize::MAX),
            resync: Throttle::default(),
        }
    }

    /// Number of queues.
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// What each client may still do.
    pub fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// How fast copies are filled.
    pub fn resync(&self) -> &Throttle {
        &self.resync
    }

    /// Most sessions that each front may have, whatever its configuration says.
    pub fn sessions_max(&self) -> usize {
        self.sessions_max.load(Relaxed)
    }

    /// Bounds the sessions of each front.
    pub fn set_sessions_max(&self, sessions_max: usize) {
        self.sessions_max.store(sessions_max, Relaxed);
    }

    /// Whether mail for the queue can be committed now.
    pub fn is_accepting(&self, queue: QueueIndex) -> bool {
        self.queue(queue).accepting.load(Relaxed)
    }

    /// Whether the operator has suspended the queue's receipt: RCPT gets 450 4.2.1. What a client
    /// has begun before is taken, so room can be reserved all the same.
    pub fn is_suspended(&self, queue: QueueIndex) -> bool {
        self.queue(queue).suspended.load(Relaxed)
    }

    /// For the operator: suspends the queue's receipt, or resumes it.
    pub fn set_suspended(&self, queue: QueueIndex, suspended: bool) {
        self.queue(queue).suspended.store(suspended, Relaxed);
    }

    /// For the operator: moves the queue's bounds by so many messages and bytes. Where more is
    /// taken than the new bounds allow, nothing is left until enough has gone.
    pub fn move_bounds(&self, queue: QueueIndex, messages: i64, bytes: i64) {
        self.queue(queue).messages.move_by(messages);
        self.queue(queue).bytes.move_by(bytes);
    }

    /// For the operator: moves the budget of all queues together by so many bytes.
    pub fn move_budget(&self, bytes: i64) {
        self.bytes.move_by(bytes);
    }

    /// Whether less than an eighth of the budget is left.
    pub fn is_short(&self) -> bool {
        self.bytes_left() < self.bytes.max() / 8
    }

    /// Whether any queue accepts: else the ports close. A suspended queue counts by its copies
    /// alone: an operator who suspends every queue keeps the ports, and clients are told 450.
    pub fn any_accepting(&self) -> bool {
        self.queues.iter().any(|queue| queue.accepting.load(Relaxed))
    }

    /// Bytes that all queues together may still take; below zero after a recovery beyond the bounds,
    /// when the budget was made smaller than what is taken, or by [`reserve_last`](Self::reserve_last).
    pub fn bytes_left(&self) -> i64 {
        self.bytes.left()
    }

    /// For the shard: sets the switch.
    pub fn set_accepting(&self, queue: QueueIndex, accepting: bool) {
        if self.queue(queue).accepting.swap(accepting, Relaxed) != accepting {
            self.changes.fetch_add(1, Relaxed);
        }
    }

    /// Until when messages of the queue may be handed to a next hop, and be answered 250 where they were
    /// committed. Compare it with a clock that was read after whatever can have taken long.
    pub fn lease_until(&self, queue: QueueIndex) -> Instant {
        Instant::from_nanos(self.queue(queue).lease_until.load(Relaxed))
    }

    /// For the shard: sets how long the lease lasts. A queue that had none and has one again counts as a
    /// switch that has changed: deliveries wait for it.
    pub fn set_lease(&self, queue: QueueIndex, now: Instant, until: Instant) {
        let before = self.queue(queue).lease_until.swap(until.as_nanos(), Relaxed);
        if before <= now.as_nanos() && until > now {
            self.changes.fetch_add(1, Relaxed);
        }
    }

    /// How often a switch has changed: whoever sees another number than last time wakes the fronts,
    /// whose ports depend on it.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Takes room for one message of `bytes`, or says why not (nothing is taken then).
    ///
    /// # Errors
    /// [`Shortage`].
    pub fn reserve(&self, queue: QueueIndex, bytes: usize) -> Result<(), Shortage> {
        self.reserve_by(queue, bytes, Bound::take)
    }

    /// Takes room for the last that is told of a message, which goes when that is committed. Such a
    /// report may go beyond the bounds: it is taken until they are exceeded by a sixteenth, and where
    /// smaller bounds were set than what is held, or more was recovered, one by one as that goes. Else a
    /// queue full of mail that has failed would stay full for ever, when the reports go to that
    /// queue themselves, or two queues wait for each other.
    ///
    /// # Errors
    /// [`Shortage`].
    pub fn reserve_last(&self, queue: QueueIndex, bytes: usize) -> Result<(), Shortage> {
        self.reserve_by(queue, bytes, Bound::take_beyond)
    }

    fn reserve_by(&self, queue: QueueIndex, bytes: usize, take: Take) -> Result<(), Shortage> {
        if !self.is_accepting(queue) {
            return Err(Shortage::NotReplicated);
        }
        let messages = &self.queue(queue).messages;
        if !take(messages, 1) {
            return Err(Shortage::QueueFull);
        }
        let result = self.take_bytes(queue, signed(bytes) + MESSAGE_OVERHEAD_BYTES, take);
        if result.is_err() {
            messages.give_back(1);
        }
        result
    }

    /// Takes `bytes` more for a message that has its reservation.
    ///
    /// # Errors
    /// [`Shortage`]; the earlier reservation stays.
    pub fn reserve_more(&self, queue: QueueIndex, bytes: usize) -> Result<(), Shortage> {
        self.take_bytes(queue, signed(bytes), Bound::take)
    }

    /// Takes `bytes` of the budget of all queues together, for what belongs to no queue yet.
    ///
    /// # Errors
    /// [`Shortage::MemoryFull`].
    pub fn reserve_shared(&self, bytes: usize) -> Result<(), Shortage> {
        if self.bytes.take(signed(bytes)) { Ok(()) } else { Err(Shortage::MemoryFull) }
    }

    /// Gives back what `reserve_shared` took.
    pub fn release_shared(&self, bytes: usize) {
        self.bytes.give_back(signed(bytes));
    }

    /// Gives back what `reserve` and `reserve_more` took for one message: `bytes` in all.
    pub fn release(&self, queue: QueueIndex, bytes: usize) {
        self.release_bytes(queue, signed(bytes) + MESSAGE_OVERHEAD_BYTES);
        self.queue(queue).messages.give_back(1);
    }

    /// Gives back what was taken for so many messages, with so many bytes in all.
    pub fn release_all(&self, queue: QueueIndex, messages: usize, bytes: usize) {
        let messages = signed(messages);
        self.release_bytes(queue, signed(bytes) + messages * MESSAGE_OVERHEAD_BYTES);
        self.queue(queue).messages.give_back(messages);
    }

    /// Gives back a part of the bytes reserved for a message that turned out shorter.
    pub fn release_part(&self, queue: QueueIndex, bytes: usize) {
        self.release_bytes(queue, signed(bytes));
    }

    /// For the shard: counts a message that was recovered, bounds or not.
    pub fn take_recovered(&self, queue: QueueIndex, bytes: usize) {
        let bytes = signed(bytes) + MESSAGE_OVERHEAD_BYTES;
        self.queue(queue).messages.take_anyway(1);
        self.queue(queue).bytes.take_anyway(bytes);
        self.bytes.take_anyway(bytes);
    }

    /// What a queue may still take: messages and bytes. Below zero only by what was recovered, by
    /// bounds that were made smaller, and by [`reserve_last`](Self::reserve_last).
    pub fn left(&self, queue: QueueIndex) -> (i64, i64) {
        let board = self.queue(queue);
        (board.messages.left(), board.bytes.left())
    }

    fn take_bytes(&self, queue: QueueIndex, bytes: i64, take: Take) -> Result<(), Shortage> {
        let of_queue = &self.queue(queue).bytes;
        if !take(of_queue, bytes) {
            return Err(Shortage::QueueFull);
        }
        if !take(&self.bytes, bytes) {
            of_queue.give_back(bytes);
            return Err(Shortage::MemoryFull);
        }
        Ok(())
    }

    fn release_bytes(&self, queue: QueueIndex, bytes: i64) {
        self.queue(queue).bytes.give_back(bytes);
        self.bytes.give_back(bytes);
    }

    fn queue(&self, queue: QueueIndex) -> &QueueBoard {
        &self.queues[queue.0 as usize]
    }
}

/// Takes an amount of a bound, or nothing. Returns whether it did.
type Take = fn(bound: &Bound, amount: i64) -> bool;

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueIndex = QueueIndex(0);

    fn board() -> Board {
        let board = Board::new([(2, 10_000)], 20_000);
        board.set_accepting(QUEUE, true);
        board
    }

    #[test]
    fn bounds_below_what_is_taken_let_nothing_in_until_enough_has_gone() {
        let board = board();
        assert_eq!((board.reserve(QUEUE, 100), board.reserve(QUEUE, 100)), (Ok(()), Ok(())));
        board.move_bounds(QUEUE, -1, 0);
        assert_eq!(board.left(QUEUE).0, -1);
        board.release(QUEUE, 100);
        assert_eq!(board.reserve(QUEUE, 100), Err(Shortage::QueueFull));
        board.release(QUEUE, 100);
        assert_eq!(board.reserve(QUEUE, 100), Ok(()));
        board.move_bounds(QUEUE, 1, -9500);
        assert_eq!(board.reserve(QUEUE, 100), Err(Shortage::QueueFull));
        board.move_bounds(QUEUE, 0, 9500);
        board.move_budget(-19_500);
        assert_eq!(board.reserve(QUEUE, 100), Err(Shortage::MemoryFull));
        board.move_budget(19_500);
        assert_eq!(board.reserve(QUEUE, 100), Ok(()));
    }

    #[test]
    fn the_last_report_of_a_message_goes_beyond_the_bounds_by_a_sixteenth_and_mail_does_not() {
        let board = Board::new([(32, 10_000), (32, 1000)], 12_000);
        let other = QueueIndex(1);
        for queue in [QUEUE, other] {
            assert_eq!(board.reserve_last(queue, 0), Err(Shortage::NotReplicated));
            board.set_accepting(queue, true);
        }
        (0..19).for_each(|_| assert_eq!(board.reserve(QUEUE, 0), Ok(())));
        assert_eq!(board.reserve(QUEUE, 0), Err(Shortage::QueueFull), "no bytes");
        let more = || (0..99).take_while(|_| board.reserve_last(QUEUE, 0).is_ok()).count();
        assert_eq!(more(), 2, "272 and -240 bytes are left before each");
        (0..2).for_each(|_| board.release(QUEUE, 0));
        assert_eq!((0..99).take_while(|_| board.reserve_last(other, 0).is_ok()).count(), 3);
        assert_eq!(board.bytes_left(), 12_000 - 22 * 512);
        board.move_bounds(QUEUE, -13, 10_000);
        assert_eq!(board.left(QUEUE), (0, 10_272));
        assert_eq!((board.reserve(QUEUE, 0), more()), (Err(Shortage::QueueFull), 2));
        board.move_bounds(QUEUE, 100, 0);
        board.move_budget(-5000);
        assert_eq!(board.reserve_last(QUEUE, 0), Err(Shortage::MemoryFull));
    }

    #[test]
    fn a_suspended_queue_keeps_the_ports_and_what_has_begun() {
        let board = board();
        board.set_suspended(QUEUE, true);
        assert!(board.is_suspended(QUEUE) && board.any_accepting());
        assert_eq!(board.reserve(QUEUE, 100), Ok(()));
        board.set_suspended(QUEUE, false);
        assert!(!board.is_suspended(QUEUE));
    }
}

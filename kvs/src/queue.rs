//! One backup queue: who owns it, which changes it has seen, what it holds.

mod lists;

use kvs_proto::body::{Attached, Baseline, OpEntry};
use kvs_proto::{
    ChainHash, ContentDigest, Credit, Epoch, Generation, Header, MessageId, Op,
    STATE_SIZE_BYTES_MAX, Sequence, StateDigest, StateVersion, Status, Transaction, body_digest,
    chain, content_term, flags, state_digest,
};
use tcpstack::Instant;

use crate::arena::{Arena, Cursor, Log, Place, QueueUid, RESERVED_PART, Reservation};
use crate::results::{Operations, Results};
use crate::session::SessionId;

pub use lists::List;
use lists::Lists;

/// A backup queue without its memory, which lies in the [`Arena`].
///
/// A change goes through [`Queue::admit`], which fences and checks the sequence number, and, when
/// that says so, one of the verbs, and [`Queue::settle`]: in one step, with nothing between.
#[derive(Debug)]
pub struct Queue {
    lists: Lists,
    epoch: Epoch,
    generation: Generation,
    /// The last sequence number used up in this epoch.
    last_sequence: Sequence,
    transaction: Transaction,
    chain: ChainHash,
    content: ContentDigest,
    messages_max: u64,
    bytes_max: u64,
    results: Results,
    operations: Operations,
    /// Sessions that are attached with this epoch; each at most once, so there are no more than
    /// connections.
    sessions: Vec<SessionId>,
    /// When the last of those that are gone was last heard from; `None`: in this turn.
    left_at: Option<Instant>,
}

/// Whom a queue was taken from, by whom it may have been told that it owns the queue.
#[derive(Debug)]
pub struct FormerOwner {
    /// The sessions that were attached.
    pub sessions: Vec<SessionId>,
    /// When those that had left before were last heard from; `None`: in this turn.
    pub left_at: Option<Instant>,
}

/// What to do with a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It is the next: apply it and settle.
    Next,
    /// It was settled before, like this: answer so again.
    Settled(Status),
    /// It is not to be applied, and uses nothing up.
    Refused(Status),
}

impl Queue {
    /// An empty queue with that owner. Its uid and the next are its own.
    pub fn new(
        uid: QueueUid,
        epoch: Epoch,
        generation: Generation,
        messages_max: u64,
        bytes_max: u64,
    ) -> Queue {
        Queue {
            lists: Lists::new(uid),
            epoch,
            generation,
            last_sequence: Sequence(0),
            transaction: Transaction(0),
            chain: ChainHash(0),
            content: ContentDigest(0),
            messages_max,
            bytes_max,
            results: Results::default(),
            operations: Operations::default(),
            sessions: Vec::new(),
            left_at: Some(Instant::ZERO),
        }
    }

    /// What names it in the arena.
    pub fn uid(&self) -> QueueUid {
        self.lists.uid()
    }

    /// Its messages.
    pub fn messages(&self) -> u64 {
        self.lists.messages()
    }

    /// Bytes of their bodies.
    pub fn bytes(&self) -> u64 {
        self.lists.bytes()
    }

    /// Its records, in order: what came as back-fill, then what was stored live.
    pub fn logs(&self) -> [&Log; 2] {
        self.lists.logs()
    }

    /// Takes it apart.
    pub fn into_logs(self) -> [Log; 2] {
        self.lists.into_logs()
    }

    /// Where a message lies.
    pub fn find(&self, arena: &Arena, id: MessageId) -> Option<Place> {
        self.lists.find(arena, id)
    }

    /// The first message behind the cursor.
    pub fn next(&self, arena: &Arena, cursor: &Cursor) -> Option<Place> {
        self.lists.next(arena, cursor)
    }

    /// Whose it is.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Changes applied.
    pub fn transaction(&self) -> Transaction {
        self.transaction
    }

    /// Which of the owner's connections may carry its requests.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The last sequence number used up in this epoch.
    pub fn last_sequence(&self) -> Sequence {
        self.last_sequence
    }

    /// Whether it refused a change of this epoch and its owner may not have heard of that: it may have applied
    /// what came behind, and then its history is its own.
    pub fn has_refused(&self) -> bool {
        self.results.has_refusals()
    }

    /// What its own bounds still allow, whatever memory there is. A part of them is kept for what is under way when
    /// credit runs out.
    pub fn credit(&self) -> Credit {
        let left = |max: u64, used| (max - max / RESERVED_PART as u64).saturating_sub(used);
        Credit::new(
            left(self.messages_max, self.lists.messages()),
            left(self.bytes_max, self.lists.bytes()),
        )
    }

    /// What the answer to an attachment says.
    pub fn attached(&self, arena: &Arena, port: u16) -> Attached {
        let first = self.lists.first(arena).map(|place| arena.record(place).id);
        Attached {
            last_sequence: self.last_sequence,
            chain: self.chain,
            content: self.content,
            messages: self.lists.messages(),
            bytes: self.lists.bytes(),
            first_id: first.unwrap_or(MessageId(0)),
            last_id: self.lists.last_id(),
            port,
            owner_idle_ms: None,
        }
    }

    /// Takes over with a higher epoch, or resumes the present one with the same or a higher
    /// generation. From here on everything lower is fenced: this is the seal. Says from whom it took
    /// the queue, if it did.
    ///
    /// # Errors
    /// `Fenced`.
    pub fn attach(
        &mut self,
        epoch: Epoch,
        generation: Generation,
    ) -> Result<Option<FormerOwner>, Status> {
        if (epoch, generation) < (self.epoch, self.generation) {
            return Err(Status::Fenced);
        }
        self.generation = generation;
        if epoch == self.epoch {
            return Ok(None);
        }
        self.epoch = epoch;
        self.last_sequence = Sequence(0);
        self.results = Results::default();
        self.operations.begin_epoch();
        let sessions = std::mem::take(&mut self.sessions);
        let left_at = self.left_at.replace(Instant::ZERO);
        Ok(Some(FormerOwner { sessions, left_at }))
    }

    /// A session of the owner's is attached.
    pub fn note_attached(&mut self, session: SessionId) {
        if !self.sessions.contains(&session) {
            self.sessions.push(session);
        }
    }

    /// A session, last heard from then (`None`: in this turn), is not attached any more. Returns whether it
    /// was.
    pub fn detach(&mut self, session: SessionId, heard: Option<Instant>) -> bool {
        let before = self.sessions.len();
        self.sessions.retain(|other| *other != session);
        let was_attached = self.sessions.len() < before;
        if was_attached {
            self.left_at = self.left_at.zip(heard).map(|(left, heard)| left.max(heard));
        }
        was_attached
    }

    /// The owner's sessions, and when the last of those that are gone was last heard from (`None`: in this
    /// turn).
    pub fn presence(&self) -> (&[SessionId], Option<Instant>) {
        (&self.sessions, self.left_at)
    }

    /// The turn is over in which the last session left.
    pub fn stamp_left(&mut self, now: Instant) {
        self.left_at.get_or_insert(now);
    }

    /// Whether a request's sender owns the queue.
    ///
    /// # Errors
    /// `Fenced` if it does not any more, `NotAttached` if it does not yet.
    #[inline]
    pub fn check_owner(&self, header: &Header) -> Result<(), Status> {
        let sender = (header.epoch, Generation(header.generation_or_status));
        let owner = (self.epoch, self.generation);
        match sender.cmp(&owner) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(Status::Fenced),
            std::cmp::Ordering::Greater => Err(Status::NotAttached),
        }
    }

    /// Decides on a change by its owner and its sequence number.
    #[inline]
    pub fn admit(&mut self, header: &Header) -> Admission {
        if let Err(status) = self.check_owner(header) {
            return Admission::Refused(status);
        }
        if header.sequence == self.last_sequence.next() {
            return Admission::Next;
        }
        if header.sequence > self.last_sequence {
            return Admission::Refused(Status::SequenceGap);
        }
        match self.results.get(header.sequence) {
            Some(status) => Admission::Settled(status),
            None => Admission::Refused(Status::SequenceGap),
        }
    }

    /// Uses up the sequence number of a change that was admitted as the next.
    #[inline]
    pub fn settle(&mut self, header: &Header, result: Result<(), Status>) {
        self.last_sequence = header.sequence;
        // Nobody can have answered what has only just come in.
        let floor = Sequence(header.floor).min(header.sequence);
        self.results.trim(floor);
        self.operations.trim(floor);
        if let Err(status) = result {
            self.results.note_refusal(header.sequence, status);
        }
    }

    /// Has the processor fetch where the message is, or would be appended.
    #[inline]
    pub fn prefetch(&self, arena: &Arena, id: MessageId) {
        self.lists.prefetch(arena, id);
    }

    /// Appends a message with all of its body, of which `header` has the checksum.
    ///
    /// # Errors
    /// The status to refuse it with.
    #[inline]
    pub fn store(&mut self, arena: &mut Arena, header: &Header, body: &[u8]) -> Result<(), Status> {
        let (list, id) = (list_of(header), header.message);
        self.check_store(list, id, body.len())?;
        let appended = arena.append(self.lists.log_mut(list), id, body, header.body_checksum);
        appended.map_err(|_| Status::ArenaFull)?;
        self.note_stored(header, body.len(), header.body_checksum);
        Ok(())
    }

    /// Takes room for a message of `total` bytes that comes in pieces.
    ///
    /// # Errors
    /// The status to refuse it with.
    pub fn reserve(
        &mut self,
        arena: &mut Arena,
        header: &Header,
        total: usize,
    ) -> Result<Reservation, Status> {
        let (list, id) = (list_of(header), header.message);
        self.check_store(list, id, total)?;
        arena.reserve(self.lists.log_mut(list), id, total).map_err(|_| Status::ArenaFull)
    }

    /// Makes what was reserved a message. The reservation is used up also when it is refused.
    ///
    /// # Errors
    /// The status to refuse it with.
    pub fn commit(
        &mut self,
        arena: &mut Arena,
        header: &Header,
        reservation: Reservation,
        total: usize,
        checksum: u32,
    ) -> Result<(), Status> {
        if let Err(status) = self.check_store(list_of(header), header.message, total) {
            self.abort(arena, reservation);
            return Err(status);
        }
        arena.commit(self.lists.log_of(&reservation), reservation, checksum);
        self.note_stored(header, total, checksum);
        Ok(())
    }

    /// Gives back what was reserved.
    pub fn abort(&mut self, arena: &mut Arena, reservation: Reservation) {
        arena.abort(self.lists.log_of(&reservation), reservation);
    }

    /// Removes a message.
    ///
    /// # Errors
    /// `NotFound`.
    #[inline]
    pub fn delete(&mut self, arena: &mut Arena, header: &Header) -> Result<(), Status> {
        if !self.remove(arena, header.message) {
            return Err(Status::NotFound);
        }
        self.note(header.op, header.message, header.sequence, 0);
        Ok(())
    }

    /// Removes messages with consecutive ids by consecutive numbers, the first of which `first` has, as if each were
    /// asked for by itself, up to the first that is not admitted as the next or not there. Says how many it removed.
    pub fn delete_run(&mut self, arena: &mut Arena, first: &Header, count: u64) -> u64 {
        if !matches!(self.admit(first), Admission::Next) {
            return 0;
        }
        let mut done = 0;
        while done < count {
            let message = MessageId(first.message.0 + done);
            if !self.remove(arena, message) {
                break;
            }
            self.note(Op::Delete, message, Sequence(first.sequence.0 + done), 0);
            done += 1;
        }
        if done > 0 {
            self.settle(&first.delete_at(done - 1), Ok(()));
        }
        done
    }

    /// Removes a message from memory and from the content digest. False if it is not there.
    #[inline]
    fn remove(&mut self, arena: &mut Arena, id: MessageId) -> bool {
        let content = &mut self.content;
        self.lists.remove(arena, id, |arena, place| *content = content.without(term(arena, place)))
    }

    /// Sets a message's state record.
    ///
    /// # Errors
    /// The status to refuse it with.
    pub fn replace(
        &mut self,
        arena: &mut Arena,
        header: &Header,
        version: StateVersion,
        state: &[u8],
    ) -> Result<(), Status> {
        if state.len() > STATE_SIZE_BYTES_MAX {
            return Err(Status::TooLarge);
        }
        let place = self.lists.find(arena, header.message).ok_or(Status::NotFound)?;
        let present = arena.state(place).map_or(StateVersion(0), |(version, _)| version);
        if version <= present {
            return Err(Status::StaleState);
        }
        let before = term(arena, place);
        arena.set_state(place, version, state).map_err(|_| Status::ArenaFull)?;
        self.content = self.content.without(before).with(term(arena, place));
        self.note(header.op, header.message, header.sequence, state_digest(version, state).0);
        Ok(())
    }

    /// Goes on from the numbers of the copies that this one was filled from.
    ///
    /// # Errors
    /// `ContentDiffers` if the content is not theirs, or the transaction number would go back or
    /// beyond `TRANSACTION_MAX`.
    pub fn baseline(&mut self, baseline: &Baseline) -> Result<(), Status> {
        let same = baseline.content == self.content && baseline.messages == self.lists.messages();
        let plausible = self.transaction..=TRANSACTION_MAX;
        if !same || !plausible.contains(&baseline.transaction) {
            return Err(Status::ContentDiffers);
        }
        self.transaction = baseline.transaction;
        self.chain = baseline.chain;
        self.operations.clear();
        self.lists.end_filling();
        Ok(())
    }

    /// The changes after the transaction number `after`; `None` if the first is forgotten.
    pub fn operations_after(&self, after: Transaction) -> Option<impl Iterator<Item = OpEntry>> {
        self.operations.after(after, self.transaction)
    }

    /// The operations after this transaction number are known.
    pub fn operations_known_after(&self) -> Transaction {
        Transaction(self.transaction.0.saturating_sub(self.operations.len() as u64))
    }

    #[inline]
    fn check_store(&self, list: List, id: MessageId, length: usize) -> Result<(), Status> {
        if !self.lists.takes(list, id) {
            return Err(Status::IdNotGrowing);
        }
        let bytes = self.lists.bytes().saturating_add(length as u64);
        if self.lists.messages() >= self.messages_max || bytes > self.bytes_max {
            return Err(Status::QueueFull);
        }
        Ok(())
    }

    #[inline]
    fn note_stored(&mut self, header: &Header, length: usize, checksum: u32) {
        let length = u32::try_from(length).expect("at most MESSAGE_SIZE_BYTES_MAX");
        let digest = body_digest(length, checksum);
        self.lists.note_stored(list_of(header), header.message);
        self.content = self.content.with(content_term(header.message, StateDigest(0), digest));
        self.note(header.op, header.message, header.sequence, digest.0);
    }

    /// Counts a change that was applied.
    #[inline]
    fn note(&mut self, op: Op, message: MessageId, sequence: Sequence, digest: u64) {
        self.transaction = self.transaction.next();
        self.chain = chain(self.chain, op, message, digest);
        self.operations.push(op, message, digest, self.chain, sequence);
    }
}

/// Where a Store's message goes.
#[inline]
fn list_of(header: &Header) -> List {
    if header.flags & flags::BACKFILL != 0 { List::Backfill } else { List::Live }
}

/// No baseline goes beyond it, so that no peer can make the number run out.
const TRANSACTION_MAX: Transaction = Transaction(1 << 62);

/// What a record adds to the content digest.
#[inline]
fn term(arena: &Arena, place: Place) -> u64 {
    let record = arena.record(place);
    let state =
        arena.state(place).map_or(StateDigest(0), |(version, state)| state_digest(version, state));
    content_term(record.id, state, body_digest(record.length, record.checksum))
}

#[cfg(test)]
mod tests;

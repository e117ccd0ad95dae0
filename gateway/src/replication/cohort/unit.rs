//! One queue of a cohort with its copies.

use std::sync::Arc;

use kvs_proto::{Epoch, MessageId, Transaction};
use tcpstack::Instant;

use super::super::copy::{Copy, QueueContext};
use super::super::pace::Pace;
use super::super::record::Record;
use super::super::request::{Operation, Outlet, Outlets, Standing};
use crate::board::Board;
use crate::message::QueueIndex;
use crate::queue::MailQueue;

/// What a queue is configured as.
#[derive(Clone, Debug)]
pub struct UnitSettings {
    /// The queue.
    pub queue: QueueIndex,
    /// Its name in the configuration and in the record.
    pub name: String,
    /// Its name at the servers.
    pub server_name: Arc<str>,
    /// Room that a server must have beyond what is on its way, for the queue to accept more.
    pub headroom_bytes: u64,
}

/// A queue, its copies (one for each member of the cohort), and how far it is on its way into
/// service.
#[derive(Debug)]
pub struct Unit {
    settings: UnitSettings,
    /// The queue.
    pub queue: MailQueue,
    pub(super) copies: Vec<Copy>,
    /// By member: when the owner that the copy was taken from has stopped, by its lease.
    pub(super) former_ends: Vec<Option<Instant>>,
    pub(super) service: Service,
    /// The changes up to this one are committed.
    pub(super) committed: Transaction,
    /// The copies may have something to send; the cohort has it in its list.
    pub(super) dirty: bool,
    /// A copy stands behind: the operations that it lacks are to be read from the source.
    pub(super) wants_operations: bool,
    /// Those read so far.
    pub(super) operations: Vec<Operation>,
    /// In service: a copy that came back waits for what it lacks.
    pub(super) returning: Option<Return>,
}

/// A copy that may be repaired while its queue is in service.
#[derive(Debug)]
pub(super) struct Return {
    pub(super) member: usize,
    /// Who tells what it lacks.
    pub(super) source: usize,
    /// The log is kept from there, so that it goes on from what the source tells.
    pub(super) log_after: Transaction,
    /// Read so far.
    pub(super) operations: Vec<Operation>,
}

/// How far a queue is on its way into service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Service {
    /// Recorded; not read yet.
    Waiting,
    /// Being read from that member's copy, which stood so.
    Fetching { source: usize, standing: Standing, after: MessageId },
    /// Read; the other copies are brought into step with that member's.
    Settling { source: usize },
    /// Not recorded: being made at the members.
    Creating,
    /// In service.
    Open,
}

impl Unit {
    pub(super) fn new(settings: UnitSettings, members: usize) -> Unit {
        let copies = std::iter::repeat_with(Copy::default).take(members).collect();
        let queue = MailQueue::default();
        Unit {
            settings,
            queue,
            copies,
            former_ends: vec![None; members],
            service: Service::Waiting,
            committed: Transaction(0),
            dirty: false,
            wants_operations: false,
            operations: Vec::new(),
            returning: None,
        }
    }

    /// Works by other settings from now on.
    ///
    /// # Panics
    /// If they are another queue's.
    pub(crate) fn reconfigure(&mut self, settings: UnitSettings) {
        let same = |it: &UnitSettings| (it.queue, it.server_name.clone());
        assert_eq!(same(&self.settings), same(&settings), "a queue stays what it is");
        self.settings = settings;
    }

    /// The queue's place in the configuration.
    pub fn queue_index(&self) -> QueueIndex {
        self.settings.queue
    }

    /// The queue's name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// The last change that is committed, as far as this owner has seen: every copy that counts
    /// has it.
    pub fn committed(&self) -> Transaction {
        self.committed
    }

    /// Of the copies that are being filled, by member: the changes of the log that they were sent as they came and
    /// have answered, those after the first number, up to the second.
    pub fn live_answered(&self) -> impl Iterator<Item = (usize, (Transaction, Transaction))> {
        let copies = self.copies.iter().enumerate();
        copies.filter_map(|(member, copy)| Some((member, copy.live_answered()?)))
    }

    /// Whether it is in service.
    pub fn is_open(&self) -> bool {
        self.service == Service::Open
    }

    /// The member whose copy it is being read from, or was until the others are in step.
    pub fn recovers_from(&self) -> Option<usize> {
        match self.service {
            Service::Fetching { source, .. } | Service::Settling { source } => Some(source),
            Service::Waiting | Service::Creating | Service::Open => None,
        }
    }

    pub(super) fn context(&self, epoch: Epoch) -> QueueContext {
        QueueContext { queue: self.settings.queue, name: self.settings.server_name.clone(), epoch }
    }

    /// Whether the member's copy follows, or takes messages as they come, and its server has room for more
    /// than is on its way.
    pub(super) fn can_take_more(&self, member: usize) -> bool {
        let copy = &self.copies[member];
        let credit = copy.credit();
        let (messages, bytes) = copy.left_to_fill(&self.queue);
        let takes_live = copy.follows_or_resumes() || copy.fills_live() || copy.is_baselining();
        takes_live
            && u64::from(credit.messages) > self.queue.log().len() as u64 + messages
            && u64::from(credit.kib) * 1024
                > self.queue.pending_bytes() + bytes + self.settings.headroom_bytes
    }

    /// A copy counts no more, and what it had is not remembered.
    pub(super) fn forget_copy(&mut self, member: usize) {
        self.copies[member].forget();
        self.returning.take_if(|returning| returning.member == member);
    }

    /// Asks a member of the set that has just come up (again) for the queue.
    pub(super) fn attach_or_create(
        &mut self,
        member: usize,
        context: &QueueContext,
        outlet: &mut impl Outlet,
    ) {
        let copy = &mut self.copies[member];
        if !copy.is_detached() {
            return;
        }
        // A copy that has followed was made already, even if the record does not say so yet.
        if self.service == Service::Creating && copy.acknowledged().is_none() {
            copy.create(context, outlet);
        } else {
            copy.attach(context, outlet);
        }
    }

    /// Whether a new queue exists at all members that count.
    pub(super) fn is_created(&self, mut in_set: impl Iterator<Item = usize>) -> bool {
        let mut any = false;
        self.service == Service::Creating
            && in_set.all(|member| {
                any = true;
                self.copies[member].is_following()
            })
            && any
    }

    /// A new queue goes into service once it is recorded; returns whether it just did.
    pub(super) fn open_if_created(&mut self, record: &Record) -> bool {
        let recorded = record.queues.contains(&self.settings.name);
        let opens = self.service == Service::Creating && recorded;
        if opens {
            self.service = Service::Open;
        }
        opens
    }

    /// If the queue was being read from that member: what was read is dropped, to begin again.
    pub(super) fn abandon_fetch_from(&mut self, member: usize, board: &Board) -> bool {
        let abandoned =
            matches!(self.service, Service::Fetching { source, .. } if source == member);
        if abandoned {
            self.abandon_read(board);
        }
        abandoned
    }

    /// What was read is dropped, to begin again.
    pub(super) fn abandon_read(&mut self, board: &Board) {
        for bytes in self.queue.counted_sizes() {
            board.release(self.settings.queue, bytes);
        }
        self.queue = MailQueue::default();
        self.service = Service::Waiting;
        self.wants_operations = false;
        self.operations.clear();
    }

    /// Whether a copy lacks something that was not sent.
    pub(super) fn has_more(&self) -> bool {
        self.copies.iter().any(|copy| copy.has_more(&self.queue))
    }

    /// Lets each copy send what it lacks; returns whether one wants to go on when its link has
    /// room again.
    pub(super) fn pump(
        &mut self,
        epoch: Epoch,
        floor: Transaction,
        has_turn: impl Fn(usize) -> bool,
        pace: &mut Pace<'_>,
        outlets: &mut impl Outlets,
    ) -> bool {
        let context = self.context(epoch);
        let mut more = false;
        for (member, copy) in self.copies.iter_mut().enumerate() {
            let outlet = outlets.of(member);
            let pace = has_turn(member).then_some(&mut *pace);
            copy.pump(&context, &self.queue, floor, pace, outlet);
            more |= copy.has_more(&self.queue) && !outlet.has_room();
        }
        more
    }

    /// Lets a member's copy ask again by the other path for what it has not answered.
    pub(super) fn hedge(&mut self, epoch: Epoch, member: usize, outlet: &mut impl Outlet) {
        if self.copies[member].waits() {
            let context = self.context(epoch);
            self.copies[member].hedge(&context, &self.queue, outlet);
        }
    }
}

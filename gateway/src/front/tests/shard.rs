//! A shard without copies: commits as it is told, and delivers in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kvs_proto::MessageId;

use crate::api::{Command, Notice, Outcome, Report, ReportOutcome, Ticket};
use crate::board::Board;
use crate::message::{DeliveryState, MessageRef, QueueIndex};

/// What happens to a store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Commit,
    Refuse,
    /// Nothing yet: the test answers.
    Wait,
}

pub(super) struct FakeShard {
    board: Arc<Board>,
    pub(super) queues: Vec<FakeQueue>,
    /// Deferred messages are ready again at once; else they are gone.
    pub(super) retries: bool,
    notices: VecDeque<Notice>,
    next_id: u64,
}

pub(super) struct FakeQueue {
    pub(super) mode: Mode,
    pub(super) window: u32,
    /// Stored and not answered.
    pub(super) waiting: Vec<Stored>,
    /// Committed, and not released.
    pub(super) held: Vec<(MessageId, Stored)>,
    pub(super) ready: BTreeMap<MessageId, (MessageRef, DeliveryState)>,
    pub(super) outstanding: BTreeMap<MessageId, (MessageRef, DeliveryState)>,
    pub(super) settled: Vec<MessageId>,
    pub(super) deferred: Vec<(MessageId, DeliveryState)>,
    /// In the order in which they came back.
    pub(super) put_back: Vec<MessageId>,
    pub(super) withdrawn: usize,
    pub(super) report_outcomes: Vec<(MessageId, ReportOutcome)>,
}

#[derive(Clone)]
pub(super) struct Stored {
    pub(super) ticket: Ticket,
    pub(super) message: MessageRef,
}

impl FakeShard {
    pub(super) fn new(board: Arc<Board>, queues: usize) -> FakeShard {
        let queue = || FakeQueue {
            mode: Mode::Commit,
            window: 0,
            waiting: Vec::new(),
            held: Vec::new(),
            ready: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            settled: Vec::new(),
            deferred: Vec::new(),
            put_back: Vec::new(),
            withdrawn: 0,
            report_outcomes: Vec::new(),
        };
        let queues = (0..queues).map(|_| queue()).collect();
        FakeShard { board, queues, retries: false, notices: VecDeque::new(), next_id: 1 }
    }

    pub(super) fn queue(&mut self, queue: QueueIndex) -> &mut FakeQueue {
        &mut self.queues[queue.0 as usize]
    }

    pub(super) fn handle_command(&mut self, command: Command) {
        match command {
            Command::Store { queue, ticket, message } => {
                self.queue(queue).waiting.push(Stored { ticket, message });
                match self.queue(queue).mode {
                    Mode::Commit => self.commit(queue),
                    Mode::Refuse => self.refuse(queue),
                    Mode::Wait => {}
                }
            }
            Command::Release { queue, id } => {
                let held = &mut self.queue(queue).held;
                let place = held.iter().position(|(held, _)| *held == id).expect("it is held");
                let (id, stored) = held.remove(place);
                let ready = &mut self.queue(queue).ready;
                ready.insert(id, (stored.message, DeliveryState::default()));
            }
            Command::Withdraw { queue, ticket } => self.withdraw(queue, ticket),
            Command::Slots { queue, window } => self.queue(queue).window = window,
            Command::Outcome { queue, id, outcome } => self.handle_outcome(queue, id, outcome),
            Command::ReportOutcome { queue, id, outcome } => {
                self.queue(queue).report_outcomes.push((id, outcome));
            }
        }
    }

    pub(super) fn poll_notice(&mut self) -> Option<Notice> {
        for (index, queue) in (0..).zip(&mut self.queues) {
            while queue.outstanding.len() < queue.window as usize
                && let Some((id, (message, state))) = queue.ready.pop_first()
            {
                queue.outstanding.insert(id, (Arc::clone(&message), state.clone()));
                let queue = QueueIndex(index);
                self.notices.push_back(Notice::Attempt { queue, id, message, state });
            }
        }
        self.notices.pop_front()
    }

    /// Hands out a report about a message with that id.
    pub(super) fn report(&mut self, queue: QueueIndex, id: MessageId, report: Report) {
        self.notices.push_back(Notice::Report { queue, id, report: Box::new(report) });
    }

    /// Commits the oldest that waits.
    pub(super) fn commit(&mut self, queue: QueueIndex) {
        let id = MessageId(self.next_id);
        self.next_id += 1;
        let it = self.queue(queue);
        let stored = it.waiting.remove(0);
        let ticket = stored.ticket;
        it.held.push((id, stored));
        self.notices.push_back(Notice::Committed { ticket, queue, id });
    }

    /// Refuses the oldest that waits.
    pub(super) fn refuse(&mut self, queue: QueueIndex) {
        let stored = self.queue(queue).waiting.remove(0);
        self.board.release(queue, stored.message.counted_bytes());
        self.notices.push_back(Notice::Refused { ticket: stored.ticket, queue });
    }

    fn withdraw(&mut self, queue: QueueIndex, ticket: Ticket) {
        let it = self.queue(queue);
        let waiting = it.waiting.iter().map(|stored| (None, stored.clone()));
        let held = it.held.iter().map(|(id, stored)| (Some(*id), stored.clone()));
        let found = waiting.chain(held).find(|(_, stored)| stored.ticket == ticket);
        // What this queue has refused or released itself crosses with the withdrawal.
        let Some((_, stored)) = found else { return };
        it.waiting.retain(|stored| stored.ticket != ticket);
        it.held.retain(|(_, stored)| stored.ticket != ticket);
        it.withdrawn += 1;
        self.board.release(queue, stored.message.counted_bytes());
    }

    fn handle_outcome(&mut self, queue: QueueIndex, id: MessageId, outcome: Outcome) {
        let retries = self.retries;
        let it = self.queue(queue);
        let (message, state) = it.outstanding.remove(&id).expect("one outcome for each attempt");
        match outcome {
            Outcome::Settled => {
                it.settled.push(id);
                self.board.release(queue, message.counted_bytes());
            }
            Outcome::Deferred { state }
                if retries && state.has_open(message.envelope.recipients.len()) =>
            {
                it.ready.insert(id, (message, state));
            }
            Outcome::Deferred { state } => {
                it.deferred.push((id, state));
                self.board.release(queue, message.counted_bytes());
            }
            Outcome::NotAttempted => {
                it.put_back.push(id);
                it.ready.insert(id, (message, state));
            }
        }
    }
}

//! What a server answers about a copy.

use kvs_proto::{Credit, Epoch, Op, Sequence, Status, Transaction};

use super::fill::Fill;
use super::{Copy, Progress, QueueContext, Stage, send};
use crate::queue::MailQueue;
use crate::replication::request::{Answer, Ask, Outlet, Standing};

impl Copy {
    /// Takes an answer; the queue is what the copy is a copy of.
    pub fn handle_answer(
        &mut self,
        answer: Answer,
        context: &QueueContext,
        outlet: &mut impl Outlet,
        queue: &MailQueue,
    ) -> Progress {
        match answer {
            Answer::Attached { standing, credit } => {
                self.credit = credit;
                self.handle_attached(standing, context, outlet, queue)
            }
            Answer::Dropped => {
                match self.stage {
                    Stage::Emptying => send(context, outlet, context.create()),
                    Stage::Clearing => self.stage = Stage::Detached,
                    _ => {}
                }
                Progress::None
            }
            Answer::Acknowledged { sequence, transaction, credit } => {
                self.note_credit(sequence, credit);
                self.handle_acknowledged(sequence, transaction)
            }
            Answer::AcknowledgedByStandby { sequence, transaction, credit } => {
                self.handle_hedged(sequence, transaction, credit, outlet)
            }
            Answer::Granted { sequence, credit } => {
                self.note_credit(sequence, credit);
                Progress::None
            }
            Answer::Refused { op, status, epoch } => {
                self.handle_refused(op, status, epoch, context, outlet)
            }
            other => Progress::Recovered(other),
        }
    }

    fn handle_attached(
        &mut self,
        standing: Standing,
        context: &QueueContext,
        outlet: &mut impl Outlet,
        queue: &MailQueue,
    ) -> Progress {
        match self.stage {
            Stage::Asked => {
                self.stage = Stage::Standing(standing);
                Progress::Stands(standing)
            }
            Stage::Emptying if standing == Standing::EMPTY => {
                let is_live = outlet.can_backfill();
                let fill = if is_live { Fill::live(queue) } else { Fill::in_order(queue) };
                self.stage = Stage::Filling(Box::new(fill));
                Progress::None
            }
            Stage::Emptying | Stage::Clearing => {
                send(context, outlet, Ask::Drop);
                Progress::None
            }
            _ => Progress::OutOfStep("it said that it attached without being asked"),
        }
    }

    /// The active path granted credit, after that change. What a hedge has told of later changes is
    /// news, and the room that they took must not be granted again.
    fn note_credit(&mut self, sequence: Sequence, credit: Credit) {
        if sequence >= self.answered {
            self.credit = credit;
        }
    }

    fn handle_acknowledged(&mut self, sequence: Sequence, transaction: Transaction) -> Progress {
        if !self.takes_acknowledgements() {
            // What was on its way when the copy was given up.
            return Progress::None;
        }
        if sequence > self.used || sequence < self.heard {
            return Progress::OutOfStep("it acknowledged what it was not asked for");
        }
        self.heard = sequence;
        let is_first = sequence > self.answered;
        self.answered = self.answered.max(sequence);
        if matches!(self.stage, Stage::Following { .. }) {
            return match self.is_number_of(transaction, sequence) {
                false => Progress::OutOfStep(WRONG_NUMBER),
                true if is_first => Progress::Advanced,
                true => Progress::None,
            };
        }
        match &mut self.stage {
            Stage::Baselining { sent, baseline, fill } if sequence >= *baseline => {
                let (sent, is_repair) = (*sent, fill.is_repair());
                self.stage = Stage::Following { sent };
                if is_repair { Progress::Repaired } else { Progress::Filled }
            }
            Stage::Filling(fill) | Stage::Baselining { fill, .. } => {
                fill.note_answered(sequence);
                if fill.is_live() { Progress::Advanced } else { Progress::None }
            }
            _ => unreachable!("ruled out above"),
        }
    }

    /// The standby path answered what had gone there too.
    fn handle_hedged(
        &mut self,
        sequence: Sequence,
        transaction: Transaction,
        credit: Credit,
        outlet: &mut impl Outlet,
    ) -> Progress {
        if !matches!(self.stage, Stage::Following { .. }) {
            return Progress::None;
        }
        if sequence > self.hedged {
            return Progress::OutOfStep("it acknowledged what it was not asked for on that path");
        }
        if sequence <= self.answered {
            // The active path was first, and what it granted is as good.
            return Progress::None;
        }
        if !self.is_number_of(transaction, sequence) {
            return Progress::OutOfStep(WRONG_NUMBER);
        }
        self.answered = sequence;
        self.credit = credit;
        outlet.note_hedge_first();
        Progress::Advanced
    }

    /// Whether the copy may have that transaction number when it acknowledges that change. To one
    /// that came twice it says how far it is by then.
    fn is_number_of(&self, transaction: Transaction, sequence: Sequence) -> bool {
        let last = if sequence > self.hedged { sequence } else { self.used };
        let (least, most) = (self.number_of(sequence), self.number_of(last));
        least.is_some_and(|least| least <= transaction)
            && most.is_some_and(|most| transaction <= most)
    }

    fn handle_refused(
        &mut self,
        op: Op,
        status: Status,
        epoch: Epoch,
        context: &QueueContext,
        outlet: &mut impl Outlet,
    ) -> Progress {
        let is_followed = self.takes_acknowledgements();
        match (&self.stage, status) {
            // What was on its way when the copy was given up, or as a hedge when its path took over. Whether the
            // queue is still ours is said by the answer to the attachment that the copy waits for.
            _ if op.is_change() && !is_followed => Progress::None,
            (_, Status::Fenced) => Progress::Fenced(epoch),
            (Stage::Detached, _) => Progress::None,
            // It is not this copy that is out of step, but the one that lacks the operations.
            (Stage::Following { .. }, Status::OpsTrimmed) if op == Op::OpsGet => {
                let operations = Vec::new();
                Progress::Recovered(Answer::Operations { operations, head: Transaction(0) })
            }
            // There was nothing, or the account may not.
            (Stage::Clearing, _) => {
                self.stage = Stage::Detached;
                Progress::None
            }
            (Stage::Asked, Status::UnknownQueue) => Progress::Unknown,
            (Stage::Asked, Status::Exists) => Progress::Exists,
            (Stage::Emptying, Status::UnknownQueue) => {
                send(context, outlet, context.create());
                Progress::None
            }
            (_, Status::QueueFull | Status::ArenaFull) => Progress::NoRoom(reason(status)),
            _ => Progress::OutOfStep(reason(status)),
        }
    }
}

const WRONG_NUMBER: &str = "its transaction number is not the log's";

fn reason(status: Status) -> &'static str {
    match status {
        Status::QueueFull => "the server's own bounds on a queue are reached",
        Status::ArenaFull => "its server's memory is full",
        Status::ContentDiffers => "its content is not what was sent",
        Status::UnknownQueue | Status::NotAttached => "its server does not know it any more",
        Status::TooManyQueues => "its server takes no more queues",
        Status::NotYours => "its server does not grant it to our account",
        Status::OpsTrimmed => "its operations do not reach back far enough",
        _ => "it refused what it was asked for",
    }
}

//! One copy of one queue at one backup queue server.
//!
//! ```text
//! Detached ─ attach ─► Asked ──► Standing ─ follow ────────────────► Following
//!     │                             └─ repair, resume ─► Filling ─┐     ▲
//!     ├───── refill ─► Emptying ──────────────────────► Filling ─┴► Baselining
//!     └───── clear ──► Clearing ─► Detached
//! ```
//!
//! A *following* copy is described by the number of the last change of the queue's log that it has
//! answered. A *filling* one is brought up by other means (new messages as they come and older ones as
//! back-fill, or a list of repairs); once it has everything, a baseline declares it equal, and it follows.
//! When the link goes down the copy is detached; what it answered is remembered, so that a following
//! copy resumes, and so does a fill.
//!
//! What a following copy has not answered may go to the server again by the link's standby path (a
//! *hedge*), under the same numbers. Whichever path answers first counts; what the other one says
//! later changes nothing.

mod answers;
mod fill;
mod pump;
mod repair;

use std::sync::Arc;

use bytes::Bytes;
use kvs_proto::{Credit, Epoch, MessageId, Sequence, StateVersion, Transaction, chain};

use self::fill::Fill;
use super::request::{Answer, Ask, Baseline, Changing, Operation, Outlet, Request, Standing};
use crate::message::QueueIndex;
use crate::queue::{Change, Entry, MailQueue};

/// Most changes that a copy has been asked for and has not answered. The server keeps at least as
/// many results, so that a repeated request is recognised. At the bound the log grows and the
/// queue stops accepting in time.
pub const IN_FLIGHT_MAX: u64 = 4096;

/// Bytes, headers included, that a copy has been asked for by the standby path too and has not
/// answered. At the bound the rest waits, for these or for the active path. A change that is longer
/// than this waits for the active path, and so does what is behind it.
const HEDGED_BYTES_MAX: usize = 64 << 10;

/// What all requests for one queue need.
#[derive(Clone, Debug)]
pub struct QueueContext {
    /// The queue.
    pub queue: QueueIndex,
    /// Its name at the servers.
    pub name: Arc<str>,
    /// Our epoch.
    pub epoch: Epoch,
}

/// A copy. Commands: [`attach`](Self::attach), [`create`](Self::create),
/// [`refill`](Self::refill), [`clear`](Self::clear), [`follow`](Self::follow), [`repair`](Self::repair),
/// [`detach`](Self::detach). Inputs: [`handle_answer`](Self::handle_answer). Call
/// [`pump`](Self::pump) whenever the log grew, an answer came or the link has room again, and
/// [`hedge`](Self::hedge) when answers are late.
#[derive(Debug)]
pub struct Copy {
    stage: Stage,
    /// The last sequence number used in this epoch.
    used: Sequence,
    /// The last one answered, by whichever path. `answered <= used`.
    answered: Sequence,
    /// The last one answered by the path that carries the requests. `heard <= answered`. The server
    /// must remember the results of all that follow, as their requests may still be on their way.
    heard: Sequence,
    /// The last one that went over the standby path too; 0 if none did. `hedged <= used`.
    hedged: Sequence,
    /// A change of the log and the sequence number that it has here: they go up together.
    origin: Option<(Transaction, Sequence)>,
    credit: Credit,
    /// A fill that the loss of the link has cut, and the number of its baseline if that was on its way.
    cut: Option<(Box<Fill>, Option<Sequence>)>,
    /// It counts no more, but what it has may be good, and it was that far.
    aside: Option<Transaction>,
}

#[derive(Debug)]
enum Stage {
    Detached,
    /// `Create` or `Attach` is on its way.
    Asked,
    /// Attached; the cohort decides what next.
    Standing(Standing),
    /// Whatever is there is on its way out, to be filled anew.
    Emptying,
    /// Likewise, and nothing comes after it.
    Clearing,
    /// Fills are rare; a copy that follows is small without one.
    Filling(Box<Fill>),
    /// The baseline is on its way, changes of the log behind it.
    Baselining {
        sent: Transaction,
        baseline: Sequence,
        fill: Box<Fill>,
    },
    Following {
        sent: Transaction,
    },
}

/// What an answer meant.
#[derive(Debug)]
pub enum Progress {
    /// Nothing that the cohort need know.
    None,
    /// The copy is attached and stands so; it waits for an order.
    Stands(Standing),
    /// The server has no such queue.
    Unknown,
    /// `Create`: it exists already.
    Exists,
    /// More of the log is answered.
    Advanced,
    /// A fill is complete: the copy follows.
    Filled,
    /// A repair is complete: the copy follows.
    Repaired,
    /// The copy cannot be brought into step by going on: it must be filled anew.
    OutOfStep(&'static str),
    /// The server has no room for a change: the copy is out of step by that.
    NoRoom(&'static str),
    /// Somebody with a higher epoch owns the queue.
    Fenced(Epoch),
    /// Part of a recovery; the cohort knows what it asked for.
    Recovered(Answer),
}

impl Default for Copy {
    fn default() -> Copy {
        Copy {
            stage: Stage::Detached,
            used: Sequence(0),
            answered: Sequence(0),
            heard: Sequence(0),
            hedged: Sequence(0),
            origin: None,
            credit: Credit::default(),
            cut: None,
            aside: None,
        }
    }
}

impl Copy {
    /// Asks to take the queue over, or to resume.
    pub fn attach(&mut self, context: &QueueContext, outlet: &mut impl Outlet) {
        self.stage = Stage::Asked;
        send(context, outlet, Ask::Attach { name: context.name.clone() });
    }

    /// Asks to make the queue.
    pub fn create(&mut self, context: &QueueContext, outlet: &mut impl Outlet) {
        self.forget();
        self.stage = Stage::Asked;
        send(context, outlet, context.create());
    }

    /// Empties whatever is there and fills the copy with what lives in the queue.
    pub fn refill(&mut self, context: &QueueContext, outlet: &mut impl Outlet) {
        self.forget();
        self.stage = Stage::Emptying;
        send(context, outlet, Ask::Attach { name: context.name.clone() });
    }

    /// Removes whatever is there.
    pub fn clear(&mut self, context: &QueueContext, outlet: &mut impl Outlet) {
        self.forget();
        self.stage = Stage::Clearing;
        send(context, outlet, Ask::Attach { name: context.name.clone() });
    }

    /// The copy that stands is equal to the log's head (or, resuming, to a change that the log
    /// still has): it follows.
    ///
    /// # Errors
    /// What is wrong with it: it must be filled anew.
    pub fn follow(&mut self, queue: &MailQueue) -> Result<(), &'static str> {
        let Stage::Standing(standing) = &self.stage else { panic!("only a standing copy follows") };
        let numbers = standing.numbers;
        if let Some(expected) = self.number_of(standing.sequence)
            && expected != numbers.transaction
        {
            return Err("it applied other changes than it was asked for");
        }
        match queue.log().hash_after(numbers.transaction) {
            None => return Err("it stands outside the log"),
            Some(hash) if hash != numbers.hash => return Err("its history differs"),
            Some(_) => {}
        }
        self.origin = Some((numbers.transaction, standing.sequence));
        self.begin_after(standing.sequence);
        self.stage = Stage::Following { sent: numbers.transaction };
        Ok(())
    }

    /// Brings a standing copy that lacks the given operations (in order, the log's head being the
    /// last) up to the queue as it is now.
    ///
    /// # Errors
    /// Why that cannot be done: it must be filled anew.
    pub fn repair(
        &mut self,
        operations: &[Operation],
        queue: &MailQueue,
    ) -> Result<(), &'static str> {
        let Stage::Standing(standing) = &self.stage else {
            panic!("only a standing copy is repaired")
        };
        let numbers = standing.numbers;
        let first = operations.first().ok_or("no operations to repair it with")?;
        let hash = chain(numbers.hash, first.op, first.id, first.digest);
        if first.transaction != numbers.transaction.next() || first.hash != hash {
            return Err("its history is not the beginning of the other copy's");
        }
        if operations.last().map(|it| it.hash) != Some(queue.log().head_hash()) {
            return Err("what it lacks does not lead to where the queue is");
        }
        let fill = Fill::repair(operations, queue)?;
        self.begin_after(standing.sequence);
        self.stage = Stage::Filling(Box::new(fill));
        Ok(())
    }

    /// Goes on with the fill that was cut by the loss of the link, if there was one and the copy that
    /// stands is known to be as far as the server says; else false.
    pub fn resume(&mut self, queue: &MailQueue) -> bool {
        let Stage::Standing(standing) = self.stage else { panic!("only a standing copy resumes") };
        let Some((mut fill, baseline)) = self.cut.take() else { return false };
        if baseline.is_some_and(|baseline| standing.sequence >= baseline) {
            return self.follow(queue).is_ok();
        }
        if !fill.resume(&standing, queue) {
            return false;
        }
        self.begin_after(standing.sequence);
        self.stage = Stage::Filling(fill);
        true
    }

    /// Asks for a block of messages after the given one, for recovery.
    pub fn fetch(&self, context: &QueueContext, after: MessageId, outlet: &mut impl Outlet) {
        send(context, outlet, Ask::BlockGet { after });
    }

    /// Asks for the operations after the given one, for repairing another copy.
    pub fn fetch_operations(
        &self,
        context: &QueueContext,
        after: Transaction,
        outlet: &mut impl Outlet,
    ) {
        send(context, outlet, Ask::OpsGet { after });
    }

    /// The link is gone. A copy that has followed remembers how far it was, also when it was only
    /// about to resume; and so does a fill.
    pub fn detach(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Detached) {
            Stage::Filling(fill) => self.cut_off(fill, None),
            Stage::Baselining { fill, baseline, .. } => self.cut_off(fill, Some(baseline)),
            Stage::Emptying => self.forget(),
            _ => {}
        }
    }

    fn cut_off(&mut self, fill: Box<Fill>, baseline: Option<Sequence>) {
        self.forget();
        self.cut = Some((fill, baseline));
    }

    /// The copy counts no more, and what it had is not remembered.
    pub fn forget(&mut self) {
        *self = Copy::default();
    }

    /// The copy counts no more; what it has is the beginning of what the others have, as far as is known.
    pub fn set_aside(&mut self) {
        let aside = self.acknowledged();
        *self = Copy { aside, ..Copy::default() };
    }

    /// Whatever it has from before will not be of use.
    pub fn give_up_old(&mut self) {
        self.cut = None;
        self.aside = None;
    }

    /// How far it was when it was set aside, or when the link went down.
    pub fn stood_at(&self) -> Option<Transaction> {
        self.aside.or_else(|| self.acknowledged())
    }

    /// Whether there is something to hedge.
    pub fn waits(&self) -> bool {
        matches!(self.stage, Stage::Following { .. }) && self.answered < self.used
    }

    /// How the copy stands, if it waits for an order.
    pub fn standing(&self) -> Option<&Standing> {
        match &self.stage {
            Stage::Standing(standing) => Some(standing),
            _ => None,
        }
    }

    /// Whether it follows, with the link up.
    pub fn is_following(&self) -> bool {
        matches!(self.stage, Stage::Following { .. })
    }

    /// The last change of the log that a copy which follows or is being filled has, if it has all stores
    /// after `base` up to that.
    pub fn has_live_up_to(&self, base: Transaction) -> Option<Transaction> {
        match &self.stage {
            Stage::Filling(fill) | Stage::Baselining { fill, .. } => fill.live_up_to(base),
            Stage::Following { .. } => self.number_of(self.answered),
            _ => None,
        }
    }

    /// Of a copy that is being filled: the changes of the log that it was sent as they came and has answered,
    /// those after the first number, up to the second.
    pub fn live_answered(&self) -> Option<(Transaction, Transaction)> {
        match &self.stage {
            Stage::Filling(fill) | Stage::Baselining { fill, .. } => fill.live_answered(),
            _ => None,
        }
    }

    /// Whether it takes new messages as they come while it is being filled.
    pub fn fills_live(&self) -> bool {
        matches!(&self.stage, Stage::Filling(fill) if fill.is_live())
    }

    /// Whether everything was sent, and its baseline is on its way.
    pub fn is_baselining(&self) -> bool {
        matches!(self.stage, Stage::Baselining { .. })
    }

    /// Whether it is being sent what is older than its fill, or will be.
    pub fn is_filling(&self) -> bool {
        matches!(&self.stage, Stage::Filling(fill) if !fill.is_repair())
    }

    /// Whether it follows or will, as far as that depends on us.
    pub fn has_begun(&self) -> bool {
        self.takes_acknowledgements()
    }

    /// Messages that are still to be sent to fill it, and their bytes.
    pub fn left_to_fill(&self, queue: &MailQueue) -> (u64, u64) {
        match &self.stage {
            Stage::Filling(fill) => fill.left(queue),
            _ => (0, 0),
        }
    }

    /// Whether the server owes an answer to anything.
    pub fn is_owed(&self) -> bool {
        match self.stage {
            Stage::Emptying | Stage::Clearing | Stage::Asked | Stage::Standing(_) => true,
            _ => self.heard < self.used,
        }
    }

    /// Grows with each step towards following.
    pub fn progress(&self) -> u64 {
        let stage = match self.stage {
            Stage::Detached | Stage::Clearing | Stage::Emptying | Stage::Asked => 0,
            Stage::Standing(_) => 1,
            Stage::Filling(_) => 2,
            Stage::Baselining { .. } => 3,
            Stage::Following { .. } => 4,
        };
        self.answered.0 + stage
    }

    /// Whether it follows, or will when the server has told how it stands: the link went down and
    /// is up again.
    pub fn follows_or_resumes(&self) -> bool {
        let resumes = matches!(self.stage, Stage::Asked | Stage::Standing(_));
        self.is_following() || (resumes && self.acknowledged().is_some())
    }

    /// Whether the server has told us, over this connection, that we own the queue.
    pub fn is_attached(&self) -> bool {
        match self.stage {
            Stage::Detached | Stage::Asked | Stage::Emptying | Stage::Clearing => false,
            Stage::Standing(_)
            | Stage::Filling(_)
            | Stage::Baselining { .. }
            | Stage::Following { .. } => true,
        }
    }

    /// Whether nothing has been asked of it on this connection.
    pub fn is_detached(&self) -> bool {
        matches!(self.stage, Stage::Detached)
    }

    /// The last change of the log that it has answered; remembered while detached.
    pub fn acknowledged(&self) -> Option<Transaction> {
        match self.stage {
            Stage::Filling(_) | Stage::Baselining { .. } => None,
            _ => self.number_of(self.answered),
        }
    }

    /// Whether it lacks something that has not been sent.
    pub fn has_more(&self, queue: &MailQueue) -> bool {
        match &self.stage {
            Stage::Filling(_) => true,
            Stage::Following { sent } | Stage::Baselining { sent, .. } => {
                *sent < queue.log().head()
            }
            _ => false,
        }
    }

    /// The last change of the log that it needs no more.
    pub fn log_needed_after(&self) -> Option<Transaction> {
        match &self.stage {
            Stage::Filling(fill) => Some(fill.log_needed_after()),
            Stage::Baselining { fill, .. } => Some(fill.log_needed_after()),
            _ => self.acknowledged(),
        }
    }

    /// The room that the server granted last.
    pub fn credit(&self) -> Credit {
        self.credit
    }

    /// The server has used up the numbers up to this one.
    fn begin_after(&mut self, sequence: Sequence) {
        self.used = sequence;
        self.answered = sequence;
        self.heard = sequence;
        self.hedged = Sequence(0);
    }

    fn takes_acknowledgements(&self) -> bool {
        matches!(self.stage, Stage::Filling(_) | Stage::Baselining { .. } | Stage::Following { .. })
    }

    /// The change of the log that has this sequence number here.
    fn number_of(&self, sequence: Sequence) -> Option<Transaction> {
        let (number, at) = self.origin?;
        (number.0 + sequence.0).checked_sub(at.0).map(Transaction)
    }

    /// The sequence number that this change of the log has here.
    fn sequence_of(&self, number: Transaction) -> Option<Sequence> {
        let (origin, at) = self.origin?;
        (at.0 + number.0).checked_sub(origin.0).map(Sequence)
    }
}

impl QueueContext {
    fn create(&self) -> Ask {
        Ask::Create { name: self.name.clone() }
    }
}

impl Standing {
    /// How a copy stands that was just created.
    pub const EMPTY: Standing = Standing {
        sequence: Sequence(0),
        numbers: Baseline {
            transaction: Transaction(0),
            hash: kvs_proto::ChainHash(0),
            content: kvs_proto::ContentDigest(0),
            messages: 0,
        },
        last_id: MessageId(0),
        owner_idle: None,
    };
}

fn send(context: &QueueContext, outlet: &mut impl Outlet, ask: Ask) {
    outlet.send(Request { queue: context.queue, epoch: context.epoch, ask });
}

/// The request that asks a copy for a change of the log.
fn changing(entry: &Entry) -> Changing {
    match &entry.change {
        Change::Store(stored) => Changing::Store(entry.id, stored.body.clone()),
        Change::Delete { .. } => Changing::Delete(entry.id),
        Change::Replace { version, record } => {
            Changing::Replace(entry.id, *version, record.clone())
        }
    }
}

fn replace(id: MessageId, version: StateVersion, record: &Bytes) -> Changing {
    Changing::Replace(id, version, record.clone())
}

#[cfg(test)]
mod tests;

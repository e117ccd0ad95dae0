//! What a copy is asked for.

use kvs_proto::{HEADER_SIZE_BYTES, Sequence, Transaction};

use super::fill::FillStep;
use super::{Copy, HEDGED_BYTES_MAX, IN_FLIGHT_MAX, QueueContext, Stage, changing, send};
use crate::queue::{Change, MailQueue};
use crate::replication::pace::Pace;
use crate::replication::request::{Ask, Baseline, Changing, Outlet, Request};

impl Copy {
    /// Sends what the copy lacks, as far as the link and the bound on requests in flight allow.
    /// `floor` is the lowest change of the log that some copy which counts has not answered; `pace` says
    /// what a fill may send of what is older than itself: nothing, without one.
    pub fn pump(
        &mut self,
        context: &QueueContext,
        queue: &MailQueue,
        floor: Transaction,
        pace: Option<&mut Pace<'_>>,
        outlet: &mut impl Outlet,
    ) {
        match self.stage {
            Stage::Following { .. } | Stage::Baselining { .. } => {
                self.pump_log(context, queue, floor, outlet);
            }
            Stage::Filling(_) => self.pump_fill(context, queue, pace, outlet),
            _ => {}
        }
    }

    /// Sends what has been sent and not answered by the other path too, each change once, as far
    /// as its bounds allow.
    pub fn hedge(&mut self, context: &QueueContext, queue: &MailQueue, outlet: &mut impl Outlet) {
        if !self.waits() {
            return;
        }
        let mut bytes = 0;
        let mut sequence = self.answered;
        while sequence < self.used && outlet.can_hedge(context.queue) {
            sequence = sequence.next();
            let number = self.number_of(sequence).expect("a following copy has an origin");
            let entry = queue.log().get(number).expect("what was not answered is kept");
            bytes += HEADER_SIZE_BYTES + size_bytes(&entry.change);
            if bytes > HEDGED_BYTES_MAX {
                return;
            }
            if sequence > self.hedged {
                self.hedged = sequence;
                // The floor stays below all that is still on its way.
                let (floor, change) = (self.heard.next(), changing(entry));
                let ask = Ask::Change { sequence, floor, change };
                outlet.hedge(Request { queue: context.queue, epoch: context.epoch, ask });
            }
        }
    }

    fn pump_log(
        &mut self,
        context: &QueueContext,
        queue: &MailQueue,
        floor: Transaction,
        outlet: &mut impl Outlet,
    ) {
        let (Stage::Following { sent } | Stage::Baselining { sent, .. }) = &self.stage else {
            return;
        };
        let mut sent = *sent;
        let floor = self.sequence_of(floor).unwrap_or(self.answered.next()).min(self.heard.next());
        while self.may_send(outlet) {
            let Some(entry) = queue.log().get(sent.next()) else { break };
            sent = sent.next();
            self.change(context, floor, changing(entry), outlet);
            debug_assert_eq!(self.number_of(self.used), Some(sent));
        }
        match &mut self.stage {
            Stage::Following { sent: place } | Stage::Baselining { sent: place, .. } => {
                *place = sent
            }
            _ => {}
        }
    }

    fn pump_fill(
        &mut self,
        context: &QueueContext,
        queue: &MailQueue,
        mut pace: Option<&mut Pace<'_>>,
        outlet: &mut impl Outlet,
    ) {
        while self.may_send(outlet) {
            let Stage::Filling(fill) = &mut self.stage else { return };
            let may_send_old = |bytes| pace.as_mut().is_some_and(|pace| pace.take(bytes));
            let Some(step) = fill.next_step(queue, may_send_old) else { return };
            let (change, old_bytes) = match step {
                FillStep::Change(change) => (change, 0),
                FillStep::Old(change, bytes) => (change, bytes),
                FillStep::Complete => return self.send_baseline(context, queue, outlet),
            };
            fill.note_sent(self.used.next(), old_bytes);
            self.change(context, self.answered.next(), change, outlet);
        }
    }

    /// Everything was sent: the copy is to be declared equal.
    fn send_baseline(
        &mut self,
        context: &QueueContext,
        queue: &MailQueue,
        outlet: &mut impl Outlet,
    ) {
        let Stage::Filling(fill) = std::mem::replace(&mut self.stage, Stage::Detached) else {
            panic!("only a fill ends with a baseline")
        };
        let head = queue.log().head();
        let numbers = Baseline {
            transaction: head,
            hash: queue.log().head_hash(),
            content: queue.content_digest(),
            messages: queue.len() as u64,
        };
        self.change(context, self.answered.next(), Changing::Baseline(numbers), outlet);
        self.origin = Some((head, self.used));
        self.stage = Stage::Baselining { sent: head, baseline: self.used, fill };
    }

    fn may_send(&self, outlet: &impl Outlet) -> bool {
        outlet.has_room() && self.used.0 - self.heard.0 < IN_FLIGHT_MAX
    }

    fn change(
        &mut self,
        context: &QueueContext,
        floor: Sequence,
        change: Changing,
        outlet: &mut impl Outlet,
    ) {
        self.used = self.used.next();
        send(context, outlet, Ask::Change { sequence: self.used, floor, change });
    }
}

fn size_bytes(change: &Change) -> usize {
    match change {
        Change::Store(stored) => stored.body.len(),
        Change::Delete { .. } => 0,
        Change::Replace { record, .. } => record.len(),
    }
}

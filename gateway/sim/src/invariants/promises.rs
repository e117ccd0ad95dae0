//! I1: what is committed and not deleted is on every copy that counts. I4: recovery returns it.

use std::collections::{BTreeMap, BTreeSet};

use gateway::message::QueueIndex;
use gateway::queue::{Change, MailQueue};
use kvs_proto::body::QueueName;
use kvs_proto::{Epoch, Incarnation, MessageId, Transaction};

use super::{Broken, CopySight, Invariant, QueueSight};
use crate::gateways::PLACES;
use crate::world::World;

/// What was promised, by queue.
#[derive(Debug, Default)]
pub(super) struct Promises {
    queues: Vec<Promised>,
    /// The copies that have everything that was promised, by queue and server, as of the last look.
    complete: BTreeMap<(usize, usize), (Incarnation, u32)>,
}

/// What was promised of one queue.
#[derive(Debug, Default)]
struct Promised {
    /// By place of the gateway.
    followed: [Followed; PLACES],
    /// The last owner that had the queue in service: what a former one does to it after that concerns nobody.
    latest: Epoch,
    /// The last change that was committed, in any life.
    committed: Transaction,
    /// Committed and not deleted.
    owed: BTreeSet<MessageId>,
    /// Of these, those that were not a look before.
    fresh: Vec<MessageId>,
}

/// The log of a gateway, as far as it was followed.
#[derive(Debug, Default)]
struct Followed {
    life: Option<u64>,
    /// The log is known up to here.
    seen: Transaction,
    /// Stores that were seen and are not committed yet.
    pending: BTreeMap<Transaction, MessageId>,
}

impl Promises {
    /// Follows what queues promise, and looks whether the copies have it: what is new, and
    /// everything where a copy began to count, or if `thorough`.
    pub(super) fn look(
        &mut self,
        world: &World,
        gateways: &[Vec<QueueSight>; PLACES],
        copies: &[CopySight],
        thorough: bool,
    ) -> Result<(), Broken> {
        self.queues.resize_with(gateways[0].len(), Promised::default);
        for (index, promised) in self.queues.iter_mut().enumerate() {
            // Whoever started later need not be the later owner.
            let mut places = (0..PLACES).collect::<Vec<_>>();
            places.sort_by_key(|place| gateways[*place][index].epoch);
            for place in &places {
                let sight = &gateways[*place][index];
                let queue = world.gateway_at(*place).filter(|_| sight.is_open).map(|gateway| {
                    let index = QueueIndex(u32::try_from(index).expect("few queues"));
                    &gateway.host.unit(index).queue
                });
                promised.follow(*place, sight, queue).map_err(|it| it.of(index))?;
            }
            let is_open = gateways.iter().any(|queues| queues[index].is_open);
            promised.check_held(is_open, gateways[0][index].live).map_err(|it| it.of(index))?;
        }
        for copy in copies.iter().filter(|copy| copy.counts) {
            let which = (copy.life, copy.uid);
            let before = self.complete.insert((copy.queue, copy.server), which);
            let all = thorough || before != Some(which);
            let Some(server) = world.server(copy.server) else { continue };
            let table = server.worker.table();
            let name = QueueName::parse(world.copy_name(copy.queue).as_bytes());
            let Some(found) = name.and_then(|name| table.peek(name)) else { continue };
            let has = |id| found.find(table.arena(), id).is_some();
            self.queues[copy.queue].check_at(all, has).map_err(|it| it.of(copy.queue))?;
        }
        // A copy that does not count now is looked at anew when it does again.
        self.complete.retain(|(queue, server), _| {
            copies.iter().any(|it| it.counts && (it.queue, it.server) == (*queue, *server))
        });
        self.queues.iter_mut().for_each(|promised| promised.fresh.clear());
        Ok(())
    }
}

impl Promised {
    /// Takes in what the queue has done since at a gateway.
    fn follow(
        &mut self,
        place: usize,
        sight: &QueueSight,
        queue: Option<&MailQueue>,
    ) -> Result<(), Broken> {
        let Some(queue) = queue else {
            if sight.life != self.followed[place].life {
                self.followed[place] = Followed::default();
            }
            return Ok(());
        };
        if sight.epoch < self.latest {
            return Ok(());
        }
        if self.followed[place].life != sight.life {
            self.check_recovered(sight, queue)?;
            let (life, seen) = (sight.life, sight.committed);
            self.followed[place] = Followed { life, seen, pending: BTreeMap::new() };
        }
        self.latest = sight.epoch;
        self.committed = self.committed.max(sight.committed);
        let log = queue.log();
        while self.followed[place].seen < sight.head {
            let seen = self.followed[place].seen.next();
            self.followed[place].seen = seen;
            match log.get(seen) {
                Some(entry) => match &entry.change {
                    Change::Store(_) => _ = self.followed[place].pending.insert(seen, entry.id),
                    Change::Delete { .. } => self.forget(place, entry.id),
                    Change::Replace { .. } => {}
                },
                // Forgotten before it was seen: no copy was kept up. What was it?
                None => self.owed.retain(|id| queue.snapshot(*id).is_some()),
            }
        }
        while let Some(entry) = self.followed[place].pending.first_entry()
            && *entry.key() <= sight.committed
        {
            let id = entry.remove();
            self.owed.insert(id);
            self.fresh.push(id);
        }
        Ok(())
    }

    fn forget(&mut self, place: usize, id: MessageId) {
        self.owed.remove(&id);
        self.followed[place].pending.retain(|_, pending| *pending != id);
        self.fresh.retain(|fresh| *fresh != id);
    }

    /// A gateway has the queue anew: all that was promised is there, and nothing goes back.
    fn check_recovered(&self, sight: &QueueSight, queue: &MailQueue) -> Result<(), Broken> {
        let recovered = queue.snapshots_after(MessageId(0)).map(|it| it.id);
        let recovered = recovered.collect::<Vec<_>>();
        self.check_order(&recovered)?;
        if sight.head < self.committed {
            return Err(Invariant::I4.broken("recovery ends before what was committed"));
        }
        Ok(())
    }

    fn check_order(&self, recovered: &[MessageId]) -> Result<(), Broken> {
        if !recovered.is_sorted_by(|one, other| one < other) {
            return Err(Invariant::I4.broken("recovery is not in order"));
        }
        let lost = self.owed.iter().find(|id| recovered.binary_search(id).is_err());
        match lost {
            Some(id) => Err(Invariant::I4.broken(format!("recovery lacks {id:?}"))),
            None => Ok(()),
        }
    }

    /// While no gateway has the queue a copy must.
    fn check_held(&self, is_open: bool, live: usize) -> Result<(), Broken> {
        if !self.owed.is_empty() && !is_open && live == 0 {
            let what = format!("{} messages are nowhere", self.owed.len());
            return Err(Invariant::I1.broken(what));
        }
        Ok(())
    }

    /// Looks whether a copy has what it must.
    fn check_at(&self, all: bool, has: impl Fn(MessageId) -> bool) -> Result<(), Broken> {
        let lacks = if all {
            self.owed.iter().find(|id| !has(**id))
        } else {
            self.fresh.iter().find(|id| !has(**id))
        };
        match lacks {
            Some(id) => Err(Invariant::I1.broken(format!("a copy that counts lacks {id:?}"))),
            None => Ok(()),
        }
    }
}

impl Broken {
    fn of(self, queue: usize) -> Broken {
        Broken { what: format!("queue {queue}: {}", self.what), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use gateway::api::Ticket;
    use gateway::message::{Envelope, Message, Recipient};

    fn queue_with(messages: u64) -> MailQueue {
        let mut queue = MailQueue::default();
        for serial in 1..=messages {
            let envelope = Envelope::new("a@b", vec![Recipient::new("c@d")]);
            let message = Message { envelope, content: Bytes::from_static(b"x\r\n") };
            queue.store(Ticket { front: 0, serial }, message.into());
        }
        queue
    }

    fn sight(life: u64, committed: u64, head: u64) -> QueueSight {
        let (committed, head) = (Transaction(committed), Transaction(head));
        let (life, epoch) = (Some(life), Epoch(life));
        QueueSight { life, epoch, is_open: true, committed, head, live: 2, ..QueueSight::default() }
    }

    /// Three stored, two of them committed.
    fn promised() -> (Promised, MailQueue) {
        let queue = queue_with(3);
        let mut promised = Promised::default();
        promised.follow(0, &sight(1, 0, 0), Some(&queue)).unwrap();
        promised.follow(0, &sight(1, 2, 3), Some(&queue)).unwrap();
        (promised, queue)
    }

    #[test]
    fn a_copy_without_what_is_committed_breaks_i1() {
        let (mut promised, queue) = promised();
        assert_eq!(promised.check_at(false, |id| id <= MessageId(2)), Ok(()));
        let broken = promised.check_at(false, |id| id == MessageId(1)).unwrap_err();
        assert_eq!(broken.invariant, Invariant::I1);
        // When it is not new any more, only all of them tell.
        promised.fresh.clear();
        assert_eq!(promised.check_at(false, |_| false), Ok(()));
        assert_eq!(promised.check_at(true, |_| false).unwrap_err().invariant, Invariant::I1);
        promised.follow(0, &sight(1, 3, 3), Some(&queue)).unwrap();
        assert!(promised.check_at(false, |id| id <= MessageId(2)).is_err());
    }

    #[test]
    fn a_promise_that_nobody_holds_breaks_i1() {
        let (promised, _) = promised();
        assert_eq!(promised.check_held(false, 1), Ok(()));
        assert_eq!(promised.check_held(true, 0), Ok(()), "the gateway has it");
        let broken = promised.check_held(false, 0).unwrap_err();
        assert_eq!(broken.invariant, Invariant::I1);
    }

    #[test]
    fn a_former_owner_is_followed_until_its_successor_serves() {
        let (mut promised, _) = promised();
        // It still commits within its lease, and the successor has to have that.
        promised.follow(0, &sight(1, 3, 3), Some(&queue_with(3))).unwrap();
        let lacking = queue_with(2);
        let broken = promised.follow(1, &sight(2, 3, 3), Some(&lacking)).unwrap_err();
        assert_eq!(broken.invariant, Invariant::I4);
        promised.follow(1, &sight(2, 3, 3), Some(&queue_with(3))).unwrap();
        // What it does to its own queue now is nothing to the successor's.
        let mut former = queue_with(3);
        assert!(former.withdraw(Ticket { front: 0, serial: 3 }));
        promised.follow(0, &sight(1, 3, 4), Some(&former)).unwrap();
        assert_eq!(promised.owed.len(), 3);
    }

    #[test]
    fn a_recovery_that_lacks_something_or_is_not_in_order_breaks_i4() {
        let (mut promised, _) = promised();
        let ids = |ids: &[u64]| ids.iter().copied().map(MessageId).collect::<Vec<_>>();
        assert_eq!(promised.check_order(&ids(&[1, 2])), Ok(()));
        assert_eq!(promised.check_order(&ids(&[1, 2, 3])), Ok(()), "not committed, and there");
        for wrong in [&[1, 3][..], &[2, 1], &[]] {
            let broken = promised.check_order(&ids(wrong)).unwrap_err();
            assert_eq!(broken.invariant, Invariant::I4);
        }
        // As the next life of the gateway.
        let broken = promised.follow(0, &sight(2, 1, 1), Some(&queue_with(3))).unwrap_err();
        assert_eq!(broken.invariant, Invariant::I4, "it has all and does not know it");
        promised.followed[0] = Followed::default();
        let broken = promised.follow(0, &sight(2, 1, 1), Some(&queue_with(1))).unwrap_err();
        assert_eq!(broken.invariant, Invariant::I4);
    }
}

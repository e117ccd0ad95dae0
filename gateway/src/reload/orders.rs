//! What the operator has the running gateway do, and no file says: copies move, queues go on without a lease.

use std::sync::Arc;

use tracing::info;

use super::{Reloader, STATUS_PATIENCE};
use crate::replication::cohort::MoveOrder;
use crate::replication::placement::Placement;
use crate::settings::Settings;
use crate::status::orders::{Of, Order};
use crate::status::{CopyStatus, QueueStatus, ServiceState};

impl Reloader {
    /// Does what is asked for; returns what that is, in words.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn follow(&mut self, order: &Order) -> Result<String, String> {
        let done = match order {
            Order::Move { of, from, to } => {
                let queues = self.queues_to_move(of)?;
                self.begin_move(&queues, from, to)
            }
            Order::CancelMove { of } => {
                let queues = self.queues_to_move(of)?;
                self.cancel_move(&queues)
            }
            Order::Resume => self.resume(),
        }?;
        info!(?order, done, "an order of the operator's is followed");
        self.shared.reconfigure(Arc::new(self.settings.clone()));
        Ok(done)
    }

    /// The queues that are meant; which of their moves are over is forgotten.
    fn queues_to_move(&mut self, of: &Of) -> Result<Vec<QueueStatus>, String> {
        let queues = self.queues_of(of)?;
        let is_on =
            |key: &String| queues.iter().any(|it| it.cohort == *key && it.moving_to.is_some());
        let keys = queues.iter().map(|it| it.cohort.clone()).collect::<Vec<_>>();
        self.settings.moves.retain(|key, _| !keys.contains(key) || is_on(key));
        Ok(queues)
    }

    /// Has those queues go on without a lease of which nobody can say whose they are.
    fn resume(&mut self) -> Result<String, String> {
        let queues = self.queues()?;
        let meant = queues.iter().filter(|it| it.must_be_told).collect::<Vec<_>>();
        let Some(first) = meant.first() else {
            return Err(
                "each queue has its lease, or may still learn whose it is: nothing to do".into()
            );
        };
        let (count, name) = (meant.len(), &first.queue);
        let done =
            format!("what is in {count} queues, {name} among them, is delivered without a lease");
        self.orders += 1;
        self.settings.resume = self.orders;
        Ok(done)
    }

    /// All queues, as they are now, in order.
    fn queues(&self) -> Result<Vec<QueueStatus>, String> {
        let parts = self.shared.ask_status(STATUS_PATIENCE);
        if parts.iter().any(Option::is_none) {
            return Err("a worker does not say how its queues are: try again".into());
        }
        let mut queues =
            parts.iter().flatten().flat_map(|it| it.queues.clone()).collect::<Vec<_>>();
        queues.sort_by_key(|queue| queue.index);
        Ok(queues)
    }

    /// The queues that are meant, with those that share their records, as they are now.
    fn queues_of(&self, of: &Of) -> Result<Vec<QueueStatus>, String> {
        let mut queues = self.queues()?;
        match of {
            Of::Queue(name) => {
                let cohort = queues.iter().find(|it| it.queue == *name).map(|it| it.cohort.clone());
                let cohort = cohort.ok_or_else(|| format!("there is no queue named {name:?}"))?;
                queues.retain(|it| it.cohort == cohort);
            }
            Of::Group(name) => {
                let group = self.settings.groups.iter().position(|it| it.name == *name);
                let group = group.ok_or_else(|| format!("there is no group named {name:?}"))?;
                queues.retain(|it| self.settings.queues[it.index as usize].group == group);
                if queues.is_empty() {
                    return Err(format!("group {name:?} has no queues"));
                }
            }
        }
        Ok(queues)
    }

    /// Orders moves of all those whose copies are there, and can be.
    fn begin_move(
        &mut self,
        queues: &[QueueStatus],
        from: &str,
        to: &str,
    ) -> Result<String, String> {
        if from == to {
            return Err(format!("{from:?} is both where the copies are and where they are to go"));
        }
        let has_copy = |queue: &&QueueStatus| copy_at(queue, from).is_some_and(|it| it.is_recorded);
        let moving = queues.iter().filter(has_copy).collect::<Vec<_>>();
        let Some(first) = moving.first() else {
            return Err(format!("server {from:?} has no copies of these queues"));
        };
        for queue in &moving {
            check_move(&self.settings, queue, from, to)?;
        }
        let others = queues.len() - moving.len();
        let (count, name) = (moving.len(), &first.queue);
        let number = self.orders + 1;
        for queue in &moving {
            let order = MoveOrder { number, from: from.into(), to: to.into() };
            self.settings.moves.insert(queue.cohort.clone(), order);
        }
        self.orders = number;
        let others = match others {
            0 => String::new(),
            others => format!("; {others} others have none at {from}"),
        };
        Ok(format!(
            "the copies of {count} queues, {name} among them, move from {from} to {to}{others}"
        ))
    }

    fn cancel_move(&mut self, queues: &[QueueStatus]) -> Result<String, String> {
        let stays = |queue: &&QueueStatus| self.settings.moves.contains_key(&queue.cohort);
        let count = queues.iter().filter(stays).count();
        if count == 0 {
            return Err("no copies of these queues are being moved".into());
        }
        for queue in queues {
            self.settings.moves.remove(&queue.cohort);
        }
        Ok(format!("the copies of {count} queues stay where they are"))
    }
}

/// Whether a queue's copy may go from one server to the other.
fn check_move(
    settings: &Settings,
    queue: &QueueStatus,
    from: &str,
    to: &str,
) -> Result<(), String> {
    let name = &queue.queue;
    if queue.service != ServiceState::Open {
        return Err(format!("queue {name:?} is not in service: try again later"));
    }
    if let Some(other) = &queue.moving_to {
        return Err(format!(
            "a copy of queue {name:?} is being moved to {other:?}: cancel that first"
        ));
    }
    let Some(copy) = copy_at(queue, to) else {
        return Err(format!("the group of queue {name:?} has no server named {to:?}"));
    };
    if copy.is_recorded {
        return Err(format!("server {to:?} has a copy of queue {name:?} already"));
    }
    if copy.is_drained {
        return Err(format!("server {to:?} is drained"));
    }
    if !copy.is_reachable() {
        return Err(format!("server {to:?} is not there"));
    }
    let place = |server: &str| {
        let at = settings.links.iter().position(|link| link.server == server);
        at.map(|at| &settings.placements[at])
    };
    let kept = queue.copies.iter().filter(|it| it.is_recorded && it.kvs != from);
    let kept = kept.filter_map(|it| Some((it.kvs.as_str(), place(&it.kvs)?)));
    let own = [("the gateway", &settings.policy.placement)];
    let shares = |(_, it): &(&str, &Placement)| place(to).is_some_and(|to| to.shares_node(it));
    match own.into_iter().chain(kept).find(shares) {
        Some((other, _)) => Err(format!(
            "server {to:?} is on one node with {other}, which has a copy of queue {name:?}"
        )),
        None => Ok(()),
    }
}

fn copy_at<'q>(queue: &'q QueueStatus, server: &str) -> Option<&'q CopyStatus> {
    queue.copies.iter().find(|it| it.kvs == server)
}

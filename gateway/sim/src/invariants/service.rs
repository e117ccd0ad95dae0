//! I6: recovery reads what is recorded. I7: what cannot be
//! committed is not accepted.

use std::time::Duration;

use kvs_proto::Transaction;
use tcpstack::Instant;

use super::{Broken, Invariant, QueueSight, lasting};

/// The queues of a gateway as they were.
#[derive(Debug, Default)]
pub(super) struct ServiceWatch {
    queues: Vec<Watched>,
    ports_needless_since: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
struct Watched {
    life: Option<u64>,
    committed: Transaction,
    source: Option<usize>,
    lacking_since: Option<Instant>,
}

impl ServiceWatch {
    /// Looks at each queue, and whether the gateway listens although no queue accepts; `None`: it is
    /// down.
    pub(super) fn check(
        &mut self,
        now: Instant,
        ports_open: Option<bool>,
        queues: &[QueueSight],
    ) -> Result<(), Broken> {
        self.queues.resize_with(queues.len(), Watched::default);
        for (place, (watched, queue)) in self.queues.iter_mut().zip(queues).enumerate() {
            watched.check(now, queue).map_err(|it| Broken {
                what: format!("queue {place}: {}: {queue:?}", it.what),
                ..it
            })?;
        }
        // One that is stopped closes nothing.
        let idle = |it: &QueueSight| it.is_awake && !it.is_accepting;
        let needless = ports_open == Some(true) && queues.iter().all(idle);
        let since = lasting(now, &mut self.ports_needless_since, needless);
        if since.is_some_and(|since| since > CLOSING_TIME_MAX) {
            return Err(Invariant::I7.broken("ports are open, and no queue accepts"));
        }
        Ok(())
    }
}

impl Watched {
    fn check(&mut self, now: Instant, queue: &QueueSight) -> Result<(), Broken> {
        let same_life = self.life == queue.life;
        let goes_on = same_life && queue.committed > self.committed;
        if let Some((source, is_recorded)) = queue.source
            && !is_recorded
            && queue.is_owner
            && (!same_life || self.source != Some(source))
        {
            return Err(Invariant::I6.broken("it is read from a copy that is not recorded"));
        }
        // The record is what was written last: what is committed in a step was by it, or by that
        // before, which had more members.
        let copies = if queue.recorded > 0 { queue.recorded + queue.joining } else { 0 };
        if goes_on && queue.is_owner && copies < queue.min_sync {
            return Err(Invariant::I7.broken("it is committed with fewer copies than are needed"));
        }
        if queue.is_accepting && !queue.is_open {
            return Err(Invariant::I7.broken("it accepts and is not in service"));
        }
        // Of a former owner the record says nothing.
        let lacks = queue.is_owner && queue.is_awake && queue.is_accepting && queue.live < 1;
        let since = lasting(now, &mut self.lacking_since, lacks);
        if since.is_some_and(|since| since > LACKING_TIME_MAX) {
            return Err(Invariant::I7.broken("it accepts, and no copy of it is left"));
        }
        self.life = queue.life;
        self.committed = queue.committed;
        self.source = queue.source.map(|(source, _)| source);
        Ok(())
    }
}

/// Ports are closed at the next turn of the front, which may be paused.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(2);

/// A server that died may be noticed by the link's deadline, after its heart-beat, and is waited for
/// until it is isolated and for what a spare may take. What a queue accepts meanwhile is not committed.
const LACKING_TIME_MAX: Duration = Duration::from_secs(6);

#[cfg(test)]
mod tests {
    use super::*;
    use kvs_proto::Epoch;

    fn serving() -> QueueSight {
        QueueSight {
            life: Some(1),
            is_awake: true,
            epoch: Epoch(4),
            is_owner: true,
            is_open: true,
            is_accepting: true,
            committed: Transaction(5),
            head: Transaction(6),
            min_sync: 2,
            is_recorded: true,
            recorded: 2,
            joining: 0,
            live: 2,
            source: None,
        }
    }

    #[test]
    fn who_joins_makes_up_for_a_member_and_never_for_all() {
        let goes_on = |recorded, joining| {
            then(1, |it| {
                (it.recorded, it.joining, it.committed) = (recorded, joining, Transaction(6));
            })
        };
        assert_eq!(goes_on(1, 1), None);
        assert_eq!(goes_on(1, 0), Some(Invariant::I7));
        assert_eq!(goes_on(0, 2), Some(Invariant::I7));
    }

    /// What is broken when a queue is first as it should be, then like this, after that time.
    fn then(seconds: u64, change: impl Fn(&mut QueueSight)) -> Option<Invariant> {
        let mut watch = ServiceWatch::default();
        let start = Instant::from_nanos(1);
        watch.check(start, Some(true), &[serving()]).unwrap();
        let mut queue = serving();
        change(&mut queue);
        let first = watch.check(start, Some(true), &[queue]);
        let later = start + Duration::from_secs(seconds);
        let again = first.and_then(|()| watch.check(later, Some(true), &[queue]));
        again.err().map(|it| it.invariant)
    }

    #[test]
    fn reading_a_copy_that_is_not_recorded_breaks_i6() {
        assert_eq!(then(0, |it| it.source = Some((1, true))), None);
        assert_eq!(then(0, |it| it.source = Some((1, false))), Some(Invariant::I6));
        // It was recorded when that began, and is given up at the next turn.
        let mut watch = ServiceWatch::default();
        let reading = QueueSight { source: Some((1, true)), ..serving() };
        watch.check(Instant::ZERO, Some(true), &[reading]).unwrap();
        let given_up = QueueSight { source: Some((1, false)), ..serving() };
        assert_eq!(watch.check(Instant::ZERO, Some(true), &[given_up]), Ok(()));
    }

    #[test]
    fn accepting_what_cannot_be_committed_breaks_i7() {
        let short = |it: &mut QueueSight| (it.recorded, it.committed) = (1, Transaction(6));
        assert_eq!(then(0, short), Some(Invariant::I7));
        assert_eq!(then(0, |it| it.is_open = false), Some(Invariant::I7));
        assert_eq!(then(5, |it| it.live = 0), None);
        assert_eq!(then(7, |it| it.live = 0), Some(Invariant::I7));
        assert_eq!(then(1, |it| it.is_accepting = false), None);
        assert_eq!(then(3, |it| it.is_accepting = false), Some(Invariant::I7), "ports are open");
        assert_eq!(then(3, |it| (it.is_accepting, it.is_awake) = (false, false)), None);
    }
}

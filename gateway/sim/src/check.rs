//! Compares queues with their copies while the world runs, and looks whether it has come to rest at the end.
//! (That copies equal each other and memory is kept are invariants.)

use std::fmt;
use std::time::Duration;

use gateway::message::QueueIndex;
use gateway::queue::MailQueue;
use gateway::replication::cohort::BACKUPS;
use gateway::replication::record::RecordedMember;
use kvs_proto::{ChainHash, ContentDigest, Epoch, Transaction};

use crate::gateway_host::GatewayHost;
use crate::invariants::see_copy;
use crate::joining::check_joining;
use crate::report::PathCounts;
use crate::scenario::{FaultLevel, server_name};
use crate::world::World;

/// A copy of a queue at a server, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyNumbers {
    /// Whose it is.
    pub epoch: Epoch,
    /// Changes applied.
    pub transaction: Transaction,
    /// The hash over them.
    pub chain: ChainHash,
    /// The digest of what lives.
    pub content: ContentDigest,
    /// How many messages live.
    pub messages: u64,
}

/// Something that is not as it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference(pub String);

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Compares a queue with a copy that counts: it has everything that is committed; at equal
/// transaction numbers the history is the same, and at the last one the content too.
///
/// # Errors
/// How they differ.
pub fn compare(
    queue: &MailQueue,
    committed: Transaction,
    copy: &CopyNumbers,
) -> Result<(), Difference> {
    let log = queue.log();
    let at = copy.transaction;
    if at < committed {
        return Err(Difference(format!("{copy:?} lacks what is committed up to {committed:?}")));
    }
    if at > log.head() {
        return Err(Difference(format!("{copy:?} is ahead of its queue at {:?}", log.head())));
    }
    if let Some(hash) = log.hash_after(at)
        && hash != copy.chain
    {
        return Err(Difference(format!("{copy:?} has another history than its queue's {hash:?}")));
    }
    let content = (queue.content_digest(), queue.len() as u64);
    if at == log.head() && content != (copy.content, copy.messages) {
        return Err(Difference(format!("{copy:?} has other content than its queue: {content:?}")));
    }
    Ok(())
}

/// What must hold at any time.
///
/// # Errors
/// What does not.
pub fn check_always(world: &World) -> Result<(), Difference> {
    for (index, name) in queues(world) {
        let Some(unit) = owner_of(world, index, &name).map(|gateway| gateway.unit(index)) else {
            continue;
        };
        let owner = epoch(world, &name);
        let places = 0..world.scenario().servers;
        for place in places.filter(|place| unit.is_open() && is_recorded(world, *place, &name)) {
            let copy = see_copy(world, index.0 as usize, place, true);
            let copy = copy.filter(|it| Some(it.numbers.epoch) == owner && !it.has_refused);
            if let Some(copy) = copy {
                compare(&unit.queue, unit.committed(), &copy.numbers).map_err(|it| it.of(&name))?;
            }
        }
    }
    check_joining(world)
}

/// What must hold while only one of two paths to each server is in trouble, whatever the operator does about servers: no
/// server's copies are isolated, each queue has its copies, accepts, and does not stand still for long.
///
/// # Errors
/// What does not.
pub fn check_paths(world: &World) -> Result<(), Difference> {
    if let Some(at) = world.unjustified_isolation() {
        return Err(Difference(format!(
            "a server was isolated at {at:?} although it was in reach"
        )));
    }
    if world.faults() != FaultLevel::Paths {
        return Ok(());
    }
    for (key, record) in world.register().records() {
        check_members(key, &record.members)?;
    }
    let PathCounts { commit_pause_max, acceptance_pause_max, .. } = world.path_counts();
    if commit_pause_max > COMMIT_PAUSE_MAX {
        return Err(Difference(format!("a queue committed nothing for {commit_pause_max:?}")));
    }
    if acceptance_pause_max > Duration::ZERO {
        return Err(Difference(format!("a queue did not accept for {acceptance_pause_max:?}")));
    }
    Ok(())
}

/// As long as no server dies a queue never has fewer copies than it is to have.
fn check_members(key: &str, members: &[RecordedMember]) -> Result<(), Difference> {
    let copies = members.len();
    if copies >= BACKUPS {
        return Ok(());
    }
    Err(Difference(format!("{key} has {copies} copies that count, and no server died")))
}

/// With one path in trouble at a time: a deadline of the path, or, if the other one was in trouble
/// not long ago, that of the link; what it takes to resume; and the interval of the checks.
const COMMIT_PAUSE_MAX: Duration = Duration::from_millis(1500);

/// What must hold when all mail is delivered and nothing goes wrong any more: queues and copies are
/// empty and equal, the copies of two servers count and no other has any, and budgets are whole.
///
/// # Errors
/// What does not (yet).
pub fn check_settled(world: &World) -> Result<(), Difference> {
    check_always(world)?;
    if !world.is_load_done() {
        return Err(Difference("senders have mail that is not settled".into()));
    }
    let Some(gateway) = world.gateway().filter(|_| world.gateways().count() == 1) else {
        let running = world.gateways().count();
        return Err(Difference(format!("{running} gateways run")));
    };
    for (index, name) in queues(world) {
        let unit = gateway.unit(index);
        let (messages, changes) = (unit.queue.len(), unit.queue.log().len());
        if !unit.is_open() || messages > 0 || changes > 0 {
            let open = unit.is_open();
            return Err(Difference(format!(
                "{name} has {messages} messages and {changes} unanswered changes, open: {open}"
            )));
        }
        let servers = 0..world.scenario().servers;
        let (recorded, spare) = servers.partition::<Vec<_>, _>(|it| is_recorded(world, *it, &name));
        if recorded.len() != BACKUPS {
            return Err(Difference(format!("the copies of {name} at {recorded:?} count")));
        }
        if let Some(drained) = world.drained_for_good().filter(|it| recorded.contains(it)) {
            return Err(Difference(format!("kvs{drained} is drained and has a copy of {name}")));
        }
        // A former owner that comes back may begin to fill a spare before it hears that it is none any more. Who
        // connects there next clears that away.
        let owner = epoch(world, &name);
        let is_left = |place: &usize| {
            copy_at(world, *place, index).is_some_and(|copy| Some(copy.epoch) == owner)
        };
        if let Some(place) = spare.into_iter().find(is_left) {
            return Err(Difference(format!("kvs{place} has a copy of {name} that does not count")));
        }
        for place in recorded {
            let copy = copy_at(world, place, index);
            if copy.is_none_or(|it| it.transaction != unit.queue.log().head() || it.messages > 0) {
                return Err(Difference(format!("the copy of {name} at kvs{place} is {copy:?}")));
            }
        }
    }
    check_budgets_whole(world, gateway)
}

/// Of each budget everything is left. (That it is kept at any time is I8.)
fn check_budgets_whole(world: &World, gateway: &GatewayHost) -> Result<(), Difference> {
    let settings = &world.scenario().settings;
    let board = gateway.board();
    let total = i64::try_from(settings.memory_bytes).expect("a budget below 2^63");
    if board.bytes_left() != total {
        let left = board.bytes_left();
        return Err(Difference(format!("{left} of {total} bytes of memory are left")));
    }
    for ((index, name), bounds) in queues(world).into_iter().zip(settings.bounds()) {
        let left = board.left(index);
        if left != bounds {
            return Err(Difference(format!("{left:?} of {bounds:?} are left")).of(&name));
        }
    }
    Ok(())
}

impl Difference {
    fn of(self, queue: &str) -> Difference {
        Difference(format!("queue {queue}: {}", self.0))
    }
}

/// The queues by index and name.
pub(crate) fn queues(world: &World) -> Vec<(QueueIndex, String)> {
    let queues = world.scenario().settings.queues.iter();
    (0..).zip(queues).map(|(index, it)| (QueueIndex(index), it.name.clone())).collect()
}

/// Whether the record says that this life of the server has a copy of the queue that counts.
fn is_recorded(world: &World, place: usize, queue: &str) -> bool {
    let Some(server) = world.server(place) else { return false };
    let name = server_name(place);
    let mut records = world.register().records().map(|(_, record)| record);
    records.any(|record| {
        record.queues.iter().any(|it| it == queue)
            && record.incarnation_of(&name) == Some(server.incarnation)
    })
}

/// The gateway whose epoch the queue's record has.
pub(crate) fn owner_of<'w>(
    world: &'w World,
    index: QueueIndex,
    queue: &str,
) -> Option<&'w GatewayHost> {
    let owner = epoch(world, queue)?;
    world.gateways().map(|it| &it.host).find(|it| it.epoch(index) == owner)
}

/// The epoch that the record gives the queue's owner.
fn epoch(world: &World, queue: &str) -> Option<Epoch> {
    let mut records = world.register().records().map(|(_, record)| record);
    records.find(|record| record.queues.iter().any(|it| it == queue)).map(|record| record.epoch)
}

fn copy_at(world: &World, place: usize, queue: QueueIndex) -> Option<CopyNumbers> {
    see_copy(world, queue.0 as usize, place, false).map(|sight| sight.numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use gateway::api::Ticket;
    use gateway::message::{Envelope, Message, Recipient};
    use kvs_proto::Incarnation;

    /// A queue with two messages, and a true copy of it.
    fn pair() -> (MailQueue, CopyNumbers) {
        let mut queue = MailQueue::default();
        for serial in 1..=2 {
            let mut envelope = Envelope::new("a@b", vec![Recipient::new("c@d")]);
            envelope.accepted_unix_ms = serial;
            let message = Message { envelope, content: Bytes::from_static(b"x\r\n") };
            queue.store(Ticket { front: 0, serial }, message.into());
        }
        let copy = CopyNumbers {
            epoch: Epoch(1),
            transaction: queue.log().head(),
            chain: queue.log().head_hash(),
            content: queue.content_digest(),
            messages: 2,
        };
        (queue, copy)
    }

    #[test]
    fn a_true_copy_is_equal_also_when_it_is_behind() {
        let (queue, copy) = pair();
        assert_eq!(compare(&queue, Transaction(2), &copy), Ok(()));
        let chain = queue.log().hash_after(Transaction(1)).unwrap();
        let behind = CopyNumbers { transaction: Transaction(1), chain, messages: 1, ..copy };
        assert_eq!(compare(&queue, Transaction(1), &behind), Ok(()));
        assert!(compare(&queue, Transaction(2), &behind).is_err(), "it lacks a committed one");
    }

    #[test]
    fn a_record_with_fewer_copies_than_two_is_found() {
        let member =
            |server: &str| RecordedMember { server: server.into(), incarnation: Incarnation(1) };
        let pair = [member("kvs0"), member("kvs1")];
        assert_eq!(check_members("gw/pair/1", &pair), Ok(()));
        assert!(check_members("gw/pair/1", &pair[..1]).is_err());
    }

    #[test]
    fn a_copy_that_differs_is_found() {
        let (queue, copy) = pair();
        let wrong = [
            CopyNumbers { chain: ChainHash(1), ..copy },
            CopyNumbers { content: ContentDigest(1), ..copy },
            CopyNumbers { messages: 1, ..copy },
            CopyNumbers { transaction: Transaction(3), ..copy },
            CopyNumbers { transaction: Transaction(1), ..copy },
        ];
        for copy in wrong {
            assert!(compare(&queue, Transaction(0), &copy).is_err(), "{copy:?}");
        }
    }
}

//! What a copy that is a little behind needs, from the last operations of one that is not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kvs_proto::{MessageId, Op};

use crate::queue::MailQueue;
use crate::replication::request::Operation;

/// A change that brings it nearer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Repair {
    Store(MessageId),
    Delete(MessageId),
    Replace(MessageId),
}

/// What operations come to, in their order: a message that came and went is left out, and of the
/// states of a message only the last is set. So a copy that needs all of them has the same
/// history afterwards, and any other has a lower transaction number until its baseline.
pub(super) fn net_repairs(
    operations: &[Operation],
    queue: &MailQueue,
) -> Result<VecDeque<Repair>, &'static str> {
    let ids_of = |op| operations.iter().filter(move |it| it.op == op).map(|it| it.id);
    let stored = ids_of(Op::Store).collect::<BTreeSet<_>>();
    let deleted = ids_of(Op::Delete).collect::<BTreeSet<_>>();
    let replaces = operations.iter().filter(|it| it.op == Op::Replace);
    let last_replaces = replaces.map(|it| (it.id, it.transaction)).collect::<BTreeMap<_, _>>();
    let mut repairs = VecDeque::new();
    for operation in operations {
        let id = operation.id;
        match operation.op {
            Op::Store if !deleted.contains(&id) => repairs.push_back(Repair::Store(id)),
            Op::Delete if !stored.contains(&id) => repairs.push_back(Repair::Delete(id)),
            Op::Replace if !deleted.contains(&id) => {
                if last_replaces.get(&id) == Some(&operation.transaction) {
                    repairs.push_back(Repair::Replace(id));
                }
            }
            Op::Store | Op::Delete | Op::Replace => {}
            _ => return Err("an operation that is no change"),
        }
    }
    let lives = |repair: &Repair| match repair {
        Repair::Store(id) | Repair::Replace(id) => queue.snapshot(*id).is_some(),
        Repair::Delete(_) => true,
    };
    if !repairs.iter().all(lives) {
        return Err("the other copy lacks what its operations say");
    }
    Ok(repairs)
}

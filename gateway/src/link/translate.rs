//! Answers from the wire, as replication sees them.

use std::time::Duration;

use kvs_proto::{Event as ClientEvent, QueueHandle, Tag};

use crate::message::QueueIndex;
use crate::replication::request::{Answer, Baseline, Operation, Reply, Standing};

/// What the standby path's client says about a hedge.
pub(super) fn translate_second(event: ClientEvent) -> Option<Reply> {
    match event {
        ClientEvent::Ack { queue, sequence, transaction, credit, .. } => {
            let answer = Answer::AcknowledgedByStandby { sequence, transaction, credit };
            Some(Reply { queue: QueueIndex(queue.0), answer })
        }
        event => translate(event),
    }
}

/// What the client says, as replication sees it. `None` for what has no meaning there.
pub(super) fn translate(event: ClientEvent) -> Option<Reply> {
    let (queue, answer) = match event {
        ClientEvent::Attached { queue, transaction, credit, attached, .. } => {
            let numbers = Baseline {
                transaction,
                hash: attached.chain,
                content: attached.content,
                messages: attached.messages,
            };
            let standing = Standing {
                sequence: attached.last_sequence,
                numbers,
                last_id: attached.last_id,
                owner_idle: attached.owner_idle_ms.map(|it| Duration::from_millis(it.into())),
            };
            (queue, Answer::Attached { standing, credit })
        }
        ClientEvent::Dropped { queue, .. } => (queue, Answer::Dropped),
        ClientEvent::Ack { queue, count: 0, sequence, credit, .. } => {
            (queue, Answer::Granted { sequence, credit })
        }
        ClientEvent::Ack { queue, sequence, transaction, credit, .. } => {
            (queue, Answer::Acknowledged { sequence, transaction, credit })
        }
        ClientEvent::Refused(refusal) => {
            let (op, status, epoch) = (refusal.op, refusal.status, refusal.epoch);
            (refusal.queue, Answer::Refused { op, status, epoch })
        }
        ClientEvent::Item(item) => {
            let (id, state_version) = (item.id, item.state_version);
            (item.queue, Answer::Item { id, state_version, state: item.state, body: item.body })
        }
        ClientEvent::BlockEnd { queue, finished, .. } => (queue, Answer::BlockEnd { finished }),
        ClientEvent::Ops { queue, entries, transaction, .. } => {
            let operations = entries.iter().map(|entry| Operation {
                transaction: entry.transaction,
                op: entry.op,
                id: entry.message,
                digest: entry.digest,
                hash: entry.chain,
            });
            (queue, Answer::Operations { operations: operations.collect(), head: transaction })
        }
        ClientEvent::HeartBeatReply { tag: Tag(0) } => return None,
        ClientEvent::HeartBeatReply { tag } => {
            (QueueHandle(u32::try_from(tag.0 - 1).ok()?), Answer::Alive)
        }
        ClientEvent::Welcome { .. }
        | ClientEvent::Queues { .. }
        | ClientEvent::Owner { .. }
        | ClientEvent::Counters { .. }
        | ClientEvent::ProtocolError(_) => return None,
    };
    Some(Reply { queue: QueueIndex(queue.0), answer })
}

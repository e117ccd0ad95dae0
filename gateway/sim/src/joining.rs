//! Checks copies that are being filled and recorded as joining, against the queue that they are to become.

use std::collections::BTreeSet;

use gateway::queue::{Change, MailQueue};
use kvs::arena::Cursor;
use kvs_proto::{BodyDigest, MessageId, Transaction, body_digest};

use crate::check::{Difference, owner_of, queues};
use crate::scenario::server_name;
use crate::world::{Server, World};

/// What must hold of copies that join, at any time.
///
/// # Errors
/// What does not.
pub(crate) fn check_joining(world: &World) -> Result<(), Difference> {
    for (index, name) in queues(world) {
        let Some(gateway) = owner_of(world, index, &name) else { continue };
        let unit = gateway.unit(index);
        for (place, answered) in unit.live_answered().filter(|_| unit.is_open()) {
            let place = gateway.server_of(index, place);
            let server = world.server(place).filter(|it| is_joining(world, place, it, &name));
            if let Some(records) = server.and_then(|server| records_at(server, &name)) {
                compare_filling(&unit.queue, &records, answered)
                    .map_err(|it| Difference(format!("queue {name}: {}", it.0)))?;
            }
        }
    }
    Ok(())
}

/// Compares a queue with the records of a copy that is being filled, in their physical order: that is
/// the order of ids, each record is a message of the queue (or of one that is being deleted), and
/// what the copy has answered of what was stored after the first of two changes and up to the second is there.
///
/// # Errors
/// How they differ.
fn compare_filling(
    queue: &MailQueue,
    records: &[(MessageId, BodyDigest)],
    (after, up_to): (Transaction, Transaction),
) -> Result<(), Difference> {
    let log = queue.log();
    let kept = || (log.head().0 + 1 - log.len() as u64..=log.head().0).map(Transaction);
    let entries = || kept().filter_map(|number| Some((number, log.get(number)?)));
    let is_delete = |change: &Change| matches!(change, Change::Delete { .. });
    let deleted = entries().filter(|(_, it)| is_delete(&it.change)).map(|(_, it)| it.id);
    let deleted = deleted.collect::<BTreeSet<_>>();
    if let Some(pair) = records.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        return Err(Difference(format!("{:?} lies ahead of {:?}", pair[0].0, pair[1].0)));
    }
    for (id, digest) in records {
        let same = queue.snapshot(*id).map(|it| it.stored.body.digest() == *digest);
        if same == Some(false) || (same.is_none() && !deleted.contains(id)) {
            return Err(Difference(format!("{id:?} of a copy that joins is no message of ours")));
        }
    }
    for (number, entry) in entries() {
        let is_owed = after < number && number <= up_to && queue.snapshot(entry.id).is_some();
        let is_there = || records.binary_search_by_key(&entry.id, |(id, _)| *id).is_ok();
        if is_owed && matches!(entry.change, Change::Store(_)) && !is_there() {
            let id = entry.id;
            return Err(Difference(format!("{id:?} is not in the copy that has answered it")));
        }
    }
    Ok(())
}

/// Whether the record says that this life of the server joins with the queue.
fn is_joining(world: &World, place: usize, server: &Server, queue: &str) -> bool {
    let mut records = world.register().records().map(|(_, record)| record);
    records.any(|record| {
        record.queues.iter().any(|it| it == queue)
            && record.joining_of(&server_name(place)) == Some(server.incarnation)
    })
}

fn records_at(server: &Server, queue: &str) -> Option<Vec<(MessageId, BodyDigest)>> {
    let table = server.worker.table();
    let full = format!("gw/{queue}");
    let (_, copy) = table.list(&full, None).find(|(name, _)| name.as_str() == full)?;
    let mut cursor = Cursor::behind(MessageId(0));
    let mut records = Vec::new();
    while let Some(place) = copy.next(table.arena(), &cursor) {
        let record = table.arena().record(place);
        records.push((record.id, body_digest(record.length, record.checksum)));
        cursor = table.arena().cursor(place);
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use gateway::api::Ticket;
    use gateway::message::{Envelope, Message, Recipient};

    /// A queue of four messages, and all that a copy of it has to have.
    fn pair() -> (MailQueue, Vec<(MessageId, BodyDigest)>) {
        let mut queue = MailQueue::default();
        for serial in 1..=4 {
            let mut envelope = Envelope::new("a@b", vec![Recipient::new("c@d")]);
            envelope.accepted_unix_ms = serial;
            let message = Message { envelope, content: Bytes::from_static(b"x\r\n") };
            queue.store(Ticket { front: 0, serial }, message.into());
        }
        let records = queue.snapshots_after(MessageId(0));
        let records = records.map(|it| (it.id, it.stored.body.digest())).collect();
        (queue, records)
    }

    const NEWEST: (Transaction, Transaction) = (Transaction(2), Transaction(4));

    #[test]
    fn what_is_old_may_lack_and_what_was_answered_may_not() {
        let (queue, records) = pair();
        assert_eq!(compare_filling(&queue, &records[1..], NEWEST), Ok(()));
        assert!(compare_filling(&queue, &records[..3], NEWEST).is_err());
        let not_yet = (Transaction(2), Transaction(3));
        assert_eq!(compare_filling(&queue, &records[..3], not_yet), Ok(()));
    }

    #[test]
    fn another_order_and_other_messages_are_found() {
        let (mut queue, records) = pair();
        let swapped = [records[1], records[0], records[2], records[3]];
        assert!(compare_filling(&queue, &swapped, NEWEST).is_err());
        let other = [(records[0].0, records[1].1), records[2], records[3]];
        assert!(compare_filling(&queue, &other, NEWEST).is_err());
        assert!(queue.withdraw(Ticket { front: 0, serial: 1 }));
        assert_eq!(compare_filling(&queue, &records, NEWEST), Ok(()), "its delete is on its way");
        queue.trim_log(queue.log().head());
        assert!(compare_filling(&queue, &records, NEWEST).is_err(), "it should be gone by now");
    }
}

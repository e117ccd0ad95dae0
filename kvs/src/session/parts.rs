//! Messages that arrive in pieces: in several frames, or in one that the network cut.

use kvs_proto::body::Counter;
use kvs_proto::{
    Epoch, Generation, Header, MessageId, QueueHandle, Sequence, Status, checksum_combine, flags,
};

use super::{Session, Shared};
use crate::arena::Reservation;
use crate::queue::Admission;

/// A message that is arriving. It counts with its last part; whatever is to be said about it is
/// said then.
#[derive(Debug)]
pub(super) struct Incoming {
    /// As whom it is stored: a part that says otherwise is none of this message's.
    owner: (Epoch, Generation),
    sequence: Sequence,
    id: MessageId,
    total: usize,
    is_backfill: bool,
    /// Bytes of complete parts, `<= total`.
    received: usize,
    /// CRC32C of those.
    checksum: u32,
    room: Room,
}

#[derive(Debug)]
enum Room {
    /// The bytes go there.
    Reserved(Reservation),
    /// It will be refused, which uses its sequence number up.
    Refused(Status),
    /// Not admitted at its first part: the bytes go nowhere.
    Skipped,
}

impl Session {
    /// The header of a part, or of a whole message that the network cut. False: it makes no sense,
    /// and the connection will end once its body is through.
    pub(super) fn begin_part(&mut self, shared: &mut Shared, header: &Header) -> bool {
        let place = header.queue.0 as usize;
        let Some(Some(handle)) = self.handles.get_mut(place) else { return false };
        let (offset, total) = halves(header.aux);
        let length = header.body_length as usize;
        let more = header.flags & flags::MORE != 0;
        if more != (offset + length < total) || offset + length > total || (more && length == 0) {
            return false;
        }
        if offset > 0 {
            return handle.incoming.as_ref().is_some_and(|incoming| {
                incoming.owner == owner_in(header)
                    && incoming.sequence == header.sequence
                    && incoming.id == header.message
                    && incoming.total == total
                    && incoming.is_backfill == is_backfill(header)
                    && incoming.received == offset
            });
        }
        self.abort_incoming(shared, place);
        let room = self.room_for(shared, header, total);
        let Header { sequence, message: id, .. } = *header;
        let owner = owner_in(header);
        let (is_backfill, received, checksum) = (is_backfill(header), 0, 0);
        let incoming =
            Incoming { owner, sequence, id, total, is_backfill, received, checksum, room };
        if let Some(Some(handle)) = self.handles.get_mut(place) {
            handle.incoming = Some(incoming);
        }
        true
    }

    /// Bytes of the part that is arriving.
    pub(super) fn fill_incoming(&mut self, shared: &mut Shared, handle: QueueHandle, bytes: &[u8]) {
        let Some(Some(handle)) = self.handles.get_mut(handle.0 as usize) else { return };
        let Some(Incoming { room: Room::Reserved(reservation), .. }) = &mut handle.incoming else {
            return;
        };
        // The queue may have been dropped since; then the room is not ours any more.
        if let Some((_, arena)) = shared.table.get(handle.queue) {
            arena.fill(reservation, bytes);
        }
    }

    /// Where the next bytes of the part that is arriving go, if they go anywhere.
    pub(super) fn incoming_room<'a>(
        &mut self,
        shared: &'a mut Shared,
        handle: QueueHandle,
    ) -> Option<&'a mut [u8]> {
        let handle = self.handles.get(handle.0 as usize)?.as_ref()?;
        let incoming = handle.incoming.as_ref()?;
        let Room::Reserved(reservation) = &incoming.room else { return None };
        let (_, arena) = shared.table.get(handle.queue)?;
        Some(arena.writable(reservation))
    }

    /// So many bytes were put there.
    pub(super) fn advance_incoming(
        &mut self,
        shared: &mut Shared,
        handle: QueueHandle,
        count: usize,
    ) {
        let Some(Some(handle)) = self.handles.get_mut(handle.0 as usize) else { return };
        let Some(Incoming { room: Room::Reserved(reservation), .. }) = &mut handle.incoming else {
            return;
        };
        if let Some((_, arena)) = shared.table.get(handle.queue) {
            arena.advance(reservation, count);
        }
    }

    /// A part is complete and its checksum right.
    pub(super) fn end_part(&mut self, shared: &mut Shared, header: &Header) {
        let place = header.queue.0 as usize;
        let Some(Some(handle)) = self.handles.get_mut(place) else { return };
        let Some(incoming) = &mut handle.incoming else { return };
        let length = header.body_length as usize;
        incoming.checksum = match incoming.received {
            0 => header.body_checksum,
            _ => checksum_combine(incoming.checksum, header.body_checksum, length),
        };
        incoming.received += length;
        if header.flags & flags::MORE == 0 {
            let incoming = handle.incoming.take().expect("just seen");
            self.end_incoming(shared, header, incoming);
        }
    }

    /// Gives back the room of a message that will not be complete.
    pub(super) fn abort_incoming(&mut self, shared: &mut Shared, place: usize) {
        let Some(Some(handle)) = self.handles.get_mut(place) else { return };
        if let Some(Incoming { room: Room::Reserved(reservation), .. }) = handle.incoming.take()
            && let Some((queue, arena)) = shared.table.get(handle.queue)
        {
            queue.abort(arena, reservation);
        }
    }

    /// Room for a message that begins to arrive.
    fn room_for(&mut self, shared: &mut Shared, header: &Header, total: usize) -> Room {
        let Some(Some(handle)) = self.handles.get(header.queue.0 as usize) else {
            return Room::Skipped;
        };
        let Some((queue, arena)) = shared.table.get(handle.queue) else { return Room::Skipped };
        if queue.admit(header) != Admission::Next {
            return Room::Skipped;
        }
        if total > shared.limits.message_size_bytes_max as usize {
            return Room::Refused(Status::TooLarge);
        }
        match queue.reserve(arena, header, total) {
            Ok(reservation) => Room::Reserved(reservation),
            Err(status) => Room::Refused(status),
        }
    }

    /// The last part is complete: only now is the message applied, if it still is the next.
    fn end_incoming(&mut self, shared: &mut Shared, header: &Header, incoming: Incoming) {
        let Some(Some(handle)) = self.handles.get(header.queue.0 as usize) else { return };
        let Some((queue, arena)) = shared.table.get(handle.queue) else {
            return self.refuse(shared, header, Status::UnknownQueue);
        };
        let admission = queue.admit(header);
        let result = match (admission, incoming.room) {
            (Admission::Next, Room::Reserved(reservation)) => {
                let Incoming { total, checksum, .. } = incoming;
                let result = queue.commit(arena, header, reservation, total, checksum);
                queue.settle(header, result);
                result
            }
            (Admission::Next, Room::Refused(status)) => {
                queue.settle(header, Err(status));
                Err(status)
            }
            // What went before it has come by another connection meanwhile.
            (Admission::Next, Room::Skipped) => Err(Status::SequenceGap),
            (Admission::Settled(status) | Admission::Refused(status), room) => {
                if let Room::Reserved(reservation) = room {
                    queue.abort(arena, reservation);
                }
                if let Admission::Settled(_) = admission {
                    shared.counters.count(Counter::Repeats);
                }
                if status == Status::Ok {
                    return self.acknowledge(shared, header, 1);
                }
                Err(status)
            }
        };
        match result {
            Ok(()) => {
                shared.counters.count(Counter::Stores);
                self.acknowledge(shared, header, 1);
            }
            Err(status) => self.refuse(shared, header, status),
        }
    }
}

fn is_backfill(header: &Header) -> bool {
    header.flags & flags::BACKFILL != 0
}

/// As whom a request is made.
pub(super) fn owner_in(header: &Header) -> (Epoch, Generation) {
    (header.epoch, Generation(header.generation_or_status))
}

/// Upper and lower 32 bits.
pub(super) fn halves(bits: u64) -> (usize, usize) {
    let lower = bits & u64::from(u32::MAX);
    let size = |half| usize::try_from(half).expect("half of 64 bits");
    (size(bits >> 32), size(lower))
}

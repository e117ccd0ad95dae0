//! Block gets: messages are sent as the output drains, so that a read of any length takes bounded
//! memory and holds nobody up.

use std::collections::VecDeque;

use kvs_proto::body::Counter;
use kvs_proto::{Epoch, Header, MessageId, Op, PART_SIZE_BYTES_MAX, StateVersion, Status, flags};

use super::output::Output;
use super::{Session, Shared};
use crate::arena::{Arena, Cursor, Place};
use crate::table::QueueRef;

/// The reads of one connection, served one after the other.
#[derive(Debug, Default)]
pub(super) struct Reads(VecDeque<Read>);

#[derive(Debug)]
struct Read {
    request: Header,
    queue: QueueRef,
    cursor: Cursor,
    count_left: usize,
    bytes_left: usize,
    sent: u64,
    /// A message of which parts were sent.
    long: Option<Long>,
}

/// A message on its way in parts.
#[derive(Clone, Copy, Debug)]
struct Long {
    /// As in the first part.
    header: Header,
    /// The next part's.
    offset: usize,
}

/// What one step of a read came to.
enum Step {
    /// Something was sent.
    Sent,
    /// The read is over, with that last frame.
    Done(Header),
}

impl Reads {
    /// Adds a read; false if there are too many.
    pub(super) fn begin(
        &mut self,
        request: &Header,
        queue: QueueRef,
        count_max: usize,
        bytes_max: usize,
    ) -> bool {
        if self.0.len() == READS_MAX {
            return false;
        }
        self.0.push_back(Read {
            request: *request,
            queue,
            cursor: Cursor::behind(request.message),
            count_left: count_max,
            bytes_left: bytes_max,
            sent: 0,
            long: None,
        });
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Session {
    /// Sends messages until enough is on its way.
    pub(super) fn pump_reads(&mut self, shared: &mut Shared) {
        while self.output.pending().len() < PUMPED_SIZE_BYTES
            && let Some(read) = self.reads.0.front_mut()
        {
            if let Step::Done(header) = read.step(&mut self.output, shared) {
                self.reads.0.pop_front();
                self.answer(shared, header, &[]);
            }
        }
    }
}

impl Read {
    /// Sends the next message, or the next part of one.
    fn step(&mut self, output: &mut Output, shared: &mut Shared) -> Step {
        let Some((queue, arena)) = shared.table.get(self.queue) else {
            return Step::Done(self.refused(Status::UnknownQueue, Epoch(0)));
        };
        // Whoever takes the queue over while it is read must not compete with its old reader.
        if let Err(status) = queue.check_owner(&self.request) {
            return Step::Done(self.refused(status, queue.epoch()));
        }
        if let Some(long) = self.long {
            let place = queue.find(arena, self.cursor.id());
            self.sent -= u64::from(place.is_none());
            self.long = send_part(output, arena, place, long);
            return Step::Sent;
        }
        let next = queue.next(arena, &self.cursor);
        let Some(place) = next else { return Step::Done(self.end(true)) };
        let length = arena.record(place).length as usize;
        let enough = self.count_left == 0 || (self.sent > 0 && length > self.bytes_left);
        if enough {
            return Step::Done(self.end(false));
        }
        self.cursor = arena.cursor(place);
        self.count_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(length);
        self.sent += 1;
        self.long = send_item(output, arena, place, &self.request);
        shared.counters.count(Counter::Items);
        Step::Sent
    }

    fn end(&self, finished: bool) -> Header {
        Header {
            queue: self.request.queue,
            sequence: self.request.sequence,
            epoch: self.request.epoch,
            aux: self.sent,
            message: self.cursor.id(),
            floor: u64::from(finished),
            ..Header::new(Op::BlockEnd)
        }
    }

    fn refused(&self, status: Status, epoch: Epoch) -> Header {
        Header {
            queue: self.request.queue,
            sequence: self.request.sequence,
            epoch,
            generation_or_status: status as u32,
            message: MessageId(Op::BlockGet as u64),
            ..Header::new(Op::Refused)
        }
    }
}

/// Sends a message, or its first part; returns what is left.
fn send_item(output: &mut Output, arena: &Arena, place: Place, request: &Header) -> Option<Long> {
    let record = arena.record(place);
    let (version, state) = arena.state(place).unwrap_or((StateVersion(0), &[]));
    let total = state.len() + record.length as usize;
    let header = Header {
        queue: request.queue,
        sequence: request.sequence,
        aux: total as u64,
        message: record.id,
        floor: u64::from(version.0) << 32 | state.len() as u64,
        ..Header::new(Op::Item)
    };
    if total > PART_SIZE_BYTES_MAX {
        return send_part(output, arena, Some(place), Long { header, offset: 0 });
    }
    let known = (!record.has_state).then_some(record.checksum);
    output.push_with(header, known, |out| {
        out.extend_from_slice(state);
        arena.read(place, 0, record.length as usize, out);
    });
    None
}

/// Sends a part of a message; returns what is left. `place` is `None` if the message was removed
/// since the part before.
fn send_part(output: &mut Output, arena: &Arena, place: Option<Place>, long: Long) -> Option<Long> {
    let Long { mut header, offset } = long;
    header.aux |= (offset as u64) << 32;
    let Some(place) = place else {
        header.flags = flags::WITHDRAWN;
        output.push(header, &[]);
        return None;
    };
    let total = usize::try_from(long.header.aux).expect("below MESSAGE_SIZE_BYTES_MAX");
    let end = total.min(offset + PART_SIZE_BYTES_MAX);
    let more = end < total;
    header.flags = if more { flags::MORE } else { 0 };
    let state_length = usize::try_from(header.floor & 0xffff_ffff).expect("a state record's");
    output.push_with(header, None, |out| {
        if offset == 0 {
            let (_, state) = arena.state(place).unwrap_or((StateVersion(0), &[]));
            out.extend_from_slice(state);
            arena.read(place, 0, end - state_length, out);
        } else {
            arena.read(place, offset - state_length, end - offset, out);
        }
    });
    more.then_some(Long { offset: end, ..long })
}

/// Most reads of a connection at a time; one more is refused with `TooLarge`. A thousand queues
/// may be recovered at once over one connection.
const READS_MAX: usize = 4096;

/// Reads go on while fewer bytes than this wait to be sent.
const PUMPED_SIZE_BYTES: usize = 256 * 1024;

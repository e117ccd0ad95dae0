//! What a client has to send, in the order in which it goes out.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::{
    HEADER_SIZE_BYTES, Header, Message, Op, PART_SIZE_BYTES_MAX, QueueHandle, Version, flags,
};

/// Frames on their way out.
///
/// Headers and short bodies are copied into one run of bytes, longer bodies are kept by reference.
/// A message in several parts becomes a *stream*: its parts are cut one at a time when little else
/// is left, in turn with the streams of other queues, and whatever the same queue asks for later
/// waits behind it. Deletes that continue one another become one frame, as long as nothing else comes
/// between them and they have not begun to go out.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// What frames are written in.
    version: Version,
    /// Copied bytes; those before `copied_start` are gone.
    copied: Vec<u8>,
    copied_start: usize,
    segments: VecDeque<Segment>,
    /// Bytes in `segments`.
    ready_bytes: usize,
    /// A frame behind `segments` that the next Delete may continue.
    deletes: Option<Header>,
    /// Not empty each; at most one per queue.
    streams: VecDeque<Stream>,
    /// Bytes in `streams`, with one header for each entry: a Delete that is all that waits is bytes to send, too.
    stream_bytes: usize,
}

#[derive(Debug)]
enum Segment {
    /// So many of the copied bytes.
    Copied(usize),
    /// A body, or a part of one.
    Shared(Bytes),
}

#[derive(Debug)]
struct Stream {
    queue: QueueHandle,
    pending: VecDeque<Pending>,
}

#[derive(Debug)]
enum Pending {
    /// A frame with all of its body.
    Frame { header: Header, body: Message },
    /// A message of which the parts from `offset` on are to be sent.
    Parts { header: Header, body: Message, offset: usize },
}

impl Outbox {
    /// Empty, for frames of that version.
    pub(crate) fn new(version: Version) -> Outbox {
        Outbox {
            version,
            copied: Vec::new(),
            copied_start: 0,
            segments: VecDeque::new(),
            ready_bytes: 0,
            deletes: None,
            streams: VecDeque::new(),
            stream_bytes: 0,
        }
    }

    /// From here on frames are written in that version. Those that wait already stay as they are, but for
    /// the parts of long messages.
    pub(crate) fn set_version(&mut self, version: Version) {
        self.close_deletes();
        self.version = version;
    }

    /// What frames are written in.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Bytes waiting.
    pub(crate) fn bytes(&self) -> usize {
        let deletes = if self.deletes.is_some() { HEADER_SIZE_BYTES } else { 0 };
        self.ready_bytes + deletes + self.stream_bytes
    }

    /// Queues a frame that belongs to no queue or must not wait: it goes before streams.
    pub(crate) fn push_control(&mut self, mut header: Header, body: &[u8]) {
        header.body_length = u32::try_from(body.len()).expect("control bodies are short");
        header.body_checksum = if body.is_empty() { 0 } else { crate::checksum(body) };
        self.copy_header(header);
        self.copy(body);
    }

    /// Queues a frame of a queue, behind what that queue asked for before.
    #[inline]
    pub(crate) fn push(&mut self, header: Header, body: &Message) {
        if self.streams.is_empty() && body.len() <= PART_SIZE_BYTES_MAX {
            if header.op == Op::Delete && self.version >= Version::V3 {
                return self.push_delete(header);
            }
            return self.push_frame(header, body);
        }
        self.push_behind_streams(header, body);
    }

    /// Fills `slices` with the next bytes to send, and says how many slices it filled.
    pub(crate) fn peek<'a>(&'a mut self, slices: &mut [&'a [u8]]) -> usize {
        self.close_deletes();
        self.cut_parts();
        let mut at = self.copied_start;
        let mut filled = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = match segment {
                Segment::Copied(length) => {
                    at += length;
                    &self.copied[at - length..at]
                }
                Segment::Shared(bytes) => bytes,
            };
            filled += 1;
        }
        filled
    }

    /// Forgets the first `count` bytes, which were sent.
    pub(crate) fn advance(&mut self, mut count: usize) {
        assert!(count <= self.ready_bytes, "more was sent than there was");
        self.ready_bytes -= count;
        while count > 0 {
            let segment = self.segments.front_mut().expect("ready_bytes counts segments");
            let length = match segment {
                Segment::Copied(length) => *length,
                Segment::Shared(bytes) => bytes.len(),
            };
            let taken = length.min(count);
            count -= taken;
            match segment {
                Segment::Copied(left) => {
                    *left -= taken;
                    self.copied_start += taken;
                }
                Segment::Shared(bytes) => *bytes = bytes.slice(taken..),
            }
            if taken == length {
                self.segments.pop_front();
            }
        }
        self.forget_copied();
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Outbox::new(self.version);
    }

    /// A Delete continues the frame of those before it, or begins one.
    #[inline]
    fn push_delete(&mut self, header: Header) {
        if let Some(deletes) = self.deletes.as_mut().filter(|before| goes_on(before, &header)) {
            deletes.aux += 1;
            return;
        }
        self.close_deletes();
        self.deletes = Some(header);
    }

    /// No further Delete joins those that wait to be written.
    #[inline]
    fn close_deletes(&mut self) {
        if let Some(header) = self.deletes.take() {
            self.write_header(header);
        }
    }

    #[cold]
    fn push_behind_streams(&mut self, header: Header, body: &Message) {
        let stream = self.streams.iter_mut().find(|stream| stream.queue == header.queue);
        let one_part = body.len() <= PART_SIZE_BYTES_MAX;
        let body = body.clone();
        if stream.is_none() && one_part {
            return self.push_frame(header, &body);
        }
        self.stream_bytes += HEADER_SIZE_BYTES + body.len();
        let pending = if one_part {
            Pending::Frame { header, body }
        } else {
            Pending::Parts { header, body, offset: 0 }
        };
        match stream {
            Some(stream) => stream.pending.push_back(pending),
            None => {
                let pending = VecDeque::from([pending]);
                self.streams.push_back(Stream { queue: header.queue, pending });
            }
        }
    }

    /// Moves one frame of each stream in turn until enough is ready.
    fn cut_parts(&mut self) {
        while self.ready_bytes < READY_BYTES_LOW {
            let Some(mut stream) = self.streams.pop_front() else { return };
            let pending = stream.pending.pop_front().expect("streams are not empty");
            if let Some(rest) = self.cut(pending) {
                stream.pending.push_front(rest);
            }
            if !stream.pending.is_empty() {
                self.streams.push_back(stream);
            }
        }
    }

    /// Queues one frame; returns what is left.
    fn cut(&mut self, pending: Pending) -> Option<Pending> {
        match pending {
            Pending::Frame { header, body } => {
                self.stream_bytes -= HEADER_SIZE_BYTES + body.len();
                self.push_frame(header, &body);
                None
            }
            Pending::Parts { header, body, offset } => {
                let end = body.part_end(offset);
                self.stream_bytes -= end - offset;
                self.push_part(header, &body, offset, end);
                if end < body.len() {
                    return Some(Pending::Parts { header, body, offset: end });
                }
                self.stream_bytes -= HEADER_SIZE_BYTES;
                None
            }
        }
    }

    /// A frame with all of `body`, which fits.
    fn push_frame(&mut self, mut header: Header, body: &Message) {
        header.body_length = body.total();
        header.body_checksum = body.part_checksum(0);
        self.copy_header(header);
        let (head, content) = body.whole();
        self.push_body(head);
        self.push_body(content);
    }

    /// The part `offset..end` of a longer message.
    fn push_part(&mut self, mut header: Header, body: &Message, offset: usize, end: usize) {
        header.flags |= if end < body.len() { flags::MORE } else { 0 };
        header.body_length = u32::try_from(end - offset).expect("at most PART_SIZE_BYTES_MAX");
        header.body_checksum = body.part_checksum(offset);
        header.aux |= (offset as u64) << 32;
        self.copy_header(header);
        let (head, content) = body.slices(offset, end);
        self.push_body(&head);
        self.push_body(&content);
    }

    fn push_body(&mut self, body: &Bytes) {
        if body.len() <= COPIED_SIZE_BYTES_MAX {
            return self.copy(body);
        }
        self.ready_bytes += body.len();
        self.segments.push_back(Segment::Shared(body.clone()));
    }

    #[inline]
    fn copy_header(&mut self, header: Header) {
        self.close_deletes();
        self.write_header(header);
    }

    #[inline]
    fn write_header(&mut self, header: Header) {
        self.copy(&Header { version: self.version, ..header }.encode());
    }

    #[inline]
    fn copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.copied.extend_from_slice(bytes);
        self.ready_bytes += bytes.len();
        match self.segments.back_mut() {
            Some(Segment::Copied(length)) => *length += bytes.len(),
            _ => self.segments.push_back(Segment::Copied(bytes.len())),
        }
    }

    /// Gives the room of sent bytes back, moving each byte at most once.
    fn forget_copied(&mut self) {
        if self.copied_start == self.copied.len() {
            self.copied.clear();
            self.copied_start = 0;
        } else if self.copied_start > self.copied.len() / 2 {
            self.copied.drain(..self.copied_start);
            self.copied_start = 0;
        }
    }
}

/// Whether a Delete is of the message behind those of that frame, by the next number, and the frame takes one more.
#[inline]
fn goes_on(before: &Header, delete: &Header) -> bool {
    let longer = Header { aux: before.aux + 1, ..*before };
    longer.delete_count().is_some()
        && Header { floor: delete.floor, ..longer.delete_at(longer.aux) } == *delete
}

/// A body up to this length is copied behind its header: a slice of its own would cost the kernel
/// more than the copy.
const COPIED_SIZE_BYTES_MAX: usize = 1024;

/// When fewer bytes than this are ready, the next part of a stream is cut. Small, as a heart-beat
/// goes behind what is ready.
const READY_BYTES_LOW: usize = 2 * PART_SIZE_BYTES_MAX;

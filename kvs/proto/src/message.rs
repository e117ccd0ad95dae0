//! A message as it is sent: shared bytes whose checksums are computed once for all copies.

use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::{
    BodyDigest, MESSAGE_SIZE_BYTES_MAX, PART_SIZE_BYTES_MAX, body_digest, checksum,
    checksum_append, checksum_combine,
};

/// The body of a `Store`: two runs of shared bytes, one after the other, with their checksums.
///
/// Two, so that a caller can put a head of its own before content that other queues share. Cloning
/// shares everything.
#[derive(Clone, Debug)]
pub struct Message {
    head: Bytes,
    content: Bytes,
    checksum: u32,
    /// The checksum of each part of `PART_SIZE_BYTES_MAX` bytes (the last is shorter); `None` if
    /// there is but one part.
    parts: Option<Arc<[u32]>>,
}

/// Nothing: the body of requests that have none.
pub(crate) static EMPTY: Message =
    Message { head: Bytes::new(), content: Bytes::new(), checksum: 0, parts: None };

impl Message {
    /// Takes the bytes and computes the checksums.
    ///
    /// Stops the process above [`MESSAGE_SIZE_BYTES_MAX`]: whoever accepts mail has a bound of its
    /// own, below.
    pub fn new(head: Bytes, content: Bytes) -> Message {
        let length = head.len() + content.len();
        assert!(length <= MESSAGE_SIZE_BYTES_MAX, "a message of {length} bytes was accepted");
        let mut message = Message { head, content, checksum: 0, parts: None };
        if length <= PART_SIZE_BYTES_MAX {
            message.checksum = checksum_append(checksum(&message.head), &message.content);
            return message;
        }
        let mut parts = Vec::with_capacity(length.div_ceil(PART_SIZE_BYTES_MAX));
        for start in (0..length).step_by(PART_SIZE_BYTES_MAX) {
            let end = length.min(start + PART_SIZE_BYTES_MAX);
            let (head, content) = message.slices(start, end);
            let sum = checksum_append(checksum(&head), &content);
            parts.push(sum);
            message.checksum = checksum_combine(message.checksum, sum, end - start);
        }
        message.parts = Some(parts.into());
        message
    }

    /// Bytes of head and content.
    pub fn len(&self) -> usize {
        self.head.len() + self.content.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What stands for the body in chain and content digest.
    pub fn digest(&self) -> BodyDigest {
        body_digest(self.total(), self.checksum)
    }

    /// The length as it travels.
    pub(crate) fn total(&self) -> u32 {
        u32::try_from(self.len()).expect("at most MESSAGE_SIZE_BYTES_MAX")
    }

    /// Where the part that begins at `start` ends.
    pub(crate) fn part_end(&self, start: usize) -> usize {
        self.len().min(start + PART_SIZE_BYTES_MAX)
    }

    /// The checksum of the part that begins at `start`, a multiple of `PART_SIZE_BYTES_MAX`.
    pub(crate) fn part_checksum(&self, start: usize) -> u32 {
        match &self.parts {
            None => self.checksum,
            Some(parts) => parts[start / PART_SIZE_BYTES_MAX],
        }
    }

    /// All of it: the head and the content.
    pub fn whole(&self) -> (&Bytes, &Bytes) {
        (&self.head, &self.content)
    }

    /// The bytes `start..end` as slices of head and content, either of which may be empty.
    pub(crate) fn slices(&self, start: usize, end: usize) -> (Bytes, Bytes) {
        let border = self.head.len();
        let head = self.head.slice(start.min(border)..end.min(border));
        let content = self.content.slice(start.max(border) - border..end.max(border) - border);
        (head, content)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn the_digest_is_that_of_head_and_content_together_whatever_the_parts() {
        for (head, content) in [(0, 0), (10, 20), (0, 65_536), (1, 65_536), (100, 200_000)] {
            let head = vec![1u8; head];
            let content: Vec<u8> = (0..content).map(|n: usize| n.to_le_bytes()[0]).collect();
            let whole = [&head[..], &content[..]].concat();
            let message = Message::new(head.into(), content.into());
            let length = u32::try_from(whole.len()).expect("short");
            assert_eq!(message.digest(), body_digest(length, checksum(&whole)));
            let mut start = 0;
            while start < whole.len() {
                let end = message.part_end(start);
                let (first, second) = message.slices(start, end);
                assert_eq!([&first[..], &second[..]].concat(), &whole[start..end]);
                assert_eq!(message.part_checksum(start), checksum(&whole[start..end]));
                start = end;
            }
        }
    }
}

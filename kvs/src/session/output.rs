//! Bytes on their way to the client.

use kvs_proto::{HEADER_SIZE_BYTES, Header, Version, checksum};

/// Frames to send, in one run of bytes.
#[derive(Debug)]
pub(super) struct Output {
    /// What frames are written in.
    version: Version,
    bytes: Vec<u8>,
    /// Those before were sent.
    start: usize,
}

impl Output {
    /// Empty, for frames of that version.
    pub(super) fn new(version: Version) -> Output {
        Output { version, bytes: Vec::new(), start: 0 }
    }

    /// What frames are written in.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// From here on frames are written in that version.
    pub(super) fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// What is to be sent.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Forgets what was sent.
    pub(super) fn advance(&mut self, count: usize) {
        self.start += count;
        assert!(self.start <= self.bytes.len(), "more was sent than there was");
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
            self.bytes.shrink_to(KEPT_SIZE_BYTES);
        } else if self.start > self.bytes.len() / 2 && self.start > KEPT_SIZE_BYTES {
            // No more bytes move than were sent, and none where all will soon be sent.
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Adds a frame.
    pub(super) fn push(&mut self, mut header: Header, body: &[u8]) {
        if !body.is_empty() {
            header.body_length = u32::try_from(body.len()).expect("at most PART_SIZE_BYTES_MAX");
            header.body_checksum = checksum(body);
        }
        header.version = self.version;
        self.bytes.extend_from_slice(&header.encode());
        self.bytes.extend_from_slice(body);
    }

    /// Adds a frame whose body `write` appends. Its checksum is `known`, or computed.
    pub(super) fn push_with(
        &mut self,
        mut header: Header,
        known: Option<u32>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER_SIZE_BYTES]);
        write(&mut self.bytes);
        let (head, body) = self.bytes[start..].split_at_mut(HEADER_SIZE_BYTES);
        header.body_length = u32::try_from(body.len()).expect("at most PART_SIZE_BYTES_MAX");
        if !body.is_empty() {
            header.body_checksum = known.unwrap_or_else(|| checksum(body));
        }
        header.version = self.version;
        head.copy_from_slice(&header.encode());
    }
}

/// Memory that an idle connection keeps.
const KEPT_SIZE_BYTES: usize = 512 * 1024;

//! The protocol between a gateway and its backup queue servers (KVS): frames, requests, replies,
//! ids and errors, and the state machine of the client's end. No IO, no clock, no randomness.
//!
//! The bytes are described in `docs/protocol.md`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod header;
mod ids;

pub use header::{
    HEADER_SIZE_BYTES, Header, HeaderError, Op, PART_SIZE_BYTES_MAX, Status, Version, flags,
};
pub use ids::{Epoch, Generation, Incarnation, MessageId, QueueHandle, Sequence, Transaction};

//! The protocol between a gateway and its backup queue servers (KVS): frames, requests, replies,
//! ids and errors, and the state machine of the client's end. No IO, no clock, no randomness.
//!
//! * [`Header`] is the fixed start of every frame, [`Decoder`] cuts a stream into frames.
//! * [`body`] has the bodies of the ops that have one, besides messages.
//! * [`auth`] is the mutual proof of a shared secret.
//! * [`checksum`], [`chain`] and [`content_term`] are what copies are compared by.
//! * [`Client`] is the client's end of one link.
//!
//! The bytes are described in `docs/protocol.md`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod auth;
pub mod body;
mod client;
mod decoder;
mod digest;
mod event;
mod header;
mod ids;
mod message;
mod outbox;
mod time;

pub use client::{Client, ClientConfig};
pub use decoder::{DecodeError, Decoder, Piece};
pub use digest::{
    body_digest, chain, checksum, checksum_append, checksum_combine, content_term, state_digest,
};
pub use event::{Event, Item, ProtocolError, QueueSummary, Refusal};
pub use header::{
    DELETES_PER_FRAME_MAX, Glimpse, HEADER_SIZE_BYTES, Header, HeaderError, Op,
    PART_SIZE_BYTES_MAX, Status, Version, flags,
};
pub use ids::{
    BodyDigest, ChainHash, ContentDigest, Credit, Epoch, Generation, Incarnation, MessageId,
    QueueHandle, Sequence, StateDigest, StateVersion, Tag, Transaction,
};
pub use message::Message;
pub use time::Instant;

/// Most bytes of a state record; a longer one is refused with [`Status::TooLarge`].
pub const STATE_SIZE_BYTES_MAX: usize = 496;

/// Most bytes of a message that the protocol carries. A server's own bound (see
/// [`body::Limits`]) is at most this.
pub const MESSAGE_SIZE_BYTES_MAX: usize = 256 * 1024 * 1024;

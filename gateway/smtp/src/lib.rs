//! SMTP as a protocol: server and client sessions without IO.
//!
//! * [`ServerSession`] is reception: bytes in, typed events out, verdicts back, replies out.
//! * [`ClientSession`] is delivery: transactions in, bytes out, replies in, outcomes out.
//! * [`Decoder`] and [`Outgoing`] are the two directions of mail data (RFC 5321 §4.5.2).
//! * [`ForwardPath`] and [`ReversePath`] are addresses that have been checked.
//!
//! Nothing here owns a socket, a clock or a thread. Extensions that are spoken: PIPELINING
//! (RFC 2920), SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), DSN (RFC 3461),
//! MT-PRIORITY (RFC 6710), LIMITS (RFC 9422), ENHANCEDSTATUSCODES (RFC 2034). The server also
//! takes CHUNKING (RFC 3030), the client also speaks LMTP (RFC 2033).

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod client;
mod command;
mod content;
mod esmtp;
mod header;
mod output;
mod path;
mod reply;
mod server;
mod xtext;

pub use client::{
    Capabilities, ClientEvent, ClientOptions, ClientSession, Finished, Limits, LossReason, NewMail,
    NewRecipient, Protocol, RecipientResult, Results, Waiting,
};
pub use content::{BareNewlines, ContentErrors, ContentSummary, Decoder, Framing};
pub use esmtp::{MailParameters, Notify, RecipientParameters, Return};
pub use header::count_trace_fields;
pub use output::Outgoing;
pub use path::{ForwardPath, HelloName, PathError, ReversePath};
pub use reply::{
    EnhancedCode, MalformedReply, REPLY_LINE_MAX, REPLY_LINES_MAX, REPLY_TEXT_MAX, Refusal, Reply,
    ReplyLine, ReplyLines,
};
pub use server::{
    COMMAND_LINE_MAX, IllegalPipelining, LIMIT_MAX, OUTPUT_KEPT, OUTPUT_LEN_MAX, ServerEvent,
    ServerLimits, ServerSession, SessionRules,
};
pub use xtext::{
    OriginalRecipient, decode_utf8_addr_xtext, decode_xtext, encode_utf8_addr_xtext, encode_xtext,
};

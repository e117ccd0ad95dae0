//! Load, sinks, measurements and the ledger.
//!
//! * [`content`] makes real mail from a seed, [`identity`] tells who a received mail is.
//!
//! Nothing here is shared with the gateway: its parsing of SMTP and of mail is its own.

#![forbid(unsafe_code)]

pub mod compare;
pub mod content;
pub mod cores;
mod corpus;
pub mod cpu_tree;
pub mod crowd;
pub mod data;
pub mod digest;
pub mod dsn;
pub mod host;
pub mod identity;
pub mod kvs;
pub mod ledger;
pub mod report;
pub mod sink;
pub mod smtp;
pub mod store;
pub mod watch;

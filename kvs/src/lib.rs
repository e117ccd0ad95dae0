//! The backup queue server.
//!
//! * [`arena`] is the memory: records in order, found by queue and id.
//! * [`queue`] is one backup queue: who owns it, which changes it has seen.
//! * [`table`] has the queues of one worker, [`directory`] knows which worker has which.
//! * [`session`] is the server's end of one connection.
//! * [`worker`] drives all of it over a transport; [`server`] runs workers on threads over kernel
//!   TCP, as [`settings`] say.

#![deny(unsafe_code)]

pub mod arena;
pub mod counters;
pub mod directory;
pub mod queue;
mod results;
pub mod server;
pub mod session;
pub mod settings;
pub mod table;
pub mod worker;

pub use results::IN_FLIGHT_MAX;

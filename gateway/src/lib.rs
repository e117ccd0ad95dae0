//! The mail gateway: reception, admission, queues, replication and delivery.
//!
//! * [`message`] is what is queued.
//! * [`board`] is what reception may promise: budgets and switches, shared by all threads.
//! * [`api`] is all that passes between the SMTP side and the queues.

pub mod api;
pub mod board;
pub mod message;

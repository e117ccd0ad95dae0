//! Replication: copies of each queue at two backup queue servers, and what makes them agree.
//!
//! * [`request`] is what a copy is asked for and what it answers, as data.
//! * [`copy`] follows one copy of one queue.
//! * [`cohort`] owns queues that share a record in the register: who owns them, which copies count.
//! * [`placement`] says which servers may back a queue up together.
//! * [`pace`] bounds how fast copies are filled.
//! * [`record`] is that record; [`register`](crate::register) keeps it.

pub mod cohort;
pub mod copy;
pub mod pace;
pub mod placement;
pub mod record;
pub mod request;

//! The mail gateway: reception, admission, queues, replication and delivery.
//!
//! * [`message`] is what is queued.
//! * [`board`] is what reception may promise: budgets and switches, shared by all threads.
//! * [`clients`] is what each client may still do, [`rate`] the token buckets for that.
//! * [`front`] is the SMTP side: reception and delivery.
//! * [`api`] is all that passes between the SMTP side and the queues.
//! * [`queue`] is one in-order queue, [`replication`] its copies at the backup queue servers.
//! * [`link`] is the connection to such a server, [`bypass`] the NIC queues of ours that links go by.
//! * [`shard`] ties queues, cohorts and links together on one thread.
//! * [`register`] keeps the records of ownership.
//! * [`turn`] is one turn of that work; [`worker`] is a thread around it, [`gateway`] all of them,
//!   made from their [`settings`]; [`reload`] gives them other ones while they run.
//! * [`take_over`] is the sender program, which delivers what another gateway has left.
//! * [`status`] is what the operator sees of all that.

pub mod api;
pub mod board;
pub mod bypass;
pub mod clients;
pub mod front;
pub mod gateway;
pub mod link;
pub mod message;
pub mod queue;
pub mod rate;
pub mod register;
pub mod reload;
pub mod replication;
pub mod settings;
pub mod shard;
pub mod status;
pub mod take_over;
pub mod turn;
pub mod worker;

//! The whole system on one thread, in virtual time: clients, a gateway, two or three backup queue servers, a
//! next hop, and the network between them, with faults. One seed decides everything, so that a run
//! can be repeated bit for bit.
//!
//! What runs is the production code; only the network, the clock, the register's disk and the
//! processes around it are simulated.
//!
//! * [`scenario`] is what is drawn from the seed: how the system is set up and who sends what.
//! * [`plan`] is what goes wrong, and when.
//! * [`world`] has the hosts, and moves time.
//! * [`gateway_host`], [`kvs_host`] and [`register`] are processes that crash and return, [`gateways`] those of
//!   one name.
//! * [`transport`] is TCP of the processes: streams, or userspace TCP over a simulated Ethernet.
//! * [`dialogue`] reads what gateways send and take by SMTP.
//! * [`check`] compares copies and budgets, while the world runs and at its end.
//! * [`invariants`] looks after each step whether what must always hold does.
//! * `joining` compares copies that are being filled.
//! * [`watch`] watches links with two paths.
//! * [`run`] is one run from start to verdict, and [`report`] what is known of it then.
//! * [`tally`] is what many runs come to.
//! * [`sabotage`] breaks the system on purpose, to prove that the checks would see it.
//! * [`model`] looks at every order of what can happen to one queue, up to a bound.
//! * [`chronicle`] keeps the last things that happened, for reading.

#![forbid(unsafe_code)]

pub mod check;
pub mod chronicle;
pub mod dialogue;
pub mod gateway_host;
pub mod gateways;
pub mod invariants;
mod joining;
pub mod kvs_host;
pub mod model;
pub mod plan;
pub mod register;
pub mod report;
pub mod run;
pub mod sabotage;
pub mod scenario;
pub mod tally;
pub mod transport;
pub mod watch;
pub mod world;

//! The register: records of ownership, changed by compare and set.
//!
//! Only changes of owner or of the copies that count come here: never a mail.
//!
//! * [`file`] keeps the records in a directory, for gateways that share one machine.
//! * [`thread`] carries calls out for the workers.

pub mod file;
pub mod thread;

pub use file::FileRegister;
pub use thread::{Asker, RegisterThread};

//! The register: records of ownership, changed by compare and set.
//!
//! Only changes of owner or of the copies that count come here: never a mail. Where the records are
//! kept is an *engine*: [`file`] keeps them in a directory, for gateways that share one machine.
//! [`thread`] carries calls out for the workers, who never wait for an engine.

pub mod file;
pub mod thread;

use crate::replication::record::{RegisterAnswer, RegisterCall};

pub use file::FileRegister;
pub use thread::{Asker, RegisterThread};

/// Where records are kept.
pub trait Engine: Send {
    /// Carries out a call on the record of that key. It may take long, but not for ever: what
    /// cannot be carried out is answered [`RegisterAnswer::Failed`].
    fn call(&mut self, key: &str, call: &RegisterCall) -> RegisterAnswer;
}

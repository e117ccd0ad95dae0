//! Load on stores of others, to compare ours with: what [`kvs`](crate::kvs) does, in their languages.

mod dialect;
mod load;
mod outbox;
mod recovery;
mod resp;
mod wire;

pub use dialect::Dialect;
pub use load::{StoreConfig, StoreLoad};
pub use recovery::{ListRecovery, ListRecoveryConfig};

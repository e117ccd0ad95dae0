//! Load on a backup queue server, and the null server to compare with.

mod link;
mod load;
mod measured;
mod null;
mod recovery;

pub use link::Target;
pub use load::{KvsConfig, KvsLoad};
pub use measured::{Held, KvsMeasured};
pub use null::{NullConfig, NullServer};
pub use recovery::{BlockTime, Recovery, RecoveryConfig};

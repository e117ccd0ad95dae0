//! TCP as the rest of Hikyaku sees it: one interface, several stacks.
//!
//! * [`Transport`] is the interface. Loops are written against it and do not know which stack
//!   they run on.

mod time;
mod transport;

pub use time::Instant;
pub use transport::{
    CloseReason, ConnectionId, Event, ListenerId, OpenError, RecvError, SendError, Transport,
};

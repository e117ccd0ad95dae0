//! TCP as the rest of Hikyaku sees it: one interface, several stacks.
//!
//! * [`Transport`] is the interface. Loops are written against it and do not know which stack
//!   they run on.
//! * [`KernelTransport`] runs it over non-blocking kernel sockets.
//! * `SimTransport` (cargo feature `sim`) runs it over a simulated network, in virtual time.
//!
//! Beside them lie the few things that every worker loop needs and no state machine may touch: a
//! [`Clock`], the spin-then-sleep policy [`Idle`], [`wait_on_both`] and [`pin_current_thread`].

#![deny(unsafe_code)]

mod idle;
mod kernel;
mod pin;
#[cfg(feature = "sim")]
mod sim;
mod table;
mod time;
mod transport;

pub use idle::Idle;
pub use kernel::{Clock, KernelOptions, KernelStatistics, KernelTransport, Waker, wait_on_both};
pub use pin::{PinError, pin_current_thread};
#[cfg(feature = "sim")]
pub use sim::{SimNetwork, SimOptions, SimPath, SimStatistics, SimTransport};
pub use time::Instant;
pub use transport::{
    CloseReason, ConnectionId, Event, ListenerId, OpenError, RecvError, SendError, Transport,
};

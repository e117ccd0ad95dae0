//! TCP as the rest of Hikyaku sees it: one interface, several stacks.
//!
//! * [`Transport`] is the interface. Loops are written against it and do not know which stack
//!   they run on.
//! * [`KernelTransport`] runs it over non-blocking kernel sockets.
//! * `UserspaceTransport` (cargo feature `userspace`) runs it in this process: smoltcp over a port of the data
//!   plane. With the feature `xdp` its module `xdp` has those of real interfaces.
//! * `SimTransport` (cargo feature `sim`) runs it over a simulated network, in virtual time.
//!
//! Beside them lie the few things that every worker loop needs and no state machine may touch: a
//! [`Clock`], the spin-then-sleep policy [`Idle`], [`wait_on_both`] and [`pin_current_thread`].
//!
//! A loop that says back what it hears, until somebody says `.`:
//!
//! ```
//! use std::io::{IoSlice, Write};
//! use std::time::Duration;
//! use tcpstack::{Clock, Event, Idle, KernelOptions, KernelTransport, Transport};
//!
//! let mut transport = KernelTransport::new(KernelOptions::default())?;
//! let listener = transport.listen("127.0.0.1:0".parse()?)?;
//! let address = transport.local_address(listener).expect("just made");
//! let client = std::thread::spawn(move || {
//!     std::net::TcpStream::connect(address).and_then(|mut stream| stream.write_all(b"hello."))
//! });
//!
//! let (clock, mut idle) = (Clock::new(), Idle::new(Duration::from_micros(50)));
//! let mut open = true;
//! while open {
//!     let now = clock.now();
//!     transport.poll(now);
//!     while let Some(event) = transport.next_event() {
//!         idle.handle_work(now);
//!         if let Event::Readable(connection) = event {
//!             let heard = transport.recv(connection, |bytes| (bytes.len(), bytes.to_vec()));
//!             let heard = heard.unwrap_or_default();
//!             // A real loop keeps what was not taken, and goes on at `Writable`.
//!             let _taken = transport.send(connection, &[IoSlice::new(&heard)]);
//!             open = !heard.contains(&b'.');
//!         }
//!     }
//!     transport.flush(now);
//!     if open && idle.should_sleep(now) {
//!         transport.wait(now, None);
//!     }
//! }
//! client.join().expect("it does not panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(unsafe_code)]

mod idle;
mod kernel;
mod links;
mod pin;
#[cfg(feature = "sim")]
mod sim;
mod table;
mod time;
mod transport;
#[cfg(feature = "userspace")]
mod userspace;

#[cfg(feature = "xdp")]
pub use dataplane::xdp;
pub use idle::Idle;
pub use kernel::{
    Clock, KernelOptions, KernelStatistics, KernelTransport, Waker, raise_descriptor_limit,
    return_large_blocks, wait_on_both,
};
pub use links::{
    IS_BYPASS_BUILT, InterfaceTaken, LinkChoice, LinkInterface, LinkMode, LinkOptions, LinkQueue,
    LinkSteering, LinkTransport, LinkTuning, LinksTaken, NOT_BUILT, NicQueueCounters, OpenLinks,
    PORT_BLOCK, SEGMENTS_MAX, keep_link_privileges, nic_queues, open_links, set_link_peers,
    source_for,
};
#[cfg(feature = "userspace")]
pub use links::{LinkPort, Segment, SegmentTransport};
pub use pin::{PinError, pin_current_thread};
#[cfg(feature = "sim")]
pub use sim::{
    SimAttempts, SimNetwork, SimOptions, SimPackets, SimPath, SimPort, SimStatistics, SimTapped,
    SimTransport, SimWire,
};
pub use time::Instant;
pub use transport::{
    CloseReason, ConnectionId, Event, ListenerId, OpenError, RecvError, SendError, Transport,
};
#[cfg(feature = "userspace")]
pub use userspace::{UserspaceOptions, UserspaceStatistics, UserspaceTransport};

//! The sender program: it delivers what a gateway has left at the servers, while that gateway is away.
//!
//! It runs on the machine of a server, without reception, as the owner of the gateway's queues: everything that
//! a gateway does but for accepting mail, by the settings that the gateway has left in the register. It begins
//! when it is told to, or by itself when the queues have been without an owner for a while, and hands them back
//! when the gateway returns.
//!
//! * [`settings`] is its configuration file.
//! * [`seat`] is how a gateway and its senders agree on who is in charge, [`charge`] the gateway's part of it.
//! * [`inquiry`] asks the servers whether there is an owner, [`watch`] judges by what they say.
//! * [`sender`] is what it does for one gateway, [`program`] for all.

pub mod charge;
pub mod inquiry;
pub mod program;
pub mod seat;
pub mod sender;
pub mod settings;
pub mod watch;

use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// Something that may be asked to end, and sleeps until then.
#[derive(Debug, Default)]
pub struct Ending {
    is_asked: Mutex<bool>,
    asked: Condvar,
}

impl Ending {
    /// Asks it to end. Sleepers wake up.
    pub fn ask(&self) {
        *self.is_asked.lock().expect("nobody panics while holding it") = true;
        self.asked.notify_all();
    }

    /// Whether it was asked to.
    pub fn is_asked(&self) -> bool {
        *self.is_asked.lock().expect("nobody panics while holding it")
    }

    /// Sleeps for that long, or until it is asked to end; returns whether it is.
    pub fn sleep(&self, time: Duration) -> bool {
        let is_asked = self.is_asked.lock().expect("nobody panics while holding it");
        let woken = self.asked.wait_timeout_while(is_asked, time, |is_asked| !*is_asked);
        *woken.expect("nobody panics while holding it").0
    }
}

/// How long a register that cannot be used is left alone.
const REGISTER_RETRY: Duration = Duration::from_secs(1);

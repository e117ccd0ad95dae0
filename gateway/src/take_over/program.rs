//! The sender program's threads: one for each gateway, and one for signals.

use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::info;

use super::Ending;
use super::sender::{Sender, Start};
use super::settings::SenderSettings;
use crate::status::orders::Order;
use crate::status::server::StatusSocket;

/// Runs a sender for each gateway, until all have ended. One that gives up ends the others. The seed must not be
/// guessable.
///
/// # Errors
/// The first sender's that there was, or what cannot be opened.
pub fn run_senders(settings: SenderSettings, start: Start, seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]);
    let mut signals = signals.map_err(|error| error.to_string())?;
    let handle = signals.handle();
    let ending = Arc::new(Ending::default());
    let mut senders = Vec::new();
    for duty in settings.duties {
        let socket = duty.local.status_socket.as_deref().map(StatusSocket::bind).transpose()?;
        let sender = Sender::new(duty, start, ending.clone(), random.u64(..));
        let sender = sender.map_err(|error| error.to_string())?;
        let told = sender.told();
        let serving =
            socket.map(|socket| socket.serve(move || told.snapshot(), no_orders)).transpose();
        senders.push((sender, serving.map_err(|error| error.to_string())?));
    }
    let asked = ending.clone();
    let waiting = std::thread::spawn(move || {
        for signal in &mut signals {
            if signal == SIGHUP {
                info!("a sender works by what the register has: only a start reads its file again");
                continue;
            }
            info!(signal, "stopping: what is under way is finished");
            asked.ask();
        }
    });
    let mut threads = Vec::new();
    for (sender, serving) in senders {
        let ending = ending.clone();
        threads.push(std::thread::spawn(move || {
            let result = sender.run();
            drop(serving);
            if result.is_err() {
                ending.ask();
            }
            result
        }));
    }
    let mut result = Ok(());
    for thread in threads {
        result = result.and(thread.join().unwrap_or_else(|_| Err("a sender panicked".into())));
    }
    handle.close();
    let _ = waiting.join();
    info!("stopped");
    result
}

/// Where copies are, and whose, is the business of the gateway and its operator.
fn no_orders(_: &Order) -> Result<String, String> {
    Err("a sender program follows no orders: the gateway does when it is back".into())
}

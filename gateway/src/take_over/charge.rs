//! A gateway that starts: it takes charge, and has the register keep its settings.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Builder;
use std::time::Duration;

use tcpstack::Clock;
use tracing::{info, warn};

use super::seat::{self, Holder, Return, Seat, Step};
use super::{Ending, REGISTER_RETRY};
use crate::register::Documents;
use crate::register::document::{Document, keep};
use crate::settings::kept;

/// How often a gateway that waits for a sender looks whether it has left.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The seat, with the version of the text that it was read from (0: none). What cannot be read is nobody's: no
/// start waits for somebody to mend it.
pub(super) fn read_seat(
    register: &mut dyn Documents,
    gateway: &str,
) -> Result<(u64, Option<Seat>), String> {
    let Some(document) = register.read(&seat::key(gateway))? else { return Ok((0, None)) };
    let seat = Seat::parse(gateway, &document.text);
    let seat = seat.inspect_err(|error| warn!(%error, "nobody knows who is in charge"));
    Ok((document.version, seat.ok()))
}

/// Puts a seat in the place of that version of it; returns whether it was that still.
pub(super) fn write_seat(
    register: &mut dyn Documents,
    gateway: &str,
    version: u64,
    seat: &Seat,
) -> Result<bool, String> {
    let document = Document { version: version + 1, text: seat.text() };
    register.swap(&seat::key(gateway), &document)
}

/// Takes charge of a gateway's queues, for that life of the gateway: calls a sender that has them, and waits until
/// it has left, within bounds. Returns whether it did; false: it was asked to end.
pub fn take_charge(register: &mut dyn Documents, me: &Holder, ending: &Ending) -> bool {
    let gateway = &me.name;
    let mut way = Return::new(me.clone());
    let mut told = None;
    let mut has_failed = false;
    while !ending.is_asked() {
        let now = Clock::new().now();
        let step = read_seat(register, gateway).and_then(|(version, seat)| {
            let step = way.handle_seat(now, seat.as_ref());
            if let Step::Write(wanted) = &step {
                if wanted.holder != *me {
                    tell(&mut told, seat.as_ref(), "calling for the queues: a sender has them");
                } else if seat.as_ref().is_some_and(|it| it.caller.is_some() && !it.is_released) {
                    tell(
                        &mut None,
                        seat.as_ref(),
                        "the sender does not leave: the queues are taken",
                    );
                }
                // Whoever was there before us is seen next time.
                write_seat(register, gateway, version, wanted)?;
            }
            Ok(step)
        });
        let pause = match step {
            Ok(Step::Go) => return true,
            Ok(Step::Write(_)) => Duration::ZERO,
            Ok(Step::Wait) => LOOK_EVERY,
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    warn!(%error, "the register cannot be used; trying again");
                }
                REGISTER_RETRY
            }
        };
        ending.sleep(pause);
    }
    false
}

fn tell(told: &mut Option<u64>, seat: Option<&Seat>, what: &str) {
    let Some(holder) = seat.map(|it| &it.holder) else { return };
    if told.replace(holder.life) != Some(holder.life) {
        info!(beside = holder.name, since_unix_ms = holder.since_unix_ms, "{what}");
    }
}

/// A thread that has the register keep a gateway's settings. Dropped, it gives up what it has not done, and is
/// not waited for.
#[derive(Debug)]
pub struct Keeper {
    texts: Sender<String>,
    ending: Arc<Ending>,
}

impl Keeper {
    /// Starts it for that gateway.
    ///
    /// # Errors
    /// If there is no thread.
    pub fn start(register: Box<dyn Documents>, gateway: &str) -> io::Result<Keeper> {
        let (texts, wanted) = channel();
        let ending = Arc::new(Ending::default());
        let (own, gateway) = (ending.clone(), gateway.to_owned());
        Builder::new()
            .name("settings".into())
            .spawn(move || keep_settings(register, &gateway, &wanted, &own))?;
        Ok(Keeper { texts, ending })
    }

    /// Keeps what is to be kept of that configuration from now on.
    pub fn keep(&self, text: &str) {
        // It ends only when we do.
        let _ = self.texts.send(kept::kept(text));
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.ending.ask();
    }
}

/// Only the newest text is worth keeping: what is waited for while the register is away is replaced by what
/// comes then.
fn keep_settings(
    mut register: Box<dyn Documents>,
    gateway: &str,
    wanted: &Receiver<String>,
    ending: &Ending,
) {
    let mut open: Option<String> = None;
    let mut has_failed = false;
    while !ending.is_asked() {
        let next = match open {
            None => wanted.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => {
                wanted.recv_timeout(if has_failed { REGISTER_RETRY } else { Duration::ZERO })
            }
        };
        match next {
            Ok(text) => {
                open = Some(text);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let Some(text) = &open else { continue };
        match keep(register.as_mut(), &kept::key(gateway), text) {
            Ok(Some(version)) => {
                info!(version, bytes = text.len(), "the settings are kept in the register");
                (open, has_failed) = (None, false);
            }
            Ok(None) => has_failed = true,
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    warn!(%error, "the settings cannot be kept in the register; trying again");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::super::seat::Kind;
    use super::super::seat::tests::holder;
    use super::*;
    use crate::register::Engine;
    use crate::replication::record::{RegisterAnswer, RegisterCall};

    /// Texts in memory, for several.
    #[derive(Clone, Default)]
    struct Texts {
        kept: Arc<Mutex<BTreeMap<String, Document>>>,
        /// Calls that fail before one is carried out.
        failures: usize,
    }

    impl Engine for Texts {
        fn call(&mut self, _: &str, _: &RegisterCall) -> RegisterAnswer {
            panic!("nobody asks for a record")
        }
    }

    impl Documents for Texts {
        fn read(&mut self, key: &str) -> Result<Option<Document>, String> {
            if let Some(left) = self.failures.checked_sub(1) {
                self.failures = left;
                return Err("away".into());
            }
            Ok(self.kept.lock().unwrap().get(key).cloned())
        }

        fn swap(&mut self, key: &str, document: &Document) -> Result<bool, String> {
            let mut kept = self.kept.lock().unwrap();
            let version = kept.get(key).map_or(0, |it| it.version);
            if document.version != version + 1 {
                return Ok(false);
            }
            kept.insert(key.into(), document.clone());
            Ok(true)
        }
    }

    #[test]
    fn a_gateway_takes_charge_of_what_nobody_has() {
        let mut texts = Texts { failures: 1, ..Texts::default() };
        let me = holder(Kind::Gateway, 1);
        assert!(take_charge(&mut texts, &me, &Ending::default()));
        let (version, seat) = read_seat(&mut texts, "a").unwrap();
        assert_eq!((version, seat), (1, Some(Seat::taken_by(me))));
    }

    #[test]
    fn a_seat_that_cannot_be_read_keeps_nobody_from_starting() {
        let mut texts = Texts::default();
        texts.swap("a/owner", &Document { version: 1, text: "{\"holder\": 7}".into() }).unwrap();
        let me = holder(Kind::Gateway, 1);
        assert!(take_charge(&mut texts, &me, &Ending::default()));
        assert_eq!(read_seat(&mut texts, "a"), Ok((2, Some(Seat::taken_by(me)))));
    }

    #[test]
    fn a_gateway_waits_until_the_sender_that_it_called_has_left() {
        let texts = Texts::default();
        let sender = Seat::taken_by(holder(Kind::Sender, 2));
        write_seat(&mut texts.clone(), "a", 0, &sender).unwrap();
        let me = holder(Kind::Gateway, 1);
        std::thread::scope(|scope| {
            let (mut theirs, life) = (texts.clone(), me.clone());
            let gateway = scope.spawn(move || take_charge(&mut theirs, &life, &Ending::default()));
            let mut ours = texts.clone();
            let (version, called) = loop {
                let (version, seat) = read_seat(&mut ours, "a").unwrap();
                let seat = seat.unwrap();
                assert_eq!(seat.holder, sender.holder, "it does not sit down before we have left");
                if seat.caller.is_some() {
                    break (version, seat);
                }
                std::thread::yield_now();
            };
            assert_eq!(called.caller.as_ref(), Some(&me));
            assert!(write_seat(&mut ours, "a", version, &called.released()).unwrap());
            assert!(gateway.join().unwrap());
        });
        let (_, seat) = read_seat(&mut texts.clone(), "a").unwrap();
        assert_eq!(seat, Some(Seat::taken_by(holder(Kind::Gateway, 1))));
    }

    #[test]
    fn a_gateway_that_is_told_to_end_while_it_waits_ends() {
        let mut texts = Texts::default();
        let sender = Seat::taken_by(holder(Kind::Sender, 2));
        write_seat(&mut texts, "a", 0, &sender).unwrap();
        let ending = Ending::default();
        ending.ask();
        assert!(!take_charge(&mut texts, &holder(Kind::Gateway, 1), &ending));
    }

    #[test]
    fn the_newest_settings_are_kept_when_the_register_is_back() {
        let texts = Texts { failures: 1, ..Texts::default() };
        let keeper = Keeper::start(Box::new(texts.clone()), "gw1").unwrap();
        for number in 0..3 {
            keeper.keep(&format!("name = \"gw{number}\"\nsecret = \"hush\"\n"));
        }
        let expected = "name = \"gw2\"\n";
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let is_kept = || {
            let kept = texts.kept.lock().unwrap();
            kept.get("gw1/settings").is_some_and(|it| it.text == expected)
        };
        while !is_kept() {
            assert!(std::time::Instant::now() < deadline, "{:?}", texts.kept);
            std::thread::yield_now();
        }
    }
}

//! The seat: who is in charge of a gateway's queues, and who calls for them.
//!
//! It is a text in the register, changed by compare and set. It arranges who takes the queues over and when they
//! are handed back, and nothing more: that no two ever act is the work of the records, seals and leases, whatever
//! the seat says.
//!
//! | who | does |
//! | --- | --- |
//! | a gateway that starts | calls, if a sender sits there; waits until it has left, within bounds; sits down |
//! | a sender that takes over | sits down: of several, one |
//! | a sender that is called | says within what time it leaves, stops, and says that it has left |

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tcpstack::Instant;

/// How long a gateway waits for a word of the sender that it calls: one that lives looks every second.
const WORD_WAIT: Duration = Duration::from_secs(5);

/// How much later than it has said a sender may have left. Then it is taken for dead, and its lease is
/// waited for.
const LEAVE_SLACK: Duration = Duration::from_secs(15);

/// Longest time that a sender may take to leave, whatever it says.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(600);

/// Who is in charge.
///
/// Fields that a later program adds are left aside, and lost when it is written again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seat {
    /// Who took charge last.
    pub holder: Holder,
    /// It has left: it does nothing more with the queues.
    #[serde(default)]
    pub is_released: bool,
    /// The gateway, which is back.
    #[serde(default)]
    pub caller: Option<Holder>,
    /// The holder has heard, and leaves within so many milliseconds.
    #[serde(default)]
    pub leaves_within_ms: Option<u64>,
}

/// One life of a program.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// What it is.
    pub kind: Kind,
    /// The gateway's name, or that of the server that a sender sits beside.
    pub name: String,
    /// Drawn at random when it starts.
    pub life: u64,
    /// When it sat down, in milliseconds since 1970.
    pub since_unix_ms: u64,
}

/// What has queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A gateway.
    Gateway,
    /// A sender program: it delivers what a gateway has left.
    Sender,
}

/// The register's key of a gateway's seat.
pub fn key(gateway: &str) -> String {
    format!("{gateway}/owner")
}

impl Seat {
    /// Just taken.
    pub fn taken_by(holder: Holder) -> Seat {
        Seat { holder, is_released: false, caller: None, leaves_within_ms: None }
    }

    /// Reads what the register has.
    ///
    /// # Errors
    /// What is there is no seat that this program knows.
    pub fn parse(gateway: &str, text: &str) -> Result<Seat, String> {
        serde_json::from_str(text)
            .map_err(|error| format!("the value of {}: {error}", key(gateway)))
    }

    /// As the register has it.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers")
    }

    /// Left, by who holds it.
    pub fn released(self) -> Seat {
        Seat { is_released: true, ..self }
    }
}

/// What is to be done now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Put this there, and look again.
    Write(Seat),
    /// Nothing: look again soon.
    Wait,
    /// The seat is ours.
    Go,
}

/// A gateway that starts, until it is in charge. Each time that the seat was read [`handle_seat`](Self::handle_seat)
/// says what to do.
#[derive(Debug)]
pub struct Return {
    me: Holder,
    /// Whom it waits for, since when, and since when with that one's word.
    waits: Option<Wait>,
}

#[derive(Debug)]
struct Wait {
    life: u64,
    since: Instant,
    word_at: Option<Instant>,
}

impl Return {
    /// For that life of a gateway.
    pub fn new(me: Holder) -> Return {
        Return { me, waits: None }
    }

    /// The seat is like that now.
    pub fn handle_seat(&mut self, now: Instant, seat: Option<&Seat>) -> Step {
        let Some(seat) = seat else { return self.sit_down() };
        if seat.holder.life == self.me.life {
            return Step::Go;
        }
        if seat.holder.kind == Kind::Gateway || seat.is_released {
            return self.sit_down();
        }
        let life = seat.holder.life;
        let wait = self.waits.take().filter(|wait| wait.life == life);
        let wait = wait.unwrap_or(Wait { life, since: now, word_at: None });
        let wait = self.waits.insert(wait);
        let until = match seat.leaves_within_ms {
            Some(time) => {
                let time = Duration::from_millis(time).min(LEAVE_TIME_MAX);
                *wait.word_at.get_or_insert(now) + time + LEAVE_SLACK
            }
            None => wait.since + WORD_WAIT,
        };
        if now >= until {
            self.sit_down()
        } else if seat.caller.is_none() {
            Step::Write(Seat { caller: Some(self.me.clone()), ..seat.clone() })
        } else {
            Step::Wait
        }
    }

    fn sit_down(&self) -> Step {
        Step::Write(Seat::taken_by(self.me.clone()))
    }
}

/// What a sender in charge is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Go on.
    Stay,
    /// Put this there, and leave.
    Leave(Seat),
    /// Somebody else is in charge: leave.
    Lost,
}

impl Hold {
    /// By the seat as it is, for a sender of that life that leaves within a time.
    pub fn of(life: u64, leaves_within: Duration, seat: Option<&Seat>) -> Hold {
        match seat {
            Some(seat) if seat.holder.life == life => match seat.caller {
                None => Hold::Stay,
                Some(_) => {
                    let time = u64::try_from(leaves_within.as_millis()).unwrap_or(u64::MAX);
                    Hold::Leave(Seat { leaves_within_ms: Some(time), ..seat.clone() })
                }
            },
            _ => Hold::Lost,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn holder(kind: Kind, life: u64) -> Holder {
        Holder { kind, name: "a".into(), life, since_unix_ms: 7 }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn gateway() -> Return {
        Return::new(holder(Kind::Gateway, 1))
    }

    fn ours() -> Seat {
        Seat::taken_by(holder(Kind::Gateway, 1))
    }

    fn senders() -> Seat {
        Seat::taken_by(holder(Kind::Sender, 2))
    }

    #[test]
    fn a_seat_that_nobody_has_or_that_was_left_is_taken() {
        for seat in
            [None, Some(Seat::taken_by(holder(Kind::Gateway, 9))), Some(senders().released())]
        {
            let mut gateway = gateway();
            assert_eq!(gateway.handle_seat(at(0), seat.as_ref()), Step::Write(ours()));
            assert_eq!(gateway.handle_seat(at(0), Some(&ours())), Step::Go);
        }
    }

    #[test]
    fn a_sender_is_called_and_waited_for() {
        let mut gateway = gateway();
        let Step::Write(called) = gateway.handle_seat(at(0), Some(&senders())) else { panic!() };
        assert_eq!(called.holder, senders().holder);
        assert_eq!(gateway.handle_seat(at(4), Some(&called)), Step::Wait);
        let Hold::Leave(leaving) = Hold::of(2, Duration::from_secs(30), Some(&called)) else {
            panic!()
        };
        assert_eq!(gateway.handle_seat(at(4), Some(&leaving)), Step::Wait);
        assert_eq!(gateway.handle_seat(at(40), Some(&leaving)), Step::Wait);
        assert_eq!(gateway.handle_seat(at(41), Some(&leaving.released())), Step::Write(ours()));
    }

    #[test]
    fn a_sender_that_says_nothing_or_does_not_leave_is_not_waited_for_for_ever() {
        let mut silent = gateway();
        let Step::Write(called) = silent.handle_seat(at(0), Some(&senders())) else { panic!() };
        assert_eq!(silent.handle_seat(at(5), Some(&called)), Step::Write(ours()));
        let mut slow = gateway();
        slow.handle_seat(at(0), Some(&senders()));
        let leaving = Seat { leaves_within_ms: Some(u64::MAX), ..called.clone() };
        assert_eq!(slow.handle_seat(at(1), Some(&leaving)), Step::Wait);
        assert_eq!(slow.handle_seat(at(615), Some(&leaving)), Step::Wait);
        assert_eq!(slow.handle_seat(at(616), Some(&leaving)), Step::Write(ours()));
        // Another one has its own time.
        let mut other = gateway();
        other.handle_seat(at(0), Some(&called));
        let third = Seat::taken_by(holder(Kind::Sender, 3));
        assert!(
            matches!(other.handle_seat(at(6), Some(&third)), Step::Write(seat) if seat.caller.is_some())
        );
    }

    #[test]
    fn a_call_of_an_earlier_life_is_as_good_as_ours() {
        let called = Seat { caller: Some(holder(Kind::Gateway, 8)), ..senders() };
        assert_eq!(gateway().handle_seat(at(0), Some(&called)), Step::Wait);
    }

    #[test]
    fn a_sender_stays_until_it_is_called_and_knows_when_it_has_lost_its_seat() {
        let time = Duration::from_secs(10);
        assert_eq!(Hold::of(2, time, Some(&senders())), Hold::Stay);
        assert_eq!(Hold::of(2, time, Some(&ours())), Hold::Lost);
        assert_eq!(Hold::of(2, time, None), Hold::Lost);
        let called = Seat { caller: Some(holder(Kind::Gateway, 1)), ..senders() };
        let leaving = Seat { leaves_within_ms: Some(10_000), ..called.clone() };
        assert_eq!(Hold::of(2, time, Some(&called)), Hold::Leave(leaving));
    }

    #[test]
    fn a_seat_is_read_as_it_was_written_and_nothing_else_is_one() {
        let seat = Seat { caller: Some(holder(Kind::Gateway, u64::MAX)), ..senders() };
        assert_eq!(Seat::parse("gw1", &seat.text()), Ok(seat));
        for text in ["", "{}", "{\"holder\": 7}"] {
            assert!(Seat::parse("gw1", text).unwrap_err().contains("gw1/owner"), "{text}");
        }
    }
}

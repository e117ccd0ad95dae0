//! Answers: as they should be, or as the fault drawn for the phase says.

use super::{Judge, Mode, Session};
use crate::ledger::Outcome;
use crate::sink::faults::{Fault, Phase};

/// What came of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Carried {
    /// It was carried out.
    Yes,
    /// It was refused: for a while or for good.
    Refused(Outcome),
    /// It was not carried out, and the client does not know.
    No,
}

impl Session {
    /// Answers a command with `accept`, unless it was answered before it came, or something goes wrong.
    pub(super) fn answer(&mut self, phase: Phase, accept: &str, judge: &mut impl Judge) -> Carried {
        if self.ahead > 0 {
            self.ahead -= 1;
            return Carried::Yes;
        }
        let Some(fault) = judge.draw(phase) else {
            self.reply(accept);
            return Carried::Yes;
        };
        match fault {
            Fault::Early => {
                self.reply(accept);
                self.reply(EARLY);
                self.ahead = 1;
                Carried::Yes
            }
            Fault::Trickle => {
                self.output.trickle();
                self.reply(accept);
                Carried::Yes
            }
            _ => self.fail(phase, fault, judge),
        }
    }

    /// Fails a command in one of the ways that do not accept it.
    pub(super) fn fail(&mut self, phase: Phase, fault: Fault, judge: &mut impl Judge) -> Carried {
        match fault {
            Fault::Transient => {
                self.reply(refusal(phase).0);
                Carried::Refused(Outcome::Transient)
            }
            Fault::Permanent => {
                self.reply(refusal(phase).1);
                Carried::Refused(Outcome::Permanent)
            }
            Fault::Closing => {
                self.reply("421 4.3.2 going away\r\n");
                self.mode = Mode::Ending;
                Carried::Refused(Outcome::Transient)
            }
            Fault::Drop => self.give_up(Mode::Ending),
            Fault::Reset => {
                // The answer to the mail before may lie unread with the client, or not even be there.
                if !self.last_answered.recipients.is_empty() {
                    judge.handle_doubt(&self.last_answered);
                }
                self.give_up(Mode::Resetting)
            }
            Fault::Hang => {
                let in_content = phase == Phase::Content;
                self.give_up(if in_content { Mode::Stalled } else { Mode::Hung })
            }
            Fault::Garbage => {
                self.output.push(&garbage(judge.draw_below(GARBAGE_KINDS)));
                self.give_up(Mode::Hung)
            }
            Fault::Early | Fault::Trickle => unreachable!("these accept"),
        }
    }

    fn give_up(&mut self, mode: Mode) -> Carried {
        self.mode = mode;
        Carried::No
    }

    /// Sends a reply, unless it was sent before it was asked for. Enhanced status codes are left out
    /// where they are not offered.
    pub(super) fn reply(&mut self, text: &str) {
        if self.ahead > 0 {
            self.ahead -= 1;
            return;
        }
        let words = text.split_once(' ').filter(|_| !self.offered.status_codes);
        match words.and_then(|(code, rest)| Some((code, rest.split_once(' ')?))) {
            Some((code, (status, rest))) if is_status(status) => {
                for part in [code, " ", rest] {
                    self.output.push(part.as_bytes());
                }
            }
            _ => self.output.push(text.as_bytes()),
        }
    }
}

/// What is sent before it is asked for.
pub(super) const EARLY: &str = "250 2.0.0 so soon\r\n";

/// How a phase is refused for a while, and for good.
const fn refusal(phase: Phase) -> (&'static str, &'static str) {
    match phase {
        Phase::Greeting => ("450 4.3.2 busy\r\n", "554 5.3.2 no service here\r\n"),
        Phase::Ehlo => ("451 4.3.0 not now\r\n", "502 5.5.1 not here\r\n"),
        Phase::Mail => ("451 4.3.0 not now\r\n", "550 5.7.1 not from there\r\n"),
        Phase::Rcpt => ("451 4.2.0 not now\r\n", "550 5.1.1 nobody\r\n"),
        Phase::Data | Phase::Content | Phase::Dot => {
            ("451 4.3.0 not now\r\n", "554 5.6.0 never\r\n")
        }
        Phase::Quit => ("451 4.3.0 not now\r\n", "502 5.5.1 stay\r\n"),
    }
}

const GARBAGE_KINDS: u64 = 6;

/// Bytes that are no reply, each kind in a way of its own.
fn garbage(kind: u64) -> Vec<u8> {
    match kind {
        0 => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(),
        1 => (0..=255).chain(*b"\r\n").collect(),
        2 => vec![b'x'; 64 * 1024],
        3 => b"25 ok\r\n".to_vec(),
        4 => b"\0\0\0 ok\r\n".to_vec(),
        // A reply of many lines that never comes to its last.
        _ => b"250-and one more line of this reply\r\n".repeat(2000),
    }
}

fn is_status(word: &str) -> bool {
    word.split('.').count() == 3 && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

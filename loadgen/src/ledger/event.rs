//! What senders and sinks report, and its form in a log: one line each.
//!
//! ```text
//! B sender RUN AT                               a sender begins (RUN: 8 hexadecimal digits)
//! B sink SINK AT                                a sink begins
//! I RUN NUMBER AT DIGEST SIZE QUEUE:SEQ:RCPTS…  a mail is about to be sent (<> behind SIZE: null sender)
//! A RUN NUMBER AT DOT PLACES                    answered 250 (PLACES: * or 0,2,5)
//! R RUN NUMBER AT DOT CODE PLACES               answered 4xx or 5xx; DOT 0: before the data
//! U RUN NUMBER AT DOT PLACES                    final dot sent, no answer
//! D SINK POSITION AT OUTCOME MAIL DIGEST RCPT   a delivery, for one recipient
//! N SINK POSITION AT OUTCOME ACTION MAIL RCPT   a DSN arrives, about one recipient
//! X SINK AT MAIL                                a sink refuses a mail for good, for whom it cannot know
//! E AT                                          the end, on purpose
//! ```
//!
//! AT and DOT are microseconds since 1970 (UTC), DOT when the final dot was sent. MAIL is RUN/NUMBER
//! or `-` (content not seen, or not ours), DIGEST and ACTION likewise. RCPT of an N is the recipient
//! that it is about, or `*` when that was not seen.

use std::fmt::Write;
use std::sync::Arc;

use crate::content::Place;
use crate::dsn::Action;
use crate::identity::{MailId, PLACES_MAX};

/// One thing that a sender or a sink did or saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A sender begins.
    SenderBegins {
        /// Its run.
        run: u32,
        /// When, in microseconds since 1970.
        at_us: u64,
    },
    /// A sink begins.
    SinkBegins {
        /// Its number.
        sink: u32,
        /// When, in microseconds since 1970.
        at_us: u64,
    },
    /// A mail is about to be sent for the first time.
    Intent {
        /// Which.
        mail: MailId,
        /// When, in microseconds since 1970.
        at_us: u64,
        /// Digest of the content.
        digest: u64,
        /// Size of the content in bytes.
        size_bytes: u64,
        /// The reverse-path is null: nobody may be told of a failure.
        null_sender: bool,
        /// Where to.
        places: Vec<Place>,
    },
    /// How one attempt to send it ended.
    Answer {
        /// Which.
        mail: MailId,
        /// When the answer (or its absence) was seen, in microseconds since 1970.
        at_us: u64,
        /// When the final dot was sent, likewise; 0: it was not.
        dot_us: u64,
        /// The answer.
        answer: Answer,
        /// For whom.
        recipients: Recipients,
    },
    /// A delivery at a sink, for one recipient.
    Delivery {
        /// Which sink.
        sink: u32,
        /// Counts the sink's deliveries in the order in which they came.
        position: u64,
        /// When, in microseconds since 1970.
        at_us: u64,
        /// What the sink answered.
        outcome: Outcome,
        /// Which mail the content says that it is. `None`: not seen, or not one of ours.
        mail: Option<MailId>,
        /// Digest of the content. `None`: not seen, or not one of ours.
        digest: Option<u64>,
        /// The envelope's recipient, without brackets.
        recipient: Box<str>,
    },
    /// A DSN at a sink, about one recipient of the mail that failed (or did not).
    Notice {
        /// Which sink.
        sink: u32,
        /// Counts with the sink's deliveries.
        position: u64,
        /// When, in microseconds since 1970.
        at_us: u64,
        /// What the sink answered to the DSN.
        outcome: Outcome,
        /// What it says. `None`: not seen, or not said.
        action: Option<Action>,
        /// Which mail it is about. `None`: not seen.
        mail: Option<MailId>,
        /// About whom, without brackets. `None`: not seen, or not said.
        recipient: Option<Box<str>>,
    },
    /// A sink refused a whole mail for good before it knew the recipients: each of them may be told.
    Refusal {
        /// Which sink.
        sink: u32,
        /// When, in microseconds since 1970.
        at_us: u64,
        /// Which mail, by its reverse-path.
        mail: MailId,
    },
    /// The log ends on purpose: nothing is missing at its tail.
    End {
        /// When, in microseconds since 1970.
        at_us: u64,
    },
}

/// How a sender's attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// 250: the receiver is responsible.
    Accepted,
    /// Refused with that code.
    Refused(u16),
    /// No answer to the final dot.
    Unknown,
}

/// What a sink answered for one recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// 250 to the final dot.
    Accepted,
    /// 4xx to the recipient or to the final dot.
    Transient,
    /// 5xx to the recipient or to the final dot.
    Permanent,
    /// Nothing, though the final dot came.
    Unknown,
    /// Noted beside another outcome: the peer may not have read or believed the answer.
    Doubtful,
}

/// Which recipients of a mail an answer is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recipients {
    /// All of them.
    All,
    /// These, by number.
    Some(Vec<u16>),
}

impl Event {
    /// Appends the line with its line feed.
    pub fn write_line(&self, line: &mut String) {
        self.try_write_line(line).expect("memory takes every write");
    }

    fn try_write_line(&self, line: &mut String) -> std::fmt::Result {
        match self {
            Event::SenderBegins { run, at_us } => write!(line, "B sender {run:08x} {at_us}")?,
            Event::SinkBegins { sink, at_us } => write!(line, "B sink {sink} {at_us}")?,
            Event::Intent { mail, at_us, digest, size_bytes, null_sender, places } => {
                let MailId { run, number } = mail;
                write!(line, "I {run:08x} {number} {at_us} {digest:016x} {size_bytes}")?;
                line.push_str(if *null_sender { " <>" } else { "" });
                for Place { queue, sequence, recipients } in places {
                    write!(line, " {queue}:{sequence}:{recipients}")?;
                }
            }
            Event::Answer { mail, at_us, dot_us, answer, recipients } => {
                let MailId { run, number } = mail;
                match answer {
                    Answer::Accepted => write!(line, "A {run:08x} {number} {at_us} {dot_us} ")?,
                    Answer::Unknown => write!(line, "U {run:08x} {number} {at_us} {dot_us} ")?,
                    Answer::Refused(code) => {
                        write!(line, "R {run:08x} {number} {at_us} {dot_us} {code} ")?;
                    }
                }
                recipients.write(line)?;
            }
            Event::Delivery { sink, position, at_us, outcome, mail, digest, recipient } => {
                write!(line, "D {sink} {position} {at_us} {} ", outcome.letter())?;
                write_mail(*mail, line)?;
                match digest {
                    Some(digest) => write!(line, " {digest:016x} ")?,
                    None => line.push_str(" - "),
                }
                write_address(recipient, line);
            }
            Event::Notice { sink, position, at_us, outcome, action, mail, recipient } => {
                let action = action.map_or("-", Action::name);
                write!(line, "N {sink} {position} {at_us} {} {action} ", outcome.letter())?;
                write_mail(*mail, line)?;
                line.push(' ');
                write_address(recipient.as_deref().unwrap_or("*"), line);
            }
            Event::Refusal { sink, at_us, mail } => {
                write!(line, "X {sink} {at_us} ")?;
                write_mail(Some(*mail), line)?;
            }
            Event::End { at_us } => write!(line, "E {at_us}")?,
        }
        line.push('\n');
        Ok(())
    }

    /// Reads one line, without its line feed. `None`: it is not one.
    pub fn parse_line(line: &str) -> Option<Event> {
        let mut words = line.split(' ').peekable();
        let kind = words.next()?;
        let event = match kind {
            "B" => match words.next()? {
                "sender" => {
                    Event::SenderBegins { run: run(words.next()?)?, at_us: number(words.next()?)? }
                }
                "sink" => Event::SinkBegins {
                    sink: words.next()?.parse().ok()?,
                    at_us: number(words.next()?)?,
                },
                _ => return None,
            },
            "I" => Event::Intent {
                mail: MailId { run: run(words.next()?)?, number: number(words.next()?)? },
                at_us: number(words.next()?)?,
                digest: digest(words.next()?)?,
                size_bytes: number(words.next()?)?,
                null_sender: words.next_if_eq(&"<>").is_some(),
                places: words.by_ref().map(parse_place).collect::<Option<Vec<_>>>()?,
            },
            "A" | "R" | "U" => {
                let mail = MailId { run: run(words.next()?)?, number: number(words.next()?)? };
                let (at_us, dot_us) = (number(words.next()?)?, number(words.next()?)?);
                let answer = match kind {
                    "A" => Answer::Accepted,
                    "R" => Answer::Refused(words.next()?.parse().ok()?),
                    _ => Answer::Unknown,
                };
                let recipients = Recipients::parse(words.next()?)?;
                Event::Answer { mail, at_us, dot_us, answer, recipients }
            }
            "D" => Event::Delivery {
                sink: words.next()?.parse().ok()?,
                position: number(words.next()?)?,
                at_us: number(words.next()?)?,
                outcome: Outcome::from_letter(words.next()?)?,
                mail: unless_dash(words.next()?, parse_mail)?,
                digest: unless_dash(words.next()?, digest)?,
                recipient: words.next()?.into(),
            },
            "N" => Event::Notice {
                sink: words.next()?.parse().ok()?,
                position: number(words.next()?)?,
                at_us: number(words.next()?)?,
                outcome: Outcome::from_letter(words.next()?)?,
                action: unless_dash(words.next()?, Action::parse)?,
                mail: unless_dash(words.next()?, parse_mail)?,
                recipient: Some(words.next()?).filter(|word| *word != "*").map(Box::from),
            },
            "X" => Event::Refusal {
                sink: words.next()?.parse().ok()?,
                at_us: number(words.next()?)?,
                mail: parse_mail(words.next()?)?,
            },
            "E" => Event::End { at_us: number(words.next()?)? },
            _ => return None,
        };
        words.next().is_none().then_some(event)
    }
}

impl Outcome {
    const fn letter(self) -> char {
        match self {
            Outcome::Accepted => '2',
            Outcome::Transient => '4',
            Outcome::Permanent => '5',
            Outcome::Unknown => '?',
            Outcome::Doubtful => '!',
        }
    }

    fn from_letter(word: &str) -> Option<Outcome> {
        match word {
            "2" => Some(Outcome::Accepted),
            "4" => Some(Outcome::Transient),
            "5" => Some(Outcome::Permanent),
            "?" => Some(Outcome::Unknown),
            "!" => Some(Outcome::Doubtful),
            _ => None,
        }
    }
}

impl Recipients {
    fn write(&self, line: &mut String) -> std::fmt::Result {
        match self {
            Recipients::All => line.push('*'),
            Recipients::Some(places) => {
                for (index, place) in places.iter().enumerate() {
                    write!(line, "{}{place}", if index == 0 { "" } else { "," })?;
                }
            }
        }
        Ok(())
    }

    fn parse(word: &str) -> Option<Recipients> {
        if word == "*" {
            return Some(Recipients::All);
        }
        let places = word.split(',').map(|place| place.parse().ok()).collect::<Option<Vec<_>>>()?;
        (places.len() <= PLACES_MAX).then_some(Recipients::Some(places))
    }
}

fn write_mail(mail: Option<MailId>, line: &mut String) -> std::fmt::Result {
    match mail {
        Some(MailId { run, number }) => write!(line, "{run:08x}/{number}"),
        None => line.write_char('-'),
    }
}

/// The address is the peer's; in the log it stays one word of one line.
fn write_address(address: &str, line: &mut String) {
    line.extend(address.chars().map(|c| if c <= ' ' || c == '\x7f' { '?' } else { c }));
}

/// What a word says; `-` says nothing.
#[expect(clippy::option_option, reason = "a word that is none is not a word that says nothing")]
fn unless_dash<T>(word: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if word == "-" { Some(None) } else { read(word).map(Some) }
}

fn parse_mail(word: &str) -> Option<MailId> {
    let (text, place) = word.split_once('/')?;
    Some(MailId { run: run(text)?, number: number(place)? })
}

fn run(word: &str) -> Option<u32> {
    (word.len() == 8).then(|| u32::from_str_radix(word, 16).ok()).flatten()
}

fn digest(word: &str) -> Option<u64> {
    (word.len() == 16).then(|| u64::from_str_radix(word, 16).ok()).flatten()
}

fn number(word: &str) -> Option<u64> {
    word.parse().ok()
}

fn parse_place(word: &str) -> Option<Place> {
    let mut parts = word.rsplitn(3, ':');
    let recipients = parts.next()?.parse().ok()?;
    let sequence = parts.next()?.parse().ok()?;
    Some(Place { queue: Arc::from(parts.next()?), sequence, recipients })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events() -> impl Strategy<Value = Event> {
        let mail = || (any::<u32>(), any::<u64>()).prop_map(|(run, number)| MailId { run, number });
        let place = ("[a-z.0-9:]{1,9}", any::<u64>(), any::<u16>()).prop_map(
            |(queue, sequence, recipients)| Place {
                queue: Arc::from(&*queue),
                sequence,
                recipients,
            },
        );
        let answer = prop_oneof![
            Just(Answer::Accepted),
            Just(Answer::Unknown),
            (400_u16..600).prop_map(Answer::Refused)
        ];
        let recipients = prop_oneof![
            Just(Recipients::All),
            prop::collection::vec(any::<u16>(), 1..5).prop_map(Recipients::Some)
        ];
        let outcome = prop_oneof![
            Just(Outcome::Accepted),
            Just(Outcome::Transient),
            Just(Outcome::Permanent),
            Just(Outcome::Unknown),
            Just(Outcome::Doubtful)
        ];
        let notice = (
            any::<(u32, u64, u64)>(),
            outcome.clone(),
            prop::option::of(prop::sample::select(&Action::ALL[..])),
            prop::option::of(mail()),
            prop::option::of("[!-)+-~]{1,20}"),
        );
        prop_oneof![
            any::<(u32, u64)>().prop_map(|(run, at_us)| Event::SenderBegins { run, at_us }),
            any::<(u32, u64)>().prop_map(|(sink, at_us)| Event::SinkBegins { sink, at_us }),
            (mail(), any::<(u64, u64, u64, bool)>(), prop::collection::vec(place, 0..4)).prop_map(
                |(mail, (at_us, digest, size_bytes, null_sender), places)| Event::Intent {
                    mail,
                    at_us,
                    digest,
                    size_bytes,
                    null_sender,
                    places
                }
            ),
            notice.prop_map(|((sink, position, at_us), outcome, action, mail, recipient)| {
                let recipient = recipient.map(Box::from);
                Event::Notice { sink, position, at_us, outcome, action, mail, recipient }
            }),
            (any::<u32>(), any::<u64>(), mail()).prop_map(|(sink, at_us, mail)| Event::Refusal {
                sink,
                at_us,
                mail
            }),
            (mail(), any::<(u64, u64)>(), answer, recipients).prop_map(
                |(mail, (at_us, dot_us), answer, recipients)| Event::Answer {
                    mail,
                    at_us,
                    dot_us,
                    answer,
                    recipients
                }
            ),
            (
                any::<(u32, u64, u64)>(),
                outcome,
                prop::option::of(mail()),
                prop::option::of(any::<u64>()),
                "[!-~]{1,20}"
            )
                .prop_map(
                    |((sink, position, at_us), outcome, mail, digest, recipient)| {
                        Event::Delivery {
                            sink,
                            position,
                            at_us,
                            outcome,
                            mail,
                            digest,
                            recipient: recipient.into(),
                        }
                    }
                ),
            any::<u64>().prop_map(|at_us| Event::End { at_us }),
        ]
    }

    proptest! {
        #[test]
        fn lines_are_read_back(event in events()) {
            let mut line = String::new();
            event.write_line(&mut line);
            prop_assert!(line.ends_with('\n'));
            prop_assert_eq!(Event::parse_line(line.trim_end_matches('\n')), Some(event));
        }

        #[test]
        fn anything_else_is_refused_or_read_but_harms_nothing(line in "[ABDEINRUX0-9a-f:/*, -]{0,60}") {
            let _ = Event::parse_line(&line);
        }
    }

    #[test]
    fn a_hostile_recipient_stays_on_its_line() {
        let event = Event::Delivery {
            sink: 1,
            position: 2,
            at_us: 3,
            outcome: Outcome::Accepted,
            mail: None,
            digest: None,
            recipient: "a b\nE 1@c".into(),
        };
        let mut line = String::new();
        event.write_line(&mut line);
        assert_eq!(line, "D 1 2 3 2 - - a?b?E?1@c\n");
    }
}

//! What all sessions of a sink share: the checks, the counts, and the choice of faults.

use std::fmt::Write as _;
use std::io;

use fastrand::Rng;
use tcpstack::Instant;

use super::counts::SinkCounts;
use super::order::Order;
use super::session::{Envelope, Judge, Reply};
use super::{Faults, SinkConfig};
use crate::host::unix_us;
use crate::identity::{MailId, ReceivedIdentity, RecipientId};
use crate::ledger::{Event, Outcome, Recorder};

pub(super) struct Desk {
    pub(super) config: SinkConfig,
    pub(super) counts: SinkCounts,
    pub(super) recorder: Box<dyn Recorder>,
    /// The time of this turn.
    pub(super) now: Instant,
    /// Why the first mail that could not be dumped could not.
    pub(super) dump_error: Option<io::Error>,
    rng: Rng,
    order: Order,
    position: u64,
}

impl Desk {
    pub(super) fn new(config: SinkConfig, now: Instant, recorder: Box<dyn Recorder>) -> Desk {
        let mut desk = Desk {
            rng: Rng::with_seed(config.seed),
            counts: SinkCounts::default(),
            order: Order::default(),
            recorder,
            position: 0,
            now,
            dump_error: None,
            config,
        };
        let at_us = desk.unix_us();
        desk.recorder.record(Event::SinkBegins { sink: desk.config.sink, at_us });
        desk
    }

    pub(super) fn unix_us(&self) -> u64 {
        unix_us(self.config.unix_origin_us, self.now)
    }

    fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.f64() < probability
    }

    fn draw_mail_fault(&mut self) -> Reply {
        let Faults { hang, close_after_dot, data_4xx, data_5xx, .. } = self.config.faults;
        if self.happens(hang) {
            Reply::Hang
        } else if self.happens(close_after_dot) {
            Reply::Close
        } else if self.happens(data_4xx) {
            Reply::Transient
        } else if self.happens(data_5xx) {
            Reply::Permanent
        } else {
            Reply::Accept
        }
    }

    fn record(&mut self, address: &str, outcome: Outcome, identity: Option<&ReceivedIdentity>) {
        let at_us = self.unix_us();
        self.recorder.record(Event::Delivery {
            sink: self.config.sink,
            position: self.position,
            at_us,
            outcome,
            mail: identity.and_then(|identity| identity.mail),
            digest: identity.map(|identity| identity.digest_found),
            recipient: address.into(),
        });
        self.position += 1;
    }

    /// Checks content, recipients and order.
    fn check(
        &mut self,
        envelope: &Envelope,
        content: &[u8],
        identity: Option<&ReceivedIdentity>,
        outcome: Outcome,
    ) {
        let Some(identity) = identity else {
            self.counts.foreign += 1;
            return;
        };
        let unaltered = identity.digest_claimed == identity.digest_found;
        let Some(mail) = identity.mail.filter(|_| unaltered) else {
            self.counts.altered += 1;
            return;
        };
        let places = ReceivedIdentity::places(content);
        let mut last = None;
        for address in &envelope.recipients {
            let recipient = RecipientId::parse(address).filter(|(id, _)| id.mail == mail);
            let place = recipient.and_then(|(_, domain)| places.iter().find(|p| p.0 == domain));
            let Some(&(queue, sequence)) = place else {
                self.counts.misdelivered += 1;
                continue;
            };
            // Recipients of one queue stand together; the mail counts once in it.
            if last.replace(queue) != Some(queue) {
                self.check_order(mail, queue, sequence, outcome == Outcome::Accepted);
            }
        }
    }

    fn check_order(&mut self, mail: MailId, queue: &str, sequence: u64, accepted: bool) {
        let Some(arrival) = self.order.arrive(queue, mail.run, sequence, accepted) else { return };
        let counts = &mut self.counts;
        counts.displacement_most = counts.displacement_most.max(arrival.displacement);
        let limit = self.config.displacement_max;
        counts.out_of_order += u64::from(limit.is_some_and(|max| arrival.displacement > max));
        counts.distinct += u64::from(accepted && !arrival.accepted_before);
        counts.repeated += u64::from(accepted && arrival.accepted_before);
    }

    fn dump(&self, envelope: &Envelope, content: &[u8]) -> io::Result<()> {
        let Some(directory) = &self.config.dump else { return Ok(()) };
        let number = self.counts.mails - 1;
        let mut text = format!("MAIL FROM:<{}>\n", envelope.reverse_path);
        for recipient in &envelope.recipients {
            writeln!(text, "RCPT TO:<{recipient}>").expect("memory takes every write");
        }
        std::fs::write(directory.join(format!("{number:08}.envelope")), text)?;
        // The content comes last and at once: when it is there the mail is complete.
        let partial = directory.join(format!("{number:08}.partial"));
        std::fs::write(&partial, content)?;
        std::fs::rename(partial, directory.join(format!("{number:08}.eml")))
    }
}

impl Judge for Desk {
    fn judge_recipient(&mut self, address: &str) -> Reply {
        let Faults { drop_421, recipient_4xx, recipient_5xx, .. } = self.config.faults;
        let reply = if self.happens(drop_421) {
            self.counts.dropped_421 += 1;
            Reply::Closing
        } else if self.happens(recipient_4xx) {
            self.counts.refused_4xx += 1;
            Reply::Transient
        } else if self.happens(recipient_5xx) {
            self.counts.refused_5xx += 1;
            Reply::Permanent
        } else {
            return Reply::Accept;
        };
        let permanent = reply == Reply::Permanent;
        let outcome = if permanent { Outcome::Permanent } else { Outcome::Transient };
        self.record(address, outcome, None);
        reply
    }

    fn judge_mail(&mut self, envelope: &Envelope, content: &[u8]) -> Reply {
        let reply = self.draw_mail_fault();
        let outcome = match reply {
            Reply::Accept => Outcome::Accepted,
            Reply::Transient | Reply::Closing => Outcome::Transient,
            Reply::Permanent => Outcome::Permanent,
            Reply::Hang | Reply::Close => Outcome::Unknown,
        };
        let identity = ReceivedIdentity::find(content);
        self.check(envelope, content, identity.as_ref(), outcome);
        for recipient in &envelope.recipients {
            self.record(recipient, outcome, identity.as_ref());
        }
        match outcome {
            Outcome::Accepted => {
                self.counts.mails += 1;
                self.counts.bytes += content.len() as u64;
                self.counts.delivered += envelope.recipients.len() as u64;
                if let Err(error) = self.dump(envelope, content) {
                    self.dump_error.get_or_insert(error);
                }
            }
            Outcome::Transient => self.counts.refused_4xx += 1,
            Outcome::Permanent => self.counts.refused_5xx += 1,
            Outcome::Unknown => self.counts.unanswered += 1,
        }
        reply
    }
}

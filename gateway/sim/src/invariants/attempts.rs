//! I9: a message goes to a next hop once more only when nobody can know better. The end of a message that was
//! taken before is sent again
//!
//! * when the answer was never had: the connection or the process ended before;
//! * when it was had, and the owner changed before what was noted of it was committed;
//! * when a client sent the message again, and it was stored again.
//!
//! How often a message may be sent is counted from what was seen: from the ends of data that gateways took from
//! clients and sent to next hops, with the answers that they took, and from the queues' logs.

use std::collections::BTreeMap;
use std::rc::Rc;

use gateway::message::{DeliveryState, RecipientStatus};
use gateway::queue::{Change, MailQueue};
use kvs_proto::{MessageId, Transaction};

use super::{Broken, Invariant, QueueSight};
use crate::dialogue::Seen;
use crate::gateways::Sighting;

/// What is known of each recipient of each mail, by address: each mail has its own.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    recipients: BTreeMap<String, Passage>,
    /// By queue and place of the gateway.
    logs: BTreeMap<(usize, usize), Log>,
    /// Changes went by unseen: stores are not counted any more.
    is_blind: bool,
}

/// A recipient's way.
#[derive(Debug, Default)]
struct Passage {
    /// Ends of data that gateways took for it.
    taken: usize,
    /// Messages stored for it.
    stored: usize,
    /// Deliveries whose 250 a gateway has had.
    delivered: Vec<Delivered>,
}

#[derive(Debug)]
struct Delivered {
    /// Which life of the gateway had the answer.
    life: u64,
    /// It has noted that.
    is_noted: bool,
    /// And that is committed: whoever comes next knows.
    is_kept: bool,
}

/// A queue's log, as far as it was followed.
#[derive(Debug, Default)]
struct Log {
    life: u64,
    seen: Transaction,
    /// Whom messages are for.
    messages: BTreeMap<MessageId, Rc<[String]>>,
    /// What was noted and is not committed: the number of the change, and the delivery by recipient and place.
    noted: Vec<(Transaction, String, usize)>,
}

impl Attempts {
    /// Takes in what was seen on a connection.
    ///
    /// # Errors
    /// A message goes out once too often.
    pub(super) fn see(&mut self, sighting: &Sighting) -> Result<(), Broken> {
        let life = sighting.life;
        match &sighting.seen {
            Seen::EndOfData(to) if sighting.is_delivery => {
                let binds = |it: &Delivered| it.life == life || it.is_kept;
                to.iter().try_for_each(|address| self.check(address, 1, binds))
            }
            Seen::EndOfData(to) => {
                for address in to.iter() {
                    self.recipients.entry(address.clone()).or_default().taken += 1;
                }
                Ok(())
            }
            Seen::Answered(to, code) if sighting.is_delivery && code / 100 == 2 => {
                for address in to.iter() {
                    let Some(passage) = self.recipients.get_mut(address) else { continue };
                    let (is_noted, is_kept) = (false, false);
                    passage.delivered.push(Delivered { life, is_noted, is_kept });
                    // One that was under way when another owner took over may be answered after it was
                    // repeated.
                    self.check(address, 0, |it| it.life == life)?;
                }
                Ok(())
            }
            Seen::Answered(..) => Ok(()),
        }
    }

    /// Whether so many `more` deliveries for a recipient are within what is allowed, beside those that bind.
    fn check(
        &self,
        address: &str,
        more: usize,
        binds: impl Fn(&Delivered) -> bool,
    ) -> Result<(), Broken> {
        let Some(Passage { taken, stored, delivered }) = self.recipients.get(address) else {
            return Ok(());
        };
        let known = delivered.iter().filter(|it| binds(it)).count();
        let messages = if self.is_blind { *taken } else { *taken.min(stored) };
        if known + more > messages.max(1) {
            let what = format!(
                "{address} gets what it has: {messages} messages, {known} deliveries that are known of, and \
                 {more} more"
            );
            return Err(Invariant::I9.broken(what));
        }
        Ok(())
    }

    /// Follows a queue's log at a gateway.
    pub(super) fn follow(
        &mut self,
        at: (usize, usize),
        sight: &QueueSight,
        queue: Option<&MailQueue>,
    ) {
        let (Some(queue), Some(life)) = (queue, sight.life) else {
            self.logs.remove(&at);
            return;
        };
        let mut log = self.logs.remove(&at).filter(|log| log.life == life).unwrap_or_else(|| {
            let all = queue.snapshots_after(MessageId(0));
            let messages = all.map(|it| (it.id, addresses(&it.stored.message.envelope.recipients)));
            let (messages, seen) = (messages.collect(), sight.head);
            Log { life, seen, messages, noted: Vec::new() }
        });
        while log.seen < sight.head {
            log.seen = log.seen.next();
            match queue.log().get(log.seen) {
                Some(entry) => self.take_change(&mut log, entry.id, &entry.change),
                None => self.is_blind = true,
            }
        }
        let (kept, noted): (Vec<_>, Vec<_>) =
            log.noted.into_iter().partition(|(at, ..)| *at <= sight.committed);
        log.noted = noted;
        for (_, address, place) in kept {
            let passage = self.recipients.get_mut(&address).expect("something was noted of it");
            passage.delivered[place].is_kept = true;
        }
        self.logs.insert(at, log);
    }

    fn take_change(&mut self, log: &mut Log, id: MessageId, change: &Change) {
        match change {
            Change::Store(stored) => {
                let to = addresses(&stored.message.envelope.recipients);
                for address in to.iter() {
                    // What no client sent is a report, of which one address gets many.
                    if let Some(passage) = self.recipients.get_mut(address) {
                        passage.stored += 1;
                    }
                }
                log.messages.insert(id, to);
            }
            Change::Delete { .. } => {
                let to = log.messages.remove(&id).unwrap_or_default();
                to.iter().for_each(|address| self.note(log, address));
            }
            Change::Replace { record, .. } => {
                let to = log.messages.get(&id).cloned().unwrap_or_default();
                let Ok(state) = DeliveryState::decode(record) else { return };
                let is_done = |place: usize| {
                    matches!(
                        state.status(place),
                        RecipientStatus::Settled | RecipientStatus::Delivered
                    )
                };
                let done = to.iter().enumerate().filter(|(place, _)| is_done(*place));
                done.for_each(|(_, address)| self.note(log, address));
            }
        }
    }

    /// The gateway has written down that it delivered to a recipient, if it did.
    fn note(&mut self, log: &mut Log, address: &str) {
        let Some(passage) = self.recipients.get_mut(address) else { return };
        let mut known = passage.delivered.iter_mut().enumerate();
        let known = known.find(|(_, it)| it.life == log.life && !it.is_noted);
        if let Some((place, delivered)) = known {
            delivered.is_noted = true;
            log.noted.push((log.seen, address.to_owned(), place));
        }
    }
}

fn addresses(recipients: &[gateway::message::Recipient]) -> Rc<[String]> {
    recipients.iter().map(|it| it.address.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use gateway::api::Ticket;
    use gateway::message::{Envelope, Message, Recipient};
    use tcpstack::Instant;

    fn sighting(life: u64, is_delivery: bool, answer: Option<u16>) -> Sighting {
        let to = Rc::from(vec!["r@d".to_owned()]);
        let seen = match answer {
            None => Seen::EndOfData(to),
            Some(code) => Seen::Answered(to, code),
        };
        Sighting { at: Instant::ZERO, life, is_delivery, seen, queues: Vec::new() }
    }

    /// A story of one mail, and the queue that has it.
    struct Story {
        attempts: Attempts,
        queue: MailQueue,
        serial: u64,
    }

    impl Story {
        /// A client has sent it once.
        fn new() -> Story {
            let queue = MailQueue::default();
            let mut story = Story { attempts: Attempts::default(), queue, serial: 0 };
            story.look(1, 0);
            story.send();
            story
        }

        fn send(&mut self) {
            self.see(sighting(1, false, None)).unwrap();
            self.serial += 1;
            let envelope = Envelope::new("", vec![Recipient::new("r@d")]);
            let message = Message { envelope, content: Bytes::from_static(b"x") };
            let ticket = Ticket { front: 0, serial: self.serial };
            let id = self.queue.store(ticket, message.into());
            self.queue.commit_up_to(self.queue.log().head(), |_, _| {});
            self.queue.release(id);
            self.look(1, 0);
        }

        fn see(&mut self, sighting: Sighting) -> Result<(), Broken> {
            self.attempts.see(&sighting)
        }

        /// An attempt, with its answer if it comes.
        fn attempt(&mut self, life: u64, answer: Option<u16>) -> Result<(), Broken> {
            self.see(sighting(life, true, None))?;
            answer.map_or(Ok(()), |code| self.see(sighting(life, true, Some(code))))
        }

        /// The gateway notes that it was delivered.
        fn settle(&mut self) {
            let id = self.queue.next_attempt(0).expect("there is one").id;
            self.queue.settle(id);
        }

        fn look(&mut self, life: u64, committed: u64) {
            let committed = Transaction(committed);
            let head = self.queue.log().head();
            let sight = QueueSight { life: Some(life), head, committed, ..QueueSight::default() };
            self.attempts.follow((0, 0), &sight, Some(&self.queue));
        }
    }

    fn is_i9(result: Result<(), Broken>) -> bool {
        result.is_err_and(|broken| broken.invariant == Invariant::I9)
    }

    #[test]
    fn what_was_answered_is_not_sent_again_by_whom_it_was_answered_to() {
        let mut story = Story::new();
        assert_eq!(story.attempt(1, Some(451)), Ok(()));
        assert_eq!(story.attempt(1, None), Ok(()), "refused before");
        assert_eq!(story.attempt(1, Some(250)), Ok(()), "nobody knows of the one before");
        assert!(is_i9(story.attempt(1, None)));
    }

    #[test]
    fn two_that_are_under_way_at_once_are_found_when_both_are_answered() {
        let mut story = Story::new();
        assert_eq!(story.attempt(1, None), Ok(()));
        assert_eq!(story.attempt(1, None), Ok(()));
        assert_eq!(story.see(sighting(1, true, Some(250))), Ok(()));
        assert!(is_i9(story.see(sighting(1, true, Some(250)))));
    }

    #[test]
    fn one_whose_answer_comes_after_another_owner_repeated_it_is_allowed() {
        let mut story = Story::new();
        assert_eq!(story.attempt(2, None), Ok(()));
        assert_eq!(story.attempt(1, Some(250)), Ok(()));
        story.settle();
        story.look(1, 2);
        assert_eq!(story.see(sighting(2, true, Some(250))), Ok(()));
    }

    #[test]
    fn another_owner_sends_it_again_only_if_it_was_not_committed_that_it_was_delivered() {
        let mut story = Story::new();
        story.attempt(1, Some(250)).unwrap();
        assert_eq!(story.attempt(2, None), Ok(()), "it was not even noted");
        story.settle();
        story.look(1, 1);
        assert_eq!(story.attempt(2, None), Ok(()), "it was noted only");
        story.look(1, 2);
        assert!(is_i9(story.attempt(2, None)));
    }

    #[test]
    fn what_a_client_sent_twice_and_was_stored_twice_goes_out_twice() {
        let mut story = Story::new();
        story.attempt(1, Some(250)).unwrap();
        story.send();
        assert_eq!(story.attempt(1, Some(250)), Ok(()));
        assert!(is_i9(story.attempt(1, None)));
    }
}

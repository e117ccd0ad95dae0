//! Breaks the system on purpose, between the gateway's front and its shard, to prove that the
//! checks would see a gateway that did so by itself.

use std::sync::Arc;

use bytes::Bytes;
use gateway::api::{Command, Notice, Outcome, Ticket};
use gateway::message::{Message, QueueIndex};
use gateway::turn::Parcel;
use kvs_proto::MessageId;

/// What is done to one mail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// It is answered as committed, and never stored.
    Lose,
    /// It is stored twice.
    Double,
    /// It is handed to delivery after the one behind it.
    Reorder,
    /// One byte of it is changed before it is stored.
    Alter,
    /// That it was delivered is forgotten at once.
    Forget,
    /// A server that crashed never returns.
    KeepServerDown,
    /// A gateway's lease never ends, and its successor believes that it does.
    EternalLease,
}

/// Sits between the workers of a gateway and tampers with what passes.
#[derive(Debug)]
pub struct Saboteur {
    sabotage: Sabotage,
    /// So many parcels of the kind in question pass before it acts.
    countdown: u32,
    acted: bool,
    held: Option<(usize, QueueIndex, Parcel)>,
}

impl Sabotage {
    /// Whether it is done to what passes between the workers of a gateway.
    pub fn is_of_parcels(self) -> bool {
        !matches!(self, Sabotage::KeepServerDown | Sabotage::EternalLease)
    }
}

impl Saboteur {
    /// One that acts on the parcel after `countdown` others of its kind.
    pub fn new(sabotage: Sabotage, countdown: u32) -> Saboteur {
        Saboteur { sabotage, countdown, acted: false, held: None }
    }

    /// Takes a parcel on its way between workers; returns what goes on, and where to.
    pub fn pass(&mut self, from: usize, to: usize, parcel: Parcel) -> Vec<(usize, Parcel)> {
        match parcel {
            // What the saboteur stored is ready at once, and nobody hears of it.
            Parcel::Notice(Notice::Committed { ticket, queue, id })
                if ticket.serial == FORGED_SERIAL =>
            {
                vec![(from, Parcel::Command(Command::Release { queue, id }))]
            }
            Parcel::Command(Command::Release { id: FORGED_ID, .. }) => Vec::new(),
            Parcel::Command(Command::Store { queue, ticket, message })
                if self.is_a_store_s_turn() =>
            {
                self.tamper(from, to, queue, ticket, &message)
            }
            Parcel::Command(Command::Outcome { queue, id, outcome: Outcome::Settled })
                if self.sabotage == Sabotage::Forget && self.is_its_turn() =>
            {
                let outcome = Outcome::NotAttempted;
                vec![(to, Parcel::Command(Command::Outcome { queue, id, outcome }))]
            }
            Parcel::Notice(notice @ Notice::Attempt { .. })
                if self.sabotage == Sabotage::Reorder =>
            {
                self.reorder(to, notice)
            }
            parcel => vec![(to, parcel)],
        }
    }

    fn is_a_store_s_turn(&mut self) -> bool {
        let tampers = [Sabotage::Lose, Sabotage::Double, Sabotage::Alter];
        tampers.contains(&self.sabotage) && self.is_its_turn()
    }

    fn is_its_turn(&mut self) -> bool {
        let is_now = !self.acted && self.countdown == 0;
        self.countdown = self.countdown.saturating_sub(1);
        self.acted |= is_now;
        is_now
    }

    fn tamper(
        &mut self,
        from: usize,
        to: usize,
        queue: QueueIndex,
        ticket: Ticket,
        message: &Arc<Message>,
    ) -> Vec<(usize, Parcel)> {
        let store =
            |ticket, message| (to, Parcel::Command(Command::Store { queue, ticket, message }));
        match self.sabotage {
            Sabotage::Lose => {
                let notice = Notice::Committed { ticket, queue, id: FORGED_ID };
                vec![(from, Parcel::Notice(notice))]
            }
            Sabotage::Double => {
                let forged = Ticket { serial: FORGED_SERIAL, ..ticket };
                vec![store(ticket, message.clone()), store(forged, message.clone())]
            }
            Sabotage::Alter => vec![store(ticket, Arc::new(altered(message)))],
            Sabotage::Reorder
            | Sabotage::Forget
            | Sabotage::KeepServerDown
            | Sabotage::EternalLease => unreachable!("not done to stores"),
        }
    }

    fn reorder(&mut self, to: usize, notice: Notice) -> Vec<(usize, Parcel)> {
        let Notice::Attempt { queue, .. } = notice else { unreachable!("the caller looked") };
        if let Some((held_to, held_queue, held)) = self.held.take() {
            let follows = queue == held_queue;
            if follows {
                return vec![(to, Parcel::Notice(notice)), (held_to, held)];
            }
            self.held = Some((held_to, held_queue, held));
        } else if self.is_its_turn() {
            self.held = Some((to, queue, Parcel::Notice(notice)));
            return Vec::new();
        }
        vec![(to, Parcel::Notice(notice))]
    }
}

/// The message with one letter of its body changed.
fn altered(message: &Message) -> Message {
    let mut content = message.content.to_vec();
    // The last line ends with CRLF; before that stands a letter, or another line's end.
    let place = content.len() - 3;
    content[place] = if content[place] == b'x' { b'y' } else { b'x' };
    Message { envelope: message.envelope.clone(), content: Bytes::from(content) }
}

/// The ticket of what the saboteur stored.
const FORGED_SERIAL: u64 = u64::MAX;

/// The id of what was never stored.
const FORGED_ID: MessageId = MessageId(u64::MAX);

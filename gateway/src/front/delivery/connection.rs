//! One connection to a next hop.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use smtp::{ClientOptions, ClientSession, NewMail, NewRecipient, Waiting};
use tcpstack::{ConnectionId, Instant, SendError, Transport};

use super::attempt::{Attempt, InFlight};
use super::pool::Terms;
use super::share::Sharing;
use crate::front::config::DeliveryTimeouts;
use crate::message::{MessageRef, QueueIndex, Recipient};

/// A client session and its connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Whose messages it carries; another one's when [`can_change_queues`](Self::can_change_queues).
    pub(super) queue: QueueIndex,
    pub(super) terms: Terms,
    pub(super) smtp: ClientSession,
    /// Submitted and not finished, in order; the session allows two at most.
    pub(super) in_flight: VecDeque<InFlight>,
    /// How many more transactions it may carry; with none it says good-bye.
    pub(super) transactions_left: u32,
    /// How transactions are cut. None before the hand-shake is done: until then, the connection
    /// counts on the message that it will take.
    sharing: Option<Sharing>,
    /// TCP is established. Before, the transport keeps the time.
    pub(super) is_established: bool,
    /// What is awaited, since when it has been or was last got on with, and how long that may take.
    awaited: (Waiting, u64),
    reply_deadline: Instant,
    /// When the first transaction in flight must be over, however it gets on.
    transfer_deadline: Instant,
    /// It is in the list of connections to flush.
    pub(super) is_listed: bool,
    /// What it has to send waits for the queue's lease.
    pub(super) is_withheld: bool,
    /// It is counted as one that has nothing to do.
    pub(super) is_counted_idle: bool,
    /// It is in the pool.
    pub(super) is_pooled: bool,
}

impl Connection {
    pub(super) fn new(queue: QueueIndex, terms: Terms, hostname: &str) -> Connection {
        let options = ClientOptions {
            hostname: hostname.into(),
            protocol: terms.protocol,
            pipeline_transactions: terms.pipeline_transactions,
        };
        Connection {
            queue,
            terms,
            smtp: ClientSession::new(options),
            in_flight: VecDeque::new(),
            transactions_left: terms.transactions_max,
            sharing: None,
            is_established: false,
            awaited: (Waiting::Nothing, 0),
            reply_deadline: Instant::MAX,
            transfer_deadline: Instant::MAX,
            is_listed: false,
            is_withheld: false,
            is_counted_idle: false,
            is_pooled: false,
        }
    }

    /// Whether the hand-shake is done.
    pub(super) fn is_greeted(&self) -> bool {
        self.sharing.is_some()
    }

    /// The hand-shake is done: keeps to what the next hop has said.
    pub(super) fn handle_greeted(&mut self) {
        let capabilities = self.smtp.capabilities();
        let Terms { recipients_max, protocol, .. } = self.terms;
        self.sharing = Some(Sharing::new(recipients_max, protocol, &capabilities));
        if let Some(most) = capabilities.limits.transactions_max {
            self.transactions_left = self.transactions_left.min(most.get());
        }
    }

    /// Whether it can take one more transaction now. Those of one message do not overlap with
    /// others: what is left of it comes next.
    pub(super) fn can_submit(&self) -> bool {
        let is_split = self.in_flight.back().is_some_and(|it| !it.attempt.left.is_empty());
        self.transactions_left > 0 && !is_split && self.smtp.can_submit()
    }

    /// Whether it may go on with the messages of another queue with the same terms. Not where the next hop counts the domains
    /// of recipients on a connection: those of several queues would use it up.
    pub(super) fn can_change_queues(&self) -> bool {
        let has_room = self.sharing.as_ref().is_some_and(|it| !it.is_bound_to_domains());
        has_room && self.smtp.is_idle() && self.can_submit()
    }

    /// Begins a transaction for recipients that are left.
    ///
    /// # Errors
    /// The attempt, when this connection can carry none of them; nothing has begun then.
    pub(super) fn submit(
        &mut self,
        mut attempt: Attempt,
        now: Instant,
        unix_ms: u64,
    ) -> Result<(), Attempt> {
        let message = MessageRef::clone(&attempt.message);
        let envelope = &message.envelope;
        let sharing = self.sharing.as_mut().expect("only a greeted connection takes a message");
        let Some(share) = sharing.take(envelope, &mut attempt.left) else { return Err(attempt) };
        self.transactions_left -= 1;
        let in_flight = InFlight { attempt, share, started_unix_ms: unix_ms };
        self.smtp.submit(NewMail {
            key: in_flight.attempt.id.0,
            reverse_path: if in_flight.share.is_silent { "" } else { &envelope.reverse_path },
            recipients: in_flight.recipients().map(new_recipient),
            content: message.content.clone(),
            leading_dot: envelope.leading_dot,
            eight_bit: envelope.eight_bit,
            utf8: envelope.utf8,
            ret: envelope.ret,
            envelope_id: envelope.envelope_id.as_deref(),
            priority: envelope.priority,
        });
        if self.in_flight.is_empty() {
            self.transfer_deadline = now + self.terms.transfer_timeout;
        }
        self.in_flight.push_back(in_flight);
        Ok(())
    }

    /// Takes out a transaction that has finished.
    pub(super) fn finish(&mut self, key: u64, now: Instant) -> InFlight {
        let mut places = self.in_flight.iter();
        let place = places.position(|it| it.attempt.id.0 == key).expect("what was submitted");
        if place == 0 {
            let is_last = self.in_flight.len() == 1;
            self.transfer_deadline =
                if is_last { Instant::MAX } else { now + self.terms.transfer_timeout };
        }
        self.in_flight.remove(place).expect("just found")
    }

    /// Sends what there is to send, while it `may_send` what is part of a message.
    pub(super) fn send<T: Transport>(
        &mut self,
        transport: &mut T,
        id: ConnectionId,
        may_send: impl Fn() -> bool,
    ) -> Result<(), SendError> {
        while !self.smtp.output().is_empty() {
            self.is_withheld = !self.in_flight.is_empty() && !may_send();
            if self.is_withheld {
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES_PER_SEND];
            let (mut count, mut offered) = (0, 0);
            for (slice, place) in self.smtp.output().slices().zip(&mut slices) {
                *place = IoSlice::new(slice);
                count += 1;
                offered += slice.len();
            }
            let sent = transport.send(id, &slices[..count])?;
            self.smtp.consume_output(sent);
            if sent < offered {
                break;
            }
        }
        Ok(())
    }

    /// It does not wait for longer than that, whatever it waits for.
    pub(super) fn limit_waiting(&mut self, until: Instant) {
        self.reply_deadline = self.reply_deadline.min(until);
    }

    /// When to give up waiting.
    pub(super) fn deadline(&self) -> Instant {
        self.reply_deadline.min(self.transfer_deadline)
    }

    /// Gives what is awaited its time, if that is something else than before, or something was
    /// got on with. Bytes that come in and complete no reply are not.
    pub(super) fn renew_deadline(&mut self, now: Instant, timeouts: &DeliveryTimeouts) {
        let awaited = (self.smtp.waiting(), self.smtp.progress());
        if self.awaited != awaited || self.reply_deadline == Instant::MAX {
            self.awaited = awaited;
            self.reply_deadline = now + timeout(awaited.0, timeouts);
        }
    }
}

fn timeout(waiting: Waiting, timeouts: &DeliveryTimeouts) -> Duration {
    match waiting {
        Waiting::Greeting => timeouts.greeting,
        Waiting::Reply => timeouts.reply,
        Waiting::DataStart => timeouts.data_start,
        Waiting::ContentSent => timeouts.data_block,
        Waiting::DataEnd => timeouts.data_end,
        Waiting::Goodbye => GOODBYE_TIMEOUT,
        Waiting::Nothing => timeouts.idle,
    }
}

fn new_recipient(recipient: &Recipient) -> NewRecipient<'_> {
    let Recipient { address, notify, original } = recipient;
    NewRecipient { address, notify: *notify, original: original.as_deref() }
}

/// How long the answer to QUIT may take. It decides nothing, and stopping waits for it.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);
/// Slices handed to one send. A usual message is two or three; only dot-stuffing makes more, and
/// then it takes more sends.
const SLICES_PER_SEND: usize = 32;

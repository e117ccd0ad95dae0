//! One connection to a next hop.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

use smtp::{ClientOptions, ClientSession, NewMail, NewRecipient, Waiting};
use tcpstack::{ConnectionId, Instant, SendError, Transport};

use super::lane::Attempt;
use super::outcome::InFlight;
use crate::front::config::DeliveryTimeouts;
use crate::message::{MessageRef, QueueIndex, Recipient};

/// A client session and its connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) queue: QueueIndex,
    pub(super) next_hop: SocketAddr,
    pub(super) smtp: ClientSession,
    /// Submitted and not finished, in order; the session allows two at most.
    pub(super) in_flight: VecDeque<InFlight>,
    /// How many more messages it may carry.
    pub(super) messages_left: u32,
    /// TCP is established. Before, the transport keeps the time.
    pub(super) is_established: bool,
    /// The hand-shake is done. Before, it counts on the message that it will take then.
    pub(super) is_greeted: bool,
    /// What it waits for may take until then.
    pub(super) deadline: Instant,
    /// It is in the list of connections to flush.
    pub(super) is_listed: bool,
}

impl Connection {
    pub(super) fn new(
        queue: QueueIndex,
        next_hop: SocketAddr,
        options: ClientOptions,
        messages_left: u32,
    ) -> Connection {
        Connection {
            queue,
            next_hop,
            smtp: ClientSession::new(options),
            in_flight: VecDeque::new(),
            messages_left,
            is_established: false,
            is_greeted: false,
            deadline: Instant::MAX,
            is_listed: false,
        }
    }

    /// Whether it can take one more message now.
    pub(super) fn can_submit(&self) -> bool {
        self.messages_left > 0 && self.smtp.can_submit()
    }

    /// Begins a transaction for the recipients that are left.
    pub(super) fn submit(&mut self, attempt: Attempt, unix_ms: u64) {
        self.messages_left -= 1;
        let in_flight = InFlight::new(attempt, unix_ms);
        let message = MessageRef::clone(&in_flight.attempt.message);
        let envelope = &message.envelope;
        self.smtp.submit(NewMail {
            key: in_flight.attempt.id.0,
            reverse_path: &envelope.reverse_path,
            recipients: in_flight.recipients().map(new_recipient),
            content: message.content.clone(),
            leading_dot: envelope.leading_dot,
            eight_bit: envelope.eight_bit,
            utf8: envelope.utf8,
            ret: envelope.ret,
            envelope_id: envelope.envelope_id.as_deref(),
            priority: envelope.priority,
        });
        self.in_flight.push_back(in_flight);
    }

    /// Sends what there is to send.
    pub(super) fn send<T: Transport>(
        &mut self,
        transport: &mut T,
        id: ConnectionId,
    ) -> Result<(), SendError> {
        while !self.smtp.output().is_empty() {
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

    /// Sets the deadline for what is awaited now.
    pub(super) fn renew_deadline(&mut self, now: Instant, timeouts: &DeliveryTimeouts) {
        self.deadline = now + self.timeout(timeouts);
    }

    fn timeout(&self, timeouts: &DeliveryTimeouts) -> Duration {
        match self.smtp.waiting() {
            Waiting::Greeting => timeouts.greeting,
            Waiting::Reply => timeouts.reply,
            Waiting::DataStart => timeouts.data_start,
            Waiting::ContentSent => timeouts.data_block,
            Waiting::DataEnd => timeouts.data_end,
            Waiting::Goodbye => GOODBYE_TIMEOUT,
            Waiting::Nothing => timeouts.idle,
        }
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

//! One session of reception: what its events mean.

use std::sync::Arc;

use bytes::Bytes;
use smtp::{
    ContentSummary, MailParameters, RecipientParameters, Refusal, Return, ServerEvent,
    ServerLimits, ServerSession,
};
use tcpstack::{ConnectionId, Instant};

use super::admission::{self, Client};
use super::commits::{Part, WaitingMail};
use super::desk::Desk;
use super::pace::{Owed, Pace};
use super::reservation::{EnvelopeRoom, Reservation};
use super::trace::{self, MailId, TraceHeader};
use crate::api::{Command, Ticket};
use crate::board::Shortage;
use crate::message::{Envelope, Message, MessageRef, QueueIndex, Recipient};

/// A session and its connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) smtp: ServerSession,
    connection: ConnectionId,
    pub(super) client: Client,
    transaction: Transaction,
    /// The content of the message under way, trace header included.
    content: Vec<u8>,
    /// Of the mail that waits for its commit.
    pub(super) ticket: Option<u64>,
    messages: u32,
    /// Recipients that a stranger was refused since its last good message.
    strikes: u32,
    pub(super) pace: Pace,
    /// Until then nothing is sent: the greeting, or replies to a client that makes mistakes.
    pub(super) held_until: Option<Instant>,
    /// What there is to send now was held back already.
    was_held: bool,
    /// The greeting has left, or begun to.
    pub(super) is_greeted: bool,
    /// What cannot be sent at once will not be waited for.
    pub(super) is_given_up: bool,
    /// Receiving is not paused.
    pub(super) is_receiving: bool,
    /// The client has finished sending.
    pub(super) is_ended: bool,
    /// It is in the list of sessions to flush.
    pub(super) is_listed: bool,
}

/// What the client has said since MAIL.
#[derive(Default, Debug)]
struct Transaction {
    reverse_path: Box<str>,
    eight_bit: bool,
    utf8: bool,
    ret: Option<Return>,
    envelope_id: Option<Box<str>>,
    priority: Option<i8>,
    declared_size: Option<u64>,
    /// Accepted, in the client's order, each with its queue.
    recipients: Vec<(QueueIndex, Recipient)>,
    /// Sum of their [`Recipient::memory_bytes`].
    recipients_bytes: usize,
    /// For an envelope beyond a usual one, until the message goes to the shards.
    envelope_room: Option<EnvelopeRoom>,
    /// Since DATA.
    data: Option<Data>,
}

/// A message that is coming in.
#[derive(Debug)]
struct Data {
    id: MailId,
    /// Each once, with what its part of the envelope has beyond a usual one.
    queues: Vec<(QueueIndex, usize)>,
    reservation: Reservation,
    /// Octets of the trace header, behind which the client's content begins; 0: there is none.
    trace_len: usize,
}

/// Bytes of a session between transactions, but for its client's name and what
/// [`ServerSession`] keeps of its output. Ten thousand of them are a few megabytes.
const SESSION_SIZE_MAX: usize = 656;
const _: () = assert!(size_of::<Session>() <= SESSION_SIZE_MAX);

impl Session {
    pub(super) fn new(
        limits: &Arc<ServerLimits>,
        connection: ConnectionId,
        client: Client,
        desk: &Desk,
    ) -> Session {
        let config = &desk.config;
        let is_trusted = client.is_trusted();
        let rules = if is_trusted { config.trusted_rules } else { config.rules };
        let pauses = !is_trusted && !config.greet_pause.is_zero();
        Session {
            smtp: ServerSession::new(Arc::clone(limits), rules),
            connection,
            client,
            transaction: Transaction::default(),
            content: Vec::new(),
            ticket: None,
            messages: 0,
            strikes: 0,
            pace: Pace::new(desk.now),
            held_until: pauses.then(|| desk.now + config.greet_pause),
            was_held: false,
            is_greeted: false,
            is_given_up: false,
            is_receiving: true,
            is_ended: false,
            is_listed: false,
        }
    }

    /// Takes bytes from the client, applies what they mean and returns how many were taken. Stops
    /// at an event whose verdict has to wait.
    pub(super) fn receive(&mut self, input: &[u8], desk: &mut Desk) -> usize {
        if !self.is_greeted && self.held_until.is_some() && !self.smtp.is_closed() {
            desk.counters.early_talkers += 1;
            self.smtp.refuse_early_talker();
        }
        let mut used = 0;
        loop {
            let mut rest = &input[used..];
            if self.smtp.is_receiving_content() {
                let room = self.make_room(rest.len(), desk);
                rest = &rest[..room];
            }
            self.smtp.set_errors_in_groups_max(self.errors_in_groups_max(desk));
            let is_content = self.smtp.is_taking_content();
            let taken = self.smtp.handle_bytes(rest, &mut self.content);
            if is_content {
                self.pace.handle_content(taken);
            }
            used += taken;
            let event = self.smtp.poll_event();
            let is_idle = event.is_none();
            if let Some(event) = event {
                self.apply(event, desk);
            }
            // What the session counts itself it limits itself.
            if self.strikes > 0
                && self.ticket.is_none()
                && self.mistakes() >= desk.config.errors_max
            {
                self.smtp.close(&TOO_MANY_ERRORS);
                self.abandon();
            }
            if is_idle && (taken == 0 || used == input.len()) {
                return used;
            }
        }
    }

    /// What the client owes us now, when nothing is held back.
    pub(super) fn owed(&self) -> Owed {
        if self.held_until.is_some() || self.ticket.is_some() {
            Owed::Nothing
        } else if !self.smtp.output().is_empty() {
            Owed::Reading
        } else if self.smtp.is_taking_content() {
            Owed::Content
        } else {
            Owed::Command
        }
    }

    /// Whether what there is to send is held back: the greeting, so that who speaks too early
    /// shows, and replies to who makes many mistakes. Each reply is held back once.
    pub(super) fn holds_back(&mut self, desk: &mut Desk) -> bool {
        if self.smtp.is_closed() || self.is_ended {
            self.held_until = None;
        } else if self.held_until.is_none()
            && !self.was_held
            && !self.smtp.output().is_empty()
            && self.mistakes() > desk.config.errors_soft
            && !desk.config.error_delay.is_zero()
        {
            self.was_held = true;
            self.held_until = Some(desk.now + desk.config.error_delay);
            desk.counters.replies_held += 1;
        } else if self.held_until.is_none() {
            self.was_held = false;
        }
        self.held_until.is_some()
    }

    /// How many mistakes SMTP itself may count until it has to answer one by one, so that each reply
    /// is held back and not each group of replies.
    fn errors_in_groups_max(&self, desk: &Desk) -> Option<u32> {
        if desk.config.error_delay.is_zero() {
            return Some(u32::MAX);
        }
        desk.config.errors_soft.checked_sub(self.strikes)
    }

    /// Mistakes since the last good message.
    pub(super) fn mistakes(&self) -> u32 {
        self.smtp.errors() + self.strikes
    }

    /// The mail of this session is safe.
    pub(super) fn commit(&mut self, id: MailId) {
        self.strikes = 0;
        self.smtp.commit(id);
    }

    /// Gives back what the transaction holds. A mail that is with the shards stays with them.
    pub(super) fn abandon(&mut self) {
        self.transaction = Transaction::default();
        self.content = Vec::new();
    }

    fn apply(&mut self, event: ServerEvent, desk: &mut Desk) {
        match event {
            ServerEvent::Mail(parameters) => self.begin(parameters, desk),
            ServerEvent::Recipient(parameters) => self.add_recipient(parameters, desk),
            ServerEvent::DataRequested => self.begin_data(desk),
            ServerEvent::EndOfData(summary) => self.store(summary, desk),
            ServerEvent::Aborted | ServerEvent::Quit => self.abandon(),
        }
    }

    fn begin(&mut self, parameters: MailParameters, desk: &mut Desk) {
        if desk.is_stopping {
            return self.smtp.close(&STOPPING);
        }
        if self.messages >= desk.config.messages_per_session_max {
            return self.smtp.close(&TOO_MANY_MESSAGES);
        }
        let (hello, _) = self.smtp.hello().expect("MAIL comes after a hello");
        let reverse_path = parameters.reverse_path.as_str();
        if let Err(refusal) = admission::judge_sender(&self.client, hello, reverse_path, desk) {
            return self.smtp.refuse(refusal);
        }
        // RFC 1870 §6.3: what cannot be stored now is refused before it is sent.
        let budget = u64::try_from(desk.board.bytes_left()).unwrap_or(0);
        if parameters.size.is_some_and(|size| size > budget) {
            desk.counters.shortages += 1;
            return self.smtp.refuse(&MEMORY_FULL);
        }
        let asked = parameters.priority;
        let is_trusted = self.client.is_trusted();
        let priority = asked.map(|asked| desk.config.relay.priority(asked, is_trusted));
        self.transaction = Transaction {
            reverse_path: parameters.reverse_path.into_boxed_str(),
            eight_bit: parameters.eight_bit,
            utf8: parameters.utf8,
            ret: parameters.ret,
            envelope_id: parameters.envelope_id,
            priority,
            declared_size: parameters.size,
            ..Transaction::default()
        };
        match priority {
            Some(priority) if asked != Some(priority) => {
                self.smtp.accept_mail_with_priority(priority);
            }
            _ => self.smtp.accept_mail(),
        }
    }

    fn add_recipient(&mut self, parameters: RecipientParameters, desk: &mut Desk) {
        let RecipientParameters { path, notify, original } = parameters;
        let Transaction { reverse_path, recipients, .. } = &self.transaction;
        let others = recipients.len();
        let judged = admission::judge_recipient(&self.client, reverse_path, others, &path, desk);
        let queue = match judged {
            Ok(queue) => queue,
            Err(refusal) => return self.refuse_recipient(refusal),
        };
        // The same mailbox twice gets one copy, by what was said of it first.
        let is_same =
            |(_, other): &(QueueIndex, Recipient)| is_same_mailbox(&other.address, path.as_str());
        if self.transaction.recipients.iter().any(is_same) {
            desk.counters.recipients_repeated += 1;
            return self.smtp.accept_recipient();
        }
        let recipient = Recipient { address: path.into_boxed_str(), notify, original };
        if let Err(shortage) = self.transaction.make_room_for(&recipient, desk) {
            desk.counters.shortages += 1;
            return self.smtp.refuse(refusal_for(shortage));
        }
        self.transaction.recipients.push((queue, recipient));
        self.smtp.accept_recipient();
    }

    /// Reserves before 354 promises to take the message.
    fn begin_data(&mut self, desk: &mut Desk) {
        let queues = self.transaction.queues();
        let id = desk.next_mail_id();
        let declared = self.transaction.declared_size.map(|size| usize::try_from(size).ok());
        let expected = declared.flatten().map_or(FIRST_PORTION, |it| it.saturating_add(END_LEN));
        self.content.clear();
        if desk.config.trace_header {
            self.append_trace(id, desk);
        }
        let trace_len = self.content.len();
        let bytes = trace_len.saturating_add(expected);
        let client = self.client.content_room(&desk.config);
        match Reservation::take(&desk.board, client, &queues, bytes) {
            Ok(reservation) => {
                self.content.reserve_exact(expected);
                self.transaction.data = Some(Data { id, queues, reservation, trace_len });
                self.smtp.accept_data();
            }
            Err(shortage) => {
                desk.counters.shortages += 1;
                self.content = Vec::new();
                self.smtp.refuse(refusal_for(shortage));
            }
        }
    }

    fn append_trace(&mut self, id: MailId, desk: &Desk) {
        let (client_name, extended) = self.smtp.hello().expect("DATA comes after a hello");
        let Transaction { recipients, utf8, priority, .. } = &self.transaction;
        let recipient = match recipients.as_slice() {
            [(_, only)] if desk.config.trace_recipient => Some(&*only.address),
            _ => None,
        };
        let header = TraceHeader {
            client_name,
            client_address: self.client.address,
            hostname: &desk.hostname,
            extended,
            utf8: *utf8,
            priority: *priority,
            recipient,
            id,
        };
        trace::append(&mut self.content, &header);
    }

    /// Makes room for content of `input_len` octets or the first of them, and returns of how many.
    /// The buffer never holds more than is reserved, and grows by a part of its size, so that
    /// neither memory nor time is wasted on mail of unknown size. What cannot be reserved is
    /// refused; the input is dropped then, whatever its length.
    fn make_room(&mut self, input_len: usize, desk: &mut Desk) -> usize {
        let wanted = self.smtp.content_len_max(input_len);
        let least = self.smtp.content_len_max(input_len.min(PIECE_LEN_MIN));
        if self.content.capacity() - self.content.len() < least
            && let Err(shortage) = self.grow(wanted)
        {
            desk.counters.shortages += 1;
            self.abandon();
            self.smtp.refuse_content(refusal_for(shortage));
            return input_len;
        }
        let room = self.content.capacity() - self.content.len();
        if wanted <= room {
            return input_len;
        }
        // Bare newlines that are made whole need twice the room.
        let fits = room - self.smtp.content_len_max(0);
        if self.smtp.content_len_max(fits) <= room { fits } else { fits / 2 }
    }

    /// Grows the content's buffer by `wanted` octets at least, reserved first.
    fn grow(&mut self, wanted: usize) -> Result<(), Shortage> {
        let data = self.transaction.data.as_mut().expect("content has its reservation");
        let (len, capacity) = (self.content.len(), self.content.capacity());
        let step = if capacity < LARGE_CONTENT { capacity / 2 } else { capacity / 8 };
        let needed = len.saturating_add(wanted);
        let generous = needed.max(capacity.saturating_add(step));
        let grown = data.reservation.grow_to(generous).map(|()| generous);
        let grown = grown.or_else(|_| data.reservation.grow_to(needed).map(|()| needed))?;
        self.content.reserve_exact(grown - len);
        Ok(())
    }

    fn refuse_recipient(&mut self, refusal: &Refusal) {
        self.smtp.refuse(refusal);
        if refusal.code >= 500 && !self.client.is_trusted() {
            self.strikes += 1;
        }
    }

    /// Sends the message to the shards of its queues. The answer comes by notice.
    fn store(&mut self, summary: ContentSummary, desk: &mut Desk) {
        let transaction = std::mem::take(&mut self.transaction);
        let data = transaction.data.expect("content has its room");
        let Data { id, queues, mut reservation, trace_len } = data;
        desk.counters.received += 1;
        self.messages += 1;
        let mut content = std::mem::take(&mut self.content);
        if let Err(shortage) = end_trace(&mut content, trace_len, &mut reservation) {
            desk.counters.shortages += 1;
            return self.smtp.refuse(refusal_for(shortage));
        }
        let trace_fields = smtp::count_trace_fields(&content);
        if trace_fields > desk.config.received_max + usize::from(desk.config.trace_header) {
            desk.counters.loops += 1;
            return self.smtp.refuse(&LOOP);
        }
        if content.capacity() - content.len() > content.len() / 8 + SLACK_BYTES {
            content.shrink_to_fit();
        }
        let content = Bytes::from(content);
        reservation.hand_over(content.len());
        let ticket = Ticket { front: desk.number, serial: id.serial };
        let is_shared = queues.len() > 1;
        let mut recipients = transaction.recipients;
        let mut parts = Vec::with_capacity(queues.len());
        for (queue, surplus) in queues {
            let envelope = Envelope {
                reverse_path: transaction.reverse_path.clone(),
                recipients: take_recipients(&mut recipients, queue, is_shared),
                eight_bit: transaction.eight_bit,
                utf8: transaction.utf8,
                leading_dot: summary.leading_dot,
                ret: transaction.ret,
                envelope_id: transaction.envelope_id.clone(),
                priority: transaction.priority,
                accepted_unix_ms: desk.unix_ms,
            };
            let content = content.clone();
            let message = MessageRef::new(Message { envelope, content });
            debug_assert_eq!(message.counted_bytes(), message.content.len() + surplus);
            desk.commands.push_back(Command::Store {
                queue,
                ticket,
                message: MessageRef::clone(&message),
            });
            parts.push(Part { queue, message, committed: None });
        }
        self.ticket = Some(id.serial);
        let mail = WaitingMail { session: Some(self.connection), id, parts };
        desk.commits.insert(desk.now + desk.config.commit_timeout, mail);
    }
}

impl Transaction {
    /// Makes sure of room for one more recipient. A usual envelope is within what is counted for
    /// every message at DATA, so nothing is to be done for it.
    fn make_room_for(&mut self, recipient: &Recipient, desk: &Desk) -> Result<(), Shortage> {
        let recipients_bytes = self.recipients_bytes + recipient.memory_bytes();
        let surplus = self.surplus_bytes(std::iter::once(recipients_bytes));
        if surplus > 0 {
            let room = self.envelope_room.get_or_insert_with(|| EnvelopeRoom::new(&desk.board));
            room.grow_to(surplus)?;
        }
        self.recipients_bytes = recipients_bytes;
        Ok(())
    }

    /// The queues of the recipients, each once, with what its part of the envelope has beyond a
    /// usual one.
    fn queues(&self) -> Vec<(QueueIndex, usize)> {
        let mut queues: Vec<(QueueIndex, usize)> = Vec::with_capacity(1);
        for (queue, _) in &self.recipients {
            if !queues.iter().any(|(other, _)| other == queue) {
                queues.push((*queue, 0));
            }
        }
        let is_shared = queues.len() > 1;
        for (queue, surplus) in &mut queues {
            *surplus = if is_shared {
                let own = self.recipients.iter().filter(|(of, _)| of == queue);
                self.surplus_bytes(own.map(|(_, recipient)| recipient.memory_bytes()))
            } else {
                self.surplus_bytes(std::iter::once(self.recipients_bytes))
            };
        }
        queues
    }

    fn surplus_bytes(&self, recipients: impl Iterator<Item = usize>) -> usize {
        Envelope::surplus_bytes(&self.reverse_path, self.envelope_id.as_deref(), recipients)
    }
}

/// Ends the header behind our trace field if the content begins with a blank: such a line would go
/// on with the field, as if we had written it, and is none of a header itself.
fn end_trace(
    content: &mut Vec<u8>,
    trace_len: usize,
    reservation: &mut Reservation,
) -> Result<(), Shortage> {
    if trace_len > 0 && matches!(content.get(trace_len), Some(b' ' | b'\t')) {
        let end_of_header = *b"\r\n";
        reservation.grow_to(content.len() + end_of_header.len())?;
        content.reserve_exact(end_of_header.len());
        content.splice(trace_len..trace_len, end_of_header);
    }
    Ok(())
}

/// The recipients of one queue. Where there are no others, nothing is searched.
fn take_recipients(
    recipients: &mut Vec<(QueueIndex, Recipient)>,
    queue: QueueIndex,
    is_shared: bool,
) -> Vec<Recipient> {
    if !is_shared {
        return recipients.drain(..).map(|(_, recipient)| recipient).collect();
    }
    recipients.extract_if(.., |(of, _)| *of == queue).map(|(_, recipient)| recipient).collect()
}

fn refusal_for(shortage: Shortage) -> &'static Refusal {
    match shortage {
        Shortage::NotReplicated => &NOT_REPLICATED,
        Shortage::QueueFull => &QUEUE_FULL,
        Shortage::MemoryFull => &MEMORY_FULL,
        Shortage::ClientFull => &CLIENT_FULL,
    }
}

/// Whether two forward-paths name one mailbox: local parts are compared with their case, domains
/// without (RFC 5321 §2.4). A thousand recipients cost half a million of these, most of which end at
/// the length: about a millisecond.
fn is_same_mailbox(one: &str, other: &str) -> bool {
    let domain_start = |mailbox: &str| mailbox.rfind('@').unwrap_or(mailbox.len());
    one.len() == other.len() && {
        let at = domain_start(one);
        at == domain_start(other)
            && one.as_bytes()[..at] == other.as_bytes()[..at]
            && one.as_bytes()[at..].eq_ignore_ascii_case(&other.as_bytes()[at..])
    }
}

/// Reserved at DATA when the client did not declare a size; more is taken as content comes in.
const FIRST_PORTION: usize = 16 * 1024;
/// Room beyond the declared size, so that the end of data does not make the buffer grow.
const END_LEN: usize = 16;
/// Content is taken in pieces of so much at least, when the input has it.
const PIECE_LEN_MIN: usize = 512;
/// From here on a buffer grows by an eighth of its size, before by half.
const LARGE_CONTENT: usize = 1024 * 1024;
/// A content buffer may be larger than its content by an eighth and this; else it is cut to size,
/// so that memory stays near what the board counts.
const SLACK_BYTES: usize = 512;

pub(super) const NOT_REPLICATED: Refusal =
    Refusal::new(451, (4, 4, 0), "Mail for this recipient cannot be kept safe now, try later");
const QUEUE_FULL: Refusal = Refusal::new(452, (4, 3, 1), "The queue is full, try later");
const MEMORY_FULL: Refusal = Refusal::new(452, (4, 3, 1), "Out of room, try later");
const CLIENT_FULL: Refusal =
    Refusal::new(452, (4, 3, 1), "Too much mail from your address at a time, try later");
const TOO_MANY_MESSAGES: Refusal =
    Refusal::new(421, (4, 7, 0), "Enough messages for one session, connect again");
const TOO_MANY_ERRORS: Refusal = Refusal::new(421, (4, 7, 0), "Too many errors");
const LOOP: Refusal =
    Refusal::new(554, (5, 4, 6), "Too many Received fields: the message runs in a circle");
pub(super) const STOPPING: Refusal = Refusal::new(421, (4, 3, 2), "Shutting down");

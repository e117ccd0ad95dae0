//! One session of reception: what its events mean.

use std::sync::Arc;

use bytes::Bytes;
use smtp::{
    ContentSummary, MailParameters, RecipientParameters, Refusal, Return, ServerEvent,
    ServerLimits, ServerSession, SessionRules,
};
use tcpstack::{ConnectionId, Instant};

use super::admission::{self, Client};
use super::commits::{Part, WaitingMail};
use super::desk::Desk;
use super::reservation::Reservation;
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
    /// The client's time is up then.
    pub(super) deadline: Instant,
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
    /// Since DATA.
    data: Option<Data>,
}

/// A message that is coming in.
#[derive(Debug)]
struct Data {
    id: MailId,
    queues: Vec<QueueIndex>,
    reservation: Reservation,
}

impl Session {
    pub(super) fn new(
        limits: &Arc<ServerLimits>,
        connection: ConnectionId,
        client: Client,
        rules: SessionRules,
        deadline: Instant,
    ) -> Session {
        Session {
            smtp: ServerSession::new(Arc::clone(limits), rules),
            connection,
            client,
            transaction: Transaction::default(),
            content: Vec::new(),
            ticket: None,
            messages: 0,
            deadline,
            is_receiving: true,
            is_ended: false,
            is_listed: false,
        }
    }

    /// Takes bytes from the client, applies what they mean and returns how many were taken. Stops
    /// at an event whose verdict has to wait.
    pub(super) fn receive(&mut self, input: &[u8], desk: &mut Desk) -> usize {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            if self.smtp.is_receiving_content() {
                self.reserve_for(self.smtp.content_len_max(rest.len()), desk);
            }
            let taken = self.smtp.handle_bytes(rest, &mut self.content);
            used += taken;
            match self.smtp.poll_event() {
                Some(event) => self.apply(event, desk),
                None if taken == 0 || used == input.len() => return used,
                None => {}
            }
        }
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
        let is_trusted = self.client.is_trusted();
        let allowed = |asked| desk.config.relay.priority(asked, is_trusted);
        self.transaction = Transaction {
            reverse_path: parameters.reverse_path.into_boxed_str(),
            eight_bit: parameters.eight_bit,
            utf8: parameters.utf8,
            ret: parameters.ret,
            envelope_id: parameters.envelope_id,
            priority: parameters.priority.map(allowed),
            declared_size: parameters.size,
            ..Transaction::default()
        };
        self.smtp.accept_mail();
    }

    fn add_recipient(&mut self, parameters: RecipientParameters, desk: &mut Desk) {
        let RecipientParameters { path, notify, original } = parameters;
        let Transaction { reverse_path, recipients, .. } = &self.transaction;
        let others = recipients.len();
        let judged = admission::judge_recipient(&self.client, reverse_path, others, &path, desk);
        let queue = match judged {
            Ok(queue) => queue,
            Err(refusal) => return self.smtp.refuse(refusal),
        };
        let recipient = Recipient { address: path.into_boxed_str(), notify, original };
        self.transaction.recipients.push((queue, recipient));
        self.smtp.accept_recipient();
    }

    /// Reserves before 354 promises to take the message.
    fn begin_data(&mut self, desk: &mut Desk) {
        let mut queues = Vec::with_capacity(1);
        for (queue, _) in &self.transaction.recipients {
            if !queues.contains(queue) {
                queues.push(*queue);
            }
        }
        let id = desk.next_mail_id();
        let declared = self.transaction.declared_size.map(|size| usize::try_from(size).ok());
        let expected = declared.flatten().unwrap_or(FIRST_PORTION);
        self.content.clear();
        if desk.config.trace_header {
            self.append_trace(id, desk);
        }
        let own = self.content.len() + self.smtp.content_len_max(0);
        let bytes = own.saturating_add(expected);
        match Reservation::take(&desk.board, &queues, bytes) {
            Ok(reservation) => {
                self.content.reserve_exact(expected);
                self.transaction.data = Some(Data { id, queues, reservation });
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
        let header = TraceHeader {
            client_name,
            client_address: self.client.address,
            hostname: &desk.hostname,
            extended,
            utf8: self.transaction.utf8,
            priority: self.transaction.priority,
            id,
        };
        trace::append(&mut self.content, &header);
    }

    /// Makes sure of room for `more` octets of content before they are taken.
    fn reserve_for(&mut self, more: usize, desk: &mut Desk) {
        let data = self.transaction.data.as_mut().expect("content has its reservation");
        if let Err(shortage) = data.reservation.grow_to(self.content.len() + more) {
            desk.counters.shortages += 1;
            self.abandon();
            self.smtp.refuse_content(refusal_for(shortage));
        }
    }

    /// Sends the message to the shards of its queues. The answer comes by notice.
    fn store(&mut self, summary: ContentSummary, desk: &mut Desk) {
        let transaction = std::mem::take(&mut self.transaction);
        let Data { id, queues, reservation } = transaction.data.expect("content has its room");
        desk.counters.received += 1;
        self.messages += 1;
        let mut content = std::mem::take(&mut self.content);
        if content.capacity() - content.len() > content.len() / 4 + SLACK_BYTES {
            content.shrink_to_fit();
        }
        let content = Bytes::from(content);
        reservation.hand_over(content.len());
        let ticket = Ticket { front: desk.number, serial: id.serial };
        let is_shared = queues.len() > 1;
        let mut recipients = transaction.recipients;
        let mut parts = Vec::with_capacity(queues.len());
        for queue in queues {
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
    }
}

/// Reserved at DATA when the client did not declare a size; more is taken as content comes in.
const FIRST_PORTION: usize = 16 * 1024;
/// A content buffer may be larger than its content by a quarter and this; else it is cut to size,
/// so that memory stays near what the board counts.
const SLACK_BYTES: usize = 2048;

pub(super) const NOT_REPLICATED: Refusal =
    Refusal::new(451, (4, 4, 0), "Mail for this recipient cannot be kept safe now, try later");
const QUEUE_FULL: Refusal = Refusal::new(452, (4, 3, 1), "The queue is full, try later");
const MEMORY_FULL: Refusal = Refusal::new(452, (4, 3, 1), "Out of room, try later");
const TOO_MANY_MESSAGES: Refusal =
    Refusal::new(421, (4, 7, 0), "Enough messages for one session, connect again");
pub(super) const STOPPING: Refusal = Refusal::new(421, (4, 3, 2), "Shutting down");

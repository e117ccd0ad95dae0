//! The ledger: from what senders and sinks noted, proves that nothing acknowledged is missing,
//! nothing was altered, invented or sent astray, that duplicates are only where they are allowed,
//! and that queues kept their order.
//!
//! Feed a [`Ledger`] with [`Event`]s in any order of sources, then ask for its [`Verdict`]. The rules,
//! for each recipient of each mail:
//!
//! * Answered 250: some sink must have answered 250 for it, or refused it for good.
//! * Copies are sinks' 250s and permanent refusals. Allowed are one for the 250, one for each
//!   attempt without an answer (the sender sent it again), one for each restart mark close
//!   behind a delivery or a refusal. A hand-over that a sink left unanswered is no copy: the gateway has
//!   to repeat it.
//! * Never answered 250: allowed copies are those of attempts without an answer.
//! * DSNs: refused for good by a sink, and never taken: a DSN must say so, where they are required, and
//!   one only for each refusal (and each restart before one, or close behind one that arrived). None may say that
//!   what was delivered failed, that what was not delivered was, or anything about a mail with the
//!   null reverse-path. A DSN that a sink refused for good is nobody's fault.
//! * Order: A before B when A's 250 came before B's final dot was sent. First attempts at the sink
//!   that contradict this displace the later one; how far is allowed depends on the connections.

mod event;
mod judge;
mod log;
mod order;
mod verdict;

use std::collections::HashMap;
use std::sync::Arc;

pub use event::{Answer, Event, Outcome, Recipients};
pub use log::{GATHERED_SIZE_BYTES_MAX, GATHERED_TIME_MAX, LogFile, NoRecord, Recorder, read_log};
pub use verdict::{Counts, Problem, ProblemKind, Verdict};

use crate::dsn::Action;
use crate::identity::{MailId, RecipientId};

/// What the ledger allows.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How far first attempts may be displaced within a queue; `None`: reported, not judged; 0:
    /// strict, for delivery over one connection.
    pub displacement_max: Option<u64>,
    /// When a gateway crashed or restarted, in microseconds since 1970.
    pub restarts_us: Vec<u64>,
    /// A restart may repeat what a sink had answered within so many microseconds before it: the
    /// delete had not reached the copies yet.
    pub restart_window_us: u64,
    /// How far the clocks of sender processes may be apart, in microseconds. Only order is judged
    /// by them.
    pub clock_slack_us: u64,
    /// Deliveries that bear none of our identities are counted but are no fault.
    pub foreign_allowed: bool,
    /// Whether a DSN must arrive for each recipient that a sink refused for good.
    pub bounces: Bounces,
    /// The gateway may give up what no sink refused for good, if it says so by a DSN: it expired, or the
    /// next hop lacks an extension.
    pub giving_up_allowed: bool,
}

/// What is expected of DSNs that say that a mail failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Bounces {
    /// They may be missing. (What they say must be true all the same.)
    #[default]
    Ignored,
    /// One for each recipient that a sink refused for good.
    Required,
    /// None: the senders asked for none (NOTIFY=NEVER).
    Forbidden,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            displacement_max: None,
            restarts_us: Vec::new(),
            restart_window_us: 2_000_000,
            clock_slack_us: 0,
            foreign_allowed: false,
            bounces: Bounces::Ignored,
            giving_up_allowed: false,
        }
    }
}

/// Both ends' accounts. Memory grows with the events: about 200 bytes for a mail with one recipient.
#[derive(Debug)]
pub struct Ledger {
    policy: Policy,
    queues: HashMap<Arc<str>, u32>,
    queue_names: Vec<Arc<str>>,
    intents: Vec<Intent>,
    places: Vec<IntentPlace>,
    attempts: Vec<Attempt>,
    deliveries: Vec<Delivery>,
    notices: Vec<Notice>,
    /// Mails that a sink refused as a whole.
    refusals: Vec<MailId>,
    /// Deliveries of which neither content nor envelope is ours.
    foreign: u64,
    unreadable: u64,
    /// Runs of senders whose log has no end: its tail may be lost.
    open_runs: Vec<u32>,
    sinks_open: u64,
    log: Option<LogState>,
}

#[derive(Debug)]
struct Intent {
    mail: MailId,
    digest: u64,
    null_sender: bool,
    places_at: usize,
    places: usize,
}

#[derive(Clone, Copy, Debug)]
struct IntentPlace {
    queue: u32,
    recipients: u16,
}

#[derive(Debug)]
struct Attempt {
    mail: MailId,
    at_us: u64,
    dot_us: u64,
    answer: Answer,
    recipients: Recipients,
}

#[derive(Clone, Copy, Debug)]
struct Delivery {
    position: u64,
    at_us: u64,
    recipient: RecipientId,
    queue: u32,
    outcome: Outcome,
    mail: Option<MailId>,
    digest: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Notice {
    position: u64,
    at_us: u64,
    outcome: Outcome,
    action: Option<Action>,
    mail: Option<MailId>,
    /// Whom it is about and the queue by the address's domain. `None`: not seen, or none of ours.
    recipient: Option<(RecipientId, u32)>,
}

/// Whose log is being read, and whether its end was seen.
#[derive(Debug, Default)]
struct LogState {
    run: Option<u32>,
    is_sink: bool,
    ended: bool,
}

impl Ledger {
    /// An empty one.
    pub fn new(policy: Policy) -> Ledger {
        Ledger {
            policy,
            queues: HashMap::new(),
            queue_names: Vec::new(),
            intents: Vec::new(),
            places: Vec::new(),
            attempts: Vec::new(),
            deliveries: Vec::new(),
            notices: Vec::new(),
            refusals: Vec::new(),
            foreign: 0,
            unreadable: 0,
            open_runs: Vec::new(),
            sinks_open: 0,
            log: None,
        }
    }

    /// Notes that a gateway crashed or restarted then.
    pub fn mark_restart(&mut self, at_us: u64) {
        self.policy.restarts_us.push(at_us);
    }

    /// What follows comes from one log file, whose tail is lost unless it has an end.
    pub fn begin_log(&mut self) {
        self.close_log();
        self.log = Some(LogState::default());
    }

    /// Counts a line that is no event.
    pub fn add_unreadable(&mut self) {
        self.unreadable += 1;
    }

    /// Adds one event.
    pub fn add(&mut self, event: Event) {
        match event {
            Event::SenderBegins { run, .. } => {
                if let Some(log) = &mut self.log {
                    log.run = Some(run);
                }
            }
            Event::SinkBegins { .. } => {
                if let Some(log) = &mut self.log {
                    log.is_sink = true;
                }
            }
            Event::End { .. } => {
                if let Some(log) = &mut self.log {
                    log.ended = true;
                }
            }
            Event::Intent { mail, digest, null_sender, places, .. } => {
                let places_at = self.places.len();
                for place in &places {
                    let queue = self.queue(&place.queue);
                    self.places.push(IntentPlace { queue, recipients: place.recipients });
                }
                let places = places.len();
                self.intents.push(Intent { mail, digest, null_sender, places_at, places });
            }
            Event::Answer { mail, at_us, dot_us, answer, recipients } => {
                self.attempts.push(Attempt { mail, at_us, dot_us, answer, recipients });
            }
            Event::Delivery { position, at_us, outcome, mail, digest, recipient, .. } => {
                let Some((recipient, domain)) = RecipientId::parse(&recipient) else {
                    self.foreign += 1;
                    return;
                };
                let queue = self.queue(domain);
                self.deliveries.push(Delivery {
                    position,
                    at_us,
                    recipient,
                    queue,
                    outcome,
                    mail,
                    digest,
                });
            }
            Event::Notice { position, at_us, outcome, action, mail, recipient, .. } => {
                let recipient = recipient.as_deref().and_then(RecipientId::parse);
                let recipient = recipient.map(|(id, domain)| (id, self.queue(domain)));
                self.notices.push(Notice { position, at_us, outcome, action, mail, recipient });
            }
            Event::Refusal { mail, .. } => self.refusals.push(mail),
        }
    }

    /// Judges everything added so far.
    pub fn verdict(&mut self) -> Verdict {
        self.close_log();
        judge::judge(self)
    }

    fn close_log(&mut self) {
        if let Some(log) = self.log.take().filter(|log| !log.ended) {
            self.open_runs.extend(log.run);
            self.sinks_open += u64::from(log.is_sink);
        }
    }

    fn queue(&mut self, name: &str) -> u32 {
        if let Some(&queue) = self.queues.get(name) {
            return queue;
        }
        let name: Arc<str> = name.into();
        let queue = u32::try_from(self.queue_names.len()).expect("fewer domains than 2^32");
        self.queue_names.push(Arc::clone(&name));
        self.queues.insert(name, queue);
        queue
    }
}

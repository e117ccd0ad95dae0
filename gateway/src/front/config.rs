//! What a front is told when it is made. Plain values: reading and checking the file is elsewhere.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use smtp::{Protocol, SessionRules};

use super::addresses::AddressSet;
use super::domains::comparable;
use super::networks::Networks;
use super::policy::{Checks, RelayPolicy};
use crate::clients::ClientLimits;
use crate::message::QueueIndex;

/// All that one front needs to know.
#[derive(Clone, Debug)]
pub struct FrontConfig {
    /// Our name: in the greeting, the trace header, and our EHLO. A domain by RFC 5321 §2.3.5.
    pub hostname: Box<str>,
    /// This front's number, from 0; below `fronts`.
    pub number: u16,
    /// How many fronts there are. Front n delivers the queues whose index modulo this is n.
    pub fronts: u16,
    /// Where the jitter of back-off comes from.
    pub seed: u64,
    /// The server's side.
    pub reception: ReceptionConfig,
    /// The client's side.
    pub delivery: DeliveryConfig,
    /// What senders are told.
    pub reports: ReportConfig,
}

/// How reports to senders (DSN) are made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReportConfig {
    /// The gateway's name among its like: makes the names of reports unique.
    pub gateway: Box<str>,
    /// The queue for reports to senders whose domain has no route. Without it such reports are
    /// dropped, and recorded.
    pub queue: Option<QueueIndex>,
    /// Most octets of the original that a report returns.
    pub content_max: usize,
}

/// How mail is received.
#[derive(Clone, Debug)]
pub struct ReceptionConfig {
    /// Where to listen. Port 0 takes a free one and keeps it.
    pub listen: Vec<SocketAddr>,
    /// Most sessions at a time; one more gets 421 4.3.2.
    pub sessions_max: usize,
    /// Most messages of one session; MAIL beyond it gets 421 4.7.0 and the session ends.
    pub messages_per_session_max: u32,
    /// Most octets of a message as the client sends it; beyond it 552 5.3.4.
    pub message_size_max: u64,
    /// Most recipients of a transaction; beyond it 452 4.5.3. At most
    /// [`RECIPIENTS_MAX`](crate::message::RECIPIENTS_MAX).
    pub recipients_max: usize,
    /// Most octets of a text line without CRLF; beyond it 554 5.6.0. At least 998 (RFC 5321
    /// §4.5.3.1.6).
    pub text_line_max: usize,
    /// So many bad commands end the session with 421 4.7.0.
    pub errors_max: u32,
    /// So many bad commands, and recipients that a client outside of the relay networks was
    /// refused, are answered at once; each reply behind them is held back for `error_delay`.
    pub errors_soft: u32,
    /// How long. Holding back costs a timer and blocks nothing.
    pub error_delay: Duration,
    /// How strict sessions are about bare newlines and about clients that do not wait.
    pub rules: SessionRules,
    /// The same for clients of the relay networks.
    pub trusted_rules: SessionRules,
    /// How long clients outside of the relay networks wait for the greeting. Who speaks before it
    /// gets 554 5.5.0. Zero: at once, and nobody can speak before.
    pub greet_pause: Duration,
    /// How long reception waits for slow clients.
    pub patience: Patience,
    /// Most Received fields that a message comes with; one more, and it runs in a circle (RFC 5321
    /// §6.3): 554 5.4.6 after its end.
    pub received_max: usize,
    /// How long transactions may go on after [`stop`](super::Front::stop). Then they get 421 4.3.2;
    /// a message whose end of data has come still gets its answer.
    pub drain: Duration,
    /// A message that has not been committed so long after its end gets 451 and is withdrawn.
    pub commit_timeout: Duration,
    /// Put a Received line before each message (RFC 5321 §4.4). Off only where another relay of
    /// the same operator writes it.
    pub trace_header: bool,
    /// Name the recipient in that line where there is only one. Off by default: whoever the mail is
    /// passed on to learns by which address it came.
    pub trace_recipient: bool,
    /// Which mail goes to which queue.
    pub routes: Routes,
    /// Who may relay where.
    pub relay: RelayPolicy,
    /// Which senders and recipients are refused.
    pub checks: Checks,
    /// By queue: all recipients that it takes mail for, if it has a list. Others get 550 5.1.1,
    /// but for the postmaster of each domain. A queue beyond the end has none.
    pub known_recipients: Vec<Option<Arc<AddressSet>>>,
    /// What each client may do; all fronts count together.
    pub client_limits: ClientLimits,
    /// Clients without limits of their own.
    pub exempt_networks: Networks,
}

/// How long reception waits for slow clients: usually, and under load.
///
/// A front is under load while its sessions are above a share of their bound, or while the
/// gateway's memory is short (see [`Board::is_short`](crate::board::Board::is_short)). At the bound
/// itself a newcomer takes the place of a session that has been idle for a second or more, the
/// one that has been so longest of some that are looked at; that one gets 421 4.3.2. If there is
/// none, the newcomer gets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Usually.
    pub normal: Tempo,
    /// Under load.
    pub loaded: Tempo,
    /// Load begins at this share of `sessions_max`, in percent.
    pub load_percent: usize,
}

/// How fast a client has to go on: who is slower gets 421 4.4.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tempo {
    /// A complete command has to come so long after our last reply (RFC 5321 §4.5.3.2.7 asks for 5
    /// minutes), and a reply has to be read so long after it was written.
    pub command: Duration,
    /// Content has to come at this rate on average over that time, in octets a second. With zero,
    /// something has to come in that time.
    pub data_rate_min: u32,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            normal: Tempo { command: Duration::from_secs(300), data_rate_min: 64 },
            loaded: Tempo { command: Duration::from_secs(10), data_rate_min: 1024 },
            load_percent: 75,
        }
    }
}

/// Which recipients go to which queue.
#[derive(Clone, Default, Debug)]
pub struct Routes {
    domains: HashMap<Box<str>, QueueIndex>,
    default: Option<QueueIndex>,
}

impl Routes {
    /// Routes for no domain; `default` takes every domain that is not added. With `None` those
    /// are refused: 550 5.7.1.
    pub fn new(default: Option<QueueIndex>) -> Routes {
        Routes { domains: HashMap::new(), default }
    }

    /// Adds a domain or an address literal with its brackets, in any case, with U-labels or A-labels. Returns the queue that
    /// it had before.
    pub fn add(&mut self, domain: &str, queue: QueueIndex) -> Option<QueueIndex> {
        self.domains.insert(comparable(domain).into(), queue)
    }

    /// The queue for a recipient's domain, in any case, with U-labels or A-labels.
    pub fn queue_for(&self, domain: &str) -> Option<QueueIndex> {
        self.domains.get(&*comparable(domain)).copied().or(self.default)
    }
}

/// How mail is delivered.
#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    /// One for each queue, by its index.
    pub destinations: Vec<Destination>,
    /// How long to wait for what.
    pub timeouts: DeliveryTimeouts,
    /// The pause after the first failure of a destination. Each further one doubles it; the jitter
    /// takes away up to half.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Most connections that have nothing to do, of all queues together; one more says QUIT at
    /// once.
    pub idle_connections_max: usize,
}

/// Where the messages of a queue go, and how fast.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The queue's name, for records.
    pub queue_name: Box<str>,
    /// Addresses of the next hop, in order of preference: tried in turn, and only when all have
    /// failed does the queue pause. Not empty.
    pub next_hops: Vec<SocketAddr>,
    /// What the next hops speak.
    pub protocol: Protocol,
    /// So many connections at first, at least 1; results make them more or fewer.
    pub connections_initial: u32,
    /// Most connections at a time, from 1 to 100,000. With 1, messages leave in the queue's order.
    pub connections_max: u32,
    /// Most transactions a second, if limited. A tenth of a second's worth may go at once.
    pub rate_per_second: Option<NonZeroU32>,
    /// After so many transactions a connection is closed and another one opened. At least 1.
    pub messages_per_connection_max: u32,
    /// Most recipients of one transaction, at least 1; a message with more takes several, one after
    /// the other. Every server takes 100 (RFC 5321 §4.5.3.1.8).
    pub recipients_max: usize,
    /// Send the next transaction right behind the end of data (RFC 2920 §3.1).
    pub pipeline_transactions: bool,
    /// The operator has suspended sending: what is on a connection is finished, nothing else is
    /// begun.
    pub is_suspended: bool,
    /// How many attempts to hold ready beyond those under way, so that no connection waits for
    /// the queue. 0 where a failure of the head must hold back what is behind it.
    pub prefetch: u32,
    /// Longest that one transaction may take, however it gets on.
    pub transfer_timeout: Duration,
}

impl Destination {
    /// A destination with what is usual for the rest.
    pub fn new(queue_name: impl Into<Box<str>>, next_hops: Vec<SocketAddr>) -> Destination {
        Destination {
            queue_name: queue_name.into(),
            next_hops,
            protocol: Protocol::Smtp,
            connections_initial: 5,
            connections_max: 4,
            rate_per_second: None,
            messages_per_connection_max: 10_000,
            recipients_max: 100,
            pipeline_transactions: true,
            is_suspended: false,
            prefetch: 64,
            transfer_timeout: Duration::from_secs(20 * 60),
        }
    }
}

/// RFC 5321 §4.5.3.2, and how long a connection may be idle.
#[derive(Clone, Debug)]
pub struct DeliveryTimeouts {
    /// §4.5.3.2.1, 5 minutes.
    pub greeting: Duration,
    /// §4.5.3.2.2 and .3, 5 minutes: EHLO, MAIL, RCPT, RSET, QUIT.
    pub reply: Duration,
    /// §4.5.3.2.4, 2 minutes: DATA.
    pub data_start: Duration,
    /// §4.5.3.2.5, 3 minutes without sending anything.
    pub data_block: Duration,
    /// §4.5.3.2.6, 10 minutes: the answer to the end of data.
    pub data_end: Duration,
    /// A connection without work for so long says QUIT.
    pub idle: Duration,
}

impl Default for DeliveryTimeouts {
    /// The RFC's, and 30 seconds idle.
    fn default() -> DeliveryTimeouts {
        DeliveryTimeouts {
            greeting: Duration::from_secs(300),
            reply: Duration::from_secs(300),
            data_start: Duration::from_secs(120),
            data_block: Duration::from_secs(180),
            data_end: Duration::from_secs(600),
            idle: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_routed_in_any_case_and_the_rest_by_default_only() {
        let mut routes = Routes::new(None);
        assert_eq!(routes.add("Mail.Example", QueueIndex(3)), None);
        assert_eq!(routes.queue_for("mAIL.example"), Some(QueueIndex(3)));
        assert_eq!(routes.queue_for("example"), None);
        assert_eq!(routes.add("bücher.example", QueueIndex(4)), None);
        assert_eq!(routes.queue_for("xn--bcher-kva.Example"), Some(QueueIndex(4)));
        assert_eq!(routes.add("xn--bcher-kva.example", QueueIndex(5)), Some(QueueIndex(4)));
        let routes = Routes::new(Some(QueueIndex(0)));
        assert_eq!(routes.queue_for("other.example"), Some(QueueIndex(0)));
    }
}

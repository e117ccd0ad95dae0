//! Verdicts on clients, senders and recipients.

use std::net::IpAddr;

use smtp::{ForwardPath, Refusal};
use tcpstack::Instant;

use super::desk::Desk;
use super::session::NOT_REPLICATED;
use crate::clients::{ClientSession, ContentRoom, SessionExcess};
use crate::front::config::ReceptionConfig;
use crate::front::policy::{self, Checks};
use crate::message::QueueIndex;

/// Who is at the other end of a session.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) address: IpAddr,
    /// It may relay.
    is_trusted: bool,
    /// What it may still do; none without limits.
    quota: Option<ClientSession>,
}

impl Client {
    /// Lets a client in.
    pub(super) fn admit(address: IpAddr, desk: &mut Desk) -> Result<Client, &'static Refusal> {
        let config = &desk.config;
        let mut quota = None;
        if !config.exempt_networks.contains(address) {
            let clients = desk.board.clients();
            let begun = clients.begin_session(address, &config.client_limits, desk.now);
            quota = Some(begun.map_err(|excess| {
                desk.counters.clients_limited += 1;
                match excess {
                    SessionExcess::AtOnce => &SESSIONS_OF_CLIENT,
                    SessionExcess::TooFast => &TOO_FAST,
                }
            })?);
        }
        Ok(Client { address, is_trusted: config.relay.is_trusted(address), quota })
    }

    /// The configuration has changed.
    pub(super) fn reconsider(&mut self, config: &ReceptionConfig) {
        self.is_trusted = config.relay.is_trusted(self.address);
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// For the content of a transaction, if the client's is limited.
    pub(super) fn content_room(&self, config: &ReceptionConfig) -> Option<ContentRoom> {
        self.quota.as_ref()?.content_room(&config.client_limits)
    }

    fn may_begin_transaction(&self, config: &ReceptionConfig, now: Instant) -> bool {
        let limits = &config.client_limits;
        self.quota.as_ref().is_none_or(|quota| quota.begin_transaction(limits, now))
    }

    fn may_add_recipient(&self, config: &ReceptionConfig, now: Instant) -> bool {
        let limits = &config.client_limits;
        self.quota.as_ref().is_none_or(|quota| quota.add_recipient(limits, now))
    }
}

/// Whether a client that calls itself `hello` may send from this reverse-path.
pub(super) fn judge_sender(
    client: &Client,
    hello: &str,
    reverse_path: &str,
    desk: &mut Desk,
) -> Result<(), &'static Refusal> {
    if !client.may_begin_transaction(&desk.config, desk.now) {
        desk.counters.clients_limited += 1;
        return Err(&TRANSACTIONS_OF_CLIENT);
    }
    let checks = &desk.config.checks;
    let is_stranger = !client.is_trusted;
    let refusal = if is_stranger && checks.hello_name && !Checks::hello_name_is_full(hello) {
        &HELLO_NAME
    } else if is_stranger && checks.sender_domain && !Checks::sender_domain_is_full(reverse_path) {
        &SENDER_DOMAIN
    } else if checks.senders_refused.contains(reverse_path) {
        &SENDER_REFUSED
    } else {
        return Ok(());
    };
    desk.counters.senders_refused += 1;
    Err(refusal)
}

/// The queue for a recipient, if the client may send to it. `others` are the recipients so far.
pub(super) fn judge_recipient(
    client: &Client,
    reverse_path: &str,
    others: usize,
    path: &ForwardPath,
    desk: &mut Desk,
) -> Result<QueueIndex, &'static Refusal> {
    if !client.may_add_recipient(&desk.config, desk.now) {
        desk.counters.clients_limited += 1;
        return Err(&RECIPIENTS_OF_CLIENT);
    }
    let checks = &desk.config.checks;
    if checks.null_sender_one_recipient && reverse_path.is_empty() && others > 0 {
        return Err(&ONE_RECIPIENT);
    }
    if (!client.is_trusted && !is_for_everybody(path, &desk.config))
        || checks.recipients_refused.contains(path.as_str())
    {
        desk.counters.recipients_refused += 1;
        return Err(if client.is_trusted { &RECIPIENT_REFUSED } else { &NO_RELAY });
    }
    // A bare postmaster is ours (RFC 5321 §4.5.1), wherever our own name is routed to.
    let domain = path.domain().unwrap_or(&desk.hostname);
    let Some(queue) = desk.config.routes.queue_for(domain) else {
        desk.counters.recipients_unrouted += 1;
        return Err(&NO_ROUTE);
    };
    if !is_known(path, queue, &desk.config) {
        desk.counters.recipients_unknown += 1;
        return Err(&UNKNOWN);
    }
    if desk.board.is_suspended(queue) {
        desk.counters.recipients_suspended += 1;
        return Err(&SUSPENDED);
    }
    if !desk.board.is_accepting(queue) {
        desk.counters.recipients_unreplicated += 1;
        return Err(&NOT_REPLICATED);
    }
    Ok(queue)
}

/// Whether clients that may not relay may send to it. A bare postmaster anybody may write to.
fn is_for_everybody(path: &ForwardPath, config: &ReceptionConfig) -> bool {
    path.domain().is_none_or(|domain| {
        config.relay.domains.contains_domain(domain) && !policy::asks_for_a_route(path.as_str())
    })
}

/// Whether the queue takes mail for it. Every domain has a postmaster (RFC 5321 §4.5.1).
fn is_known(path: &ForwardPath, queue: QueueIndex, config: &ReceptionConfig) -> bool {
    let known = config.known_recipients.get(queue.0 as usize).and_then(Option::as_ref);
    known.is_none_or(|known| {
        let address = path.as_str();
        let local = path.domain().map_or(address, |it| &address[..address.len() - it.len() - 1]);
        local.eq_ignore_ascii_case("postmaster") || known.contains(address)
    })
}

const SESSIONS_OF_CLIENT: Refusal =
    Refusal::new(421, (4, 7, 0), "Too many sessions from your address");
const TOO_FAST: Refusal =
    Refusal::new(421, (4, 7, 0), "Too many sessions a minute from your address");
const TRANSACTIONS_OF_CLIENT: Refusal =
    Refusal::new(450, (4, 7, 1), "Too many transactions a minute from your address");
const RECIPIENTS_OF_CLIENT: Refusal =
    Refusal::new(450, (4, 7, 1), "Too many recipients a minute from your address");
const HELLO_NAME: Refusal =
    Refusal::new(550, (5, 7, 1), "Say EHLO with your full name or address literal");
const SENDER_DOMAIN: Refusal =
    Refusal::new(550, (5, 1, 8), "The sender's domain is not a full name");
const SENDER_REFUSED: Refusal = Refusal::new(550, (5, 7, 1), "No mail from this sender here");
const ONE_RECIPIENT: Refusal =
    Refusal::new(452, (4, 5, 3), "One recipient only for mail from the null sender");
const NO_RELAY: Refusal = Refusal::new(550, (5, 7, 1), "No relaying to this recipient for you");
const RECIPIENT_REFUSED: Refusal = Refusal::new(550, (5, 7, 1), "No mail for this recipient here");
const NO_ROUTE: Refusal = Refusal::new(550, (5, 7, 1), "No mail for this domain here");
const SUSPENDED: Refusal =
    Refusal::new(450, (4, 2, 1), "Mail for this recipient is suspended by the operator, try later");
const UNKNOWN: Refusal = Refusal::new(550, (5, 1, 1), "No such recipient here");

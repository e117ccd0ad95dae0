//! How mail is received: `listen`, `[limits]`, policy and the times of reception.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use config::Table;
use smtp::SessionRules;

use super::SESSIONS_MAX;
use super::policy::{read_checks, read_client_limits, read_networks, read_relay};
use crate::front::{ReceptionConfig, Routes};
use crate::message::RECIPIENTS_MAX;

/// Everything about reception; `routes` come from the queues.
pub(super) fn read_reception(
    root: &Table<'_>,
    times: &Table<'_>,
    message_size_max: u64,
    routes: Routes,
) -> ReceptionConfig {
    let limits = root.table("limits");
    let listen: Vec<SocketAddr> = root.addresses("listen").not_empty().required();
    let mut seen = BTreeSet::new();
    for (item, address) in listen.iter().enumerate() {
        if address.port() != 0 && !seen.insert(*address) {
            root.mistake_at_item("listen", item, format!("{address} is named twice"));
        }
    }
    let relay = read_relay(root);
    let exempt = read_networks(&limits, "exempt_networks");
    ReceptionConfig {
        listen,
        sessions_max: limits.integer("sessions_max").range(1..=SESSIONS_MAX).default(10_000),
        messages_per_session_max: limits
            .integer("messages_per_session_max")
            .range(1..=u32::MAX)
            .default(u32::MAX),
        message_size_max,
        recipients_max: limits
            .integer("recipients_max")
            .range(100..=RECIPIENTS_MAX)
            .default(RECIPIENTS_MAX),
        text_line_max: limits.integer("text_line_max").range(998..=1_000_000).default(998),
        errors_max: limits.integer("errors_max").range(1..=1000).default(20),
        rules: SessionRules::default(),
        session_timeout: times.duration("session").default(Duration::from_secs(300)),
        commit_timeout: times.duration("commit").default(Duration::from_secs(30)),
        trace_header: root.boolean("trace_header").default(true),
        routes,
        exempt_networks: exempt.unwrap_or_else(|| relay.networks.clone()),
        relay,
        checks: read_checks(root),
        // From the queues.
        known_recipients: Vec::new(),
        client_limits: read_client_limits(&limits),
    }
}

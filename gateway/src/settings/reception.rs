//! How mail is received: `listen`, `[limits]`, policy and the times of reception.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use config::Table;
use smtp::{BareNewlines, IllegalPipelining, SessionRules};

use super::SESSIONS_MAX;
use super::policy::{read_checks, read_client_limits, read_networks, read_relay};
use crate::front::{Patience, ReceptionConfig, Routes, Tempo};
use crate::message::RECIPIENTS_MAX;

/// Longest pause before a greeting or a reply: clients wait 5 minutes (RFC 5321 §4.5.3.2.1).
const DELAY_MAX: Duration = Duration::from_secs(60);
/// Longest time to drain.
const DRAIN_MAX: Duration = Duration::from_secs(600);

/// Everything about reception; `routes` come from the queues.
pub(super) fn read_reception(
    root: &Table<'_>,
    times: &Table<'_>,
    message_size_max: u64,
    memory_bytes: u64,
    routes: Routes,
    listen: Vec<SocketAddr>,
) -> ReceptionConfig {
    let limits = root.table("limits");
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
        errors_soft: limits.integer("errors_soft").range(0..=1000).default(5),
        error_delay: times
            .duration("error_delay")
            .range(Duration::ZERO..=DELAY_MAX)
            .default(Duration::from_secs(1)),
        rules: read_rules(&root.table("checks")),
        trusted_rules: read_rules(&root.table("relay")),
        greet_pause: times
            .duration("greet_pause")
            .range(Duration::ZERO..=DELAY_MAX)
            .default(Duration::ZERO),
        patience: read_patience(&limits, times),
        received_max: limits.integer("received_max").range(1..=1000).default(100),
        drain: times
            .duration("drain")
            .range(Duration::ZERO..=DRAIN_MAX)
            .default(Duration::from_secs(20)),
        commit_timeout: times.duration("commit").default(Duration::from_secs(30)),
        trace_header: root.boolean("trace_header").default(true),
        trace_recipient: root.boolean("trace_recipient").default(false),
        routes,
        exempt_networks: exempt.unwrap_or_else(|| relay.networks.clone()),
        relay,
        checks: read_checks(root),
        // From the queues.
        known_recipients: Vec::new(),
        client_limits: read_client_limits(&limits, memory_bytes / 8),
    }
}

/// Where mail is received.
pub(super) fn read_listen(root: &Table<'_>) -> Vec<SocketAddr> {
    let listen: Vec<SocketAddr> = root.addresses("listen").not_empty().required();
    let mut seen = BTreeSet::new();
    for (item, address) in listen.iter().enumerate() {
        if address.port() != 0 && !seen.insert(*address) {
            root.mistake_at_item("listen", item, format!("{address} is named twice"));
        }
    }
    listen
}

/// What a session lets pass, from the table of its class of clients.
fn read_rules(table: &Table<'_>) -> SessionRules {
    let bare_newlines = [("refuse", BareNewlines::Refuse), ("normalise", BareNewlines::Normalise)];
    let pipelining = [("refuse", IllegalPipelining::Refuse), ("allow", IllegalPipelining::Allow)];
    SessionRules {
        bare_newlines: table
            .choice("bare_newlines", &bare_newlines)
            .default(BareNewlines::default()),
        illegal_pipelining: table
            .choice("illegal_pipelining", &pipelining)
            .default(IllegalPipelining::default()),
    }
}

fn read_patience(limits: &Table<'_>, times: &Table<'_>) -> Patience {
    let default = Patience::default();
    let tempo = |command, rate, default: Tempo| {
        let shortest = Duration::from_secs(1);
        let longest = Duration::from_secs(86_400);
        Tempo {
            command: times.duration(command).range(shortest..=longest).default(default.command),
            data_rate_min: limits.integer(rate).range(0..=1 << 30).default(default.data_rate_min),
        }
    };
    let normal = tempo("command", "data_rate_min", default.normal);
    let loaded = tempo("command_loaded", "data_rate_min_loaded", default.loaded);
    if loaded.command > normal.command {
        times.mistake_at("command_loaded", "must not be longer than `command`");
    }
    let load_percent = limits.integer("load_percent").range(1..=100).default(default.load_percent);
    Patience { normal, loaded, load_percent }
}

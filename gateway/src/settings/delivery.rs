//! How mail is delivered: what a `[[queue]]` says of its destination, and the times of delivery.

use std::num::NonZeroU32;
use std::time::Duration;

use config::Table;
use smtp::Protocol;

use super::read_switch;
use crate::front::{DeliveryConfig, DeliveryTimeouts, Destination};
use crate::message::RECIPIENTS_MAX;

/// What all destinations have in common, from `[times]` and `[limits]`.
pub(super) fn read_delivery(root: &Table<'_>, destinations: Vec<Destination>) -> DeliveryConfig {
    let (times, limits) = (root.table("times"), root.table("limits"));
    let default = DeliveryTimeouts::default();
    DeliveryConfig {
        destinations,
        timeouts: DeliveryTimeouts {
            greeting: times.duration("delivery_greeting").default(default.greeting),
            reply: times.duration("delivery_reply").default(default.reply),
            data_start: times.duration("delivery_data_start").default(default.data_start),
            data_block: times.duration("delivery_data_block").default(default.data_block),
            data_end: times.duration("delivery_data_end").default(default.data_end),
            idle: times.duration("delivery_idle").default(default.idle),
        },
        backoff_min: times.duration("backoff_min").default(Duration::from_secs(1)),
        backoff_max: times.duration("backoff_max").default(Duration::from_secs(300)),
        idle_connections_max: limits
            .integer("idle_connections_max")
            .range(0..=1_000_000)
            // Two for each of as many queues as there can be: whatever is let go has to be made again.
            .default(2000),
    }
}

/// The destination of one queue, from its `[[queue]]`. A strict queue has one connection, and the
/// next message goes when the outcome of the one before is known.
pub(super) fn read_destination(table: &Table<'_>, name: &str) -> Destination {
    let next_hops = table.addresses("next_hops").not_empty().required();
    let default = Destination::new(name, next_hops);
    let protocols = [("smtp", Protocol::Smtp), ("lmtp", Protocol::Lmtp)];
    let is_strict = table.boolean("strict").default(false);
    let (connections_most, prefetch_most) = if is_strict { (1, 0) } else { (1000, 10_000) };
    let may_pipeline = |pipeline: &bool| match is_strict && *pipeline {
        true => Err("a strict queue does not pipeline".to_owned()),
        false => Ok(()),
    };
    Destination {
        protocol: table.choice("protocol", &protocols).default(default.protocol),
        connections_initial: table
            .integer("connections_initial")
            .range(1..=1000)
            .default(default.connections_initial),
        connections_max: table
            .integer("connections_max")
            .range(1..=connections_most)
            .default(default.connections_max.min(connections_most)),
        rate_per_second: NonZeroU32::new(table.integer("rate_max").range(0..=1_000_000).default(0)),
        messages_per_connection_max: table
            .integer("messages_per_connection_max")
            .range(1..=u32::MAX)
            .default(default.messages_per_connection_max),
        recipients_max: table
            .integer("recipients_per_transaction_max")
            .range(1..=RECIPIENTS_MAX)
            .default(default.recipients_max),
        pipeline_transactions: table.boolean("pipeline").check(may_pipeline).default(!is_strict),
        is_suspended: read_switch(table, "send"),
        prefetch: table
            .integer("prefetch")
            .range(0..=prefetch_most)
            .default(default.prefetch.min(prefetch_most)),
        transfer_timeout: table.duration("transfer_timeout").default(default.transfer_timeout),
        ..default
    }
}

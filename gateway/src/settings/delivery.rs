//! How mail is delivered: what a `[[queue]]` says of its destination, and the times of delivery.

use std::num::NonZeroU32;
use std::time::Duration;

use config::Table;

use super::read_switch;
use crate::front::{DeliveryConfig, DeliveryTimeouts, Destination};

/// What all destinations have in common, from `[times]`.
pub(super) fn read_delivery(times: &Table<'_>, destinations: Vec<Destination>) -> DeliveryConfig {
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
        idle_connections_max: 1000,
    }
}

/// The destination of one queue, from its `[[queue]]`.
pub(super) fn read_destination(table: &Table<'_>, name: &str) -> Destination {
    let next_hops = table.addresses("next_hops").not_empty().required();
    let default = Destination::new(name, next_hops);
    Destination {
        connections_max: table
            .integer("connections_max")
            .range(1..=1000)
            .default(default.connections_max),
        rate_per_second: NonZeroU32::new(table.integer("rate_max").range(0..=1_000_000).default(0)),
        messages_per_connection_max: table
            .integer("messages_per_connection_max")
            .range(1..=u32::MAX)
            .default(default.messages_per_connection_max),
        pipeline_transactions: table.boolean("pipeline").default(default.pipeline_transactions),
        is_suspended: read_switch(table, "send"),
        prefetch: table.integer("prefetch").range(0..=10_000).default(default.prefetch),
        ..default
    }
}

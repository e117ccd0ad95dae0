//! The queues and the routes to them: `[[queue]]` and `[default_route]`.

use std::collections::BTreeMap;
use std::path::Path;

use config::Table;

use super::delivery::read_destination;
use super::policy::read_recipients;
use super::{Group, QUEUES_MAX, QueueSettings, read_switch, server_name_is_allowed};
use crate::front::{Destination, Routes};
use crate::message::QueueIndex;
use crate::queue::RetryPolicy;

/// Every `[[queue]]`, in order, each with its destination, and the routes to them.
pub(super) fn read_queues(
    root: &Table<'_>,
    gateway: &str,
    groups: &[Group],
    directory: &Path,
) -> (Vec<QueueSettings>, Vec<Destination>, Routes) {
    let mut names = BTreeMap::new();
    let mut queues = Vec::new();
    let mut destinations = Vec::new();
    let mut domains = Vec::new();
    for (index, table) in (0..).zip(root.required_tables("queue")) {
        let queue = read_queue(&table, gateway, groups, directory);
        if names.insert(queue.name.clone(), QueueIndex(index)).is_some() {
            let why = format!("two queues are named {:?}; names differ", queue.name);
            table.mistake_at("name", why);
        }
        destinations.push(read_destination(&table, &queue.name));
        let listed = table.strings("domains").default(vec![queue.name.clone()]);
        domains.push((table, QueueIndex(index), listed));
        queues.push(queue);
    }
    if queues.len() > QUEUES_MAX {
        root.mistake(format!("{} queues are too many: at most {QUEUES_MAX}", queues.len()));
    }
    let default = root.optional_table("default_route").and_then(|table| {
        let name = table.string("queue").required();
        if !names.contains_key(&name) {
            table.mistake_at("queue", format!("there is no [[queue]] named {name:?}"));
        }
        names.get(&name).copied()
    });
    let mut routes = Routes::new(default);
    for (table, queue, listed) in domains {
        for (item, domain) in listed.iter().enumerate() {
            if routes.add(domain, queue).is_some() {
                let why = format!("{domain:?} is routed twice; a domain has one queue");
                table.mistake_at_item("domains", item, why);
            }
        }
    }
    (queues, destinations, routes)
}

fn read_queue(
    table: &Table<'_>,
    gateway: &str,
    groups: &[Group],
    directory: &Path,
) -> QueueSettings {
    let full_name_is_allowed = |name: &String| {
        server_name_is_allowed(name).and(server_name_is_allowed(&format!("{gateway}/{name}")))
    };
    let name = table.string("name").check(full_name_is_allowed).required();
    let group = table.string("group").required();
    let group_place = groups.iter().position(|it| it.name == group);
    if group_place.is_none() && !group.is_empty() {
        table.mistake_at("group", format!("there is no [[group]] named {group:?}"));
    }
    let default = RetryPolicy::default();
    QueueSettings {
        name,
        group: group_place.unwrap_or(0),
        messages_max: table.integer("messages_max").range(1..=1 << 32).default(1_000_000),
        bytes_max: table.bytes("bytes_max").range(1 << 20..=1 << 46).default(1 << 30),
        is_suspended: read_switch(table, "receive"),
        known_recipients: read_recipients(table, directory),
        retry: RetryPolicy {
            first: table.duration("retry_first").default(default.first),
            max: table.duration("retry_max").default(default.max),
            expiry: table.duration("expiry").default(default.expiry),
            warn_after: table.duration("warn_after").default(default.warn_after),
        },
        strict: table.boolean("strict").default(false),
    }
}

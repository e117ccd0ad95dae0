//! Whom mail is taken from and for whom: `[relay]`, `[checks]`, lists of recipients, and what
//! `[limits]` says of each client.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;
use std::sync::Arc;

use config::Table;

use crate::clients::ClientLimits;
use crate::front::{AddressSet, Checks, Networks, RelayPolicy};

/// Most recipients in a list: about 100 bytes each. A longer one is a mistake.
const LIST_MAX: usize = 10_000_000;
/// Longest file of recipients, in bytes; a longer one is a mistake.
const LIST_BYTES_MAX: usize = 1 << 30;

pub(super) fn read_relay(root: &Table<'_>) -> RelayPolicy {
    let relay = root.table("relay");
    let default = RelayPolicy::default();
    let priority_max: u8 = relay.integer("priority_max").range(0..=9).default(9);
    RelayPolicy {
        networks: read_networks(&relay, "networks").unwrap_or(default.networks),
        domains: read_addresses(&relay, "domains"),
        priority_max: i8::try_from(priority_max).expect("from 0 to 9"),
    }
}

pub(super) fn read_checks(root: &Table<'_>) -> Checks {
    let checks = root.table("checks");
    Checks {
        senders_refused: Arc::new(read_addresses(&checks, "senders_refused")),
        recipients_refused: Arc::new(read_addresses(&checks, "recipients_refused")),
        sender_domain: checks.boolean("sender_domain").default(false),
        hello_name: checks.boolean("hello_name").default(false),
        null_sender_one_recipient: checks.boolean("null_sender_one_recipient").default(false),
    }
}

/// `content_max` is what a client's transactions may hold unless the file says otherwise.
pub(super) fn read_client_limits(limits: &Table<'_>, content_max: u64) -> ClientLimits {
    let limit =
        |key, default| NonZeroU32::new(limits.integer(key).range(0..=1_000_000).default(default));
    ClientLimits {
        sessions_max: limit("client_sessions_max", 50),
        sessions_per_minute: limit("client_sessions_per_minute", 0),
        transactions_per_minute: limit("client_transactions_per_minute", 0),
        recipients_per_minute: limit("client_recipients_per_minute", 0),
        content_max: NonZeroU64::new(
            limits.bytes("client_content_max").range(0..=1 << 46).default(content_max),
        ),
    }
}

/// Networks under a key, if it is there.
pub(super) fn read_networks(table: &Table<'_>, key: &'static str) -> Option<Networks> {
    let texts = table.strings(key).optional()?;
    let networks = Networks::parse_all(texts.iter().map(String::as_str));
    networks.map_err(|(item, why)| table.mistake_at_item(key, item, why)).ok()
}

/// The recipients of a queue, from the file that `recipients_file` names: one a line; empty lines
/// and what begins with `#` count for nothing.
pub(super) fn read_recipients(table: &Table<'_>, directory: &Path) -> Option<Arc<AddressSet>> {
    let path = directory.join(table.path("recipients_file").optional()?);
    let text = match config::read_file_up_to(&path, LIST_BYTES_MAX) {
        Ok(text) => text,
        Err(why) => {
            table.mistake_at("recipients_file", why);
            return None;
        }
    };
    let mut set = AddressSet::default();
    for (number, line) in (1..).zip(text.lines()) {
        let entry = line.trim();
        if entry.is_empty() || entry.starts_with('#') {
            continue;
        }
        let added = if number > LIST_MAX {
            Err(format!("at most {LIST_MAX} lines"))
        } else {
            set.add(entry)
        };
        if let Err(why) = added {
            let why = format!("{}:{number}: {why}", path.display());
            table.mistake_at("recipients_file", why);
            return None;
        }
    }
    if set.is_empty() {
        let why = format!(
            "{} names nobody, so that all mail would be refused for good: suspend receipt instead",
            path.display()
        );
        table.mistake_at("recipients_file", why);
        return None;
    }
    Some(Arc::new(set))
}

fn read_addresses(table: &Table<'_>, key: &'static str) -> AddressSet {
    let mut set = AddressSet::default();
    for (item, entry) in table.strings(key).default(Vec::new()).iter().enumerate() {
        if let Err(why) = set.add(entry) {
            table.mistake_at_item(key, item, why);
        }
    }
    set
}

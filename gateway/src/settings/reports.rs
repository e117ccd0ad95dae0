//! Reports to senders (DSN): `[reports]`.

use config::Table;

use super::QueueSettings;
use crate::front::ReportConfig;
use crate::message::QueueIndex;

pub(super) fn read_reports(
    root: &Table<'_>,
    gateway: &str,
    queues: &[QueueSettings],
) -> ReportConfig {
    let table = root.table("reports");
    let queue = table.string("queue").optional().and_then(|name| {
        let found = (0..).zip(queues).find(|(_, queue)| queue.name == name);
        if found.is_none() {
            table.mistake_at("queue", format!("there is no [[queue]] named {name:?}"));
        }
        found.map(|(index, _)| QueueIndex(index))
    });
    let content_max = table.bytes("content_max").range(0..=16 << 20).default(64 << 10);
    ReportConfig {
        gateway: gateway.into(),
        queue,
        content_max: usize::try_from(content_max).unwrap_or(usize::MAX),
    }
}

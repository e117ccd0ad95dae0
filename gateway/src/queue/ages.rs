//! Finds messages that have become too old, without a timer for each.

use kvs_proto::MessageId;

/// Walks through a queue in the order of ids, which is that of acceptance. All messages up to
/// `seen` have been looked at. A message is not looked at before its age is certain to be reached,
/// so a clock that was set back, or fronts whose clocks differ, make it late and never early.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) seen: MessageId,
    /// None of the others that were released was accepted before; the end of time if there are none.
    pub(super) from_unix_ms: u64,
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor { seen: MessageId(0), from_unix_ms: u64::MAX }
    }
}

impl Cursor {
    /// There is a message to be looked at that was accepted then.
    pub(super) fn handle_message(&mut self, accepted_unix_ms: u64) {
        self.from_unix_ms = self.from_unix_ms.min(accepted_unix_ms);
    }
}

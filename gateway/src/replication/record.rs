//! The record of a cohort: who owns its queues, and which copies count.

use std::time::Duration;

use kvs_proto::{Epoch, Incarnation};
use serde::{Deserialize, Serialize};

/// What the register keeps for one cohort.
///
/// A copy that is not named here, with the life of its server that is named here, never serves
/// recovery: it may lack messages or bring deleted ones back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Grows by one with each change; a change names the version that it replaces.
    pub version: u64,
    /// The owner's epoch, as a number.
    #[serde(with = "epoch")]
    pub epoch: Epoch,
    /// The servers whose copies count.
    pub members: Vec<RecordedMember>,
    /// Servers that are being filled: their answers count for the messages that they were sent as those came, and no
    /// owner starts from them. Records from before there were any have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joining: Vec<RecordedMember>,
    /// The queues that exist at them, by name.
    pub queues: Vec<String>,
    /// For how long the owner goes on after a member's last answer, in milliseconds. Left out where it is the
    /// usual, as by those that knew of none.
    #[serde(default = "lease_ms_default", skip_serializing_if = "is_lease_ms_default")]
    pub lease_ms: u64,
}

/// The usual lease.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(1);

fn lease_ms_default() -> u64 {
    u64::try_from(LEASE_DEFAULT.as_millis()).expect("short")
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_lease_ms_default(lease_ms: &u64) -> bool {
    *lease_ms == lease_ms_default()
}

/// A server and its life.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedMember {
    /// The server's name in the configuration.
    pub server: String,
    /// Which life of it.
    #[serde(with = "incarnation")]
    pub incarnation: Incarnation,
}

impl Record {
    /// For how long the owner goes on after a member's last answer.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// Whether that queue is recorded.
    pub fn has_queue(&self, name: &str) -> bool {
        self.queues.iter().any(|queue| queue == name)
    }

    /// The recorded life of that server, if its copies count.
    pub fn incarnation_of(&self, server: &str) -> Option<Incarnation> {
        incarnation_in(&self.members, server)
    }

    /// The recorded life of that server, if it is being filled.
    pub fn joining_of(&self, server: &str) -> Option<Incarnation> {
        incarnation_in(&self.joining, server)
    }
}

fn incarnation_in(members: &[RecordedMember], server: &str) -> Option<Incarnation> {
    members.iter().find(|member| member.server == server).map(|member| member.incarnation)
}

/// What is asked of the register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegisterCall {
    /// The record as it is.
    Read,
    /// Put this record in the place of the one whose version is one less (of none, if this is the
    /// first).
    Swap(Record),
}

/// What the register answers. It answers each call once, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegisterAnswer {
    /// To `Read`.
    Read(Option<Record>),
    /// To `Swap`: done, and it will survive a power failure as far as the register does.
    Swapped,
    /// To `Swap`: the record had another version. Somebody else changed it.
    Conflict,
    /// Could not be read or written now. A `Swap` that failed is *ambiguous*: it may have been
    /// carried out and only its answer lost, or may be carried out still. So whoever asked asks for
    /// the very same again until there is another answer: `Swapped` if it has been carried out by
    /// then, once or more often, and never a conflict with itself. An equal record that another
    /// life of a gateway has written is a `Conflict`.
    Failed(String),
}

macro_rules! number_as_u64 {
    ($module:ident, $type:ident) => {
        mod $module {
            use kvs_proto::$type;
            use serde::{Deserialize, Deserializer, Serializer};

            pub(super) fn serialize<S: Serializer>(
                number: &$type,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                serializer.serialize_u64(number.0)
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$type, D::Error> {
                u64::deserialize(deserializer).map($type)
            }
        }
    };
}

number_as_u64!(epoch, Epoch);
number_as_u64!(incarnation, Incarnation);

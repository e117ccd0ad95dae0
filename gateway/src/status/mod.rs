//! What the operator sees of a running gateway: the management table of queues and servers.
//!
//! A *snapshot* is made when somebody asks, and costs nothing else: [`desk`] is where workers leave their
//! part of it between two turns, [`server`] hands it out over a Unix domain socket, [`client`] is
//! `gateway status`, and [`table`] is what that shows to people. Over the same socket come [`orders`].

pub mod client;
pub mod desk;
mod links;
pub mod orders;
pub mod server;
pub mod table;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::desk::Part;
pub use self::links::{InterfaceStatus, LinkTransportTaken, LinksStatus, NicQueueStatus};

use crate::front::FrontCounters;
use crate::link::PathState;
use crate::replication::cohort::BACKUPS;
use crate::shard::ShardCounters;

/// A gateway at one time, as JSON. Fields may be added, and those that a reader does not know are to be
/// left aside; none changes its meaning.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which gateway it is.
    pub gateway: About,
    /// When it was asked, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Workers that did not answer in time: their queues and counters are missing.
    pub silent_workers: Vec<usize>,
    /// The servers, in the order in which queues name them.
    #[serde(default)]
    pub servers: Vec<ServerStatus>,
    /// The queues, in the order of the configuration.
    pub queues: Vec<QueueStatus>,
    /// What has been counted since the start, by worker.
    pub counters: Vec<WorkerCounters>,
    /// It has not begun: it waits for the register, or for a sender that has its queues.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_starting: bool,
    /// Of a sender program: how it is. It has queues when it is in charge of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<SenderStatus>,
}

/// How a sender program is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SenderStatus {
    /// The server that it sits beside.
    pub beside: String,
    /// What it does.
    pub state: SenderState,
    /// How many senders take over before it, if it knows.
    pub rank: Option<usize>,
    /// After how long without an owner it takes over.
    pub takes_over_after_ms: Option<u64>,
    /// For how long the owner has been silent.
    pub owner_silent_ms: Option<u64>,
    /// Why it could not take over, if it could not.
    pub trouble: Option<String>,
}

/// What a sender program does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SenderState {
    /// It waits until the queues are without an owner.
    StandingBy,
    /// It starts to work.
    TakingOver,
    /// It owns the queues and delivers.
    InCharge,
    /// It finishes what is under way: somebody else takes the queues.
    Leaving,
}

/// Which gateway it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct About {
    /// Its name.
    pub name: String,
    /// Its program's version.
    pub version: String,
    /// Its process.
    pub process: u32,
    /// When it was started, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Where its register is.
    pub register: String,
    /// The way that its links take.
    #[serde(default)]
    pub links: LinksStatus,
}

/// What a worker has counted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerCounters {
    /// Its number.
    pub worker: usize,
    /// Of its queues, if it has some.
    pub shard: Option<ShardCounters>,
    /// Of its SMTP side, if it has one.
    pub front: Option<FrontCounters>,
    /// Of its NIC queues, if it has some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nic_queues: Vec<NicQueueStatus>,
}

/// One server, as far as the queues that are shown have copies there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its name.
    pub kvs: String,
    /// Queues with a copy there that counts.
    pub copies: usize,
    /// Queues with one that is being filled.
    pub joining: usize,
    /// Whether the operator wants it to have none. When `copies` and `joining` are 0 it may be taken away.
    pub is_drained: bool,
    /// Queues with a copy there that is to go, and that no server can take.
    pub cannot_move: usize,
}

/// One queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its place in the configuration.
    pub index: u32,
    /// Its name.
    pub queue: String,
    /// The key of its record in the register; several queues share it.
    pub cohort: String,
    /// How far it is on its way into service.
    pub service: ServiceState,
    /// Whether mail can be committed.
    pub is_accepting: bool,
    /// Whether the operator has suspended receipt.
    pub is_suspended: bool,
    /// Messages in it.
    pub messages: u64,
    /// Its last change.
    pub transaction: u64,
    /// The last change that is committed.
    pub committed: u64,
    /// The owner's epoch.
    pub epoch: u64,
    /// The version of the record, once it is read.
    pub record_version: Option<u64>,
    /// What the cohort has with its register.
    pub register: RegisterStatus,
    /// For how long it may act as it is.
    pub lease_left_ms: u64,
    /// It has no lease, and nobody can say whether it is still its gateway's: `gateway resume` may.
    #[serde(default)]
    pub must_be_told: bool,
    /// The operator has said so: it delivers without a lease.
    #[serde(default)]
    pub is_resumed: bool,
    /// The server that a copy is being moved to, if one is.
    #[serde(default)]
    pub moving_to: Option<String>,
    /// A copy is to go elsewhere, and no server can take it.
    #[serde(default)]
    pub cannot_move: bool,
    /// Each server of its group.
    pub copies: Vec<CopyStatus>,
}

/// A queue at one server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyStatus {
    /// The server.
    pub kvs: String,
    /// How the path over its `address` is.
    pub path: PathState,
    /// How the path over its `standby_address` is, if it has one.
    pub standby_path: Option<PathState>,
    /// How the copy is.
    pub state: CopyState,
    /// The version of the protocol that is spoken with the server.
    #[serde(default)]
    pub protocol: Option<u8>,
    /// Whether the record names it: it counts.
    pub is_recorded: bool,
    /// Whether the operator wants the server to have none.
    #[serde(default)]
    pub is_drained: bool,
    /// The last change that it has answered. Nothing while it is not known, or being filled.
    pub transaction: Option<u64>,
    /// Changes (a message that comes, one that goes, a note on one) that it has not answered.
    pub lag_changes: Option<u64>,
    /// Bytes of the messages among those.
    pub lag_bytes: Option<u64>,
    /// How long ago the oldest of those messages came in.
    pub oldest_unanswered_ms: Option<u64>,
}

/// How far a queue is on its way into service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// The register is asked, and the copies are gathered.
    Starting,
    /// Its copies are read.
    Recovering,
    /// Read; the other copies are brought into step.
    Settling,
    /// New: it is being made.
    Creating,
    /// In service.
    Open,
    /// Somebody else owns it: the gateway ends.
    Stopped,
}

/// How a copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyState {
    /// It counts, and follows.
    Sync,
    /// It counts, and is about to follow (again).
    Resuming,
    /// It is being filled, and counts after that.
    Joining,
    /// It counts and follows until another server has one in its place: its server is drained,
    Draining,
    /// or it is moved.
    Moving,
    /// There is none, and there will be none.
    Drained,
    /// There is none, but there could be.
    Spare,
    /// The server is not there, or what it has is no good.
    Ng,
}

/// What a cohort has with its register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegisterStatus {
    /// Nothing.
    Idle,
    /// It waits for an answer.
    Asked,
    /// The register cannot be used; it is asked again.
    Failed,
}

impl Snapshot {
    /// What the workers have left, put together.
    pub fn of(about: &About, unix_ms: u64, parts: &[Option<Arc<Part>>]) -> Snapshot {
        let silent = |(worker, part): (usize, &Option<Arc<Part>>)| part.is_none().then_some(worker);
        let there = || parts.iter().flatten();
        let mut queues = there().flat_map(|part| part.queues.clone()).collect::<Vec<_>>();
        queues.sort_by_key(|queue| queue.index);
        Snapshot {
            gateway: about.clone(),
            unix_ms,
            silent_workers: parts.iter().enumerate().filter_map(silent).collect(),
            servers: servers(&queues),
            queues,
            counters: there().map(|part| part.counters.clone()).collect(),
            is_starting: false,
            sender: None,
        }
    }

    /// Whether every worker has answered, and every queue is in service with all of its copies; of a sender, whether
    /// it could take over.
    pub fn is_well(&self) -> bool {
        let has_trouble = self.sender.as_ref().is_some_and(|it| it.trouble.is_some());
        let is_whole = self.silent_workers.is_empty() && !has_trouble && !self.is_starting;
        is_whole && self.queues.iter().all(QueueStatus::is_well)
    }
}

/// The servers that the queues name, each with what it has.
fn servers(queues: &[QueueStatus]) -> Vec<ServerStatus> {
    let mut servers: Vec<ServerStatus> = Vec::new();
    for (queue, copy) in queues.iter().flat_map(|it| it.copies.iter().map(move |copy| (it, copy))) {
        let known = servers.iter().position(|it| it.kvs == copy.kvs);
        let place = known.unwrap_or_else(|| {
            servers.push(ServerStatus {
                kvs: copy.kvs.clone(),
                copies: 0,
                joining: 0,
                is_drained: false,
                cannot_move: 0,
            });
            servers.len() - 1
        });
        let server = &mut servers[place];
        server.copies += usize::from(copy.is_recorded);
        server.joining += usize::from(!copy.is_recorded && copy.is_in_use());
        server.is_drained |= copy.is_drained;
        server.cannot_move += usize::from(copy.is_drained && copy.is_in_use() && queue.cannot_move);
    }
    servers
}

impl CopyStatus {
    /// Whether it counts, or is about to.
    pub fn is_in_use(&self) -> bool {
        self.is_recorded || self.state == CopyState::Joining
    }

    /// Whether its server is there.
    pub fn is_reachable(&self) -> bool {
        self.path == PathState::Run || self.standby_path == Some(PathState::Run)
    }
}

impl QueueStatus {
    /// Whether it is known which servers the register names.
    pub fn knows_record(&self) -> bool {
        !matches!(self.service, ServiceState::Starting | ServiceState::Stopped)
    }

    /// Whether it is in service with all of its copies.
    pub fn is_well(&self) -> bool {
        let is_whole = |copy: &&CopyStatus| {
            copy.is_recorded
                && matches!(copy.state, CopyState::Sync | CopyState::Draining | CopyState::Moving)
        };
        self.service == ServiceState::Open && self.copies.iter().filter(is_whole).count() >= BACKUPS
    }
}

//! The gateway's configuration: one TOML file, read and checked as a whole.

mod change;
mod delivery;
pub mod kept;
mod links;
mod policy;
mod queues;
mod reception;
mod register;
mod reports;
mod segments;
#[cfg(test)]
pub(crate) mod tests;
mod threads;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use config::{Document, Mistakes, Table};
use kvs_proto::body::QueueName;
use tcpstack::LinkOptions;

use self::delivery::read_delivery;
use self::kept::Local;
use self::links::{read_drained, read_groups, read_links, read_placement, read_placements};
pub(crate) use self::links::{read_local, read_standby};
use self::queues::read_queues;
use self::reception::{read_listen, read_reception};
pub(crate) use self::register::read_register;
use self::reports::read_reports;
use self::segments::{kernel_only, read_segments};
pub(crate) use self::threads::read_threads;
use crate::front::{
    AddressSet, DeliveryConfig, FrontConfig, REPORT_SIZE_BYTES_MAX, ReceptionConfig, ReportConfig,
};
use crate::link::LinkSettings;
use crate::message::QueueIndex;
use crate::queue::{QueuePolicy, RetryPolicy};
use crate::register::RegisterSettings;
use crate::register::document::{TEXT_BYTES_MAX, kept_size_bytes};
use crate::replication::cohort::{BACKUPS, MoveOrder, Policy, UnitSettings};
use crate::replication::placement::Placement;
use crate::replication::record::LEASE_DEFAULT;
use crate::shard::{CohortSettings, ShardSettings};
use crate::status::server::PATH_LEN_MAX;

/// Most queues of one gateway. A configuration with more is refused.
pub const QUEUES_MAX: usize = 1000;

/// Most sessions of one front that a configuration may allow.
pub const SESSIONS_MAX: usize = 1_000_000;

/// Cohorts that the queues of a group are spread over, by name. Fixed, so that a queue's record
/// stays where it is when queues or workers are added.
const COHORTS_PER_GROUP: u64 = 16;

/// Everything that the file says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's name: in the names of its queues at the servers, and in the register.
    pub name: String,
    /// Budget for all messages together, in bytes.
    pub memory_bytes: u64,
    /// Bytes a second that fill copies, all together, if that is bounded.
    pub resync_rate: Option<u64>,
    /// Where the register is.
    pub register: RegisterSettings,
    /// Threads.
    pub threads: Threads,
    /// How mail is received; `number`, `fronts` and `seed` of the front are filled in per thread.
    pub reception: ReceptionConfig,
    /// How mail is delivered.
    pub delivery: DeliveryConfig,
    /// What senders are told.
    pub reports: ReportConfig,
    /// Our name in SMTP.
    pub hostname: String,
    /// How cohorts behave.
    pub policy: Policy,
    /// The servers, by place.
    pub links: Vec<LinkSettings>,
    /// The way that links take. Its interfaces have no peers here: see [`bypass`](crate::bypass).
    pub segments: LinkOptions,
    /// Where each server stands.
    pub placements: Vec<Placement>,
    /// Which servers are to have no copies.
    pub drained: Vec<bool>,
    /// Copies that are to go from one server to another, by the cohort's key. Not from the file: orders of the
    /// operator's to the running gateway.
    pub moves: BTreeMap<String, MoveOrder>,
    /// The newest order to go on without leases; 0 before there is one.
    pub resume: u64,
    /// The groups: which servers back queues up.
    pub groups: Vec<Group>,
    /// The queues, by index.
    pub queues: Vec<QueueSettings>,
    /// Log records as JSON instead of text.
    pub log_json: bool,
    /// Where the status can be asked for, if anywhere.
    pub status_socket: Option<PathBuf>,
}

/// Threads, and what runs on them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Threads {
    /// What runs where.
    pub drivers: Drivers,
    /// Cores that the threads are pinned to, in order of their numbers; empty: not pinned.
    pub cores: Vec<usize>,
    /// How long a thread without work spins before it sleeps.
    pub spin: Duration,
}

impl Threads {
    /// How many have links.
    pub fn link_workers(&self) -> usize {
        match self.drivers {
            Drivers::Merged { workers } => workers,
            Drivers::Split { link_workers, .. } => link_workers,
        }
    }
}

/// What runs where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drivers {
    /// Each thread runs everything.
    Merged {
        /// How many.
        workers: usize,
    },
    /// Some threads run queues and links, others SMTP.
    Split {
        /// Threads for queues and links.
        link_workers: usize,
        /// Threads for SMTP.
        smtp_workers: usize,
    },
}

/// Servers that back queues up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Places in `links`, in order of preference: two of them have copies, the others are spares.
    pub members: Vec<usize>,
}

/// One queue.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// Its name.
    pub name: String,
    /// Place of its group.
    pub group: usize,
    /// Bound on messages.
    pub messages_max: u64,
    /// Bound on bytes.
    pub bytes_max: u64,
    /// The operator has suspended receipt.
    pub is_suspended: bool,
    /// All its recipients, if it has a list of them.
    pub known_recipients: Option<Arc<AddressSet>>,
    /// When deferred messages are tried again.
    pub retry: RetryPolicy,
    /// The head blocks.
    pub strict: bool,
}

impl Settings {
    /// Reads and checks a file's text; `path` names it in mistakes and is where relative paths
    /// start.
    ///
    /// # Errors
    /// Every mistake that was found.
    pub fn parse(path: &Path, text: &str) -> Result<Settings, Mistakes> {
        let label = path.display().to_string();
        Settings::read(&label, path.parent().unwrap_or(Path::new(".")), text, None)
    }

    /// Reads a file, or with `local` what is kept of one.
    fn read(
        label: &str,
        directory: &Path,
        text: &str,
        local: Option<&Local>,
    ) -> Result<Settings, Mistakes> {
        let document = Document::parse(label, text);
        let root = document.root();
        let name = root.string("name").check(|name| server_name_is_allowed(name)).required();
        let hostname = root.string("hostname").not_empty().required();
        let memory_bytes = root.bytes("memory").range(1 << 20..=1 << 46).default(1 << 30);
        let message_size_max =
            root.bytes("message_size_max").range(1024..=200 << 20).default(20 << 20);
        let register = match local {
            Some(local) => local.register.clone(),
            None => read_register(&root, directory),
        };
        let links = read_links(&root, directory, message_size_max, local);
        let placement = read_placement(&root.table("placement"));
        let placements = read_placements(&root);
        let drained = read_drained(&root);
        let groups = read_groups(&root, &links, &placements, &placement);
        let (queues, destinations, routes) = read_queues(&root, &name, &groups, directory);
        let largest = queues.iter().map(|it| it.bytes_max).chain([memory_bytes]);
        if largest.min().is_some_and(|least| least < message_size_max) {
            let why = "neither `memory` nor the `bytes_max` of a queue may be less than this";
            root.mistake_at("message_size_max", format!("{why}: such mail could never be stored"));
        }
        let times = root.table("times");
        let listen = if local.is_none() { read_listen(&root) } else { Vec::new() };
        let mut reception =
            read_reception(&root, &times, message_size_max, memory_bytes, routes, listen);
        reception.known_recipients = queues.iter().map(|it| it.known_recipients.clone()).collect();
        let delivery = read_delivery(&root, destinations);
        let reports = read_reports(&root, &name, &queues);
        let policy = Policy {
            min_sync: root.integer("min_sync").range(1..=BACKUPS).default(BACKUPS),
            isolate_after: times.duration("isolate_after").default(Duration::from_secs(1)),
            recovery_wait: times.duration("recovery_wait").default(Duration::from_secs(10)),
            lease: links.first().map_or(LEASE_DEFAULT, |link| link.lease),
            accept_loss: false,
            placement,
        };
        let threads = local.map_or_else(|| read_threads(&root), |local| local.threads.clone());
        let segments = match local {
            Some(_) => kernel_only(),
            None => read_segments(&root, threads.link_workers()),
        };
        let resync_rate =
            root.table("limits").bytes("resync_rate").range(1 << 10..=1 << 40).optional();
        let (log_json, status_socket) = match local {
            Some(local) => (local.log_json, local.status_socket.clone()),
            None => (read_log(&root), read_status_socket(&root, directory)),
        };
        let kept_bytes = kept_size_bytes(&kept::kept(text));
        if kept_bytes > TEXT_BYTES_MAX {
            root.mistake(format!(
                "{kept_bytes} bytes of this file would be kept in the register, at most \
                 {TEXT_BYTES_MAX} can be: make lists shorter, or make two gateways of it"
            ));
        }
        document.finish()?;
        Ok(Settings {
            name,
            memory_bytes,
            resync_rate,
            register,
            threads,
            reception,
            delivery,
            reports,
            hostname,
            policy,
            links,
            segments,
            placements,
            drained,
            moves: BTreeMap::new(),
            resume: 0,
            groups,
            queues,
            log_json,
            status_socket,
        })
    }

    /// What front `number` of `fronts` is told.
    pub fn front(&self, number: u16, fronts: u16, seed: u64) -> FrontConfig {
        FrontConfig {
            hostname: self.hostname.as_str().into(),
            number,
            fronts,
            seed,
            reception: self.reception.clone(),
            delivery: self.delivery.clone(),
            reports: self.reports.clone(),
        }
    }

    /// What shard `number` of `shards` is told, and the queues that it has.
    pub fn shard(&self, number: usize, shards: usize, fronts: u16, seed: u64) -> ShardSettings {
        let cohorts = self.cohorts().into_iter().enumerate();
        let ours = cohorts.filter(|(place, _)| place % shards == number);
        ShardSettings {
            links: self.links.clone(),
            cohorts: ours.map(|(_, cohort)| cohort).collect(),
            policy: self.policy.clone(),
            fronts,
            seed,
        }
    }

    /// Which of `shards` shards has each queue, by index.
    pub fn shard_of_queues(&self, shards: usize) -> Vec<usize> {
        let mut owners = vec![0; self.queues.len()];
        for (place, cohort) in self.cohorts().iter().enumerate() {
            for (unit, _) in &cohort.queues {
                owners[unit.queue.0 as usize] = place % shards;
            }
        }
        owners
    }

    /// What each queue is configured as towards its copies, and how it treats its messages, by
    /// index.
    pub fn units(&self) -> impl Iterator<Item = (UnitSettings, QueuePolicy)> {
        let report_size_max = (self.reports.content_max + REPORT_SIZE_BYTES_MAX) as u64;
        (0..).map(QueueIndex).zip(&self.queues).map(move |(index, queue)| {
            let unit = UnitSettings {
                queue: index,
                name: queue.name.clone(),
                server_name: format!("{}/{}", self.name, queue.name).into(),
                headroom_bytes: self.reception.message_size_max.max(report_size_max),
            };
            (unit, QueuePolicy { retry: queue.retry, strict: queue.strict })
        })
    }

    /// The register's keys of the records of its queues, in order.
    pub fn record_keys(&self) -> Vec<String> {
        self.cohorts().into_iter().map(|cohort| cohort.key).collect()
    }

    /// All cohorts: their servers and queues.
    pub fn cohorts(&self) -> Vec<CohortSettings> {
        let mut cohorts = BTreeMap::new();
        for (unit, queue) in self.units().zip(&self.queues) {
            let number = stable_hash(&queue.name) % COHORTS_PER_GROUP;
            let group = &self.groups[queue.group];
            let key = (queue.group, number);
            let name = format!("{}/{}/{number}", self.name, group.name);
            let cohort = cohorts.entry(key).or_insert_with(|| CohortSettings {
                members: group.members.clone(),
                placements: group.members.iter().map(|it| self.placements[*it].clone()).collect(),
                drained: group.members.iter().map(|it| self.drained[*it]).collect(),
                order: self.moves.get(&name).cloned(),
                resume: self.resume,
                queues: Vec::new(),
                key: name,
            });
            cohort.queues.push(unit);
        }
        cohorts.into_values().collect()
    }
}

/// Whether records are logged as JSON.
pub(crate) fn read_log(root: &Table<'_>) -> bool {
    root.choice("log", &[("text", false), ("json", true)]).default(false)
}

/// A switch of the operator's, on by default; returns whether it is suspended.
fn read_switch(table: &Table<'_>, key: &'static str) -> bool {
    table.choice(key, &[("on", false), ("suspended", true)]).default(false)
}

/// The socket's path, if it is not too long for one.
pub(crate) fn read_status_socket(root: &Table<'_>, directory: &Path) -> Option<PathBuf> {
    let path = directory.join(root.string("status_socket").not_empty().optional()?);
    if path.as_os_str().len() > PATH_LEN_MAX {
        let why =
            format!("{} is too long for a socket: {PATH_LEN_MAX} bytes at most", path.display());
        root.mistake_at("status_socket", why);
    }
    Some(path)
}

/// Names become parts of names at the servers.
pub(crate) fn server_name_is_allowed(name: &str) -> Result<(), String> {
    match QueueName::parse(name.as_bytes()) {
        Some(_) => Ok(()),
        None => Err("give 1 to 255 printable ASCII characters".into()),
    }
}

/// FNV-1a: the same in every build, since records are found by it.
fn stable_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

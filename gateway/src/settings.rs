//! The gateway's configuration: one TOML file, read and checked as a whole.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Document, Mistakes, Table};
use kvs_proto::auth::Secret;
use kvs_proto::body::QueueName;

use crate::front::{
    DeliveryConfig, DeliveryTimeouts, Destination, FrontConfig, ReceptionConfig, Routes,
};
use crate::link::LinkSettings;
use crate::message::{QueueIndex, RECIPIENTS_MAX};
use crate::queue::RetryPolicy;
use crate::replication::cohort::{Policy, UnitSettings};
use crate::shard::{BACKUPS, CohortSettings, ShardSettings};

/// Most queues of one gateway. A configuration with more is refused.
pub const QUEUES_MAX: usize = 1000;

/// Cohorts that the queues of a group are spread over, by name. Fixed, so that a queue's record
/// stays where it is when queues or workers are added.
const COHORTS_PER_GROUP: u64 = 16;

/// Room at the servers beyond our own bounds, for what is on its way and for envelopes.
const SERVER_SLACK_BYTES: u64 = 64 << 20;

/// Everything that the file says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's name: in the names of its queues at the servers, and in the register.
    pub name: String,
    /// Budget for all messages together, in bytes.
    pub memory_bytes: u64,
    /// Directory of the register.
    pub register: PathBuf,
    /// Threads.
    pub threads: Threads,
    /// How mail is received; `number`, `fronts` and `seed` of the front are filled in per thread.
    pub reception: ReceptionConfig,
    /// How mail is delivered.
    pub delivery: DeliveryConfig,
    /// Our name in SMTP.
    pub hostname: String,
    /// How cohorts behave.
    pub policy: Policy,
    /// The servers, by place.
    pub links: Vec<LinkSettings>,
    /// The groups: which servers back queues up.
    pub groups: Vec<Group>,
    /// The queues, by index.
    pub queues: Vec<QueueSettings>,
    /// Log records as JSON instead of text.
    pub log_json: bool,
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

/// Two servers that back queues up.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Places in `links`.
    pub members: [usize; BACKUPS],
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
    /// When deferred messages are tried again.
    pub retry: RetryPolicy,
}

impl Settings {
    /// Reads and checks a file's text; `path` names it in mistakes and is where relative paths
    /// start.
    ///
    /// # Errors
    /// Every mistake that was found.
    pub fn parse(path: &Path, text: &str) -> Result<Settings, Mistakes> {
        let label = path.display().to_string();
        let document = Document::parse(&label, text);
        let root = document.root();
        let directory = path.parent().unwrap_or(Path::new("."));
        let name = root.string("name").check(|name| server_name_is_allowed(name)).required();
        let hostname = root.string("hostname").not_empty().required();
        let memory_bytes = root.bytes("memory").range(1 << 20..=1 << 46).default(1 << 30);
        let message_size_max =
            root.bytes("message_size_max").range(1024..=200 << 20).default(20 << 20);
        let register = directory.join(root.path("register").required());
        let links = read_links(&root, directory);
        let groups = read_groups(&root, &links);
        let (queues, destinations, routes) = read_queues(&root, &name, &groups);
        let times = root.table("times");
        let reception = read_reception(&root, &times, message_size_max, routes);
        let delivery = read_delivery(&times, destinations);
        let policy = Policy {
            min_sync: root.integer("min_sync").range(1..=BACKUPS).default(BACKUPS),
            isolate_after: times.duration("isolate_after").default(Duration::from_secs(1)),
            recovery_wait: times.duration("recovery_wait").default(Duration::from_secs(10)),
            accept_loss: false,
        };
        let threads = read_threads(&root);
        let formats = [("text", false), ("json", true)];
        let log_json = root.choice("log", &formats).default(false);
        document.finish()?;
        Ok(Settings {
            name,
            memory_bytes,
            register,
            threads,
            reception,
            delivery,
            hostname,
            policy,
            links,
            groups,
            queues,
            log_json,
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

    /// The bounds of each queue, for the board.
    pub fn bounds(&self) -> impl Iterator<Item = (i64, i64)> {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.queues.iter().map(move |it| (signed(it.messages_max), signed(it.bytes_max)))
    }

    fn cohorts(&self) -> Vec<CohortSettings> {
        let mut cohorts = BTreeMap::new();
        for (index, queue) in (0..).zip(&self.queues) {
            let number = stable_hash(&queue.name) % COHORTS_PER_GROUP;
            let unit = UnitSettings {
                queue: QueueIndex(index),
                name: queue.name.clone(),
                server_name: format!("{}/{}", self.name, queue.name).into(),
                messages_max: queue.messages_max.saturating_mul(2),
                bytes_max: queue.bytes_max.saturating_mul(2) + SERVER_SLACK_BYTES,
                headroom_bytes: self.reception.message_size_max,
            };
            let group = &self.groups[queue.group];
            let key = (queue.group, number);
            let cohort = cohorts.entry(key).or_insert_with(|| CohortSettings {
                key: format!("{}/{}/{number}", self.name, group.name),
                members: group.members,
                queues: Vec::new(),
            });
            cohort.queues.push((unit, queue.retry));
        }
        cohorts.into_values().collect()
    }
}

fn read_links(root: &Table<'_>, directory: &Path) -> Vec<LinkSettings> {
    let account = root.string("account").not_empty().required();
    let secret =
        root.secret("secret", "secret_file", |path| config::read_file(&directory.join(path)));
    let secret = secret.required();
    let times = root.table("times");
    let heart_beat = times.duration("heart_beat").default(Duration::from_millis(500));
    let deadline = times.duration("link_deadline").default(Duration::from_secs(2));
    if deadline <= heart_beat {
        times.mistake_at("link_deadline", "must be longer than `heart_beat`");
    }
    let mut links = Vec::new();
    for table in root.required_tables("kvs") {
        let server = table.string("name").check(|name| server_name_is_allowed(name)).required();
        if links.iter().any(|link: &LinkSettings| link.server == server) {
            table.mistake_at("name", format!("two servers are named {server:?}; names differ"));
        }
        let local = table.string("local").optional().and_then(|text| {
            let address = text.parse::<IpAddr>();
            if address.is_err() {
                table.mistake_at("local", format!("{text:?} is no IP address"));
            }
            address.ok()
        });
        links.push(LinkSettings {
            server,
            address: table.address("address").required(),
            local,
            account: account.clone(),
            secret: Secret::new(secret.expose().as_bytes()),
            heart_beat,
            deadline,
        });
    }
    links
}

fn read_groups(root: &Table<'_>, links: &[LinkSettings]) -> Vec<Group> {
    let mut groups = Vec::new();
    for table in root.required_tables("group") {
        let name = table.string("name").check(|name| server_name_is_allowed(name)).required();
        if groups.iter().any(|group: &Group| group.name == name) {
            table.mistake_at("name", format!("two groups are named {name:?}; names differ"));
        }
        let names = table.strings("kvs").required();
        let place = |name: &String| links.iter().position(|link| link.server == *name);
        for (item, unknown) in names.iter().enumerate().filter(|(_, name)| place(name).is_none()) {
            table.mistake_at_item("kvs", item, format!("there is no [[kvs]] named {unknown:?}"));
        }
        let members = names.iter().filter_map(place).collect::<Vec<_>>();
        let members = <[usize; BACKUPS]>::try_from(members);
        let members = members.ok().filter(|members| members[0] != members[1]);
        if members.is_none() && names.iter().all(|name| place(name).is_some()) {
            table.mistake_at("kvs", "name two different servers: each queue has two backups");
        }
        groups.push(Group { name, members: members.unwrap_or([0; BACKUPS]) });
    }
    groups
}

fn read_queues(
    root: &Table<'_>,
    gateway: &str,
    groups: &[Group],
) -> (Vec<QueueSettings>, Vec<Destination>, Routes) {
    let mut names = BTreeMap::new();
    let mut queues = Vec::new();
    let mut destinations = Vec::new();
    let mut domains = Vec::new();
    for (index, table) in (0..).zip(root.required_tables("queue")) {
        let queue = read_queue(&table, gateway, groups);
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

fn read_queue(table: &Table<'_>, gateway: &str, groups: &[Group]) -> QueueSettings {
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
        retry: RetryPolicy {
            first: table.duration("retry_first").default(default.first),
            max: table.duration("retry_max").default(default.max),
            expiry: table.duration("expiry").default(default.expiry),
        },
    }
}

fn read_destination(table: &Table<'_>, name: &str) -> Destination {
    Destination {
        queue_name: name.into(),
        next_hops: table.addresses("next_hops").not_empty().required(),
        connections_max: table.integer("connections_max").range(1..=1000).default(4),
        rate_per_second: NonZeroU32::new(table.integer("rate_max").range(0..=1_000_000).default(0)),
        messages_per_connection_max: table
            .integer("messages_per_connection_max")
            .range(1..=u32::MAX)
            .default(10_000),
        pipeline_transactions: table.boolean("pipeline").default(true),
        prefetch: table.integer("prefetch").range(0..=10_000).default(64),
    }
}

fn read_reception(
    root: &Table<'_>,
    times: &Table<'_>,
    message_size_max: u64,
    routes: Routes,
) -> ReceptionConfig {
    let limits = root.table("limits");
    let listen: Vec<SocketAddr> = root.addresses("listen").not_empty().required();
    let mut seen = BTreeSet::new();
    for (item, address) in listen.iter().enumerate() {
        if address.port() != 0 && !seen.insert(*address) {
            root.mistake_at_item("listen", item, format!("{address} is named twice"));
        }
    }
    ReceptionConfig {
        listen,
        sessions_max: limits.integer("sessions_max").range(1..=1_000_000).default(10_000),
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
        session_timeout: times.duration("session").default(Duration::from_secs(300)),
        commit_timeout: times.duration("commit").default(Duration::from_secs(30)),
        trace_header: root.boolean("trace_header").default(true),
        routes,
    }
}

fn read_delivery(times: &Table<'_>, destinations: Vec<Destination>) -> DeliveryConfig {
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
    }
}

fn read_threads(root: &Table<'_>) -> Threads {
    let threads = root.table("threads");
    let split = threads.choice("drivers", &[("merged", false), ("split", true)]).default(false);
    let drivers = if split {
        Drivers::Split {
            link_workers: threads.integer("link_workers").range(1..=16).default(1),
            smtp_workers: threads.integer("smtp_workers").range(1..=256).default(1),
        }
    } else {
        Drivers::Merged { workers: threads.integer("workers").range(1..=16).default(1) }
    };
    let count = match drivers {
        Drivers::Merged { workers } => workers,
        Drivers::Split { link_workers, smtp_workers } => link_workers + smtp_workers,
    };
    let one_each = |cores: &Vec<usize>| match cores.len() == count {
        true => Ok(()),
        false => Err(format!("{} cores for {count} threads; give one for each", cores.len())),
    };
    let cores = threads.cores("cores").check(one_each).default(Vec::new());
    Threads { drivers, cores, spin: threads.duration("spin").default(Duration::ZERO) }
}

/// Names become parts of names at the servers.
fn server_name_is_allowed(name: &str) -> Result<(), String> {
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

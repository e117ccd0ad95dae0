//! The configuration file.

mod links;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use config::{Document, Mistakes, Table, show_bytes};
use kvs_proto::auth::Secret;
use kvs_proto::body::ACCOUNT_SIZE_BYTES_MAX;
use kvs_proto::{MESSAGE_SIZE_BYTES_MAX, Version};
use tcpstack::LinkOptions;

use self::links::read_links;
use crate::session::{Account, Accounts};
use crate::table::QueueBounds;

/// All that a server is told; see `docs/operations.md` for the keys.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name, for logs.
    pub name: String,
    /// Where the first worker listens, all on one port; the others on the ports after it.
    pub listen: Vec<SocketAddr>,
    /// The way that links take.
    pub links: LinkOptions,
    /// Worker threads.
    pub workers: u16,
    /// The core of each worker, or none: wherever the kernel likes.
    pub cores: Vec<usize>,
    /// How long a worker without work spins before it sleeps.
    pub spin: Duration,
    /// Memory for messages, of all workers together.
    pub memory_bytes: u64,
    /// Messages, of all workers together.
    pub messages_max: u64,
    /// Queues, of all workers together.
    pub queues_max: u32,
    /// Connections of each worker.
    pub connections_max: u32,
    /// Bytes of a message.
    pub message_size_bytes_max: u32,
    /// Bounds on each queue.
    pub queue: QueueBounds,
    /// Who may connect.
    pub accounts: Accounts,
    /// The highest version of the link protocol that is spoken.
    pub version_max: Version,
    /// How logs are written.
    pub log: LogFormat,
}

/// How logs are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Settings {
    /// Reads the text of a file; messages call it `label`. `read_secret` reads the file of a secret.
    ///
    /// # Errors
    /// Every mistake, with its line and what would be right.
    pub fn parse(
        label: &str,
        text: &str,
        read_secret: impl Fn(&Path) -> Result<String, String>,
    ) -> Result<Settings, Mistakes> {
        let document = Document::parse(label, text);
        let root = document.root();
        let workers = root.integer("workers").range(1..=64).default(1);
        let memory_bytes = root.bytes("memory").range(MEMORY_MIN..=MEMORY_MAX).required();
        let messages_max = root.integer("messages_max").range(1..=MESSAGES_MAX);
        let messages_max = messages_max.default((memory_bytes / 1024).max(1));
        let queue = root.table("queue");
        let size_max = MESSAGE_SIZE_BYTES_MAX as u64;
        let listen = listen(&root, workers);
        let cores = root.cores("cores").check(|cores| one_each(cores, workers));
        let cores = cores.default(Vec::new());
        // Wherever the kernel likes, a thread that spins takes the core from those that it waits for.
        let spin = if cores.is_empty() { Duration::ZERO } else { SPIN_ON_OWN_CORE };
        let settings = Settings {
            name: root.string("name").not_empty().required(),
            links: read_links(&root, &listen, workers),
            listen,
            workers,
            cores,
            spin: root.duration("spin").default(spin),
            memory_bytes,
            messages_max,
            queues_max: root.integer("queues_max").range(1..=1_000_000).default(10_000),
            connections_max: root.integer("connections_max").range(1..=16_000).default(256),
            message_size_bytes_max: bytes_u32(
                root.bytes("message_size_max").range(1024..=size_max).default(64 << 20),
            ),
            queue: QueueBounds {
                messages_max: queue.integer("messages_max").range(1..=u64::MAX).default(u64::MAX),
                bytes_max: queue.bytes("bytes_max").range(1..=u64::MAX).default(u64::MAX),
            },
            accounts: Accounts::new(accounts(&root, read_secret)),
            version_max: version_max(&root),
            log: root
                .choice("log", &[("text", LogFormat::Text), ("json", LogFormat::Json)])
                .default(LogFormat::Text),
        };
        if memory_bytes / u64::from(workers) < MEMORY_MIN {
            let least = show_bytes(MEMORY_MIN);
            root.mistake_at("memory", format!("each worker needs at least {least} of it"));
        }
        document.finish()?;
        Ok(settings)
    }
}

/// The first worker's addresses, all with one port, so that one number names a worker.
fn listen(root: &Table<'_>, workers: u16) -> Vec<SocketAddr> {
    let listen = root.addresses("listen").not_empty().required();
    let port = listen.first().map_or(0, SocketAddr::port);
    for (place, address) in listen.iter().enumerate() {
        if address.port() != port {
            let message = format!("all addresses have one port; the first has {port}");
            root.mistake_at_item("listen", place, message);
        }
    }
    if port == 0 && listen.len() > 1 {
        root.mistake_at("listen", "port 0 takes a free port, so give one address only");
    }
    if port > 0 && port.checked_add(workers - 1).is_none() {
        let message = format!("{workers} workers take as many ports from {port} on; begin lower");
        root.mistake_at("listen", message);
    }
    listen
}

/// Held down while programs are upgraded one after the other, if an upgrade might have to be undone.
fn version_max(root: &Table<'_>) -> Version {
    let range = Version::OLDEST as u8..=Version::CURRENT as u8;
    let number = root.integer("protocol_max").range(range).default(Version::CURRENT as u8);
    Version::from_u8(number).unwrap_or(Version::CURRENT)
}

/// Pinned workers have a core each.
fn one_each(cores: &[usize], workers: u16) -> Result<(), String> {
    if cores.len() == usize::from(workers) {
        return Ok(());
    }
    Err(format!("{} cores for {workers} workers; give one for each", cores.len()))
}

fn accounts(
    root: &Table<'_>,
    read_secret: impl Fn(&Path) -> Result<String, String>,
) -> Vec<Account> {
    let mut accounts: Vec<Account> = Vec::new();
    for table in root.required_tables("account") {
        let name = table.string("name").not_empty().required();
        if name.len() > ACCOUNT_SIZE_BYTES_MAX {
            let message = format!("give at most {ACCOUNT_SIZE_BYTES_MAX} bytes");
            table.mistake_at("name", message);
        }
        if accounts.iter().any(|account| account.name == name) {
            let message = format!("two accounts are named {name:?}; names differ");
            table.mistake_at("name", message);
        }
        let secret = table.secret("secret", "secret_file", &read_secret).required();
        let secret = Secret::new(secret.expose().as_bytes());
        accounts.push(Account {
            name,
            secret,
            queues: table.string("queues").default(String::new()),
        });
    }
    accounts
}

fn bytes_u32(bytes: u64) -> u32 {
    u32::try_from(bytes).expect("its range was checked")
}

/// Least memory of a worker.
const MEMORY_MIN: u64 = 4 << 20;
/// An arena names at most 64 GiB; that of 64 workers is far beyond any machine.
const MEMORY_MAX: u64 = 64 << 30;
/// More than there can be.
const MESSAGES_MAX: u64 = 1 << 32;
const SPIN_ON_OWN_CORE: Duration = Duration::from_micros(50);

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "kvs1"
listen = ["127.0.0.1:7400", "[::1]:7400"]
memory = "64 MiB"
workers = 2
cores = "0,2"

[[account]]
name = "gw1"
secret = "a long shared secret"
queues = "gw1/"
"#;

    fn parse(text: &str) -> Result<Settings, Mistakes> {
        Settings::parse("kvs.toml", text, |_| Ok("from a file".into()))
    }

    #[test]
    fn a_short_file_is_enough() {
        let settings = parse(GOOD).unwrap();
        assert_eq!(settings.messages_max, 65_536);
        assert_eq!(settings.cores, [0, 2]);
        assert_eq!(settings.listen.len(), 2);
    }

    #[test]
    fn workers_spin_on_cores_of_their_own_unless_it_is_said_otherwise() {
        let unpinned = GOOD.replace("cores = \"0,2\"", "");
        let told = GOOD.replace("workers = 2", "workers = 2\nspin = \"7 us\"");
        for (text, micros) in [(GOOD, 50), (&unpinned, 0), (&told, 7)] {
            assert_eq!(parse(text).unwrap().spin, Duration::from_micros(micros), "{text}");
        }
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let text = GOOD
            .replace("[::1]:7400", "[::1]:7401")
            .replace("64 MiB", "6 MiB")
            .replace("0,2", "0-")
            .replace("gw1\"\nsecret", "gw1\"\ncolour = 1\nsecret");
        let mistakes = parse(&text).unwrap_err().to_string();
        for expected in
            ["one port", "at least 4 MiB", "core numbers in quotes", "`colour` is no key"]
        {
            assert!(mistakes.contains(expected), "{mistakes}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        assert!(!format!("{:?}", parse(GOOD).unwrap()).contains("long shared"));
    }

    const LINKS: &str = r#"
[links]
transport = "auto"
[[interface]]
name = "eth1"
address = "127.0.0.1"
nic_queues = "4-5"
peers = ["10.1.0.1", "10.1.0.2"]
"#;

    #[test]
    fn each_worker_has_a_nic_queue_for_its_port() {
        let links = parse(&format!("{GOOD}{LINKS}")).unwrap().links;
        let interface = &links.interfaces[0];
        let queues = interface.queues.iter().map(|it| (it.number, it.ports.clone()));
        assert_eq!(queues.collect::<Vec<_>>(), [(4, 7400..=7400), (5, 7401..=7401)]);
        assert_eq!(
            interface.peers,
            ["10.1.0.1", "10.1.0.2"].map(|it| it.parse::<std::net::Ipv4Addr>().unwrap())
        );
        assert_eq!(parse(GOOD).unwrap().links.choice, tcpstack::LinkChoice::Kernel);
    }

    #[test]
    fn mistakes_in_the_way_of_links_name_their_keys() {
        let table = [
            ("\"auto\"", "\"fast\"", "`transport` is \"fast\""),
            ("4-5", "4", "give a NIC queue of its own for each of 2 threads"),
            ("4-5", "4,4", "give a NIC queue of its own for each of 2 threads"),
            ("127.0.0.1\"\nnic", "10.1.0.9\"\nnic", "`listen` does not name it"),
            ("peers = [\"10.1.0.1\", \"10.1.0.2\"]", "peers = []", "`peers` is []"),
            ("\"10.1.0.1\"", "\"10.1.0\"", "give the IPv4 address of one machine"),
            ("eth1", "an interface", "`name` is \"an interface\""),
            ("\"auto\"", "\"auto\"\nframes = 5000", "give a power of two"),
            ("\"auto\"", "\"auto\"\nports = 1", "`ports` is no key"),
            ("[[interface]]", "[[interfaces]]", "without an `[[interface]]` there is no NIC queue"),
        ];
        for (from, to, expected) in table {
            assert!(LINKS.contains(from), "{from}");
            let mistakes = parse(&format!("{GOOD}{}", LINKS.replace(from, to))).unwrap_err();
            assert!(mistakes.to_string().contains(expected), "{expected}: {mistakes}");
        }
        let text = format!("{GOOD}{LINKS}").replace("7400\", \"[::1]:7400", "0");
        let mistakes = parse(&text).unwrap_err().to_string();
        assert!(mistakes.contains("NIC queues are chosen by port"), "{mistakes}");
        let three = LINKS.replace("[links]\ntransport = \"auto\"", "").repeat(2);
        let mistakes = parse(&format!("{GOOD}{LINKS}{three}")).unwrap_err().to_string();
        for expected in ["is named twice", "addresses differ", "give 2 interfaces at most"] {
            assert!(mistakes.contains(expected), "{expected}: {mistakes}");
        }
    }
}

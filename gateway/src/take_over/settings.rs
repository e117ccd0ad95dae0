//! The sender program's configuration: one TOML file with what is its own. How mail is delivered is not in it:
//! that is in the settings which the gateway has left in the register.

use std::path::Path;
use std::time::Duration;

use config::{Document, Mistakes, Table};

use crate::settings::kept::{Local, Way};
use crate::settings::{
    read_local, read_log, read_register, read_standby, read_status_socket, read_threads,
    server_name_is_allowed,
};

/// Most gateways that one program stands by for. A file with more is refused.
const GATEWAYS_MAX: usize = 64;

/// The whole file.
#[derive(Clone, Debug)]
pub struct SenderSettings {
    /// Log records as JSON instead of text.
    pub log_json: bool,
    /// The gateways, in order.
    pub duties: Vec<Duty>,
}

/// A gateway that it stands by for.
#[derive(Clone, Debug)]
pub struct Duty {
    /// Its name.
    pub of: String,
    /// The server that the sender sits beside: that one's place decides when its turn is.
    pub beside: String,
    /// How long the queues are without an owner before the sender beside the first recorded server takes over.
    pub after: Duration,
    /// How much later the next one does.
    pub further: Duration,
    /// How long deliveries under way may take when the gateway is back.
    pub hand_back: Duration,
    /// What it has of its own.
    pub local: Local,
}

impl SenderSettings {
    /// Reads and checks a file's text; `path` names it in mistakes and is where relative paths start.
    ///
    /// # Errors
    /// Every mistake that was found.
    pub fn parse(path: &Path, text: &str) -> Result<SenderSettings, Mistakes> {
        let label = path.display().to_string();
        let document = Document::parse(&label, text);
        let root = document.root();
        let directory = path.parent().unwrap_or(Path::new("."));
        let beside = root.string("beside").check(|name| server_name_is_allowed(name)).required();
        let log_json = read_log(&root);
        let shared = Shared {
            register: read_register(&root, directory),
            threads: read_threads(&root),
            ways: read_ways(&root),
            log_json,
        };
        let mut duties: Vec<Duty> = Vec::new();
        for table in root.required_tables("take_over") {
            let duty = read_duty(&table, directory, &beside, &shared);
            if duties.iter().any(|it| it.of == duty.of) {
                table.mistake_at("of", format!("{:?} is named twice", duty.of));
            }
            let socket = &duty.local.status_socket;
            if socket.is_some() && duties.iter().any(|it| it.local.status_socket == *socket) {
                table.mistake_at("status_socket", "another one has this: give each its own");
            }
            duties.push(duty);
        }
        if duties.len() > GATEWAYS_MAX {
            root.mistake(format!("{} gateways are too many: at most {GATEWAYS_MAX}", duties.len()));
        }
        document.finish()?;
        Ok(SenderSettings { log_json, duties })
    }
}

/// What is the same for all gateways.
struct Shared {
    register: crate::register::RegisterSettings,
    threads: crate::settings::Threads,
    ways: Vec<Way>,
    log_json: bool,
}

fn read_duty(table: &Table<'_>, directory: &Path, beside: &str, shared: &Shared) -> Duty {
    let secret =
        table.secret("secret", "secret_file", |path| config::read_file(&directory.join(path)));
    Duty {
        of: table.string("of").check(|name| server_name_is_allowed(name)).required(),
        beside: beside.to_owned(),
        after: table.duration("after").range(SECOND..=WEEK).default(60 * SECOND),
        further: table
            .duration("further")
            .range(Duration::from_millis(100)..=WEEK)
            .default(30 * SECOND),
        hand_back: table
            .duration("hand_back")
            .range(Duration::ZERO..=300 * SECOND)
            .default(10 * SECOND),
        local: Local {
            register: shared.register.clone(),
            account: table.string("account").not_empty().optional(),
            secret: secret.required(),
            threads: shared.threads.clone(),
            log_json: shared.log_json,
            status_socket: read_status_socket(table, directory),
            ways: shared.ways.clone(),
        },
    }
}

/// Every `[[kvs]]`, in order.
fn read_ways(root: &Table<'_>) -> Vec<Way> {
    let mut ways: Vec<Way> = Vec::new();
    for table in root.tables("kvs") {
        let server = table.string("name").check(|name| server_name_is_allowed(name)).required();
        if ways.iter().any(|way| way.server == server) {
            table.mistake_at("name", format!("two servers are named {server:?}; names differ"));
        }
        let address = table.address("address").optional();
        let local = read_local(&table, "local");
        let standby = read_standby(&table, address);
        ways.push(Way { server, address, local, standby });
    }
    ways
}

const SECOND: Duration = Duration::from_secs(1);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const EXAMPLE: &str = include_str!("../../../setup/examples/sender.toml");
    const HANDBOOK: &str = include_str!("../../../docs/operations.md");

    fn parse(text: &str) -> Result<SenderSettings, Mistakes> {
        SenderSettings::parse(Path::new("/etc/hikyaku/sender.toml"), text)
    }

    fn mistakes(text: &str) -> String {
        parse(text).expect_err("a mistake").to_string()
    }

    /// Of each key: its table, a value that is not the default, and where that shows in the debugging output.
    const READ: &[(&str, &str, &str, &str)] = &[
        ("", "beside", "'b'", "beside: \"b\""),
        ("", "register", "'other'", "register: Directory(\"/etc/hikyaku/other\")"),
        ("", "log", "'json'", "log_json: true"),
        ("threads", "workers", "7", "Merged { workers: 7 }"),
        ("threads", "spin", "'7 us'", "spin: 7µs"),
        ("kvs", "name", "'a7'", "server: \"a7\""),
        ("kvs", "address", "'127.0.0.7:7001'", "address: Some(127.0.0.7:7001)"),
        ("kvs", "local", "'127.0.0.7'", "local: Some(127.0.0.7)"),
        ("kvs", "standby_address", "'127.0.0.7:7001'", "standby: Some((127.0.0.7:7001, None))"),
        ("take_over", "of", "'gw7'", "of: \"gw7\""),
        ("take_over", "account", "'sender'", "account: Some(\"sender\")"),
        ("take_over", "status_socket", "'7.sock'", "status_socket: Some(\"/etc/hikyaku/7.sock\")"),
        ("take_over", "after", "'7 s'", "after: 7s"),
        ("take_over", "further", "'7 s'", "further: 7s"),
        ("take_over", "hand_back", "'7 s'", "hand_back: 7s"),
    ];

    /// The example with that key set, whether it stands there or behind `# `.
    fn example_with(table: &str, key: &str, value: &str) -> String {
        let (mut at, mut is_done, mut text) = ("", false, String::new());
        for line in EXAMPLE.lines() {
            if line.starts_with('[') {
                at = line.trim_matches(['[', ']']);
            }
            let plain = line.strip_prefix("# ").unwrap_or(line);
            if !is_done && at == table && plain.starts_with(&format!("{key} = ")) {
                is_done = true;
                text += &format!("{key} = {value}\n");
            } else {
                text += &format!("{line}\n");
            }
        }
        assert!(is_done, "{table} {key} is in the example");
        text
    }

    #[test]
    fn the_example_is_right_and_each_key_does_what_it_says() {
        let usual = format!("{:?}", parse(EXAMPLE).unwrap());
        for (table, key, value, shown) in READ {
            let changed = format!("{:?}", parse(&example_with(table, key, value)).unwrap());
            assert!(changed.contains(shown) && !usual.contains(shown), "{key}: {changed}");
        }
    }

    #[test]
    fn what_the_example_shows_as_defaults_are_the_defaults() {
        let shown = ["after", "further", "hand_back", "log", "workers", "spin"];
        let all = EXAMPLE.lines().map(|line| {
            let plain = line.strip_prefix("# ").unwrap_or(line);
            let is_key = |key: &&str| plain.starts_with(&format!("{key} = "));
            if shown.iter().any(is_key) { plain } else { line }
        });
        let all = all.collect::<Vec<_>>().join("\n");
        assert_ne!(all, EXAMPLE.trim_end());
        assert_eq!(format!("{:?}", parse(&all)), format!("{:?}", parse(EXAMPLE)));
    }

    #[test]
    fn the_handbook_names_every_key() {
        let (_, chapter) = HANDBOOK.split_once("## The sender program").expect("a chapter");
        let chapter = chapter.split("\n## ").next().expect("its text");
        let mut keys = READ.iter().map(|(_, key, ..)| *key).collect::<BTreeSet<_>>();
        keys.extend([
            "secret",
            "secret_file",
            "standby_local",
            "register_user",
            "[threads]",
            "[[kvs]]",
        ]);
        for key in keys {
            let is_named = chapter.contains(&format!("`{key}`"))
                || ["workers", "spin", "address"].contains(&key);
            assert!(is_named, "{key}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let twice = EXAMPLE.replace("[[take_over]]", "[[take_over]]\nof = \"gw1\"\nsecret = \"x\"\nstatus_socket = \"sender.sock\"\n[[take_over]]");
        let text = mistakes(&twice);
        assert!(text.contains("\"gw1\" is named twice"), "{text}");
        assert!(text.contains("another one has this"), "{text}");
        let text = mistakes(&example_with("take_over", "after", "'10 ms'"));
        assert!(text.contains("`after` is '10 ms': give a time"), "{text}");
        let text = mistakes("");
        for missing in ["beside", "register", "take_over"] {
            assert!(text.contains(&format!("`{missing}` is missing")), "{text}");
        }
        let gateways =
            (0..65).map(|it| format!("[[take_over]]\nof = \"gw{it}\"\nsecret = \"x\"\n"));
        let head = EXAMPLE.split("[[take_over]]").next().unwrap();
        let text = mistakes(&(head.to_owned() + &gateways.collect::<String>()));
        assert!(text.contains("65 gateways are too many"), "{text}");
    }
}

//! Every key is in the example with its default, in the operator's handbook, and read into its place.

use std::collections::BTreeMap;

use super::*;

const EXAMPLE: &str = include_str!("../../../../setup/examples/gateway.toml");
const HANDBOOK: &str = include_str!("../../../../docs/operations.md");

/// Keys without a default of their own: what the example shows behind `#` is an alternative.
const ALTERNATIVES: [(&str, &str); 20] = [
    ("", "register"),
    ("", "register_user"),
    ("", "register_password"),
    ("", "register_password_file"),
    ("", "secret_file"),
    ("threads", "link_workers"),
    ("threads", "smtp_workers"),
    ("threads", "cores"),
    ("kvs", "local"),
    ("kvs", "standby_address"),
    ("kvs", "standby_local"),
    ("kvs", "node"),
    ("kvs", "rack"),
    ("kvs", "power"),
    ("placement", "node"),
    ("placement", "rack"),
    ("placement", "power"),
    ("queue", "recipients_file"),
    ("reports", "queue"),
    ("limits", "resync_rate"),
];

/// Of each key: its table, its name, a value that is not the default, and where that shows in the
/// debugging output of the settings.
const READ: &[(&str, &str, &str, &str)] = &[
    ("", "name", "'gw7'", "name: \"gw7\""),
    ("", "hostname", "'gw7.example'", "hostname: \"gw7.example\""),
    ("", "listen", "['127.0.0.7:2525']", "listen: [127.0.0.7:2525]"),
    ("", "register", "'other'", "register: Directory(\"./other\")"),
    ("", "register_user", "'gw7'", "user: Some((\"gw7\", Secret(hidden)))"),
    ("", "account", "'gw7'", "account: \"gw7\""),
    ("", "protocol_max", "1", "version_max: V1"),
    ("", "min_sync", "1", "min_sync: 1"),
    ("", "memory", "'70 MiB'", "memory_bytes: 73400320"),
    ("", "message_size_max", "'7 MiB'", "message_size_max: 7340032"),
    ("", "trace_header", "false", "trace_header: false"),
    ("", "trace_recipient", "true", "trace_recipient: true"),
    ("", "log", "'json'", "log_json: true"),
    ("", "status_socket", "'gw7.sock'", "status_socket: Some(\"./gw7.sock\")"),
    ("threads", "drivers", "'split'", "Split { link_workers: 1, smtp_workers: 1 }"),
    ("threads", "workers", "7", "Merged { workers: 7 }"),
    ("threads", "cores", "'7'", "cores: [7]"),
    ("threads", "spin", "'7 us'", "spin: 7µs"),
    ("links", "transport", "'auto'", "choice: Auto"),
    ("links", "mode", "'generic'", "mode: Generic"),
    ("links", "frames", "8192", "frames: 8192"),
    ("links", "frame_size", "'4 KiB'", "frame_bytes: 4096"),
    ("links", "busy_poll", "'7 us'", "busy_poll: 7µs"),
    ("links", "verify_checksums", "false", "verify_checksums: false"),
    ("interface", "name", "'eth7'", "LinkInterface { name: \"eth7\""),
    ("interface", "address", "'10.7.0.7'", "address: 10.7.0.7"),
    ("interface", "nic_queues", "'7'", "LinkQueue { number: 7, ports: 61440..=61503 }"),
    ("interface", "ports", "7040", "LinkQueue { number: 4, ports: 7040..=7103 }"),
    ("kvs", "name", "'a7'", "server: \"a7\""),
    ("kvs", "address", "'127.0.0.7:7001'", "address: 127.0.0.7:7001"),
    ("kvs", "local", "'127.0.0.7'", "local: Some(127.0.0.7)"),
    ("kvs", "standby_address", "'127.0.0.7:7001'", "standby: Some((127.0.0.7:7001, None))"),
    ("kvs", "drain", "true", "drained: [true, false]"),
    ("kvs", "node", "'m7'", "placements: [Placement { node: Some(\"m7\")"),
    ("kvs", "rack", "'r7'", "placements: [Placement { node: None, rack: Some(\"r7\")"),
    (
        "kvs",
        "power",
        "'p7'",
        "placements: [Placement { node: None, rack: None, power: Some(\"p7\")",
    ),
    ("placement", "node", "'m7'", "placement: Placement { node: Some(\"m7\")"),
    ("placement", "rack", "'r7'", "placement: Placement { node: None, rack: Some(\"r7\")"),
    (
        "placement",
        "power",
        "'p7'",
        "placement: Placement { node: None, rack: None, power: Some(\"p7\")",
    ),
    ("group", "name", "'main7'", "name: \"main7\""),
    ("group", "kvs", "['b', 'a']", "members: [1, 0]"),
    ("queue", "name", "'q7'", "queue_name: \"q7\""),
    ("queue", "domains", "['d7.example']", "\"d7.example\": QueueIndex(0)"),
    ("queue", "next_hops", "['127.0.0.7:25']", "next_hops: [127.0.0.7:25]"),
    ("queue", "protocol", "'lmtp'", "protocol: Lmtp"),
    ("queue", "connections_initial", "7", "connections_initial: 7"),
    ("queue", "connections_max", "7", "connections_max: 7"),
    ("queue", "recipients_per_transaction_max", "7", "recipients_max: 7,"),
    ("queue", "transfer_timeout", "'7 s'", "transfer_timeout: 7s"),
    ("limits", "idle_connections_max", "7", "idle_connections_max: 7"),
    ("queue", "rate_max", "7", "rate_per_second: Some(7)"),
    ("queue", "receive", "'suspended'", "bytes_max: 1073741824, is_suspended: true"),
    ("queue", "send", "'suspended'", "is_suspended: true, "),
    ("queue", "messages_max", "7", "messages_max: 7"),
    ("queue", "bytes_max", "'70 MiB'", "bytes_max: 73400320"),
    ("queue", "retry_first", "'7 s'", "first: 7s"),
    ("queue", "retry_max", "'7 s'", "max: 7s"),
    ("queue", "expiry", "'7 s'", "expiry: 7s"),
    ("queue", "warn_after", "'7 s'", "warn_after: 7s"),
    ("queue", "strict", "true", "strict: true"),
    ("queue", "messages_per_connection_max", "7", "messages_per_connection_max: 7"),
    ("queue", "pipeline", "false", "pipeline_transactions: false"),
    ("queue", "prefetch", "7", "prefetch: 7"),
    ("default_route", "queue", "'example.net'", "default: Some(QueueIndex(0))"),
    ("relay", "networks", "['10.7.0.0/16']", "10.7.0.0/16"),
    ("relay", "domains", "['d7.example']", "d7.example"),
    ("relay", "priority_max", "7", "priority_max: 7"),
    (
        "relay",
        "bare_newlines",
        "'normalise'",
        "trusted_rules: SessionRules { bare_newlines: Normalise",
    ),
    (
        "relay",
        "illegal_pipelining",
        "'allow'",
        "trusted_rules: SessionRules { bare_newlines: Refuse, illegal_pipelining: Allow",
    ),
    ("checks", "senders_refused", "['s7@d7.example']", "s7@d7.example"),
    ("checks", "recipients_refused", "['r7@d7.example']", "r7@d7.example"),
    ("checks", "sender_domain", "true", "sender_domain: true"),
    ("checks", "hello_name", "true", "hello_name: true"),
    ("checks", "null_sender_one_recipient", "true", "null_sender_one_recipient: true"),
    ("checks", "bare_newlines", "'normalise'", " rules: SessionRules { bare_newlines: Normalise"),
    (
        "checks",
        "illegal_pipelining",
        "'allow'",
        " rules: SessionRules { bare_newlines: Refuse, illegal_pipelining: Allow",
    ),
    ("reports", "queue", "'example.net'", "queue: Some(QueueIndex(0))"),
    ("reports", "content_max", "'7 KiB'", "content_max: 7168"),
    ("limits", "sessions_max", "7", "{ listen: [127.0.0.1:2525, [::1]:2525], sessions_max: 7"),
    ("limits", "messages_per_session_max", "7", "messages_per_session_max: 7"),
    ("limits", "recipients_max", "700", "recipients_max: 700"),
    ("limits", "text_line_max", "7000", "text_line_max: 7000"),
    ("limits", "errors_max", "7", "errors_max: 7"),
    ("limits", "errors_soft", "7", "errors_soft: 7"),
    ("limits", "received_max", "7", "received_max: 7"),
    ("limits", "data_rate_min", "7", "data_rate_min: 7"),
    ("limits", "data_rate_min_loaded", "7777", "data_rate_min: 7777"),
    ("limits", "load_percent", "33", "load_percent: 33"),
    ("limits", "client_sessions_max", "7", "sessions_max: Some(7)"),
    ("limits", "client_sessions_per_minute", "7", "sessions_per_minute: Some(7)"),
    ("limits", "client_transactions_per_minute", "7", "transactions_per_minute: Some(7)"),
    ("limits", "client_recipients_per_minute", "7", "recipients_per_minute: Some(7)"),
    ("limits", "client_content_max", "'7 KiB'", "content_max: Some(7168)"),
    ("limits", "resync_rate", "'7 KiB'", "resync_rate: Some(7168)"),
    ("limits", "exempt_networks", "['10.7.0.0/16']", "exempt_networks: Networks([10.7.0.0/16])"),
    ("times", "heart_beat", "'7 ms'", "heart_beat: 7ms"),
    ("times", "lease", "'7 s'", "lease: 7s"),
    ("times", "link_deadline", "'7 s'", "deadline: 7s"),
    ("times", "path_deadline", "'70 ms'", "path_deadline: 70ms"),
    ("times", "hedge_after", "'7 ms'", "hedge_after: 7ms"),
    ("times", "isolate_after", "'7 s'", "isolate_after: 7s"),
    ("times", "recovery_wait", "'7 s'", "recovery_wait: 7s"),
    ("times", "command", "'700 s'", "command: 700s"),
    ("times", "command_loaded", "'7 s'", "command: 7s"),
    ("times", "greet_pause", "'7 s'", "greet_pause: 7s"),
    ("times", "error_delay", "'7 s'", "error_delay: 7s"),
    ("times", "drain", "'7 s'", "drain: 7s"),
    ("times", "commit", "'7 s'", "commit_timeout: 7s"),
    ("times", "delivery_greeting", "'7 s'", "greeting: 7s"),
    ("times", "delivery_reply", "'7 s'", "reply: 7s"),
    ("times", "delivery_data_start", "'7 s'", "data_start: 7s"),
    ("times", "delivery_data_block", "'7 s'", "data_block: 7s"),
    ("times", "delivery_data_end", "'7 s'", "data_end: 7s"),
    ("times", "delivery_idle", "'7 s'", "idle: 7s"),
    ("times", "backoff_min", "'7 s'", "backoff_min: 7s"),
    ("times", "backoff_max", "'7 s'", "backoff_max: 7s"),
];

/// Keys that READ does not have: what they do is tested by name elsewhere, as they need a file or
/// other keys.
const READ_ELSEWHERE: [(&str, &str); 9] = [
    ("", "register_password"),
    ("", "register_password_file"),
    ("", "secret"),
    ("", "secret_file"),
    ("threads", "link_workers"),
    ("threads", "smtp_workers"),
    ("kvs", "standby_local"),
    ("queue", "group"),
    ("queue", "recipients_file"),
];

/// Those of the reader's keys that name tables.
const TABLES: [&str; 13] = [
    "links",
    "interface",
    "threads",
    "placement",
    "kvs",
    "group",
    "queue",
    "default_route",
    "relay",
    "checks",
    "reports",
    "limits",
    "times",
];

type Keys = BTreeSet<(String, String)>;

#[test]
fn the_example_has_every_key_and_no_other() {
    let (example, reader) = (keys_of_the_example(), keys_of_the_reader());
    assert_eq!(reader.difference(&example).collect::<Vec<_>>(), [] as [&(String, String); 0]);
    assert_eq!(example.difference(&reader).collect::<Vec<_>>(), [] as [&(String, String); 0]);
}

#[test]
fn what_the_example_shows_as_defaults_are_the_defaults() {
    let words = |settings: Settings| {
        // Sets have no order of their own.
        let text = format!("{settings:?}");
        let mut words =
            text.split([' ', ',', '{', '}', '[', ']']).map(String::from).collect::<Vec<_>>();
        words.sort();
        words
    };
    let plain = lines(EXAMPLE, |table, line| match key_in_comment(line) {
        Some(key) if !ALTERNATIVES.contains(&(table, key)) => line[2..].to_owned(),
        _ => line.to_owned(),
    });
    assert_ne!(plain, EXAMPLE);
    assert_eq!(words(parse_example(&plain)), words(parse_example(EXAMPLE)));
}

#[test]
fn the_handbook_names_every_key() {
    let mut missing = Vec::new();
    for (table, key) in keys_of_the_reader() {
        let family = key.split('_').next().unwrap();
        let named = [format!("`{key}`"), format!("`{key} = "), format!("`{family}_*`")];
        if !named.iter().any(|name| HANDBOOK.contains(name)) {
            missing.push(format!("{table} {key}"));
        }
    }
    assert_eq!(missing, [""; 0], "docs/operations.md does not name them");
}

#[test]
fn every_key_is_read_into_its_place() {
    let plain = format!("{:?}", parse_example(EXAMPLE));
    let mut read = Keys::new();
    for &(table, key, value, shows) in READ {
        let text = with_value(table, key, value);
        let settings = format!("{:?}", parse_example(&text));
        assert!(settings.contains(shows), "{table} {key} = {value} does not show as {shows}");
        let is_example = table == "default_route";
        assert!(is_example || !plain.contains(shows), "{shows} shows without {key} = {value}");
        assert!(read.insert((table.into(), key.into())), "{table} {key} is tested twice");
    }
    read.extend(READ_ELSEWHERE.map(|(table, key)| (table.into(), key.into())));
    assert_eq!(read, keys_of_the_reader(), "each key has its line in READ");
}

#[test]
fn split_threads_are_counted_by_their_kind() {
    let text = EXAMPLE.replace("drivers = \"merged\"\nworkers = 1\n", "drivers = \"split\"\n");
    let text = text
        .replace("# link_workers = 1\n# smtp_workers = 1", "link_workers = 2\nsmtp_workers = 3");
    let drivers = parse_example(&text).threads.drivers;
    assert_eq!(drivers, Drivers::Split { link_workers: 2, smtp_workers: 3 });
}

fn parse_example(text: &str) -> Settings {
    Settings::parse(Path::new("./gateway.toml"), text)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// The example with another value of a key: in the first table of that name.
fn with_value(table: &str, key: &str, value: &str) -> String {
    let is_key = |line: &str| key_of(line) == Some(key) || key_in_comment(line) == Some(key);
    let mut is_done = false;
    let text = lines(EXAMPLE, |of, line| {
        if is_done || of != table || !is_key(line) {
            return line.to_owned();
        }
        is_done = true;
        format!("{key} = {value}")
    });
    assert!(is_done, "{table} {key} is in the example");
    // What names what was renamed, and what goes with one kind of threads only.
    match (table, key) {
        ("", "register_user") => text
            .replace("register = \"register\"\n", "")
            .replace("# register = ", "register = ")
            .replace("# register_password = ", "register_password = "),
        ("threads", "drivers") => text.replace("\nworkers = 1\n", "\n"),
        ("threads", "workers") => text.replace("cores = \"0\"", "cores = \"\""),
        ("kvs", "name") => text.replace("kvs = [\"a\", \"b\"]", "kvs = [\"a7\", \"b\"]"),
        ("group", "name") => text.replace("group = \"main\"", "group = \"main7\""),
        // It has one connection at a time.
        ("queue", "strict") => text.replace("connections_max = 4", "connections_max = 1"),
        ("queue", "name") => text.replace("queue = \"example.net\"", "queue = \"q7\""),
        _ => text,
    }
}

/// Changes each line by `change`, which is told the table that it is in.
fn lines(text: &str, mut change: impl FnMut(&str, &str) -> String) -> String {
    let mut table = "";
    let mut changed = String::new();
    for line in text.lines() {
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']']);
        }
        changed += &change(table, line);
        changed.push('\n');
    }
    changed
}

fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(" = ")?;
    let is_key = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    (is_key && !key.is_empty()).then_some(key)
}

fn key_in_comment(line: &str) -> Option<&str> {
    key_of(line.strip_prefix("# ")?)
}

fn keys_of_the_example() -> Keys {
    let mut keys = Keys::new();
    lines(EXAMPLE, |table, line| {
        let key = key_of(line).or_else(|| key_in_comment(line));
        keys.extend(key.map(|key| (table.to_owned(), key.to_owned())));
        String::new()
    });
    keys
}

/// Every key that the reader knows: it names them when it is given one that it does not.
fn keys_of_the_reader() -> Keys {
    const UNKNOWN: &str = "zzzzzzzzzzzzzzzzzzzz = 0";
    let mut tables = BTreeMap::new();
    let text = lines(EXAMPLE, |table, line| match line.starts_with('[') {
        true => {
            tables.insert(format!("`{line}`"), table.to_owned());
            format!("{line}\n{UNKNOWN}")
        }
        false => line.to_owned(),
    });
    tables.insert("the top of the file".into(), String::new());
    let text = format!("{UNKNOWN}\n{text}");
    let mut keys = Keys::new();
    for text in [text.replace("drivers = \"merged\"", "drivers = \"split\""), text] {
        let mistakes = Settings::parse(Path::new("x"), &text).unwrap_err().to_string();
        for line in mistakes.lines() {
            let Some((_, rest)) = line.split_once(" is no key of ") else { continue };
            let Some((title, known)) = rest.split_once("; its keys are ") else { continue };
            let table = &tables[title];
            let known = known.split(", ").map(|key| key.trim_matches('`'));
            let known = known.filter(|key| !table.is_empty() || !TABLES.contains(key));
            keys.extend(known.map(|key| (table.clone(), key.into())));
        }
    }
    keys
}

mod keys;

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroU64};

use super::*;

/// A file without mistakes.
pub(crate) const GOOD: &str = r#"
name = "gw1"
hostname = "gw1.example"
listen = ["127.0.0.1:2525", "[::1]:2525"]
register = "register"
account = "gw1"
secret = "between us"
[threads]
workers = 3
[[kvs]]
name = "a"
address = "127.0.0.1:7001"
[[kvs]]
name = "b"
address = "127.0.0.1:7002"
[[group]]
name = "main"
kvs = ["a", "b"]
[[queue]]
name = "example.net"
domains = ["example.net", "Example.ORG"]
group = "main"
next_hops = ["127.0.0.1:2600"]
rate_max = 7
[[queue]]
name = "rest"
domains = []
group = "main"
next_hops = ["127.0.0.1:2601", "127.0.0.1:2602"]
[default_route]
queue = "rest"
"#;

/// A register in etcd, in the place of the good file's.
const ETCD: &str = "= [\"http://10.0.0.1:2379\", \"http://[fd00::2]:2379\"]";

fn parse(text: &str) -> Result<Settings, Mistakes> {
    Settings::parse(Path::new("/etc/hikyaku/gw1.toml"), text)
}

/// The mistakes of the good file with `from` replaced.
fn mistakes(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?} is in the file");
    parse(&GOOD.replace(from, to)).expect_err("a mistake").to_string()
}

#[test]
fn a_good_file_is_read_and_the_rest_has_defaults() {
    let settings = parse(GOOD).unwrap();
    assert_eq!(settings.threads.drivers, Drivers::Merged { workers: 3 });
    assert_eq!(settings.policy.min_sync, 2);
    let directory = Path::new("/etc/hikyaku/register");
    assert_eq!(settings.register, RegisterSettings::Directory(directory.into()));
    let routes = &settings.reception.routes;
    assert_eq!(routes.queue_for("example.org"), Some(QueueIndex(0)));
    assert_eq!(routes.queue_for("anything.else"), Some(QueueIndex(1)));
    let destination = &settings.delivery.destinations[0];
    assert_eq!(destination.rate_per_second, NonZeroU32::new(7));
    assert_eq!(settings.delivery.destinations[1].next_hops.len(), 2);
}

#[test]
fn a_register_in_etcd_is_read_with_and_without_a_user() {
    let etcd = |more: &str| match changed("= \"register\"", &format!("{ETCD}{more}")).register {
        RegisterSettings::Etcd(settings) => settings,
        other => panic!("{other:?}"),
    };
    let settings = etcd("");
    assert_eq!(settings.members, ["10.0.0.1:2379", "[fd00::2]:2379"].map(|it| it.parse().unwrap()));
    assert_eq!(settings.user, None);
    let settings = etcd("\nregister_user = \"gw1\"\nregister_password = \"between them\"");
    let (name, password) = settings.user.as_ref().unwrap();
    assert_eq!((&name[..], password.expose()), ("gw1", "between them"));
    assert!(!format!("{settings:?}").contains("between them"));
}

#[test]
fn destinations_are_read_and_strict_queues_have_one_connection_without_pipelining() {
    let said = "rate_max = 7\nprotocol = \"lmtp\"\nconnections_initial = 2\n\
                recipients_per_transaction_max = 50\ntransfer_timeout = \"90 s\"\nstrict = true";
    let settings = parse(&GOOD.replace("rate_max = 7", said)).unwrap();
    let [strict, other] = &settings.delivery.destinations[..] else { panic!("two queues") };
    assert_eq!(strict.protocol, smtp::Protocol::Lmtp);
    assert_eq!((strict.connections_initial, strict.recipients_max), (2, 50));
    assert_eq!(strict.transfer_timeout, Duration::from_secs(90));
    assert_eq!((strict.connections_max, strict.prefetch), (1, 0));
    assert!(!strict.pipeline_transactions && other.pipeline_transactions);
    assert_eq!(other.protocol, smtp::Protocol::Smtp);
    for key in ["connections_max = 2", "pipeline = true", "prefetch = 1"] {
        let mistakes = mistakes("rate_max = 7", &format!("strict = true\n{key}"));
        assert!(mistakes.contains(key.split(' ').next().unwrap()), "{mistakes}");
    }
}

#[test]
fn policy_is_strict_where_nothing_is_said_and_read_where_something_is() {
    let reception = parse(GOOD).unwrap().reception;
    let ip = |text: &str| text.parse().unwrap();
    assert!(reception.relay.is_trusted(ip("127.0.0.1")));
    assert!(!reception.relay.is_trusted(ip("192.0.2.1")) && reception.relay.domains.is_empty());
    assert_eq!(reception.client_limits.sessions_max, NonZeroU32::new(50));
    assert_eq!(reception.client_limits.content_max, NonZeroU64::new(128 << 20));
    let said = "[relay]\nnetworks = [\"192.0.2.0/24\"]\ndomains = [\".example.net\"]\n\
                [limits]\nclient_sessions_max = 0\nclient_recipients_per_minute = 7\n\
                [checks]\nsenders_refused = [\"@bad.example\"]\nhello_name = true\n[threads]";
    let reception = parse(&GOOD.replace("[threads]", said)).unwrap().reception;
    assert!(reception.relay.is_trusted(ip("192.0.2.1")));
    assert!(!reception.relay.is_trusted(ip("127.0.0.1")));
    assert_eq!(reception.exempt_networks, reception.relay.networks);
    assert!(reception.relay.domains.contains_domain("a.example.net"));
    assert_eq!(reception.client_limits.sessions_max, None);
    assert_eq!(reception.client_limits.recipients_per_minute, NonZeroU32::new(7));
    assert!(reception.checks.senders_refused.contains("x@bad.example"));
    assert!(reception.checks.hello_name && !reception.checks.sender_domain);
}

#[test]
fn a_list_of_recipients_belongs_to_its_queue() {
    let directory = std::env::temp_dir().join(format!("hikyaku-lists-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let list = directory.join("list");
    std::fs::write(&list, "# ours\n\nA@example.net\n  b@example.org\n").unwrap();
    let key = format!("recipients_file = {:?}", list.display().to_string());
    let settings = parse(&GOOD.replace("rate_max = 7", &key)).unwrap();
    let known = &settings.reception.known_recipients;
    assert!(known[0].as_ref().unwrap().contains("a@example.net") && known[1].is_none());
    std::fs::write(&list, "a@example.net\nwhat is this\n").unwrap();
    let text = mistakes("rate_max = 7", &key);
    assert!(text.contains("list:2: \"what is this\" is no address"), "{text}");
    // Cut short by whoever writes it, or lost.
    std::fs::write(&list, "# ours\n\n").unwrap();
    let text = mistakes("rate_max = 7", &key);
    assert!(text.contains("list names nobody"), "{text}");
    let text = mistakes("rate_max = 7", "recipients_file = \"/dev/zero\"");
    assert!(text.contains("/dev/zero is no regular file"), "{text}");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn every_queue_has_one_cohort_and_one_shard_whatever_the_workers() {
    let queues = (0..1000).map(|number| {
        format!(
            "[[queue]]\nname = \"q{number}\"\ngroup = \"main\"\nnext_hops = [\"127.0.0.1:1\"]\n"
        )
    });
    let head = GOOD.split("[[queue]]").next().unwrap();
    let settings = parse(&(head.to_owned() + &queues.collect::<String>())).unwrap();
    let keys = |shards: usize| {
        let mut keys = BTreeMap::new();
        for number in 0..shards {
            for cohort in settings.shard(number, shards, 1, 0).cohorts {
                for (unit, _) in cohort.queues {
                    let owner = settings.shard_of_queues(shards)[unit.queue.0 as usize];
                    assert_eq!(owner, number);
                    assert!(keys.insert(unit.queue, cohort.key.clone()).is_none());
                }
            }
        }
        assert_eq!(keys.len(), 1000);
        keys
    };
    assert_eq!(keys(1), keys(3), "records stay where they are when workers are added");
    let names = keys(1).into_values().collect::<BTreeSet<_>>();
    assert_eq!(names.len(), 16);
}

#[test]
fn a_file_with_too_many_queues_is_refused() {
    let queues = (0..=QUEUES_MAX).map(|number| {
        format!(
            "[[queue]]\nname = \"q{number}\"\ngroup = \"main\"\nnext_hops = [\"127.0.0.1:1\"]\n"
        )
    });
    let head = GOOD.split("[[queue]]").next().unwrap();
    let text = parse(&(head.to_owned() + &queues.collect::<String>())).unwrap_err().to_string();
    assert!(text.contains("1001 queues are too many: at most 1000"), "{text}");
}

#[test]
fn mistakes_between_keys_are_named_with_their_lines() {
    for (from, to, expected) in [
        ("kvs = [\"a\", \"b\"]", "kvs = [\"a\", \"c\"]", "18:13: there is no [[kvs]] named \"c\""),
        ("kvs = [\"a\", \"b\"]", "kvs = [\"a\", \"a\"]", "name two different servers"),
        ("kvs = [\"a\", \"b\"]", "kvs = [\"a\"]", "name two different servers"),
        ("name = \"b\"", "name = \"a\"", "two servers are named \"a\""),
        ("name = \"rest\"", "name = \"example.net\"", "two queues are named"),
        ("domains = []", "domains = [\"EXAMPLE.net\"]", "\"EXAMPLE.net\" is routed twice"),
        ("queue = \"rest\"", "queue = \"rets\"", "there is no [[queue]] named \"rets\""),
        ("name = \"gw1\"", "name = \"gw 1\u{e9}\"", "printable ASCII"),
        ("workers = 3", "workers = 17", "from 1 to 16"),
        ("workers = 3", "workers = 3\ncores = \"0-1\"", "2 cores for 3 threads"),
        ("account = \"gw1\"\n", "", "`account` is missing"),
        ("secret = \"between us\"", "secret_file = \"/does/not/exist\"", "/does/not/exist"),
        (
            "= \"register\"",
            "= 7",
            "5:12: `register` is 7: give the path of a directory in quotes, or",
        ),
        ("= \"register\"", "= []", "such as [\"http://10.0.0.1:2379\"]"),
        (
            "= \"register\"",
            "= [\"http://[::1]:2379\", \"10.0.0.1:2379\"]",
            "5:34: `register` is \"10.0.0.1:2379\": give http://, an IP address and a port",
        ),
        ("= \"register\"", "= [\"https://10.0.0.1:2379\"]", "http without TLS"),
        (
            "= \"register\"",
            "= [\"http://[::1]:1\", \"http://[::1]:1\"]",
            "5:31: [::1]:1 is named twice",
        ),
        ("[threads]", "register_user = \"gw1\"\n[threads]", "a directory asks for no user"),
        ("[threads]", "register_password = \"p\"\n[threads]", "a directory asks for no user"),
        (
            "= \"register\"",
            &format!("{ETCD}\nregister_user = \"gw1\""),
            "`register_password` is missing",
        ),
        (
            "= \"register\"",
            &format!("{ETCD}\nregister_password_file = \"/does/not/exist\""),
            "cannot read /does/not/exist",
        ),
        (
            "= \"register\"",
            &format!("{ETCD}\nregister_password = \"p\""),
            "6:21: a password without a name: give `register_user` too",
        ),
        ("[threads]", "min_sync = 0\n[threads]", "from 1 to 2"),
        (
            "[threads]",
            "[times]\nheart_beat = \"9 s\"\nlink_deadline = \"1 s\"\n[threads]",
            "longer than `heart_beat`",
        ),
        (
            "[threads]",
            "[relay]\nnetworks = [\"::1\", \"1.2.3.4/8\"]\n[threads]",
            "9:20: \"1.2.3.4/8\" has",
        ),
        ("[threads]", "[relay]\ndomains = [\"a b\"]\n[threads]", "9:12: \"a b\" is no address"),
        ("[threads]", "[checks]\nsender_refused = []\n[threads]", "did you mean `senders_refused`"),
        ("rate_max = 7", "bytes_max = \"10 MiB\"", "such mail could never be stored"),
        ("[threads]", "[times]\ncommand = \"5 s\"\n[threads]", "not be longer than `command`"),
        ("rate_max = 7", "recipients_file = \"none\"", "cannot read /etc/hikyaku/none"),
        ("127.0.0.1:2525\", \"[::1]:2525", "[::1]:2525\", \"[::1]:2525", "named twice"),
    ] {
        let text = mistakes(from, to);
        assert!(text.contains(expected), "{to:?} gives {text:?}");
        assert!(text.starts_with("/etc/hikyaku/gw1.toml:"), "{text}");
    }
}

/// The good file with a third server, and labels for where the gateway and the servers stand.
fn placed(own: &str, nodes: [&str; 3]) -> String {
    let third = "[[kvs]]\nname = \"c\"\naddress = \"127.0.0.1:7003\"\n[[group]]";
    let mut text = GOOD
        .replace("[[group]]", third)
        .replace("kvs = [\"a\", \"b\"]", "kvs = [\"a\", \"b\", \"c\"]")
        .replace("[threads]", &format!("[placement]\nnode = \"{own}\"\n[threads]"));
    for (name, node) in ["a", "b", "c"].iter().zip(nodes) {
        let line = format!("name = \"{name}\"\n");
        text = text.replace(&line, &format!("{line}node = \"{node}\"\n"));
    }
    text
}

#[test]
fn a_group_may_have_spares_and_must_have_two_servers_that_do_not_fail_together() {
    for nodes in [["1", "2", "3"], ["1", "1", "2"], ["gw", "1", "2"], ["1", "gw", "2"]] {
        let settings = parse(&placed("gw", nodes)).unwrap();
        assert_eq!(settings.groups[0].members, [0, 1, 2], "{nodes:?}");
        let node = |place: usize| settings.placements[place].node.as_deref();
        assert_eq!([node(0), node(1), node(2)], nodes.map(Some));
    }
    for nodes in [["1", "1", "1"], ["gw", "gw", "1"], ["gw", "1", "1"]] {
        let text = parse(&placed("gw", nodes)).unwrap_err().to_string();
        assert!(text.contains("no two copies of a queue may be on one node"), "{nodes:?}: {text}");
    }
}

#[test]
fn all_mistakes_are_named_at_once() {
    let text = GOOD
        .replace("workers = 3", "worker = 3")
        .replace("listen =", "lissen =")
        .replace("rate_max = 7", "rate_max = \"much\"");
    let text = parse(&text).unwrap_err().to_string();
    for expected in ["did you mean `workers`", "did you mean `listen`", "`rate_max` is"] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}

/// The settings of the good file with `from` replaced.
fn changed(from: &str, to: &str) -> Settings {
    assert!(GOOD.contains(from), "{from:?} is in the file");
    parse(&GOOD.replace(from, to)).unwrap()
}

/// A third server `c` in the group of the good file.
pub(crate) fn with_spare() -> String {
    let third = "[[kvs]]\nname = \"c\"\naddress = \"127.0.0.1:7009\"\n\n[[group]]";
    GOOD.replacen("[[group]]", third, 1)
        .replace("kvs = [\"a\", \"b\"]", "kvs = [\"a\", \"b\", \"c\"]")
}

#[test]
fn servers_come_are_drained_and_go_while_the_gateway_runs() {
    let (two, three) = (parse(GOOD).unwrap(), parse(&with_spare()).unwrap());
    assert_eq!(three.fixed_differences(&two), [""; 0]);
    assert_eq!(two.fixed_differences(&three), [""; 0]);
    assert_eq!(three.servers_gone(&two), [(0, ""); 0]);
    assert_eq!(two.servers_gone(&three), [(0, "c")]);
    assert_eq!(
        changed("name = \"b\"\n", "name = \"b\"\ndrain = true\n").fixed_differences(&two),
        [""; 0]
    );
    // A server of another address is another server, though it has the name of one that is gone.
    let other = with_spare().replace("127.0.0.1:7009", "127.0.0.1:7010");
    let other = parse(&other).unwrap();
    assert_eq!(other.fixed_differences(&three), ["kvs (addresses, labels)"]);
    assert_eq!(other.fixed_differences(&two), [""; 0]);
    let drained = three.with_drained(&[(0, "c")]);
    assert_eq!(drained.drained, [false, false, true]);
    let cohorts = drained.cohorts();
    assert!(cohorts.iter().all(|it| it.drained == [false, false, true] && it.order.is_none()));
}

#[test]
fn what_only_a_start_can_change_is_known() {
    let running = parse(GOOD).unwrap();
    assert_eq!(parse(GOOD).unwrap().fixed_differences(&running), [""; 0]);
    for (from, to, key) in [
        ("name = \"gw1\"", "name = \"gw2\"", "name"),
        ("gw1.example", "gw2.example", "hostname"),
        ("\"127.0.0.1:2525\", ", "", "listen"),
        ("\"register\"", "\"registry\"", "register"),
        ("= \"register\"", ETCD, "register"),
        ("account = \"gw1\"", "account = \"gw2\"", "account"),
        ("between us", "between all", "secret"),
        ("[threads]", "log = \"json\"\n[threads]", "log"),
        ("workers = 3", "workers = 2", "threads"),
        ("[threads]", "min_sync = 1\n[threads]", "min_sync"),
        ("[threads]", "protocol_max = 1\n[threads]", "protocol_max"),
        ("127.0.0.1:7002", "127.0.0.1:7003", "kvs (addresses, labels)"),
        ("name = \"b\"\n", "name = \"b\"\nrack = \"r\"\n", "kvs (addresses, labels)"),
        ("[threads]", "[placement]\nrack = \"r\"\n[threads]", "placement"),
        ("name = \"example.net\"", "name = \"example.com\"", "queue (names, groups, order)"),
        ("[threads]", "[times]\nheart_beat = \"300 ms\"\n[threads]", "times.heart_beat"),
        ("[threads]", "[times]\nlease = \"2 s\"\n[threads]", "times.lease"),
        ("[threads]", "[times]\nlink_deadline = \"3 s\"\n[threads]", "times.link_deadline"),
        ("[threads]", "[times]\npath_deadline = \"400 ms\"\n[threads]", "times.path_deadline"),
        ("[threads]", "[times]\nhedge_after = \"9 ms\"\n[threads]", "times.hedge_after"),
        ("[threads]", "[times]\nisolate_after = \"2 s\"\n[threads]", "times.isolate_after"),
        ("[threads]", "[times]\nrecovery_wait = \"2 s\"\n[threads]", "times.recovery_wait"),
    ] {
        assert_eq!(changed(from, to).fixed_differences(&running), [key]);
    }
    let user = |password: &str| {
        let user = format!("{ETCD}\nregister_user = \"gw1\"\nregister_password = \"{password}\"");
        changed("= \"register\"", &user)
    };
    assert_eq!(user("one").fixed_differences(&user("other")), ["register_user"]);
    for to in
        ["memory = \"64 MiB\"\n", "[limits]\nsessions_max = 3\n", "[times]\ncommit = \"1 s\"\n"]
    {
        let settings = changed("[threads]", &format!("{to}[threads]"));
        assert_eq!(settings.fixed_differences(&running), [""; 0]);
    }
}

#[test]
fn a_gateway_may_start_with_suspended_queues() {
    let settings = changed("rate_max = 7", "receive = \"suspended\"\nsend = \"suspended\"");
    let destinations = &settings.delivery.destinations;
    assert!(destinations[0].is_suspended && !destinations[1].is_suspended);
    let board = settings.board();
    assert!(board.is_suspended(QueueIndex(0)) && !board.is_suspended(QueueIndex(1)));
    let text = mistakes("rate_max = 7", "receive = \"suspend\"");
    assert!(text.contains("did you mean \"suspended\"?"), "{text}");
}

#[test]
fn a_second_address_of_a_server_has_the_same_port_and_is_another() {
    let with = |keys: &str| {
        let first = "address = \"127.0.0.1:7001\"";
        (first, format!("{first}\n{keys}"))
    };
    let (first, said) = with("standby_address = \"10.1.0.1:7001\"\nstandby_local = \"10.1.0.9\"");
    let settings = parse(&GOOD.replace(first, &said)).unwrap();
    let standby = ("10.1.0.1:7001".parse().unwrap(), Some("10.1.0.9".parse().unwrap()));
    assert_eq!(settings.links[0].standby, Some(standby));
    assert_eq!(settings.links[1].standby, None);
    for (keys, why) in [
        ("standby_address = \"10.1.0.1:7002\"", "one port at all its addresses: 7001"),
        ("standby_address = \"127.0.0.1:7001\"", "this is `address`"),
        ("standby_local = \"10.1.0.9\"", "without a `standby_address`"),
        ("standby_address = \"10.1.0.1:7001\"\nstandby_local = \"here\"", "no IP address"),
    ] {
        let (first, said) = with(keys);
        let text = mistakes(first, &said);
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn times_of_paths_stay_below_those_of_links() {
    let times =
        |text: &str| parse(&GOOD.replace("[threads]", &format!("[times]\n{text}\n[threads]")));
    let settings = times("heart_beat = \"20 ms\"\nlink_deadline = \"40 ms\"").unwrap();
    let link = &settings.links[0];
    let expected = [20, 10].map(Duration::from_millis);
    assert_eq!([link.path_deadline, link.hedge_after], expected, "by default they are shorter");
    assert_eq!(times("hedge_after = \"0 ms\"").unwrap().links[0].hedge_after, Duration::ZERO);
    let mistake = |text| times(text).unwrap_err().to_string();
    let text = mistake("path_deadline = \"2 s\"");
    assert!(text.contains("must be shorter than `link_deadline`"), "{text}");
    let text = mistake("lease = \"500 ms\"");
    assert!(text.contains("must be longer than `heart_beat`"), "{text}");
    let slow = times("heart_beat = \"1 s\"").unwrap();
    assert_eq!([slow.policy.lease, slow.links[0].deadline], [Duration::from_secs(2); 2]);
    let text = mistake("hedge_after = \"300 ms\"");
    assert!(text.contains("must be shorter than `path_deadline`"), "{text}");
}

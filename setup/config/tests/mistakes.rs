//! Each kind of mistake, by its full message with its line and column; and several at once.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use config::{Document, PathOrList, Table};
use proptest::prelude::*;

/// The mistakes found when `read` reads `text`, one a line without the file's name.
fn mistakes(text: &str, read: impl FnOnce(&Table<'_>)) -> Vec<String> {
    let document = Document::parse("f", text);
    read(&document.root());
    let shown = document.finish().err().map(|mistakes| mistakes.to_string()).unwrap_or_default();
    shown.lines().map(|line| line.strip_prefix("f:").unwrap().to_owned()).collect()
}

/// The value that `read` gets from `text`, which has no mistakes.
fn value<T>(text: &str, read: impl FnOnce(&Table<'_>) -> T) -> T {
    let document = Document::parse("f", text);
    let value = read(&document.root());
    document.finish().unwrap();
    value
}

#[test]
fn values_of_every_type_are_read() {
    assert_eq!(value("k = 'a'", |t| t.string("k").required()), "a");
    assert_eq!(value("k = ['a', 'b']", |t| t.strings("k").required()), ["a", "b"]);
    assert!(value("k = true", |t| t.boolean("k").required()));
    assert_eq!(value("k = 1_000", |t| t.integer::<u16>("k").required()), 1000);
    assert_eq!(value("k = -5", |t| t.integer::<i32>("k").required()), -5);
    assert_eq!(value("k = 0xff", |t| t.integer::<u64>("k").required()), 255);
    assert_eq!(value("k = '4 GiB'", |t| t.bytes("k").required()), 4 << 30);
    assert_eq!(value("k = 4294967296", |t| t.bytes("k").required()), 4 << 30);
    let time = value("k = '500 ms'", |t| t.duration("k").required());
    assert_eq!(time, Duration::from_millis(500));
    let address: SocketAddr = "[::1]:25".parse().unwrap();
    assert_eq!(value("k = '[::1]:25'", |t| t.address("k").required()), address);
    assert_eq!(value("k = ['[::1]:25']", |t| t.addresses("k").required()), [address]);
    assert_eq!(value("k = 'a/b'", |t| t.path("k").required()), PathBuf::from("a/b"));
    assert_eq!(value("k = 'b'", |t| t.choice("k", &[("a", 1), ("b", 2)]).required()), 2);
}

#[test]
fn a_missing_key_takes_its_default() {
    assert_eq!(value("", |t| t.integer("k").range(1..=9).default(7)), 7);
    assert_eq!(value("", |t| t.string("k").optional()), None);
    assert_eq!(value("", |t| t.table("sub").integer("k").default(3)), 3);
    assert!(value("", |t| t.optional_table("sub").is_none()));
    assert!(value("", |t| t.tables("sub").is_empty()));
}

#[test]
fn a_wrong_type_says_what_is_wanted() {
    let found = mistakes("a = 1\nb = 'x'\n\nc = 2\nd = 'yes'\ne = 500\n", |t| {
        t.string("a").required();
        t.integer::<u8>("b").required();
        t.strings("c").required();
        t.boolean("d").required();
        t.duration("e").required();
    });
    assert_eq!(
        found,
        [
            "1:5: `a` is 1: give a string in quotes",
            "2:5: `b` is 'x': give an integer from 0 to 255",
            "4:5: `c` is 2: give a list of strings, such as [\"a\", \"b\"]",
            "5:5: `d` is 'yes': give true or false",
            "6:5: `e` is 500: give a time with its unit, such as \"500 ms\"",
        ]
    );
}

#[test]
fn a_value_out_of_range_gets_the_range() {
    let found = mistakes("a = 0\nb = '1 B'\nc = '2 h'\nd = 70000\n", |t| {
        assert_eq!(t.integer::<usize>("a").range(1..=64).required(), 1, "the placeholder");
        t.bytes("b").range(1 << 20..=1 << 30).required();
        let seconds = Duration::from_secs;
        t.duration("c").range(seconds(1)..=seconds(60)).required();
        t.integer::<u16>("d").required();
    });
    assert_eq!(
        found,
        [
            "1:5: `a` is 0: give an integer from 1 to 64",
            "2:5: `b` is '1 B': give a size from 1 MiB to 1 GiB, such as \"20 MiB\"",
            "3:5: `c` is '2 h': give a time from 1 s to 1 min with its unit, such as \"500 ms\"",
            "4:5: `d` is 70000: give an integer from 0 to 65535",
        ]
    );
}

#[test]
fn a_missing_key_is_placed_at_its_table() {
    let text = "x = 1\n\n[sub]\ny = 2\n\n[[item]]\nz = 1\n\n[[item]]\n";
    let found = mistakes(text, |t| {
        t.integer::<u8>("x").required();
        t.string("name").required();
        t.table("sub").integer::<u8>("y").required();
        t.table("sub").address("listen").required();
        t.table("other").integer::<u8>("w").range(1..=2).required();
        for item in t.tables("item") {
            item.integer::<u8>("z").required();
        }
        assert!(t.required_tables("kvs").is_empty());
    });
    assert_eq!(
        found,
        [
            "1:1: `kvs` is missing in the top of the file: give at least one table `[[kvs]]`",
            "1:1: `name` is missing in the top of the file: give a string in quotes",
            "1:1: `w` is missing in `[other]`: give an integer from 1 to 2",
            "3:1: `listen` is missing in `[sub]`: give an IP address and a port, such as \
             \"127.0.0.1:2525\" or \"[::1]:2525\"",
            "9:1: `z` is missing in `[[item]]`: give an integer from 0 to 255",
        ]
    );
}

#[test]
fn an_unknown_key_gets_the_nearest_known_one() {
    let text = "nmae = 'a'\ncolour = 1\n[[item]]\nsise = 1\n[extra]\nb = 1\n";
    let found = mistakes(text, |t| {
        t.string("name").optional();
        for item in t.tables("item") {
            item.integer::<u8>("size").optional();
        }
    });
    assert_eq!(
        found,
        [
            "1:1: `nmae` is no key of the top of the file; did you mean `name`?",
            "2:1: `colour` is no key of the top of the file; its keys are `item`, `name`",
            "4:1: `sise` is no key of `[[item]]`; did you mean `size`?",
            "5:2: `extra` is no key of the top of the file; its keys are `item`, `name`",
        ]
    );
}

#[test]
fn each_wrong_item_of_a_list_is_named() {
    let text = "k = [\n  '127.0.0.1:1',\n  'localhost:1',\n  3,\n]\n";
    let found = mistakes(text, |t| {
        assert!(t.addresses("k").required().is_empty(), "the placeholder");
    });
    let right = "give an IP address and a port, such as \"127.0.0.1:2525\" or \"[::1]:2525\"";
    assert_eq!(found[0], format!("3:3: `k` is 'localhost:1': {right}"));
    assert!(found[1].starts_with("4:3: `k` is 3: give"), "{found:?}");
    assert_eq!(found.len(), 2);
}

#[test]
fn a_choice_lists_its_names() {
    let choices = [("merged", 1), ("split", 2)];
    let found = mistakes("a = 'splt'\nb = 'both'\n", |t| {
        t.choice("a", &choices).required();
        t.choice("b", &choices).required();
    });
    assert_eq!(
        found,
        [
            "1:5: `a` is 'splt': give one of \"merged\", \"split\"; did you mean \"split\"?",
            "2:5: `b` is 'both': give one of \"merged\", \"split\"",
        ]
    );
}

#[test]
fn empty_values_are_refused_where_they_must_not_be() {
    let found = mistakes("a = ''\nb = []\nc = ''\n", |t| {
        t.string("a").not_empty().required();
        t.strings("b").not_empty().required();
        t.path("c").required();
    });
    assert_eq!(
        found,
        [
            "1:5: `a` is '': give at least one character",
            "2:5: `b` is []: give at least one item",
            "3:5: `c` is '': give the path of a file in quotes",
        ]
    );
}

#[test]
fn the_program_adds_mistakes_of_its_own() {
    let text = "names = ['a', 'b']\n[sub]\nlow = 5\n";
    let found = mistakes(text, |t| {
        t.strings("names").required();
        t.mistake_at_item("names", 1, "b is taken");
        let sub = t.table("sub");
        let low = |low: &u8| if *low < 5 { Ok(()) } else { Err("give less than 5".to_owned()) };
        sub.integer("low").check(low).required();
        sub.mistake_at("high", "give high too");
        sub.mistake("one table too many");
    });
    assert_eq!(
        found,
        [
            "1:15: b is taken",
            "2:1: give high too",
            "2:1: one table too many",
            "3:7: `low` is 5: give less than 5",
        ]
    );
}

#[test]
fn a_table_in_the_wrong_shape_is_one_mistake() {
    let read = |t: &Table<'_>| {
        t.table("sub").string("required").required();
        for item in t.tables("item") {
            item.string("required").required();
        }
    };
    let found = mistakes("sub = 3\n[item]\nrequired = 'a'\n", read);
    assert_eq!(
        found,
        [
            "1:7: `sub` is a table: write `[sub]` and its keys below",
            "2:1: `item` is a list of tables: write `[[item]]` before each",
        ]
    );
    let found = mistakes("[[sub]]\n", read);
    assert_eq!(found, ["1:1: `sub` is a table: write `[sub]` and its keys below"]);
    let found = mistakes("item = [1]\n[sub]\nrequired = 'a'\n", read);
    assert_eq!(found, ["1:9: `item` is a list of tables: write `[[item]]` before each"]);
}

#[test]
fn a_duplicate_is_named_and_hides_nothing() {
    let text = "a = 1\na = 2\nb = 'x'\n[sub]\n[sub]\n";
    let found = mistakes(text, |t| {
        assert_eq!(t.integer::<u8>("a").required(), 1);
        t.integer::<u8>("b").required();
        t.table("sub");
        t.string("c").required();
    });
    assert_eq!(
        found,
        [
            "1:1: `c` is missing in the top of the file: give a string in quotes",
            "2:1: `a` is given twice; keep one of them",
            "3:5: `b` is 'x': give an integer from 0 to 255",
            "5:2: `sub` is given twice; keep one of them",
        ]
    );
}

#[test]
fn after_a_syntax_error_the_other_lines_are_still_checked() {
    let text = "a = 1\nb = tru\nc = 'x'\nd = \"open\n";
    let found = mistakes(text, |t| {
        t.string("a").required();
        t.boolean("b").required();
        t.integer::<u8>("c").required();
        t.string("missing").required();
    });
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(found[0], "1:5: `a` is 1: give a string in quotes");
    assert!(found[1].starts_with("2:5: this is not TOML: "), "{found:?}");
    assert_eq!(found[2], "3:5: `c` is 'x': give an integer from 0 to 255");
    assert!(found[3].starts_with("4:10: this is not TOML: "), "{found:?}");
}

#[test]
fn columns_count_characters_and_lines_may_end_with_crlf() {
    let found = mistakes("# é\r\nt = { s = 'é', k = 1 }\r\nz = 1\r\n", |t| {
        let t = t.table("t");
        t.string("s").required();
        t.string("k").required();
    });
    assert_eq!(
        found,
        [
            "2:20: `k` is 1: give a string in quotes",
            "3:1: `z` is no key of the top of the file; its keys are `t`",
        ]
    );
}

#[test]
fn a_path_or_a_list_is_read_and_says_of_each_item_what_would_be_right() {
    let read = |t: &Table<'_>| {
        let number = |text: &str| text.parse::<u16>().map_err(|_| "give \"1\"".to_owned());
        t.path_or_list("k", "a path, or a list", number).required()
    };
    assert_eq!(value("k = 'a/b'", read), PathOrList::Path("a/b".into()));
    assert_eq!(value("k = ['1', '2']", read), PathOrList::List(vec![1, 2]));
    for (text, expected) in [
        ("", "1:1: `k` is missing in the top of the file: give a path, or a list"),
        ("k = 7", "1:5: `k` is 7: give a path, or a list"),
        ("k = ''", "1:5: `k` is '': give a path, or a list"),
        ("k = []", "1:5: `k` is []: give a path, or a list"),
        ("k = ['1', 'x']", "1:11: `k` is 'x': give \"1\""),
        ("k = ['1', 2]", "1:11: `k` is 2: give a path, or a list"),
    ] {
        assert_eq!(mistakes(text, |t| drop(read(t))), [expected]);
    }
}

#[test]
fn a_secret_comes_from_the_file_or_its_own_key() {
    let read = |path: &std::path::Path| match path.to_str() {
        Some("good") => Ok("from file\n".to_owned()),
        Some("empty") => Ok("\n".to_owned()),
        _ => Err("cannot read it".to_owned()),
    };
    let secret = |t: &Table<'_>| t.secret("s", "s_file", read).required();
    assert_eq!(value("s = 'own'", secret).expose(), "own");
    assert_eq!(value("s_file = 'good'", secret).expose(), "from file");

    let wrong = |text: &str| {
        mistakes(text, |t| {
            secret(t);
        })
    };
    let right = "give a string in quotes, or `s_file` with the path of its file";
    assert_eq!(wrong(""), [format!("1:1: `s` is missing in the top of the file: {right}")]);
    assert_eq!(wrong("s = ''"), [format!("1:5: `s` is not right: {right}")]);
    assert_eq!(
        wrong("s = 'a'\ns_file = 'good'"),
        ["2:10: `s` and `s_file` are both given; keep one of them"]
    );
    assert_eq!(wrong("s_file = 'none'"), ["1:10: cannot read it"]);
    assert_eq!(wrong("s_file = 'empty'"), ["1:10: empty is empty; write the secret to it"]);
    assert_eq!(wrong("s_file = 1"), ["1:10: `s_file` is 1: give the path of a file in quotes"]);
}

#[test]
fn long_values_are_cut_in_messages() {
    let text = format!("a = '{}'\nb = [1,\n2]\n", "x".repeat(1000));
    let found = mistakes(&text, |t| {
        t.integer::<u8>("a").required();
        t.integer::<u8>("b").required();
    });
    let cut = format!("1:5: `a` is '{}…: give an integer from 0 to 255", "x".repeat(39));
    assert_eq!(found, [cut, "2:5: `b` is [1,…: give an integer from 0 to 255".to_owned()]);
}

#[test]
fn mistakes_beyond_the_bound_are_counted() {
    let mut text = String::new();
    for number in 0..config::MISTAKES_MAX + 7 {
        text.push_str(&format!("key{number} = 1\n"));
    }
    let found = mistakes(&text.replace("key0 ", "known "), |t| {
        t.integer::<u8>("known").required();
    });
    assert_eq!(found.len(), config::MISTAKES_MAX + 1);
    assert_eq!(found.last().unwrap(), " and 6 more");
}

proptest! {
    /// Whatever the file holds, reading it ends, and a mistake lies within the file.
    #[test]
    fn no_text_stops_the_reading(text in "(\\PC|[a-c=\\[\\]'\"\n\r.,{}#é0-9]){0,80}") {
        let document = Document::parse("f", &text);
        let root = document.root();
        root.string("a").required();
        root.addresses("b").required();
        for table in root.tables("c") {
            table.integer::<u8>("a").required();
        }
        let lines = text.split('\n').count();
        if let Err(mistakes) = document.finish() {
            for mistake in mistakes.list() {
                prop_assert!((1..=lines).contains(&mistake.line), "{mistake:?}");
                prop_assert!(mistake.column >= 1 && !mistake.message.is_empty());
            }
        }
    }
}

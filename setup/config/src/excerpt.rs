//! A file without some of its keys, to be kept or sent where those have no business.

use std::fmt::Write;

use toml::de::{DeTable, DeValue};

/// The text with the keys that `keeps` wants, without comments, in one way of writing it. `keeps` is told the
/// keys from the top down to one: `["kvs", "address"]` for that of each `[[kvs]]`. A table that is not wanted
/// goes with all of its keys.
///
/// What could not be parsed is left out: the text should have been read before.
pub fn excerpt(text: &str, keeps: impl Fn(&[&str]) -> bool) -> String {
    let (root, _) = DeTable::parse_recoverable(text);
    let mut excerpt = String::new();
    write_table(root.get_ref(), &mut Vec::new(), "", &keeps, &mut excerpt);
    excerpt
}

/// Keys with values first: behind a header they would belong to that.
fn write_table<'t>(
    table: &'t DeTable<'_>,
    path: &mut Vec<&'t str>,
    header: &str,
    keeps: &impl Fn(&[&str]) -> bool,
    out: &mut String,
) {
    let mut below = Vec::new();
    for (key, value) in table {
        path.push(key.get_ref());
        if keeps(path) {
            match value.get_ref() {
                DeValue::Table(table) => below.push((key, vec![table], false)),
                DeValue::Array(items)
                    if items.iter().any(|item| item.get_ref().is_table())
                        && items.iter().all(|item| item.get_ref().is_table()) =>
                {
                    let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                    below.push((key, tables.collect(), true));
                }
                value => _ = writeln!(out, "{} = {}", quoted_key(key.get_ref()), shown(value)),
            }
        }
        path.pop();
    }
    for (key, tables, is_list) in below {
        let key = key.get_ref();
        let header = match header {
            "" => quoted_key(key),
            _ => format!("{header}.{}", quoted_key(key)),
        };
        for table in tables {
            let _ =
                if is_list { writeln!(out, "[[{header}]]") } else { writeln!(out, "[{header}]") };
            path.push(key);
            write_table(table, path, &header, keeps, out);
            path.pop();
        }
    }
}

fn quoted_key(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    match !key.is_empty() && key.bytes().all(is_bare) {
        true => key.to_owned(),
        false => quoted(key),
    }
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => match number.radix() {
            2 => format!("0b{}", number.as_str()),
            8 => format!("0o{}", number.as_str()),
            16 => format!("0x{}", number.as_str()),
            _ => number.as_str().to_owned(),
        },
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| shown(item.get_ref())).collect::<Vec<_>>();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            let pair = |(key, value): (
                &toml::Spanned<std::borrow::Cow<'_, str>>,
                &toml::Spanned<DeValue<'_>>,
            )| {
                format!("{} = {}", quoted_key(key.get_ref()), shown(value.get_ref()))
            };
            format!("{{{}}}", table.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            _ if character.is_control() => _ = write!(quoted, "\\u{:04X}", u32::from(character)),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differences;

    const TEXT: &str = "# hush: the secret is tea\n\
        name = \"gw\\t1 \\\"x\\\"\"\nsecret = \"tea\"\nhex = 0xff_00\nlist = [1, [\"é\", true]]\n\
        'odd key' = 1979-05-27\n\
        [threads]\nworkers = 2\n\
        [[kvs]]\nname = 'a'\nlocal = '127.0.0.1'\n[kvs.more]\nx = 1.5\n\
        [[kvs]]\nname = \"\"\"two\nlines\"\"\"\ninline = { a = 1, b = { c = \"\" } }\n";

    #[test]
    fn what_is_kept_means_the_same() {
        let whole = excerpt(TEXT, |_| true);
        assert_eq!(differences(TEXT, &whole), []);
        assert_eq!(excerpt(&whole, |_| true), whole);
        assert!(!whole.contains("hush"), "comments may hold anything: {whole}");
    }

    #[test]
    fn what_is_not_wanted_is_gone_wherever_it_stands() {
        let part = excerpt(TEXT, |path| !matches!(path, ["secret" | "threads"] | ["kvs", "local"]));
        assert!(!part.contains("tea") && !part.contains("127.0.0.1") && !part.contains("workers"));
        let gone = differences(TEXT, &part).into_iter().map(|it| it.key).collect::<Vec<_>>();
        assert_eq!(gone, ["kvs[\"a\"].local", "secret", "threads.workers"]);
    }
}

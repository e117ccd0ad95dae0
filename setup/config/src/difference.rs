//! What differs between two versions of one file, key by key.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::{DeTable, DeValue};

/// A key whose value is not the same in two versions of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Its place: `memory`, `limits.sessions_max`, `queue["example.net"].rate_max`.
    pub key: String,
    /// Its value in the first version, as TOML; `None`: it is not there, and its default holds.
    pub before: Option<String>,
    /// Its value in the second version.
    pub after: Option<String>,
}

/// The keys whose values differ between two texts, ordered by their places. What stands elsewhere, or
/// looks otherwise, and means the same to TOML is no difference. An item of a list of tables is
/// known by its `name`, or else by its number. The value of a `secret` is not shown.
///
/// What could not be parsed is left out: both texts should have been read before.
pub fn differences(before: &str, after: &str) -> Vec<Difference> {
    let (before, after) = (values(before), values(after));
    let keys = before.keys().chain(after.keys()).collect::<BTreeSet<_>>();
    let differs = |key: &&&String| before.get(**key) != after.get(**key);
    let shown = |key: &str, values: &BTreeMap<String, String>| {
        let hidden = key == SECRET || key.ends_with(&format!(".{SECRET}"));
        values.get(key).map(|value| if hidden { "(hidden)".to_owned() } else { value.clone() })
    };
    let difference = |key: &String| Difference {
        key: key.clone(),
        before: shown(key, &before),
        after: shown(key, &after),
    };
    keys.iter().filter(differs).map(|key| difference(key)).collect()
}

/// Every value of the file by its place.
fn values(text: &str) -> BTreeMap<String, String> {
    let (root, _) = DeTable::parse_recoverable(text);
    let mut values = BTreeMap::new();
    collect(root.get_ref(), "", &mut values);
    values
}

fn collect(table: &DeTable<'_>, path: &str, values: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let path = match path {
            "" => key.get_ref().to_string(),
            _ => format!("{path}.{}", key.get_ref()),
        };
        match value.get_ref() {
            DeValue::Table(table) => collect(table, &path, values),
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                for (number, item) in items.iter().enumerate() {
                    let Some(table) = item.get_ref().as_table() else { continue };
                    let name = table.get("name").and_then(|name| name.get_ref().as_str());
                    let name = name.map_or(number.to_string(), |name| format!("{name:?}"));
                    collect(table, &format!("{path}[{name}]"), values);
                }
            }
            value => _ = values.insert(path, show(value)),
        }
    }
}

/// A value in one way of writing it.
fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().replace('_', ""),
        DeValue::Float(number) => number.as_str().replace('_', ""),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| show(item.get_ref())).collect::<Vec<_>>();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            let mut values = BTreeMap::new();
            collect(table, "", &mut values);
            let pairs = values.iter().map(|(key, value)| format!("{key} = {value}"));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

/// A key of this name holds what nobody may read.
const SECRET: &str = "secret";

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(before: &str, after: &str) -> Vec<String> {
        let side = |side: Option<String>| side.unwrap_or("-".into());
        let line = |it: Difference| format!("{} {} {}", it.key, side(it.before), side(it.after));
        differences(before, after).into_iter().map(line).collect()
    }

    #[test]
    fn what_means_the_same_is_no_difference() {
        let before = "a = 1_000\nb = [ \"x\",\n \"y\" ]\n[t]\nc = true\nd = 'z'";
        let after = "b = ['x', 'y']\na = 1000 # so many\nt = { d = \"z\", c = true }";
        assert_eq!(lines(before, after), [""; 0]);
    }

    #[test]
    fn each_key_is_named_with_both_values() {
        let before = "a = 1\nb = [1.5]\n[t]\nc = \"on\"\nd = 2\n";
        let after = "a = 2\nb = [1.5, 2]\n[t]\nc = \"off\"\n[u]\ne = 1979-05-27\n";
        let expected =
            ["a 1 2", "b [1.5] [1.5, 2]", "t.c \"on\" \"off\"", "t.d 2 -", "u.e - 1979-05-27"];
        assert_eq!(lines(before, after), expected);
    }

    #[test]
    fn items_are_known_by_name_wherever_they_stand() {
        let before = "[[q]]\nname = \"a\"\nr = 1\n[[q]]\nname = \"b\"\n[[n]]\nx = 1\n";
        let after = "[[q]]\nname = \"b\"\n[[q]]\nname = \"a\"\nr = 2\n[[n]]\nx = 3\n";
        assert_eq!(lines(before, after), ["n[0].x 1 3", "q[\"a\"].r 1 2"]);
    }

    #[test]
    fn a_secret_that_changes_is_noticed_and_not_shown() {
        let expected = ["secret (hidden) (hidden)", "t.secret - (hidden)"];
        assert_eq!(lines("secret = 'one'", "secret = 'two'\n[t]\nsecret = 'x'"), expected);
    }
}

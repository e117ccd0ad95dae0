//! One table of the file, read key by key.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use crate::{
    Document, Field, Secret,
    field::{Kind, Reading, Refusal},
    nearest::nearest,
    show_bytes, show_duration,
    units::{parse_bytes, parse_cores, parse_duration},
};

/// One table of a [`Document`].
///
/// Each key is read by the method for its type, which gives a [`Field`]. A key that was asked for
/// is known; what nobody asked for is a mistake in the end.
#[derive(Clone, Debug)]
pub struct Table<'d> {
    document: &'d Document<'d>,
    /// `None` when the table is not in the file, or something else stands in its place.
    table: Option<&'d DeTable<'d>>,
    /// How messages name it, such as "the top of the file" or "`[[queue]]`".
    title: String,
    /// Where mistakes about the whole table are placed, as a byte of the text.
    at: usize,
    /// A mistake about the whole table was noted: no more is said of what is missing in it.
    is_mistaken: bool,
}

/// What [`Table::path_or_list`] reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathOrList<T> {
    /// A string.
    Path(PathBuf),
    /// A list of at least one.
    List(Vec<T>),
}

/// The integer types that [`Table::integer`] reads.
pub trait Integer: Copy + PartialOrd + ToString + TryFrom<i128> {
    /// The least value.
    const MIN: Self;
    /// The greatest value.
    const MAX: Self;
}

macro_rules! integers {
    ($($name:ident)*) => {
        $(impl Integer for $name {
            const MIN: $name = $name::MIN;
            const MAX: $name = $name::MAX;
        })*
    };
}

integers!(u8 u16 u32 u64 usize i32 i64);

/// Values: one method for each type.
impl<'d> Table<'d> {
    /// A string.
    pub fn string(&self, key: &'static str) -> Field<'d, String> {
        let kind = Kind::new("a string in quotes", String::new());
        self.field(key, kind, |value| Ok(as_str(value)?.to_owned()))
    }

    /// A list of strings.
    pub fn strings(&self, key: &'static str) -> Field<'d, Vec<String>> {
        self.list(key, "a list of strings, such as [\"a\", \"b\"]", |value| {
            Ok(as_str(value)?.to_owned())
        })
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &'static str) -> Field<'d, bool> {
        let kind = Kind::new("true or false", false);
        self.field(key, kind, |value| value.as_bool().ok_or(Refusal::Unfit))
    }

    /// An integer of type `T`; [`Field::range`] narrows it.
    pub fn integer<T: Integer>(&self, key: &'static str) -> Field<'d, T> {
        let placeholder = T::try_from(0).unwrap_or(T::MIN);
        let kind =
            Kind::quantity("an integer", "", placeholder, T::to_string).between(&T::MIN, &T::MAX);
        self.field(key, kind, |value| {
            let number = value.as_integer().and_then(whole);
            number.and_then(|number| T::try_from(number).ok()).ok_or(Refusal::Unfit)
        })
    }

    /// Numbers of processor cores: a list with ranges, such as "2-4,7".
    pub fn cores(&self, key: &'static str) -> Field<'d, Vec<usize>> {
        let kind = Kind::new("core numbers in quotes, such as \"2-4,7\"", Vec::new());
        self.field(key, kind, |value| parse_cores(as_str(value)?).ok_or(Refusal::Unfit))
    }

    /// Numbers of queues of a network card: a list with ranges, such as "4-5,7".
    pub fn nic_queues(&self, key: &'static str) -> Field<'d, Vec<u32>> {
        let kind = Kind::new("numbers of NIC queues in quotes, such as \"4-5,7\"", Vec::new());
        self.field(key, kind, |value| {
            let numbers = parse_cores(as_str(value)?).ok_or(Refusal::Unfit)?;
            numbers.into_iter().map(|it| u32::try_from(it).map_err(|_| Refusal::Unfit)).collect()
        })
    }

    /// A size in bytes: an integer, or a string with its unit such as "4 GiB". The units are B,
    /// KiB, MiB, GiB, TiB and kB, MB, GB, TB.
    pub fn bytes(&self, key: &'static str) -> Field<'d, u64> {
        let kind = Kind::quantity("a size", ", such as \"20 MiB\"", 0, |size| show_bytes(*size));
        self.field(key, kind, |value| {
            let bytes = match value {
                DeValue::Integer(integer) => whole(integer).and_then(|n| u64::try_from(n).ok()),
                DeValue::String(text) => parse_bytes(text),
                _ => None,
            };
            bytes.ok_or(Refusal::Unfit)
        })
    }

    /// A time: a string with its unit such as "500 ms". The units are ns, us, ms, s, min, h and d.
    pub fn duration(&self, key: &'static str) -> Field<'d, Duration> {
        let example = " with its unit, such as \"500 ms\"";
        let kind = Kind::quantity("a time", example, Duration::ZERO, |time| show_duration(*time));
        self.field(key, kind, |value| parse_duration(as_str(value)?).ok_or(Refusal::Unfit))
    }

    /// An IP address and a port.
    pub fn address(&self, key: &'static str) -> Field<'d, SocketAddr> {
        let kind = Kind::new(ADDRESS, SocketAddr::from(([127, 0, 0, 1], 0)));
        self.field(key, kind, parse_address)
    }

    /// An IPv4 address.
    pub fn ipv4(&self, key: &'static str) -> Field<'d, Ipv4Addr> {
        let kind = Kind::new(IPV4, Ipv4Addr::UNSPECIFIED);
        self.field(key, kind, parse_ipv4)
    }

    /// A list of IPv4 addresses.
    pub fn ipv4s(&self, key: &'static str) -> Field<'d, Vec<Ipv4Addr>> {
        self.list(key, "a list of IPv4 addresses, such as [\"10.0.0.1\"]", parse_ipv4)
    }

    /// A list of IP addresses with ports.
    pub fn addresses(&self, key: &'static str) -> Field<'d, Vec<SocketAddr>> {
        self.list(key, "a list of addresses, such as [\"127.0.0.1:2525\"]", parse_address)
    }

    /// The path of a file, as it stands: nothing is looked up.
    pub fn path(&self, key: &'static str) -> Field<'d, PathBuf> {
        let kind = Kind::new("the path of a file in quotes", PathBuf::new());
        self.field(key, kind, |value| {
            let path = as_str(value)?;
            if path.is_empty() { Err(Refusal::Unfit) } else { Ok(PathBuf::from(path)) }
        })
    }

    /// A path, or a list of what `item` makes of strings; its error says what would be right. `wants`
    /// says what both are, such as "the path of a directory in quotes, or a list of addresses".
    pub fn path_or_list<T>(
        &self,
        key: &'static str,
        wants: &str,
        item: impl Fn(&str) -> Result<T, String>,
    ) -> Field<'d, PathOrList<T>> {
        let is_list = self.value(key).is_some_and(|value| value.get_ref().is_array());
        if is_list {
            let read = |value: &DeValue<'_>| item(as_str(value)?).map_err(Refusal::Because);
            return self.list(key, wants, read).map(PathOrList::List).check(|given| match given {
                PathOrList::List(items) if items.is_empty() => Err(format!("give {wants}")),
                _ => Ok(()),
            });
        }
        let kind = Kind::new(wants, PathOrList::Path(PathBuf::new()));
        self.field(key, kind, |value| match as_str(value)? {
            "" => Err(Refusal::Unfit),
            path => Ok(PathOrList::Path(PathBuf::from(path))),
        })
    }

    /// One of several names, each with what it stands for. The first stands in after a mistake.
    ///
    /// # Panics
    /// If `choices` is empty.
    pub fn choice<T: Clone>(&self, key: &'static str, choices: &[(&str, T)]) -> Field<'d, T> {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let wants = format!("one of {}", names.join(", "));
        let kind = Kind::new(&wants, choices[0].1.clone());
        self.field(key, kind, |value| {
            let given = as_str(value)?;
            if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == given) {
                return Ok(choice.clone());
            }
            Err(match nearest(given, choices.iter().map(|(name, _)| *name)) {
                Some(near) => Refusal::Because(format!("give {wants}; did you mean \"{near}\"?")),
                None => Refusal::Unfit,
            })
        })
    }

    /// A secret: under `key` itself, or else in the file that `file_key` names, without the line
    /// ends at its end. `read` reads that file (usually it is [`read_file`](crate::read_file)) or
    /// says what is wrong.
    pub fn secret(
        &self,
        key: &'static str,
        file_key: &'static str,
        read: impl FnOnce(&Path) -> Result<String, String>,
    ) -> Field<'d, Secret> {
        let wants = format!("a string in quotes, or `{file_key}` with the path of its file");
        let kind = Kind::new(&wants, Secret::new(String::new())).hidden();
        let file = self.path(file_key).optional();
        if self.value(key).is_some() || self.value(file_key).is_none() {
            if self.value(file_key).is_some() {
                let message = format!("`{key}` and `{file_key}` are both given; keep one of them");
                self.mistake_at(file_key, message);
            }
            return self.field(key, kind, |value| {
                let text = as_str(value)?;
                if text.is_empty() { Err(Refusal::Unfit) } else { Ok(Secret::new(text.to_owned())) }
            });
        }
        self.document_asks(key);
        let reading = file.map_or(Reading::Mistaken, |path| {
            let found = read(&path).and_then(|text| match text.trim_end_matches(['\n', '\r']) {
                "" => Err(format!("{} is empty; write the secret to it", path.display())),
                secret => Ok(Secret::new(secret.to_owned())),
            });
            found.map_or_else(
                |message| {
                    self.mistake_at(file_key, message);
                    Reading::Mistaken
                },
                Reading::Given,
            )
        });
        Field::new(self.clone(), key, kind, reading)
    }
}

/// Tables below this one, and mistakes that the program finds itself.
impl<'d> Table<'d> {
    /// The table `[key]`. If it is not in the file it reads as an empty one: its keys have their
    /// defaults, and the required ones are missing.
    pub fn table(&self, key: &'static str) -> Table<'d> {
        self.optional_table(key).unwrap_or_else(|| Table {
            document: self.document,
            table: None,
            title: format!("`[{key}]`"),
            at: self.at,
            is_mistaken: self.is_mistaken,
        })
    }

    /// The table `[key]`, if it is in the file.
    pub fn optional_table(&self, key: &'static str) -> Option<Table<'d>> {
        self.document_asks(key);
        let value = self.value(key)?;
        let table = self.below(key, value, format!("`[{key}]`"));
        if table.table.is_none() {
            self.mistake_at(key, format!("`{key}` is a table: write `[{key}]` and its keys below"));
        }
        Some(table)
    }

    /// Every table `[[key]]`, in the order of the file.
    pub fn tables(&self, key: &'static str) -> Vec<Table<'d>> {
        self.document_asks(key);
        let Some(value) = self.value(key) else { return Vec::new() };
        let items = match value.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => vec![value],
        };
        let is_list = matches!(value.get_ref(), DeValue::Array(_));
        let mut tables = Vec::new();
        for item in items {
            let table = self.below(key, item, format!("`[[{key}]]`"));
            if !is_list || table.table.is_none() {
                let message = format!("`{key}` is a list of tables: write `[[{key}]]` before each");
                self.document.note(item.span().start, message);
            }
            tables.push(table);
        }
        tables
    }

    /// Every table `[[key]]`, in the order of the file; it is a mistake if there is none.
    pub fn required_tables(&self, key: &'static str) -> Vec<Table<'d>> {
        let tables = self.tables(key);
        if tables.is_empty() {
            self.note_missing(key, &format!("at least one table `[[{key}]]`"));
        }
        tables
    }

    /// Notes a mistake at the value of `key`, or at the table's beginning if the key is missing.
    /// The message says what is wrong and what would be right.
    pub fn mistake_at(&self, key: &str, message: impl Into<String>) {
        self.document.note(self.value(key).map_or(self.at, |value| value.span().start), message);
    }

    /// Notes a mistake at one item of the list under `key`, counted from 0, or as
    /// [`mistake_at`](Table::mistake_at) if there is no such item.
    pub fn mistake_at_item(&self, key: &str, index: usize, message: impl Into<String>) {
        let list = self.value(key).and_then(|value| value.get_ref().as_array());
        match list.and_then(|list| list.get(index)) {
            Some(item) => self.document.note(item.span().start, message),
            None => self.mistake_at(key, message),
        }
    }

    /// Notes a mistake about the whole table, at its beginning.
    pub fn mistake(&self, message: impl Into<String>) {
        self.document.note(self.at, message);
    }
}

impl<'d> Table<'d> {
    pub(crate) fn root(document: &'d Document<'d>, root: &'d Spanned<DeTable<'d>>) -> Table<'d> {
        let title = "the top of the file".to_owned();
        document.open(root.get_ref(), &title);
        Table { document, table: Some(root.get_ref()), title, at: 0, is_mistaken: false }
    }

    /// Notes that `key` is missing, unless the whole table is a mistake or the file is broken.
    pub(crate) fn note_missing(&self, key: &str, wants: &str) {
        if self.is_mistaken || self.document.is_broken() {
            return;
        }
        let title = &self.title;
        self.mistake(format!("`{key}` is missing in {title}: give {wants}"));
    }

    /// A table below, with `value` for its content.
    fn below(&self, key: &str, value: &'d Spanned<DeValue<'d>>, title: String) -> Table<'d> {
        let table = value.get_ref().as_table();
        if let Some(table) = table {
            self.document.open(table, &title);
        }
        // Dotted keys make tables that have the place of their first key.
        let at = if value.span().is_empty() { self.key_at(key) } else { value.span().start };
        Table { document: self.document, table, title, at, is_mistaken: table.is_none() }
    }

    /// Reads `key` with `read`, noting what is wrong.
    fn field<T>(
        &self,
        key: &'static str,
        kind: Kind<T>,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Refusal>,
    ) -> Field<'d, T> {
        self.document_asks(key);
        let reading = match self.value(key) {
            None => Reading::Absent,
            Some(value) => read(value.get_ref()).map_or_else(
                |refusal| {
                    self.refuse(key, value, &kind, refusal);
                    Reading::Mistaken
                },
                Reading::Given,
            ),
        };
        Field::new(self.clone(), key, kind, reading)
    }

    /// Reads a list item by item, noting what is wrong with each.
    fn list<T>(
        &self,
        key: &'static str,
        wants: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Refusal>,
    ) -> Field<'d, Vec<T>> {
        self.document_asks(key);
        let kind = Kind::new(wants, Vec::new());
        let Some(value) = self.value(key) else {
            return Field::new(self.clone(), key, kind, Reading::Absent);
        };
        let Some(array) = value.get_ref().as_array() else {
            self.refuse(key, value, &kind, Refusal::Unfit);
            return Field::new(self.clone(), key, kind, Reading::Mistaken);
        };
        let mut items = Vec::new();
        for item in array.iter() {
            match read(item.get_ref()) {
                Ok(item) => items.push(item),
                Err(refusal) => self.refuse(key, item, &kind, refusal),
            }
        }
        let is_whole = items.len() == array.len();
        let reading = if is_whole { Reading::Given(items) } else { Reading::Mistaken };
        Field::new(self.clone(), key, kind, reading)
    }

    /// Notes that `value`, under `key`, is not what `kind` wants.
    pub(crate) fn refuse<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        kind: &Kind<T>,
        refusal: Refusal,
    ) {
        let right = match refusal {
            Refusal::Unfit => format!("give {}", kind.wants()),
            Refusal::Because(right) => right,
        };
        let given = if kind.is_hidden() { "not right" } else { &self.show(value) };
        self.document.note(value.span().start, format!("`{key}` is {given}: {right}"));
    }

    /// How a message quotes `value`.
    fn show(&self, value: &Spanned<DeValue<'_>>) -> String {
        if value.get_ref().is_table() {
            return "a table".to_owned();
        }
        let snippet = self.document.snippet(value.span());
        let shown: String = snippet.chars().take(SHOWN_CHARS_MAX).collect();
        match shown.split_once(['\n', '\r']) {
            Some((line, _)) => format!("{line}…"),
            None if shown.len() < snippet.len() => format!("{shown}…"),
            None => shown,
        }
    }

    pub(crate) fn value(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.table?.get(key)
    }

    fn key_at(&self, key: &str) -> usize {
        let entry = self.table.and_then(|table| table.get_key_value(key));
        entry.map_or(self.at, |(key, _)| key.span().start)
    }

    fn document_asks(&self, key: &'static str) {
        if let Some(table) = self.table {
            self.document.ask(table, key);
        }
    }
}

fn as_str<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Refusal> {
    value.as_str().ok_or(Refusal::Unfit)
}

/// The value of an integer in whatever base it is written, if it fits.
fn whole(integer: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn parse_address(value: &DeValue<'_>) -> Result<SocketAddr, Refusal> {
    as_str(value)?.parse().map_err(|_| Refusal::Because(format!("give {ADDRESS}")))
}

fn parse_ipv4(value: &DeValue<'_>) -> Result<Ipv4Addr, Refusal> {
    let address = as_str(value)?.parse::<Ipv4Addr>();
    match address {
        Ok(address) if !address.is_unspecified() && !address.is_multicast() => Ok(address),
        _ => Err(Refusal::Because(format!("give {IPV4}"))),
    }
}

const IPV4: &str = "the IPv4 address of one machine, such as \"10.0.0.1\"";

const ADDRESS: &str = "an IP address and a port, such as \"127.0.0.1:2525\" or \"[::1]:2525\"";

/// Longest quotation of a value in a message, in characters; the rest is cut off.
const SHOWN_CHARS_MAX: usize = 40;

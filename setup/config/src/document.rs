//! A parsed file, its places, and the mistakes noted so far.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    ptr,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{Mistake, Mistakes, Table, nearest::nearest};

/// One configuration file: parse it, read its [`root`](Document::root), then
/// [`finish`](Document::finish).
///
/// Syntax errors are noted like every other mistake, and what could be parsed can be read. After a
/// syntax error nothing is called missing, and nothing more is said of its line: it would be
/// guesswork.
#[derive(Debug)]
pub struct Document<'t> {
    label: &'t str,
    text: &'t str,
    /// Boxed, so that the tables keep their addresses when the document moves.
    root: Box<Spanned<DeTable<'t>>>,
    /// Byte offsets at which the lines begin: never empty, sorted.
    line_starts: Vec<usize>,
    /// Lines with a syntax error.
    broken_lines: BTreeSet<usize>,
    noted: RefCell<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    mistakes: Vec<Mistake>,
    /// The tables that were read, by their addresses, which do not change.
    asked: BTreeMap<usize, Asked>,
}

/// What a program asked of one table.
#[derive(Debug)]
struct Asked {
    /// How messages name the table.
    title: String,
    keys: BTreeSet<&'static str>,
}

impl<'t> Document<'t> {
    /// Parses `text`. Messages call the file `label`: usually its path.
    pub fn parse(label: &'t str, text: &'t str) -> Document<'t> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let line_starts = [0].into_iter().chain(text.match_indices('\n').map(|(at, _)| at + 1));
        let mut document = Document {
            label,
            text,
            root: Box::new(root),
            line_starts: line_starts.collect(),
            broken_lines: BTreeSet::new(),
            noted: RefCell::default(),
        };
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            let given = text.get(span.clone()).unwrap_or_default();
            if error.message() == "duplicate key" {
                document.note(span.start, format!("`{given}` is given twice; keep one of them"));
            } else {
                document.note(span.start, format!("this is not TOML: {}", error.message()));
                let (line, _) = document.place(span.start);
                document.broken_lines.insert(line);
            }
        }
        document
    }

    /// The table of the keys before the first header.
    pub fn root(&self) -> Table<'_> {
        Table::root(self, &self.root)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Every mistake that was noted, and every key of a table that was read which nobody asked for.
    pub fn finish(self) -> Result<(), Mistakes> {
        let mut unknown = Vec::new();
        self.find_unknown(self.root.get_ref(), &mut unknown);
        for (at, message) in unknown {
            self.note(at, message);
        }
        Mistakes::new(self.label, self.noted.into_inner().mistakes).map_or(Ok(()), Err)
    }

    /// Notes a mistake at a byte of the text.
    pub(crate) fn note(&self, at: usize, message: impl Into<String>) {
        let (line, column) = self.place(at);
        if !self.broken_lines.contains(&line) {
            let mistake = Mistake { line, column, message: message.into() };
            self.noted.borrow_mut().mistakes.push(mistake);
        }
    }

    /// Whether parts of the file could not be parsed, so that what seems missing may be there.
    pub(crate) fn is_broken(&self) -> bool {
        !self.broken_lines.is_empty()
    }

    /// Remembers that `table` is read, so that keys which nobody asks for are mistakes.
    pub(crate) fn open(&self, table: &DeTable<'_>, title: &str) {
        let asked = Asked { title: title.to_owned(), keys: BTreeSet::new() };
        self.noted.borrow_mut().asked.entry(address(table)).or_insert(asked);
    }

    /// Remembers that `key` is known in `table`, which was opened.
    pub(crate) fn ask(&self, table: &DeTable<'_>, key: &'static str) {
        if let Some(asked) = self.noted.borrow_mut().asked.get_mut(&address(table)) {
            asked.keys.insert(key);
        }
    }

    /// What stands at `span` in the text.
    pub(crate) fn snippet(&self, span: Range<usize>) -> &str {
        self.text.get(span).unwrap_or_default()
    }

    /// Line and column, from 1, of a byte of the text.
    fn place(&self, at: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|&start| start <= at);
        let start = self.line_starts[line - 1];
        let before = self.text.get(start..at).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// Collects the keys of `table`, and of the tables below it, that nobody asked for.
    fn find_unknown(&self, table: &DeTable<'_>, unknown: &mut Vec<(usize, String)>) {
        let noted = self.noted.borrow();
        let asked = noted.asked.get(&address(table));
        for (key, value) in table {
            let name: &str = key.get_ref();
            match asked {
                Some(asked) if !asked.keys.contains(name) => {
                    unknown.push((key.span().start, asked.complain(name)));
                }
                _ => self.find_unknown_below(value.get_ref(), unknown),
            }
        }
    }

    fn find_unknown_below(&self, value: &DeValue<'_>, unknown: &mut Vec<(usize, String)>) {
        match value {
            DeValue::Table(table) => self.find_unknown(table, unknown),
            DeValue::Array(array) => {
                array.iter().for_each(|item| self.find_unknown_below(item.get_ref(), unknown));
            }
            _ => {}
        }
    }
}

impl Asked {
    fn complain(&self, name: &str) -> String {
        let title = &self.title;
        match nearest(name, self.keys.iter().copied()) {
            Some(near) => format!("`{name}` is no key of {title}; did you mean `{near}`?"),
            None if self.keys.is_empty() => format!("`{name}` is no key of {title}; it has none"),
            None => {
                let known: Vec<_> = self.keys.iter().map(|key| format!("`{key}`")).collect();
                format!("`{name}` is no key of {title}; its keys are {}", known.join(", "))
            }
        }
    }
}

fn address(table: &DeTable<'_>) -> usize {
    ptr::from_ref(table).addr()
}

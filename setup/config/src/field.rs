//! One value on its way from the file to the program.

use std::ops::RangeInclusive;

use crate::Table;

/// What stands under one key, already of its type: narrow it, then say what holds if it is missing.
///
/// A mistaken value was noted in the [`Document`](crate::Document) and is replaced by a
/// placeholder, so that the reading can go on. What is made of placeholders must not be used:
/// [`Document::finish`](crate::Document::finish) fails.
#[must_use = "say what holds if the key is missing: required(), default(…) or optional()"]
#[derive(Debug)]
pub struct Field<'d, T> {
    table: Table<'d>,
    key: &'static str,
    kind: Kind<T>,
    reading: Reading<T>,
}

/// How reading a key went.
#[derive(Debug)]
pub(crate) enum Reading<T> {
    Given(T),
    Absent,
    /// A mistake was noted.
    Mistaken,
}

/// Why a value is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is not what the kind wants.
    Unfit,
    /// What would be right.
    Because(String),
}

/// What a field wants, in words, and what stands in for it.
#[derive(Debug)]
pub(crate) struct Kind<T> {
    /// Such as "an integer".
    name: String,
    /// Such as " from 1 to 64".
    limits: String,
    /// Such as ", such as \"20 MiB\"".
    example: &'static str,
    placeholder: T,
    show: Option<fn(&T) -> String>,
    is_hidden: bool,
}

impl<'d, T> Field<'d, T> {
    pub(crate) fn new(
        table: Table<'d>,
        key: &'static str,
        kind: Kind<T>,
        reading: Reading<T>,
    ) -> Field<'d, T> {
        Field { table, key, kind, reading }
    }

    /// The value; it is a mistake if the key is missing.
    pub fn required(self) -> T {
        match self.reading {
            Reading::Given(value) => return value,
            Reading::Absent => self.table.note_missing(self.key, &self.kind.wants()),
            Reading::Mistaken => {}
        }
        self.kind.placeholder
    }

    /// The value, or `default` if the key is missing.
    pub fn default(self, default: T) -> T {
        self.optional().unwrap_or(default)
    }

    /// The value, or `None` if the key is missing.
    pub fn optional(self) -> Option<T> {
        match self.reading {
            Reading::Given(value) => Some(value),
            Reading::Absent | Reading::Mistaken => None,
        }
    }

    /// Has `check` look at the value. Its error says what would be right.
    pub fn check(self, check: impl FnOnce(&T) -> Result<(), String>) -> Field<'d, T> {
        match &self.reading {
            Reading::Given(value) => match check(value) {
                Ok(()) => self,
                Err(right) => self.refuse(Refusal::Because(right)),
            },
            Reading::Absent | Reading::Mistaken => self,
        }
    }

    /// The same with other values, as `change` makes them.
    pub(crate) fn map<U>(self, change: impl Fn(T) -> U) -> Field<'d, U> {
        let Kind { name, limits, example, placeholder, is_hidden, .. } = self.kind;
        let placeholder = change(placeholder);
        let kind = Kind { name, limits, example, placeholder, show: None, is_hidden };
        let reading = match self.reading {
            Reading::Given(value) => Reading::Given(change(value)),
            Reading::Absent => Reading::Absent,
            Reading::Mistaken => Reading::Mistaken,
        };
        Field { table: self.table, key: self.key, kind, reading }
    }

    fn refuse(mut self, refusal: Refusal) -> Field<'d, T> {
        if let Some(value) = self.table.value(self.key) {
            self.table.refuse(self.key, value, &self.kind, refusal);
        }
        self.reading = Reading::Mistaken;
        self
    }
}

impl<'d, T: PartialOrd> Field<'d, T> {
    /// Requires an integer, a size or a time to lie in `range`.
    pub fn range(mut self, range: RangeInclusive<T>) -> Field<'d, T> {
        let is_outside = matches!(&self.reading, Reading::Given(value) if !range.contains(value));
        self.kind = self.kind.between(range.start(), range.end());
        (self.kind.placeholder, _) = range.into_inner();
        if is_outside { self.refuse(Refusal::Unfit) } else { self }
    }
}

impl<'d> Field<'d, String> {
    /// Requires at least one character.
    pub fn not_empty(self) -> Field<'d, String> {
        self.check(|text| some(!text.is_empty(), "give at least one character"))
    }
}

impl<'d, T> Field<'d, Vec<T>> {
    /// Requires at least one item.
    pub fn not_empty(self) -> Field<'d, Vec<T>> {
        self.check(|items| some(!items.is_empty(), "give at least one item"))
    }
}

fn some(is_right: bool, right: &str) -> Result<(), String> {
    if is_right { Ok(()) } else { Err(right.to_owned()) }
}

impl<T> Kind<T> {
    pub(crate) fn new(name: &str, placeholder: T) -> Kind<T> {
        let (limits, example) = (String::new(), "");
        Kind { name: name.to_owned(), limits, example, placeholder, show: None, is_hidden: false }
    }

    /// A kind that a range can narrow.
    pub(crate) fn quantity(
        name: &str,
        example: &'static str,
        placeholder: T,
        show: fn(&T) -> String,
    ) -> Kind<T> {
        Kind { example, show: Some(show), ..Kind::new(name, placeholder) }
    }

    /// The same, with its limits.
    pub(crate) fn between(mut self, low: &T, high: &T) -> Kind<T> {
        if let Some(show) = self.show {
            self.limits = format!(" from {} to {}", show(low), show(high));
        }
        self
    }

    /// The same, never quoted in messages.
    pub(crate) fn hidden(mut self) -> Kind<T> {
        self.is_hidden = true;
        self
    }

    pub(crate) fn is_hidden(&self) -> bool {
        self.is_hidden
    }

    pub(crate) fn wants(&self) -> String {
        format!("{}{}{}", self.name, self.limits, self.example)
    }
}

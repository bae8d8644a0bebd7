//! Typed access to one table of a definition: what is missing is `None`, what is wrong is told with its line and read as missing.
//!
//! An instance's table lies above the service's: each key is looked for in the upper one first.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ops::{Range, RangeInclusive},
    path::Path,
};

use serde_json::Value;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::settings::problem::{PROBLEMS_MAX, Problem, line_of, nearest};

/// Problems of one file that are remembered until they are sorted by line; the first [`PROBLEMS_MAX`] are told.
const REMEMBERED_MAX: usize = 8 * PROBLEMS_MAX;

/// The file that is being read, and what was found wrong with it.
pub(super) struct Document<'d> {
    file: &'d Path,
    text: &'d str,
    problems: RefCell<Vec<Problem>>,
}

/// A table, or an instance's table over the service's.
#[derive(Clone)]
pub(super) struct Table<'d> {
    document: &'d Document<'d>,
    /// `readiness.`; empty at the top.
    prefix: String,
    /// The upper one first.
    layers: Vec<&'d DeTable<'d>>,
    /// Where the table stands; `None` at the top.
    span: Option<Range<usize>>,
}

/// One value with its key and place.
#[derive(Clone)]
pub(super) struct Item<'d> {
    document: &'d Document<'d>,
    pub(super) key: String,
    span: Range<usize>,
    value: &'d DeValue<'d>,
}

impl<'d> Document<'d> {
    pub(super) fn new(file: &'d Path, text: &'d str) -> Self {
        Self { file, text, problems: RefCell::default() }
    }

    pub(super) fn report(&self, span: Option<&Range<usize>>, key: &str, text: String) {
        if self.is_full() {
            return;
        }
        let line = span.map(|span| line_of(self.text, span));
        let problem = Problem { file: self.file.to_owned(), line, key: key.to_owned(), text };
        let mut problems = self.problems.borrow_mut();
        // Every instance reads the service's defaults again; a mistake in them is told once.
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    /// A file with so many mistakes need not be looked at any further.
    fn is_full(&self) -> bool {
        self.problems.borrow().len() >= REMEMBERED_MAX
    }

    /// What was found, by line.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }
}

impl<'d> Table<'d> {
    pub(super) fn top(document: &'d Document<'d>, table: &'d DeTable<'d>) -> Self {
        Self { document, prefix: String::new(), layers: vec![table], span: None }
    }

    /// This table with another one, of the instance `name`, laid over it.
    pub(super) fn under(&self, upper: &Self) -> Self {
        let layers = upper.layers.iter().chain(&self.layers).copied().collect();
        Self { document: self.document, prefix: String::new(), layers, span: upper.span.clone() }
    }

    /// Reports every key that isn't known. `later` knows texts for keys that are something else's.
    pub(super) fn refuse_others(&self, known: &[&str], later: impl Fn(&str) -> Option<String>) {
        for key in self.layers.iter().flat_map(|layer| layer.keys()) {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            if self.document.is_full() {
                return;
            }
            let full = format!("{}{name}", self.prefix);
            let hint = later(name).or_else(|| {
                Some(format!("did you mean \"{}\"?", nearest(name, known.iter().copied())?))
            });
            let hint = hint.unwrap_or_else(|| match known.len() {
                // A short list is told; the long one is in the manual.
                0..=8 => format!("known are {}", known.join(", ")),
                _ => "see docs/definitions.md for the known ones".to_owned(),
            });
            self.document.report(Some(&key.span()), &full, format!("unknown key {full:?}, {hint}"));
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<Item<'d>> {
        self.layers.iter().find_map(|layer| {
            let (_, value) = layer.get_key_value(key)?;
            Some(self.item(key, value))
        })
    }

    fn item(&self, key: &str, value: &'d Spanned<DeValue<'d>>) -> Item<'d> {
        Item {
            document: self.document,
            key: format!("{}{key}", self.prefix),
            span: value.span(),
            value: value.get_ref(),
        }
    }

    /// All entries; one of an upper layer hides the same key below.
    pub(super) fn entries(&self) -> BTreeMap<&'d str, Item<'d>> {
        let mut entries = BTreeMap::new();
        for (key, value) in self.layers.iter().flat_map(|layer| layer.iter()) {
            let name = key.get_ref().as_ref();
            entries.entry(name).or_insert_with(|| self.item(name, value));
        }
        entries
    }

    /// A table below this one, its layers merged key by key (`env`, `limits`).
    pub(super) fn merged(&self, key: &str) -> Option<Self> {
        let items = self
            .layers
            .iter()
            .filter_map(|layer| Some(self.item(key, layer.get_key_value(key)?.1)));
        let tables: Vec<Self> = items.filter_map(|item| item.table()).collect();
        let layers: Vec<_> = tables.iter().flat_map(|table| table.layers.clone()).collect();
        let prefix = format!("{}{key}.", self.prefix);
        (!layers.is_empty()).then_some(Self { document: self.document, prefix, layers, span: None })
    }

    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        let item = self.get(key)?;
        item.value.as_bool().or_else(|| item.wrong_type("true or false"))
    }

    /// A text that a parser of its own understands.
    pub(super) fn parsed<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.get(key)?.parsed(parse)
    }

    pub(super) fn integer<N: TryFrom<i64>>(
        &self,
        key: &str,
        range: RangeInclusive<i64>,
    ) -> Option<N> {
        self.get(key)?.integer(range)
    }

    pub(super) fn list(&self, key: &str) -> Option<Vec<Item<'d>>> {
        self.get(key)?.list()
    }

    pub(super) fn table(&self, key: &str) -> Option<Self> {
        self.get(key)?.table()
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        self.get(key)?.word(words)
    }

    /// Reports a key that must be there, at the line of its table.
    pub(super) fn missing(&self, key: &str, cure: &str) {
        let full = format!("{}{key}", self.prefix);
        let text = format!("key {full:?} is missing; {cure}");
        self.document.report(self.span.as_ref(), &full, text);
    }
}

impl<'d> Item<'d> {
    /// Reports what is wrong with this value; the text follows the key.
    pub(super) fn wrong(&self, text: impl AsRef<str>) {
        let text = format!("{}: {}", self.key, text.as_ref());
        self.document.report(Some(&self.span), &self.key, text);
    }

    fn wrong_type<T>(&self, wanted: &str) -> Option<T> {
        let found = match self.value {
            DeValue::String(text) => format!("{:.60?}", text.as_ref()),
            DeValue::Integer(number) => number.as_str().to_owned(),
            DeValue::Boolean(value) => value.to_string(),
            other => format!("a value of type {}", other.type_str()),
        };
        self.wrong(format!("{found} is not allowed here; write {wanted}"));
        None
    }

    pub(super) fn is_text(&self) -> bool {
        self.value.is_str()
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(super) fn is_integer(&self) -> bool {
        self.value.is_integer()
    }

    pub(super) fn text(&self) -> Option<&'d str> {
        self.value.as_str().or_else(|| self.wrong_type("a text in quotes"))
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.wrong_type("true or false"))
    }

    pub(super) fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match parse(self.text()?) {
            Ok(value) => Some(value),
            Err(why) => {
                self.wrong(why);
                None
            }
        }
    }

    pub(super) fn integer<N: TryFrom<i64>>(&self, range: RangeInclusive<i64>) -> Option<N> {
        let Some(integer) = self.value.as_integer() else {
            let (low, high) = (range.start(), range.end());
            return self.wrong_type(&format!("a number from {low} to {high}"));
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        let fitting = number.and_then(|number| N::try_from(number).ok());
        if fitting.is_none() {
            let (low, high) = (range.start(), range.end());
            self.wrong(format!(
                "{} is out of range; allowed are {low} to {high}",
                integer.as_str()
            ));
        }
        fitting
    }

    /// Permission bits: text in octal, or TOML's `0o660`. A decimal number is surely a mistake.
    pub(super) fn mode(&self) -> Option<u32> {
        match self.value.as_integer() {
            Some(integer) if integer.radix() == 8 => self.integer(0..=0o7777),
            Some(_) => self.wrong_type("octal digits in quotes as \"0660\""),
            None => self.parsed(crate::settings::units::mode),
        }
    }

    pub(super) fn list(&self) -> Option<Vec<Self>> {
        let Some(array) = self.value.as_array() else {
            return self.wrong_type("a list in [ ]");
        };
        let items = array.iter().enumerate().map(|(at, value)| Self {
            document: self.document,
            key: format!("{}[{at}]", self.key),
            span: value.span(),
            value: value.get_ref(),
        });
        Some(items.collect())
    }

    pub(super) fn table(&self) -> Option<Table<'d>> {
        let Some(table) = self.value.as_table() else {
            return self.wrong_type("a table in { }");
        };
        let prefix = format!("{}.", self.key);
        Some(Table {
            document: self.document,
            prefix,
            layers: vec![table],
            span: Some(self.span.clone()),
        })
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.wrong(format!("{text:?} is not known; allowed are {}", known.join(", ")));
        }
        found
    }

    /// The value as JSON, for what is kept as it was given.
    pub(super) fn json(&self) -> Option<Value> {
        let json = to_json(self.value);
        if json.is_none() {
            self.wrong("a number in it doesn't fit; whole numbers have 64 bits, and inf and nan are not allowed");
        }
        json
    }
}

fn to_json(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(value) => Value::from(*value),
        DeValue::Integer(integer) => {
            Value::from(i64::from_str_radix(integer.as_str(), integer.radix()).ok()?)
        }
        DeValue::Float(float) => {
            Value::Number(serde_json::Number::from_f64(float.as_str().parse().ok()?)?)
        }
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Array(items) => {
            items.iter().map(|item| to_json(item.get_ref())).collect::<Option<Vec<_>>>()?.into()
        }
        DeValue::Table(table) => {
            let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                Some((key.to_string(), to_json(value.get_ref())?))
            };
            Value::Object(table.iter().map(entry).collect::<Option<_>>()?)
        }
    })
}

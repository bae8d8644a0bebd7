//! Strict reading of `heartbeat.toml`: what is wrong is told with file, line, key and cure, all of it at once.

use std::{
    cell::RefCell,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    ops::{Range, RangeInclusive},
    path::Path,
    time::Duration,
};

use protocol::objects::nearest;
use toml::de::{DeTable, DeValue};

/// More problems than this are not told: a reader has enough to do.
const PROBLEMS_MAX: usize = 20;

/// The file, and what was found wrong with it.
pub(super) struct Document<'d> {
    pub(super) file: &'d Path,
    text: &'d str,
    problems: RefCell<Vec<(usize, String)>>,
}

/// One table of it.
pub(super) struct Table<'d> {
    document: &'d Document<'d>,
    /// `apps.7.`; empty at the top.
    prefix: String,
    table: &'d DeTable<'d>,
}

/// One value with its key and place.
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

    pub(super) fn report(&self, span: &Range<usize>, text: &str) {
        let before = self.text.as_bytes().iter().take(span.start);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        self.problems.borrow_mut().push((line, text.to_owned()));
    }

    /// # Errors
    /// What was found, one a line.
    pub(super) fn finish(self) -> Result<(), String> {
        let mut problems = self.problems.into_inner();
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort();
        let mut all = String::new();
        for (line, problem) in problems.iter().take(PROBLEMS_MAX) {
            let _ = writeln!(all, "{}:{line}: {problem}", self.file.display());
        }
        Err(all.trim_end().to_owned())
    }
}

impl<'d> Table<'d> {
    pub(super) fn top(document: &'d Document<'d>, table: &'d DeTable<'d>) -> Self {
        Self { document, prefix: String::new(), table }
    }

    /// Reports every key that isn't known.
    pub(super) fn refuse_others(&self, known: &[&str]) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let hint = match nearest(name, known.iter().copied()) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("known are {}", known.join(", ")),
            };
            let text = format!("unknown key {:?}, {hint}", format!("{}{name}", self.prefix));
            self.document.report(&key.span(), &text);
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<Item<'d>> {
        let (_, value) = self.table.get_key_value(key)?;
        Some(Item {
            document: self.document,
            key: format!("{}{key}", self.prefix),
            span: value.span(),
            value: value.get_ref(),
        })
    }

    pub(super) fn keys(&self) -> Vec<&'d str> {
        self.table.keys().map(|key| &**key.get_ref()).collect()
    }

    pub(super) fn table(&self, key: &str) -> Option<Self> {
        let item = self.get(key)?;
        let Some(table) = item.value.as_table() else { return item.wrong_type("a table") };
        Some(Self { document: self.document, prefix: format!("{}.", item.key), table })
    }

    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        let item = self.get(key)?;
        item.value.as_bool().or_else(|| item.wrong_type("true or false"))
    }

    pub(super) fn integer<N: TryFrom<i64>>(
        &self,
        key: &str,
        range: RangeInclusive<i64>,
    ) -> Option<N> {
        let item = self.get(key)?;
        let (low, high) = (range.start(), range.end());
        let Some(integer) = item.value.as_integer() else {
            return item.wrong_type(&format!("a number from {low} to {high}"));
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let fitting =
            number.filter(|number| range.contains(number)).and_then(|n| N::try_from(n).ok());
        if fitting.is_none() {
            let text = format!("{} is out of range; allowed are {low} to {high}", integer.as_str());
            item.wrong(&text);
        }
        fitting
    }

    pub(super) fn duration(&self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let item = self.get(key)?;
        let duration = item.parsed(duration)?;
        if range.contains(&duration) {
            return Some(duration);
        }
        let (low, high) = (range.start().as_millis(), range.end().as_millis());
        item.wrong(&format!(
            "{} ms is out of range; allowed are {low}ms to {high}ms",
            duration.as_millis()
        ));
        None
    }
}

impl<'d> Item<'d> {
    /// Reports what is wrong with this value; the text follows the key.
    pub(super) fn wrong(&self, text: &str) {
        self.document.report(&self.span, &format!("{}: {text}", self.key));
    }

    pub(super) fn wrong_type<T>(&self, wanted: &str) -> Option<T> {
        let found = match self.value {
            DeValue::String(text) => format!("{:.60?}", text.as_ref()),
            DeValue::Integer(number) => number.as_str().to_owned(),
            DeValue::Boolean(value) => value.to_string(),
            other => format!("a value of type {}", other.type_str()),
        };
        self.wrong(&format!("{found} is not allowed here; write {wanted}"));
        None
    }

    pub(super) fn text(&self) -> Option<&'d str> {
        self.value.as_str().or_else(|| self.wrong_type("a text in quotes"))
    }

    pub(super) fn number(&self) -> Option<f64> {
        let number = match self.value {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) => integer.as_str().parse().ok(),
            _ => None,
        };
        number.or_else(|| self.wrong_type("a number"))
    }

    pub(super) fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match parse(self.text()?) {
            Ok(value) => Some(value),
            Err(why) => {
                self.wrong(&why);
                None
            }
        }
    }

    /// One text, or a list of them, each understood by `parse`.
    pub(super) fn some<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some(array) = self.value.as_array() else {
            return self.parsed(parse).into_iter().collect();
        };
        let items = array.iter().enumerate().map(|(at, value)| Self {
            document: self.document,
            key: format!("{}[{at}]", self.key),
            span: value.span(),
            value: value.get_ref(),
        });
        items.filter_map(|item| item.parsed(&parse)).collect()
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor: Option<u64> = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let count = number.parse::<u64>().ok();
    let ms = count.zip(factor).and_then(|(count, factor)| count.checked_mul(factor));
    ms.map(Duration::from_millis).ok_or_else(|| {
        format!("{text:?} is not a duration; write one as \"500ms\", \"1s\", \"2m\" or \"1h\"")
    })
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an address; write \"127.0.0.1:7420\" or \"[::]:7420\"")
    })
}

pub(super) fn host(text: &str) -> Result<IpAddr, String> {
    let host: Result<IpAddr, _> = text.parse();
    host.map(|host| host.to_canonical())
        .map_err(|_| format!("{text:?} is not an address; write \"10.0.0.7\" or \"fd00::7\""))
}

//! Strict reading of a daemon's settings file: what is wrong is told with file, line, key and cure, all of it at once.

use std::{
    cell::RefCell,
    fmt::Write as _,
    io,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::objects::nearest;
use toml::de::{DeTable, DeValue};

use crate::files::read_text;

/// A longer file is not read.
pub const FILE_MAX: u64 = 1 << 20;
/// More problems than this are not told: a reader has enough to do.
const PROBLEMS_MAX: usize = 20;

/// Reads `folder/name` with `settings`, which takes what it knows out of the top table and reports what is wrong.
/// Nothing where there is no folder or no such file.
///
/// # Errors
/// Every problem, one a line: `heartbeat.toml:7: period: ...`.
pub fn load<T>(
    folder: Option<&Path>,
    name: &str,
    settings: impl FnOnce(&Table<'_>) -> T,
) -> Result<Option<T>, String> {
    let Some(file) = folder.map(|folder| folder.join(name)) else { return Ok(None) };
    match read_text(&file, FILE_MAX) {
        Ok(text) => parse(&file, &text, settings).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
}

/// As [`load`], with the text at hand; `file` is what problems are told by.
///
/// # Errors
/// As [`load`].
pub fn parse<T>(
    file: &Path,
    text: &str,
    settings: impl FnOnce(&Table<'_>) -> T,
) -> Result<T, String> {
    let document = Document { file, text, problems: RefCell::default() };
    match DeTable::parse(text) {
        Ok(table) => {
            let top = Table { document: &document, prefix: String::new(), table: table.get_ref() };
            let settings = settings(&top);
            document.finish().map(|()| settings)
        }
        Err(error) => {
            document.report(&error.span().unwrap_or_default(), error.message());
            Err(document.told())
        }
    }
}

/// The file, and what was found wrong with it.
struct Document<'d> {
    file: &'d Path,
    text: &'d str,
    problems: RefCell<Vec<(usize, String)>>,
}

/// One table of it.
pub struct Table<'d> {
    document: &'d Document<'d>,
    /// `apps.7.`; empty at the top.
    prefix: String,
    table: &'d DeTable<'d>,
}

/// One value with its key and place.
pub struct Item<'d> {
    document: &'d Document<'d>,
    pub key: String,
    span: Range<usize>,
    value: &'d DeValue<'d>,
}

impl Document<'_> {
    fn report(&self, span: &Range<usize>, text: &str) {
        let before = self.text.as_bytes().iter().take(span.start);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        self.problems.borrow_mut().push((line, text.to_owned()));
    }

    fn finish(&self) -> Result<(), String> {
        if self.problems.borrow().is_empty() { Ok(()) } else { Err(self.told()) }
    }

    /// What was found, one a line.
    fn told(&self) -> String {
        let mut problems = self.problems.borrow_mut();
        problems.sort();
        let mut all = String::new();
        for (line, problem) in problems.iter().take(PROBLEMS_MAX) {
            let _ = writeln!(all, "{}:{line}: {problem}", self.file.display());
        }
        all.trim_end().to_owned()
    }
}

impl<'d> Table<'d> {
    /// The file they stand in.
    #[must_use]
    pub fn file(&self) -> &'d Path {
        self.document.file
    }

    /// Reports every key that isn't known.
    pub fn refuse_others(&self, known: &[&str]) {
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

    /// The value of a key, if it is there.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Item<'d>> {
        let (_, value) = self.table.get_key_value(key)?;
        Some(Item {
            document: self.document,
            key: format!("{}{key}", self.prefix),
            span: value.span(),
            value: value.get_ref(),
        })
    }

    /// In no order.
    #[must_use]
    pub fn keys(&self) -> Vec<&'d str> {
        self.table.keys().map(|key| &**key.get_ref()).collect()
    }

    /// A table in this one. Nothing, and a report, where it is something else; so with all below.
    #[must_use]
    pub fn table(&self, key: &str) -> Option<Self> {
        self.get(key)?.table()
    }

    /// A list of tables: `[[sources]]`, or `sources = [{ ... }]`. Empty where there is none.
    #[must_use]
    pub fn tables(&self, key: &str) -> Vec<Self> {
        let items = self.get(key).and_then(|item| item.list()).unwrap_or_default();
        items.iter().filter_map(Item::table).collect()
    }

    #[must_use]
    pub fn text(&self, key: &str) -> Option<&'d str> {
        self.get(key)?.text()
    }

    /// A path from the root folder on.
    #[must_use]
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        self.get(key)?.parsed(absolute)
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        let item = self.get(key)?;
        item.value.as_bool().or_else(|| item.wrong_type("true or false"))
    }

    /// A whole number in `range`.
    pub fn integer<N: TryFrom<i64>>(&self, key: &str, range: RangeInclusive<i64>) -> Option<N> {
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

    /// A duration in `range`.
    pub fn duration(&self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
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
    /// As TOML has it.
    #[must_use]
    pub fn value(&self) -> &'d DeValue<'d> {
        self.value
    }

    /// Reports what is wrong with this value; the text follows the key.
    pub fn wrong(&self, text: &str) {
        self.document.report(&self.span, &format!("{}: {text}", self.key));
    }

    /// Reports that it is of another type than `wanted`.
    pub fn wrong_type<T>(&self, wanted: &str) -> Option<T> {
        let found = match self.value {
            DeValue::String(text) => format!("{:.60?}", text.as_ref()),
            DeValue::Integer(number) => number.as_str().to_owned(),
            DeValue::Boolean(value) => value.to_string(),
            other => format!("a value of type {}", other.type_str()),
        };
        self.wrong(&format!("{found} is not allowed here; write {wanted}"));
        None
    }

    /// A text.
    #[must_use]
    pub fn text(&self) -> Option<&'d str> {
        self.value.as_str().or_else(|| self.wrong_type("a text in quotes"))
    }

    /// A number, whole or not.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        let number = match self.value {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) => integer.as_str().parse().ok(),
            _ => None,
        };
        number.or_else(|| self.wrong_type("a number"))
    }

    /// The place of a word among those that are allowed.
    pub fn word(&self, words: &[&str]) -> Option<usize> {
        let found =
            self.value.as_str().and_then(|text| words.iter().position(|word| *word == text));
        found.or_else(|| self.wrong_type(&format!("one of {words:?}")))
    }

    /// A whole number of any size, where it is one.
    #[must_use]
    pub fn whole(&self) -> Option<u64> {
        let number = self.value.as_integer()?;
        u64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    /// Bytes: a number, or a text with KiB, MiB or GiB.
    pub fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let size = self.whole().or_else(|| self.value.as_str().and_then(size));
        size.filter(|size| range.contains(size)).or_else(|| {
            let (low, high) = (range.start(), range.end());
            self.wrong_type(&format!("a size such as \"16MiB\", from {low} to {high} bytes"))
        })
    }

    /// A text that `parse` understands.
    pub fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match parse(self.text()?) {
            Ok(value) => Some(value),
            Err(why) => {
                self.wrong(&why);
                None
            }
        }
    }

    /// One text, or a list of them, each understood by `parse`.
    pub fn some<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        if !self.value.is_array() {
            return self.parsed(parse).into_iter().collect();
        }
        let items = self.list().unwrap_or_default();
        items.iter().filter_map(|item| item.parsed(&parse)).collect()
    }

    /// The items of a list, called `key[0]` and so on.
    #[must_use]
    pub fn list(&self) -> Option<Vec<Self>> {
        let Some(array) = self.value.as_array() else { return self.wrong_type("a list") };
        let item = |(at, value): (usize, &'d toml::Spanned<DeValue<'d>>)| Self {
            document: self.document,
            key: format!("{}[{at}]", self.key),
            span: value.span(),
            value: value.get_ref(),
        };
        Some(array.iter().enumerate().map(item).collect())
    }

    #[must_use]
    pub fn table(&self) -> Option<Table<'d>> {
        let Some(table) = self.value.as_table() else { return self.wrong_type("a table") };
        Some(Table { document: self.document, prefix: format!("{}.", self.key), table })
    }
}

fn size(text: &str) -> Option<u64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim() {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// `500ms`, `1s`, `2m` or `1h`.
///
/// # Errors
/// Where it is none, with examples.
pub fn duration(text: &str) -> Result<Duration, String> {
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

/// # Errors
/// Where it isn't one, with an example.
pub fn absolute(text: &str) -> Result<PathBuf, String> {
    match Path::new(text) {
        path if path.is_absolute() => Ok(path.to_owned()),
        _ => Err(format!("{text:?} is not a path from the root folder on; write \"/etc/config\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(text: &str, settings: impl FnOnce(&Table<'_>) -> T) -> Result<T, String> {
        parse(Path::new("x.toml"), text, settings)
    }

    #[test]
    fn every_mistake_is_told_with_its_line_key_and_cure() {
        let told = read("a = 1\nb = \"x\"\ncolour = 1\n[[c]]\nd = \"tmp\"\n", |top| {
            top.refuse_others(&["a", "b", "c", "color"]);
            let _ = top.text("a");
            top.integer::<u8>("b", 1..=9);
            top.tables("c").iter().for_each(|table| drop(table.path("d")));
        });
        let told = told.unwrap_err();
        for part in [
            "x.toml:1: a: 1 is not allowed here; write a text in quotes",
            "x.toml:2: b: \"x\" is not allowed here; write a number from 1 to 9",
            "x.toml:3: unknown key \"colour\", did you mean \"color\"?",
            "x.toml:5: c[0].d: \"tmp\" is not a path from the root folder on",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn sizes_have_units_and_limits() {
        let size = |text: &str| {
            read(&format!("s = {text}"), |top| top.get("s").and_then(|item| item.size(1..=4 << 30)))
        };
        assert_eq!(size("\"16MiB\""), Ok(Some(16 << 20)));
        assert_eq!(size("512"), Ok(Some(512)));
        for wrong in ["0", "-1", "\"5GiB\"", "\"99999999999999GiB\"", "\"1MB\"", "true"] {
            assert!(size(wrong).unwrap_err().contains("a size such as"), "{wrong}");
        }
    }

    #[test]
    fn a_text_that_is_no_toml_is_told_with_its_line() {
        assert!(read("a = 1\nb = \n", |_| ()).unwrap_err().starts_with("x.toml:2: "));
    }

    #[test]
    fn where_there_is_no_file_there_are_no_settings() {
        assert_eq!(load(Some(Path::new("/nowhere")), "x.toml", |_| ()), Ok(None));
        assert_eq!(load(None, "x.toml", |_| ()), Ok(None));
    }
}

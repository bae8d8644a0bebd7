//! What a file says, without how it is written: entries of a name and a value, and a digest over them. Comments, blank lines,
//! quoting and indentation don't count; order counts where it means something.

mod ini;
mod json;
mod path;
mod toml;

use std::collections::HashMap;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{MAX_FILE_BYTES, Mode, Problem, package, parse, problem::text};

/// Tables, objects and arrays may stand so deep in each other.
pub const MAX_DEPTH: usize = 64;
/// A file may say so many things.
pub const MAX_ENTRIES: usize = crate::MAX_SECTIONS + crate::MAX_VALUES;

/// How a file is read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Format {
    /// Sections and options in their order. An option and a list of one item are not the same.
    Uci,
    /// Objects in any order; a key that comes twice is refused. Numbers count by what they are worth, digit by digit.
    Json,
    /// Tables in any order. `1` and `1.0` are not the same.
    Toml,
    /// `[section]`, `key = value` or `key`, comments on lines that begin with `#` or `;`. Keys in any order; those that come more
    /// than once, and sections that do, in their own.
    Ini,
    /// Lines without what blanks they end with; those that begin with the sign, blanks apart, don't count, nor do blank ones.
    /// Empty: no comments.
    Lines { comment: String },
    /// Every byte.
    Bytes,
}

impl Format {
    /// What makes equal entries of different formats different configurations.
    fn tag(&self) -> &'static str {
        match self {
            Self::Uci => "uci",
            Self::Json => "json",
            Self::Toml => "toml",
            Self::Ini => "ini",
            Self::Lines { .. } => "lines",
            Self::Bytes => "bytes",
        }
    }
}

/// What a file says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Canonical {
    /// SHA-256 of the format and the entries.
    pub digest: [u8; 32],
    /// None with [`Format::Bytes`].
    pub entries: Vec<Entry>,
}

/// One thing that a file says. No two entries of a file have one name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// `section` and `section.option` with UCI, anonymous sections as `@type[index]`; a path with dots with JSON and TOML,
    /// `section.key` with INI; the number of the line among those that count with lines.
    pub name: String,
    /// A text or a list with UCI, a section's type for the section itself; null with INI for a key without `=` and for a section
    /// without keys.
    pub value: Value,
}

/// Names of what one file says and another doesn't.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Differences {
    /// Another value, or another place among the others where order counts.
    pub changed: Vec<String>,
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

impl Canonical {
    /// The digest in hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        use std::fmt::Write as _;
        self.digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a string doesn't fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// What a file says. Its name doesn't count.
///
/// # Errors
/// It isn't in that format, or is over a limit.
pub fn canonical(format: &Format, name: &str, bytes: &[u8]) -> Result<Canonical, Problem> {
    let entries = match format {
        Format::Uci => of_package(parse(name, bytes, Mode::Strict)?.package),
        Format::Json => json::entries(text(bytes, MAX_FILE_BYTES)?)?,
        Format::Toml => toml::entries(text(bytes, MAX_FILE_BYTES)?)?,
        Format::Ini => ini::entries(text(bytes, MAX_FILE_BYTES)?)?,
        Format::Lines { comment } => lines(text(bytes, MAX_FILE_BYTES)?, comment)?,
        Format::Bytes => {
            return Ok(Canonical { digest: digest_of_bytes(bytes)?, entries: Vec::new() });
        }
    };
    Ok(Canonical { digest: digest(format, &entries), entries })
}

/// What a package says.
#[must_use]
pub fn of_package(package: package::Package) -> Vec<Entry> {
    let references = package.references();
    let count: usize = package.sections.iter().map(|section| section.options.len() + 1).sum();
    let mut entries = Vec::with_capacity(count);
    for (section, reference) in package.sections.into_iter().zip(references) {
        let kind = Value::String(section.kind);
        entries.push(Entry { name: reference.clone(), value: kind });
        for option in section.options {
            let value = match option.value {
                package::Value::Text(text) => Value::String(text),
                package::Value::List(items) => {
                    Value::Array(items.into_iter().map(Value::String).collect())
                }
            };
            let mut name = String::with_capacity(reference.len() + 1 + option.name.len());
            for part in [&reference, ".", &option.name] {
                name.push_str(part);
            }
            entries.push(Entry { name, value });
        }
    }
    entries
}

fn lines(text: &str, comment: &str) -> Result<Vec<Entry>, Problem> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_ascii_end();
        let remark = !comment.is_empty() && line.trim_ascii_start().starts_with(comment);
        if line.is_empty() || remark {
            continue;
        }
        if entries.len() >= MAX_ENTRIES {
            return Err(too_many(index + 1));
        }
        let name = (entries.len() + 1).to_string();
        entries.push(Entry { name, value: Value::String(line.to_owned()) });
    }
    Ok(entries)
}

fn too_many(line: usize) -> Problem {
    Problem::new(line, 1, format!("more entries than the limit of {MAX_ENTRIES}: split the file"))
}

/// Each name and each value goes in behind its length, so that no two lists of entries give the same bytes.
fn digest(format: &Format, entries: &[Entry]) -> [u8; 32] {
    /// So much is gathered for one call of the hash.
    const PIECE: usize = 8 << 10;
    let mut hash = Sha256::new();
    let mut piece = Vec::with_capacity(PIECE);
    push(&mut piece, format.tag().as_bytes());
    for entry in entries {
        push(&mut piece, entry.name.as_bytes());
        push_value(&mut piece, &entry.value);
        if piece.len() >= PIECE {
            hash.update(&piece);
            piece.clear();
        }
    }
    hash.update(&piece);
    hash.finalize().into()
}

fn digest_of_bytes(bytes: &[u8]) -> Result<[u8; 32], Problem> {
    if bytes.len() > MAX_FILE_BYTES {
        let length = bytes.len();
        return Err(Problem::new(
            1,
            1,
            format!("{length} bytes exceed the limit of {MAX_FILE_BYTES}: split the file"),
        ));
    }
    let mut head = Vec::new();
    push(&mut head, Format::Bytes.tag().as_bytes());
    Ok(Sha256::new().chain_update(head).chain_update(bytes).finalize().into())
}

fn push(piece: &mut Vec<u8>, bytes: &[u8]) {
    piece.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    piece.extend_from_slice(bytes);
}

/// A value behind a byte that tells its kind: the text `1` isn't the number 1.
fn push_value(piece: &mut Vec<u8>, value: &Value) {
    match value {
        Value::String(text) => {
            piece.push(b's');
            push(piece, text.as_bytes());
        }
        Value::Array(items) => {
            piece.push(b'a');
            piece.extend_from_slice(&(items.len() as u64).to_le_bytes());
            for item in items {
                push_value(piece, item);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            piece.push(b'j');
            push(piece, value.to_string().as_bytes());
        }
    }
}

/// What changed from one to the other, in the order of the entries. Empty where both say the same, and where the format has no
/// entries.
#[must_use]
pub fn differences(old: &[Entry], new: &[Entry]) -> Differences {
    let before: HashMap<&str, &Value> =
        old.iter().map(|entry| (entry.name.as_str(), &entry.value)).collect();
    let after: HashMap<&str, &Value> =
        new.iter().map(|entry| (entry.name.as_str(), &entry.value)).collect();
    let mut moved = moved(old, new, &before, &after);
    let mut differences = Differences::default();
    for entry in new {
        match before.get(entry.name.as_str()) {
            None => differences.added.push(entry.name.clone()),
            Some(value) if **value != entry.value || moved.remove(entry.name.as_str()) => {
                differences.changed.push(entry.name.clone());
            }
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|entry| !after.contains_key(entry.name.as_str()));
    differences.removed.extend(gone.map(|entry| entry.name.clone()));
    differences
}

/// Names in both that stand between other names now: all from the first one that isn't where it was to the last.
fn moved<'a>(
    old: &'a [Entry],
    new: &'a [Entry],
    before: &HashMap<&str, &Value>,
    after: &HashMap<&str, &Value>,
) -> std::collections::HashSet<&'a str> {
    let common = |entries: &'a [Entry], there: &HashMap<&str, &Value>| -> Vec<&'a str> {
        let names = entries.iter().map(|entry| entry.name.as_str());
        names.filter(|name| there.contains_key(name)).collect()
    };
    let (old, new) = (common(old, after), common(new, before));
    let same = |(one, other): &(&&str, &&str)| one == other;
    let first = old.iter().zip(&new).take_while(same).count();
    let last = old[first..].iter().rev().zip(new[first..].iter().rev()).take_while(same).count();
    new[first..new.len() - last].iter().copied().collect()
}

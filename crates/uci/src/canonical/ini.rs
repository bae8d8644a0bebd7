//! What an INI or `key=value` file says. There is no standard: quotes, backslashes and signs inside of a value are part of it.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::{
    Entry, MAX_ENTRIES,
    path::{push_index, push_key},
    too_many,
};
use crate::Problem;

pub(super) fn entries(text: &str) -> Result<Vec<Entry>, Problem> {
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    // A section that comes again is one of its own: two peers of a VPN have one name and different keys.
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut section = Section { path: String::new(), empty: false };
    let mut values = 0;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        values += 1;
        if values > MAX_ENTRIES {
            return Err(too_many(index + 1));
        }
        if let Some(rest) = line.strip_prefix('[') {
            let Some(name) = rest.strip_suffix(']').map(str::trim_ascii) else {
                let text = "a section's name doesn't end: write [name], and nothing behind it";
                return Err(Problem::new(index + 1, 1, text));
            };
            section.close(&mut found);
            let count = seen.entry(name).or_default();
            section = Section::open(name, *count);
            *count += 1;
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key.trim_ascii_end(), Value::from(value.trim_ascii_start())),
            None => (line, Value::Null),
        };
        if key.is_empty() {
            return Err(Problem::new(index + 1, 1, "a value without a key: write key = value"));
        }
        section.empty = false;
        let mut name = section.path.clone();
        push_key(&mut name, key);
        found.entry(name).or_default().push(value);
    }
    section.close(&mut found);
    let entries = found.into_iter().map(|(name, mut values)| {
        let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
        Entry { name, value }
    });
    Ok(entries.collect())
}

/// The section that keys belong to.
struct Section {
    path: String,
    /// No key yet.
    empty: bool,
}

impl Section {
    /// The first one of a name is `name`, the next `name[1]`.
    fn open(name: &str, before: usize) -> Self {
        let mut path = String::new();
        push_key(&mut path, name);
        if before > 0 {
            push_index(&mut path, before);
        }
        Self { path, empty: true }
    }

    /// A section without keys says that it is there.
    fn close(self, found: &mut BTreeMap<String, Vec<Value>>) {
        if self.empty {
            found.insert(format!("[{}]", self.path), vec![Value::Null]);
        }
    }
}

//! What a TOML file says: one entry for each value, tables in the order of their keys, arrays of tables element by element.

use serde_json::{Map, Number, Value, json};
use toml::Value as Toml;

use super::{
    Entry, MAX_DEPTH, MAX_ENTRIES,
    path::{push_index, push_key},
    too_many,
};
use crate::Problem;

pub(super) fn entries(text: &str) -> Result<Vec<Entry>, Problem> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let offset = error.span().map_or(0, |span| span.start);
        Problem::at(text.as_bytes(), offset, error.message())
    })?;
    let mut entries = Vec::new();
    let mut path = String::new();
    walk_table(&table, &mut path, 0, &mut entries)?;
    Ok(entries)
}

fn walk_table(
    table: &toml::Table,
    path: &mut String,
    depth: usize,
    entries: &mut Vec<Entry>,
) -> Result<(), Problem> {
    // Another crate of the program may have asked `toml` to keep the order of the file.
    let mut keys: Vec<&String> = table.keys().collect();
    keys.sort_unstable();
    for key in keys {
        let length = path.len();
        push_key(path, key);
        walk(&table[key], path, depth + 1, entries)?;
        path.truncate(length);
    }
    Ok(())
}

fn walk(
    value: &Toml,
    path: &mut String,
    depth: usize,
    entries: &mut Vec<Entry>,
) -> Result<(), Problem> {
    if depth > MAX_DEPTH {
        return Err(Problem::new(1, 1, format!("{path} is deeper than the limit of {MAX_DEPTH}")));
    }
    let value = match value {
        Toml::Table(table) if !table.is_empty() => return walk_table(table, path, depth, entries),
        Toml::Array(items) if items.iter().any(is_deep) => {
            for (index, item) in items.iter().enumerate() {
                let length = path.len();
                push_index(path, index);
                walk(item, path, depth + 1, entries)?;
                path.truncate(length);
            }
            return Ok(());
        }
        other => leaf(other),
    };
    if entries.len() >= MAX_ENTRIES {
        return Err(too_many(1));
    }
    entries.push(Entry { name: path.clone(), value });
    Ok(())
}

/// Elements are entries of their own.
fn is_deep(item: &Toml) -> bool {
    matches!(item, Toml::Table(_) | Toml::Array(_))
}

/// A value that is one entry. What JSON doesn't have is an object, which no other entry's value is but an empty table's.
fn leaf(value: &Toml) -> Value {
    match value {
        Toml::String(text) => Value::String(text.clone()),
        Toml::Integer(number) => Value::from(*number),
        Toml::Float(number) => Number::from_f64(*number)
            .map_or_else(|| json!({ "float": number.to_string() }), Value::Number),
        Toml::Boolean(truth) => Value::Bool(*truth),
        Toml::Datetime(time) => json!({ "datetime": time.to_string() }),
        Toml::Array(items) => Value::Array(items.iter().map(leaf).collect()),
        Toml::Table(_) => Value::Object(Map::new()),
    }
}

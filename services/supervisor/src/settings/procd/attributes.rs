//! One table of a message, key by key: a value of another type than procd expects is dropped and listed, never guessed at.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Most dropped keys that are listed of one message; more tell nobody anything.
const IGNORED_MAX: usize = 64;

/// The keys of one table that haven't been asked for yet.
pub(super) struct Attributes<'m, 'i> {
    prefix: &'i str,
    table: &'m Map<String, Value>,
    asked: Vec<&'static str>,
    ignored: &'i mut Vec<String>,
}

impl<'m, 'i> Attributes<'m, 'i> {
    pub(super) fn new(
        prefix: &'i str,
        table: &'m Map<String, Value>,
        ignored: &'i mut Vec<String>,
    ) -> Self {
        Self { prefix, table, asked: Vec::new(), ignored }
    }

    /// A key that is known and means nothing here.
    pub(super) fn skip(&mut self, key: &'static str) {
        self.asked.push(key);
    }

    /// Lists a key as dropped.
    pub(super) fn ignore(&mut self, key: &str, why: &str) {
        if self.ignored.len() < IGNORED_MAX {
            self.ignored.push(format!("{}{key}: {why}", self.prefix));
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        read: impl FnOnce(&'m Value) -> Option<T>,
    ) -> Option<T> {
        self.asked.push(key);
        let value = self.table.get(key)?;
        let read = read(value);
        if read.is_none() {
            self.ignore(key, &format!("not {wanted}"));
        }
        read
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<&'m str> {
        self.typed(key, "a text", Value::as_str)
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// blobmsg's 32 bits: a larger number travels as another type and is dropped upstream too.
    pub(super) fn integer(&mut self, key: &'static str) -> Option<i32> {
        self.typed(key, "a number of 32 bits", |value| i32::try_from(value.as_i64()?).ok())
    }

    pub(super) fn array(&mut self, key: &'static str) -> Option<&'m [Value]> {
        self.typed(key, "an array", |value| value.as_array().map(Vec::as_slice))
    }

    pub(super) fn table(&mut self, key: &'static str) -> Option<&'m Map<String, Value>> {
        self.typed(key, "a table", Value::as_object)
    }

    /// An array of texts; anything else in it is an error, which upstream answers by an instance that is never seen.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Result<Vec<String>, String>> {
        let items = self.array(key)?;
        let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
        Some(
            texts
                .collect::<Option<_>>()
                .ok_or_else(|| format!("{key} holds something that is not a text")),
        )
    }

    /// A table of texts, by name; NUL can't be passed on.
    pub(super) fn text_table(
        &mut self,
        key: &'static str,
    ) -> Option<Result<BTreeMap<String, String>, String>> {
        let table = self.table(key)?;
        let pairs = table.iter().map(|(name, value)| {
            let text = value.as_str().ok_or_else(|| format!("{key}: {name:?} is not a text"))?;
            Ok((name.clone(), text.to_owned()))
        });
        Some(pairs.collect())
    }

    /// Lists what nobody asked for.
    pub(super) fn finish(mut self) {
        let table = self.table;
        let unknown = table.keys().filter(|key| !self.asked.contains(&key.as_str()));
        for key in unknown.cloned().collect::<Vec<_>>() {
            self.ignore(&key, "unknown key");
        }
    }
}

//! Standard output: JSON or text, colour only where a person sees it, and a reader who left is no error.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::Value;

use crate::{
    error::Error,
    table::{Table, clean},
};

/// How a line looks on a terminal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Style {
    Plain,
    Faint,
    Strong,
    Waiting,
    Bad,
}

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    colour: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        Self { json, colour: io::stdout().is_terminal() && !set("NO_COLOR") && !dumb }
    }

    /// Prints bytes as they are.
    pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Error> {
        Self::write(bytes).map(|_| ())
    }

    /// Prints a part of something without an end; `false`: nobody reads any more.
    pub(crate) fn stream(text: &str) -> Result<bool, Error> {
        Self::write(text.as_bytes())
    }

    fn write(bytes: &[u8]) -> Result<bool, Error> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // `vestalctl status | head -1`: who reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Error::failed(format!("write to standard output: {error}"))),
            Ok(()) => Ok(true),
        }
    }

    /// A text in a style, where a person sees it.
    pub(crate) fn styled(self, text: &str, style: Style) -> String {
        let code = match style {
            Style::Plain => None,
            Style::Faint => Some("2"),
            Style::Strong => Some("1"),
            Style::Waiting => Some("33"),
            Style::Bad => Some("31"),
        };
        match code.filter(|_| self.colour) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }

    pub(crate) fn text(text: &str) -> Result<(), Error> {
        Self::bytes(text.as_bytes())
    }

    pub(crate) fn table(self, table: &Table) -> Result<(), Error> {
        Self::text(&table.render(self.colour))
    }

    /// Prints JSON with two blanks a level; completion scripts rely on that.
    pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<(), Error> {
        let mut text = serde_json::to_string_pretty(value)
            .map_err(|error| Error::failed(format!("write the result as JSON: {error}")))?;
        text.push('\n');
        Self::text(&text)
    }

    /// Prints what a daemon answered: JSON, or indented lines; nothing at all where it had nothing to say.
    pub(crate) fn answer(self, value: &Value) -> Result<(), Error> {
        if self.json { Self::json(value) } else { Self::text(&tree(value)) }
    }
}

/// Any JSON as indented lines: `key: value`, one list element a line.
pub(crate) fn tree(value: &Value) -> String {
    let mut text = String::new();
    grow(&mut text, value, 0);
    text
}

fn grow(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                text.push_str(&format!("{indent}{}:", clean(key)));
                hang(text, member, depth);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                text.push_str(&format!("{indent}-"));
                hang(text, element, depth);
            }
        }
        Value::Null => {}
        _ => text.push_str(&format!("{indent}{}\n", scalar(value))),
    }
}

/// The value behind a key: on the same line where it fits there.
fn hang(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(members) if members.is_empty() => text.push_str(" {}\n"),
        Value::Array(elements) if elements.is_empty() => text.push_str(" []\n"),
        Value::Array(elements) if elements.iter().all(|e| !e.is_object() && !e.is_array()) => {
            let words: Vec<_> = elements.iter().map(scalar).collect();
            text.push_str(&format!(" {}\n", words.join(" ")));
        }
        Value::Object(_) | Value::Array(_) => {
            text.push('\n');
            grow(text, value, depth + 1);
        }
        _ => text.push_str(&format!(" {}\n", scalar(value))),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_shows_nesting_by_indentation() {
        let value = json!({"kernel": "6.1", "release": {"version": "2", "none": {}},
            "args": ["a", 1], "rules": [["x", ["y"]]]});
        let expected = "kernel: 6.1\nrelease:\n  version: 2\n  none: {}\nargs: a 1\n\
                        rules:\n  -\n    - x\n    - y\n";
        assert_eq!(tree(&value), expected);
    }

    #[test]
    fn nothing_to_say_prints_nothing() {
        assert_eq!(tree(&json!({})), "");
        assert_eq!(tree(&Value::Null), "");
    }
}

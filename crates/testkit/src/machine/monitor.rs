//! QEMU's own voice (QMP): what it is told to do with the machine, and what it says has happened to it.

use std::cell::Cell;

use serde_json::{Value, json};

use super::{LIMIT, line::Line};

/// The monitor of one machine.
pub(super) struct Monitor {
    line: Line,
    asked: Cell<u64>,
    /// Up to here events were looked at.
    seen: Cell<usize>,
}

impl Monitor {
    /// Says that we understand the greeting.
    pub(super) fn new(line: Line) -> Self {
        let monitor = Self { line, asked: Cell::new(0), seen: Cell::new(0) };
        monitor.execute("qmp_capabilities", &json!({}));
        monitor
    }

    /// What a command returns.
    #[track_caller]
    pub(super) fn execute(&self, command: &str, arguments: &Value) -> Value {
        let id = self.asked.get() + 1;
        self.asked.set(id);
        let from = self.line.length();
        self.line
            .say(&format!("{}\n", json!({ "execute": command, "arguments": arguments, "id": id })));
        let answer = self
            .line
            .until(from, LIMIT, |text| messages(text).find(|(message, _)| message["id"] == id))
            .unwrap_or_else(|silence| panic!("QEMU's answer to {command}: {silence:?}"));
        answer.0.get("return").cloned().unwrap_or_else(|| panic!("{command}: {}", answer.0))
    }

    /// Waits for an event that nobody has waited for yet.
    #[track_caller]
    pub(super) fn until_event(&self, name: &str) -> Value {
        let from = self.seen.get();
        let (event, length) = self
            .line
            .until(from, LIMIT, |text| messages(text).find(|(message, _)| message["event"] == name))
            .unwrap_or_else(|silence| panic!("QEMU's event {name}: {silence:?}: {}", self.text()));
        self.seen.set(from + length);
        event
    }

    /// Everything that was said.
    pub(super) fn text(&self) -> String {
        self.line.text(0)
    }
}

/// The messages of a text, each with where it ends; half a message at the end is none yet.
fn messages(text: &str) -> impl Iterator<Item = (Value, usize)> {
    let mut end = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        end += line.len();
        let message = serde_json::from_str(line.strip_suffix('\n')?).ok()?;
        Some((message, end))
    })
}

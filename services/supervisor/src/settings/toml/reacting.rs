//! The keys that say what a service does when something happens (`triggers`), and how its configuration has to be written
//! (`validate`).

use serde_json::{Map, Value};
use uci::datatype::{Mode, Rule};

use super::{
    policy::any_signal,
    table::{Item, Table},
};
use crate::{
    machine::COMPARED,
    settings::{
        rules::{RULES_MAX, Rules},
        units,
    },
};

/// Most triggers of one definition.
const TRIGGERS_MAX: usize = 256;
/// Most options of one rule set.
const OPTIONS_MAX: usize = 256;
/// Longest command line of a trigger, in bytes.
const COMMAND_MAX: usize = 8 * 1024;

const ACTIONS: [&str; 2] = ["reload", "restart"];

/// Checked, and kept as given: the trigger machine reads them beside procd's.
pub(super) fn triggers(top: &Table<'_>) -> Vec<Value> {
    let items = top.list("triggers").unwrap_or_default();
    if let Some(one_too_many) = items.get(TRIGGERS_MAX) {
        one_too_many.wrong(format!("at most {TRIGGERS_MAX} triggers are allowed"));
    }
    let mut triggers = Vec::new();
    for item in items.iter().take(TRIGGERS_MAX) {
        let Some(table) = item.table() else { continue };
        check_trigger(item, &table);
        triggers.extend(item.json());
    }
    triggers
}

fn check_trigger(item: &Item<'_>, table: &Table<'_>) {
    let known = [&["event", "action", "signal", "run", "delay", "strict"][..], &COMPARED].concat();
    table.refuse_others(&known, |_| None);
    match table.get("event") {
        None => item.wrong("a trigger needs event = \"...\", as \"config.change\""),
        Some(event) if event.text().is_some_and(str::is_empty) => {
            event.wrong("no event is called so");
        }
        Some(_) => {}
    }
    for key in COMPARED {
        // Any text is a package or an interface that may come.
        let _ = table.get(key).and_then(|item| item.text());
    }
    let _ = table.parsed("delay", units::duration);
    let _ = table.boolean("strict");
    let ways = ["action", "signal", "run"];
    if ways.iter().filter(|key| table.get(key).is_some()).count() > 1 {
        item.wrong("write one of action, signal and run, not several");
    }
    let _ = table.word("action", &ACTIONS.map(|word| (word, ())));
    let _ = table.get("signal").and_then(|item| any_signal(&item));
    if let Some(run) = table.get("run") {
        check_command(&run);
    }
}

/// Nothing is filled in: the event's data isn't known yet, and a shell may be named.
fn check_command(run: &Item<'_>) {
    let Some(items) = run.list() else { return };
    let words: Vec<&str> = items.iter().filter_map(Item::text).collect();
    if words.first().is_none_or(|program| program.is_empty()) && words.len() == items.len() {
        run.wrong("the command is empty; its first text is the program");
    }
    let length: usize = words.iter().map(|word| word.len() + 1).sum();
    if length > COMMAND_MAX {
        run.wrong(format!("{length} bytes, at most {COMMAND_MAX} are allowed"));
    }
    if words.iter().any(|word| word.contains('\0')) {
        run.wrong("a text can't hold NUL");
    }
}

/// `[[validate]]`: package, type, and the rules of its options.
pub(super) fn validate(top: &Table<'_>) -> Vec<Rules> {
    let items = top.list("validate").unwrap_or_default();
    if let Some(one_too_many) = items.get(RULES_MAX) {
        one_too_many.wrong(format!("at most {RULES_MAX} rule sets are allowed"));
    }
    items.iter().take(RULES_MAX).filter_map(rules).collect()
}

fn rules(item: &Item<'_>) -> Option<Rules> {
    let table = item.table()?;
    table.refuse_others(&["package", "type", "options"], |_| None);
    for (key, cure) in [
        ("package", "write package = \"NAME\", the file in the folder of configurations"),
        ("type", "write type = \"TYPE\", what follows `config` in the file"),
        ("options", "write options = { port = \"port\" }"),
    ] {
        if table.get(key).is_none() {
            table.missing(key, cure);
        }
    }
    let name = |key: &str| {
        table.parsed(key, |text| match text {
            "" => Err("nothing is called so".to_owned()),
            text if text.contains(['/', '\0']) || text.starts_with('.') => {
                Err(format!("{text:?} is no name of a file"))
            }
            text => Ok(text.to_owned()),
        })
    };
    let options = table.table("options")?;
    let entries = options.entries();
    if entries.len() > OPTIONS_MAX {
        item.wrong(format!("{} options, at most {OPTIONS_MAX} are allowed", entries.len()));
    }
    let mut read = Vec::new();
    for (option, item) in entries.into_iter().take(OPTIONS_MAX) {
        let rule = item.parsed(|text| match Rule::parse(text, Mode::Strict) {
            Ok(_) => Ok(text.to_owned()),
            Err(problem) => Err(problem.to_string()),
        });
        read.push((option.to_owned(), rule?));
    }
    Some(Rules { package: name("package")?, kind: name("type")?, options: read, strict: true })
}

/// The data of a table as it is, where there is one.
pub(super) fn object(item: Option<Item<'_>>) -> Map<String, Value> {
    let Some(item) = item else { return Map::new() };
    match item.table().and_then(|_| item.json()) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

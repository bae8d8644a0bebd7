//! The strict reader: one TOML file, one service. An unknown key, a wrong type or a bad value is an error with its line
//! and its cure, and all errors of a file are told at once. Starts nothing, writes nothing.

mod policy;
mod process;
mod reacting;
mod serving;
mod table;
#[cfg(test)]
mod tests;
mod watching;

use std::{collections::BTreeMap, path::Path};

use protocol::name::Name;
use toml::de::DeTable;

pub(crate) use self::policy::{PROCD_RESPAWN, STOP_TIMEOUT};
use self::{
    process::Surroundings,
    reacting::object,
    table::{Document, Item, Table},
};
use super::{
    Condition, Instance, OnDemand, Service, Source,
    context::Context,
    problem::{PROBLEMS_MAX, Problem},
};

/// Longest definition, in bytes.
pub(crate) const FILE_MAX: u64 = 256 * 1024;
/// Most instances of one service; the keeper's table has room for 2048 of all services together.
const INSTANCES_MAX: usize = 256;
/// Most names in one of the relations.
const RELATIONS_MAX: usize = 256;
/// Most objects that one service serves on demand.
const OBJECTS_MAX: usize = 64;
/// Start order of a service that doesn't say.
pub(crate) const START_DEFAULT: u32 = 50;
/// The only instance of a service without `[instances]` (procd's name for it).
const ONLY_INSTANCE: &str = "instance1";

/// Keys of a service as a whole; all others may stand in an instance too.
pub(super) const SERVICE_KEYS: [&str; 14] = [
    "enabled",
    "autostart",
    "on-demand",
    "start",
    "stop",
    "after",
    "requires",
    "wants",
    "conflicts",
    "conditions",
    "data",
    "triggers",
    "validate",
    "instances",
];
pub(super) const INSTANCE_KEYS: [&str; 31] = [
    "command",
    "env",
    "env-files",
    "directory",
    "user",
    "group",
    "groups",
    "capabilities",
    "no-new-privileges",
    "read-only-paths",
    "umask",
    "limits",
    "nice",
    "oom-score-adj",
    "sockets",
    "readiness",
    "fd-store",
    "oneshot",
    "watchdog",
    "stdout",
    "stderr",
    "pidfile",
    "files",
    "netdev",
    "respawn",
    "critical",
    "stop-signal",
    "stop-timeout",
    "kill-mode",
    "reload",
    "heartbeat",
];
/// Names that the suite's own daemons have; every other service is an application.
pub(crate) const CORE: [&str; 7] =
    ["registry", "heartbeat", "config", "upgrade", "driver", "autorun", "log"];

/// A definition that was read well.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) service: Service,
    /// `enabled = false`: as if it weren't there, and nothing built in of this name either.
    pub(crate) enabled: bool,
}

/// Reads one definition. `file` is how it is called in errors; it isn't opened.
///
/// # Errors
/// Everything that is wrong with it, by line, at most [`PROBLEMS_MAX`] of it.
pub(crate) fn read(
    text: &str,
    file: &Path,
    name: &Name,
    source: Source,
    context: &Context,
) -> Result<Read, Vec<Problem>> {
    let document = Document::new(file, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span();
        document.report(span.as_ref(), "", error.message().trim_end().replace('\n', ", "));
    }
    // What could be read of a file with syntax errors would only give errors that mislead.
    let read = errors
        .is_empty()
        .then(|| service(&Table::top(&document, table.get_ref()), name, source, context));
    let mut problems = document.into_problems();
    match read {
        Some(read) if problems.is_empty() => Ok(read),
        _ => {
            problems.truncate(PROBLEMS_MAX);
            Err(problems)
        }
    }
}

fn service(top: &Table<'_>, name: &Name, source: Source, context: &Context) -> Read {
    let known: Vec<&str> = SERVICE_KEYS.into_iter().chain(INSTANCE_KEYS).collect();
    top.refuse_others(&known, not_yet);
    let core = CORE.contains(&name.as_str());
    let relations = |key| relations(top, key, name);
    let on_demand = top.table("on-demand").and_then(|table| on_demand(&table));
    let service = Service {
        name: name.clone(),
        source,
        autostart: top.boolean("autostart").unwrap_or(on_demand.is_none()),
        start: top.integer("start", 0..=9999).unwrap_or(START_DEFAULT),
        stop: top.integer("stop", 0..=9999),
        after: relations("after"),
        requires: relations("requires"),
        wants: relations("wants"),
        conflicts: relations("conflicts"),
        conditions: top.table("conditions").map(|table| conditions(&table)).unwrap_or_default(),
        core,
        on_demand,
        instances: instances(top, name, context, core),
        data: object(top.get("data")),
        triggers: reacting::triggers(top),
        validate: reacting::validate(top),
        checked: Vec::new(),
        ignored: Vec::new(),
    };
    Read { service, enabled: top.boolean("enabled").unwrap_or(true) }
}

/// What a key that isn't ours could have meant.
fn not_yet(key: &str) -> Option<String> {
    let text = match key {
        "seccomp" | "namespaces" | "templates" | "timers" => "this version can't do that yet",
        "back-off" | "backoff" => {
            "the back-off is fixed (at once, then 100ms doubling to 30s); respawn = { max-restarts = N } bounds it"
        }
        "file" => "did you mean \"files\"?",
        "name" => "a service is called as its file",
        "args" | "arguments" => "write the arguments into command = [\"/program\", \"argument\"]",
        "environment" => "did you mean \"env\"?",
        _ => return None,
    };
    Some(text.to_owned())
}

fn instances(
    top: &Table<'_>,
    service: &Name,
    context: &Context,
    core: bool,
) -> BTreeMap<Name, Box<Instance>> {
    let mut tables: Vec<(Name, Table<'_>, Option<Item<'_>>)> = Vec::new();
    match top.get("instances") {
        None => {
            let name = Name::new(ONLY_INSTANCE).expect("the constant is a name");
            tables.push((name, top.clone(), None));
        }
        Some(item) => {
            let entries = item.table().map(|table| table.entries()).unwrap_or_default();
            if entries.is_empty() && item.is_table() {
                item.wrong(
                    "the table is empty; name an instance, or leave the table out for a single one",
                );
            }
            if entries.len() > INSTANCES_MAX {
                item.wrong(format!(
                    "{} instances, at most {INSTANCES_MAX} are allowed",
                    entries.len()
                ));
            }
            for (name, item) in entries.into_iter().take(INSTANCES_MAX) {
                let Some(table) = item.table() else { continue };
                let known: Vec<&str> = INSTANCE_KEYS.into_iter().chain(["data"]).collect();
                table.refuse_others(&known, |key| {
                    let whole = SERVICE_KEYS.contains(&key);
                    let text = "it belongs to the service; write it above the instances";
                    if whole { Some(text.to_owned()) } else { not_yet(key) }
                });
                match Name::new(name) {
                    Ok(name) => tables.push((name, top.under(&table), table.get("data"))),
                    Err(error) => item.wrong(error.to_string()),
                }
            }
        }
    }
    let of_instances: Vec<(Name, Table<'_>)> =
        tables.iter().map(|(name, table, _)| (name.clone(), table.clone())).collect();
    watching::refuse_twins(&of_instances);
    let read = |(name, table, data): (Name, Table<'_>, Option<Item<'_>>)| {
        let surroundings = Surroundings::new(&table, context, service, &name, core);
        let mut errors = Vec::new();
        let mut shown = serde_json::Map::new();
        if data.is_some() {
            shown.insert("data".to_owned(), object(data).into());
        }
        let process = process::process(&table, &surroundings, &mut errors, &mut shown);
        let policy = policy::policy(&table, &surroundings, process.oneshot);
        (name, Box::new(Instance { process, policy, shown, errors }))
    };
    tables.into_iter().map(read).collect()
}

fn relations(top: &Table<'_>, key: &'static str, own: &Name) -> Vec<Name> {
    let items = top.list(key).unwrap_or_default();
    if let Some(one_too_many) = items.get(RELATIONS_MAX) {
        one_too_many.wrong(format!("at most {RELATIONS_MAX} names are allowed"));
    }
    let mut names = Vec::new();
    for item in items.iter().take(RELATIONS_MAX) {
        match item.parsed(|text| Name::new(text).map_err(|error| error.to_string())) {
            Some(name) if name == *own => item.wrong("a service can't relate to itself"),
            Some(name) if !names.contains(&name) => names.push(name),
            _ => {}
        }
    }
    names
}

/// `{ path-exists = "/x", kernel-argument = ["quiet", "!debug"], virtualization = "!vm" }`: all must hold.
/// Which objects start the service, and after how long without a user it is stopped.
fn on_demand(table: &Table<'_>) -> Option<OnDemand> {
    table.refuse_others(&["objects", "idle-timeout"], |_| None);
    let Some(item) = table.get("objects") else {
        table.missing("objects", "write objects = [\"NAME\"], what it registers in the registry");
        return None;
    };
    let items = item.list()?;
    if items.is_empty() || items.len() > OBJECTS_MAX {
        item.wrong(format!("{} objects are given; write 1 to {OBJECTS_MAX}", items.len()));
    }
    let objects = items.iter().filter_map(|item| item.parsed(serving::object)).collect();
    let idle_timeout = table.get("idle-timeout").and_then(|item| serving::optional(&item));
    Some(OnDemand { objects, idle_timeout })
}

fn conditions(table: &Table<'_>) -> Vec<Condition> {
    const KEYS: [&str; 3] = ["path-exists", "kernel-argument", "virtualization"];
    table.refuse_others(&KEYS, |_| None);
    let mut conditions = Vec::new();
    for key in KEYS {
        for item in one_or_more(table, key) {
            let Some(written) = item.text() else { continue };
            let (text, negate) =
                written.strip_prefix('!').map_or((written, false), |rest| (rest, true));
            if text.is_empty() {
                item.wrong("nothing to look for is given");
                continue;
            }
            conditions.push(match key {
                "path-exists" if !text.starts_with('/') => {
                    item.wrong(format!("{text:?} is not an absolute path"));
                    continue;
                }
                "path-exists" => Condition::PathExists { path: text.into(), negate },
                "kernel-argument" => Condition::KernelArgument { argument: text.into(), negate },
                _ => Condition::Virtualization { kind: text.into(), negate },
            });
        }
    }
    conditions
}

/// A text, or a list of texts.
fn one_or_more<'d>(table: &Table<'d>, key: &str) -> Vec<Item<'d>> {
    match table.get(key) {
        Some(item) if item.is_text() => vec![item],
        Some(item) => item.list().unwrap_or_default(),
        None => Vec::new(),
    }
}

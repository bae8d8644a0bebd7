//! One trigger: which events it is for, and what it wants done. Read from procd's array or from a table of ours; anything else
//! is no trigger.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::language::{self, Command, Run};
use crate::settings::{Service, units};

/// Most triggers of one service, those of its instances included.
const TRIGGERS_MAX: usize = 256;
/// procd waits at least so long.
const DELAY_MIN: Duration = Duration::from_millis(1);
/// The keys of our own form that compare a text of the event's data.
pub(crate) const COMPARED: [&str; 2] = ["package", "interface"];

/// What is to be done; two of one kind are done once.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// This command line.
    Run(Vec<String>),
    Reload,
    Restart,
    Signal(i32),
}

/// A trigger, ready to be looked at.
#[derive(Debug)]
pub(super) struct Trigger {
    event: Pattern,
    delay: Duration,
    then: Then,
}

#[derive(Debug)]
enum Then {
    Script(Command),
    /// Where the event's data says so.
    Work {
        compared: Vec<(String, String)>,
        work: Work,
    },
}

/// Which types of events are meant.
#[derive(Debug)]
enum Pattern {
    Exact(String),
    /// What stands before the first `.*`, however it goes on: procd's own way.
    Prefix(String),
    /// Part by part.
    Strict(Vec<String>),
}

impl Pattern {
    fn new(text: &str, strict: bool) -> Self {
        match text.split_once(".*") {
            _ if strict => Self::Strict(text.split('.').map(str::to_owned).collect()),
            Some((prefix, _)) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text.to_owned()),
        }
    }

    fn is_for(&self, kind: &str) -> bool {
        match self {
            Self::Exact(text) => text == kind,
            Self::Prefix(prefix) => kind.starts_with(prefix),
            Self::Strict(pattern) => matches_by_part(pattern, kind),
        }
    }
}

/// `*` is exactly one part between dots, at the end one or more.
fn matches_by_part(pattern: &[String], kind: &str) -> bool {
    let Some((last, first)) = pattern.split_last() else { return false };
    let mut parts = kind.split('.');
    let fits = |pattern: &String, part: Option<&str>| {
        part.is_some_and(|part| if pattern == "*" { !part.is_empty() } else { pattern == part })
    };
    if !first.iter().all(|pattern| fits(pattern, parts.next())) {
        return false;
    }
    fits(last, parts.next()) && (last == "*" || parts.next().is_none())
}

/// What a trigger wants at an event.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) works: Vec<Work>,
    pub(super) mistakes: Vec<String>,
}

impl Trigger {
    /// `None` where it is none.
    fn read(given: &Value) -> Option<Self> {
        match given {
            Value::Array(items) => Self::of_procd(items),
            Value::Object(table) => Self::of_table(table),
            _ => None,
        }
    }

    /// `[event, script, milliseconds]`.
    fn of_procd(items: &[Value]) -> Option<Self> {
        let event = items.first()?.as_str()?;
        let script = items.get(1).filter(|script| script.is_array())?;
        let delay = items.get(2).and_then(Value::as_i64).and_then(|ms| i32::try_from(ms).ok());
        let delay = u64::try_from(delay.unwrap_or(0)).unwrap_or(0);
        Some(Self {
            event: Pattern::new(event, false),
            delay: Duration::from_millis(delay).max(DELAY_MIN),
            then: Then::Script(language::compile(script)),
        })
    }

    /// `{ event, package, interface, strict, delay }` and one of `action`, `signal` and `run`.
    fn of_table(table: &Map<String, Value>) -> Option<Self> {
        let text = |key: &str| table.get(key).and_then(Value::as_str);
        let strict = table.get("strict").and_then(Value::as_bool).unwrap_or(false);
        let compared =
            COMPARED.into_iter().filter_map(|key| Some((key.to_owned(), text(key)?.to_owned())));
        Some(Self {
            event: Pattern::new(text("event")?, strict),
            delay: text("delay").and_then(|text| units::duration(text).ok()).unwrap_or_default(),
            then: Then::Work { compared: compared.collect(), work: work_of(table)? },
        })
    }

    pub(super) fn delay(&self) -> Duration {
        self.delay
    }

    pub(super) fn is_for(&self, kind: &str) -> bool {
        self.event.is_for(kind)
    }

    /// What it wants done, of an event that it is for.
    pub(super) fn look_at(&self, data: &Map<String, Value>, is_folder: fn(&str) -> bool) -> Wanted {
        match &self.then {
            Then::Script(program) => {
                let mut run = Run { data, is_folder, commands: Vec::new(), mistakes: Vec::new() };
                run.run(program);
                let works = run.commands.into_iter().map(Work::Run).collect();
                Wanted { works, mistakes: run.mistakes }
            }
            Then::Work { compared, work } => {
                let says = |(key, text): &(String, String)| {
                    data.get(key).and_then(Value::as_str) == Some(text)
                };
                let works = if compared.iter().all(says) { vec![work.clone()] } else { Vec::new() };
                Wanted { works, mistakes: Vec::new() }
            }
        }
    }
}

fn work_of(table: &Map<String, Value>) -> Option<Work> {
    if let Some(command) = table.get("run") {
        let words: Option<Vec<String>> =
            command.as_array()?.iter().map(|word| word.as_str().map(str::to_owned)).collect();
        let words = words.filter(|words| !words.is_empty())?;
        let length: usize = words.iter().map(|word| word.len() + 1).sum();
        return (length <= language::COMMAND_MAX).then_some(Work::Run(words));
    }
    if let Some(signal) = table.get("signal") {
        let number = signal.as_i64().and_then(|number| units::signal_number(number).ok());
        let named = || signal.as_str().and_then(|name| units::signal(name).ok());
        return number.or_else(named).map(Work::Signal);
    }
    match table.get("action").and_then(Value::as_str) {
        None | Some("reload") => Some(Work::Reload),
        Some("restart") => Some(Work::Restart),
        Some(_) => None,
    }
}

/// All triggers of a service and of its instances, in the order in which they were registered.
pub(super) fn read_all(service: &Service) -> Vec<Trigger> {
    let of_instances = service
        .instances
        .values()
        .filter_map(|instance| instance.shown.get("triggers").and_then(Value::as_array));
    let given = service.triggers.iter().chain(of_instances.flatten());
    given.take(TRIGGERS_MAX).filter_map(Trigger::read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn is_for(pattern: &str, strict: bool, kind: &str) -> bool {
        Pattern::new(pattern, strict).is_for(kind)
    }

    #[test]
    fn an_event_matches_exactly_or_by_what_stands_before_the_star() {
        assert!(is_for("config.change", false, "config.change"));
        assert!(!is_for("config.change", false, "config.changed"));
        assert!(is_for("interface.*", false, "interface.up"));
        assert!(is_for("interface.*", false, "interfaceXY"));
        assert!(is_for("a.*.up", false, "a.b.down"));
        assert!(!is_for("interface.*", false, "inter"));
    }

    #[test]
    fn a_strict_match_goes_part_by_part() {
        assert!(is_for("interface.*", true, "interface.up"));
        assert!(is_for("interface.*", true, "interface.lan.up"));
        assert!(!is_for("interface.*", true, "interfaceXY"));
        assert!(is_for("a.*.up", true, "a.b.up"));
        assert!(!is_for("a.*.up", true, "a.b.down"));
        assert!(!is_for("a.*.up", true, "a.b.c.up"));
        assert!(!is_for("a+", true, "aa"));
    }

    #[test]
    fn what_lacks_a_part_is_no_trigger() {
        for given in [
            json!(["e"]),
            json!([1, []]),
            json!(["e", "x"]),
            json!("e"),
            json!({}),
            json!({ "event": "e", "action": "dance" }),
            json!({ "event": "e", "run": [] }),
            json!({ "event": "e", "signal": "NOTHING" }),
        ] {
            assert!(Trigger::read(&given).is_none(), "{given}");
        }
        let late = |given| Trigger::read(&given).unwrap().delay().as_millis();
        assert_eq!(late(json!(["e", [], 1000])), 1000);
        assert_eq!(late(json!(["e", [], -5])), 1);
        assert_eq!(late(json!(["e", [], 1u64 << 40])), 1);
        assert_eq!(late(json!({ "event": "e", "delay": "2s" })), 2000);
    }
}

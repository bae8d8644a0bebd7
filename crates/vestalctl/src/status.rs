//! `vestalctl status`: one line an instance, from what the supervisor lists and what /proc says.

use std::time::Duration;

use endpoint::{CallError, Code};
use protocol::{config::Invalid, objects::nearest, system::Reset};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    bus::{Bus, How},
    config,
    error::{Error, Exit},
    heartbeat,
    output::Output,
    process,
    table::{Cell, Paint, Table, clean},
    units,
};

/// One line. What is not known is left out of JSON and shown as `-`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<String>,
    pub(crate) state: String,
    pub(crate) running: bool,
    pub(crate) ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uptime_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) restarts: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) health: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_ms: Option<u64>,
    /// What it says of itself, or why it isn't running.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) note: String,
}

/// Prints the status of all services, or of one.
pub(crate) async fn status(bus: &Bus, out: Output, name: Option<&str>) -> Result<(), Error> {
    let listed = bus.call("service", "list", &json!({}), How::READ).await?;
    let Value::Object(services) = listed else {
        return Err(Error::failed("the supervisor's list of services is no table; is it newer?"));
    };
    let report = match bus.call("service", "report", &json!({}), How::READ).await {
        Ok(report) => report,
        // An older supervisor reports nothing; its services are worth showing all the same.
        Err(CallError::Refused(failure)) if failure.code == Code::UnknownMethod => Value::Null,
        Err(error) => return Err(error.into()),
    };
    if let Some(name) = name.filter(|name| !services.contains_key(*name)) {
        return Err(unknown_service(name, &services, &report));
    }
    let reporting = heartbeat::states(bus, &services).await;
    let rows: Vec<Row> = services
        .iter()
        .filter(|(service, _)| name.is_none_or(|name| name == *service))
        .flat_map(|(service, listed)| rows(service, listed))
        .map(|row| reported(row, &reporting))
        .map(measured)
        .collect();
    let invalid: Vec<Invalid> = services
        .iter()
        .filter(|(service, _)| name.is_none_or(|name| name == *service))
        .flat_map(|(_, listed)| invalid(listed))
        .collect();
    if out.json {
        let mut all = Map::new();
        all.insert("services".to_owned(), json!(rows));
        if let Value::Object(report) = report {
            all.extend(report);
        }
        if !invalid.is_empty() {
            all.insert("invalid".to_owned(), json!(invalid));
        }
        return Output::json(&all);
    }
    out.table(&table(&rows))?;
    Output::text(&footer(&report, &invalid, name))
}

/// Values for which a reload was refused. What is not understood is of a newer supervisor, and left out.
fn invalid(listed: &Value) -> impl Iterator<Item = Invalid> {
    let found = listed["invalid"].as_array().into_iter().flatten();
    found.filter_map(|one| serde_json::from_value(one.clone()).ok())
}

/// A service that isn't there may have a definition that was left out.
fn unknown_service(name: &str, services: &Map<String, Value>, report: &Value) -> Error {
    if let Some(problem) = problems(report, Some(name)).next() {
        let text = format!("there is no service {name:?}, because of its definition: {problem}");
        return Error::new(Exit::NotFound, text);
    }
    let near = nearest(name, services.keys().map(String::as_str));
    let hint = near.map_or_else(
        || "`vestalctl status` shows all".to_owned(),
        |near| format!("did you mean {near:?}?"),
    );
    Error::new(Exit::NotFound, format!("there is no service {name:?}; {hint}"))
}

/// The instances of a service; one line without an instance where it has none.
pub(crate) fn rows(service: &str, listed: &Value) -> Vec<Row> {
    let row = |instance: Option<&String>, listed: &Value| {
        let text = |key: &str| listed[key].as_str().unwrap_or_default().to_owned();
        let running = listed["running"] == true;
        let state = match text("state") {
            state if !state.is_empty() => state,
            _ if instance.is_none() => "empty".to_owned(),
            _ if running => "running".to_owned(),
            _ => "stopped".to_owned(),
        };
        Row {
            service: service.to_owned(),
            instance: instance.cloned(),
            note: note(&state, listed),
            state,
            running,
            ready: listed["ready"] == true,
            pid: listed["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()),
            uptime_ms: listed["uptime_ms"].as_u64(),
            restarts: listed["restarts"].as_u64(),
            health: text("health"),
            ..Row::default()
        }
    };
    match listed["instances"].as_object() {
        Some(instances) if !instances.is_empty() => {
            instances.iter().map(|(name, listed)| row(Some(name), listed)).collect()
        }
        _ => vec![row(None, &Value::Null)],
    }
}

/// What it says of itself while it is up; else what is wrong with it, or how it ended.
fn note(state: &str, listed: &Value) -> String {
    let text = |key: &str| listed[key].as_str().unwrap_or_default();
    let errors: Vec<&str> =
        listed["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match state {
        "ready" | "reloading" | "running" => text("status").to_owned(),
        _ if !errors.is_empty() => errors.join("; "),
        "starting" if !text("status").is_empty() => text("status").to_owned(),
        _ => text("last_exit").to_owned(),
    }
}

/// Adds what the heartbeat broker knows, where the supervisor knows no more than that somebody watches.
fn reported(mut row: Row, reporting: &heartbeat::States) -> Row {
    if row.health == "watched"
        && let Some(state) = row
            .instance
            .as_ref()
            .and_then(|instance| reporting.get(&(row.service.clone(), instance.clone())))
    {
        row.health.clone_from(state);
    }
    row
}

/// Adds what /proc knows.
fn measured(mut row: Row) -> Row {
    if let Some(usage) = row.pid.and_then(process::usage) {
        row.memory_bytes = Some(usage.memory);
        row.cpu_ms = u64::try_from(usage.processor.as_millis()).ok();
    }
    row
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "SERVICE",
        "INSTANCE",
        "STATE",
        ">PID",
        ">UPTIME",
        ">RESTARTS",
        "HEALTH",
        ">MEMORY",
        ">CPU",
        "NOTE",
    ]);
    let dash = |known: Option<String>| Cell::from(known.unwrap_or_else(|| "-".to_owned()));
    let milliseconds = |number: u64| Duration::from_millis(number);
    for row in rows {
        table.row([
            Cell::from(&row.service),
            dash(row.instance.clone()),
            Cell::painted(&row.state, paint(&row.state)),
            dash(row.pid.map(|pid| pid.to_string())),
            dash(row.uptime_ms.map(|time| units::duration(milliseconds(time)))),
            dash(row.restarts.map(|restarts| restarts.to_string())),
            dash(Some(row.health.clone()).filter(|health| !health.is_empty())),
            dash(row.memory_bytes.map(units::size)),
            dash(row.cpu_ms.map(|time| units::processor_time(milliseconds(time)))),
            Cell::from(&row.note),
        ]);
    }
    table
}

/// The colour of a state; one of a newer supervisor has none.
pub(crate) fn paint(state: &str) -> Paint {
    match state {
        "ready" | "running" | "done" => Paint::Good,
        "starting" | "stopping" | "waiting" | "checking" | "pausing" | "reloading" | "frozen" => {
            Paint::Waiting
        }
        "held" | "failed" | "unkillable" => Paint::Bad,
        _ => Paint::Plain,
    }
}

/// What is wrong with the definitions: all, or those in the file of one service.
fn problems<'r>(report: &'r Value, name: Option<&str>) -> impl Iterator<Item = &'r str> {
    let file = name.map(|name| format!("/{name}.toml:"));
    let problems = report["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
    problems.filter(move |problem| file.as_ref().is_none_or(|file| problem.contains(file)))
}

/// Why services run on with the configuration they had; what is wrong with definitions; and, where all services are
/// shown, what of the suite is not there.
fn footer(report: &Value, invalid: &[Invalid], name: Option<&str>) -> String {
    let refused = invalid.iter().map(|one| {
        format!("not reloaded: {}: {}\n", clean(one.service.as_str()), clean(&config::refused(one)))
    });
    let whole = report.as_object().filter(|_| name.is_none());
    let told = whole.into_iter().flat_map(|report| [rescue(report), reset(report)]);
    let problems = problems(report, name).map(|problem| format!("problem: {}\n", clean(problem)));
    let mut text: String = told.flatten().chain(refused).chain(problems).collect();
    // Each begins with the daemon's name; why is the same for all, and stands in the JSON.
    let skipped = report["skipped"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let skipped: Vec<_> = skipped
        .filter(|_| name.is_none())
        .map(|line| clean(line.split(':').next().unwrap_or_default()))
        .collect();
    if !skipped.is_empty() {
        text.push_str(&format!("not installed: {}\n", skipped.join(", ")));
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

/// Only the rescue set runs.
fn rescue(report: &Map<String, Value>) -> Option<String> {
    let reason = report.get("rescue")?.as_str()?;
    Some(format!("rescue: only the rescue set runs, until the next reboot: {}\n", clean(reason)))
}

/// Why the boot before this one ended, where nobody had wanted that.
fn reset(report: &Map<String, Value>) -> Option<String> {
    let reset: Reset = serde_json::from_value(report.get("reset")?.clone()).ok()?;
    let Reset { cause, detail, .. } = reset;
    cause.is_bad().then(|| format!("last reset: {}: {}\n", cause.word(), clean(&detail)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instance_has_a_line_and_missing_keys_are_dashes() {
        let listed = json!({"instances": {
            "a": {"running": true, "pid": 7, "state": "ready", "ready": true, "uptime_ms": 250_000,
                "restarts": 2, "health": "ok", "status": "12 clients"},
            "b": {"running": false},
        }});
        let rows = rows("web", &listed);
        let text = table(&rows).render(false);
        assert_eq!(
            text,
            "SERVICE  INSTANCE  STATE    PID  UPTIME  RESTARTS  HEALTH  MEMORY  CPU  NOTE\n\
             web      a         ready      7   4m10s         2  ok           -    -  12 clients\n\
             web      b         stopped    -       -         -  -            -    -\n"
        );
    }

    #[test]
    fn a_service_without_instances_has_a_line_too() {
        let rows = rows("idle", &json!({"source": "message"}));
        assert_eq!((rows.len(), &*rows[0].state, &rows[0].instance), (1, "empty", &None));
    }

    #[test]
    fn who_is_down_shows_why_and_who_is_up_what_it_says() {
        let listed = json!({"last_exit": "signal KILL", "status": "busy"});
        assert_eq!(note("held", &listed), "signal KILL");
        assert_eq!(note("ready", &listed), "busy");
        assert_eq!(note("starting", &listed), "busy");
        assert_eq!(
            note("failed", &json!({"errors": ["no command", "no user"]})),
            "no command; no user"
        );
    }

    #[test]
    fn problems_stand_below_the_table() {
        let report = json!({
            "problems": ["/s/a.toml:4: unknown key", "/s/b.toml:1: no command"],
            "skipped": ["log: no binary", "config: no binary"],
        });
        let all = "\nproblem: /s/a.toml:4: unknown key\nproblem: /s/b.toml:1: no command\n\
                   not installed: log, config\n";
        assert_eq!(footer(&report, &[], None), all);
        assert_eq!(footer(&report, &[], Some("b")), "\nproblem: /s/b.toml:1: no command\n");
        assert_eq!(footer(&report, &[], Some("c")), "");
        assert_eq!(footer(&Value::Null, &[], None), "");
    }

    #[test]
    fn a_reset_that_nobody_wanted_and_the_rescue_set_are_told() {
        let reset = |cause| json!({ "reset": { "cause": cause, "detail": "reboot: a reason" } });
        for quiet in ["ordered", "first"] {
            assert_eq!(footer(&reset(quiet), &[], None), "", "{quiet}");
        }
        let told = footer(&reset("critical"), &[], None);
        assert_eq!(told, "\nlast reset: critical: reboot: a reason\n");
        assert_eq!(footer(&reset("critical"), &[], Some("web")), "");
        let rescue = json!({ "rescue": "web crashed\x1b[31m" });
        let text =
            "\nrescue: only the rescue set runs, until the next reboot: web crashed\\u{1b}[31m\n";
        assert_eq!(footer(&rescue, &[], None), text);
    }

    #[test]
    fn a_refused_reload_is_told_with_what_is_wrong() {
        let listed = json!({ "invalid": [
            { "service": "hello", "package": "hello", "file": "/etc/config/hello", "section": "globe",
                "option": "delay", "rule": "uinteger(1:200)", "text": "1 to 200" },
            { "of": "a newer supervisor" },
        ]});
        let invalid: Vec<_> = invalid(&listed).collect();
        assert_eq!(
            footer(&Value::Null, &invalid, None),
            "\nnot reloaded: hello: /etc/config/hello: hello.globe.delay: is missing for uinteger(1:200): 1 to 200\n"
        );
    }

    #[test]
    fn a_service_whose_definition_is_bad_is_not_just_unknown() {
        let report = json!({"problems": ["/s/a.toml:4: unknown key \"x\""]});
        let error = unknown_service("a", &Map::new(), &report);
        assert_eq!(error.exit, Exit::NotFound);
        assert!(error.text.ends_with("its definition: /s/a.toml:4: unknown key \"x\""));
    }
}

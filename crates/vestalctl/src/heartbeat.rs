//! `vestalctl heartbeat list`: who shows that he is alive. Applications that report to the broker, and instances that send
//! `WATCHDOG=1` to the supervisor, in one list.

use std::{collections::BTreeMap, time::Duration};

use endpoint::CallError;
use protocol::heartbeat::State;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    bus::{Bus, How},
    error::Error,
    output::Output,
    table::{Cell, Paint, Table},
    units,
};

/// How long `status`, which can do without, waits for the broker.
const GLANCE: How = How { within: Duration::from_secs(1), safe: true };

/// How applications stand, by service and instance.
pub(crate) type States = BTreeMap<(String, String), String>;

/// One line. What is not known is left out of JSON and shown as `-`.
#[derive(Debug, Serialize)]
struct Row {
    /// `heartbeat` or `watchdog`.
    sign: &'static str,
    /// What the broker says; of a watchdog only some of it.
    #[serde(flatten)]
    known: Value,
}

/// Prints all rows, the broker's first.
pub(crate) async fn list(bus: &Bus, out: Output) -> Result<(), Error> {
    let broker = bus.call("heartbeat", "list", &json!({}), How::READ).await;
    let services = bus.call("service", "list", &json!({}), How::READ).await;
    let (reporting, services) = match (broker, services) {
        (Err(error), Err(_)) => return Err(error.into()),
        (broker, services) => (broker, services),
    };
    let mut rows: Vec<Row> = Vec::new();
    if let Ok(Value::Array(reporting)) = &reporting {
        rows.extend(reporting.iter().map(|row| Row { sign: "heartbeat", known: row.clone() }));
    }
    if let Ok(Value::Object(services)) = &services {
        rows.extend(watchdogs(services));
    }
    if out.json {
        Output::json(&rows)?;
    } else {
        out.table(&table(&rows))?;
    }
    // Half a list is better than none; what is missing is told.
    for (who, error) in [("broker", reporting.err()), ("supervisor", services.err())] {
        if let Some(error) = error {
            return Err(half(who, error));
        }
    }
    Ok(())
}

fn half(who: &str, error: CallError) -> Error {
    let mut error = Error::from(error);
    error.text = format!("the {who}'s part is missing: {}", error.text);
    error
}

/// What `status` shows of applications; nothing where the broker doesn't answer at once, or nobody reports.
pub(crate) async fn states(bus: &Bus, services: &Map<String, Value>) -> States {
    let instances = services.values().filter_map(|service| service["instances"].as_object());
    let mut instances = instances.flat_map(Map::values);
    if !instances.any(|instance| instance["heartbeat"].is_object()) {
        return States::new();
    }
    let Ok(Value::Array(rows)) = bus.call("heartbeat", "list", &json!({}), GLANCE).await else {
        return States::new();
    };
    let of = |row: &Value| {
        let text = |key: &str| Some(row[key].as_str()?.to_owned());
        Some(((text("service")?, text("instance")?), text("state")?))
    };
    rows.iter().filter_map(of).collect()
}

/// Instances that send `WATCHDOG=1`, in the broker's words.
fn watchdogs(services: &Map<String, Value>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (service, listed) in services {
        for (instance, listed) in listed["instances"].as_object().into_iter().flatten() {
            let Some(watched) = listed["watched"].as_object() else { continue };
            let age = watched.get("age_ms").and_then(Value::as_u64);
            let state = match (age, listed["health"] == "missed") {
                (None, _) if listed["running"] == true => State::Expected,
                (None, _) => State::Gone,
                (Some(_), true) => State::Missed,
                (Some(_), false) => State::Alive,
            };
            let mut known = json!({
                "service": service,
                "instance": instance,
                "generation": listed["generation"],
                "state": state,
                "period_ms": watched.get("period_ms"),
                "misses": 1,
            });
            for (key, value) in [("pid", listed.get("pid")), ("age_ms", watched.get("age_ms"))] {
                if let Some(value) = value {
                    known[key] = value.clone();
                }
            }
            rows.push(Row { sign: "watchdog", known });
        }
    }
    rows
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        ">APP", "SERVICE", "INSTANCE", "STATE", ">PID", ">AGE", ">PERIOD", ">MISSES", ">RTT",
        ">JITTER", ">LOST", ">PHI", "SIGN",
    ]);
    let dash = |known: Option<String>| Cell::from(known.unwrap_or_else(|| "-".to_owned()));
    for Row { sign, known } in rows {
        let text = |key: &str| known[key].as_str().map(ToOwned::to_owned);
        let number = |key: &str| known[key].as_u64();
        let state = text("state").unwrap_or_default();
        let sign = match known["authenticated"] == false {
            true => format!("{sign}, unauthenticated"),
            false => (*sign).to_owned(),
        };
        table.row([
            dash(known["app_id"].as_i64().map(|id| id.to_string())),
            dash(text("service")),
            dash(text("instance")),
            Cell::painted(&state, paint(&state)),
            dash(number("pid").map(|pid| pid.to_string())),
            dash(number("age_ms").map(milliseconds)),
            dash(number("period_ms").map(milliseconds)),
            dash(number("misses").map(|misses| misses.to_string())),
            dash(number("round_trip_us").map(microseconds)),
            dash(number("jitter_us").map(microseconds)),
            dash(number("retransmitted").map(|lost| lost.to_string())),
            dash(known["phi"].as_f64().map(|phi| format!("{phi:.1}"))),
            sign.into(),
        ]);
    }
    table
}

fn paint(state: &str) -> Paint {
    match state {
        "alive" | "registered" | "recovered" => Paint::Good,
        "expected" | "late" => Paint::Waiting,
        "missed" => Paint::Bad,
        _ => Paint::Plain,
    }
}

/// `30ms`, `1.2s`, and from a minute on as everywhere.
fn milliseconds(time: u64) -> String {
    match time {
        0..1000 => format!("{time}ms"),
        1000..60_000 => format!("{}.{}s", time / 1000, time % 1000 / 100),
        _ => units::duration(Duration::from_millis(time)),
    }
}

/// `80us`, `1.2ms`.
fn microseconds(time: u64) -> String {
    match time {
        0..1000 => format!("{time}us"),
        1000..10_000 => format!("{}.{}ms", time / 1000, time % 1000 / 100),
        _ => milliseconds(time / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Map<String, Value> {
        let listed = json!({
            "web": { "instances": {
                "a": {
                    "watched": { "period_ms": 30_000, "age_ms": 1234 },
                    "pid": 9, "generation": 2, "health": "ok",
                },
                "b": { "watched": { "period_ms": 500, "age_ms": 900 }, "health": "missed" },
                "c": { "watched": { "period_ms": 500 } },
                "d": {},
            } },
            "none": {},
        });
        listed.as_object().unwrap().clone()
    }

    #[test]
    fn watchdogs_and_heartbeats_stand_in_one_list() {
        let heartbeat = json!({
            "app_id": -7, "service": "cam", "instance": "front", "state": "late", "authenticated": true,
            "pid": 12, "age_ms": 30, "period_ms": 60_000, "misses": 3, "round_trip_us": 80,
            "jitter_us": 1250, "retransmitted": 4, "phi": 0.31,
        });
        let mut rows = vec![Row { sign: "heartbeat", known: heartbeat }];
        rows.extend(watchdogs(&services()));
        let text = table(&rows).render(false);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1].join(" "),
            "-7 cam front late 12 30ms 1m00s 3 80us 1.2ms 4 0.3 heartbeat"
        );
        assert_eq!(lines[2].join(" "), "- web a alive 9 1.2s 30.0s 1 - - - - watchdog");
        assert_eq!(lines[3].join(" "), "- web b missed - 900ms 500ms 1 - - - - watchdog");
        assert_eq!(lines[4].join(" "), "- web c gone - - 500ms 1 - - - - watchdog");
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn in_json_a_row_is_the_brokers_with_its_sign() {
        let json = json!(watchdogs(&services())[0]);
        assert_eq!((&json["sign"], &json["age_ms"]), (&json!("watchdog"), &json!(1234)));
    }
}

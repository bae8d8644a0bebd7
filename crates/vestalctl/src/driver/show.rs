//! What the manager and the hosts answer, for people.

use std::fmt::Write as _;

use protocol::driver::{
    Field, Function, Mode, Outcome, Report, Settled, Standing, Status, Version,
};
use serde_json::Value;

use crate::table::{Cell, Paint, Table, clean};

/// Hexadecimal digits that tell objects apart for people.
const SHORT: usize = 12;
/// Longest value of the state on one line.
const VALUE_MAX: usize = 96;

pub(super) fn list(list: &[Status]) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        "VERSION",
        "BEFORE",
        ">PID",
        ">OPEN",
        ">CALLS",
        ">ERRORS",
        ">UPGRADES",
        ">BACK",
        "DEVICE",
    ]);
    for status in list {
        let (name, paint) = standing(status.standing);
        table.row([
            (&status.name).into(),
            Cell::painted(name, paint),
            version(&status.version).into(),
            status.previous.as_ref().map(version).unwrap_or_default().into(),
            status.pid.map(|pid| pid.to_string()).unwrap_or_default().into(),
            status.handles.to_string().into(),
            status.calls.to_string().into(),
            status.errors.to_string().into(),
            status.upgrades.to_string().into(),
            status.rollbacks.to_string().into(),
            status.device.as_deref().unwrap_or_default().into(),
        ]);
    }
    table
}

fn standing(standing: Standing) -> (&'static str, Paint) {
    match standing {
        Standing::Down => ("down", Paint::Bad),
        Standing::Starting => ("starting", Paint::Waiting),
        Standing::Serving => ("serving", Paint::Good),
        Standing::Probation => ("probation", Paint::Waiting),
        Standing::Unknown => ("unknown", Paint::Waiting),
    }
}

/// What the table has no room for: what falls short, and how the last upgrade ended where it did not end well.
pub(super) fn remarks(list: &[Status]) -> String {
    let mut text = String::new();
    for status in list {
        let rolled_back = status.last.as_ref().filter(|last| last.outcome == Outcome::RolledBack);
        let last = rolled_back.map(settled);
        for note in last.iter().chain(&status.notes) {
            let _ = writeln!(text, "{}: {}", clean(&status.name), clean(note));
        }
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

/// Its name for people; what has none is told by its hash.
pub(super) fn version(version: &Version) -> String {
    let short = version.hash.get(..SHORT).unwrap_or(&version.hash);
    match (version.version.is_empty(), short.is_empty()) {
        (false, _) => version.version.clone(),
        (true, false) => short.to_owned(),
        (true, true) => "?".to_owned(),
    }
}

pub(super) fn report(report: &Report) -> String {
    let (from, to) = (clean(&version(&report.from)), clean(&version(&report.to)));
    if report.from == report.to && report.pause_us == 0 {
        return format!("{}: {to} serves already: nothing to do\n", clean(&report.name));
    }
    let way = match report.mode {
        Mode::Table => "by the table",
        Mode::Jump => "by jumps",
    };
    let mut text = format!("{}: {from} -> {to} {way}\n", clean(&report.name));
    let _ = writeln!(
        text,
        "  calls waited {} at most: {} for those inside, {} for the state; {} were held",
        micros(report.pause_us),
        micros(report.drain_us),
        micros(report.state_us),
        report.held
    );
    if report.probation_ms > 0 {
        let _ = writeln!(text, "  it has {} ms to prove itself", report.probation_ms);
    }
    for note in &report.notes {
        let _ = writeln!(text, "  {}", clean(note));
    }
    text
}

/// How a probation ended, in one sentence.
pub(super) fn settled(settled: &Settled) -> String {
    let (tried, serves) = (version(&settled.tried), version(&settled.serves));
    match settled.outcome {
        Outcome::Confirmed => format!("{serves} proved itself and is kept"),
        Outcome::RolledBack => {
            let reason = settled.reason.as_deref().unwrap_or("see vestalctl log driver");
            format!("{tried} was rolled back, {serves} serves: {reason}")
        }
        Outcome::Unknown => {
            format!("{tried} ended in a way that this program does not know; {serves} serves")
        }
    }
}

pub(super) fn map(functions: &[Function]) -> Table {
    let mut table =
        Table::new(&["FUNCTION", "ADDRESS", ">SIZE", "ROOM", "OPERATION", "LEADS TO", "HASH"]);
    for function in functions {
        let room = match &*function.entry {
            "nops" | "code" => Cell::painted(&function.entry, Paint::Good),
            why => Cell::painted(why, Paint::Waiting),
        };
        table.row([
            (&function.name).into(),
            format!("{:#x}", function.address).into(),
            function.size.to_string().into(),
            room,
            function.operation.as_deref().unwrap_or_default().into(),
            function.redirected.as_deref().unwrap_or_default().into(),
            function.hash.get(..SHORT).unwrap_or_default().into(),
        ]);
    }
    table
}

/// A line a field: its name, or its number where it has none.
pub(super) fn state(fields: &[Field]) -> String {
    let name = |field: &Field| field.name.clone().unwrap_or_else(|| format!("field {}", field.id));
    let width = fields.iter().map(|field| clean(&name(field)).chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for field in fields {
        let _ = writeln!(text, "{:width$}  {}", clean(&name(field)), value(&field.value));
    }
    text
}

fn value(value: &Value) -> String {
    let text = match value {
        Value::String(text) => clean(text),
        other => other.to_string(),
    };
    let length = text.chars().count();
    if length <= VALUE_MAX {
        return text;
    }
    let begin: String = text.chars().take(VALUE_MAX).collect();
    format!("{begin}... ({length} characters; --json has all)")
}

/// `812 us`, `1.204 ms`, `2.000 s`.
pub(super) fn micros(us: u64) -> String {
    match us {
        0..1000 => format!("{us} us"),
        1000..1_000_000 => format!("{}.{:03} ms", us / 1000, us % 1000),
        _ => format!("{}.{:03} s", us / 1_000_000, us / 1000 % 1000),
    }
}

/// `812 ns`, `3.4 us`, `1.204 ms`.
pub(super) fn nanos(ns: u64) -> String {
    match ns {
        0..1000 => format!("{ns} ns"),
        1000..1_000_000 => format!("{}.{} us", ns / 1000, ns % 1000 / 100),
        _ => micros(ns / 1000),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(version: &str) -> Version {
        Version { version: version.to_owned(), ..Version::default() }
    }

    #[test]
    fn a_report_tells_how_long_calls_waited() {
        let told = report(&Report {
            name: "can0".to_owned(),
            from: of("1"),
            to: of("2"),
            pause_us: 1204,
            drain_us: 812,
            state_us: 30,
            held: 3,
            probation_ms: 30_000,
            notes: vec!["no real-time priority".to_owned()],
            ..Report::default()
        });
        assert_eq!(
            told,
            "can0: 1 -> 2 by the table\n  calls waited 1.204 ms at most: 812 us for those inside, 30 us for the state; \
             3 were held\n  it has 30000 ms to prove itself\n  no real-time priority\n"
        );
        let same =
            Report { name: "can0".to_owned(), from: of("1"), to: of("1"), ..Report::default() };
        assert!(report(&same).contains("nothing to do"));
    }

    #[test]
    fn what_did_not_end_well_is_below_the_table() {
        let last = Settled {
            outcome: Outcome::RolledBack,
            tried: of("2"),
            serves: of("1"),
            reason: Some("SIGSEGV in counter_write".to_owned()),
            ..Settled::default()
        };
        let status = Status {
            name: "can0".to_owned(),
            last: Some(last),
            notes: vec!["no /dev/cuse".to_owned()],
            ..Status::default()
        };
        assert_eq!(
            remarks(&[status]),
            "\ncan0: 2 was rolled back, 1 serves: SIGSEGV in counter_write\ncan0: no /dev/cuse\n"
        );
        assert_eq!(remarks(&[Status::default()]), "");
    }

    #[test]
    fn the_state_is_a_line_a_field_and_no_line_is_endless() {
        let field =
            |id, name: Option<&str>, value| Field { id, name: name.map(str::to_owned), value };
        let text = state(&[
            field(1, Some("calls"), json!(7)),
            field(2, None, json!("ab\ncd")),
            field(3, Some("long"), json!("x".repeat(500))),
        ]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["calls    7", "field 2  ab; cd"]);
        assert!(lines[2].ends_with("... (500 characters; --json has all)"), "{}", lines[2]);
    }

    #[test]
    fn times_have_the_unit_that_suits_them() {
        assert_eq!(
            [micros(999), micros(1204), micros(2_000_400)],
            ["999 us", "1.204 ms", "2.000 s"]
        );
        assert_eq!([nanos(7), nanos(3_456), nanos(1_204_000)], ["7 ns", "3.4 us", "1.204 ms"]);
    }
}

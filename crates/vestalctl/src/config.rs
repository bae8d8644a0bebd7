//! `vestalctl config ...`: from the command line to calls of the object `config`, and its answers for people.

use std::time::Duration;

use protocol::config::{
    Apply, Change, Differences, Entries, Invalid, Package, Reloaded, Revert, Selected, Shown,
    State, Status, Unreadable,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    bus::{Bus, How},
    cli::{ConfigCommand, Event},
    error::{Error, Exit},
    output::Output,
    table::{Cell, Paint, Table, clean},
    units,
};

/// Hexadecimal digits of a digest that tell files apart for people.
const DIGEST_SHOWN: usize = 12;

pub(crate) async fn run(bus: &Bus, out: Output, command: ConfigCommand) -> Result<(), Error> {
    let selected = |given: crate::cli::Selected| Selected { package: given.package };
    match command {
        ConfigCommand::Reload(given) => {
            let done = ask(bus, "reload", &selected(given), How::ONCE).await?;
            reloaded(out, &done, None)
        }
        ConfigCommand::Apply { confirm } => {
            let confirm_ms = u64::try_from(confirm.as_millis()).unwrap_or(u64::MAX);
            let done = ask(bus, "apply", &Apply { confirm_ms }, How::ONCE).await?;
            reloaded(out, &done, Some(confirm))
        }
        ConfigCommand::Confirm => done(bus, out, "confirm", &json!({})).await,
        ConfigCommand::Revert { package } => done(bus, out, "revert", &Revert { package }).await,
        ConfigCommand::Status => status(out, ask(bus, "status", &json!({}), How::READ).await?),
        ConfigCommand::Show(given) => {
            let one = given.package.is_some();
            let shown: Shown = ask(bus, "show", &selected(given), How::READ).await?;
            show(out, &shown, one)
        }
        ConfigCommand::Diff(given) => {
            let changes: Differences = ask(bus, "diff", &selected(given), How::READ).await?;
            if out.json {
                return Output::json(&changes);
            }
            Output::text(&changes.iter().map(change).collect::<String>())
        }
        ConfigCommand::Validate(given) => {
            validate(out, ask(bus, "validate", &selected(given), How::READ).await?)
        }
    }
}

async fn ask<A: Serialize, T: DeserializeOwned>(
    bus: &Bus,
    method: &str,
    args: &A,
    how: How,
) -> Result<T, Error> {
    Ok(bus.ask("config", method, args, how).await?)
}

/// Calls that have nothing to answer.
async fn done<A: Serialize>(bus: &Bus, out: Output, method: &str, args: &A) -> Result<(), Error> {
    let answer = bus.call("config", method, args, How::ONCE).await?;
    if out.json { Output::json(&answer) } else { out.answer(&answer) }
}

/// What was announced, and what can't be read: then it is not done as a whole.
fn reloaded(out: Output, done: &Reloaded, confirm: Option<Duration>) -> Result<(), Error> {
    if out.json {
        Output::json(done)?;
    } else {
        let mut text: String = done.announced.iter().map(change).collect();
        text.push_str(&format!("{} unchanged\n", done.unchanged));
        // Also where nothing changed yet: what is announced from now on is on trial.
        if let Some(confirm) = confirm {
            text.push_str(&format!(
                "goes back in {} unless `vestalctl config confirm` comes\n",
                units::duration(confirm)
            ));
        }
        Output::text(&text)?;
    }
    failures(&done.errors)
}

fn failures(errors: &[Unreadable]) -> Result<(), Error> {
    let texts: Vec<_> = errors.iter().map(unreadable).collect();
    if texts.is_empty() { Ok(()) } else { Err(Error::failed(texts.join("; "))) }
}

/// `FILE:LINE: what is wrong`
pub(crate) fn unreadable(error: &Unreadable) -> String {
    let line = error.line.map(|line| format!(":{line}")).unwrap_or_default();
    format!("{}{line}: {}", error.file, error.text)
}

/// A package, and below it the names by what became of them.
fn change(change: &Change) -> String {
    let gone = if change.digest.is_empty() { " (removed)" } else { "" };
    let mut text = format!("{}{gone}\n", clean(&change.package));
    let lists = [('~', &change.changed), ('+', &change.added), ('-', &change.removed)];
    for (sign, names) in lists {
        for name in names {
            text.push_str(&format!("  {sign} {}\n", clean(name)));
        }
    }
    if change.more {
        text.push_str("  and more\n");
    }
    text
}

fn status(out: Output, status: Status) -> Result<(), Error> {
    if out.json {
        return Output::json(&status);
    }
    let mut table = Table::new(&["PACKAGE", "STATE", "FORMAT", "DIGEST", "FILE"]);
    for package in &status.packages {
        table.row(row(package));
    }
    out.table(&table)?;
    let mode = serde_json::to_value(status.mode).unwrap_or_default();
    let mut text = format!("\nmode: {}\n", mode.as_str().unwrap_or("unknown"));
    if let Some(apply) = &status.apply {
        let packages = match apply.packages.is_empty() {
            true => "nothing yet".to_owned(),
            false => clean(&apply.packages.join(" ")),
        };
        text.push_str(&format!(
            "not confirmed: {packages}; goes back in {}\n",
            units::duration(Duration::from_millis(apply.left_ms))
        ));
    }
    for problem in &status.problems {
        text.push_str(&format!("problem: {}\n", clean(problem)));
    }
    for error in status.packages.iter().filter_map(|package| package.error.as_ref()) {
        text.push_str(&format!("error: {}\n", clean(&unreadable(error))));
    }
    Output::text(&text)
}

fn row(package: &Package) -> [Cell; 5] {
    let (state, paint) = match package.state {
        State::Current => ("current", Paint::Good),
        State::Changed => ("changed", Paint::Waiting),
        State::Error => ("error", Paint::Bad),
        State::Unknown => ("unknown", Paint::Plain),
    };
    let digest = package.digest.get(..DIGEST_SHOWN).unwrap_or(&package.digest);
    [
        (&package.package).into(),
        Cell::painted(state, paint),
        (&package.format).into(),
        if digest.is_empty() { "-" } else { digest }.into(),
        (&package.file).into(),
    ]
}

/// `NAME = VALUE`; with the package's name before it where there are several.
fn show(out: Output, shown: &Shown, one: bool) -> Result<(), Error> {
    if out.json {
        return Output::json(shown);
    }
    let mut text = String::new();
    for (package, entries) in shown {
        text.push_str(&entries_of(if one { None } else { Some(package) }, entries));
    }
    Output::text(&text)
}

fn entries_of(package: Option<&str>, entries: &Entries) -> String {
    let before = package.map(|package| format!("{package}.")).unwrap_or_default();
    let line = |(name, value): (&String, &Value)| {
        format!("{} = {}\n", clean(&format!("{before}{name}")), clean(&value.to_string()))
    };
    entries.iter().map(line).collect()
}

fn validate(out: Output, invalid: Vec<Invalid>) -> Result<(), Error> {
    if out.json {
        Output::json(&invalid)?;
    } else {
        let lines: String =
            invalid.iter().map(|one| format!("{}\n", clean(&refused(one)))).collect();
        Output::text(&lines)?;
    }
    match invalid.len() {
        0 => Ok(()),
        1 => Err(Error::failed("one value is not allowed")),
        count => Err(Error::failed(format!("{count} values are not allowed"))),
    }
}

/// A value that a rule does not allow, in a sentence.
pub(crate) fn refused(invalid: &Invalid) -> String {
    let Invalid { package, section, option, rule, .. } = invalid;
    let value = match &invalid.value {
        Some(value) => format!("{value:?} is not allowed by"),
        None => "is missing for".to_owned(),
    };
    let text = if invalid.text.is_empty() { String::new() } else { format!(": {}", invalid.text) };
    format!("{}: {package}.{section}.{option}: {value} {rule}{text}", invalid.file)
}

/// `vestalctl event`: what triggers wait for.
pub(crate) async fn event(bus: &Bus, out: Output, given: &Event) -> Result<(), Error> {
    let data = given.data.as_deref().unwrap_or("{}");
    let data: Value = serde_json::from_str(data)
        .map_err(|error| Error::usage(format!("the data of the event is no JSON: {error}")))?;
    if !data.is_object() {
        return Err(Error::new(
            Exit::Usage,
            "the data of an event is a JSON object, like {\"package\":\"hello\"}",
        ));
    }
    let args = json!({ "type": given.kind, "data": data });
    let answer = bus.call("service", "event", &args, How::ONCE).await?;
    out.answer(&answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_listed_by_what_became_of_them() {
        let changed = Change {
            package: "hello".into(),
            changed: vec!["globe.delay".into()],
            added: vec!["globe.new".into()],
            digest: "00".into(),
            ..Change::default()
        };
        assert_eq!(change(&changed), "hello\n  ~ globe.delay\n  + globe.new\n");
        let gone = Change { package: "hello".into(), more: true, ..Change::default() };
        assert_eq!(change(&gone), "hello (removed)\n  and more\n");
    }

    #[test]
    fn a_refused_value_is_told_with_its_rule() {
        let invalid = Invalid {
            service: protocol::name::Name::new("hello").unwrap(),
            package: "hello".into(),
            file: "/etc/config/hello".into(),
            section: "globe".into(),
            option: "delay".into(),
            rule: "uinteger(1:200)".into(),
            value: Some("500".into()),
            text: "allowed is a whole number from 1 to 200".into(),
        };
        assert_eq!(
            refused(&invalid),
            "/etc/config/hello: hello.globe.delay: \"500\" is not allowed by uinteger(1:200): \
             allowed is a whole number from 1 to 200"
        );
    }
}

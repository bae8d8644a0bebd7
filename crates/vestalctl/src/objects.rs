//! `vestalctl call` and `vestalctl list`: any object of the bus.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use endpoint::{ArgumentKind, CallError, Description};
use serde_json::{Map, Value, json};

use crate::{
    bus::{Bus, How},
    error::{Error, Exit},
    output::Output,
    table::clean,
};

/// How long a daemon may take to say what it serves; one that hangs does not hide the others.
const PATIENCE: Duration = Duration::from_secs(3);

/// One object, and where it is served.
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) description: Description,
    socket: PathBuf,
}

/// Calls a method and prints the answer: JSON, or raw bytes as they are.
pub(crate) async fn call(
    bus: &Bus,
    object: &str,
    method: &str,
    args: Option<&str>,
    within: Duration,
) -> Result<(), Error> {
    let args: Value = serde_json::from_str(args.unwrap_or("{}"))
        .map_err(|error| Error::usage(format!("the arguments are no JSON: {error}")))?;
    let result = bus.call_bytes(object, method, &args, How { within, safe: false }).await?;
    match serde_json::from_slice::<Value>(&result) {
        Ok(value) => Output::json(&value),
        Err(_) => Output::bytes(&result),
    }
}

/// Prints the objects of every daemon that answers.
pub(crate) async fn list(
    bus: &Bus,
    out: Output,
    verbose: bool,
    pattern: Option<&str>,
) -> Result<(), Error> {
    let found: Vec<Found> = everything(bus)
        .await?
        .into_iter()
        .filter(|object| pattern.is_none_or(|pattern| matches(pattern, &object.name)))
        .collect();
    if let Some(pattern) = pattern.filter(|_| found.is_empty()) {
        let text = format!("nobody serves an object {pattern:?}; `vestalctl list` shows all");
        return Err(Error::new(Exit::NotFound, text));
    }
    if out.json {
        return Output::json(
            &found.iter().map(|object| shown(object, verbose)).collect::<Map<_, _>>(),
        );
    }
    let text: String = found.iter().map(|object| lines(object, verbose)).collect();
    Output::text(&text)
}

/// All objects that are served now. An error only where no daemon answers at all.
pub(crate) async fn everything(bus: &Bus) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    let mut answered = false;
    let mut silent: Option<CallError> = None;
    for socket in bus.sockets() {
        match bus.describe(&socket, PATIENCE).await {
            Ok(objects) => {
                answered = true;
                found.extend(of_socket(&socket, objects));
            }
            Err(error) => silent = silent.or(Some(error)),
        }
    }
    match silent {
        Some(error) if !answered => Err(error.into()),
        None if !answered => {
            let text = "cannot reach any daemon: there is no socket in the run directory; start vestal-keeper";
            Err(Error::new(Exit::Unreachable, text))
        }
        _ => Ok(found),
    }
}

fn of_socket(
    socket: &std::path::Path,
    objects: BTreeMap<String, Description>,
) -> impl Iterator<Item = Found> {
    objects.into_iter().map(|(name, description)| Found {
        name,
        description,
        socket: socket.to_owned(),
    })
}

/// Whether a name is meant: the same one, or all that begin like it where a `*` ends the pattern.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    }
}

fn shown(object: &Found, verbose: bool) -> (String, Value) {
    let description = &object.description;
    let mut members = json!({
        "socket": object.socket,
        "interface": description.interface,
        "version": description.version,
    });
    if verbose {
        members["methods"] = json!(description.methods);
        members["events"] = json!(description.events);
    }
    (object.name.clone(), members)
}

fn lines(object: &Found, verbose: bool) -> String {
    let name = clean(&object.name);
    if !verbose {
        return format!("{name}\n");
    }
    let description = &object.description;
    let mut text = format!("{name} ({} {})\n", clean(&description.interface), description.version);
    for method in &description.methods {
        text.push_str(&format!("  {}(", clean(&method.name)));
        for (number, argument) in method.args.iter().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            let optional = if argument.required { "" } else { "?" };
            text.push_str(&format!(
                "{comma}{}{optional}: {}",
                clean(&argument.name),
                kind(argument.kind)
            ));
        }
        text.push(')');
        if !method.text.is_empty() {
            text.push_str(&format!("  {}", clean(&method.text)));
        }
        text.push('\n');
    }
    for event in &description.events {
        text.push_str(&format!("  event {}\n", clean(event)));
    }
    text
}

fn kind(kind: ArgumentKind) -> &'static str {
    match kind {
        ArgumentKind::String => "string",
        ArgumentKind::Boolean => "boolean",
        ArgumentKind::Integer => "integer",
        ArgumentKind::Number => "number",
        ArgumentKind::Array => "array",
        ArgumentKind::Table => "table",
        ArgumentKind::Any => "any",
        ArgumentKind::Raw => "raw bytes",
        ArgumentKind::Descriptor => "descriptor",
        ArgumentKind::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_at_the_end_means_all_that_begin_so() {
        assert!(matches("net*", "network.interface") && matches("*", "x") && matches("log", "log"));
        assert!(!matches("log", "log/kernel") && !matches("n*t", "net"));
    }

    #[test]
    fn methods_are_shown_with_their_arguments() {
        let args = [("name", ArgumentKind::String, true), ("wait", ArgumentKind::Boolean, false)];
        let description =
            Description::new("vestal.service", 1).method("stop", &args, "stops it", "");
        let found = Found { name: "service".to_owned(), description, socket: "/s".into() };
        assert_eq!(lines(&found, false), "service\n");
        assert_eq!(
            lines(&found, true),
            "service (vestal.service 1)\n  stop(name: string, wait?: boolean)  stops it\n"
        );
        let (_, shown) = shown(&found, true);
        assert_eq!(shown["methods"][0]["args"][0]["type"], "string");
    }
}

//! `vestalctl call` and `vestalctl list`: any object of the bus.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use endpoint::{ArgumentKind, Description};
use protocol::{policy, registry};
use serde_json::{Map, Value, json};

use crate::{
    bus::{Bus, How},
    error::{Error, Exit},
    output::Output,
    process,
    table::clean,
};

/// How long a daemon may take to say what it serves; one that hangs does not hide the others.
const PATIENCE: Duration = Duration::from_secs(3);

/// One object, and who serves it.
pub(crate) struct Found {
    pub(crate) name: String,
    /// Absent where it was not asked for, or its process does not answer.
    pub(crate) description: Option<Description>,
    socket: PathBuf,
    /// What the registry knows of it.
    registered: Option<registry::Found>,
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

/// Prints the objects that are registered, and those of every daemon that answers.
pub(crate) async fn list(
    bus: &Bus,
    out: Output,
    verbose: bool,
    pattern: Option<&str>,
) -> Result<(), Error> {
    let found: Vec<Found> = everything(bus, verbose)
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
pub(crate) async fn everything(bus: &Bus, describe: bool) -> Result<Vec<Found>, Error> {
    let rows = if bus.has_registry() { bus.registered().await } else { Ok(Vec::new()) };
    let rows = rows.unwrap_or_default();
    let mut sockets = bus.sockets();
    for row in &rows {
        let path = PathBuf::from(&row.socket);
        if !sockets.contains(&path) {
            sockets.push(path);
        }
    }
    // Whoever is registered needs to be asked only for the details.
    let is_asked =
        |path: &PathBuf| describe || !rows.iter().any(|row| Path::new(&row.socket) == path);
    let asked: Vec<_> = sockets.into_iter().filter(is_asked).collect();
    if asked.is_empty() && rows.is_empty() {
        let text =
            "cannot reach any daemon: there is no socket in the run directory; start vestal-keeper";
        return Err(Error::new(Exit::Unreachable, text));
    }
    let mut answers = bus.describe(&asked, PATIENCE).await;
    if rows.is_empty() && answers.iter().all(|(_, answer)| answer.is_err()) {
        let silent = answers.into_iter().find_map(|(_, answer)| answer.err());
        return Err(silent.expect("somebody was asked and nobody answered").into());
    }
    let mut found: Vec<Found> = Vec::new();
    for row in rows {
        let socket = PathBuf::from(&row.socket);
        let answer = answers.iter_mut().find(|(path, _)| *path == socket);
        let description = answer
            .and_then(|(_, answer)| answer.as_mut().ok())
            .and_then(|described| described.remove(&row.object.name));
        let name = row.object.name.clone();
        found.push(Found { name, description, socket, registered: Some(row) });
    }
    for (socket, answer) in answers {
        for (name, description) in answer.unwrap_or_default() {
            let (description, socket) = (Some(description), socket.clone());
            found.push(Found { name, description, socket, registered: None });
        }
    }
    Ok(found)
}

/// Whether a name is meant; a `*` stands for any text.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    policy::matches(pattern, name)
}

/// `1.2`, from the number that travels.
pub(crate) fn version(number: u32) -> String {
    format!("{}.{}", number >> 16, number & 0xffff)
}

fn shown(object: &Found, verbose: bool) -> (String, Value) {
    let mut members = json!({ "socket": object.socket });
    if let Some(description) = &object.description {
        members["interface"] = json!(description.interface);
        members["version"] = json!(version(description.version));
        members["hash"] = json!(format!("{:016x}", description.hash()));
        if verbose {
            members["methods"] = json!(description.methods);
            members["events"] = json!(description.events);
        }
    }
    if let Some(registered) = &object.registered {
        members["interface"] = json!(registered.object.interface);
        members["version"] = json!(version(registered.object.version));
        members["hash"] = json!(format!("{:016x}", registered.object.hash));
        members["handle"] = json!(registered.handle);
        members["pid"] = json!(registered.pid);
        members["uid"] = json!(registered.uid);
    }
    (object.name.clone(), members)
}

fn lines(object: &Found, verbose: bool) -> String {
    let name = clean(&object.name);
    if !verbose {
        return format!("{name}\n");
    }
    let mut text = head(object);
    let Some(description) = &object.description else {
        text.push_str("  its process does not say what it offers\n");
        return text;
    };
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
        if !method.returns.is_empty() {
            text.push_str(&format!(" -> {}", clean(&method.returns)));
        }
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

/// The lines about who serves it.
fn head(object: &Found) -> String {
    let (interface, number, hash) = match (&object.registered, &object.description) {
        (Some(registered), _) => {
            let served = &registered.object;
            (served.interface.as_str(), served.version, served.hash)
        }
        (None, Some(described)) => {
            (described.interface.as_str(), described.version, described.hash())
        }
        (None, None) => ("unknown", 0, 0),
    };
    let (name, interface) = (clean(&object.name), clean(interface));
    let mut text = format!("{name} ({interface} {}, {hash:016x})\n", version(number));
    let socket = clean(&object.socket.to_string_lossy());
    match &object.registered {
        Some(registered) => text.push_str(&format!(
            "  at {socket}, handle {}, pid {} ({}), user {}\n",
            registered.handle,
            registered.pid,
            clean(&process::name(registered.pid)),
            process::user(registered.uid)
        )),
        None => text.push_str(&format!("  at {socket}, not registered\n")),
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
    fn methods_are_shown_with_their_arguments() {
        let args = [("name", ArgumentKind::String, true), ("wait", ArgumentKind::Boolean, false)];
        let description = Description::new("vestal.service", protocol::objects::version(1, 2))
            .method("stop", &args, "stops it", "");
        let hash = format!("{:016x}", description.hash());
        let name = "service".to_owned();
        let mut found =
            Found { name, description: Some(description), socket: "/s".into(), registered: None };
        assert_eq!(lines(&found, false), "service\n");
        assert_eq!(
            lines(&found, true),
            format!(
                "service (vestal.service 1.2, {hash})\n  at /s, not registered\n  \
                 stop(name: string, wait?: boolean)  stops it\n"
            )
        );
        let (_, shown) = shown(&found, true);
        assert_eq!(shown["methods"][0]["args"][0]["type"], "string");
        found.description = None;
        assert!(lines(&found, true).ends_with("does not say what it offers\n"));
    }
}

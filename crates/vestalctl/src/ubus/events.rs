//! The commands of ubus that last or that send: `listen`, `subscribe`, `send`, `wait_for`, `monitor`.

use endpoint::{CallError, Event};
use protocol::registry::{Publish, Subscribe};
use serde_json::{Value, json};

use super::{End, NOT_FOUND, Options, PARSE_ERROR, TIMED_OUT, object, status};
use crate::{
    bus::Bus,
    error::Exit,
    events, format,
    monitor::{self, Seen},
    output::Output,
};

/// `{ "TYPE": MESSAGE }` for each event.
pub(super) async fn listen(bus: &Bus, options: &Options, patterns: &[String]) -> Result<(), End> {
    let all = || vec!["*".to_owned()];
    let patterns = if patterns.is_empty() { all() } else { patterns.to_vec() };
    hear(bus, options, patterns, "").await
}

/// The same, of the events of some objects, whose names are left out.
pub(super) async fn subscribe(bus: &Bus, options: &Options, paths: &[String]) -> Result<(), End> {
    for path in paths {
        match bus.serves(path).await {
            Ok(true) => {}
            Ok(false) => return Err(End::Status(NOT_FOUND)),
            Err(error) => return Err(ended(&error)),
        }
    }
    let patterns = paths.iter().map(|path| format!("{path}.*")).collect();
    let prefix = if let [path] = paths { format!("{path}.") } else { String::new() };
    hear(bus, options, patterns, &prefix).await
}

async fn hear(
    bus: &Bus,
    options: &Options,
    patterns: Vec<String>,
    prefix: &str,
) -> Result<(), End> {
    // As with ubus, only what comes from now on.
    let asked = Subscribe { patterns, retained: false, ..Subscribe::default() };
    let mut subscription = events::subscribe(bus, asked).await.map_err(|error| ended(&error))?;
    loop {
        let Event { topic, data, .. } = match subscription.next().await {
            Ok(event) if event.is_gap() => continue,
            event => event.map_err(|failure| ended(&failure.into()))?,
        };
        let kind = topic.strip_prefix(prefix).unwrap_or(&topic);
        if !Output::stream(&event(kind, &events::data(&data), options.simple))? {
            return Ok(());
        }
    }
}

fn event(kind: &str, data: &Value, simple: bool) -> String {
    format!("{{ {}: {} }}\n", format::string(kind), format::message(data, simple))
}

pub(super) async fn send(bus: &Bus, kind: &str, message: &str) -> Result<(), End> {
    let data = object(message).map_err(|_| End::Status(PARSE_ERROR))?;
    let event = Publish { topic: kind.to_owned(), data, retain: false };
    events::send(bus, &event).await.map(|_| ()).map_err(|error| ended(&error))
}

pub(super) async fn wait_for(bus: &Bus, options: &Options, paths: &[String]) -> Result<(), End> {
    events::wait(bus, paths, options.within).await.map_err(|error| match error.exit {
        Exit::TimedOut => End::Status(TIMED_OUT),
        Exit::Unreachable => End::NoConnection,
        _ => End::Output(error),
    })
}

/// Every call and event; what is inside a call is not told, so that a line is not quite ubus' own.
pub(super) async fn monitor(bus: &Bus) -> Result<(), End> {
    let shown = monitor::watch(bus, true, true, |seen| match seen {
        Seen::Call(call) => {
            let told = json!({
                "object": call.object, "method": call.method, "user": call.uid,
                "length": call.args_bytes, "outcome": call.outcome, "duration_us": call.duration_us,
            });
            Output::stream(&format!(
                "-> {:08x} invoke: {}\n",
                call.pid,
                format::message(&told, true)
            ))
        }
        Seen::Event(gap) if gap.is_gap() => Ok(true),
        Seen::Event(Event { topic, data, .. }) => {
            let line = event(topic, &events::data(data), true);
            Output::stream(&format!("<- event: {line}"))
        }
    });
    shown.await.map_err(|error| match error.exit {
        Exit::Unreachable => End::NoConnection,
        _ => End::Output(error),
    })
}

/// Before anything was sent there is only a status to tell.
fn ended(error: &CallError) -> End {
    match error {
        CallError::Unreachable { .. } => End::NoConnection,
        error => End::Status(status(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_look_like_those_of_ubus() {
        let data = json!({"name": "web"});
        assert_eq!(event("a.b", &data, true), "{ \"a.b\": {\"name\":\"web\"} }\n");
        assert_eq!(event("a.b", &data, false), "{ \"a.b\": {\n\t\"name\": \"web\"\n} }\n");
    }
}

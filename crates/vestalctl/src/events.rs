//! `listen`, `publish` and `wait-for`: events and objects that come and go, by way of the registry.

use std::{path::Path, time::Duration};

use endpoint::{CallError, Code, Event, Subscription};
use protocol::{
    objects,
    registry::{Found, Publish, Published, Subscribe, Wait},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    bus::{Bus, How, USUAL},
    cli,
    error::{Error, Exit},
    output::{Output, Style},
    stamp,
    table::clean,
};

/// Events that may wait for this process while it prints.
const QUEUE: u32 = 4096;
/// Between two looks for a registry that isn't there yet; doubles up to half a second.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Subscribes, and stays subscribed over restarts of the registry. One that isn't there now is an error at once.
pub(crate) async fn subscribe(bus: &Bus, asked: Subscribe) -> Result<Subscription, CallError> {
    bus.client_of("registry").objects().await?;
    let asked = Subscribe { queue: Some(QUEUE), ..asked };
    let folder = bus.socket("registry").parent().map(Path::to_owned).unwrap_or_default();
    let mut subscription =
        endpoint::Bus::new(folder, endpoint::Options::default()).subscribe(asked);
    subscription.active(USUAL).await?;
    Ok(subscription)
}

/// `vestalctl listen`.
pub(crate) async fn listen(bus: &Bus, out: Output, given: &cli::Listen) -> Result<(), Error> {
    let everything = || vec!["*".to_owned()];
    let asked = Subscribe {
        patterns: if given.patterns.is_empty() { everything() } else { given.patterns.clone() },
        sender: given.sender.clone(),
        retained: given.retained(),
        ..Subscribe::default()
    };
    let mut subscription = subscribe(bus, asked).await.map_err(no_registry)?;
    let end = given.timeout.map(|timeout| Instant::now() + timeout);
    let mut seen = 0;
    while given.count.is_none_or(|count| seen < count) {
        let Some(heard) = before(end, subscription.next()).await else {
            return match given.count {
                None => Ok(()),
                Some(count) => {
                    let text = format!("{seen} of {count} events came within the time");
                    Err(Error::new(Exit::TimedOut, text))
                }
            };
        };
        let heard = heard.map_err(CallError::from)?;
        seen += u64::from(!heard.is_gap());
        if !Output::stream(&shown(out, &heard, now_us(), ""))? {
            return Ok(());
        }
    }
    Ok(())
}

/// What is left of the time, for one thing.
async fn before<T>(end: Option<Instant>, thing: impl Future<Output = T>) -> Option<T> {
    match end {
        Some(end) => tokio::time::timeout_at(end, thing).await.ok(),
        None => Some(thing.await),
    }
}

/// The time of day, for people.
pub(crate) fn now_us() -> u64 {
    u64::try_from(daemon::clock::wall().as_micros()).unwrap_or(u64::MAX)
}

/// The data of an event; what is no JSON is shown as text.
pub(crate) fn data(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

/// One line, with `word` in front of the topic; a second one above it where events are missing.
pub(crate) fn shown(out: Output, heard: &Event, now_us: u64, word: &str) -> String {
    let remark = |text: String| out.styled(&text, Style::Waiting) + "\n";
    if heard.is_gap() {
        return if out.json {
            json!({ "time": stamp::full(now_us), "gap": true }).to_string() + "\n"
        } else {
            remark("-- the registry was away; events may be missing".to_owned())
        };
    }
    let Event { topic, data: bytes, lost } = heard;
    let data = data(bytes);
    if out.json {
        let mut line = json!({ "time": stamp::full(now_us), "topic": topic, "data": data });
        if *lost > 0 {
            line["lost"] = (*lost).into();
        }
        return line.to_string() + "\n";
    }
    let lost = match lost {
        0 => String::new(),
        _ => remark(format!("-- {lost} events lost: this reader was too slow")),
    };
    let topic = out.styled(&clean(topic), Style::Strong);
    let data = if data.is_null() { String::new() } else { format!(" {data}") };
    format!("{lost}{} {word}{topic}{data}\n", stamp::short(now_us))
}

/// `vestalctl publish`.
pub(crate) async fn publish(bus: &Bus, out: Output, given: &cli::Publish) -> Result<(), Error> {
    let data: Value = match &given.data {
        None => json!({}),
        Some(text) => serde_json::from_str(text)
            .map_err(|error| Error::usage(format!("the event's data is no JSON: {error}")))?,
    };
    let event = Publish { topic: given.topic.clone(), data, retain: given.retain };
    let published = send(bus, &event).await.map_err(no_registry)?;
    if out.json {
        Output::json(&published)?;
    } else if published.subscribers == 0 {
        Output::text("nobody listens to this topic now\n")?;
    } else {
        Output::text(&format!("sent to {}\n", counted(published.subscribers, "subscriber")))?;
    }
    if given.retain {
        stay(bus, &event, given.stay).await?;
    }
    Ok(())
}

pub(crate) async fn send(bus: &Bus, event: &Publish) -> Result<Published, CallError> {
    bus.ask("registry", "publish", event, How::ONCE).await
}

pub(crate) fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Keeps the connection that the retained event belongs to; a new registry is told it again.
async fn stay(bus: &Bus, event: &Publish, within: Option<Duration>) -> Result<(), Error> {
    eprintln!("vestalctl: the event is kept while this runs; stop it with Ctrl-C");
    let end = within.map(|within| Instant::now() + within);
    let client = bus.client_of("registry");
    let mut connections = client.connections();
    connections.mark_unchanged();
    let look = Duration::from_secs(1);
    while before(end, tokio::time::sleep(look)).await.is_some() {
        // Asking is what notices the end of a connection; one that can't be made now is tried at the next look.
        if client.objects().await.is_ok() && connections.has_changed().unwrap_or(false) {
            connections.mark_unchanged();
            send(bus, event).await.map_err(no_registry)?;
        }
    }
    Ok(())
}

/// Events need the registry; where it is not, that is the whole reason.
pub(crate) fn no_registry(error: CallError) -> Error {
    let socket = match &error {
        CallError::Unreachable { path, .. } => Some(path.clone()),
        _ => None,
    };
    let mut error = Error::from(error);
    if let Some(socket) = socket {
        error.text = if socket.exists() {
            format!(
                "the registry does not answer ({}); `vestalctl status registry` says why",
                error.text
            )
        } else {
            format!("no registry runs here, and events go through it: {}", error.text)
        };
    }
    error
}

/// `vestalctl wait-for`.
pub(crate) async fn wait_for(bus: &Bus, out: Output, given: &cli::WaitFor) -> Result<(), Error> {
    wait(bus, &given.objects, given.within.timeout).await?;
    if out.json { Output::json(&json!({ "objects": given.objects })) } else { Ok(()) }
}

/// Returns when all of these objects are served; a registry that is not there yet is waited for, too.
pub(crate) async fn wait(bus: &Bus, objects: &[String], within: Duration) -> Result<(), Error> {
    let started = Instant::now();
    let mut pause = PAUSE;
    loop {
        let left = within.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(missing(bus, objects, within).await);
        }
        let asked = Wait { objects: objects.to_owned() };
        let how = How { within: left, safe: true };
        let waited = bus.ask::<_, Vec<Found>>("registry", "wait", &asked, how).await;
        let Err(error) = waited else { return Ok(()) };
        match error {
            CallError::Timeout { .. } => return Err(missing(bus, objects, within).await),
            CallError::Refused(ref failure) if failure.code == Code::Timeout => {
                return Err(missing(bus, objects, within).await);
            }
            CallError::Unreachable { .. } | CallError::Lost { .. } => {
                // Without a registry the suite's own objects are still found by the table.
                if absent(bus, objects).await.is_empty() {
                    return Ok(());
                }
            }
            CallError::Refused(failure) if failure.code == Code::Gone => {}
            error => return Err(error.into()),
        }
        let left = within.saturating_sub(started.elapsed());
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The error that names what did not come.
async fn missing(bus: &Bus, objects: &[String], within: Duration) -> Error {
    let missing = match bus.registered().await {
        Ok(rows) => {
            let there = |name: &&String| rows.iter().any(|row| row.object.name == **name);
            objects.iter().filter(|name| !there(name)).cloned().collect()
        }
        Err(_) => absent(bus, objects).await,
    };
    let text = if missing.is_empty() {
        format!("not all of {} were served at once within {within:?}", objects.join(", "))
    } else {
        format!("nobody served {} within {within:?}", missing.join(", "))
    };
    Error::new(Exit::TimedOut, text)
}

/// Which of them no daemon of the suite serves.
async fn absent(bus: &Bus, wanted: &[String]) -> Vec<String> {
    let mut absent = Vec::new();
    for object in wanted {
        let known = objects::served_by(object).is_some();
        if !known || !bus.serves(object).await.unwrap_or(false) {
            absent.push(object.clone());
        }
    }
    absent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lost: u32) -> Event {
        Event { topic: "service.exit".into(), data: br#"{"name":"web"}"#.to_vec(), lost }
    }

    fn gap() -> Event {
        Event { topic: String::new(), data: Vec::new(), lost: 0 }
    }

    #[test]
    fn an_event_is_time_topic_and_data() {
        let out = Output::new(false);
        let us = 1_795_320_320_123_000;
        let line = "04:05:20.123 service.exit {\"name\":\"web\"}\n";
        assert_eq!(shown(out, &heard(0), us, ""), line);
        let lost = shown(out, &heard(3), us, "");
        assert_eq!(lost, format!("-- 3 events lost: this reader was too slow\n{line}"));
        assert!(shown(out, &gap(), us, "").contains("may be missing"));
    }

    #[test]
    fn events_as_json_are_one_line_each() {
        let line = shown(Output::new(true), &heard(3), 0, "");
        let expected = "{\"time\":\"1970-01-01T00:00:00.000Z\",\"topic\":\"service.exit\",\
                        \"data\":{\"name\":\"web\"},\"lost\":3}\n";
        assert_eq!(line, expected);
        assert!(shown(Output::new(true), &gap(), 0, "").contains("\"gap\":true"));
    }

    #[test]
    fn data_that_is_no_json_is_a_text() {
        assert_eq!(data(b""), Value::Null);
        assert_eq!(data(b"\xffx"), "\u{fffd}x");
    }
}

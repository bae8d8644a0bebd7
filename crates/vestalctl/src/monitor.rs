//! The tap of the bus, for root: the calls of every endpoint as they end, and all events, as one stream of lines.
//!
//! It sees who calls what and how that ended; never what is inside a call.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use endpoint::{CallError, CallOptions, Client, Code, Event, Subscription};
use protocol::{
    objects::{MONITOR, Tapped},
    registry::Subscribe,
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    bus::Bus,
    cli,
    error::{Error, Exit},
    events,
    lines::Lines,
    objects::matches,
    output::{Output, Style},
    process, stamp,
    table::clean,
};

/// Calls that wait to be printed; the endpoints drop and count beyond it.
const WAITING: usize = 1024;
/// How often new endpoints are looked for, and those that were away.
const LOOK: Duration = Duration::from_secs(2);

/// A registry that hangs must not hold up what is shown.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the tap shows.
pub(crate) enum Seen {
    Call(Tapped),
    Event(Event),
}

/// What a tap of one endpoint reports.
enum Report {
    Calls(Vec<Tapped>),
    Ended(PathBuf, Option<Error>),
}

/// `vestalctl monitor`.
pub(crate) async fn monitor(bus: &Bus, out: Output, given: &cli::Monitor) -> Result<(), Error> {
    let wanted = |name: &str| {
        given.patterns.is_empty() || given.patterns.iter().any(|pattern| matches(pattern, name))
    };
    let mut left = given.count;
    watch(bus, !given.no_calls, !given.no_events, |seen| {
        let is_wanted = match seen {
            Seen::Call(call) => wanted(&format!("{}.{}", call.object, call.method)),
            Seen::Event(event) => event.is_gap() || wanted(&event.topic),
        };
        if !is_wanted {
            return Ok(true);
        }
        if let Some(left) = &mut left {
            *left -= 1;
        }
        Ok(Output::stream(&shown(out, seen, events::now_us()))? && left != Some(0))
    })
    .await
}

/// Shows what is seen until `show` has enough.
pub(crate) async fn watch(
    bus: &Bus,
    calls: bool,
    events: bool,
    mut show: impl FnMut(&Seen) -> Result<bool, Error>,
) -> Result<(), Error> {
    let (reports, mut reported) = mpsc::channel(WAITING);
    let mut tapped = BTreeSet::new();
    let mut heard = if events { subscribed(bus, calls).await? } else { None };
    let mut look = tokio::time::interval(LOOK);
    // This process asks, too; that is not what somebody wants to see.
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    loop {
        let seen = tokio::select! {
            report = reported.recv() => match report.expect("one sender is kept here") {
                Report::Calls(calls) => calls.into_iter().map(Seen::Call).collect(),
                Report::Ended(_, Some(error)) => return Err(error),
                Report::Ended(socket, None) => {
                    tapped.remove(&socket);
                    Vec::new()
                }
            },
            heard = next(&mut heard) => vec![Seen::Event(heard?)],
            _ = look.tick(), if calls => {
                tap_all(bus, &mut tapped, &reports).await?;
                Vec::new()
            }
        };
        for seen in &seen {
            let ours = matches!(seen, Seen::Call(call) if call.pid == own);
            if !ours && !show(seen)? {
                return Ok(());
            }
        }
    }
}

/// All events; where calls are shown, too, a missing registry is only said.
async fn subscribed(bus: &Bus, calls: bool) -> Result<Option<Subscription>, Error> {
    let asked =
        Subscribe { patterns: vec!["*".to_owned()], retained: false, ..Subscribe::default() };
    match events::subscribe(bus, asked).await {
        Ok(subscription) => Ok(Some(subscription)),
        Err(CallError::Unreachable { .. }) if calls => {
            eprintln!("vestalctl: no registry runs here; only calls are shown");
            Ok(None)
        }
        Err(error) => Err(events::no_registry(error)),
    }
}

async fn next(heard: &mut Option<Subscription>) -> Result<Event, Error> {
    match heard {
        Some(subscription) => Ok(subscription.next().await.map_err(CallError::from)?),
        None => std::future::pending().await,
    }
}

/// Taps every endpoint that is there and isn't tapped yet.
async fn tap_all(
    bus: &Bus,
    tapped: &mut BTreeSet<PathBuf>,
    reports: &mpsc::Sender<Report>,
) -> Result<(), Error> {
    let mut sockets = bus.sockets();
    let rows = tokio::time::timeout(PATIENCE, bus.registered()).await;
    let rows = rows.unwrap_or(Ok(Vec::new())).unwrap_or_default();
    sockets.extend(rows.into_iter().map(|row| PathBuf::from(row.socket)));
    if sockets.is_empty() && tapped.is_empty() {
        let text =
            "cannot reach any daemon: there is no socket in the run directory; start vestal-keeper";
        return Err(Error::new(Exit::Unreachable, text));
    }
    for socket in sockets {
        if tapped.insert(socket.clone()) {
            tokio::spawn(tap(socket, reports.clone()));
        }
    }
    Ok(())
}

/// Reads one endpoint's calls until it ends; who may not is told so.
async fn tap(socket: PathBuf, reports: mpsc::Sender<Report>) {
    let error = match read(&socket, &reports).await {
        Err(CallError::Refused(failure)) if failure.code == Code::Denied => {
            Some(Error::failed(format!("monitor is for root: {failure}")))
        }
        // An endpoint of an older program has no tap: it is not asked again.
        Err(CallError::Refused(failure)) if failure.code == Code::UnknownMethod => return,
        _ => None,
    };
    // Nobody to report to: the monitor has ended.
    let _ = reports.send(Report::Ended(socket, error)).await;
}

async fn read(socket: &Path, reports: &mpsc::Sender<Report>) -> Result<(), CallError> {
    let options = endpoint::Options { patience: Duration::ZERO, ..Default::default() };
    let client = Client::new(socket, options);
    let forever = CallOptions { deadline: Duration::MAX, ..CallOptions::default() };
    let mut stream = client.call_stream("", MONITOR, b"{}", forever).await?;
    let mut lines = Lines::default();
    while let Some(piece) = stream.next().await? {
        let Ok(calls) = lines.push(&piece) else { return Ok(()) };
        if reports.send(Report::Calls(calls)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// `TIME PID (PROGRAM) OBJECT.METHOD OUTCOME DURATION SIZE`, or an event as `listen` shows it.
fn shown(out: Output, seen: &Seen, now_us: u64) -> String {
    let call = match seen {
        Seen::Event(heard) => return events::shown(out, heard, now_us, "event "),
        Seen::Call(call) => call,
    };
    let name = process::name(call.pid);
    if out.json {
        let mut line = json!({ "time": stamp::full(now_us), "program": name });
        if let (Some(line), Ok(serde_json::Value::Object(call))) =
            (line.as_object_mut(), serde_json::to_value(call))
        {
            line.extend(call);
        }
        return line.to_string() + "\n";
    }
    let lost = match call.lost {
        0 => String::new(),
        lost => {
            out.styled(&format!("-- {lost} calls lost: this reader was too slow"), Style::Waiting)
                + "\n"
        }
    };
    let outcome = clean(&call.outcome);
    let style = if outcome == "done" { Style::Plain } else { Style::Bad };
    format!(
        "{lost}{} {} ({}) {} {} {} {}\n",
        stamp::short(now_us),
        call.pid,
        clean(&name),
        out.styled(&clean(&format!("{}.{}", call.object, call.method)), Style::Strong),
        out.styled(&outcome, style),
        duration(call.duration_us),
        crate::units::size(call.args_bytes).replace(' ', "")
    )
}

/// `350us`, `12.4ms`, `3.21s`.
fn duration(us: u64) -> String {
    match us {
        0..1000 => format!("{us}us"),
        1000..1_000_000 => format!("{}.{}ms", us / 1000, us / 100 % 10),
        _ => format!("{}.{:02}s", us / 1_000_000, us / 10_000 % 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Tapped {
        Tapped {
            object: "service".into(),
            method: "list".into(),
            pid: i32::MAX,
            uid: 0,
            args_bytes: 24,
            outcome: "done".into(),
            duration_us: 350,
            lost: 0,
        }
    }

    #[test]
    fn a_call_is_one_line() {
        let us = 1_795_320_320_123_000;
        let line = "04:05:20.123 2147483647 () service.list done 350us 24B\n";
        assert_eq!(shown(Output::new(false), &Seen::Call(call()), us), line);
        let lost = Seen::Call(Tapped { lost: 2, ..call() });
        assert_eq!(
            shown(Output::new(false), &lost, us),
            format!("-- 2 calls lost: this reader was too slow\n{line}")
        );
        let json = shown(Output::new(true), &Seen::Call(call()), us);
        assert!(json.contains("\"method\":\"list\"") && json.ends_with("}\n"), "{json}");
    }

    #[test]
    fn an_event_says_that_it_is_one() {
        let heard = |lost| Seen::Event(Event { topic: "a.b".into(), data: b"{}".to_vec(), lost });
        assert_eq!(shown(Output::new(false), &heard(0), 0), "00:00:00.000 event a.b {}\n");
        assert_eq!(
            shown(Output::new(false), &heard(1), 0),
            "-- 1 events lost: this reader was too slow\n00:00:00.000 event a.b {}\n"
        );
    }

    #[test]
    fn durations_have_the_unit_that_fits() {
        assert_eq!(duration(0), "0us");
        assert_eq!(duration(12_440), "12.4ms");
        assert_eq!(duration(3_210_000), "3.21s");
    }
}

//! `vestalctl service replace`: asks, shows that it goes on, and tells what runs now.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _, stderr},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    bus::{Bus, How},
    error::{Error, Exit},
    output::Output,
    table::clean,
};

/// How often a person is told that it goes on.
const TICK: Duration = Duration::from_millis(500);

/// Main processes by instance.
type Pids = BTreeMap<String, u64>;

pub(crate) async fn replace(
    bus: &Bus,
    out: Output,
    name: &str,
    instance: Option<&str>,
    within: Duration,
) -> Result<(), Error> {
    let before = pids(bus, name).await?;
    let mut args = json!({ "name": name, "wait": true });
    if let Some(instance) = instance {
        args["instance"] = instance.into();
    }
    let progress = stderr().is_terminal() && !out.json;
    let answer = asked(bus, name, &args, within, progress).await?;
    let after = pids(bus, name).await?;
    let meant = |(one, _): &(&String, &u64)| instance.is_none_or(|instance| instance == *one);
    if out.json {
        let rows: Vec<_> = after
            .iter()
            .filter(meant)
            .map(
                |(one, pid)| json!({ "instance": one, "old_pid": before.get(one), "new_pid": pid }),
            )
            .collect();
        let mut told = json!({ "name": name, "instances": rows });
        if !answer.is_null() && answer != json!({}) {
            told["answer"] = answer;
        }
        return Output::json(&told);
    }
    let lines: String = after
        .iter()
        .filter(meant)
        .map(|(one, pid)| {
            let old = before.get(one).map_or_else(|| "none".to_owned(), |pid| format!("pid {pid}"));
            format!("{}/{}: {old} before, pid {pid} now\n", clean(name), clean(one))
        })
        .collect();
    Output::text(&lines)
}

/// Calls, and shows on a terminal how long it takes.
async fn asked(
    bus: &Bus,
    name: &str,
    args: &Value,
    within: Duration,
    progress: bool,
) -> Result<Value, Error> {
    let started = Instant::now();
    let call = bus.call("service", "replace", args, How { within, safe: false });
    let mut call = std::pin::pin!(call);
    let mut tick = tokio::time::interval(TICK);
    let answer = loop {
        tokio::select! {
            answer = &mut call => break answer,
            _ = tick.tick(), if progress => {
                let seconds = started.elapsed().as_secs();
                // A terminal that takes no text shows no progress; the answer is what counts.
                let _ = write!(stderr(), "\r{}: the new one starts beside the old one, {seconds} s", clean(name));
                let _ = stderr().flush();
            }
        }
    };
    if progress {
        let _ = write!(stderr(), "\r\x1b[K");
    }
    answer.map_err(|error| {
        let mut error = Error::from(error);
        if error.exit == Exit::TimedOut {
            error.text = format!(
                "replacing {name} took longer than {within:?} and goes on; see `vestalctl status {name}`, or give a longer --timeout"
            );
        }
        error
    })
}

async fn pids(bus: &Bus, name: &str) -> Result<Pids, Error> {
    let listed = bus.call("service", "list", &json!({ "name": name }), How::READ).await?;
    let instances = listed[name]["instances"].as_object();
    Ok(instances
        .into_iter()
        .flatten()
        .filter_map(|(instance, listed)| Some((instance.clone(), listed["pid"].as_u64()?)))
        .collect())
}

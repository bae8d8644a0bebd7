//! `vestalctl supervisor reexec` and `keeper reexec`: asks, then waits until the new one answers.

use std::time::Duration;

use endpoint::CallError;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    bus::{Bus, How},
    error::{Error, Exit},
    output::Output,
};

/// Between two looks; doubles up to the second.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A look that is not answered in this time is made again.
const LOOK: Duration = Duration::from_secs(2);

/// Before and after.
#[derive(Debug, Serialize)]
struct Change<'a> {
    what: &'a str,
    old_pid: u64,
    new_pid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    starts: Option<u64>,
}

/// What a daemon says of itself in `service.report`.
#[derive(Clone, Copy)]
struct Seen {
    pid: u64,
    starts: Option<u64>,
}

pub(crate) async fn reexec(
    bus: &Bus,
    out: Output,
    what: &str,
    within: Duration,
) -> Result<(), Error> {
    let before = look(bus, what, within).await?;
    let asked = json!({ "what": what });
    match bus.call("system", "reexec", &asked, How { within, safe: false }).await {
        // The supervisor may be gone before its answer is read: the new one says whether it worked.
        Ok(_) | Err(CallError::Lost { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let after = tokio::time::timeout(within, next(bus, what, before)).await.map_err(|_| {
        let text = format!("no new {what} answered within {within:?}; its log says why");
        Error::new(Exit::TimedOut, text)
    })?;
    let (old_pid, new_pid) = (before.pid, after.pid);
    if out.json {
        return Output::json(&Change { what, old_pid, new_pid, starts: after.starts });
    }
    Output::text(&format!("{what}: pid {old_pid} before, {new_pid} now\n"))
}

/// Looks until another run of the daemon answers. Ended by the caller's time.
async fn next(bus: &Bus, what: &str, before: Seen) -> Seen {
    let mut pause = PAUSE;
    loop {
        if let Ok(now) = look(bus, what, LOOK).await
            && is_next(before, now)
        {
            return now;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A daemon that counts its starts is another one when it counted on. The keeper does not, and keeps its pid: it
/// answers only after the change, so that it answers at all is the sign.
fn is_next(before: Seen, now: Seen) -> bool {
    match (before.starts, now.starts) {
        (Some(before), Some(now)) => now > before,
        _ => true,
    }
}

async fn look(bus: &Bus, what: &str, within: Duration) -> Result<Seen, Error> {
    let report = bus.call("service", "report", &json!({}), How { within, safe: true }).await?;
    seen(&report, what).ok_or_else(|| {
        Error::failed(format!(
            "service.report names no pid of the {what}: is the supervisor older than vestalctl?"
        ))
    })
}

fn seen(report: &Value, what: &str) -> Option<Seen> {
    let daemon = &report[what];
    Some(Seen { pid: daemon["pid"].as_u64()?, starts: daemon["starts"].as_u64() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_count_is_the_next_run_even_with_the_same_pid() {
        let report =
            |starts: u64| json!({"supervisor": {"pid": 7, "starts": starts}, "keeper": {"pid": 1}});
        let of = |starts, what| seen(&report(starts), what).unwrap();
        assert!(is_next(of(1, "supervisor"), of(2, "supervisor")));
        assert!(!is_next(of(2, "supervisor"), of(2, "supervisor")));
        assert!(is_next(of(1, "keeper"), of(1, "keeper")));
        assert!(seen(&json!({}), "keeper").is_none());
    }
}

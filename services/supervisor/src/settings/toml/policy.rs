//! The keys that say how the process is treated: respawn, escalation, stop, reload. Applied without a restart.

use std::time::Duration;

use super::{
    process::Surroundings,
    table::{Item, Table},
    watching,
};
use crate::settings::{
    Critical, CriticalAction, Policy, Reload, Respawn, RespawnWhen,
    units::{self, signal},
};

/// From stop signal to SIGKILL, whoever reads the definition.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// procd's `threshold timeout retry` where they aren't given.
pub(crate) const PROCD_RESPAWN: [u32; 3] = [3600, 5, 5];
/// Most restarts that a limit may count.
const RESTARTS_MAX: i64 = 1_000_000;

pub(super) fn policy(table: &Table<'_>, surroundings: &Surroundings<'_>, oneshot: bool) -> Policy {
    let kill_modes = [("tree", false), ("main", true)];
    Policy {
        respawn: respawn(table, oneshot),
        critical: table.table("critical").and_then(|table| critical(&table)),
        stop_signal: table.get("stop-signal").and_then(|item| any_signal(&item)).unwrap_or(TERM),
        stop_timeout: table.parsed("stop-timeout", units::duration).unwrap_or(STOP_TIMEOUT),
        reload: table.get("reload").map(|item| reload(&item, surroundings)).unwrap_or_default(),
        main_only: table.word("kill-mode", &kill_modes).unwrap_or(false),
        heartbeat: watching::heartbeat(table).map(|(_, terms)| terms).unwrap_or_default(),
        watchdog_miss: watching::watchdog(table).1,
    }
}

const TERM: i32 = rustix::process::Signal::TERM.as_raw();

pub(super) fn any_signal(item: &Item<'_>) -> Option<i32> {
    if item.is_integer() {
        return item.integer(1..=i64::from(units::SIGNAL_MAX));
    }
    item.parsed(signal)
}

fn respawn(table: &Table<'_>, oneshot: bool) -> Respawn {
    let words = [
        ("never", None),
        ("on-failure", Some(RespawnWhen::OnFailure)),
        ("always", Some(RespawnWhen::Always)),
    ];
    let backoff = |when: Option<RespawnWhen>, max_restarts| {
        when.map_or(Respawn::Never, |when| Respawn::Backoff { when, max_restarts })
    };
    let default = Some(RespawnWhen::OnFailure);
    let Some(item) = table.get("respawn") else { return backoff(default, None) };
    if item.is_text() {
        let when = item.word(&words).unwrap_or(default);
        check_oneshot(&item, oneshot, when);
        return backoff(when, None);
    }
    if !item.is_table() {
        item.wrong("write \"on-failure\", \"always\", \"never\", or a table { policy, max-restarts } or { threshold, timeout, retry }");
        return Respawn::Never;
    }
    let Some(table) = item.table() else { return Respawn::Never };
    let ours = ["policy", "max-restarts"];
    let procd = ["threshold", "timeout", "retry"];
    table.refuse_others(&[&ours[..], &procd[..]].concat(), |_| None);
    let any = |keys: &[&str]| keys.iter().any(|key| table.get(key).is_some());
    if any(&ours) && any(&procd) {
        item.wrong("policy and max-restarts are one way, procd's threshold, timeout and retry the other; write one of the two");
    }
    if any(&procd) {
        let values = PROCD_RESPAWN.into_iter().zip(procd);
        let mut values = values.map(|(default, key)| seconds(&table, key).unwrap_or(default));
        let mut next = || values.next().unwrap_or_default();
        return Respawn::Procd { threshold: next(), timeout: next(), retry: next() };
    }
    let when = table.word("policy", &words).unwrap_or(default);
    check_oneshot(&item, oneshot, when);
    let max_restarts = table.integer("max-restarts", 0..=RESTARTS_MAX);
    if when.is_none() && max_restarts.is_some() {
        item.wrong("max-restarts means nothing with policy \"never\"");
    }
    backoff(when, max_restarts)
}

fn check_oneshot(item: &Item<'_>, oneshot: bool, when: Option<RespawnWhen>) {
    if oneshot && when == Some(RespawnWhen::Always) {
        item.wrong("a oneshot is done when it ended well; \"always\" would run it for ever");
    }
}

/// procd's numbers: seconds, or for `retry` a count; a duration in whole seconds is taken too.
fn seconds(table: &Table<'_>, key: &str) -> Option<u32> {
    let item = table.get(key)?;
    if item.is_integer() || key == "retry" {
        return item.integer(0..=i64::from(u32::MAX));
    }
    item.parsed(|text| {
        let duration = units::duration(text)?;
        match u32::try_from(duration.as_secs()) {
            Ok(seconds) if duration.subsec_nanos() == 0 => Ok(seconds),
            _ => Err(format!("{text:?} is not a whole number of seconds")),
        }
    })
}

fn critical(table: &Table<'_>) -> Option<Critical> {
    table.refuse_others(&["restarts", "window", "action"], |_| None);
    let actions = [
        ("restart", CriticalAction::Restart),
        ("reboot", CriticalAction::Reboot),
        ("rescue", CriticalAction::Rescue),
    ];
    for key in ["restarts", "window", "action"] {
        if table.get(key).is_none() {
            table.missing(
                key,
                "write critical = { restarts = 4, window = \"4m\", action = \"reboot\" }",
            );
        }
    }
    let window = table.parsed("window", |text| match units::duration(text)? {
        Duration::ZERO => Err("a window of 0 holds no crash".to_owned()),
        window => Ok(window),
    });
    let restarts = table.integer("restarts", 1..=RESTARTS_MAX);
    Some(Critical { restarts: restarts?, window: window?, action: table.word("action", &actions)? })
}

fn reload(item: &Item<'_>, surroundings: &Surroundings<'_>) -> Reload {
    let Some(table) = item.table() else { return Reload::None };
    table.refuse_others(&["signal", "command"], |_| None);
    match (table.get("signal"), table.get("command")) {
        (Some(signal), None) => any_signal(&signal).map(Reload::Signal),
        (None, Some(command)) => surroundings.command(&command).map(Reload::Command),
        _ => {
            item.wrong("write exactly one of { signal = \"HUP\" } and { command = [...] }");
            None
        }
    }
    .unwrap_or_default()
}

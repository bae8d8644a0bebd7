//! The keys that say how an instance shows that it is alive, and what follows when it doesn't: `heartbeat` and `watchdog`.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use protocol::name::Name;

use super::{
    policy::any_signal,
    serving::optional,
    table::{Item, Table},
};
use crate::settings::{Heartbeat, OnMiss, units};

/// The shortest and the longest period; the broker may be configured to take less of it.
const PERIOD: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
/// Longest grace, and longest time without progress: more is a mistake.
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 3600);

const HEARTBEAT_KEYS: [&str; 8] =
    ["app-id", "period", "misses", "on-miss", "signal", "grace", "progress", "detector"];

/// Under which number it reports, and the terms of it.
pub(super) fn heartbeat(table: &Table<'_>) -> Option<(i32, Heartbeat)> {
    let item = table.get("heartbeat")?;
    // An instance's table over the service's: only its number has to differ.
    let table = table.merged("heartbeat")?;
    table.refuse_others(&HEARTBEAT_KEYS, |_| None);
    for key in ["app-id", "period"] {
        if table.get(key).is_none() {
            item.wrong(format!(
                "key {key:?} is missing; write heartbeat = {{ app-id = 7, period = \"1s\" }}"
            ));
        }
    }
    let plain = Heartbeat::default();
    let detectors = [("deadline", false), ("adaptive", true)];
    let terms = Heartbeat {
        period: table.parsed("period", |text| within(text, PERIOD)).unwrap_or(plain.period),
        misses: table.integer("misses", 1..=255).unwrap_or(plain.misses),
        on_miss: on_miss(&table, plain.on_miss),
        grace: table.get("grace").map_or(plain.grace, |item| patience(&item)),
        progress: table.get("progress").and_then(|item| patience(&item)),
        adaptive: table.word("detector", &detectors).unwrap_or(plain.adaptive),
    };
    let app_id = table.integer("app-id", i64::from(i32::MIN)..=i64::from(i32::MAX))?;
    Some((app_id, terms))
}

fn within(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let duration = units::duration(text)?;
    if range.contains(&duration) {
        return Ok(duration);
    }
    let (low, high) = (range.start().as_millis(), range.end().as_millis());
    Err(format!("{text:?} is out of range; allowed are {low}ms to {high}ms"))
}

/// A duration above zero, or `none` for no limit.
fn patience(item: &Item<'_>) -> Option<Duration> {
    let patience = optional(item)?;
    if patience > PATIENCE_MAX {
        item.wrong("it is longer than a day; write \"none\" for no limit");
        return None;
    }
    Some(patience)
}

/// How often it must send `WATCHDOG=1`, and what follows when it doesn't: `"30s"`, or `{ period, on-miss, signal }`.
pub(super) fn watchdog(table: &Table<'_>) -> (Option<Duration>, OnMiss) {
    let plain = OnMiss::default();
    let Some(item) = table.get("watchdog") else { return (None, plain) };
    if !item.is_table() {
        return (optional(&item), plain);
    }
    let Some(table) = item.table() else { return (None, plain) };
    table.refuse_others(&["period", "on-miss", "signal"], |_| None);
    let Some(period) = table.get("period") else {
        table.missing("period", "write watchdog = { period = \"30s\", on-miss = \"restart\" }");
        return (None, plain);
    };
    (optional(&period), on_miss(&table, plain))
}

fn on_miss(table: &Table<'_>, plain: OnMiss) -> OnMiss {
    let words = [
        ("event", OnMiss::Event),
        ("signal", OnMiss::default()),
        ("restart", OnMiss::Restart),
        ("reboot", OnMiss::Reboot),
    ];
    let action = table.word("on-miss", &words).unwrap_or(plain);
    let Some(item) = table.get("signal") else { return action };
    if !matches!(action, OnMiss::Signal(_)) {
        item.wrong("it is sent with on-miss = \"signal\" only");
    }
    any_signal(&item).map_or(action, OnMiss::Signal)
}

/// Two instances of one service under one number: the broker could not tell them apart.
pub(super) fn refuse_twins(tables: &[(Name, Table<'_>)]) {
    let mut owners: BTreeMap<i32, &Name> = BTreeMap::new();
    for (name, table) in tables {
        let Some((app_id, _)) = heartbeat(table) else { continue };
        if let (Some(owner), Some(item)) = (owners.get(&app_id), table.get("heartbeat")) {
            item.wrong(format!(
                "app-id {app_id} is the one of instance {owner}; write heartbeat = {{ app-id = ... }} into [instances.{name}]"
            ));
        }
        owners.entry(app_id).or_insert(name);
    }
}

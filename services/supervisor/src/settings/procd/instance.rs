//! One instance of a message. Where procd would hide an instance or run it as root, ours stays listed with an error.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use protocol::keeper::plan::{ARGUMENTS_MAX, VARIABLES_MAX};
use serde_json::{Map, Value, json};

use super::attributes::Attributes;
use crate::settings::{
    Heartbeat, Instance, OnMiss, Policy, Process, Reload, Respawn,
    context::{Context, Identity},
    toml::{PROCD_RESPAWN, STOP_TIMEOUT},
    units,
    users::Wanted,
    watched::{self, WATCHED_MAX},
};

/// What `watchdog` means where no time is given, in seconds.
const WATCHDOG_DEFAULT: u32 = 30;

pub(super) fn read(mut keys: Attributes<'_, '_>, context: &Context, core: bool) -> Instance {
    let mut errors = Vec::new();
    let mut shown = Map::new();
    let process = process(&mut keys, context, core, &mut shown, &mut errors);
    let policy = policy(&mut keys, &mut errors);
    kept(&mut keys, &mut shown, &mut errors);
    match keys.texts("error") {
        Some(Ok(texts)) => errors.extend(texts),
        Some(Err(why)) => errors.push(why),
        None => {}
    }
    keys.finish();
    errors.sort();
    errors.dedup();
    Instance { process, policy, shown, errors }
}

fn process(
    keys: &mut Attributes<'_, '_>,
    context: &Context,
    core: bool,
    shown: &mut Map<String, Value>,
    errors: &mut Vec<String>,
) -> Process {
    let command = command(keys, errors);
    let env = match keys.text_table("env") {
        Some(Ok(env)) => env,
        Some(Err(why)) => {
            errors.push(why);
            BTreeMap::new()
        }
        None => BTreeMap::new(),
    };
    if env.len() > VARIABLES_MAX {
        errors
            .push(format!("env has {} variables, at most {VARIABLES_MAX} are allowed", env.len()));
    }
    if let Some(name) = env.keys().find(|name| name.is_empty() || name.contains('=')) {
        errors.push(format!("env: {name:?} can't be a variable's name"));
    }
    let strings = command.iter().chain(env.keys()).chain(env.values());
    if strings.into_iter().any(|text| text.contains('\0')) {
        errors.push("a text of command or env holds NUL".to_owned());
    }
    let mut process = Process {
        command,
        env,
        directory: PathBuf::from("/"),
        no_new_privileges: keys.boolean("no_new_privs").unwrap_or(false),
        limits: limits(keys, shown),
        nice: nice(keys, errors),
        watchdog: watchdog(keys, shown),
        stdout: keys.boolean("stdout").unwrap_or(false),
        stderr: keys.boolean("stderr").unwrap_or(false),
        pidfile: keys.text("pidfile").map(PathBuf::from),
        ..Process::default()
    };
    identity(keys, context, core, &mut process, shown, errors);
    for name in watched_names(keys, "file") {
        let hash = watched::content(name.as_ref());
        process.files.insert(name.into(), hash);
    }
    for name in watched_names(keys, "netdev") {
        process.netdevs.insert(name.clone(), watched::device_index(&name));
    }
    process
}

fn command(keys: &mut Attributes<'_, '_>, errors: &mut Vec<String>) -> Vec<String> {
    let why = match keys.texts("command") {
        None => "command not set".to_owned(),
        Some(Err(why)) => why,
        Some(Ok(command)) if command.first().is_none_or(String::is_empty) => {
            "command is empty".to_owned()
        }
        Some(Ok(command)) if command.len() > ARGUMENTS_MAX => {
            format!("command has {} texts, at most {ARGUMENTS_MAX} are allowed", command.len())
        }
        Some(Ok(command)) => return command,
    };
    // A bundle stands in for the command; `kept` says that it can't be run.
    if !keys.has("bundle") {
        errors.push(why);
    }
    Vec::new()
}

/// procd keeps the number in eight bits first.
fn nice(keys: &mut Attributes<'_, '_>, errors: &mut Vec<String>) -> Option<i32> {
    let [low, ..] = keys.integer("nice")?.to_le_bytes();
    let nice = i32::from(i8::from_le_bytes([low]));
    if !(-20..=20).contains(&nice) {
        errors.push(format!("nice {nice} is out of range; allowed are -20 to 20"));
        return None;
    }
    // setpriority(2) takes 20 for 19.
    Some(nice.min(19))
}

/// The known ones in numbers, all of them as they were given.
fn limits(
    keys: &mut Attributes<'_, '_>,
    shown: &mut Map<String, Value>,
) -> BTreeMap<u32, (u64, u64)> {
    let mut limits = BTreeMap::new();
    let Some(table) = keys.table("limits") else { return limits };
    let mut given = BTreeMap::new();
    for (name, value) in table {
        let known = units::LIMITS.iter().find(|(known, ..)| known == name);
        let key = format!("limits.{name}");
        match (known, value.as_str()) {
            (None, _) => keys.ignore(&key, "unknown limit"),
            (_, None) => keys.ignore(&key, "not a text"),
            (Some((_, resource, counted)), Some(text)) => match units::limit(text, *counted) {
                Ok(limit) => {
                    limits.insert(*resource as u32, limit);
                    given.insert(name.clone(), Value::from(text));
                }
                Err(why) => keys.ignore(&key, &why),
            },
        }
    }
    if !given.is_empty() {
        shown.insert("limits".to_owned(), given.into_iter().collect());
    }
    limits
}

/// `[mode, seconds]`: 0 is off, 1 and 2 are one thing.
fn watchdog(keys: &mut Attributes<'_, '_>, shown: &mut Map<String, Value>) -> Option<Duration> {
    let values = keys.array("watchdog")?;
    let mode = values.first().map_or(0, number);
    let seconds = values.get(1).map_or(WATCHDOG_DEFAULT, number);
    if !(1..=2).contains(&mode) {
        return None;
    }
    let seconds = if seconds == 0 { WATCHDOG_DEFAULT } else { seconds };
    shown.insert("watchdog".to_owned(), json!({ "mode": mode, "timeout": seconds }));
    Some(Duration::from_secs(u64::from(seconds)))
}

fn identity(
    keys: &mut Attributes<'_, '_>,
    context: &Context,
    core: bool,
    process: &mut Process,
    shown: &mut Map<String, Value>,
    errors: &mut Vec<String>,
) {
    let (user, group) = (keys.text("user"), keys.text("group"));
    match context.identity(Wanted { user, group, groups: None, built_in: core }) {
        Ok(Identity::Changed(user)) => process.user = Some(user),
        Ok(Identity::Unchanged) => {}
        Ok(Identity::Refused(why)) | Err(why) => errors.push(why),
    }
    for (key, name) in [("user", user), ("group", group)] {
        shown.extend(name.map(|name| (key.to_owned(), Value::from(name))));
    }
}

/// The names in `file` or `netdev`; what is no text in it is left out.
fn watched_names(keys: &mut Attributes<'_, '_>, key: &'static str) -> Vec<String> {
    let items = keys.array(key).unwrap_or_default();
    if items.len() > WATCHED_MAX {
        keys.ignore(key, &format!("only the first {WATCHED_MAX} of {} are looked at", items.len()));
    }
    let names = items.iter().take(WATCHED_MAX).filter_map(Value::as_str);
    names.filter(|name| !name.contains('\0')).map(str::to_owned).collect()
}

fn policy(keys: &mut Attributes<'_, '_>, errors: &mut Vec<String>) -> Policy {
    let respawn = keys.array("respawn").map_or(Respawn::Never, |values| {
        let mut all = PROCD_RESPAWN;
        for (place, value) in all.iter_mut().zip(values) {
            *place = number(value);
        }
        let [threshold, timeout, retry] = all;
        Respawn::Procd { threshold, timeout, retry }
    });
    let reload = match keys.integer("reload_signal") {
        None | Some(0) => Reload::None,
        Some(number) => match units::signal_number(i64::from(number)) {
            Ok(signal) => Reload::Signal(signal),
            Err(why) => {
                errors.push(format!("reload_signal: {why}"));
                Reload::None
            }
        },
    };
    let stop_timeout = keys
        .integer("term_timeout")
        .map_or(STOP_TIMEOUT, |seconds| Duration::from_secs(u64::from(seconds.cast_unsigned())));
    Policy {
        respawn,
        critical: None,
        stop_signal: rustix::process::Signal::TERM.as_raw(),
        stop_timeout,
        reload,
        main_only: false,
        heartbeat: Heartbeat::default(),
        watchdog_miss: OnMiss::default(),
    }
}

/// What `service list` shows and nothing here acts on.
fn kept(keys: &mut Attributes<'_, '_>, shown: &mut Map<String, Value>, errors: &mut Vec<String>) {
    for key in ["data", "jail"] {
        shown.extend(keys.table(key).map(|table| (key.to_owned(), Value::from(table.clone()))));
    }
    shown.extend(keys.array("triggers").map(|array| ("triggers".to_owned(), array.into())));
    shown.extend(keys.boolean("trace").map(|trace| ("trace".to_owned(), trace.into())));
    for key in ["seccomp", "capabilities", "bundle", "extroot", "overlaydir", "tmpoverlaysize"] {
        shown.extend(keys.text(key).map(|text| (key.to_owned(), text.into())));
    }
    // Known and without effect: whoever sent it should be able to see that.
    for (key, why) in [
        ("trace", "system calls are not traced"),
        ("seccomp", "system calls are not filtered"),
        ("capabilities", "the file is not read; capabilities can be set in a TOML definition"),
        ("extroot", "there are no containers"),
        ("overlaydir", "there are no containers"),
        ("tmpoverlaysize", "there are no containers"),
        ("jail", "there is no ujail, it runs without one"),
        ("facility", "the log knows service and stream instead"),
        ("watch", "objects are not watched"),
    ] {
        keys.skip(key);
        if keys.has(key) {
            keys.ignore(key, why);
        }
    }
    if keys.has("bundle") {
        errors.push("bundle: there are no containers; give a command".to_owned());
    }
    let required = shown.get("jail").and_then(|jail| jail.get("requirejail"));
    if required.and_then(Value::as_bool) == Some(true) {
        errors.push("jail: requirejail is set and there is no ujail".to_owned());
    }
}

/// C's `atoi`, kept in 32 bits without a sign as procd does: "x" is 0, "-1" is the largest.
fn number(value: &Value) -> u32 {
    let text = match value {
        Value::String(text) => text.trim_start(),
        Value::Number(number) => return number.as_i64().map_or(0, low_bits),
        _ => return 0,
    };
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = digits.bytes().take_while(u8::is_ascii_digit);
    let value = digits.fold(0_i64, |value, digit| {
        value.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
    });
    low_bits(if negative { -value } else { value })
}

fn low_bits(number: i64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

//! The reply of `service list`, in procd's shape and order, with our own keys after procd's. Pure.

use std::collections::BTreeMap;

use protocol::name::Name;
use serde_json::{Map, Value, json};

use crate::settings::{
    Heartbeat, Instance, Process, Reload, Respawn, Rules, Service, Source, units,
};

/// What an instance is doing, as far as `list` tells it. The machine's snapshot is turned into this.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct InstanceView {
    pub(crate) running: bool,
    /// The main process; 0 unless running.
    pub(crate) pid: i32,
    /// As procd counts it: the status, or 128 and the signal. `None`: it has never ended.
    pub(crate) exit_code: Option<i32>,
    /// The machine's word for its state: `ready`, `held`, `done` ...
    pub(crate) state: &'static str,
    pub(crate) ready: bool,
    pub(crate) generation: u32,
    /// How often it was respawned since it was defined, or since the boot.
    pub(crate) restarts: u32,
    /// procd's count of runs shorter than the threshold, or ours of crashes since it was ready for long.
    pub(crate) respawn_count: u32,
    /// Since the main process was spawned; `None` unless running.
    pub(crate) uptime_ms: Option<u64>,
    /// Why the last run ended, in words; empty if there was none.
    pub(crate) last_exit: String,
    /// What the service says of itself (sd_notify STATUS).
    pub(crate) status_text: String,
    /// `ok`, `watched` (the heartbeat broker knows more), `missed`, `suspended`, `frozen`; empty if nobody watches.
    pub(crate) health: &'static str,
    /// What the service said of its last failure (sd_notify ERRNO); 0 if nothing.
    pub(crate) errno: i32,
    /// The desired state: up.
    pub(crate) wanted: bool,
    /// Milliseconds of CLOCK_MONOTONIC: wanted, spawned, ready; what has not happened is left out.
    pub(crate) times: [Option<u64>; 3],
    /// `service watchdog`: mode and seconds, where a caller has set them; else the definition's.
    pub(crate) watchdog: Option<(u32, u32)>,
    /// The same in milliseconds, whoever asked for it, and the time since the last `WATCHDOG=1`.
    pub(crate) watched: Option<(u64, Option<u64>)>,
    /// How often it missed its watchdog or its heartbeats.
    pub(crate) missed: u32,
}

/// One service with the views of its instances; a view without definition is an instance that is being stopped for good.
pub(crate) type Entry<'s> = (&'s Service, &'s BTreeMap<Name, InstanceView>);

/// All services, or the one of this name; an unknown name gives an empty table. `verbose` adds triggers and validation rules.
pub(crate) fn list<'s>(
    entries: impl IntoIterator<Item = Entry<'s>>,
    name: Option<&str>,
    verbose: bool,
) -> Value {
    let wanted = entries
        .into_iter()
        .filter(|(service, _)| name.is_none_or(|name| name == service.name.as_str()));
    let listed =
        wanted.map(|(service, views)| (service.name.to_string(), listed(service, views, verbose)));
    Value::Object(listed.collect())
}

fn listed(service: &Service, views: &BTreeMap<Name, InstanceView>, verbose: bool) -> Value {
    let mut out = Map::new();
    if !service.autostart {
        put(&mut out, "autostart", false);
    }
    if !service.data.is_empty() {
        put(&mut out, "data", service.data.clone());
    }
    let names: std::collections::BTreeSet<&Name> =
        service.instances.keys().chain(views.keys()).collect();
    let never = InstanceView { state: "stopped", ..InstanceView::default() };
    let instances: Map<String, Value> = names
        .into_iter()
        .map(|name| {
            let view = views.get(name).unwrap_or(&never);
            (
                name.to_string(),
                instance(service.instances.get(name).map(|boxed| &**boxed), view, verbose),
            )
        })
        .collect();
    if !instances.is_empty() {
        put(&mut out, "instances", instances);
    }
    if verbose {
        if !service.triggers.is_empty() {
            put(&mut out, "triggers", service.triggers.clone());
        }
        let rules: Vec<Value> = service.rules().rev().map(Rules::shown).collect();
        if !rules.is_empty() {
            put(&mut out, "validate", rules);
        }
    }
    put(&mut out, "source", source(&service.source));
    if !service.ignored.is_empty() {
        put(&mut out, "ignored", service.ignored.clone());
    }
    Value::Object(out)
}

fn instance(definition: Option<&Instance>, view: &InstanceView, verbose: bool) -> Value {
    let mut out = Map::new();
    put(&mut out, "running", view.running);
    if view.running {
        put(&mut out, "pid", view.pid);
    }
    match definition {
        Some(definition) => defined(&mut out, definition, view, verbose),
        None => exit_code(&mut out, view),
    }
    put(&mut out, "state", view.state);
    put(&mut out, "desired", if view.wanted { "up" } else { "down" });
    put(&mut out, "ready", view.ready);
    put(&mut out, "generation", view.generation);
    put(&mut out, "restarts", view.restarts);
    put(&mut out, "respawn_count", view.respawn_count);
    if let Some(uptime) = view.uptime_ms {
        put(&mut out, "uptime_ms", uptime);
    }
    let texts =
        [("last_exit", &*view.last_exit), ("health", view.health), ("status", &view.status_text)];
    for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        put(&mut out, key, text);
    }
    if view.errno != 0 {
        put(&mut out, "errno", view.errno);
    }
    if definition.is_some_and(|definition| definition.policy.critical.is_some()) {
        put(&mut out, "critical", true);
    }
    signs_of_life(&mut out, definition, view);
    let times = ["wanted", "spawned", "ready"].into_iter().zip(view.times);
    let times = times.filter_map(|(key, time)| Some((key.to_owned(), time?.into())));
    let times: Map<String, Value> = times.collect();
    if !times.is_empty() {
        put(&mut out, "times_ms", times);
    }
    Value::Object(out)
}

/// By which signs of life it is watched, and how often they were missing.
fn signs_of_life(out: &mut Map<String, Value>, definition: Option<&Instance>, view: &InstanceView) {
    if let Some((definition, app_id)) =
        definition.and_then(|definition| Some((definition, definition.process.app_id?)))
    {
        let Heartbeat { period, misses, on_miss, .. } = &definition.policy.heartbeat;
        let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        let heartbeat = json!({
            "app_id": app_id, "period_ms": period_ms, "misses": misses, "on_miss": on_miss.word(),
        });
        put(out, "heartbeat", heartbeat);
    }
    if let Some((period_ms, age_ms)) = view.watched {
        let on_miss = definition.map(|definition| definition.policy.watchdog_miss);
        let mut watched = json!({ "period_ms": period_ms });
        if let Some(age_ms) = age_ms {
            watched["age_ms"] = age_ms.into();
        }
        watched["on_miss"] = on_miss.unwrap_or_default().word().into();
        put(out, "watched", watched);
    }
    if view.missed > 0 {
        put(out, "missed", view.missed);
    }
}

fn exit_code(out: &mut Map<String, Value>, view: &InstanceView) {
    if let Some(code) = view.exit_code.filter(|_| !view.running) {
        put(out, "exit_code", code);
    }
}

/// procd's keys of an instance from `command` on, in procd's order.
fn defined(
    out: &mut Map<String, Value>,
    definition: &Instance,
    view: &InstanceView,
    verbose: bool,
) {
    let Instance { process, policy, shown, errors } = definition;
    let keep = |out: &mut Map<String, Value>, key: &str| {
        out.extend(shown.get(key).map(|value| (key.to_owned(), value.clone())));
    };
    if !process.command.is_empty() {
        put(out, "command", process.command.clone());
    }
    keep(out, "bundle");
    put(out, "term_timeout", policy.stop_timeout.as_secs());
    exit_code(out, view);
    if !errors.is_empty() {
        put(out, "errors", errors.clone());
    }
    if !process.env.is_empty() {
        put(out, "env", table(&process.env));
    }
    keep(out, "data");
    match shown.get("limits") {
        Some(given) => put(out, "limits", given.clone()),
        None => out.extend(limits(process).map(|limits| ("limits".to_owned(), limits))),
    }
    if !process.netdevs.is_empty() {
        put(out, "netdev", process.netdevs.keys().cloned().collect::<Vec<_>>());
    }
    if let Reload::Signal(signal) = policy.reload {
        put(out, "reload_signal", signal);
    }
    if let Respawn::Procd { threshold, timeout, retry } = policy.respawn {
        // procd prints its 32 bits with a sign: -1 is "for ever".
        let [threshold, timeout, retry] = [threshold, timeout, retry].map(u32::cast_signed);
        put(out, "respawn", json!({ "threshold": threshold, "timeout": timeout, "retry": retry }));
    }
    if shown.get("trace") == Some(&Value::Bool(true)) {
        put(out, "trace", true);
    }
    if process.no_new_privileges {
        put(out, "no_new_privs", true);
    }
    keep(out, "seccomp");
    keep(out, "capabilities");
    if let Some(pidfile) = &process.pidfile {
        put(out, "pidfile", pidfile.to_string_lossy());
    }
    let user = process.user.as_ref();
    for (key, name) in [
        ("user", user.and_then(|user| user.name.as_ref())),
        ("group", user.and_then(|user| user.group_name.as_ref())),
    ] {
        match name {
            Some(name) => put(out, key, name.as_str()),
            None => keep(out, key),
        }
    }
    if let Some(Value::Object(jail)) = shown.get("jail") {
        jailed(out, jail);
    }
    for key in ["extroot", "overlaydir", "tmpoverlaysize"] {
        keep(out, key);
    }
    if verbose {
        keep(out, "triggers");
    }
    match view.watchdog {
        Some((0, _)) => {}
        Some((mode, timeout)) => put(out, "watchdog", json!({ "mode": mode, "timeout": timeout })),
        None => keep(out, "watchdog"),
    }
}

/// procd shows the mounts and namespaces of a jail beside it.
fn jailed(out: &mut Map<String, Value>, jail: &Map<String, Value>) {
    const ORDER: [&str; 11] = [
        "name",
        "hostname",
        "procfs",
        "sysfs",
        "ubus",
        "log",
        "ronly",
        "netns",
        "userns",
        "cgroupsns",
        "console",
    ];
    let inner = ORDER.into_iter().filter_map(|key| Some((key.to_owned(), jail.get(key)?.clone())));
    put(out, "jail", inner.collect::<Map<String, Value>>());
    for key in ["mount", "setns"] {
        out.extend(jail.get(key).map(|value| (key.to_owned(), value.clone())));
    }
}

fn put(out: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    out.insert(key.to_owned(), value.into());
}

fn table(texts: &BTreeMap<String, String>) -> Map<String, Value> {
    texts.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str()))).collect()
}

/// The kernel's limits as procd would have been told them.
fn limits(process: &Process) -> Option<Value> {
    let text = |limit: u64| match limit {
        u64::MAX => "unlimited".to_owned(),
        number => number.to_string(),
    };
    let limits: Map<String, Value> = units::LIMITS
        .iter()
        .filter_map(|(name, resource, _)| {
            let (soft, hard) = process.limits.get(&(*resource as u32))?;
            Some(((*name).to_owned(), format!("{} {}", text(*soft), text(*hard)).into()))
        })
        .collect();
    (!limits.is_empty()).then_some(Value::Object(limits))
}

/// Where a definition stands, for a person.
pub(crate) fn source(source: &Source) -> String {
    match source {
        Source::BuiltIn => "built-in".to_owned(),
        Source::File(path) => path.display().to_string(),
        Source::LastGood(path) => format!("last good copy of {}", path.display()),
        Source::Message => "message".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{context::tests::device, procd};

    fn service() -> Service {
        let message = json!({
            "name": "s", "autostart": false, "data": { "d": 1 }, "triggers": [["e", []]],
            "validate": [
                { "package": "p", "type": "one", "data": { "o": "bool" } },
                { "package": "p", "type": "two", "data": { "o": "port", "x": 1 } },
                { "package": "p" },
            ],
            "checked": [{ "package": "q", "type": "three", "data": { "o": "host" } }],
            "instances": {
                "b": { "command": [] },
                "a": {
                    "watchdog": ["1", "9"], "user": "cam", "respawn": ["1", "2", "-1"], "reload_signal": 1,
                    "env": { "Z": "1", "A": "2" }, "command": ["/x"], "limits": { "nofile": "1 2" },
                    "netdev": ["lo"], "data": { "k": 1 }, "pidfile": "/p", "no_new_privs": true, "odd": 1,
                    "triggers": [],
                },
            },
        });
        procd::read(&message, &device(0)).unwrap().over(None)
    }

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn procds_keys_come_first_and_in_procds_order() {
        let service = service();
        let view = InstanceView {
            running: true,
            pid: 7,
            state: "ready",
            ready: true,
            uptime_ms: Some(5),
            ..InstanceView::default()
        };
        let views = [(Name::new("a").unwrap(), view)].into();
        let listed = list([(&service, &views)], None, false);
        let listed = &listed["s"];
        assert_eq!(keys(listed), ["autostart", "data", "instances", "source", "ignored"]);
        assert_eq!(
            keys(&listed["instances"]["a"]),
            [
                "running",
                "pid",
                "command",
                "term_timeout",
                "env",
                "data",
                "limits",
                "netdev",
                "reload_signal",
                "respawn",
                "no_new_privs",
                "pidfile",
                "user",
                "watchdog",
                "state",
                "desired",
                "ready",
                "generation",
                "restarts",
                "respawn_count",
                "uptime_ms",
            ]
        );
        let a = &listed["instances"]["a"];
        assert_eq!(a["respawn"], json!({ "threshold": 1, "timeout": 2, "retry": -1 }));
        assert_eq!((keys(&a["env"]), &a["limits"]), (vec!["A", "Z"], &json!({ "nofile": "1 2" })));
        let b = &listed["instances"]["b"];
        assert_eq!((&b["running"], &b["errors"]), (&json!(false), &json!(["command is empty"])));
        assert_eq!(listed["ignored"], json!(["instances.a.odd: unknown key"]));
    }

    #[test]
    fn verbose_adds_triggers_and_the_rules_newest_first() {
        let service = service();
        let listed = list([(&service, &BTreeMap::new())], Some("s"), true);
        assert_eq!(listed["s"]["triggers"], json!([["e", []]]));
        let rules = json!([
            { "package": "q", "type": "three", "rules": { "o": "host" } },
            { "package": "p", "type": "two", "rules": { "o": "port" } },
            { "package": "p", "type": "one", "rules": { "o": "bool" } },
        ]);
        assert_eq!(listed["s"]["validate"], rules);
        assert_eq!(listed["s"]["instances"]["a"]["triggers"], json!([]));
    }

    #[test]
    fn an_unknown_name_gives_an_empty_table_and_an_ending_instance_is_still_there() {
        let service = service();
        assert_eq!(list([(&service, &BTreeMap::new())], Some("t"), false), json!({}));
        let view = InstanceView {
            state: "stopping",
            exit_code: Some(143),
            watchdog: Some((0, 30)),
            ..InstanceView::default()
        };
        let views =
            [(Name::new("gone").unwrap(), view.clone()), (Name::new("a").unwrap(), view)].into();
        let listed = list([(&service, &views)], None, false);
        assert_eq!(listed["s"]["instances"]["gone"]["exit_code"], 143);
        assert_eq!(listed["s"]["instances"]["a"].get("watchdog"), None);
    }

    #[test]
    fn an_empty_service_lists_as_procds_with_its_source() {
        let service =
            procd::read(&json!({ "name": "s", "instances": {} }), &device(0)).unwrap().over(None);
        assert_eq!(
            list([(&service, &BTreeMap::new())], None, true),
            json!({ "s": { "source": "message" } })
        );
    }
}

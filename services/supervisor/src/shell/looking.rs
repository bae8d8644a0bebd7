//! What callers see of services: procd's `list` and `get_data`, and a report of what is wrong.

use std::{collections::BTreeMap, time::Duration};

use daemon::clock;
use protocol::{name::Name, service, time::Moment};
use serde_json::{Map, Value, json};

use super::Shell;
use crate::{
    listing,
    machine::{InstanceView, Means},
};

impl Shell {
    pub(crate) fn list(&self, args: &service::List) -> Value {
        let name = args.name.as_ref();
        let now = clock::now();
        let mut views: BTreeMap<Name, BTreeMap<Name, listing::InstanceView>> = BTreeMap::new();
        for view in self.machine.view(name) {
            let of_service = views.entry(view.service.name.clone()).or_default();
            of_service.insert(view.instance.clone(), seen(&view, now));
        }
        let none = BTreeMap::new();
        let entries = self
            .machine
            .definitions()
            .map(|service| (&**service, views.get(&service.name).unwrap_or(&none)));
        let mut listed = listing::list(entries, name.map(Name::as_str), args.verbose);
        for (name, service) in listed.as_object_mut().into_iter().flatten() {
            let Ok(name) = Name::new(name.clone()) else { continue };
            let invalid = self.machine.invalid_of(&name);
            if !invalid.is_empty() {
                service["invalid"] = json!(invalid);
            }
            let queued = self.machine.queued_of(&name);
            if args.verbose && !queued.is_empty() {
                service["queue"] = Value::Array(queued);
            }
        }
        listed
    }

    /// procd's `get_data`: `{service: {"*": service data, instance: instance data}}`, empty tables left out; with a type only
    /// that key of each. `instance` doesn't filter "*".
    pub(crate) fn get_data(&self, args: &service::GetData) -> Value {
        let mut found = Map::new();
        for service in self.machine.definitions() {
            if args.name.as_ref().is_some_and(|name| service.name != *name) {
                continue;
            }
            let mut tables = Map::new();
            let mut put = |key: &str, data: &Map<String, Value>| {
                let of_type = |(key, value): (&String, &Value)| {
                    args.kind
                        .as_ref()
                        .is_none_or(|wanted| wanted == key)
                        .then(|| (key.clone(), value.clone()))
                };
                let data: Map<_, _> = data.iter().filter_map(of_type).collect();
                if !data.is_empty() {
                    tables.insert(key.to_owned(), Value::Object(data));
                }
            };
            put("*", &service.data);
            for (name, instance) in &service.instances {
                if let (true, Some(Value::Object(data))) = (
                    args.instance.as_ref().is_none_or(|wanted| wanted == name),
                    instance.shown.get("data"),
                ) {
                    put(name.as_str(), data);
                }
            }
            if !tables.is_empty() {
                found.insert(service.name.to_string(), Value::Object(tables));
            }
        }
        Value::Object(found)
    }

    /// procd's `validate`: the rules of all services together; of what is given twice the later service's counts.
    pub(crate) fn rules(&self, args: &service::Validate) -> service::Rules {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|it| it == is);
        let mut found = service::Rules::new();
        let named = |service: &&std::sync::Arc<crate::settings::Service>| {
            args.service.as_ref().is_none_or(|name| service.name == *name)
        };
        for rules in self.machine.definitions().filter(named).flat_map(|it| it.rules()) {
            if !fits(&args.package, &rules.package) || !fits(&args.kind, &rules.kind) {
                continue;
            }
            let types = found.entry(rules.package.clone()).or_default();
            types.entry(rules.kind.clone()).or_default().extend(rules.options.iter().cloned());
        }
        found
    }

    /// What of a service is frozen, and by what; by signals, if that is so of any of it.
    pub(crate) fn frozen_of(&self, service: &Name, instance: Option<&Name>) -> service::Frozen {
        let mut frozen = service::Frozen::default();
        for view in self.machine.view(Some(service)) {
            let Some(means) = view.frozen else { continue };
            if instance.is_none_or(|instance| view.instance == *instance) {
                if means == Means::Signals || frozen.instances.is_empty() {
                    frozen.means = means.word().to_owned();
                }
                frozen.instances.push(view.instance);
            }
        }
        frozen
    }

    /// procd's answer to `service watchdog`.
    pub(crate) fn watchdog_of(&self, service: &Name, instance: &Name) -> service::WatchdogReply {
        let views = self.machine.view(Some(service));
        let view = views.iter().find(|view| view.instance == *instance);
        let period = view.and_then(|view| view.watchdog).unwrap_or_default();
        service::WatchdogReply {
            name: service.clone(),
            instance: instance.clone(),
            mode: view.and_then(|view| view.watchdog_mode).unwrap_or(0),
            timeout: u32::try_from(period.as_secs()).unwrap_or(u32::MAX),
        }
    }

    /// `service report`: what is wrong with definitions, and who runs.
    pub(crate) fn report(&self) -> Value {
        let mut report = json!({
            "problems": self.definitions.problems(),
            "skipped": self.definitions.skipped(),
            "supervisor": { "pid": std::process::id(), "starts": self.supervisor_starts },
            "keeper": { "pid": self.keeper_pid, "pid_one": self.pid_one, "starts": self.keeper_starts },
            "endpoint": self.server.counters(),
        });
        if let Some(rescue) = self.definitions.rescue() {
            report["rescue"] = json!(rescue);
        }
        if let Some(reset) = self.machine.boot().and_then(|boot| boot.reset.as_ref()) {
            report["reset"] = json!(reset);
        }
        report
    }
}

/// The machine's view of an instance, in the words of the listing.
fn seen(view: &InstanceView, now: Moment) -> listing::InstanceView {
    let last_exit = match view.detail.is_empty() {
        true => view.reason.clone(),
        false if view.detail.contains(&view.reason) => view.detail.clone(),
        false => format!("{}; {}", view.detail, view.reason),
    };
    let ready = matches!(view.state, "ready" | "reloading");
    listing::InstanceView {
        running: view.running,
        pid: if view.running { view.slot.pid } else { 0 },
        exit_code: view.exit_code,
        state: view.state,
        ready,
        generation: view.slot.generation,
        restarts: view.restarts,
        respawn_count: view.respawns,
        uptime_ms: view.running.then(|| milliseconds(now.since(view.slot.spawned_at))),
        last_exit,
        status_text: view.status.clone(),
        errno: view.errno,
        wanted: view.wanted,
        times: [view.times.wanted_at, view.times.spawned_at, view.times.ready_at]
            .map(|time| time.map(|time| time.0 / 1_000_000)),
        health: match (view.slot.suspended, view.watchdog) {
            _ if view.frozen.is_some() => "frozen",
            _ if view.missing && view.running => "missed",
            (true, _) => "suspended",
            (false, Some(_)) if view.running => "ok",
            // How it stands the broker knows.
            (false, None) if view.running && reports(view) => "watched",
            _ => "",
        },
        missed: view.misses,
        watched: view.watchdog.map(|period| {
            let age = view.watchdog_heard.filter(|_| view.running);
            (milliseconds(period), age.map(|heard| milliseconds(now.since(heard))))
        }),
        watchdog: view.watchdog.map(|period| {
            let seconds = u32::try_from(period.as_secs()).unwrap_or(u32::MAX);
            (view.watchdog_mode.unwrap_or(0), seconds)
        }),
    }
}

/// Whether it is to report heartbeats.
fn reports(view: &InstanceView) -> bool {
    let definition = view.service.instances.get(&view.instance);
    definition.is_some_and(|definition| definition.process.app_id.is_some())
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

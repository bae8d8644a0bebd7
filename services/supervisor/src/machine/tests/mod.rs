//! Scenarios, told as events on a clock that the test owns, against a model of the keeper.

mod boot;
mod device;
mod frozen;
mod full;
mod heartbeats;
mod interleavings;
mod keeper;
mod on_demand;
mod order;
mod replace;
mod requests;
mod respawn;
mod restarts_of_the_supervisor;
mod shutdown;
mod triggers;
mod unkillable;
mod watching;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use protocol::{keeper::ShutdownKind, name::Name, system::Cause};

use self::device::Device;
use super::*;
use crate::settings::{
    self, Policy, Process, Readiness, ReadinessKind, Reload, Respawn, RespawnWhen, Service, Source,
};

const SECOND: Duration = Duration::from_secs(1);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn instance() -> settings::Instance {
    settings::Instance {
        process: Process { command: vec!["/bin/true".to_owned()], ..Process::default() },
        policy: Policy {
            respawn: Respawn::Backoff { when: RespawnWhen::OnFailure, max_restarts: None },
            critical: None,
            stop_signal: 15,
            stop_timeout: 5 * SECOND,
            reload: Reload::None,
            main_only: false,
            heartbeat: settings::Heartbeat::default(),
            watchdog_miss: settings::OnMiss::default(),
        },
        shown: serde_json::Map::new(),
        errors: Vec::new(),
    }
}

/// A service of one instance, read from a file, started at boot.
fn service(text: &str) -> Service {
    Service {
        name: name(text),
        source: Source::File(PathBuf::from(format!("{text}.toml"))),
        autostart: true,
        start: 50,
        stop: None,
        after: Vec::new(),
        requires: Vec::new(),
        wants: Vec::new(),
        conflicts: Vec::new(),
        conditions: Vec::new(),
        core: false,
        on_demand: None,
        instances: BTreeMap::from([(name("instance1"), Box::new(instance()))]),
        data: serde_json::Map::new(),
        triggers: Vec::new(),
        validate: Vec::new(),
        checked: Vec::new(),
        ignored: Vec::new(),
    }
}

fn with(text: &str, change: impl FnOnce(&mut Service)) -> Arc<Service> {
    let mut service = service(text);
    change(&mut service);
    Arc::new(service)
}

fn plain(text: &str) -> Arc<Service> {
    with(text, |_| {})
}

/// Says itself when it is ready.
fn notifying(text: &str, change: impl FnOnce(&mut Service)) -> Arc<Service> {
    with(text, |service| {
        main(service).process.readiness =
            Readiness { kind: ReadinessKind::Notify, timeout: Some(10 * SECOND) };
        change(service);
    })
}

/// Somebody asks for the end of everything.
fn shutdown(kind: ShutdownKind) -> Event {
    let ending = Ending { cause: Cause::Ordered, reason: "a test asks".to_owned() };
    Event::Shutdown { kind, ending }
}

fn main(service: &mut Service) -> &mut settings::Instance {
    service.instances.values_mut().next().unwrap()
}

//! Read-only copies for `status` and `list`.

use std::{sync::Arc, time::Duration};

use protocol::{
    keeper::{Exit, SlotState},
    name::Name,
    time::Moment,
};

use super::{
    Supervisor,
    drive::Blocker,
    frozen::Means,
    instance::{Life, State, Times, UNKILLABLE},
};
use crate::settings::Service;

/// One instance, as it is now.
#[derive(Clone, Debug)]
pub(crate) struct InstanceView {
    pub(crate) service: Arc<Service>,
    pub(crate) instance: Name,
    /// One word: stopped (or `on demand`), waiting, checking, pausing, starting, ready, reloading, stopping, done, held, failed, unkillable, frozen.
    pub(crate) state: &'static str,
    /// What is behind the word, for a person; may be empty.
    pub(crate) detail: String,
    /// The desired state: up.
    pub(crate) wanted: bool,
    pub(crate) running: bool,
    /// By what it is kept from running.
    pub(crate) frozen: Option<Means>,
    /// What the keeper said last: slot, generation, pid, exit, suspended.
    pub(crate) slot: SlotState,
    pub(crate) exit_code: Option<i32>,
    /// How the last run ended, in words.
    pub(crate) reason: String,
    pub(crate) restarts: u32,
    /// procd's counter since the last fresh start.
    pub(crate) respawns: u32,
    /// What the instance says of itself (`STATUS=`, `ERRNO=`).
    pub(crate) status: String,
    pub(crate) errno: i32,
    pub(crate) watchdog: Option<Duration>,
    /// The last `WATCHDOG=1`, or when it was ready.
    pub(crate) watchdog_heard: Option<Moment>,
    /// How often it missed its watchdog or its heartbeats.
    pub(crate) misses: u32,
    /// It has given no sign of life since the last of them.
    pub(crate) missing: bool,
    /// procd's watchdog mode, where somebody has set one.
    pub(crate) watchdog_mode: Option<u32>,
    pub(crate) times: Times,
}

impl Supervisor {
    /// All instances, or those of one service, in the order of their names; then those for which there is no room.
    pub(crate) fn view(&self, name: Option<&Name>) -> Vec<InstanceView> {
        let is_meant = |service: &Service| name.is_none_or(|name| *name == service.name);
        self.services
            .values()
            .filter(|entry| is_meant(&entry.service))
            .flat_map(|entry| entry.slots.values())
            .filter_map(|slot| self.lives.get(slot))
            .chain(self.left_out.values().filter(|life| is_meant(&life.service)))
            .map(|life| self.view_of(life))
            .collect()
    }

    /// All definitions, also those without an instance.
    pub(crate) fn definitions(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values().map(|entry| &entry.service)
    }

    pub(crate) fn defines(&self, name: &Name) -> bool {
        self.services.get(name).is_some_and(|entry| !entry.leaving)
    }

    /// The service that serves an object on demand.
    pub(crate) fn activated_by(&self, object: &str) -> Option<&Arc<Service>> {
        self.definitions().find(|service| {
            let objects = service.on_demand.iter().flat_map(|on_demand| &on_demand.objects);
            objects.into_iter().any(|its| its == object)
        })
    }

    /// Whose slot this is.
    pub(crate) fn owner(&self, slot: u32) -> Option<(&Arc<Service>, &Name)> {
        self.lives.get(&slot).map(|life| (&life.service, &life.name))
    }

    fn view_of(&self, life: &Life) -> InstanceView {
        let (state, detail) = self.state_of(life);
        InstanceView {
            service: life.service.clone(),
            instance: life.name.clone(),
            state,
            detail,
            wanted: life.wanted,
            running: life.running(),
            frozen: life.frozen.and_then(|frozen| frozen.means()),
            slot: life.seen,
            exit_code: match life.seen.exit {
                Exit::None => None,
                exit => super::exits::exit_code(exit),
            },
            reason: life.reason.clone(),
            restarts: life.restarts,
            respawns: life.backoff.respawns(),
            status: life.status.clone(),
            errno: life.errno,
            watchdog: life.health.period(life.settings().process.watchdog),
            watchdog_heard: life.health.heard(),
            misses: life.misses,
            missing: life.missing,
            watchdog_mode: life.watchdog_mode,
            times: life.times,
        }
    }

    fn state_of(&self, life: &Life) -> (&'static str, String) {
        if life.unkillable {
            return ("unkillable", UNKILLABLE.to_owned());
        }
        if let Some(means) = life.frozen.and_then(|frozen| frozen.means()) {
            return ("frozen", format!("by {}, until it is thawed", means.word()));
        }
        let suspended =
            || if life.seen.suspended { "suspended by a signal" } else { "" }.to_owned();
        match &life.state {
            State::Stopped if life.wanted => match self.missing_requirement(&life.service.name) {
                Some(other) => ("waiting", format!("for {other}, which is required")),
                None => ("waiting", String::new()),
            },
            State::Stopped => match &life.service.on_demand {
                Some(on_demand) => (
                    "on demand",
                    format!("started when somebody looks for {}", on_demand.objects.join(", ")),
                ),
                None => ("stopped", String::new()),
            },
            State::Waiting => {
                let detail = match self.blocker(life) {
                    Some(Blocker::Service(other)) => format!("for {other} to be ready"),
                    Some(Blocker::Rival(other)) => {
                        format!("for {other} to end, the two exclude each other")
                    }
                    Some(Blocker::Core) => "for the core services".to_owned(),
                    Some(Blocker::Order) => "for services with lower start numbers".to_owned(),
                    None => String::new(),
                };
                ("waiting", detail)
            }
            State::Checking => ("checking", "the conditions".to_owned()),
            State::Pausing { .. } => {
                ("pausing", format!("before the next respawn: {}", life.reason))
            }
            State::Starting { .. } => ("starting", suspended()),
            State::Ready => ("ready", suspended()),
            State::Reloading { .. } => ("reloading", suspended()),
            State::Stopping { .. } => ("stopping", suspended()),
            State::Done { .. } => ("done", life.reason.clone()),
            State::Held { reason } => ("held", reason.clone()),
            State::Failed { reason } => ("failed", reason.clone()),
        }
    }
}

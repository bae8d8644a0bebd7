//! Stops services, lets their component point to another slot or be loaded from it, and starts them again. Which ones were stopped is on disk from
//! before the first is stopped until the last one is back, so that none stays down because this process ended in between.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use daemon::clock;
use endpoint::{Bus, CallError, CallOptions, Code};
use protocol::{
    name::Name,
    service::{List, Order},
};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::{links, loaded::Loaded, store::Folder};
use crate::{
    disk::Store as _,
    engine::contract::{SlotId, Switch, Switched},
    settings::Component,
};

/// How long a service may take to stop; the supervisor kills it long before.
const STOP: Duration = Duration::from_secs(60);
const LIST: Duration = Duration::from_secs(10);
const STOPPED: &str = "stopped.json";
const STOPPED_MAX: usize = 64 << 10;

/// What the supervisor says of all services, in procd's shape.
pub(crate) type Services = Map<String, Value>;

/// Asks the supervisor for all services.
///
/// # Errors
/// Why it can't be asked.
pub(crate) async fn list(bus: &Bus) -> Result<Services, String> {
    let options = CallOptions { deadline: LIST, ..CallOptions::safe() };
    let answer = bus.call("service", "list", &List::default(), options).await;
    let answer = answer.map_err(|error| format!("ask the supervisor for its services: {error}"))?;
    answer.parse().map_err(|error| format!("what the supervisor says of its services: {error}"))
}

/// The instances of a service in [`list`].
pub(crate) fn instances(service: &Value) -> impl Iterator<Item = (&String, &Value)> {
    service["instances"].as_object().into_iter().flatten()
}

/// Switches components that are restarted.
pub(crate) struct Switcher {
    pub(crate) bus: Bus,
    pub(crate) components: Vec<Component>,
    pub(crate) folder: Folder,
    pub(crate) loaded: Arc<Loaded>,
    /// How long a service may take to become ready.
    pub(crate) ready: Duration,
    /// One switch at a time; whoever observes waits for it.
    pub(crate) gate: Mutex<()>,
}

impl Switcher {
    /// Lets components use these slots.
    ///
    /// # Errors
    /// What went wrong. The services are started whatever happens.
    pub(crate) async fn switch(&self, switch: &Switch) -> Result<Switched, String> {
        let _gate = self.gate.lock().await;
        let slots: Vec<SlotId> = switch.uses.iter().map(|using| using.slot).collect();
        let names = self.services(&slots);
        let running = match names.is_empty() {
            true => Vec::new(),
            false => self.running(&names).await?,
        };
        self.remember(&running)?;
        let begun = clock::now();
        let mut switched = self.stop(&running).await;
        if switched.is_ok() {
            switched = self.point(&slots);
        }
        let loaded = match switched {
            Ok(()) => self.loaded.switch(switch).await,
            Err(error) => Err(error),
        };
        let started = self.start(&running).await;
        let outage = if running.is_empty() { Duration::ZERO } else { clock::now().since(begun) };
        let remarks = loaded.and_then(|remarks| started.map(|()| remarks))?;
        self.forget()?;
        let outage_ms = u64::try_from(outage.as_millis()).unwrap_or(u64::MAX);
        Ok(Switched { outage_ms, remarks })
    }

    /// Starts what an earlier process had stopped and not started again.
    ///
    /// # Errors
    /// What could not be started; it is tried again by the next process.
    pub(crate) async fn resume(&self) -> Result<(), String> {
        let _gate = self.gate.lock().await;
        let stopped: Vec<Name> = self.stopped().into_iter().collect();
        if stopped.is_empty() {
            return Ok(());
        }
        self.start(&stopped).await?;
        self.forget()
    }

    /// Lets links point to slots; each names what is wrong with it.
    ///
    /// # Errors
    /// The first link that could not be changed.
    pub(crate) fn point(&self, slots: &[SlotId]) -> Result<(), String> {
        for slot in slots {
            let Some(component) = self.components.get(slot.component) else { continue };
            let target = component.slots.get(slot.letter.index());
            if let (Some(method), Some(target)) = (&component.method, target) {
                links::point(method, target).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Services of these components, in the order of the configuration, each once.
    fn services(&self, slots: &[SlotId]) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::new();
        let components = slots.iter().filter_map(|slot| self.components.get(slot.component));
        // Around what is loaded into memory nothing stands still.
        let components = components.filter(|component| !component.activation.is_loaded());
        for name in components.flat_map(|component| &component.services) {
            match Name::new(name.as_str()) {
                Ok(name) if !names.contains(&name) => names.push(name),
                Ok(_) => {}
                Err(error) => tracing::error!("upgrade.toml: service {name:?}: {error}"),
            }
        }
        names
    }

    /// Those of them that are wanted, and those that we had stopped before.
    async fn running(&self, names: &[Name]) -> Result<Vec<Name>, String> {
        let (listed, stopped) = (list(&self.bus).await?, self.stopped());
        let wanted = |name: &Name| match listed.get(name.as_str()) {
            Some(service) => {
                stopped.contains(name) || instances(service).any(|(_, one)| one["desired"] == "up")
            }
            None => {
                tracing::warn!(
                    "upgrade.toml names the service {name}, which the supervisor doesn't know"
                );
                false
            }
        };
        Ok(names.iter().filter(|name| wanted(name)).cloned().collect())
    }

    async fn stop(&self, names: &[Name]) -> Result<(), String> {
        for name in names {
            self.order("stop", name, STOP).await?;
        }
        Ok(())
    }

    async fn start(&self, names: &[Name]) -> Result<(), String> {
        let mut started = Ok(());
        for name in names {
            // One that does not come up must not keep the others down.
            started = started.and(self.order("start", name, self.ready).await);
        }
        started
    }

    async fn order(&self, method: &str, name: &Name, within: Duration) -> Result<(), String> {
        let order = Order { name: name.clone(), instance: None, wait: true };
        // Both may be done twice.
        let options = CallOptions { deadline: within, ..CallOptions::safe() };
        match self.bus.call("service", method, &order, options).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused(failure)) if failure.code == Code::NotFound => {
                tracing::warn!("{method} {name}: {failure}");
                Ok(())
            }
            Err(error) => Err(format!("{method} {name}: {error}")),
        }
    }

    fn stopped(&self) -> BTreeSet<Name> {
        let bytes = self.folder.clone().read(STOPPED, STOPPED_MAX);
        let bytes = bytes.inspect_err(|error| tracing::error!("{error}")).ok().flatten();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn remember(&self, names: &[Name]) -> Result<(), String> {
        if names.is_empty() {
            return Ok(());
        }
        let mut stopped = self.stopped();
        stopped.extend(names.iter().cloned());
        let json = serde_json::to_vec(&stopped).map_err(|error| error.to_string())?;
        self.folder.clone().replace(STOPPED, &json).map_err(|error| error.to_string())
    }

    fn forget(&self) -> Result<(), String> {
        self.folder.clone().remove(STOPPED).map_err(|error| error.to_string())
    }
}

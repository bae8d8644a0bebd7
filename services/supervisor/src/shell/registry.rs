//! The supervisor among the others: its objects in the registry, its happenings as events, and objects that instances wait
//! for. All of it may be away: nothing here is needed for anything to run.
//!
//! The registry is one of our services. Where none is defined nobody is looked for; one that isn't there for the time of the
//! retry policy is given up, until it is started.

use endpoint::{Change, Lives, Registration, RetryPolicy, State};
use protocol::{keeper::Phase, name::Name};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Inbound, Shell,
    identify::{Identifier, Place},
    notify::{Line, Notification},
    probe::Probe,
};
use crate::machine::{Happening, Notice};

/// The service that is the registry.
const REGISTRY: &str = "registry";
/// Our own socket, as the registry proves it.
const SOCKET: &str = "supervisor.sock";

/// Our part in the registry, as long as there is one, or may soon be.
pub(crate) struct Membership {
    registration: Registration,
    /// Tells the loop that the registry was given up.
    watcher: JoinHandle<()>,
    /// Tells the loop that the machine slept.
    sleep: JoinHandle<()>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.watcher.abort();
        self.sleep.abort();
    }
}

/// An instance that is ready when this object is registered by a process of it.
#[derive(Debug)]
pub(crate) struct Awaited {
    generation: u32,
    object: String,
}

impl Shell {
    /// Becomes a member, if there is something to be a member of.
    pub(super) fn join_registry(&mut self) {
        if self.membership.is_some() || !is_registry_defined(&self.machine) {
            return;
        }
        let run = self.workshop.run_dir().to_owned();
        let registration = self.bus.register(&self.server, run.join(SOCKET), RetryPolicy::DEFAULT);
        let (mut state, inbox) = (registration.state(), self.back.clone());
        let watcher = tokio::spawn(async move {
            if state.wait_for(|state| *state == State::Exhausted).await.is_ok() {
                // Nobody listens where the supervisor is leaving.
                let _ = inbox.send(Inbound::RegistryGivenUp).await;
            }
        });
        let sleep = tokio::spawn(resumed(self.bus.lives(), self.back.clone()));
        self.membership = Some(Membership { registration, watcher, sleep });
        for slot in self.awaited.keys().copied().collect::<Vec<_>>() {
            self.watch_for(slot);
        }
    }

    /// It didn't come: nothing waits for it any more, and nothing wakes us for its sake until it is started.
    pub(super) fn registry_given_up(&mut self) {
        self.membership = None;
    }

    /// A process was started or has ended; the registry's may be the one that was given up.
    pub(super) fn look_at_registry(&mut self, slot: u32, phase: Phase) {
        let is_registry =
            self.machine.owner(slot).is_some_and(|(service, _)| service.name.as_str() == REGISTRY);
        if is_registry && phase == Phase::Running {
            self.join_registry();
        }
    }

    /// To the log, and to whoever subscribed. procd's names say the same as ours, so in the log they are for who wants to
    /// see everything.
    pub(super) fn publish(&self, happening: &Happening) {
        let Happening { topic, data } = happening;
        match topic.starts_with("instance.") {
            true => tracing::debug!("{topic} {data}"),
            false => tracing::info!("{topic} {data}"),
        }
        if self.membership.is_some()
            && let Err(failure) = self.bus.publish(topic, data, false)
        {
            tracing::warn!("{topic} is not published: {failure}");
        }
    }

    /// Lets what was published go out before we leave, where somebody takes it.
    pub(super) async fn flush_events(&self) {
        if let Some(Membership { registration, .. }) = &self.membership
            && matches!(*registration.state().borrow(), State::Registered { .. })
        {
            self.bus.flush(super::DRAIN_TIME).await;
        }
    }

    /// An instance is ready when it has registered this object.
    pub(super) fn await_object(&mut self, slot: u32, generation: u32, object: String) {
        if self.membership.is_none() {
            tracing::warn!(
                "{}: it is ready when {object} is registered, and there is no registry: it waits until one is started",
                self.owner(slot)
            );
        }
        self.awaited.insert(slot, Awaited { generation, object });
        self.watch_for(slot);
    }

    fn watch_for(&mut self, slot: u32) {
        let Some(Awaited { generation, object }) = self.awaited.get(&slot) else { return };
        let place = Place { slot, generation: *generation };
        let current = self.states.get(&slot).is_some_and(|it| it.generation == *generation);
        let (Some(prepared), true) = (self.workshop.slot(slot), current) else {
            self.awaited.remove(&slot);
            return;
        };
        if self.membership.is_none() {
            return;
        }
        let watch = self.bus.watch(object);
        let (identifier, inbox) = (self.identifier.clone(), self.back.clone());
        prepared.probe = Some(Probe::new(registered(watch, place, identifier, inbox)));
    }
}

/// Reports each new life of an image of the machine.
async fn resumed(mut lives: Lives, inbox: mpsc::Sender<Inbound>) {
    loop {
        lives.next().await;
        // Nobody listens where the supervisor is leaving.
        let _ = inbox.send(Inbound::Resumed).await;
    }
}

/// Reports readiness when a process of this very instance, and no older one of it, serves the object.
async fn registered(
    mut watch: endpoint::Watch,
    place: Place,
    identifier: Identifier,
    inbox: mpsc::Sender<Inbound>,
) {
    loop {
        let found = match watch.next().await {
            Ok(Change::Added(found) | Change::Changed(found)) => found,
            Ok(Change::Removed(_)) => continue,
            Err(failure) => {
                tracing::warn!("the registry does not say which objects there are: {failure}");
                return;
            }
        };
        if identifier.place(found.pid).await == Some(place) {
            break;
        }
    }
    let Place { slot, generation } = place;
    let lines = vec![Line::Notice(Notice::Ready)];
    let notification =
        Notification { generation: Some(generation), lines, descriptors: Vec::new() };
    // Nobody listens where the supervisor is leaving.
    let _ = inbox.send(Inbound::Notification { slot, notification }).await;
}

fn is_registry_defined(machine: &crate::machine::Supervisor) -> bool {
    Name::new(REGISTRY).is_ok_and(|name| machine.defines(&name))
}

//! Services on demand: a lookup of an absent object starts what serves it; what nobody uses any more is stopped.

use std::time::Duration;

use protocol::{
    failure::{Code, Failure},
    name::Name,
    registry::Handle,
    service::Activated,
    time::Moment,
};

use super::{
    Action, Answer, CallId, Connection, Due, Registry, busy,
    endpoints::OnDemand,
    limits::{ACTIVATION_PATIENCE, ACTIVATIONS_MAX, ACTIVATIONS_QUEUED_MAX},
};

/// How far the start of what serves an object is.
#[derive(Debug)]
pub(super) enum Activation {
    /// The supervisor has enough to do with others.
    Queued,
    Asked,
    /// The object will be registered soon.
    Started {
        service: Name,
        idle: Option<Duration>,
    },
}

impl Registry {
    /// Has what serves the object started, once.
    pub(super) fn activate(&mut self, object: &str) {
        if self.activations.contains_key(object) {
            return;
        }
        if self.activations.len() >= ACTIVATIONS_QUEUED_MAX {
            let text = format!("{object} is not there, and too many services are being started");
            return self.fail_lookups(object, &busy(text, 500));
        }
        self.activations.insert(object.to_owned(), Activation::Queued);
        self.next_activations();
    }

    /// Asks for as many as may be asked for at the same time.
    fn next_activations(&mut self) {
        let asked = |one: &&Activation| matches!(one, Activation::Asked);
        let mut running = self.activations.values().filter(asked).count();
        let queued = |(object, one): (&String, &Activation)| {
            matches!(one, Activation::Queued).then(|| object.clone())
        };
        let queued: Vec<String> = self.activations.iter().filter_map(queued).collect();
        for object in queued {
            if running >= ACTIVATIONS_MAX {
                return;
            }
            if self.is_looked_up(&object) {
                running += 1;
                self.activations.insert(object.clone(), Activation::Asked);
                self.actions.push_back(Action::Activate { object });
            } else {
                self.activations.remove(&object);
            }
        }
    }

    /// The supervisor's answer.
    pub(super) fn activated(
        &mut self,
        object: &str,
        outcome: Result<Activated, Failure>,
        now: Moment,
    ) {
        if !matches!(self.activations.get(object), Some(Activation::Asked)) {
            return;
        }
        self.activations.remove(object);
        match outcome {
            Ok(Activated { service, idle_ms }) => {
                let idle = idle_ms.map(Duration::from_millis);
                let at = now + ACTIVATION_PATIENCE;
                self.deadlines.insert((at, Due::Activation(object.to_owned())));
                let started = Activation::Started { service, idle };
                self.activations.insert(object.to_owned(), started);
                // It may have been faster than the answer.
                if let Some(handle) = self.objects.get(object).map(|entry| entry.handle) {
                    self.started(object, handle);
                    self.restart_idle(handle, now);
                }
            }
            // Its next process may come by itself.
            Err(_) if self.lately.contains_key(object) => {}
            Err(failure) if failure.code == Code::NotFound => {
                let failure = self.not_found(object);
                self.fail_lookups(object, &failure);
            }
            Err(failure) => {
                let text = format!("{object} is not there and could not be started: {failure}");
                self.fail_lookups(object, &Failure::new(failure.code, text));
            }
        }
        self.next_activations();
    }

    /// An object is there: if it was started for that, its endpoint is stopped again when it is idle.
    pub(super) fn started(&mut self, object: &str, handle: Handle) {
        if !matches!(self.activations.get(object), Some(Activation::Started { .. })) {
            return;
        }
        if let Some(Activation::Started { service, idle }) = self.activations.remove(object)
            && let Some(endpoint) = self.endpoints.get_mut(&handle)
        {
            endpoint.on_demand = Some(OnDemand { service, idle });
            self.unsaved = true;
        }
    }

    pub(super) fn activation_overdue(&mut self, object: &str, now: Moment) {
        let Some(Activation::Started { service, .. }) = self.activations.get(object) else {
            return;
        };
        let waited = ACTIVATION_PATIENCE.as_secs();
        let text = format!(
            "service {service} was started for {object}, but did not register it within {waited} s; see its log"
        );
        self.activations.remove(object);
        self.fail_lookups(object, &Failure::new(Code::Timeout, text));
        self.wake_waiters(now);
    }

    /// `usage`: how many connections it has.
    pub(super) fn used(
        &mut self,
        call: CallId,
        connection: Connection,
        connections: u64,
        now: Moment,
    ) {
        let Some(handle) = self.registered(call, connection, "usage") else { return };
        if let Some(endpoint) = self.endpoints.get_mut(&handle) {
            endpoint.connections = connections;
        }
        self.restart_idle(handle, now);
        self.reply(call, Ok(Answer::Nothing));
    }

    /// Somebody was just told where the object is, and will surely connect.
    pub(super) fn touch(&mut self, object: &str, now: Moment) {
        if let Some(handle) = self.objects.get(object).map(|entry| entry.handle) {
            self.restart_idle(handle, now);
        }
    }

    /// Counts from now on how long the endpoint is unused, if that matters.
    pub(super) fn restart_idle(&mut self, handle: Handle, now: Moment) {
        let Some(endpoint) = self.endpoints.get(&handle) else { return };
        let idle = endpoint.on_demand.as_ref().and_then(|on_demand| on_demand.idle);
        let at = idle.filter(|_| endpoint.connections == 0).map(|idle| now + idle);
        if endpoint.idle_at != at {
            self.set_idle(handle, endpoint.idle_at, at);
        }
    }

    pub(super) fn idle_too_long(&mut self, handle: Handle, now: Moment) {
        let Some(endpoint) = self.endpoints.get(&handle) else { return };
        if endpoint.idle_at.is_none_or(|at| at > now) {
            return;
        }
        let Some(OnDemand { service, .. }) = endpoint.on_demand.clone() else { return };
        let used = self.endpoints.values().any(|other| {
            other.connections > 0
                && other.on_demand.as_ref().is_some_and(|on_demand| on_demand.service == service)
        });
        // Asked again should it still be there by then.
        self.restart_idle(handle, now);
        if !used {
            self.actions.push_back(Action::Release { service });
        }
    }
}

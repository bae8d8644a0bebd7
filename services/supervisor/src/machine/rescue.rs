//! The last resort of a device on which something fails that must not: everything ends but the rescue set.

use std::sync::Arc;

use protocol::{name::Name, time::Moment};

use super::{Action, Supervisor};
use crate::settings::{Service, Source};

impl Supervisor {
    /// There is a rescue set to go on with: the keeper is PID 1.
    pub(crate) fn allow_rescue(&mut self) {
        self.has_rescue = true;
    }

    /// Remembers it first: a supervisor that dies here must not start everything again.
    pub(super) fn begin_rescue(&mut self, reason: String) {
        if self.shutdown.is_some() || self.boot.as_ref().is_some_and(|boot| boot.rescue.is_some()) {
            return;
        }
        self.remember_rescue(reason.clone());
        self.actions.push_back(Action::Rescue { reason });
    }

    /// What is not of the rescue set is stopped and forgotten, whoever defined it.
    pub(super) fn take_rescue_set(&mut self, services: Vec<Arc<Service>>, now: Moment) {
        let by_message = |service: &&Arc<Service>| service.source == Source::Message;
        let names: Vec<Name> =
            self.definitions().filter(by_message).map(|service| service.name.clone()).collect();
        for name in names {
            self.dismiss(&name);
        }
        self.redefine(services, now);
    }
}

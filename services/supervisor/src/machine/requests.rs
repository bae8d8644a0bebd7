//! What callers ask for. A request changes desired states; who waits for the effect is answered by [`super::waiters`].
//! Every request gets exactly one reply.

use std::time::Duration;

use protocol::{
    failure::{Code, Failure},
    name::Name,
    time::Moment,
};
use serde_json::Map;

use super::{
    Action, Request, Supervisor,
    definitions::{Order, all_data},
    drive::RELOAD_TIMEOUT,
    instance::State,
    replace::refuse_own,
    triggers::Reloading,
    waiters::Awaited,
};
use crate::settings::Reload;

/// procd's watchdog period, where none is given.
const WATCHDOG_DEFAULT_S: u32 = 30;
/// Linux' highest signal number.
const SIGNAL_MAX: i32 = 64;

/// A request's immediate outcome: done, or to be answered when these slots are so far.
pub(super) enum Outcome {
    Done,
    Wait(Awaited, Vec<u32>),
    /// The configuration is looked at first; see [`Supervisor::validated`].
    Later,
}

impl Supervisor {
    pub(super) fn requested(&mut self, id: u64, request: Request, now: Moment) {
        let outcome = self.carry_out(id, request, now);
        self.conclude_request(id, outcome, now);
    }

    /// Answers a request, or keeps who asked until there is an answer.
    pub(super) fn conclude_request(
        &mut self,
        id: u64,
        outcome: Result<Outcome, Failure>,
        now: Moment,
    ) {
        match outcome {
            Ok(Outcome::Done) => self.replies.push((id, Ok(()))),
            Ok(Outcome::Wait(awaited, slots)) => self.wait_for(id, awaited, slots, now),
            Ok(Outcome::Later) => {}
            Err(failure) => self.replies.push((id, Err(failure))),
        }
    }

    fn carry_out(&mut self, id: u64, request: Request, now: Moment) -> Result<Outcome, Failure> {
        if self.shutdown.is_some() {
            let text = "everything is being stopped: ask again after the next start";
            return Err(Failure::new(Code::Cancelled, text));
        }
        let early = !matches!(request, Request::Set { .. } | Request::Add { .. });
        if self.before.is_some() && early {
            let text =
                "the supervisor has not taken over from the keeper yet: ask again in a second";
            return Err(Failure::new(Code::Busy, text));
        }
        match request {
            Request::Set { service } => {
                self.apply(service, false, Order::Message, now).map(|()| Outcome::Done)
            }
            Request::Add { service } => {
                if let Some(entry) = self.services.get_mut(&service.name)
                    && let Some(unconfirmed) = &mut entry.unconfirmed
                {
                    unconfirmed.retain(|name| !service.instances.contains_key(name));
                }
                self.apply(service, true, Order::Message, now).map(|()| Outcome::Done)
            }
            Request::Delete { name, instance, wait } => {
                let entry = self.services.get(&name).filter(|_| instance.is_none());
                let data = entry.map(|entry| all_data(&entry.service)).unwrap_or_default();
                let outcome = self.delete(&name, instance.as_ref(), wait)?;
                self.data_changed(&data, &Map::new(), now);
                self.instances_changed(now);
                Ok(outcome)
            }
            Request::Start { name, instance, wait } => {
                let slots = self.startable(&name, instance.as_ref())?;
                for slot in &slots {
                    let Some(life) = self.lives.get_mut(slot) else { continue };
                    life.on_demand = false;
                    self.dirty.insert(*slot);
                    if !life.wanted || !life.busy() {
                        self.want(*slot, now);
                    }
                }
                Ok(when(wait, Awaited::Up, slots))
            }
            Request::Stop { name, instance, wait } => {
                let slots = self.targets(&name, instance.as_ref())?;
                for slot in &slots {
                    if let Some(life) = self.lives.get_mut(slot) {
                        life.wanted = false;
                        life.again = false;
                        self.dirty.insert(*slot);
                    }
                }
                self.restand(&name);
                Ok(when(wait, Awaited::Down, slots))
            }
            Request::Restart { name, instance, wait } => {
                self.restart(&name, instance.as_ref(), wait, now)
            }
            Request::Freeze { name, instance, limit } => {
                self.freeze(&name, instance.as_ref(), limit, now)
            }
            Request::Thaw { name, instance } => self.thaw(&name, instance.as_ref(), now),
            Request::Reload { name, instance, wait } => {
                self.targets(&name, instance.as_ref())?;
                let reload = Reloading { id, name, instance, wait };
                match self.validate_first(reload) {
                    None => Ok(Outcome::Later),
                    Some(Reloading { name, instance, wait, .. }) => {
                        self.reload(&name, instance.as_ref(), wait, now)
                    }
                }
            }
            Request::Signal { name, instance, signal } => {
                self.signal(name.as_ref(), instance.as_ref(), signal)
            }
            Request::Watchdog { name, instance, mode, timeout_s } => {
                self.watchdog(&name, &instance, mode, timeout_s, now)
            }
            Request::Replace { name, instance, wait } => {
                if let Some(failure) = refuse_own(&name) {
                    return Err(failure);
                }
                let slots = self.startable(&name, instance.as_ref())?;
                let candidates = self.replace(&slots, now)?;
                Ok(when(wait, Awaited::Replaced, candidates))
            }
            Request::Activate { name } => self.activate(&name, now),
            Request::Release { name } => self.release(&name),
            Request::Event { kind, data } => {
                self.event_called(&kind, &data, now).map(|()| Outcome::Done)
            }
            Request::UpdateStart { name } => self.update_start(&name),
            Request::UpdateComplete { name } => self.update_complete(&name),
        }
    }

    /// The slots that a request is about.
    pub(super) fn targets(
        &self,
        name: &Name,
        instance: Option<&Name>,
    ) -> Result<Vec<u32>, Failure> {
        let entry = self.services.get(name).filter(|entry| !entry.leaving).ok_or_else(|| {
            Failure::new(
                Code::NotFound,
                format!("there is no service {name}: `service list` shows what is defined"),
            )
        })?;
        let slots: Vec<u32> = entry
            .slots
            .iter()
            .filter(|(other, _)| instance.is_none_or(|instance| instance == *other))
            .map(|(_, slot)| *slot)
            .filter(|slot| self.lives.get(slot).is_some_and(|life| !life.leaving))
            .collect();
        match instance {
            Some(instance) if slots.is_empty() => {
                let text = format!("service {name} has no instance {instance}");
                Err(Failure::new(Code::NotFound, text))
            }
            _ => Ok(slots),
        }
    }

    /// As [`Self::targets`], but what can't work is refused at once.
    fn startable(&self, name: &Name, instance: Option<&Name>) -> Result<Vec<u32>, Failure> {
        let left_out = |(of, which): &(Name, Name)| {
            of == name && instance.is_none_or(|instance| instance == which)
        };
        if let Some((_, life)) = self.left_out.iter().find(|(key, _)| left_out(key)) {
            let text = format!("{name} {}: {}", life.name, life.reason);
            return Err(Failure::new(Code::Limit, text));
        }
        let slots = self.targets(name, instance)?;
        for life in slots.iter().filter_map(|slot| self.lives.get(slot)) {
            let errors = &life.settings().errors;
            if !errors.is_empty() {
                let text = format!(
                    "instance {} of {name} can't be started: {}",
                    life.name,
                    errors.join("; ")
                );
                return Err(Failure::new(Code::Failed, text));
            }
        }
        let missing = self.graph.of(name).requires.into_iter().find(|other| {
            self.services.get(other).is_none_or(|entry| entry.leaving || entry.slots.is_empty())
        });
        if let Some(other) = missing {
            let text =
                format!("service {name} requires {other}, which is not defined: define it first");
            return Err(Failure::new(Code::Failed, text));
        }
        Ok(slots)
    }

    /// Wanted by nobody but who looks for one of its objects, until it is released.
    fn activate(&mut self, name: &Name, now: Moment) -> Result<Outcome, Failure> {
        let slots = self.startable(name, None)?;
        let lives = || slots.iter().filter_map(|slot| self.lives.get(slot));
        for life in lives() {
            if let State::Held { reason } | State::Failed { reason } = &life.state {
                let text = format!("{name} {}: {reason}; `service start` tries again", life.name);
                return Err(Failure::new(Code::Failed, text));
            }
        }
        for slot in &slots {
            let Some(life) = self.lives.get_mut(slot).filter(|life| !life.wanted) else { continue };
            life.on_demand = true;
            self.want(*slot, now);
        }
        Ok(Outcome::Done)
    }

    /// What was started by a person, or is required by what is to run, stays.
    fn release(&mut self, name: &Name) -> Result<Outcome, Failure> {
        let slots = self.targets(name, None)?;
        let is_wanted = |other: &Name| {
            let slots = self.services.get(other).into_iter().flat_map(|e| e.slots.values());
            slots.filter_map(|slot| self.lives.get(slot)).any(|life| life.wanted)
        };
        if self.graph.requirers(name).any(is_wanted) {
            return Ok(Outcome::Done);
        }
        for slot in slots {
            let Some(life) = self.lives.get_mut(&slot).filter(|life| life.on_demand) else {
                continue;
            };
            (life.wanted, life.again, life.on_demand) = (false, false, false);
            self.dirty.insert(slot);
        }
        self.restand(name);
        Ok(Outcome::Done)
    }

    pub(super) fn restart(
        &mut self,
        name: &Name,
        instance: Option<&Name>,
        wait: bool,
        now: Moment,
    ) -> Result<Outcome, Failure> {
        let slots = self.startable(name, instance)?;
        for slot in &slots {
            let Some(life) = self.lives.get_mut(slot) else { continue };
            life.again = life.busy();
            self.want(*slot, now);
        }
        Ok(when(wait, Awaited::Up, slots))
    }

    pub(super) fn reload(
        &mut self,
        name: &Name,
        instance: Option<&Name>,
        wait: bool,
        now: Moment,
    ) -> Result<Outcome, Failure> {
        let slots = self.targets(name, instance)?;
        let running: Vec<u32> = slots
            .into_iter()
            .filter(|slot| self.lives.get(slot).is_some_and(|life| life.running()))
            .collect();
        if running.is_empty() {
            let text = format!("service {name} is not running: start it first");
            return Err(Failure::new(Code::Failed, text));
        }
        if running.iter().any(|slot| self.is_frozen(*slot)) {
            let text = format!("service {name} is frozen and can't read anything: thaw it first");
            return Err(Failure::new(Code::Failed, text));
        }
        let mut commands = Vec::new();
        let mut restarts = Vec::new();
        for slot in running {
            let Some(life) = self.lives.get_mut(&slot) else { continue };
            let generation = life.seen.generation;
            match life.settings().policy.reload.clone() {
                Reload::Signal(signal) => {
                    self.actions.push_back(Action::Signal {
                        slot,
                        generation,
                        signal,
                        tree: false,
                    });
                }
                Reload::Command(command) => {
                    let timeout = RELOAD_TIMEOUT;
                    self.actions.push_back(Action::ReloadCommand {
                        slot,
                        generation,
                        command,
                        timeout,
                    });
                    commands.push(slot);
                }
                Reload::None => {
                    life.again = true;
                    restarts.push(slot);
                }
            }
        }
        for slot in &restarts {
            self.want(*slot, now);
        }
        Ok(match (commands.is_empty(), restarts.is_empty()) {
            (false, _) => when(wait, Awaited::Reloaded { failed: false }, commands),
            (true, false) => when(wait, Awaited::Up, restarts),
            (true, true) => Outcome::Done,
        })
    }

    pub(super) fn signal(
        &mut self,
        name: Option<&Name>,
        instance: Option<&Name>,
        signal: i32,
    ) -> Result<Outcome, Failure> {
        if !(1..=SIGNAL_MAX).contains(&signal) {
            let text = format!("signal {signal} does not exist: give 1 to {SIGNAL_MAX}");
            return Err(Failure::new(Code::InvalidArgument, text));
        }
        let slots = match name {
            Some(name) => self.targets(name, instance)?,
            None => self.lives.keys().copied().collect(),
        };
        let mut sent = false;
        for life in
            slots.iter().filter_map(|slot| self.lives.get(slot)).filter(|life| life.running())
        {
            let (slot, generation) = (life.slot, life.seen.generation);
            self.actions.push_back(Action::Signal { slot, generation, signal, tree: false });
            sent = true;
        }
        if sent {
            return Ok(Outcome::Done);
        }
        Err(Failure::new(Code::NotFound, "nothing that was named is running"))
    }

    fn watchdog(
        &mut self,
        name: &Name,
        instance: &Name,
        mode: Option<u32>,
        timeout_s: Option<u32>,
        now: Moment,
    ) -> Result<Outcome, Failure> {
        let slots = self.targets(name, Some(instance))?;
        for slot in slots {
            let Some(life) = self.lives.get_mut(&slot) else { continue };
            let defined = life.settings().process.watchdog;
            if mode.is_some() || timeout_s.is_some() {
                // Unknown modes mean off, and no time means procd's default, as there.
                let mode = mode.or(life.watchdog_mode).unwrap_or(1);
                let mode = if mode > 2 { 0 } else { mode };
                let seconds =
                    timeout_s.filter(|seconds| *seconds > 0).unwrap_or(WATCHDOG_DEFAULT_S);
                let seconds = if mode == 0 { 0 } else { seconds };
                life.watchdog_mode = Some(mode);
                life.health.ask(Duration::from_secs(u64::from(seconds)));
            }
            life.missing = false;
            life.health.pet(defined, now);
            self.dirty.insert(slot);
        }
        Ok(Outcome::Done)
    }

    fn update_start(&mut self, name: &Name) -> Result<Outcome, Failure> {
        self.targets(name, None)?;
        if let Some(entry) = self.services.get_mut(name) {
            entry.unconfirmed = Some(entry.slots.keys().cloned().collect());
        }
        Ok(Outcome::Done)
    }

    fn update_complete(&mut self, name: &Name) -> Result<Outcome, Failure> {
        self.targets(name, None)?;
        let stale = self.services.get_mut(name).and_then(|entry| entry.unconfirmed.take());
        for instance in stale.unwrap_or_default() {
            self.remove_instance(name, &instance);
        }
        Ok(Outcome::Done)
    }

    fn delete(
        &mut self,
        name: &Name,
        instance: Option<&Name>,
        wait: bool,
    ) -> Result<Outcome, Failure> {
        let slots = self.targets(name, instance)?;
        match instance {
            Some(instance) => self.remove_instance(name, instance),
            None => self.dismiss(name),
        }
        Ok(when(wait, Awaited::Gone, slots))
    }

    fn remove_instance(&mut self, name: &Name, instance: &Name) {
        let Some(entry) = self.services.get_mut(name) else { return };
        let mut service = (*entry.service).clone();
        service.instances.remove(instance);
        entry.service = service.into();
        self.left_out.remove(&(name.clone(), instance.clone()));
        if let Some(slot) = entry.slots.get(instance).copied() {
            self.dismiss_instance(slot);
        }
        self.register_triggers(name);
        self.restand(name);
    }
}

fn when(wait: bool, awaited: Awaited, slots: Vec<u32>) -> Outcome {
    if wait { Outcome::Wait(awaited, slots) } else { Outcome::Done }
}

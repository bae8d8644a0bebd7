//! New, changed and vanished definitions: which instances they make, restart, change as they run, or end.

use std::{collections::BTreeSet, sync::Arc};

use protocol::{
    failure::{Code, Failure},
    keeper::SLOTS_MAX,
    name::Name,
    time::Moment,
};
use serde_json::{Map, Value, json};

use super::{
    Action, Supervisor,
    identity::{fingerprint, inputs},
    instance::{Life, State},
    service::Entry,
};
use crate::settings::{Reload, Service, Source};

/// How a definition came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Order {
    /// Read from files: what a person stopped stays stopped.
    Files,
    /// `service set` or `add`: what it names is to run.
    Message,
}

impl Supervisor {
    /// The files' definitions, all of them. A service that a message set is the message's.
    pub(super) fn redefine(&mut self, services: Vec<Arc<Service>>, now: Moment) {
        let named: BTreeSet<&Name> = services.iter().map(|service| &service.name).collect();
        let gone: Vec<Name> = self
            .services
            .values()
            .filter(|entry| entry.service.source != Source::Message)
            .map(|entry| entry.service.name.clone())
            .filter(|name| !named.contains(name))
            .collect();
        for name in gone {
            self.dismiss(&name);
        }
        let mut services = services;
        // Lower numbers first, so that slots, conflicts and the journal follow the order of the boot.
        services.sort_by(|a, b| (!a.core, a.start, &a.name).cmp(&(!b.core, b.start, &b.name)));
        services.retain(|service| {
            !self
                .services
                .get(&service.name)
                .is_some_and(|entry| entry.service.source == Source::Message && !entry.leaving)
        });
        // All relations are known before the first instance is looked at.
        for service in &services {
            self.graph.insert(service);
        }
        for service in services {
            // A file that needs more slots than there are costs only itself.
            if self.apply(service.clone(), false, Order::Files, now).is_err() {
                self.leave_out_new(&service);
            }
        }
    }

    /// There is no room for the new instances of this definition; those that were there before stay as they are.
    fn leave_out_new(&mut self, service: &Arc<Service>) {
        let entry = self.services.entry(service.name.clone());
        let entry = entry.or_insert_with(|| Entry::new(service.clone()));
        let housed: BTreeSet<Name> = entry.slots.keys().cloned().collect();
        for instance in service.instances.keys().filter(|name| !housed.contains(*name)) {
            self.leave_out(service.clone(), instance.clone());
        }
        self.restand(&service.name);
    }

    /// An instance without a slot: it can only be shown, until its service is defined again and there is room.
    pub(super) fn leave_out(&mut self, service: Arc<Service>, instance: Name) {
        let key = (service.name.clone(), instance.clone());
        let mut life = Life::new(SLOTS_MAX, service, instance);
        life.wanted = life.service.autostart;
        life.reason = format!(
            "no room: there are {SLOTS_MAX} instances already; delete services that are not needed, then `service reread`"
        );
        life.state = State::Failed { reason: life.reason.clone() };
        self.happen_of(&life, "service.fail", &[]);
        self.left_out.insert(key, life);
    }

    /// Takes one definition. With `keep_others` the instances that it doesn't name stay as they are.
    ///
    /// # Errors
    /// When there are not enough slots; then nothing has changed.
    pub(super) fn apply(
        &mut self,
        service: Arc<Service>,
        keep_others: bool,
        order: Order,
        now: Moment,
    ) -> Result<(), Failure> {
        let name = service.name.clone();
        let (service, named) = self.merged(service, keep_others);
        if self.before.is_none() {
            self.check_room(&service)?;
        }
        self.left_out.retain(|(of, _), _| *of != name);
        self.graph.insert(&service);
        if service.core {
            self.core.insert(name.clone());
        } else {
            self.core.remove(&name);
        }
        let created = self.services.get(&name).is_none_or(|entry| entry.leaving);
        let entry =
            self.services.entry(name.clone()).or_insert_with(|| Entry::new(service.clone()));
        let old = std::mem::replace(&mut entry.service, service.clone());
        entry.leaving = false;
        let slots = entry.slots.clone();
        self.register_triggers(&name);
        if self.before.is_some() {
            return Ok(());
        }
        for (instance, slot) in &slots {
            if named.contains(instance) {
                self.update(*slot, &service, order);
            } else if let Some(life) = self.lives.get_mut(slot) {
                if service.instances.contains_key(instance) && !life.leaving {
                    life.service = service.clone();
                } else {
                    life.leaving = true;
                    life.wanted = false;
                }
            }
        }
        let mut fresh = Vec::new();
        for instance in service.instances.keys().filter(|name| !slots.contains_key(*name)) {
            let slot = self.free_slot().expect("the room was checked before");
            self.adopt_life(Life::new(slot, service.clone(), instance.clone()));
            fresh.push(slot);
        }
        let free = order == Order::Message || !self.rival_wanted(&name);
        if service.autostart && free {
            for slot in fresh {
                self.want(slot, now);
            }
            if order == Order::Message {
                self.want_updated(&slots.into_values().collect::<Vec<_>>(), &named, now);
            }
        }
        self.mark(&name);
        self.mark_neighbours(&name);
        self.restand(&name);
        let old_data = if created { Map::new() } else { all_data(&old) };
        self.data_changed(&old_data, &all_data(&service), now);
        if created || old.instances != service.instances {
            self.instances_changed(now);
        }
        Ok(())
    }

    /// The definition as it will be kept, and the names of the instances that it was about.
    fn merged(&self, service: Arc<Service>, keep_others: bool) -> (Arc<Service>, BTreeSet<Name>) {
        let named: BTreeSet<Name> = service.instances.keys().cloned().collect();
        let old = self.services.get(&service.name).filter(|entry| keep_others && !entry.leaving);
        let Some(old) = old else { return (service, named) };
        let mut merged = (*service).clone();
        for (name, instance) in &old.service.instances {
            merged.instances.entry(name.clone()).or_insert_with(|| instance.clone());
        }
        (Arc::new(merged), named)
    }

    fn check_room(&self, service: &Service) -> Result<(), Failure> {
        let has = |name: &Name| {
            self.services.get(&service.name).is_some_and(|entry| entry.slots.contains_key(name))
        };
        let needed = service.instances.keys().filter(|name| !has(name)).count();
        let free =
            usize::try_from(SLOTS_MAX).unwrap_or(usize::MAX).saturating_sub(self.lives.len());
        if needed <= free {
            return Ok(());
        }
        let text = format!(
            "service {} needs {needed} more instances, {free} of {SLOTS_MAX} are free: delete services that are not needed",
            service.name
        );
        Err(Failure::new(Code::Limit, text))
    }

    /// The lowest number that no instance has.
    pub(super) fn free_slot(&mut self) -> Option<u32> {
        while self.lives.contains_key(&self.free_from) {
            self.free_from += 1;
        }
        Some(self.free_from).filter(|slot| *slot < SLOTS_MAX)
    }

    pub(super) fn adopt_life(&mut self, life: Life) {
        if let Some(entry) = self.services.get_mut(&life.service.name) {
            if life.is_beside() {
                entry.beside.insert(life.slot);
            } else {
                entry.slots.insert(life.name.clone(), life.slot);
            }
        }
        self.dirty.insert(life.slot);
        self.lives.insert(life.slot, life);
    }

    /// An instance that is there gets a definition that may differ.
    fn update(&mut self, slot: u32, service: &Arc<Service>, order: Order) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let old = life.settings().clone();
        life.service = service.clone();
        let new = life.settings();
        // Compared with what was given last, not with what runs: a restart that is on its way stays.
        let restart = fingerprint(&old.process) != fingerprint(&new.process)
            || inputs(&new.process) != life.made_with
            || old.errors != new.errors;
        let changed = restart || old != *new;
        let startable = new.errors.is_empty();
        let retimed = old.policy.heartbeat != new.policy.heartbeat;
        let revived = std::mem::take(&mut life.leaving);
        if changed {
            life.defined = false;
        }
        let stopping = matches!(life.state, State::Stopping { .. });
        if life.running() && !stopping && !restart && retimed {
            let (service, instance) = (life.service.clone(), life.name.clone());
            self.actions.push_back(Action::Expect { slot, service, instance });
        }
        if life.running() && !stopping {
            match old.policy.reload {
                Reload::Signal(signal)
                    if restart && startable && !revived && order == Order::Message =>
                {
                    // procd's reload_signal: the process reads its settings itself; the new command counts from the next start on.
                    life.note_origin();
                    let generation = life.seen.generation;
                    self.actions.push_back(Action::Signal {
                        slot,
                        generation,
                        signal,
                        tree: false,
                    });
                }
                _ => life.again |= restart || revived,
            }
        } else if life.busy() {
            life.again |= restart || revived;
        } else if changed || revived {
            life.forgive();
        }
        self.dirty.insert(slot);
    }

    /// `set` starts what it names, unless it is on its way anyway.
    fn want_updated(&mut self, slots: &[u32], named: &BTreeSet<Name>, now: Moment) {
        for slot in slots {
            let Some(life) = self.lives.get(slot) else { continue };
            let resting = matches!(
                life.state,
                State::Stopped | State::Held { .. } | State::Failed { .. } | State::Done { .. }
            );
            if named.contains(&life.name) && (!life.wanted || (resting && !life.busy())) {
                self.want(*slot, now);
            }
        }
    }

    /// The desired state becomes up: with what it requires and wants, and without its rivals.
    pub(super) fn want(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let name = life.service.name.clone();
        raise(life, now);
        self.dirty.insert(slot);
        let mut open = vec![name.clone()];
        let mut met = BTreeSet::from([name]);
        while let Some(name) = open.pop() {
            for rival in self.graph.rivals(&name).cloned().collect::<Vec<_>>() {
                self.unwant_service(&rival);
            }
            let relations = self.graph.of(&name);
            for other in relations.requires.iter().chain(&relations.wants) {
                if !met.insert(other.clone()) {
                    continue;
                }
                let Some(entry) = self.services.get(other).filter(|entry| !entry.leaving) else {
                    continue;
                };
                for slot in entry.slots.values() {
                    if let Some(life) = self.lives.get_mut(slot)
                        && !life.leaving
                        && (!life.wanted || life.down_for_good())
                    {
                        raise(life, now);
                        self.dirty.insert(*slot);
                    }
                }
                open.push(other.clone());
            }
            self.restand(&name);
        }
        for name in met {
            self.restand(&name);
        }
    }

    /// At boot the first of two that exclude each other runs.
    pub(super) fn rival_wanted(&self, name: &Name) -> bool {
        self.graph.rivals(name).filter_map(|rival| self.services.get(rival)).any(|entry| {
            entry.slots.values().filter_map(|slot| self.lives.get(slot)).any(|life| life.wanted)
        })
    }

    fn unwant_service(&mut self, name: &Name) {
        let Some(entry) = self.services.get(name) else { return };
        for slot in entry.slots.values() {
            if let Some(life) = self.lives.get_mut(slot) {
                life.wanted = false;
                life.again = false;
                self.dirty.insert(*slot);
            }
        }
    }

    /// The service is no longer defined: stopped, then forgotten.
    pub(super) fn dismiss(&mut self, name: &Name) {
        let Some(entry) = self.services.get_mut(name) else { return };
        entry.leaving = true;
        let slots: Vec<u32> = entry.slots.values().copied().collect();
        for slot in slots {
            self.dismiss_instance(slot);
        }
        self.core.remove(name);
        self.left_out.retain(|(of, _), _| of != name);
        self.restand(name);
        self.drop_if_empty(name);
    }

    pub(super) fn dismiss_instance(&mut self, slot: u32) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        life.leaving = true;
        life.wanted = false;
        life.again = false;
        self.dirty.insert(slot);
    }
}

/// The free data of a service and of its instances, by key.
pub(super) fn all_data(service: &Service) -> Map<String, Value> {
    let of_instances = service
        .instances
        .iter()
        .filter_map(|(name, instance)| Some((name, instance.shown.get("data")?.as_object()?)));
    let mut all = service.data.clone();
    for (instance, data) in of_instances {
        for (key, value) in data {
            // What several of them say under one key is one thing that changes when any of them does.
            let said = all.entry(key.clone()).or_insert(Value::Null);
            *said = json!([said.take(), instance, value]);
        }
    }
    all
}

fn raise(life: &mut Life, now: Moment) {
    life.wanted = true;
    life.times.wanted_at = Some(now);
    life.forgive();
}

//! Taking over: what the journal remembers, what the keeper says runs, and what the definitions want become one.
//!
//! The keeper is right about what runs, the journal about what was promised, the definitions about what exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use protocol::{
    keeper::{Phase, ShutdownKind, SlotState},
    name::Name,
    time::Moment,
};

use super::{
    Action, CORE_PATIENCE, Due, Ending, Supervisor,
    boot::BootRecord,
    identity::identity,
    instance::{Life, State},
    record::{InstanceRecord, Record},
    replace::{Beside, Role},
    service::Entry,
    triggers::{QueueRecord, TakenRecord},
};
use crate::settings::{self, Policy, Process, ReadinessKind, Reload, Respawn, Service, Source};

const SIGTERM: i32 = 15;

/// What is known before the hand-over is complete.
#[derive(Debug, Default)]
pub(super) struct Before {
    records: BTreeMap<u32, InstanceRecord>,
    pub(super) found: BTreeMap<u32, SlotState>,
    queues: BTreeMap<Name, QueueRecord>,
    taken: BTreeMap<String, TakenRecord>,
    boot: Option<BootRecord>,
    /// This is the first supervisor of a boot.
    pub(super) fresh: bool,
    pub(super) shutdown: Option<(ShutdownKind, u8, Ending)>,
    /// Services whose definition was accepted once and can't be read now.
    kept: BTreeSet<Name>,
}

impl Before {
    fn remember(&mut self, record: Record) {
        match record {
            Record::Instance(record) => {
                self.records.insert(record.slot, *record);
            }
            Record::Forgotten { slot } => {
                self.records.remove(&slot);
            }
            Record::Queue(record) if record.is_empty() => {
                self.queues.remove(&record.service);
            }
            Record::Queue(record) => {
                self.queues.insert(record.service.clone(), *record);
            }
            Record::Taken(record) => {
                self.taken.insert(record.package.clone(), record);
            }
            Record::Boot(record) => self.boot = Some(*record),
            Record::Together(records) => {
                for record in records {
                    self.remember(record);
                }
            }
        }
    }
}

impl Supervisor {
    /// The journal, oldest record first. Counts only before the hand-over is complete.
    pub(crate) fn restore(&mut self, records: impl IntoIterator<Item = Record>) {
        let Some(before) = &mut self.before else { return };
        for record in records {
            before.remember(record);
        }
        self.boot = before.boot.clone();
    }

    /// This service's definition can't be read any more: what runs of it is left alone. Counts only before the hand-over is
    /// complete.
    pub(crate) fn keep(&mut self, service: Name) {
        if let Some(before) = &mut self.before {
            before.kept.insert(service);
        }
    }

    /// The keeper has said all: from here on the machine acts.
    pub(crate) fn handover_complete(&mut self, now: Moment) {
        let Some(mut before) = self.before.take() else { return };
        let mut homeless = self.defined_instances();
        let found = std::mem::take(&mut before.found);
        let beside = Beside::find(&mut before.records, &found);
        let (aside, found): (Vec<_>, Vec<_>) =
            found.into_values().partition(|state| beside.instance_of(state.slot).is_some());
        let (records_aside, records): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut before.records)
                .into_iter()
                .partition(|(slot, _)| beside.instance_of(*slot).is_some());
        before.records = records;
        let (idle, running): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|state| state.phase == Phase::Idle);
        // What runs comes first, so that nothing else takes its slot.
        for state in running {
            let record = take_record(&mut before.records, &state);
            let owner = homeless.remove(&state.identity);
            let kept = record.as_ref().is_some_and(|record| before.kept.contains(&record.service));
            let life = match record {
                Some(record) if owner.is_none() && kept => self.kept(state.slot, record),
                record => self.settle_in(state.slot, owner, record, true, now),
            };
            self.adopt(life, Some(state), now);
        }
        for state in idle {
            let record = take_record(&mut before.records, &state);
            match homeless.remove(&state.identity) {
                Some(owner) => {
                    let life = self.settle_in(state.slot, Some(owner), record, false, now);
                    self.adopt(life, Some(state), now);
                }
                None => self.forget_idle(state.slot, true),
            }
        }
        for (slot, record) in std::mem::take(&mut before.records) {
            let owner = homeless.remove(&identity(&record.service, &record.instance));
            match owner {
                Some(owner) if !self.lives.contains_key(&slot) => {
                    let life = self.settle_in(slot, Some(owner), Some(record), false, now);
                    self.adopt(life, None, now);
                }
                owner => {
                    if let Some(owner) = owner {
                        homeless.insert(identity(&owner.0.name, &owner.1), owner);
                    }
                    self.forget_idle(slot, false);
                }
            }
        }
        self.adopt_beside(&beside, aside, records_aside, now);
        self.house_the_rest(homeless, now);
        self.restore_queues(std::mem::take(&mut before.queues), std::mem::take(&mut before.taken));
        if before.fresh {
            self.forget_first_times();
        }
        self.first_steps(before.shutdown, now);
    }

    /// What an interrupted replacement left beside the instances: it only has to end.
    fn adopt_beside(
        &mut self,
        beside: &Beside,
        found: Vec<SlotState>,
        mut records: BTreeMap<u32, InstanceRecord>,
        now: Moment,
    ) {
        for state in found {
            let slot = state.slot;
            let record = take_record(&mut records, &state);
            if state.phase == Phase::Idle {
                self.forget_idle(slot, true);
                continue;
            }
            let instance = beside.instance_of(slot);
            let names =
                record.as_ref().map(|record| (record.service.clone(), record.instance.clone()));
            let mut life = match instance.and_then(|slot| self.lives.get(&slot)) {
                Some(other) => Life::new(slot, other.service.clone(), other.name.clone()),
                None => self.stray(slot, names),
            };
            if let Some(record) = record {
                life.remember(record);
            }
            (life.wanted, life.again, life.leaving) = (false, false, true);
            life.outgoing = beside.outgoing.contains_key(&slot);
            self.adopt(life, Some(state), now);
        }
        for slot in records.into_keys() {
            self.forget_idle(slot, false);
        }
    }

    /// All instances that the definitions want, by what the keeper calls them.
    fn defined_instances(&self) -> BTreeMap<u64, (Arc<Service>, Name)> {
        self.services
            .values()
            .flat_map(|entry| entry.service.instances.keys().map(|name| (&entry.service, name)))
            .map(|(service, name)| (identity(&service.name, name), (service.clone(), name.clone())))
            .collect()
    }

    /// The life that belongs into a slot; without an owner one that only has to end.
    fn settle_in(
        &mut self,
        slot: u32,
        owner: Option<(Arc<Service>, Name)>,
        record: Option<InstanceRecord>,
        runs: bool,
        now: Moment,
    ) -> Life {
        let Some((service, name)) = owner else {
            let names =
                record.as_ref().map(|record| (record.service.clone(), record.instance.clone()));
            return self.stray(slot, names);
        };
        let autostart = service.autostart;
        let mut life = Life::new(slot, service, name);
        life.times.wanted_at = Some(now);
        match record {
            Some(record) => life.remember(record),
            None => life.wanted = runs || autostart,
        }
        life
    }

    /// Something that runs and whose definition can't be read: it runs on, and isn't started again when it ends.
    fn kept(&mut self, slot: u32, record: InstanceRecord) -> Life {
        let mut service = stray_service(record.service.clone(), record.instance.clone());
        for instance in service.instances.values_mut() {
            // It may print and notify: what nobody reads would block it in the end.
            let process = &mut instance.process;
            (process.stdout, process.stderr) = (true, true);
            process.readiness.kind = ReadinessKind::Notify;
        }
        let service = Arc::new(service);
        let mut life = Life::new(slot, service.clone(), record.instance.clone());
        life.remember(record);
        self.services.entry(service.name.clone()).or_insert_with(|| Entry::new(service));
        life
    }

    /// Something that runs and that no definition names: it is stopped as politely as we can without knowing it.
    fn stray(&mut self, slot: u32, names: Option<(Name, Name)>) -> Life {
        let (service, instance) = names.unwrap_or_else(|| {
            let name = |text: String| Name::new(text).expect("letters and a number are a name");
            (name(format!("unknown-{slot}")), name("instance1".to_owned()))
        });
        let service = Arc::new(stray_service(service, instance.clone()));
        let mut life = Life::new(slot, service.clone(), instance);
        life.leaving = true;
        self.services.entry(service.name.clone()).or_insert_with(|| {
            let mut entry = Entry::new(service);
            entry.leaving = true;
            entry
        });
        life
    }

    /// Puts a life into its slot and tells it what the keeper says.
    fn adopt(&mut self, mut life: Life, state: Option<SlotState>, now: Moment) {
        let slot = life.slot;
        let Some(state) = state else {
            // The keeper knows nothing of it: its generations start anew.
            life.seen.generation = 0;
            life.ended = 0;
            life.ready_at = None;
            life.frozen = None;
            self.adopt_life(life);
            return;
        };
        life.seen.slot = slot;
        if life.seen.generation > state.generation {
            life.seen.generation = state.generation;
            life.ended = life.ended.min(state.generation);
            life.ready_at = None;
        }
        let same = life.seen.generation == state.generation && life.recorded.is_some();
        // A stand-in, which has no command, says nothing of what the process should be made from.
        let known = !life.settings().process.command.is_empty();
        let stale = known && life.made_from != life.fingerprint();
        if same && life.ended < state.generation {
            life.seen = SlotState { phase: Phase::Executing, ..state };
            let timeout = life.settings().process.readiness.timeout;
            life.state = match life.ready_at {
                Some(_) => State::Ready,
                None => State::Starting { deadline: timeout.map(|timeout| now + timeout) },
            };
            let defined = life.settings().process.watchdog;
            life.health.pet(defined, now);
            life.attempted = true;
            life.checked = true;
        }
        life.times.spawned_at = Some(state.spawned_at);
        life.times.ready_at = life.ready_at;
        let runs = state.phase != Phase::Idle;
        life.again |= runs && stale && life.wanted;
        self.adopt_life(life);
        self.observe(state, now);
        if let Some(life) = self.lives.get_mut(&slot) {
            let says_so = life.settings().process.readiness.kind == ReadinessKind::Notify;
            life.unheard = (says_so && life.ready_at.is_none()).then_some(state.generation);
        }
        if runs {
            self.define(slot, now);
        }
        self.freeze_again(slot, now);
    }

    /// Instances that no slot and no record knew: new ones.
    fn house_the_rest(&mut self, homeless: BTreeMap<u64, (Arc<Service>, Name)>, now: Moment) {
        let mut rest: Vec<_> = homeless.into_values().collect();
        rest.sort_by(|(a, i), (b, j)| {
            (!a.core, a.start, &a.name, i).cmp(&(!b.core, b.start, &b.name, j))
        });
        for (service, name) in rest {
            let wanted = service.autostart && !self.rival_wanted(&service.name);
            // As with any other table, what came first stays.
            let Some(slot) = self.free_slot() else {
                self.leave_out(service, name);
                continue;
            };
            let mut life = Life::new(slot, service, name);
            life.wanted = wanted;
            life.times.wanted_at = Some(now);
            self.adopt_life(life);
        }
    }

    /// Looks at all services before anything is done for or against one of them.
    fn first_steps(&mut self, shutdown: Option<(ShutdownKind, u8, Ending)>, now: Moment) {
        let here: BTreeSet<u32> = self.lives.keys().copied().collect();
        for life in self.lives.values_mut() {
            if matches!(life.role, Role::Heir { of } if !here.contains(&of)) {
                life.role = Role::Only;
            }
        }
        let slots: Vec<u32> =
            self.lives.values().filter(|life| life.wanted).map(|life| life.slot).collect();
        for slot in slots {
            self.pull_requirements(slot, now);
        }
        self.await_boot();
        // Standings can only fall from here, so this ends.
        let mut open: Vec<Name> = self.services.keys().cloned().collect();
        while let Some(name) = open.pop() {
            let Some(entry) = self.services.get(&name) else { continue };
            let (old, new) = (entry.standing, self.standing(entry));
            if old == new {
                continue;
            }
            if let Some(entry) = self.services.get_mut(&name) {
                entry.standing = new;
            }
            open.extend(self.graph.followers(&name).cloned());
        }
        let until = now + CORE_PATIENCE;
        self.core_gate = Some(until);
        self.deadlines.insert((until, Due::CoreGate));
        self.dirty.extend(self.lives.keys().copied());
        if let Some((kind, exit_code, ending)) = shutdown {
            self.begin_shutdown(kind, exit_code, ending, now);
        }
        self.settle(now);
    }

    /// What a wanted instance requires or wants is wanted, too, unless somebody has stopped it since.
    fn pull_requirements(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get(&slot) else { return };
        let mut open = vec![life.service.name.clone()];
        while let Some(name) = open.pop() {
            let relations = self.graph.of(&name);
            for other in relations.requires.iter().chain(&relations.wants) {
                let Some(entry) = self.services.get(other).filter(|entry| !entry.leaving) else {
                    continue;
                };
                for slot in entry.slots.values() {
                    if let Some(life) = self.lives.get_mut(slot)
                        && !life.wanted
                        && life.recorded.is_none()
                    {
                        life.wanted = true;
                        life.times.wanted_at = Some(now);
                        open.push(other.clone());
                    }
                }
            }
        }
    }

    fn forget_idle(&mut self, slot: u32, known_to_keeper: bool) {
        if self.lives.contains_key(&slot) {
            return;
        }
        self.actions.push_back(Action::Record(Record::Forgotten { slot }));
        if known_to_keeper {
            self.actions.push_back(Action::Forget { slot });
        }
    }
}

/// The record of a slot, if it is about what the keeper has there.
fn take_record(
    records: &mut BTreeMap<u32, InstanceRecord>,
    state: &SlotState,
) -> Option<InstanceRecord> {
    let fits =
        |record: &InstanceRecord| identity(&record.service, &record.instance) == state.identity;
    if records.get(&state.slot).is_some_and(fits) { records.remove(&state.slot) } else { None }
}

fn stray_service(name: Name, instance: Name) -> Service {
    let policy = Policy {
        respawn: Respawn::Never,
        critical: None,
        stop_signal: SIGTERM,
        stop_timeout: std::time::Duration::from_secs(5),
        reload: Reload::None,
        main_only: false,
        heartbeat: settings::Heartbeat::default(),
        watchdog_miss: settings::OnMiss::default(),
    };
    let settings = settings::Instance {
        process: Process::default(),
        policy,
        shown: serde_json::Map::new(),
        errors: Vec::new(),
    };
    Service {
        name,
        source: Source::BuiltIn,
        autostart: false,
        start: 0,
        stop: None,
        after: Vec::new(),
        requires: Vec::new(),
        wants: Vec::new(),
        conflicts: Vec::new(),
        conditions: Vec::new(),
        core: false,
        on_demand: None,
        instances: BTreeMap::from([(instance, Box::new(settings))]),
        data: serde_json::Map::new(),
        triggers: Vec::new(),
        validate: Vec::new(),
        checked: Vec::new(),
        ignored: Vec::new(),
    }
}

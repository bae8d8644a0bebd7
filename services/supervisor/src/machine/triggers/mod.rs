//! Triggers: what services want done when something happens. Events are looked at here, what is due is journalled before
//! anybody is told, and done one thing at a time for each service.
//!
//! ```text
//!  wanted            due             no rules, or valid           ended
//! --------> Waiting -----> Validating -----------------> Running -------> gone, or
//!             ^               | wanted meanwhile            |             once more
//!             +---------------+                             | (wanted meanwhile)
//! ```

mod doing;
mod language;
mod queue;
mod taken;
mod trigger;
mod validation;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use protocol::{
    config,
    failure::{Code, Failure},
    name::Name,
    time::Moment,
};
use serde_json::{Map, Value, json};

pub(crate) use self::{
    doing::Ended,
    queue::{QueueRecord, ScriptProcess},
    taken::TakenRecord,
    trigger::COMPARED,
    validation::Reloading,
};
use self::{
    doing::work_text,
    queue::{Full, Queue, Stage},
    taken::{Taken, Told},
    trigger::Trigger,
};
use super::{Action, Happening, Record, Supervisor};

/// Longest type of an event, in bytes.
const KIND_MAX: usize = 256;
/// The event that names a package, and whose effects are validated before.
const CHANGE: &str = config::CHANGE;

/// The triggers of one service.
#[derive(Debug, Default)]
pub(super) struct Triggers {
    /// Later ones are looked at first.
    registered: u64,
    list: Vec<Trigger>,
}

/// Everything about triggers that isn't one service's.
#[derive(Debug)]
pub(super) struct Scripts {
    queues: BTreeMap<Name, Queue>,
    /// Those that changed since they were journalled.
    touched: BTreeSet<Name>,
    taken: Taken,
    registrations: u64,
    runs: u64,
    /// By the number of the validation; bounded by the calls that may be open.
    reloading: BTreeMap<u64, Reloading>,
    /// So many scripts run.
    running: usize,
    /// Under which moment the queues stand in the table of deadlines.
    deadline: Option<Moment>,
    is_folder: fn(&str) -> bool,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            queues: BTreeMap::new(),
            touched: BTreeSet::new(),
            taken: Taken::default(),
            registrations: 0,
            runs: 0,
            reloading: BTreeMap::new(),
            running: 0,
            deadline: None,
            is_folder: |_| false,
        }
    }
}

impl Supervisor {
    /// How `isdir` in a trigger is answered. Until this is called there are no folders.
    pub(crate) fn look_for_folders_with(&mut self, is_folder: fn(&str) -> bool) {
        self.scripts.is_folder = is_folder;
    }

    /// Compiles the triggers of a service that was defined, as the latest ones.
    pub(super) fn register_triggers(&mut self, name: &Name) {
        let Some(entry) = self.services.get_mut(name) else { return };
        let list = trigger::read_all(&entry.service);
        self.scripts.registrations += 1;
        entry.triggers = Triggers { registered: self.scripts.registrations, list };
    }

    /// Something happened: whoever has a trigger for it gets it queued.
    ///
    /// # Errors
    /// Where a queue is full; what found room in others stays there.
    pub(super) fn raise(
        &mut self,
        kind: &str,
        data: &Map<String, Value>,
        now: Moment,
    ) -> Result<(), Failure> {
        if self.shutdown.is_some() || self.before.is_some() {
            return Ok(());
        }
        let mut result = Ok(());
        for (name, delay, wanted) in self.look_at_triggers(kind, data) {
            for mistake in &wanted.mistakes {
                self.happen_trigger(&name, kind, &[("error", json!(mistake))]);
            }
            for work in wanted.works {
                let package = data.get("package").and_then(Value::as_str);
                let package = package.filter(|_| kind == CHANGE);
                let queue = self.scripts.queues.entry(name.clone()).or_default();
                if let Err(Full) = queue.want(work, kind, package, delay, now) {
                    let text = Full::text(&name);
                    self.happen_trigger(&name, kind, &[("error", json!(text))]);
                    result = Err(Failure::new(Code::Limit, text));
                }
                self.scripts.touched.insert(name.clone());
            }
        }
        result
    }

    /// What all triggers want of an event, the latest registered ones first.
    fn look_at_triggers(
        &self,
        kind: &str,
        data: &Map<String, Value>,
    ) -> Vec<(Name, Duration, trigger::Wanted)> {
        let mut entries: Vec<_> = self
            .services
            .values()
            .filter(|entry| !entry.leaving && !entry.triggers.list.is_empty())
            .collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.triggers.registered));
        let is_folder = self.scripts.is_folder;
        entries
            .into_iter()
            .flat_map(|entry| entry.triggers.list.iter().rev().map(|it| (&entry.service.name, it)))
            .filter(|(_, trigger)| trigger.is_for(kind))
            .map(|(name, trigger)| {
                (name.clone(), trigger.delay(), trigger.look_at(data, is_folder))
            })
            .collect()
    }

    /// `service event`: triggers first, then whoever has subscribed. A change that was taken already is answered, and is no news.
    pub(super) fn event_called(
        &mut self,
        kind: &str,
        data: &Map<String, Value>,
        now: Moment,
    ) -> Result<(), Failure> {
        if kind.is_empty() || kind.len() > KIND_MAX {
            let text = format!(
                "`type`: {} bytes; an event's type has 1 to {KIND_MAX}, as config.change",
                kind.len()
            );
            return Err(Failure::new(Code::InvalidArgument, text));
        }
        let told = Told::by(kind, data);
        let again = data.get("again") == Some(&Value::Bool(true));
        if again && told.is_some_and(|told| self.scripts.taken.knows(told)) {
            return Ok(());
        }
        let raised = self.raise(kind, data, now);
        match (told, &raised) {
            (Some(told), Ok(())) => self.scripts.taken.take(told),
            (Some(told), Err(_)) => self.scripts.taken.forget(told),
            (None, _) => {}
        }
        raised?;
        self.tell_event(kind, data);
        Ok(())
    }

    /// Something that nobody called about: an interface went up. Nobody waits for an answer.
    pub(super) fn event_seen(&mut self, kind: &str, data: &Map<String, Value>, now: Moment) {
        // A full queue was told as what it is.
        drop(self.raise(kind, data, now));
        self.tell_event(kind, data);
    }

    fn tell_event(&mut self, kind: &str, data: &Map<String, Value>) {
        let data = json!({ "type": kind, "data": data });
        self.actions.push_back(Action::Publish(Happening { topic: "event.trigger", data }));
    }

    /// procd's event for each key of free data that changed.
    pub(super) fn data_changed(
        &mut self,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        now: Moment,
    ) {
        if old == new {
            return;
        }
        let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for key in keys.into_iter().filter(|key| old.get(*key) != new.get(*key)) {
            let data = Map::from_iter([("name".to_owned(), json!(key))]);
            drop(self.raise("service.data.update", &data, now));
        }
    }

    /// procd's event for instances that were added, changed or removed.
    pub(super) fn instances_changed(&mut self, now: Moment) {
        drop(self.raise("instance.update", &Map::new(), now));
    }

    fn job_touched(&mut self, name: &Name) {
        self.scripts.touched.insert(name.clone());
    }

    /// What changed in queues is journalled before anything of it is done, and before anybody is answered. A change and what
    /// it sets off are one record: with only one of them remembered it would be lost, or done twice.
    pub(super) fn write_queues(&mut self) {
        let mut records = Vec::new();
        for name in std::mem::take(&mut self.scripts.touched) {
            let Some(queue) = self.scripts.queues.get(&name) else { continue };
            records.push(Record::Queue(Box::new(queue.record(&name))));
            if queue.is_empty() {
                self.scripts.queues.remove(&name);
            }
        }
        let taken = self.scripts.taken.records();
        if taken.is_empty() {
            self.actions.extend(records.into_iter().map(Action::Record));
            return;
        }
        records.extend(taken.into_iter().map(Record::Taken));
        let record = match records.pop() {
            Some(record) if records.is_empty() => record,
            last => Record::Together(records.into_iter().chain(last).collect()),
        };
        self.actions.push_back(Action::Record(record));
    }

    /// What the supervisor before this one had promised.
    pub(super) fn restore_queues(
        &mut self,
        records: BTreeMap<Name, QueueRecord>,
        taken: BTreeMap<String, TakenRecord>,
    ) {
        let queues = records.into_iter().map(|(name, record)| (name, Queue::remembered(record)));
        self.scripts.queues = queues.collect();
        self.scripts.taken = Taken::remembered(taken.into_values());
    }

    /// What is wrong with a service's configuration since its last reload that was wanted.
    pub(crate) fn invalid_of(&self, name: &Name) -> &[config::Invalid] {
        self.scripts.queues.get(name).map_or(&[], |queue| &queue.invalid)
    }

    /// What a service's triggers still have to do, for a person.
    pub(crate) fn queued_of(&self, name: &Name) -> Vec<Value> {
        let jobs = self.scripts.queues.get(name).into_iter().flat_map(Queue::jobs);
        jobs.map(|job| {
            let stage = match job.stage {
                Stage::Waiting => "waiting",
                Stage::Validating { .. } => "validating",
                Stage::Running { .. } => "running",
            };
            json!({ "event": job.event, "work": work_text(&job.work), "state": stage, "again": job.again })
        })
        .collect()
    }

    fn happen_trigger(&mut self, name: &Name, event: &str, details: &[(&str, Value)]) {
        let mut data = Map::new();
        data.insert("service".to_owned(), json!(name));
        data.insert("event".to_owned(), json!(event));
        data.extend(details.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let data = Value::Object(data);
        self.actions.push_back(Action::Publish(Happening { topic: "service.trigger", data }));
    }
}

//! Boot analysis: when each instance was first spawned and first ready since the boot, and when all that the boot wanted
//! was. Decides nothing.

use protocol::{name::Name, system::Reset, time::Moment};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Action, Happening, Record, Supervisor, instance::Life};

/// An instance's first start since the boot; restarts until it was ready are part of it. Survives the supervisor.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct First {
    #[serde(default)]
    pub(crate) spawned_at: Option<Moment>,
    /// Ready, or done.
    #[serde(default)]
    pub(crate) ready_at: Option<Moment>,
}

impl First {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The boot as a whole. Read by older and newer versions, as an instance's record is.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct BootRecord {
    #[serde(default)]
    pub(crate) keeper_at: Option<Moment>,
    /// When the first supervisor began.
    #[serde(default)]
    pub(crate) supervisor_at: Option<Moment>,
    #[serde(default)]
    pub(crate) all_ready_at: Option<Moment>,
    /// Why the boot before this one ended.
    #[serde(default)]
    pub(crate) reset: Option<Reset>,
    /// Why only the rescue set runs, until the next boot.
    #[serde(default)]
    pub(crate) rescue: Option<String>,
}

/// One instance that was started while the device booted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Booted {
    pub(crate) service: Name,
    pub(crate) instance: Name,
    pub(crate) core: bool,
    /// What it waits for by its definition, as far as that is there.
    pub(crate) after: Vec<Name>,
    pub(crate) spawned_at: Moment,
    pub(crate) ready_at: Option<Moment>,
}

impl Supervisor {
    /// This is the first supervisor of a boot: what is remembered of the times of another one is forgotten. Counts only before
    /// the hand-over is complete. The caller has written the record already.
    pub(crate) fn boot_began(&mut self, record: BootRecord) {
        if let Some(before) = &mut self.before {
            before.fresh = true;
            self.boot = Some(record);
        }
    }

    /// What is known of this boot; nothing where its first supervisor was of an older version.
    pub(crate) fn boot(&self) -> Option<&BootRecord> {
        self.boot.as_ref()
    }

    /// What was started until everything was ready, in the order of the first starts.
    pub(crate) fn booted(&self) -> Vec<Booted> {
        let end = self.boot.as_ref().and_then(|boot| boot.all_ready_at);
        let of_boot = |life: &Life| {
            let spawned_at = life.first.spawned_at?;
            end.is_none_or(|end| spawned_at <= end).then_some(spawned_at)
        };
        let lives = self.lives.values().filter(|life| !life.is_beside());
        let mut booted: Vec<Booted> = lives
            .filter_map(|life| Some((life, of_boot(life)?)))
            .map(|(life, spawned_at)| Booted {
                service: life.service.name.clone(),
                instance: life.name.clone(),
                core: life.service.core,
                after: self.waited_for(&life.service.name),
                spawned_at,
                ready_at: life.first.ready_at,
            })
            .collect();
        booted.sort_by(|a, b| {
            (a.spawned_at, &a.service, &a.instance).cmp(&(b.spawned_at, &b.service, &b.instance))
        });
        booted
    }

    fn waited_for(&self, name: &Name) -> Vec<Name> {
        let relations = self.graph.relations(name).into_iter();
        let there = |other: &&Name| self.services.contains_key(*other);
        relations.flat_map(|relations| &relations.after).filter(there).cloned().collect()
    }

    /// The services for which [`BootRecord::all_ready_at`] waits.
    pub(crate) fn boot_waits_for(&self) -> Vec<Name> {
        let lives = self.unready.iter().filter_map(|slot| self.lives.get(slot));
        let mut names: Vec<Name> = lives.map(|life| life.service.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The times that the journal remembers are of another boot.
    pub(super) fn forget_first_times(&mut self) {
        self.lives.values_mut().for_each(|life| life.first = First::default());
    }

    /// What has to be ready until the boot is over: everything that is wanted now.
    pub(super) fn await_boot(&mut self) {
        if self.boot.as_ref().is_some_and(|boot| boot.all_ready_at.is_none()) {
            let unready = self.lives.values().filter(|life| is_awaited(life));
            self.unready = unready.map(|life| life.slot).collect();
        }
    }

    /// A slot took a step.
    pub(super) fn note_for_boot(&mut self, slot: u32) {
        if self.unready.contains(&slot) && !self.lives.get(&slot).is_some_and(is_awaited) {
            self.unready.remove(&slot);
        }
    }

    /// Everything that the boot wanted is ready: told and remembered once.
    pub(super) fn end_boot(&mut self, now: Moment) {
        if !self.unready.is_empty() || self.shutdown.is_some() {
            return;
        }
        // With the rescue set nothing is there that was wanted.
        let open = |boot: &&mut BootRecord| boot.all_ready_at.is_none() && boot.rescue.is_none();
        let Some(boot) = self.boot.as_mut().filter(open) else { return };
        boot.all_ready_at = Some(now);
        let record = Record::Boot(Box::new(boot.clone()));
        self.actions.push_back(Action::Record(record));
        let data = json!({ "monotonic_ms": now.0 / 1_000_000 });
        let happening = Happening { topic: protocol::system::READY, data };
        self.actions.push_back(Action::Publish(happening));
    }

    /// From now on only the rescue set runs, and so it does after the supervisor's own death.
    pub(super) fn remember_rescue(&mut self, reason: String) {
        let boot = self.boot.get_or_insert_default();
        boot.rescue = Some(reason);
        let record = Record::Boot(Box::new(boot.clone()));
        self.actions.push_back(Action::Record(record));
    }
}

/// It is to run, and was neither ready nor done since the boot.
fn is_awaited(life: &Life) -> bool {
    life.wanted && !life.leaving && life.first.ready_at.is_none() && !life.fulfilled()
}

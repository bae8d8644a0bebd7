//! Live replacement: the program on disk is started beside the running one, in a slot of its own, and takes its place
//! when it is ready. Until then the old one is not touched; whatever goes wrong ends the new one and nothing else.
//!
//! ```text
//!   old:  Ready ------------------------------> outgoing: Stopping ---> forgotten
//!                                                  ^
//!   new:  Candidate ---- ready, or the old one ----+----> Heir --- the old one is forgotten ---> Only
//!             |          ended by itself
//!             | ended, timed out, not wanted any more
//!             v
//!         stopped, forgotten; the caller is told why
//! ```
//!
//! The record that makes a candidate the heir decides: whoever reads the journal before it stops the new one, whoever reads
//! it after that stops the old one.

use std::{collections::BTreeMap, time::Duration};

use protocol::{
    failure::{Code, Failure},
    keeper::{Phase, SlotState},
    name::Name,
    time::Moment,
};
use serde::{Deserialize, Serialize};

use super::{
    Supervisor,
    health::Health,
    identity::identity,
    instance::{Life, State},
    record::InstanceRecord,
};
use crate::settings::ReadinessKind;

/// A new process that can't say when it is ready is believed after it has lived so long.
const PROOF_TIME: Duration = Duration::from_secs(1);

/// What a slot is for its instance.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Role {
    /// The instance.
    #[default]
    Only,
    /// Started to take the place of this slot; not the instance yet.
    Candidate { of: u32 },
    /// The instance; what is left of it in this slot is on its way out.
    Heir { of: u32 },
}

impl Role {
    pub(super) fn is_only(&self) -> bool {
        *self == Self::Only
    }
}

/// Where an instance is prepared: two of its processes may be there at the same time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Seat {
    /// The second of the two places that an instance has for what exists once each, such as its cgroup.
    pub(crate) second: bool,
    /// It takes the place of this slot, whose sockets it shares.
    pub(crate) replaces: Option<u32>,
}

impl Life {
    pub(super) fn seat(&self) -> Seat {
        let replaces = match self.role {
            Role::Candidate { of } => Some(of),
            Role::Only | Role::Heir { .. } => None,
        };
        Seat { second: self.second, replaces }
    }

    pub(super) fn is_candidate(&self) -> bool {
        matches!(self.role, Role::Candidate { .. })
    }

    /// Not the instance, but there: about to become it, or no longer it.
    pub(super) fn is_beside(&self) -> bool {
        self.outgoing || self.is_candidate()
    }

    /// Whether readiness of a new process can be told apart from the old one's, which serves the same addresses and names.
    fn can_prove_readiness(&self) -> bool {
        match self.settings().process.readiness.kind {
            ReadinessKind::Notify | ReadinessKind::Fd(_) | ReadinessKind::Command(_) => true,
            ReadinessKind::Exec
            | ReadinessKind::Tcp(_)
            | ReadinessKind::Unix(_)
            | ReadinessKind::Object(_) => false,
        }
    }

    /// Why it can't be replaced as it runs.
    fn irreplaceable(&self) -> Option<Failure> {
        let refuse = |code, text: String| {
            let text = format!("service {} instance {}: {text}", self.service.name, self.name);
            Some(Failure::new(code, text))
        };
        let process = &self.settings().process;
        if process.oneshot {
            return refuse(
                Code::Failed,
                "it runs once and ends, so there is nothing to replace".into(),
            );
        }
        if let Some(path) = &process.pidfile {
            let text = format!(
                "it can't run twice, because it has one pidfile, {}: restart it, or take the key out",
                path.display()
            );
            return refuse(Code::Failed, text);
        }
        if let Some(app_id) = process.app_id {
            let text = format!(
                "two processes can't report heartbeats as application {app_id} at the same time: restart it"
            );
            return refuse(Code::Failed, text);
        }
        if self.successor.is_some() || !self.role.is_only() {
            return refuse(
                Code::Busy,
                "it is being replaced already: ask again when that is done".into(),
            );
        }
        if self.again || !self.wanted || !self.fulfilled() {
            return refuse(
                Code::Failed,
                "only what is ready can be replaced: start it, or wait until it is ready".into(),
            );
        }
        None
    }
}

impl Supervisor {
    /// Starts a candidate for each of these slots; answers the candidates' slots.
    ///
    /// # Errors
    /// Where one of them can't be replaced; then nothing was done.
    pub(super) fn replace(&mut self, slots: &[u32], now: Moment) -> Result<Vec<u32>, Failure> {
        let lives = slots.iter().filter_map(|slot| self.lives.get(slot));
        if let Some(failure) = lives.clone().find_map(Life::irreplaceable) {
            return Err(failure);
        }
        if let Some(life) = lives.clone().find(|life| self.has_another(life)) {
            let text = format!(
                "service {} instance {}: the process of an earlier replacement has not ended yet: ask again when it has",
                life.service.name, life.name
            );
            return Err(Failure::new(Code::Busy, text));
        }
        if lives.count() == 0 {
            return Err(Failure::new(Code::NotFound, "it has no instance that runs: start it"));
        }
        let mut candidates = Vec::new();
        for old in slots {
            let Some(slot) = self.free_slot() else {
                let failure = Failure::new(
                    Code::Limit,
                    "there is no slot for a second process: delete services that are not needed",
                );
                for slot in candidates {
                    self.drop_candidate(slot, &failure);
                }
                return Err(failure);
            };
            self.begin_replacement(*old, slot, now);
            candidates.push(slot);
        }
        Ok(candidates)
    }

    /// An instance has two places: as long as a candidate that was given up is still there, both are taken.
    fn has_another(&self, life: &Life) -> bool {
        let entry = self.services.get(&life.service.name);
        let beside = entry.into_iter().flat_map(|entry| &entry.beside);
        beside.filter_map(|slot| self.lives.get(slot)).any(|other| other.name == life.name)
    }

    fn begin_replacement(&mut self, old: u32, slot: u32, now: Moment) {
        let Some(before) = self.lives.get_mut(&old) else { return };
        before.successor = Some(slot);
        let mut life = Life::new(slot, before.service.clone(), before.name.clone());
        life.role = Role::Candidate { of: old };
        life.second = !before.second;
        life.wanted = true;
        life.on_demand = before.on_demand;
        life.checked = true;
        life.restarts = before.restarts;
        life.crashes = before.crashes.clone();
        life.watchdog_mode = before.watchdog_mode;
        if life.watchdog_mode.is_some() {
            // Somebody else has set it; what a process asks for itself the new one will ask, too.
            life.health = Health::with_period(before.health.asked());
        }
        life.times.wanted_at = Some(now);
        self.adopt_life(life);
        // While the two are there together nobody but us answers an exit: what the keeper would respawn is the old one.
        self.dispose(old, now);
        self.spawn(slot, now);
        self.dirty.insert(old);
    }

    /// A candidate's program runs: from when on that is enough. `true` where its word or a command decides instead.
    pub(super) fn candidate_runs(&mut self, slot: u32, now: Moment) -> bool {
        let Some(life) = self.lives.get_mut(&slot).filter(|life| life.is_candidate()) else {
            return true;
        };
        if life.can_prove_readiness() {
            return true;
        }
        life.proven_at = Some(now + PROOF_TIME);
        self.dirty.insert(slot);
        false
    }

    /// A candidate is ready, or the old one is gone: from here on it is the instance.
    pub(super) fn take_over(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get(&slot) else { return };
        let Role::Candidate { of } = life.role else { return };
        let made_from = life.made_from;
        let Some(old) = self.lives.get_mut(&of) else { return };
        if old.fingerprint() != made_from {
            let text = "its definition was changed meanwhile: replace it again";
            return self.drop_candidate(slot, &Failure::new(Code::Cancelled, text));
        }
        old.successor = None;
        old.outgoing = true;
        old.leaving = true;
        old.wanted = false;
        old.again = false;
        let service = old.service.clone();
        let (name, instance) = (service.name.clone(), old.name.clone());
        let first = old.first;
        let Some(life) = self.lives.get_mut(&slot) else { return };
        life.first = first;
        life.service = service;
        life.role = Role::Heir { of };
        life.proven_at = None;
        if let Some(entry) = self.services.get_mut(&name) {
            entry.slots.insert(instance, slot);
            entry.beside.remove(&slot);
            entry.beside.insert(of);
        }
        // This record decides whom the next supervisor keeps.
        self.write_record(slot);
        // What the keeper would respawn from now on takes nobody's place.
        if let Some(life) = self.lives.get_mut(&slot) {
            life.defined = false;
        }
        self.define(slot, now);
        self.dirty.extend([of, slot]);
        self.restand(&name);
    }

    /// The old process has ended by itself. The new one, which waits for nothing else, takes over, ready or not. `false`
    /// where nobody was to take over.
    pub(super) fn inherits(&mut self, old: u32, now: Moment) -> bool {
        let Some(slot) = self.lives.get(&old).and_then(|life| life.successor) else {
            return false;
        };
        self.take_over(slot, now);
        let Some(life) = self.lives.get_mut(&slot) else { return false };
        if life.is_candidate() {
            return false;
        }
        life.restarts = life.restarts.saturating_add(1);
        // Nobody else serves its addresses any more: what it does there counts.
        self.follow_phase(slot, true, now);
        true
    }

    /// The new process has ended, or could not be started. `false` where it was no candidate.
    pub(super) fn candidate_failed(&mut self, slot: u32) -> bool {
        let Some(life) = self.lives.get_mut(&slot).filter(|life| life.is_candidate()) else {
            return false;
        };
        life.state = State::Stopped;
        let text = format!(
            "service {} instance {}: the new process was not ready ({}); the old one runs on",
            life.service.name, life.name, life.reason
        );
        self.drop_candidate(slot, &Failure::new(Code::Failed, text));
        true
    }

    /// The replacement is off. What runs of the new process is stopped; the old one was never touched.
    fn drop_candidate(&mut self, slot: u32, failure: &Failure) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let Role::Candidate { of } = life.role else { return };
        life.leaving = true;
        life.wanted = false;
        life.proven_at = None;
        if let Some(old) = self.lives.get_mut(&of) {
            old.successor = None;
        }
        self.dirty.extend([of, slot]);
        self.fail_waiters(slot, failure);
    }

    /// Something else was asked of an instance that is being replaced: that counts.
    pub(super) fn give_up_replacing(&mut self, slot: u32, goal_up: bool) {
        let Some(life) = self.lives.get(&slot) else { return };
        let overtaken = !goal_up || life.again || life.leaving;
        if let Some(candidate) = life.successor.filter(|_| overtaken) {
            let text = "a stop, a restart or a new definition came in between";
            self.drop_candidate(candidate, &Failure::new(Code::Cancelled, text));
        }
    }

    /// Whoever waits for the end of the old process waits at its heir.
    pub(super) fn touch_heir(&mut self, slot: u32) {
        let role = Role::Heir { of: slot };
        let heir = self.lives.values().find(|life| life.role == role);
        self.touched.extend(heir.map(|heir| heir.slot));
    }

    /// Nothing is left of what was replaced: its heir is on its own.
    pub(super) fn outgoing_forgotten(&mut self, slot: u32) {
        let role = Role::Heir { of: slot };
        let heir = self.lives.values_mut().find(|life| life.role == role);
        if let Some(heir) = heir {
            heir.role = Role::Only;
            self.dirty.insert(heir.slot);
        }
    }
}

/// What a supervisor finds that is not the instance: by slot, and the slot that is.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) candidates: BTreeMap<u32, u32>,
    pub(super) outgoing: BTreeMap<u32, u32>,
}

impl Beside {
    /// Sorts out what an interrupted replacement left. A candidate is dropped, unless it is all that runs of its instance;
    /// then its record is changed: it is the heir.
    pub(super) fn find(
        records: &mut BTreeMap<u32, InstanceRecord>,
        found: &BTreeMap<u32, SlotState>,
    ) -> Self {
        let mut beside = Self::default();
        let known: BTreeMap<u32, u64> = records
            .values()
            .map(|record| (record.slot, identity(&record.service, &record.instance)))
            .collect();
        let is_of = |slot: u32, identity: u64| match found.get(&slot) {
            Some(state) => state.identity == identity,
            None => known.get(&slot) == Some(&identity),
        };
        let lives = |slot: u32, identity: u64| {
            let runs = |state: &&SlotState| {
                matches!(state.phase, Phase::Executing | Phase::Running)
                    && state.identity == identity
            };
            found.get(&slot).filter(runs).is_some()
        };
        for record in records.values_mut() {
            let identity = identity(&record.service, &record.instance);
            match record.role {
                Role::Candidate { of } if lives(of, identity) || !lives(record.slot, identity) => {
                    beside.candidates.insert(record.slot, of);
                }
                Role::Candidate { of } | Role::Heir { of } => {
                    record.role = Role::Heir { of };
                    if is_of(of, identity) {
                        beside.outgoing.insert(of, record.slot);
                    } else {
                        record.role = Role::Only;
                    }
                }
                Role::Only => {}
            }
        }
        beside
    }

    /// The slot of the instance that this slot is beside of.
    pub(super) fn instance_of(&self, slot: u32) -> Option<u32> {
        self.candidates.get(&slot).or_else(|| self.outgoing.get(&slot)).copied()
    }
}

/// What the answer is to whoever wants to replace what no definition names.
pub(super) fn refuse_own(name: &Name) -> Option<Failure> {
    let command = match name.as_str() {
        "supervisor" => "vestalctl supervisor reexec",
        "keeper" => "vestalctl keeper reexec",
        _ => return None,
    };
    let text = format!("{name} is no service: it replaces itself by `{command}`");
    Some(Failure::new(Code::Failed, text))
}

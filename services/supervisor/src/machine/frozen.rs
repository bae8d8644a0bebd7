//! Instances that are kept from running for a while, with all they have in memory: before an image of the machine is written,
//! above all. A frozen instance owes nobody a sign of life, and all its deadlines wait with it. Whoever ends it thaws it first,
//! because what is frozen hears no signal; and the keeper never answers its end alone, because what it would spawn into a frozen
//! cgroup would not run, and the keeper would wait for it.

use std::time::Duration;

use protocol::{
    failure::{Code, Failure},
    name::Name,
    time::Moment,
};
use serde_json::json;

use super::{
    Action, Supervisor,
    instance::{Life, State},
    requests::Outcome,
    waiters::Awaited,
};

/// How long freezing may take where the caller doesn't say.
const LIMIT: Duration = Duration::from_secs(5);
/// A caller has a deadline of its own; nobody waits longer than this.
const LIMIT_MAX: Duration = Duration::from_secs(60);

/// By what an instance is kept from running.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Means {
    /// All its processes at once, and those that they would have started.
    Group,
    /// SIGSTOP to each process that was found.
    Signals,
}

impl Means {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Group => "cgroup",
            Self::Signals => "signals",
        }
    }
}

/// An instance that doesn't run, or is about not to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Frozen {
    /// From when on its deadlines wait.
    since: Moment,
    /// `Err`: until then nothing of it may run any more, or it is thawed again.
    by: Result<Means, Moment>,
}

impl Frozen {
    pub(crate) fn means(&self) -> Option<Means> {
        self.by.ok()
    }

    /// As the journal has it, until it is looked at.
    pub(crate) fn remembered() -> Self {
        Self { since: Moment(0), by: Err(Moment(u64::MAX)) }
    }

    /// When it is given up, while it is under way.
    pub(crate) fn limit(&self) -> Option<Moment> {
        self.by.err()
    }
}

impl Supervisor {
    pub(super) fn freeze(
        &mut self,
        name: &Name,
        instance: Option<&Name>,
        limit: Option<Duration>,
        now: Moment,
    ) -> Result<Outcome, Failure> {
        let slots = self.targets(name, instance)?;
        let lives = || slots.iter().filter_map(|slot| self.lives.get(slot));
        if let Some(why) = lives().find_map(unfreezable) {
            return Err(Failure::new(Code::Failed, why));
        }
        let slots: Vec<u32> = lives().filter(|life| life.running()).map(|life| life.slot).collect();
        if slots.is_empty() {
            let text = format!("service {name} is not running: there is nothing to freeze");
            return Err(Failure::new(Code::Failed, text));
        }
        let limit = limit.unwrap_or(LIMIT).min(LIMIT_MAX);
        for slot in &slots {
            if self.lives.get(slot).is_some_and(|life| life.frozen.is_none()) {
                self.begin_freezing(*slot, limit, now);
            }
        }
        Ok(Outcome::Wait(Awaited::Frozen, slots))
    }

    /// What is not frozen runs already, and that is all that was asked for.
    pub(super) fn thaw(
        &mut self,
        name: &Name,
        instance: Option<&Name>,
        now: Moment,
    ) -> Result<Outcome, Failure> {
        for slot in self.targets(name, instance)? {
            self.melt(slot, now);
        }
        Ok(Outcome::Done)
    }

    /// It was frozen when the supervisor before this one died, wholly or in part: it stays so, and nobody has to remember how.
    pub(super) fn freeze_again(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if life.frozen.take().is_none() {
            return;
        }
        match life.running() {
            true => self.begin_freezing(slot, LIMIT, now),
            // It ended meanwhile: what is started in its place must run.
            false => self.push_thaw(slot, None),
        }
    }

    fn begin_freezing(&mut self, slot: u32, limit: Duration, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        life.frozen = Some(Frozen { since: now, by: Err(now + limit) });
        life.health.rest();
        let generation = life.seen.generation;
        // Whoever comes after us has to know of it, whatever of it was done.
        self.write_record(slot);
        self.expect_as_it_is(slot);
        self.dispose(slot, now);
        let Some(disposition) = self.lives.get(&slot).and_then(|life| life.told) else { return };
        self.actions.push_back(Action::Freeze { slot, generation, disposition });
        self.dirty.insert(slot);
    }

    /// The shell has frozen it, or could not.
    pub(super) fn frozen(
        &mut self,
        slot: u32,
        generation: u32,
        result: Result<Means, String>,
        now: Moment,
    ) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let under_way = life.frozen.is_some_and(|frozen| frozen.limit().is_some());
        if !under_way || life.seen.generation != generation {
            return;
        }
        match (result, &mut life.frozen) {
            (Ok(means), Some(frozen)) => {
                frozen.by = Ok(means);
                self.happen(slot, "service.freeze", &[("means", json!(means.word()))]);
                self.dirty.insert(slot);
            }
            (Err(why), _) => self.give_up_freezing(slot, &why, now),
            (Ok(_), None) => {}
        }
    }

    pub(super) fn freezing_overdue(&mut self, slot: u32, now: Moment) {
        let Some(frozen) = self.lives.get(&slot).and_then(|life| life.frozen) else { return };
        let ms = now.since(frozen.since).as_millis();
        let why = format!(
            "after {ms} ms a process of it still ran: one that waits for a device or a file system in the kernel can't be frozen"
        );
        self.give_up_freezing(slot, &why, now);
    }

    /// All that was to be frozen together with it runs again, too: half a service frozen is of use to nobody.
    fn give_up_freezing(&mut self, slot: u32, why: &str, now: Moment) {
        let Some(life) = self.lives.get(&slot) else { return };
        let (service, instance) = (&life.service.name, &life.name);
        let text = format!("{service} {instance} is not frozen and runs again: {why}");
        let failure = Failure::new(Code::Failed, text);
        let together = self.fail_freezing(slot, &failure);
        for slot in together {
            self.melt(slot, now);
        }
    }

    /// It runs again, if it didn't, and its deadlines go on. Said to the shell before whatever follows.
    pub(super) fn melt(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let Some(frozen) = life.frozen.take() else { return };
        let lost = now.since(frozen.since);
        if let State::Starting { deadline: Some(at) } | State::Reloading { deadline: Some(at) } =
            &mut life.state
        {
            *at += lost;
        }
        if let Some(at) = &mut life.proven_at {
            *at += lost;
        }
        if matches!(life.state, State::Ready | State::Reloading { .. }) {
            let defined = life.settings().process.watchdog;
            life.health.pet(defined, now);
        }
        self.push_thaw(slot, frozen.means());
        self.expect_as_it_is(slot);
        self.happen(slot, "service.thaw", &[]);
        self.dirty.insert(slot);
    }

    /// It has ended; what comes after it is not frozen.
    pub(super) fn frozen_ended(&mut self, slot: u32) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if let Some(frozen) = life.frozen.take() {
            self.push_thaw(slot, frozen.means());
        }
    }

    fn push_thaw(&mut self, slot: u32, means: Option<Means>) {
        let Some(life) = self.lives.get(&slot) else { return };
        let generation = life.seen.generation;
        self.actions.push_back(Action::Thaw { slot, generation, means });
    }

    /// The broker waits for no heartbeat of what is frozen, and begins anew with what runs again.
    fn expect_as_it_is(&mut self, slot: u32) {
        let Some(life) = self.lives.get(&slot) else { return };
        if life.settings().process.app_id.is_some() {
            let (service, instance) = (life.service.clone(), life.name.clone());
            self.actions.push_back(Action::Expect { slot, service, instance });
        }
    }

    /// Whether this generation is to be frozen and isn't yet.
    pub(crate) fn freezes(&self, slot: u32, generation: u32) -> bool {
        self.lives.get(&slot).is_some_and(|life| {
            life.seen.generation == generation
                && life.running()
                && life.frozen.is_some_and(|frozen| frozen.limit().is_some())
        })
    }

    pub(crate) fn is_frozen(&self, slot: u32) -> bool {
        self.lives.get(&slot).is_some_and(|life| life.frozen.is_some())
    }

    /// The machine slept: nobody could show that he lives, and all have a whole period from now on. `CLOCK_MONOTONIC` has not
    /// counted the sleep, so that a deadline that was near is as near as before; but what a process needs to go on (its file
    /// systems, its devices, its share of a processor that all want at once) comes back only now.
    pub(super) fn resumed(&mut self, now: Moment) {
        for life in self.lives.values_mut() {
            if life.frozen.is_none() && life.running() {
                life.health.begin_anew(life.service.instances[&life.name].process.watchdog, now);
                self.dirty.insert(life.slot);
            }
        }
    }
}

/// Why an instance must not be frozen.
fn unfreezable(life: &Life) -> Option<String> {
    let (service, instance) = (&life.service.name, &life.name);
    if life.service.core {
        return Some(format!(
            "{service} is a core service, which others wait for: stop it, or leave it alone"
        ));
    }
    if matches!(life.state, State::Stopping { .. }) {
        return Some(format!("{service} {instance} is being stopped: ask again when it runs"));
    }
    if life.successor.is_some() || life.is_beside() {
        return Some(format!(
            "{service} {instance} is being replaced: ask again when that is over"
        ));
    }
    None
}

//! What follows once a new version is written: activation, trial, confirmation, and the way back. Each state is journaled before
//! what it demands is done, and what it demands is such that it may be done twice.

use std::time::Duration;

use protocol::{
    failure::{Code, Failure},
    upgrade::{SlotState, State},
};

use super::{
    Engine, Watch,
    contract::{Action, Activation, Letter, Now, Observe, Platform, SlotId, Switch, Switched, Use},
    failed,
    receive::invalidate_image,
    state::{self, Step},
};

/// A verdict that is so late never comes.
const GRACE: Duration = Duration::from_secs(10);
/// How long it may take to load what is loaded into memory, and to take it out again where that does not end well.
const LOADING: Duration = Duration::from_secs(180);

impl<P: Platform> Engine<P> {
    /// Decides what an earlier process, or an earlier boot, left undecided.
    pub(super) fn resume(&mut self, now: Now) -> std::io::Result<()> {
        let resumed = self.take_up(now);
        resumed.map_err(|failure| std::io::Error::other(failure.text))?;
        self.observe_boot(now);
        Ok(())
    }

    /// Another life of an image of the machine began. Its loader took it for a boot.
    pub(crate) fn born_again(&mut self, now: Now) {
        self.observe_boot(now);
    }

    /// Loaders count every boot down: a healthy one gets its tries back.
    fn observe_boot(&mut self, now: Now) {
        if self.watch.is_none() && self.start.running.is_some() && self.platform.boot().is_some() {
            self.observe(Vec::new(), now);
        }
    }

    fn take_up(&mut self, now: Now) -> Result<(), Failure> {
        let note = self.journal.note.clone();
        match (note.state, note.letter) {
            (State::Verifying, _) => {
                self.activate = note.activate;
                self.queue_verification();
                Ok(())
            }
            (State::Activated, Some(letter)) => self.take_up_activated(letter, now),
            (State::Activated, None) => self.activate_again(false, now),
            (State::Trial, Some(letter)) if self.start.running != Some(letter) => {
                self.go_back(&self.fell_back(letter), true, false, now)
            }
            (State::Trial, _) => self.take_up_trial(now),
            (State::Confirmed, Some(letter)) if self.fell(letter) && self.was_told() => {
                let text = "the order of the loader was changed by somebody else";
                self.go_back(text, false, false, now)
            }
            (State::Confirmed, Some(letter)) if self.fell(letter) => {
                let text = format!("{}, though it was confirmed", self.fell_back(letter));
                self.go_back(&text, true, false, now)
            }
            _ if note.pending => {
                if let Err(failure) = self.settle(now) {
                    self.ledger.complaints.push(failure.text);
                }
                Ok(())
            }
            (State::RolledBack, Some(letter)) if self.start.running == Some(letter) => {
                self.reboot_back();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn fell(&self, letter: Letter) -> bool {
        self.start.running.is_some_and(|running| running != letter)
    }

    /// The loader did not pass over anything: what runs is the first of its order.
    fn was_told(&mut self) -> bool {
        self.choice().is_ok_and(|choice| choice.order[0] == self.start.running)
    }

    fn fell_back(&self, letter: Letter) -> String {
        let note = &self.journal.note;
        let runs =
            self.start.running.map_or("another one".to_owned(), |it| it.as_char().to_string());
        let how = match note.state {
            State::Trial => "came up, but was not found good",
            _ => "did not come up",
        };
        let text = format!("set {} {how}, and the loader booted {runs}", letter.as_char());
        // Where no boot since the switch came as far as the supervisor, the last one that did was still ours.
        match self.start.ended.as_ref().filter(|ended| ended.boot_id != note.boot) {
            Some(ended) => format!("{text}; how its last boot ended: {}", ended.why),
            None => text,
        }
    }

    /// The journal says that the loader was told of a set, or was about to be.
    fn take_up_activated(&mut self, letter: Letter, now: Now) -> Result<(), Failure> {
        if self.start.running == Some(letter) {
            return self.run(false, now);
        }
        let note = &self.journal.note;
        if note.boot == self.start.boot_id {
            return if note.pending { self.activate_again(true, now) } else { Ok(()) };
        }
        if self.choice()?.contains(letter) {
            return self.go_back(&self.fell_back(letter), true, false, now);
        }
        let cleared = self.ledger.settle(&mut self.platform, []);
        cleared.map_err(|error| failed(format!("write which slots are in use: {error}")))?;
        self.step(Step::Unswitched, |note| {
            note.pending = false;
            note.letter = None;
            note.reason = "power was lost before the loader was told; activate it again".to_owned();
        })
    }

    fn take_up_trial(&mut self, now: Now) -> Result<(), Failure> {
        if self.journal.note.letter.is_none() && self.planned_live().is_empty() {
            return self.confirm(now);
        }
        let of_set = self.journal.note.letter.is_some();
        let loaded = !of_set && self.plans_loaded();
        if loaded && self.journal.note.boot != self.start.boot_id {
            // It is gone from memory with the boot that had it on trial; what keeps it has gone back, too.
            let text = "the boot in which it was on trial has ended; push it again";
            return self.go_back(text, false, false, now);
        }
        let mut note = self.journal.note.clone();
        note.starts = note.starts.saturating_add(1);
        let (starts, pending) = (note.starts, note.pending);
        // What is loaded was perhaps not yet; for the rest links point to the new slots again when this is open.
        note.pending = pending && loaded;
        self.note(note)?;
        if !of_set && starts > self.rules.tries {
            let text = format!("it was started {starts} times, and nothing confirmed it");
            return self.go_back(&text, true, loaded, now);
        }
        match pending && loaded {
            true => self.switch_on_trial(now),
            false => self.observe_trial(now),
        }
        Ok(())
    }

    /// Something of the plan is loaded into somebody's memory.
    fn plans_loaded(&self) -> bool {
        let plan = self.plan.as_ref();
        plan.is_some_and(|plan| plan.with(&self.rules, Activation::is_loaded).next().is_some())
    }

    /// Uses what was written: the set at the next boot, a component that is restarted at once.
    ///
    /// # Errors
    /// Where nothing is written, or the loader or the state can't be told; that is then tried again.
    pub(crate) fn activate(&mut self, now: Now) -> Result<(), Failure> {
        let Some(plan) = &self.plan else { return Err(failed("nothing was written".to_owned())) };
        let letter = plan.set(&self.rules);
        // One may have been taken since the transfer began.
        invalidate_image(&mut self.platform, &self.rules, plan)?;
        let boot = self.start.boot_id.clone();
        self.step(Step::Activate, |note| {
            note.pending = true;
            note.letter = letter;
            note.boot = boot;
        })?;
        self.activate_again(true, now).inspect_err(|_| self.try_again(now))
    }

    /// Mirrors first, which [`work`](Self::work) writes; then the switch.
    fn activate_again(&mut self, live: bool, now: Now) -> Result<(), Failure> {
        self.queue_mirrors();
        if self.passes.is_empty() { self.switch(live, now) } else { Ok(()) }
    }

    /// All slots are in order: lets what chooses between them choose the new ones. `live`: services run that have to be told.
    pub(super) fn switch(&mut self, live: bool, now: Now) -> Result<(), Failure> {
        let Some(plan) = &self.plan else {
            return self.go_back("the plan of the upgrade is lost", false, live, now);
        };
        let set = plan.set(&self.rules);
        let switched = plan.with(&self.rules, Activation::is_live);
        let two = |name: &str| self.rules.component(name).is_some_and(|(_, rules)| !rules.single);
        let switched = switched.map(|one| one.component.clone()).filter(|name| two(name)).collect();
        let written = self.ledger.try_other(&mut self.platform, switched, set);
        written.map_err(|error| failed(format!("write which slots are in use: {error}")))?;
        let Some(letter) = set else { return self.run(live, now) };
        let tries = self.rules.tries;
        self.choose(|choice| choice.trying(letter, tries))?;
        self.note(super::Note { pending: false, ..self.journal.note.clone() })?;
        self.actions.push_back(Action::Changed);
        Ok(())
    }

    /// What was activated is in use.
    fn run(&mut self, live: bool, now: Now) -> Result<(), Failure> {
        let slots = self.planned_live();
        let trial = !slots.is_empty() || self.journal.note.letter.is_some();
        let of_set = self.journal.note.letter.is_some();
        // Links point to the new slots by now; what is loaded into memory always has to be told.
        let told = !slots.is_empty() && (live || !of_set && self.plans_loaded());
        let boot = self.start.boot_id.clone();
        self.step(Step::Run, |note| {
            note.pending = told;
            note.starts = 1;
            if !of_set {
                note.boot = boot;
            }
        })?;
        // What was observed of the old version says nothing of this one.
        self.watch = None;
        match (trial, told) {
            // What is only mirrored is good once it is read back.
            (false, _) => self.confirm(now),
            (true, true) => {
                self.switch_on_trial(now);
                Ok(())
            }
            (true, false) => {
                self.observe_trial(now);
                Ok(())
            }
        }
    }

    /// Lets what was activated be used, by whoever has it in use. Whoever switches is watched too.
    fn switch_on_trial(&mut self, now: Now) {
        self.ask_switch(self.planned_live(), None);
        let loading = if self.plans_loaded() { LOADING } else { Duration::ZERO };
        let deadline = now.moment + self.rules.health_timeout + loading + GRACE;
        self.watches += 1;
        self.watch = Some(Watch { number: self.watches, deadline });
    }

    /// What became of an [`Action::Switch`]: how many milliseconds its services were not there, or why they still aren't.
    ///
    /// # Errors
    /// Where the journal can't be written.
    pub(crate) fn switched(
        &mut self,
        result: Result<Switched, String>,
        now: Now,
    ) -> Result<(), Failure> {
        self.switching = self.switching.saturating_sub(1);
        match (self.state(), result) {
            (State::Trial, Ok(Switched { outage_ms, remarks })) => {
                let (note, remarks) = (self.journal.note.clone(), remarks.join("; "));
                let outage_ms = Some(outage_ms);
                self.note(super::Note { pending: false, outage_ms, remarks, ..note })?;
                self.observe_trial(now);
                Ok(())
            }
            (State::Trial, Err(why)) => self.go_back(&why, true, true, now),
            (State::RolledBack, Err(why)) => {
                let note = self.journal.note.clone();
                let reason =
                    format!("{}; then the old one could not be started: {why}", note.reason);
                self.note(super::Note { reason, ..note })
            }
            _ => Ok(()),
        }
    }

    fn observe_trial(&mut self, now: Now) {
        let uses = self.uses(self.planned_live());
        self.observe(uses, now);
    }

    fn observe(&mut self, uses: Vec<Use>, now: Now) {
        self.watches += 1;
        let plan = self.plan.as_ref().filter(|_| self.state() == State::Trial);
        let asked = plan.map_or(Duration::ZERO, |plan| Duration::from_millis(plan.stable_ms));
        let stable = self.rules.stable.max(asked);
        let timeout = self.rules.health_timeout.max(stable);
        let number = self.watches;
        // At a start it waits until what is loaded is.
        let loading = if self.plans_loaded() { LOADING } else { Duration::ZERO };
        let deadline = now.moment + timeout + stable + loading + GRACE;
        self.watch = Some(Watch { number, deadline });
        self.actions.push_back(Action::Observe(Observe { number, uses, stable, timeout }));
    }

    /// What was observed: healthy, or why not.
    ///
    /// # Errors
    /// Where what follows from it can't be written.
    pub(crate) fn verdict(
        &mut self,
        number: u64,
        verdict: Result<(), String>,
        now: Now,
    ) -> Result<(), Failure> {
        if self.watch.is_none_or(|watch| watch.number != number) {
            return Ok(());
        }
        self.watch = None;
        let told = match (self.state(), verdict) {
            (State::Trial, Ok(())) => self.confirm(now),
            (State::Trial, Err(why)) => self.go_back(&why, true, true, now),
            (_, Ok(())) => self.keep_booting(),
            (_, Err(_)) => {
                // A boot that is slow to become healthy is a good one all the same.
                self.observe(Vec::new(), now);
                Ok(())
            }
        };
        if told.is_err() && self.state() == State::Trial {
            // It could not even be journaled, so nothing was decided: it is observed once more. A set that is never
            // confirmed is rebooted by the supervisor.
            self.observe_trial(now);
        }
        told
    }

    /// A healthy boot that is nobody's trial.
    fn keep_booting(&mut self) -> Result<(), Failure> {
        let Some(running) = self.start.running else { return Ok(()) };
        let tries = self.rules.tries;
        self.choose(|choice| match choice.contains(running) {
            true => choice.confirmed(running, tries),
            false => choice,
        })
    }

    /// Keeps what is on trial.
    ///
    /// # Errors
    /// Where nothing is on trial, or it can't be written down; in the latter case it is tried again.
    pub(crate) fn confirm(&mut self, now: Now) -> Result<(), Failure> {
        self.step(Step::Confirm, |note| note.pending = true)?;
        self.watch = None;
        self.settle(now)
    }

    /// Goes back to the slots that were in use before the last upgrade.
    ///
    /// # Errors
    /// Where there is nothing to go back to, or the rollback floor forbids it.
    pub(crate) fn rollback(&mut self, component: Option<&str>, now: Now) -> Result<(), Failure> {
        if state::after(self.state(), Step::GoBack).is_none() {
            let text = format!(
                "there is nothing to go back from: the upgrade is {}",
                state::name(self.state())
            );
            return Err(Failure::new(Code::Failed, text));
        }
        let Some(plan) = &self.plan else {
            return Err(failed("what the last upgrade changed is not known any more".to_owned()));
        };
        let named = |name: &str| plan.components.iter().any(|one| one.component == name);
        if let Some(name) = component.filter(|name| !named(name)) {
            let text = format!("the last upgrade did not change a component {name:?}");
            return Err(Failure::new(Code::NotFound, text));
        }
        if component.is_some() && plan.components.len() > 1 {
            let all = plan.components.iter().map(|one| one.component.as_str());
            let all = all.collect::<Vec<_>>().join(", ");
            let text = format!(
                "{all} were upgraded as one: roll all of it back, without naming a component"
            );
            return Err(Failure::new(Code::Unsupported, text));
        }
        if self.state() == State::Confirmed {
            self.check_way_back()?;
        }
        self.go_back("somebody asked for it", false, true, now)
    }

    /// After a confirmation the old slots may be below the floor, or no good any more.
    fn check_way_back(&self) -> Result<(), Failure> {
        let components = self.plan.as_ref().map(|plan| plan.components.as_slice());
        for planned in components.unwrap_or_default() {
            let name = &planned.component;
            let Some((_, rules)) = self.rules.component(name) else { continue };
            if rules.single || rules.activation == Activation::Mirror {
                let text =
                    format!("{name} was written in place: there is no old slot to go back to");
                return Err(Failure::new(Code::Unsupported, text));
            }
            let old = self.ledger.slot(name, planned.letter.other());
            if old.state != SlotState::Good {
                return Err(failed(format!(
                    "the other slot of {name} holds nothing that is known to be good"
                )));
            }
            let (index, floor) = (old.fact.rollback_index, self.ledger.floor(name));
            if index < floor {
                let text = format!(
                    "the other slot of {name} has rollback index {index}, and what was confirmed since raised the floor to \
                     {floor}: push its bundle with a permission signed by a recovery key"
                );
                return Err(Failure::new(Code::Denied, text));
            }
        }
        Ok(())
    }

    fn go_back(&mut self, reason: &str, bad: bool, live: bool, now: Now) -> Result<(), Failure> {
        let was = self.state();
        self.step(Step::GoBack, |note| {
            note.pending = true;
            note.bad = bad;
            note.reason = reason.to_owned();
        })?;
        self.watch = None;
        self.passes.clear();
        let unasked = self.actions.iter().filter(|action| matches!(action, Action::Switch(_)));
        self.switching -= u32::try_from(unasked.count()).unwrap_or(self.switching);
        self.actions.retain(|action| matches!(action, Action::Changed | Action::Reboot { .. }));
        self.settle(now)?;
        let letter = self.journal.note.letter;
        if letter.is_some() && letter == self.start.running {
            self.reboot_back();
        } else if letter.is_none() && live && was != State::Activated {
            let back = |slot: SlotId| SlotId { letter: slot.letter.other(), ..slot };
            let slots = self.planned_live().into_iter();
            let two = |slot: &SlotId| !self.rules.components[slot.component].single;
            let slots: Vec<_> = slots.filter(two).map(back).collect();
            if !slots.is_empty() {
                self.ask_switch(slots, Some(reason.to_owned()));
            }
        }
        Ok(())
    }

    fn ask_switch(&mut self, slots: Vec<SlotId>, back: Option<String>) {
        self.switching += 1;
        self.actions.push_back(Action::Switch(Switch { uses: self.uses(slots), back }));
    }

    fn uses(&self, slots: Vec<SlotId>) -> Vec<Use> {
        slots.into_iter().map(|slot| self.use_of(slot)).collect()
    }

    fn reboot_back(&mut self) {
        let reason = format!("back to the old set: {}", self.journal.note.reason);
        self.actions.push_back(Action::Reboot { reason });
    }

    /// To be called when [`next_deadline`](Self::next_deadline) is over.
    ///
    /// # Errors
    /// What could not be written; it is tried again.
    pub(crate) fn handle_timeout(&mut self, now: Now) -> Result<(), Failure> {
        if let Some(watch) = self.watch.filter(|watch| watch.deadline <= now.moment) {
            let why = "nobody could say whether it is healthy".to_owned();
            self.verdict(watch.number, Err(why), now)?;
        }
        if self.settle_at.is_some_and(|(at, _)| at <= now.moment) {
            if self.state() == State::Activated && self.passes.is_empty() {
                self.queue_mirrors();
            }
            return self.settle_now(now);
        }
        Ok(())
    }
}

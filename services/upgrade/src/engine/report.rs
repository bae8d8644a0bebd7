//! What the engine says about itself: status, progress, slots, history.

use protocol::upgrade::{Entry, Progress, Slot, SlotState, State, Status};

use super::{
    Engine,
    contract::{Letter, Platform, SlotId},
};

impl<P: Platform> Engine<P> {
    pub(crate) fn status(&self) -> Status {
        Status {
            state: self.shown(),
            set: self.start.running.map(Letter::as_char),
            transaction: self.plan.as_ref().map(|plan| plan.transaction.clone()),
            progress: self.progress(),
            reason: self.reason(),
        }
    }

    /// The journal's state; but for as long as mirrors are written the loader was not told yet, and whoever waits until he may reboot
    /// has to wait on.
    fn shown(&self) -> State {
        match self.state() {
            State::Activated if !self.passes.is_empty() => State::Verifying,
            state => state,
        }
    }

    fn reason(&self) -> Option<String> {
        let note = &self.journal.note;
        let waits = match self.shown() {
            State::Receiving if self.transfer.is_none() => {
                "the transfer was broken off; push the same bundle again, and it goes on where it was"
            }
            State::Written => "it is written and not activated",
            State::Activated if note.pending => {
                "it could not be activated yet; that is tried again"
            }
            State::Activated => "it is in use after the next boot",
            State::Confirmed | State::RolledBack if note.pending => {
                "not all of it could be written down yet; that is tried again"
            }
            _ => "",
        };
        let reason = if note.reason.is_empty() { waits } else { &note.reason };
        (!reason.is_empty()).then(|| reason.to_owned())
    }

    /// How far a transfer, or the reading back, is; nothing where neither is under way.
    pub(crate) fn progress(&self) -> Option<Progress> {
        let state = self.shown();
        if let Some(transfer) = &self.transfer {
            let counts = transfer.counts;
            return Some(Progress {
                state,
                done: counts.done,
                total: counts.total,
                received: counts.received,
                written: counts.written,
                component: transfer.component().map(str::to_owned),
            });
        }
        let pass = self.passes.current.as_ref()?;
        let planned = self.plan.as_ref()?.components.get(pass.task.planned());
        let (done, total) = pass.done();
        let component = planned.map(|planned| planned.component.clone());
        Some(Progress { state, done, total, received: 0, written: self.copied, component })
    }

    /// What is where. `targets` says what each slot is, by component and letter.
    pub(crate) fn slots(&mut self, target: impl Fn(SlotId) -> Option<String>) -> Vec<Slot> {
        // A loader that can't be read has no tries to tell of.
        let choice = self.platform.boot().and_then(|boot| boot.load().ok());
        let mut rows = Vec::new();
        for (component, rules) in self.rules.components.iter().enumerate() {
            for letter in Letter::BOTH {
                let id = SlotId { component, letter };
                if rules.single && letter == Letter::B {
                    continue;
                }
                let Some(target) = target(id) else { continue };
                let known = self.ledger.slot(&rules.name, letter);
                let of_set = rules.activation == super::contract::Activation::Reboot;
                let tries = choice.filter(|_| of_set).map(|choice| choice.tries[letter.index()]);
                let fact = Some(known.fact.clone()).filter(|fact| !fact.hash.is_empty());
                rows.push(Slot {
                    component: rules.name.clone(),
                    letter: letter.as_char(),
                    target,
                    state: self.slot_state(id, known.state),
                    version: fact.as_ref().map(|fact| fact.version.clone()),
                    rollback_index: fact.as_ref().map(|fact| fact.rollback_index),
                    hash: fact.map(|fact| fact.hash),
                    tries,
                });
            }
        }
        rows
    }

    /// What a slot is good for, with what is in use and on trial.
    fn slot_state(&self, slot: SlotId, known: SlotState) -> SlotState {
        let planned = self.plan.as_ref().is_some_and(|plan| {
            plan.components.iter().any(|planned| planned.slot(&self.rules) == Some(slot))
        });
        let used = self.in_use(slot.component) == Some(slot);
        match (self.state(), used) {
            (State::Trial, true) if planned => SlotState::Trial,
            (State::Activated | State::Written, false) if planned => SlotState::Next,
            // One that is written in place is in use, and not whole.
            (State::Receiving | State::Verifying, true) if planned => known,
            (_, true) => SlotState::Active,
            (_, false) => known,
        }
    }

    /// What was done, newest last.
    pub(crate) fn history(&self) -> &[Entry] {
        self.ledger.history()
    }

    /// The lowest rollback index of a component that was recorded.
    #[cfg(test)]
    pub(crate) fn floor(&self, component: &str) -> u64 {
        self.ledger.floor(component)
    }
}

//! What a state of the journal demands: the loader's choice, the slots in use, the floors, the history. All of it may be done
//! twice, and is tried again where it failed.

use std::time::Duration;

use protocol::{
    failure::Failure,
    upgrade::{Entry, SlotState, State},
};

use super::{
    Engine, Note,
    choice::Choice,
    contract::{Now, Platform},
    failed,
    ledger::Known,
};

const SETTLE_AGAIN: Duration = Duration::from_secs(10);
/// After so many times in vain only the next start tries again.
const SETTLE_TIMES: u32 = 30;

impl<P: Platform> Engine<P> {
    /// Does what the journal's state demands, all of it again if need be, and then notes that it is done.
    pub(super) fn settle(&mut self, now: Now) -> Result<(), Failure> {
        let settled = self.settle_once(now);
        match &settled {
            Ok(()) => self.settle_at = None,
            Err(_) => self.try_again(now),
        }
        settled
    }

    fn settle_once(&mut self, now: Now) -> Result<(), Failure> {
        match self.state() {
            State::Activated if self.passes.is_empty() => return self.switch(true, now),
            State::Confirmed => self.settle_confirmed(now)?,
            State::RolledBack => self.settle_rolled_back(now)?,
            State::Failed => self.remember(now)?,
            _ => return Ok(()),
        }
        match self.journal.note.pending {
            true => self.note(Note { pending: false, ..self.journal.note.clone() }),
            false => Ok(()),
        }
    }

    /// As [`settle`](Self::settle), if something is open.
    pub(super) fn settle_now(&mut self, now: Now) -> Result<(), Failure> {
        if self.journal.note.pending { self.settle(now) } else { Ok(()) }
    }

    pub(super) fn try_again(&mut self, now: Now) {
        let times = self.settle_at.map_or(0, |(_, times)| times) + 1;
        let at = now.moment + SETTLE_AGAIN;
        self.settle_at = (times <= SETTLE_TIMES).then_some((at, times));
    }

    fn settle_confirmed(&mut self, now: Now) -> Result<(), Failure> {
        let tries = self.rules.tries;
        if let Some(letter) = self.journal.note.letter {
            self.choose(|choice| choice.confirmed(letter, tries))?;
        }
        let lost = |error| failed(format!("write what was confirmed: {error}"));
        let trial = self.ledger.trial();
        let trial = trial.iter().map(|(name, letter)| (name.as_str(), *letter));
        self.ledger.settle(&mut self.platform, trial).map_err(lost)?;
        self.raise_floors()?;
        self.remember(now)
    }

    /// From now on nothing older is taken. A permission that was used lowers its floor instead, once.
    fn raise_floors(&mut self) -> Result<(), Failure> {
        let Some(plan) = &self.plan else { return Ok(()) };
        let permitted = |name: &str| plan.permitted.iter().any(|one| one.component == name);
        let floors = plan.components.iter().map(|one| {
            let (name, index) = (one.component.as_str(), one.fact.rollback_index);
            let floor = self.ledger.floor(name);
            (name, if permitted(name) { index } else { index.max(floor) })
        });
        let floors: Vec<_> = floors.collect();
        let used = plan.permitted.iter().map(|one| one.permission.as_str());
        let used: Vec<_> = used.collect();
        let set = self.ledger.set_floors(&mut self.platform, floors, &used);
        set.map_err(|error| failed(format!("write the rollback floor: {error}")))
    }

    fn settle_rolled_back(&mut self, now: Now) -> Result<(), Failure> {
        let (tries, note) = (self.rules.tries, self.journal.note.clone());
        if let Some(letter) = note.letter {
            let old = letter.other();
            self.choose(|choice| match choice.without(letter) {
                left if left.primary() == Some(old) => left,
                left => left.confirmed(old, tries),
            })?;
        }
        let lost = |error| failed(format!("write what was rolled back: {error}"));
        let slots = self.planned_live();
        let slots = slots.iter().filter_map(|slot| {
            let rules = self.rules.components.get(slot.component)?;
            (!rules.single).then_some((rules.name.as_str(), slot.letter.other()))
        });
        self.ledger.settle(&mut self.platform, slots).map_err(lost)?;
        if note.bad
            && let Some(plan) = &self.plan
        {
            let bad = |name, letter| {
                let fact = self.ledger.slot(name, letter).fact;
                (name, letter, Known { state: SlotState::Bad, fact })
            };
            let slots = plan.components.iter().map(|one| bad(one.component.as_str(), one.letter));
            let slots: Vec<_> = slots.collect();
            self.ledger.note_slots(&mut self.platform, slots).map_err(lost)?;
        }
        self.remember(now)
    }

    /// Into the history with it.
    fn remember(&mut self, now: Now) -> Result<(), Failure> {
        let plan = self.plan.as_ref();
        let note = &self.journal.note;
        let entry = Entry {
            sequence: 0,
            time: now.wall,
            state: note.state,
            transaction: plan.map(|plan| plan.transaction.clone()).unwrap_or_default(),
            reason: note.reason.clone(),
            outage_ms: note.outage_ms,
        };
        let unsigned = if plan.is_some_and(|plan| plan.unsigned) { "unsigned" } else { "" };
        let told = [&entry.reason, &note.remarks, unsigned];
        let told: Vec<_> = told.into_iter().filter(|text| !text.is_empty()).collect();
        let entry = Entry { reason: told.join("; "), ..entry };
        let recorded = self.ledger.record(&mut self.platform, entry);
        recorded.map_err(|error| failed(format!("write the history: {error}")))
    }

    pub(super) fn choice(&mut self) -> Result<Choice, Failure> {
        let boot = self.platform.boot();
        let boot = boot.ok_or_else(|| failed("upgrade.toml names no boot-control".to_owned()))?;
        boot.load().map_err(|error| failed(format!("read the boot control: {error}")))
    }

    /// Changes what the loader goes by: one write, read back; none where nothing changes.
    pub(super) fn choose(&mut self, change: impl FnOnce(Choice) -> Choice) -> Result<(), Failure> {
        let old = self.choice()?;
        let new = change(old);
        if new == old {
            return Ok(());
        }
        if let Some(boot) = self.platform.boot() {
            boot.store(&new).map_err(|error| failed(format!("write the boot control: {error}")))?;
        }
        match self.choice()? {
            read if read.boots_as(&new) => Ok(()),
            read => {
                Err(failed(format!("the boot control says {read:?} after {new:?} was written")))
            }
        }
    }
}

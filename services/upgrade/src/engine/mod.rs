//! The writer's core: takes a bundle apart, writes slots, switches, confirms or goes back. It knows no file, no socket and no
//! clock; the device is behind [`contract::Platform`], so the simulation cuts the power at every operation of it.
//!
//! [`state`] has the states, [`offer`] what is believed, [`transfer`] how bytes come in, [`pass`] how they are read back, [`life`]
//! what follows. A method either does all of its step or says why not; long work is done by [`Engine::work`], a slice a call.

pub(crate) mod choice;
mod content;
pub(crate) mod contract;
mod journal;
mod ledger;
mod life;
mod offer;
mod pass;
mod plan;
mod receive;
mod report;
mod run;
mod settle;
pub(crate) mod state;
mod transfer;
mod trust;
mod verify;

use std::{collections::VecDeque, io};

use bundle::{Keyring, Permission};
use protocol::{
    failure::{Code, Failure},
    time::Moment,
    upgrade::State,
};

pub(crate) use self::transfer::Limits;
use self::{
    contract::{Action, Fact, Now, Platform, Rules, SlotId, Start, Use},
    journal::{Journal, Note},
    ledger::Ledger,
    pass::Passes,
    plan::Plan,
    state::Step,
    transfer::Transfer,
};

/// The writer's core.
pub(crate) struct Engine<P> {
    platform: P,
    rules: Rules,
    start: Start,
    limits: Limits,
    journal: Journal,
    ledger: Ledger,
    /// What the journal's transaction does; absent where there was none, or its file is lost.
    plan: Option<Plan>,
    keyring: Option<Keyring>,
    permissions: Vec<(Permission, String)>,
    transfer: Option<Transfer>,
    passes: Passes,
    /// `finish` said whether to activate what was verified.
    activate: bool,
    session: u64,
    watch: Option<Watch>,
    watches: u64,
    /// Switches that were asked for and not answered.
    switching: u32,
    /// The journal's state demands something that failed; when it is tried again, and how often it was.
    settle_at: Option<(Moment, u32)>,
    /// Bytes that passes have written since the transfer began.
    copied: u64,
    actions: VecDeque<Action>,
}

/// An observation that was asked for.
#[derive(Clone, Copy, Debug)]
struct Watch {
    number: u64,
    /// Without a verdict until then it is taken for a bad one.
    deadline: Moment,
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Work {
    More,
    Done,
}

impl<P: Platform> Engine<P> {
    /// Reads what was left and goes on with it: what has to be decided before any service starts is decided when this returns.
    ///
    /// # Errors
    /// Where the state can't be read or written: then nothing may be upgraded.
    pub(crate) fn open(
        mut platform: P,
        rules: Rules,
        start: Start,
        limits: Limits,
        now: Now,
    ) -> io::Result<Self> {
        let journal = Journal::open(&mut platform)?;
        let mut ledger = Ledger::open(&mut platform)?;
        let plan = match journal.note.id.is_empty() {
            true => None,
            false => match Plan::load(&mut platform, journal.note.plan) {
                Ok(plan) if plan.id == journal.note.id => Some(plan),
                Ok(_) => None,
                Err(error) => {
                    ledger.complaints.push(error.to_string());
                    None
                }
            },
        };
        let mut engine = Self {
            platform,
            rules,
            start,
            limits,
            journal,
            ledger,
            plan,
            keyring: None,
            permissions: Vec::new(),
            transfer: None,
            passes: Passes::default(),
            activate: false,
            session: 0,
            watch: None,
            watches: 0,
            switching: 0,
            settle_at: None,
            copied: 0,
            actions: VecDeque::new(),
        };
        engine.resume(now)?;
        Ok(engine)
    }

    /// What is to be done next outside of the engine.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        let watch = self.watch.map(|watch| watch.deadline);
        watch.into_iter().chain(self.settle_at.map(|(at, _)| at)).min()
    }

    /// What could not be read at the start, for the log.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.ledger.complaints
    }

    /// The slot of a component that is in use: where its link has to point. Nothing of the set where the loader said nothing.
    pub(crate) fn in_use(&self, component: usize) -> Option<SlotId> {
        let rules = self.rules.components.get(component)?;
        let letter = offer::in_use(&self.ledger, &self.start, rules)?;
        Some(SlotId { component, letter })
    }

    /// What the slots in use hold that are loaded into memory, for a start: all but those of a trial of this boot, which is taken
    /// up where it was.
    pub(crate) fn loaded(&self) -> Vec<Use> {
        let trial = self.state() == State::Trial && self.journal.note.letter.is_none();
        let tried = if trial { self.planned_live() } else { Vec::new() };
        let rules = self.rules.components.iter().enumerate();
        let loaded = rules.filter(|(_, rules)| rules.activation.is_loaded());
        let slots = loaded.filter_map(|(component, _)| self.in_use(component));
        let slots = slots.filter(|slot| !tried.contains(slot));
        // The set that brought it has just been booted.
        let first = self.state() == State::Trial && !trial && self.journal.note.starts == 1;
        let brought = |slot| first && self.planned_live().contains(&slot);
        slots.map(|slot| Use { first: brought(slot), ..self.use_of(slot) }).collect()
    }

    fn use_of(&self, slot: SlotId) -> Use {
        let other = SlotId { letter: slot.letter.other(), ..slot };
        let (fact, permitted) = (self.fact(slot), self.is_permitted(slot));
        Use { slot, fact, other: self.fact(other), first: false, permitted }
    }

    /// Whether the upgrade that fills this slot came with a permission for its component.
    fn is_permitted(&self, slot: SlotId) -> bool {
        let Some(plan) = &self.plan else { return false };
        plan.components.iter().any(|planned| {
            let permitted = plan.permitted.iter().any(|one| one.component == planned.component);
            permitted && planned.slot(&self.rules) == Some(slot)
        })
    }

    /// What is known of a slot's contents: enough to check them.
    fn fact(&self, slot: SlotId) -> Option<Fact> {
        let rules = self.rules.components.get(slot.component)?;
        let known = self.ledger.slot(&rules.name, slot.letter);
        let whole = |fact: &Fact| !fact.hash.is_empty() && fact.size > 0;
        if known.state != protocol::upgrade::SlotState::Empty {
            return Some(known.fact).filter(whole);
        }
        let factory = self.start.factory.iter().find(|(name, _)| *name == rules.name);
        let in_use = self.in_use(slot.component) == Some(slot);
        factory.filter(|_| in_use).map(|(_, fact)| fact.clone()).filter(whole)
    }

    fn state(&self) -> State {
        self.journal.note.state
    }

    /// Journals a step. Whatever the step does comes after this.
    fn step(&mut self, step: Step, change: impl FnOnce(&mut Note)) -> Result<(), Failure> {
        let from = self.state();
        let Some(state) = state::after(from, step) else {
            let text = format!("not possible while the upgrade is {}", state::name(from));
            return Err(Failure::new(Code::Failed, text));
        };
        let mut note = Note { state, reason: String::new(), ..self.journal.note.clone() };
        change(&mut note);
        self.note(note)?;
        self.actions.push_back(Action::Changed);
        Ok(())
    }

    fn note(&mut self, note: Note) -> Result<(), Failure> {
        self.journal
            .write(&mut self.platform, note)
            .map_err(|error| failed(format!("write the journal: {error}")))
    }
}

fn failed(text: String) -> Failure {
    Failure::new(Code::Failed, text)
}

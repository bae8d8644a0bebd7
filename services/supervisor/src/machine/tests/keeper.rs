//! A model of the keeper: slots, generations, dispositions, and processes that obey.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{
    keeper::{Disposition, Exit, Phase, SlotState},
    time::Moment,
};

use super::super::instance::empty_slot;

#[derive(Clone, Debug, Default)]
pub(super) struct Keeper {
    pub(super) slots: BTreeMap<u32, Slot>,
    /// Slots whose state the supervisor has not heard yet.
    pub(super) changed: BTreeSet<u32>,
    last_pid: i32,
}

#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) state: SlotState,
    pub(super) disposition: Disposition,
    /// Ends only by SIGKILL.
    pub(super) stubborn: bool,
    /// Nothing reaches it, not even SIGKILL, until it thaws.
    pub(super) frozen: bool,
    /// Hears nothing but SIGKILL, and what is spawned beside it hears nothing either.
    pub(super) kept: bool,
    /// Leaves processes behind, so that its end takes time.
    pub(super) messy: bool,
    /// The keeper will respawn it alone.
    answers: bool,
}

impl Keeper {
    pub(super) fn define(&mut self, slot: u32, identity: u64, disposition: Disposition) {
        let slot = self.slots.entry(slot).or_insert_with(|| Slot {
            state: empty_slot(slot, identity),
            disposition,
            stubborn: false,
            frozen: false,
            kept: false,
            messy: false,
            answers: false,
        });
        slot.state.identity = identity;
        slot.disposition = disposition;
    }

    pub(super) fn dispose(&mut self, slot: u32, disposition: Disposition) {
        let state = self.slots.get_mut(&slot).expect("only a defined slot has a disposition");
        state.disposition = disposition;
        if disposition.armed_after_ms.or(disposition.alone_after_ms).is_none() {
            state.answers = false;
            if state.state.phase == Phase::Waiting {
                state.state.phase = Phase::Idle;
                self.changed.insert(slot);
            }
        }
    }

    pub(super) fn spawn(&mut self, slot: u32, expected: u32, now: Moment) {
        let state = &self.slots.get(&slot).expect("a slot is defined before it is spawned").state;
        assert_eq!(state.phase, Phase::Idle, "slot {slot} is spawned while something of it runs");
        assert_eq!(state.generation, expected, "slot {slot} is spawned with a stale generation");
        self.begin(slot, false, now);
    }

    fn begin(&mut self, slot: u32, alone: bool, now: Moment) {
        self.last_pid += 1;
        assert!(!self.slots[&slot].kept, "slot {slot} is spawned into a frozen group");
        let state = &mut self.slots.get_mut(&slot).unwrap().state;
        state.generation += 1;
        state.phase = Phase::Running;
        state.pid = 1000 + self.last_pid;
        state.spawned_at = now;
        state.answered_alone = alone;
        state.oom = false;
        self.changed.insert(slot);
    }

    pub(super) fn signal(&mut self, slot: u32, generation: u32, signal: i32, now: Moment) {
        let Some(there) = self.slots.get(&slot) else { return };
        if there.frozen || (there.kept && signal != 9) {
            return;
        }
        let current = there.state.generation == generation;
        let deadly = signal == 9 || (!there.stubborn && [6, 15].contains(&signal));
        if current && deadly && there.state.phase == Phase::Running {
            let signal = u8::try_from(signal).unwrap();
            self.end(slot, Exit::Signal { signal, core: signal == 6 }, now);
        }
    }

    /// The main process ends; armed, the keeper answers alone.
    pub(super) fn end(&mut self, slot: u32, exit: Exit, now: Moment) {
        let there = self.slots.get_mut(&slot).unwrap();
        if there.state.phase != Phase::Running {
            return;
        }
        there.state.exit = exit;
        there.state.exit_generation = there.state.generation;
        there.state.exited_at = now;
        there.state.pid = 0;
        there.state.phase = Phase::Emptying;
        let answered = exit != Exit::Code(0) || there.disposition.on_success;
        there.answers = answered && there.disposition.armed_after_ms.take().is_some();
        self.changed.insert(slot);
        if !there.messy {
            self.step(slot, now);
        }
    }

    /// What the keeper does by itself, one step: the leftovers are gone, or the wait is over.
    pub(super) fn step(&mut self, slot: u32, now: Moment) -> bool {
        let Some(there) = self.slots.get_mut(&slot) else { return false };
        match there.state.phase {
            Phase::Emptying if there.answers => there.state.phase = Phase::Waiting,
            Phase::Emptying => there.state.phase = Phase::Idle,
            Phase::Waiting => {
                there.answers = false;
                self.begin(slot, true, now);
            }
            _ => return false,
        }
        self.changed.insert(slot);
        if self.slots[&slot].state.phase == Phase::Waiting && !self.slots[&slot].messy {
            return self.step(slot, now);
        }
        true
    }

    /// What happens to a slot while no supervisor lives.
    pub(super) fn end_unseen(&mut self, slot: u32, exit: Exit, now: Moment) {
        let before = self.slots[&slot].state.generation;
        self.end(slot, exit, now);
        let there = &self.slots[&slot];
        let answered = exit != Exit::Code(0) || there.disposition.on_success;
        let held = there.state.phase == Phase::Idle && there.state.generation == before;
        if held && answered && there.disposition.alone_after_ms.is_some() {
            self.begin(slot, true, now);
        }
    }

    pub(super) fn forget(&mut self, slot: u32) {
        if let Some(there) = self.slots.remove(&slot) {
            assert_eq!(
                there.state.phase,
                Phase::Idle,
                "slot {slot} is forgotten while something of it runs"
            );
        }
        self.changed.remove(&slot);
    }
}

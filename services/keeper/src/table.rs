//! The table of slots. Whoever asks for a slot may change it, so it is noted as touched, and what the loop asks again and
//! again (which are due, which changed, whose pid is this) is kept beside it in small arrays, whatever their number.

use protocol::{keeper::SLOTS_MAX, time::Moment};

use crate::slot::Slot;

const WORDS: usize = SLOTS_MAX as usize / 64;

/// One bit a slot.
#[derive(Debug)]
struct Bits([u64; WORDS]);

impl Bits {
    const fn none() -> Self {
        Self([0; WORDS])
    }

    fn set(&mut self, at: usize, value: bool) {
        let bit = 1 << (at % 64);
        if value {
            self.0[at / 64] |= bit;
        } else {
            self.0[at / 64] &= !bit;
        }
    }

    fn first(&self) -> Option<usize> {
        let word = self.0.iter().position(|word| *word != 0)?;
        Some(word * 64 + self.0[word].trailing_zeros() as usize)
    }
}

/// All slots. The place for every one is reserved at start; pages are touched only as far as slots are used.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    /// Given out since they were looked at last.
    touched: Bits,
    /// To be reported.
    changed: Bits,
    /// `Slot::state.pid` of each, as of the last look.
    pids: Vec<i32>,
    /// `Slot::due` of each, as of the last look; [`NEVER`] for none.
    due: Vec<Moment>,
    /// The least of `due`; `None` after one may have grown.
    earliest: Option<Moment>,
}

const NEVER: Moment = Moment(u64::MAX);

impl Table {
    pub(crate) fn new() -> Self {
        let places = SLOTS_MAX as usize;
        Self {
            slots: Vec::with_capacity(places),
            touched: Bits::none(),
            changed: Bits::none(),
            pids: Vec::with_capacity(places),
            due: Vec::with_capacity(places),
            earliest: Some(NEVER),
        }
    }

    /// The slot of this number, which is made when it is in range. Never allocates: the place is there.
    pub(crate) fn place(&mut self, slot: u32) -> Option<&mut Slot> {
        while slot < SLOTS_MAX && self.slots.len() <= slot as usize {
            let next = u32::try_from(self.slots.len()).expect("at most SLOTS_MAX");
            self.slots.push(Slot::free(next));
            self.pids.push(0);
            self.due.push(NEVER);
        }
        let place = self.slots.get_mut(slot as usize)?;
        self.touched.set(slot as usize, true);
        Some(place)
    }

    /// A slot that is in use.
    pub(crate) fn used(&mut self, slot: u32) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(slot as usize).filter(|slot| slot.used)?;
        self.touched.set(slot.state.slot as usize, true);
        Some(slot)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.used)
    }

    /// All that are used and of which this is so. For what happens seldom: it looks at every slot.
    pub(crate) fn each(&mut self, wanted: impl Fn(&Slot) -> bool, mut then: impl FnMut(&mut Slot)) {
        for slot in self.slots.iter_mut().filter(|slot| slot.used && wanted(slot)) {
            self.touched.set(slot.state.slot as usize, true);
            then(slot);
        }
    }

    /// Which slot has this main process.
    pub(crate) fn of_pid(&mut self, pid: i32) -> Option<&mut Slot> {
        self.look();
        let at = self.pids.iter().position(|it| *it == pid)?;
        self.used(u32::try_from(at).ok()?)
    }

    /// The next slot in use from `from` on, for the hand-over.
    pub(crate) fn next_used(&mut self, from: u32) -> Option<&mut Slot> {
        let at = (from as usize..self.slots.len()).find(|at| self.slots[*at].used)?;
        self.used(u32::try_from(at).ok()?)
    }

    /// A slot that is to be reported. Forgets that it was: mark it again if the report didn't fit.
    pub(crate) fn take_changed(&mut self) -> Option<&mut Slot> {
        self.look();
        while let Some(at) = self.changed.first() {
            self.changed.set(at, false);
            if let Some(slot) = self.slots.get_mut(at).filter(|slot| slot.used && slot.changed) {
                self.touched.set(at, true);
                slot.changed = false;
                return self.slots.get_mut(at);
            }
        }
        None
    }

    /// A slot whose time has come.
    pub(crate) fn due(&mut self, now: Moment) -> Option<u32> {
        if self.next_deadline()? > now {
            return None;
        }
        let at = self.due.iter().position(|due| *due <= now)?;
        u32::try_from(at).ok()
    }

    pub(crate) fn next_deadline(&mut self) -> Option<Moment> {
        self.look();
        let all = &self.due;
        let earliest =
            *self.earliest.get_or_insert_with(|| all.iter().copied().min().unwrap_or(NEVER));
        (earliest != NEVER).then_some(earliest)
    }

    /// Frees a slot in which nothing runs.
    pub(crate) fn forget(&mut self, slot: u32) {
        if let Some(place) = self.place(slot) {
            *place = Slot::free(slot);
        }
    }

    /// Brings the arrays up to date with what was touched.
    fn look(&mut self) {
        while let Some(at) = self.touched.first() {
            self.touched.set(at, false);
            let slot = &self.slots[at];
            self.changed.set(at, slot.used && slot.changed);
            self.pids[at] = slot.state.pid;
            let due = slot.due.filter(|_| slot.used).unwrap_or(NEVER);
            let before = std::mem::replace(&mut self.due[at], due);
            self.earliest = match self.earliest {
                Some(earliest) if due <= earliest => Some(due),
                Some(earliest) if before == earliest => None,
                same => same,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_refuses_slots_beyond_its_limit() {
        let mut table = Table::new();
        assert!(table.place(SLOTS_MAX - 1).is_some());
        assert!(table.place(SLOTS_MAX).is_none());
        assert!(table.used(0).is_none());
    }

    #[test]
    fn the_earliest_deadline_follows_every_change() {
        let mut table = Table::new();
        let due = |table: &mut Table, slot, due: Option<u64>| {
            let slot = table.place(slot).unwrap();
            slot.used = true;
            slot.due = due.map(Moment);
        };
        assert_eq!(table.next_deadline(), None);
        due(&mut table, 1500, Some(30));
        due(&mut table, 7, Some(20));
        assert_eq!(table.next_deadline(), Some(Moment(20)));
        assert_eq!((table.due(Moment(19)), table.due(Moment(20))), (None, Some(7)));
        due(&mut table, 7, Some(40));
        assert_eq!(table.due(Moment(35)), Some(1500));
        table.forget(1500);
        assert_eq!(table.next_deadline(), Some(Moment(40)));
        due(&mut table, 7, None);
        assert_eq!(table.next_deadline(), None);
    }

    #[test]
    fn a_slot_is_found_by_its_pid_and_reported_once() {
        let mut table = Table::new();
        let slot = table.place(70).unwrap();
        slot.used = true;
        slot.started(99, false);
        assert_eq!(table.of_pid(99).unwrap().state.slot, 70);
        assert_eq!(table.take_changed().unwrap().state.slot, 70);
        assert!(table.take_changed().is_none());
        table.used(70).unwrap().state.pid = 0;
        assert!(table.of_pid(99).is_none());
    }
}

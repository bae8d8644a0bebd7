//! Which connection is due next, among very many: a heap that knows where in it each connection stands.
//!
//! A deadline that moves to later stays where it is and is looked at again when it comes; so a segment that only puts
//! a deadline off costs nothing here, and an idle connection costs only what comes due.

use std::time::Instant;

/// Not in the heap.
const NOWHERE: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// Deadline and slot; each no earlier than its parent.
    heap: Vec<(Instant, u32)>,
    /// By slot: its place in the heap.
    places: Vec<u32>,
}

impl Schedule {
    /// The earliest moment at which something may be due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|(deadline, _)| *deadline)
    }

    /// Sees to it that the slot is looked at no later than `deadline`.
    pub(crate) fn no_later(&mut self, slot: u32, deadline: Instant) {
        match self.place(slot) {
            Some(place) => {
                if deadline < self.heap[place].0 {
                    self.heap[place].0 = deadline;
                    self.rise(place);
                }
            }
            None => {
                let place = self.heap.len();
                self.heap.push((deadline, slot));
                self.note(place);
                self.rise(place);
            }
        }
    }

    /// Takes off the slot whose time has come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<u32> {
        let &(deadline, slot) = self.heap.first()?;
        (deadline <= now).then(|| {
            self.remove(slot);
            slot
        })
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(place) = self.place(slot) else { return };
        self.heap.swap_remove(place);
        self.places[index(slot)] = NOWHERE;
        if place < self.heap.len() {
            self.note(place);
            let settled = self.rise(place);
            self.sink(settled);
        }
    }

    fn place(&self, slot: u32) -> Option<usize> {
        let place = *self.places.get(index(slot))?;
        (place != NOWHERE).then_some(index(place))
    }

    fn note(&mut self, place: usize) {
        let slot = index(self.heap[place].1);
        if slot >= self.places.len() {
            self.places.resize(slot + 1, NOWHERE);
        }
        self.places[slot] = u32::try_from(place).expect("no more entries than slots of 32 bits");
    }

    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].0 <= self.heap[place].0 {
                break;
            }
            self.swap(parent, place);
            place = parent;
        }
        place
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let left = 2 * place + 1;
            let right = left + 1;
            if left >= self.heap.len() {
                break;
            }
            let smaller = if right < self.heap.len() && self.heap[right].0 < self.heap[left].0 {
                right
            } else {
                left
            };
            if self.heap[place].0 <= self.heap[smaller].0 {
                break;
            }
            self.swap(place, smaller);
            place = smaller;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.note(one);
        self.note(other);
    }
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).expect("32 bits fit into an address of the machines we run on")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tests::{Dice, start};

    #[test]
    fn what_is_due_comes_in_order_and_never_late() {
        let start = start();
        for seed in 0..200 {
            let mut dice = Dice(seed);
            let mut schedule = Schedule::default();
            let mut wanted: Vec<Option<Instant>> = vec![None; 50];
            let mut now = start;
            for _ in 0..500 {
                let slot = u32::try_from(dice.below(50)).unwrap();
                match dice.below(10) {
                    0 => {
                        schedule.remove(slot);
                        wanted[index(slot)] = None;
                    }
                    1 => {
                        now += Duration::from_millis(dice.below(30));
                        let mut last = start;
                        while let Some(due) = schedule.take_due(now) {
                            let deadline = wanted[index(due)].take().expect("it was wanted");
                            assert!(last <= deadline && deadline <= now, "seed {seed}");
                            last = deadline;
                        }
                        assert!(
                            wanted.iter().flatten().all(|deadline| *deadline > now),
                            "seed {seed}"
                        );
                    }
                    _ => {
                        let deadline = now + Duration::from_millis(1 + dice.below(100));
                        schedule.no_later(slot, deadline);
                        let old = &mut wanted[index(slot)];
                        *old = Some(old.map_or(deadline, |old| old.min(deadline)));
                    }
                }
                assert_eq!(schedule.next(), wanted.iter().flatten().min().copied(), "seed {seed}");
            }
        }
    }
}

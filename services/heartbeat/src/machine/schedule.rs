//! Who is to be looked at when: a heap, so that ten thousand who are well cost nothing until one of them is due.

use std::{cmp::Reverse, collections::BinaryHeap};

use protocol::time::Moment;

use super::contract::SessionId;

/// Whose time has come.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Whose {
    Application(i32),
    Session(SessionId),
}

/// An entry is never taken out before its time: its owner knows which of its entries counts.
#[derive(Debug, Default)]
pub(super) struct Schedule(BinaryHeap<Reverse<(Moment, Whose)>>);

impl Schedule {
    pub(super) fn add(&mut self, when: Moment, whose: Whose) {
        self.0.push(Reverse((when, whose)));
    }

    pub(super) fn next(&self) -> Option<Moment> {
        self.0.peek().map(|Reverse((when, _))| *when)
    }

    /// The next entry that is due.
    pub(super) fn due(&mut self, now: Moment) -> Option<(Moment, Whose)> {
        self.next().filter(|when| *when <= now)?;
        self.0.pop().map(|Reverse(entry)| entry)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Drops the entries that don't count any more.
    pub(super) fn retain(&mut self, counts: impl Fn(Moment, Whose) -> bool) {
        self.0.retain(|Reverse((when, whose))| counts(*when, *whose));
    }
}

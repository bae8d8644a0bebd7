//! Order numbers: which slots have to be dealt with before which. Core services and applications are counted apart,
//! because applications wait for the core anyway.

use std::collections::{BTreeMap, BTreeSet};

/// Slots by number; only those with the lowest number may go.
#[derive(Debug, Default)]
pub(crate) struct Order {
    groups: [BTreeMap<i64, BTreeSet<u32>>; 2],
    members: BTreeMap<u32, (bool, i64)>,
}

impl Order {
    pub(crate) fn insert(&mut self, slot: u32, core: bool, number: i64) {
        if let Some((core, number)) = self.members.insert(slot, (core, number))
            && let Some(group) = self.groups[usize::from(core)].get_mut(&number)
        {
            group.remove(&slot);
            if group.is_empty() {
                self.groups[usize::from(core)].remove(&number);
            }
        }
        self.groups[usize::from(core)].entry(number).or_default().insert(slot);
    }

    /// Takes a slot out; the slots that may go because of that.
    pub(crate) fn remove(&mut self, slot: u32) -> Vec<u32> {
        let Some((core, number)) = self.members.remove(&slot) else { return Vec::new() };
        let groups = &mut self.groups[usize::from(core)];
        let Some(group) = groups.get_mut(&number) else { return Vec::new() };
        group.remove(&slot);
        if !group.is_empty() {
            return Vec::new();
        }
        groups.remove(&number);
        match groups.first_key_value() {
            Some((first, next)) if *first > number => next.iter().copied().collect(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn may_go(&self, core: bool, number: i64) -> bool {
        self.groups[usize::from(core)].first_key_value().is_none_or(|(first, _)| *first >= number)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

//! A service as a whole: its definition, its instances' slots, and how it stands towards the others.

pub(crate) mod graph;
pub(crate) mod order;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use protocol::name::Name;

use super::triggers::Triggers;
use crate::settings::Service;

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) service: Arc<Service>,
    /// By instance name; those that leave are still here.
    pub(crate) slots: BTreeMap<Name, u32>,
    /// What runs for a while beside its instances, because one of them is being replaced.
    pub(crate) beside: BTreeSet<u32>,
    pub(crate) standing: Standing,
    /// Deleted; gone with its last instance.
    pub(crate) leaving: bool,
    /// Between `update_start` and `update_complete`: the instances that nobody has added again.
    pub(crate) unconfirmed: Option<BTreeSet<Name>>,
    /// As its definition has them, compiled.
    pub(super) triggers: Triggers,
}

/// What others need to know of a service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Standing {
    /// It is wanted, and none of its wanted instances has given up: it is there or will come.
    pub(crate) up: bool,
    /// All wanted instances are ready.
    pub(crate) ready: bool,
    /// A start of one of them failed and none has worked since: who only comes after it doesn't wait.
    pub(crate) stumbled: bool,
    /// Something of it runs that can still be waited for.
    pub(crate) live: bool,
}

impl Standing {
    /// It is not there yet, and its first try may still succeed: who comes after it waits.
    pub(crate) fn is_awaited(self) -> bool {
        self.up && !self.ready && !self.stumbled
    }
}

impl Entry {
    /// A new service is believed to come until it was looked at, so that nothing is stopped for its sake too early.
    pub(crate) fn new(service: Arc<Service>) -> Self {
        let standing = Standing { up: true, ..Standing::default() };
        let (slots, beside) = Default::default();
        let triggers = Triggers::default();
        Self { service, slots, beside, standing, leaving: false, unconfirmed: None, triggers }
    }

    /// Deleted, and nothing of it is left.
    pub(crate) fn is_over(&self) -> bool {
        self.leaving && self.slots.is_empty() && self.beside.is_empty()
    }
}

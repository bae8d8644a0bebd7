//! Stopping everything in the reverse order, and leaving by a deadline whatever happens.

use std::{collections::BTreeSet, time::Duration};

use protocol::{keeper::ShutdownKind, time::Moment};

use super::{Action, Due, Ending, Supervisor, instance::Life, service::order::Order};

/// Then the device goes down with whatever is left.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);
const SIGKILL: i32 = 9;
/// procd's convention: what starts at N stops at 100 - N.
const STOP_MIRROR: i64 = 100;

#[derive(Debug)]
pub(super) struct Shutdown {
    kind: ShutdownKind,
    exit_code: u8,
    /// What runs, and its order where numbers give it.
    order: Order,
    applications: BTreeSet<u32>,
    core: BTreeSet<u32>,
    left: bool,
}

impl Supervisor {
    pub(super) fn begin_shutdown(
        &mut self,
        kind: ShutdownKind,
        exit_code: u8,
        ending: Ending,
        now: Moment,
    ) {
        if let Some(before) = &mut self.before {
            before.shutdown = Some((kind, exit_code, ending));
            return;
        }
        if self.shutdown.is_some() {
            return;
        }
        let (mut order, mut applications, mut core) =
            (Order::default(), BTreeSet::new(), BTreeSet::new());
        for life in self.lives.values().filter(|life| life.busy()) {
            let is_core = life.service.core;
            if self.is_plain(&life.service.name) {
                order.insert(life.slot, is_core, stop_number(life));
            }
            if is_core {
                core.insert(life.slot)
            } else {
                applications.insert(life.slot)
            };
        }
        self.shutdown = Some(Shutdown { kind, exit_code, order, applications, core, left: false });
        self.happen_shutdown(kind, exit_code, &ending);
        self.actions.push_back(Action::Ending { kind, ending, limit: SHUTDOWN_TIMEOUT });
        self.starts.clear();
        self.deadlines.insert((now + SHUTDOWN_TIMEOUT, Due::Shutdown));
        self.dirty.extend(self.lives.keys().copied());
    }

    pub(super) fn may_stop_in_shutdown(&self, life: &Life) -> bool {
        let Some(shutdown) = &self.shutdown else { return true };
        let name = &life.service.name;
        let is_core = life.service.core;
        let is_live = |other| self.services.get(other).is_some_and(|entry| entry.standing.live);
        let held_by_number =
            self.is_plain(name) && !shutdown.order.may_go(is_core, stop_number(life));
        let held_by_applications = is_core && !shutdown.applications.is_empty();
        !held_by_number && !held_by_applications && !self.graph.followers(name).any(is_live)
    }

    /// Notes that nothing of a slot runs any more, or that what runs can't be waited for.
    pub(super) fn note_stopped(&mut self, slot: u32) {
        let Some(shutdown) = &mut self.shutdown else { return };
        let waits = |life: &Life| life.busy() && !life.unkillable;
        if self.lives.get(&slot).is_some_and(waits) {
            return;
        }
        self.dirty.extend(shutdown.order.remove(slot));
        if shutdown.applications.remove(&slot) && shutdown.applications.is_empty() {
            self.dirty.extend(shutdown.core.iter().copied());
        }
        shutdown.core.remove(&slot);
    }

    pub(super) fn leave_if_done(&mut self) {
        let is_done = |s: &Shutdown| !s.left && s.applications.is_empty() && s.core.is_empty();
        if self.shutdown.as_ref().is_some_and(is_done) {
            self.leave();
        }
    }

    pub(super) fn shutdown_overdue(&mut self, _now: Moment) {
        let Some(shutdown) = &self.shutdown else { return };
        if shutdown.left {
            return;
        }
        for slot in shutdown.applications.iter().chain(&shutdown.core) {
            let Some(life) = self.lives.get(slot) else { continue };
            let (slot, generation) = (life.slot, life.seen.generation);
            self.actions.push_back(Action::Signal {
                slot,
                generation,
                signal: SIGKILL,
                tree: true,
            });
        }
        self.leave();
    }

    fn leave(&mut self) {
        self.cancel_waiters();
        for (id, result) in self.replies.drain(..) {
            self.actions.push_back(Action::Reply { id, result });
        }
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.left = true;
            let (kind, exit_code) = (shutdown.kind, shutdown.exit_code);
            self.actions.push_back(Action::Leave { kind, exit_code });
        }
        self.deadlines.retain(|(_, due)| *due != Due::Shutdown);
    }
}

fn stop_number(life: &Life) -> i64 {
    life.service.stop.map_or_else(|| STOP_MIRROR - i64::from(life.service.start), i64::from)
}

//! Decides what runs. Pure: events and the time come in, actions go out; no tokio, no clock, no file, no socket.
//!
//! The shell calls one `handle_*`, drains [`Supervisor::poll_action`] until it is empty, then sleeps until
//! [`Supervisor::next_deadline`]. After [`Supervisor::new`] it hands in the journal ([`Supervisor::restore`]), the
//! definitions and the keeper's slots, then calls [`Supervisor::handover_complete`]; nothing is decided before.
//!
//! Every instance has one desired and one actual state, and no queue of jobs: an event changes a state and marks the
//! slots whose next step may have changed, [`Supervisor::settle`] takes the next step of each until none is left.
//! A request that overtakes another one therefore simply changes the desired state.

mod backoff;
mod boot;
mod contract;
mod critical;
mod definitions;
mod drive;
mod exits;
mod frozen;
mod happenings;
mod health;
mod identity;
mod instance;
mod links;
mod notices;
mod record;
mod replace;
mod requests;
mod rescue;
mod restore;
mod service;
mod shutdown;
#[cfg(test)]
mod tests;
mod triggers;
mod view;
mod waiters;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use protocol::{failure::Failure, keeper::SlotState, name::Name, time::Moment};

use self::{
    backoff::Bucket,
    instance::{Life, State},
    service::{Entry, graph::Graph, order::Order},
    shutdown::Shutdown,
    triggers::Scripts,
    waiters::Waiter,
};
pub(crate) use self::{
    boot::BootRecord,
    contract::{Action, Ending, Event, Happening, Notice, Request},
    frozen::Means,
    identity::identity,
    links::{Change, Links},
    record::Record,
    replace::Seat,
    triggers::{COMPARED, Ended, ScriptProcess},
    view::InstanceView,
};

/// Core services that aren't ready by then no longer hold applications back.
const CORE_PATIENCE: Duration = Duration::from_secs(10);

/// All services of the device and what is to be done about them.
pub(crate) struct Supervisor {
    services: BTreeMap<Name, Entry>,
    lives: BTreeMap<u32, Life>,
    /// Instances for which the keeper's table has no room; they are only shown.
    left_out: BTreeMap<(Name, Name), Life>,
    /// All lower slots are taken.
    free_from: u32,
    graph: Graph,
    /// The names of the core services.
    core: BTreeSet<Name>,
    /// Slots that want to be spawned for the first time since they are wanted.
    starts: Order,
    /// While it is `Some`, applications wait for the core; opened by readiness or at that moment.
    core_gate: Option<Moment>,
    bucket: Bucket,
    /// Slots whose next step may have changed.
    dirty: BTreeSet<u32>,
    /// Slots that took a step since the last replies.
    touched: BTreeSet<u32>,
    deadlines: BTreeSet<(Moment, Due)>,
    waiters: BTreeMap<u64, Waiter>,
    scripts: Scripts,
    actions: VecDeque<Action>,
    /// Answers, held back until the records that they promise are written.
    replies: Vec<(u64, Result<(), Failure>)>,
    /// What is known before the hand-over is complete; `None` afterwards.
    before: Option<restore::Before>,
    shutdown: Option<Shutdown>,
    boot: Option<BootRecord>,
    /// Slots that the boot wanted and that were neither ready nor done yet.
    unready: BTreeSet<u32>,
    /// There is a rescue set to go on with.
    has_rescue: bool,
}

/// What a deadline is about.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Due {
    CoreGate,
    Scripts,
    Shutdown,
    Slot(u32),
    Waiter(u64),
}

impl Supervisor {
    #[must_use]
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            services: BTreeMap::new(),
            lives: BTreeMap::new(),
            left_out: BTreeMap::new(),
            free_from: 0,
            graph: Graph::default(),
            core: BTreeSet::new(),
            starts: Order::default(),
            core_gate: None,
            bucket: Bucket::new(now),
            dirty: BTreeSet::new(),
            touched: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            waiters: BTreeMap::new(),
            scripts: Scripts::default(),
            actions: VecDeque::new(),
            replies: Vec::new(),
            before: Some(restore::Before::default()),
            shutdown: None,
            boot: None,
            unready: BTreeSet::new(),
            has_rescue: false,
        }
    }

    pub(crate) fn handle_event(&mut self, event: Event, now: Moment) {
        match event {
            Event::Slot(state) => self.slot_reported(state, now),
            Event::SpawnRefused { slot, errno } => self.spawn_refused(slot, errno, now),
            Event::Notify { slot, generation, notice } => {
                self.notified(slot, generation, notice, now)
            }
            Event::Checked { slot, holds } => self.checked(slot, holds),
            Event::Pressure { slot, starved } => self.pressed(slot, starved, now),
            Event::ReloadDone { slot, generation, ok } => self.reload_done(slot, generation, ok),
            Event::ScriptStarted { run, process } => self.script_started(run, process),
            Event::ScriptEnded { run, ended } => self.script_ended(run, &ended, now),
            Event::Validated { run, found } => self.validated(run, found, now),
            Event::Seen { kind, data } => self.event_seen(&kind, &data, now),
            Event::Missed(missed) => self.heartbeat_missed(&missed, now),
            Event::Frozen { slot, generation, result } => {
                self.frozen(slot, generation, result, now);
            }
            Event::Resumed => self.resumed(now),
            Event::Request { id, request } => self.requested(id, request, now),
            Event::Definitions { services } => self.redefine(services, now),
            Event::Rescue { services } => self.take_rescue_set(services, now),
            Event::Shutdown { kind, ending } => self.begin_shutdown(kind, 0, ending, now),
        }
        self.settle(now);
    }

    pub(crate) fn handle_timeout(&mut self, now: Moment) {
        while let Some(&(at, due)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            match due {
                Due::CoreGate => self.open_core_gate(),
                Due::Scripts => self.scripts_due(),
                Due::Shutdown => self.shutdown_overdue(now),
                Due::Slot(slot) => {
                    if let Some(life) = self.lives.get_mut(&slot) {
                        life.timer = None;
                    }
                    self.dirty.insert(slot);
                }
                Due::Waiter(id) => self.waiter_overdue(id),
            }
        }
        self.settle(now);
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn slot_reported(&mut self, state: SlotState, now: Moment) {
        if let Some(before) = &mut self.before {
            before.found.insert(state.slot, state);
        } else {
            self.observe(state, now);
        }
    }

    /// Takes the next step of every slot that may have one, until nothing changes; then writes what has to be
    /// remembered, and only then answers.
    fn settle(&mut self, now: Moment) {
        if self.before.is_none() {
            self.write_queues();
            self.begin_due(now);
            loop {
                while let Some(slot) = self.dirty.pop_first() {
                    self.drive(slot, now);
                    self.touched.insert(slot);
                }
                if !self.core_gate_opens() {
                    break;
                }
            }
            for slot in std::mem::take(&mut self.touched) {
                self.check_waiters(slot);
                self.write_record(slot);
                self.note_for_boot(slot);
            }
            self.end_boot(now);
            self.write_queues();
            self.leave_if_done();
        }
        for (id, result) in self.replies.drain(..) {
            self.actions.push_back(Action::Reply { id, result });
        }
    }

    /// Journals an instance if anything in its record changed. That a process began is no news as long as it isn't ready:
    /// its spawn was journalled, and the keeper tells the next supervisor about it.
    fn write_record(&mut self, slot: u32) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let record = life.record();
        let beginning = life.running() && matches!(life.state, State::Starting { .. });
        let known = life.recorded.as_ref().is_some_and(|old| {
            *old == record || (beginning && old.is_before_beginning_of(&record))
        });
        if !known {
            life.recorded = Some(record.clone());
            self.actions.push_back(Action::Record(Record::Instance(Box::new(record))));
        }
    }

    /// Marks all instances of a service.
    fn mark(&mut self, name: &Name) {
        if let Some(entry) = self.services.get(name) {
            self.dirty.extend(entry.slots.values().chain(&entry.beside).copied());
        }
    }

    /// Computes anew how a service stands, and marks those that care.
    fn restand(&mut self, name: &Name) {
        let Some(entry) = self.services.get(name) else { return };
        let old = entry.standing;
        let new = self.standing(entry);
        if old == new {
            return;
        }
        if let Some(entry) = self.services.get_mut(name) {
            entry.standing = new;
        }
        self.mark_neighbours(name);
    }

    fn standing(&self, entry: &Entry) -> service::Standing {
        let lives = || entry.slots.values().filter_map(|slot| self.lives.get(slot));
        let wanted = || lives().filter(|life| life.wanted && !life.leaving);
        let coming = |life: &Life| !life.down_for_good() && self.goal_up(life);
        let up = wanted().next().is_some() && wanted().all(coming);
        let ready = up && wanted().all(|life| life.fulfilled() && !life.again);
        let stumbled = !ready && wanted().any(|life| !life.fulfilled() && life.start_failed());
        let beside = entry.beside.iter().filter_map(|slot| self.lives.get(slot));
        let live = lives().chain(beside).any(|life| life.busy() && !life.unkillable);
        service::Standing { up, ready, stumbled, live }
    }

    /// Marks everybody who waits for `name`, for whom it waits, and who must not run beside it.
    fn mark_neighbours(&mut self, name: &Name) {
        let relations = self.graph.of(name);
        let mut neighbours: BTreeSet<Name> = relations.after;
        neighbours.extend(self.graph.followers(name).cloned());
        neighbours.extend(self.graph.rivals(name).cloned());
        for neighbour in neighbours {
            self.mark(&neighbour);
        }
    }

    /// Sets when a slot has to be looked at without an event. What is due already was looked at just now: if nothing
    /// came of it, an event has to come first.
    fn set_timer(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let deadline = life.deadline(now);
        if deadline == life.timer {
            return;
        }
        if let Some(old) = life.timer {
            self.deadlines.remove(&(old, Due::Slot(slot)));
        }
        life.timer = deadline;
        if let Some(at) = deadline {
            self.deadlines.insert((at, Due::Slot(slot)));
        }
    }
}

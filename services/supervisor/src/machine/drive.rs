//! The next step of one instance, from its actual towards its desired state. Idempotent: without a change nothing
//! happens, so it may be called as often as one likes.

use std::time::Duration;

use protocol::{name::Name, time::Moment};
use serde_json::json;

use super::{
    Action, Due, Supervisor,
    health::Look,
    instance::{Life, State, UNKILLABLE, Why},
    record::Record,
    service::{Entry, Standing},
};

/// SIGABRT leaves a core dump behind; this long it may take before the whole tree is killed.
pub(super) const ABORT_GRACE: Duration = Duration::from_secs(2);
/// Instances that are told to reload have this long to be ready again.
pub(super) const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What SIGKILL has not ended by then hangs in the kernel. As long as the keeper waits for what a main process left.
const UNKILLABLE_AFTER: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;

/// What an instance waits for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Blocker {
    /// This service has to be ready first.
    Service(Name),
    /// This one must end first, because the two exclude each other.
    Rival(Name),
    Core,
    /// Services with lower order numbers have to be spawned first.
    Order,
}

impl Supervisor {
    /// Whether an instance is to run, all things considered.
    pub(super) fn goal_up(&self, life: &Life) -> bool {
        life.wanted
            && !life.leaving
            && self.shutdown.is_none()
            && life.settings().errors.is_empty()
            && self.missing_requirement(&life.service.name).is_none()
    }

    /// A required service that isn't there and won't come by itself.
    pub(super) fn missing_requirement(&self, name: &Name) -> Option<&Name> {
        let relations = self.graph.relations(name)?;
        relations
            .requires
            .iter()
            .find(|other| !self.services.get(*other).is_some_and(|entry| entry.standing.up))
    }

    /// Why an instance that is to run may not be spawned yet. A respawn after a crash waits for what it requires and for
    /// nothing else: `after`, `wants`, numbers and the core count for ordered starts.
    pub(super) fn blocker(&self, life: &Life) -> Option<Blocker> {
        let name = &life.service.name;
        if let Some(relations) = self.graph.relations(name) {
            let standing = |other: &Name| self.services.get(other).map(|entry| entry.standing);
            let unready = |other: &&Name| standing(other).is_some_and(|s| s.up && !s.ready);
            let awaited = |other: &&Name| standing(other).is_some_and(Standing::is_awaited);
            let required = relations.requires.iter().find(unready);
            let first = || relations.after.iter().find(awaited).filter(|_| !life.attempted);
            if let Some(other) = required.or_else(first) {
                return Some(Blocker::Service(other.clone()));
            }
        }
        let is_live = |other: &&Name| self.services.get(*other).is_some_and(|e| e.standing.live);
        if let Some(other) = self.graph.rivals(name).find(is_live) {
            return Some(Blocker::Rival(other.clone()));
        }
        if life.attempted {
            return None;
        }
        if self.core_gate.is_some() && !life.service.core {
            return Some(Blocker::Core);
        }
        let number = i64::from(life.service.start);
        (self.is_plain(name) && !self.starts.may_go(life.service.core, number))
            .then_some(Blocker::Order)
    }

    pub(super) fn is_plain(&self, name: &Name) -> bool {
        self.graph.relations(name).is_some_and(super::service::graph::Relations::plain)
    }

    pub(super) fn drive(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get(&slot) else { return };
        let name = life.service.name.clone();
        // Those that require this one have to know first that it goes down.
        self.restand(&name);
        let Some(life) = self.lives.get(&slot) else { return };
        let goal_up = self.goal_up(life);
        self.give_up_replacing(slot, goal_up);
        let Some(life) = self.lives.get(&slot) else { return };
        let (busy, overlap) = (life.busy(), life.spawnable());
        if busy {
            self.pass_time(slot, now);
            self.drive_busy(slot, goal_up, now);
        }
        if !busy || overlap {
            self.drive_idle(slot, goal_up, now);
        }
        self.dispose(slot, now);
        self.set_timer(slot, now);
        self.note_stopped(slot);
        self.restand(&name);
    }

    /// Something runs: end it, if it is not to run or is to run anew.
    fn drive_busy(&mut self, slot: u32, goal_up: bool, now: Moment) {
        let Some(life) = self.lives.get(&slot) else { return };
        let stopping = matches!(life.state, State::Stopping { .. });
        let unwanted = !goal_up || life.again;
        if unwanted && life.running() && !stopping && self.may_stop(life) {
            let (signal, grace) =
                (life.settings().policy.stop_signal, life.settings().policy.stop_timeout);
            self.begin_stop(slot, Why::Order, signal, grace, now);
        }
    }

    /// Whether those that need this instance have ended.
    fn may_stop(&self, life: &Life) -> bool {
        let name = &life.service.name;
        if self.shutdown.is_some() {
            return self.may_stop_in_shutdown(life);
        }
        // A restart, a replacement, and an instance that leaves while others stay, don't take the service away.
        if (life.again && life.wanted) || life.is_beside() {
            return true;
        }
        let is_up = self.services.get(name).is_some_and(|entry| entry.standing.up);
        let mut requirers = self.graph.requirers(name);
        is_up || !requirers.any(|other| self.services.get(other).is_some_and(|e| e.standing.live))
    }

    /// Tells an instance to end. The keeper must not answer that end, so it is told first.
    pub(super) fn begin_stop(
        &mut self,
        slot: u32,
        why: Why,
        signal: i32,
        grace: Duration,
        now: Moment,
    ) {
        self.melt(slot, now);
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let generation = life.seen.generation;
        life.state = State::Stopping { why, kill_at: Some(now + grace) };
        life.health.rest();
        self.dispose(slot, now);
        self.write_record(slot);
        if why != Why::Heartbeat {
            // Its last word is no miss; who was missed already is shown so until it has ended.
            self.actions.push_back(Action::Unexpect { slot, generation });
        }
        self.actions.push_back(Action::Signal { slot, generation, signal, tree: false });
    }

    /// Ends an instance at once: it would not hear a word.
    pub(super) fn begin_kill(&mut self, slot: u32, why: Why, now: Moment) {
        self.melt(slot, now);
        let Some(life) = self.lives.get_mut(&slot) else { return };
        life.state = State::Stopping { why, kill_at: None };
        life.health.rest();
        self.dispose(slot, now);
        self.write_record(slot);
        self.kill(slot, now);
    }

    /// Kills all of an instance; the end is reported by the keeper as any other.
    fn kill(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if let State::Stopping { kill_at, .. } = &mut life.state {
            *kill_at = None;
        }
        life.hopeless_at = Some(now + UNKILLABLE_AFTER);
        let generation = life.seen.generation;
        self.actions.push_back(Action::Signal { slot, generation, signal: SIGKILL, tree: true });
    }

    /// SIGKILL was not enough, and nobody has to wait for that any longer. What was asked for happens when it ends after all.
    pub(super) fn give_up_killing(&mut self, slot: u32) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if !std::mem::replace(&mut life.unkillable, true) {
            self.happen(slot, "service.unkillable", &[("text", json!(UNKILLABLE))]);
            self.touch_heir(slot);
        }
    }

    /// Acts on deadlines that passed.
    fn pass_time(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let passed = |deadline: Option<Moment>| deadline.is_some_and(|at| at <= now);
        if passed(life.hopeless_at) {
            self.give_up_killing(slot);
            return;
        }
        if let Some(frozen) = life.frozen {
            if passed(frozen.limit()) {
                self.freezing_overdue(slot, now);
            }
            return;
        }
        match life.state {
            State::Stopping { kill_at, .. } if passed(kill_at) => {
                self.kill(slot, now);
            }
            State::Starting { .. } if passed(life.proven_at) && life.running() => {
                self.become_ready(slot, now);
            }
            // It runs, and it may have said so: it is not killed for a word that we lost.
            State::Starting { deadline }
                if passed(deadline)
                    && life.running()
                    && life.unheard == Some(life.seen.generation) =>
            {
                self.become_ready(slot, now);
            }
            State::Starting { deadline } | State::Reloading { deadline }
                if passed(deadline) && life.running() =>
            {
                life.stumbled |= matches!(life.state, State::Starting { .. });
                let policy = &life.settings().policy;
                let (signal, grace) = (policy.stop_signal, policy.stop_timeout);
                self.begin_stop(slot, Why::Timeout, signal, grace, now);
            }
            State::Ready | State::Reloading { .. } if life.running() => {
                let defined = life.settings().process.watchdog;
                match life.health.look(defined, now) {
                    Look::Fine => {}
                    Look::Starved { late } => self.happen_late(slot, late),
                    Look::Doubtful => self.actions.push_back(Action::LookAtPressure { slot }),
                    Look::Missed => self.watchdog_missed(slot, now),
                }
            }
            _ => {}
        }
    }

    /// How the machine was when an instance missed its watchdog: starved, it gets one more period.
    pub(super) fn pressed(&mut self, slot: u32, starved: bool, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if !life.health.is_doubted() || !life.running() {
            return;
        }
        let defined = life.settings().process.watchdog;
        match life.health.judge(defined, starved, now) {
            Some(excuses) => self.happen_starved(slot, excuses),
            None => self.watchdog_missed(slot, now),
        }
        self.dirty.insert(slot);
    }

    /// Nothing runs: forget, rest, or spawn.
    fn drive_idle(&mut self, slot: u32, goal_up: bool, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if life.leaving {
            if !life.busy() {
                self.forget(slot);
            }
            return;
        }
        if life.again || !goal_up {
            self.come_to_rest(slot, goal_up);
        }
        if goal_up {
            self.drive_up(slot, now);
        }
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let at_end = matches!(life.state, State::Held { .. } | State::Failed { .. });
        if life.open && !life.busy() && (at_end || !goal_up) {
            life.open = false;
            life.defined = false;
            life.told = None;
            self.actions.push_back(Action::Release { slot });
        }
    }

    /// The old process has ended, or there was none; what is wanted comes next.
    fn come_to_rest(&mut self, slot: u32, goal_up: bool) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let was = std::mem::replace(&mut life.state, State::Stopped);
        life.attempted = false;
        life.checked = false;
        life.stumbled = false;
        if life.again {
            life.again = false;
            life.forgive();
        } else if life.wanted
            && matches!(was, State::Held { .. } | State::Failed { .. } | State::Done { .. })
        {
            // Others forbid it at the moment: what it was before counts again when they don't.
            life.state = was.clone();
        }
        let errors = &life.settings().errors;
        if life.wanted && !errors.is_empty() {
            let reason = errors.join("; ");
            life.state = State::Failed { reason };
        }
        if !goal_up {
            let next = self.starts.remove(slot);
            self.dirty.extend(next);
        }
        let ended = matches!(
            was,
            State::Stopping { .. }
                | State::Ready
                | State::Reloading { .. }
                | State::Starting { .. }
        );
        if ended {
            self.happen(slot, "service.stop", &[]);
        }
    }

    /// It is to run and does not.
    fn drive_up(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        match life.state {
            State::Stopped
            | State::Stopping { .. }
            | State::Starting { .. }
            | State::Ready
            | State::Reloading { .. } => {
                if life.asked.is_some() {
                    return;
                }
                life.state = State::Waiting;
                life.times.wanted_at = Some(now);
            }
            State::Pausing { until, .. } if until > now => return,
            State::Waiting | State::Pausing { .. } => {}
            State::Checking | State::Done { .. } | State::Held { .. } | State::Failed { .. } => {
                return;
            }
        }
        let Some(life) = self.lives.get(&slot) else { return };
        let (first, core) = (!life.attempted, life.service.core);
        if first && self.is_plain(&life.service.name) {
            let number = i64::from(life.service.start);
            self.starts.insert(slot, core, number);
        }
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if !life.spawnable() || self.lives.get(&slot).and_then(|life| self.blocker(life)).is_some()
        {
            return;
        }
        self.spawn_or_check(slot, now);
    }

    fn spawn_or_check(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if !life.checked && !life.service.conditions.is_empty() {
            life.state = State::Checking;
            let service = life.service.clone();
            self.actions.push_back(Action::Check { slot, service });
            return;
        }
        if let State::Pausing { delayed: true, .. } = life.state
            && let Err(until) = self.bucket.take(now)
        {
            life.state = State::Pausing { until, delayed: true };
            return;
        }
        self.spawn(slot, now);
    }

    /// Nothing stands in its way any more.
    pub(super) fn spawn(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        life.attempted = true;
        life.asked = Some(life.seen.generation);
        life.ready_at = None;
        life.note_origin();
        let deadline = life.settings().process.readiness.timeout.map(|timeout| now + timeout);
        life.state = State::Starting { deadline };
        life.times.spawned_at = Some(now);
        life.times.ready_at = None;
        life.first.spawned_at.get_or_insert(now);
        let expected = life.seen.generation;
        self.write_record(slot);
        self.define(slot, now);
        self.dispose(slot, now);
        self.actions.push_back(Action::Spawn { slot, expected });
        let next = self.starts.remove(slot);
        self.dirty.extend(next);
    }

    /// Gives the keeper the present plan, if it hasn't got it.
    pub(super) fn define(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get(&slot) else { return };
        if life.defined {
            return;
        }
        let disposition = life.disposition(self.goal_up(life), now);
        let (service, instance, seat) = (life.service.clone(), life.name.clone(), life.seat());
        let Some(life) = self.lives.get_mut(&slot) else { return };
        life.defined = true;
        life.open = true;
        life.told = Some(disposition);
        self.actions.push_back(Action::Define { slot, service, instance, disposition, seat });
    }

    /// Tells the keeper how to answer an exit, if that changed. An idle slot has none to answer.
    pub(super) fn dispose(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get(&slot) else { return };
        let Some(told) = life.told else { return };
        let disposition = life.disposition(self.goal_up(life), now);
        if told == disposition || !life.busy() {
            return;
        }
        if let Some(life) = self.lives.get_mut(&slot) {
            life.told = Some(disposition);
        }
        self.actions.push_back(Action::Dispose { slot, disposition });
    }

    /// The slot is free from now on.
    fn forget(&mut self, slot: u32) {
        let Some(life) = self.lives.remove(&slot) else { return };
        self.free_from = self.free_from.min(slot);
        if let Some(at) = life.timer {
            self.deadlines.remove(&(at, Due::Slot(slot)));
        }
        let next = self.starts.remove(slot);
        self.dirty.extend(next);
        self.happen_of(&life, "service.stop", &[]);
        self.actions.push_back(Action::Record(Record::Forgotten { slot }));
        self.actions.push_back(Action::Forget { slot });
        let name = life.service.name.clone();
        if let Some(entry) = self.services.get_mut(&name) {
            entry.slots.retain(|_, other| *other != slot);
            entry.beside.remove(&slot);
            self.restand(&name);
        }
        if life.outgoing {
            self.outgoing_forgotten(slot);
        }
        self.drop_if_empty(&name);
        self.forgotten_for_waiters(life.waiters);
    }

    /// A deleted service goes with its last instance.
    pub(super) fn drop_if_empty(&mut self, name: &Name) {
        if self.services.get(name).is_some_and(Entry::is_over) {
            self.services.remove(name);
            self.mark_neighbours(name);
            self.graph.remove(name);
        }
    }

    /// Whether the core has just become good enough for applications.
    pub(super) fn core_gate_opens(&mut self) -> bool {
        if self.core_gate.is_none() {
            return false;
        }
        let holds = self
            .core
            .iter()
            .filter_map(|name| self.services.get(name))
            .any(|entry| entry.standing.is_awaited());
        if !holds {
            self.open_core_gate();
        }
        !holds
    }

    pub(super) fn open_core_gate(&mut self) {
        let Some(at) = self.core_gate.take() else { return };
        self.deadlines.remove(&(at, Due::CoreGate));
        let waiting = self.lives.values().filter(|life| !life.service.core && !life.busy());
        self.dirty.extend(waiting.map(|life| life.slot));
    }
}

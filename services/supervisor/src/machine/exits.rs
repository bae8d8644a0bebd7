//! What the keeper's reports mean: a generation began, a generation ended, and what follows from its end.
//!
//! Reports describe what is, so several changes may arrive as one: they are told apart by generations.

use std::time::Duration;

use protocol::{
    keeper::{Exit, Phase, ShutdownKind, SlotState, Stage},
    system::Cause,
    time::Moment,
};
use serde_json::json;

use super::{
    Action, Ending, Supervisor,
    backoff::Verdict,
    instance::{Life, State, Why},
};
use crate::settings::{CriticalAction, ReadinessKind, Respawn, RespawnWhen};

const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const SIGKILL: u8 = 9;

/// The end of one run.
struct End {
    exit: Exit,
    oom: bool,
    pid: i32,
    runtime: Duration,
}

impl Supervisor {
    pub(super) fn observe(&mut self, new: SlotState, now: Moment) {
        let slot = new.slot;
        // Only slots that we gave out are reported; one that was just forgotten is no news.
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let old = life.seen;
        if new.generation < old.generation {
            return;
        }
        if life.asked.is_some_and(|expected| new.generation > expected) {
            life.asked = None;
        }
        let began = new.generation > old.generation;
        if began || matches!(new.phase, Phase::Idle | Phase::Waiting) {
            life.unkillable = false;
            life.hopeless_at = None;
        }
        if began {
            let missed = old.generation > 0 && life.ended < old.generation;
            if missed {
                let end = end_of_other(&old, &new);
                self.note_end(slot, old.generation, &end, now);
            }
            self.began(slot, &old, new, now);
        } else {
            life.seen = new;
        }
        if new.phase == Phase::Unkillable {
            self.give_up_killing(slot);
        }
        self.follow_phase(slot, began || old.phase != new.phase, now);
        let Some(life) = self.lives.get(&slot) else { return };
        // While leftovers are being killed it is not known yet whether the keeper answers alone.
        let emptied = matches!(new.phase, Phase::Idle | Phase::Waiting | Phase::Unkillable);
        let over = emptied && new.generation > 0 && new.exit_generation == new.generation;
        if over && life.ended < new.generation {
            let end = End {
                exit: new.exit,
                oom: new.oom,
                pid: if old.generation == new.generation { old.pid } else { 0 },
                runtime: new.exited_at.since(new.spawned_at),
            };
            self.note_end(slot, new.generation, &end, now);
            self.conclude(slot, &end, now);
        }
        self.dirty.insert(slot);
    }

    /// A new generation was spawned, by our order or by the keeper alone.
    fn began(&mut self, slot: u32, old: &SlotState, new: SlotState, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        life.seen = new;
        life.attempted = true;
        let deadline = life.settings().process.readiness.timeout.map(|timeout| now + timeout);
        if new.answered_alone {
            let ready_for = life.ready_at.map_or(Duration::ZERO, |at| new.spawned_at.since(at));
            life.backoff.forgive(ready_for);
            let respawn = life.settings().policy.respawn.clone();
            let runtime = new.spawned_at.since(old.spawned_at);
            // The keeper has decided already; this only counts.
            let _ = life.backoff.ended(slot, &respawn, runtime);
            life.restarts = life.restarts.saturating_add(new.generation - old.generation);
            life.times.spawned_at = Some(new.spawned_at);
            life.times.ready_at = None;
        }
        life.ready_at = None;
        life.status.clear();
        life.errno = 0;
        life.health.rest();
        life.missing = false;
        life.state = State::Starting { deadline };
        if new.answered_alone {
            self.happen_respawn(slot, Duration::ZERO);
            self.count_crash(slot, now);
        }
        self.happen(slot, "service.start", &[("alone", json!(new.answered_alone))]);
    }

    /// Exec was confirmed, or the keeper waits.
    pub(super) fn follow_phase(&mut self, slot: u32, changed: bool, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if life.seen.phase != Phase::Running || !changed || !life.running() {
            return;
        }
        life.backoff.executed();
        let generation = life.seen.generation;
        let kind = life.settings().process.readiness.kind.clone();
        if !matches!(life.state, State::Starting { .. }) {
            return;
        }
        if !self.candidate_runs(slot, now) {
            return;
        }
        let Some(life) = self.lives.get(&slot) else { return };
        match kind {
            ReadinessKind::Exec if life.ready_by_exec() => self.become_ready(slot, now),
            ReadinessKind::Tcp(_) | ReadinessKind::Unix(_) | ReadinessKind::Command(_) => {
                self.actions.push_back(Action::Probe { slot, generation, kind });
            }
            ReadinessKind::Object(object) => {
                self.actions.push_back(Action::AwaitObject { slot, generation, object });
            }
            ReadinessKind::Exec | ReadinessKind::Notify | ReadinessKind::Fd(_) => {}
        }
    }

    pub(super) fn become_ready(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if life.ready_at.is_none() {
            life.ready_at = Some(now);
            life.times.ready_at = Some(now);
        }
        life.first.ready_at.get_or_insert(now);
        life.state = State::Ready;
        life.stumbled = false;
        let defined = life.settings().process.watchdog;
        life.health.pet(defined, now);
        self.dirty.insert(slot);
        self.take_over(slot, now);
        self.happen(slot, "service.ready", &[]);
    }

    /// Remembers how a generation ended, and tells.
    fn note_end(&mut self, slot: u32, generation: u32, end: &End, now: Moment) {
        self.frozen_ended(slot);
        let Some(life) = self.lives.get_mut(&slot) else { return };
        life.ended = generation;
        life.health.rest();
        life.reason = reason(life, end);
        let ready_for = life.ready_at.map_or(Duration::ZERO, |at| now.since(at));
        life.backoff.forgive(ready_for);
        let details = [
            ("generation", json!(generation)),
            ("pid", json!(end.pid)),
            ("exit_code", json!(exit_code(end.exit))),
            ("runtime_ms", json!(u64::try_from(end.runtime.as_millis()).unwrap_or(u64::MAX))),
        ];
        self.actions.push_back(Action::Unexpect { slot, generation });
        self.happen(slot, "service.exit", &details);
        self.happen(slot, "instance.stop", &[]);
    }

    /// Decides what follows the end of the present generation.
    fn conclude(&mut self, slot: u32, end: &End, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let fault = match life.state {
            // Whoever ordered the stop knows what comes next.
            State::Stopping { why: Why::Order, .. } => return,
            State::Stopping { why: Why::Timeout | Why::Watchdog | Why::Heartbeat, .. } => true,
            _ => false,
        };
        if self.candidate_failed(slot) || self.inherits(slot, now) {
            return;
        }
        let Some(life) = self.lives.get_mut(&slot) else { return };
        life.stumbled |= life.ready_at.is_none();
        if life.seen.phase == Phase::Waiting {
            life.state = State::Starting { deadline: None };
            return;
        }
        if let Exit::SpawnFailed { stage: Stage::Clone, errno: EAGAIN | ENOMEM } = end.exit {
            life.state = State::Pausing { until: now + life.backoff.refused(), delayed: false };
            return;
        }
        let (process, respawn) = (&life.settings().process, life.settings().policy.respawn.clone());
        let success = end.exit == Exit::Code(0) && !fault;
        let again_on_success = match respawn {
            Respawn::Never => false,
            Respawn::Backoff { when, .. } => when == RespawnWhen::Always,
            Respawn::Procd { .. } => true,
        };
        if success && (process.oneshot || !again_on_success) {
            let fulfilled = process.oneshot;
            life.state = State::Done { fulfilled };
            life.first.ready_at.get_or_insert(now);
            // Its work is done until somebody looks for it again.
            if life.service.on_demand.is_some() && !fulfilled {
                (life.wanted, life.on_demand) = (false, false);
            }
            return;
        }
        if matches!(end.exit, Exit::SpawnFailed { .. })
            && matches!(respawn, Respawn::Backoff { .. })
        {
            let delay = life.backoff.exec_failed();
            life.state = State::Pausing { until: now + delay, delayed: true };
            self.happen_respawn(slot, delay);
            return;
        }
        if respawn == Respawn::Never {
            let reason = life.reason.clone();
            life.state = State::Failed { reason };
            self.happen_fail(slot);
            self.count_crash(slot, now);
            return;
        }
        self.respawn_or_hold(slot, &respawn, end.runtime, now);
        self.count_crash(slot, now);
    }

    fn respawn_or_hold(&mut self, slot: u32, respawn: &Respawn, runtime: Duration, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        match life.backoff.ended(slot, respawn, runtime) {
            Verdict::Respawn { delay } => {
                life.restarts = life.restarts.saturating_add(1);
                life.state = State::Pausing { until: now + delay, delayed: !delay.is_zero() };
                self.happen_respawn(slot, delay);
            }
            Verdict::GiveUp { reason } => {
                let reason = format!("{reason} (the last one: {})", life.reason);
                life.state = State::Held { reason };
                self.happen_fail(slot);
            }
        }
    }

    /// Counts a crash of an instance that must not crash, and escalates if it was one too many.
    fn count_crash(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let Some(critical) = life.settings().policy.critical.clone() else { return };
        match life.crashes.add(now, &critical) {
            None => {}
            Some(action @ CriticalAction::Restart) => {
                self.happen_escalation(slot, action);
                self.restart_requirers(slot);
            }
            Some(action @ (CriticalAction::Reboot | CriticalAction::Rescue)) => {
                let reason = format!(
                    "service {} crashed more than {} times within {} s (the last time: {})",
                    life.service.name,
                    critical.restarts,
                    critical.window.as_secs(),
                    life.reason
                );
                self.happen_escalation(slot, action);
                if action == CriticalAction::Rescue && self.has_rescue {
                    return self.begin_rescue(reason);
                }
                let ending = Ending { cause: Cause::Critical, reason };
                self.begin_shutdown(ShutdownKind::Reboot, 1, ending, now);
            }
        }
    }

    /// Everything that requires this service, directly or not, is restarted together with it.
    fn restart_requirers(&mut self, slot: u32) {
        let Some(life) = self.lives.get(&slot) else { return };
        let own = life.service.name.clone();
        let mut open = vec![own.clone()];
        let mut met = std::collections::BTreeSet::from([own.clone()]);
        while let Some(name) = open.pop() {
            for other in self.graph.requirers(&name) {
                if met.insert(other.clone()) {
                    open.push(other.clone());
                }
            }
        }
        let slots: Vec<u32> = met
            .iter()
            .filter_map(|name| self.services.get(name))
            .flat_map(|entry| entry.slots.values().copied())
            .filter(|other| *other != slot)
            .collect();
        for other in slots {
            if let Some(life) = self.lives.get_mut(&other)
                && life.busy()
            {
                life.again = true;
                self.dirty.insert(other);
            }
        }
    }

    /// The keeper or the system had no room for another process.
    pub(super) fn spawn_refused(&mut self, slot: u32, errno: i32, now: Moment) {
        let Some(life) = self.lives.get_mut(&slot) else { return };
        if life.asked.take().is_none() {
            return;
        }
        life.reason = format!("the keeper did not spawn it: {}", error(errno));
        life.stumbled = true;
        life.state = State::Pausing { until: now + life.backoff.refused(), delayed: false };
        // What the keeper has of it may be the reason.
        life.defined = false;
        self.candidate_failed(slot);
        self.dirty.insert(slot);
    }
}

/// How a generation ended whose end was reported together with the beginning of the next one.
fn end_of_other(old: &SlotState, new: &SlotState) -> End {
    let known = new.exit_generation == old.generation;
    let exit = if known { new.exit } else { Exit::Lost };
    let ended_at = if known { new.exited_at } else { new.spawned_at };
    End { exit, oom: known && new.oom, pid: old.pid, runtime: ended_at.since(old.spawned_at) }
}

fn reason(life: &Life, end: &End) -> String {
    let killed = matches!(end.exit, Exit::Signal { signal: SIGKILL, .. });
    match (&life.state, end.exit) {
        (State::Stopping { why: Why::Timeout, .. }, _) => "timeout".to_owned(),
        (State::Stopping { why: Why::Watchdog, .. }, _) => "watchdog".to_owned(),
        (State::Stopping { why: Why::Heartbeat, .. }, _) => "heartbeat".to_owned(),
        (State::Stopping { kill_at: None, .. }, _) if killed => {
            "killed: it did not end on its stop signal in time".to_owned()
        }
        _ if end.oom => "oom".to_owned(),
        (_, Exit::None | Exit::Lost) => "lost: nobody could tell how it ended".to_owned(),
        (_, Exit::Code(code)) => format!("exit {code}"),
        (_, Exit::Signal { signal, core }) => {
            format!("signal {signal}{}", if core { ", core dumped" } else { "" })
        }
        (_, Exit::SpawnFailed { stage: Stage::Exec, errno }) => {
            let program = life.settings().process.command.first().map_or("it", String::as_str);
            format!("cannot execute {program}: {}", error(errno))
        }
        (_, Exit::SpawnFailed { stage, errno }) => {
            format!("cannot {}: {}", attempt(stage), error(errno))
        }
    }
}

fn error(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}

/// What a spawn was about to do when it failed.
fn attempt(stage: Stage) -> &'static str {
    match stage {
        Stage::Clone => "create a process",
        Stage::Plan => "read its plan",
        Stage::Stdio => "set up standard input and output",
        Stage::Lock => "take its lock, which a process of an earlier run holds",
        Stage::Directory => "enter its directory",
        Stage::Sockets => "hand over its sockets",
        Stage::Exec => "execute it",
        Stage::Settings => "read its settings",
        Stage::Limits => "set up limits",
        Stage::User => "set up user",
        Stage::Capabilities => "set up capabilities",
        Stage::Namespaces => "set up namespaces",
    }
}

/// As a shell counts: the status, or 128 and the signal; 127 where it never became the program.
pub(super) fn exit_code(exit: Exit) -> Option<i32> {
    match exit {
        Exit::None | Exit::Lost => None,
        Exit::Code(code) => Some(i32::from(code)),
        Exit::Signal { signal, .. } => Some(128 + i32::from(signal)),
        Exit::SpawnFailed { .. } => Some(127),
    }
}

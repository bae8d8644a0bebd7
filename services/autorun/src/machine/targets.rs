//! Runs targets: level by level, so many at once, each within its limits. Never starts what may run only once before its
//! START is durable; every target ends, whatever its program does.

use std::time::Duration;

use protocol::{autorun::Target as Outward, time::Moment};

use super::{Action, End, Engine, Outcome, Patience, Stage, What, WorkId, too_long};
use crate::{
    journal::{self, Mark},
    settings::{Linger, OnFail, Once, Target, Work},
};

/// Between TERM and KILL, and then until a target is given up.
const GRACE: Duration = Duration::from_secs(2);
/// A probe that doesn't answer even then.
const PROBE_GRACE: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(3_600);

/// What runs: all that the life of an image asks for, what every wake-up asks for, or what a person tries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scope {
    Life,
    Wake,
    Trial,
}

#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) scope: Scope,
    pub(super) began: Moment,
    level: usize,
}

/// A target, as it is in this pass or was in the last one.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) state: State,
    /// Has its turn in this pass.
    chosen: bool,
    attempt: u32,
    /// Milliseconds after the resume.
    pub(super) started: Option<u64>,
    pub(super) ended: Option<u64>,
    pub(super) text: Option<String>,
    /// Those after it are not to run.
    blocks: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum State {
    #[default]
    Waiting,
    /// Whether it is broken.
    Probing,
    /// Its START is being written; it begins when this version of the record is durable.
    Recording(u64),
    Working,
    /// Whether it works now.
    Checking,
    /// Tried again then.
    Backoff(Moment),
    /// Tried again as soon as there is room.
    Again,
    Ended(Outward),
}

impl Row {
    /// When it has to be looked at.
    pub(super) fn waits_until(&self) -> Option<Moment> {
        match self.state {
            State::Backoff(until) if self.chosen => Some(until),
            _ => None,
        }
    }

    fn is_active(&self) -> bool {
        let passive = matches!(
            self.state,
            State::Waiting | State::Backoff(_) | State::Again | State::Ended(_)
        );
        self.chosen && !passive
    }

    fn is_left(&self) -> bool {
        self.chosen && !matches!(self.state, State::Ended(_))
    }
}

impl Engine {
    /// Runs what the life of an image asks for, or goes on with it.
    pub(super) fn run_life(&mut self, now: Moment) {
        self.record.stage = journal::Stage::Running;
        for row in &mut self.rows {
            *row = Row::default();
        }
        self.rows_of_record();
        let waiting: Vec<bool> = self.rows.iter().map(|row| row.state == State::Waiting).collect();
        self.run_chosen(Scope::Life, &waiting, now);
    }

    pub(super) fn run(
        &mut self,
        scope: Scope,
        chosen: impl Fn(usize, &Target) -> bool,
        now: Moment,
    ) {
        let targets = self.settings.targets.iter().enumerate();
        let chosen: Vec<bool> = targets.map(|(at, target)| chosen(at, target)).collect();
        self.run_chosen(scope, &chosen, now);
    }

    fn run_chosen(&mut self, scope: Scope, chosen: &[bool], now: Moment) {
        for (row, chosen) in self.rows.iter_mut().zip(chosen) {
            if *chosen {
                *row = Row { chosen: true, ..Row::default() };
            } else {
                row.chosen = false;
            }
        }
        let began = self.life.filter(|_| scope == Scope::Life).unwrap_or(now);
        self.enter(Stage::Running(Running { scope, began, level: 0 }));
        if scope == Scope::Life {
            self.touch(false);
        }
        self.run_next(now);
    }

    /// What the record says that had its turn in this life, or once for all.
    pub(super) fn rows_of_record(&mut self) {
        for (row, target) in self.rows.iter_mut().zip(&self.settings.targets) {
            let Some(entry) = self.record.entry(target.hash) else { continue };
            let again = target.once == Once::Always && target.idempotent;
            let outward = match entry.mark {
                Mark::Waiting | Mark::Started => continue,
                Mark::Done | Mark::Failed | Mark::TimedOut if again && !self.done => continue,
                Mark::Done => Outward::Done,
                Mark::Failed => Outward::Failed,
                Mark::TimedOut => Outward::TimedOut,
                Mark::Skipped => Outward::Skipped,
                Mark::Doubtful => Outward::Doubtful,
            };
            row.state = State::Ended(outward);
            row.text = Some("before this engine, or in an earlier life of the image".to_owned());
            row.blocks = target.on_fail == OnFail::Stop
                && matches!(entry.mark, Mark::Failed | Mark::TimedOut | Mark::Doubtful);
        }
    }

    /// Begins what can begin now.
    pub(super) fn run_next(&mut self, now: Moment) {
        for row in &mut self.rows {
            if row.waits_until().is_some_and(|until| until <= now) {
                row.state = State::Again;
            }
        }
        while matches!(self.stage, Stage::Running(_)) {
            let Some(level) = self.level() else { return self.all_ran(now) };
            let Stage::Running(running) = &mut self.stage else { return };
            if running.level != level {
                running.level = level;
                if running.scope == Scope::Life {
                    self.touch(true);
                }
            }
            let mut stands = true;
            for target in 0..self.rows.len() {
                let ready = matches!(self.rows[target].state, State::Waiting | State::Again);
                if self.settings.targets[target].level == level && self.rows[target].chosen && ready
                {
                    stands &= !self.launch(target, now);
                }
            }
            if stands {
                return;
            }
        }
    }

    /// The lowest at which somebody hasn't ended.
    fn level(&self) -> Option<usize> {
        let rows = self.rows.iter().zip(&self.settings.targets);
        rows.filter(|(row, _)| row.is_left()).map(|(_, target)| target.level).min()
    }

    /// Whether something was done about it.
    fn launch(&mut self, at: usize, now: Moment) -> bool {
        if !matches!(self.stage, Stage::Running(_)) {
            return false;
        }
        let target = &self.settings.targets[at];
        if let Some(before) = target.after.iter().find(|before| self.rows[**before].blocks) {
            let text = format!("because {} did not work", self.settings.targets[*before].name);
            self.rows[at].blocks = true;
            self.target_over(at, Outward::Skipped, 0, Some(text), now);
            return true;
        }
        if target.work == Work::Nothing {
            let text = "nothing is to be done after a resume".to_owned();
            self.target_over(at, Outward::Skipped, 0, Some(text), now);
            return true;
        }
        let active = self.rows.iter().filter(|row| row.is_active()).count();
        if active >= self.settings.parallel {
            return false;
        }
        if self.rows[at].state == State::Waiting && target.if_broken {
            self.probe(at, true, now);
        } else {
            self.record_start(at, now);
        }
        true
    }

    fn record_start(&mut self, at: usize, now: Moment) {
        let Stage::Running(running) = &self.stage else { return };
        let scope = running.scope;
        let elapsed = self.elapsed(now);
        let row = &mut self.rows[at];
        row.started = row.started.or(Some(elapsed));
        if scope != Scope::Life {
            return self.start(at, now);
        }
        let target = &self.settings.targets[at];
        let waits = !target.idempotent || target.once == Once::Image;
        self.mark(at, Mark::Started, 0);
        self.touch(waits);
        if waits {
            self.rows[at].state = State::Recording(self.saving.version());
        } else {
            self.start(at, now);
        }
    }

    /// Its START is durable, or can't be.
    pub(super) fn start_recorded(&mut self, at: usize, durable: bool, now: Moment) {
        if !matches!(self.stage, Stage::Running(_)) {
            return;
        }
        if durable {
            self.start(at, now);
        } else {
            let text = "not run: it may run only once, and that it began could not be recorded";
            self.target_failed(at, Outward::Failed, 0, text.to_owned(), now);
        }
    }

    fn start(&mut self, at: usize, now: Moment) {
        let target = &self.settings.targets[at];
        let (patience, limit) = match target.soft {
            Some(soft) => (Patience::Soft, soft),
            None => (Patience::Hard, target.hard),
        };
        let work = self.work(What::Run(at, patience), limit, now);
        let row = &mut self.rows[at];
        row.state = State::Working;
        self.actions.push_back(Action::Start { work, target: at, attempt: row.attempt });
    }

    /// A limit of a program has passed.
    pub(super) fn impatient(&mut self, work: WorkId, at: usize, patience: Patience, now: Moment) {
        let target = &self.settings.targets[at];
        let (next, wait) = match patience {
            Patience::Soft => {
                let soft = target.soft.unwrap_or_default();
                let note = format!("{}: still runs after {} ms", target.name, soft.as_millis());
                let wait = target.hard.saturating_sub(soft);
                self.note(note);
                (Patience::Hard, wait)
            }
            Patience::Hard => {
                self.actions.push_back(Action::Stop { work, target: at, kill: false });
                (Patience::Terminated, GRACE)
            }
            Patience::Terminated => {
                self.actions.push_back(Action::Stop { work, target: at, kill: true });
                (Patience::Killed, GRACE)
            }
            Patience::Killed => {
                self.works.remove(&work);
                self.actions.push_back(Action::Abandon { work });
                let result = Err("it can't be killed".to_owned());
                return self.target_ended(at, Patience::Killed, result, now);
            }
        };
        if let Some(work) = self.works.get_mut(&work) {
            work.what = What::Run(at, next);
            work.deadline = now + wait;
        }
    }

    pub(super) fn target_ended(
        &mut self,
        at: usize,
        patience: Patience,
        result: Result<Outcome, String>,
        now: Moment,
    ) {
        if self.rows[at].state != State::Working || !matches!(self.stage, Stage::Running(_)) {
            return;
        }
        let target = &self.settings.targets[at];
        let late = matches!(patience, Patience::Terminated | Patience::Killed);
        match result {
            result if late => {
                let mut text = too_long(target.hard);
                if let Err(why) = &result {
                    text = format!("{text}; {why}");
                }
                let status = if let Ok(Outcome::Exited(status)) = result { status } else { 0 };
                self.target_failed(at, Outward::TimedOut, status, text, now);
            }
            Ok(Outcome::Exited(0) | Outcome::Done) if target.probe.is_some() => {
                self.probe(at, false, now);
            }
            Ok(Outcome::Exited(0) | Outcome::Done) => {
                self.target_over(at, Outward::Done, 0, None, now);
            }
            Ok(Outcome::Exited(status)) => {
                let text = match status {
                    signal if signal < 0 => format!("ended by signal {}", -i64::from(signal)),
                    status => format!("exit status {status}"),
                };
                self.target_failed(at, Outward::Failed, status, text, now);
            }
            Ok(_) => self.target_failed(at, Outward::Failed, 0, "it has no status".to_owned(), now),
            Err(why) => self.target_failed(at, Outward::Failed, 0, why, now),
        }
        self.run_next(now);
    }

    fn probe(&mut self, target: usize, before: bool, now: Moment) {
        let limit = self.probe_limit(target);
        let work = self.work(What::Probe { target, before }, limit, now);
        self.rows[target].state = if before { State::Probing } else { State::Checking };
        self.actions.push_back(Action::Probe { work, target });
    }

    pub(super) fn probe_limit(&self, target: usize) -> Duration {
        let probe = self.settings.targets[target].probe.as_ref();
        probe.map_or(Duration::ZERO, |probe| probe.within) + PROBE_GRACE
    }

    pub(super) fn probed(
        &mut self,
        at: usize,
        before: bool,
        result: Result<Outcome, String>,
        now: Moment,
    ) {
        let expected = if before { State::Probing } else { State::Checking };
        if self.rows[at].state != expected || !matches!(self.stage, Stage::Running(_)) {
            return;
        }
        match (result, before) {
            (Ok(_), true) => {
                self.target_over(at, Outward::Skipped, 0, Some("it still works".to_owned()), now);
            }
            (Ok(_), false) => self.target_over(at, Outward::Done, 0, None, now),
            (Err(why), true) => {
                self.note(format!("{} is broken: {why}", self.settings.targets[at].name));
                self.record_start(at, now);
            }
            (Err(why), false) => {
                let text = format!("it ran, but does not work: {why}");
                self.target_failed(at, Outward::Failed, 0, text, now);
            }
        }
        self.run_next(now);
    }

    /// Again, where it may be tried again.
    fn target_failed(
        &mut self,
        at: usize,
        outward: Outward,
        status: i32,
        text: String,
        now: Moment,
    ) {
        let target = &self.settings.targets[at];
        let row = &mut self.rows[at];
        if row.attempt < target.retries && target.idempotent {
            let wait = target.backoff.saturating_mul(1 << row.attempt.min(16)).min(BACKOFF_MAX);
            row.attempt += 1;
            row.text = Some(text);
            row.state = State::Backoff(now + wait);
            return;
        }
        row.blocks = target.on_fail == OnFail::Stop;
        let reboots = target.on_fail == OnFail::RebootCold;
        let reason = format!("target {}: {text}", target.name);
        let Stage::Running(running) = &self.stage else { return };
        let scope = running.scope;
        self.target_over(at, outward, status, Some(text), now);
        if reboots && scope == Scope::Trial {
            self.note(format!("{reason}; after a resume the device would now reboot cold"));
        } else if reboots {
            // Else the next boot would not be a cold one, but another life of the same image.
            self.void();
            self.end(End::Reboot(reason));
        }
    }

    fn target_over(
        &mut self,
        at: usize,
        outward: Outward,
        status: i32,
        text: Option<String>,
        now: Moment,
    ) {
        let ended = self.elapsed(now);
        let row = &mut self.rows[at];
        row.state = State::Ended(outward);
        row.ended = Some(ended);
        row.text = text.map(|mut text| {
            text.truncate(text.floor_char_boundary(super::NOTE_MAX));
            text
        });
        let recorded =
            matches!(&self.stage, Stage::Running(running) if running.scope == Scope::Life);
        if recorded {
            let mark = match outward {
                Outward::Done => Mark::Done,
                Outward::Failed => Mark::Failed,
                Outward::TimedOut => Mark::TimedOut,
                Outward::Doubtful => Mark::Doubtful,
                _ => Mark::Skipped,
            };
            self.mark(at, mark, status);
            self.touch(self.settings.targets[at].once == Once::Image);
        }
    }

    fn mark(&mut self, at: usize, mark: Mark, status: i32) {
        let name = self.settings.targets[at].hash;
        let known = &self.settings.targets;
        let entries = &mut self.record.entries;
        let place = entries.iter().position(|entry| entry.name == name);
        let place = place.unwrap_or_else(|| {
            // The settings have changed since the engine was killed; there is room for those that they name.
            entries.retain(|entry| known.iter().any(|target| target.hash == entry.name));
            entries.push(journal::Entry { name, ..journal::Entry::default() });
            entries.len() - 1
        });
        entries[place].mark = mark;
        entries[place].status = status;
    }

    fn all_ran(&mut self, now: Moment) {
        let Stage::Running(running) = &self.stage else { return };
        let scope = running.scope;
        if scope == Scope::Life {
            self.done = true;
            self.record.stage = journal::Stage::Done;
            self.touch(true);
        }
        let rest = self.rest();
        self.enter(rest);
        self.catch_up(now);
        let exits = self.life.is_some() && self.settings.linger == Linger::Exit;
        if exits && scope != Scope::Trial && matches!(self.stage, Stage::Done) {
            self.end(End::Exit);
        }
    }

    /// Since the resume.
    fn elapsed(&self, now: Moment) -> u64 {
        let Stage::Running(running) = &self.stage else { return 0 };
        u64::try_from(now.since(running.began).as_millis()).unwrap_or(u64::MAX)
    }
}

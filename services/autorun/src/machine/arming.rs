//! What comes before an image, step by step, and the way back: in reverse order, whatever of it was done. The plan on tmpfs
//! knows each step before it begins, so that the next engine takes back what a killed one left.

use std::collections::{BTreeSet, VecDeque};

use protocol::{
    autorun::{Prepare, Sleep, Slept},
    failure::{Code, Failure},
    name::Name,
    time::Moment,
};

use super::{
    Action, Answer, CallId, Engine, Notice, Outcome, Plan, Reply, Stage, Step, To, WRITE_LIMIT,
    What, clocks::Wake, targets::Row, too_long,
};
use crate::{
    journal::{self, Entry, Record},
    settings::{BackEnd, BeforeImage},
};

#[derive(Clone, Debug)]
pub(super) struct Arming {
    kind: Sleep,
    call: Option<CallId>,
    /// Write the image then, with this back end.
    write: Option<Option<BackEnd>>,
    step: Step,
    left: VecDeque<Step>,
    /// Who hasn't answered yet.
    missing: BTreeSet<Name>,
}

#[derive(Clone, Debug)]
pub(super) struct Undoing {
    left: Vec<Step>,
    call: Option<(CallId, Reply)>,
}

impl Engine {
    pub(super) fn arm(
        &mut self,
        kind: Sleep,
        call: Option<CallId>,
        write: Option<Option<BackEnd>>,
        now: Moment,
    ) {
        if self.saving.is_under_way() {
            if let Some(call) = call {
                self.busy(call, "arm");
            }
            return;
        }
        self.reason = None;
        if kind == Sleep::Hibernate {
            self.done = false;
            self.life = None;
            self.counted = false;
            self.rows = self.settings.targets.iter().map(|_| Row::default()).collect();
        }
        self.plan = Some(Plan { kind, steps: Vec::new() });
        let left = self.steps(kind);
        let mut missing: BTreeSet<Name> = self.settings.wait_for.iter().cloned().collect();
        if kind == Sleep::Hibernate {
            let asked = self.settings.targets.iter();
            let asked = asked.filter(|target| target.before_image == BeforeImage::Quiesce);
            missing.extend(asked.filter_map(|target| target.service.clone()));
        }
        let arming = Arming { kind, call, write, step: Step::Check, left, missing };
        self.enter(Stage::Arming(arming));
        self.next_step(now);
    }

    fn steps(&self, kind: Sleep) -> VecDeque<Step> {
        let settings = &self.settings;
        let mut steps = VecDeque::from([Step::Check, Step::Prepare]);
        if kind != Sleep::Hibernate {
            // Memory stays, and with it all that file systems and services hold in it.
            return steps;
        }
        for target in &settings.targets {
            let Some(name) = target.service.clone() else { continue };
            if target.before_image != BeforeImage::Keep {
                steps.push_back(Step::Service { name, how: target.before_image });
            }
        }
        steps.extend(settings.unmount.iter().cloned().map(Step::Unmount));
        steps.extend(settings.freeze_mounted.then_some(Step::Freeze));
        steps.extend((!settings.guard.is_empty()).then_some(Step::Superblocks));
        steps.extend(settings.swapoff.iter().cloned().map(Step::Swapoff));
        steps.push_back(Step::Identify);
        steps.extend(settings.journal.is_some().then_some(Step::Record));
        steps.push_back(Step::Forget);
        steps
    }

    fn next_step(&mut self, now: Moment) {
        let Stage::Arming(arming) = &mut self.stage else { return };
        let Some(step) = arming.left.pop_front() else { return self.flag(now) };
        arming.step = step.clone();
        let (kind, waits) = (arming.kind, !arming.missing.is_empty());
        if let Some(plan) = self.plan.as_mut().filter(|_| step.leaves_something()) {
            plan.steps.push(step.clone());
            let plan = plan.clone();
            self.actions.push_back(Action::Plan(Some(plan)));
        }
        if step == Step::Prepare {
            let limit = self.settings.prepare_timeout;
            let deadline_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            let notice = Notice::Prepare(Prepare { kind, deadline_ms });
            self.actions.push_back(Action::Publish(notice));
            if waits {
                self.work(What::Arm, limit, now);
            } else {
                self.step_done(Ok(Outcome::Done), now);
            }
            return;
        }
        let work = self.work(What::Arm, self.settings.step_timeout, now);
        self.actions.push_back(match step {
            Step::Check => Action::Check { work, kind, back_end: self.chosen_back_end() },
            Step::Record => {
                Action::Save { work, record: Box::new(self.record.clone()), to: To::Journal }
            }
            step => Action::Do { work, step },
        });
    }

    fn chosen_back_end(&self) -> Option<BackEnd> {
        match &self.stage {
            Stage::Arming(arming) => arming.write.flatten(),
            _ => None,
        }
    }

    pub(super) fn step_done(&mut self, result: Result<Outcome, String>, now: Moment) {
        let Stage::Arming(arming) = &self.stage else { return };
        let step = arming.step.clone();
        let failed = match result {
            Ok(Outcome::Checked(check)) if !check.problems.is_empty() => {
                Some(check.problems.join("; "))
            }
            Ok(Outcome::Identified { image, seed }) => {
                self.new_image(image, seed);
                None
            }
            Ok(Outcome::Saved { journal: Err(why), .. }) => Some(why),
            Ok(Outcome::Already) => {
                self.unplan(&step);
                None
            }
            Ok(_) if step == Step::Identify => Some("the image has no id".to_owned()),
            Ok(_) => None,
            Err(why) => {
                // A record of which nobody knows whether it was written is taken back.
                if step != Step::Record {
                    self.unplan(&step);
                }
                Some(why)
            }
        };
        match failed {
            Some(why) => self.step_failed(&step, &why, now),
            None => self.next_step(now),
        }
    }

    /// It may be half done, so it is taken back too.
    pub(super) fn step_late(&mut self, now: Moment) {
        let Stage::Arming(arming) = &self.stage else { return };
        let step = arming.step.clone();
        let why = if step == Step::Prepare {
            let names: Vec<&str> = arming.missing.iter().map(Name::as_str).collect();
            let limit = self.settings.prepare_timeout.as_millis();
            format!("no answer within {limit} ms from {}", names.join(", "))
        } else {
            too_long(self.settings.step_timeout)
        };
        self.step_failed(&step, &why, now);
    }

    fn step_failed(&mut self, step: &Step, why: &str, now: Moment) {
        let Stage::Arming(arming) = &self.stage else { return };
        let call = arming.call.map(|call| (call, Reply::Failure));
        self.take_back(format!("{}: {why}", step.name()), call, now);
    }

    fn unplan(&mut self, step: &Step) {
        if let Some(plan) = &mut self.plan
            && plan.steps.last() == Some(step)
        {
            plan.steps.pop();
            let plan = plan.clone();
            self.actions.push_back(Action::Plan(Some(plan)));
        }
    }

    fn new_image(&mut self, image: [u8; 32], seed: [u8; 32]) {
        let targets = self.settings.targets.iter();
        self.record = Record {
            sequence: self.record.sequence.saturating_add(1),
            image,
            seed,
            stage: journal::Stage::Armed,
            entries: targets
                .map(|target| Entry { name: target.hash, ..Entry::default() })
                .collect(),
            ..Record::default()
        };
    }

    /// An answer to `autorun.prepare`.
    pub(super) fn prepared(&mut self, name: &Name, reason: Option<String>, now: Moment) {
        let Stage::Arming(arming) = &mut self.stage else { return };
        if arming.step != Step::Prepare {
            return;
        }
        if let Some(reason) = reason {
            self.works.retain(|_, work| !matches!(work.what, What::Arm));
            return self.step_failed(&Step::Prepare, &format!("{name}: {reason:.200}"), now);
        }
        if arming.missing.remove(name) && arming.missing.is_empty() {
            self.works.retain(|_, work| !matches!(work.what, What::Arm));
            self.step_done(Ok(Outcome::Done), now);
        }
    }

    /// Disarmed while it was being armed.
    pub(super) fn give_up(&mut self, call: CallId, now: Moment) {
        let under_way: Vec<_> = self
            .works
            .iter()
            .filter(|(_, work)| matches!(work.what, What::Arm))
            .map(|(id, _)| *id)
            .collect();
        for work in under_way {
            self.works.remove(&work);
            self.actions.push_back(Action::Abandon { work });
        }
        if let Stage::Arming(Arming { call: Some(call), .. }) = self.stage {
            let text = "it was disarmed while it was being armed";
            self.answer(call, Err(Failure::new(Code::Cancelled, text)));
        }
        self.take_back("it was disarmed".to_owned(), Some((call, Reply::Status)), now);
    }

    /// Everything is ready for the image.
    fn flag(&mut self, now: Moment) {
        let Stage::Arming(arming) = &self.stage else { return };
        let (kind, call, write) = (arming.kind, arming.call, arming.write);
        self.armed = kind == Sleep::Hibernate;
        self.enter(Stage::Armed { call: call.filter(|_| write.is_some()) });
        match (write, call) {
            (Some(back_end), _) => self.write_image(kind, back_end, now),
            (None, Some(call)) => self.answer_status(call),
            (None, None) => {}
        }
        self.catch_up(now);
    }

    pub(super) fn write_image(&mut self, kind: Sleep, back_end: Option<BackEnd>, now: Moment) {
        let work = self.work(What::Write, WRITE_LIMIT, now);
        let image = self.record.image;
        self.actions.push_back(Action::WriteImage { work, kind, back_end, image });
    }

    /// The call that puts the machine to sleep came back, in this life or in another one.
    pub(super) fn written(&mut self, result: Result<Outcome, String>, now: Moment) {
        let Stage::Armed { call } = self.stage else { return };
        let clocks = match result {
            Ok(Outcome::Woke(clocks)) => clocks,
            Ok(_) => return self.not_written("the back end gave no clocks", call, now),
            Err(why) => return self.not_written(&why, call, now),
        };
        let off = self.clocks.look(clocks);
        self.clocks.woke(now);
        if self.armed {
            return self.resume(clocks, off, now);
        }
        self.plan = None;
        self.actions.push_back(Action::Plan(None));
        if let Some(call) = call {
            let slept = Slept { run: String::new(), ordinal: 0 };
            self.answer(call, Ok(Answer::Slept(slept)));
        }
        self.stage = self.rest();
        self.wake(Wake { kind: Sleep::Suspend, inferred: false, clocks, off }, now);
    }

    fn not_written(&mut self, why: &str, call: Option<CallId>, now: Moment) {
        let call = call.map(|call| (call, Reply::Failure));
        self.take_back(format!("the machine did not sleep: {why}"), call, now);
    }

    /// Everything that is in the plan, in reverse.
    pub(super) fn take_back(&mut self, reason: String, call: Option<(CallId, Reply)>, now: Moment) {
        self.reason = Some(reason);
        self.armed = false;
        let left = self.plan.as_ref().map(|plan| plan.steps.clone()).unwrap_or_default();
        self.enter(Stage::Undoing(Undoing { left, call }));
        self.undo_next(now);
    }

    fn undo_next(&mut self, now: Moment) {
        let Stage::Undoing(undoing) = &mut self.stage else { return };
        let Some(step) = undoing.left.pop() else { return self.taken_back(now) };
        let work = self.work(What::Undo, self.settings.step_timeout, now);
        self.actions.push_back(if step == Step::Record {
            self.record.sequence = self.record.sequence.saturating_add(1);
            self.record.image = [0; 32];
            self.record.stage = journal::Stage::Cold;
            Action::Save { work, record: Box::new(self.record.clone()), to: To::Journal }
        } else {
            Action::Undo { work, step }
        });
    }

    pub(super) fn step_undone(&mut self, result: Result<Outcome, String>, now: Moment) {
        match result {
            Err(why) | Ok(Outcome::Saved { journal: Err(why), .. }) => {
                self.note(format!("while taking back: {why}"));
            }
            Ok(_) => {}
        }
        self.undo_next(now);
    }

    fn taken_back(&mut self, now: Moment) {
        let Stage::Undoing(undoing) = &self.stage else { return };
        let call = undoing.call;
        self.plan = None;
        self.actions.push_back(Action::Plan(None));
        let rest = self.rest();
        self.enter(rest);
        match call {
            Some((call, Reply::Status)) => self.answer_status(call),
            Some((call, Reply::Nothing)) => self.answer(call, Ok(Answer::Nothing)),
            Some((call, Reply::Failure)) => {
                let text = self.reason.clone().unwrap_or_default();
                self.answer(call, Err(Failure::new(Code::Failed, text)));
            }
            None => {}
        }
        self.catch_up(now);
    }

    /// Where it is when nothing goes on.
    pub(super) fn rest(&self) -> Stage {
        match (self.armed, self.done) {
            (true, _) => Stage::Armed { call: None },
            (false, true) => Stage::Done,
            (false, false) => Stage::Cold,
        }
    }
}

impl Step {
    /// Whether there is something to take back.
    fn leaves_something(&self) -> bool {
        !matches!(
            self,
            Self::Check | Self::Prepare | Self::Superblocks | Self::Identify | Self::Forget
        )
    }

    fn name(&self) -> String {
        match self {
            Self::Check => "check".to_owned(),
            Self::Prepare => "prepare".to_owned(),
            Self::Service { name, how } => format!("{} service {name}", how.verb()),
            Self::Unmount(path) => format!("unmount {}", path.display()),
            Self::Freeze => "freeze file systems".to_owned(),
            Self::Superblocks => "read superblocks".to_owned(),
            Self::Swapoff(path) => format!("swapoff {}", path.display()),
            Self::Identify => "identify the image".to_owned(),
            Self::Record => "write the journal".to_owned(),
            Self::Forget => "forget the last life".to_owned(),
        }
    }
}

impl BeforeImage {
    fn verb(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Freeze => "freeze",
            Self::Quiesce => "quiesce",
            Self::Keep => "keep",
        }
    }
}

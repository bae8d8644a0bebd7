//! What is asked of the engine, and what it refuses because of where it is.

use std::collections::BTreeSet;

use protocol::{
    autorun::{Check, Sleep},
    failure::{Code, Failure},
    time::Moment,
};

use super::{
    Action, Answer, CallId, Engine, Outcome, Reply, Request, Stage, What,
    targets::{Row, Scope},
};
use crate::settings::{BackEnd, Settings};

impl Engine {
    pub(super) fn called(&mut self, call: CallId, request: Request, now: Moment) {
        match request {
            Request::Status => self.answer_status(call),
            Request::Check => {
                let work = self.work(What::Check(call), self.settings.step_timeout, now);
                self.actions.push_back(Action::Check {
                    work,
                    kind: Sleep::Hibernate,
                    back_end: None,
                });
            }
            Request::Prepared { name, reason } => {
                self.answer(call, Ok(Answer::Nothing));
                self.prepared(&name, reason, now);
            }
            Request::Arm => self.ask_to_arm(call, now),
            Request::Sleep { kind, back_end } => self.ask_to_sleep(call, kind, back_end, now),
            Request::Disarm => match self.stage {
                Stage::Cold => self.answer_status(call),
                Stage::Armed { .. } if !self.writes() => {
                    self.take_back("it was disarmed".to_owned(), Some((call, Reply::Status)), now);
                }
                Stage::Arming(_) => self.give_up(call, now),
                _ => self.busy(call, "disarm"),
            },
            Request::NotifyPost { kind, clocks } => {
                if self.writes() {
                    // The one who wrote the image hears of it first.
                } else if !self.notified(kind, clocks, now) {
                    self.note("word of a wake-up that was known already");
                }
                self.answer_status(call);
            }
            Request::Run { targets } => self.try_out(call, &targets, now),
            Request::Invalidate { reason } => self.invalidate(call, reason, now),
        }
    }

    pub(super) fn checked(&mut self, call: CallId, result: Result<Outcome, String>) {
        let result = match result {
            Ok(Outcome::Checked(check)) => Ok(Answer::Check(check)),
            Ok(_) => Ok(Answer::Check(Check::default())),
            Err(why) => Err(Failure::new(Code::Failed, format!("check: {why}"))),
        };
        self.answer(call, result);
    }

    fn ask_to_arm(&mut self, call: CallId, now: Moment) {
        match self.stage {
            Stage::Armed { .. } => self.answer_status(call),
            Stage::Cold | Stage::Done => {
                self.arm(Sleep::Hibernate, Some(call), None, now);
            }
            _ => self.busy(call, "arm"),
        }
    }

    fn ask_to_sleep(&mut self, call: CallId, kind: Sleep, back_end: Option<BackEnd>, now: Moment) {
        match (&self.stage, kind) {
            (Stage::Cold | Stage::Done, _) => {
                self.arm(kind, Some(call), Some(back_end), now);
            }
            (Stage::Armed { .. }, Sleep::Hibernate) if !self.writes() => {
                self.stage = Stage::Armed { call: Some(call) };
                self.write_image(kind, back_end, now);
            }
            _ => self.busy(call, "sleep"),
        }
    }

    /// Runs targets as after a resume, counting and recording nothing.
    fn try_out(&mut self, call: CallId, names: &[String], now: Moment) {
        if !matches!(self.stage, Stage::Cold | Stage::Done) || self.ending.is_some() {
            return self.busy(call, "run targets");
        }
        let mut chosen = BTreeSet::new();
        for name in names {
            let is = |target: &crate::settings::Target| target.name.as_str() == name;
            let Some(target) = self.settings.targets.iter().position(is) else {
                let text = format!("there is no target {name:.64?}; each is a file in autorun.d");
                return self.answer(call, Err(Failure::new(Code::NotFound, text)));
            };
            chosen.insert(target);
        }
        if names.is_empty() {
            chosen = (0..self.settings.targets.len()).collect();
        }
        self.run(Scope::Trial, |target, _| chosen.contains(&target), now);
        self.answer_status(call);
    }

    /// Only while nothing depends on the old ones.
    pub(super) fn reload(&mut self, settings: Settings) {
        if matches!(self.stage, Stage::Cold | Stage::Done) && !self.works_on_targets() {
            self.rows = settings.targets.iter().map(|_| Row::default()).collect();
            self.settings = settings;
        } else {
            self.note(
                "the settings were changed while armed or running; they are read again when cold",
            );
        }
    }

    pub(super) fn answer_status(&mut self, call: CallId) {
        let status = Box::new(self.status());
        self.answer(call, Ok(Answer::Status(status)));
    }

    pub(super) fn busy(&mut self, call: CallId, what: &str) {
        let text = format!("cannot {what} while {}; ask again later", self.stands());
        self.answer(call, Err(Failure::new(Code::Busy, text)));
    }

    /// The image is being written, or was and nobody knows it yet.
    pub(super) fn writes(&self) -> bool {
        self.works.values().any(|work| matches!(work.what, What::Write))
    }

    fn works_on_targets(&self) -> bool {
        self.works.values().any(|work| matches!(work.what, What::Run(..) | What::Probe { .. }))
    }
}

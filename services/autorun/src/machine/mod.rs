//! The engine's decisions: events and `now` in, actions out. Reads no clock, opens no file, draws no random number.
//!
//! ```text
//!        arm, sleep         steps done            the call came back, or notify_post
//! Cold ------------> Arming ----------> Armed ----------------------------------> Resuming
//!  ^ ^                  | failed          | disarm, write failed                     | thawed
//!  | |                  v                 v                                          v
//!  | +-- all undone -- Undoing <----------+                        Done <-------- Running
//!  +----------------------------- arm, sleep ------------------------+ every target ended
//! ```
//! [`arming`] prepares and takes back, [`resuming`] is what comes before the first target, [`targets`] runs them, [`saving`]
//! makes their STARTs and ENDs durable, [`clocks`] tells a wake-up from a clock that was set, [`view`] is what others see.
//! A wake-up that nobody proved runs only targets of every wake-up, and changes none of this.

mod arming;
mod calls;
mod clocks;
mod contract;
mod resuming;
mod saving;
mod starting;
mod targets;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use protocol::{autorun::State, failure::Failure, time::Moment};

pub(crate) use self::contract::{
    Action, Answer, CallId, Entropy, Event, Found, Notice, Outcome, Plan, Request, Samples, Step,
    To, WorkId,
};
use self::{
    arming::{Arming, Undoing},
    clocks::Clocks,
    resuming::{After, Resuming},
    saving::Saving,
    targets::{Row, Running},
};
use crate::{journal::Record, settings::Settings};

/// An image that takes longer to write is given up.
const WRITE_LIMIT: Duration = Duration::from_secs(600);
/// A record that takes longer to write is given up.
const SAVE_LIMIT: Duration = Duration::from_secs(5);
/// Notes that are kept for a reader, the newest.
const NOTES_MAX: usize = 32;
/// Octets of one note.
const NOTE_MAX: usize = 256;

/// Arms, resumes, runs.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    settings: Settings,
    stage: Stage,
    /// The flag: whoever resumes this memory begins a life.
    armed: bool,
    /// A life is over; what follows a pass over targets is Done again, not Cold.
    done: bool,
    /// What is prepared, from the first step of arming until it was taken back or thawed.
    plan: Option<Plan>,
    /// What the journal says, as far as is known, and `current` in a life.
    record: Record,
    /// The record has an ordinal that the journal counts.
    counted: bool,
    /// The sequence of the record with which this life was counted.
    generation: u64,
    /// This life is that of an image, so that STARTs and ENDs are recorded.
    life: Option<Moment>,
    /// Of the settings' targets, in their order.
    rows: Vec<Row>,
    saving: Saving,
    clocks: Clocks,
    works: BTreeMap<WorkId, Work>,
    next_work: WorkId,
    /// Wake-ups that came while something else went on.
    later: VecDeque<Later>,
    /// Told once everything that was to be saved is.
    ending: Option<End>,
    reason: Option<String>,
    notes: VecDeque<String>,
    actions: VecDeque<Action>,
}

#[derive(Clone, Debug)]
enum Stage {
    Cold,
    Arming(Arming),
    Undoing(Undoing),
    Armed {
        call: Option<CallId>,
    },
    Resuming(Resuming),
    Running(Running),
    Done,
    /// A cold reboot was ordered, or the engine's exit.
    Over,
}

/// Something that goes on outside, and when that takes too long.
#[derive(Clone, Debug)]
struct Work {
    what: What,
    deadline: Moment,
}

#[derive(Clone, Debug)]
enum What {
    Check(CallId),
    Arm,
    Undo,
    Write,
    After(After),
    Save,
    /// A target's program, and how far it is with its limits.
    Run(usize, Patience),
    /// A probe of a target: before it is run, or after.
    Probe {
        target: usize,
        before: bool,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Patience {
    Soft,
    Hard,
    Terminated,
    Killed,
}

#[derive(Clone, Debug)]
enum Later {
    /// The armed image was resumed; somebody else wrote it.
    Life(Samples),
    Wake(clocks::Wake),
}

#[derive(Clone, Debug)]
enum End {
    Exit,
    Reboot(String),
}

impl Engine {
    /// Goes on where an engine was killed, or is cold.
    pub(crate) fn new(settings: Settings, found: Found, now: Moment) -> Self {
        let mut engine = Self {
            rows: settings.targets.iter().map(|_| Row::default()).collect(),
            settings,
            stage: Stage::Cold,
            armed: false,
            done: false,
            plan: None,
            record: Record::default(),
            counted: false,
            generation: 0,
            life: None,
            saving: Saving::default(),
            clocks: Clocks::new(found.clocks),
            works: BTreeMap::new(),
            next_work: 1,
            later: VecDeque::new(),
            ending: None,
            reason: None,
            notes: VecDeque::new(),
            actions: VecDeque::new(),
        };
        engine.begin(found, now);
        engine
    }

    /// Takes in what happened.
    pub(crate) fn handle_event(&mut self, event: Event, now: Moment) {
        match event {
            Event::Call { call, request } => self.called(call, request, now),
            Event::Did { work, result } => {
                if let Some(work) = self.works.remove(&work) {
                    self.did(work.what, result, now);
                }
            }
            Event::Clocks(samples) => self.clocks_set(samples, now),
            Event::Settings(settings) => self.reload(*settings),
        }
        self.save_next(now);
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Moment) {
        let due = |(id, work): (&WorkId, &Work)| (work.deadline <= now).then_some(*id);
        let due: Vec<WorkId> = self.works.iter().filter_map(due).collect();
        for id in due {
            let Some(work) = self.works.get(&id) else { continue };
            if let What::Run(target, patience) = work.what {
                self.impatient(id, target, patience, now);
                continue;
            }
            let what = work.what.clone();
            self.works.remove(&id);
            self.actions.push_back(Action::Abandon { work: id });
            self.late(what, now);
        }
        if matches!(self.stage, Stage::Running(_)) {
            self.run_next(now);
        }
        self.save_next(now);
    }

    /// Those that hold: others that come while armed wait until it is cold again.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is to be done, until there is nothing.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called, unless something happens before.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        let works = self.works.values().map(|work| work.deadline);
        works.chain(self.rows.iter().filter_map(Row::waits_until)).min()
    }

    fn did(&mut self, what: What, result: Result<Outcome, String>, now: Moment) {
        match what {
            What::Check(call) => self.checked(call, result),
            What::Arm => self.step_done(result, now),
            What::Undo => self.step_undone(result, now),
            What::Write => self.written(result, now),
            What::After(step) => self.after_done(step, result, now),
            What::Save => self.saved(result, now),
            What::Run(target, patience) => self.target_ended(target, patience, result, now),
            What::Probe { target, before } => self.probed(target, before, result, now),
        }
    }

    /// It took longer than it may.
    fn late(&mut self, what: What, now: Moment) {
        if matches!(what, What::Arm) {
            return self.step_late(now);
        }
        let limit = match what {
            What::Write => WRITE_LIMIT,
            What::Save => SAVE_LIMIT,
            What::Probe { target, .. } => self.probe_limit(target),
            _ => self.settings.step_timeout,
        };
        self.did(what, Err(too_long(limit)), now);
    }

    fn work(&mut self, what: What, limit: Duration, now: Moment) -> WorkId {
        let id = self.next_work;
        self.next_work += 1;
        self.works.insert(id, Work { what, deadline: now + limit });
        id
    }

    fn note(&mut self, note: impl Into<String>) {
        let mut note: String = note.into();
        if note.len() > NOTE_MAX {
            note.truncate(note.floor_char_boundary(NOTE_MAX));
        }
        if self.notes.len() >= NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back(note);
    }

    fn answer(&mut self, call: CallId, result: Result<Answer, Failure>) {
        self.actions.push_back(Action::Answer { call, result });
    }

    fn enter(&mut self, stage: Stage) {
        let before = self.state();
        self.stage = stage;
        if self.state() != before {
            let status = Box::new(self.status());
            self.actions.push_back(Action::Publish(Notice::State(status)));
        }
    }

    fn state(&self) -> State {
        match &self.stage {
            Stage::Cold => State::Cold,
            Stage::Arming(_) | Stage::Undoing(_) => State::Arming,
            Stage::Armed { .. } => State::Armed,
            Stage::Resuming(_) => State::Resumed,
            Stage::Running(_) => State::Running,
            Stage::Done | Stage::Over => State::Done,
        }
    }
}

/// How a call is answered when all is taken back.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Status,
    Nothing,
    Failure,
}

fn too_long(limit: Duration) -> String {
    format!("it took longer than {} ms", limit.as_millis())
}

//! What goes into the machine and what comes out of it; the shell knows no other words.
//!
//! Actions are carried out in their order. One with `work` goes on meanwhile and is answered by one [`Event::Did`] of that
//! number; all others are done when the next action is looked at.

use std::{path::PathBuf, time::Duration};

use protocol::{
    autorun::{Check, Prepare, Resumed, Sleep, Slept, Status},
    failure::Failure,
    name::Name,
};
use serde::{Deserialize, Serialize};

use crate::{
    journal::Record,
    settings::{BackEnd, BeforeImage, Settings},
};

/// A call that waits for its answer.
pub(crate) type CallId = u64;
/// Something that goes on outside the machine. Never used again for another one.
pub(crate) type WorkId = u64;

/// What the engine finds when it starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// `RUN_DIR/autorun/current`: a life of an image is under way.
    pub(crate) current: Option<Record>,
    /// `RUN_DIR/autorun/plan`: an engine was killed before it had taken back what it prepared.
    pub(crate) plan: Option<Plan>,
    pub(crate) journal: Option<Record>,
    /// Why the image on its own device is not resumed any more.
    pub(crate) verdict: Option<String>,
    pub(crate) clocks: Samples,
}

/// What was prepared for an image, in its order. The last step may have been under way.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Plan {
    pub(crate) kind: Sleep,
    pub(crate) steps: Vec<Step>,
}

/// The clocks, read together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Samples {
    pub(crate) boottime: Duration,
    pub(crate) monotonic: Duration,
    /// Seconds since 1970, where there is such a clock.
    pub(crate) rtc: Option<i64>,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Call {
        call: CallId,
        request: Request,
    },
    Did {
        work: WorkId,
        result: Result<Outcome, String>,
    },
    /// A timerfd was cancelled because a clock was set: perhaps the machine slept.
    Clocks(Samples),
    /// The settings were read again.
    Settings(Box<Settings>),
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Check,
    Arm,
    Disarm,
    Sleep {
        kind: Sleep,
        back_end: Option<BackEnd>,
    },
    NotifyPost {
        kind: Sleep,
        clocks: Samples,
    },
    /// Empty: all targets.
    Run {
        targets: Vec<String>,
    },
    Invalidate {
        reason: Option<String>,
    },
    Prepared {
        name: Name,
        reason: Option<String>,
    },
    Status,
}

/// What came of a piece of work.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Done,
    /// A step that had nothing to do: it isn't taken back either.
    Already,
    Checked(Check),
    /// The image's id, and 32 octets of a random seed.
    Identified {
        image: [u8; 32],
        seed: [u8; 32],
    },
    /// The call that wrote the image came back: this is another life.
    Woke(Samples),
    Journal(Option<Box<Record>>),
    /// Drawn after the reseed.
    Fresh {
        run: [u8; 16],
        seed: [u8; 32],
    },
    /// For what was not asked: fine.
    Saved {
        journal: Result<(), String>,
        current: Result<(), String>,
    },
    /// The exit status of a target's program, or the negative number of the signal that ended it; 0 for a service's call.
    Exited(i32),
}

/// A step of arming. A step that failed must have taken back itself; taking back one that was never done does no harm.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Step {
    Check,
    /// The machine's own: publish, and wait for answers.
    Prepare,
    Service {
        name: Name,
        how: BeforeImage,
    },
    Unmount(PathBuf),
    /// What stays mounted for writing.
    Freeze,
    /// Of the guarded devices, past every cache; kept in memory.
    Superblocks,
    Swapoff(PathBuf),
    Identify,
    /// The machine's own: the journal says armed.
    Record,
    /// Delete `RUN_DIR/autorun/current`.
    Forget,
}

/// Where a record goes: to the journal first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum To {
    Journal,
    Current,
    Both,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// [`Outcome::Checked`].
    Check {
        work: WorkId,
        kind: Sleep,
        back_end: Option<BackEnd>,
    },
    /// Replace `RUN_DIR/autorun/plan`; nothing: remove it.
    Plan(Option<Plan>),
    /// [`Outcome::Done`], [`Outcome::Already`]; [`Step::Identify`]: [`Outcome::Identified`].
    Do {
        work: WorkId,
        step: Step,
    },
    Undo {
        work: WorkId,
        step: Step,
    },
    /// [`Outcome::Woke`].
    WriteImage {
        work: WorkId,
        kind: Sleep,
        back_end: Option<BackEnd>,
        /// The id that it has in the journal.
        image: [u8; 32],
    },
    /// [`Outcome::Saved`], when it is durable. With the stage Done the image's tries begin anew.
    Save {
        work: WorkId,
        record: Box<Record>,
        to: To,
    },
    /// [`Outcome::Journal`].
    ReadJournal {
        work: WorkId,
    },
    /// [`Outcome::Fresh`].
    Reseed {
        work: WorkId,
        entropy: Box<Entropy>,
    },
    /// Compare the superblocks: an error where they differ.
    Guard {
        work: WorkId,
    },
    SetClock {
        work: WorkId,
    },
    Mount {
        work: WorkId,
        path: PathBuf,
    },
    /// A place in `settings.network`.
    Network {
        work: WorkId,
        command: usize,
    },
    Publish(Notice),
    /// Kill what an earlier engine left of these targets.
    Sweep {
        targets: Vec<usize>,
    },
    /// Do the target's work: [`Outcome::Exited`].
    Start {
        work: WorkId,
        target: usize,
        attempt: u32,
    },
    /// End what [`Action::Start`] began: TERM, or KILL for all that is left of it.
    Stop {
        work: WorkId,
        target: usize,
        kill: bool,
    },
    Probe {
        work: WorkId,
        target: usize,
    },
    /// Nobody waits for it any more: give it up.
    Abandon {
        work: WorkId,
    },
    Answer {
        call: CallId,
        result: Result<Answer, Failure>,
    },
    RebootCold {
        reason: String,
    },
    /// The engine has done its part.
    Exit,
}

/// What the random generator is given after a resume, besides what the hardware draws.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Entropy {
    pub(crate) ordinal: u64,
    pub(crate) seed: [u8; 32],
    pub(crate) clocks: Samples,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Notice {
    Prepare(Prepare),
    Resumed(Resumed),
    State(Box<Status>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Nothing,
    Status(Box<Status>),
    Check(Check),
    Slept(Slept),
}

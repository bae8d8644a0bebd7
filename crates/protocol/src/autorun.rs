//! The object `autorun`: arms the engine, writes the image, and tells what ran after a resume.

use serde::{Deserialize, Serialize};

use crate::objects::{ArgumentKind as Kind, Description, version};

/// Topic of a [`Prepare`]: the machine is about to sleep. Who wants to be waited for answers with `autorun.prepared`.
pub const PREPARE: &str = "autorun.prepare";
/// Topic of a [`Resumed`]: another life of the same image began. Leases, keys, random seeds and deadlines have to be renewed.
pub const RESUMED: &str = "autorun.resumed";
/// Topic of a [`Status`], whenever its state changes.
pub const STATE: &str = "autorun.state";

/// What the object offers.
#[must_use]
pub fn description() -> Description {
    const WHY: (&str, Kind, bool) = ("reason", Kind::String, false);
    Description::new("vestal.autorun", version(1, 0))
        .method("check", &[], "whether arming would work, changing nothing", "Check")
        .method(
            "arm",
            &[],
            "prepare everything and freeze the flag; who writes the image is another program",
            "Status",
        )
        .method("disarm", &[], "take the preparation back", "Status")
        .method(
            "sleep",
            &[("kind", Kind::String, true), ("back_end", Kind::String, false)],
            "arm and write the image as one step; answers in the next life, or why it failed",
            "Slept",
        )
        .method(
            "notify_post",
            &[("kind", Kind::String, true)],
            "somebody else wrote the image, and this is the life after it",
            "Status",
        )
        .method(
            "run",
            &[("targets", Kind::Array, false)],
            "run targets now, as after a resume, for trying",
            "Status",
        )
        .method("invalidate", &[WHY], "the image must not be resumed any more", "")
        .method(
            "prepared",
            &[("name", Kind::String, true), WHY],
            "an answer to autorun.prepare; with a reason: not now",
            "",
        )
        .method("status", &[], "how it stands", "Status")
}

/// What kind of sleep.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sleep {
    /// Memory goes to disk, power goes off.
    Hibernate,
    /// Memory stays; no image, so nothing is counted and only targets of every wake-up run.
    Suspend,
}

/// Where the engine is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing is armed: no target runs.
    #[default]
    Cold,
    /// Services are stopped, frozen and asked; file systems are unmounted.
    Arming,
    /// The flag is in memory: whoever resumes this memory runs the targets.
    Armed,
    /// Another life began; nothing ran yet.
    Resumed,
    /// Targets run.
    Running,
    /// Every target had its turn.
    Done,
    #[serde(other)]
    Unknown,
}

/// How a target ended, or where it is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    #[default]
    Waiting,
    Running,
    Done,
    Failed,
    /// Stopped at its limit.
    TimedOut,
    /// Not run, because of what it comes after, or it still worked.
    Skipped,
    /// It began before the engine was killed, and must not run twice.
    Doubtful,
    #[serde(other)]
    Unknown,
}

/// One target.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct TargetRow {
    pub name: String,
    pub state: Target,
    /// Milliseconds after the resume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What `status` answers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Status {
    pub state: State,
    /// In hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Of this life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// How often the image was resumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<u64>,
    /// Which back end would write an image.
    pub back_end: String,
    pub targets: Vec<TargetRow>,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub notes: Vec<String>,
}

/// What `check` answers: empty problems mean that arming would begin.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Check {
    pub problems: Vec<String>,
    pub notes: Vec<String>,
}

/// What `sleep` answers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Slept {
    pub run: String,
    pub ordinal: u64,
}

/// `autorun.prepare`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Prepare {
    pub kind: Sleep,
    pub deadline_ms: u64,
}

/// `autorun.resumed`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Resumed {
    pub kind: Sleep,
    /// Rises with each life of the machine, over all images; 0 where there is no journal.
    pub generation: u64,
    pub run: String,
    pub ordinal: u64,
    /// How long the machine was off, by its clock, where it has one.
    pub off_ms: u64,
    /// Concluded from clocks, not told by who wrote the image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inferred: bool,
}

//! Valid settings: what is prepared before an image, and which targets run after it, in which order. Made in [`file`] and
//! [`target`]; [`levels`] says who comes after whom.

mod file;
mod levels;
mod target;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use protocol::name::Name;
use serde::{Deserialize, Serialize};

pub(crate) use self::file::load;
use crate::journal::NameHash;

/// What `autorun.toml` and the files of `autorun.d` say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Settings {
    /// Without one nothing is counted over the lives of an image.
    pub(crate) journal: Option<Place>,
    pub(crate) back_end: BackEnd,
    /// The device that the back end `snapshot` writes the image to; nobody else's.
    pub(crate) image: Option<PathBuf>,
    /// What the back end `exec` runs: a vendor's fast boot.
    pub(crate) exec: Vec<String>,
    pub(crate) linger: Linger,
    /// Targets that run at the same time.
    pub(crate) parallel: usize,
    /// Who has to answer `autorun.prepare`.
    pub(crate) wait_for: Vec<Name>,
    pub(crate) prepare_timeout: Duration,
    /// For every other step of arming, and for taking it back.
    pub(crate) step_timeout: Duration,
    pub(crate) unmount: Vec<PathBuf>,
    /// What is mounted after a resume, in this order.
    pub(crate) mount: Vec<PathBuf>,
    /// Freeze what stays mounted for writing.
    pub(crate) freeze_mounted: bool,
    /// Devices whose superblocks must be after a resume what they were before the image.
    pub(crate) guard: Vec<PathBuf>,
    pub(crate) swapoff: Vec<PathBuf>,
    /// Commands that renew what a network forgets: leases, routes.
    pub(crate) network: Vec<Vec<String>>,
    pub(crate) clock: Clock,
    pub(crate) on_mismatch: OnMismatch,
    /// By name; at most as many as a record of the journal has room for.
    pub(crate) targets: Vec<Target>,
    /// SHA-256 of all these files, names and contents: a part of the image's id.
    pub(crate) digest: [u8; 32],
}

/// A raw device, or a part of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
}

/// Who writes the image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BackEnd {
    /// The first that works here.
    Auto,
    /// `/dev/snapshot`, to a device that the kernel never erases.
    Snapshot,
    /// `/sys/power/state`.
    Sysfs,
    Exec,
    None,
}

/// What the engine does when every target had its turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Linger {
    Exit,
    Stay,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Clock {
    Rtc,
    Keep,
}

/// What follows where a file system was changed since the image was taken, or the image is one that must not run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OnMismatch {
    RebootCold,
    Continue,
}

/// One file of `autorun.d`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Target {
    pub(crate) name: Name,
    pub(crate) hash: NameHash,
    pub(crate) phase: Phase,
    /// From 0; targets of one level may run at the same time.
    pub(crate) level: usize,
    /// Places in [`Settings::targets`].
    pub(crate) after: Vec<usize>,
    pub(crate) work: Work,
    pub(crate) service: Option<Name>,
    pub(crate) before_image: BeforeImage,
    /// Runs only where the probe says that it is broken.
    pub(crate) if_broken: bool,
    pub(crate) identity: Option<Identity>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) probe: Option<Probe>,
    /// Longer is worth a note.
    pub(crate) soft: Option<Duration>,
    /// Longer is not waited.
    pub(crate) hard: Duration,
    pub(crate) retries: u32,
    /// Before the first retry; doubled before each further one.
    pub(crate) backoff: Duration,
    pub(crate) once: Once,
    /// Running it twice does no harm.
    pub(crate) idempotent: bool,
    pub(crate) on_fail: OnFail,
    /// Runs after suspend too, and after a wake-up of which only the clocks tell.
    pub(crate) on_any_wake: bool,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Phase {
    Early,
    Ui,
    Late,
}

/// What it is to run a target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Work {
    /// A program and its arguments; it is done when it exits with 0.
    Program(Vec<String>),
    Start(Name),
    Restart(Name),
    Signal(Name, i32),
    Nothing,
}

/// What the supervisor does to the target's service before the image.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum BeforeImage {
    Stop,
    Freeze,
    /// It is asked as those of [`Settings::wait_for`] are, and frozen when it has answered.
    Quiesce,
    Keep,
}

/// Whom a program runs as.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary ones.
    pub(crate) groups: Vec<u32>,
}

/// How to see that a target works, which is more than that it is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Probe {
    pub(crate) by: ProbeBy,
    /// It has so long to show it.
    pub(crate) within: Duration,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ProbeBy {
    /// Exits with 0.
    Command(Vec<String>),
    /// A file whose number must rise.
    File(PathBuf),
    /// An application that must be seen alive.
    Heartbeat(i32),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Once {
    /// In each life.
    Resume,
    /// In one life of each image.
    Image,
    /// Also again when the engine is started again in the same life.
    Always,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OnFail {
    /// Those after it run nevertheless.
    Continue,
    /// Those after it are skipped.
    Stop,
    RebootCold,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            journal: None,
            back_end: BackEnd::Auto,
            image: None,
            exec: Vec::new(),
            linger: Linger::Exit,
            parallel: 4,
            wait_for: Vec::new(),
            prepare_timeout: Duration::from_secs(5),
            step_timeout: Duration::from_secs(10),
            unmount: Vec::new(),
            mount: Vec::new(),
            freeze_mounted: true,
            guard: Vec::new(),
            swapoff: Vec::new(),
            network: Vec::new(),
            clock: Clock::Rtc,
            on_mismatch: OnMismatch::RebootCold,
            targets: Vec::new(),
            digest: [0; 32],
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

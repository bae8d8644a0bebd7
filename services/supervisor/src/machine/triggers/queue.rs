//! What one service's triggers still have to do. One at a time, each once however often it was wanted while it waited, and
//! once more if it was wanted while it ran.

use std::{collections::BTreeSet, time::Duration};

use protocol::{config::Invalid, name::Name, time::Moment};
use serde::{Deserialize, Serialize};

use super::trigger::Work;

/// Most different things that one service may still have to do.
const JOBS_MAX: usize = 32;
/// Most packages that are validated before one of them is done.
const PACKAGES_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Queue {
    jobs: Vec<Job>,
    /// What the last validation before a reload has found.
    pub(super) invalid: Vec<Invalid>,
    /// The script that runs; after a restart of the supervisor, what may be left of it.
    pub(super) process: Option<ScriptProcess>,
}

/// A script's process, which leads a process group of its own. Two never have both numbers in common.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ScriptProcess {
    pub(crate) pid: i32,
    /// When it was started, in clock ticks since the boot.
    pub(crate) started: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    /// The type of the event that wanted it last.
    pub(super) event: String,
    pub(super) due: Moment,
    pub(super) stage: Stage,
    /// It was wanted again while it ran.
    pub(super) again: bool,
    /// Packages whose change it is about: their rules are looked at first.
    pub(super) packages: BTreeSet<String>,
}

/// How far a job is. The numbers tell the shell's answers apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    Waiting,
    Validating { run: u64 },
    Running { run: u64, since: Moment },
}

/// There is no room.
#[derive(Debug)]
pub(super) struct Full;

impl Full {
    pub(super) fn text(name: &Name) -> String {
        format!(
            "service {name} has {JOBS_MAX} different things to do already, which is the limit: ask again when some of them are done"
        )
    }
}

impl Queue {
    /// Something is wanted, `delay` from now.
    pub(super) fn want(
        &mut self,
        work: Work,
        event: &str,
        package: Option<&str>,
        delay: Duration,
        now: Moment,
    ) -> Result<(), Full> {
        let due = now + delay;
        let at = self.jobs.iter().position(|job| job.work == work);
        let at = match at {
            Some(at) => at,
            None if self.jobs.len() >= JOBS_MAX => return Err(Full),
            None => {
                let (stage, packages) = (Stage::Waiting, BTreeSet::new());
                let event = event.to_owned();
                self.jobs.push(Job { work, event, due, stage, again: false, packages });
                self.jobs.len() - 1
            }
        };
        let job = &mut self.jobs[at];
        match job.stage {
            Stage::Waiting => job.due = job.due.max(due),
            // It has to be looked at as it is now.
            Stage::Validating { .. } => (job.stage, job.due) = (Stage::Waiting, due),
            Stage::Running { .. } => job.again = true,
        }
        event.clone_into(&mut job.event);
        if let Some(package) = package
            && job.packages.len() < PACKAGES_MAX
        {
            job.packages.insert(package.to_owned());
        }
        Ok(())
    }

    /// Nothing of it is under way.
    fn is_idle(&self) -> bool {
        self.jobs.iter().all(|job| job.stage == Stage::Waiting)
    }

    /// When the next one may begin, if none is under way.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.jobs.iter().filter(|_| self.is_idle()).map(|job| job.due).min()
    }

    /// The one to begin with now: of those that are due the one that was wanted first.
    pub(super) fn due(&mut self, now: Moment) -> Option<&mut Job> {
        let idle = self.is_idle();
        self.jobs.iter_mut().filter(|job| idle && job.due <= now).min_by_key(|job| job.due)
    }

    /// The job of this number, from its validation to its end.
    pub(super) fn job(&mut self, run: u64) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| match job.stage {
            Stage::Waiting => false,
            Stage::Validating { run: its } | Stage::Running { run: its, .. } => its == run,
        })
    }

    /// This job runs now.
    pub(super) fn begun(&mut self, work: &Work, run: u64, now: Moment) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.work == *work) {
            job.stage = Stage::Running { run, since: now };
        }
    }

    /// This job is over: gone, or done once more.
    pub(super) fn over(&mut self, work: &Work, now: Moment) {
        self.jobs.retain_mut(|job| {
            if job.work != *work {
                return true;
            }
            (job.stage, job.due) = (Stage::Waiting, now);
            std::mem::take(&mut job.again)
        });
    }

    /// Forgets what has not begun.
    pub(super) fn clear(&mut self) -> usize {
        let before = self.jobs.len();
        self.jobs.retain_mut(|job| {
            job.again = false;
            job.stage != Stage::Waiting
        });
        if self.jobs.is_empty() {
            self.process = None;
        }
        before - self.jobs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.invalid.is_empty()
    }

    pub(super) fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    pub(super) fn record(&self, service: &Name) -> QueueRecord {
        let job = |job: &Job| JobRecord {
            work: job.work.clone(),
            event: job.event.clone(),
            due: job.due,
            packages: job.packages.iter().cloned().collect(),
        };
        QueueRecord {
            service: service.clone(),
            jobs: self.jobs.iter().map(job).collect(),
            invalid: self.invalid.clone(),
            process: self.process,
        }
    }

    /// What the supervisor before this one had not ended yet begins anew.
    pub(super) fn remembered(record: QueueRecord) -> Self {
        let job = |job: JobRecord| Job {
            work: job.work,
            event: job.event,
            due: job.due,
            stage: Stage::Waiting,
            again: false,
            packages: job.packages.into_iter().take(PACKAGES_MAX).collect(),
        };
        Self {
            jobs: record.jobs.into_iter().take(JOBS_MAX).map(job).collect(),
            invalid: record.invalid,
            process: record.process,
        }
    }
}

/// What the journal keeps of it. Read by older and newer versions, as [`super::super::record::InstanceRecord`] is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct QueueRecord {
    pub(crate) service: Name,
    #[serde(default)]
    pub(crate) jobs: Vec<JobRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) invalid: Vec<Invalid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<ScriptProcess>,
}

impl QueueRecord {
    /// Nothing is left to be remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.invalid.is_empty()
    }
}

/// One thing that was promised and is not known to be done.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct JobRecord {
    pub(crate) work: Work,
    #[serde(default)]
    pub(crate) event: String,
    pub(crate) due: Moment,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) packages: Vec<String>,
}

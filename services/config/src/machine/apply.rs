//! `apply`: what is announced from now on is on trial, and is undone unless `confirm` comes in time.

use std::{collections::BTreeMap, time::Duration};

use protocol::{config::Applying, time::Moment};

use super::{
    Action, Phase, Trial, Watcher,
    file::{Announced, FilePath, package},
};

/// The longest trial.
pub(super) const CONFIRM_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Apply {
    deadline: Moment,
    before: BTreeMap<FilePath, Option<Announced>>,
    /// The contents from before were put back, and are to be announced.
    undoing: bool,
}

impl Apply {
    pub(super) fn new(deadline: Moment) -> Self {
        Self { deadline, before: BTreeMap::new(), undoing: false }
    }

    /// What an earlier watcher began; one that was being undone is undone again, which does no harm.
    pub(super) fn recalled(trial: Trial, now: Moment) -> Self {
        let deadline = trial.deadline.min(now + CONFIRM_MAX);
        Self { deadline, before: trial.before, undoing: false }
    }

    pub(super) fn trial(&self) -> Trial {
        Trial { deadline: self.deadline, before: self.before.clone() }
    }
}

impl Watcher {
    pub(super) fn trial_deadline(&self) -> Option<Moment> {
        self.apply.as_ref().filter(|apply| !apply.undoing).map(|apply| apply.deadline)
    }

    pub(super) fn applying(&self, now: Moment) -> Option<Applying> {
        let apply = self.apply.as_ref()?;
        let packages = apply.before.keys().map(|path| package(path).to_owned()).collect();
        let left = apply.deadline.since(now).as_millis();
        Some(Applying { packages, left_ms: u64::try_from(left).unwrap_or(u64::MAX) })
    }

    /// Notes what files said before they are announced.
    pub(super) fn try_out(&mut self) {
        let Some(apply) = self.apply.as_mut().filter(|apply| !apply.undoing) else { return };
        for path in &self.flight {
            let announced = self.files.get(path).and_then(|file| file.announced.clone());
            apply.before.entry(path.clone()).or_insert(announced);
        }
    }

    /// Nobody confirmed: what was there before is put back.
    pub(super) fn begin_undoing(&mut self, now: Moment) -> bool {
        let Some(apply) = self.apply.as_mut().filter(|apply| !apply.undoing) else { return false };
        if apply.deadline > now {
            return false;
        }
        apply.undoing = true;
        let restore: Vec<_> = apply
            .before
            .iter()
            // What was too long to be kept can't be put back, and says so when it is tried.
            .map(|(path, before)| {
                (path.clone(), before.as_ref().map(|before| before.content.unwrap_or_default()))
            })
            .collect();
        self.phase = Phase::Restoring(None);
        self.actions.push_back(Action::Restore(restore));
        true
    }

    /// What was put back is announced, in manual mode too.
    pub(super) fn release_undone(&mut self) {
        let Some(apply) = self.apply.as_ref().filter(|apply| apply.undoing) else { return };
        for path in apply.before.keys() {
            if let Some(file) = self.files.get_mut(path) {
                file.release();
            }
        }
    }

    /// All of what was put back was looked at and taken.
    pub(super) fn finish_trial(&mut self) {
        let Some(apply) = self.apply.as_ref().filter(|apply| apply.undoing) else { return };
        let over = apply.before.keys().all(|path| {
            let due = self.files.get(path).is_some_and(|file| file.due().is_some());
            !due && !self.dirt.holds(path)
        });
        if over {
            self.apply = None;
            self.unsaved = true;
        }
    }
}

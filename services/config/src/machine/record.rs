//! What is written down, so that the next watcher goes on where this one was: what was announced, and an `apply` that waits.

use std::collections::BTreeMap;

use protocol::{config::Change, time::Moment};

use super::{
    Watcher,
    apply::Apply,
    file::{Announced, Digest, File, FilePath, Pending, Standing},
};
use crate::settings::format_name;

/// What is written down.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Record {
    /// Format and path of the sources that were looked into.
    pub(crate) sources: Vec<(String, FilePath)>,
    pub(crate) files: BTreeMap<FilePath, Announced>,
    /// What is being announced: whether it was taken, nobody knows if the watcher is killed now.
    pub(crate) announcing: BTreeMap<FilePath, (Option<Announced>, Change)>,
    pub(crate) trial: Option<Trial>,
    /// Contents that are needed beside those of the files; not part of what is written.
    pub(crate) contents: Vec<Digest>,
}

/// An `apply` that waits for `confirm`, or that is being undone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Trial {
    pub(crate) deadline: Moment,
    /// What was announced of each file before; `None`: it was not there.
    pub(crate) before: BTreeMap<FilePath, Option<Announced>>,
}

impl Watcher {
    pub(super) fn record(&self) -> Record {
        let sources = self.settings.sources.iter().enumerate();
        let seen = sources.filter(|(at, _)| !self.fresh.contains(at));
        let announced = |(path, file): (&FilePath, &File)| {
            file.announced.clone().map(|announced| (path.clone(), announced))
        };
        let pending = self.files.values().filter_map(File::pending);
        let trial = self.apply.as_ref().map(Apply::trial);
        let before = trial.iter().flat_map(|trial| trial.before.values()).flatten();
        let contents = pending.filter_map(|Pending { to, .. }| to.as_ref()).chain(before);
        Record {
            sources: seen
                .map(|(_, source)| (format_name(&source.format).to_owned(), source.path.clone()))
                .collect(),
            files: self.files.iter().filter_map(announced).collect(),
            announcing: self.files.iter().filter_map(|it| self.announcing(it)).collect(),
            contents: contents.filter_map(|announced| announced.content).collect(),
            trial,
        }
    }

    fn announcing(
        &self,
        (path, file): (&FilePath, &File),
    ) -> Option<(FilePath, (Option<Announced>, Change))> {
        let pending = file.pending().filter(|_| file.redo || self.flight.contains(path))?;
        Some((path.clone(), (pending.to.clone(), pending.change.clone())))
    }

    /// Goes on where the record ends.
    pub(super) fn recall(&mut self, record: Record, now: Moment) {
        let sources = self.settings.sources.iter().enumerate();
        let known = sources.filter(|(_, source)| {
            let format = format_name(&source.format);
            record.sources.iter().any(|(known, path)| known == format && *path == source.path)
        });
        for at in known.map(|(at, _)| at).collect::<Vec<_>>() {
            self.fresh.remove(&at);
        }
        for (path, announced) in record.files {
            if let Some(source) = self.source_of(&path).filter(|at| !self.fresh.contains(at)) {
                self.files.insert(path, File { announced: Some(announced), ..File::new(source) });
            }
        }
        for (path, (to, change)) in record.announcing {
            if let Some(source) = self.source_of(&path).filter(|at| !self.fresh.contains(at)) {
                let file = self.files.entry(path).or_insert_with(|| File::new(source));
                let pending = Pending { to, change, released: true };
                file.standing = Standing::Changed(Box::new(pending));
                file.redo = true;
            }
        }
        self.apply = record.trial.map(|trial| Apply::recalled(trial, now));
    }
}

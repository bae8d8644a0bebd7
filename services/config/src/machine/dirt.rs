//! What may have changed and is to be looked at: each file after its own quiet time, and not later than the longest.

use std::{collections::BTreeMap, time::Duration};

use protocol::time::Moment;

use super::file::FilePath;

/// More files than this are not told apart: all are looked at.
const FILES_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Dirt {
    quiet: Duration,
    longest: Duration,
    files: BTreeMap<FilePath, Span>,
    everything: Option<Span>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    first: Moment,
    due: Moment,
}

/// What is to be looked at now.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Due {
    Everything,
    Files(Vec<FilePath>),
}

impl Dirt {
    pub(super) fn new(quiet: Duration, longest: Duration) -> Self {
        Self { quiet, longest, files: BTreeMap::new(), everything: None }
    }

    fn span(&self, before: Option<Span>, now: Moment) -> Span {
        let first = before.map_or(now, |span| span.first);
        Span { first, due: (now + self.quiet).min(first + self.longest) }
    }

    pub(super) fn touch(&mut self, path: &FilePath, now: Moment) {
        if self.files.len() >= FILES_MAX && !self.files.contains_key(path) {
            return self.touch_everything(now);
        }
        let span = self.span(self.files.get(path).copied(), now);
        self.files.insert(FilePath::clone(path), span);
    }

    pub(super) fn touch_everything(&mut self, now: Moment) {
        self.everything = Some(self.span(self.everything, now));
    }

    /// Without waiting.
    pub(super) fn everything_at_once(&mut self, now: Moment) {
        self.everything = Some(Span { first: now, due: now });
    }

    /// Without waiting.
    pub(super) fn at_once(&mut self, path: &FilePath, now: Moment) {
        self.files.insert(FilePath::clone(path), Span { first: now, due: now });
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.files.values().chain(&self.everything).map(|span| span.due).min()
    }

    pub(super) fn holds(&self, path: &FilePath) -> bool {
        self.everything.is_some() || self.files.contains_key(path)
    }

    pub(super) fn take(&mut self, now: Moment) -> Option<Due> {
        if self.everything.is_some_and(|span| span.due <= now) {
            self.take_everything();
            return Some(Due::Everything);
        }
        let due: Vec<FilePath> =
            self.files.iter().filter(|(_, s)| s.due <= now).map(|(p, _)| p.clone()).collect();
        self.files.retain(|_, span| span.due > now);
        (!due.is_empty()).then_some(Due::Files(due))
    }

    /// Everything is looked at anyway.
    pub(super) fn take_everything(&mut self) {
        self.files.clear();
        self.everything = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_file_is_due_after_its_quiet_time_and_at_the_longest_whatever_comes() {
        let mut dirt = Dirt::new(Duration::from_millis(50), Duration::from_millis(500));
        let path = FilePath::from("/etc/config/hello");
        dirt.touch(&path, Moment(0));
        assert_eq!(dirt.deadline(), Some(Moment(50 * MS)));
        assert_eq!(dirt.take(Moment(49 * MS)), None);
        for at in 1..=1000 {
            dirt.touch(&path, Moment(at * MS / 2));
        }
        assert_eq!(dirt.deadline(), Some(Moment(500 * MS)));
        assert_eq!(dirt.take(Moment(500 * MS)), Some(Due::Files(vec![path])));
        assert_eq!(dirt.deadline(), None);
    }

    #[test]
    fn too_many_files_are_all_files() {
        let mut dirt = Dirt::new(Duration::from_millis(50), Duration::from_millis(500));
        for at in 0..=FILES_MAX {
            dirt.touch(&FilePath::from(format!("/c/{at}")), Moment(0));
        }
        assert_eq!(dirt.take(Moment(50 * MS)), Some(Due::Everything));
        assert_eq!(dirt.deadline(), None);
    }
}

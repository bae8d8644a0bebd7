//! The bounded store: segment files, the oldest deleted to make room for the newest.
//!
//! One thread writes ([`Store`]), readers read the same files beside it ([`reader::Reader`]); what they share is the
//! [`Index`], which says how far each file is good. Nothing here waits for a reader, and a reader holds no file open, so
//! that a slow one keeps nothing alive.

pub(crate) mod reader;
pub(crate) mod record;
mod segment;
mod thread;
mod writer;

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use self::segment::Segment;
pub(crate) use self::thread::{Store, boot};

/// A store has at least this many segments when it is full, so that making room costs an eighth of it at most.
const SEGMENTS: u64 = 8;
/// A longer segment would take too much memory to be looked through at the start.
const SEGMENT_MAX: u64 = 4 << 20;
/// Each start on another boot begins a segment, however short the one before is.
const SEGMENTS_MAX: usize = 1024;
/// A smaller store would not hold the longest records.
pub(crate) const SIZE_MIN: u64 = 512 << 10;
pub(crate) const SIZE_MAX: u64 = SEGMENT_MAX * SEGMENTS_MAX as u64;

/// Where the store is and how large it may become.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) size: u64,
    /// It is to survive a loss of power: fsync.
    pub(crate) on_disk: bool,
}

/// What readers, the writer and `status` know together.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    index: Mutex<Index>,
    health: Mutex<Health>,
}

/// The segments, the oldest first, and how far each is good.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) next_sequence: u64,
}

/// What is wrong.
#[derive(Debug, Default)]
struct Health {
    /// Records that could not be stored, by service, since the last that could.
    losses: BTreeMap<Option<Arc<str>>, u64>,
    /// The same since the start.
    lost: u64,
    /// Why nothing can be written at the moment.
    problem: Option<String>,
    /// What was found damaged at the start.
    damage: Vec<String>,
}

impl Place {
    fn segment_size(&self) -> u64 {
        (self.size / SEGMENTS).min(SEGMENT_MAX)
    }
}

impl Shared {
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("nothing panics while it holds the index")
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().expect("nothing panics while it holds the health")
    }

    /// Counts records that can't be stored.
    fn lose<'e>(&self, entries: impl IntoIterator<Item = &'e record::Entry>) {
        let mut health = self.health();
        for entry in entries {
            health.lost += 1;
            // So many services there are not; the tags of a hostile sender may be.
            let known = health.losses.contains_key(&entry.service) || health.losses.len() < 256;
            let service = entry.service.clone().filter(|_| known);
            *health.losses.entry(service).or_default() += 1;
        }
    }

    /// What a person should know, for `status`.
    pub(crate) fn problems(&self) -> Vec<String> {
        let health = self.health();
        let lost = (health.lost > 0)
            .then(|| format!("{} records could not be stored since the start", health.lost));
        health.problem.iter().chain(&health.damage).cloned().chain(lost).collect()
    }
}

impl Index {
    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end).sum()
    }

    pub(crate) fn first_sequence(&self) -> u64 {
        self.segments.front().map_or(self.next_sequence, |segment| segment.first)
    }
}

fn segment_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:016x}.log"))
}

#[cfg(test)]
mod tests;

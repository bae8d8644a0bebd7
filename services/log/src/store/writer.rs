//! Writes the store. Knows no thread and no queue; whoever calls it may wait for the disk.
//!
//! A disk that is full or broken costs records: they are counted, and told in the first record that can be written again.
//! On a full disk the oldest segment is given up first.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    sync::Arc,
    time::Duration,
};

use protocol::time::Moment;

use super::{
    Index, Place, SEGMENTS_MAX, Shared,
    record::{self, Entry, HEAD},
    segment::{self, Found, Segment},
    segment_path,
};
use crate::machine::Now;

/// What is not on the disk after this long is brought there.
pub(super) const SYNC_EVERY: Duration = Duration::from_secs(5);
/// Records this urgent are brought to the disk at once: errors and worse.
const SYNC_PRIORITY: u8 = 3;
/// After a failure nothing is tried for so long.
const RETRY: Duration = Duration::from_secs(1);
/// Room in a segment for frames that are no records.
const SLACK: usize = 64;
/// Numbers that are left out after a loss of power: so many records may have been read and followed without being on the disk.
const POWER_LOSS_GAP: u64 = 1 << 16;

/// The writing side of the store.
#[derive(Debug)]
pub(super) struct Writer {
    place: Place,
    boot: u32,
    shared: Arc<Shared>,
    /// What an earlier process left is known.
    recovered: bool,
    /// The newest segment, where it can be written.
    file: Option<File>,
    /// Since when something is written that may not be on the disk.
    dirty_since: Option<Moment>,
    /// The kernel's position.
    position: Option<u64>,
    /// Nothing is tried before this.
    retry_at: Moment,
    buffer: Vec<u8>,
}

impl Writer {
    /// Takes over what an earlier process left, and cuts off what it had not finished. A folder that can't be read is
    /// tried again when something is to be written.
    pub(super) fn open(place: Place, boot: u32, shared: Arc<Shared>, now: Now) -> Self {
        let mut writer = Self {
            place,
            boot,
            shared,
            recovered: false,
            file: None,
            dirty_since: None,
            position: None,
            retry_at: Moment(0),
            buffer: Vec::new(),
        };
        if let Err(error) = writer.recover(now) {
            writer.failed(&error, now.monotonic);
        }
        writer
    }

    pub(super) fn position(&self) -> Option<u64> {
        self.position
    }

    fn recover(&mut self, now: Now) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o750).recursive(true).create(&self.place.folder)?;
        let (found, damage) = segment::find(&self.place.folder)?;
        let mut remark = None;
        let mut index = Index { next_sequence: 1, ..Index::default() };
        if let Some(last) = found.last() {
            index.next_sequence = last.segment.next;
            // What another boot wrote last may not all have come to the disk, and yet have been read by somebody.
            if last.segment.boot != self.boot && !last.closed {
                index.next_sequence += POWER_LOSS_GAP;
                remark = Some(
                    "the device went down without warning: the last records before may be missing",
                );
            }
            self.position = last.position.filter(|_| last.segment.boot == self.boot);
        }
        self.file = found.last().and_then(|last| self.reopen(last));
        index.segments = found.into_iter().map(|found| found.segment).collect();
        *self.shared.index() = index;
        self.shared.health().damage = damage;
        self.recovered = true;
        if let Some(remark) = remark {
            self.append(&[now.remark(remark.to_owned())], None, now);
        }
        Ok(())
    }

    /// Goes on with the newest segment, if it is of this boot. Its end is cut off where it is torn.
    fn reopen(&self, last: &Found) -> Option<File> {
        let path = segment_path(&self.place.folder, last.segment.first);
        let file = OpenOptions::new().append(true).open(path).ok()?;
        if last.torn > 0 {
            file.set_len(last.segment.end).ok()?;
        }
        (last.segment.boot == self.boot).then_some(file)
    }

    /// Appends all of them, or counts them as lost. `position`: where the kernel's messages go on behind them.
    pub(super) fn append(&mut self, entries: &[Entry], position: Option<u64>, now: Now) {
        if now.monotonic < self.retry_at {
            return self.shared.lose(entries);
        }
        let before = self.shared.index().next_sequence;
        let result = self.try_append(entries, position, now);
        let Err(error) = result else {
            self.shared.health().problem = None;
            return;
        };
        self.failed(&error, now.monotonic);
        // Those that went into a segment before the failure are there.
        let written = self.shared.index().next_sequence.saturating_sub(before);
        let written = usize::try_from(written).unwrap_or(0).min(entries.len());
        self.shared.lose(&entries[written..]);
    }

    fn try_append(&mut self, entries: &[Entry], position: Option<u64>, now: Now) -> io::Result<()> {
        if !self.recovered {
            self.recover(now)?;
        }
        let losses = self.losses(now);
        if !losses.is_empty() {
            self.write(&losses, None, now)?;
            self.shared.health().losses.clear();
        }
        self.write(entries, position, now)
    }

    /// Remarks on what was lost since the last record that could be written.
    fn losses(&self, now: Now) -> Vec<Entry> {
        let health = self.shared.health();
        let remark = |(service, count): (&Option<Arc<str>>, &u64)| {
            let of = service.as_deref().map(|service| format!(" of {service}")).unwrap_or_default();
            let text =
                format!("{count} records{of} were dropped here: the store could not be written");
            Entry { service: service.clone(), dropped: *count, ..now.remark(text) }
        };
        health.losses.iter().map(remark).collect()
    }

    fn write(&mut self, entries: &[Entry], position: Option<u64>, now: Now) -> io::Result<()> {
        let mut added: Vec<(u64, u64)> = Vec::new();
        self.buffer.clear();
        for entry in entries {
            let start = self.buffer.len();
            let sequence = self.shared.index().next_sequence + added.len() as u64;
            record::encode(&mut self.buffer, sequence, entry);
            if !self.has_room(self.buffer.len()) {
                let last = self.buffer.split_off(start);
                self.flush(&mut added)?;
                self.rotate()?;
                self.buffer = last;
            }
            // Numbers are only given to what is written: a flush in between has counted those before.
            let sequence = self.shared.index().next_sequence + added.len() as u64;
            added.push((sequence, entry.realtime_us));
        }
        if let Some(position) = position {
            record::encode_position(&mut self.buffer, position);
        }
        self.flush(&mut added)?;
        self.position = position.or(self.position);
        if !entries.is_empty() {
            self.dirty_since.get_or_insert(now.monotonic);
        }
        if entries.iter().any(|entry| entry.priority <= SYNC_PRIORITY) {
            self.sync()?;
        }
        Ok(())
    }

    /// Whether the newest segment takes so many bytes more.
    fn has_room(&self, bytes: usize) -> bool {
        let index = self.shared.index();
        let end = index.segments.back().map_or(u64::MAX, |segment| segment.end);
        self.file.is_some()
            && end.saturating_add((bytes + SLACK) as u64) <= self.place.segment_size()
    }

    /// Writes the buffer, and makes known what it holds.
    fn flush(&mut self, added: &mut Vec<(u64, u64)>) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            self.rotate()?;
        }
        let mut written = self.write_all();
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull)
            && self.give_up_oldest()
        {
            written = self.write_all();
        }
        if let Err(error) = written {
            self.abandon();
            return Err(error);
        }
        let mut index = self.shared.index();
        if let Some(segment) = index.segments.back_mut() {
            segment.end += self.buffer.len() as u64;
            added.iter().for_each(|(sequence, time)| segment.add(*sequence, *time));
            index.next_sequence += added.len() as u64;
        }
        self.buffer.clear();
        added.clear();
        Ok(())
    }

    /// Writes at the good end of the newest segment; what an attempt before left behind it is cut off.
    fn write_all(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let written = file.write_all(&self.buffer);
        if written.is_err()
            && let Some(segment) = self.shared.index().segments.back()
        {
            // Where this fails too, the next segment begins behind it, and readers know where this one is good.
            let _ = file.set_len(segment.end);
        }
        written
    }

    /// The newest segment can't be written: the next attempt begins another one.
    fn abandon(&mut self) {
        self.file = None;
        self.buffer.clear();
    }

    /// Begins a new segment, and deletes old ones until it has room to grow.
    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        self.file = None;
        let size = self.place.segment_size();
        while self.is_full(size) && self.give_up_oldest() {}
        let first = self.shared.index().next_sequence;
        let made = match self.create(first) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.give_up_oldest() => {
                self.create(first)
            }
            made => made,
        };
        let (file, end) = made?;
        let mut index = self.shared.index();
        // One that never got a record has the same name, and was replaced.
        index.segments.retain(|segment| segment.first != first);
        index.segments.push_back(Segment { end, ..Segment::new(first, self.boot) });
        self.file = Some(file);
        Ok(())
    }

    /// Whether another segment of this size would be too much.
    fn is_full(&self, size: u64) -> bool {
        let index = self.shared.index();
        index.bytes() + size > self.place.size || index.segments.len() >= SEGMENTS_MAX
    }

    /// A segment's file with its head, and the kernel's position, so that deleting older ones loses neither.
    fn create(&self, first: u64) -> io::Result<(File, u64)> {
        fs::DirBuilder::new().mode(0o750).recursive(true).create(&self.place.folder)?;
        let path = segment_path(&self.place.folder, first);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o640).open(&path)?;
        let mut head = record::encode_head(first, self.boot).to_vec();
        debug_assert_eq!(head.len(), HEAD);
        if let Some(position) = self.position {
            record::encode_position(&mut head, position);
        }
        if let Err(error) = file.write_all(&head) {
            // A file without a whole head would only be reported as damage.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        if self.place.on_disk {
            file.sync_all()?;
            File::open(&self.place.folder)?.sync_all()?;
        }
        Ok((file, head.len() as u64))
    }

    /// Deletes the oldest segment that isn't being written. `false`: there is none.
    fn give_up_oldest(&mut self) -> bool {
        let mut index = self.shared.index();
        if index.segments.len() <= usize::from(self.file.is_some()) {
            return false;
        }
        let Some(oldest) = index.segments.pop_front() else { return false };
        drop(index);
        // One that is gone already takes no room either.
        let _ = fs::remove_file(segment_path(&self.place.folder, oldest.first));
        true
    }

    /// When something has to be brought to the disk.
    pub(super) fn sync_due(&self) -> Option<Moment> {
        self.dirty_since.filter(|_| self.place.on_disk).map(|since| since + SYNC_EVERY)
    }

    /// Brings what is written to the disk; in memory there is none.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.dirty_since = None;
        match &self.file {
            Some(file) if self.place.on_disk => file.sync_data(),
            _ => Ok(()),
        }
    }

    /// As [`Writer::sync`], for who can do nothing about a failure but know of it.
    pub(super) fn sync_or_tell(&mut self, now: Moment) {
        if let Err(error) = self.sync() {
            self.abandon();
            self.failed(&error, now);
        }
    }

    /// Marks an orderly end.
    pub(super) fn close(&mut self, now: Moment) {
        self.buffer.clear();
        record::encode_closed(&mut self.buffer);
        if self.file.is_some()
            && let Err(error) = self.flush(&mut Vec::new())
        {
            self.failed(&error, now);
        }
        self.sync_or_tell(now);
    }

    fn failed(&mut self, error: &io::Error, now: Moment) {
        self.retry_at = now + RETRY;
        let text =
            format!("the store in {} can't be written: {error}", self.place.folder.display());
        let before = self.shared.health().problem.replace(text.clone());
        if before.as_ref() != Some(&text) {
            tracing::error!("{text}; records are dropped until it can be");
        }
    }
}

//! Reads records beside the writer, a piece at a time, and remembers only how far it is: a reader that is too slow for the
//! store finds its place deleted, goes on at the oldest record there is, and is told how many it missed.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::PathBuf, sync::Arc};

use protocol::log::{Record, Select, Source};
use regex::{Regex, RegexBuilder};

use super::{
    Shared,
    record::{self, FRAME_MAX, Frame, HEAD, View},
    segment::Segment,
    segment_path,
};

/// What one step reads of a file.
const PIECE: usize = 64 << 10;
const _: () = assert!(PIECE > FRAME_MAX);
/// Longest pattern, and memory that one may take when it is compiled.
const PATTERN_MAX: usize = 1024;
const REGEX_MAX: usize = 1 << 20;
/// Most services that one question may name.
const SERVICES_MAX: usize = 256;

/// Which records.
#[derive(Debug)]
pub(crate) struct Filter {
    select: Select,
    grep: Option<Regex>,
}

/// A reader's place, and what it looks for.
#[derive(Debug)]
pub(crate) struct Reader {
    shared: Arc<Shared>,
    folder: PathBuf,
    filter: Filter,
    /// The next record to look at.
    next: u64,
    /// Where that is, if it is known: first sequence of the segment, and offset.
    place: Option<(u64, u64)>,
}

/// What a step found.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// Records as JSON, one a line.
    pub(crate) lines: Vec<u8>,
    /// So many records were deleted before they were read.
    pub(crate) missed: u64,
    /// All there is was looked at.
    pub(crate) at_end: bool,
}

impl Filter {
    /// # Errors
    /// Says which argument makes no sense, and why.
    pub(crate) fn new(select: Select) -> Result<Self, String> {
        if select.services.len() > SERVICES_MAX {
            let count = select.services.len();
            return Err(format!("`services`: {count} are named, at most {SERVICES_MAX} may be"));
        }
        if let Some(priority) = select.priority.filter(|priority| *priority > 7) {
            return Err(format!(
                "`priority`: {priority} is none; 0 is the most urgent, 7 the least"
            ));
        }
        let grep = select.grep.as_deref().map(|pattern| {
            if pattern.len() > PATTERN_MAX {
                let length = pattern.len();
                return Err(format!("`grep`: {length} bytes, a pattern has at most {PATTERN_MAX}"));
            }
            let limited =
                RegexBuilder::new(pattern).size_limit(REGEX_MAX).dfa_size_limit(REGEX_MAX).build();
            limited.map_err(|error| format!("`grep`: {error}"))
        });
        Ok(Self { grep: grep.transpose()?, select })
    }

    fn takes(&self, view: &View<'_>) -> bool {
        let Select { since_us, until_us, after, priority, services, instance, source, .. } =
            &self.select;
        let named = |wanted: &String| view.service == Some(wanted.as_str());
        since_us.is_none_or(|since| view.realtime_us >= since)
            && until_us.is_none_or(|until| view.realtime_us < until)
            && after.is_none_or(|after| view.sequence > after)
            && priority.is_none_or(|priority| view.priority <= priority)
            && (services.is_empty() || services.iter().any(named))
            && instance.as_deref().is_none_or(|instance| view.instance == Some(instance))
            && source.is_none_or(|source| view.source == source)
            && self.grep.as_ref().is_none_or(|grep| grep.is_match(view.text))
    }

    /// Whether a segment may hold a record that is wanted.
    fn may_be_in(&self, segment: &Segment) -> bool {
        let Select { since_us, until_us, after, .. } = &self.select;
        segment.times.is_some_and(|(earliest, latest)| {
            since_us.is_none_or(|since| latest >= since)
                && until_us.is_none_or(|until| earliest < until)
                && after.is_none_or(|after| segment.next > after.saturating_add(1))
        })
    }
}

impl Reader {
    /// At the oldest record that is wanted. Reads as much of the store as it takes to find the newest `lines`.
    pub(crate) fn new(shared: Arc<Shared>, folder: PathBuf, filter: Filter) -> Self {
        let mut reader = Self { shared, folder, filter, next: 0, place: None };
        let index = reader.shared.index().clone();
        reader.next = match reader.filter.select.lines {
            Some(lines) => reader.first_of_newest(lines, &index),
            None => index.first_sequence(),
        };
        if let Some(after) = reader.filter.select.after {
            reader.next = reader.next.max(after.saturating_add(1));
        }
        reader
    }

    /// The next record it will look at.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The record with which the newest so many begin.
    fn first_of_newest(&self, lines: u64, index: &super::Index) -> u64 {
        let mut missing = lines;
        if missing == 0 {
            return index.next_sequence;
        }
        for segment in index.segments.iter().rev().filter(|one| self.filter.may_be_in(one)) {
            let mut found = Vec::new();
            // One that was deleted meanwhile is the oldest, and its records are gone.
            let _ = self.walk(segment, HEAD as u64, |view| {
                if self.filter.takes(view) {
                    found.push(view.sequence);
                }
                true
            });
            let count = found.len() as u64;
            if count >= missing {
                let at = usize::try_from(count - missing).unwrap_or(0);
                return found[at];
            }
            missing -= count;
        }
        index.first_sequence()
    }

    /// All records of a segment from an offset on, until `each` says `false`.
    fn walk(
        &self,
        segment: &Segment,
        mut offset: u64,
        mut each: impl FnMut(&View<'_>) -> bool,
    ) -> io::Result<()> {
        let file = File::open(segment_path(&self.folder, segment.first))?;
        let mut buffer = vec![0; PIECE];
        while offset < segment.end {
            let bytes = read_piece(&file, offset, segment.end, &mut buffer)?;
            let mut used = 0;
            while let Some((frame, length)) = record::decode(&bytes[used..]) {
                used += length;
                if let Frame::Record(view) = frame
                    && !each(&view)
                {
                    return Ok(());
                }
            }
            if used == 0 {
                break;
            }
            offset += used as u64;
        }
        Ok(())
    }

    /// Looks at the next piece of the store.
    pub(crate) fn step(&mut self) -> Step {
        let mut step = Step::default();
        let index = self.shared.index().clone();
        if self.next >= index.next_sequence {
            step.at_end = true;
            return step;
        }
        let first = index.first_sequence();
        if self.next < first {
            step.missed = first - self.next;
            self.next = first;
        }
        let segments = &index.segments;
        let Some(at) = segments.iter().rposition(|segment| segment.first <= self.next) else {
            step.at_end = true;
            return step;
        };
        let segment = &segments[at];
        let behind = segments.get(at + 1).map_or(index.next_sequence, |next| next.first);
        if self.next >= segment.next || !self.filter.may_be_in(segment) {
            (self.next, self.place) = (behind, None);
        } else if self.read(segment, &mut step).is_err() {
            // Deleted a moment ago, or damaged since it was written.
            step.missed += segment.next - self.next;
            (self.next, self.place) = (behind, None);
        }
        step
    }

    /// Reads a piece of a segment; `next` and `place` are behind what was looked at.
    fn read(&mut self, segment: &Segment, step: &mut Step) -> io::Result<()> {
        let offset = match self.place {
            Some((first, offset)) if first == segment.first => offset,
            _ => HEAD as u64,
        };
        let file = File::open(segment_path(&self.folder, segment.first))?;
        let mut buffer = vec![0; PIECE];
        let bytes = read_piece(&file, offset, segment.end, &mut buffer)?;
        let mut used = 0;
        while let Some((frame, length)) = record::decode(&bytes[used..]) {
            used += length;
            if let Frame::Record(view) = frame
                && view.sequence >= self.next
            {
                self.next = view.sequence + 1;
                if self.filter.takes(&view) {
                    push_line(&mut step.lines, &view.to_record(segment.boot));
                }
            }
        }
        if used == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.place = Some((segment.first, offset + used as u64));
        Ok(())
    }
}

/// Bytes of a file from an offset on, up to the segment's good end.
fn read_piece<'b>(
    file: &File,
    offset: u64,
    end: u64,
    buffer: &'b mut [u8],
) -> io::Result<&'b [u8]> {
    let rest = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
    let length = rest.min(buffer.len());
    file.read_exact_at(&mut buffer[..length], offset)?;
    Ok(&buffer[..length])
}

fn push_line(lines: &mut Vec<u8>, record: &Record) {
    let json = serde_json::to_vec(record).expect("a record holds only texts and numbers");
    lines.extend_from_slice(&json);
    lines.push(b'\n');
}

/// What a reader is told in the place of records that it was too slow for.
pub(crate) fn missed_line(missed: u64, next: u64, boot: u32, now: crate::machine::Now) -> Vec<u8> {
    let text = format!("{missed} records were deleted before this reader took them");
    let record = Record {
        sequence: next.saturating_sub(1),
        realtime_us: now.realtime_us,
        monotonic_us: now.monotonic.0 / 1000,
        boot: format!("{boot:08x}"),
        source: Source::Log,
        service: None,
        instance: None,
        pid: None,
        priority: 4,
        text,
        more: false,
        dropped: missed,
    };
    let mut line = Vec::new();
    push_line(&mut line, &record);
    line
}

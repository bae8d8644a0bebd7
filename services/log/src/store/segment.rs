//! Finds out what is good in the segments that an earlier process left. Changes nothing.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use super::record::{self, Frame, HEAD};

/// A segment that is longer than this is none of ours.
const LENGTH_MAX: u64 = 2 * super::SEGMENT_MAX;

/// What is known of a segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Segment {
    /// Its first sequence number, which also names its file.
    pub(crate) first: u64,
    /// The number after its last.
    pub(crate) next: u64,
    pub(crate) boot: u32,
    /// Bytes that are good.
    pub(crate) end: u64,
    /// Earliest and latest time of day in it; none where it is empty.
    pub(crate) times: Option<(u64, u64)>,
}

/// A segment as it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) segment: Segment,
    /// Bytes behind the last good frame.
    pub(super) torn: u64,
    /// The kernel's position, as it said last.
    pub(super) position: Option<u64>,
    /// It ends with the mark of an orderly end.
    pub(super) closed: bool,
}

impl Segment {
    pub(super) fn new(first: u64, boot: u32) -> Self {
        Self { first, next: first, boot, end: HEAD as u64, times: None }
    }

    /// Notes a record that was written or found.
    pub(super) fn add(&mut self, sequence: u64, realtime_us: u64) {
        self.next = sequence + 1;
        let (earliest, latest) = self.times.unwrap_or((realtime_us, realtime_us));
        self.times = Some((earliest.min(realtime_us), latest.max(realtime_us)));
    }
}

/// All segments of a folder, the oldest first, and what in it is none.
pub(super) fn find(folder: &Path) -> io::Result<(Vec<Found>, Vec<String>)> {
    let (mut all, mut damage) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some(first) = name.to_str().and_then(number) else { continue };
        let path = super::segment_path(folder, first);
        match examine(&path, first) {
            Ok(Some(found)) => all.push(found),
            Ok(None) => damage.push(format!("{} is no segment of the log", path.display())),
            Err(error) => damage.push(format!("read {}: {error}", path.display())),
        }
    }
    all.sort_by_key(|found| found.segment.first);
    for found in all.iter().filter(|found| found.torn > 0) {
        let path = super::segment_path(folder, found.segment.first);
        damage.push(format!("{} bytes at the end of {} were torn", found.torn, path.display()));
    }
    Ok((all, damage))
}

/// The first sequence in a segment's name.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
    let plain = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    u64::from_str_radix(digits, 16).ok().filter(|_| plain)
}

/// Walks through a segment to its first frame that is not good.
fn examine(path: &Path, first: u64) -> io::Result<Option<Found>> {
    let file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    if length > LENGTH_MAX {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(walk(&bytes, first))
}

pub(super) fn walk(bytes: &[u8], named: u64) -> Option<Found> {
    let (first, boot) = record::decode_head(bytes).filter(|(first, _)| *first == named)?;
    let mut segment = Segment::new(first, boot);
    let (mut position, mut closed) = (None, false);
    let mut at = HEAD;
    while let Some((frame, length)) = record::decode(&bytes[at..]) {
        closed = false;
        match frame {
            // Numbers only go up; one that doesn't is of another time.
            Frame::Record(view) if view.sequence < segment.next || view.sequence == u64::MAX => {
                break;
            }
            Frame::Record(view) => segment.add(view.sequence, view.realtime_us),
            Frame::Position(next) => position = Some(next),
            Frame::Closed => closed = true,
        }
        at += length;
    }
    segment.end = at as u64;
    Some(Found { segment, torn: (bytes.len() - at) as u64, position, closed })
}

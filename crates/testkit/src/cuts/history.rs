//! What a guest did to its disk, in steps so small that a power cut leaves each of them whole or not done; and after which of
//! them to cut.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt as _, path::Path};

use anyhow::{Context as _, Result};

use super::{
    layout::{Kind, Layout},
    log::{self, Entry},
    replay::Replay,
};

/// A sector that no partition has: what a guest writes there, beginning with [`MARK`], is no data but a message to the test.
/// `printf 'MARK saved 7\n' | dd of=/dev/vda bs=512 seek=40 conv=sync,notrunc && blockdev --flushbufs /dev/vda` says it exactly at this
/// point of the log, and flushes nothing else. (busybox's dd forgets `oflag=direct` where its buffer isn't aligned.)
pub const MARK_SECTOR: u64 = 40;
const MARK: &[u8] = b"MARK ";
const MARK_AT: u64 = MARK_SECTOR * SECTOR as u64;
const SECTOR: usize = 512;
/// Bytes of a piece that lies in no partition.
const LOOSE: u64 = SECTOR as u64;

/// A part of a write that is never torn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Piece {
    pub(super) at: u64,
    pub(super) length: u64,
    /// Where in the log its bytes are; `None`: zeros, left by a discard.
    pub(super) data: Option<u64>,
    /// Not lost, once it was answered.
    pub(super) durable: bool,
    pub(super) region: Option<usize>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    Write(Piece),
    /// What was written before can't be lost any more.
    Flush,
    Mark(String),
}

/// All of it, in order.
#[derive(Debug)]
pub struct History {
    pub(super) layout: Layout,
    pub(super) log: File,
    /// The disk as it was before.
    pub(super) base: File,
    pub(super) steps: Vec<Step>,
    cuts: Vec<usize>,
}

impl History {
    /// Reads a log of what happened to the disk `base`. Both files may be deleted then.
    ///
    /// # Errors
    /// As [`log::read`].
    pub fn read(base: &Path, log: &Path, layout: Layout) -> Result<Self> {
        let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
        let (base, mut file) = (open(base)?, open(log)?);
        let entries = log::read(&mut file, base.metadata()?.len());
        let (entries, log) = (entries.with_context(|| log.display().to_string())?, file);
        let mut steps = Vec::new();
        for entry in &entries {
            if entry.flush {
                steps.push(Step::Flush);
            }
            match mark(&log, entry)? {
                Some(text) => steps.push(Step::Mark(text)),
                None => split(entry, &layout, &mut steps),
            }
        }
        let cuts = cuts(&steps, &layout);
        Ok(Self { layout, log, base, steps, cuts })
    }

    /// After how many steps the power is to be cut; the first is before all of them.
    #[must_use]
    pub fn cuts(&self) -> &[usize] {
        &self.cuts
    }

    /// Messages of the guest, and after how many steps they came.
    pub fn marks(&self) -> impl Iterator<Item = (usize, &str)> {
        self.steps.iter().enumerate().filter_map(|(at, step)| match step {
            Step::Mark(text) => Some((at + 1, text.as_str())),
            Step::Write(_) | Step::Flush => None,
        })
    }

    /// Writes the disk after all steps to a file: but for the marks what the guest has left.
    ///
    /// # Errors
    /// As the file's.
    pub fn replay(&self, to: &Path) -> Result<()> {
        Replay::begin(self, to)?.advance(self.steps.len())
    }

    /// Writes and flushes, the writes in pieces.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let writes = self.steps.iter().filter(|step| matches!(step, Step::Write(_))).count();
        let flushes = self.steps.iter().filter(|step| matches!(step, Step::Flush)).count();
        (writes, flushes)
    }
}

/// What a write says to the test, if it does.
fn mark(log: &File, entry: &Entry) -> Result<Option<String>> {
    let Some(data) = entry.data.filter(|_| entry.at == MARK_AT) else { return Ok(None) };
    let mut bytes = [0; SECTOR];
    log.read_exact_at(&mut bytes, data)?;
    let Some(text) = bytes.strip_prefix(MARK) else { return Ok(None) };
    let text = text.split(|octet| matches!(octet, b'\n' | 0)).next().unwrap_or_default();
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}

fn split(entry: &Entry, layout: &Layout, into: &mut Vec<Step>) {
    let end = entry.at + entry.length;
    let mut at = entry.at;
    while at < end {
        let (region, limit) = layout.place(at);
        let size = region.map_or(LOOSE, |number| layout.regions()[number].kind.piece());
        let start = region.map_or(0, |number| layout.regions()[number].start);
        // A discard is a note in a table, not a row of writes.
        let whole = if entry.discard { u64::MAX } else { size - (at - start) % size };
        let length = whole.min(limit - at).min(end - at);
        let data = entry.data.map(|data| data + (at - entry.at));
        into.push(Step::Write(Piece { at, length, data, durable: entry.durable, region }));
        at += length;
    }
}

fn cuts(steps: &[Step], layout: &Layout) -> Vec<usize> {
    let mut cuts = vec![0];
    // By partition: the pieces since what is booted was last told to the loader.
    let mut bursts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        let Step::Write(piece) = step else { continue };
        let kind = piece.region.map(|number| (number, layout.regions()[number].kind));
        match kind {
            Some((number, kind)) if kind.step() > 1 => {
                bursts.entry(number).or_default().push(at + 1);
            }
            _ => cuts.push(at + 1),
        }
        if kind.is_some_and(|(_, kind)| kind == Kind::Records) {
            std::mem::take(&mut bursts).values().for_each(|burst| thin(burst, &mut cuts));
        }
    }
    bursts.values().for_each(|burst| thin(burst, &mut cuts));
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// The first, the last and every so manyth.
fn thin(burst: &[usize], into: &mut Vec<usize>) {
    into.extend(burst.iter().step_by(Kind::Slot.step()));
    into.extend(burst.last());
}

#[cfg(test)]
mod tests {
    use super::{
        super::{layout::Region, log::Writer},
        *,
    };

    fn layout() -> Layout {
        let region =
            |name: &str, start, length, kind| Region { name: name.to_owned(), start, length, kind };
        Layout::new(vec![
            region("env", 65_536, 1024, Kind::Records),
            region("data", 131_072, 65_536, Kind::Data),
            region("rootfs-b", 1 << 20, 3 << 20, Kind::Slot),
        ])
        .unwrap()
    }

    fn history(writes: &[(u64, &[u8])]) -> History {
        let base = tempfile::NamedTempFile::new().unwrap();
        base.as_file().set_len(4 << 20).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut log = Writer::new(file.reopen().unwrap()).unwrap();
        for (at, data) in writes {
            match data {
                [] => log.flush().unwrap(),
                data => log.write(*at, data).unwrap(),
            }
        }
        log.finish().unwrap();
        History::read(base.path(), file.path(), layout()).unwrap()
    }

    fn lengths(history: &History) -> Vec<u64> {
        let length = |step: &Step| match step {
            Step::Write(piece) => Some(piece.length),
            Step::Flush | Step::Mark(_) => None,
        };
        history.steps.iter().filter_map(length).collect()
    }

    #[test]
    fn a_write_is_split_where_its_partition_may_be_torn() {
        // From the middle of a block of the data to its end, and past it into the gap.
        let data = vec![7; 4096 + 2048 + 512];
        let history = history(&[(65_536, &[1; 1024]), (131_072 + 65_536 - 6144, &data)]);
        assert_eq!(lengths(&history), [512, 512, 2048, 4096, 512]);
        assert_eq!(history.cuts(), [0, 1, 2, 3, 4, 5]);
        let Step::Write(last) = &history.steps[4] else { panic!("{:?}", history.steps) };
        assert_eq!((last.at, last.region), (131_072 + 65_536, None));
    }

    #[test]
    fn a_slot_is_cut_at_its_first_its_last_and_every_64th_block_of_each_burst() {
        let blocks = vec![0; 130 * 4096];
        let history = history(&[(1 << 20, &blocks), (65_536, &[1; 512]), (1 << 20, &[2; 8192])]);
        assert_eq!(history.cuts(), [0, 1, 65, 129, 130, 131, 132, 133]);
    }

    #[test]
    fn messages_of_the_guest_stand_where_they_were_written() {
        let mut mark = [0; 512];
        mark[..13].copy_from_slice(b"MARK saved 7\n");
        let history =
            history(&[(131_072, &[1; 512]), (0, &[]), (MARK_AT, &mark), (65_536, &[1; 512])]);
        assert_eq!(history.marks().collect::<Vec<_>>(), [(3, "saved 7")]);
        assert_eq!((history.counts(), history.cuts()), ((2, 1), &[0, 1, 4][..]));
    }
}

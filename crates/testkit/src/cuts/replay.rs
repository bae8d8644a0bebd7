//! The disk as it was at any point of a history: replayed forward on one sparse file, and, over that, what a cut may have lost
//! of the writes that were not flushed.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use super::history::{History, Piece, Step};

const SECTOR: usize = 512;
const BLOCK: usize = 4096;
/// Bytes that are copied at a time.
const STRIDE: usize = 1 << 20;

/// A history under way.
#[derive(Debug)]
pub(super) struct Replay<'h> {
    history: &'h History,
    disk: File,
    done: usize,
    /// What was written since the last flush, and what was there before.
    pending: Vec<(Piece, Vec<u8>)>,
    /// By partition: how often it was written to.
    written: Vec<u64>,
}

/// Sectors that differ from the replayed disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    sectors: BTreeMap<u64, [u8; SECTOR]>,
    /// Partitions with such sectors.
    regions: Vec<usize>,
}

impl<'h> Replay<'h> {
    /// Begins with a copy of the disk at `scratch`.
    ///
    /// # Errors
    /// As the files'.
    pub(super) fn begin(history: &'h History, scratch: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        let disk = options.read(true).write(true).create(true).truncate(true).open(scratch);
        let disk = disk.with_context(|| scratch.display().to_string())?;
        copy_sparse(&history.base, 0, history.base.metadata()?.len(), &disk)?;
        let written = vec![0; history.layout.regions().len()];
        Ok(Self { history, disk, done: 0, pending: Vec::new(), written })
    }

    /// Goes on until so many steps are done.
    ///
    /// # Errors
    /// As the files', and for a step that lies behind.
    pub(super) fn advance(&mut self, steps: usize) -> Result<()> {
        let ahead = steps >= self.done && steps <= self.history.steps.len();
        ensure!(ahead, "{} steps are done, {steps} can't be the next", self.done);
        for step in &self.history.steps[self.done..steps] {
            match step {
                Step::Write(piece) => {
                    let mut old = buffer(piece)?;
                    self.disk.read_exact_at(&mut old, piece.at)?;
                    match piece.data {
                        Some(_) => self.disk.write_all_at(&self.data(piece)?, piece.at)?,
                        None => {
                            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                            fallocate(&self.disk, flags, piece.at, piece.length)?;
                        }
                    }
                    if let Some(region) = piece.region {
                        self.written[region] += 1;
                    }
                    self.pending.push((*piece, old));
                }
                Step::Flush => self.pending.clear(),
                Step::Mark(_) => {}
            }
        }
        self.done = steps;
        Ok(())
    }

    /// Bytes of the disk.
    pub(super) fn length(&self) -> io::Result<u64> {
        Ok(self.disk.metadata()?.len())
    }

    pub(super) fn history(&self) -> &'h History {
        self.history
    }

    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// How often a partition was written to until now.
    pub(super) fn written(&self, region: usize) -> u64 {
        self.written[region]
    }

    /// Writes that a cut here may lose.
    pub(super) fn losable(&self) -> usize {
        self.pending.iter().filter(|(piece, _)| !piece.durable).count()
    }

    /// The disk without those of the losable writes that `keep` says no to.
    pub(super) fn losing(&self, mut keep: impl FnMut() -> bool) -> Result<Overlay> {
        let mut overlay = Overlay::default();
        for (piece, old) in self.pending.iter().rev() {
            overlay.write(piece, old);
        }
        for (piece, _) in &self.pending {
            if piece.durable || keep() {
                overlay.write(piece, &self.data(piece)?);
            }
        }
        Ok(overlay)
    }

    pub(super) fn read(&self, overlay: &Overlay, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.disk.read_exact_at(bytes, at)?;
        let end = at + bytes.len() as u64;
        // A sector that begins before may reach in.
        for (start, sector) in overlay.sectors.range(at.saturating_sub(SECTOR as u64 - 1)..end) {
            let from = at.saturating_sub(*start);
            let to = (end - start).min(SECTOR as u64);
            let (from, to) = (small(from), small(to));
            let place = small(start.saturating_sub(at));
            bytes[place..place + (to - from)].copy_from_slice(&sector[from..to]);
        }
        Ok(())
    }

    /// Copies a part of the disk to the start of another file, which is emptied before.
    pub(super) fn copy(&self, overlay: &Overlay, at: u64, length: u64, to: &File) -> Result<()> {
        to.set_len(0)?;
        copy_sparse(&self.disk, at, length, to)?;
        for (start, sector) in overlay.sectors.range(at..at + length) {
            to.write_all_at(sector, start - at)?;
        }
        Ok(())
    }

    fn data(&self, piece: &Piece) -> Result<Vec<u8>> {
        let mut bytes = buffer(piece)?;
        if let Some(data) = piece.data {
            self.history.log.read_exact_at(&mut bytes, data)?;
        }
        Ok(bytes)
    }
}

impl Overlay {
    pub(super) fn touches(&self, region: usize) -> bool {
        self.regions.contains(&region)
    }

    fn write(&mut self, piece: &Piece, bytes: &[u8]) {
        let (sectors, _) = bytes.as_chunks::<SECTOR>();
        for (at, sector) in (piece.at..).step_by(SECTOR).zip(sectors) {
            self.sectors.insert(at, *sector);
        }
        if let Some(region) = piece.region
            && !self.touches(region)
        {
            self.regions.push(region);
        }
    }
}

fn buffer(piece: &Piece) -> Result<Vec<u8>> {
    Ok(vec![0; usize::try_from(piece.length)?])
}

/// Within a sector, or within a buffer that is there.
#[expect(clippy::cast_possible_truncation, reason = "a place in a buffer, whose length is a usize")]
fn small(place: u64) -> usize {
    place as usize
}

/// Copies a part of a file to the start of another one, which is empty; zeros become holes.
///
/// # Errors
/// As the files'.
pub(super) fn copy_sparse(from: &File, at: u64, length: u64, to: &File) -> Result<()> {
    to.set_len(length)?;
    let end = at + length;
    let mut bytes = vec![0; STRIDE];
    let mut next = at;
    while next < end {
        let data = match seek(from, SeekFrom::Data(next)) {
            Ok(data) if data < end => data,
            Ok(_) | Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = seek(from, SeekFrom::Hole(data))?.min(end);
        next = data;
        while next < hole {
            let many = small((hole - next).min(STRIDE as u64));
            from.read_exact_at(&mut bytes[..many], next)?;
            for (number, block) in bytes[..many].chunks(BLOCK).enumerate() {
                if block.iter().any(|octet| *octet != 0) {
                    to.write_all_at(block, next - at + (number * BLOCK) as u64)?;
                }
            }
            next += many as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            layout::{Kind, Layout, Region},
            log::Writer,
        },
        *,
    };

    const DISK: usize = 1 << 20;
    const START: u64 = 65_536;

    /// A disk of ones; two writes, a flush, then two more, of which the second lies over the first.
    fn history(folder: &Path) -> History {
        std::fs::write(folder.join("base"), vec![1; DISK]).unwrap();
        let log = File::create(folder.join("log")).unwrap();
        let mut log = Writer::new(log).unwrap();
        log.write(START, &[2; 512]).unwrap();
        log.write(START + 4096, &[3; 4096]).unwrap();
        log.flush().unwrap();
        log.write(START, &[4; 1024]).unwrap();
        log.write(START + 512, &[5; 512]).unwrap();
        log.finish().unwrap();
        let region =
            Region { name: "data".to_owned(), start: START, length: 65_536, kind: Kind::Data };
        let layout = Layout::new(vec![region]).unwrap();
        History::read(&folder.join("base"), &folder.join("log"), layout).unwrap()
    }

    fn firsts(replay: &Replay<'_>, overlay: &Overlay) -> [u8; 3] {
        [0, 512, 4096].map(|at| {
            let mut octet = [0];
            replay.read(overlay, START + at, &mut octet).unwrap();
            octet[0]
        })
    }

    #[test]
    fn each_step_changes_what_it_wrote_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let history = history(folder.path());
        let mut replay = Replay::begin(&history, &folder.path().join("scratch")).unwrap();
        let mut seen = Vec::new();
        for steps in 0..=5 {
            replay.advance(steps).unwrap();
            seen.push(firsts(&replay, &Overlay::default()));
        }
        let wanted = [[1, 1, 1], [2, 1, 1], [2, 1, 3], [2, 1, 3], [4, 4, 3], [4, 5, 3]];
        assert_eq!(seen, wanted);
        assert!(replay.advance(4).is_err());
        assert!(replay.advance(6).is_err());
    }

    #[test]
    fn only_what_was_not_flushed_can_be_lost_and_in_any_combination() {
        let folder = tempfile::tempdir().unwrap();
        let history = history(folder.path());
        let mut replay = Replay::begin(&history, &folder.path().join("scratch")).unwrap();
        replay.advance(5).unwrap();
        assert_eq!(replay.losable(), 2);
        for (kept, wanted) in [
            ([false, false], [2, 1, 3]),
            ([true, false], [4, 4, 3]),
            ([false, true], [2, 5, 3]),
            ([true, true], [4, 5, 3]),
        ] {
            let mut kept = kept.into_iter();
            let overlay = replay.losing(|| kept.next().unwrap()).unwrap();
            assert!(overlay.touches(0));
            assert_eq!(firsts(&replay, &overlay), wanted);
            // The copy of the partition says the same as reading does, also across the borders of sectors.
            let copied = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(folder.path().join("copy"))
                .unwrap();
            replay.copy(&overlay, START, 65_536, &copied).unwrap();
            let (mut there, mut here) = (vec![0; 5000], vec![0; 5000]);
            copied.read_exact_at(&mut there, 100).unwrap();
            replay.read(&overlay, START + 100, &mut here).unwrap();
            assert_eq!(there, here);
            assert_eq!(copied.metadata().unwrap().len(), 65_536);
        }
    }

    #[test]
    fn zeros_become_holes_when_a_disk_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let mut bytes = vec![0; 3 << 20];
        bytes[1_500_000] = 7;
        std::fs::write(&from, &bytes).unwrap();
        let to_file = File::create(&to).unwrap();
        copy_sparse(&File::open(&from).unwrap(), 0, bytes.len() as u64, &to_file).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), bytes);
        let stored = std::os::unix::fs::MetadataExt::blocks(&to_file.metadata().unwrap());
        assert!(stored <= 64, "{stored} sectors are stored");
    }
}

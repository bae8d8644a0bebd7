//! Cuts the power at every place a history names, and looks at each disk.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{
    ext4,
    history::History,
    replay::{Overlay, Replay},
};

/// Faults that are described; after so many more of them teach nothing.
const FAULTS_MAX: usize = 1000;
/// Memory, where there is some: a check copies and rewrites files all the time.
const SCRATCH: &str = "/dev/shm";

/// How thoroughly to cut.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// At every cut that may lose writes, so often a random part of them is lost.
    pub losses: u32,
    /// For the same parts again.
    pub seed: u64,
    /// Only every so manyth cut is made, for a first look. 1: all of them.
    pub every: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self { losses: 1, seed: 1, every: 1 }
    }
}

/// What came out.
#[derive(Debug, Default)]
pub struct Report {
    /// Cuts in order.
    pub cuts: usize,
    /// Cuts that lost something that was not flushed.
    pub losses: usize,
    pub faults: Vec<Fault>,
    pub took: Duration,
}

/// A cut after which something is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// So many steps of the history were done.
    pub steps: usize,
    /// Which loss of unflushed writes it was, if one.
    pub loss: Option<u32>,
    pub text: String,
}

/// A disk after a cut, to be looked at.
#[derive(Debug)]
pub struct Cut<'r, 'h> {
    replay: &'r Replay<'h>,
    overlay: &'r Overlay,
    loss: Option<u32>,
    known: &'r mut Known,
}

/// What was found out about partitions that have not changed since.
#[derive(Debug)]
struct Known {
    scratch: TempDir,
    /// Partition and the count of its writes, and its files or why there are none.
    files: HashMap<usize, (u64, Result<PathBuf, String>)>,
    hashes: HashMap<(usize, u64), (u64, [u8; 32])>,
}

/// Makes the cuts of a history, and hands each of them to `check`; what that calls an error is a fault.
///
/// # Errors
/// Where the history can't be replayed. Faults are no errors.
pub fn run(
    history: &History,
    plan: Plan,
    mut check: impl FnMut(&mut Cut<'_, '_>) -> Result<()>,
) -> Result<Report> {
    let began = daemon::clock::now();
    let scratch = scratch()?;
    let mut replay = Replay::begin(history, &scratch.path().join("disk"))?;
    let mut known = Known { scratch, files: HashMap::new(), hashes: HashMap::new() };
    let mut report = Report::default();
    for steps in history.cuts().iter().step_by(plan.every.max(1)) {
        replay.advance(*steps)?;
        let whole = Overlay::default();
        let mut cut = Cut { replay: &replay, overlay: &whole, loss: None, known: &mut known };
        report.cuts += 1;
        report.note(&cut.at(), check(&mut cut));
        let losses = if replay.losable() > 0 { plan.losses } else { 0 };
        for loss in 0..losses {
            let overlay = replay.losing(chance(plan.seed, *steps, loss))?;
            let loss = Some(loss);
            let mut cut = Cut { replay: &replay, overlay: &overlay, loss, known: &mut known };
            report.losses += 1;
            report.note(&cut.at(), check(&mut cut));
        }
    }
    report.took = Duration::from_nanos(daemon::clock::now().0 - began.0);
    Ok(report)
}

impl Report {
    fn note(&mut self, at: &Fault, checked: Result<()>) {
        if let Err(error) = checked
            && self.faults.len() < FAULTS_MAX
        {
            self.faults.push(Fault { text: format!("{error:#}"), ..at.clone() });
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, into: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = u32::try_from((self.cuts + self.losses).max(1)).unwrap_or(u32::MAX);
        write!(
            into,
            "{} cuts in order and {} with losses in {:.1} s ({:.1} ms each), {} faults",
            self.cuts,
            self.losses,
            self.took.as_secs_f64(),
            (self.took / all).as_secs_f64() * 1000.0,
            self.faults.len(),
        )?;
        self.faults.iter().take(10).try_for_each(|fault| write!(into, "\n{fault}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, into: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(into, "after {} steps", self.steps)?;
        if let Some(loss) = self.loss {
            write!(into, ", loss {loss}")?;
        }
        write!(into, ": {}", self.text)
    }
}

impl Cut<'_, '_> {
    fn at(&self) -> Fault {
        Fault { steps: self.steps(), loss: self.loss, text: String::new() }
    }

    /// So many steps of the history were done.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.replay.done()
    }

    /// What the guest had said by then, the oldest first.
    pub fn marks(&self) -> impl Iterator<Item = &str> {
        let done = self.steps();
        self.replay.history().marks().take_while(move |(at, _)| *at <= done).map(|(_, text)| text)
    }

    /// Whether the guest has said this by now.
    #[must_use]
    pub fn said(&self, mark: &str) -> bool {
        self.marks().any(|known| known == mark)
    }

    /// Reads a partition.
    ///
    /// # Errors
    /// There is no such partition, or it is shorter.
    pub fn read(&self, partition: &str, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let region = self.replay.history().layout.region(partition)?;
        let end = u64::try_from(bytes.len()).ok().and_then(|length| length.checked_add(offset));
        let inside = end.is_some_and(|end| end <= region.length);
        anyhow::ensure!(inside, "{partition} has {} bytes only", region.length);
        Ok(self.replay.read(self.overlay, region.start + offset, bytes)?)
    }

    /// SHA-256 of the first so many bytes of a partition.
    ///
    /// # Errors
    /// As [`Cut::read`].
    pub fn hash(&mut self, partition: &str, size: u64) -> Result<[u8; 32]> {
        let number = self.replay.history().layout.number(partition)?;
        let version = self.version(number);
        if let (Some(version), Some((known, hash))) =
            (version, self.known.hashes.get(&(number, size)))
            && *known == version
        {
            return Ok(*hash);
        }
        let mut sum = Sha256::new();
        let mut bytes = vec![0; 1 << 20];
        let mut at = 0;
        while at < size {
            let many = usize::try_from((size - at).min(1 << 20)).unwrap_or(bytes.len());
            self.read(partition, at, &mut bytes[..many])?;
            sum.update(&bytes[..many]);
            at += many as u64;
        }
        let hash = sum.finalize().into();
        if let Some(version) = version {
            self.known.hashes.insert((number, size), (version, hash));
        }
        Ok(hash)
    }

    /// The files of an ext4 partition, after the recovery that a device would do, in a folder that the next cut uses again.
    ///
    /// # Errors
    /// What is wrong with the file system.
    pub fn files(&mut self, partition: &str) -> Result<PathBuf> {
        let number = self.replay.history().layout.number(partition)?;
        let version = self.version(number);
        if let (Some(version), Some((known, files))) = (version, self.known.files.get(&number))
            && *known == version
        {
            return files.clone().map_err(|text| anyhow!(text));
        }
        self.known.files.remove(&number);
        let files = self.recover(partition, number);
        if let Some(version) = version {
            let kept = files.as_ref().map(Clone::clone).map_err(|error| format!("{error:#}"));
            self.known.files.insert(number, (version, kept));
        }
        files
    }

    fn recover(&self, partition: &str, number: usize) -> Result<PathBuf> {
        let region = self.replay.history().layout.region(partition)?;
        let place = |what: &str| self.known.scratch.path().join(format!("{number}.{what}"));
        let (image, tree) = (place("ext4"), place("files"));
        let to = File::options().read(true).write(true).create(true).truncate(true).open(&image)?;
        self.replay.copy(self.overlay, region.start, region.length, &to)?;
        ext4::recover(&image).with_context(|| partition.to_owned())?;
        ext4::dump(&image, &tree).with_context(|| partition.to_owned())?;
        Ok(tree)
    }

    /// How often a partition was written to; none where a loss makes it one of a kind.
    fn version(&self, region: usize) -> Option<u64> {
        (!self.overlay.touches(region)).then(|| self.replay.written(region))
    }

    /// Writes the whole disk to a file, to boot from.
    ///
    /// # Errors
    /// As the file's.
    pub fn save(&self, path: &Path) -> Result<()> {
        let to = File::create(path).with_context(|| path.display().to_string())?;
        self.replay.copy(self.overlay, 0, self.replay.length()?, &to)
    }
}

fn scratch() -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("vestal-cuts");
    let made = match Path::new(SCRATCH).is_dir() {
        true => builder.tempdir_in(SCRATCH),
        false => builder.tempdir(),
    };
    made.context("a folder for the disks that are cut")
}

/// Says of one write after the other whether it is kept: of each loss its own share, from an eighth to seven.
fn chance(seed: u64, steps: usize, loss: u32) -> impl FnMut() -> bool {
    let mut state = seed ^ (steps as u64) << 20 ^ u64::from(loss) << 52;
    // Splitmix64.
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    let share = next() % 7 + 1;
    move || next() % 8 < share
}

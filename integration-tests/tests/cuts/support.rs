//! A guest whose disk is recorded, what it says while it writes, and which of its cuts are made and booted.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use testkit::{
    cuts::{self, Cut, History, Layout, MARK_SECTOR, Plan, Report},
    machine::{Image, Machine, Setup},
};

/// Cuts of one history in order, and as many with losses, where it has more and `VESTAL_FULL` doesn't ask for all.
const CUTS: usize = 250;
/// Everything that the boot wanted is there.
pub(crate) const ALL_READY: &str = "vestalctl --json boot blame | grep -q all_ready_ms";

pub(crate) fn is_full() -> bool {
    std::env::var_os("VESTAL_FULL").is_some()
}

/// The image under test, started at the kernel, its disk recorded.
pub(crate) fn recorded() -> Option<(Image, Machine)> {
    let image = Image::from_env("VESTAL_IMAGE")?;
    let machine = Setup::direct(&image).disk(cuts::record).start();
    machine.until_lab();
    Some((image, machine))
}

/// Words for the guest's shell: `mark` says something to the test, exactly here.
pub(crate) fn mark_defined() -> String {
    format!(
        "mark() {{ printf 'MARK %s\\n' \"$1\" | dd of=/dev/vda bs=512 seek={MARK_SECTOR} conv=sync,notrunc 2>/dev/null; \
         blockdev --flushbufs /dev/vda; }}; "
    )
}

/// Runs a command in the guest, which then says that this is done.
#[track_caller]
pub(crate) fn done(machine: &Machine, command: &str, mark: &str) -> String {
    machine.ok(&format!("{}set -e; {command}\nmark '{mark}'", mark_defined()))
}

/// Reads what a guest that is off did. All of that together must give the disk that it left.
pub(crate) fn history(image: &Image, machine: &Machine) -> History {
    let layout = Layout::of_image(&image.path("image.json")).unwrap();
    let history = cuts::recorded(machine.folder(), layout).unwrap();
    let replayed = machine.folder().join("replayed.img");
    history.replay(&replayed).unwrap();
    for name in [
        "env", "boot-a", "boot-b", "kernel-a", "kernel-b", "rootfs-a", "rootfs-b", "record", "data",
    ] {
        let [left, again] =
            [machine.disk(), replayed.clone()].map(|disk| image.read_partition(&disk, name));
        assert!(left == again, "{name} is not what was written to it");
    }
    fs::remove_file(replayed).unwrap();
    history
}

/// Makes the cuts, and says what came of them.
pub(crate) fn cut(history: &History, check: impl FnMut(&mut Cut<'_, '_>) -> Result<()>) -> Report {
    let (writes, flushes) = history.counts();
    let every = if is_full() { 1 } else { history.cuts().len() / CUTS + 1 };
    let report = cuts::run(history, Plan { every, ..Plan::default() }, check).unwrap();
    let of = history.cuts().len();
    eprintln!(
        "{writes} pieces written, {flushes} flushes, {of} places to cut, each {every}. tried: {report}"
    );
    report
}

/// The last number that the guest said about this.
pub(crate) fn said(cut: &Cut<'_, '_>, what: &str) -> Option<usize> {
    let number = |mark: &str| mark.strip_prefix(what)?.strip_prefix(' ')?.parse().ok();
    cut.marks().filter_map(number).last()
}

/// The file has a version, and one that is no older than what the guest said it had made safe as `name`.
pub(crate) fn is_whole<V: AsRef<[u8]>>(
    cut: &Cut<'_, '_>,
    path: &Path,
    name: &str,
    versions: &[V],
) -> Result<()> {
    let found = cuts::state::version(path, versions)?;
    let Some(safe) = said(cut, name) else { return Ok(()) };
    let found = found.with_context(|| format!("{name} is gone; version {safe} was safe"))?;
    ensure!(found >= safe, "{name} has version {found}; {safe} was safe");
    Ok(())
}

/// Disks of a few cuts, to be booted afterwards.
pub(crate) struct Sample<T> {
    folder: tempfile::TempDir,
    /// Of so many disks that were looked at, one is kept.
    every: usize,
    seen: usize,
    /// Each with what was found on it.
    kept: Vec<(PathBuf, T)>,
}

impl<T> Sample<T> {
    /// About so many, evenly from all that will be looked at.
    pub(crate) fn of(history: &History, many: usize) -> Self {
        let cuts = history.cuts().len();
        let tried = if is_full() { cuts } else { cuts.min(CUTS) };
        let folder = tempfile::Builder::new().prefix("vestal-sample").tempdir().unwrap();
        // In order, and with losses.
        Self { folder, every: (2 * tried / many).max(1), seen: 0, kept: Vec::new() }
    }

    pub(crate) fn look(&mut self, cut: &Cut<'_, '_>, found: T) -> Result<()> {
        self.seen += 1;
        if self.seen % self.every == self.every / 2 {
            let disk = self.folder.path().join(format!("{}.img", self.seen));
            cut.save(&disk)?;
            self.kept.push((disk, found));
        }
        Ok(())
    }

    /// The disks, each with what was found on it.
    pub(crate) fn kept(&self) -> &[(PathBuf, T)] {
        &self.kept
    }
}

//! A disk whose every write is recorded while QEMU runs a guest on it.

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{history::History, layout::Layout, replay::copy_sparse};

/// Most bytes of a log. It is a hole until it is written.
const LOG_MAX: u64 = 8 << 30;
const BASE: &str = "base.img";
const LOG: &str = "writes.log";

/// QEMU's words for a disk that is recorded into `folder`, for [`Setup::disk`](crate::machine::Setup::disk): a virtio disk whose
/// cache the guest has to flush. The guest must end in order (or flush) before the log is read: QEMU counts its entries at flushes.
///
/// # Panics
/// Where the folder does not take a copy of the disk.
#[must_use]
pub fn record(disk: &Path, folder: &Path) -> Vec<OsString> {
    let log = folder.join(LOG);
    prepare(disk, &folder.join(BASE), &log).expect("the scratch folder is ours");
    let file = |path: &Path, name: &str| {
        // A comma in a name is written twice.
        let path = path.display().to_string().replace(',', ",,");
        format!("driver=file,filename={path},node-name={name},cache.no-flush=on")
    };
    [
        "-blockdev",
        &file(disk, "cuts-disk"),
        "-blockdev",
        "driver=raw,file=cuts-disk,node-name=cuts-raw",
        "-blockdev",
        &file(&log, "cuts-log"),
        "-blockdev",
        "driver=blklogwrites,file=cuts-raw,log=cuts-log,log-sector-size=512,node-name=cuts",
        "-device",
        "virtio-blk-pci,drive=cuts,romfile=,write-cache=on",
    ]
    .map(OsString::from)
    .to_vec()
}

fn prepare(disk: &Path, base: &Path, log: &Path) -> Result<()> {
    let named = |path: &Path| path.display().to_string();
    let from = File::open(disk).with_context(|| named(disk))?;
    let to = File::create(base).with_context(|| named(base))?;
    copy_sparse(&from, 0, from.metadata()?.len(), &to)?;
    Ok(File::create(log).with_context(|| named(log))?.set_len(LOG_MAX)?)
}

/// What was recorded into this folder. The folder may be deleted then.
///
/// # Errors
/// As [`History::read`].
pub fn recorded(folder: &Path, layout: Layout) -> Result<History> {
    let path = |name: &str| -> PathBuf { folder.join(name) };
    History::read(&path(BASE), &path(LOG), layout)
}

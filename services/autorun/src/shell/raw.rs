//! Raw devices, past every cache: the journal's two slots, and superblocks. Never creates what isn't there.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

use crate::{
    journal::{Block, Disk, RECORD},
    settings::Place,
};

/// Memory that begins where O_DIRECT wants it to begin.
#[repr(C, align(4096))]
struct Aligned(Block);

/// The place of a journal.
pub(super) struct Slots {
    file: File,
    offset: u64,
}

impl Slots {
    pub(super) fn open(path: &Path, place: &Place) -> Result<Self, String> {
        let told = |error: io::Error| format!("journal {}: {error}", place.path.display());
        Ok(Self { file: open(path, true).map_err(told)?, offset: place.offset })
    }
}

impl Disk for Slots {
    type Error = io::Error;

    fn read(&mut self, slot: u64) -> io::Result<Box<Block>> {
        let at = self.offset + slot * RECORD as u64;
        read(&self.file, at)
    }

    fn write(&mut self, slot: u64, block: &Block) -> io::Result<()> {
        let aligned = Box::new(Aligned(*block));
        self.file.write_all_at(&aligned.0, self.offset + slot * RECORD as u64)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// The first block of a device, as it is there and not in a cache: it has the superblocks of ext4, FAT, squashfs and others.
pub(super) fn superblock(path: &Path) -> io::Result<Box<Block>> {
    read(&open(path, false)?, 0)
}

fn read(file: &File, at: u64) -> io::Result<Box<Block>> {
    let mut aligned = Box::new(Aligned([0; RECORD]));
    file.read_exact_at(&mut aligned.0, at)?;
    Ok(Box::new(aligned.0))
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    let flags = OFlags::DIRECT | OFlags::NONBLOCK | OFlags::NOCTTY;
    let with = |flags: OFlags| {
        let flags = flags.bits().cast_signed();
        OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)
    };
    let file = match with(flags) {
        // A file system that knows no O_DIRECT; a device never says so.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => with(flags - OFlags::DIRECT)?,
        opened => opened?,
    };
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_block_device() || kind.is_char_device() {
        return Ok(file);
    }
    Err(io::Error::other("neither a device nor a file"))
}

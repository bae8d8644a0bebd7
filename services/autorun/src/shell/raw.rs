//! Raw devices, past every cache: the journal's two slots, superblocks, and the device of an image. Never creates what isn't there.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek as _},
    os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

use crate::{
    image::{Heads, STREAM, room},
    journal::{Block, Disk, RECORD},
    settings::Place,
};

/// Memory that begins where O_DIRECT wants it to begin.
#[repr(C, align(4096))]
struct Aligned(Block);

/// Two blocks: the place of a journal, or of the heads of an image.
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

/// The device of an image.
pub(super) struct ImageDevice {
    file: File,
    /// Octets that a stream may have.
    pub(super) room: u64,
}

impl ImageDevice {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = open(path, true)?;
        // The length that a block device's metadata gives is 0.
        let size = file.seek(io::SeekFrom::End(0))?;
        Ok(Self { file, room: room(size) })
    }

    pub(super) fn heads(&self) -> io::Result<Heads<Slots>> {
        let slots = Slots { file: self.file.try_clone()?, offset: 0 };
        Ok(Heads::new(slots, self.room))
    }

    /// A part of the stream; both are whole blocks, and of memory that is a [`Chunk`]'s.
    pub(super) fn write_stream(&self, part: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(part, STREAM + at)
    }

    pub(super) fn read_stream(&self, part: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(part, STREAM + at)
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// So much of a stream is read and written at a time.
pub(super) const CHUNK: usize = 1 << 20;

/// Memory for a part of a stream, which begins where O_DIRECT wants it to begin.
pub(super) struct Chunk {
    memory: Vec<u8>,
    start: usize,
}

impl Chunk {
    pub(super) fn new() -> Self {
        let memory = vec![0; CHUNK + RECORD];
        let start = memory.as_ptr().align_offset(RECORD);
        Self { memory, start }
    }

    pub(super) fn octets(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + CHUNK]
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

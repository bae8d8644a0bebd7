//! What the engine knows of storage: a [`Disk`] for a slot or a record, a [`Store`] for small files. The real ones are the
//! shell's; the simulated ones cut the power at every operation.

use std::io;

/// Where a write begins and how long it is, wherever the image allows: what O_DIRECT asks for.
pub(crate) const BLOCK: usize = 4096;

/// A row of bytes that keeps what was flushed. Opened by whoever made it, exclusively where it is written.
///
/// Offsets and lengths of writes are whole blocks of [`BLOCK`], but for the end of a disk whose length is none.
pub(crate) trait Disk {
    /// Bytes that fit.
    fn len(&self) -> u64;
    /// Reads what was last written, flushed or not; may return fewer bytes than there is room for, and none only at the end.
    ///
    /// # Errors
    /// As pread(2).
    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// May take fewer bytes than it was given. Nothing is certain of them before a [`flush`](Self::flush).
    ///
    /// # Errors
    /// As pwrite(2).
    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<usize>;
    /// When this returns, everything that was written survives a loss of power. After an error nothing of it is certain, and
    /// a second flush makes it no better.
    ///
    /// # Errors
    /// As fsync(2).
    fn flush(&mut self) -> io::Result<()>;
}

/// Small files in the state directory, each replaced whole: write, fsync, rename, fsync of the folder.
pub(crate) trait Store {
    /// The file, or nothing where there is none.
    ///
    /// # Errors
    /// As read(2), and where it is longer than `limit`.
    fn read(&mut self, name: &str, limit: usize) -> io::Result<Option<Vec<u8>>>;
    /// When this returns, the new bytes survive a loss of power; after an error, or without power, it is the old ones or the
    /// new ones.
    ///
    /// # Errors
    /// As write(2), above all for want of space.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Takes the file away, if there is one.
    ///
    /// # Errors
    /// As unlink(2).
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// Fills all of `buffer`.
pub(crate) fn read_exact(disk: &mut dyn Disk, at: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match disk.read_at(at + done as u64, &mut buffer[done..]) {
            Ok(0) => {
                let end = at + done as u64;
                return Err(io::Error::other(format!("ends at byte {end} while it is read")));
            }
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `data`, however little the disk takes at once.
pub(crate) fn write_all(disk: &mut dyn Disk, at: u64, data: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < data.len() {
        match disk.write_at(at + done as u64, &data[done..]) {
            Ok(0) => {
                let end = at + done as u64;
                return Err(io::Error::other(format!("takes no more at byte {end}")));
            }
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Memory that begins where O_DIRECT wants it to begin.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    skip: usize,
    length: usize,
}

impl Buffer {
    pub(crate) fn new(length: usize) -> Self {
        let bytes = vec![0; length + BLOCK];
        // Where it can't be aligned, O_DIRECT refuses it, and the shell's disk takes another way.
        let skip = bytes.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { bytes, skip, length }
    }

    pub(crate) fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.skip..self.skip + self.length]
    }
}

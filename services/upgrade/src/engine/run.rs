//! Gathers what is written to a slot into long runs of whole blocks. What a block also holds outside of a run is read first and
//! written again as it was, so a torn write changes nothing of it.

use std::io;

use crate::disk::{BLOCK, Buffer, Disk, read_exact, write_all};

/// One run, and the buffer that it is gathered in.
pub(crate) struct Run {
    /// Its last part, from a block's beginning; the rest of it is written already.
    buffer: Buffer,
    /// Bytes of `buffer` that are in use.
    filled: usize,
    /// Bytes of a write.
    length: usize,
    /// Where on the disk the buffer belongs; whole blocks.
    base: u64,
    /// Bytes that were handed to the disk since the last [`take_written`](Self::take_written).
    written: u64,
}

impl Run {
    /// `length` bytes make a write; whole blocks.
    pub(crate) fn new(length: usize) -> Self {
        let length = length.next_multiple_of(BLOCK).max(BLOCK);
        Self { buffer: Buffer::new(length), filled: 0, length, base: 0, written: 0 }
    }

    /// Puts `data` at `at`. What does not follow what was put last begins another run.
    pub(crate) fn put(&mut self, disk: &mut dyn Disk, at: u64, mut data: &[u8]) -> io::Result<()> {
        if self.filled == 0 || at != self.base + self.filled as u64 {
            self.spill(disk)?;
            self.begin(disk, at)?;
        }
        while !data.is_empty() {
            let room = self.length - self.filled;
            let (now, later) = data.split_at(room.min(data.len()));
            self.buffer.get()[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            data = later;
            if self.filled == self.length {
                self.write(disk)?;
            }
        }
        Ok(())
    }

    /// Zeros from `at` on.
    pub(crate) fn put_zeros(
        &mut self,
        disk: &mut dyn Disk,
        mut at: u64,
        mut count: usize,
    ) -> io::Result<()> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        while count > 0 {
            let now = count.min(BLOCK);
            self.put(disk, at, &ZEROS[..now])?;
            at += now as u64;
            count -= now;
        }
        Ok(())
    }

    /// Hands everything to the disk; a flush makes it durable.
    pub(crate) fn spill(&mut self, disk: &mut dyn Disk) -> io::Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let end = self.base + self.filled as u64;
        let whole = end.next_multiple_of(BLOCK as u64).min(disk.len());
        let rest = usize::try_from(whole.saturating_sub(end)).unwrap_or(0);
        read_exact(disk, end, &mut self.buffer.get()[self.filled..self.filled + rest])?;
        self.filled += rest;
        self.write(disk)?;
        self.filled = 0;
        Ok(())
    }

    pub(crate) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    fn begin(&mut self, disk: &mut dyn Disk, at: u64) -> io::Result<()> {
        let inside = usize::try_from(at % BLOCK as u64).unwrap_or(0);
        self.base = at - inside as u64;
        read_exact(disk, self.base, &mut self.buffer.get()[..inside])?;
        self.filled = inside;
        Ok(())
    }

    fn write(&mut self, disk: &mut dyn Disk) -> io::Result<()> {
        let data = &self.buffer.get()[..self.filled];
        write_all(disk, self.base, data)?;
        self.written += data.len() as u64;
        self.base += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}

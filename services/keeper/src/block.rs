//! The blocks of a re-executed keeper's state: fields of fixed width, one after the other, and the sum over them all.

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use protocol::time::Moment;

pub(crate) const BLOCK: usize = 256;

/// Writes one block's fields from left to right.
pub(crate) struct Block {
    pub(crate) bytes: [u8; BLOCK],
    at: usize,
}

impl Block {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; BLOCK], at: 0 }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    pub(crate) fn number(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    pub(crate) fn small(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    pub(crate) fn fd(&mut self, fd: Option<&OwnedFd>) -> &mut Self {
        self.put(&fd.map_or(-1, |fd| fd.as_raw_fd()).to_le_bytes())
    }

    /// Time 0 was at boot: nothing is due then.
    pub(crate) fn moment(&mut self, moment: Option<Moment>) -> &mut Self {
        self.number(moment.map_or(0, |moment| moment.0.max(1)))
    }
}

/// Reads one block's fields from left to right. Blocks have their full size, and no reader reads more than was written.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(crate) fn small(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn fd(&mut self) -> Option<RawFd> {
        Some(self.small()?.cast_signed())
    }

    pub(crate) fn moment(&mut self) -> Option<Option<Moment>> {
        Some(Some(self.number()?).filter(|at| *at != 0).map(Moment))
    }
}

/// CRC-32 (IEEE), bit by bit: the state is small and written once.
pub(crate) fn crc(mut sum: u32, bytes: &[u8]) -> u32 {
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ (0xEDB8_8320 & (sum & 1).wrapping_neg());
        }
    }
    sum
}

//! Two records of 4 KiB side by side: the newer good one counts, and the other one is written. So whatever becomes of a write,
//! either the old contents are there or the new ones.
//!
//! A record, little-endian: 0 magic, 8 u64 sequence, 16 u32 length, 20 the contents, zeros, 4092 u32 CRC-32C of all before it.

use std::io;

use daemon::checksum::crc32c;

use crate::disk::{Disk, read_exact, write_all};

/// Bytes of one record.
pub(crate) const RECORD: usize = 4096;
/// Bytes of both, which is how long their disk must be.
pub(crate) const RECORDS: u64 = 2 * RECORD as u64;
/// Most bytes of contents.
pub(crate) const CONTENTS_MAX: usize = RECORD - HEAD - 4;
const HEAD: usize = 20;

/// Where the next contents go.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Records {
    /// Of the one that counts; 0: there is none.
    sequence: u64,
    /// 0 or 1: which one counts.
    current: u8,
}

impl Records {
    /// Finds the contents that count. Records that are torn, foreign or all zeros are none.
    pub(crate) fn open(
        disk: &mut dyn Disk,
        magic: &[u8; 8],
    ) -> io::Result<(Self, Option<Vec<u8>>)> {
        if disk.len() < RECORDS {
            let text = format!("{} bytes; two records need {RECORDS}", disk.len());
            return Err(io::Error::other(text));
        }
        let mut found = (Self::default(), None);
        let mut failed = None;
        for current in 0..2 {
            let read = match read(disk, current, magic) {
                // Storage that fails now and then must not bring old contents back.
                Ok(None) | Err(_) => read(disk, current, magic),
                read => read,
            };
            match read {
                Ok(Some((sequence, contents))) if sequence > found.0.sequence => {
                    found = (Self { sequence, current }, Some(contents));
                }
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            // The one that can't be read may be the newer one: what the other says is not believed.
            Some(error) => Err(error),
            None => Ok(found),
        }
    }

    /// Writes new contents over the older record, and flushes.
    ///
    /// # Errors
    /// As the disk's; the old contents then still count, or the new ones already do.
    pub(crate) fn write(
        &mut self,
        disk: &mut dyn Disk,
        magic: &[u8; 8],
        contents: &[u8],
    ) -> io::Result<()> {
        if contents.len() > CONTENTS_MAX {
            let text = format!("{} bytes; a record holds {CONTENTS_MAX}", contents.len());
            return Err(io::Error::other(text));
        }
        let next = Self { sequence: self.sequence + 1, current: 1 - self.current };
        let bytes = encode(magic, next.sequence, contents);
        write_all(disk, place(next.current), &bytes)?;
        disk.flush()?;
        *self = next;
        Ok(())
    }
}

fn read(disk: &mut dyn Disk, record: u8, magic: &[u8; 8]) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut bytes = [0; RECORD];
    read_exact(disk, place(record), &mut bytes)?;
    Ok(parse(&bytes, magic).map(|(sequence, contents)| (sequence, contents.to_vec())))
}

fn place(record: u8) -> u64 {
    u64::from(record) * RECORD as u64
}

fn encode(magic: &[u8; 8], sequence: u64, contents: &[u8]) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    bytes[..8].copy_from_slice(magic);
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    let length = u32::try_from(contents.len()).expect("contents are shorter than a record");
    bytes[16..HEAD].copy_from_slice(&length.to_le_bytes());
    bytes[HEAD..HEAD + contents.len()].copy_from_slice(contents);
    let crc = crc32c(&bytes[..RECORD - 4]);
    bytes[RECORD - 4..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn parse<'b>(bytes: &'b [u8; RECORD], magic: &[u8; 8]) -> Option<(u64, &'b [u8])> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let crc = bytes.last_chunk::<4>()?;
    if !head.starts_with(magic) || crc32c(&bytes[..RECORD - 4]) != u32::from_le_bytes(*crc) {
        return None;
    }
    let sequence = u64::from_le_bytes(*head[8..].first_chunk()?);
    let length = usize::try_from(u32::from_le_bytes(*head[16..].first_chunk()?)).ok()?;
    Some((sequence, rest.get(..length.min(CONTENTS_MAX + 1))?)).filter(|_| length <= CONTENTS_MAX)
}

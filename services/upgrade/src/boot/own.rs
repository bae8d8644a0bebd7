//! Our own boot record: 512 octets, twice, each in a sector of its own, since a sector is written whole or not at all. The
//! valid copy with the higher sequence counts; the other one is written.
//!
//! Little-endian: 0 `VESTBOOT`, 8 u32 version = 1, 12 u32 sequence, 16 two letters in the order of boot (0: none), 18 the tries
//! that A and B have left, 20 whether A and B are known to be good, zeros, 508 u32 CRC-32C of 0 to 507.

use std::io;

use daemon::checksum::crc32c;

use crate::{
    disk::{Disk, read_exact, write_all},
    engine::{
        choice::Choice,
        contract::{BootControl, Letter},
    },
};

const MAGIC: &[u8; 8] = b"VESTBOOT";
const VERSION: u32 = 1;
/// Bytes of a copy.
const COPY: usize = 512;
/// Bytes of both, which is how long their disk must be.
pub(crate) const LENGTH: u64 = 2 * COPY as u64;
/// Where the checksum stands.
const CRC: usize = COPY - 4;

/// The record on its disk.
pub(crate) struct Own<D> {
    disk: D,
}

/// A copy that is valid.
#[derive(Clone, Copy)]
struct Copy {
    place: u64,
    sequence: u32,
    choice: Choice,
}

impl<D: Disk> Own<D> {
    pub(crate) fn new(disk: D) -> Self {
        Self { disk }
    }

    fn newest(&mut self) -> io::Result<Option<Copy>> {
        if self.disk.len() < LENGTH {
            let text = format!("a boot record needs {LENGTH} bytes, here are {}", self.disk.len());
            return Err(io::Error::other(text));
        }
        let mut newest: Option<Copy> = None;
        for place in [0, COPY as u64] {
            let mut bytes = [0; COPY];
            read_exact(&mut self.disk, place, &mut bytes)?;
            let Some((sequence, choice)) = decode(&bytes) else { continue };
            if newest.is_none_or(|known| known.sequence < sequence) {
                newest = Some(Copy { place, sequence, choice });
            }
        }
        Ok(newest)
    }
}

impl<D: Disk> BootControl for Own<D> {
    fn load(&mut self) -> io::Result<Choice> {
        let newest = self.newest()?;
        newest.map(|copy| copy.choice).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "neither copy of the boot record is valid; `vestal-upgrade boot-init` writes a new one",
            )
        })
    }

    fn store(&mut self, choice: &Choice) -> io::Result<()> {
        let (place, sequence) = match self.newest()? {
            Some(copy) => (COPY as u64 - copy.place, copy.sequence.saturating_add(1)),
            None => (0, 1),
        };
        write_all(&mut self.disk, place, &encode(sequence, choice))?;
        self.disk.flush()
    }
}

fn octet(letter: Letter) -> u8 {
    match letter {
        Letter::A => b'A',
        Letter::B => b'B',
    }
}

fn encode(sequence: u32, choice: &Choice) -> [u8; COPY] {
    let mut bytes = [0; COPY];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&sequence.to_le_bytes());
    for (at, letter) in choice.order.iter().enumerate() {
        bytes[16 + at] = letter.map_or(0, octet);
    }
    for letter in Letter::BOTH {
        let at = letter.index();
        bytes[18 + at] = u8::try_from(choice.tries[at]).unwrap_or(u8::MAX);
        bytes[20 + at] = u8::from(choice.good[at]);
    }
    let crc = crc32c(&bytes[..CRC]);
    bytes[CRC..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; COPY]) -> Option<(u32, Choice)> {
    let word = |at: usize| bytes[at..].first_chunk().copied().map(u32::from_le_bytes);
    if &bytes[..8] != MAGIC || word(8)? != VERSION || word(CRC)? != crc32c(&bytes[..CRC]) {
        return None;
    }
    let letter = |octet: u8| match octet {
        0 => Some(None),
        b'A' => Some(Some(Letter::A)),
        b'B' => Some(Some(Letter::B)),
        _ => None,
    };
    let choice = Choice {
        order: [letter(bytes[16])?, letter(bytes[17])?],
        tries: [bytes[18].into(), bytes[19].into()],
        good: [bytes[20] != 0, bytes[21] != 0],
    };
    Some((word(12)?, choice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::tests::Memory;

    const CHOICE: Choice =
        Choice { order: [Some(Letter::B), Some(Letter::A)], tries: [3, 2], good: [true, false] };

    #[test]
    fn the_record_has_the_bytes_that_are_documented() {
        let bytes = encode(7, &CHOICE);
        assert_eq!(&bytes[..22], b"VESTBOOT\x01\0\0\0\x07\0\0\0BA\x03\x02\x01\0");
        assert!(bytes[22..CRC].iter().all(|octet| *octet == 0));
        assert_eq!(bytes[CRC..], crc32c(&bytes[..CRC]).to_le_bytes());
        assert_eq!(decode(&bytes), Some((7, CHOICE)));
    }

    #[test]
    fn copies_take_turns_and_the_newer_one_counts() {
        let mut record = Own::new(Memory::zeros(1024));
        assert!(record.load().unwrap_err().to_string().contains("boot-init"));
        for tries in [3, 2, 1] {
            let choice = Choice { tries: [3, tries], ..CHOICE };
            record.store(&choice).unwrap();
            assert_eq!(record.load().unwrap(), choice);
        }
        // Where the newest copy is torn, the one before it counts.
        record.disk.bytes[100] ^= 1;
        assert_eq!(record.load().unwrap().tries, [3, 2]);
        record.store(&CHOICE).unwrap();
        assert_eq!(record.load().unwrap(), CHOICE);
    }

    #[test]
    fn every_flipped_bit_makes_a_copy_invalid() {
        let bytes = encode(7, &CHOICE);
        for bit in 0..COPY * 8 {
            let mut torn = bytes;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&torn), None, "bit {bit}");
        }
    }

    #[test]
    fn a_disk_that_is_too_short_is_refused() {
        assert!(Own::new(Memory::zeros(1023)).load().unwrap_err().to_string().contains("1024"));
    }
}

//! One head of an image's device, octet for octet. Decides nothing; believes nothing that is not whole.
//!
//! ```text
//! 0    "VAUTOIM1"                     48   SHA-256 of the stream, 32 octets
//! 8    u64 sequence                   80   u32 tries since a life was done, at most 3
//! 16   u64 length of the stream       84   u32 verdict: 0 good, 1 tried too often, 2 damaged
//! 24   zeros                          88   image id, 32 octets, as in the journal; never zeros
//!                                     4092 u32 CRC-32C of 0 to 4091
//! ```
//! All little-endian, zeros elsewhere. A head whose zeros aren't is refused: it was made by someone who keeps there what this
//! version would lose.

use std::fmt;

use daemon::checksum::crc32c;

use crate::{
    image::TRIES_MAX,
    journal::{Block, RECORD},
};

const MAGIC: &[u8; 8] = b"VAUTOIM1";
const SUM: usize = RECORD - 4;

/// What is known of an image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Head {
    pub sequence: u64,
    /// Octets of the stream.
    pub length: u64,
    pub digest: [u8; 32],
    /// How often it was resumed since one of its lives was done.
    pub tries: u32,
    pub verdict: Verdict,
    pub image: [u8; 32],
}

/// Whether an image may be resumed at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    Good,
    /// No life of it was done in all its tries.
    Tried,
    /// Its stream is not what was written.
    Damaged,
}

/// Why a block is no head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unreadable {
    /// Never written, destroyed, or something else.
    Foreign,
    /// Torn, or worn.
    Sum,
    /// Whole, but not of this version.
    Content,
    /// Whole, but of a larger device.
    Length { length: u64, room: u64 },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("no head of an image"),
            Self::Sum => f.write_str("a torn head: its checksum is wrong"),
            Self::Content => f.write_str("a head of another version"),
            Self::Length { length, room } => {
                write!(f, "a head for a stream of {length} octets where there is room for {room}")
            }
        }
    }
}

/// For a person.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("it may be resumed"),
            Self::Tried => {
                write!(f, "it was resumed {TRIES_MAX} times and no life was done; take a new one")
            }
            Self::Damaged => f.write_str("it is not what was written; take a new one"),
        }
    }
}

impl Head {
    #[must_use]
    pub fn encode(&self) -> Box<Block> {
        let mut block = Box::new([0; RECORD]);
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(8, &self.sequence.to_le_bytes());
        put(16, &self.length.to_le_bytes());
        put(48, &self.digest);
        put(80, &self.tries.to_le_bytes());
        put(84, &self.verdict.number().to_le_bytes());
        put(88, &self.image);
        let sum = crc32c(&block[..SUM]);
        block[SUM..].copy_from_slice(&sum.to_le_bytes());
        block
    }

    /// Of a device with so much room for the stream.
    ///
    /// # Errors
    /// Where the octets aren't exactly what [`Self::encode`] makes of a head, or its stream can't be there.
    pub fn decode(block: &Block, room: u64) -> Result<Self, Unreadable> {
        if !block.starts_with(MAGIC) {
            return Err(Unreadable::Foreign);
        }
        if block[SUM..] != crc32c(&block[..SUM]).to_le_bytes() {
            return Err(Unreadable::Sum);
        }
        let number = |at: usize| u32::from_le_bytes(taken(block, at));
        let head = Self {
            sequence: u64::from_le_bytes(taken(block, 8)),
            length: u64::from_le_bytes(taken(block, 16)),
            digest: taken(block, 48),
            tries: number(80),
            verdict: Verdict::of(number(84)).ok_or(Unreadable::Content)?,
            image: taken(block, 88),
        };
        let sound = head.tries <= TRIES_MAX && head.length > 0 && head.image != [0; 32];
        if !sound || *head.encode() != *block {
            return Err(Unreadable::Content);
        }
        if head.length > room {
            return Err(Unreadable::Length { length: head.length, room });
        }
        Ok(head)
    }
}

/// So many octets from there; the places are those of this file, all within a block.
fn taken<const N: usize>(block: &Block, at: usize) -> [u8; N] {
    std::array::from_fn(|index| block[at + index])
}

impl Verdict {
    const ALL: [Self; 3] = [Self::Good, Self::Tried, Self::Damaged];

    fn number(self) -> u32 {
        self as u32
    }

    fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.number() == number)
    }
}

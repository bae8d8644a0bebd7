//! One record of the journal, byte for byte. Decides nothing; believes nothing that is not whole.
//!
//! ```text
//! 0    "VAUTORN1"                 104  i64 RTC, seconds since 1970
//! 8    u64 sequence               112  u32 state: 0 cold, 1 armed, 2 woken, 3 resumed, 4 running, 5 done
//! 16   image id, 32 octets        116  u32 n, number of targets, at most 64
//! 48   u64 ordinal                120  n x { name hash, 8 octets; u32 state; i32 status }
//! 56   run id, 16 octets               state: 0 waiting, 1 started, 2 done, 3 failed, 4 timed out, 5 skipped, 6 doubtful
//! 72   seed, 32 octets            4092 u32 CRC-32C of 0 to 4091
//! ```
//! All little-endian, zeros from the last target to the sum. A record whose zeros aren't is refused: it was made by someone
//! who keeps there what this version would lose.

use std::fmt;

use daemon::checksum::crc32c;
use sha2::{Digest as _, Sha256};

/// Octets of a record, and of what is read and written at a time.
pub const RECORD: usize = 4096;
/// Targets that a record has room for by its definition.
pub const TARGETS_MAX: usize = 64;

const MAGIC: &[u8; 8] = b"VAUTORN1";
const SUM: usize = RECORD - 4;
const ENTRY: usize = 16;

pub type Block = [u8; RECORD];

/// The first eight octets of the SHA-256 of a target's name.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NameHash(pub [u8; 8]);

/// How far this life of an image is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Stage {
    #[default]
    Cold,
    /// The image is about to be written, or was.
    Armed,
    /// The call that wrote it came back; the guard hasn't passed yet. Only in `RUN_DIR/autorun/current`.
    Woken,
    /// The guard has passed and the life is counted.
    Resumed,
    Running,
    Done,
}

/// How far a target is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mark {
    #[default]
    Waiting,
    /// START without END.
    Started,
    Done,
    Failed,
    TimedOut,
    Skipped,
    Doubtful,
}

/// A target in a record.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Entry {
    pub name: NameHash,
    pub mark: Mark,
    /// The exit status, or the negative number of a signal.
    pub status: i32,
}

/// A record. An image id of zeros: no image may be resumed.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Record {
    pub sequence: u64,
    pub image: [u8; 32],
    pub ordinal: u64,
    pub run: [u8; 16],
    pub seed: [u8; 32],
    pub rtc: i64,
    pub stage: Stage,
    pub entries: Vec<Entry>,
}

/// Why a block is no record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unreadable {
    /// Never written, or something else.
    Foreign,
    /// Torn, or worn.
    Sum,
    /// Whole, but not of this version.
    Content,
}

impl NameHash {
    #[must_use]
    pub fn of(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        Self(std::array::from_fn(|at| digest[at]))
    }
}

/// The seed is a secret.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("sequence", &self.sequence)
            .field("image", &self.image[0])
            .field("ordinal", &self.ordinal)
            .field("run", &self.run[0])
            .field("rtc", &self.rtc)
            .field("stage", &self.stage)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Foreign => "no record of the autorun journal",
            Self::Sum => "a torn record: its checksum is wrong",
            Self::Content => "a record of another version",
        })
    }
}

impl Record {
    /// The first [`TARGETS_MAX`] entries are written; settings allow no more.
    #[must_use]
    pub fn encode(&self) -> Box<Block> {
        let mut block = Box::new([0; RECORD]);
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            block[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        let entries = &self.entries[..self.entries.len().min(TARGETS_MAX)];
        put(MAGIC);
        put(&self.sequence.to_le_bytes());
        put(&self.image);
        put(&self.ordinal.to_le_bytes());
        put(&self.run);
        put(&self.seed);
        put(&self.rtc.to_le_bytes());
        put(&self.stage.number().to_le_bytes());
        put(&u32::try_from(entries.len()).unwrap_or(0).to_le_bytes());
        for entry in entries {
            put(&entry.name.0);
            put(&entry.mark.number().to_le_bytes());
            put(&entry.status.to_le_bytes());
        }
        let sum = crc32c(&block[..SUM]);
        block[SUM..].copy_from_slice(&sum.to_le_bytes());
        block
    }

    /// # Errors
    /// Where the octets aren't exactly what [`Self::encode`] makes of a record.
    pub fn decode(block: &Block) -> Result<Self, Unreadable> {
        let mut reader = Reader(block);
        if reader.take::<8>()? != *MAGIC {
            return Err(Unreadable::Foreign);
        }
        if block[SUM..] != crc32c(&block[..SUM]).to_le_bytes() {
            return Err(Unreadable::Sum);
        }
        let mut record = Self {
            sequence: u64::from_le_bytes(reader.take()?),
            image: reader.take()?,
            ordinal: u64::from_le_bytes(reader.take()?),
            run: reader.take()?,
            seed: reader.take()?,
            rtc: i64::from_le_bytes(reader.take()?),
            stage: Stage::of(reader.number()?).ok_or(Unreadable::Content)?,
            entries: Vec::new(),
        };
        let count = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
        if count > TARGETS_MAX {
            return Err(Unreadable::Content);
        }
        for _ in 0..count {
            record.entries.push(Entry {
                name: NameHash(reader.take()?),
                mark: Mark::of(reader.number()?).ok_or(Unreadable::Content)?,
                status: i32::from_le_bytes(reader.take()?),
            });
        }
        let rest = reader.0.len().saturating_sub(RECORD - SUM);
        if reader.0[..rest].iter().any(|octet| *octet != 0) {
            return Err(Unreadable::Content);
        }
        Ok(record)
    }

    /// What it says of a target.
    #[must_use]
    pub fn entry(&self, name: NameHash) -> Option<Entry> {
        self.entries.iter().copied().find(|entry| entry.name == name)
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Unreadable::Content)?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u32, Unreadable> {
        self.take().map(u32::from_le_bytes)
    }
}

impl Stage {
    const ALL: [Self; 6] =
        [Self::Cold, Self::Armed, Self::Woken, Self::Resumed, Self::Running, Self::Done];

    fn number(self) -> u32 {
        self as u32
    }

    fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.number() == number)
    }
}

impl Mark {
    const ALL: [Self; 7] = [
        Self::Waiting,
        Self::Started,
        Self::Done,
        Self::Failed,
        Self::TimedOut,
        Self::Skipped,
        Self::Doubtful,
    ];

    fn number(self) -> u32 {
        self as u32
    }

    fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|mark| mark.number() == number)
    }
}

const _: () = assert!(8 + 8 + 32 + 8 + 16 + 32 + 8 + 4 + 4 + TARGETS_MAX * ENTRY <= SUM);

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The record of `golden.hex`.
    fn example() -> Record {
        let entry = |name, mark, status| Entry { name: NameHash::of(name), mark, status };
        Record {
            sequence: 0x0102_0304_0506_0708,
            image: std::array::from_fn(|at| u8::try_from(at).unwrap()),
            ordinal: 3,
            run: [0xaa; 16],
            seed: [0x55; 32],
            rtc: -2,
            stage: Stage::Running,
            entries: vec![
                entry("logo", Mark::Done, 0),
                entry("ui", Mark::Started, 0),
                entry("late", Mark::Failed, -9),
            ],
        }
    }

    prop_compose! {
        pub(crate) fn any_record()(
            sequence: u64, image: [u8; 32], ordinal: u64, run: [u8; 16], seed: [u8; 32], rtc: i64,
            stage in 0..Stage::ALL.len(),
            entries in prop::collection::vec((any::<[u8; 8]>(), 0..Mark::ALL.len(), any::<i32>()), 0..=TARGETS_MAX),
        ) -> Record {
            let entries = entries.into_iter().map(|(name, mark, status)| {
                Entry { name: NameHash(name), mark: Mark::ALL[mark], status }
            });
            let stage = Stage::ALL[stage];
            Record { sequence, image, ordinal, run, seed, rtc, stage, entries: entries.collect() }
        }
    }

    /// If this fails, do not edit `golden.hex`: devices in the field have such journals.
    #[test]
    fn the_bytes_are_those_that_devices_have() {
        let golden: Vec<u8> = include_str!("golden.hex")
            .split_whitespace()
            .map(|octet| u8::from_str_radix(octet, 16).unwrap())
            .collect();
        let (head, sum) = golden.split_at(golden.len() - 4);
        let mut block = [0; RECORD];
        block[..head.len()].copy_from_slice(head);
        block[SUM..].copy_from_slice(sum);
        assert_eq!(Record::decode(&block), Ok(example()));
        assert!(*example().encode() == block);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let block = example().encode();
        for bit in 0..RECORD * 8 {
            let mut bent = block.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&bent).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_whole_but_says_nonsense_is_refused() {
        for (at, value) in [(112, 6_u32), (116, 65), (128, 7), (168, 1), (4088, 1)] {
            let mut block = example().encode();
            block[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let sum = crc32c(&block[..SUM]);
            block[SUM..].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(Record::decode(&block), Err(Unreadable::Content), "{value} at {at}");
        }
        assert_eq!(Record::decode(&[0; RECORD]), Err(Unreadable::Foreign));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in any_record()) {
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn any_octets_are_read_without_harm(octets in prop::collection::vec(any::<u8>(), 160..400), sum: bool) {
            let mut block = [0; RECORD];
            block[..octets.len()].copy_from_slice(&octets);
            block[..8].copy_from_slice(MAGIC);
            if sum {
                let sum = crc32c(&block[..SUM]);
                block[SUM..].copy_from_slice(&sum.to_le_bytes());
            }
            if let Ok(record) = Record::decode(&block) {
                prop_assert!(*record.encode() == block);
            }
        }
    }
}

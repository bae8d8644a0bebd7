//! The log that QEMU's `blklogwrites` keeps of what a guest writes (the kernel's dm-log-writes format), read and, for tests
//! without a guest, written. Believes nothing it reads: every number is held against the log's length and the disk's.
//!
//! Little-endian, in sectors of a size that the first one names:
//!
//! ```text
//! superblock                            entry, then its data in whole sectors
//! 0   u64 0x6a736677736872              0   u64 sector
//! 8   u64 version = 1                   8   u64 sectors
//! 16  u64 entries                       16  u64 flags: 1 flush before, 2 on the disk before it is answered, 4 discard, 8 mark
//! 24  u32 bytes of a sector             24  u64 bytes of a mark's text, which stands behind this in the entry's sector
//! ```

use std::{
    io::{Read, Seek, SeekFrom, Write},
    ops::Range,
};

use anyhow::{Context as _, Result, bail, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const HEAD: usize = 32;
const SECTORS: Range<u64> = 512..65_537;
const FLUSH: u64 = 1;
const DURABLE: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// One request of the guest. All numbers are bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Entry {
    /// Where on the disk.
    pub at: u64,
    pub length: u64,
    /// Where in the log its data are; `None`: there are none, for a discard or a bare flush.
    pub data: Option<u64>,
    /// What was written before is on the disk before this begins.
    pub flush: bool,
    /// It is on the disk when the guest has its answer.
    pub durable: bool,
    pub discard: bool,
}

/// All entries of a log of a disk with so many bytes.
///
/// # Errors
/// A log that is none, or that says what can't be: the entry, the number and its limit.
pub fn read(log: &mut (impl Read + Seek), disk: u64) -> Result<Vec<Entry>> {
    let length = log.seek(SeekFrom::End(0))?;
    let numbers = head(log, 0, length).context("the log has no superblock")?;
    let [magic, version, count, sector] = numbers;
    // The fourth number of a superblock has four octets only.
    let sector = sector & u64::from(u32::MAX);
    ensure!(magic == MAGIC, "the log begins with {magic:#x}, not with {MAGIC:#x}");
    ensure!(version == VERSION, "the log has version {version}, not {VERSION}");
    let fits = SECTORS.contains(&sector) && sector.is_power_of_two();
    ensure!(fits, "the log's sectors have {sector} bytes; 512 to 65,536 and a power of two can be");
    let most = (length / sector).saturating_sub(1);
    ensure!(count <= most, "the log says it has {count} entries; its {length} bytes hold {most}");
    let mut entries = Vec::new();
    let mut at = sector;
    for number in 0..count {
        let head = head(log, at, length).with_context(|| format!("entry {number}"))?;
        let entry = entry(head, at + sector, sector, length, disk);
        let entry = entry.with_context(|| format!("entry {number}"))?;
        at += sector + entry.data.map_or(0, |_| entry.length);
        entries.push(entry);
    }
    Ok(entries)
}

/// The four numbers at `at`.
fn head(log: &mut (impl Read + Seek), at: u64, length: u64) -> Result<[u64; 4]> {
    let behind = at.checked_add(HEAD as u64).is_none_or(|end| end > length);
    ensure!(!behind, "it begins at {at}, and the log ends at {length}");
    let mut bytes = [0; HEAD];
    log.seek(SeekFrom::Start(at))?;
    log.read_exact(&mut bytes)?;
    let (numbers, _) = bytes.as_chunks::<8>();
    Ok(std::array::from_fn(|number| u64::from_le_bytes(numbers[number])))
}

fn entry(head: [u64; 4], from: u64, sector: u64, length: u64, disk: u64) -> Result<Entry> {
    let [start, sectors, flags, text] = head;
    let unknown = flags & !(FLUSH | DURABLE | DISCARD | MARK);
    ensure!(unknown == 0, "flags {flags:#x}, of which {unknown:#x} mean nothing");
    let [flush, durable, discard, mark] =
        [FLUSH, DURABLE, DISCARD, MARK].map(|flag| flags & flag != 0);
    if mark {
        let most = sector - HEAD as u64;
        ensure!(sectors == 0 && text <= most, "a mark of {sectors} sectors and {text} bytes");
        return Ok(Entry::default());
    }
    let bytes = |sectors: u64| sectors.checked_mul(sector);
    let (Some(at), Some(long)) = (bytes(start), bytes(sectors)) else {
        bail!("{sectors} sectors at {start}: no disk is so long");
    };
    let fits = at.checked_add(long).is_some_and(|end| end <= disk);
    ensure!(fits, "{sectors} sectors at {start} end behind the disk, which has {disk} bytes");
    let data = (!discard && long > 0).then_some(from);
    if data.is_some() {
        let fits = from.checked_add(long).is_some_and(|end| end <= length);
        ensure!(fits, "{long} bytes of data at {from} end behind the log, which has {length}");
    }
    Ok(Entry { at, length: long, data, flush, durable, discard })
}

/// Writes such a log, as QEMU would: for tests that have no guest.
#[derive(Debug)]
pub struct Writer<W> {
    log: W,
    entries: u64,
}

/// Bytes of a sector of the logs made here.
const SECTOR: u64 = 512;

impl<W: Write + Seek> Writer<W> {
    /// # Errors
    /// As the log's.
    pub fn new(mut log: W) -> Result<Self> {
        log.write_all(&padded([MAGIC, VERSION, 0, SECTOR]))?;
        Ok(Self { log, entries: 0 })
    }

    /// # Errors
    /// As the log's, and for what is no whole number of sectors.
    pub fn write(&mut self, at: u64, data: &[u8]) -> Result<()> {
        let long = u64::try_from(data.len())?;
        let whole = at.is_multiple_of(SECTOR) && long.is_multiple_of(SECTOR);
        ensure!(whole, "{long} bytes at {at}: write whole sectors of {SECTOR}");
        self.entry([at / SECTOR, long / SECTOR, 0, 0])?;
        Ok(self.log.write_all(data)?)
    }

    /// # Errors
    /// As the log's.
    pub fn flush(&mut self) -> Result<()> {
        self.entry([0, 0, FLUSH, 0])
    }

    fn entry(&mut self, head: [u64; 4]) -> Result<()> {
        self.entries += 1;
        Ok(self.log.write_all(&padded(head))?)
    }

    /// Writes the number of entries, and gives the log back.
    ///
    /// # Errors
    /// As the log's.
    pub fn finish(mut self) -> Result<W> {
        self.log.seek(SeekFrom::Start(0))?;
        self.log.write_all(&padded([MAGIC, VERSION, self.entries, SECTOR]))?;
        self.log.flush()?;
        Ok(self.log)
    }
}

/// A sector with these numbers at its start.
fn padded(head: [u64; 4]) -> Vec<u8> {
    let mut sector: Vec<u8> = head.iter().flat_map(|number| number.to_le_bytes()).collect();
    sector.resize(512, 0);
    sector
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    const DISK: u64 = 1 << 20;

    fn sample() -> Vec<u8> {
        let mut log = Writer::new(Cursor::new(Vec::new())).unwrap();
        log.write(1024, &[1; 1536]).unwrap();
        log.flush().unwrap();
        log.write(DISK - 512, &[2; 512]).unwrap();
        log.finish().unwrap().into_inner()
    }

    fn parse(bytes: Vec<u8>) -> Result<Vec<Entry>> {
        read(&mut Cursor::new(bytes), DISK)
    }

    /// The sample with one of its numbers replaced.
    fn with(place: usize, number: u64) -> String {
        let mut bytes = sample();
        bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
        format!("{:#}", parse(bytes).unwrap_err())
    }

    #[test]
    fn what_was_written_is_read() {
        let first = Entry { at: 1024, length: 1536, data: Some(1024), ..Entry::default() };
        let flush = Entry { flush: true, ..Entry::default() };
        let last = Entry { at: DISK - 512, length: 512, data: Some(3584), ..Entry::default() };
        assert_eq!(parse(sample()).unwrap(), [first, flush, last]);
    }

    #[test]
    fn numbers_that_cannot_be_are_refused_by_name() {
        assert!(with(0, 7).contains("begins with 0x7"));
        assert!(with(8, 2).contains("version 2"));
        assert!(with(16, 9).contains("9 entries; its 4096 bytes hold 7"));
        assert!(with(24, 513).contains("513 bytes"));
        assert!(with(24, 0).contains("0 bytes"));
        assert!(with(512, u64::MAX).contains("entry 0: 3 sectors"));
        assert!(with(512, DISK / 512 - 2).contains("end behind the disk"));
        assert!(with(520, 2048).contains("end behind the disk"));
        assert!(with(520, 100).contains("end behind the log"));
        assert!(with(528, 16).contains("flags 0x10"));
        assert!(with(528, 8).contains("a mark of 3 sectors"));
        assert!(format!("{:#}", parse(vec![0; 31]).unwrap_err()).contains("no superblock"));
    }

    #[test]
    fn discards_and_flags_are_told_apart() {
        let mut log = Writer::new(Cursor::new(Vec::new())).unwrap();
        log.entry([2, 4, DISCARD, 0]).unwrap();
        log.entry([0, 0, MARK, 480]).unwrap();
        log.entry([8, 1, FLUSH | DURABLE, 0]).unwrap();
        log.log.write_all(&[7; 512]).unwrap();
        let discard = Entry { at: 1024, length: 2048, discard: true, ..Entry::default() };
        let write = Entry {
            at: 4096,
            length: 512,
            data: Some(2048),
            flush: true,
            durable: true,
            discard: false,
        };
        let read = parse(log.finish().unwrap().into_inner()).unwrap();
        assert_eq!(read, [discard, Entry::default(), write]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_believe_what_is_not_there(
            mut bytes in prop::collection::vec(any::<u8>(), 0..4096),
            entries in 0u64..9,
        ) {
            // Past the superblock with most of them.
            for (place, number) in [(0, MAGIC), (8, VERSION), (16, entries), (24, 512)] {
                if let Some(room) = bytes.get_mut(place..place + 8) {
                    room.copy_from_slice(&number.to_le_bytes());
                }
            }
            let _ = parse(bytes);
        }

        #[test]
        fn what_a_damaged_log_still_says_lies_within_it_and_within_the_disk(
            damage in prop::collection::vec((0usize..4096, any::<u8>()), 1..9),
            length in 0usize..5000,
        ) {
            let mut bytes = sample();
            bytes.resize(length, 0);
            for (place, octet) in damage {
                if let Some(room) = bytes.get_mut(place) {
                    *room = octet;
                }
            }
            for entry in parse(bytes).unwrap_or_default() {
                prop_assert!(entry.at + entry.length <= DISK);
                prop_assert!(entry.data.is_none_or(|data| data + entry.length <= length as u64));
            }
        }
    }
}

//! Any bytes as a record of the autorun journal, and as a head of an image's device, with and without a right checksum, and as both slots
//! of either: no panic, what is read is written back as the same bytes, and after a write the newest one is the one that was written. No
//! head is believed that speaks of more than its device has room for.
#![no_main]

use std::convert::Infallible;

use libfuzzer_sys::fuzz_target;
use vestal_autorun::{
    image::{Head, Heads},
    journal::{Block, Disk, Journal, RECORD, Record},
};

/// Where the checksum of a record is.
const SUM: usize = RECORD - 4;

/// How a record of the journal begins, and a head.
const JOURNAL: &[u8; 8] = b"VAUTORN1";
const HEAD: &[u8; 8] = b"VAUTOIM1";
/// What a device has room for.
const ROOM: u64 = 1 << 32;

struct Memory([Box<Block>; 2]);

impl Disk for Memory {
    type Error = Infallible;

    fn read(&mut self, slot: u64) -> Result<Box<Block>, Infallible> {
        Ok(self.0[usize::try_from(slot).expect("there are two")].clone())
    }

    fn write(&mut self, slot: u64, block: &Block) -> Result<(), Infallible> {
        *self.0[usize::try_from(slot).expect("there are two")] = *block;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let slots = [block(first), block(second)];
    let [records, heads] =
        [JOURNAL, HEAD].map(|magic| slots.each_ref().map(|slot| whole(slot, magic)));
    for block in slots.iter().chain(&records).chain(&heads) {
        check(block);
    }
    check_journal(Memory(slots.clone()));
    check_journal(Memory([records[0].clone(), slots[1].clone()]));
    check_journal(Memory(records));
    check_heads(Memory(slots.clone()));
    check_heads(Memory([heads[0].clone(), slots[1].clone()]));
    check_heads(Memory(heads));
});

/// The bytes, as far as they go, and zeros.
fn block(bytes: &[u8]) -> Box<Block> {
    let mut block = Box::new([0; RECORD]);
    let length = bytes.len().min(RECORD);
    block[..length].copy_from_slice(&bytes[..length]);
    block
}

/// As it would be with a right beginning and a right checksum.
fn whole(block: &Block, magic: &[u8; 8]) -> Box<Block> {
    let mut block = Box::new(*block);
    block[..8].copy_from_slice(magic);
    let sum = crc32c(&block[..SUM]);
    block[SUM..].copy_from_slice(&sum.to_le_bytes());
    block
}

fn check(block: &Block) {
    if let Ok(record) = Record::decode(block) {
        assert!(*record.encode() == *block, "what is read is written back otherwise");
    }
    if let Ok(head) = Head::decode(block, ROOM) {
        assert!(*head.encode() == *block, "a head that is read is written back otherwise");
        assert!(head.length <= ROOM, "a head that is longer than its device");
    }
}

fn check_heads(memory: Memory) {
    let mut heads = Heads::new(memory, ROOM);
    let Ok(Some(found)) = heads.read() else { return };
    let next = Head { tries: 3 - found.tries, ..found.clone() };
    // Not after the last of all sequences.
    let Ok(()) = heads.write(&next) else { return };
    let read = heads.read().expect("it was just written").expect("it was just written");
    assert!(found.sequence < read.sequence, "an older one than the newest");
    assert!(read == Head { sequence: read.sequence, ..next }, "what was written is not read");
    heads.destroy().expect("memory takes everything");
    assert!(heads.read() == Ok(None), "a destroyed head is read");
}

fn check_journal(memory: Memory) {
    let mut journal = Journal::new(memory);
    let Ok(found) = journal.read() else { return };
    let mut next = found.clone().unwrap_or_default();
    next.ordinal = next.ordinal.wrapping_add(1);
    // Not after the last of all sequences.
    let Ok(sequence) = journal.write(&next) else { return };
    next.sequence = sequence;
    assert!(found.is_none_or(|found| found.sequence < sequence), "an older one than the newest");
    assert!(journal.read() == Ok(Some(next)), "what was written is not what is read");
}

/// As slow as it is simple, so that it shares no mistake with the daemon's.
fn crc32c(bytes: &[u8]) -> u32 {
    let bits =
        |sum: u32| (0..8).fold(sum, |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0x82F6_3B78 } else { 0 });
    !bytes.iter().fold(u32::MAX, |sum, byte| bits(sum ^ u32::from(*byte)))
}

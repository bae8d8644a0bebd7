//! Heads on a device: what is written is read, whatever else is there is refused, and a cut leaves the old one or the new one.

use daemon::checksum::crc32c;
use proptest::prelude::*;

use super::*;
use crate::journal::tests::Scratch;

const ROOM: u64 = 1 << 30;
const SUM: usize = RECORD - 4;

fn example() -> Head {
    Head {
        sequence: 0x0102_0304_0506_0708,
        length: 0x1122_3344,
        digest: [0xaa; 32],
        tries: 2,
        verdict: Verdict::Damaged,
        image: std::array::from_fn(|at| u8::try_from(at).unwrap()),
    }
}

fn whole(block: &mut Block) {
    let sum = crc32c(&block[..SUM]);
    block[SUM..].copy_from_slice(&sum.to_le_bytes());
}

fn fresh(tries: u32) -> Head {
    Head { sequence: 0, tries, verdict: Verdict::Good, ..example() }
}

prop_compose! {
    fn any_head()(
        sequence: u64, length in 1..=ROOM, digest: [u8; 32], tries in 0..=TRIES_MAX, verdict in 0..3_usize,
        image in any::<[u8; 32]>().prop_filter("never zeros", |image| *image != [0; 32]),
    ) -> Head {
        let verdict = [Verdict::Good, Verdict::Tried, Verdict::Damaged][verdict];
        Head { sequence, length, digest, tries, verdict, image }
    }
}

/// If this fails, do not edit it: devices in the field have such heads.
#[test]
fn the_bytes_are_those_that_devices_have() {
    let block = example().encode();
    let hex: String = block[..120].iter().map(|octet| format!("{octet:02x}")).collect();
    let ids: String = (0..32).map(|octet| format!("{octet:02x}")).collect();
    let zeros = "00".repeat(24);
    let digest = "aa".repeat(32);
    let expected = format!(
        "564155544f494d31080706050403020144332211000000\
         00{zeros}{digest}0200000002000000{ids}"
    );
    assert_eq!(hex, expected);
    assert!(block[120..SUM].iter().all(|octet| *octet == 0));
    assert_eq!(Head::decode(&block, ROOM), Ok(example()));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let block = example().encode();
    for bit in 0..RECORD * 8 {
        let mut bent = block.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        assert!(Head::decode(&bent, ROOM).is_err(), "bit {bit}");
    }
}

#[test]
fn what_is_whole_but_says_nonsense_is_refused() {
    for (at, value) in [(24, 1), (80, TRIES_MAX + 1), (84, 3), (120, 1), (4088, 1_u32)] {
        let mut block = example().encode();
        block[at..at + 4].copy_from_slice(&value.to_le_bytes());
        whole(&mut block);
        assert_eq!(Head::decode(&block, ROOM), Err(Unreadable::Content), "{value} at {at}");
    }
    for head in [Head { length: 0, ..example() }, Head { image: [0; 32], ..example() }] {
        assert_eq!(Head::decode(&head.encode(), ROOM), Err(Unreadable::Content));
    }
    assert_eq!(Head::decode(&[0; RECORD], ROOM), Err(Unreadable::Foreign));
}

#[test]
fn a_stream_that_is_longer_than_the_device_is_refused() {
    let head = Head { length: 8193, ..example() };
    let refused = Unreadable::Length { length: 8193, room: 8192 };
    assert_eq!(Head::decode(&head.encode(), room(STREAM + 8192 + 4095)), Err(refused));
    assert_eq!(room(STREAM + 8192 + 4095), 8192);
    assert_eq!(room(STREAM - 1), 0);
}

#[test]
fn the_newest_head_counts_and_a_destroyed_one_does_not() {
    let disk = Scratch::default();
    let mut heads = Heads::new(disk.clone(), ROOM);
    assert_eq!(heads.read(), Ok(None));
    for tries in (0..=TRIES_MAX).chain([0]) {
        heads.write(&fresh(tries)).unwrap();
        assert_eq!(heads.read().unwrap().map(|head| head.tries), Some(tries));
    }
    heads.destroy().unwrap();
    assert_eq!(heads.read(), Ok(None));
    assert!(disk.medium().blocks.iter().flatten().all(|octet| *octet == 0));
}

#[test]
fn a_damaged_head_without_another_one_is_told() {
    let disk = Scratch::default();
    let mut heads = Heads::new(disk.clone(), ROOM);
    heads.write(&fresh(1)).unwrap();
    disk.medium().blocks[0][20] ^= 1;
    let why = heads.read().unwrap_err();
    assert!(why.contains("slot 0") && why.contains("checksum"), "{why}");
    // An image that is written next takes its place.
    heads.write(&fresh(0)).unwrap();
    assert_eq!(heads.read().unwrap().map(|head| head.tries), Some(0));
}

/// A device that takes everything and keeps nothing.
struct Forgetful;

impl Disk for Forgetful {
    type Error = &'static str;

    fn read(&mut self, _: u64) -> Result<Box<Block>, Self::Error> {
        Ok(Box::new([0; RECORD]))
    }

    fn write(&mut self, _: u64, _: &Block) -> Result<(), Self::Error> {
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[test]
fn a_head_that_the_device_does_not_keep_is_not_believed_to_be_written() {
    let why = Heads::new(Forgetful, ROOM).write(&fresh(1)).unwrap_err();
    assert!(why.contains("does not keep"), "{why}");
}

proptest! {
    #[test]
    fn what_is_written_is_read(head in any_head()) {
        prop_assert_eq!(Head::decode(&head.encode(), ROOM), Ok(head));
    }

    #[test]
    fn any_octets_are_read_without_harm(octets in prop::collection::vec(any::<u8>(), 112..200), sum: bool) {
        let mut block = [0; RECORD];
        block[..octets.len()].copy_from_slice(&octets);
        block[..8].copy_from_slice(b"VAUTOIM1");
        if sum {
            whole(&mut block);
        }
        if let Ok(head) = Head::decode(&block, ROOM) {
            prop_assert!(*head.encode() == block);
        }
    }

    #[test]
    fn after_a_cut_the_tries_are_the_old_ones_or_the_new_ones(tries in 0..TRIES_MAX, sectors: u8) {
        let disk = Scratch::default();
        let mut heads = Heads::new(disk.clone(), ROOM);
        heads.write(&fresh(tries)).unwrap();
        disk.medium().cut = Some((0, sectors));
        let _ = heads.write(&fresh(tries + 1));
        disk.medium().dead = false;
        let found = heads.read().unwrap().expect("one of two is whole").tries;
        prop_assert!(found == tries || found == tries + 1, "{}", found);
    }
}

//! The journal on a disk whose writes are torn by sectors, at every place, in any order.

use std::{cell::RefCell, rc::Rc};

use proptest::prelude::*;

use super::{record::tests::any_record, *};

/// What a device writes at once, at the least.
const SECTOR: usize = 512;

/// A disk in memory that outlives who uses it, and loses power when it is told to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch(Rc<RefCell<Medium>>);

#[derive(Debug)]
pub(crate) struct Medium {
    pub(crate) blocks: [Block; 2],
    /// The power goes during this write from now on: a bit for each sector that reaches the medium nevertheless.
    pub(crate) cut: Option<(usize, u8)>,
    pub(crate) dead: bool,
    pub(crate) writes: usize,
}

impl Default for Medium {
    fn default() -> Self {
        Self { blocks: [[0; RECORD]; 2], cut: None, dead: false, writes: 0 }
    }
}

impl Scratch {
    pub(crate) fn medium(&self) -> std::cell::RefMut<'_, Medium> {
        self.0.borrow_mut()
    }
}

impl Disk for Scratch {
    type Error = &'static str;

    fn read(&mut self, slot: u64) -> Result<Box<Block>, Self::Error> {
        let medium = self.medium();
        if medium.dead {
            Err("no power")
        } else {
            Ok(Box::new(medium.blocks[usize::from(slot == 1)]))
        }
    }

    fn write(&mut self, slot: u64, block: &Block) -> Result<(), Self::Error> {
        let mut medium = self.medium();
        if medium.dead {
            return Err("no power");
        }
        medium.writes += 1;
        let mut arrives = u8::MAX;
        match &mut medium.cut {
            Some((0, sectors)) => {
                arrives = *sectors;
                medium.dead = true;
            }
            Some((writes, _)) => *writes -= 1,
            None => {}
        }
        let old = &mut medium.blocks[usize::from(slot == 1)];
        for (at, sector) in block.chunks_exact(SECTOR).enumerate() {
            if arrives >> at & 1 == 1 {
                old[at * SECTOR..][..SECTOR].copy_from_slice(sector);
            }
        }
        if medium.dead { Err("no power") } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        if self.medium().dead { Err("no power") } else { Ok(()) }
    }
}

#[test]
fn a_blank_device_has_no_record_and_takes_one() {
    let mut journal = Journal::new(Scratch::default());
    assert_eq!(journal.read(), Ok(None));
    assert_eq!(journal.write(&Record::default()), Ok(1));
    assert_eq!(journal.write(&Record::default()), Ok(2));
    assert_eq!(journal.read().unwrap().unwrap().sequence, 2);
}

#[test]
fn a_disk_that_can_not_be_read_is_told_from_one_that_is_blank() {
    let disk = Scratch::default();
    disk.medium().dead = true;
    let why = Journal::new(disk).read().unwrap_err();
    assert!(why.contains("slot 1 of the journal: no power"), "{why}");
}

#[test]
fn when_both_records_are_torn_it_is_said() {
    let disk = Scratch::default();
    let mut journal = Journal::new(disk.clone());
    for _ in 0..2 {
        journal.write(&Record::default()).unwrap();
    }
    for block in &mut disk.medium().blocks {
        block[100] ^= 1;
    }
    assert!(journal.read().unwrap_err().contains("torn record"));
    // It is of use again after the next write, although nobody knows the sequence any more.
    journal.write(&Record { ordinal: 7, ..Record::default() }).unwrap();
    assert_eq!(journal.read().unwrap().unwrap().ordinal, 7);
}

#[test]
fn the_highest_sequence_is_refused_and_not_wrapped() {
    let disk = Scratch::default();
    disk.medium().blocks[0] = *Record { sequence: u64::MAX, ..Record::default() }.encode();
    let why = Journal::new(disk).write(&Record::default()).unwrap_err();
    assert!(why.contains("used up"), "{why}");
}

proptest! {
    /// After a power cut during any write the journal has the record before it or the one that was written.
    #[test]
    fn a_torn_write_leaves_the_old_record_or_the_new_one(
        records in prop::collection::vec(any_record(), 2..6), cut in 0_usize..6, sectors: u8,
    ) {
        let disk = Scratch::default();
        disk.medium().cut = Some((cut, sectors));
        let mut journal = Journal::new(disk.clone());
        let plain = |record: &Record| Record { sequence: 0, ..record.clone() };
        let mut last = None;
        let mut next = None;
        for record in records.iter().map(plain) {
            match journal.write(&record) {
                Ok(_) => last = Some(record),
                Err(_) => { next = Some(record); break; }
            }
        }
        disk.medium().dead = false;
        disk.medium().cut = None;
        let found = match journal.read() {
            Ok(found) => found.as_ref().map(plain),
            // The very first record, torn, with its first sector there.
            Err(_) if last.is_none() => None,
            Err(why) => return Err(TestCaseError::fail(why)),
        };
        prop_assert!(found == last || found == next, "{:?}", found);
        // And it goes on.
        journal.write(&records[0]).unwrap();
        prop_assert_eq!(journal.read().unwrap().as_ref().map(plain), Some(plain(&records[0])));
    }
}

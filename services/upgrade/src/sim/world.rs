//! A device whose power can be cut at every operation. What was flushed is kept; of the rest any part, torn and reordered.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, ErrorKind},
    rc::Rc,
};

use super::code::Code;
use crate::disk::{Disk, Store};

/// Everything that survives a boot, and what goes wrong with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    disks: Vec<Kept>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) faults: Faults,
    /// What of the unflushed writes is kept when power is lost.
    pub(crate) keep: u64,
    pub(crate) off: bool,
    pub(crate) image: Image,
    /// What runs in somebody's memory.
    pub(crate) code: Code,
    /// What the factory installed of what is loaded was never told to the agent.
    pub(crate) untold: bool,
}

/// An image of the machine's memory, and the engine that takes it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Image {
    /// It can be resumed.
    pub(crate) valid: bool,
    /// The engine can't make it void.
    pub(crate) stuck: bool,
    /// How often the engine was told.
    pub(crate) told: u32,
}

/// What goes wrong, and when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Operations that change something, in all boots; the loader's are not counted.
    pub(crate) operations: u64,
    /// Reads, in the same way.
    pub(crate) reads: u64,
    /// The operation at which power is lost.
    pub(crate) cut_at: Option<u64>,
    /// This operation fails, once.
    pub(crate) fail_at: Option<u64>,
    /// This read fails, or where `flip` is set, comes back with a bit changed; once.
    pub(crate) fail_read_at: Option<u64>,
    pub(crate) flip: bool,
    /// A write takes at most so many bytes at once; 0: all.
    pub(crate) short: usize,
    /// A disk whose flushes do nothing: the fault that the tests must find.
    pub(crate) lying: Option<usize>,
}

#[derive(Clone, Debug)]
struct Kept {
    name: String,
    durable: Vec<u8>,
    /// What a read sees.
    seen: Vec<u8>,
    /// Since the last flush.
    pending: Vec<(usize, Vec<u8>)>,
}

/// A world that several disks share.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Rc<RefCell<World>>);

/// One disk of it.
pub(crate) struct SimDisk {
    world: Shared,
    number: usize,
    writable: bool,
    length: u64,
}

/// Its small files.
pub(crate) struct SimStore(pub(crate) Shared);

/// What becomes of an operation.
enum Fate {
    Done,
    Failed,
    /// Power is lost in the middle of it.
    Cut,
}

/// Sectors of this size are written whole or not at all.
const SECTOR: usize = 512;

impl World {
    pub(crate) fn add(&mut self, name: &str, contents: Vec<u8>) -> usize {
        let seen = contents.clone();
        self.disks.push(Kept { name: name.into(), durable: contents, seen, pending: Vec::new() });
        self.disks.len() - 1
    }

    pub(crate) fn find(&self, name: &str) -> usize {
        let found = self.disks.iter().position(|disk| disk.name == name);
        found.unwrap_or_else(|| panic!("no disk {name}"))
    }

    /// What a disk holds, flushed or not.
    pub(crate) fn seen(&self, name: &str) -> &[u8] {
        &self.disks[self.find(name)].seen
    }

    /// What becomes of unflushed writes when power is lost; then it comes on again.
    pub(crate) fn power_cycle(&mut self) {
        let mut random = Random(self.keep.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let keep = self.keep;
        for disk in &mut self.disks {
            let pending = std::mem::take(&mut disk.pending);
            let count = pending.len();
            for (number, (at, bytes)) in pending.into_iter().enumerate() {
                let kept = match keep % 8 {
                    0 => false,
                    1 => true,
                    // In order, up to somewhere; the last of them torn below.
                    2 => number <= count / 2,
                    // The other way round: reordered.
                    3 => number >= count / 2,
                    _ => random.next().is_multiple_of(2),
                };
                let torn = match keep % 8 {
                    0 | 1 => false,
                    2 => number == count / 2,
                    _ => number + 1 == count || random.next().is_multiple_of(4),
                };
                match (kept, torn) {
                    (false, _) => {}
                    (true, false) => disk.durable[at..at + bytes.len()].copy_from_slice(&bytes),
                    (true, true) => tear(&mut disk.durable, at, &bytes, keep, &mut random),
                }
            }
            disk.seen.copy_from_slice(&disk.durable);
        }
        self.off = false;
        self.code.power_cycle();
    }

    /// Somebody else changes what is loaded: all of it or nothing, whenever power is lost.
    pub(crate) fn happen(&mut self, change: impl FnOnce(&mut Code)) -> io::Result<()> {
        let fate = self.fate()?;
        let cut = matches!(fate, Fate::Cut);
        if matches!(fate, Fate::Done) || cut && self.keep % 2 == 1 {
            change(&mut self.code);
        }
        match fate {
            Fate::Done => Ok(()),
            Fate::Failed => Err(broken()),
            Fate::Cut => Err(no_power()),
        }
    }

    /// Nothing goes wrong and nothing is counted until [`go_on`](Self::go_on).
    pub(crate) fn pause(&mut self) -> Faults {
        std::mem::take(&mut self.faults)
    }

    pub(crate) fn go_on(&mut self, faults: Faults) {
        self.faults = faults;
    }

    fn fate(&mut self) -> io::Result<Fate> {
        if self.off {
            return Err(no_power());
        }
        self.faults.operations += 1;
        if self.faults.cut_at == Some(self.faults.operations) {
            self.faults.cut_at = None;
            self.off = true;
            return Ok(Fate::Cut);
        }
        if self.faults.fail_at == Some(self.faults.operations) {
            self.faults.fail_at = None;
            return Ok(Fate::Failed);
        }
        Ok(Fate::Done)
    }
}

/// Some sectors of a write, or some pages of it.
fn tear(durable: &mut [u8], at: usize, bytes: &[u8], keep: u64, random: &mut Random) {
    let unit = if keep.is_multiple_of(2) { SECTOR } else { 8 * SECTOR };
    let prefix = keep % 8 == 2;
    let half = bytes.len().div_ceil(unit) / 2;
    for (number, piece) in bytes.chunks(unit).enumerate() {
        let kept = if prefix { number < half } else { random.next().is_multiple_of(2) };
        if kept {
            let from = at + number * unit;
            durable[from..from + piece.len()].copy_from_slice(piece);
        }
    }
}

impl Shared {
    pub(crate) fn new(world: World) -> Self {
        Self(Rc::new(RefCell::new(world)))
    }

    pub(crate) fn happen(&self, change: impl FnOnce(&mut Code)) -> io::Result<()> {
        self.0.borrow_mut().happen(change)
    }

    pub(crate) fn disk(&self, name: &str, writable: bool) -> SimDisk {
        let world = self.0.borrow();
        let number = world.find(name);
        let length = world.disks[number].seen.len() as u64;
        SimDisk { world: self.clone(), number, writable, length }
    }
}

impl Disk for SimDisk {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let world = &mut *self.world.0.borrow_mut();
        if world.off {
            return Err(no_power());
        }
        world.faults.reads += 1;
        let hit = world.faults.fail_read_at == Some(world.faults.reads);
        if hit {
            world.faults.fail_read_at = None;
            if !world.faults.flip {
                return Err(broken());
            }
        }
        let seen = &world.disks[self.number].seen;
        let from = usize::try_from(at).expect("simulated disks are small").min(seen.len());
        let count = buffer.len().min(seen.len() - from);
        // Reads are short too, where writes are.
        let count = if world.faults.short > 0 { count.min(3 * world.faults.short) } else { count };
        buffer[..count].copy_from_slice(&seen[from..from + count]);
        if hit && count > 0 {
            buffer[count / 2] ^= 4;
        }
        Ok(count)
    }

    fn write_at(&mut self, at: u64, data: &[u8]) -> io::Result<usize> {
        assert!(self.writable, "a slot that was opened for reading is written");
        let world = &mut *self.world.0.borrow_mut();
        let fate = world.fate()?;
        if matches!(fate, Fate::Failed) {
            return Err(broken());
        }
        let disk = &mut world.disks[self.number];
        let booted = ["kernel-", "rootfs-", "boot-A", "boot-B"];
        let booted = booted.iter().any(|part| disk.name.starts_with(part));
        assert!(!(booted && world.image.valid), "{} is written under an image", disk.name);
        let from = usize::try_from(at).expect("simulated disks are small");
        let most = if world.faults.short > 0 { world.faults.short } else { data.len() };
        let data = &data[..data.len().min(most)];
        disk.seen[from..from + data.len()].copy_from_slice(data);
        disk.pending.push((from, data.to_vec()));
        match fate {
            Fate::Cut => Err(no_power()),
            _ => Ok(data.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let world = &mut *self.world.0.borrow_mut();
        let fate = world.fate()?;
        let lying = world.faults.lying == Some(self.number);
        let disk = &mut world.disks[self.number];
        match fate {
            Fate::Cut => Err(no_power()),
            // What was to be flushed is lost, although reads go on showing it: as Linux' page cache does.
            Fate::Failed => {
                disk.pending.clear();
                Err(broken())
            }
            Fate::Done if lying => Ok(()),
            Fate::Done => {
                for (at, bytes) in std::mem::take(&mut disk.pending) {
                    disk.durable[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                Ok(())
            }
        }
    }
}

impl Store for SimStore {
    fn read(&mut self, name: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let world = self.0.0.borrow();
        if world.off {
            return Err(no_power());
        }
        let bytes = world.files.get(name).cloned();
        match bytes.as_ref().is_some_and(|bytes| bytes.len() > limit) {
            true => Err(io::Error::other("longer than its limit")),
            false => Ok(bytes),
        }
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let world = &mut *self.0.0.borrow_mut();
        let fate = world.fate()?;
        if matches!(fate, Fate::Failed) {
            return Err(ErrorKind::StorageFull.into());
        }
        let cut = matches!(fate, Fate::Cut);
        if !cut || world.keep % 2 == 1 {
            world.files.insert(name.to_owned(), bytes.to_vec());
        }
        if cut { Err(no_power()) } else { Ok(()) }
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let world = &mut *self.0.0.borrow_mut();
        match world.fate()? {
            Fate::Done => {
                world.files.remove(name);
                Ok(())
            }
            Fate::Failed => Err(broken()),
            Fate::Cut => Err(no_power()),
        }
    }
}

fn no_power() -> io::Error {
    io::Error::new(ErrorKind::BrokenPipe, "the power is off")
}

fn broken() -> io::Error {
    io::Error::other("input/output error")
}

/// xorshift64*: the same numbers for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
}

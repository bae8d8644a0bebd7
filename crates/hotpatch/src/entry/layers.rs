//! The jumps that stand at entries now, one over the other, in all of this process. The last one written is the one that is
//! taken back first; then the bytes are those before it.

use std::{
    collections::BTreeMap,
    ops::Range,
    process::abort,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use sha2::{Digest as _, Sha256};

use super::{Room, jump};
use crate::{
    Closed, Code, Function, Refusal,
    object::COMPARED,
    text::{Text, blocked},
};

/// Most jumps over each other at one entry.
const LAYERS: usize = 16;

/// One jump, as it was written.
struct Layer {
    number: u64,
    /// What it was written over.
    before: Vec<u8>,
    target: usize,
}

/// The entry of one function.
struct Entry {
    /// The bytes that are compared, as they are now.
    now: Vec<u8>,
    layers: Vec<Layer>,
}

/// By the function's address.
static ENTRIES: Mutex<BTreeMap<usize, Entry>> = Mutex::new(BTreeMap::new());

fn entries() -> MutexGuard<'static, BTreeMap<usize, Entry>> {
    ENTRIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whatever stood in this memory is gone with it.
pub(crate) fn forget(range: &Range<usize>) {
    entries().retain(|address, _| !range.contains(address));
}

/// A jump from the entry of a function, written or not.
#[derive(Debug)]
pub(crate) struct Jump {
    function: Function,
    at: usize,
    bytes: Vec<u8>,
    target: usize,
    written: Option<u64>,
}

impl Jump {
    pub(crate) fn new(function: &Function, target: usize) -> Result<Self, Refusal> {
        let (Room::Patchable { at, length } | Room::Code { at, length }) = function.room else {
            return Err(no_room(function, "compile it with -fpatchable-function-entry=16"));
        };
        let bytes = jump(function.address.wrapping_add(at), target, length).ok_or_else(|| {
            let cure = format!("{length} bytes are free, the way is too far for a jump that fits");
            no_room(function, &cure)
        })?;
        Ok(Self { function: function.clone(), at, bytes, target, written: None })
    }

    pub(crate) fn function(&self) -> &Function {
        &self.function
    }

    pub(crate) fn is_written(&self) -> bool {
        self.written.is_some()
    }

    /// Where the jump stands.
    fn place(&self) -> usize {
        self.function.address.wrapping_add(self.at)
    }

    /// Writes the jump. Before, `prepare` is told where who takes it can go on as if it weren't there: behind it, or to
    /// where the jump below it leads.
    pub(crate) fn write(
        &mut self,
        closed: &Closed,
        prepare: impl FnOnce(usize),
    ) -> Result<(), Refusal> {
        if self.written.is_some() {
            return Ok(());
        }
        let text = Text::open().map_err(|error| blocked(&error))?;
        let change = closed.change()?;
        let mut entries = entries();
        self.refuse_circles(&entries)?;
        let known = entries.get(&self.function.address);
        if known.is_some_and(|entry| entry.layers.len() >= LAYERS) {
            return Err(no_room(
                &self.function,
                &format!("{LAYERS} jumps stand there: take some back"),
            ));
        }
        let now = self.compare(&text, known)?;
        let below = known.and_then(|entry| entry.layers.last());
        prepare(below.map_or(self.place() + self.bytes.len(), |layer| layer.target));

        let before = now[self.at..self.at + self.bytes.len()].to_vec();
        replace(&text, self.place(), &before, &self.bytes)?;
        let mut now = now;
        now[self.at..self.at + self.bytes.len()].copy_from_slice(&self.bytes);
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let entry = entries
            .entry(self.function.address)
            .or_insert_with(|| Entry { now: Vec::new(), layers: Vec::new() });
        entry.now = now;
        entry.layers.push(Layer { number, before, target: self.target });
        self.written = Some(number);
        drop(entries);
        drop(change);
        Ok(())
    }

    /// Takes the jump back. Only the last one that was written.
    pub(crate) fn take_back(&mut self, closed: &Closed) -> Result<(), Refusal> {
        let Some(number) = self.written else { return Ok(()) };
        let text = Text::open().map_err(|error| blocked(&error))?;
        let change = closed.change()?;
        let mut entries = entries();
        let known = entries.get(&self.function.address);
        let top =
            known.and_then(|entry| entry.layers.last()).filter(|layer| layer.number == number);
        let Some(top) = top else {
            return Err(
                self.differs("another jump was written over this one: take that back first")
            );
        };
        let mut now = self.compare(&text, known)?;
        replace(&text, self.place(), &self.bytes, &top.before)?;
        now[self.at..self.at + self.bytes.len()].copy_from_slice(&top.before);
        self.written = None;
        if let Some(entry) = entries.get_mut(&self.function.address) {
            entry.now = now;
            entry.layers.pop();
            if entry.layers.is_empty() {
                entries.remove(&self.function.address);
            }
        }
        drop(entries);
        drop(change);
        Ok(())
    }

    /// The bytes at the entry, which must be those of the file, or those that were written last.
    fn compare(&self, text: &Text, known: Option<&Entry>) -> Result<Vec<u8>, Refusal> {
        let length = usize::try_from(self.function.size).unwrap_or(COMPARED).min(COMPARED);
        let now = text
            .read(self.function.address, length)
            .map_err(|error| self.differs(&format!("it can't be read: {error}")))?;
        let same = match known {
            Some(entry) => entry.now == now,
            None => Sha256::digest(&now)[..] == self.function.hash,
        };
        if !same {
            return Err(
                self.differs("they aren't those of the file: somebody else writes code here")
            );
        }
        Ok(now)
    }

    /// A function that leads to another one, which leads back, would never end.
    fn refuse_circles(&self, entries: &BTreeMap<usize, Entry>) -> Result<(), Refusal> {
        let mut to = self.target;
        // No entry comes twice on the way unless there is a circle, and none was ever let in.
        for _ in 0..=entries.len() {
            if to == self.function.address {
                return Err(no_room(
                    &self.function,
                    "the jump would lead back to where it comes from",
                ));
            }
            match entries.get(&to).and_then(|entry| entry.layers.last()) {
                Some(layer) => to = layer.target,
                None => break,
            }
        }
        Ok(())
    }

    fn differs(&self, why: &str) -> Refusal {
        Refusal::new(
            Code::MemoryDiffers,
            format!("the first bytes of the function {}: {why}", self.function.name),
        )
    }
}

fn no_room(function: &Function, why: &str) -> Refusal {
    Refusal::new(
        Code::NoRoom,
        format!("no room for a jump at the function {}: {why}", function.name),
    )
}

/// Writes, or leaves everything as it was.
fn replace(text: &Text, place: usize, old: &[u8], new: &[u8]) -> Result<(), Refusal> {
    let changed = text.write(place, new).and_then(|()| Text::sync(place, new.len()));
    let Err(error) = changed else { return Ok(()) };
    let length = old.len().min(new.len());
    let is_as_before = text.read(place, length).is_ok_and(|now| now == old[..length])
        || text.write(place, &old[..length]).and_then(|()| Text::sync(place, length)).is_ok();
    if !is_as_before {
        // Half a jump can't be run, and there is nobody who could write the other half.
        abort();
    }
    Err(blocked(&error))
}

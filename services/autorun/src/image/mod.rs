//! What stands at the beginning of a device that holds an image: two heads, of which the newer whole one counts, and after them
//! the stream of `/dev/snapshot`. Says whether there is an image, whose it is, and how often it was tried. Never believes a length
//! that the device has no room for, and never that a head is written before it was read back.

mod head;

pub use self::head::{Head, Unreadable, Verdict};
use crate::journal::{Block, Disk, RECORD};

/// Where the stream begins: flash likes what is large to begin at a whole mebibyte.
pub const STREAM: u64 = 1 << 20;
/// So often an image is tried without a life that got as far as [`crate::journal::Stage::Done`]: less often than a loader tries a
/// set, which counts these as well, so that the cold boot after them is one of the same set.
pub const TRIES_MAX: u32 = 2;

const SLOTS: [u64; 2] = [0, 1];

/// Octets that a stream may have on a device of this size.
#[must_use]
pub fn room(size: u64) -> u64 {
    let rest = size.saturating_sub(STREAM);
    rest - rest % RECORD as u64
}

/// The heads on a device. Keeps nothing in memory, as an image would bring it back.
#[derive(Debug)]
pub struct Heads<D> {
    disk: D,
    room: u64,
}

impl<D: Disk> Heads<D> {
    /// On a device with so much room for a stream.
    pub fn new(disk: D, room: u64) -> Self {
        Self { disk, room }
    }

    /// The newest whole head; nothing where there is none, or only what can't be one.
    ///
    /// # Errors
    /// Where a head can't be read, or is of another version, or is damaged, and no other one is whole.
    pub fn read(&mut self) -> Result<Option<Head>, String> {
        self.look().map(|newest| newest.map(|(_, head)| head))
    }

    /// Writes a head to the slot that doesn't hold the newest one. Returns when it is durable and was read back.
    ///
    /// # Errors
    /// Where it isn't known to be there; the head before it is still whole.
    pub fn write(&mut self, head: &Head) -> Result<(), String> {
        // What can't be read is written over.
        let (slot, last) = match self.look().ok().flatten() {
            Some((slot, newest)) => (1 - slot, newest.sequence),
            None => (0, 0),
        };
        let sequence = last.checked_add(1).ok_or("the sequence of its heads is used up")?;
        let block = Head { sequence, ..head.clone() }.encode();
        self.put(slot, &block)?;
        self.flush()?;
        // A device that forgets what it has taken would let an image be tried for ever.
        match self.disk.read(slot) {
            Ok(found) if found == block => Ok(()),
            Ok(_) => Err(format!("slot {slot} of its heads does not keep what is written to it")),
            Err(error) => Err(format!("read slot {slot} of its heads back: {error}")),
        }
    }

    /// From now on there is no image; returns when that is durable.
    ///
    /// # Errors
    /// Where that isn't known.
    pub fn destroy(&mut self) -> Result<(), String> {
        for slot in SLOTS {
            self.put(slot, &[0; RECORD])?;
        }
        self.flush()
    }

    fn put(&mut self, slot: u64, block: &Block) -> Result<(), String> {
        let told = |error: D::Error| format!("write slot {slot} of its heads: {error}");
        self.disk.write(slot, block).map_err(told)
    }

    fn flush(&mut self) -> Result<(), String> {
        self.disk.flush().map_err(|error| format!("flush its heads: {error}"))
    }

    fn look(&mut self) -> Result<Option<(u64, Head)>, String> {
        let mut newest: Option<(u64, Head)> = None;
        let mut why = None;
        for slot in SLOTS {
            let told = |error: &dyn std::fmt::Display| format!("slot {slot} of its heads: {error}");
            match self.disk.read(slot) {
                Ok(block) => match Head::decode(&block, self.room) {
                    Ok(head) => {
                        if newest.as_ref().is_none_or(|(_, other)| other.sequence < head.sequence) {
                            newest = Some((slot, head));
                        }
                    }
                    Err(Unreadable::Foreign) => {}
                    Err(error) => why = Some(told(&error)),
                },
                Err(error) => why = Some(told(&error)),
            }
        }
        match (newest, why) {
            (None, Some(why)) => Err(why),
            (newest, _) => Ok(newest),
        }
    }
}

#[cfg(test)]
mod tests;

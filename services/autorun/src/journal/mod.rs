//! The journal: two records on a raw device, of which the newer whole one counts. A new record goes to the other slot, so that
//! whatever happens while it is written, the one before it is still there. Never on a file system that an image holds mounted.

mod record;

pub use self::record::{
    Block, Entry, Mark, NameHash, RECORD, Record, Stage, TARGETS_MAX, Unreadable,
};

const SLOTS: [u64; 2] = [0, 1];

/// Where the two slots are: block 0 and block 1. Reads and writes pass every cache, so that what a flush has confirmed is there
/// after a power cut, and what is read is what the device has.
pub trait Disk {
    /// What went wrong, for a person.
    type Error: std::fmt::Display;

    /// # Errors
    /// Where the device can't be read there.
    fn read(&mut self, slot: u64) -> Result<Box<Block>, Self::Error>;

    /// # Errors
    /// Where it can't be written there.
    fn write(&mut self, slot: u64, block: &Block) -> Result<(), Self::Error>;

    /// # Errors
    /// Where it doesn't say that all is on the medium.
    fn flush(&mut self) -> Result<(), Self::Error>;
}

/// Two slots on a disk. Keeps nothing in memory: an image would bring it back from an earlier life.
#[derive(Debug)]
pub struct Journal<D>(D);

/// What both slots hold.
struct Found {
    newest: Option<(u64, Record)>,
    /// Why there is none.
    why: String,
    /// Of these one could not even be read.
    failed: bool,
}

impl<D: Disk> Journal<D> {
    pub fn new(disk: D) -> Self {
        Self(disk)
    }

    /// The newest whole record; nothing where none was ever written.
    ///
    /// # Errors
    /// Where there is no whole record, and there may have been one.
    pub fn read(&mut self) -> Result<Option<Record>, String> {
        let found = self.look();
        match found.newest {
            Some((_, record)) => Ok(Some(record)),
            None if found.failed => Err(found.why),
            None => Ok(None),
        }
    }

    /// Writes a record to the slot that doesn't hold the newest one, with the sequence that follows that one's or the record's
    /// own, whichever is higher. Returns when it is durable, with that sequence.
    ///
    /// # Errors
    /// Where it isn't known to be durable; the record before it is still whole.
    pub fn write(&mut self, record: &Record) -> Result<u64, String> {
        let (slot, last) = match self.look().newest {
            Some((slot, newest)) => (1 - slot, newest.sequence),
            None => (0, 0),
        };
        let sequence = last
            .checked_add(1)
            .ok_or("the journal's sequence is used up; write zeros over it")?
            .max(record.sequence);
        let block = Record { sequence, ..record.clone() }.encode();
        let told = |error: D::Error| format!("write slot {slot} of the journal: {error}");
        self.0.write(slot, &block).map_err(told)?;
        self.0.flush().map_err(|error| format!("flush the journal: {error}"))?;
        Ok(sequence)
    }

    fn look(&mut self) -> Found {
        let mut found = Found { newest: None, why: String::new(), failed: false };
        for slot in SLOTS {
            let why = match self.0.read(slot) {
                Ok(block) => match Record::decode(&block) {
                    Ok(record) => {
                        let newer = |(_, newest): &(u64, Record)| newest.sequence < record.sequence;
                        if found.newest.as_ref().is_none_or(newer) {
                            found.newest = Some((slot, record));
                        }
                        continue;
                    }
                    // A disk that was never written to, or a first write that was torn: there was no record.
                    Err(Unreadable::Foreign) => continue,
                    Err(why) => why.to_string(),
                },
                Err(error) => error.to_string(),
            };
            found.failed = true;
            found.why = format!("slot {slot} of the journal: {why}");
        }
        found
    }
}

#[cfg(test)]
pub(crate) mod tests;

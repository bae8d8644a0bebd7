//! The supervisor's memory across its own death: an append-only file on tmpfs, one checksummed line of JSON a record.
//!
//! Layout of an entry: length u32, CRC-32 u32 (both little-endian), then that many bytes of JSON. A torn last entry, left by
//! a kill in the middle of a write, is cut off when the file is opened; it was never acknowledged. The file is replaced by a
//! compact one, by rename, when most of it is out of date.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use protocol::{heartbeat::Key, name::Name};
use serde::{Deserialize, Serialize};

use super::merge::Message;
use crate::machine::Record;

/// Compacted when it is larger than this and more than four times what is still true.
const COMPACT_ABOVE: u64 = 256 * 1024;
/// One entry: a message (bounded by the frame limit) and some wrapping.
const ENTRY_MAX: usize = 2 * 1024 * 1024;
const HEAD: usize = 8;

/// One line of the journal. Never printed: it may hold a key.
#[derive(Clone, Deserialize, Serialize)]
enum Entry {
    /// The machine's memory of a slot.
    Machine(Record),
    /// A definition that came by message, as it is after merging.
    Message { service: Name, message: Message },
    /// The service's message-made definition is gone.
    Deleted { service: Name },
    /// Under which number and with which key (in hexadecimal digits) a start of the slot reports its heartbeats.
    Key { slot: u32, generation: u32, app_id: i32, key: String },
    /// How somebody wants the hardware watchdog to be fed.
    Watchdog(Feeding),
}

/// What of the hardware watchdog a caller can change.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Feeding {
    pub(crate) run: bool,
    pub(crate) magic_close: bool,
    pub(crate) timeout_s: u16,
    pub(crate) frequency_s: u16,
}

/// The secret of one start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Handed {
    pub(crate) generation: u32,
    pub(crate) app_id: i32,
    pub(crate) key: Key,
}

/// What is still true: the last record of every slot, the message of every service that has one.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) slots: BTreeMap<u32, Record>,
    pub(crate) messages: BTreeMap<Name, Message>,
    /// The last key that every slot got.
    pub(crate) keys: BTreeMap<u32, Handed>,
    /// What triggers still have to do, by service.
    pub(crate) queues: BTreeMap<Name, Record>,
    /// Which change was taken last, by package.
    pub(crate) taken: BTreeMap<String, Record>,
    /// The boot as a whole.
    pub(crate) boot: Option<Record>,
    /// How the hardware watchdog is fed, where somebody changed that.
    pub(crate) watchdog: Option<Feeding>,
}

/// What every live key's last entry weighs, and the sum, which every append asks for.
#[derive(Debug, Default)]
struct Weights {
    slots: BTreeMap<u32, usize>,
    messages: BTreeMap<Name, usize>,
    keys: BTreeMap<u32, usize>,
    queues: BTreeMap<Name, usize>,
    taken: BTreeMap<String, usize>,
    boot: Option<usize>,
    watchdog: Option<usize>,
    sum: u64,
}

impl Weights {
    /// One key's weight was `old` and is `new`; a key that isn't there weighs nothing.
    fn changed(&mut self, old: Option<usize>, new: usize) {
        self.sum = self.sum - old.unwrap_or(0) as u64 + new as u64;
    }
}

/// The open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    size: u64,
    /// Bytes that a compact file would have, roughly: what each live key weighed last, and all of it.
    weights: Weights,
    memory: Memory,
    /// The last write failed: said once, and the next append tries to start the file anew.
    broken: bool,
}

impl Journal {
    /// Opens or creates the journal in `folder` and reads what it remembers.
    ///
    /// # Errors
    /// Where the folder can't be written at all.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join("journal");
        let mut file = open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut journal = Self {
            path,
            file,
            size: 0,
            weights: Weights::default(),
            memory: Memory::default(),
            broken: false,
        };
        let mut at = 0;
        while let Some(body) = next_body(&bytes[at..]) {
            at += HEAD + body.len();
            match serde_json::from_slice(body) {
                Ok(entry) => journal.remember(entry, HEAD + body.len()),
                // Another version's: what it promised about other slots and services still counts.
                Err(error) => tracing::warn!(
                    "journal {}: an entry is skipped: {error}",
                    journal.path.display()
                ),
            }
        }
        if at < bytes.len() {
            tracing::warn!(
                "journal {}: {} bytes at its end are torn or foreign; they are dropped",
                journal.path.display(),
                bytes.len() - at
            );
            journal.file.set_len(at as u64)?;
        }
        journal.size = at as u64;
        Ok(journal)
    }

    /// Reads the journal in `folder` without changing it: every whole entry must be one that we understand.
    ///
    /// # Errors
    /// Where it can't be read, or an entry with a right checksum means nothing to us.
    pub(crate) fn check(folder: &Path) -> anyhow::Result<()> {
        let path = folder.join("journal");
        let bytes = fs::read(&path).with_context(|| format!("journal {}", path.display()))?;
        let mut at = 0;
        while let Some(body) = next_body(&bytes[at..]) {
            serde_json::from_slice::<Entry>(body)
                .with_context(|| format!("journal {}: the entry at byte {at}", path.display()))?;
            at += HEAD + body.len();
        }
        Ok(())
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Appends the machine's record.
    pub(crate) fn record(&mut self, record: Record) -> io::Result<()> {
        let entry = Entry::Machine(record);
        match (encode(&entry), entry) {
            (Ok(bytes), entry) => self.append_encoded(entry, &bytes),
            // Too much for one entry: a part of it is better than nothing.
            (Err(_), Entry::Machine(Record::Together(records))) => {
                records.into_iter().try_for_each(|record| self.record(record))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Remembers a service's message-made definition, in the place of an older one.
    ///
    /// # Errors
    /// Where it is too long or can't be written; then it is not remembered, and the older one is.
    pub(crate) fn message(&mut self, service: Name, message: Message) -> io::Result<()> {
        let before = self.memory.messages.get(&service).cloned();
        let weight = self.weights.messages.get(&service).copied().unwrap_or(0);
        let remembered = self.append(Entry::Message { service: service.clone(), message });
        if remembered.is_err() {
            // Who sent it is told so; a later, compact file must not bring it back.
            let entry = match before {
                Some(message) => Entry::Message { service, message },
                None => Entry::Deleted { service },
            };
            self.remember(entry, weight);
        }
        remembered
    }

    /// A message that was remembered was refused after all: the one before it counts again, if there was one.
    pub(crate) fn take_back(
        &mut self,
        service: Name,
        refused: &Message,
        before: Option<Message>,
    ) -> io::Result<()> {
        if self.memory.messages.get(&service) != Some(refused) {
            // A later message is there already.
            return Ok(());
        }
        match before {
            Some(message) => self.message(service, message),
            None => self.deleted(service),
        }
    }

    /// Forgets a service's message-made definition.
    pub(crate) fn deleted(&mut self, service: Name) -> io::Result<()> {
        if !self.memory.messages.contains_key(&service) {
            return Ok(());
        }
        self.append(Entry::Deleted { service })
    }

    /// Remembers how the hardware watchdog is to be fed.
    pub(crate) fn watchdog(&mut self, feeding: Feeding) -> io::Result<()> {
        self.append(Entry::Watchdog(feeding))
    }

    /// Remembers the key of a slot's next start.
    pub(crate) fn key(&mut self, slot: u32, handed: Handed) -> io::Result<()> {
        self.append(key_entry(slot, &handed))
    }

    fn append(&mut self, entry: Entry) -> io::Result<()> {
        let bytes = encode(&entry)?;
        self.append_encoded(entry, &bytes)
    }

    fn append_encoded(&mut self, entry: Entry, bytes: &[u8]) -> io::Result<()> {
        self.remember(entry, bytes.len());
        let too_old = self.size > COMPACT_ABOVE && self.size > 4 * self.weights.sum;
        let written = if too_old || self.broken { self.compact() } else { self.write(bytes) };
        if let (Err(error), false) = (&written, self.broken) {
            tracing::error!(
                "journal {}: {error}; a restart of the supervisor may forget the latest changes",
                self.path.display()
            );
        }
        self.broken = written.is_err();
        written
    }

    /// One write(2); what a short one left is cut off again, so that the next entry starts cleanly.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            self.file.set_len(self.size)?;
            return Err(error);
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn compact(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        let memory = &self.memory;
        let records = memory.slots.values().chain(memory.queues.values());
        for record in records.chain(memory.taken.values()).chain(&memory.boot) {
            bytes.extend(encode(&Entry::Machine(record.clone()))?);
        }
        for (service, message) in &self.memory.messages {
            let entry = Entry::Message { service: service.clone(), message: message.clone() };
            bytes.extend(encode(&entry)?);
        }
        for (slot, handed) in &self.memory.keys {
            bytes.extend(encode(&key_entry(*slot, handed))?);
        }
        if let Some(feeding) = memory.watchdog {
            bytes.extend(encode(&Entry::Watchdog(feeding))?);
        }
        let fresh = self.path.with_extension("new");
        let _ = fs::remove_file(&fresh);
        let mut file = open(&fresh)?;
        file.write_all(&bytes)?;
        fs::rename(&fresh, &self.path)?;
        self.file = file;
        self.size = bytes.len() as u64;
        Ok(())
    }

    fn remember(&mut self, entry: Entry, length: usize) {
        let weights = &mut self.weights;
        match entry {
            Entry::Machine(Record::Forgotten { slot }) => {
                self.memory.slots.remove(&slot);
                let old = weights.slots.remove(&slot);
                weights.changed(old, 0);
                self.memory.keys.remove(&slot);
                let old = weights.keys.remove(&slot);
                weights.changed(old, 0);
            }
            Entry::Machine(Record::Queue(record)) if record.is_empty() => {
                self.memory.queues.remove(&record.service);
                let old = weights.queues.remove(&record.service);
                weights.changed(old, 0);
            }
            Entry::Machine(Record::Queue(record)) => {
                let old = weights.queues.insert(record.service.clone(), length);
                weights.changed(old, length);
                self.memory.queues.insert(record.service.clone(), Record::Queue(record));
            }
            Entry::Machine(Record::Taken(record)) if record.digest.is_none() => {
                self.memory.taken.remove(&record.package);
                let old = weights.taken.remove(&record.package);
                weights.changed(old, 0);
            }
            Entry::Machine(Record::Taken(record)) => {
                let old = weights.taken.insert(record.package.clone(), length);
                weights.changed(old, length);
                self.memory.taken.insert(record.package.clone(), Record::Taken(record));
            }
            Entry::Machine(Record::Boot(record)) => {
                let old = weights.boot.replace(length);
                weights.changed(old, length);
                self.memory.boot = Some(Record::Boot(record));
            }
            Entry::Watchdog(feeding) => {
                let old = weights.watchdog.replace(length);
                weights.changed(old, length);
                self.memory.watchdog = Some(feeding);
            }
            Entry::Machine(Record::Together(records)) => {
                let each = length / records.len().max(1);
                for record in records {
                    self.remember(Entry::Machine(record), each);
                }
            }
            Entry::Machine(Record::Instance(record)) => {
                let old = weights.slots.insert(record.slot, length);
                weights.changed(old, length);
                self.memory.slots.insert(record.slot, Record::Instance(record));
            }
            Entry::Message { service, message } => {
                let old = weights.messages.insert(service.clone(), length);
                weights.changed(old, length);
                self.memory.messages.insert(service, message);
            }
            Entry::Deleted { service } => {
                let old = weights.messages.remove(&service);
                weights.changed(old, 0);
                self.memory.messages.remove(&service);
            }
            Entry::Key { slot, generation, app_id, key } => {
                // Another version's: that start can't be spoken for, the next one gets a key again.
                let Some(key) = key_of_digits(&key) else { return };
                let old = weights.keys.insert(slot, length);
                weights.changed(old, length);
                self.memory.keys.insert(slot, Handed { generation, app_id, key });
            }
        }
    }
}

fn key_entry(slot: u32, handed: &Handed) -> Entry {
    let Handed { generation, app_id, key } = *handed;
    Entry::Key { slot, generation, app_id, key: digits(&key) }
}

/// A key as the journal and the broker get it.
pub(crate) fn digits(key: &Key) -> String {
    key.0.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn key_of_digits(digits: &str) -> Option<Key> {
    let mut key = [0; 16];
    if digits.len() != 2 * key.len() || !digits.is_ascii() {
        return None;
    }
    for (octet, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *octet = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Key(key))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

fn encode(entry: &Entry) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(entry)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    if body.len() > ENTRY_MAX {
        // Written, it would be taken for the torn end of the file, and everything after it with it.
        let text = format!("an entry of {length} bytes is too long, at most {ENTRY_MAX} are kept");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.extend(length.to_le_bytes());
    bytes.extend(crc32fast::hash(&body).to_le_bytes());
    bytes.extend(body);
    Ok(bytes)
}

/// The first entry's JSON, if it is whole and its checksum is right.
fn next_body(bytes: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let length = usize::try_from(number(0)?).ok().filter(|length| *length <= ENTRY_MAX)?;
    let body = bytes.get(HEAD..HEAD + length)?;
    (crc32fast::hash(body) == number(4)?).then_some(body)
}

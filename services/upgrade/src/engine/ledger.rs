//! What outlasts an upgrade: what is known of each slot, which slots are in use, the rollback floors, and the history.
//! Decides nothing; every change is durable when its function returns.

use std::{
    collections::BTreeMap,
    io::{self, Error},
};

use protocol::upgrade::{Entry, SlotState};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::contract::{Fact, Letter, Platform, Record};
use crate::records::Records;

const ACTIVE: [u8; 8] = *b"VUPACTIV";
const FLOOR: [u8; 8] = *b"VUPFLOOR";
const SLOTS: &str = "slots.json";
const HISTORY: &str = "history.json";
const FILE_MAX: usize = 128 << 10;
/// Entries of the history; the oldest go first.
const HISTORY_MAX: usize = 128;
/// Bytes of the history as a file.
const HISTORY_BYTES: usize = 64 << 10;
/// Permissions that are remembered as used.
const USED_MAX: usize = 16;

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    slots: BTreeMap<String, [Known; 2]>,
    active: (Records, Active),
    floor: (Records, Floors),
    history: Vec<Entry>,
    /// What could not be read, for the log; it counts as not known.
    pub(crate) complaints: Vec<String>,
}

/// What is known of a slot.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Known {
    pub(crate) state: SlotState,
    #[serde(flatten)]
    pub(crate) fact: Fact,
}

/// Which slots are in use, of components that are restarted.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Active {
    /// Components that use their slot B; all others use A.
    b: Vec<String>,
    /// Components that use the other slot, as long as `set` is absent or runs.
    pub(crate) trial: Vec<String>,
    pub(crate) set: Option<Letter>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
struct Floors {
    floors: BTreeMap<String, u64>,
    /// SHA-256 of permissions that were used up.
    used: Vec<String>,
}

impl Default for Known {
    fn default() -> Self {
        Self { state: SlotState::Empty, fact: Fact::default() }
    }
}

impl Ledger {
    /// # Errors
    /// Where the two-record files can't be read: without them nothing may be believed.
    pub(crate) fn open<P: Platform>(platform: &mut P) -> io::Result<Self> {
        let mut ledger = Self {
            active: open(platform, Record::Active, &ACTIVE)?,
            floor: open(platform, Record::Floor, &FLOOR)?,
            ..Self::default()
        };
        ledger.slots = ledger.file(platform, SLOTS)?;
        ledger.history = ledger.file(platform, HISTORY)?;
        Ok(ledger)
    }

    /// A file that is damaged costs only itself.
    fn file<P: Platform, T: DeserializeOwned + Default>(
        &mut self,
        platform: &mut P,
        name: &str,
    ) -> io::Result<T> {
        let Some(bytes) = platform.store().read(name, FILE_MAX)? else { return Ok(T::default()) };
        serde_json::from_slice(&bytes).or_else(|error| {
            self.complaints.push(format!("{name} is damaged and counts as empty: {error}"));
            Ok(T::default())
        })
    }

    pub(crate) fn slot(&self, component: &str, letter: Letter) -> Known {
        self.slots.get(component).map(|pair| pair[letter.index()].clone()).unwrap_or_default()
    }

    /// Changes what is known of slots: one write for all of them, none where nothing changes.
    pub(crate) fn note_slots<'a, P: Platform>(
        &mut self,
        platform: &mut P,
        changes: impl IntoIterator<Item = (&'a str, Letter, Known)>,
    ) -> io::Result<()> {
        let mut slots = self.slots.clone();
        for (component, letter, known) in changes {
            slots.entry(component.to_owned()).or_default()[letter.index()] = known;
        }
        if slots != self.slots {
            replace(platform, SLOTS, &slots)?;
            self.slots = slots;
        }
        Ok(())
    }

    /// The slot in use, of a component that is restarted.
    pub(crate) fn active(&self, component: &str, running: Option<Letter>) -> Letter {
        let active = &self.active.1;
        let letter = self.settled(component);
        let tried = active.set.is_none() || active.set == running;
        let on_trial = tried && active.trial.iter().any(|name| name == component);
        if on_trial { letter.other() } else { letter }
    }

    /// The slot that is in use without a trial.
    pub(crate) fn settled(&self, component: &str) -> Letter {
        match self.active.1.b.iter().any(|name| name == component) {
            true => Letter::B,
            false => Letter::A,
        }
    }

    /// Uses the other slots of these components: at once, or where a set is named, while that runs.
    pub(crate) fn try_other<P: Platform>(
        &mut self,
        platform: &mut P,
        components: Vec<String>,
        set: Option<Letter>,
    ) -> io::Result<()> {
        let next = Active { trial: components, set, ..self.active.1.clone() };
        self.write_active(platform, next)
    }

    /// What is on trial, and the slots that it uses.
    pub(crate) fn trial(&self) -> Vec<(String, Letter)> {
        let names = self.active.1.trial.iter();
        names.map(|name| (name.clone(), self.settled(name).other())).collect()
    }

    /// Ends a trial: from now on these slots are in use.
    pub(crate) fn settle<'a, P: Platform>(
        &mut self,
        platform: &mut P,
        slots: impl IntoIterator<Item = (&'a str, Letter)>,
    ) -> io::Result<()> {
        let mut next = Active { b: self.active.1.b.clone(), ..Active::default() };
        for (component, letter) in slots {
            next.b.retain(|name| name != component);
            if letter == Letter::B {
                next.b.push(component.to_owned());
            }
        }
        next.b.sort();
        self.write_active(platform, next)
    }

    fn write_active<P: Platform>(&mut self, platform: &mut P, next: Active) -> io::Result<()> {
        if next == self.active.1 {
            return Ok(());
        }
        write(platform, Record::Active, &ACTIVE, &mut self.active.0, &next)?;
        self.active.1 = next;
        Ok(())
    }

    /// The lowest rollback index that is still taken, as far as it was recorded.
    pub(crate) fn floor(&self, component: &str) -> u64 {
        self.floor.1.floors.get(component).copied().unwrap_or(0)
    }

    /// Sets floors, and remembers which permissions are used up.
    pub(crate) fn set_floors<'a, P: Platform>(
        &mut self,
        platform: &mut P,
        floors: impl IntoIterator<Item = (&'a str, u64)>,
        used: &[&str],
    ) -> io::Result<()> {
        let mut next = self.floor.1.clone();
        for (component, floor) in floors {
            next.floors.insert(component.to_owned(), floor);
        }
        let new = used.iter().filter(|used| !self.is_used(used));
        next.used.extend(new.map(|used| (*used).to_owned()));
        if next == self.floor.1 {
            return Ok(());
        }
        write(platform, Record::Floor, &FLOOR, &mut self.floor.0, &next)?;
        self.floor.1 = next;
        Ok(())
    }

    pub(crate) fn is_used(&self, permission: &str) -> bool {
        self.floor.1.used.iter().any(|used| used == permission)
    }

    /// No permission more can be remembered as used, so none is taken.
    pub(crate) fn used_up(&self) -> bool {
        self.floor.1.used.len() >= USED_MAX
    }

    pub(crate) fn history(&self) -> &[Entry] {
        &self.history
    }

    /// Adds to the history, unless its last entry says the same already.
    pub(crate) fn record<P: Platform>(&mut self, platform: &mut P, entry: Entry) -> io::Result<()> {
        if self
            .history
            .last()
            .is_some_and(|last| last.state == entry.state && last.transaction == entry.transaction)
        {
            return Ok(());
        }
        let sequence = self.history.last().map_or(1, |last| last.sequence + 1);
        let mut history = self.history.clone();
        history.push(Entry { sequence, ..entry });
        while history.len() > HISTORY_MAX || too_long(&history)? {
            history.remove(0);
        }
        replace(platform, HISTORY, &history)?;
        self.history = history;
        Ok(())
    }
}

fn too_long(history: &[Entry]) -> io::Result<bool> {
    let bytes = serde_json::to_vec(history).map_err(Error::other)?;
    Ok(bytes.len() > HISTORY_BYTES && history.len() > 1)
}

fn replace<P: Platform>(platform: &mut P, name: &str, value: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(Error::other)?;
    platform.store().replace(name, &bytes)
}

fn open<P: Platform, T: DeserializeOwned + Default>(
    platform: &mut P,
    record: Record,
    magic: &[u8; 8],
) -> io::Result<(Records, T)> {
    let (records, contents) = Records::open(platform.record(record)?, magic)?;
    match contents {
        None => Ok((records, T::default())),
        Some(contents) => Ok((records, serde_json::from_slice(&contents).map_err(Error::other)?)),
    }
}

fn write<P: Platform>(
    platform: &mut P,
    record: Record,
    magic: &[u8; 8],
    records: &mut Records,
    value: &impl Serialize,
) -> io::Result<()> {
    let contents = serde_json::to_vec(value).map_err(Error::other)?;
    records.write(platform.record(record)?, magic, &contents)
}

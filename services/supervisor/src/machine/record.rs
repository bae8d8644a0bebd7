//! What the journal keeps, so that a supervisor that is killed anywhere knows what the one before it had promised.

use protocol::{name::Name, time::Moment};
use serde::{Deserialize, Serialize};

use super::{backoff::Backoff, critical::Crashes};

/// One line of the journal. The last record of a key counts. Message-made definitions are journalled by the shell,
/// before it hands them to the machine.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) enum Record {
    /// The instance's whole memory. Key: the slot.
    Instance(Box<InstanceRecord>),
    /// The slot is free. Key: the slot.
    Forgotten { slot: u32 },
}

/// One instance's whole memory.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct InstanceRecord {
    pub(crate) slot: u32,
    pub(crate) service: Name,
    pub(crate) instance: Name,
    /// The desired state: up.
    pub(crate) wanted: bool,
    /// A restart was promised, and its stop has not ended yet.
    pub(crate) again: bool,
    /// The last generation that was seen.
    pub(crate) generation: u32,
    /// The last generation whose end was dealt with.
    pub(crate) ended: u32,
    /// Since when `generation` is ready.
    pub(crate) ready_at: Option<Moment>,
    /// Where the instance rests, if nothing of it runs.
    pub(crate) rest: Rest,
    pub(crate) backoff: Backoff,
    pub(crate) crashes: Crashes,
    pub(crate) restarts: u32,
    /// How the last run ended, in words.
    pub(crate) reason: String,
    /// Fingerprint of the definition that the running process was made from.
    pub(crate) made_from: u64,
    /// A watchdog period that the instance or procd's `watchdog` asked for, in milliseconds.
    pub(crate) watchdog_ms: Option<u64>,
}

/// Why nothing of an instance runs, as far as it can't be derived from its definition.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) enum Rest {
    #[default]
    None,
    /// Respawned at that moment.
    Pausing {
        until: Moment,
        delayed: bool,
    },
    Done {
        fulfilled: bool,
    },
    Held {
        reason: String,
    },
    Failed {
        reason: String,
    },
}

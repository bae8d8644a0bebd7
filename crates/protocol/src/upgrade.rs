//! The `upgrade` object: how a bundle is pushed, and how an upgrade stands.
//!
//! Bulk data is raw: `begin`, `pages`, `chunk`, `keyring` and `permission` take bytes as their arguments, in the layouts below.
//! The rest is JSON.

use serde::{Deserialize, Serialize};

use crate::objects::{ArgumentKind as Kind, Description, version};

/// Topic of a [`Progress`]; at most ten a second, and one at the end.
pub const PROGRESS: &str = "upgrade.progress";
/// Topic of a [`Status`], whenever its state changes.
pub const STATE: &str = "upgrade.state";

/// The number of the page that is the table of a component's pages.
pub const PAGE_TABLE: u32 = u32::MAX;
/// Bytes of numbers before the data of `pages` and `chunk`: u64 session, u32 component, u32 number, little-endian.
pub const HEAD: usize = 16;

/// What the object offers.
#[must_use]
pub fn description() -> Description {
    const SESSION: (&str, Kind, bool) = ("session", Kind::Integer, true);
    Description::new("vestal.upgrade", version(1, 0))
        .method(
            "begin",
            &[],
            "raw: a bundle's header, signatures and manifest; `VESTALU1`, flags before it",
            "Begun; of a dry run one whose session is 0 and names nothing",
        )
        .method(
            "pages",
            &[],
            "raw: head, then the table of pages or one page of a component's index",
            "raw: a bitmap of the chunks that are wanted, the first one in the lowest bit",
        )
        .method("chunk", &[], "raw: head, then the stored bytes of a chunk", "")
        .method(
            "finish",
            &[SESSION, ("activate", Kind::Boolean, false)],
            "begin to read back and verify all slots, then to activate; how it goes on tell `status` and the event upgrade.state",
            "Status, at once: verifying",
        )
        .method("activate", &[], "activate what was written", "Status")
        .method("abort", &[], "give a transfer up; what was written is used by the next one", "")
        .method("confirm", &[], "keep what is on trial", "Status")
        .method(
            "rollback",
            &[("component", Kind::String, false)],
            "go back to the other slots",
            "Status",
        )
        .method("status", &[], "how it stands", "Status")
        .method("slots", &[], "what is where", "Slots")
        .method("history", &[], "what was done, newest last", "a list of Entry")
        .method("identity", &[], "who this device is to a host", "Identity")
        .method(
            "keyring",
            &[],
            "raw: a keyring, then its signatures; a newer one replaces the device's",
            "the version",
        )
        .method(
            "permission",
            &[],
            "raw: u32 length of a permission, the permission, its signatures; one bundle may go below a rollback floor once",
            "",
        )
        .event(PROGRESS)
        .event(STATE)
}

/// What a push begins with, before the bundle's own bytes: `VESTALU1`, then u32 flags, little-endian.
pub const BEGIN_MAGIC: [u8; 8] = *b"VESTALU1";
/// Flag: take a bundle without a valid signature. Only from root, on the Unix socket, and with an [`Approval`].
pub const ALLOW_UNSIGNED: u32 = 1;
/// Flag: check everything, write nothing. No transfer is begun: the session is 0, and the components are those that would be
/// sent.
pub const DRY_RUN: u32 = 2;

/// What root on the device approves, beside the call: a file that only root can write. What is said on the socket passes through
/// a process that also speaks with the network, and is not enough.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Approval {
    /// `begin` with [`ALLOW_UNSIGNED`]: of the bundle's header, signatures and manifest.
    Unsigned,
    /// `keyring` where the device has none yet: of the whole argument.
    Keyring,
}

impl Approval {
    /// Below `STATE_DIR/upgrade`; made by the agent, for its writer's user alone.
    pub const FOLDER: &str = "approved";

    /// The name of a plain file, by the SHA-256 of what is approved, in hexadecimal digits.
    #[must_use]
    pub fn file(self, hash: &str) -> String {
        match self {
            Self::Unsigned => format!("unsigned-{hash}"),
            Self::Keyring => format!("keyring-{hash}"),
        }
    }

    /// Who writes such a file.
    #[must_use]
    pub fn command(self) -> &'static str {
        match self {
            Self::Unsigned => "vestalctl upgrade install --allow-unsigned",
            Self::Keyring => "vestalctl upgrade keyring install",
        }
    }
}

/// What `begin` answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Begun {
    /// Names this transfer in every later call.
    pub session: u64,
    /// So many calls of `chunk` may be under way.
    pub window: u32,
    /// In the manifest's order; what need not be sent at all is left out.
    pub components: Vec<u32>,
    /// Everything that the bundle carries is what runs already: nothing is to be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub current: bool,
}

/// `finish`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Finish {
    pub session: u64,
    /// Absent: as the device's configuration says, which is yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activate: Option<bool>,
}

/// `rollback`. Without a component: everything the last upgrade changed.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rollback {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
}

/// Where an upgrade stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing is under way.
    #[default]
    Idle,
    /// Chunks come in and are written to passive slots.
    Receiving,
    /// Slots are read back and hashed.
    Verifying,
    /// Everything is in its slot and verified; not yet in use.
    Written,
    /// In use as soon as the device has rebooted.
    Activated,
    /// In use; not yet known to be good.
    Trial,
    /// In use and good.
    Confirmed,
    /// The old slots are in use again.
    RolledBack,
    /// It ended before anything was activated.
    Failed,
    #[serde(other)]
    Unknown,
}

/// What `status` answers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    pub state: State,
    /// The letter of the set that runs; absent on a device without boot control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<char>,
    /// The transaction: absent while nothing was ever begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<Transaction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Why it failed or went back, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One upgrade, from `begin` to its end.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Transaction {
    /// The first 16 hexadecimal digits of the manifest's SHA-256.
    pub id: String,
    pub version: String,
    pub components: Vec<String>,
    /// Seconds since 1970, by a clock that may be wrong.
    pub since: u64,
    /// `uid 0`, or the fingerprint of an operator's key.
    pub who: String,
}

/// How far a transfer is.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Progress {
    pub state: State,
    /// Bytes of slots that say what they shall say.
    pub done: u64,
    pub total: u64,
    /// Bytes of slots that came from the host, as they are without compression.
    pub received: u64,
    /// Bytes that were written to slots.
    pub written: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
}

/// A row of what `slots` answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Slot {
    pub component: String,
    /// `A` or `B`.
    pub letter: char,
    pub target: String,
    pub state: SlotState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_index: Option<u64>,
    /// SHA-256 of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Boots that the loader still tries, of a set on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
}

/// What a slot is good for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotState {
    /// In use.
    Active,
    /// In use, on trial.
    Trial,
    /// Whole, and not in use.
    Good,
    /// Written, verified, next to be used.
    Next,
    /// Being written, or left in the middle.
    Writing,
    /// It failed its trial or its verification.
    Bad,
    /// Nothing is known of what it holds.
    Empty,
    #[serde(other)]
    Unknown,
}

/// One line of the history.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entry {
    pub sequence: u64,
    pub time: u64,
    pub state: State,
    pub transaction: Transaction,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How long what was switched was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage_ms: Option<u64>,
}

/// What `identity` answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Identity {
    pub product: String,
    pub revision: String,
    /// SHA-256 of the device's public key, in hexadecimal digits: what a host pins.
    pub fingerprint: String,
    /// 0: there is no keyring, and every bundle is refused.
    pub keyring: u64,
    /// The public key, in hexadecimal digits.
    pub key: String,
}

/// The arguments of `permission`.
#[must_use]
pub fn permission(permission: &[u8], signatures: &[u8]) -> Vec<u8> {
    // One that is longer than such a number is refused by its length all the same.
    let length = u32::try_from(permission.len()).unwrap_or(u32::MAX);
    [&length.to_le_bytes()[..], permission, signatures].concat()
}

/// Puts the numbers before the data of `pages` and `chunk`.
#[must_use]
pub fn head(session: u64, component: u32, number: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&session.to_le_bytes());
    head[8..12].copy_from_slice(&component.to_le_bytes());
    head[12..].copy_from_slice(&number.to_le_bytes());
    head
}

/// Takes the numbers off: session, component, number, and the data. Nothing where there are too few bytes.
#[must_use]
pub fn split_head(bytes: &[u8]) -> Option<(u64, u32, u32, &[u8])> {
    let (session, rest) = bytes.split_first_chunk::<8>()?;
    let (component, rest) = rest.split_first_chunk::<4>()?;
    let (number, data) = rest.split_first_chunk::<4>()?;
    let word = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    Some((u64::from_le_bytes(*session), word(component), word(number), data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_off_as_it_was_put_on_and_a_short_one_is_none() {
        let mut bytes = head(7, 1, PAGE_TABLE).to_vec();
        assert_eq!(split_head(&bytes), Some((7, 1, PAGE_TABLE, &[][..])));
        bytes.push(9);
        assert_eq!(split_head(&bytes), Some((7, 1, PAGE_TABLE, &[9][..])));
        assert_eq!(split_head(&bytes[..15]), None);
    }
}

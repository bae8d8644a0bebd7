//! How far an upgrade is, in two records of 4 KiB: written before each step, read after each crash.

use std::io;

use protocol::upgrade::State;
use serde::{Deserialize, Serialize};

use super::contract::{Letter, Platform, Record};
use crate::records::Records;

const MAGIC: [u8; 8] = *b"VUPJOURN";
/// Bytes of a reason, and of remarks; what is longer is cut.
const REASON_MAX: usize = 400;

/// What the journal says.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Note {
    pub(crate) state: State,
    /// What the state demands may not all be done: it is done again at the next start.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) pending: bool,
    /// Which of the two files describes the transaction.
    pub(crate) plan: PlanFile,
    /// SHA-256 of the manifest, in hexadecimal digits.
    pub(crate) id: String,
    /// The set that was switched to; absent where no set takes part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) letter: Option<Letter>,
    /// The boot in which it was activated, or in which a slot failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) boot: String,
    /// Everything before this chunk of this component is in its slot, flushed.
    #[serde(skip_serializing_if = "Position::is_start")]
    pub(crate) at: Position,
    /// What was written is no good.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) bad: bool,
    /// In this boot a slot failed: what reads show of it may never have reached it, so all of it is written again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) fresh: bool,
    /// What is verified is activated.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) activate: bool,
    /// Starts of this program that found it on trial.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) starts: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    /// What was noted while it was switched, for the history.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) remarks: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outage_ms: Option<u64>,
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct Position {
    /// Place in the transaction's list.
    pub(crate) component: usize,
    pub(crate) chunk: u32,
}

/// Two files take turns, so that the transaction that the journal names is never the one being replaced.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PlanFile {
    #[default]
    One,
    Two,
}

/// The two records.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    records: Records,
    pub(crate) note: Note,
}

impl Journal {
    /// Reads what the journal says; an empty one says that nothing was ever begun.
    ///
    /// # Errors
    /// Where it can't be read, or was written by a program that knew other words.
    pub(crate) fn open<P: Platform>(platform: &mut P) -> io::Result<Self> {
        let (records, contents) = Records::open(platform.record(Record::Journal)?, &MAGIC)?;
        let note = match contents {
            None => Note::default(),
            Some(contents) => serde_json::from_slice(&contents).map_err(io::Error::other)?,
        };
        Ok(Self { records, note })
    }

    /// Replaces what the journal says. Afterwards it is certain.
    ///
    /// # Errors
    /// As the disk's; the old note is then still what counts here.
    pub(crate) fn write<P: Platform>(&mut self, platform: &mut P, note: Note) -> io::Result<()> {
        let note = Note { reason: cut(note.reason), remarks: cut(note.remarks), ..note };
        let contents = serde_json::to_vec(&note).map_err(io::Error::other)?;
        self.records.write(platform.record(Record::Journal)?, &MAGIC, &contents)?;
        self.note = note;
        Ok(())
    }
}

impl Position {
    fn is_start(&self) -> bool {
        *self == Self::default()
    }
}

impl PlanFile {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "transaction-1.json",
            Self::Two => "transaction-2.json",
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn cut(mut reason: String) -> String {
    if reason.len() > REASON_MAX {
        let end = (0..=REASON_MAX).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
        reason.truncate(end);
    }
    reason
}

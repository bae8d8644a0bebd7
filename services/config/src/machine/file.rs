//! One watched file: what was last announced of it, and how it stands against that. Also what a look at files brings.

use std::sync::Arc;

use protocol::config::{Change, Unreadable};

/// The whole path of a file.
pub(crate) type FilePath = Arc<str>;
/// SHA-256.
pub(crate) type Digest = [u8; 32];

/// Names in the three lists of a change, and bytes of them, that are told; a message has to hold them.
const NAMES_MAX: usize = 512;
const NAME_BYTES_MAX: usize = 32 << 10;

/// What a file said when it was announced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Announced {
    /// Of the canonical form.
    pub(crate) digest: Digest,
    /// SHA-256 of its bytes, by which they are kept; `None` where they aren't.
    pub(crate) content: Option<Digest>,
    /// MD5 of `uci show`, where OpenWrt's scripts want it.
    pub(crate) md5: Option<[u8; 16]>,
}

/// A change that the supervisor hasn't taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pending {
    /// `None`: the file is gone.
    pub(crate) to: Option<Announced>,
    pub(crate) change: Change,
    /// It is to be announced; in manual mode somebody has to say so.
    pub(crate) released: bool,
}

/// How a file stands against what was announced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    Current,
    Changed(Box<Pending>),
    /// What was announced stays in force.
    Failed(Unreadable),
}

#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) source: usize,
    pub(crate) announced: Option<Announced>,
    pub(crate) standing: Standing,
    /// Looks in a row that found it being written.
    pub(crate) moving: u32,
    /// Nobody knows whether the supervisor has taken the change that is pending. It is announced again before anything
    /// else is believed: the supervisor may act on it already, and then going back is a change as well.
    pub(crate) redo: bool,
}

/// Why a change was not taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NotTaken {
    pub(crate) why: String,
    /// It may have been taken all the same: the answer is what was lost.
    pub(crate) perhaps: bool,
}

/// What the worker is to look at.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Look {
    /// All files of all sources, and whether there are others now.
    pub(crate) everything: bool,
    /// The files that are known, or meant, with what was announced of each.
    pub(crate) files: Vec<Known>,
    /// Sources of which a file is not announced the first time: the names in it need not be told.
    pub(crate) silent: Vec<usize>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Known {
    pub(crate) path: FilePath,
    pub(crate) source: usize,
    pub(crate) announced: Option<Announced>,
}

/// What a look has found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Looked {
    pub(crate) everything: bool,
    pub(crate) readings: Vec<Reading>,
    /// Sources that can't be looked into at the moment; nothing is said of their files.
    pub(crate) away: Vec<usize>,
    /// What a person should know; of all sources, where everything was looked at.
    pub(crate) problems: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) path: FilePath,
    pub(crate) source: usize,
    pub(crate) found: Found,
}

#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// It says what was announced.
    Same(Announced),
    /// It says something else, or (`None`) is gone.
    Other(Option<Announced>, Change),
    /// It isn't there, and nothing was announced of it.
    Nothing,
    /// It was written to whenever it was read.
    Moving,
    Failed(Unreadable),
}

impl File {
    pub(crate) fn new(source: usize) -> Self {
        Self { source, announced: None, standing: Standing::Current, moving: 0, redo: false }
    }

    pub(crate) fn pending(&self) -> Option<&Pending> {
        match &self.standing {
            Standing::Changed(pending) => Some(pending),
            _ => None,
        }
    }

    /// A change that is to be announced.
    pub(crate) fn due(&self) -> Option<&Pending> {
        self.pending().filter(|pending| pending.released)
    }

    /// It was not seen to be gone.
    pub(crate) fn is_there(&self) -> bool {
        self.pending().is_none_or(|pending| pending.to.is_some())
    }

    pub(crate) fn release(&mut self) {
        if let Standing::Changed(pending) = &mut self.standing {
            pending.released = true;
        }
    }

    pub(crate) fn error(&self) -> Option<&Unreadable> {
        match &self.standing {
            Standing::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// The name of a file, which is the package's.
pub(crate) fn package(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The digits of a digest.
pub(crate) fn digits(digest: &[u8]) -> String {
    // A record has thousands of them: one by one through the formatter they take half of its time.
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    digest.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Cuts the lists of names to what a message may hold.
pub(crate) fn shorten(change: &mut Change) {
    let (mut names, mut bytes, mut cut) = (0, 0, false);
    for list in [&mut change.changed, &mut change.added, &mut change.removed] {
        let full = |name: &String| {
            names += 1;
            bytes += name.len();
            names > NAMES_MAX || bytes > NAME_BYTES_MAX
        };
        if let Some(fitting) = list.iter().position(full) {
            list.truncate(fitting);
            cut = true;
        }
    }
    change.more |= cut;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_with_more_names_than_fit_is_cut_and_says_so() {
        let names = |count: usize| (0..count).map(|at| format!("s.{at}")).collect::<Vec<_>>();
        let mut change = Change { changed: names(500), added: names(20), ..Change::default() };
        shorten(&mut change);
        assert_eq!((change.changed.len(), change.added.len(), change.more), (500, 12, true));
        let mut change = Change { removed: vec!["x".repeat(40 << 10)], ..Change::default() };
        shorten(&mut change);
        assert!(change.removed.is_empty() && change.more);
        let mut change = Change { changed: names(512), ..Change::default() };
        shorten(&mut change);
        assert!(change.changed.len() == 512 && !change.more);
    }
}

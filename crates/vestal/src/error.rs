//! Why a command did not do what was asked, and the exit code that says so to scripts.

use std::{fmt::Display, io, path::Path};

/// The exit codes that scripts branch on. They are a promise: none ever changes its meaning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    /// Refused, or tried in vain.
    Failed = 1,
    /// No such file, or nothing of that name on the device.
    NotFound = 3,
    /// The device does not answer.
    Unreachable = 4,
    TimedOut = 5,
}

/// What is printed on stderr, and the exit code.
#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) exit: Exit,
    pub(crate) text: String,
}

impl Error {
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, text: text.into() }
    }

    /// What was wrong with a file.
    pub(crate) fn file(path: &Path, error: impl Display) -> Self {
        Self::failed(format!("{}: {error}", path.display()))
    }

    /// The system's answer about a file; `doing` is what was tried.
    pub(crate) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        let exit =
            if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Self { exit, text: format!("{doing} {}: {error}", path.display()) }
    }
}

//! Why a command of `uci` was not done: the words that scripts look for, and the exit code of `uci add`.

use std::io;

use uci::{Problem, Refused};

/// What libuci knows to say.
#[derive(Debug)]
pub(in crate::applets) enum Trouble {
    Invalid,
    NotFound,
    Io,
    /// With what is wrong, where it is known.
    Parse(Option<Problem>),
    /// The command itself: the usage is shown.
    Usage,
    /// Said already, or nothing to say.
    Silent,
}

impl Trouble {
    /// What libuci prints.
    pub(in crate::applets) fn text(&self) -> String {
        match self {
            Self::Invalid => "Invalid argument".to_owned(),
            Self::NotFound => "Entry not found".to_owned(),
            Self::Io => "I/O error".to_owned(),
            Self::Parse(None) => "Parse error".to_owned(),
            Self::Parse(Some(problem)) => parse_error(problem),
            Self::Usage | Self::Silent => String::new(),
        }
    }

    /// libuci's number.
    pub(in crate::applets) fn code(&self) -> u8 {
        match self {
            Self::Silent => 1,
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Io => 4,
            Self::Parse(_) => 5,
            Self::Usage => 255,
        }
    }
}

/// A line that can't be read.
pub(super) fn parse_error(problem: &Problem) -> String {
    let Problem { line, column, text } = problem;
    format!("Parse error ({text}) at line {line}, byte {}", column.saturating_sub(1))
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Syntax(_) => Self::Parse(None),
            Refused::NotFound(_) => Self::NotFound,
            Refused::Invalid(_) => Self::Invalid,
        }
    }
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Parse(Some(problem))
    }
}

impl From<io::Error> for Trouble {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

//! Why a call did not work, each as an errno for whoever branches and with what to do for whoever reads.

use std::{io, path::PathBuf};

use protocol::failure::{Code, Failure};
use rustix::io::Errno;
use thiserror::Error;

/// Why a call did not work.
#[derive(Debug, Error)]
pub enum Error {
    /// The driver's own answer.
    #[error("the driver answered {}", io::Error::from_raw_os_error(*.0))]
    Driver(i32),
    /// Nobody serves the driver.
    #[error("driver {name} is not reached at {}: {source}; does driver.toml name it, and is it loaded? see `vestalctl driver list`", .path.display())]
    Unreachable { name: String, path: PathBuf, source: io::Error },
    /// The host or the manager does not carry it out.
    #[error("driver {name}: {failure}")]
    Refused { name: String, failure: Box<Failure> },
    /// It may have been carried out, or may still be.
    #[error("driver {name} did not answer {method} within {after_ms} ms")]
    Timeout { name: String, method: &'static str, after_ms: u128 },
    /// More than one call carries.
    #[error("{length} bytes exceed the limit of {limit} of one call")]
    TooLong { length: usize, limit: usize },
    /// The name, or an operation's name, is none.
    #[error("{0}")]
    Invalid(String),
    /// The handle was closed, perhaps by another thread.
    #[error("the handle is closed")]
    Closed,
    /// The handle belongs to the process that opened it.
    #[error(
        "opened by process {opened_by}, used by process {used_by} after a fork: open the driver there"
    )]
    Forked { opened_by: u32, used_by: u32 },
    /// What came is not what was agreed on.
    #[error("driver {name}: {text}; is the host of another version than this library?")]
    Violation { name: String, text: String },
}

impl Error {
    /// The errno that says the most about it; never 0.
    #[must_use]
    pub fn errno(&self) -> i32 {
        let errno = match self {
            Self::Driver(errno) => return *errno,
            Self::Unreachable { .. } => Errno::NODEV,
            Self::Refused { failure, .. } => refused(failure.code),
            Self::Timeout { .. } => Errno::TIMEDOUT,
            Self::TooLong { .. } => Errno::MSGSIZE,
            Self::Invalid(_) => Errno::INVAL,
            Self::Closed | Self::Forked { .. } => Errno::BADF,
            Self::Violation { .. } => Errno::PROTO,
        };
        errno.raw_os_error()
    }
}

fn refused(code: Code) -> Errno {
    match code {
        Code::NotFound => Errno::NODEV,
        Code::Denied => Errno::ACCESS,
        Code::Busy => Errno::BUSY,
        Code::InvalidArgument => Errno::INVAL,
        Code::UnknownMethod | Code::Unsupported => Errno::NOSYS,
        Code::Timeout => Errno::TIMEDOUT,
        Code::Gone => Errno::BADF,
        Code::Limit => Errno::NOBUFS,
        Code::Cancelled => Errno::INTR,
        Code::Failed | Code::Unknown => Errno::IO,
    }
}

//! Why a call failed, one variant for each thing a caller may do about it.

use std::{io, path::PathBuf, time::Duration};

use protocol::failure::Failure;
use thiserror::Error;

/// Why a call brought no result.
#[derive(Debug, Error)]
pub enum CallError {
    /// Nobody answers on the socket.
    #[error("cannot reach {}: {source}; {}", path.display(), cure(source))]
    Unreachable { path: PathBuf, source: io::Error },
    /// No answer within the call's deadline.
    #[error("{object}.{method} did not answer within {after:?}")]
    Timeout { object: String, method: String, after: Duration },
    /// The other side answered that it won't, or can't.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The connection ended after the call was sent: nobody knows whether it was carried out.
    #[error(
        "the connection to {} ended while {object}.{method} was running: {reason}; it may or may not have been done",
        path.display()
    )]
    Lost { path: PathBuf, object: String, method: String, reason: String },
    /// The two sides don't understand each other.
    #[error("{} does not speak this protocol: {text}", path.display())]
    Violation { path: PathBuf, text: String },
    /// The call can't be sent as it is: arguments that are no JSON, or too long.
    #[error("{object}.{method} cannot be called so: {text}")]
    Invalid { object: String, method: String, text: String },
}

fn cure(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "is the daemon running, and is this its run directory?",
        io::ErrorKind::ConnectionRefused => "the daemon that made this socket is gone; start it",
        io::ErrorKind::PermissionDenied => "use a user that may open the socket",
        _ => "see what the daemon logged",
    }
}
